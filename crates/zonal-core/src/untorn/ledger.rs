//! Which records of a journal are alive: where the next goes, and which may be reclaimed when.
//!
//! ```text
//! admitted ─ durable ─► its units are put in place ─► all landed ─ data sync ─ header durable ─► reclaimed
//! ```
//!
//! Invariants:
//! * Records are reclaimed in their order, from the tail on, and only up to a mark taken with
//!   [`Ledger::landed_until`] *before* the data sync that covers them was submitted.
//! * A position is given out again only after its old record was reclaimed.
//! * As long as a record is alive a crash replays it. So whoever would overwrite one of its units by a
//!   write that is not in the journal has to wait until it is reclaimed ([`Ledger::overlaps`]); otherwise
//!   the replay would undo that write.

use super::journal::{BLOCK_BYTES, ENTRIES_MAX, Entry, Header, Mark, Record};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

/// The records of one journal that are not reclaimed.
#[derive(Clone, Debug)]
pub struct Ledger {
    ring_bytes: u64,
    record_units_max: u64,
    tail: Mark,
    head: Mark,
    /// Their numbers follow each other.
    alive: VecDeque<Alive>,
    /// Of so many of the first ones all units are in their places.
    landed: usize,
}

#[derive(Clone, Debug)]
struct Alive {
    mark: Mark,
    ranges: Vec<Range<u64>>,
    /// How many of its units are not in their place yet.
    landing: usize,
}

