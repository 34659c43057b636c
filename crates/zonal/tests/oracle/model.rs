//! The oracle: what a drive may do, in plain structs and obvious code.
//!
//! It shares no function with the code under test; the only words in common are the public error
//! kinds and states. It is told what is asked and how each I/O below ended, and says what must be
//! completed, with which result, and what the zones must look like. All numbers are blocks but
//! where a name says otherwise. Contents are one number per block, the tag of the write that put
//! it there; zero is zeros.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use zonal::ErrorKind::{self, *};
use zonal::ZoneState::{self, *};

pub(crate) type Tag = u64;

/// An operation on a whole zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Open,
    Close,
    Finish,
    Reset,
}

/// What is asked, with every number resolved.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// `start` is asked for, or none for an append; `alone` for an ordered append over the limit.
    Write {
        start: Option<u64>,
        blocks: u64,
        alone: bool,
    },
    Op(Op),
    /// Resets zones from this one on; some may have been reset already.
    ResetAll {
        begun: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) tag: Tag,
    pub(crate) queue: usize,
    pub(crate) zone: usize,
    pub(crate) call: Call,
    pub(crate) fua: bool,
    /// What a refusal says was asked for, absolute in bytes.
    pub(crate) offset_bytes: u64,
    /// It had to wait at its zone.
    pub(crate) waited: bool,
}

/// How a request must complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) result: Result<u64, ErrorKind>,
    pub(crate) refused: bool,
    pub(crate) held: bool,
    pub(crate) waited: bool,
    pub(crate) durable: bool,
    pub(crate) offset_bytes: u64,
    /// What a read shows.
    pub(crate) shown: Option<Vec<u64>>,
}

/// A write in flight.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) ask: Ask,
    pub(crate) start: u64,
    pub(crate) blocks: u64,
    pub(crate) plain: bool,
    /// It has the zone to itself.
    pub(crate) alone: bool,
    /// Bytes the disk has done so far.
    pub(crate) moved_bytes: u64,
}

/// A write that ended in a failing zone.
#[derive(Clone, Debug)]
struct Ended {
    flight: Flight,
    failed: bool,
}

/// What a zone is busy zeroing for.
#[derive(Clone, Debug)]
enum Busy {
    Finish(Ask),
    /// So many dead ranges are left.
    Settle(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Zone {
    pub(crate) conventional: bool,
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) capacity: u64,
    pub(crate) state: ZoneState,
    pub(crate) wp: u64,
    /// The highest acknowledged end.
    acknowledged: u64,
    content: Vec<u64>,
    pub(crate) life: u64,
    pub(crate) flights: Vec<Flight>,
    ended: Vec<Ended>,
    failing: bool,
    busy: Option<Busy>,
    line: VecDeque<Ask>,
    opened_at: u64,
}

/// A read in flight.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) queue: usize,
    pub(crate) start: u64,
    pub(crate) blocks: u64,
    pub(crate) moved_bytes: u64,
    /// Per block: zone, life, and what it shows; none where the disk decides when it ends.
    snapshot: Vec<(usize, u64, Option<u64>)>,
}

/// A flush, or a write that becomes durable.
#[derive(Clone, Debug)]
pub(crate) struct Soft {
    pub(crate) expected: Expected,
    /// It must not end before these have.
    pub(crate) after: BTreeSet<Tag>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) block: u64,
    pub(crate) max_append: u64,
    pub(crate) max_open: u64,
    pub(crate) max_active: u64,
    /// Everything ends at once.
    pub(crate) memory: bool,
    /// Zeroing is ended by the test, not at once.
    pub(crate) slow_zeroing: bool,
    pub(crate) zones: Vec<Zone>,
    /// Writes to conventional zones: they have no order.
    pub(crate) loose: Vec<Flight>,
    pub(crate) reads: BTreeMap<Tag, Read>,
    pub(crate) soft: BTreeMap<Tag, Soft>,
    pub(crate) done: BTreeMap<Tag, Expected>,
    /// Zones in this order go on when several can.
    pub(crate) order: Vec<usize>,
    woken: BTreeSet<usize>,
    clock: u64,
    pub(crate) failures: u64,
    pub(crate) settled_over_dead: u64,
    pub(crate) victims: u64,
}

