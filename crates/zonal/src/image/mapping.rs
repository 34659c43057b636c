//! Where a drive's bytes are in its file: one addition where the data is in one piece, a look into
//! the zone's own table where clusters are scattered.
//!
//! Invariants of scattered drives:
//! * a zone's table never changes while it is looked at: a zone that gets its missing clusters gets a
//!   second table, once, before its first write;
//! * a look-up takes no lock and allocates nothing;
//! * what no table has reads as zeros, and nobody writes there.

use std::sync::OnceLock;
use zonal_core::format::Geometry;
use zonal_core::format::map::{Map, Run};
use zonal_core::format::qcow2::Tables;
use zonal_core::units::ZoneIndex;

/// Where the first of some bytes of the drive are in the file, and how many of them lie there side
/// by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// `None`: nowhere; they read as zeros.
    pub(crate) host: Option<u64>,
    pub(crate) length: u64,
}

/// Zone → extents.
pub(crate) enum Mapping {
    /// The drive's byte 0 is here, and all others follow.
    Contiguous(u64),
    Scattered(Scattered),
}

/// Clusters that lie where they lie.
pub(crate) struct Scattered {
    zone_shift: u32,
    cluster: u64,
    zones: Box<[ZoneMap]>,
}

/// Neighbouring clusters of a zone, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    /// From the zone's start.
    from: u64,
    to: u64,
    host: u64,
}

/// A zone's clusters, ascending.
#[derive(Debug, Default)]
struct ZoneMap {
    found: Box<[Extent]>,
    /// All of them, once those that were missing are there.
    whole: OnceLock<Box<[Extent]>>,
}

impl ZoneMap {
    #[inline]
    fn extents(&self) -> &[Extent] {
        self.whole.get().unwrap_or(&self.found)
    }
}

impl Mapping {
    /// A byte of the drive is the same byte of the file.
    pub(crate) const IDENTITY: Self = Self::Contiguous(0);

    /// The mapping of an image.
    pub(crate) fn new(geometry: &Geometry, tables: &Tables, map: &Map) -> Self {
        if let Some(offset) = map.contiguous(tables) {
            return Self::Contiguous(offset);
        }
        let cluster = tables.cluster_size();
        let zones = (0..geometry.zones()).map(ZoneIndex).map(|zone| {
            let start = geometry.start_of(zone);
            let (from, to) = (start / cluster, (start + geometry.size_of(zone)).div_ceil(cluster));
            let found = map.within(tables, from, to).map(|run| extent(start, cluster, run));
            ZoneMap { found: found.collect(), whole: OnceLock::new() }
        });
        Self::Scattered(Scattered {
            zone_shift: geometry.zone_size.trailing_zeros(),
            cluster,
            zones: zones.collect(),
        })
    }

    /// Where the bytes of the drive from `offset` on are, at most `length` of them.
    #[inline]
    pub(crate) fn locate(&self, offset: u64, length: u64) -> Piece {
        match self {
            Self::Contiguous(data) => Piece { host: Some(data + offset), length },
            Self::Scattered(scattered) => scattered.locate(offset, length),
        }
    }

    /// All pieces of a range of the drive.
    pub(crate) fn pieces(&self, offset: u64, length: u64) -> impl Iterator<Item = Piece> + '_ {
        let (mut at, end) = (offset, offset + length);
        std::iter::from_fn(move || {
            let piece = (at < end).then(|| self.locate(at, end - at))?;
            at += piece.length;
            Some(piece)
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Contiguous(_) => "contiguous",
            Self::Scattered(_) => "scattered",
        }
    }
}

impl Scattered {
    fn locate(&self, offset: u64, length: u64) -> Piece {
        let start = offset >> self.zone_shift << self.zone_shift;
        let within = offset - start;
        let length = length.min((1 << self.zone_shift) - within);
        #[allow(clippy::cast_possible_truncation)] // a zone of the drive, of which there are 2^24
        let extents = self.zones[(offset >> self.zone_shift) as usize].extents();
        // Nearly always there is one.
        let next = match extents {
            [only] => usize::from(only.to <= within),
            _ => extents.partition_point(|extent| extent.to <= within),
        };
        match extents.get(next) {
            Some(extent) if extent.from <= within => Piece {
                host: Some(extent.host + (within - extent.from)),
                length: length.min(extent.to - within),
            },
            Some(extent) => Piece { host: None, length: length.min(extent.from - within) },
            None => Piece { host: None, length },
        }
    }

    /// The clusters of the drive that a zone can be written to and has no place for.
    pub(super) fn missing(&self, geometry: &Geometry, zone: ZoneIndex) -> Vec<Run> {
        let (first, end) = self.clusters(geometry, zone);
        let runs: Vec<_> = self.runs(geometry, zone).collect();
        zonal_core::format::adopt::holes(&runs, first..end)
    }

