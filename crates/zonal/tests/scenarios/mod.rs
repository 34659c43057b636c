//! What threads do to one drive, for the model checker to try in many orders.
//!
//! Each scenario is one execution: it makes a drive, lets threads loose on it, each with a queue
//! of its own, and holds what they were told against what the drive then holds. A request that
//! is never completed is a deadlock, which the checker reports.

#![allow(dead_code, reason = "each test program uses some of it")]

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use shuttle::{Config, Runner};
use std::sync::{Arc, OnceLock};
use zonal::sim::{FaultPlan, Outcome, PendingIo, SimDisk, SimImage, SimMode};
use zonal::{
    Buffer, Completion, Device, ErrorKind, Flags, Geometry, OpenOptions, Queue, QueueOptions,
    Request, Target, ZoneState,
};

pub const BLOCK: u64 = 4096;
/// Blocks of a zone.
pub const CAPACITY: u64 = 8;
const ZONES: u64 = 8;
/// What an earlier life of zone 0 holds on the disk, all over the zone.
const OLD: u8 = 0xEE;

/// Runs `scenario` under random schedules, and as many times under PCT's.
pub fn explore(each: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let random = scenario.clone();
    Runner::new(RandomScheduler::new(each), config.clone()).run(move || random());
    Runner::new(PctScheduler::new(3, each), config).run(move || scenario());
}

pub fn geometry(open: u32, active: u32) -> Geometry {
    Geometry {
        zone_size: CAPACITY * BLOCK,
        zone_capacity: CAPACITY * BLOCK,
        max_open_zones: open,
        max_active_zones: active,
        max_append: 16384,
        ..Geometry::with_size(ZONES * CAPACITY * BLOCK)
    }
}

/// An image that was closed cleanly, and how many writes opening it takes.
pub struct Template {
    image: SimImage,
    opening: u64,
}

impl Template {
    /// Every zone is empty; zone 0 was full of [`OLD`] before.
    pub fn new(open: u32, active: u32) -> Arc<Self> {
        let made = Arc::new(OnceLock::new());
        let result = made.clone();
        let config = {
            let mut config = Config::new();
            config.stack_size = 1 << 18;
            config
        };
        Runner::new(RandomScheduler::new(1), config).run(move || {
            let disk = SimDisk::new(&SimImage::new(0, 4096), auto(FaultPlan::default()));
            zonal::sim::create(&disk, &geometry(open, active)).unwrap();
            let drive = zonal::sim::open(&disk, &OpenOptions::default()).unwrap();
            let mut queue = queue(&drive);
            assert!(run(&mut queue, Request::write_at(0, record(OLD, CAPACITY))).result.is_ok());
            assert!(run(&mut queue, Request::reset(0)).result.is_ok());
            drop(queue);
            drive.close().unwrap();
            let image = disk.image();
            let disk = SimDisk::new(&image, SimMode::Manual);
            drop(zonal::sim::open(&disk, &OpenOptions::default()).unwrap());
            let counts = disk.counts();
            let opening = counts.writes + counts.durable_writes + counts.zeroings;
            assert!(result.set(Self { image, opening }).is_ok());
        });
        Arc::try_unwrap(made).ok().and_then(OnceLock::into_inner).map(Arc::new).unwrap()
    }

    pub fn open(&self, mode: SimMode) -> (SimDisk, Device) {
        let disk = SimDisk::new(&self.image, mode);
        let drive = zonal::sim::open(&disk, &OpenOptions::default()).unwrap();
        (disk, drive)
    }

    /// A plan in which the `n`th write after opening fails.
    pub fn failing(&self, n: u64) -> FaultPlan {
        FaultPlan { fail_write: Some(self.opening + n), ..FaultPlan::default() }
    }
}

/// A drive in memory whose zone 0 was full of [`OLD`] before.
pub fn memory(open: u32, active: u32) -> Device {
    let target = Target::Memory(geometry(open, active));
    let drive = zonal::open(&target, &OpenOptions::default()).unwrap();
    let mut queue = queue(&drive);
    assert!(run(&mut queue, Request::write_at(0, record(OLD, CAPACITY))).result.is_ok());
    assert!(run(&mut queue, Request::reset(0)).result.is_ok());
    drive
}

/// The disk completes requests by itself, in an order that differs from execution to execution.
pub fn auto(faults: FaultPlan) -> SimMode {
    SimMode::Auto { seed: thread_rng().gen_range(0..u64::MAX), faults }
}

pub fn below(bound: u64) -> u64 {
    thread_rng().gen_range(0..bound)
}

pub fn queue(drive: &Device) -> Queue {
    drive.queue(&QueueOptions { depth: 8, buffer_bytes: 0, ..QueueOptions::default() }).unwrap()
}

