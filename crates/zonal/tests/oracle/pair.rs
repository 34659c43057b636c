//! A drive and its oracle, step by step, side by side.

use super::model::{Ask, Call, Expected, Model, Op, Tag, Zone};
use super::script::{How, Setup, Spot, Step, Want};
use std::collections::{BTreeMap, BTreeSet};
use zonal::sim::{IoKind, Outcome, PendingIo, SimDisk, SimImage, SimMode};
use zonal::{
    Buffer, Completion, Device, ErrorKind, Flags, OpenOptions, Queue, QueueOptions, Request,
    Target, ZoneKind, ZoneState,
};

type Checked<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

/// What came back for a request.
#[derive(Clone, Debug)]
struct Seen {
    expected: Expected,
    bytes: Option<Vec<u64>>,
}

/// What a request took with it.
#[derive(Clone, Copy, Debug)]
struct Lent {
    queue: usize,
    /// None where a request has no buffer.
    length: Option<usize>,
    is_read: bool,
}

/// What a pending I/O is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Write(Tag),
    Read(Tag),
    Zero(usize),
}

/// How often what happened, to see that the test reaches it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) steps: u64,
    pub(crate) requests: u64,
    pub(crate) refused: u64,
    pub(crate) parked: u64,
    pub(crate) held: u64,
    pub(crate) failures: u64,
    pub(crate) behind: u64,
    pub(crate) over_dead: u64,
    pub(crate) victims: u64,
    pub(crate) reordered: u64,
}

impl Reached {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.requests += other.requests;
        self.refused += other.refused;
        self.parked += other.parked;
        self.held += other.held;
        self.failures += other.failures;
        self.behind += other.behind;
        self.over_dead += other.over_dead;
        self.victims += other.victims;
        self.reordered += other.reordered;
    }
}

pub(crate) struct Pair {
    // Queues go before the device.
    queues: Vec<Queue>,
    device: Device,
    disk: Option<SimDisk>,
    model: Model,
    /// What may be the case as well.
    others: Vec<Model>,
    setup: Setup,
    lent: BTreeMap<Tag, Lent>,
    seen: BTreeMap<Tag, Seen>,
    /// What each pending I/O is for.
    known: BTreeMap<u64, Purpose>,
    /// Where in the image the drive's bytes begin: they come last, in clusters of 2 MiB.
    data_offset: u64,
    next_tag: Tag,
    pub(crate) reached: Reached,
}

/// The image of an empty drive.
pub(crate) fn image(setup: &Setup) -> SimImage {
    let disk = SimDisk::new(&SimImage::new(0, 512), SimMode::Manual);
    zonal::sim::create(&disk, &setup.geometry).unwrap();
    disk.image()
}

impl Pair {
    pub(crate) fn new(setup: &Setup, image: Option<&SimImage>) -> Self {
        let options = OpenOptions { discard: setup.discard, ..OpenOptions::default() };
        let disk = image.map(|image| SimDisk::new(image, SimMode::Manual));
        let device = match &disk {
            Some(disk) => zonal::sim::open(disk, &options).unwrap(),
            None => zonal::open(&Target::Memory(setup.geometry.clone()), &options).unwrap(),
        };
        let block = u64::from(setup.geometry.block_size);
        let buffer_bytes = if setup.pooled { 4096 } else { 0 };
        let options = QueueOptions { depth: setup.depth, buffer_bytes, ..QueueOptions::default() };
        let queues = (0..setup.queues).map(|_| device.queue(&options).unwrap()).collect();
        let mut model = Model::new(
            zones(setup),
            block,
            u64::from(setup.geometry.max_append) / block,
            (setup.geometry.max_open_zones.into(), setup.geometry.max_active_zones.into()),
        );
        model.memory = setup.memory;
        model.slow_zeroing = setup.slow_zeroing;
        Self {
            queues,
            device,
            disk,
            model,
            others: Vec::new(),
            setup: setup.clone(),
            lent: BTreeMap::new(),
            seen: BTreeMap::new(),
            known: BTreeMap::new(),
            data_offset: image.map_or(0, |image| data_offset(setup, image)),
            next_tag: 1,
            reached: Reached::default(),
        }
    }

