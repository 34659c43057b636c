//! One thread's way to a drive: push requests, submit them, take completions.
//!
//! ```text
//! push ─► pending ─ submit ─► rules ─► engine ─► reaped ─► acknowledged ─► completion
//!                              │                             │
//!                              └► parked at a gate           └► held until its zone settles
//! ```
//!
//! Invariants:
//! * a place in a zone is taken in the same call that hands the write to the kernel;
//! * each accepted request completes exactly once, with its buffer;
//! * the queue holds at most its depth of requests: pending, in flight, and completions not
//!   taken; so completions wait for room and are never dropped;
//! * an ordinary write or read allocates nothing and takes no lock.

mod chain;
mod cold;
mod lanes;
mod ordered;
mod park;
mod placed;
pub(crate) mod request;
mod slot;
mod task;

use crate::buffer::{Arena, Buffer};
use crate::device::Drive;
use crate::engine::{Engine, EngineOptions, Io, IoKind, polled};
use crate::faults::{errno, is_injected};
use crate::image::Piece;
use crate::mailbox::{Mailbox, Message};
use crate::nvme::Status;
use crate::sync::atomic::Ordering;
use crate::view::Sight;
use crate::zones::cells::DEPTH_MAX;
use crate::zones::{Conclusion, Counts, Finding, SlotId};
use chain::Chains;
use cold::Scene;
pub(crate) use cold::{is_unsupported, stalled};
use lanes::{Lanes, Pace};
pub(crate) use park::{LINGER, MANY};
use request::{Call, Completion, Flags, Full, Request};
use slot::{Slot, Slots, Stage};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub(crate) use task::is_task_io;
use task::{Desk, Tasks};
use tracing::Instrument;
use zonal_core::broken::{Rule, is_broken};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Barrier, Pass, Placement, Refusal, Verdict, Write, ZoneOp, ZoneState};

/// Entries of a completion queue: as many as the kernel makes at most.
const CQ_ENTRIES_MAX: u32 = 65536;

/// How often the deadline of waiting requests is looked at.
const DEADLINE_STEP: Duration = Duration::from_millis(50);

/// How a queue is made.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// Requests it holds at a time, 1 to [`DEPTH_MAX`](crate::DEPTH_MAX).
    pub depth: u32,
    /// Size in bytes of each of its registered buffers, of which there are `depth`; zero for
    /// none.
    pub buffer_bytes: usize,
    /// How long a request may wait for other queues before it fails as stalled; `None` waits. Looked
    /// at while [`Queue::submit_and_wait`] waits. A durable write that fails so while it waits for its flush is
    /// written, at the completion's offset: it is not flagged as refused, and the next flush makes it durable.
    pub deadline: Option<Duration>,
    /// Entries of the kernel's completion queue; `None` for twice the depth. Fewer than are in
    /// flight make the kernel keep some back, and lose none.
    pub cq_entries: Option<u32>,
    /// How many requests go to the kernel in one system call (fio's `iodepth_batch_submit`);
    /// `None` for all that are there. The kernel merges neighbours that come in one call: a batch
    /// as large as the depth becomes a single transfer, with nothing under way until it is done.
    pub batch: Option<u32>,
    /// Whether the kernel is told of the buffers (fio's `fixedbufs`), as far as it lets us lock memory;
    /// see [`Queue::fixed_buffer_bytes`].
    pub fixed_buffers: bool,
    /// Whether a thread of the kernel looks for requests (fio's `sqpoll_thread`), so that sending
    /// them needs no system call. It takes a processor as long as requests come. Only the ring has
    /// one: the threads engine, drives in memory and the simulated disk go on without.
    pub sqpoll: bool,
    /// Whether the device is asked for what it has ended (fio's `hipri`, the kernel's `IOPOLL`),
    /// instead of interrupting. While reads or writes are in flight a wait does not sleep: it takes a
    /// processor, and a system call for each time it asks. Completions say all that they say
    /// otherwise. [`Device::queue`](crate::Device::queue) fails as unsupported where the device cannot
    /// be asked, which one read finds out.
    pub hipri: bool,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            depth: 128,
            buffer_bytes: 64 << 10,
            deadline: None,
            cq_entries: None,
            batch: None,
            fixed_buffers: true,
            sqpoll: false,
            hipri: false,
        }
    }
}

/// One thread's queue to a drive.
///
/// A queue that has writes in flight and is not driven delays the others wherever they wait for
/// its zones: at a reset, a finish, a flush.
pub struct Queue {
    // The engine goes first: it waits for the kernel to let go of the buffers below it.
    engine: Option<Engine>,
    drive: Arc<Drive>,
    id: u32,
    depth: usize,
    deadline: Option<Duration>,
    batch: usize,
    /// I/O pushed since the kernel was last entered.
    unsent: usize,
    /// I/O for which the submission ring, which the kernel did not empty, had no room.
    backlog: VecDeque<Io>,
    arena: Option<Arena>,
    mailbox: Arc<Mailbox>,
    desk: Rc<Desk>,
    tasks: Tasks,
    slots: Slots,
    pending: VecDeque<Request>,
    chains: Chains,
    completed: VecDeque<Completion>,
    /// Writes to a device's zones; empty on other drives.
    lanes: Lanes,
    /// Slots whose write or read the engine has.
    issued: usize,
    /// Slots that wait for something other than the engine.
    waiting: usize,
    mail: Vec<Message>,
    /// Somebody wanted this thread to look about.
    nudged: bool,
    reaped: Vec<(u64, io::Result<u32>)>,
    finished: Vec<(u32, Result<()>)>,
    _one_thread: PhantomData<*const ()>,
}

impl Queue {
    pub(crate) fn new(drive: &Arc<Drive>, options: &QueueOptions) -> Result<Self> {
        let arena = match options.buffer_bytes {
            0 => None,
            bytes => Arena::new(options.depth.clamp(1, DEPTH_MAX), bytes)
                .map(Some)
                .map_err(|error| opening_failed(drive, error))?,
        };
        Self::make(drive, options, arena, false)
    }

