//! The handover of listeners at a restart, without a refused connection. The old process sends its listening sockets to
//! the new one and keeps accepting until the new one reports that it accepts. If anything fails before, the old one
//! continues.

mod channel;
#[cfg(fuzzing)]
pub mod fuzzing;
mod message;
mod server;
mod socket;
mod sockets;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::config::{LISTENERS_MAX, Restart};
use crate::error_text::one_line;
use crate::proxy::listener::{self, Families};
use channel::Channel;
pub use channel::ChannelError;
pub use message::{ListenerKey, ListenerKind, MESSAGE_BYTES_MAX, MessageError};
use message::{Message, VERSION_NEWEST, VERSION_OLDEST};
pub use server::{HELLO_TIMEOUT, HandoverServer, SERVING_TIMEOUT};
pub use socket::HandoverSocketError;
use socket::{HandoverSocket, connect};
pub use sockets::UnfitError;
use sockets::{OfferedListeners, duplicate};

/// Timeout of each response of the old process.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of attempts to contact an old process that is just ending and closes the connection.
const ATTEMPTS_MAX: u32 = 50;
/// Delay between these attempts.
const ATTEMPT_DELAY: Duration = Duration::from_millis(20);

/// Maximum number of offered listeners: inbounds, outbounds, and the admin endpoint.
const OFFERED_MAX: usize = 2 * LISTENERS_MAX + 1;

/// Why the listeners cannot be taken over. The old process continues to serve them.
#[derive(Debug, Error)]
pub enum TakeoverError {
    #[error(transparent)]
    HandoverSocket(#[from] HandoverSocketError),
    #[error("cannot take over from the process at restart.socket {}", path.display())]
    Talk {
        path: PathBuf,
        #[source]
        cause: ChannelError,
    },
    #[error("the process at restart.socket {} speaks version {found}, this one {VERSION_OLDEST} to {VERSION_NEWEST}", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("the process at restart.socket {} offers {found} listeners, more than the {OFFERED_MAX} allowed", path.display())]
    TooMany { path: PathBuf, found: usize },
    #[error("the socket offered for {key} on {} is not to be used", key.address)]
    Unfit {
        key: ListenerKey,
        #[source]
        cause: UnfitError,
    },
    #[error(
        "not ready within restart.ready_within = {after:?}, so the old process goes on; missing: {missing}"
    )]
    NotReady { after: Duration, missing: String },
    #[error("the process at restart.socket {} broke off, and goes on", path.display())]
    GoesOn { path: PathBuf },
}

/// The takeover by the new process: requests the listeners from an old process, if there is one, then offers them to
/// the next process.
#[derive(Debug, Default)]
pub struct Takeover {
    restart: Option<Restart>,
    /// The old process, while it still serves.
    old: Option<Channel>,
    /// The old process ended before this one was ready.
    old_process_ended: bool,
    offered: OfferedListeners,
    own_listeners: Vec<(ListenerKey, OwnedFd)>,
    handover_socket: Option<HandoverSocket>,
}

impl Takeover {
    /// Requests the listeners from the process at the restart socket. If none listens there, this is an ordinary start.
    pub async fn begin(restart: Option<&Restart>) -> Result<Self, TakeoverError> {
        let Some(restart) = restart else { return Ok(Self::default()) };
        let (old, offered) = request_listeners(&restart.socket).await?.unzip();
        Ok(Self {
            restart: Some(restart.clone()),
            old,
            offered: offered.unwrap_or_default(),
            ..Self::default()
        })
    }

    /// Whether an old process serves until this one is ready.
    pub fn is_under_way(&self) -> bool {
        self.old.is_some()
    }

    /// The listener received from the old process, or a new one.
    pub fn listener(&mut self, key: ListenerKey, families: Families) -> io::Result<TcpListener> {
        let listener = match self.offered.take(&key) {
            Some(listener) => TcpListener::from_std(listener)?,
            None => listener::open(key.address, families)?,
        };
        if self.restart.is_some() {
            self.own_listeners.push((key, duplicate(&listener)?));
        }
        Ok(listener)
    }

    /// Waits until this process may accept: immediately, or after it is ready and the old process has agreed. If the
    /// old process ends meanwhile, its sockets remain open here and no agreement is needed.
    pub async fn ready(&mut self, admin: &Admin) -> Result<(), TakeoverError> {
        let Some(restart) = &self.restart else { return Ok(()) };
        self.handover_socket = Some(HandoverSocket::open(&restart.socket)?);
        let Some(old) = &self.old else { return Ok(()) };
        let path = &restart.socket;
        info!("waiting until ready, to take over");
        match request_agreement(old, admin, restart.ready_within).await {
            Ok(()) => return Ok(()),
            Err(ChannelError::BrokenOff) => {}
            Err(ChannelError::Silent { after }) if !admin.missing_prerequisites().is_empty() => {
                return Err(TakeoverError::NotReady {
                    after,
                    missing: admin.missing_prerequisites().join("; "),
                });
            }
            Err(cause) => return Err(TakeoverError::Talk { path: path.clone(), cause }),
        }
        if request_listeners(path).await?.is_some() {
            return Err(TakeoverError::GoesOn { path: path.clone() });
        }
        warn!("the old process is gone; its listeners go on here");
        (self.old, self.old_process_ended) = (None, true);
        Ok(())
    }

