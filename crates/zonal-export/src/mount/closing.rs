//! Whether a `close` is a file's last one. FUSE says that a descriptor was closed, also of those that `dup` and
//! `fork` made, while the closer waits for the answer; and that it was the last one only afterwards, when
//! nobody waits any more. So `/proc` is asked; where it does not know, the close is not the last. Nor is it while
//! a process has a file of the same name open on another such mount.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A descriptor that is being closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    /// The thread that opened the file to write, or 0.
    pub(super) opener: u64,
    /// The thread that closes it.
    pub(super) closer: u32,
    /// Whether other users may have the file.
    pub(super) shared: bool,
}

impl Closing {
    /// Whether the process that opened the file now closes its last descriptor of it, and no other has one.
    /// `name` is the file's, from the mount's root on. A child does not close for its parent: a shell goes on
    /// when a command ends.
    pub(super) fn is_last(self, name: &str) -> bool {
        let process = process(self.closer);
        if self.opener == 0 || !process.join("task").join(self.opener.to_string()).exists() {
            return false;
        }
        matches!(has_open(&process, name), Ok(false)) && !self.is_open_elsewhere(name)
    }

    /// Whether any process has it open still: a child that was given it, or went on when its parent ended.
    fn is_open_elsewhere(self, name: &str) -> bool {
        let Ok(entries) = fs::read_dir("/proc") else { return true };
        let numbers =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        numbers.map(|number| has_open(&process(number), name)).any(|open| match open {
            Ok(open) => open,
            // That of another user, who has it only if this mount is theirs as well.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.shared,
            // It has ended.
            Err(_) => false,
        })
    }
}

fn process(number: u32) -> PathBuf {
    Path::new("/proc").join(number.to_string())
}

/// Whether a process has a file of that name open.
fn has_open(process: &Path, name: &str) -> io::Result<bool> {
    let mut descriptors = fs::read_dir(process.join("fd"))?;
    Ok(descriptors.any(|descriptor| {
        descriptor
            .and_then(|descriptor| fs::read_link(descriptor.path()))
            .is_ok_and(|target| target.ends_with(name))
    }))
}
