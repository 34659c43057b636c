//! The power goes while units are written untorn, on real file systems, in two ways:
//!
//! * *In flight*: XFS holds a disk's file, under a loop device that takes a block at a time, under the file
//!   system with the units. A reflink of the disk's file is the cut: all that the disk had taken at that moment,
//!   and nothing of what came later.
//! * *By the log*: a FUSE file logs what reaches the disk. A cut drops any sectors that were not flushed.
//!
//! What is left is mounted, the file opened, which replays its journal, and each unit judged (`units`). The
//! *control* is the same with ordinary writes: if none of these is ever torn, the cuts prove nothing, and
//! the test fails.
//!
//! `ZONAL_CUTS` says how many cuts there are of each kind, `ZONAL_POWER_SEED` which.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![cfg(not(zonal_shuttle))]

mod disks;
#[path = "load/random.rs"]
mod random;
mod units;

use disks::fuse::FuseDisk;
use disks::log::{Counts, Recorded, Replay, moments};
use disks::{Ground, Mounted, make_file_system, with_context};
use random::Random;
use rustix::fs::ioctl_ficlone;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};
use units::{Heard, Left, Line, Way, Writer, known};
use zonal::EngineChoice;
use zonal::atomic::{AtomicFile, AtomicOptions, AtomicPath, JournalUse};

/// Cuts of each kind; `ZONAL_CUTS` says otherwise.
const CUTS: usize = 10;

/// Threads that write, each its own units.
const WRITERS: u64 = 4;
const UNITS: u64 = 4 * WRITERS;

const PATIENCE: Duration = Duration::from_secs(60);

/// What is written, where and how.
#[derive(Clone, Copy, Debug)]
struct Case {
    file_system: &'static str,
    way: Way,
    /// Bytes of a unit.
    length: usize,
    /// One in so many writes is durable: who waits for a sync has nothing under way that could be torn.
    durable: u64,
    engine: EngineChoice,
}

/// How often a control is tried that has not been torn yet.
const ROUNDS: usize = 20;

const NATIVE: Way = Way::Untorn(AtomicPath::Native);
const JOURNAL: Way = Way::Untorn(AtomicPath::Journal);

impl Case {
    fn options(&self) -> AtomicOptions {
        let journal = match self.way {
            Way::Untorn(AtomicPath::Journal) => JournalUse::Always,
            Way::Untorn(AtomicPath::Native | AtomicPath::None) | Way::Ordinary => JournalUse::Never,
        };
        // Small, so that the writers go round it again and again.
        let journal_bytes = (8 * self.length as u64).max(1 << 20);
        AtomicOptions { journal, journal_bytes, engine: self.engine, ..AtomicOptions::default() }
    }

    /// Makes the file, and its journal, with all units in generation 0.
    fn make(&self, path: &Path) {
        std::fs::File::create(path).unwrap();
        let file = AtomicFile::open(path, &self.options()).unwrap();
        units::fill(&file, UNITS, self.length);
        file.close().unwrap();
        // The names, too.
        std::fs::File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
    }

    fn open(&self, path: &Path) -> AtomicFile {
        let file = AtomicFile::open(path, &self.options()).unwrap();
        if let Way::Untorn(path) = self.way {
            assert_eq!(file.limits().path, path);
        }
        file
    }

    /// Opens what a cut has left, and judges it. How many units the opening put in place.
    fn judge(&self, path: &Path, before: &Heard, after: &Heard) -> (Left, u64) {
        let file = self.open(path);
        let mut left = Left::default();
        for (unit, (before, after)) in (0..).zip(before.0.iter().zip(&after.0)) {
            left.judge(unit, &units::read(&file, unit, self.length), *before, *after);
        }
        let replayed = file.replayed().units;
        file.close().unwrap();
        (left, replayed)
    }

    fn writer<'a>(
        &self,
        file: &'a AtomicFile,
        number: u64,
        seed: u64,
        say: &'a (dyn Fn(Line) + Sync),
        goes_on: &'a (dyn Fn() -> bool + Sync),
    ) -> Writer<'a> {
        let each = UNITS / WRITERS;
        let own = number * each..(number + 1) * each;
        let (seed, Self { way, length, durable, .. }) = (seed ^ (number + 1) << 32, *self);
        Writer { file, way, length, own, seed, durable, say, goes_on }
    }
}

