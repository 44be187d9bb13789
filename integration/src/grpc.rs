//! A gRPC service and its client, both tonic's, whose messages are strings (google.protobuf.StringValue).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::apps::App;

type Codec = ProstCodec<String, String>;
type Replies = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// What `List` says in its trailers when there is no more.
pub const NO_MORE: &str = "no more charges";

/// Serves `shop.Charges`.
pub async fn app() -> App {
    App::running(|listener| async move {
        let served = Server::builder().add_service(Charges).serve_with_incoming(TcpIncoming::from(listener));
        served.await.unwrap();
    })
    .await
}

/// `Charge` echoes, `List` counts up and then fails with trailers, `Chat` echoes each message.
#[derive(Debug, Clone)]
struct Charges;

impl NamedService for Charges {
    const NAME: &'static str = "shop.Charges";
}

impl tower::Service<http::Request<Body>> for Charges {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(match request.uri().path() {
                "/shop.Charges/Charge" => grpc.unary(tower::service_fn(charge), request).await,
                "/shop.Charges/List" => grpc.server_streaming(tower::service_fn(list), request).await,
                "/shop.Charges/Chat" => grpc.streaming(tower::service_fn(chat), request).await,
                path => Status::unimplemented(path.to_owned()).into_http(),
            })
        })
    }
}

async fn charge(request: Request<String>) -> Result<Response<String>, Status> {
    let caller = request.metadata().get("x-forwarded-client-cert").cloned();
    let mut response = Response::new(request.into_inner());
    if let Some(caller) = caller {
        response.metadata_mut().insert("x-seen-caller", caller);
    }
    Ok(response)
}

async fn list(request: Request<String>) -> Result<Response<Replies>, Status> {
    let count: u32 = request.into_inner().parse().map_err(|_| Status::invalid_argument("no number"))?;
    let mut end = Status::out_of_range(NO_MORE);
    end.metadata_mut().insert("x-listed", count.into());
    let replies = (0..count).map(|at| Ok(at.to_string())).chain([Err(end)]);
    Ok(Response::new(Box::pin(tokio_stream::iter(replies))))
}

async fn chat(request: Request<Streaming<String>>) -> Result<Response<Replies>, Status> {
    Ok(Response::new(Box::pin(request.into_inner())))
}

/// A client of `shop.Charges`, over plaintext HTTP/2 as apps reach their sidecar.
#[derive(Debug, Clone)]
pub struct Client(tonic::client::Grpc<Channel>);

/// One `Chat` under way.
#[derive(Debug)]
pub struct Chat {
    say: mpsc::Sender<String>,
    replies: Streaming<String>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self(tonic::client::Grpc::new(channel))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    pub async fn unary(&mut self, method: &'static str, text: &str) -> Result<Response<String>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(method);
        self.0.unary(Request::new(text.to_owned()), path, Codec::default()).await
    }

    pub async fn charge(&mut self, text: &str) -> Result<Response<String>, Status> {
        self.unary("/shop.Charges/Charge", text).await
    }

    pub async fn list(&mut self, count: u32) -> Result<Streaming<String>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/shop.Charges/List");
        let request = Request::new(count.to_string());
        Ok(self.0.server_streaming(request, path, Codec::default()).await?.into_inner())
    }

    pub async fn chat(&mut self) -> Result<Chat, Status> {
        self.ready().await?;
        let (say, said) = mpsc::channel(1);
        let path = PathAndQuery::from_static("/shop.Charges/Chat");
        let request = Request::new(ReceiverStream::new(said));
        let replies = self.0.streaming(request, path, Codec::default()).await?.into_inner();
        Ok(Chat { say, replies })
    }
}

impl Chat {
    /// Says something and waits for the echo.
    pub async fn echo(&mut self, text: &str) -> Result<(), Status> {
        self.say.send(text.to_owned()).await.map_err(|_| Status::cancelled("the stream has ended"))?;
        match self.next().await {
            Some(Ok(echo)) if echo == text => Ok(()),
            Some(Err(status)) => Err(status),
            other => panic!("no echo of {text:?}: {other:?}"),
        }
    }

    /// What comes next; `None` is a clean end.
    pub async fn next(&mut self) -> Option<Result<String, Status>> {
        self.replies.next().await
    }

    /// Has nothing more to say, and waits for the other side's end.
    pub async fn end(self) -> Option<Result<String, Status>> {
        let Self { say, mut replies } = self;
        drop(say);
        replies.next().await
    }
}
