//! Who may call whom, as a graph.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use time::OffsetDateTime;

use super::Policy;
use super::call::CallPattern;
use super::rule::RuleRef;
use super::service::Service;
use crate::identity::IdPattern;

/// Callers and services, and the rules between them.
#[derive(Debug, Clone)]
pub struct Graph<'a> {
    /// Declared services in the order of the file, then other callers as rules first name them.
    pub nodes: Vec<Node<'a>>,
    /// One for each pair, in the order of the callers.
    pub edges: Vec<Edge<'a>>,
}

/// One who calls or is called.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// The service's name, or the caller as `from` writes it.
    pub label: String,
    /// What it is.
    pub kind: NodeKind<'a>,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum NodeKind<'a> {
    /// A declared service.
    Service(&'a Service),
    /// One identity that no service is declared with.
    Identity,
    /// Identities by a pattern.
    Pattern,
    /// Everyone of a trust domain.
    Everyone,
}

impl NodeKind<'_> {
    /// A stable word for JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Service(_) => "service",
            Self::Identity => "identity",
            Self::Pattern => "pattern",
            Self::Everyone => "everyone",
        }
    }
}

/// Who may call whom, and by which rules.
#[derive(Debug, Clone)]
pub struct Edge<'a> {
    /// The caller, by its place in [`Graph::nodes`].
    pub from: usize,
    /// The service, likewise.
    pub to: usize,
    /// Never empty.
    pub permits: Vec<Permit<'a>>,
}

/// What one rule gives a caller.
#[derive(Debug, Clone)]
pub struct Permit<'a> {
    /// Which rule.
    pub rule: &'a Arc<RuleRef>,
    /// Its calls; without, any bytes.
    pub calls: Option<&'a [CallPattern]>,
    /// Its port; without, all.
    pub port: Option<&'a str>,
}

impl Policy {
    /// Who may call whom at `now`: rules that are over are left out.
    pub fn graph(&self, now: OffsetDateTime) -> Graph<'_> {
        let mut nodes: Vec<_> = self.services.iter().map(Node::of_service).collect();
        let mut callers: HashMap<&IdPattern, usize> = HashMap::new();
        let mut edges: BTreeMap<(usize, usize), Vec<Permit<'_>>> = BTreeMap::new();
        for (to, service) in self.services.iter().enumerate() {
            for rule in service.rules.iter().filter(|rule| !rule.is_over(now)) {
                for peer in &rule.from {
                    let from = match self.by_identity.get(&*peer.to_string()) {
                        Some(service) => *service,
                        None => *callers.entry(peer).or_insert_with(|| {
                            nodes.push(self.node_of_peer(peer));
                            nodes.len() - 1
                        }),
                    };
                    let permit = Permit {
                        rule: &rule.about,
                        calls: rule.calls.as_deref(),
                        port: rule.port.as_deref(),
                    };
                    edges.entry((from, to)).or_default().push(permit);
                }
            }
        }
        let edges = edges.into_iter().map(|((from, to), permits)| Edge { from, to, permits });
        Graph { nodes, edges: edges.collect() }
    }

    fn node_of_peer(&self, peer: &IdPattern) -> Node<'_> {
        let kind = match peer {
            _ if peer.is_everyone() => NodeKind::Everyone,
            _ if peer.path().is_exact() => NodeKind::Identity,
            _ => NodeKind::Pattern,
        };
        Node { label: self.spelling_of(peer), kind }
    }
}

impl<'a> Node<'a> {
    fn of_service(service: &'a Service) -> Self {
        Self { label: service.name().to_owned(), kind: NodeKind::Service(service) }
    }
}
