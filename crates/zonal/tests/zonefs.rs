//! What a real kernel's zonefs, and others, do to a drive behind our back: files that other programs cut,
//! write or hold, zones that die, blocks that are bad, under each of its mount options. Runs on the device
//! that `ZONAL_ZONEFS_DEVICE` names, a null_blk of configfs with a zonefs that is not mounted
//! (`guest/run`), which it empties.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod blkzone;
mod null_blk;
mod one_by_one;
mod until_one_fails;

use blkzone::{blkzone, written};
use null_blk::{set_condition, set_null_blk, zones_can_die};
use one_by_one::{BLOCK, blocks, run};
use std::fs::{self, File, OpenOptions as Opening};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use until_one_fails::load;
use zonal::{
    Device, EngineChoice, ErrorKind, OpenOptions, Queue, QueueOptions, Request, Target, ZoneInfo,
    ZoneState,
};

const REPAIR: &str = "errors=repair";
const EXPLICIT: &str = "errors=repair,explicit-open";

/// Both engines. Before Linux 6.6 zonefs makes zone appends of what threads write, and has them end as `EIO` with
/// the data written, so that threads are refused there.
fn engines() -> &'static [EngineChoice] {
    let engines = &[EngineChoice::IoUring, EngineChoice::Threads];
    if !writes_of_threads_are_writes() {
        println!("SKIP: the threads engine, as this kernel is older than 6.6");
        return &engines[..1];
    }
    engines
}

fn writes_of_threads_are_writes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 6)
}

