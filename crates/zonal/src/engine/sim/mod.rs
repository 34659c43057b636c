//! A simulated disk: requests end when and how a test says, and the power can be cut.
//!
//! A [`SimDisk`] is used in place of a file; everything above it is the code that ships. Requests
//! of all its engines wait in one list until they are completed, by the test
//! ([`SimMode::Manual`], for exploring every order) or by the engines themselves, at random from a
//! seed ([`SimMode::Auto`]). What is written can be read at once, and is durable only after a sync
//! (`medium` says exactly when). [`SimDisk::cut`] takes the power away and gives what is left.
//!
//! Data comes in as copies when requests are submitted, and goes out as copies when they are
//! reaped, so that no engine's memory is ever touched by another thread. An engine that is dropped
//! leaves its requests behind, like a killed process: they complete, unobserved.

mod faults;
mod medium;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc as Shared;
use std::time::{Duration, Instant};

pub use faults::FaultPlan;
pub use medium::SimImage;

use super::{EngineOptions, Io, IoKind};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, lock, wait, wait_timeout};
use crate::sys::memory::LentBytes;
use crate::sys::words::SharedWords;
use faults::Faults;
use medium::{Medium, Unfinished};

/// Who completes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimMode {
    /// The test, one by one, with [`SimDisk::complete`].
    Manual,
    /// The engines, whenever they submit: in an order, and with faults, that follow from the
    /// seed. One thread's use replays exactly; of several threads as far as they do.
    Auto {
        /// What the order and the chances follow from.
        seed: u64,
        /// What goes wrong.
        faults: FaultPlan,
    },
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Ok,
    /// With this error number, and without any effect. A sync that fails takes what it should
    /// have covered out of all later syncs.
    Fail(i32),
    /// After so many bytes of a read or write, without an error. Other requests end as they
    /// should.
    Short(usize),
    /// After so many bytes were written, with `EIO`.
    FailAfterPartial(usize),
}

/// A request that was submitted and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingIo {
    /// Names it; larger numbers were submitted later.
    pub id: u64,
    /// What it does.
    pub kind: IoKind,
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Whose it is: engines are numbered from 0 in the order they were made.
    pub engine: u32,
}

/// How many requests of each kind have ended, well or not. Blocking calls count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Reads.
    pub reads: u64,
    /// Writes that are durable only after a sync.
    pub writes: u64,
    /// Writes that are durable by themselves.
    pub durable_writes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Zeroings.
    pub zeroings: u64,
}

/// A simulated disk. A clone is another handle of the same disk.
///
/// Its length is durable at once, also where a write or a call made it longer or shorter.
///
/// ```
/// use zonal::sim::{SimDisk, SimImage, SimMode};
///
/// let disk = SimDisk::new(&SimImage::new(1 << 20, 512), SimMode::Manual);
/// assert!(disk.pending().is_empty());
/// let left = disk.cut(&mut |options| options - 1);
/// assert_eq!(left, SimImage::new(1 << 20, 512));
/// ```
#[derive(Clone)]
pub struct SimDisk(Arc<Common>);

struct Common {
    state: Mutex<State>,
    /// A request ended, a notification came, or the power went: waiting engines look again.
    changed: Condvar,
}

struct State {
    medium: Medium,
    /// Decides by itself in [`SimMode::Auto`]; none in [`SimMode::Manual`].
    faults: Option<Faults>,
    pending: Vec<Op>,
    next_id: u64,
    engines: BTreeMap<u32, Mailbox>,
    next_engine: u32,
    counts: SimCounts,
    power: bool,
    /// So many more requests end before nothing works any more.
    stop_after: Option<u64>,
    /// What was pending when it stopped.
    left: Vec<Op>,
    /// The live file beside the image; what it held when the disk stopped, when a process would have
    /// stopped too.
    live: Option<Shared<SharedWords>>,
    live_at_stop: Option<Option<Shared<SharedWords>>>,
    now_ns: u64,
    /// When the last write began, of those that had an effect or may have had.
    modified_ns: u64,
}

/// How much time passes with each request, in nanoseconds.
const STEP_NS: u64 = 1000;

