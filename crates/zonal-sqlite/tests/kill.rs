//! A process that changes a database is killed again and again: each transaction it acknowledged is there, and no
//! other one in part. The same work without SQLite's journal and without ours is torn.
//!
//! `ZONAL_KILLS` says how often.

#![allow(clippy::unwrap_used, reason = "a test")]

mod work;

use std::fs;
use std::time::{Duration, Instant};
use work::{Random, Way, Writer};

const KILLS: usize = 12;
/// Kills of the control until one is torn, at most.
const CONTROL_KILLS: usize = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: the process that is killed.
#[test]
fn the_writer() {
    work::work_as_child();
}

/// Kills a writer after a random while at work. What came of it, over all kills: how many transactions there
/// were, or what was torn.
fn kill_again_and_again(way: Way, kills: usize) -> Result<u64, (usize, String)> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, marks) = (folder.path().join("work.db"), folder.path().join("marks"));
    work::create(&path, way);
    fs::write(&marks, []).unwrap();
    let mut random = Random::new(0x5EED);
    let mut transactions = 0;
    for kill in 1..=kills {
        let before = work::heard(&fs::read_to_string(&marks).unwrap());
        let mut writer = Writer::start(&path, &marks, way);
        let begun = Instant::now();
        while work::heard(&fs::read_to_string(&marks).unwrap()) == before {
            assert!(begun.elapsed() < PATIENCE, "nothing is committed");
            assert!(writer.is_alive(), "the writer failed by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.next(150_000)));
        drop(writer);
        let acknowledged = work::heard(&fs::read_to_string(&marks).unwrap());
        match work::verify(&path, way, acknowledged) {
            Ok(last) => transactions = last,
            Err(error) => return Err((kill, format!("{error:#}"))),
        }
    }
    Ok(transactions)
}

#[test]
fn a_killed_process_leaves_every_transaction_whole() {
    let kills = work::count_of("ZONAL_KILLS", KILLS);
    for way in [Way::Zonal, Way::Refused, Way::Wal] {
        match kill_again_and_again(way, kills) {
            Ok(count) => println!("{way:?}: {kills} kills in {count} transactions, none torn"),
            Err((kill, what)) => panic!("{way:?}, kill {kill}: {what}"),
        }
    }
}

#[test]
fn without_any_protection_a_kill_tears_a_transaction() {
    let (kill, what) = kill_again_and_again(Way::Unsynced, CONTROL_KILLS)
        .expect_err("the control was never torn, so the other test shows nothing");
    println!("the control was torn by kill {kill}: {what}");
}
