//! A small adopted image in memory, whole: what the unit tests of this module read, break and mend.

use super::adopt::Adoption;
use super::check::{Finding, check_refcounts};
use super::map::{Map, Run};
use super::qcow2::{Header, Tables};
use super::{Geometry, damaged};
use crate::error::Result;
use crate::units::{Blocks, ZoneIndex};
use alloc::{vec, vec::Vec};

pub(super) const ID: [u8; 16] = *b"a sample's own i";
/// The sample's clusters.
pub(super) const CLUSTER: u64 = 512;

/// Eight zones of 16 KiB, of which 12 KiB can be written; the first is conventional.
pub(super) fn geometry() -> Geometry {
    Geometry {
        zone_size: 16 << 10,
        zone_capacity: 12 << 10,
        conventional_zones: 1,
        max_open_zones: 3,
        max_active_zones: 5,
        block_size: 512,
        max_append: 4096,
        ..Geometry::with_size(128 << 10)
    }
}

/// The image before it has zones: 20 clusters of 512 bytes.
pub(super) fn tables() -> Tables {
    Tables {
        size: 128 << 10,
        cluster_bits: 9,
        refcount_order: 4,
        l1_offset: CLUSTER,
        l1_entries: 4,
        refcount_table_offset: 2 * CLUSTER,
        refcount_table_clusters: 1,
        file_len: 20 * CLUSTER,
        extra: Vec::new(),
    }
}

/// Its data: six clusters of the conventional zone, four of the first sequential one.
pub(super) fn runs() -> Vec<Run> {
    vec![
        Run { guest: 0, host: 5 * CLUSTER, clusters: 4 },
        Run { guest: 10, host: 10 * CLUSTER, clusters: 2 },
        Run { guest: 32, host: 13 * CLUSTER, clusters: 4 },
    ]
}

pub(super) fn wp(zone: ZoneIndex) -> Blocks {
    Blocks(if zone.0 == 1 { 4 } else { 0 })
}

/// A file, and its header as it was written.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) file: Vec<u8>,
    pub(super) header: Header,
}

impl Image {
    /// Gives zones to an image whose clusters are all zeros.
    pub(super) fn adopted(geometry: &Geometry, tables: &Tables, runs: Vec<Run>) -> Self {
        let map = Map { runs, ..Map::default() };
        let adoption = Adoption::plan(geometry, tables, &map).unwrap();
        let mut file = vec![0; usize::try_from(adoption.file_len()).unwrap()];
        for (offset, bytes) in adoption.metadata(ID, wp).unwrap() {
            file[usize::try_from(offset).unwrap()..][..bytes.len()].copy_from_slice(&bytes);
        }
        Self { file, header: adoption.header(ID) }
    }

    pub(super) fn new() -> Self {
        Self::adopted(&geometry(), &tables(), runs())
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        match self.file.get(start..start + buffer.len()) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => return Err(damaged(offset, buffer.len() as u64, "read past the end")),
        }
        Ok(())
    }

    /// The bytes from `offset` on.
    pub(super) fn at(&mut self, offset: u64) -> &mut [u8] {
        &mut self.file[usize::try_from(offset).unwrap()..]
    }

    pub(super) fn number(&self, offset: u64) -> u64 {
        let bytes = &self.file[usize::try_from(offset).unwrap()..];
        u64::from_be_bytes(*bytes.first_chunk().unwrap())
    }

    pub(super) fn set(&mut self, offset: u64, number: u64) {
        self.at(offset)[..8].copy_from_slice(&number.to_be_bytes());
    }

    pub(super) fn l1(&self) -> Vec<u8> {
        let mut l1 = vec![0; self.header.tables.l1_entries as usize * 8];
        self.read(self.header.tables.l1_offset, &mut l1).unwrap();
        l1
    }

    pub(super) fn map(&self) -> Result<Map> {
        Map::read(&self.header.tables, &self.l1(), |offset, buffer| self.read(offset, buffer))
    }

    pub(super) fn check(&self) -> Vec<Finding> {
        let (tables, map) = (&self.header.tables, self.map().unwrap());
        check_refcounts(tables, &self.l1(), &map, |at, buffer| self.read(at, buffer)).unwrap()
    }
}
