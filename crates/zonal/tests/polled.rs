//! Queues that ask the device for completions (`QueueOptions::hipri`).
//!
//! The drives are images beside the test program, or the NVMe namespace that `ZONAL_NVME` names, which
//! is emptied. Where a device has no queues that are polled, the tests hold what is said about that, and
//! say SKIP; `guest/run` runs them where it has.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use zonal::{
    Buffer, Completion, CreateOptions, Device, EngineChoice, ErrorKind, Flags, Geometry,
    OpenOptions, Preallocate, Queue, QueueOptions, Request, Target,
};

const BLOCK: usize = 4096;
const ZONE: u64 = 4 << 20;

/// An image whose blocks were all written once: a file system does not poll for the first writes
/// of a block.
fn image(engine: EngineChoice) -> (TempDir, Device) {
    let program = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let path = folder.path().join("disk");
    let geometry =
        Geometry { zone_size: ZONE, zone_capacity: ZONE, ..Geometry::with_size(8 * ZONE) };
    let preallocate = Preallocate::Full;
    zonal::create(&path, CreateOptions { geometry, preallocate, force: false, progress: None })
        .unwrap();
    let options = OpenOptions { engine, ..OpenOptions::default() };
    let device = zonal::open(&Target::Path(path), &options).unwrap();
    (folder, device)
}

/// What a drive lies in for as long as a test has it.
enum Held {
    Folder { _folder: TempDir },
    Namespace { _turn: MutexGuard<'static, ()> },
}

/// A drive whose device is asked, if it can be.
fn drive() -> (Held, Device) {
    static TURN: Mutex<()> = Mutex::new(());
    let Some(path) = std::env::var_os("ZONAL_NVME") else {
        let (_folder, device) = image(EngineChoice::Auto);
        return (Held::Folder { _folder }, device);
    };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let device = zonal::open(&Target::Path(path.into()), &OpenOptions::default()).unwrap();
    let mut queue = device.queue(&QueueOptions::default()).unwrap();
    run(&mut queue, Request::reset_all()).result.unwrap();
    (Held::Namespace { _turn }, device)
}

fn start(device: &Device, zone: u32) -> u64 {
    device.report(zone..=zone).unwrap()[0].start
}

fn polled(device: &Device, sqpoll: bool) -> zonal::Result<Queue> {
    device.queue(&QueueOptions { depth: 32, hipri: true, sqpoll, ..QueueOptions::default() })
}

/// Runs `test` with and without a thread of the kernel that submits, or says why not.
fn with_a_polled_queue(test: impl Fn(&Device, Queue)) {
    for sqpoll in [false, true] {
        let (_held, device) = drive();
        match polled(&device, sqpoll) {
            Ok(queue) => test(&device, queue),
            Err(error) => return skip(&error),
        }
        device.close().unwrap();
    }
}

/// Nothing but a device that cannot be asked is a reason.
fn skip(error: &zonal::Error) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let text = chain(error);
    let why = ["io_poll is 0", "refuses a polled read", "it takes Linux 6.5"];
    assert!(why.iter().any(|why| text.contains(why)), "{text}");
    assert!(text.contains("leave hipri out"), "{text}");
    println!("SKIP: {text}");
}

