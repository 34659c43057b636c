//! `zonal flush`: what was acknowledged becomes durable.

use std::io;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::{
    args::{TargetArg, WriteAccess},
    outcome::Outcome,
    output::{Ui, print_json},
    transfer,
};

/// The words of `flush`.
#[derive(Args, Debug)]
pub(crate) struct FlushArgs {
    #[command(flatten)]
    target: TargetArg,
    #[command(flatten)]
    access: WriteAccess,
}

/// What `flush --json` says.
#[derive(Serialize)]
struct Flushed {
    flushed: bool,
}

/// Runs `flush`.
pub(crate) fn run(args: &FlushArgs, ui: &Ui) -> Result<Outcome> {
    let device = args.target.open(&args.access, ui)?;
    let mut queue = transfer::small_queue(&device)?;
    transfer::flush(&mut queue)?;
    drop(queue);
    device.close()?;
    if ui.json {
        print_json(io::stdout().lock(), &Flushed { flushed: true })?;
    } else {
        ui.say(format_args!("{}: flushed", args.target.target));
    }
    Ok(Outcome::Done)
}
