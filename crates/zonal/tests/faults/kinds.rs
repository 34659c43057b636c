//! One table: what each kind of fault does, on each kind of drive.

use crate::drives::{BLOCK, Drive, KINDS, Kind, ZONE};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use zonal::faults::FaultPlan;
use zonal::{Device, Error, ErrorKind, Flags, Request, ZoneState};

/// A kind of fault, and the check that it is what it says.
type Row = (&'static str, fn(&Kind, &Drive));

const ROWS: [Row; 15] = [
    ("no fault", nothing_goes_wrong),
    ("fail-write", a_write_fails_whole),
    ("tear-write", a_write_fails_after_a_part),
    ("fail-read", a_read_fails),
    ("fail-sync", a_sync_fails),
    ("bad", a_range_is_bad),
    ("bad-read, bad-write", a_range_is_bad_one_way),
    ("read-only, offline", zones_are_unusable_from_the_start),
    ("read-only=Z@N, offline=Z@N", zones_become_unusable),
    ("latency", requests_take_their_time),
    ("short-per-mille", short_transfers_are_gone_on_with),
    ("fail-per-mille", some_fail),
    ("space", the_disk_is_full),
    ("cut", the_power_goes),
    ("kill", the_process_is_gone),
];

fn every(row: usize) {
    let (name, check) = ROWS[row];
    let broken: Vec<_> = KINDS
        .iter()
        .filter(|kind| {
            let Some(drive) = kind.fresh() else { return false };
            let kept = catch_unwind(AssertUnwindSafe(|| check(kind, &drive))).is_ok();
            println!("{name} | {} | {}", kind.name, if kept { "as said" } else { "NOT SO" });
            !kept
        })
        .map(|kind| kind.name)
        .collect();
    assert!(broken.is_empty(), "{name} is not as said on {broken:?}");
}

macro_rules! table {
    ($($test:ident: $row:expr),* $(,)?) => {
        $(#[test] fn $test() { every($row); })*
        #[test]
        fn every_row_has_its_test() {
            assert_eq!([$($row),*], std::array::from_fn::<usize, { ROWS.len() }, _>(|row| row));
        }
    };
}

table! {
    an_empty_plan_changes_nothing: 0,
    fail_write_fails_the_nth_write: 1,
    tear_write_leaves_a_part: 2,
    fail_read_fails_the_nth_read: 3,
    fail_sync_fails_the_nth_sync: 4,
    bad_fails_what_touches_it: 5,
    bad_read_and_bad_write_fail_one_way: 6,
    zones_are_read_only_or_offline_at_open: 7,
    zones_become_read_only_or_offline: 8,
    latency_delays: 9,
    short_transfers_hurt_nobody: 10,
    a_share_of_the_operations_fails: 11,
    space_ends: 12,
    a_cut_ends_everything: 13,
    a_kill_ends_everything: 14,
}

fn plan() -> FaultPlan {
    FaultPlan::new()
}

/// Appends so many blocks to zone 0; where they landed.
fn append(drive: &Device, blocks: usize, byte: u8) -> Result<u64, Error> {
    let landed = drive.append(0, vec![byte; blocks * BLOCK]).wait();
    landed.map(|landed| landed.offset).map_err(|failed| failed.error)
}

fn read(drive: &Device, offset: u64, blocks: usize) -> Result<Vec<u8>, Error> {
    let read = drive.read_at(offset, drive.buffer(blocks * BLOCK)).wait();
    read.map(|read| read.buffer.to_vec()).map_err(|failed| failed.error)
}

/// Holds an error against the kind it has to have, and the word of the plan that made it.
fn injected(error: &Error, kind: ErrorKind, word: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains("by its fault plan") && text.contains(word), "{text}");
}

fn nothing_goes_wrong(_: &Kind, drive: &Drive) {
    let device = drive.under(&plan());
    assert_eq!(device.faults(), Some(&plan()));
    let at = append(&device, 3, 1).unwrap();
    device.flush().wait().unwrap();
    assert_eq!(read(&device, at, 3).unwrap(), [1; 3 * BLOCK]);
    device.close().unwrap();
    assert_eq!(drive.open().faults(), None);
}

fn a_write_fails_whole(_: &Kind, drive: &Drive) {
    let device = drive.under(&plan().fail_write(2).fail_write(3));
    append(&device, 2, 1).unwrap();
    injected(&append(&device, 2, 2).unwrap_err(), ErrorKind::Io, "(fail-write=2)");
    injected(&append(&device, 2, 2).unwrap_err(), ErrorKind::Io, "(fail-write=3)");
    assert_eq!(append(&device, 1, 4).unwrap(), 2 * BLOCK as u64);
    assert_eq!(read(&device, 0, 4).unwrap(), parts(&[(1, 2), (4, 1), (0, 1)]));
    assert_eq!(device.metrics().failed, 2);
    device.close().unwrap();
}

/// So many blocks of each byte.
fn parts(parts: &[(u8, usize)]) -> Vec<u8> {
    parts.iter().flat_map(|&(byte, blocks)| vec![byte; blocks * BLOCK]).collect()
}

fn a_write_fails_after_a_part(kind: &Kind, drive: &Drive) {
    let count = |bytes: &[u8]| bytes.chunks(BLOCK).filter(|block| block == &[7; BLOCK]).count();
    let mut torn = Vec::new();
    for seed in 0..4 {
        let device = drive.under(&plan().tear_write(1).seed(seed));
        let wp = device.report(0..1).unwrap()[0].write_pointer.unwrap();
        let before = count(&drive.bytes());
        injected(&append(&device, 8, 7).unwrap_err(), ErrorKind::Io, "(tear-write=1)");
        torn.push(count(&drive.bytes()) - before);
        // Nobody sees it, and the zone goes on where it was.
        assert_eq!(append(&device, 8, 1).unwrap(), wp);
        assert_eq!(read(&device, wp, 8).unwrap(), [1; 8 * BLOCK]);
        device.close().unwrap();
    }
    if kind.is_image() {
        let found = torn.iter().any(|&blocks| 0 < blocks && blocks < 8);
        assert!(found && torn.iter().all(|&blocks| blocks < 8), "{torn:?}");
    }
}

fn a_read_fails(_: &Kind, drive: &Drive) {
    let device = drive.under(&plan().fail_read(2));
    let at = append(&device, 1, 1).unwrap();
    read(&device, at, 1).unwrap();
    injected(&read(&device, at, 1).unwrap_err(), ErrorKind::Io, "(fail-read=2)");
    assert_eq!(read(&device, at, 1).unwrap(), [1; BLOCK]);
    device.close().unwrap();
}

fn a_sync_fails(_: &Kind, drive: &Drive) {
    let device = drive.under(&plan().fail_sync(2));
    append(&device, 1, 1).unwrap();
    device.flush().wait().unwrap();
    append(&device, 1, 2).unwrap();
    // A failed sync is never tried again: the drive is read-only.
    let error = device.flush().wait().unwrap_err();
    injected(&error, ErrorKind::DeviceReadOnly, "(fail-sync=2)");
    injected(&append(&device, 1, 3).unwrap_err(), ErrorKind::DeviceReadOnly, "(fail-sync=2)");
    assert_eq!(read(&device, 0, 1).unwrap(), [1; BLOCK]);
    assert!(device.close().is_err());
}

fn a_range_is_bad(_: &Kind, drive: &Drive) {
    let bad = 2 * BLOCK as u64..3 * BLOCK as u64;
    let device = drive.under(&plan().bad(bad));
    append(&device, 2, 1).unwrap();
    injected(&append(&device, 2, 2).unwrap_err(), ErrorKind::Io, "(bad=8192..12288)");
    assert_eq!(read(&device, 0, 2).unwrap(), [1; 2 * BLOCK]);
    device.close().unwrap();
}

fn a_range_is_bad_one_way(_: &Kind, drive: &Drive) {
    let (block, blocks) = (BLOCK as u64, BLOCK as u64 * 2);
    let device = drive.under(&plan().bad_reads(0..block).bad_writes(blocks..3 * block));
    append(&device, 2, 1).unwrap();
    injected(&read(&device, 0, 2).unwrap_err(), ErrorKind::Io, "(bad-read=0..4096)");
    assert_eq!(read(&device, block, 1).unwrap(), [1; BLOCK]);
    injected(&append(&device, 1, 2).unwrap_err(), ErrorKind::Io, "(bad-write=8192..12288)");
    device.close().unwrap();
}

/// The second zone, where there is one.
fn other(kind: &Kind) -> u32 {
    u32::from(!kind.is_file())
}

fn zones_are_unusable_from_the_start(kind: &Kind, drive: &Drive) {
    let zone = other(kind);
    let device = drive.under(&plan().read_only(zone, None));
    assert_eq!(device.report(zone..=zone).unwrap()[0].state, ZoneState::ReadOnly);
    let refused = device.append(zone, vec![1; BLOCK]).wait().unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::ZoneReadOnly);
    read(&device, u64::from(zone) * ZONE, 1).unwrap();
    device.close().unwrap();

    let device = drive.under(&plan().offline(zone, None));
    let error = read(&device, u64::from(zone) * ZONE, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ZoneOffline);
    device.close().unwrap();
    // Worn out is worn out, where it can be noted.
    if kind.is_image() {
        assert_eq!(drive.open().report(zone..=zone).unwrap()[0].state, ZoneState::Offline);
    }
    let error = drive.refuses(&plan().read_only(77, None));
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
}

