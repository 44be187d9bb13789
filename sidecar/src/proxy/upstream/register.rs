//! The addresses behind each listener, as `/status` shows them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::host::UpstreamHost;
use super::load_balancer::{Address, HttpVersion};
use super::{Upstreams, now};
use crate::network::resolver::name::ResolutionState;
use crate::observability::Direction;

/// Most addresses shown per listener, those with failures and the busiest first.
pub const ADDRESSES_SHOWN_MAX: usize = 64;

/// The addresses behind all listeners.
#[derive(Debug, Default)]
pub struct UpstreamRegister(Mutex<HashMap<(Direction, usize), Arc<Upstreams>>>);

impl UpstreamRegister {
    /// Registers the addresses of a listener.
    pub fn enter(&self, listener: usize, upstreams: &Arc<Upstreams>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((upstreams.series.direction, listener), upstreams.clone());
    }

    /// As `/status` shows it; `null` for a listener that is not open.
    pub fn shown(&self, direction: Direction, listener: usize) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let upstreams = all.get(&(direction, listener)).cloned();
        drop(all);
        upstreams.map(|upstreams| upstreams.shown()).unwrap_or_default()
    }
}

impl UpstreamRegister {
    /// Waiting requests of this listener.
    pub fn waiting(&self, direction: Direction, listener: usize) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(direction, listener)).map_or(0, |one| one.waiting.load(Ordering::Relaxed))
    }
}

impl Upstreams {
    fn shown(&self) -> Value {
        let (state, now) = (self.state(), now());
        let names: Vec<_> = state.hosts.iter().filter_map(name_shown).collect();
        let mut addresses = state.load_balancer.addresses().to_vec();
        drop(state);
        addresses.sort_by_key(|one| (u32::MAX - one.record.failures, u32::MAX - one.in_flight, one.at));
        let more = addresses.len().saturating_sub(ADDRESSES_SHOWN_MAX);
        let addresses = addresses.iter().take(ADDRESSES_SHOWN_MAX).map(|one| address_shown(one, now));
        let waiting = self.waiting.load(Ordering::Relaxed);
        let addresses: Vec<_> = addresses.collect();
        json!({ "addresses": addresses, "more": more, "names": names, "requests_waiting": waiting })
    }
}

fn address_shown(one: &Address, now: Instant) -> Value {
    let left = one.ejected_until.and_then(|until| until.checked_duration_since(now));
    json!({
        "address": one.at,
        "in_flight": one.in_flight,
        "requests": one.handle().requests(),
        "http": one.handle().http_version().map(HttpVersion::as_str),
        "failures": one.record.failures,
        "ejected_for": left.filter(|left| !left.is_zero()).map(|left| format!("{left:.1?}")),
    })
}

fn name_shown(place: &UpstreamHost) -> Option<Value> {
    let (name, standing) = (place.name()?, place.standing());
    let reason = (standing != &ResolutionState::Answered).then(|| standing.to_string());
    Some(json!({
        "name": name,
        "standing": standing.as_str(),
        "addresses": place.known().map_or(0, |known| known.addresses.len()),
        "reason": reason,
    }))
}
