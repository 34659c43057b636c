//! What a simulated disk holds: what is durable, and what is only in its cache.
//!
//! Each sector has one durable content and, in order of completion, the contents written since.
//! Reads see the newest. A sync makes the newest durable that completed before the sync was
//! submitted. A power cut leaves each sector, independently of all others, with any of its
//! contents; a sector itself is never torn.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::Range;
// Plain data: nothing here is a point where a model checker should switch threads.
use std::sync::Arc;

use super::super::IoKind;

/// A sector's bytes; none is all zeros.
type Content = Option<Arc<[u8]>>;

/// What a simulated disk holds at one moment, as bytes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SimImage {
    length: u64,
    sector_bytes: usize,
    /// Only sectors that hold something else than zeros.
    sectors: BTreeMap<u64, Arc<[u8]>>,
}

impl SimImage {
    /// `length` zero bytes, in sectors of `sector_bytes` bytes.
    ///
    /// # Panics
    /// `sector_bytes` is not a power of two of at least 512.
    #[must_use]
    pub fn new(length: u64, sector_bytes: usize) -> Self {
        let fine = sector_bytes.is_power_of_two() && sector_bytes >= 512;
        assert!(fine, "a sector is a power of two of at least 512 bytes");
        Self { length, sector_bytes, sectors: BTreeMap::new() }
    }

    /// An image of these bytes.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn from_bytes(bytes: &[u8], sector_bytes: usize) -> Self {
        let mut image = Self::new(bytes.len() as u64, sector_bytes);
        for (sector, piece) in (0..).zip(bytes.chunks(sector_bytes)) {
            let mut whole = vec![0; sector_bytes];
            whole[..piece.len()].copy_from_slice(piece);
            image.put(sector, content(whole));
        }
        image
    }

    /// All its bytes.
    ///
    /// # Panics
    /// It is larger than the address space.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length).expect("an image that fits memory")];
        self.read(0, &mut bytes);
        bytes
    }

    /// Copies bytes from `offset` on into `bytes`; how many there were before the end.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        read_sectors(self.length, self.sector_bytes, offset, bytes, |range| {
            self.sectors.range(range).map(|(at, bytes)| (*at, &**bytes))
        })
    }

    /// The sectors that hold something else than zeros, in their order: where each begins, in bytes,
    /// and what it holds.
    pub fn sectors(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let size = self.sector_bytes as u64;
        self.sectors.iter().map(move |(&sector, bytes)| (sector * size, &bytes[..]))
    }

    /// Replaces bytes from `offset` on, for tests that damage an image. What lies past its end is
    /// left out.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset.min(self.length);
        let end = at.saturating_add(bytes.len() as u64).min(self.length);
        let mut left = &bytes[..near(end - at)];
        while !left.is_empty() {
            let (sector, within) =
                (at / self.sector_bytes as u64, near(at % self.sector_bytes as u64));
            let (piece, rest) = left.split_at(left.len().min(self.sector_bytes - within));
            let old = self.sectors.get(&sector);
            let mut whole = old.map_or_else(|| vec![0; self.sector_bytes], |old| old.to_vec());
            whole[within..within + piece.len()].copy_from_slice(piece);
            self.put(sector, content(whole));
            at += piece.len() as u64;
            left = rest;
        }
    }

    /// Cuts it off, or lengthens it with zeros.
    pub fn set_len(&mut self, length: u64) {
        let (last, within) =
            (length / self.sector_bytes as u64, near(length % self.sector_bytes as u64));
        drop(self.sectors.split_off(&(last + u64::from(within > 0))));
        if within > 0 {
            let mut cut = self.sectors.get(&last).cloned();
            cut_off(&mut cut, within);
            self.put(last, cut);
        }
        self.length = length;
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn put(&mut self, sector: u64, content: Content) {
        match content {
            Some(bytes) => self.sectors.insert(sector, bytes),
            None => self.sectors.remove(&sector),
        };
    }
}

