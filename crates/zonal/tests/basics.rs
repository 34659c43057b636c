//! The main things on each drive: append and find again, flush, reset, finish, reopen.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod engines;

use engines::over_each_engine;
use zonal::{
    CreateOptions, Device, EngineChoice, ErrorKind, Geometry, OpenOptions, Preallocate, Queue,
    QueueOptions, Request, Target, ZoneState,
};

fn geometry() -> Geometry {
    Geometry { zone_size: 4 << 20, zone_capacity: 3 << 20, ..Geometry::with_size(32 << 20) }
}

fn memory() -> Device {
    zonal::open(&Target::Memory(geometry()), &OpenOptions::default()).unwrap()
}

fn run(queue: &mut Queue, request: Request) -> zonal::Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

fn filled(queue: &Queue, length: usize, byte: u8) -> zonal::Buffer {
    let mut buffer = queue.buffer(length).unwrap();
    buffer.fill(byte);
    buffer
}

fn exercise(drive: &Device) {
    let mut queue = drive.queue(&QueueOptions { depth: 64, ..QueueOptions::default() }).unwrap();
    for n in 0..32_u8 {
        let data = filled(&queue, 8192, n + 1);
        queue.push(Request::append(u32::from(n % 2), data).tag(n.into())).unwrap();
    }
    queue.submit_and_wait(32).unwrap();
    let mut places = Vec::new();
    while let Some(completion) = queue.next_completion() {
        assert_eq!(completion.result.unwrap(), 8192);
        places.push((completion.offset, u8::try_from(completion.tag).unwrap() + 1));
    }
    places.sort_unstable();
    assert_eq!(places.len(), 32);
    for pair in places.windows(2) {
        assert!(pair[0].0 + 8192 <= pair[1].0);
    }
    for &(offset, byte) in &places {
        let into = queue.buffer(8192).unwrap();
        let completion = run(&mut queue, Request::read_at(offset, into));
        completion.result.unwrap();
        assert!(completion.buffer.unwrap().iter().all(|&b| b == byte));
    }
    // Behind the write pointer are zeros.
    let into = queue.buffer(8192).unwrap();
    let completion = run(&mut queue, Request::read_at(16 * 8192, into));
    assert!(completion.buffer.unwrap().iter().all(|&b| b == 0));

    assert!(run(&mut queue, Request::flush()).result.is_ok());
    let data = filled(&queue, 4096, 9);
    let completion = run(&mut queue, Request::write_at(4096, data));
    assert_eq!(completion.result.unwrap_err().kind(), ErrorKind::NotAtWritePointer);
    let data = filled(&queue, 4096, 9);
    assert!(run(&mut queue, Request::write_at(16 * 8192, data).fua()).result.is_ok());

    assert!(run(&mut queue, Request::finish(0)).result.is_ok());
    assert!(run(&mut queue, Request::reset(1)).result.is_ok());
    assert!(run(&mut queue, Request::open(2)).result.is_ok());
    let data = filled(&queue, 4096, 5);
    assert_eq!(run(&mut queue, Request::append(1, data)).offset, 4 << 20);
    let states: Vec<_> = drive.report(0..3).unwrap().iter().map(|zone| zone.state).collect();
    assert_eq!(states, [ZoneState::Full, ZoneState::ImplicitlyOpen, ZoneState::ExplicitlyOpen]);
    assert!(run(&mut queue, Request::close(2)).result.is_ok());
    assert!(run(&mut queue, Request::reset_all()).result.is_ok());
    assert!(drive.report(..).unwrap().iter().all(|zone| zone.state == ZoneState::Empty));
    let data = filled(&queue, 4096, 6);
    assert_eq!(run(&mut queue, Request::append(0, data)).offset, 0);
}

#[test]
fn a_drive_ends_where_its_shorter_last_zone_does() {
    let target = Target::parse("mem:size=17M,zone-size=4M").unwrap();
    let drive = zonal::open(&target, &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for offset in [17 << 20, 18 << 20, 20 << 20] {
        let write = Request::write_at(offset, filled(&queue, 4096, 1));
        let error = run(&mut queue, write).result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{offset}");
    }
}

#[test]
fn a_memory_drive_does_what_it_says() {
    let drive = memory();
    exercise(&drive);
    drive.close().unwrap();
}

over_each_engine! {
    an_image_does_what_it_says_and_keeps_it,
}

fn an_image_does_what_it_says_and_keeps_it(engine: EngineChoice) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let options = CreateOptions {
        geometry: geometry(),
        preallocate: Preallocate::Off,
        force: false,
        progress: None,
    };
    zonal::create(&path, options).unwrap();
    let target = Target::Path(path.clone());
    let options = OpenOptions { engine, ..OpenOptions::default() };
    let drive = zonal::open(&target, &options).unwrap();
    exercise(&drive);
    drive.close().unwrap();

    let drive = zonal::open(&target, &options).unwrap();
    let report = drive.report(..).unwrap();
    assert_eq!(report[0].state, ZoneState::Closed);
    assert_eq!(report[0].write_pointer, Some(4096));
    assert!(report[1..].iter().all(|zone| zone.state == ZoneState::Empty));
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let into = queue.buffer(8192).unwrap();
    let completion = run(&mut queue, Request::read_at(0, into));
    let bytes = completion.buffer.unwrap();
    assert!(bytes[..4096].iter().all(|&b| b == 6) && bytes[4096..].iter().all(|&b| b == 0));
    drop(queue);
    drive.close().unwrap();
    let report = zonal::check(&path, &zonal::CheckOptions { deep: true }).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}
