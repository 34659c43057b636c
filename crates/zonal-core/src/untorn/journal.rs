//! The journal's bytes: two copies of a header, then a ring of records.
//!
//! Invariants:
//! * Multi-byte fields are big-endian. Every structure is one block of 4096 bytes and ends with its
//!   CRC-32C; a unit's bytes have theirs in the record that names them.
//! * The header has two copies, written in turn: the copy is the lowest bit of its generation, so a torn
//!   write never takes the newest whole one with it. A copy with a wrong checksum yields to the other; one
//!   with a right checksum and impossible content is damage.
//! * A record is believed only if it is the very one that is due: this journal's identity, the header's
//!   session, the next sequence number, its own position, and every checksum right. It is believed whole
//!   or not at all; the first that is not ends the replay, as nothing is written behind a record before
//!   it is durable.
//! * A record that is whole and *later* than the one that ended the replay proves damage: the journal is
//!   then refused, and nothing of it is replayed.
//!
//! Parsers take bytes and never panic.

use crate::broken::{Rule, is_broken};
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, vec::Vec};
use core::mem::offset_of;
use crc32c::crc32c;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header copy and of a record's head: what a disk does not tear, at best. Units, positions
/// and lengths are multiples of it.
pub const BLOCK: usize = 4096;
/// The same, as a distance.
pub const BLOCK_BYTES: u64 = BLOCK as u64;
/// Where the ring begins in the journal's file, in bytes: behind the two headers.
pub const RING_OFFSET: u64 = 2 * BLOCK_BYTES;
/// The one version there is.
pub const VERSION: u32 = 1;
/// What a journal's file begins with.
pub const MAGIC: [u8; 8] = *b"zonaljnl";
const RECORD_MAGIC: [u8; 8] = *b"zonalrec";
/// Units in one record, at most: what its head has room for.
pub const ENTRIES_MAX: usize = 251;
/// Bytes of units in one record, at most: what one sync is shared for.
pub const RECORD_UNITS_MAX: u64 = 2 << 20;
/// The smallest and largest ring, in bytes.
pub const RING_MIN: u64 = 8 * BLOCK_BYTES;
/// See [`RING_MIN`].
pub const RING_MAX: u64 = 1 << 30;
/// The largest unit a journal takes, in bytes, where its ring is large enough.
pub const UNIT_MAX: u64 = 1 << 20;
/// Generations, sequences, sessions and positions end here, far above what a lifetime of writes reaches.
const COUNT_END: u64 = 1 << 62;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    reserved: U32,
    id: [u8; 16],
    generation: U64,
    session: U64,
    ring_bytes: U64,
    tail_position: U64,
    tail_sequence: U64,
    file_inode: U64,
    file_born_ns: U64,
    reserved_end: [u8; BLOCK - 92],
    crc32c: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    offset: U64,
    length: U32,
    crc32c: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    magic: [u8; 8],
    count: U32,
    length: U32,
    id: [u8; 16],
    session: U64,
    sequence: U64,
    position: U64,
    reserved: U64,
    entries: [RawEntry; ENTRIES_MAX],
    reserved_end: [u8; 12],
    crc32c: U32,
}

const _: () = {
    assert!(size_of::<RawHeader>() == BLOCK);
    assert!(offset_of!(RawHeader, generation) == 32);
    assert!(offset_of!(RawHeader, file_born_ns) == 80);
    assert!(offset_of!(RawHeader, crc32c) == BLOCK - 4);
    assert!(size_of::<RawRecord>() == BLOCK);
    assert!(offset_of!(RawRecord, session) == 32);
    assert!(offset_of!(RawRecord, entries) == 64);
    assert!(offset_of!(RawRecord, crc32c) == BLOCK - 4);
};

fn checksum(block: &[u8]) -> u32 {
    crc32c(&block[..block.len().saturating_sub(4)])
}

fn damaged(offset: u64, length: u64, text: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Damaged, text).at(offset, length)
}

