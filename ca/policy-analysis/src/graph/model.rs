//! Who may call whom, as a graph.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use postern_proto::identity::IdPattern;
use postern_proto::policy::{CallPattern, Policy, RuleRef, Service};
use time::OffsetDateTime;

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

impl<'a> Graph<'a> {
    /// Who may call whom at `now`: rules that are over are left out.
    pub fn of(policy: &'a Policy, now: OffsetDateTime) -> Self {
        let services = policy.services();
        let mut nodes: Vec<_> = services.iter().map(Node::of_service).collect();
        let numbered = services.iter().enumerate();
        let declared: HashMap<_, _> =
            numbered.map(|(number, service)| (service.identity(), number)).collect();
        let mut callers: HashMap<&IdPattern, usize> = HashMap::new();
        let mut edges: BTreeMap<(usize, usize), Vec<Permit<'_>>> = BTreeMap::new();
        for (to, service) in services.iter().enumerate() {
            for rule in service.rules().iter().filter(|rule| !rule.is_over(now)) {
                for peer in rule.from() {
                    let from = match peer.as_exact().and_then(|id| declared.get(&id)) {
                        Some(service) => *service,
                        None => *callers.entry(peer).or_insert_with(|| {
                            nodes.push(Node::of_peer(policy, peer));
                            nodes.len() - 1
                        }),
                    };
                    let permit = Permit { rule: rule.about(), calls: rule.calls(), port: rule.port() };
                    edges.entry((from, to)).or_default().push(permit);
                }
            }
        }
        let edges = edges.into_iter().map(|((from, to), permits)| Edge { from, to, permits });
        Graph { nodes, edges: edges.collect() }
    }
}

impl<'a> Node<'a> {
    fn of_service(service: &'a Service) -> Self {
        Self { label: service.name().to_owned(), kind: NodeKind::Service(service) }
    }

    fn of_peer(policy: &Policy, peer: &IdPattern) -> Self {
        let kind = match peer {
            _ if peer.is_everyone() => NodeKind::Everyone,
            _ if peer.as_exact().is_some() => NodeKind::Identity,
            _ => NodeKind::Pattern,
        };
        Self { label: policy.spelling_of(peer), kind }
    }
}
