//! A restart without a refused connection: a new process gets the listening sockets of the old one, and both accept
//! until the new one has said that it does. Whatever fails before, the old one goes on.

mod channel;
#[cfg(fuzzing)]
pub mod fuzzing;
mod giving;
mod message;
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
pub use giving::{Giver, HELLO_WITHIN, SERVING_WITHIN};
pub use message::{Key, Kind, MESSAGE_BYTES_MAX, MessageError};
use message::{Message, VERSION_NEWEST, VERSION_OLDEST};
pub use socket::DoorError;
use socket::{HandoverSocket, knock};
pub use sockets::UnfitError;
use sockets::{Offered, second};

/// An old process answers each time within this.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A process that is just ending breaks off; whether it is gone is looked at so often...
const LOOKS_MAX: u32 = 50;
/// ...with so much time between.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Inbounds, outbounds, and the admin endpoint.
const OFFERED_MAX: usize = 2 * LISTENERS_MAX + 1;

/// Why the listeners cannot be taken over. The old process keeps them.
#[derive(Debug, Error)]
pub enum TakeoverError {
    #[error(transparent)]
    HandoverSocket(#[from] DoorError),
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
        key: Key,
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

/// The way from asking an old process, if there is one, to being the one that is asked.
#[derive(Debug, Default)]
pub struct Takeover {
    restart: Option<Restart>,
    /// As long as it has the say.
    old: Option<Channel>,
    /// The old process has ended before this one was ready.
    is_orphan: bool,
    offered: Offered,
    mine: Vec<(Key, OwnedFd)>,
    door: Option<HandoverSocket>,
}

impl Takeover {
    /// Asks the process at the restart socket for its listeners. Where nobody listens, this is an ordinary start.
    pub async fn begin(restart: Option<&Restart>) -> Result<Self, TakeoverError> {
        let Some(restart) = restart else { return Ok(Self::default()) };
        let (old, offered) = ask(&restart.socket).await?.unzip();
        Ok(Self {
            restart: Some(restart.clone()),
            old,
            offered: offered.unwrap_or_default(),
            ..Self::default()
        })
    }

    /// Whether an old process serves until this one does.
    pub fn is_under_way(&self) -> bool {
        self.old.is_some()
    }

    /// The old process's socket, or a fresh one.
    pub fn listener(&mut self, key: Key, families: Families) -> io::Result<TcpListener> {
        let listener = match self.offered.take(&key) {
            Some(listener) => TcpListener::from_std(listener)?,
            None => listener::open(key.address, families)?,
        };
        if self.restart.is_some() {
            self.mine.push((key, second(&listener)?));
        }
        Ok(listener)
    }

    /// Waits until this process may accept: at once, or when it is ready and the old one knows. An old one that ends
    /// meanwhile leaves its sockets here, and need not be told.
    pub async fn ready(&mut self, admin: &Admin) -> Result<(), TakeoverError> {
        let Some(restart) = &self.restart else { return Ok(()) };
        self.door = Some(HandoverSocket::open(&restart.socket)?);
        let Some(old) = &self.old else { return Ok(()) };
        let path = &restart.socket;
        info!("waiting until ready, to take over");
        match agreed(old, admin, restart.ready_within).await {
            Ok(()) => return Ok(()),
            Err(ChannelError::BrokenOff) => {}
            Err(ChannelError::Silent { after }) if !admin.awaited().is_empty() => {
                return Err(TakeoverError::NotReady { after, missing: admin.awaited().join("; ") });
            }
            Err(cause) => return Err(TakeoverError::Talk { path: path.clone(), cause }),
        }
        if ask(path).await?.is_some() {
            return Err(TakeoverError::GoesOn { path: path.clone() });
        }
        warn!("the old process is gone; its listeners go on here");
        (self.old, self.is_orphan) = (None, true);
        Ok(())
    }

    /// After an old process that has ended too early: who connects meanwhile waits until this one is ready, which is
    /// better than to be refused for want of what is about to come, but not for ever.
    pub async fn ripe(&self, admin: &Admin) {
        let Some(restart) = self.restart.as_ref().filter(|_| self.is_orphan) else { return };
        if timeout(restart.ready_within, admin.nothing_awaited()).await.is_err() {
            warn!(missing = admin.awaited().join("; "), "not ready, but nobody else is left to serve");
        }
    }

    /// Tells the old process that this one accepts, so that it ends, and is there for the next one.
    pub async fn serving(self) -> Option<Giver> {
        let (restart, mut door) = self.restart.zip(self.door)?;
        if let Some(old) = &self.old {
            match old.say(&Message::Serving).await {
                Ok(()) => info!("took over from the old process"),
                Err(error) => {
                    warn!(reason = one_line(&error), "the old process does not hear that it may end")
                }
            }
        }
        if let Err(error) = door.publish() {
            warn!(path = %restart.socket.display(), %error, "no process can take over from this one");
            return None;
        }
        Some(Giver::new(door, restart.ready_within, self.mine))
    }
}

/// Asks for the listeners of the process at `path`, until it has offered all of them or is gone.
async fn ask(path: &Path) -> Result<Option<(Channel, Offered)>, TakeoverError> {
    for _ in 0..LOOKS_MAX {
        let Some(old) = knock(path)? else { return Ok(None) };
        match offered(&old, path).await {
            Ok(offered) => return Ok(Some((old, offered))),
            Err(TakeoverError::Talk { cause: ChannelError::BrokenOff, .. }) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(TakeoverError::Talk { path: path.to_owned(), cause: ChannelError::BrokenOff })
}

async fn offered(old: &Channel, path: &Path) -> Result<Offered, TakeoverError> {
    let failed = |cause| TakeoverError::Talk { path: path.to_owned(), cause };
    let out_of_turn =
        |expected, said: &Message| failed(ChannelError::OutOfTurn { expected, said: said.word() });
    old.say(&Message::hello()).await.map_err(failed)?;
    let listeners = match old.hear(ANSWER_WITHIN).await.map_err(failed)? {
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
    let mut offered = Offered::default();
    for _ in 0..listeners {
        match old.hear_with(ANSWER_WITHIN).await.map_err(failed)? {
            (Message::Listener(key), sockets) => {
                offered.add(key.clone(), sockets).map_err(|cause| TakeoverError::Unfit { key, cause })?;
            }
            (other, _) => return Err(out_of_turn("listener", &other)),
        }
    }
    info!(pid = old.peer.pid(), listeners, "an old process offers its listeners");
    Ok(offered)
}

/// ShutdownTokens this process is ready and the old one has been told so.
async fn agreed(old: &Channel, admin: &Admin, within: Duration) -> Result<(), ChannelError> {
    let out_of_turn = |said: &Message| ChannelError::OutOfTurn { expected: "yours", said: said.word() };
    tokio::select! {
        () = admin.nothing_awaited() => {}
        heard = old.hear(within) => return Err(heard.map_or_else(|error| error, |said| out_of_turn(&said))),
    }
    old.say(&Message::Ready).await?;
    match old.hear(ANSWER_WITHIN).await? {
        Message::Yours => Ok(()),
        other => Err(out_of_turn(&other)),
    }
}
