//! A zoned block device by the files of the zonefs that is mounted on it: one file a zone.
//!
//! ```text
//! zone n ─► cnv/n, or its part of an aggregated cnv/0;  then ─► seq/0, seq/1, …
//! size of a file in seq: write pointer · blocks: capacity · mode: read-only, offline
//! ```
//!
//! The device's first zone holds the superblock and is no file, so zone `n` here is the device's zone
//! `n + 1`. One file may also be a drive by itself, whose zones are all that is in it: its one, or those of
//! an aggregated file.
//!
//! Invariants:
//! * a file of `seq` is open for writing only while the rules have its zone open, or until the next one is
//!   to be opened. Under the mount option `explicit-open` that is what opens and closes the zone on the
//!   device. Which mounts have that option no kernel tells, so all are treated alike;
//! * who writes to all has the folder's lock for itself, by the description that every ring keeps open; who
//!   writes to one file shares it, and has the file's lock for itself, by another such description.

use super::probe::{DeviceLimits, Sysfs};
use super::report::{Reported, SECTOR};
use super::{Block, Way, assemble, blocks, claimed, device_error, mount, write_kind};
use crate::device::{Device, PartOf, ZoneKind};
use crate::engine::file::FileDisk;
use crate::engine::spread::{Place, Spread};
use crate::engine::{EngineChoice, EngineKind};
use crate::open::OpenOptions;
use crate::sys::blkzoned;
use crate::sys::file::truncate;
use crate::sys::kernel::{release, version};
use crate::sys::limits;
use crate::zones::Standing;
use mount::Mount;
use rustix::fs::{Access, AtFlags, FlockOperation, Mode, OFlags, accessat, flock, openat};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::units::ZoneIndex;
use zonal_core::zone::{ZoneOp, ZoneState};

/// How often a file that may not be opened for writing yet is tried again, after [`HOLD_PAUSE`]: the kernel
/// closes a file that a ring has used in its own time.
const HOLD_TRIES: u32 = 25;
const HOLD_PAUSE: Duration = Duration::from_millis(4);

/// The first Linux that writes what threads write to a file of `seq`. Those before make zone appends of it, which
/// land where they should; but 6.1, with what it took over from later ones, takes the place for a wrong
/// one, and has each fail with its data written.
const WRITES_FOR_THREADS: (u32, u32) = (6, 6);

/// How what is written is locked, and what it is in.
const EXCLUSIVE: FlockOperation = FlockOperation::NonBlockingLockExclusive;
const SHARED: FlockOperation = FlockOperation::NonBlockingLockShared;

/// Permission bits: of a zone that is offline none are left, of a read-only one none to write.
const PERMISSIONS: u32 = 0o777;
const WRITE_PERMISSIONS: u32 = 0o222;

/// A mounted zonefs that is open.
pub(super) struct Zonefs {
    spread: Arc<Spread>,
    geometry: Geometry,
    mount: Mount,
    /// The device's name.
    device: String,
    /// Of which drive it is a part, if it is one file.
    part: Option<PartOf>,
}

/// The folder that a zonefs is mounted on, and its files before they are opened.
struct Folder {
    root: File,
    mount: Mount,
    conventional: Vec<ZoneFile>,
    sequential: Vec<ZoneFile>,
    to_write: bool,
    /// It is one file that is opened, of a zonefs of more.
    alone: bool,
}

/// A file of a zonefs, before it is opened.
#[derive(Clone, Debug)]
struct ZoneFile {
    /// Below the folder.
    path: PathBuf,
    /// Of its inode: that of its first zone on the device.
    number: u64,
    look: Look,
}

/// What a file shows of its zone.
#[derive(Clone, Copy, Debug)]
struct Look {
    mode: u32,
    /// In bytes: where the write pointer is.
    size: u64,
    /// In bytes: what its blocks take, which is the capacity.
    most: u64,
}

impl Look {
    fn at(metadata: &Metadata) -> Self {
        let (mode, size) = (metadata.mode(), metadata.len());
        Self { mode, size, most: metadata.blocks() * SECTOR }
    }

    /// What it says of a sequential zone, and how much of that is written. Whether a zone that can be
    /// written is open, no file tells.
    fn state(&self) -> (ZoneState, Option<u64>) {
        let size = self.size.min(self.most);
        match size {
            _ if self.mode & PERMISSIONS == 0 => (ZoneState::Offline, None),
            // One that was read-only when it was mounted shows nothing, and is offline here.
            _ if self.mode & WRITE_PERMISSIONS == 0 => (ZoneState::ReadOnly, Some(size)),
            0 => (ZoneState::Empty, Some(0)),
            _ if size == self.most => (ZoneState::Full, Some(size)),
            _ => (ZoneState::Closed, Some(size)),
        }
    }
}

