//! Units that can be told apart: each sector of one says which unit it is of, in which generation, and where
//! in it. Writers overwrite them again and again and say what they do; whoever cuts the power judges what
//! is left by what had been said:
//!
//! * Every sector is one that was written there: none foreign, none newer than the last that was asked for.
//! * None is older than the last generation that was made durable.
//! * Of an untorn write all sectors are at least as new as it, or none is. Otherwise the unit is *torn*.

use futures::executor::block_on;
use futures::future::join_all;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use zonal::atomic::{AtomicFile, AtomicPath};

use crate::random::Random;

/// What no disk tears.
const SECTOR: usize = 512;

/// How units are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Untorn, by the kernel or the journal; each fourth generation is an ordinary write.
    Untorn(AtomicPath),
    /// The control: the same writes, and all of them ordinary.
    Ordinary,
}

impl Way {
    fn is_untorn(self, generation: u64) -> bool {
        self != Self::Ordinary && Self::shall_be_whole(generation)
    }

    /// Generations that are untorn writes, or stand for these in the control.
    fn shall_be_whole(generation: u64) -> bool {
        generation % 4 != 3
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untorn(path) => write!(f, "{path}"),
            Self::Ordinary => f.write_str("ordinary"),
        }
    }
}

/// What was said of a unit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// The newest generation that was asked for.
    pub(crate) asked: u64,
    /// The newest one that is durable.
    pub(crate) durable: u64,
}

/// A line that a writer says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    Asked(u64, u64),
    Durable(u64, u64),
}

impl Line {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Asked(unit, generation) => format!("asked {unit} {generation}\n"),
            Self::Durable(unit, generation) => format!("durable {unit} {generation}\n"),
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |n: usize| words[n].parse().expect("a number");
        match words[0] {
            "asked" => Self::Asked(number(1), number(2)),
            "durable" => Self::Durable(number(1), number(2)),
            other => unreachable!("nobody says {other}"),
        }
    }
}

/// All that was said.
#[derive(Clone, Debug)]
pub(crate) struct Heard(pub(crate) Vec<Known>);

impl Heard {
    pub(crate) fn nothing(units: u64) -> Self {
        Self((0..units).map(|_| Known::default()).collect())
    }

    pub(crate) fn hear(&mut self, line: Line) {
        match line {
            Line::Asked(unit, generation) => self.0[unit as usize].asked = generation,
            Line::Durable(unit, generation) => self.0[unit as usize].durable = generation,
        }
    }
}

/// A unit's bytes in a generation.
pub(crate) fn stamped(unit: u64, generation: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    for n in 0..(length / SECTOR) as u64 {
        bytes.extend_from_slice(&sector(unit, generation, n));
    }
    bytes
}

fn sector(unit: u64, generation: u64, number: u64) -> [u8; SECTOR] {
    let mut bytes = [(generation * 31 + unit * 7 + number) as u8; SECTOR];
    for (place, word) in bytes.chunks_mut(8).zip([unit, generation, number]) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// What a cut has left of units.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    pub(crate) torn: u64,
    /// Units whose newest write had not been said to be durable: the cut may have met it.
    pub(crate) under_way: u64,
}

impl Left {
    /// Judges a unit: what must be there was known before the cut, what may be there after it.
    pub(crate) fn judge(&mut self, unit: u64, bytes: &[u8], before: Known, after: Known) {
        let (mut oldest, mut newest) = (u64::MAX, 0);
        for (n, found) in (0..).zip(bytes.chunks(SECTOR)) {
            let generation = u64::from_be_bytes(found[8..16].try_into().expect("eight bytes"));
            assert!(
                *found == sector(unit, generation, n),
                "sector {n} of unit {unit} is not its own: {found:?}"
            );
            (oldest, newest) = (oldest.min(generation), newest.max(generation));
        }
        assert!(
            oldest >= before.durable,
            "unit {unit}: generation {oldest} is there, and {} was durable",
            before.durable
        );
        assert!(newest <= after.asked, "unit {unit}: nobody has written generation {newest} yet");
        self.torn += u64::from((oldest + 1..=newest).any(Way::shall_be_whole));
        self.under_way += u64::from(after.asked > before.durable);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.torn += other.torn;
        self.under_way += other.under_way;
    }
}

/// Writes generation 0 of all units, durably.
pub(crate) fn fill(file: &AtomicFile, units: u64, length: usize) {
    for unit in 0..units {
        let bytes = stamped(unit, 0, length);
        file.write_at(unit * length as u64, bytes).wait().expect("an ordinary write");
    }
    file.flush().wait().expect("a flush");
}

/// Reads a unit.
pub(crate) fn read(file: &AtomicFile, unit: u64, length: usize) -> Vec<u8> {
    let buffer = file.buffer(length);
    file.read_at(unit * length as u64, buffer).wait().expect("a read").buffer.to_vec()
}

/// A thread that overwrites units of its own, some of them at once.
pub(crate) struct Writer<'a> {
    pub(crate) file: &'a AtomicFile,
    pub(crate) way: Way,
    pub(crate) length: usize,
    pub(crate) own: Range<u64>,
    pub(crate) seed: u64,
    /// One in so many writes is asked to be durable, and so often a flush follows.
    pub(crate) durable: u64,
    /// Hears of each step before whoever cuts the power can see its outcome, or promise it.
    pub(crate) say: &'a (dyn Fn(Line) + Sync),
    /// Whether there is to be another one; may wait.
    pub(crate) goes_on: &'a (dyn Fn() -> bool + Sync),
}

impl Writer<'_> {
    pub(crate) fn run(&self) {
        let mut random = Random::new(self.seed);
        let mut generations: Vec<u64> = self.own.clone().map(|_| 0).collect();
        while (self.goes_on)() {
            let mut writes = Vec::new();
            for (unit, generation) in self.own.clone().zip(&mut generations) {
                if random.next(2) == 0 {
                    *generation += 1;
                    let durable = random.next(self.durable) == 0;
                    writes.push(self.overwrite(unit, *generation, durable));
                }
            }
            block_on(join_all(writes));
            if random.next(self.durable) == 0 {
                self.file.flush().wait().expect("a flush");
                for (unit, generation) in self.own.clone().zip(&generations) {
                    (self.say)(Line::Durable(unit, *generation));
                }
            }
        }
    }

    async fn overwrite(&self, unit: u64, generation: u64, durable: bool) {
        let (untorn, offset) = (self.way.is_untorn(generation), unit * self.length as u64);
        let bytes = stamped(unit, generation, self.length);
        (self.say)(Line::Asked(unit, generation));
        let write = match untorn {
            true => self.file.write_atomic_at(offset, bytes),
            false => self.file.write_at(offset, bytes),
        };
        let write = if durable { write.durable() } else { write };
        let written = write.await.expect("a write");
        let path = match self.way {
            Way::Untorn(path) if untorn => path,
            Way::Untorn(_) | Way::Ordinary => AtomicPath::None,
        };
        assert_eq!(written.path, path);
        if durable || path == AtomicPath::Journal {
            (self.say)(Line::Durable(unit, generation));
        }
    }
}

/// What is known by now, whoever has panicked.
pub(crate) fn known(heard: &Mutex<Heard>) -> Heard {
    heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
