//! Adopting and allocating under power cuts and failures, on the simulated disk.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "foreign/plain.rs"]
mod plain;

use plain::plain;
use zonal::sim::{FaultPlan, Outcome, SimDisk, SimImage, SimMode};
use zonal::{
    AdoptOptions, CheckOptions, Device, ErrorKind, OpenOptions, QueueOptions, Request, Severity,
    ZoneState,
};

const ZONE: u64 = 256 << 10;
const SIZE: u64 = 4 * ZONE;

/// Numbers that follow from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

fn options() -> AdoptOptions<'static> {
    AdoptOptions { zone_size: Some(ZONE), ..AdoptOptions::default() }
}

/// Clusters of a drive, out of order: zone 0 has data, zone 3 a cluster of zeros.
fn data(bits: u32) -> Vec<(u64, u8)> {
    vec![((ZONE >> bits) - 1, 3), (1, 7), (0, 9), (((3 * ZONE) >> bits) + 1, 0)]
}

fn quiet() -> SimMode {
    SimMode::Auto { seed: 1, faults: FaultPlan::default() }
}

fn adopted(bits: u32) -> SimImage {
    let disk = SimDisk::new(&plain(bits, SIZE, &data(bits)), quiet());
    assert_eq!(zonal::sim::adopt(&disk, options()).unwrap().full_zones, 1);
    disk.image()
}

fn open(disk: &SimDisk) -> Device {
    zonal::sim::open(disk, &OpenOptions::default()).unwrap()
}

/// Nothing is wrong with an image but space that was lost, if that is allowed.
fn is_sound(image: &SimImage, leaks: bool) {
    let disk = SimDisk::new(image, quiet());
    let report = zonal::sim::check(&disk, &CheckOptions { deep: true }).unwrap();
    for finding in report.findings {
        let leak = finding.severity == Severity::Warning && finding.text.contains("not used");
        assert!(leaks && leak, "{finding}");
    }
}

fn read(drive: &Device, offset: u64, length: usize) -> Vec<u8> {
    let options = QueueOptions { depth: 1, buffer_bytes: length, ..QueueOptions::default() };
    let mut queue = drive.queue(&options).unwrap();
    let into = queue.buffer(length).unwrap();
    queue.push(Request::read_at(offset, into)).unwrap();
    queue.submit_and_wait(1).unwrap();
    let done = queue.next_completion().unwrap();
    done.result.unwrap();
    done.buffer.unwrap().to_vec()
}

fn holds_what_was_there(drive: &Device, bits: u32) {
    let mut expected = vec![0; SIZE as usize];
    for (guest, byte) in data(bits) {
        expected[(guest << bits) as usize..][..1 << bits].fill(byte);
    }
    assert!(read(drive, 0, ZONE as usize) == expected[..ZONE as usize]);
}

#[test]
fn an_image_whose_adoption_was_cut_off_is_what_it_was_or_adopted() {
    let mut random = Random(11);
    let (mut before, mut after) = (0, 0);
    for round in 0..200 {
        let bits = [9, 12, 16][round % 3];
        let image = plain(bits, SIZE, &data(bits));
        // A sync that fails stops the adoption where it is; what it wrote is on the disk or not.
        let fail_sync = (round / 3 % 2) as u64;
        let faults = FaultPlan { fail_sync: Some(fail_sync), ..FaultPlan::default() };
        let disk = SimDisk::new(&image, SimMode::Auto { seed: round as u64, faults });
        zonal::sim::adopt(&disk, options()).unwrap_err();
        let left = disk.cut(&mut |options| random.below(options));
        let disk = SimDisk::new(&left, quiet());
        match zonal::sim::open(&disk, &OpenOptions::default()) {
            Ok(drive) => {
                after += 1;
                holds_what_was_there(&drive, bits);
                drive.close().unwrap();
            }
            Err(error) => {
                before += 1;
                assert_eq!(error.kind(), ErrorKind::NotZoned, "{error}");
                // Before the header was written, what was added is taken away; after it, nobody
                // knows that it is not there.
                assert!(fail_sync == 1 || left.len() == image.len());
                zonal::sim::adopt(&disk, options()).unwrap();
                holds_what_was_there(&open(&disk), bits);
            }
        }
        is_sound(&disk.image(), false);
    }
    assert!(before > 0 && after > 0, "{before} {after}");
}

