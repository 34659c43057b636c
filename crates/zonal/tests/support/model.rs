//! What the contract says about a small drive, followed step by step.
//!
//! It is told what is asked, what reaches the disk and how it ends, and what completes; it says
//! what is wrong. All positions are blocks of a zone.

use super::scenario::{Ask, Scenario};
use super::{APPEND_MAX, CAPACITY, Held, ZONE, ZONES};
use std::hash::{Hash, Hasher};
use zonal::{ErrorKind, Flags, ZoneState};

/// A rule of the contract that does not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Which check found it.
    pub(crate) check: &'static str,
    /// What was found.
    pub(crate) what: String,
}

pub(crate) type Checked<T = ()> = Result<T, Violation>;

pub(crate) fn violation<T>(check: &'static str, what: impl Into<String>) -> Checked<T> {
    Err(Violation { check, what: what.into() })
}

macro_rules! ensure {
    ($holds:expr, $check:expr, $($what:tt)+) => {
        if !$holds {
            return $crate::support::model::violation($check, format!($($what)+));
        }
    };
}
pub(crate) use ensure;

/// What became of a record that took a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    InFlight,
    Acked,
    /// It ended well in a failing zone, and has no verdict yet.
    Held,
    /// It failed, and that is not reported yet.
    Failed,
    /// It was reported as failed, or behind one that failed; its place is given to others.
    Lost,
    /// It failed, and stays below acknowledged records as zeros.
    Dead,
}

impl Fate {
    fn is_reported_failed(self) -> bool {
        matches!(self, Self::Lost | Self::Dead)
    }
}

/// A record in its place.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Entry {
    pub(crate) tag: u8,
    pub(crate) start: u32,
    pub(crate) length: u32,
    pub(crate) fate: Fate,
    /// A flush or its own FUA has promised that it survives.
    durable: bool,
    /// What of it the disk has done.
    done: u32,
}

impl Entry {
    fn end(&self) -> u32 {
        self.start + self.length
    }

    fn covers(&self, block: u32) -> bool {
        (self.start..self.end()).contains(&block)
    }

    fn is_settled(&self) -> bool {
        self.fate == Fate::Acked || self.fate.is_reported_failed()
    }
}

/// What happened to a zone between two resets.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Life {
    number: u32,
    entries: Vec<Entry>,
    finished: bool,
    /// A flush has promised that it stays finished.
    finish_durable: bool,
    condemned: bool,
}

/// A zone.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Zone {
    /// The last is the present one; the others may come back with a power cut.
    lives: Vec<Life>,
    wp: u32,
    /// H of the contract: the highest end acknowledged.
    acked_end: u32,
    /// L of the contract, while the zone is failing.
    failing: Option<u32>,
    state: ZoneState,
    /// While it settles: a failed write's range could not be zeroed, or maybe not.
    doubtful: bool,
    /// A zeroing that the disk cannot do, and that is done by writing.
    zeroed_by_writing: Option<(u32, u32)>,
}

impl Zone {
    fn new() -> Self {
        Self {
            lives: vec![Life::default()],
            wp: 0,
            acked_end: 0,
            failing: None,
            state: ZoneState::Empty,
            doubtful: false,
            zeroed_by_writing: None,
        }
    }

    fn life(&self) -> &Life {
        self.lives.last().expect("a zone lives")
    }

    fn life_mut(&mut self) -> &mut Life {
        self.lives.last_mut().expect("a zone lives")
    }

    fn in_flight(&self) -> usize {
        self.life().entries.iter().filter(|entry| entry.fate == Fate::InFlight).count()
    }

    fn entry(&mut self, tag: u8) -> Option<&mut Entry> {
        self.life_mut().entries.iter_mut().find(|entry| entry.tag == tag)
    }

    /// The last write has succeeded, and nothing is left: the zone is full.
    fn fill(&mut self) {
        if self.wp == CAPACITY && self.in_flight() == 0 && self.failing.is_none() {
            self.state = ZoneState::Full;
        }
    }

    /// Earlier lives cannot come back any more.
    fn forget_earlier(&mut self, before: u32) {
        self.lives.retain(|life| life.number >= before);
    }

