//! The file system under an image fills up: what was acknowledged stays, the errors say what is
//! wrong, and when there is room again the drive goes on.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![cfg(not(zonal_shuttle))]

mod disks;
#[path = "foreign/mod.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod foreign;
mod load;

use disks::{Ground, Mounted, make_file_system, run as run_tool};
use load::said::{Expect, Promise, Said};
use load::{Load, Temper, ZONE_BYTES, ZONES};
use std::fs::{File, remove_file};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zonal::{
    AdoptOptions, Buffer, CheckOptions, CreateOptions, Device, EngineChoice, ErrorKind,
    OpenOptions, Preallocate, Queue, QueueOptions, Request, Target, ZoneState,
};

/// File systems by name, and the smallest size that they like.
const FILE_SYSTEMS: [(&str, u64); 3] =
    [("ext4", 48 << 20), ("xfs", 320 << 20), ("tmpfs", 24 << 20)];

/// What is left free: some of the image's 8 MiB, and the live file's 2 MiB.
const LEFT_FREE: u64 = 5 << 20;

const LOAD_FOR: Duration = Duration::from_millis(1500);

/// A file system that is nearly full, with an empty image on it.
struct Small {
    folder: PathBuf,
    mounted: Mounted,
}

impl Small {
    fn new(ground: &Ground, kind: &str, bytes: u64) -> Self {
        let folder = ground.folder(kind);
        let mounted = if kind == "tmpfs" {
            Mounted::memory(&folder, bytes)
        } else {
            let disk = ground.file("small", bytes);
            make_file_system(kind, &disk);
            Mounted::over_loop(&disk, &folder, kind)
        };
        Self { folder, mounted }
    }

    fn image(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }

    fn create(&self) {
        let (geometry, preallocate) = (load::geometry(), Preallocate::Off);
        let options = CreateOptions { geometry, preallocate, force: false, progress: None };
        zonal::create(&self.image(), options).unwrap();
    }