/// Writes the first record of zones 1 to 3, letting `steps` requests end, in random order, before the
/// power goes. Returns what is left.
fn cut_while_zones_leave_empty(image: &SimImage, steps: usize, random: &mut Random) -> SimImage {
    let disk = SimDisk::new(image, SimMode::Manual);
    let drive = open(&disk);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for zone in 1..4 {
        let mut record = queue.buffer(8192).unwrap();
        record.fill(0x50 + zone as u8);
        queue.push(Request::append(zone, record)).unwrap();
    }
    let mut last = 0;
    for step in 0.. {
        queue.submit().unwrap();
        let pending = disk.pending();
        if step == steps || (pending.is_empty() && queue.submit().unwrap() == 3) {
            break;
        }
        if pending.is_empty() {
            last += 1;
            assert!(last < 100, "nothing moves");
            continue;
        }
        disk.complete(pending[random.below(pending.len())].id, Outcome::Ok);
    }
    let left = disk.cut(&mut |options| random.below(options));
    drop(queue);
    left
}

#[test]
fn a_cut_while_zones_get_their_clusters_loses_space_at_most_and_that_only_until_the_next_time() {
    let mut random = Random(5);
    for bits in [9, 12, 14] {
        let image = adopted(bits);
        is_sound(&image, false);
        for round in 0..150 {
            let mut left = image.clone();
            for _ in 0..3 {
                left = cut_while_zones_leave_empty(&left, round / 4 % 40, &mut random);
                is_sound(&left, true);
            }
            // Whatever was lost is found again: there is room for every zone.
            let disk = SimDisk::new(&left, quiet());
            let drive = open(&disk);
            holds_what_was_there(&drive, bits);
            for zone in 1..4 {
                fill(&drive, zone);
            }
            drive.close().unwrap();
            is_sound(&disk.image(), true);
        }
    }
}

fn fill(drive: &Device, zone: u32) {
    let options = QueueOptions { depth: 1, buffer_bytes: ZONE as usize, ..Default::default() };
    let mut queue = drive.queue(&options).unwrap();
    for request in [Request::reset(zone), {
        let mut data = queue.buffer(ZONE as usize).unwrap();
        data.fill(zone as u8);
        Request::append_ordered(zone, data)
    }] {
        queue.push(request).unwrap();
        queue.submit_and_wait(1).unwrap();
        queue.next_completion().unwrap().result.unwrap();
    }
    drop(queue);
    assert!(read(drive, u64::from(zone) * ZONE, ZONE as usize).iter().all(|&b| b == zone as u8));
}

#[test]
fn a_write_whose_zone_gets_no_clusters_is_refused_and_the_next_one_tries_again() {
    let image = adopted(12);
    let disk = SimDisk::new(&image, SimMode::Manual);
    let drive = open(&disk);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for (fails, kind) in [
        (Some(libc::ENOSPC), ErrorKind::NoSpace),
        (Some(libc::EIO), ErrorKind::Io),
        (None, ErrorKind::Io),
    ] {
        let record = queue.buffer(4096).unwrap();
        queue.push(Request::append(2, record)).unwrap();
        let mut failed = 0;
        while queue.submit().unwrap() == 0 {
            for io in disk.pending() {
                let write = io.kind == zonal::sim::IoKind::WriteDurable;
                let outcome = match fails {
                    // The counts are there; the entries fail.
                    Some(errno) if write && failed == 1 => Outcome::Fail(errno),
                    _ => Outcome::Ok,
                };
                failed += usize::from(write);
                disk.complete(io.id, outcome);
            }
        }
        let done = queue.next_completion().unwrap();
        match fails {
            None => assert_eq!((done.result.unwrap(), done.offset), (4096, 2 * ZONE)),
            Some(_) => {
                let error = done.result.unwrap_err();
                assert_eq!(error.kind(), kind, "{error}");
                assert!(error.to_string().contains("clusters cannot be allocated"), "{error}");
                assert_eq!(error.context().zone, Some(2));
                let zone = drive.report(2..3).unwrap()[0];
                assert_eq!((zone.state, zone.write_pointer), (ZoneState::Empty, Some(2 * ZONE)));
            }
        }
    }
    drop(queue);
}

