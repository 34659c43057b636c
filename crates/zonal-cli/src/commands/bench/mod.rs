//! `zonal bench`: how fast a drive takes appends, writes and reads, and whether every record is
//! where its completion said.
//!
//! Resolved before the clock starts: who writes what (`plan`), what it writes (`pattern`). Each job
//! is a thread with its own queue (`worker`). Afterwards it flushes, reads back (`verify`) and
//! prints (`results`).

mod pace;
mod pattern;
mod plan;
mod plot;
mod results;
mod temporary;
mod timeline;
mod verify;
mod worker;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Barrier, atomic::AtomicBool},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use zonal::{Device, QueueOptions, Request, ZoneKind};

use self::{
    pattern::Pattern,
    plan::{Plan, Whole},
    results::{Cpu, Measured, Results},
    temporary::Temporary,
    verify::Verified,
    worker::Shared,
};
use super::create::Reserve;
use crate::{
    args::{self, Access, Engine, Size, WriteAccess, ZoneRange, format_size, parse_duration},
    outcome::Outcome,
    output::{Ui, format_seconds, may_hold_picture, plural, print_json},
    own::OwnFiles,
    signals::Interrupt,
    transfer, zones,
};

/// The words of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// The drive [default: a temporary image, which is verified and removed]
    target: Option<String>,
    /// What each record is
    #[arg(long, value_enum, default_value_t = Rw::Append)]
    rw: Rw,
    /// The record size
    #[arg(long, value_name = "SIZE", default_value = "4K")]
    bs: Size,
    /// How many records each job has in flight
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(zonal::DEPTH_MAX)))]
    iodepth: u32,
    /// How many threads, each with a queue of its own [default: one a processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=JOBS_MAX))]
    numjobs: Option<u32>,
    /// Only these zones: N, A..B, A..=B, A.. or ..B
    #[arg(long, value_name = "RANGE")]
    zones: Option<ZoneRange>,
    /// Of mixed work: how many of a hundred records are reads [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    rwmixread: Option<u8>,
    /// How many bytes altogether [default: until the time is up]
    #[arg(long)]
    size: Option<Size>,
    /// For how long: 5, 5s, 500ms, 2m [default: 2s unless --size is given]
    #[arg(long, visible_alias = "time", value_name = "TIME", value_parser = parse_duration)]
    runtime: Option<Duration>,
    /// Each job moves at most so many bytes a second
    #[arg(long, value_name = "SIZE", conflicts_with = "rate_iops")]
    rate: Option<Size>,
    /// Each job does at most so many records a second
    #[arg(long, value_name = "N", alias = "rate_iops",
          value_parser = clap::value_parser!(u32).range(1..))]
    rate_iops: Option<u32>,
    /// Whether the kernel knows the buffers: without saying so where it lets us, with 1 or not at all
    /// it has to, with 0 it does not
    #[arg(long, value_name = "0|1", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", value_parser = parse_switch)]
    fixedbufs: Option<bool>,
    /// A thread of the kernel looks for requests, so that sending them takes no system call
    #[arg(long, value_name = "0|1", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", default_value = "0", value_parser = parse_switch)]
    sqpoll: bool,
    /// Ask the device for completions instead of being interrupted by them: takes a processor, and a
    /// driver with queues for that
    #[arg(long, value_name = "0|1", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", default_value = "0", value_parser = parse_switch)]
    hipri: bool,
    /// Draw the latencies, over time and by percentile
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Read back every record at the offset that was reported, and compare
    #[arg(long)]
    verify: bool,
    /// Reset the zones before: erases what they hold
    #[arg(long, requires = "target")]
    reset: bool,
    /// Do not ask before --reset
    #[arg(short, long)]
    yes: bool,
    /// Where the temporary image goes
    #[arg(long, default_value = ".", conflicts_with = "target")]
    dir: PathBuf,
    /// Whether the temporary image takes its disk space first: a file system is slower where
    /// blocks were never written, and that is then not measured
    #[arg(long, value_enum, default_value_t = Reserve::Full, conflicts_with = "target")]
    preallocate: Reserve,
    /// What moves the bytes of an image, file or device; one record at a time (--iodepth 1) is a system call of the
    /// job's own thread (fio's psync) unless an engine is named
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
    #[command(flatten)]
    access: WriteAccess,
}

