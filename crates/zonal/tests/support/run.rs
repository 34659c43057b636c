//! One run of a scenario: the drive, the model beside it, and one step after another.

use super::model::{Checked, End, Model, Purpose, Seen, ensure, violation};
use super::reopen::{Fingerprint, Images, Unstable, read_all, reopen, zones_of};
use super::scenario::{Ask, Faults, Past, Scenario};
use super::{BLOCK, Held, ZONE, ZONES, record};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use zonal::sim::{self, IoKind, Outcome, PendingIo, SimDisk, SimImage, SimMode};
use zonal::{Buffer, Completion, Device, OpenOptions, Queue, QueueOptions, Request};

/// Tags of records of the past begin here.
const PAST_TAGS: u8 = 100;

/// What the past wrote: zone and length.
const FILLED: [(usize, u32); 4] = [(0, 2), (0, 2), (0, 1), (1, 2)];
const PARTIAL: [(usize, u32); 2] = [(0, 2), (1, 1)];

/// Images to start from, made once.
pub(crate) struct Origins {
    made: HashMap<(u32, Stored), SimImage>,
    /// Where in the image the drive's data begins.
    data_offset: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Stored {
    Nothing,
    Partial,
    Filled,
    FilledReset,
}

fn stored(past: Past) -> Stored {
    match past {
        Past::Fresh | Past::ResetUnflushed => Stored::Nothing,
        Past::Partial => Stored::Partial,
        Past::Reset => Stored::Filled,
        Past::ResetFlushed => Stored::FilledReset,
    }
}

impl Origins {
    /// For all scenarios.
    pub(crate) fn new(scenarios: &[Scenario]) -> Self {
        let mut made = HashMap::new();
        let mut data_offset = 0;
        for scenario in scenarios {
            let fresh = fresh(scenario);
            if data_offset == 0 {
                data_offset = find_data(&written(&fresh, &FILLED, false));
            }
            for past in Past::ALL {
                let stored = stored(past);
                made.entry((scenario.max_open, stored)).or_insert_with(|| match stored {
                    Stored::Nothing => fresh.clone(),
                    Stored::Partial => written(&fresh, &PARTIAL, false),
                    Stored::Filled => written(&fresh, &FILLED, false),
                    Stored::FilledReset => written(&fresh, &FILLED, true),
                });
            }
        }
        Self { made, data_offset }
    }
}

fn fresh(scenario: &Scenario) -> SimImage {
    let disk = SimDisk::new(&SimImage::new(0, BLOCK as usize), SimMode::Manual);
    zonal::sim::create(&disk, &scenario.geometry()).expect("an image");
    disk.image()
}

/// An image with these records written, and maybe reset, and closed.
fn written(image: &SimImage, records: &[(usize, u32)], reset: bool) -> SimImage {
    let mode = SimMode::Auto { seed: 1, faults: zonal::sim::FaultPlan::default() };
    let disk = SimDisk::new(image, mode);
    let device = zonal::sim::open(&disk, &OpenOptions::default()).expect("a drive");
    let mut queue = device.queue(&QueueOptions::default()).expect("a queue");
    let mut ask = |request: Request| {
        queue.push(request).expect("room");
        queue.submit_and_wait(1).expect("the simulator has no ring to fail");
        queue.next_completion().expect("waited for").result.expect("a sound disk");
    };
    for (tag, &(zone, length)) in (PAST_TAGS..).zip(records) {
        ask(Request::append(number(zone), Buffer::from_slice(&record(tag, length))));
    }
    ask(Request::flush());
    if reset {
        ask(Request::reset_all());
    }
    drop(queue);
    device.close().expect("a sound disk");
    disk.image()
}

fn find_data(image: &SimImage) -> u64 {
    let wanted = record(PAST_TAGS, 1);
    let mut block = vec![0; BLOCK as usize];
    let at = (0..image.len()).step_by(BLOCK as usize).find(|&at| {
        image.read(at, &mut block);
        block == wanted
    });
    at.expect("the first record is in the image")
}

fn number(zone: usize) -> u32 {
    u32::try_from(zone).expect("few zones")
}

/// What can be done next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next request is submitted.
    Submit(Ask),
    /// A request of the drive to the disk ends.
    End(PendingIo, Purpose, Outcome),
}

