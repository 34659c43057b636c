//! What a namespace says of its zones (*Zone Management Receive command, Report Zones*), taken apart
//! and checked as [`crate::block`] does with the kernel's reports.

use crate::block::Reported;
use crate::device::ZoneKind;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::zone::ZoneState;

/// Bytes of a report's head, and of one zone's descriptor.
pub(crate) const DESCRIPTOR_BYTES: usize = 64;

// Where fields lie, in bytes (*Zoned Namespace Command Set Specification* 1.1, Zone Management Receive command:
// Report Zones Data Structure, Zone Descriptor Data Structure).
/// Number of Zones, in the head.
const NUMBER_OF_ZONES: usize = 0;
/// Zone Type, in bits 3:0.
const ZT: usize = 0;
/// Zone State, in bits 7:4.
const ZS: usize = 1;
/// Zone Capacity, in blocks.
const ZCAP: usize = 8;
/// Zone Start Logical Block Address.
const ZSLBA: usize = 16;
/// Write Pointer.
const WP: usize = 24;

/// What a report's numbers are to be measured with, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) block_size: u64,
    pub(crate) zone_size: u64,
    /// All of the namespace.
    pub(crate) size: u64,
}

/// Takes a report apart, as far as it holds zones: as many as its head says, and not more than it has
/// bytes for.
///
/// # Errors
/// `Unsupported`: the first zone of which something cannot be understood.
pub(crate) fn zones(report: &[u8], scale: &Scale) -> Result<Vec<Reported>> {
    let (descriptors, _) = report.as_chunks::<DESCRIPTOR_BYTES>();
    let Some((head, descriptors)) = descriptors.split_first() else {
        return Err(Error::new(ErrorKind::Unsupported, "its zone report has no head"));
    };
    let count = usize::try_from(quad(head, NUMBER_OF_ZONES)).unwrap_or(usize::MAX);
    descriptors.iter().take(count).map(|bytes| zone(bytes, scale)).collect()
}

fn zone(bytes: &[u8; DESCRIPTOR_BYTES], scale: &Scale) -> Result<Reported> {
    let (start, capacity) = (scale.bytes(quad(bytes, ZSLBA))?, scale.bytes(quad(bytes, ZCAP))?);
    let (kind, code) = (bytes[ZT] & 0xF, bytes[ZS] >> 4);
    // Sequential Write Required: there is no other in this specification.
    if kind != 2 {
        return Err(wrong(start, &format!("a type of code {kind:#x}")));
    }
    let state = ZoneState::from_code(code).filter(|&state| state != ZoneState::NotWp);
    let state = state.ok_or_else(|| wrong(start, &format!("a state of code {code:#x}")))?;
    // The last one ends where the namespace does.
    let size = scale.size.saturating_sub(start).min(scale.zone_size);
    if size == 0 || capacity == 0 || capacity > scale.zone_size {
        return Err(wrong(start, &format!("a capacity of {capacity} in {size} bytes")));
    }
    let capacity = capacity.min(size);
    let written = match state {
        ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => None,
        ZoneState::Empty => Some(0),
        // Its write pointer is not defined.
        ZoneState::Full => Some(capacity),
        ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => {
            let wp = quad(bytes, WP);
            let written = scale.bytes(wp).ok().and_then(|wp| wp.checked_sub(start));
            let inside = written.filter(|&written| written <= capacity);
            Some(inside.ok_or_else(|| wrong(start, &format!("a write pointer at block {wp}")))?)
        }
    };
    Ok(Reported { start, size, capacity, kind: ZoneKind::Sequential, state, written })
}

impl Scale {
    fn bytes(&self, blocks: u64) -> Result<u64> {
        let bytes = blocks.checked_mul(self.block_size);
        bytes.filter(|&bytes| bytes <= i64::MAX as u64).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("its zone report has block {blocks}"))
        })
    }
}

