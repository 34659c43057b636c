//! The qcow2 header, version 3, of an image with zones.
//!
//! Source: the qcow2 specification in QEMU's `docs/interop`. [`Header::parse`] turns the first bytes
//! of a file into a [`Header`] in which every field is checked: tables are aligned, inside the file,
//! large enough for the drive, and apart from each other. What would let an image name other files,
//! or needs more than we do (backing files, encryption, snapshots, compression, subclusters), is
//! refused by name. [`Header::encode`] writes the header of an image of our own.
//!
//! What a plain qcow2 image lacks is asked first: it is *not a zoned drive*, whatever else it has.

use super::geometry::{Clamp, MIN_BLOCK_SIZE};
use super::{Geometry, damaged, unsupported, zonal, zoned};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Blocks, ZoneIndex};
use alloc::{format, vec, vec::Vec};
use core::mem::offset_of;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest cluster of qcow2, in bytes: as much as [`Header::parse`] ever looks at.
pub const MAX_CLUSTER: usize = 2 << 20;
/// The largest L1 table QEMU opens, in bytes.
pub const MAX_L1: u64 = 32 << 20;
/// The largest refcount table QEMU opens, in bytes.
pub const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Bytes of a header as [`Header::encode`] writes it, in clusters that are not smaller; the rest of
/// its cluster is zeros.
pub const ENCODED: usize = 4096;

/// `COPIED`, bit 63 of L1 and L2 entries: the cluster's refcount is exactly 1.
pub const COPIED: u64 = 1 << 63;
/// `COMPRESSED`, bit 62 of L2 entries.
pub const COMPRESSED: u64 = 1 << 62;
/// `ZERO`, bit 0 of L2 entries: the cluster reads as zeros.
pub const ZERO: u64 = 1;
/// Bits 9 to 55 of L1 and L2 entries: an offset in the file.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 3;
/// The shortest header of version 3; the compression type stands after it.
const MIN_HEADER_LENGTH: u32 = 104;

/// Bit 0 of the incompatible features: the refcounts may be wrong.
const DIRTY: u64 = 1 << 0;
/// Bit 1 of the incompatible features: somebody found the image wrong.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const ZONED: u64 = 1 << 5;
/// `ZONED` by number, as the feature name table wants it.
const ZONED_BIT: u8 = 5;

const EXT_END: u32 = 0;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
/// Names the format of a backing file; without one it says nothing.
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
/// The longest name in the feature name table.
const FEATURE_NAME: usize = 46;

/// The header's fixed part.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U32,
    backing_offset: U64,
    backing_size: U32,
    cluster_bits: U32,
    size: U64,
    crypt_method: U32,
    l1_size: U32,
    l1_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    nb_snapshots: U32,
    snapshots_offset: U64,
    incompatible: U64,
    compatible: U64,
    autoclear: U64,
    refcount_order: U32,
    header_length: U32,
    compression_type: u8,
    padding: [u8; 7],
}

/// Where the header has its incompatible features.
pub const INCOMPATIBLE_OFFSET: usize = offset_of!(Raw, incompatible);

/// Bytes of the header's fixed part, as QEMU writes it too.
pub const HEADER_LENGTH: usize = 112;

const _: () = {
    assert!(size_of::<Raw>() == HEADER_LENGTH);
    assert!(offset_of!(Raw, size) == 24);
    assert!(offset_of!(Raw, l1_offset) == 40);
    assert!(offset_of!(Raw, incompatible) == 72);
    assert!(offset_of!(Raw, header_length) == 100);
    assert!(offset_of!(Raw, compression_type) == 104);
};

/// Where the tables of an image are that every qcow2 image has, with zones or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The drive's size in bytes.
    pub size: u64,
    /// Cluster size as a power of two, 9 to 21.
    pub cluster_bits: u32,
    /// Width of a refcount in bits, as a power of two, 0 to 6.
    pub refcount_order: u32,
    /// Where the L1 table is.
    pub l1_offset: u64,
    /// Entries of the L1 table; at least as many as the drive needs.
    pub l1_entries: u32,
    /// Where the refcount table is.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// The file's length in bytes when the header was read.
    pub file_len: u64,
    /// What only extensions point to.
    pub(super) extra: Vec<Region>,
}

/// A checked header: where everything of the image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The drive, limits clamped; without our extension its blocks are sectors of 512 bytes, and its
    /// append limit the default one.
    pub geometry: Geometry,
    /// The tables of qcow2.
    pub tables: Tables,
    /// Where the zone table is.
    pub zone_table_offset: u64,
    /// Our extension, if the image has it.
    pub zonal: Option<zonal::Extension>,
    /// Autoclear feature bits. None is known here: a writer makes them 0 before its first write.
    pub autoclear: u64,
    /// Limits of the header that the drive cannot reach, and what holds instead.
    pub clamps: Vec<Clamp>,
    /// The first header extension that this program does not know, if there is one: what it points
    /// to looks free.
    pub stranger: Option<u32>,
}

/// A range of the file with its name, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) offset: u64,
    /// In bytes, whole clusters.
    pub(super) length: u64,
}

impl Region {
    pub(super) fn overlaps(&self, offset: u64, length: u64) -> bool {
        self.offset < offset.saturating_add(length)
            && offset < self.offset.saturating_add(self.length)
    }
}

