//! Nodes in columns from callers to called, long edges cut into steps of one column, few edges crossing.
#![expect(clippy::indexing_slicing, reason = "every number in here is one that this file gave out")]

/// A graph in columns. Numbers from `nodes` on are bends of long edges.
#[derive(Debug)]
pub(super) struct Layers {
    /// Each column from top to bottom.
    pub(super) columns: Vec<Vec<usize>>,
    /// One for each edge, in the order given.
    pub(super) chains: Vec<Chain>,
    /// What stands right and left of each node and bend, one column away.
    pub(super) neighbours: Neighbours,
    pub(super) nodes: usize,
}

/// An edge as the stops it passes from left to right.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) stops: Vec<usize>,
    /// Whether it runs from right to left, because it closes a circle.
    pub(super) backwards: bool,
}

#[derive(Debug, Default)]
pub(super) struct Neighbours {
    pub(super) left: Vec<Vec<usize>>,
    pub(super) right: Vec<Vec<usize>>,
}

/// How often the columns are ordered by their neighbours, once to the right and once to the left.
const SWEEPS: usize = 12;

/// Arranges nodes `0..nodes`; no edge leads from a node to itself.
pub(super) fn arrange(nodes: usize, edges: &[(usize, usize)]) -> Layers {
    let rank = without_circles(nodes, edges);
    let forward: Vec<(usize, usize)> =
        edges.iter().map(|&(a, b)| if rank[a] < rank[b] { (a, b) } else { (b, a) }).collect();
    let column = columns_of(nodes, &forward, &rank);
    let mut columns = vec![Vec::new(); column.iter().max().map_or(0, |last| last + 1)];
    for node in 0..nodes {
        columns[column[node]].push(node);
    }
    let mut stops = nodes;
    let mut chains = Vec::new();
    for (&(from, to), &(a, _)) in forward.iter().zip(edges) {
        let mut chain = vec![from];
        for between in columns.iter_mut().take(column[to]).skip(column[from] + 1) {
            between.push(stops);
            chain.push(stops);
            stops += 1;
        }
        chain.push(to);
        chains.push(Chain { stops: chain, backwards: a != from });
    }
    let mut neighbours = Neighbours { left: vec![Vec::new(); stops], right: vec![Vec::new(); stops] };
    for step in chains.iter().flat_map(|chain| chain.stops.windows(2)) {
        neighbours.right[step[0]].push(step[1]);
        neighbours.left[step[1]].push(step[0]);
    }
    order(&mut columns, &neighbours);
    Layers { columns, chains, neighbours, nodes }
}

/// An order of the nodes against which few edges run (Eades, Lin and Smyth): callers first, called last, and in
/// between whoever calls more than it is called.
fn without_circles(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let (mut outgoing, mut incoming) = (vec![0_i64; nodes], vec![0_i64; nodes]);
    for &(a, b) in edges {
        outgoing[a] += 1;
        incoming[b] += 1;
    }
    let mut left: Vec<usize> = (0..nodes).collect();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    while !left.is_empty() {
        let sink = left.iter().rposition(|node| outgoing[*node] == 0);
        let source = left.iter().position(|node| incoming[*node] == 0);
        let busiest = (0..left.len()).rev().max_by_key(|at| outgoing[left[*at]] - incoming[left[*at]]);
        let (at, ends) = match (sink, source, busiest) {
            (Some(at), _, _) => (at, &mut last),
            (None, Some(at), _) | (None, None, Some(at)) => (at, &mut first),
            (None, None, None) => break,
        };
        let node = left.remove(at);
        ends.push(node);
        for &(a, b) in edges {
            if a == node {
                incoming[b] -= 1;
            }
            if b == node {
                outgoing[a] -= 1;
            }
        }
    }
    let mut rank = vec![0; nodes];
    for (place, node) in first.into_iter().chain(last.into_iter().rev()).enumerate() {
        rank[node] = place;
    }
    rank
}

/// Each node one column right of its last caller; who is called by nobody stands just left of whom it calls.
fn columns_of(nodes: usize, forward: &[(usize, usize)], rank: &[usize]) -> Vec<usize> {
    let mut by_rank: Vec<&(usize, usize)> = forward.iter().collect();
    by_rank.sort_by_key(|edge| rank[edge.0]);
    let mut column = vec![0; nodes];
    for &&(a, b) in &by_rank {
        column[b] = column[b].max(column[a] + 1);
    }
    for node in 0..nodes {
        let called = forward.iter().any(|edge| edge.1 == node);
        let nearest = forward.iter().filter(|edge| edge.0 == node).map(|edge| column[edge.1]).min();
        if let (false, Some(nearest)) = (called, nearest) {
            column[node] = nearest - 1;
        }
    }
    column
}

