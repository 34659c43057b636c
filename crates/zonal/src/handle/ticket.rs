//! What a future and its I/O thread share: one request, on its way there and back.
//!
//! ```text
//! idle ── ask ──► asked ── take ──► sent ── end ──► ended ── poll ──► idle
//!                   │                 │                │
//!                   └── abandon ──────┴────────────────┘
//! ```
//!
//! Invariants:
//! * each request that was taken ends once, and whoever gave it is to be woken for it;
//! * a request that is abandoned before it was taken is never sent;
//! * an I/O thread does not look at a ticket after it has ended it, so that its owner may use it
//!   again at once.
//!
//! The lock is held for a few instructions, by two parties at most; wakers run, and buffers are
//! dropped, outside of it.

use crate::queue::request::{Completion, Request};
use crate::sync::{Mutex, lock};
use std::mem;
use std::task::Waker;

/// One request of a handle.
#[derive(Default)]
pub(crate) struct Ticket(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// In line, or with its I/O thread, which has not looked at it.
    Asked { request: Request, waker: Option<Waker> },
    /// The thread's queue has it.
    Sent { waker: Option<Waker> },
    /// Nobody waits for it any more.
    Abandoned,
    /// It has ended, and its end was not taken.
    Ended(Completion),
}

/// What was abandoned.
pub(crate) enum Abandoned {
    /// A request that was never sent.
    Unsent(Request),
    /// One that is under way: it ends as it would have, and nobody hears of it.
    UnderWay,
    /// One that had ended.
    Over(Completion),
}

impl Ticket {
    /// Puts a request in.
    pub(crate) fn ask(&self, request: Request, waker: Option<Waker>) {
        *lock(&self.0) = State::Asked { request, waker };
    }

    /// Takes the request out to send it; none if it was abandoned.
    pub(crate) fn take(&self) -> Option<Request> {
        let mut state = lock(&self.0);
        match mem::take(&mut *state) {
            State::Asked { request, waker } => {
                *state = State::Sent { waker };
                Some(request)
            }
            State::Idle | State::Sent { .. } | State::Abandoned | State::Ended(_) => None,
        }
    }

    /// Ends a request that was taken. Gives back who is to be woken, or the completion if nobody
    /// waits for it any more.
    pub(crate) fn end(&self, completion: Completion) -> Result<Option<Waker>, Completion> {
        let mut state = lock(&self.0);
        match mem::take(&mut *state) {
            State::Sent { waker } => {
                *state = State::Ended(completion);
                Ok(waker)
            }
            State::Idle | State::Asked { .. } | State::Abandoned | State::Ended(_) => {
                Err(completion)
            }
        }
    }

    /// The end, if there is one; otherwise `waker` is woken for it.
    pub(crate) fn poll(&self, waker: &Waker) -> Option<Completion> {
        let mut state = lock(&self.0);
        match &mut *state {
            State::Asked { waker: kept, .. } | State::Sent { waker: kept } => {
                match kept {
                    Some(kept) => kept.clone_from(waker),
                    None => *kept = Some(waker.clone()),
                }
                None
            }
            State::Ended(_) => match mem::take(&mut *state) {
                State::Ended(completion) => Some(completion),
                State::Idle | State::Asked { .. } | State::Sent { .. } | State::Abandoned => None,
            },
            State::Idle | State::Abandoned => None,
        }
    }

    /// Nobody waits for the request any more.
    pub(crate) fn abandon(&self) -> Abandoned {
        match mem::replace(&mut *lock(&self.0), State::Abandoned) {
            State::Asked { request, .. } => Abandoned::Unsent(request),
            State::Ended(completion) => Abandoned::Over(completion),
            State::Idle | State::Sent { .. } | State::Abandoned => Abandoned::UnderWay,
        }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(*lock(&self.0), State::Abandoned)
    }

    /// Wakes who waits, to look at the clock.
    pub(crate) fn wake(&self) {
        let waker = match &*lock(&self.0) {
            State::Asked { waker, .. } | State::Sent { waker } => waker.clone(),
            State::Idle | State::Abandoned | State::Ended(_) => None,
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
