//! A drive in memory: for tests, and for measuring what the rules themselves cost.
//!
//! Writes are copied in `submit`, each into the place it alone has taken. Reads leave out what is
//! in flight, so they never meet a writer, but for one case: a zone reset and written again while
//! a read of its earlier life is copying. So a reader announces the zone it copies from, and a
//! reset waits for readers before the zone takes data again.

use crate::engine::IoKind;
use crate::sync::atomic::{AtomicU32, Ordering, fence};
use crate::sync::{Mutex, lock, yield_now};
use crate::sys::region::Region;
use crate::view::View;
use crate::zones::Zones;
use crate::zones::cells::QUEUES_MAX;
use std::io;
use zonal_core::units::ZoneIndex;

/// One queue's announcement, alone in its cache line.
#[repr(align(128))]
struct Reading(AtomicU32);

const NOTHING: u32 = u32::MAX;

/// The bytes of a drive, and who reads them.
pub(crate) struct Memory {
    region: Region,
    reading: [Reading; QUEUES_MAX as usize],
    /// Conventional zones are written anywhere at any time: one copy at a time.
    conventional: Mutex<()>,
}

impl Memory {
    pub(crate) fn new(size: u64) -> io::Result<Self> {
        let length = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            region: Region::new(length)?,
            reading: [const { Reading(AtomicU32::new(NOTHING)) }; QUEUES_MAX as usize],
            conventional: Mutex::new(()),
        })
    }

    /// Does a slot's write or read; returns its length.
    pub(crate) fn copy(
        &self,
        zones: &Zones,
        kind: IoKind,
        queue: u32,
        offset: u64,
        bytes: &mut [u8],
        view: &View,
    ) {
        match kind {
            IoKind::Write if zones.is_conventional_at(offset) => {
                let _alone = lock(&self.conventional);
                // SAFETY: conventional zones are copied to and from under this lock alone.
                unsafe { self.region.write(at(offset), bytes) };
            }
            IoKind::Write => {
                // SAFETY: the write has taken this place in its zone's word and has not left it,
                // so no other write has it and reads leave it out.
                unsafe { self.region.write(at(offset), bytes) };
            }
            IoKind::Read => self.read(zones, queue, offset, bytes, view),
            IoKind::WriteDurable | IoKind::SyncData | IoKind::Zero => {}
        }
    }

    fn read(&self, zones: &Zones, queue: u32, offset: u64, bytes: &mut [u8], view: &View) {
        for life in view.lives() {
            let reading = &self.reading[queue as usize].0;
            reading.store(life.zone.0, Ordering::Release);
            // A reset raises the generation before it looks for readers: either it sees this
            // one, or this one sees a new generation and leaves the zone alone. That takes a
            // full fence between the store and the load, on both sides.
            fence(Ordering::SeqCst);
            if zones.cells().mark(life.zone).generation == life.generation {
                view.each_shown(&life.bytes, |range| {
                    let from = at(offset) + range.start;
                    // SAFETY: acknowledged data, left out of no later write but after a reset,
                    // which waits for the announcement to be taken back.
                    unsafe { self.region.read(from, &mut bytes[range]) };
                });
            }
            reading.store(NOTHING, Ordering::Release);
        }
        for range in view.conventional() {
            let _alone = lock(&self.conventional);
            // SAFETY: as for writes to conventional zones.
            unsafe { self.region.read(at(offset) + range.start, &mut bytes[range.clone()]) };
        }
    }

    /// Waits until nobody copies from a zone whose generation has just been raised.
    pub(crate) fn await_readers(&self, zone: ZoneIndex) {
        // Between the new generation and the look for readers; see `read`.
        fence(Ordering::SeqCst);
        for reading in &self.reading {
            while reading.0.load(Ordering::Acquire) == zone.0 {
                yield_now();
            }
        }
    }

    /// Zeroes a range of a zone whose gate the caller holds, with nothing in flight.
    pub(crate) fn zero(&self, offset: u64, length: u64) {
        // SAFETY: above the write pointer, where no read looks, of a zone nobody can write to.
        unsafe { self.region.zero(at(offset), at(length)) };
    }
}

/// An offset on the drive as one in memory, where the whole drive has been mapped.
#[allow(clippy::cast_possible_truncation)] // the drive fits the address space
fn at(offset: u64) -> usize {
    offset as usize
}
