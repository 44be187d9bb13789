//! The processes around the proxies: a backend that answers or swallows, and a plain relay.

use std::net::SocketAddr;
use std::sync::LazyLock;

use postern_integration::Program;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Bulk comes in blocks of [`BLOCK_BYTES`], of which the first byte says whether another follows. The backend swallows
/// them and then says how many bytes came: no proxy has to carry half an end for that.
pub(crate) const MORE: u8 = b'S';
pub(crate) const LAST: u8 = b'L';
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;
/// Of an answer to a request without a body.
pub(crate) const ANSWER_BYTES: usize = 1024;
/// What the plain relay and the backend read at once.
const BUFFER_BYTES: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 4096;
/// Threads of a role.
pub(crate) const WORKERS: usize = 2;

/// Addresses of a backend: a client that connects to them in turn has their number times as many ports.
pub(crate) const BACKEND_ADDRESSES: usize = 8;

/// A started role, and where it listens.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) program: Program,
}

pub(crate) async fn start_backend() -> Role {
    start(&["role", "backend"]).await
}

pub(crate) async fn start_relay(to: SocketAddr) -> Role {
    start(&["role", "relay", &to.to_string()]).await
}

async fn start(args: &[&str]) -> Role {
    let program = Program::start(&args.join(" "), &std::env::current_exe().unwrap(), args);
    let line = program.line_with(&["listening on "]).await;
    let addresses = line.trim_start_matches("listening on ").split(' ');
    Role { addresses: addresses.map(|address| address.parse().unwrap()).collect(), program }
}

/// Runs as one of the roles until killed.
pub(crate) fn run(mut args: impl Iterator<Item = String>) {
    let to = args.nth(1).map(|address| address.parse::<SocketAddr>().unwrap());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().worker_threads(WORKERS).build().unwrap();
    runtime.block_on(async move {
        let (mut addresses, mut accepting) = (Vec::new(), JoinSet::new());
        for _ in 0..to.map_or(BACKEND_ADDRESSES, |_| 1) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap().to_string());
            accepting.spawn(accept(listener, to));
        }
        println!("listening on {}", addresses.join(" "));
        accepting.join_all().await;
    });
}

async fn accept(listener: TcpListener, relay_to: Option<SocketAddr>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        match relay_to {
            Some(to) => tokio::spawn(relay(stream, to)),
            None => tokio::spawn(backend(stream)),
        };
    }
}

async fn relay(mut near: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut far = TcpStream::connect(to).await?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}

async fn backend(mut stream: TcpStream) -> std::io::Result<()> {
    // Small, for it is held by thousands of idle connections.
    let (mut buffer, mut filled) = ([0; HEAD_BYTES_MAX], 0);
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        if filled == 0 && [MORE, LAST].contains(&buffer[0]) {
            return count_blocks(stream, buffer[0], read).await;
        }
        filled += read;
        while let Some(end) = head_end(&buffer[..filled]) {
            let body = content_length(&buffer[..end]);
            let come = body.min((filled - end) as u64);
            buffer.copy_within(end + come as usize..filled, 0);
            filled -= end + come as usize;
            swallow(&mut stream, body - come).await?;
            answer(&mut stream, body).await?;
        }
    }
}

/// Swallows blocks of which `come` bytes came already, and answers with the count of bytes.
async fn count_blocks(mut stream: TcpStream, mut kind: u8, mut come: usize) -> std::io::Result<()> {
    let (mut buffer, mut total) = (vec![0; BUFFER_BYTES], 0);
    loop {
        while come < BLOCK_BYTES {
            let now = BUFFER_BYTES.min(BLOCK_BYTES - come);
            let read = stream.read(&mut buffer[..now]).await?;
            if read == 0 {
                return Ok(());
            }
            (kind, come) = (if come == 0 { buffer[0] } else { kind }, come + read);
        }
        total += come as u64;
        if kind == LAST {
            return stream.write_u64(total).await;
        }
        come = 0;
    }
}

/// Reads and forgets the rest of a body.
async fn swallow(stream: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    let mut rest = stream.take(bytes);
    let mut buffer = vec![0; if bytes > 0 { BUFFER_BYTES } else { 0 }];
    while rest.limit() > 0 && rest.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// As much as came, or 1 KiB where nothing came.
async fn answer(stream: &mut TcpStream, body: u64) -> std::io::Result<()> {
    static USUAL: LazyLock<Vec<u8>> = LazyLock::new(|| whole_answer(ANSWER_BYTES));
    if body == 0 {
        stream.write_all(&USUAL).await
    } else {
        stream.write_all(&whole_answer(body as usize)).await
    }
}

fn whole_answer(body_bytes: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {body_bytes}\r\n\r\n");
    [head.as_bytes(), &vec![b'a'; body_bytes]].concat()
}

pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Zero where the head does not say.
fn content_length(head: &[u8]) -> u64 {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    assert!(!head.contains("transfer-encoding"), "only lengths are understood here: {head}");
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.map_or(0, |value| value.trim().parse().unwrap())
}