    pub(crate) fn step(&mut self, step: &Step) -> Checked {
        self.reached.steps += 1;
        match step {
            Step::Submit { queue, wants } => self.submit(*queue, wants),
            Step::End { pick, how } => self.end(*pick, *how),
            Step::Wear { zone, offline } => self.wear(*zone, *offline),
            Step::Rest { reset } => self.rest(*reset),
        }
    }

    // ---- steps ----------------------------------------------------------------------------

    fn submit(&mut self, queue: u64, wants: &[(Want, bool)]) -> Checked {
        let queue = usize::try_from(queue % self.queues.len() as u64).unwrap();
        let mut moves = Vec::new();
        let since = self.next_tag;
        let mut ahead = self.model.clone();
        for &(want, fua) in wants {
            // A reset of all zones goes alone: what it lets go on where is another matter.
            if matches!(want, Want::ResetAll) && wants.len() > 1 {
                continue;
            }
            let (request, told) = self.resolve(queue, want, fua, (&ahead, since));
            let full = self.outstanding(queue) >= self.setup.depth as usize;
            match self.queues[queue].push(request) {
                Ok(()) => ensure!(!full, "a full queue takes another request"),
                Err(back) => {
                    ensure!(full, "a queue with room refuses a request");
                    let length = self.lent.remove(&told.tag).unwrap().length;
                    let buffer = back.0.into_buffer().map(|buffer| buffer.len());
                    ensure!(buffer == length, "a request that was not taken lost its buffer");
                    continue;
                }
            }
            self.reached.requests += 1;
            told.tell(&mut ahead);
            moves.push(told);
        }
        self.quiesce(Some(queue))?;
        let zones: Vec<usize> = moves.iter().map(|told| told.zone).collect();
        self.compare(&zones, move |model, order| {
            order.iter().for_each(|&which| moves[which].tell(model));
        })
    }

    fn end(&mut self, pick: u64, how: How) -> Checked {
        let pending = self.pending();
        if pending.is_empty() {
            return Ok(());
        }
        let io = pending[usize::try_from(pick % pending.len() as u64).unwrap()];
        self.end_one(&io, how)
    }

    fn end_one(&mut self, io: &PendingIo, how: How) -> Checked {
        let purpose = self.known[&io.id];
        let block = self.model.block;
        let (outcome, ended) = match (how, purpose) {
            (How::Fails, _) | (How::FailsAfter(_) | How::Short(0), Purpose::Read(_)) => {
                (Outcome::Fail(libc::EIO), Some(Some(0)))
            }
            (How::FailsAfter(_), Purpose::Zero(_)) => {
                (Outcome::FailAfterPartial(512), Some(Some(0)))
            }
            (How::FailsAfter(blocks), Purpose::Write(_)) => {
                let bytes = (blocks * block).min(io.len);
                (Outcome::FailAfterPartial(usize::try_from(bytes).unwrap()), Some(Some(bytes)))
            }
            (How::Short(0), Purpose::Write(_)) => (Outcome::Short(0), Some(Some(0))),
            // Conventional zones are read as they are, so their blocks are kept whole.
            (How::Short(some), Purpose::Write(_) | Purpose::Read(_)) if some * block < io.len => {
                (Outcome::Short(usize::try_from(some * block).unwrap()), None)
            }
            (How::Short(some), Purpose::Write(tag))
                if some * 512 < io.len && self.model.is_ordered(tag) =>
            {
                (Outcome::Short(usize::try_from(some * 512).unwrap()), None)
            }
            (How::Unsupported, Purpose::Zero(_)) if io.kind == IoKind::Zero => {
                (Outcome::Fail(libc::EOPNOTSUPP), None)
            }
            (How::Well | How::Short(_) | How::Unsupported, _) => (Outcome::Ok, Some(None)),
        };
        let short = match outcome {
            Outcome::Short(bytes) => bytes as u64,
            Outcome::Ok | Outcome::Fail(_) | Outcome::FailAfterPartial(_) => 0,
        };
        let disk = self.disk.as_ref().unwrap();
        ensure!(disk.complete(io.id, outcome), "an I/O is gone");
        self.quiesce(None)?;
        self.compare(&[], move |model, _| match (purpose, ended) {
            (Purpose::Write(tag), Some(failed)) => {
                // What a short write has moved stays on a conventional zone.
                let flight = model.flight(tag);
                let failed = failed.map(|bytes| flight.moved_bytes + bytes);
                model.write_ended(tag, failed);
            }
            (Purpose::Write(tag), None) => model.moved(tag, short),
            (Purpose::Read(tag), Some(failed)) => model.read_ended(tag, failed.is_none()),
            (Purpose::Read(tag), None) => model.read_moved(tag, short),
            (Purpose::Zero(at), Some(failed)) => {
                model.zeroing_ended(at, failed.map(|_| ErrorKind::Io));
            }
            (Purpose::Zero(_), None) => {}
        })
    }

