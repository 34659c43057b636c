//! `zonal sim`: random histories of drives that fail, lose power and are killed, held against what
//! they promised.
//!
//! ```text
//! seed ─► script ─► world: the shipped code over a simulated machine ─► truth: what may be seen
//!            ▲                                                             │
//!            └────────────── shrunk: the same with steps left out ◄────────┘ a violation
//! ```
//!
//! Everything in a history follows from its seed. See `docs/testing.md`, *Histories*.

mod damage;
mod history;
mod random;
mod script;
mod shape;
mod truth;
mod world;

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;

use crate::outcome::Outcome;
use crate::output::{Ui, format_seconds, plural, print_json};
use history::{Failure, History, Told, keep_panics};
use script::{Faults, WORDS};
use shape::Shapes;
use truth::Violation;
use world::Counts;

/// A history that takes longer hangs: the longest take a fraction of a second. Where rules are broken
/// some do, and are waited for.
const PATIENCE: Duration = Duration::from_secs(if cfg!(zonal_break) { 3 } else { 60 });

/// How often it is looked whether a history hangs, and how far all are.
const LOOK: Duration = Duration::from_millis(100);

/// The words of `sim`.
#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    /// The first history's seed; the next ones have the numbers after it
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// How many histories
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// How long a history is, in steps, at most
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// What may go wrong: all, none, or of cut, kill, error, short, sync, space, zeroing, copy, damage;
    /// in any case some sessions end without a close
    #[arg(long, default_value = "all", value_name = "LIST", value_parser = parse_faults)]
    faults: Faults,
    /// Histories at a time; as many as there are processors, if it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: Option<u32>,
    /// Print each step and what it did; with --json to stderr
    #[arg(long)]
    trace: bool,
    /// Leave a history that fails as long as it is
    #[arg(long, hide = true)]
    quick: bool,
    /// Break a rule, to see that it is noticed
    #[cfg(zonal_break)]
    #[arg(long = "break", value_name = "RULE", hide = true, value_parser = parse_rule)]
    broken: Option<zonal::Rule>,
}

fn parse_faults(text: &str) -> Result<Faults, String> {
    let one = |word: &str| match word {
        "all" => Ok(Faults::ALL),
        "none" => Ok(Faults::NONE),
        _ => match WORDS.iter().find(|(name, ..)| *name == word) {
            Some(&(_, fault, _)) => Ok(fault),
            None => {
                let words: Vec<_> = WORDS.iter().map(|(name, ..)| *name).collect();
                Err(format!("{word:?} is none of all, none, {}", words.join(", ")))
            }
        },
    };
    let words: Vec<_> = text.split(',').map(str::trim).collect();
    if words.len() > 1 && words.contains(&"none") {
        return Err("`none` stands alone; leave it out, or the others".to_owned());
    }
    words.into_iter().try_fold(Faults::NONE, |faults, word| Ok(faults.and(one(word)?)))
}

#[cfg(zonal_break)]
fn parse_rule(text: &str) -> Result<zonal::Rule, String> {
    let rules = zonal::Rule::ALL;
    rules.into_iter().find(|rule| format!("{rule:?}") == text).ok_or_else(|| format!("{rules:?}"))
}

/// What `sim --json` says.
#[derive(Serialize)]
struct Summary {
    seed: u64,
    runs: u64,
    #[serde(flatten)]
    counts: Counts,
    violations: u64,
    seconds: f64,
    histories_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Found>,
}

/// What it says of a history that hangs.
#[derive(Serialize)]
struct Hung {
    hangs: u64,
}

/// A history that went wrong.
#[derive(Clone, Serialize)]
struct Found {
    seed: u64,
    /// `violation`, `stuck` or `crashed`.
    kind: &'static str,
    promised: String,
    seen: String,
    /// The shortest history that it could be made into.
    history: Vec<String>,
    drive: String,
    replay: String,
}

