//! A zoned NVMe namespace, driven by its own commands: the one medium that has an append.
//!
//! ```text
//! append ─► zone rules (a forecast) ─► Zone Append on the queue's ring ─► device ─► where it landed
//! write ──► zone rules ─► queue::lanes (one at a time in a zone) ─► Write on the ring
//! open, close, finish, reset, reports ─► commands on the ring as well: nothing blocks
//! ```
//!
//! For an append the rules hand out no place. They count it, against the zone's state, capacity and
//! limits, and where it lands the device says. What they expect of the zone is a forecast: where an
//! answer cannot come of what this drive has sent, the zone is asked for, and its word follows.
//!
//! Invariants:
//! * a completion's offset is the device's answer;
//! * of a zone's plain writes one is in flight: commands have no order;
//! * commands that are waited for (ioctls) are sent while the drive is opened, and never after;
//! * who writes holds the block device of the namespace (`O_EXCL`), where there is one, and a lock on
//!   the generic device; who only reads takes nothing and changes nothing.

mod command;
mod identify;
mod node;
mod report;
mod status;

pub(crate) use command::Namespace;
pub(crate) use node::device_number;
pub(crate) use status::Status;

use crate::block::{self, DeviceLimits, Reported};
use crate::buffer::Arena;
use crate::device::{Device, Drive, Medium, OpenNotes};
use crate::engine::polled;
use crate::engine::{Engine, EngineChoice, EngineOptions, NvmeDisk};
use crate::open::OpenOptions;
use crate::sys::nvme as sys;
use crate::sys::words::SharedWords;
use crate::sys::{DIRECT_ALIGNMENT, lock};
use crate::zones::cells::words_needed;
use crate::zones::{Cells, Keeping, Standing, Zones};
use identify::{IDENTIFY_BYTES, Identity, Page, Structure};
use node::Node;
use report::{DESCRIPTOR_BYTES, Scale};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::units::ZoneIndex;

/// Bytes of one report while the drive is opened, or as many as one transfer has: of 1023 zones.
const REPORT_BYTES: u64 = 64 << 10;

/// Bytes of a report of one zone: a block, so that every device takes the transfer.
pub(crate) const ONE_ZONE_BYTES: usize = DIRECT_ALIGNMENT;

/// How many blocks one command moves at most: it has 16 bits for their number.
const BLOCKS_MAX: u64 = 1 << 16;

/// A namespace that is open.
pub(crate) struct Nvme {
    disk: NvmeDisk,
    node: Node,
    /// Its block device, which nobody else gets while this is open.
    _claimed: Option<File>,
    geometry: Geometry,
    scale: Scale,
    transfer: u64,
}

/// Opens the namespace behind the generic device at `path`, called `name`.
pub(crate) fn open(path: &Path, name: &str, options: &OpenOptions) -> Result<Device> {
    open_device(path, name, options).map_err(|error| error.on(name).during("open"))
}

