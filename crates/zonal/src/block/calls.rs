//! Calls that block, beside the queues: a few threads of the drive's own, which make them one after
//! the other.
//!
//! A task asks with [`Calls::ask`] and is woken when the answer is there. Invariants: every call that
//! was taken is made, whoever still waits for it, and answered, even if it panics, which ends no thread; no more
//! than [`CALLERS_MAX`] are under way; whoever drops the [`Calls`] waits for those. How many wait is bounded by the tasks there are, each of which
//! asks one thing at a time.

use crate::sync::{Arc, Condvar, Mutex, lock, wait};
use crate::sys::thread;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use zonal_core::error::{Error, ErrorKind, Result};

/// The most calls under way at a time, and threads that make them. Devices work on zones one after
/// the other, or on a few at a time.
const CALLERS_MAX: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The threads, which start when there is something to call.
pub(crate) struct Calls {
    shared: Arc<Shared>,
    callers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    jobs: Mutex<Jobs>,
    came: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    idle: usize,
    over: bool,
}

impl Calls {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared { jobs: Mutex::default(), came: Condvar::new() });
        Self { shared, callers: Mutex::default() }
    }

    /// Has `call` made by one of the threads; the future gives its answer.
    ///
    /// # Errors
    /// There is no thread, and none can be had.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Answer<T>> {
        self.see_to_callers()?;
        let place: Arc<Mutex<Place<T>>> = Arc::new(Mutex::new(Place { answer: None, waker: None }));
        let answer = Answer(place.clone());
        let job = move || {
            // What a call shares with others is behind locks, and whole whenever they are let go.
            let made = catch_unwind(AssertUnwindSafe(call)).map_err(|_| {
                let text = "asking the device panicked, which is an error of this library; standard error has \
                            where: please report that";
                Error::new(ErrorKind::Io, text)
            });
            let mut place = lock(&place);
            place.answer = Some(made);
            if let Some(waker) = place.waker.take() {
                drop(place);
                waker.wake();
            }
        };
        lock(&self.shared.jobs).waiting.push_back(Box::new(job));
        self.shared.came.notify_one();
        Ok(answer)
    }

    /// Starts one more thread where all are busy and there may be more.
    ///
    /// # Errors
    /// There is no thread, and none can be had.
    pub(crate) fn see_to_callers(&self) -> io::Result<()> {
        let mut callers = lock(&self.callers);
        let jobs = lock(&self.shared.jobs);
        let enough = jobs.idle > jobs.waiting.len() || callers.len() == CALLERS_MAX;
        drop(jobs);
        if enough {
            return Ok(());
        }
        let shared = self.shared.clone();
        match thread::spawn("zonal-call", move || shared.work()) {
            Ok(caller) => callers.push(caller),
            // Those that are there will do.
            Err(error) if callers.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        lock(&self.shared.jobs).over = true;
        self.shared.came.notify_all();
        for caller in lock(&self.callers).drain(..) {
            if caller.join().is_err() {
                tracing::error!("a thread that makes blocking calls panicked");
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.over {
                return None;
            }
            jobs.idle += 1;
            jobs = wait(&self.came, jobs);
            jobs.idle -= 1;
        }
    }
}

/// What a call answers, when it has been made; an error if it panicked. Dropped, it leaves the call alone.
pub(crate) struct Answer<T>(Arc<Mutex<Place<T>>>);

struct Place<T> {
    answer: Option<Result<T>>,
    waker: Option<Waker>,
}

impl<T> Future for Answer<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut place = lock(&self.0);
        match place.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicUsize, Ordering};
    use futures::executor::block_on;
    use std::time::Duration;

    #[test]
    fn no_more_are_under_way_than_may_be_and_all_are_made() {
        let calls = Calls::new();
        let (now, most, made) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new((now, most, made));
        let answers: Vec<_> = (0..20)
            .map(|n| {
                let counts = counts.clone();
                let call = move || {
                    let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                    counts.1.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                    counts.0.fetch_sub(1, Ordering::SeqCst);
                    counts.2.fetch_add(1, Ordering::SeqCst);
                    n
                };
                calls.ask(call).unwrap()
            })
            .collect();
        let mut answers = answers.into_iter();
        for (n, answer) in answers.by_ref().take(10).enumerate() {
            assert_eq!(block_on(answer).unwrap(), n);
        }
        drop(answers); // nobody waits for the others
        drop(calls);
        assert_eq!(counts.2.load(Ordering::SeqCst), 20);
        assert!(counts.1.load(Ordering::SeqCst) <= CALLERS_MAX);
    }

    #[test]
    fn a_call_that_panics_is_answered_and_costs_no_thread() {
        let calls = Calls::new();
        let panics = || -> usize { panic!("a call that panics, as this test wants") };
        let answers: Vec<_> = (0..2 * CALLERS_MAX).map(|_| calls.ask(panics).unwrap()).collect();
        for answer in answers {
            let error = block_on(answer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        }
        assert_eq!(block_on(calls.ask(|| 7).unwrap()).unwrap(), 7);
    }
}
