//! What a real kernel's zoned block device does to a drive behind our back: other programs, zones that
//! die, blocks that are bad. Runs on the device that `ZONAL_NULL_BLK` names, a null_blk of configfs
//! (`guest/run`), which it empties.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use std::fs::{self, OpenOptions as Opening};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zonal::{
    Buffer, Completion, Device, EngineChoice, ErrorKind, OpenOptions, Queue, QueueOptions, Request,
    Target, ZoneInfo, ZoneKind, ZoneState,
};

const BLOCK: usize = 4096;
const ENGINES: [EngineChoice; 2] = [EngineChoice::IoUring, EngineChoice::Threads];

/// The device, which one test has at a time.
struct Bench {
    path: PathBuf,
    configfs: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

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
        let configfs = PathBuf::from("/sys/kernel/config/nullb").join(path.file_name().unwrap());
        let bench = Self { path, configfs, _turn };
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
        let start = (zone.start / 512).to_string();
        let ran = Command::new("blkzone")
            .args([command, "-o", &start, "-c", "1"])
            .args((command != "report").then_some("-f"))
            .arg(&self.path)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// The write pointer by another program's word, in bytes from the zone's start.
    fn written(&self, zone: &ZoneInfo) -> u64 {
        let line = self.blkzone("report", zone);
        let words = line.split_once("wptr 0x").unwrap().1;
        u64::from_str_radix(words.split(' ').next().unwrap(), 16).unwrap() * 512
    }

    fn set(&self, attribute: &str, value: &str) {
        fs::write(self.configfs.join(attribute), value).unwrap();
    }
}