fn zones_become_unusable(_: &Kind, drive: &Drive) {
    for (plan, condition, refusal) in [
        (plan().read_only(0, Some(9)), ZoneState::ReadOnly, ErrorKind::ZoneReadOnly),
        (plan().offline(0, Some(12)), ZoneState::Offline, ErrorKind::ZoneOffline),
    ] {
        let device = drive.under(&plan);
        if device.report(0..1).unwrap()[0].state == ZoneState::ReadOnly {
            return; // An image kept it so.
        }
        let mut queue = device.queue(&zonal::QueueOptions::default()).unwrap();
        let mut accepted = 0;
        let refused = loop {
            for _ in 0..4 {
                queue.push(Request::append(0, vec![1; BLOCK].into())).unwrap();
            }
            // One is enough: the others are in flight while the zone's time comes.
            queue.submit_and_wait(1).unwrap();
            let ended = std::iter::from_fn(|| queue.next_completion());
            let results: Vec<_> = ended.map(|ended| (ended.result, ended.flags)).collect();
            accepted += results.iter().filter(|(result, _)| result.is_ok()).count();
            let mut errors = results.into_iter().filter_map(|(r, flags)| Some((r.err()?, flags)));
            if let Some(refused) = errors.next() {
                break refused;
            }
            assert!(accepted < 100, "it never came");
        };
        assert_eq!(refused.0.kind(), refusal, "{}", refused.0);
        assert!(refused.1.contains(Flags::REFUSED));
        assert!(accepted >= 5, "{accepted}");
        assert_eq!(device.report(0..1).unwrap()[0].state, condition);
        drop(queue);
        device.close().unwrap();
    }
}

