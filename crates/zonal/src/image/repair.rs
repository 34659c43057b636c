//! Repairing an image: what a check finds wrong and can be made right without a loss is made right.
//!
//! Planned in memory ([`zonal_core::format::repair`]); then what stood where something changes is kept
//! in a file beside the image, `IMAGE.repair-N`, durably; then the plan's steps are written, each
//! durable before the next. What is left is what a check finds afterwards.

use super::check::{CheckOptions, CheckReport, check_disk, check_parts};
use super::open::{
    not_a_file, open, open_error, read_map_by, read_marked_header, table_reader, take_lock,
};
use super::{Place, metadata_error};
use crate::device::Device;
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::live;
use crate::open::OpenOptions;
use crate::sys::file::Access;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::layout::Layout;
use zonal_core::format::qcow2::Header;
use zonal_core::format::repair::{
    Mended, MendedList, Patch, Sessions, mend_entries, mend_generations, mend_header,
    mend_refcounts, mend_zones,
};
use zonal_core::format::zonal::Session;

/// Names tried for the file beside the image.
const NAMES: u32 = 10_000;

/// How an image is repaired.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    /// Read all data afterwards.
    pub deep: bool,
    /// Repair although a session of this boot was cut off, and what it had acknowledged since its last
    /// flush cannot be found. What is found in a live file is never given up.
    pub drop_unflushed: bool,
}

/// What a repair did, and what it left.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// What was made right.
    pub mended: Vec<Mended>,
    /// What a check finds afterwards.
    pub left: CheckReport,
    /// The file with what stood there before, if anything was changed.
    pub kept: Option<PathBuf>,
}

/// Repairs the image at `path`: a copy of a session record or generation page from the other one,
/// refcounts and leaks, table entries without their flag, write pointers that cannot be, the dirty
/// mark. Nothing that was acknowledged is lost by it; what cannot be mended is left and reported.
///
/// What stood where something changes is kept in a file beside the image, made before.
///
/// # Errors
/// [`ErrorKind::InUse`] for an image that is open; [`ErrorKind::Unclean`] where a session of this boot
/// was cut off: opening the image to write brings in what it had acknowledged, and has to come first.
/// Otherwise as [`check`](crate::check), and those of writing.
///
/// # Examples
/// ```no_run
/// let report = zonal::repair("disk.qcow2".as_ref(), &zonal::RepairOptions::default())?;
/// for mended in &report.mended {
///     println!("byte {}: {}", mended.offset, mended.mend);
/// }
/// assert_eq!(report.left.errors(), 0);
/// # Ok::<(), zonal::Error>(())
/// ```
pub fn repair(path: &Path, options: &RepairOptions) -> Result<RepairReport> {
    let name = path.display().to_string();
    repair_file(path, options).map_err(|error| error.on(name).during("repair"))
}

fn repair_file(path: &Path, options: &RepairOptions) -> Result<RepairReport> {
    let file = FileDisk::open(path, Access::ReadWrite).map_err(|error| open_error(error, path))?;
    let identity = file.identity().map_err(|error| metadata_error("the file", error))?;
    if !identity.is_regular() {
        return Err(not_a_file(&identity));
    }
    let real = fs::canonicalize(path).map_err(|error| metadata_error("the path", error))?;
    let live_path = live::path_of(&real);
    take_lock(&file, &real, || live::owner(&live_path))?;
    let place = Place::File { file: file.clone(), live: live_path };
    let refuse =
        |header: &Header, session: &Session| refuse_unclean(&place, header, session, options);
    let mut kept = None;
    let keep = |bytes: &[u8]| {
        kept = Some(keep_beside(&real, path, bytes)?);
        Ok(())
    };
    let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
    let repaired =
        repair_disk(&Disk::File(file.clone()), options, refuse, keep, || open(path, &read_only));
    file.unlock().map_err(|error| metadata_error("the lock", error))?;
    match repaired {
        Ok(report) => Ok(RepairReport { kept, ..report }),
        // What was changed by then can be undone, and gone on with.
        Err(error) => Err(match kept {
            None => error,
            Some(kept) => {
                let text = format!(
                    "{}; it is repaired in part: repair it again; what stood there before is in {}",
                    error.detail(),
                    kept.display()
                );
                Error::new(error.kind(), text).with_source(error)
            }
        }),
    }
}

/// A session of this boot was cut off: what it acknowledged may be in its live file, which is believed
/// only as long as nobody else changes the image. Asked with the lock held.
pub(crate) fn refuse_unclean(
    place: &Place,
    header: &Header,
    session: &Session,
    options: &RepairOptions,
) -> Result<()> {
    if session.clean || session.boot_id != place.boot()?.0 {
        return Ok(());
    }
    let Some(earlier) = place.earlier(header.geometry.zones(), session)? else { return Ok(()) };
    let doubt = earlier.err();
    let text = match doubt {
        None => "its last session was cut off, and what it had acknowledged is in its live file: \
                 bring that in first by opening it to write, for example with `zonal flush`, then \
                 repair it"
            .to_owned(),
        Some(_) if options.drop_unflushed => return Ok(()),
        Some(doubt) => format!(
            "its last session was cut off and {doubt}, so what was not flushed cannot be found; if \
             the image was moved or linked, put its .live file beside it under the same name, else \
             repair it with --drop-unflushed"
        ),
    };
    Err(Error::new(ErrorKind::Unclean, text))
}

