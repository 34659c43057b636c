//! The zones of one drive as its queues share them: words, marks, gates, failures, flush.
//!
//! ```text
//! enter ──► in flight ──► acknowledge          one exchange each, no lock
//!   │           │
//!   │           └───────► fail / hold ──► settle      control lock, cold
//!   └─► wait at the gate ─► turn                      control lock, cold
//! ```
//!
//! An ordinary write touches its zone's cell and nothing else. Everything rare goes through one
//! lock, [`Control`], which is never held over I/O: changes of state and of the open and active
//! counts, gates, failures, what is known to be durable. Lock order: control, then a mailbox.
//!
//! Invariants, checked by the oracle and the model checker:
//! * every change of a word goes through a pure function of `zonal_core::zone`;
//! * states and the open and active counts change only under the control lock;
//! * a zone's gate is shut exactly while its site holds somebody.

pub(crate) mod cells;
mod claim;
mod failure;
mod flush;
mod gate;
mod landed;

pub(crate) use cells::{Cells, InFlight, Mark, SlotId};
pub(crate) use claim::Claims;
pub(crate) use failure::{Conclusion, Finding, Leaving, Settling, Surprise};
pub(crate) use flush::{Join, Pages, Role};
pub(crate) use gate::{Gate, GateLock, drained};

use crate::mailbox::Mailbox;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use cells::QUEUES_MAX;
use flush::Durability;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::task::Waker;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::format::zonal::{MAX_CONDITIONS, MAX_DEAD_RANGES};
use zonal_core::units::{Blocks, Extent, Generation, ZoneIndex};
use zonal_core::zone::{
    Acknowledgement, Barrier, Entered, Limits, Pass, Place, Refusal, Resources, Write, ZoneOp,
    ZoneState, ZoneWord, state::admits_write,
};

/// A zone as it is found at open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) wp: Blocks,
    pub(crate) generation: Generation,
    /// Read-only or offline, if the drive says so; a real device says the state of each sequential
    /// zone.
    pub(crate) condition: Option<ZoneState>,
}

/// How a zone of a real device stands, by its own report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: ZoneState,
    /// Its write pointer, where it has one.
    pub(crate) wp: Option<Blocks>,
    /// Whether the state says if the zone is open; if not, one that can be written is said to be empty or
    /// closed.
    pub(crate) tells_open: bool,
}

/// How a zone was before something was done to it, for when its device refuses that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    wp: Blocks,
    mark: Mark,
}

impl Before {
    /// Whether a device that says this has left the zone's data alone.
    fn is_kept(&self, standing: &Standing) -> bool {
        standing.wp.is_none_or(|wp| wp >= self.mark.end)
    }
}

impl Standing {
    /// Whether it takes data at `at` now.
    pub(crate) fn takes_data_at(&self, at: Blocks) -> bool {
        self.wp == Some(at) && admits_write(self.state).is_ok()
    }

    /// The state to go on with, for a zone that was taken to be in another. Which of the implicitly
    /// open zones it closes is the device's choice, and may change at any time: a zone that has given
    /// its open place away here asks for another with its next write.
    fn state_after(&self, taken_to_be: ZoneState) -> ZoneState {
        if !self.tells_open && admits_write(self.state).is_ok() && taken_to_be.is_open() {
            return taken_to_be;
        }
        if self.state == ZoneState::ImplicitlyOpen && !taken_to_be.is_open() {
            ZoneState::Closed
        } else {
            self.state
        }
    }
}

/// What outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Nothing: a drive in memory.
    Nothing,
    /// The zone, by where its file ends, so that the file is cut when a failed zone has settled.
    Length,
    /// The zones, by the device itself, whose reports are right where they differ from what the rules
    /// say.
    Device,
    /// The same, and the device places appends.
    Placing,
    /// The zones, in an image.
    Zones,
    /// The same, and the space of zones that were reset is given back to the file system.
    Discarding,
}

/// All zones of one drive.
pub(crate) struct Zones {
    pub(crate) geometry: Geometry,
    block_size: u64,
    /// How many zones there are, and where the conventional ones end: asked for each write, and a
    /// division to find out.
    count: u32,
    conventional_end: u64,
    /// Of every sequential zone but the last.
    capacity: Blocks,
    last: ZoneIndex,
    last_capacity: Blocks,
    cells: Cells,
    /// Whether zones outlive the process, so that resets have to be durable before writes.
    durable: bool,
    /// Whether a failed zone takes more than its dead ranges to be zeroed before it has settled: a
    /// file to be cut, or a device to be asked.
    settles_late: bool,
    /// Whether the device places appends: what is in flight has no place that is known.
    placing: bool,
    /// Which queue writes to which zone of a device; empty for other drives.
    claims: Claims,
    /// Whether writes need more than the rules: a claim, or to be told that a sync failed.
    hurdles: AtomicBool,
    /// How deep each open queue is; zero when it is closed.
    depths: [AtomicU32; QUEUES_MAX as usize],
    /// Set once when a sync failed: nothing is written from then on.
    latched: AtomicBool,
    /// Whether some range below a write pointer must not be read from the disk.
    masked: AtomicBool,
    pub(crate) counts: Counts,
    control: Mutex<Control>,
}

