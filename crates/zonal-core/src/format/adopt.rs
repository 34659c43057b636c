//! Giving zones to a qcow2 image of another making: its data stays where it is, and all tables are
//! made anew behind it.
//!
//! ```text
//! the image as it was │ zone table │ session │ generations │ L1 │ refcount table │ blocks │ L2 │ room for data
//! ```
//!
//! Invariants:
//! * Nothing of the image as it was is written before the header, which is the stream's last chunk
//!   and fits one sector: before it the image has no zones, after it it has.
//! * The new tables are those of the whole drive. What is written later, when a zone takes its first
//!   data, is refcounts and L2 entries in tables that are there.
//! * The file is long enough for every cluster of the drive from the beginning, sparse.
//! * New parts start on a page of 4096 bytes, also where clusters are smaller.
//! * The old tables are free: counted 0, and used again.

use super::map::{Map, Run};
use super::qcow2::{self, COPIED, Header, MAX_L1, MAX_REFCOUNT_TABLE, OFFSET, Tables};
use super::{Geometry, zonal, zoned};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Blocks, ZoneIndex};
use alloc::{format, vec, vec::Vec};
use core::ops::Range;

/// Refcounts of 16 bits, QEMU's default.
const REFCOUNT_ORDER: u32 = 4;
const PAGE: u64 = zonal::PAGE as u64;
/// Most bytes of a chunk.
const CHUNK: u64 = 2 << 20;

/// Where everything of an adopted image goes.
#[derive(Clone, Debug)]
pub struct Adoption {
    geometry: Geometry,
    /// The data: what was there, and the conventional zones.
    map: Map,
    tables: Tables,
    zone_table: u64,
    sessions: u64,
    generations: u64,
    /// Where the refcount blocks begin.
    blocks: u64,
    /// Where the L2 tables begin.
    l2: u64,
}

impl Adoption {
    /// Plans the image of a drive of this shape. `map` is the image's, and none of its clusters lies
    /// where a sequential zone cannot be written.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a shape that does not fit the image: another size, zones or
    /// blocks that do not consist of whole clusters, tables larger than qcow2 allows.
    pub fn plan(geometry: &Geometry, image: &Tables, map: &Map) -> Result<Self> {
        geometry.validate_for_image()?;
        let cluster = image.cluster_size();
        refuse_misfits(geometry, image)?;
        let mut map = Map { runs: map.runs.clone(), ..Map::default() };
        let conventional = geometry.start_of(ZoneIndex(geometry.conventional_zones)) / cluster;
        let holes = holes(&map.runs, 0..conventional);
        let mapped: u64 = map.runs.iter().map(|run| run.clusters).sum();
        let missing = image.data_clusters() - mapped;

        let unit = cluster.max(PAGE);
        let zones = u64::from(geometry.zones());
        let pages = 2 * u64::from(zonal::generation_pages(geometry.zones()));
        let mut end = image.file_len.checked_next_multiple_of(unit).unwrap_or(OFFSET);
        let mut place = |bytes: u64| {
            let offset = end;
            end += bytes.next_multiple_of(unit);
            offset
        };
        let zone_table = place(zones * zoned::ENTRY);
        let sessions = place(2 * PAGE);
        let generations = place(pages * PAGE);
        let hidden = (end_of(generations, pages * PAGE, unit) - zone_table) / cluster;
        let of_data = image.l1_entries_needed();
        let l1_entries = of_data + hidden.div_ceil(image.l2_entries());
        let l1 = place(l1_entries * 8);
        let l2_bytes = l1_entries * cluster;
        let sized = Tables { refcount_order: REFCOUNT_ORDER, ..image.clone() };
        let before = l1 + (l1_entries * 8).next_multiple_of(unit);
        let rest = l2_bytes.next_multiple_of(unit) + missing * cluster;
        let (table_clusters, blocks_count) = refcounts_for(&sized, before + rest, unit);
        let refcount_table = place(table_clusters * cluster);
        let blocks = place(blocks_count * cluster);
        let l2 = place(l2_bytes);

        let file_len = end.saturating_add(missing * cluster);
        if l1_entries * 8 > MAX_L1
            || table_clusters * cluster > MAX_REFCOUNT_TABLE
            || file_len > OFFSET
        {
            return invalid(format!(
                "a drive of {} bytes is too large for clusters of {cluster}",
                geometry.size
            ));
        }
        // In the room for data, which begins where the tables end.
        let mut room = end;
        for hole in holes {
            map.runs.push(Run { host: room, ..hole });
            room += hole.clusters * cluster;
        }
        map.runs.sort_unstable_by_key(|run| run.guest);
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let tables = Tables {
            l1_offset: l1,
            l1_entries: count(l1_entries),
            refcount_table_offset: refcount_table,
            refcount_table_clusters: count(table_clusters),
            file_len,
            ..sized
        };
        let geometry = geometry.clone();
        Ok(Self { geometry, map, tables, zone_table, sessions, generations, blocks, l2 })
    }

