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
    /// Whether it may see to what is durable, or work on a whole zone.
    pub(crate) fn is_cold(self) -> bool {
        self.write().is_none()
    }

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
    [Ask::Ordered(0, 3), Ask::Append(0, 1), Ask::Append(0, 1), Ask::Append(1, 1)],
    [Ask::Append(1, 1), Ask::WriteAt(0, 2), Ask::WriteAt(0, 2), Ask::WriteAt(0, 1)],
    [Ask::Append(0, 1), Ask::Append(1, 2), Ask::Fua(0, 2), Ask::Append(0, 2)],
];

/// What is inserted between the writes.
const INSERTED: [Ask; 5] = [Ask::Flush, Ask::Reset(0), Ask::Finish(0), Ask::Read, Ask::Close(0)];

/// Every mix, with each insertion at each place, and with none. The pasts, the ways to fail, the
/// open limit and discarding are spread over them, unless there is time for more.
pub(crate) fn all(long: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (number, mix) in MIXES.iter().enumerate() {
        for past in Past::ALL {
            scenarios.push(variant(past, mix.to_vec(), scenarios.len(), long));
        }
        // A durable write is a flush of its own: one write fewer beside what is inserted.
        let durable = mix.iter().any(|ask| matches!(ask, Ask::Fua(..)));
        let mix = if durable && !long { &mix[..3] } else { &mix[..] };
        for inserted in INSERTED {
            if inserted == Ask::Close(0) && !long {
                continue;
            }
            for place in 0..=mix.len() {
                let mut asks = mix.to_vec();
                asks.insert(place, inserted);
                let nth = scenarios.len() + number;
                for past in Past::ALL {
                    if long || past == Past::ALL[nth % Past::ALL.len()] {
                        scenarios.push(variant(past, asks.clone(), nth, long));
                    }
                }
            }
        }
    }
    scenarios
}

fn variant(past: Past, asks: Vec<Ask>, nth: usize, long: bool) -> Scenario {
    let faults = if long {
        Faults::Every
    } else {
        [Faults::Whole, Faults::Partial, Faults::Short][nth / 5 % 3]
    };
    Scenario { past, asks, max_open: u32::from(nth % 4 == 1), discard: nth % 4 == 3, faults }
}
