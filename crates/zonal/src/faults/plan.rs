//! What a plan says, and how it is written.

use crate::target::size;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::zone::ZoneState;

/// The words of a plan, for who writes one that there is not.
const WORDS: &str = "seed, fail-write, tear-write, fail-read, fail-sync, bad, bad-read, bad-write, \
                     read-only, offline, latency, read-latency, write-latency, sync-latency, \
                     short-per-mille, fail-per-mille, space, cut and kill";

/// Those of which a plan may have several.
const SEVERAL: [&str; 9] = [
    "fail-write",
    "tear-write",
    "fail-read",
    "fail-sync",
    "bad",
    "bad-read",
    "bad-write",
    "read-only",
    "offline",
];

/// What goes wrong on a drive, and when. By default nothing does.
///
/// Built by its methods, or parsed from the words that [the module](crate::faults) lists; shown as
/// those words.
///
/// ```
/// use zonal::faults::FaultPlan;
///
/// let plan: FaultPlan = "tear-write=3,latency=1ms..5ms,cut=10..200,seed=42".parse()?;
/// let ms = std::time::Duration::from_millis;
/// let same = FaultPlan::new().tear_write(3).latency(ms(1)..ms(5)).cut_within(10..200).seed(42);
/// assert_eq!(plan, same);
/// assert_eq!(plan.to_string().parse::<FaultPlan>()?, plan);
///
/// let error = "fail-wirte=3".parse::<FaultPlan>().unwrap_err();
/// assert!(error.to_string().contains("`fail-wirte` is no word of a fault plan; there are seed,"));
/// # Ok::<(), zonal::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct FaultPlan {
    pub(super) seed: u64,
    pub(super) fail_writes: Vec<u64>,
    pub(super) tear_writes: Vec<u64>,
    pub(super) fail_reads: Vec<u64>,
    pub(super) fail_syncs: Vec<u64>,
    pub(super) bad: Vec<Bad>,
    pub(super) zones: Vec<ZoneFault>,
    pub(super) latency: Option<Range<Duration>>,
    pub(super) read_latency: Option<Range<Duration>>,
    pub(super) write_latency: Option<Range<Duration>>,
    pub(super) sync_latency: Option<Range<Duration>>,
    pub(super) short_per_mille: u16,
    pub(super) fail_per_mille: u16,
    pub(super) space: Option<u64>,
    pub(super) cut: Option<Range<u64>>,
    pub(super) kill: Option<Range<u64>>,
}

/// A range of the drive that cannot be used, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) bytes: Range<u64>,
    pub(super) reads: bool,
    pub(super) writes: bool,
}

impl Bad {
    fn word(&self) -> &'static str {
        match (self.reads, self.writes) {
            (true, false) => "bad-read",
            (false, true) => "bad-write",
            (true, true) | (false, false) => "bad",
        }
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}..{}", self.word(), self.bytes.start, self.bytes.end)
    }
}

/// A zone that becomes unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZoneFault {
    pub(crate) zone: u32,
    /// Read-only or offline.
    pub(crate) condition: ZoneState,
    /// So many operations go before; `None`: from the opening on.
    pub(crate) after: Option<u64>,
}

