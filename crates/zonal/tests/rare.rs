//! What happens rarely on an image: space that cannot be given back, conditions without
//! room, a sync that fails under a durable write.

#![allow(clippy::unwrap_used, reason = "a failed test")]

use zonal::sim::{self, FaultPlan, IoKind, Outcome, SimDisk, SimImage, SimMode};
use zonal::{
    Buffer, Completion, ErrorKind, Flags, Geometry, OpenOptions, Queue, QueueOptions, Request,
    ZoneState,
};

const ZONE: u64 = 64 << 10;

fn geometry(zones: u64) -> Geometry {
    Geometry {
        zone_size: ZONE,
        zone_capacity: ZONE,
        max_append: 64 << 10,
        ..Geometry::with_size(zones * ZONE)
    }
}

/// An empty drive's image, and where its data begins.
fn image(geometry: &Geometry) -> (SimImage, u64) {
    let auto = SimMode::Auto { seed: 1, faults: FaultPlan::default() };
    let disk = SimDisk::new(&SimImage::new(0, 4096), auto);
    sim::create(&disk, geometry).unwrap();
    let image = disk.image();
    let data = image.len() - geometry.size.next_multiple_of(2 << 20);
    (image, data)
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

#[test]
fn space_that_cannot_be_given_back_does_not_stop_the_zone() {
    let geometry = geometry(2);
    let (image, data) = image(&geometry);
    // Punching the first zone meets its last block; the writes below do not.
    let bad = data + ZONE - 4096..data + ZONE;
    let faults = FaultPlan { bad_range: Some(bad), ..FaultPlan::default() };
    let disk = SimDisk::new(&image, SimMode::Auto { seed: 1, faults });
    let options = OpenOptions { discard: true, ..OpenOptions::default() };
    let drive = sim::open(&disk, &options).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for _ in 0..2 {
        let append = Request::append(0, Buffer::from_slice(&[7; 4096]));
        assert_eq!(run(&mut queue, append).result.unwrap(), 4096);
        run(&mut queue, Request::flush()).result.unwrap();
        run(&mut queue, Request::reset(0)).result.unwrap();
    }
}

#[test]
fn a_condition_that_the_image_has_no_room_for_is_refused() {
    let geometry = geometry(250);
    let (image, _) = image(&geometry);
    let auto = SimMode::Auto { seed: 1, faults: FaultPlan::default() };
    let disk = SimDisk::new(&image, auto);
    let drive = sim::open(&disk, &OpenOptions::default()).unwrap();
    for zone in 0..240 {
        drive.set_condition(zone, ZoneState::ReadOnly).unwrap();
    }
    let error = drive.set_condition(240, ZoneState::ReadOnly).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    drive.set_condition(0, ZoneState::Offline).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    run(&mut queue, Request::flush()).result.unwrap();
    drop(queue);
    drive.close().unwrap();
    let drive = sim::open(&disk, &OpenOptions::default()).unwrap();
    let states: Vec<_> = drive.report(..).unwrap().iter().map(|zone| zone.state).collect();
    assert_eq!(states[0], ZoneState::Offline);
    assert!(states[1..240].iter().all(|&state| state == ZoneState::ReadOnly));
    assert!(states[240..].iter().all(|&state| state == ZoneState::Empty));
}

#[test]
fn a_write_is_called_durable_only_if_it_is() {
    let geometry = geometry(2);
    let (image, _) = image(&geometry);
    let mut failed = 0;
    for sync in 0..8 {
        let faults = FaultPlan { fail_sync: Some(sync), ..FaultPlan::default() };
        let disk = SimDisk::new(&image, SimMode::Auto { seed: 1, faults });
        let Ok(drive) = sim::open(&disk, &OpenOptions::default()) else { continue };
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        let append = Request::append(0, Buffer::from_slice(&[7; 4096])).fua();
        let completion = run(&mut queue, append);
        assert_eq!(completion.flags.contains(Flags::DURABLE), completion.result.is_ok());
        failed += u32::from(completion.result.is_err());
    }
    assert!(failed > 0, "no sync failed under the write");
}

#[test]
fn a_long_ordered_append_has_its_zone_to_itself_until_it_has_ended() {
    let geometry = Geometry { max_append: 4096, ..geometry(2) };
    let disk = SimDisk::new(&image(&geometry).0, SimMode::Manual);
    let drive = sim::open(&disk, &OpenOptions::default()).unwrap();
    let mut first = drive.queue(&QueueOptions::default()).unwrap();
    let mut other = drive.queue(&QueueOptions::default()).unwrap();
    first.push(Request::append_ordered(0, Buffer::from_slice(&[1; 8192])).fua()).unwrap();
    first.submit().unwrap();
    assert_eq!(disk.pending().len(), 1, "it went on at once");
    // Both would be allowed behind a plain write.
    other.push(Request::write_at(8192, Buffer::from_slice(&[2; 4096])).tag(1)).unwrap();
    other.push(Request::open(0).tag(2)).unwrap();
    other.submit().unwrap();
    assert_eq!(disk.pending().len(), 1, "nothing enters beside it");
    assert!(other.next_completion().is_none());
    disk.complete(disk.pending()[0].id, Outcome::Ok);
    first.submit().unwrap();
    other.submit().unwrap();
    let behind = disk.pending().into_iter().find(|io| io.kind == IoKind::Write);
    assert!(behind.is_some_and(|io| io.len == 4096), "its own flush keeps nobody waiting");
    while let Some(io) = disk.pending().first() {
        disk.complete(io.id, Outcome::Ok);
        first.submit().unwrap();
        other.submit().unwrap();
    }
    let ended = first.next_completion().unwrap();
    assert!(ended.result.is_ok() && !ended.flags.contains(Flags::PARKED));
    let behind: Vec<_> = std::iter::from_fn(|| other.next_completion()).collect();
    assert!(behind.len() == 2 && behind.iter().all(|ended| ended.result.is_ok()), "{behind:?}");
}

#[test]
fn a_durable_write_does_not_wait_past_its_deadline_for_a_queue_that_nobody_drives() {
    let geometry = geometry(4);
    let disk = SimDisk::new(&image(&geometry).0, SimMode::Manual);
    let drive = sim::open(&disk, &OpenOptions::default()).unwrap();
    let mut idle = drive.queue(&QueueOptions::default()).unwrap();
    idle.push(Request::append(1, Buffer::from_slice(&[1; 4096]))).unwrap();
    idle.submit().unwrap();
    let in_flight = disk.pending()[0].id;
    let deadline = Some(std::time::Duration::from_millis(60));
    let mut queue = drive.queue(&QueueOptions { deadline, ..QueueOptions::default() }).unwrap();
    queue.push(Request::append(0, Buffer::from_slice(&[2; 4096])).fua()).unwrap();
    queue.submit().unwrap();
    let own = disk.pending().into_iter().find(|io| io.id != in_flight).unwrap();
    assert!(disk.complete(own.id, Outcome::Ok));
    queue.submit_and_wait(1).unwrap();
    // It is in its zone, at its place, and not refused; only that it is durable nobody knows.
    let ended = queue.next_completion().unwrap();
    let error = ended.result.unwrap_err();
    assert_eq!((error.kind(), ended.offset), (ErrorKind::Stalled, 0));
    assert!(!ended.flags.contains(Flags::REFUSED) && !ended.flags.contains(Flags::DURABLE));
    let text = error.to_string();
    assert!(text.contains("written") && text.contains("queues [0]"), "{text}");
    assert_eq!(ended.buffer.unwrap().len(), 4096);
    assert_eq!(drive.report(0..1).unwrap()[0].write_pointer, Some(4096));
    // Once the other queue is driven a flush serves it too.
    assert!(disk.complete(in_flight, Outcome::Ok));
    idle.submit().unwrap();
    queue.push(Request::flush()).unwrap();
    queue.submit().unwrap();
    while let Some(io) = disk.pending().first() {
        assert!(disk.complete(io.id, Outcome::Ok));
        queue.submit().unwrap();
    }
    queue.next_completion().unwrap().result.unwrap();
    drop((queue, idle));
    let cut = SimDisk::new(
        &disk.cut(&mut |_| 0),
        SimMode::Auto { seed: 1, faults: FaultPlan::default() },
    );
    let drive = sim::open(&cut, &OpenOptions::default()).unwrap();
    assert_eq!(drive.report(0..1).unwrap()[0].write_pointer, Some(4096));
}
