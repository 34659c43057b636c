//! Statements for a database whose transactions are kept whole by zonal:
//!
//! ```text
//! cargo run --release -p zonal-sqlite --example sql -- FILE STATEMENT…
//! ```
//!
//! Each statement is a transaction, unless one begins and another commits. Rows are printed with `|` between
//! their columns. `PRAGMA zonal` says how many transactions went as batches. An error comes with the VFS's reason, if it has one.

use anyhow::{Context, Error, Result};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

fn main() -> Result<()> {
    let mut words = std::env::args_os().skip(1);
    let path = words.next().context("name a database, and statements")?;
    zonal_sqlite::register(&zonal_sqlite::Options::default())?;
    let flags = OpenFlags::default();
    let db = Connection::open_with_flags_and_vfs(path, flags, zonal_sqlite::VFS);
    let db = db.map_err(explained)?;
    for statement in words {
        let statement = statement.to_string_lossy();
        print(&db, &statement).map_err(explained).with_context(|| statement.into_owned())?;
    }
    db.close().map_err(|(_, error)| explained(error))
}

/// The VFS's reason, which SQLite has no words for.
fn explained(error: rusqlite::Error) -> Error {
    match zonal_sqlite::take_reason() {
        Some(reason) => Error::new(error).context(reason),
        None => error.into(),
    }
}

fn print(db: &Connection, statement: &str) -> rusqlite::Result<()> {
    let mut statement = db.prepare(statement)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let shown = |column| Ok(text(row.get_ref(column)?));
        println!("{}", (0..columns).map(shown).collect::<rusqlite::Result<Vec<_>>>()?.join("|"));
    }
    Ok(())
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
    }
}