/// The device, mounted, which one test has at a time.
struct Bench {
    device: PathBuf,
    folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// Empty, mounted with these options; none, having said so, where there is no device.
    fn new(options: &str) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let Some(device) = std::env::var_os("ZONAL_ZONEFS_DEVICE").map(PathBuf::from) else {
            println!("SKIP: ZONAL_ZONEFS_DEVICE names no device; guest/run has one");
            return None;
        };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = PathBuf::from("/zonefs/test");
        fs::create_dir_all(&folder).unwrap();
        let bench = Self { device, folder, _turn };
        // All but the zone of the superblock, whose size is that of all.
        let zone = (bench.zone_size() / 512).to_string();
        command("blkzone", &["reset", "-o", &zone, bench.device()]);
        command("mount", &["-t", "zonefs", "-o", options, bench.device(), bench.folder()]);
        Some(bench)
    }

    fn device(&self) -> &str {
        self.device.to_str().unwrap()
    }

    fn folder(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    fn name(&self) -> &str {
        self.device.file_name().unwrap().to_str().unwrap()
    }

    fn zone_size(&self) -> u64 {
        let path = format!("/sys/block/{}/queue/chunk_sectors", self.name());
        fs::read_to_string(path).unwrap().trim().parse::<u64>().unwrap() * 512
    }

    fn open(&self, engine: EngineChoice) -> Device {
        let options = OpenOptions { engine, ..OpenOptions::default() };
        zonal::open(&Target::Path(self.folder.clone()), &options).unwrap()
    }

    /// The drive of one zone's file.
    fn open_alone(&self, zone: u32, engine: EngineChoice) -> Device {
        let options = OpenOptions { engine, ..OpenOptions::default() };
        zonal::open(&Target::Path(self.file(zone)), &options).unwrap()
    }

    /// The file of a zone.
    fn file(&self, zone: u32) -> PathBuf {
        self.folder.join("seq").join(zone.to_string())
    }

    fn size(&self, zone: u32) -> u64 {
        fs::metadata(self.file(zone)).unwrap().len()
    }

    /// A zone's file in another program's hands, open to write.
    fn other(&self, zone: u32) -> std::io::Result<File> {
        Opening::new().write(true).custom_flags(libc::O_DIRECT).open(self.file(zone))
    }

    /// What another program says of a zone of the device: its write pointer, from its start, and its state.
    fn on_device(&self, zone: u32) -> (u64, String) {
        let start = self.start(zone);
        let line = blkzone("report", &self.device, start);
        let condition = line.split_once("zcond:").unwrap().1.split(['(', ')']).nth(1).unwrap();
        (written(&self.device, start), condition.to_owned())
    }

    /// Where a zone starts on the device, behind that of the superblock.
    fn start(&self, zone: u32) -> u64 {
        (u64::from(zone) + 1) * self.zone_size()
    }

    /// Makes a block of a zone bad, or good again.
    fn set_bad(&self, zone: u32, block: u64, bad: bool) {
        let first = self.start(zone) / 512 + block * 8;
        let sign = if bad { '+' } else { '-' };
        set_null_blk(&self.device, "badblocks", &format!("{sign}{first}-{}", first + 7));
    }

    fn zones_can_die(&self) -> bool {
        zones_can_die(&self.device)
    }

    /// Makes the device say a zone's condition, or take that back.
    fn set_condition(&self, zone: u32, attribute: &str) {
        set_condition(&self.device, attribute, self.start(zone));
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        command("mount", &["-t", "zonefs", "-o", &options, self.device(), self.folder()]);
    }

    fn files_open_to_write(&self) -> u32 {
        let path = format!("/sys/fs/zonefs/{}/nr_wro_seq_files", self.name());
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The kernel lets go of a ring that was used in its own time.
        for _ in 0..100 {
            if Command::new("umount").arg(&self.folder).output().unwrap().status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(std::thread::panicking(), "{} is still in use", self.folder());
    }
}

fn command(name: &str, arguments: &[&str]) -> String {
    let ran = Command::new(name).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{name} {arguments:?}: {said}");
    String::from_utf8(ran.stdout).unwrap()
}

fn queue(drive: &Device) -> Queue {
    drive.queue(&QueueOptions::default()).unwrap()
}

/// Appends, and says where from the zone's start.
fn append(queue: &mut Queue, zone: u32, byte: u8, count: usize) -> u64 {
    let zone = queue.report(zone..=zone).unwrap()[0];
    one_by_one::append(queue, &zone, byte, count) - zone.start
}

fn append_error(queue: &mut Queue, zone: u32) -> zonal::Error {
    run(queue, Request::append(zone, blocks(1, 1))).result.unwrap_err()
}

/// A zone's first blocks.
fn read(queue: &mut Queue, zone: u32, count: usize) -> Vec<u8> {
    let start = queue.report(zone..=zone).unwrap()[0].start;
    one_by_one::read(queue, start, count)
}

fn state(drive: &Device, zone: u32) -> ZoneState {
    drive.report(zone..=zone).unwrap()[0].state
}

fn pointer(drive: &Device, zone: u32) -> u64 {
    let zone = drive.report(zone..=zone).unwrap()[0];
    zone.write_pointer.unwrap() - zone.start
}

fn zone(drive: &Device, number: u32) -> ZoneInfo {
    drive.report(number..=number).unwrap()[0]
}

/// The kernel has many writes of a file under way, and keeps them in order: none has to be sent again.
#[test]
fn what_is_in_flight_in_a_file_stays_in_order() {
    for options in [REPAIR, EXPLICIT] {
        let Some(bench) = Bench::new(options) else { return };
        for sqpoll in [false, true] {
            let drive = bench.open(EngineChoice::IoUring);
            std::thread::scope(|scope| {
                for writer in 0..2_u8 {
                    let drive = &drive;
                    scope.spawn(move || {
                        let options = QueueOptions { depth: 64, sqpoll, ..QueueOptions::default() };
                        let mut queue = drive.queue(&options).unwrap();
                        for _ in 0..12 {
                            // Both to one zone, and each to one of its own.
                            for n in 0..64 {
                                let to = if n < 8 { 0 } else { 1 + u32::from(writer) };
                                queue.push(Request::append(to, blocks(writer, 1))).unwrap();
                            }
                            queue.submit_and_wait(64).unwrap();
                            while let Some(completion) = queue.next_completion() {
                                completion.result.unwrap();
                            }
                        }
                    });
                }
            });
            let metrics = drive.metrics();
            assert_eq!((metrics.failed, metrics.repeated), (0, 0), "{metrics:?}");
            let mut queue = queue(&drive);
            for (zone, written) in [(0, 192), (1, 672), (2, 672)] {
                assert_eq!(pointer(&drive, zone), written * BLOCK as u64);
                run(&mut queue, Request::reset(zone)).result.unwrap();
            }
            drop(queue);
            drive.close().unwrap();
        }
    }
}

#[test]
fn a_file_that_another_program_cuts_is_gone_on_with() {
    for options in [REPAIR, EXPLICIT] {
        let Some(bench) = Bench::new(options) else { return };
        for &engine in engines() {
            let drive = bench.open(engine);
            let mut queue = queue(&drive);
            append(&mut queue, 0, 1, 3);
            let before = drive.generation(0).unwrap();
            bench.other(0).unwrap().set_len(0).unwrap();
            let error = append_error(&mut queue, 0);
            assert_eq!(error.kind(), ErrorKind::NotAtWritePointer);
            assert!(error.to_string().contains("another program has reset the zone"), "{error}");
            assert_eq!(drive.generation(0), Some(before + 1));
            assert_eq!((pointer(&drive, 0), bench.size(0)), (0, 0));
            assert_eq!(read(&mut queue, 0, 3), [0; 3], "nothing of the earlier life");
            assert_eq!(append(&mut queue, 0, 2, 1), 0);
            assert_eq!((pointer(&drive, 0), bench.size(0)), (4096, 4096));
            assert_eq!(read(&mut queue, 0, 2), [2, 0]);
            // Its end is found as well.
            bench.other(0).unwrap().set_len(drive.geometry().zone_capacity).unwrap();
            let error = append_error(&mut queue, 0);
            assert!(error.to_string().contains("another program has written"), "{error}");
            assert_eq!(state(&drive, 0), ZoneState::Full);
            run(&mut queue, Request::reset(0)).result.unwrap();
            assert_eq!((bench.size(0), bench.on_device(0).1.as_str()), (0, "em"));
            drop(queue);
            drive.close().unwrap();
        }
    }
}

#[test]
fn a_read_that_another_program_cuts_short_says_so() {
    let Some(bench) = Bench::new(REPAIR) else { return };
    let drive = bench.open(EngineChoice::IoUring);
    let mut queue = queue(&drive);
    append(&mut queue, 0, 1, 3);
    bench.other(0).unwrap().set_len(0).unwrap();
    let start = drive.report(0..1).unwrap()[0].start;
    let error = run(&mut queue, Request::read_at(start, blocks(0, 3))).result.unwrap_err();
    assert!(error.to_string().contains("its zone's file ends before it"), "{error}");
}

#[test]
fn what_another_program_writes_is_found_and_kept() {
    let Some(bench) = Bench::new(REPAIR) else { return };
    let drive = bench.open(EngineChoice::Auto);
    let mut queue = queue(&drive);
    append(&mut queue, 0, 1, 1);
    let written = bench.other(0).unwrap().write_all_at(&blocks(9, 2), BLOCK as u64);
    assert!(written.is_ok() || !writes_of_threads_are_writes(), "{written:?}");
    let error = append_error(&mut queue, 0);
    assert!(error.to_string().contains("another program has written to the zone"), "{error}");
    assert_eq!(pointer(&drive, 0), 3 * BLOCK as u64);
    assert_eq!(append(&mut queue, 0, 2, 1), 3 * BLOCK as u64);
    assert_eq!(read(&mut queue, 0, 5), [1, 9, 9, 2, 0]);
    assert_eq!(bench.size(0), pointer(&drive, 0));
}

#[test]
fn a_bad_block_fails_one_write_and_the_zone_goes_on_where_its_file_ends() {
    for options in [REPAIR, EXPLICIT] {
        let Some(bench) = Bench::new(options) else { return };
        for &engine in engines() {
            let drive = bench.open(engine);
            let mut queue = queue(&drive);
            bench.set_bad(0, 50, true);
            let load = load(&mut queue, &zone(&drive, 0), 16, |_| ());
            bench.set_bad(0, 50, false);
            let (kind, text) = load.at_fault();
            assert_eq!(*kind, ErrorKind::Io, "{text}");
            assert!(text.contains("bytes of it were written"), "{text}");
            assert!(load.acknowledged.len() >= 50, "{}", load.acknowledged.len());
            let end = pointer(&drive, 0);
            assert_eq!((bench.size(0), bench.on_device(0).0), (end, end));
            assert_eq!(append(&mut queue, 0, 77, 1), end);
            load.is_all_there(&mut queue);
            assert_eq!(
                read(&mut queue, 0, end as usize / BLOCK + 2)[end as usize / BLOCK..],
                [77, 0]
            );
            run(&mut queue, Request::reset(0)).result.unwrap();
            drop(queue);
            drive.close().unwrap();
        }
    }
}

#[test]
fn what_the_mount_does_about_an_error_is_what_callers_are_told() {
    for (errors, kind, after) in [
        ("zone-ro", ErrorKind::ZoneReadOnly, ZoneState::ReadOnly),
        ("zone-offline", ErrorKind::ZoneOffline, ZoneState::Offline),
    ] {
        let Some(bench) = Bench::new(&format!("errors={errors}")) else { return };
        let drive = bench.open(EngineChoice::IoUring);
        let mut queue = queue(&drive);
        bench.set_bad(0, 50, true);
        let load = load(&mut queue, &zone(&drive, 0), 16, |_| ());
        bench.set_bad(0, 50, false);
        assert_eq!((load.at_fault().0, state(&drive, 0)), (kind, after), "{:?}", load.at_fault());
        assert_eq!(append_error(&mut queue, 0).kind(), kind);
        if after == ZoneState::ReadOnly {
            load.is_all_there(&mut queue);
            assert_eq!(pointer(&drive, 0), bench.size(0));
        } else {
            let start = drive.report(0..1).unwrap()[0].start;
            let read = run(&mut queue, Request::read_at(start, blocks(0, 1)));
            assert_eq!(read.result.unwrap_err().kind(), kind);
        }
        // The other zones go on, and are synced though the first one cannot be.
        append(&mut queue, 1, 1, 1);
        run(&mut queue, Request::flush()).result.unwrap();
        drop(queue);
        drive.close().unwrap();
    }
}

#[test]
fn a_zonefs_made_read_only_by_an_error_is_named_and_gone_on_with_when_it_is_not() {
    let Some(bench) = Bench::new("errors=remount-ro") else { return };
    for &engine in engines() {
        let drive = bench.open(engine);
        let mut queue = queue(&drive);
        append(&mut queue, 1, 5, 1);
        bench.set_bad(0, 50, true);
        let load = load(&mut queue, &zone(&drive, 0), 16, |_| ());
        bench.set_bad(0, 50, false);
        // The device's error is told, and what came after it meets the read-only mount.
        let kinds: Vec<_> = load.errors.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == ErrorKind::Io).count(), 1, "{kinds:?}");
        let later = [ErrorKind::Io, ErrorKind::BehindFailedWrite, ErrorKind::DeviceReadOnly];
        assert!(kinds.iter().all(|kind| later.contains(kind)), "{kinds:?}");
        let end = pointer(&drive, 0);
        assert_eq!((bench.size(0), bench.on_device(0).0), (end, end));
        load.is_all_there(&mut queue);
        for zone in [0, 1, 2] {
            let error = append_error(&mut queue, zone);
            assert_eq!(error.kind(), ErrorKind::DeviceReadOnly, "{error}");
            assert!(error.to_string().contains("mount -o remount,rw /zonefs/test"), "{error}");
        }
        bench.remount("rw");
        assert_eq!(append(&mut queue, 0, 77, 1), end);
        assert_eq!(append(&mut queue, 1, 6, 1), 4096);
        append(&mut queue, 2, 7, 1);
        assert_eq!((read(&mut queue, 1, 3), pointer(&drive, 1)), (vec![5, 6, 0], bench.size(1)));
        run(&mut queue, Request::reset_all()).result.unwrap();
        drop(queue);
        drive.close().unwrap();
    }
}

