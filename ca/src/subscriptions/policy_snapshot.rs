//! The policy in force as sidecars are told it: each slice is made once, whoever and however many ask for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::identity::SpiffeId;
use postern_proto::policy::Policy;
use postern_proto::wire::SLICE_BYTES_MAX;
use postern_proto::wire::v1::PolicySlice;
use prost::Message as _;
use thiserror::Error;

/// So many slices of one version are kept to be sent again; a sidecar may ask for other services each time it comes.
const SLICES_MAX: usize = 20_000;

/// A stored version of the policy.
#[derive(Debug)]
pub struct PolicySnapshot {
    pub version: u64,
    pub policy: Policy,
    pub author: String,
    /// Unix seconds.
    pub applied_at: i64,
    slices: Mutex<HashMap<Asked, Arc<PolicySlice>>>,
}

/// Whose slice it is, and which services it names.
type Asked = (SpiffeId, Arc<[String]>);

/// Why a slice cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the slice has {bytes} bytes, and a sidecar takes at most {SLICE_BYTES_MAX}")]
pub struct SliceTooLarge {
    pub bytes: usize,
}

impl PolicySnapshot {
    pub fn new(version: u64, policy: Policy, author: String, applied_at: i64) -> Self {
        Self { version, policy, author, applied_at, slices: Mutex::default() }
    }

    /// What concerns a sidecar of `id` that calls `services`.
    pub fn slice(&self, id: &SpiffeId, services: &Arc<[String]>) -> Result<Arc<PolicySlice>, SliceTooLarge> {
        let asked = (id.clone(), services.clone());
        if let Some(slice) = self.lock().get(&asked) {
            return Ok(slice.clone());
        }
        // Unlocked: two that ask the same at once make it twice, and nobody waits for another's.
        let slice = Arc::new(self.policy.slice_for(id, services, self.version));
        let bytes = slice.encoded_len();
        if bytes > SLICE_BYTES_MAX {
            return Err(SliceTooLarge { bytes });
        }
        let mut slices = self.lock();
        if slices.len() >= SLICES_MAX {
            slices.clear();
        }
        Ok(slices.entry(asked).or_insert(slice).clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Asked, Arc<PolicySlice>>> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> PolicySnapshot {
        PolicySnapshot::new(3, Policy::parse("policy.toml", text).unwrap(), "ann".to_owned(), 0)
    }

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn a_slice_is_made_once_for_all_who_ask_the_same() {
        let snapshot = snapshot("trust_domain = \"shop.example\"\n[service.orders]\n[service.payments]\n");
        let (orders, wanted) = (id("spiffe://shop.example/orders"), Arc::from(["payments".to_owned()]));
        let first = snapshot.slice(&orders, &wanted).unwrap();
        assert!(Arc::ptr_eq(&first, &snapshot.slice(&orders, &wanted).unwrap()));
        assert!(!Arc::ptr_eq(&first, &snapshot.slice(&orders, &Arc::from([])).unwrap()));
        assert_eq!((first.version, first.names.len()), (3, 1));
    }

    #[test]
    fn the_slices_that_are_kept_are_bounded() {
        let snapshot = snapshot("trust_domain = \"shop.example\"\n[service.orders]\n");
        let orders = id("spiffe://shop.example/orders");
        for number in 0..=SLICES_MAX {
            snapshot.slice(&orders, &Arc::from([number.to_string()])).unwrap();
        }
        assert_eq!(snapshot.lock().len(), 1);
    }

    #[test]
    fn a_slice_that_no_sidecar_takes_is_not_sent() {
        // Names of two kilobytes, in many rules.
        let long = format!("{}/x", "a".repeat(1_900));
        let mut text = format!("trust_domain = \"shop.example\"\n[service.x]\nidentity = \"/{long}\"\n");
        text.push_str("[service.orders]\nports = { api = \"http\" }\n");
        for number in 0..9_500 {
            text.push_str(&format!(
                "[[service.orders.allow]]\nfrom = [\"x\"]\ncalls = [\"GET /{number}\"]\n"
            ));
        }
        let too_large = snapshot(&text).slice(&id("spiffe://shop.example/orders"), &Arc::from([]));
        assert!(too_large.unwrap_err().to_string().contains("16777216"));
    }
}