fn requests_take_their_time(_: &Kind, drive: &Drive) {
    let ms = Duration::from_millis;
    let plan = plan().latency(ms(10)..ms(20)).read_latency(ms(60)..ms(60)).seed(1);
    let device = drive.under(&plan);
    let timed = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let wrote = timed(&mut || assert_eq!(append(&device, 1, 1).unwrap(), 0));
    let read = timed(&mut || assert_eq!(read(&device, 0, 1).unwrap(), [1; BLOCK]));
    assert!(wrote >= ms(10) && read >= ms(60), "{wrote:?}, {read:?}");
    // What is late is late together.
    let mut queue = device.queue(&zonal::QueueOptions::default()).unwrap();
    let many = timed(&mut || {
        for _ in 0..16 {
            queue.push(Request::read_at(0, vec![0; BLOCK].into())).unwrap();
        }
        assert_eq!(queue.submit().unwrap(), 0);
        assert_eq!(queue.submit_and_wait(16).unwrap(), 16);
    });
    assert!(many >= ms(60) && many < ms(16 * 60), "{many:?}");
    // Who polls is not told to sleep on what has ended and is late.
    queue.push(Request::read_at(0, vec![0; BLOCK].into())).unwrap();
    while queue.submit().unwrap() == 0 {
        if !queue.prepare_to_poll().unwrap() {
            std::thread::sleep(ms(1));
        }
    }
    drop(queue);
    device.close().unwrap();
}

