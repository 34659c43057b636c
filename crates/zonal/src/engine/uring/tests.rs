//! The ring against the kernel it runs on.

use super::super::tests::{
    Fixture, Kind, Slab, engine, fixture, notify_after, slab, sqpoll_engine,
};
use super::super::{Engine, Notifier};
use super::*;
use crate::buffer::Buffer;

#[test]
fn a_batch_is_submitted_and_awaited_in_one_system_call() {
    let fixture = fixture(Kind::IoUring, 32 * 4096);
    let mut engine = engine(&fixture, 32, 64, None);
    let mut slab = slab(&mut engine);
    for token in 0..32 {
        slab.push(IoKind::Write, token * 4096, Buffer::unpooled(4096), token, false);
    }
    slab.engine.submit(32, None).unwrap();
    assert_eq!(slab.engine.syscalls(), 1);
    assert_eq!(slab.finish().len(), 32);
    assert_eq!(engine.syscalls(), 1);
}

#[test]
fn a_wait_for_several_is_ended_by_a_notification_too() {
    let fixture = fixture(Kind::IoUring, 4096);
    let mut engine = engine(&fixture, 4, 8, None);
    let Engine::Uring(uring) = &mut engine else { panic!("a ring") };
    uring.in_flight += 3; // as if a device were very slow
    let start = Instant::now();
    let thread = notify_after(Notifier::Uring(uring.notifier()), Duration::from_millis(5));
    uring.submit(3, None).unwrap();
    thread.join().unwrap();
    let begun = Instant::now();
    let _notifier = uring.notifier();
    uring.submit(3, Some(Duration::from_millis(20))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20));
    uring.in_flight -= 3;
    // The slices double from 0.5 ms to 8 ms, in each of the two waits.
    let most = 2 * 6 + start.elapsed().as_millis() / 8;
    assert!(u128::from(uring.syscalls()) <= most, "{} system calls", uring.syscalls());
}

#[test]
fn a_ring_that_nobody_polls_ends_its_waits_as_any_other() {
    let fixture = fixture(Kind::IoUring, 32 * 4096);
    let options = EngineOptions { private: true, ..EngineOptions::default() };
    let mut engine = fixture.disk.engine(&options, None).unwrap();
    let mut slab = slab(&mut engine);
    for token in 0..32 {
        slab.push(IoKind::Write, token * 4096, Buffer::unpooled(4096), token, false);
    }
    slab.engine.submit(8, None).unwrap();
    slab.engine.submit(24, Some(Duration::from_secs(20))).unwrap();
    assert_eq!(slab.finish().len(), 32);
    let Engine::Uring(uring) = &mut engine else { panic!("a ring") };
    let thread = notify_after(Notifier::Uring(uring.notifier()), Duration::from_millis(5));
    uring.submit(1, None).unwrap();
    thread.join().unwrap();
    let _notifier = uring.notifier();
    let begun = Instant::now();
    uring.submit(1, Some(Duration::from_millis(20))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_small_arena_is_registered_and_a_huge_one_is_not() {
    let fixture = fixture(Kind::IoUring, 4096);
    let small = Arena::new(4, 4096).unwrap();
    if engine(&fixture, 4, 8, Some(&small)).registered_bytes() == 0 {
        println!("SKIP: this process may not lock 16 KiB of memory");
    }
    let huge = Arena::new(2, 1 << 30).unwrap();
    let mut engine = engine(&fixture, 4, 8, Some(&huge));
    assert_eq!(engine.registered_bytes(), 0);
    let mut slab = slab(&mut engine);
    slab.push(IoKind::Read, 0, huge.lease(4096).unwrap(), 1, true);
    assert!(matches!(slab.finish()[&1].0, Ok(4096)));
}

#[test]
fn a_thread_of_the_kernel_takes_more_requests_than_its_ring_holds() {
    let fixture = fixture(Kind::IoUring, 1 << 20);
    let mut engine = sqpoll_engine(&fixture, 8, None);
    // The first of each round finds the thread asleep.
    for round in 0..3 {
        let mut slab = slab(&mut engine);
        for token in 0..200 {
            let mut buffer = Buffer::unpooled(4096);
            buffer.fill(round + 1);
            slab.push(IoKind::Write, token * 4096, buffer, token, false);
        }
        let ended = slab.finish();
        assert!(ended.len() <= 200 && ended.values().all(|(result, _)| matches!(result, Ok(4096))));
        std::thread::sleep(Duration::from_millis(u64::from(2 * SQPOLL_IDLE_MS)));
    }
    let mut bytes = vec![0; 200 * 4096];
    fixture.disk.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 3));
}

#[test]
fn nothing_goes_to_the_kernel_s_thread_before_it_is_submitted() {
    let fixture = fixture(Kind::IoUring, 4096);
    let mut engine = sqpoll_engine(&fixture, 8, None);
    // Awake, and looking.
    engine.submit(0, None).unwrap();
    let mut slab = slab(&mut engine);
    let mut buffer = Buffer::unpooled(4096);
    buffer.fill(7);
    slab.push(IoKind::Write, 0, buffer, 1, false);
    std::thread::sleep(Duration::from_millis(20));
    let mut bytes = [0; 4096];
    fixture.disk.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[0], 0);
    slab.finish();
    fixture.disk.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[0], 7);
}