/// What happens rarely enough to be counted for everybody.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) parked: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) foreign: AtomicU64,
    pub(crate) short: AtomicU64,
    pub(crate) flush_rounds: AtomicU64,
    pub(crate) data_syncs: AtomicU64,
    pub(crate) table_writes: AtomicU64,
    pub(crate) bounced: AtomicU64,
    pub(crate) orphaned: AtomicU64,
    /// No count but what there is now.
    pub(crate) registered_bytes: AtomicU64,
}

impl Counts {
    pub(crate) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything rare; never locked over I/O.
pub(crate) struct Control {
    resources: Resources,
    sites: HashMap<ZoneIndex, gate::Site>,
    next_ticket: u64,
    durability: Durability,
    /// Ranges below write pointers that read as zeros whatever the disk holds.
    masks: BTreeMap<ZoneIndex, Vec<Extent>>,
    conditions: BTreeMap<ZoneIndex, ZoneState>,
    queues: Vec<QueueEntry>,
    latch: Option<String>,
    /// Whether the session has ended in the image: nothing is written any more.
    closed: bool,
    /// Whether the queue that flushes for the close is still to come.
    last_queue: bool,
}

/// What makes zones less than whole.
pub(crate) struct Blemishes {
    pub(crate) conditions: Vec<(ZoneIndex, ZoneState)>,
    pub(crate) masks: Vec<(ZoneIndex, Extent)>,
}

enum QueueEntry {
    Free,
    Open(Arc<Mailbox>),
    /// Its queue is gone; so many of its writes are still held in failing zones.
    Retired(usize),
}

impl Zones {
    /// The zones as `found` says, in memory `cells`.
    pub(crate) fn new(
        geometry: Geometry,
        cells: Cells,
        keeping: Keeping,
        found: impl Fn(ZoneIndex) -> Found,
    ) -> Self {
        let zones = geometry.zones();
        let limit = |limit: u32| (limit > 0).then_some(limit);
        let mut resources = Resources::new(Limits {
            max_open: limit(geometry.max_open_zones),
            max_active: limit(geometry.max_active_zones),
        });
        let mut conditions = BTreeMap::new();
        let block_size = u64::from(geometry.block_size);
        let durable = keeping != Keeping::Nothing;
        let discards = keeping == Keeping::Discarding;
        let is_device = matches!(keeping, Keeping::Device | Keeping::Placing);
        let mut durability = Durability::new(if durable { zones } else { 0 }, discards);
        for index in (0..zones).map(ZoneIndex) {
            let found = found(index);
            let capacity = geometry.capacity_blocks(index);
            let state = state_at_open(&geometry, index, found, capacity);
            cells.word(index).store(ZoneWord::new(state, found.wp).bits(), Ordering::Release);
            cells.set_mark(index, Mark { generation: found.generation, end: found.wp });
            resources.moved(index, ZoneState::Empty, state);
            if let Some(condition @ (ZoneState::ReadOnly | ZoneState::Offline)) = found.condition {
                conditions.insert(index, condition);
            }
            if durable {
                durability.found(index, found.wp);
            }
        }
        Self {
            capacity: geometry.capacity_blocks(ZoneIndex(geometry.conventional_zones)),
            last: ZoneIndex(zones - 1),
            last_capacity: geometry.capacity_blocks(ZoneIndex(zones - 1)),
            count: zones,
            conventional_end: geometry.start_of(ZoneIndex(geometry.conventional_zones)),
            geometry,
            block_size,
            cells,
            durable,
            settles_late: keeping == Keeping::Length || is_device,
            placing: keeping == Keeping::Placing,
            claims: Claims::new(if is_device { zones } else { 0 }),
            hurdles: AtomicBool::new(is_device),
            depths: [const { AtomicU32::new(0) }; QUEUES_MAX as usize],
            latched: AtomicBool::new(false),
            masked: AtomicBool::new(false),
            counts: Counts::default(),
            control: Mutex::new(Control {
                resources,
                sites: HashMap::new(),
                next_ticket: 0,
                durability,
                masks: BTreeMap::new(),
                conditions,
                queues: Vec::new(),
                latch: None,
                closed: false,
                last_queue: false,
            }),
        }
    }

    pub(crate) fn cells(&self) -> &Cells {
        &self.cells
    }

    pub(crate) fn block_size(&self) -> u64 {
        self.block_size
    }

