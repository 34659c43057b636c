//! What is done in a history: steps that follow from a seed, and mean something in any state, so that
//! any of them can be left out to find a shorter history that fails.

use super::random::Random;
use super::shape::Shape;

/// What may go wrong in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Faults(u16);

/// The words of `--faults`, and what each lets go wrong.
pub(super) const WORDS: [(&str, Faults, &str); 9] = [
    ("cut", Faults::CUT, "power cuts"),
    ("kill", Faults::KILL, "kills of the process alone"),
    ("error", Faults::ERROR, "I/O that fails, before or after a part"),
    ("short", Faults::SHORT, "I/O that ends short"),
    ("sync", Faults::SYNC, "data syncs and durable table writes that fail"),
    ("space", Faults::SPACE, "no space left"),
    ("zeroing", Faults::ZEROING, "zeroing that is not supported"),
    ("copy", Faults::COPY, "copies of the image that are brought back"),
    ("damage", Faults::DAMAGE, "damage to the metadata, and repair"),
];

impl Faults {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self((1 << 9) - 1);
    pub(super) const CUT: Self = Self(1);
    pub(super) const KILL: Self = Self(1 << 1);
    pub(super) const ERROR: Self = Self(1 << 2);
    pub(super) const SHORT: Self = Self(1 << 3);
    pub(super) const SYNC: Self = Self(1 << 4);
    pub(super) const SPACE: Self = Self(1 << 5);
    pub(super) const ZEROING: Self = Self(1 << 6);
    pub(super) const COPY: Self = Self(1 << 7);
    pub(super) const DAMAGE: Self = Self(1 << 8);

    pub(super) const fn has(self, fault: Self) -> bool {
        self.0 & fault.0 != 0
    }

    pub(super) const fn and(self, fault: Self) -> Self {
        Self(self.0 | fault.0)
    }
}

/// Where a plain write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// To the write pointer.
    End,
    /// To this block of its zone.
    Block(usize),
}

/// What is asked of the drive. Zones and blocks are taken modulo what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Append,
    Ordered,
    Write(Spot),
    Read(usize),
    Open,
    Close,
    Finish,
    Reset,
    ResetAll,
    Flush,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) call: Call,
    pub(super) zone: usize,
    pub(super) blocks: usize,
    pub(super) durable: bool,
    /// The next one waits for it.
    pub(super) linked: bool,
}

/// How one I/O ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Well,
    Fails,
    /// After so many sectors.
    FailsAfter(usize),
    /// So many sectors, without an error.
    Short(usize),
    NoSpace,
    /// If it is a zeroing; others end well.
    Unsupported,
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The power goes.
    Cut,
    /// The process is killed.
    Kill,
    /// The drive is dropped without a close.
    Leave,
    /// It is closed.
    Close,
}

/// One step of a history. What a step decides by itself follows from its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// One submission of some requests to one queue.
    Submit { queue: usize, wants: Vec<Want> },
    /// One I/O ends; `pick` says which.
    End { pick: usize, how: How },
    /// Everything ends, well.
    Drain,
    /// Time passes.
    Pause { milliseconds: usize },
    /// The session ends, and the image is opened again: in the middle of both there may be further
    /// cuts and kills.
    Over { ending: Ending, seed: u64 },
    /// The image is copied, with its live file; before the session ends, or after.
    Copy,
    /// The session ends and a copy is brought back, in one of several ways.
    Restore { seed: u64 },
    /// The session ends cleanly, metadata is damaged, and repaired.
    Repair { seed: u64 },
}

/// What a history is about.
#[derive(Clone, Copy)]
struct Mood {
    /// Most is about this zone.
    focus: Option<usize>,
    /// How many of 100 steps end an I/O.
    ending: usize,
    /// One of so many I/Os does not end well.
    rough: usize,
    /// How often which call is made, of 100: appends, resets, flushes, finishes.
    mix: Mix,
    /// One of so many writes is durable by itself.
    durable: usize,
    /// One of so many steps ends the session.
    over: usize,
}

#[derive(Clone, Copy)]
enum Mix {
    Even,
    Writes,
    Resets,
    Finishes,
}

