//! A small key-value log on a zoned drive, with two mistakes that only a failing drive shows, and
//! the hunt for them: a session under a fault plan, a power cut, and a look at what is left.
//!
//! ```text
//! cargo run --release -p zonal --example fault_hunt -- early 500
//! cargo run --release -p zonal --example fault_hunt -- trusting 500
//! cargo run --release -p zonal --example fault_hunt -- mended 1000
//! ```
//!
//! The store appends a record for each change: a head with the record's number, its key, the length
//! of its value and a checksum, then the value. Its index is rebuilt by scanning the zones. Records
//! take any whole number of blocks, and those of a batch are under way together.
//!
//! * `early` says *committed* when an append is acknowledged. What is acknowledged is in the drive's
//!   cache; only what is flushed outlives a cut.
//! * `trusting` takes what lies below a write pointer for its records, without a look at their
//!   checksums. Where a write failed and one behind it did not, there are zeros.
//! * `mended` does neither.

#![allow(clippy::cast_possible_truncation, reason = "small numbers, of a drive of 4 MiB")]

use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use zonal::faults::FaultPlan;
use zonal::{CreateOptions, Device, Geometry, OpenOptions, Preallocate, Request, Target};
use zonal::{Queue, QueueOptions};

const BLOCK: usize = 4096;

/// Number, key, length of the value, checksum; 8 bytes each.
const HEAD: usize = 32;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Early,
    Trusting,
    Mended,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (name, seeds) = match words[..] {
        [name, seeds] => (name, seeds.parse().context("how many seeds?")?),
        _ => bail!("name a store (early, trusting or mended) and how many seeds to try"),
    };
    let variant = match name {
        "early" => Variant::Early,
        "trusting" => Variant::Trusting,
        "mended" => Variant::Mended,
        other => bail!("`{other}` is no store; there are early, trusting and mended"),
    };
    let folder = std::env::temp_dir().join(format!("fault-hunt-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let found = hunt(variant, seeds, &folder.join("disk.qcow2"));
    std::fs::remove_dir_all(&folder)?;
    match found? {
        None => println!("{name}: {seeds} seeds, nothing found"),
        Some((plan, what)) => {
            println!("{name}: {what}");
            println!("again: TARGET,faults={plan}");
            std::process::exit(1);
        }
    }
    Ok(())
}

/// Tries seeds until one shows a mistake: the plan, and what it has shown.
fn hunt(variant: Variant, seeds: u64, path: &Path) -> anyhow::Result<Option<(FaultPlan, String)>> {
    for seed in 1..=seeds {
        let times = Duration::ZERO..Duration::from_micros(100);
        let plan = FaultPlan::new().cut_within(1..150).fail(10).latency(times).seed(seed);
        let found = session(variant, &plan, seed, path);
        if let Some(what) = found.with_context(|| format!("under {plan}"))? {
            return Ok(Some((plan, what)));
        }
    }
    Ok(None)
}

/// One drive, one session until the plan ends it, and a look at what is left.
fn session(
    variant: Variant,
    plan: &FaultPlan,
    seed: u64,
    path: &Path,
) -> anyhow::Result<Option<String>> {
    let zone = 1 << 20;
    let geometry =
        Geometry { zone_size: zone, zone_capacity: zone, ..Geometry::with_size(4 * zone) };
    let preallocate = Preallocate::Off;
    zonal::create(path, CreateOptions { geometry, preallocate, force: true, progress: None })?;
    let target = Target::Path(path.to_owned());

    let drive = zonal::open(&target.clone().with_faults(plan.clone()), &OpenOptions::default())?;
    let committed = work(variant, &drive, seed)?;
    drop(drive);

    let drive = zonal::open(&target, &OpenOptions::default())?;
    let found = Store::open(variant, &drive)?;
    for (key, number) in committed {
        match found.index.get(&key) {
            None => return Ok(Some(format!("key {key} was committed, and is gone"))),
            Some(newest) if *newest < number => {
                let text = format!("key {key} was committed as {number}, and is back at {newest}");
                return Ok(Some(text));
            }
            Some(_) => {}
        }
    }
    // A key that nobody has ever set comes from bytes that are no record.
    let made_up = found.index.keys().find(|key| **key == 0);
    Ok(made_up.map(|key| format!("key {key} was never set, and is there")))
}

/// Sets keys until the drive fails: which of them were committed, and with which record.
fn work(variant: Variant, drive: &Device, seed: u64) -> anyhow::Result<BTreeMap<u64, u64>> {
    let mut store = Store::open(variant, drive)?;
    let mut queue = drive.queue(&QueueOptions::default())?;
    let mut random = seed;
    let mut committed = BTreeMap::new();
    loop {
        let mut batch = Vec::new();
        for _ in 0..8 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (key, blocks) = (1 + (random >> 40) % 20, 1 + (random >> 33) as usize % 4);
            batch.push((key, vec![random as u8 | 1; blocks * BLOCK - HEAD - 100]));
        }
        match store.set(&mut queue, &batch) {
            Ok(numbers) => committed.extend(numbers),
            // A failing drive ends the session; what was committed before still counts.
            Err(_) => return Ok(committed),
        }
    }
}

