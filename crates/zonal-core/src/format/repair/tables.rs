//! The tables of every qcow2 image: L1, L2, refcounts.

use super::{Mend, MendedList, Patch};
use crate::broken::{Rule, is_broken};
use crate::error::Result;
use crate::format::check::{
    FindingKind, Findings, Ranges, block_pieces, piece_buffer, refcount_blocks, set_count,
    used_clusters, wrong_counts,
};
use crate::format::damaged;
use crate::format::layout::Layout;
use crate::format::map::{Entry, Map, each_entry, entry, entry_at, l1_entry};
use crate::format::qcow2::{COPIED, Tables};
use alloc::{collections::BTreeMap, collections::BTreeSet, format, vec, vec::Vec};

/// Mends entries of the L1 and L2 tables that cannot be, where it is certain what they should be: a
/// place without `COPIED` gets it, since no cluster of an image without snapshots is shared; and an
/// image that still has the layout of its creation has its tables as they were made. All others are
/// left, and keep [`Map::read`] from reading them. `layout` is [`Layout::of`] the header.
///
/// # Errors
/// Those of [`Patch`].
pub fn mend_entries<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    tables: &Tables,
    layout: Option<&Layout>,
    patch: &mut Patch<R>,
) -> Result<MendedList> {
    let mut mended = MendedList::default();
    let mut l1 = vec![0; tables.l1_entries as usize * 8];
    patch.read(tables.l1_offset, &mut l1)?;
    let regions = tables.regions();
    let mut all_l2 = Vec::new();
    for index in 0..u64::from(tables.l1_entries) {
        let (old, place) = (entry_at(&l1, index)?, tables.l1_offset + index * 8);
        if let Ok(table) = l1_entry(tables, &regions, old, place) {
            all_l2.push(table);
            continue;
        }
        let made = layout.and_then(|layout| layout.l1_entry_at(place));
        for (mend, new) in candidates(old, made) {
            if let Ok(table @ 1..) = l1_entry(tables, &regions, new, place) {
                mended.add(mend, place, 8);
                patch.write(place, &new.to_be_bytes())?;
                all_l2.push(table);
                break;
            }
        }
    }
    all_l2.retain(|table| *table != 0);
    all_l2.sort_unstable();
    if all_l2.windows(2).any(|pair| pair[0] == pair[1]) {
        // Nothing is certain of a table that two entries name; the map refuses it.
        return Ok(mended);
    }
    for l2 in all_l2 {
        let mut wrong = Vec::new();
        each_entry(
            l2,
            0..tables.l2_entries(),
            &mut |at, bytes| patch.read(at, bytes),
            |i, old| {
                let place = l2 + i * 8;
                if entry(tables, old, place).is_err() {
                    wrong.push((place, old));
                }
                Ok(())
            },
        )?;
        for (place, old) in wrong {
            let made = layout.and_then(|layout| layout.l2_entry_at(place));
            for (mend, new) in candidates(old, made) {
                if let Ok(Entry::Data(_) | Entry::Zeroed(_)) = entry(tables, new, place) {
                    let new = if is_broken(Rule::RepairKeepsMapped) { 0 } else { new };
                    mended.add(mend, place, 8);
                    patch.write(place, &new.to_be_bytes())?;
                    break;
                }
            }
        }
    }
    Ok(mended)
}

/// What an entry that cannot be may have been, the likelier first.
fn candidates(old: u64, made: Option<u64>) -> impl Iterator<Item = (Mend, u64)> {
    let made = made.map(|made| (Mend::EntryAsMade, made));
    [Some((Mend::Flag, old | COPIED)), made].into_iter().flatten()
}

/// Counts the references again, and puts right what differs: too low counts and missing refcount
/// blocks first, then the table that names the blocks, then too high counts and leaks. With `free`
/// false what is counted and not used is left alone: for an image with a header extension that is not
/// known, whose clusters look unused.
///
/// Returns what is mended. New blocks go behind the end of the file.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) where two parts share a cluster, and nothing
/// can be counted, or where the refcount table has no room; those of [`Patch`].
pub fn mend_refcounts<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    tables: &Tables,
    map: &Map,
    free: bool,
    patch: &mut Patch<R>,
) -> Result<MendedList> {
    let mut mended = MendedList::default();
    let mut blocks = Blocks::find(tables, map, &mut mended, patch)?;
    blocks.add_missing(tables, patch)?;
    let cluster = tables.cluster_size();
    let per_block = tables.refcounts();
    let mut bytes = piece_buffer(tables);
    patch.step();
    let mut lower = Vec::new();
    let places = blocks.places.iter();
    let pieces = places.flat_map(|(index, at)| block_pieces(tables, *at, index * per_block));
    for (place, first) in pieces {
        patch.read(place, &mut bytes)?;
        let (mut raise, mut lowers) = (Vec::new(), false);
        for (i, count, used) in wrong_counts(tables, &bytes, first, &blocks.used) {
            let kind = match (count, used) {
                (0, _) => FindingKind::Unreferenced,
                (_, true) => FindingKind::CountedTwice,
                (_, false) => FindingKind::Leak,
            };
            let number = first + i;
            match kind {
                FindingKind::Unreferenced => {
                    raise.push(i);
                    // That the new blocks themselves are counted goes without saying.
                    if number >= blocks.appended_from {
                        continue;
                    }
                }
                _ if free => lowers = true,
                _ => continue,
            }
            mended.add(Mend::Count(kind), number * cluster, cluster);
        }
        for &i in &raise {
            set_count(&mut bytes, tables.refcount_order, i, true);
        }
        if !raise.is_empty() {
            patch.write(place, &bytes)?;
        }
        if lowers {
            lower.push((place, first));
        }
    }
    patch.step();
    for (place, block) in &blocks.entries {
        patch.write(*place, &block.to_be_bytes())?;
    }
    patch.step();
    for (place, first) in lower {
        patch.read(place, &mut bytes)?;
        let wrong: Vec<_> = wrong_counts(tables, &bytes, first, &blocks.used).collect();
        for (i, _, used) in wrong {
            set_count(&mut bytes, tables.refcount_order, i, used);
        }
        patch.write(place, &bytes)?;
    }
    Ok(mended)
}

