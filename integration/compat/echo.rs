//! `compat.Echo` by tonic: the server and the client, with plain bytes for messages.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use postern_integration::eventually;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

type Replies = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

const MIB: usize = 1024 * 1024;
const PIECE: usize = 64 * 1024;
const WORDS: &str = "no such thing: größer";
static CANCELLED: AtomicU32 = AtomicU32::new(0);

/// Messages are what they are.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Counts a call that ends before its answer is whole.
struct Unfinished;

impl Drop for Unfinished {
    fn drop(&mut self) {
        CANCELLED.fetch_add(1, Ordering::SeqCst);
    }
}

impl Unfinished {
    fn finish(self) {
        std::mem::forget(self);
    }
}

/// Serves until it is killed.
pub(crate) async fn serve() {
    let port = std::env::var("APP_PORT").unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Server::builder().add_service(Echo).serve(address).await.unwrap();
}

#[derive(Debug, Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "compat.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        use tower::service_fn;
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain).max_decoding_message_size(8 * MIB);
            Ok(match request.uri().path().rsplit('/').next().unwrap_or_default() {
                "Unary" => grpc.unary(service_fn(unary), request).await,
                "Fail" => grpc.unary(service_fn(fail), request).await,
                "Slow" => grpc.unary(service_fn(slow), request).await,
                "Cancelled" => grpc.unary(service_fn(cancelled), request).await,
                "List" => grpc.server_streaming(service_fn(list), request).await,
                "Pieces" => grpc.server_streaming(service_fn(pieces), request).await,
                "Quiet" => grpc.server_streaming(service_fn(quiet), request).await,
                "Collect" => grpc.client_streaming(service_fn(collect), request).await,
                "Chat" => grpc.streaming(service_fn(chat), request).await,
                other => Status::unimplemented(other.to_owned()).into_http(),
            })
        })
    }
}

async fn unary(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    Ok(Response::new(request.into_inner()))
}

async fn fail(_: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let mut status = Status::not_found(WORDS);
    status.metadata_mut().insert("x-detail", "some detail".parse().unwrap());
    status.metadata_mut().insert_bin("x-detail-bin", MetadataValue::from_bytes(b"\x00\xff"));
    Err(status)
}

async fn slow(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let unfinished = Unfinished;
    tokio::time::sleep(Duration::from_millis(number(request.get_ref()))).await;
    unfinished.finish();
    Ok(Response::new(request.into_inner()))
}

async fn cancelled(_: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    Ok(Response::new(text(CANCELLED.load(Ordering::SeqCst))))
}

async fn list(request: Request<Bytes>) -> Result<Response<Replies>, Status> {
    let replies = (0..number(request.get_ref())).map(|at| Ok(text(at)));
    Ok(Response::new(Box::pin(tokio_stream::iter(replies))))
}

async fn pieces(request: Request<Bytes>) -> Result<Response<Replies>, Status> {
    let replies = (0..number(request.get_ref()) * 16).map(|_| Ok(Bytes::from_static(&[7; PIECE])));
    Ok(Response::new(Box::pin(tokio_stream::iter(replies))))
}

async fn quiet(request: Request<Bytes>) -> Result<Response<Replies>, Status> {
    let pause = Duration::from_millis(number(request.get_ref()));
    let (say, said) = mpsc::channel(1);
    tokio::spawn(async move {
        let begun = say.send(Ok(Bytes::from_static(b"begin"))).await;
        tokio::time::sleep(pause).await;
        if begun.is_ok() {
            // A caller that has gone needs no end.
            let _ = say.send(Ok(Bytes::from_static(b"end"))).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(said))))
}

async fn collect(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let (mut messages, mut total) = (request.into_inner(), 0);
    while let Some(message) = messages.message().await? {
        total += message.len();
    }
    Ok(Response::new(text(total)))
}

async fn chat(request: Request<Streaming<Bytes>>) -> Result<Response<Replies>, Status> {
    let mut messages = request.into_inner();
    let (say, said) = mpsc::channel(1);
    tokio::spawn(async move {
        // To tonic's server a cancelled call is one whose messages have ended: the replies know better.
        while let Ok(Some(message)) = messages.message().await {
            if say.send(Ok(message)).await.is_err() {
                return;
            }
        }
    });
    Ok(Response::new(Box::pin(ToTheEnd { replies: ReceiverStream::new(said), unfinished: Some(Unfinished) })))
}

/// Replies that count as cancelled unless they are taken to their end.
struct ToTheEnd {
    replies: ReceiverStream<Result<Bytes, Status>>,
    unfinished: Option<Unfinished>,
}

impl Stream for ToTheEnd {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reply = std::task::ready!(Pin::new(&mut self.replies).poll_next(context));
        if reply.is_none()
            && let Some(unfinished) = self.unfinished.take()
        {
            unfinished.finish();
        }
        Poll::Ready(reply)
    }
}

fn number(message: &Bytes) -> u64 {
    std::str::from_utf8(message).unwrap().parse().unwrap()
}

fn text(of: impl ToString) -> Bytes {
    Bytes::from(of.to_string())
}

#[derive(Debug, Clone)]
struct Caller(tonic::client::Grpc<Channel>);

/// One bidirectional stream that is fed message by message.
struct Chat {
    say: mpsc::Sender<Bytes>,
    replies: Streaming<Bytes>,
}

impl Caller {
    async fn unary(&mut self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        self.request(method, Request::new(message)).await
    }