/// Opens the zonefs at `path`, called `name`.
pub(crate) fn open(path: &Path, name: &str, options: &OpenOptions) -> Result<Device> {
    open_mounted(path, name, options).map_err(|error| error.on(name).during("open"))
}

fn open_mounted(path: &Path, name: &str, options: &OpenOptions) -> Result<Device> {
    let folder = Folder::open(path, !options.read_only)?;
    let sysfs = Sysfs::find(folder.device()?)?;
    let mut limits = limits(&sysfs, &folder.root)?;
    let first = folder.first();
    let reported =
        reported(&limits, sysfs.size()?, first, &folder.conventional, &folder.sequential)?;
    let geometry = if folder.alone {
        limits.zones = u32::try_from(reported.len()).unwrap_or(u32::MAX);
        geometry_alone(&limits, &reported)?
    } else {
        super::geometry(&limits, &reported)?
    };
    folder.refuse_short_limits(&geometry)?;
    let spread = Arc::new(folder.spread(geometry.zone_size)?);
    let part = folder.part(geometry.zones());
    let in_order = folder.to_write && !folder.sequential.is_empty();
    let mut file = options.driven(FileDisk::spread_over(folder.root, spread.clone()))?;
    if in_order && version(&release()) < WRITES_FOR_THREADS {
        file = over_rings_alone(file, &release())?;
    }
    let (mount, device) = (folder.mount, sysfs.device());
    let zonefs = Zonefs { spread, geometry: geometry.clone(), mount, device, part };
    let block = Block::new(Way::Files(Arc::new(zonefs)), file, &limits);
    let notes = block.notes(&limits, options);
    let device = assemble(block, name, options, geometry, &reported, notes);
    let zones = &device.drive().zones;
    if !options.read_only {
        (0..zones.count()).map(ZoneIndex).for_each(|zone| zones.withhold(zone));
    }
    Ok(device)
}

/// The error of a call on the folder or a file of it.
fn file_error(error: io::Error, path: &Path) -> Error {
    let path = path.display();
    let text = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!(
            "{path}: permission denied; its owner and mode were chosen with mkzonefs -o \
             (uid=, gid=, perm=): ls -l {path} shows them, or do it as root"
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            format!("{path}: {error}; raise the limit on open files (ulimit -n)")
        }
        _ => return device_error(error, &path.to_string()),
    };
    Error::new(crate::queue::io_kind(&error), text).with_source(error)
}

/// What is to be written on a kernel that does not do it for threads.
///
/// # Errors
/// `Unsupported`: threads would do it.
fn over_rings_alone(file: FileDisk, release: &str) -> Result<FileDisk> {
    if file.engine_kind() == EngineKind::IoUring {
        return Ok(file.without_threads());
    }
    let (major, minor) = WRITES_FOR_THREADS;
    let no_ring = EngineChoice::IoUring.resolve().err();
    let no_ring = no_ring.map_or(String::new(), |error| format!(" ({error})"));
    let text = format!(
        "this kernel ({release}) reports what threads have written to a zonefs as failed, and Linux \
         {major}.{minor} does not; choose the io_uring engine{no_ring}, or open it to read"
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}

fn refuse_unwritable(mount: &Mount) -> Result<()> {
    if !mount.read_only {
        return Ok(());
    }
    let point = mount.point.display();
    let text = format!(
        "it is mounted read-only, as it was made or after an I/O error (errors={}; see dmesg); \
         mount -o remount,rw {point}, or open it to read",
        mount.errors
    );
    Err(Error::new(ErrorKind::DeviceReadOnly, text))
}

/// Takes the lock of the folder or a file for this session.
fn lock(file: &File, how: FlockOperation) -> Result<()> {
    let taken = || match flock(file, how) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(device_error(error.into(), "its lock")),
        Ok(()) => Ok(Some(())),
    };
    claimed(taken)?.ok_or_else(|| {
        let text = "another session has it, or files of it, open to write; wait for that to end (fuser -v \
                    names it), or open it to read";
        Error::new(ErrorKind::InUse, text)
    })
}

