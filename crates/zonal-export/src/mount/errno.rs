//! What zonefs answers, for each kind of error of a drive (Linux, `fs/zonefs/file.c` and `super.c`).

use fuser::Errno;
use zonal::{Error, ErrorKind};

/// The error number with which the kernel's zonefs would refuse the same.
pub(super) fn errno(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::BeyondCapacity | ErrorKind::ZoneFull => Errno::EFBIG,
        ErrorKind::ZoneReadOnly | ErrorKind::ZoneOffline => Errno::EPERM,
        ErrorKind::NotAtWritePointer => Errno::EINVAL,
        ErrorKind::TooManyOpenZones => Errno::EBUSY,
        ErrorKind::TooManyActiveZones => Errno::EOVERFLOW,
        // The others have one number wherever they are said.
        other => Errno::from_i32(other.errno()),
    }
}

/// Whether the drive failed, and did not only refuse.
pub(super) fn is_failure(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Io
            | ErrorKind::BehindFailedWrite
            | ErrorKind::ZoneReadOnly
            | ErrorKind::ZoneOffline
            | ErrorKind::Stalled
            | ErrorKind::NoSpace
    )
}