    /// The file's length in bytes, room for every cluster of the drive included.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.tables.file_len
    }

    /// The header of the image, once all of it is there.
    #[must_use]
    pub fn header(&self, image_id: [u8; 16]) -> Header {
        let ours = zonal::Extension {
            block_size: self.geometry.block_size,
            max_append: self.geometry.max_append,
            image_id,
            sessions_offset: self.sessions,
            generations_offset: self.generations,
        };
        let mut tables = self.tables.clone();
        tables.extra =
            qcow2::extra(tables.cluster_size(), &self.geometry, self.zone_table, Some(&ours));
        Header {
            geometry: self.geometry.clone(),
            tables,
            zone_table_offset: self.zone_table,
            zonal: Some(ours),
            autoclear: 0,
            clamps: Vec::new(),
            stranger: None,
        }
    }

    /// The metadata of the image as (offset in the file, bytes), the header last. `wp` says where each
    /// zone's write pointer is. Chunks of nothing but zeros are left out: the file is extended to
    /// [`file_len`](Self::file_len) first, and sync goes before the header and after.
    ///
    /// # Errors
    /// None is known; the session records are encoded first.
    pub fn metadata<'a>(
        &'a self,
        image_id: [u8; 16],
        wp: impl Fn(ZoneIndex) -> Blocks + 'a,
    ) -> Result<impl Iterator<Item = (u64, Vec<u8>)> + 'a> {
        let mut sessions = zonal::Session::closed(0).encode(&image_id)?.to_vec();
        sessions.extend_from_slice(&zonal::Session::closed(1).encode(&image_id)?);
        let used = self.used();
        let blocks = self.refcount_blocks();
        let zones = entries(self.zone_table, self.geometry.zones().into(), move |zone| {
            let zone = ZoneIndex(u32::try_from(zone).unwrap_or(u32::MAX));
            zoned::encode(&self.geometry, zone, wp(zone))
        });
        let cluster = self.tables.cluster_size();
        let l1 = entries(self.tables.l1_offset, self.tables.l1_entries.into(), move |index| {
            (self.l2 + index * cluster) | COPIED
        });
        let table = entries(self.tables.refcount_table_offset, blocks, move |index| {
            self.blocks + index * cluster
        });
        let blocks =
            (0..blocks).map(move |block| (self.blocks + block * cluster, self.block(&used, block)));
        let l2 = (0..u64::from(self.tables.l1_entries))
            .map(move |index| (self.l2 + index * cluster, self.l2_table(index)));
        let header = core::iter::once((0, self.header(image_id).encode()));
        let parts = core::iter::once((self.sessions, sessions)).chain(zones).chain(l1);
        let parts = parts.chain(table).chain(blocks).chain(l2);
        Ok(parts.filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)).chain(header))
    }

    /// The clusters in use, ascending. What only rounds a part up to a page is not.
    fn used(&self) -> Vec<Range<u64>> {
        let cluster = self.tables.cluster_size();
        let data = self.map.runs.iter();
        let data = data.map(|run| run.host / cluster..run.host / cluster + run.clusters);
        let part =
            |offset: u64, bytes: u64| offset / cluster..offset / cluster + bytes.div_ceil(cluster);
        let Tables { l1_offset, l1_entries, refcount_table_offset, .. } = self.tables;
        let ours = [
            0..1,
            part(self.zone_table, l1_offset - self.zone_table),
            part(l1_offset, u64::from(l1_entries) * 8),
            part(refcount_table_offset, u64::from(self.tables.refcount_table_clusters) * cluster),
            part(self.blocks, self.refcount_blocks() * cluster),
            part(self.l2, u64::from(l1_entries) * cluster),
        ];
        let mut used: Vec<_> = data.chain(ours).collect();
        used.sort_unstable_by_key(|range| range.start);
        used
    }

    fn refcount_blocks(&self) -> u64 {
        self.tables.file_clusters().div_ceil(self.tables.refcounts())
    }

    /// A refcount block.
    fn block(&self, used: &[Range<u64>], block: u64) -> Vec<u8> {
        let per_block = self.tables.refcounts();
        let (first, end) = (block * per_block, (block + 1) * per_block);
        let mut bytes = vec![0; near(self.tables.cluster_size())];
        let from = used.partition_point(|range| range.end <= first);
        for range in used[from..].iter().take_while(|range| range.start < end) {
            for cluster in range.start.max(first)..range.end.min(end) {
                super::check::count_once(&mut bytes, REFCOUNT_ORDER, cluster - first);
            }
        }
        bytes
    }

    /// An L2 table: of the data, or past the drive's end of what only extensions point to, so that a
    /// program that does not know them finds it in use.
    fn l2_table(&self, index: u64) -> Vec<u8> {
        let tables = &self.tables;
        let (cluster, count) = (tables.cluster_size(), tables.l2_entries());
        let mut bytes = vec![0; near(cluster)];
        let hidden = [Run {
            guest: tables.l1_entries_needed() * count,
            host: self.zone_table,
            clusters: (self.tables.l1_offset - self.zone_table) / cluster,
        }];
        let first = index * count;
        let hidden = Map { runs: hidden.to_vec(), ..Map::default() };
        let map = if index < tables.l1_entries_needed() { &self.map } else { &hidden };
        for run in map.within(tables, first, first + count) {
            for n in 0..run.clusters {
                let at = near((run.guest + n - first) * 8);
                let entry = (run.host + n * cluster) | COPIED;
                bytes[at..at + 8].copy_from_slice(&entry.to_be_bytes());
            }
        }
        bytes
    }
}

