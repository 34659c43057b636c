//! What of the zones is durable, and the rounds that make more of it so.
//!
//! Two groups share their work. A *flush* round notes each changed zone's generation and write
//! pointer, waits until what was in flight below has left, syncs the data, and with that has
//! *proven* the noted pointers. Proven values go into the *shadow*, and only the shadow goes into
//! the table: a *persist* round writes the table's pages whose shadow changed. Flushes that come
//! while a round is under way share the next one; so do zones whose reset has to be durable.
//!
//! Invariants:
//! * `shadow[z]` is safe in the table at any time: all below it is on stable media;
//! * `durable[z]` is the highest pointer the table may hold, counting a page on its way; a zone
//!   that was reset takes no data until it is zero.

use super::Zones;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::task::{Poll, Waker};
use zonal_core::broken::{Rule, is_broken};
use zonal_core::format::TABLE_ENTRIES_PER_PAGE;
use zonal_core::format::zonal::GENERATIONS_PER_PAGE;
use zonal_core::units::{Blocks, Generation, ZoneIndex};

/// Work that many wait for and one of them does for all.
#[derive(Default)]
pub(super) struct Group {
    joined: u64,
    done: u64,
    led: bool,
    /// Up to this ticket the round under way serves.
    served: u64,
    waiting: Vec<(u64, Waker)>,
}

/// What a member of a group has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The work, for everybody who has joined.
    Lead,
    /// Nothing more.
    Done,
}

impl Group {
    fn join(&mut self) -> u64 {
        self.joined += 1;
        self.joined
    }

    fn role(&mut self, ticket: u64, waker: &Waker) -> Poll<Role> {
        if self.done >= ticket {
            return Poll::Ready(Role::Done);
        }
        if !self.led {
            self.led = true;
            return Poll::Ready(Role::Lead);
        }
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        self.waiting.push((ticket, waker.clone()));
        Poll::Pending
    }

    /// The leader has done the work of all tickets up to `covered`, or given up (`None`).
    fn led(&mut self, covered: Option<u64>) {
        self.done = self.done.max(covered.unwrap_or(0));
        self.led = false;
        for (_, waker) in self.waiting.drain(..) {
            waker.wake();
        }
    }
}

/// Which of the two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    Flush,
    Persist,
}

/// A zone in a flush round.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Note {
    zone: ZoneIndex,
    generation: Generation,
    /// All below it is on its way out; `None` until the zone has settled.
    wp: Option<Blocks>,
    drained: bool,
}

/// Pages to write, and what they will hold.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Up to this ticket of [`Join::Persist`] the pages serve.
    pub(crate) covered: u64,
    /// Table pages: the first zone of each, and the write pointers of it and its followers.
    pub(crate) table: Vec<(ZoneIndex, Vec<Blocks>)>,
    /// Generation pages: the page's number and its generations.
    pub(crate) generations: Vec<(u32, Vec<Generation>)>,
    /// Whether masks or conditions changed: the session record has to be durable first.
    pub(crate) blemished: bool,
}

pub(super) struct Durability {
    shadow: Vec<Blocks>,
    durable: Vec<Blocks>,
    dirty: BTreeSet<ZoneIndex>,
    /// Zones to punch when their reset is durable, if the drive discards at all.
    to_discard: BTreeSet<ZoneIndex>,
    /// Zones that somebody punches now, and who waits for that.
    punching: BTreeSet<ZoneIndex>,
    punch_waiters: Vec<Waker>,
    discards: bool,
    /// Zones that take no data before something is done for that, a bit each; empty where that cannot be.
    withheld: Vec<u64>,
    notes: Vec<Note>,
    /// They are the round's second ones; for [`Durability::hash_state`].
    noted_again: bool,
    table_pages: BTreeSet<usize>,
    generation_pages: BTreeSet<usize>,
    blemished: bool,
    flush: Group,
    persist: Group,
    leader: Option<Waker>,
}

impl Durability {
    /// For so many zones; none when nothing outlives the process.
    pub(super) fn new(zones: u32, discards: bool) -> Self {
        Self {
            shadow: vec![Blocks::ZERO; zones as usize],
            durable: vec![Blocks::ZERO; zones as usize],
            dirty: BTreeSet::new(),
            to_discard: BTreeSet::new(),
            punching: BTreeSet::new(),
            punch_waiters: Vec::new(),
            discards,
            withheld: Vec::new(),
            notes: Vec::new(),
            noted_again: false,
            table_pages: BTreeSet::new(),
            generation_pages: BTreeSet::new(),
            blemished: false,
            flush: Group::default(),
            persist: Group::default(),
            leader: None,
        }
    }

