//! Validation of a policy slice from the CA for the sidecar's identity.

use postern_proto::identity::{SpiffeId, TrustDomain};
use postern_proto::policy::Policy;
use postern_proto::wire::SliceError;
use postern_proto::wire::v1::PolicySlice;
use thiserror::Error;

/// The policy of a slice, or `None` if the CA stores none. Without `own`, as before the first identity is available,
/// the slice is validated on its own; a policy for another identity then allows no peer.
pub(super) fn policy_of(
    slice: PolicySlice,
    own: Option<&SpiffeId>,
) -> Result<Option<Policy>, SliceRejection> {
    if slice.version == 0 {
        return Ok(None);
    }
    let meant = slice.own.as_ref().map(|service| service.spiffe_id.clone());
    let policy = Policy::from_slice(slice)?;
    let Some(own) = own else { return Ok(Some(policy)) };
    if policy.trust_domain() != own.trust_domain() {
        return Err(SliceRejection::OtherDomain { found: policy.trust_domain().clone() });
    }
    match meant {
        Some(found) if found != own.as_str() => Err(SliceRejection::OtherIdentity { found }),
        _ => Ok(Some(policy)),
    }
}

/// Why a slice is rejected.
#[derive(Debug, Error)]
pub enum SliceRejection {
    #[error("the policy slice is not understood")]
    Slice(#[from] SliceError),
    #[error("the policy slice is not a message")]
    Message(#[from] prost::DecodeError),
    #[error("the policy slice is of the trust domain {found}, not the own one")]
    OtherDomain { found: TrustDomain },
    #[error("the policy slice is for {found:?}, not for this identity")]
    OtherIdentity { found: String },
}