    /// How many zones there are.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Whether a byte of the drive is in a conventional zone.
    #[inline]
    pub(crate) fn is_conventional_at(&self, offset: u64) -> bool {
        offset < self.conventional_end
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    /// The capacity of a sequential zone, in blocks.
    #[inline]
    pub(crate) fn capacity(&self, zone: ZoneIndex) -> Blocks {
        if zone == self.last { self.last_capacity } else { self.capacity }
    }

    /// The absolute byte offset of a block of a zone.
    #[inline]
    pub(crate) fn offset_of(&self, zone: ZoneIndex, block: Blocks) -> u64 {
        self.geometry.start_of(zone) + u64::from(block.0) * self.block_size
    }

    /// Opens a queue's entry, for `depth` slots.
    pub(crate) fn enlist(&self, mailbox: Arc<Mailbox>, depth: u32) -> Result<u32> {
        let mut control = self.control();
        if control.closed && !std::mem::take(&mut control.last_queue) {
            let text = "the drive was closed; open it again";
            return Err(Error::new(ErrorKind::DeviceReadOnly, text).during("open a queue"));
        }
        let free = control.queues.iter().position(|entry| matches!(entry, QueueEntry::Free));
        let id = free.unwrap_or(control.queues.len());
        if id >= QUEUES_MAX as usize {
            let text = format!("{QUEUES_MAX} queues are open on this drive; drop one first");
            return Err(Error::new(ErrorKind::InUse, text).during("open a queue"));
        }
        if free.is_none() {
            control.queues.push(QueueEntry::Free);
        }
        control.queues[id] = QueueEntry::Open(mailbox);
        self.depths[id].store(depth, Ordering::Release);
        let id = u32::try_from(id).unwrap_or(0);
        self.cells.uses_slots(id, depth);
        Ok(id)
    }

    /// Closes a queue's entry. Writes of it that are held keep their slots until they settle.
    pub(crate) fn retire(&self, queue: u32) {
        let mut control = self.control();
        let held = control
            .sites
            .values()
            .map(|site| site.ended.iter().filter(|ended| ended.id.queue == queue).count())
            .sum();
        control.retire(self, queue, held);
    }

    /// Ends the session for all handles, unless queues are open; one more queue may be opened, to
    /// flush.
    ///
    /// # Errors
    /// How many queues are open.
    pub(crate) fn begin_close(&self) -> Result<(), usize> {
        let mut control = self.control();
        let open = |entry: &&QueueEntry| matches!(entry, QueueEntry::Open(_));
        let open = control.queues.iter().filter(open).count();
        if open > 0 {
            return Err(open);
        }
        (control.closed, control.last_queue) = (true, true);
        Ok(())
    }

    /// Whether a close has begun, and its flush has not failed.
    pub(crate) fn is_closed(&self) -> bool {
        self.control().closed
    }

    /// The session goes on after all, since the flush failed.
    pub(crate) fn cancel_close(&self) {
        self.control().closed = false;
    }

    /// Every slot in which a range may be published.
    fn slots(&self) -> impl Iterator<Item = SlotId> + Clone {
        self.depths.iter().zip(0..).flat_map(|(depth, queue)| {
            (0..depth.load(Ordering::Acquire)).map(move |slot| SlotId { queue, slot })
        })
    }

    /// What must not be read from the disk in `zone` below `below`: ranges in flight, and masks. Where
    /// the device places appends it has to show new data or zeros itself.
    pub(crate) fn unreadable(&self, zone: ZoneIndex, below: Blocks, ranges: &mut Vec<Extent>) {
        if !self.placing {
            self.cells.ranges_in_flight(zone, below, self.slots(), ranges);
        }
        if self.masked.load(Ordering::Acquire)
            && let Some(masks) = self.control().masks.get(&zone)
        {
            ranges.extend(masks);
        }
    }

    /// Which queues have writes in flight in a zone, for an error that names them.
    pub(crate) fn owners(&self, zone: ZoneIndex) -> Vec<u32> {
        let mut owners: Vec<u32> = self
            .slots()
            .filter(|&id| self.cells.published(id).is_some_and(|range| range.zone == zone))
            .map(|id| id.queue)
            .collect();
        owners.dedup();
        owners
    }

    /// Hashes all that decides what the zones do next. Requests are named by the `tag` of their
    /// slot, and of epochs counts only which is the present one.
    pub(crate) fn hash_state(&self, tag: impl Fn(SlotId) -> u64, hasher: &mut impl Hasher) {
        let control = self.control();
        for zone in (0..self.count).map(ZoneIndex) {
            let word = self.cells.load(zone);
            let in_flight = [word.epoch(), word.epoch().other()].map(|e| word.in_flight_of(e));
            (word.wp(), word.state(), word.is_failing(), word.is_shut()).hash(hasher);
            (in_flight, word.in_flight_is_plain(), self.cells.mark(zone).bits()).hash(hasher);
            let site = control.sites.get(&zone);
            let mut ended: Vec<_> =
                site.iter().flat_map(|site| &site.ended).map(|e| e.what(&tag)).collect();
            ended.sort_unstable_by_key(|&(tag, ..)| tag);
            (site.is_some(), ended).hash(hasher);
            if let Some(site) = site {
                site.hash_state(&tag, hasher);
            }
        }
        control.durability.hash_state(hasher);
        (&control.masks, &control.conditions, control.latch.is_some()).hash(hasher);
        control.resources.open_order().for_each(|zone| zone.hash(hasher));
    }

    /// Hashes what a task with this waker waits for at the zones, for [`Zones::hash_state`].
    pub(crate) fn hash_wait(&self, waker: &Waker, hasher: &mut impl Hasher) {
        let control = self.control();
        control.durability.wait_of(waker).hash(hasher);
        for zone in (0..self.count).map(ZoneIndex) {
            control.sites.get(&zone).and_then(|site| site.wait_of(waker)).hash(hasher);
        }
    }

    /// Whether nothing is written any more: a sync has failed, or the device below is gone.
    #[inline]
    pub(crate) fn is_latched(&self) -> bool {
        self.latched.load(Ordering::Acquire)
    }

    /// Makes the drive read-only, for `why`. Says it once.
    pub(crate) fn latch(&self, why: &str) {
        let mut control = self.control();
        if control.latch.is_none() {
            tracing::error!("{why}: the drive is read-only from here on");
            control.latch = Some(why.to_owned());
            crate::live::distrust(&self.cells);
            self.latched.store(true, Ordering::Release);
            self.hurdles.store(true, Ordering::Release);
        }
    }

    /// Whether there is more to a write than the rules: see [`Zones::is_latched`] and
    /// [`Zones::claim`].
    #[inline]
    pub(crate) fn has_hurdles(&self) -> bool {
        self.hurdles.load(Ordering::Acquire)
    }

    /// The error of a latched drive.
    pub(crate) fn latched_error(&self) -> Error {
        let why = self.control().latch.clone().unwrap_or_default();
        Error::new(
            ErrorKind::DeviceReadOnly,
            format!("{why}; close the drive, see to what is below it, and open it again"),
        )
    }

    /// Lets a write in: takes its place and publishes its range.
    #[inline(always)] // also where devices have callers of their own: it is the hot path
    pub(crate) fn enter(
        &self,
        id: SlotId,
        zone: ZoneIndex,
        write: Write,
        pass: Pass,
    ) -> Result<Entered, Barrier> {
        let capacity = self.capacity(zone);
        let cell = self.cells.word(zone);
        let mut old = cell.load(Ordering::Acquire);
        loop {
            match ZoneWord::from_bits(old).enter(write, capacity, pass) {
                Ok(entered) => {
                    let extent = Extent::new(entered.start, write.length);
                    self.cells.propose(id, zone, extent);
                    match exchange(cell, old, entered.word) {
                        Ok(()) => {
                            self.cells.publish(id, zone, extent);
                            return Ok(entered);
                        }
                        Err(now) => old = now,
                    }
                }
                Err(barrier) => {
                    self.cells.clear(id);
                    return match barrier {
                        Barrier::Needs(_) => self.enter_opening(id, zone, write, pass),
                        Barrier::Wait(_) | Barrier::Refused(_) => Err(barrier),
                    };
                }
            }
        }
    }

    /// Lets a write in that opens its zone.
    #[cold]
    fn enter_opening(
        &self,
        id: SlotId,
        zone: ZoneIndex,
        write: Write,
        pass: Pass,
    ) -> Result<Entered, Barrier> {
        let entered = self.try_opening(id, zone, write, pass);
        if entered.is_err() {
            self.cells.clear(id);
        }
        entered
    }

    fn try_opening(
        &self,
        id: SlotId,
        zone: ZoneIndex,
        write: Write,
        pass: Pass,
    ) -> Result<Entered, Barrier> {
        let capacity = self.capacity(zone);
        let mut control = self.control();
        loop {
            let old = self.cells.load(zone);
            let (opened, entered) = match old.enter(write, capacity, pass) {
                Ok(entered) => (old, entered),
                Err(Barrier::Needs(place)) => {
                    if self.durable && control.durability.is_unready(zone) {
                        return Err(Barrier::Needs(place));
                    }
                    self.make_room(&mut control, place).map_err(Barrier::Refused)?;
                    let opened = old.with_state(ZoneState::ImplicitlyOpen);
                    (opened, opened.enter(write, capacity, pass)?)
                }
                Err(barrier) => return Err(barrier),
            };
            let extent = Extent::new(entered.start, write.length);
            self.cells.propose(id, zone, extent);
            if exchange(self.cells.word(zone), old.bits(), entered.word).is_ok() {
                self.cells.publish(id, zone, extent);
                if old.state() != opened.state() {
                    control.resources.moved(zone, old.state(), opened.state());
                    control.durability.touch(zone);
                }
                return Ok(entered);
            }
        }
    }

    /// Sees to it that `place` is free, by an implicit close if need be.
    fn make_room(&self, control: &mut Control, place: Place) -> Result<(), Refusal> {
        if let Some(victim) = control.resources.find(place)? {
            self.close_implicitly(control, victim);
        }
        Ok(())
    }

    /// Sees to it that there is room among the open and active zones for one more, which is closed or
    /// empty now, by an implicit close if need be.
    ///
    /// # Errors
    /// Which limit stands in the way.
    pub(crate) fn make_room_for(&self, zone: ZoneIndex) -> Result<(), Refusal> {
        let mut control = self.control();
        let place = match self.cells.load(zone).state() {
            ZoneState::Empty => Place::OpenAndActive,
            ZoneState::Closed => Place::Open,
            ZoneState::NotWp
            | ZoneState::ImplicitlyOpen
            | ZoneState::ExplicitlyOpen
            | ZoneState::ReadOnly
            | ZoneState::Full
            | ZoneState::Offline => return Ok(()),
        };
        self.make_room(&mut control, place)
    }

    /// Closes the implicitly open zone that was opened longest ago; false: there is none.
    pub(crate) fn close_first_opened(&self) -> bool {
        let mut control = self.control();
        let Some(victim) = control.resources.open_order().next() else { return false };
        self.close_implicitly(&mut control, victim);
        true
    }

    fn close_implicitly(&self, control: &mut Control, victim: ZoneIndex) {
        let (old, new) = self.change(victim, |word| {
            word.after(ZoneOp::Close, self.capacity(victim)).unwrap_or(word)
        });
        control.resources.moved(victim, old.state(), new.state());
    }

    /// Replaces a zone's word by a function of it; returns both.
    fn change(
        &self,
        zone: ZoneIndex,
        change: impl Fn(ZoneWord) -> ZoneWord,
    ) -> (ZoneWord, ZoneWord) {
        loop {
            let old = self.cells.load(zone);
            let new = change(old);
            if exchange(self.cells.word(zone), old.bits(), new).is_ok() {
                return (old, new);
            }
        }
    }

    /// Ends a write that went well: acknowledged at once, or held until its failing zone settles.
    #[inline(always)] // also where devices have callers of their own: it is the hot path
    pub(crate) fn acknowledge(&self, leaving: &Leaving) -> Conclusion {
        let Leaving { id, zone, extent, epoch } = *leaving;
        let capacity = self.capacity(zone);
        let cell = self.cells.word(zone);
        let mut old = cell.load(Ordering::Acquire);
        let mut marked = false;
        loop {
            let word = ZoneWord::from_bits(old);
            let Acknowledgement::Acknowledged(new) = word.acknowledge(epoch, capacity) else {
                return self.end_in_failing(leaving, failure::End::Well);
            };
            if !marked {
                // Before the exchange: who settles the zone or recovers it after a kill must find
                // every acknowledged end. If the exchange is lost to a failure after all, the
                // write counts as acknowledged from here, and settling will tell it so.
                self.cells.raise_mark(zone, extent.end);
                self.cells.clear(id);
                marked = true;
            }
            if new.state() != word.state() {
                return self.acknowledge_last(leaving);
            }
            match exchange(cell, old, new) {
                Ok(()) => {
                    if new.is_shut() || new.epoch() != epoch {
                        self.left(zone, new);
                    }
                    return Conclusion::Acknowledged;
                }
                Err(now) => old = now,
            }
        }
    }

    /// Acknowledges the write that makes its zone full, with the lock that the counts need.
    #[cold]
    fn acknowledge_last(&self, leaving: &Leaving) -> Conclusion {
        let Leaving { zone, epoch, .. } = *leaving;
        let mut control = self.control();
        loop {
            let old = self.cells.load(zone);
            match old.acknowledge(epoch, self.capacity(zone)) {
                Acknowledgement::Acknowledged(new) => {
                    if exchange(self.cells.word(zone), old.bits(), new).is_ok() {
                        control.resources.moved(zone, old.state(), new.state());
                        control.progressed(self, zone, new);
                        return Conclusion::Acknowledged;
                    }
                }
                Acknowledgement::Held => {
                    drop(control);
                    return self.end_in_failing(leaving, failure::End::Well);
                }
            }
        }
    }

    /// Tells whoever waits for writes to leave a zone.
    #[cold]
    fn left(&self, zone: ZoneIndex, word: ZoneWord) {
        let nobody_waits = word.in_flight() > 0 && word.in_flight_of(word.epoch().other()) > 0;
        if !nobody_waits {
            self.control().progressed(self, zone, word);
        }
    }

    /// Opens, closes, finishes or resets a zone whose gate the caller holds, in its word and in
    /// the counts; gives how it was.
    ///
    /// # Errors
    /// The refusal; nothing has changed.
    pub(crate) fn operate(&self, zone: ZoneIndex, op: ZoneOp) -> Result<Before, Refusal> {
        let capacity = self.capacity(zone);
        let mut control = self.control();
        let word = self.cells.load(zone);
        word.after(op, capacity)?;
        let before = Before { wp: word.wp(), mark: self.cells.mark(zone) };
        match (op, word.state()) {
            (ZoneOp::Open, ZoneState::Empty) => {
                self.make_room(&mut control, Place::OpenAndActive)?;
            }
            (ZoneOp::Open, ZoneState::Closed) => self.make_room(&mut control, Place::Open)?,
            (ZoneOp::Open | ZoneOp::Close | ZoneOp::Finish | ZoneOp::Reset, _) => {}
        }
        let (old, new) = self.change(zone, |word| word.after(op, capacity).unwrap_or(word));
        control.resources.moved(zone, old.state(), new.state());
        match op {
            ZoneOp::Open | ZoneOp::Close => {}
            // What a device pads a zone with is above what was acknowledged, and not looked at.
            ZoneOp::Finish if self.claims.are_needed() => {}
            ZoneOp::Finish => {
                let mark = self.cells.mark(zone);
                self.cells.set_mark(zone, Mark { end: capacity, ..mark });
            }
            ZoneOp::Reset => {
                let Mark { generation, .. } = self.cells.mark(zone);
                let generation = Generation(generation.0.wrapping_add(1));
                self.cells.set_mark(zone, Mark { generation, end: Blocks::ZERO });
                if control.masks.remove(&zone).is_some() {
                    control.durability.blemished();
                }
                // A device keeps its zones itself.
                if self.durable && !self.claims.are_needed() {
                    control.durability.reset(zone);
                }
            }
        }
        control.durability.touch(zone);
        Ok(before)
    }

    /// Takes over how a device says that a zone stands after an operation, with nothing in flight
    /// in it. Of one that it `refused`, with how the zone was before, the data is where it was unless the
    /// device says otherwise.
    pub(crate) fn take_over(&self, zone: ZoneIndex, standing: Standing, refused: Option<Before>) {
        let mut control = self.control();
        let capacity = self.capacity(zone);
        let kept = refused.filter(|before| before.is_kept(&standing));
        let mark = kept.map_or_else(|| self.cells.mark(zone), |before| before.mark);
        let (old, new) = self.change(zone, |word| {
            let wp = standing.wp.unwrap_or(kept.map_or(word.wp(), |before| before.wp));
            word.stands(standing.state_after(word.state()), wp.min(capacity))
        });
        // Finished, it is full above its data; in every other state its data ends where it says. One that
        // has no pointer any more ends where it did.
        let end = match standing.wp {
            Some(wp) if new.state() == ZoneState::Full => mark.end.min(wp),
            Some(wp) => new.wp().min(wp),
            None => mark.end,
        };
        self.cells.set_mark(zone, Mark { end, ..mark });
        control.resources.moved(zone, old.state(), new.state());
        if matches!(standing.state, ZoneState::ReadOnly | ZoneState::Offline) {
            control.conditions.insert(zone, standing.state);
        }
    }

    /// Goes on with a zone of which its device says nothing after an operation, with nothing in flight in
    /// it: it takes no more writes. Of one that it `refused`, with how the zone was before, all data that
    /// was there can be read.
    pub(crate) fn is_unknown(&self, zone: ZoneIndex, refused: Option<Before>) {
        let mut control = self.control();
        if let Some(Before { wp, mark }) = refused {
            self.change(zone, |word| word.stands(word.state(), wp));
            self.cells.set_mark(zone, mark);
        }
        control.condemn(self, zone, ZoneState::ReadOnly);
    }

    /// Whether any zone is read-only or offline, by its device's word or by ours.
    pub(crate) fn has_dead(&self) -> bool {
        let states = (0..self.count).map(|zone| self.cells.load(ZoneIndex(zone)).state());
        states.into_iter().any(|state| matches!(state, ZoneState::ReadOnly | ZoneState::Offline))
    }

    /// What an operation on a zone would be refused for now.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn would(&self, zone: ZoneIndex, op: ZoneOp) -> Result<(), Refusal> {
        self.cells.load(zone).after(op, self.capacity(zone)).map(|_| ())
    }

