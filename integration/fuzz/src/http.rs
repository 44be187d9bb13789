//! The checks of raw HTTP, in step with the parser that reads what they hand on.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use postern_sidecar::config::Http;
use postern_sidecar::proxy::http::fuzzing::{FrameCheck, HeadCheck, SeenRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pieces;

/// As the programs configure it.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// A connection in memory: what comes is checked before it is read, and what is written is gone.
struct Fed {
    pieces: std::vec::IntoIter<Vec<u8>>,
    /// Checked, and not read yet.
    checked: Vec<u8>,
    check: Rc<HeadCheck>,
}

impl AsyncRead for Fed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.checked.is_empty() {
            let Some(piece) = self.pieces.next() else { return Poll::Ready(Ok(())) };
            match self.check.pass(&piece) {
                Some(checked) => self.checked = checked,
                None => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            assert!(self.check.held_bytes() <= Http::default().header_bytes_max);
        }
        let now = self.checked.len().min(buffer.remaining());
        let rest = self.checked.split_off(now);
        buffer.put_slice(&self.checked);
        self.checked = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Fed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Each request that hyper hands out is one that was checked, and a refused one is the last.
async fn judged(
    request: Request<Incoming>,
    check: Rc<HeadCheck>,
    refused: Rc<Cell<bool>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert!(!refused.get(), "{request:?} comes behind one that was refused");
    match check.next() {
        SeenRequest::Valid => {
            let lengths = request.headers().get_all(CONTENT_LENGTH).iter().count();
            let coded = request.headers().contains_key(TRANSFER_ENCODING);
            assert!(lengths + usize::from(coded) < 2, "{request:?} has its length in two ways");
        }
        SeenRequest::Refused => refused.set(true),
        SeenRequest::Unknown => panic!("nobody has checked {request:?}"),
    }
    let switches = request.method() == Method::CONNECT;
    // The body is taken, so that hyper goes on to the next request.
    let _broken = request.into_body().collect().await;
    let mut response = Response::new(Full::default());
    if switches {
        // What follows an accepted CONNECT is no request.
        *response.status_mut() = hyper::StatusCode::FORBIDDEN;
    }
    Ok(response)
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
}

/// Feeds the same bytes to the check and, through it, to hyper.
pub fn http1_heads(data: &[u8]) {
    let (check, refused) = (Rc::new(HeadCheck::default()), Rc::new(Cell::new(false)));
    let all: Vec<_> = pieces(data).map(<[u8]>::to_vec).collect();
    let fed = Fed { pieces: all.into_iter(), checked: Vec::new(), check: check.clone() };
    let service = service_fn(|request| judged(request, check.clone(), refused.clone()));
    let limits = Http::default();
    let served = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_headers(limits.headers_max)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX.max(limits.header_bytes_max))
        .serve_connection(TokioIo::new(fed), service);
    let _ended = RUNTIME.with(|runtime| runtime.block_on(served));
}

/// Whatever is cut, nothing is left behind by one cut that another would end.
pub fn http2_frames(data: &[u8]) {
    let Some(rest) = data.get(1..).filter(|rest| !rest.is_empty()) else { return };
    let (mut cut, mut whole) = (FrameCheck::default(), FrameCheck::default());
    for piece in pieces(data) {
        cut.pass(piece);
    }
    whole.pass(rest);
    assert_eq!(cut.is_unfinished(), whole.is_unfinished());
}
