//! `zonal check`: does an image keep to its format?

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use zonal::atomic::{JournalReport, check_journal, is_journal};
use zonal::{CheckOptions, ErrorKind, Finding, Mended, RepairOptions, RepairReport, Severity};

use crate::{
    args::without_plan,
    outcome::Outcome,
    output::{Ui, plural, print_json},
    own::OwnFiles,
};

/// The words of `check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The image, or the journal of a file that is written untorn
    #[arg(value_name = "TARGET")]
    path: PathBuf,
    /// Read the data too, to see that all of it can be read; it has no checksums
    #[arg(long)]
    deep: bool,
    /// Mend what can be mended without losing what was acknowledged; what stood there before is kept
    /// in a file beside the image
    #[arg(long)]
    repair: bool,
    /// Repair although the last session was cut off and writes that were not flushed are gone
    #[arg(long, requires = "repair")]
    drop_unflushed: bool,
}

/// What `check --json` says. Offsets are bytes in the image's or the journal's file.
#[derive(Serialize, Default)]
struct Checked<'a> {
    zones: u32,
    errors: usize,
    warnings: usize,
    findings: Vec<Found<'a>>,
    /// With `--repair`.
    #[serde(skip_serializing_if = "Option::is_none")]
    mended: Option<Vec<Repaired>>,
    /// The file with what stood there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
    /// Of a journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<Journal>,
}

/// What is in a journal that the next opening of its file puts in place.
#[derive(Serialize)]
struct Journal {
    file_inode: u64,
    ring_bytes: u64,
    records: u64,
    units: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Repaired {
    offset: u64,
    length: u64,
    text: String,
}

#[derive(Serialize)]
struct Found<'a> {
    severity: &'static str,
    offset: Option<u64>,
    text: &'a str,
}

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn repaired(mended: &Mended) -> Repaired {
    let Mended { mend, offset, length } = *mended;
    Repaired { offset, length, text: mend.to_string() }
}

/// Runs `check`. Errors found are a negative answer; warnings are not.
pub(crate) fn run(args: &CheckArgs, ui: &Ui) -> Result<Outcome> {
    ensure!(
        !args.path.to_string_lossy().starts_with("mem:"),
        "{}: a drive in memory has no image to check; name a file",
        args.path.display()
    );
    ensure!(
        !args.path.to_string_lossy().starts_with("file:"),
        "{}: an ordinary file has no format to check; name an image",
        args.path.display()
    );
    let CheckArgs { deep, repair, drop_unflushed, .. } = *args;
    let path = &without_plan(&args.path, "a check reads the image as it is; leave the plan out")?;
    OwnFiles::of_image(path).refuse_stdout()?;
    if is_journal(path) {
        ensure!(
            !repair,
            "{}: a journal is not repaired; opening its file for writing puts in place what is whole",
            path.display()
        );
        return check_a_journal(path, ui);
    }
    let RepairReport { mended, left: report, kept } = if repair {
        zonal::repair(path, &RepairOptions { deep, drop_unflushed })?
    } else {
        let left = zonal::check(path, &CheckOptions { deep })?;
        RepairReport { left, ..RepairReport::default() }
    };
    let count =
        |severity| report.findings.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut out = io::stdout().lock();
    if ui.json {
        let findings = report.findings.iter().map(|Finding { severity, offset, text }| Found {
            severity: word(*severity),
            offset: *offset,
            text,
        });
        let findings = findings.collect();
        let mended = repair.then(|| mended.iter().map(repaired).collect());
        let kept = kept.map(|kept| kept.display().to_string());
        let zones = report.zones;
        let journal = None;
        print_json(out, &Checked { zones, errors, warnings, findings, mended, kept, journal })?;
    } else {
        let path = path.display();
        for Mended { mend, offset, .. } in &mended {
            writeln!(out, "{path}: mended at byte {offset}: {mend}")?;
        }
        if let Some(kept) = kept {
            writeln!(out, "{path}: what stood there before is in {}", kept.display())?;
        }
        for Finding { severity, offset, text } in &report.findings {
            let severity = word(*severity);
            match offset {
                Some(offset) => writeln!(out, "{path}: {severity} at byte {offset}: {text}")?,
                None => writeln!(out, "{path}: {severity}: {text}")?,
            }
        }
        let zones = match report.zones {
            // What is wrong above them hides them.
            0 => "zones not looked at".to_owned(),
            zones => plural(zones as usize, "zone"),
        };
        let (errors, warnings) = (plural(errors, "error"), plural(warnings, "warning"));
        match report.findings.is_empty() {
            true => writeln!(out, "{path}: {zones}, nothing wrong")?,
            false => writeln!(out, "{path}: {zones}, {errors}, {warnings}")?,
        }
    }
    Ok(if errors == 0 { Outcome::Done } else { Outcome::Negative })
}

/// Checks a journal: damage is a negative answer, and what was not put in place yet is none.
fn check_a_journal(path: &Path, ui: &Ui) -> Result<Outcome> {
    let mut out = io::stdout().lock();
    let report = match check_journal(path) {
        Ok(report) => report,
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let (offset, text) = (error.context().offset, error.detail());
            if ui.json {
                let findings = vec![Found { severity: word(Severity::Error), offset, text }];
                print_json(out, &Checked { errors: 1, findings, ..Checked::default() })?;
            } else {
                let at = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
                writeln!(out, "{}: error{at}: {text}", path.display())?;
            }
            return Ok(Outcome::Negative);
        }
        Err(error) => return Err(error.into()),
    };
    let JournalReport { file_inode, ring_bytes, alive, .. } = report;
    if ui.json {
        let (records, units, bytes) = (alive.records, alive.units, alive.bytes);
        let journal = Journal { file_inode, ring_bytes, records, units, bytes };
        print_json(out, &Checked { journal: Some(journal), ..Checked::default() })?;
    } else {
        let units = plural(usize::try_from(alive.units)?, "unit");
        let path = path.display();
        writeln!(out, "{path}: a journal, nothing wrong; {units} to be put in place")?;
    }
    Ok(Outcome::Done)
}
