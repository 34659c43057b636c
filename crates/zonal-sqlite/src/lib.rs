//! SQLite's transactions without writing a rollback journal for each: one is one record in a journal of
//! [`zonal::atomic`], so a power cut leaves all of it or nothing. `PRAGMA journal_mode` is left as it is for this.
//!
//! ```text
//! SQLite ─ pager ─► VFS "zonal" ─ BEGIN_ATOMIC_WRITE, pages, COMMIT_ATOMIC_WRITE ─► one batch ─► AtomicFile
//!            └────► journals, temporary files: SQLite's own VFS "unix"                   FILE, FILE.journal
//! ```
//!
//! SQLite keeps a transaction whole by copying what it is about to overwrite into a rollback journal, which it
//! makes, syncs and deletes for every transaction. Of a VFS that commits a batch of pages untorn
//! (`SQLITE_IOCAP_BATCH_ATOMIC`) it needs none. This is such a VFS.
//!
//! * A page is a unit: `PRAGMA page_size` of 4096 at least; less is refused by the pragma, and a database with smaller
//!   pages when it is opened for writing.
//! * What no batch takes (251 pages, or 2 MiB), the first pages of a new database, and transactions over several attached
//!   databases go by SQLite's rollback journal, as without this. `PRAGMA zonal` counts both, and pages
//!   from a WAL or under no journal.
//! * `PRAGMA journal_mode` is to stay at `DELETE` (or `TRUNCATE`, or `PERSIST`), which writes no rollback journal where a transaction
//!   is a batch. `OFF` and `MEMORY`, under which a kill tears transactions, are refused; and a page that SQLite would overwrite under
//!   no journal is, if they were set unseen (`SQLITE_IOERR_WRITE`).
//! * `PRAGMA synchronous` is to stay at `FULL` or `NORMAL`: with `OFF`, which is not refused, SQLite uses no batches, and nothing else
//!   either, so a kill tears transactions.
//! * A database belongs to one process at a time, which may have any number of connections; another one is told
//!   that it is busy. Read-only connections (`SQLITE_OPEN_READONLY`) change nothing, and processes that have no other share the
//!   database; one that needs a replay is not opened so, nor one for writing beside it in the same process.
//! * There is no shared memory, so WAL is refused, and `journal_mode` stays what it was; but for `PRAGMA locking_mode =
//!   EXCLUSIVE`, under which SQLite needs none. Then transactions are kept whole by the WAL, as without this, and none is a batch.
//! * A file that was renamed over, or deleted and made anew, under open connections is another database: they write nothing more
//!   (`SQLITE_READONLY_DBMOVED`), and it can be opened when they are closed.
//! * `FILE.journal` belongs to the database: do not open one without the other after a cut, nor delete it. `FILE-journal` is
//!   SQLite's rollback journal.
//! * In one process a database is opened by this VFS or by another, not by both at a time, as with all VFSs of SQLite.
//!
//! Why something was refused stands in SQLite's log (`SQLITE_CONFIG_LOG`), and [`take_reason`] tells it: SQLite itself has but a
//! number for what a VFS refuses (`unable to open database file`, `disk I/O error`).
//!
//! SQLite has to be built with `SQLITE_ENABLE_BATCH_ATOMIC_WRITE`; for its bundled sources that is said by
//! `LIBSQLITE3_FLAGS` in `.cargo/config.toml`. [`register`] refuses one that was not.
//!
//! ```
//! # use rusqlite::{Connection, OpenFlags};
//! zonal_sqlite::register(&zonal_sqlite::Options::default())?;
//! # let folder = std::env::temp_dir().join(format!("zonal-doc-sqlite-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = folder.join("accounts.db");
//! let db = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), zonal_sqlite::VFS)?;
//! db.execute_batch(
//!     "create table accounts(id integer primary key, balance integer);
//!      insert into accounts values (1, 100), (2, 0);
//!      begin;
//!      update accounts set balance = balance - 30 where id = 1;
//!      update accounts set balance = balance + 30 where id = 2;
//!      commit;",
//! )?;
//! let counts: String = db.query_row("pragma zonal", [], |row| row.get(0))?;
//! println!("{counts}");
//! # db.close().map_err(|(_, error)| error)?;
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod database;
mod locks;
mod open;
mod sys;

use std::cell::RefCell;
use std::sync::OnceLock;
use zonal::EngineChoice;
use zonal::atomic::{AtomicOptions, JOURNAL_BYTES, JournalUse};
use zonal::{Error, ErrorKind, Result};

/// The VFS's name, for `sqlite3_open_v2` and `file:PATH?vfs=zonal`.
pub const VFS: &str = "zonal";

/// How databases are opened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Bytes of records that the journal of a new database holds: 1 MiB to 1 GiB, a multiple of 4096.
    pub journal_bytes: u64,
    /// What moves the bytes.
    pub engine: EngineChoice,
}

impl Default for Options {
    fn default() -> Self {
        Self { journal_bytes: JOURNAL_BYTES, engine: EngineChoice::default() }
    }
}

impl Options {
    fn of_file(self) -> AtomicOptions {
        AtomicOptions {
            journal: JournalUse::Always,
            journal_bytes: self.journal_bytes,
            engine: self.engine,
            ..AtomicOptions::default()
        }
    }
}

/// Those of the first registration.
static OPTIONS: OnceLock<Options> = OnceLock::new();

/// Makes the VFS known to this process's SQLite, under the name [`VFS`]. It is not made the default. Later calls
/// change nothing.
///
/// # Errors
/// `Unsupported`: SQLite was built without batches, or has no VFS "unix"; `Io`: it refused.
pub fn register(options: &Options) -> Result<()> {
    OPTIONS.get_or_init(|| *options);
    static DONE: OnceLock<std::result::Result<(), (ErrorKind, &'static str)>> = OnceLock::new();
    let done = DONE.get_or_init(sys::register);
    done.map_err(|(kind, text)| Error::new(kind, text).on(VFS).during("register"))
}

thread_local! {
    /// The last one, of this thread.
    static REASON: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Why the VFS refused or failed what this thread asked of SQLite last, with what to do about it; `None`: it did not, since the last
/// call of this function.
///
/// SQLite calls a VFS in the thread that called SQLite, and has no room for a VFS's words: to the user
/// of a database whose pages are too small it says no more than `unable to open database file`.
///
/// ```
/// # use rusqlite::{Connection, OpenFlags};
/// zonal_sqlite::register(&zonal_sqlite::Options::default())?;
/// let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
/// let opened = Connection::open_with_flags_and_vfs("no-such-folder/a.db", flags, zonal_sqlite::VFS);
/// let error = opened.expect_err("there is none");
/// let reason = zonal_sqlite::take_reason().unwrap_or_default();
/// assert!(reason.contains("no-such-folder/a.db: No such file"), "{error}: {reason}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn take_reason() -> Option<String> {
    REASON.with(RefCell::take)
}

fn keep_reason(text: &str) {
    // A thread that ends may close its databases when this is gone.
    let _ = REASON.try_with(|reason| reason.replace(Some(text.to_owned())));
}