fn quad(bytes: &[u8; DESCRIPTOR_BYTES], at: usize) -> u64 {
    bytes[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn wrong(start: u64, what: &str) -> Error {
    let text = format!("its zone report has {what} in the zone at byte {start}");
    Error::new(ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Zones of 3 MiB, of which the last is cut short.
    const SCALE: Scale = Scale { block_size: 4096, zone_size: 3 << 20, size: 10 << 20 };

    /// A descriptor of 512 blocks from `start` on, with what is to be tried.
    fn raw(start: u64, wp: u64, kind: u8, state: u8) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        (bytes[0], bytes[1]) = (kind, state << 4);
        bytes[8..16].copy_from_slice(&512_u64.to_le_bytes());
        bytes[16..24].copy_from_slice(&start.to_le_bytes());
        bytes[24..32].copy_from_slice(&wp.to_le_bytes());
        bytes
    }

    fn report(count: u64, zones: &[[u8; DESCRIPTOR_BYTES]]) -> Vec<u8> {
        let mut bytes = vec![0; DESCRIPTOR_BYTES];
        bytes[..8].copy_from_slice(&count.to_le_bytes());
        bytes.extend(zones.iter().flatten());
        bytes
    }

    #[test]
    fn a_zone_is_what_its_bytes_say() {
        let found = zones(&report(1, &[raw(768, 770, 2, 4)]), &SCALE).unwrap();
        let expected = Reported {
            start: 3 << 20,
            size: 3 << 20,
            capacity: 2 << 20,
            kind: ZoneKind::Sequential,
            state: ZoneState::Closed,
            written: Some(8192),
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn the_last_zone_ends_where_the_namespace_does() {
        let found = zones(&report(1, &[raw(3 * 768, 0, 2, 0xE)]), &SCALE).unwrap();
        let Reported { size, capacity, written, .. } = found[0];
        assert_eq!((size, capacity, written), (1 << 20, 1 << 20, Some(1 << 20)));
    }

    #[test]
    fn states_without_a_pointer_have_none_whatever_the_bytes_say() {
        for (state, written) in [(1, Some(0)), (0xE, Some(2 << 20)), (0xD, None), (0xF, None)] {
            let found = zones(&report(1, &[raw(768, u64::MAX, 2, state)]), &SCALE).unwrap();
            assert_eq!(found[0].written, written, "{state:#x}");
        }
    }

    #[test]
    fn no_more_is_taken_than_is_there() {
        let two = [raw(0, 0, 2, 1), raw(768, 768, 2, 1)];
        assert_eq!(zones(&report(u64::MAX, &two), &SCALE).unwrap().len(), 2);
        assert_eq!(zones(&report(1, &two), &SCALE).unwrap().len(), 1);
        assert_eq!(zones(&report(2, &two)[..130], &SCALE).unwrap().len(), 1);
        assert!(zones(&[0; 63], &SCALE).is_err());
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_that_names_the_zone() {
        let refused = |zone: [u8; DESCRIPTOR_BYTES]| {
            let error = zones(&report(1, &[zone]), &SCALE).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            error.to_string()
        };
        assert!(
            refused(raw(768, 768, 1, 1)).contains("a type of code 0x1 in the zone at byte 3145728")
        );
        assert!(refused(raw(768, 768, 2, 0)).contains("a state of code 0x0"));
        assert!(refused(raw(768, 768, 2, 5)).contains("a state of code 0x5"));
        assert!(refused(raw(768, 767, 2, 4)).contains("a write pointer at block 767"));
        assert!(refused(raw(768, 768 + 513, 2, 4)).contains("a write pointer at block 1281"));
        assert!(refused(raw(u64::MAX, 0, 2, 1)).contains("block 18446744073709551615"));
        assert!(refused(raw(4 * 768, 0, 2, 1)).contains("a capacity of 2097152 in 0 bytes"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            if let Ok(zones) = zones(&bytes, &SCALE) {
                prop_assert!(zones.len() < 1024 / DESCRIPTOR_BYTES);
                prop_assert!(zones.iter().all(|zone| zone.written.unwrap_or(0) <= zone.capacity));
            }
        }
    }
}
