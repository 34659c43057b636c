//! SIGINT and SIGTERM as a flag, for the commands that must drain and flush before they end.
//!
//! The second signal ends the program at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Whether the user has asked to stop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Takes the signals over from now on.
    pub(crate) fn install() -> std::io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(AtomicBool::new(false));
        for (number, value) in [(SIGINT, 2), (SIGTERM, 15)] {
            // In this order: the first signal finds `seen` unset and passes.
            flag::register_conditional_default(number, seen.clone())?;
            flag::register(number, seen.clone())?;
            flag::register_usize(number, signal.clone(), value)?;
        }
        Ok(Self(signal))
    }

    /// The signal that came, if one did.
    pub(crate) fn signal(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            2 => Some(2),
            _ => Some(15),
        }
    }

    /// Whether a signal came.
    pub(crate) fn came(&self) -> bool {
        self.signal().is_some()
    }
}
