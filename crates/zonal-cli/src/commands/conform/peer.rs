//! What the checker needs of a drive, and how an opened [`Device`] gives it.
//!
//! Invariant: nothing here waits for ever. A [`Lane`] hands out completions until a deadline; one
//! that did not get all of its completions back is left alone when it is dropped, since to wait for
//! a device that hangs would be to hang with it.

use std::{
    fmt,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use zonal::{
    Buffer, Completion, Device, Full, Geometry, Limits, Queue, QueueOptions, Request, Result,
    ZoneInfo,
};

/// A drive under test.
pub(super) trait Peer: Sync {
    /// Its shape.
    fn geometry(&self) -> &Geometry;
    /// What it says it can do.
    fn limits(&self) -> Limits;
    /// What it says of these zones.
    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>>;
    /// Which life of a zone this is, where that is known.
    fn generation(&self, zone: u32) -> Option<u32>;
    /// A way to it for the calling thread, with room for `depth` requests.
    fn lane(&self, depth: u32) -> Result<Box<dyn Lane + '_>>;
}

/// One thread's way to a drive.
pub(super) trait Lane {
    /// Queues a request; it is sent with the next [`take`](Self::take). The caller keeps to the depth.
    fn push(&mut self, tag: u64, call: Call);
    /// Requests whose completions have not been taken.
    fn in_flight(&self) -> usize;
    /// Sends what was pushed, and takes one completion; `None` when there was none until `until`.
    fn take(&mut self, until: Instant) -> Result<Option<Completion>>;
}

/// One request; unlike the library's own it can be looked into, to say what failed.
#[derive(Debug)]
pub(super) enum Call {
    /// Append to a zone.
    Append {
        /// The zone.
        zone: u32,
        /// The record.
        data: Buffer,
    },
    /// Append in the order of submission.
    AppendOrdered {
        /// The zone.
        zone: u32,
        /// The record.
        data: Buffer,
    },
    /// Write at an offset.
    Write {
        /// Absolute, in bytes.
        offset: u64,
        /// What is written.
        data: Buffer,
    },
    /// Read from an offset.
    Read {
        /// Absolute, in bytes.
        offset: u64,
        /// What is filled.
        into: Buffer,
    },
    /// Open a zone explicitly.
    Open(u32),
    /// Close a zone.
    Close(u32),
    /// Make a zone full.
    Finish(u32),
    /// Empty a zone.
    Reset(u32),
    /// Empty all sequential zones.
    ResetAll,
}

impl Call {
    /// How many bytes it moves.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Append { data, .. } | Self::AppendOrdered { data, .. } => data.len(),
            Self::Write { data, .. } => data.len(),
            Self::Read { into, .. } => into.len(),
            Self::Open(_) | Self::Close(_) | Self::Finish(_) | Self::Reset(_) | Self::ResetAll => 0,
        }
    }

    fn into_request(self) -> Request {
        match self {
            Self::Append { zone, data } => Request::append(zone, data),
            Self::AppendOrdered { zone, data } => Request::append_ordered(zone, data),
            Self::Write { offset, data } => Request::write_at(offset, data),
            Self::Read { offset, into } => Request::read_at(offset, into),
            Self::Open(zone) => Request::open(zone),
            Self::Close(zone) => Request::close(zone),
            Self::Finish(zone) => Request::finish(zone),
            Self::Reset(zone) => Request::reset(zone),
            Self::ResetAll => Request::reset_all(),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.length();
        match self {
            Self::Append { zone, .. } => write!(f, "append of {length} bytes to zone {zone}"),
            Self::AppendOrdered { zone, .. } => {
                write!(f, "ordered append of {length} bytes to zone {zone}")
            }
            Self::Write { offset, .. } => write!(f, "write of {length} bytes at {offset}"),
            Self::Read { offset, .. } => write!(f, "read of {length} bytes at {offset}"),
            Self::Open(zone) => write!(f, "open of zone {zone}"),
            Self::Close(zone) => write!(f, "close of zone {zone}"),
            Self::Finish(zone) => write!(f, "finish of zone {zone}"),
            Self::Reset(zone) => write!(f, "reset of zone {zone}"),
            Self::ResetAll => f.write_str("reset of all zones"),
        }
    }
}

impl Peer for Device {
    fn geometry(&self) -> &Geometry {
        Device::geometry(self)
    }

    fn limits(&self) -> Limits {
        Device::limits(self)
    }

    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        Device::report(self, zones)
    }

    fn generation(&self, zone: u32) -> Option<u32> {
        Device::generation(self, zone)
    }

    fn lane(&self, depth: u32) -> Result<Box<dyn Lane + '_>> {
        let options = QueueOptions { depth, buffer_bytes: 0, ..Default::default() };
        Ok(Box::new(QueueLane { queue: Some(self.queue(&options)?), hangs: false }))
    }
}

/// How long is waited between two looks at a queue, first and at most: there is no call that waits
/// for a completion and for a deadline.
const PAUSE: Range<Duration> = Duration::from_micros(10)..Duration::from_millis(1);

/// A lane over the library's queue.
struct QueueLane {
    /// There until it is dropped.
    queue: Option<Queue>,
    hangs: bool,
}

impl Lane for QueueLane {
    fn push(&mut self, tag: u64, call: Call) {
        let queue = self.queue.as_mut().expect("a lane in use has its queue");
        if let Err(Full(_)) = queue.push(call.into_request().tag(tag)) {
            unreachable!("the checker keeps to the depth it asked for");
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.as_ref().map_or(0, Queue::in_flight)
    }

    fn take(&mut self, until: Instant) -> Result<Option<Completion>> {
        let queue = self.queue.as_mut().expect("a lane in use has its queue");
        let mut pause = PAUSE.start;
        loop {
            if queue.submit()? > 0 {
                return Ok(queue.next_completion());
            }
            if queue.in_flight() == 0 {
                return Ok(None);
            }
            if Instant::now() >= until {
                self.hangs = true;
                return Ok(None);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.end);
        }
    }
}

impl Drop for QueueLane {
    fn drop(&mut self) {
        /// For what a rule that gave up has left in flight.
        const LAST_WAIT: Duration = Duration::from_secs(10);
        let until = Instant::now() + LAST_WAIT;
        while !self.hangs && self.in_flight() > 0 && matches!(self.take(until), Ok(Some(_))) {}
        let queue = self.queue.take();
        if self.hangs {
            std::mem::forget(queue);
        }
    }
}
