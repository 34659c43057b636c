//! A request as a future: asked with the first poll, orphaned when dropped, waited for with or
//! without a runtime.

use super::lane::Lane;
use super::pool::Pool;
use super::ticket::{Abandoned, Ticket};
use super::timers::TimerId;
use crate::buffer::Buffer;
use crate::queue::request::{Completion, Flags, Full, Request};
use crate::queue::stalled;
use crate::sync::thread;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::units::ZoneIndex;

/// A request to a drive, to be awaited ([`Future`]) or waited for ([`Operation::wait`]).
///
/// Nothing is done before it is first polled, waited for, or started. From then on it may be
/// carried out whatever becomes of this value: dropping it orphans the request, which ends as it
/// would have, unobserved; its buffer stays alive until then. Only a request that its I/O thread
/// has not taken yet is withdrawn when dropped.
///
/// `T` is what comes of it: a [`Transfer`], nothing, or the bare [`Completion`].
#[must_use = "an operation does nothing until it is awaited, waited for, or started"]
pub struct Operation<T> {
    pool: Arc<Pool>,
    zone: ZoneIndex,
    name: &'static str,
    step: Step,
    limit: Option<Limit>,
    _outcome: PhantomData<fn() -> T>,
}

enum Step {
    New(Request),
    Asked {
        ticket: Arc<Ticket>,
        lane: Arc<Lane>,
    },
    /// Without having been asked.
    Ended(Completion),
    Over,
}

impl Step {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Over)
    }
}

struct Limit {
    time: Duration,
    /// When it is over, and the timer for it; known with the first poll.
    until: Option<TimerId>,
}

/// What came of a write or a read that went well.
#[derive(Debug)]
pub struct Transfer {
    /// Where it was: the absolute byte offset on the drive at which an append landed, or a write
    /// or read was made.
    pub offset: u64,
    /// The bytes that were written or read.
    pub buffer: Buffer,
    /// What else there is to know.
    pub flags: Flags,
}

/// A write or a read that failed; its buffer comes back.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// The buffer; `None` where the request is still under way, after a time-out.
    pub buffer: Option<Buffer>,
    /// What else there is to know.
    pub flags: Flags,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        failed.error.into()
    }
}

mod sealed {
    use super::*;

    /// What a completion is made into.
    pub trait Outcome {
        type Output;
        fn of(completion: Completion) -> Self::Output;
    }

    impl Outcome for Completion {
        type Output = Completion;

        fn of(completion: Completion) -> Completion {
            completion
        }
    }

    impl Outcome for () {
        type Output = Result<()>;

        fn of(completion: Completion) -> Result<()> {
            completion.result.map(drop)
        }
    }

    impl Outcome for Transfer {
        type Output = Result<Transfer, Failed>;

        fn of(completion: Completion) -> Result<Transfer, Failed> {
            let Completion { result, flags, offset, buffer, .. } = completion;
            match (result, buffer) {
                (Ok(_), Some(buffer)) => Ok(Transfer { offset, buffer, flags }),
                (Err(error), buffer) => Err(Failed { error, buffer, flags }),
                (Ok(_), None) => {
                    let error = Error::new(ErrorKind::InvalidInput, "it moves no bytes");
                    Err(Failed { error, buffer: None, flags })
                }
            }
        }
    }
}

pub(super) use sealed::Outcome;

impl<T: Outcome> Operation<T> {
    pub(super) fn new(pool: &Arc<Pool>, zone: ZoneIndex, request: Request) -> Self {
        let name = request.name();
        let (pool, step) = (pool.clone(), Step::New(request));
        Self { pool, zone, name, step, limit: None, _outcome: PhantomData }
    }

    /// One that fails when it is asked for.
    pub(super) fn refused(pool: &Arc<Pool>, request: Request, error: Error) -> Self {
        let mut operation = Self::new(pool, ZoneIndex(0), request);
        if let Step::New(request) = operation.step.take() {
            operation.refuse(error, request);
        }
        operation
    }

