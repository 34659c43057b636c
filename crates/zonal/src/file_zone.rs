//! An ordinary file as one zone that grows: where the file ends is the write pointer.
//!
//! A byte of the drive is the same byte of the file, and nothing lies beside it. The zone's word
//! hands out places as on any drive, so that many appends are in flight; what the rules decide of
//! a zone in memory is brought to the file by cutting it: at zero after a reset, at the write
//! pointer when a failed zone settles.
//!
//! Invariant: with nothing in flight, the file ends at the write pointer; or before it inside the
//! last block, for a file that was found so and has not been written since (its *tail*).

use crate::device::{Device, Drive, Medium, OpenNotes};
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::faults::Faults;
use crate::image::{not_a_file, take_lock};
use crate::open::{OpenOptions, under};
use crate::queue::{io_kind, io_text};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sys::file::Access;
use crate::sys::words::SharedWords;
use crate::zones::cells::words_needed;
use crate::zones::{Cells, Found, Keeping, Zones};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::format::geometry::DEFAULT_BLOCK_SIZE;
use zonal_core::units::{Blocks, Generation};

/// What a file's zone holds at most, in bytes: half of what ext4 takes with blocks of 4096 bytes,
/// and half of what the zone's word counts.
pub(crate) const CAPACITY_MAX: u64 = 8 << 40;

const BLOCK: u64 = DEFAULT_BLOCK_SIZE as u64;

/// A file that is open.
pub(crate) struct FileZone {
    disk: Disk,
    /// Where the file ended when it was opened, in bytes; zero once the zone was reset.
    tail: AtomicU64,
    /// Where the process's limit on files ends the zone, if it does.
    limit: Option<u64>,
}

/// Opens the file at `path`.
pub(crate) fn open(
    path: &Path,
    name: &str,
    options: &OpenOptions,
    faults: Option<&Arc<Faults>>,
) -> Result<Device> {
    open_file(path, name, options, faults).map_err(|error| error.on(name).during("open"))
}

fn open_file(
    path: &Path,
    name: &str,
    options: &OpenOptions,
    faults: Option<&Arc<Faults>>,
) -> Result<Device> {
    let access = if options.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let file = FileDisk::open(path, access).map_err(|error| open_error(error, path))?;
    let identity = file.identity().map_err(file_error)?;
    if !identity.is_regular() {
        return Err(not_a_file(&identity));
    }
    let mut limit = None;
    if !options.read_only {
        take_lock(&file, path, || None)?;
        limit = crate::sys::limits::file_length();
    }
    let disk = under(Disk::File(options.driven(file)?), faults);
    refuse_image(&disk)?;
    open_disk(disk, name, options, limit)
}

