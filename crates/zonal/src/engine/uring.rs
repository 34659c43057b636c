//! The engine over files and devices: one io_uring of the calling thread.
//!
//! Requests go from [`push`](Uring::push) into the submission ring, and to the kernel with one
//! `io_uring_enter` that also waits. Completions are moved from the kernel's ring into `stash`
//! after each wait, and from there to the caller of [`reap`](Uring::reap).
//!
//! Invariants:
//! * A request is held, in the submission ring, in the kernel, or in the stash; `in_flight` counts
//!   them all. None is dropped: what the kernel did not take stays in the ring, and completions
//!   that found no room are fetched from the kernel when it says it keeps some.
//! * In a ring for one request over a file whose engine nobody named, that request is held back until it is
//!   known whether it is waited for at once: then it is a call of this thread ([`Call`]), which wakes nobody.
//! * Waking is a poll request on an eventfd, in the same ring. It is no request of the caller's:
//!   never counted, never reported. It is issued before the first wait that somebody could end.
//! * Where a thread of the kernel takes requests by itself, they are staged until the next
//!   submission: nothing goes out before the caller of [`submit`](Uring::submit) says so.
//! * The ring is dropped before the file and the arena it knows.
//!
//! What the ring talks to ([`Below`]) says in which entries, and what they mean: a file or several ([`Files`],
//! here), or an NVMe namespace ([`super::nvme`]).
//!
//! A ring made with `hipri` belongs to [`Polled`](super::polled::Polled), which gives it nothing but
//! what can be asked for ([`Below::is_polled`]), and asks it by [`ask`](Uring::ask). Nobody notifies it.
//!
//! All `unsafe` of the engine is here and in [`Call`]. Its ground is the promise given to `push`: the bytes of a
//! request stay valid until its token is reaped; [`Drop`] waits for what was not.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::EntryMarker as _;
use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};

use super::call::Call;
use super::file::FileDisk;
use super::spread::Spread;
use super::wake::Wake;
use super::{EngineOptions, Io, IoKind, Zoned};
use crate::buffer::{Arena, Buffer};
use crate::sys::DIRECT_ALIGNMENT;
use crate::sys::limits::{lockable_bytes, locked_share, whole_pages};

/// The token of the poll request on the eventfd.
const WAKE: u64 = u64::MAX;

/// The file's place among the ring's registered files, and the arena's among its buffers.
pub(super) const REGISTERED: u32 = 0;

/// The most bytes the kernel reads or writes at once (its `MAX_RW_COUNT` for 4 KiB pages).
const MAX_RW_BYTES: usize = 0x7FFF_F000;

/// The most bytes the kernel takes as one registered buffer.
const MAX_FIXED_BYTES: usize = 1 << 30;

/// How often a ring that there is no memory for is tried again, after [`RETRY_PAUSE`]: what a ring that was
/// dropped had locked the kernel gives back a little later.
const SETUP_RETRIES: u32 = 20;

/// How long a wait for several completions may sleep through a notification: the first time, and
/// at most, four times as long each time in between. The kernel counts the wake as one
/// completion, so a wait for more has to look again by itself. Far longer than a batch takes on a
/// fast device, so that it is one system call; a slow one takes a few, not one a completion.
const NOTIFY_SLICE: Duration = Duration::from_micros(500);
const NOTIFY_SLICE_MAX: Duration = Duration::from_millis(8);

/// The longest time one wait is asked of the kernel for; longer ones are asked again.
const WAIT_SLICE: Duration = Duration::from_secs(3600);

/// How long the kernel's thread looks for requests before it sleeps, in milliseconds: far longer
/// than from one batch to the next, far shorter than anybody would notice.
const SQPOLL_IDLE_MS: u32 = 50;

