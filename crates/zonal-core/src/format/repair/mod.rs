//! How what a check finds wrong is made right, planned and not yet done.
//!
//! Everything is read and written through a [`Patch`]: the file as it will be, in memory, in steps.
//! Who carries it out keeps the old bytes of [`Patch::changes`] first, then writes one step after
//! the other, each durable before the next.
//!
//! Invariants:
//! * Mapping is believed, and everything that can be counted from it is counted again. A cluster that
//!   is mapped stays mapped to the same place; two that share a place are left alone, and so are the
//!   refcounts then.
//! * A step alone leaves the image no worse: counts go up before anything else goes down, what a table
//!   names is there before it is named, and of two copies the one that counts is not touched until
//!   the other is whole.
//! * What is planned depends on the file alone, so a repair that was cut off is gone on with by the
//!   next.

mod ours;
mod tables;
#[cfg(test)]
mod tests;

pub use ours::{Sessions, mend_generations, mend_header, mend_zones};
pub use tables::{mend_entries, mend_refcounts};

use super::check::{FindingKind, MAX_FINDINGS};
use super::unsupported;
use crate::error::Result;
use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::fmt;
use crc32c::crc32c;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;
/// Most sectors that a repair changes: 64 MiB, the refcounts of a drive of 2 TiB in clusters of
/// 64 KiB. More than that is no damage but another file.
const MAX_SECTORS: usize = 1 << 17;

/// The version of what is kept of a file before it is repaired.
const KEPT_VERSION: u32 = 1;

type Sectors = BTreeMap<u64, Box<[u8; SECTOR_BYTES]>>;

/// A file as it will be when all steps are done.
#[derive(Debug)]
pub struct Patch<R> {
    read: R,
    /// The file's length before, in bytes.
    disk_length: u64,
    length: u64,
    newest: Sectors,
    steps: Vec<Sectors>,
}

impl<R: FnMut(u64, &mut [u8]) -> Result<()>> Patch<R> {
    /// A file of `length` bytes, which `read` reads.
    pub const fn new(length: u64, read: R) -> Self {
        Self { read, disk_length: length, length, newest: BTreeMap::new(), steps: Vec::new() }
    }

    /// What is written from now on waits until all before is durable.
    pub fn step(&mut self) {
        if self.steps.last().is_none_or(|step| !step.is_empty()) {
            self.steps.push(BTreeMap::new());
        }
    }

    /// Reads the file as it will be.
    ///
    /// # Errors
    /// What `read` fails with, also past the end.
    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        let old = if self.length > self.disk_length && end <= self.length {
            near(self.disk_length.clamp(offset, end) - offset)
        } else {
            bytes.len()
        };
        let (there, new) = bytes.split_at_mut(old);
        new.fill(0);
        if !there.is_empty() {
            (self.read)(offset, there)?;
        }
        for (&sector, content) in self.newest.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = sector * SECTOR;
            let (from, to) = (start.max(offset), (start + SECTOR).min(end));
            bytes[near(from - offset)..near(to - offset)]
                .copy_from_slice(&content[near(from - start)..near(to - start)]);
        }
        Ok(())
    }

    /// Changes the file. What is there already is no change.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) when that is more than a repair
    /// changes; those of [`read`](Self::read).
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.steps.is_empty() {
            self.step();
        }
        let end = offset + bytes.len() as u64;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let start = sector * SECTOR;
            let mut content = Box::new([0; SECTOR_BYTES]);
            let there = near(self.length.saturating_sub(start).min(SECTOR));
            self.read(start, &mut content[..there])?;
            let (from, to) = (start.max(offset), (start + SECTOR).min(end));
            let new = &bytes[near(from - offset)..near(to - offset)];
            let place = &mut content[near(from - start)..near(to - start)];
            if place == new {
                continue;
            }
            place.copy_from_slice(new);
            if self.newest.len() >= MAX_SECTORS {
                let detail = "more of its tables is wrong than a repair changes; copy what can be \
                              read with `zonal dump`";
                return Err(unsupported(offset, bytes.len() as u64, detail));
            }
            self.newest.insert(sector, content.clone());
            if let Some(step) = self.steps.last_mut() {
                step.insert(sector, content);
            }
        }
        Ok(())
    }

    /// Makes the file so long, if it is shorter; what is new reads as zeros.
    pub fn grow(&mut self, length: u64) {
        self.length = self.length.max(length);
    }

    /// How long the file will be.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// What of the file as it was changes: (offset, length), ascending, neighbours joined.
    pub fn changes(&self) -> Vec<(u64, u64)> {
        let mut changes: Vec<(u64, u64)> = Vec::new();
        for sector in self.newest.keys() {
            let start = sector * SECTOR;
            let length = self.disk_length.saturating_sub(start).min(SECTOR);
            match changes.last_mut() {
                _ if length == 0 => {}
                Some(last) if last.0 + last.1 == start => last.1 += length,
                _ => changes.push((start, length)),
            }
        }
        changes
    }

    /// The bytes of the file that keeps what [`changes`](Self::changes) names, as it was. All numbers are
    /// big-endian:
    ///
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 8 | magic, `zonalrep` |
    /// | 8 | 4 | version, 1 |
    /// | 12 | 4 | regions |
    /// | 16 | 16 | image id, or zeros |
    /// | 32 | 8 | the image's length before, in bytes |
    /// | 40 | 4 | CRC-32C of bytes 0–39 |
    /// | 44 | | the regions |
    ///
    /// A region is its offset in the image (8), its length in bytes (8), that many bytes, and the
    /// CRC-32C of all these (4).
    ///
    /// # Errors
    /// What reading the file fails with.
    pub fn kept(&mut self, image_id: [u8; 16]) -> Result<Vec<u8>> {
        let changes = self.changes();
        let mut bytes = b"zonalrep".to_vec();
        bytes.extend_from_slice(&KEPT_VERSION.to_be_bytes());
        // At most one a sector, and these are bounded.
        let regions = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&regions.to_be_bytes());
        bytes.extend_from_slice(&image_id);
        bytes.extend_from_slice(&self.disk_length.to_be_bytes());
        bytes.extend_from_slice(&crc32c(&bytes).to_be_bytes());
        for (offset, length) in changes {
            let region = bytes.len();
            bytes.extend_from_slice(&offset.to_be_bytes());
            bytes.extend_from_slice(&length.to_be_bytes());
            let content = bytes.len();
            bytes.resize(content + near(length), 0);
            (self.read)(offset, &mut bytes[content..])?;
            let sum = crc32c(&bytes[region..]);
            bytes.extend_from_slice(&sum.to_be_bytes());
        }
        Ok(bytes)
    }

    /// What is to be written, step after step: (offset, bytes), ascending, neighbours joined.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = Vec<(u64, Vec<u8>)>> + '_ {
        self.steps.iter().map(|step| {
            let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
            for (sector, content) in step {
                let start = sector * SECTOR;
                let bytes = &content[..near((self.length - start).min(SECTOR))];
                match writes.last_mut() {
                    Some(last) if last.0 + last.1.len() as u64 == start => {
                        last.1.extend_from_slice(bytes);
                    }
                    _ => writes.push((start, bytes.to_vec())),
                }
            }
            writes
        })
    }
}

