//! What an I/O thread asks of its queue beyond what others may: to be woken while it waits.

use super::Queue;
use crate::buffer::{Arena, Buffer};
use crate::mailbox::Mailbox;
use std::sync::Arc;
use std::time::Duration;
use zonal_core::error::Result;

impl Queue {
    /// Submits everything pushed, and waits until a completion can be taken, the mailbox has
    /// something, or `limit` has passed; with nothing in flight for the latter two alone.
    pub(crate) fn submit_and_park(&mut self, limit: Option<Duration>) -> Result<()> {
        self.advance();
        if self.completed.is_empty() && !self.mailbox.has_any() {
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
