//! The drives that histories are about: small ones of all kinds, each made once.

use super::random::Random;
use super::truth::block_of;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Result;
use zonal::sim::{SimDisk, SimImage, SimMode};
use zonal::{AdoptOptions, Geometry};

/// How many there are.
const SHAPES: usize = 48;

/// A drive.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) geometry: Geometry,
    /// Whether it is an image of another making that was adopted; the log of its clusters' bytes.
    pub(super) adopted: Option<u32>,
    pub(super) queues: usize,
    pub(super) depth: u32,
    pub(super) discard: bool,
    /// The disk below zeroes nothing by itself.
    pub(super) slow_zeroing: bool,
    /// Which zones of an adopted one have data already: one record each, numbered from 1.
    pub(super) full: Vec<u32>,
    /// The image of the empty, or just adopted, drive.
    pub(super) image: SimImage,
}

/// Shapes made so far, by number.
#[derive(Default)]
pub(super) struct Shapes(HashMap<usize, Rc<Shape>>);

impl Shapes {
    /// One at random.
    pub(super) fn pick(&mut self, random: &mut Random) -> Result<Rc<Shape>> {
        let number = random.below(SHAPES);
        if let Some(shape) = self.0.get(&number) {
            return Ok(shape.clone());
        }
        let shape = Rc::new(Shape::new(number)?);
        self.0.insert(number, shape.clone());
        Ok(shape)
    }
}

impl Shape {
    fn new(number: usize) -> Result<Self> {
        let random = &mut Random::new(number as u64);
        let adopted = !number.is_multiple_of(4);
        let block: u32 = if random.one_in(4) { 4096 } else { 512 };
        let size = random.of(&[8, 16, 32]);
        let capacity = if random.one_in(2) { size } else { size - random.below(size / 2) };
        let zones = 2 + random.below(3);
        // A cluster is no larger than a zone; several blocks, or one.
        let bits = if block == 4096 { 12 } else { random.of(&[9, 10, 12]) };
        let missing = if adopted || random.one_in(2) { 0 } else { random.below(size) };
        let (max_open_zones, max_active_zones) =
            random.of(&[(0, 0), (0, 0), (1, 1), (1, 2), (2, 3), (0, 2), (2, 0)]);
        let bytes = |blocks: usize| blocks as u64 * u64::from(block);
        let mut geometry = Geometry {
            size: bytes(zones * size - missing),
            zone_size: bytes(size),
            zone_capacity: bytes(capacity),
            conventional_zones: u32::from(random.one_in(3)),
            max_open_zones,
            max_active_zones,
            block_size: block,
            max_append: block * random.of(&[2, 3, 4]),
        };
        geometry.clamp();
        let slow_zeroing = random.one_in(3);
        let mut shape = Self {
            adopted: adopted.then_some(bits),
            queues: random.of(&[1, 2, 3]),
            depth: random.of(&[4, 16, 32]),
            discard: random.one_in(2),
            slow_zeroing,
            full: Vec::new(),
            image: SimImage::new(0, 512),
            geometry,
        };
        let disk = if adopted { shape.adopt(bits, random)? } else { shape.create()? };
        shape.image = disk.image();
        Ok(shape)
    }

    /// Bytes of a sector of the disk: a block, so that no block is torn.
    pub(super) fn sector(&self) -> usize {
        self.geometry.block_size as usize
    }

    fn create(&self) -> Result<SimDisk> {
        let disk = SimDisk::new(&SimImage::new(0, self.sector()), SimMode::Manual);
        zonal::sim::create(&disk, &self.geometry)?;
        Ok(disk)
    }

