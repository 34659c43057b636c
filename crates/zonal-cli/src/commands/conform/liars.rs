//! Drives that lie, and honest ones: the checker's own tests.
//!
//! A liar is a drive in memory behind a wrapper that changes requests on their way in, or completions
//! and reports on their way out. The checker that looks at it is the one that ships. Each lie has to
//! be caught by the rule that names it, and each rule by some lie; honest drives have to pass.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use zonal::{
    Buffer, Completion, CreateOptions, Device, Error, ErrorKind, Geometry, Limits, OpenOptions,
    Preallocate, Result, Target, ZoneInfo, ZoneState,
};

use super::{
    bench::{Bench, Bounds},
    peer::{Call, Lane, Peer},
    rules::{self, RULES},
    verdict::{Row, Verdict},
};

/// What is untrue about a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Nothing.
    Honest,
    /// Every append is reported at offset 0.
    OffsetZero,
    /// Two appends of one zone are reported at each other's places.
    Neighbour,
    /// Every few appends, a record is put where another already is.
    Overlap,
    /// Every few appends, a block is left out.
    Gap,
    /// Every few appends, the second half of the record is missing.
    Torn,
    /// The report's write pointer is a block too high.
    MovedPointer,
    /// Writes and ordered appends are reported at each other's places.
    Shuffled,
    /// Where there are zeros, something else is read.
    Garbage,
    /// What is refused is reported as done.
    Yes,
    /// Whatever goes wrong is called an I/O error.
    WrongKind,
    /// Every request fails.
    Broken,
    /// An ordered append, one of many in flight, never ends.
    Silent,
    /// Closing a zone never ends.
    Mute,
    /// The 150th append of a thread never ends.
    Lost,
    /// Buffers do not come back.
    Keeps,
    /// The limits that are stated are half of those that hold.
    Loose,
    /// All states are reported as explicitly open.
    WrongState,
    /// Explicitly open zones are reported as closed.
    Forgets,
    /// A report of some zones is that of their neighbours.
    WrongReport,
    /// Zones take more than they have, and more of them are open than active.
    WrongShape,
    /// The generation never changes.
    Ageless,
    /// Reset-all does nothing.
    Idle,
    /// No zone can be finished, though the drive says so.
    NoFinish,
}

/// One request in so many is lied about, where not all are.
const EVERY: u64 = 5;

/// Tags of requests that the liar makes itself.
const OWN: u64 = 1 << 63;

struct Liar {
    device: Device,
    lie: Lie,
    appends: AtomicU64,
    /// What a read shows on top of what is there: offset and bytes.
    overlay: Mutex<HashMap<u64, Vec<u8>>>,
}

impl Liar {
    fn new(device: Device, lie: Lie) -> Self {
        Self { device, lie, appends: AtomicU64::new(0), overlay: Mutex::default() }
    }

    /// Whether it is this request's turn to be lied about.
    fn is_due(&self) -> bool {
        self.appends.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY - 1
    }

    /// What lies over a range that was read.
    fn cover(&self, offset: u64, bytes: &mut [u8]) {
        for (at, over) in self.overlay.lock().unwrap().iter() {
            let Some(from) = at.checked_sub(offset).map(|from| usize::try_from(from).unwrap())
            else {
                continue;
            };
            if from < bytes.len() {
                let length = over.len().min(bytes.len() - from);
                bytes[from..from + length].copy_from_slice(&over[..length]);
            }
        }
    }
}

impl Peer for Liar {
    fn geometry(&self) -> &Geometry {
        self.device.geometry()
    }

