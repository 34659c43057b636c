//! Where in the file each cluster of the drive is, read from the L1 and L2 tables.
//!
//! Tables are read through a closure, a piece at a time, so that memory grows with the number of
//! pieces the data is in and not with the drive. Invariants of a [`Map`]: runs ascend on the drive
//! and do not touch where they could be one; no two of them, and no table, share a cluster of the
//! file; each starts inside the file. An image in which that is not so is damaged.

use super::qcow2::{COMPRESSED, COPIED, MAX_L1, OFFSET, Region, Tables, ZERO};
use super::{be64, damaged, unsupported};
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, string::String, vec, vec::Vec};
use core::ops::Range;

/// Most pieces an image's data may be in: 4 million take 96 MiB, and are 256 GiB of which no two
/// clusters of 64 KiB lie side by side.
pub const MAX_RUNS: usize = 1 << 22;
/// Tables are read in pieces of so many bytes: of a small drive hardly one is not zeros, and memory for
/// whole tables would cost more than looking at them.
pub(super) const TABLE_PIECE: u64 = 64 << 10;
/// Bits of an L1 entry that must be 0.
const L1_RESERVED: u64 = !(COPIED | OFFSET);
/// Bits of an uncompressed L2 entry that must be 0.
const L2_RESERVED: u64 = !(COPIED | OFFSET | ZERO);

const _: () = assert!(MAX_L1 / 8 <= MAX_RUNS as u64);

/// Clusters that lie side by side, on the drive and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first one's number on the drive.
    pub guest: u64,
    /// Where the first one is in the file, in bytes.
    pub host: u64,
    /// How many.
    pub clusters: u64,
}

/// Where the drive's clusters are. What no run covers reads as zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// The data.
    pub runs: Vec<Run>,
    /// Where the L2 tables of the drive are, 0 for none.
    pub l2: Vec<u64>,
    /// Where clusters are that are marked zero and have a place all the same.
    pub zeroed: Vec<u64>,
}

impl Map {
    /// Reads the map of the drive. `l1` is the L1 table's bytes; `read` fills a buffer of up to one
    /// cluster from an offset in the file.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for compressed clusters, and for data in more than [`MAX_RUNS`]
    /// pieces; [`ErrorKind::Damaged`] when a table cannot be, with its place. What `read` fails with.
    pub fn read(
        tables: &Tables,
        l1: &[u8],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let mut map = Self::default();
        let mut all_l2 = Vec::new();
        for (index, l2) in l2_tables(tables, l1).enumerate() {
            let l2 = l2?;
            if l2 != 0 {
                all_l2.push(l2);
            }
            if (index as u64) < tables.l1_entries_needed() {
                map.l2.push(l2);
            }
        }
        refuse_shared_tables(tables, &mut all_l2)?;
        for (index, l2) in (0..).zip(map.l2.clone()) {
            if l2 != 0 {
                map.read_table(tables, index, l2, &mut read)?;
            }
        }
        map.refuse_overlaps(tables, &all_l2)?;
        Ok(map)
    }

    fn read_table(
        &mut self,
        tables: &Tables,
        index: u64,
        l2: u64,
        read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let first = index * tables.l2_entries();
        let count = tables.l2_entries().min(tables.data_clusters() - first);
        each_entry(l2, 0..count, read, |i, value| match entry(tables, value, l2 + i * 8)? {
            Entry::Hole => Ok(()),
            Entry::Zeroed(host) => bounded(&mut self.zeroed, host),
            Entry::Data(host) => self.add(tables, first + i, host),
        })
    }

    fn add(&mut self, tables: &Tables, guest: u64, host: u64) -> Result<()> {
        match self.runs.last_mut() {
            Some(last)
                if last.guest + last.clusters == guest
                    && last.host + last.clusters * tables.cluster_size() == host =>
            {
                last.clusters += 1;
                Ok(())
            }
            _ => bounded(&mut self.runs, Run { guest, host, clusters: 1 }),
        }
    }

    /// Refuses clusters that two parts of the image use.
    fn refuse_overlaps(&self, tables: &Tables, all_l2: &[u64]) -> Result<()> {
        let cluster = tables.cluster_size();
        let regions = tables.regions();
        let parts = regions.iter().map(|region| (region.offset, region.length, region.name));
        let l2 = all_l2.iter().map(|&l2| (l2, cluster, "an L2 table"));
        let zeroed = self.zeroed.iter().map(|&host| (host, cluster, "a cluster marked zero"));
        let data = self.runs.iter().map(|run| (run.host, run.clusters * cluster, "the data"));
        let mut parts: Vec<_> = parts.chain(l2).chain(zeroed).chain(data).collect();
        parts.sort_unstable();
        for pair in parts.windows(2) {
            let ((offset, length, name), (next, next_length, next_name)) = (pair[0], pair[1]);
            if next < offset + length {
                let detail = if next_name == name {
                    format!("{name} uses a cluster twice")
                } else {
                    format!("{next_name} lies in {name}")
                };
                return Err(damaged(next, next_length, detail));
            }
        }
        Ok(())
    }

