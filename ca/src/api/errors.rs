//! Our errors as gRPC statuses. What is our own fault is logged whole and told in general.

use std::time::Duration;

use tonic::{Code, Status};
use tracing::error;

use crate::issue::{CsrError, IssueError};
use crate::registry::GrantError;
use crate::store::{CommitError, StoreError};

/// When to come back, in whole seconds.
const RETRY_AFTER: &str = "retry-after";

pub(super) fn csr(error: &CsrError) -> Status {
    Status::invalid_argument(error.to_string())
}

pub(super) fn grant(error: &GrantError) -> Status {
    let code = match error {
        GrantError::OtherCa => Code::Unauthenticated,
        _ => Code::PermissionDenied,
    };
    Status::new(code, error.to_string())
}

pub(super) fn commit(error: &CommitError) -> Status {
    let code = match error {
        CommitError::Store(error) => return store(error),
        CommitError::UnknownToken | CommitError::TokenExpired | CommitError::TokenUsedUp => {
            Code::Unauthenticated
        }
        CommitError::TokenOfAnotherId
        | CommitError::UnknownCertificate
        | CommitError::Superseded
        | CommitError::Revoked { .. } => Code::PermissionDenied,
        CommitError::TooManyRevoked => Code::ResourceExhausted,
        CommitError::SameKey | CommitError::KeyRedeemed => Code::InvalidArgument,
    };
    Status::new(code, error.to_string())
}

pub(super) fn store(error: &StoreError) -> Status {
    error!(%error, "the store failed");
    Status::unavailable("the CA's store does not work at the moment; nothing was issued or changed")
}

pub(super) fn issue(error: &IssueError) -> Status {
    error!(%error, "an issuance failed");
    Status::internal("the CA could not make the certificate; nothing was issued")
}

pub(super) fn busy(what: &str, wait: Duration) -> Status {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let mut status = Status::resource_exhausted(format!("{what}; try again in {seconds} s"));
    if let Ok(value) = seconds.to_string().parse() {
        status.metadata_mut().insert(RETRY_AFTER, value);
    }
    status
}