impl Tables {
    /// Reads the header of an image without zones that is to be given some. `bytes` are as for
    /// [`Header::parse`].
    ///
    /// # Errors
    /// As [`Header::parse`]; [`ErrorKind::InvalidInput`] for an image that has zones, and
    /// [`ErrorKind::Unsupported`] for header extensions whose data would have to be moved, or is not
    /// known, by name.
    pub fn parse_plain(bytes: &[u8], file_len: u64) -> Result<Self> {
        let raw = fixed_part(bytes).map_err(|error| match error.detail() {
            VERSION_2 => unsupported(4, 4, ADOPT_VERSION_2),
            _ => error,
        })?;
        let extensions = Extensions::find(bytes, raw, 1 << raw.cluster_bits()?)?;
        if extensions.zoned.is_some() || raw.incompatible.get() & ZONED != 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "it has zones already"));
        }
        raw.refuse_features()?;
        if let Some((magic, at)) = extensions.stranger {
            return Err(unsupported(at, 8, stranger(magic)));
        }
        let tables = raw.tables(file_len)?;
        tables.check()?;
        Ok(tables)
    }

    /// Bytes of a cluster.
    #[must_use]
    pub const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of one L2 table, which fills a cluster.
    #[must_use]
    pub const fn l2_entries(&self) -> u64 {
        self.cluster_size() / 8
    }

    /// Refcounts of one refcount block, which fills a cluster.
    #[must_use]
    pub const fn refcounts(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// Clusters of the drive's data, the last maybe not all of it.
    #[must_use]
    pub const fn data_clusters(&self) -> u64 {
        self.size.div_ceil(self.cluster_size())
    }

    /// L1 entries that the drive's data needs; what the table has above them is past the drive's end.
    #[must_use]
    pub const fn l1_entries_needed(&self) -> u64 {
        self.data_clusters().div_ceil(self.l2_entries())
    }

    /// Clusters of the file, the last maybe not all of it.
    #[must_use]
    pub const fn file_clusters(&self) -> u64 {
        self.file_len.div_ceil(self.cluster_size())
    }

    /// Every part of the file the header knows, in whole clusters.
    pub(super) fn regions(&self) -> Vec<Region> {
        let cluster = self.cluster_size();
        let region = |name, offset, length: u64| Region {
            name,
            offset,
            length: length.next_multiple_of(cluster),
        };
        let mut regions = vec![
            region("the header", 0, cluster),
            region("the L1 table", self.l1_offset, u64::from(self.l1_entries) * 8),
            region(
                "the refcount table",
                self.refcount_table_offset,
                u64::from(self.refcount_table_clusters) * cluster,
            ),
        ];
        regions.extend(&self.extra);
        regions
    }

    fn check(&self) -> Result<()> {
        let l1 = u64::from(self.l1_entries) * 8;
        if l1 > MAX_L1 || u64::from(self.l1_entries) < self.l1_entries_needed() {
            let detail = format!(
                "{} L1 entries; a drive of {} bytes needs {}, and {} are too many",
                self.l1_entries,
                self.size,
                self.l1_entries_needed(),
                MAX_L1 / 8 + 1
            );
            return Err(damaged(offset_of!(Raw, l1_size) as u64, 4, detail));
        }
        let refcount_table = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if refcount_table == 0 || refcount_table > MAX_REFCOUNT_TABLE {
            let detail =
                format!("a refcount table of {refcount_table} bytes; at most 8 MiB, not 0");
            return Err(damaged(offset_of!(Raw, refcount_table_clusters) as u64, 4, detail));
        }
        let mut regions = self.regions();
        for region in &regions {
            self.check_region(region)?;
        }
        regions.sort_by_key(|region| region.offset);
        for pair in regions.windows(2) {
            if pair[0].overlaps(pair[1].offset, pair[1].length) {
                let detail = format!("{} overlaps {}", pair[1].name, pair[0].name);
                return Err(damaged(pair[1].offset, pair[1].length, detail));
            }
        }
        Ok(())
    }

    fn check_region(&self, region: &Region) -> Result<()> {
        let Region { name, offset, length } = *region;
        if !offset.is_multiple_of(self.cluster_size()) {
            let detail = format!("{name} does not start on a cluster of {}", self.cluster_size());
            return Err(damaged(offset, length, detail));
        }
        // A file may end inside the last cluster of a table that does not fill it.
        let end = offset.checked_add(length).filter(|end| *end <= OFFSET);
        let reaches =
            end.is_some_and(|end| end <= self.file_len.next_multiple_of(self.cluster_size()));
        if !reaches {
            let detail = format!(
                "{name} lies past the end of the file, {} bytes; the file was cut short",
                self.file_len
            );
            return Err(damaged(offset, length, detail));
        }
        Ok(())
    }
}

impl Header {
    /// Whether the header and its extensions end in these first bytes of a file, so that more of it would
    /// not change what [`parse`](Self::parse) says.
    #[must_use]
    pub fn ends_in(bytes: &[u8]) -> bool {
        let Ok(raw) = fixed_part(bytes) else { return false };
        let mut at = raw.header_length.get() as usize;
        while let Some((magic, data)) = extension_at(bytes, at) {
            if magic == EXT_END {
                return true;
            }
            at += 8 + data.len().next_multiple_of(8);
        }
        false
    }

