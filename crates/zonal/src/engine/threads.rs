//! The engine over files where the kernel gives no ring, or one would not help: a few threads that block in its
//! stead, and for a request that is waited for alone the caller, which then wakes nobody.
//!
//! ```text
//! push ─► pushed ─ submit ─► work ─► a worker: pread, pwrite, fdatasync, fallocate ─► ended ─► reap
//!                         └─► the caller itself, who has nothing else to wait for ──┘
//! ```
//!
//! Invariants:
//! * A request is in `pushed`, in `work`, with a worker, or in `ended`; `in_flight` counts them
//!   all. None is dropped: workers end only when `work` is empty.
//! * A worker lets go of a request's bytes before it reports the token.
//! * The lock is held to move requests from one list to another, never over I/O: once for a batch
//!   on the queue's thread, twice for a request on a worker's.
//! * A wait sleeps on the eventfd. The worker whose request is the last of those waited for
//!   signals it, and so does a notification.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{fallocate, fdatasync};
use rustix::io::{ReadWriteFlags, pread, pwrite, pwritev2, retry_on_intr};

use super::file::{FileDisk, UNTORN};
use super::wake::Wake;
use super::{EngineOptions, Io, IoKind};
use crate::sync::{Arc, Condvar, Mutex, lock, wait};
use crate::sys::memory::LentBytes;
use crate::sys::thread;

/// The most threads of one engine. A file system takes few writes into one file at a time, and
/// reads of an ordinary disk gain little beyond.
const WORKERS_MAX: usize = 8;

/// One thread's workers over one file.
pub(crate) struct Threads {
    pushed: Vec<Work>,
    room: usize,
    /// Swapped with what the workers have ended, so that neither list is made anew.
    reaped: Vec<Ended>,
    in_flight: usize,
    /// [`prepare_to_poll`](Self::prepare_to_poll) was called, and nothing since.
    polled: bool,
    syscalls: u64,
    shared: Arc<Shared>,
    /// With calls of the caller's own and room for one request none before the first that is not waited for.
    workers: Vec<JoinHandle<()>>,
    workers_max: usize,
    /// Whether the caller makes the call for a request that it waits for alone. Not where threads were asked
    /// for: signals that a call may raise (SIGXFSZ) do not reach them.
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
    work: VecDeque<Work>,
    ended: Vec<Ended>,
    /// How long `ended` has to be for the engine to be woken; zero when nobody waits.
    wanted: usize,
    /// No more work will come.
    over: bool,
}

/// A request on its way.
struct Work {
    kind: IoKind,
    offset: u64,
    /// Whether the kernel is to write it untorn, or not at all.
    untorn: bool,
    /// How many bytes are zeroed; of reads and writes `bytes` says it.
    length: u64,
    bytes: LentBytes,
    token: u64,
}

type Ended = (u64, io::Result<u32>);

impl Threads {
    /// Over a file, for the calling thread.
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
            workers_max: room.min(WORKERS_MAX),
            calls: file.may_use_threads(),
            not_send: PhantomData,
        };
        if room > 1 || !engine.calls {
            engine.hire()?;
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
        let length = match io.kind {
            IoKind::Read | IoKind::Write | IoKind::WriteDurable => io.len,
            IoKind::SyncData | IoKind::Zero => 0,
        };
        // SAFETY: the caller's promise holds until the token is reaped, and the worker drops the
        // bytes before it reports the token.
        let bytes = unsafe { LentBytes::new(io.ptr, length) };
        let Io { kind, offset, len, token, .. } = io;
        self.pushed.push(Work { kind, offset, untorn, length: len as u64, bytes, token });
        self.in_flight += 1;
        Ok(())
    }

    pub(super) fn submit(&mut self, wait_for: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.end_poll();
        if self.calls && wait_for > 0 && timeout.is_none() && self.in_flight == 1 {
            self.call();
        }
        self.hand_over()?;
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

    /// Runs what was pushed on this thread.
    fn call(&mut self) {
        for work in self.pushed.drain(..) {
            let token = work.token;
            self.syscalls += 1;
            let result = work.run(&self.shared.file);
            lock(&self.shared.lists).ended.push((token, result));
        }
    }

    /// Gives what was pushed to the workers.
    ///
    /// # Errors
    /// There is no worker, and none to be had.
    fn hand_over(&mut self) -> io::Result<()> {
        let count = self.pushed.len();
        if count == 0 {
            return Ok(());
        }
        self.hire()?;
        // One for each request, whoever makes it.
        self.syscalls += count as u64;
        lock(&self.shared.lists).work.extend(self.pushed.drain(..));
        if count >= self.workers.len() {
            self.shared.work_came.notify_all();
        } else {
            (0..count).for_each(|_| self.shared.work_came.notify_one());
        }
        Ok(())
    }

    /// Makes the workers, unless they are there; fewer will do.
    fn hire(&mut self) -> io::Result<()> {
        while self.workers.len() < self.workers_max {
            let shared = Arc::clone(&self.shared);
            match thread::spawn("zonal-io", move || shared.work()) {
                Ok(worker) => self.workers.push(worker),
                Err(error) if self.workers.is_empty() => return Err(error),
                Err(_) => self.workers_max = self.workers.len(),
            }
        }
        Ok(())
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
        self.hand_over()?;
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

    #[cfg(test)]
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn notifier(&self) -> ThreadsNotifier {
        ThreadsNotifier(Arc::clone(&self.shared))
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.shared.wake.event.as_raw_fd()
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl Drop for Threads {
    /// Waits for what is in flight: workers may still be at its bytes.
    fn drop(&mut self) {
        let forgotten = self.in_flight != 0;
        // Those that were never submitted are run by whoever there is.
        if self.workers.is_empty() {
            self.call();
        } else {
            lock(&self.shared.lists).work.extend(self.pushed.drain(..));
        }
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
            let result = work.run(&self.file);
            self.ended(token, result);
        }
    }

    /// The next request, when there is one; none when no more will come.
    fn next(&self) -> Option<Work> {
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

impl Work {
    /// Does it, and lets go of the bytes.
    fn run(mut self, disk: &FileDisk) -> io::Result<u32> {
        let Self { kind, offset, untorn, length, ref mut bytes, .. } = self;
        let how = if untorn { UNTORN } else { ReadWriteFlags::empty() };
        let of_its_zone;
        let (file, offset) = match disk.spread() {
            None => (disk.file(), offset),
            Some(spread) => {
                of_its_zone = spread.open_for(kind, offset)?;
                (&*of_its_zone.0, of_its_zone.1)
            }
        };
        let done = retry_on_intr(|| match kind {
            IoKind::Read => pread(file, bytes.as_mut_slice(), offset),
            IoKind::Write if !untorn => pwrite(file, bytes.as_slice(), offset),
            IoKind::Write => pwritev2(file, &[IoSlice::new(bytes.as_slice())], offset, how),
            IoKind::WriteDurable => {
                let how = how | ReadWriteFlags::DSYNC;
                pwritev2(file, &[IoSlice::new(bytes.as_slice())], offset, how)
            }
            IoKind::SyncData => fdatasync(file).map(|()| 0),
            IoKind::Zero => fallocate(file, disk.zero_mode(), offset, length).map(|()| 0),
        })?;
        // The kernel moves less than 2 GiB at once.
        Ok(u32::try_from(done).unwrap_or(u32::MAX))
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