/// By hand, to see the tests fail: `ZONAL_BREAK` names a rule, in a build with `--cfg zonal_break`.
fn break_a_rule() {
    #[cfg(zonal_break)]
    if let Ok(name) = std::env::var("ZONAL_BREAK") {
        let rule = zonal::Rule::UNTORN.into_iter().find(|rule| format!("{rule:?}") == name);
        zonal::break_rule(Some(rule.expect("a rule")));
    }
}

fn cuts() -> usize {
    std::env::var("ZONAL_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap())
}

fn seed(otherwise: u64) -> u64 {
    std::env::var("ZONAL_POWER_SEED").map_or(otherwise, |seed| seed.parse().unwrap())
}

/// What came of the cuts of a case.
#[derive(Default)]
struct Sum {
    left: Left,
    replayed: u64,
}

/// The cuts of a way, half of them over each engine; and of its control, which has to be torn.
fn with_a_control(case: Case, cuts: usize, cut: impl Fn(&Case, usize) -> Sum) {
    break_a_rule();
    let sum = over_each_engine(case, cuts, &cut);
    assert_eq!(sum.left.torn, 0);
    let control = Case { way: Way::Ordinary, ..case };
    let torn = (0..ROUNDS).any(|_| over_each_engine(control, cuts, &cut).left.torn > 0);
    assert!(torn, "the control was never torn: the cuts prove nothing");
}

fn over_each_engine(case: Case, cuts: usize, cut: impl Fn(&Case, usize) -> Sum) -> Sum {
    let mut sum = Sum::default();
    for engine in [EngineChoice::IoUring, EngineChoice::Threads] {
        let found = cut(&Case { engine, ..case }, cuts.div_ceil(2));
        sum.left.add(found.left);
        sum.replayed += found.replayed;
    }
    let Case { file_system, way, length, .. } = case;
    let Sum { left: Left { torn, under_way }, replayed } = sum;
    println!(
        "{file_system}, units of {length}, {way}: {cuts} cuts, {torn} units torn, {under_way} not durable yet, \
         {replayed} put in place"
    );
    sum
}

#[test]
fn in_flight_nothing_of_the_kernels_is_torn() {
    in_flight("xfs", NATIVE);
}

#[test]
fn in_flight_nothing_is_torn_that_the_journal_keeps() {
    in_flight("ext4", JOURNAL);
}

fn in_flight(file_system: &'static str, way: Way) {
    let Some(ground) = Ground::new(&["mkfs.xfs", "mkfs.ext4"]) else { return };
    let outer = Outer::new(&ground);
    for length in [1 << 20, 16 << 10] {
        let case = Case { file_system, way, length, durable: 16, engine: EngineChoice::Auto };
        with_a_control(case, cuts(), |case, cuts| outer.cut(case, cuts));
    }
}

#[test]
fn of_unflushed_writes_any_may_be_lost_and_nothing_of_the_kernels_is_torn() {
    unflushed("xfs", NATIVE);
}

#[test]
fn of_unflushed_writes_any_may_be_lost_and_nothing_is_torn_that_the_journal_keeps() {
    unflushed("ext4", JOURNAL);
}

fn unflushed(file_system: &'static str, way: Way) {
    let Some(ground) = Ground::new(&["mkfs.xfs", "mkfs.ext4"]) else { return };
    let case = Case { file_system, way, length: 64 << 10, durable: 2, engine: EngineChoice::Auto };
    with_a_control(case, cuts(), |case, cuts| by_the_log(&ground, case, cuts));
}

/// The file system that holds the disk's file, and can copy it at one moment.
struct Outer<'a> {
    ground: &'a Ground,
    folder: PathBuf,
    _mounted: Mounted,
}

/// Bytes of the disk within; XFS wants no smaller one.
const INNER_BYTES: u64 = 320 << 20;