/// How often a submission that the kernel has no memory for is tried again, and after which time.
const RETRIES: u32 = 1000;
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// What a ring talks to.
pub(crate) trait Below: fmt::Debug + AsRawFd {
    /// What a request is put into.
    type Entry: squeue::EntryMarker;
    /// What the kernel answers in.
    type Completion: cqueue::EntryMarker;
    /// The requests that the kernel has to know for it, and what they are called.
    const NEEDED: &'static [(u8, &'static str)];

    /// A file that the ring keeps open besides its own, to which no request goes by its place.
    fn also_kept(&self) -> Option<RawFd> {
        None
    }

    /// Whether the device is asked for the end of such a request, where it can be; it interrupts for
    /// all others.
    fn is_polled(io: &Io) -> bool;

    /// A request's entry, for the ring's first registered file; `known`: its bytes lie in the registered
    /// buffer.
    fn entry(&mut self, io: &Io, known: bool) -> Self::Entry;

    /// The file, where a request may be a call of the calling thread instead of the ring's.
    fn called(&self) -> Option<&FileDisk> {
        None
    }

    /// Keeps what a completion says besides its result.
    fn note(&mut self, completion: &Self::Completion);

    /// What a result means: how many bytes, or the error.
    fn result(&self, token: u64, result: i32) -> io::Result<u32>;
}

/// One thread's ring over one file or namespace.
pub(crate) struct Uring<B: Below = FileDisk> {
    // First, so that it is dropped first: the kernel lets go of the file and the arena with it.
    ring: IoUring<B::Entry, B::Completion>,
    below: B,
    arena: Option<Arena>,
    /// How many bytes at the arena's start the kernel knows.
    registered: usize,
    /// The address at which these end; none is below it where there are none.
    known_end: usize,
    stash: VecDeque<(u64, i32)>,
    /// What was pushed since the last submission, where the kernel takes it by itself.
    staged: VecDeque<B::Entry>,
    sqpoll: bool,
    /// The file, where a request that is waited for alone is a call of this thread.
    called: Option<FileDisk>,
    /// The only request in flight, where it may become one.
    held: Option<Io>,
    in_flight: usize,
    wake: Arc<Wake>,
    wake_armed: bool,
    /// [`prepare_to_poll`](Self::prepare_to_poll) was called, and nothing since.
    polled: bool,
    syscalls: u64,
    /// The kernel expects all submissions of a ring from one thread.
    not_send: PhantomData<*const ()>,
}

