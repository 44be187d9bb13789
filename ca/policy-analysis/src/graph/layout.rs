//! Where everything in the picture stands: columns side by side, nodes near whom they call.
#![expect(clippy::indexing_slicing, reason = "every number in here comes from the columns")]

use super::layers::Layers;

const NODE_GAP: f64 = 18.0;
/// A bend of a long edge needs less room than a node.
const BEND_HEIGHT: f64 = 6.0;
/// A long edge is kept straight rather than a node central.
const BEND_WEIGHT: f64 = 3.0;
/// How often nodes are moved towards their neighbours.
const SWEEPS: usize = 16;

/// The size of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// The centre of a node or a bend, and how far its column reaches to either side.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spot {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) column: f64,
}

/// The spots of all stops, and how large the whole is.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) spots: Vec<Spot>,
    pub(super) size: Size,
}

/// Places nodes of these sizes in columns that stand so far apart, in pixels.
pub(super) fn place(layers: &Layers, sizes: &[Size], column_gap: f64) -> Layout {
    let stops = layers.neighbours.left.len();
    let height = |stop: usize| sizes.get(stop).map_or(BEND_HEIGHT, |size| size.height);
    let mut y = vec![0.0; stops];
    for column in &layers.columns {
        let wanted = vec![0.0; column.len()];
        settle(column, &wanted, layers, &height, &mut y);
    }
    for sweep in 0..SWEEPS {
        let both = sweep + 2 >= SWEEPS;
        let to_right = sweep % 2 == 0;
        let mut sequence: Vec<&Vec<usize>> = layers.columns.iter().collect();
        if !to_right {
            sequence.reverse();
        }
        for column in sequence {
            let wanted: Vec<f64> = column
                .iter()
                .map(|stop| {
                    let (left, right) = (&layers.neighbours.left[*stop], &layers.neighbours.right[*stop]);
                    let beside: Vec<f64> = match (both, to_right) {
                        (true, _) => left.iter().chain(right).map(|other| y[*other]).collect(),
                        (false, true) => left.iter().map(|other| y[*other]).collect(),
                        (false, false) => right.iter().map(|other| y[*other]).collect(),
                    };
                    if beside.is_empty() {
                        y[*stop]
                    } else {
                        beside.iter().sum::<f64>() / beside.len() as f64
                    }
                })
                .collect();
            settle(column, &wanted, layers, &height, &mut y);
        }
    }
    let top = (0..stops).map(|stop| y[stop] - height(stop) / 2.0).fold(f64::INFINITY, f64::min);
    let bottom = (0..stops).map(|stop| y[stop] + height(stop) / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let mut spots = vec![Spot::default(); stops];
    let mut x = 0.0;
    for column in &layers.columns {
        let width =
            column.iter().filter_map(|stop| sizes.get(*stop)).map(|size| size.width).fold(0.0, f64::max);
        for stop in column {
            spots[*stop] = Spot { x: x + width / 2.0, y: y[*stop] - top, column: width / 2.0 };
        }
        x += width + column_gap;
    }
    let width = (x - column_gap).max(0.0);
    Layout { spots, size: Size { width, height: (bottom - top).max(0.0) } }
}

/// Puts a column's stops as near as can be to where they want to be, in their order and without overlap: the least
/// sum of squares, by merging neighbours that want to pass each other.
fn settle(column: &[usize], wanted: &[f64], layers: &Layers, height: &impl Fn(usize) -> f64, y: &mut [f64]) {
    struct Block {
        mean: f64,
        weight: f64,
        stops: usize,
    }
    let mut offsets = Vec::with_capacity(column.len());
    let mut offset = 0.0;
    for (at, stop) in column.iter().enumerate() {
        if at > 0 {
            offset += (height(column[at - 1]) + height(*stop)) / 2.0 + NODE_GAP;
        }
        offsets.push(offset);
    }
    let mut blocks: Vec<Block> = Vec::new();
    for (at, stop) in column.iter().enumerate() {
        let weight = if *stop < layers.nodes { 1.0 } else { BEND_WEIGHT };
        let mut block = Block { mean: wanted[at] - offsets[at], weight, stops: 1 };
        while let Some(above) = blocks.pop_if(|above| above.mean > block.mean) {
            let weight = above.weight + block.weight;
            let mean = (above.mean * above.weight + block.mean * block.weight) / weight;
            block = Block { mean, weight, stops: above.stops + block.stops };
        }
        blocks.push(block);
    }
    let places = blocks.iter().flat_map(|block| std::iter::repeat_n(block.mean, block.stops));
    for ((stop, offset), mean) in column.iter().zip(&offsets).zip(places) {
        y[*stop] = mean + offset;
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::arrange;
    use super::*;

    #[test]
    fn nothing_overlaps_and_everything_is_inside() {
        let edges: Vec<_> =
            (0..30).flat_map(|a| [(a, (a * 7 + 3) % 40), (a, 39)]).filter(|(a, b)| a != b).collect();
        let layers = arrange(40, &edges);
        let size = Size { width: 100.0, height: 40.0 };
        let Layout { spots, size: whole } = place(&layers, &[size; 40], 100.0);
        for a in 0..40 {
            assert!(spots[a].x >= 50.0 && spots[a].x <= whole.width - 50.0);
            assert!(spots[a].y >= 19.999 && spots[a].y <= whole.height - 19.999);
            for b in 0..a {
                let apart = (spots[a].x - spots[b].x).abs() > 100.0
                    || (spots[a].y - spots[b].y).abs() > 40.0 + NODE_GAP - 0.001;
                assert!(apart, "{a} {b}");
            }
        }
    }
}
