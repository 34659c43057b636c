//! A mixed load that says what it does, for tests that cut it off: every kind of write, reads,
//! flushes, operations on zones, from several threads with a queue each.
//!
//! What is said is one line an event, in the order in which a listener may rely on it: what makes a
//! promise void before it is submitted, what makes one after its completion.
//!
//! | line | says |
//! |---|---|
//! | `rec ZONE LIFE RECORD OFFSET BLOCKS` | a record is acknowledged |
//! | `fua` and the same | it is durable, too |
//! | `flush N`, `flushed N` | a flush is about to be submitted; has succeeded |
//! | `reset ZONE LIFE`, `reset-done ZONE LIFE` | the same of a reset; `LIFE` is the one it begins |
//! | `reset-failed ZONE LIFE` | the zone is still in the life before |
//! | `finish ZONE LIFE`, `finished ZONE LIFE` | the same of a finish |
//!
//! Every block of a record carries its zone, the zone's life, and the record's number.
//! [`said::Said`] hears all this, and holds it against a drive.

#![allow(dead_code, reason = "each suite uses a part of it")]

mod random;
pub(crate) mod said;

pub(crate) use random::Random;

use std::collections::HashMap;
use std::io::Write;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use zonal::{
    Buffer, Completion, Device, ErrorKind, Flags, Geometry, Queue, QueueOptions, Request, ZoneState,
};

pub(crate) const BLOCK: usize = 4096;
pub(crate) const ZONES: u32 = 8;
pub(crate) const ZONE_BYTES: u64 = 1 << 20;
const ZONE_BLOCKS: u64 = ZONE_BYTES / BLOCK as u64;
/// Blocks of the largest append.
const APPEND_BLOCKS: u64 = 16;
/// Zones from here on belong to one thread each, which knows their write pointers.
const SHARED: u32 = 4;
/// Threads, each with a queue of its own.
const THREADS: u32 = 3;

pub(crate) fn geometry() -> Geometry {
    Geometry {
        zone_size: ZONE_BYTES,
        zone_capacity: ZONE_BYTES,
        max_append: APPEND_BLOCKS as u32 * BLOCK as u32,
        ..Geometry::with_size(u64::from(ZONES) * ZONE_BYTES)
    }
}

/// What a block says of itself: zone, life, record, block of the record, blocks of it.
pub(crate) type Stamp = [u64; 5];

fn stamp(block: &mut [u8], stamp: Stamp) {
    for words in block.chunks_exact_mut(40) {
        for (word, value) in words.chunks_exact_mut(8).zip(stamp) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    let tail = block.len() / 40 * 40;
    block[tail..].fill(0xA5);
}

/// The stamp of a block, `None` for zeros.
pub(crate) fn stamp_of(block: &[u8], place: &str) -> Option<Stamp> {
    if block.iter().all(|&byte| byte == 0) {
        return None;
    }
    let mut found = [0; 5];
    for (value, word) in found.iter_mut().zip(block.chunks_exact(8)) {
        *value = u64::from_le_bytes(word.try_into().unwrap());
    }
    let mut whole = vec![0; BLOCK];
    stamp(&mut whole, found);
    assert!(whole == block, "a torn or foreign block at {place}: it begins {:x?}", &block[..8]);
    Some(found)
}

/// How a load goes on when something fails.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Temper {
    /// Nothing may fail but for want of room in a zone.
    Strict,
    /// The disk may fail.
    Patient,
}

pub(crate) struct Load<'a> {
    pub(crate) drive: &'a Device,
    /// The life that each zone is in.
    pub(crate) lives: Vec<u64>,
    pub(crate) seed: u64,
    /// Of a thousand requests, how many are flushes, and how many writes ask to be durable.
    pub(crate) flushes: u64,
    pub(crate) temper: Temper,
    pub(crate) say: &'a (dyn Fn(&str) + Sync),
    pub(crate) goes_on: &'a (dyn Fn() -> bool + Sync),
}

/// What the threads of a load share.
struct Board {
    lives: Vec<AtomicU64>,
    /// Requests said to be in each zone; with its gate shut nobody adds to them.
    inside: Vec<AtomicU32>,
    shut: Vec<AtomicBool>,
    next: AtomicU64,
}

