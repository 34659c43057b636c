//! The image that `bench` makes when it is given no target: in a folder of its own, so that
//! whatever lies beside it goes with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::signals::Interrupt;
use anyhow::{Context, Result, ensure};
use rustix::fs::statvfs;
use zonal::{CreateOptions, Geometry, Preallocate};

/// Large enough that an ordinary disk does not fill it within the time a run takes by default, small
/// enough that a fast one verifies all of it in a moment.
const SIZE: u64 = 1 << 30;

/// Enough zones for each job to spread over.
const ZONE_SIZE: u64 = 64 << 20;

/// A folder with an image, removed when dropped.
pub(super) struct Temporary {
    folder: PathBuf,
    image: PathBuf,
}

impl Temporary {
    /// Makes an image in `parent` with room for `wanted` bytes, or for as much as does the disk no
    /// harm.
    pub(super) fn create(
        parent: &Path,
        wanted: Option<u64>,
        preallocate: Preallocate,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let place = || parent.display().to_string();
        let disk = statvfs(parent).with_context(place)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let size = match wanted {
            // A zone more, since the last record of each may not fit.
            Some(wanted) => wanted.next_multiple_of(ZONE_SIZE) + ZONE_SIZE,
            None => SIZE.min(free / 2 / ZONE_SIZE * ZONE_SIZE),
        };
        ensure!(
            size >= ZONE_SIZE && size <= free,
            "{}: {free} bytes free are too few for a temporary image; say --dir, or a --size",
            parent.display()
        );
        let folder = create_folder(parent).with_context(|| {
            format!("{}: no folder can be made there; name another with --dir", place())
        })?;
        // From here on the folder goes when this does.
        let temporary = Self { image: folder.join("drive"), folder };
        let mut geometry = Geometry::with_size(size);
        geometry.zone_size = ZONE_SIZE;
        geometry.zone_capacity = ZONE_SIZE;
        let mut progress = |_, _| interrupt.check();
        let progress = Some(&mut progress as &mut dyn FnMut(_, _) -> _);
        let options = CreateOptions { geometry, preallocate, force: false, progress };
        zonal::create(&temporary.image, options)?;
        Ok(temporary)
    }

    /// The image.
    pub(super) fn image(&self) -> &Path {
        &self.image
    }
}

/// A new folder that nobody else has.
fn create_folder(parent: &Path) -> io::Result<PathBuf> {
    for number in 0u32.. {
        let folder = parent.join(format!(".zonal-bench-{}-{number}", std::process::id()));
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| folder),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is nothing to fail for; its name says where it comes from.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