/// Whoever appends to an image as to a file, or resets it, has lost it.
fn refuse_image(disk: &Disk) -> Result<()> {
    const QCOW2: &[u8; 4] = b"QFI\xfb";
    let mut magic = [0; QCOW2.len()];
    if disk.len().map_err(file_error)? < magic.len() as u64 {
        return Ok(());
    }
    disk.read_exact_at(&mut magic, 0).map_err(file_error)?;
    if &magic == QCOW2 {
        let text = "it is a qcow2 image, not a file to append to; leave out `file:`";
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// Opens the file that is a disk, of which the process may make `limit` bytes.
pub(crate) fn open_disk(
    disk: Disk,
    name: &str,
    options: &OpenOptions,
    limit: Option<u64>,
) -> Result<Device> {
    let tail = disk.len().map_err(file_error)?;
    let end = tail.checked_next_multiple_of(BLOCK).filter(|&end| end <= CAPACITY_MAX);
    let end = end.ok_or_else(|| {
        let text = format!("it has {tail} bytes, and one zone {CAPACITY_MAX} at most");
        Error::new(ErrorKind::Unsupported, text)
    })?;
    let limit = limit.filter(|&limit| limit < CAPACITY_MAX);
    let geometry = geometry(end, limit)?;
    let warning = |limit| format!("this process's limit on files (ulimit -f) ends it at {limit}");
    let warnings = limit.map(warning).into_iter().collect();
    let notes = OpenNotes { warnings, ..OpenNotes::default() };
    let found = Found { wp: blocks(end), generation: Generation(0), condition: None };
    let keeping = if options.read_only { Keeping::Nothing } else { Keeping::Length };
    let cells = Cells::new(SharedWords::heap(words_needed(1)), 0, 1);
    let drive = Drive {
        name: name.to_owned(),
        zones: Arc::new(Zones::new(geometry, cells, keeping, |_| found)),
        read_only: options.read_only,
        medium: Medium::File(FileZone { disk, tail: AtomicU64::new(tail), limit }),
        notes,
    };
    drive.begin_plan(None)?;
    Ok(Device::new(drive))
}

/// One zone, which ends where the process's limit on files does.
fn geometry(end: u64, limit: Option<u64>) -> Result<Geometry> {
    let capacity = limit.map_or(CAPACITY_MAX, |limit| limit - limit % BLOCK).max(end);
    if capacity == 0 {
        let text = format!(
            "this process may not make files of {BLOCK} bytes, one block; raise its limit on files \
             (ulimit -f)"
        );
        return Err(Error::new(ErrorKind::NoSpace, text));
    }
    let zone_size = CAPACITY_MAX;
    let mut geometry =
        Geometry { zone_size, zone_capacity: capacity, ..Geometry::with_size(zone_size) };
    geometry.clamp();
    geometry.validate()?;
    Ok(geometry)
}

impl FileZone {
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where the process's limit on files ends the zone, if it does.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// The bytes below the write pointer that the file did not have when it was opened. Zeros,
    /// whether or not it has grown past them.
    pub(crate) fn gap(&self) -> Range<u64> {
        let tail = self.tail.load(Ordering::Acquire);
        tail..tail.next_multiple_of(BLOCK)
    }

    /// Cuts off what failed writes left from the write pointer `end` on, with no write in flight.
    pub(crate) fn cut(&self, end: u64) -> Result<()> {
        let gap = self.gap();
        let end = if end == gap.end { gap.start } else { end };
        self.cut_at(end)
    }

    /// Empties the file, with no write in flight.
    pub(crate) fn empty(&self) -> Result<()> {
        self.cut_at(0)?;
        self.tail.store(0, Ordering::Release);
        Ok(())
    }

    fn cut_at(&self, end: u64) -> Result<()> {
        let cut = || if self.disk.len()? > end { self.disk.set_len(end) } else { Ok(()) };
        cut().map_err(|error: io::Error| {
            let text = format!("cutting the file at byte {end}: {}", io_text(&error));
            Error::new(io_kind(&error), text).with_source(error)
        })
    }
}

impl Drop for FileZone {
    /// All queues are gone, and with them all I/O.
    fn drop(&mut self) {
        if let Err(error) = self.disk.release() {
            tracing::warn!("the lock on the file is not given back: {error}");
        }
    }
}

/// An offset in the zone, which is a multiple of the block.
fn blocks(bytes: u64) -> Blocks {
    Blocks(u32::try_from(bytes / BLOCK).unwrap_or(u32::MAX))
}

fn file_error(error: io::Error) -> Error {
    Error::new(io_kind(&error), "the file").with_source(error)
}

fn open_error(error: io::Error, path: &Path) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::NotFound => {
            let text = format!("make an empty one with: touch {}", path.display());
            return Error::new(ErrorKind::NotFound, text);
        }
        io::ErrorKind::IsADirectory => {
            return Error::new(ErrorKind::NotZoned, "it is a folder; name a file");
        }
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Io, "permission denied; see who may write the file".to_owned())
        }
        _ => (io_kind(&error), io_text(&error)),
    };
    Error::new(kind, text).with_source(error)
}