impl FaultPlan {
    /// Of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing goes wrong by it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { seed: self.seed, ..Self::default() }
    }

    /// What all chances follow from.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The `nth` write of data, counted from 1, fails without any effect.
    pub fn fail_write(mut self, nth: u64) -> Self {
        self.fail_writes.push(nth);
        self
    }

    /// The `nth` write of data, counted from 1, fails after some whole blocks of it, or none.
    pub fn tear_write(mut self, nth: u64) -> Self {
        self.tear_writes.push(nth);
        self
    }

    /// The `nth` read of data, counted from 1, fails.
    pub fn fail_read(mut self, nth: u64) -> Self {
        self.fail_reads.push(nth);
        self
    }

    /// The `nth` sync, counted from 1, fails: what it should have covered is in doubt for good.
    pub fn fail_sync(mut self, nth: u64) -> Self {
        self.fail_syncs.push(nth);
        self
    }

    /// Reads, writes and zeroing of bytes in this range of the drive fail.
    pub fn bad(self, bytes: Range<u64>) -> Self {
        self.with_bad(Bad { bytes, reads: true, writes: true })
    }

    /// Reads of bytes in this range of the drive fail.
    pub fn bad_reads(self, bytes: Range<u64>) -> Self {
        self.with_bad(Bad { bytes, reads: true, writes: false })
    }

    /// Writes and zeroing of bytes in this range of the drive fail.
    pub fn bad_writes(self, bytes: Range<u64>) -> Self {
        self.with_bad(Bad { bytes, reads: false, writes: true })
    }

    fn with_bad(mut self, bad: Bad) -> Self {
        self.bad.push(bad);
        self
    }

    /// A sequential zone is read-only: from the opening on, or after so many operations, once
    /// nothing is in flight in it.
    pub fn read_only(self, zone: u32, after: Option<u64>) -> Self {
        self.with_zone(zone, ZoneState::ReadOnly, after)
    }

    /// A sequential zone is offline: from the opening on, or after so many operations, once nothing
    /// is in flight in it.
    pub fn offline(self, zone: u32, after: Option<u64>) -> Self {
        self.with_zone(zone, ZoneState::Offline, after)
    }

    fn with_zone(mut self, zone: u32, condition: ZoneState, after: Option<u64>) -> Self {
        self.zones.push(ZoneFault { zone, condition, after });
        self
    }

    /// Each operation takes a random time in this range, or exactly its start if it is empty. A
    /// queue under such a plan asks not to be slept on in `poll`: see
    /// [`Queue::prepare_to_poll`](crate::Queue::prepare_to_poll).
    pub fn latency(self, time: Range<Duration>) -> Self {
        Self { latency: Some(time), ..self }
    }

    /// Likewise each read, whatever [`FaultPlan::latency`] says.
    pub fn read_latency(self, time: Range<Duration>) -> Self {
        Self { read_latency: Some(time), ..self }
    }

    /// Likewise each write and zeroing.
    pub fn write_latency(self, time: Range<Duration>) -> Self {
        Self { write_latency: Some(time), ..self }
    }

    /// Likewise each sync.
    pub fn sync_latency(self, time: Range<Duration>) -> Self {
        Self { sync_latency: Some(time), ..self }
    }

    /// Of 1000 reads and writes of data so many end after some of their blocks, without an error.
    /// Zonal goes on with the rest, as it does on a real disk.
    pub fn short(self, per_mille: u16) -> Self {
        Self { short_per_mille: per_mille.min(1000), ..self }
    }

    /// Of 1000 operations so many fail.
    pub fn fail(self, per_mille: u16) -> Self {
        Self { fail_per_mille: per_mille.min(1000), ..self }
    }

    /// What would be written beyond so many bytes of data finds no space. Resets give none back.
    pub fn space(self, bytes: u64) -> Self {
        Self { space: Some(bytes), ..self }
    }

    /// The power is cut after so many operations.
    pub fn cut(self, after: u64) -> Self {
        self.cut_within(after..after.saturating_add(1))
    }

    /// The power is cut after a number of operations in this range, which follows from the seed.
    pub fn cut_within(self, after: Range<u64>) -> Self {
        Self { cut: Some(after), ..self }
    }

    /// The process is as good as killed after so many operations.
    pub fn kill(self, after: u64) -> Self {
        self.kill_within(after..after.saturating_add(1))
    }

    /// The same, after a number of operations in this range, which follows from the seed.
    pub fn kill_within(self, after: Range<u64>) -> Self {
        Self { kill: Some(after), ..self }
    }

    fn say(self, name: &str, value: &str) -> Result<Self> {
        let plan = match name {
            "seed" => self.seed(number(name, value)?),
            "fail-write" => self.fail_write(nth(name, value)?),
            "tear-write" => self.tear_write(nth(name, value)?),
            "fail-read" => self.fail_read(nth(name, value)?),
            "fail-sync" => self.fail_sync(nth(name, value)?),
            "bad" => self.bad(bytes(name, value)?),
            "bad-read" => self.bad_reads(bytes(name, value)?),
            "bad-write" => self.bad_writes(bytes(name, value)?),
            "read-only" | "offline" => {
                let (zone, after) = zone(name, value)?;
                let offline = name == "offline";
                if offline { self.offline(zone, after) } else { self.read_only(zone, after) }
            }
            "latency" => self.latency(times(name, value)?),
            "read-latency" => self.read_latency(times(name, value)?),
            "write-latency" => self.write_latency(times(name, value)?),
            "sync-latency" => self.sync_latency(times(name, value)?),
            "short-per-mille" => self.short(per_mille(name, value)?),
            "fail-per-mille" => self.fail(per_mille(name, value)?),
            "space" => self.space(size(value)?),
            "cut" => self.cut_within(counts(name, value)?),
            "kill" => self.kill_within(counts(name, value)?),
            other => {
                return Err(invalid(format!(
                    "`{other}` is no word of a fault plan; there are {WORDS}"
                )));
            }
        };
        Ok(plan)
    }
}