/// The file a journal is for, as far as it is the same after a reboot: device numbers are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The inode's number.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 where its file system does not know.
    pub born_ns: u64,
}

/// A place among the records: those before it are reclaimed, or not yet written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Bytes from the ring's first beginning on; never wraps.
    pub position: u64,
    /// The number of the record that stands there, or will.
    pub sequence: u64,
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tells this journal from every other; chosen at its creation.
    pub id: [u8; 16],
    /// Goes up with each header written.
    pub generation: u64,
    /// Goes up each time the file is opened for writing, before the first record.
    pub session: u64,
    /// How long the ring is, in bytes.
    pub ring_bytes: u64,
    /// Where the records begin that are not reclaimed.
    pub tail: Mark,
    /// The file it is for.
    pub file: FileId,
}

impl Header {
    /// The header of a new journal.
    ///
    /// # Errors
    /// A ring of no whole number of blocks, too small or too large.
    pub fn new(id: [u8; 16], ring_bytes: u64, file: FileId) -> Result<Self> {
        if !ring_bytes.is_multiple_of(BLOCK_BYTES) || !(RING_MIN..=RING_MAX).contains(&ring_bytes) {
            let text = format!(
                "a journal has {RING_MIN} to {RING_MAX} bytes, in blocks of {BLOCK_BYTES}; \
                 {ring_bytes} are not"
            );
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let tail = Mark { position: 0, sequence: 1 };
        Ok(Self { id, generation: 0, session: 0, ring_bytes, tail, file })
    }

    /// Where in the file this generation's copy stands.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.generation % 2 * BLOCK_BYTES
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawHeader::new_zeroed();
        raw.magic = MAGIC;
        raw.version = VERSION.into();
        raw.id = self.id;
        raw.generation = self.generation.into();
        raw.session = self.session.into();
        raw.ring_bytes = self.ring_bytes.into();
        raw.tail_position = self.tail.position.into();
        raw.tail_sequence = self.tail.sequence.into();
        raw.file_inode = self.file.inode.into();
        raw.file_born_ns = self.file.born_ns.into();
        raw.crc32c = checksum(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }

    /// The newest whole header of a journal that begins with `bytes` (its two copies) in a file of
    /// `file_bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]: no journal of ours. [`ErrorKind::Unsupported`]: a newer version.
    /// [`ErrorKind::Damaged`]: both copies are torn, or one says what cannot be.
    pub fn decode(bytes: &[u8], file_bytes: u64) -> Result<Self> {
        let copies = bytes.get(..2 * BLOCK).unwrap_or_default().chunks_exact(BLOCK);
        let ours = copies.clone().any(|copy| copy.starts_with(&MAGIC));
        if !ours {
            let text =
                "it is no journal of zonal's; move it away, or name another place for the journal";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let mut newest: Option<Self> = None;
        for (copy, at) in copies.zip([0, BLOCK_BYTES]) {
            if let Some(header) = Self::copy(copy, at, file_bytes)?
                && newest.as_ref().is_none_or(|other| other.generation < header.generation)
            {
                newest = Some(header);
            }
        }
        newest.ok_or_else(|| {
            damaged(0, RING_OFFSET, "both copies of the journal's header are torn or changed")
        })
    }

    /// Whether `bytes`, from a journal's beginning on, are of one whose making was cut off: of its two copies
    /// the second was never written, which is before the first record, and the first is torn or missing.
    #[must_use]
    pub fn is_unfinished(bytes: &[u8]) -> bool {
        let blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let (first, second) = bytes.split_at(bytes.len().min(BLOCK));
        let fields = &first[..first.len().min(BLOCK - 4)];
        let torn = first.len() == BLOCK && first.starts_with(&MAGIC) && {
            let crc = RawHeader::ref_from_bytes(first).map(|raw| raw.crc32c.get());
            crc.is_ok_and(|crc| crc != checksum(first))
        };
        blank(second) && (blank(fields) || torn)
    }

    /// One copy; none if it is torn or never written.
    fn copy(block: &[u8], at: u64, file_bytes: u64) -> Result<Option<Self>> {
        let Ok(raw) = RawHeader::ref_from_bytes(block) else { return Ok(None) };
        if raw.magic != MAGIC || raw.crc32c.get() != checksum(block) {
            return Ok(None);
        }
        if raw.version.get() != VERSION {
            let text = format!(
                "the journal has version {}, and this zonal knows {VERSION}; use a newer one",
                raw.version
            );
            return Err(Error::new(ErrorKind::Unsupported, text).at(at + 8, 4));
        }
        let header = Self {
            id: raw.id,
            generation: raw.generation.get(),
            session: raw.session.get(),
            ring_bytes: raw.ring_bytes.get(),
            tail: Mark { position: raw.tail_position.get(), sequence: raw.tail_sequence.get() },
            file: FileId { inode: raw.file_inode.get(), born_ns: raw.file_born_ns.get() },
        };
        header.check(at, file_bytes)?;
        Ok(Some(header))
    }

    fn check(&self, at: u64, file_bytes: u64) -> Result<()> {
        let Self { generation, session, ring_bytes, tail, .. } = self;
        if self.place() != at {
            return Err(damaged(
                at + 32,
                8,
                "the journal's header stands in the other copy's place",
            ));
        }
        if !ring_bytes.is_multiple_of(BLOCK_BYTES) || !(RING_MIN..=RING_MAX).contains(ring_bytes) {
            return Err(damaged(at + 48, 8, format!("the journal's ring has {ring_bytes} bytes")));
        }
        if RING_OFFSET + ring_bytes > file_bytes {
            let text = format!("the journal's ring of {ring_bytes} bytes is cut short");
            return Err(damaged(at + 48, 8, text));
        }
        if !tail.position.is_multiple_of(BLOCK_BYTES) {
            return Err(damaged(at + 56, 8, "the journal's first record is not at a block"));
        }
        for (value, place) in
            [(*generation, 32), (*session, 40), (tail.position, 56), (tail.sequence, 64)]
        {
            if value >= COUNT_END {
                return Err(damaged(at + place, 8, format!("the journal counts {value}")));
            }
        }
        Ok(())
    }

    /// Whether the header written next, which counts one generation more, can be read again.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]: one of its numbers is where they end, as no lifetime of writes gets to.
    pub fn check_next(&self) -> Result<()> {
        let Self { generation, session, tail, .. } = *self;
        let ended = [generation.saturating_add(1), session, tail.position, tail.sequence]
            .into_iter()
            .find(|&value| value >= COUNT_END);
        ended.map_or(Ok(()), |value| {
            let text =
                format!("the journal counts up to {value}, which no later one could; move it away");
            Err(damaged(self.place(), BLOCK_BYTES, text))
        })
    }

    /// The largest unit its ring takes, in bytes: a quarter of the ring, so that one is always on its way
    /// while another is reclaimed.
    #[must_use]
    pub fn unit_max(&self) -> u64 {
        let quarter = self.ring_bytes / 4;
        UNIT_MAX.min(1 << quarter.max(1).ilog2())
    }

    /// Bytes of units that one record takes at most.
    #[must_use]
    pub fn record_units_max(&self) -> u64 {
        RECORD_UNITS_MAX.min(self.ring_bytes / 2 - BLOCK_BYTES)
    }

    /// Where in the file `length` bytes from a position on are: one piece, or two around the ring's end.
    #[must_use]
    pub fn pieces(&self, position: u64, length: u64) -> [(u64, u64); 2] {
        let start = position % self.ring_bytes;
        let first = length.min(self.ring_bytes - start);
        [(RING_OFFSET + start, first), (RING_OFFSET, length - first)]
    }
}

/// One unit of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// The CRC-32C of its bytes.
    pub crc32c: u32,
}

impl Entry {
    /// The entry of a unit.
    #[must_use]
    pub fn of(offset: u64, bytes: &[u8]) -> Self {
        Self { offset, length: bytes.len() as u64, crc32c: crc32c(bytes) }
    }
}

/// What a record's head says. Its units' bytes follow in the order of the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number and place.
    pub mark: Mark,
    /// What it holds.
    pub entries: Vec<Entry>,
}

