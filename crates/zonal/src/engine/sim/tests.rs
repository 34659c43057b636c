//! The simulated disk against what it promises.

use super::super::{Disk, Engine, EngineOptions, Io, Notifier};
use super::*;
use crate::buffer::Buffer;
use crate::sync::thread;
use std::collections::BTreeSet;

const SECTOR: usize = 512;

/// Tokens, and bytes or an error number.
type Results = Vec<(u64, Result<u32, i32>)>;

/// An engine and the buffers of its requests.
struct Driver {
    engine: Engine,
    buffers: BTreeMap<u64, Buffer>,
}

impl Driver {
    fn new(disk: &SimDisk) -> Self {
        let disk = Disk::Sim(disk.clone());
        let engine = disk.engine(&EngineOptions::default(), None).unwrap();
        Self { engine, buffers: BTreeMap::new() }
    }

    fn push(&mut self, kind: IoKind, sector: u64, mut buffer: Buffer, token: u64) {
        let io = Io {
            kind,
            offset: sector * SECTOR as u64,
            ptr: buffer.as_mut_ptr(),
            len: buffer.len(),
            fixed: false,
            token,
            zoned: None,
        };
        // SAFETY: the buffer is kept until its token is reaped or the engine dropped.
        unsafe { self.engine.push(io) }.unwrap();
        self.buffers.insert(token, buffer);
    }

    fn write(&mut self, sector: u64, sectors: usize, byte: u8, token: u64) {
        let buffer = Buffer::from_slice(&vec![byte; sectors * SECTOR]);
        self.push(IoKind::Write, sector, buffer, token);
    }

    fn sync(&mut self, token: u64) {
        self.push(IoKind::SyncData, 0, Buffer::unpooled(0), token);
    }

    fn submit(&mut self) {
        self.engine.submit(0, None).unwrap();
    }

    /// What ended since: token, bytes or error number, content.
    fn reap(&mut self) -> Vec<(u64, Result<u32, i32>, Buffer)> {
        let mut ended = Vec::new();
        let buffers = &mut self.buffers;
        self.engine.reap(|token, result| {
            let result = result.map_err(|error| error.raw_os_error().unwrap());
            ended.push((token, result, buffers.remove(&token).unwrap()));
        });
        ended
    }

    fn results(&mut self) -> Results {
        self.reap().into_iter().map(|(token, result, _)| (token, result)).collect()
    }
}

fn model(test: impl Fn() + Send + Sync + 'static) {
    #[cfg(zonal_shuttle)]
    shuttle::check_random(test, 300);
    #[cfg(not(zonal_shuttle))]
    test();
}

fn manual(sectors: u64) -> SimDisk {
    SimDisk::new(&SimImage::new(sectors * SECTOR as u64, SECTOR), SimMode::Manual)
}

/// Completes the only pending request.
fn complete_one(disk: &SimDisk, outcome: Outcome) {
    let pending = disk.pending();
    assert_eq!(pending.len(), 1);
    assert!(disk.complete(pending[0].id, outcome));
}

/// The first byte of each sector.
fn marks(image: &SimImage) -> Vec<u8> {
    image.to_bytes().chunks(SECTOR).map(|sector| sector[0]).collect()
}

/// Every image that a cut could leave.
fn all_cuts(disk: &SimDisk) -> BTreeSet<Vec<u8>> {
    let contents = disk.unstable_contents();
    let total: usize = contents.iter().product();
    let cut = |number: usize| {
        let mut left = number;
        marks(&disk.if_cut(&mut |options| {
            let choice = left % options;
            left /= options;
            choice
        }))
    };
    (0..total).map(cut).collect()
}

#[test]
fn a_completed_write_is_read_at_once_and_durable_after_a_sync() {
    model(|| {
        let disk = manual(4);
        let mut driver = Driver::new(&disk);
        driver.write(1, 1, 7, 1);
        assert!(disk.pending().is_empty(), "not submitted yet");
        driver.submit();
        assert_eq!(marks(&disk.image()), [0, 0, 0, 0]);
        complete_one(&disk, Outcome::Ok);
        assert_eq!(driver.results(), [(1, Ok(512))]);
        assert_eq!(marks(&disk.image()), [0, 7, 0, 0]);
        assert_eq!(disk.unstable_sectors(), 1);

        driver.push(IoKind::Read, 1, Buffer::unpooled(SECTOR), 2);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        let ended = driver.reap();
        assert_eq!((ended[0].0, ended[0].1, ended[0].2[511]), (2, Ok(512), 7));

        driver.sync(3);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        assert_eq!(driver.results(), [(3, Ok(0))]);
        assert_eq!(disk.unstable_sectors(), 0);
        assert_eq!(marks(&disk.cut(&mut |_| 0)), [0, 7, 0, 0]);
    });
}

