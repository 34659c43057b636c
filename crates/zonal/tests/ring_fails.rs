//! A ring that fails as a whole: who waits for its queue elsewhere is told, and what it had in flight has
//! failed, for good.
//!
//! A seccomp filter makes the rings of one thread fail; what was pushed there never reaches the kernel, and
//! the queue cannot know.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod forbid;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use zonal::{
    Buffer, Completion, CreateOptions, Device, EngineChoice, ErrorKind, Flags, Geometry,
    OpenOptions, Preallocate, Queue, QueueOptions, Request, Target, ZoneState,
};

/// The image, for the child.
const IMAGE: &str = "ZONAL_TEST_RING_FAILS";
const ZONE: u64 = 1 << 20;

fn image(folder: &Path) -> PathBuf {
    let path = folder.join("disk");
    let geometry = Geometry {
        zone_size: ZONE,
        zone_capacity: ZONE,
        max_append: 4096,
        ..Geometry::with_size(4 * ZONE)
    };
    let preallocate = Preallocate::Off;
    zonal::create(&path, CreateOptions { geometry, preallocate, force: false, progress: None })
        .unwrap();
    path
}

fn open(path: &Path) -> Option<Device> {
    let options = OpenOptions { engine: EngineChoice::IoUring, ..OpenOptions::default() };
    match zonal::open(&Target::Path(path.to_owned()), &options) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            println!("SKIP: no io_uring here");
            None
        }
        drive => Some(drive.unwrap()),
    }
}

fn block(byte: u8) -> Buffer {
    Buffer::from_slice(&[byte; 4096])
}

/// On a thread of its own, whose ring fails from the first submission on: a queue submits `requests`, of which
/// writes take their places. `then` runs while it has them in flight, and gives what runs after it is dropped.
fn with_a_failed_ring<T>(drive: &Device, requests: Vec<Request>, then: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (failed, has_failed) = channel();
        let (drop_it, is_to_drop) = channel();
        let thread = scope.spawn(move || {
            let mut queue = drive.queue(&QueueOptions::default()).unwrap();
            forbid::fail_rings(libc::EIO).unwrap();
            requests.into_iter().for_each(|request| queue.push(request).unwrap());
            let error = queue.submit().unwrap_err();
            assert!(error.to_string().contains("ring failed"), "{error}");
            failed.send(()).unwrap();
            is_to_drop.recv().unwrap();
            drop(queue);
        });
        has_failed.recv().unwrap();
        let left = then();
        drop_it.send(()).unwrap();
        thread.join().unwrap();
        left
    })
}

/// All completions of a queue, which come without any deadline.
fn all(queue: &mut Queue) -> Vec<Completion> {
    let until = Instant::now() + Duration::from_secs(30);
    let mut ended = Vec::new();
    while queue.in_flight() > 0 {
        assert!(Instant::now() < until, "{} are woken by nobody", queue.in_flight());
        queue.submit().unwrap();
        ended.extend(std::iter::from_fn(|| queue.next_completion()));
        std::thread::sleep(Duration::from_millis(1));
    }
    ended.sort_by_key(|ended| ended.tag);
    ended
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

#[test]
fn who_waits_for_a_queue_whose_ring_failed_is_told() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(drive) = open(&image(folder.path())) else { return };
    let mut other = drive.queue(&QueueOptions::default()).unwrap();
    // The second is so long that it has its zone to itself, and holds the gate.
    let long = Buffer::from_slice(&[1; 8192]);
    let lost = vec![Request::append(0, block(1)), Request::append_ordered(3, long)];
    with_a_failed_ring(&drive, lost, || {
        let waiting = [
            Request::reset(0),
            Request::append(0, block(2)),
            Request::write_at(3 * ZONE + 8192, block(2)),
            Request::append(1, block(2)).fua(),
            Request::flush(),
            Request::append(2, block(2)),
        ];
        for (tag, request) in (0..).zip(waiting) {
            other.push(request.tag(tag)).unwrap();
        }
        let until = Instant::now() + Duration::from_secs(30);
        while other.submit().unwrap() == 0 {
            assert!(Instant::now() < until, "the last waits for nobody");
        }
        assert_eq!(other.next_completion().unwrap().tag, 5);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(other.submit().unwrap(), 0, "the others wait");
    });
    let ended = all(&mut other);
    assert_eq!(ended.iter().map(|ended| ended.tag).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    for Completion { tag, result, flags, .. } in ended {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceReadOnly, "{tag}: {error}");
        assert!(error.to_string().contains("ring failed"), "{tag}: {error}");
        // The durable write is in its zone; nothing else has changed anything.
        assert_eq!(flags.contains(Flags::REFUSED), tag != 3, "{tag}");
    }
    let ends: Vec<_> = drive.report(..).unwrap().iter().map(|z| z.write_pointer).collect();
    let at = |zone: u64, blocks: u64| Some(zone * ZONE + blocks * 4096);
    assert_eq!(ends, [at(0, 0), at(1, 1), at(2, 1), at(3, 0)]);
    // What is there can be read, and nothing is written any more.
    let read = run(&mut other, Request::read_at(2 * ZONE, Buffer::unpooled(4096)));
    assert!(read.buffer.unwrap().iter().all(|&byte| byte == 2));
    drop(other);
    let mut last = drive.queue(&QueueOptions::default()).unwrap();
    let refused = run(&mut last, Request::append(1, block(3)));
    assert_eq!(refused.result.unwrap_err().kind(), ErrorKind::DeviceReadOnly);
    drop(last);
    assert_eq!(drive.close().unwrap_err().kind(), ErrorKind::DeviceReadOnly);
}

/// In zone 0: old bytes of an earlier life, then a block whose end is not known, then one acknowledged.
fn lose_one_below_another(path: &Path) -> Option<()> {
    let drive = open(path)?;
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for request in [
        Request::append_ordered(0, Buffer::from_slice(&[9; 2 * 4096])),
        Request::reset(0),
        Request::append(1, block(1)),
        Request::flush(),
    ] {
        run(&mut queue, request).result.unwrap();
    }
    with_a_failed_ring(&drive, vec![Request::append(0, block(1))], || {
        assert_eq!(run(&mut queue, Request::append(0, block(2))).offset, 4096);
    });
    let zone = drive.report(0..1).unwrap()[0];
    assert_eq!((zone.state, zone.write_pointer), (ZoneState::ReadOnly, Some(2 * 4096)));
    shows_the_second_alone(&mut queue);
    Some(())
}

fn shows_the_second_alone(queue: &mut Queue) {
    let read = run(queue, Request::read_at(0, Buffer::from_slice(&[7; 2 * 4096])));
    let bytes = read.buffer.unwrap();
    assert!(bytes[..4096].iter().all(|&byte| byte == 0), "a write of unknown end is seen");
    assert!(bytes[4096..].iter().all(|&byte| byte == 2));
}

#[test]
fn a_lost_write_below_another_reads_as_zeros_also_for_the_next_process() {
    if let Some(path) = std::env::var_os(IMAGE) {
        lose_one_below_another(path.as_ref());
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = image(folder.path());
    let test = "a_lost_write_below_another_reads_as_zeros_also_for_the_next_process";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test, "--nocapture"]).env(IMAGE, &path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    if text.contains("SKIP") {
        return println!("SKIP: no io_uring here");
    }
    let drive = open(&path).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    shows_the_second_alone(&mut queue);
    let zone = drive.report(0..1).unwrap()[0];
    assert_eq!((zone.state, zone.write_pointer), (ZoneState::Closed, Some(2 * 4096)));
    drop(queue);
    drive.close().unwrap();
}
