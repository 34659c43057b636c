//! What is done for one file, step by step: the order of things, without a thread or a clock of its own.
//!
//! ```text
//! accept ─► waiting ─ start ─► moving ─ reap ─► ended
//!              │ atomic, by the journal            ▲
//!              └─► one record for many ─ durable ──┤
//!                                                  └─► its units land ─ reap ─► the ledger
//! ```
//!
//! Invariants:
//! * Each job that is accepted ends once.
//! * All units of a batch are in one record, which a replay takes whole or not at all.
//! * Jobs that touch the same bytes, unless both only read, are done one after the other in the order in
//!   which they were accepted. So a read sees a unit whole, and what a replay writes in the order of the
//!   records is what was in the file.
//! * With a journal: no unit moves before its record is durable; no record is reclaimed before a data sync
//!   that was submitted when its units had landed; no ordinary write moves while a record is alive that a
//!   replay would put over it.
//! * A job whose record is durable has ended well. Its units are put in their places out of the record's bytes;
//!   whoever touches them waits for that.
//! * A unit that could not be put in its place, or ended short, is torn there and whole in the journal. From then on
//!   nothing new is written (*latched*), nothing of it is read, and the next opening's replay mends it.
//! * A failed sync is final, as on drives.
//!
//! Records and headers of the journal are written by blocking calls in between, so that one sync serves all
//! that waited; reads and data under way are with the kernel meanwhile.

use super::journal::Journal;
use super::operation::{Job, What};
use super::{AtomicPath, DEPTH, WINDOW};
use crate::engine::{Disk, Engine, Io, IoKind};
use crate::queue::io_text;
use crate::sys::memory::AlignedBytes;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zonal_core::broken::{Rule, is_broken};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::untorn::journal::{BLOCK, Entry, Mark, Record};

/// The token of the data sync; those of jobs are their places.
const SYNC: u64 = DEPTH as u64;

/// The work on one file.
pub(super) struct Driver {
    // First, so that it is dropped first: it waits until the kernel has let go of the buffers.
    engine: Engine,
    name: String,
    disk: Disk,
    path: AtomicPath,
    journal: Option<Journal>,
    waiting: VecDeque<Job>,
    /// Units of durable records, until a place is free for them.
    landing: VecDeque<Landing>,
    moving: Vec<Option<Moving>>,
    free: Vec<usize>,
    sync: Option<Sync>,
    /// Something has ended since the last data sync was submitted that is not in the journal.
    unsynced: bool,
    /// How many jobs the last record served.
    served: usize,
    latched: Option<Latch>,
    /// What is torn in its place, and whole in the journal only.
    torn: Vec<Range<u64>>,
    ended: Vec<(u64, io::Result<u32>)>,
}

/// What the engine has.
enum Moving {
    Job(Job),
    Unit(Landing),
}

impl Moving {
    /// Whether `job` has to wait for its end.
    fn is_before(&self, job: &Job) -> bool {
        match self {
            Self::Job(other) => conflict(other, job),
            Self::Unit(unit) => job.touches(&unit.range),
        }
    }
}

/// A unit on its way from a durable record to its place.
struct Landing {
    range: Range<u64>,
    /// The number of its record.
    record: u64,
    /// The record's bytes, and where its own begin in them.
    room: Arc<AlignedBytes>,
    at: usize,
}

/// A data sync under way.
struct Sync {
    /// What may be reclaimed when it has ended.
    until: Option<Mark>,
    flushes: Vec<Job>,
}

/// Why nothing is written any more.
#[derive(Clone)]
struct Latch {
    kind: ErrorKind,
    text: String,
}

/// What becomes of a waiting job now.
enum Turn {
    Move,
    Record,
    Wait,
    End(Result<AtomicPath>),
}

/// A round of starting.
#[derive(Default)]
struct Round {
    left: VecDeque<Job>,
    /// What becomes one record.
    batch: Vec<Job>,
    batch_units: usize,
    batch_bytes: u64,
    flushes: Vec<Job>,
    /// Somebody waits for room, or for a record to be left behind.
    reclaim: bool,
}