    /// Refuses a file that ends before its data does. QEMU's own may end inside their last cluster.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], with the place of the data.
    pub fn refuse_cut(&self, tables: &Tables) -> Result<()> {
        let cluster = tables.cluster_size();
        for run in &self.runs {
            let drive_end = (run.guest + run.clusters).saturating_mul(cluster).min(tables.size);
            let length = drive_end - run.guest * cluster;
            if run.host + length > tables.file_len {
                let detail = format!(
                    "the data ends past the file's {} bytes; it was cut short",
                    tables.file_len
                );
                return Err(damaged(run.host, length, detail));
            }
        }
        Ok(())
    }

    /// The data's offset in the file, if all of it is there and in one piece.
    #[must_use]
    pub fn contiguous(&self, tables: &Tables) -> Option<u64> {
        match self.runs[..] {
            [Run { guest: 0, host, clusters }] if clusters == tables.data_clusters() => Some(host),
            _ => None,
        }
    }

    /// Where a cluster of the drive is in the file.
    #[must_use]
    pub fn host(&self, tables: &Tables, guest: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.guest <= guest);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let within = guest - run.guest;
        (within < run.clusters).then(|| run.host + within * tables.cluster_size())
    }

    /// The parts of runs that lie in [`from`, `to`) on the drive.
    pub fn within(&self, tables: &Tables, from: u64, to: u64) -> impl Iterator<Item = Run> + '_ {
        let cluster = tables.cluster_size();
        let first = self.runs.partition_point(|run| run.guest + run.clusters <= from);
        self.runs[first..].iter().take_while(move |run| run.guest < to).map(move |run| {
            let guest = run.guest.max(from);
            let end = (run.guest + run.clusters).min(to);
            Run { guest, host: run.host + (guest - run.guest) * cluster, clusters: end - guest }
        })
    }
}

/// Adds to a list that a hostile image may want to be long.
fn bounded<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    if list.len() >= MAX_RUNS {
        let detail = format!("the data is in more than {MAX_RUNS} pieces; copy it with qemu-img");
        return Err(Error::new(ErrorKind::Unsupported, detail));
    }
    list.push(item);
    Ok(())
}

/// Where the entries of an L2 table say that a cluster is.
pub(super) enum Entry {
    /// Nowhere: it reads as zeros.
    Hole,
    /// It reads as zeros, and has a cluster of the file.
    Zeroed(u64),
    /// Here.
    Data(u64),
}

/// An L2 entry that stands at `place` in the file.
pub(super) fn entry(tables: &Tables, entry: u64, place: u64) -> Result<Entry> {
    if entry & COMPRESSED != 0 {
        let detail = "a compressed cluster; copy the image with `qemu-img convert` first";
        return Err(unsupported(place, 8, detail));
    }
    let host = entry & OFFSET;
    let misfit = if host == 0 { entry & COPIED != 0 } else { entry & COPIED == 0 };
    if entry & L2_RESERVED != 0 || misfit {
        return Err(damaged(place, 8, format!("L2 entry {entry:#x} cannot be")));
    }
    if host == 0 {
        return Ok(Entry::Hole);
    }
    check_cluster(tables, host, place)?;
    Ok(if entry & ZERO == 0 { Entry::Data(host) } else { Entry::Zeroed(host) })
}

/// Reads these entries of the table at `table`, and gives each that is not 0, with its number.
pub(super) fn each_entry(
    table: u64,
    entries: Range<u64>,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
    mut each: impl FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let length = |entries: u64| usize::try_from(entries * 8).unwrap_or(0);
    let at_once = TABLE_PIECE / 8;
    let mut bytes = vec![0; length(at_once.min(entries.end.saturating_sub(entries.start)))];
    let mut first = entries.start;
    while first < entries.end {
        let count = at_once.min(entries.end - first);
        let piece = bytes.get_mut(..length(count)).unwrap_or_default();
        read(table + first * 8, piece)?;
        for (index, eight) in (first..).step_by(8).zip(piece.chunks(64)) {
            if is_zeros(eight) {
                continue;
            }
            for (index, value) in (index..).zip(eight.as_chunks::<8>().0) {
                if *value != [0; 8] {
                    each(index, u64::from_be_bytes(*value))?;
                }
            }
        }
        first += count;
    }
    Ok(())
}