enum Went {
    On,
    Waits,
}

impl Zone {
    pub(crate) fn new(conventional: bool, start: u64, size: u64, capacity: u64) -> Self {
        Self {
            conventional,
            start,
            size,
            capacity: if conventional { size } else { capacity.min(size) },
            state: if conventional { NotWp } else { Empty },
            wp: 0,
            acknowledged: 0,
            content: vec![0; usize::try_from(size).unwrap()],
            life: 0,
            flights: Vec::new(),
            ended: Vec::new(),
            failing: false,
            busy: None,
            line: VecDeque::new(),
            opened_at: 0,
        }
    }

    fn open(&self) -> bool {
        self.state == ImplicitlyOpen || self.state == ExplicitlyOpen
    }

    fn active(&self) -> bool {
        self.open() || self.state == Closed
    }

    fn set(&mut self, from: u64, blocks: u64, tag: u64) {
        for block in from..from + blocks {
            self.content[usize::try_from(block).unwrap()] = tag;
        }
    }

    pub(crate) fn is_zeroing(&self) -> bool {
        self.busy.is_some()
    }

    pub(crate) fn quiet(&self) -> bool {
        self.flights.is_empty() && !self.failing && self.busy.is_none() && self.line.is_empty()
    }

    pub(crate) fn has_no_line(&self) -> bool {
        self.line.is_empty()
    }

    /// Where the next write goes once all that wait have gone in.
    pub(crate) fn next_wp(&self) -> u64 {
        let waiting = self.line.iter().map(|ask| match ask.call {
            Call::Write { blocks, .. } => blocks,
            Call::Op(_) | Call::ResetAll { .. } => 0,
        });
        self.wp + waiting.sum::<u64>()
    }
}

impl Model {
    pub(crate) fn new(zones: Vec<Zone>, block: u64, max_append: u64, limits: (u64, u64)) -> Self {
        let order = (0..zones.len()).collect();
        Self {
            block,
            max_append,
            max_open: limits.0,
            max_active: limits.1,
            memory: false,
            slow_zeroing: false,
            zones,
            loose: Vec::new(),
            reads: BTreeMap::new(),
            soft: BTreeMap::new(),
            done: BTreeMap::new(),
            order,
            woken: BTreeSet::new(),
            clock: 0,
            failures: 0,
            settled_over_dead: 0,
            victims: 0,
        }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.zones.iter().map(|zone| zone.size).sum()
    }

    pub(crate) fn zone_of(&self, block: u64) -> Option<usize> {
        self.zones.iter().position(|zone| (zone.start..zone.start + zone.size).contains(&block))
    }

    pub(crate) fn in_use(&self) -> (u32, u32) {
        let count = |what: fn(&Zone) -> bool| self.zones.iter().filter(|zone| what(zone)).count();
        (count(Zone::open).try_into().unwrap(), count(Zone::active).try_into().unwrap())
    }

    pub(crate) fn quiet(&self) -> bool {
        self.zones.iter().all(Zone::quiet) && self.loose.is_empty() && self.reads.is_empty()
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.max_open > 0 || self.max_active > 0
    }

    /// The implicitly open zones, the longest open first.
    pub(crate) fn opening_order(&self) -> Vec<usize> {
        let open = |&at: &usize| self.zones[at].state == ImplicitlyOpen;
        let mut order: Vec<usize> = (0..self.zones.len()).filter(open).collect();
        order.sort_by_key(|&at| self.zones[at].opened_at);
        order
    }

    /// How many times zones were opened by writes since.
    pub(crate) fn opened_since(&self, before: &Self) -> u64 {
        self.clock - before.clock
    }

    /// Lets these zones go on first, in this order.
    pub(crate) fn prefer(&mut self, first: &[usize]) {
        let rest = (0..self.zones.len()).filter(|at| !first.contains(at));
        self.order = first.iter().copied().chain(rest).collect();
    }