    fn open(&self, engine: EngineChoice) -> zonal::Result<Device> {
        zonal::open(&Target::Path(self.image()), &OpenOptions { engine, ..OpenOptions::default() })
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.folder).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Takes all space but so much, in pieces that get smaller; with nothing left free, as long as
    /// anything can be had.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.folder.join("filler");
        let file = File::create(&path).unwrap();
        let (mut length, mut piece) = (0, 1 << 20);
        while piece >= 4096 {
            let fits = left == 0 || self.free() >= left + piece;
            let allocate = rustix::fs::fallocate;
            let plain = rustix::fs::FallocateFlags::empty();
            if fits && allocate(&file, plain, length, piece).is_ok() {
                length += piece;
            } else {
                piece /= 2;
            }
        }
        path
    }

    fn is_sound(&self) {
        let report = zonal::check(&self.image(), &CheckOptions { deep: true }).unwrap();
        // Clusters that are counted, and not used yet, are no damage.
        let error = |found: &&zonal::Finding| found.severity == zonal::Severity::Error;
        let errors: Vec<_> = report.findings.iter().filter(error).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn a_file_system_that_fills_up_costs_nothing_that_was_acknowledged() {
    let Some(ground) = Ground::new(&["mkfs.ext4", "mkfs.xfs"]) else { return };
    for (kind, bytes) in FILE_SYSTEMS {
        for engine in [EngineChoice::Auto, EngineChoice::Threads] {
            let small = Small::new(&ground, kind, bytes);
            small.create();
            fill_up_and_go_on(&small, engine, kind);
            small.mounted.unmount();
        }
    }
}

#[test]
fn an_adopted_image_that_gets_no_more_clusters_loses_nothing_either() {
    let Some(ground) = Ground::new(&["mkfs.ext4"]) else { return };
    let small = Small::new(&ground, "ext4", 48 << 20);
    let options = AdoptOptions {
        zone_size: Some(ZONE_BYTES),
        max_append: Some(64 << 10),
        ..AdoptOptions::default()
    };
    if foreign::adopted(&small.image(), u64::from(ZONES) * ZONE_BYTES, 65536, options).is_none() {
        assert!(std::env::var_os("CI").is_none(), "qemu-img has to be there in CI");
        return;
    }
    fill_up_and_go_on(&small, EngineChoice::Auto, "ext4, adopted");
    small.mounted.unmount();
}

fn fill_up_and_go_on(small: &Small, engine: EngineChoice, name: &str) {
    let filler = small.fill(LEFT_FREE);
    let said = Mutex::new(Said::nothing());
    let expect = Expect { promise: Promise::Acknowledged, zeros: true };
    let drive = small.open(engine).unwrap();
    let full = Errors::of(&drive, &said, 1);
    full.are_of_a_full_disk();
    assert!(full.count(ErrorKind::NoSpace) > 0, "it did not fill up: {:?}", full.0);
    let found = said.lock().unwrap().verify(&drive, expect);
    assert_goes_on_without_room(&drive);

    remove_file(filler).unwrap();
    // Some file systems give back what was removed a little later.
    run_tool("sync", &["-f"], &[&small.folder]);
    let roomy = Errors::of(&drive, &said, 2);
    assert_eq!(roomy.count(ErrorKind::NoSpace), 0, "{name}: there is room again");
    roomy.are_of_a_full_disk();
    let later = said.lock().unwrap().verify(&drive, expect);
    drive.close().unwrap();
    small.is_sound();

    let drive = small.open(engine).unwrap();
    assert_eq!(drive.info().session.as_deref(), Some("closed cleanly"));
    said.lock().unwrap().verify(&drive, expect);
    let lost = [ZoneState::ReadOnly, ZoneState::Offline];
    let zones = drive.report(..).unwrap();
    assert!(!zones.iter().any(|zone| lost.contains(&zone.state)), "{zones:?}");
    drive.close().unwrap();
    println!(
        "{name}, {engine:?}: {} times no space; {found} records found when full, {later} later",
        full.count(ErrorKind::NoSpace)
    );
    assert!(later > 0);
}

/// Flushes and reads need no room.
fn assert_goes_on_without_room(drive: &Device) {
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    run(&mut queue, Request::flush()).unwrap();
    run(&mut queue, Request::read_at(0, Buffer::from_slice(&[1; load::BLOCK]))).unwrap();
}

/// How often a load failed, and how.
struct Errors(std::collections::HashMap<ErrorKind, u32>);

impl Errors {
    fn of(drive: &Device, said: &Mutex<Said>, seed: u64) -> Self {
        let begun = Instant::now();
        let lives = said.lock().unwrap().lives();
        let load = Load {
            drive,
            lives,
            seed,
            flushes: 20,
            temper: Temper::Patient,
            say: &|lines| said.lock().unwrap().hear_all(lines),
            goes_on: &|| begun.elapsed() < LOAD_FOR,
        };
        Self(load.run())
    }

    fn count(&self, kind: ErrorKind) -> u32 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    /// There is none that has another cause.
    fn are_of_a_full_disk(&self) {
        const OF_ZONES: [ErrorKind; 4] = [
            ErrorKind::BeyondCapacity,
            ErrorKind::ZoneFull,
            ErrorKind::InvalidTransition,
            // Who looked up the write pointer just before a failure moved it back.
            ErrorKind::NotAtWritePointer,
        ];
        const OF_THE_DISK: [ErrorKind; 2] = [ErrorKind::NoSpace, ErrorKind::BehindFailedWrite];
        let expected = |kind: &&ErrorKind| OF_ZONES.contains(kind) || OF_THE_DISK.contains(kind);
        let others: Vec<_> = self.0.keys().filter(|kind| !expected(kind)).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

fn run(queue: &mut Queue, request: Request) -> zonal::Result<u32> {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result
}

#[test]
fn where_there_is_no_room_at_all_what_has_its_space_can_be_written_and_flushed() {
    let Some(ground) = Ground::new(&["mkfs.ext4", "mkfs.xfs"]) else { return };
    for (kind, bytes) in FILE_SYSTEMS {
        let small = Small::new(&ground, kind, bytes);
        small.create();
        load::fill_with_a_marker(small.open(EngineChoice::Auto).unwrap());
        let drive = small.open(EngineChoice::Auto).unwrap();
        small.fill(0);
        // The zone's next life, its reset, its generation, the table, the session.
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        for zone in 0..ZONES {
            for byte in 1..=3 {
                let record = Buffer::from_slice(&[byte; 4 * load::BLOCK]);
                run(&mut queue, Request::append(zone, record)).unwrap();
                run(&mut queue, Request::flush()).unwrap();
                if byte < 3 {
                    run(&mut queue, Request::reset(zone)).unwrap();
                }
            }
        }
        drop(queue);
        // Without a close, as good as killed: what it had for its live file is what the next one
        // needs.
        drop(drive);
        small.open(EngineChoice::Auto).unwrap().close().unwrap();
        let drive = small.open(EngineChoice::Auto).unwrap();
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        queue.push(Request::read_at(0, Buffer::from_slice(&[0; 4 * load::BLOCK]))).unwrap();
        queue.submit_and_wait(1).unwrap();
        let read = queue.next_completion().unwrap().buffer.unwrap();
        assert!(read.iter().all(|&byte| byte == 3));
        drop(queue);
        drive.close().unwrap();
        small.is_sound();
        small.mounted.unmount();
    }
}

#[test]
fn an_image_whose_live_file_has_no_room_is_not_opened_and_stays_as_it_is() {
    let Some(ground) = Ground::new(&["mkfs.ext4", "mkfs.xfs"]) else { return };
    for (kind, bytes) in FILE_SYSTEMS {
        let small = Small::new(&ground, kind, bytes);
        small.create();
        let filler = small.fill(0);
        let error = small.open(EngineChoice::Auto).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        // Its tables, which are new, came first.
        assert!(error.to_string().contains("free some of it"), "{error}");
        remove_file(filler).unwrap();
        small.open(EngineChoice::Auto).unwrap().close().unwrap();

        let filler = small.fill(0);
        let before = std::fs::read(small.image()).unwrap();
        let error = small.open(EngineChoice::Auto).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        let text = error.to_string();
        // XFS asks for room even to allocate what is allocated.
        let names_it = text.contains("disk.qcow2.live") || kind == "xfs";
        assert!(names_it && text.contains("free some of it"), "{text}");
        assert!(!Path::new(&small.folder.join("disk.qcow2.live")).exists());
        assert!(std::fs::read(small.image()).unwrap() == before, "it was changed");
        // To look at it, nothing is needed.
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        zonal::open(&Target::Path(small.image()), &options).unwrap().close().unwrap();
        remove_file(filler).unwrap();
        let drive = small.open(EngineChoice::Auto).unwrap();
        assert_eq!(drive.info().session.as_deref(), Some("closed cleanly"));
        drive.close().unwrap();
        small.mounted.unmount();
    }
}

#[test]
fn an_image_that_there_is_no_room_for_is_not_left_behind_in_part() {
    let Some(ground) = Ground::new(&["mkfs.ext4", "mkfs.xfs"]) else { return };
    for (kind, bytes) in FILE_SYSTEMS {
        let small = Small::new(&ground, kind, bytes);
        let filler = small.fill(1 << 20);
        for preallocate in [Preallocate::Falloc, Preallocate::Full] {
            let geometry = load::geometry();
            let options = CreateOptions { geometry, preallocate, force: false, progress: None };
            let error = zonal::create(&small.image(), options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{kind}, {preallocate:?}: {error}");
            assert!(!small.image().exists());
        }
        remove_file(filler).unwrap();
        small.create();
        small.mounted.unmount();
    }
}
