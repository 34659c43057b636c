//! What the program says: results to stdout (tables, JSON, raw bytes), talk and progress to stderr.

mod human;
mod json;
mod picture;
mod progress;
mod table;

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

pub(crate) use human::{
    format_bytes, format_count, format_nanos, format_rate, format_seconds, plural,
};
pub(crate) use json::print as print_json;
pub(crate) use picture::{folder_is_there, may_hold_picture, write_picture};
pub(crate) use progress::Progress;
pub(crate) use table::{Align, Table};

/// How the user wants to be spoken to; one for the whole run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    /// Results as JSON.
    pub(crate) json: bool,
    /// Errors only.
    pub(crate) quiet: bool,
}

impl Ui {
    /// A line of talk.
    pub(crate) fn say(&self, line: impl fmt::Display) {
        if !self.quiet {
            // Talk that cannot be written is no reason to fail.
            let _ = writeln!(io::stderr(), "zonal: {line}");
        }
    }

    /// A bar over `total` steps of bytes, hidden unless stderr is a terminal of its own.
    pub(crate) fn progress(&self, total: Option<u64>) -> Progress {
        let visible = !self.quiet && io::stderr().is_terminal();
        Progress::new(total, visible)
    }

    /// A bar over `total` things, likewise.
    pub(crate) fn counter(&self, total: u64) -> Progress {
        let visible = !self.quiet && io::stderr().is_terminal();
        Progress::counting(total, visible)
    }

    /// Whether somebody is there to be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks and returns whether the answer was yes.
    pub(crate) fn ask(&self, question: impl fmt::Display) -> io::Result<bool> {
        write!(io::stderr(), "zonal: {question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
    }
}

/// Stdout as a plain file, for raw bytes: the standard handle would look for line ends in them.
pub(crate) fn raw_stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}