    /// Reads a header from `bytes`: the file's first [`MAX_CLUSTER`] bytes, or all of a shorter file.
    ///
    /// # Errors
    /// [`ErrorKind::NotZoned`] for what is no qcow2 image, or one without zones;
    /// [`ErrorKind::Unsupported`] for features or revisions we do not handle, by name;
    /// [`ErrorKind::Damaged`] for fields that cannot be, with their place in the file.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self> {
        let raw = fixed_part(bytes)?;
        let cluster = 1u64 << raw.cluster_bits()?;
        let extensions = Extensions::find(bytes, raw, cluster)?;
        let zoned = extensions.zoned(raw)?;
        raw.refuse_features()?;
        let ours = extensions
            .zonal
            .map(|(data, offset)| zonal::Extension::parse(data, offset))
            .transpose()?;
        let place = extensions.zoned.map_or(0, |(_, offset)| offset);
        let (geometry, clamps) = geometry(raw.size.get(), &zoned, ours.as_ref())
            .map_err(|error| error.at(place, zoned::LENGTH as u64))?;
        let mut tables = raw.tables(file_len)?;
        tables.extra = extra(tables.cluster_size(), &geometry, zoned.table_offset, ours.as_ref());
        tables.check()?;
        let header = Self {
            geometry,
            tables,
            zone_table_offset: zoned.table_offset,
            zonal: ours,
            autoclear: raw.autoclear.get(),
            clamps,
            stranger: extensions.stranger.map(|(magic, _)| magic),
        };
        header.check_pages()?;
        Ok(header)
    }

    /// As [`parse`](Self::parse), for who repairs: also of an image that is marked dirty or corrupt.
    /// The second value is the incompatible features without these marks, if it has one.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_marked(bytes: &[u8], file_len: u64) -> Result<(Self, Option<u64>)> {
        let marked = fixed_part(bytes)?.incompatible.get();
        let features = marked & !(DIRTY | CORRUPT);
        if features == marked {
            return Ok((Self::parse(bytes, file_len)?, None));
        }
        let mut bytes = bytes.to_vec();
        bytes[INCOMPATIBLE_OFFSET..][..8].copy_from_slice(&features.to_be_bytes());
        Ok((Self::parse(&bytes, file_len)?, Some(features)))
    }

    /// The bytes the file starts with, at most [`ENCODED`] of them; zeros follow to the end of the
    /// cluster.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let raw = Raw {
            magic: MAGIC.into(),
            version: VERSION.into(),
            backing_offset: 0.into(),
            backing_size: 0.into(),
            cluster_bits: self.tables.cluster_bits.into(),
            size: self.tables.size.into(),
            crypt_method: 0.into(),
            l1_size: self.tables.l1_entries.into(),
            l1_offset: self.tables.l1_offset.into(),
            refcount_table_offset: self.tables.refcount_table_offset.into(),
            refcount_table_clusters: self.tables.refcount_table_clusters.into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible: ZONED.into(),
            compatible: 0.into(),
            autoclear: self.autoclear.into(),
            refcount_order: self.tables.refcount_order.into(),
            // 112, as asserted above.
            header_length: 112.into(),
            compression_type: 0,
            padding: [0; 7],
        };
        let mut bytes = raw.as_bytes().to_vec();
        push_extension(&mut bytes, EXT_FEATURE_NAMES, &feature_name());
        let zoned = zoned::Extension::of(&self.geometry, self.zone_table_offset);
        push_extension(&mut bytes, zoned::MAGIC, &zoned.encode());
        if let Some(ours) = &self.zonal {
            push_extension(&mut bytes, zonal::MAGIC, &ours.encode());
        }
        push_extension(&mut bytes, EXT_END, &[]);
        // All of it fits the smallest cluster, and its first sector.
        bytes.resize(ENCODED.min(1 << self.tables.cluster_bits), 0);
        bytes
    }

    /// Where in the file a zone's table entry is.
    #[must_use]
    pub fn zone_entry_offset(&self, zone: ZoneIndex) -> u64 {
        self.zone_table_offset + zoned::ENTRY * u64::from(zone.0)
    }

    /// [`zoned::decode`], with the entry's place in the file in its errors.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], naming the zone and the place.
    pub fn decode_entry(&self, zone: ZoneIndex, entry: u64) -> Result<Blocks> {
        zoned::decode(&self.geometry, zone, entry)
            .map_err(|error| error.at(self.zone_entry_offset(zone), zoned::ENTRY))
    }

    /// Our tables are written in pages, which in images of small clusters must not be torn.
    fn check_pages(&self) -> Result<()> {
        let Some(ours) = &self.zonal else { return Ok(()) };
        for (name, offset) in [
            ("the zone table", self.zone_table_offset),
            ("the session record", ours.sessions_offset),
            ("the generations", ours.generations_offset),
        ] {
            if !offset.is_multiple_of(zonal::PAGE as u64) {
                let detail = format!("{name} does not start on a page of {}", zonal::PAGE);
                return Err(damaged(offset, zonal::PAGE as u64, detail));
            }
        }
        Ok(())
    }
}

/// What only extensions point to: whole clusters, and for us whole pages.
pub(super) fn extra(
    cluster: u64,
    geometry: &Geometry,
    zone_table: u64,
    ours: Option<&zonal::Extension>,
) -> Vec<Region> {
    let page = zonal::PAGE as u64;
    let unit = if ours.is_some() { cluster.max(page) } else { cluster };
    let region =
        |name, offset, length: u64| Region { name, offset, length: length.next_multiple_of(unit) };
    let zones = u64::from(geometry.zones());
    let mut regions = vec![region("the zone table", zone_table, zones * zoned::ENTRY)];
    if let Some(ours) = ours {
        let pages = u64::from(zonal::generation_pages(geometry.zones()));
        regions.push(region("the session record", ours.sessions_offset, 2 * page));
        regions.push(region("the generations", ours.generations_offset, 2 * pages * page));
    }
    regions
}