/// Whether all bytes are 0. All are looked at, several at a time: nearly always they are.
#[inline]
pub(super) fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

pub(super) fn entry_at(table: &[u8], index: u64) -> Result<u64> {
    usize::try_from(index)
        .ok()
        .and_then(|index| be64(table, index))
        .ok_or_else(|| Error::new(ErrorKind::Damaged, "a table shorter than its header says"))
}

/// The offsets of the L2 tables that the L1 table names, 0 for none; each checked.
pub(super) fn l2_tables<'a>(
    tables: &'a Tables,
    l1: &'a [u8],
) -> impl Iterator<Item = Result<u64>> + 'a {
    let regions = tables.regions();
    (0..u64::from(tables.l1_entries)).map(move |index| {
        l1_entry(tables, &regions, entry_at(l1, index)?, tables.l1_offset + index * 8)
    })
}

/// The L2 table that an L1 entry at `place` names, 0 for none. `regions` are those of `tables`.
pub(super) fn l1_entry(tables: &Tables, regions: &[Region], entry: u64, place: u64) -> Result<u64> {
    if entry == 0 {
        return Ok(0);
    }
    let table = entry & OFFSET;
    if entry & L1_RESERVED != 0 || entry & COPIED == 0 || table == 0 {
        return Err(damaged(place, 8, format!("L1 entry {entry:#x} cannot be")));
    }
    check_cluster(tables, table, place)?;
    for region in regions {
        if region.overlaps(table, tables.cluster_size()) {
            let detail = format!("an L2 table at {table} lies in {}", region.name);
            return Err(damaged(place, 8, detail));
        }
    }
    Ok(table)
}

/// Before they are read: a table that stands for many would make a small file take long.
fn refuse_shared_tables(tables: &Tables, all_l2: &mut [u64]) -> Result<()> {
    all_l2.sort_unstable();
    match all_l2.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let detail: String = "two L1 entries name one L2 table".into();
            Err(damaged(pair[0], tables.cluster_size(), detail))
        }
    }
}