    async fn request(&mut self, method: &str, request: Request<Bytes>) -> Result<Bytes, Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(self.0.unary(request, path(method), Plain).await?.into_inner())
    }

    async fn streamed(&mut self, method: &str, message: Bytes) -> Streaming<Bytes> {
        self.0.ready().await.unwrap();
        self.0.server_streaming(Request::new(message), path(method), Plain).await.unwrap().into_inner()
    }

    async fn collect(&mut self, messages: Vec<Bytes>) -> Bytes {
        self.0.ready().await.unwrap();
        let request = Request::new(tokio_stream::iter(messages));
        self.0.client_streaming(request, path("Collect"), Plain).await.unwrap().into_inner()
    }

    /// Begins with a message: grpcio's server answers nothing before its first reply.
    async fn chat(&mut self, first: &'static str) -> Chat {
        self.0.ready().await.unwrap();
        let (say, said) = mpsc::channel(1);
        say.send(Bytes::from_static(first.as_bytes())).await.unwrap();
        let request = Request::new(ReceiverStream::new(said));
        let mut replies = self.0.streaming(request, path("Chat"), Plain).await.unwrap().into_inner();
        assert_eq!(replies.message().await.unwrap().unwrap(), first);
        Chat { say, replies }
    }

    async fn cancelled(&mut self) -> u64 {
        number(&self.unary("Cancelled", Bytes::new()).await.unwrap())
    }

    /// Waits until the server has learned of one more cancelled call.
    async fn learns(&self, before: u64, of: &str) {
        eventually(&format!("the server learns of {of}"), async || {
            (self.clone().cancelled().await > before).then_some(())
        })
        .await;
    }
}

impl Chat {
    async fn echo(&mut self, text: &'static str) {
        self.say.send(Bytes::from_static(text.as_bytes())).await.unwrap();
        assert_eq!(self.replies.message().await.unwrap().unwrap(), text);
    }

    async fn end(self) {
        let Self { say, mut replies } = self;
        drop(say);
        assert!(replies.message().await.unwrap().is_none(), "the end of a stream");
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/compat.Echo/{method}").parse().unwrap()
}

/// Makes the three exchanges.
pub(crate) async fn call() {
    let at = std::env::var("AT").unwrap();
    let channel = Endpoint::from_shared(format!("http://{at}")).unwrap().connect_lazy();
    let caller = Caller(tonic::client::Grpc::new(channel).max_decoding_message_size(8 * MIB));
    short(caller.clone()).await;
    println!("passed: short");
    calls_that_pause(caller.clone()).await;
    println!("passed: quiet");
    long(caller).await;
    println!("passed: long");
}

async fn short(mut caller: Caller) {
    for message in [Bytes::from_static(b"word"), Bytes::new(), Bytes::from(vec![b'x'; MIB])] {
        assert_eq!(caller.unary("Unary", message.clone()).await.unwrap(), message);
    }
    let status = caller.unary("Fail", Bytes::new()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, WORDS));
    assert_eq!(status.metadata().get("x-detail").unwrap(), "some detail");
    assert_eq!(status.metadata().get_bin("x-detail-bin").unwrap().to_bytes().unwrap(), &b"\x00\xff"[..]);
    let mut listed = caller.streamed("List", text(1000)).await;
    for at in 0..1000 {
        assert_eq!(listed.message().await.unwrap().unwrap(), text(at));
    }
    assert!(listed.message().await.unwrap().is_none());
    assert_eq!(caller.collect(vec![Bytes::from(vec![0; 1000]); 1000]).await, text(1_000_000));
    let mut chat = caller.chat("first").await;
    for _ in 0..100 {
        chat.echo("to and fro").await;
    }
    chat.end().await;

    let before = caller.cancelled().await;
    let mut request = Request::new(text(100_000));
    request.set_timeout(Duration::from_millis(500));
    let status = caller.request("Slow", request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    caller.learns(before, "the deadline").await;
    let before = caller.cancelled().await;
    let mut other = caller.clone();
    tokio::select! {
        _ = other.unary("Slow", text(100_000)) => panic!("it is slow"),
        () = tokio::time::sleep(Duration::from_millis(500)) => {}
    }
    caller.learns(before, "the cancellation").await;
}

async fn calls_that_pause(mut caller: Caller) {
    let seconds: f64 = std::env::var("QUIET").unwrap().parse().unwrap();
    let pause = Duration::from_secs_f64(seconds);
    let mut chat = caller.chat("before").await;
    let mut quiet = caller.streamed("Quiet", text(pause.as_millis())).await;
    let late = {
        let mut caller = caller.clone();
        tokio::spawn(async move { caller.unary("Slow", text(pause.as_millis())).await })
    };
    assert_eq!(quiet.message().await.unwrap().unwrap(), "begin");
    let many = (0..150).map(|_| {
        let mut caller = caller.clone();
        async move { caller.unary("Slow", text(1000)).await.unwrap() }
    });
    futures_util::future::join_all(many).await;
    assert_eq!(late.await.unwrap().unwrap(), text(pause.as_millis()), "a late answer");
    chat.echo("after").await;
    chat.end().await;
    assert_eq!(quiet.message().await.unwrap().unwrap(), "end");
    assert!(quiet.next().await.is_none());
}

async fn long(mut caller: Caller) {
    let mut other = caller.clone();
    let steady = async {
        for at in 0..1000 {
            assert_eq!(other.unary("Unary", text(at)).await.unwrap(), text(at));
        }
    };
    let bulk = async {
        let (mut pieces, mut total) = (caller.streamed("Pieces", text(32)).await, 0);
        while let Some(piece) = pieces.message().await.unwrap() {
            total += piece.len();
        }
        assert_eq!(total, 32 * MIB);
        let up = vec![Bytes::from_static(&[7; PIECE]); 512];
        assert_eq!(caller.collect(up).await, text(32 * MIB));
    };
    tokio::join!(steady, bulk);
}