impl Uring {
    /// A ring over a file, for the calling thread.
    pub(super) fn new(
        file: &FileDisk,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Self> {
        Self::over(file.clone(), options, arena)
    }
}

impl<B: Below> Uring<B> {
    /// A ring for the calling thread.
    pub(super) fn over(
        below: B,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Self> {
        let ring = set_up::<B>(options)?;
        check_support::<B>(&ring)?;
        let files: Vec<RawFd> =
            std::iter::once(below.as_raw_fd()).chain(below.also_kept()).collect();
        ring.submitter().register_files(&files)?;
        let arena = arena.filter(|_| options.register_buffers).cloned();
        let registered = arena.as_ref().map_or(0, |arena| register(&ring, arena));
        let known_end = arena.as_ref().map_or(0, |arena| arena.range().0.addr().get() + registered);
        let entries = ring.params().sq_entries() + ring.params().cq_entries();
        // What is asked for, or taken by a thread of the kernel, is not waited for in a call.
        let makes_calls = options.sq_entries == 1 && !options.sqpoll && !options.hipri;
        let called = below.called().filter(|_| makes_calls).cloned();
        Ok(Self {
            ring,
            below,
            arena,
            registered,
            known_end,
            stash: VecDeque::with_capacity(entries as usize),
            staged: VecDeque::with_capacity(if options.sqpoll { entries as usize } else { 0 }),
            sqpoll: options.sqpoll,
            called,
            held: None,
            in_flight: 0,
            wake: Arc::new(Wake::new()?),
            wake_armed: false,
            polled: false,
            syscalls: 0,
            not_send: PhantomData,
        })
    }

    /// # Safety
    /// As [`Engine::push`](super::Engine::push).
    pub(super) unsafe fn push(&mut self, io: Io) -> Result<(), Io> {
        if self.called.is_some() {
            self.let_go();
            if self.in_flight == 0 {
                (self.held, self.in_flight) = (Some(io), 1);
                return Ok(());
            }
        }
        // SAFETY: the caller's promise, handed on.
        unsafe { self.push_request(io) }
    }

    /// # Safety
    /// As [`Engine::push`](super::Engine::push).
    #[inline]
    unsafe fn push_request(&mut self, io: Io) -> Result<(), Io> {
        let known = self.is_known(&io);
        let mut entry = self.below.entry(&io, known);
        entry.set_user_data(io.token);
        // SAFETY: the caller's promise, handed on.
        unsafe { self.push_entry(entry, io) }
    }

    /// # Safety
    /// As [`Engine::push`](super::Engine::push), of the request that `entry` is made from.
    #[inline]
    unsafe fn push_entry(&mut self, entry: B::Entry, io: Io) -> Result<(), Io> {
        if self.sqpoll {
            if self.staged.len() >= self.ring.params().sq_entries() as usize {
                return Err(io);
            }
            self.staged.push_back(entry);
            self.in_flight += 1;
            return Ok(());
        }
        // SAFETY: the bytes are valid until the completion is reaped (the caller's promise), and
        // file and arena are registered for the ring's life.
        match unsafe { self.ring.submission().push(&entry) } {
            Ok(()) => {
                self.in_flight += 1;
                Ok(())
            }
            Err(_) => Err(io),
        }
    }

    /// Puts what is held into the submission ring; false: that is full.
    fn let_go(&mut self) -> bool {
        let Some(io) = self.held.take() else { return true };
        self.in_flight -= 1;
        // SAFETY: `push` was promised that the bytes are valid until the token is reaped.
        match unsafe { self.push_request(io) } {
            Ok(()) => true,
            Err(io) => {
                (self.held, self.in_flight) = (Some(io), self.in_flight + 1);
                false
            }
        }
    }

    /// Makes the call for the request that is held; false: there is none.
    fn call(&mut self) -> bool {
        let (Some(file), Some(io)) = (&self.called, self.held.take()) else { return false };
        // SAFETY: `push` was promised that the bytes are valid until the token is reaped, which is after this.
        let result = unsafe { Call::of(&io, false) }.make(file);
        let number = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO).saturating_neg();
        let result = result.map_or_else(number, |done| i32::try_from(done).unwrap_or(i32::MAX));
        self.syscalls += 1;
        self.stash.push_back((io.token, result));
        true
    }

    /// Whether the kernel knows these bytes: of a part of the arena, in which those that are `fixed` lie, it
    /// does not.
    fn is_known(&self, io: &Io) -> bool {
        io.fixed && io.ptr.addr() + io.len <= self.known_end
    }

    pub(super) fn submit(&mut self, wait_for: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.end_poll();
        if wait_for == 0 {
            return self.flush();
        }
        if timeout.is_none() && self.call() {
            return Ok(());
        }
        if self.sqpoll {
            self.release()?;
        } else if !self.let_go() {
            self.flush()?;
        }
        self.drain();
        let target = wait_for.min(self.in_flight).max(1);
        if self.stash.len() >= target {
            return self.flush();
        }
        let notifiable = Arc::strong_count(&self.wake) > 1;
        if !notifiable {
            let for_ever = self.in_flight == 0 && timeout.is_none();
            return if for_ever { Ok(()) } else { self.wait(target, timeout, false) };
        }
        self.arm_wake()?;
        if !self.wake.begin_wait() {
            return self.flush();
        }
        let result = self.wait(target, timeout, true);
        self.wake.end_wait();
        result
    }

