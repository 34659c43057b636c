//! Giving a zone of a scattered image the clusters it is missing, before its first write.
//!
//! Invariants:
//! * one zone at a time: whoever gives clusters has the turn, so that nobody else changes refcounts or
//!   L2 tables, and a page of them is never written from two sides;
//! * clusters are counted, durably, before an L2 entry names them: a power cut in between loses space
//!   until the image is opened again, and nothing else;
//! * clusters that were taken are not given back while the image is open: an L2 entry whose write
//!   failed may name them.

use super::mapping::Scattered;
use crate::sync::{Mutex, lock};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::format::check::{Space, count_once};
use zonal_core::format::map::{Map, Run};
use zonal_core::format::qcow2::{COPIED, Tables};
use zonal_core::units::ZoneIndex;

/// Tables are changed in pages of this size, or in clusters where they are smaller.
const PAGE: u64 = 4096;
/// Neighbouring pages are read and written together up to this many bytes.
const SPAN: u64 = 256 << 10;
/// So many clusters at most are counted and entered at a time.
const CLUSTERS_AT_ONCE: u64 = 1 << 16;

/// What gives clusters to zones.
pub(crate) struct Clusters {
    tables: Tables,
    blocks: Vec<u64>,
    l2: Vec<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: bool,
    waiting: Vec<Waker>,
    /// (first cluster, how many), ascending.
    free: Vec<(u64, u64)>,
    /// Zones of which L2 entries were written, or may have been.
    named: BTreeSet<ZoneIndex>,
}

/// The right to change refcounts and L2 tables, given back when dropped.
pub(crate) struct Turn<'a>(&'a Clusters);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.taken = false;
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }
}

/// A change of one page.
enum Change {
    /// The refcount of that number becomes 1.
    Count(u64),
    /// The entry at that byte becomes this.
    Entry(usize, u64),
}

/// Neighbouring pages, and what changes in them.
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) length: usize,
    unit: usize,
    order: u32,
    /// By page of the span.
    changes: Vec<(usize, Change)>,
}

impl Span {
    /// Makes the changes in the span's bytes.
    pub(crate) fn apply(&self, bytes: &mut [u8]) {
        for (page, change) in &self.changes {
            let Some(page) = bytes.chunks_exact_mut(self.unit).nth(*page) else { continue };
            match change {
                Change::Count(index) => count_once(page, self.order, *index),
                Change::Entry(at, entry) => page[*at..at + 8].copy_from_slice(&entry.to_be_bytes()),
            }
        }
    }
}

/// Clusters for a part of a zone: first all counts, then all entries.
pub(crate) struct Grant {
    pub(crate) runs: Vec<Run>,
    pub(crate) counts: Vec<Span>,
    pub(crate) entries: Vec<Span>,
}

