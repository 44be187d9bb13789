//! Refuses a peer's request: all details to the log, and to the peer what `tell_callers` permits.

use std::sync::Arc;

use http::{Response, StatusCode};
use postern_proto::mtls::Denial;
use postern_proto::policy::Policy;

use super::Client;
use crate::observability::Direction;
use crate::observability::refusals::{Instance, Refusal, explain_command};
use crate::proxy::http::body::ResponseBody;
use crate::proxy::http::call::OpenCall;
use crate::proxy::http::problem::{Problem, Question, ReplyFormat};

/// Why the policy, or a trust check, denies a request.
pub(super) struct Denied {
    pub(super) denial: Denial,
    pub(super) policy: Option<Arc<Policy>>,
}

impl Client {
    /// Refuses a request that the policy denies: all details to the log, and to the client what `tell_callers`
    /// permits.
    pub(super) fn refuse(
        &self,
        call: &OpenCall,
        denied: Denied,
        format: ReplyFormat,
    ) -> Response<ResponseBody> {
        let Denied { denial: Denial { code: reason, detail }, policy } = denied;
        let (peer, own) = (self.peer.id().to_string(), self.own.to_string());
        let explain = policy.as_deref().map(|policy| {
            let question = explain_command(Some(policy), &peer, &own, Some(&self.server.inbound.name));
            format!("{question} --call {}", call.facts.quoted())
        });
        let instance = self.report(call, reason, &detail, explain.clone());
        let mut problem = Problem::new(StatusCode::FORBIDDEN, reason, instance);
        if self.may_see_details() {
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
        problem.response(format)
    }

    /// Logs and counts a refusal, and returns its number.
    pub(super) fn report(
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
