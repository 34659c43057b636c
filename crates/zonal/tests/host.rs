//! What histories found, in a few steps each: kills, cuts and failures on a simulated machine.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "foreign/plain.rs"]
mod plain;

use plain::plain;
use zonal::sim::{FaultPlan, IoKind, Outcome, SimDisk, SimHost, SimImage, SimMode};
use zonal::{AdoptOptions, Buffer, Device, Geometry, OpenOptions, Queue, QueueOptions, Request};

const BLOCK: u64 = 512;

fn auto(faults: FaultPlan) -> SimMode {
    SimMode::Auto { seed: 1, faults }
}

fn quiet() -> SimMode {
    auto(FaultPlan::default())
}

fn queue(drive: &Device) -> Queue {
    let options = QueueOptions { buffer_bytes: 0, ..QueueOptions::default() };
    drive.queue(&options).unwrap()
}

fn ask(queue: &mut Queue, request: Request) -> zonal::Result<u32> {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result
}

fn block(byte: u8) -> Buffer {
    Buffer::from_slice(&[byte; 512])
}

/// A machine with an empty drive of two zones of eight blocks.
fn host() -> SimHost {
    let geometry = Geometry {
        zone_size: 8 * BLOCK,
        zone_capacity: 8 * BLOCK,
        block_size: 512,
        max_append: 512,
        ..Geometry::with_size(16 * BLOCK)
    };
    let disk = SimDisk::new(&SimImage::new(0, 512), SimMode::Manual);
    zonal::sim::create(&disk, &geometry).unwrap();
    SimHost::new(&disk.image(), quiet())
}

fn open(host: &SimHost) -> Device {
    host.open(&OpenOptions::default()).unwrap()
}

/// A zone's write pointer in blocks, and its bytes.
fn zone(drive: &Device, number: u32) -> (u64, Vec<u8>) {
    let info = drive.report(number..=number).unwrap()[0];
    let mut queue = queue(drive);
    let into = Buffer::from_slice(&[0xa5; 8 * 512]);
    queue.push(Request::read_at(info.start, into)).unwrap();
    queue.submit_and_wait(1).unwrap();
    let completion = queue.next_completion().unwrap();
    completion.result.unwrap();
    let wp = (info.write_pointer.unwrap() - info.start) / BLOCK;
    (wp, completion.buffer.unwrap().to_vec())
}

/// The process dies in the middle of the flush that follows a reset, and of what is on its way to the
/// disk any part arrives.
#[test]
fn a_reset_outlives_a_kill_in_the_middle_of_its_flush() {
    let mut cases = 0;
    for ended in 0..6 {
        for arrives in 0..8_usize {
            let host = host();
            let drive = open(&host);
            let mut queue = queue(&drive);
            ask(&mut queue, Request::append(0, block(7))).unwrap();
            ask(&mut queue, Request::flush()).unwrap();
            ask(&mut queue, Request::reset(0)).unwrap();
            let disk = host.disk();
            disk.set_mode(SimMode::Manual);
            queue.push(Request::flush()).unwrap();
            for _ in 0..ended {
                queue.submit().unwrap();
                if let Some(io) = disk.pending().first() {
                    disk.complete(io.id, Outcome::Ok);
                }
            }
            queue.submit().unwrap();
            let mut nth = 0;
            host.kill(&mut |_| {
                nth += 1;
                let lands = arrives >> (nth - 1) & 1 == 1;
                (0, if lands { Outcome::Ok } else { Outcome::Fail(libc::EIO) })
            });
            cases += 1;
            drop((queue, drive));
            host.disk().set_mode(quiet());
            let (wp, bytes) = zone(&open(&host), 0);
            let empty = wp == 0 && bytes.iter().all(|&byte| byte == 0);
            assert!(empty, "{ended}, {arrives:#b}: {wp}");
        }
    }
    assert_eq!(cases, 48);
}