    fn limits(&self) -> Limits {
        let mut limits = self.device.limits();
        match self.lie {
            Lie::Loose => {
                limits.max_open_zones = limits.max_open_zones.map(|limit| limit / 2);
                limits.max_active_zones = limits.max_active_zones.map(|limit| limit / 2);
                limits.append_bytes_max /= 2;
            }
            Lie::WrongShape => limits.max_open_zones = limits.max_active_zones.map(|n| n + 1),
            _ => {}
        }
        limits
    }

    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        let all = zones == (0..self.geometry().zones());
        let mut report = self.device.report(zones.clone())?;
        for zone in &mut report {
            let open = zone.state.is_open();
            match self.lie {
                Lie::MovedPointer if open => {
                    zone.write_pointer = zone.write_pointer.map(|wp| wp + 4096);
                }
                Lie::WrongState if zone.state.is_active() || zone.state == ZoneState::Full => {
                    zone.state = ZoneState::ExplicitlyOpen;
                }
                Lie::Forgets if zone.state == ZoneState::ExplicitlyOpen => {
                    zone.state = ZoneState::Closed;
                }
                Lie::WrongReport if !all => zone.start += zone.size,
                Lie::WrongShape => zone.capacity = zone.size + 4096,
                _ => {}
            }
        }
        Ok(report)
    }

    fn generation(&self, zone: u32) -> Option<u32> {
        if self.lie == Lie::Ageless { Some(7) } else { self.device.generation(zone) }
    }

    fn lane(&self, depth: u32) -> Result<Box<dyn Lane + '_>> {
        // Room for the requests of its own.
        let inner = Peer::lane(&self.device, 2 * depth)?;
        let liar = self;
        let (told, ready, held) = (HashMap::new(), VecDeque::new(), None);
        Ok(Box::new(LyingLane {
            inner,
            liar,
            told,
            ready,
            held,
            swallowed: Vec::new(),
            extra: 0,
            last: None,
        }))
    }
}

/// What the liar remembers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Append { zone: u32, length: usize },
    Ordered { length: usize },
    Read { offset: u64 },
    Reset { zone: u32 },
    Other { length: usize },
}

struct LyingLane<'a> {
    inner: Box<dyn Lane + 'a>,
    liar: &'a Liar,
    told: HashMap<u64, Told>,
    ready: VecDeque<Completion>,
    /// The completion that waits for another's offset.
    held: Option<(Told, Completion)>,
    /// Records that were never sent: whose place they are said to have, tag and data.
    swallowed: Vec<(u64, u64, Buffer)>,
    /// Requests of its own in flight.
    extra: usize,
    /// The request before, if it was an append.
    last: Option<u64>,
}

impl LyingLane<'_> {
    /// Whether this append is to share the place of one under way; it is not sent then.
    fn swallow(&mut self, tag: u64, zone: u32, data: Buffer) -> Option<Buffer> {
        let length = data.len();
        let told = Told::Append { zone, length };
        match self.last.filter(|last| self.told.get(last) == Some(&told)) {
            Some(twin) if self.liar.is_due() => {
                self.swallowed.push((twin, tag, data));
                None
            }
            _ => Some(data),
        }
    }

    fn append(&mut self, tag: u64, zone: u32, mut data: Buffer) {
        match self.liar.lie {
            Lie::Overlap => match self.swallow(tag, zone, data) {
                Some(sent) => data = sent,
                None => return,
            },
            Lie::Gap if self.liar.is_due() => {
                let hole = Call::Append { zone, data: Buffer::unpooled(4096) };
                self.extra += 1;
                self.inner.push(OWN | tag, hole);
            }
            Lie::Torn if self.liar.is_due() => {
                let half = data.len() / 2;
                data[half..].fill(0);
            }
            // Only the campaign sends so many.
            Lie::Lost if tag == 150 => {
                self.told.insert(tag, Told::Append { zone, length: data.len() });
                return;
            }
            _ => {}
        }
        self.told.insert(tag, Told::Append { zone, length: data.len() });
        self.last = Some(tag);
        self.inner.push(tag, Call::Append { zone, data });
    }

    /// Swaps offsets with the completion that is held, or holds this one.
    fn swap(&mut self, told: Told, mut ended: Completion) {
        match self.held.take() {
            Some((other, mut first)) if other == told => {
                std::mem::swap(&mut first.offset, &mut ended.offset);
                self.ready.extend([first, ended]);
            }
            other => {
                self.ready.extend(other.map(|(_, first)| first));
                self.held = Some((told, ended));
            }
        }
    }

    /// A completion on its way out.
    fn pass(&mut self, told: Told, mut ended: Completion) {
        let liar = self.liar;
        let length = match told {
            Told::Append { length, .. } | Told::Ordered { length } | Told::Other { length } => {
                length
            }
            Told::Read { .. } => ended.buffer.as_ref().map_or(0, |buffer| buffer.len()),
            Told::Reset { .. } => 0,
        };
        let ok = ended.result.is_ok();
        if let (Told::Read { offset }, Some(bytes), true) = (told, &mut ended.buffer, ok) {
            liar.cover(offset, bytes);
            if liar.lie == Lie::Garbage {
                bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = 0xAA);
            }
        }
        if let Told::Reset { zone } = told {
            let size = liar.geometry().zone_size;
            liar.overlay.lock().unwrap().retain(|at, _| at / size != u64::from(zone));
        }
        let mut i = 0;
        while i < self.swallowed.len() {
            if self.swallowed[i].0 != ended.tag {
                i += 1;
                continue;
            }
            let (_, tag, data) = self.swallowed.swap_remove(i);
            let result = match &ended.result {
                Ok(bytes) => Ok(*bytes),
                Err(error) => Err(Error::new(error.kind(), "")),
            };
            if ok {
                liar.overlay.lock().unwrap().insert(ended.offset, data.to_vec());
            }
            let (flags, offset) = (ended.flags, ended.offset);
            self.ready.push_back(Completion { tag, result, flags, offset, buffer: Some(data) });
        }
        match (liar.lie, told) {
            (Lie::OffsetZero, Told::Append { .. }) => ended.offset = 0,
            (Lie::Neighbour, Told::Append { .. }) | (Lie::Shuffled, Told::Ordered { .. }) if ok => {
                return self.swap(told, ended);
            }
            (Lie::Yes, _) if !ok => ended.result = Ok(u32::try_from(length).unwrap()),
            (Lie::WrongKind, _) if !ok => ended.result = Err(Error::new(ErrorKind::Io, "")),
            (Lie::Broken, _) => ended.result = Err(Error::new(ErrorKind::Io, "it is broken")),
            (Lie::Keeps, _) => ended.buffer = None,
            _ => {}
        }
        self.ready.push_back(ended);
    }
}