/// The device's limits and shape, without the superblock's zone.
fn limits(sysfs: &Sysfs, root: &File) -> Result<DeviceLimits> {
    let mut limits = sysfs.limits()?;
    let found = rustix::fs::fstatfs(root).map_err(|error| device_error(error.into(), "statfs"))?;
    let device = sysfs.device();
    let limit = |name, otherwise| mount::attribute(&device, name).unwrap_or(otherwise);
    limits.max_open_zones = limit("max_wro_seq_files", limits.max_open_zones);
    limits.max_active_zones = limit("max_active_seq_files", limits.max_active_zones);
    limits.zones = limits.zones.saturating_sub(1);
    #[allow(clippy::unnecessary_cast, reason = "not of one type on all architectures")]
    let block = u32::try_from(found.f_bsize as u64).unwrap_or(limits.block_size);
    limits.block_size = limits.block_size.max(block);
    limits.max_append -= limits.max_append % u64::from(limits.block_size.max(1));
    Ok(limits)
}

/// The files of a subfolder, by their numbers.
fn files_in(folder: &Path, kind: &str) -> Result<Vec<ZoneFile>> {
    let failed = |error| file_error(error, &folder.join(kind));
    let entries = match folder.join(kind).read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let count = entries.count();
    (0..count).map(|number| ZoneFile::at(folder, format!("{kind}/{number}"))).collect()
}

/// The folder that a zonefs is mounted on, of a file in it, and what the file is called there.
fn parts(file: &Path) -> Option<(&Path, &Path)> {
    let folder = file.parent()?.parent()?;
    let name = file.strip_prefix(folder).ok()?;
    let is_zone = name.starts_with("seq") || name.starts_with("cnv");
    (is_zone && mount::is_zonefs(folder)).then_some((folder, name))
}

/// The shape of a file by itself. It has no limits: those of the device are for all its zones, and who has the
/// others open is not known here. One of conventional zones has the shape it had if they were written in
/// order, of which the rules for whole drives want at least one.
fn geometry_alone(limits: &DeviceLimits, zones: &[Reported]) -> Result<Geometry> {
    let limits = DeviceLimits { max_open_zones: 0, max_active_zones: 0, ..limits.clone() };
    let conventional = zones.iter().filter(|zone| zone.kind == ZoneKind::Conventional).count();
    if conventional == 0 {
        return super::geometry(&limits, zones);
    }
    let (kind, state) = (ZoneKind::Sequential, ZoneState::Empty);
    let ordered = |zone: &Reported| Reported { kind, state, ..*zone };
    let zones: Vec<_> = zones.iter().map(ordered).collect();
    let geometry = super::geometry(&limits, &zones)?;
    Ok(Geometry { conventional_zones: geometry.zones(), ..geometry })
}

impl Folder {
    /// # Errors
    /// What is neither the folder that a zonefs is mounted on nor a zone's file; to write, what is mounted
    /// read-only or in use.
    fn open(path: &Path, to_write: bool) -> Result<Self> {
        let failed = |error| file_error(error, path);
        let named = path.canonicalize().map_err(failed)?;
        let metadata = named.metadata().map_err(failed)?;
        let file = parts(&named).filter(|_| metadata.is_file());
        let folder = file.map_or(&*named, |(folder, _)| folder);
        let number = metadata.dev();
        let number = format!("{}:{}", libc::major(number), libc::minor(number));
        let mount = Mount::of(&number, folder)?;
        if !folder.join("seq").is_dir() {
            let text = format!(
                "it is in a zonefs, of which the whole or one zone's file is a drive; name the folder it is \
                 mounted at, {point}, or a file like {point}/seq/0",
                point = mount.point.display()
            );
            return Err(Error::new(ErrorKind::NotZoned, text));
        }
        let root = File::open(folder).map_err(failed)?;
        if to_write {
            refuse_unwritable(&mount)?;
            lock(&root, if file.is_some() { SHARED } else { EXCLUSIVE })?;
        }
        let (conventional, sequential) = match file {
            None => (files_in(folder, "cnv")?, files_in(folder, "seq")?),
            Some((_, name)) if name.starts_with("cnv") => {
                (vec![ZoneFile::at(folder, name)?], vec![])
            }
            Some((_, name)) => (vec![], vec![ZoneFile::at(folder, name)?]),
        };
        Ok(Self { root, mount, conventional, sequential, to_write, alone: file.is_some() })
    }

    /// The files that are opened.
    fn files(&self) -> impl Iterator<Item = &ZoneFile> {
        self.conventional.iter().chain(&self.sequential)
    }

