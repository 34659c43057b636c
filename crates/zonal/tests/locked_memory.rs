//! A user who may lock little memory: buffers are registered as far as that goes, and no further.
//!
//! The test starts this very program again, as a child without the capability to lock as much as it
//! likes, and under a lower limit.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use zonal::{
    Buffer, CreateOptions, Geometry, OpenOptions, Preallocate, Queue, QueueOptions, Request, Target,
};

/// The limit in bytes, for the child.
const LIMIT: &str = "ZONAL_TEST_LOCKED_MEMORY";
const TEST: &str = "an_ordinary_user_has_registered_buffers_as_far_as_the_limit_goes";

/// Lowers this process's limit, for all it starts to be.
fn lower(limit: libc::rlim_t) -> std::io::Result<()> {
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    let both = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the argument is only read. Who has no right to drop the capability does not have it.
    let result = unsafe {
        libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0);
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const both)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn run(queue: &mut Queue, request: Request) -> (u64, Buffer) {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    let completion = queue.next_completion().unwrap();
    completion.result.unwrap();
    (completion.offset, completion.buffer.unwrap())
}

#[test]
fn an_ordinary_user_has_registered_buffers_as_far_as_the_limit_goes() {
    let Some(limit) = std::env::var_os(LIMIT) else {
        for limit in [64 << 10, 8 << 20] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", TEST, "--nocapture"]).env(LIMIT, limit.to_string());
            // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
            unsafe { child.pre_exec(move || lower(limit)) };
            let output = child.output().unwrap();
            let text =
                String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            text.lines().filter(|line| line.contains("SKIP")).for_each(|line| println!("{line}"));
        }
        return;
    };
    let limit: usize = limit.to_str().unwrap().parse().unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk");
    let geometry =
        Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(4 << 20) };
    let preallocate = Preallocate::Off;
    zonal::create(&path, CreateOptions { geometry, preallocate, force: false, progress: None })
        .unwrap();
    let drive = zonal::open(&Target::Path(path), &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    if drive.limits().engine != "io_uring" {
        return println!("SKIP: no io_uring under a limit of {limit} bytes");
    }
    let known = queue.fixed_buffer_bytes();
    assert!(known > 0 && known <= limit / 4, "{known} of {limit}");
    assert!(queue.has_fixed_buffers());
    assert_eq!(drive.metrics().registered_bytes, known as u64);
    // Another one has room for its ring; and if that is not all there is, gets some too.
    let other = drive.queue(&QueueOptions::default()).unwrap();
    let further = other.fixed_buffer_bytes();
    assert_eq!(drive.limits().engine, "io_uring");
    assert!(further < known && (further > 0 || limit < 1 << 20), "{further} after {known}");
    drop(other);
    assert_eq!(drive.metrics().registered_bytes, known as u64);
    // Inside the known part, across its end, and behind it.
    let buffers: Vec<_> = (0..128).map(|_| queue.buffer(64 << 10).unwrap()).collect();
    for (n, mut buffer) in (1_u8..).zip(buffers) {
        let length = if n <= 2 { 64 << 10 } else { 4096 };
        buffer.truncate(length);
        buffer.fill(n);
        let (offset, back) = run(&mut queue, Request::append(u32::from(n) % 4, buffer));
        let (_, back) = run(&mut queue, Request::read_at(offset, back));
        assert!(back.len() == length && back.iter().all(|&byte| byte == n));
    }
    let landed = drive.append(1, drive.buffer(4096)).wait().unwrap();
    assert_eq!(landed.buffer.len(), 4096);
    let metrics = drive.metrics();
    let more = metrics.registered_bytes > known as u64;
    assert!(more || limit < 1 << 20, "{metrics:?}");
    drop(queue);
    drive.close().unwrap();
}
