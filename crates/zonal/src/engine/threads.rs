//! The engine over files where the kernel gives no ring: a few threads that block in its stead.
//!
//! ```text
//! push ─► pushed ─ submit ─► work ─► a worker: pread, pwrite, fdatasync, fallocate ─► ended ─► reap
//!                    └─► the caller itself, of a request that it waits for alone ──────┘
//! ```
//!
//! Invariants:
//! * A request is in `pushed`, in `work`, with a worker, or in `ended`; `in_flight` counts them
//!   all. None is dropped: workers end only when `work` is empty.
//! * A worker lets go of a request's bytes before it reports the token.
//! * The lock is held to move requests from one list to another, never over I/O: once for a batch
//!   on the queue's thread, twice for a request on a worker's.
//! * A wait sleeps on the eventfd, but where the caller makes the call. The worker whose request is the last of those waited for
//!   signals it, and so does a notification.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::call::Call;
use super::file::FileDisk;
use super::wake::Wake;
use super::{EngineOptions, Io};
use crate::sync::{Arc, Condvar, Mutex, lock, wait};
use crate::sys::thread;

/// The most threads of one engine. A file system takes few writes into one file at a time, and
/// reads of an ordinary disk gain little beyond.
const WORKERS_MAX: u32 = 8;

/// One thread's workers over one file.
pub(crate) struct Threads {
    pushed: Vec<Call>,
    room: usize,
    /// Swapped with what the workers have ended, so that neither list is made anew.
    reaped: Vec<Ended>,
    in_flight: usize,
    /// [`prepare_to_poll`](Self::prepare_to_poll) was called, and nothing since.
    polled: bool,
    syscalls: u64,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Whether the caller makes the call for a request that it waits for alone, which wakes nobody: with room
    /// for no more, as nobody else's wait for it then. Not where threads were asked for: signals that a call may
    /// raise (SIGXFSZ) do not reach them.
    calls: bool,
    /// As the ring is, which it stands in for.
    not_send: PhantomData<*const ()>,
}

/// What the engine, its workers and its notifiers share.
struct Shared {
    file: FileDisk,
    lists: Mutex<Lists>,
    work_came: Condvar,
    wake: Wake,
}

struct Lists {
    work: VecDeque<Call>,
    ended: Vec<Ended>,
    /// How long `ended` has to be for the engine to be woken; zero when nobody waits.
    wanted: usize,
    /// No more work will come.
    over: bool,
}

type Ended = (u64, io::Result<u32>);

impl Threads {
    /// Workers for the calling thread.
    pub(super) fn new(file: &FileDisk, options: &EngineOptions) -> io::Result<Self> {
        let room = options.sq_entries.max(1) as usize;
        let entries = options.cq_entries.max(options.sq_entries) as usize;
        let shared = Arc::new(Shared {
            file: file.clone(),
            lists: Mutex::new(Lists {
                work: VecDeque::with_capacity(entries),
                ended: Vec::with_capacity(entries),
                wanted: 0,
                over: false,
            }),
            work_came: Condvar::new(),
            wake: Wake::new()?,
        });
        // Made before its workers, so that those there are end when one cannot be had.
        let mut engine = Self {
            pushed: Vec::with_capacity(room),
            room,
            reaped: Vec::with_capacity(entries),
            in_flight: 0,
            polled: false,
            syscalls: 0,
            shared,
            workers: Vec::new(),
            calls: options.sq_entries == 1 && file.may_use_threads(),
            not_send: PhantomData,
        };
        for _ in 0..options.sq_entries.clamp(1, WORKERS_MAX) {
            let shared = Arc::clone(&engine.shared);
            engine.workers.push(thread::spawn("zonal-io", move || shared.work())?);
        }
        Ok(engine)
    }

