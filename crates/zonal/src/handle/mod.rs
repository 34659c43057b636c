//! Handles for many threads and any runtime, over queues that belong to one thread each.
//!
//! ```text
//! future ─ Request ─► ticket ─► lane's inbox ─► I/O thread: Queue ─► …
//!    ▲                  │                            │
//!    └──── woken ───────┴◄────── Completion ─────────┘
//! ```
//!
//! An [`Operation`] is a request to be awaited, or waited for without a runtime. With its first
//! poll the request goes, in a *ticket*, to the I/O thread of its zone ([`pool`], [`lane`]). The
//! thread ([`worker`]) puts the completion into the ticket and wakes who waits. Nothing of it is
//! tied to a runtime: there is a waker, and nothing else.
//!
//! In the steady state a request allocates nothing here: tickets are used again, the inbox has a
//! fixed size, and buffers are leased. A thread that is awake is not woken; one system call wakes
//! it for all that came while it slept.

mod lane;
mod operation;
mod pool;
mod records;
mod ticket;
mod timers;
mod worker;

pub use operation::{Failed, Operation, Transfer};
pub(crate) use pool::Pool;
pub use records::{Record, Records};

use crate::buffer::Buffer;
use crate::device::{Device, ZoneInfo};
use crate::queue::request::{Completion, Request};
use crate::zones::cells::DEPTH_MAX;
use std::fmt;
use std::num::NonZero;
use std::sync::LazyLock;
use std::time::Duration;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::units::ZoneIndex;

/// I/O threads of one drive, at most: half of the queues there can be.
pub const IO_THREADS_MAX: u32 = if cfg!(zonal_shuttle) { 2 } else { 16 };

/// As many as leave the program a processor: with fewer, threads wait for one another.
static DEFAULT_THREADS: LazyLock<u32> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    if processors > 2 { 2 } else { 1 }
});

/// What serves a drive's asynchronous and blocking calls: threads that are started when the first
/// of them needs one, and end with [`Device::close`] or the last handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleOptions {
    /// How many I/O threads, 1 to [`IO_THREADS_MAX`]. Zones are shared out among them.
    pub threads: u32,
    /// Requests under way in each, 1 to [`DEPTH_MAX`](crate::DEPTH_MAX). Further ones wait
    /// for a place.
    pub depth: u32,
    /// Size in bytes of each of the `threads` × `depth` buffers that are leased; zero for none.
    pub buffer_bytes: usize,
    /// How long a request may wait for others at its zone before it fails as stalled, without
    /// having changed anything; as [`QueueOptions::deadline`](crate::QueueOptions::deadline).
    pub deadline: Option<Duration>,
}

impl Default for HandleOptions {
    /// 2 threads of 64 requests, or on one or two processors 1 thread of 128, with 64 KiB each: 8 MiB of
    /// buffers. An ordinary user may often lock no more, or less: then a part of them is registered.
    fn default() -> Self {
        let threads = *DEFAULT_THREADS;
        let depth = if cfg!(zonal_shuttle) { DEPTH_MAX } else { 128 / threads };
        Self { threads, depth, buffer_bytes: 64 << 10, deadline: None }
    }
}

impl HandleOptions {
    pub(crate) fn check(&self) -> Result<()> {
        let within = |what: &str, value: u32, max: u32| {
            let text = format!("{value} {what} are not between 1 and {max}");
            let error = Error::new(ErrorKind::InvalidInput, text).during("open");
            if (1..=max).contains(&value) { Ok(()) } else { Err(error) }
        };
        within("I/O threads", self.threads, IO_THREADS_MAX)?;
        within("requests for each I/O thread", self.depth, DEPTH_MAX)
    }
}

/// Requests to the drive as a whole, from any thread and under any runtime.
///
/// Each method gives an [`Operation`]: `.await` it, or `.wait()` for it without a runtime.
/// Requests to one zone are submitted in the order in which their operations are first polled.
///
/// ```
/// use zonal::{OpenOptions, Target};
///
/// let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
/// let landed = drive.append(2, vec![7; 4096]).wait()?;
/// assert_eq!(landed.offset, 2 * (16 << 20));
/// drive.flush().wait()?;
/// drive.close()?;
/// # Ok::<(), zonal::Error>(())
/// ```
impl Device {
    /// One zone of the drive.
    ///
    /// # Errors
    /// The drive has no such zone.
    pub fn zone(&self, zone: u32) -> Result<Zone> {
        self.drive().zone(zone)?;
        Ok(Zone { device: self.clone(), number: zone })
    }

    /// A buffer of `length` bytes: leased from memory that the I/O threads may have registered
    /// with the kernel, or from the heap when all are out or none is so large. What is in a
    /// leased one is left from its last use.
    #[must_use]
    pub fn buffer(&self, length: usize) -> Buffer {
        self.pool().lease(length).unwrap_or_else(|| Buffer::unpooled(length))
    }

    /// Any request, for its bare completion. Links are between requests of one queue: a linked one
    /// is refused as `Unsupported`.
    pub fn request(&self, request: Request) -> Operation<Completion> {
        if request.extra.as_ref().is_some_and(|extra| extra.linked) {
            let text =
                "handles of many threads share a queue; link requests on a queue of your own";
            return Operation::refused(
                self.pool(),
                request,
                Error::new(ErrorKind::Unsupported, text),
            );
        }
        self.operation(request)
    }