#[test]
fn a_cut_leaves_every_subset_of_what_is_not_durable() {
    model(|| {
        let disk = manual(3);
        let mut driver = Driver::new(&disk);
        driver.write(0, 2, 1, 1);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        driver.write(1, 1, 2, 2);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        driver.write(1, 2, 3, 3);
        driver.submit();
        // Sector 0: old or 1. Sector 1: old, 1, 2, or 3 in flight. Sector 2: old or 3 in flight.
        assert_eq!(disk.unstable_contents(), [2, 4, 2]);
        let mut expected = BTreeSet::new();
        for first in [0, 1] {
            for second in [0, 1, 2, 3] {
                for third in [0, 3] {
                    expected.insert(vec![first, second, third]);
                }
            }
        }
        assert_eq!(all_cuts(&disk), expected);
        disk.cut(&mut |_| 0);
        driver.reap();
    });
}

#[test]
fn a_sync_covers_what_completed_before_it_was_submitted_and_nothing_else() {
    model(|| {
        let disk = manual(3);
        let mut driver = Driver::new(&disk);
        driver.write(0, 1, 1, 1);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        driver.write(1, 1, 2, 2);
        driver.sync(3);
        driver.submit();
        let pending = disk.pending();
        assert!(
            disk.complete(pending[0].id, Outcome::Ok),
            "the write, after the sync's submission"
        );
        driver.write(0, 1, 4, 4);
        driver.submit();
        assert!(disk.complete(disk.pending()[1].id, Outcome::Ok), "a newer content of sector 0");
        assert!(disk.complete(pending[1].id, Outcome::Ok), "the sync");
        assert_eq!(
            all_cuts(&disk),
            [vec![1, 0, 0], vec![1, 2, 0], vec![4, 0, 0], vec![4, 2, 0]].into()
        );
        driver.reap();
    });
}

#[test]
fn a_durable_write_makes_its_own_sectors_durable_and_no_others() {
    model(|| {
        let disk = manual(2);
        let mut driver = Driver::new(&disk);
        driver.write(0, 2, 1, 1);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        driver.push(IoKind::WriteDurable, 0, Buffer::from_slice(&[2; SECTOR]), 2);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        assert_eq!(all_cuts(&disk), [vec![2, 0], vec![2, 1]].into());
        driver.reap();
    });
}

#[test]
fn what_a_failed_sync_should_have_covered_stays_in_doubt() {
    model(|| {
        let disk = manual(2);
        let mut driver = Driver::new(&disk);
        driver.write(0, 2, 1, 1);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        for (token, outcome) in [(2, Outcome::Fail(libc::EIO)), (3, Outcome::Ok)] {
            driver.sync(token);
            driver.submit();
            complete_one(&disk, outcome);
        }
        assert_eq!(disk.unstable_sectors(), 2);
        driver.write(1, 1, 5, 4);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        driver.sync(5);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        assert_eq!(all_cuts(&disk), [vec![0, 5], vec![1, 5]].into());
        let results: Vec<_> = driver.results().into_iter().map(|(_, result)| result).collect();
        assert_eq!(results, [Ok(1024), Err(libc::EIO), Ok(0), Ok(512), Ok(0)]);
    });
}

#[test]
fn zeroing_is_a_write_of_zeros() {
    model(|| {
        let image = SimImage::from_bytes(&[9; 4 * SECTOR], SECTOR);
        let disk = SimDisk::new(&image, SimMode::Manual);
        let mut driver = Driver::new(&disk);
        driver.push(IoKind::Zero, 1, Buffer::unpooled(2 * SECTOR), 1);
        driver.submit();
        assert_eq!(disk.unstable_sectors(), 2, "in flight");
        complete_one(&disk, Outcome::Ok);
        assert_eq!(driver.results(), [(1, Ok(0))]);
        assert_eq!(marks(&disk.image()), [9, 0, 0, 9]);
        assert_eq!(all_cuts(&disk).len(), 4);
    });
}

