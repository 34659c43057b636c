//! What was measured, for people and in fio's words.

use std::{
    fmt,
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use hdrhistogram::Histogram;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike},
};
use serde::{Serialize, Serializer};
use zonal::Device;

use super::{
    Rw, Work,
    verify::Verified,
    worker::{Direction, JobResult},
};
use crate::{
    args::format_size,
    output::{format_count, format_nanos, format_rate, format_seconds, plural},
};

/// Processor time of the whole process, the kernel's threads that work for its rings included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    user: Duration,
    system: Duration,
}

impl Cpu {
    /// What was used so far.
    pub(super) fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let time = |time: TimeVal| {
            Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or_default())
        };
        Ok(Self { user: time(usage.user_time()), system: time(usage.system_time()) })
    }

    /// What was used since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// All jobs' results taken together.
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    pub(super) read: Direction,
    pub(super) write: Direction,
    pub(super) cpu: Cpu,
    /// Whether each record was a system call of its job's thread.
    calls: bool,
    /// What the flush after the last record took.
    pub(super) flush: Duration,
    /// Each job's log.
    pub(super) logs: Vec<Vec<u64>>,
}

impl Measured {
    /// Merges the jobs' results; the errors are handed back, lowest job first.
    pub(super) fn merge(
        jobs: Vec<JobResult>,
        cpu: Cpu,
        timeline: bool,
    ) -> Result<(Self, Vec<anyhow::Error>)> {
        let started = jobs.iter().map(|job| job.started).min();
        let ended = jobs.iter().map(|job| job.ended).max();
        let elapsed = started.zip(ended).map(|(started, ended)| ended - started);
        let elapsed = elapsed.unwrap_or_default();
        let (read, write) = (Direction::new(timeline)?, Direction::new(timeline)?);
        let (flush, logs) = (Duration::ZERO, Vec::new());
        let calls = jobs.iter().any(|job| job.calls);
        let mut merged = Self { elapsed, read, write, cpu, calls, flush, logs };
        let mut errors = Vec::new();
        for job in jobs {
            merged.read.add(job.read)?;
            merged.write.add(job.write)?;
            merged.logs.push(job.log);
            errors.extend(job.error);
        }
        Ok((merged, errors))
    }

    /// Records of both directions.
    pub(super) fn ios(&self) -> u64 {
        self.read.ios() + self.write.ios()
    }

    /// Latencies of both directions.
    fn latency_ns(&self) -> Histogram<u64> {
        let mut both = self.read.latency_ns.clone();
        // All have the same bounds.
        let _ = both.add(&self.write.latency_ns);
        both
    }
}

/// A result to print.
pub(super) struct Results<'a> {
    pub(super) device: &'a Device,
    pub(super) work: &'a Work,
    pub(super) measured: &'a Measured,
    pub(super) verified: Option<&'a Verified>,
}

/// What `bench --json` says. Times are nanoseconds unless their name says otherwise.
#[derive(Serialize)]
pub(super) struct Summary {
    target: String,
    rw: &'static str,
    bs: usize,
    iodepth: usize,
    numjobs: u32,
    engine: String,
    direct_io: bool,
    total_ios: u64,
    io_bytes: u64,
    /// Milliseconds, as fio has it.
    runtime: f64,
    iops: f64,
    bw_bytes: f64,
    lat_ns: Latency,
    /// Percent of one processor.
    usr_cpu: f64,
    sys_cpu: f64,
    cpu_ns_per_op: f64,
    flush_ns: u64,
    verified: u64,
    verify_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rwmixread: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<OneWay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<OneWay>,
}

/// Of mixed work, what went one way.
#[derive(Serialize)]
struct OneWay {
    total_ios: u64,
    io_bytes: u64,
    iops: f64,
    bw_bytes: f64,
    lat_ns: Latency,
}

#[derive(Serialize)]
struct Latency {
    min: u64,
    max: u64,
    mean: f64,
    stddev: f64,
    #[serde(rename = "N")]
    count: u64,
    #[serde(serialize_with = "in_order")]
    percentile: Vec<(String, u64)>,
}