    /// Submits and sleeps until `target` completions are stashed, the time is up, or (if
    /// `notifiable`, with the wake armed) a notification came.
    fn wait(
        &mut self,
        target: usize,
        timeout: Option<Duration>,
        notifiable: bool,
    ) -> io::Result<()> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut look_again = NOTIFY_SLICE;
        loop {
            let missing = target - self.stash.len();
            let slice = (notifiable && missing > 1).then_some(look_again);
            look_again = NOTIFY_SLICE_MAX.min(4 * look_again);
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            self.enter_with_retries(missing, shorter(slice, left))?;
            self.drain();
            let ended = self.stash.len() >= target
                || (notifiable && self.wake.was_notified())
                || deadline.is_some_and(|at| at <= Instant::now());
            if ended {
                return self.flush();
            }
            if notifiable {
                self.arm_wake()?;
            }
        }
    }

    /// Hands everything in the submission ring to the kernel, without waiting. No system call if
    /// there is nothing to hand over or to fetch.
    fn flush(&mut self) -> io::Result<()> {
        if self.sqpoll {
            return self.release();
        }
        loop {
            let has_let_go = self.let_go();
            let queue = self.ring.submission();
            let idle = queue.is_empty() && !queue.cq_overflow() && !queue.taskrun();
            drop(queue);
            if idle {
                return Ok(());
            }
            self.enter_with_retries(0, None)?;
            if self.ring.submission().is_empty() && has_let_go {
                return Ok(());
            }
            self.drain();
        }
    }