    // ---- what is asked --------------------------------------------------------------------

    /// A request refused for its arguments alone.
    pub(crate) fn refuse_at_once(&mut self, tag: Tag, kind: ErrorKind, offset_bytes: u64) {
        self.refuse(tag, kind, offset_bytes, false);
    }

    fn refuse(&mut self, tag: Tag, kind: ErrorKind, offset_bytes: u64, waited: bool) {
        let expected = Expected {
            result: Err(kind),
            refused: true,
            held: false,
            waited,
            durable: false,
            offset_bytes,
            shown: None,
        };
        assert!(self.done.insert(tag, expected).is_none(), "tag {tag} ends twice");
    }

    fn succeed(&mut self, tag: Tag, result: u64, waited: bool, offset_bytes: u64) {
        let expected = Expected {
            result: Ok(result),
            refused: false,
            held: false,
            waited,
            durable: false,
            offset_bytes,
            shown: None,
        };
        assert!(self.done.insert(tag, expected).is_none(), "tag {tag} ends twice");
    }

    /// A request for a zone.
    pub(crate) fn ask(&mut self, ask: Ask) {
        self.arrive(ask.zone, ask);
        self.run_woken();
    }

    fn arrive(&mut self, at: usize, mut ask: Ask) {
        let zone = &mut self.zones[at];
        if zone.conventional && matches!(ask.call, Call::Write { .. }) {
            return self.write_loose(ask);
        }
        if zone.failing || zone.busy.is_some() || !zone.line.is_empty() {
            ask.waited = true;
            zone.line.push_back(ask);
            return;
        }
        match self.attempt(at, &ask) {
            Went::On => {}
            Went::Waits => {
                ask.waited = true;
                self.zones[at].line.push_back(ask);
            }
        }
    }

    /// Lets those who wait go on, zone by zone.
    fn run_woken(&mut self) {
        while !self.woken.is_empty() {
            let order = self.order.clone();
            for at in order {
                if self.woken.remove(&at) {
                    self.run_line(at);
                }
            }
        }
    }

    fn run_line(&mut self, at: usize) {
        loop {
            let zone = &mut self.zones[at];
            if zone.failing || zone.busy.is_some() {
                return;
            }
            let Some(ask) = zone.line.pop_front() else { return };
            match self.attempt(at, &ask) {
                Went::On => {}
                Went::Waits => return self.zones[at].line.push_front(ask),
            }
        }
    }

    fn attempt(&mut self, at: usize, ask: &Ask) -> Went {
        if self.zones[at].flights.iter().any(|flight| flight.alone) {
            return Went::Waits;
        }
        match ask.call {
            Call::Write { start, blocks, alone } => self.write(at, ask, start, blocks, alone),
            Call::Op(op) => self.operate(at, ask, op),
            Call::ResetAll { begun } => self.reset_from(at, ask, begun),
        }
    }

    fn write(
        &mut self,
        at: usize,
        ask: &Ask,
        start: Option<u64>,
        blocks: u64,
        alone: bool,
    ) -> Went {
        let zone = &self.zones[at];
        let refusal = match zone.state {
            NotWp => Some(InvalidInput),
            Full => Some(ZoneFull),
            ReadOnly => Some(ZoneReadOnly),
            Offline => Some(ZoneOffline),
            _ if start.is_some_and(|start| start != zone.wp) => Some(NotAtWritePointer),
            _ if zone.wp == zone.capacity => Some(ZoneFull),
            _ if zone.wp + blocks > zone.capacity => Some(BeyondCapacity),
            _ => None,
        };
        if let Some(kind) = refusal {
            self.refuse(ask.tag, kind, ask.offset_bytes, ask.waited);
            return Went::On;
        }
        let plain = alone || start.is_some();
        if zone.flights.iter().any(|flight| alone || flight.plain != plain) {
            return Went::Waits;
        }
        if !zone.open() {
            if let Err(kind) = self.make_room(zone.state == Empty) {
                self.refuse(ask.tag, kind, ask.offset_bytes, ask.waited);
                return Went::On;
            }
            self.clock += 1;
            self.zones[at].state = ImplicitlyOpen;
            self.zones[at].opened_at = self.clock;
        }
        let zone = &mut self.zones[at];
        let tag = ask.tag;
        let (ask, start) = (ask.clone(), zone.wp);
        let flight = Flight { ask, start, blocks, plain, alone, moved_bytes: 0 };
        zone.wp += blocks;
        zone.flights.push(flight);
        if self.memory {
            self.write_ended(tag, None);
        }
        Went::On
    }

