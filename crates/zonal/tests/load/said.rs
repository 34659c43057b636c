//! What a load has said, and what a drive therefore has to show.

use super::{BLOCK, Stamp, ZONE_BYTES, ZONES, stamp_of};
use std::collections::HashMap;
use zonal::{Device, QueueOptions, Request, ZoneInfo, ZoneState};

/// What has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Everything acknowledged: the process died.
    Acknowledged,
    /// Everything flushed: the power was cut.
    Flushed,
}

/// What a drive is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    pub(crate) promise: Promise,
    /// Whether zeros may lie among the records of a zone: writes failed, or were in flight.
    pub(crate) zeros: bool,
}

/// Everything said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    zones: Vec<Lives>,
    /// Flushes submitted, and when.
    flushes: HashMap<u64, u64>,
    /// How many lines were heard.
    now: u64,
}

/// What was said of a zone: its lives, the newest last. Those that cannot be there any more are
/// forgotten.
#[derive(Clone, Debug)]
struct Lives(Vec<Life>);

#[derive(Clone, Debug, Default)]
struct Life {
    number: u64,
    /// When the reset that began it was done.
    begun: Option<u64>,
    /// No earlier life can be there after a power cut.
    durable: bool,
    records: Vec<Record>,
    finishing: bool,
    finished: Option<u64>,
    finish_durable: bool,
    /// What begins below this offset is durable: a durable write lies above.
    durable_to: u64,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    record: u64,
    offset: u64,
    blocks: u64,
    said: u64,
    durable: bool,
}

impl Said {
    pub(crate) fn nothing() -> Self {
        let first = Life { begun: Some(0), durable: true, ..Life::default() };
        let zones = (0..ZONES).map(|_| Lives(vec![first.clone()])).collect();
        Self { zones, flushes: HashMap::new(), now: 0 }
    }

    /// The newest life of each zone.
    pub(crate) fn lives(&self) -> Vec<u64> {
        self.zones.iter().map(|zone| zone.newest().number).collect()
    }

    /// Records that have to be there after a power cut.
    pub(crate) fn flushed_records(&self) -> usize {
        let newest = self.zones.iter().map(Lives::newest);
        newest.map(|life| life.promised(Promise::Flushed).count()).sum()
    }

    pub(crate) fn hear_all(&mut self, lines: &str) {
        lines.lines().for_each(|line| self.hear(line));
    }

    pub(crate) fn hear(&mut self, line: &str) {
        self.now += 1;
        let now = self.now;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<u64>().unwrap();
        match words[0] {
            "rec" | "fua" => {
                let life = self.zones[number(1) as usize].life(number(2));
                let (record, offset, blocks) = (number(3), number(4), number(5));
                life.records.push(Record { record, offset, blocks, said: now, durable: false });
                // A reset is durable before the first new write enters the zone.
                (life.begun, life.durable) = (life.begun.or(Some(now)), true);
                if words[0] == "fua" {
                    life.durable_to = life.durable_to.max(offset + blocks * BLOCK as u64);
                }
            }
            "flush" => drop(self.flushes.insert(number(1), now)),
            "flushed" => {
                let submitted = self.flushes.remove(&number(1)).expect("it was submitted");
                self.zones.iter_mut().for_each(|zone| zone.flushed(submitted));
            }
            "reset" => {
                let life = Life { number: number(2), ..Life::default() };
                self.zones[number(1) as usize].0.push(life);
            }
            "reset-done" => {
                self.zones[number(1) as usize].life(number(2)).begun = Some(now);
            }
            "reset-failed" => {
                let lives = &mut self.zones[number(1) as usize].0;
                lives.pop_if(|life| life.number == number(2));
            }
            "finish" => self.zones[number(1) as usize].life(number(2)).finishing = true,
            "finished" => {
                self.zones[number(1) as usize].life(number(2)).finished = Some(now);
            }
            // What the test harness prints.
            _ => {}
        }
    }

    /// Holds a drive against it; returns how many records had to be there. What is seen is what
    /// has to be there from now on.
    pub(crate) fn verify(&mut self, drive: &Device, expect: Expect) -> usize {
        let mut found = 0;
        for (zone, info) in self.zones.iter_mut().zip(drive.report(..).unwrap()) {
            let shown = Shown::read(drive, info);
            found += zone.verify(&shown, expect);
        }
        self.flushes.clear();
        found
    }
}

impl Lives {
    fn newest(&self) -> &Life {
        self.0.last().expect("a zone is in some life")
    }

    fn life(&mut self, number: u64) -> &mut Life {
        self.0.iter_mut().rev().find(|life| life.number == number).expect("it was begun")
    }

    /// A flush that was submitted then has succeeded.
    fn flushed(&mut self, submitted: u64) {
        for life in &mut self.0 {
            life.durable |= life.begun.is_some_and(|begun| begun < submitted);
            life.finish_durable |= life.finished.is_some_and(|finished| finished < submitted);
            let said = life.records.iter_mut().filter(|record| record.said < submitted);
            said.for_each(|record| record.durable = true);
        }
        let oldest = self.0.iter().rposition(|life| life.durable).unwrap_or(0);
        self.0.drain(..oldest);
    }

    /// The lives that may be there: the newest that is there for certain, and those after it.
    fn possible(&self, promise: Promise) -> &[Life] {
        let certain = self.0.iter().rposition(|life| match promise {
            Promise::Acknowledged => life.begun.is_some(),
            Promise::Flushed => life.durable,
        });
        &self.0[certain.unwrap_or(0)..]
    }

