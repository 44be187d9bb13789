//! HTTP/2 by hand, over mTLS: frames that no honest client sends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use postern_proto::identity::{Svid, TrustBundles};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::counted::Counted;
use crate::tls;

/// RFC 9113 §3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags; `ACK` of SETTINGS and PING has the same bit.
pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;

/// Settings (RFC 9113 §6.5.2).
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A whole frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// SETTINGS with these values.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let one = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &values.iter().flat_map(one).collect::<Vec<_>>())
}

/// A header block whose fields are all literals that no table keeps (RFC 7541 §6.2.2).
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let one = |(name, value): &(N, V)| [vec![0], string(name.as_ref()), string(value.as_ref())].concat();
    fields.iter().flat_map(one).collect()
}

/// A field that the table keeps (RFC 7541 §6.2.1).
pub fn kept(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0x40], string(name), string(value)].concat()
}

/// A string literal without Huffman's code (RFC 7541 §5.2).
fn string(text: &[u8]) -> Vec<u8> {
    [integer(0, 7, text.len()), text.to_vec()].concat()
}

/// An integer behind the first bits of its byte (RFC 7541 §5.1).
pub fn integer(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    let Some(mut left) = value.checked_sub(most) else { return vec![first | value as u8] };
    let mut bytes = vec![first | most as u8];
    while left >= 128 {
        bytes.push((left % 128) as u8 | 128);
        left /= 128;
    }
    bytes.push(left as u8);
    bytes
}

/// A request of `method` for `path`, as a block.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    block(&[(":method", method), (":scheme", "https"), (":authority", "payments"), (":path", path)])
}

/// A frame that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Heard {
    /// The error code of RST_STREAM or GOAWAY (RFC 9113 §7).
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().unwrap()))
    }
}

/// What a hostile peer says.
#[derive(Debug)]
pub struct Mouth(WriteHalf<TlsStream<Counted>>);

/// What it hears.
#[derive(Debug)]
pub struct Ears(ReadHalf<TlsStream<Counted>>);

/// Connects as `svid`, and says the preface and these settings. What goes over TCP is added to `sent`.
pub async fn connect(
    to: std::net::SocketAddr,
    svid: &Svid,
    bundles: Arc<TrustBundles>,
    sent: &Arc<AtomicU64>,
    values: &[(u16, u32)],
) -> io::Result<(Mouth, Ears)> {
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    let tls = tls::over(Counted::new(tcp, sent.clone()), Some(svid), bundles, &[b"h2"]).await?;
    let (ears, mouth) = tokio::io::split(tls);
    let mut mouth = Mouth(mouth);
    mouth.say(&[PREFACE, &settings(values)].concat()).await?;
    Ok((mouth, Ears(ears)))
}

impl Mouth {
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }
}

impl Ears {
    /// The next frame; none at the connection's end, however it came.
    pub async fn next(&mut self) -> Option<Heard> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Heard { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Everything up to the connection's end, by kind alone; the code of the last GOAWAY.
    pub async fn until_end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(heard) = self.next().await {
            code = if heard.kind == GOAWAY { heard.code() } else { code };
        }
        code
    }
}
