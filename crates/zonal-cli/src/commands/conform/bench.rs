//! What rules work with: the drive, the zones they may use, single requests with a deadline, and a
//! place for what they find.
//!
//! Invariants: only zones of the range are touched; each rule begins with zones of its own choice
//! that it resets itself; one request of [`Bench::call`] is in flight at a time.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

use zonal::{Buffer, Completion, ErrorKind, Geometry, Limits, ZoneInfo, ZoneKind, ZoneState};

use super::{
    appends::Campaign,
    pattern::{self, Found, Stamp},
    peer::{Call, Lane, Peer},
    verdict::{Checked, Fault, Stop, fault, not_applicable},
};
use crate::{
    args::format_size,
    output::plural,
    signals::Interrupt,
    zones::{is_active, takes_data},
};

/// Why a situation was left out: there was no more time for it.
pub(super) const TIME_UP: &str = "the time was up";

/// The same: the user has stopped the run.
const INTERRUPTED: &str = "the run was interrupted";

/// Room of the lane for single requests, and for reading back.
pub(super) const LANE_DEPTH: u32 = 32;

/// The longest request by which a zone is filled or looked through.
const PIECE: u64 = 1 << 20;

/// How a run is bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long one request may take.
    pub(super) deadline: Duration,
    /// How long the whole run may take, roughly: what takes long is left out when it is over.
    pub(super) runtime: Duration,
    /// Larger zones are not filled.
    pub(super) fill_bytes: u64,
    /// Records of one situation of the campaign.
    pub(super) records: usize,
    /// Bytes of one situation of the campaign.
    pub(super) bytes: u64,
    /// Whether every depth meets every size and number of threads.
    pub(super) every: bool,
}

impl Bounds {
    /// Two minutes at most, on a drive of common speed.
    pub(super) const fn short(deadline: Duration) -> Self {
        Self {
            deadline,
            runtime: Duration::from_secs(100),
            fill_bytes: 4 << 30,
            records: 1024,
            bytes: 32 << 20,
            every: false,
        }
    }

    /// For those who have half an hour.
    pub(super) const fn long(deadline: Duration) -> Self {
        Self {
            deadline,
            runtime: Duration::from_secs(30 * 60),
            fill_bytes: 1 << 40,
            records: 16384,
            bytes: 256 << 20,
            every: true,
        }
    }
}

/// What one rule has said.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// What should not be.
    pub(super) faults: Vec<Fault>,
    /// What the drive does where there is a choice.
    pub(super) does: Vec<String>,
}

/// What zones outside of the range have of the limits.
#[derive(Clone, Copy, Debug, Default)]
struct Outside {
    open: usize,
    active: usize,
}

/// A drive on the bench.
pub(super) struct Bench<'a> {
    /// The drive.
    pub(super) peer: &'a dyn Peer,
    /// How far to go.
    pub(super) bounds: Bounds,
    /// Of the rule at hand.
    pub(super) notes: Notes,
    /// What the appends have shown, once they were made.
    pub(super) campaign: Option<Campaign>,
    /// Whether the user has asked to stop.
    pub(super) interrupt: Option<Interrupt>,
    /// Sequential zones that can take data, of those it may touch.
    zones: Vec<u32>,
    /// All zones it may touch.
    range: Range<u32>,
    outside: Outside,
    lane: Option<Box<dyn Lane + 'a>>,
    run: u64,
    records: u64,
    random: u64,
    until: Instant,
}

impl<'a> Bench<'a> {
    /// Of the zones of `range`; `run` is a number that no other run has.
    pub(super) fn new(
        peer: &'a dyn Peer,
        range: Range<u32>,
        bounds: Bounds,
        seed: u64,
        run: u64,
    ) -> zonal::Result<Self> {
        let (report, others): (Vec<_>, Vec<_>) = peer
            .report(0..peer.geometry().zones())?
            .into_iter()
            .partition(|zone| range.contains(&zone.zone));
        let outside = Outside {
            open: others.iter().filter(|zone| zone.state.is_open()).count(),
            active: others.iter().filter(|zone| is_active(zone.state)).count(),
        };
        let is_usable = |zone: &&ZoneInfo| {
            zone.kind == ZoneKind::Sequential
                && (takes_data(zone.state) || zone.state == ZoneState::Full)
        };
        Ok(Self {
            peer,
            bounds,
            notes: Notes::default(),
            campaign: None,
            interrupt: None,
            zones: report.iter().filter(is_usable).map(|zone| zone.zone).collect(),
            range,
            outside,
            lane: None,
            run,
            records: 0,
            random: seed,
            until: Instant::now() + bounds.runtime,
        })
    }

