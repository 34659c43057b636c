//! Which journal a file's units may wait in, noted on the file itself: so that it is found by whatever name the file
//! is opened, and whatever journal is named.
//!
//! The note is an extended attribute of the file, [`NAME`]: the journal's identifier in hexadecimal, a blank, and its
//! path. It is durable before the first unit is on its way to its place, and taken off, with the lock still held, when
//! the file is closed with nothing left in the journal. A file system that has no such attributes, or no room for this
//! one, has none; there a journal is found by its place alone.

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the attribute is called; `setfattr -x` takes it off.
pub(super) const NAME: &str = "user.zonal.journal";

/// The longest note: that of the longest path.
const BYTES_MAX: usize = 33 + libc::PATH_MAX as usize;

/// Which journal it is, and where it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) id: [u8; 16],
    pub(super) path: PathBuf,
}

impl Note {
    /// That of the journal at `place`, which is there.
    pub(super) fn new(id: [u8; 16], place: &Path) -> io::Result<Self> {
        Ok(Self { id, path: fs::canonicalize(place)? })
    }

    /// What a file has; none as well where somebody else's words stand there.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; BYTES_MAX];
        match fgetxattr(file, NAME, &mut bytes[..]) {
            Ok(length) => Ok(Self::parse(&bytes[..length])),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts it on a file, durably. One that stands there may not be durable yet: whoever put it was killed, perhaps.
    pub(super) fn put(&self, file: &File) -> io::Result<()> {
        if Self::read(file)?.as_ref() == Some(self) {
            return file.sync_all();
        }
        match fsetxattr(file, NAME, &self.bytes(), XattrFlags::empty()) {
            Ok(()) => file.sync_all(),
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG | Errno::RANGE)) => {
                tracing::warn!(
                    "there is no room for {NAME}; its journal is found by its place alone: {error}"
                );
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        for byte in self.id {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        [text.as_bytes(), b" ", self.path.as_os_str().as_bytes()].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, path) = bytes.split_at_checked(32)?;
        let path = path.strip_prefix(b" ").filter(|path| path.starts_with(b"/"))?;
        let id = u128::from_str_radix(str::from_utf8(id).ok()?, 16).ok()?;
        Some(Self { id: id.to_be_bytes(), path: PathBuf::from(OsStr::from_bytes(path)) })
    }
}

/// Takes the note off, durably. One that stays is no harm as long as its journal does, which is empty.
pub(super) fn take_off(file: &File) {
    let taken = match fremovexattr(file, NAME) {
        Ok(()) => file.sync_all(),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = taken {
        tracing::debug!("{NAME} may stay: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_anything_else_is_none() {
        let note = Note { id: [0xAB; 16], path: "/a b/c.journal".into() };
        assert_eq!(Note::parse(&note.bytes()), Some(note.clone()));
        assert_eq!(note.bytes(), [&b"ab".repeat(16)[..], b" /a b/c.journal"].concat());
        for other in [&b""[..], b"ab", &b"zz".repeat(20), &[0xFF; 60], &b"ab".repeat(17)] {
            assert_eq!(Note::parse(other), None, "{other:?}");
        }
    }
}
