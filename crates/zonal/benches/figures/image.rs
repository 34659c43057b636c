//! The sides that an image drive runs: appends, random reads, appends read back.

use crate::pairs::Sample;
use crate::system::{Device as BlockDevice, cpu_ns};
use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use zonal::{
    AdoptOptions, Buffer, Completion, CreateOptions, Device, Geometry, OpenOptions, Preallocate,
    Queue, QueueOptions, Request, Target,
};

/// How many zones the drive has, so that all of them can be written in turns.
pub(crate) const ZONES: u64 = 64;

/// Marks the tag of a read that verifies an append.
const CHECK: u64 = 1 << 32;

/// How a side works.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) block: u64,
    pub(crate) depth: u32,
    /// Zones that are written in turns.
    pub(crate) zones: u64,
}

/// A drive in an image of which every block has been written.
pub(crate) struct ImageDrive {
    pub(crate) device: Device,
    path: PathBuf,
    size: u64,
}

impl ImageDrive {
    pub(crate) fn create(path: &Path, size: u64) -> anyhow::Result<Self> {
        let zone_size = size / ZONES;
        let geometry =
            Geometry { zone_size, zone_capacity: zone_size, ..Geometry::with_size(size) };
        let preallocate = Preallocate::Full;
        let options = CreateOptions { geometry, preallocate, force: true, progress: None };
        zonal::create(path, options)?;
        let device = zonal::open(&Target::Path(path.to_owned()), &OpenOptions::default())?;
        ensure!(device.limits().direct_io, "this file system has no direct I/O");
        Ok(Self { device, path: path.to_owned(), size })
    }

    /// The same in an image of `qemu-img create -o cluster_size=64k,preallocation=off` that was
    /// adopted: scattered clusters, allocated as zones leave empty.
    pub(crate) fn adopted(path: &Path, size: u64) -> anyhow::Result<Self> {
        let options = "cluster_size=64k,preallocation=off";
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-o", options])
            .arg(path)
            .arg(size.to_string())
            .status()
            .context("qemu-img is not installed")?;
        ensure!(made.success(), "qemu-img create failed");
        let zone_size = Some(size / ZONES);
        zonal::adopt(path, AdoptOptions { zone_size, ..AdoptOptions::default() })?;
        let device = zonal::open(&Target::Path(path.to_owned()), &OpenOptions::default())?;
        ensure!(device.info().layout == Some("scattered"), "it is no scattered image");
        let drive = Self { device, path: path.to_owned(), size };
        drive.fill()?;
        Ok(drive)
    }

    /// Appends for `time` to a drive that was reset before. When it is full it is reset again,
    /// which counts.
    pub(crate) fn append(&self, work: Work, time: Duration) -> anyhow::Result<Sample> {
        let mut run = Run::new(self, work, work.depth)?;
        run.reset()?;
        let (mut next, records) = (0, self.records(work));
        let place = Places::new(self, work);
        run.measure(time, |run, buffer| {
            if next == records {
                run.drain(|_, _| Ok(()))?;
                run.reset()?;
                next = 0;
            }
            next += 1;
            Ok(Request::append(place.zone(next - 1), buffer))
        })
    }

    /// How many records of that work fit.
    pub(crate) fn records(&self, work: Work) -> u64 {
        self.size / work.block
    }