    /// Settles a failing zone with nothing in flight, by the contract's rule.
    fn settle(&mut self) {
        let Some(lowest) = self.failing.take() else { return };
        let wp = lowest.max(self.acked_end);
        for entry in &mut self.life_mut().entries {
            entry.fate = match entry.fate {
                Fate::Held if entry.end() <= wp => Fate::Acked,
                Fate::Failed if entry.start < wp => Fate::Dead,
                Fate::Held | Fate::Failed => Fate::Lost,
                fate => fate,
            };
        }
        (self.wp, self.acked_end) = (wp, wp);
        self.fill();
    }
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Standing {
    Waiting,
    Entered,
    Done,
}

/// What was promised, or visible, when a request was submitted.
#[derive(Clone, Debug, Default, Hash)]
struct Snapshot {
    /// Per zone its life, whether it was finished, and the tags acknowledged in it.
    zones: Vec<(u32, bool, Vec<u8>)>,
}

#[derive(Clone, Debug)]
struct Asked {
    tag: u8,
    ask: Ask,
    /// Where a write at an offset wants to land.
    at: u32,
    standing: Standing,
    snapshot: Snapshot,
    /// The drive was read-only when it was submitted.
    late: bool,
}

impl Asked {
    /// Too long for an append, it takes the zone.
    fn is_alone(&self) -> bool {
        matches!(self.ask, Ask::Ordered(_, length) if length > APPEND_MAX)
    }
}

impl Hash for Asked {
    /// What is over has nothing more to say.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.tag, &self.standing).hash(hasher);
        if self.standing != Standing::Done {
            (self.at, &self.snapshot, self.late).hash(hasher);
        }
    }
}

/// What a request of the drive to the disk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// A record's blocks.
    Data {
        zone: usize,
        tag: u8,
    },
    /// Zeros, written or punched.
    Zeros {
        zone: usize,
        start: u32,
        length: u32,
    },
    Sync,
    Table,
    Read,
}

/// How a request of the drive to the disk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Well,
    /// After so many blocks.
    Short(u32),
    Failed,
    /// The disk cannot do that.
    Unsupported,
}

/// What completed, as its owner sees it.
pub(crate) struct Seen<'a> {
    pub(crate) tag: u8,
    pub(crate) result: Result<u32, ErrorKind>,
    pub(crate) flags: Flags,
    /// Zone and block.
    pub(crate) place: (usize, u32),
    pub(crate) buffer: Option<&'a [u8]>,
}

/// A drive.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Model {
    pub(crate) zones: Vec<Zone>,
    asked: Vec<Asked>,
    pub(crate) latched: bool,
    /// A page of the table failed; the drive becomes read-only when its whole batch has ended.
    table_failed: bool,
    faulted: bool,
    max_open: usize,
    /// Zones in the order in which they were opened last, where that makes a difference.
    opened: Vec<usize>,
}

