//! The memory in which a drive's zones live, shared by all its queues.
//!
//! Three arrays of 64-bit atomics:
//! * per zone the *word* ([`ZoneWord`]) and the *mark*: generation in the upper half, highest
//!   acknowledged end in the lower;
//! * per queue and slot the range in flight: `{zone, generation}` and `{start, length}`, the
//!   second zero when the slot is free.
//!
//! For an image all of it is the live file, mapped, so that it outlives a killed process.
//!
//! A write's range is proposed before the write takes its place, so that a kill in between leaves no
//! hole unknown; published before the write is issued; and before the write leaves the
//! zone's word it is cleared, or, in a failing zone, marked as *ended*, to be cleared when the
//! zone has settled. So every published range that has not ended is counted in its zone's word,
//! and who has counted as many as the word has writes in flight has seen them all
//! ([`Cells::ranges_in_flight`]).

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sys::words::SharedWords;
use zonal_core::units::{Blocks, Extent, Generation, ZoneIndex};
use zonal_core::zone::ZoneWord;

/// Queues that can be open on one drive at a time.
pub const QUEUES_MAX: u32 = if cfg!(zonal_shuttle) { 4 } else { 32 };

/// Requests one queue can hold. With [`QUEUES_MAX`] it gives the live file's 2 MiB of ranges.
pub const DEPTH_MAX: u32 = if cfg!(zonal_shuttle) { 8 } else { 4096 };

/// Up to this many zones, each has a cache line pair of its own (adjacent lines are fetched
/// together), so that writers of different zones share nothing. Above it memory counts more.
const SPREAD_ZONES_MAX: u32 = 16384;

const SPREAD_STRIDE: usize = 16;
const DENSE_STRIDE: usize = 2;

/// Which slot of which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId {
    pub(crate) queue: u32,
    pub(crate) slot: u32,
}

/// How many 64-bit words a drive of so many zones needs.
pub(crate) fn words_needed(zones: u32) -> usize {
    slots_start(zones) + 2 * (QUEUES_MAX * DEPTH_MAX) as usize
}

fn stride(zones: u32) -> usize {
    if zones <= SPREAD_ZONES_MAX { SPREAD_STRIDE } else { DENSE_STRIDE }
}

fn slots_start(zones: u32) -> usize {
    zones as usize * stride(zones)
}

/// In a published length: the write has ended, in a zone that has not settled. Lengths are far
/// below it.
const ENDED: u32 = 1 << 31;

/// In a published length: the write asks for this place, and may not get it.
const PROPOSED: u32 = 1 << 30;

/// A zone's generation and its highest acknowledged end, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) generation: Generation,
    pub(crate) end: Blocks,
}

impl Mark {
    pub(crate) fn from_bits(bits: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // the two halves
        Self { generation: Generation((bits >> 32) as u32), end: Blocks(bits as u32) }
    }

    pub(crate) fn bits(self) -> u64 {
        u64::from(self.generation.0) << 32 | u64::from(self.end.0)
    }
}

/// A range in flight, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) zone: ZoneIndex,
    pub(crate) generation: Generation,
    pub(crate) extent: Extent,
    /// The write has left its zone's word; the range is unreadable until the zone has settled.
    pub(crate) ended: bool,
    /// The write asked for this place; whether it got it, its zone's word knows.
    pub(crate) proposed: bool,
}

/// The shared memory of a drive's zones.
pub(crate) struct Cells {
    words: SharedWords,
    /// Where the cells start in `words`: behind the live file's head, or at zero.
    base: usize,
    zones: u32,
    stride: usize,
}

impl Cells {
    /// Over memory of at least `base + words_needed(zones)` words.
    pub(crate) fn new(words: SharedWords, base: usize, zones: u32) -> Self {
        assert!(words.len() >= base + words_needed(zones), "the cells do not fit their memory");
        words.uses(base + slots_start(zones));
        Self { words, base, zones, stride: stride(zones) }
    }

    /// Whether there are words before the cells.
    pub(crate) fn has_head(&self) -> bool {
        self.base > 0
    }

