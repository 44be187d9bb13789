//! What the fake CA tells its subscribers, and what it hears of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_proto::identity::{SpiffeId, VerifiedSvid};
use postern_proto::policy::Policy;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use postern_proto::wire::v1::{
    PolicyAcknowledgement, PolicySlice, RevokedIdentities, SidecarHello, SidecarReport, SidecarUpdate,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

type Updates = mpsc::UnboundedSender<Result<SidecarUpdate, Status>>;

/// All subscribers of one CA.
#[derive(Default)]
pub struct Subscriptions {
    said: Mutex<Said>,
    heard: watch::Sender<Vec<Heard>>,
}

/// One report.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Streams are numbered as they came, from 1.
    pub stream: usize,
    pub from: VerifiedSvid,
    pub report: Report,
}

#[derive(Default)]
struct Said {
    policy: Option<(Policy, u64)>,
    revoked: Vec<String>,
    refusal: Option<Status>,
    opened: usize,
    live: Vec<Live>,
}

struct Live {
    id: SpiffeId,
    hello: SidecarHello,
    updates: Updates,
}

impl Subscriptions {
    /// Stores a policy and tells each subscriber its slice.
    pub fn apply(&self, version: u64, text: &str) {
        let policy = Policy::parse("shop.toml", text).unwrap_or_else(|problems| panic!("{problems:?}"));
        let mut said = self.said.lock().unwrap();
        said.policy = Some((policy, version));
        said.tell_all(|said, live| said.slice(&live.id, &live.hello).map(Update::Policy));
    }

    /// Says which identities are revoked.
    pub fn revoke(&self, ids: &[&str]) {
        let mut said = self.said.lock().unwrap();
        said.revoked = ids.iter().map(|id| (*id).to_owned()).collect();
        said.tell_all(|said, _| Some(said.list()));
    }

    /// Says this to everybody, whatever it is.
    pub fn say(&self, update: Option<Update>) {
        for live in &self.said.lock().unwrap().live {
            let _gone = live.updates.send(Ok(SidecarUpdate { update: update.clone() }));
        }
    }

    /// Sends everybody away, and whoever comes next.
    pub fn refuse(&self, refusal: Option<Status>) {
        let mut said = self.said.lock().unwrap();
        for live in std::mem::take(&mut said.live) {
            if let Some(refusal) = &refusal {
                let _gone = live.updates.send(Err(refusal.clone()));
            }
        }
        said.refusal = refusal;
    }

    /// The first report that is such.
    pub async fn until<T>(&self, what: &str, such: impl Fn(&Heard) -> Option<T>) -> T {
        let mut heard = self.heard.subscribe();
        let found = heard.wait_for(|all| all.iter().any(|one| such(one).is_some()));
        if let Ok(all) = tokio::time::timeout(PATIENCE, found).await {
            return all.unwrap().iter().find_map(such).unwrap();
        }
        panic!("never heard {what}, but {:?}", self.heard.borrow())
    }

    pub async fn acknowledged(&self, version: u64) -> PolicyAcknowledgement {
        self.until(&format!("an acknowledgement of {version}"), |heard| match &heard.report {
            Report::Acknowledgement(told) if told.version == version => Some(told.clone()),
            _ => None,
        })
        .await
    }

    pub async fn hello(&self, stream: usize) -> (VerifiedSvid, SidecarHello) {
        self.until(&format!("stream {stream}"), |heard| match &heard.report {
            Report::Hello(hello) if heard.stream == stream => Some((heard.from.clone(), hello.clone())),
            _ => None,
        })
        .await
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }

    /// Serves one subscriber.
    pub(super) async fn serve(
        self: &Arc<Self>,
        from: VerifiedSvid,
        mut reports: Streaming<SidecarReport>,
    ) -> Result<UnboundedReceiverStream<Result<SidecarUpdate, Status>>, Status> {
        if let Some(refusal) = self.said.lock().unwrap().refusal.clone() {
            return Err(refusal);
        }
        let Some(SidecarReport { report: Some(Report::Hello(hello)) }) = reports.message().await? else {
            return Err(Status::invalid_argument("the first report is no hello"));
        };
        let (updates, stream) = mpsc::unbounded_channel();
        let number = self.said.lock().unwrap().welcome(from.id().clone(), hello.clone(), updates.clone());
        self.hear(Heard { stream: number, from: from.clone(), report: Report::Hello(hello) });
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(SidecarReport { report: Some(report) })) = reports.message().await {
                this.hear(Heard { stream: number, from: from.clone(), report });
            }
            this.said.lock().unwrap().live.retain(|live| !live.updates.same_channel(&updates));
        });
        Ok(UnboundedReceiverStream::new(stream))
    }

    fn hear(&self, heard: Heard) {
        self.heard.send_modify(|all| all.push(heard));
    }
}

impl Said {
    fn welcome(&mut self, id: SpiffeId, hello: SidecarHello, updates: Updates) -> usize {
        let first = [self.slice(&id, &hello).map(Update::Policy), Some(self.list())];
        for update in first.into_iter().flatten() {
            let _gone = updates.send(Ok(SidecarUpdate { update: Some(update) }));
        }
        self.live.push(Live { id, hello, updates });
        self.opened += 1;
        self.opened
    }

    fn tell_all(&self, update: impl Fn(&Self, &Live) -> Option<Update>) {
        for live in &self.live {
            if let Some(update) = update(self, live) {
                let _gone = live.updates.send(Ok(SidecarUpdate { update: Some(update) }));
            }
        }
    }

    /// None for a subscriber with a policy of its own.
    fn slice(&self, id: &SpiffeId, hello: &SidecarHello) -> Option<PolicySlice> {
        if !hello.own_policy_digest.is_empty() {
            return None;
        }
        let slice =
            self.policy.as_ref().map(|(policy, version)| policy.slice_for(id, &hello.services, *version));
        Some(slice.unwrap_or_default())
    }

    fn list(&self) -> Update {
        Update::Revoked(RevokedIdentities { ids: self.revoked.clone() })
    }
}
