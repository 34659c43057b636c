//! What is done to the files of a mount, in the words of zonefs: its rules on how a file is read, written
//! and cut, and what becomes of a file when the drive fails (Linux, `Documentation/filesystems/zonefs.rst`).
//!
//! ```text
//! FUSE ─► session ─► here: may zonefs do it? ─► queue ─► the drive's zone rules
//! ```
//!
//! Invariants:
//! * A file's size is what was acknowledged of its zone, not where its write pointer is: it moves when a
//!   write has ended, so that nobody reads, and the kernel caches, what is still under way.
//! * The kernel sends one extending write of a file at a time; two would be refused by the drive itself.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{Errno, Notifier, OpenAccMode, OpenFlags};
use rustix::fs::OFlags;
use zonal::{Device, Error, Request, ZoneInfo, ZoneKind, ZoneState};

use super::{
    MountOptions, OnError,
    closing::Closing,
    errno::{errno, is_failure},
    queue,
    tree::{File, Tree},
};

type Answer<T> = Result<T, Errno>;
type Writers<'a> = MutexGuard<'a, HashMap<u32, u32>>;

/// How long FUSE may take from saying that a descriptor is closed to saying that its file is.
const RELEASE_MAX: Duration = Duration::from_millis(100);

/// What may be done with a file, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Access {
    Full = 0,
    ReadOnly = 1,
    Offline = 2,
}

impl Access {
    fn of(state: ZoneState) -> Self {
        match state {
            ZoneState::Offline => Self::Offline,
            ZoneState::ReadOnly => Self::ReadOnly,
            ZoneState::Empty
            | ZoneState::ImplicitlyOpen
            | ZoneState::ExplicitlyOpen
            | ZoneState::Closed
            | ZoneState::Full
            | ZoneState::NotWp => Self::Full,
        }
    }

    /// The permissions that it leaves.
    pub(super) const fn mask(self) -> u16 {
        match self {
            Self::Full => 0o777,
            Self::ReadOnly => 0o555,
            Self::Offline => 0,
        }
    }
}

/// What is kept of each zone.
#[derive(Debug)]
struct Cell {
    /// The file's size, of a sequential zone.
    size: AtomicU64,
    /// When it last changed, in nanoseconds since 1970.
    changed_ns: AtomicU64,
    access: AtomicU8,
}

/// Owner and permissions of a file for which somebody set them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u16,
}

/// All files of a mount.
#[derive(Debug)]
pub(super) struct Files {
    device: Device,
    options: MountOptions,
    pub(super) tree: Tree,
    cells: Box<[Cell]>,
    owners: Mutex<HashMap<u32, Owner>>,
    /// How often each sequential file is open to be written.
    writers: Mutex<HashMap<u32, u32>>,
    /// A file has one writer less.
    released: Condvar,
    /// When a writer was last said to close its file, in nanoseconds since 1970.
    closing_ns: AtomicU64,
    /// With `buffered`: the bytes of each file that are not yet a whole block.
    tails: Mutex<HashMap<u32, Arc<Mutex<Vec<u8>>>>>,
    /// Held while a conventional block is read, changed in part and written.
    partial: Mutex<()>,
    /// After a failure, by `errors=remount-ro`.
    stopped: AtomicBool,
    /// The way to the kernel, once there is one.
    notifier: OnceLock<Notifier>,
}

impl Files {
    /// The files of a drive, as its zones are.
    pub(super) fn new(device: Device, options: MountOptions) -> zonal::Result<Self> {
        let now = nanoseconds(SystemTime::now());
        let zones = device.report(..)?;
        let cells = zones.iter().map(|zone| Cell {
            size: AtomicU64::new(written(zone)),
            changed_ns: AtomicU64::new(now),
            access: AtomicU8::new(Access::of(zone.state) as u8),
        });
        Ok(Self {
            cells: cells.collect(),
            tree: Tree::new(device.geometry(), options.aggregate_conventional),
            device,
            options,
            owners: Mutex::default(),
            writers: Mutex::default(),
            released: Condvar::new(),
            closing_ns: AtomicU64::new(0),
            tails: Mutex::default(),
            partial: Mutex::default(),
            stopped: AtomicBool::new(false),
            notifier: OnceLock::new(),
        })
    }

