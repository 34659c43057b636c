//! The disk under an image begins to fail, under load, and recovers: what was promised is there
//! afterwards, zones settle as they should, a failed sync ends the writing for good, and nothing
//! hangs. The disk is a FUSE file that gives errors on command.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![cfg(not(zonal_shuttle))]

mod disks;
mod load;

use disks::fuse::{Faults, FuseDisk};
use disks::{Ground, Mounted, make_file_system};
use load::said::{Expect, Promise, Said};
use load::{Leashed, Load, Random, Temper, ZONE_BYTES, ZONES};
use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use zonal::{
    Buffer, CheckOptions, CreateOptions, Device, EngineChoice, ErrorKind, Flags, OpenOptions,
    Preallocate, Queue, QueueOptions, Request, Target, ZoneState,
};

const DISK_BYTES: usize = 32 << 20;

/// How long the disk is sound, and how long it fails.
const SOUND: Duration = Duration::from_millis(400);
const FAILING: Duration = Duration::from_millis(250);

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const ENGINES: [EngineChoice; 2] = [EngineChoice::Auto, EngineChoice::Threads];

/// A disk that is an image.
struct Bare {
    image: PathBuf,
    /// Where the drive's data lies on the disk.
    data: Range<u64>,
    fuse: FuseDisk,
    _mounted: Mounted,
}

impl Bare {
    fn new(ground: &Ground) -> Self {
        let image = ground.path("disk.qcow2");
        create(&image);
        let mut bytes = std::fs::read(&image).unwrap();
        let end = bytes.len() as u64;
        let data = end - u64::from(ZONES) * ZONE_BYTES..end;
        bytes.resize(DISK_BYTES, 0);
        let fuse = FuseDisk::new(&ground.folder("fuse"), bytes);
        let mounted = Mounted::bound(&fuse.disk(), &image);
        Self { image, data, fuse, _mounted: mounted }
    }

    fn open(&self, engine: EngineChoice) -> zonal::Result<Device> {
        let options = OpenOptions { engine, ..OpenOptions::default() };
        zonal::open(&Target::Path(self.image.clone()), &options)
    }

    fn fail(&self, faults: Faults) {
        self.fuse.state().faults = faults;
    }

    fn recover(&self) {
        self.fail(Faults::default());
    }
}

fn create(image: &Path) {
    let (geometry, preallocate) = (load::geometry(), Preallocate::Full);
    let options = CreateOptions { geometry, preallocate, force: true, progress: None };
    zonal::create(image, options).unwrap();
    let target = Target::Path(image.to_owned());
    load::fill_with_a_marker(zonal::open(&target, &OpenOptions::default()).unwrap());
}

/// Does something that has to end; if it does not, the process does.
fn bounded<T>(name: &str, what: impl FnOnce() -> T) -> T {
    let (ended, ends) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if ends.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                println!("{name} hangs");
                std::process::abort();
            }
        });
        let result = what();
        drop(ended);
        result
    })
}

/// Runs a load while `meanwhile` does something to the disk, until that is done or the drive
/// takes no more writes.
fn under_load(
    drive: &Device,
    said: &Mutex<Said>,
    seed: u64,
    meanwhile: impl FnOnce() + Send,
) -> HashMap<ErrorKind, u32> {
    let over = AtomicBool::new(false);
    let lives = said.lock().unwrap().lives();
    bounded("the load", || {
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                Load {
                    drive,
                    lives,
                    seed,
                    flushes: 15,
                    temper: Temper::Patient,
                    say: &|lines| said.lock().unwrap().hear_all(lines),
                    goes_on: &|| !over.load(SeqCst),
                }
                .run()
            });
            meanwhile();
            over.store(true, SeqCst);
            load.join().unwrap()
        })
    })
}

fn read_only_zones(drive: &Device) -> usize {
    let zones = drive.report(..).unwrap();
    zones.iter().filter(|zone| zone.state == ZoneState::ReadOnly).count()
}

