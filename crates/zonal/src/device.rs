//! An opened drive, as its users and its queues hold it.

use crate::block::{Block, node_text, write_kind};
use crate::buffer::Arena;
use crate::engine::{Disk, Engine, EngineOptions, IoKind};
use crate::faults::{FaultPlan, Faults, Outage};
use crate::file_zone::FileZone;
use crate::handle::{HandleOptions, Pool};
use crate::image::{Image, Mapping};
use crate::memory::Memory;
use crate::nvme::Nvme;
use crate::queue::request::{Completion, Request};
use crate::queue::{Queue, QueueOptions, io_kind, io_text};
use crate::sync::atomic::Ordering;
use crate::view::{Sight, View};
use crate::zones::Zones;
use std::fmt;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::PathBuf;
use std::sync::Arc;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Refusal, ZoneOp, ZoneState};

/// Longest single write or read, in bytes: what one request of the kernel moves.
pub(crate) const TRANSFER_MAX: u64 = 1 << 30;

/// An opened drive: made by [`open`](crate::open), shared by all threads, cloned for nothing.
///
/// Dropping it is not closing it, unless nothing has changed since it was opened: only
/// [`Device::close`] flushes, and tells whether that went well.
#[derive(Clone)]
pub struct Device {
    // First, so that it is dropped first: with the last handle its threads end.
    pool: Arc<Pool>,
    drive: Arc<Drive>,
}

/// What is behind a [`Device`] and its queues.
pub(crate) struct Drive {
    pub(crate) name: String,
    pub(crate) zones: Arc<Zones>,
    pub(crate) read_only: bool,
    pub(crate) medium: Medium,
    pub(crate) notes: OpenNotes,
}

/// Where the bytes are.
#[allow(clippy::large_enum_variant, reason = "one a drive")]
pub(crate) enum Medium {
    Memory(Memory),
    Image(Image),
    File(FileZone),
    /// A drive in memory under a fault plan: memory behind an engine, so that there is something
    /// that can be late, short or gone.
    Planned(Disk),
    Block(Block),
    Nvme(Nvme),
}

/// What there was to say when the drive was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenNotes {
    pub(crate) session: Option<String>,
    pub(crate) recovered: Option<String>,
    pub(crate) warnings: Vec<String>,
}

/// Whether a zone has a write pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZoneKind {
    /// Written from start to end.
    Sequential,
    /// Written anywhere.
    Conventional,
}

/// One zone, as [`Device::report`] finds it (*Zone Management Receive command, Zone Descriptor*;
/// Linux `struct blk_zone`). All numbers are bytes, absolute on the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneInfo {
    /// Its number.
    pub zone: u32,
    /// Its type.
    pub kind: ZoneKind,
    /// Its state.
    pub state: ZoneState,
    /// Where it begins.
    pub start: u64,
    /// Where the next write goes, counting those in flight; `None` where there is no such place:
    /// conventional and offline zones.
    pub write_pointer: Option<u64>,
    /// How much of it can be written, in bytes.
    pub capacity: u64,
    /// From its start to the next zone's, in bytes.
    pub size: u64,
}

/// What the drive can do; asked of the handle one writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest append, in bytes (NVMe ZASL; Linux `zone_append_max_bytes`).
    pub append_bytes_max: u64,
    /// The largest read, write or ordered append, in bytes.
    pub transfer_bytes_max: u64,
    /// Lengths and offsets are multiples of this many bytes.
    pub block_size: u32,
    /// Zones open at a time, implicitly and explicitly; `None` is no limit (NVMe MOR + 1; Linux
    /// `max_open_zones`).
    pub max_open_zones: Option<u32>,
    /// Zones active at a time, open or closed; `None` is no limit (NVMe MAR + 1; Linux
    /// `max_active_zones`).
    pub max_active_zones: Option<u32>,
    /// What moves the bytes: `io_uring`, `threads`, `memory` or `sim`.
    pub engine: &'static str,
    /// Whether the page cache is passed by.
    pub direct_io: bool,
    /// Whether zones can be finished. A zone that is an ordinary file cannot.
    pub finish: bool,
    /// Threads that serve [`Operation`](crate::Operation)s, once one is asked for.
    pub io_threads: u32,
    /// Operations under way at a time; further ones wait for a place. Each thread has its share.
    pub operations_max: u32,
}