impl<'a> Outer<'a> {
    fn new(ground: &'a Ground) -> Self {
        let (folder, disk) = (ground.folder("outer"), ground.file("outer.disk", 1 << 30));
        make_file_system("xfs", &disk);
        let mounted = Mounted::over_loop(&disk, &folder, "xfs");
        Self { ground, folder, _mounted: mounted }
    }

    /// Writes, and cuts the power again and again.
    fn cut(&self, case: &Case, cuts: usize) -> Sum {
        let disk = self.folder.join("disk");
        let _ = std::fs::remove_file(&disk);
        std::fs::File::create(&disk).unwrap().set_len(INNER_BYTES).unwrap();
        make_file_system(case.file_system, &disk);
        let inner = self.ground.folder("inner");
        let mounted = Mounted::over_loop(&disk, &inner, case.file_system);
        let slow = ABlockAtATime::over(&mounted.device());
        let path = inner.join("units");
        case.make(&path);
        let file = case.open(&path);
        let sum = self.cut_under_way(case, &file, &disk, cuts);
        file.close().unwrap();
        drop(slow);
        mounted.unmount();
        sum
    }

    fn cut_under_way(&self, case: &Case, file: &AtomicFile, disk: &Path, cuts: usize) -> Sum {
        let seed = seed(0xF11);
        let heard = Mutex::new(Heard::nothing(UNITS));
        let (halt, over) = (RwLock::new(()), AtomicBool::new(false));
        let source = std::fs::File::open(disk).unwrap();
        let say = |line| heard.lock().unwrap().hear(line);
        let goes_on = || {
            drop(halt.read().unwrap());
            !over.load(SeqCst)
        };
        let mut random = Random::new(seed);
        std::thread::scope(|scope| {
            let _over = Sets(&over);
            for number in 0..WRITERS {
                let writer = case.writer(file, number, seed, &say, &goes_on);
                scope.spawn(move || writer.run());
            }
            let mut sum = Sum::default();
            for n in 0..cuts {
                std::thread::sleep(Duration::from_micros(1000 + random.next(9000)));
                let before = known(&heard);
                let copy = self.folder.join("cut");
                ioctl_ficlone(std::fs::File::create(&copy).unwrap(), &source).unwrap();
                // Nobody begins another write while the copy is looked at: the next cut is to meet them at work.
                let _halted = halt.write().unwrap();
                let after = known(&heard);
                let context = format!("{case:?}, seed {seed}, cut {n}");
                let (left, replayed) =
                    with_context(&context, || self.look(case, &copy, &before, &after));
                sum.left.add(left);
                sum.replayed += replayed;
            }
            sum
        })
    }

    fn look(&self, case: &Case, copy: &Path, before: &Heard, after: &Heard) -> (Left, u64) {
        let folder = self.ground.folder("after");
        let mounted = mount_left(case, copy, &folder);
        let found = case.judge(&folder.join("units"), before, after);
        mounted.unmount();
        std::fs::remove_file(copy).unwrap();
        found
    }
}

/// Has a loop device hand on each block by itself, so that anything longer can be met in the middle; until it is
/// dropped, as the kernel keeps it for whoever has the device next.
struct ABlockAtATime {
    setting: String,
    before: String,
}

impl ABlockAtATime {
    fn over(device: &str) -> Self {
        let name = device.strip_prefix("/dev/").unwrap();
        let setting = format!("/sys/block/{name}/queue/max_sectors_kb");
        let before = std::fs::read_to_string(&setting).unwrap();
        std::fs::write(&setting, "4").unwrap();
        Self { setting, before }
    }
}

impl Drop for ABlockAtATime {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.setting, self.before.trim());
    }
}

fn mount_left(case: &Case, disk: &Path, at: &Path) -> Mounted {
    // A copy of a file system that is mounted has the same name.
    let options = if case.file_system == "xfs" { "loop,nouuid" } else { "loop" };
    Mounted::over_loop_with(disk, at, case.file_system, options)
}