/// One content of a sector that is not durable.
#[derive(Debug)]
struct Version {
    /// When its write completed, among all of the disk's.
    sequence: u64,
    content: Content,
    /// A sync that should have made it durable failed: no later one will.
    lost: bool,
}

#[derive(Debug, Default)]
struct Sector {
    durable: Content,
    cached: Vec<Version>,
}

impl Sector {
    fn newest(&self) -> &Content {
        self.cached.last().map_or(&self.durable, |version| &version.content)
    }
}

/// A write or zeroing that may be cut off.
pub(super) struct Unfinished<'a> {
    pub(super) kind: IoKind,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) data: &'a [u8],
}

/// What a sector may hold after a power cut; more than one content.
pub(super) struct Fate {
    sector: u64,
    contents: Vec<Content>,
}

/// The sectors.
#[derive(Debug)]
pub(super) struct Medium {
    length: u64,
    sector_bytes: usize,
    sectors: BTreeMap<u64, Sector>,
    /// The sectors with something in the cache.
    dirty: BTreeSet<u64>,
    /// The next write's place in the order of completion.
    sequence: u64,
}

impl Medium {
    pub(super) fn new(image: &SimImage) -> Self {
        let durable =
            |content: &Arc<[u8]>| Sector { durable: Some(Arc::clone(content)), cached: Vec::new() };
        Self {
            length: image.length,
            sector_bytes: image.sector_bytes,
            sectors: image.sectors.iter().map(|(&at, content)| (at, durable(content))).collect(),
            dirty: BTreeSet::new(),
            sequence: 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.length
    }

    pub(super) fn sector_bytes(&self) -> usize {
        self.sector_bytes
    }

    /// The length is durable at once. What is cut off is gone at once.
    pub(super) fn set_len(&mut self, length: u64) {
        self.length = length;
        let (last, within) = self.locate(length);
        let gone = last + u64::from(within != 0);
        drop(self.sectors.split_off(&gone));
        drop(self.dirty.split_off(&gone));
        if let Some(sector) = self.sectors.get_mut(&last) {
            let cached = sector.cached.iter_mut().map(|version| &mut version.content);
            for content in cached.chain([&mut sector.durable]) {
                cut_off(content, within);
            }
        }
    }

    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        read_sectors(self.length, self.sector_bytes, offset, bytes, |range| {
            let sectors = self.sectors.range(range);
            sectors.filter_map(|(at, sector)| Some((*at, &**sector.newest().as_ref()?)))
        })
    }