    /// One of a thread of our own, with buffers that are there already. Its descriptor is not to
    /// be polled.
    pub(crate) fn private(
        drive: &Arc<Drive>,
        options: &QueueOptions,
        arena: Option<Arena>,
    ) -> Result<Self> {
        Self::make(drive, options, arena, true)
    }

    fn make(
        drive: &Arc<Drive>,
        options: &QueueOptions,
        arena: Option<Arena>,
        private: bool,
    ) -> Result<Self> {
        if options.depth == 0 || options.depth > DEPTH_MAX {
            let text = format!("a depth of {} is not between 1 and {DEPTH_MAX}", options.depth);
            return Err(Error::new(ErrorKind::InvalidInput, text).during("open a queue"));
        }
        let engine_options = EngineOptions {
            sq_entries: options.depth,
            cq_entries: options.cq_entries.unwrap_or(2 * options.depth).min(CQ_ENTRIES_MAX),
            register_buffers: options.fixed_buffers,
            sqpoll: options.sqpoll,
            private,
            hipri: options.hipri,
        };
        let mut engine = drive
            .engine(&engine_options, arena.as_ref())
            .map_err(|error| opening_failed(drive, error))?;
        if engine.is_none() && options.hipri {
            return Err(opening_failed(drive, polled::refused("the drive is in memory")));
        }
        let mailbox = Arc::new(Mailbox::new(engine.as_ref().map(Engine::notifier)));
        if let Some(Engine::Faulty(engine)) = &mut engine {
            engine.attach(drive, &mailbox);
        }
        let id = drive.zones.enlist(mailbox.clone(), options.depth)?;
        let registered = engine.as_ref().map_or(0, Engine::registered_bytes) as u64;
        drive.zones.counts.registered_bytes.fetch_add(registered, Ordering::Relaxed);
        let pace = Pace::of(drive, engine.as_ref());
        let depth = options.depth as usize;
        Ok(Self {
            engine,
            drive: drive.clone(),
            id,
            depth,
            deadline: options.deadline,
            // One as large as the depth is all that there can be, and goes when it is waited for.
            batch: options
                .batch
                .filter(|batch| *batch < options.depth)
                .map_or(usize::MAX, |batch| batch.max(1) as usize),
            unsent: 0,
            backlog: VecDeque::new(),
            arena,
            mailbox,
            desk: Rc::default(),
            tasks: Tasks::new(),
            slots: Slots::new(options.depth),
            pending: VecDeque::with_capacity(depth),
            chains: Chains::default(),
            completed: VecDeque::with_capacity(depth),
            lanes: Lanes::new(pace),
            issued: 0,
            waiting: 0,
            mail: Vec::with_capacity(depth),
            nudged: false,
            reaped: Vec::with_capacity(depth),
            finished: Vec::new(),
            _one_thread: PhantomData,
        })
    }

    /// Leases a registered buffer of `length` bytes; `None` when all are out, or none is so
    /// large. It goes back when it is dropped.
    #[must_use]
    pub fn buffer(&self, length: usize) -> Option<Buffer> {
        self.arena.as_ref()?.lease(length)
    }

    /// Queues a request; nothing is checked or sent before [`Queue::submit`].
    ///
    /// # Errors
    /// [`Full`] gives the request back when the queue holds as many as its depth.
    #[inline]
    pub fn push(&mut self, mut request: Request) -> Result<(), Full> {
        if self.in_flight() >= self.depth {
            return Err(Full(request));
        }
        self.chains.note(&mut request);
        self.pending.push_back(request);
        Ok(())
    }