    /// # Safety
    /// As [`Engine::push`](super::Engine::push).
    pub(super) unsafe fn push(&mut self, io: Io) -> Result<(), Io> {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.push_work(io, false) }
    }

    /// # Safety
    /// As [`Engine::push_untorn`](super::Engine::push_untorn).
    pub(super) unsafe fn push_untorn(&mut self, io: Io) -> Result<(), Io> {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.push_work(io, true) }
    }

    /// # Safety
    /// As [`Engine::push`](super::Engine::push).
    unsafe fn push_work(&mut self, io: Io, untorn: bool) -> Result<(), Io> {
        if self.pushed.len() == self.room {
            return Err(io);
        }
        // SAFETY: the caller's promise holds until the token is reaped, and the worker ends the call before
        // it reports the token.
        self.pushed.push(unsafe { Call::of(&io, untorn) });
        self.in_flight += 1;
        Ok(())
    }

    pub(super) fn submit(&mut self, wait_for: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.end_poll();
        if self.calls && wait_for > 0 && timeout.is_none() && self.in_flight == 1 {
            self.call();
        }
        self.hand_over();
        if wait_for == 0 {
            return Ok(());
        }
        let target = wait_for.min(self.in_flight).max(1);
        let notifiable = Arc::strong_count(&self.shared) > 1 + self.workers.len();
        let for_ever = self.in_flight == 0 && timeout.is_none() && !notifiable;
        if for_ever || !self.shared.want(target) || !self.shared.wake.begin_wait() {
            return Ok(());
        }
        let result = self.sleep(target, timeout);
        self.shared.wake.end_wait();
        result
    }

    /// Sleeps until `target` requests have ended, the time is up, or a notification came.
    fn sleep(&mut self, target: usize, timeout: Option<Duration>) -> io::Result<()> {
        let wake = &self.shared.wake;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            self.syscalls += 2;
            wake.event.wait(left)?;
            wake.event.clear();
            let late = deadline.is_some_and(|at| at <= Instant::now());
            if late || wake.was_notified() || !self.shared.want(target) {
                return Ok(());
            }
        }
    }

    /// Makes the calls for what was pushed.
    fn call(&mut self) {
        for call in self.pushed.drain(..) {
            let token = call.token;
            self.syscalls += 1;
            let result = call.make(&self.shared.file);
            lock(&self.shared.lists).ended.push((token, result));
        }
    }

    /// Gives what was pushed to the workers.
    fn hand_over(&mut self) {
        let count = self.pushed.len();
        if count == 0 {
            return;
        }
        // One for each request, whoever makes it.
        self.syscalls += count as u64;
        lock(&self.shared.lists).work.extend(self.pushed.drain(..));
        if count >= self.workers.len() {
            self.shared.work_came.notify_all();
        } else {
            (0..count).for_each(|_| self.shared.work_came.notify_one());
        }
    }

    pub(super) fn reap(&mut self, mut each: impl FnMut(u64, io::Result<u32>)) {
        if self.in_flight == 0 {
            return;
        }
        std::mem::swap(&mut self.reaped, &mut lock(&self.shared.lists).ended);
        self.in_flight -= self.reaped.len();
        for (token, result) in self.reaped.drain(..) {
            each(token, result);
        }
    }

    pub(super) fn prepare_to_poll(&mut self) -> io::Result<bool> {
        self.end_poll();
        self.hand_over();
        self.shared.wake.event.clear();
        self.polled = self.shared.want(1) && self.shared.wake.begin_wait();
        Ok(self.polled)
    }

    /// Ends what `prepare_to_poll` began. A notification that came since stays, and ends the next
    /// wait: whoever polled may not have acted on it.
    fn end_poll(&mut self) {
        if std::mem::take(&mut self.polled) {
            self.shared.wake.forget_wait();
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn notifier(&self) -> ThreadsNotifier {
        ThreadsNotifier(Arc::clone(&self.shared))
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.shared.wake.event.as_raw_fd()
    }

    pub(super) fn makes_calls(&self) -> bool {
        self.calls
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl Drop for Threads {
    /// Waits for what is in flight: workers may still be at its bytes.
    fn drop(&mut self) {
        let forgotten = self.in_flight != 0;
        self.hand_over();
        lock(&self.shared.lists).over = true;
        self.shared.work_came.notify_all();
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker of the threads engine panicked");
            }
        }
        debug_assert!(!forgotten || std::thread::panicking(), "dropped with requests in flight");
    }
}

impl Shared {
    /// Wants to be woken when so many requests have ended; false: they have.
    fn want(&self, target: usize) -> bool {
        let mut lists = lock(&self.lists);
        let missing = lists.ended.len() < target;
        lists.wanted = if missing { target } else { 0 };
        missing
    }

    /// A worker's life.
    fn work(&self) {
        while let Some(work) = self.next() {
            let token = work.token;
            let result = work.make(&self.file);
            self.ended(token, result);
        }
    }

    /// The next request, when there is one; none when no more will come.
    fn next(&self) -> Option<Call> {
        let mut lists = lock(&self.lists);
        loop {
            if let Some(work) = lists.work.pop_front() {
                return Some(work);
            }
            if lists.over {
                return None;
            }
            lists = wait(&self.work_came, lists);
        }
    }

    fn ended(&self, token: u64, result: io::Result<u32>) {
        let mut lists = lock(&self.lists);
        lists.ended.push((token, result));
        if lists.wanted == 0 || lists.ended.len() < lists.wanted {
            return;
        }
        lists.wanted = 0;
        drop(lists);
        self.wake.event.signal();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("file", &self.shared.file)
            .field("workers", &self.workers.len())
            .field("in_flight", &self.in_flight)
            .field("syscalls", &self.syscalls)
            .finish_non_exhaustive()
    }
}

/// Ends the waits of one engine.
#[derive(Clone)]
pub(crate) struct ThreadsNotifier(Arc<Shared>);

impl ThreadsNotifier {
    pub(super) fn notify(&self) {
        self.0.wake.notify();
    }
}

impl fmt::Debug for ThreadsNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreadsNotifier").field(&self.0.wake).finish()
    }
}