pub fn record(tag: u8, blocks: u64) -> Buffer {
    let mut buffer = Buffer::unpooled((blocks * BLOCK) as usize);
    buffer.fill(tag);
    buffer
}

pub fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    let completion = queue.next_completion().unwrap();
    assert!(queue.next_completion().is_none());
    completion
}

/// What became of one record.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub tag: u8,
    /// In blocks from the drive's start.
    pub start: u64,
    pub end: u64,
    pub error: Option<ErrorKind>,
    pub flags: Flags,
}

impl Written {
    pub fn of(completion: &Completion) -> Self {
        let buffer = completion.buffer.as_ref().expect("a write's buffer comes back");
        let start = completion.offset / BLOCK;
        Self {
            tag: completion.tag as u8,
            start,
            end: start + buffer.len() as u64 / BLOCK,
            error: completion.result.as_ref().err().map(zonal::Error::kind),
            flags: completion.flags,
        }
    }

    pub fn is_acknowledged(&self) -> bool {
        self.error.is_none()
    }
}

/// Appends records of so many blocks, all at once; waits for all.
pub fn append_all(queue: &mut Queue, zone: u32, records: &[(u8, u64)]) -> Vec<Written> {
    for &(tag, blocks) in records {
        queue.push(Request::append(zone, record(tag, blocks)).tag(tag.into())).unwrap();
    }
    queue.submit_and_wait(records.len()).unwrap();
    let written: Vec<_> =
        std::iter::from_fn(|| queue.next_completion()).map(|c| Written::of(&c)).collect();
    assert_eq!(written.len(), records.len(), "each request completes once");
    written
}

