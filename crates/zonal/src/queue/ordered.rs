//! The way of a write to a device's zone, and of a read that gets only what it may show.
//!
//! The zone rules are those of every drive. What comes in addition: the queue claims the zone, its
//! writes go through a lane ([`super::lanes`]), and what the device says of a zone that fails is what
//! callers are told.

use super::lanes::{Pace, Step};
use super::placed::misplaced;
use super::slot::{Slot, Slots, Stage};
use super::{Queue, cold, io_text};
use crate::block::write_kind;
use crate::device::Drive;
use crate::engine::{Engine, IoKind};
use crate::nvme::Status;
use crate::zones::{Counts, Finding, SlotId, Standing, Surprise};
use std::io;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Barrier, Obstacle, Pass, Placement, ZoneState};

impl Queue {
    /// Brings a write before its zone's rules where there is more to it than those: the drive is
    /// latched, or a device is below.
    pub(super) fn enter_otherwise(&mut self, number: u32, pass: Pass) {
        let zones = &self.drive.zones;
        if zones.is_latched() {
            let error = zones.latched_error();
            return self.refuse(number, error);
        }
        let slot = self.slots.get(number);
        let (zone, Some(write)) = (slot.zone, slot.write) else { return };
        if zones.is_placing() && write.placement == Placement::Append {
            return self.enter_placed(number, zone, write, pass);
        }
        if !self.lanes.has(zone) && !zones.claim(zone, self.id) {
            return self.stopped(number, Barrier::Wait(Obstacle::Mixed), pass);
        }
        let id = SlotId { queue: self.id, slot: number };
        match zones.enter(id, zone, write, pass) {
            Ok(entered) => {
                slot.extent = Extent::new(entered.start, write.length);
                slot.epoch = entered.epoch;
                slot.offset = zones.offset_of(zone, entered.start);
                slot.stage = Stage::InLane;
                self.lanes.add(zone, number);
                self.go_on_in(zone);
            }
            Err(barrier) => {
                if !self.lanes.has(zone) {
                    zones.unclaim(zone, self.id);
                }
                self.stopped(number, barrier, pass);
            }
        }
    }

    /// Does what there is to do in a zone's lane.
    pub(super) fn go_on_in(&mut self, zone: ZoneIndex) {
        loop {
            match self.lanes.step(zone, |slot| self.slots.length(slot)) {
                Step::Send(number) => self.issue(number, IoKind::Write),
                Step::Ask => return self.ask_how_it_stands(zone),
                Step::GiveUp => return self.give_up(zone),
                Step::Leave => return self.drive.zones.unclaim(zone, self.id),
                Step::Rest => return,
            }
        }
    }

    pub(super) fn ended_in_lane(&mut self, number: u32) {
        let slot = self.slots.get(number);
        let (zone, leaving) = (slot.zone, slot.leaving(self.id, number));
        let conclusion = if slot.floor.is_none() {
            self.drive.zones.acknowledge(&leaving)
        } else if let Some(conclusion) = self.landed(number) {
            conclusion
        } else {
            return self.failed(number, misplaced());
        };
        self.lanes.ended(zone);
        self.conclude(number, conclusion);
        self.go_on_in(zone);
    }

    #[cold]
    pub(super) fn failed_in_lane(&mut self, number: u32) {
        let zone = self.slots.get(number).zone;
        self.lanes.failed(zone, number);
        self.go_on_in(zone);
    }

    #[cold]
    fn ask_how_it_stands(&mut self, zone: ZoneIndex) {
        let Some(lowest) = self.lanes.lowest_failed(zone, starts(&self.slots)) else { return };
        self.spawn(lowest, |scene| {
            Box::pin(async move {
                // The queue looks for what was heard when it has mail: there is some now.
                cold::others_first().await;
                let standing = cold::ask(&scene, zone).await;
                scene.desk.hear(zone, standing);
            })
        });
    }

    /// The device has said how a zone stands whose writes failed: they are sent again if it shows no
    /// trace of any of them, and given up otherwise.
    #[cold]
    pub(super) fn heard(&mut self, zone: ZoneIndex, standing: Result<Standing>) {
        let Some(lowest) = self.lanes.lowest_failed(zone, starts(&self.slots)) else { return };
        let slot = self.slots.get(lowest);
        let start = slot.extent.start;
        let disorder = self.drive.block().is_some_and(|block| {
            slot.error.as_ref().is_none_or(|error| block.may_be_disorder(error))
        });
        if !disorder || !standing.is_ok_and(|standing| standing.takes_data_at(start)) {
            return self.give_up(zone);
        }
        let repeats = self.lanes.repeat(zone, starts(&self.slots));
        let count = &self.drive.zones.counts.repeated;
        (0..repeats).for_each(|_| Counts::add(count));
        tracing::debug!("zone {zone}: {repeats} writes came out of order, and are sent again");
        self.go_on_in(zone);
    }

