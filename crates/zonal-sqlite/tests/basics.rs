//! What a program meets: transactions without a rollback journal, large ones with one, each page size, connections that
//! wait for each other, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test")]

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, ffi};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use zonal::ErrorKind;
use zonal::atomic::{AtomicFile, AtomicOptions, JournalUse, check_journal};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        zonal_sqlite::register(&zonal_sqlite::Options::default()).unwrap();
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Connection {
        let flags = OpenFlags::default();
        let path = self.path("a.db");
        Connection::open_with_flags_and_vfs(path, flags, zonal_sqlite::VFS).unwrap()
    }
}

/// Batches, pages in them, and pages written under a rollback journal.
fn counts(db: &Connection) -> (u64, u64, u64) {
    let text = says(db);
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap())
}

fn says(db: &Connection) -> String {
    db.query_row("pragma zonal", [], |row| row.get(0)).unwrap()
}

/// The pages that `PRAGMA zonal` says are of this kind.
fn count_of(kind: &str, db: &Connection) -> u64 {
    let text = says(db);
    let part = text.split(", ").find(|part| part.ends_with(kind));
    part.map_or(0, |part| part.split(' ').next().unwrap().parse().unwrap())
}

fn is_sound(db: &Connection) -> bool {
    let says: String = db.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    says == "ok"
}

#[test]
fn transactions_are_batches_with_each_page_size() {
    for page in [4096, 8192, 16384, 65536_u64] {
        let place = Place::new();
        let db = place.open();
        db.execute_batch(&format!("pragma page_size = {page}; create table t(a, b)")).unwrap();
        let (batches, pages, ordinary) = counts(&db);
        assert_eq!((batches, pages), (0, 0), "the first pages have nothing to be torn");
        for n in 0..20 {
            let text = format!("insert into t values ({n}, zeroblob(3 * {page}))");
            db.execute_batch(&text).unwrap();
            assert!(!place.path("a.db-journal").exists());
        }
        db.execute_batch("begin; update t set b = randomblob(100); rollback").unwrap();
        db.execute_batch(
            "begin; delete from t where a > 9; update t set a = -a where a > 7; commit",
        )
        .unwrap();
        let (batches, pages, after) = counts(&db);
        assert!(batches == 21 && pages > 60, "{batches} {pages}");
        assert_eq!(after, ordinary, "{page}: nothing was written but batches");
        db.close().unwrap();
        let alive = check_journal(&place.path("a.db.journal")).unwrap().alive;
        assert_eq!(alive.records, 0, "it was closed");
        // Any SQLite reads it.
        let db = Connection::open(place.path("a.db")).unwrap();
        assert!(is_sound(&db));
        let sum: (i64, i64) = db
            .query_row("select count(*), sum(a) from t", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(sum, (10, 11));
    }
}

#[test]
fn what_is_too_large_for_a_batch_goes_by_the_rollback_journal() {
    let place = Place::new();
    let db = place.open();
    db.execute_batch("create table t(a integer primary key, b)").unwrap();
    let fill = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 900)
                insert or replace into t select i, zeroblob(2000) from n";
    db.execute_batch(fill).unwrap();
    let (batches, _, ordinary) = counts(&db);
    assert!(batches == 0 && ordinary > 400, "{batches} {ordinary}");
    db.execute_batch("begin; update t set b = zeroblob(1999); rollback").unwrap();
    let (_, _, ordinary) = counts(&db);
    db.execute_batch("update t set b = zeroblob(1998) where a = 5").unwrap();
    let (batches, pages, same) = counts(&db);
    assert!(batches == 1 && pages < 10 && same == ordinary, "{batches} {pages} {same}");
    assert!(is_sound(&db));
    // Gives its space back.
    let length = || fs::metadata(place.path("a.db")).unwrap().len();
    let before = length();
    db.execute_batch("delete from t where a > 50; vacuum").unwrap();
    assert!(length() < before / 4, "{} of {before}", length());
    assert!(is_sound(&db));
    db.close().unwrap();
}