impl Model {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            zones: vec![Zone::new(); ZONES],
            asked: Vec::new(),
            latched: false,
            table_failed: false,
            faulted: false,
            max_open: scenario.max_open as usize,
            opened: Vec::new(),
        }
    }

    /// The zone holds these records, of these lengths, durably, and nothing was done since.
    pub(crate) fn found(&mut self, zone: usize, records: &[(u8, u32)]) {
        let zone = &mut self.zones[zone];
        for &(tag, length) in records {
            let (start, fate) = (zone.wp, Fate::Acked);
            let entry = Entry { tag, start, length, fate, durable: true, done: length };
            zone.life_mut().entries.push(entry);
            zone.wp += length;
        }
        zone.acked_end = zone.wp;
        zone.state = state_of(zone.wp);
    }

    // ---- from above: what is asked ----------------------------------------------------------

    /// A request is submitted. Returns where a write at an offset has to go.
    pub(crate) fn submitted(&mut self, tag: u8, ask: Ask) -> u32 {
        let at = ask.write().map_or(0, |(zone, _)| self.planned(zone));
        let zones = self.zones.iter().map(|zone| {
            let acked = zone.life().entries.iter().filter(|entry| entry.fate == Fate::Acked);
            (zone.life().number, zone.life().finished, acked.map(|entry| entry.tag).collect())
        });
        let snapshot = match ask {
            Ask::Flush | Ask::Read => Snapshot { zones: zones.collect() },
            _ => Snapshot::default(),
        };
        let late = self.latched;
        self.asked.push(Asked { tag, ask, at, standing: Standing::Waiting, snapshot, late });
        at
    }

    /// The write pointer as moved by all that was submitted.
    fn planned(&self, zone: usize) -> u32 {
        let waiting = self.asked.iter().filter(|asked| asked.standing == Standing::Waiting);
        waiting.fold(self.zones[zone].wp, |wp, asked| match asked.ask {
            Ask::Reset(of) if of == zone => 0,
            ask => wp + ask.write().filter(|(of, _)| *of == zone).map_or(0, |(_, length)| length),
        })
    }

    pub(crate) fn everything_is_done(&self) -> Checked {
        let left = self.asked.iter().find(|asked| asked.standing != Standing::Done);
        match left {
            Some(asked) => violation(
                "each request completes",
                format!("{:?} never completed: {asked:?}", asked.ask),
            ),
            None => Ok(()),
        }
    }

    /// What was acknowledged has completed; called between steps.
    pub(crate) fn nothing_is_late(&self) -> Checked {
        for asked in &self.asked {
            let Some((zone, _)) = asked.ask.write() else { continue };
            let acked = self.zones[zone]
                .life()
                .entries
                .iter()
                .any(|entry| entry.tag == asked.tag && entry.fate == Fate::Acked);
            let late = acked && asked.standing == Standing::Entered;
            ensure!(
                !late || matches!(asked.ask, Ask::Fua(..)),
                "an acknowledged write completes at once",
                "record {} of zone {zone}",
                asked.tag
            );
        }
        Ok(())
    }

    // ---- from below: what reaches the disk --------------------------------------------------

    /// The drive writes to a zone's blocks. `done` are tags that have completed in this step.
    pub(crate) fn writes(
        &mut self,
        (zone, start): (usize, u32),
        length: u32,
        done: &[u8],
    ) -> Checked<Purpose> {
        if let Some((from, to)) = self.zones[zone].zeroed_by_writing
            && from == start
            && start + length == to
        {
            return Ok(Purpose::Zeros { zone, start, length });
        }
        let begun = self.zones[zone].life().entries.iter().find(|entry| {
            let rest = entry.length - entry.done;
            entry.fate == Fate::InFlight && entry.start + entry.done == start && rest == length
        });
        if let Some(entry) = begun
            && entry.done > 0
        {
            return Ok(Purpose::Data { zone, tag: entry.tag });
        }
        ensure!(
            !self.latched,
            "a drive that is read-only is not written",
            "a write to zone {zone}, block {start}"
        );
        let tag = self.next_to_enter(zone, length, done)?;
        self.enter(zone, start, length, tag)?;
        Ok(Purpose::Data { zone, tag })
    }

    /// The first request that waits, but for those `done`.
    pub(crate) fn next_waiting(&self, done: &[u8]) -> Option<u8> {
        let waits = |asked: &&Asked| asked.standing == Standing::Waiting;
        let mut waiting = self.asked.iter().filter(waits).filter(|a| !done.contains(&a.tag));
        let write = waiting.find(|asked| asked.ask.write().is_some());
        write.map(|asked| asked.tag)
    }

    /// Whose write that is: first come, first served.
    fn next_to_enter(&mut self, zone: usize, length: u32, done: &[u8]) -> Checked<u8> {
        for asked in &mut self.asked {
            if asked.standing != Standing::Waiting || done.contains(&asked.tag) {
                continue;
            }
            match asked.ask {
                Ask::Reset(of) | Ask::Finish(of) | Ask::Close(of) if of == zone => {
                    return violation(
                        "nobody overtakes at the gate",
                        format!("a write of {length} blocks passes {:?}", asked.ask),
                    );
                }
                ask => {
                    if let Some((of, wanted)) = ask.write()
                        && of == zone
                    {
                        ensure!(
                            wanted == length,
                            "nobody overtakes at the gate",
                            "a write of {length} blocks passes {ask:?}"
                        );
                        asked.standing = Standing::Entered;
                        return Ok(asked.tag);
                    }
                }
            }
        }
        violation("only what is asked is written", format!("{length} blocks to zone {zone}"))
    }

    fn enter(&mut self, zone: usize, start: u32, length: u32, tag: u8) -> Checked {
        let asked = self.asked.iter().find(|asked| asked.tag == tag);
        let at = asked.filter(|asked| matches!(asked.ask, Ask::WriteAt(..))).map(|a| a.at);
        let alone = |tag: u8| self.asked.iter().any(|asked| asked.tag == tag && asked.is_alone());
        let beside =
            |entry: &&Entry| entry.fate == Fate::InFlight && (alone(entry.tag) || alone(tag));
        if let Some(other) = self.zones[zone].life().entries.iter().find(beside) {
            let what = format!("records {} and {tag} in zone {zone}", other.tag);
            return violation("a long ordered append has its zone to itself", what);
        }
        self.open_implicitly(zone);
        let zone = &mut self.zones[zone];
        ensure!(zone.failing.is_none(), "nothing enters a failing zone", "record {tag}");
        ensure!(
            start == zone.wp && start + length <= CAPACITY && at.is_none_or(|at| at == start),
            "records are contiguous, in the zone, and where they were asked for",
            "record {tag} at {start}, the write pointer at {}, asked for {at:?}",
            zone.wp
        );
        ensure!(
            zone.state == ZoneState::ImplicitlyOpen,
            "only an open zone takes writes",
            "record {tag}, zone {}",
            zone.state
        );
        zone.wp += length;
        // The disk could not punch, and the drive let it be.
        zone.zeroed_by_writing = None;
        let now = zone.life().number;
        zone.forget_earlier(now);
        let fate = Fate::InFlight;
        let entry = Entry { tag, start, length, fate, durable: false, done: 0 };
        zone.life_mut().entries.push(entry);
        Ok(())
    }

    fn open_implicitly(&mut self, zone: usize) {
        if !matches!(self.zones[zone].state, ZoneState::Empty | ZoneState::Closed) {
            return;
        }
        if self.max_open > 0 {
            self.opened.retain(|&of| self.zones[of].state == ZoneState::ImplicitlyOpen);
            if self.opened.len() >= self.max_open {
                let victim = &mut self.zones[self.opened.remove(0)];
                victim.state = if victim.wp > 0 { ZoneState::Closed } else { ZoneState::Empty };
            }
            self.opened.push(zone);
        }
        self.zones[zone].state = ZoneState::ImplicitlyOpen;
    }

    /// The drive zeroes a range of a zone.
    pub(crate) fn zeroes(&mut self, (zone, start): (usize, u32), length: u32) -> Checked<Purpose> {
        let of = &mut self.zones[zone];
        let now = of.life().number;
        of.forget_earlier(now);
        let dead = of.failing.is_some();
        ensure!(
            dead || !self.latched,
            "a drive that is read-only is not written",
            "zeros to zone {zone}, block {start}"
        );
        let harmless = of.life().entries.iter().all(|entry| {
            let apart = entry.end() <= start || start + length <= entry.start;
            apart || entry.fate == Fate::Failed || entry.fate.is_reported_failed()
        });
        ensure!(harmless, "only dead ranges are zeroed", "zone {zone}, {length} from {start}");
        Ok(Purpose::Zeros { zone, start, length })
    }

    /// What the drive asked of the disk has ended.
    pub(crate) fn ended(&mut self, purpose: Purpose, end: End) {
        self.faulted |= matches!(end, End::Failed | End::Short(_));
        match purpose {
            Purpose::Data { zone, tag } => self.data_ended(zone, tag, end),
            Purpose::Zeros { zone, start, length } => self.zeros_ended(zone, start, length, end),
            Purpose::Sync => {
                if end == End::Failed {
                    self.latched = true;
                    for zone in &mut self.zones {
                        zone.doubtful |= zone.failing.is_some();
                        // That it is read-only is durable before anybody hears of it.
                        zone.life_mut().condemned |= zone.doubtful;
                    }
                }
            }
            Purpose::Table => self.table_failed |= end != End::Well,
            Purpose::Read => {}
        }
    }

    fn data_ended(&mut self, zone: usize, tag: u8, end: End) {
        let zone = &mut self.zones[zone];
        let failing = zone.failing.is_some();
        let Some(entry) = zone.entry(tag) else { return };
        match end {
            End::Short(blocks) => {
                entry.done += blocks;
                return;
            }
            End::Well => entry.fate = if failing { Fate::Held } else { Fate::Acked },
            End::Failed | End::Unsupported => entry.fate = Fate::Failed,
        }
        let (start, end, fate) = (entry.start, entry.end(), entry.fate);
        match fate {
            Fate::Acked => zone.acked_end = zone.acked_end.max(end),
            Fate::Failed => zone.failing = Some(zone.failing.map_or(start, |low| low.min(start))),
            Fate::Held | Fate::InFlight | Fate::Lost | Fate::Dead => {}
        }
        zone.fill();
    }

    fn zeros_ended(&mut self, zone: usize, start: u32, length: u32, end: End) {
        let zone = &mut self.zones[zone];
        zone.zeroed_by_writing = match end {
            End::Unsupported => Some((start, start + length)),
            End::Short(blocks) => Some((start + blocks, start + length)),
            End::Well | End::Failed => None,
        };
        zone.doubtful |= end == End::Failed && zone.failing.is_some();
        // That it is read-only is durable before anybody hears of it.
        zone.life_mut().condemned |= zone.doubtful;
    }

    /// No write of the table is pending any more.
    pub(crate) fn table_is_quiet(&mut self) {
        self.latched |= self.table_failed;
    }

    // ---- from above: what completes ---------------------------------------------------------

    /// A completion that was taken.
    pub(crate) fn completed(&mut self, seen: &Seen<'_>) -> Checked {
        let Some(index) = self.asked.iter().position(|asked| asked.tag == seen.tag) else {
            return violation("each request completes once", format!("nobody's tag {}", seen.tag));
        };
        let asked = self.asked[index].clone();
        ensure!(
            asked.standing != Standing::Done,
            "each request completes once",
            "{:?} twice",
            asked.ask
        );
        self.asked[index].standing = Standing::Done;
        match asked.ask {
            Ask::Append(zone, length)
            | Ask::Ordered(zone, length)
            | Ask::WriteAt(zone, length)
            | Ask::Fua(zone, length) => self.write_completed(&asked, zone, length, seen),
            Ask::Read => self.read_completed(&asked, seen),
            Ask::Flush => self.flush_completed(&asked, seen),
            Ask::Reset(zone) | Ask::Finish(zone) | Ask::Close(zone) => {
                self.operation_completed(&asked, zone, seen)
            }
        }
    }

    fn write_completed(
        &mut self,
        asked: &Asked,
        zone: usize,
        length: u32,
        seen: &Seen<'_>,
    ) -> Checked {
        let whole = super::record(asked.tag, length);
        ensure!(
            seen.buffer == Some(&whole[..]),
            "a write's buffer comes back with it",
            "record {}",
            asked.tag
        );
        if asked.standing == Standing::Waiting {
            return self.write_refused(asked, zone, length, seen);
        }
        let of = &mut self.zones[zone];
        let fate = of.entry(asked.tag).map(|entry| entry.fate);
        if matches!(fate, Some(Fate::Held | Fate::Failed)) && of.in_flight() == 0 {
            of.settle();
        }
        let failing = of.failing.is_some();
        let Some(entry) = of.entry(asked.tag).map(|entry| entry.clone()) else {
            // Durable at last, in a life that was reset meanwhile.
            let flushed = matches!(asked.ask, Ask::Fua(..));
            ensure!(flushed, "each request completes before a reset", "record {}", asked.tag);
            return Ok(());
        };
        let place = (zone, entry.start);
        ensure!(seen.place == place, "an append's place is told", "{:?}, {place:?}", seen.place);
        match (seen.result, entry.fate) {
            (Ok(bytes), Fate::Acked) => {
                ensure!(bytes == length * super::BLOCK, "a write is whole", "{bytes} bytes");
                if matches!(asked.ask, Ask::Fua(..)) {
                    self.promise_durable(zone, &entry)?;
                }
                Ok(())
            }
            (Err(ErrorKind::DeviceReadOnly), Fate::Acked)
                if self.latched && matches!(asked.ask, Ask::Fua(..)) =>
            {
                Ok(())
            }
            (Err(ErrorKind::Io), Fate::Lost | Fate::Dead)
            | (Err(ErrorKind::BehindFailedWrite), Fate::Lost) => Ok(()),
            (result, Fate::Held | Fate::Failed) if failing => violation(
                "a failing zone gives no verdict before it has settled",
                format!("record {}: {result:?}", asked.tag),
            ),
            (result, fate) => violation(
                "a write's result is what became of it",
                format!("record {}: {result:?}, but it is {fate:?}", asked.tag),
            ),
        }
    }

    fn promise_durable(&mut self, zone: usize, entry: &Entry) -> Checked {
        let below = self.zones[zone].life_mut().entries.iter_mut();
        for other in below.filter(|other| other.start <= entry.start) {
            ensure!(
                other.is_settled(),
                "a durable write is acknowledged after everything below it",
                "record {}, before record {}",
                entry.tag,
                other.tag
            );
            other.durable |= other.fate == Fate::Acked;
        }
        Ok(())
    }

    fn write_refused(
        &mut self,
        asked: &Asked,
        zone: usize,
        length: u32,
        seen: &Seen<'_>,
    ) -> Checked {
        let of = &self.zones[zone];
        let left = CAPACITY.saturating_sub(of.wp);
        let Err(kind) = seen.result else {
            return violation("nothing is acknowledged unwritten", format!("{:?}", asked.ask));
        };
        let right = match kind {
            ErrorKind::AppendTooLarge => {
                length > APPEND_MAX && matches!(asked.ask, Ask::Append(..) | Ask::Fua(..))
            }
            ErrorKind::ZoneFull | ErrorKind::BeyondCapacity => length > left,
            ErrorKind::NotAtWritePointer => {
                matches!(asked.ask, Ask::WriteAt(..)) && asked.at != of.wp
            }
            ErrorKind::ZoneReadOnly => {
                of.doubtful || of.life().condemned || of.state == ZoneState::ReadOnly
            }
            ErrorKind::DeviceReadOnly => self.latched,
            _ => false,
        };
        ensure!(
            right && seen.flags.contains(Flags::REFUSED),
            "a refusal has its reason",
            "{:?}: {kind}, {left} blocks left, {}",
            asked.ask,
            of.state
        );
        Ok(())
    }

    fn read_completed(&mut self, asked: &Asked, seen: &Seen<'_>) -> Checked {
        if seen.result.is_err() {
            ensure!(self.faulted, "a read succeeds", "{:?}", seen.result);
            return Ok(());
        }
        let held = super::held_in(seen.buffer.unwrap_or_default());
        for (number, (life, _, acked)) in asked.snapshot.zones.iter().enumerate() {
            let blocks = &held[number * ZONE as usize..][..ZONE as usize];
            let same = *life == self.zones[number].life().number;
            self.shown(number, blocks, |tag| same && acked.contains(&tag))?;
        }
        Ok(())
    }

    fn flush_completed(&mut self, asked: &Asked, seen: &Seen<'_>) -> Checked {
        if let Err(kind) = seen.result {
            ensure!(
                self.latched && kind == ErrorKind::DeviceReadOnly,
                "a flush fails only with its disk",
                "{kind}"
            );
            return Ok(());
        }
        ensure!(!asked.late, "a drive that is read-only says so", "a flush went well");
        for (zone, (number, finished, acked)) in self.zones.iter_mut().zip(&asked.snapshot.zones) {
            zone.forget_earlier(*number);
            let life = zone.life_mut();
            if life.number != *number {
                continue;
            }
            life.finish_durable |= finished;
            for entry in life.entries.iter_mut().filter(|entry| acked.contains(&entry.tag)) {
                entry.durable = true;
            }
        }
        Ok(())
    }

    fn operation_completed(&mut self, asked: &Asked, zone: usize, seen: &Seen<'_>) -> Checked {
        let (latched, faulted) = (self.latched, self.faulted);
        let of = &mut self.zones[zone];
        let quiet = of.in_flight() == 0 && of.failing.is_none();
        if let Err(kind) = seen.result {
            let right = match kind {
                ErrorKind::DeviceReadOnly => latched,
                ErrorKind::ZoneReadOnly => of.doubtful || of.state == ZoneState::ReadOnly,
                ErrorKind::InvalidTransition => {
                    let no_close = matches!(of.state, ZoneState::Empty | ZoneState::Full);
                    matches!(asked.ask, Ask::Close(_)) && no_close
                }
                ErrorKind::Io => matches!(asked.ask, Ask::Finish(_)) && faulted,
                _ => false,
            };
            ensure!(right, "a refusal has its reason", "{:?}: {kind}, {}", asked.ask, of.state);
            return Ok(());
        }
        ensure!(!asked.late, "a drive that is read-only says so", "{:?} went well", asked.ask);
        ensure!(quiet, "an operation has its zone alone", "{:?}", asked.ask);
        match asked.ask {
            Ask::Reset(_) => {
                let number = of.life().number + 1;
                of.lives.push(Life { number, ..Life::default() });
                (of.wp, of.acked_end, of.state) = (0, 0, ZoneState::Empty);
            }
            Ask::Finish(_) => {
                if of.state != ZoneState::Full {
                    let now = of.life().number;
                    of.forget_earlier(now);
                    of.life_mut().finished = true;
                }
                (of.wp, of.acked_end, of.state) = (CAPACITY, CAPACITY, ZoneState::Full);
            }
            Ask::Close(_) => {
                of.state = if of.wp > 0 { ZoneState::Closed } else { ZoneState::Empty };
            }
            _ => {}
        }
        Ok(())
    }

    // ---- looking on ------------------------------------------------------------------------

    /// What `report` and the counts say.
    pub(crate) fn reported(&mut self, zones: &[(ZoneState, u32)], counts: (u32, u32)) -> Checked {
        let (mut open, mut active) = (0, 0);
        for (number, (zone, &(state, wp))) in self.zones.iter_mut().zip(zones).enumerate() {
            if zone.doubtful && state == ZoneState::ReadOnly {
                zone.state = state;
                zone.life_mut().condemned = true;
            }
            ensure!(
                state != ZoneState::Full || zone.in_flight() == 0 && zone.failing.is_none(),
                "a zone is full only with nothing in flight",
                "zone {number}, {} in flight",
                zone.in_flight()
            );
            ensure!(
                (state, wp) == (zone.state, zone.wp),
                "the report is true",
                "zone {number} is {state} at {wp}, should be {} at {}",
                zone.state,
                zone.wp
            );
            let is_open = matches!(state, ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen);
            open += u32::from(is_open);
            active += u32::from(is_open || state == ZoneState::Closed);
        }
        ensure!(counts == (open, active), "the counts agree", "{counts:?}, {:?}", (open, active));
        Ok(())
    }

    /// What a read of the whole drive shows, submitted and ended now.
    pub(crate) fn shows(&self, held: &[Held]) -> Checked {
        for (number, zone) in self.zones.iter().enumerate() {
            let blocks = &held[number * ZONE as usize..][..ZONE as usize];
            let acked = |tag: u8| {
                let mut entries = zone.life().entries.iter();
                entries.any(|entry| entry.tag == tag && entry.fate == Fate::Acked)
            };
            self.shown(number, blocks, acked)?;
        }
        Ok(())
    }

    /// A zone's blocks as a read showed them, which must show what was acknowledged by then.
    fn shown(&self, number: usize, blocks: &[Held], acked: impl Fn(u8) -> bool) -> Checked {
        let life = self.zones[number].life();
        for (block, &held) in (0..).zip(blocks) {
            let whose = |tag: u8, index: u8| {
                life.entries.iter().find(|entry| {
                    entry.tag == tag
                        && entry.start + u32::from(index) == block
                        && !entry.fate.is_reported_failed()
                })
            };
            let right = match held {
                Held::Zeros => !life.entries.iter().any(|entry| {
                    entry.covers(block) && acked(entry.tag) && entry.fate == Fate::Acked
                }),
                Held::Record(tag, index) => whose(tag, index).is_some(),
                Held::Torn => false,
            };
            ensure!(
                right,
                "a read shows what is acknowledged, and nothing of an earlier life",
                "zone {number}, block {block}: {held:?}"
            );
        }
        Ok(())
    }

    /// What a zone is after a power cut.
    pub(crate) fn survived(
        &self,
        number: usize,
        (state, wp): (ZoneState, u32),
        blocks: &[Held],
    ) -> Checked {
        let mut verdict = Ok(());
        for life in self.zones[number].lives.iter().rev() {
            let found = life.survived(number, (state, wp), blocks);
            if found.is_ok() {
                return Ok(());
            }
            verdict = verdict.and(found);
        }
        verdict
    }
}

