//! A service as small as can be: it says who it is, and asks others through its sidecar.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::client;

/// `GET /` says who answers; `GET /ask/NAME` asks another service and tells what came.
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

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match request.uri().path() {
            "/" => (StatusCode::OK, format!("this is {}", self.name)),
            path => self.ask(path.trim_start_matches("/ask/")).await,
        };
        let mut response = Response::new(Full::from(format!("{text}\n")));
        *response.status_mut() = status;
        response
    }

    async fn ask(&self, name: &str) -> (StatusCode, String) {
        let Some((_, address)) = self.peers.iter().find(|(peer, _)| peer == name) else {
            let names: Vec<_> = self.peers.iter().map(|(name, _)| format!(" /ask/{name}")).collect();
            return (StatusCode::NOT_FOUND, format!("{} answers: /{}", self.name, names.concat()));
        };
        match client::get(*address, "/").await {
            Ok((status, text)) => (status, format!("{} asked {name}: {}", self.name, text.trim_end())),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{} asked {name}: {error}", self.name)),
        }
    }
}
