//! Who may have a file, and its journal, at the same time: locks on open descriptions, which the ring holds as
//! well, so that they fall after a dead process's last write.
//!
//! * Who writes with a journal has the file alone. Writes of others, which the replay would undo, and reads of others,
//!   which would find units half in their places, are kept out.
//! * All others, who write without one or only read, share the file.
//! * Who writes to a journal has that alone, too: another file may have taken the place of the one that it is for, and
//!   that one's opening would find it there.

use crate::engine::file::FileDisk;
use crate::image::{LOCK_PATIENCE, random_id, refuse_replaced};
use crate::queue::{io_kind, io_text};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use zonal_core::error::{Error, ErrorKind, Result};

/// How often one who waits for a process that is gone looks again.
const PAUSE: Duration = Duration::from_millis(20);

/// How a file is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// By one that writes with a journal.
    Alone,
    /// By any number that do not.
    Shared,
}

/// Has the file that was opened at `path`, alone or not; it is left to others when it cannot be had so. Waits for a process
/// that is gone.
///
/// # Errors
/// [`ErrorKind::InUse`]; the file system has no locks.
pub(super) fn take(file: &FileDisk, path: &Path, hold: Hold) -> Result<()> {
    let path_shown = path.display();
    wait_for(file, hold, |alone| {
        if alone {
            return format!(
                "a process writes to it with a journal, and has the lock on it alone; end that process (`fuser \
                 {path_shown}` names it), or ask what can be asked beside it: zonal atomic info {path_shown}"
            );
        }
        format!(
            "who writes with a journal has the file alone, and a process has it open to read, or without one; end \
             that process (`fuser {path_shown}` names it)"
        )
    })?;
    refuse_replaced(file, path)
}

/// Has the journal that was opened at `place` alone.
///
/// # Errors
/// As [`take`].
pub(super) fn take_journal(journal: &FileDisk, place: &Path) -> Result<()> {
    wait_for(journal, Hold::Alone, |_| {
        format!(
            "the journal is in use, for the file that was here before or one elsewhere; end that process (`fuser {}` \
             names it), or name another place for the journal",
            place.display()
        )
    })?;
    refuse_replaced(journal, place)
}

/// Has the file alone if nobody else has it now; otherwise it is not had at all, as two who share it and want it alone would
/// wait for each other.
///
/// # Errors
/// The file system has no locks.
pub(super) fn try_alone(file: &FileDisk) -> Result<bool> {
    file.unlock().and_then(|()| file.try_lock()).map_err(lock_error)
}

/// Tries until something comes of it.
///
/// # Errors
/// Those of `attempt`; [`ErrorKind::InUse`]: nothing does.
pub(super) fn until_had<T>(mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let since = Instant::now();
    loop {
        if let Some(had) = attempt()? {
            return Ok(had);
        }
        if since.elapsed() > LOCK_PATIENCE {
            let text = "units in its journal are to be put in their places, for which one has to have the file alone, \
                        and others are at it; open it again";
            return Err(Error::new(ErrorKind::InUse, text));
        }
        // Not in step with another who wants the same: each would find the other's share in the way.
        let turn = random_id().map_or(1, |bytes| u32::from(bytes[0] % 16) + 1);
        std::thread::sleep(PAUSE * turn);
    }
}

/// Tries until it is had; `refused` says why it is not, given whether one has it alone.
fn wait_for(file: &FileDisk, hold: Hold, refused: impl Fn(bool) -> String) -> Result<()> {
    let attempt = || match hold {
        Hold::Alone => file.try_lock(),
        Hold::Shared => file.try_share(),
    };
    let since = Instant::now();
    while !attempt().map_err(lock_error)? {
        if since.elapsed() > LOCK_PATIENCE {
            let alone = file.is_locked().map_err(lock_error)?;
            return Err(Error::new(ErrorKind::InUse, refused(alone)));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn lock_error(error: io::Error) -> Error {
    Error::new(io_kind(&error), format!("the lock: {}", io_text(&error))).with_source(error)
}