/// An object whose fields keep their order.
fn in_order<S: Serializer>(pairs: &[(String, u64)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// fio's default percentiles, less those that tell little.
const PERCENTILES: [f64; 11] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99];

#[expect(clippy::cast_precision_loss, reason = "rates and shares for people")]
impl Results<'_> {
    fn seconds(&self) -> f64 {
        self.measured.elapsed.as_secs_f64().max(1e-9)
    }

    fn iops(&self) -> f64 {
        self.measured.ios() as f64 / self.seconds()
    }

    fn bytes(&self) -> u64 {
        self.measured.ios() * self.work.record_bytes as u64
    }

    /// `time` for each operation, in nanoseconds.
    fn per_op(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e9 / self.measured.ios().max(1) as f64
    }

    /// The result as it goes into JSON.
    pub(super) fn summary(&self) -> Summary {
        let Measured { cpu, flush, elapsed, read, write, .. } = self.measured;
        let limits = self.device.limits();
        let mixed = self.work.rw == Rw::Mixed;
        let one_way = |direction| mixed.then(|| self.one_way(direction));
        let percent = |time: Duration| 100.0 * time.as_secs_f64() / self.seconds();
        Summary {
            target: self.device.name().to_owned(),
            rw: self.work.rw.word(),
            bs: self.work.record_bytes,
            iodepth: self.work.iodepth,
            numjobs: self.work.jobs,
            engine: self.engine().to_owned(),
            direct_io: limits.direct_io,
            total_ios: self.measured.ios(),
            io_bytes: self.bytes(),
            runtime: elapsed.as_secs_f64() * 1e3,
            iops: self.iops(),
            bw_bytes: self.bytes() as f64 / self.seconds(),
            lat_ns: latency(&self.measured.latency_ns()),
            usr_cpu: percent(cpu.user),
            sys_cpu: percent(cpu.system),
            cpu_ns_per_op: self.per_op(cpu.user + cpu.system),
            flush_ns: u64::try_from(flush.as_nanos()).unwrap_or(u64::MAX),
            verified: self.verified.map_or(0, |verified| verified.records),
            verify_errors: self.verified.map_or(0, |verified| verified.wrong),
            rwmixread: mixed.then_some(self.work.rwmixread),
            read: one_way(read),
            write: one_way(write),
        }
    }

    /// What moved the bytes, in fio's word where that was one call after the other.
    fn engine(&self) -> &'static str {
        if self.measured.calls { "psync" } else { self.device.limits().engine }
    }

    fn one_way(&self, direction: &Direction) -> OneWay {
        let io_bytes = direction.ios() * self.work.record_bytes as u64;
        OneWay {
            total_ios: direction.ios(),
            io_bytes,
            iops: direction.ios() as f64 / self.seconds(),
            bw_bytes: io_bytes as f64 / self.seconds(),
            lat_ns: latency(&direction.latency_ns),
        }
    }

    /// For people, what went one way of mixed work.
    fn line_of(&self, direction: &Direction) -> String {
        let OneWay { iops, bw_bytes, .. } = self.one_way(direction);
        let at =
            |percentile| format_nanos(direction.latency_ns.value_at_percentile(percentile) as f64);
        format!(
            "{} IOPS, {}; p50 {}, p99 {}",
            format_count(iops),
            format_rate(bw_bytes),
            at(50.0),
            at(99.0)
        )
    }

    /// The result for people.
    pub(super) fn write(&self, mut out: impl Write) -> io::Result<()> {
        let Measured { cpu, flush, elapsed, read, write, .. } = self.measured;
        let (ios, latency_ns) = (self.measured.ios(), self.measured.latency_ns());
        let Work { rw, record_bytes, iodepth, jobs, .. } = self.work;
        let limits = self.device.limits();
        let direct = if limits.direct_io { ", direct" } else { "" };
        writeln!(
            out,
            "{}: {} records, {}, {iodepth} deep each; {}{direct}",
            rw.word(),
            format_size(*record_bytes as u64),
            plural(*jobs as usize, "job"),
            self.engine(),
        )?;
        let mut line = |name: &str, value: fmt::Arguments<'_>| writeln!(out, "  {name:<9} {value}");
        line(
            "rate",
            format_args!(
                "{} IOPS, {} ({ios} records in {})",
                format_count(self.iops()),
                format_rate(self.iops() * *record_bytes as f64),
                format_seconds(*elapsed)
            ),
        )?;
        let at = |percentile: f64| format_nanos(latency_ns.value_at_percentile(percentile) as f64);
        line(
            "latency",
            format_args!(
                "p50 {}, p99 {}, p99.9 {}, max {}",
                at(50.0),
                at(99.0),
                at(99.9),
                format_nanos(latency_ns.max() as f64)
            ),
        )?;
        if *rw == Rw::Mixed {
            line("reads", format_args!("{}", self.line_of(read)))?;
            line("writes", format_args!("{}", self.line_of(write)))?;
        }
        line(
            "processor",
            format_args!(
                "{} a record (user {}, system {})",
                format_nanos(self.per_op(cpu.user + cpu.system)),
                format_nanos(self.per_op(cpu.user)),
                format_nanos(self.per_op(cpu.system))
            ),
        )?;
        if rw.writes() {
            line("flush", format_args!("{}", format_seconds(*flush)))?;
        }
        if let Some(verified) = self.verified {
            let total = verified.records + verified.wrong;
            let what = format_args!(
                "{} of {total} records are at the offset that their completion reported",
                verified.records
            );
            line("verified", what)?;
        }
        Ok(())
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let percentile = PERCENTILES
        .iter()
        .map(|percentile| (format!("{percentile:.6}"), histogram.value_at_percentile(*percentile)))
        .collect();
    Latency {
        min: histogram.min(),
        max: histogram.max(),
        mean: histogram.mean(),
        stddev: histogram.stdev(),
        count: histogram.len(),
        percentile,
    }
}