    /// Finds a place for one more open zone, which is also one more active one if it was empty.
    fn make_room(&mut self, activates: bool) -> Result<(), ErrorKind> {
        let (open, active) = self.in_use();
        if activates && self.max_active > 0 && u64::from(active) >= self.max_active {
            return Err(TooManyActiveZones);
        }
        if self.max_open == 0 || u64::from(open) < self.max_open {
            return Ok(());
        }
        let implicit = self.zones.iter_mut().filter(|zone| zone.state == ImplicitlyOpen);
        let Some(longest) = implicit.min_by_key(|zone| zone.opened_at) else {
            return Err(TooManyOpenZones);
        };
        longest.state = if longest.wp > 0 { Closed } else { Empty };
        self.victims += 1;
        Ok(())
    }

    fn operate(&mut self, at: usize, ask: &Ask, op: Op) -> Went {
        let zone = &self.zones[at];
        if op != Op::Open && !zone.flights.is_empty() {
            return Went::Waits;
        }
        let refusal = match (zone.state, op) {
            (NotWp, _) => Some(InvalidInput),
            (ReadOnly, _) => Some(ZoneReadOnly),
            (Offline, _) => Some(ZoneOffline),
            (Empty, Op::Close) | (Full, Op::Open | Op::Close) => Some(InvalidTransition),
            (Empty | Closed, Op::Open) => self.make_room(zone.state == Empty).err(),
            _ => None,
        };
        if let Some(kind) = refusal {
            self.refuse(ask.tag, kind, ask.offset_bytes, false);
            return Went::On;
        }
        let zone = &mut self.zones[at];
        match op {
            Op::Open => zone.state = ExplicitlyOpen,
            Op::Close => zone.state = if zone.wp > 0 { Closed } else { Empty },
            Op::Reset => self.reset(at),
            Op::Finish => {
                let zeroes = zone.state != Full && self.slow_zeroing;
                zone.busy = Some(Busy::Finish(ask.clone()));
                if !zeroes {
                    self.zero_ended(at, None);
                }
                return Went::On;
            }
        }
        self.succeed(ask.tag, 0, false, ask.offset_bytes);
        Went::On
    }

    fn reset(&mut self, at: usize) {
        let zone = &mut self.zones[at];
        zone.state = Empty;
        zone.wp = 0;
        zone.acknowledged = 0;
        zone.life += 1;
        zone.content.fill(0);
    }

    /// Resets this zone and goes on with those behind it.
    fn reset_from(&mut self, at: usize, ask: &Ask, begun: bool) -> Went {
        match self.zones[at].state {
            // Judged when the turn came; only a zone worn out while waiting gets here.
            ReadOnly | Offline => {
                let kind = if self.zones[at].state == Offline { ZoneOffline } else { ZoneReadOnly };
                self.refuse(ask.tag, kind, ask.offset_bytes, false);
                self.done.get_mut(&ask.tag).unwrap().refused = !begun;
                return Went::On;
            }
            _ if !self.zones[at].flights.is_empty() => return Went::Waits,
            _ => self.reset(at),
        }
        self.woken.insert(at);
        let ask = Ask { call: Call::ResetAll { begun: true }, ..ask.clone() };
        self.reset_behind(at + 1, &ask);
        Went::On
    }

