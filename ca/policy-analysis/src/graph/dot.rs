//! The graph for Graphviz.

use postern_proto::policy::Mode;

use super::{Edge, Graph, NodeKind, permitted, rule_lines};
use crate::text::escaped;

/// An edge's label shows at most this many rules, and of each this many calls.
const LABEL_RULES_MAX: usize = 2;
const LABEL_CALLS_MAX: usize = 2;

/// The graph in the language of Graphviz.
pub fn draw(graph: &Graph<'_>) -> String {
    let mut lines = vec![
        "digraph policy {".to_owned(),
        "  rankdir=LR;".to_owned(),
        "  node [shape=box, style=rounded, fontname=\"sans-serif\"];".to_owned(),
        "  edge [fontname=\"sans-serif\", fontsize=10];".to_owned(),
    ];
    for (number, node) in graph.nodes.iter().enumerate() {
        lines.push(format!("  n{number} [label={}{}];", quoted(&node.label), style(&node.kind)));
    }
    for edge in &graph.edges {
        let label = quoted(&label(edge));
        let tooltip = quoted(&rule_lines(edge).join("\n"));
        lines.push(format!("  n{} -> n{} [label={label}, tooltip={tooltip}];", edge.from, edge.to));
    }
    lines.push("}".to_owned());
    lines.join("\n")
}

fn style(kind: &NodeKind<'_>) -> &'static str {
    match kind {
        NodeKind::Service(service) if service.mode() == Mode::Observe => {
            ", style=\"rounded,dashed\", color=\"#c2410c\", xlabel=\"observes\""
        }
        NodeKind::Service(_) => "",
        NodeKind::Identity => ", style=\"\"",
        NodeKind::Pattern => ", shape=hexagon, style=dashed",
        NodeKind::Everyone => ", shape=hexagon, style=bold, color=\"#b91c1c\"",
    }
}

fn label(edge: &Edge<'_>) -> String {
    let shown = edge.permits.iter().take(LABEL_RULES_MAX).map(|permit| permitted(permit, LABEL_CALLS_MAX));
    let more = edge.permits.len().saturating_sub(LABEL_RULES_MAX);
    let more = (more > 0).then(|| format!("and {more} more rules"));
    shown.chain(more).collect::<Vec<_>>().join("\n")
}

/// A DOT string: its own quotes and backslashes are escaped, and what could steer a terminal is shown as an escape.
fn quoted(text: &str) -> String {
    let lines: Vec<_> =
        text.split('\n').map(|line| escaped(line).replace('\\', "\\\\").replace('"', "\\\"")).collect();
    format!("\"{}\"", lines.join("\\n"))
}
