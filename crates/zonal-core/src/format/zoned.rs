//! QEMU's zoned extension of qcow2 and its zone table.
//!
//! Source: the QEMU series "Add full zoned storage emulation to qcow2 driver", revision 11, the one
//! whose extension has 44 bytes. Earlier revisions had other lengths under the same magic, and are
//! refused by that. The table holds no state: a write pointer at the zone's start means empty, at or
//! past its capacity full, anything between closed.

use super::{Geometry, damaged, unsupported};
use crate::error::Result;
use crate::units::{Blocks, ZoneIndex};
use alloc::format;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The extension's magic in the header.
pub const MAGIC: u32 = 0x007a_6264;
/// The extension's length in the one revision understood.
pub const LENGTH: usize = 44;
/// Bit 63 of a table entry: the zone is conventional.
pub const CONVENTIONAL: u64 = 1 << 63;
/// Bytes of one table entry.
pub const ENTRY: u64 = 8;
/// Entries written together: a page of 4096 bytes.
pub const TABLE_ENTRIES_PER_PAGE: usize = 512;

/// `zoned` of a host-managed drive, the only kind there is.
const HOST_MANAGED: u8 = 1;

/// The extension's bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    zoned: u8,
    reserved: [u8; 3],
    nr_zones: U32,
    zone_size: U64,
    zone_capacity: U64,
    zonedmeta_offset: U64,
    conventional_zones: U32,
    max_active_zones: U32,
    max_open_zones: U32,
}

const _: () = {
    assert!(size_of::<Raw>() == LENGTH);
    assert!(core::mem::offset_of!(Raw, zone_size) == 8);
    assert!(core::mem::offset_of!(Raw, zonedmeta_offset) == 24);
    assert!(core::mem::offset_of!(Raw, max_open_zones) == 40);
};

/// What the extension says, as it stands there: not yet held against the drive's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) nr_zones: u32,
    pub(super) zone_size: u64,
    pub(super) zone_capacity: u64,
    pub(super) table_offset: u64,
    pub(super) conventional_zones: u32,
    pub(super) max_active_zones: u32,
    pub(super) max_open_zones: u32,
}

impl Extension {
    /// Reads the extension's data, which stands at `offset` in the file.
    pub(super) fn parse(data: &[u8], offset: u64) -> Result<Self> {
        let Ok(raw) = Raw::ref_from_bytes(data) else {
            return Err(unsupported(
                offset,
                data.len() as u64,
                format!(
                    "a zoned extension of {} bytes, of another revision; only the one of {LENGTH} \
                     bytes is understood; copy the data with the program that made the image",
                    data.len()
                ),
            ));
        };
        if raw.zoned != HOST_MANAGED {
            return Err(unsupported(
                offset,
                1,
                format!("zone model {}; only 1, host-managed, is understood", raw.zoned),
            ));
        }
        Ok(Self {
            nr_zones: raw.nr_zones.get(),
            zone_size: raw.zone_size.get(),
            zone_capacity: raw.zone_capacity.get(),
            table_offset: raw.zonedmeta_offset.get(),
            conventional_zones: raw.conventional_zones.get(),
            max_active_zones: raw.max_active_zones.get(),
            max_open_zones: raw.max_open_zones.get(),
        })
    }

    /// The extension of a drive whose table stands at `table_offset`.
    pub(super) fn of(geometry: &Geometry, table_offset: u64) -> Self {
        Self {
            nr_zones: geometry.zones(),
            zone_size: geometry.zone_size,
            zone_capacity: geometry.zone_capacity,
            table_offset,
            conventional_zones: geometry.conventional_zones,
            max_active_zones: geometry.max_active_zones,
            max_open_zones: geometry.max_open_zones,
        }
    }

    /// The extension's data.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        zerocopy::transmute!(Raw {
            zoned: HOST_MANAGED,
            reserved: [0; 3],
            nr_zones: self.nr_zones.into(),
            zone_size: self.zone_size.into(),
            zone_capacity: self.zone_capacity.into(),
            zonedmeta_offset: self.table_offset.into(),
            conventional_zones: self.conventional_zones.into(),
            max_active_zones: self.max_active_zones.into(),
            max_open_zones: self.max_open_zones.into(),
        })
    }
}

/// A zone's table entry with its write pointer at `wp`, in blocks from the zone's start; a
/// conventional zone has none, and its entry stays at the start.
#[must_use]
pub fn encode(geometry: &Geometry, zone: ZoneIndex, wp: Blocks) -> u64 {
    let start = geometry.start_of(zone);
    if geometry.is_conventional(zone) {
        start | CONVENTIONAL
    } else {
        start + u64::from(wp.0) * u64::from(geometry.block_size)
    }
}

