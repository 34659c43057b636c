//! A plan at work: how far it is, and how each request ends.
//!
//! One [`Faults`] belongs to one opening of a drive, and is shared by its queues and by what opens and
//! closes it. Invariants:
//! * every request is decided on once, in the order of submission;
//! * once the drive has stopped (a cut or a kill), nothing that ends is reported as done;
//! * after a cut the disk is left as the cut leaves it when nothing is under way any more, and before
//!   its lock is given back.

use super::injected::inject;
use super::plan::ZoneFault;
use super::undo::{BLOCK, Ended, Undo};
use super::{FaultPlan, Random, WriteId};
use crate::engine::{Disk, IoKind};
use crate::sync::{Mutex, MutexGuard, lock};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A request that is about to be submitted.
pub(crate) struct Ask<'a> {
    pub(crate) kind: IoKind,
    /// On the disk.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Whether it is a user's, and not zonal's own.
    pub(crate) is_data: bool,
    /// What a write writes.
    pub(crate) bytes: Option<&'a [u8]>,
    /// Whether it touches these bytes of the drive.
    pub(crate) touches: &'a dyn Fn(&Range<u64>) -> bool,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The disk does it, or the first so many bytes of it; then it ends as it does, or with this
    /// error.
    Do { length: u64, error: Option<io::Error> },
    /// The disk hears nothing of it.
    Fail(io::Error),
}

/// What is decided on a request.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) fate: Fate,
    /// How long it takes at least.
    pub(crate) latency: Duration,
    /// What its end is told with.
    pub(crate) note: Note,
    /// Zones whose time has come.
    pub(crate) zones: Vec<ZoneFault>,
}

/// What has to be known when a request ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Note {
    write: Option<WriteId>,
    barrier: u64,
}

/// How the next opening tells a cut from a kill.
pub(crate) trait Outage: Send + Sync {
    /// The disk is as a power cut left it: the machine was booted since.
    ///
    /// # Errors
    /// The disk's.
    fn cut(&self, disk: &Disk) -> io::Result<()>;

    /// Whatever this process does from here on was done by nobody.
    ///
    /// # Errors
    /// The file system's.
    fn kill(&self) -> io::Result<()>;
}

/// Why nothing works any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Cut,
    Kill,
}

/// A plan at work on one opened drive.
pub(crate) struct Faults {
    plan: FaultPlan,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// What opening does is not counted.
    armed: bool,
    operations: u64,
    reads: u64,
    writes: u64,
    syncs: u64,
    written: u64,
    cut: Option<u64>,
    kill: Option<u64>,
    zones: Vec<ZoneFault>,
    /// Only where there is a cut to come.
    undo: Option<Undo>,
    outage: Option<Box<dyn Outage>>,
    stop: Option<Stop>,
    /// How many requests the engines have.
    under_way: usize,
    /// The disk is not yet as the cut leaves it.
    is_to_cut: bool,
}

impl Faults {
    pub(crate) fn new(plan: &FaultPlan) -> Arc<Self> {
        let mut random = Random::new(plan.seed);
        let mut within = |range: &Option<Range<u64>>| range.as_ref().map(|r| random.within(r));
        let (cut, kill) = (within(&plan.cut), within(&plan.kill));
        let state = State {
            random,
            armed: false,
            operations: 0,
            reads: 0,
            writes: 0,
            syncs: 0,
            written: 0,
            cut,
            kill,
            zones: plan.zones.iter().filter(|zone| zone.after.is_some()).cloned().collect(),
            undo: plan.cut.as_ref().map(|_| Undo::default()),
            outage: None,
            stop: None,
            under_way: 0,
            is_to_cut: false,
        };
        Arc::new(Self { plan: plan.clone(), state: Mutex::new(state) })
    }

    pub(crate) fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    /// The zones that are unusable from the opening on.
    pub(crate) fn zones_at_open(&self) -> impl Iterator<Item = &ZoneFault> {
        self.plan.zones.iter().filter(|zone| zone.after.is_none())
    }

    /// Every zone that the plan names.
    pub(crate) fn zones(&self) -> impl Iterator<Item = u32> {
        self.plan.zones.iter().map(|fault| fault.zone)
    }

    /// The ranges that cannot be used, in bytes.
    pub(crate) fn bad(&self) -> impl Iterator<Item = &Range<u64>> {
        self.plan.bad.iter().map(|bad| &bad.bytes)
    }