    /// Fails everything in a zone's lane: the lowest write that failed as such, the others as behind
    /// it. The last of them has the zone settled.
    #[cold]
    fn give_up(&mut self, zone: ZoneIndex) {
        let (failed, waiting) = self.lanes.give_up(zone, starts(&self.slots));
        for (nth, number) in failed.into_iter().chain(waiting).enumerate() {
            let slot = self.slots.get(number);
            let leaving = slot.leaving(self.id, number);
            let conclusion = if nth == 0 {
                self.drive.zones.fail(&leaving)
            } else {
                (slot.error, slot.behind) = (None, true);
                self.drive.zones.abandon(&leaving)
            };
            self.conclude(number, conclusion);
        }
        self.drive.zones.unclaim(zone, self.id);
    }

    /// The error of a write that a device failed, with what its report says since.
    pub(super) fn device_error(&mut self, number: u32, finding: Finding) -> Error {
        let zones = &self.drive.zones;
        let slot = self.slots.get(number);
        let zone = slot.zone;
        let at = zones.offset_of(zone, finding.wp);
        let error = slot.error.take().unwrap_or_else(|| std::io::ErrorKind::Other.into());
        let (kind, text) = match (zones.cells().load(zone).state(), finding.surprise) {
            (ZoneState::Offline, _) => {
                (ErrorKind::ZoneOffline, "the device has taken the zone offline".to_owned())
            }
            (ZoneState::ReadOnly, _) => {
                let text = "the device has made the zone read-only; copy elsewhere what is in it";
                (ErrorKind::ZoneReadOnly, text.to_owned())
            }
            (_, surprise) if slot.floor.is_some() => append_failed(slot, &error, at, surprise),
            (_, Some(Surprise::Reset)) => forestalled("reset the zone", at),
            (_, Some(Surprise::Written)) => forestalled("written to the zone", at),
            // The only one out, at the write pointer as it was known.
            (_, None) if write_kind(&error) == ErrorKind::NotAtWritePointer => {
                forestalled("changed the zone", at)
            }
            (_, None) => (write_kind(&error), write_failed(&self.drive, slot, &error, at)),
        };
        Error::new(kind, text).in_zone(zone.0).at(slot.offset, slot.length()).with_source(error)
    }

    /// Reads the next part of a read that can be shown; what is between such parts is blanked when the
    /// read is done.
    pub(super) fn read_parts(&mut self, number: u32) {
        let slot = self.slots.get(number);
        slot.stage = Stage::ReadingParts;
        let length = slot.length();
        let Some(part) = slot.view.part_from(slot.transferred as usize) else {
            return self.read_done(number, length);
        };
        #[allow(clippy::cast_possible_truncation)] // at most TRANSFER_MAX
        let from = part.start as u32;
        slot.transferred = from;
        self.issue_part(number, part.len());
    }
}

/// What another program did to a zone, in which a write was to go to where the write pointer had been.
fn forestalled(what: &str, wp: u64) -> (ErrorKind, String) {
    let text = format!(
        "another program has {what}; its write pointer is {wp} by its report, go on from there"
    );
    (ErrorKind::NotAtWritePointer, text)
}

/// How much of a write was done that failed by itself.
fn write_failed(drive: &Drive, slot: &Slot, error: &io::Error, wp: u64) -> String {
    let landed = match Status::of(error) {
        // What the device refuses it does not begin.
        Some(status) if status.is_of_zones() => slot.transferred.into(),
        Some(_) | None => wp.saturating_sub(slot.offset).min(slot.length()),
    };
    let what = drive.io_text(error);
    format!(
        "{what}; {landed} bytes of it were written, the zone's write pointer is {wp} by its report"
    )
}

/// Why an append failed that the device would have placed: there is no place that it could have been at
/// fault for.
fn append_failed(
    slot: &Slot,
    error: &io::Error,
    wp: u64,
    surprise: Option<Surprise>,
) -> (ErrorKind, String) {
    let others = match surprise {
        None => "",
        Some(Surprise::Reset) => "another program has reset the zone; ",
        Some(Surprise::Written) => "another program has written to the zone, or finished it; ",
    };
    let (what, length) = (io_text(error), slot.length());
    let text = format!(
        "{what}; nothing is known to have landed of its {length} bytes; {others}the zone's write pointer \
         is {wp} by its report"
    );
    (write_kind(error), text)
}

/// Where the write in a slot starts.
fn starts(slots: &Slots) -> impl Fn(u32) -> Blocks + '_ {
    |slot| slots.extent(slot).start
}

impl Pace {
    /// How a drive's writes go through an engine, which may be threads where a ring was to be.
    pub(super) fn of(drive: &Drive, engine: Option<&Engine>) -> Self {
        let in_order = engine.is_some_and(Engine::keeps_order);
        match drive.block() {
            Some(block) if in_order && !block.is_one_by_one() => {
                Self::Together(block.whole_write())
            }
            Some(_) | None => Self::OneByOne,
        }
    }
}
