//! One thread of a situation: sends its steps, many in flight, and notes where each record landed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use zonal::{Buffer, ErrorKind};

use super::super::{
    bench::{hung, judge_completion},
    pattern::{self, Stamp},
    peer::{Call, Peer},
    verdict::{Checked, Stop},
};

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Append the stamped record of so many bytes.
    Append(u64),
    /// Append so many bytes of nothing; it must be refused.
    Refused(u64),
    /// Write so many bytes of nothing at this offset; it must be refused.
    RefusedWrite {
        /// Absolute, in bytes.
        offset: u64,
        /// In bytes.
        length: u64,
    },
    /// Open, close, finish, reset.
    Open,
    Close,
    Finish,
    Reset,
}

/// One request to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Zone and record.
    pub(super) stamp: Stamp,
    /// What is done.
    pub(super) deed: Deed,
    /// How it may be refused instead; where that is empty it must succeed.
    pub(super) may: &'static [ErrorKind],
}

impl Step {
    fn call(&self) -> Call {
        let Self { stamp, deed, .. } = *self;
        let nothing = |length: u64| Buffer::unpooled(usize::try_from(length).unwrap_or(0));
        match deed {
            Deed::Append(length) => {
                let mut data = nothing(length);
                pattern::fill(&mut data, stamp);
                Call::Append { zone: stamp.zone, data }
            }
            Deed::Refused(length) => Call::Append { zone: stamp.zone, data: nothing(length) },
            Deed::RefusedWrite { offset, length } => Call::Write { offset, data: nothing(length) },
            Deed::Open => Call::Open(stamp.zone),
            Deed::Close => Call::Close(stamp.zone),
            Deed::Finish => Call::Finish(stamp.zone),
            Deed::Reset => Call::Reset(stamp.zone),
        }
    }

    const fn has_to_fail(&self) -> bool {
        match self.deed {
            Deed::Refused(_) | Deed::RefusedWrite { .. } => true,
            Deed::Append(_) | Deed::Open | Deed::Close | Deed::Finish | Deed::Reset => false,
        }
    }
}

/// A record that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Landed {
    /// The record.
    pub(super) stamp: Stamp,
    /// Where, as its completion says; absolute, in bytes.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) length: u64,
    /// How many resets of its zone this thread had asked for before it.
    pub(super) life: u32,
}

/// What a thread brings back.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// What was acknowledged.
    pub(super) landed: Vec<Landed>,
    /// Requests that did not end as they should: how they were refused, if they were, and what was seen.
    pub(super) findings: Vec<(Option<ErrorKind>, String)>,
    /// How many resets of each zone were asked for.
    pub(super) lives: HashMap<u32, u32>,
}

/// A request on its way.
struct Sent {
    step: Step,
    words: String,
    length: usize,
    life: u32,
}

/// Sends `steps` in order with up to `depth` in flight.
///
/// # Errors
/// A request that did not end before the deadline, or a queue that failed as a whole.
pub(super) fn run(
    peer: &dyn Peer,
    steps: &[Step],
    depth: u32,
    deadline: Duration,
) -> Checked<Work> {
    let failed = |error: zonal::Error| Stop::Fault(error.to_string());
    let mut lane = peer.lane(depth).map_err(failed)?;
    let mut work = Work::default();
    let mut under_way: HashMap<u64, Sent> = HashMap::new();
    let mut steps = (1u64..).zip(steps);
    loop {
        while lane.in_flight() < depth as usize {
            let Some((tag, step)) = steps.next() else { break };
            let call = step.call();
            let life = work.lives.entry(step.stamp.zone).or_default();
            if step.deed == Deed::Reset {
                *life += 1;
            }
            let sent =
                Sent { step: *step, words: call.to_string(), length: call.length(), life: *life };
            under_way.insert(tag, sent);
            lane.push(tag, call);
        }
        if under_way.is_empty() {
            return Ok(work);
        }
        let Some(ended) = lane.take(Instant::now() + deadline).map_err(failed)? else {
            let oldest = under_way.iter().min_by_key(|(tag, _)| **tag);
            let words = oldest.map(|(_, sent)| sent.words.clone()).unwrap_or_default();
            return Err(Stop::Hung(hung(words, deadline)));
        };
        let Some(sent) = under_way.remove(&ended.tag) else {
            let text = format!("a completion has the tag {}, which no request has", ended.tag);
            work.findings.push((None, text));
            continue;
        };
        if let Err(seen) = judge_completion(&ended, ended.tag, sent.length) {
            let text = format!("{}: its completion {seen}", sent.words);
            work.findings.push((None, text));
        }
        work.note(&sent, &ended);
    }
}

impl Work {
    fn note(&mut self, sent: &Sent, ended: &zonal::Completion) {
        let Sent { step, words, life, .. } = sent;
        let wrong = match (&ended.result, step.has_to_fail()) {
            (Ok(_), true) => Some((None, format!("{words} succeeded; it has to be refused"))),
            (Ok(_), false) => {
                if let Deed::Append(length) = step.deed {
                    let Step { stamp, .. } = *step;
                    let offset = ended.offset;
                    self.landed.push(Landed { stamp, offset, length, life: *life });
                }
                None
            }
            (Err(error), _) => {
                let kind = error.kind();
                (!step.may.contains(&kind)).then(|| (Some(kind), format!("{words}: {error}")))
            }
        };
        self.findings.extend(wrong);
    }
}