fn invalid<T>(detail: alloc::string::String) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidInput, detail))
}

fn refuse_misfits(geometry: &Geometry, image: &Tables) -> Result<()> {
    let cluster = image.cluster_size();
    if geometry.size != image.size {
        return invalid(format!(
            "a drive of {} bytes in an image of {}",
            geometry.size, image.size
        ));
    }
    if geometry.zone_size < cluster {
        return invalid(format!(
            "zone size {} is less than a cluster of {cluster}; take larger zones",
            geometry.zone_size
        ));
    }
    if u64::from(geometry.block_size) > cluster {
        // A block that a power cut may tear between two clusters is none.
        return invalid(format!(
            "block size {} is more than a cluster of {cluster}; take smaller blocks",
            geometry.block_size
        ));
    }
    Ok(())
}

/// The clusters of a part of the drive that no run covers.
pub fn holes(runs: &[Run], part: Range<u64>) -> Vec<Run> {
    let mut holes = Vec::new();
    let mut next = part.start;
    let mut hole = |from: u64, to: u64| {
        if from < to {
            holes.push(Run { guest: from, host: 0, clusters: to - from });
        }
    };
    let first = runs.partition_point(|run| run.guest + run.clusters <= part.start);
    for run in runs[first..].iter().take_while(|run| run.guest < part.end) {
        hole(next, run.guest);
        next = run.guest + run.clusters;
    }
    hole(next, part.end);
    holes
}

const fn end_of(offset: u64, bytes: u64, unit: u64) -> u64 {
    offset + bytes.next_multiple_of(unit)
}

