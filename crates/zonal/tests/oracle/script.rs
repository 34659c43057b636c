//! What is done to a drive: steps that follow from a seed, and mean something in any state, so
//! that any of them can be left out to find a shorter failing case.

use zonal::Geometry;

/// Numbers that look random and follow from a seed alone (SplitMix64: Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

/// What a drive is like.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) memory: bool,
    pub(crate) geometry: Geometry,
    pub(crate) queues: usize,
    pub(crate) depth: u32,
    pub(crate) pooled: bool,
    pub(crate) discard: bool,
    pub(crate) slow_zeroing: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot {
    /// The write pointer, as moved by what was asked before.
    End,
    Block(u64),
}

/// One request; zones and blocks are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    Append {
        zone: u64,
        blocks: u64,
    },
    AppendAt {
        zone: u64,
        block: u64,
        blocks: u64,
    },
    Ordered {
        zone: u64,
        blocks: u64,
    },
    Write {
        zone: u64,
        spot: Spot,
        blocks: u64,
    },
    Read {
        start: u64,
        blocks: u64,
    },
    Open {
        zone: u64,
    },
    Close {
        zone: u64,
    },
    Finish {
        zone: u64,
    },
    Reset {
        zone: u64,
    },
    ResetAll,
    Flush,
    /// An argument that no state makes right.
    Wrong {
        zone: u64,
        which: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Well,
    Fails,
    /// Fails after so many blocks.
    FailsAfter(u64),
    /// Ends short, after so many sectors.
    Short(u64),
    /// Zeroing is not supported.
    Unsupported,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// One submission of some requests, durable or not.
    Submit {
        queue: u64,
        wants: Vec<(Want, bool)>,
    },
    /// One I/O ends.
    End {
        pick: u64,
        how: How,
    },
    Wear {
        zone: u64,
        offline: bool,
    },
    /// The end of a sequence: everything ends well, all is read; then the zones are reset, or
    /// the next sequence goes on from what it finds.
    Rest {
        reset: bool,
    },
}

impl Setup {
    pub(crate) fn new(random: &mut Random, memory: bool) -> Self {
        let block = if random.one_in(6) { 4096 } else { 512 };
        let size = if memory { random.of(&[4, 7, 8, 11, 16]) } else { random.of(&[4, 8, 8, 16]) };
        let capacity = if random.one_in(2) { size } else { size - random.below(size / 2) };
        let zones = 2 + random.below(5);
        let missing = if random.one_in(2) { 0 } else { random.below(size) };
        let (max_open_zones, max_active_zones) =
            random.of(&[(0, 0), (1, 1), (3, 5), (1, 1), (3, 5), (1, 2), (2, 3), (0, 2), (2, 0)]);
        let mut geometry = Geometry {
            size: (zones * size - missing) * block,
            zone_size: size * block,
            zone_capacity: capacity * block,
            conventional_zones: random.of(&[0, 0, 1, 1, 2]).min(u32::try_from(zones).unwrap() - 1),
            max_open_zones,
            max_active_zones,
            block_size: u32::try_from(block).unwrap(),
            max_append: u32::try_from(random.of(&[1, 2, 3, 4]) * block).unwrap(),
        };
        geometry.clamp();
        let slow_zeroing = random.one_in(2);
        Self {
            memory,
            geometry,
            queues: 1 + usize::from(!random.one_in(3)),
            depth: random.of(&[4, 16, 16]),
            pooled: random.one_in(4),
            discard: !slow_zeroing && random.one_in(2),
            slow_zeroing: slow_zeroing && !memory,
        }
    }
}

/// So many sequences, each of a few steps.
pub(crate) fn script(random: &mut Random, setup: &Setup, sequences: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for sequence in 0..sequences {
        let length = if random.one_in(50) { 150 } else { 5 + random.below(30) };
        let wear = random.one_in(3) && sequence + 4 >= sequences;
        // Some sequences are about one zone, so that it is full, failing or waited for.
        let focus = random.one_in(2).then(|| random.below(1000));
        let rough = random.one_in(3);
        for _ in 0..length {
            steps.push(step(random, setup, Mood { wear, rough, focus }));
        }
        steps.push(Step::Rest { reset: random.one_in(2) });
    }
    steps
}

/// What a sequence is about.
#[derive(Clone, Copy)]
struct Mood {
    /// Zones wear out.
    wear: bool,
    /// Much fails.
    rough: bool,
    /// Most is about this zone.
    focus: Option<u64>,
}

fn step(random: &mut Random, setup: &Setup, Mood { wear, rough, focus }: Mood) -> Step {
    if wear && random.one_in(8) {
        return Step::Wear { zone: random.below(1000), offline: random.one_in(2) };
    }
    if !setup.memory && random.below(10) < 5 {
        let how = match random.below(if rough { 6 } else { 12 }) {
            0 => How::Fails,
            1 => How::FailsAfter(random.below(4)),
            2 => How::Short(random.below(4)),
            3 => How::Unsupported,
            _ => How::Well,
        };
        return Step::End { pick: random.below(1000), how };
    }
    let requests = if random.one_in(2) { 1 } else { 1 + random.below(5) };
    let wants = (0..requests).map(|_| (want(random, focus), random.one_in(8))).collect();
    Step::Submit { queue: random.below(1000), wants }
}

fn want(random: &mut Random, focus: Option<u64>) -> Want {
    let zone = match focus {
        Some(zone) if !random.one_in(4) => zone,
        Some(_) | None => random.below(1000),
    };
    let blocks = 1 + random.below(3);
    match random.below(40) {
        0..=8 => Want::Append { zone, blocks },
        9 => Want::AppendAt { zone, block: random.below(1000), blocks },
        10..=13 => Want::Ordered { zone, blocks: blocks + random.below(4) },
        14..=18 => Want::Write { zone, spot: Spot::End, blocks },
        19..=20 => Want::Write { zone, spot: Spot::Block(random.below(1000)), blocks },
        21..=24 => Want::Read { start: random.below(1000), blocks: 1 + random.below(24) },
        25..=26 => Want::Open { zone },
        27..=28 => Want::Close { zone },
        29..=30 => Want::Finish { zone },
        31..=34 => Want::Reset { zone },
        35 => Want::ResetAll,
        36..=37 => Want::Flush,
        38 => Want::Append { zone, blocks: 1 + random.below(20) },
        _ => Want::Wrong { zone, which: random.below(1000) },
    }
}
