//! What a drive has to show: a small model of what was asked and answered, and what may be left of it.
//!
//! It shares nothing with the rules. A zone has *lives*, from one reset to the next, and *records*: one for
//! each write, which is acknowledged, gone, or neither yet. What the next opening may find follows from
//! `docs/semantics.md`: after a cut any life since the last durable state, down to what was durable; after
//! a kill the present life, down to what was acknowledged. In either case whole records, zeros, and nothing
//! of another life.

use std::collections::{BTreeMap, BTreeSet};

use zonal::{Completion, ErrorKind, Flags, Geometry, ZoneIndex, ZoneInfo, ZoneState};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// What was promised.
    pub(super) promise: String,
    /// What was seen instead.
    pub(super) seen: String,
}

pub(super) type Kept<T = ()> = Result<T, Violation>;

pub(super) fn violation<T>(promise: &str, seen: impl Into<String>) -> Kept<T> {
    Err(Violation { promise: promise.to_owned(), seen: seen.into() })
}

macro_rules! ensure {
    ($holds:expr, $promise:expr, $($text:tt)+) => {
        if !$holds {
            return $crate::commands::sim::truth::violation($promise, format!($($text)+));
        }
    };
}
pub(super) use ensure;

/// The bytes of a record's block: who it is, over and over.
pub(super) fn block_of(record: u64, zone: u32, life: u32, index: u32, size: u32) -> Vec<u8> {
    let mut unit = [0; 32];
    unit[..8].copy_from_slice(&record.to_le_bytes());
    unit[8..12].copy_from_slice(&zone.to_le_bytes());
    unit[12..16].copy_from_slice(&life.to_le_bytes());
    unit[16..20].copy_from_slice(&index.to_le_bytes());
    unit[20..24].copy_from_slice(b"zone");
    unit[24..].copy_from_slice(&(!record).to_le_bytes());
    unit.repeat(size as usize / 32)
}

/// What a block was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Zeros,
    /// A record's block of that index, as it was written to that zone.
    Block {
        record: u64,
        zone: u32,
        index: u32,
    },
    /// No block that was ever written.
    Torn,
}

impl Held {
    pub(super) fn of(block: &[u8]) -> Self {
        if block.iter().all(|&byte| byte == 0) {
            return Self::Zeros;
        }
        let word =
            |at: usize| block[at..at + 4].iter().rev().fold(0, |n, &b| n << 8 | u32::from(b));
        let (record, zone) = (u64::from(word(4)) << 32 | u64::from(word(0)), word(8));
        let (life, index) = (word(12), word(16));
        let whole = block_of(record, zone, life, index, u32::try_from(block.len()).unwrap_or(0));
        if block == whole { Self::Block { record, zone, index } } else { Self::Torn }
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing has been heard of it.
    Flying,
    /// It is acknowledged.
    Acknowledged,
    /// It was in its place, and is not known to be durable, as was asked.
    Unsure,
    /// It failed, or was lost with its session: nobody may see it.
    Gone,
}

#[derive(Clone, Debug)]
struct Record {
    zone: usize,
    blocks: u32,
    durable: bool,
    /// When it was asked for; none for one that waits for another's success first.
    asked: Option<u64>,
    /// The lives it may belong to: until it is heard of, it may enter later ones.
    since: u32,
    until: Option<u32>,
    fate: Fate,
    /// Its first block in the zone, once that is known.
    place: Option<u32>,
}

impl Record {
    fn may_be_of(&self, life: u32) -> bool {
        self.since <= life && self.until.is_none_or(|until| life <= until)
    }

    fn is_of(&self, life: u32) -> bool {
        self.since == life && self.until == Some(life)
    }

    fn end(&self) -> Option<u32> {
        self.place.map(|place| place + self.blocks)
    }
}

/// One content a block of a conventional zone may have.
#[derive(Clone, Debug)]
struct Value {
    held: Held,
    asked: u64,
    ended: Option<u64>,
    well: bool,
    /// When it was known to be overwritten, for reads that began before.
    over: Option<u64>,
}

impl Value {
    fn new(held: Held, asked: u64) -> Self {
        Self { held, asked, ended: None, well: false, over: None }
    }