impl Life {
    fn survived(&self, number: usize, (state, wp): (ZoneState, u32), blocks: &[Held]) -> Checked {
        let condemned = state == ZoneState::ReadOnly && self.condemned;
        ensure!(
            state == state_of(wp) || condemned,
            "after a cut a zone is empty, closed or full",
            "zone {number}: {state} at {wp}"
        );
        let kept = self.entries.iter().filter(|entry| entry.durable).map(Entry::end).max();
        let kept = if self.finish_durable { CAPACITY } else { kept.unwrap_or(0) };
        ensure!(
            wp >= kept,
            "nothing flushed is lost",
            "zone {number}: {wp} is below {kept}, which was flushed"
        );
        let ends = self.entries.iter().filter(|entry| entry.fate != Fate::Lost).map(Entry::end);
        let whole = wp == 0 || wp == CAPACITY && self.finished || ends.into_iter().any(|e| e == wp);
        ensure!(
            whole,
            "a zone ends at the end of a record, or at its capacity",
            "zone {number}: {wp}"
        );
        for (block, &held) in (0..).zip(blocks) {
            self.survived_block(number, wp, block, held)?;
        }
        for entry in self.entries.iter().filter(|entry| !entry.fate.is_reported_failed()) {
            let there = (0..).zip(blocks).filter(|&(block, held)| {
                entry.covers(block) && matches!(held, Held::Record(tag, _) if *tag == entry.tag)
            });
            let there = u32::try_from(there.count()).unwrap_or(u32::MAX);
            ensure!(
                there == 0 || there == entry.length,
                "a record is whole or not there",
                "zone {number}: {there} blocks of record {}",
                entry.tag
            );
        }
        Ok(())
    }

    fn survived_block(&self, number: usize, wp: u32, block: u32, held: Held) -> Checked {
        match held {
            Held::Zeros => {
                let lost = self.entries.iter().find(|entry| entry.durable && entry.covers(block));
                ensure!(
                    lost.is_none(),
                    "nothing flushed is lost",
                    "zone {number}, block {block} is zeros, {lost:?}"
                );
            }
            Held::Record(tag, index) => {
                let mut own = self.entries.iter().filter(|entry| !entry.fate.is_reported_failed());
                let own = own.any(|entry| {
                    entry.tag == tag && entry.start + u32::from(index) == block && block < wp
                });
                ensure!(
                    own,
                    "after a cut a zone holds its own records, or zeros",
                    "zone {number}, block {block} of {wp}: block {index} of record {tag}"
                );
            }
            Held::Torn => {
                return violation("a block is never torn", format!("zone {number}, {block}"));
            }
        }
        Ok(())
    }
}

fn state_of(wp: u32) -> ZoneState {
    match wp {
        0 => ZoneState::Empty,
        CAPACITY => ZoneState::Full,
        _ => ZoneState::Closed,
    }
}