/// A cluster an entry at `place` names: aligned, and starting inside the file.
fn check_cluster(tables: &Tables, cluster: u64, place: u64) -> Result<()> {
    if cluster.is_multiple_of(tables.cluster_size()) && cluster < tables.file_len {
        return Ok(());
    }
    let detail = format!(
        "a cluster at {cluster}, in clusters of {} and a file of {} bytes",
        tables.cluster_size(),
        tables.file_len
    );
    Err(damaged(place, 8, detail))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, Image};
    use super::*;

    const L1: u64 = 0x8000;
    const L2: u64 = 0xb000;

    /// What an image with this entry at this place is refused with.
    fn refused(place: u64, number: u64) -> Error {
        let mut image = Image::new();
        image.set(place, number);
        image.map().unwrap_err()
    }

    #[test]
    fn an_entry_that_cannot_be_is_named_by_its_place() {
        let tables = sample::tables();
        let place = L2 + 8 * 13;
        for (number, words) in [
            (COPIED | 0xa00 | 2, "cannot be"),
            (0xa00, "cannot be"),
            (COPIED, "cannot be"),
            (COPIED | 1 << 56 | 0xa00, "cannot be"),
            (COPIED | 0x2800, "a cluster at 10240, in clusters of 512 and a file of 10240 bytes"),
        ] {
            let error = entry(&tables, number, place).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.detail().contains(words), "{error}");
            assert_eq!((error.context().offset, error.context().length), (Some(place), Some(8)));
        }
        let bigger = Tables { cluster_bits: 10, ..tables.clone() };
        assert!(entry(&bigger, COPIED | 0xa00, place).is_err(), "inside a cluster");
        assert!(matches!(entry(&tables, COPIED | 0x2600, place), Ok(Entry::Data(0x2600))));
        assert!(matches!(entry(&tables, COPIED | 0xa00 | ZERO, place), Ok(Entry::Zeroed(0xa00))));
        assert!(matches!(entry(&tables, 0, place), Ok(Entry::Hole)));
        assert!(matches!(entry(&tables, ZERO, place), Ok(Entry::Hole)));
        // In each table of the drive, the right place.
        for (index, l2) in [(0, 0xb000), (3, 0xb600)] {
            let error = refused(l2 + 8 * (60 + index), 2);
            assert_eq!(error.context().offset, Some(l2 + 8 * (60 + index)));
        }
        assert_eq!(refused(L1 + 8 * 4, 2).context().offset, Some(L1 + 8 * 4));
    }

    #[test]
    fn a_cluster_of_two_parts_is_named_with_both() {
        // In the image's first table: the zone table, data, another table.
        for (host, words) in [
            (0x3200, "the data lies in the zone table"),
            (0x1a00, "the data uses a cluster twice"),
            (0xb200, "an L2 table"),
        ] {
            let error = refused(L2 + 8 * 40, COPIED | host);
            assert_eq!((error.kind(), error.context().offset), (ErrorKind::Damaged, Some(host)));
            assert!(error.detail().contains(words), "{error}");
        }
        let error = refused(L2 + 8 * 40, COPIED | 0xa00 | ZERO);
        assert!(error.detail().contains("a cluster marked zero"), "{error}");
        assert!(refused(L1 + 8, COPIED | L2).detail().contains("name one L2 table"));
        let error = refused(L1 + 8, COPIED | 0x9000);
        assert!(error.detail().contains("lies in the refcount table"), "{error}");
        assert_eq!(error.context().offset, Some(L1 + 8));
    }

    #[test]
    fn a_map_says_where_each_cluster_is() {
        let image = Image::new();
        let (map, tables) = (image.map().unwrap(), &image.header.tables);
        let hosts = [0, 3, 4, 9, 10, 11, 12, 31, 32, 35, 36, 255].map(|n| map.host(tables, n));
        let room = 0xc000;
        let expected = [
            Some(0xa00),
            Some(0x1000),
            Some(room),
            Some(room + 5 * 512),
            Some(0x1400),
            Some(0x1600),
            Some(room + 6 * 512),
            Some(room + 25 * 512),
            Some(0x1a00),
            Some(0x2000),
            None,
            None,
        ];
        assert_eq!(hosts, expected);
        assert_eq!(Map::default().host(tables, 0), None);
        let run = |guest, host, clusters| Run { guest, host, clusters };
        let within = |from, to| map.within(tables, from, to).collect::<Vec<_>>();
        assert_eq!(within(2, 5), [run(2, 0xe00, 2), run(4, room, 1)]);
        assert_eq!(within(4, 10), [run(4, room, 6)]);
        assert_eq!(within(36, 256), []);
        assert_eq!(within(33, 256), [run(33, 0x1c00, 3)]);
    }

    #[test]
    fn only_data_of_one_piece_that_is_all_there_is_contiguous() {
        let tables = sample::tables();
        let map = |guest, clusters| Map {
            runs: alloc::vec![Run { guest, host: 0x600, clusters }],
            ..Map::default()
        };
        assert_eq!(map(0, 256).contiguous(&tables), Some(0x600));
        assert_eq!(map(0, 255).contiguous(&tables), None);
        assert_eq!(map(1, 256).contiguous(&tables), None);
    }

    #[test]
    fn a_file_may_end_where_the_drive_does_and_not_before() {
        let map = |guest, host, clusters| Map {
            runs: alloc::vec![Run { guest, host, clusters }],
            ..Map::default()
        };
        let mut tables = sample::tables();
        tables.size -= 100;
        // The last cluster of the drive is not a whole one: 412 bytes.
        for (guest, host, clusters, length) in
            [(250, 4096, 6, 6 * 512 - 100), (250, 4096, 5, 5 * 512), (0, 512, 2, 1024)]
        {
            let map = map(guest, host, clusters);
            tables.file_len = host + length;
            map.refuse_cut(&tables).unwrap();
            tables.file_len -= 1;
            let error = map.refuse_cut(&tables).unwrap_err();
            let context = error.context();
            assert_eq!((context.offset, context.length), (Some(host), Some(length)));
        }
    }

    #[test]
    fn the_last_table_is_read_as_far_as_the_drive_goes() {
        let mut image = Image::new();
        // A drive of 200 clusters: what its last table has past its end is no data.
        image.header.tables.size = 200 * 512;
        image.set(0xb600 + 8 * 8, 2);
        assert_eq!(image.map().unwrap().l2.len(), 4);
        image.set(0xb600 + 8 * 7, 2);
        assert_eq!(image.map().unwrap_err().context().offset, Some(0xb600 + 8 * 7));
    }

    #[test]
    fn a_table_shorter_than_its_header_says_is_damage() {
        let image = Image::new();
        let l1 = image.l1();
        let read = |offset, buffer: &mut [u8]| image.read(offset, buffer);
        let error = Map::read(&image.header.tables, &l1[..39], read).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }
}
