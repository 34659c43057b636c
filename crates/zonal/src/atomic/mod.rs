//! Untorn (atomic) writes to ordinary files and block devices: after a power cut all of a unit is there, or
//! none of it.
//!
//! ```text
//! AtomicOperation ─ job ─► inbox ─► I/O thread: driver ─► engine ─► the file
//!        ▲                              │    └─ journal ─► PATH.journal
//!        └──────────── end ◄────────────┘
//! ```
//!
//! A database that writes pages of 8 or 16 KiB keeps a second copy of each (a double write, full-page
//! images), because a power cut may leave half a page. Where the kernel offers it (`RWF_ATOMIC`), one write
//! does; where it does not, a journal beside the file does the same for all writers with one sync.
//!
//! * [`AtomicFile::limits`] tells which [path](AtomicPath) there is, and which units: ask it, not the
//!   file system's name.
//! * [`AtomicFile::write_atomic_at`] is untorn or an error: never split, never buffered, never short.
//! * [`AtomicFile::write_batch`] is several units that are one: with a journal, a whole transaction.
//! * [`AtomicFile::write_at`] is an ordinary write, and may be mixed with the others in any order.
//! * Untorn is not durable: [`AtomicFile::flush`], or [`AtomicOperation::durable`].
//!
//! ```
//! use zonal::atomic::{AtomicFile, AtomicOptions, AtomicPath, JournalUse};
//!
//! # let folder = std::env::temp_dir().join(format!("zonal-doc-atomic-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("pages.db");
//! std::fs::write(&path, b"")?;
//! let options = AtomicOptions { journal: JournalUse::IfNeeded, ..AtomicOptions::default() };
//! let file = AtomicFile::open(&path, &options)?;
//! assert_ne!(file.limits().path, AtomicPath::None);
//!
//! let written = file.write_atomic_at(16384, vec![7; 16384]).wait()?;
//! println!("by the {} path", written.path);
//! file.flush().wait()?;
//! let read = file.read_at(16384, written.buffer).wait()?;
//! assert!(read.buffer.iter().all(|byte| *byte == 7));
//! file.close()?;
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A `Queue` is about zones: places are taken in them at submission, and nothing of that is
//! here. So a file has one I/O thread over the same engines (io_uring, threads, the simulator) instead.

mod driver;
mod journal;
mod lock;
mod noted;
mod open;
mod operation;
mod worker;

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use journal::Begun;
pub use journal::Replayed;
#[cfg(fuzzing)]
pub(crate) use journal::begin_journal;
pub use open::{AtomicInfo, JournalReport, check_journal, inspect, is_journal};
pub use operation::AtomicOperation;
use operation::{Job, What};
use worker::Inbox;

use crate::buffer::Buffer;
use crate::device::TRANSFER_MAX;
use crate::engine::EngineChoice;
use crate::engine::file::FileDisk;
use crate::handle::Transfer;
use crate::queue::{io_kind, io_text};
use crate::sync::{Mutex, lock};
use crate::sys::DIRECT_ALIGNMENT;
use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::untorn::Units;

/// Requests of one file that its engine has, at most.
pub(super) const DEPTH: usize = 128;

/// Requests of one file that are looked at, at most; further ones stay in line.
pub(super) const WINDOW: usize = 256;

/// Bytes of a journal's ring where nothing else is asked for.
pub const JOURNAL_BYTES: u64 = 32 << 20;

/// How a unit stays whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomicPath {
    /// The kernel writes it so (`RWF_ATOMIC`): the device in one command, or its file system by
    /// copy-on-write.
    Native,
    /// A journal beside the file has all of it, durably, before it goes to its place.
    Journal,
    /// It does not: what an ordinary write says, and the limits of a file that has neither.
    None,
}

impl fmt::Display for AtomicPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Journal => "journal",
            Self::None => "none",
        })
    }
}

/// Whether a journal may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JournalUse {
    /// No: without the kernel's help atomic writes are refused.
    #[default]
    Never,
    /// Where the kernel promises nothing for the file.
    IfNeeded,
    /// In any case.
    Always,
}

/// How a file is opened.
#[derive(Clone, Debug)]
pub struct AtomicOptions {
    /// Only to read it, and to ask for its limits.
    pub read_only: bool,
    /// Whether a journal may be used.
    pub journal: JournalUse,
    /// Where it is; `PATH.journal` if that is left out, links in PATH followed.
    pub journal_path: Option<PathBuf>,
    /// How many bytes of records a new journal holds: 1 MiB to 1 GiB, a multiple of 4096. The largest unit
    /// is a quarter of it, or 1 MiB.
    pub journal_bytes: u64,
    /// Every write is atomic, and `write_at` refuses what cannot be. A file that has no path is not opened.
    pub all_atomic: bool,
    /// Rather an error than copy-on-write or the journal: units over `unit_max_fast` are refused.
    pub fast_only: bool,
    /// What moves the bytes.
    pub engine: EngineChoice,
}

