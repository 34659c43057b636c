//! The one way in: a target is named, probed once, and opened.

use crate::block;
use crate::device::{Device, Drive, Medium, OpenNotes};
use crate::engine::EngineChoice;
use crate::engine::file::FileDisk;
use crate::handle::HandleOptions;
use crate::memory::Memory;
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
        let engine = self.engine.resolve().map_err(|error| {
            let (kind, next) = match error.kind() {
                io::ErrorKind::Unsupported => {
                    (ErrorKind::Unsupported, "; choose the threads engine, which does without")
                }
                _ => (crate::queue::io_kind(&error), ""),
            };
            Error::new(kind, format!("{error}{next}")).with_source(error)
        })?;
        Ok(file.with_engine(engine))
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
    let device = match target {
        Target::Path(path) => open_path(path, options)?,
        Target::Memory(geometry) => open_memory(geometry, options)?,
        Target::File(path) => crate::file_zone::open(path, &target.to_string(), options)?,
    };
    Ok(device.with_handles(options.handles))
}

/// Opens what is at a path, by what it is.
fn open_path(path: &Path, options: &OpenOptions) -> Result<Device> {
    if block::device_number(path).is_some() {
        block::open(path, options)
    } else {
        crate::image::open(path, options)
    }
}

fn open_memory(geometry: &Geometry, options: &OpenOptions) -> Result<Device> {
    let name = Target::Memory(geometry.clone()).to_string();
    let named = |error: Error| error.on(name.as_str()).during("open");
    geometry.validate().map_err(named)?;
    let memory = Memory::new(geometry.size).map_err(|error| {
        let text = format!("{} bytes of memory cannot be had; take a smaller size", geometry.size);
        named(Error::new(ErrorKind::InvalidInput, text).with_source(error))
    })?;
    let zones = geometry.zones();
    let cells = Cells::new(SharedWords::heap(words_needed(zones)), 0, zones);
    let empty = Found { wp: Blocks::ZERO, generation: Generation(0), condition: None };
    let zones = Zones::new(geometry.clone(), cells, Keeping::Nothing, |_| empty);
    Ok(Device::new(Drive {
        name,
        zones: Arc::new(zones),
        read_only: options.read_only,
        medium: Medium::Memory(memory),
        notes: OpenNotes::default(),
    }))
}
