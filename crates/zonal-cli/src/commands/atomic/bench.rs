//! `zonal atomic bench`: the same random writes three times over: untorn, ordinary (which a power cut may
//! tear), and ordinary ones written twice with a sync between, as databases do against that. Each is durable
//! before the next of its thread begins.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use zonal::atomic::{AtomicFile, AtomicPath};

use super::FileArgs;
use crate::{
    args::{Size, format_size, parse_duration},
    outcome::Outcome,
    output::{Align, Table, Ui, format_count, format_nanos, format_rate, print_json},
    signals::Interrupt,
};

/// Threads, at most: each waits for its one write.
const JOBS_MAX: u32 = 128;

/// What is told of latencies.
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// The words of `atomic bench`.
#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Bytes of a unit
    #[arg(long, default_value = "16K")]
    bs: Size,
    /// Writes under way
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=i64::from(JOBS_MAX)))]
    iodepth: u32,
    /// How long, for all three together
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    runtime: Duration,
    /// Bytes of the file that are written to, from its beginning on
    #[arg(long, default_value = "64M")]
    size: Size,
    /// Overwrite a file or device that is there
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Atomic,
    Ordinary,
    Twice,
}

/// What one way gave.
#[derive(Serialize)]
struct Measured {
    ios: u64,
    iops: f64,
    bw_bytes: f64,
    lat_ns: Latency,
}

#[derive(Serialize)]
struct Latency {
    mean: f64,
    max: u64,
    percentile: std::collections::BTreeMap<String, u64>,
}

/// What `atomic bench --json` says: the untorn writes at the top level, in fio's words.
#[derive(Serialize)]
struct Report {
    path: String,
    bs: u64,
    iodepth: u32,
    #[serde(flatten)]
    atomic: Measured,
    ordinary: Measured,
    written_twice: Measured,
}

/// Runs `atomic bench`.
pub(super) fn run(args: &BenchArgs, ui: &Ui) -> Result<Outcome> {
    let path = &args.file.path;
    let (bs, size) = (args.bs.0, args.size.0);
    ensure!(
        bs >= 4096 && bs.is_power_of_two(),
        "--bs {bs} is no unit; take a power of two of at least 4096"
    );
    ensure!(
        size >= 2 * bs && size.is_multiple_of(bs),
        "--size {size} is not two units of {} or more, whole ones",
        format_size(bs)
    );
    super::refuse_image(path)?;
    let made = consent(path, args.yes, ui)?;
    let measured = measure(args, ui);
    if made {
        // The journal was made for it, and goes with it.
        let beside = format!("{}.journal", path.display());
        let journal = args.file.journal_path.clone().unwrap_or_else(|| beside.into());
        let _ = std::fs::remove_file(path);
        if args.file.journal && zonal::atomic::is_journal(&journal) {
            let _ = std::fs::remove_file(journal);
        }
    }
    measured
}

/// Makes the file if there is none (true), or sees that it may be overwritten.
fn consent(path: &Path, yes: bool, ui: &Ui) -> Result<bool> {
    let named = || path.display().to_string();
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(named),
    }
    if yes || (ui.can_ask() && ui.ask(format_args!("{}: overwrite it?", path.display()))?) {
        return Ok(false);
    }
    bail!(
        "{}: it would be overwritten; say --yes for that, or name a file that is not there",
        path.display()
    )
}

fn measure(args: &BenchArgs, ui: &Ui) -> Result<Outcome> {
    let interrupt = Interrupt::install()?;
    let file = args.file.open(&args.file.options(), ui)?;
    let limits = file.limits();
    ensure!(
        limits.path != AtomicPath::None,
        "{}: the kernel writes nothing of it untorn; say --journal to measure the journal",
        args.file.path.display()
    );
    ensure!(
        (limits.unit_min..=limits.unit_max).contains(&args.bs.0),
        "{}: --bs {} is no unit here; they go from {} to {}",
        args.file.path.display(),
        format_size(args.bs.0),
        format_size(limits.unit_min),
        format_size(limits.unit_max)
    );
    fill(&file, args)?;
    let mut results = Vec::new();
    for way in [Way::Atomic, Way::Ordinary, Way::Twice] {
        results.push(one_way(&file, args, way, &interrupt)?);
    }
    file.close()?;
    let [atomic, ordinary, written_twice] =
        <[Measured; 3]>::try_from(results).map_err(|_| anyhow!("a measurement is missing"))?;
    let report = Report {
        path: limits.path.to_string(),
        bs: args.bs.0,
        iodepth: args.iodepth,
        atomic,
        ordinary,
        written_twice,
    };
    print(&report, ui)?;
    Ok(interrupt.signal().map_or(Outcome::Done, Outcome::Interrupted))
}