/// What is known of a drive, for people.
#[derive(Clone, Debug)]
pub struct Info {
    /// As its user named it.
    pub target: String,
    /// `memory`, `image`, `file`, `block device`, `zonefs` or `NVMe namespace` (by its commands).
    pub kind: &'static str,
    /// How an image's data lies in its file, `contiguous` or `scattered`; which zones the files of a zonefs
    /// are, in words.
    pub layout: Option<&'static str>,
    /// The bytes of an image's cluster.
    pub cluster_size: Option<u64>,
    /// The image's own number.
    pub image_id: Option<[u8; 16]>,
    /// How the image's last session stands.
    pub session: Option<String>,
    /// What was mended at open.
    pub recovered: Option<String>,
    /// What deserves attention.
    pub warnings: Vec<String>,
}

/// What a drive is a part of that is one zone's file of a mounted zonefs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartOf {
    /// The folder on which the zonefs is mounted, which is a drive too.
    pub folder: PathBuf,
    /// The file below it: `seq/3`.
    pub file: PathBuf,
    /// The numbers of its zones as those of the folder.
    pub zones: Range<u32>,
}

/// Counts of what is rare, since the drive was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Requests that waited at a zone's gate.
    pub parked: u64,
    /// Writes that failed.
    pub failed: u64,
    /// Writes that ended well in a failing zone.
    pub held: u64,
    /// Writes that failed on a real device without a trace, and were sent again: they had reached it
    /// out of order.
    pub repeated: u64,
    /// Times another program was found to have changed a zone of a real device: reset it, or written to
    /// it.
    pub foreign: u64,
    /// Reads and writes that the medium did in pieces.
    pub short: u64,
    /// Flush rounds; one may serve many flushes.
    pub flush_rounds: u64,
    /// Data syncs.
    pub data_syncs: u64,
    /// Durable writes of the zone table, each of one or more pages.
    pub table_writes: u64,
    /// Requests of handles whose bytes were not leased from [`Device::buffer`], so that the kernel
    /// did not know their memory.
    pub bounced: u64,
    /// Requests that ended after their future was dropped or had timed out.
    pub orphaned: u64,
    /// Bytes of buffers that the kernel knows at this moment, so that requests from them cost it less: of
    /// all open queues and I/O threads, each of which has its own count of memory that they share. Below
    /// depth times size where the process may not lock as much (`ulimit -l`).
    pub registered_bytes: u64,
}

impl Device {
    pub(crate) fn new(drive: Drive) -> Self {
        let drive = Arc::new(drive);
        let pool = Arc::new(Pool::new(drive.clone(), HandleOptions::default()));
        Self { pool, drive }
    }

    pub(crate) fn with_handles(mut self, options: HandleOptions) -> Self {
        self.pool = Arc::new(Pool::new(self.drive.clone(), options));
        self
    }

    pub(crate) fn drive(&self) -> &Arc<Drive> {
        &self.drive
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The drive's shape.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.drive.zones.geometry
    }

