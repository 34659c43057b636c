//! Drives in images of QEMU's making: adopted, used, killed, and read back by QEMU; and what cannot
//! be adopted, refused by name.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "foreign/mod.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod foreign;

use foreign::{adopted, as_qemu_reads_it, create, qemu, qemu_io, stripped};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zonal::{
    AdoptOptions, CheckOptions, Completion, Device, ErrorKind, OpenOptions, Queue, QueueOptions,
    Request, Target, ZoneState,
};

const ZONE: u64 = 4 << 20;
const CAPACITY: u64 = 3 << 20;
const ZONES: u64 = 8;
const RECORD: usize = 48 << 10;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn zones() -> AdoptOptions<'static> {
    AdoptOptions {
        zone_size: Some(ZONE),
        zone_capacity: Some(CAPACITY),
        conventional_zones: 1,
        ..AdoptOptions::default()
    }
}

fn open(path: &Path) -> Device {
    zonal::open(&Target::Path(path.into()), &OpenOptions::default()).unwrap()
}

fn queue(drive: &Device) -> Queue {
    let options = QueueOptions { buffer_bytes: RECORD, depth: 32, ..QueueOptions::default() };
    drive.queue(&options).unwrap()
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

/// Bytes that name their record and do not repeat.
fn pattern(n: u64, bytes: &mut [u8]) {
    for (at, word) in (0_u64..).zip(bytes.chunks_exact_mut(8)) {
        word.copy_from_slice(&(n << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
}

fn record(queue: &Queue, n: u64) -> zonal::Buffer {
    let mut buffer = queue.buffer(RECORD).unwrap();
    pattern(n, &mut buffer);
    buffer
}

fn read(queue: &mut Queue, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let into = queue.buffer(RECORD.min(length - bytes.len())).unwrap();
        let done = run(queue, Request::read_at(offset + bytes.len() as u64, into));
        done.result.unwrap();
        bytes.extend_from_slice(&done.buffer.unwrap());
    }
    bytes
}

fn is_sound(path: &Path) {
    let report = zonal::check(path, &CheckOptions { deep: true }).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// Appends to all sequential zones in turn, many at a time, until each is nearly half full.
fn append_everywhere(queue: &mut Queue) -> Vec<(u64, u64)> {
    let mut places = Vec::new();
    for round in 0..3 {
        for n in 0..28 {
            let zone = 1 + n % (ZONES - 1);
            let number = round * 100 + n;
            let data = record(queue, number);
            queue.push(Request::append(zone as u32, data).tag(number)).unwrap();
        }
        queue.submit_and_wait(28).unwrap();
        while let Some(completion) = queue.next_completion() {
            completion.result.unwrap();
            places.push((completion.tag, completion.offset));
        }
    }
    assert_eq!(places.len(), 84);
    places
}

fn verify(queue: &mut Queue, places: &[(u64, u64)]) {
    let mut expected = vec![0; RECORD];
    for &(number, offset) in places {
        pattern(number, &mut expected);
        assert!(read(queue, offset, RECORD) == expected, "record {number} at {offset}");
    }
}

#[test]
fn an_adopted_image_works_as_a_drive_whatever_its_clusters() {
    let folder = folder();
    for bits in 9..=21 {
        let path = folder.path().join(format!("disk-{bits}"));
        let Some(drive) = adopted(&path, ZONES * ZONE, 1 << bits, zones()) else { return };
        assert_eq!((drive.cluster_size, drive.full_zones), (1 << bits, 0));
        assert_eq!(drive.geometry.block_size, if bits < 12 { 512 } else { 4096 });
        let drive = open(&path);
        assert_eq!(drive.info().layout, Some("scattered"), "{bits}");
        assert_eq!(drive.info().cluster_size, Some(1 << bits));
        let mut queue = queue(&drive);
        let places = append_everywhere(&mut queue);
        let data = record(&queue, 7000);
        run(&mut queue, Request::write_at(RECORD as u64, data)).result.unwrap();
        for request in [Request::finish(2), Request::reset(3), Request::reset(4)] {
            run(&mut queue, request).result.unwrap();
        }
        let data = record(&queue, 7001);
        assert_eq!(run(&mut queue, Request::append(4, data).fua()).offset, 4 * ZONE);
        drop(queue);
        drive.close().unwrap();
        is_sound(&path);

        let theirs = as_qemu_reads_it(&path);
        let drive = open(&path);
        let mut queue = queue_of(&drive);
        let kept: Vec<_> =
            places.iter().copied().filter(|place| ![3, 4].contains(&(place.1 / ZONE))).collect();
        verify(&mut queue, &kept);
        verify(&mut queue, &[(7000, RECORD as u64), (7001, 4 * ZONE)]);
        for zone in drive.report(..).unwrap() {
            let end = zone.write_pointer.unwrap_or(zone.start + zone.size);
            let ours = read(&mut queue, zone.start, zone.size as usize);
            let written = (end - zone.start) as usize;
            let range = zone.start as usize..end as usize;
            assert!(ours[..written] == theirs[range], "zone {} at 2^{bits}", zone.zone);
            assert!(ours[written..].iter().all(|&byte| byte == 0), "above its pointer");
        }
        drop(queue);
        drive.close().unwrap();
    }
}

fn queue_of(drive: &Device) -> Queue {
    queue(drive)
}

/// What QEMU finds allocated of an image.
fn allocated(path: &Path) -> u64 {
    let copy = path.with_extension("map");
    stripped(path, &copy);
    let args = ["map", "-f", "qcow2", "--output=json", copy.to_str().unwrap()];
    let (done, says) = qemu("qemu-img", &args).unwrap();
    assert!(done, "{says}");
    std::fs::remove_file(copy).unwrap();
    let map: serde_json::Value = serde_json::from_str(&says).unwrap();
    let ranges = map.as_array().unwrap().iter();
    ranges.filter(|r| r.get("offset").is_some()).map(|r| r["length"].as_u64().unwrap()).sum()
}

#[test]
fn a_zones_clusters_are_allocated_when_it_leaves_empty_and_never_again() {
    let folder = folder();
    let path = folder.path().join("disk");
    let options = AdoptOptions { zone_size: Some(ZONE), ..AdoptOptions::default() };
    if adopted(&path, ZONES * ZONE, 64 << 10, options).is_none() {
        return;
    }
    assert_eq!(allocated(&path), 0);
    for (times, open_it) in [(1, false), (2, true), (2, false)] {
        let drive = open(&path);
        let mut queue = queue(&drive);
        if open_it {
            run(&mut queue, Request::open(5)).result.unwrap();
        } else {
            let data = record(&queue, 1);
            run(&mut queue, Request::append(2, data)).result.unwrap();
        }
        // A finish of an empty zone writes nothing, and needs no clusters.
        run(&mut queue, Request::finish(6)).result.unwrap();
        assert!(read(&mut queue, 6 * ZONE, RECORD).iter().all(|&byte| byte == 0));
        run(&mut queue, Request::reset(6)).result.unwrap();
        drop(queue);
        drive.close().unwrap();
        assert_eq!(allocated(&path), times * ZONE);
        is_sound(&path);
    }
}

#[test]
fn queues_that_open_zones_at_the_same_time_get_clusters_of_their_own() {
    let folder = folder();
    let path = folder.path().join("disk");
    if adopted(&path, ZONES * ZONE, 4096, zones()).is_none() {
        return;
    }
    let drive = open(&path);
    let work = |thread: u64| {
        let mut queue = queue(&drive);
        let mut places = Vec::new();
        for n in 0..60 {
            let number = thread * 1000 + n;
            let data = record(&queue, number);
            let zone = 1 + (thread + n) % (ZONES - 1);
            let done = run(&mut queue, Request::append(zone as u32, data));
            done.result.unwrap();
            places.push((number, done.offset));
        }
        places
    };
    let places: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut queue = queue(&drive);
    verify(&mut queue, &places);
    drop(queue);
    drive.close().unwrap();
    is_sound(&path);
    as_qemu_reads_it(&path);
}

#[test]
fn a_zone_takes_all_it_can_and_no_more() {
    let folder = folder();
    let path = folder.path().join("disk");
    let options = AdoptOptions { zone_size: Some(1 << 20), ..AdoptOptions::default() };
    // The last zone, and the last cluster, are cut off by the drive's end.
    let size = (3 << 20) + (256 << 10) + 4096;
    if adopted(&path, size, 64 << 10, options).is_none() {
        return;
    }
    let drive = open(&path);
    let mut queue = queue(&drive);
    for zone in drive.report(..).unwrap() {
        let mut left = zone.capacity;
        while left > 0 {
            let length = left.min(RECORD as u64) as usize;
            let mut data = queue.buffer(length).unwrap();
            pattern(left, &mut data);
            run(&mut queue, Request::append(zone.zone, data)).result.unwrap();
            left -= length as u64;
        }
        let data = queue.buffer(4096).unwrap();
        let error = run(&mut queue, Request::append(zone.zone, data)).result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ZoneFull);
    }
    let before = read(&mut queue, 0, size as usize);
    drop(queue);
    drive.close().unwrap();
    is_sound(&path);
    assert!(as_qemu_reads_it(&path) == before);
    assert!(open(&path).report(..).unwrap().iter().all(|zone| zone.state == ZoneState::Full));
}

#[test]
fn data_that_was_there_stays_and_its_zones_are_full() {
    let folder = folder();
    let path = folder.path().join("disk");
    if !create(&path, "cluster_size=64k", ZONES * ZONE) {
        return;
    }
    // Out of order, so that clusters are scattered; zeros, and what was discarded, are no data.
    qemu_io(
        &path,
        &[
            "write -P 0x11 9M 70k",
            "write -P 0x22 4M 128k",
            "write -P 0 17M 64k",
            "write -P 0x33 20M 64k",
            "discard 20M 64k",
            "write -z 25M 1M",
            "write -P 0x44 512 512",
        ],
    );
    let before = folder.path().join("before.raw");
    let (image, raw) = (path.to_str().unwrap(), before.to_str().unwrap());
    qemu("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", image, raw]).unwrap();
    let before = std::fs::read(before).unwrap();
    let options =
        AdoptOptions { zone_size: Some(ZONE), conventional_zones: 1, ..AdoptOptions::default() };
    let drive = zonal::adopt(&path, options).unwrap();
    assert_eq!(drive.full_zones, 2);
    is_sound(&path);
    assert!(as_qemu_reads_it(&path) == before, "adopting moves no data");

    let drive = open(&path);
    let states: Vec<_> = drive.report(..).unwrap().iter().map(|zone| zone.state).collect();
    assert_eq!(states[..3], [ZoneState::NotWp, ZoneState::Full, ZoneState::Full]);
    assert!(states[3..].iter().all(|state| *state == ZoneState::Empty));
    let mut queue = queue(&drive);
    assert!(read(&mut queue, 0, before.len()) == before, "all of it reads as before");
    // A zone that was full is reset, and takes data over old clusters and new.
    run(&mut queue, Request::reset(2)).result.unwrap();
    assert!(read(&mut queue, 2 * ZONE, ZONE as usize).iter().all(|&byte| byte == 0));
    let mut places = Vec::new();
    for n in 0..40 {
        let data = record(&queue, n);
        let done = run(&mut queue, Request::append(2, data));
        done.result.unwrap();
        places.push((n, done.offset));
    }
    verify(&mut queue, &places);
    drop(queue);
    drive.close().unwrap();
    is_sound(&path);
    as_qemu_reads_it(&path);
}

#[test]
fn a_zone_with_data_above_its_capacity_is_refused_and_nothing_changes() {
    let folder = folder();
    let path = folder.path().join("disk");
    if !create(&path, "cluster_size=64k", ZONES * ZONE) {
        return;
    }
    qemu_io(&path, &["write -P 0x11 7M 64k"]);
    let before = std::fs::read(&path).unwrap();
    for (options, words) in [
        (zones(), "above the zone's capacity"),
        (
            AdoptOptions { zone_size: Some(32 << 10), ..AdoptOptions::default() },
            "less than a cluster",
        ),
        (AdoptOptions { zone_size: Some(3 << 20), ..AdoptOptions::default() }, "no power of two"),
        (AdoptOptions { block_size: Some(1024), ..AdoptOptions::default() }, "block-size"),
        (AdoptOptions { conventional_zones: 9, ..zones() }, "conventional-zones"),
    ] {
        let error = zonal::adopt(&path, options).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(std::fs::read(&path).unwrap() == before, "{words}");
    }
}

/// Adopts an image that cannot be, and gives the error; the image stays as it was.
fn refused(path: &Path) -> zonal::Error {
    let before = std::fs::read(path).unwrap();
    let error = zonal::adopt(path, zones()).unwrap_err();
    assert!(std::fs::read(path).unwrap() == before, "{error}");
    error
}

#[test]
fn what_cannot_be_adopted_is_refused_by_name() {
    let folder = folder();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let size = ZONES * ZONE;
    if !create(&path("base"), "cluster_size=64k", size) {
        return;
    }
    let file = |name: &str| path(name).to_str().unwrap().to_owned();
    let made = |args: &[&str]| {
        let (made, says) = qemu("qemu-img", args).unwrap();
        assert!(made, "{says}");
    };
    made(&["create", "-qf", "qcow2", "-b", &file("base"), "-F", "qcow2", &file("backing")]);
    create(&path("subclusters"), "extended_l2=on", size);
    create(&path("old"), "compat=0.10", size);
    create(&path("external"), &format!("data_file={}", file("data")), size);
    create(&path("zstd"), "compression_type=zstd", size);
    let secret = "secret,id=s,data=x";
    // Not LUKS: to choose its iterations qemu-img measures a clock that some machines lack.
    let aes = "encrypt.format=aes,encrypt.key-secret=s";
    let encrypted = file("encrypted");
    made(&["create", "-qf", "qcow2", "--object", secret, "-o", aes, &encrypted, "32M"]);
    qemu_io(&path("base"), &["write -P 0x11 1M 1M"]);
    made(&["convert", "-c", "-O", "qcow2", &file("base"), &file("compressed")]);
    std::fs::copy(path("base"), path("snapshot")).unwrap();
    made(&["snapshot", "-c", "one", &file("snapshot")]);
    std::fs::copy(path("base"), path("bitmap")).unwrap();
    made(&["bitmap", "--add", &file("bitmap"), "changes"]);
    std::fs::copy(path("base"), path("unknown")).unwrap();
    patch(&path("unknown"), 72, &(1_u64 << 9).to_be_bytes());
    std::fs::copy(path("base"), path("dirty")).unwrap();
    patch(&path("dirty"), 79, &[1]);
    for (name, words) in [
        ("backing", "a backing file"),
        ("subclusters", "subclusters"),
        ("old", "version 2"),
        ("external", "an external data file"),
        ("zstd", "a compression type"),
        ("encrypted", "encryption"),
        ("compressed", "a compressed cluster"),
        ("snapshot", "internal snapshots"),
        ("bitmap", "persistent bitmaps"),
        ("unknown", "unknown incompatible feature bits 0x200"),
    ] {
        let error = refused(&path(name));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    let error = refused(&path("dirty"));
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    std::fs::write(path("text"), b"no image").unwrap();
    assert!(refused(&path("text")).to_string().contains("no qcow2 image"));
}

fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Makes of an adopted image what a QEMU with zones would have made: without our extension.
fn without_our_extension(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut header = [0; 512];
    file.read_exact_at(&mut header, 0).unwrap();
    let at = header.windows(4).position(|bytes| bytes == b"zonl").unwrap();
    header[at..].fill(0);
    file.write_all_at(&header, 0).unwrap();
}

#[test]
fn zones_of_qemus_are_read_as_they_are_and_kept_when_they_are_adopted() {
    let folder = folder();
    let path = folder.path().join("disk");
    if adopted(&path, ZONES * ZONE, 64 << 10, zones()).is_none() {
        return;
    }
    let drive = open(&path);
    let mut queue = queue(&drive);
    let places = append_everywhere(&mut queue);
    drop(queue);
    drive.close().unwrap();
    without_our_extension(&path);

    let reader = OpenOptions { read_only: true, ..OpenOptions::default() };
    let target = Target::Path(path.clone());
    let drive = zonal::open(&target, &reader).unwrap();
    assert_eq!((drive.geometry().block_size, drive.geometry().max_append), (512, 1 << 20));
    let pointers = drive.report(..).unwrap();
    verify(&mut queue_of(&drive), &places);
    drop(drive);
    let error = zonal::open(&target, &OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("zonal adopt"), "{error}");

    let error = zonal::adopt(&path, zones()).unwrap_err();
    assert!(error.to_string().contains("it has zones already"), "{error}");
    zonal::adopt(&path, AdoptOptions::default()).unwrap();
    let drive = open(&path);
    assert_eq!(drive.report(..).unwrap(), pointers);
    let mut queue = queue_of(&drive);
    verify(&mut queue, &places);
    let data = record(&queue, 9);
    run(&mut queue, Request::append(1, data)).result.unwrap();
    drop(queue);
    drive.close().unwrap();
    is_sound(&path);
    let error = zonal::adopt(&path, AdoptOptions::default()).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
}

#[test]
fn another_revision_of_the_zoned_extension_is_refused_by_name() {
    let folder = folder();
    let path = folder.path().join("disk");
    if adopted(&path, ZONES * ZONE, 64 << 10, zones()).is_none() {
        return;
    }
    without_our_extension(&path);
    // 48 bytes, as an earlier revision had; the padding makes room.
    patch(&path, 172, &48_u32.to_be_bytes());
    for error in [
        zonal::adopt(&path, AdoptOptions::default()).unwrap_err(),
        zonal::open(&Target::Path(path.clone()), &OpenOptions::default()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("another revision"), "{error}");
    }
}

#[test]
fn a_reset_with_discard_gives_the_space_back_and_keeps_the_clusters() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let path = folder.path().join("disk");
    if adopted(&path, ZONES * ZONE, 64 << 10, zones()).is_none() {
        return;
    }
    let options = OpenOptions { discard: true, ..OpenOptions::default() };
    let drive = zonal::open(&Target::Path(path.clone()), &options).unwrap();
    let mut queue = queue(&drive);
    let data =
        || Request::append_ordered(1, zonal::Buffer::from_slice(&vec![7; CAPACITY as usize]));
    run(&mut queue, data()).result.unwrap();
    run(&mut queue, Request::flush()).result.unwrap();
    let space = || std::fs::metadata(&path).unwrap().blocks() * 512;
    let full = space();
    run(&mut queue, Request::reset(1)).result.unwrap();
    run(&mut queue, Request::open(1)).result.unwrap();
    // But for a block or two of the tables.
    assert!(space() + CAPACITY / 10 * 9 <= full, "{full} bytes before, {} after", space());
    run(&mut queue, data()).result.unwrap();
    assert!(read(&mut queue, ZONE, CAPACITY as usize).iter().all(|&byte| byte == 7));
    drop(queue);
    drive.close().unwrap();
    is_sound(&path);
    assert_eq!(allocated(&path), ZONE + CAPACITY, "the conventional zone, and this one");
}

#[test]
fn an_image_in_use_is_not_adopted() {
    let folder = folder();
    let path = folder.path().join("disk");
    if !create(&path, "cluster_size=64k", ZONES * ZONE) {
        return;
    }
    let mut user = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", path.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its prompt comes when it has opened the image.
    let mut prompt = [0];
    std::io::Read::read_exact(user.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    let error = zonal::adopt(&path, zones()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    drop(user.stdin.take());
    user.wait().unwrap();
    zonal::adopt(&path, zones()).unwrap();
}
