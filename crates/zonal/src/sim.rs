//! A simulated disk, for tests that choose what fails, in which order, and when the power goes.

pub use crate::engine::IoKind;
pub use crate::engine::sim::{
    FaultPlan, Outcome, PendingIo, SimCounts, SimDisk, SimImage, SimMode,
};

pub(crate) mod host;

pub use host::{SimCopy, SimHost, SimLive, SimRestore};

use crate::device::Device;
use crate::engine::Disk;
use crate::faults::Faults;
use crate::image::{AdoptOptions, Adopted, CheckOptions, CheckReport, RepairOptions, RepairReport};
use crate::open::{OpenOptions, under};
use crate::queue::Queue;
use std::hash::Hasher;
use zonal_core::error::Result;
use zonal_core::format::Geometry;
use zonal_core::format::layout::Layout;

/// The id of every image made here, so that the same steps make the same bytes.
const IMAGE_ID: [u8; 16] = *b"simulated image!";

/// Hashes all that a drive, and one queue to it, know that decides what they do next, as far as it
/// is plain data: places, states, what is in flight or waits, and what is durable or about to be.
/// With [`SimDisk::hash_state`] it tells an explorer that it has been here before, whatever the way.
///
/// A task that takes several steps (a flush, a reset, a failed zone that settles) is in it with what
/// it works for and what it waits for.
pub fn hash_state(queue: &Queue, hasher: &mut impl Hasher) {
    queue.hash_state(hasher);
}

/// Makes an image of an empty drive on a simulated disk, durably.
///
/// # Errors
/// A shape that cannot be, or a disk that fails.
pub fn create(disk: &SimDisk, geometry: &Geometry) -> Result<()> {
    let layout = Layout::plan(geometry)?;
    crate::image::write_layout(&Disk::Sim(disk.clone()), &layout, IMAGE_ID, |_| Ok(()))
}

/// Opens a simulated disk as an ordinary file that is one zone.
///
/// # Errors
/// As [`open`](crate::open).
pub fn open_file(disk: &SimDisk, options: &OpenOptions) -> Result<Device> {
    crate::file_zone::open_disk(Disk::Sim(disk.clone()), "file:sim", options, None)
}

/// Gives zones to the image on a simulated disk.
///
/// # Errors
/// As [`adopt`](crate::adopt).
pub fn adopt(disk: &SimDisk, options: AdoptOptions<'_>) -> Result<Adopted> {
    crate::image::adopt_disk(&Disk::Sim(disk.clone()), IMAGE_ID, options)
}

/// Checks the image on a simulated disk, without changing it.
///
/// # Errors
/// As [`check`](crate::check).
pub fn check(disk: &SimDisk, options: &CheckOptions) -> Result<CheckReport> {
    let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
    crate::image::check_disk(&Disk::Sim(disk.clone()), options, || open(disk, &read_only))
}

/// Repairs the image on a simulated disk, as after a power cut. What [`repair`](crate::repair) keeps in
/// a file beside the image comes to `kept` instead.
///
/// # Errors
/// As [`repair`](crate::repair).
pub fn repair(disk: &SimDisk, options: &RepairOptions, kept: &mut Vec<u8>) -> Result<RepairReport> {
    let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
    let keep = |bytes: &[u8]| {
        kept.extend_from_slice(bytes);
        Ok(())
    };
    let any = |_: &_, _: &_| Ok(());
    let image = Disk::Sim(disk.clone());
    crate::image::repair_disk(&image, options, any, keep, || open(disk, &read_only))
}

/// As [`open`], under a plan, which begins with the opened drive. After its cut
/// [`SimDisk::image`] is what is left.
///
/// ```
/// use zonal::faults::FaultPlan;
/// use zonal::sim::{self, SimDisk, SimImage, SimMode};
/// use zonal::{Geometry, OpenOptions};
///
/// let auto = || SimMode::Auto { seed: 1, faults: sim::FaultPlan::default() };
/// let disk = SimDisk::new(&SimImage::new(0, 4096), auto());
/// let geometry = Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(4 << 20) };
/// sim::create(&disk, &geometry)?;
/// let options = OpenOptions::default();
/// let drive = sim::open_with_faults(&disk, &options, &FaultPlan::new().cut_within(1..9).seed(3))?;
/// while drive.append(0, vec![1; 4096]).wait().is_ok() {}
/// drop(drive);
/// let left = SimDisk::new(&disk.image(), auto());
/// assert!(sim::check(&left, &Default::default())?.findings.is_empty());
/// # Ok::<(), zonal::Error>(())
/// ```
///
/// # Errors
/// As [`open`](crate::open).
pub fn open_with_faults(
    disk: &SimDisk,
    options: &OpenOptions,
    plan: &crate::faults::FaultPlan,
) -> Result<Device> {
    options.handles.check()?;
    let disk = under(Disk::Sim(disk.clone()), Some(&Faults::new(plan)));
    let device = crate::image::open_disk(disk, "sim:", options)?;
    Ok(device.with_handles(options.handles))
}

/// Opens the image on a simulated disk, as after a power cut: only its table counts.
///
/// # Errors
/// As [`open`](crate::open).
pub fn open(disk: &SimDisk, options: &OpenOptions) -> Result<Device> {
    options.handles.check()?;
    let device = crate::image::open_disk(Disk::Sim(disk.clone()), "sim:", options)?;
    Ok(device.with_handles(options.handles))
}
