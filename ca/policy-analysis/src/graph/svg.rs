//! The graph as a picture that a person can look at, by day and by night.

use postern_proto::policy::{Mode, Policy};
use thiserror::Error;

use super::layers::{Chain, arrange};
use super::layout::{Layout, Size, place};
use super::route::{Curve, Routes};
use super::{Edge, Graph, NodeKind, rule_lines, service_line};

/// A picture of more is none that a person can look at.
const NODES_MAX: usize = 500;
const EDGES_MAX: usize = 2_000;
/// Labels on more edges than this would cover each other; tooltips say the same.
const LABELLED_EDGES_MAX: usize = 16;
const LABEL_CHARS_MAX: usize = 34;
const MARGIN: f64 = 28.0;
const HEADER: f64 = 54.0;
const LEGEND: f64 = 46.0;
const GAP: f64 = 110.0;
const GAP_WITH_LABELS: f64 = 210.0;
const CHAR_WIDTH: f64 = 7.6;

/// Too much for one picture.
#[derive(Debug, Error)]
#[error("{nodes} nodes and {edges} edges are too many for a picture: at most {NODES_MAX} and {EDGES_MAX}")]
pub struct TooLarge {
    nodes: usize,
    edges: usize,
}

/// The graph as an SVG image.
pub fn draw(graph: &Graph<'_>, policy: &Policy) -> Result<String, TooLarge> {
    let (nodes, edges) = (graph.nodes.len(), graph.edges.len());
    if nodes > NODES_MAX || edges > EDGES_MAX {
        return Err(TooLarge { nodes, edges });
    }
    let between: Vec<&Edge<'_>> = graph.edges.iter().filter(|edge| edge.from != edge.to).collect();
    let pairs: Vec<_> = between.iter().map(|edge| (edge.from, edge.to)).collect();
    let sizes: Vec<_> = (0..nodes).map(|node| size_of(node, graph)).collect();
    let layers = arrange(nodes, &pairs);
    let labelled = between.len() <= LABELLED_EDGES_MAX;
    let layout = place(&layers, &sizes, if labelled { GAP_WITH_LABELS } else { GAP });
    let routes = Routes::new(&layers, &layout, &sizes);

    let width = layout.size.width.max(560.0) + 2.0 * MARGIN;
    let height = layout.size.height + HEADER + LEGEND + 2.0 * MARGIN;
    let mut parts = vec![
        opening(width, height, policy),
        format!("<g transform=\"translate({MARGIN} {})\">", MARGIN + HEADER),
    ];
    for (edge, chain) in between.iter().zip(&layers.chains) {
        parts.push(arrow(edge, chain, &routes, graph));
    }
    if labelled {
        parts.extend(between.iter().zip(&layers.chains).map(|(edge, chain)| label(edge, chain, &routes)));
    }
    parts.extend((0..nodes).map(|node| shape(node, graph, policy, &layout, &sizes)));
    parts.push("</g>".to_owned());
    parts.push(legend(height - MARGIN));
    parts.push("</svg>".to_owned());
    Ok(parts.join("\n"))
}

fn opening(width: f64, height: f64, policy: &Policy) -> String {
    let file = markup(policy.file());
    let about = format!("{} in {}", markup(policy.trust_domain().as_str()), file);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"system-ui, 'DejaVu Sans', sans-serif\">\n\
         <title>Who may call whom: {about}</title>\n<style>{STYLE}</style>\n\
         <defs>{head}{head_of_everyone}</defs>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"{y}\">Who may call whom</text>\n\
         <text class=\"note\" x=\"{MARGIN}\" y=\"{below}\">{about}</text>",
        y = MARGIN + 14.0,
        below = MARGIN + 34.0,
        head = marker("head"),
        head_of_everyone = marker("head-of-everyone"),
    )
}

fn marker(id: &str) -> String {
    format!(
        "<marker id=\"{id}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto-start-reverse\"><path class=\"{id}\" d=\"M0 0.5 L8 4 L0 7.5 z\"/></marker>"
    )
}