    /// Fills the whole drive, for reads.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let work = Work { block: 1 << 20, depth: 16, zones: 1 };
        let mut run = Run::new(self, work, work.depth)?;
        run.reset()?;
        for n in 0..self.size / work.block {
            let buffer = run.buffer()?;
            run.push(Request::append(Places::new(self, work).zone(n), buffer))?;
            if run.queue.in_flight() == run.depth {
                run.take(run.batch, |_, _| Ok(()))?;
            }
        }
        run.drain(|_, _| Ok(()))
    }

    /// Reads blocks of a full drive at random places.
    pub(crate) fn read(&self, work: Work, time: Duration) -> anyhow::Result<Sample> {
        let mut run = Run::new(self, work, work.depth)?;
        let blocks = self.size / work.block;
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        run.measure(time, |_, buffer| {
            // xorshift64: Marsaglia, 2003.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            Ok(Request::read_at(random % blocks * work.block, buffer))
        })
    }

    /// Appends records that all differ, reads each back from where it landed, and compares.
    pub(crate) fn append_verified(&self, work: Work, time: Duration) -> anyhow::Result<Sample> {
        let mut run = Run::new(self, work, 2 * work.depth)?;
        run.reset()?;
        let place = Places::new(self, work);
        let records = self.size / work.block;
        let mut written: Vec<Option<Buffer>> = (0..work.depth).map(|_| None).collect();
        let mut free: Vec<u64> = (0..u64::from(work.depth)).collect();
        let (mut next, mut verified) = (0, 0);
        let meter = Meter::start(self);
        while next < records && (meter.start.elapsed() < time || free.len() < written.len()) {
            while meter.start.elapsed() < time
                && let Some(slot) = free.pop()
            {
                let mut buffer = run.buffer()?;
                for (sector, bytes) in (0_u64..).zip(buffer.chunks_exact_mut(512)) {
                    bytes[..8].copy_from_slice(&(next << 8 | sector).to_le_bytes());
                }
                run.push(Request::append(place.zone(next), buffer).tag(slot))?;
                next += 1;
            }
            let mut checks = Vec::new();
            let spare = &mut run.spare;
            let queue = &mut run.queue;
            queue.submit_and_wait(run.batch)?;
            while let Some(completion) = queue.next_completion() {
                completion.result?;
                let buffer = completion.buffer.context("a completion without its buffer")?;
                let slot = completion.tag & !CHECK;
                let kept = written.get_mut(usize::try_from(slot)?).context("an unknown tag")?;
                if completion.tag & CHECK == 0 {
                    *kept = Some(buffer);
                    checks.push((slot, completion.offset));
                } else {
                    let record = kept.take().context("a read without its append")?;
                    ensure!(*record == *buffer, "another record at {}", completion.offset);
                    verified += 1;
                    free.push(slot);
                    spare.extend([record, buffer]);
                }
            }
            for (slot, offset) in checks {
                let into = run.buffer()?;
                run.push(Request::read_at(offset, into).tag(slot | CHECK))?;
            }
        }
        run.drain(|_, _| Ok(()))?;
        Ok(meter.stop(&run, verified, None))
    }
}

impl Drop for ImageDrive {
    fn drop(&mut self) {
        let mut live = self.path.clone().into_os_string();
        live.push(".live");
        for path in [&*self.path, Path::new(&live)] {
            // Nothing depends on it: the next run replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Where the n-th record goes, so many zones being filled in turns.
pub(crate) struct Places {
    zones: u64,
    per_turn: u64,
}

impl Places {
    pub(crate) fn new(drive: &ImageDrive, work: Work) -> Self {
        Self { zones: work.zones, per_turn: work.zones * (drive.size / ZONES / work.block) }
    }

    pub(crate) fn zone(&self, n: u64) -> u32 {
        let zone = n / self.per_turn * self.zones + n % self.zones;
        u32::try_from(zone).unwrap_or(u32::MAX)
    }
}

/// Starts the clocks, and stops them.
pub(crate) struct Meter<'a> {
    drive: &'a ImageDrive,
    start: Instant,
    cpu: f64,
    requests: Option<u64>,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(drive: &'a ImageDrive) -> Self {
        let requests = BlockDevice::below(&drive.path).requests();
        Self { drive, start: Instant::now(), cpu: cpu_ns(), requests }
    }

    fn stop(self, run: &Run<'_>, operations: u64, latency: Option<&Histogram<u64>>) -> Sample {
        Sample {
            latency_ns: latency
                .map(|latency| [50.0, 99.0, 99.9].map(|p| latency.value_at_percentile(p))),
            system_calls: Some(run.queue.system_calls() - run.calls_before),
            ..self.stop_at(run.work, operations)
        }
    }

    /// What can be said of work that no queue of the benchmark's own did.
    pub(crate) fn stop_at(self, work: Work, operations: u64) -> Sample {
        let requests = BlockDevice::below(&self.drive.path).requests();
        Sample {
            operations,
            seconds: self.start.elapsed().as_secs_f64(),
            block: work.block,
            cpu_ns: cpu_ns() - self.cpu,
            device_requests: requests.zip(self.requests).map(|(after, before)| after - before),
            ..Sample::default()
        }
    }
}

/// One run: a queue kept at its depth.
struct Run<'a> {
    drive: &'a ImageDrive,
    work: Work,
    queue: Queue,
    depth: usize,
    batch: usize,
    spare: Vec<Buffer>,
    /// When the request in flight with that tag was pushed, in ns since `epoch`.
    pushed: Vec<u64>,
    free_tags: Vec<u64>,
    epoch: Instant,
    calls_before: u64,
}

impl<'a> Run<'a> {
    fn new(drive: &'a ImageDrive, work: Work, buffers: u32) -> anyhow::Result<Self> {
        let buffer_bytes = usize::try_from(work.block)?;
        let batch = Some((work.depth / 4).max(1));
        let options =
            QueueOptions { depth: buffers, buffer_bytes, batch, ..QueueOptions::default() };
        let queue = drive.device.queue(&options)?;
        let spare: Vec<Buffer> = (0..buffers).map_while(|_| queue.buffer(buffer_bytes)).collect();
        let depth = work.depth as usize;
        Ok(Self {
            drive,
            work,
            queue,
            depth,
            batch: (depth / 4).max(1),
            spare,
            pushed: vec![0; depth],
            free_tags: (0..u64::from(work.depth)).collect(),
            epoch: Instant::now(),
            calls_before: 0,
        })
    }

