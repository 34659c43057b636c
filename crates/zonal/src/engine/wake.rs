//! How a wait of an engine is ended from another thread.
//!
//! Every change of `state` is an exchange of this one word, so all agree on their order: either
//! the wait begins first, and the notifier sees `WAITING` and writes the eventfd, or the
//! notification comes first, and the wait sees `NOTIFIED` and does not sleep.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::event::Event;

/// Nobody waits, nobody notified.
const IDLE: u32 = 0;
/// The engine's thread sleeps, or is about to.
const WAITING: u32 = 1;
/// A notification came that no wait has seen yet.
const NOTIFIED: u32 = 2;

/// One engine's waits: a word, and the eventfd that they sleep on.
#[derive(Debug)]
pub(super) struct Wake {
    state: AtomicU32,
    /// What ends a sleep in the kernel.
    pub(super) event: Event,
}

impl Wake {
    /// Nobody waits.
    ///
    /// # Errors
    /// As [`Event::new`].
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { state: AtomicU32::new(IDLE), event: Event::new()? })
    }

    /// False: a notification came before, and is consumed.
    pub(super) fn begin_wait(&self) -> bool {
        let waiting =
            self.state.compare_exchange(IDLE, WAITING, Ordering::AcqRel, Ordering::Acquire);
        if waiting.is_err() {
            self.state.swap(IDLE, Ordering::AcqRel);
        }
        waiting.is_ok()
    }

    /// The wait is over; a notification that came during it is consumed.
    pub(super) fn end_wait(&self) {
        self.state.swap(IDLE, Ordering::AcqRel);
    }

    /// The wait is over; a notification that came during it is kept for the next.
    pub(super) fn forget_wait(&self) {
        let _ = self.state.compare_exchange(WAITING, IDLE, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether a notification came since the wait began.
    pub(super) fn was_notified(&self) -> bool {
        self.state.load(Ordering::Acquire) == NOTIFIED
    }

    /// Whether a notification came, for a wait that does not sleep. It is consumed.
    pub(super) fn take_notification(&self) -> bool {
        let came = self.was_notified();
        if came {
            self.end_wait();
        }
        came
    }

    /// Ends the wait, or the next one. One exchange when nobody waits.
    pub(super) fn notify(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == WAITING {
            self.event.signal();
        }
    }
}
