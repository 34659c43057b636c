//! `zonal conform`: whether a drive keeps the rules of zoned storage, whoever made it.
//!
//! ```text
//! a drive (peer) ─► bench (single requests, zones, deadline) ─► rules (one table) ─► verdicts ─► output
//!                                    └► appends (many in flight: the campaign)
//! ```
//!
//! Invariants: only the zones named are touched. At the end, but after a request that has hung, the sequential
//! ones are reset, and the conventional ones hold what they held. Whatever the drive does, an unexpected error or
//! no answer at all, is a verdict and no error of the program.

mod appends;
mod bench;
mod boundaries;
mod known;
#[cfg(test)]
mod liars;
mod limits;
mod others;
mod output;
mod pattern;
mod peer;
mod reads;
mod report;
mod rules;
mod transitions;
mod verdict;
mod writes;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use zonal::Device;

use self::{
    bench::{Bench, Bounds, TIME_UP},
    output::{Bar, Counts, Report},
    rules::Checks,
    verdict::Verdict,
};
use crate::{
    args::{self, Access, Engine, TargetArg, WriteAccess, ZoneRange, format_size, parse_duration},
    outcome::Outcome,
    output::{Ui, plural, print_json},
    signals::Interrupt,
    zones,
};

/// The words of `conform`.
#[derive(Args, Debug)]
pub(crate) struct ConformArgs {
    #[command(flatten)]
    target: TargetArg,
    /// Touch only these zones: N, A..B, A..=B, A.. or ..B
    #[arg(long, value_name = "RANGE")]
    zones: Option<ZoneRange>,
    /// Take up to half an hour: every depth with every size and number of threads, larger zones
    #[arg(long)]
    long: bool,
    /// What sizes and order follow from [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A request that has not ended after that time has hung
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    deadline: Duration,
    /// Write the verdicts to a file as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Do not ask: everything in the zones is erased
    #[arg(short, long)]
    yes: bool,
    /// What moves the bytes of an image, file or device
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
    #[command(flatten)]
    access: WriteAccess,
}

/// Runs it.
pub(crate) fn run(args: &ConformArgs, ui: &Ui) -> Result<Outcome> {
    let target = &args.target.target;
    if !args.yes && !ui.can_ask() {
        bail!(
            "{target}: conform erases its zones, and nobody is there to be asked; say --yes to do it"
        );
    }
    if let Some(path) = &args.junit {
        output::may_hold_junit(path)?;
    }
    let device = args::open(target, Access::from(&args.access), args.engine, ui)?;
    let range = zones::numbers(&device, args.zones.as_ref())?;
    // Says what stands in the way before anything is erased.
    zones::Candidates::of(&device, args.zones.as_ref())?;
    let question = format!(
        "erase zones {}..{} of {}, to see whether it conforms?",
        range.start,
        range.end,
        device.name()
    );
    if !args.yes && !ui.ask(question)? {
        device.close()?;
        bail!("nothing was done");
    }
    let bounds = if args.long { Bounds::long(args.deadline) } else { Bounds::short(args.deadline) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let number = u64::from(now.subsec_nanos()) ^ now.as_secs().rotate_left(32);
    let seed = args.seed.unwrap_or(number % 1_000_000);
    let mut bench = Bench::new(&device, range, bounds, seed, number)?;
    let interrupt = Interrupt::install()?;
    bench.interrupt = Some(interrupt.clone());
    let report = examine(&mut bench, target, &device, seed, ui);
    let left = restore(&mut bench, &report);
    drop(bench);
    // After a hang the queue is still waiting, and closing would wait for it.
    let closed = if report.hung.is_some() { Ok(()) } else { device.close() };
    present(args, &report, ui)?;
    left?;
    if let Some(signal) = interrupt.signal() {
        return Ok(Outcome::Interrupted(signal));
    }
    closed?;
    Ok(if report.conforms { Outcome::Done } else { Outcome::Negative })
}

/// Checks all rules.
fn examine(bench: &mut Bench<'_>, target: &str, device: &Device, seed: u64, ui: &Ui) -> Report {
    let kind = device.info().kind;
    let described = known::describe_device(Path::new(target), kind);
    let peer = if described.is_empty() { kind.to_owned() } else { format!("{kind}, {described}") };
    let bar = Bar::new(rules::RULES.len(), ui);
    let Checks { rows, hung } = rules::check_all(bench, &peer, |rule| bar.step(rule.id));
    drop(bar);
    let campaign = bench.campaign.take().unwrap_or_default();
    let complete = rows.len() == rules::RULES.len() && !bench.is_interrupted();
    Report {
        target: target.to_owned(),
        peer,
        shape: shape(device),
        seed,
        hung,
        complete,
        conforms: complete && rows.iter().all(|row| row.verdict != Verdict::Fail),
        counts: Counts::of(&rows),
        records: campaign.records,
        situations: campaign.situations,
        left_out: campaign.left_out,
        rules: rows,
    }
}

/// The drive in a line.
fn shape(device: &Device) -> String {
    let (geometry, limits) = (device.geometry(), device.limits());
    let limit = |limit: Option<u32>| limit.map_or("any".into(), |limit| limit.to_string());
    format!(
        "{} of {}, capacity {}, {} conventional, {} open, {} active, blocks of {}, appends up to {}",
        plural(geometry.zones() as usize, "zone"),
        format_size(geometry.zone_size),
        format_size(geometry.zone_capacity),
        geometry.conventional_zones,
        limit(limits.max_open_zones),
        limit(limits.max_active_zones),
        limits.block_size,
        format_size(limits.append_bytes_max),
    )
}

/// Leaves the zones empty; not after a hang.
///
/// # Errors
/// A zone that cannot be reset, where no rule has failed that would say so.
fn restore(bench: &mut Bench<'_>, report: &Report) -> Result<()> {
    if report.hung.is_some() {
        return Ok(());
    }
    let left = bench.empty_all();
    if report.conforms {
        left.map_err(|stop| anyhow!("zones are left as they are: {stop:?}"))?;
    }
    Ok(())
}

/// Prints the report.
fn present(args: &ConformArgs, report: &Report, ui: &Ui) -> Result<()> {
    if ui.json {
        print_json(io::stdout().lock(), report)?;
    } else {
        output::write_text(io::stdout().lock(), report)?;
    }
    if let Some(path) = &args.junit {
        output::write_junit(path, report)?;
    }
    for left_out in &report.left_out {
        if left_out.ends_with(TIME_UP) {
            ui.say(format_args!("left out: {left_out}"));
        }
    }
    Ok(())
}
