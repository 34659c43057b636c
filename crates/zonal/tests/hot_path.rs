//! What an ordinary append or read must not do: allocate, lock, enter the kernel on its own.
//!
//! Counted, not timed, so that it holds on any machine: allocations by a global allocator that
//! counts for the thread, locks by the crate's one way to lock, system calls by the ring.

#![allow(clippy::unwrap_used, reason = "a failed test")]

#[path = "foreign/mod.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod foreign;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};
use zonal::{
    AdoptOptions, Buffer, CreateOptions, Device, EngineChoice, Geometry, OpenOptions, Preallocate,
    Queue, QueueOptions, Request, Target,
};

const BLOCK: usize = 4096;
const DEPTH: usize = 32;
const APPENDS: usize = 1000;

std::thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is handed on to the system's allocator, which keeps the contract; the
// counter is a plain cell of the thread, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The longest wait for which a system call of its own is no fault: a slow device may make a
/// wait look again so often.
const SLICE: Duration = Duration::from_micros(500);

/// What a piece of work cost.
#[derive(Debug)]
struct Cost {
    /// How many waits of [`SLICE`] it took at most.
    slices: u64,
    allocations: u64,
    /// `None` where the build does not count.
    locks: Option<u64>,
    system_calls: u64,
}

fn cost(queue: &mut Queue, work: impl FnOnce(&mut Queue)) -> Cost {
    let calls = queue.system_calls();
    let (allocations, locks) = (ALLOCATIONS.get(), zonal::locks_taken());
    let start = Instant::now();
    work(queue);
    let slices = start.elapsed().as_micros() / SLICE.as_micros();
    Cost {
        slices: u64::try_from(slices).unwrap(),
        allocations: ALLOCATIONS.get() - allocations,
        locks: zonal::locks_taken().zip(locks).map(|(after, before)| after - before),
        system_calls: queue.system_calls() - calls,
    }
}

fn geometry() -> Geometry {
    Geometry { zone_size: 16 << 20, zone_capacity: 16 << 20, ..Geometry::with_size(64 << 20) }
}

/// Pushes as many requests as the queue holds, waits for all, and so on; buffers are leased
/// and given back each time.
fn run(queue: &mut Queue, count: usize, request: impl FnMut(usize, Buffer) -> Request) {
    run_in(DEPTH, queue, count, request);
}

/// The same, so many at a time.
fn run_in(
    batch: usize,
    queue: &mut Queue,
    count: usize,
    mut request: impl FnMut(usize, Buffer) -> Request,
) {
    let mut sent = 0;
    while sent < count {
        let batch = batch.min(count - sent);
        for n in sent..sent + batch {
            let buffer = queue.buffer(BLOCK).expect("as many buffers as requests");
            queue.push(request(n, buffer)).expect("the queue has room");
        }
        queue.submit_and_wait(batch).unwrap();
        while let Some(completion) = queue.next_completion() {
            completion.result.unwrap();
        }
        sent += batch;
    }
}

fn append(zones: u32) -> impl FnMut(usize, Buffer) -> Request {
    move |n, buffer| Request::append(u32::try_from(n).unwrap() % zones, buffer)
}

fn read(n: usize, buffer: Buffer) -> Request {
    Request::read_at((n % 100 * BLOCK) as u64, buffer)
}

fn write(zone: u64) -> impl FnMut(usize, Buffer) -> Request {
    move |n, buffer| Request::write_at((zone << 24) + (n * BLOCK) as u64, buffer)
}

/// What a piece of work may cost.
struct Budget {
    system_calls: u64,
    locks: u64,
}

fn check(what: &str, cost: &Cost, budget: &Budget) {
    assert_eq!(cost.allocations, 0, "{what}: {cost:?}");
    match cost.locks {
        Some(locks) => assert!(locks <= budget.locks, "{what}: {cost:?}"),
        None => eprintln!("SKIP counting locks: this build has no debug assertions"),
    }
    let calls_max = match budget.system_calls {
        0 => 0,
        calls => calls + cost.slices,
    };
    assert!(cost.system_calls <= calls_max, "{what}: {cost:?}, of {calls_max}");
}

fn exercise(drive: &Device, budget: &Budget) {
    let options = QueueOptions { depth: 32, buffer_bytes: BLOCK, ..QueueOptions::default() };
    let mut queue = drive.queue(&options).unwrap();
    // Zones are opened and the ring's own poll is armed once; that is not the hot path.
    run(&mut queue, 200, append(2));
    run(&mut queue, 200, read);

    let appends = cost(&mut queue, |queue| run(queue, APPENDS, append(1)));
    check("appends to one zone", &appends, budget);
    let appends = cost(&mut queue, |queue| run(queue, APPENDS, append(2)));
    check("appends to two zones", &appends, budget);
    let reads = cost(&mut queue, |queue| run(queue, APPENDS, read));
    check("reads", &reads, budget);

    run(&mut queue, 1, write(3));
    let mut rest = write(3);
    let writes = cost(&mut queue, |queue| run(queue, APPENDS, |n, buffer| rest(n + 1, buffer)));
    check("plain writes", &writes, budget);
    let mut order = |_, buffer| Request::append_ordered(0, buffer);
    let ordered = cost(&mut queue, |queue| run(queue, APPENDS, &mut order));
    check("ordered appends", &ordered, budget);
}

