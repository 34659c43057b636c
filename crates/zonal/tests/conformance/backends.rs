//! The kinds of drives: how each is made, and what it lacks. A new one is one more entry.

use crate::abilities::COUNT;
use crate::abilities::Cell::{self, Has, Lacks, Refuses};
use crate::plain::plain;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;
use zonal::ErrorKind::{NotAtWritePointer, OutOfRange, Unsupported};
use zonal::faults::FaultPlan;
use zonal::{
    AdoptOptions, CreateOptions, EngineChoice, Geometry, OpenOptions, Preallocate, QueueOptions,
    Request, Target,
};

/// Bytes of a block, on every drive here.
pub(crate) const BLOCK: u64 = 4096;

/// What of a zone's capacity is left on a drive that is nearly full.
pub(crate) const ROOM: u64 = 3 * BLOCK;

/// A kind of drive.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) engine: EngineChoice,
    /// Where its device, or the folder with its zonefs, is, by this variable of the environment; none: it is made of a file or memory.
    pub(crate) device: Option<&'static str>,
    /// Makes an empty one in a folder.
    pub(crate) make: fn(&Path) -> Target,
    /// Makes one whose first sequential zone can only be filled by pretending; an error where
    /// that cannot be done. `None`: its zones are small enough to be written.
    pub(crate) make_nearly_full: Option<fn(&Path) -> std::io::Result<Target>>,
    /// What it can do, in the order of [`ABILITIES`](crate::abilities::ABILITIES).
    pub(crate) cells: [Cell; COUNT],
}

const IMAGE: [Cell; COUNT] = [Has, Has, Has, Has, Has, Has, Has, Has, Has, Has, Lacks];
const FILE: [Cell; COUNT] = [
    Refuses(OutOfRange),
    Lacks,
    Refuses(NotAtWritePointer),
    Refuses(Unsupported),
    Has,
    Has,
    Has,
    Has,
    Has,
    Has,
    Lacks,
];
/// With a conventional zone and limits, all zones of more than 16 MiB together.
const NULL_BLK: [Cell; COUNT] =
    [Has, Has, Has, Has, Has, Has, Has, Has, Refuses(Unsupported), Has, Has];
/// As QEMU makes it: without conventional zones.
const ZNS: [Cell; COUNT] = [
    Has,
    Has,
    Refuses(NotAtWritePointer),
    Has,
    Has,
    Has,
    Has,
    Has,
    Refuses(Unsupported),
    Lacks,
    Has,
];

/// A mounted zonefs; without conventional zones but that of its superblock, which is no file.
const ZONEFS: [Cell; COUNT] = [
    Has,
    Has,
    Refuses(NotAtWritePointer),
    Has,
    Has,
    Has,
    Has,
    Has,
    Refuses(Unsupported),
    Has,
    Lacks,
];
/// The same with conventional zones.
const ZONEFS_CNV: [Cell; COUNT] =
    [Has, Has, Has, Has, Has, Has, Has, Has, Refuses(Unsupported), Has, Lacks];

/// One zone's file in a zonefs.
const ZONEFS_FILE: [Cell; COUNT] = [
    Refuses(OutOfRange),
    Lacks,
    Refuses(NotAtWritePointer),
    Has,
    Has,
    Has,
    Has,
    Has,
    Refuses(Unsupported),
    Has,
    Lacks,
];