    /// Requests accepted whose completions have not been taken.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len() + self.chains.waiting() + self.slots.used() + self.completed.len()
    }

    /// The next completion there is; makes no system call.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.completed.pop_front()
    }

    /// Submits everything pushed, and takes in what has ended. Returns how many completions can
    /// be taken.
    ///
    /// # Errors
    /// When the kernel's ring fails as a whole; single requests fail in their completions.
    pub fn submit(&mut self) -> Result<usize> {
        self.go()?;
        Ok(self.completed.len())
    }

    /// Submits everything pushed, and waits until `min` completions can be taken, or nothing is
    /// in flight any more.
    ///
    /// # Errors
    /// As [`Queue::submit`].
    pub fn submit_and_wait(&mut self, min: usize) -> Result<usize> {
        loop {
            self.advance();
            let missing = min.saturating_sub(self.completed.len());
            if missing == 0 || self.slots.used() == 0 {
                self.go()?;
                return Ok(self.completed.len());
            }
            self.wait(missing, None)?;
        }
    }

    /// What the zones are like, as [`Device::report`](crate::Device::report) says it.
    ///
    /// # Errors
    /// A range that is not on the drive.
    pub fn report(
        &self,
        zones: impl std::ops::RangeBounds<u32>,
    ) -> Result<Vec<crate::device::ZoneInfo>> {
        self.drive.report(zones)
    }

    /// System calls made so far by this queue's engine: over io_uring one or more for a batch, over
    /// threads one for each record and two for each sleep.
    #[must_use]
    pub fn system_calls(&self) -> u64 {
        self.engine.as_ref().map_or(0, Engine::syscalls)
    }

    /// Whether a request that is waited for at once ([`Queue::submit_and_wait`]) is a system call of the waiting
    /// thread, as in fio's `psync`: in a queue of depth 1 to files whose engine nobody named.
    #[must_use]
    pub fn makes_calls(&self) -> bool {
        self.engine.as_ref().is_some_and(Engine::makes_calls)
    }

    /// Whether the kernel knows this queue's buffers, or some of them, so that writes from them cost it less.
    #[must_use]
    pub fn has_fixed_buffers(&self) -> bool {
        self.fixed_buffer_bytes() > 0
    }

    /// How many bytes of this queue's buffers the kernel knows; the buffers that are leased first lie in
    /// them. Fewer than there are where this process may not lock as much memory: one queue takes a quarter of
    /// what it still may at most.
    #[must_use]
    pub fn fixed_buffer_bytes(&self) -> usize {
        self.engine.as_ref().map_or(0, Engine::registered_bytes)
    }

    /// Submits everything pushed, and makes [`Queue::poll_fd`] readable for whatever this queue
    /// has to hear of, until its next call. False: do not sleep, there is something to take in; or
    /// the device has to be asked ([`QueueOptions::hipri`]) for what it has in flight, which each call
    /// of [`Queue::submit`] does.
    ///
    /// # Errors
    /// As [`Queue::submit`].
    pub fn prepare_to_poll(&mut self) -> Result<bool> {
        self.submit()?;
        if !self.completed.is_empty() {
            return Ok(false);
        }
        let Some(engine) = &mut self.engine else { return Ok(false) };
        engine.prepare_to_poll().map_err(|error| ring_error(&self.drive.name, error))
    }

    /// A descriptor that polls readable when completions can be reaped, for loops that wait for
    /// more than this queue; none for memory drives. Call [`Queue::prepare_to_poll`] before each
    /// wait on it.
    #[must_use]
    pub fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        self.engine.as_ref().and_then(Engine::as_raw_fd)
    }

    /// Hashes what it and its drive's zones know, for [`crate::sim::hash_state`].
    pub(crate) fn hash_state(&self, hasher: &mut impl Hasher) {
        let zones = &self.drive.zones;
        self.slots.hash_state(|zone| zones.cells().load(zone).epoch(), hasher);
        let tag = |id: SlotId| if id.queue == self.id { self.slots.tag(id.slot) } else { u64::MAX };
        zones.hash_state(tag, hasher);
        // A task is what it works for, and what it waits for; several may work for a zone that
        // settles, or is made durable.
        let mut tasks: Vec<_> = self.tasks.iter().collect();
        tasks.sort_unstable_by_key(|(slot, _)| self.slots.tag(*slot));
        for (slot, waker) in tasks {
            (self.slots.tag(slot), self.desk.wait_of(waker)).hash(hasher);
            zones.hash_wait(waker, hasher);
        }
    }

    /// Everything that can be done without waiting.
    fn go(&mut self) -> Result<()> {
        self.advance();
        self.enter_engine(0, None)?;
        self.reap();
        self.advance();
        self.enter_engine(0, None)
    }

    /// Hands to the kernel what was pushed, and waits for `want` of its completions.
    #[inline]
    fn enter_engine(&mut self, want: usize, timeout: Option<Duration>) -> Result<()> {
        self.hand_over(want, timeout).map_err(|error| ring_error(&self.drive.name, error))
    }

    /// The one way into the kernel: before it the live file learns that the image changes now.
    #[inline]
    fn hand_over(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        if let Some(image) = self.drive.image()
            && (want > 0 || self.unsent > 0)
        {
            image.stamp(&self.drive.zones);
        }
        while let Some(io) = self.backlog.pop_front() {
            // SAFETY: as in `push_io`.
            if let Err(back) = unsafe { engine.push(io) } {
                self.backlog.push_front(back);
                engine.submit(0, None)?;
            }
        }
        engine.submit(want, timeout)?;
        self.unsent = 0;
        Ok(())
    }

    /// Runs rules and tasks until there is nothing more to run.
    #[inline]
    fn advance(&mut self) {
        loop {
            while let Some(mut request) = self.pending.pop_front() {
                match request.extra.take() {
                    None => self.start(request),
                    Some(extra) => self.start_extra(request, *extra),
                }
            }
            if !self.tasks.is_empty() || self.waiting > 0 || self.mailbox.has_any() {
                self.advance_rare();
            }
            if self.chains.waiting() == 0 || !self.advance_chains() {
                return;
            }
        }
    }

    #[cold]
    fn advance_rare(&mut self) {
        loop {
            self.give_orders();
            self.read_mail();
            self.take_finished();
            if !self.mailbox.has_any() && self.finished.is_empty() {
                self.give_orders();
                return;
            }
        }
    }

    /// Hands the I/O of tasks to the engine.
    fn give_orders(&mut self) {
        while let Some(io) = self.desk.next_io() {
            self.push_io(io);
        }
    }

    fn read_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.mailbox.take(&mut mail);
        for message in mail.drain(..) {
            match message {
                Message::Turn { slot } => self.turn(slot),
                Message::Verdict { slot, verdict, finding } => {
                    self.verdict(slot, verdict, finding);
                }
                Message::Poll { task } => self.tasks.poll(task),
                Message::Condemn { zone, condition } => self
                    .spawn(0, |scene| Box::pin(cold::condemn(scene, ZoneIndex(zone), condition))),
                Message::Nudge => self.nudged = true,
            }
        }
        self.mail = mail;
    }

    fn take_finished(&mut self) {
        let mut finished = std::mem::take(&mut self.finished);
        self.desk.take_finished(&mut finished);
        for (slot, result) in finished.drain(..) {
            self.finish_cold(slot, result);
        }
        self.finished = finished;
        for (zone, standing) in self.desk.take_heard() {
            self.heard(zone, standing);
        }
    }

    /// Waits for at least one thing to happen, or for `limit` to pass.
    fn wait(&mut self, missing: usize, limit: Option<Duration>) -> Result<()> {
        let step = (self.deadline.is_some() && self.waiting > 0).then_some(DEADLINE_STEP);
        let timeout = step.into_iter().chain(limit).min();
        if self.engine.is_some() {
            let rare = self.waiting > 0 || !self.tasks.is_empty();
            let want = if rare { 1 } else { missing.min(self.issued).max(1) };
            self.enter_engine(want, timeout)?;
            self.reap();
        } else {
            self.mailbox.wait(timeout);
        }
        if step.is_some() {
            self.expire();
        }
        Ok(())
    }

    fn reap(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let mut reaped = std::mem::take(&mut self.reaped);
        engine.reap(|token, result| reaped.push((token, result)));
        for (token, result) in reaped.drain(..) {
            if is_task_io(token) {
                self.desk.ended(token, result);
            } else {
                self.ended(token, result);
            }
        }
        self.reaped = reaped;
    }

    fn push_io(&mut self, mut io: Io) {
        // Behind all others also where the ring has room again: devices take writes in order.
        if !self.backlog.is_empty() {
            self.backlog.push_back(io);
            self.unsent += 1;
            return;
        }
        while let Some(engine) = &mut self.engine {
            // SAFETY: the buffer belongs to a slot or to the desk, which keep it until the engine
            // has given the token back; `Queue::drop` waits for that too.
            match unsafe { engine.push(io) } {
                Ok(()) => break,
                Err(back) => io = back,
            }
            // The submission ring is full: what it holds goes to the kernel first. An error of
            // the ring shows again at the next submit, with this one behind all others.
            self.unsent = self.unsent.max(1);
            if self.hand_over(0, None).is_err() {
                self.backlog.push_back(io);
                break;
            }
        }
        self.unsent += 1;
        if self.unsent >= self.batch {
            // Here too an error shows again, with the batch still in the ring.
            self.hand_over(0, None).unwrap_or_default();
        }
    }

    // ---- starting -------------------------------------------------------------------------

    #[inline]
    fn start(&mut self, request: Request) {
        let Request { tag, call, fua, extra } = request;
        let name = call.name();
        let number = self.slots.take(tag, name, fua);
        self.slots.get(number).extra = extra;
        match call {
            Call::Append { zone, data } => self.start_append(number, zone, data),
            Call::AppendAt { offset, data } => {
                let zone = self.drive.zones.geometry.zone_of(offset);
                self.start_append(number, zone.0, data);
            }
            Call::AppendOrdered { zone, data } => {
                let small = data.len() as u64 <= u64::from(self.drive.zones.geometry.max_append);
                let placement = if small { Placement::Append } else { Placement::Alone };
                self.slots.get(number).in_order = true;
                self.start_placed(number, zone, placement, data);
            }
            Call::WriteAt { offset, data } => self.start_write_at(number, offset, data),
            Call::ReadAt { offset, into } => self.start_read(number, offset, into),
            Call::Zone { op, zone } => self.start_operation(number, op, zone),
            Call::ResetAll => {
                self.start_on_drive(number, |scene| Box::pin(cold::reset_all(scene)));
            }
            Call::Flush => self.start_on_drive(number, |scene| Box::pin(cold::flush(scene))),
        }
    }

    fn start_append(&mut self, number: u32, zone: u32, data: Buffer) {
        let limit = self.drive.zones.geometry.max_append;
        if data.len() as u64 > u64::from(limit) {
            let length = data.len() as u64;
            let offset = self.zone_start(zone);
            let slot = self.slots.get(number);
            slot.give(data, ZoneIndex(zone), offset);
            let text = format!("the limit is {limit} bytes; split it, or use an ordered append");
            let error = Error::new(ErrorKind::AppendTooLarge, text).in_zone(zone);
            return self.refuse(number, error.at(offset, length));
        }
        self.start_placed(number, zone, Placement::Append, data);
    }

    fn zone_start(&self, zone: u32) -> u64 {
        let geometry = &self.drive.zones.geometry;
        if zone < self.drive.zones.count() {
            geometry.start_of(ZoneIndex(zone))
        } else {
            geometry.size
        }
    }

    fn start_placed(&mut self, number: u32, zone: u32, placement: Placement, data: Buffer) {
        let length = data.len() as u64;
        let offset = self.zone_start(zone);
        self.slots.get(number).give(data, ZoneIndex(zone), offset);
        match self.drive.blocks(zone, length) {
            Ok(length) => {
                let slot = self.slots.get(number);
                slot.write = Some(Write { placement, length });
                self.enter(number, Pass::None);
            }
            Err(error) => self.refuse(number, error.at(offset, length)),
        }
    }

    fn start_write_at(&mut self, number: u32, offset: u64, data: Buffer) {
        let length = data.len() as u64;
        let zone = self.drive.zones.geometry.zone_of(offset);
        self.slots.get(number).give(data, zone, offset);
        match self.drive.place(offset, length) {
            Ok(extent) if self.drive.zones.geometry.is_conventional(zone) => {
                self.write_conventional(number, extent);
            }
            Ok(extent) => {
                let placement = Placement::At(extent.start);
                self.slots.get(number).write = Some(Write { placement, length: extent.length() });
                self.enter(number, Pass::None);
            }
            Err(error) => self.refuse(number, error.at(offset, length)),
        }
    }

    /// A conventional zone has no write pointer, so no rule to run but its bounds.
    fn write_conventional(&mut self, number: u32, extent: Extent) {
        let zones = &self.drive.zones;
        let slot = self.slots.get(number);
        let (zone, state) = (slot.zone, zones.cells().load(slot.zone).state());
        let capacity = zones.geometry.capacity_blocks(zone);
        let left = Blocks(capacity.0.saturating_sub(extent.start.0));
        let refusal = match state {
            ZoneState::ReadOnly => Some(Refusal::ReadOnly),
            ZoneState::Offline => Some(Refusal::Offline),
            ZoneState::NotWp
            | ZoneState::Empty
            | ZoneState::ImplicitlyOpen
            | ZoneState::ExplicitlyOpen
            | ZoneState::Closed
            | ZoneState::Full => {
                (extent.length() > left).then_some(Refusal::BeyondCapacity { left })
            }
        };
        let latched = zones.is_latched().then(|| zones.latched_error());
        if let Some(error) = latched.or_else(|| refusal.map(Error::from)) {
            let error = error.in_zone(zone.0).at(slot.offset, slot.length());
            return self.refuse(number, error);
        }
        slot.extent = extent;
        slot.stage = Stage::Conventional;
        self.issue(number, IoKind::Write);
    }

    /// Brings a write before its zone's rules.
    #[inline]
    fn enter(&mut self, number: u32, pass: Pass) {
        let zones = &self.drive.zones;
        if zones.has_hurdles() {
            return self.enter_otherwise(number, pass);
        }
        let slot = self.slots.get(number);
        let Some(write) = slot.write else { return };
        let id = SlotId { queue: self.id, slot: number };
        match zones.enter(id, slot.zone, write, pass) {
            Ok(entered) => {
                slot.extent = Extent::new(entered.start, write.length);
                slot.epoch = entered.epoch;
                slot.offset = zones.offset_of(slot.zone, entered.start);
                slot.stage = Stage::InFlight;
                self.issue(number, IoKind::Write);
            }
            Err(barrier) => self.stopped(number, barrier, pass),
        }
    }

    #[cold]
    fn stopped(&mut self, number: u32, barrier: Barrier, pass: Pass) {
        let slot = self.slots.get(number);
        let zone = slot.zone;
        match (barrier, pass) {
            (Barrier::Refused(refusal), _) => {
                let length = slot.length();
                let offset = slot.offset;
                let error = self.drive.refused(zone, refusal);
                self.refuse(number, error.in_zone(zone.0).at(offset, length));
            }
            (Barrier::Wait(_) | Barrier::Needs(_), Pass::None) => {
                slot.stage = Stage::Parked;
                slot.since = self.deadline.map(|_| Instant::now());
                self.waiting += 1;
                if self.drive.zones.park(zone, self.id, number) {
                    self.look_again(number);
                } else {
                    self.waits(number);
                }
            }
            // Its turn comes again when its zone has drained or settled.
            (Barrier::Wait(_), Pass::Gate) => self.waits(number),
            // Its zone has to be made ready first; after that it is this slot's turn again.
            (Barrier::Needs(_), Pass::Gate) => self.make_ready(number),
        }
    }

    /// Makes the zone ready that a parked request waits for, or refuses the request when that was
    /// tried and failed.
    fn make_ready(&mut self, number: u32) {
        let slot = self.slots.get(number);
        let zone = slot.zone;
        let tried = slot.unready.take().and_then(|unready| unready.take());
        if let Some(Err(error)) = tried {
            let error = error.in_zone(zone.0).at(slot.offset, slot.length());
            return self.refuse(number, error);
        }
        let outcome = Rc::new(RefCell::new(None));
        slot.unready = Some(outcome.clone());
        self.waits(number);
        let mailbox = self.mailbox.clone();
        self.spawn(number, |scene| {
            Box::pin(async move {
                let made = cold::make_ready(&scene, zone).await;
                outcome.replace(Some(made));
                mailbox.post(Message::Turn { slot: number });
            })
        });
    }

    /// Notes that a parked request did not go on at once.
    fn waits(&mut self, number: u32) {
        let slot = self.slots.get(number);
        if !slot.flags.contains(Flags::PARKED) {
            slot.flags.insert(Flags::PARKED);
            Counts::add(&self.drive.zones.counts.parked);
        }
    }

    /// The parked request in `number` may look again, if it is still there and first.
    fn turn(&mut self, number: u32) {
        let slot = self.slots.get(number);
        // While its zone is made ready there is nothing new to see, and one task for that is enough.
        let waits = slot.stage == Stage::Parked && !slot.is_being_readied();
        if waits && self.drive.zones.holds(slot.zone, self.id, number) {
            self.look_again(number);
        }
    }

    /// Brings the parked request in `number`, which holds its zone's gate, before the rules. A
    /// write that has its zone to itself departs in [`Queue::release_gate`], the others here.
    fn look_again(&mut self, number: u32) {
        let slot = self.slots.get(number);
        let zone = slot.zone;
        let keeps = slot.write.is_some_and(|write| write.placement == Placement::Alone);
        slot.keeps_gate = keeps;
        self.enter(number, Pass::Gate);
        let slot = self.slots.get(number);
        if slot.stage == Stage::Parked {
            slot.keeps_gate = false;
            return;
        }
        self.waiting -= 1;
        if !keeps {
            self.drive.zones.depart(zone);
        }
    }

    /// Lets others into the zone that a write has had to itself.
    #[cold]
    fn release_gate(&mut self, number: u32) {
        let slot = self.slots.get(number);
        slot.keeps_gate = false;
        self.drive.zones.depart(slot.zone);
    }

    fn start_read(&mut self, number: u32, offset: u64, into: Buffer) {
        let length = into.len() as u64;
        let zone = self.drive.zones.geometry.zone_of(offset);
        let slot = self.slots.get(number);
        slot.give(into, zone, offset);
        match self.drive.look(offset, length, &mut slot.view) {
            Ok(sight) => {
                slot.stage = Stage::Reading;
                match sight {
                    Sight::Nothing => self.read_done(number, length),
                    Sight::Whole => self.issue(number, IoKind::Read),
                    Sight::Parts => self.read_parts(number),
                }
            }
            Err(error) => self.refuse(number, error.at(offset, length)),
        }
    }

    fn start_operation(&mut self, number: u32, op: ZoneOp, zone: u32) {
        let offset = self.zone_start(zone);
        let slot = self.slots.get(number);
        slot.zone = ZoneIndex(zone);
        slot.offset = offset;
        let drive = &self.drive;
        let fits =
            drive.zone(zone).and_then(|_| drive.writable()).and_then(|()| drive.supports(op));
        if let Err(error) = fits {
            return self.refuse(number, error.during(op.as_str()).in_zone(zone));
        }
        let zone = ZoneIndex(zone);
        self.start_cold(number, move |scene| {
            Box::pin(async move {
                let zones = scene.drive.zones.clone();
                let result = cold::operate(scene, zone, op).await;
                result.map_err(|error| cold::in_zone(&zones, zone, op, error))
            })
        });
    }

    /// Starts what is about no zone; the slot still has the place of an earlier request.
    fn start_on_drive(
        &mut self,
        number: u32,
        operation: impl FnOnce(Scene) -> std::pin::Pin<Box<dyn Future<Output = Result<()>>>>,
    ) {
        let slot = self.slots.get(number);
        (slot.zone, slot.offset) = (ZoneIndex(0), 0);
        self.start_cold(number, operation);
    }

    fn start_cold(
        &mut self,
        number: u32,
        operation: impl FnOnce(Scene) -> std::pin::Pin<Box<dyn Future<Output = Result<()>>>>,
    ) {
        if let Err(error) = self.drive.writable() {
            let name = self.slots.get(number).name;
            return self.refuse(number, error.during(name));
        }
        self.start_task(number, |task, begun| Stage::Cold { task, begun }, operation);
    }

    /// Starts the task that does a slot's operation, or the rest of it. `stage` is what the slot waits in
    /// for it.
    fn start_task(
        &mut self,
        number: u32,
        stage: impl FnOnce(u32, Rc<Cell<bool>>) -> Stage,
        operation: impl FnOnce(Scene) -> std::pin::Pin<Box<dyn Future<Output = Result<()>>>>,
    ) {
        let desk = self.desk.clone();
        let begun = Rc::new(Cell::new(false));
        let scene = Scene { drive: self.drive.clone(), desk: desk.clone(), begun: begun.clone() };
        let slot = self.slots.get(number);
        let span = tracing::debug_span!("operation", name = slot.name, zone = slot.zone.0);
        let operation = operation(scene).instrument(span);
        let operation = async move {
            let result = operation.await;
            desk.finish(number, result);
        };
        let task = self.tasks.add(&self.mailbox, number, Box::pin(operation));
        // The task may end in its first poll; by then the slot has to know it.
        let slot = self.slots.get(number);
        slot.since = self.deadline.map(|_| Instant::now());
        slot.stage = stage(task, begun);
        self.waiting += 1;
        self.tasks.poll(task);
    }

    /// Starts a task that works for a slot.
    fn spawn(
        &mut self,
        slot: u32,
        task: impl FnOnce(Scene) -> std::pin::Pin<Box<dyn Future<Output = ()>>>,
    ) {
        let scene =
            Scene { drive: self.drive.clone(), desk: self.desk.clone(), begun: Rc::default() };
        let number = self.tasks.add(&self.mailbox, slot, task(scene));
        self.tasks.poll(number);
    }

    /// Hands a part of a slot's read to the medium: so many bytes from where it has come to.
    fn issue_part(&mut self, number: u32, length: usize) {
        let length = length.min(self.drive.command_max());
        let slot = self.slots.get(number);
        let done = slot.transferred as usize;
        let offset = slot.offset + u64::from(slot.transferred);
        let Some(buffer) = &mut slot.buffer else { return };
        let fixed = self.arena.as_ref().is_some_and(|arena| buffer.is_of(arena));
        let ptr = buffer[done..].as_mut_ptr();
        #[allow(clippy::cast_possible_truncation)] // at most TRANSFER_MAX
        let asked = length as u32;
        slot.asked = asked;
        let token = u64::from(number);
        self.issued += 1;
        self.push_io(Io {
            kind: IoKind::Read,
            offset,
            ptr,
            len: length,
            fixed,
            token,
            zoned: None,
        });
    }

    /// Hands a slot's write or read, or the rest of it, to the medium.
    #[inline]
    fn issue(&mut self, number: u32, kind: IoKind) {
        let slot = self.slots.get(number);
        let done = slot.transferred as usize;
        let offset = slot.offset + u64::from(slot.transferred);
        let Some(buffer) = &mut slot.buffer else { return };
        match self.drive.mapping() {
            None if self.engine.is_some() => self.issue_command(number, kind),
            None => {
                let result = self.drive.copy_memory(kind, self.id, offset, buffer, &slot.view);
                self.ended(u64::from(number), Ok(result));
            }
            Some(mapping) => {
                let fixed = self.arena.as_ref().is_some_and(|arena| buffer.is_of(arena));
                let rest = &mut buffer[done..];
                let piece = mapping.locate(offset, rest.len() as u64);
                let Some(host) = piece.host else {
                    return self.issue_nowhere(number, kind, piece);
                };
                #[allow(clippy::cast_possible_truncation)] // at most `rest`, of TRANSFER_MAX
                let len = piece.length as u32;
                slot.asked = len;
                let io = Io {
                    kind,
                    offset: host,
                    ptr: rest.as_mut_ptr(),
                    len: len as usize,
                    fixed,
                    token: u64::from(number),
                    zoned: None,
                };
                self.issued += 1;
                self.push_io(io);
            }
        }
    }

    /// A part of a read that has no place in the file: zeros, and then what follows it.
    #[cold]
    fn issue_nowhere(&mut self, number: u32, kind: IoKind, mut piece: Piece) {
        // As if the medium had it: `ended` counts it off again.
        self.issued += 1;
        if kind != IoKind::Read {
            let error = io::Error::other("a write before its zone had its clusters");
            return self.ended(u64::from(number), Err(error));
        }
        loop {
            let slot = self.slots.get(number);
            let Some(buffer) = &mut slot.buffer else { return };
            let done = slot.transferred as usize;
            #[allow(clippy::cast_possible_truncation)] // at most what is left of the buffer
            let end = done + piece.length as usize;
            buffer[done..end].fill(0);
            #[allow(clippy::cast_possible_truncation)] // at most TRANSFER_MAX
            let transferred = end as u32;
            slot.transferred = transferred;
            if end == buffer.len() {
                return self.ended(u64::from(number), Ok(0));
            }
            let (offset, left) = (slot.offset + end as u64, (buffer.len() - end) as u64);
            let Some(image) = self.drive.image() else { return };
            piece = image.mapping().locate(offset, left);
            if piece.host.is_some() {
                self.issued -= 1;
                return self.issue(number, kind);
            }
        }
    }

    // ---- ending ---------------------------------------------------------------------------

    /// The medium is done with a slot's I/O, or a part of it.
    #[inline]
    fn ended(&mut self, token: u64, result: io::Result<u32>) {
        #[allow(clippy::cast_possible_truncation)] // tokens of slots are slot numbers
        let number = token as u32;
        if self.engine.is_some() {
            self.issued -= 1;
        }
        let slot = self.slots.get(number);
        let length = slot.length();
        match result {
            Ok(bytes) => {
                slot.transferred += bytes;
                let whole = u64::from(slot.transferred) >= length
                    || slot.ends_with_disk(bytes, &self.drive.zones);
                if !whole && bytes > 0 {
                    // Fewer than were asked for, and not just one piece of several.
                    if bytes < slot.asked {
                        Counts::add(&self.drive.zones.counts.short);
                    }
                    let kind = match slot.stage {
                        Stage::Reading => IoKind::Read,
                        Stage::ReadingParts => return self.read_parts(number),
                        _ => IoKind::Write,
                    };
                    return self.issue(number, kind);
                }
                match slot.stage {
                    _ if !whole => self.failed(number, io::ErrorKind::UnexpectedEof.into()),
                    Stage::Reading | Stage::ReadingParts => self.read_done(number, length),
                    Stage::InLane => self.ended_in_lane(number),
                    Stage::Conventional => self.acknowledged(number),
                    Stage::InFlight if slot.floor.is_some() => self.ended_placed(number),
                    Stage::InFlight => {
                        let leaving = slot.leaving(self.id, number);
                        let conclusion = self.drive.zones.acknowledge(&leaving);
                        self.conclude(number, conclusion);
                    }
                    Stage::Free
                    | Stage::Parked
                    | Stage::Held
                    | Stage::Syncing { .. }
                    | Stage::Cold { .. } => {}
                }
            }
            Err(error) => self.failed(number, error),
        }
    }

    #[cold]
    fn failed(&mut self, number: u32, error: io::Error) {
        let slot = self.slots.get(number);
        slot.error = Some(error);
        if slot.stage == Stage::InFlight {
            let leaving = slot.leaving(self.id, number);
            let conclusion = self.drive.zones.fail(&leaving);
            return self.conclude(number, conclusion);
        }
        if slot.stage == Stage::InLane {
            return self.failed_in_lane(number);
        }
        let error = slot.io_error(&self.drive);
        self.complete(number, Err(error));
    }

    #[inline]
    fn conclude(&mut self, number: u32, conclusion: Conclusion) {
        match conclusion {
            Conclusion::Acknowledged => self.acknowledged(number),
            Conclusion::Held => self.hold(number),
            Conclusion::Settle(settling) => {
                self.hold(number);
                self.spawn(number, |scene| Box::pin(cold::settle(scene, settling)));
            }
        }
    }

    #[cold]
    fn hold(&mut self, number: u32) {
        let slot = self.slots.get(number);
        slot.stage = Stage::Held;
        // A write that failed itself waits for the zone too, to be told.
        if slot.error.is_none() && !slot.behind {
            slot.flags.insert(Flags::HELD);
        }
        slot.since = self.deadline.map(|_| Instant::now());
        self.waiting += 1;
    }

    /// A held write learns what became of it.
    fn verdict(&mut self, number: u32, verdict: Verdict, finding: Option<Finding>) {
        let slot = self.slots.get(number);
        if slot.stage != Stage::Held {
            return;
        }
        self.waiting -= 1;
        let behind = std::mem::take(&mut slot.behind);
        let verdict = if behind { Verdict::Behind } else { verdict };
        match verdict {
            Verdict::Acknowledged => self.acknowledged(number),
            Verdict::Failed => {
                let error = match finding {
                    Some(finding) => self.device_error(number, finding),
                    None => slot.io_error(&self.drive),
                };
                self.complete(number, Err(error));
            }
            Verdict::Behind => {
                let text = "a write below it in its zone failed; go on from the write pointer";
                let error = Error::new(ErrorKind::BehindFailedWrite, text);
                let error = error.in_zone(slot.zone.0).at(slot.offset, slot.length());
                self.complete(number, Err(error));
            }
        }
    }

    /// A write is acknowledged; a durable one waits for a flush.
    #[inline]
    fn acknowledged(&mut self, number: u32) {
        let slot = self.slots.get(number);
        let length = slot.length();
        if slot.fua && self.engine.is_some() {
            if !self.drive.has_durable_commands() {
                return self.make_durable(number);
            }
            slot.flags.insert(Flags::DURABLE);
        }
        #[allow(clippy::cast_possible_truncation)] // a request's length fits, as it was checked
        self.complete(number, Ok(length as u32));
    }

    #[cold]
    fn make_durable(&mut self, number: u32) {
        let slot = self.slots.get(number);
        if slot.keeps_gate {
            self.release_gate(number);
        }
        self.start_task(
            number,
            |task, begun| Stage::Syncing { task, begun },
            |scene| Box::pin(cold::flush(scene)),
        );
    }

    /// A task has ended a slot's operation.
    fn finish_cold(&mut self, number: u32, result: Result<()>) {
        let slot = self.slots.get(number);
        self.waiting -= 1;
        match &slot.stage {
            Stage::Syncing { .. } => {
                let length = slot.length();
                if result.is_ok() && self.drive.outlives_its_handles() {
                    slot.flags.insert(Flags::DURABLE);
                }
                #[allow(clippy::cast_possible_truncation)] // as in `acknowledged`
                self.complete(number, result.map(|()| length as u32));
            }
            Stage::Cold { begun, .. } => {
                if result.is_err() && !begun.get() {
                    slot.flags.insert(Flags::REFUSED);
                }
                self.complete(number, result.map(|()| 0));
            }
            Stage::Free
            | Stage::Parked
            | Stage::InFlight
            | Stage::InLane
            | Stage::Reading
            | Stage::ReadingParts
            | Stage::Conventional
            | Stage::Held => self.waiting += 1,
        }
    }

    /// Blanks what a read must not show, and completes it.
    fn read_done(&mut self, number: u32, length: u64) {
        let slot = self.slots.get(number);
        if let Some(buffer) = &mut slot.buffer {
            slot.view.blank(&self.drive.zones, buffer);
        }
        #[allow(clippy::cast_possible_truncation)] // as in `acknowledged`
        self.complete(number, Ok(length as u32));
    }

    #[cold]
    fn refuse(&mut self, number: u32, error: Error) {
        let slot = self.slots.get(number);
        slot.flags.insert(Flags::REFUSED);
        let error = error.during(slot.name);
        self.complete(number, Err(error));
    }

    #[inline]
    fn complete(&mut self, number: u32, result: Result<u32>) {
        let Slot { tag, flags, offset, name, keeps_gate, .. } = *self.slots.get(number);
        if keeps_gate {
            self.release_gate(number);
        }
        let offset = if is_broken(Rule::OffsetOfItsRecord) {
            self.newest_offset(number, offset)
        } else {
            offset
        };
        let buffer = self.slots.get(number).buffer.take();
        let extra = self.slots.get(number).extra.take();
        self.slots.free(number);
        let result = match result {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(error.during(name).on(&*self.drive.name)),
        };
        if let Some(extra) = extra {
            self.end_extra(&extra, &result, offset);
        }
        self.completed.push_back(Completion { tag, result, flags, offset, buffer });
    }

    /// Where the newest write of a slot's zone is that is as long as the slot's.
    #[cold]
    fn newest_offset(&mut self, number: u32, offset: u64) -> u64 {
        let slot = self.slots.get(number);
        let (zone, length) = (slot.zone, slot.extent.length());
        if slot.stage != Stage::InFlight {
            return offset;
        }
        let wp = self.drive.zones.cells().load(zone).wp();
        self.drive.zones.offset_of(zone, Blocks(wp.0.saturating_sub(length.0)))
    }

    // ---- giving up ------------------------------------------------------------------------

    /// Ends requests that have waited past their deadline, where that can be done.
    fn expire(&mut self) {
        let Some(deadline) = self.deadline else { return };
        let late = self.slots.late(Instant::now(), deadline);
        for number in late {
            let slot = self.slots.get(number);
            let zone = slot.zone;
            match &slot.stage {
                Stage::Parked => {
                    self.drive.zones.withdraw(zone, self.id, number);
                    let error = self.stalled_in(zone);
                    self.waiting -= 1;
                    self.refuse(number, error);
                }
                Stage::Cold { task, begun } if !begun.get() => {
                    let task = *task;
                    let error = match slot.name {
                        "flush" => self.stalled_in_flush(),
                        _ => self.stalled_in(zone),
                    };
                    self.tasks.cancel(task);
                    self.waiting -= 1;
                    self.refuse(number, error);
                }
                // It is in its zone, and stays there: this is no refusal.
                Stage::Syncing { task, begun } if !begun.get() => {
                    let (task, offset, length) = (*task, slot.offset, slot.length());
                    let error = self.stalled_in_flush();
                    let text = format!("written, and not known to be durable: {}", error.detail());
                    let error = Error::new(ErrorKind::Stalled, text).in_zone(zone.0);
                    self.tasks.cancel(task);
                    self.waiting -= 1;
                    self.complete(number, Err(error.at(offset, length)));
                }
                Stage::Free
                | Stage::InFlight
                | Stage::InLane
                | Stage::Reading
                | Stage::ReadingParts
                | Stage::Conventional
                | Stage::Held
                | Stage::Syncing { .. }
                | Stage::Cold { .. } => {}
            }
        }
    }

    /// The error of who waits for a flush round: it may wait for writes of other queues, or another queue
    /// leads it and is not driven.
    fn stalled_in_flush(&self) -> Error {
        match self.drive.zones.waited_for() {
            Some(zone) => self.stalled_in(zone),
            None => cold::stalled("a flush that another queue leads; drive all queues"),
        }
    }

    fn stalled_in(&self, zone: ZoneIndex) -> Error {
        let owners = self.drive.zones.owners(zone);
        let text = match owners.as_slice() {
            [] => "its zone's gate".to_owned(),
            owners => format!("queues {owners:?}, which have writes in flight there; drive them"),
        };
        cold::stalled(&text).in_zone(zone.0)
    }
}

