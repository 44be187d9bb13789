//! The sidecars that are known: those connected, and for a while those that went away without taking leave.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::PolicyAcknowledgement;
use thiserror::Error;
use time::{Duration, OffsetDateTime};

use super::Hello;

/// A sidecar that went away without taking leave stays listed for so long.
pub const AWAY_LISTED: Duration = Duration::hours(1);
/// A sidecar may have so many streams open: with a new certificate it opens another before it gives up the older.
const STREAMS_OF_ONE: usize = 2;
/// What a sidecar says of a version is kept up to so many bytes.
const WORDS_BYTES_MAX: usize = 512;
/// So many things that it cannot enforce are kept; of further ones only the number is.
const UNENFORCEABLE_MAX: usize = 4;

/// How many sidecars may be connected, and so many more be listed as away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriberLimits {
    pub sidecars_max: usize,
    /// Of one identity.
    pub identity_max: usize,
}

/// Who is there.
#[derive(Debug)]
pub(super) struct SubscriberRegistry {
    limits: SubscriberLimits,
    /// By identity, then by instance.
    sidecars: BTreeMap<SpiffeId, BTreeMap<Arc<str>, Sidecar>>,
    connected: usize,
    listed: usize,
    /// Streams that are open, by identity: during a rotation a sidecar has two.
    open: BTreeMap<SpiffeId, usize>,
    opened: u64,
}

/// What is known of one sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    pub presence: Presence,
    /// The program's version.
    pub program: String,
    pub own_policy_digest: Option<String>,
    /// The version of the policy that it runs, and since when.
    pub running: Option<(u64, OffsetDateTime)>,
    /// The last version that it did not take, and why.
    pub refused: Option<(u64, String)>,
    /// What of the version it runs it cannot enforce.
    pub unenforceable: Vec<String>,
}

/// Whether a sidecar is there, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Connected { stream: u64, since: OffsetDateTime },
    Away { since: OffsetDateTime },
}

/// Which stream is meant; a sidecar's newer stream replaces its older one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct StreamKey {
    pub(super) id: SpiffeId,
    pub(super) instance: Arc<str>,
    pub(super) stream: u64,
}

/// Why a sidecar cannot subscribe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Full {
    #[error("{limit} sidecars are subscribed already")]
    All { limit: usize },
    #[error("{limit} sidecars of {id} are subscribed already")]
    OfIdentity { id: SpiffeId, limit: usize },
}

impl SubscriberRegistry {
    pub(super) fn new(limits: SubscriberLimits) -> Self {
        Self { limits, sidecars: BTreeMap::new(), connected: 0, listed: 0, open: BTreeMap::new(), opened: 0 }
    }

    /// Registers a stream. It replaces an older one of the same sidecar.
    pub(super) fn enter(
        &mut self,
        id: &SpiffeId,
        hello: &Hello,
        now: OffsetDateTime,
    ) -> Result<StreamKey, Full> {
        let open = self.open.get(id).copied().unwrap_or_default();
        if open >= self.limits.identity_max.saturating_mul(STREAMS_OF_ONE) {
            return Err(Full::OfIdentity { id: id.clone(), limit: self.limits.identity_max });
        }
        let known = self.sidecars.get(id).and_then(|known| known.get(&hello.instance));
        if !known.is_some_and(Sidecar::is_connected) {
            self.make_room(id, known.is_some(), now)?;
            self.connected += 1;
        }
        self.open.insert(id.clone(), open + 1);
        self.opened += 1;
        let stream_key = StreamKey { id: id.clone(), instance: hello.instance.clone(), stream: self.opened };
        let presence = Presence::Connected { stream: stream_key.stream, since: now };
        let instances = self.sidecars.entry(id.clone()).or_default();
        let sidecar = instances.entry(hello.instance.clone()).or_insert_with(|| {
            self.listed += 1;
            Sidecar::new(presence)
        });
        (sidecar.presence, sidecar.program) = (presence, hello.version.clone());
        sidecar.own_policy_digest.clone_from(&hello.own_policy_digest);
        Ok(stream_key)
    }

    /// The places are for those that are there: the oldest of those away gives way.
    fn make_room(&mut self, id: &SpiffeId, is_listed: bool, now: OffsetDateTime) -> Result<(), Full> {
        let SubscriberLimits { sidecars_max, identity_max } = self.limits;
        let own = self.sidecars.get(id).into_iter().flat_map(BTreeMap::values);
        let (own_listed, own_connected) = own.fold((0, 0), |(listed, connected), sidecar| {
            (listed + 1, connected + usize::from(sidecar.is_connected()))
        });
        if own_connected >= identity_max {
            return Err(Full::OfIdentity { id: id.clone(), limit: identity_max });
        }
        if self.connected >= sidecars_max {
            return Err(Full::All { limit: sidecars_max });
        }
        if own_listed >= identity_max.saturating_mul(2) && !is_listed {
            self.forget_longest_away(Some(id));
        }
        if self.listed >= sidecars_max.saturating_mul(2) && !is_listed {
            self.forget_away(now);
        }
        if self.listed >= sidecars_max.saturating_mul(2) && !is_listed {
            self.forget_longest_away(None);
        }
        Ok(())
    }

