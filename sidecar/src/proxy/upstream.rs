//! The addresses of one place, an app or a service elsewhere: found, chosen, tried and judged.

pub mod attempt;
pub(crate) mod host;
pub mod load_balancer;
mod shown;

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
use crate::network::dial::{Progress, Won, race};
use crate::network::resolver::name::{self, Answer, ResolutionState};
use crate::network::resolver::{NameServers, OTHER_FAMILY_DELAY, OTHER_FAMILY_DELAY_UNHURRIED};
use crate::network::{ConnectError, Unreached};
use crate::observability::metrics::{ListenerSeries, Metrics};
pub use attempt::{Attempt, Leased};
use host::UpstreamHost;
use load_balancer::{Address, AddressId, Listing, LoadBalancer, Picked, Record};
pub use shown::{ADDRESSES_SHOWN_MAX, UpstreamRegister};

/// One address, for those who choose among all.
#[derive(Debug, Clone)]
pub(crate) struct KnownAddress {
    pub(crate) id: AddressId,
    pub(crate) listing: Listing,
}

/// The addresses of one place.
#[derive(Debug)]
pub struct Upstreams {
    /// Of the listener that leads to them.
    pub(crate) series: Arc<ListenerSeries>,
    limits: Limits,
    name_servers: NameServers,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Changes of the addresses so far.
    version: AtomicU64,
    /// Requests that wait for a connection.
    pub(crate) waiting: AtomicUsize,
    /// Tells those who wait for the first answer about a name.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    places: Vec<UpstreamHost>,
    choice: LoadBalancer,
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
        let places = to.iter().map(UpstreamHost::new).collect();
        let mut state = State { places, choice: LoadBalancer::default(), random: fastrand::Rng::new() };
        state.take_over_addresses();
        let (state, changed) = (Mutex::new(state), watch::Sender::default());
        let (version, waiting) = (AtomicU64::new(1), AtomicUsize::new(0));
        Arc::new(Self { series, limits, name_servers, metrics, state, version, waiting, changed })
    }

    /// Keeps what is known of the names fresh, so that no connection waits for it, until `over`.
    pub async fn run_background(&self, over: CancellationToken) {
        let names: Vec<_> = self.state().places.iter().map(|place| place.name().map(str::to_owned)).collect();
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

    /// Takes an answer about a name, and says for how long it is good.
    fn learn(&self, at: usize, name: &str, answer: Result<Answer, String>) -> Duration {
        let mut state = self.state();
        let Some(known) = state.places.get_mut(at).and_then(UpstreamHost::known_mut) else {
            return name::TTL_MAX;
        };
        let before = known.clone();
        let good_for = match answer {
            Ok(answer) => known.learn(answer),
            Err(error) => known.miss(error),
        };
        let (standing, addresses) = (known.standing.clone(), known.addresses.len());
        let is_other = known.addresses != before.addresses;
        if is_other {
            state.take_over_addresses();
            self.version.fetch_add(1, Ordering::Release);
        }
        drop(state);
        self.changed.send_replace(());
        self.metrics.looked_up(standing.as_str());
        match &standing {
            // Told once, not at each try.
            _ if before.standing.as_str() == standing.as_str() && !is_other => {}
            ResolutionState::Answered if before.standing == ResolutionState::Answered => {
                debug!(name, addresses, "resolved to others");
            }
            ResolutionState::Answered => info!(name, addresses, "resolved"),
            standing => warn!(name, kept = addresses, reason = %standing, "cannot be resolved"),
        }
        good_for
    }

    /// A connection's way through the addresses.
    pub fn attempt(self: &Arc<Self>) -> Attempt {
        Attempt::new(self.clone())
    }

    /// Connects to an address that answers; to be connected is all that is hoped for.
    pub async fn connect(self: &Arc<Self>) -> Result<(TcpStream, Leased), Unreached> {
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
            Ok(Won { value: (stream, mut leased), failed }) => {
                leased.succeeded();
                attempt.won(&leased, &attempt.under_way(failed.iter().map(|(id, _)| *id)));
                Ok((stream, leased))
            }
            Err(failed) => Err(attempt.unreached(failed.into_iter().map(|(_, error)| error).collect())),
        }
    }

    /// The next address, and whether there are names about which no answer has come yet.
    fn pick(&self, tried: &[(AddressId, SocketAddr)]) -> (Option<Picked>, bool) {
        let mut state = self.state();
        let random = state.random.u64(..);
        let picked = state.choice.pick(now(), random, tried);
        (picked, state.places.iter().any(|place| place.standing() == &ResolutionState::Asked))
    }

    fn succeeded(&self, id: AddressId) -> Record {
        self.state().choice.succeeded(id)
    }

    fn failed(&self, id: AddressId, address: SocketAddr, before: Option<Record>) {
        let mut state = self.state();
        let random = state.random.u64(..);
        let ejected = state.choice.failed(id, before, now(), random);
        drop(state);
        let direction = self.series.direction;
        self.metrics.upstream_failed(direction);
        if let Some(length) = ejected {
            self.metrics.ejected(direction);
            let direction = direction.as_str();
            warn!(direction, %address, ?length, "ejected: it failed again and again");
        }
    }

    /// Of a host with two addresses, this one answers.
    fn prefer(&self, id: AddressId, at: SocketAddr) {
        if self.state().choice.prefer(id, at) {
            info!(direction = self.series.direction.as_str(), address = %at, "answers at its other address");
        }
    }

    fn left(&self, id: AddressId) {
        self.state().choice.left(id);
    }

    fn all_ejected(&self) -> bool {
        self.state().choice.all_ejected(now())
    }

    /// The names that lead nowhere, and how many addresses were not tried.
    fn left_out(&self, tried: &[(AddressId, SocketAddr)]) -> (Vec<ConnectError>, usize) {
        let state = self.state();
        let nowhere = state.places.iter().filter(|place| place.endpoints().is_empty());
        let unresolved = nowhere
            .map(|place| ConnectError::Resolve { at: place.at.clone(), standing: place.standing().clone() });
        let addresses = state.choice.addresses();
        (
            unresolved.collect(),
            addresses.iter().filter(|address| tried.iter().all(|(id, _)| *id != address.id())).count(),
        )
    }

    /// How often the addresses have changed.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All addresses, in an order that differs from process to process.
    pub(crate) fn known(&self) -> Vec<KnownAddress> {
        let mut state = self.state();
        let random = state.random.u64(..) as usize;
        let known = |address: &Address| KnownAddress { id: address.id(), listing: address.listing().clone() };
        let mut all: Vec<_> = state.choice.addresses().iter().map(known).collect();
        let middle = random.checked_rem(all.len()).unwrap_or_default();
        all.rotate_left(middle);
        all
    }

    /// The address with this identifier, counted as in flight, if it is still one.
    pub(crate) fn lease(self: &Arc<Self>, id: AddressId) -> Option<Leased> {
        let mut state = self.state();
        let random = state.random.u64(..);
        let picked = state.choice.take(id, now(), random)?;
        drop(state);
        Some(Leased::new(self.clone(), picked))
    }

    /// Waits for the first address while there is a name about which nobody has answered yet, no longer than a connection
    /// may take.
    pub(crate) async fn first_address(&self) {
        let mut changes = self.changes();
        let known = || {
            let state = self.state();
            let asked = state.places.iter().any(|place| place.standing() == &ResolutionState::Asked);
            !asked || !state.choice.addresses().is_empty()
        };
        let answered = async { while !known() && changes.changed().await.is_ok() {} };
        // Whether there is an address then shows.
        let _in_time = tokio::time::timeout(self.limits.connect_timeout, answered).await;
    }

    /// Why no address was reached, beside the errors at those that were tried: names that lead nowhere, and whether all
    /// addresses had failed before.
    pub(crate) fn beside(&self) -> Unreached {
        let state = self.state();
        let nowhere = state.places.iter().filter(|place| place.endpoints().is_empty());
        let errors = nowhere
            .map(|place| ConnectError::Resolve { at: place.at.clone(), standing: place.standing().clone() })
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
        let all = self.places.iter().flat_map(UpstreamHost::endpoints);
        self.choice.replace(&all.collect::<Vec<_>>());
    }
}

/// The clock that back-off is measured with. It knows nothing of the time of day, and a clock that is set does not
/// change what it says.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