    /// The part of a reset of all zones that begins at a zone.
    pub(crate) fn reset_behind(&mut self, first: usize, ask: &Ask) {
        let skipped = |zone: &Zone| matches!(zone.state, NotWp | ReadOnly | Offline);
        match (first..self.zones.len()).find(|&at| !skipped(&self.zones[at])) {
            Some(at) => self.arrive(at, ask.clone()),
            None => self.succeed(ask.tag, 0, false, ask.offset_bytes),
        }
    }

    pub(crate) fn reset_all(&mut self, ask: &Ask) {
        self.reset_behind(0, ask);
        self.run_woken();
    }

    fn write_loose(&mut self, ask: Ask) {
        let Call::Write { start, blocks, .. } = ask.call else { unreachable!() };
        let zone = &self.zones[ask.zone];
        let Some(start) = start else {
            return self.refuse(ask.tag, InvalidInput, ask.offset_bytes, false);
        };
        if start + blocks > zone.size {
            return self.refuse(ask.tag, BeyondCapacity, ask.offset_bytes, false);
        }
        let tag = ask.tag;
        let flight = Flight { ask, start, blocks, plain: true, alone: false, moved_bytes: 0 };
        self.loose.push(flight);
        if self.memory {
            self.write_ended(tag, None);
        }
    }

    /// `since` is the first tag of the submission: what was submitted together may have had to wait
    /// for its zone's reset to be durable, and was not in flight then.
    pub(crate) fn flush(&mut self, tag: Tag, since: Tag) {
        let expected = Expected {
            result: Ok(0),
            refused: false,
            held: false,
            waited: false,
            durable: false,
            offset_bytes: 0,
            shown: None,
        };
        let mut after = self.unsettled();
        after.retain(|&tag| tag < since);
        self.soft.insert(tag, Soft { expected, after });
    }

    /// Makes a zone read-only or offline.
    pub(crate) fn wear(&mut self, at: usize, state: ZoneState) -> Result<(), ErrorKind> {
        let zone = &mut self.zones[at];
        if zone.conventional {
            return Err(InvalidInput);
        }
        if zone.state == Offline {
            return Err(ZoneOffline);
        }
        if !zone.flights.is_empty() || zone.failing {
            return Err(InvalidInput);
        }
        zone.state = state;
        Ok(())
    }

    pub(crate) fn read(&mut self, tag: Tag, queue: usize, start: u64, blocks: u64) {
        let mut snapshot = Vec::new();
        for block in start..start + blocks {
            let at = self.zone_of(block).unwrap();
            let zone = &self.zones[at];
            if zone.state == Offline {
                return self.refuse(tag, ZoneOffline, start * self.block, false);
            }
            let shown = zone.content[usize::try_from(block - zone.start).unwrap()];
            snapshot.push((at, zone.life, (!zone.conventional).then_some(shown)));
        }
        self.reads.insert(tag, Read { queue, start, blocks, moved_bytes: 0, snapshot });
        if self.memory {
            self.read_ended(tag, true);
        }
    }

    // ---- how it ends ----------------------------------------------------------------------

    /// The disk is done with a read.
    pub(crate) fn read_ended(&mut self, tag: Tag, well: bool) {
        let read = self.reads.remove(&tag).unwrap();
        let shown = (read.start..).zip(&read.snapshot).map(|(block, &(at, life, shown))| {
            let zone = &self.zones[at];
            let now = zone.content[usize::try_from(block - zone.start).unwrap()];
            if zone.life == life { shown.unwrap_or(now) } else { 0 }
        });
        let shown = shown.collect();
        self.succeed(tag, read.blocks * self.block, false, read.start * self.block);
        let expected = self.done.get_mut(&tag).unwrap();
        if well {
            expected.shown = Some(shown);
        } else {
            expected.result = Err(Io);
        }
    }

    /// The disk has done a part of a read, in whole blocks, and does the rest.
    pub(crate) fn read_moved(&mut self, tag: Tag, bytes: u64) {
        let read = self.reads.get_mut(&tag).unwrap();
        read.moved_bytes += bytes;
        let moved = usize::try_from(read.moved_bytes / self.block).unwrap();
        for (block, (at, _, shown)) in (read.start..).zip(&mut read.snapshot[..moved]) {
            let zone = &self.zones[*at];
            let now = zone.content[usize::try_from(block - zone.start).unwrap()];
            *shown = shown.or(Some(now));
        }
    }

