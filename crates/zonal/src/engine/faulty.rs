//! The engine under a fault plan: any other engine, and what the plan does to its requests.
//!
//! ```text
//! push ─► the plan ─┬─► fails ────────────────────────┬─► held until it is due ─► reap
//!                   └─► all or a part ─► inner ─► ended ┘
//! ```
//!
//! Invariants:
//! * the plan is asked once for each request, when it is pushed, and told once of its end;
//! * what the inner engine gets back it keeps its promises for; the plan only shortens it;
//! * a request whose inner part has ended touches its buffer no more, though it is held;
//! * a wait never sleeps past the moment at which a held request is due.

use super::{Disk, Engine, EngineOptions, Io, IoKind, Notifier};
use crate::buffer::Arena;
use crate::device::Drive;
use crate::faults::{Ask, Decision, Fate, Faults, Note};
use crate::mailbox::{Mailbox, Message};
use crate::queue::is_task_io;
use crate::sys::memory::LentBytes;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A disk whose requests a plan decides on. A clone is another handle of it.
#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk {
    inner: Box<Disk>,
    faults: Arc<Faults>,
    /// What its engines are called, if not as those of the inner disk.
    name: Option<&'static str>,
}

impl FaultyDisk {
    pub(crate) fn new(disk: Disk, faults: &Arc<Faults>, name: Option<&'static str>) -> Self {
        Self { inner: Box::new(disk), faults: faults.clone(), name }
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(super) fn inner(&self) -> &Disk {
        &self.inner
    }

    /// A blocking call, of zonal's own.
    fn call(
        &self,
        kind: IoKind,
        offset: u64,
        length: u64,
        bytes: Option<&[u8]>,
        call: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let ask = Ask { kind, offset, length, is_data: false, bytes, touches: &|_| false };
        let Decision { fate, note, .. } = self.faults.decide(&self.inner, &ask);
        match fate {
            Fate::Fail(error) => Err(error),
            Fate::Do { error, .. } => {
                let result = call().map(|()| 0);
                self.faults.ended(&self.inner, kind, note, result)?;
                error.map_or(Ok(()), Err)
            }
        }
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let length = bytes.len() as u64;
        let read = || self.inner.read_exact_at(bytes, offset);
        self.call(IoKind::Read, offset, length, None, read)
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = || self.inner.write_all_at(bytes, offset);
        self.call(IoKind::Write, offset, bytes.len() as u64, Some(bytes), write)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.call(IoKind::SyncData, 0, 0, None, || self.inner.sync_data())
    }

    pub(super) fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.call(IoKind::Zero, offset, length, None, || self.inner.zero(offset, length))
    }

    pub(super) fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.powered()?;
        self.inner.allocate(offset, length)
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.powered()?;
        self.inner.set_len(length)?;
        self.faults.resized(length);
        Ok(())
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn powered(&self) -> io::Result<()> {
        self.faults.stopped().map_or(Ok(()), Err)
    }

    pub(super) fn engine(
        &self,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<FaultyEngine> {
        Ok(FaultyEngine {
            inner: self.inner.engine(options, arena)?,
            disk: self.clone(),
            place: None,
            queued: VecDeque::new(),
            under_way: HashMap::new(),
            held: Vec::new(),
        })
    }

    pub(super) fn engine_name(&self) -> (&'static str, bool) {
        let (name, direct) = self.inner.engine_name();
        (self.name.unwrap_or(name), direct)
    }
}

/// One thread's way to a [`FaultyDisk`].
pub(crate) struct FaultyEngine {
    inner: Engine,
    disk: FaultyDisk,
    place: Option<Place>,
    /// Decided on, and not pushed to the inner engine yet.
    queued: VecDeque<Io>,
    under_way: HashMap<u64, UnderWay>,
    held: Vec<Held>,
}

/// What an engine is for.
struct Place {
    /// Says where bytes of the drive are on the disk.
    drive: Arc<Drive>,
    /// Hears of zones that become unusable.
    mailbox: Arc<Mailbox>,
}

/// What the inner engine has of a request, and what becomes of it.
struct UnderWay {
    kind: IoKind,
    note: Note,
    due: Option<Instant>,
    error: Option<io::Error>,
}

/// A request that has ended.
struct Held {
    due: Option<Instant>,
    token: u64,
    result: io::Result<u32>,
}

impl FaultyEngine {
    /// Says what the engine is for. Before that no range of the drive is bad.
    pub(crate) fn attach(&mut self, drive: &Arc<Drive>, mailbox: &Arc<Mailbox>) {
        self.place = Some(Place { drive: drive.clone(), mailbox: mailbox.clone() });
    }