impl Clusters {
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an image whose tables somebody else would have to complete.
    pub(super) fn new(tables: &Tables, map: &Map, space: Space) -> Result<Self> {
        if map.l2.contains(&0) || !map.zeroed.is_empty() {
            let text = "its L2 tables are not as `zonal adopt` leaves them; open it read-only, and \
                        copy its zones into another image";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let state = State { free: space.free, ..State::default() };
        let tables = tables.clone();
        Ok(Self { tables, blocks: space.blocks, l2: map.l2.clone(), state: Mutex::new(state) })
    }

    /// Waits for the turn.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.taken {
                state.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            state.taken = true;
            Poll::Ready(Turn(self))
        })
        .await
    }

    /// From here on the L2 table on the disk may name clusters of a zone, also where it is not known to
    /// have them.
    pub(crate) fn names(&self, zone: ZoneIndex) {
        lock(&self.state).named.insert(zone);
    }

    /// Whether it may; then they show when the image is opened again.
    pub(crate) fn may_name(&self, zone: ZoneIndex) -> bool {
        lock(&self.state).named.contains(&zone)
    }

    /// Takes clusters for what a zone is missing. In several grants where the zone is large, so that
    /// what is written at once is bounded; all of them side by side where there is room.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] when the image has none left.
    pub(crate) fn grants(
        &self,
        scattered: &Scattered,
        geometry: &Geometry,
        zone: ZoneIndex,
    ) -> Result<impl Iterator<Item = Grant> + '_> {
        let missing = scattered.missing(geometry, zone);
        let wanted = missing.iter().map(|run| run.clusters).sum();
        let found = lock(&self.state).take(wanted).ok_or_else(|| {
            let text = format!("no {wanted} clusters are left in it; copy it into another image");
            Error::new(ErrorKind::NoSpace, text)
        })?;
        let runs = place(&missing, &found, self.tables.cluster_size());
        Ok(in_parts(&runs, self.tables.cluster_size()).into_iter().map(|runs| self.grant(runs)))
    }

    fn grant(&self, runs: Vec<Run>) -> Grant {
        let (mut counts, mut entries) = (BTreeMap::new(), BTreeMap::new());
        for run in &runs {
            for n in 0..run.clusters {
                let host = run.host + n * self.tables.cluster_size();
                self.count(host, &mut counts);
                self.enter(run.guest + n, host, &mut entries);
            }
        }
        Grant { runs, counts: self.spans(counts), entries: self.spans(entries) }
    }

    fn unit(&self) -> u64 {
        self.tables.cluster_size().min(PAGE)
    }

    fn count(&self, host: u64, pages: &mut BTreeMap<u64, Vec<Change>>) {
        let (per_block, unit) = (self.tables.refcounts(), self.unit());
        let per_page = (unit * 8) >> self.tables.refcount_order;
        let number = host / self.tables.cluster_size();
        let index = number % per_block;
        let page = self.blocks[near(number / per_block)] + index / per_page * unit;
        pages.entry(page).or_default().push(Change::Count(index % per_page));
    }

    fn enter(&self, guest: u64, host: u64, pages: &mut BTreeMap<u64, Vec<Change>>) {
        let (per_table, unit) = (self.tables.l2_entries(), self.unit());
        let at = guest % per_table * 8;
        let page = self.l2[near(guest / per_table)] + at / unit * unit;
        pages.entry(page).or_default().push(Change::Entry(near(at % unit), host | COPIED));
    }

    fn spans(&self, pages: BTreeMap<u64, Vec<Change>>) -> Vec<Span> {
        let (unit, order) = (near(self.unit()), self.tables.refcount_order);
        let mut spans: Vec<Span> = Vec::new();
        for (offset, changes) in pages {
            let joins = |span: &&mut Span| {
                span.offset + span.length as u64 == offset && (span.length as u64) < SPAN
            };
            let span = match spans.last_mut().filter(joins) {
                Some(span) => span,
                None => {
                    spans.push(Span { offset, length: 0, unit, order, changes: Vec::new() });
                    spans.last_mut().expect("one was pushed")
                }
            };
            let page = span.length / unit;
            span.length += unit;
            span.changes.extend(changes.into_iter().map(|change| (page, change)));
        }
        spans
    }
}

impl State {
    /// Takes so many clusters: side by side where that can be, else the largest pieces first.
    fn take(&mut self, wanted: u64) -> Option<Vec<(u64, u64)>> {
        if let Some(range) = self.free.iter_mut().find(|range| range.1 >= wanted) {
            let taken = (range.0, wanted);
            *range = (range.0 + wanted, range.1 - wanted);
            return Some(vec![taken]);
        }
        if self.free.iter().map(|range| range.1).sum::<u64>() < wanted {
            return None;
        }
        self.free.sort_unstable_by_key(|range| std::cmp::Reverse(range.1));
        let (mut left, mut taken) = (wanted, Vec::new());
        for range in &mut self.free {
            let count = range.1.min(left);
            if count > 0 {
                taken.push((range.0, count));
                (*range, left) = ((range.0 + count, range.1 - count), left - count);
            }
        }
        self.free.retain(|range| range.1 > 0);
        self.free.sort_unstable();
        Some(taken)
    }
}

