//! The reading side of the tables: is the data in one piece, and do the refcounts agree.
//!
//! Both functions read through a closure, a cluster at a time, so that memory does not grow with the
//! drive. [`verify_contiguous`] is what an open relies on: after it, the drive's byte `n` is the
//! file's byte `data offset + n`. [`check_refcounts`] is for `zonal check`, after it.

use super::qcow2::{COMPRESSED, COPIED, Header, OFFSET, Region, ZERO};
use super::{be64, damaged, unsupported};
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, vec, vec::Vec};
use core::fmt;

/// Most findings listed; an image with more has one cause, not a thousand.
pub const MAX_FINDINGS: usize = 1000;
/// Most separate ranges of clusters kept while checking, 16 MiB of them.
const MAX_RANGES: usize = 1 << 20;
/// Bits of an L1 entry that must be 0.
const L1_RESERVED: u64 = !(COPIED | OFFSET);
/// Bits of an uncompressed L2 entry that must be 0.
const L2_RESERVED: u64 = !(COPIED | OFFSET | ZERO);

/// Checks that guest cluster `i` is at data offset + `i` clusters for all of the drive, and returns
/// the data's offset in the file. `l1` is the L1 table's bytes; `read` fills a buffer of up to one
/// cluster from an offset in the file.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when clusters are scattered, compressed, unallocated or marked zero:
/// the image is sound, but not made by us. [`ErrorKind::Damaged`] when a table cannot be, with its
/// place in the file. What `read` fails with.
pub fn verify_contiguous(
    header: &Header,
    l1: &[u8],
    mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<u64> {
    let mut table = Vec::new();
    let mut data = None;
    for (index, l2) in l2_tables(header, l1).enumerate() {
        let l2 = l2?;
        if index as u64 >= header.l1_entries_needed() {
            break;
        }
        if l2 == 0 {
            return Err(scattered(header, index as u64, "clusters that are not allocated"));
        }
        let first = index as u64 * header.l2_entries();
        let count = header.l2_entries().min(header.data_clusters() - first);
        // A small drive's table is nearly empty.
        table.resize(usize::try_from(count * 8).unwrap_or(0), 0);
        read(l2, &mut table)?;
        for i in 0..count {
            let entry = entry_at(&table, i)?;
            let host = data_cluster(header, entry, l2 + i * 8)?;
            let start = *data.get_or_insert(host);
            if host != start + (first + i) * header.cluster_size() {
                return Err(unsupported(l2 + i * 8, 8, SCATTERED));
            }
        }
    }
    let start = data.ok_or_else(|| damaged(24, 8, "a drive without data"))?;
    verify_data_range(header, l1, start)?;
    Ok(start)
}

const SCATTERED: &str = "the drive's clusters are scattered over the file; only images whose data is \
                         in one piece, as `zonal create` makes them, can be opened";

fn scattered(header: &Header, l1_index: u64, what: &str) -> Error {
    let detail = format!("{what}; only images made by `zonal create` can be opened");
    unsupported(header.l1_offset + l1_index * 8, 8, detail)
}

fn cluster_buffer(header: &Header) -> Vec<u8> {
    // A header's cluster has at most 2 MiB.
    vec![0; usize::try_from(header.cluster_size()).unwrap_or(0)]
}

fn entry_at(table: &[u8], index: u64) -> Result<u64> {
    usize::try_from(index)
        .ok()
        .and_then(|index| be64(table, index))
        .ok_or_else(|| Error::new(ErrorKind::Damaged, "a table shorter than its header says"))
}

/// The offsets of the L2 tables that the L1 table names, 0 for none; each checked.
fn l2_tables<'a>(header: &'a Header, l1: &'a [u8]) -> impl Iterator<Item = Result<u64>> + 'a {
    let regions = header.regions();
    (0..u64::from(header.l1_entries)).map(move |index| {
        let entry = entry_at(l1, index)?;
        let place = header.l1_offset + index * 8;
        if entry == 0 {
            return Ok(0);
        }
        let table = entry & OFFSET;
        if entry & L1_RESERVED != 0 || entry & COPIED == 0 || table == 0 {
            return Err(damaged(place, 8, format!("L1 entry {entry:#x} cannot be")));
        }
        check_cluster(header, table, place)?;
        for region in &regions {
            if region.overlaps(table, header.cluster_size()) {
                let detail = format!("an L2 table at {table} lies in {}", region.name);
                return Err(damaged(place, 8, detail));
            }
        }
        Ok(table)
    })
}

/// A cluster an entry at `place` names: aligned, and starting inside the file.
fn check_cluster(header: &Header, cluster: u64, place: u64) -> Result<()> {
    if cluster.is_multiple_of(header.cluster_size()) && cluster < header.file_len {
        return Ok(());
    }
    let detail = format!(
        "a cluster at {cluster}, in clusters of {} and a file of {} bytes",
        header.cluster_size(),
        header.file_len
    );
    Err(damaged(place, 8, detail))
}

/// Where the data cluster of an L2 entry is.
fn data_cluster(header: &Header, entry: u64, place: u64) -> Result<u64> {
    let what = if entry & COMPRESSED != 0 {
        "a compressed cluster"
    } else if entry & ZERO != 0 {
        "a cluster marked zero"
    } else if entry & OFFSET == 0 {
        "a cluster that is not allocated"
    } else {
        let host = entry & OFFSET;
        if entry & L2_RESERVED != 0 || entry & COPIED == 0 {
            return Err(damaged(place, 8, format!("L2 entry {entry:#x} cannot be")));
        }
        check_cluster(header, host, place)?;
        return Ok(host);
    };
    let detail = format!("{what}; only images made by `zonal create` can be opened");
    Err(unsupported(place, 8, detail))
}

/// The data as one range: inside the file, and apart from every table.
fn verify_data_range(header: &Header, l1: &[u8], start: u64) -> Result<()> {
    let length = header.data_clusters() * header.cluster_size();
    let fits = start.checked_add(header.geometry.size).is_some_and(|end| end <= header.file_len);
    if !fits {
        let detail =
            format!("the data ends past the file's {} bytes; it was cut short", header.file_len);
        return Err(damaged(start, header.geometry.size, detail));
    }
    for region in header.regions() {
        if region.overlaps(start, length) {
            let detail = format!("{} lies in the drive's data", region.name);
            return Err(damaged(region.offset, region.length, detail));
        }
    }
    let data = Region { name: "the data", offset: start, length };
    for l2 in l2_tables(header, l1) {
        let l2 = l2?;
        if l2 != 0 && data.overlaps(l2, header.cluster_size()) {
            return Err(damaged(l2, header.cluster_size(), "an L2 table lies in the drive's data"));
        }
    }
    Ok(())
}

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
        let what = match self.kind {
            FindingKind::Leak => "counted but not used",
            FindingKind::Unreferenced => "used but not counted",
            FindingKind::CountedTwice => "counted more than once",
            FindingKind::Overlap => "used by two parts at once",
            FindingKind::BadRefcountBlock => "a refcount block that cannot be there",
            FindingKind::More => "more findings follow",
        };
        write!(f, "offset {}, length {}: {what}", self.offset, self.length)
    }
}