    /// Which zone of the device the first file is: the one behind the superblock's, or the file's own.
    fn first(&self) -> u64 {
        self.files().next().filter(|_| self.alone).map_or(1, |file| file.number)
    }

    /// Of a file by itself, with so many zones: what it is a part of.
    fn part(&self, zones: u32) -> Option<PartOf> {
        let file = self.files().next().filter(|_| self.alone)?;
        let first = u32::try_from(file.number.saturating_sub(1)).unwrap_or(u32::MAX);
        let (folder, file) = (self.mount.point.clone(), file.path.clone());
        Some(PartOf { folder, file, zones: first..first.saturating_add(zones) })
    }

    /// The number of the device below.
    fn device(&self) -> Result<u64> {
        let metadata = self.root.metadata();
        Ok(metadata.map_err(|error| file_error(error, &self.mount.point))?.dev())
    }

    /// # Errors
    /// This process may not have as many files open as it takes, or not write files as long.
    fn refuse_short_limits(&self, geometry: &Geometry) -> Result<()> {
        let sequential = self.sequential.len() as u64;
        let held = match geometry.max_open_zones {
            _ if !self.to_write => 0,
            0 => sequential,
            limit => u64::from(limit),
        };
        let files = self.files().count() as u64 + held + u64::from(self.alone);
        limits::allow_files(files).map_err(|most| {
            let text = format!(
                "it takes {files} more open files, and this process may have {most} in all; raise its \
                 limit (ulimit -Hn)"
            );
            Error::new(ErrorKind::Unsupported, text)
        })?;
        let ends = limits::file_length().filter(|_| self.to_write).unwrap_or(u64::MAX);
        if self.files().any(|file| file.look.most > ends) {
            let text = format!(
                "this process's limit on files ends them at {ends}, inside a zone; raise it (ulimit -f)"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(())
    }

    /// Opens all files: those in `seq` to read, as they are opened to write when that is needed.
    fn spread(&self, zone_size: u64) -> Result<Spread> {
        let mut places = Vec::new();
        for file in &self.conventional {
            let (opened, writable) = self.open_file(file, self.to_write)?;
            for nth in 0..file.look.size.div_ceil(zone_size) {
                places.push(Place::new(opened.clone(), nth * zone_size, writable));
            }
        }
        for file in &self.sequential {
            places.push(Place::new(self.open_file(file, false)?.0, 0, false));
        }
        if !self.alone || !self.to_write {
            return Ok(Spread::new(zone_size, places));
        }
        let own = self.files().next().filter(|file| file.look.mode & PERMISSIONS != 0);
        let own = own.and_then(|_| places.first()).map(|place| place.file().clone());
        if let Some(file) = &own {
            lock(file, EXCLUSIVE)?;
        }
        places.extend(self.another().map(|file| Place::new(file, 0, false)));
        Ok(Spread::new(zone_size, places).locked_by(own))
    }

    /// Another zone's file, by which the device is synced when the zone of the only one has died.
    fn another(&self) -> Option<Arc<File>> {
        let own = self.files().next()?.number;
        ["cnv/0", "seq/0", "seq/1"].iter().find_map(|name| {
            let file = ZoneFile::at(&self.mount.point, Path::new(name)).ok()?;
            let usable = file.number != own && file.look.mode & PERMISSIONS != 0;
            Some(self.open_file(&file, false).ok().filter(|_| usable)?.0)
        })
    }

    /// A file, and whether it is open to write.
    fn open_file(&self, file: &ZoneFile, to_write: bool) -> Result<(Arc<File>, bool)> {
        let mode = file.look.mode;
        let takes_writes = mode & WRITE_PERMISSIONS != 0;
        let flags = match mode & PERMISSIONS {
            // There is nothing to read; how it stands can be asked all the same.
            0 => OFlags::PATH,
            _ if to_write && takes_writes => OFlags::RDWR | OFlags::DIRECT,
            _ => OFlags::RDONLY | OFlags::DIRECT,
        };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(&self.root, &file.path, flags, Mode::empty()).and_then(|opened| {
            // What this process may not write is found out now, and not by its first append.
            if self.to_write && takes_writes {
                accessat(&self.root, &file.path, Access::WRITE_OK, AtFlags::EACCESS)?;
            }
            Ok(Arc::new(File::from(opened)))
        });
        let opened =
            opened.map_err(|error| file_error(error.into(), &self.mount.point.join(&file.path)))?;
        Ok((opened, to_write && takes_writes))
    }
}

/// The zones of a device of so many bytes, from its zone `first` on, as their files show them.
fn reported(
    limits: &DeviceLimits,
    device: u64,
    first: u64,
    conventional: &[ZoneFile],
    sequential: &[ZoneFile],
) -> Result<Vec<Reported>> {
    let start = |nth: usize| (nth as u64).saturating_mul(limits.zone_size);
    let number = |nth: usize| first.saturating_add(nth as u64);
    // All but the last zone of a device are as large as any.
    let before = |nth: usize| number(nth).saturating_mul(limits.zone_size);
    let size = |nth: usize| limits.zone_size.min(device.saturating_sub(before(nth)));
    let mut zones: Vec<Reported> = Vec::new();
    for file in conventional {
        file.refuse_unless_zone(number(zones.len()))?;
        // One zone, or with aggr_cnv all of them.
        let mut left = file.look.size;
        let too_long = || {
            let text = format!("{} is longer than its device", file.path.display());
            Error::new(ErrorKind::Unsupported, text)
        };
        let count = left.div_ceil(limits.zone_size.max(1));
        if count.saturating_add(zones.len() as u64) > u64::from(limits.zones) {
            return Err(too_long());
        }
        while left > 0 {
            let (nth, state) = (zones.len(), ZoneState::NotWp);
            let size = size(nth).min(left);
            if size == 0 {
                return Err(too_long());
            }
            let start = start(nth);
            let kind = ZoneKind::Conventional;
            zones.push(Reported { start, size, capacity: size, kind, state, written: None });
            left -= size;
        }
    }
    for file in sequential {
        let nth = zones.len();
        file.refuse_unless_zone(number(nth))?;
        let (state, written) = file.look.state();
        let capacity = file.look.most;
        let (start, size, kind) = (start(nth), size(nth), ZoneKind::Sequential);
        zones.push(Reported { start, size, capacity, kind, state, written });
    }
    Ok(zones)
}

/// The shape and zones of these files (number, mode, size, blocks) of a device that sysfs speaks of so.
#[cfg(fuzzing)]
pub(crate) fn answered(
    sysfs: &Path,
    conventional: &[(u64, u32, u64, u64)],
    sequential: &[(u64, u32, u64, u64)],
    alone: bool,
) -> Result<(Geometry, Vec<Reported>)> {
    let file = |&(number, mode, size, blocks): &(u64, u32, u64, u64)| ZoneFile {
        path: PathBuf::from("seq/0"),
        number,
        look: Look { mode, size, most: blocks.saturating_mul(SECTOR) },
    };
    let mut conventional: Vec<_> = conventional.iter().map(file).collect();
    let mut sequential: Vec<_> = sequential.iter().map(file).collect();
    let sysfs = Sysfs::at(sysfs);
    let mut limits = sysfs.limits()?;
    if !alone {
        let reported = reported(&limits, sysfs.size()?, 1, &conventional, &sequential)?;
        return Ok((super::geometry(&limits, &reported)?, reported));
    }
    conventional.truncate(1);
    sequential.truncate(1 - conventional.len());
    let first = conventional.iter().chain(&sequential).next().map_or(1, |file| file.number);
    let reported = reported(&limits, sysfs.size()?, first, &conventional, &sequential)?;
    limits.zones = u32::try_from(reported.len()).unwrap_or(u32::MAX);
    Ok((geometry_alone(&limits, &reported)?, reported))
}

impl ZoneFile {
    /// The one that is called so below a folder.
    fn at(folder: &Path, name: impl AsRef<Path>) -> Result<Self> {
        let path = name.as_ref().to_owned();
        let metadata = folder.join(&path).symlink_metadata();
        let metadata = metadata.map_err(|error| file_error(error, &folder.join(&path)))?;
        Ok(Self { path, number: metadata.ino(), look: Look::at(&metadata) })
    }

    /// # Errors
    /// It is not that zone of its device.
    fn refuse_unless_zone(&self, number: u64) -> Result<()> {
        let found = self.number;
        if found == number {
            return Ok(());
        }
        let path = self.path.display();
        let text = format!(
            "{path} is zone {found} of its device, and not zone {number}: its conventional zones have \
             to come before all others"
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }
}

impl Zonefs {
    /// Which zones the files are.
    pub(super) fn layout(&self) -> &'static str {
        if self.part.is_some() {
            "one file is the drive"
        } else if self.geometry.conventional_zones > 0 {
            "a zone is a file: those in cnv, then those in seq; the superblock's is none"
        } else {
            "a zone is a file: zone 0 is seq/0; the superblock's is none"
        }
    }

    /// What it is a part of, if it is one file.
    pub(super) fn part(&self) -> Option<&PartOf> {
        self.part.as_ref()
    }

    /// Whether a sync is to be tried by another zone's file: the kernel refuses it, untried, by that of a
    /// zone that has died.
    pub(super) fn syncs_by_another(&self, error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EPERM | libc::EBADF))
            && self.spread.sync_by_next()
    }

