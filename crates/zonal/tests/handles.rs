//! Handles from many tasks, under several runtimes and under none.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use futures::FutureExt;
use futures::executor::block_on;
use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zonal::sim::{FaultPlan, Outcome, SimDisk, SimImage, SimMode};
use zonal::{
    Buffer, CreateOptions, Device, ErrorKind, Flags, Geometry, HandleOptions, OpenOptions,
    Preallocate, QueueOptions, Request, Target, Zone, ZoneState,
};

const BLOCK: usize = 4096;
const ZONES: u32 = 64;
const ZONE_BYTES: u64 = 1 << 20;

fn geometry() -> Geometry {
    let size = u64::from(ZONES) * ZONE_BYTES;
    Geometry { zone_size: ZONE_BYTES, zone_capacity: ZONE_BYTES, ..Geometry::with_size(size) }
}

fn memory() -> Device {
    zonal::open(&Target::Memory(geometry()), &OpenOptions::default()).unwrap()
}

fn image() -> (TempDir, Device) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let options = CreateOptions {
        geometry: geometry(),
        preallocate: Preallocate::Off,
        force: false,
        progress: None,
    };
    zonal::create(&path, options).unwrap();
    let drive = zonal::open(&Target::Path(path), &OpenOptions::default()).unwrap();
    (folder, drive)
}

/// A record in which every 8 bytes are its number.
fn record(drive: &Device, number: u64) -> Buffer {
    let mut buffer = drive.buffer(BLOCK);
    buffer.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes()));
    buffer
}

/// The number a block is full of; none if it is torn.
fn number_of(block: &[u8]) -> Option<u64> {
    let mut words = block.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let first = words.next()?;
    words.all(|word| word == first).then_some(first)
}

/// Threads of this process whose name begins so.
fn io_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    tasks.map(name).filter(|name| name.starts_with("zonal-io")).count()
}

/// So many I/O threads there are, at the latest a moment from now: one that was joined may still
/// be listed.
fn assert_io_threads(count: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while io_threads() != count {
        assert!(Instant::now() < end, "there are {}, not {count}", io_threads());
        std::thread::yield_now();
    }
}

