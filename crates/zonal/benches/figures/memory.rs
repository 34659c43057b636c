//! The sides that run in memory: appends to a memory drive, and the bare copy they are held
//! against.
//!
//! Threads work in laps: each has its share of the records that fill the zones, and the clocks
//! run only between the barriers at a lap's ends, while the zones are reset outside.

use crate::pairs::Sample;
use crate::system::cpu_ns;
use anyhow::Context;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zonal::{Buffer, Device, OpenOptions, QueueOptions, Request, Target};

/// The length of a record.
pub(crate) const RECORD: usize = 512;

/// Records in flight between two submissions.
const BATCH: usize = 32;

/// Bytes of a zone: larger than the caches, small enough to be written before.
const ZONE: usize = 128 << 20;

const RECORDS: u64 = (ZONE / RECORD) as u64;

/// A memory drive with zones for two threads.
pub(crate) fn drive() -> anyhow::Result<Device> {
    let name = format!("mem:size={},zone-size={ZONE},block-size={RECORD}", 2 * ZONE);
    Ok(zonal::open(&Target::parse(&name)?, &OpenOptions::default())?)
}

/// Appends by one thread for each of `zones`, which names the zone it works in.
pub(crate) fn append(drive: &Device, zones: &[u32], time: Duration) -> anyhow::Result<Sample> {
    let options = QueueOptions { depth: 4, buffer_bytes: 0, ..QueueOptions::default() };
    let mut control = drive.queue(&options)?;
    let reset = || {
        control.push(Request::reset_all()).map_err(|full| anyhow::anyhow!("{full}"))?;
        control.submit_and_wait(1)?;
        control.next_completion().context("it was waited for")?.result?;
        Ok(())
    };
    let sharers = |zone| zones.iter().filter(|&&other| other == zone).count() as u64;
    let records = |&zone: &u32| RECORDS / sharers(zone);
    let lap = |thread: usize| appender(drive, zones[thread], records(&zones[thread]));
    laps(zones.len(), zones.iter().map(records).sum(), time, reset, lap)
}

/// One thread's lap on a queue of its own.
fn appender(drive: &Device, zone: u32, records: u64) -> anyhow::Result<impl FnMut()> {
    let depth = u32::try_from(BATCH)?;
    let options = QueueOptions { depth, buffer_bytes: RECORD, ..QueueOptions::default() };
    let mut queue = drive.queue(&options)?;
    let mut buffers: Vec<Buffer> = (0..BATCH).map_while(|_| queue.buffer(RECORD)).collect();
    let fits = "the queue has room, and the zone: the lap is as long as the zone";
    Ok(move || {
        for _ in 0..records / BATCH as u64 {
            for buffer in buffers.drain(..) {
                queue.push(Request::append(zone, buffer)).expect(fits);
            }
            queue.submit().expect(fits);
            while let Some(completion) = queue.next_completion() {
                black_box(completion.offset);
                completion.result.expect(fits);
                buffers.extend(completion.buffer);
            }
        }
    })
}

/// The same copies without a drive: from as many buffers, to memory of each thread's own.
pub(crate) fn copy(threads: usize, time: Duration) -> anyhow::Result<Sample> {
    let lap = |_| {
        let sources: Vec<[u8; 4096]> = (0..BATCH).map(|_| [1; 4096]).collect();
        let mut memory = vec![1_u8; ZONE];
        Ok(move || {
            let sources = sources.iter().cycle();
            for (record, source) in memory.chunks_exact_mut(RECORD).zip(sources) {
                record.copy_from_slice(black_box(&source[..RECORD]));
            }
            black_box(&mut memory);
        })
    };
    laps(threads, threads as u64 * RECORDS, time, || Ok(()), lap)
}

/// Runs laps of all threads until the clock has run for `time`.
fn laps<Lap: FnMut()>(
    threads: usize,
    records: u64,
    time: Duration,
    mut prepare: impl FnMut() -> anyhow::Result<()>,
    lap: impl Fn(usize) -> anyhow::Result<Lap> + Sync,
) -> anyhow::Result<Sample> {
    let (barrier, stop) = (Barrier::new(threads + 1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, stop, lap) = (&barrier, &stop, &lap);
            scope.spawn(move || {
                let mut lap = lap(thread).expect("a queue for each thread");
                loop {
                    barrier.wait();
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    lap();
                    barrier.wait();
                }
            });
        }
        let mut sample = Sample { block: RECORD as u64, ..Sample::default() };
        let mut prepared = prepare();
        while prepared.is_ok() && sample.seconds < time.as_secs_f64() {
            let cpu = cpu_ns();
            let start = Instant::now();
            barrier.wait();
            barrier.wait();
            sample.seconds += start.elapsed().as_secs_f64();
            sample.cpu_ns += cpu_ns() - cpu;
            sample.operations += records;
            prepared = prepare();
        }
        stop.store(true, Ordering::Release);
        barrier.wait();
        prepared.map(|()| sample)
    })
}