    /// As [`Request::append`].
    pub fn append(&self, zone: u32, data: impl Into<Buffer>) -> Operation<Transfer> {
        self.operation(Request::append(zone, data.into()))
    }

    /// As [`Request::append_ordered`]; the order is that of the operations' first polls.
    pub fn append_ordered(&self, zone: u32, data: impl Into<Buffer>) -> Operation<Transfer> {
        self.operation(Request::append_ordered(zone, data.into()))
    }

    /// As [`Request::write_at`].
    pub fn write_at(&self, offset: u64, data: impl Into<Buffer>) -> Operation<Transfer> {
        self.operation(Request::write_at(offset, data.into()))
    }

    /// As [`Request::read_at`].
    pub fn read_at(&self, offset: u64, into: Buffer) -> Operation<Transfer> {
        self.operation(Request::read_at(offset, into))
    }

    /// As [`Request::flush`].
    pub fn flush(&self) -> Operation<()> {
        self.operation(Request::flush())
    }

    /// As [`Request::open`].
    pub fn open_zone(&self, zone: u32) -> Operation<()> {
        self.operation(Request::open(zone))
    }

    /// As [`Request::close`].
    pub fn close_zone(&self, zone: u32) -> Operation<()> {
        self.operation(Request::close(zone))
    }

    /// As [`Request::finish`].
    pub fn finish_zone(&self, zone: u32) -> Operation<()> {
        self.operation(Request::finish(zone))
    }

    /// As [`Request::reset`].
    pub fn reset_zone(&self, zone: u32) -> Operation<()> {
        self.operation(Request::reset(zone))
    }

    /// As [`Request::reset_all`].
    pub fn reset_all(&self) -> Operation<()> {
        self.operation(Request::reset_all())
    }

    fn operation<T: operation::Outcome>(&self, request: Request) -> Operation<T> {
        let zone = request.zone(self.geometry());
        Operation::new(self.pool(), zone, request)
    }
}

/// One zone of a drive; a clone is another handle of it.
///
/// ```
/// use zonal::{OpenOptions, Target};
///
/// let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
/// let zone = drive.zone(1)?;
/// let landed = zone.append(b"a record".repeat(512)).wait()?;
/// assert_eq!(landed.offset, 16 << 20);
/// let read = zone.read_at(0, drive.buffer(4096)).wait()?;
/// assert_eq!(&read.buffer[..8], b"a record");
/// zone.finish().wait()?;
/// # Ok::<(), zonal::Error>(())
/// ```
#[derive(Clone)]
pub struct Zone {
    device: Device,
    number: u32,
}

impl Zone {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The drive it is of.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its state and write pointer at this moment.
    #[must_use]
    pub fn info(&self) -> ZoneInfo {
        self.device.drive().zone_info(ZoneIndex(self.number))
    }

    /// As [`Device::append`].
    pub fn append(&self, data: impl Into<Buffer>) -> Operation<Transfer> {
        self.device.append(self.number, data)
    }

    /// As [`Device::append_ordered`].
    pub fn append_ordered(&self, data: impl Into<Buffer>) -> Operation<Transfer> {
        self.device.append_ordered(self.number, data)
    }

    /// As [`Device::write_at`], `place` bytes behind the zone's start.
    pub fn write_at(&self, place: u64, data: impl Into<Buffer>) -> Operation<Transfer> {
        let data = data.into();
        self.transfer(place, data.len(), |offset| Request::write_at(offset, data))
    }

    /// As [`Device::read_at`], `place` bytes behind the zone's start.
    pub fn read_at(&self, place: u64, into: Buffer) -> Operation<Transfer> {
        self.transfer(place, into.len(), |offset| Request::read_at(offset, into))
    }

    /// As [`Device::open_zone`].
    pub fn open(&self) -> Operation<()> {
        self.device.open_zone(self.number)
    }

    /// As [`Device::close_zone`].
    pub fn close(&self) -> Operation<()> {
        self.device.close_zone(self.number)
    }

    /// As [`Device::finish_zone`].
    pub fn finish(&self) -> Operation<()> {
        self.device.finish_zone(self.number)
    }

    /// As [`Device::reset_zone`].
    pub fn reset(&self) -> Operation<()> {
        self.device.reset_zone(self.number)
    }

    /// A request to a place in the zone, which must end in it.
    fn transfer(
        &self,
        place: u64,
        length: usize,
        request: impl FnOnce(u64) -> Request,
    ) -> Operation<Transfer> {
        let zone = ZoneIndex(self.number);
        let geometry = self.device.geometry();
        let (start, size) = (geometry.start_of(zone), geometry.size_of(zone));
        if place.checked_add(length as u64).is_some_and(|end| end <= size) {
            return self.device.operation(request(start + place));
        }
        let text = format!("{length} bytes at {place} from its start; the zone has {size}");
        let error = Error::new(ErrorKind::OutOfRange, text).in_zone(self.number);
        Operation::refused(self.device.pool(), request(start), error)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({} of {})", self.number, self.device.name())
    }
}