    /// The words before the cells.
    pub(crate) fn head(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.base);
        self.words.get(index)
    }

    #[inline]
    pub(crate) fn word(&self, zone: ZoneIndex) -> &AtomicU64 {
        self.words.get(self.base + zone.index() * self.stride)
    }

    #[inline]
    fn mark_cell(&self, zone: ZoneIndex) -> &AtomicU64 {
        self.words.get(self.base + zone.index() * self.stride + 1)
    }

    #[inline]
    pub(crate) fn load(&self, zone: ZoneIndex) -> ZoneWord {
        ZoneWord::from_bits(self.word(zone).load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn mark(&self, zone: ZoneIndex) -> Mark {
        Mark::from_bits(self.mark_cell(zone).load(Ordering::Acquire))
    }

    pub(crate) fn set_mark(&self, zone: ZoneIndex, mark: Mark) {
        self.mark_cell(zone).store(mark.bits(), Ordering::Release);
    }

    /// Raises the zone's acknowledged end to `end`. The generation cannot change meanwhile: a
    /// write of the zone is in flight.
    #[inline]
    pub(crate) fn raise_mark(&self, zone: ZoneIndex, end: Blocks) {
        let cell = self.mark_cell(zone);
        let now = Mark::from_bits(cell.load(Ordering::Acquire));
        if now.end < end {
            cell.fetch_max(Mark { end, ..now }.bits(), Ordering::AcqRel);
        }
    }

    #[inline]
    fn slot_cells(&self, id: SlotId) -> (&AtomicU64, &AtomicU64) {
        debug_assert!(id.queue < QUEUES_MAX && id.slot < DEPTH_MAX);
        let at = self.slot_at(id);
        (self.words.get(at), self.words.get(at + 1))
    }

    #[inline]
    fn slot_at(&self, id: SlotId) -> usize {
        self.base + slots_start(self.zones) + 2 * (id.queue * DEPTH_MAX + id.slot) as usize
    }

    /// Publishes a range, before its write is issued.
    #[inline]
    pub(crate) fn publish(&self, id: SlotId, zone: ZoneIndex, extent: Extent) {
        self.set_range(id, zone, extent, 0);
    }

    /// Publishes the range that a write asks for, before it has taken the place. Without this a
    /// process killed between the two would leave a hole below the write pointer that nobody
    /// knows of.
    #[inline]
    pub(crate) fn propose(&self, id: SlotId, zone: ZoneIndex, extent: Extent) {
        self.set_range(id, zone, extent, PROPOSED);
    }

    #[inline]
    fn set_range(&self, id: SlotId, zone: ZoneIndex, extent: Extent, flags: u32) {
        let generation = self.mark(zone).generation;
        let (who, what) = self.slot_cells(id);
        who.store(u64::from(zone.0) << 32 | u64::from(generation.0), Ordering::Release);
        let range = u64::from(extent.start.0) << 32 | u64::from(extent.length().0 | flags);
        what.store(range, Ordering::Release);
    }

    /// Takes a published range back.
    #[inline]
    pub(crate) fn clear(&self, id: SlotId) {
        self.slot_cells(id).1.store(0, Ordering::Release);
    }

    /// Marks a published range as ended, before its write leaves a failing zone's word.
    pub(crate) fn mark_ended(&self, id: SlotId) {
        let (_, what) = self.slot_cells(id);
        let range = what.load(Ordering::Relaxed); // its own queue's store
        if range != 0 {
            what.store(range | u64::from(ENDED), Ordering::Release);
        }
    }

    /// The range published in a slot, if any.
    #[allow(clippy::cast_possible_truncation)] // halves of words
    pub(crate) fn published(&self, id: SlotId) -> Option<InFlight> {
        let (who, what) = self.slot_cells(id);
        loop {
            let range = what.load(Ordering::Acquire);
            if range == 0 {
                return None;
            }
            let owner = who.load(Ordering::Acquire);
            if what.load(Ordering::Acquire) == range {
                let (start, length) = ((range >> 32) as u32, range as u32);
                let end = start.saturating_add(length & !(ENDED | PROPOSED));
                return Some(InFlight {
                    zone: ZoneIndex((owner >> 32) as u32),
                    generation: Generation(owner as u32),
                    extent: Extent { start: Blocks(start), end: Blocks(end) },
                    ended: length & ENDED != 0,
                    proposed: length & PROPOSED != 0,
                });
            }
        }
    }

    /// A queue is about to use its first `depth` slots.
    pub(crate) fn uses_slots(&self, queue: u32, depth: u32) {
        self.words.uses(self.slot_at(SlotId { queue, slot: depth }));
    }

    /// Every range that is published.
    #[allow(clippy::cast_possible_truncation)] // there are QUEUES_MAX * DEPTH_MAX of them
    pub(crate) fn all_published(&self) -> Vec<InFlight> {
        let first = self.slot_at(SlotId { queue: 0, slot: 0 });
        let slots = self.words.used().saturating_sub(first).div_ceil(2) as u32;
        (0..slots)
            .map(|at| SlotId { queue: at / DEPTH_MAX, slot: at % DEPTH_MAX })
            .filter_map(|id| self.published(id))
            .collect()
    }

    /// Collects into `ranges` what is in flight in `zone` below `below`, or has ended there
    /// while the zone is failing, looking at `slots`.
    ///
    /// Complete by counting: a write that has taken its place and not published its range yet is
    /// in the word and in no slot, so one looks again until the numbers agree. The gap between
    /// the two is a few instructions of another thread.
    pub(crate) fn ranges_in_flight(
        &self,
        zone: ZoneIndex,
        below: Blocks,
        slots: impl Iterator<Item = SlotId> + Clone,
        ranges: &mut Vec<Extent>,
    ) {
        let first = ranges.len();
        loop {
            ranges.truncate(first);
            let word = self.load(zone);
            if word.in_flight() == 0 && !word.is_failing() {
                return;
            }
            let mut seen = 0;
            for id in slots.clone() {
                if let Some(range) = self.published(id)
                    && range.zone == zone
                    && !range.proposed
                    && range.extent.start < word.wp()
                {
                    seen += u32::from(!range.ended);
                    if range.extent.start < below {
                        ranges.push(range.extent);
                    }
                    // Of a failing zone there may be more that have ended, and are not counted.
                    if seen >= word.in_flight() && !word.is_failing() {
                        return;
                    }
                }
            }
            if seen >= word.in_flight() {
                return;
            }
            crate::sync::yield_now();
        }
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::*;
    use zonal_core::zone::{Pass, Placement, Write, ZoneState};

    /// A zone with writes of one block in flight, in as many slots of a queue.
    fn busy(writes: u32) -> (Cells, ZoneWord) {
        let cells = Cells::new(SharedWords::heap(words_needed(1)), 0, 1);
        let mut word = ZoneWord::new(ZoneState::ImplicitlyOpen, Blocks::ZERO);
        let write = Write { placement: Placement::Append, length: Blocks(1) };
        for slot in 0..writes {
            let entered = word.enter(write, Blocks(100), Pass::None).unwrap();
            word = entered.word;
            cells.publish(id(slot), ZoneIndex(0), Extent::new(entered.start, Blocks(1)));
        }
        cells.word(ZoneIndex(0)).store(word.bits(), Ordering::Release);
        (cells, word)
    }

    fn id(slot: u32) -> SlotId {
        SlotId { queue: 0, slot }
    }

    fn seen(cells: &Cells) -> usize {
        let mut ranges = Vec::new();
        cells.ranges_in_flight(ZoneIndex(0), Blocks(100), (0..8).map(id), &mut ranges);
        ranges.len()
    }

    #[test]
    fn every_range_in_flight_is_seen() {
        assert_eq!(seen(&busy(0).0), 0);
        assert_eq!(seen(&busy(3).0), 3);
    }

    #[test]
    fn a_copy_has_all_ranges_of_the_queues_there_are() {
        let words = std::sync::Arc::new(SharedWords::heap(words_needed(1)));
        let cells = Cells::new(SharedWords::share(&words), 0, 1);
        let ids = [(0, 0), (0, 7), (3, 63)].map(|(queue, slot)| SlotId { queue, slot });
        for id in ids {
            cells.uses_slots(id.queue, id.slot + 1);
            cells.publish(id, ZoneIndex(0), Extent::new(Blocks(id.slot), Blocks(1)));
        }
        let copy = Cells::new(words.copy(), 0, 1);
        for cells in [cells, copy] {
            let starts: Vec<_> = cells.all_published().iter().map(|r| r.extent.start.0).collect();
            assert_eq!(starts, [0, 7, 63]);
        }
    }

    #[test]
    fn of_a_failing_zone_what_has_ended_is_seen_too() {
        let (cells, word) = busy(4);
        let mut word = word.fail(word.epoch());
        cells.mark_ended(id(3));
        cells.word(ZoneIndex(0)).store(word.bits(), Ordering::Release);
        assert_eq!(seen(&cells), 4);
        for slot in 0..3 {
            cells.mark_ended(id(slot));
            word = word.hold(word.epoch());
        }
        cells.word(ZoneIndex(0)).store(word.bits(), Ordering::Release);
        assert_eq!((word.in_flight(), seen(&cells)), (0, 4));
    }
}