    /// Whether a read shows nothing that is on the disk, so that it may end without it.
    pub(crate) fn is_blank(&self, tag: Tag) -> bool {
        self.reads[&tag].snapshot.iter().all(|&(_, _, shown)| shown == Some(0))
    }

    /// The disk is done with a write: all went well, or it failed after so many bytes.
    pub(crate) fn write_ended(&mut self, tag: Tag, failed: Option<u64>) {
        if let Some(at) = self.loose.iter().position(|flight| flight.ask.tag == tag) {
            let flight = self.loose.remove(at);
            return self.loose_ended(flight, failed);
        }
        let at = (0..self.zones.len())
            .find(|&at| self.zones[at].flights.iter().any(|flight| flight.ask.tag == tag))
            .expect("a write in flight");
        let zone = &mut self.zones[at];
        let which = zone.flights.iter().position(|flight| flight.ask.tag == tag).unwrap();
        let flight = zone.flights.remove(which);
        let failed = failed.is_some();
        if !failed && !zone.failing {
            self.acknowledge(at, flight, false);
            let zone = &mut self.zones[at];
            if zone.flights.is_empty() && zone.wp == zone.capacity {
                zone.state = Full;
            }
        } else {
            self.failures += u64::from(failed);
            zone.failing = true;
            zone.ended.push(Ended { flight, failed });
            if zone.flights.is_empty() {
                self.settle(at);
            }
        }
        if !self.memory {
            self.woken.insert(at);
            self.run_woken();
        }
    }

    /// The disk has done a part of a write, and does the rest.
    pub(crate) fn moved(&mut self, tag: Tag, bytes: u64) {
        let loose = self.loose.iter_mut();
        let mut flights = loose.chain(self.zones.iter_mut().flat_map(|zone| &mut zone.flights));
        let flight = flights.find(|flight| flight.ask.tag == tag).unwrap();
        let (at, blocks) = (flight.ask.zone, bytes / self.block);
        let start = flight.start + flight.moved_bytes / self.block;
        flight.moved_bytes += bytes;
        if !self.is_ordered(tag) {
            self.zones[at].set(start, blocks, tag);
        }
    }

    /// Whether a write goes to a sequential zone.
    pub(crate) fn is_ordered(&self, tag: Tag) -> bool {
        !self.loose.iter().any(|flight| flight.ask.tag == tag)
    }

    pub(crate) fn flight(&self, tag: Tag) -> &Flight {
        let in_zones = self.zones.iter().flat_map(|zone| &zone.flights);
        self.loose.iter().chain(in_zones).find(|flight| flight.ask.tag == tag).unwrap()
    }

    /// Writes that have not got their result.
    pub(crate) fn unsettled(&self) -> BTreeSet<Tag> {
        let of = |zone: &Zone| -> Vec<Tag> {
            let ended = zone.ended.iter().map(|ended| &ended.flight);
            zone.flights.iter().chain(ended).map(|flight| flight.ask.tag).collect()
        };
        self.zones.iter().flat_map(of).collect()
    }

    fn loose_ended(&mut self, flight: Flight, failed: Option<u64>) {
        let offset_bytes = flight.ask.offset_bytes;
        // What was moved before may have been written over since.
        let moved = flight.moved_bytes / self.block;
        let blocks = failed.map_or(flight.blocks, |bytes| bytes / self.block) - moved;
        self.zones[flight.ask.zone].set(flight.start + moved, blocks, flight.ask.tag);
        let (tag, bytes) = (flight.ask.tag, flight.blocks * self.block);
        self.succeed(tag, bytes, false, offset_bytes);
        if failed.is_some() {
            self.done.get_mut(&tag).unwrap().result = Err(Io);
        } else if flight.ask.fua {
            self.durably(tag, BTreeSet::new());
        }
    }

