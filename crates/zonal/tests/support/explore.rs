//! Every way through a scenario, depth first: each run starts anew and repeats the steps of the
//! one before it up to where they part.

use super::model::{Checked, Violation, ensure};
use super::reopen::Images;
use super::run::{Cuts, Origins, Run, Step};
use super::scenario::Scenario;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Failures in one run; one more where a failure is made good.
    pub(crate) faults: u32,
    /// Runs of one scenario; a scenario with more is not exhausted.
    pub(crate) runs: u64,
    /// Then so many more, at random.
    pub(crate) walks: u64,
    /// Whether a run is followed to its end that has come to a state in which another has been: to
    /// see that such runs go on alike.
    pub(crate) all_orders: bool,
    /// Give up after this.
    pub(crate) until: Option<Instant>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) scenarios: u64,
    /// Of these, those of which no run is left.
    pub(crate) exhausted: u64,
    /// Runs, each one order with its failures.
    pub(crate) runs: u64,
    /// States that differ, in each of which the drive was looked at.
    pub(crate) states: u64,
    /// Power cuts: every subset of what was not durable, in each of these states.
    pub(crate) cuts: u64,
    /// What they leave of one zone, each opened again and checked by itself.
    pub(crate) told_apart: u64,
    /// Images that were opened for it; the same metadata is opened once.
    pub(crate) images: u64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.scenarios += other.scenarios;
        self.exhausted += other.exhausted;
        self.runs += other.runs;
        self.states += other.states;
        self.cuts += other.cuts;
        self.told_apart += other.told_apart;
        self.images += other.images;
    }
}

/// A violation, and the way to it.
pub(crate) struct Failure {
    scenario: Scenario,
    steps: Vec<Step>,
    pub(crate) violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, steps, violation } = self;
        writeln!(f, "broken: {}: {}", violation.check, violation.what)?;
        writeln!(f, "{scenario:?}")?;
        for step in steps {
            writeln!(f, "  {step:?}")?;
        }
        Ok(())
    }
}

/// Explores all scenarios, on all processors. Stops at the first violation.
pub(crate) fn explore(scenarios: &[Scenario], bounds: Bounds) -> (Totals, Option<Failure>) {
    let origins = Origins::new(scenarios);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let failure = Mutex::new(None);
    let worker = || {
        let mut images = Images::default();
        let mut own = Totals::default();
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = bounds.until.is_some_and(|until| Instant::now() >= until);
            if done || stop.load(Ordering::Relaxed) {
                break;
            }
            let (images, totals) = (&mut images, &mut own);
            let (seen, steps) = (HashSet::new(), Vec::new());
            let origins = &origins;
            let leads = HashMap::new();
            let mut explorer =
                Explorer { scenario, bounds, origins, images, totals, seen, leads, steps };
            if let Err(found) = explorer.all() {
                stop.store(true, Ordering::Relaxed);
                failure.lock().expect("nobody panics with it").get_or_insert(found);
            }
            own.scenarios += 1;
        }
        own.images = images.opened();
        totals.lock().expect("nobody panics with it").add(own);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    let totals = *totals.lock().expect("no worker is left");
    (totals, failure.into_inner().expect("no worker is left"))
}

/// Which of how many steps was taken.
#[derive(Clone, Copy)]
struct Taken {
    step: usize,
    of: usize,
}

/// How the next step is chosen.
enum Way<'a> {
    /// The path's, and behind it the first.
    Path(&'a mut Vec<Taken>),
    /// At random.
    Walk(u64),
}

/// A state and a step from it; of steps that are the same the number.
type Edge = (u128, u128, usize);

/// One scenario's exploration.
struct Explorer<'a> {
    scenario: &'a Scenario,
    bounds: Bounds,
    origins: &'a Origins,
    images: &'a mut Images,
    totals: &'a mut Totals,
    seen: HashSet<u128>,
    /// Where each step from each state led, in all orders.
    leads: HashMap<Edge, u128>,
    /// The steps of this run.
    steps: Vec<Step>,
}

impl Explorer<'_> {
    fn all(&mut self) -> Result<(), Failure> {
        let mut path = Vec::new();
        for _ in 0..self.bounds.runs {
            self.run(Way::Path(&mut path))?;
            while path.last().is_some_and(|taken: &Taken| taken.step + 1 == taken.of) {
                path.pop();
            }
            let Some(taken) = path.last_mut() else {
                self.totals.exhausted += 1;
                return Ok(());
            };
            taken.step += 1;
        }
        for seed in 1..=self.bounds.walks {
            self.run(Way::Walk(seed))?;
        }
        Ok(())
    }

    fn run(&mut self, way: Way<'_>) -> Result<(), Failure> {
        self.steps.clear();
        let go = AssertUnwindSafe(|| self.follow(way));
        let checked = catch_unwind(go).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Violation { check: "the crate's own assertions", what: text.unwrap_or_default() })
        });
        self.totals.runs += 1;
        checked.map_err(|violation| Failure {
            scenario: self.scenario.clone(),
            steps: std::mem::take(&mut self.steps),
            violation,
        })
    }

    /// A step from a state leads to one state, however that state was come to: else two states
    /// that differ were taken for the same.
    fn leads_there(&mut self, before: Option<Edge>, now: u128) -> Checked {
        let Some(before) = before else { return Ok(()) };
        let known = *self.leads.entry(before).or_insert(now);
        ensure!(known == now, "the explorer tells states apart", "after {:?}", self.steps);
        Ok(())
    }

    fn follow(&mut self, mut way: Way<'_>) -> Checked {
        let mut run = Run::new(self.scenario, self.origins)?;
        let known = match &way {
            Way::Path(path) => path.len(),
            Way::Walk(_) => 0,
        };
        let mut before = None;
        for depth in 0.. {
            let key = (depth >= known || self.bounds.all_orders).then(|| run.fingerprint());
            if let Some(key) = key {
                self.leads_there(before, key)?;
                if self.seen.insert(key) {
                    self.totals.states += 1;
                    let Cuts { all, told_apart } = run.check(self.images, key)?;
                    self.totals.cuts += all;
                    self.totals.told_apart += told_apart;
                } else if !self.bounds.all_orders && matches!(way, Way::Path(_)) {
                    return Ok(());
                }
            }
            let steps = run.steps(self.bounds.faults);
            if steps.is_empty() {
                return run.model.everything_is_done();
            }
            let step = steps[way.choose(depth, steps.len())];
            let same = steps.iter().take_while(|other| **other != step);
            let nth = same.filter(|other| other.what() == step.what()).count();
            before = key.filter(|_| self.bounds.all_orders).map(|key| (key, step.what(), nth));
            self.steps.push(step);
            run.step(step)?;
        }
        Ok(())
    }
}

impl Way<'_> {
    fn choose(&mut self, depth: usize, of: usize) -> usize {
        match self {
            Self::Path(path) => {
                if depth == path.len() {
                    path.push(Taken { step: 0, of });
                }
                path[depth].step
            }
            Self::Walk(state) => {
                *state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767);
                usize::try_from(*state >> 33).unwrap_or(0) % of
            }
        }
    }
}
