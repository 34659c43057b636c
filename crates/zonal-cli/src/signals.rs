//! SIGINT, SIGTERM and SIGHUP as a flag, for the commands that must drain and flush before they
//! end.
//!
//! One that comes a second or more after the first ends the program at once. Sooner ones are the
//! same wish: `timeout` signals a program, and then its process group.
//!
//! And SIGXFSZ, which must not end it: the write over the limit fails, and says so.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag,
};

/// From now on a write over the process's limit on files fails with EFBIG, and is handled like
/// other failures, instead of ending the program without a word.
pub(crate) fn outlive_file_limit() -> std::io::Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(|_| ())
}

/// Whether the user has asked to stop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Takes the signals over from now on.
    pub(crate) fn install() -> std::io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let insist = Arc::new(AtomicBool::new(false));
        for (number, value) in [(SIGINT, 2), (SIGTERM, 15), (SIGHUP, 1)] {
            flag::register_conditional_default(number, insist.clone())?;
            flag::register_usize(number, signal.clone(), value)?;
        }
        let came = signal.clone();
        thread::spawn(move || {
            while came.load(Ordering::Relaxed) == 0 {
                thread::sleep(Duration::from_millis(200));
            }
            thread::sleep(Duration::from_secs(1));
            insist.store(true, Ordering::Relaxed);
        });
        Ok(Self(signal))
    }

    /// The signal that came, if one did.
    pub(crate) fn signal(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(1),
            2 => Some(2),
            _ => Some(15),
        }
    }

    /// Whether long work goes on: not when a signal came.
    pub(crate) fn check(&self) -> ControlFlow<()> {
        if self.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Whether a signal came.
    pub(crate) fn came(&self) -> bool {
        self.signal().is_some()
    }
}
