//! What a real kernel's zoned block device does to a drive behind our back: other programs, zones that
//! die, blocks that are bad, commands that fail. Runs on the devices that variables name (`guest/run`),
//! which it empties: what any device can do on each, the rest on the one that can be made to fail so.
//!
//! * `ZONAL_NULL_BLK`: a null_blk of configfs
//! * `ZONAL_ZNS`: an NVMe drive
//! * `ZONAL_SCSI_DEBUG`: a disk of scsi_debug, by the knobs of its driver (`opts`, `every_nth`) and, since
//!   Linux 6.7, of its own in debugfs

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod blkzone;
mod forbid;
mod null_blk;
mod one_by_one;
mod until_one_fails;

use blkzone::{blkzone, written};
use null_blk::{set_condition, set_null_blk, zones_can_die};
use one_by_one::{BLOCK, append, blocks, read, run};
use std::fs::{self, OpenOptions as Opening};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use until_one_fails::{Load, load};
use zonal::{
    Completion, Device, EngineChoice, ErrorKind, OpenOptions, Queue, QueueOptions, Request, Target,
    ZoneInfo, ZoneKind, ZoneState,
};

const ENGINES: [EngineChoice; 2] = [EngineChoice::IoUring, EngineChoice::Threads];

/// The device, which one test has at a time.
struct Bench {
    path: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// All that `guest/run` has.
const DEVICES: [&str; 3] = ["ZONAL_NULL_BLK", "ZONAL_ZNS", "ZONAL_SCSI_DEBUG"];

impl Bench {
    /// Empty; none, having said so, where there is no device.
    fn new() -> Option<Self> {
        Self::of("ZONAL_NULL_BLK")
    }

    /// That of a variable.
    fn of(variable: &str) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let Some(path) = std::env::var_os(variable).map(PathBuf::from) else {
            println!("SKIP: {variable} names no device; guest/run has one");
            return None;
        };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = Self { path, _turn };
        let drive = bench.open(EngineChoice::Auto);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        run(&mut queue, Request::reset_all()).result.unwrap();
        Some(bench)
    }

    fn open(&self, engine: EngineChoice) -> Device {
        let options = OpenOptions { engine, ..OpenOptions::default() };
        zonal::open(&Target::Path(self.path.clone()), &options).unwrap()
    }

    fn blkzone(&self, command: &str, zone: &ZoneInfo) -> String {
        blkzone(command, &self.path, zone.start)
    }

    /// The write pointer by another program's word, in bytes from the zone's start.
    fn written(&self, zone: &ZoneInfo) -> u64 {
        written(&self.path, zone.start)
    }

    fn set_condition(&self, attribute: &str, zone: &ZoneInfo) {
        set_condition(&self.path, attribute, zone.start);
    }

    fn zones_can_die(&self) -> bool {
        zones_can_die(&self.path)
    }
}

/// The sequential zone of that place among them.
fn zone(drive: &Device, nth: usize) -> ZoneInfo {
    let zones = drive.report(..).unwrap();
    zones.into_iter().filter(|zone| zone.kind == ZoneKind::Sequential).nth(nth).unwrap()
}

fn pointer(drive: &Device, zone: &ZoneInfo) -> u64 {
    drive.report(zone.zone..=zone.zone).unwrap()[0].write_pointer.unwrap() - zone.start
}

#[test]
fn a_zone_that_another_program_resets_is_gone_on_with() {
    for bench in DEVICES.iter().filter_map(|variable| Bench::of(variable)) {
        ENGINES.iter().for_each(|&engine| reset_by_another(&bench, engine));
    }
}

fn reset_by_another(bench: &Bench, engine: EngineChoice) {
    let drive = bench.open(engine);
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    append(&mut queue, &zone, 1, 3);
    bench.blkzone("reset", &zone);
    let Completion { result, buffer, .. } =
        run(&mut queue, Request::append(zone.zone, blocks(2, 1)));
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAtWritePointer);
    let text = error.to_string();
    assert!(text.contains("another program has reset the zone"), "{text}");
    assert!(text.contains(&format!("its write pointer is {}", zone.start)), "{text}");
    assert_eq!(pointer(&drive, &zone), 0);
    assert_eq!(read(&mut queue, zone.start, 3), [0; 3], "nothing of the earlier life");
    let request = Request::append(zone.zone, buffer.unwrap());
    let again = run(&mut queue, request);
    assert_eq!((again.result.unwrap(), again.offset), (BLOCK as u32, zone.start));
    assert_eq!(bench.written(&zone), pointer(&drive, &zone));
    assert_eq!(read(&mut queue, zone.start, 2), [2, 0]);
    run(&mut queue, Request::reset(zone.zone)).result.unwrap();
    drop(queue);
    drive.close().unwrap();
}

