//! Checking an image without changing it.

use super::open::{not_a_file, open, open_error, read_header, read_map_by, table_reader};
use super::{PAGE, metadata_error};
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
use zonal_core::format::check::{MAX_FINDINGS, check_refcounts};
use zonal_core::format::qcow2::Header;
use zonal_core::format::zonal::{Extension, Session, generation_pages, parse_page};
use zonal_core::units::ZoneIndex;

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
    let checked = read_header(disk)
        .and_then(|header| check_parts(&mut table_reader(disk), &header, &mut report));
    report.unless_damaged(checked)?;
    if report.errors() > 0 {
        return Ok(report);
    }
    match open() {
        Ok(device) => {
            // What there is to say of this machine says nothing of the image.
            let warnings = device.drive().notes.warnings.clone();
            report.findings.extend(warnings.into_iter().map(|text| Finding {
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

/// What reads the image from an offset on.
type Read<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<()>;

/// Checks what the header names, each part by itself.
pub(super) fn check_parts(read: Read<'_>, header: &Header, report: &mut CheckReport) -> Result<()> {
    let mapping = check_mapping(read, header, report);
    report.unless_damaged(mapping)?;
    if let Some(extension) = &header.zonal {
        check_sessions(read, header, extension, report)?;
        check_generations(read, header, extension, report)?;
    }
    check_table(read, header, report)
}

fn check_mapping(mut read: Read<'_>, header: &Header, report: &mut CheckReport) -> Result<()> {
    let (l1, map) = read_map_by(&header.tables, &mut read)?;
    if header.zonal.is_some() {
        map.refuse_cut(&header.tables)?;
    }
    for finding in check_refcounts(&header.tables, &l1, &map, read)? {
        let severity =
            if finding.kind.is_dangerous() { Severity::Error } else { Severity::Warning };
        let text = finding.to_string();
        report.findings.push(Finding { severity, offset: Some(finding.offset), text });
    }
    Ok(())
}

fn check_sessions(
    read: Read<'_>,
    header: &Header,
    extension: &Extension,
    report: &mut CheckReport,
) -> Result<()> {
    let copies = [0, 1].map(|copy| (copy, extension.session_offset(copy)));
    report.copies(read, "the session record", copies, |copy, page| {
        let found = Session::parse_copy(copy, page, &extension.image_id, &header.geometry)?;
        Ok(found.is_some())
    })
}

fn check_generations(
    read: Read<'_>,
    header: &Header,
    extension: &Extension,
    report: &mut CheckReport,
) -> Result<()> {
    let zones = header.geometry.zones();
    for page in 0..generation_pages(zones) {
        let copies = [0, 1].map(|copy| (copy, extension.generation_page_offset(zones, page, copy)));
        report.copies(read, &format!("generation page {page}"), copies, |copy, bytes| {
            Ok(parse_page(page, copy, bytes)?.is_some())
        })?;
    }
    Ok(())
}

fn check_table(read: Read<'_>, header: &Header, report: &mut CheckReport) -> Result<()> {
    let zones = header.geometry.zones();
    let mut bytes = vec![0; PIECE.min(zones as usize * 8)];
    for first in (0..zones).step_by(PIECE / 8) {
        #[allow(clippy::cast_possible_truncation)] // at most PIECE
        let bytes = &mut bytes[..((zones - first) as usize * 8).min(PIECE)];
        read(header.zone_entry_offset(ZoneIndex(first)), bytes)?;
        let (entries, _) = bytes.as_chunks::<8>();
        for (zone, entry) in (first..).map(ZoneIndex).zip(entries) {
            let entry = header.decode_entry(zone, u64::from_be_bytes(*entry));
            if report.findings.len() >= MAX_FINDINGS {
                return Ok(());
            }
            report.unless_damaged(entry.map(drop))?;
        }
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
    /// How many of the findings are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error).count()
    }

    /// Damage is a finding; other errors end the check.
    fn unless_damaged(&mut self, checked: Result<()>) -> Result<()> {
        match checked {
            Err(error) if error.kind() == ErrorKind::Damaged => self.add(&error),
            checked => return checked,
        }
        Ok(())
    }

    /// Looks at both copies of a page of ours, at their places in the file. One that is torn is a
    /// warning, since the other one counts; both are damage, as one is that cannot be.
    fn copies(
        &mut self,
        read: Read<'_>,
        what: &str,
        copies: [(u64, u64); 2],
        parse: impl Fn(u64, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut torn = Vec::new();
        for (copy, place) in copies {
            let mut page = [0; PAGE];
            read(place, &mut page)?;
            match parse(copy, &page) {
                Ok(true) => {}
                Ok(false) => torn.push((copy, place)),
                Err(error) => {
                    let offset = place + error.context().offset.unwrap_or(0);
                    self.unless_damaged(Err(error.at(offset, PAGE as u64)))?;
                }
            }
        }
        match torn[..] {
            [] => {}
            [(copy, place)] => self.findings.push(Finding {
                severity: Severity::Warning,
                offset: Some(place),
                text: format!("copy {copy} of {what} has a wrong checksum; the other one counts"),
            }),
            _ => {
                let text = format!("both copies of {what} have a wrong checksum");
                self.add(&Error::new(ErrorKind::Damaged, text).at(copies[0].1, PAGE as u64));
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, error: &Error) {
        self.findings.push(Finding {
            severity: Severity::Error,
            offset: error.context().offset,
            text: finding_of(error),
        });
    }
}
