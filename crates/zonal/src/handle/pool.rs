//! The I/O threads of a drive: started when the first handle needs them, ended with the last.
//!
//! Each zone belongs to one thread, so that one zone's requests reach the drive in the order in
//! which they were submitted. What concerns the whole drive goes to the first.

use super::HandleOptions;
use super::lane::Lane;
use super::ticket::Ticket;
use super::worker::{CLOSED, Outfit, Rest};
use crate::buffer::{Arena, Buffer};
use crate::device::Drive;
use crate::queue::QueueOptions;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, lock, thread};
use crossbeam_queue::ArrayQueue;
use std::sync::{Arc, OnceLock};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::units::ZoneIndex;

/// Tickets kept to be used again.
const SPARE_TICKETS: usize = 1024;

/// Requests that go to the kernel at a time: the disk begins with the first of many while the
/// others are being handed over.
const BATCH: u32 = 8;

pub(crate) struct Pool {
    pub(crate) drive: Arc<Drive>,
    options: HandleOptions,
    threads: Box<[Thread]>,
    arena: OnceLock<Option<Arena>>,
    spare: ArrayQueue<Arc<Ticket>>,
    /// Whether nothing is taken any more; see [`Pool::stop`].
    closed: AtomicBool,
    /// Whether the drive has been closed; locked by who closes it.
    closing: Mutex<bool>,
}

struct Thread {
    lane: Arc<Lane>,
    handle: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Pool {
    pub(crate) fn new(drive: Arc<Drive>, options: HandleOptions) -> Self {
        let thread =
            |_| Thread { lane: Arc::new(Lane::new(options.depth)), handle: Mutex::new(None) };
        Self {
            drive,
            options,
            threads: (0..options.threads).map(thread).collect(),
            arena: OnceLock::new(),
            spare: ArrayQueue::new(SPARE_TICKETS),
            closed: AtomicBool::new(false),
            closing: Mutex::new(false),
        }
    }

    /// One handle closes the drive at a time; true: another has.
    pub(crate) fn closing(&self) -> MutexGuard<'_, bool> {
        lock(&self.closing)
    }

    pub(crate) fn options(&self) -> &HandleOptions {
        &self.options
    }

    /// A buffer of the memory that all threads share, as far as there is one.
    pub(crate) fn lease(&self, length: usize) -> Option<Buffer> {
        self.arena()?.lease(length)
    }

    fn arena(&self) -> Option<&Arena> {
        let HandleOptions { threads, depth, buffer_bytes, .. } = self.options;
        let make = || Arena::new(threads * depth, buffer_bytes).ok();
        self.arena.get_or_init(|| if buffer_bytes == 0 { None } else { make() }).as_ref()
    }

    /// A ticket to ask with.
    pub(super) fn ticket(&self) -> Arc<Ticket> {
        self.spare.pop().unwrap_or_default()
    }

    /// A ticket whose end was taken.
    pub(super) fn give_back(&self, ticket: Arc<Ticket>) {
        // With enough of them it is dropped.
        let _ = self.spare.push(ticket);
    }

    /// The lane of a zone, with its thread.
    ///
    /// # Errors
    /// The drive was closed, or no thread can be had.
    pub(super) fn lane(&self, zone: ZoneIndex) -> Result<&Arc<Lane>> {
        let number = zone.0 % self.options.threads;
        let thread = &self.threads[number as usize];
        if !thread.lane.is_running() {
            self.start(thread, number)?;
        }
        Ok(&thread.lane)
    }

    #[cold]
    fn start(&self, thread: &Thread, number: u32) -> Result<()> {
        let mut handle = lock(&thread.handle);
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::DeviceReadOnly, CLOSED));
        }
        if thread.lane.is_running() {
            return Ok(());
        }
        join(handle.take());
        let HandleOptions { depth, deadline, .. } = self.options;
        let batch = Some(BATCH);
        let options = QueueOptions { depth, deadline, batch, ..QueueOptions::default() };
        let (drive, arena) = (self.drive.clone(), self.arena().cloned());
        thread.lane.open();
        // Dropped with the thread that could not be had, it fails what others have asked since.
        let rest = Rest::new(&thread.lane);
        let outfit = Outfit { drive, options, arena, number, rest };
        let builder = thread::Builder::new().name(format!("zonal-io-{number}"));
        let spawned = builder.spawn(move || outfit.run()).map_err(|error| {
            let text = "no I/O thread can be started; raise this process's limit on threads";
            Error::new(ErrorKind::Io, text).on(&*self.drive.name).with_source(error)
        });
        *handle = Some(spawned?);
        Ok(())
    }

    /// Waits for everything under way, and ends all threads. What is asked for from now on is
    /// refused. Not for a thread of its own.
    pub(crate) fn stop(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let running: Vec<_> = self.threads.iter().map(|t| (t, lock(&t.handle).take())).collect();
        running.iter().filter(|(_, handle)| handle.is_some()).for_each(|(t, _)| t.lane.stop());
        running.into_iter().for_each(|(_, handle)| join(handle));
    }

    /// Whether the caller is one of the I/O threads, which runs a waker.
    pub(crate) fn is_called_by_its_own(&self) -> bool {
        let own = thread::current().id();
        let is_own = |handle: &thread::JoinHandle<()>| handle.thread().id() == own;
        self.threads.iter().any(|thread| lock(&thread.handle).as_ref().is_some_and(is_own))
    }

    /// The drive was not closed after all: threads start again when they are needed.
    pub(crate) fn resume(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    /// With the last handle all futures are gone: what is under way ends as it would have.
    fn drop(&mut self) {
        if !self.is_called_by_its_own() {
            return self.stop();
        }
        // A waker dropped the last handle. A thread cannot wait for itself; nor for the others, which may
        // wait for a flush that this one leads. They end by themselves, with what they have under way.
        self.closed.store(true, Ordering::SeqCst);
        self.threads.iter().for_each(|thread| thread.lane.stop());
    }
}

/// Waits for a thread's end, unless it is the caller: with the last it does it may wake who asks again.
fn join(handle: Option<thread::JoinHandle<()>>) {
    let Some(handle) = handle else { return };
    if handle.thread().id() != thread::current().id() && handle.join().is_err() {
        tracing::error!("an I/O thread panicked");
    }
}