/// What all jobs share.
struct Shared {
    next: AtomicU64,
    ended: AtomicU64,
    stop: AtomicBool,
    counts: Mutex<Counts>,
    /// The one with the lowest seed.
    failure: Mutex<Option<(u64, Failure)>>,
    /// What each job is at: a seed, and since when.
    at: Vec<Mutex<Option<(u64, Instant)>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `sim`.
pub(crate) fn run(args: &SimArgs, ui: &Ui) -> Result<Outcome> {
    #[cfg(zonal_break)]
    zonal::break_rule(args.broken);
    keep_panics();
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = args.jobs.map_or(processors, |jobs| jobs as usize).max(1);
    let jobs = if args.trace { 1 } else { jobs };
    let shared = Shared {
        next: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        counts: Mutex::default(),
        failure: Mutex::default(),
        at: (0..jobs).map(|_| Mutex::default()).collect(),
    };
    let begun = Instant::now();
    let done = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|job| {
                let shared = &shared;
                scope.spawn(move || work(args, ui, shared, job))
            })
            .collect();
        watch(args, ui, &shared, || workers.iter().all(thread::ScopedJoinHandle::is_finished));
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a job failed"))))
            .collect::<Result<Vec<()>>>()
    });
    done?;
    let seconds = begun.elapsed().as_secs_f64();
    let failure = locked(&shared.failure).take();
    let counts = *locked(&shared.counts);
    let outcome = match &failure {
        None => Outcome::Done,
        Some((_, Failure::Violation(_))) => Outcome::Negative,
        Some((_, Failure::Stuck(_))) => Outcome::Stuck,
        Some((_, Failure::Crashed(_))) => Outcome::Crashed,
    };
    let failure = failure.map(|(seed, failure)| found(args, ui, seed, &failure)).transpose()?;
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let summary = Summary {
        seed: args.seed,
        runs: args.runs,
        counts,
        violations: u64::from(failure.is_some()),
        seconds,
        histories_per_second: counts.histories as f64 / seconds.max(1e-9),
        failure,
    };
    let mut out = io::stdout().lock();
    if ui.json {
        print_json(out, &summary)?;
    } else if let Some(failure) = &summary.failure {
        write_failure(&mut out, failure)?;
    } else {
        write_summary(&mut out, &summary)?;
    }
    Ok(outcome)
}

/// One job: takes the next seed, until there is none or something is found.
fn work(args: &SimArgs, ui: &Ui, shared: &Shared, job: usize) -> Result<()> {
    let mut shapes = Shapes::default();
    let mut counts = Counts::default();
    while !shared.stop.load(Ordering::Acquire) {
        let run = shared.next.fetch_add(1, Ordering::AcqRel);
        if run >= args.runs {
            break;
        }
        let seed = args.seed.wrapping_add(run);
        *locked(&shared.at[job]) = Some((seed, Instant::now()));
        let history = History::of(seed, args.steps as usize, args.faults, &mut shapes)?;
        let told = history.run(args.trace);
        *locked(&shared.at[job]) = None;
        counts.add(&told.counts);
        shared.ended.fetch_add(1, Ordering::AcqRel);
        if args.trace {
            write_trace(ui, &format!("seed {seed}"), &told)?;
        }
        if let Some(failure) = told.failure {
            let mut lowest = locked(&shared.failure);
            if lowest.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                *lowest = Some((seed, failure));
            }
            shared.stop.store(true, Ordering::Release);
        }
    }
    locked(&shared.counts).add(&counts);
    Ok(())
}

/// What a history did, to where nothing reads JSON.
fn write_trace(ui: &Ui, title: &str, told: &Told) -> io::Result<()> {
    let trace = format!("{title}\n{}", told.trace);
    if ui.json {
        io::stderr().write_all(trace.as_bytes())
    } else {
        io::stdout().write_all(trace.as_bytes())
    }
}

/// Shows how far they are, and ends the program if one hangs.
fn watch(args: &SimArgs, ui: &Ui, shared: &Shared, done: impl Fn() -> bool) {
    let bar = ui.counter(args.runs);
    while !done() {
        thread::sleep(LOOK);
        bar.set(shared.ended.load(Ordering::Acquire), args.runs);
        let hung = shared.at.iter().find_map(|at| {
            (*locked(at)).filter(|(_, since)| since.elapsed() > PATIENCE).map(|(seed, _)| seed)
        });
        if let Some(seed) = hung {
            // Its thread cannot be ended but with the program.
            ui.say(format!("a history hangs; see it with: {}", replay(args, seed)));
            if ui.json {
                let _ = print_json(io::stdout(), &Hung { hangs: seed });
            }
            std::process::exit(i32::from(crate::outcome::STUCK));
        }
    }
}

