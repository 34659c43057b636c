//! The ring against the kernel it runs on.

use super::super::tests::{engine, fixture, notify_after, slab};
use super::super::{Engine, EngineKind, Notifier};
use super::*;
use crate::buffer::Buffer;

#[test]
fn a_batch_is_submitted_and_awaited_in_one_system_call() {
    let fixture = fixture(EngineKind::IoUring, 32 * 4096);
    let mut engine = engine(&fixture.disk, 32, 64, None);
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
    let fixture = fixture(EngineKind::IoUring, 4096);
    let mut engine = engine(&fixture.disk, 4, 8, None);
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
fn a_small_arena_is_registered_and_a_huge_one_is_not() {
    let fixture = fixture(EngineKind::IoUring, 4096);
    let small = Arena::new(4, 4096).unwrap();
    if !engine(&fixture.disk, 4, 8, Some(&small)).buffers_registered() {
        println!("SKIP: this process may not lock 16 KiB of memory");
    }
    let huge = Arena::new(2, 1 << 30).unwrap();
    let mut engine = engine(&fixture.disk, 4, 8, Some(&huge));
    assert!(!engine.buffers_registered());
    let mut slab = slab(&mut engine);
    slab.push(IoKind::Read, 0, huge.lease(4096).unwrap(), 1, true);
    assert!(matches!(slab.finish()[&1].0, Ok(4096)));
}
