//! The ways that arrows take: side by side out of a node, straight through columns, bent between them.
#![expect(clippy::indexing_slicing, reason = "every number in here comes from the columns")]

use std::collections::HashMap;

use super::layers::{Chain, Layers};
use super::layout::{Layout, Size, Spot};

/// Room above the first and below the last arrow at a node's side.
const INSET: f64 = 9.0;
/// An arrow's head ends this far from its node.
const HEAD: f64 = 2.0;
/// An arrow leaves and reaches a column straight for so long.
const STRAIGHT: f64 = 14.0;

/// Where each step of each edge leaves its stop and reaches the next.
#[derive(Debug)]
pub(super) struct Routes<'a> {
    layout: &'a Layout,
    sizes: &'a [Size],
    /// By left and right end of a step.
    ends: HashMap<(usize, usize), (f64, f64)>,
}

/// A bend between two columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Curve {
    pub(super) from: (f64, f64),
    pub(super) to: (f64, f64),
}

impl<'a> Routes<'a> {
    pub(super) fn new(layers: &Layers, layout: &'a Layout, sizes: &'a [Size]) -> Self {
        let mut routes = Self { layout, sizes, ends: HashMap::new() };
        for stop in 0..layers.neighbours.left.len() {
            routes.spread(stop, &layers.neighbours.right[stop], |stop, other| (stop, other), true);
            routes.spread(stop, &layers.neighbours.left[stop], |stop, other| (other, stop), false);
        }
        routes
    }

    /// Gives each arrow at one side of a stop its own height, in the order of where it leads.
    fn spread(
        &mut self,
        stop: usize,
        others: &[usize],
        step: fn(usize, usize) -> (usize, usize),
        leaves: bool,
    ) {
        let mut others = others.to_vec();
        others.sort_by(|a, b| self.layout.spots[*a].y.total_cmp(&self.layout.spots[*b].y));
        let room = self.sizes.get(stop).map_or(0.0, |size| size.height - 2.0 * INSET);
        let centre = self.layout.spots[stop].y;
        let parts = others.len().max(1) as f64;
        for (at, other) in others.into_iter().enumerate() {
            let y = centre - room / 2.0 + room * (at as f64 + 0.5) / parts;
            let ends = self.ends.entry(step(stop, other)).or_insert((y, y));
            if leaves {
                ends.0 = y;
            } else {
                ends.1 = y;
            }
        }
    }

    /// From the right side of the first stop to the left side of the last.
    pub(super) fn path(&self, chain: &Chain) -> String {
        let mut path = String::new();
        for step in chain.stops.windows(2) {
            let (a, b) = (step[0], step[1]);
            let Curve { from, to } = self.curve(a, b);
            let start = self.edge_of(a).map_or(from.0, |half| {
                self.layout.spots[a].x + half + if chain.backwards { HEAD } else { 0.0 }
            });
            if path.is_empty() {
                path = format!("M{start:.1} {:.1}", from.1);
            }
            let bend = (from.0 + to.0) / 2.0;
            path += &format!(
                " L{:.1} {:.1} C{bend:.1} {:.1} {bend:.1} {:.1} {:.1} {:.1}",
                from.0, from.1, from.1, to.1, to.0, to.1
            );
            if let Some(half) = self.edge_of(b) {
                let end = self.layout.spots[b].x - half - if chain.backwards { 0.0 } else { HEAD };
                path += &format!(" L{end:.1} {:.1}", to.1);
            }
        }
        path
    }

    pub(super) fn first_curve(&self, chain: &Chain) -> Option<Curve> {
        Some(self.curve(*chain.stops.first()?, *chain.stops.get(1)?))
    }

    /// Between the columns of two stops.
    fn curve(&self, a: usize, b: usize) -> Curve {
        let (left, right): (Spot, Spot) = (self.layout.spots[a], self.layout.spots[b]);
        let (leaves, reaches) = self.ends.get(&(a, b)).copied().unwrap_or((left.y, right.y));
        Curve {
            from: (left.x + left.column + STRAIGHT, leaves),
            to: (right.x - right.column - STRAIGHT, reaches),
        }
    }

    /// Half of a node's width; a bend has none.
    fn edge_of(&self, stop: usize) -> Option<f64> {
        self.sizes.get(stop).map(|size| size.width / 2.0)
    }
}