impl Step {
    /// What it is, whatever number its I/O has in this run.
    pub(crate) fn what(&self) -> u128 {
        let mut hasher = Fingerprint::new();
        match self {
            Self::Submit(ask) => ask.hash(&mut hasher),
            Self::End(io, purpose, outcome) => {
                (io.kind, io.offset, io.len, purpose).hash(&mut hasher);
                format!("{outcome:?}").hash(&mut hasher);
            }
        }
        hasher.whole()
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit(ask) => write!(f, "submit {ask:?}"),
            Self::End(io, purpose, outcome) => {
                write!(f, "end {:?} {purpose:?} of {} bytes: {outcome:?}", io.kind, io.len)
            }
        }
    }
}

/// A run. What is pending is given up when it is dropped.
pub(crate) struct Run<'a> {
    disk: SimDisk,
    device: Device,
    // The queues go after the power has gone: see `drop`.
    queue: Option<Queue>,
    reader: Option<Queue>,
    pub(crate) model: Model,
    scenario: &'a Scenario,
    data_offset: u64,
    next_ask: usize,
    next_tag: u8,
    purposes: HashMap<u64, Purpose>,
    faults: u32,
    /// What operations have completed since a write of the table began: what it goes on to write
    /// was decided before them.
    amid_table: Vec<u8>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let _left = self.disk.cut(&mut |_| 0);
        self.queue = None;
        self.reader = None;
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(scenario: &'a Scenario, origins: &Origins) -> Checked<Self> {
        let image = &origins.made[&(scenario.max_open, stored(scenario.past))];
        let disk = SimDisk::new(image, SimMode::Manual);
        let options = OpenOptions { discard: scenario.discard, ..OpenOptions::default() };
        let device = zonal::sim::open(&disk, &options).expect("a sound image");
        let options = QueueOptions { depth: 16, buffer_bytes: 0, ..QueueOptions::default() };
        let queue = Some(device.queue(&options).expect("a queue"));
        let reader = Some(device.queue(&options).expect("a queue"));
        let mut run = Self {
            disk,
            device,
            queue,
            reader,
            model: Model::new(scenario),
            scenario,
            data_offset: origins.data_offset,
            next_ask: 0,
            next_tag: PAST_TAGS,
            purposes: HashMap::new(),
            faults: 0,
            amid_table: Vec::new(),
        };
        run.live_the_past()?;
        run.next_tag = 1;
        Ok(run)
    }

    /// Does what came before and is not in the image.
    fn live_the_past(&mut self) -> Checked {
        let records = match stored(self.scenario.past) {
            Stored::Nothing | Stored::FilledReset => &[][..],
            Stored::Partial => &PARTIAL[..],
            Stored::Filled => &FILLED[..],
        };
        for zone in 0..ZONES {
            let tagged = (PAST_TAGS..).zip(records);
            let own = tagged.filter(|(_, record)| record.0 == zone);
            let own: Vec<_> = own.map(|(tag, record)| (tag, record.1)).collect();
            self.model.found(zone, &own);
        }
        let mut asks = Vec::new();
        if self.scenario.past == Past::ResetUnflushed {
            asks.extend(FILLED.map(|(zone, length)| Ask::Append(zone, length)));
        }
        if matches!(self.scenario.past, Past::Reset | Past::ResetUnflushed) {
            asks.extend([Ask::Reset(0), Ask::Reset(1)]);
        }
        for ask in asks {
            self.submit(ask)?;
            while let Some(io) = self.disk.pending().first() {
                let io = *io;
                self.end(io, self.purposes[&io.id], Outcome::Ok)?;
            }
        }
        Ok(())
    }

    /// What can be done next, in a fixed order; nothing when all is over.
    pub(crate) fn steps(&self, faults_max: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut table_seen = false;
        for io in self.disk.pending() {
            let purpose = self.purposes[&io.id];
            // Table pages of one batch are waited for in their order, so only the first of them
            // ends; a power cut finds them in any state.
            if purpose == Purpose::Table && std::mem::replace(&mut table_seen, true) {
                continue;
            }
            steps.push(Step::End(io, purpose, Outcome::Ok));
            let settling = matches!(purpose, Purpose::Zeros { .. } | Purpose::Sync);
            if self.faults < faults_max + u32::from(settling && self.faults > 0) {
                let faults = faults_of(io, purpose, self.scenario.faults);
                steps.extend(faults.into_iter().map(|fault| Step::End(io, purpose, fault)));
            }
        }
        if let Some(&ask) = self.scenario.asks.get(self.next_ask) {
            steps.push(Step::Submit(ask));
        }
        steps
    }

    pub(crate) fn step(&mut self, step: Step) -> Checked {
        match step {
            Step::Submit(ask) => {
                self.next_ask += 1;
                self.submit(ask)
            }
            Step::End(io, purpose, outcome) => {
                self.faults += u32::from(outcome != Outcome::Ok);
                self.end(io, purpose, outcome)
            }
        }
    }

    fn submit(&mut self, ask: Ask) -> Checked {
        let tag = self.next_tag;
        self.next_tag += 1;
        let at = self.model.submitted(tag, ask);
        let data = |length: u32| Buffer::from_slice(&record(tag, length));
        let request = match ask {
            Ask::Append(zone, length) => Request::append(number(zone), data(length)),
            Ask::Fua(zone, length) => Request::append(number(zone), data(length)).fua(),
            Ask::Ordered(zone, length) => Request::append_ordered(number(zone), data(length)),
            Ask::WriteAt(zone, length) => {
                let offset = u64::from((number(zone) * ZONE + at) * BLOCK);
                Request::write_at(offset, data(length))
            }
            Ask::Read => Request::read_at(0, Buffer::unpooled((ZONE * BLOCK) as usize * ZONES)),
            Ask::Flush => Request::flush(),
            Ask::Reset(zone) => Request::reset(number(zone)),
            Ask::Finish(zone) => Request::finish(number(zone)),
            Ask::Close(zone) => Request::close(number(zone)),
        };
        if let Some(queue) = &mut self.queue {
            queue.push(request.tag(u64::from(tag))).expect("fewer than the depth");
        }
        self.follow()
    }

    fn end(&mut self, io: PendingIo, purpose: Purpose, outcome: Outcome) -> Checked {
        let blocks = |bytes: usize| u32::try_from(bytes).unwrap_or(0) / BLOCK;
        let end = match outcome {
            Outcome::Ok => End::Well,
            Outcome::Short(bytes) => End::Short(blocks(bytes)),
            Outcome::Fail(libc::EOPNOTSUPP) => End::Unsupported,
            Outcome::Fail(_) | Outcome::FailAfterPartial(_) => End::Failed,
        };
        self.model.ended(purpose, end);
        self.purposes.remove(&io.id);
        if !self.purposes.values().any(|purpose| *purpose == Purpose::Table) {
            self.model.table_is_quiet();
        }
        assert!(self.disk.complete(io.id, outcome), "it was pending");
        self.follow()
    }

    /// Lets the drive go on after a step, and the model with it.
    fn follow(&mut self) -> Checked {
        let queue = self.queue.as_mut().expect("there until the run is dropped");
        queue.submit().expect("the simulator has no ring to fail");
        let completions: Vec<Completion> = std::iter::from_fn(|| queue.next_completion()).collect();
        let done: Vec<u8> = completions.iter().map(tag_of).collect();
        // An operation has its zone alone: what was refused before it is judged before it. What
        // was refused last came after what has just entered, which is seen only below.
        let operation = completions.iter().rposition(|end| end.buffer.is_none());
        let (in_order, last) = completions.split_at(operation.map_or(0, |last| last + 1));
        let (mut refused, others): (Vec<_>, Vec<_>) =
            last.iter().partition(|end| end.flags.contains(zonal::Flags::REFUSED));
        for completion in in_order.iter().chain(others) {
            self.completed(completion)?;
        }
        for io in self.disk.pending() {
            if !self.purposes.contains_key(&io.id) {
                // Requests pass the gate in their order.
                let next = self.model.next_waiting(&done).unwrap_or(u8::MAX);
                for completion in refused.extract_if(.., |end| tag_of(end) < next) {
                    self.completed(completion)?;
                }
                let purpose = self.issued(io, &done)?;
                self.purposes.insert(io.id, purpose);
            }
        }
        for completion in refused {
            self.completed(completion)?;
        }
        let writes_table = self.purposes.values().any(|purpose| *purpose == Purpose::Table);
        if !writes_table {
            self.amid_table.clear();
        } else if operation.is_some() {
            self.amid_table.extend(done);
        }
        self.model.reported(&zones_of(&self.device), self.device.zones_in_use())?;
        self.model.nothing_is_late()
    }

    fn completed(&mut self, completion: &Completion) -> Checked {
        let block = u32::try_from(completion.offset / u64::from(BLOCK)).unwrap_or(u32::MAX);
        self.model.completed(&Seen {
            tag: tag_of(completion),
            result: completion.result.as_ref().map(|bytes| *bytes).map_err(zonal::Error::kind),
            flags: completion.flags,
            place: ((block / ZONE) as usize, block % ZONE),
            buffer: completion.buffer.as_deref(),
        })
    }

    /// What a request of the drive to the disk is for.
    fn issued(&mut self, io: PendingIo, done: &[u8]) -> Checked<Purpose> {
        let size = u64::from(ZONE * BLOCK) * ZONES as u64;
        let drive = self.data_offset..self.data_offset + size;
        let in_drive = drive.contains(&io.offset) && io.offset + io.len <= drive.end;
        let block = io.offset.saturating_sub(drive.start) / u64::from(BLOCK);
        let block = u32::try_from(block).unwrap_or(u32::MAX);
        let place = ((block / ZONE) as usize, block % ZONE);
        let length = u32::try_from(io.len / u64::from(BLOCK)).unwrap_or(u32::MAX);
        match io.kind {
            IoKind::Read => Ok(Purpose::Read),
            IoKind::SyncData => Ok(Purpose::Sync),
            IoKind::WriteDurable => {
                ensure!(!in_drive, "metadata stays outside the data", "at {}", io.offset);
                ensure!(
                    !self.model.latched,
                    "a drive that is read-only is not written",
                    "metadata at {}",
                    io.offset
                );
                Ok(Purpose::Table)
            }
            IoKind::Write if in_drive => self.model.writes(place, length, done),
            IoKind::Zero if in_drive => self.model.zeroes(place, length),
            IoKind::Write | IoKind::Zero => {
                violation("data stays inside the data", format!("{:?} at {}", io.kind, io.offset))
            }
        }
    }

    /// The same for two runs that are the same in everything that decides what can happen to them
    /// and what is right: what the drive and the disk know, what the model knows, and, while the
    /// drive is about to do something that takes several steps, what can have told it how to go on.
    pub(crate) fn fingerprint(&self) -> u128 {
        let mut hasher = Fingerprint::new();
        (self.next_ask, self.faults, &self.amid_table).hash(&mut hasher);
        self.model.hash(&mut hasher);
        self.disk.hash_state(&mut hasher);
        let queue = self.queue.as_ref().expect("there until the run is dropped");
        sim::hash_state(queue, &mut hasher);
        hasher.whole()
    }

    // ---- checks -----------------------------------------------------------------------------

    /// Checks what can be seen of the drive now, and after every power cut now. `key` names this
    /// state.
    ///
    /// A cut chooses a content for each unstable sector: of the metadata, of the first zone, of the
    /// second. What a drive that is opened again says of its zones, and which blocks it shows,
    /// follows from the metadata alone ([`Images::reopen`] makes sure of it); what it then shows in
    /// a zone, from the zone's own sectors. So every choice of metadata with every choice of one
    /// zone's sectors, for each zone, is every cut: one is wrong if and only if one of its zones is.
    pub(crate) fn check(&mut self, images: &mut Images, key: u128) -> Checked<Cuts> {
        let reader = self.reader.as_mut().expect("there until the run is dropped");
        self.model.shows(&read_all(&self.disk, reader))?;
        let unstable = Unstable::of(&self.disk, self.data_offset);
        let found = images.reopen_all(&unstable, &self.disk)?;
        let mut told_apart = 0;
        for zone in 0..ZONES {
            let mut seen = Vec::new();
            for reopened in &found {
                let own = reopened.of(zone);
                if seen.contains(&own) {
                    continue;
                }
                seen.push(own);
                let ((state, wp), shown) = own;
                let blocks = unstable.blocks_of(zone, shown);
                for choice in all_choices(&blocks) {
                    self.model.survived(zone, (state, wp), &choice)?;
                    told_apart += 1;
                }
            }
        }
        if key.is_multiple_of(CONFIRMED_EACH) {
            self.confirm(images, &unstable)?;
        }
        Ok(Cuts { all: unstable.cuts(), told_apart })
    }

    /// Opens what the newest cut leaves as a whole, and compares.
    fn confirm(&self, images: &mut Images, unstable: &Unstable) -> Checked {
        let image = self.disk.if_cut(&mut |count| count - 1);
        let reopened = images.reopen(unstable.newest_metadata(), &image, self.data_offset)?;
        let whole = reopen(&image)?;
        for zone in 0..ZONES {
            let ((state, wp), shown) = reopened.of(zone);
            let blocks = unstable.blocks_of(zone, shown);
            let newest: Vec<Held> = blocks.iter().map(|held| held[held.len() - 1]).collect();
            let from = zone * ZONE as usize;
            let same = whole.zones[zone] == (state, wp)
                && whole.held[from..from + ZONE as usize] == newest;
            ensure!(same, "what a drive shows after a cut follows from its parts", "zone {zone}");
        }
        Ok(())
    }
}

