//! The rare operations' way through a queue: futures on the queue's own thread.
//!
//! A flush or a finish takes many steps. Each is one `async` function (see [`super::cold`]); the
//! queue polls it when its I/O has ended or another queue has woken it. The I/O of tasks goes
//! through the [`Desk`], which keeps each buffer until the kernel is done with it, whatever
//! becomes of the task.

use crate::block::Answer;
use crate::buffer::Buffer;
use crate::engine::{Io, IoKind, Zoned};
use crate::mailbox::{Mailbox, TaskWaker};
use crate::zones::Standing;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use zonal_core::error::Result;
use zonal_core::units::ZoneIndex;

/// Marks an engine token as a task's; the others are slots.
const TASK_IO: u64 = 1 << 63;

/// Where tasks hand in I/O and results.
#[derive(Default)]
pub(crate) struct Desk {
    inner: RefCell<DeskInner>,
}

#[derive(Default)]
struct DeskInner {
    next: u64,
    outbox: VecDeque<Io>,
    jobs: HashMap<u64, Job>,
    finished: Vec<(u32, Result<()>)>,
    /// What devices say of zones whose lanes asked.
    heard: Vec<(ZoneIndex, Result<Standing>)>,
    /// How many tasks wait for a call that blocks elsewhere.
    calling: usize,
}

struct Job {
    kind: IoKind,
    offset: u64,
    buffer: Option<Buffer>,
    result: Option<io::Result<u32>>,
    waker: Option<Waker>,
    abandoned: bool,
}

impl Desk {
    /// Starts an I/O and waits for its end. A buffer must be as long as `length` says.
    pub(crate) fn io(
        self: &Rc<Self>,
        kind: IoKind,
        offset: u64,
        length: u64,
        buffer: Option<Buffer>,
    ) -> DeskIo {
        self.start(kind, offset, length, buffer, None)
    }

    /// The same for what only a device with zones of its own is asked; a buffer is read into.
    pub(crate) fn command(
        self: &Rc<Self>,
        zoned: Zoned,
        offset: u64,
        buffer: Option<Buffer>,
    ) -> DeskIo {
        let kind = if buffer.is_some() { IoKind::Read } else { IoKind::SyncData };
        let length = buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
        self.start(kind, offset, length, buffer, Some(zoned))
    }

    fn start(
        self: &Rc<Self>,
        kind: IoKind,
        offset: u64,
        length: u64,
        buffer: Option<Buffer>,
        zoned: Option<Zoned>,
    ) -> DeskIo {
        let mut inner = self.inner.borrow_mut();
        let token = TASK_IO | inner.next;
        inner.next += 1;
        let mut job = Job { kind, offset, buffer, result: None, waker: None, abandoned: false };
        let ptr = job.buffer.as_mut().map_or(std::ptr::null_mut(), |buffer| buffer.as_mut_ptr());
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        inner.outbox.push_back(Io { kind, offset, ptr, len, fixed: false, token, zoned });
        inner.jobs.insert(token, job);
        DeskIo { desk: self.clone(), token }
    }

    /// The next I/O to give to the engine.
    pub(crate) fn next_io(&self) -> Option<Io> {
        self.inner.borrow_mut().outbox.pop_front()
    }

    /// An I/O has ended.
    pub(crate) fn ended(&self, token: u64, result: io::Result<u32>) {
        let mut inner = self.inner.borrow_mut();
        let Some(job) = inner.jobs.get_mut(&token) else { return };
        if job.abandoned {
            inner.jobs.remove(&token);
            return;
        }
        job.result = Some(result);
        if let Some(waker) = job.waker.take() {
            waker.wake();
        }
    }

    /// What a task with this waker waits for: which of the I/O of that kind, by order of submission,
    /// and where.
    pub(crate) fn wait_of(&self, waker: &Waker) -> Option<(IoKind, u64, usize)> {
        let jobs = &self.inner.borrow().jobs;
        let own = |job: &Job| job.waker.as_ref().is_some_and(|waiting| waiting.will_wake(waker));
        let (token, job) = jobs.iter().find(|(_, job)| own(job))?;
        let before = jobs.iter().filter(|(other, j)| *other < token && j.kind == job.kind);
        Some((job.kind, job.offset, before.count()))
    }

