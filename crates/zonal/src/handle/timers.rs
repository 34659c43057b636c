//! When whose patience ends: looked at by an I/O thread, which then wakes who waits.

use super::ticket::Ticket;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names one timer, and orders them.
pub(crate) type TimerId = (Instant, u64);

/// The timers of one I/O thread.
#[derive(Default)]
pub(crate) struct Timers {
    /// How many there are, so that a thread with none takes no lock.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    tickets: BTreeMap<TimerId, Arc<Ticket>>,
}

impl Timers {
    /// Sets one. The thread has to be nudged, as it may sleep for longer.
    pub(crate) fn set(&self, at: Instant, ticket: &Arc<Ticket>) -> TimerId {
        let mut inner = lock(&self.inner);
        inner.next += 1;
        let id = (at, inner.next);
        inner.tickets.insert(id, ticket.clone());
        self.count.store(inner.tickets.len(), Ordering::Release);
        id
    }

    /// Takes one away, if it has not ended.
    pub(crate) fn unset(&self, id: TimerId) {
        let mut inner = lock(&self.inner);
        inner.tickets.remove(&id);
        self.count.store(inner.tickets.len(), Ordering::Release);
    }

    /// Wakes everybody whose time is up, and says how long it is until the next.
    pub(crate) fn ring(&self) -> Option<Duration> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let now = Instant::now();
        loop {
            let mut inner = lock(&self.inner);
            let next = inner.tickets.first_entry()?;
            let at = next.key().0;
            if at > now {
                return Some(at - now);
            }
            let ticket = next.remove();
            self.count.store(inner.tickets.len(), Ordering::Release);
            drop(inner);
            ticket.wake();
        }
    }
}