impl Lane for LyingLane<'_> {
    fn push(&mut self, tag: u64, call: Call) {
        let length = call.length();
        let lie = self.liar.lie;
        let told = match call {
            Call::Append { zone, data } => return self.append(tag, zone, data),
            _ if lie == Lie::Overlap && self.last.take().is_some() => return self.push(tag, call),
            Call::Read { offset, .. } => Told::Read { offset },
            Call::AppendOrdered { .. } | Call::Write { .. } => Told::Ordered { length },
            Call::Reset(zone) => Told::Reset { zone },
            Call::Open(_) | Call::Close(_) | Call::Finish(_) | Call::ResetAll => {
                Told::Other { length }
            }
        };
        let never = match lie {
            Lie::Silent => matches!(call, Call::AppendOrdered { .. }),
            Lie::Mute => matches!(call, Call::Close(_)),
            _ => false,
        };
        if never {
            self.told.insert(tag, told);
            return;
        }
        let call = match call {
            // Something that changes nothing.
            Call::ResetAll if lie == Lie::Idle => Call::Finish(u32::MAX),
            Call::Finish(_) if lie == Lie::NoFinish => Call::Finish(u32::MAX),
            call => call,
        };
        self.told.insert(tag, told);
        self.inner.push(tag, call);
    }

    fn in_flight(&self) -> usize {
        self.told.len() + self.swallowed.len() + self.ready.len() + usize::from(self.held.is_some())
    }

    fn take(&mut self, until: Instant) -> Result<Option<Completion>> {
        loop {
            if let Some(ended) = self.ready.pop_front() {
                return Ok(Some(ended));
            }
            if self.inner.in_flight() == 0 {
                if let Some((_, held)) = self.held.take() {
                    return Ok(Some(held));
                }
                if self.in_flight() > 0 {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                }
                return Ok(None);
            }
            let Some(mut ended) = self.inner.take(until)? else { return Ok(None) };
            if ended.tag & OWN != 0 && self.extra > 0 {
                self.extra -= 1;
                continue;
            }
            let told = self.told.remove(&ended.tag).expect("it was asked for");
            if self.liar.lie == Lie::Idle
                && ended.result.is_err()
                && told == (Told::Other { length: 0 })
            {
                ended.result = Ok(0);
            }
            self.pass(told, ended);
        }
    }
}