const EVERYTHING: Expect = Expect { promise: Promise::Acknowledged, zeros: true };

#[test]
fn a_disk_that_fails_writes_for_a_while_loses_nothing_that_was_acknowledged() {
    let Some(ground) = Ground::new(&[]) else { return };
    let mut random = Random::new(0xFA11);
    for engine in ENGINES {
        let bare = Bare::new(&ground);
        let said = Mutex::new(Said::nothing());
        let drive = bare.open(engine).unwrap();
        let errors = under_load(&drive, &said, 1, || {
            for _ in 0..4 {
                std::thread::sleep(SOUND);
                // A part of the data, as of a disk that is damaged in one place.
                let length = (1 + random.next(32)) << 16;
                let most = (u64::from(ZONES) * ZONE_BYTES - length) / 4096;
                let start = bare.data.start + random.next(most) * 4096;
                let range = Some(start..start + length);
                let before = bare.fuse.state().failed;
                bare.fail(Faults { writes: true, range, ..Faults::default() });
                let begun = Instant::now();
                while bare.fuse.state().failed < before + 3 && begun.elapsed() < 10 * FAILING {
                    std::thread::sleep(FAILING / 5);
                }
                bare.recover();
            }
            std::thread::sleep(SOUND);
        });
        assert!(errors.contains_key(&ErrorKind::Io), "nothing failed: {errors:?}");
        assert!(!errors.contains_key(&ErrorKind::DeviceReadOnly), "{errors:?}");
        let found = said.lock().unwrap().verify(&drive, EVERYTHING);
        let read_only = read_only_zones(&drive);
        drive.close().unwrap();
        let drive = bare.open(engine).unwrap();
        assert_eq!(drive.info().session.as_deref(), Some("closed cleanly"));
        said.lock().unwrap().verify(&drive, EVERYTHING);
        assert_eq!(read_only_zones(&drive), read_only, "a zone that cannot be trusted stays so");
        drive.close().unwrap();
        let report = zonal::check(&bare.image, &CheckOptions { deep: true }).unwrap();
        assert_eq!(report.errors(), 0, "{:?}", report.findings);
        println!(
            "{engine:?}: failed writes: {errors:?}; {found} records found, {read_only} zones \
             read-only"
        );
    }
}

#[test]
fn reads_that_fail_say_so_and_change_nothing() {
    let Some(ground) = Ground::new(&[]) else { return };
    for engine in ENGINES {
        let bare = Bare::new(&ground);
        let said = Mutex::new(Said::nothing());
        let drive = bare.open(engine).unwrap();
        let errors = under_load(&drive, &said, 2, || {
            for _ in 0..3 {
                std::thread::sleep(SOUND);
                bare.fail(Faults { reads: true, ..Faults::default() });
                wait_until("a read fails", || bare.fuse.state().failed > 0);
                std::thread::sleep(FAILING);
                bare.recover();
            }
        });
        assert!(errors.contains_key(&ErrorKind::Io), "nothing failed: {errors:?}");
        let others = [ErrorKind::BehindFailedWrite, ErrorKind::DeviceReadOnly];
        assert!(!others.iter().any(|kind| errors.contains_key(kind)), "{errors:?}");
        assert_eq!(read_only_zones(&drive), 0);
        let whole = Expect { promise: Promise::Acknowledged, zeros: false };
        let found = said.lock().unwrap().verify(&drive, whole);
        drive.close().unwrap();
        println!("{engine:?}: failed reads: {errors:?}; {found} records found");
    }
}