/// What each record is, in fio's words where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Rw {
    /// Appended, all jobs to the same zones.
    Append,
    /// Appended in submission order.
    AppendOrdered,
    /// Written at the write pointer, each job in zones of its own.
    Write,
    /// Read, in order.
    Read,
    /// Read, anywhere.
    Randread,
    /// Appends, and reads of what was there before, anywhere.
    #[value(aliases = ["randrw", "rw", "readwrite"])]
    Mixed,
}

impl Rw {
    const fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::AppendOrdered => "append-ordered",
            Self::Write => "write",
            Self::Read => "read",
            Self::Randread => "randread",
            Self::Mixed => "mixed",
        }
    }

    const fn writes(self) -> bool {
        match self {
            Self::Append | Self::AppendOrdered | Self::Write | Self::Mixed => true,
            Self::Read | Self::Randread => false,
        }
    }

    const fn reads(self) -> bool {
        match self {
            Self::Read | Self::Randread | Self::Mixed => true,
            Self::Append | Self::AppendOrdered | Self::Write => false,
        }
    }
}

/// fio's `0` and `1`.
fn parse_switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("0 or 1"),
    }
}

/// What the words come to on the drive at hand.
#[derive(Clone, Debug)]
struct Work {
    rw: Rw,
    record_bytes: usize,
    iodepth: usize,
    jobs: u32,
    zones: Option<ZoneRange>,
    /// Of mixed work: how many of a hundred are reads.
    rwmixread: u64,
    /// The least time from one record of a job to its next.
    interval: Option<Duration>,
    /// Said, or left to what the kernel allows.
    fixedbufs: Option<bool>,
    sqpoll: bool,
    hipri: bool,
    /// Keep what a plot needs.
    timeline: bool,
    runtime: Option<Duration>,
    /// Records over all jobs.
    limit: Option<u64>,
    /// Keep what verification needs.
    logs: bool,
    /// Distinguishes this run's records from those of earlier ones.
    run: u64,
}

/// A queue each, and one left for finishing zones.
const JOBS_MAX: i64 = zonal::QUEUES_MAX as i64 - 1;

/// How long a run takes if nothing else bounds it.
const RUNTIME: Duration = Duration::from_secs(2);

/// How much is put on a temporary image before it is read.
const PREFILL: u64 = 512 << 20;