/// A length inside a buffer.
#[allow(clippy::cast_possible_truncation)]
const fn near(length: u64) -> usize {
    length as usize
}

/// What is made right, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// Refcounts, or entries of the refcount table, that a check finds.
    Count(FindingKind),
    /// An entry of the L1 table or an L2 table that lacked `COPIED`.
    Flag,
    /// An entry of the L1 table or an L2 table that could not be, in an image that still has the
    /// layout of its creation.
    EntryAsMade,
    /// A copy of the session record.
    SessionCopy,
    /// Conditions and dead ranges in the session record that could not be.
    SessionLists,
    /// A copy of a generation page.
    GenerationCopy,
    /// The table's entry of a conventional zone.
    Conventional,
    /// The table's entry of a sequential zone.
    ZoneReadOnly(u32),
    /// The header's mark that the image is dirty or corrupt.
    Mark,
    /// More was mended than is listed.
    More,
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Count(kind) => {
                let done = match kind {
                    FindingKind::Leak => "free now",
                    FindingKind::Unreferenced => "counted now",
                    FindingKind::CountedTwice => "counted once now",
                    FindingKind::BadRefcountBlock => "a new block counts, where one is needed",
                    FindingKind::Overlap | FindingKind::More => "counted again",
                };
                return write!(f, "{kind}: {done}");
            }
            Self::Flag => "a table entry without its COPIED flag: has it now",
            Self::EntryAsMade => "a table entry that cannot be: as it was made at creation",
            Self::SessionCopy => "a copy of the session record: from the other one",
            Self::SessionLists => {
                "conditions or dead ranges that cannot be: left out, or cut to their zone"
            }
            Self::GenerationCopy => "a copy of a generation page: from the other one",
            Self::Conventional => "the table's entry of a conventional zone: its start",
            Self::ZoneReadOnly(zone) => {
                return write!(
                    f,
                    "zone {zone}: where it ended is lost: it is read-only now, up to its \
                     capacity; behind its last record there may be bytes of an earlier one"
                );
            }
            Self::Mark => "the image's mark as dirty or corrupt: taken away",
            Self::More => "more was mended",
        };
        f.write_str(words)
    }
}

/// Something that is made right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mended {
    /// What, and how.
    pub mend: Mend,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// What is made right, neighbours of one kind joined.
#[derive(Clone, Debug, Default)]
pub struct MendedList(Vec<Mended>);

impl MendedList {
    /// Adds something.
    pub fn add(&mut self, mend: Mend, offset: u64, length: u64) {
        let count = self.0.len();
        match self.0.last_mut() {
            Some(last) if last.mend == Mend::More => {}
            Some(last) if last.mend == mend && last.offset + last.length == offset => {
                last.length += length;
            }
            _ if count >= MAX_FINDINGS => self.0.push(Mended { mend: Mend::More, offset, length }),
            _ => self.0.push(Mended { mend, offset, length }),
        }
    }

    /// Takes another list's.
    pub fn extend(&mut self, other: &Self) {
        for Mended { mend, offset, length } in &other.0 {
            self.add(*mend, *offset, *length);
        }
    }

    /// All of it.
    #[must_use]
    pub fn list(&self) -> &[Mended] {
        &self.0
    }
}
