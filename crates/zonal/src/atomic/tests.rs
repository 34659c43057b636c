//! The driver and its journal on simulated disks: small worlds with every cut, random histories, and rules
//! that are broken to see that both notice.
//!
//! A block holds the number of the request that wrote it. After a cut and a replay three things have to hold:
//! nothing stands in a block that was never asked for there; no block is older than the last write to it that
//! was durable; and of each atomic write, or batch, all blocks are at least as new as it, or none is.

use super::AtomicPath;
use super::driver::Driver;
use super::journal::{self, Found, Journal};
use super::operation::{Job, Reply, What};
use crate::buffer::Buffer;
use crate::engine::sim::{Outcome, SimDisk, SimImage, SimMode};
use crate::engine::{Disk, EngineOptions, IoKind};
use crate::faults::Random;
use std::sync::Arc;
use zonal_core::error::{Error, ErrorKind};
use zonal_core::untorn::journal::{BLOCK, BLOCK_BYTES, FileId, Header, Mark};

/// Blocks of the file.
const BLOCKS: usize = 8;

/// What a client asks for: first block, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// An atomic write.
    Atomic(u64, u64),
    /// A batch of two atomic writes.
    Batch([(u64, u64); 2]),
    /// An ordinary write.
    Plain(u64, u64),
    /// An ordinary write that is durable when it ends.
    Durable(u64, u64),
    Flush,
}

impl Ask {
    fn blocks(self) -> Vec<usize> {
        let of =
            |at: u64, count: u64| (at..at + count).map(|block| usize::try_from(block).unwrap());
        match self {
            Self::Atomic(at, count) | Self::Plain(at, count) | Self::Durable(at, count) => {
                of(at, count).collect()
            }
            Self::Batch(units) => units.into_iter().flat_map(|(at, count)| of(at, count)).collect(),
            Self::Flush => Vec::new(),
        }
    }

    fn job(self, version: u64) -> Job {
        let unit = |at: u64, count: u64| {
            let bytes = version.to_le_bytes().repeat(usize::try_from(count).unwrap() * BLOCK / 8);
            (at * BLOCK_BYTES, Buffer::from_slice(&bytes))
        };
        let job = |what, at, count| {
            let (offset, buffer) = unit(at, count);
            Job::new(what, offset, Some(buffer))
        };
        match self {
            Self::Atomic(at, count) => job(What::WriteAtomic, at, count),
            Self::Batch(units) => Job::batch(units.map(|(at, count)| unit(at, count)).into()),
            Self::Plain(at, count) => job(What::Write, at, count),
            Self::Durable(at, count) => {
                let mut job = job(What::Write, at, count);
                job.durable = true;
                job
            }
            Self::Flush => Job::new(What::Flush, 0, None),
        }
    }
}

/// One request, as the model knows it. Its version is its place in the list, from 1 on.
struct Asked {
    ask: Ask,
    reply: Arc<Reply>,
    /// Its end: whether it went well.
    ended: Option<bool>,
    /// The requests that had ended well when this flush was asked for.
    covers: Vec<usize>,
}

