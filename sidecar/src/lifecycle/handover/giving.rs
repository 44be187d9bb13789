//! The old process: gives its listeners to a new one, and stops only when that one accepts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::channel::{Channel, ChannelError};
use super::message::{Key, Message, VERSION_NEWEST, VERSION_OLDEST, agree};
use super::socket::{HandoverSocket, may_take_over, own_uid};
use crate::error_text::one_line;

/// Conversations at a time; the next waits. Only one of them gets listeners.
const CONVERSATIONS_MAX: usize = 8;
/// Whoever connects says so soon what it wants.
pub const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// A new process that was told to accept does so at once.
pub const SERVING_WITHIN: Duration = Duration::from_secs(5);
/// After accept failed for want of descriptors or memory, the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Waits for a new process until the own listeners close.
#[derive(Debug)]
pub struct Giver {
    door: HandoverSocket,
    ready_within: Duration,
    listeners: Arc<[(Key, OwnedFd)]>,
}

/// Why nothing was given, or nothing taken.
#[derive(Debug, Error)]
enum GiveError {
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

impl Giver {
    pub(super) fn new(door: HandoverSocket, ready_within: Duration, listeners: Vec<(Key, OwnedFd)>) -> Self {
        Self { door, ready_within, listeners: listeners.into() }
    }

    /// Talks to those who knock until `stop`, when the listeners close here, or until one has taken over, which
    /// cancels `taken_over`.
    pub async fn run(self, stop: CancellationToken, taken_over: CancellationToken) {
        if stop.run_until_cancelled(self.given()).await.is_some() {
            // The file at the path is the new process's, or is about to be.
            taken_over.cancel();
        } else {
            self.door.close();
        }
    }

    /// Ends when a new process accepts on the listeners. The conversations end with it.
    async fn given(&self) {
        let turn = Arc::new(Semaphore::new(1));
        let mut conversations = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.door.accept(), if conversations.len() < CONVERSATIONS_MAX => match accepted {
                    Ok(channel) => {
                        let (listeners, turn) = (self.listeners.clone(), turn.clone());
                        conversations.spawn(converse(channel, listeners, turn, self.ready_within));
                    }
                    Err(error) => {
                        warn!(%error, "the restart socket cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = conversations.join_next() => match ended {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => error!(%error, "a restart conversation's task failed"),
                },
            }
        }
    }
}

/// One conversation: whether the listeners were taken over.
async fn converse(
    channel: Channel,
    listeners: Arc<[(Key, OwnedFd)]>,
    turn: Arc<Semaphore>,
    ready_within: Duration,
) -> bool {
    let pid = channel.peer.pid();
    match give(&channel, &listeners, &turn, ready_within).await {
        Ok(()) => {
            info!(pid, "a new process accepts; this one ends");
            true
        }
        Err(error) => {
            let reason = one_line(&error);
            warn!(pid, reason, "not taken over; going on");
            // It may have gone.
            let _told = channel.say(&Message::Refuse { reason }).await;
            false
        }
    }
}

async fn give(
    channel: &Channel,
    listeners: &[(Key, OwnedFd)],
    turn: &Semaphore,
    ready_within: Duration,
) -> Result<(), GiveError> {
    let peer = channel.peer.uid();
    if !may_take_over(peer) {
        return Err(GiveError::OtherUser { own: own_uid(), peer });
    }
    let version = match channel.hear(HELLO_WITHIN).await? {
        Message::Hello { oldest, newest } => {
            agree(oldest, newest).ok_or(GiveError::Version { oldest, newest })?
        }
        other => return Err(out_of_turn("hello", &other)),
    };
    let _mine = turn.try_acquire().map_err(|_| GiveError::Busy)?;
    info!(listeners = listeners.len(), "a new process asks for the listeners");
    channel.say(&Message::Offer { version, listeners: listeners.len() }).await?;
    for (key, socket) in listeners {
        channel.say_with(&Message::Listener(key.clone()), socket.as_fd()).await?;
    }
    match channel.hear(ready_within).await {
        Ok(Message::Ready) => {}
        Ok(other) => return Err(out_of_turn("ready", &other)),
        Err(ChannelError::Silent { after }) => return Err(GiveError::NotReady { after }),
        Err(error) => return Err(error.into()),
    }
    channel.say(&Message::Yours).await?;
    match channel.hear(SERVING_WITHIN).await? {
        Message::Serving => Ok(()),
        other => Err(out_of_turn("serving", &other)),
    }
}

fn out_of_turn(expected: &'static str, said: &Message) -> GiveError {
    ChannelError::OutOfTurn { expected, said: said.word() }.into()
}