    /// One that is there for certain.
    fn found(held: Held, now: u64) -> Self {
        Self { ended: Some(now), well: true, ..Self::new(held, now) }
    }
}

#[derive(Clone, Debug)]
struct Zone {
    conventional: bool,
    /// In blocks: from the drive's start; how many; how many can be written.
    start: u64,
    size: u32,
    capacity: u32,
    life: u32,
    /// The lives since the last durable state, and the next one's number.
    lives: BTreeSet<u32>,
    next_life: u32,
    /// The highest end that was acknowledged in this life.
    end: u32,
    finished: BTreeSet<u32>,
    /// At least this is there after a cut.
    floor: (u32, u32),
    /// Life and write pointer as the session found them: what ended there may be long forgotten.
    found: (u32, u32),
    /// Operations that were asked for and not heard of.
    resets: u32,
    finishes: u32,
    /// A write failed here: what cannot be made zero makes the zone read-only.
    failed: bool,
    /// Of a conventional zone.
    values: Vec<Vec<Value>>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Only what was durable is there for certain.
    Cut,
    /// Everything that was acknowledged is.
    Kill,
}

/// What was acknowledged when a flush was submitted.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    ends: Vec<(u32, u32)>,
    when: u64,
}

/// A record and the index of one of its blocks.
type Part = (u64, u32);

/// What a read has to show.
#[derive(Clone, Debug)]
pub(super) struct Look {
    when: u64,
    /// For each block: zone, block in it, what was acknowledged there.
    blocks: Vec<(usize, u32, Option<Part>)>,
    /// What each block of a conventional zone may have held, in their order.
    values: BTreeMap<(usize, u32), Vec<Held>>,
    /// The life of each zone it touches, and whether a reset was on its way.
    lives: BTreeMap<usize, (u32, bool)>,
}

/// The model.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    zones: Vec<Zone>,
    /// By number, from 1.
    records: Vec<Record>,
    block_size: u64,
    max_open: u32,
    max_active: u32,
    /// So many were active when the drive was opened.
    active_found: usize,
    /// Counts what is asked and answered.
    clock: u64,
}

impl Truth {
    /// An empty drive, but for zones that are full of one record each, numbered from 1.
    pub(super) fn new(geometry: &Geometry, full: &[u32]) -> Self {
        let block_size = u64::from(geometry.block_size);
        let blocks = |bytes: u64| u32::try_from(bytes / block_size).unwrap_or(u32::MAX);
        let zone = |zone: u32| {
            let index = ZoneIndex(zone);
            let conventional = geometry.is_conventional(index);
            let size = blocks(geometry.size_of(index));
            let capacity = if conventional { size } else { blocks(geometry.capacity_of(index)) };
            let end = if full.contains(&zone) { capacity } else { 0 };
            let nothing = Value::found(Held::Zeros, 0);
            Zone {
                conventional,
                start: geometry.start_of(index) / block_size,
                size,
                capacity,
                life: 0,
                lives: BTreeSet::from([0]),
                next_life: 1,
                end,
                finished: BTreeSet::new(),
                floor: (0, end),
                found: (0, end),
                resets: 0,
                finishes: 0,
                failed: false,
                values: vec![vec![nothing]; if conventional { size as usize } else { 0 }],
            }
        };
        let zones: Vec<Zone> = (0..geometry.zones()).map(zone).collect();
        let record = |&zone: &u32| Record {
            zone: zone as usize,
            blocks: zones[zone as usize].capacity,
            durable: false,
            asked: Some(0),
            since: 0,
            until: Some(0),
            fate: Fate::Acknowledged,
            place: Some(0),
        };
        let records = full.iter().map(record).collect();
        let (max_open, max_active) = (geometry.max_open_zones, geometry.max_active_zones);
        Self { zones, records, block_size, max_open, max_active, active_found: 0, clock: 1 }
    }

    pub(super) fn zones(&self) -> usize {
        self.zones.len()
    }

    pub(super) fn is_conventional(&self, zone: usize) -> bool {
        self.zones[zone].conventional
    }

