//! How a run ends: its exit code.

use std::{io, process::ExitCode};

/// The end of a command that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// The answer is no: something was found that should not be.
    Negative,
    /// Something waits for what will never come (`sim`).
    Stuck,
    /// The code that was looked at has panicked (`sim`).
    Crashed,
    /// Stopped early by this signal; what was there is flushed.
    Interrupted(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Negative => Self::from(1),
            Outcome::Stuck => Self::from(STUCK),
            Outcome::Crashed => Self::from(CRASHED),
            Outcome::Interrupted(signal) => Self::from(128 + signal),
        }
    }
}

/// The exit code of an error.
pub(crate) const ERROR: u8 = 2;

/// The exit codes of `sim` for what neither ends well nor says something wrong.
pub(crate) const STUCK: u8 = 3;
const CRASHED: u8 = 4;

/// Whether `error` is that nobody reads stdout any more, as in `zonal report … | head -1`.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
