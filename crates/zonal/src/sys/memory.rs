//! Memory that the type system cannot follow: aligned blocks, and bytes lent to a request.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::DIRECT_ALIGNMENT;

/// A block of the heap, aligned for direct I/O, zero at first.
pub(crate) struct AlignedBytes {
    start: NonNull<u8>,
    /// At least one byte long, so that the allocator may be asked for it.
    layout: Layout,
    length: usize,
}

// SAFETY: the block is owned by this value alone; bytes have no thread.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// A block of `length` bytes, all zero.
    pub(crate) fn zeroed(length: usize) -> Self {
        let layout = Layout::from_size_align(length.max(1), DIRECT_ALIGNMENT)
            .expect("a length that fits the address space");
        // SAFETY: the layout is not of zero size.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout, length }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `length` bytes from `start` were allocated, initialised with zeroes, and are
        // owned by `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.length)
    }
}

/// The bytes of a request in flight, which belong to whoever issued it.
///
/// It goes to the thread that does the request, and is never shared.
#[derive(Debug)]
pub(crate) struct LentBytes {
    start: *mut u8,
    length: usize,
}

// SAFETY: whoever holds the value has the bytes to itself, as `new` was promised, in whichever
// thread that is.
unsafe impl Send for LentBytes {}

impl LentBytes {
    /// # Safety
    /// Until the value is dropped, `length` bytes from `start` are initialised, stay allocated,
    /// and are touched by nobody else, except that others may read them if neither
    /// [`copy_from`](Self::copy_from) nor [`as_mut_slice`](Self::as_mut_slice) is ever called. A
    /// length of 0 allows any `start`.
    pub(crate) unsafe fn new(start: *mut u8, length: usize) -> Self {
        Self { start, length }
    }

    /// What is in them now.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.as_slice().to_vec()
    }

    /// The bytes, to be read.
    pub(crate) fn as_slice(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: readable and not written by others, as `new` was promised.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    /// The bytes, to be written.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        if self.length == 0 {
            return &mut [];
        }
        // SAFETY: writable and not touched by others, as `new` was promised.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    /// Fills them from the start on with as much of `bytes` as there is room for.
    pub(crate) fn copy_from(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(self.length);
        if length != 0 {
            // SAFETY: writable and not read by others, as `new` was promised; `bytes` is
            // borrowed from elsewhere, so the two do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, length) };
        }
    }
}
