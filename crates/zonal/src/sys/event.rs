//! A counter that a waiting engine can be woken by (an eventfd).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// An eventfd. A ring only ever has it written: its repeating poll request tells of each write.
/// Who sleeps on it with [`wait`](Self::wait) takes the counter back to zero after.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Event {
    /// Makes one.
    ///
    /// # Errors
    /// No descriptor or no memory is left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes whoever polls. Cannot fail in a way that matters: a counter at its end is readable
    /// already.
    pub(crate) fn signal(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Sleeps until somebody has signalled, for no longer than `limit`. May wake for nothing.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        // What the kernel cannot count to is for ever.
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut this = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut this, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes back every signal so far.
    pub(crate) fn clear(&self) {
        // Nothing there to be read is as good.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