    fn wear(&mut self, zone: u64, offline: bool) -> Checked {
        let at = usize::try_from(zone % self.model.zones.len() as u64).unwrap();
        let state = if offline { ZoneState::Offline } else { ZoneState::ReadOnly };
        let done = self.device.set_condition(u32::try_from(at).unwrap(), state);
        let expected = self.model.wear(at, state);
        for other in &mut self.others {
            ensure!(other.wear(at, state) == expected, "the models disagree on zone {at}");
        }
        let done = done.map_err(|error| error.kind());
        ensure!(done == expected, "wearing zone {at} out: {done:?}, expected {expected:?}");
        self.quiesce(None)?;
        self.compare(&[], |_, _| {})
    }

    /// Ends everything, reads everything, and resets the zones or not.
    fn rest(&mut self, reset: bool) -> Checked {
        let mut left = 10_000;
        while let Some(io) = self.pending().first().copied() {
            self.end_one(&io, How::Well)?;
            left -= 1;
            ensure!(left > 0, "I/O without end");
        }
        ensure!(self.model.quiet() && self.lent.is_empty(), "not quiet: {:?}", self.lent);
        for at in 0..self.model.zones.len() {
            let Zone { start, size, .. } = self.model.zones[at];
            self.submit(at as u64, &[(Want::Read { start, blocks: size }, false)])?;
            while let Some(io) = self.pending().first().copied() {
                self.end_one(&io, How::Well)?;
            }
        }
        if reset {
            self.submit(0, &[(Want::ResetAll, false)])?;
        }
        Ok(())
    }

    /// After a script that was cut short, too, everything completes.
    pub(crate) fn rest_at_end(&mut self) -> Checked {
        self.rest(false)
    }

    // ---- asking ---------------------------------------------------------------------------

    fn outstanding(&self, queue: usize) -> usize {
        self.lent.values().filter(|lent| lent.queue == queue).count() - 1
    }