#[test]
fn a_thousand_appends_in_memory_allocate_lock_and_call_nothing() {
    let drive = zonal::open(&Target::Memory(geometry()), &OpenOptions::default()).unwrap();
    exercise(&drive, &Budget { system_calls: 0, locks: 0 });
    drive.close().unwrap();
}

/// An image in a folder, opened over an engine. Its blocks were written before: those that are
/// allocated on the way may take longer than one wait.
fn image(engine: EngineChoice) -> (tempfile::TempDir, Device) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let preallocate = Preallocate::Full;
    let options = CreateOptions { geometry: geometry(), preallocate, force: false, progress: None };
    zonal::create(&path, options).unwrap();
    let options = OpenOptions { engine, ..OpenOptions::default() };
    (folder, zonal::open(&Target::Path(path), &options).unwrap())
}

/// How often [`run`] waits for [`APPENDS`] requests.
const BATCHES: u64 = APPENDS.div_ceil(DEPTH) as u64;

#[test]
fn a_thousand_appends_to_an_image_allocate_and_lock_nothing_and_call_once_a_batch() {
    let (_folder, drive) = image(EngineChoice::IoUring);
    exercise(&drive, &Budget { system_calls: BATCHES, locks: 0 });
    drive.close().unwrap();
}

#[test]
fn one_at_a_time_is_one_call_each_and_allocates_and_locks_nothing() {
    let (_folder, drive) = image(EngineChoice::Auto);
    if drive.limits().engine != "io_uring" {
        return eprintln!("SKIP: this machine has no io_uring");
    }
    // A batch as large as the depth, as of `zonal bench`, is no reason to send it before it is waited for.
    let batch = Some(1);
    let options = QueueOptions { depth: 1, buffer_bytes: BLOCK, batch, ..QueueOptions::default() };
    let mut queue = drive.queue(&options).unwrap();
    assert!(queue.makes_calls());
    run_in(1, &mut queue, 200, append(2));
    let one_by_one = cost(&mut queue, |queue| run_in(1, queue, APPENDS, append(2)));
    check("appends", &one_by_one, &Budget { system_calls: APPENDS as u64, locks: 0 });
    assert_eq!(one_by_one.system_calls, APPENDS as u64, "each is a call, whatever it waits for");
    drop(queue);
    drive.close().unwrap();
}

#[test]
fn a_thousand_appends_over_threads_allocate_nothing_and_lock_a_few_times_a_batch() {
    let (_folder, drive) = image(EngineChoice::Threads);
    // A call for each record, made by a worker, and two for a sleep. Locked are what goes to the
    // workers, what comes from them (looked for before a wait as well), and each look in a wait.
    exercise(
        &drive,
        &Budget { system_calls: APPENDS as u64 + 2 * 2 * BATCHES, locks: 8 * BATCHES },
    );
    drive.close().unwrap();
}

#[test]
fn a_thousand_appends_to_scattered_clusters_allocate_and_lock_nothing_either() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let options = AdoptOptions { zone_size: Some(16 << 20), ..AdoptOptions::default() };
    if foreign::adopted(&path, 64 << 20, 64 << 10, options).is_none() {
        return;
    }
    let drive = zonal::open(&Target::Path(path), &OpenOptions::default()).unwrap();
    // Written before, and by that allocated below as well.
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for zone in 0..4 {
        let mut left = 16 << 20;
        while left > 0 {
            let mut buffer = queue.buffer(64 << 10).unwrap();
            buffer.fill(1);
            queue.push(Request::append(zone, buffer)).unwrap();
            queue.submit_and_wait(1).unwrap();
            queue.next_completion().unwrap().result.unwrap();
            left -= 64 << 10;
        }
    }
    for request in [Request::flush(), Request::reset_all()] {
        queue.push(request).unwrap();
        queue.submit_and_wait(1).unwrap();
        queue.next_completion().unwrap().result.unwrap();
    }
    drop(queue);
    exercise(&drive, &Budget { system_calls: BATCHES, locks: 0 });
    drive.close().unwrap();
}

#[test]
fn flushes_submitted_together_share_one_round() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let preallocate = Preallocate::Off;
    let options = CreateOptions { geometry: geometry(), preallocate, force: false, progress: None };
    zonal::create(&path, options).unwrap();
    let drive = zonal::open(&Target::Path(path), &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    run(&mut queue, 200, append(2));
    let before = drive.metrics();
    for _ in 0..64 {
        queue.push(Request::flush()).unwrap();
    }
    queue.submit_and_wait(64).unwrap();
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
    }
    let after = drive.metrics();
    assert_eq!(after.data_syncs - before.data_syncs, 1);
    assert_eq!(after.table_writes - before.table_writes, 1);
    drop(queue);
    drive.close().unwrap();
}

#[test]
fn the_counters_count() {
    let drive = zonal::open(&Target::Memory(geometry()), &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let cost = cost(&mut queue, |queue| {
        run(queue, 1, |_, _| Request::flush());
        drop(std::hint::black_box(Box::new(1)));
    });
    assert!(cost.allocations > 0, "{cost:?}");
    assert_ne!(cost.locks, Some(0), "{cost:?}");
}