/// Small enough for tests, and otherwise as it ships.
const BOUNDS: Bounds =
    Bounds { records: 200, bytes: 2 << 20, ..Bounds::short(Duration::from_millis(500)) };

fn open(target: &str) -> Device {
    zonal::open(&Target::parse(target).unwrap(), &OpenOptions::default()).unwrap()
}

/// Everything that rules are about: conventional, read-only and offline zones, gaps and limits.
fn everything() -> Device {
    let device = open(
        "mem:size=6M,zone-size=512K,zone-capacity=384K,conventional-zones=1,max-open-zones=4,\
         max-active-zones=6,max-append=64K",
    );
    device.set_condition(10, ZoneState::ReadOnly).unwrap();
    device.set_condition(11, ZoneState::Offline).unwrap();
    device
}

fn check(peer: &dyn Peer) -> Vec<Row> {
    check_with(peer, "memory", BOUNDS)
}

fn check_with(peer: &dyn Peer, name: &str, bounds: Bounds) -> Vec<Row> {
    let zones = 0..peer.geometry().zones();
    let mut bench = Bench::new(peer, zones, bounds, 7, 11).unwrap();
    rules::check_all(&mut bench, name, |_| ()).rows
}

fn failed(rows: &[Row]) -> Vec<&'static str> {
    rows.iter().filter(|row| row.verdict == Verdict::Fail).map(|row| row.rule).collect()
}

fn lied(lie: Lie) -> Vec<Row> {
    check(&Liar::new(everything(), lie))
}

/// The lie is caught by `rule`, and by no other rule about appends but those of `also`.
#[track_caller]
fn caught(lie: Lie, rule: &str, also: &[&str]) {
    let rows = lied(lie);
    let failed = failed(&rows);
    let seen = |id: &str| rows.iter().find(|row| row.rule == id).map(|row| row.seen.clone());
    assert!(failed.contains(&rule), "{lie:?} is not caught by {rule}, but by {failed:?}");
    for id in failed.iter().filter(|id| id.starts_with("append-") && **id != "append-limit") {
        assert!(*id == rule || also.contains(id), "{lie:?} is said to be {id}: {:#?}", seen(id));
    }
    println!("{lie:?}: {rule}: {}", seen(rule).unwrap()[0]);
}

#[test]
fn a_drive_that_reports_offset_zero_is_caught() {
    caught(Lie::OffsetZero, "append-inside", &[]);
}

#[test]
fn a_drive_that_reports_a_neighbour_s_offset_is_caught() {
    caught(Lie::Neighbour, "append-record", &[]);
}

#[test]
fn a_drive_that_puts_two_records_at_one_place_is_caught() {
    caught(Lie::Overlap, "append-distinct", &[]);
}

#[test]
fn a_drive_that_leaves_a_hole_is_caught() {
    // The hole in a zone's last blocks takes a record's place.
    caught(Lie::Gap, "append-cover", &["append-completes", "append-pointer"]);
}

#[test]
fn a_drive_that_tears_a_record_is_caught() {
    caught(Lie::Torn, "append-whole", &[]);
}

#[test]
fn a_drive_that_reports_another_write_pointer_is_caught() {
    caught(Lie::MovedPointer, "append-pointer", &[]);
    assert!(failed(&lied(Lie::MovedPointer)).contains(&"report-pointer"));
}