/// What an extension that is not known would need, by its name where it has one.
fn stranger(magic: u32) -> alloc::string::String {
    match magic {
        0x2385_2875 => {
            "persistent bitmaps; remove them first, with `qemu-img bitmap --remove`".into()
        }
        0x0537_be77 => "the header of an encrypted disk; decrypt the image first".into(),
        0x4441_5441 => "the name of an external data file; convert the image to one without".into(),
        _ => format!("a header extension {magic:#010x}, which this program does not know"),
    }
}

const VERSION_2: &str = "a qcow2 image of version 2, which has no zones";
const ADOPT_VERSION_2: &str =
    "qcow2 version 2; bring it to 3 first, with `qemu-img amend -o compat=1.1`";

fn fixed_part(bytes: &[u8]) -> Result<&Raw> {
    let magic = bytes.first_chunk::<4>().copied().map(u32::from_be_bytes);
    if magic != Some(MAGIC) {
        return Err(Error::new(ErrorKind::NotZoned, "not a qcow2 image"));
    }
    let Ok((raw, _)) = Raw::ref_from_prefix(bytes) else {
        let detail = format!("a qcow2 header of {} bytes; the file was cut short", bytes.len());
        return Err(damaged(0, bytes.len() as u64, detail));
    };
    match raw.version.get() {
        VERSION => Ok(raw),
        2 => Err(Error::new(ErrorKind::NotZoned, VERSION_2)),
        other => Err(unsupported(4, 4, format!("qcow2 version {other}; only 3 is understood"))),
    }
}

impl Raw {
    fn tables(&self, file_len: u64) -> Result<Tables> {
        Ok(Tables {
            size: self.size.get(),
            cluster_bits: self.cluster_bits()?,
            refcount_order: self.refcount_order.get(),
            l1_offset: self.l1_offset.get(),
            l1_entries: self.l1_size.get(),
            refcount_table_offset: self.refcount_table_offset.get(),
            refcount_table_clusters: self.refcount_table_clusters.get(),
            file_len,
            extra: Vec::new(),
        })
    }

    fn cluster_bits(&self) -> Result<u32> {
        let bits = self.cluster_bits.get();
        if (9..=21).contains(&bits) {
            return Ok(bits);
        }
        let detail = format!("cluster_bits {bits}; it should be 9 to 21");
        Err(damaged(offset_of!(Self, cluster_bits) as u64, 4, detail))
    }

    fn refuse_features(&self) -> Result<()> {
        self.refuse_files()?;
        self.refuse_bits()?;
        let order = self.refcount_order.get();
        if order > 6 {
            let detail = format!("refcount_order {order}; it should be at most 6");
            return Err(damaged(offset_of!(Self, refcount_order) as u64, 4, detail));
        }
        Ok(())
    }

    fn refuse_files(&self) -> Result<()> {
        if self.backing_offset.get() != 0 || self.backing_size.get() != 0 {
            let detail = "a backing file; flatten the image first, with `qemu-img rebase -b ''`";
            return Err(unsupported(offset_of!(Self, backing_offset) as u64, 12, detail));
        }
        if self.crypt_method.get() != 0 {
            let detail = "encryption; decrypt the image first";
            return Err(unsupported(offset_of!(Self, crypt_method) as u64, 4, detail));
        }
        if self.nb_snapshots.get() != 0 {
            let detail = "internal snapshots; delete them first, with `qemu-img snapshot -d`";
            return Err(unsupported(offset_of!(Self, nb_snapshots) as u64, 4, detail));
        }
        Ok(())
    }

    fn refuse_bits(&self) -> Result<()> {
        let offset = offset_of!(Self, incompatible) as u64;
        let bits = self.incompatible.get();
        if bits & CORRUPT != 0 {
            let detail = "the image is marked corrupt; repair it with `zonal check --repair`, or one without \
                          zones with `qemu-img check -r all`";
            return Err(damaged(offset, 8, detail));
        }
        if bits & DIRTY != 0 {
            let detail = "its refcounts are marked dirty; repair it with `zonal check --repair`, or one without \
                          zones with `qemu-img check -r all`";
            return Err(damaged(offset, 8, detail));
        }
        for (bit, name) in [
            (EXTERNAL_DATA, "an external data file"),
            (COMPRESSION, "a compression type"),
            (EXTENDED_L2, "subclusters (extended L2)"),
        ] {
            if bits & bit != 0 {
                let detail = format!("{name}; convert the image to one without");
                return Err(unsupported(offset, 8, detail));
            }
        }
        let unknown = bits & !ZONED;
        if unknown != 0 {
            let detail = format!("unknown incompatible feature bits {unknown:#x}");
            return Err(unsupported(offset, 8, detail));
        }
        // Only a longer header has the field; zlib, 0, is the type that needs no feature bit.
        if self.header_length.get() > MIN_HEADER_LENGTH && self.compression_type != 0 {
            let detail = format!("compression type {} without its bit", self.compression_type);
            return Err(damaged(offset_of!(Self, compression_type) as u64, 1, detail));
        }
        Ok(())
    }
}