#[test]
fn zones_that_die_under_load_are_found_and_nothing_acknowledged_is_lost() {
    let kinds = [
        ("zone_readonly", ZoneState::ReadOnly, ErrorKind::ZoneReadOnly),
        ("zone_offline", ZoneState::Offline, ErrorKind::ZoneOffline),
    ];
    for (options, &engine) in [REPAIR, EXPLICIT].into_iter().zip(engines().iter().cycle()) {
        let Some(bench) = Bench::new(options).filter(Bench::zones_can_die) else { return };
        let drive = bench.open(engine);
        for (zone, (attribute, dead, kind)) in (0..).zip(kinds) {
            let mut queue = queue(&drive);
            let die = |count| {
                if count == 100 {
                    bench.set_condition(zone, attribute);
                }
            };
            let load = load(&mut queue, &self::zone(&drive, zone), 16, die);
            assert_eq!(load.at_fault().0, kind, "{:?}", load.at_fault());
            assert_eq!(state(&drive, zone), dead);
            assert_eq!(append_error(&mut queue, zone).kind(), kind);
            if dead == ZoneState::ReadOnly {
                load.is_all_there(&mut queue);
                assert_eq!(pointer(&drive, zone), bench.size(zone));
            }
            append(&mut queue, 4, 1, 1);
            run(&mut queue, Request::flush()).result.unwrap();
        }
        drive.close().unwrap();
        // One that is read-only when it is mounted is offline: the kernel does not know how much is written.
        let drive = bench.open(engine);
        assert_eq!(state(&drive, 0), ZoneState::ReadOnly);
        assert_eq!(state(&drive, 1), ZoneState::Offline);
        drive.close().unwrap();
        kinds.iter().zip(0..).for_each(|((name, ..), zone)| bench.set_condition(zone, name));
    }
}