    pub(super) fn capacity(&self, zone: usize) -> u32 {
        self.zones[zone].capacity
    }

    pub(super) fn size(&self, zone: usize) -> u32 {
        self.zones[zone].size
    }

    pub(super) fn life(&self, zone: usize) -> u32 {
        self.zones[zone].life
    }

    /// Where a zone's record may begin, in bytes on the drive.
    pub(super) fn offset(&self, zone: usize, block: u32) -> u64 {
        (self.zones[zone].start + u64::from(block)) * self.block_size
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn record(&self, number: u64) -> Option<&Record> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.records.get(index)
    }

    fn record_mut(&mut self, number: u64) -> &mut Record {
        let index = usize::try_from(number).unwrap_or(0).saturating_sub(1);
        &mut self.records[index]
    }

    fn of_zone(&self, zone: usize) -> impl Iterator<Item = (u64, &Record)> {
        (1..).zip(&self.records).filter(move |(_, record)| record.zone == zone)
    }

    // ---- asked ----------------------------------------------------------------------------

    /// A write of so many blocks is about to be submitted; the record's number.
    pub(super) fn write(
        &mut self,
        zone: usize,
        at: Option<u32>,
        blocks: u32,
        durable: bool,
        linked: bool,
    ) -> u64 {
        let asked = self.tick();
        self.records.push(Record {
            zone,
            blocks,
            durable,
            asked: (!linked).then_some(asked),
            since: self.zones[zone].life,
            until: None,
            fate: Fate::Flying,
            place: at.filter(|_| self.zones[zone].conventional),
        });
        let number = self.records.len() as u64;
        let (conventional, label) =
            (self.zones[zone].conventional, u32::try_from(zone).unwrap_or(0));
        if let (true, Some(at)) = (conventional, at) {
            for index in 0..blocks {
                let held = Held::Block { record: number, zone: label, index };
                let value = Value::new(held, asked);
                if let Some(values) = self.zones[zone].values.get_mut((at + index) as usize) {
                    values.push(value);
                }
            }
        }
        number
    }

    /// The request of a record was given back.
    pub(super) fn withdrawn(&mut self, number: u64) {
        self.conventional_ended(number, false);
        self.record_mut(number).fate = Fate::Gone;
    }

    /// Returns when that was.
    pub(super) fn reset_asked(&mut self, zone: usize) -> u64 {
        self.zones[zone].resets += 1;
        self.tick()
    }

    pub(super) fn finish_asked(&mut self, zone: usize) {
        self.zones[zone].finishes += 1;
    }

    pub(super) fn noted(&mut self) -> Noted {
        let when = self.tick();
        Noted { ends: self.zones.iter().map(|zone| (zone.life, zone.end)).collect(), when }
    }

    /// What a read of so many blocks has to show; it touches zones from `zone` on.
    pub(super) fn look(&mut self, start: u64, blocks: u32) -> Look {
        let when = self.tick();
        let mut look =
            Look { when, blocks: Vec::new(), values: BTreeMap::new(), lives: BTreeMap::new() };
        for at in start..start + u64::from(blocks) {
            let zone = self.zones.iter().rposition(|zone| zone.start <= at).unwrap_or(0);
            let block = u32::try_from(at - self.zones[zone].start).unwrap_or(u32::MAX);
            let life = self.zones[zone].life;
            look.lives.insert(zone, (life, self.zones[zone].resets > 0));
            if let Some(values) = self.zones[zone].values.get(block as usize) {
                let mut values = values.clone();
                supersede(&mut values, when, when);
                let held = values.iter().filter(|v| v.over.is_none()).map(|value| value.held);
                look.values.insert((zone, block), held.collect());
            }
            look.blocks.push((zone, block, self.acknowledged_at(zone, life, block)));
        }
        look
    }

    fn acknowledged_at(&self, zone: usize, life: u32, block: u32) -> Option<(u64, u32)> {
        let mut records = self
            .of_zone(zone)
            .filter(|(_, record)| record.fate == Fate::Acknowledged && record.is_of(life));
        records.find_map(|(number, record)| {
            let index = block.checked_sub(record.place?)?;
            (index < record.blocks).then_some((number, index))
        })
    }

