//! A sidecar's stream: its hello, then the newest policy and revocations down and what it reports up, until its
//! certificate ends, its identity is revoked, or the CA ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{PolicySlice, RevokedIdentities, SidecarReport, SidecarUpdate};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use super::active_streams::ActiveStream;
use super::{Caller, Shared, errors};
use crate::subscriptions::{Hello, Subscription};

/// Where there is no place, a sidecar may come back after this.
const FULL_WAIT: Duration = Duration::from_secs(10);
/// A certificate's end is looked for at least this often: the wall clock may jump.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// What one sidecar is told. At most one update waits for a slow reader; the next is made when that one is taken.
#[derive(Debug)]
pub struct Updates {
    updates: mpsc::Receiver<SidecarUpdate>,
    /// Why it ended, where that is not the sidecar's own wish.
    end: oneshot::Receiver<Status>,
}

impl Stream for Updates {
    type Item = Result<SidecarUpdate, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(update) = ready!(self.updates.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(update)));
        }
        Poll::Ready(self.end.try_recv().ok().map(Err))
    }
}

/// Reads the hello and begins to serve the sidecar.
pub(super) async fn open(
    shared: &Arc<Shared>,
    caller: &Caller,
    mut reports: Streaming<SidecarReport>,
) -> Result<Updates, Status> {
    let svid = caller.svid.as_ref().ok_or_else(|| {
        Status::unauthenticated("subscribing needs the current certificate, shown in the TLS handshake")
    })?;
    let (id, not_after) = (svid.id().clone(), svid.not_after());
    may_subscribe(shared, &id, not_after)?;
    let taken = shared.subscribing.take(id.clone(), Instant::now());
    taken.map_err(|wait| errors::busy(&format!("too many subscriptions of {id}"), wait))?;
    let hello = timeout(shared.request_timeout, reports.message()).await;
    let hello = hello.map_err(|_| Status::deadline_exceeded("no hello came in time"))??;
    let Some(Report::Hello(hello)) = hello.and_then(|first| first.report) else {
        return Err(Status::invalid_argument("a subscription begins with a hello"));
    };
    let hello = Hello::try_from(hello).map_err(|error| Status::invalid_argument(error.to_string()))?;
    // Time has passed.
    may_subscribe(shared, &id, not_after)?;
    let subscription = shared.broadcaster.enter(&id, &hello, OffsetDateTime::now_utc());
    let subscription = subscription.map_err(|full| errors::busy(&full.to_string(), FULL_WAIT))?;
    info!(%id, instance = %hello.instance, address = %caller.address, "subscribed");
    let (sender, updates) = mpsc::channel(1);
    let (ended, end) = oneshot::channel();
    let sidecar = Sidecar {
        shared: shared.clone(),
        id,
        not_after,
        hello,
        subscription,
        active_stream: caller.active_streams.open(),
    };
    shared.streams.spawn(sidecar.serve(reports, sender, ended));
    Ok(Updates { updates, end })
}

/// A certificate may be renewed for a while after its end, and do nothing else.
fn may_subscribe(shared: &Shared, id: &SpiffeId, not_after: OffsetDateTime) -> Result<(), Status> {
    match shared.broadcaster.revocation_of(id) {
        _ if OffsetDateTime::now_utc() > not_after => Err(expired(not_after)),
        Some(reason) => Err(revoked(id, &reason)),
        None => Ok(()),
    }
}

fn expired(not_after: OffsetDateTime) -> Status {
    Status::unauthenticated(format!("the certificate expired at {not_after}; subscribe with the next one"))
}

fn revoked(id: &SpiffeId, reason: &str) -> Status {
    Status::permission_denied(format!("{id} is revoked: {reason}"))
}

/// One sidecar that listens.
struct Sidecar {
    shared: Arc<Shared>,
    id: SpiffeId,
    not_after: OffsetDateTime,
    hello: Hello,
    subscription: Subscription,
    active_stream: ActiveStream,
}

/// How a stream ends.
enum End {
    /// The sidecar takes leave.
    Left,
    /// Its connection is gone, or it may not go on.
    Because(Status),
    Stopped,
}

