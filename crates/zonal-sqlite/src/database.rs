//! A database: its file, and the connections to it.
//!
//! Invariants:
//! * A file is open once in a process, and all connections share it ([`crate::open`]).
//! * A batch is in memory until it is committed; then it is one write of [`AtomicFile`], or nothing of it was
//!   written.
//! * An ordinary write is only made when SQLite's rollback journal or its WAL protects it, and that journal is durable. After a
//!   batch that was not taken SQLite writes the journal and does not sync it, so it is synced here. Who wants neither says so by
//!   `PRAGMA synchronous = off`, and is the only one whose pages are written under no journal.

use crate::locks::{Level, Locks};
use crate::open::{Entrance, FileKey, lock};
use crate::{OPTIONS, sys};
use libsqlite3_sys as ffi;
use std::collections::BTreeMap;
use std::ffi::{OsString, c_int};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use zonal::atomic::{AtomicFile, AtomicOptions};
use zonal::{Buffer, Error, ErrorKind};

/// What direct I/O reads and writes in.
const BLOCK: u64 = 4096;

const SMALL_PAGES: &str = "the VFS \"zonal\" wants pages of 4096 bytes at least";

/// What a database begins with.
const FORMAT: &[u8] = b"SQLite format 3\0";

/// What a rollback journal begins with that has not been committed ("The Rollback Journal" in SQLite's file format).
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// A result of SQLite's that is not `SQLITE_OK`.
pub(crate) type Code = c_int;

/// How often an opening is begun again as the file at its path has become another one.
const OPENINGS: usize = 8;

/// What all connections to one file share.
pub(crate) struct Database {
    file: AtomicFile,
    read_only: bool,
    /// In bytes.
    length: AtomicU64,
    locks: Mutex<Locks>,
    batches: AtomicU64,
    pages: AtomicU64,
    ordinary: Ordinary,
}

/// Pages that were no part of a batch, by what protects them.
#[derive(Default)]
struct Ordinary {
    by_rollback_journal: AtomicU64,
    by_wal: AtomicU64,
    by_nothing: AtomicU64,
}

/// One connection's handle of a database.
pub(crate) struct Connection {
    // Nothing only while it is being closed.
    database: Option<Arc<Database>>,
    /// As SQLite names it.
    path: PathBuf,
    entrance: Entrance,
    level: Level,
    /// The pages of the batch that was begun.
    batch: Option<BTreeMap<u64, Buffer>>,
    batch_bytes: u64,
    /// A batch was not taken: SQLite's rollback journal may be there and not be durable.
    journal_is_young: bool,
    tearing: Tearing,
    /// `PRAGMA locking_mode = exclusive` was asked for, under which SQLite does without shared memory.
    alone: bool,
}

/// What is done about pages that SQLite writes under no journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tearing {
    Refused,
    /// `PRAGMA synchronous = off` was asked for. Never forgotten: whether SQLite followed is not told.
    Allowed,
    /// The same, and SQLite's log knows.
    Said,
}

/// What puts a page back, or writes it again, when its writer is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shelter {
    RollbackJournal,
    Wal,
    Nothing,
}

/// How a database is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// To be read: nothing is made or changed.
    ReadOnly,
    /// To be written, and to be read where its file may not be.
    ReadWrite,
    /// The same, and made if it is not there.
    Create,
}

impl Connection {
    /// Opens the database, and makes it where that is asked for.
    pub(crate) fn open(path: &Path, wanted: Wanted) -> Result<Self, Code> {
        if wanted == Wanted::Create
            && let Err(error) = OpenOptions::new().write(true).create_new(true).open(path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(said(path, &error, ffi::SQLITE_CANTOPEN));
        }
        for _ in 0..OPENINGS {
            let metadata = fs::metadata(path);
            let metadata = metadata.map_err(|error| said(path, &error, ffi::SQLITE_CANTOPEN))?;
            let entrance = Entrance::to(FileKey::of(&metadata));
            if let Some(database) = Database::enter(&entrance, path, wanted)? {
                return Ok(Self {
                    database: Some(database),
                    path: path.to_owned(),
                    entrance,
                    level: Level::None,
                    batch: None,
                    batch_bytes: 0,
                    journal_is_young: false,
                    tearing: Tearing::Refused,
                    alone: false,
                });
            }
        }
        sys::log(
            ffi::SQLITE_CANTOPEN,
            &format!("{}: another file takes its place, again and again", path.display()),
        );
        Err(ffi::SQLITE_CANTOPEN)
    }

