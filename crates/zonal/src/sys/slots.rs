//! Equal pieces of one mapping, leased and given back by any thread without a lock.
//!
//! Free slots form a stack: `head` names the topmost, `next[slot]` the one below it. The head also
//! counts its changes, so that an exchange fails when the stack went away and came back in
//! between (else a slot could be handed out twice). Invariant: a slot is either on the stack or
//! owned by exactly one [`Slot`].

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::mmap::AnonymousMap;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The end of the stack.
const NONE: u32 = u32::MAX;

/// The mapping and its free slots.
#[derive(Debug)]
pub(crate) struct Slots {
    map: AnonymousMap,
    slot_bytes: usize,
    /// The slot on top in the low half, the number of changes in the high half.
    head: AtomicU64,
    /// The slot below each slot on the stack.
    next: Box<[AtomicU32]>,
}

impl Slots {
    /// `count` slots (not 0) of `slot_bytes` bytes, all free, all zero.
    ///
    /// # Errors
    /// There is no memory for them, or the product is out of range.
    pub(crate) fn new(count: u32, slot_bytes: usize) -> io::Result<Self> {
        let length = (count as usize).checked_mul(slot_bytes).filter(|_| count != NONE);
        let map = AnonymousMap::for_transfers(length.ok_or(io::ErrorKind::InvalidInput)?)?;
        let below = |slot: u32| if slot + 1 == count { NONE } else { slot + 1 };
        let next = (0..count).map(|slot| AtomicU32::new(below(slot))).collect();
        Ok(Self { map, slot_bytes, head: AtomicU64::new(0), next })
    }

    /// The bytes of a slot.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Where the slots lie, and how many bytes they are together. Only an address: the bytes
    /// belong to the slots.
    pub(crate) fn range(&self) -> (NonNull<u8>, usize) {
        (self.map.start(), self.map.length())
    }

    /// A free slot, if there is one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let (slot, changes) = unpack(head);
            if slot == NONE {
                return None;
            }
            // May be stale if another thread took the slot meanwhile; then the exchange fails.
            let below = self.next[slot as usize].load(Ordering::Relaxed);
            let new = pack(below, changes.wrapping_add(1));
            // Acquire: whoever gave the slot back is done with its bytes.
            match self.head.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Slot { slots: Arc::clone(self), slot }),
                Err(now) => head = now,
            }
        }
    }

    fn give_back(&self, slot: u32) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let (top, changes) = unpack(head);
            self.next[slot as usize].store(top, Ordering::Relaxed);
            let new = pack(slot, changes.wrapping_add(1));
            // Release: our use of the bytes, and `next`, come before.
            match self.head.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

fn pack(slot: u32, changes: u32) -> u64 {
    u64::from(changes) << 32 | u64::from(slot)
}

#[allow(clippy::cast_possible_truncation)] // the halves are what is wanted
fn unpack(head: u64) -> (u32, u32) {
    (head as u32, (head >> 32) as u32)
}

/// One slot, owned until dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    slot: u32,
}

impl Slot {
    /// Whose slot it is.
    pub(crate) fn owner(&self) -> &Arc<Slots> {
        &self.slots
    }

    fn start(&self) -> *mut u8 {
        let offset = self.slot as usize * self.slots.slot_bytes;
        // SAFETY: `slot` is below `count`, so the sum stays within the mapping.
        unsafe { self.slots.map.start().as_ptr().add(offset) }
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `slots`, was zeroed by the kernel, and these bytes
        // belong to this `Slot` alone (the stack's invariant).
        unsafe { std::slice::from_raw_parts(self.start(), self.slots.slot_bytes) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.slots.slot_bytes) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(self.slot);
    }
}