#[test]
fn each_rule_fails_for_some_liar() {
    let expected: &[(Lie, &[&str])] = &[
        (Lie::OffsetZero, &["append-inside"]),
        (Lie::Neighbour, &["append-record"]),
        (Lie::Overlap, &["append-distinct"]),
        (Lie::Gap, &["append-cover"]),
        (Lie::Torn, &["append-whole"]),
        (Lie::MovedPointer, &["report-pointer", "append-pointer"]),
        (Lie::Shuffled, &["write-order", "ordered-append"]),
        (
            Lie::Garbage,
            &[
                "read-pointer",
                "read-unwritten",
                "read-across",
                "read-reset",
                "read-finished",
                "read-gap",
            ],
        ),
        (
            Lie::Yes,
            &[
                "state-append",
                "state-write",
                "state-open",
                "state-close",
                "open-limit",
                "active-limit",
                "append-limit",
                "misaligned",
                "no-bytes",
                "out-of-range",
                "capacity",
                "zone-end",
                "not-at-pointer",
                "conventional-refuses",
                "read-only",
                "offline",
                "append-completes",
            ],
        ),
        (Lie::WrongKind, &["state-append", "not-at-pointer", "append-completes"]),
        (Lie::Broken, &["state-reset", "conventional-write", "implicit-close", "places-back"]),
        (Lie::Keeps, &["completions"]),
        (
            Lie::Loose,
            &["open-limit", "implicit-close", "active-limit", "append-limit", "append-limits"],
        ),
        (Lie::WrongState, &["report-full", "state-finish"]),
        (Lie::Forgets, &["state-open", "explicit-stays", "close-unwritten"]),
        (Lie::WrongReport, &["report-range"]),
        (Lie::WrongShape, &["report-geometry", "report-limits"]),
        (Lie::Ageless, &["report-generation"]),
        (Lie::Idle, &["reset-all"]),
        (Lie::NoFinish, &["state-finish", "finish-at-limit"]),
    ];
    let mut caught = Vec::new();
    for (lie, rules) in expected {
        let failed = failed(&lied(*lie));
        for rule in *rules {
            assert!(failed.contains(rule), "{lie:?} is not caught by {rule}, but by {failed:?}");
        }
        caught.extend(failed);
    }
    for rule in RULES {
        assert!(caught.contains(&rule.id), "no liar was caught by {}", rule.id);
    }
}

#[test]
fn an_honest_drive_with_everything_passes_every_rule() {
    let rows = lied(Lie::Honest);
    let not: Vec<_> = rows.iter().filter(|row| row.verdict != Verdict::Pass).collect();
    assert!(not.is_empty(), "{not:#?}");
    assert_eq!(rows.len(), RULES.len());
}

#[test]
fn a_drive_that_hangs_is_a_verdict_and_ends_the_run() {
    for (lie, rule) in [
        (Lie::Mute, "report-generation"),
        (Lie::Silent, "ordered-append"),
        (Lie::Lost, "append-completes"),
    ] {
        let rows = lied(lie);
        let at = rows.iter().position(|row| row.verdict == Verdict::Fail).unwrap();
        assert_eq!(rows[at].rule, rule);
        assert!(rows[at].seen[0].contains("did not end within 0.5 s"), "{:?}", rows[at].seen);
        for row in &rows[at + 1..] {
            assert_eq!(row.verdict, Verdict::NotApplicable);
            assert_eq!(row.seen, [format!("not tried: the drive hung in {rule}")]);
        }
    }
}

#[test]
fn a_drive_on_which_everything_fails_is_a_verdict() {
    let rows = lied(Lie::Broken);
    assert_eq!(rows.len(), RULES.len());
    assert!(failed(&rows).len() > RULES.len() / 2);
}

#[test]
fn a_documented_deviation_of_a_named_peer_is_known() {
    struct Refusing(Device);
    struct RefusingLane<'a>(Box<dyn Lane + 'a>);
    impl Peer for Refusing {
        fn geometry(&self) -> &Geometry {
            self.0.geometry()
        }
        fn limits(&self) -> Limits {
            self.0.limits()
        }
        fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
            self.0.report(zones)
        }
        fn generation(&self, _: u32) -> Option<u32> {
            None
        }
        fn lane(&self, depth: u32) -> Result<Box<dyn Lane + '_>> {
            Ok(Box::new(RefusingLane(Peer::lane(&self.0, depth)?)))
        }
    }
    impl Lane for RefusingLane<'_> {
        fn push(&mut self, tag: u64, call: Call) {
            self.0.push(tag, call);
        }
        fn in_flight(&self) -> usize {
            self.0.in_flight()
        }
        fn take(&mut self, until: Instant) -> Result<Option<Completion>> {
            let mut ended = self.0.take(until)?;
            // Reads of one block below a zone's end, and one above.
            if let Some(ended) = &mut ended
                && ended.result.is_ok()
                && ended.offset % (1 << 20) == (1 << 20) - 4096
                && ended.buffer.as_ref().is_some_and(|buffer| buffer.len() == 8192)
            {
                ended.result = Err(Error::new(ErrorKind::BeyondCapacity, ""));
            }
            Ok(ended)
        }
    }
    for (name, expected) in
        [("QEMU NVMe Ctrl", Verdict::Known), ("memory", Verdict::Fail), ("SAMSUNG", Verdict::Fail)]
    {
        let peer = Refusing(open("mem:size=4M,zone-size=1M"));
        let rows = check_with(&peer, name, BOUNDS);
        let row = rows.iter().find(|row| row.rule == "read-across").unwrap();
        assert_eq!(row.verdict, expected, "{name}: {row:?}");
        assert_eq!(failed(&rows).len(), usize::from(expected == Verdict::Fail), "{name}");
    }
}