    pub(super) fn is_held(&self, zone: ZoneIndex) -> bool {
        self.spread.is_writable(zone.index())
    }

    /// The zones whose files are open for writing only as long as that is needed.
    pub(super) fn held(&self) -> Vec<ZoneIndex> {
        #[allow(clippy::cast_possible_truncation)] // of so many zones
        self.spread.held().into_iter().map(|zone| ZoneIndex(zone as u32)).collect()
    }

    /// Opens a zone's file for writing, and with it its zone.
    pub(super) fn hold(&self, zone: ZoneIndex) -> Result<()> {
        if self.is_held(zone) {
            return Ok(());
        }
        let mut tries = HOLD_TRIES;
        let file = loop {
            match File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(self.proc_path(zone))
            {
                Ok(file) => break file,
                Err(error) if tries > 0 && error.raw_os_error() == Some(libc::EBUSY) => tries -= 1,
                Err(error) => return Err(self.hold_error(error)),
            }
            std::thread::sleep(HOLD_PAUSE);
        };
        self.spread.hold(zone.index(), Arc::new(file));
        Ok(())
    }

    fn hold_error(&self, error: io::Error) -> Error {
        let what = "opening its file to write";
        if error.raw_os_error() != Some(libc::EBUSY) {
            let Some(text) = self.text(&error) else { return device_error(error, what) };
            return Error::new(write_kind(&error), format!("{what}: {text}")).with_source(error);
        }
        let open = mount::attribute(&self.device, "nr_wro_seq_files");
        let open = open.map_or(String::new(), |open| format!("; {open} are, by all programs"));
        let text = format!(
            "{what}: no more of these may be open to write, as it is mounted with explicit-open{open}; \
             wait for others to close some, or mount it without"
        );
        Error::new(ErrorKind::TooManyOpenZones, text).with_source(error)
    }