#[test]
fn a_zone_that_dies_while_its_file_is_closed_is_told_as_dead() {
    let kinds = [
        ("zone_readonly", ZoneState::ReadOnly, ErrorKind::ZoneReadOnly),
        ("zone_offline", ZoneState::Offline, ErrorKind::ZoneOffline),
    ];
    for &engine in engines() {
        let Some(bench) = Bench::new(EXPLICIT).filter(Bench::zones_can_die) else { return };
        let drive = bench.open(engine);
        let mut queue = queue(&drive);
        for (zone, (attribute, dead, kind)) in (0..).zip(kinds) {
            append(&mut queue, zone, 9, 2);
            run(&mut queue, Request::close(zone)).result.unwrap();
            // The kernel closes what a ring has used in its own time.
            let closed = || bench.on_device(zone).1 != "oe";
            assert!((0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                closed()
            }));
            bench.set_condition(zone, attribute);
            let first = append_error(&mut queue, zone);
            assert_eq!((first.kind(), state(&drive, zone)), (kind, dead), "{first}");
            assert_eq!(append_error(&mut queue, zone).kind(), kind);
            if dead == ZoneState::ReadOnly {
                assert_eq!(read(&mut queue, zone, 2), [9, 9]);
            }
        }
        append(&mut queue, 4, 1, 1);
        drop(queue);
        drive.close().unwrap();
        kinds.iter().zip(0..).for_each(|((name, ..), zone)| bench.set_condition(zone, name));
    }
}

