//! The addresses of one upstream, an app or a remote service: resolution, load balancing, connecting and ejection.

pub mod attempt;
pub(crate) mod host;
pub mod load_balancer;
mod register;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::{HostPort, Limits};
use crate::error_text::one_line;
use crate::network::dial::{Progress, RaceResult, race};
use crate::network::resolver::name::{self, Answer, ResolutionState};
use crate::network::resolver::{NameServers, OTHER_FAMILY_DELAY, OTHER_FAMILY_DELAY_UNHURRIED};
use crate::network::{ConnectError, Unreached};
use crate::observability::metrics::{ListenerSeries, Metrics};
pub use attempt::{Attempt, SelectedAddress};
use host::UpstreamHost;
use load_balancer::{Address, AddressHandle, AddressId, LoadBalancer, Record, Selection};
pub use register::{ADDRESSES_SHOWN_MAX, UpstreamRegister};

/// One address, for a pool that chooses among all.
#[derive(Debug, Clone)]
pub(crate) struct KnownAddress {
    pub(crate) id: AddressId,
    pub(crate) handle: AddressHandle,
}

/// The addresses of one upstream.
#[derive(Debug)]
pub struct Upstreams {
    /// Metrics of the listener.
    pub(crate) series: Arc<ListenerSeries>,
    limits: Limits,
    name_servers: NameServers,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Incremented with each change of the addresses.
    version: AtomicU64,
    /// Requests that wait for a connection.
    pub(crate) waiting: AtomicUsize,
    /// Notifies tasks that wait for the first DNS answer.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    hosts: Vec<UpstreamHost>,
    load_balancer: LoadBalancer,
    random: fastrand::Rng,
}

impl Upstreams {
    pub fn new(
        to: &[HostPort],
        series: Arc<ListenerSeries>,
        limits: Limits,
        name_servers: NameServers,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let hosts = to.iter().map(UpstreamHost::new).collect();
        let mut state = State { hosts, load_balancer: LoadBalancer::default(), random: fastrand::Rng::new() };
        state.take_over_addresses();
        let (state, changed) = (Mutex::new(state), watch::Sender::default());
        let (version, waiting) = (AtomicU64::new(1), AtomicUsize::new(0));
        Arc::new(Self { series, limits, name_servers, metrics, state, version, waiting, changed })
    }

    /// Refreshes the DNS answers in the background, so that no connection waits for one, until `over`.
    pub async fn run_background(&self, over: CancellationToken) {
        let names: Vec<_> = self.state().hosts.iter().map(|place| place.name().map(str::to_owned)).collect();
        let tending = names.into_iter().enumerate().filter_map(|(at, name)| Some(self.keep_fresh(at, name?)));
        over.run_until_cancelled(join_all(tending)).await;
    }

    async fn keep_fresh(&self, at: usize, name: String) {
        // Connections may wait for the first answer.
        let mut delay = OTHER_FAMILY_DELAY;
        loop {
            let looked_up = self.name_servers.look_up(&name, delay).await;
            delay = OTHER_FAMILY_DELAY_UNHURRIED;
            let answer = looked_up.map_err(|error| one_line(&error));
            tokio::time::sleep(self.learn(at, &name, answer)).await;
        }
    }

    /// Applies a DNS answer. Returns how long it is valid.
    fn learn(&self, at: usize, name: &str, answer: Result<Answer, String>) -> Duration {
        let mut state = self.state();
        let Some(known) = state.hosts.get_mut(at).and_then(UpstreamHost::known_mut) else {
            return name::TTL_MAX;
        };
        let before = known.clone();
        let good_for = match answer {
            Ok(answer) => known.apply(answer),
            Err(error) => known.record_failure(error),
        };
        let (standing, addresses) = (known.state.clone(), known.addresses.len());
        let is_other = known.addresses != before.addresses;
        if is_other {
            state.take_over_addresses();
            self.version.fetch_add(1, Ordering::Release);
        }
        drop(state);
        self.changed.send_replace(());
        self.metrics.looked_up(standing.as_str());
        match &standing {
            // Logged once per change, not at each attempt.
            _ if before.state.as_str() == standing.as_str() && !is_other => {}
            ResolutionState::Answered if before.state == ResolutionState::Answered => {
                debug!(name, addresses, "resolved to others");
            }
            ResolutionState::Answered => info!(name, addresses, "resolved"),
            standing => warn!(name, kept = addresses, reason = %standing, "cannot be resolved"),
        }
        good_for
    }

    /// A new connection attempt.
    pub fn attempt(self: &Arc<Self>) -> Attempt {
        Attempt::new(self.clone())
    }