/// The clusters of refcount table and blocks that count a file of so many bytes and themselves.
fn refcounts_for(tables: &Tables, bytes: u64, unit: u64) -> (u64, u64) {
    let cluster = tables.cluster_size();
    let (mut table, mut blocks) = (1, 1);
    loop {
        let own =
            (table * cluster).next_multiple_of(unit) + (blocks * cluster).next_multiple_of(unit);
        let needed = (bytes + own).div_ceil(cluster).div_ceil(tables.refcounts());
        let table_needed = (needed * 8).div_ceil(cluster);
        if (table_needed, needed) == (table, blocks) {
            return (table, blocks);
        }
        // Both only grow, and a block counts more clusters than it takes.
        (table, blocks) = (table_needed.max(table), needed.max(blocks));
    }
}

/// A table of 64-bit entries in chunks.
fn entries(
    offset: u64,
    count: u64,
    entry: impl Fn(u64) -> u64,
) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let per_chunk = CHUNK / 8;
    (0..count.div_ceil(per_chunk)).map(move |chunk| {
        let first = chunk * per_chunk;
        let mut bytes = Vec::new();
        for index in first..count.min(first + per_chunk) {
            bytes.extend_from_slice(&entry(index).to_be_bytes());
        }
        (offset + first * 8, bytes)
    })
}