    /// The drive's name, as its user gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.drive.name
    }

    /// What the drive can do.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let (geometry, handles) = (self.geometry(), self.pool.options());
        let limit = |limit: u32| (limit > 0).then_some(limit);
        let (engine, direct_io) = match &self.drive.medium {
            Medium::Memory(_) => ("memory", false),
            Medium::Image(image) => image.disk().engine_name(),
            Medium::File(file) => file.disk().engine_name(),
            Medium::Planned(disk) => disk.engine_name(),
            Medium::Block(block) => block.disk().engine_name(),
            Medium::Nvme(_) => ("io_uring", true),
        };
        Limits {
            append_bytes_max: u64::from(geometry.max_append),
            transfer_bytes_max: TRANSFER_MAX,
            block_size: geometry.block_size,
            max_open_zones: limit(geometry.max_open_zones),
            max_active_zones: limit(geometry.max_active_zones),
            engine,
            direct_io,
            finish: self.drive.supports(ZoneOp::Finish).is_ok(),
            io_threads: handles.threads,
            operations_max: handles.threads * handles.depth,
        }
    }

    /// The zones in a range of numbers, in order. One that is left open at its end goes to the
    /// last zone.
    ///
    /// # Errors
    /// A range that is not on the drive.
    pub fn report(&self, zones: impl RangeBounds<u32>) -> Result<Vec<ZoneInfo>> {
        self.drive.report(zones)
    }

    /// Which life of a zone this is: counted up by each reset, and kept by an image, so that
    /// what was noted of an earlier life can be told from what is there now. `None` for a zone that
    /// the drive does not have.
    #[must_use]
    pub fn generation(&self, zone: u32) -> Option<u32> {
        let index = self.drive.zone(zone).ok()?;
        Some(self.drive.zones.cells().mark(index).generation.0)
    }

    /// What is known of the drive.
    #[must_use]
    pub fn info(&self) -> Info {
        let OpenNotes { session, recovered, mut warnings } = self.drive.notes.clone();
        let engine = self.drive.disk().and_then(Disk::engine_warning);
        warnings.extend(engine.map(str::to_owned));
        let (kind, image, layout) = match &self.drive.medium {
            Medium::Memory(_) | Medium::Planned(_) => ("memory", None, None),
            Medium::Image(image) => ("image", Some(image), Some(image.layout().0)),
            Medium::File(_) => ("file", None, None),
            Medium::Block(block) => (block.kind().0, None, block.kind().1),
            Medium::Nvme(_) => ("NVMe namespace", None, None),
        };
        Info {
            target: self.drive.name.clone(),
            kind,
            layout,
            cluster_size: image.map(|image| image.layout().1),
            image_id: image.and_then(Image::id),
            session,
            recovered,
            warnings,
        }
    }

    /// What the drive is a part of, if it is one zone's file of a mounted zonefs; of a whole drive nothing.
    #[must_use]
    pub fn part_of(&self) -> Option<&PartOf> {
        match &self.drive.medium {
            Medium::Block(block) => block.part(),
            Medium::Memory(_)
            | Medium::Planned(_)
            | Medium::Image(_)
            | Medium::File(_)
            | Medium::Nvme(_) => None,
        }
    }

    /// The plan by which the drive fails, if it has one.
    #[must_use]
    pub fn faults(&self) -> Option<&FaultPlan> {
        self.drive.disk()?.faults().map(Faults::plan)
    }

    /// Counts of what is rare.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let counts = &self.drive.zones.counts;
        let get = |count: &crate::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        Metrics {
            parked: get(&counts.parked),
            failed: get(&counts.failed),
            held: get(&counts.held),
            repeated: get(&counts.repeated),
            foreign: get(&counts.foreign),
            short: get(&counts.short),
            flush_rounds: get(&counts.flush_rounds),
            data_syncs: get(&counts.data_syncs),
            table_writes: get(&counts.table_writes),
            bounced: get(&counts.bounced),
            orphaned: get(&counts.orphaned),
            registered_bytes: get(&counts.registered_bytes),
        }
    }

    /// How many zones are open and active, as the limits count them.
    #[must_use]
    pub fn zones_in_use(&self) -> (u32, u32) {
        self.drive.zones.counted()
    }

    /// Zone and 512-byte sector inside it of a byte offset, as zonefs and the kernel's zone
    /// append count.
    #[must_use]
    pub fn zone_and_sector(&self, offset: u64) -> (u32, u64) {
        let zone = self.geometry().zone_of(offset);
        (zone.0, (offset - self.geometry().start_of(zone)) / 512)
    }

    /// Opens a queue for the calling thread.
    ///
    /// # Errors
    /// A depth out of range, too many queues, or a kernel that gives no ring.
    pub fn queue(&self, options: &QueueOptions) -> Result<Queue> {
        Queue::new(&self.drive, options)
    }

    /// Makes a sequential zone read-only or offline, as worn-out media do, so that software can
    /// be tested against it. Durable with the next flush.
    ///
    /// # Errors
    /// A zone that is not there or has writes in flight, any other state than these two, or more
    /// such zones than an image can note (240). A real device is not asked to pretend
    /// (`Unsupported`).
    pub fn set_condition(&self, zone: u32, condition: ZoneState) -> Result<()> {
        let index = self.drive.zone(zone)?;
        self.drive.writable()?;
        let conventional = self.geometry().is_conventional(index);
        if conventional || !matches!(condition, ZoneState::ReadOnly | ZoneState::Offline) {
            let text = format!("a zone cannot be made {condition}; read-only or offline can be");
            return Err(Error::new(ErrorKind::InvalidInput, text).in_zone(zone));
        }
        if self.drive.is_device() {
            let text = "the device itself says which of its zones are read-only or offline";
            return Err(Error::new(ErrorKind::Unsupported, text).in_zone(zone));
        }
        self.drive.zones.set_condition(index, condition)
    }

    /// Waits for every operation under way, those included whose futures were dropped, flushes
    /// the drive, and marks it as closed cleanly. All queues must have been dropped. Other handles
    /// of the drive find it closed.
    ///
    /// # Errors
    /// Queues that are open, a call by a waker on one of the drive's own I/O threads, or a flush that
    /// failed; what was acknowledged and not flushed is then as after a crash.
    pub fn close(self) -> Result<()> {
        let _span = tracing::debug_span!("close", drive = self.name()).entered();
        if self.pool.is_called_by_its_own() {
            let text = "a waker runs on one of the drive's own I/O threads, which cannot wait for \
                        itself; close the drive on another thread";
            return Err(Error::new(ErrorKind::InvalidInput, text).during("close").on(self.name()));
        }
        // One that came second and failed would open again what the first one had closed.
        let mut closed = self.pool.closing();
        if *closed {
            return Ok(());
        }
        self.pool.stop();
        self.close_drive().inspect_err(|_| self.pool.resume())?;
        *closed = true;
        Ok(())
    }

    fn close_drive(&self) -> Result<()> {
        if self.drive.read_only {
            return Ok(());
        }
        self.drive.zones.begin_close().map_err(|open| {
            let text = format!("{open} queues are open; drop them first");
            Error::new(ErrorKind::InUse, text).during("close").on(self.name())
        })?;
        if let Err(error) = self.flush_alone() {
            self.drive.zones.cancel_close();
            return Err(error);
        }
        match &self.drive.medium {
            Medium::Memory(_)
            | Medium::File(_)
            | Medium::Planned(_)
            | Medium::Block(_)
            | Medium::Nvme(_) => Ok(()),
            Medium::Image(image) => image.close(&self.drive.zones).map_err(|e| e.on(self.name())),
        }
    }

    fn flush_alone(&self) -> Result<()> {
        let options = QueueOptions { depth: 1, buffer_bytes: 0, ..QueueOptions::default() };
        let mut queue = self.queue(&options)?;
        if queue.push(Request::flush()).is_ok() {
            queue.submit_and_wait(1)?;
        }
        match queue.next_completion() {
            Some(Completion { result: Err(error), .. }) => Err(error),
            Some(_) | None => Ok(()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.drive.name).finish_non_exhaustive()
    }
}