impl Work {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn resolve(args: &BenchArgs) -> Result<Self> {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = match args.numjobs {
            Some(jobs) => jobs,
            None => u32::try_from(processors.min(4))?,
        };
        ensure!(args.bs.0 > 0, "--bs 0: a record holds at least a block");
        let limit = args.size.map(|size| size.0 / args.bs.0);
        ensure!(limit != Some(0), "--size is smaller than one record, {}", args.bs);
        ensure!(
            args.rw.writes() || !args.verify || args.target.is_none(),
            "--verify compares with what this run wrote; use it with --rw append or write"
        );
        ensure!(
            !args.rw.reads() || !args.reset,
            "--reset erases what there is to read; use it with --rw append or write"
        );
        ensure!(
            args.rwmixread.is_none() || args.rw == Rw::Mixed,
            "--rwmixread is a share of mixed work; use it with --rw mixed"
        );
        let interval = match (args.rate, args.rate_iops) {
            (None, None) => None,
            (Some(Size(0)), _) => bail!("--rate 0: nothing would ever be sent"),
            (Some(rate), _) => Some(Duration::from_secs_f64(args.bs.0 as f64 / rate.0 as f64)),
            (None, Some(iops)) => Some(Duration::from_secs(1) / iops),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            rw: args.rw,
            record_bytes: usize::try_from(args.bs.0)?,
            iodepth: args.iodepth as usize,
            jobs,
            zones: args.zones.clone(),
            rwmixread: args.rwmixread.unwrap_or(50).into(),
            interval,
            fixedbufs: args.fixedbufs,
            sqpoll: args.sqpoll,
            hipri: args.hipri,
            timeline: args.plot.is_some(),
            runtime: args.runtime.or(args.size.is_none().then_some(RUNTIME)),
            limit,
            logs: args.rw.writes() && (args.verify || args.target.is_none()),
            run: now.as_secs()
                ^ (u64::from(now.subsec_nanos()) << 34)
                ^ u64::from(std::process::id()),
        })
    }

    /// What is written first when a temporary image shall be read.
    fn prefill(&self) -> Self {
        let limit = self.limit.unwrap_or(PREFILL / self.record_bytes as u64);
        Self {
            rw: Rw::Append,
            runtime: None,
            interval: None,
            timeline: false,
            limit: Some(limit),
            logs: true,
            // Told apart from what mixed work writes beside it.
            run: !self.run,
            ..self.clone()
        }
    }

    /// Holds the record size against the drive's limits.
    fn hold_against(&self, device: &Device) -> Result<()> {
        let (record, limits) = (self.record_bytes as u64, device.limits());
        let (block, name) = (u64::from(limits.block_size), device.name());
        ensure!(
            record.is_multiple_of(block),
            "--bs {}: not a multiple of {name}'s block size, {}",
            format_size(record),
            format_size(block)
        );
        let widest = limits.max_open_zones.unwrap_or(u32::MAX);
        ensure!(
            self.rw != Rw::Write || self.jobs <= widest,
            "{name}: plain writes need a zone for each of the {} jobs, and only {widest} can be open",
            self.jobs
        );
        ensure!(
            !matches!(self.rw, Rw::Append | Rw::Mixed) || record <= limits.append_bytes_max,
            "--bs {}: over {name}'s append limit, {}",
            format_size(record),
            format_size(limits.append_bytes_max)
        );
        ensure!(
            !self.sqpoll || limits.engine == "io_uring",
            "--sqpoll: {name} is driven by {}, which has no submission queue to poll",
            limits.engine
        );
        if self.hipri {
            let options = QueueOptions { depth: 1, hipri: true, ..Default::default() };
            device.queue(&options).context("--hipri")?;
        }
        if self.fixedbufs == Some(true) {
            let options = QueueOptions {
                depth: u32::try_from(self.iodepth)?,
                buffer_bytes: self.record_bytes,
                ..Default::default()
            };
            ensure!(
                device.queue(&options)?.has_fixed_buffers(),
                "--fixedbufs: {name}'s engine ({}) cannot register {} buffers of {}; where it is \
                 io_uring, the limit on locked memory (ulimit -l) may be too low",
                limits.engine,
                self.iodepth,
                format_size(record)
            );
        }
        Ok(())
    }

    fn patterns(&self, device: &Device) -> Vec<Pattern> {
        let block = device.limits().block_size as usize;
        (0..self.jobs).map(|job| Pattern::new(self.run, job, self.record_bytes, block)).collect()
    }
}

impl BenchArgs {
    /// Of known buffers only a ring makes anything.
    fn engine(&self) -> Engine {
        match self.engine {
            Engine::Auto if self.fixedbufs == Some(true) => Engine::IoUring,
            engine => engine,
        }
    }
}