/// Findings, neighbours of one kind joined.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, kind: FindingKind, offset: u64, length: u64) {
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
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, start: u64, clusters: u64) -> Result<()> {
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
    fn settle(&mut self, cluster: u64, findings: &mut Findings) {
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

    /// Whether settled ranges hold a cluster.
    fn contain(&self, cluster: u64) -> bool {
        let after = self.0.partition_point(|range| range.0 <= cluster);
        after > 0 && cluster < self.0[after - 1].1
    }
}

/// Compares the refcounts of an image whose data is in one piece from `data_offset` (as
/// [`verify_contiguous`] says) with what its tables use. `l1` and `read` are as there; `read` is asked
/// for at most a cluster. The list is empty when all is well, and ends with [`FindingKind::More`] when
/// it would be longer than [`MAX_FINDINGS`].
///
/// # Errors
/// [`ErrorKind::Damaged`] and [`ErrorKind::Unsupported`] for tables that [`verify_contiguous`] would
/// refuse too; what `read` fails with.
pub fn check_refcounts(
    header: &Header,
    l1: &[u8],
    data_offset: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Vec<Finding>> {
    let mut findings = Findings::default();
    let blocks = refcount_blocks(header, &mut findings, &mut read)?;
    let used = used_clusters(header, l1, data_offset, &blocks, &mut findings, &mut read)?;
    compare_refcounts(header, &blocks, &used, &mut findings, &mut read)?;
    Ok(findings.0)
}

/// The refcount blocks that the table names: (index, offset).
fn refcount_blocks(
    header: &Header,
    findings: &mut Findings,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Vec<(u64, u64)>> {
    let cluster = header.cluster_size();
    let mut table = cluster_buffer(header);
    let mut blocks = Vec::new();
    for part in 0..u64::from(header.refcount_table_clusters) {
        let offset = header.refcount_table_offset + part * cluster;
        read(offset, &mut table)?;
        for i in 0..header.l2_entries() {
            let block = entry_at(&table, i)?;
            if block == 0 {
                continue;
            }
            if !block.is_multiple_of(cluster) || block >= header.file_len {
                findings.add(FindingKind::BadRefcountBlock, offset + i * 8, 8);
                continue;
            }
            blocks.push((part * header.l2_entries() + i, block));
        }
    }
    Ok(blocks)
}

/// Every cluster in use.
fn used_clusters(
    header: &Header,
    l1: &[u8],
    data_offset: u64,
    blocks: &[(u64, u64)],
    findings: &mut Findings,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Ranges> {
    let cluster = header.cluster_size();
    let mut used = Ranges::default();
    for region in header.regions() {
        used.add(region.offset / cluster, region.length / cluster)?;
    }
    used.add(data_offset / cluster, header.data_clusters())?;
    for (_, block) in blocks {
        used.add(block / cluster, 1)?;
    }
    for l2 in l2_tables(header, l1) {
        let l2 = l2?;
        if l2 != 0 {
            used.add(l2 / cluster, 1)?;
        }
    }
    // What L2 tables map past the drive's end may be what the header names as well: counted once.
    let mut past_end = past_end(header, l1, read)?;
    past_end.settle(cluster, findings);
    let mut known = Ranges::default();
    for region in header.regions() {
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
    header: &Header,
    l1: &[u8],
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Ranges> {
    let mut table = cluster_buffer(header);
    let mut ranges = Ranges::default();
    for (index, l2) in l2_tables(header, l1).enumerate() {
        let l2 = l2?;
        let first = index as u64 * header.l2_entries();
        let of_data = header.data_clusters().saturating_sub(first).min(header.l2_entries());
        if l2 == 0 || of_data == header.l2_entries() {
            continue;
        }
        read(l2, &mut table)?;
        for i in of_data..header.l2_entries() {
            let entry = entry_at(&table, i)?;
            if entry & (COMPRESSED | OFFSET) == 0 {
                continue;
            }
            let host = data_cluster(header, entry, l2 + i * 8)?;
            ranges.add(host / header.cluster_size(), 1)?;
        }
    }
    Ok(ranges)
}

/// Holds every refcount against what is used.
fn compare_refcounts(
    header: &Header,
    blocks: &[(u64, u64)],
    used: &Ranges,
    findings: &mut Findings,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let cluster = header.cluster_size();
    let per_block = (cluster * 8) >> header.refcount_order;
    let mut block = cluster_buffer(header);
    // Clusters up to here have been looked at.
    let mut next = 0;
    for &(index, offset) in blocks {
        let first = index * per_block;
        uncounted(used, next, first, cluster, findings);
        next = first + per_block;
        read(offset, &mut block)?;
        for i in 0..per_block {
            let number = first + i;
            let kind = match (refcount(&block, header.refcount_order, i), used.contain(number)) {
                (0, false) | (1, true) => continue,
                (0, true) => FindingKind::Unreferenced,
                (_, true) => FindingKind::CountedTwice,
                (_, false) => FindingKind::Leak,
            };
            findings.add(kind, number * cluster, cluster);
        }
    }
    uncounted(used, next, u64::MAX, cluster, findings);
    Ok(())
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
fn refcount(block: &[u8], order: u32, index: u64) -> u64 {
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
mod tests {
    use super::*;
    use crate::format::Geometry;
    use crate::format::layout::{CLUSTER, Layout};
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
            if let Some(bytes) = self.clusters.get(&offset) {
                let length = buffer.len().min(bytes.len());
                buffer[..length].copy_from_slice(&bytes[..length]);
            }
            Ok(())
        }

        fn set(&mut self, offset: u64, index: usize, value: u64) {
            self.clusters.get_mut(&offset).unwrap()[index * 8..][..8]
                .copy_from_slice(&value.to_be_bytes());
        }

        fn verify(&self) -> Result<u64> {
            let l1 = &self.clusters[&self.layout.l1.offset];
            verify_contiguous(&self.header, l1, |offset, buffer| self.read(offset, buffer))
        }

        fn check(&self) -> Vec<Finding> {
            let l1 = &self.clusters[&self.layout.l1.offset];
            check_refcounts(&self.header, l1, self.layout.data.offset, |offset, buffer| {
                self.read(offset, buffer)
            })
            .unwrap()
        }
    }

    #[test]
    fn a_planned_image_is_contiguous_and_counted() {
        for size in [4096, 64 << 20, 600 << 30] {
            let image = Image::new(size);
            assert_eq!(image.verify().unwrap(), image.layout.data.offset);
            assert_eq!(image.check(), []);
        }
    }

    #[test]
    fn a_sound_image_of_another_shape_is_not_supported() {
        let data = Image::new(64 << 20).layout.data.offset;
        for entry in
            [0, COPIED | (data + 2 * CLUSTER), COPIED | data | ZERO, COMPRESSED | data, ZERO]
        {
            let mut image = Image::new(64 << 20);
            image.set(image.layout.l2.offset, 1, entry);
            assert_eq!(image.verify().unwrap_err().kind(), ErrorKind::Unsupported, "{entry:#x}");
        }
        let mut image = Image::new(64 << 20);
        image.set(image.layout.l1.offset, 0, 0);
        assert_eq!(image.verify().unwrap_err().kind(), ErrorKind::Unsupported);
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
            (l1, COPIED | (data + CLUSTER)), // in the data
        ] {
            let mut image = Image::new(64 << 20);
            image.set(table, 1, entry);
            let error = image.verify().unwrap_err();
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
        let error = image.verify().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.detail().contains("zone table"), "{error}");
        let mut image = Image::new(64 << 20);
        image.header.file_len -= 4096;
        assert_eq!(image.verify().unwrap_err().kind(), ErrorKind::Damaged);
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
            let _ = verify_contiguous(&image.header, l1, read);
            let _ = verify_contiguous(&image.header, &l1[..cut], read);
            let _ = check_refcounts(&image.header, l1, image.layout.data.offset, read);
        }
    }
}
