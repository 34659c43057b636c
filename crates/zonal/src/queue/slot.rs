//! A queue's requests under way, one slot each, all allocated with the queue.

use super::request::{Extra, Flags};
use crate::buffer::Buffer;
use crate::device::Drive;
use crate::view::View;
use crate::zones::{Leaving, SlotId, Zones};
use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use zonal_core::error::{Error, Result};
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Epoch, Write};

/// Where a request stands.
#[derive(Clone, Debug, Default)]
pub(super) enum Stage {
    /// There is none.
    #[default]
    Free,
    /// At its zone's gate.
    Parked,
    /// A write with a place in its zone, which the medium has.
    InFlight,
    /// A write with a place in a device's zone, in its lane.
    InLane,
    /// A read, which the medium has.
    Reading,
    /// A read of a device, which gets the parts that can be shown.
    ReadingParts,
    /// A write to a conventional zone, which the medium has.
    Conventional,
    /// A write that ended in a failing zone.
    Held,
    /// An acknowledged write that a task makes durable.
    Syncing {
        /// The task.
        task: u32,
        /// Whether it does more than wait.
        begun: Rc<Cell<bool>>,
    },
    /// An operation that a task does.
    Cold {
        /// The task.
        task: u32,
        /// Whether it does more than wait.
        begun: Rc<Cell<bool>>,
    },
}

impl PartialEq for Stage {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) tag: u64,
    pub(super) name: &'static str,
    pub(super) fua: bool,
    pub(super) flags: Flags,
    pub(super) stage: Stage,
    /// A write that has its zone to itself: the gate stays shut until it has ended.
    pub(super) keeps_gate: bool,
    pub(super) zone: ZoneIndex,
    pub(super) write: Option<Write>,
    pub(super) extent: Extent,
    pub(super) epoch: Epoch,
    /// Of an append that the device places: the zone's acknowledged end from before it was sent. Its
    /// extent is a forecast until it has ended.
    pub(super) floor: Option<Blocks>,
    /// An ordered append, which on such a device goes after the one before it.
    pub(super) in_order: bool,
    /// Absolute, in bytes.
    pub(super) offset: u64,
    pub(super) transferred: u32,
    /// Bytes that were last asked of the medium.
    pub(super) asked: u32,
    /// What came of making the zone ready for this request, if that was tried; nothing while it is.
    pub(super) unready: Option<Rc<RefCell<Option<Result<()>>>>>,
    pub(super) buffer: Option<Buffer>,
    pub(super) error: Option<io::Error>,
    /// It did not fail itself: one below it in its device's zone did.
    pub(super) behind: bool,
    pub(super) view: View,
    pub(super) since: Option<Instant>,
    pub(super) extra: Option<Box<Extra>>,
}

impl Slot {
    fn new() -> Self {
        Self {
            tag: 0,
            name: "",
            fua: false,
            flags: Flags::default(),
            stage: Stage::Free,
            keeps_gate: false,
            zone: ZoneIndex(0),
            write: None,
            extent: Extent { start: Blocks::ZERO, end: Blocks::ZERO },
            epoch: Epoch::Even,
            floor: None,
            in_order: false,
            offset: 0,
            transferred: 0,
            asked: 0,
            unready: None,
            buffer: None,
            error: None,
            behind: false,
            view: View::default(),
            since: None,
            extra: None,
        }
    }

    /// Takes over a request's buffer and place.
    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer, zone: ZoneIndex, offset: u64) {
        self.buffer = Some(buffer);
        self.zone = zone;
        self.offset = offset;
    }

    pub(super) fn length(&self) -> u64 {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len() as u64)
    }

    pub(super) fn leaving(&self, queue: u32, slot: u32) -> Leaving {
        let id = SlotId { queue, slot };
        Leaving { id, zone: self.zone, extent: self.extent, epoch: self.epoch }
    }

    /// Whether all that a read can show has come, though the disk ended before the read did: the
    /// last `bytes` were none, or end inside a block.
    #[cold]
    pub(super) fn ends_with_disk(&self, bytes: u32, zones: &Zones) -> bool {
        let at_the_end = bytes == 0 || !u64::from(bytes).is_multiple_of(zones.block_size());
        self.stage == Stage::Reading
            && at_the_end
            && self.view.is_blank_from(zones, self.transferred as usize, self.length())
    }

    /// Whether a task makes the zone ready for it now, and will tell.
    pub(super) fn is_being_readied(&self) -> bool {
        self.unready.as_ref().is_some_and(|unready| unready.borrow().is_none())
    }

    /// What the medium said, with its place.
    pub(super) fn io_error(&mut self, drive: &Drive) -> Error {
        let error = self.error.take().unwrap_or_else(|| io::ErrorKind::Other.into());
        let kind = drive.io_kind(&error);
        let text = drive.io_text(&error);
        Error::new(kind, text)
            .in_zone(self.zone.0)
            .at(self.offset, self.length())
            .with_source(error)
    }
}

