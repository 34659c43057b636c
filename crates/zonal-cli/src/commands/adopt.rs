//! `zonal adopt`: zones for a qcow2 image of another making. There is no way back, and stock tools
//! refuse the image from then on, so it is said before.

use std::{io, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use zonal::AdoptOptions;

use crate::{
    args::{Size, format_size, without_plan},
    outcome::Outcome,
    output::{Ui, plural, print_json},
    own::OwnFiles,
};

/// The words of `adopt`.
#[derive(Args, Debug)]
pub(crate) struct AdoptArgs {
    /// The image, which is changed in place
    path: PathBuf,
    /// From one zone's start to the next, at least a cluster [default: 256M]
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
    /// The logical block, at most a cluster [default: 4096, or 512 where that does not fit]
    #[arg(long, value_name = "SIZE")]
    block_size: Option<Size>,
    /// The largest append [default: 1M]
    #[arg(long, value_name = "SIZE")]
    max_append: Option<Size>,
}

/// What `adopt --json` says.
#[derive(Serialize)]
struct AdoptedDrive {
    path: String,
    size: u64,
    zones: u32,
    zone_size: u64,
    zone_capacity: u64,
    block_size: u32,
    cluster_size: u64,
    full_zones: u32,
}

/// Runs `adopt`.
pub(crate) fn run(args: &AdoptArgs, ui: &Ui) -> Result<Outcome> {
    let path =
        without_plan(&args.path, "adopting does not fail by one; name it where the drive is used")?;
    let narrow = |size: Option<Size>, word| {
        size.map(|size| u32::try_from(size.0))
            .transpose()
            .with_context(|| format!("{word} is too large"))
    };
    OwnFiles::of_image(&path).refuse_stdout()?;
    if path.is_file() {
        ui.say(format_args!(
            "{}: once it has zones, QEMU and other tools cannot open it any more, and nothing takes \
             them off again; keep a copy if they need one",
            path.display()
        ));
    }
    let bar = ui.progress(None);
    let mut progress = |done, total| bar.set(done, total);
    let options = AdoptOptions {
        zone_size: args.zone_size.map(|size| size.0),
        zone_capacity: args.zone_capacity.map(|size| size.0),
        conventional_zones: args.conventional_zones,
        max_open_zones: args.max_open_zones,
        max_active_zones: args.max_active_zones,
        block_size: narrow(args.block_size, "--block-size")?,
        max_append: narrow(args.max_append, "--max-append")?,
        progress: Some(&mut progress),
    };
    let adopted = zonal::adopt(&path, options)?;
    drop(bar);
    let geometry = &adopted.geometry;
    if ui.json {
        let drive = AdoptedDrive {
            path: path.to_string_lossy().into_owned(),
            size: geometry.size,
            zones: geometry.zones(),
            zone_size: geometry.zone_size,
            zone_capacity: geometry.zone_capacity,
            block_size: geometry.block_size,
            cluster_size: adopted.cluster_size,
            full_zones: adopted.full_zones,
        };
        print_json(io::stdout().lock(), &drive)?;
    } else {
        ui.say(format_args!(
            "{}: {}, {} of {}, {} of them full of the data that was there; from now on it is \
             opened by zonal alone",
            path.display(),
            format_size(geometry.size),
            plural(geometry.zones() as usize, "zone"),
            format_size(geometry.zone_size),
            adopted.full_zones
        ));
    }
    Ok(Outcome::Done)
}
