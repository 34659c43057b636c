//! A request as one system call of the thread that makes it: of the workers that stand in for a ring, and of a
//! caller who waits for one request alone.

use std::io::{self, IoSlice};

use rustix::fs::{fallocate, fdatasync};
use rustix::io::{ReadWriteFlags, pread, pwrite, pwritev2, retry_on_intr};

use super::file::{FileDisk, UNTORN};
use super::{Io, IoKind};
use crate::sys::memory::LentBytes;

/// A request that nobody has begun.
pub(super) struct Call {
    kind: IoKind,
    offset: u64,
    /// Whether the kernel is to write it untorn, or not at all.
    untorn: bool,
    /// How many bytes are zeroed; of reads and writes `bytes` says it.
    length: u64,
    bytes: LentBytes,
    pub(super) token: u64,
}

impl Call {
    /// # Safety
    /// As [`Engine::push`](super::Engine::push); the token is not reaped while it is there.
    pub(super) unsafe fn of(io: &Io, untorn: bool) -> Self {
        let lent = match io.kind {
            IoKind::Read | IoKind::Write | IoKind::WriteDurable => io.len,
            IoKind::SyncData | IoKind::Zero => 0,
        };
        // SAFETY: the caller's promise.
        let bytes = unsafe { LentBytes::new(io.ptr, lent) };
        let Io { kind, offset, len, token, .. } = *io;
        Self { kind, offset, untorn, length: len as u64, bytes, token }
    }

    /// Makes it, and lets go of the bytes. How many they were.
    pub(super) fn make(mut self, disk: &FileDisk) -> io::Result<u32> {
        let Self { kind, offset, untorn, length, ref mut bytes, .. } = self;
        let how = if untorn { UNTORN } else { ReadWriteFlags::empty() };
        let of_its_zone;
        let (file, offset) = match disk.spread() {
            None => (disk.file(), offset),
            Some(spread) => {
                of_its_zone = spread.open_for(kind, offset)?;
                (&*of_its_zone.0, of_its_zone.1)
            }
        };
        let done = retry_on_intr(|| match kind {
            IoKind::Read => pread(file, bytes.as_mut_slice(), offset),
            IoKind::Write if !untorn => pwrite(file, bytes.as_slice(), offset),
            IoKind::Write => pwritev2(file, &[IoSlice::new(bytes.as_slice())], offset, how),
            IoKind::WriteDurable => {
                let how = how | ReadWriteFlags::DSYNC;
                pwritev2(file, &[IoSlice::new(bytes.as_slice())], offset, how)
            }
            IoKind::SyncData => fdatasync(file).map(|()| 0),
            IoKind::Zero => fallocate(file, disk.zero_mode(), offset, length).map(|()| 0),
        })?;
        // The kernel moves less than 2 GiB at once.
        Ok(u32::try_from(done).unwrap_or(u32::MAX))
    }
}