    /// The request, and what the oracle is told of it.
    fn resolve(
        &mut self,
        queue: usize,
        want: Want,
        fua: bool,
        (model, since): (&Model, Tag),
    ) -> (Request, Told) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let block = model.block;
        let zones = model.zones.len() as u64;
        let index = |zone: u64| usize::try_from(zone % zones).unwrap();
        let start_of = |zone: u64| model.zones[index(zone)].start * block;
        let number = |zone: u64| u32::try_from(zone % zones).unwrap();
        let mut length = 0;
        let mut is_read = false;
        let mut data = |blocks: u64| {
            length = usize::try_from(blocks * block).unwrap();
            let pooled = self.queues[queue].buffer(length);
            let mut buffer = pooled.unwrap_or_else(|| Buffer::unpooled(length));
            for word in buffer.chunks_exact_mut(8) {
                word.copy_from_slice(&tag.to_le_bytes());
            }
            buffer
        };
        let ask = |zone: u64, call: Call, offset_bytes: u64| Ask {
            tag,
            queue,
            zone: index(zone),
            call,
            fua,
            offset_bytes,
            waited: false,
        };
        let write = |start: Option<u64>, blocks: u64| {
            let alone = start.is_none() && blocks > model.max_append;
            Call::Write { start, blocks, alone }
        };
        let mut read_zone = 0;
        let (request, what) = match want {
            Want::Append { zone, blocks } | Want::AppendAt { zone, blocks, .. } => {
                let data = data(blocks);
                let start = start_of(zone);
                let what = if blocks > model.max_append {
                    What::Refusal(ErrorKind::AppendTooLarge, start)
                } else {
                    What::Ask(ask(zone, write(None, blocks), start))
                };
                let request = match want {
                    Want::AppendAt { block: inside, .. } => {
                        let inside = inside % model.zones[index(zone)].size;
                        Request::append_at(start + inside * block, data)
                    }
                    _ => Request::append(number(zone), data),
                };
                (request, what)
            }
            Want::Ordered { zone, blocks } => {
                let request = Request::append_ordered(number(zone), data(blocks));
                (request, What::Ask(ask(zone, write(None, blocks), start_of(zone))))
            }
            Want::Write { zone, spot, blocks } => {
                let it = &model.zones[index(zone)];
                let inside = match spot {
                    Spot::End if !it.conventional => it.next_wp().min(it.size - 1),
                    Spot::End => tag % it.size,
                    Spot::Block(inside) => inside % it.size,
                };
                let offset = (it.start + inside) * block;
                let request = Request::write_at(offset, data(blocks));
                (request, What::Ask(ask(zone, write(Some(inside), blocks), offset)))
            }
            Want::Read { start, blocks } => {
                is_read = true;
                let start = start % model.blocks();
                let blocks = blocks.min(model.blocks() - start);
                read_zone = model.zone_of(start).unwrap();
                (Request::read_at(start * block, data(blocks)), What::Read(start, blocks))
            }
            Want::Open { zone } => {
                let ask = ask(zone, Call::Op(Op::Open), start_of(zone));
                (Request::open(number(zone)), What::Ask(ask))
            }
            Want::Close { zone } => {
                let ask = ask(zone, Call::Op(Op::Close), start_of(zone));
                (Request::close(number(zone)), What::Ask(ask))
            }
            Want::Finish { zone } => {
                let ask = ask(zone, Call::Op(Op::Finish), start_of(zone));
                (Request::finish(number(zone)), What::Ask(ask))
            }
            Want::Reset { zone } => {
                let ask = ask(zone, Call::Op(Op::Reset), start_of(zone));
                (Request::reset(number(zone)), What::Ask(ask))
            }
            Want::ResetAll => {
                (Request::reset_all(), What::ResetAll(ask(0, Call::ResetAll { begun: false }, 0)))
            }
            Want::Flush => (Request::flush(), What::Flush(since)),
            Want::Wrong { zone, which } => {
                let wrong = self.wrong(zone, which, model);
                length = wrong.2;
                is_read = wrong.3;
                (wrong.0, wrong.1)
            }
        };
        let zone = match want {
            Want::Append { zone, .. }
            | Want::AppendAt { zone, .. }
            | Want::Ordered { zone, .. }
            | Want::Write { zone, .. }
            | Want::Open { zone }
            | Want::Close { zone }
            | Want::Finish { zone }
            | Want::Reset { zone } => index(zone),
            Want::Read { .. } | Want::ResetAll | Want::Flush | Want::Wrong { .. } => read_zone,
        };
        let length = (length > 0).then_some(length);
        self.lent.insert(tag, Lent { queue, length, is_read });
        let request = request.tag(tag);
        (if fua { request.fua() } else { request }, Told { tag, queue, zone, what })
    }

    /// A request that is refused in every state.
    fn wrong(&self, zone: u64, which: u64, model: &Model) -> (Request, What, usize, bool) {
        use ErrorKind::{InvalidInput, OutOfRange};
        let block = model.block;
        let bytes = usize::try_from(block).unwrap();
        let end = model.blocks() * block;
        let past = u32::try_from(model.zones.len()).unwrap();
        let number = u32::try_from(zone % u64::from(past)).unwrap();
        let start = model.zones[number as usize].start * block;
        let buffer = Buffer::unpooled;
        let (request, kind, offset, length, is_read) = match which % 9 {
            0 => (Request::append(past, buffer(bytes)), OutOfRange, end, bytes, false),
            1 => {
                (Request::append(number, buffer(bytes - 1)), InvalidInput, start, bytes - 1, false)
            }
            2 => {
                let request = Request::write_at(start + 1, buffer(bytes));
                (request, InvalidInput, start + 1, bytes, false)
            }
            3 => {
                let past = (u64::from(past)) * self.setup.geometry.zone_size;
                (Request::write_at(past, buffer(bytes)), OutOfRange, past, bytes, false)
            }
            4 => (Request::read_at(start + 8, buffer(bytes)), InvalidInput, start + 8, bytes, true),
            5 => {
                let last = end - block;
                (Request::read_at(last, buffer(2 * bytes)), OutOfRange, last, 2 * bytes, true)
            }
            6 => (Request::open(past), OutOfRange, end, 0, false),
            7 => (Request::reset(past + 7), OutOfRange, end, 0, false),
            _ => {
                let request = Request::append_ordered(number, buffer(bytes + 1));
                (request, InvalidInput, start, bytes + 1, false)
            }
        };
        (request, What::Refusal(kind, offset), length, is_read)
    }

    // ---- driving --------------------------------------------------------------------------

    /// Drives all queues until nothing more happens. What is neither a write nor a read of a
    /// request, nor zeroing that the test ends itself, ends well at once.
    fn quiesce(&mut self, first: Option<usize>) -> Checked {
        if let (Some(queue), true) = (first, self.setup.memory) {
            return self.drive(queue).map(drop);
        }
        let (mut before, mut idle) = (Vec::new(), 0);
        for _ in 0..1000 {
            let mut went_on = false;
            let rest = (0..self.queues.len()).filter(|&queue| Some(queue) != first);
            for queue in first.into_iter().chain(rest) {
                went_on |= self.drive(queue)?;
            }
            let Some(disk) = &self.disk else { return Ok(()) };
            let pending = disk.pending();
            for io in &pending {
                let at_once = match io.kind {
                    IoKind::SyncData | IoKind::WriteDurable => true,
                    IoKind::Zero => !self.setup.slow_zeroing,
                    IoKind::Read | IoKind::Write => false,
                };
                if at_once {
                    disk.complete(io.id, Outcome::Ok);
                    went_on = true;
                }
            }
            // What one queue lets another do shows only when that one is driven again.
            idle = if went_on || pending != before { 0 } else { idle + 1 };
            if idle == self.queues.len() {
                return Ok(());
            }
            before = pending;
        }
        Err("it goes on without end".to_owned())
    }

    fn drive(&mut self, queue: usize) -> Checked<bool> {
        self.queues[queue].submit().map_err(|error| error.to_string())?;
        let mut any = false;
        while let Some(completion) = self.queues[queue].next_completion() {
            self.take(queue, completion)?;
            any = true;
        }
        Ok(any)
    }

    fn take(&mut self, queue: usize, completion: Completion) -> Checked {
        let Completion { tag, result, flags, offset, buffer } = completion;
        let Some(lent) = self.lent.remove(&tag) else {
            return Err(format!("request {tag} completes twice, or was never made"));
        };
        ensure!(lent.queue == queue, "request {tag} completes on another queue");
        let length = buffer.as_ref().map(|buffer| buffer.len());
        ensure!(length == lent.length, "request {tag} gives {length:?} back, not {lent:?}");
        if let (Some(buffer), Ok(_), false) = (&buffer, &result, lent.is_read) {
            let whole = buffer.chunks_exact(8).all(|word| word == tag.to_le_bytes());
            ensure!(whole, "the buffer of write {tag} has changed");
        }
        let bytes = match (&buffer, lent.is_read && result.is_ok()) {
            (Some(buffer), true) => Some(tags(buffer, self.model.block)?),
            (Some(_) | None, _) => None,
        };
        let expected = Expected {
            result: result.map(u64::from).map_err(|error| error.kind()),
            refused: flags.contains(Flags::REFUSED),
            held: flags.contains(Flags::HELD),
            waited: flags.contains(Flags::PARKED),
            durable: flags.contains(Flags::DURABLE),
            offset_bytes: offset,
            shown: None,
        };
        self.reached.refused += u64::from(expected.refused);
        self.reached.parked += u64::from(expected.waited);
        self.reached.held += u64::from(expected.held);
        self.reached.behind += u64::from(expected.result == Err(ErrorKind::BehindFailedWrite));
        self.seen.insert(tag, Seen { expected, bytes });
        Ok(())
    }

    /// What waits for the test to end it.
    fn pending(&self) -> Vec<PendingIo> {
        self.disk.as_ref().map(SimDisk::pending).unwrap_or_default()
    }

    // ---- comparing ------------------------------------------------------------------------

    /// Tells the oracle what was done, and compares. Several zones may go on in any order among
    /// themselves, which shows later in whose zone is closed for another; so every order that
    /// fits what was seen is kept.
    fn compare(&mut self, asked: &[usize], tell: impl Fn(&mut Model, &[usize])) -> Checked {
        let others = std::mem::take(&mut self.others);
        let mut fits: Vec<Model> = Vec::new();
        let mut found = Ok(());
        let in_order: Vec<usize> = (0..asked.len()).collect();
        for before in std::iter::once(&self.model).chain(&others) {
            let mut usual = before.clone();
            tell(&mut usual, &in_order);
            let is_open_to_order = self.disk.is_some() && before.is_limited();
            let opened = usual.opened_since(before);
            match self.agree(usual) {
                Ok(model) => keep(&mut fits, model),
                Err(what) => found = Err(what),
            }
            if !is_open_to_order || (opened < 2 && found.is_ok()) {
                continue;
            }
            for order in interleavings(asked) {
                let mut model = before.clone();
                tell(&mut model, &order);
                if let Ok(model) = self.agree(model) {
                    keep(&mut fits, model);
                }
            }
            let waiting = (0..before.zones.len()).filter(|&at| !before.zones[at].has_no_line());
            for order in orders(&waiting.collect::<Vec<_>>()) {
                let mut model = before.clone();
                model.prefer(&order);
                tell(&mut model, &in_order);
                if let Ok(model) = self.agree(model) {
                    keep(&mut fits, model);
                }
            }
        }
        if fits.is_empty() {
            return found;
        }
        self.reached.reordered += u64::from(fits.len() > 1);
        self.others = fits.split_off(1);
        self.model = fits.remove(0);
        self.reached.failures = self.model.failures;
        self.reached.over_dead = self.model.settled_over_dead;
        self.reached.victims = self.model.victims;
        self.seen.clear();
        if self.disk.is_some() {
            self.known = self.purposes(&self.model)?;
        }
        Ok(())
    }

    /// Whether what was seen is what a model expects; the model, with that behind it.
    fn agree(&self, mut model: Model) -> Checked<Model> {
        self.agree_on_zones(&model)?;
        self.agree_on_completions(&mut model)?;
        self.agree_on_pending(&model)?;
        for (index, queue) in self.queues.iter().enumerate() {
            let mine = self.lent.values().filter(|lent| lent.queue == index).count();
            let in_flight = queue.in_flight();
            ensure!(in_flight == mine, "queue {index} holds {in_flight} requests, not {mine}");
        }
        Ok(model)
    }

    fn agree_on_zones(&self, model: &Model) -> Checked {
        let report = self.device.report(..).map_err(|error| error.to_string())?;
        ensure!(report.len() == model.zones.len(), "so many zones: {}", report.len());
        let block = model.block;
        for (at, (info, zone)) in report.iter().zip(&model.zones).enumerate() {
            let no_pointer = matches!(zone.state, ZoneState::NotWp | ZoneState::Offline);
            let wp = (!no_pointer).then_some((zone.start + zone.wp) * block);
            ensure!(
                (info.state, info.write_pointer) == (zone.state, wp),
                "zone {at} is {} with its pointer at {:?}, expected {} and {wp:?} (block {block})",
                info.state,
                info.write_pointer,
                zone.state,
            );
            let conventional = info.kind == ZoneKind::Conventional;
            let shape = (info.start, info.size, info.capacity, conventional);
            let expected = (zone.start * block, zone.size * block, zone.capacity * block);
            let expected = (expected.0, expected.1, expected.2, zone.conventional);
            ensure!(shape == expected, "zone {at} has the shape {shape:?}, not {expected:?}");
        }
        let (open, active) = self.device.zones_in_use();
        ensure!((open, active) == model.in_use(), "{open} open and {active} active are counted");
        let over = |limit: u64, count: u32| limit > 0 && u64::from(count) > limit;
        let within = !over(model.max_open, open) && !over(model.max_active, active);
        ensure!(within, "{open} open, {active} active: over the limits");
        Ok(())
    }

    fn agree_on_completions(&self, model: &mut Model) -> Checked {
        for (&tag, Seen { expected: seen, bytes }) in &self.seen {
            if model.reads.contains_key(&tag) && model.is_blank(tag) {
                model.read_ended(tag, true);
            }
            let mut expected = match model.done.remove(&tag) {
                Some(expected) => expected,
                None => self.soft(model, tag, seen)?,
            };
            // A write also waits at its zone until the zone's reset is durable.
            expected.waited |= self.disk.is_some() && seen.waited;
            ensure!(
                bytes.is_none() || *bytes == expected.shown,
                "read {tag} shows {bytes:?}, expected {:?}",
                expected.shown
            );
            expected.shown = None;
            ensure!(*seen == expected, "request {tag} ends as {seen:?}, expected {expected:?}");
        }
        ensure!(model.done.is_empty(), "not completed: {:?}", model.done);
        let late = model.zones.iter().all(Zone::quiet) && !model.soft.is_empty();
        ensure!(!late, "flushes wait for nothing: {:?}", model.soft);
        Ok(())
    }

    fn soft(&self, model: &mut Model, tag: Tag, seen: &Expected) -> Checked<Expected> {
        let Some(soft) = model.soft.remove(&tag) else {
            return Err(format!("request {tag} must not end yet, and does as {seen:?}"));
        };
        let early: BTreeSet<_> = soft.after.intersection(&model.unsettled()).copied().collect();
        ensure!(early.is_empty(), "request {tag} is durable before the writes {early:?} ended");
        Ok(soft.expected)
    }

    /// Exactly the writes and reads that the oracle has in flight are with the disk, each where
    /// it belongs.
    fn agree_on_pending(&self, model: &Model) -> Checked {
        if self.disk.is_none() {
            return Ok(());
        }
        let purposes = self.purposes(model)?;
        let busy = model.zones.iter().filter(|zone| zone.is_zeroing()).count();
        let flights: usize = model.zones.iter().map(|zone| zone.flights.len()).sum();
        let expected = busy + flights + model.loose.len() + model.reads.len();
        ensure!(
            purposes.len() == expected,
            "the disk has {purposes:?}, expected {flights} writes in zones, {} elsewhere, \
             {} reads, {busy} zones zeroed",
            model.loose.len(),
            model.reads.len(),
        );
        Ok(())
    }

    /// What everything pending is for, by its number. What is new since the last step is what
    /// nothing known is for.
    fn purposes(&self, model: &Model) -> Checked<BTreeMap<u64, Purpose>> {
        let pending = self.pending();
        let known = |io: &PendingIo| Some((io.id, *self.known.get(&io.id)?));
        let mut purposes: BTreeMap<_, _> = pending.iter().filter_map(known).collect();
        for io in &pending {
            if !purposes.contains_key(&io.id) {
                let purpose = self.purpose_in(model, io, &purposes)?;
                purposes.insert(io.id, purpose);
            }
        }
        Ok(purposes)
    }

    fn purpose_in(
        &self,
        model: &Model,
        io: &PendingIo,
        taken: &BTreeMap<u64, Purpose>,
    ) -> Checked<Purpose> {
        let offset = io.offset.checked_sub(self.data_offset);
        let offset = offset.ok_or(format!("{io:?} is outside the data"))?;
        let queue = io.engine as usize;
        if io.kind == IoKind::Read {
            let free =
                |tag: Tag| !taken.values().any(|p| matches!(p, Purpose::Read(t) if *t == tag));
            let fits = model.reads.iter().find(|(tag, read)| {
                let place = read.start * model.block + read.moved_bytes;
                let length = read.blocks * model.block - read.moved_bytes;
                (read.queue, place, length) == (queue, offset, io.len) && free(**tag)
            });
            let found = fits.map(|(&tag, _)| Purpose::Read(tag));
            return found.ok_or(format!("a read nobody asked for: {io:?}"));
        }
        let at = model.zone_of(offset / model.block).ok_or(format!("{io:?} is past the end"))?;
        if model.zones[at].is_zeroing() {
            return Ok(Purpose::Zero(at));
        }
        let free = |tag: Tag| !taken.values().any(|p| matches!(p, Purpose::Write(t) if *t == tag));
        let zone = &model.zones[at];
        let mut flights =
            zone.flights.iter().chain(model.loose.iter().filter(|flight| flight.ask.zone == at));
        let fits = flights.find(|flight| {
            let place = (zone.start + flight.start) * model.block + flight.moved_bytes;
            let length = flight.blocks * model.block - flight.moved_bytes;
            (flight.ask.queue, place, length) == (queue, offset, io.len) && free(flight.ask.tag)
        });
        let found = fits.map(|flight| Purpose::Write(flight.ask.tag));
        found.ok_or(format!("zone {at}: a write that is not expected there: {io:?} at {offset}"))
    }
}

