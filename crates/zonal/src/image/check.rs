//! Checking an image without changing it.

use super::metadata_error;
use super::open::{not_a_file, open, open_error, read_header, read_map, table_reader};
use crate::device::Device;
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::open::OpenOptions;
use crate::queue::request::Request;
use crate::queue::{Queue, QueueOptions};
use crate::sys::file::Access;
use std::fmt;
use std::path::Path;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::check::check_refcounts;

/// Data is read in pieces of this size, in bytes.
const PIECE: usize = 1 << 20;

/// What is checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read all data, too.
    pub deep: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Worth knowing; no data is in danger.
    Warning,
    /// The image contradicts itself, or cannot be read.
    Error,
}

/// One thing found wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the file, in bytes, if at one place.
    pub offset: Option<u64>,
    /// What it is.
    pub text: String,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// What is wrong; empty when all is well.
    pub findings: Vec<Finding>,
    /// Zones looked at.
    pub zones: u32,
    /// Bytes of data read.
    pub bytes_read: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity {
            Severity::Warning => write!(f, "warning: {}", self.text),
            Severity::Error => write!(f, "error: {}", self.text),
        }
    }
}

/// Checks the image at `path`: header, mapping, refcounts, zone table, our extension, live file.
/// Changes nothing, and works beside a writer, whose newest flush it sees.
///
/// # Errors
/// A file that cannot be read, or that is no zoned image; what is wrong inside one is a finding.
pub fn check(path: &Path, options: &CheckOptions) -> Result<CheckReport> {
    let name = path.display().to_string();
    check_file(path, options).map_err(|error| error.on(name).during("check"))
}

fn check_file(path: &Path, options: &CheckOptions) -> Result<CheckReport> {
    let file = FileDisk::open(path, Access::ReadOnly).map_err(|error| open_error(error, path))?;
    let identity = file.identity().map_err(|error| metadata_error("the file", error))?;
    if !identity.is_regular() {
        return Err(not_a_file(&identity));
    }
    check_disk(&Disk::File(file), options, || {
        open(path, &OpenOptions { read_only: true, ..OpenOptions::default() })
    })
}

/// Checks the image on `disk`, which `open` opens to be read.
pub(crate) fn check_disk(
    disk: &Disk,
    options: &CheckOptions,
    open: impl FnOnce() -> Result<Device>,
) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    match check_metadata(disk, &mut report) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Damaged => report.add(&error),
        Err(error) => return Err(error),
    }
    if report.findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Ok(report);
    }
    match open() {
        Ok(device) => {
            let info = device.info();
            report.findings.extend(info.warnings.into_iter().map(|text| Finding {
                severity: Severity::Warning,
                offset: None,
                text,
            }));
            report.zones = device.geometry().zones();
            if options.deep {
                let mut queue = device.queue(&QueueOptions {
                    depth: 1,
                    buffer_bytes: PIECE,
                    ..QueueOptions::default()
                })?;
                read_all(&device, &mut queue, &mut report)?;
            }
        }
        Err(error) if error.kind() == ErrorKind::Damaged => report.add(&error),
        Err(error) => return Err(error),
    }
    Ok(report)
}

fn check_metadata(disk: &Disk, report: &mut CheckReport) -> Result<()> {
    let header = read_header(disk)?;
    let (l1, map) = read_map(disk, &header.tables)?;
    if header.zonal.is_some() {
        map.refuse_cut(&header.tables)?;
    }
    for finding in check_refcounts(&header.tables, &l1, &map, table_reader(disk))? {
        let severity =
            if finding.kind.is_dangerous() { Severity::Error } else { Severity::Warning };
        let text = finding.to_string();
        report.findings.push(Finding { severity, offset: Some(finding.offset), text });
    }
    Ok(())
}

/// Reads every written byte once.
fn read_all(device: &Device, queue: &mut Queue, report: &mut CheckReport) -> Result<()> {
    for zone in device.report(..)? {
        let end = zone.write_pointer.unwrap_or(zone.start + zone.capacity);
        let mut at = zone.start;
        while at < end && zone.state != crate::ZoneState::Offline {
            #[allow(clippy::cast_possible_truncation)] // at most PIECE
            let length = (end - at).min(PIECE as u64) as usize;
            let Some(buffer) = queue.buffer(length) else { break };
            if queue.push(Request::read_at(at, buffer)).is_err() {
                break;
            }
            queue.submit_and_wait(1)?;
            if let Some(completion) = queue.next_completion() {
                match completion.result {
                    Ok(bytes) => report.bytes_read += u64::from(bytes),
                    Err(error) => report.add(&error),
                }
            }
            at += length as u64;
        }
    }
    Ok(())
}

/// What an error says beside the image's name and the byte, which stand before every finding.
fn finding_of(error: &Error) -> String {
    let zone = error.context().zone.map_or_else(String::new, |zone| format!("zone {zone}: "));
    match error.detail() {
        "" => format!("{zone}{}", error.kind()),
        detail => format!("{zone}{}: {detail}", error.kind()),
    }
}

impl CheckReport {
    fn add(&mut self, error: &Error) {
        self.findings.push(Finding {
            severity: Severity::Error,
            offset: error.context().offset,
            text: finding_of(error),
        });
    }
}
