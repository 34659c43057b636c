//! The I/O thread of one file: jobs from the inbox to the driver, until the file is closed.

use super::driver::Driver;
use super::operation::Job;
use super::{AtomicPath, DEPTH, journal::Journal};
use crate::engine::{Disk, EngineOptions, Notifier};
use crate::queue::io_text;
use crate::sync::{Mutex, lock};
use crate::sys::thread;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use zonal_core::error::{Error, ErrorKind, Result};

/// How often a ring that fails as a whole is tried again, and after which time; then it is given up.
const RING_RETRIES: u32 = 1000;
const RING_PAUSE: Duration = Duration::from_millis(1);

/// What handles put jobs into.
pub(super) struct Inbox {
    state: Mutex<State>,
    notifier: Notifier,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// No more jobs are taken.
    closing: bool,
    /// How the thread ended.
    outcome: Option<Result<()>>,
}

impl Inbox {
    /// Puts a job in; refuses it where the file is closed.
    pub(super) fn put(&self, job: Job) {
        let mut state = lock(&self.state);
        if state.closing {
            drop(state);
            let text = "the file was closed; open it again";
            let error = Error::new(ErrorKind::DeviceReadOnly, text).during(job.what.name());
            return job.end(Err(error), true);
        }
        state.jobs.push_back(job);
        drop(state);
        self.notifier.notify();
    }

    /// Takes no more jobs, and has the thread end when those there are have ended.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.notifier.notify();
    }

    /// How the thread ended, once.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        lock(&self.state).outcome.take()
    }

    /// Gives the driver what it has room for; whether there is more to come.
    fn hand_over(&self, driver: &mut Driver) -> bool {
        let mut state = lock(&self.state);
        while driver.has_room()
            && let Some(job) = state.jobs.pop_front()
        {
            driver.accept(job);
        }
        !state.closing || !state.jobs.is_empty()
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
        let inbox = Arc::new(Inbox { state: Mutex::default(), notifier: engine.notifier() });
        let mut driver = Driver::new(&name, disk.clone(), engine, path, journal);
        if started.send(Ok(inbox.clone())).is_err() {
            return;
        }
        let outcome = match work(&mut driver, &inbox) {
            Ok(()) => driver.close(),
            Err(error) => {
                driver.abandon(&error);
                lock(&inbox.state).closing = true;
                let jobs = std::mem::take(&mut lock(&inbox.state).jobs);
                drop(jobs);
                let text = format!("the kernel's ring failed: {}", io_text(&error));
                lock(&inbox.state).outcome = Some(Err(Error::new(ErrorKind::Io, text).on(name)));
                return;
            }
        };
        drop(driver);
        let released = disk.release().map_err(|error| {
            Error::new(ErrorKind::Io, format!("the lock: {}", io_text(&error))).on(name)
        });
        lock(&inbox.state).outcome = Some(outcome.and(released));
    }
}

/// Until the inbox is closed and everything has ended.
fn work(driver: &mut Driver, inbox: &Inbox) -> io::Result<()> {
    let mut failures = 0;
    loop {
        let more = inbox.hand_over(driver);
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
