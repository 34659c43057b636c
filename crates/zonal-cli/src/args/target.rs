//! The target of a command and how it is opened.

use anyhow::Result;
use clap::{Args, ValueEnum};
use zonal::{Device, EngineChoice, OpenOptions, Target};

use crate::output::Ui;

/// The drive a command works on; always the first word.
#[derive(Args, Debug)]
pub(crate) struct TargetArg {
    /// An image, a zoned block device, `mem:size=8G,zone-size=64M` or `file:PATH`
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

/// What moves the bytes of an image or file.
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

impl TargetArg {
    /// Opens it.
    pub(crate) fn open(&self, access: impl Into<Access>, ui: &Ui) -> Result<Device> {
        open(&self.target, access.into(), Engine::Auto, ui)
    }
}
