//! The bytes of a drive in memory, which many threads copy in and out of at once.

use super::mmap::AnonymousMap;
use std::io;

/// A large anonymous mapping; pages that were never written take no memory.
#[derive(Debug)]
pub(crate) struct Region(AnonymousMap);

impl Region {
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        AnonymousMap::new(length).map(Self)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Safety
    /// Nobody else touches the range meanwhile.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: inside the mapping, as was checked; the caller keeps others away.
        unsafe {
            let to = self.0.start().as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Copies from `offset` to `bytes`.
    ///
    /// # Safety
    /// Nobody writes to the range meanwhile.
    pub(crate) unsafe fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: inside the mapping, as was checked; the caller keeps writers away.
        unsafe {
            let from = self.0.start().as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Zeroes a range.
    ///
    /// # Safety
    /// Nobody else touches the range meanwhile.
    pub(crate) unsafe fn zero(&self, offset: usize, length: usize) {
        self.check(offset, length);
        // SAFETY: inside the mapping, as was checked; the caller keeps others away.
        unsafe { self.0.start().as_ptr().add(offset).write_bytes(0, length) };
    }

    fn check(&self, offset: usize, length: usize) {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.0.length()), "outside the drive's memory");
    }
}