impl Record {
    /// How long it is, its head included, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        BLOCK_BYTES + self.entries.iter().map(|entry| entry.length).sum::<u64>()
    }

    /// Where the next one goes.
    #[must_use]
    pub fn next(&self) -> Mark {
        let Mark { position, sequence } = self.mark;
        Mark { position: position + self.length(), sequence: sequence + 1 }
    }

    /// The bytes of its head, in the journal and session of `header`.
    ///
    /// # Panics
    /// It has more than [`ENTRIES_MAX`] entries, or a length of 4 GiB and more; ledgers admit none.
    #[must_use]
    pub fn encode(&self, header: &Header) -> Vec<u8> {
        let small = |length| u32::try_from(length).expect("a record is far smaller than 4 GiB");
        let mut raw = RawRecord::new_zeroed();
        raw.magic = RECORD_MAGIC;
        raw.count = small(self.entries.len() as u64).into();
        raw.length = small(self.length()).into();
        raw.id = header.id;
        raw.session = header.session.into();
        raw.sequence = self.mark.sequence.into();
        raw.position = self.mark.position.into();
        for (raw, entry) in raw.entries[..self.entries.len()].iter_mut().zip(&self.entries) {
            raw.offset = entry.offset.into();
            raw.length = small(entry.length).into();
            raw.crc32c = entry.crc32c.into();
        }
        raw.crc32c = checksum(raw.as_bytes()).into();
        raw.as_bytes().to_vec()
    }

    /// The record that is due at `mark`, if `block` is its head; `None`: it is torn, older, or another's.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]: it is the one due, with a right checksum, and says what cannot be.
    pub fn decode(block: &[u8], header: &Header, mark: Mark) -> Result<Option<Self>> {
        let session = header.session;
        match Self::whole(block, header) {
            Some(raw) if raw.mark() == mark && raw.session.get() == session => {
                raw.entries(header, mark).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Whether `block`, found at `place` bytes from the ring's beginning, is the head of a record of this
    /// journal that can only have been written after the one at `mark` was durable: one behind it in its
    /// session, or of a session that no header speaks of any more.
    #[must_use]
    pub fn is_later(block: &[u8], header: &Header, mark: Mark, place: u64) -> bool {
        Self::whole(block, header).is_some_and(|raw| {
            let (found, session) = (raw.mark(), raw.session.get());
            let later = session == header.session && found.sequence > mark.sequence;
            found.position % header.ring_bytes == place && (later || session > header.session)
        })
    }

    fn whole<'a>(block: &'a [u8], header: &Header) -> Option<&'a RawRecord> {
        let raw = RawRecord::ref_from_bytes(block).ok()?;
        let ours = raw.magic == RECORD_MAGIC && raw.id == header.id;
        let sound = raw.crc32c.get() == checksum(block) || is_broken(Rule::RecordsProven);
        (ours && sound).then_some(raw)
    }

    /// Whether these are its units' bytes. One that is not makes all of it a torn record.
    #[must_use]
    pub fn proves(&self, mut units: &[u8]) -> bool {
        self.entries.iter().all(|entry| {
            let length = usize::try_from(entry.length).unwrap_or(usize::MAX);
            let Some((unit, rest)) = units.split_at_checked(length) else { return false };
            units = rest;
            crc32c(unit) == entry.crc32c || is_broken(Rule::RecordsProven)
        })
    }
}

