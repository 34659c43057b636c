//! The one way in: a target is named, probed once, and opened.

use crate::block;
use crate::device::{Device, Drive, Medium, OpenNotes};
use crate::engine::faulty::FaultyDisk;
use crate::engine::file::FileDisk;
use crate::engine::{Disk, EngineChoice};
use crate::faults::Faults;
use crate::handle::HandleOptions;
use crate::memory::Memory;
use crate::nvme;
use crate::sys::words::SharedWords;
use crate::target::Target;
use crate::zones::cells::words_needed;
use crate::zones::{Cells, Found, Keeping, Zones};
use std::io;
use std::path::Path;
use std::sync::Arc;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::units::{Blocks, Generation};

/// How a drive is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Only to read it; works beside a process that writes.
    pub read_only: bool,
    /// Go on from the last flush when a session was cut off and what it had acknowledged since
    /// cannot be found.
    pub drop_unflushed: bool,
    /// Give the space of zones that were reset back to the file system. Writes to never-written
    /// blocks are slower than to blocks written before.
    pub discard: bool,
    /// What moves the bytes of an image or file.
    pub engine: EngineChoice,
    /// What serves asynchronous and blocking calls.
    pub handles: HandleOptions,
}

impl OpenOptions {
    /// A file's handle with the engine asked for.
    ///
    /// # Errors
    /// A kernel that does not give what was asked for.
    pub(crate) fn driven(&self, file: FileDisk) -> Result<FileDisk> {
        let (engine, instead) = self.engine.resolve().map_err(|error| {
            let without = "; choose the threads engine, which does without";
            let (kind, next) = match error.kind() {
                io::ErrorKind::Unsupported => (ErrorKind::Unsupported, without),
                io::ErrorKind::OutOfMemory => (ErrorKind::Io, without),
                _ => (crate::queue::io_kind(&error), ""),
            };
            Error::new(kind, format!("{error}{next}")).with_source(error)
        })?;
        let file = file.with_engine(engine);
        if let Some(error) = instead {
            file.uses_threads(&error);
        }
        Ok(if self.engine == EngineChoice::Auto { file.or_threads() } else { file })
    }
}

/// Opens a drive.
///
/// # Errors
/// Nothing there, not a zoned drive, in use, damaged, or not closed cleanly; the error says what
/// to do next.
///
/// # Examples
/// ```
/// use zonal::{OpenOptions, QueueOptions, Request, Target};
///
/// let target = Target::parse("mem:size=64M,zone-size=16M")?;
/// let drive = zonal::open(&target, &OpenOptions::default())?;
/// let mut queue = drive.queue(&QueueOptions::default())?;
/// let mut record = queue.buffer(4096).expect("a fresh queue has buffers");
/// record.fill(7);
/// queue.push(Request::append(2, record))?;
/// queue.submit_and_wait(1)?;
/// let completion = queue.next_completion().expect("it was waited for");
/// assert_eq!(completion.result?, 4096);
/// assert_eq!(completion.offset, 2 * (16 << 20));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open(target: &Target, options: &OpenOptions) -> Result<Device> {
    options.handles.check()?;
    let name = target.to_string();
    let (target, faults) = match target {
        Target::Faulty(target, plan) => (&**target, Some(Faults::new(plan))),
        Target::Path(_) | Target::Memory(_) | Target::File(_) => (target, None),
    };
    let faults = faults.as_ref();
    let device = match target {
        Target::Path(path) => open_path(path, &name, options, faults)?,
        Target::Memory(geometry) => open_memory(geometry, &name, options, faults)?,
        Target::File(path) => crate::file_zone::open(path, &name, options, faults)?,
        Target::Faulty(..) => {
            let text = "it has two fault plans; give it one";
            return Err(Error::new(ErrorKind::InvalidInput, text).on(name).during("open"));
        }
    };
    Ok(device.with_handles(options.handles))
}

/// A disk under its plan, if it has one.
pub(crate) fn under(disk: Disk, faults: Option<&Arc<Faults>>) -> Disk {
    match faults {
        Some(faults) => Disk::Faulty(FaultyDisk::new(disk, faults, None)),
        None => disk,
    }
}

/// Opens what is at a path, by what it is.
fn open_path(
    path: &Path,
    name: &str,
    options: &OpenOptions,
    faults: Option<&Arc<Faults>>,
) -> Result<Device> {
    let is_node = block::device_number(path).is_some();
    let is_namespace = nvme::device_number(path).is_some();
    if !is_node && !is_namespace && !block::is_zonefs(path) {
        return crate::image::open_as(path, name, options, faults);
    }
    if faults.is_some() {
        // What a plan fails before it reaches a device leaves no trace there, and is sent again as
        // having come out of order; and what a cut would take back, no device unwrites.
        let text = "a real device takes no fault plan; give one to an image of its shape \
                    (zonal create), or leave it out";
        return Err(Error::new(ErrorKind::Unsupported, text).on(name).during("open"));
    }
    if is_namespace {
        nvme::open(path, name, options)
    } else if is_node {
        block::open(path, name, options)
    } else {
        block::zonefs::open(path, name, options)
    }
}

fn open_memory(
    geometry: &Geometry,
    name: &str,
    options: &OpenOptions,
    faults: Option<&Arc<Faults>>,
) -> Result<Device> {
    let named = |error: Error| error.on(name).during("open");
    geometry.validate().map_err(named)?;
    let missing = |error| {
        let text = format!("{} bytes of memory cannot be had; take a smaller size", geometry.size);
        named(Error::new(ErrorKind::InvalidInput, text).with_source(error))
    };
    let medium = match faults {
        None => Medium::Memory(Memory::new(geometry.size).map_err(missing)?),
        Some(faults) => {
            let file = FileDisk::in_memory(geometry.size).map_err(missing)?;
            let disk = Disk::File(options.driven(file).map_err(named)?);
            Medium::Planned(Disk::Faulty(FaultyDisk::new(disk, faults, Some("memory"))))
        }
    };
    let zones = geometry.zones();
    let cells = Cells::new(SharedWords::heap(words_needed(zones)), 0, zones);
    let empty = Found { wp: Blocks::ZERO, generation: Generation(0), condition: None };
    let zones = Zones::new(geometry.clone(), cells, Keeping::Nothing, |_| empty);
    let drive = Drive {
        name: name.to_owned(),
        zones: Arc::new(zones),
        read_only: options.read_only,
        medium,
        notes: OpenNotes::default(),
    };
    drive.begin_plan(None).map_err(named)?;
    Ok(Device::new(drive))
}
