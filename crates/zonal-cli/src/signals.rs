//! SIGINT, SIGTERM and SIGHUP as a flag, for the commands that must drain and flush before they
//! end.
//!
//! A second one ends the program at once, whenever it comes. Only what follows the first faster than anybody
//! can ask twice is the same wish: `timeout` signals a program, and in the same breath its process group.
//!
//! And SIGXFSZ, which must not end it: the write over the limit fails, and says so.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag,
    iterator::Signals,
    low_level::emulate_default_handler,
};

/// How soon after the first a signal is the same wish.
const SAME_WISH: Duration = Duration::from_millis(20);

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
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let came = signal.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut first: Option<Instant> = None;
            for number in signals.forever() {
                if first.get_or_insert_with(Instant::now).elapsed() > SAME_WISH {
                    // It ends the program, as these signals do by themselves.
                    let _ = emulate_default_handler(number);
                }
                let number = usize::try_from(number).unwrap_or_default();
                let _ = came.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
            }
        })?;
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