    // ---- answered -------------------------------------------------------------------------

    /// A write has ended.
    pub(super) fn written(&mut self, number: u64, completion: &Completion) -> Kept {
        let Some(record) = self.record(number).cloned() else { return Ok(()) };
        match &completion.result {
            Ok(bytes) => {
                let wanted = u64::from(record.blocks) * self.block_size;
                ensure!(
                    u64::from(*bytes) == wanted,
                    "an acknowledged write is whole",
                    "record {number} of {wanted} bytes: {bytes}"
                );
                self.acknowledged(number, &record, completion)
            }
            Err(error) => {
                self.conventional_ended(number, false);
                let in_place = record.durable && error.kind() == ErrorKind::DeviceReadOnly;
                let refused = completion.flags.contains(Flags::REFUSED);
                let fate = if in_place && !refused { Fate::Unsure } else { Fate::Gone };
                if fate == Fate::Gone && !refused {
                    self.zones[record.zone].failed = true;
                }
                let place = self.place_of(record.zone, completion.offset);
                let record = self.record_mut(number);
                record.fate = fate;
                // Where it was, if it had a place: zones may end there, in zeros.
                if !refused {
                    record.place = place;
                }
                Ok(())
            }
        }
    }

    /// Which block of a zone is at that byte of the drive.
    fn place_of(&self, zone: usize, offset: u64) -> Option<u32> {
        let block = (offset / self.block_size).checked_sub(self.zones[zone].start)?;
        u32::try_from(block).ok()
    }

    fn acknowledged(&mut self, number: u64, record: &Record, completion: &Completion) -> Kept {
        let promise = "an acknowledged write is inside its zone, and says where";
        let zone = &self.zones[record.zone];
        let offset = completion.offset;
        let place = self.place_of(record.zone, offset);
        let (Some(place), true) = (place, offset.is_multiple_of(self.block_size)) else {
            return violation(
                promise,
                format!("record {number} of zone {} at {offset}", record.zone),
            );
        };
        let end = place + record.blocks;
        let inside = end <= zone.capacity;
        ensure!(inside, promise, "record {number} of zone {} ends at {end}", record.zone);
        if zone.conventional {
            let same = record.place == Some(place);
            ensure!(same, promise, "record {number}, asked for {:?}: at {place}", record.place);
            self.conventional_ended(number, true);
            self.record_mut(number).fate = Fate::Acknowledged;
            return Ok(());
        }
        // One that was held, or is durable, may have been in its place for long, and in an earlier
        // life.
        let life = zone.life;
        let late = record.durable || completion.flags.contains(Flags::HELD);
        let (since, until) =
            if late { (record.since, record.until.unwrap_or(life)) } else { (life, life) };
        if since == until {
            for (other, there) in self.of_zone(record.zone) {
                let Some(its_end) = there.end() else { continue };
                let Some(its_place) = there.place else { continue };
                let apart = its_end <= place || end <= its_place;
                let counts = there.fate == Fate::Acknowledged && there.is_of(until);
                ensure!(
                    !counts || apart,
                    "no two acknowledged writes share a place",
                    "in zone {}: record {number} at {place}..{end}, record {other} at \
                     {its_place}..{its_end}",
                    record.zone
                );
            }
        }
        // Of which life it is may stay unknown, where it waited for another's success.
        let fate = if since == until { Fate::Acknowledged } else { Fate::Unsure };
        *self.record_mut(number) =
            Record { since, until: Some(until), place: Some(place), fate, ..record.clone() };
        let zone = &mut self.zones[record.zone];
        if since == until && until == life {
            zone.end = zone.end.max(end);
        }
        if record.durable && since == until {
            zone.raise((until, end));
        }
        Ok(())
    }