/// Runs `bench`.
pub(crate) fn run(args: &BenchArgs, ui: &Ui) -> Result<Outcome> {
    let interrupt = Interrupt::install()?;
    let work = Work::resolve(args)?;
    if let Some(path) = &args.plot {
        OwnFiles::of(args.target.as_deref().unwrap_or_default()).refuse_output(path)?;
        may_hold_picture(path)?;
    }
    let temporary = match &args.target {
        Some(_) => None,
        None => {
            // Mixed work needs as much again to read from.
            let copies = if work.rw == Rw::Mixed { 2 } else { 1 };
            let wanted = args.size.map(|size| size.0.saturating_mul(copies));
            ui.say(format_args!("making a temporary image in {}", args.dir.display()));
            match Temporary::create(&args.dir, wanted, args.preallocate.into(), &interrupt) {
                Err(_) if interrupt.came() => {
                    return Ok(interrupt.signal().map_or(Outcome::Done, Outcome::Interrupted));
                }
                made => Some(made?),
            }
        }
    };
    let target = match (&args.target, &temporary) {
        (Some(target), _) => target.clone(),
        (None, Some(temporary)) => {
            temporary.image().to_str().context("--dir is not UTF-8; name another")?.to_owned()
        }
        (None, None) => bail!("no target"),
    };
    let reads_only = !work.rw.writes() && temporary.is_none() && !args.reset;
    let access = if reads_only { Access::Read } else { Access::from(&args.access) };
    let device = args::open(&target, access, args.engine(), ui)?;
    if args.reset {
        // Nothing is erased for a run that cannot be made.
        work.hold_against(&device)?;
        reset(args, &device, ui)?;
    }
    let outcome = bench(&work, &device, temporary.is_some(), args.plot.as_deref(), &interrupt, ui);
    device.close()?;
    outcome
}

