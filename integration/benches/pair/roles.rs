//! The processes around the sidecars: a backend that echoes or swallows, and a plain relay.

use std::net::SocketAddr;

use postern_integration::Program;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A first byte of this value asks the backend to swallow all that follows and to say at the end how much it was.
pub(crate) const SINK: u8 = b'S';
/// Of an answer over HTTP.
pub(crate) const HTTP_BODY_BYTES: usize = 1024;
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) address: SocketAddr,
    program: Program,
}

impl Role {
    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

pub(crate) async fn start_backend() -> Role {
    start(&["role", "backend"]).await
}

pub(crate) async fn start_http_backend() -> Role {
    start(&["role", "http"]).await
}

pub(crate) async fn start_relay(to: SocketAddr) -> Role {
    start(&["role", "relay", &to.to_string()]).await
}

async fn start(args: &[&str]) -> Role {
    let program = Program::start(&args.join(" "), &std::env::current_exe().unwrap(), args);
    let line = program.line_with(&["listening on "]).await;
    let address = line.trim_start_matches("listening on ").parse().unwrap();
    Role { address, program }
}

/// Runs as one of the roles until killed.
pub(crate) fn run(mut args: impl Iterator<Item = String>) {
    let role = args.next();
    let to = args.next().map(|address| address.parse::<SocketAddr>().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("listening on {}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            match (role.as_deref(), to) {
                (Some("relay"), Some(to)) => tokio::spawn(relay(stream, to)),
                (Some("http"), _) => tokio::spawn(http_backend(stream)),
                _ => tokio::spawn(backend(stream)),
            };
        }
    });
}

async fn relay(mut near: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut far = TcpStream::connect(to).await?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}

async fn backend(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut read = stream.read(&mut buffer).await?;
    if buffer.first() == Some(&SINK) {
        let mut total = read as u64;
        while read > 0 {
            read = stream.read(&mut buffer).await?;
            total += read as u64;
        }
        return stream.write_u64(total).await;
    }
    // An idle connection's backend holds no buffer either: the machine has other things to hold.
    while read > 0 {
        stream.write_all(&buffer[..read]).await?;
        buffer.truncate(1024);
        buffer.shrink_to_fit();
        read = stream.read(&mut buffer).await?;
    }
    Ok(())
}

/// Answers each request without a body; a request never comes in more than one piece here.
async fn http_backend(mut stream: TcpStream) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {HTTP_BODY_BYTES}\r\n\r\n");
    let answer = [head.as_bytes(), &[b'a'; HTTP_BODY_BYTES]].concat();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let requests = buffer[..read].windows(4).filter(|four| *four == b"\r\n\r\n").count();
        stream.write_all(&answer.repeat(requests)).await?;
    }
}
