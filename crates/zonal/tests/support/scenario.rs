//! What is explored: where the drive comes from, what is asked of it, and in which order.

use super::{APPEND_MAX, BLOCK, CAPACITY, ZONE, ZONES};
use zonal::Geometry;

/// What a caller asks for. Lengths are in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    Append(usize, u32),
    Ordered(usize, u32),
    /// At the write pointer as moved by what was submitted before, when it is submitted.
    WriteAt(usize, u32),
    Fua(usize, u32),
    Read,
    Flush,
    Reset(usize),
    Finish(usize),
    Close(usize),
}

impl Ask {
    /// Zone and length of a write.
    pub(crate) fn write(self) -> Option<(usize, u32)> {
        match self {
            Self::Append(zone, length)
            | Self::Ordered(zone, length)
            | Self::WriteAt(zone, length)
            | Self::Fua(zone, length) => Some((zone, length)),
            Self::Read | Self::Flush | Self::Reset(_) | Self::Finish(_) | Self::Close(_) => None,
        }
    }
}

/// What was on the drive before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// Nothing.
    Fresh,
    /// Both zones partly written, durably.
    Partial,
    /// Both zones written and flushed, then reset; the resets are not durable.
    Reset,
    /// Both zones written, flushed, reset, and flushed again.
    ResetFlushed,
    /// Both zones written and reset, and nothing flushed.
    ResetUnflushed,
}

impl Past {
    pub(crate) const ALL: [Self; 5] =
        [Self::Fresh, Self::Partial, Self::Reset, Self::ResetFlushed, Self::ResetUnflushed];
}

/// One exploration.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) past: Past,
    pub(crate) asks: Vec<Ask>,
    /// Open zones at most; 0 for no limit.
    pub(crate) max_open: u32,
    pub(crate) discard: bool,
    /// How data writes fail.
    pub(crate) faults: Faults,
}

/// How writes of data go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Faults {
    /// Without any effect.
    Whole,
    /// After a block.
    Partial,
    /// They do a block only, and say so.
    Short,
    /// In each of these ways.
    Every,
}

impl Scenario {
    pub(crate) fn geometry(&self) -> Geometry {
        let size = u64::from(ZONE * BLOCK) * ZONES as u64;
        Geometry {
            zone_size: u64::from(ZONE * BLOCK),
            zone_capacity: u64::from(CAPACITY * BLOCK),
            max_open_zones: self.max_open,
            max_active_zones: 0,
            block_size: BLOCK,
            max_append: APPEND_MAX * BLOCK,
            ..Geometry::with_size(size)
        }
    }
}

/// The mixes of four writes.
const MIXES: [[Ask; 4]; 8] = [
    [Ask::Append(0, 1), Ask::Append(0, 2), Ask::Append(1, 1), Ask::Append(0, 1)],
    [Ask::Append(0, 2), Ask::Append(1, 2), Ask::Append(0, 2), Ask::Append(0, 1)],
    [Ask::Append(0, 1), Ask::Ordered(0, 2), Ask::Append(0, 1), Ask::Ordered(0, 1)],
    [Ask::WriteAt(0, 2), Ask::WriteAt(0, 1), Ask::Append(0, 2), Ask::Append(1, 1)],
    [Ask::Append(0, 2), Ask::Fua(0, 1), Ask::Append(0, 1), Ask::Append(1, 1)],
    [Ask::Ordered(0, 3), Ask::WriteAt(0, 1), Ask::Append(0, 1), Ask::Append(1, 1)],
    [Ask::Append(1, 1), Ask::WriteAt(0, 2), Ask::WriteAt(0, 2), Ask::WriteAt(0, 1)],
    [Ask::Append(0, 1), Ask::Append(1, 2), Ask::Fua(0, 2), Ask::Append(0, 2)],
];

/// What is inserted between the writes.
const INSERTED: [Ask; 5] = [Ask::Flush, Ask::Reset(0), Ask::Finish(0), Ask::Read, Ask::Close(0)];

/// The whole set: every mix of four writes, by itself on every past, and with each insertion at each
/// of the five places. The past goes round with mix, insertion and place, so that every two of
/// these together meet every past; the open limit and discarding go round as well. `long`: each of
/// them on every past.
pub(crate) fn all(long: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let mut add = |past, asks| {
        let nth = scenarios.len() + scenarios.len() / 4;
        let (max_open, discard) = [(0, false), (1, false), (0, true), (1, true)][nth % 4];
        scenarios.push(Scenario { past, asks, max_open, discard, faults: Faults::Every });
    };
    for (number, mix) in MIXES.iter().enumerate() {
        for past in Past::ALL {
            add(past, mix.to_vec());
        }
        for (kind, inserted) in INSERTED.into_iter().enumerate() {
            for place in 0..=mix.len() {
                let mut asks = mix.to_vec();
                asks.insert(place, inserted);
                let turn = (number + kind + place) % Past::ALL.len();
                let pasts = if long { &Past::ALL[..] } else { &Past::ALL[turn..=turn] };
                pasts.iter().for_each(|past| add(*past, asks.clone()));
            }
        }
    }
    scenarios
}

/// Two writes and something inserted, on every past: few enough to follow each order by itself.
pub(crate) fn tiny() -> Vec<Scenario> {
    let writes = [
        [Ask::Append(0, 2), Ask::Append(1, 1)],
        [Ask::WriteAt(0, 1), Ask::Fua(0, 2)],
        [Ask::Append(0, 1), Ask::Ordered(0, 3)],
    ];
    let mut scenarios = Vec::new();
    for [first, second] in writes {
        for (inserted, past) in INSERTED.into_iter().zip(Past::ALL) {
            let (max_open, discard) = [(0, false), (1, false), (0, true)][scenarios.len() % 3];
            let asks = vec![first, inserted, second];
            scenarios.push(Scenario { past, asks, max_open, discard, faults: Faults::Every });
        }
    }
    scenarios
}
