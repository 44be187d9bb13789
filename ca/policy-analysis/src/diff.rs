//! The differences between two policies, for people and as JSON. `postern_proto::policy::diff` finds them.

use postern_proto::policy::{Change, Changes, Diff, Direction, Inbound, Policy};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::json::rule_as_json;
use crate::text::counted;

/// One line for each change, and the sum.
pub fn format_text(Diff { gained, lost }: &Diff) -> String {
    let mut lines = Vec::new();
    for (label, changes, direction) in
        [("gains", gained, Direction::Gained), ("loses", lost, Direction::Lost)]
    {
        lines.extend(changes.kept.iter().map(|change| format!("{label}: {}", change.sentence(direction))));
        if changes.more > 0 {
            lines.push(format!("{label}: {} are not shown", counted(changes.more, "more change")));
        }
    }
    let count = |changes: &Changes| counted(changes.kept.len() + changes.more, "change");
    let sum = match (gained.is_empty(), lost.is_empty()) {
        (true, true) => "nothing gained, nothing lost".to_owned(),
        (true, false) => format!("nothing gained; lost: {}", count(lost)),
        (false, true) => format!("access gained: {}; nothing lost", count(gained)),
        (false, false) => format!("access gained: {}; lost: {}", count(gained), count(lost)),
    };
    lines.push(sum);
    lines.join("\n")
}

/// Both directions with all that is known of each change.
pub fn format_json(
    found: &Diff,
    old: &Policy,
    new: &Policy,
    at: OffsetDateTime,
) -> Result<Value, time::error::Format> {
    let file = |policy: &Policy| json!({ "file": policy.file(), "policy": policy.digest() });
    let changes = |changes: &Changes, direction| {
        let each = |change| change_as_json(change, direction);
        changes.kept.iter().map(each).collect::<Vec<_>>()
    };
    Ok(json!({
        "at": at.format(&Rfc3339)?,
        "old": file(old),
        "new": file(new),
        "gained": changes(&found.gained, Direction::Gained),
        "gained_not_shown": found.gained.more,
        "lost": changes(&found.lost, Direction::Lost),
        "lost_not_shown": found.lost.more,
    }))
}

fn change_as_json(change: &Change, direction: Direction) -> Value {
    let mut said = match change {
        Change::TrustDomain { old, new } => {
            json!({ "kind": "trust_domain", "old": old.as_str(), "new": new.as_str() })
        }
        Change::Identity { service, old, new, place: (_, line) } => json!({
            "kind": "identity", "service": service, "old": old.as_str(), "new": new.as_str(), "line": line,
        }),
        Change::Observed { service, identity, inbounds, place: (_, line) } => json!({
            "kind": "observed",
            "service": service,
            "identity": identity.as_str(),
            "ports": ports(inbounds),
            "line": line,
        }),
        Change::Access(access) => json!({
            "kind": "access",
            "service": &*access.rule.service,
            "identity": access.service.as_str(),
            "from": access.from,
            "calls": access.calls.as_ref().map(|calls| calls.iter().map(ToString::to_string).collect::<Vec<_>>()),
            "ports": ports(&access.inbounds),
            "after": access.after.and_then(|after| after.format(&Rfc3339).ok()),
            "rule": rule_as_json(&access.rule),
        }),
        Change::NotCompared { rule } => json!({ "kind": "not_compared", "rule": rule_as_json(rule) }),
    };
    if let Value::Object(fields) = &mut said {
        fields.insert("text".to_owned(), change.sentence(direction).into());
    }
    said
}

/// A port without name is any other.
fn ports(inbounds: &[Inbound]) -> Vec<Value> {
    let one = |inbound: &Inbound| json!({ "port": inbound.name, "protocol": inbound.protocol.as_str() });
    inbounds.iter().map(one).collect()
}