/// Lays clusters of the drive onto as many of the file.
fn place(missing: &[Run], found: &[(u64, u64)], cluster: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut found = found.iter().copied();
    let mut room = (0, 0);
    for &Run { mut guest, mut clusters, .. } in missing {
        while clusters > 0 {
            if room.1 == 0 {
                let Some(next) = found.next() else { return runs };
                room = next;
            }
            let count = clusters.min(room.1);
            runs.push(Run { guest, host: room.0 * cluster, clusters: count });
            room = (room.0 + count, room.1 - count);
            (guest, clusters) = (guest + count, clusters - count);
        }
    }
    runs
}

/// Runs in groups of at most [`CLUSTERS_AT_ONCE`] clusters.
fn in_parts(runs: &[Run], cluster: u64) -> Vec<Vec<Run>> {
    let mut parts = vec![Vec::new()];
    let mut room = CLUSTERS_AT_ONCE;
    for run in runs {
        let mut done = 0;
        while done < run.clusters {
            if room == 0 {
                parts.push(Vec::new());
                room = CLUSTERS_AT_ONCE;
            }
            let clusters = (run.clusters - done).min(room);
            let part = Run { guest: run.guest + done, host: run.host + done * cluster, clusters };
            parts.last_mut().expect("there is one").push(part);
            (done, room) = (done + clusters, room - clusters);
        }
    }
    parts
}

/// A number that fits memory, as the tables it counts in are there.
#[allow(clippy::cast_possible_truncation)]
const fn near(number: u64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_lie_side_by_side_where_there_is_room() {
        let mut state = State { free: vec![(10, 2), (20, 8), (40, 3)], ..State::default() };
        assert_eq!(state.take(3), Some(vec![(20, 3)]));
        assert_eq!(state.take(2), Some(vec![(10, 2)]));
        assert_eq!(state.take(7), Some(vec![(23, 5), (40, 2)]));
        assert_eq!(state.take(2), None, "and nothing was taken for it");
        assert_eq!(state.take(1), Some(vec![(42, 1)]));
        assert_eq!(state.take(1), None);
    }

    #[test]
    fn holes_get_the_clusters_that_were_found_for_them() {
        let hole = |guest, clusters| Run { guest, host: 0, clusters };
        let runs = place(&[hole(0, 3), hole(9, 2)], &[(100, 2), (200, 3)], 512);
        let places: Vec<_> = runs.iter().map(|r| (r.guest, r.host / 512, r.clusters)).collect();
        assert_eq!(places, [(0, 100, 2), (2, 200, 1), (9, 201, 2)]);
        let long = Run { guest: 5, host: 512, clusters: CLUSTERS_AT_ONCE + 1 };
        let parts = in_parts(&[long], 512);
        assert_eq!(parts.len(), 2);
        let rest =
            Run { guest: 5 + CLUSTERS_AT_ONCE, host: 512 * (1 + CLUSTERS_AT_ONCE), clusters: 1 };
        assert_eq!(parts[1], [rest]);
    }

    #[test]
    fn neighbouring_pages_are_one_span_and_change_where_they_should() {
        let tables = |cluster_bits| {
            let header = zonal_core::format::layout::Layout::plan(&Geometry::with_size(1 << 30));
            let mut tables = header.unwrap().header([1; 16]).tables;
            tables.cluster_bits = cluster_bits;
            tables
        };
        // Clusters of 512 bytes: a block counts 256, a table has 64 entries.
        let clusters = Clusters {
            tables: tables(9),
            blocks: vec![0, 512, 8192],
            l2: vec![1024, 2048],
            state: Mutex::default(),
        };
        let grant = clusters.grant(vec![Run { guest: 62, host: 255 * 512, clusters: 3 }]);
        let places = |spans: &[Span]| {
            spans.iter().map(|span| (span.offset, span.length)).collect::<Vec<_>>()
        };
        assert_eq!(places(&grant.counts), [(0, 1024)]);
        assert_eq!(places(&grant.entries), [(1024, 512), (2048, 512)]);
        let mut bytes = [0; 1024];
        grant.counts[0].apply(&mut bytes);
        let counted: Vec<_> = (0..1024).filter(|&at| bytes[at] != 0).collect();
        assert_eq!(counted, [511, 513, 515]);
        let mut bytes = [0; 512];
        grant.entries[1].apply(&mut bytes);
        assert_eq!(bytes[..8], ((257 * 512) | COPIED).to_be_bytes());
    }
}