    /// Of a ring made with `hipri`: hands everything to the kernel, and asks the device, once and
    /// without waiting, what it has ended. No system call if it has nothing, or if the kernel's
    /// thread asks.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        if self.sqpoll {
            self.release()?;
        } else if self.awaited() > 0 {
            self.enter_with_retries(0, None)?;
            while !self.ring.submission().is_empty() {
                self.drain();
                self.enter_with_retries(0, None)?;
            }
        }
        self.drain();
        Ok(())
    }

    /// Of a ring made with `hipri`: reads the file's first block, to see whether that can be.
    pub(super) fn try_reading(&mut self) -> io::Result<()> {
        self.try_once(Buffer::unpooled(DIRECT_ALIGNMENT), false, None)
    }

    /// Fills a buffer, of the arena if it is `fixed`, with data or with what `zoned` asks for, with
    /// nothing else in flight.
    pub(super) fn try_once(
        &mut self,
        mut block: Buffer,
        fixed: bool,
        zoned: Option<Zoned>,
    ) -> io::Result<()> {
        let (ptr, len) = (block.as_mut_ptr(), block.len());
        let io = Io { kind: IoKind::Read, offset: 0, ptr, len, fixed, token: 0, zoned };
        // SAFETY: the block lives until the token is reaped; where it cannot be, for ever.
        if unsafe { self.push(io) }.is_err() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut result = Ok(0);
        while self.in_flight > 0 {
            if let Err(error) = self.submit(1, None) {
                std::mem::forget(block);
                return Err(error);
            }
            self.reap(|_, read| result = read);
        }
        self.syscalls = 0;
        result.map(|_| ())
    }

    /// Hands everything to the kernel and takes in what has ended, without waiting.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.flush()?;
        self.drain();
        Ok(())
    }

    /// What it talks to.
    pub(super) fn below(&self) -> &B {
        &self.below
    }

    /// How many requests have ended and not been reaped, as far as is known.
    pub(super) fn ended(&self) -> usize {
        self.stash.len()
    }

    /// How many requests have not ended, as far as is known.
    pub(super) fn awaited(&self) -> usize {
        self.in_flight - self.stash.len()
    }

    /// As if a device were very slow with so many more requests, or no longer.
    #[cfg(test)]
    pub(super) fn pretend_in_flight(&mut self, more: isize) {
        self.in_flight = self.in_flight.strict_add_signed(more);
    }

    /// Whether a notification came that no wait has seen. It is consumed.
    pub(super) fn take_notification(&self) -> bool {
        self.wake.take_notification()
    }

    /// Lets the kernel's thread see what is staged, and wakes it if it sleeps.
    fn release(&mut self) -> io::Result<()> {
        loop {
            let mut queue = self.ring.submission();
            while let Some(entry) = self.staged.front() {
                // SAFETY: `push` was promised that the bytes are valid until the token is reaped.
                if unsafe { queue.push(entry) }.is_err() {
                    break;
                }
                self.staged.pop_front();
            }
            queue.sync();
            let asleep = queue.need_wakeup() && !queue.is_empty();
            let overflow = queue.cq_overflow();
            drop(queue);
            if asleep || overflow {
                self.enter_with_retries(0, None)?;
            }
            if self.staged.is_empty() {
                return Ok(());
            }
            self.await_room()?;
        }
    }

    /// Waits until the kernel's thread, which is awake, has taken something from the full ring.
    fn await_room(&mut self) -> io::Result<()> {
        self.drain();
        self.syscalls += 1;
        match self.ring.submitter().squeue_wait() {
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Enters the kernel, and once more while it is out of memory or of room for completions.
    fn enter_with_retries(&mut self, least: usize, limit: Option<Duration>) -> io::Result<()> {
        let mut retries = RETRIES;
        loop {
            let error = match self.enter(least, limit) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match error.raw_os_error() {
                // The time is up, or a signal came: the caller looks at the clock itself.
                Some(libc::ETIME | libc::EINTR) => return Ok(()),
                // Completions have to be taken first.
                Some(libc::EBUSY) if retries > 0 => self.drain(),
                Some(libc::EAGAIN) if retries > 0 => std::thread::sleep(RETRY_PAUSE),
                _ => return Err(error),
            }
            retries -= 1;
        }
    }

    fn enter(&mut self, least: usize, limit: Option<Duration>) -> io::Result<usize> {
        self.syscalls += 1;
        let submitter = self.ring.submitter();
        let Some(limit) = limit else { return submitter.submit_and_wait(least) };
        let time = Timespec::from(limit.min(WAIT_SLICE));
        submitter.submit_with_args(least, &SubmitArgs::new().timespec(&time))
    }

    /// Moves what the kernel's ring of completions holds into the stash.
    fn drain(&mut self) {
        for completion in self.ring.completion() {
            self.below.note(&completion);
            let completion: cqueue::Entry = completion.into();
            if completion.user_data() == WAKE {
                self.wake_armed = cqueue::more(completion.flags());
            } else {
                self.stash.push_back((completion.user_data(), completion.result()));
            }
        }
    }

    pub(super) fn reap(&mut self, mut each: impl FnMut(u64, io::Result<u32>)) {
        loop {
            self.drain();
            while let Some((token, result)) = self.stash.pop_front() {
                self.in_flight -= 1;
                each(token, self.below.result(token, result));
            }
            if !self.ring.submission().cq_overflow() || self.fetch_overflow().is_err() {
                return;
            }
        }
    }

    /// Lets the kernel put the completions it kept into the ring, without submitting anything.
    fn fetch_overflow(&mut self) -> io::Result<()> {
        self.syscalls += 1;
        // SAFETY: no argument is passed, and nothing is submitted.
        let result = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(0, 0, EnterFlags::GETEVENTS.bits(), None)
        };
        match result {
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) fn prepare_to_poll(&mut self) -> io::Result<bool> {
        self.end_poll();
        self.arm_wake()?;
        self.flush()?;
        self.drain();
        if !self.stash.is_empty() || !self.wake.begin_wait() {
            return Ok(false);
        }
        self.polled = true;
        Ok(true)
    }

    /// Ends what `prepare_to_poll` began. A notification that came since stays, and ends the next
    /// wait: whoever polled may not have acted on it.
    fn end_poll(&mut self) {
        if std::mem::take(&mut self.polled) {
            self.wake.forget_wait();
        }
    }

    /// Puts the poll request for notifications into the submission ring, unless it is issued.
    fn arm_wake(&mut self) -> io::Result<()> {
        if self.wake_armed {
            return Ok(());
        }
        if self.ring.submission().is_full() {
            self.flush()?;
        }
        while self.sqpoll && self.ring.submission().is_full() {
            self.await_room()?;
        }
        let event = io_uring::types::Fd(self.wake.event.as_raw_fd());
        let readable = libc::POLLIN.cast_unsigned().into();
        let entry = opcode::PollAdd::new(event, readable).multi(true).build().user_data(WAKE);
        let entry = B::Entry::from(entry);
        // SAFETY: a poll request uses no memory of ours; the kernel holds the eventfd itself.
        if unsafe { self.ring.submission().push(&entry) }.is_ok() {
            self.wake_armed = true;
        }
        Ok(())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn notifier(&self) -> UringNotifier {
        UringNotifier(Arc::clone(&self.wake))
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    pub(super) fn registered_bytes(&self) -> usize {
        self.registered
    }

    pub(super) fn makes_calls(&self) -> bool {
        self.called.is_some()
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl<B: Below> Drop for Uring<B> {
    /// Waits for what is in flight: the kernel may still be at its bytes.
    fn drop(&mut self) {
        let forgotten = self.in_flight != 0;
        while self.in_flight != 0 {
            if let Err(error) = self.submit(1, None) {
                // Its bytes are about to be freed while a device may be writing into them.
                tracing::error!(%error, in_flight = self.in_flight, "a ring cannot be emptied");
                std::process::abort();
            }
            self.reap(|_, _| {});
        }
        debug_assert!(!forgotten || std::thread::panicking(), "dropped with requests in flight");
    }
}

impl<B: Below> fmt::Debug for Uring<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("below", &self.below)
            .field("arena", &self.arena)
            .field("registered", &self.registered)
            .field("in_flight", &self.in_flight)
            .field("syscalls", &self.syscalls)
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// # Safety
    /// As [`Engine::push_untorn`](super::Engine::push_untorn).
    pub(super) unsafe fn push_untorn(&mut self, io: Io) -> Result<(), Io> {
        let durable = if io.kind == IoKind::WriteDurable { libc::RWF_DSYNC } else { 0 };
        // Never from a registered buffer: the kernel takes those for several pieces, and refuses.
        let entry = opcode::Write::new(Fixed(REGISTERED), io.ptr, rw_length(&io))
            .offset(io.offset)
            .rw_flags(libc::RWF_ATOMIC | durable)
            .build()
            .user_data(io.token);
        self.let_go();
        // SAFETY: the caller's promise, handed on.
        unsafe { self.push_entry(entry, io) }
    }
}

/// A request of the kernel for an [`Io`], on a registered file or a descriptor: the crate has no type for
/// either of them.
macro_rules! entry {
    ($disk:ident, $io:ident, $known:ident, $file:expr, $offset:expr) => {{
        let (file, length) = ($file, rw_length($io));
        let flags = if $io.kind == IoKind::WriteDurable { libc::RWF_DSYNC } else { 0 };
        match $io.kind {
            IoKind::Read if $known => {
                opcode::ReadFixed::new(file, $io.ptr, length, 0).offset($offset).build()
            }
            IoKind::Read => opcode::Read::new(file, $io.ptr, length).offset($offset).build(),
            IoKind::Write | IoKind::WriteDurable if $known => {
                opcode::WriteFixed::new(file, $io.ptr, length, 0)
                    .offset($offset)
                    .rw_flags(flags)
                    .build()
            }
            IoKind::Write | IoKind::WriteDurable => {
                opcode::Write::new(file, $io.ptr, length).offset($offset).rw_flags(flags).build()
            }
            IoKind::SyncData => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
            IoKind::Zero => opcode::Fallocate::new(file, $io.len as u64)
                .offset($offset)
                .mode($disk.zero_mode().bits().cast_signed())
                .build(),
        }
    }};
}

/// What a ring needs of the kernel for files.
const NEEDED_OF_FILES: &[(u8, &str)] = &[
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::ReadFixed::CODE, "read into a registered buffer"),
    (opcode::WriteFixed::CODE, "write from a registered buffer"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::PollAdd::CODE, "poll"),
];

impl Below for FileDisk {
    type Entry = squeue::Entry;
    type Completion = cqueue::Entry;
    const NEEDED: &'static [(u8, &'static str)] = NEEDED_OF_FILES;

    /// A ring that polls refuses a sync; and a file system clears the polling of a durable write as soon
    /// as it has to flush after it.
    #[inline]
    fn is_polled(io: &Io) -> bool {
        match io.kind {
            IoKind::Read | IoKind::Write => true,
            IoKind::WriteDurable | IoKind::SyncData | IoKind::Zero => false,
        }
    }

    #[inline]
    fn entry(&mut self, io: &Io, known: bool) -> squeue::Entry {
        entry!(self, io, known, Fixed(REGISTERED), io.offset)
    }

    fn called(&self) -> Option<&FileDisk> {
        self.may_use_threads().then_some(self)
    }

    fn note(&mut self, _: &cqueue::Entry) {}

    fn result(&self, _: u64, result: i32) -> io::Result<u32> {
        u32::try_from(result).map_err(|_| os_error(result))
    }
}

/// The files of a spread, to which a ring is made apart, so that a ring over one file has nothing to ask at
/// each push.
#[derive(Debug)]
pub(crate) struct Files {
    folder: FileDisk,
    spread: Arc<Spread>,
}

impl Files {
    pub(super) fn new(folder: &FileDisk, spread: &Arc<Spread>) -> Self {
        Self { folder: folder.clone(), spread: spread.clone() }
    }
}

impl AsRawFd for Files {
    fn as_raw_fd(&self) -> RawFd {
        self.folder.as_raw_fd()
    }
}

impl Below for Files {
    type Entry = squeue::Entry;
    type Completion = cqueue::Entry;
    const NEEDED: &'static [(u8, &'static str)] = NEEDED_OF_FILES;

    fn also_kept(&self) -> Option<RawFd> {
        self.spread.locked()
    }

    /// Nothing is: `hipri` is refused where a drive is many files.
    fn is_polled(_: &Io) -> bool {
        false
    }

    fn entry(&mut self, io: &Io, known: bool) -> squeue::Entry {
        let (descriptor, offset) = self.spread.locate(io.kind, io.offset);
        let folder = &self.folder;
        entry!(folder, io, known, Fd(descriptor), offset)
    }

    fn called(&self) -> Option<&FileDisk> {
        self.folder.called()
    }

    fn note(&mut self, _: &cqueue::Entry) {}

    fn result(&self, _: u64, result: i32) -> io::Result<u32> {
        u32::try_from(result).map_err(|_| os_error(result))
    }
}

