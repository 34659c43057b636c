//! The way of requests to a device that takes commands, and places appends itself.
//!
//! The zone rules are those of every drive, but what an append takes there is a forecast (see
//! `zones::landed`). Appends of all queues go out at once; ordered ones of a queue one after the other, in
//! a lane, since commands have no order. Plain writes go as to any device ([`super::ordered`]).

use super::Queue;
use super::slot::Stage;
use crate::engine::{Engine, Io, IoKind, Zoned};
use crate::zones::{Conclusion, SlotId};
use std::io;
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Pass, Write};

impl Queue {
    /// Brings an append before its zone's rules.
    pub(super) fn enter_placed(&mut self, number: u32, zone: ZoneIndex, write: Write, pass: Pass) {
        let zones = &self.drive.zones;
        let id = SlotId { queue: self.id, slot: number };
        match zones.enter_placing(id, zone, write, pass) {
            Ok((entered, floor)) => {
                let slot = self.slots.get(number);
                slot.extent = Extent::new(entered.start, write.length);
                slot.epoch = entered.epoch;
                slot.floor = Some(floor);
                // An append names its zone by where that starts.
                slot.offset = zones.offset_of(zone, Blocks::ZERO);
                if slot.in_order {
                    slot.stage = Stage::InLane;
                    self.lanes.add(zone, number);
                    self.go_on_in(zone);
                } else {
                    slot.stage = Stage::InFlight;
                    self.issue(number, IoKind::Write);
                }
            }
            Err(barrier) => self.stopped(number, barrier, pass),
        }
    }

    /// Hands a slot's write or read, or the rest of it, to the device: as much as one command moves.
    pub(super) fn issue_command(&mut self, number: u32, kind: IoKind) {
        let most = self.drive.command_max();
        let slot = self.slots.get(number);
        let kind = if slot.fua && kind == IoKind::Write { IoKind::WriteDurable } else { kind };
        let zoned = slot.floor.is_some().then_some(Zoned::Append);
        let offset = slot.offset + u64::from(slot.transferred);
        let done = slot.transferred as usize;
        let Some(buffer) = &mut slot.buffer else { return };
        let fixed = self.arena.as_ref().is_some_and(|arena| buffer.is_of(arena));
        let rest = &mut buffer[done..];
        let (ptr, len) = (rest.as_mut_ptr(), rest.len().min(most));
        #[allow(clippy::cast_possible_truncation)] // at most TRANSFER_MAX
        let asked = len as u32;
        slot.asked = asked;
        self.issued += 1;
        self.push_io(Io { kind, offset, ptr, len, fixed, token: u64::from(number), zoned });
    }

    /// An append that was sent with all others has ended well.
    pub(super) fn ended_placed(&mut self, number: u32) {
        match self.landed(number) {
            Some(conclusion) => self.conclude(number, conclusion),
            None => self.failed(number, misplaced()),
        }
    }

    /// An append has landed where the device says; none: nowhere in its zone.
    pub(super) fn landed(&mut self, number: u32) -> Option<Conclusion> {
        let place =
            self.engine.as_ref().and_then(|engine: &Engine| engine.landed(number.into()))?;
        let zones = &self.drive.zones;
        let slot = self.slots.get(number);
        let from = place.checked_sub(zones.offset_of(slot.zone, Blocks::ZERO))?;
        let (start, length) = (from / zones.block_size(), slot.extent.length());
        let end = start.checked_add(length.0.into())?;
        if end > zones.capacity(slot.zone).0.into() {
            return None;
        }
        slot.extent = Extent::new(Blocks(u32::try_from(start).ok()?), length);
        slot.offset = place;
        let floor = slot.floor?;
        Some(zones.landed(&slot.leaving(self.id, number), floor))
    }
}

/// What a device said that placed an append outside its zone.
pub(super) fn misplaced() -> io::Error {
    io::Error::other("the device says that it landed outside its zone")
}
