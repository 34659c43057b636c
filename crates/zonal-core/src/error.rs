//! One error type: a small stable [`ErrorKind`] to match on, the [`Context`] it happened in, and
//! the error below it as [`source`](core::error::Error::source).

use alloc::{borrow::Cow, boxed::Box, string::String};
use core::fmt;

/// A result with zonal's error.
pub type Result<T, E = Error> = core::result::Result<T, E>;

type Source = Box<dyn core::error::Error + Send + Sync>;

/// What went wrong, for programs to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing is at that path.
    NotFound,
    /// What is there is no zoned drive.
    NotZoned,
    /// Another process holds the drive.
    InUse,
    /// The last session was cut off and what it had not flushed cannot be proven.
    Unclean,
    /// The image contradicts its own format.
    Damaged,
    /// The target cannot do it, now or at all (`EOPNOTSUPP`, Invalid Opcode).
    Unsupported,
    /// An argument out of its range, misaligned, or for a zone of another type (Invalid Field).
    InvalidInput,
    /// An append over the drive's append limit (Invalid Field).
    AppendTooLarge,
    /// No such zone or byte on the drive (LBA Out of Range).
    OutOfRange,
    /// The write would end past the zone's capacity (Zone Boundary Error).
    BeyondCapacity,
    /// The zone takes no more data (Zone Is Full).
    ZoneFull,
    /// The zone can only be read (Zone Is Read Only).
    ZoneReadOnly,
    /// The zone can neither be read nor written (Zone Is Offline).
    ZoneOffline,
    /// The write does not start at the write pointer (Zone Invalid Write).
    NotAtWritePointer,
    /// No zone can be opened, and none can be closed for it (Too Many Open Zones).
    TooManyOpenZones,
    /// No zone can become active (Too Many Active Zones).
    TooManyActiveZones,
    /// The zone's state does not allow the operation (Invalid Zone State Transition).
    InvalidTransition,
    /// The write itself was not at fault: one below it in its zone failed.
    BehindFailedWrite,
    /// The disk below failed.
    Io,
    /// The disk below has no space left.
    NoSpace,
    /// The drive takes no more writes, since a sync failed or it was opened to be read.
    DeviceReadOnly,
    /// The request was given up before it reached the drive.
    Cancelled,
    /// The request waited past its deadline for another queue.
    Stalled,
}

impl ErrorKind {
    /// The Linux error number a zoned block device gives for it.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => 2,                                                // ENOENT
            Self::NotZoned => 25,                                               // ENOTTY
            Self::InUse => 16,                                                  // EBUSY
            Self::Unclean | Self::Damaged => 117,                               // EUCLEAN
            Self::Unsupported => 95,                                            // EOPNOTSUPP
            Self::InvalidInput | Self::AppendTooLarge | Self::OutOfRange => 22, // EINVAL
            Self::BeyondCapacity
            | Self::ZoneFull
            | Self::ZoneReadOnly
            | Self::ZoneOffline
            | Self::NotAtWritePointer
            | Self::InvalidTransition
            | Self::BehindFailedWrite
            | Self::Io => 5, // EIO
            Self::TooManyOpenZones => 109,                                      // ETOOMANYREFS
            Self::TooManyActiveZones => 75,                                     // EOVERFLOW
            Self::NoSpace => 28,                                                // ENOSPC
            Self::DeviceReadOnly => 30,                                         // EROFS
            Self::Cancelled => 125,                                             // ECANCELED
            Self::Stalled => 110,                                               // ETIMEDOUT
        }
    }

    /// Whether the same request may succeed later without anybody changing it.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::InUse
            | Self::TooManyOpenZones
            | Self::TooManyActiveZones
            | Self::BehindFailedWrite
            | Self::NoSpace
            | Self::Cancelled
            | Self::Stalled => true,
            Self::NotFound
            | Self::NotZoned
            | Self::Unclean
            | Self::Damaged
            | Self::Unsupported
            | Self::InvalidInput
            | Self::AppendTooLarge
            | Self::OutOfRange
            | Self::BeyondCapacity
            | Self::ZoneFull
            | Self::ZoneReadOnly
            | Self::ZoneOffline
            | Self::NotAtWritePointer
            | Self::InvalidTransition
            | Self::Io
            | Self::DeviceReadOnly => false,
        }
    }

    /// A few words for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "no such file",
            Self::NotZoned => "not a zoned drive",
            Self::InUse => "in use",
            Self::Unclean => "not closed cleanly",
            Self::Damaged => "damaged",
            Self::Unsupported => "not supported",
            Self::InvalidInput => "invalid argument",
            Self::AppendTooLarge => "over the append limit",
            Self::OutOfRange => "out of range",
            Self::BeyondCapacity => "beyond the zone's capacity",
            Self::ZoneFull => "zone full",
            Self::ZoneReadOnly => "zone read-only",
            Self::ZoneOffline => "zone offline",
            Self::NotAtWritePointer => "not at the write pointer",
            Self::TooManyOpenZones => "too many open zones",
            Self::TooManyActiveZones => "too many active zones",
            Self::InvalidTransition => "not allowed in the zone's state",
            Self::BehindFailedWrite => "behind a failed write",
            Self::Io => "I/O error",
            Self::NoSpace => "no space left on the disk below",
            Self::DeviceReadOnly => "drive read-only",
            Self::Cancelled => "cancelled",
            Self::Stalled => "stalled",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an error happened; whatever is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The drive, as its user named it.
    pub device: Option<String>,
    /// The operation, in the field's word: `append`, `reset`, `open` …
    pub operation: Option<&'static str>,
    /// The zone's number.
    pub zone: Option<u32>,
    /// Absolute byte offset on the drive, or in the image's file for a damaged image.
    pub offset: Option<u64>,
    /// Length in bytes.
    pub length: Option<u64>,
}