    /// Waits for no longer than `time`, counted from the first poll; then it fails as `Stalled`.
    ///
    /// A request that its thread had not taken is withdrawn, and its buffer comes back. One that
    /// was under way is orphaned: it may have been carried out, or may be later, so that doing it
    /// again may do it twice.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.limit = Some(Limit { time, until: None });
        self
    }

    /// Completes a write only when it is durable, as [`Request::fua`].
    pub fn fua(mut self) -> Self {
        if let Step::New(request) = &mut self.step {
            request.fua = true;
        }
        self
    }

    /// Sends the request now, if there is a place for it among those under way.
    ///
    /// # Errors
    /// [`Full`] gives the request back when there is none.
    pub fn try_start(mut self) -> Result<Self, Full> {
        let Step::New(request) = self.step.take() else { return Ok(self) };
        let lane = match self.lane() {
            Ok(lane) => lane,
            Err(error) => {
                self.refuse(error, request);
                return Ok(self);
            }
        };
        let ticket = self.pool.ticket();
        ticket.ask(request, None);
        if !lane.try_submit(&ticket)
            && let Abandoned::Unsent(request) = ticket.abandon()
        {
            return Err(Full(request));
        }
        self.step = Step::Asked { ticket, lane };
        Ok(self)
    }

    /// Sends the request now, or puts it in line for a place.
    pub(super) fn start(mut self) -> Self {
        if let Step::New(request) = self.step.take() {
            self.ask(request, None);
        }
        self
    }

    /// Waits for the end and blocks the calling thread; needs no runtime, and may be called in
    /// one.
    pub fn wait(mut self) -> T::Output {
        let waker = Arc::new(Parked(thread::current())).into();
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }

    fn lane(&self) -> Result<Arc<Lane>> {
        self.pool.lane(self.zone).cloned()
    }

    fn ask(&mut self, request: Request, waker: Option<Waker>) {
        let lane = match self.lane() {
            Ok(lane) => lane,
            Err(error) => return self.refuse(error, request),
        };
        let ticket = self.pool.ticket();
        ticket.ask(request, waker);
        match lane.submit(&ticket) {
            Ok(()) => self.step = Step::Asked { ticket, lane },
            Err(error) => {
                if let Abandoned::Unsent(request) = ticket.abandon() {
                    self.refuse(error, request);
                }
            }
        }
    }

    fn refuse(&mut self, error: Error, request: Request) {
        let error = error.during(self.name).on(&*self.pool.drive.name);
        let mut flags = Flags::default();
        flags.insert(Flags::REFUSED);
        let (tag, result) = (request.tag, Err(error));
        let buffer = request.into_buffer();
        self.step = Step::Ended(Completion { tag, result, flags, offset: 0, buffer });
    }

    /// Begins to count the time there is, unless that is done. Whoever is to be woken is known.
    fn set_timer(&mut self) {
        if let (Some(limit @ Limit { until: None, .. }), Step::Asked { ticket, lane }) =
            (&mut self.limit, &self.step)
            && let Some(at) = Instant::now().checked_add(limit.time)
        {
            limit.until = Some(lane.timers.set(at, ticket));
            lane.nudge();
        }
    }

    fn unset_timer(&mut self) {
        if let (Some(Limit { until, .. }), Step::Asked { lane, .. }) = (&mut self.limit, &self.step)
            && let Some(timer) = until.take()
        {
            lane.timers.unset(timer);
        }
    }

    fn is_late(&self) -> bool {
        let until = self.limit.as_ref().and_then(|limit| limit.until);
        until.is_some_and(|(at, _)| at <= Instant::now())
    }

    /// The time is up: what there is to say instead of the request's own end.
    fn give_up(&self, ticket: &Ticket, lane: &Lane) -> Completion {
        let (mut tag, mut buffer, mut flags) = (0, None, Flags::default());
        let waited_for = match ticket.abandon() {
            Abandoned::Over(completion) => return completion,
            Abandoned::Unsent(request) => {
                lane.abandoned();
                tag = request.tag;
                buffer = request.into_buffer();
                flags.insert(Flags::REFUSED);
                let places = self.pool.options().depth;
                format!("one of the {places} places of its I/O thread, and was withdrawn")
            }
            Abandoned::UnderWay => match self.pool.drive.zones.owners(self.zone).as_slice() {
                [] => "its end; it may still be carried out".to_owned(),
                owners => format!(
                    "its end, with writes of queues {owners:?} under way in its zone; it may \
                         still be carried out"
                ),
            },
        };
        let error = stalled(&waited_for).in_zone(self.zone.0);
        let error = error.during(self.name).on(&*self.pool.drive.name);
        Completion { tag, result: Err(error), flags, offset: 0, buffer }
    }
}

impl<T: Outcome> Future for Operation<T> {
    type Output = T::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        let this = self.get_mut();
        if let Step::New(_) = this.step {
            if let Step::New(request) = this.step.take() {
                this.ask(request, Some(context.waker().clone()));
                this.set_timer();
            }
            if let Step::Asked { .. } = this.step {
                return Poll::Pending;
            }
        }
        let mut late = false;
        let completion = match &this.step {
            Step::Asked { ticket, .. } => match ticket.poll(context.waker()) {
                Some(completion) => completion,
                None => {
                    this.set_timer();
                    late = this.is_late();
                    match &this.step {
                        Step::Asked { ticket, lane } if late => this.give_up(ticket, lane),
                        _ => return Poll::Pending,
                    }
                }
            },
            Step::New(_) | Step::Ended(_) | Step::Over => match this.step.take() {
                Step::Ended(completion) => return Poll::Ready(T::of(completion)),
                _ => panic!("an operation is polled after its end"),
            },
        };
        this.unset_timer();
        if let Step::Asked { lane, .. } = &this.step {
            lane.wake_all();
        }
        match this.step.take() {
            // An abandoned ticket is still its thread's.
            Step::Asked { ticket, .. } if !late => this.pool.give_back(ticket),
            _ => {}
        }
        Poll::Ready(T::of(completion))
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        let Step::Asked { ticket, lane } = &self.step else { return };
        if let Some(timer) = self.limit.as_ref().and_then(|limit| limit.until) {
            lane.timers.unset(timer);
        }
        if let Abandoned::Unsent(_) = ticket.abandon() {
            lane.abandoned();
        }
    }
}

impl<T> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operation({} in zone {})", self.name, self.zone)
    }
}

/// Ends the sleep of a thread that waits.
struct Parked(thread::Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
