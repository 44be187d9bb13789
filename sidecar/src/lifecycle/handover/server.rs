//! The old process's side: sends its listeners to a new process, and stops only after that one accepts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::channel::{Channel, ChannelError};
use super::message::{ListenerKey, Message, VERSION_NEWEST, VERSION_OLDEST, negotiate};
use super::socket::{HandoverSocket, may_take_over, own_uid};
use crate::error_text::one_line;

/// Maximum number of concurrent channels; further ones wait. Only one of them receives listeners.
const CHANNELS_MAX: usize = 8;
/// Timeout of the first message on a channel.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the new process's report that it accepts.
pub const SERVING_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before the next accept after a failed one, as without descriptors or memory.
const ACCEPT_DELAY: Duration = Duration::from_millis(50);

/// Offers the listeners to a new process until they close here.
#[derive(Debug)]
pub struct HandoverServer {
    handover_socket: HandoverSocket,
    ready_within: Duration,
    listeners: Arc<[(ListenerKey, OwnedFd)]>,
}

/// Why a handover failed.
#[derive(Debug, Error)]
enum HandoverError {
    #[error("user {peer} may not take over from user {own}")]
    OtherUser { own: u32, peer: u32 },
    #[error("another process is about to take over")]
    Busy,
    #[error(
        "versions {oldest} to {newest} are asked for, {VERSION_OLDEST} to {VERSION_NEWEST} are spoken here"
    )]
    Version { oldest: u32, newest: u32 },
    #[error("not ready within {after:?}")]
    NotReady { after: Duration },
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl HandoverServer {
    pub(super) fn new(
        handover_socket: HandoverSocket,
        ready_within: Duration,
        listeners: Vec<(ListenerKey, OwnedFd)>,
    ) -> Self {
        Self { handover_socket, ready_within, listeners: listeners.into() }
    }

    /// Serves new processes until `stop`, when the listeners close here, or until one has taken over, which cancels
    /// `taken_over`.
    pub async fn run(self, stop: CancellationToken, taken_over: CancellationToken) {
        if stop.run_until_cancelled(self.serve_until_taken_over()).await.is_some() {
            // The new process replaces the file at the path.
            taken_over.cancel();
        } else {
            self.handover_socket.close();
        }
    }

    /// Returns when a new process accepts on the listeners. All channels are then closed.
    async fn serve_until_taken_over(&self) {
        let exclusive = Arc::new(Semaphore::new(1));
        let mut channels = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.handover_socket.accept(), if channels.len() < CHANNELS_MAX => match accepted {
                    Ok(channel) => {
                        let (listeners, exclusive) = (self.listeners.clone(), exclusive.clone());
                        channels.spawn(serve_channel(channel, listeners, exclusive, self.ready_within));
                    }
                    Err(error) => {
                        warn!(%error, "the restart socket cannot accept");
                        tokio::time::sleep(ACCEPT_DELAY).await;
                    }
                },
                Some(ended) = channels.join_next() => match ended {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => error!(%error, "a restart conversation's task failed"),
                },
            }
        }
    }
}

/// Serves one channel; returns whether the listeners were taken over.
async fn serve_channel(
    channel: Channel,
    listeners: Arc<[(ListenerKey, OwnedFd)]>,
    exclusive: Arc<Semaphore>,
    ready_within: Duration,
) -> bool {
    let pid = channel.peer.pid();
    match hand_over(&channel, &listeners, &exclusive, ready_within).await {
        Ok(()) => {
            info!(pid, "a new process accepts; this one ends");
            true
        }
        Err(error) => {
            let reason = one_line(&error);
            warn!(pid, reason, "not taken over; going on");
            // The new process may have ended.
            let _sent = channel.send(&Message::Refuse { reason }).await;
            false
        }
    }
}

async fn hand_over(
    channel: &Channel,
    listeners: &[(ListenerKey, OwnedFd)],
    exclusive: &Semaphore,
    ready_within: Duration,
) -> Result<(), HandoverError> {
    let peer = channel.peer.uid();
    if !may_take_over(peer) {
        return Err(HandoverError::OtherUser { own: own_uid(), peer });
    }
    let version = match channel.receive(HELLO_TIMEOUT).await? {
        Message::Hello { oldest, newest } => {
            negotiate(oldest, newest).ok_or(HandoverError::Version { oldest, newest })?
        }
        other => return Err(out_of_turn("hello", &other)),
    };
    let _exclusive = exclusive.try_acquire().map_err(|_| HandoverError::Busy)?;
    info!(listeners = listeners.len(), "a new process asks for the listeners");
    channel.send(&Message::Offer { version, listeners: listeners.len() }).await?;
    for (key, socket) in listeners {
        channel.send_with_socket(&Message::Listener(key.clone()), socket.as_fd()).await?;
    }
    match channel.receive(ready_within).await {
        Ok(Message::Ready) => {}
        Ok(other) => return Err(out_of_turn("ready", &other)),
        Err(ChannelError::Silent { after }) => return Err(HandoverError::NotReady { after }),
        Err(error) => return Err(error.into()),
    }
    channel.send(&Message::Yours).await?;
    match channel.receive(SERVING_TIMEOUT).await? {
        Message::Serving => Ok(()),
        other => Err(out_of_turn("serving", &other)),
    }
}

fn out_of_turn(expected: &'static str, received: &Message) -> HandoverError {
    ChannelError::OutOfTurn { expected, received: received.name() }.into()
}
