//! One job: a thread with a queue of its own.
//!
//! The hot loop allocates nothing, shares nothing that is written, and reads the clock once for each
//! batch: what completes together is taken to complete at once, and what is then pushed to start
//! there. A buffer goes round with its slot, filled once and stamped for each record.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use zonal::{Buffer, Completion, Device, Queue, QueueOptions, Request, ZoneState};

use super::{
    Rw,
    pace::Pace,
    pattern::Pattern,
    plan::{Gate, Next, Plan},
    timeline::Timeline,
};
use crate::{signals::Interrupt, transfer};

/// Latencies up to a minute, to three digits.
pub(super) const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// An empty histogram of latencies in nanoseconds.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?)
}

/// In a [`JobResult::log`]: the record was not acknowledged.
pub(super) const NOT_WRITTEN: u64 = u64::MAX;

/// What all jobs look at.
pub(super) struct Shared<'a> {
    pub(super) device: &'a Device,
    pub(super) rw: Rw,
    pub(super) record_bytes: usize,
    pub(super) iodepth: usize,
    pub(super) fixedbufs: bool,
    pub(super) sqpoll: bool,
    pub(super) hipri: bool,
    /// The least time from one record of a job to its next.
    pub(super) interval: Option<Duration>,
    /// Keep what a plot needs.
    pub(super) timeline: bool,
    pub(super) runtime: Option<Duration>,
    /// All are ready; the clock starts.
    pub(super) ready: &'a Barrier,
    pub(super) go: &'a Barrier,
    /// A job has failed.
    pub(super) stop: &'a AtomicBool,
    pub(super) interrupt: &'a Interrupt,
}

/// What went one way.
pub(super) struct Direction {
    pub(super) latency_ns: Histogram<u64>,
    /// Empty when nobody plots.
    pub(super) timeline: Timeline,
}

impl Direction {
    /// Nothing yet.
    pub(super) fn new(timeline: bool) -> Result<Self> {
        Ok(Self { latency_ns: histogram()?, timeline: Timeline::new(timeline)? })
    }

    /// How many records.
    pub(super) fn ios(&self) -> u64 {
        self.latency_ns.len()
    }

    /// Adds what another job did.
    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        self.latency_ns.add(&other.latency_ns)?;
        self.timeline.add(other.timeline)
    }
}

/// What one job did.
pub(super) struct JobResult {
    pub(super) read: Direction,
    pub(super) write: Direction,
    pub(super) started: Instant,
    pub(super) ended: Instant,
    /// Whether each record was a system call of the job's own thread.
    pub(super) calls: bool,
    /// Where each record landed, by sequence number; empty when nobody verifies.
    pub(super) log: Vec<u64>,
    /// Why it stopped early.
    pub(super) error: Option<anyhow::Error>,
}

/// A request's place: at most one in flight each.
struct Slot {
    buffer: Option<Buffer>,
    sequence: u64,
    started: Instant,
    reads: bool,
    /// The buffer holds the pattern, and not what was read into it.
    filled: bool,
}

/// Runs one job. Whatever happens, it passes both barriers, so that no other job hangs.
pub(super) fn run(
    shared: &Shared<'_>,
    plan: Plan,
    pattern: Option<&Pattern>,
    log: bool,
) -> Result<JobResult> {
    let gate = plan.gate();
    let job = Job::new(shared, plan, pattern, log);
    shared.ready.wait();
    shared.go.wait();
    let result = job.map(|mut job| {
        job.result.started = Instant::now();
        let ended = job.work(gate.as_deref());
        // What is in flight belongs to the measurement, unless the queue itself is broken.
        let drained = job.drain();
        job.result.ended = Instant::now();
        job.result.error = job.result.error.take().or(ended.err()).or(drained.err());
        job.result
    });
    if !matches!(&result, Ok(JobResult { error: None, .. })) {
        shared.stop.store(true, Ordering::Relaxed);
    }
    if let Some(gate) = gate {
        gate.leave();
    }
    result
}

