//! Joins two bodies into one byte stream, as for an extended CONNECT (RFC 8441 §5).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::body::BodyError;
use crate::proxy::relay::AppStream;

/// Most bytes per piece.
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Pieces queued until the receiver has capacity.
const PIECES_MAX: usize = 1;

/// A body that a [`BodyWriter`] writes.
#[derive(Debug)]
pub(super) struct PipedBody {
    pieces: mpsc::Receiver<Piece>,
    has_ended: bool,
}

/// Writes a body. The body fails if this is dropped without an end.
pub(super) struct BodyWriter(PollSender<Piece>);

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// The writer of a body was dropped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the stream was given up before its end")]
pub(super) struct WriterDropped;

/// A body and its writer.
pub(super) fn piped() -> (PipedBody, BodyWriter) {
    let (send, pieces) = mpsc::channel(PIECES_MAX);
    (PipedBody { pieces, has_ended: false }, BodyWriter(PollSender::new(send)))
}

impl PipedBody {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WriterDropped>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Piece::End) => {
                self.has_ended = true;
                None
            }
            None => Some(Err(WriterDropped)),
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

impl BodyWriter {
    fn poll_send(&mut self, cx: &mut Context<'_>, piece: impl FnOnce() -> Piece) -> Poll<io::Result<()>> {
        let gone = |_| io::ErrorKind::BrokenPipe.into();
        ready!(self.0.poll_reserve(cx)).map_err(gone)?;
        Poll::Ready(self.0.send_item(piece()).map_err(gone))
    }

    /// Ends an empty body.
    pub(super) fn end_empty(self) {
        if let Some(send) = self.0.get_ref() {
            // There is room for one piece. A receiver that was dropped needs none.
            let _taken = send.try_send(Piece::End);
        }
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// Reads from one body and writes to another.
pub(super) struct Duplex {
    incoming: Box<dyn Body<Data = Bytes, Error = BodyError> + Send + Unpin>,
    /// Received and not read yet.
    unread: Bytes,
    outgoing: BodyWriter,
}

impl Duplex {
    pub(super) fn new(
        incoming: impl Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
        outgoing: BodyWriter,
    ) -> Self {
        Self { incoming: Box::new(incoming), unread: Bytes::new(), outgoing }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)).transpose().map_err(io::Error::other)? {
                Some(frame) => self.unread = frame.into_data().unwrap_or_default(),
                None => return Poll::Ready(Ok(())),
            }
        }
        let some = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..some).unwrap_or_default());
        self.unread.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let some = bytes.get(..bytes.len().min(PIECE_BYTES_MAX)).unwrap_or_default();
        if some.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.outgoing.poll_send(cx, || Piece::Data(Bytes::copy_from_slice(some))))?;
        Poll::Ready(Ok(some.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The receiver of the body reads all of it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_send(cx, || Piece::End)
    }
}

impl AppStream for Duplex {
    /// The receiver was dropped: the stream was reset.
    fn take_error(&self) -> Option<io::Error> {
        self.outgoing.0.is_closed().then(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl fmt::Debug for Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Duplex").field("unread", &self.unread.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A body that another duplex writes.
    struct Other(PipedBody);

    impl Body for Other {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.poll(cx).map_err(|gone| BodyError::Broken(gone.into()))
        }
    }

    fn pair() -> (Duplex, Duplex) {
        let ((one, to_one), (other, to_other)) = (piped(), piped());
        (Duplex::new(Other(one), to_other), Duplex::new(Other(other), to_one))
    }

    #[tokio::test]
    async fn each_direction_carries_and_ends_by_itself() {
        let (mut one, mut other) = pair();
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        let said = async {
            one.write_all(&bytes).await.unwrap();
            one.shutdown().await.unwrap();
            let mut answer = Vec::new();
            one.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let heard = async {
            let mut heard = Vec::new();
            other.read_to_end(&mut heard).await.unwrap();
            other.write_all(b"after the end").await.unwrap();
            other.shutdown().await.unwrap();
            heard
        };
        let (answer, heard) = tokio::join!(said, heard);
        assert_eq!((answer.as_slice(), heard), (&b"after the end"[..], bytes));
    }

    #[tokio::test]
    async fn dropping_a_duplex_without_end_fails_both_directions() {
        let (one, mut other) = pair();
        drop(one);
        other.read_u8().await.unwrap_err();
        assert_eq!(other.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn an_empty_body_ends_cleanly() {
        let (body, writer) = piped();
        writer.end_empty();
        assert_eq!(Other(body).collect().await.unwrap().to_bytes(), "");
    }
}
