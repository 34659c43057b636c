//! The I/O thread of one file: jobs from the inbox to the driver, until the file is closed.

use super::driver::{Driver, whole};
use super::noted;
use super::operation::{Job, What};
use super::{AtomicPath, DEPTH, journal::Journal};
use crate::engine::file::FileDisk;
use crate::engine::{Disk, EngineOptions, Notifier};
use crate::queue::io_text;
use crate::sync::{Mutex, lock};
use crate::sys::thread;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zonal_core::error::{Error, ErrorKind, Result};

/// How often a ring that fails as a whole is tried again, and after which time; then it is given up.
const RING_RETRIES: u32 = 1000;
const RING_PAUSE: Duration = Duration::from_millis(1);

/// How long a record waits at most for as many jobs as the last one served: they come one by one, as its callers wake,
/// and without it the first of them would have a record, and a sync, of its own.
const LINGER: Duration = Duration::from_micros(100);

/// What is said of a thread that has panicked.
pub(super) const PANICKED: &str = "its I/O thread panicked";

/// And to who asks it for something.
const GONE: &str = "its I/O thread is gone; open the file again, in another process where it is in use until this one ends";

/// What handles put jobs into.
///
/// A caller that waits for an untorn write by the kernel may do it itself ([`write_at_once`](Self::write_at_once)): two changes
/// of threads would cost more than the write. It does so while the thread has nothing to do, and the thread takes
/// no job meanwhile that touches the same bytes, so that the order of requests stays what it was.
pub(super) struct Inbox {
    state: Mutex<State>,
    notifier: Notifier,
    name: String,
    path: AtomicPath,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// No more jobs are taken.
    closing: bool,
    /// Nobody is there any more to do one.
    gone: bool,
    /// The file, where its callers may write to it.
    direct: Option<FileDisk>,
    /// What they are writing to.
    callers: Vec<Range<u64>>,
    /// One of them has written since the driver last heard of it.
    unsynced: bool,
    /// The thread has no job.
    idle: bool,
    /// How the thread ended.
    outcome: Option<Result<()>>,
}

impl Inbox {
    /// Puts a job in; refuses it where the file is closed.
    pub(super) fn put(&self, job: Job) {
        let mut state = lock(&self.state);
        if state.closing {
            let (kind, text) = match state.gone {
                true => (ErrorKind::Io, GONE),
                false => (ErrorKind::DeviceReadOnly, "the file was closed; open it again"),
            };
            drop(state);
            let error = Error::new(kind, text).on(self.name.clone()).during(job.what.name());
            return job.end(Err(error), true);
        }
        state.idle = false;
        state.jobs.push_back(job);
        drop(state);
        self.notifier.notify();
    }

    /// Does an untorn write by the calling thread, where that is as good; none: put it in.
    pub(super) fn write_at_once(&self, job: &Job) -> Option<Result<AtomicPath>> {
        let bytes = job.buffer.as_deref().filter(|_| job.what == What::WriteAtomic)?;
        let disk = self.enter(job)?;
        let written = disk.write_untorn_at(bytes, job.offset, job.durable);
        self.leave(job);
        let length = bytes.len() as u64;
        let named = |error: Error| {
            error.on(self.name.clone()).during(job.what.name()).at(job.offset, length)
        };
        Some(whole(job.what, bytes.len(), written).map(|()| self.path).map_err(named))
    }

    fn enter(&self, job: &Job) -> Option<FileDisk> {
        let mut state = lock(&self.state);
        let busy = state.closing || !state.idle || state.callers.iter().any(|own| job.touches(own));
        let disk = state.direct.clone().filter(|_| !busy)?;
        state.callers.extend(job.ranges());
        Some(disk)
    }

    fn leave(&self, job: &Job) {
        let mut state = lock(&self.state);
        if let Some(at) = state.callers.iter().position(|own| job.touches(own)) {
            state.callers.swap_remove(at);
        }
        state.unsynced = true;
        let waited_for = state.closing || !state.jobs.is_empty();
        drop(state);
        if waited_for {
            self.notifier.notify();
        }
    }

