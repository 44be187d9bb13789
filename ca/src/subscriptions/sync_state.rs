//! Whether a sidecar runs the policy in force, and why not.

use super::{PolicySnapshot, Presence, Sidecar};

/// Why a sidecar does not run the policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// It has not answered yet.
    Pending,
    /// It is not connected.
    Disconnected,
    /// It did not take a version, or could not be sent it.
    Refused { version: u64, reason: String },
    /// It has a policy file of its own, which is another.
    LocalPolicy { digest: String },
}

impl SyncState {
    /// None where the sidecar runs `policy`, as far as it has said. Without a stored policy, version 0 is in force.
    pub fn of(sidecar: &Sidecar, policy: Option<&PolicySnapshot>) -> Option<Self> {
        let version = policy.map_or(0, |policy| policy.version);
        if let Some(digest) = &sidecar.own_policy_digest {
            let same = policy.is_some_and(|policy| policy.policy.digest() == digest);
            return (!same).then(|| Self::LocalPolicy { digest: digest.clone() });
        }
        let refused = sidecar.refused.as_ref().filter(|(refused, _)| *refused == version);
        match (&sidecar.presence, refused, sidecar.running) {
            (_, Some((version, reason)), _) => {
                Some(Self::Refused { version: *version, reason: reason.clone() })
            }
            (_, None, Some((running, _))) if running == version => None,
            (Presence::Connected { .. }, ..) => Some(Self::Pending),
            (Presence::Away { .. }, ..) => Some(Self::Disconnected),
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_proto::policy::Policy;
    use time::OffsetDateTime;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn sidecar() -> Sidecar {
        Sidecar {
            presence: Presence::Connected { stream: 1, since: NOW },
            program: String::new(),
            own_policy_digest: None,
            running: Some((3, NOW)),
            refused: None,
            unenforceable: Vec::new(),
        }
    }

    #[test]
    fn each_reason_is_told_and_who_runs_it_has_none() {
        let policy = Policy::parse("p.toml", "trust_domain = \"shop.example\"\n").unwrap();
        let digest = policy.digest().to_owned();
        let policy = PolicySnapshot::new(3, policy, String::new(), 0);
        let state = |sidecar: Sidecar| SyncState::of(&sidecar, Some(&policy));
        let away = Presence::Away { since: NOW };
        let older = Some((2, NOW));
        assert_eq!(state(sidecar()), None);
        assert_eq!(state(Sidecar { presence: away, ..sidecar() }), None);
        assert_eq!(state(Sidecar { running: older, ..sidecar() }), Some(SyncState::Pending));
        assert_eq!(
            state(Sidecar { running: older, presence: away, ..sidecar() }),
            Some(SyncState::Disconnected)
        );
        let refused = |version| Some((version, "no".to_owned()));
        let reason = "no".to_owned();
        assert_eq!(
            state(Sidecar { running: older, refused: refused(3), ..sidecar() }),
            Some(SyncState::Refused { version: 3, reason })
        );
        assert_eq!(
            state(Sidecar { running: older, refused: refused(2), ..sidecar() }),
            Some(SyncState::Pending)
        );
        assert_eq!(state(Sidecar { own_policy_digest: Some(digest), running: None, ..sidecar() }), None);
        let digest = "none".to_owned();
        let own = Sidecar { own_policy_digest: Some(digest.clone()), ..sidecar() };
        assert_eq!(state(own), Some(SyncState::LocalPolicy { digest }));
        assert_eq!(SyncState::of(&sidecar(), None), Some(SyncState::Pending));
        assert_eq!(SyncState::of(&Sidecar { running: Some((0, NOW)), ..sidecar() }, None), None);
    }
}
