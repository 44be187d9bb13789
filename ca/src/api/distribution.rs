//! What operators ask of the sidecars: who runs the policy in force, and which calls no rule allowed.

use postern_proto::identity::SpiffeId;
use postern_proto::wire::v1::sidecar_status;
use postern_proto::wire::v1::{
    CallReport, ListCallReportsRequest, ListCallReportsResponse, PolicyInForce, PolicyStatus, ReportedCalls,
    SidecarStatus,
};
use time::OffsetDateTime;

use super::Shared;
use crate::subscriptions::{CallKind, CallRow, Presence, Sidecar, SyncState};

/// Sidecars in one answer: each has a few kilobytes at most, so that all fit into a gRPC message.
const NOTABLE_MAX: usize = 500;
/// Rows in one answer: each has a few kilobytes at most, so that a page fits into a gRPC message.
const PAGE_MAX: usize = 500;

pub(super) fn status(shared: &Shared, now: OffsetDateTime) -> PolicyStatus {
    let policy = shared.broadcaster.policy();
    let mut status = PolicyStatus {
        policy: policy.as_ref().map(|policy| PolicyInForce {
            version: policy.version,
            digest: policy.policy.digest().to_owned(),
            file: policy.policy.file().to_owned(),
            author: policy.author.clone(),
            applied_at: policy.applied_at,
        }),
        ..PolicyStatus::default()
    };
    for (id, instance, sidecar) in shared.broadcaster.sidecars(now) {
        let state = SyncState::of(&sidecar, policy.as_deref());
        status.sidecars += 1;
        status.running += u64::from(state.is_none());
        status.awaited += u64::from(state == Some(SyncState::Pending));
        if state.is_none() && sidecar.unenforceable.is_empty() {
            continue;
        }
        if status.notable.len() < NOTABLE_MAX {
            status.notable.push(to_wire(&id, instance, sidecar, state));
        } else {
            status.more += 1;
        }
    }
    status
}

fn to_wire(id: &SpiffeId, instance: String, sidecar: Sidecar, state: Option<SyncState>) -> SidecarStatus {
    let (Presence::Connected { since, .. } | Presence::Away { since }) = sidecar.presence;
    let (lag, reason) = match state {
        None => (sidecar_status::Lag::None, String::new()),
        Some(SyncState::Pending) => (sidecar_status::Lag::Awaited, "it has not answered yet".to_owned()),
        Some(SyncState::Disconnected) => (sidecar_status::Lag::Away, "it is away".to_owned()),
        Some(SyncState::Refused { version, reason }) => {
            (sidecar_status::Lag::Refused, format!("it refused version {version}: {reason}"))
        }
        Some(SyncState::LocalPolicy { digest }) => {
            (sidecar_status::Lag::OwnFile, format!("it has a policy file of its own ({digest})"))
        }
    };
    SidecarStatus {
        spiffe_id: id.to_string(),
        instance,
        program: sidecar.program,
        lag: lag.into(),
        since: since.unix_timestamp(),
        version: sidecar.running.map(|(version, _)| version),
        reason,
        unenforceable: sidecar.unenforceable,
    }
}

pub(super) fn calls(shared: &Shared, request: ListCallReportsRequest) -> ListCallReportsResponse {
    let page = usize::try_from(request.page_size).ok().filter(|size| (1..=PAGE_MAX).contains(size));
    let (rows, lost) = shared.broadcaster.calls_after(request.after, page.unwrap_or(PAGE_MAX));
    let rows = rows.into_iter().map(|(number, row)| reported(number, row)).collect();
    ListCallReportsResponse { rows, lost }
}

fn reported(number: u64, row: CallRow) -> ReportedCalls {
    let CallRow { kind, policy_digest, count, first, last } = row;
    let CallKind { outcome, from, to, port, method, path, gap } = kind;
    let (outcome, from) = (outcome.into(), from.to_string());
    let calls = CallReport { outcome, from, port, method, path, gap, policy_digest, count, first, last };
    ReportedCalls { number, to: to.to_string(), calls: Some(calls) }
}