    /// The table holds `wp` for `zone`.
    pub(super) fn found(&mut self, zone: ZoneIndex, wp: Blocks) {
        self.shadow[zone.index()] = wp;
        self.durable[zone.index()] = wp;
    }

    /// The zone's pointer may differ from the shadow from here on.
    pub(super) fn touch(&mut self, zone: ZoneIndex) {
        if !self.shadow.is_empty() {
            self.dirty.insert(zone);
        }
    }

    /// The zone was reset: that it is at its start is safe to write at once.
    pub(super) fn reset(&mut self, zone: ZoneIndex) {
        let had_data = self.dirty.contains(&zone) || self.shadow[zone.index()] > Blocks::ZERO;
        if self.discards && had_data {
            self.to_discard.insert(zone);
        }
        self.prove(zone, Blocks::ZERO);
        self.generation_pages.insert(zone.index() / GENERATIONS_PER_PAGE as usize);
    }

    /// Whether the zone takes no data yet: the table may still hold a write pointer of its
    /// earlier life, or what it held then is not punched.
    pub(super) fn is_reset_pending(&self, zone: ZoneIndex) -> bool {
        if self.to_discard.contains(&zone) {
            return true;
        }
        let reset = self.shadow[zone.index()] == Blocks::ZERO;
        reset && self.durable[zone.index()] > Blocks::ZERO && !is_broken(Rule::ResetBeforeWrite)
    }

    /// Whether the zone takes no data yet because something has to be durable first.
    pub(super) fn is_unready(&self, zone: ZoneIndex) -> bool {
        self.is_reset_pending(zone) || self.is_withheld(zone)
    }

    fn withhold(&mut self, zone: ZoneIndex, zones: u32) {
        self.withheld.resize(zones.div_ceil(64) as usize, 0);
        self.withheld[zone.index() / 64] |= 1 << (zone.index() % 64);
    }

    fn is_withheld(&self, zone: ZoneIndex) -> bool {
        let bits = self.withheld.get(zone.index() / 64).copied().unwrap_or(0);
        bits >> (zone.index() % 64) & 1 == 1
    }

    /// Masks or conditions have changed.
    pub(super) fn blemished(&mut self) {
        self.blemished = true;
    }

    /// A zone has settled at `wp`: a round under way must not prove more.
    pub(super) fn clamp(&mut self, zone: ZoneIndex, wp: Blocks) {
        for note in self.notes.iter_mut().filter(|note| note.zone == zone) {
            note.wp = note.wp.map(|noted| noted.min(wp));
        }
    }

    pub(super) fn wake_leader(&mut self) {
        if let Some(leader) = self.leader.take() {
            leader.wake();
        }
    }

    fn prove(&mut self, zone: ZoneIndex, wp: Blocks) {
        self.shadow[zone.index()] = wp;
        if self.durable[zone.index()] != wp {
            self.table_pages.insert(zone.index() / TABLE_ENTRIES_PER_PAGE);
        }
    }

    fn group(&mut self, join: Join) -> &mut Group {
        match join {
            Join::Flush => &mut self.flush,
            Join::Persist => &mut self.persist,
        }
    }

    /// Hashes it for [`Zones::hash_state`](super::Zones::hash_state).
    pub(super) fn hash_state(&self, hasher: &mut impl Hasher) {
        (&self.shadow, &self.durable, &self.dirty).hash(hasher);
        (&self.to_discard, &self.punching, self.punch_waiters.len()).hash(hasher);
        (&self.notes, !self.notes.is_empty() && self.noted_again).hash(hasher);
        (&self.table_pages, &self.generation_pages, self.blemished, &self.withheld).hash(hasher);
        for group in [&self.flush, &self.persist] {
            let served = if group.led { group.served } else { group.done };
            let count = |ticket: u64| ticket.saturating_sub(group.done);
            (group.led, count(group.joined), count(served)).hash(hasher);
        }
    }

    /// What a task with this waker waits for here.
    pub(super) fn wait_of(&self, waker: &Waker) -> [Option<u64>; 4] {
        let in_group = |group: &Group| {
            let own = group.waiting.iter().find(|(_, waiting)| waiting.will_wake(waker));
            own.map(|(ticket, _)| ticket.saturating_sub(group.done))
        };
        let leads = self.leader.as_ref().is_some_and(|leader| leader.will_wake(waker));
        let punches = self.punch_waiters.iter().any(|waiter| waiter.will_wake(waker));
        [in_group(&self.flush), in_group(&self.persist), leads.then_some(0), punches.then_some(0)]
    }

