//! What a device says of a command that it did not do as it was told: the Status Field of its completion queue
//! entry (*NVMe Base Specification* 2.0, Completion Queue Entry: Status Field; the command sets' specifications
//! add codes of their own).

use std::fmt;
use std::io;
use zonal_core::error::ErrorKind;

/// The bits that tell statuses apart: type and code (SCT, SC). Above them are hints on trying again (CRD, M,
/// DNR).
const KNOWN: u16 = 0x7FF;

/// A status: its type in bits 8 to 10, its code below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u16);

impl Status {
    /// *Command Aborted By Host*.
    pub(crate) const ABORTED_BY_HOST: Self = Self(0x371);

    /// From what the kernel hands on.
    pub(crate) fn new(bits: u16) -> Self {
        Self(bits & KNOWN)
    }

    /// The status below an error, if it is one.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// Whether a command or one of its fields is not known to the device.
    pub(crate) fn is_unknown(self) -> bool {
        matches!(self.0, 0x001 | 0x002 | 0x00B)
    }

    /// Whether it is one of those that a zone's rules give.
    pub(crate) fn is_of_zones(self) -> bool {
        matches!(self.0, 0x1B8..=0x1BF)
    }

    /// What it is called, and our kind of error for it. Codes that are not here are other failures of
    /// the device: the number says which.
    fn meaning(self) -> (&'static str, ErrorKind) {
        match self.0 {
            // NVMe Base Specification, Generic Command Status
            0x001 => ("Invalid Command Opcode", ErrorKind::Unsupported),
            0x002 => ("Invalid Field in Command", ErrorKind::InvalidInput),
            0x004 => ("Data Transfer Error", ErrorKind::Io),
            0x005 => ("Commands Aborted due to Power Loss Notification", ErrorKind::Io),
            0x006 => ("Internal Error", ErrorKind::Io),
            // It may have been done before.
            0x007 => ("Command Abort Requested", ErrorKind::Io),
            0x00B => ("Invalid Namespace or Format", ErrorKind::Unsupported),
            0x020 => ("Namespace is Write Protected", ErrorKind::DeviceReadOnly),
            0x080 => ("LBA Out of Range", ErrorKind::OutOfRange),
            0x081 => ("Capacity Exceeded", ErrorKind::NoSpace),
            0x082 => ("Namespace Not Ready", ErrorKind::Io),
            0x083 => ("Reservation Conflict", ErrorKind::InUse),
            0x084 => ("Format In Progress", ErrorKind::InUse),
            // NVM Command Set Specification, Command Specific Status
            0x182 => ("Attempted Write to Read Only Range", ErrorKind::DeviceReadOnly),
            // Zoned Namespace Command Set Specification, Command Specific Status
            0x1B8 => ("Zone Boundary Error", ErrorKind::BeyondCapacity),
            0x1B9 => ("Zone Is Full", ErrorKind::ZoneFull),
            0x1BA => ("Zone Is Read Only", ErrorKind::ZoneReadOnly),
            0x1BB => ("Zone Is Offline", ErrorKind::ZoneOffline),
            0x1BC => ("Zone Invalid Write", ErrorKind::NotAtWritePointer),
            0x1BD => ("Too Many Active Zones", ErrorKind::TooManyActiveZones),
            0x1BE => ("Too Many Open Zones", ErrorKind::TooManyOpenZones),
            0x1BF => ("Invalid Zone State Transition", ErrorKind::InvalidTransition),
            // NVM Command Set Specification, Media and Data Integrity Errors
            0x280 => ("Write Fault", ErrorKind::Io),
            0x281 => ("Unrecovered Read Error", ErrorKind::Io),
            0x286 => ("Access Denied", ErrorKind::Io),
            0x287 => ("Deallocated or Unwritten Logical Block", ErrorKind::Io),
            // NVMe Base Specification, Path Related Status: what the host says itself
            0x370 => ("Host Pathing Error", ErrorKind::Io),
            0x371 => ("Command Aborted By Host", ErrorKind::Io),
            _ => ("a status of its own", ErrorKind::Io),
        }
    }

    pub(crate) fn kind(self) -> ErrorKind {
        self.meaning().1
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, code) = (self.meaning().0, self.0);
        if matches!(code, 0x370 | 0x371) {
            return write!(
                f,
                "the kernel gave the command up: {name} (NVMe status {code:#05x}), after a timeout or without \
                 a path to the device; dmesg says which, and what was under way may still land"
            );
        }
        write!(f, "the device answered {name} (NVMe status {code:#05x})")
    }
}

impl std::error::Error for Status {}

impl From<Status> for io::Error {
    fn from(status: Status) -> Self {
        Self::other(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the Zoned Namespace Command Set Specification has them, and `nvme.h` after it.
    #[test]
    fn statuses_of_zones_are_our_kinds_of_errors() {
        for (code, kind) in [
            (0xB8, ErrorKind::BeyondCapacity),
            (0xB9, ErrorKind::ZoneFull),
            (0xBA, ErrorKind::ZoneReadOnly),
            (0xBB, ErrorKind::ZoneOffline),
            (0xBC, ErrorKind::NotAtWritePointer),
            (0xBD, ErrorKind::TooManyActiveZones),
            (0xBE, ErrorKind::TooManyOpenZones),
            (0xBF, ErrorKind::InvalidTransition),
        ] {
            // Do Not Retry and More are no part of what it is.
            for hints in [0, 0x2000, 0x4000, 0x6000] {
                let status = Status::new(0x100 | code | hints);
                assert!(status.kind() == kind && status.is_of_zones(), "{code:#x}");
            }
            // The same code of another type is something else.
            assert_eq!(Status::new(0x200 | code).kind(), ErrorKind::Io);
        }
    }

    /// A command that was sent may have been done, whatever is said of it.
    #[test]
    fn no_status_says_that_nothing_was_done() {
        for bits in 0..=KNOWN {
            let kind = Status::new(bits).kind();
            assert!(!matches!(kind, ErrorKind::Cancelled | ErrorKind::Stalled), "{bits:#05x}");
        }
    }

    #[test]
    fn others_keep_their_number() {
        for bits in 0..=u16::MAX {
            let status = Status::new(bits);
            let text = status.to_string();
            assert!(text.contains(&format!("{:#05x}", bits & KNOWN)), "{text}");
        }
        assert_eq!(Status::new(0x4002).kind(), ErrorKind::InvalidInput);
        assert_eq!(Status::new(1).kind(), ErrorKind::Unsupported);
        assert_eq!(Status::new(0x80).kind(), ErrorKind::OutOfRange);
    }

    #[test]
    fn a_status_is_found_again_below_an_error() {
        let error = io::Error::from(Status::new(0x41BD));
        assert_eq!(Status::of(&error), Some(Status::new(0x1BD)));
        assert_eq!(Status::of(&io::Error::from_raw_os_error(libc::EIO)), None);
    }
}