impl Drop for Pair {
    /// After a failure I/O is pending, for which the queues would wait.
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            disk.cut(&mut |_| 0);
        }
    }
}

/// A request as the oracle is told of it.
struct Told {
    tag: Tag,
    queue: usize,
    zone: usize,
    what: What,
}

enum What {
    Ask(Ask),
    ResetAll(Ask),
    Read(u64, u64),
    /// In a submission that begins with this tag.
    Flush(Tag),
    Refusal(ErrorKind, u64),
}

impl Told {
    fn tell(&self, model: &mut Model) {
        match &self.what {
            What::Ask(ask) => model.ask(ask.clone()),
            What::ResetAll(ask) => model.reset_all(ask),
            &What::Read(start, blocks) => model.read(self.tag, self.queue, start, blocks),
            &What::Flush(since) => model.flush(self.tag, since),
            &What::Refusal(kind, offset) => model.refuse_at_once(self.tag, kind, offset),
        }
    }
}

fn zones(setup: &Setup) -> Vec<Zone> {
    let geometry = &setup.geometry;
    let block = u64::from(geometry.block_size);
    let (size, total) = (geometry.zone_size / block, geometry.size / block);
    let capacity = geometry.zone_capacity / block;
    let starts = (0..total).step_by(usize::try_from(size).unwrap());
    let zones = starts.zip(0..).map(|(start, at)| {
        Zone::new(at < geometry.conventional_zones, start, size.min(total - start), capacity)
    });
    zones.collect()
}

