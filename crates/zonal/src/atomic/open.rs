//! A file is looked at, its journal found, replayed or made, and the thread started.
//!
//! Nothing is changed before everything that can be refused was: the file's kind, its limits, the lock,
//! what stands at the journal's place.

use super::journal::{self, Found, Journal, Replayed, Surveyed};
use super::lock::{self, Hold};
use super::noted::{self, Note};
use super::worker::Outfit;
use super::{AtomicFile, AtomicLimits, AtomicOptions, AtomicPath, BatchLimits, JournalUse};
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::image::random_id;
use crate::open::OpenOptions;
use crate::queue::{io_kind, io_text};
use crate::sync::Mutex;
use crate::sys::file::{Access, FileIdentity, is_really_direct, untorn_units};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::untorn::journal::{BLOCK_BYTES, ENTRIES_MAX, FileId, Header, MAGIC, Mark};

/// What ends a journal's name, behind the file's.
const SUFFIX: &str = ".journal";

/// The smallest ring that is made for a file, in bytes: units of 256 KiB.
const RING_BYTES_MIN: u64 = 1 << 20;

pub(super) fn open(path: &Path, options: &AtomicOptions) -> Result<AtomicFile> {
    let subject = Subject::open(path, options)?;
    let plan = subject.plan(options)?;
    let Opened { journal, limits, replayed } = subject.journal(options, plan.journal)?;
    let limits = plan.limits(limits, options)?;
    let name = path.display().to_string();
    let disk = Disk::File(subject.file.clone());
    let journal = journal.filter(|_| plan.journal);
    let batch_limits = journal.as_ref().map_or_else(BatchLimits::default, |journal| BatchLimits {
        units_max: ENTRIES_MAX,
        bytes_max: journal.header().record_units_max(),
    });
    let outfit = Outfit { name: name.clone(), disk, path: limits.path, journal };
    let (inbox, thread) = outfit.start()?;
    Ok(AtomicFile {
        name,
        limits,
        batch_limits,
        replayed,
        read_only: options.read_only,
        all_atomic: options.all_atomic,
        fast_only: options.fast_only,
        file: subject.file,
        inbox,
        thread: Mutex::new(Some(thread)),
    })
}

/// What can be said of a file before it is opened for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AtomicInfo {
    /// What can be written untorn where it is opened with the same options.
    pub limits: AtomicLimits,
    /// Its journal, if one is there.
    pub journal: Option<PathBuf>,
    /// What an opening for writing, with the journal, would put in its place first: it may be torn in the file.
    /// Nothing where the file is in use, as its writer then knows.
    pub waiting: Replayed,
    /// A process has it open for writing, with a journal.
    pub in_use: bool,
}

/// Tells what can be written untorn, how, and whether units in a journal wait for an opening to put them in
/// place. Changes nothing, and works beside a writer.
///
/// # Errors
/// As [`AtomicFile::open`], but for units that wait; `Damaged`: an opening would find the journal so.
pub fn inspect(path: impl AsRef<Path>, options: &AtomicOptions) -> Result<AtomicInfo> {
    let path = path.as_ref();
    let options = AtomicOptions { read_only: true, ..options.clone() };
    look(path, &options).map_err(|error| error.on(path.display().to_string()).during("look"))
}

fn look(path: &Path, options: &AtomicOptions) -> Result<AtomicInfo> {
    let subject = Subject::open(path, options)?;
    let plan = subject.plan(options)?;
    let is_locked = || match subject.identity.is_regular() {
        true => subject.file.is_locked().map_err(|error| file_error("the lock", error)),
        false => Ok(false),
    };
    // A writer may come or go meanwhile.
    let before = is_locked()?;
    let found = subject.survey(options, plan.journal, before)?;
    let in_use = is_locked()? || before;
    let there = found.as_ref().map(|(_, header, _)| journal_limits(header));
    let waiting = found.as_ref().filter(|_| !in_use).map(|(_, _, alive)| *alive);
    Ok(AtomicInfo {
        limits: plan.limits(there, options)?,
        journal: found.map(|(place, _, _)| place),
        waiting: waiting.unwrap_or_default(),
        in_use,
    })
}

