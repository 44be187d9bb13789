//! Who may call whom: the graph, for Graphviz, as a picture, and as JSON.

mod dot;
mod layers;
mod layout;
mod model;
mod route;
mod svg;

use postern_proto::policy::{Mode, Policy};
use serde_json::{Value, json};

pub use dot::draw as format_dot;
pub use model::{Edge, Graph, Node, NodeKind, Permit};
pub use svg::{TooLarge, draw as format_svg};

use crate::json::rule_as_json;

/// Nodes and edges, each edge with its rules.
pub fn format_json(graph: &Graph<'_>, policy: &Policy) -> Value {
    let nodes = graph.nodes.iter().map(|node| match node.kind {
        NodeKind::Service(service) => json!({
            "name": node.label,
            "kind": node.kind.as_str(),
            "identity": service.identity().as_str(),
            "mode": service.mode().as_str(),
            "line": service.line(),
        }),
        _ => json!({ "name": node.label, "kind": node.kind.as_str() }),
    });
    let edges = graph.edges.iter().map(|edge| {
        json!({
            "from": name_of(graph, edge.from),
            "to": name_of(graph, edge.to),
            "permits": edge.permits.iter().map(permit_as_json).collect::<Vec<_>>(),
        })
    });
    json!({
        "policy": policy.digest(),
        "nodes": nodes.collect::<Vec<_>>(),
        "edges": edges.collect::<Vec<_>>(),
    })
}

fn permit_as_json(permit: &Permit<'_>) -> Value {
    let calls = permit.calls.map(|calls| calls.iter().map(ToString::to_string).collect::<Vec<_>>());
    json!({ "calls": calls, "port": permit.port, "rule": rule_as_json(permit.rule) })
}

fn name_of<'a>(graph: &'a Graph<'_>, node: usize) -> &'a str {
    graph.nodes.get(node).map_or("", |node| &node.label)
}

/// `POST /charge, GET /charges/* on port api`, at most so many calls.
fn permitted(permit: &Permit<'_>, calls_max: usize) -> String {
    let calls = match permit.calls {
        None => "anything".to_owned(),
        Some(calls) => {
            let shown: Vec<_> = calls.iter().take(calls_max).map(ToString::to_string).collect();
            let more = calls.len().saturating_sub(calls_max);
            shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
        }
    };
    match permit.port {
        Some(port) => format!("{calls} on port {port}"),
        None => calls,
    }
}

/// A line for each rule behind an edge: its place, what it permits, and what its authors say.
fn rule_lines(edge: &Edge<'_>) -> Vec<String> {
    let one = |permit: &Permit<'_>| {
        let rule = permit.rule;
        let until = rule.expires.as_ref().map(|expires| format!(", until {expires}")).unwrap_or_default();
        let about = [rule.owner.as_deref(), rule.reason.as_deref()].into_iter().flatten();
        let about: String = about.map(|text| format!(" ({text})")).collect();
        format!("{}:{}: {}{until}{about}", rule.file, rule.line, permitted(permit, TOOLTIP_CALLS_MAX))
    };
    let mut lines: Vec<_> = edge.permits.iter().take(TOOLTIP_RULES_MAX).map(one).collect();
    let more = edge.permits.len().saturating_sub(TOOLTIP_RULES_MAX);
    if more > 0 {
        lines.push(format!("and {more} more rules"));
    }
    lines
}

/// What a service's node says beside its name.
fn service_line(kind: &NodeKind<'_>, file: &str) -> Option<String> {
    let NodeKind::Service(service) = kind else { return None };
    let mode = if service.mode() == Mode::Observe { ", only observes: refuses nobody" } else { "" };
    Some(format!("{} ({file}:{}){mode}", service.identity(), service.line()))
}

/// A tooltip shows at most this many rules, and of each this many calls.
const TOOLTIP_RULES_MAX: usize = 20;
const TOOLTIP_CALLS_MAX: usize = 20;