#[test]
fn pages_below_4096_bytes_are_refused_before_anything_is_written() {
    let place = Place::new();
    let db = place.open();
    for bytes in [512, 1024, 2048] {
        let error = db.execute_batch(&format!("pragma page_size = {bytes}")).unwrap_err();
        assert!(error.to_string().contains("4096 bytes at least"), "{error}");
    }
    db.execute_batch("pragma page_size = 8192; create table t(a)").unwrap();
    let bytes: u64 = db.query_row("pragma page_size", [], |row| row.get(0)).unwrap();
    assert_eq!(bytes, 8192);

    let small = place.path("small.db");
    let unix = Connection::open(&small).unwrap();
    unix.execute_batch("pragma page_size = 1024; create table t(a); insert into t values (5)")
        .unwrap();
    unix.close().unwrap();
    let open = |flags| Connection::open_with_flags_and_vfs(&small, flags, "zonal");
    let error = open(OpenFlags::default()).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen), "{error}");
    let reason = zonal_sqlite::take_reason().unwrap();
    assert!(reason.contains("its pages have 1024 bytes") && reason.contains("VACUUM INTO"));
    assert_eq!(zonal_sqlite::take_reason(), None, "it is told once");
    assert!(!place.path("small.db.journal").exists(), "nothing was made beside it");
    let read = open(OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let five: u64 = read.query_row("select a from t", [], |row| row.get(0)).unwrap();
    assert_eq!(five, 5);
    read.close().unwrap();
    // As it is advised.
    let unix = Connection::open(&small).unwrap();
    unix.execute_batch("pragma page_size = 4096; vacuum").unwrap();
    unix.close().unwrap();
    open(OpenFlags::default()).unwrap().execute_batch("insert into t values (6)").unwrap();
}

/// Rows enough for more pages than a batch, and than SQLite's cache.
const ROWS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)
                    insert or replace into t select i, zeroblob(2000) from n";