impl FromStr for FaultPlan {
    type Err = Error;

    /// # Errors
    /// `InvalidInput`: a word that there is not, one that is said twice, or a value that cannot be;
    /// the error names it.
    fn from_str(text: &str) -> Result<Self> {
        let mut said = BTreeSet::new();
        let words = text.split(',').filter(|word| !word.is_empty());
        words.into_iter().try_fold(Self::new(), |plan, word| {
            let (name, value) = word.split_once('=').ok_or_else(|| {
                invalid(format!(
                    "`{word}` has no value; write name=value, where the names are {WORDS}"
                ))
            })?;
            if !SEVERAL.contains(&name) && !said.insert(name) {
                return Err(invalid(format!("a fault plan has one `{name}`; leave one out")));
            }
            plan.say(name, value)
        })
    }
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let counted = [
            ("fail-write", &self.fail_writes),
            ("tear-write", &self.tear_writes),
            ("fail-read", &self.fail_reads),
            ("fail-sync", &self.fail_syncs),
        ];
        for (name, numbers) in counted {
            words.extend(numbers.iter().map(|number| format!("{name}={number}")));
        }
        words.extend(self.bad.iter().map(Bad::to_string));
        words.extend(self.zones.iter().map(ZoneFault::to_string));
        let times = [
            ("latency", &self.latency),
            ("read-latency", &self.read_latency),
            ("write-latency", &self.write_latency),
            ("sync-latency", &self.sync_latency),
        ];
        for (name, time) in times {
            words.extend(time.as_ref().map(|time| format!("{name}={}", shown_times(time))));
        }
        let chances =
            [("short-per-mille", self.short_per_mille), ("fail-per-mille", self.fail_per_mille)];
        words.extend(chances.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}")));
        words.extend(self.space.map(|space| format!("space={space}")));
        for (name, after) in [("cut", &self.cut), ("kill", &self.kill)] {
            words.extend(after.as_ref().map(|after| format!("{name}={}", shown_counts(after))));
        }
        if self.seed != 0 {
            words.push(format!("seed={}", self.seed));
        }
        f.write_str(&words.join(","))
    }
}

impl fmt::Display for ZoneFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.condition == ZoneState::Offline { "offline" } else { "read-only" };
        write!(f, "{word}={}", self.zone)?;
        self.after.map_or(Ok(()), |after| write!(f, "@{after}"))
    }
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidInput, text)
}

fn wrong(name: &str, value: &str, like: &str) -> Error {
    invalid(format!("`{value}` is no value of `{name}` in a fault plan; write it like {like}"))
}

fn number(name: &str, value: &str) -> Result<u64> {
    value.parse().map_err(|_| wrong(name, value, "7"))
}

fn nth(name: &str, value: &str) -> Result<u64> {
    number(name, value).and_then(|nth| match nth {
        0 => Err(wrong(name, value, "1, which is the first")),
        nth => Ok(nth),
    })
}

fn per_mille(name: &str, value: &str) -> Result<u16> {
    let chance = value.parse().ok().filter(|&chance| chance <= 1000);
    chance.ok_or_else(|| wrong(name, value, "20, which is 2 of 100; 1000 is always"))
}

fn bytes(name: &str, value: &str) -> Result<Range<u64>> {
    let like = || wrong(name, value, "64M..65M, with the end behind the start");
    let (from, to) = value.split_once("..").ok_or_else(like)?;
    let bytes = size(from)?..size(to)?;
    if bytes.is_empty() { Err(like()) } else { Ok(bytes) }
}