/// The extensions we look at: data and its place in the file.
#[derive(Default)]
struct Extensions<'a> {
    zoned: Option<(&'a [u8], u64)>,
    zonal: Option<(&'a [u8], u64)>,
    /// The magic and place of the first that is not known.
    stranger: Option<(u32, u64)>,
}

impl<'a> Extensions<'a> {
    /// Walks the extensions between the header's fixed part and the end of its cluster.
    fn find(bytes: &'a [u8], raw: &Raw, cluster: u64) -> Result<Self> {
        let length = raw.header_length.get();
        let cluster = usize::try_from(cluster).unwrap_or(usize::MAX);
        let area = bytes.get(..cluster).unwrap_or(bytes);
        let mut at = length as usize;
        if length < MIN_HEADER_LENGTH || !length.is_multiple_of(8) || at > area.len() {
            let detail = format!("header_length {length}; it should be 104, 112 or a few more");
            return Err(damaged(offset_of!(Raw, header_length) as u64, 4, detail));
        }
        let mut found = Self::default();
        while at < area.len() {
            let Some((magic, data)) = extension_at(area, at) else {
                let detail = "a header extension runs past the header's cluster";
                return Err(damaged(at as u64, 8, detail));
            };
            // Others do not change what is where; those that would come with a feature bit.
            let mut other = None;
            let slot = match magic {
                EXT_END => break,
                zoned::MAGIC => &mut found.zoned,
                zonal::MAGIC => &mut found.zonal,
                EXT_FEATURE_NAMES | EXT_BACKING_FORMAT => &mut other,
                _ => {
                    found.stranger.get_or_insert((magic, at as u64));
                    &mut other
                }
            };
            if slot.is_some() {
                let detail = format!("a second header extension {magic:#010x}");
                return Err(damaged(at as u64, 8, detail));
            }
            *slot = Some((data, at as u64 + 8));
            at += 8 + data.len().next_multiple_of(8);
        }
        Ok(found)
    }

    /// QEMU's zoned extension, which stands there if and only if its feature bit does.
    fn zoned(&self, raw: &Raw) -> Result<zoned::Extension> {
        let offset = offset_of!(Raw, incompatible) as u64;
        match (self.zoned, raw.incompatible.get() & ZONED != 0) {
            (Some((data, offset)), true) => zoned::Extension::parse(data, offset),
            (None, false) => Err(Error::new(ErrorKind::NotZoned, "a qcow2 image without zones")),
            (None, true) => {
                Err(damaged(offset, 8, "feature bit 5, zoned format, without its extension"))
            }
            (Some(_), false) => {
                Err(damaged(offset, 8, "a zoned extension without feature bit 5, zoned format"))
            }
        }
    }
}

/// The extension at `at`: its magic and its data, which ends inside `area` with its padding.
fn extension_at(area: &[u8], at: usize) -> Option<(u32, &[u8])> {
    let (magic, rest) = area.get(at..)?.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let magic = u32::from_be_bytes(*magic);
    if magic == EXT_END {
        return Some((magic, &[]));
    }
    rest.get(..length.checked_next_multiple_of(8)?)?;
    Some((magic, &rest[..length]))
}

fn push_extension(bytes: &mut Vec<u8>, magic: u32, data: &[u8]) {
    bytes.extend_from_slice(&magic.to_be_bytes());
    // All of ours are shorter than a page.
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The one entry of the feature name table: kind 0 (incompatible), bit, name.
fn feature_name() -> [u8; 2 + FEATURE_NAME] {
    let mut entry = [0; 2 + FEATURE_NAME];
    entry[1] = ZONED_BIT;
    let name = b"zoned format";
    entry[2..2 + name.len()].copy_from_slice(name);
    entry
}

/// The drive that header and extensions describe.
fn geometry(
    size: u64,
    zoned: &zoned::Extension,
    ours: Option<&zonal::Extension>,
) -> Result<(Geometry, Vec<Clamp>)> {
    let mut geometry = Geometry {
        zone_size: zoned.zone_size,
        zone_capacity: zoned.zone_capacity,
        conventional_zones: zoned.conventional_zones,
        max_open_zones: zoned.max_open_zones,
        max_active_zones: zoned.max_active_zones,
        block_size: MIN_BLOCK_SIZE,
        ..Geometry::with_size(size)
    };
    match ours {
        Some(ours) => {
            (geometry.block_size, geometry.max_append) = (ours.block_size, ours.max_append);
        }
        // A default is lowered without a word.
        None => {
            let capacity = u32::try_from(geometry.zone_capacity).unwrap_or(u32::MAX);
            geometry.max_append = geometry.max_append.min(capacity);
        }
    }
    let clamps = geometry.clamp();
    geometry.validate_for_image().map_err(|error| {
        Error::new(ErrorKind::Damaged, alloc::string::String::from(error.detail()))
    })?;
    if zoned.nr_zones != geometry.zones() {
        let detail = format!(
            "the extension says {} zones; {size} bytes in zones of {} are {}",
            zoned.nr_zones,
            zoned.zone_size,
            geometry.zones()
        );
        return Err(Error::new(ErrorKind::Damaged, detail));
    }
    Ok((geometry, clamps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::layout::Layout;
    use crate::format::sample;
    use proptest::prelude::*;

    const ID: [u8; 16] = [0xab; 16];

    fn image() -> (Vec<u8>, u64) {
        let geometry = Geometry {
            zone_size: 4 << 20,
            zone_capacity: 3 << 20,
            conventional_zones: 1,
            max_open_zones: 3,
            max_active_zones: 7,
            ..Geometry::with_size(64 << 20)
        };
        let layout = Layout::plan(&geometry).unwrap();
        (layout.header(ID).encode(), layout.file_len)
    }

    /// What a header with `change` made to its bytes is refused with.
    fn refused(change: impl FnOnce(&mut Vec<u8>)) -> Error {
        let (mut bytes, file_len) = image();
        change(&mut bytes);
        Header::parse(&bytes, file_len).unwrap_err()
    }

    fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    #[test]
    fn the_header_has_these_bytes() {
        let (bytes, _) = image();
        #[rustfmt::skip]
        let fixed = [
            b'Q', b'F', b'I', 0xfb, 0, 0, 0, 3,
            0, 0, 0, 0, 0, 0, 0, 0, // backing file
            0, 0, 0, 0, 0, 0, 0, 21, // its size; cluster_bits
            0, 0, 0, 0, 4, 0, 0, 0, // size
            0, 0, 0, 0, 0, 0, 0, 2, // encryption; L1 entries: the data, and past its end our tables
            0, 0, 0, 0, 0, 0x60, 0, 0, // L1
            0, 0, 0, 0, 0, 0x20, 0, 0, // refcount table
            0, 0, 0, 1, 0, 0, 0, 0, // its clusters; snapshots
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0x20, // incompatible
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 4, 0, 0, 0, 112, // refcount_order, header_length
            0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes[..112], fixed);
        assert_eq!(bytes[112..122], [0x68, 3, 0xf8, 0x57, 0, 0, 0, 48, 0, 5]);
        assert_eq!(bytes[122..135], *b"zoned format\0");
        assert_eq!(bytes[168..176], [0, 0x7a, 0x62, 0x64, 0, 0, 0, 44]);
        assert_eq!(bytes[176..184], [1, 0, 0, 0, 0, 0, 0, 16]);
        assert_eq!(bytes[200..208], [0, 0, 0, 0, 0, 0xc0, 0, 0]);
        assert_eq!(bytes[224..232], [0x7a, 0x6f, 0x6e, 0x6c, 0, 0, 0, 52]);
        assert!(bytes[284..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_header_comes_back() {
        let (bytes, file_len) = image();
        let header = Header::parse(&bytes, file_len).unwrap();
        assert_eq!(header.encode(), bytes);
        assert_eq!(header.geometry.max_active_zones, 7);
        assert_eq!(header.zonal.unwrap().image_id, ID);
        assert!(header.clamps.is_empty());
    }

    #[test]
    fn an_image_without_our_extension_opens_with_sectors() {
        let (mut bytes, file_len) = image();
        set(&mut bytes, 224, &[0xaa; 4]);
        let header = Header::parse(&bytes, file_len).unwrap();
        assert_eq!(header.zonal, None);
        assert_eq!(header.geometry.block_size, 512);
        assert_eq!(header.geometry.max_append, 1 << 20);
    }

    #[test]
    fn limits_out_of_reach_are_clamped_with_a_warning() {
        let (mut bytes, file_len) = image();
        set(&mut bytes, 212, &[0, 0, 1, 0]);
        let header = Header::parse(&bytes, file_len).unwrap();
        assert_eq!(header.clamps, [Clamp::ActiveOverZones { from: 256, to: 16 }]);
    }

    #[test]
    fn what_is_no_zoned_image_is_said_to_be_none() {
        for bytes in [&b""[..], b"QFI", b"#!/bin/sh\n", &[0; 4096]] {
            assert_eq!(Header::parse(bytes, 4096).unwrap_err().kind(), ErrorKind::NotZoned);
        }
        assert_eq!(refused(|b| b[7] = 2).kind(), ErrorKind::NotZoned);
        // Plain qcow2, even one with a backing file, is first of all without zones.
        let plain = refused(|b| {
            b[79] = 0;
            b[15] = 1;
            set(b, 168, &[0; 8]);
        });
        assert_eq!(plain.kind(), ErrorKind::NotZoned);
        assert!(plain.detail().contains("without zones"), "{plain}");
    }

    #[test]
    fn features_we_do_not_handle_are_refused_by_name() {
        for (at, value, name) in [
            (7, 4, "version 4"),
            (15, 1, "backing file"),
            (35, 1, "encryption"),
            (63, 1, "snapshots"),
            (79, 0x24, "external data"),
            (79, 0x28, "compression"),
            (79, 0x30, "extended L2"),
            (79, 0x60, "0x40"),
            (175, 48, "another revision"),
            (176, 0, "zone model 0"),
            (235, 2, "version 2"),
        ] {
            let error = refused(|b| b[at] = value);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.detail().contains(name), "{error}");
        }
    }

    #[test]
    fn fields_that_cannot_be_are_refused() {
        for (at, value, name) in [
            (23, 8, "cluster_bits"),
            (23, 22, "cluster_bits"),
            (39, 0, "L1 entries"),
            (36, 1, "L1 entries"),
            (47, 1, "does not start on a cluster"),
            (45, 0x20, "overlaps"),
            (45, 0, "overlaps"),
            (43, 1, "past the end"),
            (59, 0, "refcount table"),
            (59, 5, "refcount table"),
            (79, 0x21, "dirty"),
            (79, 0x22, "corrupt"),
            (79, 0, "without feature bit"),
            (99, 7, "refcount_order"),
            (103, 96, "header_length"),
            (103, 113, "header_length"),
            (101, 0x10, "header_length"),
            (104, 1, "compression type"),
            (168, 1, "without its extension"),
            (172, 1, "past the header"),
            (183, 17, "17 zones"),
            (189, 0, "zone-size"),
            (197, 0x50, "capacity"),
            (211, 16, "conventional"),
            (203, 1, "past the end"),
            (240, 1, "checksum"),
        ] {
            let error = refused(|b| b[at] = value);
            assert_eq!(error.kind(), ErrorKind::Damaged, "byte {at}: {error}");
            assert!(error.detail().contains(name), "byte {at}: {error}");
        }
        let twice = refused(|b| b.copy_within(168..176, 224));
        assert!(twice.detail().contains("second"), "{twice}");
        let (bytes, file_len) = image();
        let cut = Header::parse(&bytes, file_len / 8).unwrap_err();
        assert!(cut.detail().contains("cut short"), "{cut}");
        assert_eq!(Header::parse(&bytes[..100], 100).unwrap_err().kind(), ErrorKind::Damaged);
    }

    proptest! {
        #[test]
        fn a_changed_header_never_panics(
            changes in prop::collection::vec((0usize..296, any::<u8>()), 0..6),
            length in 0usize..ENCODED,
            file_len: u64,
        ) {
            let (mut bytes, len) = image();
            for (at, value) in changes {
                bytes[at] = value;
            }
            for file_len in [len, file_len] {
                if let Ok(header) = Header::parse(&bytes, file_len) {
                    let _ = header.encode();
                }
                let _ = Header::parse(&bytes[..length], file_len);
            }
        }
    }
    /// The header of an image without zones: that of ours without its feature bit and extensions.
    fn plain() -> (Vec<u8>, u64) {
        let (mut bytes, file_len) = image();
        bytes[79] = 0;
        bytes[HEADER_LENGTH..].fill(0);
        (bytes, file_len)
    }

    /// What such a header with `change` made to its bytes is refused with.
    fn plain_refused(change: impl FnOnce(&mut Vec<u8>)) -> Error {
        let (mut bytes, file_len) = plain();
        change(&mut bytes);
        Tables::parse_plain(&bytes, file_len).unwrap_err()
    }

    #[test]
    fn the_tables_of_an_image_without_zones_are_read() {
        let (bytes, file_len) = plain();
        let ours = Header::parse(&image().0, file_len).unwrap().tables;
        let expected = Tables { extra: Vec::new(), ..ours };
        assert_eq!(Tables::parse_plain(&bytes, file_len).unwrap(), expected);
        // The name of a backing file's format says nothing by itself.
        let (mut bytes, file_len) = plain();
        set(&mut bytes, 112, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, b'r', b'a', b'w']);
        assert_eq!(Tables::parse_plain(&bytes, file_len).unwrap(), expected);
    }

    #[test]
    fn an_image_that_cannot_get_zones_is_refused_by_name() {
        for error in [
            plain_refused(|b| b[79] = 0x20),
            plain_refused(|b| set(b, 112, &image().0[168..168 + 56])),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.detail().contains("has zones already"), "{error}");
        }
        for (magic, words) in [
            ([0x23, 0x85, 0x28, 0x75], "persistent bitmaps"),
            ([0x05, 0x37, 0xbe, 0x77], "encrypted"),
            (*b"DATA", "external data file"),
            ([1, 2, 3, 4], "a header extension 0x01020304"),
        ] {
            // Behind another extension.
            let error = plain_refused(|b| {
                set(b, 112, &[0x68, 3, 0xf8, 0x57, 0, 0, 0, 5]);
                set(b, 128, &magic);
            });
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.detail().contains(words), "{error}");
            assert_eq!((error.context().offset, error.context().length), (Some(128), Some(8)));
        }
        let old = plain_refused(|b| b[7] = 2);
        assert!(old.detail().contains("qemu-img amend"), "{old}");
        assert_eq!(old.kind(), ErrorKind::Unsupported);
        let newer = plain_refused(|b| b[7] = 4);
        assert!(newer.detail().contains("version 4"), "{newer}");
        assert_eq!(plain_refused(|b| b[79] = 2).kind(), ErrorKind::Damaged);
        assert_eq!(plain_refused(|b| b[63] = 1).kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn tables_have_the_most_entries_qcow2_allows_and_no_more() {
        let file_len = 1 << 42;
        let (mut bytes, _) = plain();
        set(&mut bytes, 40, &(1_u64 << 40).to_be_bytes());
        set(&mut bytes, 36, &(4_u32 << 20).to_be_bytes());
        Tables::parse_plain(&bytes, file_len).unwrap();
        set(&mut bytes, 36, &((4_u32 << 20) + 1).to_be_bytes());
        assert!(Tables::parse_plain(&bytes, file_len).unwrap_err().detail().contains("L1 entries"));
        // One table for 512 GiB; a drive of one sector more needs two.
        set(&mut bytes, 36, &[0, 0, 0, 1]);
        set(&mut bytes, 24, &(512_u64 << 30).to_be_bytes());
        Tables::parse_plain(&bytes, file_len).unwrap();
        set(&mut bytes, 24, &((512_u64 << 30) + 512).to_be_bytes());
        assert!(Tables::parse_plain(&bytes, file_len).unwrap_err().detail().contains("needs 2"));
        let (mut bytes, _) = plain();
        set(&mut bytes, 48, &(1_u64 << 40).to_be_bytes());
        set(&mut bytes, 56, &[0, 0, 0, 4]);
        Tables::parse_plain(&bytes, file_len).unwrap();
        for clusters in [0, 5, 6] {
            bytes[59] = clusters;
            let error = Tables::parse_plain(&bytes, file_len).unwrap_err();
            assert!(error.detail().contains("at most 8 MiB"), "{error}");
            assert_eq!((error.context().offset, error.context().length), (Some(56), Some(4)));
        }
    }

    #[test]
    fn refcounts_have_up_to_64_bits_and_clusters_512_bytes_to_2_mib() {
        let (mut bytes, file_len) = plain();
        bytes[99] = 6;
        assert_eq!(Tables::parse_plain(&bytes, file_len).unwrap().refcounts(), 1 << 18);
        bytes[23] = 9;
        set(&mut bytes, 36, &[0, 0, 8, 0]);
        let small = Tables::parse_plain(&bytes, file_len).unwrap();
        assert_eq!((small.cluster_size(), small.l2_entries(), small.refcounts()), (512, 64, 64));
        assert_eq!((small.data_clusters(), small.l1_entries_needed()), (1 << 17, 1 << 11));
        bytes[23] = 8;
        assert!(Tables::parse_plain(&bytes, file_len).is_err());
    }

    #[test]
    fn a_header_may_be_104_bytes_long_or_fill_its_cluster() {
        let (mut bytes, file_len) = plain();
        // What stands at 104 is an extension then, and no compression type.
        bytes[103] = 104;
        set(&mut bytes, 104, &[0x68, 3, 0xf8, 0x57, 0, 0, 0, 0]);
        Tables::parse_plain(&bytes, file_len).unwrap();
        bytes[103] = 112;
        assert!(Tables::parse_plain(&bytes, file_len).is_err());
        let (mut bytes, file_len) = plain();
        bytes[23] = 9;
        set(&mut bytes, 36, &[0, 0, 8, 0]);
        set(&mut bytes, 100, &[0, 0, 2, 0]);
        Tables::parse_plain(&bytes, file_len).unwrap();
        set(&mut bytes, 100, &[0, 0, 2, 8]);
        assert!(Tables::parse_plain(&bytes, file_len).is_err());
    }

    #[test]
    fn an_error_in_an_extension_is_named_by_its_place() {
        for (at, value, offset) in [(176, 0, 176), (240, 1, 232 + 48), (172, 1, 168), (189, 0, 176)]
        {
            let error = refused(|b| b[at] = value);
            assert_eq!(error.context().offset, Some(offset), "byte {at}: {error}");
        }
    }

    #[test]
    fn our_parts_start_on_a_page_also_where_clusters_are_smaller() {
        let sample = sample::Image::new();
        let file_len = sample.file.len() as u64;
        // Somewhere in the room for data, where nothing of the header is.
        for (at, name) in
            [(200, "the zone table"), (264, "the session record"), (272, "the generations")]
        {
            for (place, sound) in [(0xd000_u64, true), (0xd200, false)] {
                let mut bytes = sample.file.clone();
                set(&mut bytes, at, &place.to_be_bytes());
                let sum = crc32c::crc32c(&bytes[232..280]).to_be_bytes();
                set(&mut bytes, 280, &sum);
                let header = Header::parse(&bytes, file_len);
                assert_eq!(header.is_ok(), sound, "{name}");
                if let Err(error) = header {
                    assert!(error.detail().contains(name), "{error}");
                    assert_eq!(error.context().length, Some(4096));
                }
            }
        }
    }

    #[test]
    fn every_part_of_the_file_is_known_with_its_length() {
        let regions = |header: &Header| -> Vec<_> {
            header.tables.regions().iter().map(|part| (part.offset, part.length)).collect()
        };
        let mut header = sample::Image::new().header;
        let tables = [(0, 512), (0x8000, 512), (0x9000, 512)];
        assert_eq!(regions(&header)[..3], tables);
        assert_eq!(regions(&header)[3..], [(0x3000, 4096), (0x4000, 8192), (0x6000, 8192)]);
        // 2048 zones: four pages of table, three pages of generations in each copy.
        let (zones, zone_size) = (2048, 64);
        (header.geometry.size, header.geometry.zone_size) = (zones * zone_size, zone_size);
        header.tables.extra = extra(512, &header.geometry, 0x1_0000, header.zonal.as_ref());
        let ours = [(0x1_0000, 4 * 4096), (0x4000, 2 * 4096), (0x6000, 6 * 4096)];
        assert_eq!(regions(&header)[3..], ours);
        // Without our extension the table takes whole clusters, not pages.
        header.geometry.size = 65 * zone_size;
        header.tables.extra = extra(512, &header.geometry, 0x1_0000, None);
        assert_eq!(regions(&header)[3..], [(0x1_0000, 1024)]);
    }

    #[test]
    fn regions_overlap_where_they_share_a_byte() {
        let region = Region { name: "it", offset: 1024, length: 512 };
        let overlap = |offset, length| region.overlaps(offset, length);
        assert!(overlap(1024, 512) && overlap(1535, 1) && overlap(1000, 25) && overlap(0, 4096));
        assert!(!overlap(1536, 512) && !overlap(512, 512) && !overlap(0, 10));
    }

    #[test]
    fn a_zones_entry_is_named_by_its_place() {
        let header = sample::Image::new().header;
        let places = [0, 1, 7].map(|zone| header.zone_entry_offset(ZoneIndex(zone)));
        assert_eq!(places, [0x3000, 0x3008, 0x3038]);
        assert_eq!(header.decode_entry(ZoneIndex(1), 0x4400).unwrap(), Blocks(2));
        let error = header.decode_entry(ZoneIndex(2), 0x4400).unwrap_err();
        let context = error.context();
        assert_eq!(
            (context.zone, context.offset, context.length),
            (Some(2), Some(0x3010), Some(8))
        );
    }
}