    fn verify(&mut self, shown: &Shown, expect: Expect) -> usize {
        shown.is_zero_above_the_pointer();
        shown.holds_whole_records(expect.zeros);
        let full = shown.info.state == ZoneState::Full;
        let possible = self.possible(expect.promise);
        let numbers: Vec<u64> = possible.iter().map(|life| life.number).collect();
        let life = match shown.life() {
            Some(number) => possible.iter().find(|life| life.number == number),
            // A full zone of zeros is one that was finished; a later life may have been begun.
            None => possible.iter().rev().find(|life| {
                life.promised(expect.promise).next().is_none()
                    && if full { life.finishing } else { !life.has_to_be_full(expect.promise) }
            }),
        };
        let zone = shown.info.zone;
        let life = life.unwrap_or_else(|| {
            let seen = shown.life();
            panic!("zone {zone} shows life {seen:?} where {numbers:?} may be: {possible:?}")
        });
        let promised = life.promised(expect.promise).count();
        for record in life.promised(expect.promise) {
            shown.holds(life.number, record, expect.promise);
        }
        assert!(full || !life.has_to_be_full(expect.promise), "zone {zone} was finished: {life:?}");
        let may_be_full = life.finishing || shown.is_written_to_its_end();
        assert!(!full || may_be_full, "zone {zone} is full, and nobody finished it");
        let life = Life {
            number: life.number,
            begun: Some(0),
            durable: true,
            records: shown.records(),
            finishing: full,
            finished: full.then_some(0),
            finish_durable: full,
            durable_to: 0,
        };
        self.0 = vec![life];
        promised
    }
}

impl Life {
    fn promised(&self, promise: Promise) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| match promise {
            Promise::Acknowledged => true,
            Promise::Flushed => record.durable || record.offset < self.durable_to,
        })
    }

    fn has_to_be_full(&self, promise: Promise) -> bool {
        match promise {
            Promise::Acknowledged => self.finished.is_some(),
            Promise::Flushed => self.finish_durable,
        }
    }
}

/// What a drive shows of a zone.
struct Shown {
    info: ZoneInfo,
    stamps: Vec<Option<Stamp>>,
}

impl Shown {
    fn read(drive: &Device, info: ZoneInfo) -> Self {
        let options =
            QueueOptions { depth: 1, buffer_bytes: ZONE_BYTES as usize, ..QueueOptions::default() };
        let mut queue = drive.queue(&options).unwrap();
        let into = queue.buffer(ZONE_BYTES as usize).unwrap();
        queue.push(Request::read_at(info.start, into)).unwrap();
        queue.submit_and_wait(1).unwrap();
        let read = queue.next_completion().unwrap();
        read.result.unwrap();
        let bytes = read.buffer.unwrap();
        let stamps = (0..)
            .zip(bytes.chunks_exact(BLOCK))
            .map(|(n, block)| stamp_of(block, &format!("block {n} of zone {}", info.zone)))
            .collect();
        Self { info, stamps }
    }

    /// Blocks below the write pointer; all of them in a zone that has none.
    fn written(&self) -> usize {
        let written = self.info.write_pointer.map_or(ZONE_BYTES, |wp| wp - self.info.start);
        written as usize / BLOCK
    }

    fn is_written_to_its_end(&self) -> bool {
        self.stamps.last().is_some_and(Option::is_some)
    }

    fn is_zero_above_the_pointer(&self) {
        let above = &self.stamps[self.written()..];
        assert!(above.iter().all(Option::is_none), "data above the wp of zone {}", self.info.zone);
    }

    /// The one life that its blocks are of.
    fn life(&self) -> Option<u64> {
        let mut lives = self.stamps.iter().flatten().map(|stamp| stamp[1]);
        let first = lives.next()?;
        let zone = self.info.zone;
        lives.for_each(|life| assert_eq!(life, first, "zone {zone} shows two lives"));
        Some(first)
    }

    /// Below the write pointer are whole records; or zeros, where there may be some, and what a
    /// finish has filled up.
    fn holds_whole_records(&self, zeros: bool) {
        let (zone, mut at) = (self.info.zone, 0);
        let full = self.info.state == ZoneState::Full;
        while at < self.written() {
            let Some([of, life, record, 0, blocks]) = self.stamps[at] else {
                assert!(
                    self.stamps[at].is_none(),
                    "a record's middle at block {at} of zone {zone}"
                );
                let rest_is_zero = self.stamps[at..].iter().all(Option::is_none);
                assert!(zeros || full && rest_is_zero, "zeros at block {at} of zone {zone}");
                at += 1;
                continue;
            };
            assert_eq!(of, u64::from(zone), "a block of another zone");
            for n in 0..blocks {
                let found = self.stamps.get(at + n as usize).copied().flatten();
                assert_eq!(found, Some([of, life, record, n, blocks]), "a part of a record");
            }
            at += blocks as usize;
        }
        assert_eq!(at, self.written(), "the wp of zone {zone} is in the middle of a record");
    }

    fn holds(&self, life: u64, record: &Record, promise: Promise) {
        let first = (record.offset - self.info.start) as usize / BLOCK;
        for n in 0..record.blocks {
            let expected = [self.info.zone.into(), life, record.record, n, record.blocks];
            let found = self.stamps[first + n as usize];
            let zone = self.info.zone;
            assert_eq!(
                found,
                Some(expected),
                "{promise:?}, and lost: {record:?} of life {life} of zone {zone} at {:?}",
                self.info.write_pointer
            );
        }
    }

    fn records(&self) -> Vec<Record> {
        let first = |(at, stamp): (usize, &Option<Stamp>)| {
            let [_, _, record, n, blocks] = (*stamp)?;
            let offset = self.info.start + (at * BLOCK) as u64;
            (n == 0).then_some(Record { record, offset, blocks, said: 0, durable: true })
        };
        self.stamps.iter().enumerate().filter_map(first).collect()
    }
}