    /// Makes a zone read-only or offline, as worn-out media do.
    ///
    /// # Errors
    /// Writes in flight in it, or more such zones than the image can note.
    pub(crate) fn set_condition(&self, zone: ZoneIndex, condition: ZoneState) -> Result<()> {
        let mut control = self.control();
        if control.closed {
            let text = "the drive was closed; open it again";
            return Err(Error::new(ErrorKind::DeviceReadOnly, text));
        }
        let noted = &control.conditions;
        if self.durable && noted.len() >= MAX_CONDITIONS && !noted.contains_key(&zone) {
            let text = format!("{MAX_CONDITIONS} zones are read-only or offline, all it can note");
            return Err(Error::new(ErrorKind::NoSpace, text).in_zone(zone.0));
        }
        loop {
            let old = self.cells.load(zone);
            if old.state() == ZoneState::Offline {
                return Err(Refusal::Offline.into());
            }
            if old.in_flight() > 0 || old.is_failing() {
                let text = "writes are in flight in it; wait for their completions first";
                return Err(Error::new(ErrorKind::InvalidInput, text).in_zone(zone.0));
            }
            let new = old.with_state(condition);
            if exchange(self.cells.word(zone), old.bits(), new).is_ok() {
                control.condemned(zone, old.state(), condition);
                return Ok(());
            }
        }
    }