impl Ledger {
    /// Of a journal in which nothing is alive.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        Self {
            ring_bytes: header.ring_bytes,
            record_units_max: header.record_units_max(),
            tail: header.tail,
            head: header.tail,
            alive: VecDeque::new(),
            landed: 0,
        }
    }

    /// Bytes of the ring that are taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.head.position - self.tail.position
    }

    /// Whether so much is taken that reclaiming should begin: half.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.used() >= self.ring_bytes / 2
    }

    /// Whether nothing is alive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    /// How many records are alive.
    #[must_use]
    pub fn records(&self) -> usize {
        self.alive.len()
    }

    /// Whether one record takes so many units of so many bytes together. What it does not take goes into the next one,
    /// for which nothing has to be reclaimed.
    #[must_use]
    pub fn fits_record(&self, units: usize, bytes: u64) -> bool {
        units <= ENTRIES_MAX && bytes <= self.record_units_max
    }

    /// Whether a record with so many units of so many bytes together has room, now.
    #[must_use]
    pub fn has_room(&self, units: usize, bytes: u64) -> bool {
        self.fits_record(units, bytes) && BLOCK_BYTES + bytes <= self.ring_bytes - self.used()
    }

    /// Takes a place for a record of these units; none: there is no room, so reclaim first.
    pub fn admit(&mut self, entries: Vec<Entry>) -> Option<Record> {
        let bytes = entries.iter().map(|entry| entry.length).sum();
        if entries.is_empty() || !self.has_room(entries.len(), bytes) {
            return None;
        }
        let ranges = entries.iter().map(|entry| entry.offset..entry.offset + entry.length);
        let ranges = ranges.collect();
        self.alive.push_back(Alive { mark: self.head, ranges, landing: entries.len() });
        let record = Record { mark: self.head, entries };
        self.head = record.next();
        Some(record)
    }

    /// One more unit of the record with this number is in its place.
    pub fn landed(&mut self, sequence: u64) {
        let at = sequence.checked_sub(self.tail.sequence).and_then(|at| usize::try_from(at).ok());
        if let Some(alive) = at.and_then(|at| self.alive.get_mut(at)) {
            alive.landing = alive.landing.saturating_sub(1);
        }
        while self.alive.get(self.landed).is_some_and(|alive| alive.landing == 0) {
            self.landed += 1;
        }
    }

    /// Up to where all units have landed: what a data sync that is submitted now will cover.
    #[must_use]
    pub fn landed_until(&self) -> Mark {
        self.alive.get(self.landed).map_or(self.head, |alive| alive.mark)
    }

    /// Where the records begin that are alive.
    #[must_use]
    pub fn tail(&self) -> Mark {
        self.tail
    }

    /// Gives the places up to `mark` back: a data sync has covered them, and a header with this tail is
    /// durable.
    pub fn reclaim(&mut self, mark: Mark) {
        if mark.sequence <= self.tail.sequence || mark.sequence > self.head.sequence {
            return;
        }
        while self.alive.front().is_some_and(|alive| alive.mark.sequence < mark.sequence) {
            self.alive.pop_front();
            self.landed = self.landed.saturating_sub(1);
        }
        self.tail = mark;
    }

    /// Whether a record is alive that a crash would replay into a part of `range`.
    #[must_use]
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        let mut ranges = self.alive.iter().flat_map(|alive| &alive.ranges);
        ranges.any(|unit| unit.start < range.end && range.start < unit.end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::FileId;
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn ledger(blocks: u64) -> Ledger {
        let file = FileId { inode: 1, born_ns: 2 };
        Ledger::new(&Header::new([0; 16], blocks * BLOCK_BYTES, file).unwrap())
    }

    fn unit(block: u64, blocks: u64) -> Entry {
        Entry { offset: block * BLOCK_BYTES, length: blocks * BLOCK_BYTES, crc32c: 0 }
    }

    #[test]
    fn a_ring_is_full_and_has_room_again_when_its_first_record_is_reclaimed() {
        let mut ledger = ledger(8);
        let first = ledger.admit(vec![unit(0, 2)]).unwrap();
        let second = ledger.admit(vec![unit(2, 2)]).unwrap();
        assert_eq!((first.mark.position, second.mark.position), (0, 3 * BLOCK_BYTES));
        assert!(ledger.is_filling());
        assert!(ledger.admit(vec![unit(4, 2)]).is_none(), "two blocks are left");
        ledger.landed(second.mark.sequence);
        assert_eq!(ledger.landed_until(), first.mark, "the first has not landed");
        ledger.landed(first.mark.sequence);
        let mark = ledger.landed_until();
        assert_eq!(mark, second.next());
        ledger.reclaim(mark);
        assert!(ledger.is_empty() && ledger.used() == 0 && ledger.tail() == mark);
        assert!(ledger.admit(vec![unit(4, 2)]).is_some());
    }

    #[test]
    fn a_record_lands_when_each_of_its_units_has() {
        let mut ledger = ledger(16);
        let record = ledger.admit(vec![unit(0, 1), unit(4, 1)]).unwrap();
        ledger.landed(record.mark.sequence);
        assert_eq!(ledger.landed_until(), record.mark);
        ledger.landed(record.mark.sequence);
        assert_eq!(ledger.landed_until(), record.next());
    }

    #[test]
    fn what_is_alive_is_in_the_way_of_ordinary_writes() {
        let mut ledger = ledger(16);
        let record = ledger.admit(vec![unit(4, 2)]).unwrap();
        let blocks = |from: u64, to: u64| from * BLOCK_BYTES..to * BLOCK_BYTES;
        for (range, expected) in [
            (blocks(0, 4), false),
            (blocks(0, 5), true),
            (blocks(5, 6), true),
            (blocks(6, 9), false),
            (blocks(0, 99), true),
        ] {
            assert_eq!(ledger.overlaps(&range), expected, "{range:?}");
        }
        ledger.landed(record.mark.sequence);
        assert!(ledger.overlaps(&blocks(4, 6)), "landed is not reclaimed");
        ledger.reclaim(record.next());
        assert!(!ledger.overlaps(&blocks(4, 6)));
    }

    #[test]
    fn a_mark_of_nowhere_reclaims_nothing() {
        let mut ledger = ledger(16);
        let record = ledger.admit(vec![unit(4, 2)]).unwrap();
        ledger.reclaim(Mark { position: 0, sequence: 0 });
        ledger.reclaim(Mark { position: 1 << 20, sequence: 99 });
        assert_eq!((ledger.records(), ledger.tail()), (1, record.mark));
    }

    #[test]
    fn a_record_has_its_bounds() {
        let mut ledger = ledger(4096);
        assert!(ledger.has_room(ENTRIES_MAX, BLOCK_BYTES * 251));
        assert!(!ledger.has_room(ENTRIES_MAX + 1, BLOCK_BYTES * 252));
        assert!(!ledger.has_room(3, (2 << 20) + 4096));
        for units in [251, 251, 251, 251, 251, 251, 251, 251] {
            assert!(ledger.admit((0..units).map(|at| unit(at, 2)).collect()).is_some());
        }
        assert!(ledger.fits_record(251, 251 * BLOCK_BYTES), "an empty ring would take it");
        assert!(!ledger.has_room(251, 251 * BLOCK_BYTES));
        assert!(!ledger.fits_record(252, 252 * BLOCK_BYTES), "no ring does");
    }

    #[test]
    fn records_that_land_out_of_order_count_when_those_before_them_have() {
        let mut ledger = ledger(64);
        let records: Vec<_> = (0..6).map(|at| ledger.admit(vec![unit(at, 1)]).unwrap()).collect();
        let sequence = |at: usize| records[at].mark.sequence;
        for at in [1, 2, 4] {
            ledger.landed(sequence(at));
            assert_eq!(ledger.landed_until(), records[0].mark);
        }
        ledger.landed(sequence(0));
        assert_eq!(ledger.landed_until(), records[3].mark);
        ledger.reclaim(records[2].mark);
        assert_eq!(ledger.landed_until(), records[3].mark, "two are left behind, one is not");
        // Those that are left behind, and those that never were, are nobody's.
        ledger.landed(sequence(0));
        ledger.landed(99);
        assert_eq!(ledger.landed_until(), records[3].mark);
        ledger.landed(sequence(3));
        assert_eq!(ledger.landed_until(), records[5].mark);
        ledger.landed(sequence(5));
        assert_eq!(ledger.landed_until(), records[5].next());
        ledger.reclaim(records[5].next());
        let next = ledger.admit(vec![unit(9, 1)]).unwrap();
        assert_eq!(ledger.landed_until(), next.mark, "it has not landed");
    }

    proptest! {
        #[test]
        fn no_two_records_alive_share_a_place(
            steps in prop::collection::vec((0_u8..3, 0_usize..8, 1_u64..3), 1..200)
        ) {
            let mut ledger = ledger(16);
            let mut open: Vec<u64> = Vec::new();
            let mut alive: VecDeque<(Mark, u64)> = VecDeque::new();
            for (what, which, blocks) in steps {
                match what {
                    0 => if let Some(record) = ledger.admit(vec![unit(which as u64, blocks)]) {
                        let end = record.mark.position + record.length();
                        if let Some((first, _)) = alive.front() {
                            prop_assert!(end - first.position <= 16 * BLOCK_BYTES);
                        }
                        alive.push_back((record.mark, end));
                        open.push(record.mark.sequence);
                    },
                    1 if !open.is_empty() => ledger.landed(open.remove(which % open.len())),
                    _ => {
                        let mark = ledger.landed_until();
                        ledger.reclaim(mark);
                        while alive.front().is_some_and(|(first, _)| first.sequence < mark.sequence) {
                            let (gone, _) = alive.pop_front().unwrap();
                            prop_assert!(!open.contains(&gone.sequence), "it has not landed");
                        }
                    }
                }
                prop_assert_eq!(ledger.records(), alive.len());
            }
        }
    }
}
