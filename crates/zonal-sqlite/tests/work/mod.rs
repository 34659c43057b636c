//! Work for a database, and what has to be in it: transactions that change rows all over the file, some of them more
//! pages than a batch takes. What each one does follows from its number, so the content after the last one is known
//! exactly.

#![allow(dead_code, reason = "each suite uses a part of it")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags, params};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CHILD: &str = "ZONAL_SQLITE_CHILD";
const MARKS: &str = "ZONAL_SQLITE_MARKS";
const WAY: &str = "ZONAL_SQLITE_WAY";

/// Rows that are changed, of which each fills a fifth of a page of 4096 bytes.
const ROWS: u64 = 1600;
const PAD: usize = 800;
/// Rows that a transaction changes; one of so many changes all of them, which is more than a batch.
const CHANGED: u64 = 12;
const ALL_AT: u64 = 25;

/// How a transaction is kept whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By batches of the VFS.
    Zonal,
    /// The same, by one who asks for no rollback journal on the disk, and is refused.
    Refused,
    /// By SQLite's WAL, in the VFS's files, by a connection that has them alone.
    Wal,
    /// Not at all, over SQLite's own VFS: the control of power cuts.
    Bare,
    /// The same without a sync, so that most of its time is writes: the control of kills, which lose nothing that
    /// was written.
    Unsynced,
}

impl Way {
    const ALL: [Self; 5] = [Self::Zonal, Self::Refused, Self::Wal, Self::Bare, Self::Unsynced];
}

pub(crate) fn open(path: &Path, way: Way) -> Result<Connection> {
    zonal_sqlite::register(&options())?;
    let flags = OpenFlags::default();
    let vfs = match way {
        Way::Zonal | Way::Refused | Way::Wal => zonal_sqlite::VFS,
        Way::Bare | Way::Unsynced => "unix",
    };
    let db = Connection::open_with_flags_and_vfs(path, flags, vfs)?;
    let (mode, before) = match way {
        Way::Zonal => ("delete", ""),
        Way::Refused => return ask_for_tearing(db),
        // Small, so that many cuts meet it while it is put in place.
        Way::Wal => ("wal", "pragma locking_mode = exclusive; pragma wal_autocheckpoint = 40"),
        Way::Bare | Way::Unsynced => ("off", ""),
    };
    db.execute_batch(before)?;
    let set = format!("pragma journal_mode = {mode}");
    let is: String = db.query_row(&set, [], |row| row.get(0))?;
    ensure!(is == mode, "{is}");
    if way == Way::Unsynced {
        db.execute_batch("pragma synchronous = off")?;
    }
    Ok(db)
}

/// Whatever comes of it: what is committed has to be whole.
fn ask_for_tearing(db: Connection) -> Result<Connection> {
    for mode in ["off", "memory"] {
        let _ = db.execute_batch(&format!("pragma journal_mode = {mode}"));
    }
    Ok(db)
}

fn options() -> zonal_sqlite::Options {
    let mut options = zonal_sqlite::Options::default();
    options.journal_bytes = 4 << 20;
    options
}

/// A database before the first transaction.
pub(crate) fn create(path: &Path, way: Way) {
    let mut db = open(path, way).unwrap();
    let begun = db.transaction().unwrap();
    begun
        .execute_batch(
            "create table cells(id integer primary key, gen integer, pad blob);
             create table done(gen integer primary key);
             create index by_gen on cells(gen);",
        )
        .unwrap();
    for id in 0..ROWS {
        let pad = vec![0_u8; PAD];
        begun.execute("insert into cells values (?, 0, ?)", params![id, pad]).unwrap();
    }
    begun.commit().unwrap();
    db.close().unwrap();
}

/// The rows that a transaction changes.
fn rows_of(number: u64) -> Vec<u64> {
    if number.is_multiple_of(ALL_AT) {
        return (0..ROWS).collect();
    }
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut rows: Vec<u64> = (0..CHANGED)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            (state >> 33) % ROWS
        })
        .collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

fn transact(db: &mut Connection, number: u64) -> rusqlite::Result<()> {
    let begun = db.transaction()?;
    begun.execute("insert into done values (?)", [number])?;
    {
        let mut change = begun.prepare("update cells set gen = ?, pad = ? where id = ?")?;
        for row in rows_of(number) {
            change.execute(params![number, vec![number as u8; PAD], row])?;
        }
    }
    begun.commit()
}

fn last(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("select coalesce(max(gen), 0) from done", [], |row| row.get(0))
}

/// Holds a database against what was acknowledged; the number of its last transaction.
pub(crate) fn verify(path: &Path, way: Way, acknowledged: u64) -> Result<u64> {
    let db = open(path, way)?;
    let mut check = db.prepare("pragma integrity_check(1)")?;
    let says: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    ensure!(says == ["ok"], "integrity_check: {}, and more", says[0].replace('\n', "; "));
    let last = last(&db)?;
    ensure!(last >= acknowledged, "{acknowledged} was acknowledged, and {last} is the last one");
    let count: u64 = db.query_row("select count(*) from done", [], |row| row.get(0))?;
    ensure!(count == last, "{count} transactions up to {last}");
    let mut expected = vec![0; ROWS as usize];
    for number in 1..=last {
        rows_of(number).into_iter().for_each(|row| expected[row as usize] = number);
    }
    let mut cells = db.prepare("select id, gen, pad from cells order by id")?;
    let mut rows = cells.query([])?;
    for (id, expected) in (0_u64..).zip(expected) {
        let row = rows.next()?.with_context(|| format!("row {id} is missing"))?;
        let (found, gen_of): (u64, u64) = (row.get(0)?, row.get(1)?);
        ensure!(found == id, "row {id} is missing, and {found} is there");
        ensure!(gen_of == expected, "row {id} is of {gen_of}, not {expected}; the last is {last}");
        let pad: Vec<u8> = row.get(2)?;
        ensure!(pad.len() == PAD && pad.iter().all(|byte| *byte == expected as u8), "row {id}");
    }
    ensure!(rows.next()?.is_none(), "a row too many");
    Ok(last)
}

/// The process that is killed, if this is one: it goes on from what is there, and says what was committed.
pub(crate) fn work_as_child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let name = std::env::var(WAY).unwrap();
    let way = Way::ALL.into_iter().find(|way| format!("{way:?}") == name).unwrap();
    let marks = std::env::var_os(MARKS).unwrap();
    let mut marks = std::fs::OpenOptions::new().append(true).open(marks).unwrap();
    let mut db = open(path.as_ref(), way).unwrap();
    for number in last(&db).unwrap() + 1.. {
        transact(&mut db, number).unwrap();
        if way == Way::Zonal && number.is_multiple_of(ALL_AT) {
            let counts: String = db.query_row("pragma zonal", [], |row| row.get(0)).unwrap();
            assert!(!counts.contains(", 0 pages"), "all of it fitted into a batch: {counts}");
        }
        marks.write_all(format!("committed {number}\n").as_bytes()).unwrap();
    }
}

/// Starts that process; it is killed when it is dropped.
pub(crate) struct Writer(Child);

impl Writer {
    pub(crate) fn start(path: &Path, marks: &Path, way: Way) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["the_writer", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, path)
            .env(MARKS, marks)
            .env(WAY, format!("{way:?}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// It has to be at work still.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last transaction that was said to be committed.
pub(crate) fn heard(marks: &str) -> u64 {
    let numbers = marks.lines().filter_map(|line| line.strip_prefix("committed ")?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// A small generator, so that a run can be done again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub(crate) fn next(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end.max(1)
    }
}

pub(crate) fn count_of(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |count| count.parse().unwrap())
}
