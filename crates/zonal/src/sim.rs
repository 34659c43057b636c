//! A simulated disk, for tests that choose what fails, in which order, and when the power goes.

pub use crate::engine::IoKind;
pub use crate::engine::sim::{
    FaultPlan, Outcome, PendingIo, SimCounts, SimDisk, SimImage, SimMode,
};

use crate::device::Device;
use crate::engine::Disk;
use crate::open::OpenOptions;
use zonal_core::error::Result;
use zonal_core::format::Geometry;
use zonal_core::format::layout::Layout;

/// Makes an image of an empty drive on a simulated disk, durably.
///
/// # Errors
/// A shape that cannot be, or a disk that fails.
pub fn create(disk: &SimDisk, geometry: &Geometry) -> Result<()> {
    let layout = Layout::plan(geometry)?;
    crate::image::write_layout(&Disk::Sim(disk.clone()), &layout, |_| Ok(()))
}

/// Opens the image on a simulated disk, as after a power cut: only its table counts.
///
/// # Errors
/// As [`open`](crate::open).
pub fn open(disk: &SimDisk, options: &OpenOptions) -> Result<Device> {
    crate::image::open_disk(Disk::Sim(disk.clone()), "sim:", options)
}