fn data_offset(setup: &Setup, image: &SimImage) -> u64 {
    const CLUSTER: u64 = 2 << 20;
    image.len() - setup.geometry.size.div_ceil(CLUSTER) * CLUSTER
}

/// The tags in a buffer, one per block, of which each must be of one piece.
fn tags(buffer: &[u8], block: u64) -> Checked<Vec<u64>> {
    let blocks = buffer.chunks(usize::try_from(block).unwrap());
    let tag_of = |block: &[u8]| {
        let first = &block[..8];
        let whole = block.chunks_exact(8).all(|word| word == first);
        ensure!(whole, "a block of a read is torn");
        Ok(u64::from_le_bytes(first.try_into().unwrap()))
    };
    blocks.map(tag_of).collect()
}

/// Adds a model that differs from those there are in what comes.
fn keep(fits: &mut Vec<Model>, model: Model) {
    if fits.iter().all(|other| other.opening_order() != model.opening_order()) {
        fits.push(model);
    }
}

/// Every order of requests to these zones in which those to one zone stay in theirs.
fn interleavings(asked: &[usize]) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..asked.len()).collect();
    let is_kept = |order: &Vec<usize>| {
        let place = |which: usize| order.iter().position(|&other| other == which);
        let pairs = all.iter().flat_map(|&a| (0..a).map(move |b| (b, a)));
        pairs.into_iter().all(|(b, a)| asked[a] != asked[b] || place(b) < place(a))
    };
    let mut orders = orders(&all);
    orders.retain(is_kept);
    orders
}

/// Every order of some zones.
fn orders(zones: &[usize]) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for &at in zones {
        let longer = orders.iter().flat_map(|order: &Vec<usize>| {
            (0..=order.len()).map(move |place| {
                let mut order = order.clone();
                order.insert(place, at);
                order
            })
        });
        orders = longer.collect();
    }
    orders
}