/// The same while others are in flight: some of them may have landed before the reset, and are gone
/// with it; what is acknowledged afterwards is there.
#[test]
fn a_zone_that_another_program_resets_under_load_is_gone_on_with() {
    for bench in DEVICES.iter().filter_map(|variable| Bench::of(variable)) {
        for engine in ENGINES {
            let drive = bench.open(engine);
            let zone = zone(&drive, 0);
            let mut queue = drive.queue(&QueueOptions::default()).unwrap();
            let load = load(&mut queue, &zone, 16, |count| {
                if count == 100 {
                    bench.blkzone("reset", &zone);
                }
            });
            let (kind, text) = load.at_fault();
            assert_eq!(*kind, ErrorKind::NotAtWritePointer, "{text}");
            assert!(text.contains("another program has"), "{text}");
            let end = pointer(&drive, &zone);
            assert_eq!(bench.written(&zone), end);
            assert_eq!(append(&mut queue, &zone, 77, 1), zone.start + end);
            assert_eq!(read(&mut queue, zone.start + end, 2), [77, 0]);
            run(&mut queue, Request::reset(zone.zone)).result.unwrap();
            drop(queue);
            drive.close().unwrap();
        }
    }
}

#[test]
fn what_another_program_writes_is_found_and_kept() {
    for bench in DEVICES.iter().filter_map(|variable| Bench::of(variable)) {
        let drive = bench.open(EngineChoice::Auto);
        let zone = zone(&drive, 0);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        append(&mut queue, &zone, 1, 1);
        let other =
            Opening::new().write(true).custom_flags(libc::O_DIRECT).open(&bench.path).unwrap();
        other.write_all_at(&blocks(9, 2), zone.start + BLOCK as u64).unwrap();
        let error = run(&mut queue, Request::append(zone.zone, blocks(2, 1))).result.unwrap_err();
        assert!(error.to_string().contains("another program has written to the zone"), "{error}");
        assert_eq!(pointer(&drive, &zone), 3 * BLOCK as u64);
        assert_eq!(append(&mut queue, &zone, 2, 1), zone.start + 3 * BLOCK as u64);
        assert_eq!(read(&mut queue, zone.start, 5), [1, 9, 9, 2, 0]);
        assert_eq!(bench.written(&zone), pointer(&drive, &zone));
    }
}

#[test]
fn zones_that_die_under_load_are_found_and_nothing_acknowledged_is_lost() {
    let Some(bench) = Bench::new().filter(Bench::zones_can_die) else { return };
    let kinds = [
        ("zone_readonly", ZoneState::ReadOnly, ErrorKind::ZoneReadOnly),
        ("zone_offline", ZoneState::Offline, ErrorKind::ZoneOffline),
    ];
    for engine in ENGINES {
        let drive = bench.open(engine);
        for (nth, (attribute, state, kind)) in kinds.into_iter().enumerate() {
            let zone = zone(&drive, nth);
            let mut queue = drive.queue(&QueueOptions::default()).unwrap();
            let die = |count| {
                if count == 100 {
                    bench.set_condition(attribute, &zone);
                }
            };
            let load = load(&mut queue, &zone, 16, die);
            let (found, text) = load.at_fault();
            assert_eq!(*found, kind, "{text}");
            let now = drive.report(zone.zone..=zone.zone).unwrap()[0];
            assert_eq!(now.state, state);
            let refused = run(&mut queue, Request::append(zone.zone, blocks(1, 1)));
            assert_eq!(refused.result.unwrap_err().kind(), kind);
            if state == ZoneState::ReadOnly {
                load.is_all_there(&mut queue);
            } else {
                let read = run(&mut queue, Request::read_at(zone.start, blocks(0, 1)));
                assert_eq!(read.result.unwrap_err().kind(), kind);
            }
            // The other zones go on.
            append(&mut queue, &self::zone(&drive, 4), 1, 1);
            // Said again, the zone is as new.
            bench.set_condition(attribute, &zone);
            drop(queue);
        }
        drive.close().unwrap();
        let drive = bench.open(engine);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        run(&mut queue, Request::reset_all()).result.unwrap();
    }
}