#[test]
fn zones_outside_of_the_range_are_left_alone() {
    let device = everything();
    let zones = [2, 3].map(|zone| {
        device.append(zone, vec![5; 4096]).wait().unwrap();
        device.report(zone..=zone).unwrap()[0]
    });
    let mut bench = Bench::new(&device, 4..8, BOUNDS, 7, 11).unwrap();
    let rows = rules::check_all(&mut bench, "memory", |_| ()).rows;
    assert_eq!(failed(&rows), [""; 0], "{rows:#?}");
    assert_eq!(device.report(2..4).unwrap(), zones);
    let limits = rows.iter().find(|row| row.rule == "open-limit").unwrap();
    assert!(limits.seen[0].contains("2 zones outside of --zones"), "{:?}", limits.seen);
}

/// Passes, and says what the drive does.
fn conforms(target: &str, device: &Device) {
    let rows = check(device);
    let failed = failed(&rows);
    let seen: Vec<_> = rows.iter().filter(|row| row.verdict == Verdict::Fail).collect();
    assert!(failed.is_empty(), "{target}: {seen:#?}");
}

#[test]
fn honest_drives_in_memory_of_all_shapes_conform() {
    for target in [
        "mem:size=8M,zone-size=1M",
        "mem:size=8M,zone-size=1M,max-open-zones=1,max-active-zones=1",
        "mem:size=8M,zone-size=1M,max-open-zones=3,max-active-zones=5",
        "mem:size=8M,zone-size=1M,max-open-zones=3",
        "mem:size=8M,zone-size=1M,max-active-zones=2",
        "mem:size=8M,zone-size=1M,zone-capacity=640K,conventional-zones=3",
        "mem:size=9M,zone-size=1200K,zone-capacity=900K,conventional-zones=2,max-open-zones=2",
        "mem:size=2M,zone-size=2M",
        "mem:size=2M,zone-size=512K,block-size=512,max-append=512",
        "mem:size=4M,zone-size=1M,block-size=64K",
        "mem:size=256K,zone-size=4K",
        "mem:size=250K,zone-size=12K,zone-capacity=8K,block-size=512",
    ] {
        conforms(target, &open(target));
    }
}

fn image(folder: &Path, geometry: Geometry) -> Target {
    let path = folder.join("disk.qcow2");
    let preallocate = Preallocate::Off;
    let options = CreateOptions { geometry, preallocate, force: false, progress: None };
    zonal::create(&path, options).unwrap();
    Target::Path(path)
}

#[test]
fn an_honest_image_and_file_conform() {
    let folder = tempfile::tempdir().unwrap();
    let geometry = Geometry {
        zone_size: 1 << 20,
        zone_capacity: 768 << 10,
        conventional_zones: 1,
        max_open_zones: 3,
        max_active_zones: 5,
        max_append: 64 << 10,
        ..Geometry::with_size(10 << 20)
    };
    let target = image(folder.path(), geometry);
    let device = zonal::open(&target, &OpenOptions::default()).unwrap();
    conforms("image", &device);
    device.close().unwrap();
    std::fs::write(folder.path().join("log"), b"").unwrap();
    let target = Target::File(folder.path().join("log"));
    let device = zonal::open(&target, &OpenOptions::default()).unwrap();
    conforms("file:", &device);
    device.close().unwrap();
}