    /// Whether nothing can be written by it.
    pub(crate) fn is_read_only(&self) -> bool {
        self.database.as_ref().is_some_and(|database| database.read_only)
    }

    /// Whether the file at its path is another one now, or none is.
    pub(crate) fn has_moved(&self) -> bool {
        let there = fs::metadata(&self.path);
        !there.is_ok_and(|metadata| FileKey::of(&metadata) == self.entrance.key())
    }

    fn database(&self) -> Result<&Database, Code> {
        self.database.as_deref().ok_or(ffi::SQLITE_MISUSE)
    }

    /// Reads; what is behind the file's end is left as it was, and `SQLITE_IOERR_SHORT_READ` says so.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Code> {
        let file = &self.database()?.file;
        let before = offset % BLOCK;
        let length = (before + into.len() as u64).next_multiple_of(BLOCK);
        let buffer = file.buffer(near(length));
        let read = file.read_at(offset - before, buffer).wait();
        let read = read.map_err(|failed| told(&failed.error, ffi::SQLITE_IOERR_READ))?.buffer;
        let found = read.get(near(before)..).unwrap_or_default();
        let count = found.len().min(into.len());
        into[..count].copy_from_slice(&found[..count]);
        if offset == 0 && !self.alone && is_first_page_with_wal(&into[..count]) {
            self.explain_wal();
        }
        if count < into.len() { Err(ffi::SQLITE_IOERR_SHORT_READ) } else { Ok(()) }
    }

    /// SQLite is about to refuse the database for its want of shared memory, and asks no VFS for a reason.
    fn explain_wal(&self) {
        let text = format!(
            "{}: it is in WAL mode, for which SQLite wants memory that connections share, and there is none: PRAGMA \
             locking_mode = exclusive before anything else, then PRAGMA journal_mode = delete to leave that mode",
            self.path.display()
        );
        sys::log(ffi::SQLITE_CANTOPEN, &text);
    }

    /// From here on the database may be in WAL mode.
    pub(crate) fn be_alone(&mut self) {
        self.alone = true;
    }

    /// Adds a page to the batch, or writes it at once.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Code> {
        if self.batch.is_some() {
            return self.gather(offset, bytes);
        }
        if !offset.is_multiple_of(BLOCK) || !(bytes.len() as u64).is_multiple_of(BLOCK) {
            let text =
                format!("{}: a page of {} bytes; {SMALL_PAGES}", self.path.display(), bytes.len());
            sys::log(ffi::SQLITE_IOERR_WRITE, &text);
            return Err(ffi::SQLITE_IOERR_WRITE);
        }
        if self.journal_is_young {
            self.sync_rollback_journal()?;
        }
        let shelter = self.shelter();
        if shelter == Shelter::Nothing {
            self.allow_tearing()?;
        }
        let database = self.database()?;
        let written = database.file.write_at(offset, bytes).wait();
        written.map_err(|failed| told(&failed.error, ffi::SQLITE_IOERR_WRITE))?;
        database.length.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
        database.ordinary.under(shelter).fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn gather(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Code> {
        let limits = self.database()?.file.batch_limits();
        let Some(batch) = &mut self.batch else { return Err(ffi::SQLITE_MISUSE) };
        self.batch_bytes += bytes.len() as u64;
        if batch.len() == limits.units_max || self.batch_bytes > limits.bytes_max {
            // SQLite goes on with its rollback journal.
            return Err(ffi::SQLITE_IOERR_COMMIT_ATOMIC);
        }
        batch.insert(offset, Buffer::from_slice(bytes));
        Ok(())
    }

    /// Before a page is written that nothing would put back after a kill. The pragmas that lead here are refused
    /// ([`against_journal_mode`]); but one that names no database is only told to the first one of a connection, and is
    /// followed by all that are attached.
    fn allow_tearing(&mut self) -> Result<(), Code> {
        let path = self.path.display();
        match self.tearing {
            Tearing::Refused => {
                let text = format!(
                    "{path}: a page would be written under no journal, and a kill would tear the transaction; set PRAGMA \
                     SCHEMA.journal_mode = delete, with the name that this database is attached by"
                );
                sys::log(ffi::SQLITE_IOERR_WRITE, &text);
                return Err(ffi::SQLITE_IOERR_WRITE);
            }
            Tearing::Allowed => {
                let text = format!(
                    "{path}: pages are written under no journal, and a kill tears the transaction; PRAGMA synchronous = \
                     normal ends that"
                );
                sys::log(ffi::SQLITE_WARNING, &text);
                self.tearing = Tearing::Said;
            }
            Tearing::Said => (),
        }
        Ok(())
    }

    fn shelter(&self) -> Shelter {
        let mut magic = [0; JOURNAL_MAGIC.len()];
        let journal = File::open(self.beside("-journal"));
        let read = journal.and_then(|journal| journal.read_exact_at(&mut magic, 0));
        if read.is_ok() && magic == JOURNAL_MAGIC {
            return Shelter::RollbackJournal;
        }
        let wal = fs::metadata(self.beside("-wal"));
        if wal.is_ok_and(|wal| wal.len() > 0) { Shelter::Wal } else { Shelter::Nothing }
    }

    /// A file of SQLite's that belongs to this one.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(suffix);
        name.into()
    }

    /// From here on pages may be written under no journal.
    pub(crate) fn let_tear(&mut self) {
        if self.tearing == Tearing::Refused {
            self.tearing = Tearing::Allowed;
        }
    }

    /// Before the first page that a rollback journal protects is overwritten.
    fn sync_rollback_journal(&mut self) -> Result<(), Code> {
        let name = self.beside("-journal");
        let synced = match File::open(&name) {
            Ok(journal) => {
                let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = File::open(folder.unwrap_or(Path::new(".")));
                journal.sync_all().and_then(|()| folder?.sync_all())
            }
            // Nothing is protected by it, as when a transaction is rolled back.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        synced.map_err(|error| said(&name, &error, ffi::SQLITE_IOERR_FSYNC))?;
        self.journal_is_young = false;
        Ok(())
    }

    /// From here on pages are gathered.
    pub(crate) fn begin(&mut self) {
        (self.batch, self.batch_bytes) = (Some(BTreeMap::new()), 0);
    }

    /// Writes what was gathered, as one.
    pub(crate) fn commit(&mut self) -> Result<(), Code> {
        let batch = self.batch.take().unwrap_or_default();
        let Some((offset, last)) = batch.last_key_value() else { return Ok(()) };
        let (end, pages) = (offset + last.len() as u64, batch.len() as u64);
        let database = self.database()?;
        let written = database.file.write_batch(batch).wait();
        written.map_err(|error| told(&error, ffi::SQLITE_IOERR_COMMIT_ATOMIC))?;
        database.length.fetch_max(end, Ordering::Relaxed);
        database.batches.fetch_add(1, Ordering::Relaxed);
        database.pages.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets what was gathered. SQLite calls it after every batch that was not taken.
    pub(crate) fn rollback(&mut self) {
        self.batch = None;
        self.journal_is_young = true;
    }

    pub(crate) fn truncate(&self, length: u64) -> Result<(), Code> {
        let database = self.database()?;
        let cut = database.file.set_len(length).wait();
        cut.map_err(|error| told(&error, ffi::SQLITE_IOERR_TRUNCATE))?;
        database.length.store(length, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<(), Code> {
        let synced = self.database()?.file.flush().wait();
        synced.map_err(|error| told(&error, ffi::SQLITE_IOERR_FSYNC))
    }

    pub(crate) fn length(&self) -> Result<u64, Code> {
        Ok(self.database()?.length.load(Ordering::Relaxed))
    }

    pub(crate) fn lock(&mut self, to: Level) -> Result<(), Code> {
        let (level, done) = lock(&self.database()?.locks).raise(self.level, to);
        self.level = level;
        if done { Ok(()) } else { Err(ffi::SQLITE_BUSY) }
    }

    pub(crate) fn unlock(&mut self, to: Level) -> Result<(), Code> {
        let level = lock(&self.database()?.locks).lower(self.level, to);
        self.level = level;
        Ok(())
    }

    pub(crate) fn is_reserved(&self) -> Result<bool, Code> {
        Ok(lock(&self.database()?.locks).is_reserved())
    }

    /// What `PRAGMA zonal` says, of all connections since the file was opened.
    pub(crate) fn counts(&self) -> Result<String, Code> {
        let Database { batches, pages, ordinary, .. } = self.database()?;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut text = format!(
            "{} batches of {} pages, {} pages under a rollback journal",
            of(batches),
            of(pages),
            of(&ordinary.by_rollback_journal)
        );
        // What is rare is only told where there is some.
        for (count, what) in
            [(&ordinary.by_wal, "from a WAL"), (&ordinary.by_nothing, "under no journal")]
        {
            if of(count) > 0 {
                text += &format!(", {} pages {what}", of(count));
            }
        }
        Ok(text)
    }

    /// Closes it, and the file with the last one.
    pub(crate) fn close(mut self) -> Result<(), Code> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Code> {
        let Some(database) = self.database.take() else { return Ok(()) };
        lock(&database.locks).lower(self.level, Level::None);
        // Until the file is closed nobody may open it again: it is locked.
        let _inside = self.entrance.enter();
        let Some(database) = Arc::into_inner(database) else { return Ok(()) };
        database.file.close().map_err(|error| told(&error, ffi::SQLITE_IOERR_CLOSE))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Ordinary {
    fn under(&self, shelter: Shelter) -> &AtomicU64 {
        match shelter {
            Shelter::RollbackJournal => &self.by_rollback_journal,
            Shelter::Wal => &self.by_wal,
            Shelter::Nothing => &self.by_nothing,
        }
    }
}

impl Database {
    /// The database behind an entrance, opened at `path` where nobody has it open; none: another file is there now.
    fn enter(entrance: &Entrance, path: &Path, wanted: Wanted) -> Result<Option<Arc<Self>>, Code> {
        // SQLite reads what it may not write.
        let read_only = wanted == Wanted::ReadOnly || !sys::may_be_written(path);
        let mut inside = entrance.enter();
        if let Some(database) = inside.upgrade() {
            if read_only || !database.read_only {
                return Ok(Some(database));
            }
            let text = format!(
                "{}: this process has it open to be read only; close that connection, or open it for writing before it",
                path.display()
            );
            sys::log(ffi::SQLITE_BUSY, &text);
            return Err(ffi::SQLITE_BUSY);
        }
        let database = Self::open(path, read_only)?;
        let found = database.file.metadata();
        let found = found.map_err(|error| told(&error, ffi::SQLITE_IOERR_FSTAT))?;
        if FileKey::of(&found) != entrance.key() {
            return Ok(None);
        }
        // Behind the replay, which may have made it longer.
        database.length.store(found.len(), Ordering::Relaxed);
        let database = Arc::new(database);
        *inside = Arc::downgrade(&database);
        Ok(Some(database))
    }

    fn open(path: &Path, read_only: bool) -> Result<Self, Code> {
        if !read_only {
            refuse_small_pages(path)?;
        }
        let options = OPTIONS.get().copied().unwrap_or_default();
        let options = AtomicOptions { read_only, ..options.of_file() };
        let file = AtomicFile::open(path, &options);
        let file = file.map_err(|error| told(&error, ffi::SQLITE_CANTOPEN))?;
        let none = || AtomicU64::new(0);
        Ok(Self {
            file,
            read_only,
            length: none(),
            locks: Mutex::default(),
            batches: none(),
            pages: none(),
            ordinary: Ordinary::default(),
        })
    }
}

/// Before anything is made beside a database whose pages no batch takes.
fn refuse_small_pages(path: &Path) -> Result<(), Code> {
    let mut head = [0; 18];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut head, 0));
    if read.is_err() || !head.starts_with(FORMAT) {
        // None yet, or none at all, which is SQLite's to say.
        return Ok(());
    }
    // 65536 is said as 1.
    let bytes = u64::from(u16::from_be_bytes([head[16], head[17]]));
    if bytes == 1 || bytes >= BLOCK {
        return Ok(());
    }
    let text = format!(
        "{}: its pages have {bytes} bytes; {SMALL_PAGES}: with SQLite's own VFS, PRAGMA page_size = {BLOCK}, then VACUUM \
         INTO a new file, and open that",
        path.display()
    );
    sys::log(ffi::SQLITE_CANTOPEN, &text);
    Err(ffi::SQLITE_CANTOPEN)
}

/// Whether these bytes are a whole first page, not its header alone, and its database is in WAL mode ("The Database Header"
/// in SQLite's file format).
fn is_first_page_with_wal(bytes: &[u8]) -> bool {
    bytes.len() as u64 >= BLOCK && bytes.starts_with(FORMAT) && bytes[19] == 2
}

/// What is said against pages that are smaller than a block: why no page size below it is taken; `None` of one that is.
pub(crate) fn against_page_size(bytes: u64) -> Option<String> {
    let is_small = bytes.is_power_of_two() && (512..BLOCK).contains(&bytes);
    is_small.then(|| format!("pages of {bytes} bytes: {SMALL_PAGES}"))
}

/// What is said against a journal mode under which a kill tears transactions; `None` of one that keeps them whole.
pub(crate) fn against_journal_mode(value: &[u8]) -> Option<String> {
    // SQLite takes any beginning of a mode's name for it, and none at all for `delete`.
    let is = |mode: &str| {
        let head = mode.as_bytes().get(..value.len());
        !value.is_empty() && head.is_some_and(|head| head.eq_ignore_ascii_case(value))
    };
    let (mode, why) = if is("off") {
        (
            "off",
            "SQLite makes batches only where it has a rollback journal to go on with, so a kill would tear transactions",
        )
    } else if is("memory") {
        ("memory", "a kill would tear a transaction that is larger than a batch")
    } else {
        return None;
    };
    Some(format!(
        "journal_mode = {mode}: {why}; leave it at delete (or truncate, or persist), under which a transaction that is a \
         batch writes no rollback journal"
    ))
}

/// Whether `PRAGMA synchronous` means `OFF` by this value, in the ways in which SQLite takes it.
pub(crate) fn is_synchronous_off(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    // A number counts by its low three bits; 7 is one past the last level, which is taken for the first one.
    let number = text.parse::<u64>().is_ok_and(|number| matches!(number & 7, 0 | 7));
    number || ["off", "no", "false"].contains(&text.as_str())
}

/// SQLite's number for an error, which SQLite's log is told.
fn told(error: &Error, otherwise: Code) -> Code {
    let code = match error.kind() {
        ErrorKind::InUse => ffi::SQLITE_BUSY,
        ErrorKind::NoSpace if otherwise != ffi::SQLITE_IOERR_COMMIT_ATOMIC => ffi::SQLITE_FULL,
        _ => otherwise,
    };
    sys::log(code, &error.to_string());
    code
}

fn said(path: &Path, error: &io::Error, code: Code) -> Code {
    sys::log(code, &format!("{}: {error}", path.display()));
    code
}

/// A length of what SQLite asks for at once, which fits into memory.
fn near(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