#[test]
fn under_explicit_open_a_zone_is_open_on_its_device_while_it_is_open_here() {
    let Some(bench) = Bench::new(EXPLICIT) else { return };
    let drive = bench.open(EngineChoice::IoUring);
    let limit = drive.limits().max_open_zones.unwrap();
    let mut queue = queue(&drive);
    assert_eq!(bench.files_open_to_write(), 0);
    run(&mut queue, Request::open(0)).result.unwrap();
    assert_eq!(
        (bench.on_device(0).1.as_str(), state(&drive, 0)),
        ("oe", ZoneState::ExplicitlyOpen)
    );
    run(&mut queue, Request::close(0)).result.unwrap();
    assert_eq!((bench.on_device(0).1.as_str(), state(&drive, 0)), ("em", ZoneState::Empty));
    // More than may be open, in turn: each takes the place of the first.
    for round in 0..3_u8 {
        for zone in 0..limit + 1 {
            assert_eq!(append(&mut queue, zone, round, 1), u64::from(round) * 4096);
            assert!(bench.files_open_to_write() <= limit);
            assert_eq!(bench.on_device(zone).1, "oe");
        }
    }
    let open = (0..limit + 1).filter(|&zone| bench.on_device(zone).1 == "oe").count();
    assert_eq!(open as u32, limit);
    run(&mut queue, Request::finish(0)).result.unwrap();
    assert_eq!(
        (bench.on_device(0).1.as_str(), bench.size(0)),
        ("fu", drive.geometry().zone_capacity)
    );
    run(&mut queue, Request::reset(1)).result.unwrap();
    assert_eq!((bench.on_device(1).1.as_str(), bench.size(1)), ("em", 0));
    drop(queue);
    drive.close().unwrap();
    // The kernel closes what a ring has used in its own time.
    let closed = || (0..limit + 1).all(|zone| bench.on_device(zone).1 != "oe");
    assert!((0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        closed() && bench.files_open_to_write() == 0
    }));
}

