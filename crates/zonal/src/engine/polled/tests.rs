//! Two rings against the kernel they run on.

use super::super::tests::{Kind, engine, fixture, notify_after, slab};
use super::super::{Engine, EngineKind, IoKind, Notifier};
use super::*;
use crate::buffer::Buffer;
use crate::sys::file::Access;

fn two_rings(engine: &mut Engine) -> &mut Polled {
    match engine {
        Engine::Polled(polled) => polled,
        Engine::Uring(_)
        | Engine::Files(_)
        | Engine::Nvme(_)
        | Engine::PolledNvme(_)
        | Engine::Threads(_)
        | Engine::Sim(_)
        | Engine::Faulty(_) => panic!("not two rings"),
    }
}

#[test]
fn reads_and_writes_are_polled_for_and_all_else_is_the_second_ring_s() {
    let fixture = fixture(Kind::TwoRings, 1 << 20);
    let mut engine = engine(&fixture, 8, 16, None);
    let kinds = [
        (IoKind::Read, true),
        (IoKind::Write, true),
        (IoKind::WriteDurable, false),
        (IoKind::SyncData, false),
        (IoKind::Zero, false),
    ];
    for (token, (kind, is_polled)) in (0..).zip(kinds) {
        let mut slab = slab(&mut engine);
        slab.push(kind, 0, Buffer::unpooled(4096), token, false);
        let rings = two_rings(slab.engine);
        let expected = if is_polled { (1, 0) } else { (0, 1) };
        let found = (rings.polled.in_flight(), rings.ordinary.in_flight());
        assert_eq!(found, expected, "{kind:?}");
        assert_eq!(slab.finish().len(), 1);
    }
}

#[test]
fn a_wait_for_both_rings_sees_each_and_takes_no_longer_than_it_may() {
    let fixture = fixture(Kind::TwoRings, 1 << 20);
    let mut engine = engine(&fixture, 32, 64, None);
    for round in 0..50 {
        let mut slab = slab(&mut engine);
        for token in 0..16 {
            let kind = if token % 4 == 0 { IoKind::WriteDurable } else { IoKind::Write };
            slab.push(kind, token * 4096, Buffer::unpooled(4096), token, false);
        }
        slab.engine.submit(16, None).unwrap();
        let rings = two_rings(slab.engine);
        assert_eq!(rings.polled.ended() + rings.ordinary.ended(), 16, "{round}");
        assert_eq!(slab.finish().len(), 16);
    }
    let begun = Instant::now();
    engine.submit(1, Some(Duration::from_millis(30))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_slow_device_hides_neither_a_notification_nor_the_clock_nor_the_second_ring() {
    let fixture = fixture(Kind::TwoRings, 1 << 20);
    let mut engine = engine(&fixture, 8, 16, None);
    two_rings(&mut engine).polled.pretend_in_flight(1);
    let notifier = Notifier::Uring(two_rings(&mut engine).notifier());
    let thread = notify_after(notifier.clone(), Duration::from_millis(5));
    let begun = Instant::now();
    engine.submit(1, Some(Duration::from_secs(10))).unwrap();
    let notified = begun.elapsed();
    thread.join().unwrap();
    // It was taken in: the next wait is not ended by it.
    let begun = Instant::now();
    engine.submit(1, Some(Duration::from_millis(20))).unwrap();
    let timed = begun.elapsed();
    let may_sleep = engine.prepare_to_poll().unwrap();
    let mut slab = slab(&mut engine);
    slab.push(IoKind::SyncData, 0, Buffer::unpooled(0), 1, false);
    slab.engine.submit(1, Some(Duration::from_secs(10))).unwrap();
    let synced = two_rings(slab.engine).ordinary.ended();
    two_rings(slab.engine).polled.pretend_in_flight(-1);
    assert_eq!(slab.finish().len(), 1);
    assert!(notified < Duration::from_secs(5), "{notified:?}");
    assert!((20..5000).contains(&timed.as_millis()), "{timed:?}");
    assert!(!may_sleep, "the device has to be asked");
    assert_eq!(synced, 1, "the sync was not seen");
    assert!(engine.prepare_to_poll().unwrap(), "nothing is left to ask for");
}

#[test]
fn one_request_at_a_time_of_a_file_without_a_named_engine_is_asked_for_too() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = FileDisk::open(&directory.path().join("a"), Access::CreateNew).unwrap().or_threads();
    let options =
        EngineOptions { hipri: true, sq_entries: 1, cq_entries: 2, ..EngineOptions::default() };
    // A call would succeed.
    let tried = Uring::new(&file, &options, None).and_then(|mut ring| ring.try_reading());
    assert_eq!(tried.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
}

#[test]
fn what_cannot_be_polled_is_refused_with_what_is_missing() {
    let options = EngineOptions { hipri: true, ..EngineOptions::default() };
    let refusal = |kind| fixture(kind, 1 << 20).disk.engine(&options, None).err();
    let text = refusal(Kind::Threads).unwrap().to_string();
    assert!(text.contains("threads") && text.contains("io_uring"), "{text}");
    let Some(error) = refusal(Kind::Polled) else {
        return println!("SKIP: the device beneath the test program can be polled");
    };
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("io_poll is 0") || text.contains("refuses a polled read"), "{text}");
    assert!(text.contains("leave hipri out"), "{text}");
    // A file whose blocks are in the page cache alone has no device.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = FileDisk::open(&directory.path().join("a"), Access::CreateNew).unwrap();
    let text = Uring::new(&file, &options, None).and_then(|mut ring| ring.try_reading());
    assert_eq!(text.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    let file = file.with_engine(EngineKind::IoUring);
    let text = Polled::new(&file, &options, None).unwrap_err().to_string();
    assert!(text.contains("refuses a polled read") || text.contains("no direct I/O"), "{text}");
}