impl Queue {
    /// Leaves the drive with a ring that cannot be emptied. What the kernel still has may land at any time,
    /// in buffers as on the disk, and what tasks had begun is not known: so the memory is never freed, the image
    /// stays locked and takes no more writes, and what had a place in its zone has failed. Whoever waits
    /// elsewhere for any of it goes on, and finds the reason.
    #[cold]
    fn abandon(&mut self, error: &io::Error) {
        tracing::error!("{}: a queue's ring failed: {error}", self.drive.name);
        // First, as all that follows wakes others.
        self.drive.zones.latch("a queue's ring failed");
        for number in self.slots.in_flight() {
            if self.slots.get(number).keeps_gate {
                self.release_gate(number);
            }
            let leaving = self.slots.get(number).leaving(self.id, number);
            self.drive.zones.lose(&leaving);
        }
        self.tasks.clear();
        self.drive.zones.retire(self.id);
        let slots = std::mem::replace(&mut self.slots, Slots::new(0));
        std::mem::forget((self.engine.take(), slots, self.desk.clone(), self.drive.clone()));
    }
}

impl Drop for Queue {
    /// Gives back what is pushed or parked, waits for all I/O, lets tasks end that can, and
    /// leaves the drive. Completions that nobody took are dropped with their buffers.
    fn drop(&mut self) {
        let registered = self.fixed_buffer_bytes() as u64;
        self.drive.zones.counts.registered_bytes.fetch_sub(registered, Ordering::Relaxed);
        self.pending.clear();
        self.chains.clear();
        for number in self.slots.parked() {
            let zone = self.slots.get(number).zone;
            self.drive.zones.withdraw(zone, self.id, number);
            self.waiting -= 1;
            self.slots.free(number);
        }
        loop {
            self.advance_rare();
            self.completed.clear();
            let idle = self.engine.as_ref().is_none_or(|engine| engine.in_flight() == 0);
            let still = self.backlog.is_empty() && self.lanes.is_empty();
            if idle && still && !self.desk.is_calling() {
                break;
            }
            if let Err(error) = self.hand_over(1, None) {
                return self.abandon(&error);
            }
            self.reap();
        }
        self.tasks.clear();
        self.drive.zones.retire(self.id);
    }
}

fn opening_failed(drive: &Drive, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        _ => io_kind(&error),
    };
    Error::new(kind, "opening a queue").with_source(error).on(&*drive.name)
}

fn ring_error(drive: &str, error: io::Error) -> Error {
    let text = "the kernel's ring failed; submit again, or drop the queue: what it has in flight then counts \
                as failed, and the drive takes no more writes";
    Error::new(io_kind(&error), text).on(drive).during("submit").with_source(error)
}

pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    if let Some(status) = Status::of(error) {
        return status.kind();
    }
    match errno(error) {
        Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
        Some(libc::EROFS) => ErrorKind::DeviceReadOnly,
        _ => ErrorKind::Io,
    }
}

/// What the system says and, where that can be known, what to do next.
pub(crate) fn io_text(error: &io::Error) -> String {
    if is_injected(error) {
        return error.to_string();
    }
    let next = match error.raw_os_error() {
        Some(libc::ENOSPC) => "free some of it",
        Some(libc::EDQUOT) => "free some of what your quota counts",
        Some(libc::EFBIG) => {
            "raise this process's limit on files (ulimit -f), or use a file system with larger ones"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {next}")
}
