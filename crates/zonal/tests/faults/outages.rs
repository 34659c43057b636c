//! What is left after a planned cut or kill of real images and files, over many seeds; that a seed
//! says it all; and that the contract's rules on failures hold where a plan makes writes fail.

use crate::drives::{BLOCK, Drive, KINDS, Kind, ZONE};
use std::collections::BTreeMap;
use zonal::faults::FaultPlan;
use zonal::{Device, ErrorKind, Queue, QueueOptions, Request, ZoneState};

/// How often a kind of drive is cut or killed.
fn seeds() -> u64 {
    std::env::var("ZONAL_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(24)
}

/// A record's bytes: each block says which record it is of, and how long that is.
fn record(number: u64, blocks: usize) -> Vec<u8> {
    let mut bytes = vec![0; blocks * BLOCK];
    for words in bytes.chunks_exact_mut(16) {
        words[..8].copy_from_slice(&number.to_le_bytes());
        words[8..].copy_from_slice(&(blocks as u64).to_le_bytes());
    }
    bytes
}

/// What a session knows.
#[derive(Default, Debug, PartialEq)]
struct Known {
    /// Number and blocks of what was acknowledged, by offset; resets take out what they erase.
    acknowledged: BTreeMap<u64, (u64, usize)>,
    /// The same at the last flush, of zones not reset since.
    flushed: BTreeMap<u64, (u64, usize)>,
    /// What was submitted, by number.
    lengths: BTreeMap<u64, usize>,
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Takes in what has ended; false: something failed.
fn take(queue: &mut Queue, known: &mut Known, sent: &BTreeMap<u64, usize>) -> bool {
    let mut fine = true;
    while let Some(ended) = queue.next_completion() {
        match (ended.result, sent.get(&ended.tag)) {
            (Ok(_), Some(&blocks)) => {
                known.acknowledged.insert(ended.offset, (ended.tag, blocks));
            }
            (Ok(_), None) => {}
            (Err(_), _) => fine = false,
        }
    }
    fine
}

/// Appends, flushes and resets until the drive stops.
fn work(device: &Device, zones: u32, seed: u64) -> Known {
    let (mut known, mut dice) = (Known::default(), Dice(seed));
    let mut queue = device.queue(&QueueOptions::default()).unwrap();
    let mut number = seed << 20;
    loop {
        for _ in 0..=dice.below(5) {
            number += 1;
            let blocks = 1 + dice.below(4) as usize;
            known.lengths.insert(number, blocks);
            let zone = dice.below(u64::from(zones)) as u32;
            let append = Request::append(zone, record(number, blocks).into()).tag(number);
            queue.push(append).unwrap();
        }
        let sent = known.lengths.clone();
        queue.submit_and_wait(usize::MAX).unwrap();
        if !take(&mut queue, &mut known, &sent) {
            return known;
        }
        let request = match dice.below(6) {
            0 | 1 => Request::flush(),
            2 if zones > 1 => {
                let zone = dice.below(u64::from(zones)) as u32;
                let erased = |at: &u64| *at / ZONE != u64::from(zone);
                known.acknowledged.retain(|at, _| erased(at));
                // From here on the old data may be there or not.
                known.flushed.retain(|at, _| erased(at));
                Request::reset(zone)
            }
            _ => continue,
        };
        let flushes = format!("{request:?}").contains("Flush");
        queue.push(request).unwrap();
        queue.submit_and_wait(1).unwrap();
        if !take(&mut queue, &mut known, &sent) {
            return known;
        }
        if flushes {
            known.flushed = known.acknowledged.clone();
        }
    }
}

fn read(device: &Device, offset: u64, blocks: usize) -> Vec<u8> {
    device.read_at(offset, device.buffer(blocks * BLOCK)).wait().unwrap().buffer.to_vec()
}

/// Nothing that `must` be there is lost; every zone ends at a record's end; below that are whole
/// records of this session, and zeros; above it zeros.
fn check(device: &Device, known: &Known, must: &BTreeMap<u64, (u64, usize)>, what: &str) {
    for (&offset, &(number, blocks)) in must {
        assert!(read(device, offset, blocks) == record(number, blocks), "{what}: {offset} is lost");
    }
    for zone in device.report(..).unwrap() {
        let Some(wp) = zone.write_pointer else { panic!("{what}: {zone:?}") };
        assert!(matches!(zone.state, ZoneState::Empty | ZoneState::Closed | ZoneState::Full));
        let (mut at, zeros) = (zone.start, vec![0; BLOCK]);
        while at < wp {
            let block = read(device, at, 1);
            let number = u64::from_le_bytes(block[..8].try_into().unwrap());
            let blocks = known.lengths.get(&number).copied().unwrap_or(1);
            if block != zeros {
                assert!(read(device, at, blocks) == record(number, blocks), "{what}: torn at {at}");
            }
            at += (blocks * BLOCK) as u64;
        }
        assert_eq!(at, wp, "{what}: zone {} ends inside a record", zone.zone);
        if wp < zone.start + zone.capacity {
            assert!(read(device, wp, 1) == zeros, "{what}: stale above the write pointer");
        }
    }
}

fn images() -> impl Iterator<Item = (&'static Kind, Drive)> {
    KINDS.iter().filter(|kind| kind.is_image()).filter_map(|kind| Some((kind, kind.fresh()?)))
}

#[test]
fn a_cut_of_an_image_loses_nothing_flushed_and_tears_no_record() {
    for (kind, _) in images() {
        let mut flushed = 0;
        let mut lost = 0;
        for seed in 0..seeds() {
            let Some(drive) = kind.fresh() else { break };
            let plan = FaultPlan::new().cut_within(1..250).short(20).seed(seed);
            let known = work(&drive.under(&plan), 4, seed);
            let device = drive.open();
            check(&device, &known, &known.flushed, &format!("{}, {plan}", kind.name));
            flushed += known.flushed.len();
            let gone = |&(&at, &(number, blocks)): &(&u64, &(u64, usize))| {
                read(&device, at, blocks) != record(number, blocks)
            };
            lost += known.acknowledged.iter().filter(gone).count();
            device.close().unwrap();
        }
        println!("{}: {flushed} flushed records are there, {lost} others are lost", kind.name);
        assert!(flushed > 0 && lost > 0, "{}: the cuts prove nothing", kind.name);
    }
}

#[test]
fn a_kill_of_an_image_loses_nothing_acknowledged() {
    for (kind, _) in images().filter(|(kind, _)| kind.name != "simulated") {
        for seed in 0..seeds() {
            let Some(drive) = kind.fresh() else { break };
            let plan = FaultPlan::new().kill_within(1..250).short(20).seed(seed);
            let known = work(&drive.under(&plan), 4, seed);
            let device = drive.open();
            check(&device, &known, &known.acknowledged, &format!("{}, {plan}", kind.name));
            device.close().unwrap();
        }
    }
}

#[test]
fn a_cut_of_a_file_loses_nothing_flushed() {
    for kind in KINDS.iter().filter(|kind| kind.is_file()) {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..seeds() {
            let Some(drive) = kind.fresh() else { break };
            let plan = FaultPlan::new().cut_within(1..150).seed(seed);
            let known = work(&drive.under(&plan), 1, seed);
            let device = drive.open();
            for (&offset, &(number, blocks)) in &known.flushed {
                assert!(read(&device, offset, blocks) == record(number, blocks), "{plan}");
            }
            lengths.insert(device.report(0..1).unwrap()[0].write_pointer);
            device.close().unwrap();
        }
        assert!(lengths.len() > 3, "{lengths:?}");
    }
}

#[test]
fn a_seed_says_it_all() {
    for kind in KINDS.iter().filter(|kind| kind.outlives_its_handles()) {
        let run = |seed| {
            let drive = kind.fresh()?;
            let plan = FaultPlan::new().cut_within(20..120).short(50).seed(seed);
            let known = work(&drive.under(&plan), if kind.is_file() { 1 } else { 4 }, 5);
            let device = drive.open();
            let zones: Vec<_> = device.report(..).unwrap();
            let data = |zone: &zonal::ZoneInfo| {
                let blocks = (zone.write_pointer.unwrap() - zone.start) as usize / BLOCK;
                if blocks == 0 { Vec::new() } else { read(&device, zone.start, blocks) }
            };
            let data: Vec<_> = zones.iter().map(data).collect();
            Some((known, zones, data))
        };
        let (Some(once), Some(again), Some(other)) = (run(3), run(3), run(4)) else { continue };
        assert!(once == again, "{}: the same seed, another outcome", kind.name);
        assert!(once != other, "{}: another seed, the same outcome", kind.name);
    }
}

/// Docs: *Write pointer and failure*. L is the lowest failed start, H the acknowledged end.
#[test]
fn after_planned_failures_the_write_pointer_is_where_the_contract_says() {
    for kind in &KINDS {
        for seed in 0..8 {
            let Some(drive) = kind.fresh() else { break };
            let (first, second) = (1 + seed % 5, 3 + seed);
            let plan = FaultPlan::new().fail_write(first).tear_write(second).seed(seed);
            let device = drive.under(&plan);
            let mut queue = device.queue(&QueueOptions::default()).unwrap();
            for number in 1..=12 {
                let append = Request::append(0, record(number, 2).into()).tag(number);
                queue.push(append).unwrap();
            }
            queue.submit_and_wait(12).unwrap();
            let mut end = 0;
            let (mut fine, mut failed, mut behind) = (Vec::new(), Vec::new(), 0);
            while let Some(ended) = queue.next_completion() {
                match ended.result {
                    Ok(bytes) => {
                        end = end.max(ended.offset + u64::from(bytes));
                        fine.push((ended.offset, ended.tag));
                    }
                    Err(error) if error.kind() == ErrorKind::Io => failed.push(ended.offset),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::BehindFailedWrite, "{plan}: {error}");
                        behind += 1;
                    }
                }
            }
            assert_eq!(fine.len() + failed.len() + behind, 12, "{}, {plan}", kind.name);
            assert!(!failed.is_empty(), "{}, {plan}", kind.name);
            let wp = device.report(0..1).unwrap()[0].write_pointer.unwrap();
            let lowest = *failed.iter().min().unwrap();
            assert_eq!(wp, lowest.max(end), "{}, {plan}", kind.name);
            for (offset, number) in fine {
                assert!(read(&device, offset, 2) == record(number, 2), "{}, {plan}", kind.name);
            }
            for dead in failed.into_iter().filter(|&offset| offset < wp) {
                assert!(read(&device, dead, 2) == vec![0; 2 * BLOCK], "{}, {plan}", kind.name);
            }
            drop(queue);
            let again = device.append(0, record(99, 1)).wait().unwrap();
            assert_eq!(again.offset, wp);
            device.close().unwrap();
        }
    }
}