    fn conventional_ended(&mut self, number: u64, well: bool) {
        let now = self.tick();
        let Some(record) = self.record(number) else { return };
        let (durable, zone) = (record.durable, record.zone);
        if !self.zones[zone].conventional {
            return;
        }
        for values in &mut self.zones[zone].values {
            let own = |value: &&mut Value| {
                matches!(value.held, Held::Block { record, .. } if record == number)
                    && value.ended.is_none()
            };
            if let Some(value) = values.iter_mut().find(own) {
                (value.ended, value.well) = (Some(now), well);
                let asked = value.asked;
                // Of what others wrote since, nothing is promised.
                if durable && well {
                    overwrite(values, asked, now);
                }
            }
        }
    }

    /// A reset that was asked for at `asked` (none if it waited for another's success) has ended.
    pub(super) fn reset_ended(&mut self, at: usize, asked: Option<u64>, well: bool) {
        let zone = &mut self.zones[at];
        zone.resets -= 1;
        if !well {
            return;
        }
        let old = zone.life;
        zone.life = zone.next_life;
        zone.lives.insert(zone.life);
        zone.next_life += 1;
        zone.end = 0;
        // Who comes to a zone first goes first.
        let new = zone.life;
        let flying = |record: &&mut Record| record.zone == at && record.fate == Fate::Flying;
        for record in self.records.iter_mut().filter(flying) {
            match (record.asked, asked) {
                (Some(write), Some(reset)) if write > reset => record.since = new,
                (Some(_), Some(_)) => record.until = Some(record.until.unwrap_or(old)),
                (None, _) | (_, None) => {}
            }
        }
    }

    pub(super) fn finish_ended(&mut self, zone: usize, well: bool) {
        let zone = &mut self.zones[zone];
        zone.finishes -= 1;
        if well {
            zone.finished.insert(zone.life);
            zone.end = zone.capacity;
        }
    }

    pub(super) fn flushed(&mut self, noted: &Noted) {
        let now = self.tick();
        for (zone, &floor) in self.zones.iter_mut().zip(&noted.ends) {
            zone.raise(floor);
            for values in &mut zone.values {
                supersede(values, noted.when, now);
            }
        }
    }

    /// A read has ended well.
    pub(super) fn read(&self, look: &Look, bytes: &[u8]) -> Kept {
        let blocks = bytes.chunks(usize::try_from(self.block_size).unwrap_or(512));
        for (&(zone, block, expected), bytes) in look.blocks.iter().zip(blocks) {
            self.read_block(look, zone, block, expected, Held::of(bytes))?;
        }
        Ok(())
    }

    fn read_block(
        &self,
        look: &Look,
        at: usize,
        block: u32,
        expected: Option<(u64, u32)>,
        held: Held,
    ) -> Kept {
        let zone = &self.zones[at];
        let seen = || format!("zone {at}, block {block}: {held:?}, expected {expected:?}");
        if zone.conventional {
            let before = look.values.get(&(at, block)).is_some_and(|values| values.contains(&held));
            let since = zone.values[block as usize]
                .iter()
                .any(|value| value.held == held && value.over.is_none_or(|over| over >= look.when));
            let fits = before || since;
            ensure!(fits, "a conventional zone reads as it was written", "{}", seen());
            return Ok(());
        }
        let fits = |(record, index): (u64, u32)| {
            let label = u32::try_from(at).unwrap_or(0);
            held == Held::Block { record, zone: label, index }
        };
        let (life, resetting) = look.lives[&at];
        if held == Held::Torn {
            return violation("a block is never torn", seen());
        }
        if zone.life != life || resetting {
            let fine = held == Held::Zeros
                || expected.is_some_and(fits)
                || self.is_in_place(at, life, block, held);
            ensure!(fine, "a read during a reset shows zeros", "{}", seen());
            return Ok(());
        }
        if let Some(expected) = expected {
            ensure!(fits(expected), "what was acknowledged can be read where it is", "{}", seen());
            return Ok(());
        }
        let fine = held == Held::Zeros || self.is_in_place(at, life, block, held);
        ensure!(fine, "what is not acknowledged reads as zeros", "{}", seen());
        Ok(())
    }

    /// Whether it is a record that is in its place and will be acknowledged when it is durable.
    fn is_in_place(&self, at: usize, life: u32, block: u32, held: Held) -> bool {
        let Held::Block { record, zone, index } = held else { return false };
        self.record(record).is_some_and(|record| {
            (record.durable || record.fate == Fate::Unsure)
                && record.fate != Fate::Gone
                && (record.zone, zone as usize) == (at, at)
                && record.may_be_of(life)
                && record.place.is_none_or(|place| place + index == block)
        })
    }

