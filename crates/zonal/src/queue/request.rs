//! What one asks of a drive, and what one gets back.

use crate::buffer::Buffer;
use std::fmt;
use zonal_core::error::Result;
use zonal_core::format::Geometry;
use zonal_core::units::ZoneIndex;
use zonal_core::zone::ZoneOp;

/// One request to a drive; built by the functions named after the operations.
///
/// Offsets and lengths are in bytes and multiples of the drive's block size.
#[derive(Debug)]
#[must_use = "a request does nothing until it is pushed to a queue"]
pub struct Request {
    pub(crate) tag: u64,
    pub(crate) call: Call,
    pub(crate) fua: bool,
}

#[derive(Debug)]
pub(crate) enum Call {
    Append { zone: u32, data: Buffer },
    AppendOrdered { zone: u32, data: Buffer },
    AppendAt { offset: u64, data: Buffer },
    WriteAt { offset: u64, data: Buffer },
    ReadAt { offset: u64, into: Buffer },
    Zone { op: ZoneOp, zone: u32 },
    ResetAll,
    Flush,
}

impl Call {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Append { .. } | Self::AppendAt { .. } => "append",
            Self::AppendOrdered { .. } => "append-ordered",
            Self::WriteAt { .. } => "write",
            Self::ReadAt { .. } => "read",
            Self::Zone { op, .. } => op.as_str(),
            Self::ResetAll => "reset-all",
            Self::Flush => "flush",
        }
    }

    fn buffer(&self) -> Option<&Buffer> {
        match self {
            Self::Append { data, .. }
            | Self::AppendOrdered { data, .. }
            | Self::AppendAt { data, .. }
            | Self::WriteAt { data, .. } => Some(data),
            Self::ReadAt { into, .. } => Some(into),
            Self::Zone { .. } | Self::ResetAll | Self::Flush => None,
        }
    }

    pub(crate) fn into_buffer(self) -> Option<Buffer> {
        match self {
            Self::Append { data, .. }
            | Self::AppendOrdered { data, .. }
            | Self::AppendAt { data, .. }
            | Self::WriteAt { data, .. } => Some(data),
            Self::ReadAt { into, .. } => Some(into),
            Self::Zone { .. } | Self::ResetAll | Self::Flush => None,
        }
    }
}

impl Request {
    fn new(call: Call) -> Self {
        Self { tag: 0, call, fua: false }
    }

    /// Writes `data` somewhere in `zone`, whole; the completion says where (NVMe Zone Append).
    /// Any number in flight, in no order. At most [`Limits::append_bytes_max`] bytes.
    ///
    /// [`Limits::append_bytes_max`]: crate::Limits::append_bytes_max
    pub fn append(zone: u32, data: Buffer) -> Self {
        Self::new(Call::Append { zone, data })
    }

    /// The same, the zone given by any byte offset inside it.
    pub fn append_at(offset: u64, data: Buffer) -> Self {
        Self::new(Call::AppendAt { offset, data })
    }

    /// Writes `data` at the zone's end, in the order of submission of this queue; the completion
    /// says where. Any length up to what is left: over the append limit it takes the zone alone.
    pub fn append_ordered(zone: u32, data: Buffer) -> Self {
        Self::new(Call::AppendOrdered { zone, data })
    }

    /// Writes `data` at `offset`, which in a sequential zone must be the write pointer as moved
    /// by what was submitted before.
    pub fn write_at(offset: u64, data: Buffer) -> Self {
        Self::new(Call::WriteAt { offset, data })
    }

    /// Fills `into` from `offset`. From a zone's write pointer on it reads zeros.
    pub fn read_at(offset: u64, into: Buffer) -> Self {
        Self::new(Call::ReadAt { offset, into })
    }

    /// Opens a zone explicitly.
    pub fn open(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Open, zone })
    }

    /// Closes a zone, once nothing is in flight in it.
    pub fn close(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Close, zone })
    }

    /// Makes a zone full, once nothing is in flight in it; what was left reads as zeros.
    pub fn finish(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Finish, zone })
    }

    /// Makes a zone empty, once nothing is in flight in it.
    pub fn reset(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Reset, zone })
    }

    /// Resets every sequential zone that is neither read-only nor offline.
    pub fn reset_all() -> Self {
        Self::new(Call::ResetAll)
    }

    /// Makes durable every write acknowledged before this was submitted.
    pub fn flush() -> Self {
        Self::new(Call::Flush)
    }

    /// A number of the caller's own, which the completion brings back.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// Completes a write only when it is durable (Forced Unit Access): it and all that lies
    /// below it in its zone.
    pub fn fua(mut self) -> Self {
        self.fua = true;
        self
    }

    pub(crate) fn name(&self) -> &'static str {
        self.call.name()
    }

    /// The zone it is about, as far as it is about one.
    pub(crate) fn zone(&self, geometry: &Geometry) -> ZoneIndex {
        match &self.call {
            Call::Append { zone, .. }
            | Call::AppendOrdered { zone, .. }
            | Call::Zone { zone, .. } => ZoneIndex(*zone),
            Call::AppendAt { offset, .. }
            | Call::WriteAt { offset, .. }
            | Call::ReadAt { offset, .. } => geometry.zone_of(*offset),
            Call::ResetAll | Call::Flush => ZoneIndex(0),
        }
    }

    pub(crate) fn buffer(&self) -> Option<&Buffer> {
        self.call.buffer()
    }

    /// The buffer, from a request that was not taken.
    #[must_use]
    pub fn into_buffer(self) -> Option<Buffer> {
        self.call.into_buffer()
    }
}

/// The queue holds as many requests as its depth; the request comes back.
#[derive(Debug)]
pub struct Full(pub Request);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no more requests fit: take completions first")
    }
}

impl std::error::Error for Full {}

/// The end of a request; one layout for every kind.
#[derive(Debug)]
pub struct Completion {
    /// The request's tag.
    pub tag: u64,
    /// How many bytes were written or read, or why none.
    pub result: Result<u32>,
    /// What else there is to know.
    pub flags: Flags,
    /// Where it was: the absolute byte offset, on the drive, at which an append landed, a write
    /// or read was made, or the zone begins. What a failed write had for its place, or a refused
    /// one asked for.
    pub offset: u64,
    /// The request's buffer.
    pub buffer: Option<Buffer>,
}

/// Details of a completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// The request was refused when it was submitted: nothing has changed.
    pub const REFUSED: Self = Self(1 << 0);
    /// The request had to wait at its zone's gate.
    pub const PARKED: Self = Self(1 << 1);
    /// The write ended well in a failing zone, and was held until the zone had settled.
    pub const HELD: Self = Self(1 << 2);
    /// What the request wrote is durable.
    pub const DURABLE: Self = Self(1 << 3);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    pub(crate) fn insert(&mut self, flags: Self) {
        self.0 |= flags.0;
    }
}