#[test]
fn a_failed_sync_ends_all_writing_and_is_never_repeated() {
    let Some(ground) = Ground::new(&[]) else { return };
    for engine in ENGINES {
        ground.boot(1);
        let bare = Bare::new(&ground);
        let said = Mutex::new(Said::nothing());
        let drive = bare.open(engine).unwrap();
        let errors = under_load(&drive, &said, 3, || {
            wait_until("something is flushed", || said.lock().unwrap().flushed_records() > 50);
            std::thread::sleep(SOUND);
            bare.fail(Faults { syncs: true, ..Faults::default() });
            wait_until("a sync fails", || bare.fuse.state().failed > 0);
            std::thread::sleep(FAILING);
        });
        assert!(errors.contains_key(&ErrorKind::DeviceReadOnly), "{errors:?}");
        // The disk is well again, and the drive does not believe it.
        bare.recover();
        let syncs = bare.fuse.state().syncs;
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        for _ in 0..5 {
            for request in [
                Request::flush(),
                Request::append(0, Buffer::from_slice(&[1; load::BLOCK])),
                Request::append(1, Buffer::from_slice(&[1; load::BLOCK])).fua(),
                Request::reset(2),
                Request::finish(3),
            ] {
                let error = bounded("a refusal", || run(&mut queue, request)).result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::DeviceReadOnly, "{error}");
                assert!(error.to_string().contains("open it again"), "{error}");
            }
        }
        assert_eq!(bare.fuse.state().syncs, syncs, "a failed sync was repeated");
        drop(queue);
        // Reads go on.
        let found = said.lock().unwrap().clone().verify(&drive, EVERYTHING);
        let error = bounded("closing", || drive.close()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceReadOnly, "{error}");
        // As after a power cut: what was flushed is there.
        ground.boot(2);
        let drive = bare.open(engine).unwrap();
        let expect = Expect { promise: Promise::Flushed, zeros: true };
        let flushed = said.lock().unwrap().verify(&drive, expect);
        let errors_later = under_load(&drive, &said, 4, || std::thread::sleep(SOUND));
        assert!(!errors_later.contains_key(&ErrorKind::DeviceReadOnly), "{errors_later:?}");
        said.lock().unwrap().verify(&drive, EVERYTHING);
        drive.close().unwrap();
        assert!(flushed > 0);
        println!("{engine:?}: a failed sync: {errors:?}; {found} records found, {flushed} flushed");
    }
}

fn run(queue: &mut Queue, request: Request) -> zonal::Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

/// Four records in flight, of which the second fails: the rule of `docs/semantics.md`, on a disk.
#[test]
fn a_zone_whose_write_fails_settles_and_goes_on_from_its_write_pointer() {
    let Some(ground) = Ground::new(&[]) else { return };
    for engine in ENGINES {
        let bare = Bare::new(&ground);
        let drive = bare.open(engine).unwrap();
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let record = |byte| Buffer::from_slice(&[byte; 2 * load::BLOCK]);
        let length = 2 * load::BLOCK as u64;
        run(&mut queue, Request::append(0, record(1))).result.unwrap();
        let bad = bare.data.start + 2 * length..bare.data.start + 3 * length;
        bare.fail(Faults { writes: true, range: Some(bad), ..Faults::default() });
        for byte in 2..=5 {
            queue.push(Request::append_ordered(0, record(byte)).tag(byte.into())).unwrap();
        }
        // The disk is well again before the dead range is made zero, or not: both are settled.
        bounded("settling", || queue.submit_and_wait(4)).unwrap();
        let ended: Vec<_> = std::iter::from_fn(|| queue.next_completion()).collect();
        assert_eq!(ended.len(), 4);
        bare.recover();
        let zone = drive.report(0..1).unwrap()[0];
        let wp = zone.write_pointer.unwrap_or(zone.start + ZONE_BYTES);
        let mut acknowledged = 1;
        for end in &ended {
            let place = end.offset..end.offset + length;
            match &end.result {
                Ok(bytes) => {
                    assert_eq!(u64::from(*bytes), length);
                    assert!(place.end <= wp, "acknowledged above the write pointer");
                    let read = run(&mut queue, Request::read_at(place.start, record(0)));
                    assert!(read.buffer.unwrap().iter().all(|&byte| u64::from(byte) == end.tag));
                    acknowledged += 1;
                }
                Err(error) => {
                    let failed = end.tag == 3;
                    let kind = if failed { ErrorKind::Io } else { ErrorKind::BehindFailedWrite };
                    assert_eq!(error.kind(), kind, "record {}: {error}", end.tag);
                    assert!(!end.flags.contains(Flags::REFUSED) || !failed, "{:?}", end.flags);
                    let read = run(&mut queue, Request::read_at(place.start, record(7)));
                    assert!(read.buffer.unwrap().iter().all(|&byte| byte == 0), "a failed write");
                }
            }
        }
        assert!(ended.iter().any(|end| end.tag == 3 && end.result.is_err()), "it has to fail");
        if zone.state != ZoneState::ReadOnly {
            let next = run(&mut queue, Request::append(0, record(9)));
            assert_eq!((next.result.unwrap(), next.offset), (length as u32, wp));
        }
        drop(queue);
        drive.close().unwrap();
        println!("{engine:?}: {acknowledged} of 5 acknowledged, then {:?} at {wp}", zone.state);
    }
}