impl Default for AtomicOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            journal: JournalUse::default(),
            journal_path: None,
            journal_bytes: JOURNAL_BYTES,
            all_atomic: false,
            fast_only: false,
            engine: EngineChoice::default(),
        }
    }
}

/// What a file can do untorn. Units are in bytes, and zero where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicLimits {
    /// How a unit stays whole.
    pub path: AtomicPath,
    /// The smallest unit.
    pub unit_min: u64,
    /// The largest unit.
    pub unit_max: u64,
    /// The largest that the device writes in place by itself. Above it the file system copies on write, and
    /// the journal writes all twice.
    pub unit_max_fast: u64,
}

impl AtomicLimits {
    const NONE: Self = Self { path: AtomicPath::None, unit_min: 0, unit_max: 0, unit_max_fast: 0 };
}

/// How much one batch takes: nothing on any path but the journal's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchLimits {
    /// How many units.
    pub units_max: usize,
    /// How many bytes they have together.
    pub bytes_max: u64,
}

/// What came of a write that went well.
#[derive(Debug)]
pub struct Written {
    /// Where it was, in bytes.
    pub offset: u64,
    /// How it stays whole; `None` of an ordinary write.
    pub path: AtomicPath,
    /// Its bytes.
    pub buffer: Buffer,
}