fn open_device(path: &Path, name: &str, options: &OpenOptions) -> Result<Device> {
    let number = device_number(path).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the device has just gone; see ls /dev/ng*")
    })?;
    let node = Node::find(number)?;
    refuse_threads(options.engine, &node)?;
    let file =
        sys::open(path, !options.read_only).map_err(|error| node::open_error(error, path))?;
    let metadata = file.metadata().map_err(|error| node::open_error(error, path))?;
    if metadata.rdev() != number {
        let text = "another device has just taken its place; open it again";
        return Err(Error::new(ErrorKind::InUse, text));
    }
    let (claimed, warning) = if options.read_only { (None, None) } else { claim(&file, &node)? };
    let namespace = Namespace { nsid: nsid(&file)?, block_shift: 0 };
    let identity = identity(&file, namespace)?;
    let namespace = Namespace { block_shift: identity.block_size.trailing_zeros(), ..namespace };
    let mut disk = NvmeDisk::new(file, namespace);
    rings_take_commands(&mut disk, &node)?;
    let limits = limits(&identity, node.transfer())?;
    let reported = read_report(&disk, &identity, limits.whole_write)?;
    let geometry = block::shape(&limits, &reported)?;
    let count = geometry.zones();
    let cells = Cells::new(SharedWords::heap(words_needed(count)), 0, count);
    let keeping = if options.read_only { Keeping::Nothing } else { Keeping::Placing };
    let found = |zone: ZoneIndex| block::found(&reported[zone.index()], &geometry);
    let zones = Zones::new(geometry.clone(), cells, keeping, found);
    let (scale, transfer) = (scale(&identity), limits.whole_write);
    let nvme = Nvme { disk, node, _claimed: claimed, geometry, scale, transfer };
    Ok(Device::new(Drive {
        name: name.to_owned(),
        zones: Arc::new(zones),
        read_only: options.read_only,
        medium: Medium::Nvme(nvme),
        notes: OpenNotes { warnings: warning.into_iter().collect(), ..OpenNotes::default() },
    }))
}

fn refuse_threads(engine: EngineChoice, node: &Node) -> Result<()> {
    match engine {
        EngineChoice::Auto | EngineChoice::IoUring => Ok(()),
        EngineChoice::Threads => {
            let text = format!(
                "NVMe commands go through io_uring alone; leave the engine out, or name the block \
                 device /dev/{}",
                node.block_name()
            );
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    }
}

/// Keeps others away, as far as that can be; with what cannot be kept away.
fn claim(file: &File, node: &Node) -> Result<(Option<File>, Option<String>)> {
    let claimed = node.claim()?;
    let locked = block::claimed(|| match lock::try_lock(file) {
        Ok(locked) => Ok(locked.then_some(())),
        Err(error) => Err(Error::new(ErrorKind::Io, "locking the device").with_source(error)),
    });
    let Some(()) = locked? else {
        let text =
            "another session of zonal writes to it; wait for that to end, or open it to read";
        return Err(Error::new(ErrorKind::InUse, text));
    };
    Ok(claimed)
}

fn nsid(file: &File) -> Result<u32> {
    sys::namespace(file).map_err(|error| {
        let text = format!("which namespace it is, the device does not say: {error}");
        Error::new(ErrorKind::NotZoned, text).with_source(error)
    })
}

/// What controller and namespace say of themselves.
fn identity(file: &File, namespace: Namespace) -> Result<Identity> {
    let page = |structure| identify(file, namespace, structure);
    identify::identity(
        &page(Structure::Namespace)?,
        &page(Structure::Controller)?,
        &page(Structure::ZonedNamespace)?,
        &page(Structure::ZonedController)?,
    )
}

fn identify(file: &File, namespace: Namespace, structure: Structure) -> Result<Page> {
    let mut page = [0; IDENTIFY_BYTES];
    let command = namespace.identify(structure);
    let status = sys::ask(file, sys::Queue::Admin, &command, &mut page).map_err(sending_failed)?;
    if status == 0 {
        return Ok(page);
    }
    let status = Status::new(status);
    // A namespace of another command set has no such structure.
    if structure == Structure::ZonedNamespace && status.is_unknown() {
        let text = "it is an NVMe namespace without zones; lsblk -z lists those that have some";
        return Err(Error::new(ErrorKind::NotZoned, text).with_source(status));
    }
    Err(Error::new(status.kind(), format!("{structure:?} data: {status}")).with_source(status))
}

/// What the kernel said to a command that it did not send.
fn sending_failed(error: io::Error) -> Error {
    let (kind, text) = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let text = "the kernel sends commands for root alone (since Linux 6.2 for others as well, \
                        where the device says which commands it has); do it as root";
            (ErrorKind::Io, text.to_owned())
        }
        Some(libc::ENOTTY | libc::EINVAL) => {
            let text = "this kernel's driver sends no such commands; it takes Linux 5.13";
            (ErrorKind::Unsupported, text.to_owned())
        }
        Some(libc::ENXIO | libc::ENODEV) => {
            (ErrorKind::NotFound, "the device has gone; see ls /dev/ng*".to_owned())
        }
        _ => (ErrorKind::Io, format!("a command was not sent: {error}")),
    };
    Error::new(kind, text).with_source(error)
}

