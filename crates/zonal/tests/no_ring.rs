//! A machine that forbids io_uring, made by a seccomp filter: everything goes over threads.
//!
//! The tests start this very program again, as a child under the filter, and that child runs the
//! test named in its arguments.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod forbid;

use forbid::forbid_rings;
use std::os::unix::process::CommandExt;
use std::process::Command;
use zonal::{
    Buffer, Completion, CreateOptions, EngineChoice, ErrorKind, Geometry, OpenOptions, Preallocate,
    Queue, QueueOptions, Request, Target, ZoneState,
};

/// What the filter answers, for the child.
const ANSWER: &str = "ZONAL_TEST_IO_URING_ANSWERS";

/// Runs `test` of this program in a child for which rings fail with `errno`.
fn in_a_child(test: &str, errno: i32) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env(ANSWER, errno.to_string());
    // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
    unsafe { child.pre_exec(move || forbid_rings(errno)) };
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Whether this is a child; if not, it runs `test` in children.
fn is_child(test: &str, errnos: &[i32]) -> bool {
    if std::env::var_os(ANSWER).is_some() {
        return true;
    }
    errnos.iter().for_each(|&errno| in_a_child(test, errno));
    false
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let geometry =
            Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(4 << 20) };
        let preallocate = Preallocate::Off;
        let options = CreateOptions { geometry, preallocate, force: false, progress: None };
        zonal::create(&folder.path().join("disk"), options).unwrap();
        Self { folder }
    }

    fn open(&self, engine: EngineChoice) -> zonal::Result<zonal::Device> {
        let target = Target::Path(self.folder.path().join("disk"));
        zonal::open(&target, &OpenOptions { engine, ..OpenOptions::default() })
    }
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

#[test]
fn without_io_uring_an_image_is_used_over_threads() {
    let test = "without_io_uring_an_image_is_used_over_threads";
    if !is_child(test, &[libc::EPERM, libc::ENOSYS]) {
        return;
    }
    let scene = Scene::new();
    let drive = scene.open(EngineChoice::Auto).unwrap();
    assert_eq!(drive.limits().engine, "threads");
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for n in 0..64_u8 {
        let record = Buffer::from_slice(&[n + 1; 4096]);
        queue.push(Request::append((n % 2).into(), record).tag(n.into())).unwrap();
    }
    queue.submit_and_wait(64).unwrap();
    let mut places = Vec::new();
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
        places.push((completion.offset, completion.tag as u8 + 1));
    }
    assert_eq!(places.len(), 64);
    for (offset, byte) in places {
        let bytes = run(&mut queue, Request::read_at(offset, Buffer::unpooled(4096)));
        assert!(bytes.buffer.unwrap().iter().all(|&found| found == byte));
    }
    run(&mut queue, Request::flush()).result.unwrap();
    run(&mut queue, Request::reset(1)).result.unwrap();
    run(&mut queue, Request::append(1, Buffer::from_slice(&[9; 4096])).fua()).result.unwrap();
    drop(queue);
    drive.close().unwrap();
    let drive = scene.open(EngineChoice::Auto).unwrap();
    let report = drive.report(0..2).unwrap();
    assert_eq!(report[0].write_pointer, Some(32 * 4096));
    assert_eq!(report[1].write_pointer, Some((1 << 20) + 4096));
    assert_eq!(report[1].state, ZoneState::Closed);
}

#[test]
fn who_insists_on_io_uring_is_told_that_there_is_none() {
    let test = "who_insists_on_io_uring_is_told_that_there_is_none";
    if !is_child(test, &[libc::EPERM, libc::ENOSYS]) {
        return;
    }
    let error = Scene::new().open(EngineChoice::IoUring).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("disk: open: ") && text.contains("io_uring"), "{text}");
    assert!(text.contains("threads"), "{text}");
}

#[test]
fn an_error_that_threads_would_meet_too_is_no_reason_to_take_them() {
    let test = "an_error_that_threads_would_meet_too_is_no_reason_to_take_them";
    if !is_child(test, &[libc::EMFILE]) {
        return;
    }
    let error = Scene::new().open(EngineChoice::Auto).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("io_uring cannot be set up"), "{error}");
}

#[test]
fn where_there_is_no_memory_for_a_ring_threads_take_over_and_info_says_why() {
    let test = "where_there_is_no_memory_for_a_ring_threads_take_over_and_info_says_why";
    if !is_child(test, &[libc::ENOMEM]) {
        return;
    }
    let scene = Scene::new();
    let drive = scene.open(EngineChoice::Auto).unwrap();
    assert_eq!(drive.limits().engine, "threads");
    let warnings = drive.info().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("ulimit -l"), "{warnings:?}");
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    run(&mut queue, Request::append(1, Buffer::from_slice(&[9; 4096])).fua()).result.unwrap();
    drop(queue);
    drive.close().unwrap();
    // That is nothing wrong with the image.
    let path = scene.folder.path().join("disk");
    assert!(zonal::check(&path, &zonal::CheckOptions::default()).unwrap().findings.is_empty());
    let error = scene.open(EngineChoice::IoUring).unwrap_err().to_string();
    assert!(error.contains("ulimit -l") && error.contains("threads"), "{error}");
}

#[test]
fn a_queue_that_gets_no_ring_has_threads_where_threads_will_do() {
    let scene = Scene::new();
    let (auto, other) = (scene.open(EngineChoice::Auto).unwrap(), Scene::new());
    let Ok(only) = other.open(EngineChoice::IoUring) else {
        return println!("SKIP: no io_uring here");
    };
    assert!(auto.info().warnings.is_empty());
    // A filter is its thread's.
    std::thread::spawn(move || {
        forbid_rings(libc::ENOMEM).unwrap();
        assert!(only.queue(&QueueOptions::default()).is_err());
        let mut queue = auto.queue(&QueueOptions::default()).unwrap();
        run(&mut queue, Request::append(1, Buffer::from_slice(&[9; 4096]))).result.unwrap();
        assert_eq!(auto.limits().engine, "threads");
        assert!(auto.info().warnings[0].contains("ulimit -l"));
    })
    .join()
    .unwrap();
}