#[test]
fn a_notification_ends_a_wait_beside_the_kernel_s_thread_too() {
    let fixture = fixture(Kind::IoUring, 4096);
    let mut engine = sqpoll_engine(&fixture, 8, None);
    for _ in 0..3 {
        let notifier = notify_after(engine.notifier(), Duration::from_millis(60));
        engine.submit(1, Some(Duration::from_secs(30))).unwrap();
        notifier.join().unwrap();
    }
}

#[test]
fn what_the_kernel_does_not_register_is_tried_with_half_as_much() {
    let up_to = |limit: usize| {
        move |length: usize| {
            assert!(length > 0 && length.is_multiple_of(4096));
            let full = || io::Error::from_raw_os_error(libc::ENOMEM);
            if length <= limit { Ok(()) } else { Err(full()) }
        }
    };
    assert_eq!(most_of(2 << 20, up_to(8 << 20)), 2 << 20);
    assert_eq!(most_of(2 << 20, up_to(300 << 10)), 256 << 10);
    assert_eq!(most_of(28 << 10, up_to(10 << 10)), 4096);
    assert_eq!(most_of(2 << 20, up_to(0)), 0);
}

/// A ring with room for one.
fn ring_for_one(fixture: &Fixture) -> Engine {
    engine(fixture, 1, 2, None)
}

fn push_read(slab: &mut Slab<'_>, token: u64) {
    slab.push(IoKind::Read, 0, Buffer::unpooled(4096), token, false);
}

/// How many requests the ring itself was given.
fn entries(engine: &Engine) -> u32 {
    let Engine::Uring(ring) = engine else { unreachable!("a ring: {engine:?}") };
    // The kernel counts what it took.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", ring.as_raw_fd())).unwrap();
    let count = info.lines().find_map(|line| line.strip_prefix("SqHead:")).unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn what_is_waited_for_alone_is_a_call() {
    let fixture = fixture(Kind::UnnamedRing, 8192);
    let mut engine = ring_for_one(&fixture);
    let mut slab = slab(&mut engine);
    for token in 0..4 {
        slab.push(IoKind::Write, 4096, Buffer::from_slice(&[7; 4096]), token, false);
        assert_eq!(slab.engine.in_flight(), 1);
        assert_eq!(slab.finish()[&token].0.as_ref().unwrap(), &4096);
    }
    assert_eq!((slab.engine.syscalls(), entries(slab.engine)), (4, 0));
    // Its errors are the kernel's.
    slab.push(IoKind::Read, u64::MAX - 4095, Buffer::unpooled(4096), 9, false);
    assert_eq!(slab.finish()[&9].0.as_ref().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(entries(slab.engine), 0);
}

#[test]
fn what_is_not_waited_for_alone_goes_by_the_ring() {
    let fixture = fixture(Kind::UnnamedRing, 8192);
    let mut engine = ring_for_one(&fixture);
    let mut slab = slab(&mut engine);
    // Submitted, and waited for later.
    push_read(&mut slab, 1);
    slab.engine.submit(0, None).unwrap();
    assert_eq!(entries(slab.engine), 1);
    assert_eq!(slab.finish().len(), 1);
    // Waited for until some time.
    push_read(&mut slab, 2);
    slab.engine.submit(1, Some(Duration::from_secs(10))).unwrap();
    assert_eq!(slab.finish().len(), 1);
    assert_eq!(entries(slab.engine), 2);
    // Polled for; the ring polls its own event as well.
    push_read(&mut slab, 3);
    slab.engine.prepare_to_poll().unwrap();
    assert_eq!(entries(slab.engine), 4);
    assert_eq!(slab.finish().len(), 1);
}

#[test]
fn a_held_request_keeps_its_place_and_is_not_lost() {
    let fixture = fixture(Kind::UnnamedRing, 8192);
    let mut engine = ring_for_one(&fixture);
    let notifier = engine.notifier();
    let mut slab = slab(&mut engine);
    push_read(&mut slab, 1);
    // There is room for one.
    let mut other = Buffer::unpooled(4096);
    let (ptr, len) = (other.as_mut_ptr(), other.len());
    let io = Io { kind: IoKind::Read, offset: 0, ptr, len, fixed: false, token: 2, zoned: None };
    // SAFETY: it is given back.
    assert!(unsafe { slab.engine.push(io) }.is_err());
    assert_eq!(slab.finish().len(), 1);
    // A notification in front of it ends no more than a wait.
    notifier.notify();
    push_read(&mut slab, 3);
    assert_eq!(slab.finish().len(), 1);
    // A ring that is named, or has a thread of the kernel, makes none.
    let named = super::super::tests::fixture(Kind::IoUring, 8192);
    for mut engine in [ring_for_one(&named), sqpoll_engine(&fixture, 1, None)] {
        let mut slab = super::super::tests::slab(&mut engine);
        push_read(&mut slab, 4);
        assert_eq!(slab.finish().len(), 1);
        assert!(entries(slab.engine) >= 1);
    }
}
