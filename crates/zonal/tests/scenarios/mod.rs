//! What threads do to one drive, for the model checker to try in many orders.
//!
//! Each scenario is one execution: it makes a drive, lets threads loose on it, each with a queue
//! of its own, and holds what they were told against what the drive then holds. A request that
//! is never completed is a deadlock, which the checker reports.

#![allow(dead_code, reason = "each test program uses some of it")]
#![allow(clippy::cast_possible_truncation, reason = "blocks of a drive of 64")]

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use shuttle::{Config, Runner};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use zonal::sim::{FaultPlan, Outcome, PendingIo, SimDisk, SimImage, SimMode};
use zonal::{
    Buffer, Completion, Device, ErrorKind, Flags, Geometry, HandleOptions, OpenOptions, Queue,
    QueueOptions, Request, Target,
};

pub const BLOCK: u64 = 4096;
/// Blocks of a zone.
pub const CAPACITY: u64 = 8;
const ZONES: u64 = 8;
/// Blocks of an ordered append that takes its zone: more than an append may have.
const LONG: u64 = 5;
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
        self.open_with(mode, &OpenOptions::default())
    }

    pub fn open_with(&self, mode: SimMode, options: &OpenOptions) -> (SimDisk, Device) {
        let disk = SimDisk::new(&self.image, mode);
        let drive = zonal::sim::open(&disk, options).unwrap();
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
    let written =
        together([appender(drive, 0, &[(1, 1), (2, 2)]), appender(drive, 0, &[(3, 2), (4, 1)])])
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
    let mut threads: Vec<Box<dyn FnOnce() -> Vec<Written> + Send>> =
        vec![appender(&drive, 0, &[(1, 1), (2, 2)]), appender(&drive, 0, &[(3, 2), (4, 1)])];
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
    // The write that fails may be one of these, or the zeroing of a dead range.
    let more = together([appender(&drive, 0, &[(5, 1)]), appender(&drive, 0, &[(6, 1)])]).concat();
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

/// Two operate on zone 0, or take it for a long ordered append, and append to it; whatever their
/// order, what remains adds up.
pub fn operate_against_writers(drive: &Device) {
    let worker = |steps: Vec<Request>| -> Box<dyn FnOnce() -> Vec<Written> + Send> {
        let drive = drive.clone();
        Box::new(move || {
            let mut queue = queue(&drive);
            let count = steps.len();
            for step in steps {
                queue.push(step).unwrap();
            }
            queue.submit_and_wait(count).unwrap();
            let ended: Vec<_> = std::iter::from_fn(|| queue.next_completion()).collect();
            assert_eq!(ended.len(), count, "each request completes once");
            for completion in &ended {
                if let Err(error) = &completion.result {
                    let refused = completion.flags.contains(Flags::REFUSED);
                    let (full, empty) = (ErrorKind::ZoneFull, ErrorKind::InvalidTransition);
                    let allowed = [full, empty, ErrorKind::BeyondCapacity];
                    assert!(refused && allowed.contains(&error.kind()), "{completion:?}");
                }
            }
            ended.iter().filter(|c| c.buffer.is_some()).map(Written::of).collect()
        })
    };
    let append = |tag: u8| Request::append(0, record(tag, 1)).tag(tag.into());
    let gate = |n, tag: u8| match n {
        0 => Request::reset(0),
        1 => Request::close(0),
        2 => Request::open(0),
        3 => Request::finish(0),
        _ => Request::append_ordered(0, record(tag, LONG)).tag(tag.into()),
    };
    let (first, second) = (below(5), below(5));
    let written = together([
        worker(vec![append(1), gate(first, 5), append(2)]),
        worker(vec![append(3), gate(second, 6), append(4)]),
    ])
    .concat();
    let found = blocks(&mut queue(drive), 0);
    let wp = wp(drive, 0) as usize;
    assert!(found[wp..].iter().all(|&tag| tag == 0), "above {wp}: {found:?}");
    for (block, &tag) in (0..).zip(&found) {
        let told = written.iter().find(|record| record.tag == tag);
        let there = |r: &Written| r.is_acknowledged() && (r.start..r.end).contains(&block);
        assert!(tag == 0 || told.is_some_and(there));
    }
    let kept = found.iter().filter(|&&tag| tag != 0).count();
    let acknowledged = written.iter().filter(|record| record.is_acknowledged());
    let acknowledged = acknowledged.map(|r| (r.end - r.start) as usize).sum::<usize>();
    if first != 0 && second != 0 {
        assert_eq!(kept, acknowledged, "{found:?} of {written:?}");
    } else if first != 3 && second != 3 {
        assert_eq!(kept, wp, "a hole in {found:?}");
    }
    hold_counts(drive, 1, 1);
}

/// Completes what is pending, in any order, until told that all is done.
pub fn complete_until_done(
    disk: &SimDisk,
    done: &Arc<shuttle::sync::atomic::AtomicBool>,
    mut outcome: impl FnMut(&PendingIo) -> Outcome + Send + 'static,
) -> thread::JoinHandle<()> {
    let (disk, done) = (disk.clone(), done.clone());
    thread::spawn(move || {
        while !done.load(shuttle::sync::atomic::Ordering::SeqCst) {
            let pending = disk.pending();
            if pending.is_empty() {
                thread::yield_now();
                continue;
            }
            let io = pending[below(pending.len() as u64) as usize];
            disk.complete(io.id, outcome(&io));
        }
    })
}

/// Whoever comes to a gate first goes first: a reset, an append, a close and an append of four
/// queues, behind a write in flight.
pub fn first_come_first_served(template: &Template) {
    let (disk, drive) = template.open(SimMode::Manual);
    let mut holder = queue(&drive);
    holder.push(Request::append(0, record(9, 3)).tag(9)).unwrap();
    holder.submit().unwrap();
    let turn = Arc::new((shuttle::sync::Mutex::new(0), shuttle::sync::Condvar::new()));
    let comer = |place: usize, request: Request| -> Box<dyn FnOnce() -> Completion + Send> {
        let (drive, turn) = (drive.clone(), turn.clone());
        Box::new(move || {
            let mut queue = queue(&drive);
            queue.push(request).unwrap();
            let (now, changed) = &*turn;
            let mut now = now.lock().unwrap();
            while *now != place {
                now = changed.wait(now).unwrap();
            }
            queue.submit().unwrap();
            *now += 1;
            changed.notify_all();
            drop(now);
            queue.submit_and_wait(1).unwrap();
            queue.next_completion().unwrap()
        })
    };
    let done = Arc::new(shuttle::sync::atomic::AtomicBool::new(false));
    let completer = {
        let (disk, turn, done) = (disk.clone(), turn.clone(), done.clone());
        thread::spawn(move || {
            let (now, changed) = &*turn;
            let mut now = now.lock().unwrap();
            while *now != 3 {
                now = changed.wait(now).unwrap();
            }
            drop(now);
            complete_until_done(&disk, &done, |_| Outcome::Ok).join().unwrap();
        })
    };
    let threads = [
        comer(0, Request::reset(0)),
        comer(1, Request::append(0, record(1, 1)).tag(1)),
        comer(2, Request::append(0, record(2, 2)).tag(2)),
    ];
    let threads: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    holder.submit_and_wait(1).unwrap();
    let ended: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    done.store(true, shuttle::sync::atomic::Ordering::SeqCst);
    completer.join().unwrap();
    assert!(holder.next_completion().unwrap().result.is_ok());
    assert!(ended.iter().all(|completion| completion.result.is_ok()), "{ended:?}");
    assert_eq!((ended[1].offset, ended[2].offset), (0, BLOCK));
    assert!(ended[1].flags.contains(Flags::PARKED) && ended[2].flags.contains(Flags::PARKED));
}

/// What a flush covers, and what is acknowledged as durable, is there after a power cut, however
/// another thread writes, resets and flushes meanwhile.
pub fn flush_against_writers(template: &Template) {
    let (disk, drive) = template.open(auto(FaultPlan::default()));
    let one = drive.clone();
    let two = drive.clone();
    let threads: [Box<dyn FnOnce() -> Vec<Written> + Send>; 2] = [
        Box::new(move || {
            let mut queue = queue(&one);
            let mut covered = append_all(&mut queue, 0, &[(1, 2), (2, 1)]);
            covered.extend(append_all(&mut queue, 1, &[(3, 2)]));
            assert!(run(&mut queue, Request::flush()).result.is_ok());
            covered.extend(append_all(&mut queue, 2, &[(4, 1)]).iter().map(|r| Written {
                error: Some(ErrorKind::Io), // not covered by any flush
                ..*r
            }));
            covered
        }),
        Box::new(move || {
            let mut queue = queue(&two);
            let mut covered = Vec::new();
            let append = Request::append(0, record(5, 1)).tag(5).fua();
            let durable = run(&mut queue, append);
            assert!(durable.flags.contains(Flags::DURABLE));
            covered.push(Written::of(&durable));
            assert!(run(&mut queue, Request::reset(1)).result.is_ok());
            let append = Request::append(1, record(6, 1)).tag(6).fua();
            covered.push(Written::of(&run(&mut queue, append)));
            covered
        }),
    ];
    let covered = together(threads).concat();
    each_cut(&disk, |left| durable_right(left, &covered));
}

fn durable_right(left: &Device, covered: &[Written]) {
    let mut reader = queue(left);
    let zones = [blocks(&mut reader, 0), blocks(&mut reader, 1)];
    let pointers = [wp(left, 0) as usize, wp(left, 1) as usize];
    for record in covered.iter().filter(|record| record.is_acknowledged()) {
        let zone = (record.start / CAPACITY) as usize;
        let (start, end) = ((record.start % CAPACITY) as usize, (record.end % CAPACITY) as usize);
        let replaced = record.tag == 3
            && covered.iter().any(|other| other.tag == 6 && other.start < record.end);
        // Zone 1 was reset before 6 was written: 3 is there only if it came after.
        let came_before = record.tag == 3
            && covered.iter().any(|other| other.tag == 6 && other.start == CAPACITY)
            && record.start == CAPACITY;
        if replaced && came_before {
            continue;
        }
        assert!(end <= pointers[zone], "{record:?} above {pointers:?} of {covered:?}");
        assert!(
            zones[zone][start..end].iter().all(|&tag| tag == record.tag),
            "{record:?} in {zones:?}"
        );
    }
    for (blocks, wp) in zones.iter().zip(pointers) {
        assert!(blocks[wp..].iter().all(|&tag| tag == 0));
        assert!(!blocks.contains(&OLD), "an earlier life shows: {blocks:?}");
    }
}

/// A zone that one thread flushes while another resets it and writes it again. After a cut it
/// holds whole records of one life.
pub fn flush_against_reset(template: &Template) {
    let (disk, drive) = template.open(auto(FaultPlan::default()));
    let flusher = drive.clone();
    let writer = drive.clone();
    let threads: [Box<dyn FnOnce() + Send>; 2] = [
        Box::new(move || {
            let mut queue = queue(&flusher);
            append_all(&mut queue, 0, &[(1, 1), (2, 1)]);
            assert!(run(&mut queue, Request::flush()).result.is_ok());
        }),
        Box::new(move || {
            let mut queue = queue(&writer);
            assert!(run(&mut queue, Request::reset(0)).result.is_ok());
            append_all(&mut queue, 0, &[(3, 3)]);
        }),
    ];
    together(threads);
    each_cut(&disk, |left| {
        let found = blocks(&mut queue(left), 0);
        let wp = wp(left, 0) as usize;
        let count = |tag| found[..wp].iter().filter(|&&found| found == tag).count();
        assert!(!found.contains(&OLD) && count(0) == 0, "{found:?} up to {wp}");
        assert!(matches!(count(3), 0 | 3), "part of a record: {found:?} up to {wp}");
    });
}

/// Flushes of three queues that wait at the same time share their rounds.
pub fn flushes_share(template: &Template) {
    let (disk, drive) = template.open(auto(FaultPlan::default()));
    append_all(&mut queue(&drive), 0, &[(1, 1)]);
    let flusher = || -> Box<dyn FnOnce() + Send> {
        let drive = drive.clone();
        Box::new(move || assert!(run(&mut queue(&drive), Request::flush()).result.is_ok()))
    };
    let before = drive.metrics();
    together([flusher(), flusher(), flusher()]);
    let after = drive.metrics();
    let syncs = after.data_syncs - before.data_syncs;
    assert!((1..=3).contains(&syncs), "{syncs} syncs for three flushes");
    assert_eq!(syncs, after.flush_rounds - before.flush_rounds);
    each_cut(&disk, |left| assert_eq!(wp(left, 0), 1));
}

/// Two flushes that come while a sync is under way are served by one more.
pub fn flushes_share_the_next_round(template: &Template) {
    let (disk, drive) = template.open(SimMode::Manual);
    let mut first = queue(&drive);
    first.push(Request::flush()).unwrap();
    first.submit().unwrap();
    let before = drive.metrics().data_syncs;
    assert!(disk.pending().iter().any(|io| io.kind == zonal::sim::IoKind::SyncData));
    let joined = Arc::new(shuttle::sync::atomic::AtomicU32::new(0));
    let flusher = || -> Box<dyn FnOnce() + Send> {
        let (drive, joined) = (drive.clone(), joined.clone());
        Box::new(move || {
            let mut queue = queue(&drive);
            queue.push(Request::flush()).unwrap();
            queue.submit().unwrap();
            joined.fetch_add(1, shuttle::sync::atomic::Ordering::SeqCst);
            queue.submit_and_wait(1).unwrap();
            assert!(queue.next_completion().unwrap().result.is_ok());
        })
    };
    let threads: Vec<_> = [flusher(), flusher()].into_iter().map(thread::spawn).collect();
    while joined.load(shuttle::sync::atomic::Ordering::SeqCst) < 2 {
        thread::yield_now();
    }
    let done = Arc::new(shuttle::sync::atomic::AtomicBool::new(false));
    let completer = complete_until_done(&disk, &done, |_| Outcome::Ok);
    first.submit_and_wait(1).unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    done.store(true, shuttle::sync::atomic::Ordering::SeqCst);
    completer.join().unwrap();
    assert_eq!(drive.metrics().data_syncs - before, 1);
}

/// A queue is dropped in the middle of things; the other goes on as if it had never been.
pub fn drop_a_queue(template: &Template) {
    let mut plan = template.failing(below(8));
    plan.no_zeroing = below(2) == 0;
    let (disk, drive) = template.open(auto(plan));
    let leaver = drive.clone();
    let stayer = drive.clone();
    let threads: [Box<dyn FnOnce() + Send>; 2] = [
        Box::new(move || {
            let mut queue = queue(&leaver);
            for tag in 1..=3 {
                queue.push(Request::append(0, record(tag, 1)).tag(tag.into())).unwrap();
            }
            match below(4) {
                0 => queue.push(Request::flush()).unwrap(),
                1 => queue.push(Request::reset(0)).unwrap(),
                2 => queue.push(Request::append(0, record(4, 1)).fua()).unwrap(),
                _ => queue.push(Request::finish(0)).unwrap(),
            }
            for _ in 0..below(3) {
                queue.submit().unwrap();
            }
        }),
        Box::new(move || {
            let mut queue = queue(&stayer);
            append_all(&mut queue, 0, &[(5, 1), (6, 1)]);
            // The write that fails may be one of the table's; then the drive is read-only.
            let fine = |completion: Completion| {
                let error = completion.result.err().map(|error| error.kind());
                assert!(matches!(error, None | Some(ErrorKind::DeviceReadOnly)), "{error:?}");
            };
            fine(run(&mut queue, Request::flush()));
            fine(run(&mut queue, Request::reset(0)));
            append_all(&mut queue, 0, &[(7, 1)]);
        }),
    ];
    together(threads);
    let found = blocks(&mut queue(&drive), 0);
    assert!(!found.contains(&OLD), "{found:?}");
    hold_counts(&drive, u32::MAX, u32::MAX);
    drop(disk);
    let closed = drive.close().err().map(|error| error.kind());
    assert!(matches!(closed, None | Some(ErrorKind::DeviceReadOnly)), "{closed:?}");
}

/// Reads while the zone is reset and written again: each sees one life.
pub fn read_against_reset(drive: &Device) {
    append_all(&mut queue(drive), 0, &[(1, 4)]);
    let reader = drive.clone();
    let writer = drive.clone();
    let threads: [Box<dyn FnOnce() + Send>; 2] = [
        Box::new(move || {
            let mut queue = queue(&reader);
            for _ in 0..3 {
                let found = blocks(&mut queue, 0);
                let has = |tag| found.contains(&tag);
                assert!(!has(OLD) && !(has(1) && has(2)), "two lives at once: {found:?}");
                assert!(!has(1) || found[..4] == [1; 4], "part of a record: {found:?}");
            }
        }),
        Box::new(move || {
            let mut queue = queue(&writer);
            assert!(run(&mut queue, Request::reset(0)).result.is_ok());
            append_all(&mut queue, 0, &[(2, 1), (2, 2)]);
            assert_eq!(blocks(&mut queue, 0)[..4], [2, 2, 2, 0]);
        }),
    ];
    together(threads);
}

/// Two threads use more zones than may be open; nobody ever counts one too many.
pub fn stay_within_limits(drive: &Device, open: u32, active: u32) {
    let worker = |zones: [u32; 4]| -> Box<dyn FnOnce() + Send> {
        let drive = drive.clone();
        Box::new(move || {
            let mut queue = queue(&drive);
            for (tag, zone) in (1..).zip(zones) {
                let length = if tag % 2 == 0 { 4 } else { 1 };
                queue.push(Request::append(zone, record(tag, length)).tag(tag.into())).unwrap();
                if tag == 2 {
                    queue.push(Request::append(zone, record(tag, 4)).tag(tag.into())).unwrap();
                }
            }
            queue.push(Request::open(zones[0])).unwrap();
            queue.submit().unwrap();
            let (now_open, now_active) = drive.zones_in_use();
            assert!(now_open <= open && now_active <= active, "{now_open}/{now_active}");
            queue.submit_and_wait(6).unwrap();
            while let Some(completion) = queue.next_completion() {
                if let Err(error) = completion.result {
                    assert!(
                        matches!(
                            error.kind(),
                            ErrorKind::TooManyActiveZones
                                | ErrorKind::TooManyOpenZones
                                | ErrorKind::ZoneFull
                                | ErrorKind::BeyondCapacity
                                | ErrorKind::InvalidTransition
                        ),
                        "{error:?}"
                    );
                    assert!(completion.flags.contains(Flags::REFUSED));
                }
                let (now_open, now_active) = drive.zones_in_use();
                assert!(now_open <= open && now_active <= active, "{now_open}/{now_active}");
            }
            let reset = run(&mut queue, Request::reset(zones[0]));
            assert!(reset.result.is_ok());
        })
    };
    together([worker([0, 1, 2, 3]), worker([1, 0, 3, 2])]);
    hold_counts(drive, open, active);
}

/// Three threads write a zone whose reset has to be durable first, and its space given back.
pub fn write_after_discard(template: &Template, leaving: bool) {
    let (disk, drive) = template.open_with(
        auto(FaultPlan::default()),
        &OpenOptions { discard: true, ..OpenOptions::default() },
    );
    {
        let mut queue = queue(&drive);
        append_all(&mut queue, 0, &[(1, 4)]);
        assert!(run(&mut queue, Request::flush()).result.is_ok());
        assert!(run(&mut queue, Request::reset(0)).result.is_ok());
    }
    let giving_up: Box<dyn FnOnce() -> Vec<Written> + Send> = {
        let drive = drive.clone();
        Box::new(move || {
            let mut queue = queue(&drive);
            queue.push(Request::append(0, record(4, 1)).tag(4)).unwrap();
            queue.submit().unwrap();
            Vec::new()
        })
    };
    let third = if leaving { giving_up } else { appender(&drive, 0, &[(4, 1)]) };
    let written =
        together([appender(&drive, 0, &[(2, 1)]), appender(&drive, 0, &[(3, 1)]), third]).concat();
    assert!(written.iter().all(Written::is_acknowledged), "{written:?}");
    let found = blocks(&mut queue(&drive), 0);
    for record in &written {
        assert_eq!(found[record.start as usize], record.tag, "{found:?} of {written:?}");
    }
    drop(disk);
}

/// A thread that cuts the power (of copies) again and again while others write: each time zone 0
/// holds whole records, `lengths[tag]` blocks long, below its write pointer.
fn cutter(disk: &SimDisk, lengths: &'static [usize]) -> Box<dyn FnOnce() + Send> {
    let disk = disk.clone();
    Box::new(move || {
        for round in 0..4 {
            for _ in 0..below(12) {
                thread::yield_now();
            }
            let left = match round {
                0 | 2 => after_cut(&disk, &mut |options| below(options as u64) as usize),
                1 => after_cut(&disk, &mut |_| 0),
                _ => after_cut(&disk, &mut |options| options - 1),
            };
            let found = blocks(&mut queue(&left), 0);
            let wp = wp(&left, 0) as usize;
            assert!(!found[..wp].contains(&OLD), "an earlier life shows: {found:?} up to {wp}");
            for (tag, &length) in (0..).zip(lengths) {
                let count = found[..wp].iter().filter(|&&found| found == tag).count();
                assert!(
                    count == 0 || (tag != 0 && count == length),
                    "a hole, or part of a record: {found:?} up to {wp}"
                );
            }
        }
    })
}

/// The power goes at any moment of two threads' appends, flushes and durable writes.
pub fn flush_during_cut(template: &Template) {
    let (disk, drive) = template.open(auto(FaultPlan::default()));
    let (one, two) = (drive.clone(), drive.clone());
    together([
        Box::new(move || {
            let mut queue = queue(&one);
            append_all(&mut queue, 0, &[(1, 2)]);
            assert!(run(&mut queue, Request::flush()).result.is_ok());
            append_all(&mut queue, 0, &[(2, 2)]);
        }) as Box<dyn FnOnce() + Send>,
        Box::new(move || {
            let mut queue = queue(&two);
            let append = Request::append(0, record(3, 2)).tag(3).fua();
            assert!(run(&mut queue, append).flags.contains(Flags::DURABLE));
        }),
        cutter(&disk, &[0, 2, 2, 2]),
    ]);
}

/// The same around a reset of a zone whose write pointer is durable.
pub fn reset_during_cut(template: &Template) {
    let (disk, drive) = template.open(auto(FaultPlan::default()));
    let mut first = queue(&drive);
    append_all(&mut first, 0, &[(1, 3)]);
    assert!(run(&mut first, Request::flush()).result.is_ok());
    assert!(run(&mut first, Request::reset(0)).result.is_ok());
    drop(first);
    let (one, two) = (drive.clone(), drive.clone());
    together([
        Box::new(move || drop(append_all(&mut queue(&one), 0, &[(2, 2)])))
            as Box<dyn FnOnce() + Send>,
        Box::new(move || {
            let mut queue = queue(&two);
            append_all(&mut queue, 0, &[(3, 2)]);
            assert!(run(&mut queue, Request::flush()).result.is_ok());
        }),
        cutter(&disk, &[0, 3, 2, 2]),
    ]);
}

/// Threads append through handles of a drive with a single place: each record is acknowledged
/// once, those whose future is dropped are whole or absent, and the I/O thread ends. A wake-up that
/// is lost, for the thread or for one of those in line, is a deadlock.
pub fn append_through_handles(target: &Target) {
    let handles = HandleOptions { threads: 1, depth: 1, buffer_bytes: 0, deadline: None };
    let options = OpenOptions { handles, ..OpenOptions::default() };
    let drive = zonal::open(target, &options).unwrap();
    let appends = (0..2_u8).map(|thread| -> Box<dyn FnOnce() -> Vec<u64> + Send> {
        let drive = drive.clone();
        Box::new(move || {
            let mut dropped = drive.append(0, record(100 + thread, 1));
            let mut context = Context::from_waker(Waker::noop());
            let polled = Pin::new(&mut dropped).poll(&mut context);
            assert!(polled.is_pending(), "it has been asked for just now");
            let first = drive.append(0, record(2 * thread + 1, 1)).wait().unwrap().offset;
            drop(dropped);
            let second = drive.append(0, record(2 * thread + 2, 1)).wait().unwrap().offset;
            vec![first, second]
        })
    });
    let mut places: Vec<u64> = together(appends).concat();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 4, "each has a place of its own");
    let written = wp(&drive, 0);
    assert!((4..=6).contains(&written), "{written} blocks were written");
    let other = drive.clone();
    drop(drive);
    other.close().unwrap();
}

/// Handles go while another thread starts the I/O thread, and while it closes.
pub fn close_against_handles() {
    let target = Target::Memory(geometry(0, 0));
    let handles = HandleOptions { threads: 1, depth: 1, buffer_bytes: 0, deadline: None };
    let options = OpenOptions { handles, ..OpenOptions::default() };
    let drive = zonal::open(&target, &options).unwrap();
    let other = drive.clone();
    let thread = thread::spawn(move || {
        let appended = other.append(0, record(1, 1)).wait();
        appended.map(|landed| landed.offset).map_err(|failed| failed.error.kind())
    });
    drive.close().unwrap();
    match thread.join().unwrap() {
        Ok(offset) => assert_eq!(offset, 0),
        Err(kind) => assert_eq!(kind, ErrorKind::DeviceReadOnly),
    }
}
