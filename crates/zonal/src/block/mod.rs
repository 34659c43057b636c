//! A zoned block device: its own zones, driven by plain writes at write pointers that are tracked
//! here. It is reached by its node, or by the files of the zonefs that is mounted on it ([`zonefs`]).
//!
//! ```text
//! append ─► zone rules (a place) ─► queue::lanes (order) ─► engine, O_DIRECT ─► device
//! open, close, finish, reset ─► zone rules ─► ioctl on a thread that may block ─┐
//! a write that failed ────────────────────────► zone report, likewise ──────────┴► what it says holds
//! ```
//!
//! The kernel has no append to a block device, so the rules hand out places as on any drive and the
//! write goes there at once. What they track is a forecast: where the device says otherwise, it is
//! right, and the zone's word follows its report.
//!
//! Invariants:
//! * a zone's writes in flight are all of one queue, which has claimed it (`Zones::claim`);
//! * ioctls and reports are never made on a queue's thread, but for opening;
//! * who writes has the device alone (`O_EXCL`), by the very descriptor that its I/O uses; who only
//!   reads takes nothing and changes nothing. There is no live file, and no metadata of ours.

mod calls;
mod mount;
mod probe;
mod report;
pub(crate) mod zonefs;

pub(crate) use calls::Answer;
pub(crate) use mount::is_zonefs;
pub(crate) use probe::{DeviceLimits, Sysfs, device_number};
pub(crate) use report::Reported;

use crate::device::{Device, Drive, Medium, OpenNotes, PartOf, ZoneKind};
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::open::OpenOptions;
use crate::queue::{io_kind, io_text};
use crate::sys::blkzoned::{self, Manage};
use crate::sys::words::SharedWords;
use crate::zones::cells::words_needed;
use crate::zones::{Cells, Found, Gate, Keeping, Standing, Zones};
use calls::Calls;
use report::SECTOR;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::units::{Blocks, Generation, ZoneIndex};
use zonal_core::zone::ZoneOp;
use zonefs::Zonefs;

/// How long `open` waits for the device of a session that has just ended: the kernel lets go of a
/// ring, and of the device with it, in its own time.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);

/// How often it asks meanwhile.
const CLAIM_STEP: Duration = Duration::from_millis(10);

/// How many zones one report asks for: 256 KiB.
const ZONES_A_REPORT: u32 = 4096;

/// A device that is open.
pub(crate) struct Block {
    // First: it waits for the calls under way, which have the device open.
    calls: Calls,
    way: Way,
    disk: Disk,
    whole_write: u64,
    one_by_one: bool,
}

/// How the device's zones are reached, for what blocks.
#[derive(Clone)]
enum Way {
    /// By its node, with ioctls.
    Node(FileDisk, Arc<Geometry>),
    /// By files, with what changes and shows their length.
    Files(Arc<Zonefs>),
}

/// Opens the device at `path`, called `name`.
pub(crate) fn open(path: &Path, name: &str, options: &OpenOptions) -> Result<Device> {
    open_device(path, name, options).map_err(|error| error.on(name).during("open"))
}

fn open_device(path: &Path, name: &str, options: &OpenOptions) -> Result<Device> {
    let number = device_number(path).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "the device has just gone; see lsblk -z for those there are",
        )
    })?;
    let sysfs = Sysfs::find(number)?;
    sysfs.refuse_unzoned()?;
    let file = FileDisk::over(claim(path, &sysfs, options.read_only)?);
    let metadata = file.file().metadata().map_err(|error| open_error(error, path))?;
    if metadata.rdev() != number {
        let text = "another device has just taken its place; open it again";
        return Err(Error::new(ErrorKind::InUse, text));
    }
    let limits = sysfs.limits()?;
    // One more than there should be says that there are more.
    let reported = read_report(&file, 0, limits.zones.saturating_add(1))?;
    let geometry = geometry(&limits, &reported)?;
    let file = options.driven(file)?;
    let way = Way::Node(file.clone(), Arc::new(geometry.clone()));
    let block = Block::new(way, file, &limits);
    let notes = block.notes(&limits, options);
    Ok(assemble(block, name, options, geometry, &reported, notes))
}

