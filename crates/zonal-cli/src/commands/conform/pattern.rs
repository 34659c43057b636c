//! The contents of records: each unit of 32 bytes says which run, zone and record it belongs to and
//! where in the record it stands, so that a block that lies in the wrong place, or of another life of
//! its zone, tells where it came from.

/// Bytes of a unit; divides every block size.
const UNIT: usize = 32;

/// What a record is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    /// This run of the checker, so that data of an earlier one is not taken for ours.
    pub(super) run: u64,
    /// Counts all records of the run.
    pub(super) record: u64,
    /// The zone it was sent to.
    pub(super) zone: u32,
}

/// How a record was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// As it was sent.
    Whole,
    /// A part of it is there, and this is what stands first in place of the rest.
    Torn(String),
    /// Nothing of it is there, but this.
    Other(String),
}

/// What a unit says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Unit {
    stamp: Stamp,
    index: u32,
}

impl Unit {
    fn bytes(self) -> [u8; UNIT] {
        let Self { stamp: Stamp { run, record, zone }, index } = self;
        let mut bytes = [0; UNIT];
        bytes[..8].copy_from_slice(&run.to_le_bytes());
        bytes[8..16].copy_from_slice(&record.to_le_bytes());
        bytes[16..20].copy_from_slice(&zone.to_le_bytes());
        bytes[20..24].copy_from_slice(&index.to_le_bytes());
        let sum = bytes[..24].iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        bytes[24..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The unit that these bytes are, if they are one.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let stamp = Stamp { run: u64_at(0)?, record: u64_at(8)?, zone: u32_at(16)? };
        let unit = Self { stamp, index: u32_at(20)? };
        (unit.bytes() == bytes).then_some(unit)
    }
}

fn index_of(at: usize) -> u32 {
    // A record is at most a gigabyte.
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Makes `bytes` the record of that stamp.
pub(super) fn fill(bytes: &mut [u8], stamp: Stamp) {
    for (at, unit) in bytes.chunks_mut(UNIT).enumerate() {
        let index = index_of(at);
        unit.copy_from_slice(&Unit { stamp, index }.bytes()[..unit.len()]);
    }
}

/// Holds `bytes` against the record of that stamp; blocks are counted in `block` bytes.
pub(super) fn examine(bytes: &[u8], stamp: Stamp, block: u32) -> Found {
    let is_ours = |(at, unit): (usize, &[u8])| {
        unit == &Unit { stamp, index: index_of(at) }.bytes()[..unit.len()]
    };
    let units = || bytes.chunks(UNIT).enumerate();
    let Some((at, unit)) = units().find(|unit| !is_ours(*unit)) else { return Found::Whole };
    let what = describe(unit, stamp.run, block);
    if units().any(is_ours) {
        Found::Torn(format!("from its byte {} on there is {what}", at * UNIT))
    } else {
        Found::Other(what)
    }
}

/// What a unit holds, for people.
fn describe(bytes: &[u8], run: u64, block: u32) -> String {
    if bytes.iter().all(|byte| *byte == 0) {
        return "zeros".into();
    }
    match Unit::parse(bytes) {
        Some(Unit { stamp, .. }) if stamp.run != run => "data of an earlier run".into(),
        Some(Unit { stamp: Stamp { record, zone, .. }, index }) => {
            let block = u64::from(index) * UNIT as u64 / u64::from(block);
            format!("block {block} of record {record}, which was sent to zone {zone}")
        }
        None => "bytes that this run never wrote".into(),
    }
}

/// What stands first where zeros should be, with its distance; `None` when all is zero.
pub(super) fn first_not_zero(bytes: &[u8], run: u64, block: u32) -> Option<(usize, String)> {
    bytes
        .chunks(UNIT)
        .enumerate()
        .find(|(_, unit)| unit.iter().any(|byte| *byte != 0))
        .map(|(at, unit)| (at * UNIT, describe(unit, run, block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, record: 12, zone: 3 };

    fn record(stamp: Stamp) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        fill(&mut bytes, stamp);
        bytes
    }

    #[test]
    fn a_record_is_told_from_its_part_from_another_and_from_nothing() {
        assert_eq!(examine(&record(STAMP), STAMP, 4096), Found::Whole);
        let mut torn = record(STAMP);
        torn[6144..].fill(0);
        let zeros = Found::Torn("from its byte 6144 on there is zeros".into());
        assert_eq!(examine(&torn, STAMP, 4096), zeros);
        let other = record(Stamp { record: 13, ..STAMP });
        let words = "block 0 of record 13, which was sent to zone 3";
        assert_eq!(examine(&other, STAMP, 4096), Found::Other(words.into()));
        assert_eq!(examine(&[0; 4096], STAMP, 4096), Found::Other("zeros".into()));
        let moved = examine(&record(STAMP)[4096..], STAMP, 4096);
        let words = "block 1 of record 12, which was sent to zone 3";
        assert_eq!(moved, Found::Other(words.into()));
    }

    #[test]
    fn what_is_no_unit_is_nobody_s() {
        assert_eq!(describe(&[1; 32], 7, 4096), "bytes that this run never wrote");
        assert_eq!(describe(&record(STAMP)[..32], 8, 4096), "data of an earlier run");
        assert_eq!(first_not_zero(&[0; 64], 7, 4096), None);
        assert_eq!(first_not_zero(&record(STAMP), 7, 4096).map(|(at, _)| at), Some(0));
    }
}