impl Sidecar {
    async fn serve(
        mut self,
        reports: Streaming<SidecarReport>,
        updates: mpsc::Sender<SidecarUpdate>,
        ended: oneshot::Sender<Status>,
    ) {
        let end = self.run(reports, &updates).await;
        let Self { id, subscription, hello, active_stream, .. } = self;
        let reason = match &end {
            End::Left => "left",
            End::Stopped => "the CA ends",
            End::Because(status) => status.message(),
        };
        info!(%id, instance = %hello.instance, reason, "subscription ended");
        match end {
            End::Left => subscription.close(),
            End::Stopped => drop(subscription),
            End::Because(status) => {
                drop(subscription);
                // A sidecar that is gone needs no reason.
                let _gone = ended.send(status);
            }
        }
        drop((updates, active_stream));
    }

    async fn run(
        &mut self,
        mut reports: Streaming<SidecarReport>,
        updates: &mpsc::Sender<SidecarUpdate>,
    ) -> End {
        let (stop, not_after) = (self.shared.stop.clone(), self.not_after);
        let expiry = certificate_ends(not_after);
        tokio::pin!(expiry);
        let (mut policy_is_news, mut revoked_is_news) = (false, false);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = &mut expiry => return End::Because(expired(not_after)),
                // The senders live as long as `self`.
                Ok(()) = self.subscription.revoked.changed() => {
                    revoked_is_news = true;
                    if let Some(reason) = self.subscription.revoked.borrow_and_update().get(&self.id) {
                        return End::Because(revoked(&self.id, reason));
                    }
                }
                Ok(()) = self.subscription.policy.changed() => policy_is_news = self.hello.own_policy_digest.is_none(),
                permit = updates.reserve(), if policy_is_news || revoked_is_news => {
                    let Ok(permit) = permit else { return End::Because(Status::cancelled("the connection is gone")) };
                    let update = if std::mem::take(&mut revoked_is_news) {
                        Some(Update::Revoked(self.revoked_list()))
                    } else {
                        policy_is_news = false;
                        self.slice().map(Update::Policy)
                    };
                    if let Some(update) = update {
                        permit.send(SidecarUpdate { update: Some(update) });
                    }
                }
                report = reports.message() => match report {
                    Ok(Some(SidecarReport { report })) => if let Err(status) = self.on_report(report) {
                        return End::Because(status);
                    },
                    Ok(None) => return End::Left,
                    Err(status) => return End::Because(status),
                },
            }
        }
    }

    fn on_report(&self, report: Option<Report>) -> Result<(), Status> {
        match report {
            Some(Report::Acknowledgement(said)) => {
                if !said.refused.is_empty() {
                    let (version, reason) = (said.version, said.refused.escape_debug().to_string());
                    warn!(id = %self.id, instance = %self.hello.instance, version, reason, "policy not taken");
                }
                self.subscription.acknowledged(said, OffsetDateTime::now_utc());
            }
            Some(Report::Calls(calls)) => self.subscription.reported(calls, OffsetDateTime::now_utc()),
            Some(Report::Hello(_)) => return Err(Status::invalid_argument("a hello comes first, and once")),
            // A later version's report.
            None => {}
        }
        Ok(())
    }

    fn revoked_list(&self) -> RevokedIdentities {
        RevokedIdentities {
            ids: self.subscription.revoked.borrow().keys().map(ToString::to_string).collect(),
        }
    }

    /// What of the policy in force concerns this sidecar; nothing where that cannot be sent.
    fn slice(&mut self) -> Option<PolicySlice> {
        let Some(policy) = self.subscription.policy.borrow_and_update().clone() else {
            let trust_domain = self.shared.authority.trust_domain().to_string();
            return Some(PolicySlice { trust_domain, ..PolicySlice::default() });
        };
        match policy.slice(&self.id, &self.hello.services) {
            Ok(slice) => Some(PolicySlice::clone(&slice)),
            Err(error) => {
                warn!(id = %self.id, version = policy.version, %error, "policy not sent");
                self.subscription.not_sent(policy.version, &error);
                None
            }
        }
    }
}

async fn certificate_ends(not_after: OffsetDateTime) {
    while let Ok(left) = Duration::try_from(not_after - OffsetDateTime::now_utc())
        && !left.is_zero()
    {
        sleep(left.min(LOOK_INTERVAL)).await;
    }
}
