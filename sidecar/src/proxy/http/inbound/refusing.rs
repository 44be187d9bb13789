//! A request of a peer that is refused: told to the log whole, and to the peer as much as it may know.

use std::sync::Arc;

use http::{Response, StatusCode};
use postern_proto::mtls::Denial;
use postern_proto::policy::Policy;

use super::Client;
use crate::observability::Direction;
use crate::observability::refusals::{Instance, Refusal, explain_command};
use crate::proxy::http::body::Answer;
use crate::proxy::http::call::OpenCall;
use crate::proxy::http::problem::{Asked, Problem, Question};

/// Why the policy, or our trust, says no to a request.
pub(super) struct Denied {
    pub(super) denial: Denial,
    pub(super) policy: Option<Arc<Policy>>,
}

impl Client {
    /// Tells a request that the policy does not allow: the log everything, the caller as much as it may know.
    pub(super) fn refuse(&self, call: &OpenCall, denied: Denied, asked: Asked) -> Response<Answer> {
        let Denied { denial: Denial { code: reason, detail }, policy } = denied;
        let (peer, own) = (self.peer.id().to_string(), self.own.to_string());
        let explain = policy.as_deref().map(|policy| {
            let question = explain_command(Some(policy), &peer, &own, Some(&self.server.inbound.name));
            format!("{question} --call {}", call.facts.quoted())
        });
        let instance = self.tell(call, reason, &detail, explain.clone());
        let mut problem = Problem::new(StatusCode::FORBIDDEN, reason, instance);
        if self.may_be_told() {
            problem.detail = Some(detail);
            problem.question = Some(Question {
                caller: Some(peer),
                service: Some(own),
                port: Some(self.server.inbound.name.clone()),
                call: Some(call.facts.to_string()),
                policy: policy.map(|policy| policy.digest().to_owned()),
                explain,
            });
        }
        problem.response(asked)
    }

    /// Logs, counts and remembers a refusal, and returns its number.
    pub(super) fn tell(
        &self,
        call: &OpenCall,
        reason: &'static str,
        detail: &str,
        explain: Option<String>,
    ) -> Instance {
        let proxy = &self.server.proxy;
        let instance = proxy.refusals.number();
        call.record(|record| {
            record.refused(reason, detail);
            record.instance = Some(instance);
        });
        proxy.refusals.tell(Refusal {
            direction: Direction::Inbound,
            from: self.peer.id().to_string(),
            called: self.server.called(&self.own),
            reason,
            detail: detail.to_owned(),
            explain,
            instance: Some(instance.to_string()),
        });
        instance
    }
}
