//! What one asks of a drive, and what one gets back.

use crate::buffer::Buffer;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zonal_core::error::Result;
use zonal_core::format::Geometry;
use zonal_core::units::ZoneIndex;
use zonal_core::zone::ZoneOp;

/// One request to a drive; built by the functions named after the operations.
///
/// Offsets and lengths are in bytes and multiples of the drive's block size. What goes wrong is in
/// the [`Completion`], by [`ErrorKind`](crate::ErrorKind). A request that the rules do not allow
/// comes back with [`Flags::REFUSED`] and has changed nothing. Sections are those of the *NVMe
/// Zoned Namespace Command Set Specification 1.1*, by their titles.
#[derive(Debug)]
#[must_use = "a request does nothing until it is pushed to a queue"]
pub struct Request {
    pub(crate) tag: u64,
    pub(crate) call: Call,
    pub(crate) fua: bool,
    /// What few requests have, behind one pointer.
    pub(crate) extra: Option<Box<Extra>>,
}

/// What few requests have.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// The next request pushed waits for this one's success.
    pub(crate) linked: bool,
    /// This one waits for the one before it.
    pub(crate) follows: bool,
    /// The chain it is in, once it has started.
    pub(crate) chain: Option<u64>,
    pub(crate) report_to: Option<Place>,
}

/// A caller's own 64 bits, for the offset.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Shared(Arc<AtomicU64>),
    Static(&'static AtomicU64),
}

impl Place {
    /// Release: who sees the offset sees what was done before it was stored.
    pub(crate) fn store(&self, offset: u64) {
        match self {
            Self::Shared(place) => place.store(offset, Ordering::Release),
            Self::Static(place) => place.store(offset, Ordering::Release),
        }
    }
}

impl From<Arc<AtomicU64>> for OffsetPlace {
    fn from(place: Arc<AtomicU64>) -> Self {
        Self(Place::Shared(place))
    }
}

impl From<&'static AtomicU64> for OffsetPlace {
    fn from(place: &'static AtomicU64) -> Self {
        Self(Place::Static(place))
    }
}