/// Sends one command through a ring, into a buffer that the kernel knows, to see whether that can be.
fn rings_take_commands(disk: &mut NvmeDisk, node: &Node) -> Result<()> {
    let tried = NvmeDisk::probe()
        .and_then(|()| disk.try_command())
        .and_then(|()| disk.try_parts(node.segments() + 1));
    tried.map_err(|error| {
        if Status::of(&error).is_some() {
            return Error::new(ErrorKind::Io, format!("its zone report: {error}")).with_source(error);
        }
        let block = node.block_name();
        let text = match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL) => format!(
                "this kernel's driver takes no commands through io_uring; it takes Linux 6.1, or name \
                 the block device /dev/{block}"
            ),
            Some(libc::EACCES | libc::EPERM) => return sending_failed(error),
            _ => format!("{error}; or name the block device /dev/{block}"),
        };
        Error::new(ErrorKind::Unsupported, text).with_source(error)
    })
}

/// The limits that hold for every command: the namespace's, the controller's and the kernel's.
fn limits(identity: &Identity, kernel: u64) -> Result<DeviceLimits> {
    let block = u64::from(identity.block_size);
    let whole = kernel.min(identity.transfer.unwrap_or(u64::MAX)).min(BLOCKS_MAX * block);
    let whole = whole - whole % block;
    if whole == 0 {
        let text = format!("it takes no transfer of one block, {block} bytes");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let append = whole.min(identity.append.unwrap_or(u64::MAX));
    let zones = identity.size.div_ceil(identity.zone_size);
    let zones = u32::try_from(zones).map_err(|_| {
        let text = format!("it has {zones} zones, more than can be counted");
        Error::new(ErrorKind::Unsupported, text)
    })?;
    Ok(DeviceLimits {
        zone_size: identity.zone_size,
        zones,
        max_open_zones: identity.max_open_zones,
        max_active_zones: identity.max_active_zones,
        block_size: identity.block_size,
        max_append: append - append % block,
        whole_write: whole,
        disorder: None,
    })
}

/// The shape and zones of a namespace that answers with these pages and this report.
#[cfg(fuzzing)]
pub(crate) fn answered(
    [namespace, controller, zoned_namespace, zoned_controller]: [&identify::Page; 4],
    transfer: u64,
    report: &[u8],
) -> Result<(Geometry, Vec<Reported>)> {
    let identity = identify::identity(namespace, controller, zoned_namespace, zoned_controller)?;
    let limits = limits(&identity, transfer)?;
    let reported = report::zones(report, &scale(&identity))?;
    Ok((block::shape(&limits, &reported)?, reported))
}

fn scale(identity: &Identity) -> Scale {
    let Identity { block_size, zone_size, size, .. } = *identity;
    Scale { block_size: block_size.into(), zone_size, size }
}

/// All zones of the namespace.
fn read_report(disk: &NvmeDisk, identity: &Identity, transfer: u64) -> Result<Vec<Reported>> {
    let scale = scale(identity);
    let mut bytes = vec![0; report_bytes(transfer)];
    let mut zones: Vec<Reported> = Vec::new();
    let mut next = 0;
    while next < identity.size {
        let command = disk.namespace().report(next, bytes.len());
        let status =
            sys::ask(disk.file(), sys::Queue::Io, &command, &mut bytes).map_err(sending_failed)?;
        if status != 0 {
            let status = Status::new(status);
            let text = format!("its zone report: {status}");
            return Err(Error::new(status.kind(), text).with_source(status));
        }
        let some = report::zones(&bytes, &scale)?;
        // What does not go on is asked for once.
        let (Some(first), Some(last)) = (some.first(), some.last()) else { break };
        if first.start != next || last.start < next {
            let text = format!("its zone report goes on at byte {}, not {next}", first.start);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        next = last.start + last.size;
        zones.extend(some);
    }
    if next < identity.size {
        let text = format!("its zone report ends at byte {next} of {}", identity.size);
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(zones)
}

/// How many bytes of a report one transfer takes: the head and a zone at least.
fn report_bytes(transfer: u64) -> usize {
    let bytes = REPORT_BYTES.min(transfer).max(2 * DESCRIPTOR_BYTES as u64);
    usize::try_from(bytes).unwrap_or(ONE_ZONE_BYTES)
}

impl Nvme {
    /// A queue's ring, or two where the device is asked for completions.
    ///
    /// # Errors
    /// `Unsupported`: it cannot be asked. Otherwise the kernel's.
    pub(crate) fn engine(
        &self,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Engine> {
        if options.hipri {
            self.node.can_be_polled().map_err(|why| polled::refused(&why))?;
            let rings = self.disk.polled(options, arena)?;
            return Ok(Engine::PolledNvme(Box::new(rings)));
        }
        self.disk.ring(options, arena).map(|ring| Engine::Nvme(Box::new(ring)))
    }

    /// The longest command, in bytes.
    pub(crate) fn transfer(&self) -> u64 {
        self.transfer
    }

    /// How many bytes a report of many zones has.
    pub(crate) fn report_bytes(&self) -> usize {
        report_bytes(self.transfer)
    }

    /// What a report says of the zones from `first` on, of which there is one at least.
    ///
    /// # Errors
    /// `Unsupported`: something that cannot be understood.
    pub(crate) fn standings(&self, report: &[u8], first: ZoneIndex) -> Result<Vec<Standing>> {
        let zones = report::zones(report, &self.scale)?;
        let stands = |(nth, zone)| block::stands(zone, &self.geometry, ZoneIndex(first.0 + nth));
        let count = zones.len().max(1);
        let zones = zones.iter().map(Some).chain([None]).take(count);
        (0..).zip(zones).map(stands).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            block_size: 4096,
            size: 48 << 20,
            zone_size: 3 << 20,
            max_open_zones: 4,
            max_active_zones: 6,
            transfer: Some(512 << 10),
            append: Some(128 << 10),
        }
    }

    #[test]
    fn a_command_is_no_longer_than_the_tightest_limit() {
        let found = limits(&identity(), 508 << 10).unwrap();
        assert_eq!((found.whole_write, found.max_append, found.zones), (508 << 10, 128 << 10, 16));
        let found = limits(&identity(), 65 << 10).unwrap();
        assert_eq!((found.whole_write, found.max_append), (64 << 10, 64 << 10), "whole blocks");
        let unlimited = Identity { transfer: None, append: None, ..identity() };
        let found = limits(&unlimited, u64::MAX).unwrap();
        assert_eq!((found.whole_write, found.max_append), (256 << 20, 256 << 20), "16 bits");
        assert!(limits(&identity(), 512).unwrap_err().to_string().contains("one block"));
        let zones = Identity { zone_size: 4096, size: 1 << 62, ..identity() };
        assert!(limits(&zones, 4096).unwrap_err().to_string().contains("zones"));
    }

    #[test]
    fn what_is_not_sent_says_what_to_do() {
        for (errno, kind, words) in [
            (libc::EACCES, ErrorKind::Io, "do it as root"),
            (libc::ENOTTY, ErrorKind::Unsupported, "it takes Linux 5.13"),
            (libc::ENODEV, ErrorKind::NotFound, "ls /dev/ng*"),
        ] {
            let error = sending_failed(io::Error::from_raw_os_error(errno));
            assert!(error.kind() == kind && error.to_string().contains(words), "{error}");
        }
    }
}
