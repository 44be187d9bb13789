//! Revoked identities, as operators change and read them.

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::{
    ListRevokedIdentitiesRequest, ListRevokedIdentitiesResponse, RestoreIdentityResponse,
    RevokeIdentityResponse, RevokedIdentity,
};
use tonic::Status;
use tracing::warn;

use super::policies::{check_author, check_remark};
use super::{Shared, errors};
use crate::store::Revoked;

/// Identities in one answer: each has a few kilobytes at most, so that a page fits into a gRPC message.
const PAGE_MAX: usize = 100;

/// Who revokes what, why and when.
pub(super) async fn revoke(
    shared: &Shared,
    id: SpiffeId,
    reason: String,
    author: String,
    at: i64,
) -> Result<RevokeIdentityResponse, Status> {
    check_author(&author)?;
    if reason.trim().is_empty() {
        return Err(Status::invalid_argument("why is it revoked? whoever is refused is told the reason"));
    }
    check_remark("a reason", &reason)?;
    let spiffe_id = id.to_string();
    let revoked = Revoked { id: spiffe_id.clone(), reason, author, at };
    let new = shared.store.revoke(revoked).await.map_err(|error| errors::commit(&error))?;
    if new {
        warn!(%id, "identity revoked");
        shared.notify();
    }
    Ok(RevokeIdentityResponse { spiffe_id, already: !new })
}

pub(super) async fn restore(
    shared: &Shared,
    id: SpiffeId,
    author: String,
    at: i64,
) -> Result<RestoreIdentityResponse, Status> {
    check_author(&author)?;
    let spiffe_id = id.to_string();
    let restored = shared.store.restore(spiffe_id.clone(), author, at).await;
    let restored = restored.map_err(|error| errors::store(&error))?;
    if restored {
        warn!(%id, "identity restored");
        shared.notify();
    }
    Ok(RestoreIdentityResponse { spiffe_id, already: !restored })
}

pub(super) async fn list(
    shared: &Shared,
    request: ListRevokedIdentitiesRequest,
) -> Result<ListRevokedIdentitiesResponse, Status> {
    let revoked = shared.store.revoked().await.map_err(|error| errors::store(&error))?;
    let page = revoked.into_iter().filter(|revoked| revoked.id > request.after).take(PAGE_MAX);
    let to_wire = |Revoked { id, reason, author, at }| RevokedIdentity {
        spiffe_id: id,
        reason,
        author,
        revoked_at: at,
    };
    Ok(ListRevokedIdentitiesResponse { identities: page.map(to_wire).collect() })
}