/// An error and its causes.
fn chain(error: &zonal::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

fn record(byte: u8) -> Buffer {
    Buffer::from_slice(&[byte; BLOCK])
}

/// Appends `count` records of different bytes to zone 1, and takes all completions by `next`.
fn append_all(
    device: &Device,
    queue: &mut Queue,
    count: u64,
    mut next: impl FnMut(&mut Queue) -> Completion,
) {
    let start = start(device, 1);
    let mut places = BTreeSet::new();
    let (mut sent, mut ended) = (0, 0);
    let mut bytes = vec![0; count as usize];
    while ended < count {
        while sent < count
            && queue.push(Request::append(1, record(sent as u8 | 1)).tag(sent)).is_ok()
        {
            sent += 1;
        }
        let completion = next(queue);
        assert_eq!(completion.result.unwrap(), BLOCK as u32);
        assert!(places.insert(completion.offset), "{}", completion.offset);
        let place = (completion.offset - start) / BLOCK as u64;
        bytes[place as usize] = completion.tag as u8 | 1;
        ended += 1;
    }
    assert_eq!(places.first(), Some(&start));
    assert_eq!(places.last(), Some(&(start + (count - 1) * BLOCK as u64)));
    for (offset, byte) in places.into_iter().zip(bytes) {
        let completion = run(queue, Request::read_at(offset, Buffer::unpooled(BLOCK)));
        assert_eq!(completion.buffer.unwrap()[..], [byte; BLOCK], "{offset}");
    }
}

#[test]
fn a_polled_completion_says_where_its_record_landed() {
    with_a_polled_queue(|device, mut queue| {
        append_all(device, &mut queue, 500, |queue| {
            queue.submit_and_wait(1).unwrap();
            queue.next_completion().unwrap()
        });
    });
}

#[test]
fn completions_come_without_any_wait_too() {
    with_a_polled_queue(|device, mut queue| {
        append_all(device, &mut queue, 200, |queue| {
            loop {
                queue.submit().unwrap();
                if let Some(completion) = queue.next_completion() {
                    return completion;
                }
            }
        });
    });
}

#[test]
fn whoever_polls_a_descriptor_is_told_not_to_sleep_while_the_device_has_to_be_asked() {
    with_a_polled_queue(|device, mut queue| {
        append_all(device, &mut queue, 200, |queue| {
            loop {
                if queue.prepare_to_poll().unwrap() {
                    let fd = queue.poll_fd().unwrap();
                    // SAFETY: the queue has the descriptor open, and is not touched meanwhile.
                    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
                    let woken = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
                    assert_eq!(woken.unwrap(), 1, "ten seconds, and nobody was woken");
                }
                queue.submit().unwrap();
                if let Some(completion) = queue.next_completion() {
                    return completion;
                }
            }
        });
    });
}

#[test]
fn what_cannot_be_polled_for_goes_beside_it() {
    with_a_polled_queue(|device, mut queue| {
        for round in 1..20 {
            let durable = run(&mut queue, Request::append(2, record(round)).fua());
            durable.result.unwrap();
            assert!(durable.flags.contains(Flags::DURABLE));
            // Appends, a flush and a durable append at once.
            for byte in 0..8 {
                queue.push(Request::append(2, record(byte))).unwrap();
            }
            queue.push(Request::flush()).unwrap();
            queue.push(Request::append(3, record(round)).fua()).unwrap();
            queue.submit_and_wait(10).unwrap();
            for _ in 0..10 {
                queue.next_completion().unwrap().result.unwrap();
            }
        }
        run(&mut queue, Request::append_ordered(4, Buffer::unpooled(2 << 20))).result.unwrap();
        run(&mut queue, Request::finish(2)).result.unwrap();
        run(&mut queue, Request::reset(3)).result.unwrap();
        run(&mut queue, Request::append(3, record(9))).result.unwrap();
        run(&mut queue, Request::reset_all()).result.unwrap();
        assert_eq!(device.zones_in_use(), (0, 0));
    });
}

#[test]
fn queues_of_several_threads_wake_each_other() {
    let (_held, device) = drive();
    if let Err(error) = polled(&device, false) {
        return skip(&error);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = [1, 2].map(|byte| {
            let device = &device;
            scope.spawn(move || {
                let mut queue = polled(device, false).unwrap();
                let mut written = 0;
                while written < 2000 {
                    while queue.push(Request::append(0, record(byte))).is_ok() {}
                    queue.submit_and_wait(8).unwrap();
                    while let Some(completion) = queue.next_completion() {
                        match completion.result {
                            Ok(_) => written += 1,
                            Err(error) => assert!(
                                matches!(
                                    error.kind(),
                                    ErrorKind::ZoneFull | ErrorKind::BeyondCapacity
                                ),
                                "{error}"
                            ),
                        }
                    }
                }
                queue.submit_and_wait(usize::MAX).unwrap();
            })
        });
        // Each reset waits for the writes of the others' queues, and they for it.
        let resetter = scope.spawn(|| {
            let mut queue = polled(&device, false).unwrap();
            while !over.load(Ordering::Acquire) {
                run(&mut queue, Request::reset(0)).result.unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ended = writers.map(std::thread::ScopedJoinHandle::join);
        over.store(true, Ordering::Release);
        resetter.join().unwrap();
        assert!(ended.iter().all(Result::is_ok));
    });
    device.close().unwrap();
}

#[test]
fn a_queue_that_is_dropped_waits_for_what_it_has_under_way() {
    with_a_polled_queue(|device, mut queue| {
        for byte in 0..32 {
            queue.push(Request::append(5, record(byte))).unwrap();
        }
        queue.push(Request::flush()).unwrap_err();
        queue.submit().unwrap();
        drop(queue);
        let zone = &device.report(5..6).unwrap()[0];
        assert_eq!(zone.write_pointer, Some(zone.start + 32 * BLOCK as u64));
    });
}

#[test]
fn where_there_is_nothing_to_ask_it_is_refused() {
    let memory = Target::Memory(Geometry::with_size(64 << 20));
    let memory = zonal::open(&memory, &OpenOptions::default()).unwrap();
    let (_folder, threads) = image(EngineChoice::Threads);
    for (device, word) in [(memory, "in memory"), (threads, "threads")] {
        let error = polled(&device, false).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(chain(&error).contains(word), "{}", chain(&error));
        // The drive is none the worse for it.
        let mut queue = device.queue(&QueueOptions::default()).unwrap();
        run(&mut queue, Request::append(0, record(1))).result.unwrap();
    }
}