    fn page(&self, page: usize, per_page: usize) -> Range<usize> {
        let first = page * per_page;
        first..self.shadow.len().min(first + per_page)
    }
}

impl Zones {
    /// Joins a group; the ticket is for [`Zones::role`].
    pub(crate) fn join(&self, join: Join) -> u64 {
        self.control().durability.group(join).join()
    }

    /// What the holder of a ticket has to do.
    pub(crate) fn role(&self, join: Join, ticket: u64, waker: &Waker) -> Poll<Role> {
        self.control().durability.group(join).role(ticket, waker)
    }

    /// A leader has served all tickets up to `covered`, or gives up the lead.
    pub(crate) fn led(&self, join: Join, covered: Option<u64>) {
        self.control().durability.group(join).led(covered);
    }

    /// Notes all changed zones for a flush round. Returns the last ticket the notes serve.
    pub(crate) fn note(&self) -> u64 {
        let mut control = self.control();
        let durability = &mut control.durability;
        durability.noted_again = !durability.notes.is_empty();
        durability.notes.clear();
        for &zone in &durability.dirty {
            let generation = self.cells.mark(zone).generation;
            let mut note = Note { zone, generation, wp: None, drained: false };
            self.take_note(&mut note);
            durability.notes.push(note);
        }
        durability.flush.served = durability.flush.joined;
        durability.flush.served
    }

    /// Takes down a zone's pointer, and starts its next epoch so that the writes below it can be
    /// told from those to come.
    fn take_note(&self, note: &mut Note) {
        if is_broken(Rule::FuaAfterPrefix) {
            (note.wp, note.drained) = (Some(self.cells.load(note.zone).wp()), true);
            return;
        }
        loop {
            let word = self.cells.load(note.zone);
            if word.is_failing() {
                return;
            }
            if word.in_flight() == 0 {
                (note.wp, note.drained) = (Some(word.wp()), true);
                return;
            }
            let Some(next) = word.next_epoch() else { return };
            if super::exchange(self.cells.word(note.zone), word.bits(), next).is_ok() {
                note.wp = Some(next.wp());
                return;
            }
        }
    }

    /// Whether everything noted has left its zone; if not, `waker` hears of changes.
    pub(crate) fn has_drained(&self, waker: &Waker) -> bool {
        let mut control = self.control();
        let mut notes = std::mem::take(&mut control.durability.notes);
        for note in notes.iter_mut().filter(|note| !note.drained) {
            if self.cells.mark(note.zone).generation != note.generation {
                note.drained = true;
                continue;
            }
            if note.wp.is_none() {
                self.take_note(note);
            }
            let word = self.cells.load(note.zone);
            let behind = word.in_flight_of(word.epoch().other());
            note.drained |= note.wp.is_some() && behind == 0 && !word.is_failing();
        }
        let drained = notes.iter().all(|note| note.drained);
        control.durability.notes = notes;
        control.durability.leader = (!drained).then(|| waker.clone());
        drained
    }

    /// Zones that a flush round still waits for.
    pub(crate) fn waited_for(&self) -> Option<ZoneIndex> {
        let control = self.control();
        control.durability.notes.iter().find(|note| !note.drained).map(|note| note.zone)
    }

    /// Whether more flushes have joined since ticket `covered`.
    pub(crate) fn has_joined_since(&self, covered: u64) -> bool {
        self.control().durability.flush.joined > covered
    }

    /// The data below the noted pointers is on stable media: they are proven, but for zones that
    /// were reset meanwhile.
    pub(crate) fn prove(&self) {
        let mut control = self.control();
        let notes = std::mem::take(&mut control.durability.notes);
        for Note { zone, generation, wp, .. } in notes {
            let stale = self.cells.mark(zone).generation != generation
                && !is_broken(Rule::StaleNoteDropped);
            if let (Some(wp), false) = (wp, stale) {
                control.durability.prove(zone, wp);
                let word = self.cells.load(zone);
                if !word.state().is_open() && word.in_flight() == 0 && word.wp() == wp {
                    control.durability.dirty.remove(&zone);
                }
            }
        }
    }

    /// Gives up a round's notes.
    pub(crate) fn forget_notes(&self) {
        self.control().durability.notes.clear();
    }