    /// How the kernel is told of what it did not do itself.
    pub(super) fn tell(&self, notifier: Notifier) {
        // It is told once.
        let _ = self.notifier.set(notifier);
    }

    pub(super) fn options(&self) -> &MountOptions {
        &self.options
    }

    /// The unit of direct reads and writes, in bytes.
    pub(super) fn block_size(&self) -> u32 {
        self.device.geometry().block_size
    }

    fn cell(&self, file: &File) -> &Cell {
        &self.cells[file.zone as usize]
    }

    /// What may be done with a file.
    pub(super) fn access(&self, file: &File) -> Access {
        match self.cell(file).access.load(Ordering::Relaxed) {
            0 => Access::Full,
            1 => Access::ReadOnly,
            _ => Access::Offline,
        }
    }

    /// A file's size in bytes.
    pub(super) fn size(&self, file: &File) -> u64 {
        match (file.kind, self.access(file)) {
            (_, Access::Offline) => 0,
            (ZoneKind::Conventional, _) => file.capacity,
            (ZoneKind::Sequential, _) => {
                let tail = self.tail(file);
                let tail = tail.as_ref().map(|tail| lock(tail));
                let written = self.cell(file).size.load(Ordering::Acquire);
                written + tail.map_or(0, |tail| tail.len() as u64)
            }
        }
    }