#[test]
fn files_that_others_hold_leave_fewer_places_and_are_named_when_none_is_left() {
    let Some(bench) = Bench::new(EXPLICIT) else { return };
    for &engine in engines() {
        let drive = bench.open(engine);
        let limit = drive.limits().max_open_zones.unwrap();
        let mut queue = queue(&drive);
        let mut others: Vec<_> = (0..limit - 1).map(|n| bench.other(8 + n).unwrap()).collect();
        // One place is left, which goes round.
        for round in 0..3_u8 {
            for zone in 0..3 {
                assert_eq!(append(&mut queue, zone, round, 1), u64::from(round) * 4096);
            }
        }
        run(&mut queue, Request::reset_all()).result.unwrap();
        append(&mut queue, 0, 4, 3);
        drop(queue);
        drive.close().unwrap();
        let drive = bench.open(engine);
        let mut queue = self::queue(&drive);
        others.push(
            (0..100)
                .find_map(|_| {
                    std::thread::sleep(Duration::from_millis(20));
                    bench.other(11).ok()
                })
                .unwrap(),
        );
        for request in [Request::append(0, blocks(1, 1)), Request::open(0)] {
            let refused = run(&mut queue, request);
            let error = refused.result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooManyOpenZones, "{error}");
            assert!(error.to_string().contains("mounted with explicit-open"), "{error}");
        }
        assert_eq!(pointer(&drive, 0), 3 * 4096);
        // A reset needs no place, and null_blk one for a finish.
        run(&mut queue, Request::reset(0)).result.unwrap();
        let error = run(&mut queue, Request::finish(2)).result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooManyOpenZones, "{error}");
        assert_eq!((state(&drive, 2), bench.size(2)), (ZoneState::Empty, 0));
        drop(others);
        assert_eq!(append(&mut queue, 0, 9, 1), 0);
        run(&mut queue, Request::reset_all()).result.unwrap();
        drop(queue);
        drive.close().unwrap();
    }
}

#[test]
fn without_explicit_open_no_file_that_another_holds_is_in_the_way() {
    let Some(bench) = Bench::new(REPAIR) else { return };
    let drive = bench.open(EngineChoice::IoUring);
    let limit = drive.limits().max_open_zones.unwrap();
    let _others: Vec<_> = (0..=limit).map(|n| bench.other(8 + n).unwrap()).collect();
    let mut queue = queue(&drive);
    (0..=limit).for_each(|zone| assert_eq!(append(&mut queue, zone, 1, 1), 0));
}

