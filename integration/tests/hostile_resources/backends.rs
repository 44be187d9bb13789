//! Apps that refuse, flap, hang, end half-way or break off: the caller sees what happened, never a clean end instead.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_integration::apps::App;
use postern_integration::shop::Shop;
use postern_integration::{CaOptions, eventually, free_port, refused};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(20);
const BODY_BYTES: usize = 256 * 1024;

/// An app at an address where it may be or not.
struct Flapping {
    address: SocketAddr,
    app: Option<JoinSet<()>>,
}

impl Flapping {
    fn new() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], free_port())), app: None }
    }

    /// Echoes from now on.
    fn up(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(echo(stream));
            }
        });
        self.app = Some(tasks);
    }

    /// Nobody listens any more, and those who were served are reset.
    async fn down(&mut self) {
        if let Some(mut tasks) = self.app.take() {
            tasks.shutdown().await;
        }
    }
}

async fn echo(mut stream: TcpStream) {
    // It ends as if its process were killed.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    let (mut read, mut write) = stream.split();
    // The client's side is what is looked at.
    let _ended = tokio::io::copy(&mut read, &mut write).await;
}

async fn before(app: SocketAddr, extra: &str) -> Shop {
    let shop = Shop::start_at(CaOptions::default(), app, extra).await;
    shop.payments.ready().await;
    shop
}

/// Sends a word, and is reset.
async fn is_reset(shop: &Shop) {
    refused::is_reset(shop.orders_to_payments(), b"word").await;
}

async fn served(shop: &Shop) -> Option<()> {
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.ok()?;
    stream.write_all(b"word").await.ok()?;
    stream.read_exact(&mut [0; 4]).await.ok().map(|_| ())
}

#[tokio::test]
async fn an_app_that_refuses_is_a_reset_that_is_told_and_once_it_is_there_it_is_served() {
    let mut app = Flapping::new();
    let shop = before(app.address, "").await;
    is_reset(&shop).await;
    shop.payments.program.line_with(&["refused", "app_unreachable", &app.address.to_string()]).await;
    app.up();
    served(&shop).await.unwrap();
}

#[tokio::test]
async fn an_app_that_flaps_is_served_whenever_it_is_there_and_never_ends_cleanly() {
    let mut app = Flapping::new();
    let shop = before(app.address, "").await;
    for _ in 0..20 {
        app.up();
        let mut open = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
        open.write_all(b"word").await.unwrap();
        open.read_exact(&mut [0; 4]).await.unwrap();
        app.down().await;
        let end = tokio::time::timeout(PATIENCE, open.read(&mut [0; 1])).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "whom it served");
        is_reset(&shop).await;
    }
    for sidecar in [&shop.orders, &shop.payments] {
        eventually("nothing is left", async || {
            (sidecar.status().await["connections"]["live"] == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_app_that_accepts_nobody_is_given_up_after_the_limit() {
    // A listener whose queue is full answers nobody.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let deaf: TcpListener = socket.listen(1).unwrap();
    let address = deaf.local_addr().unwrap();
    let queue = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let shop = before(address, "[limits]\nconnect_timeout = \"500ms\"\n").await;
    let started = Instant::now();
    is_reset(&shop).await;
    assert!(started.elapsed() >= Duration::from_millis(500), "as long as it was promised");
    shop.payments.program.line_with(&["refused", "app_unreachable"]).await;
    drop(queue);
}

/// An app that reads nothing and says nothing keeps its own callers waiting, whose end reaches it, and nobody else.
#[tokio::test]
async fn an_app_that_hangs_holds_its_own_callers_only_and_little_for_them() {
    const CALLERS: usize = 8;
    let (entered, mut enters) = tokio::sync::mpsc::channel(CALLERS);
    let hanging = App::serve(move |mut stream: TcpStream| {
        let entered = entered.clone();
        async move {
            let first = stream.read_u8().await?;
            if first == b'w' {
                return echo_from(stream, first).await;
            }
            entered.send(()).await.map_err(std::io::Error::other)?;
            std::future::pending().await
        }
    })
    .await;
    // A caller that is reset while nobody takes what it has sent is noticed by the look at stalled connections.
    let shop = before(hanging.address, "").await;
    served(&shop).await.unwrap();
    let before = shop.payments.program.resident_kib();
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
        stream.write_all(b"h").await.unwrap();
        enters.recv().await.unwrap();
        callers.push(stream);
    }
    // As much as is taken, by whom nothing is read.
    for stream in &mut callers {
        while let Ok(Ok(1..)) =
            tokio::time::timeout(Duration::from_millis(50), stream.write(&[7; 64 * 1024])).await
        {}
    }
    served(&shop).await.unwrap();
    let held = shop.payments.program.resident_kib() - before;
    assert!(held < CALLERS as u64 * 256 + 4 * 1024, "{held} KiB held for {CALLERS} callers");
    for stream in &callers {
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(callers);
    eventually("their end reaches it", async || {
        (shop.payments.status().await["connections"]["live"] == 0).then_some(())
    })
    .await;
}

async fn echo_from(mut stream: TcpStream, first: u8) -> std::io::Result<()> {
    stream.write_u8(first).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

#[tokio::test]
async fn an_app_that_ends_its_half_is_still_heard_and_spoken_to() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let app = App::serve(move |mut stream: TcpStream| {
        let heard = heard.clone();
        async move {
            stream.write_all(&[b'b'; BODY_BYTES]).await?;
            stream.shutdown().await?;
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest).await;
            heard.send((rest, end.is_ok())).await.map_err(std::io::Error::other)
        }
    })
    .await;
    let shop = before(app.address, "").await;
    let mut stream = TcpStream::connect(shop.orders_to_payments()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.len(), BODY_BYTES);
    stream.write_all(b"after its end").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), (b"after its end".to_vec(), true));
}

#[tokio::test]
async fn an_app_that_breaks_off_in_the_middle_is_a_reset_however_much_it_had_said() {
    for said in [0, 1, 16 * 1024, BODY_BYTES] {
        let app = App::serve(move |mut stream: TcpStream| async move {
            stream.read_u8().await?;
            stream.write_all(&vec![b'b'; said]).await?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        })
        .await;
        let shop = before(app.address, "").await;
        let (answer, end) = refused::call(shop.orders_to_payments(), b"word").await;
        assert!(answer.len() <= said && answer.iter().all(|byte| *byte == b'b'));
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "after {said} bytes");
    }
}