/// User and system time of the I/O threads so far, in clock ticks.
fn io_ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stat = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default()
    };
    let of_one = |stat: String| {
        let (name, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        name.contains("(zonal-io").then(|| -> u64 {
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
    };
    tasks.map(stat).filter_map(of_one).sum()
}

/// One test at a time, as some count the threads of the process.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A future that is polled once and then left.
async fn poll_once<T>(operation: T)
where
    T: Future,
{
    let mut operation = pin!(operation);
    std::future::poll_fn(|context| {
        let _ = operation.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

/// Every block of the drive that is not zero, which must be a whole record and there once.
fn records(drive: &Device) -> HashSet<u64> {
    let mut found = HashSet::new();
    for zone in 0..ZONES {
        for record in drive.zone(zone).unwrap().records(BLOCK).unwrap() {
            let number = number_of(&record.unwrap().bytes).expect("a record is not torn");
            assert!(number == 0 || found.insert(number), "{number} is there twice");
        }
    }
    found
}

fn ten_thousand(drive: &Device) {
    const COUNT: u64 = 10_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let acknowledged = runtime.block_on(async {
        let tasks: Vec<_> = (1..=COUNT)
            .map(|number| {
                let drive = drive.clone();
                tokio::spawn(async move {
                    let append = drive.append((number % 64) as u32, record(&drive, number));
                    if number % 2 == 0 {
                        poll_once(append).await;
                        return None;
                    }
                    let landed = append.await.unwrap();
                    assert_eq!(number_of(&landed.buffer), Some(number));
                    Some((number, landed.offset))
                })
            })
            .collect();
        let mut acknowledged = Vec::new();
        for task in tasks {
            acknowledged.extend(task.await.unwrap());
        }
        acknowledged
    });
    assert_eq!(acknowledged.len() as u64, COUNT / 2);
    for (number, offset) in acknowledged.iter().take(500) {
        let read = drive.read_at(*offset, drive.buffer(BLOCK)).wait().unwrap();
        assert_eq!(number_of(&read.buffer), Some(*number));
    }
    // What was dropped is under way still, or gone; a flush waits for it.
    drive.flush().wait().unwrap();
    let found = records(drive);
    assert!(acknowledged.iter().all(|(number, _)| found.contains(number)), "one is lost");
    assert!(found.iter().all(|&number| number <= COUNT), "one was never written");
    assert_eq!(drive.metrics().failed, 0);
}

/// Every leased buffer is back: as many as there are can be leased, and the next is not one.
fn assert_no_lease_is_out(drive: &Device) {
    let operations = drive.limits().operations_max as usize;
    let leased: Vec<_> = (0..=operations).map(|_| drive.buffer(BLOCK)).collect();
    let pooled = |buffer: &&Buffer| format!("{buffer:?}").contains("pooled");
    assert_eq!(leased.iter().filter(pooled).count(), operations);
}

#[test]
fn of_ten_thousand_appends_half_of_them_dropped_nothing_is_lost_in_memory() {
    let _alone = alone();
    let drive = memory();
    ten_thousand(&drive);
    assert_no_lease_is_out(&drive);
    drive.close().unwrap();
    assert_io_threads(0);
}

#[test]
fn of_ten_thousand_appends_half_of_them_dropped_nothing_is_lost_on_an_image() {
    let _alone = alone();
    let (folder, drive) = image();
    ten_thousand(&drive);
    assert_no_lease_is_out(&drive);
    let found = records(&drive);
    drive.close().unwrap();
    assert_io_threads(0);
    let target = Target::Path(folder.path().join("disk.qcow2"));
    let drive = zonal::open(&target, &OpenOptions::default()).unwrap();
    assert_eq!(records(&drive), found);
}

#[test]
fn an_idle_drive_takes_no_cpu_and_its_threads_go_with_the_last_handle() {
    let _alone = alone();
    for (folder, drive) in [(None, memory()), {
        let (f, d) = image();
        (Some(f), d)
    }] {
        assert_io_threads(0);
        for zone in 0..4 {
            drive.append(zone, record(&drive, 1)).wait().unwrap();
        }
        assert_io_threads(drive.limits().io_threads as usize);
        let before = io_ticks();
        std::thread::sleep(Duration::from_millis(500));
        assert!(io_ticks() - before <= 1, "an idle thread runs");
        let other = drive.clone();
        drop(drive);
        assert_io_threads(other.limits().io_threads as usize);
        drop(other);
        assert_io_threads(0);
        drop(folder);
    }
}

async fn append_and_read(drive: Device) {
    let zone = drive.zone(3).unwrap();
    let landed = zone.append(record(&drive, 7)).await.unwrap();
    assert_eq!(landed.offset, 3 * ZONE_BYTES);
    let ordered = zone.append_ordered(record(&drive, 8)).fua().await.unwrap();
    assert_eq!(ordered.offset, landed.offset + BLOCK as u64);
    let written = zone.write_at(2 * BLOCK as u64, record(&drive, 9)).await.unwrap();
    assert_eq!(written.offset, landed.offset + 2 * BLOCK as u64);
    let read = zone.read_at(BLOCK as u64, drive.buffer(BLOCK)).await.unwrap();
    assert_eq!((read.offset, number_of(&read.buffer)), (ordered.offset, Some(8)));
    drive.flush().await.unwrap();
    drive.open_zone(5).await.unwrap();
    assert_eq!(drive.zone(5).unwrap().info().state, ZoneState::ExplicitlyOpen);
    drive.close_zone(5).await.unwrap();
    zone.finish().await.unwrap();
    assert_eq!(zone.info().state, ZoneState::Full);
    let failed = zone.append(record(&drive, 10)).await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::ZoneFull);
    assert_eq!(number_of(&failed.buffer.unwrap()), Some(10));
    zone.reset().await.unwrap();
    drive.reset_all().await.unwrap();
    assert_eq!(zone.info().state, ZoneState::Empty);
}

#[test]
fn the_same_futures_run_under_every_runtime() {
    let _alone = alone();
    for (_folder, drive) in [(None, memory()), {
        let (f, d) = image();
        (Some(f), d)
    }] {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(append_and_read(drive.clone()));
        tokio::runtime::Builder::new_multi_thread()
            .build()
            .unwrap()
            .block_on(async { tokio::spawn(append_and_read(drive.clone())).await.unwrap() });
        smol::block_on(smol::spawn(append_and_read(drive.clone())));
        block_on(append_and_read(drive.clone()));
        drive.close().unwrap();
    }
}

#[test]
fn waiting_needs_no_runtime_and_works_inside_one() {
    let _alone = alone();
    let drive = memory();
    let append = |number| drive.append(0, record(&drive, number)).wait().unwrap().offset;
    assert_eq!(append(1), 0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(async { append(2) }), BLOCK as u64);
    assert_eq!(smol::block_on(async { append(3) }), 2 * BLOCK as u64);
}

#[test]
fn requests_to_one_zone_are_carried_out_in_the_order_of_their_first_polls() {
    let _alone = alone();
    let (_folder, drive) = image();
    let zone = drive.zone(1).unwrap();
    // Twice as many as fit at a time, so that half of them stand in line.
    let count = 2 * u64::from(drive.limits().operations_max);
    let operations: Vec<_> = (0..count)
        .map(|n| zone.write_at(n * BLOCK as u64, record(&drive, n + 1)))
        .map(|operation| {
            let mut operation = Box::pin(operation);
            let mut context = Context::from_waker(Waker::noop());
            assert!(operation.as_mut().poll(&mut context).is_pending());
            operation
        })
        .collect();
    for (n, operation) in (0..).zip(operations) {
        assert_eq!(block_on(operation).unwrap().offset, ZONE_BYTES + n * BLOCK as u64);
    }
}

/// A drive on a simulated disk on which nothing ends before it is let go.
fn held_up(handles: HandleOptions) -> (SimDisk, Device) {
    let making = SimMode::Auto { seed: 1, faults: FaultPlan::default() };
    let made = SimDisk::new(&SimImage::new(0, 4096), making);
    zonal::sim::create(&made, &geometry()).unwrap();
    let disk = SimDisk::new(&made.image(), SimMode::Manual);
    let options = OpenOptions { handles, ..OpenOptions::default() };
    let drive = zonal::sim::open(&disk, &options).unwrap();
    (disk, drive)
}

/// Ends what is under way on the disk, once so much is.
fn let_go(disk: &SimDisk, count: usize) {
    await_pending(disk, count);
    for io in disk.pending() {
        assert!(disk.complete(io.id, Outcome::Ok));
    }
}

fn await_pending(disk: &SimDisk, count: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while disk.pending().len() < count {
        assert!(Instant::now() < end, "only {} are under way", disk.pending().len());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn no_more_are_under_way_than_there_are_places() {
    let _alone = alone();
    let handles = HandleOptions { threads: 1, depth: 2, ..HandleOptions::default() };
    let (disk, drive) = held_up(handles);
    let first: Vec<_> =
        (0..2).map(|n| drive.append(0, record(&drive, n)).try_start().unwrap()).collect();
    // The third has no place: tried, it comes back; awaited, it waits.
    let full = drive.append(1, record(&drive, 2)).try_start().unwrap_err();
    assert_eq!(number_of(&full.0.into_buffer().unwrap()), Some(2));
    let mut third = Box::pin(drive.append(1, record(&drive, 2)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(third.as_mut().poll(&mut context).is_pending());
    // One that is dropped in line is never carried out, and holds up nobody.
    block_on(poll_once(drive.append(1, record(&drive, 3))));
    let fourth = drive.append(1, record(&drive, 4)).timeout(Duration::from_millis(20)).wait();
    let failed = fourth.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Stalled);
    assert!(failed.error.to_string().contains("places"), "{}", failed.error);
    assert!(failed.flags.contains(Flags::REFUSED));
    assert_eq!(number_of(&failed.buffer.unwrap()), Some(4));
    let_go(&disk, 2);
    first.into_iter().for_each(|append| drop(append.wait().unwrap()));
    let_go(&disk, 1);
    assert_eq!(block_on(third).unwrap().offset, ZONE_BYTES);
    assert_eq!(drive.zone(1).unwrap().info().write_pointer, Some(ZONE_BYTES + BLOCK as u64));
    assert_eq!(drive.metrics().orphaned, 0);
}

#[test]
fn a_write_that_takes_too_long_is_orphaned_and_lands_nevertheless() {
    let _alone = alone();
    let (disk, drive) = held_up(HandleOptions::default());
    let start = Instant::now();
    let append = drive.append(2, record(&drive, 5)).timeout(Duration::from_millis(30));
    let failed = append.wait().unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(failed.error.kind(), ErrorKind::Stalled);
    assert!(failed.error.to_string().contains("may still be carried out"), "{}", failed.error);
    assert!(failed.buffer.is_none(), "the disk has it");
    assert_eq!(failed.error.context().zone, Some(2));
    // One whose time is not up ends as ever, under a runtime too.
    let read = drive.append(3, record(&drive, 6)).timeout(Duration::from_secs(20));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let landed = runtime.block_on(async {
        let task = tokio::spawn(read);
        tokio::task::yield_now().await;
        let_go(&disk, 2);
        task.await.unwrap().unwrap()
    });
    assert_eq!(landed.offset, 3 * ZONE_BYTES);
    let end = Instant::now() + Duration::from_secs(20);
    while drive.metrics().orphaned == 0 {
        assert!(Instant::now() < end, "it never ended");
        std::thread::yield_now();
    }
    assert_eq!(drive.zone(2).unwrap().info().write_pointer, Some(2 * ZONE_BYTES + BLOCK as u64));
}

#[test]
fn one_request_after_many_does_not_wait_for_others() {
    let _alone = alone();
    let handles = HandleOptions { threads: 1, ..HandleOptions::default() };
    let (disk, drive) = held_up(handles);
    for zone in 0..20 {
        let append = |n| drive.append(zone, record(&drive, n)).try_start().unwrap();
        let many: Vec<_> = (0..32).map(append).collect();
        let_go(&disk, 32);
        many.into_iter().for_each(|append| drop(append.wait().unwrap()));
        let one = append(32);
        let_go(&disk, 1);
        let landed = one.wait().unwrap();
        assert_eq!(landed.offset, u64::from(zone) * ZONE_BYTES + 32 * BLOCK as u64);
    }
}

#[test]
fn a_request_that_was_started_has_its_time_too() {
    let _alone = alone();
    let (disk, drive) = held_up(HandleOptions::default());
    let started = drive.append(0, record(&drive, 1)).try_start().unwrap();
    let (said, says) = std::sync::mpsc::channel();
    let waits = std::thread::spawn(move || {
        let failed = started.timeout(Duration::from_millis(10)).wait().unwrap_err();
        said.send(failed.error.kind()).unwrap();
    });
    let kind = says.recv_timeout(Duration::from_secs(20));
    let_go(&disk, 1);
    assert_eq!(kind.unwrap(), ErrorKind::Stalled);
    waits.join().unwrap();
}

#[test]
fn dropping_the_last_handle_waits_for_orphans() {
    let _alone = alone();
    let (disk, drive) = held_up(HandleOptions::default());
    let append = drive.append(2, record(&drive, 5)).try_start().unwrap();
    await_pending(&disk, 1);
    drop(append);
    let other = disk.clone();
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        let_go(&other, 1);
    });
    drop(drive);
    assert!(disk.pending().is_empty());
    helper.join().unwrap();
}

#[test]
fn a_waker_may_drop_the_last_handle() {
    let _alone = alone();
    struct Holds(std::sync::Mutex<Option<Device>>);
    impl std::task::Wake for Holds {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let drive = memory();
    let mut append = Box::pin(drive.append(0, record(&drive, 1)));
    let waker = Arc::new(Holds(std::sync::Mutex::new(None)));
    *waker.0.lock().unwrap() = Some(drive);
    let mut context = Context::from_waker(Waker::noop());
    assert!(append.as_mut().poll(&mut context).is_pending());
    let waker_of_it = waker.clone().into();
    let mut context = Context::from_waker(&waker_of_it);
    let _ = append.as_mut().poll(&mut context);
    drop(append);
    drop(waker_of_it);
    drop(waker);
    assert_io_threads(0);
}

/// The last handle of a drive, and the operation that its waker belongs to.
type Last = (Device, std::pin::Pin<Box<dyn Future<Output = ()> + Send>>);

#[test]
fn a_waker_that_drops_the_last_handle_waits_for_no_thread_that_waits_for_its_own() {
    struct Holds(std::sync::Mutex<Option<Last>>);
    impl std::task::Wake for Holds {
        fn wake(self: Arc<Self>) {
            let (drive, operation) = self.0.lock().unwrap().take().unwrap();
            drop(operation);
            // The thread would wait for itself.
            assert_eq!(drive.clone().close().unwrap_err().kind(), ErrorKind::InvalidInput);
            drop(drive);
        }
    }
    let _alone = alone();
    let handles = HandleOptions { threads: 2, depth: 4, ..HandleOptions::default() };
    let (disk, drive) = held_up(handles);
    let mut noop = Context::from_waker(Waker::noop());
    let is_write = |io: &zonal::sim::PendingIo| io.kind == zonal::sim::IoKind::Write;
    let write = |count: usize| {
        await_pending(&disk, count);
        disk.pending().into_iter().find(is_write).unwrap().id
    };
    // The first thread leads a flush round, and the second waits for the next.
    let mut durable = Vec::new();
    for zone in [2, 3] {
        let mut append = Box::pin(drive.append(zone, record(&drive, 1)).fua());
        assert!(append.as_mut().poll(&mut noop).is_pending());
        assert!(disk.complete(write(durable.len() + 1), Outcome::Ok));
        durable.push(append);
        await_pending(&disk, 1);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert!(disk.pending().iter().all(|io| io.kind == zonal::sim::IoKind::SyncData));
    // The waker of one more on the first thread has the last handle.
    let append = drive.append(0, record(&drive, 1));
    let mut append = Box::pin(async move { drop(append.await) });
    let waker = Arc::new(Holds(std::sync::Mutex::new(None)));
    let of_it = waker.clone().into();
    assert!(append.as_mut().poll(&mut Context::from_waker(&of_it)).is_pending());
    let last = write(2);
    drop(durable);
    *waker.0.lock().unwrap() = Some((drive, append));
    assert!(disk.complete(last, Outcome::Ok));
    let until = Instant::now() + Duration::from_secs(20);
    while io_threads() > 0 {
        assert!(Instant::now() < until, "{} I/O threads wait for one another", io_threads());
        disk.pending().iter().for_each(|io| assert!(disk.complete(io.id, Outcome::Ok)));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_close_wakes_everybody_whose_request_has_ended() {
    let _alone = alone();
    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for _ in 0..100 {
        let handles = HandleOptions { threads: 1, ..HandleOptions::default() };
        let options = OpenOptions { handles, ..OpenOptions::default() };
        let drive = zonal::open(&Target::Memory(geometry()), &options).unwrap();
        let wakes: Vec<_> = (0..4).map(|_| Arc::new(Count(AtomicUsize::new(0)))).collect();
        // None of them polls again and wakes the others.
        let mut appends = Vec::new();
        for (zone, wakes) in (0..).zip(&wakes) {
            let mut append = Box::pin(drive.append(zone, record(&drive, 1)));
            let _ = append.as_mut().poll(&mut Context::from_waker(&wakes.clone().into()));
            appends.push(append);
        }
        drive.close().unwrap();
        assert!(wakes.iter().all(|wakes| wakes.0.load(Ordering::SeqCst) > 0));
    }
}

#[test]
fn a_closed_drive_refuses_and_one_that_could_not_be_closed_goes_on() {
    let _alone = alone();
    let drive = memory();
    let (other, third) = (drive.clone(), drive.clone());
    let queue = drive.queue(&QueueOptions::default()).unwrap();
    drive.append(0, record(&drive, 1)).wait().unwrap();
    assert_eq!(drive.close().unwrap_err().kind(), ErrorKind::InUse);
    other.append(0, record(&other, 2)).wait().unwrap();
    drop(queue);
    other.close().unwrap();
    let failed = third.append(0, record(&third, 3)).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::DeviceReadOnly);
    assert_eq!(number_of(&failed.buffer.unwrap()), Some(3));
    assert_eq!(third.flush().wait().unwrap_err().kind(), ErrorKind::DeviceReadOnly);
}

#[test]
fn a_drive_that_several_close_at_once_is_closed() {
    let _alone = alone();
    for _ in 0..200 {
        let (_folder, drive) = image();
        drive.append(0, record(&drive, 1)).wait().unwrap();
        let start = Arc::new(std::sync::Barrier::new(2));
        let closes = [drive.clone(), drive.clone()].map(|drive| {
            let start = start.clone();
            std::thread::spawn(move || {
                start.wait();
                drive.close()
            })
        });
        let closed = closes.map(|close| close.join().unwrap());
        assert!(closed.iter().any(Result::is_ok), "{closed:?}");
        // As closed as the image says that it is.
        let failed = drive.append(0, record(&drive, 2)).wait().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::DeviceReadOnly);
    }
}

#[test]
fn without_a_free_queue_an_operation_fails_and_later_succeeds() {
    let _alone = alone();
    let drive = memory();
    let queues: Vec<_> = (0..zonal::QUEUES_MAX)
        .map(|_| drive.queue(&QueueOptions { depth: 1, ..QueueOptions::default() }).unwrap())
        .collect();
    let failed = drive.append(0, record(&drive, 1)).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::InUse, "{}", failed.error);
    assert_eq!(number_of(&failed.buffer.unwrap()), Some(1));
    drop(queues);
    // The thread that could not start may still be ending.
    let end = Instant::now() + Duration::from_secs(20);
    while let Err(failed) = drive.append(0, record(&drive, 1)).wait() {
        assert_eq!(failed.error.kind(), ErrorKind::InUse, "{}", failed.error);
        assert!(Instant::now() < end, "no thread starts any more");
        std::thread::yield_now();
    }
}

#[test]
fn bytes_that_are_no_lease_are_counted() {
    let _alone = alone();
    let (_folder, drive) = image();
    drive.append(0, record(&drive, 1)).wait().unwrap();
    assert_eq!(drive.metrics().bounced, 0);
    drive.append(0, vec![2; BLOCK]).wait().unwrap();
    drive.append(0, &[3; BLOCK][..]).wait().unwrap();
    assert_eq!(drive.metrics().bounced, 2);
    drive.flush().wait().unwrap();
    assert_eq!(drive.metrics().bounced, 2);
}

#[test]
fn what_is_out_of_bounds_is_refused_by_name() {
    let _alone = alone();
    let drive = memory();
    assert_eq!(drive.zone(ZONES).unwrap_err().kind(), ErrorKind::OutOfRange);
    let zone = drive.zone(0).unwrap();
    let failed = zone.read_at(ZONE_BYTES, drive.buffer(BLOCK)).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::OutOfRange);
    assert!(failed.buffer.is_some());
    let failed = zone.write_at(u64::MAX, drive.buffer(BLOCK)).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::OutOfRange);
    for handles in [
        HandleOptions { threads: 0, ..HandleOptions::default() },
        HandleOptions { threads: zonal::IO_THREADS_MAX + 1, ..HandleOptions::default() },
        HandleOptions { depth: 0, ..HandleOptions::default() },
        HandleOptions { depth: zonal::DEPTH_MAX + 1, ..HandleOptions::default() },
    ] {
        let options = OpenOptions { handles, ..OpenOptions::default() };
        let error = zonal::open(&Target::Memory(geometry()), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_bare_request_brings_its_tag_back() {
    let _alone = alone();
    let drive = memory();
    let request = Request::append_at(5 * ZONE_BYTES + 17, record(&drive, 1)).tag(77);
    let completion = drive.request(request).wait();
    assert_eq!((completion.tag, completion.offset), (77, 5 * ZONE_BYTES));
    assert_eq!(completion.result.unwrap(), BLOCK as u32);
}

#[test]
fn records_come_back_in_order_across_reads_and_from_both_loops() {
    let _alone = alone();
    let (_folder, drive) = image();
    let zone = drive.zone(0).unwrap();
    // Lengths of up to three blocks, so that records straddle the reads below.
    let lengths: Vec<usize> = (0..120).map(|n| 1 + n * 97 % (3 * BLOCK - 4)).collect();
    for (n, &length) in lengths.iter().enumerate() {
        let mut record = drive.buffer((4 + length).next_multiple_of(BLOCK));
        record.fill(0);
        record[..4].copy_from_slice(&(length as u32).to_le_bytes());
        record[4..4 + length].fill(n as u8 + 1);
        zone.append(record).wait().unwrap();
    }
    zone.finish().wait().unwrap();
    let length_of = |bytes: &[u8]| match u32::from_le_bytes(bytes[..4].try_into().unwrap()) {
        0 => None,
        length => Some(4 + length as usize),
    };
    let found: Vec<_> = zone.records_by(length_of).unwrap().map(Result::unwrap).collect();
    assert_eq!(found.iter().map(|r| r.bytes.len() - 4).collect::<Vec<_>>(), lengths);
    assert!(found.iter().zip(1..).all(|(r, n)| r.bytes[4..].iter().all(|&byte| byte == n)));
    let mut place = 0;
    for record in &found {
        assert_eq!(record.offset, place);
        place += record.bytes.len().next_multiple_of(BLOCK) as u64;
    }
    let mut records = zone.records_by(length_of).unwrap();
    for record in &found {
        assert_eq!(block_on(records.next_async()).unwrap().unwrap(), *record);
    }
    assert!(block_on(records.next_async()).is_none());
    // A record that would end behind the write pointer is an error, and the end.
    let mut records = zone.records_by(|_| Some(2 << 20)).unwrap();
    assert_eq!(records.next().unwrap().unwrap_err().kind(), ErrorKind::Damaged);
    assert!(records.next().is_none());
    assert!(zone.records(0).is_err());
}

#[test]
fn no_record_is_lost_with_a_future_that_was_dropped() {
    let _alone = alone();
    let drive = memory();
    let zone = drive.zone(0).unwrap();
    let count = ZONE_BYTES / BLOCK as u64;
    for number in 1..=count {
        zone.append(record(&drive, number)).wait().unwrap();
    }
    // On a busy machine a round may go by in which nothing has to wait.
    assert!((0..100).any(|_| futures_dropped(&zone, count) > 0));
}

/// Reads `count` records, and how often a future had to wait for one, and was dropped.
fn futures_dropped(zone: &Zone, count: u64) -> u32 {
    let mut records = zone.records(BLOCK).unwrap();
    let mut dropped = 0;
    for number in 1..=count {
        let found = records.next_async().now_or_never().unwrap_or_else(|| {
            dropped += 1;
            records.next()
        });
        let found = found.unwrap().unwrap();
        assert_eq!(found.offset, (number - 1) * BLOCK as u64);
        assert_eq!(number_of(&found.bytes), Some(number));
    }
    assert!(records.next().is_none());
    dropped
}
