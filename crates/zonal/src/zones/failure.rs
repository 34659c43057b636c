//! Writes that fail, and what becomes of the others in their zone.
//!
//! From the first failure on nothing enters the zone, and every write that ends is kept at the
//! zone's site. Whoever ends the last one settles the zone (see `zonal_core::zone::settle`):
//! at once, or, when failed ranges lie below acknowledged data, after they have been made to read
//! as zeros, durably. Then every write kept gets its verdict through its queue's mailbox.
//!
//! A write is *lost* when its queue's ring failed: the kernel may still carry it out, at any time. By then
//! the drive takes no more writes. A lost write has failed, and its zone settles without waiting for
//! zeros that it could destroy: the zone becomes read-only, what of it lies below the write pointer is kept
//! from being read, and its range stays published, so that whoever recovers the drive makes it zero: nothing
//! is written any more that could be published in its place.

use super::{Control, Counts, Mark, SlotId, Zones};
use crate::mailbox::Message;
use zonal_core::broken::{Rule, is_broken};
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Epoch, Settlement, ZoneState, settle};

/// A write on its way out of its zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    pub(crate) id: SlotId,
    pub(crate) zone: ZoneIndex,
    pub(crate) extent: Extent,
    pub(crate) epoch: Epoch,
}

/// A write that ended in a failing zone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) id: SlotId,
    extent: Extent,
    failed: bool,
    lost: bool,
}

/// How a write ends in a failing zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Well,
    Failed,
    /// What becomes of it nobody knows.
    Lost,
}

impl Ended {
    /// What it is to [`Zones::hash_state`]: whose it is, where, and how it ended.
    pub(super) fn what(&self, tag: &impl Fn(SlotId) -> u64) -> (u64, Extent, bool) {
        (tag(self.id), self.extent, self.failed)
    }
}

/// What became of a write that has ended.
#[derive(Debug)]
pub(crate) enum Conclusion {
    /// It is acknowledged.
    Acknowledged,
    /// Its verdict will come by mail.
    Held,
    /// The same, and it was the last: the caller zeroes these ranges, durably, and calls
    /// [`Zones::settled`].
    Settle(Settling),
}

/// A zone that settles once its dead ranges read as zeros.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) zone: ZoneIndex,
    pub(crate) dead: Vec<Extent>,
    settlement: Settlement,
}

impl Settling {
    /// Where the zone's write pointer will be.
    pub(crate) fn wp(&self) -> Blocks {
        self.settlement.wp
    }
}

impl Zones {
    /// Ends a write that failed.
    #[cold]
    pub(crate) fn fail(&self, leaving: &Leaving) -> Conclusion {
        Counts::add(&self.counts.failed);
        self.end_in_failing(leaving, End::Failed)
    }

    /// Ends a write whose queue's ring failed, on a drive that takes no more writes. There is nothing to
    /// be done for it.
    #[cold]
    pub(crate) fn lose(&self, leaving: &Leaving) {
        Counts::add(&self.counts.failed);
        if let Conclusion::Settle(settling) = self.end_in_failing(leaving, End::Lost) {
            self.settled(settling, false);
        }
    }

    #[cold]
    pub(super) fn end_in_failing(&self, leaving: &Leaving, end: End) -> Conclusion {
        let Leaving { id, zone, extent, epoch } = *leaving;
        let (failed, lost) = (end != End::Well, end == End::Lost);
        if !failed {
            Counts::add(&self.counts.held);
        }
        let mut control = self.control();
        self.cells.mark_ended(id);
        let site = control.sites.entry(zone).or_default();
        site.ended.push(Ended { id, extent, failed, lost });
        let (_, word) =
            self.change(zone, |word| if failed { word.fail(epoch) } else { word.hold(epoch) });
        if word.in_flight() > 0 && !is_broken(Rule::FailingZoneDrains) {
            return Conclusion::Held;
        }
        let failed = || site.ended.iter().filter(|ended| ended.failed).map(|ended| ended.extent);
        let settlement = settle(self.cells.mark(zone).end, failed());
        let dead: Vec<Extent> = failed().filter_map(|extent| settlement.dead(extent)).collect();
        let settling = Settling { zone, dead, settlement };
        let nothing_to_do = settling.dead.is_empty() && !self.cuts;
        if nothing_to_do || site.ended.iter().any(|ended| ended.lost) {
            control.settled(self, settling, nothing_to_do);
            return Conclusion::Held;
        }
        Conclusion::Settle(settling)
    }

    /// Keeps dead ranges of a failing zone from being read, and notes that the zone is to be
    /// read-only.
    pub(crate) fn hide(&self, zone: ZoneIndex, dead: &[Extent]) {
        self.control().hide(self, zone, dead);
    }

    /// Ends a zone's failing: its dead ranges have been `zeroed`, or the zone becomes read-only
    /// and they are kept from being read.
    pub(crate) fn settled(&self, settling: Settling, zeroed: bool) {
        self.control().settled(self, settling, zeroed);
    }
}

impl Control {
    fn hide(&mut self, zones: &Zones, zone: ZoneIndex, dead: &[Extent]) {
        self.conditions.entry(zone).or_insert(ZoneState::ReadOnly);
        for &extent in dead {
            if self.masks.get(&zone).is_none_or(|masks| !masks.contains(&extent)) {
                self.mask(zones, zone, extent);
            }
        }
    }

    fn settled(&mut self, zones: &Zones, settling: Settling, zeroed: bool) {
        let Settling { zone, dead, settlement } = settling;
        let capacity = zones.capacity(zone);
        let mark = zones.cells.mark(zone);
        zones.cells.set_mark(zone, Mark { end: settlement.wp, ..mark });
        let ended = self
            .sites
            .get_mut(&zone)
            .map(|site| std::mem::take(&mut site.ended))
            .unwrap_or_default();
        // Before their ranges are cleared: a read must find either.
        if !zeroed {
            self.hide(zones, zone, &dead);
        }
        // Where neither the zeros nor the note of the ranges is on the disk, the live file keeps them, for
        // the next opening to zero. The drive takes no more writes, which could want their slots.
        let keeps = !zeroed && self.latch.is_some();
        let stays = |ended: &&Ended| ended.lost || keeps && ended.failed;
        for ended in ended.iter().filter(|ended| !stays(ended)) {
            zones.cells.clear(ended.id);
        }
        self.durability.clamp(zone, settlement.wp);
        let (old, new) = zones.change(zone, |word| word.settled(settlement.wp, capacity));
        self.resources.moved(zone, old.state(), new.state());
        if let (false, Some(&condition)) = (zeroed, self.conditions.get(&zone)) {
            self.condemn(zones, zone, condition);
        }
        for Ended { id, extent, failed, .. } in ended {
            let verdict = settlement.verdict(extent, failed);
            self.post(id.queue, Message::Verdict { slot: id.slot, verdict });
            self.released(zones, id.queue);
        }
        self.durability.wake_leader();
        self.advance(zones, zone);
    }
}