/// Is set when this goes, however that comes.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The disk's bytes, and how much of the load is logged at most.
const DISK_BYTES: usize = 64 << 20;
const LOG_BYTES: usize = 96 << 20;
const LOAD_FOR: Duration = Duration::from_secs(1);

/// Writes to a disk that logs, then cuts the power at many moments.
fn by_the_log(ground: &Ground, case: &Case, cuts: usize) -> Sum {
    let seed = seed(0x106);
    let recorded = record(ground, case, cuts, seed);
    let mut counts = Counts::default();
    recorded.log.iter().for_each(|entry| counts.add(entry));
    println!("{case:?}: {} writes and {} syncs", counts.writes, counts.syncs);
    let mut random = Random::new(seed);
    let promises = |lines: &str| lines.contains("durable");
    let moments = moments(&recorded.log, cuts, promises, &mut |below| random.next(below));
    let (mut replay, mut heard) = (Replay::new(&recorded), Heard::nothing(UNITS));
    let (disk, folder) = (ground.path("cut.disk"), ground.folder("after"));
    let mut sum = Sum::default();
    for moment in moments {
        replay.go_to(moment, |lines| lines.lines().for_each(|line| heard.hear(Line::parse(line))));
        std::fs::write(&disk, replay.left(&mut |below| random.next(below))).unwrap();
        let context = format!("{case:?}, seed {seed}, cut at {moment}");
        let (left, replayed) = with_context(&context, || {
            let mounted = mount_left(case, &disk, &folder);
            let found = case.judge(&folder.join("units"), &heard, &heard);
            mounted.unmount();
            found
        });
        sum.left.add(left);
        sum.replayed += replayed;
    }
    std::fs::remove_file(&disk).unwrap();
    sum
}

/// A load as the disk sees it, with moments enough for so many cuts.
fn record(ground: &Ground, case: &Case, cuts: usize, seed: u64) -> Recorded {
    let fuse = FuseDisk::new(&ground.folder("fuse"), vec![0; DISK_BYTES]);
    let folder = ground.folder("logged");
    let path = folder.join("units");
    make_small_file_system(case.file_system, &fuse.disk());
    let mounted = Mounted::over_loop(&fuse.disk(), &folder, case.file_system);
    case.make(&path);
    mounted.unmount();
    let before = fuse.begin_log();
    let mounted = Mounted::over_loop(&fuse.disk(), &folder, case.file_system);
    let file = case.open(&path);
    let marks = std::fs::File::options().write(true).open(fuse.marks()).unwrap();
    let say = |line: Line| {
        use std::io::Write;
        (&marks).write_all(line.text().as_bytes()).unwrap();
    };
    let over = AtomicBool::new(false);
    let goes_on = || !over.load(SeqCst);
    let log = std::thread::scope(|scope| {
        let _over = Sets(&over);
        let writers = (0..WRITERS).map(|number| {
            let writer = case.writer(&file, number, seed, &say, &goes_on);
            scope.spawn(move || writer.run())
        });
        let writers: Vec<_> = writers.collect();
        let begun = Instant::now();
        let enough = || {
            let entries = fuse.state().log.as_ref().map_or(0, Vec::len);
            begun.elapsed() > LOAD_FOR && entries > 16 * cuts
        };
        while fuse.state().logged < LOG_BYTES && !enough() {
            assert!(begun.elapsed() < PATIENCE, "the writers do not come to write");
            assert!(!writers.iter().any(|writer| writer.is_finished()), "a writer has failed");
            std::thread::sleep(Duration::from_millis(20));
        }
        fuse.state().log.take().unwrap()
    });
    file.close().unwrap();
    mounted.unmount();
    Recorded { before, log }
}

/// On a disk smaller than `mkfs.xfs` makes for users; tests of file systems have a word for that.
fn make_small_file_system(kind: &str, at: &Path) {
    if kind != "xfs" {
        return make_file_system(kind, at);
    }
    let mut tool = std::process::Command::new("mkfs.xfs");
    tool.envs([("TEST_DIR", "x"), ("TEST_DEV", "x"), ("QA_CHECK_FS", "x")]);
    let output = tool.args(["-q", "-f"]).arg(at).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