/// The newest record of each key, by number.
struct Store {
    variant: Variant,
    index: BTreeMap<u64, u64>,
    next: u64,
}

impl Store {
    /// Scans the zones.
    fn open(variant: Variant, drive: &Device) -> anyhow::Result<Self> {
        let mut store = Self { variant, index: BTreeMap::new(), next: 1 };
        for info in drive.report(..)? {
            let Some(end) = info.write_pointer else { continue };
            let mut at = info.start;
            while at < end {
                let mut record = read(drive, at, 1)?;
                let length = length_of(&record);
                // A length that is wrong must not make us read what is not there.
                let blocks = length.div_ceil(BLOCK).clamp(1, (end - at) as usize / BLOCK);
                if blocks > 1 {
                    record = read(drive, at, blocks)?;
                }
                let whole =
                    length <= record.len() && checksum(&record[..length]) == word(&record, 3);
                if whole || variant == Variant::Trusting {
                    let newest = store.index.entry(word(&record, 1)).or_default();
                    *newest = word(&record, 0).max(*newest);
                    store.next = store.next.max(word(&record, 0) + 1);
                    at += (blocks * BLOCK) as u64;
                } else {
                    at += BLOCK as u64;
                }
            }
        }
        Ok(store)
    }

    /// Sets keys to values, all of them or none that counts. Returns the number of each key's
    /// record once they are committed.
    fn set(
        &mut self,
        queue: &mut Queue,
        batch: &[(u64, Vec<u8>)],
    ) -> anyhow::Result<Vec<(u64, u64)>> {
        let mut numbers = Vec::new();
        for (key, value) in batch {
            let number = self.next;
            self.next += 1;
            let record = record(number, *key, value);
            queue.push(Request::append((number % 2) as u32, record.into()))?;
            numbers.push((*key, number));
        }
        queue.submit_and_wait(batch.len())?;
        while let Some(ended) = queue.next_completion() {
            ended.result?;
        }
        // The mistake: every eighth batch is soon enough, as all have been acknowledged.
        if self.variant != Variant::Early || self.next % 64 < 8 {
            queue.push(Request::flush())?;
            queue.submit_and_wait(1)?;
            queue.next_completion().context("it was waited for")?.result?;
        }
        self.index.extend(numbers.iter().copied());
        Ok(numbers)
    }
}

fn read(drive: &Device, offset: u64, blocks: usize) -> anyhow::Result<Vec<u8>> {
    let read = drive.read_at(offset, drive.buffer(blocks * BLOCK)).wait()?;
    Ok(read.buffer.to_vec())
}

fn record(number: u64, key: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [number, key, value.len() as u64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(value);
    let sum = checksum(&bytes);
    bytes[24..HEAD].copy_from_slice(&sum.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// The `index`th number of a record's head.
fn word(record: &[u8], index: usize) -> u64 {
    record.as_chunks().0.get(index).map_or(0, |word| u64::from_le_bytes(*word))
}

fn length_of(record: &[u8]) -> usize {
    HEAD.saturating_add(usize::try_from(word(record, 2)).unwrap_or(usize::MAX))
}

/// Of all bytes but the checksum's own. Never that of zeros.
fn checksum(record: &[u8]) -> u64 {
    let bytes = record.iter().enumerate().filter(|(at, _)| !(24..HEAD).contains(at));
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, (_, byte)| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
