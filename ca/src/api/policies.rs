//! The stored policy, as operators change and read it. The CA judges a policy itself before it puts it in force.

use postern_proto::identity::TrustDomain;
use postern_proto::policy::{Policy, Service, Severity, WARN_DAYS_DEFAULT, check, run_expectations};
use postern_proto::wire::SLICE_BYTES_MAX;
use postern_proto::wire::v1::apply_policy_response::Outcome;
use postern_proto::wire::v1::{
    ApplyPolicyRequest, ApplyPolicyResponse, ListPolicyVersionsRequest, ListPolicyVersionsResponse,
    PolicyRefused, PolicyVersion, RollBackPolicyRequest, ShowPolicyRequest, StoredPolicy,
};
use prost::Message as _;
use time::OffsetDateTime;
use tonic::Status;
use tracing::{info, warn};

use super::{Shared, errors};
use crate::store::{self, Applied, ApplyError, NewPolicy, Refused};

/// Who changes something is named with at most so many bytes.
const AUTHOR_BYTES_MAX: usize = 256;
/// A comment, or a reason, has at most so many bytes.
const REMARK_BYTES_MAX: usize = 1024;
/// A policy file's name has at most so many bytes.
const FILE_NAME_BYTES_MAX: usize = 4096;
/// Versions in one answer: each has a few kilobytes at most, so that a page fits into a gRPC message.
const PAGE_MAX: usize = 100;
/// The problems in one answer have at most about so many bytes, so that they fit into a gRPC message.
const PROBLEMS_BYTES_MAX: usize = 1024 * 1024;

pub(super) async fn apply(
    shared: &Shared,
    request: ApplyPolicyRequest,
    now: OffsetDateTime,
) -> Result<ApplyPolicyResponse, Status> {
    let ApplyPolicyRequest { text, file, author, comment, expect_version } = request;
    check_author(&author)?;
    check_length("a comment", &comment, REMARK_BYTES_MAX)?;
    check_length("a file's name", &file, FILE_NAME_BYTES_MAX)?;
    let own = shared.authority.trust_domain().clone();
    let judged = tokio::task::spawn_blocking(move || {
        let judged = judge(&file, &text, &own, now);
        (file, text, judged)
    });
    let (file, text, judged) =
        judged.await.map_err(|_| Status::internal("judging the policy failed; nothing has changed"))?;
    let at = now.unix_timestamp();
    let outcome = match judged {
        Err(refused) => Outcome::Refused(refused),
        Ok(digest) => {
            let policy = NewPolicy { text, digest, file, author: author.clone(), at, comment };
            match shared.store.apply_policy(policy, expect_version).await {
                Ok(Applied::New(version)) => Outcome::Applied(to_wire(version)),
                Ok(Applied::Unchanged(version)) => Outcome::Unchanged(to_wire(version)),
                Err(ApplyError::Conflict { current, .. }) => Outcome::Conflict(current),
                Err(ApplyError::Store(error)) => return Err(errors::store(&error)),
            }
        }
    };
    after(shared, &outcome, author, at).await?;
    Ok(ApplyPolicyResponse { outcome: Some(outcome) })
}

/// Tells sidecars of a change, and the record of a refusal.
async fn after(shared: &Shared, outcome: &Outcome, author: String, at: i64) -> Result<(), Status> {
    let reason = match outcome {
        Outcome::Applied(PolicyVersion { number, digest, .. }) => {
            info!(version = number, digest, author, "policy applied");
            shared.notify();
            return Ok(());
        }
        Outcome::Unchanged(_) => return Ok(()),
        Outcome::Refused(PolicyRefused { problems, more }) => {
            let count = u64::try_from(problems.len()).unwrap_or(u64::MAX).saturating_add(*more);
            format!("the policy has {count} problems")
        }
        Outcome::Conflict(current) => format!("the policy expects another version than {current}"),
    };
    warn!(author, reason, "policy refused");
    let audited = shared.store.audit_refusal(Refused { at, subject: author, reason }).await;
    audited.map_err(|error| errors::store(&error))
}

/// The policy's digest, if nothing stands against it.
fn judge(file: &str, text: &str, own: &TrustDomain, now: OffsetDateTime) -> Result<String, PolicyRefused> {
    let checked = check(file, text, now, WARN_DAYS_DEFAULT);
    let errors = checked.problems.iter().filter(|problem| problem.severity == Severity::Error);
    let Some(policy) = checked.policy else { return Err(refused(errors.map(ToString::to_string))) };
    let shown = file.escape_debug();
    if policy.trust_domain() != own {
        let found = policy.trust_domain();
        let problem = format!("{shown}: the policy's trust_domain is {found}, and this CA's is {own}");
        return Err(refused([problem].into_iter()));
    }
    let mut too_large = policy.services().iter().filter_map(|service| too_large(&policy, service)).peekable();
    if too_large.peek().is_some() {
        return Err(refused(too_large));
    }
    let failing = run_expectations(&policy, now);
    let failing = failing.iter().filter_map(|result| {
        let (expected, (port, found)) = (result.expectation, result.failure.as_ref()?);
        let call = expected.call.as_deref().map(|call| format!(" {call}")).unwrap_or_default();
        Some(format!(
            "{shown}:{}: {} -> {}{call} is expected to {}, and found {} on port {port:?}",
            expected.line,
            expected.from,
            expected.to,
            expected.verdict.as_str(),
            found.as_str()
        ))
    });
    let mut failing = failing.peekable();
    if failing.peek().is_some() { Err(refused(failing)) } else { Ok(policy.digest().to_owned()) }
}