fn replay(args: &SimArgs, seed: u64) -> String {
    let mut command = format!("zonal sim --seed {seed} --runs 1 --steps {}", args.steps);
    if args.faults != Faults::ALL {
        let words: Vec<_> =
            WORDS.iter().filter(|(_, f, _)| args.faults.has(*f)).map(|(name, ..)| *name).collect();
        let words = if words.is_empty() { "none".to_owned() } else { words.join(",") };
        command = format!("{command} --faults {words}");
    }
    #[cfg(zonal_break)]
    if let Some(rule) = args.broken {
        command = format!("{command} --break {rule:?}");
    }
    command
}

/// What is to be said of a failure, with the shortest history there is.
fn found(args: &SimArgs, ui: &Ui, seed: u64, failure: &Failure) -> Result<Found> {
    let history = History::of(seed, args.steps as usize, args.faults, &mut Shapes::default())?;
    let shrunk = if args.quick { history } else { history.shrunk(failure) };
    // What the short one says fits what is shown.
    let told = shrunk.run(args.trace);
    if args.trace {
        write_trace(ui, "the same, as short as it could be made", &told)?;
    }
    let failure = told.failure.unwrap_or_else(|| failure.clone());
    let (kind, promised, seen) = match failure {
        Failure::Violation(Violation { promise, seen }) => ("violation", promise, seen),
        Failure::Stuck(what) => ("stuck", "everything ends".to_owned(), what),
        Failure::Crashed(what) => ("crashed", "no panic".to_owned(), what),
    };
    let shape = &shrunk.shape;
    let geometry = &shape.geometry;
    let block = u64::from(geometry.block_size);
    let drive = format!(
        "{} of {} blocks of {block}, {} of them to be written, {} conventional; {}, {}{}{}",
        plural(geometry.zones() as usize, "zone"),
        geometry.zone_size / block,
        geometry.zone_capacity / block,
        geometry.conventional_zones,
        match shape.adopted {
            Some(bits) => format!("adopted, clusters of {}", 1_u64 << bits),
            None => "an image of ours".to_owned(),
        },
        plural(shape.queues, "queue"),
        if shape.discard { ", discarding" } else { "" },
        if shape.slow_zeroing { ", zeroing not supported" } else { "" },
    );
    let history = shrunk.steps.iter().map(|step| format!("{step:?}")).collect();
    Ok(Found { seed, kind, promised, seen, history, drive, replay: replay(args, seed) })
}

fn write_failure(out: &mut impl Write, found: &Found) -> io::Result<()> {
    let Found { seed, kind, promised, seen, history, drive, replay } = found;
    writeln!(out, "seed {seed}: {kind}")?;
    writeln!(out, "promised:  {promised}")?;
    writeln!(out, "seen:      {seen}")?;
    writeln!(out, "drive:     {drive}")?;
    writeln!(out, "history, as short as it could be made:")?;
    for (number, step) in (1..).zip(history) {
        writeln!(out, "  {number}. {step}")?;
    }
    writeln!(out, "again:     {replay}")
}

fn write_summary(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let Summary { seed, runs, counts, seconds, histories_per_second, .. } = summary;
    let Counts { histories, steps, requests, refused, cuts, kills, recoveries, .. } = counts;
    let Counts { failures, read_only, copies, restores, repairs, settlements, parked, .. } = counts;
    let last = seed.wrapping_add(runs.saturating_sub(1));
    let count = |n: &u64| grouped(*n);
    writeln!(out, "{} histories, seeds {seed} to {last}", count(histories))?;
    writeln!(
        out,
        "  {} steps, {} requests: {} refused, {} waited, {} settlements",
        count(steps),
        count(requests),
        count(refused),
        count(parked),
        count(settlements),
    )?;
    writeln!(
        out,
        "  {} cuts, {} kills, {} recoveries, {} failures injected, {} sessions read-only by them",
        count(cuts),
        count(kills),
        count(recoveries),
        count(failures),
        count(read_only),
    )?;
    writeln!(
        out,
        "  {} copies, {} brought back, {} repairs",
        count(copies),
        count(restores),
        count(repairs)
    )?;
    writeln!(out, "  violations: 0")?;
    writeln!(
        out,
        "{}, {histories_per_second:.0} histories a second",
        format_seconds(Duration::from_secs_f64(*seconds))
    )
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