    /// If the old process ended too early, waits until this process is ready, at most `ready_within`: clients that
    /// connect meanwhile wait in the listen queue instead of being refused.
    pub async fn wait_until_ready(&self, admin: &Admin) {
        let Some(restart) = self.restart.as_ref().filter(|_| self.old_process_ended) else { return };
        if timeout(restart.ready_within, admin.wait_for_prerequisites()).await.is_err() {
            warn!(
                missing = admin.missing_prerequisites().join("; "),
                "not ready, but nobody else is left to serve"
            );
        }
    }

    /// Reports to the old process that this one accepts, so that the old one ends. Publishes the restart socket for the
    /// next process.
    pub async fn serving(self) -> Option<HandoverServer> {
        let (restart, mut handover_socket) = self.restart.zip(self.handover_socket)?;
        if let Some(old) = &self.old {
            match old.send(&Message::Serving).await {
                Ok(()) => info!("took over from the old process"),
                Err(error) => {
                    warn!(reason = one_line(&error), "the old process does not hear that it may end")
                }
            }
        }
        if let Err(error) = handover_socket.publish() {
            warn!(path = %restart.socket.display(), %error, "no process can take over from this one");
            return None;
        }
        Some(HandoverServer::new(handover_socket, restart.ready_within, self.own_listeners))
    }
}

/// Requests the listeners of the process at `path`, until it has sent all of them or has ended.
async fn request_listeners(path: &Path) -> Result<Option<(Channel, OfferedListeners)>, TakeoverError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(old) = connect(path)? else { return Ok(None) };
        match receive_offer(&old, path).await {
            Ok(offered) => return Ok(Some((old, offered))),
            Err(TakeoverError::Talk { cause: ChannelError::BrokenOff, .. }) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(ATTEMPT_DELAY).await;
    }
    Err(TakeoverError::Talk { path: path.to_owned(), cause: ChannelError::BrokenOff })
}

async fn receive_offer(old: &Channel, path: &Path) -> Result<OfferedListeners, TakeoverError> {
    let failed = |cause| TakeoverError::Talk { path: path.to_owned(), cause };
    let out_of_turn = |expected, received: &Message| {
        failed(ChannelError::OutOfTurn { expected, received: received.name() })
    };
    old.send(&Message::hello()).await.map_err(failed)?;
    let listeners = match old.receive(RESPONSE_TIMEOUT).await.map_err(failed)? {
        Message::Offer { version, listeners } if (VERSION_OLDEST..=VERSION_NEWEST).contains(&version) => {
            listeners
        }
        Message::Offer { version, .. } => {
            return Err(TakeoverError::Version { path: path.to_owned(), found: version });
        }
        other => return Err(out_of_turn("offer", &other)),
    };
    if listeners > OFFERED_MAX {
        return Err(TakeoverError::TooMany { path: path.to_owned(), found: listeners });
    }
    let mut offered = OfferedListeners::default();
    for _ in 0..listeners {
        match old.receive_with_sockets(RESPONSE_TIMEOUT).await.map_err(failed)? {
            (Message::Listener(key), sockets) => {
                offered.add(key.clone(), sockets).map_err(|cause| TakeoverError::Unfit { key, cause })?;
            }
            (other, _) => return Err(out_of_turn("listener", &other)),
        }
    }
    info!(pid = old.peer.pid(), listeners, "an old process offers its listeners");
    Ok(offered)
}

/// Waits until this process is ready, then asks the old process for its agreement.
async fn request_agreement(old: &Channel, admin: &Admin, within: Duration) -> Result<(), ChannelError> {
    let out_of_turn =
        |received: &Message| ChannelError::OutOfTurn { expected: "yours", received: received.name() };
    tokio::select! {
        () = admin.wait_for_prerequisites() => {}
        received = old.receive(within) => return Err(received.map_or_else(|error| error, |received| out_of_turn(&received))),
    }
    old.send(&Message::Ready).await?;
    match old.receive(RESPONSE_TIMEOUT).await? {
        Message::Yours => Ok(()),
        other => Err(out_of_turn(&other)),
    }
}
