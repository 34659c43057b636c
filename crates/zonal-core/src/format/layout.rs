//! Where everything of a new image goes, and its metadata as a stream of chunks.
//!
//! ```text
//! header │ refcount table │ refcount blocks │ L1 │ L2 tables │ zone table │ session │ generations │ data
//! ```
//!
//! Invariants:
//! * Every part starts on a cluster of 2 MiB, and every cluster of the file has refcount 1.
//! * The data is one piece and comes last: guest cluster `i` is at `data + i` clusters, so an offset
//!   on the drive becomes one in the file by an addition.
//! * Zone table, session and generations are also mapped by an L2 table of their own, past the
//!   drive's end, at the L1 entry where QEMU keeps a VM's state. So a program that counts references
//!   without knowing our extension finds them in use, and neither reports nor frees them as leaks.
//! * The header is the stream's last chunk: an interrupted creation leaves no image.
//! * No chunk is larger than a cluster, however large the drive. What a chunk leaves out is zeros, as
//!   it is in a file that was just made and extended to [`Layout::file_len`].

use super::qcow2::{self, COPIED, Header, MAX_L1, MAX_REFCOUNT_TABLE, OFFSET, Tables};
use super::{Geometry, zonal, zoned};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Blocks, ZoneIndex};
use alloc::{format, vec, vec::Vec};

/// Cluster size as a power of two: the largest, so that 512 GiB take one L2 table.
pub const CLUSTER_BITS: u32 = 21;
/// Bytes of a cluster.
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Refcounts of 16 bits, QEMU's default.
const REFCOUNT_ORDER: u32 = 4;
/// Refcounts in one block.
const REFCOUNTS: u64 = CLUSTER / 2;
/// Entries in one L2 table, one cluster of the refcount or zone table.
const ENTRIES: u64 = CLUSTER / 8;
/// Chunks are padded with zeros to this, so that they can be written past the page cache.
const CHUNK_ALIGN: usize = 4096;

const _: () = assert!(CLUSTER == qcow2::MAX_CLUSTER as u64);
// A file as long as an offset reaches has tables that are far from the largest.
const _: () = assert!(OFFSET / CLUSTER / ENTRIES * 8 < MAX_L1 / 2);
const _: () = assert!(OFFSET / CLUSTER / REFCOUNTS * 8 < MAX_REFCOUNT_TABLE / 2);

/// A part of the file, in whole clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its first byte in the file.
    pub offset: u64,
    /// Its clusters.
    pub clusters: u64,
}

impl Part {
    const fn end(self) -> u64 {
        self.offset + self.clusters * CLUSTER
    }

    const fn cluster(self, index: u64) -> u64 {
        self.offset + index * CLUSTER
    }

    /// Which of its 64-bit entries stands at `place`.
    fn index_of(self, place: u64) -> Option<u64> {
        (self.offset..self.end()).contains(&place).then(|| (place - self.offset) / 8)
    }
}

/// Where everything of a new image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    geometry: Geometry,
    /// The refcount table.
    pub refcount_table: Part,
    /// The refcount blocks.
    pub refcount_blocks: Part,
    /// The L1 table.
    pub l1: Part,
    /// The L2 tables: of the data, then of the parts past the drive's end.
    pub l2: Part,
    /// The zone table.
    pub zone_table: Part,
    /// The two copies of the session record.
    pub sessions: Part,
    /// The two copies of the generation pages.
    pub generations: Part,
    /// The drive's data.
    pub data: Part,
    /// The file's length in bytes, the last cluster of the data included.
    pub file_len: u64,
}