    /// Whether a zone has no place for some of its clusters.
    pub(super) fn is_missing(&self, geometry: &Geometry, zone: ZoneIndex) -> bool {
        let (first, end) = self.clusters(geometry, zone);
        let there: u64 = self.runs(geometry, zone).map(|run| run.clusters).sum();
        // What lies above the capacity is never written, but may be there.
        there < end - first && !self.missing(geometry, zone).is_empty()
    }

    /// The clusters of a zone up to its capacity.
    fn clusters(&self, geometry: &Geometry, zone: ZoneIndex) -> (u64, u64) {
        let start = geometry.start_of(zone);
        let end = start + geometry.capacity_of(zone);
        (start / self.cluster, end.div_ceil(self.cluster))
    }

    fn runs(&self, geometry: &Geometry, zone: ZoneIndex) -> impl Iterator<Item = Run> + '_ {
        let (start, cluster) = (geometry.start_of(zone), self.cluster);
        self.zones[zone.index()].extents().iter().map(move |extent| Run {
            guest: (start + extent.from) / cluster,
            host: extent.host,
            clusters: (extent.to - extent.from) / cluster,
        })
    }

    /// Gives a zone the clusters it was missing. Happens once a zone.
    pub(super) fn complete(&self, geometry: &Geometry, zone: ZoneIndex, runs: &[Run]) {
        let start = geometry.start_of(zone);
        let map = &self.zones[zone.index()];
        let given = runs.iter().map(|&run| extent(start, self.cluster, run));
        let mut extents: Vec<Extent> = map.found.iter().copied().chain(given).collect();
        extents.sort_unstable_by_key(|extent| extent.from);
        extents.dedup_by(|next, last| {
            let joined = last.to == next.from && last.host + (last.to - last.from) == next.host;
            if joined {
                last.to = next.to;
            }
            joined
        });
        let first = map.whole.set(extents.into());
        debug_assert!(first.is_ok(), "a zone gets its clusters once");
    }
}

fn extent(zone_start: u64, cluster: u64, run: Run) -> Extent {
    let from = run.guest * cluster - zone_start;
    Extent { from, to: from + run.clusters * cluster, host: run.host }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 64 << 10;

    fn scattered(runs: &[(u64, u64, u64)]) -> (Geometry, Mapping) {
        let geometry =
            Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(4 << 20) };
        let run = |&(guest, host, clusters): &(u64, u64, u64)| Run {
            guest,
            host: host * CLUSTER,
            clusters,
        };
        let zones = (0..4).map(|zone| {
            let found = runs.iter().map(run).filter(|run| run.guest / 16 == zone);
            let found = found.map(|run| extent(zone << 20, CLUSTER, run)).collect();
            ZoneMap { found, whole: OnceLock::new() }
        });
        let zones = zones.collect();
        (geometry, Mapping::Scattered(Scattered { zone_shift: 20, cluster: CLUSTER, zones }))
    }

    fn clusters(piece: Piece) -> (Option<u64>, u64) {
        (piece.host.map(|host| host / CLUSTER), piece.length / CLUSTER)
    }

    #[test]
    fn a_range_is_found_in_its_pieces() {
        let (_, mapping) = scattered(&[(0, 100, 2), (2, 50, 14), (20, 7, 1)]);
        let pieces: Vec<_> = mapping.pieces(CLUSTER, 24 * CLUSTER).map(clusters).collect();
        assert_eq!(
            pieces,
            [(Some(101), 1), (Some(50), 14), (None, 4), (Some(7), 1), (None, 4)],
            "pieces end where clusters part, and with the zone"
        );
        let inside = mapping.locate(CLUSTER + 512, 4096);
        assert_eq!(inside, Piece { host: Some(101 * CLUSTER + 512), length: 4096 });
    }

    #[test]
    fn a_zone_gets_what_it_was_missing() {
        let (geometry, mapping) = scattered(&[(18, 100, 2)]);
        let Mapping::Scattered(scattered) = &mapping else { panic!("it is") };
        let zone = ZoneIndex(1);
        let missing = scattered.missing(&geometry, zone);
        let holes: Vec<_> = missing.iter().map(|run| (run.guest, run.clusters)).collect();
        assert_eq!(holes, [(16, 2), (20, 12)]);
        let given = [
            Run { guest: 20, host: 102 * CLUSTER, clusters: 12 },
            Run { guest: 16, host: 9 * CLUSTER, clusters: 2 },
        ];
        scattered.complete(&geometry, zone, &given);
        assert!(!scattered.is_missing(&geometry, zone));
        let pieces: Vec<_> = mapping.pieces(1 << 20, 1 << 20).map(clusters).collect();
        assert_eq!(pieces, [(Some(9), 2), (Some(100), 14)]);
        assert!(scattered.is_missing(&geometry, ZoneIndex(0)));
    }
}