impl Load<'_> {
    /// Runs until it need not go on, or the drive takes no more writes; returns the errors met,
    /// by kind.
    pub(crate) fn run(&self) -> HashMap<ErrorKind, u32> {
        let board = Board {
            lives: self.lives.iter().copied().map(AtomicU64::new).collect(),
            inside: (0..ZONES).map(|_| AtomicU32::new(0)).collect(),
            shut: (0..ZONES).map(|_| AtomicBool::new(false)).collect(),
            // Records of different runs are told apart.
            next: AtomicU64::new(self.seed << 24 | 1),
        };
        std::thread::scope(|scope| {
            let board = &board;
            let threads: Vec<_> = (0..THREADS)
                .map(|n| scope.spawn(move || Writer::new(self, board, n).run()))
                .collect();
            let mut all = HashMap::new();
            for thread in threads {
                for (kind, count) in thread.join().expect("a writer has found a mistake") {
                    *all.entry(kind).or_insert(0) += count;
                }
            }
            all
        })
    }
}

/// What a request of a writer is.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Record { zone: u32, life: u64, record: u64, blocks: u64, at: Option<u64> },
    Read { zone: u32, life: u64, record: u64, blocks: u64 },
    Flush { number: u64 },
}

struct Writer<'a> {
    load: &'a Load<'a>,
    board: &'a Board,
    number: u32,
    queue: Queue,
    random: Random,
    asked: HashMap<u64, Ask>,
    /// Where the next write into a zone of its own goes, in blocks; `None` where that has to be
    /// looked up, as after a failure.
    pointers: Vec<Option<u64>>,
    /// A record of each zone that has been acknowledged: life, record, offset, blocks.
    known: HashMap<u32, (u64, u64, u64, u64)>,
    /// Zones that were full when it last looked; soon reset.
    full: Vec<bool>,
    errors: HashMap<ErrorKind, u32>,
    latched: bool,
}

impl<'a> Writer<'a> {
    fn new(load: &'a Load<'a>, board: &'a Board, number: u32) -> Self {
        let options = QueueOptions { depth: 24, ..QueueOptions::default() };
        Self {
            load,
            board,
            number,
            queue: load.drive.queue(&options).unwrap(),
            random: Random::new(load.seed << 8 | u64::from(number) << 1),
            asked: HashMap::new(),
            pointers: vec![None; ZONES as usize],
            known: HashMap::new(),
            full: vec![false; ZONES as usize],
            errors: HashMap::new(),
            latched: false,
        }
    }

    fn run(mut self) -> HashMap<ErrorKind, u32> {
        while !self.latched && (self.load.goes_on)() {
            let zone = self.random.next(ZONES.into()) as u32;
            match self.random.next(1000) {
                0..3 => self.operate(zone, Operation::Finish),
                3..15 => self.operate(zone, Operation::Reset),
                15..25 => self.operate(zone, Operation::Open),
                25..35 => self.operate(zone, Operation::Close),
                35..100 => self.read(zone),
                n if n < 100 + self.load.flushes => self.flush(),
                n if n < 300 && self.full[zone as usize] => self.operate(zone, Operation::Reset),
                _ if self.full[zone as usize] => {}
                _ => self.write(zone),
            }
            if self.random.next(4) == 0 {
                self.queue.submit().unwrap();
                self.hear();
            }
        }
        self.drain();
        self.errors
    }

    fn owns(&self, zone: u32) -> bool {
        zone >= SHARED && zone % THREADS == self.number
    }

    /// Enters a zone, which then is not reset before [`hear`](Self::hear) has left it.
    fn enter(&mut self, zone: u32) -> Option<u64> {
        if zone >= SHARED && !self.owns(zone) {
            return None;
        }
        let inside = &self.board.inside[zone as usize];
        inside.fetch_add(1, SeqCst);
        if self.board.shut[zone as usize].load(SeqCst) {
            inside.fetch_sub(1, SeqCst);
            return None;
        }
        Some(self.board.lives[zone as usize].load(SeqCst))
    }

    fn leave(&self, zone: u32) {
        self.board.inside[zone as usize].fetch_sub(1, SeqCst);
    }

    fn push(&mut self, ask: Ask, request: Request) {
        let tag = self.board.next.fetch_add(1, SeqCst);
        self.asked.insert(tag, ask);
        let mut request = request.tag(tag);
        while let Err(zonal::Full(back)) = self.queue.push(request) {
            self.queue.submit_and_wait(6).unwrap();
            self.hear();
            request = back;
        }
    }

