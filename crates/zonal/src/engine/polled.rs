//! The engine whose device is asked for completions, instead of interrupting: over a file, or an NVMe
//! namespace.
//!
//! ```text
//! push ─► what moves records ─► polled ───────────────────────┬─► reap
//!    └──► all else ─► ordinary ◄─ notification ───────────────┘
//! ```
//!
//! A ring that polls (`IORING_SETUP_IOPOLL`) takes direct reads and writes, or commands, and neither
//! a sync nor a poll request on an eventfd. So there are two, and the second has everything else; what
//! that is, is told by what is below ([`Below::is_polled`]).
//!
//! Invariants:
//! * A request is in exactly one of the rings, which keeps the promises of [`Uring`].
//! * While the first has something in flight, nothing sleeps: a wait asks the device, looks at the
//!   second ring, at the notification and at the clock, in turn. It never asks the kernel to wait for
//!   the device: that would miss the others for as long as the device takes.
//! * While the first has nothing in flight, a wait is one of the second ring, and sleeps there.
//! * Each ring waits, when it is dropped, for what it has in flight.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::file::FileDisk;
use super::uring::{Below, Uring, UringNotifier};
use super::{EngineOptions, Io};
use crate::buffer::Arena;
use crate::sys::file::polled_queues;

/// One thread's two rings over one file or namespace.
#[derive(Debug)]
pub(crate) struct Polled<B: Below = FileDisk> {
    polled: Uring<B>,
    ordinary: Uring<B>,
}

impl Polled {
    /// Rings for the calling thread, after one read that shows whether the device can be asked.
    pub(super) fn new(
        file: &FileDisk,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Self> {
        if !file.is_direct() {
            return Err(refused("its file system has no direct I/O"));
        }
        let mut rings = Self::over(file, options, arena)?;
        match (rings.polled.try_reading(), polled_queues(file.identity()?.device)) {
            // Kernels like 6.6 do not refuse the read, but go on with interrupts.
            (Ok(()) | Err(_), Some((setting, false))) => Err(refused(&format!(
                "{} is 0, as its driver has no queues for that (nvme has the module parameter \
                 poll_queues, on the kernel's command line nvme.poll_queues=2; null_blk has \
                 poll_queues)",
                setting.display()
            ))),
            (Err(error), _) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(refused(&format!("its file system or device refuses a polled read ({error})")))
            }
            (Err(error), _) => Err(error),
            (Ok(()), _) => Ok(rings),
        }
    }
}

impl<B: Below + Clone> Polled<B> {
    /// Both rings, without a look at whether the device can be asked. Without `hipri` the first is an
    /// ordinary one too, which is for tests.
    pub(super) fn over(
        below: &B,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Self> {
        let ordinary = EngineOptions { hipri: false, sqpoll: false, ..*options };
        // No buffer is registered twice: the locked memory would count twice.
        let ordinary = Uring::over(below.clone(), &ordinary, None)?;
        Ok(Self { polled: Uring::over(below.clone(), options, arena)?, ordinary })
    }
}

impl<B: Below> Polled<B> {
    /// The ring that asks.
    pub(super) fn asking(&self) -> &Uring<B> {
        &self.polled
    }

    /// The same, to try it.
    pub(super) fn asking_mut(&mut self) -> &mut Uring<B> {
        &mut self.polled
    }

    /// # Safety
    /// As [`Engine::push`](super::Engine::push).
    pub(super) unsafe fn push(&mut self, io: Io) -> Result<(), Io> {
        let ring = if B::is_polled(&io) { &mut self.polled } else { &mut self.ordinary };
        // SAFETY: the caller's promise, handed on.
        unsafe { ring.push(io) }
    }

    pub(super) fn submit(&mut self, wait_for: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.ordinary.submit(0, None)?;
        self.polled.ask()?;
        if wait_for == 0 {
            return Ok(());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let target = wait_for.min(self.in_flight()).max(1);
        while self.polled.ended() + self.ordinary.ended() < target {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if self.polled.awaited() == 0 {
                return self.ordinary.submit(target - self.polled.ended(), left);
            }
            if self.ordinary.take_notification() || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            self.ordinary.look()?;
            self.polled.ask()?;
        }
        Ok(())
    }

    pub(super) fn reap(&mut self, mut each: impl FnMut(u64, io::Result<u32>)) {
        self.polled.reap(&mut each);
        self.ordinary.reap(each);
    }

    /// False while the device has to be asked: it makes no descriptor readable.
    pub(super) fn prepare_to_poll(&mut self) -> io::Result<bool> {
        if self.polled.in_flight() > 0 {
            self.submit(0, None)?;
            return Ok(false);
        }
        self.ordinary.prepare_to_poll()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.polled.in_flight() + self.ordinary.in_flight()
    }

    pub(super) fn notifier(&self) -> UringNotifier {
        self.ordinary.notifier()
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.ordinary.as_raw_fd()
    }

    pub(super) fn registered_bytes(&self) -> usize {
        self.polled.registered_bytes()
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.polled.syscalls() + self.ordinary.syscalls()
    }
}

/// Why completions cannot be polled for, and what to do next.
pub(crate) fn refused(why: &str) -> io::Error {
    let text = format!("completions cannot be polled for (hipri): {why}; leave hipri out");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests;