// ---- a file system on the disk that fails -------------------------------------------------------

const CHILD: &str = "ZONAL_FAILING_CHILD";
const MARKS: &str = "ZONAL_FAILING_MARKS";
const IDLE: &str = "ZONAL_FAILING_IDLE";
const GO: &str = "ZONAL_FAILING_GO";

/// What a writer says that waits for the disk to fail.
const PAUSED: &str = "\npaused\n";
const THREADS: &str = "ZONAL_FAILING_OVER_THREADS";

/// Not a test of its own: the writer on a file system, when the test below starts it.
#[test]
fn writer() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let marks = std::fs::File::options().write(true).open(std::env::var(MARKS).unwrap()).unwrap();
    let threads = std::env::var_os(THREADS).is_some();
    let engine = if threads { EngineChoice::Threads } else { EngineChoice::Auto };
    let options = OpenOptions { engine, ..OpenOptions::default() };
    let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
    let idle = std::env::var_os(IDLE).is_some();
    let begun = Instant::now();
    let flushes = AtomicUsize::new(0);
    let load = Load {
        drive: &drive,
        lives: Said::nothing().lives(),
        seed: 5,
        flushes: 15,
        temper: Temper::Patient,
        say: &|lines| {
            flushes.fetch_add(lines.matches("flushed").count(), SeqCst);
            load::say_to(&marks, lines);
        },
        goes_on: &|| begun.elapsed() < PATIENCE / 2 && !(idle && flushes.load(SeqCst) >= 10),
    };
    let errors = load.run();
    if idle {
        load::say_to(&marks, PAUSED);
        wait_until("the disk fails", || Path::new(&std::env::var(GO).unwrap()).exists());
    }
    read_on(&drive, SOUND);
    let closed = drive.close();
    println!("the writer met {errors:?}, and closed: {closed:?}");
}

/// Reads for so long, whatever becomes of it.
fn read_on(drive: &Device, how_long: Duration) {
    let begun = Instant::now();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    while begun.elapsed() < how_long {
        let read = Request::read_at(0, Buffer::from_slice(&[0; load::BLOCK]));
        drop(run(&mut queue, read));
        drop(run(&mut queue, Request::append(0, Buffer::from_slice(&[9; load::BLOCK]))));
    }
}

#[test]
fn under_ext4_whose_disk_fails_nothing_flushed_is_lost() {
    let Some(ground) = Ground::new(&["mkfs.ext4", "e2fsck"]) else { return };
    for (threads, idle) in [(false, false), (true, false), (false, true)] {
        under_a_file_system(&ground, "ext4", threads, idle);
    }
}

#[test]
fn under_xfs_whose_disk_fails_nothing_flushed_is_lost() {
    let Some(ground) = Ground::new(&["mkfs.xfs"]) else { return };
    for (threads, idle) in [(false, false), (true, true)] {
        under_a_file_system(&ground, "xfs", threads, idle);
    }
}