impl Layout {
    /// Plans the image of a drive.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when the drive breaks a rule of
    /// [`Geometry::validate_for_image`], or its file would end past what qcow2 reaches.
    pub fn plan(geometry: &Geometry) -> Result<Self> {
        geometry.validate_for_image()?;
        let zones = geometry.zones();
        let data = geometry.size.div_ceil(CLUSTER);
        let zone_table = (u64::from(zones) * zoned::ENTRY).div_ceil(CLUSTER);
        let pages = 2 * u64::from(zonal::generation_pages(zones));
        let generations = (pages * zonal::PAGE as u64).div_ceil(CLUSTER);
        let hidden = zone_table + 1 + generations;
        let l2 = data.div_ceil(ENTRIES) + hidden.div_ceil(ENTRIES);
        let l1 = (l2 * 8).div_ceil(CLUSTER);
        let (table, blocks) = refcount_clusters(1 + l1 + l2 + hidden + data);
        let mut end = CLUSTER;
        let mut place = |clusters| {
            let part = Part { offset: end, clusters };
            end = part.end();
            part
        };
        let layout = Self {
            geometry: geometry.clone(),
            refcount_table: place(table),
            refcount_blocks: place(blocks),
            l1: place(l1),
            l2: place(l2),
            zone_table: place(zone_table),
            sessions: place(1),
            generations: place(generations),
            data: place(data),
            file_len: end,
        };
        if layout.file_len > OFFSET {
            let detail = format!("an image of {} bytes; qcow2 reaches {OFFSET}", layout.file_len);
            return Err(Error::new(ErrorKind::InvalidInput, detail));
        }
        Ok(layout)
    }

    /// The header of the image, once all of it is there.
    #[must_use]
    pub fn header(&self, image_id: [u8; 16]) -> Header {
        // `plan` has bounded both counts.
        let count = |clusters: u64| u32::try_from(clusters).unwrap_or(u32::MAX);
        let ours = zonal::Extension {
            block_size: self.geometry.block_size,
            max_append: self.geometry.max_append,
            image_id,
            sessions_offset: self.sessions.offset,
            generations_offset: self.generations.offset,
        };
        let zone_table_offset = self.zone_table.offset;
        Header {
            geometry: self.geometry.clone(),
            tables: Tables {
                size: self.geometry.size,
                cluster_bits: CLUSTER_BITS,
                refcount_order: REFCOUNT_ORDER,
                l1_offset: self.l1.offset,
                l1_entries: count(self.l2.clusters),
                refcount_table_offset: self.refcount_table.offset,
                refcount_table_clusters: count(self.refcount_table.clusters),
                file_len: self.file_len,
                extra: qcow2::extra(CLUSTER, &self.geometry, zone_table_offset, Some(&ours)),
            },
            zone_table_offset,
            zonal: Some(ours),
            autoclear: 0,
            clamps: Vec::new(),
            stranger: None,
        }
    }

