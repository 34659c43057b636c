//! A history from its seed; and the shortest part of it that still fails.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use anyhow::Result;

use super::random::Random;
use super::script::{Faults, Step, script};
use super::shape::{Shape, Shapes};
use super::truth::Violation;
use super::world::{Counts, World, Wrong};

/// So often at most a failing history is run again to shorten it.
const TRIES_MAX: usize = 4000;

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what panics say, instead of printing it: a history that crashes is reported as a whole.
pub(super) fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with(|panic| panic.replace(info.to_string()));
    }));
}

/// What went wrong in a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Violation(Violation),
    Stuck(String),
    Crashed(String),
}

impl Failure {
    /// Whether another is the same one, in a shorter history.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Violation(a), Self::Violation(b)) => a.promise == b.promise,
            (Self::Stuck(_), Self::Stuck(_)) | (Self::Crashed(_), Self::Crashed(_)) => true,
            (Self::Violation(_) | Self::Stuck(_) | Self::Crashed(_), _) => false,
        }
    }
}

/// A history: a drive and steps.
pub(super) struct History {
    pub(super) shape: Rc<Shape>,
    pub(super) steps: Vec<Step>,
    faults: Faults,
}

/// What a history did.
pub(super) struct Told {
    pub(super) counts: Counts,
    pub(super) failure: Option<Failure>,
    /// Each step and what it did, if that was asked for.
    pub(super) trace: String,
}

impl History {
    /// The history of a seed.
    pub(super) fn of(seed: u64, steps: usize, faults: Faults, shapes: &mut Shapes) -> Result<Self> {
        let random = &mut Random::new(seed);
        let shape = shapes.pick(random)?;
        let steps = script(random, &shape, steps, faults);
        Ok(Self { shape, steps, faults })
    }

    /// Runs it.
    pub(super) fn run(&self, traced: bool) -> Told {
        let mut counts = Counts::default();
        let mut trace = String::new();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(&self.shape, self.faults, traced)?;
            let ran = self.steps.iter().try_for_each(|step| world.step(step));
            let ran = ran.and_then(|()| world.rest());
            (counts, trace) = (world.counts, world.trace());
            ran
        }));
        let failure = match ran {
            Ok(Ok(())) => None,
            Ok(Err(Wrong::Violation(violation))) => Some(Failure::Violation(violation)),
            Ok(Err(Wrong::Stuck(what))) => Some(Failure::Stuck(what)),
            Err(_) => Some(Failure::Crashed(PANIC.with(RefCell::take))),
        };
        Told { counts, failure, trace }
    }

    /// The shortest history it could be made into that fails in the same way: parts are left out, from
    /// halves of it down to single steps and requests, as long as what is left fails (delta debugging:
    /// Zeller, Hildebrandt 2002).
    pub(super) fn shrunk(mut self, failure: &Failure) -> Self {
        let mut tries = 0;
        let mut fails = |steps: &[Step], shape: &Rc<Shape>, faults: Faults| {
            tries += 1;
            let tried = Self { shape: shape.clone(), steps: steps.to_vec(), faults };
            tries < TRIES_MAX
                && tried.run(false).failure.is_some_and(|failed| failed.is_like(failure))
        };
        loop {
            let before = self.steps.len();
            let mut size = self.steps.len().div_ceil(2).max(1);
            loop {
                let mut from = 0;
                while from < self.steps.len() {
                    let to = (from + size).min(self.steps.len());
                    let mut shorter = self.steps.clone();
                    shorter.drain(from..to);
                    if fails(&shorter, &self.shape, self.faults) {
                        self.steps = shorter;
                    } else {
                        from = to;
                    }
                }
                if size == 1 {
                    break;
                }
                size = size.div_ceil(2);
            }
            if self.steps.len() == before {
                break;
            }
        }
        for at in 0..self.steps.len() {
            let mut request = 0;
            while let Step::Submit { queue, wants } = &self.steps[at]
                && wants.len() > 1
                && request < wants.len()
            {
                let mut fewer = wants.clone();
                fewer.remove(request);
                let mut shorter = self.steps.clone();
                shorter[at] = Step::Submit { queue: *queue, wants: fewer };
                if fails(&shorter, &self.shape, self.faults) {
                    self.steps = shorter;
                } else {
                    request += 1;
                }
            }
        }
        self
    }
}