impl Drop for Drive {
    /// A session in which nothing has changed is as good as closed. One that was closed, or of which
    /// that failed, is left as it is.
    fn drop(&mut self) {
        if let Medium::Image(image) = &self.medium
            && !self.read_only
            && !self.zones.is_closed()
            && self.zones.is_unchanged()
            && let Err(error) = image.close(&self.zones)
        {
            tracing::warn!("{}: not marked as closed: {error}", self.name);
        }
    }
}

impl Drive {
    #[inline]
    pub(crate) fn image(&self) -> Option<&Image> {
        match &self.medium {
            Medium::Image(image) => Some(image),
            Medium::Memory(_)
            | Medium::File(_)
            | Medium::Planned(_)
            | Medium::Block(_)
            | Medium::Nvme(_) => None,
        }
    }

    #[inline]
    pub(crate) fn block(&self) -> Option<&Block> {
        match &self.medium {
            Medium::Block(block) => Some(block),
            Medium::Memory(_)
            | Medium::Image(_)
            | Medium::File(_)
            | Medium::Planned(_)
            | Medium::Nvme(_) => None,
        }
    }

    /// Whether the zones are a device's own, and its reports hold.
    pub(crate) fn is_device(&self) -> bool {
        match &self.medium {
            Medium::Block(_) | Medium::Nvme(_) => true,
            Medium::Memory(_) | Medium::Image(_) | Medium::File(_) | Medium::Planned(_) => false,
        }
    }

    /// How many bytes one command moves at most, where there are commands.
    #[inline]
    pub(crate) fn command_max(&self) -> usize {
        match &self.medium {
            Medium::Nvme(nvme) => usize::try_from(nvme.transfer()).unwrap_or(usize::MAX),
            Medium::Memory(_)
            | Medium::Image(_)
            | Medium::File(_)
            | Medium::Planned(_)
            | Medium::Block(_) => usize::MAX,
        }
    }

    /// Whether a single write can be durable on completion, with no sync after it.
    pub(crate) fn has_durable_commands(&self) -> bool {
        match &self.medium {
            Medium::Nvme(_) => true,
            Medium::Memory(_)
            | Medium::Image(_)
            | Medium::File(_)
            | Medium::Planned(_)
            | Medium::Block(_) => false,
        }
    }