    /// What the drive says of its zones, with everything answered.
    pub(super) fn reported(&self, report: &[ZoneInfo], busy: &BTreeSet<usize>) -> Kept {
        let count =
            |state: fn(ZoneState) -> bool| report.iter().filter(|zone| state(zone.state)).count();
        let open = count(is_open);
        let active = count(is_active);
        let above = self.max_open > 0 && open > self.max_open as usize;
        ensure!(!above, "no more zones are open than may be", "{open} of {}", self.max_open);
        let above =
            self.max_active > 0 && active > (self.max_active as usize).max(self.active_found);
        ensure!(!above, "no more zones are active than may be", "{active} of {}", self.max_active);
        for (at, (zone, info)) in self.zones.iter().zip(report).enumerate() {
            let unsure = self.of_zone(at).any(|(_, record)| record.fate == Fate::Unsure);
            let worn = matches!(info.state, ZoneState::ReadOnly | ZoneState::Offline);
            let may_fail = zone.failed || self.is_flying(at);
            ensure!(!worn || may_fail, "zones stay as they are", "zone {at}: {}", info.state);
            if zone.conventional || busy.contains(&at) || unsure || worn {
                continue;
            }
            let wp = self.blocks_of(zone, info);
            let promise = "a zone at rest ends where its last acknowledged write does";
            ensure!(wp == Some(zone.end), promise, "zone {at}: {wp:?}, not {}", zone.end);
            let full = (info.state == ZoneState::Full) == (zone.end == zone.capacity);
            let promise = "a zone is full when its capacity is acknowledged";
            ensure!(full, promise, "zone {at}: {}, {} of {}", info.state, zone.end, zone.capacity);
        }
        Ok(())
    }

    /// Whether there are writes of which nothing has been heard.
    fn is_flying(&self, at: usize) -> bool {
        self.of_zone(at).any(|(_, record)| record.fate == Fate::Flying)
    }

    fn blocks_of(&self, zone: &Zone, info: &ZoneInfo) -> Option<u32> {
        let at = info.write_pointer? / self.block_size;
        u32::try_from(at.checked_sub(zone.start)?).ok()
    }

    // ---- opened again ---------------------------------------------------------------------

    /// The drive was opened again, and everything read; from here on that is what there is.
    pub(super) fn reopened(
        &mut self,
        after: After,
        report: &[ZoneInfo],
        held: &[Vec<Held>],
    ) -> Kept {
        for (at, (info, held)) in report.iter().zip(held).enumerate() {
            if self.zones[at].conventional {
                self.reopened_conventional(at, after, held)?;
            } else {
                self.reopened_sequential(at, after, info, held)?;
            }
        }
        self.active_found = report.iter().filter(|zone| is_active(zone.state)).count();
        Ok(())
    }

    fn reopened_conventional(&mut self, at: usize, after: After, held: &[Held]) -> Kept {
        let now = self.tick();
        for (block, (values, &held)) in self.zones[at].values.iter_mut().zip(held).enumerate() {
            if after == After::Kill {
                supersede(values, now, now);
            }
            let fits = values.iter().any(|value| value.held == held && value.over.is_none());
            let promise = match after {
                After::Cut => "a conventional zone keeps what was flushed",
                After::Kill => "a conventional zone keeps what was acknowledged",
            };
            ensure!(fits, promise, "zone {at}, block {block}: {held:?}, may be {values:?}");
            *values = vec![Value::found(held, now)];
        }
        for record in self.records.iter_mut().filter(|record| record.zone == at) {
            record.fate = Fate::Gone;
        }
        Ok(())
    }