pub(crate) const BACKENDS: &[Backend] = &[
    Backend {
        name: "mem:",
        engine: EngineChoice::Auto,
        device: None,
        make: |_| Target::Memory(geometry()),
        make_nearly_full: None,
        cells: [Has, Has, Has, Has, Lacks, Lacks, Lacks, Lacks, Has, Has, Lacks],
    },
    Backend {
        name: "mem:, late and short",
        engine: EngineChoice::Auto,
        device: None,
        make: |_| Target::Memory(geometry()).with_faults(harmless()),
        make_nearly_full: None,
        cells: [Has, Has, Has, Has, Lacks, Lacks, Lacks, Has, Has, Has, Lacks],
    },
    Backend {
        name: "image, late and short",
        engine: EngineChoice::Auto,
        device: None,
        make: |folder| image(folder).with_faults(harmless()),
        make_nearly_full: None,
        cells: IMAGE,
    },
    Backend {
        name: "image, io_uring",
        engine: EngineChoice::IoUring,
        device: None,
        make: image,
        make_nearly_full: None,
        cells: IMAGE,
    },
    Backend {
        name: "image, threads",
        engine: EngineChoice::Threads,
        device: None,
        make: image,
        make_nearly_full: None,
        cells: IMAGE,
    },
    Backend {
        name: "adopted, io_uring",
        engine: EngineChoice::IoUring,
        device: None,
        make: adopted,
        make_nearly_full: None,
        cells: IMAGE,
    },
    Backend {
        name: "adopted, threads",
        engine: EngineChoice::Threads,
        device: None,
        make: adopted,
        make_nearly_full: None,
        cells: IMAGE,
    },
    Backend {
        name: "file:, io_uring",
        engine: EngineChoice::IoUring,
        device: None,
        make: file,
        make_nearly_full: Some(nearly_full_file),
        cells: FILE,
    },
    Backend {
        name: "file:, threads",
        engine: EngineChoice::Threads,
        device: None,
        make: file,
        make_nearly_full: Some(nearly_full_file),
        cells: FILE,
    },
    Backend {
        name: "null_blk, io_uring",
        engine: EngineChoice::IoUring,
        device: Some("ZONAL_NULL_BLK"),
        make: |_| device("ZONAL_NULL_BLK"),
        make_nearly_full: None,
        cells: NULL_BLK,
    },
    Backend {
        name: "null_blk, threads",
        engine: EngineChoice::Threads,
        device: Some("ZONAL_NULL_BLK"),
        make: |_| device("ZONAL_NULL_BLK"),
        make_nearly_full: None,
        cells: NULL_BLK,
    },
    Backend {
        name: "zns, io_uring",
        engine: EngineChoice::IoUring,
        device: Some("ZONAL_ZNS"),
        make: |_| device("ZONAL_ZNS"),
        make_nearly_full: None,
        cells: ZNS,
    },
    Backend {
        name: "zns, threads",
        engine: EngineChoice::Threads,
        device: Some("ZONAL_ZNS"),
        make: |_| device("ZONAL_ZNS"),
        make_nearly_full: None,
        cells: ZNS,
    },
    Backend {
        name: "nvme, io_uring",
        engine: EngineChoice::IoUring,
        device: Some("ZONAL_NVME"),
        make: |_| device("ZONAL_NVME"),
        make_nearly_full: None,
        cells: ZNS,
    },
    Backend {
        name: "scsi_debug, io_uring",
        engine: EngineChoice::IoUring,
        device: Some("ZONAL_SCSI_DEBUG"),
        make: |_| device("ZONAL_SCSI_DEBUG"),
        make_nearly_full: None,
        cells: NULL_BLK,
    },
    Backend {
        name: "scsi_debug, threads",
        engine: EngineChoice::Threads,
        device: Some("ZONAL_SCSI_DEBUG"),
        make: |_| device("ZONAL_SCSI_DEBUG"),
        make_nearly_full: None,
        cells: NULL_BLK,
    },
    Backend {
        name: "zonefs, io_uring",
        engine: EngineChoice::IoUring,
        device: Some("ZONAL_ZONEFS"),
        make: |_| device("ZONAL_ZONEFS"),
        make_nearly_full: None,
        cells: ZONEFS,
    },
    Backend {
        name: "zonefs, threads",
        engine: EngineChoice::Threads,
        device: Some("ZONAL_ZONEFS"),
        make: |_| device("ZONAL_ZONEFS"),
        make_nearly_full: None,
        cells: ZONEFS,
    },
    Backend {
        name: "zonefs with cnv, io_uring",
        engine: EngineChoice::IoUring,
        device: Some("ZONAL_ZONEFS_CNV"),
        make: |_| device("ZONAL_ZONEFS_CNV"),
        make_nearly_full: None,
        cells: ZONEFS_CNV,
    },
    Backend {
        name: "zonefs with cnv, threads",
        engine: EngineChoice::Threads,
        device: Some("ZONAL_ZONEFS_CNV"),
        make: |_| device("ZONAL_ZONEFS_CNV"),
        make_nearly_full: None,
        cells: ZONEFS_CNV,
    },
    Backend {
        name: "zonefs, one file, io_uring",
        engine: EngineChoice::IoUring,
        device: Some("ZONAL_ZONEFS_FILE"),
        make: |_| device("ZONAL_ZONEFS_FILE"),
        make_nearly_full: None,
        cells: ZONEFS_FILE,
    },
    Backend {
        name: "zonefs, one file, threads",
        engine: EngineChoice::Threads,
        device: Some("ZONAL_ZONEFS_FILE"),
        make: |_| device("ZONAL_ZONEFS_FILE"),
        make_nearly_full: None,
        cells: ZONEFS_FILE,
    },
];