pub(super) fn os_error(result: i32) -> io::Error {
    io::Error::from_raw_os_error(result.saturating_neg())
}

fn rw_length(io: &Io) -> u32 {
    u32::try_from(io.len.min(MAX_RW_BYTES)).unwrap_or(u32::MAX)
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (limit, None) | (None, limit) => limit,
    }
}

/// Whether the kernel gives rings at all, and those that are needed.
///
/// # Errors
/// As of [`Uring::new`].
pub(super) fn probe<B: Below>() -> io::Result<()> {
    let options = EngineOptions { sq_entries: 1, cq_entries: 1, ..Default::default() };
    check_support::<B>(&set_up::<B>(&options)?)
}

/// Makes the ring, with the cheapest way of delivering completions that the kernel knows.
fn set_up<B: Below>(options: &EngineOptions) -> io::Result<IoUring<B::Entry, B::Completion>> {
    let entries = options.sq_entries.max(1).next_power_of_two();
    let completions = options.cq_entries.next_power_of_two().max(entries);
    // Linux 6.1, 6.0, 5.19, and any before that.
    let best = if options.private && !options.sqpoll { 3 } else { 2 };
    for level in (0..=best).rev() {
        let mut builder = IoUring::<B::Entry, B::Completion>::builder();
        builder.setup_cqsize(completions).setup_clamp();
        if options.hipri {
            builder.setup_iopoll();
        }
        if options.sqpoll {
            builder.setup_sqpoll(SQPOLL_IDLE_MS);
        } else if level >= 1 {
            // Completions are delivered when this thread enters the kernel anyway, not by
            // interrupting it.
            builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }
        if level >= 2 {
            builder.setup_single_issuer();
        }
        if level >= 3 {
            // Who waits for several completions sleeps until they are there; otherwise each of them
            // wakes it, to be counted. Nothing is delivered but in its own calls, so this is for
            // rings that nobody else polls.
            builder.setup_defer_taskrun();
        }
        let mut retries = SETUP_RETRIES;
        let ring = loop {
            match builder.build(entries) {
                Err(error) if retries > 0 && error.raw_os_error() == Some(libc::ENOMEM) => {
                    retries -= 1;
                    std::thread::sleep(RETRY_PAUSE);
                }
                ring => break ring,
            }
        };
        match ring {
            Err(error) if level > 0 && error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(not_available(&error)),
            Ok(ring) => return Ok(ring),
        }
    }
    Err(io::ErrorKind::Unsupported.into())
}

