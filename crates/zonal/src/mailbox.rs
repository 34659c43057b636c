//! How queues, which belong to one thread each, hear of one another.

use crate::engine::Notifier;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, lock, wait, wait_timeout};
use crate::zones::Finding;
use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;
use zonal_core::zone::{Verdict, ZoneState};

/// Word to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The request parked in that slot is first at its gate, and may look again.
    Turn { slot: u32 },
    /// The held write in that slot has its verdict, and what a device's report said.
    Verdict { slot: u32, verdict: Verdict, finding: Option<Finding> },
    /// That task can go on.
    Poll { task: u32 },
    /// That zone becomes read-only or offline, by a fault plan.
    Condemn { zone: u32, condition: ZoneState },
    /// Nothing but that its thread should look about.
    Nudge,
}

/// A queue's mail: written by any thread, read by the queue's.
pub(crate) struct Mailbox {
    any: AtomicBool,
    messages: Mutex<Vec<Message>>,
    arrived: Condvar,
    /// Wakes an engine that waits in the kernel; none for drives without one.
    notifier: Option<Notifier>,
}

impl Mailbox {
    pub(crate) fn new(notifier: Option<Notifier>) -> Self {
        Self {
            any: AtomicBool::new(false),
            messages: Mutex::new(Vec::with_capacity(64)),
            arrived: Condvar::new(),
            notifier,
        }
    }

    pub(crate) fn post(&self, message: Message) {
        let mut messages = lock(&self.messages);
        messages.push(message);
        // Under the lock: who finds mail there and no flag would look again and again.
        self.any.store(true, Ordering::Release);
        drop(messages);
        match &self.notifier {
            Some(notifier) => notifier.notify(),
            None => self.arrived.notify_one(),
        }
    }

    /// Whether there is mail; no lock.
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Moves all mail behind what is in `mail`.
    pub(crate) fn take(&self, mail: &mut Vec<Message>) {
        let mut messages = lock(&self.messages);
        self.any.store(false, Ordering::Release);
        mail.append(&mut messages);
    }

    /// Waits for mail, or for nothing at times, for a queue that has no engine to wait in.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let messages = lock(&self.messages);
        if !messages.is_empty() {
            return;
        }
        match timeout {
            Some(limit) => drop(wait_timeout(&self.arrived, messages, &self.messages, limit)),
            None => drop(wait(&self.arrived, messages)),
        }
    }
}

/// Wakes one task of one queue.
pub(crate) struct TaskWaker {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) task: u32,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mailbox.post(Message::Poll { task: self.task });
    }
}