    /// The sequential zones that rules may use.
    pub(super) fn zones(&self) -> &[u32] {
        &self.zones
    }

    /// All zones that rules may touch.
    pub(super) fn range(&self) -> Range<u32> {
        self.range.clone()
    }

    /// Whether that is every zone of the drive.
    pub(super) fn has_whole_drive(&self) -> bool {
        self.range == (0..self.geometry().zones())
    }

    /// The drive's shape.
    pub(super) fn geometry(&self) -> &'a Geometry {
        self.peer.geometry()
    }

    /// What the drive says it can do.
    pub(super) fn limits(&self) -> Limits {
        self.peer.limits()
    }

    /// Bytes of a block.
    pub(super) fn block(&self) -> u64 {
        u64::from(self.geometry().block_size)
    }

    /// Whether somebody wants an end.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupt.as_ref().is_some_and(Interrupt::came)
    }

    /// Why nothing more is begun; none while there is time, and nobody wants an end.
    pub(super) fn at_its_end(&self) -> Option<&'static str> {
        match (self.is_interrupted(), Instant::now() < self.until) {
            (true, _) => Some(INTERRUPTED),
            (false, true) => None,
            (false, false) => Some(TIME_UP),
        }
    }

    /// A number below `below`, from the seed (splitmix64).
    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    /// Records a fault, and goes on.
    pub(super) fn fault(&mut self, case: &str, text: impl Into<String>) {
        self.notes.faults.push(Fault { case: case.into(), text: text.into() });
    }

    /// Records a fault unless `kept`.
    pub(super) fn expect(&mut self, kept: bool, case: &str, text: impl FnOnce() -> String) {
        if !kept {
            self.fault(case, text());
        }
    }

    /// Records what the drive does where there is a choice.
    pub(super) fn does(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.notes.does.contains(&what) {
            self.notes.does.push(what);
        }
    }

    /// The stamp of the next record.
    pub(super) fn stamp(&mut self, zone: u32) -> Stamp {
        self.records += 1;
        Stamp { run: self.run, record: self.records, zone }
    }

    /// A record of so many bytes.
    pub(super) fn record(&mut self, zone: u32, length: u64) -> (Stamp, Buffer) {
        let stamp = self.stamp(zone);
        let mut data = Buffer::unpooled(usize::try_from(length).unwrap_or(usize::MAX));
        pattern::fill(&mut data, stamp);
        (stamp, data)
    }

    /// An append of so many blocks.
    pub(super) fn append(&mut self, zone: u32, blocks: u64) -> Call {
        let (_, data) = self.record(zone, blocks * self.block());
        Call::Append { zone, data }
    }

    /// A write of so many blocks.
    pub(super) fn write(&mut self, zone: u32, offset: u64, blocks: u64) -> Call {
        let (_, data) = self.record(zone, blocks * self.block());
        Call::Write { offset, data }
    }

    /// One request and its completion.
    pub(super) fn call(&mut self, call: Call) -> Checked<Completion> {
        let (words, length) = (call.to_string(), call.length());
        let until = Instant::now() + self.bounds.deadline;
        let tag = self.random(u64::MAX);
        let lane = self.lane()?;
        lane.push(tag, call);
        let ended = lane.take(until).map_err(|error| Stop::Fault(format!("{words}: {error}")))?;
        let Some(ended) = ended else {
            return Err(Stop::Hung(hung(words, self.bounds.deadline)));
        };
        judge_completion(&ended, tag, length)
            .map_err(|seen| Stop::Fault(format!("{words}: its completion {seen}")))?;
        Ok(ended)
    }

    /// One request that must succeed.
    pub(super) fn ok(&mut self, call: Call) -> Checked<Completion> {
        let words = call.to_string();
        let ended = self.call(call)?;
        match &ended.result {
            Ok(_) => Ok(ended),
            Err(error) => fault(format!("{words}: {error}")),
        }
    }

    /// One request that must be refused with one of `kinds`, and change nothing in `zone`.
    pub(super) fn refused(
        &mut self,
        case: &str,
        zone: Option<u32>,
        call: Call,
        kinds: &[ErrorKind],
    ) -> Checked {
        let words = call.to_string();
        let before = zone.map(|zone| self.zone(zone)).transpose()?;
        let ended = self.call(call)?;
        let state = before.map(|zone| format!(" ({})", describe(&zone))).unwrap_or_default();
        match &ended.result {
            Ok(_) => self.fault(
                case,
                format!("{words}{state} succeeded; it has to be refused as {}", words_of(kinds)),
            ),
            Err(error) if !kinds.contains(&error.kind()) => self.fault(
                case,
                format!(
                    "{words}{state} was refused as “{}”, not as {}",
                    error.kind(),
                    words_of(kinds)
                ),
            ),
            Err(_) => {}
        }
        if let Some(before) = before {
            let after = self.zone(before.zone)?;
            self.expect(after == before, case, || {
                format!(
                    "{words} was refused, and yet: {} before, {} after",
                    describe(&before),
                    describe(&after)
                )
            });
        }
        Ok(())
    }

    /// What is reported of a zone.
    pub(super) fn zone(&self, zone: u32) -> Checked<ZoneInfo> {
        let report = self.report(zone..zone + 1)?;
        match report[..] {
            [info] if info.zone == zone => Ok(info),
            _ => fault(format!("the report of zone {zone} holds {}", plural(report.len(), "zone"))),
        }
    }

    /// What is reported of these zones.
    pub(super) fn report(&self, zones: Range<u32>) -> Checked<Vec<ZoneInfo>> {
        let words = format!("report of zones {}..{}", zones.start, zones.end);
        self.peer.report(zones).map_err(|error| Stop::Fault(format!("{words}: {error}")))
    }

    /// A zone must be in `state`, with its write pointer `written` bytes above its start; of a full
    /// zone the write pointer means nothing.
    pub(super) fn expect_zone(
        &mut self,
        case: &str,
        zone: u32,
        state: ZoneState,
        written: u64,
    ) -> Checked {
        let info = self.zone(zone)?;
        let wp = info.start + written;
        let kept =
            info.state == state && (state == ZoneState::Full || info.write_pointer == Some(wp));
        self.expect(kept, case, || {
            format!("{} where {state} with its write pointer at {wp} was expected", describe(&info))
        });
        Ok(())
    }

    /// How many zones may be open and active at once, by the limits, what zones outside of the range
    /// have of them, and how many zones there are.
    pub(super) fn room(&self) -> (usize, usize) {
        let left = |limit: Option<u32>, used: usize| {
            limit.map_or(usize::MAX, |limit| (limit as usize).saturating_sub(used).max(1))
        };
        let Limits { max_open_zones, max_active_zones, .. } = self.limits();
        let active = left(max_active_zones, self.outside.active).min(self.zones.len());
        (left(max_open_zones, self.outside.open).min(active), active)
    }

    /// Empties every zone that rules may use, and returns the first `count` that take at least
    /// `blocks` blocks.
    pub(super) fn fresh(&mut self, count: usize, blocks: u64) -> Checked<Vec<ZoneInfo>> {
        self.empty_all()?;
        let wanted = blocks * self.block();
        let mut zones = self.usable()?;
        zones.retain(|zone| zone.capacity >= wanted);
        zones.truncate(count);
        if zones.len() < count {
            return not_applicable(format!(
                "it needs {} of {} or more; there {}",
                plural(count, "sequential zone"),
                plural(usize::try_from(blocks).unwrap_or(usize::MAX), "block"),
                if zones.len() == 1 { "is 1".into() } else { format!("are {}", zones.len()) }
            ));
        }
        Ok(zones)
    }

    /// One such zone.
    pub(super) fn fresh_zone(&mut self, blocks: u64) -> Checked<ZoneInfo> {
        Ok(self.fresh(1, blocks)?[0])
    }

    /// What is reported of the zones that rules may use.
    pub(super) fn usable(&self) -> Checked<Vec<ZoneInfo>> {
        let mut report = self.report(self.range())?;
        report.retain(|zone| self.zones.binary_search(&zone.zone).is_ok());
        Ok(report)
    }

    /// Resets the zones that are not empty.
    pub(super) fn empty_all(&mut self) -> Checked {
        for zone in self.usable()? {
            if zone.state != ZoneState::Empty {
                self.ok(Call::Reset(zone.zone))?;
            }
        }
        Ok(())
    }

    /// The limits can only be looked at when nobody else has zones open.
    pub(super) fn alone(&self) -> Checked {
        match self.outside.active {
            0 => Ok(()),
            count => not_applicable(format!(
                "{} outside of --zones {} open or closed, and count against the limits",
                plural(count, "zone"),
                if count == 1 { "is" } else { "are" }
            )),
        }
    }

    /// Makes a zone full.
    pub(super) fn make_full(&mut self, zone: u32) -> Checked {
        if self.limits().finish {
            self.ok(Call::Finish(zone)).map(drop)
        } else {
            self.fill(zone, 0)
        }
    }

    /// Appends to a zone until `leave` bytes are left.
    pub(super) fn fill(&mut self, zone: u32, leave: u64) -> Checked {
        let info = self.zone(zone)?;
        let Some(wp) = info.write_pointer else {
            return fault(format!("{}, and no write pointer", describe(&info)));
        };
        let end = info.start + info.capacity;
        let mut left = end.saturating_sub(wp).saturating_sub(leave);
        if left > self.bounds.fill_bytes {
            return not_applicable(format!(
                "zone {zone} takes {}, which is more than is filled here",
                format_size(info.capacity)
            ));
        }
        let block = self.block();
        let most = self.limits().append_bytes_max.min(PIECE);
        let piece = (most - most % block).max(block);
        let mut lens = std::iter::from_fn(|| {
            let length = left.min(piece);
            left -= length;
            (length > 0).then_some(length)
        });
        let next = |bench: &mut Self| {
            lens.next().map(|length| {
                let (_, data) = bench.record(zone, length);
                Call::Append { zone, data }
            })
        };
        self.stream(next, |_, words, ended| match ended.result {
            Ok(_) => Ok(()),
            Err(error) => fault(format!("{words}: {error}")),
        })
    }

    /// Runs what `next` gives, many at a time. When it gives up, what is in flight is waited for.
    pub(super) fn stream(
        &mut self,
        next: impl FnMut(&mut Self) -> Option<Call>,
        each: impl FnMut(&mut Self, &str, Completion) -> Checked,
    ) -> Checked {
        self.stream_on(next, each).inspect_err(|_| self.lane = None)
    }

    fn stream_on(
        &mut self,
        mut next: impl FnMut(&mut Self) -> Option<Call>,
        mut each: impl FnMut(&mut Self, &str, Completion) -> Checked,
    ) -> Checked {
        let mut under_way: BTreeMap<u64, (String, usize)> = BTreeMap::new();
        let mut tag = 0;
        loop {
            while under_way.len() < LANE_DEPTH as usize {
                match self.at_its_end() {
                    None => {}
                    Some(TIME_UP) => {
                        return not_applicable(format!("{TIME_UP} before; --long has more"));
                    }
                    Some(why) => return not_applicable(format!("{why} before")),
                }
                let Some(call) = next(self) else { break };
                tag += 1;
                under_way.insert(tag, (call.to_string(), call.length()));
                self.lane()?.push(tag, call);
            }
            let Some((_, (oldest, _))) = under_way.first_key_value() else { return Ok(()) };
            let deadline = self.bounds.deadline;
            let ended = self.lane.as_mut().map(|lane| lane.take(Instant::now() + deadline));
            let ended = match ended {
                Some(Ok(Some(ended))) => ended,
                Some(Err(error)) => return fault(format!("{oldest}: {error}")),
                Some(Ok(None)) | None => return Err(Stop::Hung(hung(oldest, deadline))),
            };
            let Some((words, length)) = under_way.remove(&ended.tag) else {
                return fault(format!("a completion has the tag {}, which none has", ended.tag));
            };
            judge_completion(&ended, ended.tag, length)
                .map_err(|seen| Stop::Fault(format!("{words}: its completion {seen}")))?;
            each(self, &words, ended)?;
        }
    }

    /// Reads so many bytes.
    pub(super) fn read(&mut self, offset: u64, length: u64) -> Checked<Buffer> {
        let into = Buffer::unpooled(usize::try_from(length).unwrap_or(usize::MAX));
        let call = Call::Read { offset, into };
        let words = call.to_string();
        match self.ok(call)?.buffer {
            Some(buffer) => Ok(buffer),
            None => fault(format!("{words}: its buffer did not come back")),
        }
    }

    /// The record must stand at `offset`.
    pub(super) fn expect_record(&mut self, offset: u64, length: u64, stamp: Stamp) -> Checked {
        let bytes = self.read(offset, length)?;
        match pattern::examine(&bytes, stamp, self.geometry().block_size) {
            Found::Whole => {}
            Found::Torn(what) => self.fault(
                "contents",
                format!("the record at {offset} in zone {} is torn: {what}", stamp.zone),
            ),
            Found::Other(what) => self.fault(
                "contents",
                format!(
                    "where the record at {offset} in zone {} was put there is {what}",
                    stamp.zone
                ),
            ),
        }
        Ok(())
    }

    /// A range must read as zeros.
    pub(super) fn expect_zeros(&mut self, what: &str, range: Range<u64>) -> Checked {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(PIECE);
            let bytes = self.read(at, length)?;
            let found = pattern::first_not_zero(&bytes, self.run, self.geometry().block_size);
            if let Some((distance, found)) = found {
                let offset = at + distance as u64;
                self.fault(
                    "contents",
                    format!("{what}: zeros expected at {offset}, found {found}"),
                );
                return Ok(());
            }
            at += length;
        }
        Ok(())
    }

    /// Looks for zeros at both ends of a range that may be too long to be read.
    pub(super) fn expect_zeros_at_ends(&mut self, what: &str, range: Range<u64>) -> Checked {
        let middle = range.end.saturating_sub(PIECE).max(range.start);
        self.expect_zeros(what, range.start..range.end.min(range.start + PIECE))?;
        self.expect_zeros(what, middle..range.end)
    }

    /// Whether the run is to stop asking the drive: after a request that hung.
    pub(super) fn forget_lane(&mut self) {
        self.lane = None;
    }

    fn lane(&mut self) -> Checked<&mut Box<dyn Lane + 'a>> {
        if self.lane.is_none() {
            let lane = self.peer.lane(LANE_DEPTH);
            self.lane = Some(lane.map_err(|error| Stop::Fault(error.to_string()))?);
        }
        match &mut self.lane {
            Some(lane) => Ok(lane),
            None => fault("there is no queue"),
        }
    }
}