    /// Whether its bytes are moved by an engine, and not copied in memory.
    pub(crate) fn has_engine(&self) -> bool {
        !matches!(self.medium, Medium::Memory(_))
    }

    /// What an error of the medium says, and what to do next.
    pub(crate) fn io_text(&self, error: &io::Error) -> String {
        match &self.medium {
            Medium::Block(block) => block.text(error),
            Medium::Nvme(_) => node_text(error).unwrap_or_else(|| io_text(error)),
            Medium::Memory(_) | Medium::Image(_) | Medium::File(_) | Medium::Planned(_) => {
                io_text(error)
            }
        }
    }

    /// Which kind of error that is.
    pub(crate) fn io_kind(&self, error: &io::Error) -> ErrorKind {
        match &self.medium {
            Medium::Block(_) | Medium::Nvme(_) => write_kind(error),
            Medium::Memory(_) | Medium::Image(_) | Medium::File(_) | Medium::Planned(_) => {
                io_kind(error)
            }
        }
    }

    /// What the drive's bytes are on; none for one in memory, or one that takes commands.
    #[inline]
    pub(crate) fn disk(&self) -> Option<&Disk> {
        match &self.medium {
            Medium::Memory(_) | Medium::Nvme(_) => None,
            Medium::Image(image) => Some(image.disk()),
            Medium::File(file) => Some(file.disk()),
            Medium::Planned(disk) => Some(disk),
            Medium::Block(block) => Some(block.disk()),
        }
    }

    /// Whether what is durable on it is there when it is opened again.
    pub(crate) fn outlives_its_handles(&self) -> bool {
        match &self.medium {
            Medium::Memory(_) | Medium::Planned(_) => false,
            Medium::Image(_) | Medium::File(_) | Medium::Block(_) | Medium::Nvme(_) => true,
        }
    }

