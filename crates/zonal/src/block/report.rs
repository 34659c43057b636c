//! What a device says of its zones, taken apart and checked.
//!
//! Nothing in it is believed that the rules could not work with: a code nobody knows, a zone that is
//! not where it should be, or a write pointer outside its zone is an error that names the zone.

use crate::device::ZoneKind;
use crate::sys::blkzoned::ZONE_BYTES;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::zone::ZoneState;

/// The unit of reports and sysfs, whatever the device's block is.
pub(crate) const SECTOR: u64 = 512;

// Where fields of `struct blk_zone` lie, in bytes (Linux `include/uapi/linux/blkzoned.h`); places and lengths in
// sectors.
const START: usize = 0;
const LEN: usize = 8;
const WP: usize = 16;
const TYPE: usize = 24;
const COND: usize = 25;
/// Valid where the report's `flags` have `BLK_ZONE_REP_CAPACITY`, since Linux 5.9.
const CAPACITY: usize = 32;

/// One zone of a report (`struct blk_zone`), in bytes; absolute but for `written`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) capacity: u64,
    pub(crate) kind: ZoneKind,
    pub(crate) state: ZoneState,
    /// From the zone's start to its write pointer, at most its capacity. `None` where the device has
    /// no write pointer to tell: conventional, read-only and offline zones.
    pub(crate) written: Option<u64>,
}

/// Takes the zones of a report apart.
///
/// # Errors
/// `Unsupported`: the first zone of which something cannot be understood.
pub(crate) fn zones(bytes: &[u8], has_capacity: bool) -> Result<Vec<Reported>> {
    let (zones, _) = bytes.as_chunks::<ZONE_BYTES>();
    zones.iter().map(|bytes| zone(bytes, has_capacity)).collect()
}

fn zone(bytes: &[u8; ZONE_BYTES], has_capacity: bool) -> Result<Reported> {
    let (start, length, wp) = (sectors(bytes, START)?, sectors(bytes, LEN)?, word(bytes, WP));
    let capacity = if has_capacity { sectors(bytes, CAPACITY)? } else { length };
    let (code_of_kind, code) = (bytes[TYPE], bytes[COND]);
    let Some(state) = ZoneState::from_code(code) else {
        return Err(wrong(start, &format!("a condition of code {code:#x}")));
    };
    let kind = match code_of_kind {
        // BLK_ZONE_TYPE_CONVENTIONAL: never in a state of a sequential zone, but it may fail for good.
        1 if matches!(state, ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline) => {
            ZoneKind::Conventional
        }
        // BLK_ZONE_TYPE_SEQWRITE_REQ
        2 if state != ZoneState::NotWp => ZoneKind::Sequential,
        kind @ (1 | 2) => return Err(wrong(start, &format!("type {kind} and condition {state}"))),
        kind => return Err(wrong(start, &format!("a type of code {kind:#x}"))),
    };
    if capacity > length || length == 0 {
        return Err(wrong(start, &format!("a capacity of {capacity} in {length} bytes")));
    }
    let written = match state {
        ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => None,
        ZoneState::Empty => Some(0),
        // NVMe's lies at the zone's end, or is not defined.
        ZoneState::Full => Some(capacity),
        ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => {
            let written = wp.checked_mul(SECTOR).and_then(|wp| wp.checked_sub(start));
            let inside = written.filter(|&written| written <= capacity);
            Some(inside.ok_or_else(|| wrong(start, &format!("a write pointer at sector {wp}")))?)
        }
    };
    Ok(Reported { start, size: length, capacity, kind, state, written })
}

fn word(bytes: &[u8; ZONE_BYTES], at: usize) -> u64 {
    let word = bytes[at..].first_chunk::<8>();
    word.map_or(0, |word| u64::from_ne_bytes(*word))
}

/// A number of sectors, as bytes.
fn sectors(bytes: &[u8; ZONE_BYTES], at: usize) -> Result<u64> {
    let sectors = word(bytes, at);
    sectors.checked_mul(SECTOR).filter(|&bytes| bytes <= i64::MAX as u64).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("its zone report has {sectors} sectors"))
    })
}

fn wrong(start: u64, what: &str) -> Error {
    let text = format!("its zone report has {what} in the zone at byte {start}");
    Error::new(ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct blk_zone`, with what is to be tried.
    fn raw(start: u64, wp: u64, kind: u8, condition: u8) -> [u8; ZONE_BYTES] {
        let mut bytes = [0; ZONE_BYTES];
        bytes[0..8].copy_from_slice(&start.to_ne_bytes());
        bytes[8..16].copy_from_slice(&32768_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&wp.to_ne_bytes());
        (bytes[24], bytes[25]) = (kind, condition);
        bytes[32..40].copy_from_slice(&24576_u64.to_ne_bytes());
        bytes
    }

    fn written(wp: u64, condition: u8) -> Option<u64> {
        zone(&raw(32768, wp, 2, condition), true).unwrap().written
    }

    #[test]
    fn a_zone_is_what_its_bytes_say() {
        let zone = zone(&raw(32768, 32776, 2, 4), true).unwrap();
        let expected = Reported {
            start: 16 << 20,
            size: 16 << 20,
            capacity: 12 << 20,
            kind: ZoneKind::Sequential,
            state: ZoneState::Closed,
            written: Some(4096),
        };
        assert_eq!(zone, expected);
    }

    #[test]
    fn the_pointer_of_a_full_zone_may_lie_anywhere() {
        for wp in [0, 65536, u64::MAX] {
            assert_eq!(written(wp, 0xE), Some(12 << 20), "{wp}");
        }
        assert_eq!(written(u64::MAX, 0xD), None, "read-only");
        assert_eq!(written(u64::MAX, 0xF), None, "offline");
    }

    #[test]
    fn an_old_kernel_says_no_capacity() {
        assert_eq!(zone(&raw(0, 0, 2, 1), false).unwrap().capacity, 16 << 20);
    }

    #[test]
    fn what_nobody_knows_is_an_error_that_names_the_zone() {
        for (bytes, word) in [
            (raw(32768, 32768, 2, 5), "condition of code 0x5"),
            (raw(32768, 32768, 2, 0xFF), "condition of code 0xff"),
            (raw(32768, 32768, 2, 0), "type 2 and condition not-wp"),
            (raw(32768, 32768, 1, 2), "type 1 and condition imp-open"),
            (raw(32768, 32768, 3, 1), "type of code 0x3"),
            (raw(32768, 32767, 2, 2), "write pointer at sector 32767"),
            (raw(32768, 32768 + 24577, 2, 2), "write pointer at sector 57345"),
            (raw(32768, u64::MAX, 2, 3), "write pointer at sector"),
        ] {
            let error = zone(&bytes, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = error.to_string();
            assert!(text.contains(word) && text.contains("byte 16777216"), "{text}");
        }
        assert!(zone(&raw(u64::MAX / 3, 0, 2, 1), true).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), old: bool) {
            for zone in zones(&bytes, !old).into_iter().flatten() {
                prop_assert!(zone.written.is_none_or(|written| written <= zone.capacity));
            }
        }
    }
}
