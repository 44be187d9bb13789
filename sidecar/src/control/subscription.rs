//! The subscription to the CA: one stream that receives policy and revocations, and sends acknowledgements and reports.
//! It is reopened after each failure. After a certificate renewal, the new stream is opened before the old one is
//! closed.

mod hello;
mod persisted;
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
use crate::identity::ca_client::{CaClient, CaError, SubscriptionStream, Timeouts};
use crate::identity::renewal::jitter;
use crate::identity::schedule::{CertificateLifetime, RetryDelay, Schedule};
use crate::identity::state_dir::{StateFile, run_blocking};
use persisted::{PersistedState, PersistedStateError};
pub use slice::SliceRejection;
pub use status::{SubscriptionError, SubscriptionState, SubscriptionStatus};
use update_handler::UpdateHandler;

/// Interval between reports to the CA about calls that no rule allows.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// A stream that was open for this long resets the count of failures.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// At shutdown, maximum time to wait for the CA to read the last reports.
const LAST_REPORTS_WAIT: Duration = Duration::from_secs(1);

/// Maintains the subscription stream.
#[derive(Debug)]
pub struct Subscription {
    control: Arc<ControlState>,
    client: CaClient,
    file: Option<StateFile>,
    updates: UpdateHandler,
    instance: Arc<str>,
    stream: Option<Box<SubscriptionStream>>,
    report_calls: bool,
    /// Consecutive failures.
    failures: u32,
    random: SystemRandom,
}

type Attempt = Pin<Box<dyn Future<Output = Result<SubscriptionStream, CaError>> + Send>>;

/// An event of the subscription loop.
enum Event {
    Update(Result<Option<Update>, CaError>),
    Opened(Result<Box<SubscriptionStream>, CaError>),
    /// The identity or the local policy file has changed; the hello contains both.
    Changed,
    MayReport(Option<mpsc::OwnedPermit<SidecarReport>>),
    ReportCalls,
}

impl Subscription {
    /// Creates a subscription; `None` if the sidecar has no CA.
    pub fn new(control: Arc<ControlState>) -> Option<Self> {
        let IdentitySource::Ca { ca, state_dir, .. } = &control.config.identity else { return None };
        let random = SystemRandom::new();
        Some(Self {
            client: CaClient::new(ca.clone(), control.name_servers.clone(), Timeouts::default()),
            file: state_dir.as_deref().map(PersistedState::file),
            updates: UpdateHandler::new(control.clone()),
            instance: hello::instance(&random),
            stream: None,
            report_calls: false,
            failures: 0,
            random,
            control,
        })
    }

    /// Applies the state that was persisted across a restart, before connections are accepted. An unusable file is set
    /// aside.
    pub async fn restore(&mut self) {
        let Some(file) = self.file.clone() else { return };
        let reading = file.clone();
        let loaded = run_blocking(move || reading.read()).await.map_err(PersistedStateError::from);
        let restored = match loaded {
            Ok(None) => return,
            Ok(Some(bytes)) => {
                PersistedState::parse(&bytes).and_then(|persisted| self.updates.restore(persisted))
            }
            Err(error) => Err(error),
        };
        let Err(error) = restored else { return };
        let (path, reason) = (file.path(), one_line(&error));
        warn!(path = %path.display(), reason, "what the CA said before the restart is not used");
        if error.is_invalid_content()
            && let Err(error) = run_blocking(move || file.set_aside()).await
        {
            warn!(reason = one_line(&error), "a damaged file stays where it is");
        }
    }

    /// Runs until `cancel`, then sends the remaining reports.
    pub async fn run(mut self, cancel: CancellationToken) {
        let persisted = self.updates.persisted.subscribe();
        let saving = self.file.take().map(|file| tokio::spawn(save(file, persisted)));
        cancel.run_until_cancelled(self.run_stream()).await;
        self.send_last_reports().await;
        drop(self);
        if let Some(saving) = saving
            && let Err(error) = saving.await
        {
            warn!(%error, "the keeper of the policy failed");
        }
    }

    async fn run_stream(&mut self) {
        let mut credentials = self.control.credentials.changes();
        let mut policy = self.control.policy.changes();
        let own_file = self.control.config.policy_file.is_some();
        let mut time_to_report = interval(REPORT_INTERVAL);
        time_to_report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempt = Some(self.attempt(Schedule::immediate(self.control.clock.now())));
        self.publish_status(None);
        loop {
            let reports = self.stream.as_ref().map(|stream| stream.reports.clone());
            let event = tokio::select! {
                biased;
                received = received(&mut self.stream) => Event::Update(received),
                opened = opened(&mut attempt) => Event::Opened(opened),
                _ = credentials.changed() => Event::Changed,
                _ = policy.changed(), if own_file => Event::Changed,
                permit = send_permit(reports), if self.has_report() => Event::MayReport(permit),
                _ = time_to_report.tick() => Event::ReportCalls,
            };
            match event {
                Event::Update(Ok(Some(update))) => self.updates.apply(update),
                Event::Update(Ok(None)) => warn!("the CA said something that this version does not know"),
                Event::Update(Err(error)) => self.on_lost(&error, &mut attempt),
                Event::MayReport(None) => self.on_lost(&CaError::Ended, &mut attempt),
                Event::MayReport(Some(permit)) => self.report(permit),
                Event::Opened(Ok(stream)) => {
                    attempt = None;
                    self.on_connected(stream);
                }
                Event::Opened(Err(error)) => attempt = Some(self.on_failure(&error)),
                Event::Changed => attempt = Some(self.attempt(Schedule::immediate(self.control.clock.now()))),
                Event::ReportCalls => self.report_calls = true,
            }
        }
    }

