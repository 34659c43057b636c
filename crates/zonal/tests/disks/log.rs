//! Power cuts, made from what a [`FuseDisk`](super::fuse::FuseDisk) logged: at a moment, everything that was
//! written before the last sync is there, and of each sector written after it any of the contents it had
//! since, by itself.

use super::fuse::Entry;
use std::collections::{BTreeSet, HashMap};

/// What a disk writes whole, or not at all.
pub(crate) const SECTOR: usize = 512;

/// What reached the disk.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) writes: usize,
    pub(crate) durable: usize,
    pub(crate) syncs: usize,
}

impl Counts {
    pub(crate) fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::Write { durable, .. } => {
                self.writes += 1;
                self.durable += usize::from(*durable);
            }
            Entry::Sync => self.syncs += 1,
            Entry::Mark(_) => {}
        }
    }
}

/// A load as the disk saw it.
pub(crate) struct Recorded {
    pub(crate) before: Vec<u8>,
    pub(crate) log: Vec<Entry>,
}

/// The moments of so many cuts, as numbers of entries: anywhere, right before a sync is done, and right after
/// a promise. `draw` gives a number below another.
pub(crate) fn moments(
    log: &[Entry],
    count: usize,
    promises: impl Fn(&str) -> bool,
    draw: &mut dyn FnMut(u64) -> u64,
) -> Vec<usize> {
    let says = |entry: &Entry| match entry {
        Entry::Mark(lines) => promises(lines),
        Entry::Write { .. } | Entry::Sync => false,
    };
    let first = log.iter().position(says).expect("something was promised");
    let later = first..log.len();
    let syncs = later.clone().filter(|&n| matches!(log[n], Entry::Sync)).collect();
    let promises = later.clone().filter(|&n| says(&log[n])).map(|n| n + 1).collect();
    let kinds: [Vec<usize>; 3] = [later.collect(), syncs, promises];
    let mut moments = BTreeSet::new();
    let all: usize = kinds.iter().map(Vec::len).sum();
    assert!(all > 4 * count, "{count} cuts in {all} moments");
    while moments.len() < count {
        let kind = &kinds[draw(3) as usize];
        moments.insert(kind[draw(kind.len() as u64) as usize]);
    }
    moments.into_iter().collect()
}

/// What the disk knew at a moment.
pub(crate) struct Replay<'a> {
    log: &'a [Entry],
    at: usize,
    durable: Vec<u8>,
    /// What was written to a sector since it was last durable, in order.
    pending: HashMap<usize, Vec<&'a [u8]>>,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(run: &'a Recorded) -> Self {
        Self { log: &run.log, at: 0, durable: run.before.clone(), pending: HashMap::new() }
    }

    /// Goes on to a moment; `hear` is told what was said until then.
    pub(crate) fn go_to(&mut self, moment: usize, mut hear: impl FnMut(&str)) {
        for entry in &self.log[self.at..moment] {
            match entry {
                Entry::Write { offset, bytes, durable } => self.write(*offset, bytes, *durable),
                Entry::Sync => self.sync(),
                Entry::Mark(lines) => hear(lines),
            }
        }
        self.at = moment;
    }

    fn write(&mut self, offset: usize, bytes: &'a [u8], durable: bool) {
        assert!(offset.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR));
        for (n, bytes) in bytes.chunks(SECTOR).enumerate() {
            let sector = offset / SECTOR + n;
            if durable {
                self.pending.remove(&sector);
                self.durable[sector * SECTOR..][..SECTOR].copy_from_slice(bytes);
            } else {
                self.pending.entry(sector).or_default().push(bytes);
            }
        }
    }

    fn sync(&mut self) {
        for (sector, written) in self.pending.drain() {
            let newest = written.last().expect("it was written");
            self.durable[sector * SECTOR..][..SECTOR].copy_from_slice(newest);
        }
    }

    /// What a cut leaves: of each sector what was durable, or anything written since.
    pub(crate) fn left(&self, draw: &mut dyn FnMut(u64) -> u64) -> Vec<u8> {
        let mut left = self.durable.clone();
        // Of a hundred sectors so many have been written at all.
        let share = [0, 10, 50, 90, 100][draw(5) as usize];
        let mut sectors: Vec<_> = self.pending.iter().collect();
        sectors.sort_unstable_by_key(|(sector, _)| **sector);
        for (sector, written) in sectors {
            if draw(100) < share {
                let which = draw(written.len() as u64) as usize;
                left[sector * SECTOR..][..SECTOR].copy_from_slice(written[which]);
            }
        }
        left
    }
}