struct Job<'a> {
    shared: &'a Shared<'a>,
    plan: Plan,
    pattern: Option<&'a Pattern>,
    logs: bool,
    // Before the queue: the buffers go back while it is there.
    slots: Vec<Slot>,
    idle: Vec<usize>,
    queue: Queue,
    pace: Option<Pace>,
    sequence: u64,
    result: JobResult,
}

impl<'a> Job<'a> {
    fn new(
        shared: &'a Shared<'a>,
        plan: Plan,
        pattern: Option<&'a Pattern>,
        logs: bool,
    ) -> Result<Self> {
        let options = QueueOptions {
            depth: u32::try_from(shared.iodepth)?,
            buffer_bytes: shared.record_bytes,
            batch: Some(u32::try_from(shared.iodepth / 4)?.max(1)),
            fixed_buffers: shared.fixedbufs,
            sqpoll: shared.sqpoll,
            hipri: shared.hipri,
            ..Default::default()
        };
        let mut queue = shared.device.queue(&options)?;
        let now = Instant::now();
        let mut slots = Vec::with_capacity(shared.iodepth);
        for _ in 0..shared.iodepth {
            let mut buffer = transfer::lease(&mut queue, shared.record_bytes)?;
            if let Some(pattern) = pattern {
                pattern.fill(&mut buffer);
            }
            slots.push(Slot {
                buffer: Some(buffer),
                sequence: 0,
                started: now,
                reads: false,
                filled: true,
            });
        }
        // Virtual memory until it is used.
        let log = if logs { Vec::with_capacity(usize::try_from(plan.records())?) } else { vec![] };
        let (read, write) = (Direction::new(shared.timeline)?, Direction::new(shared.timeline)?);
        let calls = queue.makes_calls();
        let result = JobResult { read, write, started: now, ended: now, calls, log, error: None };
        let pace = shared.interval.map(Pace::new);
        let idle = (0..shared.iodepth).rev().collect();
        Ok(Self { shared, plan, pattern, logs, slots, idle, queue, pace, sequence: 0, result })
    }

    /// The hot loop.
    fn work(&mut self, gate: Option<&Gate>) -> Result<()> {
        let deadline = self.shared.runtime.map(|runtime| self.result.started + runtime);
        let mut now = self.result.started;
        while !self.is_over(now, deadline) {
            match self.fill(now)? {
                Fed::Full => now = self.reap(1)?,
                Fed::Early(rest) => now = self.pause(rest, deadline)?,
                Fed::Gate => {
                    self.drain()?;
                    let stop = || self.is_over(Instant::now(), deadline);
                    let Some(gate) = gate else { break };
                    if !gate.arrive(stop, |zones| finish(self.shared.device, zones))? {
                        break;
                    }
                    now = Instant::now();
                }
                Fed::End => break,
            }
        }
        Ok(())
    }

    /// Takes what completes until the next record is due.
    fn pause(&mut self, rest: Duration, deadline: Option<Instant>) -> Result<Instant> {
        if self.queue.in_flight() > 0 {
            return self.reap(1);
        }
        // A signal, or a job that failed, is seen within this time.
        const GLANCE: Duration = Duration::from_millis(20);
        let now = Instant::now();
        let left = deadline.map_or(rest, |at| rest.min(at.saturating_duration_since(now)));
        std::thread::sleep(left.min(GLANCE));
        Ok(Instant::now())
    }

