//! A request of a peer that is refused, or gets no answer: told to the log whole, to the peer as much as it may know.

use std::sync::Arc;

use http::{Response, StatusCode};
use postern_proto::mtls::Denial;
use postern_proto::policy::Policy;

use super::Client;
use crate::config::TellCallers;
use crate::http::app::Failure;
use crate::http::body::Answer;
use crate::http::call::OpenCall;
use crate::http::problem::{Asked, Problem, Question};
use crate::http::target::Bad;
use crate::metrics::Direction;
use crate::refusals::{Instance, Refusal, explain_command};

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
        if self.server.inbound.tell_callers == TellCallers::Everything {
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

    /// Tells a request that is not valid, and so is nobody's.
    pub(super) fn refuse_bad(&self, call: &OpenCall, bad: &Bad, asked: Asked) -> Response<Answer> {
        let instance = self.tell(call, bad.code(), &bad.to_string(), None);
        let mut problem = Problem::new(bad.status(), bad.code(), instance);
        problem.detail = Some(bad.to_string());
        problem.response(asked)
    }

    /// Tells a request that was allowed and got no answer.
    pub(super) fn fail(&self, call: &OpenCall, failure: Failure, asked: Asked) -> Response<Answer> {
        let instance = self.tell(call, failure.reason, &failure.detail, None);
        let mut problem = Problem::new(failure.status, failure.reason, instance);
        problem.detail = Some(failure.detail);
        problem.response(asked)
    }

    /// Logs, counts and remembers a refusal, and returns its number.
    fn tell(&self, call: &OpenCall, reason: &'static str, detail: &str, explain: Option<String>) -> Instance {
        call.tell(|story| story.refused(reason, detail));
        let plane = &self.server.plane;
        let instance = plane.refusals.number();
        plane.refusals.tell(Refusal {
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
