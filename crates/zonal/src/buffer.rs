//! Owned, aligned bytes for I/O: leased from an [`Arena`], or from the heap.
//!
//! A [`Buffer`] goes into a request and comes back with its completion; whoever drops it, on
//! whichever thread, gives it back. An arena is one mapping in equal slots, so that a ring can
//! register it as one fixed buffer; leasing takes one atomic exchange, no lock, no allocation.
//! The bytes of a new lease may be those of an earlier one in the same process; they are never
//! uninitialised.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::sync::Arc;
use crate::sys::DIRECT_ALIGNMENT;
use crate::sys::memory::AlignedBytes;
use crate::sys::slots::{Slot, Slots};

/// A pool of equal buffers in one piece of memory. A clone is another handle of the same pool.
#[derive(Clone, Debug)]
pub(crate) struct Arena(Arc<Slots>);

impl Arena {
    /// A pool of `slots` buffers of up to `slot_bytes` bytes each, rounded up to a multiple of
    /// 4096.
    ///
    /// # Errors
    /// There is no memory for them; or `slots` or `slot_bytes` is 0.
    pub(crate) fn new(slots: u32, slot_bytes: usize) -> io::Result<Self> {
        let slot_bytes = slot_bytes.checked_next_multiple_of(DIRECT_ALIGNMENT);
        Slots::new(slots, slot_bytes.ok_or(io::ErrorKind::InvalidInput)?).map(Arc::new).map(Self)
    }

    /// A buffer of `length` bytes, or none: no slot is free, or none is that large.
    pub(crate) fn lease(&self, length: usize) -> Option<Buffer> {
        if length > self.0.slot_bytes() {
            return None;
        }
        Some(Buffer { memory: Memory::Pooled(self.0.take()?), length })
    }

    /// Where its memory lies and how long it is, in bytes, to be registered with a ring. The
    /// address is good for as long as the arena or one of its buffers lives.
    pub(crate) fn range(&self) -> (NonNull<u8>, usize) {
        self.0.range()
    }
}

/// Owned bytes for I/O, aligned to 4096. Given back to where they came from on drop.
///
/// Its length can be set anywhere up to its capacity. Bytes never written are those of an
/// earlier buffer of this process, or zero.
pub struct Buffer {
    memory: Memory,
    length: usize,
}

enum Memory {
    Pooled(Slot),
    Heap(AlignedBytes),
}

impl Buffer {
    /// A buffer of `length` zero bytes from the heap, for what no pool has room for.
    #[must_use]
    pub fn unpooled(length: usize) -> Self {
        Self { memory: Memory::Heap(AlignedBytes::zeroed(length)), length }
    }

    /// A buffer from the heap with a copy of `bytes`.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buffer = Self::unpooled(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// How many bytes it can be made to hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Pooled(slot) => slot.len(),
            Memory::Heap(bytes) => bytes.len(),
        }
    }

    /// Makes it `length` bytes long. Bytes that come in anew are what they were.
    ///
    /// # Panics
    /// `length` is above the capacity.
    pub fn set_len(&mut self, length: usize) {
        assert!(length <= self.capacity(), "a buffer's length is at most its capacity");
        self.length = length;
    }

    /// Makes it `length` bytes long if it is longer.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Whether it is leased from `arena`, so that a ring that registered the arena knows its
    /// memory.
    pub(crate) fn is_of(&self, arena: &Arena) -> bool {
        match &self.memory {
            Memory::Pooled(slot) => Arc::ptr_eq(slot.owner(), &arena.0),
            Memory::Heap(_) => false,
        }
    }
}

impl From<&[u8]> for Buffer {
    /// A copy on the heap.
    fn from(bytes: &[u8]) -> Self {
        Self::from_slice(bytes)
    }
}

impl From<Vec<u8>> for Buffer {
    /// A copy on the heap, as the bytes of a vector lie anywhere.
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_slice(&bytes)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Pooled(slot) => &slot[..self.length],
            Memory::Heap(bytes) => &bytes[..self.length],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Pooled(slot) => &mut slot[..self.length],
            Memory::Heap(bytes) => &mut bytes[..self.length],
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match &self.memory {
            Memory::Pooled(_) => "pooled",
            Memory::Heap(_) => "heap",
        };
        write!(f, "Buffer({from}, {} of {} bytes)", self.length, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::thread;

    fn model(test: impl Fn() + Send + Sync + 'static) {
        #[cfg(zonal_shuttle)]
        shuttle::check_random(test, 300);
        #[cfg(not(zonal_shuttle))]
        test();
    }

    #[test]
    fn a_lease_is_aligned_and_comes_back_when_dropped() {
        model(|| {
            let arena = Arena::new(2, 5000).unwrap();
            let first = arena.lease(8192).unwrap();
            let second = arena.lease(1).unwrap();
            assert_eq!(first.as_ptr() as usize % 4096, 0);
            assert_eq!(second.as_ptr() as usize % 4096, 0);
            assert!(arena.lease(1).is_none());
            drop(first);
            assert!(arena.lease(8193).is_none());
            assert!(arena.lease(0).is_some());
        });
    }

    #[test]
    fn a_buffer_knows_its_arena_and_outlives_the_handle() {
        model(|| {
            let (one, other) = (Arena::new(1, 4096).unwrap(), Arena::new(1, 4096).unwrap());
            let mut buffer = one.lease(4096).unwrap();
            assert!(buffer.is_of(&one) && buffer.is_of(&one.clone()) && !buffer.is_of(&other));
            assert!(!Buffer::unpooled(8).is_of(&one));
            drop(one);
            buffer.fill(7);
            buffer.truncate(3);
            assert_eq!(&*buffer, [7; 3]);
            buffer.set_len(4096);
            assert_eq!(buffer[4095], 7);
        });
    }

    #[test]
    fn a_heap_buffer_is_aligned_and_holds_what_it_was_given() {
        let buffer = Buffer::from_slice(b"abc");
        assert_eq!(&*buffer, b"abc");
        assert_eq!(buffer.as_ptr() as usize % 4096, 0);
        assert!(Buffer::unpooled(0).is_empty());
    }

    #[test]
    #[should_panic(expected = "at most its capacity")]
    fn a_buffer_cannot_be_longer_than_its_memory() {
        Buffer::unpooled(4).set_len(5);
    }

    #[test]
    fn no_slot_is_leased_twice_at_a_time() {
        let rounds = if cfg!(zonal_shuttle) { 3 } else { 50_000 };
        model(move || {
            let arena = Arena::new(2, 4096).unwrap();
            let worker = move |arena: Arena, mark: u8| {
                for _ in 0..rounds {
                    let Some(mut buffer) = arena.lease(16) else {
                        thread::yield_now();
                        continue;
                    };
                    buffer.fill(mark);
                    thread::yield_now();
                    assert_eq!(&*buffer, [mark; 16]);
                }
            };
            let threads: Vec<_> = (1..=3)
                .map(|mark| {
                    let arena = arena.clone();
                    thread::spawn(move || worker(arena, mark))
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            let all: Vec<_> = std::iter::from_fn(|| arena.lease(1)).collect();
            assert_eq!(all.len(), 2);
        });
    }

    #[test]
    fn a_lease_may_be_dropped_by_another_thread() {
        model(|| {
            let arena = Arena::new(1, 4096).unwrap();
            let buffer = arena.lease(1).unwrap();
            thread::spawn(move || drop(buffer)).join().unwrap();
            assert!(arena.lease(1).is_some());
        });
    }
}
