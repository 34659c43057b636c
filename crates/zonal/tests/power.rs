//! The power goes, on real file systems: a zoned image is written under load, on ext4 over a loop
//! device and on a bare disk, while a FUSE file below logs what reaches it. Then for many moments
//! the disk is made as a power cut may have left it: everything before the last sync, and of what was
//! written after it each sector by itself, or not. There the file system is mounted, the machine is
//! another boot, and the drive has to hold what was flushed, and nothing that is not whole.
//!
//! `ZONAL_CUTS` says how many moments there are for each disk.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![cfg(not(zonal_shuttle))]

mod disks;
mod load;

use disks::fuse::FuseDisk;
use disks::log::{Counts, Recorded, Replay, moments};
use disks::{Ground, Mounted, make_file_system, with_context};
use load::said::{Expect, Promise, Said};
use load::{Leashed, Load, Random, Temper};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zonal::{
    Buffer, CheckOptions, CreateOptions, Device, EngineChoice, OpenOptions, Preallocate,
    QueueOptions, Request, Target,
};

const CHILD: &str = "ZONAL_POWER_CHILD";
const MARKS: &str = "ZONAL_POWER_MARKS";
const SEED: &str = "ZONAL_POWER_SEED";
const THREADS: &str = "ZONAL_POWER_OVER_THREADS";

/// Moments tried on each disk; `ZONAL_CUTS` says otherwise.
const CUTS: usize = 20;

/// Of a thousand requests so many are flushes, and of a thousand writes so many are durable ones.
const FLUSHES: u64 = 40;

/// The disk's bytes, and how much of the load is logged at most.
const DISK_BYTES: usize = 32 << 20;
const LOG_BYTES: usize = 64 << 20;
const LOAD_FOR: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

/// What is under the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    /// ext4 over a loop device, and whether the image's space was written before.
    Ext4(Preallocate),
    /// Nothing: the image is the disk.
    Disk,
}

/// Not a test of its own: the writer, when the tests below start it.
#[test]
fn writer() {
    let Ok(path) = std::env::var(CHILD) else { return };
    break_a_rule();
    let marks = std::fs::File::options().write(true).open(std::env::var(MARKS).unwrap()).unwrap();
    let threads = std::env::var_os(THREADS).is_some();
    let engine = if threads { EngineChoice::Threads } else { EngineChoice::Auto };
    let options = OpenOptions { engine, ..OpenOptions::default() };
    let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
    let load = Load {
        drive: &drive,
        lives: Said::nothing().lives(),
        seed: std::env::var(SEED).unwrap().parse().unwrap(),
        flushes: FLUSHES,
        temper: Temper::Strict,
        say: &|lines| load::say_to(&marks, lines),
        goes_on: &|| true,
    };
    load.run();
}

/// By hand, to see the tests fail: `ZONAL_BREAK` names a rule, in a build with `--cfg zonal_break`.
fn break_a_rule() {
    #[cfg(zonal_break)]
    if let Ok(name) = std::env::var("ZONAL_BREAK") {
        let rule = zonal::Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
        zonal::break_rule(Some(rule.expect("a rule")));
    }
}

#[test]
fn on_ext4_nothing_flushed_is_lost_and_nothing_torn_or_older_is_seen() {
    cut_again_and_again(Under::Ext4(Preallocate::Off), 0x5EED);
}

#[test]
fn on_ext4_with_its_space_written_before_nothing_is_lost_either() {
    cut_again_and_again(Under::Ext4(Preallocate::Full), 0xD15C);
}

#[test]
fn on_a_bare_disk_nothing_flushed_is_lost_and_nothing_torn_or_older_is_seen() {
    cut_again_and_again(Under::Disk, 0xBA5E);
}

