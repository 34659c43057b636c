//! What fuzz targets reach of the insides, in no other build: what devices answer and what stands in a journal,
//! given as bytes, on the way that openings take.

use crate::block::Reported;
use crate::device::{Device, Drive, Medium, OpenNotes};
use crate::engine::Disk;
use crate::engine::sim::SimDisk;
use crate::memory::Memory;
use crate::sys::words::SharedWords;
use crate::zones::cells::words_needed;
use crate::zones::{Cells, Keeping, Zones};
use std::path::Path;
use std::sync::Arc;
use zonal_core::error::Result;
use zonal_core::format::Geometry;

pub use crate::atomic::Begun;

/// The drive of a namespace that answers Identify with these pages (namespace, controller, and the same of its
/// zoned command set) and a report with these bytes; the kernel takes `transfer` bytes at once.
///
/// # Errors
/// As [`open`](crate::open).
pub fn namespace(pages: [&[u8; 4096]; 4], transfer: u64, report: &[u8]) -> Result<Device> {
    crate::nvme::answered(pages, transfer, report).map(drive)
}

/// The drive of a block device whose folder in sysfs this is, and whose report has these bytes.
///
/// # Errors
/// As [`open`](crate::open).
pub fn block_device(sysfs: &Path, report: &[u8], has_capacity: bool) -> Result<Device> {
    crate::block::answered(sysfs, report, has_capacity).map(drive)
}

/// A file of a zonefs as `stat` shows it.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its inode's number.
    pub number: u64,
    /// Its type and permissions.
    pub mode: u32,
    /// Its length.
    pub size: u64,
    /// Its blocks, of 512 bytes.
    pub blocks: u64,
}

/// The drive of these files, or that of the first by itself, on a device with this folder in sysfs.
///
/// # Errors
/// As [`open`](crate::open).
pub fn zonefs(
    sysfs: &Path,
    conventional: &[File],
    sequential: &[File],
    alone: bool,
) -> Result<Device> {
    let stat = |file: &File| (file.number, file.mode, file.size, file.blocks);
    let conventional: Vec<_> = conventional.iter().map(stat).collect();
    let sequential: Vec<_> = sequential.iter().map(stat).collect();
    crate::block::zonefs::answered(sysfs, &conventional, &sequential, alone).map(drive)
}

/// Where lines of `mountinfo` have the zonefs of a device mounted, and what it does about errors.
pub fn mount(lines: &[u8], device: &str, path: &Path) -> Option<String> {
    crate::block::mounted_as(lines, device, path)
}

/// What the status of a command means.
pub fn status(bits: u16) -> String {
    crate::nvme::Status::new(bits).to_string()
}

/// What stands in the journal on a disk is put in its places on another, and a session is begun.
///
/// # Errors
/// As [`crate::atomic::open`].
pub fn journal(journal: &SimDisk, data: &SimDisk) -> Result<Option<Begun>> {
    crate::atomic::begin_journal(Disk::Sim(journal.clone()), &Disk::Sim(data.clone()))
}

/// A drive of that shape with its zones as they were reported, and no bytes behind them.
fn drive((geometry, reported): (Geometry, Vec<Reported>)) -> Device {
    let count = geometry.zones();
    let cells = Cells::new(SharedWords::heap(words_needed(count)), 0, count);
    let shape = geometry.clone();
    let zones = Zones::new(geometry, cells, Keeping::Nothing, |zone| {
        crate::block::found(&reported[zone.index()], &shape)
    });
    Device::new(Drive {
        name: String::from("answers"),
        zones: Arc::new(zones),
        read_only: true,
        medium: Medium::Memory(Memory::new(4096).expect("a page")),
        notes: OpenNotes::default(),
    })
}
