//! `zonal cat`: records to stdout in their order, found by the index that `append` printed.
//!
//! The index is read whole, sorted and held against the drive before the first byte is written.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use zonal::{Device, ZoneInfo};

use crate::{
    args::{Access, TargetArg},
    outcome::Outcome,
    output::{Ui, raw_stdout},
    records::{DriveId, Index},
    transfer::{self, Span},
};

/// Small records leave in lumps of this size.
const OUTPUT_BYTES: usize = 256 << 10;

/// The words of `cat`.
#[derive(Args, Debug)]
pub(crate) struct CatArgs {
    #[command(flatten)]
    target: TargetArg,
    /// What `append --json` or `append --csv` printed; - is stdin
    #[arg(long, value_name = "FILE")]
    index: PathBuf,
    /// Only the records of this input, by the name that the index gives it
    #[arg(long, value_name = "NAME")]
    file: Option<OsString>,
}

/// Reads the index at `path`.
pub(super) fn read_index(path: &Path, resumes: bool) -> Result<Index> {
    let index = if path == Path::new("-") {
        Index::read(io::stdin().lock(), resumes)
    } else {
        File::open(path)
            .map_err(anyhow::Error::from)
            .and_then(|file| Index::read(BufReader::with_capacity(OUTPUT_BYTES, file), resumes))
    };
    index.with_context(|| format!("index {}", path.display()))
}

/// Refuses records that cannot be on this drive, before anything is written.
pub(super) fn hold_against(index: &Index, device: &Device) -> Result<()> {
    let geometry = device.geometry();
    let block = u64::from(geometry.block_size);
    let report = device.report(..)?;
    let drive = DriveId::of(device);
    for entry in &index.entries {
        let end = entry.offset + entry.length;
        let zone = entry.offset / geometry.zone_size;
        ensure!(
            end <= geometry.size
                && zone == u64::from(entry.zone)
                && entry.offset.is_multiple_of(block),
            "line {}: record {} at offset {} in zone {} cannot be on {} ({} bytes, zones of {}); \
             is it the index of another drive?",
            entry.line,
            entry.record,
            entry.offset,
            entry.zone,
            device.name(),
            geometry.size,
            geometry.zone_size
        );
        if let (Some(named), Some(own)) = (entry.drive, drive) {
            ensure!(
                named == own,
                "line {}: record {} is on the drive whose id begins with {named}, and {} begins with \
                 {own}; is it the index of another drive?",
                entry.line,
                entry.record,
                device.name()
            );
        }
        let lives = entry.generation.is_none_or(|life| Some(life) == device.generation(entry.zone));
        // Above the write pointer there would be zeros in the record's place.
        let written = match report.get(entry.zone as usize) {
            Some(ZoneInfo { write_pointer: Some(wp), .. }) => end.next_multiple_of(block) <= *wp,
            Some(ZoneInfo { write_pointer: None, .. }) | None => true,
        };
        ensure!(
            lives && written,
            "line {}: record {} at offset {} is not on {} any more: zone {} was reset, or lost it \
             in a crash before a flush",
            entry.line,
            entry.record,
            entry.offset,
            device.name(),
            entry.zone
        );
    }
    Ok(())
}

/// Runs `cat`.
pub(crate) fn run(args: &CatArgs, ui: &Ui) -> Result<Outcome> {
    args.target.own_files().refuse_input(&args.index)?;
    let mut index = read_index(&args.index, false)?;
    if let Some(name) = &args.file {
        index.keep_file(name).with_context(|| format!("index {}", args.index.display()))?;
    }
    if let Some(gap) = index.gap() {
        ui.say(format_args!(
            "index {}: records {}..={} are not in it, and perhaps others; the output has gaps",
            args.index.display(),
            gap.start(),
            gap.end()
        ));
    }
    let device = args.target.open(Access::Read, ui)?;
    hold_against(&index, &device).with_context(|| format!("index {}", args.index.display()))?;

    let largest = index.entries.iter().map(|entry| entry.length).max().unwrap_or(0);
    let total = index.entries.iter().map(|entry| entry.length).sum();
    let spans =
        index.entries.iter().map(|entry| Span { offset: entry.offset, length: entry.length });
    let mut progress = ui.progress(Some(total));
    let mut out = BufWriter::with_capacity(OUTPUT_BYTES, raw_stdout()?);
    transfer::copy_out(&device, spans, largest, &mut out, &mut progress)?;
    out.flush()?;
    Ok(Outcome::Done)
}