    /// The metadata of the image as (offset in the file, bytes), in ascending order except for the
    /// header, which is the last and the only chunk at offset 0. Offsets and lengths are multiples
    /// of 4096.
    ///
    /// The file must be new, and extended to [`file_len`](Self::file_len) first. For an image that
    /// is whole or none, sync before the header is written, and after.
    ///
    /// # Errors
    /// None is known; the session records are encoded first.
    pub fn metadata(&self, image_id: [u8; 16]) -> Result<Metadata<'_>> {
        // Both copies, so that neither is ever the only one.
        let mut sessions = zonal::Session::closed(0).encode(&image_id)?.to_vec();
        sessions.extend_from_slice(&zonal::Session::closed(1).encode(&image_id)?);
        let header = self.header(image_id).encode();
        Ok(Metadata { layout: self, sessions, header, step: Step::RefcountTable, index: 0 })
    }

    /// The layout of an image that was made with one, by its header: its tables are where they were
    /// put at creation, and its data in one piece behind them.
    #[must_use]
    pub fn of(header: &Header) -> Option<Self> {
        let layout = Self::plan(&header.geometry).ok()?;
        let mut planned = layout.header(header.zonal?.image_id);
        planned.tables.file_len = header.tables.file_len;
        let same = planned.tables == header.tables
            && planned.zone_table_offset == header.zone_table_offset
            && planned.zonal == header.zonal;
        same.then_some(layout)
    }

    /// What creation wrote to the entry of the L1 table at `place`.
    #[must_use]
    pub fn l1_entry_at(&self, place: u64) -> Option<u64> {
        let index = self.l1.index_of(place)?;
        (index < self.l2.clusters).then(|| self.l2.cluster(index) | COPIED)
    }

    /// What creation wrote to the entry of an L2 table at `place`.
    #[must_use]
    pub fn l2_entry_at(&self, place: u64) -> Option<u64> {
        let index = self.l2.index_of(place)?;
        let (part, first) = self.l2_maps(index / ENTRIES);
        let cluster = first + index % ENTRIES;
        (cluster < part.clusters).then(|| part.cluster(cluster) | COPIED)
    }

    /// What of the file is metadata, in clusters; all that comes before the data.
    const fn metadata_clusters(&self) -> u64 {
        self.data.offset / CLUSTER
    }

    fn refcount_table_entries(&self, cluster: u64) -> Vec<u8> {
        let blocks = self.refcount_blocks;
        table(cluster * ENTRIES, blocks.clusters, |block| blocks.cluster(block))
    }

    fn refcounts(&self, block: u64) -> Vec<u8> {
        let clusters = self.metadata_clusters() + self.data.clusters;
        let count = clusters.saturating_sub(block * REFCOUNTS).min(REFCOUNTS);
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.extend_from_slice(&1u16.to_be_bytes());
        }
        bytes
    }

    fn l1_entries(&self, cluster: u64) -> Vec<u8> {
        let l2 = self.l2;
        table(cluster * ENTRIES, l2.clusters, |index| l2.cluster(index) | COPIED)
    }

    fn l2_entries(&self, index: u64) -> Vec<u8> {
        let (part, first) = self.l2_maps(index);
        table(first, part.clusters, |cluster| part.cluster(cluster) | COPIED)
    }

    /// What L2 table `index` maps: a part of the file, from one of its clusters on.
    const fn l2_maps(&self, index: u64) -> (Part, u64) {
        let of_data = self.data.clusters.div_ceil(ENTRIES);
        // Zone table, session and generations lie side by side, the first of them first.
        match index.checked_sub(of_data) {
            None => (self.data, index * ENTRIES),
            Some(hidden) => {
                let clusters = (self.data.offset - self.zone_table.offset) / CLUSTER;
                (Part { offset: self.zone_table.offset, clusters }, hidden * ENTRIES)
            }
        }
    }

    fn zone_entries(&self, cluster: u64) -> Vec<u8> {
        table(cluster * ENTRIES, self.geometry.zones().into(), |zone| {
            let zone = ZoneIndex(u32::try_from(zone).unwrap_or(u32::MAX));
            zoned::encode(&self.geometry, zone, Blocks::ZERO)
        })
    }
}

/// The clusters of refcount table and blocks that count `others` and themselves.
fn refcount_clusters(others: u64) -> (u64, u64) {
    let (mut table, mut blocks) = (1, 1);
    loop {
        let needed = (others + table + blocks).div_ceil(REFCOUNTS);
        let table_needed = needed.div_ceil(ENTRIES);
        if (table_needed, needed) == (table, blocks) {
            return (table, blocks);
        }
        // Both only grow, and each block pays for a million clusters: it ends after a few rounds.
        (table, blocks) = (table_needed.max(table), needed.max(blocks));
    }
}

/// One cluster of a table of 64-bit entries: those from `first` up to `count`, at most a cluster.
fn table(first: u64, count: u64, entry: impl Fn(u64) -> u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in first..count.min(first + ENTRIES) {
        bytes.extend_from_slice(&entry(index).to_be_bytes());
    }
    bytes
}

/// The parts that have content, in the order they are written.
#[derive(Clone, Copy, Debug)]
enum Step {
    RefcountTable,
    RefcountBlocks,
    L1,
    L2,
    ZoneTable,
    Sessions,
    Header,
    Done,
}

/// A new image's metadata, chunk by chunk; from [`Layout::metadata`].
#[derive(Clone, Debug)]
pub struct Metadata<'a> {
    layout: &'a Layout,
    sessions: Vec<u8>,
    header: Vec<u8>,
    step: Step,
    /// The next cluster of the step's part.
    index: u64,
}

