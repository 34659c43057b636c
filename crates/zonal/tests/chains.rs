//! Linked requests, offsets stored in a place of the caller's, completions as pairs.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;
use zonal::sim::{FaultPlan, Outcome, SimDisk, SimImage, SimMode};
use zonal::{
    Buffer, Completion, CreateOptions, Device, ErrorKind, Flags, Geometry, OpenOptions,
    Preallocate, Queue, QueueOptions, Request, Target,
};

const BLOCK: u64 = 4096;
const ZONE: u64 = 1 << 20;

fn geometry() -> Geometry {
    Geometry { zone_size: ZONE, zone_capacity: ZONE, ..Geometry::with_size(8 * ZONE) }
}

fn memory() -> Device {
    zonal::open(&Target::Memory(geometry()), &OpenOptions::default()).unwrap()
}

fn image() -> (TempDir, Device) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let preallocate = Preallocate::Off;
    let options = CreateOptions { geometry: geometry(), preallocate, force: false, progress: None };
    zonal::create(&path, options).unwrap();
    let drive = zonal::open(&Target::Path(path), &OpenOptions::default()).unwrap();
    (folder, drive)
}

fn each(test: impl Fn(&Device)) {
    test(&memory());
    let (_folder, drive) = image();
    test(&drive);
}

fn append(zone: u32) -> Request {
    Request::append(zone, Buffer::unpooled(BLOCK as usize))
}

/// An append that is refused.
fn refused(zone: u32) -> Request {
    Request::append(zone, Buffer::unpooled(17))
}

fn run(queue: &mut Queue, requests: impl IntoIterator<Item = Request>) -> Vec<Completion> {
    let mut count = 0;
    for (tag, request) in (0..).zip(requests) {
        queue.push(request.tag(tag)).unwrap();
        count += 1;
    }
    queue.submit_and_wait(count).unwrap();
    let completions: Vec<_> = std::iter::from_fn(|| queue.next_completion()).collect();
    assert_eq!(completions.len(), count);
    assert_eq!(queue.in_flight(), 0);
    completions
}

/// The kind of each request's error, by tag.
fn kinds(completions: &[Completion]) -> Vec<Option<ErrorKind>> {
    let mut kinds: Vec<_> =
        completions.iter().map(|c| (c.tag, c.result.as_ref().err().map(|e| e.kind()))).collect();
    kinds.sort_unstable_by_key(|(tag, _)| *tag);
    kinds.into_iter().map(|(_, kind)| kind).collect()
}

const CANCELLED: Option<ErrorKind> = Some(ErrorKind::Cancelled);

#[test]
fn linked_requests_are_carried_out_one_after_the_other() {
    each(|drive| {
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let chain = (0..50).map(|n| if n < 49 { append(1).linked() } else { Request::flush() });
        let completions = run(&mut queue, chain);
        for (n, completion) in (0..).zip(&completions[..49]) {
            assert_eq!((completion.tag, completion.offset), (n, ZONE + n * BLOCK));
        }
        assert!(completions.iter().all(|completion| completion.result.is_ok()));
    });
}

#[test]
fn what_follows_a_failure_in_its_chain_is_cancelled_and_nothing_else() {
    each(|drive| {
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let requests = [
            append(0).linked(),
            refused(0).linked(),
            append(1).linked(),
            Request::reset(0),
            append(2).linked(),
            append(3),
            append(4),
        ];
        let completions = run(&mut queue, requests);
        let refusal = Some(ErrorKind::InvalidInput);
        assert_eq!(kinds(&completions), [None, refusal, CANCELLED, CANCELLED, None, None, None]);
        let cancelled = completions.iter().find(|completion| completion.tag == 2).unwrap();
        assert!(cancelled.flags.contains(Flags::REFUSED));
        assert_eq!(cancelled.offset, ZONE);
        assert_eq!(cancelled.buffer.as_ref().unwrap().len() as u64, BLOCK);
        let written: Vec<_> = drive
            .report(0..5)
            .unwrap()
            .iter()
            .map(|z| z.write_pointer.unwrap() - z.start)
            .collect();
        assert_eq!(written, [BLOCK, 0, BLOCK, BLOCK, BLOCK]);
    });
}

#[test]
fn a_link_holds_for_the_request_that_is_pushed_next_whenever_that_is() {
    let drive = memory();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    assert_eq!(kinds(&run(&mut queue, [refused(0).linked()])), [Some(ErrorKind::InvalidInput)]);
    assert_eq!(kinds(&run(&mut queue, [append(0)])), [CANCELLED]);
    assert_eq!(kinds(&run(&mut queue, [append(0)])), [None]);
    assert_eq!(kinds(&run(&mut queue, [append(0).linked()])), [None]);
    assert_eq!(kinds(&run(&mut queue, [append(0)])), [None]);
}