/// A node is high enough for its arrows to end side by side.
fn size_of(node: usize, graph: &Graph<'_>) -> Size {
    let count = |end: fn(&Edge<'_>) -> usize| graph.edges.iter().filter(|edge| end(edge) == node).count();
    let arrows = count(|edge| edge.from).max(count(|edge| edge.to));
    let chars = graph.nodes.get(node).map_or(0, |node| shortened(&node.label).chars().count());
    let bounded = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    Size {
        width: bounded(chars).max(8.0) * CHAR_WIDTH + 32.0,
        height: (bounded(arrows) * 9.0 + 18.0).max(38.0),
    }
}

fn arrow(edge: &Edge<'_>, chain: &Chain, routes: &Routes, graph: &Graph<'_>) -> String {
    let everyone = graph.nodes.get(edge.from).is_some_and(|node| matches!(node.kind, NodeKind::Everyone));
    let class = match (everyone, edge.permits.iter().any(|permit| permit.calls.is_none())) {
        (true, true) => "edge everyone",
        (true, false) => "edge everyone calls",
        (false, true) => "edge",
        (false, false) => "edge calls",
    };
    let name = |node: usize| graph.nodes.get(node).map_or("", |node| &node.label);
    let title = format!("{} → {}\n{}", name(edge.from), name(edge.to), rule_lines(edge).join("\n"));
    let end = if chain.backwards { "marker-start" } else { "marker-end" };
    let head = if everyone { "head-of-everyone" } else { "head" };
    format!(
        "<g class=\"{class}\"><title>{}</title><path d=\"{}\" {end}=\"url(#{head})\"/></g>",
        markup(&title),
        routes.path(chain)
    )
}

fn label(edge: &Edge<'_>, chain: &Chain, routes: &Routes) -> String {
    let Some(Curve { from, to }) = routes.first_curve(chain) else { return String::new() };
    let text = summary(edge);
    let (x, y) = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
    format!("<text class=\"label\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>", y - 5.0, markup(&text))
}

/// `POST /charge +1 on api`.
fn summary(edge: &Edge<'_>) -> String {
    let on = |port: Option<&str>| port.map(|port| format!(" on {port}")).unwrap_or_default();
    if let Some(permit) = edge.permits.iter().find(|permit| permit.calls.is_none()) {
        return shortened(&format!("anything{}", on(permit.port)));
    }
    let mut calls = edge.permits.iter().flat_map(|permit| permit.calls.into_iter().flatten());
    let first = calls.next().map(ToString::to_string).unwrap_or_default();
    let more = match calls.count() {
        0 => String::new(),
        more => format!(" +{more}"),
    };
    let port = edge.permits.first().and_then(|permit| permit.port);
    shortened(&format!("{first}{more}{}", on(port)))
}

fn shape(node: usize, graph: &Graph<'_>, policy: &Policy, layout: &Layout, sizes: &[Size]) -> String {
    let (Some(shown), Some(spot), Some(size)) =
        (graph.nodes.get(node), layout.spots.get(node), sizes.get(node))
    else {
        return String::new();
    };
    let (class, note) = match shown.kind {
        NodeKind::Service(service) if service.mode() == Mode::Observe => ("node observes", "only observes"),
        NodeKind::Service(service) if service.identity().trust_domain() != policy.trust_domain() => {
            ("node outside", "partner")
        }
        NodeKind::Service(_) => ("node", ""),
        NodeKind::Identity => ("node outside", ""),
        NodeKind::Pattern => ("node pattern", ""),
        NodeKind::Everyone => ("node everyone", "everyone"),
    };
    let own = graph.edges.iter().find(|edge| edge.from == node && edge.to == node);
    let mut title = vec![service_line(&shown.kind, policy.file()).unwrap_or_else(|| shown.label.clone())];
    title.extend(
        own.into_iter().flat_map(|edge| std::iter::once("calls itself:".to_owned()).chain(rule_lines(edge))),
    );
    let (left, top) = (spot.x - size.width / 2.0, spot.y - size.height / 2.0);
    let itself = own.map(|_| {
        let (x, y) = (left + size.width - 26.0, top);
        format!("<path class=\"loop\" d=\"M{x:.1} {y:.1} c-4 -20 22 -20 16 -1\" marker-end=\"url(#head)\"/>")
    });
    let text_y = if note.is_empty() { spot.y + 4.5 } else { spot.y - 1.5 };
    let note = if note.is_empty() {
        String::new()
    } else {
        format!("<text class=\"note\" x=\"{:.1}\" y=\"{:.1}\">{note}</text>", spot.x, spot.y + 12.0)
    };
    format!(
        "<g class=\"{class}\"><title>{}</title><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
         rx=\"8\"/>{}<text class=\"name\" x=\"{:.1}\" y=\"{text_y:.1}\">{}</text>{note}</g>",
        markup(&title.join("\n")),
        size.width,
        size.height,
        itself.unwrap_or_default(),
        spot.x,
        markup(&shortened(&shown.label)),
    )
}

fn legend(y: f64) -> String {
    let line = |x: f64, class: &str, head: &str, text: &str| {
        format!(
            "<g class=\"{class}\"><path d=\"M{x} {} h34\" marker-end=\"url(#{head})\"/></g>\
             <text class=\"note\" x=\"{}\" y=\"{y}\">{text}</text>",
            y - 4.0,
            x + 42.0
        )
    };
    [
        line(MARGIN, "edge", "head", "may send anything"),
        line(MARGIN + 190.0, "edge calls", "head", "may make the calls it names"),
        line(MARGIN + 420.0, "edge everyone", "head-of-everyone", "everyone may"),
    ]
    .join("\n")
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= LABEL_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(LABEL_CHARS_MAX - 1).chain(['…']).collect()
}

/// Text as XML shows it; what XML cannot hold is shown as an escape.
fn markup(text: &str) -> String {
    let show = |character: char| match character {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\n' => "&#10;".to_owned(),
        other => crate::text::escaped(other.encode_utf8(&mut [0; 4])),
    };
    text.chars().map(show).collect()
}

const STYLE: &str = "
.paper{fill:#ffffff} .title{fill:#111827;font-size:17px;font-weight:600} .note{fill:#6b7280;font-size:11px}
.label{fill:#374151;font-size:11px;text-anchor:middle;paint-order:stroke;stroke:#ffffff;stroke-width:4px}
.node rect{fill:#eef2ff;stroke:#4f46e5;stroke-width:1.3} .name{fill:#111827;font-size:13px}
.node text{text-anchor:middle} .observes rect{fill:#fff7ed;stroke:#c2410c;stroke-dasharray:6 3}
.outside rect{fill:#f0fdf4;stroke:#15803d} .pattern rect{fill:#f9fafb;stroke:#6b7280;stroke-dasharray:3 3}
.pattern .name{font-style:italic} .node.everyone rect{fill:#fef2f2;stroke:#b91c1c;stroke-width:2}
.edge path,.loop{fill:none;stroke:#64748b;stroke-width:1.5} .calls path{stroke-dasharray:5 3}
.edge.everyone path{stroke:#b91c1c} .edge:hover path{stroke:#111827;stroke-width:3} .head{fill:#64748b} .head-of-everyone{fill:#b91c1c}
@media (prefers-color-scheme: dark){
.paper{fill:#0f172a} .title,.name{fill:#f1f5f9} .note{fill:#94a3b8} .label{fill:#cbd5e1;stroke:#0f172a}
.node rect{fill:#1e1b4b;stroke:#a5b4fc} .observes rect{fill:#431407;stroke:#fdba74}
.outside rect{fill:#052e16;stroke:#86efac} .pattern rect{fill:#1e293b;stroke:#94a3b8}
.node.everyone rect{fill:#450a0a;stroke:#fca5a5} .edge path,.loop{stroke:#94a3b8} .edge.everyone path{stroke:#f87171}
.edge:hover path{stroke:#ffffff} .head{fill:#94a3b8} .head-of-everyone{fill:#f87171}
}";
