//! Waiting at a zone: who works on it alone, who has to wait, and whose turn it is.
//!
//! Whoever cannot go on shuts the zone's gate and queues at its *site*. The first in the queue
//! *holds* the gate: it may look again and again until it can go on, then departs, and the next
//! has its turn. Who wants the zone to itself goes through the gate even when it could go on, and
//! departs only when it has ended. The gate opens when nobody is left, so nobody overtakes those
//! who wait.

use super::{Control, SlotId, Zones};
use crate::mailbox::Message;
use crate::sync::Arc;
use std::collections::VecDeque;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use zonal_core::units::ZoneIndex;

/// Somebody at a gate.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A request parked in a queue's slot.
    Request { queue: u32, slot: u32 },
    /// A task of a queue.
    Task { ticket: u64, waker: Waker },
}

impl Waiter {
    fn is(&self, who: Who) -> bool {
        match (self, who) {
            (Self::Request { queue, slot }, Who::Request(q, s)) => (*queue, *slot) == (q, s),
            (Self::Task { ticket, .. }, Who::Task(t)) => *ticket == t,
            (Self::Request { .. }, Who::Task(_)) | (Self::Task { .. }, Who::Request(..)) => false,
        }
    }
}

#[derive(Clone, Copy)]
enum Who {
    Request(u32, u32),
    Task(u64),
}

/// What is rare about one zone; there only while its gate is shut or it is failing.
#[derive(Default)]
pub(crate) struct Site {
    holder: Option<Waiter>,
    waiting: VecDeque<Waiter>,
    /// Writes that ended since the zone began to fail.
    pub(super) ended: Vec<super::failure::Ended>,
}

impl Site {
    /// Where a task with this waker stands in it; 0 is its holder.
    pub(super) fn wait_of(&self, waker: &Waker) -> Option<usize> {
        let own = |waiter: &Waiter| match waiter {
            Waiter::Task { waker: waiting, .. } => waiting.will_wake(waker),
            Waiter::Request { .. } => false,
        };
        let holds = self.holder.as_ref().is_some_and(own);
        if holds { Some(0) } else { self.waiting.iter().position(own).map(|place| place + 1) }
    }

    /// Hashes it for [`Zones::hash_state`].
    pub(super) fn hash_state(&self, tag: &impl Fn(SlotId) -> u64, hasher: &mut impl Hasher) {
        // Tasks are told apart by their order alone.
        let tag = |waiter: &Waiter| match *waiter {
            Waiter::Request { queue, slot } => Some(tag(SlotId { queue, slot })),
            Waiter::Task { .. } => None,
        };
        self.holder.as_ref().map(tag).hash(hasher);
        for waiter in &self.waiting {
            tag(waiter).hash(hasher);
        }
    }
}

impl Zones {
    /// Parks a request at a zone's gate. True: it is first, and holds the gate. Otherwise, and
    /// whenever it may look again, its queue gets [`Message::Turn`].
    pub(crate) fn park(&self, zone: ZoneIndex, queue: u32, slot: u32) -> bool {
        self.control().arrive(self, zone, Waiter::Request { queue, slot })
    }

    /// The request that holds a zone's gate has gone on, or has ended.
    pub(crate) fn depart(&self, zone: ZoneIndex) {
        let mut control = self.control();
        if let Some(site) = control.sites.get_mut(&zone) {
            site.holder = None;
        }
        control.advance(self, zone);
    }

    /// Whether a parked request is first at a zone's gate.
    pub(crate) fn holds(&self, zone: ZoneIndex, queue: u32, slot: u32) -> bool {
        let control = self.control();
        let holder = control.sites.get(&zone).and_then(|site| site.holder.as_ref());
        holder.is_some_and(|holder| holder.is(Who::Request(queue, slot)))
    }

    /// Takes a parked request back, wherever it stands.
    pub(crate) fn withdraw(&self, zone: ZoneIndex, queue: u32, slot: u32) {
        self.control().leave(self, zone, Who::Request(queue, slot));
    }
}