    fn write(&mut self, zone: u32) {
        let Some(life) = self.enter(zone) else { return };
        let kind = self.random.next(if self.owns(zone) { 5 } else { 3 });
        // Only those may be longer than an append that know where they go, or are ordered.
        let longest = if kind < 3 { 4 } else { 2 * APPEND_BLOCKS };
        let blocks = 1 + self.random.next(longest);
        let at = if self.owns(zone) {
            match self.place(zone, blocks) {
                Some(at) => Some(u64::from(zone) * ZONE_BYTES + at * BLOCK as u64),
                None => {
                    self.full[zone as usize] = true;
                    return self.leave(zone);
                }
            }
        } else {
            None
        };
        let record = self.board.next.fetch_add(1, SeqCst);
        let mut data = vec![0; blocks as usize * BLOCK];
        for (n, block) in (0..).zip(data.chunks_exact_mut(BLOCK)) {
            stamp(block, [zone.into(), life, record, n, blocks]);
        }
        let mut buffer = self.queue.buffer(data.len()).unwrap_or_else(|| Buffer::from_slice(&data));
        buffer.copy_from_slice(&data);
        let request = match (kind, at) {
            (0 | 1, _) => Request::append(zone, buffer),
            (4, Some(at)) => Request::write_at(at, buffer),
            (_, _) => Request::append_ordered(zone, buffer),
        };
        let durable = self.random.next(1000) < self.load.flushes;
        let request = if durable { request.fua() } else { request };
        self.push(Ask::Record { zone, life, record, blocks, at }, request);
    }

    /// Takes a place in a zone of its own; `None` where there is no room.
    fn place(&mut self, zone: u32, blocks: u64) -> Option<u64> {
        let at = match self.pointers[zone as usize] {
            Some(at) => at,
            None => self.look(zone)?,
        };
        if at + blocks > ZONE_BLOCKS {
            return None;
        }
        self.pointers[zone as usize] = Some(at + blocks);
        Some(at)
    }

    /// Looks where a zone of its own ends, with nothing in flight in it.
    fn look(&mut self, zone: u32) -> Option<u64> {
        self.drain_zone(zone, 1);
        let info = self.load.drive.report(zone..=zone).unwrap()[0];
        match info.state {
            ZoneState::Full | ZoneState::ReadOnly | ZoneState::Offline => None,
            ZoneState::Empty
            | ZoneState::ImplicitlyOpen
            | ZoneState::ExplicitlyOpen
            | ZoneState::Closed
            | ZoneState::NotWp => info.write_pointer.map(|wp| (wp - info.start) / BLOCK as u64),
        }
    }

    /// Waits until nobody but itself is in a zone, which it has entered so many times.
    fn drain_zone(&mut self, zone: u32, own: u32) {
        self.drain();
        while self.board.inside[zone as usize].load(SeqCst) > own {
            std::thread::yield_now();
        }
    }

    fn read(&mut self, zone: u32) {
        let Some(&(life, record, offset, blocks)) = self.known.get(&zone) else { return };
        let Some(now) = self.enter(zone) else { return };
        if now != life {
            return self.leave(zone);
        }
        let into = Buffer::from_slice(&vec![0; blocks as usize * BLOCK]);
        self.push(Ask::Read { zone, life, record, blocks }, Request::read_at(offset, into));
    }

    fn flush(&mut self) {
        let number = self.board.next.fetch_add(1, SeqCst);
        self.hear();
        (self.load.say)(&format!("\nflush {number}\n"));
        self.push(Ask::Flush { number }, Request::flush());
    }

    /// Does an operation on a zone by itself: nothing of the load is in flight there, so that each
    /// record is said before what makes it void.
    fn operate(&mut self, zone: u32, operation: Operation) {
        let mine = zone < SHARED || self.owns(zone);
        if !mine || self.board.shut[zone as usize].swap(true, SeqCst) {
            return;
        }
        self.drain_zone(zone, 0);
        let life = self.board.lives[zone as usize].load(SeqCst);
        let mut next = life + u64::from(operation == Operation::Reset);
        let (asked, done, request) = match operation {
            Operation::Reset => ("reset", "reset-done", Request::reset(zone)),
            Operation::Finish => ("finish", "finished", Request::finish(zone)),
            Operation::Open => ("", "", Request::open(zone)),
            Operation::Close => ("", "", Request::close(zone)),
        };
        if !asked.is_empty() {
            (self.load.say)(&format!("\n{asked} {zone} {next}\n"));
        }
        self.queue.push(request).unwrap();
        self.queue.submit_and_wait(1).unwrap();
        match self.queue.next_completion().unwrap().result {
            Ok(_) if !done.is_empty() => (self.load.say)(&format!("\n{done} {zone} {next}\n")),
            Ok(_) => {}
            Err(error) => {
                self.met(&error);
                if operation == Operation::Reset {
                    (self.load.say)(&format!("\nreset-failed {zone} {next}\n"));
                    next = life;
                }
            }
        }
        self.board.lives[zone as usize].store(next, SeqCst);
        self.pointers[zone as usize] = None;
        self.full[zone as usize] = false;
        self.board.shut[zone as usize].store(false, SeqCst);
    }

