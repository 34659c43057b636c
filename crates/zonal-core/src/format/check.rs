//! Do the refcounts agree with what the tables use, and what of the file is free.
//!
//! Everything is read through a closure, a piece at a time, so that memory does not grow with the
//! drive, but for the pieces its data is in. [`check_refcounts`] is for `zonal check`, [`Space`] for
//! who gives clusters to the drive; both come after [`Map::read`].

use super::map::{Entry, Map, TABLE_PIECE, each_entry, entry, is_zeros, l2_tables};
use super::qcow2::Tables;
use super::unsupported;
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, vec, vec::Vec};
use core::fmt;

/// Most findings listed; an image with more has one cause, not a thousand.
pub const MAX_FINDINGS: usize = 1000;
/// Most separate ranges of clusters kept while checking: data and tables.
const MAX_RANGES: usize = 2 * super::map::MAX_RUNS;

/// What a check of the refcounts found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// Counted, but used by nothing: lost space, no danger.
    Leak,
    /// Used, but counted 0: the next program that allocates would write over it.
    Unreferenced,
    /// Used once, but counted more often: no program may write it in place.
    CountedTwice,
    /// Used by two parts at once.
    Overlap,
    /// Named by the refcount table, but not inside the file or not on a cluster.
    BadRefcountBlock,
    /// More was found than is listed.
    More,
}

impl FindingKind {
    /// Whether data is in danger; a leak only wastes space.
    #[must_use]
    pub const fn is_dangerous(self) -> bool {
        match self {
            Self::Leak => false,
            Self::Unreferenced
            | Self::CountedTwice
            | Self::Overlap
            | Self::BadRefcountBlock
            | Self::More => true,
        }
    }
}

/// One thing wrong with a range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}, length {}: {}", self.offset, self.length, self.kind)
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leak => "counted but not used",
            Self::Unreferenced => "used but not counted",
            Self::CountedTwice => "counted more than once",
            Self::Overlap => "used by two parts at once",
            Self::BadRefcountBlock => "a refcount block that cannot be there",
            Self::More => "more findings follow",
        })
    }
}

/// Findings, neighbours of one kind joined.
#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, kind: FindingKind, offset: u64, length: u64) {
        let count = self.0.len();
        match self.0.last_mut() {
            Some(last) if last.kind == FindingKind::More => {}
            Some(last) if last.kind == kind && last.offset + last.length == offset => {
                last.length += length;
            }
            _ if count == MAX_FINDINGS => {
                self.0.push(Finding { kind: FindingKind::More, offset, length });
            }
            _ => self.0.push(Finding { kind, offset, length }),
        }
    }
}

/// Ranges of clusters in use, [start, end) in cluster numbers; neighbours joined as they come.
#[derive(Default)]
pub(super) struct Ranges(pub(super) Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn add(&mut self, start: u64, clusters: u64) -> Result<()> {
        let count = self.0.len();
        match self.0.last_mut() {
            Some(last) if last.1 == start => last.1 += clusters,
            _ if count == MAX_RANGES => {
                let detail = "too many scattered tables to check";
                return Err(Error::new(ErrorKind::Unsupported, detail));
            }
            _ => self.0.push((start, start + clusters)),
        }
        Ok(())
    }

    /// Sorts them, reports what two of them share, and joins them.
    pub(super) fn settle(&mut self, cluster: u64, findings: &mut Findings) {
        self.0.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for &(start, end) in &self.0 {
            match joined.last_mut() {
                Some(last) if start < last.1 => {
                    let shared = end.min(last.1) - start;
                    findings.add(FindingKind::Overlap, start * cluster, shared * cluster);
                    last.1 = last.1.max(end);
                }
                Some(last) if start == last.1 => last.1 = end,
                _ => joined.push((start, end)),
            }
        }
        self.0 = joined;
    }

    /// What settled ranges leave out below `end`.
    fn gaps(&self, end: u64) -> Vec<(u64, u64)> {
        let starts = core::iter::once(0).chain(self.0.iter().map(|range| range.1));
        let ends = self.0.iter().map(|range| range.0).chain(core::iter::once(end));
        let gap = |(start, to): (u64, u64)| (start, to.min(end).saturating_sub(start));
        starts.zip(ends).map(gap).filter(|gap| gap.1 > 0).collect()
    }

    /// Whether settled ranges hold a cluster of [from, to).
    fn touch(&self, from: u64, to: u64) -> bool {
        let after = self.0.partition_point(|range| range.1 <= from);
        self.0.get(after).is_some_and(|range| range.0 < to)
    }

    /// Whether settled ranges hold a cluster.
    pub(super) fn contain(&self, cluster: u64) -> bool {
        let after = self.0.partition_point(|range| range.0 <= cluster);
        after > 0 && cluster < self.0[after - 1].1
    }
}

