//! A store of records by key, on a zoned drive. Nothing is stored but the records: the index is
//! rebuilt by scanning the zones.
//!
//! ```text
//! cargo run -p zonal --example record_store -- disk.qcow2 set apple red
//! cargo run -p zonal --example record_store -- disk.qcow2 get apple
//! cargo run -p zonal --example record_store -- disk.qcow2 list
//! ```
//!
//! A record is one append, which lands whole or not at all: a number that grows with each record,
//! the lengths of key and value, then both. Appends land in any order, so that the number says
//! which of two records of one key is the newer one.

use anyhow::{Context, bail};
use std::collections::BTreeMap;
use zonal::{Device, ErrorKind, OpenOptions, Target};

/// Bytes before the key: the record's number (8), the key's length (4), the value's (4).
const HEAD: usize = 16;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (target, command) = words.split_first().context("name a drive, and set, get or list")?;
    let drive = zonal::open(&Target::parse(target)?, &OpenOptions::default())?;
    let mut store = futures::executor::block_on(Store::open(&drive))?;
    match command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["set", key, value] => futures::executor::block_on(store.set(key, value))?,
        ["get", key] => {
            let value = futures::executor::block_on(store.get(key))?;
            println!("{}", value.with_context(|| format!("there is no {key}"))?);
        }
        ["list"] => store.index.keys().for_each(|key| println!("{key}")),
        _ => bail!("set KEY VALUE, get KEY, or list"),
    }
    drive.close()?;
    Ok(())
}

struct Store {
    drive: Device,
    /// Where each key's newest record is, with its number and the bytes it takes up.
    index: BTreeMap<String, Place>,
    next: u64,
}

#[derive(Clone, Copy)]
struct Place {
    number: u64,
    offset: u64,
    length: usize,
}

impl Store {
    /// Scans all zones that have data.
    async fn open(drive: &Device) -> anyhow::Result<Self> {
        let mut store = Self { drive: drive.clone(), index: BTreeMap::new(), next: 1 };
        for info in drive.report(..)? {
            if info.write_pointer.is_none_or(|wp| wp == info.start) {
                continue;
            }
            let mut records = drive.zone(info.zone)?.records_by(length_of)?;
            while let Some(record) = records.next_async().await {
                let record = record?;
                let (number, key, _) = parse(&record.bytes).context("a record without a key")?;
                let length = record.bytes.len();
                store.note(key, Place { number, offset: record.offset, length });
            }
        }
        Ok(store)
    }

    fn note(&mut self, key: &str, place: Place) {
        self.next = self.next.max(place.number + 1);
        let newest = self.index.entry(key.to_owned()).or_insert(place);
        if newest.number < place.number {
            *newest = place;
        }
    }

    /// Stores a value, durably.
    async fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let length = HEAD + key.len() + value.len();
        let block = self.drive.limits().block_size as usize;
        let mut record = self.drive.buffer(length.next_multiple_of(block));
        record[length..].fill(0);
        record[..8].copy_from_slice(&self.next.to_le_bytes());
        record[8..12].copy_from_slice(&u32::try_from(key.len())?.to_le_bytes());
        record[12..HEAD].copy_from_slice(&u32::try_from(value.len())?.to_le_bytes());
        record[HEAD..][..key.len()].copy_from_slice(key.as_bytes());
        record[HEAD + key.len()..length].copy_from_slice(value.as_bytes());
        for info in self.drive.report(..)? {
            record = match self.drive.append(info.zone, record).fua().await {
                Ok(landed) => {
                    let place = Place { number: self.next, offset: landed.offset, length };
                    self.note(key, place);
                    return Ok(());
                }
                Err(failed) => match (failed.error.kind(), failed.buffer) {
                    (ErrorKind::ZoneFull | ErrorKind::BeyondCapacity, Some(record)) => record,
                    _ => return Err(failed.error.into()),
                },
            };
        }
        bail!("the drive is full")
    }

    async fn get(&self, key: &str) -> anyhow::Result<Option<String>> {
        let Some(place) = self.index.get(key) else { return Ok(None) };
        let block = self.drive.limits().block_size as usize;
        let into = self.drive.buffer(place.length.next_multiple_of(block));
        let read = self.drive.read_at(place.offset, into).await?;
        let (_, _, value) = parse(&read.buffer).context("a record that changed")?;
        Ok(Some(value.to_owned()))
    }
}

/// How long a record is, by its head; none where there are only zeros.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let (head, _) = bytes.split_first_chunk::<HEAD>()?;
    let number = u64::from_le_bytes(*head.first_chunk()?);
    let length =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    (number > 0).then_some(HEAD + length(8) as usize + length(12) as usize)
}

/// Number, key and value of a record.
fn parse(bytes: &[u8]) -> Option<(u64, &str, &str)> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let number = u64::from_le_bytes(*head.first_chunk()?);
    let key = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let value = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
    let (key, rest) = rest.split_at_checked(key)?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some((number, text(key)?, text(rest.get(..value)?)?))
}