    /// Connects to an address. An established connection counts as success.
    pub async fn connect(self: &Arc<Self>) -> Result<(TcpStream, SelectedAddress), Unreached> {
        let mut attempt = self.attempt();
        let attempts = stream::unfold(&mut attempt, |attempt| async {
            let mut leased = attempt.next().await?;
            let connecting = async move {
                match leased.connect().await {
                    Ok(stream) => Ok((stream, leased)),
                    Err(error) => Err((leased.id(), error)),
                }
            };
            Some((Box::pin(connecting), attempt))
        });
        match race(attempts, &Progress::default()).await {
            Ok(RaceResult { value: (stream, mut leased), failed }) => {
                leased.succeeded();
                attempt.won(&leased, &attempt.under_way(failed.iter().map(|(id, _)| *id)));
                Ok((stream, leased))
            }
            Err(failed) => Err(attempt.unreached(failed.into_iter().map(|(_, error)| error).collect())),
        }
    }

    /// The next address, and whether names are still unresolved.
    fn pick(&self, tried: &[(AddressId, SocketAddr)]) -> (Option<Selection>, bool) {
        let mut state = self.state();
        let random = state.random.u64(..);
        let selected = state.load_balancer.pick(now(), random, tried);
        (selected, state.hosts.iter().any(|place| place.standing() == &ResolutionState::Asked))
    }

    fn succeeded(&self, id: AddressId) -> Record {
        self.state().load_balancer.succeeded(id)
    }

    fn failed(&self, id: AddressId, address: SocketAddr, before: Option<Record>) {
        let mut state = self.state();
        let random = state.random.u64(..);
        let ejected = state.load_balancer.failed(id, before, now(), random);
        drop(state);
        let direction = self.series.direction;
        self.metrics.upstream_failed(direction);
        if let Some(length) = ejected {
            self.metrics.ejected(direction);
            let direction = direction.as_str();
            warn!(direction, %address, ?length, "ejected: it failed again and again");
        }
    }

    /// Prefers this one of a host's two addresses.
    fn prefer(&self, id: AddressId, at: SocketAddr) {
        if self.state().load_balancer.prefer(id, at) {
            info!(direction = self.series.direction.as_str(), address = %at, "answers at its other address");
        }
    }

    fn left(&self, id: AddressId) {
        self.state().load_balancer.left(id);
    }

    fn all_ejected(&self) -> bool {
        self.state().load_balancer.all_ejected(now())
    }

    /// The names without addresses, and the number of addresses that were not tried.
    fn left_out(&self, tried: &[(AddressId, SocketAddr)]) -> (Vec<ConnectError>, usize) {
        let state = self.state();
        let nowhere = state.hosts.iter().filter(|place| place.endpoints().is_empty());
        let unresolved = nowhere
            .map(|place| ConnectError::Resolve { at: place.at.clone(), state: place.standing().clone() });
        let addresses = state.load_balancer.addresses();
        (
            unresolved.collect(),
            addresses.iter().filter(|address| tried.iter().all(|(id, _)| *id != address.id())).count(),
        )
    }

    /// The version of the addresses.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All addresses, in an order that differs between processes.
    pub(crate) fn known(&self) -> Vec<KnownAddress> {
        let mut state = self.state();
        let random = state.random.u64(..) as usize;
        let known = |address: &Address| KnownAddress { id: address.id(), handle: address.handle().clone() };
        let mut all: Vec<_> = state.load_balancer.addresses().iter().map(known).collect();
        let middle = random.checked_rem(all.len()).unwrap_or_default();
        all.rotate_left(middle);
        all
    }

    /// Selects the address with this identifier and counts a connection in flight, if the address still exists.
    pub(crate) fn lease(self: &Arc<Self>, id: AddressId) -> Option<SelectedAddress> {
        let mut state = self.state();
        let random = state.random.u64(..);
        let selected = state.load_balancer.take(id, now(), random)?;
        drop(state);
        Some(SelectedAddress::new(self.clone(), selected))
    }

    /// Waits up to `connect_timeout` for the first address while a name is unresolved.
    pub(crate) async fn first_address(&self) {
        let mut changes = self.changes();
        let known = || {
            let state = self.state();
            let asked = state.hosts.iter().any(|place| place.standing() == &ResolutionState::Asked);
            !asked || !state.load_balancer.addresses().is_empty()
        };
        let answered = async { while !known() && changes.changed().await.is_ok() {} };
        // The caller checks whether there is an address.
        let _in_time = tokio::time::timeout(self.limits.connect_timeout, answered).await;
    }

    /// The causes of a failure other than the errors at tried addresses: names without addresses, and whether all
    /// addresses were ejected.
    pub(crate) fn other_failures(&self) -> Unreached {
        let state = self.state();
        let nowhere = state.hosts.iter().filter(|place| place.endpoints().is_empty());
        let errors = nowhere
            .map(|place| ConnectError::Resolve { at: place.at.clone(), state: place.standing().clone() })
            .collect();
        drop(state);
        Unreached { errors, untried: 0, all_were_ejected: self.all_ejected() }
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_over_addresses(&mut self) {
        let all = self.hosts.iter().flat_map(UpstreamHost::endpoints);
        self.load_balancer.replace(&all.collect::<Vec<_>>());
    }
}

/// The monotonic clock for back-off, independent of the wall clock.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
