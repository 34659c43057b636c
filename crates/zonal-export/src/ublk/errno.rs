//! With which error number the kernel is told that a request failed, and becomes the status that programs
//! see (Linux, `block/blk-core.c`, `blk_errors`).

use rustix::io::Errno;
use zonal::{Error, ErrorKind};

/// The result of a request that failed: a negative error number.
///
/// A zoned block device says `ETOOMANYREFS` and `EOVERFLOW` of its limits and `EIO` of most other rules.
/// Numbers by which the kernel would take a request for one that is to be tried again are none of a drive.
pub(super) fn result(error: &Error) -> i32 {
    let number = match error.kind() {
        // As `EBUSY`, `EROFS` or `ECANCELED` they would mean something else, or nothing, to the block layer.
        ErrorKind::InUse
        | ErrorKind::Unclean
        | ErrorKind::Damaged
        | ErrorKind::DeviceReadOnly
        | ErrorKind::Cancelled
        | ErrorKind::Stalled
        | ErrorKind::NotFound
        | ErrorKind::NotZoned => Errno::IO.raw_os_error(),
        other => other.errno(),
    };
    -number
}

/// What a request is told that could not be looked at.
pub(super) const IO: i32 = -Errno::IO.raw_os_error();

/// What a request is told that the device does not know, or not of such a zone.
pub(super) const UNSUPPORTED: i32 = -Errno::OPNOTSUPP.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    fn number(kind: ErrorKind) -> i32 {
        result(&Error::new(kind, ""))
    }

    #[test]
    fn limits_have_numbers_of_their_own_and_rules_are_input_or_output_errors() {
        assert_eq!(number(ErrorKind::TooManyOpenZones), -109);
        assert_eq!(number(ErrorKind::TooManyActiveZones), -75);
        for kind in [
            ErrorKind::NotAtWritePointer,
            ErrorKind::ZoneFull,
            ErrorKind::ZoneReadOnly,
            ErrorKind::ZoneOffline,
            ErrorKind::BeyondCapacity,
            ErrorKind::BehindFailedWrite,
            ErrorKind::InvalidTransition,
            ErrorKind::Io,
        ] {
            assert_eq!(number(kind), IO, "{kind:?}");
        }
        assert_eq!(number(ErrorKind::Unsupported), UNSUPPORTED);
        assert_eq!(number(ErrorKind::NoSpace), -28);
    }

    #[test]
    fn nothing_that_fails_is_to_be_tried_again_by_the_kernel() {
        for kind in [ErrorKind::InUse, ErrorKind::Cancelled, ErrorKind::Stalled] {
            assert_eq!(number(kind), IO, "{kind:?}");
        }
    }
}
