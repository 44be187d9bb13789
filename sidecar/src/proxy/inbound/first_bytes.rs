//! Checks whether a connection starts with TLS.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::refusal::{RefusedConnection, Stage};

/// A TLS record that carries handshake messages (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// Bytes read to recognize the protocol.
const LOOK_BYTES: usize = 16;

const HTTP_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    This port speaks mutual TLS only. Call the service through your own sidecar.\n";

/// A TLS record with the fatal alert `internal_error` (RFC 8446 §6): the failure is not the peer's.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Refuses a TLS client because the sidecar has no valid identity.
pub(super) async fn refuse_unready(mut stream: TcpStream) -> TcpStream {
    if let Err(error) = stream.write_all(&INTERNAL_ERROR).await {
        tracing::debug!(%error, "a client did not wait for its answer");
    }
    stream
}

/// Waits for the first byte without consuming it. Plain HTTP is answered in HTTP.
pub(super) async fn expect_tls(mut stream: TcpStream) -> Result<TcpStream, RefusedConnection> {
    let mut look = [0; LOOK_BYTES];
    let seen = match stream.peek(&mut look).await {
        Ok(seen) => look.get(..seen).unwrap_or_default(),
        Err(_) => return Err(RefusedConnection::at(Stage::Silent)),
    };
    match seen.first() {
        Some(&HANDSHAKE_RECORD) => Ok(stream),
        None => Err(RefusedConnection::at(Stage::Silent)),
        Some(_) => {
            let looks_like = looks_like(seen);
            if looks_like == "plaintext HTTP"
                && let Err(error) = stream.write_all(HTTP_ANSWER.as_bytes()).await
            {
                tracing::debug!(%error, "a plaintext client did not wait for its answer");
            }
            Err(RefusedConnection { stage: Stage::NotTls { looks_like }, stream: Some(stream) })
        }
    }
}

fn looks_like(bytes: &[u8]) -> &'static str {
    const METHODS: [&str; 9] =
        ["GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PATCH "];
    if bytes.starts_with(b"PRI * HTTP/2") {
        "plaintext HTTP/2"
    } else if bytes.starts_with(b"SSH-") {
        "SSH"
    } else if METHODS.iter().any(|method| bytes.starts_with(method.as_bytes())) {
        "plaintext HTTP"
    } else if bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT") {
        "the PROXY protocol"
    } else {
        "no protocol we know"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_recognized_by_their_first_bytes() {
        assert_eq!(looks_like(b"GET / HTTP/1.1\r\n"), "plaintext HTTP");
        assert_eq!(looks_like(b"PRI * HTTP/2.0\r\n"), "plaintext HTTP/2");
        assert_eq!(looks_like(b"SSH-2.0-OpenSSH"), "SSH");
        assert_eq!(looks_like(b"\0\0\0"), "no protocol we know");
    }
}
