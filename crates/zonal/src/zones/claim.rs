//! Whose a device's zone is while it has writes in flight.
//!
//! A device takes the writes of a zone in order, and the kernel keeps those in order that one ring
//! hands over; between two rings there is no order. So a queue claims a zone before its first write
//! enters, and lets go of it after its last has left. Whoever else wants to write there parks at the
//! zone's gate, so that the claim goes round: what its owner submits later comes behind.

use super::Zones;
use crate::sync::atomic::{AtomicU32, Ordering, fence};
use zonal_core::units::ZoneIndex;

const NOBODY: u32 = u32::MAX;

/// Which queue has claimed which zone.
pub(crate) struct Claims(Box<[AtomicU32]>);

impl Claims {
    /// For so many zones; none where zones need no claim.
    pub(super) fn new(zones: u32) -> Self {
        Self((0..zones).map(|_| AtomicU32::new(NOBODY)).collect())
    }

    /// Whether the drive is a device, where they are.
    pub(super) fn are_needed(&self) -> bool {
        !self.0.is_empty()
    }
}

impl Zones {
    /// Claims a device's zone for a queue that has no write in it; false: another has it. Who is told
    /// so parks at the zone's gate, and asks again whenever it may look.
    pub(crate) fn claim(&self, zone: ZoneIndex, queue: u32) -> bool {
        // After the gate was shut, before the claim is looked at; see `unclaim`.
        fence(Ordering::SeqCst);
        let claim = &self.claims.0[zone.index()];
        claim.compare_exchange(NOBODY, queue, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Lets go of a zone in which the queue has no write any more, if it has claimed it.
    pub(crate) fn unclaim(&self, zone: ZoneIndex, queue: u32) {
        let claim = &self.claims.0[zone.index()];
        // Ordered appends that the device places are in a lane without a claim.
        let _ = claim.compare_exchange(queue, NOBODY, Ordering::AcqRel, Ordering::Relaxed);
        // Either who parks sees that the zone is free, or this sees that somebody has parked. That
        // takes a full fence between the store and the load, on both sides.
        fence(Ordering::SeqCst);
        if self.cells.load(zone).is_shut() {
            self.control().advance(self, zone);
        }
    }
}