    /// # Safety
    /// As [`Engine::push`].
    pub(super) unsafe fn push(&mut self, mut io: Io) {
        let Decision { fate, latency, note, zones } = {
            let bytes = match io.kind {
                IoKind::Write | IoKind::WriteDurable => {
                    // SAFETY: the caller's promise; only read, and let go of before the request is
                    // pushed.
                    Some(unsafe { LentBytes::new(io.ptr, io.len) })
                }
                IoKind::Read | IoKind::SyncData | IoKind::Zero => None,
            };
            let place = self.place.as_ref();
            let ask = Ask {
                kind: io.kind,
                offset: io.offset,
                length: io.len as u64,
                is_data: !is_task_io(io.token),
                bytes: bytes.as_ref().map(LentBytes::as_slice),
                touches: &|bad| place.is_some_and(|place| place.touches(&io, bad)),
            };
            self.disk.faults.decide(&self.disk.inner, &ask)
        };
        if let Some(place) = &self.place {
            for fault in zones {
                let (zone, condition) = (fault.zone, fault.condition);
                place.mailbox.post(Message::Condemn { zone, condition });
            }
        }
        let due = (!latency.is_zero()).then(|| Instant::now() + latency);
        match fate {
            Fate::Fail(error) => {
                self.held.push(Held { due, token: io.token, result: Err(error) });
            }
            Fate::Do { length, error } => {
                io.len = usize::try_from(length).unwrap_or(io.len).min(io.len);
                self.under_way.insert(io.token, UnderWay { kind: io.kind, note, due, error });
                self.queued.push_back(io);
            }
        }
    }

    /// Pushes what the inner engine has room for, and so on.
    fn hand_over(&mut self) -> io::Result<()> {
        while let Some(io) = self.queued.pop_front() {
            // SAFETY: what `push` was promised holds until the token is reaped; of no more bytes.
            if let Err(io) = unsafe { self.inner.push(io) } {
                self.queued.push_front(io);
                self.inner.submit(0, None)?;
            }
        }
        self.inner.submit(0, None)
    }

    pub(super) fn submit(&mut self, wait_for: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.hand_over()?;
        self.collect();
        let now = Instant::now();
        if wait_for == 0 || self.due(now) >= wait_for.min(self.in_flight()).max(1) {
            return Ok(());
        }
        let next = self.held.iter().filter_map(|held| held.due).filter(|due| *due > now).min();
        let next = next.map(|due| due.saturating_duration_since(now));
        let limit = next.into_iter().chain(timeout).min();
        // One is enough to come back: a wait may end early, and what ends may be held or due.
        self.inner.submit(1, limit)?;
        self.collect();
        Ok(())
    }

    /// Takes in what the inner engine has ended.
    fn collect(&mut self) {
        let Self { inner, disk, under_way, held, .. } = self;
        inner.reap(|token, result| {
            let Some(UnderWay { kind, note, due, error }) = under_way.remove(&token) else {
                return;
            };
            let result = disk.faults.ended(&disk.inner, kind, note, result);
            let result = result.and_then(|bytes| error.map_or(Ok(bytes), Err));
            held.push(Held { due, token, result });
        });
    }

    /// How many can be reaped at that time.
    fn due(&self, now: Instant) -> usize {
        self.held.iter().filter(|held| held.is_due(now)).count()
    }

    pub(super) fn reap(&mut self, mut each: impl FnMut(u64, io::Result<u32>)) {
        self.collect();
        if self.held.is_empty() {
            return;
        }
        let now = Instant::now();
        // What is not due when the power goes has not ended.
        let stopped = self.disk.faults.stopped().is_some();
        let ended = self.held.extract_if(.., |held| stopped || held.is_due(now));
        let mut ended: Vec<_> = ended.collect();
        // However late we come, what was due first has ended first.
        ended.sort_by_key(|held| held.due);
        for held in ended {
            let stop = self.disk.faults.stopped().filter(|_| held.result.is_ok());
            each(held.token, stop.map_or(held.result, Err));
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.queued.len() + self.held.len()
    }

    pub(super) fn notifier(&self) -> Notifier {
        self.inner.notifier()
    }

    pub(super) fn as_raw_fd(&self) -> Option<RawFd> {
        self.inner.as_raw_fd()
    }

    /// False while something is held: no descriptor says when it is due.
    pub(super) fn prepare_to_poll(&mut self) -> io::Result<bool> {
        self.hand_over()?;
        self.collect();
        if self.held.is_empty() { self.inner.prepare_to_poll() } else { Ok(false) }
    }

    pub(super) fn makes_calls(&self) -> bool {
        self.inner.makes_calls()
    }

    pub(super) fn registered_bytes(&self) -> usize {
        self.inner.registered_bytes()
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.inner.syscalls()
    }
}

impl Held {
    fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }
}

impl Place {
    /// Whether a request to the disk touches these bytes of the drive.
    fn touches(&self, io: &Io, bad: &Range<u64>) -> bool {
        let Some(mapping) = self.drive.mapping() else { return false };
        let size = self.drive.zones.geometry.size;
        let (from, to) = (bad.start.min(size), bad.end.min(size));
        let end = io.offset.saturating_add(io.len as u64);
        mapping.pieces(from, to - from).any(|piece| {
            piece.host.is_some_and(|host| io.offset < host + piece.length && host < end)
        })
    }
}

impl fmt::Debug for FaultyEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyEngine")
            .field("inner", &self.inner)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}