    /// Closes what [`hold`](Self::hold) opened, and with it the zone. No write of the zone has a place.
    pub(super) fn let_go(&self, zone: ZoneIndex) {
        drop(self.spread.let_go(zone.index()));
    }

    /// A zone's file by the descriptor it is open with: there it stays the same file whatever is mounted
    /// meanwhile.
    fn proc_path(&self, zone: ZoneIndex) -> PathBuf {
        format!("/proc/self/fd/{}", self.spread.file(zone.index()).as_raw_fd()).into()
    }

    /// Does something to a zone in which nothing is in flight.
    pub(super) fn manage(&self, zone: ZoneIndex, op: ZoneOp) -> Result<()> {
        let length = match op {
            // Whoever asked has had its file opened.
            ZoneOp::Open => return Ok(()),
            ZoneOp::Close => {
                self.let_go(zone);
                return Ok(());
            }
            ZoneOp::Finish => self.geometry.capacity_of(zone),
            ZoneOp::Reset => 0,
        };
        let refused = |error| device_error(error, "the kernel refused");
        // By name: that takes no file that is open to write, of which there may be no more.
        truncate(&self.proc_path(zone), length).map_err(refused)?;
        self.let_go(zone);
        Ok(())
    }

    /// How a zone stands by its file.
    pub(super) fn standing(&self, zone: ZoneIndex) -> Result<Standing> {
        let metadata = self.spread.file(zone.index()).metadata();
        let metadata = metadata.map_err(|error| device_error(error, "the size of its file"))?;
        let (state, written) = Look::at(&metadata).state();
        let wp = written.map(|written| blocks(written, &self.geometry));
        Ok(Standing { state, wp, tells_open: false })
    }

    /// How a zone stands whose file cannot be opened to write. The kernel looks for a zone's condition when
    /// I/O to it fails, and for opening it does not: so the device is asked itself, where this process may.
    pub(super) fn standing_unopened(&self, zone: ZoneIndex) -> Result<Standing> {
        let standing = self.standing(zone)?;
        let state = self.state_on_device(zone).unwrap_or_else(|error| {
            tracing::debug!("zone {zone}: /dev/{} cannot be asked: {error}", self.device);
            standing.state
        });
        Ok(match state {
            ZoneState::Offline => Standing { state, wp: None, ..standing },
            ZoneState::ReadOnly => Standing { state, ..standing },
            _ => standing,
        })
    }