    fn is_over(&self, now: Instant, deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| now >= deadline)
            || self.result.error.is_some()
            || self.shared.stop.load(Ordering::Relaxed)
            || self.shared.interrupt.came()
    }

    /// Pushes until all slots are in flight, the next record is not due yet, or the plan has
    /// something else in mind.
    fn fill(&mut self, now: Instant) -> Result<Fed> {
        while let Some(&at) = self.idle.last() {
            if let Some(pace) = &self.pace
                && let Some(rest) = pace.rest(now.duration_since(self.result.started))
            {
                return Ok(Fed::Early(rest));
            }
            match self.plan.next() {
                Next::Write { zone, offset } => self.push_write(at, zone, offset, now)?,
                Next::Read { offset } => self.push_read(at, offset, now)?,
                Next::Gate => return Ok(Fed::Gate),
                Next::End => return Ok(Fed::End),
            }
            self.idle.pop();
            if let Some(pace) = &mut self.pace {
                pace.step();
            }
        }
        Ok(Fed::Full)
    }

    fn push_write(&mut self, at: usize, zone: u32, offset: u64, now: Instant) -> Result<()> {
        let slot = &mut self.slots[at];
        let mut buffer = slot.buffer.take().context("a slot lost its buffer")?;
        slot.sequence = self.sequence;
        slot.started = now;
        slot.reads = false;
        if let Some(pattern) = self.pattern {
            if !slot.filled {
                pattern.fill(&mut buffer);
                slot.filled = true;
            }
            pattern.stamp(&mut buffer, self.sequence);
        }
        if self.logs {
            self.result.log.push(NOT_WRITTEN);
        }
        self.sequence += 1;
        let request = match self.shared.rw {
            Rw::AppendOrdered => Request::append_ordered(zone, buffer),
            Rw::Write => Request::write_at(offset, buffer),
            Rw::Append | Rw::Mixed | Rw::Read | Rw::Randread => Request::append(zone, buffer),
        };
        transfer::push(&mut self.queue, request.tag(at as u64))
    }

    fn push_read(&mut self, at: usize, offset: u64, now: Instant) -> Result<()> {
        let slot = &mut self.slots[at];
        let buffer = slot.buffer.take().context("a slot lost its buffer")?;
        slot.started = now;
        slot.reads = true;
        slot.filled = false;
        transfer::push(&mut self.queue, Request::read_at(offset, buffer).tag(at as u64))
    }

    /// Submits, waits for `min` completions, and takes all there are. Returns the time they came.
    fn reap(&mut self, min: usize) -> Result<Instant> {
        self.queue.submit_and_wait(min)?;
        let now = Instant::now();
        while let Some(completion) = self.queue.next_completion() {
            self.complete(completion, now)?;
        }
        Ok(now)
    }

    fn complete(&mut self, completion: Completion, now: Instant) -> Result<()> {
        let Completion { tag, result, offset, buffer, .. } = completion;
        let at = usize::try_from(tag)?;
        let slot = self.slots.get_mut(at).context("a completion has an unknown tag")?;
        slot.buffer = Some(buffer.context("a completion came without its buffer")?);
        self.idle.push(at);
        match result {
            Err(error) => {
                self.result.error.get_or_insert_with(|| error.into());
            }
            Ok(bytes) => {
                ensure!(
                    bytes as usize == self.shared.record_bytes,
                    "{bytes} bytes moved of a record"
                );
                let latency = now.duration_since(slot.started).as_nanos();
                // Saturates at the histogram's end, long before 64 bits do.
                let latency = u64::try_from(latency).unwrap_or(u64::MAX);
                let direction =
                    if slot.reads { &mut self.result.read } else { &mut self.result.write };
                direction.latency_ns.saturating_record(latency);
                direction.timeline.record(now.duration_since(self.result.started), latency)?;
                if self.logs && !slot.reads {
                    self.result.log[usize::try_from(slot.sequence)?] = offset;
                }
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        while self.queue.in_flight() > 0 {
            self.reap(1)?;
        }
        Ok(())
    }
}

/// Why no more was pushed.
enum Fed {
    /// All slots are in flight.
    Full,
    /// The next record is due in so long.
    Early(Duration),
    /// The group of zones is full.
    Gate,
    /// The plan is over.
    End,
}

/// Finishes those of `zones` that are not full by themselves, so that their places become free.
fn finish(device: &Device, zones: &[u32]) -> Result<()> {
    let mut queue = transfer::small_queue(device)?;
    for &zone in zones {
        let full = device.report(zone..=zone)?.iter().any(|zone| zone.state == ZoneState::Full);
        if !full {
            transfer::run_one(&mut queue, Request::finish(zone))?.result?;
        }
    }
    Ok(())
}