    /// A plain image in which a zone or none is full, adopted.
    fn adopt(&mut self, bits: u32, random: &mut Random) -> Result<SimDisk> {
        let geometry = &self.geometry;
        let zones = geometry.conventional_zones..geometry.zones();
        self.full = zones.filter(|_| random.one_in(4)).collect();
        let data = (1..).zip(&self.full).map(|(record, &zone)| {
            let blocks = geometry.zone_capacity / u64::from(geometry.block_size);
            let bytes = (0..blocks).flat_map(|index| {
                block_of(record, zone, 0, u32::try_from(index).unwrap_or(0), geometry.block_size)
            });
            (u64::from(zone) * geometry.zone_size, bytes.collect::<Vec<u8>>())
        });
        let data: Vec<_> = data.collect();
        let disk = SimDisk::new(&plain(bits, self.sector(), geometry.size, &data), SimMode::Manual);
        let options = AdoptOptions {
            zone_size: Some(geometry.zone_size),
            zone_capacity: Some(geometry.zone_capacity),
            conventional_zones: geometry.conventional_zones,
            max_open_zones: geometry.max_open_zones,
            max_active_zones: geometry.max_active_zones,
            block_size: Some(geometry.block_size),
            max_append: Some(geometry.max_append),
            progress: None,
        };
        let adopted = zonal::sim::adopt(&disk, options)?;
        anyhow::ensure!(adopted.full_zones as usize == self.full.len(), "{adopted:?}");
        Ok(disk)
    }
}

/// A plain qcow2 image of a drive of `size` bytes in clusters of 2^`bits` bytes, with this data (offset
/// and bytes), whose clusters lie in the file the last one first.
fn plain(bits: u32, sector: usize, size: u64, data: &[(u64, Vec<u8>)]) -> SimImage {
    let cluster = 1_u64 << bits;
    let entries = cluster / 8;
    let mut pieces: Vec<(u64, &[u8])> = Vec::new();
    for (offset, bytes) in data {
        let chunks = bytes.chunks(1 << bits);
        pieces.extend((0..).zip(chunks).map(|(n, bytes)| (offset / cluster + n, bytes)));
    }
    pieces.reverse();
    let l1_entries = size.div_ceil(cluster).div_ceil(entries);
    let mut tables: Vec<u64> = pieces.iter().map(|(guest, _)| guest / entries).collect();
    tables.sort_unstable();
    tables.dedup();
    // Header, refcount table, refcount blocks (with room to spare), L1, L2 tables, data.
    let blocks = 1 + (l1_entries + pieces.len() as u64 * 2 + 64) / (cluster / 2);
    let table_clusters = (blocks * 8).div_ceil(cluster);
    let l1 = 1 + table_clusters + blocks;
    let l2 = l1 + (l1_entries * 8).div_ceil(cluster);
    let first = l2 + tables.len() as u64;
    let clusters = first + pieces.len() as u64;

    let mut image = SimImage::new(clusters * cluster, sector);
    let mut put = |at: u64, value: u64| image.write(at, &value.to_be_bytes());
    put(0, 0x5146_49fb_0000_0003);
    put(16, u64::from(bits));
    put(24, size);
    put(32, l1_entries);
    put(40, l1 * cluster);
    put(48, cluster);
    put(56, table_clusters << 32);
    put(96, 4 << 32 | 104);
    for block in 0..blocks {
        put(cluster + block * 8, (1 + table_clusters + block) * cluster);
    }
    let copied = 1 << 63;
    for (n, table) in (0..).zip(&tables) {
        put(l1 * cluster + table * 8, ((l2 + n) * cluster) | copied);
    }
    for (n, (guest, _)) in (0..).zip(&pieces) {
        let table = tables.binary_search(&(guest / entries)).unwrap_or(0) as u64;
        put((l2 + table) * cluster + guest % entries * 8, ((first + n) * cluster) | copied);
    }
    for counted in 0..clusters {
        image.write((1 + table_clusters) * cluster + counted * 2, &[0, 1]);
    }
    for (n, (_, bytes)) in (0..).zip(&pieces) {
        image.write((first + n) * cluster, bytes);
    }
    image
}