    /// A write completes. It is in the cache only, unless `durable`.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) {
        let sequence = self.next();
        let mut left = bytes;
        let mut at = offset;
        while !left.is_empty() {
            let (sector, within) = self.locate(at);
            let (piece, rest) = left.split_at(left.len().min(self.sector_bytes - within));
            let content = self.patched(sector, within, piece);
            self.put(sector, content, sequence, durable);
            at += piece.len() as u64;
            left = rest;
        }
        self.length = self.length.max(at);
    }

    /// A zeroing completes, in the cache. Never lengthens the disk.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let sequence = self.next();
        let end = offset.saturating_add(length).min(self.length);
        for sector in self.present(offset, end) {
            let (from, to) = self.overlap(sector, offset, end);
            let content = self.patched(sector, from, &vec![0; to - from]);
            self.put(sector, content, sequence, false);
        }
    }

    /// What a sync submitted now covers.
    pub(super) fn barrier(&self) -> u64 {
        self.sequence
    }

    /// A sync completes: what was written before `barrier` is durable.
    pub(super) fn sync(&mut self, barrier: u64) {
        let covered = |version: &Version| version.sequence < barrier && !version.lost;
        let sectors = &mut self.sectors;
        self.dirty.retain(|at| {
            let Some(sector) = sectors.get_mut(at) else { return false };
            if let Some(newest) = sector.cached.iter().rposition(covered)
                && let Some(version) = sector.cached.drain(..=newest).next_back()
            {
                sector.durable = version.content;
            }
            !sector.cached.is_empty()
        });
    }

    /// A sync fails: what it should have covered stays readable, and never becomes durable unless
    /// written again, as in page caches that call a page clean once its write-back failed.
    pub(super) fn lose(&mut self, barrier: u64) {
        for at in &self.dirty {
            let cached = self.sectors.get_mut(at).map(|sector| &mut sector.cached);
            for version in cached.into_iter().flatten() {
                version.lost |= version.sequence < barrier;
            }
        }
    }

    /// How many sectors of a range were never written.
    pub(super) fn absent(&self, offset: u64, length: u64) -> u64 {
        let end = offset.saturating_add(length);
        let size = self.sector_bytes as u64;
        let all = end.div_ceil(size).saturating_sub(offset / size);
        all - self.present(offset, end).len() as u64
    }

    /// What reads show now.
    pub(super) fn image(&self) -> SimImage {
        let mut image = SimImage::new(self.length, self.sector_bytes);
        for (&at, sector) in &self.sectors {
            image.put(at, sector.newest().clone());
        }
        image
    }

    /// What is durable for certain.
    pub(super) fn durable(&self) -> SimImage {
        let mut image = SimImage::new(self.length, self.sector_bytes);
        for (&at, sector) in &self.sectors {
            image.put(at, sector.durable.clone());
        }
        image
    }

    /// Every sector that a power cut may leave with one of several contents, in order; the
    /// durable one is the first of each. Unfinished writes past the end of the disk are lost.
    pub(super) fn fates(&self, unfinished: &[Unfinished<'_>]) -> Vec<Fate> {
        let mut fates: BTreeMap<u64, Vec<Content>> = BTreeMap::new();
        for &at in &self.dirty {
            let contents = self.sectors[&at].cached.iter().map(|version| version.content.clone());
            fates.insert(at, contents.collect());
        }
        for write in unfinished {
            self.add_unfinished(write, &mut fates);
        }
        let with_durable = fates.into_iter().map(|(sector, later)| {
            let durable = self.sectors.get(&sector).and_then(|sector| sector.durable.clone());
            let mut contents = vec![durable];
            for content in later {
                if !contents.contains(&content) {
                    contents.push(content);
                }
            }
            Fate { sector, contents }
        });
        with_durable.filter(|fate| fate.contents.len() > 1).collect()
    }

    fn add_unfinished(&self, write: &Unfinished<'_>, fates: &mut BTreeMap<u64, Vec<Content>>) {
        let end = write.offset.saturating_add(write.length).min(self.length);
        let size = self.sector_bytes as u64;
        let sectors: Vec<u64> = match write.kind {
            IoKind::Read | IoKind::SyncData => return,
            IoKind::Write | IoKind::WriteDurable => {
                (write.offset / size..end.div_ceil(size)).collect()
            }
            IoKind::Zero => self.present(write.offset, end),
        };
        for sector in sectors {
            let (from, to) = self.overlap(sector, write.offset, end);
            let content = if write.kind == IoKind::Zero {
                self.patched(sector, from, &vec![0; to - from])
            } else {
                let skip = near((sector * size + from as u64) - write.offset);
                self.patched(sector, from, &write.data[skip..skip + (to - from)])
            };
            fates.entry(sector).or_default().push(content);
        }
    }

    /// What is left after a cut that leaves each sector as `choose`, given the number of its
    /// contents, says.
    pub(super) fn cut(
        &self,
        unfinished: &[Unfinished<'_>],
        choose: &mut dyn FnMut(usize) -> usize,
    ) -> SimImage {
        let mut image = self.durable();
        for Fate { sector, contents } in self.fates(unfinished) {
            image.put(sector, contents[choose(contents.len())].clone());
        }
        image
    }

    /// Hashes what its sectors hold and may hold, as far as it matters from now on. Of its place in
    /// the order of completion a version keeps only which of `barriers` (those of the syncs that
    /// are pending) cover it.
    pub(super) fn hash_state(&self, barriers: &[u64], hasher: &mut impl Hasher) {
        self.length.hash(hasher);
        for (at, sector) in &self.sectors {
            (at, &sector.durable).hash(hasher);
            for Version { sequence, content, lost } in &sector.cached {
                let covering = barriers.iter().filter(|barrier| sequence < barrier).count();
                (covering, content, lost).hash(hasher);
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence - 1
    }

    fn put(&mut self, at: u64, content: Content, sequence: u64, durable: bool) {
        let sector = self.sectors.entry(at).or_default();
        if durable {
            sector.durable = content;
            sector.cached.clear();
            self.dirty.remove(&at);
        } else {
            sector.cached.push(Version { sequence, content, lost: false });
            self.dirty.insert(at);
        }
    }

    /// A sector's newest bytes with some of them replaced.
    fn patched(&self, sector: u64, within: usize, bytes: &[u8]) -> Content {
        let newest = self.sectors.get(&sector).and_then(|sector| sector.newest().as_ref());
        let mut whole = newest.map_or_else(|| vec![0; self.sector_bytes], |old| old.to_vec());
        whole[within..within + bytes.len()].copy_from_slice(bytes);
        content(whole)
    }

    /// The sectors of a range that were ever written.
    fn present(&self, offset: u64, end: u64) -> Vec<u64> {
        let size = self.sector_bytes as u64;
        let range = offset / size..end.div_ceil(size).max(offset / size);
        self.sectors.range(range).map(|(&at, _)| at).collect()
    }

    /// Which of a sector's bytes lie in a range that touches it.
    fn overlap(&self, sector: u64, offset: u64, end: u64) -> (usize, usize) {
        let size = self.sector_bytes as u64;
        let start = sector * size;
        (near(offset.max(start) - start), near(end.min(start + size) - start))
    }

    fn locate(&self, at: u64) -> (u64, usize) {
        let size = self.sector_bytes as u64;
        (at / size, near(at % size))
    }
}

impl Fate {
    /// Which sector.
    pub(super) fn sector(&self) -> u64 {
        self.sector
    }

    /// How many contents are possible.
    pub(super) fn options(&self) -> usize {
        self.contents.len()
    }
}

fn content(bytes: Vec<u8>) -> Content {
    bytes.iter().any(|&byte| byte != 0).then(|| bytes.into())
}

/// Makes what comes after a sector's first bytes zeros.
fn cut_off(content: &mut Content, length: usize) {
    if let Some(bytes) = content {
        let mut bytes = bytes.to_vec();
        bytes[length..].fill(0);
        *content = self::content(bytes);
    }
}

/// A distance within one sector or one request.
fn near(distance: u64) -> usize {
    usize::try_from(distance).expect("a distance within one request")
}

/// Fills `bytes` from `offset` on, as far as there are any; `sectors` gives those of a range that hold
/// something else than zeros, which are few of many.
fn read_sectors<'a, I: Iterator<Item = (u64, &'a [u8])>>(
    length: u64,
    sector_bytes: usize,
    offset: u64,
    bytes: &mut [u8],
    sectors: impl FnOnce(Range<u64>) -> I,
) -> usize {
    let available = length.saturating_sub(offset);
    let wanted = usize::try_from(available).map_or(bytes.len(), |most| bytes.len().min(most));
    bytes[..wanted].fill(0);
    let (size, end) = (sector_bytes as u64, offset + wanted as u64);
    for (sector, content) in sectors(offset / size..end.div_ceil(size)) {
        let start = sector * size;
        let (from, to) = (start.max(offset), (start + size).min(end));
        bytes[near(from - offset)..near(to - offset)]
            .copy_from_slice(&content[near(from - start)..near(to - start)]);
    }
    wanted
}