    /// The pages to write now, if any.
    pub(crate) fn build_pages(&self) -> Pages {
        let mut control = self.control();
        let durability = &mut control.durability;
        durability.persist.served = durability.persist.joined;
        let mut pages = Pages {
            covered: durability.persist.served,
            blemished: std::mem::take(&mut durability.blemished),
            ..Pages::default()
        };
        for page in std::mem::take(&mut durability.table_pages) {
            let zones = durability.page(page, TABLE_ENTRIES_PER_PAGE);
            let pointers = zones.clone().map(|zone| self.table_value(durability, zone)).collect();
            for zone in zones.clone() {
                durability.durable[zone] = durability.durable[zone].max(durability.shadow[zone]);
            }
            pages.table.push((zone_at(zones.start), pointers));
        }
        for page in std::mem::take(&mut durability.generation_pages) {
            let zones = durability.page(page, GENERATIONS_PER_PAGE as usize);
            let generations = zones.map(|zone| self.cells.mark(zone_at(zone)).generation).collect();
            pages.generations.push((u32::try_from(page).unwrap_or(u32::MAX), generations));
        }
        pages
    }

    fn table_value(&self, durability: &Durability, zone: usize) -> Blocks {
        if is_broken(Rule::TableFromShadow) {
            return self.cells.load(zone_at(zone)).wp();
        }
        durability.shadow[zone]
    }

    /// `pages` are durable.
    pub(crate) fn persisted(&self, pages: &Pages) {
        let mut control = self.control();
        for (first, pointers) in &pages.table {
            let zones = first.index()..first.index() + pointers.len();
            control.durability.durable[zones].copy_from_slice(pointers);
        }
    }

    /// Takes on the punching of a zone that has to be punched before it takes data. False: there
    /// is nothing to do. Pending while another does it: a second punch, late, would take the
    /// first new data with it.
    pub(crate) fn begin_punch(&self, zone: ZoneIndex, waker: &Waker) -> Poll<bool> {
        let mut control = self.control();
        let durability = &mut control.durability;
        if durability.punching.contains(&zone) {
            durability.punch_waiters.push(waker.clone());
            return Poll::Pending;
        }
        if !durability.to_discard.contains(&zone) {
            return Poll::Ready(false);
        }
        durability.punching.insert(zone);
        Poll::Ready(true)
    }

    /// A punch that was taken on is over: `done`, or given up.
    pub(crate) fn end_punch(&self, zone: ZoneIndex, done: bool) {
        let mut control = self.control();
        let durability = &mut control.durability;
        durability.punching.remove(&zone);
        if done {
            durability.to_discard.remove(&zone);
        }
        for waiter in durability.punch_waiters.drain(..) {
            waiter.wake();
        }
    }

    /// Whether the table says all there is to say, as when the drive was opened.
    pub(crate) fn is_unchanged(&self) -> bool {
        let control = self.control();
        let durability = &control.durability;
        durability.dirty.is_empty() && durability.table_pages.is_empty() && !durability.blemished
    }

    /// The zone takes no data before [`Zones::admit`]: its image has no clusters for some of it, or its file on
    /// a zonefs is not open for writing.
    pub(crate) fn withhold(&self, zone: ZoneIndex) {
        self.control().durability.withhold(zone, self.count);
    }

    /// Whether the zone's file may be closed: the zone is not open, and nothing is in flight in it. It takes
    /// no data from then on before [`Zones::admit`].
    pub(crate) fn may_let_go(&self, zone: ZoneIndex) -> bool {
        let mut control = self.control();
        let word = self.cells.load(zone);
        let idle = !word.state().is_open() && word.in_flight() == 0 && !word.is_failing();
        if idle {
            control.durability.withhold(zone, self.count);
        }
        idle
    }

    /// What the zone was withheld for is done.
    pub(crate) fn admit(&self, zone: ZoneIndex) {
        if let Some(bits) = self.control().durability.withheld.get_mut(zone.index() / 64) {
            *bits &= !(1 << (zone.index() % 64));
        }
    }

    /// Whether a zone takes no data yet, as it is withheld.
    pub(crate) fn is_withheld(&self, zone: ZoneIndex) -> bool {
        self.control().durability.is_withheld(zone)
    }

    /// Whether a zone takes no data yet because its reset is not durable.
    pub(crate) fn is_reset_pending(&self, zone: ZoneIndex) -> bool {
        self.durable && self.control().durability.is_reset_pending(zone)
    }
}

fn zone_at(index: usize) -> ZoneIndex {
    ZoneIndex(u32::try_from(index).unwrap_or(u32::MAX))
}
