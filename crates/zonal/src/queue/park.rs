//! What an I/O thread asks of its queue beyond what others may: to be woken while it waits.

use super::Queue;
use crate::buffer::{Arena, Buffer};
use crate::mailbox::Mailbox;
use std::sync::Arc;
use std::time::Duration;
use zonal_core::error::Result;

/// Of so many requests under way, the end of one is waited for, where others may follow soon.
const LINGER_SHARE: usize = 4;

/// For how long at most: a fraction of what a thread takes to be woken and to hand over a batch
/// on a loaded machine, and a multiple of what a fast disk takes for one.
pub(crate) const LINGER: Duration = Duration::from_micros(100);

impl Queue {
    /// Where many requests are under way, submits everything pushed and waits a moment for a part
    /// of them, so that they are taken in together. Nobody can end this wait. Returns whether it
    /// has waited, or found completions at once.
    pub(crate) fn linger(&mut self) -> Result<bool> {
        self.advance();
        let want = self.issued / LINGER_SHARE;
        if !self.completed.is_empty() {
            return Ok(true);
        }
        if want < 2 {
            return Ok(false);
        }
        self.enter_engine(want, Some(LINGER))?;
        self.reap();
        self.advance();
        Ok(true)
    }

    /// Submits everything pushed, and waits until a completion can be taken, the mailbox has
    /// something, or `limit` has passed; with nothing in flight for the latter two alone.
    pub(crate) fn submit_and_park(&mut self, limit: Option<Duration>) -> Result<()> {
        self.nudged = false;
        self.advance();
        // What was in the mail has been read: a nudge in it is all there is to be known of it.
        if self.completed.is_empty() && !self.nudged && !self.mailbox.has_any() {
            self.wait(1, limit)?;
        }
        self.go()
    }

    /// How many requests it holds at most.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// What wakes it.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Whether a buffer is of the memory that the kernel may know.
    pub(crate) fn is_leased(&self, buffer: &Buffer) -> bool {
        self.arena.as_ref().is_some_and(|arena: &Arena| buffer.is_of(arena))
    }
}
