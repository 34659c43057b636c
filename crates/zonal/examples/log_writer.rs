//! A log on a zoned drive: lines from standard input are appended as they come, many at a time,
//! and printed again from the zones. No runtime, no executor: operations are started and waited
//! for.
//!
//! ```text
//! journalctl | cargo run -p zonal --example log_writer -- disk.qcow2
//! ```
//!
//! Each entry is one ordered append: four bytes of length, the line, and zeros to the next block.

use anyhow::{Context, bail};
use std::collections::VecDeque;
use std::io::{BufRead, Write};
use zonal::{Buffer, Device, OpenOptions, Operation, Target, Transfer, Zone};

fn main() -> anyhow::Result<()> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "mem:size=64M,zone-size=4M".to_owned());
    let drive = zonal::open(&Target::parse(&target)?, &OpenOptions::default())?;
    let mut log = Log::open(&drive)?;
    for line in std::io::stdin().lock().lines() {
        log.write(line?.as_bytes())?;
    }
    log.sync()?;
    print(&drive)?;
    drive.close()?;
    Ok(())
}

/// Where the log goes on, and what is under way.
struct Log {
    drive: Device,
    zone: Zone,
    /// Bytes that are left in the zone.
    left: u64,
    under_way: VecDeque<Operation<Transfer>>,
}

impl Log {
    /// Goes on in the first zone that is not full.
    fn open(drive: &Device) -> anyhow::Result<Self> {
        let (zone, left) = next_zone(drive, 0)?;
        Ok(Self { drive: drive.clone(), zone, left, under_way: VecDeque::new() })
    }

    /// Appends one line, in order. It is durable after the next [`Log::sync`].
    fn write(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let mut entry = entry(&self.drive, line)?;
        if self.left < entry.len() as u64 {
            self.wait_for_all()?;
            self.zone.finish().wait()?;
            (self.zone, self.left) = next_zone(&self.drive, self.zone.number() + 1)?;
        }
        self.left =
            self.left.checked_sub(entry.len() as u64).context("a line longer than a zone")?;
        loop {
            match self.zone.append_ordered(entry).try_start() {
                Ok(operation) => break self.under_way.push_back(operation),
                // As many are under way as can be: wait for the oldest, and try again.
                Err(full) => entry = full.0.into_buffer().context("it was an append")?,
            }
            self.wait_for_oldest()?;
        }
        Ok(())
    }

    fn wait_for_oldest(&mut self) -> anyhow::Result<()> {
        if let Some(oldest) = self.under_way.pop_front() {
            oldest.wait()?;
        }
        Ok(())
    }

    fn wait_for_all(&mut self) -> anyhow::Result<()> {
        while !self.under_way.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(())
    }

    /// Everything written so far is durable after this.
    fn sync(&mut self) -> anyhow::Result<()> {
        self.wait_for_all()?;
        Ok(self.drive.flush().wait()?)
    }
}

/// The first zone from `first` on that is not full, and how much is left of it.
fn next_zone(drive: &Device, first: u32) -> anyhow::Result<(Zone, u64)> {
    for info in drive.report(first..)? {
        let left = info.write_pointer.map_or(0, |wp| info.start + info.capacity - wp);
        if left > 0 {
            return Ok((drive.zone(info.zone)?, left));
        }
    }
    bail!("the drive is full")
}

/// An entry: its length with these four bytes, the line, and zeros up to the next block.
fn entry(drive: &Device, line: &[u8]) -> anyhow::Result<Buffer> {
    let block = drive.limits().block_size as usize;
    let length = 4 + line.len();
    let mut entry = drive.buffer(length.next_multiple_of(block));
    entry[..4].copy_from_slice(&u32::try_from(length)?.to_le_bytes());
    entry[4..length].copy_from_slice(line);
    entry[length..].fill(0);
    Ok(entry)
}

fn print(drive: &Device) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for info in drive.report(..)? {
        if info.write_pointer.is_none_or(|wp| wp == info.start) {
            continue;
        }
        for record in drive.zone(info.zone)?.records_by(length_of)? {
            out.write_all(&record?.bytes[4..])?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// How long an entry is, by its first bytes; none at the end of a zone that was finished.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    (length > 0).then_some(length as usize)
}
