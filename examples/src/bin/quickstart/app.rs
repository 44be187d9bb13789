//! A service as small as can be: it says who it is, and asks others through its sidecar.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::client;
use crate::events::Events;

/// Words, or a stream of them.
type Answer = Either<Full<Bytes>, Events>;

/// Says who answers, and who calls if its sidecar says so. `/events` never ends; `/ask/NAME/PATH` asks another service.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct App {
    /// Who it is.
    name: String,
    #[arg(long)]
    listen: SocketAddr,
    /// Whom it can ask, and where its sidecar listens for that: NAME=ADDRESS.
    #[arg(long = "peer", value_parser = peer)]
    peers: Vec<(String, SocketAddr)>,
}

fn peer(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
    Ok((name.to_owned(), address))
}

impl App {
    /// Serves until it is killed.
    pub(crate) async fn run(self) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.listen).await?;
        writeln!(std::io::stdout(), "{} listens on {}", self.name, listener.local_addr()?)?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let app = self.clone();
                    let serve = service_fn(move |request| {
                        let app = app.clone();
                        async move { Ok::<_, Infallible>(app.answer(request).await) }
                    });
                    let stream = TokioIo::new(accepted?.0);
                    connections.spawn(http1::Builder::new().timer(TokioTimer::new()).serve_connection(stream, serve));
                }
                Some(ended) = connections.join_next() => {
                    // A caller that breaks off is its own affair.
                    if let Err(error) = ended { eprintln!("a connection's task failed: {error}") }
                }
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let path = request.uri().path();
        if path == "/events" {
            return Response::new(Either::Right(Events::default()));
        }
        let (status, text) = match path.strip_prefix("/ask/") {
            Some(asked) => self.ask(request.method(), asked).await,
            None => (StatusCode::OK, format!("this is {}{}\n", self.name, called_by(request.headers()))),
        };
        let mut response = Response::new(Either::Left(Full::from(text)));
        *response.status_mut() = status;
        response
    }

    /// Passes on a request for `NAME/PATH`, and what came of it.
    async fn ask(&self, method: &Method, asked: &str) -> (StatusCode, String) {
        let (name, path) = asked.split_once('/').unwrap_or((asked, ""));
        let Some((_, address)) = self.peers.iter().find(|(peer, _)| peer == name) else {
            let names: Vec<_> = self.peers.iter().map(|(name, _)| format!(" /ask/{name}")).collect();
            return (StatusCode::NOT_FOUND, format!("{} answers: /{}\n", self.name, names.concat()));
        };
        match client::request(*address, method, &format!("/{path}")).await {
            Ok(answer) => answer,
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{} asked {name}: {error}\n", self.name)),
        }
    }
}

/// Who calls, as the own sidecar says.
fn called_by(headers: &HeaderMap) -> String {
    let told = headers.get("x-forwarded-client-cert").and_then(|told| told.to_str().ok());
    let caller = told.and_then(|told| told.split(';').find_map(|part| part.strip_prefix("URI=")));
    caller.map(|caller| format!(", called by {caller}")).unwrap_or_default()
}