    fn reopened_sequential(
        &mut self,
        at: usize,
        after: After,
        info: &ZoneInfo,
        held: &[Held],
    ) -> Kept {
        let zone = &self.zones[at];
        let worn = matches!(info.state, ZoneState::ReadOnly | ZoneState::Offline);
        let may_fail = zone.failed || self.is_flying(at);
        ensure!(!worn || may_fail, "zones stay as they are", "zone {at}: {}", info.state);
        let Some(wp) = self.blocks_of(zone, info) else {
            return violation("a zone has a write pointer", format!("zone {at}: {info:?}"));
        };
        let expected = match wp {
            0 => ZoneState::Empty,
            wp if wp == zone.capacity => ZoneState::Full,
            _ => ZoneState::Closed,
        };
        let promise = "zones that were open are closed, empty or full after opening";
        ensure!(worn || info.state == expected, promise, "zone {at} at {wp}: {}", info.state);
        let life = self.life_of(at, after, wp, held)?;
        let shown = |record: &Record, number: u64| {
            let first = held
                .iter()
                .position(|held| matches!(held, Held::Block { record, .. } if *record == number));
            first.and_then(|first| u32::try_from(first).ok()).filter(|_| record.may_be_of(life))
        };
        let mut places = Vec::new();
        for (number, record) in self.of_zone(at) {
            places.push((number, shown(record, number)));
        }
        for (number, place) in places {
            let record = self.record_mut(number);
            match place {
                Some(_) => {
                    (record.since, record.until) = (life, Some(life));
                    (record.place, record.fate) = (place, Fate::Acknowledged);
                }
                None => record.fate = Fate::Gone,
            }
        }
        let zone = &mut self.zones[at];
        (zone.life, zone.end) = (life, wp);
        (zone.floor, zone.found) = ((life, wp), (life, wp));
        zone.next_life = zone.next_life.max(life + 1);
        zone.lives = BTreeSet::from([life]);
        zone.finished = if wp == zone.capacity { zone.lives.clone() } else { BTreeSet::new() };
        (zone.resets, zone.finishes) = (0, 0);
        zone.failed |= worn;
        Ok(())
    }

    /// Which life of a zone is found; a violation if it can be none.
    fn life_of(&self, at: usize, after: After, wp: u32, held: &[Held]) -> Kept<u32> {
        let zone = &self.zones[at];
        let mut lives: Vec<u32> = match after {
            After::Cut => zone.lives.range(zone.floor.0..).copied().collect(),
            After::Kill => vec![zone.life],
        };
        if zone.resets > 0 {
            lives.push(zone.next_life);
        }
        let mut first = None;
        for &life in lives.iter().rev() {
            match self.shows(at, after, life, wp, held) {
                Ok(()) => return Ok(life),
                Err(violation) => {
                    // The likeliest life is that of what is seen.
                    let seen = held.iter().find_map(|held| match held {
                        Held::Block { record, .. } => self.record(*record),
                        Held::Zeros | Held::Torn => None,
                    });
                    let likely = seen.is_none_or(|record| record.may_be_of(life));
                    if likely || first.is_none() {
                        first = Some(violation);
                    }
                }
            }
        }
        match first {
            Some(violation) => Err(violation),
            None => violation("a zone has one of its lives", format!("zone {at}")),
        }
    }