fn not_available(error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring",
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here (see the sysctl kernel.io_uring_disabled, or seccomp)"
        }
        Some(libc::ENOMEM) => {
            let text = "io_uring cannot be set up: no memory for a ring, which many kernels count as \
                        locked; raise this process's limit on locked memory (ulimit -l)";
            return io::Error::new(io::ErrorKind::OutOfMemory, text);
        }
        _ => return io::Error::new(error.kind(), format!("io_uring cannot be set up: {error}")),
    };
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// Refuses kernels before 5.13: completions could be lost, or waits not be ended.
fn check_support<B: Below>(ring: &IoUring<B::Entry, B::Completion>) -> io::Result<()> {
    let features = ring.params();
    let lacking = |what: &str| {
        let text = format!("this kernel's io_uring has no {what}; Linux 5.13 or later is needed");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    };
    if !features.is_feature_nodrop() || !features.is_feature_ext_arg() {
        return lacking("safe completions or timed waits");
    }
    // Came with repeating poll requests, for which there is no flag.
    if !features.is_feature_resource_tagging() {
        return lacking("repeating poll requests");
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    for &(code, name) in B::NEEDED {
        if !probe.is_supported(code) {
            return lacking(name);
        }
    }
    Ok(())
}

/// Makes the arena known to the kernel as one buffer, or as much of its start as it may lock: what it may
/// not is tried with half as much. Returns how many bytes.
fn register<S: squeue::EntryMarker, C: cqueue::EntryMarker>(
    ring: &IoUring<S, C>,
    arena: &Arena,
) -> usize {
    let (start, whole) = arena.range();
    if whole > MAX_FIXED_BYTES {
        return 0;
    }
    most_of(locked_share(whole, lockable_bytes()), |length| {
        let part = libc::iovec { iov_base: start.as_ptr().cast(), iov_len: length };
        // SAFETY: the mapping is at least `length` bytes long, and the engine keeps a handle of the arena
        // until after its ring is gone.
        unsafe { ring.submitter().register_buffers(&[part]) }
    })
}

/// As many bytes as `register` takes: what it does not is tried with half as many.
fn most_of(mut length: usize, mut register: impl FnMut(usize) -> io::Result<()>) -> usize {
    while length > 0 {
        match register(length) {
            Ok(()) => break,
            Err(error) => tracing::debug!(%error, length, "buffers are not registered"),
        }
        length = whole_pages(length / 2);
    }
    length
}

/// Ends the waits of one ring.
#[derive(Clone, Debug)]
pub(crate) struct UringNotifier(Arc<Wake>);

impl UringNotifier {
    pub(super) fn notify(&self) {
        self.0.notify();
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests;
