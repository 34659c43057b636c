//! One I/O thread as those who give it work see it.
//!
//! ```text
//! submit ─► a place is free ─────────────► inbox ─► thread ─► queue ─► …
//!    │                                       ▲
//!    └────► none: in line, until one is ─────┘
//! ```
//!
//! A lane has as many *places* as its queue is deep. Who has one is in the inbox or in the queue;
//! so neither can overflow, and what comes back always has somewhere to go. The others stand in
//! line and are served in the order in which they came.
//!
//! Invariants:
//! * in the order in which a thread submits its requests they reach the queue;
//! * nobody is in line while a place is free, but for the moment until whoever freed or saw it
//!   serves the line;
//! * a thread that sleeps has said so, and from how many requests on it is to be woken, before it
//!   looked into its inbox for the last time; who puts something in looks for that afterwards: one
//!   of the two sees the other. Unless it is one request, the thread sleeps for a moment only;
//! * who is to be woken is woken within a moment, whatever others do;
//! * a lane that has closed has all its places back, an empty inbox and nobody in line.

use super::ticket::Ticket;
use super::timers::Timers;
use crate::mailbox::{Mailbox, Message};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::sync::{Mutex, MutexGuard, lock};
use crossbeam_queue::ArrayQueue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use zonal_core::error::{Error, ErrorKind};

/// So many of those in line may have been abandoned, or half of them if that is more, before they are
/// taken out: so dropped futures take memory in proportion to those that wait, and each costs the same.
const ABANDONED_MAX: usize = 64;

pub(crate) struct Lane {
    depth: usize,
    inbox: ArrayQueue<Arc<Ticket>>,
    /// Places that are free.
    places: AtomicUsize,
    /// How many stand in line.
    in_line: AtomicUsize,
    line: Mutex<Line>,
    running: AtomicBool,
    /// While the thread sleeps, how many requests in the inbox wake it; otherwise zero.
    wakes_at: AtomicUsize,
    stopping: AtomicBool,
    pub(crate) timers: Timers,
    /// Who is to be woken, by whoever comes first: see [`Lane::wake_all`].
    wakers: ArrayQueue<Waker>,
}

#[derive(Default)]
struct Line {
    tickets: VecDeque<Arc<Ticket>>,
    /// How many were abandoned since the line was last looked through; a few of them may have been in the
    /// inbox by then.
    abandoned: usize,
    /// Why nothing is taken any more.
    closed: Option<(ErrorKind, String)>,
    /// Wakes the thread, once it has a queue.
    mailbox: Option<Arc<Mailbox>>,
}

impl Lane {
    pub(crate) fn new(depth: u32) -> Self {
        let depth = depth as usize;
        Self {
            depth,
            inbox: ArrayQueue::new(depth),
            places: AtomicUsize::new(0),
            in_line: AtomicUsize::new(0),
            line: Mutex::default(),
            running: AtomicBool::new(false),
            wakes_at: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            timers: Timers::default(),
            wakers: ArrayQueue::new(depth),
        }
    }

    // ---- those who give it work -----------------------------------------------------------

    /// Hands a request to the thread, now or when there is a place.
    ///
    /// # Errors
    /// The lane takes nothing any more.
    pub(crate) fn submit(&self, ticket: &Arc<Ticket>) -> Result<(), Error> {
        if self.try_submit(ticket) {
            return Ok(());
        }
        let mut line = lock(&self.line);
        if let Some((kind, text)) = &line.closed {
            return Err(Error::new(*kind, text.clone()));
        }
        line.tickets.push_back(ticket.clone());
        self.in_line.fetch_add(1, Ordering::SeqCst);
        self.serve(line);
        Ok(())
    }

    /// The same, if there is a place now.
    pub(crate) fn try_submit(&self, ticket: &Arc<Ticket>) -> bool {
        let free = self.in_line.load(Ordering::SeqCst) == 0 && self.take_place();
        if free {
            self.post(ticket.clone());
        }
        free
    }

    /// A ticket was abandoned before its request was taken. It may stand in line.
    pub(crate) fn abandoned(&self) {
        if self.in_line.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut line = lock(&self.line);
        line.abandoned += 1;
        let length = line.tickets.len();
        if line.abandoned > ABANDONED_MAX.max(length / 2) {
            line.abandoned = 0;
            line.tickets.retain(|ticket| !ticket.is_abandoned());
            self.in_line.fetch_sub(length - line.tickets.len(), Ordering::SeqCst);
            // If they were all who stood in line, a place may be free now that nobody looks for.
            self.serve(line);
        }
    }

    /// Whether there is a thread, or one is about to be.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Makes the thread look about, if it sleeps.
    pub(crate) fn nudge(&self) {
        fence(Ordering::SeqCst);
        if self.wakes_at.load(Ordering::Relaxed) > 0 && self.wakes_at.swap(0, Ordering::AcqRel) > 0
        {
            let mailbox = lock(&self.line).mailbox.clone();
            if let Some(mailbox) = mailbox {
                mailbox.post(Message::Nudge);
            }
        }
    }