    fn buffer(&mut self) -> anyhow::Result<Buffer> {
        self.spare.pop().context("no buffer is left")
    }

    fn push(&mut self, request: Request) -> anyhow::Result<()> {
        self.queue.push(request).map_err(|full| anyhow::anyhow!("{full}"))
    }

    /// Empties the drive, durably, so that the reset itself is not in what follows.
    fn reset(&mut self) -> anyhow::Result<()> {
        for request in [Request::reset_all(), Request::flush()] {
            self.push(request)?;
            self.queue.submit_and_wait(1)?;
            self.queue.next_completion().context("it was waited for")?.result?;
        }
        self.calls_before = self.queue.system_calls();
        Ok(())
    }

    /// Waits for `least` completions, and takes all there are.
    fn take(
        &mut self,
        least: usize,
        mut each: impl FnMut(u64, &Completion) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        self.queue.submit_and_wait(least)?;
        let now = self.now_ns();
        let mut taken = 0;
        while let Some(mut completion) = self.queue.next_completion() {
            each(now, &completion)?;
            self.spare.extend(completion.buffer.take());
            completion.result?;
            taken += 1;
        }
        Ok(taken)
    }

    fn drain(
        &mut self,
        mut each: impl FnMut(u64, &Completion) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while self.queue.in_flight() > 0 {
            self.take(self.queue.in_flight(), &mut each)?;
        }
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation)] // 584 years
    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Keeps the queue at its depth with what `next` makes, for `time`.
    fn measure(
        &mut self,
        time: Duration,
        mut next: impl FnMut(&mut Self, Buffer) -> anyhow::Result<Request>,
    ) -> anyhow::Result<Sample> {
        let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        let mut operations = 0;
        let meter = Meter::start(self.drive);
        let stop = meter.start + time;
        let mut running = true;
        while running || self.queue.in_flight() > 0 {
            let now = self.now_ns();
            while running && self.queue.in_flight() < self.depth {
                let buffer = self.buffer()?;
                let request = next(self, buffer)?;
                let tag = self.free_tags.pop().unwrap_or(0);
                self.pushed[usize::try_from(tag)?] = now;
                self.push(request.tag(tag))?;
            }
            let least = self.batch.min(self.queue.in_flight());
            let pushed = std::mem::take(&mut self.pushed);
            let mut free = std::mem::take(&mut self.free_tags);
            operations += self.take(least, |now, completion| {
                let tag = completion.tag;
                latency.saturating_record(now - pushed[usize::try_from(tag)?]);
                free.push(tag);
                Ok(())
            })?;
            (self.pushed, self.free_tags) = (pushed, free);
            running = running && Instant::now() < stop;
        }
        let sample = meter.stop(self, operations, Some(&latency));
        ensure!(operations > 0, "nothing was done");
        Ok(sample)
    }
}