    /// Everything it has asked for ends and is said.
    fn drain(&mut self) {
        self.queue.submit_and_wait(usize::MAX).unwrap();
        self.hear();
        assert!(self.asked.is_empty(), "what was accepted ends");
    }

    /// Says what has ended.
    fn hear(&mut self) {
        let mut lines = String::new();
        let mut left = Vec::new();
        while let Some(completion) = self.queue.next_completion() {
            let ask = self.asked.remove(&completion.tag).expect("each request ends once");
            lines += &self.ended(ask, &completion);
            match ask {
                Ask::Record { zone, .. } | Ask::Read { zone, .. } => left.push(zone),
                Ask::Flush { .. } => {}
            }
        }
        if !lines.is_empty() {
            (self.load.say)(&lines);
        }
        left.into_iter().for_each(|zone| self.leave(zone));
    }

    /// What there is to say of a request that has ended.
    fn ended(&mut self, ask: Ask, completion: &Completion) -> String {
        if let Err(error) = &completion.result {
            if let Ask::Record { zone, .. } = ask {
                self.pointers[zone as usize] = None;
                self.full[zone as usize] |= error.kind() == ErrorKind::ZoneFull;
            }
            self.met(error);
            return String::new();
        }
        match ask {
            Ask::Record { zone, life, record, blocks, at } => {
                let offset = completion.offset;
                assert!(
                    at.is_none_or(|at| at == offset) || self.load.temper == Temper::Patient,
                    "record {record} landed at {offset}, and was to go to {at:?}"
                );
                self.known.insert(zone, (life, record, offset, blocks));
                let durable = completion.flags.contains(Flags::DURABLE);
                let word = if durable { "fua" } else { "rec" };
                format!("\n{word} {zone} {life} {record} {offset} {blocks}\n")
            }
            Ask::Read { zone, life, record, blocks } => {
                let bytes = completion.buffer.as_deref().expect("a read returns its buffer");
                for (n, block) in (0..).zip(bytes.chunks_exact(BLOCK)) {
                    let place = format!("{} of zone {zone}", completion.offset);
                    let found = stamp_of(block, &place);
                    assert_eq!(found, Some([zone.into(), life, record, n, blocks]), "at {place}");
                }
                String::new()
            }
            Ask::Flush { number } => format!("\nflushed {number}\n"),
        }
    }

    fn met(&mut self, error: &zonal::Error) {
        *self.errors.entry(error.kind()).or_insert(0) += 1;
        let expected = match error.kind() {
            ErrorKind::BeyondCapacity | ErrorKind::ZoneFull | ErrorKind::InvalidTransition => true,
            ErrorKind::DeviceReadOnly => {
                self.latched = true;
                self.load.temper == Temper::Patient
            }
            _ => self.load.temper == Temper::Patient,
        };
        assert!(expected, "{error}");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Open,
    Close,
    Finish,
    Reset,
}

/// Writes every zone full of what no record looks like, and resets it.
pub(crate) fn fill_with_a_marker(drive: Device) {
    let options = QueueOptions { buffer_bytes: ZONE_BYTES as usize, ..QueueOptions::default() };
    let mut queue = drive.queue(&options).unwrap();
    let run = |queue: &mut Queue, request| {
        queue.push(request).unwrap();
        queue.submit_and_wait(1).unwrap();
        queue.next_completion().unwrap().result.unwrap()
    };
    for zone in 0..ZONES {
        let mut marker = queue.buffer(ZONE_BYTES as usize).unwrap();
        marker.fill(0xEE);
        run(&mut queue, Request::append_ordered(zone, marker));
    }
    run(&mut queue, Request::flush());
    run(&mut queue, Request::reset_all());
    drop(queue);
    drive.close().unwrap();
}

/// A process that does not outlive the test that started it.
pub(crate) struct Leashed(pub(crate) Child);

impl Drop for Leashed {
    fn drop(&mut self) {
        // It has ended, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says a line on a stream whose reader sees it whole: in as few writes as pipes keep together.
pub(crate) fn say_to(mut stream: impl Write, lines: &str) {
    // Lines begin and end with a newline, so a piece may end at any of these.
    let mut rest = lines;
    while !rest.is_empty() {
        let end = if rest.len() <= PIPE_BUF {
            rest.len()
        } else {
            rest[..PIPE_BUF].rfind('\n').expect("lines are short") + 1
        };
        stream.write_all(&rest.as_bytes()[..end]).unwrap();
        rest = &rest[end..];
    }
    stream.flush().unwrap();
}

/// What pipes take as a whole (`pipe(7)`).
const PIPE_BUF: usize = 4096;