#[test]
fn queues_that_meet_in_zones_take_turns_and_lose_nothing() {
    for options in [REPAIR, EXPLICIT] {
        let Some(bench) = Bench::new(options) else { return };
        let drive = bench.open(EngineChoice::IoUring);
        // One more than may be open, and fewer than may be active: null_blk closes no zone for another then.
        let zones = drive.limits().max_open_zones.unwrap() + 1;
        let work = |first: u8| {
            let mut queue = queue(&drive);
            let mut places = Vec::new();
            for round in 0..4 {
                for byte in first..first + 24 {
                    let zone = (u32::from(byte) + round) % zones;
                    let length = 1 + usize::from(byte) % 3;
                    queue
                        .push(Request::append(zone, blocks(byte, length)).tag(byte.into()))
                        .unwrap();
                }
                queue.submit_and_wait(24).unwrap();
                while let Some(c) = queue.next_completion() {
                    places.push((c.offset, c.result.unwrap() as usize / BLOCK, c.tag as u8));
                }
            }
            places
        };
        let places: Vec<_> = std::thread::scope(|scope| {
            let threads = [1, 101].map(|first| scope.spawn(move || work(first)));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut queue = queue(&drive);
        for (offset, count, byte) in places {
            let read = run(&mut queue, Request::read_at(offset, blocks(0xEE, count)));
            assert!(read.buffer.unwrap().iter().all(|&b| b == byte), "at {offset}");
        }
        (0..zones).for_each(|zone| assert_eq!(bench.size(zone), pointer(&drive, zone)));
    }
}

#[test]
fn what_is_no_drive_of_ones_own_is_refused_with_a_next_step() {
    let Some(bench) = Bench::new(REPAIR) else { return };
    let refused = |path: &Path, kind: ErrorKind, words: &str| {
        let error = zonal::open(&Target::Path(path.into()), &OpenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let read = OpenOptions { read_only: true, ..OpenOptions::default() };
    let target = Target::Path(bench.folder.clone());
    refused(Path::new("/zonefs"), ErrorKind::NotZoned, "where a zonefs is mounted");
    refused(&bench.folder.join("seq"), ErrorKind::NotZoned, "mounted at, /zonefs/test");
    refused(&bench.folder.join("seq/99"), ErrorKind::NotFound, "seq/99");
    let drive = bench.open(EngineChoice::Auto);
    append(&mut queue(&drive), 0, 3, 2);
    refused(&bench.folder, ErrorKind::InUse, "another session");
    let reader = zonal::open(&target, &read).unwrap();
    assert_eq!(self::read(&mut queue(&reader), 0, 3), [3, 3, 0]);
    drop(reader);
    drive.close().unwrap();
    bench.remount("ro");
    refused(&bench.folder, ErrorKind::DeviceReadOnly, "mount -o remount,rw /zonefs/test");
    let reader = zonal::open(&target, &read).unwrap();
    assert_eq!((pointer(&reader, 0), state(&reader, 0)), (8192, ZoneState::Closed));
    assert_eq!(append_error(&mut queue(&reader), 0).kind(), ErrorKind::DeviceReadOnly);
}

/// Those that a request may not be refused for.
fn is_open_to_write(bench: &Bench, path: &Path) -> bool {
    let opened = zonal::open(&Target::Path(path.into()), &OpenOptions::default());
    if let Err(error) = &opened {
        assert_eq!(
            error.kind(),
            ErrorKind::InUse,
            "{} of {}: {error}",
            path.display(),
            bench.device()
        );
    }
    opened.is_ok()
}

#[test]
fn one_zone_s_file_is_a_drive_of_that_zone_and_touches_no_other() {
    for options in [REPAIR, EXPLICIT] {
        let Some(bench) = Bench::new(options) else { return };
        let capacity = {
            let whole = bench.open(EngineChoice::IoUring);
            append(&mut queue(&whole), 2, 8, 1);
            append(&mut queue(&whole), 4, 9, 1);
            let capacity = whole.geometry().zone_capacity;
            whole.close().unwrap();
            capacity
        };
        for &engine in engines() {
            let drive = bench.open_alone(3, engine);
            let geometry = drive.geometry();
            assert_eq!((geometry.size, geometry.zone_capacity), (bench.zone_size(), capacity));
            let part = drive.part_of().unwrap();
            assert_eq!((&part.folder, part.zones.clone()), (&bench.folder, 3..4));
            assert_eq!(part.file, Path::new("seq/3"));
            assert_eq!(drive.report(..).unwrap().len(), 1);
            assert_eq!(append_error(&mut queue(&drive), 1).kind(), ErrorKind::OutOfRange);
            let mut queue = queue(&drive);
            // Many at a time, of any kind, and all of it where it was said to be.
            let mut places = Vec::new();
            for byte in 1..=24_u8 {
                let bytes = blocks(byte, 1 + usize::from(byte) % 3);
                let request = Request::append(0, bytes).tag(byte.into());
                queue.push(request).unwrap();
            }
            queue.submit_and_wait(24).unwrap();
            while let Some(c) = queue.next_completion() {
                places.push((c.offset, c.result.unwrap() as usize / BLOCK, c.tag as u8));
            }
            let end = pointer(&drive, 0);
            run(&mut queue, Request::write_at(end, blocks(77, 1))).result.unwrap();
            run(&mut queue, Request::append_ordered(0, blocks(78, 2))).result.unwrap();
            places.extend([(end, 1, 77), (end + BLOCK as u64, 2, 78)]);
            for &(offset, count, byte) in &places {
                let read = run(&mut queue, Request::read_at(offset, blocks(0xEE, count)));
                assert!(read.buffer.unwrap().iter().all(|&b| b == byte), "at {offset}");
            }
            let end = end + 3 * BLOCK as u64;
            assert_eq!((pointer(&drive, 0), bench.size(3), bench.on_device(3).0), (end, end, end));
            run(&mut queue, Request::flush()).result.unwrap();
            let open = bench.on_device(3).1;
            assert_eq!(open, if options == EXPLICIT { "oe" } else { "oi" });
            run(&mut queue, Request::close(0)).result.unwrap();
            assert_eq!(state(&drive, 0), ZoneState::Closed);
            assert!(options == REPAIR || bench.on_device(3).1 == "cl", "{:?}", bench.on_device(3));
            run(&mut queue, Request::finish(0)).result.unwrap();
            assert_eq!((bench.size(3), bench.on_device(3).1.as_str()), (capacity, "fu"));
            run(&mut queue, Request::reset(0)).result.unwrap();
            assert_eq!((bench.size(3), bench.on_device(3).1.as_str()), (0, "em"));
            append(&mut queue, 0, 5, 1);
            drop(queue);
            drive.close().unwrap();
            // The whole sees it, and its neighbours are as they were.
            let whole = bench.open(engine);
            let mut queue = self::queue(&whole);
            assert_eq!([2, 3, 4].map(|zone| read(&mut queue, zone, 2)), [[8, 0], [5, 0], [9, 0]]);
            run(&mut queue, Request::reset(3)).result.unwrap();
            drop(queue);
            whole.close().unwrap();
        }
    }
}

#[test]
fn files_go_side_by_side_and_the_whole_goes_alone() {
    let Some(bench) = Bench::new(EXPLICIT) else { return };
    let one = bench.open_alone(0, EngineChoice::Auto);
    let other = bench.open_alone(1, EngineChoice::Auto);
    append(&mut queue(&one), 0, 1, 1);
    append(&mut queue(&other), 0, 2, 1);
    for path in [bench.file(0), bench.file(1), bench.folder.clone()] {
        assert!(!is_open_to_write(&bench, &path), "{}", path.display());
    }
    assert!(is_open_to_write(&bench, &bench.file(2)));
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let reader = zonal::open(&Target::Path(bench.file(1)), &options).unwrap();
    assert_eq!(read(&mut queue(&reader), 0, 2), [2, 0]);
    assert_eq!(append_error(&mut queue(&reader), 0).kind(), ErrorKind::DeviceReadOnly);
    one.close().unwrap();
    assert!(is_open_to_write(&bench, &bench.file(0)), "it is free again");
    assert!(!is_open_to_write(&bench, &bench.folder));
    other.close().unwrap();
    let whole = bench.open(EngineChoice::Auto);
    assert!(!is_open_to_write(&bench, &bench.file(5)));
    assert_eq!(read(&mut queue(&whole), 1, 2), [2, 0]);
}

#[test]
fn a_file_whose_zone_dies_is_found_and_what_was_acknowledged_is_flushed() {
    for (attribute, dead, kind) in [
        ("zone_readonly", ZoneState::ReadOnly, ErrorKind::ZoneReadOnly),
        ("zone_offline", ZoneState::Offline, ErrorKind::ZoneOffline),
    ] {
        let Some(bench) = Bench::new(REPAIR).filter(Bench::zones_can_die) else { return };
        let drive = bench.open_alone(6, EngineChoice::IoUring);
        let mut queue = queue(&drive);
        let die = |count| {
            if count == 100 {
                bench.set_condition(6, attribute);
            }
        };
        let load = load(&mut queue, &zone(&drive, 0), 16, die);
        assert_eq!((load.at_fault().0, state(&drive, 0)), (kind, dead), "{:?}", load.at_fault());
        if dead == ZoneState::ReadOnly {
            load.is_all_there(&mut queue);
        }
        // Its own file cannot be synced any more.
        run(&mut queue, Request::flush()).result.unwrap();
        drop(queue);
        drive.close().unwrap();
        bench.set_condition(6, attribute);
    }
}

#[test]
fn a_file_that_gets_no_place_says_so_and_can_be_reset_all_the_same() {
    let Some(bench) = Bench::new(EXPLICIT) else { return };
    let limit = bench.open(EngineChoice::Auto).limits().max_open_zones.unwrap();
    let drive = bench.open_alone(0, EngineChoice::Auto);
    assert_eq!(drive.limits().max_open_zones, None, "the others' zones are not known");
    let mut queue = queue(&drive);
    append(&mut queue, 0, 1, 1);
    run(&mut queue, Request::close(0)).result.unwrap();
    let held = || {
        (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            (bench.files_open_to_write() == 0).then_some(())
        })
    };
    held().expect("the kernel closes it in its own time");
    let others: Vec<_> = (0..limit).map(|n| bench.other(8 + n).unwrap()).collect();
    let error = append_error(&mut queue, 0);
    assert_eq!(error.kind(), ErrorKind::TooManyOpenZones, "{error}");
    run(&mut queue, Request::reset(0)).result.unwrap();
    drop(others);
    assert_eq!(append(&mut queue, 0, 2, 1), 0);
}

#[test]
fn where_threads_cannot_write_they_are_refused_and_read_all_the_same() {
    let Some(bench) = Bench::new(REPAIR) else { return };
    let over_threads = |path: PathBuf, read_only| {
        let options =
            OpenOptions { read_only, engine: EngineChoice::Threads, ..OpenOptions::default() };
        zonal::open(&Target::Path(path), &options)
    };
    append(&mut queue(&bench.open(EngineChoice::IoUring)), 0, 3, 1);
    for path in [bench.folder.clone(), bench.file(0)] {
        let reader = over_threads(path.clone(), true).unwrap();
        assert_eq!(read(&mut queue(&reader), 0, 2), [3, 0]);
        drop(reader);
        let writer = over_threads(path, false);
        if writes_of_threads_are_writes() {
            writer.unwrap();
            continue;
        }
        let error = writer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("choose the io_uring engine"), "{error}");
    }
}