/// Short names stand for long identities, so that a file can be small and what a sidecar is told of it is not.
fn too_large(policy: &Policy, service: &Service) -> Option<String> {
    let nobody: [&str; 0] = [];
    let bytes = policy.slice_for(service.identity(), &nobody, 0).encoded_len();
    (bytes > SLICE_BYTES_MAX).then(|| {
        format!(
            "{}: service {:?}: its sidecars would be told {bytes} bytes, and take at most {SLICE_BYTES_MAX}; \
             use fewer rules, or patterns in `from`",
            policy.file().escape_debug(),
            service.name()
        )
    })
}

/// As many of the problems as there is room for.
fn refused(problems: impl Iterator<Item = String>) -> PolicyRefused {
    let mut refused = PolicyRefused::default();
    let mut bytes = 0_usize;
    for problem in problems {
        bytes = bytes.saturating_add(problem.len());
        if bytes <= PROBLEMS_BYTES_MAX {
            refused.problems.push(problem);
        } else {
            refused.more += 1;
        }
    }
    refused
}

pub(super) async fn show(shared: &Shared, request: ShowPolicyRequest) -> Result<StoredPolicy, Status> {
    let found = shared.store.policy(request.version).await.map_err(|error| errors::store(&error))?;
    let found = found.ok_or_else(|| {
        Status::not_found(match request.version {
            Some(version) => format!("no policy version {version} is stored"),
            None => "no policy is stored; `postern-ca policy apply FILE` stores one".to_owned(),
        })
    })?;
    Ok(StoredPolicy { version: Some(to_wire(found.version)), text: found.text })
}

pub(super) async fn history(
    shared: &Shared,
    request: ListPolicyVersionsRequest,
) -> Result<ListPolicyVersionsResponse, Status> {
    let before = Some(request.before).filter(|before| *before > 0);
    let page = usize::try_from(request.page_size).ok().filter(|size| (1..=PAGE_MAX).contains(size));
    let found = shared.store.policy_history(before, page.unwrap_or(PAGE_MAX)).await;
    let found = found.map_err(|error| errors::store(&error))?;
    Ok(ListPolicyVersionsResponse { versions: found.into_iter().map(to_wire).collect() })
}

/// An old text is judged like a new one: what was right once need not be so today.
pub(super) async fn roll_back(
    shared: &Shared,
    request: RollBackPolicyRequest,
    now: OffsetDateTime,
) -> Result<ApplyPolicyResponse, Status> {
    let RollBackPolicyRequest { version, author, comment, expect_version } = request;
    let StoredPolicy { version: old, text } =
        show(shared, ShowPolicyRequest { version: Some(version) }).await?;
    let file = old.map(|old| old.file).unwrap_or_default();
    let comment = if comment.is_empty() { format!("rolled back to version {version}") } else { comment };
    apply(shared, ApplyPolicyRequest { text, file, author, comment, expect_version }, now).await
}

fn to_wire(version: store::PolicyVersion) -> PolicyVersion {
    let store::PolicyVersion { number, digest, file, author, at, comment } = version;
    PolicyVersion { number, digest, file, author, applied_at: at, comment }
}

/// A change without a name is on nobody's account.
pub(super) fn check_author(author: &str) -> Result<(), Status> {
    if author.is_empty() {
        return Err(Status::invalid_argument("who changes this? the record needs an author"));
    }
    check_length("an author", author, AUTHOR_BYTES_MAX)
}

/// A reason or a comment.
pub(super) fn check_remark(what: &str, text: &str) -> Result<(), Status> {
    check_length(what, text, REMARK_BYTES_MAX)
}

fn check_length(what: &str, text: &str, bytes_max: usize) -> Result<(), Status> {
    match text.len() {
        bytes if bytes > bytes_max => {
            Err(Status::invalid_argument(format!("{what} has at most {bytes_max} bytes, not {bytes}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_whose_slice_is_too_large_is_refused_before_it_is_in_force() {
        let own = TrustDomain::new("shop.example").unwrap();
        let long = format!("/{}", "x".repeat(2_000));
        let rule = |at: usize| format!("[[service.b.allow]]\nfrom = [\"a\"]\ncalls = [\"GET /{at}\"]\n");
        let file = |rules: usize| {
            let rules: String = (0..rules).map(rule).collect();
            format!(
                "trust_domain = \"shop.example\"\n[service.a]\nidentity = \"{long}\"\n[service.b]\n{rules}"
            )
        };
        let now = OffsetDateTime::UNIX_EPOCH;
        let refused = judge("policy.toml", &file(9_000), &own, now).unwrap_err();
        assert!(refused.problems[0].contains("service \"b\""), "{refused:?}");
        judge("policy.toml", &file(100), &own, now).unwrap();
    }
}