/// A drive of a device, with its zones as they were reported.
fn assemble(
    block: Block,
    name: &str,
    options: &OpenOptions,
    geometry: Geometry,
    reported: &[Reported],
    notes: OpenNotes,
) -> Device {
    let count = geometry.zones();
    let cells = Cells::new(SharedWords::heap(words_needed(count)), 0, count);
    let keeping = if options.read_only { Keeping::Nothing } else { Keeping::Device };
    let shape = geometry.clone();
    let found = |zone: ZoneIndex| found(&reported[zone.index()], &shape);
    let zones = Zones::new(geometry, cells, keeping, found);
    Device::new(Drive {
        name: name.to_owned(),
        zones: Arc::new(zones),
        read_only: options.read_only,
        medium: Medium::Block(block),
        notes,
    })
}

/// Asks for what another session may still have, again and again for as long as `open` waits for that.
pub(crate) fn claimed<T>(mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let patience = Instant::now() + CLAIM_PATIENCE;
    loop {
        let got = ask()?;
        if got.is_some() || Instant::now() >= patience {
            return Ok(got);
        }
        std::thread::sleep(CLAIM_STEP);
    }
}

/// Opens the device, for itself alone if it is to be written.
fn claim(path: &Path, sysfs: &Sysfs, read_only: bool) -> Result<std::fs::File> {
    let opened = claimed(|| match blkzoned::open(path, !read_only) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => match sysfs.holder() {
            Some(holder) => Err(Error::new(ErrorKind::InUse, holder)),
            None => Ok(None),
        },
        Err(error) => Err(open_error(error, path)),
    });
    opened?.ok_or_else(|| {
        let text = "another program has it open for itself alone; wait for that to end (fuser -v \
                    names it), or open it to read";
        Error::new(ErrorKind::InUse, text)
    })
}

fn open_error(error: io::Error, path: &Path) -> Error {
    let text = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let path = path.display();
            format!("permission denied; ls -l {path} names the group that may, or do it as root")
        }
        Some(libc::ENXIO | libc::ENODEV) => {
            let text = "no device answers there; see lsblk -z for those there are";
            return Error::new(ErrorKind::NotFound, text).with_source(error);
        }
        Some(libc::EROFS) => "the device cannot be written; open it to read".to_owned(),
        _ => return device_error(error, "opening"),
    };
    Error::new(io_kind(&error), text).with_source(error)
}

/// What a device or its driver said to a call.
fn device_error(error: io::Error, what: &str) -> Error {
    if error.raw_os_error() == Some(libc::ENOTTY) {
        // Reports with a capacity came last.
        let text =
            format!("{what}: this kernel or driver does not know it; Linux knows all since 5.9");
        return Error::new(ErrorKind::Unsupported, text).with_source(error);
    }
    Error::new(write_kind(&error), format!("{what}: {error}")).with_source(error)
}

/// The kind of an error that a device gave a request.
pub(crate) fn write_kind(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        // There is nothing to free on a device: see `node_text`.
        Some(libc::ENOSPC) => ErrorKind::Io,
        // BLK_STS_ZONE_OPEN_RESOURCE, BLK_STS_ZONE_ACTIVE_RESOURCE
        Some(libc::ETOOMANYREFS) => ErrorKind::TooManyOpenZones,
        Some(libc::EOVERFLOW) => ErrorKind::TooManyActiveZones,
        // BLK_STS_NOTSUPP
        Some(libc::EOPNOTSUPP) => ErrorKind::Unsupported,
        _ => io_kind(error),
    }
}