fn cut_again_and_again(under: Under, seed: u64) {
    let Some(ground) = Ground::new(&["mkfs.ext4"]) else { return };
    let cuts = std::env::var("ZONAL_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let seed = std::env::var(SEED).map_or(seed, |seed| seed.parse().unwrap());
    let mut random = Random::new(seed);
    // One load over each engine.
    let (mut flushed, mut machine_went_down) = (0, 0);
    let mut counts = Counts::default();
    for threads in [false, true] {
        let run = record(&ground, under, seed, threads, cuts / 2);
        run.log.iter().for_each(|entry| counts.add(entry));
        let moments = moments(&run.log, cuts / 2, promises, &mut |below| random.next(below));
        let mut past = Past { replay: Replay::new(&run), said: Said::nothing() };
        for (n, moment) in (0..).zip(moments) {
            past.go_to(moment);
            let context = format!("{under:?}, threads {threads}, seed {seed}, cut {n} at {moment}");
            let (found, down) = with_context(&context, || past.cut(&ground, under, &mut random, n));
            flushed += found;
            machine_went_down += usize::from(down);
        }
    }
    let Counts { writes, durable, syncs } = counts;
    println!(
        "{under:?}: {cuts} cuts in {writes} writes ({durable} durable alone) and {syncs} syncs, \
         {machine_went_down} seen as such, {flushed} flushed records found again"
    );
    assert!(machine_went_down * 10 > cuts * 9 && flushed > cuts);
}

/// Runs the load in a process of its own, which is killed when there are moments enough for so many
/// cuts.
fn record(ground: &Ground, under: Under, seed: u64, threads: bool, cuts: usize) -> Recorded {
    let fuse = FuseDisk::new(&ground.folder("fuse"), vec![0; DISK_BYTES]);
    let folder = ground.folder("mnt");
    let image = folder.join("disk.qcow2");
    ground.boot(1);
    match under {
        Under::Ext4(preallocate) => {
            make_file_system("ext4", &fuse.disk());
            let mounted = Mounted::over_loop(&fuse.disk(), &folder, "ext4");
            create(&image, preallocate);
            mounted.unmount();
        }
        Under::Disk => {
            let elsewhere = ground.path("new.qcow2");
            create(&elsewhere, Preallocate::Full);
            let bytes = std::fs::read(&elsewhere).unwrap();
            fuse.state().bytes[..bytes.len()].copy_from_slice(&bytes);
            std::fs::remove_file(&elsewhere).unwrap();
            std::fs::write(&image, []).unwrap();
        }
    }
    let before = fuse.begin_log();
    let mounted = match under {
        Under::Ext4(_) => Mounted::over_loop(&fuse.disk(), &folder, "ext4"),
        Under::Disk => Mounted::bound(&fuse.disk(), &image),
    };
    let child = Command::new(std::env::current_exe().unwrap())
        .envs(threads.then_some((THREADS, "1")))
        .args(["writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, &image)
        .env(MARKS, fuse.marks())
        .env(SEED, seed.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Leashed(child);
    let begun = Instant::now();
    let enough = || {
        let entries = fuse.state().log.as_ref().map_or(0, Vec::len);
        let flushed = fuse.heard().matches("flushed").count();
        begun.elapsed() > LOAD_FOR && flushed > 30 && entries > 16 * cuts
    };
    while fuse.state().logged < LOG_BYTES && !enough() {
        assert!(begun.elapsed() < PATIENCE, "the writer does not come to flush");
        assert!(child.0.try_wait().unwrap().is_none(), "the writer found a mistake itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = fuse.state().log.take().unwrap();
    drop(child);
    mounted.unmount();
    Recorded { before, log }
}

fn create(image: &Path, preallocate: Preallocate) {
    let geometry = load::geometry();
    let options = CreateOptions { geometry, preallocate, force: false, progress: None };
    zonal::create(image, options).unwrap();
    load::fill_with_a_marker(open(image).unwrap());
}

fn open(image: &Path) -> zonal::Result<Device> {
    zonal::open(&Target::Path(image.to_owned()), &OpenOptions::default())
}

/// Whether it says that something outlives a cut.
fn promises(lines: &str) -> bool {
    lines.contains("flushed") || lines.contains("fua")
}

/// The disk, and what who listened knew, at a moment.
struct Past<'a> {
    replay: Replay<'a>,
    said: Said,
}

impl Past<'_> {
    fn go_to(&mut self, moment: usize) {
        self.replay.go_to(moment, |lines| self.said.hear_all(lines));
    }

    /// Cuts the power here, boots, and looks. How many flushed records were found, and whether the
    /// drive said that the machine went down.
    fn cut(&self, ground: &Ground, under: Under, random: &mut Random, n: u64) -> (usize, bool) {
        let disk = ground.path("cut.qcow2");
        let left = self.replay.left(&mut |below| random.next(below));
        std::fs::write(&disk, left).unwrap();
        ground.boot(1000 + n);
        let folder = ground.folder("after");
        let (image, mounted): (PathBuf, _) = match under {
            Under::Ext4(_) => {
                let mounted = Mounted::over_loop(&disk, &folder, "ext4");
                (folder.join("disk.qcow2"), Some(mounted))
            }
            Under::Disk => (disk.clone(), None),
        };
        let found = self.look(&image);
        if let Some(mounted) = mounted {
            mounted.unmount();
        }
        std::fs::remove_file(&disk).unwrap();
        found
    }

    fn look(&self, image: &Path) -> (usize, bool) {
        is_sound(image, false);
        let drive = open(image).unwrap();
        let recovered = drive.info().recovered.unwrap_or_default();
        let mut said = self.said.clone();
        let found = said.verify(&drive, Expect { promise: Promise::Flushed, zeros: false });
        // It goes on, and ends well.
        write_to_each_zone(&drive);
        drive.close().unwrap();
        is_sound(image, true);
        (found, recovered.contains("the machine went down"))
    }
}

/// A check finds nothing but what a cut may leave: the torn spare of what has two copies, and, as
/// long as nobody has opened the image, that its session was cut off.
fn is_sound(image: &Path, opened: bool) {
    let mut findings = zonal::check(image, &CheckOptions { deep: opened }).unwrap().findings;
    let session = "shown is what was last flushed";
    findings.retain(|found| opened || !found.text.ends_with(session));
    findings.retain(|found| !found.text.ends_with("the other one counts"));
    assert!(findings.is_empty(), "{findings:?}");
}

fn write_to_each_zone(drive: &Device) {
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for zone in drive.report(..).unwrap() {
        if zone.state != zonal::ZoneState::Full {
            let data = Buffer::from_slice(&[7; load::BLOCK]);
            queue.push(Request::append(zone.zone, data)).unwrap();
        }
    }
    queue.submit_and_wait(usize::MAX).unwrap();
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
    }
}
