//! What a disk that loses its power may still hold: of each block the contents that are not durable.
//!
//! Invariants:
//! * a block is here from the first write to it until a sync covers the last one; the oldest of its
//!   contents is the durable one, the others follow in the order in which they were submitted;
//! * a sync covers what had ended before it was submitted, and nothing that an earlier sync should
//!   have covered and did not.

use super::Random;
use crate::engine::Disk;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What a power cut leaves whole: old or new. The block of nearly all drives; of larger ones a cut may
/// tear one.
pub(super) const BLOCK: u64 = 4096;

/// A block's bytes; `None` is all zeros.
type Content = Option<Arc<[u8]>>;

/// Names a write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteId(u64);

/// How a write has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is on the disk, and durable after a sync.
    Cached,
    /// It is durable by itself.
    Durable,
    /// It failed: how much of it is on the disk is not known.
    Unknown,
}

#[derive(Debug)]
struct Version {
    write: WriteId,
    content: Content,
    /// When, in the order of endings.
    ended: Option<u64>,
    /// No sync makes it durable any more.
    lost: bool,
}

#[derive(Debug)]
struct Block {
    durable: Content,
    versions: Vec<Version>,
}

/// The contents that a power cut chooses from.
#[derive(Debug, Default)]
pub(super) struct Undo {
    blocks: BTreeMap<u64, Block>,
    under_way: HashMap<WriteId, Range<u64>>,
    next: u64,
    /// The place of the next ending in their order.
    clock: u64,
    /// Where the disk ended at its last sync and after each write since that lengthened it; for a
    /// disk whose length is not durable by itself.
    lengths: Option<Vec<u64>>,
}

impl Undo {
    /// Of a disk whose length counts, and of which all is durable.
    pub(super) fn length_counts(&mut self, length: u64) {
        self.lengths = Some(vec![length]);
    }

    /// A write of `bytes` is about to be submitted; of zeros where there are none.
    pub(super) fn begin(
        &mut self,
        disk: &Disk,
        offset: u64,
        length: u64,
        bytes: Option<&[u8]>,
    ) -> io::Result<WriteId> {
        let write = WriteId(self.next);
        self.next += 1;
        if length == 0 {
            return Ok(write);
        }
        let end = offset + length;
        let blocks = offset / BLOCK..end.div_ceil(BLOCK);
        self.learn(disk, &blocks)?;
        for index in blocks.clone() {
            let Some(block) = self.blocks.get_mut(&index) else { continue };
            let at = index * BLOCK;
            let (from, to) = (offset.max(at), end.min(at + BLOCK));
            let newest = block.versions.last().map_or(&block.durable, |version| &version.content);
            let mut whole = newest.as_ref().map_or_else(zeros, |bytes| bytes.to_vec());
            let place = &mut whole[near(from - at)..near(to - at)];
            match bytes {
                Some(bytes) => {
                    place.copy_from_slice(&bytes[near(from - offset)..near(to - offset)])
                }
                None => place.fill(0),
            }
            let content = content(&whole);
            block.versions.push(Version { write, content, ended: None, lost: false });
        }
        if let (Some(lengths), Some(_)) = (&mut self.lengths, bytes)
            && lengths.iter().all(|&length| length < end)
        {
            lengths.push(end);
        }
        self.under_way.insert(write, blocks);
        Ok(write)
    }

    /// Reads the blocks that are not known yet: what they hold is durable.
    fn learn(&mut self, disk: &Disk, blocks: &Range<u64>) -> io::Result<()> {
        let missing = |index: &u64| !self.blocks.contains_key(index);
        let Some(first) = blocks.clone().find(missing) else { return Ok(()) };
        let start = first * BLOCK;
        let end = (blocks.end * BLOCK).min(disk.len()?);
        let mut bytes = vec![0; near(end.saturating_sub(start))];
        disk.read_exact_at(&mut bytes, start)?;
        bytes.resize(near(blocks.end * BLOCK - start), 0);
        for (index, durable) in (first..).zip(bytes.chunks_exact(near(BLOCK))) {
            let block = || Block { durable: content(durable), versions: Vec::new() };
            self.blocks.entry(index).or_insert_with(block);
        }
        Ok(())
    }

