//! Zones as the kernel reads them: an array of `struct blk_zone` (Linux, `blkzoned.h`), which is what a
//! report has to be (`ublk_cmd.h`, `UBLK_IO_OP_REPORT_ZONES`).

use zonal::{ZoneInfo, ZoneKind, ZoneState};

/// The bytes of a `struct blk_zone`.
pub(super) const ENTRY: usize = 64;

/// The kernel counts in sectors.
pub(super) const SECTOR: u64 = 512;

const TYPE_CONVENTIONAL: u8 = 1;
const TYPE_SEQUENTIAL: u8 = 2;

/// Where a write pointer would be that there is not.
const NO_WRITE_POINTER: u64 = u64::MAX;

/// The zones, one behind the other.
pub(super) fn bytes(zones: &[ZoneInfo]) -> Vec<u8> {
    zones.iter().flat_map(entry).collect()
}

/// `start`, `len`, `wp` (64 bits each); type, condition, two flags, four bytes of nothing; `capacity`; and
/// nothing up to its end.
fn entry(zone: &ZoneInfo) -> [u8; ENTRY] {
    let (kind, capacity) = match zone.kind {
        ZoneKind::Conventional => (TYPE_CONVENTIONAL, zone.size),
        ZoneKind::Sequential => (TYPE_SEQUENTIAL, zone.capacity),
    };
    let mut entry = [0; ENTRY];
    entry[0..8].copy_from_slice(&(zone.start / SECTOR).to_ne_bytes());
    entry[8..16].copy_from_slice(&(zone.size / SECTOR).to_ne_bytes());
    entry[16..24].copy_from_slice(&write_pointer(zone).to_ne_bytes());
    entry[24] = kind;
    entry[25] = zone.state as u8;
    entry[32..40].copy_from_slice(&(capacity / SECTOR).to_ne_bytes());
    entry
}

/// That of a zone which is full is the next zone's start, whatever its capacity (as null_blk, NVMe and SCSI
/// drivers report it).
fn write_pointer(zone: &ZoneInfo) -> u64 {
    match zone.state {
        ZoneState::Full => (zone.start + zone.size) / SECTOR,
        ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => NO_WRITE_POINTER,
        ZoneState::Empty
        | ZoneState::ImplicitlyOpen
        | ZoneState::ExplicitlyOpen
        | ZoneState::Closed => zone.write_pointer.map_or(NO_WRITE_POINTER, |wp| wp / SECTOR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn zone(kind: ZoneKind, state: ZoneState, wp: Option<u64>) -> ZoneInfo {
        let (start, size, capacity) = (8 * MIB, 4 * MIB, 3 * MIB);
        ZoneInfo { zone: 2, kind, state, start, write_pointer: wp, capacity, size }
    }

    fn sectors(entry: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(entry[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_zone_is_said_in_sectors_with_its_capacity() {
        let open = zone(ZoneKind::Sequential, ZoneState::ImplicitlyOpen, Some(8 * MIB + 64 * 1024));
        let entry = bytes(&[open]);
        assert_eq!(entry.len(), ENTRY);
        assert_eq!([sectors(&entry, 0), sectors(&entry, 8)], [16384, 8192]);
        assert_eq!(sectors(&entry, 16), 16384 + 128);
        assert_eq!([entry[24], entry[25]], [2, 2]);
        assert_eq!(sectors(&entry, 32), 6144);
        assert_eq!(entry[40..], [0; 24]);
    }

    #[test]
    fn a_full_zone_points_to_the_next() {
        let entry = bytes(&[zone(ZoneKind::Sequential, ZoneState::Full, Some(11 * MIB))]);
        assert_eq!(sectors(&entry, 16), 12 * MIB / SECTOR);
    }

    #[test]
    fn a_conventional_zone_has_its_whole_size() {
        let entry = bytes(&[zone(ZoneKind::Conventional, ZoneState::NotWp, None)]);
        assert_eq!([entry[24], entry[25]], [1, 0]);
        assert_eq!(sectors(&entry, 32), sectors(&entry, 8));
        assert_eq!(sectors(&entry, 16), u64::MAX);
    }
}