/// What is said of a request that did not end.
pub(super) fn hung(words: impl fmt::Display, deadline: Duration) -> String {
    format!("{words} did not end within {} s", deadline.as_secs_f64())
}

/// Holds a completion against its request: tag, buffer, number of bytes.
///
/// # Errors
/// What is wrong with it.
pub(super) fn judge_completion(ended: &Completion, tag: u64, length: usize) -> Result<(), String> {
    if ended.tag != tag {
        return Err(format!("has the tag {}, not its own, {tag}", ended.tag));
    }
    let back = ended.buffer.as_ref().map(|buffer| buffer.len());
    if back != (length > 0).then_some(length) && !(length == 0 && back == Some(0)) {
        let back = back.map_or("no buffer".into(), |len| format!("a buffer of {len} bytes"));
        return Err(format!("brings back {back}, and {length} bytes were sent"));
    }
    match ended.result {
        Ok(bytes) if bytes as usize != length => {
            Err(format!("says that {bytes} bytes were moved, of {length}"))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A zone in a few words.
pub(super) fn describe(zone: &ZoneInfo) -> String {
    let ZoneInfo { zone, state, write_pointer, .. } = zone;
    match write_pointer {
        Some(wp) => format!("zone {zone} is {state} with its write pointer at {wp}"),
        None => format!("zone {zone} is {state}"),
    }
}

/// The kinds a refusal may have, for people.
fn words_of(kinds: &[ErrorKind]) -> String {
    let words: Vec<String> = kinds.iter().map(|kind| format!("“{kind}”")).collect();
    words.join(" or ")
}