#[test]
fn a_device_that_is_taken_away_under_load_is_said_to_be_gone() {
    let Some(bench) = Bench::new() else { return };
    for engine in ENGINES {
        let drive = bench.open(engine);
        let (zone, other) = (zone(&drive, 0), zone(&drive, 1));
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let back = PoweredAgain(&bench.path);
        let load = load(&mut queue, &zone, 16, |count| {
            if count == 100 {
                set_null_blk(&bench.path, "power", "0");
            }
        });
        for (kind, text) in &load.errors {
            match kind {
                ErrorKind::BehindFailedWrite => {}
                // That at fault, and those that came after it.
                ErrorKind::Io | ErrorKind::DeviceReadOnly => {
                    assert!(text.contains("taken away") && !text.contains("free some"), "{text}");
                }
                _ => panic!("{kind:?}: {text}"),
            }
        }
        assert!(load.errors.iter().any(|(kind, _)| *kind == ErrorKind::Io), "{:?}", load.errors);
        let refused = run(&mut queue, Request::append(other.zone, blocks(1, 1)));
        let refused = refused.result.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::DeviceReadOnly);
        assert!(refused.to_string().contains("the device was taken away"), "{refused}");
        drop(queue);
        drop(drive);
        drop(back);
    }
}

/// Makes a null_blk anew, whatever comes of the test that took it away.
struct PoweredAgain<'a>(&'a Path);

impl Drop for PoweredAgain<'_> {
    fn drop(&mut self) {
        set_null_blk(self.0, "power", "1");
    }
}

#[test]
fn a_zone_found_read_only_can_be_read_and_one_found_offline_cannot() {
    let Some(bench) = Bench::new().filter(Bench::zones_can_die) else { return };
    let drive = bench.open(EngineChoice::Auto);
    let zones = [zone(&drive, 0), zone(&drive, 1)];
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    zones.iter().for_each(|zone| assert_eq!(append(&mut queue, zone, 7, 2), zone.start));
    drop(queue);
    drive.close().unwrap();
    bench.set_condition("zone_readonly", &zones[0]);
    bench.set_condition("zone_offline", &zones[1]);
    let drive = bench.open(EngineChoice::Auto);
    let found = zones.each_ref().map(|zone| drive.report(zone.zone..=zone.zone).unwrap()[0]);
    assert_eq!(found.map(|zone| zone.state), [ZoneState::ReadOnly, ZoneState::Offline]);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    assert_eq!(read(&mut queue, zones[0].start, 2), [7, 7]);
    let offline = run(&mut queue, Request::read_at(zones[1].start, blocks(0, 1)));
    assert_eq!(offline.result.unwrap_err().kind(), ErrorKind::ZoneOffline);
    bench.set_condition("zone_readonly", &zones[0]);
    bench.set_condition("zone_offline", &zones[1]);
}

#[test]
fn a_bad_block_fails_one_write_and_the_zone_goes_on_where_the_device_says() {
    let Some(bench) = Bench::new() else { return };
    for engine in ENGINES {
        let drive = bench.open(engine);
        let zone = zone(&drive, 0);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let bad = zone.start / 512 + 50 * 8;
        let range = format!("{}-{}", bad, bad + 7);
        set_null_blk(&bench.path, "badblocks", &format!("+{range}"));
        let load = load(&mut queue, &zone, 16, |_| ());
        set_null_blk(&bench.path, "badblocks", &format!("-{range}"));
        let (kind, text) = load.at_fault();
        assert_eq!(*kind, ErrorKind::Io, "{text}");
        assert!(text.contains("bytes of it were written"), "{text}");
        assert!(load.acknowledged.len() >= 50, "{}", load.acknowledged.len());
        goes_on(&bench, &drive, &mut queue, &zone, &load);
        drop(queue);
        drive.close().unwrap();
    }
}

