//! What QEMU's tools say of an image that was used: on a copy with feature bit 5 and the
//! extensions taken off, since stock tools refuse the image itself, and rightly.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "../../zonal-core/tests/support/mod.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::path::Path;
use support::{qemu_img, strip_zones};
use zonal::{
    CreateOptions, Geometry, OpenOptions, Preallocate, Queue, QueueOptions, Request, Target,
    ZoneState,
};

const ZONE: u64 = 8 << 20;
const CAPACITY: u64 = 6 << 20;
const RECORD: usize = 64 << 10;

fn run(queue: &mut Queue, request: Request) -> zonal::Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

/// Bytes that name their place and do not repeat.
fn record(queue: &Queue, n: u64) -> zonal::Buffer {
    let mut buffer = queue.buffer(RECORD).unwrap();
    for (at, word) in (0_u64..).zip(buffer.chunks_exact_mut(8)) {
        word.copy_from_slice(&(n << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
    buffer
}

/// Writes to all zones but the last; finishes one, resets one, resets and refills another.
fn use_it(path: &Path) {
    let drive = zonal::open(&Target::Path(path.into()), &OpenOptions::default()).unwrap();
    let options = QueueOptions { buffer_bytes: RECORD, ..QueueOptions::default() };
    let mut queue = drive.queue(&options).unwrap();
    for n in 0..200 {
        let data = record(&queue, n);
        let request = match n % 7 {
            0 => Request::write_at(n / 7 * RECORD as u64, data),
            zone => Request::append(zone as u32, data),
        };
        run(&mut queue, request).result.unwrap();
    }
    for request in [Request::finish(2), Request::flush(), Request::reset(3), Request::reset(4)] {
        run(&mut queue, request).result.unwrap();
    }
    let data = record(&queue, 1000);
    run(&mut queue, Request::append(4, data).fua()).result.unwrap();
    drop(queue);
    drive.close().unwrap();
}

/// What zonal reads of the whole drive, and up to where each zone's data is below its wp.
fn read_it(path: &Path) -> (Vec<u8>, Vec<(u64, u64)>) {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
    let report = drive.report(..).unwrap();
    assert_eq!((report[2].state, report[3].state), (ZoneState::Full, ZoneState::Empty));
    let written = report
        .iter()
        .map(|zone| (zone.start, zone.write_pointer.unwrap_or(zone.start + ZONE)))
        .collect();
    let size = drive.geometry().size as usize;
    let options = QueueOptions { depth: 1, buffer_bytes: size, ..QueueOptions::default() };
    let mut queue = drive.queue(&options).unwrap();
    let into = queue.buffer(size).unwrap();
    let bytes = run(&mut queue, Request::read_at(0, into)).buffer.unwrap().to_vec();
    (bytes, written)
}

#[test]
fn qemu_img_finds_nothing_in_a_used_image_and_reads_the_same_bytes() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| folder.path().join(name);
    let geometry =
        Geometry { zone_size: ZONE, zone_capacity: CAPACITY, ..Geometry::with_size(8 * ZONE) };
    let geometry = Geometry { conventional_zones: 1, ..geometry };
    let preallocate = Preallocate::Off;
    let options = CreateOptions { geometry, preallocate, force: false, progress: None };
    zonal::create(&path("disk"), options).unwrap();
    use_it(&path("disk"));

    fs::copy(path("disk"), path("copy")).unwrap();
    strip_zones(&File::options().read(true).write(true).open(path("copy")).unwrap());
    let (copy, raw) = (path("copy").display().to_string(), path("raw").display().to_string());
    let Some((sound, says)) = qemu_img(&["check", "-f", "qcow2", &copy]) else { return };
    assert!(sound && says.contains("No errors were found"), "{says}");
    let (converted, says) =
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &copy, &raw]).unwrap();
    assert!(converted, "{says}");

    let (ours, mut written) = read_it(&path("disk"));
    let theirs = fs::read(path("raw")).unwrap();
    assert_eq!(ours.len(), theirs.len());
    written.retain(|(start, end)| start < end);
    assert!(written.len() >= 6);
    for (start, end) in written {
        let range = start as usize..end as usize;
        assert!(ours[range.clone()] == theirs[range], "bytes {start} to {end}");
    }
    // Above the write pointers zonal shows zeros, whatever an earlier life left in the file.
    assert!(ours[3 * ZONE as usize..4 * ZONE as usize].iter().all(|&byte| byte == 0));
}
