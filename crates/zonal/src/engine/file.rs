//! A file as a disk: its descriptor, how it was opened, and blocking reads and writes.
//!
//! The descriptor is opened for direct I/O where the file system allows it. Blocking calls go
//! through the same descriptor, by way of aligned blocks of their own; where a write covers part
//! of a block, the rest is read first. There is one description for everything, so that the lock
//! taken on it covers all I/O. A drive of many files ([`Spread`]) has the folder they are in as its own
//! file, which is what is locked and kept open, and no blocking calls.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, MemfdFlags, memfd_create};
use rustix::io::{ReadWriteFlags, pwritev2, retry_on_intr};

use super::EngineKind;
use super::spread::Spread;
use crate::sys::DIRECT_ALIGNMENT;
use crate::sys::file::{self, Access, FileIdentity};
use crate::sys::lock;
use crate::sys::memory::AlignedBytes;

/// The alignment of direct I/O, as an offset.
const BLOCK: u64 = DIRECT_ALIGNMENT as u64;

/// The most bytes a blocking call moves at once.
const BOUNCE_BYTES: u64 = 1 << 20;

/// The flag that has the kernel write all of it untorn or refuse.
pub(super) const UNTORN: ReadWriteFlags =
    ReadWriteFlags::from_bits_retain(libc::RWF_ATOMIC.cast_unsigned());

/// An opened file. A clone is another handle of the same open file description.
#[derive(Clone, Debug)]
pub(crate) struct FileDisk {
    inner: Arc<Inner>,
    engine: EngineKind,
    /// Whether nobody named the engine, and plain system calls will do: of threads where a queue gets no ring,
    /// and of the caller where it has one request at a time.
    may_use_threads: bool,
}

#[derive(Debug)]
struct Inner {
    file: File,
    direct: bool,
    /// The files to which requests go instead.
    spread: Option<Arc<Spread>>,
    /// The mode with which `fallocate` zeroes a range; found out when it is first needed, since
    /// trying changes the file's modification time, which tells whether a live file is current.
    zero_mode: OnceLock<FallocateFlags>,
    /// Whether threads move bytes that a ring was to move; and why, if somebody can do something about it.
    why_threads: OnceLock<Option<String>>,
}

