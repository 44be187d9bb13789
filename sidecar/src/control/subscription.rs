//! The sidecar's ear at the CA: one stream that brings policy and revocations and takes acknowledgements and reports,
//! opened anew for ever, and with the new certificate before the old stream is given up.

mod hello;
mod kept;
mod slice;
mod status;
mod update_handler;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::wire::v1::SidecarReport;
use postern_proto::wire::v1::sidecar_report::Report;
use postern_proto::wire::v1::sidecar_update::Update;
use ring::rand::SystemRandom;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::IdentitySource;
use crate::control::ControlState;
use crate::error_text::one_line;
use crate::identity::ca_client::{CaClient, CaError, Subscribed, Timeouts};
use crate::identity::renewal::jitter;
use crate::identity::schedule::{Lifetime, Pause, Plan};
use crate::identity::state_dir::{StateFile, off_thread};
use kept::{Kept, KeptError};
pub use slice::TakeError;
pub use status::{SubscriptionError, SubscriptionState, SubscriptionStatus};
use update_handler::UpdateHandler;

/// How often the CA is told of calls that no rule allows.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// A stream that lived as long as this does not count as a failure to subscribe.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// At its end, the sidecar waits so long for the CA to have read the last reports.
const FAREWELL: Duration = Duration::from_secs(1);

/// Listens to the CA.
#[derive(Debug)]
pub struct Subscription {
    control: Arc<ControlState>,
    client: CaClient,
    file: Option<StateFile>,
    taking: UpdateHandler,
    instance: Arc<str>,
    stream: Option<Box<Subscribed>>,
    report_calls: bool,
    /// In a row.
    failures: u32,
    random: SystemRandom,
}

type Attempt = Pin<Box<dyn Future<Output = Result<Subscribed, CaError>> + Send>>;

/// What happened to the stream, or what it is time for.
enum Event {
    Said(Result<Option<Update>, CaError>),
    Opened(Result<Box<Subscribed>, CaError>),
    /// The identity is another, or the own policy file, of which the hello speaks.
    Changed,
    MayReport(Option<mpsc::OwnedPermit<SidecarReport>>),
    ReportCalls,
}

impl Subscription {
    /// For a sidecar that has a CA.
    pub fn new(control: Arc<ControlState>) -> Option<Self> {
        let IdentitySource::Ca { ca, state_dir, .. } = &control.config.identity else { return None };
        let random = SystemRandom::new();
        Some(Self {
            client: CaClient::new(ca.clone(), control.name_servers.clone(), Timeouts::default()),
            file: state_dir.as_deref().map(Kept::file),
            taking: UpdateHandler::new(control.clone()),
            instance: hello::instance(&random),
            stream: None,
            report_calls: false,
            failures: 0,
            random,
            control,
        })
    }

    /// Puts in force what was kept over a restart; before anybody is served. What is unusable is set aside.
    pub async fn restore(&mut self) {
        let Some(file) = self.file.clone() else { return };
        let reading = file.clone();
        let loaded = off_thread(move || reading.read()).await.map_err(KeptError::from);
        let restored = match loaded {
            Ok(None) => return,
            Ok(Some(bytes)) => Kept::parse(&bytes).and_then(|kept| self.taking.restore(kept)),
            Err(error) => Err(error),
        };
        let Err(error) = restored else { return };
        let (path, reason) = (file.path(), one_line(&error));
        warn!(path = %path.display(), reason, "what the CA said before the restart is not used");
        if error.is_of_content()
            && let Err(error) = off_thread(move || file.set_aside()).await
        {
            warn!(reason = one_line(&error), "a damaged file stays where it is");
        }
    }

    /// Listens until `cancel`; then tells what is left to tell.
    pub async fn run(mut self, cancel: CancellationToken) {
        let kept = self.taking.kept.subscribe();
        let keeper = self.file.take().map(|file| tokio::spawn(keep(file, kept)));
        cancel.run_until_cancelled(self.listen()).await;
        self.take_leave().await;
        drop(self);
        if let Some(keeper) = keeper
            && let Err(error) = keeper.await
        {
            warn!(%error, "the keeper of the policy failed");
        }
    }

    async fn listen(&mut self) {
        let mut credentials = self.control.credentials.changes();
        let mut policy = self.control.policy.changes();
        let own_file = self.control.config.policy_file.is_some();
        let mut time_to_report = interval(REPORT_INTERVAL);
        time_to_report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempt = Some(self.attempt(Plan::at_once(self.control.clock.now())));
        self.tell_status(None);
        loop {
            let reports = self.stream.as_ref().map(|stream| stream.reports.clone());
            let event = tokio::select! {
                biased;
                said = said(&mut self.stream) => Event::Said(said),
                opened = opened(&mut attempt) => Event::Opened(opened),
                _ = credentials.changed() => Event::Changed,
                _ = policy.changed(), if own_file => Event::Changed,
                permit = room(reports), if self.has_report() => Event::MayReport(permit),
                _ = time_to_report.tick() => Event::ReportCalls,
            };
            match event {
                Event::Said(Ok(Some(update))) => self.taking.take(update),
                Event::Said(Ok(None)) => warn!("the CA said something that this version does not know"),
                Event::Said(Err(error)) => self.lost(&error, &mut attempt),
                Event::MayReport(None) => self.lost(&CaError::Ended, &mut attempt),
                Event::MayReport(Some(permit)) => self.report(permit),
                Event::Opened(Ok(stream)) => {
                    attempt = None;
                    self.connected(stream);
                }
                Event::Opened(Err(error)) => attempt = Some(self.failed(&error)),
                Event::Changed => attempt = Some(self.attempt(Plan::at_once(self.control.clock.now()))),
                Event::ReportCalls => self.report_calls = true,
            }
        }
    }