fn zone(name: &str, value: &str) -> Result<(u32, Option<u64>)> {
    let like = || wrong(name, value, "3, or 3@100 for after 100 operations");
    let (zone, after) = match value.split_once('@') {
        Some((zone, after)) => (zone, Some(after.parse().map_err(|_| like())?)),
        None => (value, None),
    };
    Ok((zone.parse().map_err(|_| like())?, after))
}

fn counts(name: &str, value: &str) -> Result<Range<u64>> {
    let like = || wrong(name, value, "100, or 10..200, with the end behind the start");
    let parse = |text: &str| text.parse::<u64>().map_err(|_| like());
    match value.split_once("..") {
        Some((from, to)) => {
            let range = parse(from)?..parse(to)?;
            if range.is_empty() { Err(like()) } else { Ok(range) }
        }
        None => parse(value).map(|after| after..after.saturating_add(1)),
    }
}

fn shown_counts(range: &Range<u64>) -> String {
    if range.end == range.start.saturating_add(1) {
        return range.start.to_string();
    }
    format!("{}..{}", range.start, range.end)
}

fn times(name: &str, value: &str) -> Result<Range<Duration>> {
    let like = || wrong(name, value, "5ms, or 100us..2ms; units are ns, us, ms and s");
    let (from, to) = value.split_once("..").unwrap_or((value, value));
    let range = time(from).ok_or_else(like)?..time(to).ok_or_else(like)?;
    if range.start > range.end { Err(like()) } else { Ok(range) }
}

const UNITS: [(&str, u64); 4] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];

fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*nanos).map(Duration::from_nanos)
}

fn shown_times(range: &Range<Duration>) -> String {
    if range.start == range.end {
        return shown_time(range.start);
    }
    format!("{}..{}", shown_time(range.start), shown_time(range.end))
}

/// In the largest unit that it is a whole number of.
fn shown_time(time: Duration) -> String {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let fits = |(_, unit): &&(&str, u64)| nanos.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().find(fits).unwrap_or(&UNITS[3]);
    format!("{}{name}", nanos / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_word_is_read_and_shown() {
        let text = "fail-write=7,fail-write=9,tear-write=1,fail-read=2,fail-sync=3,bad=0..4096,\
                    bad-read=4096..8192,bad-write=8192..12288,read-only=3,offline=4@100,\
                    latency=1ms..5ms,read-latency=500us,write-latency=1s,sync-latency=3ns,\
                    short-per-mille=20,fail-per-mille=1000,space=65536,cut=10..200,kill=5,seed=42";
        let plan: FaultPlan = text.parse().unwrap();
        assert_eq!(plan.to_string(), text);
        for word in WORDS.replace(" and ", ", ").split(", ") {
            assert!(text.contains(&format!("{word}=")), "{word}");
        }
    }

    #[test]
    fn what_is_no_plan_is_refused_by_name() {
        for (text, words) in [
            ("fail-wirte=1", "`fail-wirte` is no word of a fault plan; there are seed, fail-write"),
            ("cut", "`cut` has no value"),
            ("fail-write=0", "`0` is no value of `fail-write`"),
            ("fail-per-mille=1001", "`1001`"),
            ("bad=5", "`5` is no value of `bad`"),
            ("bad=8K..4K", "end behind the start"),
            ("bad=1Q..2Q", "`1Q` is no size"),
            ("offline=x@3", "`x@3`"),
            ("latency=5", "units are ns, us, ms and s"),
            ("latency=5ms..1ms", "`5ms..1ms`"),
            ("cut=9..9", "`9..9`"),
            ("kill=-1", "`-1`"),
        ] {
            let error = text.parse::<FaultPlan>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_shown_reads_back(
            text in "((seed|cut|kill|bad|offline|latency|space|fail-write)=[0-9.@KMms]{0,9},?){0,4}"
        ) {
            if let Ok(plan) = text.parse::<FaultPlan>() {
                prop_assert_eq!(plan.to_string().parse::<FaultPlan>().unwrap(), plan);
            }
        }
    }
}