/// Repairs the image on `disk`. `refuse` judges the session it finds, `keep` keeps the old bytes, and
/// `open` opens it to be read.
pub(crate) fn repair_disk(
    disk: &Disk,
    options: &RepairOptions,
    refuse: impl FnOnce(&Header, &Session) -> Result<()>,
    keep: impl FnOnce(&[u8]) -> Result<()>,
    open: impl FnOnce() -> Result<Device>,
) -> Result<RepairReport> {
    let mended = match mend(disk, refuse, keep) {
        Err(error) if error.kind() == ErrorKind::Damaged => MendedList::default(),
        mended => mended?,
    };
    let mended = mended.list().to_vec();
    let left = match check_disk(disk, &CheckOptions { deep: options.deep }, open) {
        // What was done is said in any case.
        Err(error) if !mended.is_empty() => {
            let mut left = CheckReport::default();
            left.add(&error);
            left
        }
        left => left?,
    };
    Ok(RepairReport { mended, left, kept: None })
}

/// Plans and writes. [`ErrorKind::Damaged`] where nothing can be done, and nothing was.
fn mend(
    disk: &Disk,
    refuse: impl FnOnce(&Header, &Session) -> Result<()>,
    keep: impl FnOnce(&[u8]) -> Result<()>,
) -> Result<MendedList> {
    let (header, features) = read_marked_header(disk)?;
    let length = header.tables.file_len;
    let mut patch = Patch::new(length, table_reader(disk));
    let sessions = match &header.zonal {
        Some(extension) => Some(Sessions::read(&header, extension, &mut patch)?),
        None => None,
    };
    if let Some(sessions) = &sessions {
        refuse(&header, sessions.session())?;
    }
    let mut mended = match mend_tables(&header, &mut patch) {
        Err(error) if error.kind() == ErrorKind::Damaged => {
            // Where the mapping cannot be known nothing can be counted, and nothing of it is touched.
            patch = Patch::new(length, table_reader(disk));
            MendedList::default()
        }
        mended => mended?,
    };
    if let Some(extension) = &header.zonal {
        mended.extend(&mend_generations(&header, extension, &mut patch)?);
    }
    mended.extend(&mend_zones(&header, sessions.as_ref(), &mut patch)?);
    if let Some(features) = features
        && is_sound(&header, &mut patch)?
    {
        mended.extend(&mend_header(features, &mut patch)?);
    }
    if !patch.is_empty() {
        keep(&patch.kept(header.zonal.map_or([0; 16], |ours| ours.image_id))?)?;
        write(disk, length, &patch).map_err(|error| metadata_error("the tables", error))?;
    }
    Ok(mended)
}

/// Whether a check will find no error besides the header's marks.
fn is_sound<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    header: &Header,
    patch: &mut Patch<R>,
) -> Result<bool> {
    let mut header = header.clone();
    header.tables.file_len = patch.length();
    let mut report = CheckReport::default();
    check_parts(&mut |offset, bytes| patch.read(offset, bytes), &header, &mut report)?;
    Ok(report.errors() == 0)
}

/// The tables of qcow2; [`ErrorKind::Damaged`] where they contradict each other.
fn mend_tables<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    header: &Header,
    patch: &mut Patch<R>,
) -> Result<MendedList> {
    let tables = &header.tables;
    let mut mended = mend_entries(tables, Layout::of(header).as_ref(), patch)?;
    let (_, map) = read_map_by(tables, &mut |offset, bytes: &mut [u8]| patch.read(offset, bytes))?;
    if header.zonal.is_some() {
        map.refuse_cut(tables)?;
    }
    let free = header.stranger.is_none();
    mended.extend(&mend_refcounts(tables, &map, free, patch)?);
    Ok(mended)
}

/// Writes the steps, each durable before the next.
fn write<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    disk: &Disk,
    old_length: u64,
    patch: &Patch<R>,
) -> io::Result<()> {
    if patch.length() > old_length {
        disk.set_len(patch.length())?;
        disk.sync_data()?;
    }
    for step in patch.steps() {
        for (offset, bytes) in &step {
            disk.write_all_at(bytes, *offset)?;
        }
        if !step.is_empty() {
            disk.sync_data()?;
        }
    }
    Ok(())
}

/// Writes a new file beside the image, durably, and returns its name: beside `path`, as the caller
/// called it, where the image is no link.
fn keep_beside(real: &Path, path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let base =
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) { real } else { path };
    for number in 1..NAMES {
        let mut name = base.as_os_str().to_owned();
        name.push(format!(".repair-{number}"));
        let name = PathBuf::from(name);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&name).and_then(
            |mut file| {
                file.write_all(bytes)?;
                file.sync_all()?;
                File::open(real.parent().unwrap_or(real))?.sync_all()
            },
        );
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let text = format!(
                    "{} cannot be written, and without it nothing is changed: {}",
                    name.display(),
                    crate::queue::io_text(&error)
                );
                return Err(Error::new(crate::queue::io_kind(&error), text).with_source(error));
            }
            Ok(()) => return Ok(name),
        }
    }
    let text = format!("{}.repair-1 and on are all there; move them away", base.display());
    Err(Error::new(ErrorKind::InvalidInput, text))
}
