//! The kinds of drives, each under a plan.

use crate::plain::plain;
use std::fs;
use tempfile::TempDir;
use zonal::faults::FaultPlan;
use zonal::sim::{self, SimDisk, SimImage, SimMode};
use zonal::{
    AdoptOptions, CreateOptions, Device, EngineChoice, ErrorKind, Geometry, OpenOptions,
    Preallocate, Target,
};

pub(crate) const BLOCK: usize = 4096;

/// From one zone's start to the next, and all of it can be written.
pub(crate) const ZONE: u64 = 1 << 20;

/// How a drive is made in a folder.
type Make = fn(&TempDir) -> Target;

/// A kind of drive.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    engine: EngineChoice,
    /// None: the simulated disk.
    make: Option<Make>,
}

const fn kind(name: &'static str, engine: EngineChoice, make: Make) -> Kind {
    Kind { name, engine, make: Some(make) }
}

pub(crate) const KINDS: [Kind; 9] = [
    kind("mem:, io_uring", EngineChoice::IoUring, |_| Target::Memory(geometry())),
    kind("mem:, threads", EngineChoice::Threads, |_| Target::Memory(geometry())),
    kind("image, io_uring", EngineChoice::IoUring, image),
    kind("image, threads", EngineChoice::Threads, image),
    kind("adopted, io_uring", EngineChoice::IoUring, adopted),
    kind("adopted, threads", EngineChoice::Threads, adopted),
    kind("file:, io_uring", EngineChoice::IoUring, file),
    kind("file:, threads", EngineChoice::Threads, file),
    Kind { name: "simulated", engine: EngineChoice::Auto, make: None },
];

impl Kind {
    /// A fresh drive; `None`, said so, where the machine cannot have it.
    pub(crate) fn fresh(&self) -> Option<Drive> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let place = match self.make {
            Some(make) => Place::Real(make(&folder)),
            None => Place::Simulated(simulated()),
        };
        let drive = Drive { place, engine: self.engine, _folder: folder };
        match drive.try_open(None) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                println!("SKIP {}: {error}", self.name);
                None
            }
            opened => {
                opened.unwrap().close().unwrap();
                Some(drive)
            }
        }
    }

    /// Whether there is a drive to open again after the last handle is gone.
    pub(crate) fn outlives_its_handles(&self) -> bool {
        !self.name.starts_with("mem:")
    }

    pub(crate) fn is_image(&self) -> bool {
        self.outlives_its_handles() && !self.is_file()
    }

    pub(crate) fn is_file(&self) -> bool {
        self.name.starts_with("file:")
    }
}

enum Place {
    Real(Target),
    Simulated(SimDisk),
}

/// A drive that can be opened again and again.
pub(crate) struct Drive {
    place: Place,
    engine: EngineChoice,
    _folder: TempDir,
}

impl Drive {
    fn try_open(&self, plan: Option<&FaultPlan>) -> zonal::Result<Device> {
        let options = OpenOptions { engine: self.engine, ..OpenOptions::default() };
        match (&self.place, plan) {
            (Place::Real(target), None) => zonal::open(target, &options),
            (Place::Real(target), Some(plan)) => {
                zonal::open(&target.clone().with_faults(plan.clone()), &options)
            }
            (Place::Simulated(disk), None) => sim::open(disk, &options),
            (Place::Simulated(disk), Some(plan)) => sim::open_with_faults(disk, &options, plan),
        }
    }

    pub(crate) fn open(&self) -> Device {
        self.try_open(None).unwrap()
    }

    pub(crate) fn under(&self, plan: &FaultPlan) -> Device {
        self.try_open(Some(plan)).unwrap()
    }

    pub(crate) fn refuses(&self, plan: &FaultPlan) -> zonal::Error {
        self.try_open(Some(plan)).unwrap_err()
    }

    /// The bytes of a real image or file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match &self.place {
            Place::Real(Target::Path(path) | Target::File(path)) => fs::read(path).unwrap(),
            Place::Simulated(disk) => disk.image().to_bytes(),
            Place::Real(_) => Vec::new(),
        }
    }
}

pub(crate) fn geometry() -> Geometry {
    Geometry {
        zone_size: ZONE,
        zone_capacity: ZONE,
        max_append: 256 << 10,
        ..Geometry::with_size(4 * ZONE)
    }
}

fn image(folder: &TempDir) -> Target {
    let path = folder.path().join("disk.qcow2");
    let preallocate = Preallocate::Off;
    let options = CreateOptions { geometry: geometry(), preallocate, force: false, progress: None };
    zonal::create(&path, options).unwrap();
    Target::Path(path)
}

fn adopted(folder: &TempDir) -> Target {
    let path = folder.path().join("disk.qcow2");
    fs::write(&path, plain(16, geometry().size, &[]).to_bytes()).unwrap();
    let options = AdoptOptions {
        zone_size: Some(ZONE),
        max_append: Some(geometry().max_append),
        ..AdoptOptions::default()
    };
    zonal::adopt(&path, options).unwrap();
    Target::Path(path)
}

fn file(folder: &TempDir) -> Target {
    let path = folder.path().join("log");
    fs::write(&path, b"").unwrap();
    Target::File(path)
}

fn simulated() -> SimDisk {
    let mode = SimMode::Auto { seed: 1, faults: sim::FaultPlan::default() };
    let disk = SimDisk::new(&SimImage::new(0, BLOCK), mode);
    sim::create(&disk, &geometry()).unwrap();
    disk
}