/// Runs these at the same time; gives what they gave.
pub fn together<T: Send + 'static>(
    threads: impl IntoIterator<Item = Box<dyn FnOnce() -> T + Send>>,
) -> Vec<T> {
    let threads: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// The write pointer of a zone, in blocks from the zone's start.
pub fn wp(drive: &Device, zone: u32) -> u64 {
    let info = drive.report(zone..=zone).unwrap()[0];
    (info.write_pointer.unwrap() - info.start) / BLOCK
}

/// A zone's blocks, each one byte: the one it is full of.
pub fn blocks(queue: &mut Queue, zone: u32) -> Vec<u8> {
    let into = Buffer::unpooled((CAPACITY * BLOCK) as usize);
    let completion = run(queue, Request::read_at(u64::from(zone) * CAPACITY * BLOCK, into));
    completion.result.unwrap();
    let bytes = completion.buffer.unwrap();
    bytes
        .chunks(BLOCK as usize)
        .map(|block| {
            assert!(block.iter().all(|&byte| byte == block[0]), "a torn block");
            block[0]
        })
        .collect()
}

/// Every acknowledged record of a zone (that nobody reset) is where it was said to be, alone.
pub fn hold_against(drive: &Device, zone: u32, written: &[Written]) {
    let wp = wp(drive, zone);
    let found = blocks(&mut queue(drive), zone);
    let base = u64::from(zone) * CAPACITY;
    let mut expected = vec![0; CAPACITY as usize];
    for record in written.iter().filter(|record| record.is_acknowledged()) {
        assert!(record.end <= base + wp, "{record:?} lies above the write pointer {wp}");
        for block in record.start..record.end {
            let place = &mut expected[(block - base) as usize];
            assert_eq!(*place, 0, "two records at block {block}: {written:?}");
            *place = record.tag;
        }
    }
    assert_eq!(found, expected, "of {written:?}");
}

/// No zone is counted that is not there, nor one too many.
pub fn hold_counts(drive: &Device, open: u32, active: u32) {
    let (counted_open, counted_active) = drive.zones_in_use();
    assert!(counted_open <= open && counted_active <= active, "{:?}", drive.zones_in_use());
    let report = drive.report(..).unwrap();
    let states = report.iter().map(|zone| zone.state);
    let found_open = states.clone().filter(|state| state.is_open()).count();
    let found_active = states.filter(|state| state.is_active()).count();
    assert_eq!((counted_open as usize, counted_active as usize), (found_open, found_active));
}

/// The drive as it is after its power was cut: `choose` says what each sector keeps.
pub fn after_cut(disk: &SimDisk, choose: &mut dyn FnMut(usize) -> usize) -> Device {
    let left = SimDisk::new(&disk.if_cut(choose), auto(FaultPlan::default()));
    zonal::sim::open(&left, &OpenOptions::default()).unwrap()
}

/// Calls `look` with drives after cuts that keep as little, as much, or what chance will have.
pub fn each_cut(disk: &SimDisk, mut look: impl FnMut(&Device)) {
    look(&after_cut(disk, &mut |_| 0));
    look(&after_cut(disk, &mut |options| options - 1));
    look(&after_cut(disk, &mut |options| below(options as u64) as usize));
}

// ---- scenarios ------------------------------------------------------------------------------

fn appender(
    drive: &Device,
    zone: u32,
    records: &'static [(u8, u64)],
) -> Box<dyn FnOnce() -> Vec<Written> + Send> {
    let drive = drive.clone();
    Box::new(move || append_all(&mut queue(&drive), zone, records))
}

/// Both append to one zone.
pub fn append_to_one_zone(drive: &Device) {
    let written = together([
        appender(drive, 0, &[(1, 1), (2, 2)]),
        appender(drive, 0, &[(3, 2), (4, 1)]),
    ])
    .concat();
    assert!(written.iter().all(Written::is_acknowledged), "{written:?}");
    assert_eq!(wp(drive, 0), 6);
    hold_against(drive, 0, &written);
}

/// Both write at the same place, then whoever lost goes on behind.
pub fn write_at_one_place(drive: &Device) {
    let writer = |tag: u8| -> Box<dyn FnOnce() -> Vec<Written> + Send> {
        let drive = drive.clone();
        Box::new(move || {
            let mut queue = queue(&drive);
            let write = |offset| Request::write_at(offset, record(tag, 2)).tag(tag.into());
            let first = run(&mut queue, write(0));
            if first.result.is_ok() {
                return vec![Written::of(&first)];
            }
            assert_eq!(first.result.as_ref().unwrap_err().kind(), ErrorKind::NotAtWritePointer);
            assert!(first.flags.contains(Flags::REFUSED));
            let second = run(&mut queue, write(2 * BLOCK));
            vec![Written::of(&first), Written::of(&second)]
        })
    };
    let written = together([writer(1), writer(2)]).concat();
    assert_eq!(written.len(), 3, "one wins: {written:?}");
    assert_eq!(written.iter().filter(|record| record.is_acknowledged()).count(), 2);
    hold_against(drive, 0, &written);
}

/// One of the writes of two threads fails; both go on afterwards. A third reads all the while.
pub fn fail_one(template: &Template, zeroing: bool, reader: bool) {
    let mut plan = template.failing(below(5));
    plan.no_zeroing = !zeroing;
    let (_disk, drive) = template.open(auto(plan));
    let mut threads: Vec<Box<dyn FnOnce() -> Vec<Written> + Send>> = vec![
        appender(&drive, 0, &[(1, 1), (2, 2)]),
        appender(&drive, 0, &[(3, 2), (4, 1)]),
    ];
    if reader {
        let drive = drive.clone();
        threads.push(Box::new(move || {
            let mut queue = queue(&drive);
            for _ in 0..3 {
                let found = blocks(&mut queue, 0);
                assert!(found.iter().all(|&tag| tag <= 4), "an earlier life shows: {found:?}");
            }
            Vec::new()
        }));
    }
    let mut written = together(threads).concat();
    settled_right(&drive, &written);
    let more = together([appender(&drive, 0, &[(5, 1)]), appender(&drive, 0, &[(6, 1)])]);
    // The plan may have spared the first four.
    let more = more.concat();
    let failed = written.iter().chain(&more).filter(|record| !record.is_acknowledged()).count();
    assert!(failed == 0 || written.iter().any(|record| !record.is_acknowledged()) || !more.is_empty());
    written.extend(more);
    hold_against(&drive, 0, &written);
    hold_counts(&drive, 1, 1);
}

/// The write pointer of zone 0 is where one failure leaves it, and the verdicts fit it.
fn settled_right(drive: &Device, written: &[Written]) {
    let wp = wp(drive, 0);
    let highest = written.iter().filter(|r| r.is_acknowledged()).map(|r| r.end).max().unwrap_or(0);
    let lowest = written.iter().filter(|r| r.error == Some(ErrorKind::Io)).map(|r| r.start).min();
    assert_eq!(wp, lowest.unwrap_or(0).max(highest), "of {written:?}");
    for record in written {
        match record.error {
            None | Some(ErrorKind::Io) => {}
            Some(ErrorKind::BehindFailedWrite) => {
                // Unless the place was given to another since.
                let again = |other: &Written| {
                    other.is_acknowledged() && other.start < record.end && record.start < other.end
                };
                assert!(
                    record.end > wp || written.iter().any(again),
                    "{record:?} is whole below {wp}"
                );
                assert!(record.flags.contains(Flags::HELD));
            }
            Some(other) => panic!("{other:?} of {record:?}"),
        }
    }
    hold_against(drive, 0, written);
}