#[test]
fn journal_modes_under_which_a_kill_tears_are_refused_by_name() {
    let place = Place::new();
    let db = place.open();
    db.execute_batch("create table t(a integer primary key, b)").unwrap();
    for set in ["journal_mode = off", "main.journal_mode=OFF", "journal_mode('O')"] {
        let error = db.execute_batch(&format!("pragma {set}")).unwrap_err().to_string();
        assert!(error.contains("journal_mode = off: ") && error.contains("delete"), "{error}");
    }
    for set in ["journal_mode = memory", "main.journal_mode = Mem"] {
        let error = db.execute_batch(&format!("pragma {set}")).unwrap_err().to_string();
        assert!(error.contains("journal_mode = memory: "), "{error}");
    }
    let mode = |set: &str| -> String {
        db.query_row(&format!("pragma journal_mode{set}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!(mode(""), "delete", "it is left as it was");
    for kept in ["truncate", "persist", "delete"] {
        assert_eq!(mode(&format!(" = {kept}")), kept);
        let (before, _, _) = counts(&db);
        db.execute_batch("insert into t(b) values (1)").unwrap();
        assert_eq!(counts(&db).0, before + 1, "{kept} is carried");
        db.execute_batch(ROWS).unwrap();
    }
    assert!(is_sound(&db));
}

#[test]
fn pages_are_counted_by_what_protects_them() {
    let place = Place::new();
    let db = place.open();
    db.execute_batch("create table t(a integer primary key, b); insert into t(b) values (1)")
        .unwrap();
    let (batches, _, ordinary) = counts(&db);
    assert!(batches == 1 && ordinary > 0 && !says(&db).contains("no journal"), "{}", says(&db));
    for value in ["off", "0", "NO"] {
        let before = count_of("under no journal", &db);
        db.execute_batch(&format!("pragma synchronous = {value}; update t set b = b + 1")).unwrap();
        assert!(count_of("under no journal", &db) > before, "{value}: {}", says(&db));
        db.execute_batch("pragma synchronous = full; update t set b = b + 1").unwrap();
    }
    let (batches, _, same) = counts(&db);
    assert_eq!((batches, same), (4, ordinary), "none of these had a rollback journal");
    db.execute_batch(ROWS).unwrap();
    assert!(counts(&db).2 > ordinary);
    assert_eq!(count_of("from a WAL", &db), 0);
}

/// By all the ways in which SQLite writes pages without a batch while it has a journal.
#[test]
fn no_transaction_that_has_a_journal_is_refused() {
    for mode in ["delete", "persist"] {
        let place = Place::new();
        let db = place.open();
        let create = "create table t(a integer primary key, b)";
        db.execute_batch(&format!("pragma journal_mode = {mode}; {create}; {ROWS}")).unwrap();
        // Pages that do not fit into the cache, some of which are put back.
        let change = format!("savepoint s; update t set b = zeroblob(1999); rollback to s; {ROWS}");
        db.execute_batch(&format!("pragma cache_size = 400; begin; {change}; commit")).unwrap();
        db.execute_batch(&format!("begin; {change}; rollback")).unwrap();
        // Two databases at once.
        db.execute("attach ? as other", [place.path("b.db").to_str().unwrap()]).unwrap();
        db.execute_batch("create table other.u(a); insert into u values (1)").unwrap();
        db.execute_batch("begin; insert into u values (2); delete from t where a > 9; commit")
            .unwrap();
        db.execute_batch("detach other; vacuum").unwrap();
        // Its journal is a file that stays open.
        db.execute_batch(&format!("pragma locking_mode = exclusive; {ROWS}; {ROWS}")).unwrap();
        assert_eq!(count_of("under no journal", &db), 0);
        assert!(is_sound(&db), "{mode}");
    }
}

/// SQLite tells such a pragma to the first database alone, and follows it for all.
#[test]
fn a_journal_mode_that_was_set_unseen_writes_nothing() {
    for mode in ["off", "memory"] {
        let place = Place::new();
        let db = place.open();
        db.execute_batch("create table t(a integer primary key, b); insert into t(b) values (1)")
            .unwrap();
        db.close().unwrap();
        let before = fs::read(place.path("a.db")).unwrap();
        let flags = OpenFlags::default();
        let db = Connection::open_with_flags_and_vfs(":memory:", flags, "unix").unwrap();
        let uri = format!("file:{}?vfs=zonal", place.path("a.db").display());
        db.execute("attach ? as a", [uri]).unwrap();
        db.execute_batch(&format!("pragma journal_mode = {mode}")).unwrap();
        let is: String = db.query_row("pragma a.journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!(is, mode, "nobody was asked");
        let error = db.execute_batch(ROWS).unwrap_err();
        assert_eq!(error.sqlite_error().unwrap().extended_code, ffi::SQLITE_IOERR_WRITE);
        assert!(fs::read(place.path("a.db")).unwrap() == before, "{mode}: nothing was written");
        // As it is advised.
        db.execute_batch(&format!("pragma a.journal_mode = delete; {ROWS}")).unwrap();
        assert!(is_sound(&db));
    }
}

/// As it is advised; `vacuum into` takes a database in WAL mode, too, and leaves that mode behind.
#[test]
fn a_database_with_small_pages_in_wal_mode_is_converted_by_vacuum_into() {
    let place = Place::new();
    let unix = Connection::open(place.path("small.db")).unwrap();
    let set = "pragma page_size = 1024; create table t(a); insert into t values (5)";
    unix.execute_batch(set).unwrap();
    let mode = |db: &Connection, set: &str| -> String {
        db.query_row(&format!("pragma journal_mode{set}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!(mode(&unix, " = wal"), "wal");
    unix.execute_batch("pragma page_size = 4096").unwrap();
    unix.execute("vacuum into ?", [place.path("a.db").to_str().unwrap()]).unwrap();
    let db = place.open();
    assert_eq!(mode(&db, ""), "delete");
    db.execute_batch("insert into t values (6)").unwrap();
    let sum: u64 = db.query_row("select sum(a) from t", [], |row| row.get(0)).unwrap();
    assert_eq!((sum, counts(&db).0), (11, 1));
    // A copy of a database that is in use, onto this VFS again.
    db.execute("vacuum into ?", [place.path("copy.db").to_str().unwrap()]).unwrap();
    db.close().unwrap();
    let copy = Connection::open(place.path("copy.db")).unwrap();
    assert!(is_sound(&copy));
}

#[test]
fn a_database_in_wal_mode_says_what_to_do() {
    let place = Place::new();
    let unix = Connection::open(place.path("a.db")).unwrap();
    unix.execute_batch("create table t(a); insert into t values (5); pragma journal_mode = wal")
        .unwrap();
    unix.close().unwrap();
    let sum = |db: &Connection| -> Result<u64, Error> {
        db.query_row("select sum(a) from t", [], |row| row.get(0))
    };
    let db = place.open();
    let _ = zonal_sqlite::take_reason();
    assert_eq!(code(sum(&db).map(drop)), Some(ErrorCode::CannotOpen));
    let reason = zonal_sqlite::take_reason().unwrap();
    assert!(reason.contains("PRAGMA locking_mode = exclusive before"), "{reason}");
    db.close().unwrap();
    // As it is advised.
    let db = place.open();
    db.execute_batch("pragma locking_mode = exclusive; pragma journal_mode = delete").unwrap();
    assert_eq!((sum(&db).unwrap(), zonal_sqlite::take_reason()), (5, None));
    db.close().unwrap();
    let db = place.open();
    db.execute_batch("insert into t values (6)").unwrap();
    assert_eq!((sum(&db).unwrap(), counts(&db).0), (11, 1));
}

/// What the guide says of backups.
#[test]
fn a_crashed_database_is_not_brought_back_from_copies_and_vacuum_into_is_a_backup() {
    let place = Place::new();
    let db = place.open();
    db.execute_batch("create table t(a); insert into t values (1); insert into t values (2)")
        .unwrap();
    db.execute("vacuum into ?", [place.path("backup.db").to_str().unwrap()]).unwrap();
    // As a kill leaves them.
    for (from, to) in [("a.db", "copy.db"), ("a.db.journal", "copy.db.journal")] {
        fs::copy(place.path(from), place.path(to)).unwrap();
    }
    db.close().unwrap();
    let open = |name: &str| {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        Connection::open_with_flags_and_vfs(place.path(name), flags, "zonal")
    };
    assert_eq!(code(open("copy.db").map(drop)), Some(ErrorCode::CannotOpen));
    let reason = zonal_sqlite::take_reason().unwrap();
    assert!(reason.contains("copy.db.journal") && reason.contains("another file"), "{reason}");
    // A copy of one that was closed goes without its journal.
    fs::copy(place.path("a.db"), place.path("closed.db")).unwrap();
    for name in ["backup.db", "closed.db"] {
        let db = open(name).unwrap();
        let sum: u64 = db.query_row("select sum(a) from t", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 3, "{name}");
    }
}

#[test]
fn the_example_says_why_a_database_is_refused() {
    let place = Place::new();
    let Some(program) = example() else { return };
    fs::write(place.path("a.db"), []).unwrap();
    fs::write(place.path("a.db.journal"), [7; 100_000]).unwrap();
    let output = Command::new(program).arg(place.path("a.db")).output().unwrap();
    let says = String::from_utf8(output.stderr).unwrap();
    let (reason, sqlites) = (says.find("a.db.journal"), says.find("unable to open"));
    assert!(reason.is_some() && reason < sqlites, "{says}");
}

fn code(result: Result<(), Error>) -> Option<ErrorCode> {
    result.unwrap_err().sqlite_error_code()
}

/// As it is when a copy that was brought back is renamed over a database, or one is deleted and made anew.
#[test]
fn a_file_that_takes_the_place_of_an_open_database_is_another_one() {
    for renamed in [true, false] {
        let place = Place::new();
        let first = place.open();
        first.execute_batch("create table t(a); insert into t values (1)").unwrap();
        if renamed {
            let other = Connection::open(place.path("b.db")).unwrap();
            other.execute_batch("create table t(a); insert into t values (7)").unwrap();
            other.close().unwrap();
            fs::rename(place.path("b.db"), place.path("a.db")).unwrap();
        } else {
            fs::remove_file(place.path("a.db")).unwrap();
        }
        let error = first.execute_batch("insert into t values (2)").unwrap_err();
        assert_eq!(error.sqlite_error().unwrap().extended_code, ffi::SQLITE_READONLY_DBMOVED);
        // The journal is the first one's still, and the second does not share that one's file.
        let path = place.path("a.db");
        let again = || Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), "zonal");
        assert_eq!(code(again().map(drop)), Some(ErrorCode::DatabaseBusy));
        let sum = |db: &Connection| -> u64 {
            db.query_row("select sum(a) from t", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(sum(&first), 1, "what it had is still read");
        first.close().unwrap();

        let second = again().unwrap();
        if !renamed {
            second.execute_batch("create table t(a); insert into t values (7)").unwrap();
        }
        assert_eq!(sum(&second), 7);
        second.execute_batch("insert into t values (30)").unwrap();
        assert!(is_sound(&second));
        second.close().unwrap();
        assert_eq!(sum(&Connection::open(&path).unwrap()), 37);
    }
}

#[test]
fn a_database_has_one_file_whatever_its_names() {
    let place = Place::new();
    let db = place.open();
    db.execute_batch("create table t(a)").unwrap();
    fs::hard_link(place.path("a.db"), place.path("name.db")).unwrap();
    std::os::unix::fs::symlink(place.path("a.db"), place.path("link.db")).unwrap();
    for (n, name) in ["name.db", "link.db"].into_iter().enumerate() {
        let flags = OpenFlags::default();
        let same = Connection::open_with_flags_and_vfs(place.path(name), flags, "zonal").unwrap();
        same.execute_batch(&format!("insert into t values ({n})")).unwrap();
        let count: usize = db.query_row("select count(*) from t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, n + 1, "{name}");
    }
}

#[test]
fn who_waits_for_one_database_keeps_nobody_from_another() {
    let place = Place::new();
    drop(place.open());
    let options = AtomicOptions { journal: JournalUse::Always, ..AtomicOptions::default() };
    let held = AtomicFile::open(place.path("a.db"), &options).unwrap();
    std::thread::scope(|scope| {
        // It waits for the lock, in case that is a dead process's.
        let waiting = scope.spawn(|| {
            let flags = OpenFlags::default();
            Connection::open_with_flags_and_vfs(place.path("a.db"), flags, "zonal").map(drop)
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        for n in 0..3 {
            let path = place.path(&format!("other {n}.db"));
            let flags = OpenFlags::default();
            let other = Connection::open_with_flags_and_vfs(path, flags, "zonal").unwrap();
            other.execute_batch("create table t(a)").unwrap();
            other.close().unwrap();
        }
        assert!(!waiting.is_finished(), "the others were not behind it");
        assert_eq!(code(waiting.join().unwrap()), Some(ErrorCode::DatabaseBusy));
    });
    held.close().unwrap();
}

#[test]
fn a_read_only_connection_changes_nothing() {
    let place = Place::new();
    let read = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        Connection::open_with_flags_and_vfs(place.path("a.db"), flags, "zonal")
    };
    let sum = |db: &Connection| -> u64 {
        db.query_row("select sum(a) from t", [], |row| row.get(0)).unwrap()
    };
    let unix = Connection::open(place.path("a.db")).unwrap();
    unix.execute_batch("create table t(a); insert into t values (4)").unwrap();
    unix.close().unwrap();
    let before = fs::read(place.path("a.db")).unwrap();
    let (one, two) = (read().unwrap(), read().unwrap());
    assert_eq!((sum(&one), sum(&two)), (4, 4));
    assert!(one.is_readonly("main").unwrap());
    assert_eq!(code(one.execute_batch("insert into t values (1)")), Some(ErrorCode::ReadOnly));
    // Other processes may read it, too; one who writes would have it alone.
    let to_read = AtomicOptions { read_only: true, ..AtomicOptions::default() };
    AtomicFile::open(place.path("a.db"), &to_read).unwrap().close().unwrap();
    let path = place.path("a.db");
    let write = || Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), "zonal");
    assert_eq!(code(write().map(drop)), Some(ErrorCode::DatabaseBusy));
    drop((one, two));
    assert!(!place.path("a.db.journal").exists());
    assert!(fs::read(place.path("a.db")).unwrap() == before);

    // Beside one that writes, in the same process, it reads what that one wrote.
    let (writer, reader) = (write().unwrap(), read().unwrap());
    writer.execute_batch("insert into t values (5)").unwrap();
    assert_eq!(sum(&reader), 9);
    assert_eq!(code(reader.execute_batch("insert into t values (1)")), Some(ErrorCode::ReadOnly));
    // What is left when that process dies.
    let journal = fs::read(place.path("a.db.journal")).unwrap();
    drop((reader, writer));
    fs::write(place.path("a.db.journal"), journal).unwrap();
    assert_eq!(code(read().map(drop)), Some(ErrorCode::CannotOpen), "it may be torn");
    write().unwrap().close().unwrap();
    assert_eq!(sum(&read().unwrap()), 9);

    // What may not be written is read, as with SQLite's own VFS.
    let set = |how| Command::new("chattr").arg(how).arg(place.path("a.db")).status();
    if !set("+i").is_ok_and(|status| status.success()) {
        eprintln!("SKIP a file that may not be written: only root may make one that root may not");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let db = write().unwrap();
        assert!(db.is_readonly("main").unwrap() && sum(&db) == 9);
    });
    set("-i").unwrap();
    outcome.unwrap();
}

#[test]
fn a_wal_is_refused_and_taken_by_one_connection_that_has_the_database_alone() {
    let place = Place::new();
    let db = place.open();
    db.execute_batch("create table t(a); insert into t values (1)").unwrap();
    let mode = |db: &Connection| -> String {
        db.query_row("pragma journal_mode = wal", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(mode(&db), "delete", "there is no shared memory");
    let other = place.open();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    db.execute_batch("pragma locking_mode = exclusive").unwrap();
    assert_eq!(mode(&db), "wal", "it needs none now");
    let before = counts(&db);
    assert_eq!(count_of("from a WAL", &db), 0);
    db.execute_batch("insert into t values (2); begin; insert into t values (3); commit").unwrap();
    assert_eq!(counts(&db), before, "the WAL has it");
    let busy = other.query_row("select sum(a) from t", [], |_| Ok(())).unwrap_err();
    assert_eq!(busy.sqlite_error_code(), Some(ErrorCode::DatabaseBusy), "{busy}");
    db.execute_batch("pragma wal_checkpoint(truncate)").unwrap();
    let (batches, _, ordinary) = counts(&db);
    assert_eq!((batches, ordinary), (before.0, before.2), "neither batches nor a rollback journal");
    assert!(count_of("from a WAL", &db) > 0, "checkpoints: {}", says(&db));
    db.close().unwrap();
    // Without having it alone, nobody reads it; SQLite's own VFS does.
    let refused = other.query_row("select sum(a) from t", [], |_| Ok(())).unwrap_err();
    assert_eq!(refused.sqlite_error_code(), Some(ErrorCode::CannotOpen), "{refused}");
    drop(other);
    let db = place.open();
    db.execute_batch("pragma locking_mode = exclusive").unwrap();
    let sum: u64 = db.query_row("select sum(a) from t", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 6);
    let mode: String = db.query_row("pragma journal_mode = delete", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete", "and back");
    db.execute_batch("pragma locking_mode = normal; insert into t values (4)").unwrap();
    assert!(is_sound(&db));
}

#[test]
fn connections_of_one_process_wait_for_each_other() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    one.execute_batch("create table t(a); insert into t values (1)").unwrap();
    let busy = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy), "{error}");
    };
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    one.busy_timeout(std::time::Duration::ZERO).unwrap();
    one.execute_batch("begin immediate; insert into t values (2)").unwrap();
    busy(other.execute_batch("begin immediate"));
    let seen: i64 = other.query_row("select count(*) from t", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 1, "not committed");
    {
        let mut reading = other.prepare("select a from t").unwrap();
        let mut rows = reading.query([]).unwrap();
        rows.next().unwrap();
        busy(one.execute_batch("commit"));
    }
    one.execute_batch("commit").unwrap();
    let seen: i64 = other.query_row("select count(*) from t", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 2);
    other.execute_batch("insert into t values (3)").unwrap();
    // Somebody else is kept out.
    let options = AtomicOptions { journal: JournalUse::Always, ..AtomicOptions::default() };
    let error = AtomicFile::open(place.path("a.db"), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    one.close().unwrap();
    other.execute_batch("insert into t values (4)").unwrap();
    other.close().unwrap();
    AtomicFile::open(place.path("a.db"), &options).unwrap().close().unwrap();
}

#[test]
fn many_threads_count_together() {
    let place = Place::new();
    place.open().execute_batch("create table t(n); insert into t values (0)").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let db = place.open();
                db.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
                for _ in 0..25 {
                    db.execute_batch("begin immediate; update t set n = n + 1; commit").unwrap();
                }
            });
        }
    });
    let db = place.open();
    let count: i64 = db.query_row("select n from t", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 100);
}

#[test]
fn a_database_that_is_missing_or_damaged_is_refused() {
    let place = Place::new();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let open = |name| Connection::open_with_flags_and_vfs(place.path(name), flags, "zonal");
    let code = open("none.db").unwrap_err().sqlite_error_code();
    assert_eq!(code, Some(ErrorCode::CannotOpen));
    assert!(!place.path("none.db").exists() && !place.path("none.db.journal").exists());
    fs::write(place.path("b.db"), []).unwrap();
    fs::write(place.path("b.db.journal"), [7; 100_000]).unwrap();
    assert_eq!(open("b.db").unwrap_err().sqlite_error_code(), Some(ErrorCode::CannotOpen));
}

const GUIDE: &str = include_str!("../../../docs/guides/untorn-writes.md");
const CALL: &str = "cargo run --release -p zonal-sqlite --example sql --";

fn example() -> Option<PathBuf> {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/sql");
    if !program.exists() {
        eprintln!("SKIP the example is not built; cargo test --workspace builds it");
        return None;
    }
    Some(program)
}

#[test]
fn the_guides_commands_do_what_it_says() {
    let place = Place::new();
    let Some(program) = example() else { return };
    let block = GUIDE.split("```").find(|block| block.contains(CALL)).unwrap();
    let commands = block.strip_prefix("sh\n").unwrap().replace(CALL, program.to_str().unwrap());
    // The program itself has tests of its own.
    let commands = commands.replace("zonal check", "test -s");
    let shell = Command::new("sh").args(["-e", "-c", &commands]).current_dir(&place.0).output();
    let output = shell.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let says = String::from_utf8(output.stdout).unwrap();
    assert_eq!(says, "1|70\n2|30\n1 batches of 2 pages, 0 pages under a rollback journal\n");
}
