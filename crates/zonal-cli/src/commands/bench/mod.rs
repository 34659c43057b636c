//! `zonal bench`: how fast a drive takes appends, writes and reads, and whether every record is
//! where its completion said.
//!
//! Resolved before the clock starts: who writes what (`plan`), what it writes (`pattern`). Each job
//! is a thread with its own queue (`worker`). Afterwards it flushes, reads back (`verify`) and
//! prints (`results`).

mod pattern;
mod plan;
mod results;
mod temporary;
mod verify;
mod worker;

use std::{
    io,
    path::PathBuf,
    sync::{Barrier, atomic::AtomicBool},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use zonal::{Device, Request, ZoneKind};

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
    output::{Ui, print_json},
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
    /// How many bytes altogether [default: until the time is up]
    #[arg(long)]
    size: Option<Size>,
    /// For how long: 5, 5s, 500ms, 2m [default: 2s unless --size is given]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    runtime: Option<Duration>,
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
    /// What moves the bytes of an image or file
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
}

impl Rw {
    const fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::AppendOrdered => "append-ordered",
            Self::Write => "write",
            Self::Read => "read",
            Self::Randread => "randread",
        }
    }

    const fn writes(self) -> bool {
        match self {
            Self::Append | Self::AppendOrdered | Self::Write => true,
            Self::Read | Self::Randread => false,
        }
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
            args.rw.writes() || !args.reset,
            "--reset erases what there is to read; use it with --rw append or write"
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            rw: args.rw,
            record_bytes: usize::try_from(args.bs.0)?,
            iodepth: args.iodepth as usize,
            jobs,
            zones: args.zones.clone(),
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
        Self { rw: Rw::Append, runtime: None, limit: Some(limit), logs: true, ..self.clone() }
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
            self.rw != Rw::Append || record <= limits.append_bytes_max,
            "--bs {}: over {name}'s append limit, {}",
            format_size(record),
            format_size(limits.append_bytes_max)
        );
        Ok(())
    }

    fn patterns(&self, device: &Device) -> Vec<Pattern> {
        let block = device.limits().block_size as usize;
        (0..self.jobs).map(|job| Pattern::new(self.run, job, self.record_bytes, block)).collect()
    }
}

/// Runs `bench`.
pub(crate) fn run(args: &BenchArgs, ui: &Ui) -> Result<Outcome> {
    let interrupt = Interrupt::install()?;
    let work = Work::resolve(args)?;
    let temporary = match &args.target {
        Some(_) => None,
        None => {
            let wanted = args.size.map(|size| size.0);
            ui.say(format_args!("making a temporary image in {}", args.dir.display()));
            Some(Temporary::create(&args.dir, wanted, args.preallocate.into())?)
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
    let device = args::open(&target, access, args.engine, ui)?;
    if args.reset {
        // Nothing is erased for a run that cannot be made.
        work.hold_against(&device)?;
        reset(args, &device, ui)?;
    }
    let outcome = bench(&work, &device, temporary.is_some(), &interrupt, ui);
    device.close()?;
    outcome
}

/// Everything on an open drive.
fn bench(
    work: &Work,
    device: &Device,
    temporary: bool,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<Outcome> {
    work.hold_against(device)?;
    let prefilled = match temporary && !work.rw.writes() {
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
    let verified = match &prefilled {
        _ if interrupt.came() || error.is_some() || flushed.is_err() => None,
        Some((prefill, prefilled)) => Some(verify(prefill, device, &prefilled.logs, interrupt)?),
        None if work.logs => Some(verify(work, device, &measured.logs, interrupt)?),
        None => None,
    };
    let results = Results { device, work, measured: &measured, verified: verified.as_ref() };
    if ui.json {
        print_json(io::stdout().lock(), &results.summary())?;
    } else {
        results.write(io::stdout().lock())?;
    }
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
    let (measured, errors) = Measured::merge(jobs?, cpu?)?;
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
        let question = format!("reset {} zones of {name}, erasing what they hold?", zones.len());
        ensure!(ui.ask(question)?, "nothing was done");
    }
    let mut queue = transfer::small_queue(device)?;
    for zone in zones {
        transfer::run_one(&mut queue, Request::reset(zone.zone))?.result?;
    }
    transfer::flush(&mut queue)
}