/// An error of zonal: kind, detail, context, source. One pointer wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    detail: Cow<'static, str>,
    context: Context,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind`; `detail` says in a sentence what was found and what to do next, or is
    /// empty where the kind says it all.
    #[must_use]
    pub fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self(Box::new(Inner { kind, detail, context: Context::default(), source: None }))
    }

    /// Names the error below.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Names the drive.
    #[must_use]
    pub fn on(mut self, device: impl Into<String>) -> Self {
        self.0.context.device = Some(device.into());
        self
    }

    /// Names the operation.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.context.operation = Some(operation);
        self
    }

    /// Names the zone.
    #[must_use]
    pub fn in_zone(mut self, zone: u32) -> Self {
        self.0.context.zone = Some(zone);
        self
    }

    /// Names the place: absolute byte offset and length.
    #[must_use]
    pub fn at(mut self, offset: u64, length: u64) -> Self {
        self.0.context.offset = Some(offset);
        self.0.context.length = Some(length);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it went wrong.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// What was found and what to do next; may be empty.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, detail, context, .. } = &*self.0;
        if let Some(device) = &context.device {
            write!(f, "{device}: ")?;
        }
        if let Some(operation) = context.operation {
            write!(f, "{operation}: ")?;
        }
        write!(f, "{kind}")?;
        if let Some(zone) = context.zone {
            write!(f, ", zone {zone}")?;
        }
        match (context.offset, context.length) {
            (Some(offset), Some(length)) if length > 0 => {
                write!(f, ", offset {offset}, length {length}")?;
            }
            (Some(offset), _) => write!(f, ", offset {offset}")?,
            (None, _) => {}
        }
        if !detail.is_empty() {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, detail, context, source } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("detail", detail)
            .field("context", context)
            .field("source", source)
            .finish()
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn core::error::Error + 'static))
    }
}

#[cfg(feature = "std")]
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = std::io::Error::from_raw_os_error(error.kind().errno()).kind();
        std::io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use core::error::Error as _;

    #[test]
    fn an_error_says_only_what_is_known() {
        let error = Error::new(ErrorKind::Io, "");
        assert_eq!(error.to_string(), "I/O error");
        assert!(error.source().is_none());
        // No length, no range: an offset alone is a place.
        assert_eq!(error.at(512, 0).to_string(), "I/O error, offset 512");
        let error = Error::new(ErrorKind::Damaged, "cut short").at(8, 1);
        assert_eq!(error.to_string(), "damaged, offset 8, length 1: cut short");
    }

    #[test]
    fn what_an_error_was_made_of_can_be_asked_for() {
        let error = Error::new(ErrorKind::Io, "look at the disk")
            .with_source("cable")
            .on("disk.qcow2")
            .during("append")
            .in_zone(3)
            .at(4096, 512);
        let context = Context {
            device: Some("disk.qcow2".into()),
            operation: Some("append"),
            zone: Some(3),
            offset: Some(4096),
            length: Some(512),
        };
        assert_eq!(error.context(), &context);
        assert_eq!((error.kind(), error.detail()), (ErrorKind::Io, "look at the disk"));
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("cable"));
        let debug = alloc::format!("{error:?}");
        for part in ["Io", "look at the disk", "disk.qcow2", "cable"] {
            assert!(debug.contains(part), "{part} in {debug}");
        }
    }

    #[test]
    fn what_may_succeed_later_by_itself_is_retryable() {
        for (kind, retryable) in [
            (ErrorKind::InUse, true),
            (ErrorKind::TooManyOpenZones, true),
            (ErrorKind::ZoneFull, false),
            (ErrorKind::Damaged, false),
        ] {
            assert_eq!(kind.is_retryable(), retryable, "{kind}");
            assert_eq!(Error::new(kind, "").is_retryable(), retryable, "{kind}");
        }
    }

    #[test]
    fn an_error_names_the_thing_the_place_and_the_next_step() {
        let error = Error::new(ErrorKind::ZoneFull, "reset it or take another zone")
            .on("disk.qcow2")
            .during("append")
            .in_zone(3)
            .at(4096, 512);
        assert_eq!(
            error.to_string(),
            "disk.qcow2: append: zone full, zone 3, offset 4096, length 512: \
             reset it or take another zone"
        );
    }

    #[test]
    fn an_error_becomes_an_io_error_of_the_same_meaning() {
        let error: std::io::Error = Error::new(ErrorKind::NotFound, "").into();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        let error: std::io::Error = Error::new(ErrorKind::InvalidInput, "").into();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Result<(), Error>>(), size_of::<usize>());
    }
}
