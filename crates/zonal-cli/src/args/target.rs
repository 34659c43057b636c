//! The target of a command and how it is opened.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use zonal::{Device, EngineChoice, OpenOptions, Target};

use crate::{output::Ui, own::OwnFiles};

/// The drive a command works on; always the first word.
#[derive(Args, Debug)]
pub(crate) struct TargetArg {
    /// An image, a zoned block device, an NVMe namespace (`/dev/ng0n1`), the folder of a mounted zonefs or
    /// one zone's file in it, `mem:size=8G,zone-size=64M` or `file:PATH`; behind it perhaps `,faults=…`, how it fails
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
}

/// Whether what the last session had not flushed may be given up.
#[derive(Args, Debug, Default)]
pub(crate) struct WriteAccess {
    /// Open an image that was not closed cleanly even if writes that were not flushed are gone
    #[arg(long)]
    pub(crate) drop_unflushed: bool,
}

/// What moves the bytes of an image, file or device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Engine {
    /// io_uring where the kernel lets us, else threads
    #[default]
    Auto,
    /// io_uring, or an error
    IoUring,
    /// A few threads for each queue
    Threads,
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::IoUring => Self::IoUring,
            Engine::Threads => Self::Threads,
        }
    }
}

/// How a command opens its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Beside a writer, changing nothing.
    Read,
    /// Alone.
    Write {
        /// See [`WriteAccess::drop_unflushed`].
        drop_unflushed: bool,
    },
}

impl From<&WriteAccess> for Access {
    fn from(access: &WriteAccess) -> Self {
        Self::Write { drop_unflushed: access.drop_unflushed }
    }
}

/// Opens the drive that `text` names over an engine, and says on stderr what its opening found.
pub(crate) fn open(text: &str, access: Access, engine: Engine, ui: &Ui) -> Result<Device> {
    OwnFiles::of(text).refuse_stdout()?;
    let read_only = access == Access::Read;
    let mut options = OpenOptions { read_only, engine: engine.into(), ..Default::default() };
    if let Access::Write { drop_unflushed: true } = access {
        options.drop_unflushed = true;
    }
    let device = zonal::open(&Target::parse(text)?, &options)?;
    let info = device.info();
    if let Some(recovered) = &info.recovered {
        ui.say(format_args!("{text}: {recovered}"));
    }
    for warning in &info.warnings {
        ui.say(format_args!("{text}: {warning}"));
    }
    Ok(device)
}

/// The file that a command works on without opening the drive in it, so that no plan applies;
/// `instead` says where one does.
pub(crate) fn without_plan(path: &Path, instead: &str) -> Result<PathBuf> {
    let Some(name) = path.to_str().filter(|name| name.contains(",faults=")) else {
        return Ok(path.to_owned());
    };
    match Target::parse(name)? {
        Target::Path(path) => Ok(path),
        Target::Faulty(target, plan) => {
            bail!("{target}: the fault plan `{plan}` does not apply here: {instead}")
        }
        Target::Memory(_) | Target::File(_) => Ok(path.to_owned()),
    }
}

impl TargetArg {
    /// Its files, which are no input nor output of the same command.
    pub(crate) fn own_files(&self) -> OwnFiles {
        OwnFiles::of(&self.target)
    }

    /// Opens it.
    pub(crate) fn open(&self, access: impl Into<Access>, ui: &Ui) -> Result<Device> {
        open(&self.target, access.into(), Engine::Auto, ui)
    }
}
