//! One I/O thread: it takes requests out of its lane's inbox, drives a [`Queue`], and ends them.
//!
//! It sleeps in the kernel, for completions and for new requests alike, and looks at neither
//! while there is nothing to do. As long as it is awake nobody has to wake it.

use super::lane::Lane;
use super::ticket::Ticket;
use crate::buffer::Arena;
use crate::device::Drive;
use crate::queue::request::{Completion, Flags, Request};
use crate::queue::{LINGER, MANY, Queue, QueueOptions};
use crate::zones::Counts;
use std::sync::Arc;
use std::task::Waker;
use zonal_core::error::{Error, ErrorKind};

/// What the thread of a lane is made with.
pub(super) struct Outfit {
    pub(super) drive: Arc<Drive>,
    pub(super) options: QueueOptions,
    pub(super) arena: Option<Arena>,
    pub(super) number: u32,
    pub(super) rest: Rest,
}

impl Outfit {
    /// The thread's life. However it ends, nobody is left waiting; nor if it never begins.
    pub(super) fn run(self) {
        let Self { drive, options, arena, number, mut rest } = self;
        let lane = rest.lane.clone();
        let _span = tracing::debug_span!("io_thread", drive = drive.name, number).entered();
        tracing::debug!("starts");
        rest.why = Some(panicked());
        let outcome = Queue::private(&drive, &options, arena).and_then(|queue| {
            lane.wake_by(queue.mailbox());
            Worker::new(drive.clone(), queue, &mut rest).work()
        });
        match outcome {
            Ok(()) => rest.why = None,
            Err(error) => {
                tracing::warn!("{}: an I/O thread ends: {error}", drive.name);
                rest.why = Some((error.kind(), error.detail().to_owned()));
            }
        }
    }
}

/// What is said of a drive that was closed.
pub(super) const CLOSED: &str = "the drive was closed; open it again";

fn panicked() -> (ErrorKind, String) {
    (ErrorKind::Io, "an I/O thread panicked; what it had under way may have been done".to_owned())
}

/// The requests under way, and why those that are left when the thread ends have failed.
pub(super) struct Rest {
    lane: Arc<Lane>,
    /// By the tag they have in the queue, with their own.
    tickets: Vec<Option<(Arc<Ticket>, u64)>>,
    /// None: the lane was closed in order, and nothing is left.
    why: Option<(ErrorKind, String)>,
}

impl Rest {
    /// Of a lane that has been opened, before its thread begins.
    pub(super) fn new(lane: &Arc<Lane>) -> Self {
        let why = (ErrorKind::Io, "its I/O thread cannot be started".to_owned());
        Self { lane: lane.clone(), tickets: Vec::new(), why: Some(why) }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        // Whoever was to wake them may be gone, and the thread is.
        self.lane.wake_all();
        let Some((kind, text)) = self.why.take() else { return };
        let fail = |ticket: &Ticket, tag, buffer| {
            let result = Err(Error::new(kind, text.clone()));
            let flags = Flags::default();
            let ended = ticket.end(Completion { tag, result, flags, offset: 0, buffer });
            self.lane.free_place();
            if let Ok(Some(waker)) = ended {
                waker.wake();
            }
        };
        for (ticket, tag) in self.tickets.iter_mut().filter_map(Option::take) {
            fail(&ticket, tag, None);
        }
        loop {
            while let Some(ticket) = self.lane.next() {
                match ticket.take() {
                    Some(request) => fail(&ticket, request.tag, request.into_buffer()),
                    None => self.lane.free_place(),
                }
            }
            if self.lane.close(kind, &text) {
                return;
            }
            crate::sync::yield_now();
        }
    }
}

/// How many requests to expect of those for whom so many have just ended, where they are many:
/// three quarters, as some may not ask again. Handed over together they are one batch.
fn follow_ups(ended: usize) -> usize {
    if ended < MANY / 2 { 1 } else { ended * 3 / 4 }
}

struct Worker<'a> {
    drive: Arc<Drive>,
    queue: Queue,
    rest: &'a mut Rest,
    free: Vec<usize>,
    wakers: Vec<Waker>,
}

impl<'a> Worker<'a> {
    fn new(drive: Arc<Drive>, queue: Queue, rest: &'a mut Rest) -> Self {
        let depth = queue.depth();
        rest.tickets.resize_with(depth, || None);
        let wakers = Vec::with_capacity(depth);
        Self { drive, queue, rest, free: (0..depth).rev().collect(), wakers }
    }

    /// Until the lane is asked to stop and everything has ended.
    fn work(mut self) -> Result<(), Error> {
        let mut ended = 0;
        loop {
            self.take_in();
            self.sleep(follow_ups(ended))?;
            self.queue.linger()?;
            ended = self.give_out();
            if self.rest.lane.is_stopping()
                && self.rest.lane.close(ErrorKind::DeviceReadOnly, CLOSED)
            {
                return Ok(());
            }
        }
    }

    /// Submits what was taken in, and sleeps until a request has ended, so many new ones are
    /// there, or a timer rings.
    fn sleep(&mut self, requests: usize) -> Result<(), Error> {
        let lane = &self.rest.lane;
        let asleep = !self.queue.start_all() && lane.fall_asleep(requests);
        // In this order: a timer that is set after the look ends the sleep.
        let next = lane.timers.ring();
        if !asleep {
            self.queue.submit()?;
            return Ok(());
        }
        let moment = (requests > 1 || lane.has_to_wake()).then_some(LINGER);
        self.queue.submit_and_park(next.into_iter().chain(moment).min())?;
        lane.wake_up();
        lane.wake_all();
        Ok(())
    }

    fn take_in(&mut self) {
        while let Some(ticket) = self.rest.lane.next() {
            match ticket.take() {
                Some(request) => self.push(ticket, request),
                None => self.rest.lane.free_place(),
            }
        }
    }

    fn push(&mut self, ticket: Arc<Ticket>, mut request: Request) {
        if request.buffer().is_some_and(|buffer| !self.queue.is_leased(buffer)) {
            Counts::add(&self.drive.zones.counts.bounced);
        }
        let index = self.free.pop().expect("a lane has as many places as its queue");
        let tag = std::mem::replace(&mut request.tag, index as u64);
        self.rest.tickets[index] = Some((ticket, tag));
        self.queue.push(request).expect("a lane has as many places as its queue");
    }

    /// Ends what has ended, and has all woken who wait for it. Returns how many there were.
    fn give_out(&mut self) -> usize {
        let mut count = 0;
        while let Some(mut completion) = self.queue.next_completion() {
            let index = usize::try_from(completion.tag).unwrap_or(usize::MAX);
            let Some((ticket, tag)) = self.rest.tickets.get_mut(index).and_then(Option::take)
            else {
                continue;
            };
            self.free.push(index);
            completion.tag = tag;
            match ticket.end(completion) {
                Ok(waker) => self.wakers.extend(waker),
                Err(unheard) => self.unheard(&unheard),
            }
            self.rest.lane.free_place();
            count += 1;
        }
        self.rest.lane.wake_one(&mut self.wakers);
        count
    }

    /// Nobody waits for this one any more.
    fn unheard(&self, completion: &Completion) {
        Counts::add(&self.drive.zones.counts.orphaned);
        if let Err(error) = &completion.result {
            tracing::warn!("a request whose future was dropped has failed: {error}");
        }
    }
}