fn short_transfers_are_gone_on_with(_: &Kind, drive: &Drive) {
    let device = drive.under(&plan().short(500).seed(2));
    for byte in 1..9 {
        let at = append(&device, 16, byte).unwrap();
        assert_eq!(read(&device, at, 16).unwrap(), [byte; 16 * BLOCK]);
    }
    assert!(device.metrics().short > 3, "{:?}", device.metrics());
    device.close().unwrap();
}

fn some_fail(_: &Kind, drive: &Drive) {
    let device = drive.under(&plan().fail(200).seed(3));
    let mut failed = 0;
    for n in 0..60 {
        match append(&device, 1, n) {
            Ok(at) => drop(read(&device, at, 1)),
            Err(error) => {
                injected(&error, ErrorKind::Io, "(fail-per-mille=200)");
                failed += 1;
            }
        }
    }
    assert!((2..40).contains(&failed), "{failed}");
    drop(device);
}

fn the_disk_is_full(_: &Kind, drive: &Drive) {
    let device = drive.under(&plan().space(5 * BLOCK as u64));
    append(&device, 3, 1).unwrap();
    injected(&append(&device, 3, 2).unwrap_err(), ErrorKind::NoSpace, "(space=20480)");
    append(&device, 2, 3).unwrap();
    injected(&append(&device, 1, 4).unwrap_err(), ErrorKind::NoSpace, "(space=20480)");
    assert_eq!(read(&device, 0, 5).unwrap(), parts(&[(1, 3), (3, 2)]));
    device.close().unwrap();
}

fn the_power_goes(kind: &Kind, drive: &Drive) {
    let device = drive.under(&plan().cut(20).seed(1));
    let mut acknowledged = 0;
    let error = loop {
        match append(&device, 1, 1) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    injected(&error, ErrorKind::Io, "(cut=20; open the drive again)");
    assert!(acknowledged > 0 && acknowledged <= 20, "{acknowledged}");
    assert!(read(&device, 0, 1).is_err());
    assert!(device.flush().wait().is_err());
    drop(device);
    let device = drive.open();
    assert!(append(&device, 1, 2).is_ok());
    if kind.is_image() {
        // Nothing was flushed.
        assert_eq!(read(&device, 0, 2).unwrap(), parts(&[(2, 1), (0, 1)]));
        let recovered = device.info().recovered.unwrap();
        let said = recovered.contains("the machine went down") || kind.name == "simulated";
        assert!(said, "{recovered}");
    }
    device.close().unwrap();
}

fn the_process_is_gone(kind: &Kind, drive: &Drive) {
    let device = drive.under(&plan().kill(20).seed(1));
    let mut acknowledged = 0;
    let error = loop {
        match append(&device, 1, 1) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    injected(&error, ErrorKind::Io, "(kill=20; open the drive again)");
    assert!(read(&device, 0, 1).is_err());
    drop(device);
    let device = drive.open();
    if kind.is_image() && kind.name != "simulated" {
        // Nothing was flushed, and nothing acknowledged is lost.
        assert_eq!(read(&device, 0, acknowledged).unwrap(), vec![1; acknowledged * BLOCK]);
        let recovered = device.info().recovered.unwrap();
        assert!(recovered.contains("after a kill"), "{recovered}");
    }
    append(&device, 1, 2).unwrap();
    device.close().unwrap();
}