#[test]
fn outcomes_are_reported_and_take_effect_as_said() {
    model(|| {
        let disk = manual(4);
        let mut driver = Driver::new(&disk);
        for (token, outcome) in [
            (1, Outcome::Short(SECTOR)),
            (2, Outcome::FailAfterPartial(2 * SECTOR)),
            (3, Outcome::Fail(libc::ENOSPC)),
        ] {
            driver.write(0, 4, u8::try_from(token).unwrap(), token);
            driver.submit();
            complete_one(&disk, outcome);
        }
        let expected = [(1, Ok(512)), (2, Err(libc::EIO)), (3, Err(libc::ENOSPC))];
        assert_eq!(driver.results(), expected);
        assert_eq!(marks(&disk.image()), [2, 2, 0, 0]);
        driver.push(IoKind::Read, 2, Buffer::unpooled(4 * SECTOR), 4);
        driver.submit();
        complete_one(&disk, Outcome::Ok);
        assert_eq!(driver.results(), [(4, Ok(1024))], "short at the end of the disk");
        let counts = SimCounts { reads: 1, writes: 3, ..SimCounts::default() };
        assert_eq!(disk.counts(), counts);
    });
}

#[test]
fn after_a_cut_everything_fails() {
    model(|| {
        let disk = manual(2);
        let mut driver = Driver::new(&disk);
        driver.write(0, 1, 1, 1);
        driver.submit();
        disk.cut(&mut |_| 0);
        driver.write(0, 1, 1, 2);
        driver.engine.submit(2, None).unwrap();
        assert_eq!(driver.results(), [(1, Err(libc::EIO)), (2, Err(libc::EIO))]);
        let disk = Disk::Sim(disk);
        assert_eq!(disk.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(disk.read_exact_at(&mut [0], 0).is_err());
    });
}

#[test]
fn a_dropped_engine_leaves_its_requests_behind() {
    model(|| {
        let disk = manual(2);
        let mut driver = Driver::new(&disk);
        driver.write(1, 1, 3, 1);
        driver.submit();
        drop(driver);
        complete_one(&disk, Outcome::Ok);
        assert_eq!(marks(&disk.image()), [0, 3]);
    });
}

/// A run of a little workload: what ended, in order, and what a cut left.
fn automatic(seed: u64) -> (Results, SimImage) {
    let faults = FaultPlan { short_per_mille: 100, fail_per_mille: 100, ..FaultPlan::default() };
    let image = SimImage::new(32 * SECTOR as u64, SECTOR);
    let disk = SimDisk::new(&image, SimMode::Auto { seed, faults });
    let mut driver = Driver::new(&disk);
    let mut ended = Vec::new();
    for token in 0..60 {
        if token % 10 == 9 {
            driver.sync(token);
        } else {
            driver.write(token % 29, 3, u8::try_from(token).unwrap() + 1, token);
        }
        driver.engine.submit(usize::from(token % 4 == 0), None).unwrap();
        ended.extend(driver.results());
    }
    let mut choices = seed;
    let left = disk.cut(&mut |options| {
        choices = choices.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(choices >> 33).unwrap() % options
    });
    ended.extend(driver.results());
    assert_eq!(ended.len(), 60);
    (ended, left)
}

#[test]
fn a_seed_replays_exactly() {
    model(|| {
        let first = automatic(42);
        assert_eq!(first, automatic(42));
        assert_ne!(first, automatic(43));
        assert!(first.0.iter().any(|(_, result)| *result == Err(libc::EIO)));
    });
}

#[test]
fn the_plan_decides_what_fails() {
    model(|| {
        let run = |faults: FaultPlan| {
            let mode = SimMode::Auto { seed: 1, faults };
            let disk = SimDisk::new(&SimImage::new(8 * SECTOR as u64, SECTOR), mode);
            let mut driver = Driver::new(&disk);
            let mut results = Vec::new();
            for sector in 0..3 {
                driver.write(sector, 1, 1, 0);
                driver.engine.submit(1, None).unwrap();
                results.extend(driver.results().into_iter().map(|(_, result)| result));
            }
            driver.sync(0);
            driver.push(IoKind::Zero, 0, Buffer::unpooled(SECTOR), 1);
            driver.engine.submit(2, None).unwrap();
            let mut rest = driver.results();
            rest.sort_by_key(|&(token, _)| token);
            results.extend(rest.into_iter().map(|(_, result)| result));
            results
        };
        let none = FaultPlan::default();
        let eio = Err(libc::EIO);
        assert_eq!(run(none.clone()), [Ok(512), Ok(512), Ok(512), Ok(0), Ok(0)]);
        let plan = FaultPlan { fail_write: Some(1), fail_sync: Some(0), ..none.clone() };
        assert_eq!(run(plan), [Ok(512), eio, Ok(512), eio, Ok(0)]);
        let plan = FaultPlan { bad_range: Some(1030..1031), no_zeroing: true, ..none.clone() };
        assert_eq!(run(plan), [Ok(512), Ok(512), eio, Ok(0), Err(libc::EOPNOTSUPP)]);
        let plan = FaultPlan { free_sectors: Some(2), ..none };
        assert_eq!(run(plan), [Ok(512), Ok(512), Err(libc::ENOSPC), Ok(0), Ok(0)]);
    });
}

#[test]
fn a_manual_wait_ends_when_another_thread_completes_enough() {
    model(|| {
        let disk = manual(4);
        let mut driver = Driver::new(&disk);
        driver.write(0, 1, 1, 1);
        driver.write(1, 1, 1, 2);
        let completer = disk.clone();
        let thread = thread::spawn(move || {
            let mut done = 0;
            while done < 2 {
                for op in completer.pending() {
                    done += usize::from(completer.complete(op.id, Outcome::Ok));
                }
                thread::yield_now();
            }
        });
        driver.engine.submit(2, None).unwrap();
        assert_eq!(driver.results().len(), 2);
        thread.join().unwrap();
    });
}

#[test]
fn a_notification_ends_a_simulated_wait_before_or_during_it() {
    model(|| {
        let disk = manual(4);
        let mut driver = Driver::new(&disk);
        driver.write(0, 1, 1, 1);
        let notifier: Notifier = driver.engine.notifier();
        let thread = thread::spawn(move || notifier.notify());
        driver.engine.submit(1, None).unwrap();
        thread.join().unwrap();
        assert!(driver.results().is_empty());
        complete_one(&disk, Outcome::Ok);
        driver.engine.submit(1, None).unwrap();
        assert_eq!(driver.results(), [(1, Ok(512))]);
        driver.engine.submit(1, None).unwrap();
    });
}

#[test]
fn engines_of_several_threads_finish_each_others_requests() {
    model(|| {
        let mode = SimMode::Auto { seed: 5, faults: FaultPlan::default() };
        let disk = SimDisk::new(&SimImage::new(64 * SECTOR as u64, SECTOR), mode);
        let threads: Vec<_> = (0..3_u8)
            .map(|number| {
                let disk = disk.clone();
                thread::spawn(move || {
                    let mut driver = Driver::new(&disk);
                    for token in 0..8 {
                        driver.write(u64::from(number) * 8 + token, 1, number + 1, token);
                        driver.engine.submit(usize::from(token % 3 == 2), None).unwrap();
                    }
                    let mut ended = driver.results().len();
                    while ended < 8 {
                        driver.engine.submit(1, None).unwrap();
                        ended += driver.results().len();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let expected = [[1; 8], [2; 8], [3; 8]].concat();
        assert_eq!(marks(&disk.image())[..24], expected);
    });
}

#[test]
fn blocking_calls_see_and_change_the_same_disk() {
    model(|| {
        let sim = manual(2);
        let disk = Disk::Sim(sim.clone());
        disk.write_all_at(&[1; 700], 300).unwrap();
        let mut bytes = [9; 800];
        disk.read_exact_at(&mut bytes[..724], 300).unwrap();
        assert_eq!((bytes[0], bytes[699], bytes[700]), (1, 1, 0));
        assert!(disk.read_exact_at(&mut bytes, 300).is_err());
        assert_eq!(sim.unstable_sectors(), 2);
        disk.sync_data().unwrap();
        assert_eq!(sim.unstable_sectors(), 0);
        disk.set_len(301).unwrap();
        disk.set_len(2048).unwrap();
        disk.read_exact_at(&mut bytes, 300).unwrap();
        assert_eq!((bytes[0], bytes[1], disk.len().unwrap()), (1, 0, 2048));
        disk.allocate(2048, 512).unwrap();
        disk.zero(0, 512).unwrap();
        assert_eq!(sim.image(), SimImage::new(2560, SECTOR));
    });
}