    fn has_report(&self) -> bool {
        self.report_calls || self.updates.acknowledgement.is_some()
    }

    fn report(&mut self, permit: mpsc::OwnedPermit<SidecarReport>) {
        let report = match self.updates.acknowledgement.take() {
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

    /// Replaces the old stream by one for the newest identity.
    fn on_connected(&mut self, stream: Box<SubscriptionStream>) {
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
        self.publish_status(None);
    }

    fn on_lost(&mut self, cause: &CaError, attempt: &mut Option<Attempt>) {
        self.stream = None;
        let connected_at = self.control.subscription.borrow().connected_at;
        if connected_at.is_some_and(|since| self.control.clock.now() - since > STABLE_AFTER) {
            self.failures = 0;
        }
        let next = self.on_failure(cause);
        // An attempt in progress, with a newer identity, is not delayed.
        attempt.get_or_insert(next);
    }

    /// Records a failed attempt or a lost stream and schedules the next attempt.
    fn on_failure(&mut self, cause: &CaError) -> Attempt {
        if cause.is_revocation() {
            self.updates.revoke_own_identity();
        }
        self.failures = self.failures.saturating_add(1);
        let delay = RetryDelay { retry_after: cause.retry_after(), jitter: jitter(&self.random) };
        let schedule = Schedule::for_retry(self.control.clock.now(), self.lifetime(), self.failures, delay);
        warn!(code = cause.code(), reason = one_line(cause), next_attempt = %schedule.at(), "not subscribed at the CA");
        self.control.subscription.send_modify(|status| status.next_attempt = Some(schedule.at()));
        self.publish_status(Some(cause));
        self.attempt(schedule)
    }

    fn publish_status(&self, error: Option<&CaError>) {
        let (state, now) = match self.stream {
            Some(_) => (SubscriptionState::Connected, self.control.clock.now()),
            None => (SubscriptionState::Disconnected, self.control.clock.now()),
        };
        let last_error =
            error.map(|cause| SubscriptionError { at: now, code: cause.code(), reason: one_line(cause) });
        self.control.metrics.subscription_connected(state == SubscriptionState::Connected);
        self.control
            .subscription
            .send_modify(|status| (status.state, status.last_error) = (state, last_error));
    }

    fn lifetime(&self) -> Option<CertificateLifetime> {
        let credentials = self.control.credentials.current()?;
        let svid = credentials.svid.verified();
        let (not_before, not_after) = (svid.not_before(), svid.not_after());
        Some(CertificateLifetime { not_before, not_after, obtained: not_before })
    }

    /// Subscribes when the attempt is due by the wall clock, which may be changed meanwhile, and an identity exists.
    fn attempt(&self, mut schedule: Schedule) -> Attempt {
        let (control, client) = (self.control.clone(), self.client.clone());
        let (instance, lifetime) = (self.instance.clone(), self.lifetime());
        Box::pin(async move {
            loop {
                let now = control.clock.now();
                schedule = schedule.adjusted_to_clock(now, None);
                let credentials = control.credentials.current().filter(|own| !own.is_expired(now));
                match credentials {
                    Some(own) if schedule.is_due(now) => {
                        return client.subscribe(&own, hello::hello(&control, &instance)).await;
                    }
                    _ => tokio::time::sleep(wait(&schedule, now, lifetime)).await,
                }
            }
        })
    }

    /// Sends the remaining reports and closes the stream.
    async fn send_last_reports(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        while let Ok(permit) = stream.reports.clone().try_reserve_owned()
            && let Some(calls) = self.control.call_counts.take()
        {
            permit.send(SidecarReport { report: Some(Report::Calls(calls)) });
        }
        // Do not wait for a CA that does not close its side.
        let _ended_or_late = timeout(LAST_REPORTS_WAIT, stream.ended()).await;
    }
}

/// The time to sleep. Never zero: if the attempt is due but there is no identity, waits for one.
fn wait(schedule: &Schedule, now: OffsetDateTime, lifetime: Option<CertificateLifetime>) -> Duration {
    match schedule.is_due(now) {
        true => crate::identity::schedule::WAKE_INTERVAL_MAX,
        false => schedule.sleep_time(now, lifetime),
    }
}

async fn received(stream: &mut Option<Box<SubscriptionStream>>) -> Result<Option<Update>, CaError> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn opened(attempt: &mut Option<Attempt>) -> Result<Box<SubscriptionStream>, CaError> {
    match attempt {
        Some(attempt) => attempt.await.map(Box::new),
        None => std::future::pending().await,
    }
}

/// Waits for queue capacity for one report; `None` if the stream is closed.
async fn send_permit(
    reports: Option<mpsc::Sender<SidecarReport>>,
) -> Option<mpsc::OwnedPermit<SidecarReport>> {
    match reports {
        Some(reports) => reports.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

/// Saves each change to disk until the sender is dropped.
async fn save(file: StateFile, mut persisted: watch::Receiver<PersistedState>) {
    while persisted.changed().await.is_ok() {
        let (json, file) = (persisted.borrow_and_update().to_json(), file.clone());
        if let Err(error) = run_blocking(move || file.replace(json.as_bytes())).await {
            warn!(reason = one_line(&error), "what the CA said is not kept for a restart");
        }
    }
}