impl FileDisk {
    /// Opens an existing file, or makes a new one.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub(crate) fn open(path: &Path, access: Access) -> io::Result<Self> {
        let (file, direct) = file::open_direct(path, access)?;
        Ok(Self::new(file, direct, None))
    }

    /// A file of so many zeros that has no name and is in memory.
    ///
    /// # Errors
    /// Those of `memfd_create(2)` and `ftruncate(2)`.
    pub(crate) fn in_memory(length: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("zonal", MemfdFlags::CLOEXEC)?);
        file.set_len(length)?;
        Ok(Self::new(file, false, None))
    }

    fn new(file: File, direct: bool, spread: Option<Arc<Spread>>) -> Self {
        let (zero_mode, why_threads) = (OnceLock::new(), OnceLock::new());
        let inner = Arc::new(Inner { file, direct, spread, zero_mode, why_threads });
        Self { inner, engine: EngineKind::IoUring, may_use_threads: false }
    }

    /// A file that is open already, for direct I/O.
    pub(crate) fn over(file: File) -> Self {
        Self::new(file, true, None)
    }

    /// Files in a folder, all open for direct I/O.
    pub(crate) fn spread_over(folder: File, spread: Arc<Spread>) -> Self {
        Self::new(folder, true, Some(spread))
    }

    /// The files to which requests go, if there are several.
    pub(super) fn spread(&self) -> Option<&Arc<Spread>> {
        self.inner.spread.as_ref()
    }

    /// This handle, whose queues will have engines of that kind.
    pub(crate) fn with_engine(self, engine: EngineKind) -> Self {
        Self { engine, ..self }
    }

    /// The same, with threads for queues that get no ring.
    pub(crate) fn or_threads(self) -> Self {
        Self { may_use_threads: true, ..self }
    }

    /// The same, with an error for queues that get no ring.
    pub(crate) fn without_threads(self) -> Self {
        Self { may_use_threads: false, ..self }
    }

    /// Whether threads will do where a queue gets no ring.
    pub(crate) fn may_use_threads(&self) -> bool {
        self.may_use_threads
    }

    /// Notes that threads move bytes that a ring was to move. That a kernel has no rings, or forbids them,
    /// is how the machine is; that it has no memory for one, somebody may want to change.
    pub(crate) fn uses_threads(&self, error: &io::Error) {
        tracing::debug!(%error, "threads instead of io_uring");
        let curable = error.kind() == io::ErrorKind::OutOfMemory;
        let why = || curable.then(|| format!("threads move the bytes, as {error}"));
        self.inner.why_threads.get_or_init(why);
    }

    /// What [`uses_threads`](Self::uses_threads) noted, if anything.
    pub(super) fn why_threads(&self) -> Option<Option<&str>> {
        self.inner.why_threads.get().map(Option::as_deref)
    }

    /// Which engines its queues have.
    pub(crate) fn engine_kind(&self) -> EngineKind {
        self.engine
    }

    pub(crate) fn file(&self) -> &File {
        &self.inner.file
    }

    /// Writes a unit by the calling thread: the kernel does it untorn, or refuses. How many bytes, as it is
    /// never gone on with.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn write_untorn_at(
        &self,
        bytes: &[u8],
        offset: u64,
        durable: bool,
    ) -> io::Result<u32> {
        let how = if durable { UNTORN | ReadWriteFlags::DSYNC } else { UNTORN };
        let bytes = [IoSlice::new(bytes)];
        let written = retry_on_intr(|| pwritev2(self.file(), &bytes, offset, how))?;
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    /// Whether reads and writes pass the page cache by.
    pub(crate) fn is_direct(&self) -> bool {
        self.inner.direct
    }

    /// Which file it is.
    ///
    /// # Errors
    /// Those of `statx(2)`.
    pub(crate) fn identity(&self) -> io::Result<FileIdentity> {
        file::identity(&self.inner.file)
    }

    /// Takes the lock on the file through the description all I/O uses; tells whether it was
    /// free. It falls when the last handle and the last ring are gone.
    ///
    /// # Errors
    /// As [`lock::try_lock`].
    pub(crate) fn try_lock(&self) -> io::Result<bool> {
        lock::try_lock(&self.inner.file)
    }

    /// Takes the lock together with others that share it; tells whether nobody had it alone.
    ///
    /// # Errors
    /// As [`lock::try_share`].
    pub(crate) fn try_share(&self) -> io::Result<bool> {
        lock::try_share(&self.inner.file)
    }

    /// Whether somebody else has the lock alone; takes nothing.
    ///
    /// # Errors
    /// The file system has no locks.
    pub(crate) fn is_locked(&self) -> io::Result<bool> {
        lock::is_locked(&self.inner.file)
    }

    /// Whether the file at `path` is this one: not removed, nor another that took its place.
    ///
    /// # Errors
    /// Those of `stat(2)`.
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = self.inner.file.metadata()?;
        match std::fs::metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lock back, all I/O having ended.
    ///
    /// # Errors
    /// As [`lock::unlock`].
    pub(crate) fn unlock(&self) -> io::Result<()> {
        lock::unlock(&self.inner.file)
    }

    /// The mode of `fallocate(2)` that zeroes a range here.
    pub(super) fn zero_mode(&self) -> FallocateFlags {
        *self.inner.zero_mode.get_or_init(|| {
            let how = match file::can_punch(&self.inner.file) {
                // A file system that cannot even be asked will answer each request itself.
                Ok(true) | Err(_) => FallocateFlags::PUNCH_HOLE,
                Ok(false) => FallocateFlags::ZERO_RANGE,
            };
            how | FallocateFlags::KEEP_SIZE
        })
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.inner.file.metadata()?.len())
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.file.set_len(length)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.inner.file.sync_data()
    }

    pub(super) fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        file::zero(&self.inner.file, offset, length)
    }

    pub(super) fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        file::allocate(&self.inner.file, offset, length)
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.inner.direct {
            return self.inner.file.read_exact_at(bytes, offset);
        }
        for (piece, span) in pieces(offset, bytes.len() as u64)? {
            let mut bounce = AlignedBytes::zeroed(span.bytes());
            let got = self.read_blocks(&mut bounce, span.start)?;
            let found = bounce[..got].get(span.inner()).ok_or(io::ErrorKind::UnexpectedEof)?;
            bytes[piece].copy_from_slice(found);
        }
        Ok(())
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.inner.direct {
            return self.inner.file.write_all_at(bytes, offset);
        }
        let aligned = |n: usize| n.is_multiple_of(DIRECT_ALIGNMENT);
        if aligned(bytes.as_ptr().addr())
            && aligned(bytes.len())
            && offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
        {
            return self.inner.file.write_all_at(bytes, offset);
        }
        let old_length = self.len()?;
        for (piece, span) in pieces(offset, bytes.len() as u64)? {
            let mut bounce = AlignedBytes::zeroed(span.bytes());
            if span.inner() != (0..span.bytes()) && span.start < old_length {
                self.read_blocks(&mut bounce, span.start)?;
            }
            bounce[span.inner()].copy_from_slice(&bytes[piece]);
            self.inner.file.write_all_at(&bounce, span.start)?;
        }
        self.cut_padding(old_length.max(offset + bytes.len() as u64))
    }

    /// Takes away what whole blocks added behind the end of a file of no round length.
    fn cut_padding(&self, length: u64) -> io::Result<()> {
        if self.len()? > length { self.set_len(length) } else { Ok(()) }
    }

    /// Reads whole blocks until `bytes` is full or the file ends; how many bytes there were.
    fn read_blocks(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut got = 0;
        while got < bytes.len() {
            match self.inner.file.read_at(&mut bytes[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !got.is_multiple_of(DIRECT_ALIGNMENT) {
                break; // the end of a file of no round length
            }
        }
        Ok(got)
    }
}

impl AsRawFd for FileDisk {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.file.as_raw_fd()
    }
}