impl Backend {
    /// Why it cannot be had on this machine, if so.
    pub(crate) fn unavailable(&self) -> Option<String> {
        if let Some(variable) = self.device.filter(|variable| std::env::var_os(variable).is_none())
        {
            return Some(format!("{variable} names no device; guest/run has some"));
        }
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let opened = zonal::open(&(self.make)(folder.path()), &self.options());
        opened.err().filter(|error| error.kind() == Unsupported).map(|error| error.to_string())
    }

    pub(crate) fn options(&self) -> OpenOptions {
        OpenOptions { engine: self.engine, ..OpenOptions::default() }
    }
}

/// Of everything a little: a conventional zone, sequential ones of which less than all can be
/// written, limits.
fn geometry() -> Geometry {
    Geometry {
        zone_size: 1 << 20,
        zone_capacity: 768 << 10,
        conventional_zones: 1,
        max_open_zones: 2,
        max_active_zones: 3,
        max_append: 64 << 10,
        ..Geometry::with_size(6 << 20)
    }
}

/// What a plan can do without an error: nobody has to notice.
fn harmless() -> FaultPlan {
    FaultPlan::new().latency(Duration::ZERO..Duration::from_micros(200)).short(200).seed(1)
}

fn image(folder: &Path) -> Target {
    let path = folder.join("disk.qcow2");
    let preallocate = Preallocate::Off;
    let options = CreateOptions { geometry: geometry(), preallocate, force: false, progress: None };
    zonal::create(&path, options).unwrap();
    Target::Path(path)
}

/// An image of another making, without a cluster, that was given zones.
fn adopted(folder: &Path) -> Target {
    const CLUSTER_BITS: u32 = 16;
    let geometry = geometry();
    let image = plain(CLUSTER_BITS, geometry.size, &[]);
    let mut bytes = vec![0; image.len() as usize];
    image.read(0, &mut bytes);
    let path = folder.join("disk.qcow2");
    fs::write(&path, bytes).unwrap();
    let options = AdoptOptions {
        zone_size: Some(geometry.zone_size),
        zone_capacity: Some(geometry.zone_capacity),
        conventional_zones: geometry.conventional_zones,
        max_open_zones: geometry.max_open_zones,
        max_active_zones: geometry.max_active_zones,
        max_append: Some(geometry.max_append),
        ..AdoptOptions::default()
    };
    zonal::adopt(&path, options).unwrap();
    Target::Path(path)
}

/// The device or zonefs that a variable names, with all zones emptied.
fn device(variable: &str) -> Target {
    let target = Target::Path(std::env::var_os(variable).unwrap().into());
    let drive = zonal::open(&target, &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    queue.push(Request::reset_all()).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result.unwrap();
    target
}

fn file(folder: &Path) -> Target {
    let path = folder.join("log");
    fs::write(&path, b"").unwrap();
    Target::File(path)
}

fn nearly_full_file(folder: &Path) -> std::io::Result<Target> {
    let target = file(folder);
    let capacity = zonal::open(&target, &OpenOptions::default())
        .map_err(std::io::Error::from)?
        .geometry()
        .zone_capacity;
    File::options().write(true).open(folder.join("log"))?.set_len(capacity - ROOM)?;
    Ok(target)
}