    /// A write has ended.
    pub(super) fn end(&mut self, write: WriteId, ended: Ended) {
        let Some(blocks) = self.under_way.remove(&write) else { return };
        let now = self.tick();
        self.blocks.range_mut(blocks.clone()).for_each(|(_, block)| {
            for version in block.versions.iter_mut().filter(|version| version.write == write) {
                version.ended = Some(now);
                version.lost |= ended == Ended::Unknown;
            }
        });
        if ended == Ended::Durable {
            self.settle(blocks, |version| version.write == write);
            self.length_is_durable();
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock - 1
    }

    /// What a sync that is submitted now covers.
    pub(super) fn barrier(&self) -> u64 {
        self.clock
    }

    /// A sync has succeeded.
    pub(super) fn sync(&mut self, barrier: u64) {
        let covered =
            |version: &Version| !version.lost && version.ended.is_some_and(|at| at < barrier);
        self.settle(0..u64::MAX, covered);
        self.length_is_durable();
    }

    /// A sync has failed: no later one covers what it should have.
    pub(super) fn lose(&mut self, barrier: u64) {
        for version in self.blocks.values_mut().flat_map(|block| &mut block.versions) {
            version.lost |= version.ended.is_some_and(|at| at < barrier);
        }
    }

    /// Of each block the newest version that is `covered` is durable, and those before it are gone.
    fn settle(&mut self, blocks: Range<u64>, covered: impl Fn(&Version) -> bool) {
        let mut done = Vec::new();
        for (&index, block) in self.blocks.range_mut(blocks) {
            if let Some(newest) = block.versions.iter().rposition(&covered)
                && let Some(version) = block.versions.drain(..=newest).next_back()
            {
                block.durable = version.content;
            }
            // While one is under way the disk does not say what is durable.
            if block.versions.is_empty() && !self.under_way.values().any(|b| b.contains(&index)) {
                done.push(index);
            }
        }
        for index in done {
            self.blocks.remove(&index);
        }
    }

    fn length_is_durable(&mut self) {
        if let Some(lengths) = &mut self.lengths {
            lengths.drain(..lengths.len().saturating_sub(1));
        }
    }

    /// The disk was cut off or lengthened, durably.
    pub(super) fn set_len(&mut self, length: u64) {
        drop(self.blocks.split_off(&length.div_ceil(BLOCK)));
        if let Some(lengths) = &mut self.lengths {
            *lengths = vec![length];
        }
    }

    /// Chooses one content of each block, and of the lengths one, and leaves the disk so. Nothing
    /// is under way.
    pub(super) fn cut(&mut self, disk: &Disk, random: &mut Random) -> io::Result<()> {
        for (index, block) in std::mem::take(&mut self.blocks) {
            let choice = random.below(block.versions.len() + 1);
            let kept = match choice.checked_sub(1) {
                None => &block.durable,
                Some(version) => &block.versions[version].content,
            };
            let bytes = kept.as_ref().map_or_else(zeros, |bytes| bytes.to_vec());
            let room = disk.len()?.saturating_sub(index * BLOCK).min(BLOCK);
            disk.write_all_at(&bytes[..near(room)], index * BLOCK)?;
        }
        if let Some(lengths) = self.lengths.take() {
            let length = lengths[random.below(lengths.len())];
            if length < disk.len()? {
                disk.set_len(length)?;
            }
        }
        Ok(())
    }
}

fn zeros() -> Vec<u8> {
    vec![0; near(BLOCK)]
}

fn content(bytes: &[u8]) -> Content {
    bytes.iter().any(|&byte| byte != 0).then(|| bytes.into())
}

/// A distance within one request.
fn near(distance: u64) -> usize {
    usize::try_from(distance).expect("a distance within one request")
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::*;
    use crate::engine::sim::{FaultPlan, SimDisk, SimImage, SimMode};
    use std::collections::BTreeSet;

    const SIZE: usize = 4096;

    fn disk() -> Disk {
        let mode = SimMode::Auto { seed: 1, faults: FaultPlan::default() };
        Disk::Sim(SimDisk::new(&SimImage::new(4 * BLOCK, SIZE), mode))
    }

    /// Writes a block's worth of a byte, as the disk does.
    fn write(undo: &mut Undo, disk: &Disk, offset: u64, byte: u8, ended: Ended) {
        let bytes = [byte; SIZE];
        let write = undo.begin(disk, offset, BLOCK, Some(&bytes)).unwrap();
        disk.write_all_at(&bytes, offset).unwrap();
        undo.end(write, ended);
    }

    /// What cuts by many seeds leave of the first two blocks, by their first bytes.
    fn left(work: impl Fn(&mut Undo, &Disk)) -> BTreeSet<[u8; 2]> {
        let cut = |seed| {
            let (mut undo, disk) = (Undo::default(), disk());
            work(&mut undo, &disk);
            undo.cut(&disk, &mut Random::new(seed)).unwrap();
            let mut bytes = [0; 2 * SIZE];
            disk.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes.chunks(SIZE).all(|block| block.iter().all(|byte| *byte == block[0])));
            [bytes[0], bytes[SIZE]]
        };
        (0..200).map(cut).collect()
    }

    #[test]
    fn each_block_keeps_by_itself_any_content_since_it_was_durable() {
        let found = left(|undo, disk| {
            write(undo, disk, 0, 1, Ended::Cached);
            undo.sync(undo.barrier());
            write(undo, disk, 0, 2, Ended::Cached);
            write(undo, disk, 0, 3, Ended::Cached);
            write(undo, disk, BLOCK, 9, Ended::Cached);
        });
        let all = [1, 2, 3].into_iter().flat_map(|first| [[first, 0], [first, 9]]);
        assert_eq!(found, all.collect());
    }

    #[test]
    fn a_sync_covers_what_had_ended_when_it_was_submitted() {
        let found = left(|undo, disk| {
            write(undo, disk, 0, 1, Ended::Cached);
            let barrier = undo.barrier();
            write(undo, disk, 0, 2, Ended::Cached);
            write(undo, disk, BLOCK, 5, Ended::Durable);
            undo.sync(barrier);
        });
        assert_eq!(found, [[1, 5], [2, 5]].into());
    }

    #[test]
    fn a_write_that_outlasts_a_sync_takes_nothing_back_that_a_later_sync_covers() {
        let found = left(|undo, disk| {
            let block = |byte| [byte; SIZE];
            let late = undo.begin(disk, 0, BLOCK, Some(&block(1))).unwrap();
            write(undo, disk, 0, 2, Ended::Cached);
            undo.sync(undo.barrier());
            let later = undo.begin(disk, 0, BLOCK, Some(&block(3))).unwrap();
            disk.write_all_at(&block(1), 0).unwrap();
            undo.end(late, Ended::Cached);
            disk.write_all_at(&block(3), 0).unwrap();
            undo.end(later, Ended::Cached);
            undo.sync(undo.barrier());
        });
        assert_eq!(found, [[3, 0]].into());
    }

    #[test]
    fn what_a_failed_sync_should_have_covered_no_later_one_does() {
        let found = left(|undo, disk| {
            write(undo, disk, 0, 1, Ended::Cached);
            undo.lose(undo.barrier());
            undo.sync(undo.barrier());
        });
        assert_eq!(found, [[0, 0], [1, 0]].into());
    }
}
