//! Whether a caller may call a service, and which line decides.

mod render;

use postern_proto::identity::SpiffeId;
use postern_proto::policy::{
    AllowedCalls, Call, CallError, Decision, PeerError, Policy, Port, Protocol, Service, Verdict,
    allowed_calls, decide, may_connect,
};
use serde_json::Value;
use thiserror::Error;
use time::OffsetDateTime;

/// A question in the words of a policy.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The caller: a declared service, a path under the own trust domain, or a SPIFFE ID.
    pub from: &'a str,
    /// The service that is called, or its SPIFFE ID.
    pub to: &'a str,
    /// One of its ports; without, every declared one.
    pub port: Option<&'a str>,
    /// One request, as in `POST /charge`; without, any.
    pub call: Option<&'a str>,
    /// The time.
    pub at: OffsetDateTime,
}

/// Why a question cannot be asked.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The caller is none.
    #[error("{0}")]
    From(String),
    /// The call is none.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What is called is no identity.
    #[error("{0}")]
    To(String),
}

/// What a policy says to a question.
#[derive(Debug)]
pub struct Explanation<'a> {
    question: Question<'a>,
    answers: Answers<'a>,
}

#[derive(Debug)]
enum Answers<'a> {
    /// One for each port; at least one.
    Ports(Vec<Answer<'a>>),
    /// Nobody may call it, because the policy does not have it.
    NotDeclared { detail: String },
}

/// A question that was read.
#[derive(Debug)]
struct Question<'a> {
    policy: &'a Policy,
    from: SpiffeId,
    /// The identity that is called, or the word that names none.
    to: String,
    port: Option<&'a str>,
    call: Option<&'a str>,
}

/// What the policy says of one port.
#[derive(Debug)]
struct Answer<'a> {
    port: Port<'a>,
    /// None where neither the question nor the policy names one.
    port_name: Option<&'a str>,
    verdict: Verdict,
    decision: Decision,
    /// Asked without a call, what is allowed where not everything is.
    calls: Option<Vec<AllowedCalls<'a>>>,
}

/// Asks `policy`.
pub fn explain<'a>(policy: &'a Policy, query: &Query<'a>) -> Result<Explanation<'a>, QueryError> {
    let Query { from, to, port, call, at } = *query;
    let caller = policy.peer(from).map_err(|error| QueryError::From(malformed(from, policy, &error)))?;
    let parsed = call.map(Call::parse).transpose()?;
    let called = match policy.peer(to) {
        Ok(id) => Some(id),
        Err(PeerError::Undeclared { .. }) => None,
        Err(error) => return Err(QueryError::To(malformed(to, policy, &error))),
    };
    let question = Question {
        policy,
        from: caller,
        to: called.as_ref().map_or(to, SpiffeId::as_str).to_owned(),
        port,
        call,
    };
    let Some(service) = called.and_then(|id| policy.service_with(&id)) else {
        let file = policy.file().escape_debug();
        let detail = format!("{file} declares no service {to:?}, so nobody may call it");
        let detail = with_nearest(detail, to, policy);
        return Ok(Explanation { question, answers: Answers::NotDeclared { detail } });
    };
    let asked = service.asked_ports(port);
    let answers: Vec<_> = asked.map(|port| question.ask(service, port, parsed, at)).collect();
    if answers.is_empty() {
        let which = port.map_or("any port".to_owned(), |port| format!("a port {port:?}"));
        let detail =
            format!("service {:?} does not declare {which}, so nobody may call it there", service.name());
        return Ok(Explanation { question, answers: Answers::NotDeclared { detail } });
    }
    Ok(Explanation { question, answers: Answers::Ports(answers) })
}

impl Explanation<'_> {
    /// Whether the call passes on every port that was asked.
    pub fn passes(&self) -> bool {
        match &self.answers {
            Answers::Ports(answers) => answers.iter().all(Answer::passes),
            Answers::NotDeclared { .. } => false,
        }
    }

    /// The verdict on each port with the line that decides, and the calls that are allowed where it depends.
    pub fn format_text(&self) -> String {
        match &self.answers {
            Answers::Ports(answers) => answers.iter().map(render::format_text).collect::<Vec<_>>().join("\n"),
            Answers::NotDeclared { detail } => format!("deny: {detail}"),
        }
    }

    /// The same with all that is known.
    pub fn format_json(&self) -> Value {
        match &self.answers {
            Answers::Ports(answers) => render::format_json(answers, &self.question),
            Answers::NotDeclared { detail } => render::not_declared(&self.question, detail),
        }
    }
}

impl Question<'_> {
    fn ask<'s>(
        &self,
        service: &'s Service,
        port: Port<'s>,
        call: Option<Call<'_>>,
        now: OffsetDateTime,
    ) -> Answer<'s> {
        let decision = decide(self.policy, &self.from, service.identity(), port, call, now);
        // Without a call, what no rule allows whole may be allowed in part.
        let in_part = || {
            let some = may_connect(self.policy, &self.from, service.identity(), port, now);
            call.is_none() && port.protocol == Protocol::Http && matches!(some, Decision::Allow { .. })
        };
        let verdict = match &decision {
            Decision::Allow { .. } => Verdict::Allow,
            Decision::Observed { .. } => Verdict::Observed,
            Decision::Deny { .. } if in_part() => Verdict::Depends,
            Decision::Deny { .. } => Verdict::Deny,
        };
        let calls = (call.is_none() && verdict != Verdict::Allow)
            .then(|| allowed_calls(self.policy, &self.from, service, port, now));
        let named = self.port.is_some() || service.ports().is_some();
        Answer { port, port_name: named.then_some(port.name), verdict, decision, calls }
    }
}

impl Answer<'_> {
    fn passes(&self) -> bool {
        matches!(self.verdict, Verdict::Allow | Verdict::Observed)
    }
}

fn malformed(given: &str, policy: &Policy, error: &PeerError) -> String {
    let text = format!("{given:?}: {error}");
    match error {
        PeerError::Undeclared { name } => with_nearest(text, name, policy),
        _ => text,
    }
}

fn with_nearest(text: String, word: &str, policy: &Policy) -> String {
    match policy.nearest_service(word) {
        Some(name) => format!("{text}; did you mean {name:?}?"),
        None => text,
    }
}