/// Orders each column by where the neighbours of its nodes stand, again and again, and keeps the order in which the
/// fewest edges cross.
fn order(columns: &mut Vec<Vec<usize>>, neighbours: &Neighbours) {
    let mut place = vec![0; neighbours.left.len()];
    let note = |column: &[usize], place: &mut Vec<usize>| {
        column.iter().enumerate().for_each(|(at, node)| place[*node] = at);
    };
    columns.iter().for_each(|column| note(column, &mut place));
    let mut best = (crossings(columns, neighbours, &place), columns.clone());
    for sweep in 0..SWEEPS {
        let to_right = sweep % 2 == 0;
        let side = if to_right { &neighbours.left } else { &neighbours.right };
        let mut sequence: Vec<usize> = (0..columns.len()).collect();
        if !to_right {
            sequence.reverse();
        }
        for at in sequence {
            let mean = |node: usize| match side[node].as_slice() {
                [] => place[node] as f64,
                beside => beside.iter().map(|other| place[*other] as f64).sum::<f64>() / beside.len() as f64,
            };
            columns[at].sort_by(|a, b| mean(*a).total_cmp(&mean(*b)));
            note(&columns[at], &mut place);
        }
        let found = crossings(columns, neighbours, &place);
        if found < best.0 {
            best = (found, columns.clone());
        }
    }
    *columns = best.1;
}

/// How many pairs of steps cross: inversions, counted with a Fenwick tree.
fn crossings(columns: &[Vec<usize>], neighbours: &Neighbours, place: &[usize]) -> usize {
    let mut crossings = 0;
    for (at, column) in columns.iter().enumerate() {
        let width = columns.get(at + 1).map_or(0, Vec::len);
        let (mut seen, mut tree) = (0, vec![0_usize; width + 1]);
        for node in column {
            let mut ends: Vec<usize> = neighbours.right[*node].iter().map(|next| place[*next] + 1).collect();
            ends.sort_unstable();
            for end in &ends {
                let mut above = 0;
                let mut at = *end;
                while at > 0 {
                    above += tree[at];
                    at &= at - 1;
                }
                crossings += seen - above;
            }
            for end in &ends {
                seen += 1;
                let mut at = *end;
                while at <= width {
                    tree[at] += 1;
                    at += at & at.wrapping_neg();
                }
            }
        }
    }
    crossings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(nodes: usize, edges: &[(usize, usize)]) -> Layers {
        let layers = arrange(nodes, edges);
        let column_of =
            |stop: usize| layers.columns.iter().position(|column| column.contains(&stop)).unwrap();
        for (chain, (from, to)) in layers.chains.iter().zip(edges) {
            let ends = (*chain.stops.first().unwrap(), *chain.stops.last().unwrap());
            assert_eq!(ends, if chain.backwards { (*to, *from) } else { (*from, *to) });
            for step in chain.stops.windows(2) {
                assert_eq!(column_of(step[0]) + 1, column_of(step[1]), "{chain:?}");
            }
        }
        layers
    }

    #[test]
    fn callers_stand_left_of_whom_they_call_and_long_edges_are_cut() {
        let layers = arranged(4, &[(0, 1), (1, 2), (0, 2), (3, 2)]);
        assert_eq!(layers.columns.iter().map(Vec::len).collect::<Vec<_>>(), [1, 3, 1]);
        assert!(layers.chains.iter().all(|chain| !chain.backwards));
    }

    #[test]
    fn a_circle_has_one_edge_backwards() {
        let layers = arranged(3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(layers.chains.iter().filter(|chain| chain.backwards).count(), 1);
        assert_eq!(arranged(2, &[(0, 1), (1, 0)]).columns.len(), 2);
    }

    #[test]
    fn edges_that_need_not_cross_do_not() {
        let layers = arranged(6, &[(0, 5), (1, 4), (2, 3)]);
        let mut place = vec![0; 6];
        for column in &layers.columns {
            column.iter().enumerate().for_each(|(at, node)| place[*node] = at);
        }
        assert_eq!(crossings(&layers.columns, &layers.neighbours, &place), 0);
    }

    #[test]
    fn nothing_is_arranged_to_nothing() {
        assert!(arrange(0, &[]).columns.is_empty());
        assert_eq!(arrange(2, &[]).columns, [[0, 1]]);
    }
}
