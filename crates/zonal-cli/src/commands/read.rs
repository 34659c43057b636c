//! `zonal read`: a byte range of the drive, raw, to stdout. From a zone's write pointer on it reads
//! zeros.

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    args::{Access, Size, TargetArg},
    outcome::Outcome,
    output::{Ui, raw_stdout},
    transfer::{self, Span},
};

/// The words of `read`.
#[derive(Args, Debug)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    target: TargetArg,
    /// Where to start, in bytes from the drive's start
    #[arg(long)]
    offset: Size,
    /// How many bytes
    #[arg(long)]
    length: Size,
}

/// Runs `read`.
pub(crate) fn run(args: &ReadArgs, ui: &Ui) -> Result<Outcome> {
    let device = args.target.open(Access::Read, ui)?;
    let span = Span { offset: args.offset.0, length: args.length.0 };
    let size = device.geometry().size;
    ensure!(
        span.offset.checked_add(span.length).is_some_and(|end| end <= size),
        "{}: {} bytes from offset {} end past the drive's {size} bytes",
        device.name(),
        span.length,
        span.offset
    );
    let mut progress = ui.progress(Some(span.length));
    transfer::copy_out(&device, [span], span.length, &mut raw_stdout()?, &mut progress)?;
    Ok(Outcome::Done)
}
