//! How commands reach a running CA: over its Unix socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use hyper_util::rt::TokioIo;
use postern_proto::wire::v1::admin_client::AdminClient;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::{Format, escaped};
use crate::config::admin_socket_in;

/// How long a CA may take to open its socket.
const START_PATIENCE: Duration = Duration::from_secs(3);
const START_POLL: Duration = Duration::from_millis(50);

const WHICH_CA: &str = "which CA? give --data-dir DIR, as `postern-ca serve` has it, or --admin-socket PATH \
     (also in POSTERN_ADMIN_SOCKET)";

/// The CA to ask and the output format.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Admin {
    /// The CA's data directory, with its admin.sock.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Path of the CA's admin socket [default: DIR/admin.sock]
    #[arg(long, value_name = "PATH", env = "POSTERN_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,
}

/// The output format.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Output {
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

impl Admin {
    /// Asks the CA, and turns what comes into an exit code.
    pub(super) fn ask<T, E: Into<anyhow::Error>>(
        self,
        ask: impl AsyncFnOnce(&mut AdminClient<Channel>) -> Result<T, E>,
        tell: impl FnOnce(T) -> anyhow::Result<()>,
    ) -> ExitCode {
        if self.socket().is_none() {
            eprintln!("{WHICH_CA}");
            return ExitCode::from(2);
        }
        match self.fetch(ask).and_then(tell) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("postern-ca: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    /// Asks the CA for what a command goes on with.
    pub(super) fn fetch<T, E: Into<anyhow::Error>>(
        self,
        ask: impl AsyncFnOnce(&mut AdminClient<Channel>) -> Result<T, E>,
    ) -> anyhow::Result<T> {
        let socket = self.socket().ok_or_else(|| anyhow!(WHICH_CA))?;
        let work = async {
            let mut client = connect(socket).await?;
            ask(&mut client).await.map_err(|error| said(error.into()))
        };
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
    }

    fn socket(&self) -> Option<PathBuf> {
        self.admin_socket.clone().or_else(|| self.data_dir.as_deref().map(admin_socket_in))
    }
}

/// A refusal in the CA's own words.
fn said(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Status>() {
        Ok(status) => anyhow!("{}", escaped(status.message())),
        Err(error) => error,
    }
}

async fn connect(socket: PathBuf) -> anyhow::Result<AdminClient<Channel>> {
    wait_for(&socket)
        .await
        .with_context(|| format!("no CA answers at {}; is `postern-ca serve` running?", socket.display()))?;
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel =
        Endpoint::from_static("http://admin.postern.invalid").connect_with_connector(connector).await?;
    Ok(AdminClient::new(channel))
}

/// Waits for a CA that was started a moment ago.
async fn wait_for(socket: &Path) -> std::io::Result<()> {
    let started = tokio::time::Instant::now();
    loop {
        match UnixStream::connect(socket).await {
            Ok(_) => return Ok(()),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused if started.elapsed() < START_PATIENCE => {
                    tokio::time::sleep(START_POLL).await;
                }
                _ => return Err(error),
            },
        }
    }
}