/// The refcount blocks as they should be.
struct Blocks {
    /// By number.
    places: BTreeMap<u64, u64>,
    /// Those that are new.
    new: BTreeSet<u64>,
    /// Entries of the refcount table that change: (place in the file, what becomes of them).
    entries: BTreeMap<u64, u64>,
    /// All clusters in use, the blocks' own among them.
    used: Ranges,
    /// The first cluster behind the file.
    appended_from: u64,
}

impl Blocks {
    fn find<R: FnMut(u64, &mut [u8]) -> Result<()>>(
        tables: &Tables,
        map: &Map,
        mended: &mut MendedList,
        patch: &mut Patch<R>,
    ) -> Result<Self> {
        let cluster = tables.cluster_size();
        let mut l1 = vec![0; tables.l1_entries as usize * 8];
        patch.read(tables.l1_offset, &mut l1)?;
        let mut bad = Findings::default();
        let named = refcount_blocks(tables, &mut bad, &mut |at, bytes| patch.read(at, bytes))?;
        let mut entries = BTreeMap::new();
        for finding in &bad.0 {
            mended.add(Mend::Count(finding.kind), finding.offset, finding.length);
            // Neighbouring entries are one finding.
            for place in (finding.offset..finding.offset + finding.length).step_by(8) {
                entries.insert(place, 0);
            }
            if finding.kind == FindingKind::More {
                let detail = "its refcount table names hardly anything that is there";
                return Err(damaged(tables.refcount_table_offset, cluster, detail));
            }
        }
        let mut overlaps = Findings::default();
        let mut used = used_clusters(tables, &l1, map, &[], &mut overlaps, &mut |at, bytes| {
            patch.read(at, bytes)
        })?;
        if let Some(overlap) = overlaps.0.first() {
            return Err(damaged(overlap.offset, overlap.length, format!("{}", overlap.kind)));
        }
        let mut places = BTreeMap::new();
        let mut counting = Vec::new();
        for (index, offset) in named {
            // Counts that lie in something else are none, and nobody may write them there.
            if used.contain(offset / cluster) {
                let place = tables.refcount_table_offset + index * 8;
                mended.add(Mend::Count(FindingKind::BadRefcountBlock), place, 8);
                entries.insert(place, 0);
            } else {
                places.insert(index, offset);
                counting.push(offset / cluster);
            }
        }
        for number in counting {
            used.add(number, 1)?;
        }
        used.settle(cluster, &mut overlaps);
        let appended_from = tables.file_clusters();
        Ok(Self { places, new: BTreeSet::new(), entries, used, appended_from })
    }

    /// Gives a new block to every part of the file that has clusters in use and none to count them.
    fn add_missing<R: FnMut(u64, &mut [u8]) -> Result<()>>(
        &mut self,
        tables: &Tables,
        patch: &mut Patch<R>,
    ) -> Result<()> {
        let (cluster, per_block) = (tables.cluster_size(), tables.refcounts());
        let mut missing: BTreeSet<u64> = BTreeSet::new();
        for &(start, end) in &self.used.0 {
            missing.extend(start / per_block..=(end - 1) / per_block);
        }
        missing.retain(|index| !self.places.contains_key(index));
        let room = u64::from(tables.refcount_table_clusters) * tables.l2_entries();
        let mut next = self.appended_from;
        while let Some(index) = missing.pop_first() {
            let place = tables.refcount_table_offset + index * 8;
            if index >= room {
                let detail = "the refcount table has no room for all of the file; copy what can be \
                              read with `zonal dump`";
                return Err(damaged(tables.refcount_table_offset, room * 8, detail));
            }
            self.places.insert(index, next * cluster);
            self.new.insert(index);
            self.entries.insert(place, next * cluster);
            self.used.add(next, 1)?;
            if !self.places.contains_key(&(next / per_block)) {
                missing.insert(next / per_block);
            }
            next += 1;
        }
        if next > self.appended_from {
            patch.grow(next * cluster);
            self.used.settle(cluster, &mut Findings::default());
        }
        Ok(())
    }
}