impl Driver {
    pub(super) fn new(
        name: &str,
        disk: Disk,
        engine: Engine,
        path: AtomicPath,
        journal: Option<Journal>,
    ) -> Self {
        Self {
            engine,
            name: name.to_owned(),
            disk,
            path,
            journal,
            waiting: VecDeque::with_capacity(WINDOW),
            landing: VecDeque::new(),
            moving: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).rev().collect(),
            sync: None,
            unsynced: false,
            served: 0,
            latched: None,
            torn: Vec::new(),
            ended: Vec::with_capacity(DEPTH),
        }
    }

    /// Whether it takes one more job.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WINDOW
    }

    /// Takes a job in; it is looked at by the next [`start`](Self::start).
    pub(super) fn accept(&mut self, mut job: Job) {
        if is_broken(Rule::BatchInOneRecord) && job.what == What::WriteBatch {
            let apart = |(offset, unit)| Job::new(What::WriteAtomic, offset, Some(unit));
            return self.waiting.extend(std::mem::take(&mut job.units).into_iter().map(apart));
        }
        self.waiting.push_back(job);
    }

    /// Whether all that was accepted has ended, units have landed, and no sync is under way.
    pub(super) fn is_idle(&self) -> bool {
        let nothing_waits = self.waiting.is_empty() && self.landing.is_empty();
        nothing_waits && self.free.len() == DEPTH && self.sync.is_none()
    }

    /// Whether a record now would serve fewer jobs than the last one did, whose callers are about to ask for
    /// more.
    pub(super) fn expects_more(&self) -> bool {
        let is_for_it = |job: &&Job| matches!(job.what, What::WriteAtomic | What::WriteBatch);
        let count = self.waiting.iter().filter(is_for_it).count();
        self.journal.is_some() && (1..self.served).contains(&count)
    }

    /// Whether nothing is written any more.
    pub(super) fn is_latched(&self) -> bool {
        self.latched.is_some()
    }

    /// Somebody else has written to the file.
    pub(super) fn note_unsynced(&mut self) {
        self.unsynced = true;
    }

    /// Starts what can start: moves, one record, one data sync.
    pub(super) fn start(&mut self) {
        let before = self.latched.is_some();
        self.start_round();
        if !before && self.latched.is_some() {
            // What was left for later is refused now; nothing else would come by to do it.
            self.start_round();
        }
    }

    fn start_round(&mut self) {
        let mut round = Round::default();
        self.land();
        while let Some(job) = self.waiting.pop_front() {
            match self.turn(&job, &mut round) {
                Turn::Move => self.move_job(job),
                Turn::Record => round.batch.push(job),
                Turn::Wait if job.what == What::Flush && self.sync.is_none() => {
                    round.flushes.push(job);
                }
                Turn::Wait => round.left.push_back(job),
                Turn::End(result) => self.end(job, result),
            }
        }
        self.waiting = round.left;
        self.record(round.batch);
        self.start_sync(round.flushes, round.reclaim);
    }

    /// What becomes of a job, given those before it that were left in this round.
    fn turn(&self, job: &Job, round: &mut Round) -> Turn {
        if let (Some(latch), true) = (&self.latched, job.what != What::Read) {
            return Turn::End(Err(Error::new(latch.kind, latch.text.clone())));
        }
        if job.what == What::Flush {
            let nothing = !self.unsynced && self.sync.is_none();
            return if nothing { Turn::End(Ok(self.path)) } else { Turn::Wait };
        }
        if self.torn.iter().any(|torn| job.touches(torn)) {
            let text = "a unit there is torn, and whole in the journal; open the file again";
            return Turn::End(Err(Error::new(ErrorKind::Io, text)));
        }
        if self.is_behind(job, round) {
            return Turn::Wait;
        }
        let place = || if self.free.is_empty() { Turn::Wait } else { Turn::Move };
        let Some(journal) = &self.journal else { return place() };
        match job.what {
            What::WriteAtomic | What::WriteBatch => {
                let units = round.batch_units + job.count();
                let bytes = round.batch_bytes + job.length() as u64;
                let ledger = journal.ledger();
                if !ledger.fits_record(units, bytes) || !journal.has_room() {
                    // It goes into the next one.
                    return Turn::Wait;
                }
                if !ledger.has_room(units, bytes) {
                    round.reclaim = true;
                    return Turn::Wait;
                }
                (round.batch_units, round.batch_bytes) = (units, bytes);
                Turn::Record
            }
            What::Write | What::SetLength if self.would_be_undone(job) => {
                round.reclaim = true;
                Turn::Wait
            }
            What::Write | What::SetLength | What::Read | What::Flush => place(),
        }
    }

    /// Whether a record is alive that a replay would put over what this job does.
    fn would_be_undone(&self, job: &Job) -> bool {
        let ledger = self.journal.as_ref().map(Journal::ledger);
        let alive = ledger.is_some_and(|ledger| job.ranges().any(|range| ledger.overlaps(&range)));
        alive && !is_broken(Rule::OrdinaryWaits)
    }

    /// Whether an earlier job has to end first.
    fn is_behind(&self, job: &Job, round: &Round) -> bool {
        let mut moving = self.moving.iter().flatten();
        let mut earlier = round.left.iter().chain(&round.batch);
        moving.any(|other| other.is_before(job))
            || self.landing.iter().any(|unit| job.touches(&unit.range))
            || earlier.any(|other| conflict(other, job))
    }

    /// Hands a job to the engine.
    fn move_job(&mut self, mut job: Job) {
        if job.what == What::SetLength {
            return self.set_length(job);
        }
        let kind = match job.what {
            What::Read => IoKind::Read,
            _ if job.durable => IoKind::WriteDurable,
            _ => IoKind::Write,
        };
        let (untorn, offset) = (job.what == What::WriteAtomic, job.offset);
        let (ptr, len) = match &mut job.buffer {
            Some(buffer) => (buffer.as_mut_ptr(), buffer.len()),
            None => (std::ptr::null_mut(), 0),
        };
        self.issue(Moving::Job(job), |token| {
            let io = Io { kind, offset, ptr, len, fixed: false, zoned: None, token };
            (io, untorn)
        });
    }

    /// Hands units that are durable in the journal to the engine, as many as there are places.
    fn land(&mut self) {
        while !self.free.is_empty()
            && let Some(unit) = self.landing.pop_front()
        {
            let offset = unit.range.start;
            let bytes = &unit.room[unit.at..];
            let len = usize::try_from(unit.range.end - offset).unwrap_or(usize::MAX);
            // Only read, as it is a write.
            let ptr = bytes[..len].as_ptr().cast_mut();
            let kind = IoKind::Write;
            self.issue(Moving::Unit(unit), |token| {
                (Io { kind, offset, ptr, len, fixed: false, zoned: None, token }, false)
            });
        }
    }

    /// Gives what moves a place, and its I/O to the engine.
    fn issue(&mut self, moving: Moving, io: impl FnOnce(u64) -> (Io, bool)) {
        let Some(place) = self.free.pop() else {
            // `turn` and `land` have looked.
            match moving {
                Moving::Job(job) => self.waiting.push_front(job),
                Moving::Unit(unit) => self.landing.push_front(unit),
            }
            return;
        };
        self.moving[place] = Some(moving);
        let (io, untorn) = io(place as u64);
        if let Err(error) = self.push(io, untorn) {
            self.moved(place, Err(error));
        }
    }

    /// Sets the file's length: a blocking call, as it is rare.
    fn set_length(&mut self, job: Job) {
        let result = self.disk.set_len(job.offset);
        let result = result.map_err(|error| kernel_error(job.what, &error));
        self.unsynced = true;
        self.end(job, result.map(|()| AtomicPath::None));
    }

    /// Pushes what `moving` keeps the bytes of; makes room once.
    fn push(&mut self, io: Io, untorn: bool) -> io::Result<()> {
        let push = |engine: &mut Engine| {
            // SAFETY: the bytes are a buffer's on the heap or in a pool, which `moving` owns until the token
            // is reaped, wherever the buffer's handle is moved, and nobody else sees it; or a record's, which is only
            // written, and which the journal does not change as long as `moving` has it. A sync has none.
            unsafe { if untorn { engine.push_untorn(io) } else { engine.push(io) } }
        };
        if push(&mut self.engine).is_ok() {
            return Ok(());
        }
        self.engine.submit(0, None)?;
        let refused = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        push(&mut self.engine).map_err(|_| refused())
    }

    /// Makes one record of these units durable, and moves them to their places.
    fn record(&mut self, mut batch: Vec<Job>) {
        if is_broken(Rule::BatchInOneRecord) && batch.len() > 1 {
            batch.drain(1..).rev().for_each(|job| self.waiting.push_front(job));
        }
        let Some(journal) = self.journal.as_mut().filter(|_| !batch.is_empty()) else { return };
        let pieces = || batch.iter().flat_map(Job::pieces);
        let entries = pieces().map(|(offset, bytes)| Entry::of(offset, bytes)).collect();
        let Some(record) = journal.ledger_mut().admit(entries) else {
            // `turn` has asked for room.
            return batch.into_iter().rev().for_each(|job| self.waiting.push_front(job));
        };
        let room = journal.fill(&record, pieces().map(|(_, bytes)| bytes));
        let too_early = is_broken(Rule::RecordBeforeUnit);
        if too_early {
            self.land_record(&record, &room);
            let _ = self.engine.submit(0, None);
        }
        let Some(journal) = &mut self.journal else { return };
        self.served = batch.len();
        match journal.write(&record, &room) {
            Ok(()) => {
                if !too_early {
                    self.land_record(&record, &room);
                }
                batch.into_iter().for_each(|job| self.end(job, Ok(self.path)));
            }
            Err(error) => self.fail_record(batch, &error),
        }
    }

    /// Puts a record's units in their places.
    fn land_record(&mut self, record: &Record, room: &Arc<AlignedBytes>) {
        let mut at = BLOCK;
        for entry in &record.entries {
            let range = entry.offset..entry.offset + entry.length;
            let (record, room) = (record.mark.sequence, room.clone());
            self.landing.push_back(Landing { range, record, room, at });
            at += usize::try_from(entry.length).unwrap_or(usize::MAX);
        }
        self.land();
    }

    /// Nothing is known of a record whose writing failed, so nothing may be written behind it.
    fn fail_record(&mut self, batch: Vec<Job>, error: &Error) {
        let text = format!(
            "a record could not be made durable ({}); open the file again to write",
            error.detail()
        );
        self.latch(error.kind(), text.clone());
        for job in batch {
            self.end(job, Err(Error::new(error.kind(), text.clone())));
        }
    }

    /// Submits a data sync where somebody waits for one and none is under way.
    fn start_sync(&mut self, flushes: Vec<Job>, reclaim: bool) {
        if self.sync.is_some() || self.latched.is_some() {
            return self.waiting.extend(flushes);
        }
        let ledger = self.journal.as_ref().map(Journal::ledger);
        let until = ledger.map(zonal_core::untorn::ledger::Ledger::landed_until);
        let gain = ledger.is_some_and(|ledger| {
            (reclaim || ledger.is_filling()) && until.is_some_and(|until| until != ledger.tail())
        });
        if flushes.is_empty() && !gain {
            return;
        }
        self.sync = Some(Sync { until, flushes });
        self.unsynced = false;
        if is_broken(Rule::ReclaimAfterSync) {
            return self.synced(Ok(()));
        }
        let io = Io {
            kind: IoKind::SyncData,
            offset: 0,
            ptr: std::ptr::null_mut(),
            len: 0,
            fixed: false,
            zoned: None,
            token: SYNC,
        };
        if let Err(error) = self.push(io, false) {
            self.synced(Err(error));
        }
    }

    /// Submits, and waits until something has ended, somebody notifies, or the time is up.
    ///
    /// # Errors
    /// The kernel's; nothing is lost, call it again.
    pub(super) fn wait(&mut self, wait_for: usize, limit: Option<Duration>) -> io::Result<()> {
        self.engine.submit(wait_for, limit)
    }

    /// Takes in what has ended; how much.
    pub(super) fn reap(&mut self) -> usize {
        let mut ended = std::mem::take(&mut self.ended);
        self.engine.reap(|token, result| ended.push((token, result)));
        let count = ended.len();
        for (token, result) in ended.drain(..) {
            match usize::try_from(token) {
                Ok(place) if place < DEPTH => self.moved(place, result),
                Ok(_) | Err(_) => self.synced(result.map(drop)),
            }
        }
        self.ended = ended;
        count
    }

    /// What moved has ended.
    fn moved(&mut self, place: usize, result: io::Result<u32>) {
        let Some(moving) = self.moving.get_mut(place).and_then(Option::take) else { return };
        self.free.push(place);
        let mut job = match moving {
            Moving::Job(job) => job,
            Moving::Unit(unit) => return self.landed(unit, result),
        };
        let result = match job.what {
            What::Read => match self.read(&mut job, result) {
                Ok(true) => Ok(()),
                Ok(false) => return self.move_job(job),
                Err(error) => Err(error),
            },
            What::WriteAtomic | What::WriteBatch | What::Write | What::Flush | What::SetLength => {
                whole(job.what, job.length(), result)
            }
        };
        self.unsynced |= job.is_write();
        let path = if job.what == What::WriteAtomic { self.path } else { AtomicPath::None };
        self.end(job, result.map(|()| path));
    }

    /// A unit is in its place, or torn there.
    fn landed(&mut self, unit: Landing, result: io::Result<u32>) {
        let length = usize::try_from(unit.range.end - unit.range.start).unwrap_or(usize::MAX);
        match whole(What::Write, length, result) {
            Ok(()) => {
                if let Some(journal) = &mut self.journal {
                    journal.ledger_mut().landed(unit.record);
                }
            }
            Err(error) => {
                let text = format!(
                    "the unit at byte {} could not be put in its place ({}); it is whole in the journal, and the \
                     next opening puts it there",
                    unit.range.start,
                    error.detail()
                );
                self.torn.push(unit.range);
                self.latch(error.kind(), text);
            }
        }
    }

    /// A read that ends short is whole where the file ends, or did when it was begun. False: that is not known, as a
    /// write beside it may have made the file longer since, so it is begun again.
    fn read(&self, job: &mut Job, result: io::Result<u32>) -> Result<bool> {
        let got = result.map_err(|error| kernel_error(job.what, &error))? as usize;
        let end = job.offset + got as u64;
        if got < job.length() && job.length_seen.is_none_or(|length| end < length) {
            let length = self.disk.len().map_err(|error| kernel_error(job.what, &error))?;
            if end < length {
                let is_first = job.length_seen.replace(length).is_none();
                return if is_first { Ok(false) } else { Err(short(got, job.length())) };
            }
        }
        if let Some(buffer) = &mut job.buffer {
            buffer.truncate(got);
        }
        Ok(true)
    }

    /// The data sync has ended.
    fn synced(&mut self, result: io::Result<()>) {
        let Some(Sync { until, flushes }) = self.sync.take() else { return };
        let result = result
            .map_err(|error| {
                let text = format!("the data sync failed: {}", io_text(&error));
                Error::new(ErrorKind::Io, text).with_source(error)
            })
            .and_then(|()| match (&mut self.journal, until) {
                (Some(journal), Some(until)) => journal.reclaim(until),
                (Some(_), None) | (None, _) => Ok(()),
            });
        let failure = result.err().map(|error| (error.kind(), error.detail().to_owned()));
        if let Some((kind, text)) = &failure {
            self.latch(
                *kind,
                format!("{text}; what was not durable may be gone: open the file again"),
            );
        }
        for job in flushes {
            let result = match &failure {
                None => Ok(self.path),
                Some((kind, text)) => Err(Error::new(*kind, text.clone())),
            };
            self.end(job, result);
        }
    }

    fn latch(&mut self, kind: ErrorKind, text: String) {
        tracing::warn!("{}: no more writes: {text}", self.name);
        self.latched.get_or_insert(Latch { kind, text });
    }

    fn end(&self, job: Job, result: Result<AtomicPath>) {
        let what = job.what.name();
        let place = job.pieces().next().map(|(offset, bytes)| (offset, bytes.len() as u64));
        let named = |error: Error| {
            let error = error.on(self.name.clone()).during(what);
            match place {
                Some((offset, length)) => error.at(offset, length),
                None => error,
            }
        };
        job.end(result.map_err(named), false);
    }

    /// Ends the session, all jobs having ended: everything durable, and the journal empty.
    ///
    /// # Errors
    /// What had failed before; the medium's.
    pub(super) fn close(&mut self) -> Result<()> {
        if let Some(Latch { kind, text }) = self.latched.clone() {
            return Err(Error::new(kind, text).on(self.name.clone()).during("close"));
        }
        let alive = self.journal.as_ref().is_some_and(|journal| !journal.ledger().is_empty());
        let named = |error: Error| error.on(self.name.clone()).during("close");
        if self.unsynced || alive {
            self.disk.sync_data().map_err(|error| {
                named(Error::new(ErrorKind::Io, io_text(&error)).with_source(error))
            })?;
        }
        if let Some(journal) = &mut self.journal {
            let until = journal.ledger().landed_until();
            journal.reclaim(until).map_err(named)?;
        }
        Ok(())
    }

    /// Ends all jobs with `why`: the engine cannot be emptied. What the kernel may still use is never freed.
    pub(super) fn abandon(self, why: &io::Error) {
        let Self { engine, waiting, moving, sync, name, .. } = self;
        std::mem::forget(engine);
        let flushes = sync.into_iter().flat_map(|sync| sync.flushes);
        let moving = moving.into_iter().flatten().filter_map(|moving| match moving {
            Moving::Job(job) => Some(job),
            Moving::Unit(unit) => {
                std::mem::forget(unit.room);
                None
            }
        });
        for mut job in waiting.into_iter().chain(moving).chain(flushes) {
            std::mem::forget(job.buffer.take());
            let text = format!("the kernel's ring failed ({why}); it may have been done");
            job.end(Err(Error::new(ErrorKind::Io, text).on(name.clone())), false);
        }
    }

    #[cfg(test)]
    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }
}