/// On a simulated disk that does nothing by itself.
fn held_up() -> (SimDisk, Device) {
    let making = SimMode::Auto { seed: 1, faults: FaultPlan::default() };
    let made = SimDisk::new(&SimImage::new(0, 4096), making);
    zonal::sim::create(&made, &geometry()).unwrap();
    let disk = SimDisk::new(&made.image(), SimMode::Manual);
    let drive = zonal::sim::open(&disk, &OpenOptions::default()).unwrap();
    (disk, drive)
}

#[test]
fn a_linked_request_takes_no_place_before_its_turn_nor_after_a_failed_write() {
    let (disk, drive) = held_up();
    let mut queue = drive.queue(&QueueOptions { depth: 3, ..QueueOptions::default() }).unwrap();
    for request in [append(0).linked(), append(1).linked(), append(2)] {
        queue.push(request).unwrap();
    }
    assert!(queue.push(append(3)).is_err(), "those that wait count against the depth");
    queue.submit().unwrap();
    let wp = |zone: u32| drive.report(zone..=zone).unwrap()[0].write_pointer.unwrap();
    for (zone, outcome) in [(0, Outcome::Ok), (1, Outcome::Fail(5))] {
        assert_eq!(disk.pending().len(), 1);
        assert_eq!(wp(zone), u64::from(zone) * ZONE + BLOCK);
        assert_eq!(wp(zone + 1), u64::from(zone + 1) * ZONE, "its turn has not come");
        assert!(disk.complete(disk.pending()[0].id, outcome));
        queue.submit().unwrap();
    }
    assert!(disk.pending().is_empty());
    let ends: Vec<_> = std::iter::from_fn(|| queue.next_completion())
        .map(|completion| completion.result.map_err(|error| error.kind()))
        .collect();
    assert_eq!(ends, [Ok(4096), Err(ErrorKind::Io), Err(ErrorKind::Cancelled)]);
    assert_eq!(wp(2), 2 * ZONE);
}

#[test]
fn a_queue_that_is_dropped_never_starts_what_waits_in_a_chain() {
    let (disk, drive) = held_up();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    queue.push(append(0).linked()).unwrap();
    queue.push(append(1)).unwrap();
    queue.submit().unwrap();
    assert!(disk.complete(disk.pending()[0].id, Outcome::Ok));
    drop(queue);
    assert_eq!(drive.report(1..=1).unwrap()[0].write_pointer, Some(ZONE));
}

#[test]
fn the_offset_is_stored_before_the_completion_is_there_and_only_on_success() {
    static LASTING: AtomicU64 = AtomicU64::new(u64::MAX);
    each(|drive| {
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let place = Arc::new(AtomicU64::new(u64::MAX));
        run(&mut queue, [refused(1).report_to(place.clone())]);
        assert_eq!(place.load(Ordering::Acquire), u64::MAX, "untouched on an error");
        run(&mut queue, [append(1).report_to(place.clone())]);
        assert_eq!(place.load(Ordering::Acquire), ZONE);
        LASTING.store(u64::MAX, Ordering::Release);
        let ordered = Request::append_ordered(1, Buffer::unpooled(BLOCK as usize));
        run(&mut queue, [ordered.report_to(&LASTING)]);
        assert_eq!(LASTING.load(Ordering::Acquire), ZONE + BLOCK);
        // A form that cannot be given is refused, and does nothing.
        let refusal = run(&mut queue, [Request::finish(1).report_to(place.clone())]);
        assert_eq!(kinds(&refusal), [Some(ErrorKind::Unsupported)]);
        assert_eq!(refusal[0].aio().res, -95, "EOPNOTSUPP");
        assert_eq!(drive.report(1..=1).unwrap()[0].write_pointer, Some(ZONE + 2 * BLOCK));
        assert_eq!(Arc::strong_count(&place), 1, "nobody keeps it");
    });
}

#[test]
fn a_busy_poll_finds_offset_and_result() {
    each(|drive| {
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let place = Arc::new(AtomicU64::new(u64::MAX));
        queue.push(append(2).report_to(place.clone())).unwrap();
        let completion = loop {
            queue.submit().unwrap();
            if let Some(completion) = queue.next_completion() {
                break completion;
            }
            std::hint::spin_loop();
        };
        assert_eq!(completion.offset, 2 * ZONE);
        assert_eq!(place.load(Ordering::Acquire), 2 * ZONE);
        let event = completion.aio();
        assert_eq!((event.res, event.res2), (4096, 2 * ZONE));
    });
}

#[test]
fn handles_report_to_places_too_and_refuse_links() {
    let drive = memory();
    let place = Arc::new(AtomicU64::new(u64::MAX));
    let request = append(3).report_to(place.clone()).tag(9);
    let completion = drive.request(request).wait();
    assert_eq!((completion.tag, place.load(Ordering::Acquire)), (9, 3 * ZONE));
    let completion = drive.request(append(3).linked()).wait();
    assert_eq!(completion.result.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(completion.buffer.is_some());
    drive.append(3, vec![0; BLOCK as usize]).wait().unwrap();
}