    /// The operation in `slot` has ended.
    pub(crate) fn finish(&self, slot: u32, result: Result<()>) {
        self.inner.borrow_mut().finished.push((slot, result));
    }

    /// A device has said how a zone stands.
    pub(crate) fn hear(&self, zone: ZoneIndex, standing: Result<Standing>) {
        self.inner.borrow_mut().heard.push((zone, standing));
    }

    /// What was heard since.
    pub(crate) fn take_heard(&self) -> Vec<(ZoneIndex, Result<Standing>)> {
        std::mem::take(&mut self.inner.borrow_mut().heard)
    }

    /// Waits for a call that is made on another thread.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn answer<T>(&self, answer: Answer<T>) -> Result<T> {
        self.inner.borrow_mut().calling += 1;
        let _calling = Calling(self);
        answer.await
    }

    /// Whether a task waits for such a call.
    pub(crate) fn is_calling(&self) -> bool {
        self.inner.borrow().calling > 0
    }

    /// The operations that have ended since.
    pub(crate) fn take_finished(&self, finished: &mut Vec<(u32, Result<()>)>) {
        finished.append(&mut self.inner.borrow_mut().finished);
    }
}

/// A task that waits for a call.
struct Calling<'a>(&'a Desk);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().calling -= 1;
    }
}

/// Whether an engine token belongs to a task's I/O.
pub(crate) fn is_task_io(token: u64) -> bool {
    token & TASK_IO != 0
}

/// An I/O of a task; gives the result and the buffer.
pub(crate) struct DeskIo {
    desk: Rc<Desk>,
    token: u64,
}

impl Future for DeskIo {
    type Output = (io::Result<u32>, Option<Buffer>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.desk.inner.borrow_mut();
        let Some(mut job) = inner.jobs.remove(&self.token) else { return Poll::Pending };
        if let Some(result) = job.result.take() {
            return Poll::Ready((result, job.buffer.take()));
        }
        job.waker = Some(cx.waker().clone());
        inner.jobs.insert(self.token, job);
        Poll::Pending
    }
}

impl Drop for DeskIo {
    fn drop(&mut self) {
        let mut inner = self.desk.inner.borrow_mut();
        let ended = inner.jobs.get(&self.token).is_none_or(|job| job.result.is_some());
        if ended {
            inner.jobs.remove(&self.token);
        } else if let Some(job) = inner.jobs.get_mut(&self.token) {
            job.abandoned = true;
        }
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A queue's tasks.
pub(crate) struct Tasks {
    /// For which slot, the task, and what wakes it.
    tasks: Vec<Option<(u32, Task, Waker)>>,
    live: usize,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self { tasks: Vec::new(), live: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// What there is: for which slot, and what wakes it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Waker)> {
        self.tasks.iter().flatten().map(|(slot, _, waker)| (*slot, waker))
    }

    /// Adds a task that works for a slot; its number is for [`Tasks::poll`].
    pub(crate) fn add(&mut self, mailbox: &Arc<Mailbox>, slot: u32, task: Task) -> u32 {
        let free = self.tasks.iter().position(Option::is_none);
        let index = free.unwrap_or(self.tasks.len());
        if free.is_none() {
            self.tasks.push(None);
        }
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let waker = Arc::new(TaskWaker { mailbox: mailbox.clone(), task: number }).into();
        self.tasks[index] = Some((slot, task, waker));
        self.live += 1;
        number
    }

    /// Polls a task, if it is still there.
    pub(crate) fn poll(&mut self, number: u32) {
        let Some(place) = self.tasks.get_mut(number as usize) else { return };
        let Some((_, task, waker)) = place else { return };
        if task.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            *place = None;
            self.live -= 1;
        }
    }

    /// Drops a task, with what it holds.
    pub(crate) fn cancel(&mut self, number: u32) {
        if let Some(place) = self.tasks.get_mut(number as usize)
            && place.take().is_some()
        {
            self.live -= 1;
        }
    }

    /// Drops all tasks.
    pub(crate) fn clear(&mut self) {
        self.tasks.clear();
        self.live = 0;
    }
}