/// How many power cuts were checked at a moment, and how many cases of one zone that made.
pub(crate) struct Cuts {
    pub(crate) all: u64,
    pub(crate) told_apart: u64,
}

/// One of so many moments is also checked by opening a whole image.
const CONFIRMED_EACH: u128 = 16;

fn tag_of(completion: &Completion) -> u8 {
    u8::try_from(completion.tag).unwrap_or(0)
}

/// The ways in which a request to the disk can go wrong.
fn faults_of(io: PendingIo, purpose: Purpose, faults: Faults) -> Vec<Outcome> {
    let eio = Outcome::Fail(libc::EIO);
    let block = BLOCK as usize;
    let partial = Outcome::FailAfterPartial(block);
    let short = Outcome::Short(block);
    match (purpose, io.kind) {
        (Purpose::Data { .. }, _) => match faults {
            Faults::Every if io.len > u64::from(BLOCK) => vec![eio, partial, short],
            Faults::Every => vec![eio, partial],
            Faults::Short if io.len > u64::from(BLOCK) => vec![short],
            Faults::Partial => vec![partial],
            Faults::Whole | Faults::Short => vec![eio],
        },
        (Purpose::Zeros { .. }, IoKind::Zero) => vec![eio, Outcome::Fail(libc::EOPNOTSUPP)],
        (Purpose::Zeros { .. } | Purpose::Sync, _) => vec![eio],
        (Purpose::Table, _) if faults == Faults::Every => vec![eio, partial],
        (Purpose::Table, _) if faults == Faults::Partial => vec![partial],
        (Purpose::Table, _) => vec![eio],
        (Purpose::Read, _) => vec![if faults == Faults::Short { short } else { eio }],
    }
}

/// Every combination of one content for each block.
fn all_choices(blocks: &[Vec<Held>]) -> impl Iterator<Item = Vec<Held>> {
    let all: usize = blocks.iter().map(Vec::len).product();
    (0..all).map(move |mut number| {
        let digit = |held: &Vec<Held>| {
            let digit = number % held.len();
            number /= held.len();
            held[digit]
        };
        blocks.iter().map(digit).collect()
    })
}