impl Metadata<'_> {
    /// The part of a step, its content by cluster, and the step after it.
    fn chunk(&self) -> Option<(Part, Vec<u8>, Step)> {
        let (layout, index) = (self.layout, self.index);
        Some(match self.step {
            Step::RefcountTable => {
                let bytes = layout.refcount_table_entries(index);
                (layout.refcount_table, bytes, Step::RefcountBlocks)
            }
            Step::RefcountBlocks => (layout.refcount_blocks, layout.refcounts(index), Step::L1),
            Step::L1 => (layout.l1, layout.l1_entries(index), Step::L2),
            Step::L2 => (layout.l2, layout.l2_entries(index), Step::ZoneTable),
            Step::ZoneTable => (layout.zone_table, layout.zone_entries(index), Step::Sessions),
            Step::Sessions => (layout.sessions, self.sessions.clone(), Step::Header),
            Step::Header => (Part { offset: 0, clusters: 1 }, self.header.clone(), Step::Done),
            Step::Done => return None,
        })
    }
}

impl Iterator for Metadata<'_> {
    type Item = (u64, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let (part, mut bytes, next) = self.chunk()?;
        let offset = part.cluster(self.index);
        self.index += 1;
        if self.index == part.clusters {
            (self.step, self.index) = (next, 0);
        }
        let padded = bytes.len().next_multiple_of(CHUNK_ALIGN);
        bytes.extend(vec![0; padded - bytes.len()]);
        Some((offset, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_follow_each_other_and_the_data_comes_last() {
        let geometry = Geometry::with_size(64 << 30);
        let layout = Layout::plan(&geometry).unwrap();
        let parts = [
            Part { offset: 0, clusters: 1 },
            layout.refcount_table,
            layout.refcount_blocks,
            layout.l1,
            layout.l2,
            layout.zone_table,
            layout.sessions,
            layout.generations,
            layout.data,
        ];
        assert!(parts.windows(2).all(|pair| pair[0].end() == pair[1].offset));
        assert_eq!(layout.data.end(), layout.file_len);
        assert_eq!(layout.data.clusters * CLUSTER, 64 << 30);
        assert_eq!(layout.data.offset, 9 * CLUSTER);
    }

    #[test]
    fn a_drive_of_16_tib_streams_in_bounded_chunks_with_the_header_last() {
        let layout = Layout::plan(&Geometry::with_size(16 << 40)).unwrap();
        let (mut last, mut total) = (0, 0);
        for (offset, bytes) in layout.metadata([1; 16]).unwrap() {
            assert!(bytes.len() as u64 <= CLUSTER && bytes.len().is_multiple_of(CHUNK_ALIGN));
            assert!(offset == 0 || offset > last);
            (last, total) = (offset, total + bytes.len());
        }
        assert_eq!(last, 0);
        assert!(total > 64 << 20, "{total}");
    }

    #[test]
    fn a_size_inside_a_cluster_gets_the_whole_cluster() {
        let layout = Layout::plan(&Geometry::with_size((2 << 20) + 4096)).unwrap();
        assert_eq!(layout.data.clusters, 2);
        assert_eq!(layout.file_len, layout.data.offset + 2 * CLUSTER);
    }

    #[test]
    fn the_refcounts_count_their_own_clusters() {
        for others in [1, REFCOUNTS - 2, REFCOUNTS - 1, REFCOUNTS, 40 * REFCOUNTS * ENTRIES] {
            let (table, blocks) = refcount_clusters(others);
            assert!(blocks * REFCOUNTS >= others + table + blocks);
            assert!(table * ENTRIES >= blocks);
        }
        assert_eq!(refcount_clusters(REFCOUNTS - 2), (1, 1));
        assert_eq!(refcount_clusters(REFCOUNTS - 1), (1, 2));
    }

    #[test]
    fn what_qcow2_cannot_hold_is_refused() {
        let mut geometry = Geometry::with_size(1 << 57);
        geometry.zone_size = 1 << 40;
        geometry.zone_capacity = 1 << 40;
        assert_eq!(Layout::plan(&geometry).unwrap_err().kind(), ErrorKind::InvalidInput);
        geometry.size = 1 << 62;
        assert_eq!(Layout::plan(&geometry).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    #[test]
    fn the_parts_of_a_drive_stand_at_these_clusters() {
        // 1 TiB: 2^19 clusters of data in two L2 tables, 4096 zones, five generation pages a copy.
        let layout = Layout::plan(&Geometry::with_size(1 << 40)).unwrap();
        let part = |first, clusters| Part { offset: first * CLUSTER, clusters };
        assert_eq!(layout.refcount_table, part(1, 1));
        assert_eq!(layout.refcount_blocks, part(2, 1));
        assert_eq!(layout.l1, part(3, 1));
        assert_eq!(layout.l2, part(4, 3));
        assert_eq!(layout.zone_table, part(7, 1));
        assert_eq!(layout.sessions, part(8, 1));
        assert_eq!(layout.generations, part(9, 1));
        assert_eq!(layout.data, part(10, 1 << 19));
        // 2^21 zones of 1 MiB: eight clusters of table, 2 * 2057 pages of generations.
        let zone: u64 = 1 << 20;
        let many =
            Geometry { zone_size: zone, zone_capacity: zone, ..Geometry::with_size(zone << 21) };
        let layout = Layout::plan(&many).unwrap();
        assert_eq!(layout.refcount_blocks, part(2, 2));
        assert_eq!(layout.l2, part(5, 5));
        assert_eq!((layout.zone_table, layout.sessions), (part(10, 8), part(18, 1)));
        assert_eq!((layout.generations, layout.data), (part(19, 9), part(28, 1 << 20)));
    }

    /// The metadata as it will be in the file, zeros at the end of chunks left out.
    fn written(layout: &Layout) -> Vec<u8> {
        let end = usize::try_from(layout.data.offset).unwrap();
        let mut file = vec![0; end];
        for (offset, bytes) in layout.metadata([1; 16]).unwrap() {
            let offset = usize::try_from(offset).unwrap();
            file[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        file
    }

    fn number(file: &[u8], offset: u64) -> u64 {
        super::super::be64(file, usize::try_from(offset / 8).unwrap()).unwrap()
    }

    #[test]
    fn the_tables_of_a_new_image_have_these_entries() {
        let geometry = Geometry {
            zone_size: 1 << 20,
            zone_capacity: 1 << 20,
            conventional_zones: 1,
            ..Geometry::with_size(600 << 30)
        };
        let layout = Layout::plan(&geometry).unwrap();
        let file = written(&layout);
        let copied = 1 << 63;
        // Two tables for 307200 clusters of data, one for what lies past the drive's end.
        let entries = [0, 1, 2, 3].map(|entry| number(&file, layout.l1.offset + 8 * entry));
        let table = |index: u64| (layout.l2.offset + index * CLUSTER) | copied;
        assert_eq!(entries, [table(0), table(1), table(2), 0]);
        let data = |index: u64| (layout.data.offset + index * CLUSTER) | copied;
        let entry = |index: u64| number(&file, layout.l2.offset + 8 * index);
        assert_eq!([0, 1, 262_143, 262_144].map(entry), [0, 1, 262_143, 262_144].map(data));
        assert_eq!([307_199, 307_200].map(entry), [data(307_199), 0]);
        // Three clusters of zone table, the session, three of generations.
        let hidden = |index: u64| (layout.zone_table.offset + index * CLUSTER) | copied;
        let past = [0, 1, 6, 7].map(|index| entry(2 * 262_144 + index));
        assert_eq!(past, [hidden(0), hidden(1), hidden(6), 0]);
        let zone = |zone: u64| number(&file, layout.zone_table.offset + 8 * zone);
        let at = |zone: u64| zone << 20;
        assert_eq!([0, 1, 262_144].map(zone), [1 << 63, at(1), at(262_144)]);
        assert_eq!([614_399, 614_400].map(zone), [at(614_399), 0]);
        assert_eq!(number(&file, CLUSTER), layout.refcount_blocks.offset);
        assert_eq!(number(&file, CLUSTER + 8), 0);
    }

    #[test]
    fn every_cluster_of_a_large_image_is_counted_once() {
        // More than 2^20 clusters: two blocks.
        let layout = Layout::plan(&Geometry::with_size(2 << 40)).unwrap();
        let file = written(&layout);
        let count = |cluster: u64| {
            let at = usize::try_from(layout.refcount_blocks.offset + 2 * cluster).unwrap();
            [file[at], file[at + 1]]
        };
        let last = layout.file_len / CLUSTER - 1;
        assert_eq!([0, REFCOUNTS - 1, REFCOUNTS, last].map(count), [[0, 1]; 4]);
        assert_eq!(count(last + 1), [0, 0]);
        let blocks = [0, 8, 16].map(|at| number(&file, layout.refcount_table.offset + at));
        let first = layout.refcount_blocks.offset;
        assert_eq!(blocks, [first, first + CLUSTER, 0]);
    }

    #[test]
    fn an_entry_can_be_asked_for_by_its_place() {
        let layout = Layout::plan(&Geometry::with_size(600 << 30)).unwrap();
        let file = written(&layout);
        let (l1, l2) = (layout.l1.offset, layout.l2.offset);
        // What is no entry of a table, or no part of it, nobody made.
        for place in [l1, l1 + 8, l1 + 16] {
            assert_eq!(layout.l1_entry_at(place), Some(number(&file, place)));
        }
        assert_eq!([l1 - 8, l1 + 24, l2].map(|place| layout.l1_entry_at(place)), [None; 3]);
        let second = l2 + CLUSTER;
        let hidden = second + CLUSTER;
        for place in [l2, l2 + 8, second - 8, second, second + 16, hidden, hidden + 16] {
            assert_eq!(layout.l2_entry_at(place), Some(number(&file, place)), "{place}");
        }
        let of_data = l2 + 8 * 307_200;
        let none = [l2 - 8, of_data, hidden + 24, layout.zone_table.offset];
        assert_eq!(none.map(|place| layout.l2_entry_at(place)), [None; 4]);
        assert_eq!(layout.l2_entry_at(of_data - 8), Some(number(&file, of_data - 8)));
    }

    #[test]
    fn the_layout_of_an_image_is_known_by_its_header() {
        let layout = Layout::plan(&Geometry::with_size(64 << 20)).unwrap();
        let header = layout.header([1; 16]);
        assert_eq!(Layout::of(&header), Some(layout.clone()));
        // A file that has grown behind its data is still one.
        let mut grown = header.clone();
        grown.tables.file_len += CLUSTER;
        assert_eq!(Layout::of(&grown), Some(layout));
        let changes: [fn(&mut Header); 4] = [
            |header| header.tables.l1_offset += CLUSTER,
            |header| header.zone_table_offset += CLUSTER,
            |header| header.zonal.iter_mut().for_each(|ours| ours.sessions_offset += CLUSTER),
            |header| header.zonal = None,
        ];
        for change in changes {
            let mut other = header.clone();
            change(&mut other);
            assert_eq!(Layout::of(&other), None);
        }
    }

    #[test]
    fn a_drive_whose_file_ends_past_what_an_offset_reaches_is_refused() {
        let plan = |size| {
            let mut geometry = Geometry::with_size(size);
            (geometry.zone_size, geometry.zone_capacity) = (1 << 40, 1 << 40);
            Layout::plan(&geometry)
        };
        let most = plan((1 << 56) - (1 << 46)).unwrap();
        assert!(most.file_len <= OFFSET);
        let error = plan(1 << 56).unwrap_err();
        assert!(error.detail().contains("qcow2 reaches 72057594037927424"), "{error}");
    }
    #[test]
    fn a_file_of_as_many_clusters_as_a_block_counts_has_one_block() {
        // Header, refcount table and block, L1, five L2 tables, zone table, session, generations.
        let others = 12;
        let blocks = |clusters: u64| {
            Layout::plan(&Geometry::with_size(clusters * CLUSTER)).unwrap().refcount_blocks.clusters
        };
        assert_eq!(blocks(REFCOUNTS - others), 1);
        assert_eq!(blocks(REFCOUNTS - others + 1), 2);
    }
}