/// After a failure: the write pointer is the device's, the next append lands there, and all that was
/// acknowledged is there. The zone is emptied.
fn goes_on(bench: &Bench, drive: &Device, queue: &mut Queue, zone: &ZoneInfo, load: &Load) {
    assert_eq!(bench.written(zone), pointer(drive, zone));
    let end = zone.start + pointer(drive, zone);
    assert_eq!(append(queue, zone, 77, 1), end);
    assert_eq!(read(queue, end, 2), [77, 0]);
    load.is_all_there(queue);
    run(queue, Request::reset(zone.zone)).result.unwrap();
}

/// The knobs of scsi_debug; what was turned is turned back when this is dropped.
struct Knobs {
    own: Option<PathBuf>,
}

const RECOVERED: u32 = 8;
const TRANSPORT: u32 = 16;
const MEDIUM: u32 = 2;

/// Commands: WRITE(16), and those for zones (ZBC OUT, ZBC IN).
const WRITE_16: &str = "0x8a";
const ZONES_OUT: &str = "0x94";
const ZONES_IN: &str = "0x95";

impl Knobs {
    fn new(bench: &Bench) -> Self {
        let name = bench.path.file_name().unwrap();
        let link = fs::read_link(PathBuf::from("/sys/block").join(name).join("device")).unwrap();
        let own = PathBuf::from("/sys/kernel/debug/scsi_debug").join(link.file_name().unwrap());
        Self { own: Some(own.join("error")).filter(|file| file.exists()) }
    }

    fn driver(&self, knob: &str, value: u32) {
        let folder = PathBuf::from("/sys/bus/pseudo/drivers/scsi_debug");
        fs::write(folder.join(knob), value.to_string()).unwrap();
    }

    /// Every `nth` command ends in this way. Medium errors are of the same few blocks.
    fn every(&self, nth: u32, how: u32) {
        self.driver("every_nth", nth);
        self.driver("opts", how);
    }

    /// The next commands of that kind fail for a medium that cannot be written or read, which the
    /// kernel does not try again. With 0 none does any more.
    fn fail(&self, command: &str, count: u32) {
        let file = self.own.as_ref().unwrap();
        fs::write(file, format!("2 -{count} {command} 0 0 0x2 0x3 0x11 0x0")).unwrap();
    }
}

impl Drop for Knobs {
    fn drop(&mut self) {
        self.every(0, 0);
        if self.own.is_some() {
            [WRITE_16, ZONES_OUT, ZONES_IN].iter().for_each(|command| self.fail(command, 0));
        }
    }
}

/// The disk, and knobs that fail commands by name; none, having said so, where there are none.
fn failing_disk() -> Option<(Bench, Knobs)> {
    let bench = Bench::of("ZONAL_SCSI_DEBUG")?;
    let knobs = Knobs::new(&bench);
    if knobs.own.is_none() {
        println!("SKIP: scsi_debug of this kernel fails no command by name (Linux 6.7 does)");
        return None;
    }
    Some((bench, knobs))
}

/// More commands than writes are in flight: they fail as often as they are sent.
const AGAIN_AND_AGAIN: u32 = 100;

#[test]
fn errors_that_a_disk_recovers_from_are_nobodys() {
    let Some(bench) = Bench::of("ZONAL_SCSI_DEBUG") else { return };
    let knobs = Knobs::new(&bench);
    let drive = bench.open(EngineChoice::Auto);
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    knobs.every(5, RECOVERED);
    let load = some(&mut queue, &zone);
    drop(knobs);
    assert_eq!(drive.metrics().repeated, 0);
    goes_on(&bench, &drive, &mut queue, &zone, &load);
}

/// 64 appends, each of which ends well.
fn some(queue: &mut Queue, zone: &ZoneInfo) -> Load {
    let mut load = Load::default();
    for byte in 0..64 {
        queue.push(Request::append(zone.zone, blocks(byte, 1)).tag(byte.into())).unwrap();
    }
    while queue.in_flight() > 0 {
        queue.submit_and_wait(1).unwrap();
        while let Some(Completion { tag, result, offset, .. }) = queue.next_completion() {
            result.unwrap();
            load.acknowledged.push((offset, tag as u8));
        }
    }
    assert_eq!(load.acknowledged.len(), 64);
    load
}