/// How writes are to be kept whole.
struct Plan {
    /// What the kernel promises.
    kernel: Option<AtomicLimits>,
    /// A journal is to do it.
    journal: bool,
}

impl Plan {
    /// The limits, given those of a journal that is there.
    fn limits(&self, there: Option<AtomicLimits>, options: &AtomicOptions) -> Result<AtomicLimits> {
        if !self.journal {
            return Ok(self.kernel.unwrap_or(AtomicLimits::NONE));
        }
        // Of none that is there, what a writer would make.
        let file = FileId { inode: 0, born_ns: 0 };
        let new = || Header::new([0; 16], options.journal_bytes, file);
        there.map_or_else(|| new().map(|header| journal_limits(&header)), Ok)
    }
}

/// What an opening found in the journal's place, or made there.
#[derive(Default)]
struct Opened {
    journal: Option<Journal>,
    /// Those of the journal that is there.
    limits: Option<AtomicLimits>,
    replayed: Replayed,
}

fn check_ring(bytes: u64) -> Result<()> {
    if bytes >= RING_BYTES_MIN {
        return Header::new([0; 16], bytes, FileId { inode: 0, born_ns: 0 }).map(drop);
    }
    let text = format!("a journal of {bytes} bytes is too small; it has {RING_BYTES_MIN} at least");
    Err(Error::new(ErrorKind::InvalidInput, text))
}

fn journal_limits(header: &Header) -> AtomicLimits {
    AtomicLimits {
        path: AtomicPath::Journal,
        unit_min: BLOCK_BYTES,
        unit_max: header.unit_max(),
        unit_max_fast: 0,
    }
}

impl Opened {
    fn with(journal: Journal, replayed: Replayed) -> Self {
        Self { limits: Some(journal_limits(journal.header())), journal: Some(journal), replayed }
    }
}

/// Opens what is at the journal's place.
fn journal_file(place: &Path, options: &AtomicOptions) -> Result<FileDisk> {
    let access = if options.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let file = FileDisk::open(place, access).map_err(journal::journal_error)?;
    if !file.identity().map_err(journal::journal_error)?.is_regular() {
        let text = "what is at the journal's place is no file; name another place";
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

/// What was found in a journal; none in a file of somebody else's, which nobody wants to have for a journal.
fn ours<T>(found: Result<T>, wanted: bool) -> Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::InvalidInput && !wanted => Ok(None),
        found => found.map(Some),
    }
}