/// A length of at most a cluster.
fn near(length: u64) -> usize {
    usize::try_from(length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, ID, Image};
    use super::*;

    fn run(guest: u64, host: u64, clusters: u64) -> Run {
        Run { guest, host, clusters }
    }

    #[test]
    fn the_new_parts_stand_behind_the_image_each_on_a_page() {
        let image = Image::new();
        let (tables, ours) = (&image.header.tables, image.header.zonal.unwrap());
        assert_eq!(image.header.zone_table_offset, 0x3000);
        assert_eq!((ours.sessions_offset, ours.generations_offset), (0x4000, 0x6000));
        // Four tables for the data, one for what lies past its end.
        assert_eq!((tables.l1_offset, tables.l1_entries), (0x8000, 5));
        assert_eq!((tables.refcount_table_offset, tables.refcount_table_clusters), (0x9000, 1));
        assert_eq!((tables.cluster_bits, tables.refcount_order), (9, 4));
        let blocks = [0, 8, 16].map(|at| image.number(0x9000 + at));
        assert_eq!(blocks, [0xa000, 0xa200, 0]);
        let l1: Vec<_> = (0..6).map(|entry| image.number(0x8000 + 8 * entry)).collect();
        assert_eq!(l1[..2], [0x8000_0000_0000_b000, 0x8000_0000_0000_b200]);
        assert_eq!(l1[4..], [0x8000_0000_0000_b800, 0]);
        // Room for the 246 clusters that have no data yet.
        assert_eq!(image.file.len(), 0xc000 + 246 * 512);
        assert_eq!(tables.file_len, image.file.len() as u64);
    }

    #[test]
    fn data_stays_where_it_is_and_the_conventional_zone_gets_room() {
        let image = Image::new();
        let map = image.map().unwrap();
        let expected = [
            run(0, 0xa00, 4),
            run(4, 0xc000, 6),
            run(10, 0x1400, 2),
            run(12, 0xc000 + 6 * 512, 20),
            run(32, 0x1a00, 4),
        ];
        assert_eq!(map.runs, expected);
        assert_eq!(map.l2, [0xb000, 0xb200, 0xb400, 0xb600]);
        // Past the drive's end: zone table, session and generations, 40 clusters.
        let hidden: Vec<_> = (0..41).map(|entry| image.number(0xb800 + 8 * entry)).collect();
        let first = 0x8000_0000_0000_3000;
        assert_eq!((hidden[0], hidden[39], hidden[40]), (first, first + 39 * 512, 0));
    }

    #[test]
    fn what_is_in_use_is_counted_once_and_the_old_tables_are_free() {
        let image = Image::new();
        assert_eq!(image.check(), []);
        let count = |cluster: u64| image.number(0xa000 + 2 * cluster) >> 48;
        // The header; the old L1 and refcount tables; data.
        assert_eq!([0, 1, 2, 5, 8, 9, 10].map(count), [1, 0, 0, 1, 1, 0, 1]);
        // The L1 table takes a page, but uses one cluster of it.
        assert_eq!([63, 64, 65, 72, 73].map(count), [1, 1, 0, 1, 0]);
        // The room for the conventional zone is in use, what follows it is not.
        assert_eq!([95, 96, 121, 122].map(count), [0, 1, 1, 0]);
    }

    #[test]
    fn an_adopted_image_says_what_was_planned() {
        let image = Image::new();
        let header = Header::parse(&image.file, image.file.len() as u64).unwrap();
        assert_eq!(header, image.header);
        assert_eq!((header.geometry.clone(), header.autoclear), (sample::geometry(), 0));
        let entry = |zone: u64| image.number(0x3000 + 8 * zone);
        assert_eq!([0, 1, 7].map(entry), [1 << 63, 0x4000 + 4 * 512, 0x1_c000]);
        let copies = [&image.file[0x4000..0x5000], &image.file[0x5000..0x6000]];
        let [a, b] = copies;
        let newest = zonal::Session::newest(a, b, &ID, &header.geometry).unwrap();
        assert_eq!(newest, zonal::Session::closed(1));
        let oldest = zonal::Session::parse_copy(0, a, &ID, &header.geometry).unwrap();
        assert_eq!(oldest, Some(zonal::Session::closed(0)));
    }

    /// Images whose clusters are smaller than a page, a page, and larger.
    #[test]
    fn an_image_of_any_cluster_size_is_sound_when_adopted() {
        for cluster_bits in 9..=16 {
            let cluster: u64 = 1 << cluster_bits;
            let geometry = Geometry {
                zone_size: 8 * cluster,
                zone_capacity: 6 * cluster,
                conventional_zones: 2,
                block_size: 512,
                max_append: 512,
                // The last cluster is not a whole one.
                ..Geometry::with_size(300 * cluster - 512 * u64::from(cluster_bits > 9))
            };
            let tables = Tables {
                size: geometry.size,
                cluster_bits,
                file_len: 12 * cluster - 100,
                ..sample::tables()
            };
            for runs in [vec![], vec![run(3, 4 * cluster, 7), run(16, 3 * cluster, 1)]] {
                let image = Image::adopted(&geometry, &tables, runs.clone());
                let header = Header::parse(&image.file, image.file.len() as u64).unwrap();
                assert_eq!(header, image.header, "{cluster}");
                assert_eq!(image.check(), [], "{cluster}");
                let map = image.map().unwrap();
                assert_eq!(holes(&map.runs, 0..16), [], "{cluster}");
                for run in runs {
                    assert_eq!(map.host(&header.tables, run.guest), Some(run.host));
                }
                let unused = map
                    .runs
                    .iter()
                    .all(|run| run.host + run.clusters * cluster <= header.tables.file_len);
                assert!(unused, "{cluster}: data past the end");
            }
        }
    }

    #[test]
    fn the_header_is_the_last_chunk_and_no_chunk_is_empty() {
        let map = Map { runs: sample::runs(), ..Map::default() };
        let adoption = Adoption::plan(&sample::geometry(), &sample::tables(), &map).unwrap();
        let chunks: Vec<_> = adoption.metadata(ID, sample::wp).unwrap().collect();
        let offsets: Vec<_> = chunks.iter().map(|(offset, _)| *offset).collect();
        // Session, zone table, L1, refcount table, its blocks, L2 tables that map something, header.
        let l2 = [0xb000, 0xb800];
        assert_eq!(offsets[..6], [0x4000, 0x3000, 0x8000, 0x9000, 0xa000, l2[0]]);
        assert_eq!(offsets[6..], [l2[1], 0]);
        assert!(chunks.iter().all(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)));
    }

    #[test]
    fn a_long_table_comes_in_chunks_of_2_mib() {
        let chunks: Vec<_> = entries(4096, (1 << 18) + 2, |index| index).collect();
        let sizes: Vec<_> = chunks.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect();
        assert_eq!(sizes, [(4096, 2 << 20), (4096 + (2 << 20), 16)]);
        assert_eq!(chunks[1].1[8..], [0, 0, 0, 0, 0, 4, 0, 1]);
    }

    #[test]
    fn holes_are_what_no_run_covers() {
        let runs = [run(2, 0, 2), run(4, 9, 1), run(8, 0, 4)];
        assert_eq!(holes(&runs, 0..20), [run(0, 0, 2), run(5, 0, 3), run(12, 0, 8)]);
        assert_eq!(holes(&runs, 4..8), [run(5, 0, 3)]);
        assert_eq!(holes(&runs, 8..12), []);
        assert_eq!(holes(&runs, 13..15), [run(13, 0, 2)]);
        assert_eq!(holes(&[], 0..0), []);
    }

    #[test]
    fn refcount_tables_count_themselves() {
        let tables = sample::tables();
        // 256 counts in a block of 512 bytes, 64 blocks in a cluster of the table.
        for (clusters, expected) in [
            (1, (1, 1)),
            (256 - 16, (1, 1)),
            (256 - 15, (1, 2)),
            (64 * 256 - 72, (1, 64)),
            (64 * 256 - 71, (2, 65)),
        ] {
            assert_eq!(refcounts_for(&tables, clusters * 512, 4096), expected, "{clusters}");
        }
        assert_eq!(refcounts_for(&tables, 253 * 512 + 1, 512), (1, 1));
        assert_eq!(refcounts_for(&tables, 254 * 512 + 1, 512), (1, 2));
    }

    #[test]
    fn a_shape_that_does_not_fit_the_image_is_refused_by_name() {
        let plan = |geometry: &Geometry, tables: &Tables| {
            Adoption::plan(geometry, tables, &Map::default()).map(|_| ())
        };
        let refused = |geometry: &Geometry, tables: &Tables, words: &str| {
            let error = plan(geometry, tables).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.detail().contains(words), "{words} in {error}");
        };
        let (geometry, tables) = (sample::geometry(), sample::tables());
        plan(&geometry, &tables).unwrap();
        refused(&Geometry { size: 112 << 10, ..geometry.clone() }, &tables, "a drive of 114688");
        let clusters = |cluster_bits| Tables { cluster_bits, ..tables.clone() };
        plan(&geometry, &clusters(14)).unwrap();
        refused(&geometry, &clusters(15), "zone size 16384 is less than a cluster of 32768");
        let blocks = Geometry { block_size: 4096, ..geometry.clone() };
        plan(&blocks, &clusters(12)).unwrap();
        refused(&blocks, &clusters(11), "block size 4096 is more than a cluster of 2048");
        let odd = Geometry { zone_size: 12 << 10, ..geometry };
        refused(&odd, &tables, "power of two");
    }

    #[test]
    fn tables_larger_than_qcow2_allows_are_refused() {
        // With clusters of 512 bytes, refcount tables of 8 MiB end at 128 GiB.
        let plan = |size: u64, cluster_bits, map: &Map| {
            let zone_size = 1 << 22;
            let geometry =
                Geometry { zone_size, zone_capacity: zone_size, ..Geometry::with_size(size) };
            let geometry = Geometry { block_size: 512, ..geometry };
            let geometry = Geometry { zone_size: zone_size.max(size >> 16), ..geometry };
            let tables = Tables { size, cluster_bits, ..sample::tables() };
            Adoption::plan(&geometry, &tables, map)
        };
        let none = Map::default();
        let table: u64 = 128 << 30;
        // All up to there, with what counts and maps it.
        let mut last = None;
        let mut size = table - (3 << 30);
        while let Ok(adoption) = plan(size, 9, &none) {
            (last, size) = (Some(adoption), size + (4 << 20));
        }
        let bytes = last.map(|last| u64::from(last.tables.refcount_table_clusters) * 512);
        assert_eq!(bytes, Some(MAX_REFCOUNT_TABLE));
        for size in [table, 2 * table] {
            let error = plan(size, 9, &none).unwrap_err();
            assert!(error.detail().contains("too large for clusters of 512"), "{error}");
        }
        // Where all of it has clusters already, the L1 table of 32 MiB is the bound.
        let mapped = |size| Map { runs: vec![run(0, 1 << 20, size / 512)], ..Map::default() };
        // 1056 clusters of ours take 17 of its entries, each for 32 KiB.
        let most = table - (17 << 15);
        let adoption = plan(most, 9, &mapped(most)).unwrap();
        assert_eq!(u64::from(adoption.tables.l1_entries) * 8, MAX_L1);
        assert!(plan(most + (1 << 15), 9, &mapped(most + (1 << 15))).is_err());
        // An offset has 56 bits, whatever the cluster.
        assert!(plan(1 << 55, 21, &none).is_ok());
        assert!(plan(1 << 56, 21, &none).is_err());
    }
    /// A drive of 9 MiB in 1100 zones, so that no part is a page and no table a cluster.
    #[test]
    fn parts_of_many_pages_and_tables_of_many_clusters_follow_each_other() {
        let (size, zone_size) = (1100 * 8192, 8192);
        let geometry = Geometry {
            size,
            zone_size,
            zone_capacity: zone_size,
            conventional_zones: 1000,
            max_open_zones: 0,
            max_active_zones: 0,
            ..sample::geometry()
        };
        // Counts of 8 bits in the image as it was; now they have 16.
        let tables = Tables { size, refcount_order: 3, ..sample::tables() };
        let image = Image::adopted(&geometry, &tables, sample::runs());
        let (tables, ours) = (&image.header.tables, image.header.zonal.unwrap());
        assert_eq!(tables.refcount_order, 4);
        // 8800 bytes of zone table are three pages; the session; two copies of two generation pages.
        assert_eq!(image.header.zone_table_offset, 0x3000);
        assert_eq!((ours.sessions_offset, ours.generations_offset), (0x6000, 0x8000));
        // 275 tables for 17600 clusters, two for the 72 clusters of ours.
        assert_eq!((tables.l1_offset, tables.l1_entries), (0xc000, 277));
        // 18054 clusters in 71 blocks, which the table names in two clusters.
        assert_eq!((tables.refcount_table_offset, tables.refcount_table_clusters), (0xd000, 2));
        assert_eq!(image.number(0xd000), 0xe000);
        assert_eq!(image.number(0xc000), COPIED | 0x17000);
        let end = 0x3a000;
        let mapped = 10;
        assert_eq!(tables.file_len, end + (17600 - mapped) * 512);
        assert_eq!(tables.file_clusters().div_ceil(256), 71);
        assert_eq!(image.check(), []);
        let map = image.map().unwrap();
        assert_eq!(map.host(tables, 15999), Some(end + (16000 - 6 - 4 - 1) * 512));
        assert_eq!(map.host(tables, 16000), None);
    }
    #[test]
    fn there_are_as_many_refcount_blocks_as_the_file_needs() {
        // Clusters of a page, an L1 table of two, and every length between two blocks.
        let cluster = 4096;
        for n in 0..2048 {
            let size = (1 << 30) + n * cluster;
            let geometry = Geometry {
                zone_size: 4 << 20,
                zone_capacity: 4 << 20,
                ..Geometry::with_size(size)
            };
            let tables = Tables { size, cluster_bits: 12, ..sample::tables() };
            let map = Map { runs: vec![run(0, cluster, 4)], ..Map::default() };
            let adoption = Adoption::plan(&geometry, &tables, &map).unwrap();
            let tables = &adoption.tables;
            let l1_end = tables.l1_offset + 2 * cluster;
            assert_eq!(tables.refcount_table_offset, l1_end);
            assert_eq!((adoption.blocks, tables.refcount_table_clusters), (l1_end + cluster, 1));
            let blocks = (adoption.l2 - adoption.blocks) / cluster;
            assert_eq!(blocks, adoption.refcount_blocks(), "{n}");
        }
    }
}