impl Control {
    /// Shuts a zone's gate. True: the waiter is the first at it.
    fn arrive(&mut self, zones: &Zones, zone: ZoneIndex, waiter: Waiter) -> bool {
        zones.change(zone, |word| word.shut());
        let site = self.sites.entry(zone).or_default();
        let first = site.holder.is_none() && site.waiting.is_empty();
        if first {
            site.holder = Some(waiter);
        } else {
            site.waiting.push_back(waiter);
        }
        first
    }

    fn leave(&mut self, zones: &Zones, zone: ZoneIndex, who: Who) {
        let Some(site) = self.sites.get_mut(&zone) else { return };
        site.waiting.retain(|waiter| !waiter.is(who));
        if site.holder.as_ref().is_some_and(|holder| holder.is(who)) {
            site.holder = None;
        }
        self.advance(zones, zone);
    }

    /// Gives the gate to the first who waits, tells its holder to look again, or opens it.
    pub(super) fn advance(&mut self, zones: &Zones, zone: ZoneIndex) {
        let Some(site) = self.sites.get_mut(&zone) else { return };
        if zones.cells.load(zone).is_failing() {
            return;
        }
        if site.holder.is_none() {
            site.holder = site.waiting.pop_front();
        }
        match &site.holder {
            Some(Waiter::Request { queue, slot }) => {
                let (queue, slot) = (*queue, *slot);
                self.post(queue, Message::Turn { slot });
            }
            Some(Waiter::Task { waker, .. }) => waker.wake_by_ref(),
            None => {
                zones.change(zone, |word| word.unshut());
                self.sites.remove(&zone);
            }
        }
    }
}

/// A future that queues at a zone's gate when first polled, and ends when it is first.
/// Dropping the lock, or the [`Gate`] it gave, lets the next one go on.
pub(crate) struct GateLock {
    zones: Arc<Zones>,
    zone: ZoneIndex,
    ticket: Option<u64>,
}

impl GateLock {
    pub(crate) fn new(zones: &Arc<Zones>, zone: ZoneIndex) -> Self {
        Self { zones: zones.clone(), zone, ticket: None }
    }
}

impl Future for GateLock {
    type Output = Gate;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Gate> {
        let zones = self.zones.clone();
        let mut control = zones.control();
        let ticket = match self.ticket {
            Some(ticket) => ticket,
            None => {
                let ticket = control.next_ticket;
                control.next_ticket += 1;
                self.ticket = Some(ticket);
                let waiter = Waiter::Task { ticket, waker: cx.waker().clone() };
                control.arrive(&zones, self.zone, waiter);
                ticket
            }
        };
        let holds = control
            .sites
            .get(&self.zone)
            .and_then(|site| site.holder.as_ref())
            .is_some_and(|holder| holder.is(Who::Task(ticket)));
        if !holds || zones.cells.load(self.zone).is_failing() {
            return Poll::Pending;
        }
        drop(control);
        self.ticket = None;
        Poll::Ready(Gate { zones: self.zones.clone(), zone: self.zone, ticket })
    }
}

impl Drop for GateLock {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.zones.control().leave(&self.zones, self.zone, Who::Task(ticket));
        }
    }
}

/// A zone's gate, held by a task.
pub(crate) struct Gate {
    zones: Arc<Zones>,
    zone: ZoneIndex,
    ticket: u64,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.zones.control().leave(&self.zones, self.zone, Who::Task(self.ticket));
    }
}

/// Ends when nothing is in flight in a zone whose gate the task holds; the task is woken by
/// whoever leaves the zone last, or settles it.
pub(crate) fn drained(gate: &Gate) -> impl Future<Output = ()> + use<'_> {
    std::future::poll_fn(move |_| {
        let word = gate.zones.cells.load(gate.zone);
        if word.in_flight() == 0 && !word.is_failing() { Poll::Ready(()) } else { Poll::Pending }
    })
}