    fn has_report(&self) -> bool {
        self.report_calls || self.taking.acknowledgement.is_some()
    }

    fn report(&mut self, permit: mpsc::OwnedPermit<SidecarReport>) {
        let report = match self.taking.acknowledgement.take() {
            Some(acknowledgement) => Some(Report::Acknowledgement(acknowledgement)),
            None => self.control.call_counts.take().map(Report::Calls),
        };
        match report {
            Some(report) => {
                permit.send(SidecarReport { report: Some(report) });
            }
            None => self.report_calls = false,
        }
    }

    /// A stream for the newest identity takes the place of the one before.
    fn connected(&mut self, stream: Box<Subscribed>) {
        let again = self.stream.is_some();
        info!(generation = stream.generation, again, "subscribed at the CA");
        self.control.subscription.send_modify(|status| {
            status.opened += 1;
            status.generation = stream.generation;
            status.connected_at = Some(self.control.clock.now());
            status.next_attempt = None;
        });
        self.stream = Some(stream);
        self.report_calls = true;
        self.tell_status(None);
    }

    fn lost(&mut self, cause: &CaError, attempt: &mut Option<Attempt>) {
        self.stream = None;
        let connected_at = self.control.subscription.borrow().connected_at;
        if connected_at.is_some_and(|since| self.control.clock.now() - since > STEADY_AFTER) {
            self.failures = 0;
        }
        let next = self.failed(cause);
        // One that is under way, with a newer identity, is not put off.
        attempt.get_or_insert(next);
    }

    /// Tells why there is no stream, or no newer one, and when it is tried again.
    fn failed(&mut self, cause: &CaError) -> Attempt {
        if cause.says_revoked() {
            self.taking.own_identity_refused();
        }
        self.failures = self.failures.saturating_add(1);
        let pause = Pause { retry_after: cause.retry_after(), jitter: jitter(&self.random) };
        let plan = Plan::to_retry(self.control.clock.now(), self.life(), self.failures, pause);
        warn!(code = cause.code(), reason = one_line(cause), next_attempt = %plan.at(), "not subscribed at the CA");
        self.control.subscription.send_modify(|status| status.next_attempt = Some(plan.at()));
        self.tell_status(Some(cause));
        self.attempt(plan)
    }

    fn tell_status(&self, trouble: Option<&CaError>) {
        let (state, now) = match self.stream {
            Some(_) => (SubscriptionState::Connected, self.control.clock.now()),
            None => (SubscriptionState::Disconnected, self.control.clock.now()),
        };
        let last_error =
            trouble.map(|cause| SubscriptionError { at: now, code: cause.code(), reason: one_line(cause) });
        self.control.metrics.subscription_connected(state == SubscriptionState::Connected);
        self.control
            .subscription
            .send_modify(|status| (status.state, status.last_error) = (state, last_error));
    }

    fn life(&self) -> Option<Lifetime> {
        let credentials = self.control.credentials.current()?;
        let svid = credentials.svid.verified();
        let (not_before, not_after) = (svid.not_before(), svid.not_after());
        Some(Lifetime { not_before, not_after, obtained: not_before })
    }

    /// Subscribes when the plan is due by the wall clock, which may jump meanwhile, and an identity is there.
    fn attempt(&self, mut plan: Plan) -> Attempt {
        let (control, client) = (self.control.clone(), self.client.clone());
        let (instance, life) = (self.instance.clone(), self.life());
        Box::pin(async move {
            loop {
                let now = control.clock.now();
                plan = plan.seen_at(now, None);
                let credentials = control.credentials.current().filter(|own| !own.is_expired(now));
                match credentials {
                    Some(own) if plan.is_due(now) => {
                        return client.subscribe(&own, hello::hello(&control, &instance)).await;
                    }
                    _ => tokio::time::sleep(wait(&plan, now, life)).await,
                }
            }
        })
    }

    /// Tells the CA what it has not been told, and ends the stream.
    async fn take_leave(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        while let Ok(permit) = stream.reports.clone().try_reserve_owned()
            && let Some(calls) = self.control.call_counts.take()
        {
            permit.send(SidecarReport { report: Some(Report::Calls(calls)) });
        }
        // A CA that does not end its side is not waited for.
        let _ended_or_late = timeout(FAREWELL, stream.ended()).await;
    }
}

/// Never nothing: without an identity a plan that is due waits for one.
fn wait(plan: &Plan, now: OffsetDateTime, life: Option<Lifetime>) -> Duration {
    match plan.is_due(now) {
        true => crate::identity::schedule::WAKE_INTERVAL_MAX,
        false => plan.wake_in(now, life),
    }
}

async fn said(stream: &mut Option<Box<Subscribed>>) -> Result<Option<Update>, CaError> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn opened(attempt: &mut Option<Attempt>) -> Result<Box<Subscribed>, CaError> {
    match attempt {
        Some(attempt) => attempt.await.map(Box::new),
        None => std::future::pending().await,
    }
}

/// Room for one report; `None` when the stream takes no more.
async fn room(reports: Option<mpsc::Sender<SidecarReport>>) -> Option<mpsc::OwnedPermit<SidecarReport>> {
    match reports {
        Some(reports) => reports.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

/// Writes each change to the disk until no more come.
async fn keep(file: StateFile, mut kept: watch::Receiver<Kept>) {
    while kept.changed().await.is_ok() {
        let (json, file) = (kept.borrow_and_update().to_json(), file.clone());
        if let Err(error) = off_thread(move || file.replace(json.as_bytes())).await {
            warn!(reason = one_line(&error), "what the CA said is not kept for a restart");
        }
    }
}
