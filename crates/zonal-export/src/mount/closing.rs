//! Whether a `close` is a file's last one. FUSE says that a descriptor was closed, also of those that `dup` and
//! `fork` made, while the closer waits for the answer; and that it was the last one only afterwards, when
//! nobody waits any more. So `/proc` is asked; where it does not know, the close is not the last. Nor is it while
//! the process has a file of the same name open on another such mount.

use std::{fs, path::Path};

/// A descriptor that is being closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    /// The thread that opened the file to write, or 0.
    pub(super) opener: u64,
    /// The thread that closes it.
    pub(super) closer: u32,
}

impl Closing {
    /// Whether the process that opened the file now closes its last descriptor of it. `name` is the file's,
    /// from the mount's root on. A child does not close for its parent: a shell goes on when a command ends.
    pub(super) fn is_last(self, name: &str) -> bool {
        let process = Path::new("/proc").join(self.closer.to_string());
        if self.opener == 0 || !process.join("task").join(self.opener.to_string()).exists() {
            return false;
        }
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
        !descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
            .any(|target| target.ends_with(name))
    }
}
