//! What an I/O thread asks of its queue beyond what others may: to be woken while it waits.

use super::Queue;
use crate::buffer::{Arena, Buffer};
use crate::mailbox::Mailbox;
use std::sync::Arc;
use std::time::Duration;
use zonal_core::error::Result;

/// From so many requests under way on, the end of one is no reason to look up: others follow.
pub(crate) const MANY: usize = 8;

/// Which part of them is waited for then: half of them, so that as much is under way meanwhile.
const LINGER_SHARE: usize = 2;

/// For how long at most: a fraction of what a thread takes to be woken and to hand over a batch
/// on a loaded machine, and a multiple of what a fast disk takes for one.
pub(crate) const LINGER: Duration = Duration::from_micros(100);

impl Queue {
    /// Starts everything pushed, without a system call. Whether something has ended by that alone:
    /// on a drive in memory, or because it was refused.
    pub(crate) fn start_all(&mut self) -> bool {
        self.advance();
        !self.completed.is_empty()
    }

    /// Where the first of many requests under way has ended, waits a moment for others of them, so
    /// that they are taken in together. Nobody can end this wait.
    pub(crate) fn linger(&mut self) -> Result<()> {
        let ended = self.completed.len();
        let under_way = self.issued + ended;
        let want = under_way / LINGER_SHARE;
        if ended == 0 || ended >= want || under_way < MANY {
            return Ok(());
        }
        self.enter_engine(want - ended, Some(LINGER))?;
        self.reap();
        self.advance();
        Ok(())
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