    /// Keeps a range below the write pointer from being read, which the image has noted already.
    pub(crate) fn mask_at_open(&self, zone: ZoneIndex, extent: Extent) {
        if !extent.is_empty() {
            self.control().masks.entry(zone).or_default().push(extent);
            self.masked.store(true, Ordering::Release);
        }
    }

    /// Every mask and condition, for the image to keep.
    pub(crate) fn blemishes(&self) -> Blemishes {
        let control = self.control();
        let conditions = control.conditions.iter().map(|(&zone, &state)| (zone, state)).collect();
        let masks = control
            .masks
            .iter()
            .flat_map(|(&zone, masks)| masks.iter().map(move |&mask| (zone, mask)))
            .collect();
        Blemishes { conditions, masks }
    }

    /// Open and active zones, as counted.
    pub(crate) fn counted(&self) -> (u32, u32) {
        let control = self.control();
        (control.resources.open(), control.resources.active())
    }
}

impl Control {
    /// Follows what a changed word lets go on: gates, settling, flush.
    fn progressed(&mut self, zones: &Zones, zone: ZoneIndex, word: ZoneWord) {
        if word.in_flight_of(word.epoch().other()) == 0 {
            self.durability.wake_leader();
        }
        if word.in_flight() == 0 && word.is_shut() {
            self.advance(zones, zone);
        }
    }

