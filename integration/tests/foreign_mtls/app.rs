//! An app that speaks first and then does as it is told by one byte, and tells the test how each connection ended.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_integration::PATIENCE;
use postern_integration::apps::App;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What it says before it has heard anything.
pub(crate) const GREETING: [u8; 6] = *b"hello\n";

/// Send everything back; end when the caller has.
pub(crate) const ECHO: u8 = b'e';
/// End at once, and go on reading.
pub(crate) const LISTEN: u8 = b'l';
/// Close the connection at once.
pub(crate) const CLOSE: u8 = b'c';

#[derive(Debug)]
pub(crate) struct ToldApp {
    pub(crate) address: SocketAddr,
    orders: Arc<AtomicUsize>,
    ends: UnboundedReceiver<End>,
    _app: App,
}

/// How many bytes came after the order, and how the caller's direction ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) bytes: u64,
    pub(crate) how: io::Result<()>,
}

impl ToldApp {
    pub(crate) async fn start() -> Self {
        let (told, ends) = unbounded_channel();
        let orders = Arc::new(AtomicUsize::new(0));
        let count = orders.clone();
        let app = App::serve(move |stream| serve(stream, count.clone(), told.clone())).await;
        Self { address: app.address, orders, ends, _app: app }
    }

    /// From how many connections it has heard a byte.
    pub(crate) fn heard(&self) -> usize {
        self.orders.load(Ordering::Relaxed)
    }

    /// The next that ends.
    pub(crate) async fn end(&mut self) -> End {
        let next = tokio::time::timeout(PATIENCE, self.ends.recv()).await;
        next.expect("no connection of the app ended").unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    orders: Arc<AtomicUsize>,
    told: UnboundedSender<End>,
) -> io::Result<()> {
    stream.write_all(&GREETING).await?;
    let order = stream.read_u8().await?;
    orders.fetch_add(1, Ordering::Relaxed);
    let (mut read, mut write) = stream.into_split();
    let mut bytes = 0;
    let how = match order {
        ECHO => echo(&mut read, &mut write, &mut bytes).await,
        LISTEN => {
            write.shutdown().await?;
            tokio::io::copy(&mut read, &mut tokio::io::sink()).await.map(|copied| bytes = copied)
        }
        CLOSE => Ok(()),
        other => panic!("no such order: {other}"),
    };
    // A test that has seen enough does not listen any more.
    let _not_asked_for = told.send(End { bytes, how });
    Ok(())
}

async fn echo(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    bytes: &mut u64,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = read.read(&mut buffer).await?;
        if read == 0 {
            return write.shutdown().await;
        }
        *bytes += read as u64;
        write.write_all(&buffer[..read]).await?;
    }
}