/// Whole blocks around a piece of a blocking call.
struct Span {
    /// Where the blocks start.
    start: u64,
    /// Where they end.
    end: u64,
    /// Where the piece starts.
    from: u64,
    /// Where the piece ends.
    to: u64,
}

impl Span {
    fn bytes(&self) -> usize {
        near(self.end - self.start)
    }

    /// The piece, relative to the blocks.
    fn inner(&self) -> std::ops::Range<usize> {
        near(self.from - self.start)..near(self.to - self.start)
    }
}

/// A distance within one call's bytes, which fit the address space.
fn near(distance: u64) -> usize {
    usize::try_from(distance).expect("a distance within one slice")
}

/// Splits a call at multiples of [`BOUNCE_BYTES`]: which of the caller's bytes, and where.
fn pieces(
    offset: u64,
    length: u64,
) -> io::Result<impl Iterator<Item = (std::ops::Range<usize>, Span)>> {
    let end = offset.checked_add(length).filter(|end| end.checked_add(BOUNCE_BYTES).is_some());
    let end = end.ok_or(io::ErrorKind::InvalidInput)?;
    let mut from = offset;
    Ok(std::iter::from_fn(move || {
        if from >= end {
            return None;
        }
        let to = ((from / BOUNCE_BYTES + 1) * BOUNCE_BYTES).min(end);
        let span = Span { start: from / BLOCK * BLOCK, end: to.next_multiple_of(BLOCK), from, to };
        let piece = near(from - offset)..near(to - offset);
        from = to;
        Some((piece, span))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocking_calls_are_those_of_a_plain_file(
            writes in prop::collection::vec((0_u64..40_000, 0_usize..20_000, 1_u8..), 1..8),
            reads in prop::collection::vec((0_u64..50_000, 0_usize..20_000), 1..8),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let disk = FileDisk::open(&directory.path().join("a"), Access::CreateNew).unwrap();
            let mut model = Vec::new();
            for (offset, length, byte) in writes {
                let end = usize::try_from(offset).unwrap() + length;
                if length != 0 {
                    model.resize(model.len().max(end), 0);
                    model[end - length..end].fill(byte);
                }
                disk.write_all_at(&vec![byte; length], offset).unwrap();
                prop_assert_eq!(disk.len().unwrap(), model.len() as u64);
            }
            for (offset, length) in reads {
                let from = usize::try_from(offset).unwrap();
                let mut bytes = vec![0; length];
                let result = disk.read_exact_at(&mut bytes, offset);
                match model.get(from..from + length) {
                    Some(expected) => {
                        result.unwrap();
                        prop_assert_eq!(&bytes, expected);
                    }
                    None if length == 0 => result.unwrap(),
                    None => prop_assert_eq!(
                        result.unwrap_err().kind(),
                        io::ErrorKind::UnexpectedEof
                    ),
                }
            }
        }
    }

    #[test]
    fn a_long_call_goes_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(&directory.path().join("a"), Access::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..3_u32 << 20).map(|i| (i % 251).to_le_bytes()[0]).collect();
        disk.write_all_at(&bytes, 777).unwrap();
        disk.sync_data().unwrap();
        let mut back = vec![0; bytes.len()];
        disk.read_exact_at(&mut back, 777).unwrap();
        assert!(back == bytes);
        assert!(disk.read_exact_at(&mut back, u64::MAX - 5).is_err());
    }
}