/// Where an offset is to be stored: made from an `Arc<AtomicU64>` or a `&'static AtomicU64`.
#[derive(Clone, Debug)]
pub struct OffsetPlace(pub(crate) Place);

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
        Self { tag: 0, call, fua: false, extra: None }
    }

    /// Writes `data` somewhere in `zone`, whole; the completion says where (*Zone Append command*).
    /// Any number in flight, in no order. At most [`Limits::append_bytes_max`] bytes.
    ///
    /// Refused: `AppendTooLarge`, `InvalidInput` (length, conventional zone), `OutOfRange`,
    /// `ZoneFull`, `BeyondCapacity`, `ZoneReadOnly`, `ZoneOffline`, `TooManyOpenZones`,
    /// `TooManyActiveZones`, `DeviceReadOnly`. Failed: `Io`, `NoSpace`, `BehindFailedWrite`.
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
    ///
    /// Refused and failed as [`Request::append`], but for `AppendTooLarge`.
    pub fn append_ordered(zone: u32, data: Buffer) -> Self {
        Self::new(Call::AppendOrdered { zone, data })
    }

    /// Writes `data` at `offset`, which in a sequential zone must be the write pointer as moved
    /// by what was submitted before (*Writing in Sequential Write Required Zones*).
    ///
    /// Refused and failed as [`Request::append_ordered`], and refused as `NotAtWritePointer`.
    pub fn write_at(offset: u64, data: Buffer) -> Self {
        Self::new(Call::WriteAt { offset, data })
    }

    /// Fills `into` from `offset`, across zones if it reaches so far. From a zone's write pointer on
    /// it reads zeros (*Read command*, deallocated or unwritten logical blocks).
    ///
    /// Refused: `InvalidInput`, `OutOfRange`, `ZoneOffline`. Failed: `Io`.
    pub fn read_at(offset: u64, into: Buffer) -> Self {
        Self::new(Call::ReadAt { offset, into })
    }

    /// Opens a zone explicitly (*Zone Management Send command, Open Zone*; `BLKOPENZONE`).
    ///
    /// Refused: `InvalidTransition`, `ZoneReadOnly`, `ZoneOffline`, `TooManyOpenZones`,
    /// `TooManyActiveZones`, `InvalidInput` (conventional zone), `OutOfRange`.
    pub fn open(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Open, zone })
    }

    /// Closes a zone, once nothing is in flight in it (*Close Zone*; `BLKCLOSEZONE`). One with
    /// nothing written becomes empty.
    ///
    /// Refused as [`Request::open`], but for the limits.
    pub fn close(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Close, zone })
    }

    /// Makes a zone full, once nothing is in flight in it; what was left reads as zeros (*Finish
    /// Zone*; `BLKFINISHZONE`).
    ///
    /// Refused as [`Request::close`]; `Unsupported` for an ordinary file. Failed: `Io`, and the zone
    /// is as it was.
    pub fn finish(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Finish, zone })
    }

    /// Makes a zone empty, once nothing is in flight in it (*Reset Zone*; `BLKRESETZONE`).
    ///
    /// Refused as [`Request::close`].
    pub fn reset(zone: u32) -> Self {
        Self::new(Call::Zone { op: ZoneOp::Reset, zone })
    }

    /// Resets every sequential zone that is neither read-only nor offline (*Reset Zone* with Select
    /// All). One zone after the other; it stops at the first that fails.
    pub fn reset_all() -> Self {
        Self::new(Call::ResetAll)
    }

    /// Makes durable every write acknowledged before this was submitted (NVMe base specification,
    /// *Flush command*).
    ///
    /// Failed: `DeviceReadOnly`, and nothing is written to the drive any more.
    pub fn flush() -> Self {
        Self::new(Call::Flush)
    }

    /// A number of the caller's own, which the completion brings back.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// Completes a write only when it is durable (Force Unit Access): it and all that lies below it
    /// in its zone. Its completion has [`Flags::DURABLE`].
    pub fn fua(mut self) -> Self {
        self.fua = true;
        self
    }

    /// Makes the request that is pushed next to this queue wait for this one's success. If it
    /// fails, those linked behind it complete as [`ErrorKind::Cancelled`](crate::ErrorKind), and
    /// change nothing.
    ///
    /// ```
    /// use zonal::{Buffer, ErrorKind, OpenOptions, QueueOptions, Request, Target};
    ///
    /// let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
    /// let mut queue = drive.queue(&QueueOptions::default())?;
    /// queue.push(Request::append(0, Buffer::unpooled(17)).linked())?; // not whole blocks
    /// queue.push(Request::append(1, Buffer::unpooled(4096)))?;
    /// queue.submit_and_wait(2)?;
    /// let [record, commit] = [(); 2].map(|()| queue.next_completion().unwrap().result);
    /// assert_eq!(record.unwrap_err().kind(), ErrorKind::InvalidInput);
    /// assert_eq!(commit.unwrap_err().kind(), ErrorKind::Cancelled);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn linked(mut self) -> Self {
        self.extra.get_or_insert_default().linked = true;
        self
    }

    /// Stores the offset at which the bytes landed in a place of the caller's as well, before the
    /// completion can be taken. On an error the place stays as it is. A request that moves no
    /// bytes is refused as [`ErrorKind::Unsupported`](crate::ErrorKind).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use zonal::{OpenOptions, Request, Target};
    ///
    /// let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
    /// let place = Arc::new(AtomicU64::new(u64::MAX));
    /// let request = Request::append(1, drive.buffer(4096)).report_to(place.clone());
    /// drive.request(request).wait().result?;
    /// assert_eq!(place.load(Ordering::Acquire), 16 << 20);
    /// # Ok::<(), zonal::Error>(())
    /// ```
    pub fn report_to(mut self, place: impl Into<OffsetPlace>) -> Self {
        self.extra.get_or_insert_default().report_to = Some(place.into().0);
        self
    }

    /// The place asked for, as far as there is one.
    pub(crate) fn offset(&self, geometry: &Geometry) -> u64 {
        match &self.call {
            Call::WriteAt { offset, .. } | Call::ReadAt { offset, .. } => *offset,
            Call::Append { .. }
            | Call::AppendOrdered { .. }
            | Call::AppendAt { .. }
            | Call::Zone { .. } => {
                let zone = self.zone(geometry);
                if zone.0 < geometry.zones() { geometry.start_of(zone) } else { geometry.size }
            }
            Call::ResetAll | Call::Flush => 0,
        }
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

/// A completion as callers of Linux AIO know it (`struct io_event`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AioEvent {
    /// The request's tag (`data`).
    pub data: u64,
    /// Bytes written or read, or a negative error number.
    pub res: i64,
    /// The absolute byte offset, on the drive; where there is none for want of success, as in
    /// [`Completion::offset`].
    pub res2: u64,
}

impl Completion {
    /// Result and offset as a pair of numbers.
    ///
    /// ```
    /// use zonal::{OpenOptions, Request, Target};
    ///
    /// let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
    /// let event = drive.request(Request::append(1, drive.buffer(4096)).tag(7)).wait().aio();
    /// assert_eq!((event.data, event.res, event.res2), (7, 4096, 16 << 20));
    /// # Ok::<(), zonal::Error>(())
    /// ```
    #[must_use]
    pub fn aio(&self) -> AioEvent {
        let res = match &self.result {
            Ok(bytes) => i64::from(*bytes),
            Err(error) => -i64::from(error.kind().errno()),
        };
        AioEvent { data: self.tag, res, res2: self.offset }
    }
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