/// The disk has written, and its answer is lost: the kernel sends the command again, which is refused
/// as it is not at the write pointer any more.
#[test]
fn a_write_whose_answer_was_lost_is_told_and_the_zone_goes_on() {
    let Some(bench) = Bench::of("ZONAL_SCSI_DEBUG") else { return };
    for engine in ENGINES {
        let knobs = Knobs::new(&bench);
        let drive = bench.open(engine);
        let zone = zone(&drive, 0);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let load = load(&mut queue, &zone, 16, |count| {
            if count == 100 {
                knobs.every(7, TRANSPORT);
            }
        });
        drop(knobs);
        let (kind, text) = load.at_fault();
        assert_eq!(*kind, ErrorKind::Io, "{text}");
        assert!(text.contains("bytes of it were written"), "{text}");
        println!("{text}");
        goes_on(&bench, &drive, &mut queue, &zone, &load);
        drop(queue);
        drive.close().unwrap();
    }
}

/// A write that failed and left nothing is sent again where several are in flight, once.
#[test]
fn a_write_that_a_disk_fails_once_is_nobodys_over_a_ring() {
    let Some((bench, knobs)) = failing_disk() else { return };
    let drive = bench.open(EngineChoice::IoUring);
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    knobs.fail(WRITE_16, 1);
    let load = some(&mut queue, &zone);
    assert!(drive.metrics().repeated > 0, "{:?}", drive.metrics());
    goes_on(&bench, &drive, &mut queue, &zone, &load);
}

#[test]
fn writes_that_a_disk_fails_are_told_and_the_zone_goes_on() {
    let Some((bench, knobs)) = failing_disk() else { return };
    for engine in ENGINES {
        let drive = bench.open(engine);
        let zone = zone(&drive, 0);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let load = load(&mut queue, &zone, 16, |count| {
            if count == 100 {
                knobs.fail(WRITE_16, AGAIN_AND_AGAIN);
            }
        });
        knobs.fail(WRITE_16, 0);
        let (kind, text) = load.at_fault();
        assert_eq!(*kind, ErrorKind::Io, "{text}");
        assert!(text.contains("; 0 bytes of it were written"), "{text}");
        goes_on(&bench, &drive, &mut queue, &zone, &load);
        drop(queue);
        drive.close().unwrap();
    }
}

/// What cannot be asked is not guessed: the zone takes nothing more in this session.
#[test]
fn writes_that_fail_with_the_report_cost_the_zone_until_it_is_opened_again() {
    let Some((bench, knobs)) = failing_disk() else { return };
    for engine in ENGINES {
        let drive = bench.open(engine);
        let zone = zone(&drive, 0);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let load = load(&mut queue, &zone, 16, |count| {
            if count == 100 {
                knobs.fail(WRITE_16, AGAIN_AND_AGAIN);
                knobs.fail(ZONES_IN, AGAIN_AND_AGAIN);
            }
        });
        knobs.fail(WRITE_16, 0);
        knobs.fail(ZONES_IN, 0);
        let request = Request::append(zone.zone, blocks(1, 1));
        let refused = run(&mut queue, request).result.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ZoneReadOnly, "{refused}");
        load.is_all_there(&mut queue);
        append(&mut queue, &self::zone(&drive, 1), 1, 1);
        drop(queue);
        drive.close().unwrap();
        let drive = bench.open(engine);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        goes_on(&bench, &drive, &mut queue, &zone, &load);
        drop(queue);
        drive.close().unwrap();
    }
}