/// What is in the journal at `place`; none if there is none.
///
/// # Errors
/// It cannot be read, is damaged, or is newer.
fn surveyed(place: &Path) -> Result<Option<Surveyed>> {
    match FileDisk::open(place, Access::ReadOnly) {
        Ok(file) => Ok(ours(journal::survey(&Disk::File(file)), false)?.flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(journal::journal_error(error)),
    }
}

/// The header of the journal at `place`, if one is there that can be read.
fn header_at(place: &Path) -> Option<Header> {
    let file = FileDisk::open(place, Access::ReadOnly).ok()?;
    match journal::look(&Disk::File(file)).ok()? {
        Found::Journal(header) => Some(header),
        Found::Nothing => None,
    }
}

/// An error with the journal's place in its text.
fn at_journal(place: &Path, error: Error) -> Error {
    let text = format!("{}: {}", place.display(), error.detail());
    let context = error.context().clone();
    let error = Error::new(error.kind(), text).with_source(error);
    match (context.offset, context.length) {
        (Some(offset), Some(length)) => error.at(offset, length),
        _ => error,
    }
}

/// The file that is opened.
struct Subject {
    file: FileDisk,
    identity: FileIdentity,
    path: PathBuf,
}

impl Subject {
    fn open(path: &Path, options: &AtomicOptions) -> Result<Self> {
        let access = if options.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let file = FileDisk::open(path, access).map_err(|error| open_error(error, path))?;
        let identity = file.identity().map_err(|error| file_error("the file", error))?;
        match identity.mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFBLK => {}
            _ => {
                let text = "it is neither a file nor a block device; name one";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        if !file.is_direct() {
            let text = "its file system has no direct I/O, and a write through the page cache may be torn; \
                        put it on another (XFS, ext4, btrfs)";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if !is_really_direct(file.file()).map_err(|error| file_error("the file", error))? {
            let text = "its file system takes direct I/O for this file through the page cache (journalled data, \
                        or encrypted), and such a write may be torn; put it on another, or mount that one \
                        without data=journal";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let driven = OpenOptions { engine: options.engine, ..OpenOptions::default() };
        let file = driven.driven(file)?;
        Ok(Self { file, identity, path: path.to_owned() })
    }

    fn plan(&self, options: &AtomicOptions) -> Result<Plan> {
        let units =
            untorn_units(self.file.file()).map_err(|error| file_error("the file", error))?;
        let kernel = units.map(|units| AtomicLimits {
            path: AtomicPath::Native,
            unit_min: units.min,
            unit_max: units.max,
            unit_max_fast: units.max_fast,
        });
        let journal = match options.journal {
            JournalUse::Never => false,
            JournalUse::IfNeeded => kernel.is_none(),
            JournalUse::Always => true,
        };
        if journal {
            self.refuse_device()?;
            check_ring(options.journal_bytes)?;
        } else if kernel.is_none() && options.all_atomic {
            let text = "every write shall be atomic, and the kernel writes nothing of this file untorn; open it \
                        with a journal";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(Plan { kernel, journal })
    }

    fn refuse_device(&self) -> Result<()> {
        if self.identity.is_regular() {
            return Ok(());
        }
        let text = "a journal is for files: nothing tells for good which device it would be of, and replayed \
                    onto another it would destroy that one; make a file system, or leave the journal out";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    fn id(&self) -> FileId {
        let FileIdentity { inode, born_ns, .. } = self.identity;
        FileId { inode, born_ns: born_ns.unwrap_or(0) }
    }

    /// Where its journal is, or would be.
    fn place(&self, options: &AtomicOptions) -> Result<PathBuf> {
        if let Some(path) = &options.journal_path {
            let same = self.file.is_at(path).map_err(|error| file_error("the journal", error))?;
            if same {
                let text = "the journal's place is the file itself; name another";
                return Err(Error::new(ErrorKind::InvalidInput, text));
            }
            return Ok(path.clone());
        }
        let real = fs::canonicalize(&self.path).map_err(|error| file_error("the file", error))?;
        let mut name = OsString::from(real);
        name.push(SUFFIX);
        Ok(PathBuf::from(name))
    }

    /// The journal, if one is wanted; what stood in one that was there is in its place.
    fn journal(&self, options: &AtomicOptions, wanted: bool) -> Result<Opened> {
        if !self.identity.is_regular() {
            return Ok(Opened::default());
        }
        let place = self.place(options)?;
        let writer = wanted && !options.read_only;
        let hold = if writer { Hold::Alone } else { Hold::Shared };
        let opened = lock::until_had(|| {
            lock::take(&self.file, &self.path, hold)?;
            self.refuse_elsewhere(&place)?;
            if let Some(opened) = self.opened(&place, options, wanted, hold)? {
                return Ok(Some(opened));
            }
            if !lock::try_alone(&self.file)? {
                return Ok(None);
            }
            let opened = self.opened(&place, options, wanted, Hold::Alone)?;
            lock::take(&self.file, &self.path, hold)?;
            Ok(opened)
        })?;
        match &opened.journal {
            Some(journal) if wanted => {
                let note = Note::new(journal.header().id, &place);
                let noted = note.and_then(|note| note.put(self.file.file()));
                noted.map_err(|error| file_error("noting its journal on it", error))?;
            }
            // No units wait, or the opening would have been refused.
            Some(_) | None if !options.read_only => noted::take_off(self.file.file()),
            Some(_) | None => {}
        }
        Ok(opened)
    }

    fn note(&self) -> Result<Option<Note>> {
        Note::read(self.file.file()).map_err(|error| file_error("what is noted on it", error))
    }

    /// The journal that is noted on the file, if that is another than the one at `place`.
    fn noted_elsewhere(&self, place: &Path) -> Result<Option<Note>> {
        let is_at = |note: &Note| match header_at(place) {
            Some(header) => header.id == note.id,
            // What is there and cannot be read says itself why.
            None => fs::canonicalize(place).is_ok_and(|place| place == note.path),
        };
        Ok(self.note()?.filter(|note| !is_at(note)))
    }

    /// What waits for the file in the journal that is noted on it, if anything does.
    ///
    /// # Errors
    /// `Unclean`: it waits for a file of which this is a copy, or the journal is gone. That of the journal.
    fn waits_in(&self, note: &Note) -> Result<Option<(Header, Replayed)>> {
        let found = surveyed(&note.path).map_err(|error| at_journal(&note.path, error))?;
        let Some((header, alive, _)) = found.filter(|(header, ..)| header.id == note.id) else {
            let text = format!(
                "units may wait in its journal, which was {} and is not there any more; bring it back, or take the file as it \
                 is: setfattr -x {} {}",
                note.path.display(),
                noted::NAME,
                self.path.display()
            );
            return Err(Error::new(ErrorKind::Unclean, text));
        };
        if alive.records > 0 && header.file != self.id() {
            return Err(self.copied(&alive, &note.path));
        }
        Ok((alive.records > 0).then_some((header, alive)))
    }

    /// The refusal of a copy, in which units of the original may be torn.
    fn copied(&self, alive: &Replayed, journal: &Path) -> Error {
        let text = format!(
            "it is a copy of a file of which {} units wait in {}, and some may be torn in it; open that file once for \
             writing, and copy it then; or take the file as it is: setfattr -x {} {}",
            alive.units,
            journal.display(),
            noted::NAME,
            self.path.display()
        );
        Error::new(ErrorKind::Unclean, text)
    }

    /// Units that wait in another journal than the one at `place` would be put over what is written now.
    fn refuse_elsewhere(&self, place: &Path) -> Result<()> {
        let Some(note) = self.noted_elsewhere(place)? else { return Ok(()) };
        let Some((_, alive)) = self.waits_in(&note)? else { return Ok(()) };
        let text = format!(
            "{} units wait in {}, a journal of another name, and may be torn in the file; open it once for writing, \
             with that journal",
            alive.units,
            note.path.display()
        );
        Err(Error::new(ErrorKind::Unclean, text))
    }

    /// The same with the lock held so; none: it has to be had alone, as units wait to be put in their places.
    fn opened(
        &self,
        place: &Path,
        options: &AtomicOptions,
        wanted: bool,
        hold: Hold,
    ) -> Result<Option<Opened>> {
        let named = |error| at_journal(place, error);
        let there = fs::symlink_metadata(place).is_ok();
        let found =
            if there { self.find(place, options, wanted, hold).map_err(named)? } else { None };
        match found {
            Some(standing) => self.go_on(standing, options, wanted, hold).map_err(named),
            None if wanted && !options.read_only => {
                let made = self.make(place, there, options.journal_bytes).map_err(named)?;
                Ok(Some(Opened::with(made, Replayed::default())))
            }
            None => Ok(Some(Opened::default())),
        }
    }

    /// What is in the journal that is there, for who only asks; none that concerns this file. Of one that is `in_use`
    /// only the header is read: its records come and go.
    fn survey(
        &self,
        options: &AtomicOptions,
        wanted: bool,
        in_use: bool,
    ) -> Result<Option<(PathBuf, Header, Replayed)>> {
        if !self.identity.is_regular() {
            return Ok(None);
        }
        let place = self.place(options)?;
        let place = match self.noted_elsewhere(&place)? {
            Some(note) if in_use => note.path,
            Some(note) => match self.waits_in(&note)? {
                Some((header, alive)) => return Ok(Some((note.path, header, alive))),
                None => place,
            },
            None => place,
        };
        if fs::symlink_metadata(&place).is_err() {
            return Ok(None);
        }
        let found = journal_file(&place, options);
        let found = found.and_then(|file| match (Disk::File(file), in_use) {
            (disk, false) => journal::survey(&disk),
            (disk, true) => Ok(match journal::look(&disk)? {
                Found::Journal(header) => {
                    let tail = header.tail;
                    Some((header, Replayed::default(), tail))
                }
                Found::Nothing => None,
            }),
        });
        match ours(found, wanted).map_err(|error| at_journal(&place, error))?.flatten() {
            Some((header, alive, _)) if alive.records > 0 && header.file != self.id() => {
                self.refuse_copy(&header, &alive, &place)?;
                self.refuse_foreign(&header, wanted, &alive)
                    .map_err(|error| at_journal(&place, error))?;
                Ok(None)
            }
            Some((header, alive, _)) => Ok(Some((place, header, alive))),
            None => Ok(None),
        }
    }

    /// The journal that stands there; none if it has not been made to its end, or is none and not wanted.
    fn find(
        &self,
        place: &Path,
        options: &AtomicOptions,
        wanted: bool,
        hold: Hold,
    ) -> Result<Option<(Disk, Surveyed)>> {
        let file = journal_file(place, options)?;
        if hold == Hold::Alone {
            lock::take_journal(&file, place)?;
        }
        // Where it is not had alone, another file's writer may have it.
        let disk = Disk::File(file);
        let found = ours(journal::survey(&disk), wanted)?.flatten();
        Ok(found.map(|surveyed| (disk, surveyed)))
    }

    /// Goes on with a journal that is there: replays it, and begins a session. None: that takes the file alone.
    fn go_on(
        &self,
        (disk, (header, alive, end)): (Disk, Surveyed),
        options: &AtomicOptions,
        wanted: bool,
        hold: Hold,
    ) -> Result<Option<Opened>> {
        if alive.records > 0 && header.file != self.id() {
            self.refuse_copy(&header, &alive, &self.place(options)?)?;
            self.refuse_foreign(&header, wanted, &alive)?;
            return Ok(Some(Opened::default()));
        }
        if alive.records == 0 && (options.read_only || !wanted) {
            let limits = Some(journal_limits(&header));
            return Ok(Some(Opened { limits, ..Opened::default() }));
        }
        if options.read_only || options.journal == JournalUse::Never {
            let text = format!(
                "{} units are in the journal that may be torn in the file; open it once for writing, with the \
                 journal",
                alive.units
            );
            return Err(Error::new(ErrorKind::Unclean, text));
        }
        if hold == Hold::Shared {
            return Ok(None);
        }
        let data = Disk::File(self.file.clone());
        let (replayed, end): (Replayed, Mark) = match alive.records {
            0 => (alive, end),
            _ => journal::replay(&disk, &header, &data)?,
        };
        if replayed.records > 0 {
            tracing::info!("{}: {} units put in their places", self.path.display(), replayed.units);
        }
        let journal = Journal::begin(disk, &header, end, self.id())?;
        Ok(Some(Opened::with(journal, replayed)))
    }

    /// A file that was copied together with its journal has the units of another in it.
    fn refuse_copy(&self, header: &Header, alive: &Replayed, place: &Path) -> Result<()> {
        match self.note()? {
            Some(note) if note.id == header.id => Err(self.copied(alive, place)),
            Some(_) | None => Ok(()),
        }
    }

    /// A journal of another file is in nobody's way who wants none.
    fn refuse_foreign(&self, header: &Header, wanted: bool, alive: &Replayed) -> Result<()> {
        if !wanted {
            return Ok(());
        }
        let text = format!(
            "the journal is of another file (inode {}, and this one is {}{}) and has {} units of it; bring that \
             file back, or move the journal away",
            header.file.inode,
            self.identity.inode,
            if header.file.inode == self.identity.inode { ", born later" } else { "" },
            alive.units
        );
        Err(Error::new(ErrorKind::InvalidInput, text))
    }

    /// Makes the journal; one that could not be made to its end leaves nothing behind.
    fn make(&self, place: &Path, there: bool, ring_bytes: u64) -> Result<Journal> {
        let access = if there { Access::ReadWrite } else { Access::CreateNew };
        let file = FileDisk::open(place, access).map_err(journal::journal_error)?;
        lock::take_journal(&file, place)?;
        let disk = Disk::File(file);
        // Its lock was not held since it was looked at.
        if there && !matches!(journal::look(&disk)?, Found::Nothing) {
            let text = "another opening has just made it, for another file; name another place for the journal";
            return Err(Error::new(ErrorKind::InUse, text));
        }
        let made = self.fill(&disk, place, ring_bytes);
        if made.is_err() && !there {
            let _ = fs::remove_file(place);
        }
        Journal::begin(disk, &made?, Mark { position: 0, sequence: 1 }, self.id())
    }

    fn fill(&self, disk: &Disk, place: &Path, ring_bytes: u64) -> Result<Header> {
        // It holds what the file holds, so the same people may read it.
        let mode = fs::metadata(&self.path).map(|meta| meta.permissions());
        mode.and_then(|mode| fs::set_permissions(place, mode)).map_err(journal::journal_error)?;
        let header = Header::new(random_id()?, ring_bytes, self.id())?;
        journal::make(disk, &header)?;
        // A journal whose name is lost would be as good as none.
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")));
        folder.and_then(|folder| folder.sync_all()).map_err(journal::journal_error)?;
        Ok(header)
    }
}

fn file_error(what: &str, error: io::Error) -> Error {
    Error::new(io_kind(&error), format!("{what}: {}", io_text(&error))).with_source(error)
}

fn open_error(error: io::Error, path: &Path) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::NotFound => {
            let text = format!("no such file; touch {} makes an empty one", path.display());
            (ErrorKind::NotFound, text)
        }
        io::ErrorKind::IsADirectory => {
            (ErrorKind::Unsupported, "it is a folder; name a file in it".to_owned())
        }
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Io, "permission denied; see who may write the file".to_owned())
        }
        _ => (io_kind(&error), io_text(&error)),
    };
    Error::new(kind, text).with_source(error)
}

/// Whether what is at `path` begins as a journal does.
#[must_use]
pub fn is_journal(path: &Path) -> bool {
    // Of a pipe that nobody writes to, opening would wait.
    if !path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    let mut magic = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == MAGIC
}

/// What a check of a journal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalReport {
    /// The inode of the file it is for.
    pub file_inode: u64,
    /// Bytes of records that it holds at most.
    pub ring_bytes: u64,
    /// The number of the next record.
    pub next_sequence: u64,
    /// What an opening would put in its place.
    pub alive: Replayed,
}

/// Checks a journal without changing it: its header, and every record that is alive. What is being written to at
/// this moment is looked at until it can be told from damage.
///
/// # Errors
/// `Damaged`, with the place; `InUse`: it is written to faster than it can be read; `InvalidInput`: it is none; `Unsupported`: a newer one; the file's.
pub fn check_journal(path: &Path) -> Result<JournalReport> {
    let named = |error: Error| error.on(path.display().to_string()).during("check");
    let file = FileDisk::open(path, Access::ReadOnly).map_err(|error| open_error(error, path));
    let disk = Disk::File(file.map_err(named)?);
    let Some((header, alive, end)) = journal::survey(&disk).map_err(named)? else {
        let text = "its making was cut off, and nothing is in it; the next opening makes it";
        return Err(named(Error::new(ErrorKind::Damaged, text)));
    };
    Ok(JournalReport {
        file_inode: header.file.inode,
        ring_bytes: header.ring_bytes,
        next_sequence: end.sequence,
        alive,
    })
}
