//! The shipped queue against an oracle: random sequences of requests, on the memory drive and on
//! the simulated disk with failures, compared after every step.
//!
//! Compared are all results, error kinds, flags, offsets and buffers, what reads show, each zone's
//! state and write pointer, the open and active counts, and which writes are with the disk, where.
//!
//! * `oracle/model.rs` is the oracle,
//! * `oracle/script.rs` makes the steps from a seed,
//! * `oracle/pair.rs` runs drive and oracle side by side.
//!
//! A failure prints its seed and a shortened script. `ZONAL_ORACLE_SEED=memory:7` runs one drive
//! again, `ZONAL_ORACLE_SEQUENCES=1000000` more of them.

#![allow(clippy::unwrap_used, reason = "in tests, what is not as it should be is a failure")]

#[path = "oracle/model.rs"]
mod model;
#[path = "oracle/pair.rs"]
mod pair;
#[path = "oracle/script.rs"]
mod script;

use pair::{Pair, Reached};
use script::{Random, Setup, Step};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use zonal::sim::SimImage;

/// Sequences altogether.
const SEQUENCES: u64 = 100_000;

/// Sequences on one drive: each goes on from what the one before left, or from reset zones.
const PER_DRIVE: u64 = 25;

/// A failure: after which step, and what.
struct Failure {
    step: usize,
    what: String,
}

/// What follows from a seed.
struct Case {
    setup: Setup,
    image: Option<SimImage>,
    steps: Vec<Step>,
}

impl Case {
    fn new(memory: bool, seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(2) + u64::from(memory));
        let setup = Setup::new(&mut random, memory);
        let steps = script::script(&mut random, &setup, PER_DRIVE);
        let image = (!memory).then(|| pair::image(&setup));
        Self { setup, image, steps }
    }

    fn run(&self, steps: &[Step]) -> Result<Reached, Failure> {
        let mut at = 0;
        let run = AssertUnwindSafe(|| {
            let mut pair = Pair::new(&self.setup, self.image.as_ref());
            for step in steps {
                pair.step(step)?;
                at += 1;
            }
            pair.rest_at_end()?;
            Ok(pair.reached)
        });
        match catch_unwind(run) {
            Ok(result) => result.map_err(|what| Failure { step: at, what }),
            Err(_) => Err(Failure { step: at, what: "a panic, see above".to_owned() }),
        }
    }

    /// Leaves out what is not needed to fail.
    fn shorten(&self, failure: &Failure) -> (Vec<Step>, Failure) {
        let mut steps = self.steps[..(failure.step + 1).min(self.steps.len())].to_vec();
        let mut last = Failure { step: failure.step, what: failure.what.clone() };
        let mut piece = steps.len().div_ceil(2);
        while piece > 0 {
            let mut from = 0;
            while from < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(from..(from + piece).min(steps.len()));
                match self.run(&fewer) {
                    Err(failure) => (steps, last) = (fewer, failure),
                    Ok(_) => from += piece,
                }
            }
            piece /= 2;
        }
        self.shorten_submissions(&mut steps, &mut last);
        (steps, last)
    }

    fn shorten_submissions(&self, steps: &mut [Step], last: &mut Failure) {
        for at in 0..steps.len() {
            let Step::Submit { wants, .. } = &steps[at] else { continue };
            for want in (0..wants.len()).rev() {
                let mut fewer = steps.to_vec();
                if let Step::Submit { wants, .. } = &mut fewer[at] {
                    wants.remove(want);
                }
                if let Err(failure) = self.run(&fewer) {
                    steps.clone_from_slice(&fewer);
                    *last = failure;
                }
            }
        }
    }
}

fn check(memory: bool, seed: u64) -> Result<Reached, String> {
    let case = Case::new(memory, seed);
    case.run(&case.steps).map_err(|failure| {
        let (steps, last) = case.shorten(&failure);
        let steps: String = steps.iter().map(|step| format!("{step:?}\n")).collect();
        let kind = if memory { "memory" } else { "sim" };
        format!(
            "ZONAL_ORACLE_SEED={kind}:{seed}\n{:?}\n{steps}shortened: {}\nfirst, at step {}: {}",
            case.setup, last.what, failure.step, failure.what
        )
    })
}

/// Runs drives of one kind on two threads.
fn run_all(memory: bool, sequences: u64) {
    let since = Instant::now();
    let (next, total) = (AtomicU64::new(0), Mutex::new(Reached::default()));
    let drives = sequences.div_ceil(PER_DRIVE);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= drives || failed.lock().unwrap().is_some() {
                        return;
                    }
                    match check(memory, seed) {
                        Ok(reached) => total.lock().unwrap().add(&reached),
                        Err(what) => *failed.lock().unwrap() = Some(what),
                    }
                }
            });
        }
    });
    if let Some(what) = failed.into_inner().unwrap() {
        panic!("{what}");
    }
    let kind = if memory { "memory drive" } else { "simulated disk" };
    let (sequences, reached) = (drives * PER_DRIVE, total.into_inner().unwrap());
    let seconds = since.elapsed().as_secs_f64();
    println!("oracle, {kind}: {sequences} sequences in {seconds:.1} s, {reached:?}");
}

#[test]
fn queue_and_oracle_agree() {
    if let Ok(seed) = std::env::var("ZONAL_ORACLE_SEED") {
        let (kind, seed) = seed.split_once(':').expect("memory:N or sim:N");
        let reached = check(kind == "memory", seed.parse().expect("a number"));
        println!("oracle: {:?}", reached.unwrap_or_else(|what| panic!("{what}")));
        return;
    }
    let asked = std::env::var("ZONAL_ORACLE_SEQUENCES").ok();
    let sequences = asked.map_or(SEQUENCES, |asked| asked.parse().expect("a number"));
    // A sequence on the simulated disk takes twice as long.
    let on_disk = sequences * 2 / 5;
    run_all(true, sequences - on_disk);
    run_all(false, on_disk);
    println!("oracle: {sequences} sequences");
}