/// A file, its journal, and what was asked of them.
struct World {
    data: SimDisk,
    journal: SimDisk,
    driver: Driver,
    asked: Vec<Asked>,
    /// Of each block: what it certainly is at least.
    floor: Vec<u64>,
    /// Of each block: what it may hold besides, from before this session.
    base: Vec<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Violation(String);

fn file_id() -> FileId {
    FileId { inode: 7, born_ns: 70 }
}

/// An empty file and a new journal, on the disks.
fn blank(ring_blocks: u64) -> (SimImage, SimImage) {
    blank_on(ring_blocks, BLOCK)
}

/// The same, where a cut may tear the journal's blocks in sectors of so many bytes.
fn blank_on(ring_blocks: u64, sector: usize) -> (SimImage, SimImage) {
    let data = SimImage::new(BLOCKS as u64 * BLOCK_BYTES, BLOCK);
    let header = Header::new([9; 16], ring_blocks * BLOCK_BYTES, file_id()).unwrap();
    let disk = SimDisk::new(&SimImage::new(0, sector), SimMode::Manual);
    journal::make(&Disk::Sim(disk.clone()), &header).unwrap();
    (data, disk.image())
}

/// What an opening does, on disks of which either may stop after so many requests.
fn reopen(data: &SimDisk, journal: &SimDisk) -> Result<Journal, Error> {
    let (data, journal) = (Disk::Sim(data.clone()), Disk::Sim(journal.clone()));
    let Found::Journal(header) = journal::look(&journal)? else {
        return Err(Error::new(ErrorKind::Damaged, "the journal is gone"));
    };
    let (_, end): (_, Mark) = journal::replay(&journal, &header, &data)?;
    Journal::begin(journal, &header, end, file_id())
}

fn versions(image: &SimImage) -> Result<Vec<u64>, Violation> {
    let mut found = Vec::new();
    for block in 0..BLOCKS {
        let mut bytes = vec![0; BLOCK];
        image.read(block as u64 * BLOCK_BYTES, &mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        if words.iter().any(|word| word != &words[0]) {
            return Err(Violation(format!("block {block} holds what nobody wrote")));
        }
        found.push(u64::from_le_bytes(words[0]));
    }
    Ok(found)
}

impl World {
    fn new(data: &SimImage, journal: &SimImage) -> Self {
        let data = SimDisk::new(data, SimMode::Manual);
        let journal = SimDisk::new(journal, SimMode::Manual);
        Self::on(data, journal).unwrap()
    }

    fn on(data: SimDisk, journal: SimDisk) -> Result<Self, Error> {
        let opened = reopen(&data, &journal)?;
        let disk = Disk::Sim(data.clone());
        let options = EngineOptions { register_buffers: false, ..EngineOptions::default() };
        let engine = disk.engine(&options, None).unwrap();
        let driver = Driver::new("sim", disk, engine, AtomicPath::Journal, Some(opened));
        let found = versions(&data.image()).unwrap();
        let (floor, base) = (vec![0; BLOCKS], found);
        Ok(Self { data, journal, driver, asked: Vec::new(), floor, base })
    }

    /// Asks; `first` is the version of the first request of this world.
    fn ask(&mut self, ask: Ask, first: u64) {
        let version = first + self.asked.len() as u64;
        let (job, reply) = ask.job(version).heard();
        let well = |(at, asked): (usize, &Asked)| (asked.ended == Some(true)).then_some(at);
        let covers = match ask {
            Ask::Flush => self.asked.iter().enumerate().filter_map(well).collect(),
            Ask::Atomic(..) | Ask::Batch(_) | Ask::Plain(..) | Ask::Durable(..) => Vec::new(),
        };
        self.asked.push(Asked { ask, reply, ended: None, covers });
        self.driver.accept(job);
    }

    /// Lets the driver do all it can without the disk.
    fn settle(&mut self, first: u64) {
        loop {
            self.driver.start();
            self.driver.wait(0, None).unwrap();
            if self.driver.reap() == 0 {
                break;
            }
        }
        for at in 0..self.asked.len() {
            let asked = &mut self.asked[at];
            if asked.ended.is_some() {
                continue;
            }
            let Some(end) = asked.reply.take() else { continue };
            asked.ended = Some(end.result.is_ok());
            if end.result.is_err() {
                continue;
            }
            let durable = match asked.ask {
                Ask::Atomic(..) | Ask::Batch(_) | Ask::Durable(..) => vec![at],
                Ask::Plain(..) => Vec::new(),
                Ask::Flush => asked.covers.clone(),
            };
            for at in durable {
                for block in self.asked[at].ask.blocks() {
                    self.floor[block] = self.floor[block].max(first + at as u64);
                }
            }
        }
    }

    /// Holds what a replay left against the promises.
    fn judge(&self, found: &[u64], first: u64) -> Result<(), Violation> {
        for (block, &version) in found.iter().enumerate() {
            let wrote = |(at, asked): (usize, &Asked)| {
                first + at as u64 == version && asked.ask.blocks().contains(&block)
            };
            let known = version == self.base[block] || self.asked.iter().enumerate().any(wrote);
            if !known {
                return Err(Violation(format!(
                    "block {block} holds {version}, never written there"
                )));
            }
            if version < self.floor[block] {
                let floor = self.floor[block];
                return Err(Violation(format!(
                    "block {block}: {version}, but {floor} was durable"
                )));
            }
        }
        for (version, asked) in (first..).zip(&self.asked) {
            if !matches!(asked.ask, Ask::Atomic(..) | Ask::Batch(_)) {
                continue;
            }
            let blocks = asked.ask.blocks();
            let new = blocks.iter().filter(|block| found[**block] >= version).count();
            if new != 0 && new != blocks.len() {
                return Err(Violation(format!("{:?} ({version}) is torn: {found:?}", asked.ask)));
            }
        }
        Ok(())
    }

    /// Every content that the two disks may be left with by a cut now, replayed and judged.
    fn judge_all_cuts(&self, first: u64) -> Result<u64, Violation> {
        let (of_data, of_journal) =
            (self.data.unstable_contents(), self.journal.unstable_contents());
        let mut cuts = 0;
        each_choice(&of_journal, &mut |left| {
            let journal = chosen(&self.journal, left);
            each_choice(&of_data, &mut |left| {
                cuts += 1;
                let data = SimDisk::new(&chosen(&self.data, left), SimMode::Manual);
                let journal = SimDisk::new(&journal, SimMode::Manual);
                reopen(&data, &journal).map_err(|error| Violation(error.to_string()))?;
                self.judge(&versions(&data.image())?, first)
            })
        })?;
        Ok(cuts)
    }
}

fn chosen(disk: &SimDisk, choices: &[usize]) -> SimImage {
    let mut choices = choices.iter();
    disk.if_cut(&mut |_| *choices.next().expect("a choice for each sector"))
}

fn each_choice(
    options: &[usize],
    each: &mut dyn FnMut(&[usize]) -> Result<(), Violation>,
) -> Result<(), Violation> {
    let mut choice = vec![0; options.len()];
    loop {
        each(&choice)?;
        let Some(at) = (0..choice.len()).find(|&at| choice[at] + 1 < options[at]) else {
            return Ok(());
        };
        choice[at] += 1;
        choice[..at].fill(0);
    }
}

/// A small world: what is asked, and whether all of it at once.
struct Scenario {
    asks: Vec<Ask>,
    together: bool,
}

fn scenarios() -> Vec<Scenario> {
    use Ask::{Atomic, Batch, Durable, Flush, Plain};
    let apart = |asks: &[Ask]| Scenario { asks: asks.to_vec(), together: false };
    let together = |asks: &[Ask]| Scenario { asks: asks.to_vec(), together: true };
    vec![
        apart(&[Atomic(0, 2)]),
        apart(&[Atomic(0, 2), Atomic(0, 2)]),
        apart(&[Atomic(0, 2), Atomic(4, 2), Flush]),
        apart(&[Atomic(0, 2), Plain(0, 1), Flush]),
        apart(&[Atomic(0, 2), Durable(1, 1)]),
        apart(&[Plain(0, 2), Atomic(0, 2), Flush]),
        apart(&[Atomic(0, 2), Plain(4, 1), Flush, Durable(0, 2)]),
        apart(&[Atomic(0, 2), Atomic(4, 2), Atomic(0, 2)]),
        apart(&[Atomic(0, 1), Atomic(1, 1), Atomic(0, 2)]),
        apart(&[Batch([(0, 2), (4, 1)])]),
        apart(&[Batch([(0, 1), (4, 1)]), Atomic(0, 2), Flush]),
        apart(&[Atomic(4, 2), Batch([(0, 1), (5, 1)]), Durable(4, 1)]),
        together(&[Batch([(0, 1), (4, 1)]), Plain(4, 1), Batch([(4, 1), (0, 1)])]),
        together(&[Batch([(0, 2), (4, 1)]), Batch([(2, 2), (6, 1)]), Atomic(7, 1)]),
        together(&[Atomic(0, 2), Atomic(4, 1), Plain(6, 1), Durable(0, 1)]),
        together(&[Atomic(0, 1), Atomic(1, 1), Atomic(2, 1), Atomic(3, 1), Atomic(4, 1)]),
        together(&[Atomic(0, 2), Atomic(0, 2), Plain(0, 2), Atomic(0, 2)]),
    ]
}

#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    states: u64,
    cuts: u64,
}

/// Follows every order in which the file's I/O can end, with the journal's disk stopping after each number of
/// requests, and judges every cut in each state.
fn explore(scenario: &Scenario, totals: &mut Totals) -> Result<(), Violation> {
    for stop in 0.. {
        let before = totals.runs;
        let mut stopped = false;
        let mut path: Vec<usize> = Vec::new();
        loop {
            let (taken, has_stopped) = follow(scenario, &path, stop, totals)?;
            stopped |= has_stopped;
            totals.runs += 1;
            let Some(at) = taken.iter().rposition(|(chosen, options)| chosen + 1 < *options) else {
                break;
            };
            path = taken[..=at].iter().map(|(chosen, _)| *chosen).collect();
            path[at] += 1;
        }
        assert!(totals.runs > before);
        if !stopped {
            return Ok(());
        }
    }
    Ok(())
}

/// One run: the choices of `path`, and the first ones after it. States that an earlier run has judged are
/// left out.
fn follow(
    scenario: &Scenario,
    path: &[usize],
    stop: u64,
    totals: &mut Totals,
) -> Result<(Vec<(usize, usize)>, bool), Violation> {
    let (data, journal) = blank(8);
    let mut world = World::new(&data, &journal);
    world.journal.stop_after(Some(stop));
    let mut asks = scenario.asks.iter().copied();
    if scenario.together {
        asks.by_ref().for_each(|ask| world.ask(ask, 1));
        world.settle(1);
    }
    let mut taken: Vec<(usize, usize)> = Vec::new();
    loop {
        if taken.len() >= path.len() {
            totals.states += 1;
            totals.cuts += world.judge_all_cuts(1)?;
        }
        let pending = world.data.pending();
        let more = usize::from(asks.len() > 0);
        let options = pending.len() + more;
        if options == 0 {
            break;
        }
        let choice = path.get(taken.len()).copied().unwrap_or(0);
        taken.push((choice, options));
        match choice.checked_sub(more) {
            None => world.ask(asks.next().unwrap(), 1),
            Some(which) => assert!(world.data.complete(pending[which].id, Outcome::Ok)),
        }
        world.settle(1);
    }
    assert!(world.driver.is_idle(), "nothing is left that could end, and something waits");
    assert!(world.asked.iter().all(|asked| asked.ended.is_some()), "a request never ended");
    let closed = world.driver.close();
    let stopped = world.journal.has_stopped();
    if !stopped {
        closed.map_err(|error| Violation(error.to_string()))?;
        assert!(world.driver.journal().unwrap().ledger().is_empty());
    }
    totals.cuts += world.judge_all_cuts(1)?;
    Ok((taken, stopped))
}

#[cfg(not(zonal_break))]
#[test]
fn every_cut_between_any_two_writes_leaves_units_whole() {
    let mut totals = Totals::default();
    for scenario in scenarios() {
        if let Err(violation) = explore(&scenario, &mut totals) {
            panic!("{:?}, together: {}: {violation:?}", scenario.asks, scenario.together);
        }
    }
    println!("untorn: {totals:?}");
    assert!(totals.runs > 100 && totals.cuts > 10_000, "{totals:?}");
}

/// A cut in the middle of a replay, at any of its requests on either disk, is replayed over.
#[cfg(not(zonal_break))]
#[test]
fn a_replay_that_is_cut_off_anywhere_can_be_done_again() {
    let (data, journal) = blank(16);
    let mut world = World::new(&data, &journal);
    for ask in [Ask::Atomic(0, 2), Ask::Atomic(4, 2), Ask::Atomic(0, 1)] {
        world.ask(ask, 1);
        world.settle(1);
        while let Some(pending) = world.data.pending().first() {
            world.data.complete(pending.id, Outcome::Ok);
            world.settle(1);
        }
    }
    // Nothing of the file is durable, everything is in the journal.
    let (torn, journal) = (chosen(&world.data, &[0, 1, 0, 0]), world.journal.image());
    let mut cuts = 0;
    for on_journal in [false, true] {
        for stop in 0.. {
            let data = SimDisk::new(&torn, SimMode::Manual);
            let journal = SimDisk::new(&journal, SimMode::Manual);
            let stopping = if on_journal { &journal } else { &data };
            stopping.stop_after(Some(stop));
            let done = reopen(&data, &journal).is_ok();
            each_choice(&journal.unstable_contents(), &mut |of_journal| {
                each_choice(&data.unstable_contents(), &mut |of_data| {
                    cuts += 1;
                    let data = SimDisk::new(&chosen(&data, of_data), SimMode::Manual);
                    let journal = SimDisk::new(&chosen(&journal, of_journal), SimMode::Manual);
                    reopen(&data, &journal).map_err(|error| Violation(error.to_string()))?;
                    let found = versions(&data.image())?;
                    assert_eq!(found, [3, 1, 0, 0, 2, 2, 0, 0]);
                    Ok(())
                })
            })
            .unwrap();
            if done {
                break;
            }
        }
    }
    assert!(cuts > 15, "{cuts}");
}

/// A cut in the middle of making a journal, at any request and with any sectors of its header, leaves one
/// that is made anew, or a whole one.
#[cfg(not(zonal_break))]
#[test]
fn a_making_that_is_cut_off_anywhere_is_begun_again() {
    let header = Header::new([0xa5; 16], 8 * BLOCK_BYTES, file_id()).unwrap();
    let (mut nothing, mut whole) = (0, 0);
    for stop in 0.. {
        let disk = SimDisk::new(&SimImage::new(0, 512), SimMode::Manual);
        disk.stop_after(Some(stop));
        let under = Disk::Sim(disk.clone());
        let done = journal::make(&under, &header)
            .and_then(|()| Journal::begin(under, &header, header.tail, file_id()))
            .is_ok();
        each_choice(&disk.unstable_contents(), &mut |choice| {
            let left = Disk::Sim(SimDisk::new(&chosen(&disk, choice), SimMode::Manual));
            match journal::look(&left).map_err(|error| Violation(format!("{choice:?}: {error}")))? {
                Found::Nothing => nothing += 1,
                Found::Journal(found) => {
                    assert!(found.session <= 1 && found.tail == header.tail);
                    whole += 1;
                }
            }
            Ok(())
        })
        .unwrap();
        if done {
            break;
        }
    }
    assert!(nothing > 3 && whole > 3, "{nothing} {whole}");
}

/// A random life of a file: sessions that end by cuts, with failures of either disk on the way.
fn live(seed: u64) -> Result<u64, Violation> {
    let mut random = Random::new(seed);
    let ring = 8 + random.below(12) as u64;
    let (mut data, mut journal) = blank_on(ring, [512, BLOCK][random.below(2)]);
    let (mut first, mut writes) = (1, 0);
    for _ in 0..4 {
        let mut world = World::new(&data, &journal);
        let faulty = random.below(4) == 0;
        if faulty {
            world.journal.stop_after(Some(random.below(30) as u64));
        }
        for _ in 0..random.below(60) {
            let pending = world.data.pending();
            if random.below(3) != 0 || pending.is_empty() {
                world.ask(random_ask(&mut random), first);
                writes += 1;
            } else {
                let which = pending[random.below(pending.len())];
                let outcome = match random.below(if faulty { 20 } else { 400 }) {
                    0 => Outcome::Fail(libc::EIO),
                    1 => Outcome::FailAfterPartial(BLOCK),
                    2 => Outcome::Short(BLOCK * usize::from(which.len > BLOCK_BYTES)),
                    _ => Outcome::Ok,
                };
                world.data.complete(which.id, outcome);
            }
            // Not always at once, so that records have several units.
            if random.below(3) != 0 {
                world.settle(first);
            }
        }
        world.settle(first);
        let left = world.data.cut(&mut |options| random.below(options));
        let journal_left = world.journal.cut(&mut |options| random.below(options));
        (data, journal) = recover(&left, &journal_left, &mut random)?;
        world.judge(&versions(&data)?, first)?;
        first += world.asked.len() as u64;
    }
    Ok(writes)
}

/// Opens, is sometimes cut off in that, and opens again.
fn recover(
    data: &SimImage,
    journal: &SimImage,
    random: &mut Random,
) -> Result<(SimImage, SimImage), Violation> {
    let (mut data, mut journal) = (data.clone(), journal.clone());
    for interrupted in [random.below(2) == 0, random.below(3) == 0, false] {
        let data_disk = SimDisk::new(&data, SimMode::Manual);
        let journal_disk = SimDisk::new(&journal, SimMode::Manual);
        if interrupted {
            let stopping = if random.below(2) == 0 { &data_disk } else { &journal_disk };
            stopping.stop_after(Some(random.below(9) as u64));
        }
        let opened = reopen(&data_disk, &journal_disk);
        if !interrupted {
            opened.map_err(|error| Violation(error.to_string()))?;
        }
        data = data_disk.cut(&mut |options| random.below(options));
        journal = journal_disk.cut(&mut |options| random.below(options));
    }
    Ok((data, journal))
}

fn random_ask(random: &mut Random) -> Ask {
    let count = 1 << random.below(2);
    let at = random.below(BLOCKS / usize::try_from(count).unwrap()) as u64 * count;
    let anywhere = random.below(BLOCKS - 1) as u64;
    let first_half = (random.below(4 / usize::try_from(count).unwrap()) as u64) * count;
    match random.below(12) {
        9..11 => Ask::Batch([(4 + anywhere % 4, 1), (first_half, count)]),
        0..5 => Ask::Atomic(at, count),
        5..7 => Ask::Plain(anywhere, count),
        7..9 => Ask::Durable(anywhere, count),
        _ => Ask::Flush,
    }
}

/// How many random lives; `ZONAL_UNTORN_SEEDS` says it.
#[cfg(not(zonal_break))]
fn seeds() -> u64 {
    std::env::var("ZONAL_UNTORN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[cfg(not(zonal_break))]
#[test]
fn random_lives_leave_every_unit_old_or_new() {
    let mut writes = 0;
    for seed in 0..seeds() {
        match live(seed) {
            Ok(more) => writes += more,
            Err(violation) => panic!("seed {seed}: {violation:?}"),
        }
    }
    println!("untorn: {} lives, {writes} requests", seeds());
}

/// Each broken rule is found, by the small worlds and by random lives.
#[cfg(zonal_break)]
#[test]
fn every_broken_rule_of_untorn_writes_is_found() {
    use zonal_core::broken::{Rule, break_rule};
    let mut missed = Vec::new();
    for rule in Rule::UNTORN {
        break_rule(Some(rule));
        let mut totals = Totals::default();
        let small = scenarios().iter().find_map(|scenario| explore(scenario, &mut totals).err());
        let random = (0..2000).find_map(|seed| live(seed).err().map(|found| (seed, found)));
        break_rule(None);
        println!("{rule:?}: small worlds ({totals:?}): {small:?}; random lives: {random:?}");
        if small.is_none() || random.is_none() {
            missed.push(rule);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[cfg(not(zonal_break))]
mod journal_files {
    use super::*;
    use zonal_core::untorn::journal::RING_OFFSET;

    /// A journal with two live records, the file's units torn in their places.
    fn two_records() -> (SimImage, SimImage) {
        let (data, journal) = blank(16);
        let mut world = World::new(&data, &journal);
        for ask in [Ask::Atomic(0, 2), Ask::Atomic(4, 2)] {
            world.ask(ask, 1);
            world.settle(1);
        }
        (world.data.image(), world.journal.image())
    }

    fn opened(data: &SimImage, journal: &SimImage) -> Result<Vec<u64>, Error> {
        let data = SimDisk::new(data, SimMode::Manual);
        reopen(&data, &SimDisk::new(journal, SimMode::Manual))?;
        Ok(versions(&data.image()).unwrap())
    }

    #[test]
    fn a_torn_last_record_is_not_there_and_a_broken_one_before_it_is_damage() {
        let (data, journal) = two_records();
        assert_eq!(opened(&data, &journal).unwrap(), [1, 1, 0, 0, 2, 2, 0, 0]);
        // Records: head and two units each, from the ring's beginning on.
        for (block, last) in [(0, false), (1, false), (2, false), (3, true), (4, true), (5, true)] {
            let mut broken = journal.clone();
            broken.write(RING_OFFSET + block * BLOCK_BYTES + 40, &[0xaa; 8]);
            match opened(&data, &broken) {
                Ok(found) => {
                    assert!(last, "block {block}");
                    assert_eq!(found, [1, 1, 0, 0, 0, 0, 0, 0]);
                }
                Err(error) => {
                    assert!(!last, "block {block}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Damaged);
                    assert!(error.to_string().contains("record 1 is broken"), "{error}");
                }
            }
        }
    }

    #[test]
    fn records_of_an_earlier_session_are_not_believed() {
        let (data, journal) = two_records();
        let disk = SimDisk::new(&journal, SimMode::Manual);
        let file = SimDisk::new(&data, SimMode::Manual);
        drop(reopen(&file, &disk).unwrap());
        // As the next writer would leave it before its first record.
        let found = opened(&data, &disk.image()).unwrap();
        assert_eq!(found, [0; BLOCKS]);
    }

    #[test]
    fn a_unit_whose_move_failed_is_mended_by_the_next_opening() {
        let (data, journal) = blank(16);
        let mut world = World::new(&data, &journal);
        world.ask(Ask::Atomic(0, 2), 1);
        world.settle(1);
        let moving = world.data.pending()[0].id;
        assert_eq!(world.asked[0].ended, Some(true), "it is durable in the journal");
        world.data.complete(moving, Outcome::Short(BLOCK));
        world.settle(1);
        let (read, reply) =
            Job::new(What::Read, BLOCK_BYTES, Some(Buffer::unpooled(BLOCK))).heard();
        world.driver.accept(read);
        world.ask(Ask::Plain(6, 1), 1);
        world.settle(1);
        let error = reply.take().unwrap().result.unwrap_err();
        assert!(error.to_string().contains("whole in the journal"), "{error}");
        assert_eq!(world.asked[1].ended, Some(false), "nothing is written any more");
        assert!(world.driver.close().is_err());
        let found = opened(&world.data.image(), &world.journal.image()).unwrap();
        assert_eq!(found, [1, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_batch_of_which_a_unit_failed_is_mended_by_the_next_opening() {
        let (data, journal) = blank(16);
        let mut world = World::new(&data, &journal);
        world.ask(Ask::Batch([(0, 1), (4, 2)]), 1);
        world.settle(1);
        let moving: Vec<_> = world.data.pending().iter().map(|request| request.id).collect();
        assert_eq!(moving.len(), 2);
        assert_eq!(world.asked[0].ended, Some(true), "it is durable in the journal");
        world.data.complete(moving[0], Outcome::Fail(libc::EIO));
        world.ask(Ask::Batch([(0, 1), (6, 1)]), 1);
        world.settle(1);
        assert_eq!(world.asked[1].ended, Some(false), "nothing is written any more");
        assert!(!world.driver.is_idle(), "the other unit is under way");
        world.data.complete(moving[1], Outcome::Ok);
        world.settle(1);
        assert!(world.driver.is_idle() && world.driver.close().is_err());
        let found = opened(&world.data.image(), &world.journal.image()).unwrap();
        assert_eq!(found, [1, 0, 0, 0, 1, 1, 0, 0]);
    }

    #[test]
    fn a_batch_is_one_write_and_one_sync_and_an_ordinary_write_over_it_waits() {
        let (data, journal) = blank(64);
        let mut world = World::new(&data, &journal);
        let before = world.journal.counts();
        world.ask(Ask::Batch([(0, 1), (4, 2)]), 1);
        world.ask(Ask::Plain(5, 1), 1);
        world.settle(1);
        let after = world.journal.counts();
        assert_eq!((after.syncs - before.syncs, after.writes - before.writes), (1, 1));
        let moving: Vec<_> = world.data.pending().iter().map(|request| request.id).collect();
        moving.iter().for_each(|id| assert!(world.data.complete(*id, Outcome::Ok)));
        world.settle(1);
        assert_eq!((world.asked[0].ended, world.asked[1].ended), (Some(true), None));
        assert_eq!(world.data.pending().len(), 1, "the data sync that reclaims the batch");
    }

    #[test]
    fn a_file_is_cut_when_no_replay_would_bring_back_what_was_behind() {
        let (data, journal) = blank(64);
        let mut world = World::new(&data, &journal);
        world.ask(Ask::Batch([(0, 1), (6, 1)]), 1);
        world.settle(1);
        let (cut, reply) = Job::new(What::SetLength, 4 * BLOCK_BYTES, None).heard();
        world.driver.accept(cut);
        let length = BLOCKS as u64 * BLOCK_BYTES;
        for expected in ["the units", "the data sync"] {
            world.settle(1);
            assert_eq!(world.data.image().len(), length, "{expected} were waited for");
            for request in world.data.pending() {
                world.data.complete(request.id, Outcome::Ok);
            }
        }
        world.settle(1);
        assert!(reply.take().unwrap().result.is_ok());
        assert_eq!(world.data.image().len(), 4 * BLOCK_BYTES);
        let (data, journal) = (world.data.image(), world.journal.image());
        let data = SimDisk::new(&data, SimMode::Manual);
        reopen(&data, &SimDisk::new(&journal, SimMode::Manual)).unwrap();
        assert_eq!(data.image().len(), 4 * BLOCK_BYTES, "nothing was brought back");
    }

    #[test]
    fn many_writers_share_a_sync_and_a_flush_needs_none() {
        let (data, journal) = blank(64);
        let mut world = World::new(&data, &journal);
        let before = world.journal.counts();
        (0..8).for_each(|at| world.ask(Ask::Atomic(at, 1), 1));
        world.settle(1);
        let after = world.journal.counts();
        assert_eq!((after.syncs - before.syncs, after.writes - before.writes), (1, 1));
        while let Some(pending) = world.data.pending().first() {
            world.data.complete(pending.id, Outcome::Ok);
            world.settle(1);
        }
        world.ask(Ask::Flush, 1);
        world.settle(1);
        assert_eq!(world.asked[8].ended, Some(true), "all of it is durable in the journal");
        assert_eq!(world.data.counts().syncs, 0);
    }

    #[test]
    fn what_one_record_does_not_take_goes_into_the_next_and_nothing_is_reclaimed_for_it() {
        let (data, journal) = blank(2048);
        let mut world = World::new(&data, &journal);
        world.floor.resize(400, 0);
        let before = world.journal.counts().writes;
        let land = |world: &mut World| {
            world.settle(1);
            while let Some(pending) = world.data.pending().first() {
                assert_eq!(pending.kind, IoKind::Write, "a unit on its way, and no data sync");
                world.data.complete(pending.id, Outcome::Ok);
                world.settle(1);
            }
        };
        // There is something to reclaim, which nobody needs.
        world.ask(Ask::Atomic(300, 1), 1);
        land(&mut world);
        // A record takes 251 units.
        (0..260).for_each(|at| world.ask(Ask::Atomic(at, 1), 1));
        land(&mut world);
        assert!(world.asked.iter().all(|asked| asked.ended == Some(true)));
        assert_eq!(world.journal.counts().writes - before, 3, "three records, and no header");
    }

    fn read(world: &mut World, block: u64, count: u64) -> Arc<Reply> {
        let buffer = Buffer::unpooled(usize::try_from(count * BLOCK_BYTES).unwrap());
        let (job, reply) = Job::new(What::Read, block * BLOCK_BYTES, Some(buffer)).heard();
        world.driver.accept(job);
        world.settle(1);
        reply
    }

    #[test]
    fn a_read_at_the_files_end_beside_a_write_that_moves_it_is_no_error() {
        let (data, journal) = blank(16);
        let mut world = World::new(&data, &journal);
        // The file has eight blocks; the read asks for four from the seventh on, and two writes begin behind it.
        let reply = read(&mut world, 6, 4);
        (0..2).for_each(|n| world.ask(Ask::Plain(12 + 2 * n, 1), 1));
        world.settle(1);
        let under_way: Vec<_> = world.data.pending().iter().map(|request| request.id).collect();
        assert_eq!(under_way.len(), 3, "they touch other bytes");
        // The read ends first, and a write before it is taken in.
        world.data.complete(under_way[0], Outcome::Ok);
        world.data.complete(under_way[1], Outcome::Ok);
        world.settle(1);
        assert!(reply.take().is_none(), "it is begun again");
        let again = world.data.pending().iter().map(|request| request.id).max().unwrap();
        world.data.complete(again, Outcome::Ok);
        world.data.complete(under_way[2], Outcome::Ok);
        world.settle(1);
        let end = reply.take().unwrap();
        end.result.unwrap();
        assert_eq!(end.buffer.unwrap().len(), 4 * BLOCK, "what was gained reads as zeros");

        // Another process makes it longer meanwhile, again and again: the read ends where the file did when it was
        // begun again.
        let under = Disk::Sim(world.data.clone());
        let reply = read(&mut world, 14, 8);
        for blocks in [17, 19] {
            let reading = world.data.pending().iter().map(|request| request.id).max().unwrap();
            world.data.complete(reading, Outcome::Ok);
            under.set_len(blocks * BLOCK_BYTES).unwrap();
            world.settle(1);
        }
        let end = reply.take().unwrap();
        end.result.unwrap();
        assert_eq!(end.buffer.unwrap().len(), 3 * BLOCK);
    }

    #[test]
    fn a_read_that_ends_short_where_the_file_does_not_is_an_error() {
        let (data, journal) = blank(16);
        let mut world = World::new(&data, &journal);
        let reply = read(&mut world, 0, 4);
        for _ in 0..2 {
            world.data.complete(world.data.pending()[0].id, Outcome::Short(BLOCK));
            world.settle(1);
        }
        let end = reply.take().unwrap();
        assert_eq!(end.result.unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(end.buffer.unwrap().len(), 4 * BLOCK);
    }

    #[test]
    fn a_failed_data_sync_is_final() {
        let (data, journal) = blank(16);
        let mut world = World::new(&data, &journal);
        world.ask(Ask::Plain(0, 1), 1);
        world.settle(1);
        world.data.complete(world.data.pending()[0].id, Outcome::Ok);
        world.settle(1);
        world.ask(Ask::Flush, 1);
        world.settle(1);
        world.data.complete(world.data.pending()[0].id, Outcome::Fail(libc::EIO));
        world.settle(1);
        assert_eq!(world.asked[1].ended, Some(false));
        world.ask(Ask::Flush, 1);
        world.settle(1);
        assert_eq!(world.asked[2].ended, Some(false));
    }
}
