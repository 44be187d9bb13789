//! Readiness: the missing prerequisites, shown by `/ready`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use serde_json::json;

use super::{Admin, Phase};
use crate::config::IdentitySource;
use crate::control::policy_store::{PolicySource, PolicyStatus};

pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let missing = admin.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": missing.is_empty(), "missing": missing }))).into_response()
}

impl Admin {
    /// The missing prerequisites for serving.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing: Vec<_> = self.identity_missing().into_iter().chain(self.policy_missing()).collect();
        match *self.phase.borrow() {
            Phase::Starting => missing.push("listeners: not open yet".to_owned()),
            Phase::Ending => missing.push("ending: it has been told to stop".to_owned()),
            Phase::Serving => {}
        }
        missing
    }

    /// The missing prerequisites, without listeners, that can still become available.
    pub fn missing_prerequisites(&self) -> Vec<String> {
        let config = &self.proxy.control.config;
        let has_policy = config.policy_file.is_some() || matches!(config.identity, IdentitySource::Ca { .. });
        let policy = has_policy.then(|| self.policy_missing()).flatten();
        self.identity_missing().into_iter().chain(policy).collect()
    }

    /// Waits until [`Self::missing_prerequisites`] is empty.
    pub async fn wait_for_prerequisites(&self) {
        let (mut credentials, mut policy) =
            (self.proxy.control.credentials.changes(), self.proxy.control.policy.changes());
        let mut revoked = self.proxy.control.revoked.changes();
        while !self.missing_prerequisites().is_empty() {
            // The senders live as long as the proxy state, so `changed` does not fail.
            let _changed = tokio::select! {
                changed = credentials.changed() => changed,
                changed = policy.changed() => changed,
                changed = revoked.changed() => changed,
            };
        }
    }

    fn identity_missing(&self) -> Option<String> {
        let denial = self.proxy.control.valid_credentials().err()?;
        let code = match denial.code {
            "own_identity_expired" => "identity expired",
            "own_identity_revoked" => "identity revoked",
            _ => "identity",
        };
        Some(format!("{code}: {}", denial.detail))
    }

    fn policy_missing(&self) -> Option<String> {
        let none = self.proxy.control.policy.current().is_none();
        none.then(|| format!("policy: {}", why_no_policy(&self.proxy.control.policy.status())))
    }
}

fn why_no_policy(status: &PolicyStatus) -> String {
    let why = match (&status.last_error, status.source, status.version) {
        (Some(error), ..) => error,
        (None, PolicySource::Ca, Some(0)) => "the CA stores none",
        (None, PolicySource::Ca, _) => "none has come from the CA yet",
        (None, PolicySource::File, _) => "the file is not read yet",
        (None, PolicySource::None, _) => "neither a file nor a CA is configured",
    };
    why.to_owned()
}