/// The process dies while it closes, with the session record in the page cache alone; and the power goes
/// while the next one writes its own. One whole record is always there.
#[test]
fn a_session_record_is_whole_after_a_kill_at_close_and_a_cut_at_open() {
    for (closing, opening, pattern) in
        (1..10).flat_map(|n| (1..24).flat_map(move |m| (0..4).map(move |p| (n, m, p))))
    {
        let host = host();
        let drive = open(&host);
        let mut queue = queue(&drive);
        ask(&mut queue, Request::append(0, block(7))).unwrap();
        ask(&mut queue, Request::flush()).unwrap();
        drop(queue);
        host.disk().stop_after(Some(closing));
        let _ = drive.close();
        host.kill(&mut |_| (0, Outcome::Ok));
        host.disk().stop_after(Some(opening));
        let _ = host.open(&OpenOptions::default());
        let mut sector = 0;
        host.cut(&mut |options| {
            sector += 1;
            if (sector + pattern) % 4 < 2 { 0 } else { options - 1 }
        });
        let (wp, _) = zone(&open(&host), 0);
        assert_eq!(wp, 1, "{closing}, {opening}, {pattern}");
    }
}

/// A close writes its record once, also when that fails; and where the record is in the page cache alone,
/// the next opening makes it durable before it writes the other copy.
#[test]
fn a_session_record_is_whole_after_a_close_whose_sync_failed_and_a_cut_at_open() {
    for (fails, opening, pattern) in
        (0..4).flat_map(|n| (1..24).flat_map(move |m| (0..4).map(move |p| (n, m, p))))
    {
        let host = host();
        let drive = open(&host);
        let mut queue = queue(&drive);
        ask(&mut queue, Request::append(0, block(7))).unwrap();
        ask(&mut queue, Request::close(0)).unwrap();
        ask(&mut queue, Request::flush()).unwrap();
        drop(queue);
        let faults = FaultPlan { fail_sync: Some(fails), ..FaultPlan::default() };
        host.disk().set_mode(auto(faults));
        let closed = drive.close();
        assert_eq!(closed.is_ok(), fails >= 2, "{fails}");
        assert!(closed.is_err() || host.disk().unstable_sectors() == 0, "written after a close");
        host.kill(&mut |_| unreachable!("nothing is pending"));
        host.disk().set_mode(quiet());
        host.disk().stop_after(Some(opening));
        let _ = host.open(&OpenOptions::default());
        let mut sector = 0;
        host.cut(&mut |options| {
            sector += 1;
            if (sector + pattern) % 4 < 2 { 0 } else { options - 1 }
        });
        assert_eq!(zone(&open(&host), 0).0, 1, "{fails}, {opening}, {pattern}");
    }
}

/// A write fails below another, its range cannot be zeroed, and that this is so cannot be noted either.
#[test]
fn a_failed_range_that_could_be_neither_zeroed_nor_noted_is_zeroed_at_the_next_opening() {
    let host = host();
    let drive = open(&host);
    let disk = host.disk();
    let mut queue = queue(&drive);
    disk.set_mode(SimMode::Manual);
    queue.push(Request::append(0, block(9))).unwrap();
    queue.push(Request::append(0, block(7))).unwrap();
    queue.submit().unwrap();
    let [failing, well] = disk.pending()[..] else { panic!("two writes") };
    disk.complete(well.id, Outcome::Ok);
    queue.submit().unwrap();
    disk.complete(failing.id, Outcome::FailAfterPartial(512));
    queue.submit().unwrap();
    while let Some(io) = disk.pending().first() {
        assert!(matches!(io.kind, IoKind::Zero | IoKind::WriteDurable), "{io:?}");
        disk.complete(io.id, Outcome::Fail(libc::EIO));
        queue.submit().unwrap();
    }
    let results = std::iter::from_fn(|| queue.next_completion()).map(|ended| ended.result.is_ok());
    assert_eq!(results.filter(|well| *well).count(), 1);
    host.kill(&mut |_| unreachable!("nothing is pending"));
    drop((queue, drive));
    host.disk().set_mode(quiet());
    let (wp, bytes) = zone(&open(&host), 0);
    assert_eq!((wp, bytes[0], bytes[512]), (2, 0, 7));
}

