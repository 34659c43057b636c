//! Writes that fail, and what becomes of the others in their zone.
//!
//! From the first failure on nothing enters the zone, and every write that ends is kept at the
//! zone's site. Whoever ends the last one settles the zone (see `zonal_core::zone::settle`):
//! at once, or, when failed ranges lie below acknowledged data, after they have been made to read
//! as zeros, durably. Then every write kept gets its verdict through its queue's mailbox.
//!
//! On a real device the write pointer is what its zone report says by then, and nothing is zeroed:
//! below that pointer is what was written in this life of the zone, and nothing else.
//!
//! A write is *lost* when its queue's ring failed: the kernel may still carry it out, at any time. By then
//! the drive takes no more writes. A lost write has failed, and its zone settles without waiting for
//! zeros that it could destroy, or for a report that it could overtake: the zone becomes read-only, what of
//! it lies below the write pointer is kept from being read, and its range stays published, so that whoever
//! recovers an image makes it zero: nothing is written any more that could be published in its place.

use super::{Control, Counts, Mark, SlotId, Standing, Zones};
use crate::mailbox::Message;
use zonal_core::broken::{Rule, is_broken};
use zonal_core::units::{Blocks, Extent, Generation, ZoneIndex};
use zonal_core::zone::{Epoch, Settlement, ZoneState, ZoneWord, settle};

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
    /// What it tells of others by where it landed.
    surprise: Option<Surprise>,
}

/// How a write ends in a failing zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Well,
    /// Well, but where it can only have landed because others have changed the zone.
    Strange(Surprise),
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

/// What a device's report says of a zone that failed, for the error of the write that did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) wp: Blocks,
    pub(crate) surprise: Option<Surprise>,
}

/// What cannot come of this drive's own writes; of two, the later counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Surprise {
    /// The pointer is above all that was submitted.
    Written,
    /// The pointer is, or was, below what was acknowledged.
    Reset,
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
        let (failed, lost) = (matches!(end, End::Failed | End::Lost), end == End::Lost);
        let surprise = if let End::Strange(surprise) = end { Some(surprise) } else { None };
        if end == End::Well {
            Counts::add(&self.counts.held);
        }
        let mut control = self.control();
        self.cells.mark_ended(id);
        let site = control.sites.entry(zone).or_default();
        site.ended.push(Ended { id, extent, failed, lost, surprise });
        let (_, word) = self.change(zone, |word| match end {
            End::Well => word.hold(epoch),
            End::Strange(_) | End::Failed | End::Lost => word.fail(epoch),
        });
        if word.in_flight() > 0 && !is_broken(Rule::FailingZoneDrains) {
            return Conclusion::Held;
        }
        let failed = || site.ended.iter().filter(|ended| ended.failed).map(|ended| ended.extent);
        let acknowledged = self.cells.mark(zone).end;
        let (settlement, dead) = if self.is_placing() {
            // Where those that failed would have landed nobody knows; the device says how it stands.
            (Settlement { wp: acknowledged }, Vec::new())
        } else {
            let settlement = settle(acknowledged, failed());
            (settlement, failed().filter_map(|extent| settlement.dead(extent)).collect())
        };
        let settling = Settling { zone, dead, settlement };
        let nothing_to_do = settling.dead.is_empty() && !self.settles_late;
        if nothing_to_do || site.ended.iter().any(|ended| ended.lost) {
            control.settled(self, settling, nothing_to_do);
            return Conclusion::Held;
        }
        Conclusion::Settle(settling)
    }

    /// Ends a write that has not gone out, or is not to be told as having failed itself, in a zone
    /// that fails; with [`Zones::fail`] for the one that did.
    #[cold]
    pub(crate) fn abandon(&self, leaving: &Leaving) -> Conclusion {
        self.end_in_failing(leaving, End::Failed)
    }

    /// Ends the failing of a device's zone: it is as its report says.
    pub(crate) fn settled_as_reported(&self, settling: Settling, standing: Standing) {
        self.control().settled_as_reported(self, settling, standing);
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
        self.tell(zones, settlement, ended, None);
        self.durability.wake_leader();
        self.advance(zones, zone);
    }

    fn settled_as_reported(&mut self, zones: &Zones, settling: Settling, standing: Standing) {
        let zone = settling.zone;
        let capacity = zones.capacity(zone);
        let (mark, tracked) = (zones.cells.mark(zone), zones.cells.load(zone).wp());
        // A zone that has no pointer any more is read up to what was acknowledged.
        let wp = standing.wp.unwrap_or(mark.end).min(capacity);
        let told = self.sites.get(&zone).into_iter().flat_map(|site| &site.ended);
        let told = told.filter_map(|ended| ended.surprise).max();
        let surprise = match wp {
            _ if wp < mark.end => Some(Surprise::Reset),
            _ if wp > tracked => told.or(Some(Surprise::Written)),
            _ => told,
        };
        if let Some(surprise) = surprise {
            Counts::add(&zones.counts.foreign);
            tracing::warn!("zone {zone}: another program has changed it ({surprise:?})");
        }
        let lives = u32::from(surprise == Some(Surprise::Reset));
        let generation = Generation(mark.generation.0.wrapping_add(lives));
        zones.cells.set_mark(zone, Mark { generation, end: wp });
        let ended = self
            .sites
            .get_mut(&zone)
            .map(|site| std::mem::take(&mut site.ended))
            .unwrap_or_default();
        for ended in &ended {
            zones.cells.clear(ended.id);
        }
        self.durability.clamp(zone, wp);
        let settle = |word: ZoneWord| {
            word.settled(wp, capacity).stands(standing.state_after(word.state()), wp)
        };
        let (old, new) = zones.change(zone, settle);
        self.resources.moved(zone, old.state(), new.state());
        if matches!(standing.state, ZoneState::ReadOnly | ZoneState::Offline) {
            self.conditions.insert(zone, standing.state);
        }
        self.tell(zones, Settlement { wp }, ended, Some(Finding { wp, surprise }));
        self.durability.wake_leader();
        self.advance(zones, zone);
    }

    /// Gives every write that was kept its verdict.
    fn tell(
        &mut self,
        zones: &Zones,
        settlement: Settlement,
        ended: Vec<Ended>,
        finding: Option<Finding>,
    ) {
        for Ended { id, extent, failed, .. } in ended {
            let verdict = settlement.verdict(extent, failed);
            self.post(id.queue, Message::Verdict { slot: id.slot, verdict, finding });
            self.released(zones, id.queue);
        }
    }
}
