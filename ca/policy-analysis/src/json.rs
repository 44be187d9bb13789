//! What every JSON answer shows alike.

use postern_proto::policy::RuleRef;
use serde_json::{Value, json};

/// A rule with its place in the file.
pub(crate) fn rule_as_json(rule: &RuleRef) -> Value {
    json!({
        "file": &*rule.file,
        "line": rule.line,
        "service": &*rule.service,
        "owner": rule.owner,
        "reason": rule.reason,
        "expires": rule.expires.as_ref().map(ToString::to_string),
    })
}
