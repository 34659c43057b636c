//! Locks on files that live as long as the open file description they were taken through.
//!
//! Not the process's locks: those fall when any descriptor of the file is closed, and do not
//! keep two handles of one process apart. The ring holds the description too, so this lock falls
//! only after the last write of a killed process has landed.

use std::io;
use std::os::fd::AsRawFd;

/// Takes the lock on the whole file for this description alone, if it is free; tells whether it
/// was.
///
/// # Errors
/// The file system has no locks, or the descriptor is not open for writing.
pub(crate) fn try_lock(file: &impl AsRawFd) -> io::Result<bool> {
    try_kind(file, libc::F_WRLCK)
}

/// Takes the lock on the whole file together with others that share it, unless one has it alone; tells
/// whether it did. Who had it alone lets the others in by this.
///
/// # Errors
/// The file system has no locks, or the descriptor is not open for reading.
pub(crate) fn try_share(file: &impl AsRawFd) -> io::Result<bool> {
    try_kind(file, libc::F_RDLCK)
}

fn try_kind(file: &impl AsRawFd, kind: libc::c_int) -> io::Result<bool> {
    match set_lock(file, kind) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Gives the lock back. Closing alone does it late: the kernel takes a ring that was closed apart
/// in the background, and the ring holds the description until then.
///
/// # Errors
/// The file system has no locks.
pub(crate) fn unlock(file: &impl AsRawFd) -> io::Result<()> {
    set_lock(file, libc::F_UNLCK)
}

/// Whether another description has the lock alone; takes nothing.
///
/// # Errors
/// The file system has no locks.
pub(crate) fn is_locked(file: &impl AsRawFd) -> io::Result<bool> {
    let mut request = whole_file(libc::F_RDLCK);
    // SAFETY: the descriptor is open for the borrow of `file`, and the kernel writes a `flock` into
    // `request`, which is one and outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut request) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::c_int::from(request.l_type) != libc::F_UNLCK)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    // SAFETY: `flock` is plain data; zero is a valid value of each field, and l_pid must be 0.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = i16::try_from(kind).unwrap_or(i16::MAX);
    request.l_whence = 0; // SEEK_SET; start 0 and length 0 mean the whole file
    request
}

fn set_lock(file: &impl AsRawFd, kind: libc::c_int) -> io::Result<()> {
    let request = whole_file(kind);
    // SAFETY: the descriptor is open for the borrow of `file`, and the kernel only reads
    // `request`, which outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_description_has_the_lock_and_its_close_gives_it_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = file.reopen().unwrap();
        let second = file.reopen().unwrap();
        assert!(!is_locked(&second).unwrap());
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        let reader = std::fs::File::open(file.path()).unwrap();
        assert!(is_locked(&reader).unwrap() && !is_locked(&first).unwrap(), "by another");
        let same_description = first.try_clone().unwrap();
        drop(first);
        assert!(!try_lock(&second).unwrap());
        drop(same_description);
        assert!(try_lock(&second).unwrap());
        unlock(&second).unwrap();
        assert!(try_lock(&file).unwrap());
    }

    #[test]
    fn some_share_the_lock_or_one_has_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let [one, two, reader] = [file.reopen(), file.reopen(), std::fs::File::open(file.path())];
        let (one, two, reader) = (one.unwrap(), two.unwrap(), reader.unwrap());
        assert!(try_share(&one).unwrap() && try_share(&reader).unwrap());
        assert!(!try_lock(&two).unwrap() && !is_locked(&two).unwrap(), "nobody has it alone");
        assert!(!try_lock(&one).unwrap(), "nor may one that shares it");
        unlock(&reader).unwrap();
        assert!(try_lock(&one).unwrap() && is_locked(&two).unwrap());
        assert!(!try_share(&two).unwrap());
        assert!(try_share(&one).unwrap() && try_share(&two).unwrap(), "it was let in");
    }
}
