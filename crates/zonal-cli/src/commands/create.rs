//! `zonal create`: an empty drive in a file.

use std::{io, path::PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use zonal::{CreateOptions, Geometry, Preallocate};

use crate::{
    args::{Size, format_size, without_plan},
    outcome::Outcome,
    output::{Ui, plural, print_json},
    own::refuse_live_name,
    signals::Interrupt,
};

/// The words of `create`.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Where the image goes
    path: PathBuf,
    /// The drive's size
    #[arg(long)]
    size: Size,
    /// From one zone's start to the next [default: 256M]
    #[arg(long)]
    zone_size: Option<Size>,
    /// How much of a zone can be written [default: the zone size]
    #[arg(long)]
    zone_capacity: Option<Size>,
    /// How many zones at the start are conventional
    #[arg(long, value_name = "N", default_value_t = 0)]
    conventional_zones: u32,
    /// How many zones may be open at once; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_open_zones: u32,
    /// How many zones may be open or closed with data at once; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_active_zones: u32,
    /// The logical block: nothing smaller is read or written [default: 4096]
    #[arg(long, value_name = "SIZE")]
    block_size: Option<Size>,
    /// The largest append [default: 1M]
    #[arg(long, value_name = "SIZE")]
    max_append: Option<Size>,
    /// Take the disk space now: not, by asking the file system, or by writing zeros
    #[arg(long, value_enum, default_value_t = Reserve::Off)]
    preallocate: Reserve,
    /// Replace what is at the path
    #[arg(long)]
    force: bool,
}

/// The words of `--preallocate`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Reserve {
    /// Not now.
    Off,
    /// Set aside, without writing it.
    Falloc,
    /// Written with zeros.
    Full,
}

impl From<Reserve> for Preallocate {
    fn from(reserve: Reserve) -> Self {
        match reserve {
            Reserve::Off => Self::Off,
            Reserve::Falloc => Self::Falloc,
            Reserve::Full => Self::Full,
        }
    }
}

/// What `create --json` says.
#[derive(Serialize)]
struct Created {
    path: String,
    size: u64,
    zones: u32,
    zone_size: u64,
    zone_capacity: u64,
}

impl CreateArgs {
    /// The geometry asked for; whether it makes sense is the library's to say.
    fn geometry(&self) -> Result<Geometry> {
        let mut geometry = Geometry::with_size(self.size.0);
        if let Some(size) = self.zone_size {
            geometry.zone_size = size.0;
            geometry.zone_capacity = size.0;
        }
        if let Some(size) = self.zone_capacity {
            geometry.zone_capacity = size.0;
        }
        if let Some(size) = self.block_size {
            geometry.block_size = u32::try_from(size.0).context("--block-size is too large")?;
        }
        geometry.max_append = match self.max_append {
            Some(size) => u32::try_from(size.0).context("--max-append is too large")?,
            // What is not asked for may be as small as a zone has it.
            None => u32::try_from(geometry.zone_capacity)
                .map_or(geometry.max_append, |capacity| geometry.max_append.min(capacity)),
        };
        geometry.conventional_zones = self.conventional_zones;
        geometry.max_open_zones = self.max_open_zones;
        geometry.max_active_zones = self.max_active_zones;
        geometry.validate_for_image().map_err(|error| anyhow!("create: --{}", error.detail()))?;
        Ok(geometry)
    }
}

/// Runs `create`.
pub(crate) fn run(args: &CreateArgs, ui: &Ui) -> Result<Outcome> {
    ensure!(
        !args.path.to_string_lossy().starts_with("mem:"),
        "{}: a drive in memory needs no create; name it where it is used",
        args.path.display()
    );
    ensure!(
        !args.path.to_string_lossy().starts_with("file:"),
        "{}: an ordinary file needs no create; make an empty one with touch",
        args.path.display()
    );
    let path = without_plan(
        &args.path,
        "making an image does not fail by one; name it where the drive is used",
    )?;
    refuse_live_name(&path)?;
    let geometry = args.geometry()?;
    let interrupt = Interrupt::install()?;
    let bar = ui.progress(Some(geometry.size));
    let mut progress = |done, total| {
        bar.set(done, total);
        interrupt.check()
    };
    let options = CreateOptions {
        geometry: geometry.clone(),
        preallocate: args.preallocate.into(),
        force: args.force,
        progress: Some(&mut progress),
    };
    let made = zonal::create(&path, options);
    drop(bar);
    if let (Err(error), Some(signal)) = (&made, interrupt.signal()) {
        ui.say(error);
        return Ok(Outcome::Interrupted(signal));
    }
    made?;
    if ui.json {
        let created = Created {
            path: path.to_string_lossy().into_owned(),
            size: geometry.size,
            zones: geometry.zones(),
            zone_size: geometry.zone_size,
            zone_capacity: geometry.zone_capacity,
        };
        print_json(io::stdout().lock(), &created)?;
    } else {
        ui.say(format_args!(
            "{}: {}, {} of {}",
            path.display(),
            format_size(geometry.size),
            plural(geometry.zones() as usize, "zone"),
            format_size(geometry.zone_size.min(geometry.size))
        ));
    }
    Ok(Outcome::Done)
}