    /// Whether a zone shows that life.
    fn shows(&self, at: usize, after: After, life: u32, wp: u32, held: &[Held]) -> Kept {
        let zone = &self.zones[at];
        let place = || format!("zone {at}, life {life}, write pointer {wp}");
        let floor = if life == zone.floor.0 { zone.floor.1 } else { 0 };
        let promise = "nothing that was flushed is lost";
        ensure!(wp >= floor, promise, "{}, flushed to {floor}", place());
        let acknowledged = if life == zone.life { zone.end } else { 0 };
        let promise = "nothing that was acknowledged is lost by a kill";
        let kept = after == After::Cut || wp >= acknowledged;
        ensure!(kept, promise, "{}, acknowledged to {acknowledged}", place());
        let finished = zone.finished.contains(&life) || zone.finishes > 0;
        if wp > 0 && !(wp == zone.capacity && finished) {
            let last = held[wp as usize - 1];
            let ends = match last {
                Held::Block { record, index, .. } => {
                    self.record(record).is_some_and(|record| index + 1 == record.blocks)
                }
                Held::Zeros => {
                    zone.found == (life, wp) || self.may_have_failed_before(at, life, wp)
                }
                Held::Torn => false,
            };
            let promise = "a zone ends where a record ends that was submitted whole";
            ensure!(ends, promise, "{}, and before it {last:?}", place());
        }
        for (block, &held_here) in (0..).zip(held) {
            let seen = || format!("{}, block {block}: {held_here:?}", place());
            match held_here {
                Held::Zeros => {}
                Held::Torn => return violation("a block is never torn", seen()),
                Held::Block { .. } if block >= wp => {
                    return violation("a zone reads as zeros from its write pointer on", seen());
                }
                Held::Block { record: number, zone: label, index } => {
                    let Some(record) = self.record(number) else {
                        return violation("a zone holds what was written to it", seen());
                    };
                    let own = (record.zone, label as usize) == (at, at);
                    ensure!(own, "a zone holds what was written to it", "{}", seen());
                    let of_life = record.may_be_of(life);
                    ensure!(of_life, "nothing of an earlier life of a zone is seen", "{}", seen());
                    let alive = record.fate != Fate::Gone;
                    ensure!(alive, "what failed reads as zeros", "{}", seen());
                    let first = block.checked_sub(index);
                    let whole = first.is_some_and(|first| {
                        first + record.blocks <= wp
                            && record.place.is_none_or(|place| place == first)
                            && self.is_whole(number, label, first, record.blocks, held)
                    });
                    ensure!(whole, "a record is there as a whole, or not at all", "{}", seen());
                }
            }
        }
        for (number, record) in self.of_zone(at) {
            let (Some(first), Some(end)) = (record.place, record.end()) else { continue };
            if record.fate != Fate::Acknowledged || !record.is_of(life) || first >= wp {
                continue;
            }
            let label = u32::try_from(at).unwrap_or(0);
            let there = end <= wp && self.is_whole(number, label, first, record.blocks, held);
            let promise = "below its write pointer a zone holds what was acknowledged";
            ensure!(there, promise, "{}, record {number} of {first}..{end} missing", place());
        }
        Ok(())
    }

    /// Whether a record may have ended there that failed, so that zeros are in its place.
    fn may_have_failed_before(&self, at: usize, life: u32, wp: u32) -> bool {
        self.of_zone(at).any(|(_, record)| {
            let ended = record.fate == Fate::Gone && record.end() == Some(wp);
            (ended || record.fate == Fate::Flying) && record.may_be_of(life)
        })
    }

    fn is_whole(&self, record: u64, zone: u32, first: u32, blocks: u32, held: &[Held]) -> bool {
        (0..blocks).all(|index| {
            held.get((first + index) as usize) == Some(&Held::Block { record, zone, index })
        })
    }

    /// The session was closed: all of it is durable.
    pub(super) fn closed(&mut self) {
        let noted = self.noted();
        self.flushed(&noted);
    }
}

impl Zone {
    fn raise(&mut self, floor: (u32, u32)) {
        self.floor = self.floor.max(floor);
    }
}

/// Marks what is certainly overwritten by a write that had ended well before `when`.
fn supersede(values: &mut [Value], when: u64, now: u64) {
    let newest = values
        .iter()
        .filter(|value| value.well && value.ended.is_some_and(|ended| ended < when))
        .map(|value| value.asked)
        .max();
    if let Some(newest) = newest {
        overwrite(values, newest, now);
    }
}

/// What had ended before the write that was asked for then is overwritten.
fn overwrite(values: &mut [Value], asked: u64, now: u64) {
    for value in values.iter_mut().filter(|value| value.over.is_none()) {
        let before = value.ended.is_some_and(|ended| ended < asked) && value.asked != asked;
        value.over = before.then_some(now);
    }
}

const fn is_open(state: ZoneState) -> bool {
    match state {
        ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen => true,
        ZoneState::NotWp
        | ZoneState::Empty
        | ZoneState::Closed
        | ZoneState::Full
        | ZoneState::ReadOnly
        | ZoneState::Offline => false,
    }
}

const fn is_active(state: ZoneState) -> bool {
    is_open(state) || matches!(state, ZoneState::Closed)
}
