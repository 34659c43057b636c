//! A request to an [`AtomicFile`](super::AtomicFile) as a future, with a blocking twin.
//!
//! It goes out with its first poll and ends exactly once: whoever drops a [`Job`] without having ended it
//! ends it with an error, so that nobody waits for a thread that is gone.

use super::{AtomicPath, Inbox, Written};
use crate::buffer::Buffer;
use crate::handle::{Failed, Transfer};
use crate::queue::request::Flags;
use crate::sync::{Mutex, lock, thread};
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use zonal_core::error::{Error, ErrorKind, Result};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A write that is never torn, or refused.
    WriteAtomic,
    /// Several of them that are one: all of them are there, or none.
    WriteBatch,
    /// A write like any other.
    Write,
    /// A read.
    Read,
    /// All that has ended is made durable.
    Flush,
    /// The file ends at the offset from now on.
    SetLength,
}

impl What {
    /// Its name in errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WriteAtomic => "atomic write",
            Self::WriteBatch => "atomic batch",
            Self::Write => "write",
            Self::Read => "read",
            Self::Flush => "flush",
            Self::SetLength => "set length",
        }
    }
}

/// How a request ended.
pub(super) struct End {
    pub(super) result: Result<AtomicPath>,
    pub(super) offset: u64,
    pub(super) buffer: Option<Buffer>,
    /// It was refused before anything was done.
    pub(super) refused: bool,
}

/// A request on its way.
pub(super) struct Job {
    pub(super) what: What,
    pub(super) offset: u64,
    pub(super) buffer: Option<Buffer>,
    /// A write is durable when it ends.
    pub(super) durable: bool,
    /// The units of a batch.
    pub(super) units: Vec<Unit>,
    /// How long the file was when a read that had ended short was begun again.
    pub(super) length_seen: Option<u64>,
    reply: Option<Arc<Reply>>,
}

/// One unit of a batch: where it goes, and its bytes.
pub(super) type Unit = (u64, Buffer);

impl Job {
    pub(super) fn new(what: What, offset: u64, buffer: Option<Buffer>) -> Self {
        Self {
            what,
            offset,
            buffer,
            durable: false,
            units: Vec::new(),
            length_seen: None,
            reply: None,
        }
    }

    /// A batch of these units.
    pub(super) fn batch(units: Vec<Unit>) -> Self {
        let mut job = Self::new(What::WriteBatch, 0, None);
        job.units = units;
        job
    }

    /// With somebody who will hear of its end.
    pub(super) fn heard(mut self) -> (Self, Arc<Reply>) {
        let reply = Arc::new(Reply::default());
        self.reply = Some(reply.clone());
        (self, reply)
    }

    /// How many units it is.
    pub(super) fn count(&self) -> usize {
        self.units.len().max(1)
    }

    /// Its bytes, those of all units together.
    pub(super) fn length(&self) -> usize {
        let of = |buffer: &Buffer| buffer.len();
        self.buffer.as_ref().map_or(0, of)
            + self.units.iter().map(|unit| of(&unit.1)).sum::<usize>()
    }

    /// Its units: where each goes, and its bytes.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let own = self.buffer.as_deref().map(|bytes| (self.offset, bytes));
        own.into_iter().chain(self.units.iter().map(|(offset, bytes)| (*offset, &**bytes)))
    }

    /// The bytes it touches. Checked when it was made, so no sum overflows.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let behind = (self.what == What::SetLength).then_some(self.offset..u64::MAX);
        let piece =
            |(offset, bytes): (u64, &[u8])| offset..offset.saturating_add(bytes.len() as u64);
        self.pieces().map(piece).chain(behind)
    }

    /// Whether both touch a byte.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.ranges().any(|range| other.touches(&range))
    }

    /// Whether it touches a byte of `range`.
    pub(super) fn touches(&self, range: &Range<u64>) -> bool {
        self.ranges().any(|own| own.start < range.end && range.start < own.end)
    }

    pub(super) fn is_write(&self) -> bool {
        match self.what {
            What::WriteAtomic | What::WriteBatch | What::Write | What::SetLength => true,
            What::Read | What::Flush => false,
        }
    }

    /// Ends it.
    pub(super) fn end(mut self, result: Result<AtomicPath>, refused: bool) {
        self.end_with(result, refused);
    }

    fn end_with(&mut self, result: Result<AtomicPath>, refused: bool) {
        if let Some(reply) = self.reply.take() {
            let buffer = self.buffer.take();
            reply.end(End { result, offset: self.offset, buffer, refused });
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let text = "its I/O thread is gone; what was under way may have been done";
        self.end_with(Err(Error::new(ErrorKind::Io, text).during(self.what.name())), false);
    }
}

/// What a future and its I/O thread share.
#[derive(Default)]
pub(super) struct Reply(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Silent,
    Awaited(Waker),
    Ended(End),
    Taken,
}

impl Reply {
    fn end(&self, end: End) {
        if let State::Awaited(waker) = mem::replace(&mut *lock(&self.0), State::Ended(end)) {
            waker.wake();
        }
    }

