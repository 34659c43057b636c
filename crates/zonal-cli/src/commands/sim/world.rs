//! One history: a machine, the drive on it, the truth beside it, and one step after another.
//!
//! Nothing here asks the time, the system or another thread: what happens follows from the steps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use zonal::sim::{
    FaultPlan, IoKind, Outcome, PendingIo, SimCopy, SimDisk, SimHost, SimMode, SimRestore,
};
use zonal::{
    Buffer, CheckOptions, Completion, Device, ErrorKind, Flags, OpenOptions, Queue, QueueOptions,
    RepairOptions, Request, ZoneInfo,
};

use super::damage::damage;
use super::random::Random;
use super::script::{Call, Ending, Faults, How, Spot, Step, Want};
use super::shape::Shape;
use super::truth::{After, Held, Kept, Look, Noted, Truth, Violation, block_of, ensure, violation};

/// So many I/Os end while everything ends; more is without end.
const ENDS_MAX: usize = 20_000;

/// So often an opening is interrupted before it may end.
const INTERRUPTIONS_MAX: usize = 3;

/// How a history ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A promise was not kept.
    Violation(Violation),
    /// Requests are in flight, and nothing can go on.
    Stuck(String),
}

impl From<Violation> for Wrong {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

type Ran<T = ()> = Result<T, Wrong>;

fn stuck<T>(what: impl Into<String>) -> Ran<T> {
    Err(Wrong::Stuck(what.into()))
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What happened, and how often.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub(super) struct Counts { $($(#[$doc])* pub(super) $name: u64,)+ }

        impl Counts {
            /// Adds another's.
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counts! {
    histories,
    steps,
    requests,
    refused,
    /// Power cuts, and of them those while the drive was opened, closed or repaired.
    cuts,
    /// Kills, likewise.
    kills,
    /// Openings after a session that was not closed.
    recoveries,
    /// I/Os that failed, ended short, or could not be done.
    failures,
    /// Sessions in which a sync failed.
    read_only,
    copies,
    restores,
    repairs,
    /// Zones that settled: writes that ended well and were told so later, or were told that one below
    /// them failed.
    settlements,
    parked,
}

/// What a request was, to know its answer by.
enum Asked {
    Write(u64),
    Read(Look),
    Reset { zone: usize, asked: Option<u64> },
    Finish(usize),
    ResetAll,
    Other,
    Flush(Noted),
}

struct Waiting {
    asked: Asked,
    /// The zone it is about.
    zone: Option<usize>,
    /// The bytes lent with it.
    lent: Option<Vec<u8>>,
}

/// A copy, and what was true of it.
struct Copied {
    copy: SimCopy,
    truth: Truth,
    /// The boot in which its session was open; none if it was closed.
    open: Option<u64>,
}

pub(super) struct World<'a> {
    // Queues go before their device, and both when the power is off: see `drop`.
    queues: Vec<Queue>,
    device: Option<Device>,
    host: SimHost,
    disk: SimDisk,
    shape: &'a Shape,
    faults: Faults,
    truth: Truth,
    waiting: BTreeMap<u64, Waiting>,
    next_tag: u64,
    /// Queues whose last request was linked.
    links: BTreeSet<usize>,
    boot: u64,
    copies: Vec<Copied>,
    /// A sync has failed in this session.
    latched: bool,
    pub(super) counts: Counts,
    trace: Option<String>,
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        // Nothing that is pending is waited for.
        self.host.cut(&mut |_| 0);
        self.queues.clear();
        self.device = None;
    }
}

impl<'a> World<'a> {
    pub(super) fn new(shape: &'a Shape, faults: Faults, traced: bool) -> Ran<Self> {
        let host = SimHost::new(&shape.image, SimMode::Manual);
        let mut world = Self {
            queues: Vec::new(),
            device: None,
            disk: host.disk(),
            host,
            shape,
            faults,
            truth: Truth::new(&shape.geometry, &shape.full),
            waiting: BTreeMap::new(),
            next_tag: 1,
            links: BTreeSet::new(),
            boot: 1,
            copies: Vec::new(),
            latched: false,
            counts: Counts::default(),
            trace: traced.then(String::new),
        };
        world.counts.histories = 1;
        world.open(After::Kill, &mut Random::new(0))?;
        Ok(world)
    }

    pub(super) fn trace(&mut self) -> String {
        self.trace.take().unwrap_or_default()
    }

    pub(super) fn step(&mut self, step: &Step) -> Ran {
        self.counts.steps += 1;
        self.note(format_args!("{step:?}"));
        match step {
            Step::Submit { queue, wants } => self.submit(*queue, wants),
            Step::End { pick, how } => self.end(*pick, *how),
            Step::Drain => self.drain(),
            Step::Pause { milliseconds } => {
                self.pause(*milliseconds as u64);
                Ok(())
            }
            Step::Over { ending, seed } => self.over(*ending, &mut Random::new(*seed)),
            Step::Copy => {
                self.copy(Some(self.boot));
                Ok(())
            }
            Step::Restore { seed } => self.restore(&mut Random::new(*seed)),
            Step::Repair { seed } => self.repair(&mut Random::new(*seed)),
        }
    }

    /// After the steps: everything ends, and what there is then is there once more.
    pub(super) fn rest(&mut self) -> Ran {
        self.note(format_args!("rest"));
        self.drain()?;
        let random = &mut Random::new(1);
        self.close(random, false)?;
        self.check()
    }

    fn note(&mut self, what: fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            // A string takes whatever is written to it.
            let _ = writeln!(trace, "{what}");
        }
    }

    fn pause(&mut self, milliseconds: u64) {
        self.host.advance(Duration::from_millis(milliseconds));
    }

    // ---- requests -------------------------------------------------------------------------

    fn submit(&mut self, queue: usize, wants: &[Want]) -> Ran {
        let queue = queue % self.queues.len();
        for want in wants {
            // A link holds for the next push, whenever that comes.
            let linked = self.links.contains(&queue);
            self.links.remove(&queue);
            if self.ask(queue, *want, linked)? {
                self.links.insert(queue);
            }
        }
        self.pump()
    }

    /// Pushes a request; whether the next one waits for it.
    fn ask(&mut self, queue: usize, want: Want, follows: bool) -> Ran<bool> {
        let zone = want.zone % self.truth.zones();
        let number = u32::try_from(zone).unwrap_or(0);
        let alone = self.waiting.is_empty() && !follows;
        let conventional = self.truth.is_conventional(zone);
        let (request, waiting) = match want.call {
            Call::Append | Call::Ordered | Call::Write(_) => {
                let at = match want.call {
                    Call::Write(Spot::Block(at)) => {
                        Some(u32::try_from(at).unwrap_or(0) % self.truth.capacity(zone))
                    }
                    Call::Write(_) if conventional => Some(0),
                    // At the end of a zone that is full it is a write to the next one.
                    Call::Write(_) => Some(self.write_pointer(zone).min(self.truth.size(zone) - 1)),
                    _ => None,
                };
                self.ask_write(zone, at, want, follows)
            }
            Call::Read(at) => {
                // A linked read would begin when nobody knows.
                if follows {
                    return Ok(true);
                }
                self.ask_read(zone, at, want.blocks)
            }
            Call::Reset => {
                let asked = Some(self.truth.reset_asked(zone)).filter(|_| !follows);
                (Request::reset(number), about(Asked::Reset { zone, asked }, Some(zone)))
            }
            Call::Finish => {
                self.truth.finish_asked(zone);
                (Request::finish(number), about(Asked::Finish(zone), Some(zone)))
            }
            // When each of its zones is reset is known only where nothing else is under way.
            Call::ResetAll if alone => (Request::reset_all(), about(Asked::ResetAll, None)),
            Call::ResetAll => return Ok(follows),
            Call::Open => (Request::open(number), about(Asked::Other, Some(zone))),
            Call::Close => (Request::close(number), about(Asked::Other, Some(zone))),
            Call::Flush => {
                let noted = self.truth.noted();
                (Request::flush(), about(Asked::Flush(noted), None))
            }
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        let request = request.tag(tag);
        let is_read = matches!(waiting.asked, Asked::Read(_));
        let links = want.linked && !is_read && want.call != Call::ResetAll;
        let request = if links { request.linked() } else { request };
        match self.queues[queue].push(request) {
            Ok(()) => {
                self.counts.requests += 1;
                self.waiting.insert(tag, waiting);
                if want.call == Call::ResetAll {
                    self.pump()?;
                }
                Ok(links)
            }
            Err(back) => {
                let lent = waiting.lent.as_ref().map(Vec::len);
                let back = back.0.into_buffer().map(|buffer| buffer.len());
                ensure_ran(lent == back, "a request that is not taken keeps its buffer", "")?;
                match waiting.asked {
                    Asked::Write(record) => self.truth.withdrawn(record),
                    Asked::Reset { zone, .. } => self.truth.reset_ended(zone, None, false),
                    Asked::Finish(zone) => self.truth.finish_ended(zone, false),
                    Asked::Read(_) | Asked::ResetAll | Asked::Other | Asked::Flush(_) => {}
                }
                Ok(follows)
            }
        }
    }

    fn ask_write(
        &mut self,
        zone: usize,
        at: Option<u32>,
        want: Want,
        follows: bool,
    ) -> (Request, Waiting) {
        let number = u32::try_from(zone).unwrap_or(0);
        let most = self.truth.capacity(zone);
        let blocks = u32::try_from(want.blocks).unwrap_or(1).clamp(1, most);
        let record = self.truth.write(zone, at, blocks, want.durable, follows);
        let (life, size) = (self.truth.life(zone), self.shape.geometry.block_size);
        let bytes: Vec<u8> =
            (0..blocks).flat_map(|index| block_of(record, number, life, index, size)).collect();
        let data = Buffer::from_slice(&bytes);
        let request = match (want.call, at) {
            (_, Some(at)) => Request::write_at(self.truth.offset(zone, at), data),
            (Call::Ordered, None) => Request::append_ordered(number, data),
            (_, None) => Request::append(number, data),
        };
        let request = if want.durable { request.fua() } else { request };
        let asked = Asked::Write(record);
        (request, Waiting { asked, zone: Some(zone), lent: Some(bytes) })
    }

    fn ask_read(&mut self, zone: usize, at: usize, blocks: usize) -> (Request, Waiting) {
        let size = self.shape.geometry.block_size;
        let all = self.shape.geometry.size / u64::from(size);
        let start = self.truth.offset(zone, 0) / u64::from(size) + at as u64 % 16;
        let start = start.min(all - 1);
        let blocks = u32::try_from((4 * blocks as u64).min(all - start)).unwrap_or(1);
        let look = self.truth.look(start, blocks);
        let bytes = vec![0xa5; blocks as usize * size as usize];
        let request = Request::read_at(start * u64::from(size), Buffer::from_slice(&bytes));
        (request, Waiting { asked: Asked::Read(look), zone: None, lent: Some(bytes) })
    }

    /// In blocks.
    fn write_pointer(&self, zone: usize) -> u32 {
        let number = u32::try_from(zone).unwrap_or(0);
        let report = self.device.as_ref().and_then(|device| device.report(number..=number).ok());
        let wp = report.and_then(|report| {
            report.first().and_then(|info| Some(info.write_pointer? - info.start))
        });
        u32::try_from(wp.unwrap_or(0) / u64::from(self.shape.geometry.block_size)).unwrap_or(0)
    }

    /// Lets every queue do what it can, until there is nothing it can do.
    fn pump(&mut self) -> Ran {
        let mut quiet = 0;
        let mut rounds = 0;
        let mut pending = self.disk.pending().len();
        while quiet < 2 {
            rounds += 1;
            if rounds > ENDS_MAX {
                return stuck("the queues go round without end");
            }
            let mut any = false;
            for queue in 0..self.queues.len() {
                if let Err(error) = self.queues[queue].submit() {
                    return violation("a queue can be submitted", error.to_string())
                        .map_err(Wrong::from);
                }
                while let Some(completion) = self.queues[queue].next_completion() {
                    any = true;
                    self.completed(completion)?;
                }
            }
            let now = self.disk.pending().len();
            quiet = if any || now != pending { 0 } else { quiet + 1 };
            pending = now;
        }
        let busy: BTreeSet<usize> = self.waiting.values().filter_map(|w| w.zone).collect();
        if let Some(device) = &self.device {
            let report = device.report(..).map_err(|error| Violation {
                promise: "a drive can be reported".to_owned(),
                seen: error.to_string(),
            })?;
            self.truth.reported(&report, &busy)?;
        }
        Ok(())
    }

    fn completed(&mut self, completion: Completion) -> Ran {
        let tag = completion.tag;
        if self.trace.is_some() {
            let result = completion.result.as_ref().map_err(|error| error.kind());
            let (flags, offset) = (completion.flags, completion.offset);
            self.note(format_args!("  {tag}: {result:?} at {offset} {flags:?}"));
        }
        let Some(Waiting { asked, lent, .. }) = self.waiting.remove(&tag) else {
            return Err(once(tag));
        };
        let back = completion.buffer.as_ref().map(|buffer| buffer.len());
        let same = back == lent.as_ref().map(Vec::len);
        ensure_ran(same, "a request's buffer comes back with it", format!("{tag}: {back:?}"))?;
        if let (Asked::Write(_), Some(buffer), Some(lent)) = (&asked, &completion.buffer, &lent) {
            ensure_ran(buffer[..] == lent[..], "a write leaves its buffer as it is", "")?;
        }
        self.counts.refused += u64::from(completion.flags.contains(Flags::REFUSED));
        self.counts.parked += u64::from(completion.flags.contains(Flags::PARKED));
        let well = completion.result.is_ok();
        let kind = completion.result.as_ref().err().map(zonal::Error::kind);
        let held = completion.flags.contains(Flags::HELD);
        self.counts.settlements += u64::from(held || kind == Some(ErrorKind::BehindFailedWrite));
        if kind == Some(ErrorKind::DeviceReadOnly) {
            self.latch();
        }
        match asked {
            Asked::Write(record) => Ok(self.truth.written(record, &completion)?),
            Asked::Read(look) => match &completion.buffer {
                Some(buffer) if well => Ok(self.truth.read(&look, buffer)?),
                Some(_) | None => Ok(()),
            },
            Asked::Reset { zone, asked } => {
                self.truth.reset_ended(zone, asked, well);
                Ok(())
            }
            Asked::Finish(zone) => {
                self.truth.finish_ended(zone, well);
                Ok(())
            }
            Asked::ResetAll => self.all_reset(),
            Asked::Flush(noted) => {
                if well {
                    self.truth.flushed(&noted);
                }
                Ok(())
            }
            Asked::Other => Ok(()),
        }
    }

    /// Which zones a reset of all has emptied; nothing else was under way.
    fn all_reset(&mut self) -> Ran {
        for zone in 0..self.truth.zones() {
            if !self.truth.is_conventional(zone) && self.write_pointer(zone) == 0 {
                let asked = self.truth.reset_asked(zone);
                self.truth.reset_ended(zone, Some(asked), true);
            }
        }
        Ok(())
    }

    // ---- the disk -------------------------------------------------------------------------

    fn end(&mut self, pick: usize, how: How) -> Ran {
        let pending = self.disk.pending();
        if pending.is_empty() {
            return Ok(());
        }
        let io = pending[pick % pending.len()];
        self.end_one(&io, how)?;
        self.pump()
    }

    fn end_one(&mut self, io: &PendingIo, how: How) -> Ran {
        let outcome = self.outcome(io, how);
        self.counts.failures += u64::from(outcome != Outcome::Ok);
        // It need not be heard of: a write that waits for a sync has an error of its own.
        if is_durable(io.kind) && outcome != Outcome::Ok {
            self.latch();
        }
        self.note(format_args!("  {:?} {} +{}: {outcome:?}", io.kind, io.offset, io.len));
        let ended = self.disk.complete(io.id, outcome);
        ensure_ran(ended, "a pending I/O is there", format!("{io:?}"))
    }

    /// The drive takes no more writes in this session.
    fn latch(&mut self) {
        self.counts.read_only += u64::from(!self.latched);
        self.latched = true;
    }

    /// How an I/O ends, of the ways in which one of its kind can.
    fn outcome(&self, io: &PendingIo, how: How) -> Outcome {
        let sector = self.shape.sector();
        let length = usize::try_from(io.len).unwrap_or(usize::MAX);
        let part = |sectors: usize| (sectors * sector).min(length.saturating_sub(sector));
        if is_durable(io.kind) && !self.faults.has(Faults::SYNC) {
            return Outcome::Ok;
        }
        match (how, io.kind) {
            (How::Unsupported, IoKind::Zero) => Outcome::Fail(95),
            (How::Well | How::Unsupported, _) => Outcome::Ok,
            (How::Fails, _) | (How::FailsAfter(_), IoKind::Read | IoKind::SyncData) => {
                Outcome::Fail(5)
            }
            (How::FailsAfter(sectors), _) => Outcome::FailAfterPartial(part(sectors)),
            (How::Short(sectors), IoKind::Read | IoKind::Write) if part(sectors) > 0 => {
                Outcome::Short(part(sectors))
            }
            (How::Short(_), _) => Outcome::Ok,
            (How::NoSpace, IoKind::Write | IoKind::WriteDurable | IoKind::Zero) => {
                Outcome::Fail(28)
            }
            (How::NoSpace, IoKind::Read | IoKind::SyncData) => Outcome::Ok,
        }
    }

    fn well(&self) -> How {
        if self.zeroes_slowly() { How::Unsupported } else { How::Well }
    }

    /// Whether zeros have to be written.
    fn zeroes_slowly(&self) -> bool {
        self.shape.slow_zeroing && self.faults.has(Faults::ZEROING)
    }

    /// Everything ends, well.
    fn drain(&mut self) -> Ran {
        self.pump()?;
        for _ in 0..ENDS_MAX {
            let Some(io) = self.disk.pending().first().copied() else {
                if self.waiting.is_empty() {
                    return Ok(());
                }
                let tags: Vec<_> = self.waiting.iter().map(|(tag, w)| (tag, w.zone)).collect();
                return stuck(format!("no I/O is pending, and these wait (tag, zone): {tags:?}"));
            };
            self.end_one(&io, self.well())?;
            self.pump()?;
        }
        stuck("I/O without end")
    }

    /// The disk ends requests by itself.
    fn auto(&self, random: &mut Random, faults: FaultPlan) -> SimMode {
        let no_zeroing = self.zeroes_slowly();
        SimMode::Auto { seed: random.next(), faults: FaultPlan { no_zeroing, ..faults } }
    }

    // ---- the end of a session -------------------------------------------------------------

    fn over(&mut self, ending: Ending, random: &mut Random) -> Ran {
        match ending {
            Ending::Cut => {
                self.cut(random);
                self.open(After::Cut, random)
            }
            Ending::Kill => {
                self.kill(random);
                self.open(After::Kill, random)
            }
            Ending::Leave => {
                self.leave(random);
                self.open(After::Kill, random)
            }
            Ending::Close => self.close(random, true),
        }
    }

    /// Nothing is heard any more of what is under way.
    fn forget(&mut self) {
        self.waiting.clear();
        self.queues.clear();
        self.links.clear();
        self.device = None;
        self.disk = self.host.disk();
        self.latched = false;
    }

    fn cut(&mut self, random: &mut Random) {
        self.counts.cuts += 1;
        // All old, all new, or any of them.
        let mood = random.below(4);
        self.host.cut(&mut |options| match mood {
            0 => 0,
            1 => options - 1,
            _ => random.below(options),
        });
        self.boot += 1;
        self.note(format_args!("  the power went"));
        self.forget();
    }

    fn kill(&mut self, random: &mut Random) {
        self.counts.kills += 1;
        let sector = self.shape.sector();
        self.host.kill(&mut |pending| {
            let which = random.below(pending.len());
            let length = usize::try_from(pending[which].len).unwrap_or(0);
            let part = (1 + random.below(3)) * sector;
            let outcome = match random.below(4) {
                0 if pending[which].kind != IoKind::SyncData => Outcome::Fail(5),
                1 => Outcome::FailAfterPartial(part.min(length)),
                _ => Outcome::Ok,
            };
            (which, if pending[which].kind == IoKind::SyncData { Outcome::Ok } else { outcome })
        });
        self.note(format_args!("  the process was killed"));
        self.forget();
    }

    /// Drops everything, as a program does that ends without a close.
    fn leave(&mut self, random: &mut Random) {
        self.disk.set_mode(self.auto(random, FaultPlan::default()));
        self.note(format_args!("  left without a close"));
        self.forget();
        self.disk.set_mode(SimMode::Manual);
    }

    /// Closes the drive; where that fails or is interrupted, the session ends otherwise.
    fn close(&mut self, random: &mut Random, rough: bool) -> Ran {
        if !rough || random.one_in(2) {
            self.drain()?;
        }
        let mut faults = FaultPlan::default();
        let mut stops = false;
        if rough {
            match random.below(6) {
                0 if self.faults.has(Faults::SYNC) => faults.fail_sync = Some(random.next() % 3),
                1 if self.faults.has(Faults::ERROR) => faults.fail_write = Some(random.next() % 4),
                2..=3 if self.faults.has(Faults::CUT) || self.faults.has(Faults::KILL) => {
                    stops = true;
                }
                _ => {}
            }
        }
        let failing = faults != FaultPlan::default();
        self.disk.set_mode(self.auto(random, faults));
        if stops {
            self.disk.stop_after(Some(random.next() % 8));
        }
        self.queues.clear();
        let unheard = !self.waiting.is_empty();
        let Some(device) = self.device.take() else { return Ok(()) };
        let closed = device.close();
        self.note(format_args!("  closed: {:?}", closed.as_ref().map_err(zonal::Error::kind)));
        let ended = stops && self.disk.has_stopped();
        if !ended {
            self.disk.stop_after(None);
        }
        if closed.is_ok() && !ended {
            if !unheard {
                self.truth.closed();
            }
            self.forget();
            self.disk.set_mode(SimMode::Manual);
            if self.faults.has(Faults::COPY) && random.one_in(6) {
                self.copy(None);
            }
            return self.open(After::Kill, random);
        }
        if closed.is_ok() && !unheard {
            self.truth.closed();
        }
        ensure_ran(
            closed.is_ok() || ended || failing || self.latched || unheard,
            "a drive in good order can be closed",
            format!("{:?}", closed.as_ref().err().map(ToString::to_string)),
        )?;
        if !ended {
            self.counts.failures += 1;
            self.forget();
            self.disk.set_mode(SimMode::Manual);
            return self.open(After::Kill, random);
        }
        let after = self.fallen(random);
        self.disk.set_mode(SimMode::Manual);
        self.open(after, random)
    }

    /// Nothing works any more: the power went, or the process was killed.
    fn fallen(&mut self, random: &mut Random) -> After {
        let cut = match (self.faults.has(Faults::CUT), self.faults.has(Faults::KILL)) {
            (true, true) => random.one_in(2),
            (cut, _) => cut,
        };
        if cut {
            self.cut(random);
            After::Cut
        } else {
            self.kill(random);
            After::Kill
        }
    }

    // ---- opening --------------------------------------------------------------------------

    fn options(&self) -> OpenOptions {
        OpenOptions { discard: self.shape.discard, ..OpenOptions::default() }
    }

    /// Opens the image, after interruptions; checks everything.
    fn open(&mut self, mut after: After, random: &mut Random) -> Ran {
        let interrupts = self.faults.has(Faults::CUT) || self.faults.has(Faults::KILL);
        for _ in 0..INTERRUPTIONS_MAX {
            if !interrupts || !random.one_in(3) {
                break;
            }
            self.disk.stop_after(Some(1 + random.next() % 24));
            let opened = self.host.open(&self.options());
            let well = opened.is_ok();
            // Some opening is done before that many calls: it is over all the same.
            self.device = opened.ok();
            self.note(format_args!("  opening interrupted: {well}"));
            if self.fallen(random) == After::Cut {
                after = After::Cut;
            }
        }
        if random.one_in(4) {
            self.pause(random.next() % 5000);
        }
        let device = self.host.open(&self.options()).map_err(|error| {
            let promise = match after {
                After::Cut => "an image opens after a power cut",
                After::Kill => "an image opens after a kill, and believes its live file",
            };
            Violation { promise: promise.to_owned(), seen: error.to_string() }
        })?;
        self.opened(device, after, random)
    }

    fn opened(&mut self, device: Device, after: After, random: &mut Random) -> Ran {
        let info = device.info();
        self.counts.recoveries += u64::from(info.session.as_deref() == Some("cut off"));
        if let Some(text) = &info.recovered {
            self.note(format_args!("  {text}"));
        }
        let report = self.look_at_all(&device, after)?;
        self.note(format_args!("  {:?}", report.iter().map(summary).collect::<Vec<_>>()));
        let options =
            QueueOptions { depth: self.shape.depth, buffer_bytes: 0, ..QueueOptions::default() };
        for _ in 0..self.shape.queues {
            let queue = device.queue(&options).map_err(|error| Violation {
                promise: "a drive has queues".to_owned(),
                seen: error.to_string(),
            })?;
            self.queues.push(queue);
        }
        self.device = Some(device);
        if random.one_in(8) { self.check() } else { Ok(()) }
    }

    /// Reads the whole drive, and brings it before the truth.
    fn look_at_all(&mut self, device: &Device, after: After) -> Ran<Vec<ZoneInfo>> {
        let wrong = |error: zonal::Error| Violation {
            promise: "a drive that was opened can be read".to_owned(),
            seen: error.to_string(),
        };
        let report = device.report(..).map_err(wrong)?;
        self.disk.set_mode(SimMode::Auto { seed: 1, faults: FaultPlan::default() });
        let options = QueueOptions { depth: 1, buffer_bytes: 0, ..QueueOptions::default() };
        let mut queue = device.queue(&options).map_err(wrong)?;
        let mut held = Vec::new();
        for info in &report {
            let size = self.shape.geometry.size_of(zonal::ZoneIndex(info.zone));
            let into = vec![0xa5; usize::try_from(size).unwrap_or(0)];
            let request = Request::read_at(info.start, Buffer::from_slice(&into));
            let taken = queue.push(request).is_ok();
            ensure_ran(taken, "an empty queue takes a request", "")?;
            queue.submit_and_wait(1).map_err(wrong)?;
            let Some(completion) = queue.next_completion() else { return Err(once(0)) };
            completion.result.map_err(wrong)?;
            let bytes = completion.buffer.map(|buffer| buffer.to_vec()).unwrap_or_default();
            held.push(bytes.chunks(self.shape.sector()).map(Held::of).collect());
        }
        drop(queue);
        self.disk.set_mode(SimMode::Manual);
        self.truth.reopened(after, &report, &held)?;
        Ok(report)
    }

    /// What a check finds: nothing that is an error.
    fn check(&mut self) -> Ran {
        self.disk.set_mode(SimMode::Auto { seed: 1, faults: FaultPlan::default() });
        let report = self.host.check(&CheckOptions { deep: true });
        self.disk.set_mode(SimMode::Manual);
        let promise = "a check finds no error";
        match report {
            Err(error) => violation(promise, error.to_string()).map_err(Wrong::from),
            Ok(report) => {
                let errors = report.errors();
                let texts: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
                ensure_ran(errors == 0, promise, texts.join("; "))
            }
        }
    }

    // ---- copies ---------------------------------------------------------------------------

    fn copy(&mut self, open: Option<u64>) {
        self.counts.copies += 1;
        if self.copies.len() == 2 {
            self.copies.remove(0);
        }
        let copy = self.host.copy();
        self.copies.push(Copied { copy, truth: self.truth.clone(), open });
    }

    /// Brings a copy back, in one of the ways in which people do, and opens it.
    fn restore(&mut self, random: &mut Random) -> Ran {
        // An old one, or one of this very session.
        if self.copies.is_empty() || random.one_in(2) {
            self.copy(Some(self.boot));
        }
        if random.one_in(3) {
            self.drain()?;
        }
        match random.below(3) {
            0 if self.faults.has(Faults::KILL) => self.kill(random),
            1 if self.faults.has(Faults::CUT) => self.cut(random),
            _ => self.leave(random),
        }
        self.counts.restores += 1;
        let copied = &self.copies[random.below(self.copies.len())];
        let how = random.of(&[SimRestore::Over, SimRestore::Renamed, SimRestore::Reused]);
        // Longer than a live file forgives.
        self.host.advance(Duration::from_millis(1100 + random.next() % 5000));
        self.host.restore(&copied.copy, how);
        match random.below(4) {
            0 => self.host.set_live(None),
            1 => self.host.set_live(copied.copy.live.as_ref()),
            _ => {}
        }
        self.truth = copied.truth.clone();
        let refused = copied.open == Some(self.boot);
        self.note(format_args!("  a copy came back, {how:?}, to be refused: {refused}"));
        self.forget();
        self.disk.set_mode(SimMode::Manual);
        let mut opened = self.host.open(&self.options());
        if refused {
            let kind = opened.as_ref().err().map(zonal::Error::kind);
            let promise = "a copy of a session that was cut off is not believed";
            let seen = format!("brought back {how:?}: {kind:?}");
            ensure_ran(kind == Some(ErrorKind::Unclean), promise, seen)?;
            drop(opened);
            let options = OpenOptions { drop_unflushed: true, ..self.options() };
            opened = self.host.open(&options);
        }
        let device = opened.map_err(|error| Violation {
            promise: "a copy opens, from its last flush on".to_owned(),
            seen: error.to_string(),
        })?;
        // Other copies are of sessions whose lives have gone on differently.
        self.opened(device, After::Cut, random)
    }

    // ---- repair ---------------------------------------------------------------------------

    fn repair(&mut self, random: &mut Random) -> Ran {
        self.close(random, false)?;
        // It is open again, and nothing has changed since.
        self.disk.set_mode(self.auto(random, FaultPlan::default()));
        self.queues.clear();
        let closed = self.device.take().map_or(Ok(()), Device::close);
        self.disk.set_mode(SimMode::Manual);
        ensure_ran(closed.is_ok(), "a drive in good order can be closed", format!("{closed:?}"))?;
        self.truth.closed();
        self.counts.repairs += 1;
        let mut copy = self.host.copy();
        for _ in 0..=random.below(3) {
            let what = damage(&mut copy.image, random);
            self.note(format_args!("  damaged: {what}"));
        }
        self.host.restore(&copy, SimRestore::Over);
        self.forget();
        let options = RepairOptions::default();
        for _ in 0..2 {
            if !self.faults.has(Faults::CUT) || random.one_in(2) {
                break;
            }
            self.disk.stop_after(Some(1 + random.next() % 30));
            let repaired = self.host.repair(&options, &mut Vec::new());
            self.note(format_args!("  repair interrupted: {}", repaired.is_ok()));
            self.cut(random);
        }
        let repaired = self.host.repair(&options, &mut Vec::new());
        let left = repaired.as_ref().map_or(usize::MAX, |report| report.left.errors());
        ensure_ran(
            left == 0,
            "a repair leaves no error of those it can mend",
            match &repaired {
                Ok(report) => format!("{:?}", report.left.findings),
                Err(error) => error.to_string(),
            },
        )?;
        let device = self.host.open(&self.options()).map_err(|error| Violation {
            promise: "an image that was repaired opens".to_owned(),
            seen: error.to_string(),
        })?;
        self.opened(device, After::Kill, random)
    }
}

/// Whether it makes something durable, so that the drive is in doubt where it fails.
fn is_durable(kind: IoKind) -> bool {
    match kind {
        IoKind::SyncData | IoKind::WriteDurable => true,
        IoKind::Read | IoKind::Write | IoKind::Zero => false,
    }
}

fn about(asked: Asked, zone: Option<usize>) -> Waiting {
    Waiting { asked, zone, lent: None }
}

fn summary(info: &ZoneInfo) -> (String, Option<u64>) {
    (info.state.to_string(), info.write_pointer.map(|wp| wp - info.start))
}

fn once(tag: u64) -> Wrong {
    Wrong::Violation(Violation {
        promise: "every request ends exactly once".to_owned(),
        seen: format!("request {tag}"),
    })
}

fn ensure_ran(holds: bool, promise: &str, seen: impl Into<String>) -> Ran {
    let kept = || -> Kept {
        ensure!(holds, promise, "{}", seen.into());
        Ok(())
    };
    Ok(kept()?)
}