impl RawRecord {
    fn mark(&self) -> Mark {
        Mark { position: self.position.get(), sequence: self.sequence.get() }
    }

    fn entries(&self, header: &Header, mark: Mark) -> Result<Record> {
        let at = header.pieces(mark.position, BLOCK_BYTES)[0].0;
        let count = self.count.get() as usize;
        let entries = match self.entries.get(..count) {
            Some(entries) if !entries.is_empty() => entries,
            Some(_) | None => return Err(damaged(at + 8, 4, format!("a record of {count} units"))),
        };
        let mut record = Record { mark, entries: Vec::with_capacity(count) };
        for (entry, place) in entries.iter().zip((at + 64..).step_by(16)) {
            let (offset, length) = (entry.offset.get(), u64::from(entry.length.get()));
            let units = super::Units { min: BLOCK_BYTES, max: header.unit_max() };
            if let Err(error) = units.check(offset, length) {
                let text = format!("a record's unit cannot be: {}", error.detail());
                return Err(damaged(place, 12, text));
            }
            record.entries.push(Entry { offset, length, crc32c: entry.crc32c.get() });
        }
        if record.length() != u64::from(self.length.get())
            || record.length() - BLOCK_BYTES > header.record_units_max()
        {
            return Err(damaged(at + 12, 4, format!("a record of {} bytes", self.length)));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn header() -> Header {
        let file = FileId { inode: 77, born_ns: 5 };
        let new = Header::new([3; 16], 32 * BLOCK_BYTES, file).unwrap();
        let tail = Mark { position: 40 * BLOCK_BYTES, sequence: 9 };
        Header { generation: 4, session: 2, tail, ..new }
    }

    fn record(mark: Mark) -> (Record, Vec<u8>) {
        let units = [vec![1; 4096], vec![2; 8192]].concat();
        let entries = vec![Entry::of(4096, &units[..4096]), Entry::of(16384, &units[4096..])];
        (Record { mark, entries }, units)
    }

    const FILE_BYTES: u64 = RING_OFFSET + 32 * BLOCK_BYTES;

    /// Both copies, of which `header`'s is one and the other is never written.
    fn copies(header: &Header) -> Vec<u8> {
        let mut bytes = vec![0; 2 * BLOCK];
        let place = usize::try_from(header.place()).unwrap();
        bytes[place..place + BLOCK].copy_from_slice(&header.encode());
        bytes
    }

    #[test]
    fn a_header_is_these_bytes_and_comes_back() {
        let header = header();
        let bytes = header.encode();
        assert_eq!(&bytes[..8], b"zonaljnl");
        assert_eq!(bytes[8..16], [0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[16..32], [3; 16]);
        let words: Vec<u64> = (32..88)
            .step_by(8)
            .map(|at| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()))
            .collect();
        assert_eq!(words, [4, 2, 131_072, 163_840, 9, 77, 5]);
        assert!(bytes[88..BLOCK - 4].iter().all(|byte| *byte == 0));
        assert_eq!(Header::decode(&copies(&header), FILE_BYTES).unwrap(), header);
    }

    #[test]
    fn a_journal_at_the_end_of_its_numbers_is_not_gone_on_with() {
        let header = header();
        header.check_next().unwrap();
        let last = COUNT_END - 1;
        for worn in [
            Header { generation: last, ..header.clone() },
            Header { session: COUNT_END, ..header.clone() },
            Header { tail: Mark { position: COUNT_END, sequence: 9 }, ..header.clone() },
            Header { tail: Mark { position: 0, sequence: COUNT_END }, ..header },
        ] {
            assert_eq!(worn.check_next().unwrap_err().kind(), ErrorKind::Damaged, "{worn:?}");
        }
    }

    #[test]
    fn the_newer_whole_header_counts() {
        let old = header();
        let new = Header { generation: 5, session: 3, ..old.clone() };
        let mut bytes = copies(&old);
        bytes[BLOCK..].copy_from_slice(&new.encode());
        assert_eq!(Header::decode(&bytes, FILE_BYTES).unwrap(), new);
        bytes[BLOCK + 2000] ^= 1;
        assert_eq!(Header::decode(&bytes, FILE_BYTES).unwrap(), old);
        bytes[50] ^= 1;
        let error = Header::decode(&bytes, FILE_BYTES).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[test]
    fn a_making_that_was_cut_off_is_told_from_damage() {
        let new = Header::new([3; 16], RING_MIN, header().file).unwrap();
        let whole = copies(&new);
        assert!(!Header::is_unfinished(&whole), "it is finished");
        for bytes in [vec![], vec![0; 100], vec![0; 2 * BLOCK]] {
            assert!(Header::is_unfinished(&bytes));
        }
        let mut torn = whole.clone();
        torn[512..].fill(0);
        assert!(Header::is_unfinished(&torn));
        let mut torn = whole.clone();
        torn[..512].fill(0);
        assert!(Header::is_unfinished(&torn));
        let second = Header { generation: 1, session: 1, ..new };
        torn[BLOCK..].copy_from_slice(&second.encode());
        assert!(!Header::is_unfinished(&torn));
        for foreign in [&b"SQLite format 3"[..], &[7; 9000]] {
            assert!(!Header::is_unfinished(foreign));
        }
    }

    #[test]
    fn what_a_header_cannot_say_is_refused_by_name() {
        let sealed = |change: &dyn Fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            let mut bytes = vec![0; 2 * BLOCK];
            bytes[..BLOCK].copy_from_slice(&header.encode());
            Header::decode(&bytes, FILE_BYTES).unwrap_err()
        };
        for (error, word) in [
            (sealed(&|header| header.generation = 5), "other copy"),
            (sealed(&|header| header.ring_bytes = 4096), "4096 bytes"),
            (sealed(&|header| header.ring_bytes += 4096), "cut short"),
            (sealed(&|header| header.ring_bytes -= 1), "131071 bytes"),
            (sealed(&|header| header.tail.position += 1), "not at a block"),
            (sealed(&|header| header.tail.sequence = COUNT_END), "counts"),
            (sealed(&|header| header.session = u64::MAX), "counts"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.to_string().contains(word), "{error}");
        }
        let mut newer = RawHeader::read_from_bytes(&header().encode()).unwrap();
        newer.version = 2.into();
        newer.crc32c = checksum(newer.as_bytes()).into();
        let bytes = [newer.as_bytes(), &[0; BLOCK]].concat();
        let error = Header::decode(&bytes, FILE_BYTES).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for foreign in [vec![7; 2 * BLOCK], vec![], b"SQLite format 3\0".to_vec()] {
            let error = Header::decode(&foreign, FILE_BYTES).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        for ring in [0, RING_MIN - 4096, RING_MIN + 1, RING_MAX + 4096] {
            assert!(Header::new([0; 16], ring, header().file).is_err(), "{ring}");
        }
    }

    #[test]
    fn a_record_is_these_bytes_and_is_believed_where_it_is_due() {
        let header = header();
        let (record, units) = record(header.tail);
        let bytes = record.encode(&header);
        assert_eq!(&bytes[..8], b"zonalrec");
        assert_eq!(bytes[8..16], [0, 0, 0, 2, 0, 0, 0x40, 0]);
        assert_eq!(bytes[64..76], [0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0]);
        let back = Record::decode(&bytes, &header, header.tail).unwrap().unwrap();
        assert_eq!(back, record);
        assert!(back.proves(&units));
        assert_eq!(record.next(), Mark { position: 44 * BLOCK_BYTES, sequence: 10 });
    }

    #[test]
    fn a_record_of_another_time_or_journal_is_not_believed() {
        let header = header();
        let (record, _) = record(header.tail);
        let bytes = record.encode(&header);
        let due = |change: &dyn Fn(&mut Header, &mut Mark)| {
            let (mut header, mut mark) = (header.clone(), header.tail);
            change(&mut header, &mut mark);
            Record::decode(&bytes, &header, mark).unwrap()
        };
        assert!(due(&|_, _| {}).is_some());
        assert!(due(&|header, _| header.id[0] ^= 1).is_none());
        assert!(due(&|header, _| header.session += 1).is_none());
        assert!(due(&|_, mark| mark.sequence += 1).is_none());
        assert!(due(&|_, mark| mark.position += header.ring_bytes).is_none());
    }

    #[test]
    fn a_torn_record_is_never_believed() {
        let header = header();
        let (record, units) = record(header.tail);
        let bytes = record.encode(&header);
        for at in (0..BLOCK).step_by(13).chain([BLOCK - 1]) {
            let mut torn = bytes.clone();
            torn[at] ^= 0x10;
            let found = Record::decode(&torn, &header, header.tail).unwrap();
            assert!(found.is_none(), "byte {at}");
        }
        for at in (0..units.len()).step_by(511) {
            let mut torn = units.clone();
            torn[at] ^= 1;
            assert!(!record.proves(&torn), "byte {at}");
        }
        assert!(!record.proves(&units[..8192]));
    }

    #[test]
    fn a_record_that_cannot_be_is_damage() {
        let header = header();
        let (record, _) = record(header.tail);
        let sealed = |change: &dyn Fn(&mut RawRecord)| {
            let mut raw = RawRecord::read_from_bytes(&record.encode(&header)).unwrap();
            change(&mut raw);
            raw.crc32c = checksum(raw.as_bytes()).into();
            Record::decode(raw.as_bytes(), &header, header.tail).unwrap_err()
        };
        for error in [
            sealed(&|raw| raw.count = 0.into()),
            sealed(&|raw| raw.count = 252.into()),
            sealed(&|raw| raw.count = 1.into()),
            sealed(&|raw| raw.length = 4096.into()),
            sealed(&|raw| raw.entries[0].offset = 512.into()),
            sealed(&|raw| raw.entries[1].length = 12288.into()),
            sealed(&|raw| raw.entries[1].length = (1 << 30).into()),
        ] {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        }
    }

    #[test]
    fn a_later_record_in_its_place_proves_damage() {
        let header = header();
        let due =
            Mark { sequence: header.tail.sequence - 1, position: header.tail.position - 8192 };
        let (record, _) = record(header.tail);
        let bytes = record.encode(&header);
        let place = header.tail.position % header.ring_bytes;
        assert!(Record::is_later(&bytes, &header, due, place));
        assert!(!Record::is_later(&bytes, &header, due, place + 4096), "a copy of it elsewhere");
        assert!(!Record::is_later(&bytes, &header, header.tail, place), "the one that is due");
        assert!(!Record::is_later(&[0; BLOCK], &header, due, place));
        let lost = Header { session: header.session - 1, ..header.clone() };
        assert!(
            Record::is_later(&bytes, &lost, header.tail, place),
            "the header of its session is gone"
        );
        let newer = Header { session: header.session + 1, ..header };
        assert!(!Record::is_later(&bytes, &newer, due, place));
    }

    #[test]
    fn a_piece_goes_around_the_rings_end() {
        let header = header();
        let last = header.ring_bytes * 3 - 4096;
        let pieces = header.pieces(last, 12288);
        assert_eq!(pieces, [(RING_OFFSET + header.ring_bytes - 4096, 4096), (RING_OFFSET, 8192)]);
        assert_eq!(header.pieces(0, 4096), [(RING_OFFSET, 4096), (RING_OFFSET, 0)]);
        assert_eq!(header.unit_max(), 32768);
        assert_eq!(header.record_units_max(), 15 * 4096);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            let header = header();
            let _ = Header::decode(&bytes, 1 << 20);
            let mut ours = bytes.clone();
            ours.resize(2 * BLOCK, 0);
            ours[..8].copy_from_slice(&MAGIC);
            let crc = checksum(&ours[..BLOCK]).to_be_bytes();
            ours[BLOCK - 4..BLOCK].copy_from_slice(&crc);
            let _ = Header::decode(&ours, 1 << 20);
            let mut raw = RawRecord::read_from_bytes(&ours[BLOCK..]).unwrap();
            (raw.magic, raw.id) = (RECORD_MAGIC, header.id);
            raw.session = header.session.into();
            raw.sequence = header.tail.sequence.into();
            raw.position = header.tail.position.into();
            raw.crc32c = checksum(raw.as_bytes()).into();
            if let Ok(Some(record)) = Record::decode(raw.as_bytes(), &header, header.tail) {
                let _ = record.proves(&bytes);
            }
        }
    }
}
