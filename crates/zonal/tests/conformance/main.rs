//! One list of rules, run over every kind of drive.
//!
//! ```text
//! backends (how each is made, what it lacks) ─► bench (a fresh drive and its queue) ─► rules
//! ```
//!
//! What a kind of drive cannot do stands in one table, which is printed, and held against the drive:
//! a cell that says less or more than the drive does fails the test.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod abilities;
mod backends;
mod bench;
#[path = "../foreign/plain.rs"]
mod plain;
mod rules;

use abilities::{ABILITIES, Ability};
use backends::{BACKENDS, Backend};
use bench::Bench;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How wide the table's cells are, in characters: as the longest name of an ability.
const CELL: usize = 23;

/// Runs all rules over the backend of that name, each on a fresh drive.
fn conform(name: &str) {
    let backend = BACKENDS.iter().find(|backend| backend.name == name).expect("a backend");
    if let Some(reason) = backend.unavailable() {
        println!("SKIP {name}: {reason}");
        return;
    }
    let broken: Vec<_> = rules::RULES
        .iter()
        .filter(|(rule, check)| {
            let kept = catch_unwind(AssertUnwindSafe(|| check(&mut Bench::new(backend)))).is_ok();
            println!("{name} | {rule} | {}", if kept { "kept" } else { "BROKEN" });
            !kept
        })
        .map(|(rule, _)| rule)
        .collect();
    assert!(broken.is_empty(), "{name} breaks: {broken:#?}");
}

#[test]
fn memory_conforms() {
    conform("mem:");
}

#[test]
fn memory_under_a_harmless_plan_conforms() {
    conform("mem:, late and short");
}

#[test]
fn an_image_under_a_harmless_plan_conforms() {
    conform("image, late and short");
}

#[test]
fn an_image_over_io_uring_conforms() {
    conform("image, io_uring");
}

#[test]
fn an_image_over_threads_conforms() {
    conform("image, threads");
}

#[test]
fn an_adopted_image_over_io_uring_conforms() {
    conform("adopted, io_uring");
}

#[test]
fn an_adopted_image_over_threads_conforms() {
    conform("adopted, threads");
}

#[test]
fn a_file_over_io_uring_conforms() {
    conform("file:, io_uring");
}

#[test]
fn a_file_over_threads_conforms() {
    conform("file:, threads");
}

#[test]
fn null_blk_over_io_uring_conforms() {
    let _alone = alone();
    conform("null_blk, io_uring");
}

#[test]
fn null_blk_over_threads_conforms() {
    let _alone = alone();
    conform("null_blk, threads");
}

#[test]
fn a_zns_drive_over_io_uring_conforms() {
    let _alone = alone();
    conform("zns, io_uring");
}

#[test]
fn a_zns_drive_over_threads_conforms() {
    let _alone = alone();
    conform("zns, threads");
}

#[test]
fn an_nvme_namespace_by_its_commands_conforms() {
    let _alone = alone();
    conform("nvme, io_uring");
}

#[test]
fn scsi_debug_over_io_uring_conforms() {
    let _alone = alone();
    conform("scsi_debug, io_uring");
}

#[test]
fn scsi_debug_over_threads_conforms() {
    let _alone = alone();
    conform("scsi_debug, threads");
}

#[test]
fn a_zonefs_over_io_uring_conforms() {
    let _alone = alone();
    conform("zonefs, io_uring");
}

#[test]
fn a_zonefs_over_threads_conforms() {
    let _alone = alone();
    conform("zonefs, threads");
}

#[test]
fn a_zonefs_with_conventional_zones_over_io_uring_conforms() {
    let _alone = alone();
    conform("zonefs with cnv, io_uring");
}

#[test]
fn a_zonefs_with_conventional_zones_over_threads_conforms() {
    let _alone = alone();
    conform("zonefs with cnv, threads");
}

#[test]
fn one_file_alone_over_io_uring_conforms() {
    let _alone = alone();
    conform("zonefs, one file, io_uring");
}

#[test]
fn one_file_alone_over_threads_conforms() {
    let _alone = alone();
    conform("zonefs, one file, threads");
}

/// Of a device there is only one: tests that write to it take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_drive_lacks_what_the_table_says_and_nothing_else() {
    let _alone = alone();
    let width = BACKENDS.iter().map(|backend| backend.name.len()).max().unwrap_or(0);
    print!("{:width$}", "");
    ABILITIES.iter().for_each(|Ability { name, .. }| print!(" | {name:CELL$}"));
    println!();
    let mut wrong = Vec::new();
    for backend in BACKENDS {
        let unavailable = backend.unavailable();
        print!("{:width$}", backend.name);
        for (ability, stated) in ABILITIES.iter().zip(backend.cells) {
            print!(" | {:CELL$}", stated.to_string());
            if unavailable.is_none() {
                let found = (ability.probe)(&mut Bench::new(backend));
                if found != stated {
                    wrong.push((backend.name, ability.name, stated, found));
                }
            }
        }
        println!("{}", unavailable.map_or("", |_| " | SKIP: not on this machine"));
    }
    assert!(wrong.is_empty(), "backend, ability, stated, found: {wrong:#?}");
}

/// A backend that no test runs over would conform to nothing.
#[test]
fn every_backend_has_its_test() {
    let source = include_str!("main.rs");
    for Backend { name, .. } in BACKENDS {
        assert!(source.contains(&format!("conform(\"{name}\")")), "{name}");
    }
}