/// Writes all of it once, so that no way pays for the allocation.
fn fill(file: &AtomicFile, args: &BenchArgs) -> Result<()> {
    let mut at = 0;
    while at < args.size.0 {
        let length = (args.size.0 - at).min(1 << 20);
        let piece = vec![1; usize::try_from(length)?];
        file.write_at(at, piece).wait().map_err(|failed| failed.error)?;
        at += length;
    }
    Ok(file.flush().wait()?)
}

fn one_way(
    file: &AtomicFile,
    args: &BenchArgs,
    way: Way,
    interrupt: &Interrupt,
) -> Result<Measured> {
    let begun = Instant::now();
    let until = begun + args.runtime / 3;
    let histograms = thread::scope(|scope| {
        let jobs = (0..args.iodepth).map(|job| {
            scope.spawn(move || one_job(file, args, way, until, u64::from(job), interrupt))
        });
        let jobs: Vec<_> = jobs.collect();
        let join = |job: thread::ScopedJoinHandle<'_, Result<Histogram<u64>>>| {
            job.join().map_err(|_| anyhow!("a thread panicked"))?
        };
        jobs.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    let mut all = Histogram::<u64>::new(3)?;
    for histogram in histograms {
        all.add(histogram)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let iops = all.len() as f64 / elapsed;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let bw_bytes = iops * args.bs.0 as f64;
    let percentile =
        PERCENTILES.iter().map(|of| (format!("{of:.6}"), all.value_at_percentile(*of))).collect();
    let lat_ns = Latency { mean: all.mean(), max: all.max(), percentile };
    Ok(Measured { ios: all.len(), iops, bw_bytes, lat_ns })
}

fn one_job(
    file: &AtomicFile,
    args: &BenchArgs,
    way: Way,
    until: Instant,
    job: u64,
    interrupt: &Interrupt,
) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new(3)?;
    let units = args.size.0 / args.bs.0;
    let mut state = job + 1;
    let mut buffer = file.buffer(usize::try_from(args.bs.0)?);
    buffer.fill(u8::try_from(job % 251)?);
    while Instant::now() < until && !interrupt.came() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let unit = (state >> 33) % units;
        let offset = unit * args.bs.0;
        let begun = Instant::now();
        let written = match way {
            Way::Atomic => file.write_atomic_at(offset, buffer).durable().wait(),
            Way::Ordinary => file.write_at(offset, buffer).durable().wait(),
            Way::Twice => {
                let elsewhere = (unit + units / 2) % units * args.bs.0;
                let copy = file.write_at(elsewhere, buffer).durable().wait();
                copy.and_then(|copy| file.write_at(offset, copy.buffer).durable().wait())
            }
        };
        buffer = written.map_err(|failed| failed.error)?.buffer;
        let took = u64::try_from(begun.elapsed().as_nanos())?;
        histogram.record(took)?;
    }
    Ok(histogram)
}

fn print(report: &Report, ui: &Ui) -> Result<()> {
    let mut out = io::stdout().lock();
    if ui.json {
        return Ok(print_json(out, report)?);
    }
    writeln!(
        out,
        "{} writes of {}, {} under way, each durable; untorn by the {} path",
        report.atomic.ios + report.ordinary.ios + report.written_twice.ios,
        format_size(report.bs),
        report.iodepth,
        report.path
    )?;
    let rows = [
        ("untorn", &report.atomic),
        ("ordinary", &report.ordinary),
        ("twice", &report.written_twice),
    ];
    let mut table = Table::new(&[
        ("write", Align::Left),
        ("iops", Align::Right),
        ("bw", Align::Right),
        ("mean", Align::Right),
        ("p99", Align::Right),
    ]);
    for (name, measured) in rows {
        let p99 = measured.lat_ns.percentile.get("99.000000").copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a latency")]
        let p99 = format_nanos(p99 as f64);
        table.row(vec![
            name.to_owned(),
            format_count(measured.iops),
            format_rate(measured.bw_bytes),
            format_nanos(measured.lat_ns.mean),
            p99,
        ]);
    }
    table.write(out)?;
    Ok(())
}
