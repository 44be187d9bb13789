//! `postern-ca policy graph`: who may call whom, as a picture or as text for other tools.

mod dot;
mod layers;
mod layout;
mod route;
mod svg;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use postern_proto::policy::{Edge, Graph, Mode, NodeKind, Permit, Policy};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::print;
use super::{must_load, rule_as_json, time_of};

/// Draw who may call whom.
///
/// Exit code: 0 drawn; 1 too large for a picture; 2 the file cannot be read, or the output not be written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  postern-ca policy graph policy.toml --output policy.svg")]
pub(in crate::cli) struct Args {
    file: PathBuf,
    /// How to draw [default: by the ending of --output, otherwise dot]
    #[arg(long, value_enum)]
    format: Option<Drawing>,
    /// Where to write [default: standard output]
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// As of this time, RFC 3339 [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = time_of)]
    at: Option<OffsetDateTime>,
}

/// What a graph is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drawing {
    /// For Graphviz.
    Dot,
    /// A picture for people, with the rules as tooltips.
    Svg,
    /// For machines.
    Json,
}

impl Drawing {
    fn of_path(path: &Path) -> Option<Self> {
        Self::from_str(path.extension()?.to_str()?, true).ok()
    }
}

pub(super) fn run(Args { file, format, output, at }: &Args) -> anyhow::Result<ExitCode> {
    let policy = must_load(file)?;
    let graph = policy.graph(at.unwrap_or_else(OffsetDateTime::now_utc));
    let drawing = format.or_else(|| Drawing::of_path(output.as_deref()?)).unwrap_or(Drawing::Dot);
    let drawn = match drawing {
        Drawing::Dot => dot::draw(&graph),
        Drawing::Json => as_json(&graph, &policy).to_string(),
        Drawing::Svg => match svg::draw(&graph, &policy) {
            Ok(drawn) => drawn,
            Err(too_large) => {
                eprintln!("postern-ca: {too_large}; --format dot and json have no bound");
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    match output {
        Some(path) => std::fs::write(path, drawn + "\n").with_context(|| path.display().to_string())?,
        None => print(&drawn)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(graph: &Graph<'_>, policy: &Policy) -> Value {
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
fn told(edge: &Edge<'_>) -> Vec<String> {
    let one = |permit: &Permit<'_>| {
        let rule = permit.rule;
        let until = rule.expires.as_ref().map(|expires| format!(", until {expires}")).unwrap_or_default();
        let about = [rule.owner.as_deref(), rule.reason.as_deref()].into_iter().flatten();
        let about: String = about.map(|text| format!(" ({text})")).collect();
        format!("{}:{}: {}{until}{about}", rule.file, rule.line, permitted(permit, TOLD_CALLS_MAX))
    };
    let mut lines: Vec<_> = edge.permits.iter().take(TOLD_RULES_MAX).map(one).collect();
    let more = edge.permits.len().saturating_sub(TOLD_RULES_MAX);
    if more > 0 {
        lines.push(format!("and {more} more rules"));
    }
    lines
}

/// What a service's node says beside its name.
fn node_told(kind: &NodeKind<'_>, file: &str) -> Option<String> {
    let NodeKind::Service(service) = kind else { return None };
    let mode = if service.mode() == Mode::Observe { ", only observes: refuses nobody" } else { "" };
    Some(format!("{} ({file}:{}){mode}", service.identity(), service.line()))
}

/// A tooltip shows at most this many rules, and of each this many calls.
const TOLD_RULES_MAX: usize = 20;
const TOLD_CALLS_MAX: usize = 20;