/// The steps of a history.
pub(super) fn script(
    random: &mut Random,
    shape: &Shape,
    steps: usize,
    faults: Faults,
) -> Vec<Step> {
    let mood = Mood {
        focus: (!random.one_in(3)).then(|| random.below(1000)),
        ending: random.of(&[35, 50, 60]),
        rough: random.of(&[3, 5, 12, 60]),
        mix: random.of(&[Mix::Even, Mix::Writes, Mix::Resets, Mix::Resets, Mix::Finishes]),
        durable: random.of(&[3, 6, 20]),
        over: random.of(&[12, 20, 40]),
    };
    let length = steps / 2 + random.below(steps / 2 + 1);
    let mut script: Vec<_> = (0..length).map(|_| step(random, mood, shape, faults)).collect();
    // At least one of what a history is about.
    script.push(over(random, faults));
    script
}

fn step(random: &mut Random, mood: Mood, shape: &Shape, faults: Faults) -> Step {
    if random.one_in(mood.over) {
        return over(random, faults);
    }
    match random.below(100) {
        n if n < mood.ending => {
            Step::End { pick: random.below(1000), how: how(random, mood, shape, faults) }
        }
        97 => Step::Drain,
        98 => Step::Pause { milliseconds: random.below(3000) },
        99 if faults.has(Faults::COPY) => Step::Copy,
        _ => {
            let requests = if random.one_in(3) { 1 } else { 1 + random.below(5) };
            let wants = (0..requests).map(|_| want(random, mood)).collect();
            Step::Submit { queue: random.below(1000), wants }
        }
    }
}

fn over(random: &mut Random, faults: Faults) -> Step {
    let seed = random.next();
    let ending = match random.below(20) {
        0..=6 if faults.has(Faults::CUT) => Ending::Cut,
        7..=12 if faults.has(Faults::KILL) => Ending::Kill,
        13 => Ending::Leave,
        14..=15 if faults.has(Faults::COPY) => return Step::Restore { seed },
        16 if faults.has(Faults::DAMAGE) => return Step::Repair { seed },
        _ => Ending::Close,
    };
    Step::Over { ending, seed }
}

fn how(random: &mut Random, mood: Mood, shape: &Shape, faults: Faults) -> How {
    if !random.one_in(mood.rough) {
        let unsupported = shape.slow_zeroing && faults.has(Faults::ZEROING);
        return if unsupported { How::Unsupported } else { How::Well };
    }
    match random.below(7) {
        0 if faults.has(Faults::ERROR) => How::Fails,
        1..=2 if faults.has(Faults::ERROR) => How::FailsAfter(1 + random.below(3)),
        3..=4 if faults.has(Faults::SHORT) => How::Short(1 + random.below(4)),
        5 if faults.has(Faults::SPACE) => How::NoSpace,
        6 if faults.has(Faults::ZEROING) => How::Unsupported,
        _ => How::Well,
    }
}

fn want(random: &mut Random, mood: Mood) -> Want {
    let zone = match mood.focus {
        Some(zone) if !random.one_in(4) => zone,
        Some(_) | None => random.below(1000),
    };
    let (reset, flush, finish) = match mood.mix {
        Mix::Even => (8, 10, 4),
        Mix::Writes => (8, 8, 1),
        Mix::Resets => (16, 14, 3),
        Mix::Finishes => (8, 10, 12),
    };
    let call = match random.below(100) {
        n if n < reset => Call::Reset,
        n if n < reset + flush => Call::Flush,
        n if n < reset + flush + finish => Call::Finish,
        n => match n % 20 {
            0..=8 => Call::Append,
            9..=10 => Call::Ordered,
            11..=13 => Call::Write(Spot::End),
            14 => Call::Write(Spot::Block(random.below(1000))),
            15..=17 => Call::Read(random.below(1000)),
            18 => random.of(&[Call::Open, Call::Close]),
            _ => random.of(&[Call::ResetAll, Call::Append, Call::Append, Call::Close]),
        },
    };
    let most = if random.one_in(8) { 8 } else { 3 };
    let blocks = 1 + random.below(most);
    Want { call, zone, blocks, durable: random.one_in(mood.durable), linked: random.one_in(12) }
}