#[test]
fn a_reset_that_a_disk_fails_is_told_and_changes_nothing() {
    let Some((bench, knobs)) = failing_disk() else { return };
    let drive = bench.open(EngineChoice::Auto);
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let acknowledged = vec![(append(&mut queue, &zone, 5, 1), 5)];
    let load = Load { acknowledged, ..Load::default() };
    knobs.fail(ZONES_OUT, 1);
    let error = run(&mut queue, Request::reset(zone.zone)).result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("the device refused"), "{error}");
    goes_on(&bench, &drive, &mut queue, &zone, &load);
    // A full zone, and one that was finished above its data.
    for (nth, fills) in [(0, true), (1, false)] {
        let zone = self::zone(&drive, nth);
        let mut load = some(&mut queue, &zone);
        while fills && pointer(&drive, &zone) < drive.geometry().zone_capacity {
            let left = (drive.geometry().zone_capacity - pointer(&drive, &zone)) / BLOCK as u64;
            load.acknowledged.push((append(&mut queue, &zone, 6, left.min(16) as usize), 6));
        }
        run(&mut queue, Request::finish(zone.zone)).result.unwrap();
        let generation = drive.generation(zone.zone);
        knobs.fail(ZONES_OUT, 1);
        run(&mut queue, Request::reset(zone.zone)).result.unwrap_err();
        let state = drive.report(zone.zone..=zone.zone).unwrap()[0].state;
        assert_eq!((state, drive.generation(zone.zone)), (ZoneState::Full, generation));
        load.is_all_there(&mut queue);
        run(&mut queue, Request::reset(zone.zone)).result.unwrap();
    }
}

/// What cannot be asked is not guessed: nothing is lost, and the zone takes nothing more in this session.
#[test]
fn a_reset_that_fails_with_the_report_leaves_a_zone_that_can_be_read() {
    let Some((bench, knobs)) = failing_disk() else { return };
    let drive = bench.open(EngineChoice::Auto);
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let load = some(&mut queue, &zone);
    knobs.fail(ZONES_OUT, 1);
    knobs.fail(ZONES_IN, AGAIN_AND_AGAIN);
    let error = run(&mut queue, Request::reset(zone.zone)).result.unwrap_err();
    assert!(error.to_string().contains("the device refused"), "{error}");
    knobs.fail(ZONES_IN, 0);
    load.is_all_there(&mut queue);
    let refused = run(&mut queue, Request::append(zone.zone, blocks(1, 1))).result.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ZoneReadOnly, "{refused}");
    drop(queue);
    drive.close().unwrap();
    let drive = bench.open(EngineChoice::Auto);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    goes_on(&bench, &drive, &mut queue, &zone, &load);
}

#[test]
fn blocks_that_cannot_be_read_cost_a_read_and_no_write() {
    /// The fourth block that scsi_debug has for bad, by its defaults.
    const BAD: u64 = (0x1234 + 3) * BLOCK as u64;
    let Some(bench) = Bench::of("ZONAL_SCSI_DEBUG") else { return };
    let knobs = Knobs::new(&bench);
    let drive = bench.open(EngineChoice::Auto);
    let zones = drive.report(..).unwrap();
    let zone = *zones.iter().rfind(|zone| zone.start <= BAD).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let mut load = Load::default();
    while pointer(&drive, &zone) < BAD - zone.start + BLOCK as u64 {
        load.acknowledged.push((append(&mut queue, &zone, 3, 16), 3));
    }
    knobs.every(0, MEDIUM);
    let read = run(&mut queue, Request::read_at(BAD, blocks(0, 1))).result.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Io, "{read}");
    load.acknowledged.push((append(&mut queue, &zone, 4, 1), 4));
    drop(knobs);
    assert_eq!(self::read(&mut queue, BAD, 1), [3]);
    goes_on(&bench, &drive, &mut queue, &zone, &load);
}

/// As when writes reach the device out of order: one fails without a trace, and with it all behind it.
/// Takes a device that fails a bad block once (`badblocks_once`, since Linux 6.14).
#[test]
fn writes_that_left_no_trace_are_sent_again_and_nobody_hears_of_it() {
    let Some(bench) = Bench::of("ZONAL_NULL_BLK_ONCE") else { return };
    let drive = bench.open(EngineChoice::IoUring);
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let bad = zone.start / 512 + 20 * 8;
    set_null_blk(&bench.path, "badblocks", &format!("+{bad}-{}", bad + 7));
    let load = some(&mut queue, &zone);
    load.is_all_there(&mut queue);
    assert!(drive.metrics().repeated > 0, "{:?}", drive.metrics());
    assert_eq!((bench.written(&zone), pointer(&drive, &zone)), (64 * 4096, 64 * 4096));
}