    /// When a file last changed.
    pub(super) fn changed(&self, file: &File) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.cell(file).changed_ns.load(Ordering::Relaxed))
    }

    /// Owner and permissions of a file.
    pub(super) fn owner(&self, file: &File) -> Owner {
        let MountOptions { uid, gid, mode, .. } = self.options;
        lock(&self.owners).get(&file.zone).copied().unwrap_or(Owner { uid, gid, mode })
    }

    /// Sets them, for as long as the mount lives.
    pub(super) fn set_owner(&self, file: &File, owner: Owner) {
        lock(&self.owners).insert(file.zone, owner);
    }

    /// Blocks of `block_size` there are, and how many of them can still be written.
    pub(super) fn blocks(&self) -> (u64, u64) {
        let (mut all, mut free) = (0, 0);
        for file in self.tree.all_files() {
            all += file.capacity;
            free += file.capacity - self.size(&file).min(file.capacity);
        }
        let block = u64::from(self.block_size());
        (all / block, free / block)
    }

    /// A file is opened. With `explicit-open` the first to write it opens its zone.
    pub(super) fn open(&self, file: &File, flags: OpenFlags) -> Answer<()> {
        if flags.acc_mode() == OpenAccMode::O_RDONLY {
            return Ok(());
        }
        self.may_change(file, Errno::EROFS)?;
        let mut writers = lock(&self.writers);
        loop {
            let is_first = !writers.contains_key(&file.zone);
            if !is_first || !self.opens_zone(file) || self.size(file) >= file.capacity {
                break;
            }
            match self.manage(file, Request::open(file.zone)) {
                Ok(()) => break,
                Err(errno @ (Errno::EBUSY | Errno::EOVERFLOW)) => {
                    writers = self.one_less(writers).ok_or(errno)?;
                }
                Err(errno) => return Err(errno),
            }
        }
        *writers.entry(file.zone).or_default() += 1;
        Ok(())
    }

    /// Waits until a file has one writer less, if one has been closed just now: whoever closed it has gone on
    /// before this end is told ([`release`](Self::release)), and may count on the zone that it gave back.
    fn one_less<'a>(&self, writers: Writers<'a>) -> Option<Writers<'a>> {
        let closed = Duration::from_nanos(self.closing_ns.load(Ordering::Relaxed));
        let left = (UNIX_EPOCH + closed + RELEASE_MAX).duration_since(SystemTime::now()).ok()?;
        let waited = self.released.wait_timeout(writers, left.min(RELEASE_MAX));
        let (writers, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then_some(writers)
    }

    /// A descriptor of a file is closed. With the last of its last writer what is no whole block yet is made
    /// one, as long as somebody is there to hear that it cannot be.
    ///
    /// # Errors
    /// `EIO`: it cannot be. What was said to be lost is dropped.
    pub(super) fn close(&self, file: &File, closing: Closing) -> Answer<()> {
        if closing.opener == 0 {
            return Ok(());
        }
        self.closing_ns.store(nanoseconds(SystemTime::now()), Ordering::Relaxed);
        let Some(tail) = self.tail(file).filter(|tail| !lock(tail).is_empty()) else {
            return Ok(());
        };
        let is_alone = lock(&self.writers).get(&file.zone) == Some(&1);
        if !is_alone || !closing.is_last(&self.tree.sequential_name(file)) {
            return Ok(());
        }
        self.pad(file).map_err(|errno| {
            lock(&tail).clear();
            if self.holds_places(file) {
                self.close_zone(file);
            }
            let error = io::Error::from_raw_os_error(errno.code());
            tracing::warn!("{}: its last bytes are lost: {error}", self.named(file));
            Errno::EIO
        })
    }

    /// A file is closed for good. The last that could write it closes its zone, and what is no whole block
    /// yet is made one.
    pub(super) fn release(&self, file: &File, flags: OpenFlags) {
        if flags.acc_mode() == OpenAccMode::O_RDONLY {
            return;
        }
        let mut writers = lock(&self.writers);
        if let Some(count) = writers.get_mut(&file.zone).filter(|count| **count > 1) {
            *count -= 1;
            return;
        }
        writers.remove(&file.zone);
        if let Err(error) = self.pad(file) {
            let error = io::Error::from_raw_os_error(error.code());
            tracing::warn!("{}: its last bytes are not written: {error}", self.named(file));
        }
        if self.opens_zone(file) {
            self.close_zone(file);
        }
        self.released.notify_all();
    }

    fn opens_zone(&self, file: &File) -> bool {
        self.options.explicit_open && file.kind == ZoneKind::Sequential
    }

    /// Reads what there is of `length` bytes, in pieces.
    pub(super) fn read(
        &self,
        file: &File,
        offset: u64,
        length: u32,
        flags: OpenFlags,
        mut take: impl FnMut(&[u8]),
    ) -> Answer<()> {
        if self.access(file) == Access::Offline {
            return Err(Errno::EPERM);
        }
        let tail = self.tail(file);
        let tail = tail.as_ref().map(|tail| lock(tail));
        let written = match file.kind {
            ZoneKind::Conventional => file.capacity,
            ZoneKind::Sequential => self.cell(file).size.load(Ordering::Acquire),
        };
        let size = written + tail.as_ref().map_or(0, |tail| tail.len() as u64);
        let end = size.min(offset.saturating_add(length.into()));
        if offset >= end {
            return Ok(());
        }
        if has(flags, OFlags::DIRECT) && !self.is_aligned(offset, end - offset) {
            return Err(Errno::EINVAL);
        }
        if offset < written {
            let bytes = file.start + offset..file.start + end.min(written);
            queue::read(&self.device, bytes, &mut take)
                .map_err(|error| self.ended(file, &error))?;
        }
        if let Some(tail) = tail.filter(|_| end > written) {
            let from = offset.max(written) - written;
            take(tail.get(place(from)?..place(end - written)?).unwrap_or_default());
        }
        Ok(())
    }

    /// Writes, as zonefs lets one write; says how many bytes.
    pub(super) fn write(
        &self,
        file: &File,
        offset: u64,
        data: &[u8],
        flags: OpenFlags,
    ) -> Answer<usize> {
        self.may_change(file, Errno::EPERM)?;
        if data.is_empty() {
            return Ok(0);
        }
        let count = match file.kind {
            ZoneKind::Conventional => self.write_anywhere(file, offset, data, flags)?,
            ZoneKind::Sequential if self.options.buffered => {
                self.write_through_tail(file, offset, data, flags)?
            }
            ZoneKind::Sequential => self.write_at_end(file, offset, data, flags)?,
        };
        self.touch(file);
        if has(flags, OFlags::SYNC | OFlags::DSYNC) {
            // Of a file past its cache the kernel asks for no sync.
            self.sync(Some(file))?;
        }
        Ok(count)
    }

    /// Whole blocks at the file's end, past the page cache (`zonefs_write_checks`).
    fn write_at_end(
        &self,
        file: &File,
        offset: u64,
        data: &[u8],
        flags: OpenFlags,
    ) -> Answer<usize> {
        if !has(flags, OFlags::DIRECT) {
            return Err(Errno::EIO);
        }
        let size = self.size(file);
        let offset = if has(flags, OFlags::APPEND) { size } else { offset };
        let count = room(file, offset, data)?;
        if !self.is_aligned(offset, count as u64) || offset != size {
            return Err(Errno::EINVAL);
        }
        self.extend(file, offset, &data[..count])?;
        Ok(count)
    }

    /// Any bytes at the file's end: whole blocks at once, the rest when its block is full or has to be.
    fn write_through_tail(
        &self,
        file: &File,
        offset: u64,
        data: &[u8],
        flags: OpenFlags,
    ) -> Answer<usize> {
        let tail = lock(&self.tails).entry(file.zone).or_default().clone();
        let mut tail = lock(&tail);
        let written = self.cell(file).size.load(Ordering::Acquire);
        let size = written + tail.len() as u64;
        let offset = if has(flags, OFlags::APPEND) { size } else { offset };
        let count = room(file, offset, data)?;
        if offset != size {
            return Err(Errno::EINVAL);
        }
        if size == 0 && count < self.block_size() as usize {
            self.hold_place(file)?;
        }
        let before = tail.len();
        tail.extend_from_slice(&data[..count]);
        let whole = tail.len() - tail.len() % self.block_size() as usize;
        if whole > 0 {
            if let Err(error) = self.extend(file, written, &tail[..whole]) {
                tail.truncate(before);
                return Err(error);
            }
            tail.drain(..whole);
        }
        Ok(count)
    }

    /// What is no block yet takes an empty zone's place among the active ones, so that who writes it hears that
    /// there is none. To hold it is to hold the zone open; where fewer may be open than active, which would keep
    /// others from writing, it is only seen whether there is one.
    fn hold_place(&self, file: &File) -> Answer<()> {
        if !self.holds_places(file) {
            return Ok(());
        }
        self.manage(file, Request::open(file.zone))?;
        let limits = self.device.limits();
        if limits.max_open_zones.is_some_and(|open| Some(open) < limits.max_active_zones) {
            self.close_zone(file);
        }
        Ok(())
    }

    /// Whether a zone is opened for what is no block yet; under `explicit-open` it is open anyway.
    fn holds_places(&self, file: &File) -> bool {
        self.options.buffered
            && !self.opens_zone(file)
            && self.device.limits().max_active_zones.is_some()
    }

    /// Closes a zone that was opened for its file. One to which nothing was written is reset: some drives count
    /// it as active when it is closed (zonefs, `zonefs_zone_mgmt`).
    fn close_zone(&self, file: &File) {
        let Some(zone) = self.report(file) else { return };
        if zone.state == ZoneState::ExplicitlyOpen {
            let request = match zone.write_pointer {
                Some(wp) if wp == zone.start => Request::reset(file.zone),
                _ => Request::close(file.zone),
            };
            // Nobody is there to be told; the zone only stays open.
            let _ = self.manage(file, request);
        }
    }

    /// At the mount's end: what could not be written is dropped, and holds no place any more.
    pub(super) fn drop_tails(&self) {
        for file in self.tree.all_files() {
            let Some(tail) = self.tail(&file).filter(|tail| !lock(tail).is_empty()) else {
                continue;
            };
            lock(&tail).clear();
            self.close_zone(&file);
        }
    }

    /// Fills the block of a file's last bytes with zeros, and writes it.
    fn pad(&self, file: &File) -> Answer<()> {
        let Some(tail) = self.tail(file) else { return Ok(()) };
        let mut tail = lock(&tail);
        if tail.is_empty() {
            return Ok(());
        }
        self.may_change(file, Errno::EROFS)?;
        let written = self.cell(file).size.load(Ordering::Acquire);
        let mut block = tail.clone();
        block.resize(tail.len().next_multiple_of(self.block_size() as usize), 0);
        self.extend(file, written, &block)?;
        tail.clear();
        Ok(())
    }

    fn tail(&self, file: &File) -> Option<Arc<Mutex<Vec<u8>>>> {
        if !self.options.buffered {
            return None;
        }
        lock(&self.tails).get(&file.zone).cloned()
    }

    /// Whole blocks at the write pointer.
    fn extend(&self, file: &File, offset: u64, data: &[u8]) -> Answer<()> {
        queue::write(&self.device, file.start + offset, data)
            .map_err(|error| self.ended(file, &error))?;
        self.cell(file).size.store(offset + data.len() as u64, Ordering::Release);
        if offset == 0 && self.holds_places(file) {
            self.close_zone(file);
        }
        Ok(())
    }

    /// Any bytes of a conventional file, which has no end to append at; only a direct write has to be whole blocks.
    fn write_anywhere(
        &self,
        file: &File,
        offset: u64,
        data: &[u8],
        flags: OpenFlags,
    ) -> Answer<usize> {
        if has(flags, OFlags::APPEND) {
            return Err(Errno::EINVAL);
        }
        let count = room(file, offset, data)?;
        let aligned = self.is_aligned(offset, count as u64);
        if has(flags, OFlags::DIRECT) && !aligned {
            return Err(Errno::EINVAL);
        }
        let _alone = (!aligned).then(|| lock(&self.partial));
        let geometry = self.device.geometry();
        let (mut at, mut left) = (file.start + offset, &data[..count]);
        while !left.is_empty() {
            let zone = geometry.zone_of(at);
            let end = geometry.start_of(zone) + geometry.size_of(zone);
            let (piece, rest) = left.split_at(left.len().min(place(end - at)?));
            self.overwrite(at, piece).map_err(|error| self.ended(file, &error))?;
            (at, left) = (at + piece.len() as u64, rest);
        }
        Ok(count)
    }

    /// Any bytes of one conventional zone, with what is around them in their blocks.
    fn overwrite(&self, at: u64, data: &[u8]) -> zonal::Result<()> {
        let end = at + data.len() as u64;
        if self.is_aligned(at, data.len() as u64) {
            return queue::write(&self.device, at, data);
        }
        let block = u64::from(self.block_size());
        let mut blocks = Vec::with_capacity(data.len() + 2 * self.block_size() as usize);
        queue::read(&self.device, at - at % block..at, |bytes| blocks.extend_from_slice(bytes))?;
        blocks.extend_from_slice(data);
        let last = end..end.next_multiple_of(block);
        queue::read(&self.device, last, |bytes| blocks.extend_from_slice(bytes))?;
        queue::write(&self.device, at - at % block, &blocks)
    }

    /// Cuts a sequential file: to nothing, which resets its zone, or to the most that it can hold, which
    /// finishes it (`zonefs_file_truncate`).
    pub(super) fn truncate(&self, file: &File, size: u64) -> Answer<()> {
        self.may_change(file, Errno::EROFS)?;
        if file.kind == ZoneKind::Conventional || (size != 0 && size != file.capacity) {
            return Err(Errno::EPERM);
        }
        let reset = size == 0;
        if !reset {
            self.pad(file)?;
        }
        let tail = self.tail(file);
        let mut tail = tail.as_ref().map(|tail| lock(tail));
        let request = if reset { Request::reset(file.zone) } else { Request::finish(file.zone) };
        self.manage(file, request)?;
        if let Some(tail) = &mut tail {
            tail.clear();
        }
        drop(tail);
        self.cell(file).size.store(size, Ordering::Release);
        self.touch(file);
        if reset && self.opens_zone(file) && lock(&self.writers).contains_key(&file.zone) {
            self.manage(file, Request::open(file.zone))?;
        }
        Ok(())
    }

    /// Everything written so far becomes durable.
    pub(super) fn sync(&self, file: Option<&File>) -> Answer<()> {
        if let Some(file) = file {
            self.pad(file)?;
        }
        if self.options.read_only {
            return Ok(());
        }
        queue::manage(&self.device, Request::flush()).map_err(|error| errno(&error))
    }

    /// All last bytes are padded, and everything written so far becomes durable.
    ///
    /// # Errors
    /// The first there is; the rest is tried all the same.
    pub(super) fn sync_all(&self) -> Answer<()> {
        let padded: Vec<_> = self.tree.all_files().map(|file| self.pad(&file)).collect();
        self.sync(None).and(padded.into_iter().collect())
    }

    /// A file and its zone, whose numbers differ where there are conventional zones.
    fn named(&self, file: &File) -> String {
        match file.kind {
            ZoneKind::Sequential => {
                format!("zone {} ({})", file.zone, self.tree.sequential_name(file))
            }
            ZoneKind::Conventional => format!("zone {}", file.zone),
        }
    }

    fn manage(&self, file: &File, request: Request) -> Answer<()> {
        queue::manage(&self.device, request).map_err(|error| self.ended(file, &error))
    }

    fn report(&self, file: &File) -> Option<ZoneInfo> {
        self.device.report(file.zone..=file.zone).ok()?.pop()
    }

    /// Whether a file can be changed; `stopped` is the answer where the whole mount cannot.
    fn may_change(&self, file: &File, stopped: Errno) -> Answer<()> {
        if self.options.read_only || self.stopped.load(Ordering::Relaxed) {
            return Err(stopped);
        }
        match self.access(file) {
            Access::Full => Ok(()),
            Access::ReadOnly | Access::Offline => Err(Errno::EPERM),
        }
    }

    fn is_aligned(&self, offset: u64, length: u64) -> bool {
        let block = u64::from(self.block_size());
        offset.is_multiple_of(block) && length.is_multiple_of(block)
    }

    fn touch(&self, file: &File) {
        let now = nanoseconds(SystemTime::now());
        self.cell(file).changed_ns.store(now, Ordering::Relaxed);
    }

    /// What an operation that did not succeed is answered with. If the drive failed, the file is made what
    /// its zone now is, and what `errors=` wants on top (zonefs, *IO error handling*).
    fn ended(&self, file: &File, error: &Error) -> Errno {
        if is_failure(error) {
            tracing::warn!("{error}");
            self.follow(file);
        }
        errno(error)
    }

    fn follow(&self, file: &File) {
        let Some(zone) = self.report(file) else { return };
        let wanted = match self.options.on_error {
            OnError::RemountReadOnly => {
                self.stopped.store(true, Ordering::Relaxed);
                Access::Full
            }
            OnError::ZoneReadOnly => Access::ReadOnly,
            OnError::ZoneOffline => Access::Offline,
            OnError::Repair => Access::Full,
        };
        let access = self.access(file).max(Access::of(zone.state)).max(wanted);
        let cell = self.cell(file);
        cell.access.store(access as u8, Ordering::Relaxed);
        cell.size.store(written(&zone), Ordering::Release);
        let (name, size) = (self.named(file), written(&zone));
        let left = match access {
            Access::Full if self.stopped.load(Ordering::Relaxed) => {
                "no file can be written any more"
            }
            Access::Full => "its file goes on from there",
            Access::ReadOnly => "its file can only be read now",
            Access::Offline => "its file cannot be used any more",
        };
        tracing::warn!("{name}: {size} bytes of it are written; {left}");
        self.forget_cached(file);
    }

    /// The kernel forgets what it knows of a file. It waits for reads of the file meanwhile, which the
    /// threads of the mount have to answer; so it is another that asks.
    fn forget_cached(&self, file: &File) {
        let Some(notifier) = self.notifier.get().cloned() else { return };
        let (inode, zone) = (file.inode(), file.zone);
        let asked = thread::Builder::new().spawn(move || {
            if let Err(error) = notifier.inval_inode(inode, 0, 0) {
                tracing::warn!("zone {zone}: the kernel keeps what it has cached of it: {error}");
            }
        });
        if let Err(error) = asked {
            tracing::warn!("zone {zone}: the kernel is not told that it failed: {error}");
        }
    }
}

/// How much of a zone has been written, in bytes.
fn written(zone: &ZoneInfo) -> u64 {
    zone.write_pointer.map_or(0, |wp| wp.saturating_sub(zone.start).min(zone.capacity))
}

/// How much of `data` a file takes from `offset` on: a write is cut short at the end of what the file can
/// hold, and refused behind it.
fn room(file: &File, offset: u64, data: &[u8]) -> Answer<usize> {
    match file.capacity.checked_sub(offset) {
        None | Some(0) => Err(Errno::EFBIG),
        Some(left) => Ok(data.len().min(usize::try_from(left).unwrap_or(usize::MAX))),
    }
}

/// Whether one of these is among a file's flags.
fn has(flags: OpenFlags, wanted: OFlags) -> bool {
    OFlags::from_bits_retain(flags.0.cast_unsigned()).intersects(wanted)
}

fn place(bytes: u64) -> Answer<usize> {
    usize::try_from(bytes).map_err(|_| Errno::EFBIG)
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