    /// Where in the file the drive's bytes are; nowhere for one without.
    #[inline]
    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        match &self.medium {
            Medium::Memory(_) | Medium::Nvme(_) => None,
            Medium::Image(image) => Some(image.mapping()),
            Medium::File(_) | Medium::Planned(_) | Medium::Block(_) => Some(&Mapping::IDENTITY),
        }
    }

    /// The ring of a queue, for media that need one.
    pub(crate) fn engine(
        &self,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Option<Engine>> {
        if let Medium::Nvme(nvme) = &self.medium {
            return nvme.engine(options, arena).map(Some);
        }
        self.disk().map(|disk| disk.engine(options, arena)).transpose()
    }

    /// Begins its fault plan, if it has one: the drive is open.
    ///
    /// # Errors
    /// A plan for zones that cannot be read-only or offline.
    pub(crate) fn begin_plan(&self, outage: Option<Box<dyn Outage>>) -> Result<()> {
        let Some((disk, faults)) = self.disk().and_then(|disk| Some((disk, disk.faults()?))) else {
            return Ok(());
        };
        for zone in faults.zones() {
            if self.zones.geometry.is_conventional(self.zone(zone)?) {
                let text = "its fault plan names a conventional zone; a sequential one can be \
                            read-only or offline";
                return Err(Error::new(ErrorKind::InvalidInput, text).in_zone(zone));
            }
        }
        let end = self.zones.geometry.size;
        let grows = matches!(self.medium, Medium::File(_));
        if let Some(bad) = faults.bad().find(|bad| bad.end > end && !grows) {
            let (from, to) = (bad.start, bad.end);
            let text = format!(
                "its fault plan names the bytes {from}..{to}, and the drive has {end}; name some \
                 that it has"
            );
            return Err(Error::new(ErrorKind::OutOfRange, text));
        }
        for fault in faults.zones_at_open() {
            if self.zones.cells().load(ZoneIndex(fault.zone)).state() == fault.condition {
                continue;
            }
            self.zones.set_condition(ZoneIndex(fault.zone), fault.condition)?;
        }
        let length = match &self.medium {
            Medium::File(_) => Some(disk.len().map_err(|error| {
                Error::new(ErrorKind::Io, "the length of the file").with_source(error)
            })?),
            Medium::Memory(_)
            | Medium::Image(_)
            | Medium::Planned(_)
            | Medium::Block(_)
            | Medium::Nvme(_) => None,
        };
        faults.arm(outage, length);
        Ok(())
    }

    /// The zone of that number.
    pub(crate) fn zone(&self, zone: u32) -> Result<ZoneIndex> {
        let zones = self.zones.count();
        if zone < zones {
            return Ok(ZoneIndex(zone));
        }
        let text = format!("the drive has {zones} zones, 0 to {}", zones - 1);
        Err(Error::new(ErrorKind::OutOfRange, text).in_zone(zone))
    }

    /// Whether the drive can do `op` to a zone at all.
    pub(crate) fn supports(&self, op: ZoneOp) -> Result<()> {
        match (&self.medium, op) {
            (Medium::File(_), ZoneOp::Finish) => {
                let text = "a file has no end to be filled up to; make it read-only to keep it \
                            from growing";
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            (_, ZoneOp::Finish | ZoneOp::Open | ZoneOp::Close | ZoneOp::Reset) => Ok(()),
        }
    }

    /// The error of a write that its zone's rules refuse.
    pub(crate) fn refused(&self, zone: ZoneIndex, refusal: Refusal) -> Error {
        let limit = match &self.medium {
            Medium::File(file) => file.limit(),
            Medium::Memory(_)
            | Medium::Image(_)
            | Medium::Planned(_)
            | Medium::Block(_)
            | Medium::Nvme(_) => None,
        };
        let text = match (refusal, limit) {
            (Refusal::NotAtWritePointer { wp }, _) => {
                format!("the zone's write pointer is {}", self.zones.offset_of(zone, wp))
            }
            (Refusal::Full | Refusal::BeyondCapacity { .. }, Some(limit)) => format!(
                "this process's limit on files ends it at {limit}; raise it (ulimit -f), and open \
                 it again"
            ),
            (refusal, _) => return refusal.into(),
        };
        Error::new(refusal.kind(), text)
    }

    /// Whether the drive takes writes at all.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.read_only {
            let text = "it was opened to be read; open it for writing";
            return Err(Error::new(ErrorKind::DeviceReadOnly, text));
        }
        if self.zones.is_latched() {
            return Err(self.zones.latched_error());
        }
        Ok(())
    }

    /// The blocks of a write of so many bytes to a zone.
    #[inline]
    pub(crate) fn blocks(&self, zone: u32, length: u64) -> Result<Blocks> {
        self.zone(zone)?;
        if self.read_only {
            self.writable()?;
        }
        self.whole_blocks(length)
    }

    #[inline]
    fn whole_blocks(&self, length: u64) -> Result<Blocks> {
        let block = self.zones.block_size();
        if length == 0 || length & (block - 1) != 0 || length > TRANSFER_MAX {
            let text = format!(
                "the length is not a multiple of {block} bytes between {block} and {TRANSFER_MAX}"
            );
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        #[allow(clippy::cast_possible_truncation)] // at most TRANSFER_MAX
        Ok(Blocks((length >> block.trailing_zeros()) as u32))
    }

    /// The extent of a plain write, inside one zone.
    pub(crate) fn place(&self, offset: u64, length: u64) -> Result<Extent> {
        let geometry = &self.zones.geometry;
        let block = self.zones.block_size();
        let zone = geometry.zone_of(offset);
        // The last zone may end before the others would.
        if offset >= geometry.size {
            let text = format!("the drive ends at {}", geometry.size);
            return Err(Error::new(ErrorKind::OutOfRange, text));
        }
        let blocks = self.blocks(zone.0, length)?;
        let from = offset - geometry.start_of(zone);
        if !from.is_multiple_of(block) {
            let text = format!("the offset is not a multiple of {block}");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let start = u32::try_from(from / block).unwrap_or(u32::MAX);
        if start.checked_add(blocks.0).is_none() {
            return Err(Error::new(ErrorKind::BeyondCapacity, "").in_zone(zone.0));
        }
        Ok(Extent::new(Blocks(start), blocks))
    }

    /// Takes the view of a read, and says what of it has to come from the medium.
    pub(crate) fn look(&self, offset: u64, length: u64, view: &mut View) -> Result<Sight> {
        let (block, size) = (self.zones.block_size(), self.zones.geometry.size);
        self.whole_blocks(length)?;
        if !offset.is_multiple_of(block) {
            let text = format!("the offset is not a multiple of {block}");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let text = format!("the drive ends at {size}");
            return Err(Error::new(ErrorKind::OutOfRange, text));
        }
        view.take(&self.zones, offset, length)?;
        let whole = match &self.medium {
            Medium::Memory(_) | Medium::Image(_) | Medium::Planned(_) => Sight::Whole,
            Medium::File(file) => {
                view.hide(offset, length, &file.gap());
                Sight::Whole
            }
            // Some devices refuse to read above a write pointer, or across zones.
            Medium::Block(_) | Medium::Nvme(_) => Sight::Parts,
        };
        Ok(if view.is_blank(length) { Sight::Nothing } else { whole })
    }

    /// Does a slot's write or read, on a drive in memory. Returns its length.
    #[inline]
    pub(crate) fn copy_memory(
        &self,
        kind: IoKind,
        queue: u32,
        offset: u64,
        bytes: &mut [u8],
        view: &View,
    ) -> u32 {
        if let Medium::Memory(memory) = &self.medium {
            memory.copy(&self.zones, kind, queue, offset, bytes, view);
        }
        #[allow(clippy::cast_possible_truncation)] // at most TRANSFER_MAX
        return bytes.len() as u32;
    }

    /// Zeroes a range, on a drive in memory.
    pub(crate) fn zero_memory(&self, offset: u64, length: u64) {
        if let Medium::Memory(memory) = &self.medium {
            memory.zero(offset, length);
        }
    }

    /// Ends what is left of the earlier life of a zone that was just reset and takes no data yet:
    /// reads that copy from it, on a drive in memory; the bytes, in a file.
    ///
    /// # Errors
    /// A file that cannot be emptied. The zone is read-only then: what it holds is of a life that
    /// is over, and must not be taken for new data.
    pub(crate) fn end_life(&self, zone: ZoneIndex) -> Result<()> {
        match &self.medium {
            Medium::Memory(memory) => memory.await_readers(zone),
            // A device's zone was emptied before this.
            Medium::Image(_) | Medium::Planned(_) | Medium::Block(_) | Medium::Nvme(_) => {}
            Medium::File(file) => {
                if let Err(error) = file.empty() {
                    self.zones.set_condition(zone, ZoneState::ReadOnly)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes away what failed writes left behind a settling zone's write pointer, in a file.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn cut(&self, zone: ZoneIndex, wp: Blocks) -> Result<()> {
        match &self.medium {
            Medium::File(file) => file.cut(self.zones.offset_of(zone, wp)),
            Medium::Memory(_)
            | Medium::Image(_)
            | Medium::Planned(_)
            | Medium::Block(_)
            | Medium::Nvme(_) => Ok(()),
        }
    }

    pub(crate) fn report(&self, zones: impl RangeBounds<u32>) -> Result<Vec<ZoneInfo>> {
        let count = self.zones.geometry.zones();
        let first = match zones.start_bound() {
            Bound::Included(&first) => u64::from(first),
            Bound::Excluded(&first) => u64::from(first) + 1,
            Bound::Unbounded => 0,
        };
        let end = match zones.end_bound() {
            Bound::Included(&last) => u64::from(last) + 1,
            Bound::Excluded(&end) => u64::from(end),
            Bound::Unbounded => u64::from(count),
        };
        if first > end || end > u64::from(count) {
            let text = format!("zones {first} to {end} are asked for, and the drive has {count}");
            return Err(Error::new(ErrorKind::OutOfRange, text).during("report").on(&*self.name));
        }
        #[allow(clippy::cast_possible_truncation)] // at most the number of zones
        Ok((first as u32..end as u32).map(|zone| self.zone_info(ZoneIndex(zone))).collect())
    }

    pub(crate) fn zone_info(&self, zone: ZoneIndex) -> ZoneInfo {
        let geometry = &self.zones.geometry;
        let word = self.zones.cells().load(zone);
        let state = word.state();
        let kind = if geometry.is_conventional(zone) {
            ZoneKind::Conventional
        } else {
            ZoneKind::Sequential
        };
        ZoneInfo {
            zone: zone.0,
            kind,
            state,
            start: geometry.start_of(zone),
            write_pointer: match state {
                ZoneState::NotWp | ZoneState::Offline => None,
                ZoneState::Empty
                | ZoneState::ImplicitlyOpen
                | ZoneState::ExplicitlyOpen
                | ZoneState::Closed
                | ZoneState::ReadOnly
                | ZoneState::Full => Some(self.zones.offset_of(zone, word.wp())),
            },
            capacity: geometry.capacity_of(zone),
            size: geometry.size_of(zone),
        }
    }
}