/// Two zones of one cluster; the first has data, the second no cluster. What is free in the file was
/// a table once.
fn adopted() -> SimHost {
    let zone = 8 * BLOCK;
    let disk = SimDisk::new(&plain(12, 2 * zone, &[(0, 9)]), quiet());
    let options =
        AdoptOptions { zone_size: Some(zone), block_size: Some(512), ..AdoptOptions::default() };
    zonal::sim::adopt(&disk, options).unwrap();
    SimHost::new(&disk.image(), SimMode::Manual)
}

/// A write waits for its zone's clusters, and is given up; behind it the zone is finished.
#[test]
fn a_zone_finished_while_it_is_given_clusters_reads_as_zeros() {
    for ended in 0..12 {
        for fails in [false, true] {
            let host = adopted();
            let (drive, disk) = (open(&host), host.disk());
            let (mut writer, mut finisher) = (queue(&drive), queue(&drive));
            writer.push(Request::append(1, block(7))).unwrap();
            writer.submit().unwrap();
            finisher.push(Request::finish(1)).unwrap();
            finisher.submit().unwrap();
            for _ in 0..ended {
                if let Some(io) = disk.pending().first() {
                    disk.complete(io.id, Outcome::Ok);
                }
                writer.submit().unwrap();
            }
            // What fails may be there in part, as a table entry that is written.
            if fails && let Some(io) = disk.pending().first() {
                let most = usize::try_from(io.len).unwrap();
                disk.complete(io.id, Outcome::FailAfterPartial(most));
            }
            disk.set_mode(quiet());
            drop(writer);
            finisher.submit_and_wait(1).unwrap();
            finisher.next_completion().unwrap().result.unwrap();
            drop(finisher);
            drive.close().unwrap();
            let (wp, bytes) = zone(&open(&host), 1);
            let written = bytes.iter().all(|&byte| byte == 0 || byte == 7);
            assert!(wp == 8 && written, "{ended}, {fails}: {wp}, {:?}", &bytes[..16]);
        }
    }
}

/// After a sync that failed the page cache calls clean what never reached the disk.
#[test]
fn what_a_failed_sync_left_is_made_durable_when_the_image_is_opened_again() {
    for again in [false, true] {
        let host = host();
        let drive = open(&host);
        let mut queue = queue(&drive);
        ask(&mut queue, Request::append(0, block(7))).unwrap();
        host.disk().set_mode(auto(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() }));
        ask(&mut queue, Request::flush()).unwrap_err();
        host.kill(&mut |_| unreachable!("nothing is pending"));
        drop((queue, drive));
        if again {
            // A sync of the opening fails as well.
            host.disk().set_mode(auto(FaultPlan { fail_sync: Some(1), ..FaultPlan::default() }));
            host.open(&OpenOptions::default()).unwrap_err();
        }
        host.disk().set_mode(quiet());
        let drive = open(&host);
        assert_eq!(zone(&drive, 0).0, 1);
        host.cut(&mut |_| 0);
        drop(drive);
        let (wp, bytes) = zone(&open(&host), 0);
        assert_eq!((wp, &bytes[..512]), (1, &[7; 512][..]), "{again}");
    }
}

#[test]
fn the_life_that_a_live_file_tells_of_stays_the_zone_s() {
    let host = host();
    let drive = host.open(&OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for request in [Request::append(0, block(1)), Request::flush(), Request::reset(0)] {
        ask(&mut queue, request).unwrap();
    }
    drop((queue, drive)); // without a close, so that the table has not heard of the reset
    let drive = host.open(&OpenOptions::default()).unwrap();
    assert_eq!(drive.generation(0), Some(1));
    drive.close().unwrap();
    let drive = host.open(&OpenOptions::default()).unwrap();
    assert_eq!(drive.generation(0), Some(1));
    drive.close().unwrap();
}