    fn forget_longest_away(&mut self, of: Option<&SpiffeId>) {
        let listed = self.sidecars.iter().filter(|(id, _)| of.is_none_or(|of| of == *id));
        let away = listed.flat_map(|(id, instances)| {
            instances.iter().filter_map(move |(instance, sidecar)| {
                sidecar.away_since().map(|since| (since, id.clone(), instance.clone()))
            })
        });
        if let Some((_, id, instance)) = away.min() {
            self.forget(&id, &instance);
        }
    }

    /// Those that have been away for too long are listed no more.
    pub(super) fn forget_away(&mut self, now: OffsetDateTime) {
        let listed = &mut self.listed;
        self.sidecars.retain(|_, instances| {
            instances.retain(|_, sidecar| {
                let kept = sidecar.away_since().is_none_or(|since| now - since < AWAY_LISTED);
                *listed -= usize::from(!kept);
                kept
            });
            !instances.is_empty()
        });
    }

    /// A stream ended; its sidecar is away, unless a newer stream replaced it or it was closed.
    pub(super) fn ended(&mut self, stream_key: &StreamKey, now: OffsetDateTime) {
        if let Some(sidecar) = self.at(stream_key) {
            sidecar.presence = Presence::Away { since: now };
            self.connected -= 1;
        }
        if let Some(open) = self.open.get_mut(&stream_key.id) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&stream_key.id);
            }
        }
    }

    /// A sidecar takes leave, so nobody waits for it to come back.
    pub(super) fn closed(&mut self, stream_key: &StreamKey) {
        if self.at(stream_key).is_some() {
            self.connected -= 1;
            self.forget(&stream_key.id, &stream_key.instance);
        }
    }

    /// Notes what a sidecar says of a version.
    pub(super) fn acknowledged(
        &mut self,
        stream_key: &StreamKey,
        said: PolicyAcknowledgement,
        now: OffsetDateTime,
    ) {
        let Some(sidecar) = self.at(stream_key) else { return };
        let PolicyAcknowledgement { version, refused, unenforceable } = said;
        if !refused.is_empty() {
            sidecar.refused = Some((version, cut(&refused)));
            return;
        }
        sidecar.refused = None;
        if sidecar.running.is_none_or(|(running, _)| running != version) {
            sidecar.running = Some((version, now));
        }
        let further = unenforceable.len().saturating_sub(UNENFORCEABLE_MAX);
        sidecar.unenforceable = unenforceable.iter().take(UNENFORCEABLE_MAX).map(|text| cut(text)).collect();
        if further > 0 {
            sidecar.unenforceable.push(format!("{further} more"));
        }
    }

    /// Notes that a version could not even be sent.
    pub(super) fn not_sent(&mut self, stream_key: &StreamKey, version: u64, why: String) {
        if let Some(sidecar) = self.at(stream_key) {
            sidecar.refused = Some((version, why));
        }
    }

    pub(super) fn sidecars(&self) -> impl Iterator<Item = (&SpiffeId, &str, &Sidecar)> {
        self.sidecars.iter().flat_map(|(id, instances)| {
            instances.iter().map(move |(instance, sidecar)| (id, &**instance, sidecar))
        })
    }

    /// The sidecar of a stream, unless a newer stream replaced it.
    fn at(&mut self, stream_key: &StreamKey) -> Option<&mut Sidecar> {
        let sidecar = self.sidecars.get_mut(&stream_key.id)?.get_mut(&stream_key.instance)?;
        let Presence::Connected { stream, .. } = sidecar.presence else { return None };
        (stream == stream_key.stream).then_some(sidecar)
    }

    fn forget(&mut self, id: &SpiffeId, instance: &str) {
        let Some(instances) = self.sidecars.get_mut(id) else { return };
        self.listed -= usize::from(instances.remove(instance).is_some());
        if instances.is_empty() {
            self.sidecars.remove(id);
        }
    }
}

impl Sidecar {
    fn new(presence: Presence) -> Self {
        let (program, own_policy_digest, running, refused) = (String::new(), None, None, None);
        Self { presence, program, own_policy_digest, running, refused, unenforceable: Vec::new() }
    }

    fn is_connected(&self) -> bool {
        matches!(self.presence, Presence::Connected { .. })
    }

    fn away_since(&self) -> Option<OffsetDateTime> {
        match self.presence {
            Presence::Away { since } => Some(since),
            Presence::Connected { .. } => None,
        }
    }
}

/// At most [`WORDS_BYTES_MAX`] of a text.
fn cut(text: &str) -> String {
    if text.len() <= WORDS_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(WORDS_BYTES_MAX - '…'.len_utf8());
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests;