fn blocks(byte: u8, count: usize) -> Buffer {
    Buffer::from_slice(&vec![byte; count * BLOCK])
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

fn append(queue: &mut Queue, zone: &ZoneInfo, byte: u8, count: usize) -> u64 {
    let completion = run(queue, Request::append(zone.zone, blocks(byte, count)));
    completion.result.unwrap();
    completion.offset
}

fn read(queue: &mut Queue, offset: u64, count: usize) -> Vec<u8> {
    let completion = run(queue, Request::read_at(offset, blocks(0xEE, count)));
    completion.result.unwrap();
    completion.buffer.unwrap().chunks(BLOCK).map(|block| block[0]).collect()
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
    let Some(bench) = Bench::new() else { return };
    for engine in ENGINES {
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
}

#[test]
fn what_another_program_writes_is_found_and_kept() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open(EngineChoice::Auto);
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    append(&mut queue, &zone, 1, 1);
    let other = Opening::new().write(true).custom_flags(libc::O_DIRECT).open(&bench.path).unwrap();
    other.write_all_at(&blocks(9, 2), zone.start + BLOCK as u64).unwrap();
    let error = run(&mut queue, Request::append(zone.zone, blocks(2, 1))).result.unwrap_err();
    assert!(error.to_string().contains("another program has written to the zone"), "{error}");
    assert_eq!(pointer(&drive, &zone), 3 * BLOCK as u64);
    assert_eq!(append(&mut queue, &zone, 2, 1), zone.start + 3 * BLOCK as u64);
    assert_eq!(read(&mut queue, zone.start, 5), [1, 9, 9, 2, 0]);
    assert_eq!(bench.written(&zone), pointer(&drive, &zone));
}

/// Appends until one fails; what was acknowledged (offset, byte) and the errors' kinds.
fn load(queue: &mut Queue, zone: &ZoneInfo, depth: u8, at: impl Fn(usize)) -> Load {
    let mut load = Load::default();
    for byte in 0..depth {
        queue.push(Request::append(zone.zone, blocks(byte, 1)).tag(byte.into())).unwrap();
    }
    while queue.in_flight() > 0 {
        queue.submit_and_wait(1).unwrap();
        while let Some(Completion { tag, result, offset, .. }) = queue.next_completion() {
            match result {
                Ok(_) => {
                    load.acknowledged.push((offset, tag as u8));
                    at(load.acknowledged.len());
                    if load.errors.is_empty() {
                        let request = Request::append(zone.zone, blocks(tag as u8, 1));
                        queue.push(request.tag(tag)).unwrap();
                    }
                }
                Err(error) => load.errors.push((error.kind(), error.to_string())),
            }
        }
    }
    load.acknowledged.sort_unstable();
    load
}

#[derive(Debug, Default)]
struct Load {
    acknowledged: Vec<(u64, u8)>,
    errors: Vec<(ErrorKind, String)>,
}

impl Load {
    /// What the writes at fault say: all of one kind (some came after the zone had settled), and the
    /// others that failed lay behind one.
    fn at_fault(&self) -> &(ErrorKind, String) {
        let behind = |(kind, _): &&(ErrorKind, String)| *kind == ErrorKind::BehindFailedWrite;
        let mut at_fault = self.errors.iter().filter(|error| !behind(error));
        let first = at_fault.next().unwrap();
        assert!(at_fault.all(|(kind, _)| *kind == first.0), "{:#?}", self.errors);
        first
    }

    fn is_all_there(&self, queue: &mut Queue) {
        for &(offset, byte) in &self.acknowledged {
            assert_eq!(read(queue, offset, 1), [byte], "at {offset}");
        }
    }
}

#[test]
fn zones_that_die_under_load_are_found_and_nothing_acknowledged_is_lost() {
    let Some(bench) = Bench::new() else { return };
    let kinds = [
        ("zone_readonly", ZoneState::ReadOnly, ErrorKind::ZoneReadOnly),
        ("zone_offline", ZoneState::Offline, ErrorKind::ZoneOffline),
    ];
    for engine in ENGINES {
        let drive = bench.open(engine);
        for (nth, (attribute, state, kind)) in kinds.into_iter().enumerate() {
            let zone = zone(&drive, nth);
            let mut queue = drive.queue(&QueueOptions::default()).unwrap();
            let sector = (zone.start / 512).to_string();
            let die = |count| {
                if count == 100 {
                    bench.set(attribute, &sector)
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
            bench.set(attribute, &sector);
            drop(queue);
        }
        drive.close().unwrap();
        let drive = bench.open(engine);
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        run(&mut queue, Request::reset_all()).result.unwrap();
    }
}

#[test]
fn a_zone_found_read_only_can_be_read_and_one_found_offline_cannot() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open(EngineChoice::Auto);
    let zones = [zone(&drive, 0), zone(&drive, 1)];
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    zones.iter().for_each(|zone| assert_eq!(append(&mut queue, zone, 7, 2), zone.start));
    drop(queue);
    drive.close().unwrap();
    let sectors = zones.each_ref().map(|zone| (zone.start / 512).to_string());
    bench.set("zone_readonly", &sectors[0]);
    bench.set("zone_offline", &sectors[1]);
    let drive = bench.open(EngineChoice::Auto);
    let found = zones.each_ref().map(|zone| drive.report(zone.zone..=zone.zone).unwrap()[0]);
    assert_eq!(found.map(|zone| zone.state), [ZoneState::ReadOnly, ZoneState::Offline]);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    assert_eq!(read(&mut queue, zones[0].start, 2), [7, 7]);
    let offline = run(&mut queue, Request::read_at(zones[1].start, blocks(0, 1)));
    assert_eq!(offline.result.unwrap_err().kind(), ErrorKind::ZoneOffline);
    bench.set("zone_readonly", &sectors[0]);
    bench.set("zone_offline", &sectors[1]);
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
        bench.set("badblocks", &format!("+{range}"));
        let load = load(&mut queue, &zone, 16, |_| ());
        bench.set("badblocks", &format!("-{range}"));
        let (kind, text) = load.at_fault();
        assert_eq!(*kind, ErrorKind::Io, "{text}");
        assert!(text.contains("bytes of it were written"), "{text}");
        assert!(load.acknowledged.len() >= 50, "{}", load.acknowledged.len());
        assert_eq!(bench.written(&zone), pointer(&drive, &zone));
        let end = zone.start + pointer(&drive, &zone);
        assert_eq!(append(&mut queue, &zone, 77, 1), end);
        assert_eq!(read(&mut queue, end, 2), [77, 0]);
        load.is_all_there(&mut queue);
        run(&mut queue, Request::reset(zone.zone)).result.unwrap();
        drop(queue);
        drive.close().unwrap();
    }
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
    bench.set("badblocks", &format!("+{bad}-{}", bad + 7));
    for byte in 0..64 {
        queue.push(Request::append(zone.zone, blocks(byte, 1)).tag(byte.into())).unwrap();
    }
    queue.submit_and_wait(64).unwrap();
    let mut load = Load::default();
    while let Some(Completion { tag, result, offset, .. }) = queue.next_completion() {
        result.unwrap();
        load.acknowledged.push((offset, tag as u8));
    }
    assert_eq!(load.acknowledged.len(), 64);
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
    let Some(bench) = Bench::new() else { return };
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