    fn condemn(&mut self, zones: &Zones, zone: ZoneIndex, condition: ZoneState) {
        let (old, _) = zones.change(zone, |word| word.with_state(condition));
        self.condemned(zone, old.state(), condition);
    }

    fn condemned(&mut self, zone: ZoneIndex, old: ZoneState, condition: ZoneState) {
        self.resources.moved(zone, old, condition);
        self.conditions.insert(zone, condition);
        self.durability.blemished();
    }

    /// Keeps a range from being read; with more of them than the image can note, its zone goes
    /// offline. Who only reads notes nothing, and may have to hide all that a writer has in flight.
    fn mask(&mut self, zones: &Zones, zone: ZoneIndex, extent: Extent) {
        let noted = || self.masks.values().map(Vec::len).sum::<usize>();
        if zones.durable && noted() >= MAX_DEAD_RANGES {
            self.condemn(zones, zone, ZoneState::Offline);
            self.masks.remove(&zone);
            return;
        }
        self.masks.entry(zone).or_default().push(extent);
        self.durability.blemished();
        zones.masked.store(true, Ordering::Release);
    }

    fn retire(&mut self, zones: &Zones, queue: u32, held: usize) {
        let entry = &mut self.queues[queue as usize];
        if held > 0 {
            *entry = QueueEntry::Retired(held);
        } else {
            *entry = QueueEntry::Free;
            zones.depths[queue as usize].store(0, Ordering::Release);
        }
    }