    /// Takes no more jobs, and has the thread end when those there are have ended.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.notifier.notify();
    }

    /// Takes no more jobs, and ends those there are, as nobody is there to do them; `why` is how the thread ended,
    /// unless it has said so itself.
    fn give_up(&self, why: Error) {
        let mut state = lock(&self.state);
        (state.closing, state.gone, state.direct) = (true, true, None);
        state.outcome.get_or_insert(Err(why.on(self.name.clone())));
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        // Dropped, each ends with an error.
        drop(jobs);
    }

    /// How the thread ended, once.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        lock(&self.state).outcome.take()
    }

    /// Gives the driver what it has room for; whether there is more to come.
    fn hand_over(&self, driver: &mut Driver) -> bool {
        let mut state = lock(&self.state);
        let State { jobs, callers, .. } = &mut *state;
        while driver.has_room()
            && let Some(job) = jobs.pop_front_if(|job| !callers.iter().any(|own| job.touches(own)))
        {
            driver.accept(job);
        }
        if std::mem::take(&mut state.unsynced) {
            driver.note_unsynced();
        }
        if driver.is_latched() {
            state.direct = None;
        }
        state.idle = driver.is_idle() && state.jobs.is_empty();
        !state.closing || !state.jobs.is_empty() || !state.callers.is_empty()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// What the thread works on.
pub(super) struct Outfit {
    pub(super) name: String,
    pub(super) disk: Disk,
    pub(super) path: AtomicPath,
    pub(super) journal: Option<Journal>,
}

impl Outfit {
    /// Starts the thread; it has an engine when this returns.
    ///
    /// # Errors
    /// There is no thread or no engine to be had.
    pub(super) fn start(self) -> Result<(Arc<Inbox>, JoinHandle<()>)> {
        let failed = |error: io::Error| {
            Error::new(crate::queue::io_kind(&error), io_text(&error)).with_source(error)
        };
        let (sender, receiver) = channel();
        let thread = thread::spawn("zonal-atomic", move || self.run(&sender)).map_err(failed)?;
        match receiver.recv() {
            Ok(Ok(inbox)) => Ok((inbox, thread)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Error::new(ErrorKind::Io, "its I/O thread did not start")),
        }
    }

    fn run(self, started: &Sender<io::Result<Arc<Inbox>>>) {
        let Self { name, disk, path, journal } = self;
        let entries = u32::try_from(2 * DEPTH).unwrap_or(u32::MAX);
        let options = EngineOptions {
            sq_entries: entries,
            cq_entries: 2 * entries,
            register_buffers: false,
            ..EngineOptions::default()
        };
        let engine = match disk.engine(&options, None) {
            Ok(engine) => engine,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let direct = match (&disk, path) {
            (Disk::File(file), AtomicPath::Native) => Some(file.clone()),
            (Disk::File(_) | Disk::Sim(_) | Disk::Faulty(_), _) => None,
        };
        let state = Mutex::new(State { direct, idle: true, ..State::default() });
        let notifier = engine.notifier();
        let inbox = Arc::new(Inbox { state, notifier, name: name.clone(), path });
        // Dropped behind the driver, which ends what was handed to it.
        let _presence = Presence(&inbox);
        let has_journal = journal.is_some();
        let mut driver = Driver::new(&name, disk.clone(), engine, path, journal);
        if started.send(Ok(inbox.clone())).is_err() {
            return;
        }
        let outcome = match work(&mut driver, &inbox) {
            Ok(()) => driver.close(),
            Err(error) => {
                driver.abandon(&error);
                let text = format!("the kernel's ring failed: {}", io_text(&error));
                return inbox.give_up(Error::new(ErrorKind::Io, text).with_source(error));
            }
        };
        drop(driver);
        if let (true, Ok(()), Disk::File(file)) = (has_journal, &outcome, &disk) {
            // Nothing is left in the journal.
            noted::take_off(file.file());
        }
        lock(&inbox.state).direct = None;
        let released = disk.release().map_err(|error| {
            Error::new(ErrorKind::Io, format!("the lock: {}", io_text(&error))).on(name)
        });
        lock(&inbox.state).outcome = Some(outcome.and(released));
    }
}

/// That somebody is there for an inbox: a thread that panics leaves nobody waiting.
struct Presence<'a>(&'a Inbox);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up(Error::new(ErrorKind::Io, PANICKED));
        }
    }
}

/// Until the inbox is closed and everything has ended.
fn work(driver: &mut Driver, inbox: &Inbox) -> io::Result<()> {
    let mut failures = 0;
    loop {
        let mut more = inbox.hand_over(driver);
        let until = Instant::now() + LINGER;
        while driver.expects_more() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || driver.wait(1, Some(left)).is_err() {
                break;
            }
            driver.reap();
            more = inbox.hand_over(driver);
        }
        driver.start();
        if driver.is_idle() && !more {
            return Ok(());
        }
        match driver.wait(1, None) {
            Ok(()) => failures = 0,
            Err(error) if failures == RING_RETRIES => return Err(error),
            Err(_) => {
                failures += 1;
                std::thread::sleep(RING_PAUSE);
            }
        }
        driver.reap();
    }
}