/// A day in 2025, in nanoseconds since 1970: when time begins.
const BEGINNING_NS: u64 = 1_750_000_000_000_000_000;

/// A submitted request.
struct Op {
    id: u64,
    engine: u32,
    kind: IoKind,
    offset: u64,
    length: u64,
    /// What a write writes.
    data: Vec<u8>,
    /// What a sync covers.
    barrier: u64,
}

/// What waits for an engine.
#[derive(Default)]
struct Mailbox {
    ended: VecDeque<Ended>,
    notified: bool,
}

struct Ended {
    id: u64,
    /// Bytes, or an error number.
    result: Result<u32, i32>,
    /// What a read found.
    data: Vec<u8>,
}

impl SimDisk {
    /// A disk with this content, all of it durable.
    #[must_use]
    pub fn new(image: &SimImage, mode: SimMode) -> Self {
        Self::over(Medium::new(image), faults_of(mode), BEGINNING_NS, BEGINNING_NS)
    }

    fn over(medium: Medium, faults: Option<Faults>, now_ns: u64, modified_ns: u64) -> Self {
        let state = State {
            medium,
            faults,
            pending: Vec::new(),
            next_id: 0,
            engines: BTreeMap::new(),
            next_engine: 0,
            counts: SimCounts::default(),
            power: true,
            stop_after: None,
            left: Vec::new(),
            live: None,
            live_at_stop: None,
            now_ns,
            modified_ns,
        };
        Self(Arc::new(Common { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// The requests that have not ended, in the order they were submitted.
    #[must_use]
    pub fn pending(&self) -> Vec<PendingIo> {
        self.state().pending.iter().map(Op::describe).collect()
    }

    /// Ends one request; false: there is none of that id.
    pub fn complete(&self, id: u64, outcome: Outcome) -> bool {
        let mut state = self.state();
        let Some(at) = state.pending.iter().position(|op| op.id == id) else { return false };
        let op = state.pending.remove(at);
        state.end(&op, outcome);
        drop(state);
        self.0.changed.notify_all();
        true
    }

    /// How many sectors a power cut now may leave with one of several contents.
    #[must_use]
    pub fn unstable_sectors(&self) -> usize {
        self.unstable_contents().len()
    }

    /// How many contents each of these sectors may be left with (2 or more), in their order on
    /// the disk: what `choose` will be asked in [`cut`](Self::cut).
    #[must_use]
    pub fn unstable_contents(&self) -> Vec<usize> {
        let state = self.state();
        let fates = state.medium.fates(&state.unfinished());
        fates.iter().map(medium::Fate::options).collect()
    }

    /// Where each of these sectors begins, in bytes, in the same order.
    #[must_use]
    pub fn unstable_offsets(&self) -> Vec<u64> {
        let state = self.state();
        let size = state.medium.sector_bytes() as u64;
        let fates = state.medium.fates(&state.unfinished());
        fates.iter().map(|fate| fate.sector() * size).collect()
    }

    /// Cuts the power; gives what is left.
    ///
    /// Each sector that was written since it was last made durable, or is being written, keeps
    /// any one of its contents since: `choose` is called once for each, in their order on the
    /// disk, with their number, and returns which (0 is the oldest, the durable one). Every
    /// request that has not ended, or comes later, fails with `EIO`.
    ///
    /// # Panics
    /// `choose` returns a number out of range.
    pub fn cut(&self, choose: &mut dyn FnMut(usize) -> usize) -> SimImage {
        let mut state = self.state();
        let image = state.medium.cut(&state.unfinished(), choose);
        state.stop();
        drop(state);
        self.0.changed.notify_all();
        image
    }

    /// Ends the process that uses the disk, and leaves the disk as it is: what was written can still
    /// be read, and is still not durable where it was not. Gives the disk as the next process finds
    /// it; all handles of this one fail with `EIO` from now on.
    ///
    /// What had not ended lands or fails: as long as there is any, `next` is called with all of it,
    /// and returns which ends next, and how.
    ///
    /// # Panics
    /// `next` returns a number out of range.
    ///
    /// ```
    /// use zonal::sim::{SimDisk, SimImage, SimMode};
    ///
    /// let disk = SimDisk::new(&SimImage::new(1 << 20, 512), SimMode::Manual);
    /// let next = disk.kill(&mut |_| unreachable!("nothing is pending"));
    /// assert_eq!(next.image(), SimImage::new(1 << 20, 512));
    /// ```
    #[must_use]
    pub fn kill(&self, next: &mut dyn FnMut(&[PendingIo]) -> (usize, Outcome)) -> Self {
        let mut state = self.state();
        state.stop();
        let mut left = std::mem::take(&mut state.left);
        while !left.is_empty() {
            let pending: Vec<PendingIo> = left.iter().map(Op::describe).collect();
            let (which, outcome) = next(&pending);
            let _ = state.apply(&left.remove(which), outcome);
        }
        let empty = Medium::new(&SimImage::new(0, state.medium.sector_bytes()));
        let medium = std::mem::replace(&mut state.medium, empty);
        let successor = Self::over(medium, state.faults.take(), state.now_ns, state.modified_ns);
        drop(state);
        self.0.changed.notify_all();
        successor
    }

    /// After so many more requests, blocking calls among them, nothing works any more, as if the
    /// power had gone or the process had been killed; which it was, [`cut`](Self::cut) or
    /// [`kill`](Self::kill) says afterwards. `None`: it goes on.
    pub fn stop_after(&self, requests: Option<u64>) {
        let mut state = self.state();
        state.stop_after = requests;
        if requests == Some(0) {
            state.stop();
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Whether it has stopped, for whatever reason.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        !self.state().power
    }

    /// Lets somebody else complete requests from now on.
    pub fn set_mode(&self, mode: SimMode) {
        self.state().faults = faults_of(mode);
        self.0.changed.notify_all();
    }

    /// Lets time pass. By itself it passes only with requests, a microsecond with each.
    pub fn advance(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.state();
        state.now_ns = state.now_ns.saturating_add(nanoseconds);
    }

    /// The live file that is beside the image from now on.
    pub(crate) fn set_live(&self, live: Option<Shared<SharedWords>>) {
        self.state().live = live;
    }

    /// The live file as it was when the disk stopped.
    pub(crate) fn take_live(&self) -> Option<Shared<SharedWords>> {
        let mut state = self.state();
        state.live_at_stop.take().unwrap_or_else(|| state.live.clone())
    }

    /// The live file as it is.
    pub(crate) fn live(&self) -> Option<Shared<SharedWords>> {
        self.state().live.clone()
    }

    /// The time of day, in nanoseconds since 1970, and when the last write began.
    pub(crate) fn times_ns(&self) -> (u64, u64) {
        let state = self.state();
        (state.now_ns, state.modified_ns)
    }

    /// The same disk with other content, all of it durable, last written at `modified_ns`. The old
    /// handles are cut off.
    pub(crate) fn replaced(&self, image: &SimImage, modified_ns: Option<u64>) -> Self {
        let mut state = self.state();
        state.stop();
        let now_ns = state.now_ns;
        let modified_ns = modified_ns.unwrap_or(now_ns);
        let replaced = Self::over(Medium::new(image), state.faults.take(), now_ns, modified_ns);
        drop(state);
        self.0.changed.notify_all();
        replaced
    }

    /// What [`cut`](Self::cut) would leave, without cutting: for trying every subset.
    ///
    /// # Panics
    /// As [`cut`](Self::cut).
    #[must_use]
    pub fn if_cut(&self, choose: &mut dyn FnMut(usize) -> usize) -> SimImage {
        let state = self.state();
        state.medium.cut(&state.unfinished(), choose)
    }

    /// What reads show now: what is left when only the process dies, once nothing is pending.
    #[must_use]
    pub fn image(&self) -> SimImage {
        self.state().medium.image()
    }

    /// Hashes all that decides what this disk does from now on: what its sectors hold, and may
    /// hold after a cut, and what is pending. Two disks are the same in it that differ only in the
    /// order in which they came to that.
    pub fn hash_state(&self, hasher: &mut impl Hasher) {
        let state = self.state();
        let syncs = state.pending.iter().filter(|op| op.kind == IoKind::SyncData);
        let barriers: Vec<u64> = syncs.map(|op| op.barrier).collect();
        state.medium.hash_state(&barriers, hasher);
        let mut pending: Vec<&Op> = state.pending.iter().collect();
        pending.sort_by_key(|op| (op.kind as u8, op.offset, op.length));
        for Op { kind, offset, length, data, .. } in pending {
            (*kind as u8, offset, length, data).hash(hasher);
        }
    }

    /// How many requests have ended so far.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.state().counts
    }

    pub(super) fn len(&self) -> u64 {
        self.state().medium.len()
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.state().powered()?.medium.set_len(length);
        Ok(())
    }

    pub(super) fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut state = self.state();
        let medium = &mut state.powered()?.medium;
        let end = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        if end > medium.len() {
            medium.set_len(end);
        }
        Ok(())
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let found = self.state().call(IoKind::Read, offset, bytes.len() as u64, Vec::new())?;
        if found.len() < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.copy_from_slice(&found);
        Ok(())
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state().call(IoKind::Write, offset, bytes.len() as u64, bytes.to_vec()).map(drop)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.state().call(IoKind::SyncData, 0, 0, Vec::new()).map(drop)
    }

    pub(super) fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.state().call(IoKind::Zero, offset, length, Vec::new()).map(drop)
    }

    pub(super) fn engine(&self, options: &EngineOptions) -> SimEngine {
        let mut state = self.state();
        let number = state.next_engine;
        state.next_engine += 1;
        state.engines.insert(number, Mailbox::default());
        drop(state);
        SimEngine {
            disk: self.clone(),
            number,
            room: options.sq_entries.max(1).next_power_of_two() as usize,
            queued: Vec::new(),
            submitted: BTreeMap::new(),
            notifiable: Arc::new(()),
            syscalls: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

fn faults_of(mode: SimMode) -> Option<Faults> {
    match mode {
        SimMode::Manual => None,
        SimMode::Auto { seed, faults } => Some(Faults::new(seed, faults)),
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl Op {
    fn describe(&self) -> PendingIo {
        let &Self { id, engine, kind, offset, length, .. } = self;
        PendingIo { id, kind, offset, len: length, engine }
    }

    /// How many of its bytes take effect, and how it is reported, short reads aside.
    fn judge(&self, outcome: Outcome) -> (usize, Result<(), i32>) {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        match outcome {
            Outcome::Ok => (length, Ok(())),
            Outcome::Fail(errno) => (0, Err(errno)),
            Outcome::FailAfterPartial(bytes) => (bytes.min(length), Err(libc::EIO)),
            Outcome::Short(bytes) => match self.kind {
                IoKind::Read | IoKind::Write | IoKind::WriteDurable => (bytes.min(length), Ok(())),
                IoKind::SyncData | IoKind::Zero => (length, Ok(())),
            },
        }
    }
}

impl State {
    fn powered(&mut self) -> io::Result<&mut Self> {
        if self.power { Ok(self) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    fn unfinished(&self) -> Vec<Unfinished<'_>> {
        let writes = self.pending.iter().chain(&self.left).map(|op| Unfinished {
            kind: op.kind,
            offset: op.offset,
            length: op.length,
            data: &op.data,
        });
        writes.collect()
    }

    /// Takes in a request of an engine; its id.
    fn submit(&mut self, engine: u32, io: &Io, data: Vec<u8>) -> u64 {
        let op = self.op(engine, io.kind, io.offset, io.len as u64, data);
        let id = op.id;
        if self.power {
            self.pending.push(op);
        } else {
            self.deliver(&op, Err(libc::EIO), Vec::new());
        }
        id
    }

    /// Nothing works from here on; what is pending may have had its effect.
    fn stop(&mut self) {
        if self.power {
            let copy = |words: &Shared<SharedWords>| Shared::new(words.copy());
            self.live_at_stop = Some(self.live.as_ref().map(copy));
        }
        self.power = false;
        for op in std::mem::take(&mut self.pending) {
            self.deliver(&op, Err(libc::EIO), Vec::new());
            self.left.push(op);
        }
    }

    /// A request has ended.
    fn count_down(&mut self) {
        if let Some(requests) = &mut self.stop_after {
            *requests = requests.saturating_sub(1);
            if *requests == 0 {
                self.stop();
            }
        }
    }

    fn op(&mut self, engine: u32, kind: IoKind, offset: u64, length: u64, data: Vec<u8>) -> Op {
        let id = self.next_id;
        self.now_ns += STEP_NS;
        if self.power && !matches!(kind, IoKind::Read | IoKind::SyncData) {
            self.modified_ns = self.now_ns;
        }
        self.next_id += 1;
        Op { id, engine, kind, offset, length, data, barrier: self.medium.barrier() }
    }

    /// Ends a random request, if there is one and the disk does that by itself.
    fn step(&mut self) -> bool {
        let Some(faults) = &mut self.faults else { return false };
        if self.pending.is_empty() {
            return false;
        }
        let op = self.pending.remove(faults.random.below(self.pending.len()));
        let outcome = faults.decide(op.kind, op.offset, op.length, &self.medium);
        self.end(&op, outcome);
        true
    }

    /// Whether to end a request although nobody waits.
    fn ahead(&mut self) -> bool {
        self.faults.as_mut().is_some_and(|faults| faults.random.below(4) == 0)
    }

    fn end(&mut self, op: &Op, outcome: Outcome) {
        let (result, data) = self.apply(op, outcome);
        self.deliver(op, result, data);
        self.count_down();
    }

    /// A blocking call: a request that ends at once. What it read.
    fn call(
        &mut self,
        kind: IoKind,
        offset: u64,
        length: u64,
        data: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        self.powered()?;
        let op = self.op(u32::MAX, kind, offset, length, data);
        let outcome = match &mut self.faults {
            None => Outcome::Ok,
            Some(faults) => match faults.decide(kind, offset, length, &self.medium) {
                Outcome::Short(_) => Outcome::Ok, // the rest would be asked for
                outcome => outcome,
            },
        };
        let (result, data) = self.apply(&op, outcome);
        self.count_down();
        result.map(|_| data).map_err(io::Error::from_raw_os_error)
    }

    /// What a request does to the disk; its result, and what it read.
    fn apply(&mut self, op: &Op, outcome: Outcome) -> (Result<u32, i32>, Vec<u8>) {
        let (bytes, judged) = op.judge(outcome);
        let mut found = Vec::new();
        let moved = match op.kind {
            IoKind::Read => {
                self.counts.reads += 1;
                found = vec![0; bytes];
                let length = self.medium.read(op.offset, &mut found);
                found.truncate(length);
                length
            }
            IoKind::Write => {
                self.counts.writes += 1;
                self.medium.write(op.offset, &op.data[..bytes], false);
                bytes
            }
            IoKind::WriteDurable => {
                self.counts.durable_writes += 1;
                self.medium.write(op.offset, &op.data[..bytes], judged.is_ok());
                bytes
            }
            IoKind::Zero => {
                self.counts.zeroings += 1;
                self.medium.zero(op.offset, bytes as u64);
                0
            }
            IoKind::SyncData => {
                self.counts.syncs += 1;
                match judged {
                    Ok(()) => self.medium.sync(op.barrier),
                    Err(_) => self.medium.lose(op.barrier),
                }
                0
            }
        };
        (judged.map(|()| u32::try_from(moved).unwrap_or(u32::MAX)), found)
    }

    fn deliver(&mut self, op: &Op, result: Result<u32, i32>, data: Vec<u8>) {
        // No mailbox: the engine is gone.
        if let Some(mailbox) = self.engines.get_mut(&op.engine) {
            mailbox.ended.push_back(Ended { id: op.id, result, data });
        }
    }

    fn ended(&self, engine: u32) -> usize {
        self.engines.get(&engine).map_or(0, |mailbox| mailbox.ended.len())
    }

    /// Whether a notification came since this was last asked.
    fn take_notified(&mut self, engine: u32) -> bool {
        self.engines.get_mut(&engine).is_some_and(|mailbox| std::mem::take(&mut mailbox.notified))
    }
}

/// One thread's way to a [`SimDisk`].
#[derive(Debug)]
pub(crate) struct SimEngine {
    disk: SimDisk,
    number: u32,
    room: usize,
    queued: Vec<(Io, LentBytes)>,
    /// Tokens and bytes of what the disk has, by id.
    submitted: BTreeMap<u64, (u64, LentBytes)>,
    /// Shared with every notifier there is.
    notifiable: Arc<()>,
    syscalls: u64,
}

impl SimEngine {
    pub(super) fn has_room(&self) -> bool {
        self.queued.len() < self.room
    }

    pub(super) fn push(&mut self, io: &Io, bytes: LentBytes) {
        self.queued.push((*io, bytes));
    }

    pub(super) fn submit(&mut self, wait_for: usize, timeout: Option<Duration>) {
        let disk = self.disk.clone();
        let mut state = disk.state();
        self.hand_over(&mut state);
        if wait_for == 0 {
            if state.ahead() {
                state.step();
            }
        } else {
            let target = wait_for.min(self.submitted.len()).max(1);
            self.wait(&disk.0, state, target, timeout);
        }
        disk.0.changed.notify_all();
    }

    fn hand_over(&mut self, state: &mut State) {
        self.syscalls += u64::from(!self.queued.is_empty());
        for (io, bytes) in self.queued.drain(..) {
            let data = match io.kind {
                IoKind::Write | IoKind::WriteDurable => bytes.to_vec(),
                IoKind::Read | IoKind::SyncData | IoKind::Zero => Vec::new(),
            };
            let id = state.submit(self.number, &io, data);
            self.submitted.insert(id, (io.token, bytes));
        }
    }

    fn wait<'a>(
        &self,
        shared: &'a Common,
        mut state: MutexGuard<'a, State>,
        target: usize,
        timeout: Option<Duration>,
    ) {
        let nothing_can_come = self.submitted.is_empty()
            && timeout.is_none()
            && Arc::strong_count(&self.notifiable) == 1;
        if nothing_can_come {
            return;
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        while state.ended(self.number) < target && !state.take_notified(self.number) {
            if state.step() {
                shared.changed.notify_all();
                continue;
            }
            let Some(deadline) = deadline else {
                state = wait(&shared.changed, state);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = wait_timeout(&shared.changed, state, &shared.state, left);
            if cfg!(zonal_shuttle) {
                return; // no clock there: the time is up
            }
        }
    }

    pub(super) fn reap(&mut self, mut each: impl FnMut(u64, io::Result<u32>)) {
        let mailbox = self
            .disk
            .state()
            .engines
            .get_mut(&self.number)
            .map(|mailbox| std::mem::take(&mut mailbox.ended));
        for Ended { id, result, data } in mailbox.into_iter().flatten() {
            let Some((token, mut bytes)) = self.submitted.remove(&id) else { continue };
            bytes.copy_from(&data);
            each(token, result.map_err(io::Error::from_raw_os_error));
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.queued.len() + self.submitted.len()
    }

    pub(super) fn notifier(&self) -> SimNotifier {
        SimNotifier {
            disk: self.disk.clone(),
            number: self.number,
            _alive: Arc::clone(&self.notifiable),
        }
    }

    pub(super) fn prepare_to_poll(&mut self) -> bool {
        let disk = self.disk.clone();
        let mut state = disk.state();
        self.hand_over(&mut state);
        state.ended(self.number) == 0 && !state.take_notified(self.number)
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl Drop for SimEngine {
    fn drop(&mut self) {
        self.disk.state().engines.remove(&self.number);
    }
}

/// Ends the waits of one simulated engine.
#[derive(Clone, Debug)]
pub(crate) struct SimNotifier {
    disk: SimDisk,
    number: u32,
    /// Tells the engine that somebody can notify it.
    _alive: Arc<()>,
}

impl SimNotifier {
    pub(super) fn notify(&self) {
        if let Some(mailbox) = self.disk.state().engines.get_mut(&self.number) {
            mailbox.notified = true;
        }
        self.disk.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