/// Compares the refcounts of an image with what its tables use. `l1` and `read` are as for
/// [`Map::read`], which gave `map`. The list is empty when all is well, and ends with
/// [`FindingKind::More`] when it would be longer than [`MAX_FINDINGS`].
///
/// # Errors
/// [`ErrorKind::Damaged`] and [`ErrorKind::Unsupported`] for tables that cannot be; what `read` fails
/// with.
pub fn check_refcounts(
    tables: &Tables,
    l1: &[u8],
    map: &Map,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Vec<Finding>> {
    let mut findings = Findings::default();
    let blocks = refcount_blocks(tables, &mut findings, &mut read)?;
    let used = used_clusters(tables, l1, map, &blocks, &mut findings, &mut read)?;
    compare_refcounts(tables, &blocks, &used, &mut findings, &mut read)?;
    Ok(findings.0)
}

/// What of a file can be given to the drive, and where that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Where the refcount blocks are; they cover the whole file.
    pub blocks: Vec<u64>,
    /// Clusters inside the file that no table uses: (first, how many), ascending.
    pub free: Vec<(u64, u64)>,
}

impl Space {
    /// Finds what no table uses. What is counted all the same was lost when a process died between
    /// counting and using it: it counts as free here.
    ///
    /// # Errors
    /// As [`check_refcounts`]; [`ErrorKind::Damaged`] where two parts share a cluster;
    /// [`ErrorKind::Unsupported`] where refcount blocks are missing for a part of the file.
    pub fn read(
        tables: &Tables,
        l1: &[u8],
        map: &Map,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let mut findings = Findings::default();
        let blocks = refcount_blocks(tables, &mut findings, &mut read)?;
        let used = used_clusters(tables, l1, map, &blocks, &mut findings, &mut read)?;
        if let Some(finding) = findings.0.first() {
            return Err(super::damaged(
                finding.offset,
                finding.length,
                format!("{}", finding.kind),
            ));
        }
        let needed = tables.file_clusters().div_ceil(tables.refcounts());
        let whole = (0..).zip(&blocks).take_while(|(n, (index, _))| n == index).count();
        if (whole as u64) < needed {
            let detail = format!(
                "{needed} refcount blocks are needed, and {whole} there; give it new ones with \
                 `zonal adopt`"
            );
            return Err(unsupported(tables.refcount_table_offset, 8, detail));
        }
        let blocks = blocks.into_iter().take(whole).map(|(_, offset)| offset).collect();
        Ok(Self { blocks, free: used.gaps(tables.file_len / tables.cluster_size()) })
    }
}

/// Makes the refcount at `index` of a block 1, whatever it was.
pub fn count_once(block: &mut [u8], order: u32, index: u64) {
    set_count(block, order, index, true);
}

/// Makes the refcount at `index` of a block 1 or 0.
pub(super) fn set_count(block: &mut [u8], order: u32, index: u64, used: bool) {
    let bit = index << order;
    let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
    if order < 3 {
        // Several to a byte, the first in the lowest bits.
        let Some(byte) = block.get_mut(byte) else { return };
        let mask = (1u8 << (1 << order)) - 1;
        *byte = *byte & !(mask << (bit % 8)) | u8::from(used) << (bit % 8);
        return;
    }
    let end = byte.saturating_add(1 << (order - 3));
    if let Some((last, rest)) = block.get_mut(byte..end).and_then(<[u8]>::split_last_mut) {
        rest.fill(0);
        *last = u8::from(used);
    }
}