/// All slots of a queue.
pub(super) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn new(depth: u32) -> Self {
        Self { slots: (0..depth).map(|_| Slot::new()).collect(), free: (0..depth).rev().collect() }
    }

    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a free slot. There is one: the queue counts what it accepts.
    #[inline]
    pub(super) fn take(&mut self, tag: u64, name: &'static str, fua: bool) -> u32 {
        let number = self.free.pop().expect("a queue accepts no more than its depth");
        let slot = &mut self.slots[number as usize];
        (slot.tag, slot.name, slot.fua) = (tag, name, fua);
        (slot.flags, slot.transferred, slot.write) = (Flags::default(), 0, None);
        (slot.floor, slot.in_order) = (None, false);
        number
    }

    #[inline]
    pub(super) fn get(&mut self, number: u32) -> &mut Slot {
        &mut self.slots[number as usize]
    }

    #[inline]
    pub(super) fn free(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        slot.stage = Stage::Free;
        slot.buffer = None;
        slot.since = None;
        slot.unready = None;
        self.free.push(number);
    }

    /// Where the write in a slot has its place.
    pub(super) fn extent(&self, number: u32) -> Extent {
        self.slots[number as usize].extent
    }

    /// How many bytes the request in a slot has.
    pub(super) fn length(&self, number: u32) -> u64 {
        self.slots[number as usize].length()
    }

    /// The tag of the request in a slot.
    pub(super) fn tag(&self, number: u32) -> u64 {
        self.slots[number as usize].tag
    }

    /// Hashes its requests, for [`super::Queue::hash_state`]; which slots they are in does not
    /// count. Of epochs counts whether it is the zone's `present` one.
    pub(super) fn hash_state(
        &self,
        present: impl Fn(ZoneIndex) -> Epoch,
        hasher: &mut impl Hasher,
    ) {
        let mut used: Vec<_> = self.slots.iter().filter(|slot| slot.stage != Stage::Free).collect();
        used.sort_unstable_by_key(|slot| slot.tag);
        for slot in used {
            (slot.tag, std::mem::discriminant(&slot.stage), slot.flags, slot.keeps_gate)
                .hash(hasher);
            (slot.zone, slot.offset, slot.transferred, slot.error.is_some()).hash(hasher);
            match &slot.stage {
                Stage::InFlight | Stage::InLane | Stage::Held => {
                    (slot.extent, slot.epoch == present(slot.zone)).hash(hasher);
                }
                Stage::Reading | Stage::ReadingParts => slot.view.hash(hasher),
                Stage::Cold { begun, .. } => begun.get().hash(hasher),
                Stage::Free | Stage::Parked | Stage::Conventional | Stage::Syncing { .. } => {}
            }
        }
    }

    /// The slots whose requests are parked.
    pub(super) fn parked(&self) -> Vec<u32> {
        (0..).zip(&self.slots).filter(|(_, s)| s.stage == Stage::Parked).map(|(n, _)| n).collect()
    }

    /// The slots whose writes have a place in their zone, and have not ended.
    pub(super) fn in_flight(&self) -> Vec<u32> {
        let placed = |slot: &Slot| matches!(slot.stage, Stage::InFlight | Stage::InLane);
        (0..).zip(&self.slots).filter(|(_, slot)| placed(slot)).map(|(n, _)| n).collect()
    }

    /// The slots that have waited since before `now - deadline`.
    pub(super) fn late(&self, now: Instant, deadline: Duration) -> Vec<u32> {
        let late = |slot: &Slot| slot.since.is_some_and(|since| now - since >= deadline);
        (0..).zip(&self.slots).filter(|(_, slot)| late(slot)).map(|(n, _)| n).collect()
    }
}