/// The disk under a file system fails for good, while a process writes or has paused, until that
/// ends; then it is well again, the machine is booted, and the file system is mounted.
fn under_a_file_system(ground: &Ground, kind: &str, threads: bool, idle: bool) {
    ground.boot(1);
    let bytes = if kind == "xfs" { 320 << 20 } else { DISK_BYTES };
    let fuse = FuseDisk::new(&ground.folder("fuse"), vec![0; bytes]);
    let folder = ground.folder("mnt");
    let image = folder.join("disk.qcow2");
    make_file_system(kind, &fuse.disk());
    let mounted = Mounted::over_loop(&fuse.disk(), &folder, kind);
    create(&image);
    fuse.begin_log();
    let child = Command::new(std::env::current_exe().unwrap())
        .envs(threads.then_some((THREADS, "1")))
        .args(["writer", "--exact", "--nocapture", "--test-threads=1"])
        .envs(idle.then_some((IDLE, "1")))
        .env(CHILD, &image)
        .env(GO, ground.path("go"))
        .env(MARKS, fuse.marks())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Leashed(child);
    let (word, times) = if idle { (PAUSED, 1) } else { ("flushed", 5) };
    wait_until("the writer writes", || fuse.heard().matches(word).count() >= times);
    if idle {
        // As the kernel does after a while; what is mapped is clean then.
        run_sync(&folder);
    }
    let all = Faults { reads: true, writes: true, syncs: true, range: None };
    fuse.state().faults = all;
    // Somebody else's write makes the file system give up, and then what was mapped is to be
    // written back.
    for name in ["one", "two"] {
        let _ = std::fs::write(folder.join(name), name);
        run_sync(&folder);
    }
    std::fs::write(ground.path("go"), []).unwrap();
    let status = ends(&mut child.0);
    std::fs::remove_file(ground.path("go")).unwrap();
    // XFS, once it has shut itself down, lets nobody store into what is mapped of it: see "The live
    // file" in docs/semantics.md.
    let ended_by_kernel = kind == "xfs" && status.signal() == Some(libc::SIGBUS);
    assert!(status.success() || ended_by_kernel, "the writer: {status}");
    fuse.state().faults = Faults::default();
    assert!(fuse.state().failed > 0);
    mounted.unmount();
    let mut said = Said::nothing();
    said.hear_all(&fuse.heard());
    if kind == "ext4" {
        // What somebody does whose disk is back.
        let checked = Command::new("e2fsck").args(["-f", "-y"]).arg(fuse.disk()).output().unwrap();
        assert!(checked.status.code().is_some_and(|code| code < 4), "{checked:?}");
    }
    ground.boot(2);
    let mounted = Mounted::over_loop(&fuse.disk(), &folder, kind);
    let drive = zonal::open(&Target::Path(image.clone()), &OpenOptions::default()).unwrap();
    let expect = Expect { promise: Promise::Flushed, zeros: true };
    let flushed = said.verify(&drive, expect);
    drive.close().unwrap();
    let report = zonal::check(&image, &CheckOptions { deep: true }).unwrap();
    assert_eq!(report.errors(), 0, "{:?}", report.findings);
    mounted.unmount();
    println!(
        "{kind}, threads {threads}, idle {idle}: the writer ended with {status}, {flushed} flushed \
         records found after the disk failed"
    );
    assert!(flushed > 0);
}

/// Has the file system write back what it has; whether it can is another matter.
fn run_sync(folder: &Path) {
    let _ = Command::new("sync").arg("-f").arg(folder).output().unwrap();
}

/// Waits for a process, which has to end.
fn ends(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the writer ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.expect("it has ended")
}

/// Waits for what has to come.
fn wait_until(what: &str, mut comes: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !comes() {
        assert!(begun.elapsed() < PATIENCE, "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