/// The refcount blocks that the table names: (index, offset).
pub(super) fn refcount_blocks(
    tables: &Tables,
    findings: &mut Findings,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Vec<(u64, u64)>> {
    let cluster = tables.cluster_size();
    let table = tables.refcount_table_offset;
    let mut blocks = Vec::new();
    let entries = u64::from(tables.refcount_table_clusters) * tables.l2_entries();
    each_entry(table, 0..entries, read, |index, block| {
        if !block.is_multiple_of(cluster) || block >= tables.file_len {
            findings.add(FindingKind::BadRefcountBlock, table + index * 8, 8);
        } else {
            blocks.push((index, block));
        }
        Ok(())
    })?;
    drop_repeated(tables, &mut blocks, findings);
    Ok(blocks)
}

/// Leaves each block once: one that stands for many would be read as often.
fn drop_repeated(tables: &Tables, blocks: &mut Vec<(u64, u64)>, findings: &mut Findings) {
    blocks.sort_unstable_by_key(|&(index, block)| (block, index));
    blocks.dedup_by(|later, earlier| {
        let repeated = later.1 == earlier.1;
        if repeated {
            let place = tables.refcount_table_offset + later.0 * 8;
            findings.add(FindingKind::BadRefcountBlock, place, 8);
        }
        repeated
    });
    blocks.sort_unstable();
}

/// Every cluster in use.
pub(super) fn used_clusters(
    tables: &Tables,
    l1: &[u8],
    map: &Map,
    blocks: &[(u64, u64)],
    findings: &mut Findings,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Ranges> {
    let cluster = tables.cluster_size();
    let mut used = Ranges::default();
    for region in tables.regions() {
        used.add(region.offset / cluster, region.length / cluster)?;
    }
    for run in &map.runs {
        used.add(run.host / cluster, run.clusters)?;
    }
    for host in &map.zeroed {
        used.add(host / cluster, 1)?;
    }
    for (_, block) in blocks {
        used.add(block / cluster, 1)?;
    }
    for l2 in l2_tables(tables, l1) {
        let l2 = l2?;
        if l2 != 0 {
            used.add(l2 / cluster, 1)?;
        }
    }
    // What L2 tables map past the drive's end may be what the header names as well: counted once.
    let mut past_end = past_end(tables, l1, read)?;
    past_end.settle(cluster, findings);
    let mut known = Ranges::default();
    for region in tables.regions() {
        known.add(region.offset / cluster, region.length / cluster)?;
    }
    known.settle(cluster, &mut Findings::default());
    for &(start, end) in &past_end.0 {
        for number in start..end {
            if !known.contain(number) {
                used.add(number, 1)?;
            }
        }
    }
    used.settle(cluster, findings);
    Ok(used)
}

/// The clusters that L2 tables map past the drive's end: our own tables, or a VM's state.
fn past_end(
    tables: &Tables,
    l1: &[u8],
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Ranges> {
    let mut ranges = Ranges::default();
    for (index, l2) in l2_tables(tables, l1).enumerate() {
        let l2 = l2?;
        let first = index as u64 * tables.l2_entries();
        let of_data = tables.data_clusters().saturating_sub(first).min(tables.l2_entries());
        if l2 == 0 {
            continue;
        }
        each_entry(l2, of_data..tables.l2_entries(), read, |i, value| {
            match self::entry(tables, value, l2 + i * 8)? {
                Entry::Hole => Ok(()),
                Entry::Zeroed(host) | Entry::Data(host) => {
                    ranges.add(host / tables.cluster_size(), 1)
                }
            }
        })?;
    }
    Ok(ranges)
}

/// Holds every refcount against what is used.
fn compare_refcounts(
    tables: &Tables,
    blocks: &[(u64, u64)],
    used: &Ranges,
    findings: &mut Findings,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let cluster = tables.cluster_size();
    let per_block = tables.refcounts();
    let mut bytes = piece_buffer(tables);
    // Clusters up to here have been looked at.
    let mut next = 0;
    for &(index, offset) in blocks {
        let first = index * per_block;
        uncounted(used, next, first, cluster, findings);
        next = first + per_block;
        for (place, first) in block_pieces(tables, offset, first) {
            read(place, &mut bytes)?;
            for (i, count, used) in wrong_counts(tables, &bytes, first, used) {
                let kind = match (count, used) {
                    (0, _) => FindingKind::Unreferenced,
                    (_, true) => FindingKind::CountedTwice,
                    (_, false) => FindingKind::Leak,
                };
                findings.add(kind, (first + i) * cluster, cluster);
            }
        }
    }
    uncounted(used, next, u64::MAX, cluster, findings);
    Ok(())
}

/// A buffer for a piece of a refcount block.
pub(super) fn piece_buffer(tables: &Tables) -> Vec<u8> {
    vec![0; usize::try_from(tables.cluster_size().min(TABLE_PIECE)).unwrap_or(0)]
}

/// The pieces of a refcount block at `offset`, whose first count is of cluster `first`: where each is,
/// and which cluster its first count is of.
pub(super) fn block_pieces(
    tables: &Tables,
    offset: u64,
    first: u64,
) -> impl Iterator<Item = (u64, u64)> + use<> {
    let piece = tables.cluster_size().min(TABLE_PIECE);
    let counts = (piece * 8) >> tables.refcount_order;
    (0..tables.cluster_size() / piece).map(move |n| (offset + n * piece, first + n * counts))
}

/// The refcounts of a piece of a block that are not what is used, which begins with cluster `first`:
/// their numbers in it, what they are, and whether the cluster is used.
pub(super) fn wrong_counts<'a>(
    tables: &Tables,
    block: &'a [u8],
    first: u64,
    used: &'a Ranges,
) -> impl Iterator<Item = (u64, u64, bool)> + 'a {
    // A block is mostly zeros for clusters that the file does not have; these are passed at once.
    const CHUNK: usize = 64;
    let order = tables.refcount_order;
    let each = (CHUNK as u64 * 8) >> order;
    let chunks = (0..).step_by(usize::try_from(each).unwrap_or(CHUNK)).zip(block.chunks(CHUNK));
    chunks
        .filter(move |&(start, chunk): &(u64, _)| {
            !is_zeros(chunk) || used.touch(first + start, first + start + each)
        })
        .flat_map(move |(start, _)| start..start + each)
        .filter_map(move |i| {
            let (count, used) = (refcount(block, order, i), used.contain(first + i));
            (count != u64::from(used)).then_some((i, count, used))
        })
}

/// Reports what is used in [from, to), for which there is no refcount block.
fn uncounted(used: &Ranges, from: u64, to: u64, cluster: u64, findings: &mut Findings) {
    for &(start, end) in &used.0 {
        let (start, end) = (start.max(from), end.min(to));
        if start < end {
            findings.add(FindingKind::Unreferenced, start * cluster, (end - start) * cluster);
        }
    }
}

/// The refcount at `index` of a block whose refcounts have 2^`order` bits; 0 past its end.
pub(super) fn refcount(block: &[u8], order: u32, index: u64) -> u64 {
    let bit = index << order;
    let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
    if order < 3 {
        // Several to a byte, the first in the lowest bits.
        let mask = (1u64 << (1 << order)) - 1;
        return block.get(byte).map_or(0, |value| (u64::from(*value) >> (bit % 8)) & mask);
    }
    let width = 1usize << (order - 3);
    let bytes = byte.checked_add(width).and_then(|end| block.get(byte..end)).unwrap_or(&[]);
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use crate::format::Geometry;
    use crate::format::layout::{CLUSTER, Layout};
    use crate::format::qcow2::{COMPRESSED, COPIED, Header, ZERO};
    use crate::format::sample;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    /// A planned image's metadata in memory.
    struct Image {
        layout: Layout,
        header: Header,
        clusters: BTreeMap<u64, Vec<u8>>,
    }

    impl Image {
        fn new(size: u64) -> Self {
            let layout = Layout::plan(&Geometry::with_size(size)).unwrap();
            let header = layout.header([1; 16]);
            let clusters = layout.metadata([1; 16]).unwrap().collect();
            Self { layout, header, clusters }
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            buffer.fill(0);
            let part = self.clusters.range(..=offset).next_back();
            if let Some(bytes) = part.and_then(|(at, part)| part.get((offset - at) as usize..)) {
                let length = buffer.len().min(bytes.len());
                buffer[..length].copy_from_slice(&bytes[..length]);
            }
            Ok(())
        }

        fn set(&mut self, offset: u64, index: usize, value: u64) {
            self.clusters.get_mut(&offset).unwrap()[index * 8..][..8]
                .copy_from_slice(&value.to_be_bytes());
        }

        fn map(&self) -> Result<Map> {
            let l1 = &self.clusters[&self.layout.l1.offset];
            Map::read(&self.header.tables, l1, |offset, buffer| self.read(offset, buffer))
        }

        fn contiguous(&self) -> Option<u64> {
            self.map().unwrap().contiguous(&self.header.tables)
        }

        fn check(&self) -> Vec<Finding> {
            let l1 = &self.clusters[&self.layout.l1.offset];
            let map = self.map().unwrap();
            let read = |offset, buffer: &mut [u8]| self.read(offset, buffer);
            check_refcounts(&self.header.tables, l1, &map, read).unwrap()
        }
    }

    #[test]
    fn a_planned_image_is_contiguous_and_counted() {
        for size in [4096, 64 << 20, 600 << 30] {
            let image = Image::new(size);
            assert_eq!(image.contiguous(), Some(image.layout.data.offset));
            assert_eq!(image.check(), []);
        }
    }

    #[test]
    fn data_in_pieces_is_found_where_it_is() {
        let data = Image::new(64 << 20).layout.data.offset;
        for (entry, host) in [(0, None), (ZERO, None), (COPIED | data | ZERO, None)] {
            let mut image = Image::new(64 << 20);
            image.set(image.layout.l2.offset, 0, entry);
            let (map, tables) = (image.map().unwrap(), &image.header.tables);
            assert_eq!((map.host(tables, 0), map.contiguous(tables)), (host, None), "{entry:#x}");
            assert_eq!(map.host(tables, 1), Some(data + CLUSTER));
            assert_eq!(map.zeroed.len(), usize::from(entry & COPIED != 0));
        }
        let mut image = Image::new(64 << 20);
        image.set(image.layout.l2.offset, 3, COPIED | (data + 4 * CLUSTER));
        image.set(image.layout.l2.offset, 4, COPIED | (data + 3 * CLUSTER));
        let (map, tables) = (image.map().unwrap(), &image.header.tables);
        assert_eq!(map.runs.len(), 4);
        assert_eq!(map.host(tables, 4), Some(data + 3 * CLUSTER));
        let within: Vec<_> = map.within(tables, 1, 4).map(|r| (r.guest, r.clusters)).collect();
        assert_eq!(within, [(1, 2), (3, 1)]);
        let mut image = Image::new(64 << 20);
        image.set(image.layout.l1.offset, 0, 0);
        assert_eq!(image.map().unwrap().runs, []);
    }

    #[test]
    fn a_compressed_cluster_is_refused_by_name() {
        let mut image = Image::new(64 << 20);
        image.set(image.layout.l2.offset, 1, COMPRESSED | image.layout.data.offset);
        let error = image.map().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.detail().contains("compressed"), "{error}");
    }

    #[test]
    fn what_no_table_uses_is_free() {
        let mut image = Image::new(64 << 20);
        let data = image.layout.data.offset / CLUSTER;
        for n in [0, 5, 6] {
            image.set(image.layout.l2.offset, n, 0);
        }
        let (map, tables) = (image.map().unwrap(), &image.header.tables);
        let l1 = &image.clusters[&image.layout.l1.offset];
        let read = |offset, buffer: &mut [u8]| image.read(offset, buffer);
        let space = Space::read(tables, l1, &map, read).unwrap();
        assert_eq!(space.free, [(data, 1), (data + 5, 2)]);
        assert_eq!(space.blocks, [image.layout.refcount_blocks.offset]);
    }

    #[test]
    fn a_cluster_is_counted_in_every_width() {
        for order in 0..=6 {
            let mut block = [0; 64];
            block[usize::try_from((3 << order) / 8).unwrap()] = if order < 3 { 0 } else { 7 };
            count_once(&mut block, order, 3);
            let counts: Vec<_> = (0..8).map(|n| refcount(&block, order, n)).collect();
            assert_eq!(counts, [0, 0, 0, 1, 0, 0, 0, 0], "order {order}");
            count_once(&mut block, order, u64::MAX >> 8);
        }
    }

    #[test]
    fn tables_that_cannot_be_are_damage_with_their_place() {
        let image = Image::new(64 << 20);
        let (l1, l2, data) =
            (image.layout.l1.offset, image.layout.l2.offset, image.layout.data.offset);
        for (table, entry) in [
            (l2, data + CLUSTER),                // not COPIED
            (l2, COPIED | (data + 512)),         // inside a cluster
            (l2, COPIED | (1 << 40)),            // past the file
            (l2, COPIED | (data + CLUSTER) | 2), // reserved bit
            (l1, l2 + CLUSTER),
            (l1, COPIED | 512),
            (l1, COPIED | (1 << 40)),
            (l1, COPIED | l1),               // on the L1 table
            (l1, COPIED | l2),               // the same table twice
            (l2, COPIED),                    // counted, and nowhere
            (l1, COPIED | (data + CLUSTER)), // in the data
        ] {
            let mut image = Image::new(64 << 20);
            image.set(table, 1, entry);
            let error = image.map().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{table} {entry:#x}");
            assert!(error.context().offset.is_some());
        }
    }

    #[test]
    fn data_over_metadata_or_past_the_file_is_damage() {
        let mut image = Image::new(64 << 20);
        let zone_table = image.layout.zone_table.offset;
        for i in 0..32 {
            image.set(image.layout.l2.offset, i, COPIED | (zone_table + i as u64 * CLUSTER));
        }
        let error = image.map().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.detail().contains("zone table"), "{error}");
        let mut image = Image::new(64 << 20);
        image.header.tables.file_len -= 4096;
        let map = image.map().unwrap();
        assert_eq!(map.refuse_cut(&image.header.tables).unwrap_err().kind(), ErrorKind::Damaged);
        image.header.tables.file_len -= CLUSTER;
        assert_eq!(image.map().unwrap_err().kind(), ErrorKind::Damaged);
    }

    #[test]
    fn wrong_refcounts_are_found() {
        let mut image = Image::new(64 << 20);
        let (blocks, data) = (image.layout.refcount_blocks.offset, image.layout.data.offset);
        let total = image.layout.file_len / CLUSTER;
        let count = |image: &mut Image, cluster: u64, value: u8| {
            let at = usize::try_from(cluster * 2 + 1).unwrap();
            image.clusters.get_mut(&blocks).unwrap()[at] = value;
        };
        count(&mut image, 0, 0);
        count(&mut image, data / CLUSTER, 2);
        count(&mut image, total, 1);
        count(&mut image, total + 1, 3);
        let kinds: Vec<_> = image.check().iter().map(|f| (f.kind, f.offset, f.length)).collect();
        assert_eq!(
            kinds,
            [
                (FindingKind::Unreferenced, 0, CLUSTER),
                (FindingKind::CountedTwice, data, CLUSTER),
                (FindingKind::Leak, total * CLUSTER, 2 * CLUSTER),
            ]
        );
    }

    #[test]
    fn missing_and_misplaced_refcount_blocks_are_found() {
        let mut image = Image::new(64 << 20);
        let table = image.layout.refcount_table.offset;
        image.set(table, 0, 512);
        let kinds: Vec<_> = image.check().iter().map(|finding| finding.kind).collect();
        // The block's own cluster is used by nothing now, and not counted either.
        let expected = [FindingKind::BadRefcountBlock, FindingKind::Unreferenced];
        assert_eq!(kinds[..2], expected);
        image.set(table, 0, image.layout.data.offset);
        assert!(image.check().iter().any(|finding| finding.kind == FindingKind::Overlap));
    }

    #[test]
    fn a_cluster_past_the_end_mapped_twice_is_an_overlap() {
        let mut image = Image::new(64 << 20);
        let hidden = image.layout.l2.offset + CLUSTER;
        image.set(hidden, 1, COPIED | image.layout.zone_table.offset);
        let findings = image.check();
        assert_eq!(findings[0].kind, FindingKind::Overlap);
    }

    #[test]
    fn refcounts_of_every_width_are_read() {
        let block = [0b1110_0100, 0xff, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3];
        assert_eq!([0, 2, 5].map(|i| refcount(&block, 0, i)), [0, 1, 1]);
        assert_eq!([0, 1, 2, 3].map(|i| refcount(&block, 1, i)), [0, 1, 2, 3]);
        assert_eq!([0, 1, 2].map(|i| refcount(&block, 2, i)), [4, 14, 15]);
        assert_eq!(refcount(&block, 3, 1), 0xff);
        assert_eq!(refcount(&block, 4, 1), 1);
        assert_eq!(refcount(&block, 5, 1), 2);
        assert_eq!(refcount(&block, 6, 1), 3);
        assert_eq!(refcount(&block, 6, 2), 0);
        assert_eq!(refcount(&block, 6, u64::MAX), 0);
    }

    #[test]
    fn only_a_leak_is_no_danger() {
        let [leak, lost] = [FindingKind::Leak, FindingKind::Unreferenced];
        assert_eq!([leak, lost].map(FindingKind::is_dangerous), [false, true]);
        let finding = Finding { kind: leak, offset: 512, length: 1024 };
        assert_eq!(format!("{finding}"), "offset 512, length 1024: counted but not used");
    }

    #[test]
    fn a_list_of_findings_joins_neighbours_of_one_kind_and_ends() {
        let mut findings = Findings::default();
        let finding = |kind, offset, length| Finding { kind, offset, length };
        let (leak, lost) = (FindingKind::Leak, FindingKind::Unreferenced);
        for (kind, offset) in [(leak, 8), (leak, 16), (lost, 24), (lost, 40)] {
            findings.add(kind, offset, 8);
        }
        let first = [finding(leak, 8, 16), finding(lost, 24, 8), finding(lost, 40, 8)];
        assert_eq!(findings.0, first);
        for n in 0..2000 {
            findings.add(leak, 100 + 20 * n, 8);
        }
        assert_eq!(findings.0.len(), MAX_FINDINGS + 1);
        assert_eq!(findings.0[MAX_FINDINGS - 1].kind, leak);
        assert_eq!(findings.0[MAX_FINDINGS], finding(FindingKind::More, 100 + 20 * 997, 8));
    }

    #[test]
    fn ranges_are_joined_and_what_they_share_is_found() {
        let mut ranges = Ranges::default();
        for (start, clusters) in
            [(7, 2), (9, 1), (20, 4), (3, 4), (22, 5), (30, 10), (31, 2), (0, 1)]
        {
            ranges.add(start, clusters).unwrap();
        }
        // Neighbours that come one after the other are one range at once.
        assert_eq!(ranges.0[..2], [(7, 10), (20, 24)]);
        let mut findings = Findings::default();
        ranges.settle(512, &mut findings);
        assert_eq!(ranges.0, [(0, 1), (3, 10), (20, 27), (30, 40)]);
        let overlap = |offset: u64, length: u64| Finding {
            kind: FindingKind::Overlap,
            offset: 512 * offset,
            length: 512 * length,
        };
        assert_eq!(findings.0, [overlap(22, 2), overlap(31, 2)]);
        assert_eq!(ranges.gaps(50), [(1, 2), (10, 10), (27, 3), (40, 10)]);
        assert_eq!(ranges.gaps(25), [(1, 2), (10, 10)]);
        assert_eq!(ranges.gaps(29), [(1, 2), (10, 10), (27, 2)]);
        for cluster in 0..60 {
            let within = [0..1, 3..10, 20..27, 30..40].iter().any(|range| range.contains(&cluster));
            assert_eq!(ranges.contain(cluster), within, "{cluster}");
            assert_eq!(ranges.touch(cluster, cluster + 1), within, "{cluster}");
        }
        let later = Ranges(vec![(3, 10)]);
        assert!(!later.contain(2) && later.contain(3));
        assert!(ranges.touch(15, 21) && !ranges.touch(15, 20) && ranges.touch(26, 29));
    }

    #[test]
    fn a_count_that_is_set_leaves_its_neighbours() {
        // Beside others in the same bytes, which stay.
        let mut bits = [0b1111_1111, 0b1010_1010];
        set_count(&mut bits, 0, 2, false);
        set_count(&mut bits, 0, 8, true);
        set_count(&mut bits, 0, 9, true);
        assert_eq!(bits, [0b1111_1011, 0b1010_1011]);
        let mut pairs = [0b1110_0100, 0b1110_0100];
        set_count(&mut pairs, 1, 3, true);
        set_count(&mut pairs, 1, 5, false);
        assert_eq!(pairs, [0b0110_0100, 0b1110_0000]);
        let mut nibbles = [0xba, 0xdc];
        set_count(&mut nibbles, 2, 1, true);
        set_count(&mut nibbles, 2, 2, true);
        assert_eq!(nibbles, [0x1a, 0xd1]);
        for (order, width) in [(3, 1), (4, 2), (5, 4), (6, 8)] {
            let mut bytes = [0xff; 32];
            set_count(&mut bytes, order, 2, true);
            let mut expected = [0xff; 32];
            expected[2 * width..3 * width].fill(0);
            expected[3 * width - 1] = 1;
            assert_eq!(bytes, expected, "order {order}");
            assert_eq!(refcount(&expected, order, 2), 1);
            set_count(&mut bytes, order, 2, false);
            expected[3 * width - 1] = 0;
            assert_eq!(bytes, expected, "order {order}");
        }
        assert_eq!(refcount(&[0x12, 0x34, 0x56, 0x78], 4, 1), 0x5678);
        // Each byte has its place: none is lost, none is taken for another.
        assert_eq!(refcount(&[0xff; 8], 6, 0), u64::MAX);
    }

    const BLOCKS: u64 = 0xa000;
    const TABLE: u64 = 0x9000;

    fn finding(kind: FindingKind, cluster: u64, clusters: u64) -> Finding {
        Finding { kind, offset: 512 * cluster, length: 512 * clusters }
    }

    #[test]
    fn in_small_clusters_each_part_is_counted_where_it_is() {
        // Data, and each part of ours with its page; (cluster, its count).
        for (cluster, kind) in [
            (0, FindingKind::Unreferenced),
            (5, FindingKind::Unreferenced),
            (13, FindingKind::Unreferenced),
            (24, FindingKind::Unreferenced),
            (63, FindingKind::Unreferenced),
            (64, FindingKind::Unreferenced),
            (72, FindingKind::Unreferenced),
            (81, FindingKind::Unreferenced),
            (92, FindingKind::Unreferenced),
            (1, FindingKind::Leak),
            (93, FindingKind::Leak),
            (255, FindingKind::Leak),
            (256, FindingKind::Leak),
            (341, FindingKind::Leak),
        ] {
            let mut image = sample::Image::new();
            let count = u8::from(kind == FindingKind::Leak);
            image.at(BLOCKS + 2 * cluster)[..2].copy_from_slice(&[0, count]);
            assert_eq!(image.check(), [finding(kind, cluster, 1)], "{cluster}");
        }
    }

    #[test]
    fn what_is_in_use_alone_among_uncounted_clusters_is_found() {
        // Where a block begins, and where a part of it does that is looked at by itself.
        for cluster in [256, 288] {
            let mut image = sample::Image::new();
            image.set(0xb800 + 8 * 40, COPIED | (cluster * 512));
            assert_eq!(image.check(), [finding(FindingKind::Unreferenced, cluster, 1)]);
        }
    }

    #[test]
    fn a_block_without_a_zero_in_it_is_looked_at() {
        // Counts of 8 bits, all 1, and nothing in use.
        let tables = Tables { refcount_order: 3, ..sample::tables() };
        let wrong = wrong_counts(&tables, &[1; 512], 0, &Ranges::default()).count();
        assert_eq!(wrong, 512);
    }

    #[test]
    fn without_its_block_all_that_is_in_use_is_found_uncounted() {
        let mut image = sample::Image::new();
        image.set(TABLE, 0);
        let findings = image.check();
        // The block's own cluster, 80, is in use by nothing now.
        let used: Vec<_> = findings.iter().map(|f| (f.offset / 512, f.length / 512)).collect();
        let expected =
            [(0, 1), (5, 4), (10, 2), (13, 4), (24, 41), (72, 1), (81, 1), (88, 5), (96, 26)];
        assert_eq!(used, expected);
        assert!(findings.iter().all(|finding| finding.kind == FindingKind::Unreferenced));
    }

    #[test]
    fn a_refcount_block_is_read_once_and_each_bad_entry_is_named() {
        let mut image = sample::Image::new();
        let end = image.file.len() as u64;
        let bad = |entry: u64, entries: u64| Finding {
            kind: FindingKind::BadRefcountBlock,
            offset: TABLE + 8 * entry,
            length: 8 * entries,
        };
        image.set(TABLE + 16, BLOCKS);
        image.set(TABLE + 32, 0x123);
        image.set(TABLE + 40, end);
        image.set(TABLE + 56, BLOCKS + 512);
        assert_eq!(image.check(), [bad(4, 2), bad(2, 1), bad(7, 1)]);
        // The last cluster of the file may hold one; its counts are those of clusters far behind.
        let mut image = sample::Image::new();
        image.set(TABLE + 16, end - 512);
        let cluster = end / 512 - 1;
        assert_eq!(image.check(), [finding(FindingKind::Unreferenced, cluster, 1)]);
    }

    #[test]
    fn a_table_of_several_clusters_names_blocks_in_each() {
        let mut image = sample::Image::new();
        let end = image.file.len() as u64;
        // Two clusters of table and a block behind the file: entry 64 counts from cluster 16384 on.
        image.file.resize(image.file.len() + 3 * 512, 0);
        let tables = &mut image.header.tables;
        (tables.refcount_table_offset, tables.refcount_table_clusters) = (end, 2);
        tables.file_len = end + 3 * 512;
        for (entry, block) in [(0, BLOCKS), (1, BLOCKS + 512), (64, end + 1024), (65, 0x77)] {
            image.set(end + 8 * entry, block);
        }
        image.at(end + 1024)[..4].copy_from_slice(&[0, 0, 0, 1]);
        let cluster = end / 512;
        let expected = [
            Finding { kind: FindingKind::BadRefcountBlock, offset: end + 8 * 65, length: 8 },
            finding(FindingKind::Leak, 72, 1),
            finding(FindingKind::Unreferenced, cluster, 3),
            finding(FindingKind::Leak, 64 * 256 + 1, 1),
        ];
        assert_eq!(image.check(), expected);
    }

    #[test]
    fn what_is_marked_zero_and_has_a_place_is_in_use() {
        let mut image = sample::Image::new();
        image.set(0xb000, image.number(0xb000) | ZERO);
        assert_eq!(image.check(), []);
        // Also past the drive's end; without its place it is a leak, unless the header names it.
        let last = 0xb800 + 8 * 40;
        image.set(last, COPIED | 0x400 | ZERO);
        assert_eq!(image.check(), [finding(FindingKind::Unreferenced, 2, 1)]);
        image.set(last, 0);
        image.set(0xb800, 0);
        assert_eq!(image.check(), []);
        // Nor does the header need a table for it; the table itself is a leak then.
        image.set(0x8000 + 8 * 4, 0);
        assert_eq!(image.check(), [finding(FindingKind::Leak, 92, 1)]);
    }

    #[test]
    fn an_entry_past_the_end_that_cannot_be_is_named_by_its_place() {
        let mut image = sample::Image::new();
        image.set(0xb800 + 8 * 40, 3);
        let (tables, map) = (&image.header.tables, image.map().unwrap());
        let error =
            check_refcounts(tables, &image.l1(), &map, |at, b| image.read(at, b)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert_eq!(error.context().offset, Some(0xb800 + 8 * 40));
    }

    #[test]
    fn the_space_of_an_image_is_what_its_tables_leave_out() {
        let image = sample::Image::new();
        let space = |image: &sample::Image| {
            let (tables, map) = (&image.header.tables, image.map().unwrap());
            Space::read(tables, &image.l1(), &map, |at, buffer| image.read(at, buffer))
        };
        let found = space(&image).unwrap();
        assert_eq!(found.blocks, [BLOCKS, BLOCKS + 512]);
        let free =
            [(1, 4), (9, 1), (12, 1), (17, 7), (65, 7), (73, 7), (82, 6), (93, 3), (122, 220)];
        assert_eq!(found.free, free);
        // Blocks of what the file does not reach are none of its, but for those that follow.
        let mut more = image.clone();
        more.set(TABLE + 16, 0x200);
        more.set(TABLE + 32, 0x400);
        assert_eq!(space(&more).unwrap().blocks, [BLOCKS, BLOCKS + 512, 0x200]);
        let mut fewer = image.clone();
        fewer.set(TABLE + 8, 0);
        let error = space(&fewer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.detail().contains("2 refcount blocks are needed, and 1 there"), "{error}");
        assert_eq!(error.context().offset, Some(TABLE));
        let mut shared = image;
        shared.set(0xb800 + 8 * 40, COPIED | 0xa00);
        let error = space(&shared).unwrap_err();
        assert_eq!((error.kind(), error.context().offset), (ErrorKind::Damaged, Some(0xa00)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn changed_tables_never_panic(
            changes in prop::collection::vec((0usize..6, 0usize..512, any::<u8>()), 1..6),
            cut in 0usize..4096,
        ) {
            let mut image = Image::new(64 << 20);
            let offsets: Vec<u64> = image.clusters.keys().copied().collect();
            for (table, at, value) in changes {
                image.clusters.get_mut(&offsets[table]).unwrap()[at] = value;
            }
            let read = |offset, buffer: &mut [u8]| image.read(offset, buffer);
            let l1 = &image.clusters[&image.layout.l1.offset];
            let tables = &image.header.tables;
            let _ = Map::read(tables, &l1[..cut], read);
            if let Ok(map) = Map::read(tables, l1, read) {
                let _ = check_refcounts(tables, l1, &map, read);
                let _ = Space::read(tables, l1, &map, read);
            }
        }
    }
}