/// What an error of a device means, and what to do next, where the kernel's words say neither.
pub(crate) fn node_text(error: &io::Error) -> Option<String> {
    let text = match error.raw_os_error()? {
        libc::ENODEV | libc::ENXIO => GONE,
        // A device that was taken away has no bytes, and so no place for any.
        libc::ENOSPC => {
            "the device has no such place any more, as when it was taken away (see dmesg, and lsblk -z for those \
             there are)"
        }
        libc::ETOOMANYREFS => {
            "other zones use up the device's limit on open zones; close, finish or reset some (zonal report shows \
             which)"
        }
        libc::EOVERFLOW => {
            "other zones use up the device's limit on active zones; finish or reset some (zonal report shows which)"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// What is said of a device that is not there any more.
pub(crate) const GONE: &str =
    "the device was taken away (see dmesg, and lsblk -z for those there are)";

/// The zones from byte `start` on, at most `most`. Blocks.
fn read_report(file: &FileDisk, start: u64, most: u32) -> Result<Vec<Reported>> {
    let mut zones: Vec<Reported> = Vec::new();
    let mut next = Some(start);
    while let Some(from) = next.filter(|_| (zones.len() as u64) < u64::from(most)) {
        let count = ZONES_A_REPORT.min(most);
        let raw = blkzoned::report(file.file(), from / SECTOR, count)
            .map_err(|error| device_error(error, "its zone report"))?;
        next = go_on(&mut zones, from, report::zones(&raw.zones, raw.has_capacity)?)?;
    }
    Ok(zones)
}

/// Takes in what a report from byte `from` on found. Where the next has to begin; `None` at the device's end.
fn go_on(zones: &mut Vec<Reported>, from: u64, some: Vec<Reported>) -> Result<Option<u64>> {
    let (Some(first), Some(last)) = (some.first(), some.last()) else { return Ok(None) };
    if first.start != from {
        let text = format!(
            "its zone report from byte {from} on begins at byte {}; that is a fault of its driver",
            first.start
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let next = last.start + last.size;
    zones.extend(some);
    Ok(Some(next))
}

/// The drive's shape, where it is one that the kernel and the rules can work with.
fn geometry(limits: &DeviceLimits, zones: &[Reported]) -> Result<Geometry> {
    let unsupported = |text: String| Error::new(ErrorKind::Unsupported, text);
    if zones.len() as u64 != u64::from(limits.zones) {
        let text = format!("it reports {} zones, and sysfs says {}", zones.len(), limits.zones);
        return Err(unsupported(text));
    }
    if !limits.zone_size.is_power_of_two() {
        return Err(unsupported(format!("zones of {} bytes, no power of two", limits.zone_size)));
    }
    shape(limits, zones)
}

/// The shape of a drive with these zones, where it is one that the rules can work with.
pub(crate) fn shape(limits: &DeviceLimits, zones: &[Reported]) -> Result<Geometry> {
    let unsupported = |text: String| Error::new(ErrorKind::Unsupported, text);
    let is_conventional = |zone: &&Reported| zone.kind == ZoneKind::Conventional;
    let conventional = zones.iter().take_while(is_conventional).count();
    let Some(first) = zones.get(conventional) else {
        return Err(unsupported("it has no zone that is written in order".to_owned()));
    };
    let mut next = 0;
    for (number, zone) in zones.iter().enumerate() {
        let last = number + 1 == zones.len();
        let size = if last { zone.size.min(limits.zone_size) } else { limits.zone_size };
        if (zone.start, zone.size) != (next, size) {
            let Reported { start, size, .. } = zone;
            let text = format!("zone {number} is {size} bytes from {start}; expected from {next}");
            return Err(unsupported(text));
        }
        if number >= conventional {
            is_like(zone, number, first, conventional).map_err(unsupported)?;
        }
        next += size;
    }
    let mut geometry = Geometry {
        size: next,
        zone_size: limits.zone_size,
        zone_capacity: first.capacity,
        #[allow(clippy::cast_possible_truncation)] // of zones that sysfs counts in 32 bits
        conventional_zones: conventional as u32,
        max_open_zones: limits.max_open_zones,
        max_active_zones: limits.max_active_zones,
        block_size: limits.block_size,
        max_append: u32::try_from(limits.max_append).unwrap_or(u32::MAX),
    };
    geometry.clamp();
    geometry.validate().map_err(|error| unsupported(error.detail().to_owned()))?;
    Ok(geometry)
}

/// Whether a zone is written in order and takes as much as the first that is; a shorter one at the device's
/// end takes what it has. If not, why.
fn is_like(
    zone: &Reported,
    number: usize,
    first: &Reported,
    first_number: usize,
) -> Result<(), String> {
    if zone.kind == ZoneKind::Conventional {
        return Err(format!(
            "zone {number} is conventional and zone {first_number} is not; only those at the device's start \
             can be"
        ));
    }
    if zone.capacity != first.capacity.min(zone.size) {
        return Err(format!(
            "zone {number} has a capacity of {} bytes and zone {first_number} one of {}; they have to be alike",
            zone.capacity, first.capacity
        ));
    }
    Ok(())
}

/// A zone as its report finds it. Of a read-only one the write pointer is not known, and all of it
/// can be read.
pub(crate) fn found(zone: &Reported, geometry: &Geometry) -> Found {
    let written = zone.written.unwrap_or(zone.capacity);
    let sequential = zone.kind == ZoneKind::Sequential;
    Found {
        wp: if sequential { blocks(written, geometry) } else { Blocks::ZERO },
        generation: Generation(0),
        condition: sequential.then_some(zone.state),
    }
}

/// Bytes as whole blocks: those of a write that was cut off inside one do not count.
fn blocks(bytes: u64, geometry: &Geometry) -> Blocks {
    Blocks(u32::try_from(bytes / u64::from(geometry.block_size)).unwrap_or(u32::MAX))
}

impl Block {
    fn new(way: Way, file: FileDisk, limits: &DeviceLimits) -> Self {
        let (calls, whole_write) = (Calls::new(), limits.whole_write);
        let one_by_one = limits.disorder.is_some();
        Self { calls, way, disk: Disk::File(file), whole_write, one_by_one }
    }

    /// What there is to say when it is opened: that its writes go one at a time for the kernel's sake.
    fn notes(&self, limits: &DeviceLimits, options: &OpenOptions) -> OpenNotes {
        let at_once = self.disk.engine_name().0 == "io_uring";
        let warnings = limits.disorder.iter().filter(|_| at_once && !options.read_only).cloned();
        OpenNotes { warnings: warnings.collect(), ..OpenNotes::default() }
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What it is called, and how its zones lie.
    pub(crate) fn kind(&self) -> (&'static str, Option<&'static str>) {
        match &self.way {
            Way::Node(..) => ("block device", None),
            Way::Files(zonefs) => ("zonefs", Some(zonefs.layout())),
        }
    }

    /// What it is a part of, if it is one file of a zonefs.
    pub(crate) fn part(&self) -> Option<&PartOf> {
        match &self.way {
            Way::Node(..) => None,
            Way::Files(zonefs) => zonefs.part(),
        }
    }

    /// The longest write that may be on its way together with others of its zone, in bytes.
    pub(crate) fn whole_write(&self) -> u64 {
        self.whole_write
    }

    /// Whether a write may have failed with this because it came out of order.
    pub(crate) fn may_be_disorder(&self, error: &io::Error) -> bool {
        match &self.way {
            Way::Node(..) => true,
            // The kernel holds what is written against its own end of the file, before the device is asked.
            Way::Files(_) => error.raw_os_error() == Some(libc::EINVAL),
        }
    }

    /// Whether a zone takes one write at a time, because the kernel does not keep several in order.
    pub(crate) fn is_one_by_one(&self) -> bool {
        self.one_by_one
    }

    /// What an error of a write means here.
    pub(crate) fn text(&self, error: &io::Error) -> String {
        let text = match &self.way {
            Way::Node(..) => None,
            Way::Files(zonefs) => zonefs.text(error),
        };
        text.or_else(|| node_text(error)).unwrap_or_else(|| io_text(error))
    }

    /// Whether a sync that failed is to be tried by another file: the file of a zone that has died cannot be
    /// synced.
    pub(crate) fn syncs_by_another(&self, error: &io::Error) -> bool {
        match &self.way {
            Way::Node(..) => false,
            Way::Files(zonefs) => zonefs.syncs_by_another(error),
        }
    }

    /// Whether a zone takes writes only while its file is open for writing.
    pub(crate) fn holds_files(&self) -> bool {
        match &self.way {
            Way::Node(..) => false,
            Way::Files(_) => true,
        }
    }

    /// Whether a zone can be written as its file is open.
    pub(crate) fn is_held(&self, zone: ZoneIndex) -> bool {
        match &self.way {
            Way::Node(..) => true,
            Way::Files(zonefs) => zonefs.is_held(zone),
        }
    }

    /// The zones whose files are held open for writing.
    pub(crate) fn held(&self) -> Vec<ZoneIndex> {
        match &self.way {
            Way::Node(..) => Vec::new(),
            Way::Files(zonefs) => zonefs.held(),
        }
    }

    /// Sees to it that there is a thread for what blocks: from then on none of that is refused for want of one.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn can_call(&self) -> Result<()> {
        self.calls.see_to_callers().map_err(no_thread)
    }

    /// Has a zone's file opened for writing.
    ///
    /// # Errors
    /// There is no thread to do it.
    pub(crate) fn hold(&self, zone: ZoneIndex) -> Result<Answer<Result<()>>> {
        let way = self.way.clone();
        let answer = self.calls.ask(move || match way {
            Way::Node(..) => Ok(()),
            Way::Files(zonefs) => zonefs.hold(zone),
        });
        answer.map_err(no_thread)
    }

    /// Has a zone's file closed, of which no write has a place. Who asks may give up before that is done: what
    /// keeps writes away until then is the zone's gate, which goes with the call.
    ///
    /// # Errors
    /// There is no thread to do it.
    pub(crate) fn let_go(&self, zone: ZoneIndex, gate: Option<Gate>) -> Result<Answer<()>> {
        let way = self.way.clone();
        let answer = self.calls.ask(move || {
            match way {
                Way::Node(..) => {}
                Way::Files(zonefs) => zonefs.let_go(zone),
            }
            drop(gate);
        });
        answer.map_err(no_thread)
    }

    /// Has the device asked how a zone stands. With this the kernel, too, learns where the zone's
    /// write pointer is.
    ///
    /// # Errors
    /// There is no thread to ask.
    pub(crate) fn ask(&self, zone: ZoneIndex) -> Result<Answer<Result<Standing>>> {
        let way = self.way.clone();
        self.calls.ask(move || way.standing(zone)).map_err(no_thread)
    }

    /// The same of a zone whose file cannot be opened to write.
    ///
    /// # Errors
    /// There is no thread to ask.
    pub(crate) fn ask_unopened(&self, zone: ZoneIndex) -> Result<Answer<Result<Standing>>> {
        let way = self.way.clone();
        let answer = self.calls.ask(move || match &way {
            Way::Node(..) => way.standing(zone),
            Way::Files(zonefs) => zonefs.standing_unopened(zone),
        });
        answer.map_err(no_thread)
    }

    /// Has something done to a zone, and the device asked what came of it, which is the second
    /// answer.
    ///
    /// # Errors
    /// There is no thread to do it.
    pub(crate) fn manage(
        &self,
        zone: ZoneIndex,
        op: ZoneOp,
    ) -> Result<Answer<(Result<()>, Result<Standing>)>> {
        let way = self.way.clone();
        let answer = self.calls.ask(move || (way.manage(zone, op), way.standing(zone)));
        answer.map_err(no_thread)
    }
}

impl Way {
    fn standing(&self, zone: ZoneIndex) -> Result<Standing> {
        match self {
            Self::Node(file, geometry) => standing(file, geometry, zone),
            Self::Files(zonefs) => zonefs.standing(zone),
        }
    }

    fn manage(&self, zone: ZoneIndex, op: ZoneOp) -> Result<()> {
        match self {
            Self::Node(file, geometry) => manage(file, geometry, zone, op),
            Self::Files(zonefs) => zonefs.manage(zone, op),
        }
    }
}

/// The shape and zones of a device that sysfs and its report speak of so.
#[cfg(fuzzing)]
pub(crate) fn answered(
    sysfs: &Path,
    report: &[u8],
    has_capacity: bool,
) -> Result<(Geometry, Vec<Reported>)> {
    let sysfs = Sysfs::at(sysfs);
    sysfs.refuse_unzoned()?;
    let limits = sysfs.limits()?;
    let reported = report::zones(report, has_capacity)?;
    Ok((geometry(&limits, &reported)?, reported))
}

/// How lines of `mountinfo` have a zonefs mounted.
#[cfg(fuzzing)]
pub(crate) fn mounted_as(lines: &[u8], device: &str, path: &Path) -> Option<String> {
    mount::Mount::among(lines, device, path).map(|mount| format!("{mount:?}"))
}

fn no_thread(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "there is no thread to ask the device").with_source(error)
}

fn manage(file: &FileDisk, geometry: &Geometry, zone: ZoneIndex, op: ZoneOp) -> Result<()> {
    let what = match op {
        ZoneOp::Open => Manage::Open,
        ZoneOp::Close => Manage::Close,
        ZoneOp::Finish => Manage::Finish,
        ZoneOp::Reset => Manage::Reset,
    };
    let (start, size) = (geometry.start_of(zone), geometry.size_of(zone));
    blkzoned::manage(file.file(), what, start / SECTOR, size / SECTOR)
        .map_err(|error| device_error(error, "the device refused"))
}

fn standing(file: &FileDisk, geometry: &Geometry, zone: ZoneIndex) -> Result<Standing> {
    let start = geometry.start_of(zone);
    stands(read_report(file, start, 1)?.first(), geometry, zone)
}

/// How a zone stands by its report, if that is of this zone as it was when the drive was opened.
///
/// # Errors
/// `NotFound`: the device has no such zone any more. `Unsupported`: it is another.
pub(crate) fn stands(
    reported: Option<&Reported>,
    geometry: &Geometry,
    zone: ZoneIndex,
) -> Result<Standing> {
    let same = |reported: &&Reported| {
        let shape = (reported.start, reported.size, reported.capacity);
        let (start, size) = (geometry.start_of(zone), geometry.size_of(zone));
        shape == (start, size, geometry.capacity_of(zone))
    };
    let Some(reported) = reported else { return Err(Error::new(ErrorKind::NotFound, GONE)) };
    if !same(&reported) {
        let text = "its zone report has this zone in another shape; open the device again";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let wp = reported.written.map(|written| blocks(written, geometry));
    Ok(Standing { state: reported.state, wp, tells_open: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zones::GateLock;
    use zonal_core::zone::ZoneState;

    const MIB: u64 = 1 << 20;

    fn limits() -> DeviceLimits {
        DeviceLimits {
            zone_size: 16 * MIB,
            zones: 4,
            max_open_zones: 8,
            max_active_zones: 0,
            block_size: 4096,
            max_append: 128 << 10,
            whole_write: 508 << 10,
            disorder: None,
        }
    }

    /// Four zones, the first conventional, the last half as large.
    fn zones() -> Vec<Reported> {
        let zone = |n: u64| Reported {
            start: n * 16 * MIB,
            size: if n == 3 { 8 * MIB } else { 16 * MIB },
            capacity: if n == 0 {
                16
            } else if n == 3 {
                8
            } else {
                12
            } * MIB,
            kind: if n == 0 { ZoneKind::Conventional } else { ZoneKind::Sequential },
            state: if n == 0 { ZoneState::NotWp } else { ZoneState::Empty },
            written: (n > 0).then_some(0),
        };
        (0..4).map(zone).collect()
    }

    #[test]
    fn the_shape_is_the_reports_and_limits_are_lowered_to_it() {
        let geometry = geometry(&limits(), &zones()).unwrap();
        assert_eq!((geometry.size, geometry.zone_capacity), (56 * MIB, 12 * MIB));
        assert_eq!((geometry.conventional_zones, geometry.max_open_zones), (1, 3));
        assert_eq!(geometry.capacity_of(ZoneIndex(3)), 8 * MIB);
    }

    #[test]
    fn a_shape_that_the_rules_do_not_know_is_refused_by_name() {
        let refused = |change: fn(&mut DeviceLimits, &mut Vec<Reported>)| {
            let (mut limits, mut zones) = (limits(), zones());
            change(&mut limits, &mut zones);
            let error = geometry(&limits, &zones).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            error.to_string()
        };
        assert!(refused(|_, zones| zones[2].capacity = 11 * MIB).contains("zone 2 has a capacity"));
        assert!(
            refused(|_, zones| zones[2].kind = ZoneKind::Conventional).contains("zone 2 is conv")
        );
        assert!(refused(|_, zones| zones[2].start += 512).contains("zone 2 is"));
        assert!(refused(|_, zones| zones[1].size = 8 * MIB).contains("zone 1 is"));
        assert!(refused(|_, zones| zones.truncate(3)).contains("sysfs says 4"));
        assert!(refused(|limits, _| limits.zone_size = 3 * MIB).contains("power of two"));
        assert!(refused(|limits, _| limits.block_size = 1024).contains("block-size"));
        let all = |_: &mut DeviceLimits, zones: &mut Vec<Reported>| {
            zones.iter_mut().for_each(|zone| zone.kind = ZoneKind::Conventional);
        };
        assert!(refused(all).contains("no zone that is written in order"));
    }

    #[test]
    fn a_conventional_zone_that_has_failed_is_still_one() {
        for dead in [ZoneState::ReadOnly, ZoneState::Offline] {
            for n in 0..3 {
                let mut zones = zones();
                for zone in &mut zones[..3] {
                    (zone.kind, zone.state) = (ZoneKind::Conventional, ZoneState::NotWp);
                    (zone.capacity, zone.written) = (zone.size, None);
                }
                zones[n].state = dead;
                let geometry = geometry(&limits(), &zones).unwrap();
                assert_eq!(geometry.conventional_zones, 3, "zone {n} is {dead}");
                assert_eq!(found(&zones[n], &geometry).condition, None);
            }
        }
    }

    #[test]
    fn a_report_that_does_not_go_on_is_refused() {
        let zones = zones();
        let mut read = Vec::new();
        assert_eq!(go_on(&mut read, 0, zones[..2].to_vec()).unwrap(), Some(32 * MIB));
        assert_eq!(go_on(&mut read, 32 * MIB, Vec::new()).unwrap(), None, "the end");
        let again = go_on(&mut read, 32 * MIB, zones[..2].to_vec()).unwrap_err();
        assert!(again.to_string().contains("begins at byte 0"), "{again}");
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn what_stands_in_the_way_is_said_with_what_to_do() {
        let path = Path::new("/dev/zoned");
        let opened = |errno| open_error(io::Error::from_raw_os_error(errno), path);
        assert!(opened(libc::EACCES).to_string().contains("ls -l /dev/zoned"));
        assert_eq!(opened(libc::ENXIO).kind(), ErrorKind::NotFound);
        assert!(opened(libc::ENXIO).to_string().contains("lsblk -z"));
        assert!(opened(libc::EROFS).to_string().contains("open it to read"));
        // A kernel from before zone reports had capacities, or a driver that has none.
        let old = device_error(io::Error::from_raw_os_error(libc::ENOTTY), "its zone report");
        assert_eq!(old.kind(), ErrorKind::Unsupported);
        assert!(old.to_string().contains("since 5.9"), "{old}");
    }

    #[test]
    fn a_zone_is_found_in_its_own_state() {
        let geometry = geometry(&limits(), &zones()).unwrap();
        let mut zone = zones()[1];
        (zone.state, zone.written) = (ZoneState::ImplicitlyOpen, Some(8192 + 512));
        let standing = found(&zone, &geometry);
        assert_eq!(standing.wp, Blocks(2), "of whole blocks");
        assert_eq!(standing.condition, Some(ZoneState::ImplicitlyOpen));
        (zone.state, zone.written) = (ZoneState::ReadOnly, None);
        assert_eq!(found(&zone, &geometry).wp, Blocks(3072), "all of it can be read");
        assert_eq!(found(&zones()[0], &geometry).condition, None);
    }

    #[test]
    fn a_gate_stays_shut_until_the_file_is_closed_even_if_who_asked_gives_up() {
        let (geometry, found) = (geometry(&limits(), &zones()).unwrap(), zones());
        let file = FileDisk::in_memory(4096).unwrap();
        let way = Way::Node(file.clone(), Arc::new(geometry.clone()));
        let block = Block::new(way, file, &limits());
        let options = OpenOptions::default();
        let notes = OpenNotes::default();
        let device = assemble(block, "a device", &options, geometry, &found, notes);
        let zones = &device.drive().zones;
        let zone = ZoneIndex(1);
        let gate = || futures::future::FutureExt::now_or_never(GateLock::new(zones, zone));
        let Medium::Block(block) = &device.drive().medium else { panic!("it is a device") };
        // All callers are busy until they are told otherwise.
        let busy = Arc::new(std::sync::Mutex::new(()));
        let held = busy.lock().unwrap();
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let busy = busy.clone();
                block.calls.ask(move || drop(busy.lock().unwrap())).unwrap()
            })
            .collect();
        drop(block.let_go(zone, gate()).unwrap());
        assert!(gate().is_none(), "the file is open yet, and another would write to it");
        drop(held);
        for call in calls {
            futures::executor::block_on(call).unwrap();
        }
        drop(futures::executor::block_on(GateLock::new(zones, zone)));
    }
}