    /// The end, if there is one; otherwise `waker` is woken for it.
    fn poll(&self, waker: &Waker) -> Option<End> {
        let mut state = lock(&self.0);
        match mem::replace(&mut *state, State::Taken) {
            State::Ended(end) => Some(end),
            State::Silent | State::Awaited(_) => {
                *state = State::Awaited(waker.clone());
                None
            }
            State::Taken => None,
        }
    }

    /// The end, for who drives the other side itself.
    #[cfg(test)]
    pub(super) fn take(&self) -> Option<End> {
        self.poll(Waker::noop())
    }
}

/// A request to an [`AtomicFile`](super::AtomicFile): `.await` it under any runtime, or [`wait`](Self::wait)
/// for it without one.
///
/// Nothing is done before it is first polled or waited for. From then on it is carried out whatever becomes
/// of this value.
#[must_use = "an operation does nothing until it is awaited or waited for"]
pub struct AtomicOperation<T> {
    inbox: Arc<Inbox>,
    step: Step,
    _outcome: PhantomData<fn() -> T>,
}

enum Step {
    New(Job),
    Asked(Arc<Reply>),
    Refused(End),
    Over,
}

mod sealed {
    use super::*;

    /// What an end is made into.
    pub trait Outcome {
        type Output;
        #[doc(hidden)]
        fn of(end: AtomicEnd) -> Self::Output;
    }

    /// An end, where its name may be seen.
    pub struct AtomicEnd(pub(super) End);

    impl Outcome for () {
        type Output = Result<()>;

        fn of(end: AtomicEnd) -> Result<()> {
            end.0.result.map(drop)
        }
    }

    impl Outcome for Written {
        type Output = Result<Written, Failed>;

        fn of(end: AtomicEnd) -> Result<Written, Failed> {
            let (path, offset, buffer) = parts(end.0)?;
            Ok(Written { offset, path, buffer })
        }
    }

    impl Outcome for Transfer {
        type Output = Result<Transfer, Failed>;

        fn of(end: AtomicEnd) -> Result<Transfer, Failed> {
            let (_, offset, buffer) = parts(end.0)?;
            Ok(Transfer { offset, buffer, flags: Flags::default() })
        }
    }

    fn parts(end: End) -> Result<(AtomicPath, u64, Buffer), Failed> {
        let End { result, offset, buffer, refused } = end;
        let mut flags = Flags::default();
        if refused {
            flags.insert(Flags::REFUSED);
        }
        match (result, buffer) {
            (Ok(path), Some(buffer)) => Ok((path, offset, buffer)),
            (Err(error), buffer) => Err(Failed { error, buffer, flags }),
            (Ok(_), None) => {
                let error = Error::new(ErrorKind::Io, "it came back without its buffer");
                Err(Failed { error, buffer: None, flags })
            }
        }
    }
}

use sealed::AtomicEnd;
pub(super) use sealed::Outcome;

impl<T: Outcome> AtomicOperation<T> {
    pub(super) fn new(inbox: &Arc<Inbox>, job: Job) -> Self {
        Self { inbox: inbox.clone(), step: Step::New(job), _outcome: PhantomData }
    }

    /// One that fails when it is asked for.
    pub(super) fn refused(inbox: &Arc<Inbox>, mut job: Job, error: Error) -> Self {
        let (offset, buffer) = (job.offset, job.buffer.take());
        let end = End { result: Err(error), offset, buffer, refused: true };
        Self { inbox: inbox.clone(), step: Step::Refused(end), _outcome: PhantomData }
    }

    /// Lets a write end only when it is durable. On the journal's path an atomic write always is.
    pub fn durable(mut self) -> Self {
        if let Step::New(job) = &mut self.step {
            job.durable = matches!(job.what, What::WriteAtomic | What::Write);
        }
        self
    }

    /// Waits for the end and blocks the calling thread; needs no runtime, and may be called in one.
    pub fn wait(mut self) -> T::Output {
        if let Step::New(job) = &mut self.step
            && let Some(result) = self.inbox.write_at_once(job)
        {
            let (offset, buffer) = (job.offset, job.buffer.take());
            return T::of(AtomicEnd(End { result, offset, buffer, refused: false }));
        }
        let waker = Arc::new(Parked(thread::current())).into();
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }
}

impl<T: Outcome> Future for AtomicOperation<T> {
    type Output = T::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        let this = self.get_mut();
        let end = match mem::replace(&mut this.step, Step::Over) {
            Step::Refused(end) => end,
            Step::New(job) => {
                let (job, reply) = job.heard();
                // Before it goes, so that its end finds whom to wake.
                let none = reply.poll(context.waker());
                debug_assert!(none.is_none(), "it has not been asked yet");
                this.inbox.put(job);
                this.step = Step::Asked(reply);
                return Poll::Pending;
            }
            Step::Asked(reply) => match reply.poll(context.waker()) {
                Some(end) => end,
                None => {
                    this.step = Step::Asked(reply);
                    return Poll::Pending;
                }
            },
            Step::Over => panic!("an operation is polled after its end"),
        };
        Poll::Ready(T::of(AtomicEnd(end)))
    }
}

impl<T> fmt::Debug for AtomicOperation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicOperation").finish_non_exhaustive()
    }
}

/// Ends the sleep of a thread that waits.
struct Parked(thread::Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
