//! The power goes while a database is changed, on ext4 over a disk that logs what reaches it: for many moments the
//! disk is made as a cut may have left it, the file system mounted, and the database opened. Each transaction that was
//! acknowledged is there, and no other one in part. The same cuts of the same work without SQLite's journal
//! and without ours tear it. As root, with `mkfs.ext4`.
//!
//! `ZONAL_CUTS` says how many cuts, `ZONAL_SEED` which.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "../../zonal/tests/disks/mod.rs"]
mod disks;
mod work;

use disks::fuse::{Entry, FuseDisk};
use disks::log::{Recorded, Replay, moments};
use disks::{Ground, Mounted, make_file_system};
use std::time::{Duration, Instant};
use work::{Random, Way, Writer};

const CUTS: usize = 20;
const DISK_BYTES: usize = 40 << 20;
const LOG_BYTES: usize = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: the process that is at work when the power goes.
#[test]
fn the_writer() {
    work::work_as_child();
}

/// Runs the work until there are moments enough for so many cuts.
fn record(ground: &Ground, way: Way, cuts: usize) -> Recorded {
    let fuse = FuseDisk::new(&ground.folder("fuse"), vec![0; DISK_BYTES]);
    let folder = ground.folder("mnt");
    let path = folder.join("work.db");
    make_file_system("ext4", &fuse.disk());
    let mounted = Mounted::over_loop(&fuse.disk(), &folder, "ext4");
    work::create(&path, way);
    mounted.unmount();
    let before = fuse.begin_log();
    let mounted = Mounted::over_loop(&fuse.disk(), &folder, "ext4");
    let mut writer = Writer::start(&path, &fuse.marks(), way);
    let begun = Instant::now();
    // Two transactions of more pages than a batch takes are among them.
    let enough = || {
        let entries = fuse.state().log.as_ref().map_or(0, Vec::len);
        work::heard(&fuse.heard()) > 60 && entries > 8 * cuts
    };
    while fuse.state().logged < LOG_BYTES && !enough() {
        assert!(begun.elapsed() < PATIENCE, "the writer does not come to commit");
        assert!(writer.is_alive(), "the writer failed by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = fuse.state().log.take().unwrap();
    drop(writer);
    mounted.unmount();
    Recorded { before, log }
}

/// What came of the cuts.
#[derive(Debug, Default)]
struct Found {
    /// In what was opened after them.
    transactions: u64,
    /// What was torn or missing, and after which cut.
    torn: Vec<String>,
}

fn cut_again_and_again(ground: &Ground, way: Way, cuts: usize, seed: u64) -> Found {
    let run = record(ground, way, cuts);
    let mut random = Random::new(seed);
    let promises = |lines: &str| lines.contains("committed");
    let moments = moments(&run.log, cuts, promises, &mut |end| random.next(end));
    let mut replay = Replay::new(&run);
    let (mut found, mut acknowledged) = (Found::default(), 0);
    for moment in moments {
        replay.go_to(moment, |lines| acknowledged = acknowledged.max(work::heard(lines)));
        let disk = ground.path("cut.disk");
        std::fs::write(&disk, replay.left(&mut |end| random.next(end))).unwrap();
        let folder = ground.folder("after");
        let mounted = Mounted::over_loop(&disk, &folder, "ext4");
        match work::verify(&folder.join("work.db"), way, acknowledged) {
            Ok(last) => found.transactions += last,
            Err(error) => found.torn.push(format!("seed {seed}, moment {moment}: {error:#}")),
        }
        mounted.unmount();
    }
    let syncs = run.log.iter().filter(|entry| matches!(entry, Entry::Sync)).count();
    println!(
        "{way:?}: {cuts} cuts in {} entries with {syncs} syncs: {} torn, {} transactions found",
        run.log.len(),
        found.torn.len(),
        found.transactions
    );
    found
}

#[test]
fn a_cut_leaves_every_transaction_whole_and_tears_the_control() {
    let Some(ground) = Ground::new(&["mkfs.ext4"]) else { return };
    let cuts = work::count_of("ZONAL_CUTS", CUTS);
    let seed = work::count_of("ZONAL_SEED", 0xD15C) as u64;
    let control = cut_again_and_again(&ground, Way::Bare, cuts.min(CUTS), seed);
    assert!(!control.torn.is_empty(), "the control was never torn, so this shows nothing");
    println!("for example: {}", control.torn[0]);
    for way in [Way::Zonal, Way::Wal] {
        let found = cut_again_and_again(&ground, way, cuts, seed);
        assert!(found.torn.is_empty(), "{way:?}: {:#?}", found.torn);
        assert!(found.transactions > cuts as u64, "{way:?}: {found:?}");
    }
}