/// Whether two jobs have to be done one after the other.
fn conflict(one: &Job, other: &Job) -> bool {
    (one.is_write() || other.is_write()) && one.overlaps(other)
}

/// A write that is not whole has failed: it is never gone on with, as that would be splitting it.
pub(super) fn whole(what: What, length: usize, result: io::Result<u32>) -> Result<()> {
    let wrote = result.map_err(|error| kernel_error(what, &error))? as usize;
    if wrote == length { Ok(()) } else { Err(short(wrote, length)) }
}

fn short(got: usize, length: usize) -> Error {
    let text = format!("it ended after {got} of {length} bytes, and is not gone on with");
    Error::new(ErrorKind::Io, text)
}

/// What the kernel answers, with the kinds that its numbers mean here.
fn kernel_error(what: What, error: &io::Error) -> Error {
    let (kind, text) = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if what == What::WriteAtomic => (
            ErrorKind::Unsupported,
            "the kernel does not write this file untorn any more; open it again".to_owned(),
        ),
        Some(libc::EINVAL) => (
            ErrorKind::InvalidInput,
            "the kernel refuses this offset or length; ask the file's limits again".to_owned(),
        ),
        _ => (crate::queue::io_kind(error), io_text(error)),
    };
    let number = error.raw_os_error();
    let source = number.map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error);
    Error::new(kind, text).with_source(source)
}