#[test]
fn a_write_over_clusters_apart_lands_whole_or_not_at_all() {
    // Every second cluster of zone 1 was there, so what is given to it lies between.
    let bits = 12;
    let there: Vec<_> = (0..32).map(|n| ((ZONE >> bits) + 2 * n, 0)).collect();
    let disk = SimDisk::new(&plain(bits, SIZE, &there), quiet());
    zonal::sim::adopt(&disk, options()).unwrap();
    let disk = SimDisk::new(&disk.image(), SimMode::Manual);
    let drive = open(&disk);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let mut write = |fail: Option<usize>| {
        let mut record = queue.buffer(5 * 4096).unwrap();
        record.fill(0x77);
        queue.push(Request::append(1, record)).unwrap();
        let mut pieces = 0;
        while queue.submit().unwrap() == 0 {
            for io in disk.pending() {
                let data = io.kind == zonal::sim::IoKind::Write;
                let failing = data && fail == Some(pieces);
                pieces += usize::from(data);
                let outcome = if failing { Outcome::Fail(libc::EIO) } else { Outcome::Ok };
                disk.complete(io.id, outcome);
            }
        }
        (queue.next_completion().unwrap(), pieces)
    };
    let (done, pieces) = write(None);
    assert_eq!((done.result.unwrap(), pieces), (5 * 4096, 5), "a piece a cluster");
    let (done, _) = write(Some(2));
    assert_eq!(done.result.unwrap_err().kind(), ErrorKind::Io);
    let zone = drive.report(1..2).unwrap()[0];
    assert_eq!(zone.write_pointer, Some(ZONE + 5 * 4096), "nothing of the record counts");
    assert_eq!(drive.metrics().short, 0, "pieces are not short transfers");
    let (done, _) = write(None);
    assert_eq!((done.result.unwrap(), done.offset), (5 * 4096, ZONE + 5 * 4096));
    drop(queue);
}

fn append(drive: &Device, zone: u32, bytes: &[u8]) {
    let mut queue = drive.queue(&QueueOptions { depth: 1, ..QueueOptions::default() }).unwrap();
    queue.push(Request::append(zone, zonal::Buffer::from_slice(bytes))).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result.unwrap();
}

#[test]
fn what_has_no_cluster_below_a_write_pointer_reads_zeros_when_it_gets_one() {
    const WRITTEN: usize = 128 << 10;
    let disk = SimDisk::new(&adopted(16), quiet());
    let drive = open(&disk);
    (1..4).for_each(|zone| append(&drive, zone, &[7; WRITTEN]));
    drive.close().unwrap();
    // Written zones without clusters, and no extension of ours: so a QEMU with zones leaves them
    // where zeros were written.
    let mut image = disk.image();
    let number_at = |image: &SimImage, offset| {
        let mut bytes = [0; 8];
        image.read(offset, &mut bytes);
        u64::from_be_bytes(bytes)
    };
    let l2 = number_at(&image, number_at(&image, 40)) & !(1 << 63);
    let zone = (ZONE >> 16) * 8;
    image.write(l2 + zone, &vec![0; 3 * zone as usize]);
    let mut header = [0; 512];
    image.read(0, &mut header);
    let ours = header.windows(4).position(|bytes| bytes == b"zonl").unwrap();
    image.write(ours as u64, &vec![0; 512 - ours]);

    let disk = SimDisk::new(&image, quiet());
    zonal::sim::adopt(&disk, AdoptOptions::default()).unwrap();
    let drive = open(&disk);
    // The first clusters that are free are the tables before.
    for zone in 1..4 {
        assert_eq!(drive.report(zone..=zone).unwrap()[0].state, ZoneState::Closed);
        append(&drive, zone, &[9; 4096]);
        let start = u64::from(zone) * ZONE;
        assert!(read(&drive, start, WRITTEN).iter().all(|&byte| byte == 0), "zone {zone}");
        assert!(read(&drive, start + WRITTEN as u64, 4096).iter().all(|&byte| byte == 9));
    }
    drive.close().unwrap();
    is_sound(&disk.image(), false);
}