#[test]
fn queues_that_meet_in_a_zone_take_turns_and_lose_nothing() {
    let Some(bench) = Bench::new() else { return };
    for engine in ENGINES {
        let drive = bench.open(engine);
        let zone = zone(&drive, 0);
        let work = |first: u8| {
            let mut queue = drive.queue(&QueueOptions::default()).unwrap();
            let mut places = Vec::new();
            for round in 0..2 {
                for byte in first..first + 24 {
                    let length = 1 + usize::from(byte) % 3;
                    let request = match (byte + round) % 5 {
                        // Over the append limit: alone, and in order.
                        0 => Request::append_ordered(zone.zone, blocks(byte, 40)),
                        _ => Request::append(zone.zone, blocks(byte, length)),
                    };
                    queue.push(request.tag(byte.into())).unwrap();
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
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        for (offset, count, byte) in places {
            assert_eq!(read(&mut queue, offset, count), vec![byte; count], "at {offset}");
        }
        assert_eq!(bench.written(&zone), pointer(&drive, &zone));
        run(&mut queue, Request::reset(zone.zone)).result.unwrap();
        drop(queue);
        drive.close().unwrap();
    }
}

#[test]
fn a_device_that_somebody_holds_is_refused_by_name_and_can_be_read() {
    for bench in DEVICES.iter().filter_map(|variable| Bench::of(variable)) {
        held_by_somebody(&bench);
    }
}

fn held_by_somebody(bench: &Bench) {
    let hold = || Opening::new().read(true).custom_flags(libc::O_EXCL).open(&bench.path);
    // The kernel lets go of the ring that has just been used in its own time.
    let held = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        hold().ok()
    });
    assert!(held.is_some());
    let target = Target::Path(bench.path.clone());
    let error = zonal::open(&target, &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("another program has it open"), "{error}");
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    zonal::open(&target, &options).unwrap();
    drop(held);
    bench.open(EngineChoice::Auto).close().unwrap();
}

/// A queue's ring fails with a write in the device's zone, which another queue waits for.
fn lose_a_ring(bench: &Bench) {
    let drive = bench.open(EngineChoice::IoUring);
    let first = zone(&drive, 0);
    let mut other = drive.queue(&QueueOptions::default()).unwrap();
    append(&mut other, &first, 1, 1);
    let (failed, has_failed) = channel();
    let (drop_it, is_to_drop) = channel();
    std::thread::scope(|scope| {
        let (drive, number) = (&drive, first.zone);
        scope.spawn(move || {
            let mut queue = drive.queue(&QueueOptions::default()).unwrap();
            forbid::fail_rings(libc::EIO).unwrap();
            queue.push(Request::append(number, blocks(2, 2))).unwrap();
            queue.submit().unwrap_err();
            failed.send(()).unwrap();
            is_to_drop.recv().unwrap();
        });
        has_failed.recv().unwrap();
        other.push(Request::append(number, blocks(3, 1))).unwrap();
        assert_eq!(other.submit().unwrap(), 0, "it waits for the zone");
        drop_it.send(()).unwrap();
    });
    let until = Instant::now() + Duration::from_secs(30);
    while other.submit().unwrap() == 0 {
        assert!(Instant::now() < until, "it is woken by nobody");
        std::thread::sleep(Duration::from_millis(1));
    }
    let refused = other.next_completion().unwrap().result.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DeviceReadOnly, "{refused}");
    assert_eq!(zone(&drive, 0).state, ZoneState::ReadOnly);
    assert_eq!(read(&mut other, first.start, 2), [1, 0], "what was acknowledged, and no more");
}

#[test]
fn a_ring_that_fails_leaves_nobody_waiting_for_its_zone() {
    const CHILD: &str = "ZONAL_TEST_LOSE_A_RING";
    let Some(bench) = Bench::new() else { return };
    if std::env::var_os(CHILD).is_some() {
        return lose_a_ring(&bench);
    }
    // Whoever has lost a ring has the device as long as the process lives.
    let test = "a_ring_that_fails_leaves_nobody_waiting_for_its_zone";
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program);
    child.args([test, "--exact", "--nocapture"]).env(CHILD, "1");
    assert!(child.status().unwrap().success());
    let drive = bench.open(EngineChoice::IoUring);
    let first = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    assert_eq!(append(&mut queue, &first, 4, 1), first.start + BLOCK as u64);
}