/// The write pointer a table entry says, in blocks from the zone's start and never past its
/// capacity; a conventional zone's is 0.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) naming the zone: an entry outside the
/// zone, between blocks, or of the other zone type. The place in the file is the caller's to add, as
/// [`Header::decode_entry`](super::qcow2::Header::decode_entry) does.
pub fn decode(geometry: &Geometry, zone: ZoneIndex, entry: u64) -> Result<Blocks> {
    let fail = |detail: alloc::string::String| {
        Err(crate::error::Error::new(crate::error::ErrorKind::Damaged, detail).in_zone(zone.0))
    };
    if zone.0 >= geometry.zones() {
        return fail(format!("there are only {} zones", geometry.zones()));
    }
    let start = geometry.start_of(zone);
    let wp = entry & !CONVENTIONAL;
    if (entry & CONVENTIONAL != 0) != geometry.is_conventional(zone) {
        return fail(format!(
            "table entry {entry:#x} contradicts the header's {} conventional zones",
            geometry.conventional_zones
        ));
    }
    if geometry.is_conventional(zone) {
        return if wp == start {
            Ok(Blocks::ZERO)
        } else {
            fail(format!("a conventional zone's entry is {wp}; it should be its start {start}"))
        };
    }
    // At or past capacity is full; past the zone's end it belongs to another zone.
    let end = start + geometry.size_of(zone);
    if !(start..=end).contains(&wp) {
        return fail(format!("write pointer {wp} is outside the zone, {start} to {end}"));
    }
    let block = u64::from(geometry.block_size);
    // The zone starts on a block.
    if !wp.is_multiple_of(block) {
        return fail(format!("write pointer {wp} is inside a block of {block} bytes"));
    }
    let blocks = (wp - start).min(geometry.capacity_of(zone)) / block;
    u32::try_from(blocks)
        .map(Blocks)
        .map_err(|_| damaged(0, 0, "more blocks in a zone than fit in 32 bits").in_zone(zone.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    fn drive() -> Geometry {
        Geometry {
            zone_size: 4 << 20,
            zone_capacity: 3 << 20,
            conventional_zones: 1,
            ..Geometry::with_size((16 << 20) + 8192)
        }
    }

    const LITERAL: [u8; LENGTH] = [
        1, 0, 0, 0, // host-managed
        0, 0, 0, 5, // zones
        0, 0, 0, 0, 0, 0x40, 0, 0, // zone size
        0, 0, 0, 0, 0, 0x30, 0, 0, // zone capacity
        0, 0, 0, 0, 0, 0xa0, 0, 0, // table
        0, 0, 0, 1, // conventional
        0, 0, 0, 7, // active
        0, 0, 0, 3, // open
    ];

    #[test]
    fn the_extension_has_these_bytes() {
        let mut geometry = drive();
        (geometry.max_active_zones, geometry.max_open_zones) = (7, 3);
        let extension = Extension::of(&geometry, 10 << 20);
        assert_eq!(extension.encode(), LITERAL);
        assert_eq!(Extension::parse(&LITERAL, 120).unwrap(), extension);
    }

    #[test]
    fn another_revision_or_model_is_refused_by_name() {
        for length in [0, 43, 48, 56] {
            let error = Extension::parse(&[1; 56][..length], 120).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.detail().contains("another revision"), "{error}");
        }
        let mut none = LITERAL;
        none[0] = 0;
        assert_eq!(Extension::parse(&none, 120).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn an_entry_says_the_write_pointer() {
        let (geometry, zone) = (drive(), ZoneIndex(1));
        let start = 4 << 20;
        assert_eq!(decode(&geometry, zone, start).unwrap(), Blocks(0));
        assert_eq!(decode(&geometry, zone, start + 8192).unwrap(), Blocks(2));
        assert_eq!(decode(&geometry, zone, start + (3 << 20)).unwrap(), Blocks(768));
        // A full zone's pointer may stand at the zone's end.
        assert_eq!(decode(&geometry, zone, start + (4 << 20)).unwrap(), Blocks(768));
        assert_eq!(decode(&geometry, ZoneIndex(0), CONVENTIONAL).unwrap(), Blocks(0));
        assert_eq!(decode(&geometry, ZoneIndex(4), (16 << 20) + 8192).unwrap(), Blocks(2));
    }

    #[test]
    fn an_entry_that_cannot_be_is_refused() {
        let geometry = drive();
        for (zone, entry) in [
            (0, 0),                        // conventional by the header only
            (0, CONVENTIONAL | 4096),      // not at its start
            (1, CONVENTIONAL | (4 << 20)), // conventional by the entry only
            (1, 4096),                     // below
            (1, (8 << 20) + 4096),         // above
            (1, (4 << 20) + 512),          // inside a block
            (4, (16 << 20) + 12288),       // past the drive
            (5, 20 << 20),                 // no such zone
            (1, !CONVENTIONAL),
        ] {
            let error = decode(&geometry, ZoneIndex(zone), entry).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{zone} {entry:#x}");
            assert_eq!(error.context().zone, Some(zone));
        }
    }

    proptest! {
        #[test]
        fn any_entry_is_decoded_or_refused(zone: u32, entry: u64) {
            let _ = decode(&drive(), ZoneIndex(zone), entry);
            let _ = decode(&drive(), ZoneIndex(zone % 5), entry % (32 << 20));
        }

        #[test]
        fn an_entry_comes_back(zone in 0u32..5, wp in 0u32..=2) {
            let geometry = drive();
            let wp = if zone == 0 { Blocks::ZERO } else { Blocks(wp) };
            let entry = encode(&geometry, ZoneIndex(zone), wp);
            prop_assert_eq!(decode(&geometry, ZoneIndex(zone), entry).unwrap(), wp);
        }
    }
    #[test]
    fn an_entry_has_these_bits() {
        let geometry = drive();
        assert_eq!(encode(&geometry, ZoneIndex(0), Blocks(0)), 0x8000_0000_0000_0000);
        // A conventional zone has no write pointer.
        assert_eq!(encode(&geometry, ZoneIndex(0), Blocks(3)), 0x8000_0000_0000_0000);
        assert_eq!(encode(&geometry, ZoneIndex(1), Blocks(0)), 0x40_0000);
        assert_eq!(encode(&geometry, ZoneIndex(2), Blocks(3)), 0x80_3000);
        let two = Geometry { conventional_zones: 2, ..drive() };
        assert_eq!(encode(&two, ZoneIndex(1), Blocks(0)), 0x8000_0000_0040_0000);
        assert_eq!(decode(&two, ZoneIndex(1), 0x8000_0000_0040_0000).unwrap(), Blocks(0));
    }
}