    /// A zone's state by its device's own report.
    fn state_on_device(&self, zone: ZoneIndex) -> Result<ZoneState> {
        let failed = |error| device_error(error, "its zone report");
        let metadata = self.spread.file(zone.index()).metadata().map_err(failed)?;
        let node = Path::new("/dev").join(&self.device);
        if super::device_number(&node) != Some(metadata.dev()) {
            let text = format!("{} is another device", node.display());
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        let node = blkzoned::open(&node, false).map_err(failed)?;
        let start = metadata.ino().saturating_mul(self.geometry.zone_size);
        let raw = blkzoned::report(&node, start / SECTOR, 1).map_err(failed)?;
        let zones = super::report::zones(&raw.zones, raw.has_capacity)?;
        let own = zones.first().filter(|reported| reported.start == start);
        own.map(|reported| reported.state).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "its zone report no longer has this zone")
        })
    }

    /// What an error of a zone's file means here, where that is not plain.
    pub(super) fn text(&self, error: &io::Error) -> Option<String> {
        let point = self.mount.point.display();
        let errors = &self.mount.errors;
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let text = "its zone's file ends before it, as another program has reset the zone; the next \
                        append finds the zone's write pointer";
            return Some(text.to_owned());
        }
        match error.raw_os_error()? {
            libc::EROFS => Some(format!(
                "the kernel has made this zonefs read-only after an I/O error (errors={errors}; see \
                 dmesg); see to the device, then mount -o remount,rw {point}"
            )),
            libc::EINVAL => {
                let text = "the kernel has the file's end elsewhere; where it stays so, reset the zone, or mount \
                            the zonefs again";
                Some(text.to_owned())
            }
            libc::EFBIG => Some("the kernel has the file at its maximum".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits(zones: u32) -> DeviceLimits {
        DeviceLimits {
            zone_size: 16 * MIB,
            zones,
            max_open_zones: 4,
            max_active_zones: 0,
            block_size: 4096,
            max_append: 128 << 10,
            whole_write: 508 << 10,
            disorder: None,
        }
    }

    fn file(path: &str, number: u64, size: u64, most: u64) -> ZoneFile {
        ZoneFile { path: path.into(), number, look: Look { mode: 0o100_640, size, most } }
    }

    /// Those of a device of six zones, the first three conventional, the last half as large.
    fn files() -> (Vec<ZoneFile>, Vec<ZoneFile>) {
        let conventional = (0..2).map(|n| file("cnv/n", n + 1, 16 * MIB, 16 * MIB)).collect();
        let sequential = vec![
            file("seq/0", 3, 0, 12 * MIB),
            file("seq/1", 4, 4096, 12 * MIB),
            file("seq/2", 5, 8 * MIB, 8 * MIB),
        ];
        (conventional, sequential)
    }

    #[test]
    fn zones_are_the_files_and_their_sizes_write_pointers() {
        let (conventional, sequential) = files();
        let zones = reported(&limits(5), 88 * MIB, 1, &conventional, &sequential).unwrap();
        let geometry = super::super::geometry(&limits(5), &zones).unwrap();
        assert_eq!((geometry.zones(), geometry.conventional_zones), (5, 2));
        assert_eq!((geometry.size, geometry.zone_capacity), (72 * MIB, 12 * MIB));
        let states = [ZoneState::Empty, ZoneState::Closed, ZoneState::Full];
        assert_eq!([2, 3, 4].map(|zone: usize| zones[zone].state), states);
        assert_eq!(zones[3].written, Some(4096));
    }

    #[test]
    fn an_aggregated_file_is_all_of_its_zones() {
        let (_, sequential) = files();
        let aggregated = [file("cnv/0", 1, 32 * MIB, 32 * MIB)];
        let zones = reported(&limits(5), 88 * MIB, 1, &aggregated, &sequential).unwrap();
        let geometry = super::super::geometry(&limits(5), &zones).unwrap();
        assert_eq!((geometry.zones(), geometry.conventional_zones), (5, 2));
    }

    #[test]
    fn files_that_are_other_zones_than_they_should_be_are_refused_by_name() {
        let (conventional, mut sequential) = files();
        sequential[1].number = 5;
        let error = reported(&limits(5), 88 * MIB, 1, &conventional, &sequential).unwrap_err();
        assert!(error.to_string().contains("seq/1 is zone 5 of its device"), "{error}");
        let endless = [file("cnv/0", 1, u64::MAX, u64::MAX)];
        let error = reported(&limits(5), 88 * MIB, 1, &endless, &sequential).unwrap_err();
        assert!(error.to_string().contains("cnv/0 is longer than its device"), "{error}");
        // Of zones that lie past every device no place is counted out.
        let vast = DeviceLimits { zone_size: 1 << 63, ..limits(3) };
        let files: Vec<_> = (1..4).map(|number| file("seq/n", number, 0, 12 * MIB)).collect();
        let zones = reported(&vast, u64::MAX, 1, &[], &files).unwrap();
        assert!(super::super::geometry(&vast, &zones).is_err());
    }

    #[test]
    fn threads_that_the_kernel_would_fail_are_refused_by_name_and_not_fallen_back_to() {
        let file = || FileDisk::in_memory(4096).unwrap().with_engine(EngineKind::IoUring);
        assert!(file().or_threads().may_use_threads());
        let alone = over_rings_alone(file().or_threads(), "6.1.0-50-amd64").unwrap();
        assert!(!alone.may_use_threads());
        let threads = file().with_engine(EngineKind::Threads);
        let error = over_rings_alone(threads, "6.1.0-50-amd64").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(
            text.contains("(6.1.0-50-amd64)") && text.contains("choose the io_uring"),
            "{text}"
        );
        assert!(version("6.5.13") < WRITES_FOR_THREADS && version("6.6.1") >= WRITES_FOR_THREADS);
    }

    #[test]
    fn a_file_by_itself_is_a_drive_of_its_zones() {
        let alone = |device, conventional: &[ZoneFile], sequential: &[ZoneFile]| {
            let first = conventional.iter().chain(sequential).next().unwrap().number;
            let zones = reported(&limits(5), device, first, conventional, sequential).unwrap();
            let limits = DeviceLimits { zones: u32::try_from(zones.len()).unwrap(), ..limits(5) };
            (geometry_alone(&limits, &zones).unwrap(), zones)
        };
        let (conventional, sequential) = files();
        let (geometry, zones) = alone(88 * MIB, &[], &sequential[1..2]);
        assert_eq!((geometry.zones(), geometry.conventional_zones), (1, 0));
        assert_eq!((geometry.size, geometry.zone_capacity), (16 * MIB, 12 * MIB));
        assert_eq!((zones[0].start, zones[0].written), (0, Some(4096)));
        assert_eq!(geometry.max_open_zones, 0, "who has the other zones open is not known");
        let (geometry, zones) = alone(88 * MIB, &[], &sequential[2..]);
        assert_eq!((geometry.size, zones[0].state), (8 * MIB, ZoneState::Full), "the last one");
        let (geometry, zones) = alone(88 * MIB, &conventional[1..], &[]);
        assert_eq!((geometry.zones(), geometry.sequential_zones()), (1, 0));
        assert_eq!((zones[0].start, zones[0].state), (0, ZoneState::NotWp));
        assert_eq!(geometry.capacity_of(ZoneIndex(0)), 16 * MIB);
        let aggregated = [file("cnv/1", 4, 24 * MIB, 24 * MIB)];
        let (geometry, _) = alone(88 * MIB, &aggregated, &[]);
        assert_eq!((geometry.zones(), geometry.size), (2, 24 * MIB));
        assert_eq!((geometry.sequential_zones(), geometry.max_open_zones), (0, 0));
    }

    #[test]
    fn what_is_no_zone_s_file_of_a_zonefs_is_no_part_of_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("seq")).unwrap();
        let file = folder.path().join("seq/0");
        std::fs::write(&file, "").unwrap();
        assert_eq!(parts(&file), None, "another file system's");
        assert_eq!(parts(Path::new("/")), None);
    }

    #[test]
    fn a_zone_that_has_died_is_known_by_its_mode() {
        let state = |mode, size| Look { mode, size, most: 8 * MIB }.state();
        assert_eq!(state(0o100_000, 0), (ZoneState::Offline, None));
        assert_eq!(state(0o100_440, 4096), (ZoneState::ReadOnly, Some(4096)));
        assert_eq!(state(0o100_640, 4096), (ZoneState::Closed, Some(4096)));
        assert_eq!(state(0o100_640, 9 * MIB), (ZoneState::Full, Some(8 * MIB)));
    }
}