    /// Asks the thread to end when it has nothing to do any more.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.nudge();
    }

    fn take_place(&self) -> bool {
        let one_less = |free: usize| free.checked_sub(1);
        self.places.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }

    fn post(&self, ticket: Arc<Ticket>) {
        let fits = self.inbox.push(ticket).is_ok();
        debug_assert!(fits, "there are no more places than room in the inbox");
        fence(Ordering::SeqCst);
        let wakes_at = self.wakes_at.load(Ordering::Relaxed);
        if wakes_at > 0 && self.inbox.len() >= wakes_at {
            self.nudge();
        }
    }

    /// Lets those in line go on who can.
    fn serve(&self, mut line: MutexGuard<'_, Line>) {
        while !line.tickets.is_empty() && self.take_place() {
            let Some(ticket) = line.tickets.pop_front() else { break };
            // In the inbox before the line looks shorter: nobody may pass by.
            let fits = self.inbox.push(ticket).is_ok();
            debug_assert!(fits, "there are no more places than room in the inbox");
            self.in_line.fetch_sub(1, Ordering::SeqCst);
        }
        drop(line);
        self.nudge();
    }

    /// Wakes everybody whose request has ended.
    ///
    /// The thread wakes the first by itself, and leaves the others for a moment to whoever is
    /// woken: it runs where they will run, and can wake them without a system call each.
    pub(super) fn wake_all(&self) {
        while let Some(waker) = self.wakers.pop() {
            waker.wake();
        }
    }

    // ---- the thread -----------------------------------------------------------------------

    /// The thread has a queue that can be woken.
    pub(super) fn wake_by(&self, mailbox: &Arc<Mailbox>) {
        lock(&self.line).mailbox = Some(mailbox.clone());
    }

    /// The next request there is.
    pub(super) fn next(&self) -> Option<Arc<Ticket>> {
        self.inbox.pop()
    }

    /// A request has ended, or was abandoned before it was sent.
    pub(super) fn free_place(&self) {
        self.places.fetch_add(1, Ordering::SeqCst);
        if self.in_line.load(Ordering::SeqCst) > 0 {
            self.serve(lock(&self.line));
        }
    }

    /// Wakes one of these, who will wake the others; those must be woken before long in any case.
    pub(super) fn wake_one(&self, wakers: &mut Vec<Waker>) {
        let Some(first) = wakers.pop() else { return };
        for waker in wakers.drain(..) {
            if let Err(waker) = self.wakers.push(waker) {
                waker.wake();
            }
        }
        first.wake();
    }

    /// Whether somebody is still to be woken.
    pub(super) fn has_to_wake(&self) -> bool {
        !self.wakers.is_empty()
    }

    /// Says that the thread is about to sleep until `requests` are in the inbox, one or more.
    /// False: it must not, there is work.
    pub(super) fn fall_asleep(&self, requests: usize) -> bool {
        self.wakes_at.store(requests, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let ends = self.is_stopping() && self.places.load(Ordering::SeqCst) == self.depth;
        let work = ends || self.inbox.len() >= requests;
        if work {
            self.wake_up();
        }
        !work
    }

    pub(super) fn wake_up(&self) {
        self.wakes_at.store(0, Ordering::SeqCst);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Takes nothing any more, for that reason, if there is nothing left to do.
    pub(super) fn close(&self, kind: ErrorKind, why: &str) -> bool {
        let all = self.places.compare_exchange(self.depth, 0, Ordering::SeqCst, Ordering::SeqCst);
        if all.is_err() {
            return false;
        }
        let mut line = lock(&self.line);
        if line.tickets.is_empty() {
            line.closed = Some((kind, why.to_owned()));
            line.mailbox = None;
            self.running.store(false, Ordering::SeqCst);
            return true;
        }
        self.places.store(self.depth, Ordering::SeqCst);
        self.serve(line);
        false
    }

    /// Takes requests, for a thread that is about to start.
    pub(super) fn open(&self) {
        let mut line = lock(&self.line);
        line.closed = None;
        self.wake_up();
        self.stopping.store(false, Ordering::SeqCst);
        self.places.store(self.depth, Ordering::SeqCst);
        self.running.store(true, Ordering::SeqCst);
        drop(line);
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::super::ticket::Abandoned;
    use super::*;
    use crate::queue::request::Request;

    fn asked() -> Arc<Ticket> {
        let ticket = Arc::<Ticket>::default();
        ticket.ask(Request::flush(), None);
        ticket
    }

    #[test]
    fn the_line_does_not_grow_with_those_who_left_it() {
        let lane = Lane::new(1);
        lane.open();
        let live: Vec<_> = (0..100).map(|_| asked()).collect();
        let mut longest = 0;
        for (n, ticket) in live.iter().enumerate() {
            lane.submit(ticket).unwrap();
            for _ in 0..1000 {
                let left = asked();
                lane.submit(&left).unwrap();
                assert!(matches!(left.abandon(), Abandoned::Unsent(_)));
                lane.abandoned();
            }
            let length = lock(&lane.line).tickets.len();
            assert_eq!(length, lane.in_line.load(Ordering::SeqCst));
            assert!(length <= n + 1 + ABANDONED_MAX.max(n + 1) + 1, "{length} with {n}");
            longest = longest.max(length);
        }
        assert!(longest >= live.len() - 1);
        // All who wait are served, in their order.
        for ticket in &live {
            let next = std::iter::from_fn(|| {
                let next = lane.next();
                lane.free_place();
                next
            });
            let taken = next.into_iter().find(|next| next.take().is_some()).unwrap();
            assert!(Arc::ptr_eq(&taken, ticket));
        }
    }
}
