//! Bytes that were a valid session once: seeded, so that the same seed is the same case everywhere.

/// A small generator (Marsaglia's xorshift64*): the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.roll() >> 16) % end as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.roll().to_be_bytes()[0]).collect()
    }
}

/// Frames in an order that may hold, changed in up to four places; one of eight is left whole.
pub fn session(dice: &mut Dice, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = (0..dice.below(12)).map(|_| dice.pick(frames).as_slice()).collect();
    parts.insert(0, &frames[0]);
    let mut bytes = parts.concat();
    for _ in 0..dice.below(8).min(4) {
        change(dice, &mut bytes);
    }
    bytes
}

fn change(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let at = dice.below(bytes.len().max(1)).min(bytes.len());
    let end = (at + dice.below(12)).min(bytes.len());
    match dice.below(6) {
        0 => drop(bytes.drain(at..end)),
        1 => bytes.truncate(at),
        2 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        3 => {
            let count = dice.below(40);
            let new = dice.bytes(count);
            drop(bytes.splice(at..at, new));
        }
        _ if bytes.is_empty() => {}
        4 => bytes[at.min(end)..end].iter_mut().for_each(|byte| *byte = [0, 1, 0x7f, 0xff][end % 4]),
        _ => bytes[at] ^= 1 << dice.below(8),
    }
}

/// The bytes in pieces of any length.
pub fn pieces<'a>(dice: &mut Dice, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let length = [1, 3, 50, 20_000][dice.below(4)];
        let (piece, rest) = bytes.split_at((1 + dice.below(length)).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