/// An ordinary file or a block device whose writes can be untorn.
///
/// Usable from any thread and under any runtime. Dropping it ends what was asked for and makes it durable,
/// as [`close`](Self::close) does, without a word about failures.
pub struct AtomicFile {
    name: String,
    limits: AtomicLimits,
    batch_limits: BatchLimits,
    replayed: Replayed,
    read_only: bool,
    all_atomic: bool,
    fast_only: bool,
    file: FileDisk,
    inbox: Arc<Inbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AtomicFile {
    /// Opens a file or block device that exists. A journal beside it is replayed first, if records are in
    /// it; one that is needed and missing is made.
    ///
    /// # Errors
    /// Nothing is changed by an error, except where it says so. `NotFound`; `InUse`: one who writes with a
    /// journal has the file alone, and that is another, or there are others, or the journal is another file's; `Unsupported`: no direct I/O, no path with `all_atomic`, a journal for a
    /// device, a newer journal; `Unclean`: units are in a journal, and it may not be replayed; `Damaged`: the journal
    /// is; `InvalidInput`: what is at the journal's place is none, or another file's; `NoSpace`: for the
    /// journal.
    pub fn open(path: impl AsRef<Path>, options: &AtomicOptions) -> Result<Self> {
        let path = path.as_ref();
        open::open(path, options)
            .map_err(|error| error.on(path.display().to_string()).during("open"))
    }

    /// What can be written untorn, and how.
    #[must_use]
    pub fn limits(&self) -> AtomicLimits {
        self.limits
    }

    /// What one batch takes.
    #[must_use]
    pub fn batch_limits(&self) -> BatchLimits {
        self.batch_limits
    }

    /// What the opening put in its place out of the journal: nothing, unless the last session was cut off.
    #[must_use]
    pub fn replayed(&self) -> Replayed {
        self.replayed
    }

    /// Which file it is, and how long, as the file system knows it now. A file that took the place of this one has
    /// another inode.
    ///
    /// # Errors
    /// The file system's.
    pub fn metadata(&self) -> Result<Metadata> {
        self.file.file().metadata().map_err(|error| {
            let text = io_text(&error);
            let error = Error::new(io_kind(&error), text).with_source(error);
            error.on(self.name.clone()).during("metadata")
        })
    }

    /// Writes a unit: all of it is there after a power cut, or none. Its length is a power of two within
    /// [`limits`](Self::limits), its offset a multiple of its length.
    ///
    /// What is overlapped by an earlier request is written after that one has ended.
    ///
    /// # Errors
    /// Refused with nothing changed: `InvalidInput` for the offset or length, `Unsupported` where no path
    /// is, or where it would leave the fast one (`fast_only`), `DeviceReadOnly`. `Io`, `NoSpace`: it
    /// failed; the unit is then the old or the new one, and the error says if the file has to be opened
    /// again.
    pub fn write_atomic_at(
        &self,
        offset: u64,
        data: impl Into<Buffer>,
    ) -> AtomicOperation<Written> {
        self.write(What::WriteAtomic, offset, data.into())
    }

    /// Writes several units as one: all of them are there after a power cut, or none. Each is a unit as for
    /// [`write_atomic_at`](Self::write_atomic_at), and no two overlap. Durable when it ends. Other requests
    /// see each unit as it was or as it will be, but may see one of them before another.
    ///
    /// Only the journal can do this, and [`batch_limits`](Self::batch_limits) says how much: its units stand in
    /// one record, which a replay believes whole or not at all.
    ///
    /// ```
    /// use zonal::atomic::{AtomicFile, AtomicOptions, JournalUse};
    ///
    /// # let folder = std::env::temp_dir().join(format!("zonal-doc-batch-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("pages.db");
    /// # std::fs::write(&path, b"")?;
    /// let options = AtomicOptions { journal: JournalUse::Always, ..AtomicOptions::default() };
    /// let file = AtomicFile::open(&path, &options)?;
    /// let (debit, credit) = (vec![1; 4096], vec![2; 4096]);
    /// file.write_batch([(0, debit.into()), (40960, credit.into())]).wait()?;
    /// # file.close()?;
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Refused with nothing changed: `InvalidInput` for a unit, units that overlap, none, or more than the
    /// limits; `Unsupported` without a journal, or with `fast_only`; `DeviceReadOnly`. `Io`, `NoSpace`: it failed; all
    /// units are then the old ones or all are the new ones, once the file was opened again.
    pub fn write_batch(
        &self,
        units: impl IntoIterator<Item = (u64, Buffer)>,
    ) -> AtomicOperation<()> {
        let job = Job::batch(units.into_iter().collect());
        let checked = self.check_batch(&job);
        self.operation(job, checked)
    }

    /// An ordinary write, whole or an error; what of it is there after a power cut is not promised. Offset
    /// and length are multiples of 4096. With `all_atomic`, as [`write_atomic_at`](Self::write_atomic_at).
    ///
    /// Where a journal would replay an older unit over it, it waits until that cannot happen any more.
    ///
    /// # Errors
    /// `InvalidInput`, `DeviceReadOnly`; the medium's. One that failed may have left a part.
    pub fn write_at(&self, offset: u64, data: impl Into<Buffer>) -> AtomicOperation<Written> {
        let what = if self.all_atomic { What::WriteAtomic } else { What::Write };
        self.write(what, offset, data.into())
    }

    /// Fills `into` from `offset` on, both multiples of 4096; the buffer comes back shorter where the file
    /// ends. A unit that is being written is read as it was or as it will be.
    ///
    /// # Errors
    /// `InvalidInput`; the medium's.
    pub fn read_at(&self, offset: u64, into: Buffer) -> AtomicOperation<Transfer> {
        let job = Job::new(What::Read, offset, Some(into));
        let checked = check_blocks(&job);
        self.operation(job, checked)
    }

    /// Ends the file at `length`, a multiple of 4096; what is gained reads as zeros. Ended, it is as durable as an
    /// ordinary write. It waits for what was asked for behind that length, and until no replay would bring
    /// anything back there.
    ///
    /// # Errors
    /// `InvalidInput`, `DeviceReadOnly`; the file system's.
    pub fn set_len(&self, length: u64) -> AtomicOperation<()> {
        let job = Job::new(What::SetLength, length, None);
        let checked = self.check_writable().and_then(|()| {
            if length.is_multiple_of(DIRECT_ALIGNMENT as u64) && i64::try_from(length).is_ok() {
                return Ok(());
            }
            let text = format!("a length is a multiple of {DIRECT_ALIGNMENT}");
            Err(Error::new(ErrorKind::InvalidInput, text))
        });
        self.operation(job, checked)
    }

    /// Makes durable every write that has ended before.
    ///
    /// # Errors
    /// The sync failed, which is final: what was written since the last one may be lost.
    pub fn flush(&self) -> AtomicOperation<()> {
        self.operation(Job::new(What::Flush, 0, None), Ok(()))
    }

    /// A buffer of `length` zero bytes, aligned as direct I/O wants it.
    #[must_use]
    pub fn buffer(&self, length: usize) -> Buffer {
        Buffer::unpooled(length)
    }

    /// Ends what was asked for, makes it durable, and leaves the journal empty.
    ///
    /// # Errors
    /// What had failed; the medium's.
    pub fn close(self) -> Result<()> {
        self.end()
    }

    fn end(&self) -> Result<()> {
        let Some(thread) = lock(&self.thread).take() else { return Ok(()) };
        self.inbox.close();
        let panicked = || Error::new(ErrorKind::Io, worker::PANICKED).on(self.name.clone());
        thread.join().map_err(|_| panicked())?;
        self.inbox.outcome().unwrap_or_else(|| Err(panicked()))
    }

    fn write(&self, what: What, offset: u64, data: Buffer) -> AtomicOperation<Written> {
        let job = Job::new(what, offset, Some(data));
        let checked = self.check_write(&job);
        self.operation(job, checked)
    }

    fn check_writable(&self) -> Result<()> {
        if !self.read_only {
            return Ok(());
        }
        let text = "it was opened to be read; open it for writing";
        Err(Error::new(ErrorKind::DeviceReadOnly, text))
    }

    fn check_batch(&self, job: &Job) -> Result<()> {
        self.check_writable()?;
        let refuse = |kind, text: String| Err(Error::new(kind, text));
        let AtomicLimits { path, unit_min, unit_max, .. } = self.limits;
        if self.fast_only {
            let text = "a batch would go through the journal; leave out fast_only to take it";
            return refuse(ErrorKind::Unsupported, text.to_owned());
        }
        if path != AtomicPath::Journal {
            let text = "only a journal makes several units one; open the file with one, in any case \
                        (JournalUse::Always)";
            return refuse(ErrorKind::Unsupported, text.to_owned());
        }
        let units = Units { min: unit_min, max: unit_max };
        for (offset, bytes) in job.pieces() {
            units.check(offset, bytes.len() as u64)?;
        }
        let BatchLimits { units_max, bytes_max } = self.batch_limits;
        let (count, bytes) = (job.units.len(), job.length() as u64);
        if count == 0 || count > units_max || bytes > bytes_max {
            let text = format!(
                "a batch has 1 to {units_max} units, of {bytes_max} bytes together at most; {count} of {bytes} \
                 bytes are none"
            );
            return refuse(ErrorKind::InvalidInput, text);
        }
        let mut ranges: Vec<_> = job.ranges().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        match ranges.windows(2).find(|pair| pair[1].start < pair[0].end) {
            None => Ok(()),
            Some(pair) => {
                let text = format!("two units of the batch overlap at byte {}", pair[1].start);
                refuse(ErrorKind::InvalidInput, text)
            }
        }
    }

    fn check_write(&self, job: &Job) -> Result<()> {
        self.check_writable()?;
        if job.what != What::WriteAtomic {
            return check_blocks(job);
        }
        let AtomicLimits { path, unit_min, unit_max, unit_max_fast } = self.limits;
        let length = job.length() as u64;
        if path == AtomicPath::None {
            let text = "the kernel writes nothing of this file untorn; open it with a journal";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Units { min: unit_min, max: unit_max }.check(job.offset, length)?;
        if self.fast_only && length > unit_max_fast {
            let (slow, fast) = match (path, unit_max_fast) {
                (AtomicPath::Journal, _) => {
                    ("go through the journal", "there is no fast path".to_owned())
                }
                (_, 0) => ("be copied on write", "there is no fast path".to_owned()),
                (_, max) => ("be copied on write", format!("the fast path goes to {max}")),
            };
            let text =
                format!("{length} bytes would {slow}; {fast}: leave out fast_only to take it");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(())
    }

    fn operation<T: operation::Outcome>(
        &self,
        job: Job,
        checked: Result<()>,
    ) -> AtomicOperation<T> {
        match checked {
            Ok(()) => AtomicOperation::new(&self.inbox, job),
            Err(error) => {
                let error = error.on(self.name.clone()).during(job.what.name());
                let error = match job.pieces().next() {
                    Some((offset, bytes)) => error.at(offset, bytes.len() as u64),
                    None => error,
                };
                AtomicOperation::refused(&self.inbox, job, error)
            }
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error}");
        }
    }
}

impl fmt::Debug for AtomicFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicFile")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What direct I/O takes.
fn check_blocks(job: &Job) -> Result<()> {
    let block = DIRECT_ALIGNMENT as u64;
    let (offset, length) = (job.offset, job.length() as u64);
    let refuse = |text: String| Err(Error::new(ErrorKind::InvalidInput, text));
    if length == 0 || !length.is_multiple_of(block) || !offset.is_multiple_of(block) {
        return refuse(format!("offset and length are multiples of {block}, and not 0"));
    }
    if length > TRANSFER_MAX {
        return refuse(format!("one request moves {TRANSFER_MAX} bytes at most; split it"));
    }
    if offset.checked_add(length).is_none_or(|end| i64::try_from(end).is_err()) {
        return refuse(format!("it would end past {}, the last byte of any file", i64::MAX));
    }
    Ok(())
}