    /// The drive is open: from here on its requests count. `length` is that of a disk whose length
    /// is not durable by itself.
    pub(crate) fn arm(&self, outage: Option<Box<dyn Outage>>, length: Option<u64>) {
        let mut state = self.state();
        state.armed = true;
        state.outage = outage;
        if let (Some(undo), Some(length)) = (&mut state.undo, length) {
            undo.length_counts(length);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Decides on a request. What the disk shall do of it counts as under way until
    /// [`Faults::ended`].
    pub(crate) fn decide(&self, disk: &Disk, ask: &Ask<'_>) -> Decision {
        let mut state = self.state();
        let mut decision = Decision {
            fate: Fate::Do { length: ask.length, error: None },
            latency: Duration::ZERO,
            note: Note::default(),
            zones: Vec::new(),
        };
        if state.armed {
            state.operations += 1;
            state.stop_in_time(disk);
            decision.zones = state.zones_due();
            decision.latency = state.latency(&self.plan, ask.kind);
            decision.fate = match state.stopped() {
                Some(error) => Fate::Fail(error),
                None => state.fate(&self.plan, ask),
            };
        }
        match &decision.fate {
            Fate::Do { length, .. } => match state.begin(disk, ask, *length) {
                Ok(note) => {
                    decision.note = note;
                    state.under_way += 1;
                }
                Err(error) => decision.fate = Fate::Fail(error),
            },
            Fate::Fail(_) => state.failed(ask.kind),
        }
        decision
    }

    /// A request has ended on the disk; how it is to be reported.
    pub(crate) fn ended(
        &self,
        disk: &Disk,
        kind: IoKind,
        note: Note,
        result: io::Result<u32>,
    ) -> io::Result<u32> {
        let mut state = self.state();
        state.under_way = state.under_way.saturating_sub(1);
        state.end(kind, note, result.is_ok());
        state.leave_as_cut(disk);
        match state.stopped() {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// Why nothing works any more, if so.
    pub(crate) fn stopped(&self) -> Option<io::Error> {
        self.state().stopped()
    }

    /// The disk was cut off or lengthened.
    pub(crate) fn resized(&self, length: u64) {
        if let Some(undo) = &mut self.state().undo {
            undo.set_len(length);
        }
    }

    /// The disk is about to be let go of: all that was under way has ended.
    pub(crate) fn release(&self, disk: &Disk) {
        let mut state = self.state();
        state.under_way = 0;
        state.leave_as_cut(disk);
    }
}

impl State {
    /// Stops if it is time to.
    fn stop_in_time(&mut self, disk: &Disk) {
        let over = |after: Option<u64>| after.is_some_and(|after| self.operations > after);
        let stop = match (over(self.cut), over(self.kill)) {
            (true, _) => Stop::Cut,
            (false, true) => Stop::Kill,
            (false, false) => return,
        };
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(stop);
        match stop {
            Stop::Cut => {
                self.is_to_cut = true;
                self.leave_as_cut(disk);
            }
            Stop::Kill => {
                if let Some(Err(error)) = self.outage.as_ref().map(|outage| outage.kill()) {
                    tracing::error!("a fault plan's kill is not one: {error}");
                }
            }
        }
    }

    /// Once nothing is under way, chooses what a cut leaves.
    fn leave_as_cut(&mut self, disk: &Disk) {
        if !self.is_to_cut || self.under_way > 0 {
            return;
        }
        self.is_to_cut = false;
        let Some(undo) = &mut self.undo else { return };
        let left = undo.cut(disk, &mut self.random);
        let left = left.and_then(|()| self.outage.as_ref().map_or(Ok(()), |o| o.cut(disk)));
        if let Err(error) = left {
            tracing::error!("a fault plan's cut is not whole: {error}");
        }
    }

    fn stopped(&self) -> Option<io::Error> {
        let word = match self.stop? {
            Stop::Cut => format!("cut={}", self.cut.unwrap_or_default()),
            Stop::Kill => format!("kill={}", self.kill.unwrap_or_default()),
        };
        Some(inject(libc::EIO, format!("{word}; open the drive again")))
    }

    fn zones_due(&mut self) -> Vec<ZoneFault> {
        let operations = self.operations;
        let due = |zone: &mut ZoneFault| zone.after.is_some_and(|after| operations > after);
        self.zones.extract_if(.., due).collect()
    }

    fn latency(&mut self, plan: &FaultPlan, kind: IoKind) -> Duration {
        let own = match kind {
            IoKind::Read => &plan.read_latency,
            IoKind::Write | IoKind::WriteDurable | IoKind::Zero => &plan.write_latency,
            IoKind::SyncData => &plan.sync_latency,
        };
        let Some(time) = own.as_ref().or(plan.latency.as_ref()) else { return Duration::ZERO };
        let spread = time.end.saturating_sub(time.start).as_nanos();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        let more = if spread == 0 { 0 } else { self.random.within(&(0..spread)) };
        time.start + Duration::from_nanos(more)
    }

    fn fate(&mut self, plan: &FaultPlan, ask: &Ask<'_>) -> Fate {
        let (reads, writes) = match ask.kind {
            IoKind::Read => (true, false),
            IoKind::Write | IoKind::WriteDurable | IoKind::Zero => (false, true),
            IoKind::SyncData => (false, false),
        };
        let counted = self.counted(plan, ask);
        let touched = |bad: &&super::plan::Bad| {
            (bad.reads && reads || bad.writes && writes) && (ask.touches)(&bad.bytes)
        };
        let fail = |word: String| Fate::Fail(inject(libc::EIO, word));
        if let Some(fate) = counted {
            return fate;
        }
        if let Some(bad) = plan.bad.iter().find(touched) {
            return fail(bad.to_string());
        }
        if self.random.per_mille(plan.fail_per_mille) {
            return fail(format!("fail-per-mille={}", plan.fail_per_mille));
        }
        if ask.is_data && (reads || writes) && self.random.per_mille(plan.short_per_mille) {
            // Nothing at all would be no short transfer, but the end of the disk.
            let length = self.part(ask.length).max(BLOCK.min(ask.length));
            return Fate::Do { length, error: None };
        }
        Fate::Do { length: ask.length, error: None }
    }

    /// What goes wrong by number, or for want of space.
    fn counted(&mut self, plan: &FaultPlan, ask: &Ask<'_>) -> Option<Fate> {
        let fail = |word: &str, n: u64| Some(Fate::Fail(inject(libc::EIO, format!("{word}={n}"))));
        match ask.kind {
            IoKind::SyncData => {
                self.syncs += 1;
                plan.fail_syncs.contains(&self.syncs).then(|| fail("fail-sync", self.syncs))?
            }
            IoKind::Read if ask.is_data => {
                self.reads += 1;
                plan.fail_reads.contains(&self.reads).then(|| fail("fail-read", self.reads))?
            }
            IoKind::Write | IoKind::WriteDurable if ask.is_data => {
                self.writes += 1;
                if plan.fail_writes.contains(&self.writes) {
                    return fail("fail-write", self.writes);
                }
                if plan.tear_writes.contains(&self.writes) {
                    let error = inject(libc::EIO, format!("tear-write={}", self.writes));
                    return Some(match self.part(ask.length) {
                        0 => Fate::Fail(error),
                        length => Fate::Do { length, error: Some(error) },
                    });
                }
                self.written = self.written.saturating_add(ask.length);
                let space = plan.space.filter(|&space| self.written > space)?;
                self.written -= ask.length;
                Some(Fate::Fail(inject(libc::ENOSPC, format!("space={space}"))))
            }
            IoKind::Read | IoKind::Write | IoKind::WriteDurable | IoKind::Zero => None,
        }
    }

    /// Some whole blocks of a request, fewer than all.
    fn part(&mut self, length: u64) -> u64 {
        let blocks = usize::try_from(length.div_ceil(BLOCK).max(1)).unwrap_or(usize::MAX);
        self.random.below(blocks) as u64 * BLOCK
    }

    fn begin(&mut self, disk: &Disk, ask: &Ask<'_>, length: u64) -> io::Result<Note> {
        let Some(undo) = &mut self.undo else { return Ok(Note::default()) };
        let barrier = undo.barrier();
        let write = match ask.kind {
            IoKind::Read | IoKind::SyncData => None,
            IoKind::Zero => {
                // Never lengthens the disk.
                let length = disk.len()?.saturating_sub(ask.offset).min(length);
                Some(undo.begin(disk, ask.offset, length, None)?)
            }
            IoKind::Write | IoKind::WriteDurable => {
                let bytes = ask.bytes.and_then(|bytes| bytes.get(..usize::try_from(length).ok()?));
                Some(undo.begin(disk, ask.offset, length, bytes.or(Some(&[])))?)
            }
        };
        Ok(Note { write, barrier })
    }

    fn end(&mut self, kind: IoKind, note: Note, is_ok: bool) {
        // What ends after a cut was under way when it came.
        let Some(undo) = self.undo.as_mut().filter(|_| self.stop.is_none()) else { return };
        let ended = match (kind, is_ok) {
            (_, false) => Ended::Unknown,
            (IoKind::WriteDurable, true) => Ended::Durable,
            (IoKind::Read | IoKind::Write | IoKind::SyncData | IoKind::Zero, true) => Ended::Cached,
        };
        match (note.write, kind, is_ok) {
            (Some(write), ..) => undo.end(write, ended),
            (None, IoKind::SyncData, true) => undo.sync(note.barrier),
            (None, IoKind::SyncData, false) => undo.lose(note.barrier),
            (None, ..) => {}
        }
    }

    /// A request that the disk never saw.
    fn failed(&mut self, kind: IoKind) {
        if kind == IoKind::SyncData
            && let Some(undo) = &mut self.undo
        {
            undo.lose(undo.barrier());
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&self.plan.to_string()).finish()
    }
}
