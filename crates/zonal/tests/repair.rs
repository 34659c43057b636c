//! Repair: what a check finds is mended, nothing else changes, and a cut in the middle is gone on with.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use zonal::sim::{FaultPlan, SimDisk, SimImage, SimMode};
use zonal::{CheckOptions, Geometry, OpenOptions, QueueOptions, RepairOptions, Request, ZoneState};

const COPIED: u64 = 1 << 63;

fn disk(image: &SimImage) -> SimDisk {
    SimDisk::new(image, SimMode::Auto { seed: 1, faults: FaultPlan::default() })
}

/// A drive with three blocks in zone 1, closed cleanly.
fn sound() -> SimImage {
    let geometry =
        Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(8 << 20) };
    let disk = disk(&SimImage::new(0, 512));
    zonal::sim::create(&disk, &geometry).unwrap();
    let drive = zonal::sim::open(&disk, &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    queue.push(Request::append(1, zonal::Buffer::from_slice(&[7; 3 * 4096]))).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result.unwrap();
    drop(queue);
    drive.close().unwrap();
    disk.image()
}

fn number(image: &SimImage, at: u64) -> u64 {
    let mut bytes = [0; 8];
    image.read(at, &mut bytes);
    u64::from_be_bytes(bytes)
}

/// Every kind of damage: its name, and where which bytes go.
fn damages(image: &SimImage) -> Vec<(&'static str, u64, Vec<u8>)> {
    let mut head = [0; 512];
    image.read(0, &mut head);
    let find = |magic: [u8; 4]| head.windows(4).position(|at| at == magic).unwrap() as u64 + 8;
    let (zoned, ours) = (find([0, 0x7a, 0x62, 0x64]), find(*b"zonl"));
    let (l1, refcount_table) = (number(image, 40), number(image, 48));
    let l2 = number(image, l1) & !COPIED;
    let block = number(image, refcount_table);
    let (zones, sessions) = (number(image, zoned + 24), number(image, ours + 32));
    let whole = |value: u64| value.to_be_bytes().to_vec();
    vec![
        ("a copy of the session record", sessions, vec![9; 100]),
        ("the other copy", sessions + 4096, vec![9; 4096]),
        ("a generation page", number(image, ours + 40), vec![9; 600]),
        ("a leak", block + 2 * 1000, vec![0, 1]),
        ("too low a count", block, vec![0, 0, 0, 0]),
        ("too high a count", block + 2, vec![0, 5]),
        ("no refcount block", refcount_table, whole(0)),
        ("a misplaced refcount block", refcount_table, whole(513)),
        ("a refcount block in a table", refcount_table, whole(l2)),
        ("an L1 entry without its flag", l1, whole(l2)),
        ("an L2 entry without its flag", l2 + 8, whole(number(image, l2 + 8) & !COPIED)),
        ("an L2 entry that cannot be", l2 + 8, whole(0x1fe)),
        ("a write pointer outside its zone", zones + 16, whole(1 << 40)),
        ("a write pointer inside a block", zones + 16, whole((2 << 20) + 5)),
        ("a sequential zone marked conventional", zones + 16, whole(COPIED | 2 << 20)),
        ("the dirty mark", 79, vec![0x21]),
        ("the corrupt mark", 79, vec![0x22]),
    ]
}

fn damaged(image: &SimImage, at: u64, bytes: &[u8]) -> SimImage {
    let mut image = image.clone();
    image.write(at, bytes);
    image
}

fn findings(disk: &SimDisk) -> Vec<String> {
    let report = zonal::sim::check(disk, &CheckOptions { deep: true }).unwrap();
    report.findings.iter().map(ToString::to_string).collect()
}

/// Zone 1 has its three blocks, and no zone but zone 2 is anything else than before.
fn keeps_the_rest(disk: &SimDisk, name: &str) {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let drive = zonal::sim::open(disk, &options).unwrap();
    for zone in drive.report(..).unwrap() {
        let (state, end) = match zone.zone {
            1 => (ZoneState::Closed, zone.start + 3 * 4096),
            2 if name.contains("write pointer") || name.contains("marked") => {
                (ZoneState::ReadOnly, zone.start + zone.capacity)
            }
            _ => (ZoneState::Empty, zone.start),
        };
        assert_eq!((zone.state, zone.write_pointer), (state, Some(end)), "{name}: {zone:?}");
    }
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let into = zonal::Buffer::from_slice(&[0; 3 * 4096]);
    queue.push(Request::read_at(1 << 20, into)).unwrap();
    queue.submit_and_wait(1).unwrap();
    let read = queue.next_completion().unwrap();
    read.result.unwrap();
    assert!(read.buffer.unwrap().iter().all(|&byte| byte == 7), "{name}");
}

fn repair(disk: &SimDisk) -> (zonal::RepairReport, Vec<u8>) {
    let mut kept = Vec::new();
    let report = zonal::sim::repair(disk, &RepairOptions::default(), &mut kept).unwrap();
    (report, kept)
}

/// The image before a repair that kept this.
fn undone(image: &SimImage, kept: &[u8]) -> SimImage {
    let number = |at: usize| u64::from_be_bytes(kept[at..at + 8].try_into().unwrap());
    assert_eq!(&kept[..12], b"zonalrep\0\0\0\x01");
    let (mut image, mut at) = (image.clone(), 44);
    while at < kept.len() {
        let end = at + 16 + number(at + 8) as usize;
        image.write(number(at), &kept[at + 16..end]);
        at = end + 4;
    }
    image.set_len(number(32));
    image
}

#[test]
fn every_damage_is_found_mended_and_gone() {
    let sound = sound();
    assert_eq!(repair(&disk(&sound)).0.mended, []);
    for (name, at, bytes) in damages(&sound) {
        let image = damaged(&sound, at, &bytes);
        let disk = disk(&image);
        assert!(!findings(&disk).is_empty(), "{name}");
        let (report, kept) = repair(&disk);
        assert!(!report.mended.is_empty(), "{name}");
        assert_eq!(findings(&disk), [""; 0], "{name}");
        keeps_the_rest(&disk, name);
        assert_eq!(undone(&disk.image(), &kept), image, "{name}");
        assert_eq!(repair(&disk).0.mended, [], "{name}");
    }
}

#[test]
fn what_cannot_be_known_is_left_as_it_is() {
    let sound = sound();
    let mut lost = sound.clone();
    for (_, at, bytes) in damages(&sound).into_iter().take(2) {
        lost.write(at, &bytes);
    }
    let disk = disk(&lost);
    let (report, kept) = repair(&disk);
    assert!(report.mended.is_empty() && kept.is_empty() && report.left.errors() > 0);
    assert_eq!(disk.image(), lost);
}

#[test]
fn a_cut_at_every_write_is_gone_on_with() {
    let sound = sound();
    for (name, at, bytes) in damages(&sound) {
        let image = damaged(&sound, at, &bytes);
        for fails in 0.. {
            let faults = FaultPlan { fail_write: Some(fails), ..FaultPlan::default() };
            let cut = SimDisk::new(&image, SimMode::Auto { seed: fails, faults });
            let done = zonal::sim::repair(&cut, &RepairOptions::default(), &mut Vec::new());
            let mut turn = fails as usize;
            let left = cut.cut(&mut |options| {
                turn += 1;
                turn % options
            });
            let disk = disk(&left);
            repair(&disk);
            assert_eq!(findings(&disk), [""; 0], "{name}, cut at write {fails}");
            keeps_the_rest(&disk, name);
            if done.is_ok() {
                break;
            }
        }
    }
}