/// Everything on an open drive.
fn bench(
    work: &Work,
    device: &Device,
    temporary: bool,
    plot: Option<&Path>,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<Outcome> {
    work.hold_against(device)?;
    let prefilled = match temporary && work.rw.reads() {
        true => {
            let prefill = work.prefill();
            prefill.hold_against(device)?;
            let (measured, error) = measure(&prefill, device, interrupt)?;
            match error {
                Some(error) => return Err(error.context("filling the temporary image")),
                None => Some((prefill, measured)),
            }
        }
        false => None,
    };
    let (mut measured, error) = measure(work, device, interrupt)?;
    let mut flushed = Ok(());
    if work.rw.writes() {
        let started = Instant::now();
        flushed = transfer::small_queue(device).and_then(|mut queue| transfer::flush(&mut queue));
        measured.flush = started.elapsed();
    }
    if let Some(runtime) = work.runtime.filter(|_| work.limit.is_none() && work.rw.writes())
        && measured.elapsed < runtime
        && error.is_none()
        && !interrupt.came()
    {
        ui.say(format_args!(
            "{}: its zones were full after {} of {}; take a larger drive, more zones, or a --rate",
            device.name(),
            format_seconds(measured.elapsed),
            format_seconds(runtime)
        ));
    }
    let mut verified = None;
    if !interrupt.came() && error.is_none() && flushed.is_ok() {
        if let Some((prefill, prefilled)) = &prefilled {
            verified = Some(verify(prefill, device, &prefilled.logs, interrupt)?);
        }
        if work.logs {
            let found = verify(work, device, &measured.logs, interrupt)?;
            verified.get_or_insert_default().add(found);
        }
    }
    // Before the results, whose reader may go away.
    let plotted = plot.map_or(Ok(()), |path| plot::draw(path, work.rw.word(), &measured));
    let results = Results { device, work, measured: &measured, verified: verified.as_ref() };
    if ui.json {
        print_json(io::stdout().lock(), &results.summary())?;
    } else {
        results.write(io::stdout().lock())?;
    }
    plotted?;
    conclude(error, flushed, verified.as_ref(), interrupt, ui)
}

/// The outcome, worst first.
fn conclude(
    error: Option<anyhow::Error>,
    flushed: Result<()>,
    verified: Option<&Verified>,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<Outcome> {
    if let Some(error) = error {
        return Err(error.context("stopped early"));
    }
    flushed?;
    if let Some(signal) = interrupt.signal() {
        return Ok(Outcome::Interrupted(signal));
    }
    match verified {
        Some(verified) if verified.wrong > 0 => {
            for example in &verified.examples {
                ui.say(example);
            }
            Ok(Outcome::Negative)
        }
        Some(_) | None => Ok(Outcome::Done),
    }
}

/// Runs the jobs; also returns the first error of one of them.
fn measure(
    work: &Work,
    device: &Device,
    interrupt: &Interrupt,
) -> Result<(Measured, Option<anyhow::Error>)> {
    let whole = Whole {
        rw: work.rw,
        record_bytes: work.record_bytes as u64,
        jobs: work.jobs,
        limit: work.limit,
        rwmixread: work.rwmixread,
    };
    let plans: Vec<Plan> = whole.plans(device, work.zones.as_ref())?;
    ensure!(
        !work.rw.writes() || plans.iter().any(|plan| plan.records() > 0),
        "{}: no zone can take a record of {} bytes; reset some (--reset does that, and erases)",
        device.name(),
        work.record_bytes
    );
    let patterns = if work.rw.writes() { work.patterns(device) } else { vec![] };
    let (ready, go) = (Barrier::new(plans.len() + 1), Barrier::new(plans.len() + 1));
    let stop = AtomicBool::new(false);
    let shared = Shared {
        device,
        rw: work.rw,
        record_bytes: work.record_bytes,
        iodepth: work.iodepth,
        fixedbufs: work.fixedbufs.unwrap_or(true),
        sqpoll: work.sqpoll,
        hipri: work.hipri,
        interval: work.interval,
        timeline: work.timeline,
        runtime: work.runtime,
        ready: &ready,
        go: &go,
        stop: &stop,
        interrupt,
    };
    let (jobs, cpu) = thread::scope(|scope| {
        let jobs: Vec<_> = plans
            .into_iter()
            .enumerate()
            .map(|(job, plan)| {
                let (shared, pattern) = (&shared, patterns.get(job));
                scope.spawn(move || worker::run(shared, plan, pattern, work.logs))
            })
            .collect();
        ready.wait();
        let before = Cpu::now();
        go.wait();
        let jobs: Vec<_> = jobs.into_iter().map(|job| job.join()).collect();
        (jobs, before.and_then(|before| Ok(Cpu::now()?.since(before))))
    });
    let jobs: Result<Vec<_>> =
        jobs.into_iter().map(|job| job.map_err(|_| anyhow!("a job panicked"))?).collect();
    let (measured, errors) = Measured::merge(jobs?, cpu?, work.timeline)?;
    Ok((measured, errors.into_iter().next()))
}

/// Reads back what `logs` say was written, each job's on its own thread.
fn verify(
    work: &Work,
    device: &Device,
    logs: &[Vec<u64>],
    interrupt: &Interrupt,
) -> Result<Verified> {
    let patterns = work.patterns(device);
    let found: Vec<_> = thread::scope(|scope| {
        let jobs: Vec<_> = (0u32..)
            .zip(logs.iter().zip(&patterns))
            .map(|(job, (log, pattern))| {
                let record_bytes = work.record_bytes;
                scope.spawn(move || verify::run(device, job, pattern, log, record_bytes, interrupt))
            })
            .collect();
        jobs.into_iter().map(|job| job.join()).collect()
    });
    let mut verified = Verified::default();
    for found in found {
        verified.add(found.map_err(|_| anyhow!("a verifying job panicked"))??);
    }
    Ok(verified)
}

/// Empties the zones that the run will write, if the user agrees.
fn reset(args: &BenchArgs, device: &Device, ui: &Ui) -> Result<()> {
    let mut zones = device.report(zones::numbers(device, args.zones.as_ref())?)?;
    zones.retain(|zone| zone.kind == ZoneKind::Sequential && zones::room(zone) < zone.capacity);
    if zones.is_empty() {
        return Ok(());
    }
    let name = device.name();
    if !args.yes {
        if !ui.can_ask() {
            bail!("{name}: --reset erases, and nobody is there to be asked; say --yes to do it");
        }
        let question =
            format!("reset {} of {name}, erasing what they hold?", plural(zones.len(), "zone"));
        ensure!(ui.ask(question)?, "nothing was done");
    }
    let mut queue = transfer::small_queue(device)?;
    for zone in zones {
        transfer::run_one(&mut queue, Request::reset(zone.zone))?.result?;
    }
    transfer::flush(&mut queue)
}