    fn acknowledge(&mut self, at: usize, flight: Flight, held: bool) {
        let zone = &mut self.zones[at];
        zone.set(flight.start, flight.blocks, flight.ask.tag);
        zone.acknowledged = zone.acknowledged.max(flight.start + flight.blocks);
        let below = zone.flights.iter().filter(|other| other.start < flight.start);
        let below = below.map(|other| other.ask.tag).collect();
        let offset = (zone.start + flight.start) * self.block;
        let Ask { tag, waited, fua, .. } = flight.ask;
        self.succeed(tag, flight.blocks * self.block, waited, offset);
        self.done.get_mut(&tag).unwrap().held = held;
        if fua {
            self.durably(tag, below);
        }
    }

    /// What would be done is done when it is durable.
    fn durably(&mut self, tag: Tag, after: BTreeSet<Tag>) {
        if !self.memory {
            let mut expected = self.done.remove(&tag).unwrap();
            expected.durable = true;
            self.soft.insert(tag, Soft { expected, after });
        }
    }

    /// All writes of a failing zone have ended.
    fn settle(&mut self, at: usize) {
        let zone = &mut self.zones[at];
        let failed = || zone.ended.iter().filter(|ended| ended.failed);
        let lowest = failed().map(|ended| ended.flight.start).min().unwrap();
        let wp = lowest.max(zone.acknowledged);
        let dead = failed().filter(|ended| ended.flight.start < wp).count();
        self.settled_over_dead += u64::from(dead > 0);
        if dead > 0 && self.slow_zeroing {
            zone.busy = Some(Busy::Settle(dead));
        } else {
            self.settled(at, wp);
        }
    }

    fn settled(&mut self, at: usize, wp: u64) {
        let zone = &mut self.zones[at];
        zone.wp = wp;
        zone.failing = false;
        if wp == zone.capacity {
            zone.state = Full;
        }
        for Ended { flight, failed } in std::mem::take(&mut zone.ended) {
            let (tag, waited) = (flight.ask.tag, flight.ask.waited);
            let offset = (self.zones[at].start + flight.start) * self.block;
            if !failed && flight.start + flight.blocks <= wp {
                self.acknowledge(at, flight, true);
                continue;
            }
            self.succeed(tag, 0, waited, offset);
            let expected = self.done.get_mut(&tag).unwrap();
            expected.held = !failed;
            expected.result = Err(if failed { Io } else { BehindFailedWrite });
        }
        self.zones[at].acknowledged = wp;
        self.woken.insert(at);
    }

    /// The disk is done with zeroing a range of a zone, or failed at it.
    pub(crate) fn zero_ended(&mut self, at: usize, failed: Option<ErrorKind>) {
        let zone = &mut self.zones[at];
        match zone.busy.take().expect("something is zeroed") {
            Busy::Finish(ask) => {
                let refusal = match zone.state {
                    ReadOnly => Some(ZoneReadOnly),
                    Offline => Some(ZoneOffline),
                    _ => None,
                };
                if let Some(kind) = failed {
                    self.succeed(ask.tag, 0, false, ask.offset_bytes);
                    self.done.get_mut(&ask.tag).unwrap().result = Err(kind);
                } else if let Some(kind) = refusal {
                    self.refuse(ask.tag, kind, ask.offset_bytes, false);
                } else {
                    zone.state = Full;
                    zone.wp = zone.capacity;
                    zone.acknowledged = zone.capacity;
                    self.succeed(ask.tag, 0, false, ask.offset_bytes);
                }
            }
            Busy::Settle(left) if left > 1 && failed.is_none() => {
                zone.busy = Some(Busy::Settle(left - 1));
            }
            Busy::Settle(_) => {
                let wp = zone.acknowledged;
                self.settled(at, wp);
                if failed.is_some() {
                    self.zones[at].state = ReadOnly;
                }
            }
        }
        self.woken.insert(at);
    }

    /// As [`Self::zero_ended`], and everybody who waited goes on.
    pub(crate) fn zeroing_ended(&mut self, at: usize, failed: Option<ErrorKind>) {
        self.zero_ended(at, failed);
        self.run_woken();
    }
}