    fn post(&self, queue: u32, message: crate::mailbox::Message) {
        match &self.queues[queue as usize] {
            QueueEntry::Open(mailbox) => mailbox.post(message),
            QueueEntry::Free | QueueEntry::Retired(_) => {}
        }
    }

    /// A held write of a queue that may be gone has its verdict.
    fn released(&mut self, zones: &Zones, queue: u32) {
        if let QueueEntry::Retired(held) = &self.queues[queue as usize] {
            let held = held - 1;
            self.retire(zones, queue, held);
        }
    }
}

#[inline]
fn exchange(cell: &AtomicU64, old: u64, new: ZoneWord) -> Result<(), u64> {
    cell.compare_exchange_weak(old, new.bits(), Ordering::AcqRel, Ordering::Acquire).map(|_| ())
}

fn state_at_open(
    geometry: &Geometry,
    zone: ZoneIndex,
    found: Found,
    capacity: Blocks,
) -> ZoneState {
    if geometry.is_conventional(zone) {
        return ZoneState::NotWp;
    }
    match found.condition {
        Some(condition) => condition,
        None if found.wp == Blocks::ZERO => ZoneState::Empty,
        None if found.wp >= capacity => ZoneState::Full,
        None => ZoneState::Closed,
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::*;
    use crate::sys::words::SharedWords;
    use cells::words_needed;
    use zonal_core::zone::Placement;

    #[test]
    fn a_reader_hides_more_ranges_than_an_image_could_note() {
        let geometry = Geometry::with_size(1 << 30);
        let count = geometry.zones();
        let cells = Cells::new(SharedWords::heap(words_needed(count)), 0, count);
        let found = Found { wp: Blocks(1000), generation: Generation(0), condition: None };
        let zones = Zones::new(geometry, cells, Keeping::Nothing, |_| found);
        let masks = u32::try_from(MAX_DEAD_RANGES).unwrap() + 1;
        for n in 0..masks {
            zones.mask_at_open(ZoneIndex(0), Extent::new(Blocks(2 * n), Blocks(1)));
        }
        assert_eq!(zones.cells.load(ZoneIndex(0)).state(), ZoneState::Closed);
        let mut hidden = Vec::new();
        zones.unreadable(ZoneIndex(0), Blocks(1000), &mut hidden);
        assert_eq!(hidden.len(), masks as usize);
    }

    #[test]
    fn a_read_leaves_out_every_write_that_failed_until_the_zone_has_settled() {
        let geometry = Geometry::with_size(1 << 30);
        let count = geometry.zones();
        let cells = Cells::new(SharedWords::heap(words_needed(count)), 0, count);
        let found = Found { wp: Blocks::ZERO, generation: Generation(0), condition: None };
        let zones = Zones::new(geometry, cells, Keeping::Nothing, |_| found);
        let queue = zones.enlist(Arc::new(Mailbox::new(None)), 8).unwrap();
        let zone = ZoneIndex(0);
        let write = Write { placement: Placement::Append, length: Blocks(1) };
        let enter = |slot| {
            let id = SlotId { queue, slot };
            let Entered { start, epoch, .. } = zones.enter(id, zone, write, Pass::None).unwrap();
            Leaving { id, zone, extent: Extent::new(start, Blocks(1)), epoch }
        };
        let hidden = || {
            let mut ranges = Vec::new();
            zones.unreadable(zone, Blocks(4), &mut ranges);
            ranges.sort_unstable_by_key(|range| range.start);
            ranges.iter().map(|range| range.start.0).collect::<Vec<_>>()
        };
        // The slot of the one still in flight comes before those of the failed ones.
        let late = enter(0);
        let failed = [enter(1), enter(2)];
        let good = enter(3);
        assert!(matches!(zones.acknowledge(&good), Conclusion::Acknowledged));
        assert_eq!(hidden(), [0, 1, 2]);
        for leaving in &failed {
            assert!(matches!(zones.fail(leaving), Conclusion::Held));
            assert_eq!(hidden(), [0, 1, 2]);
        }
        let Conclusion::Settle(settling) = zones.fail(&late) else { panic!("it was the last") };
        assert_eq!(hidden(), [0, 1, 2]);
        zones.settled(settling, true);
        assert!(hidden().is_empty());
    }

    /// A device's zone of so many acknowledged blocks, and its capacity.
    fn on_a_device(blocks: u32) -> (Zones, Blocks) {
        let geometry = Geometry::with_size(1 << 30);
        let count = geometry.zones();
        let cells = Cells::new(SharedWords::heap(words_needed(count)), 0, count);
        let found = Found { wp: Blocks(blocks), generation: Generation(3), condition: None };
        let zones = Zones::new(geometry, cells, Keeping::Device, |_| found);
        let capacity = zones.capacity(ZONE);
        (zones, capacity)
    }

    const ZONE: ZoneIndex = ZoneIndex(0);

    /// Of the zone: state, write pointer, life, and where its data ends.
    fn of_zone(zones: &Zones) -> (ZoneState, Blocks, Generation, Blocks) {
        let (word, Mark { generation, end }) = (zones.cells.load(ZONE), zones.cells.mark(ZONE));
        (word.state(), word.wp(), generation, end)
    }

    fn standing(state: ZoneState, wp: Option<Blocks>) -> Standing {
        Standing { state, wp, tells_open: true }
    }

    #[test]
    fn a_reset_that_its_device_refuses_leaves_the_data_where_it_is() {
        let generation = Generation(3);
        let data = Blocks(10);
        let states = [
            (ZoneState::Closed, Some(data), data),
            (ZoneState::ReadOnly, None, data),
            (ZoneState::Offline, None, data),
        ];
        for (state, wp, then) in states {
            let (zones, _) = on_a_device(data.0);
            let before = zones.operate(ZONE, ZoneOp::Reset).unwrap();
            zones.take_over(ZONE, standing(state, wp), Some(before));
            assert_eq!(of_zone(&zones), (state, then, generation, data));
        }
        // Full by data alone, and finished above it.
        let (_, capacity) = on_a_device(0);
        let full = standing(ZoneState::Full, Some(capacity));
        let (zones, _) = on_a_device(capacity.0);
        let before = zones.operate(ZONE, ZoneOp::Reset).unwrap();
        zones.take_over(ZONE, full, Some(before));
        assert_eq!(of_zone(&zones), (ZoneState::Full, capacity, generation, capacity));
        let (zones, _) = on_a_device(data.0);
        zones.operate(ZONE, ZoneOp::Finish).unwrap();
        zones.take_over(ZONE, full, None);
        let before = zones.operate(ZONE, ZoneOp::Reset).unwrap();
        zones.take_over(ZONE, full, Some(before));
        assert_eq!(of_zone(&zones), (ZoneState::Full, capacity, generation, data));
    }

    #[test]
    fn a_finish_that_kills_its_zone_moves_no_write_pointer() {
        let (zones, _) = on_a_device(10);
        let before = zones.operate(ZONE, ZoneOp::Finish).unwrap();
        zones.take_over(ZONE, standing(ZoneState::ReadOnly, None), Some(before));
        let data = Blocks(10);
        assert_eq!(of_zone(&zones), (ZoneState::ReadOnly, data, Generation(3), data));
    }

    #[test]
    fn a_reset_that_is_done_ends_a_life_whatever_its_device_answers() {
        for refused in [false, true] {
            let (zones, _) = on_a_device(10);
            let before = zones.operate(ZONE, ZoneOp::Reset).unwrap();
            let empty = standing(ZoneState::Empty, Some(Blocks::ZERO));
            zones.take_over(ZONE, empty, refused.then_some(before));
            let now = (ZoneState::Empty, Blocks::ZERO, Generation(4), Blocks::ZERO);
            assert_eq!(of_zone(&zones), now);
        }
    }

    #[test]
    fn a_zone_of_which_its_device_says_nothing_takes_no_more_writes_and_keeps_its_data() {
        let (zones, _) = on_a_device(10);
        let before = zones.operate(ZONE, ZoneOp::Reset).unwrap();
        zones.is_unknown(ZONE, Some(before));
        let data = Blocks(10);
        assert_eq!(of_zone(&zones), (ZoneState::ReadOnly, data, Generation(3), data));
        assert_eq!(zones.would(ZONE, ZoneOp::Reset), Err(Refusal::ReadOnly));
        assert!(zones.has_dead() && !on_a_device(10).0.has_dead());
        // What the device has done is done.
        let (zones, _) = on_a_device(10);
        zones.operate(ZONE, ZoneOp::Reset).unwrap();
        zones.is_unknown(ZONE, None);
        let none = Blocks::ZERO;
        assert_eq!(of_zone(&zones), (ZoneState::ReadOnly, none, Generation(4), none));
    }
}
