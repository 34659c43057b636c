//! Our own part of the image: the optional header extension, the session record, and the pages of
//! zone generations.
//!
//! Invariants:
//! * Other programs may ignore all of it: it says nothing about where data lies.
//! * A record or page is checksummed (CRC-32C) and has two copies, written in turn: the copy is the
//!   lowest bit of its sequence number, so a torn write never takes the newest whole one with it.
//! * A copy whose checksum is wrong is torn and yields to the other; one whose checksum is right and
//!   whose content cannot be is damage, and is never stepped over.
//!
//! What the fields mean is decided by those who write them; here they are only kept in bounds.

use super::{Geometry, damaged, unsupported};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Blocks, Extent, ZoneIndex};
use alloc::{format, vec, vec::Vec};
use core::mem::offset_of;
use crc32c::crc32c;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The extension's magic in the header, "zonl".
pub const MAGIC: u32 = 0x7a6f_6e6c;
/// The extension's length.
pub const LENGTH: usize = 52;
/// The one version of the extension and of the session record.
pub const VERSION: u32 = 1;
/// Bytes of a session record or generation page: the unit a disk does not tear, at best.
pub const PAGE: usize = 4096;
/// Most zones of a condition other than their write pointer's, so that a session fits its page.
pub const MAX_CONDITIONS: usize = 240;
/// Most dead ranges of a drive, for the same reason.
pub const MAX_DEAD_RANGES: usize = 172;
/// Sequences end here, far above what a lifetime of writes reaches, so that counting on from what
/// an image says never overflows.
const SEQUENCE_END: u64 = 1 << 63;

/// Generations in one page; what is left of it is index, sequence and checksum.
pub const GENERATIONS_PER_PAGE: u32 = 1020;

const SESSION_MAGIC: [u8; 8] = *b"zonalses";
const CLEAN: u32 = 0;
const OPEN: u32 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawExtension {
    version: U32,
    block_size: U32,
    max_append: U32,
    reserved: U32,
    image_id: [u8; 16],
    sessions_offset: U64,
    generations_offset: U64,
    crc32c: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawCondition {
    zone: U32,
    condition: u8,
    reserved: [u8; 3],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawDead {
    zone: U32,
    start: U32,
    length: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSession {
    magic: [u8; 8],
    version: U32,
    state: U32,
    image_id: [u8; 16],
    sequence: U64,
    flush_sequence: U64,
    nonce: [u8; 16],
    boot_id: [u8; 16],
    conditions_count: U32,
    dead_count: U32,
    reserved: [u8; 8],
    conditions: [RawCondition; MAX_CONDITIONS],
    dead: [RawDead; MAX_DEAD_RANGES],
    reserved_end: [u8; 12],
    crc32c: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawGenerations {
    generations: [U32; GENERATIONS_PER_PAGE as usize],
    index: U32,
    sequence: U64,
    crc32c: U32,
}

const _: () = {
    assert!(size_of::<RawExtension>() == LENGTH);
    assert!(offset_of!(RawExtension, image_id) == 16);
    assert!(offset_of!(RawExtension, crc32c) == 48);
    assert!(size_of::<RawSession>() == PAGE);
    assert!(offset_of!(RawSession, sequence) == 32);
    assert!(offset_of!(RawSession, conditions_count) == 80);
    assert!(offset_of!(RawSession, conditions) == 96);
    assert!(offset_of!(RawSession, dead) == 2016);
    assert!(offset_of!(RawSession, crc32c) == PAGE - 4);
    assert!(size_of::<RawGenerations>() == PAGE);
    assert!(offset_of!(RawGenerations, index) == 4080);
    assert!(offset_of!(RawGenerations, crc32c) == PAGE - 4);
};

/// The checksum of a structure whose last four bytes hold it.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c(&bytes[..bytes.len().saturating_sub(4)])
}

/// Our header extension: what QEMU's has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The logical block, in bytes; the same as the geometry's.
    pub block_size: u32,
    /// The longest append, in bytes; the same as the geometry's.
    pub max_append: u32,
    /// What tells this image from every other, chosen at its creation.
    pub image_id: [u8; 16],
    /// Where in the file the two copies of the session record are.
    pub sessions_offset: u64,
    /// Where in the file the generation pages are.
    pub generations_offset: u64,
}

impl Extension {
    /// Reads the extension's data, which stands at `offset` in the file. Alignment and bounds of
    /// what it points to are the header's to check.
    pub(super) fn parse(data: &[u8], offset: u64) -> Result<Self> {
        // The version stands first and is asked first, so that a later one is called by its name.
        let Some(version) = data.first_chunk::<4>().copied().map(u32::from_be_bytes) else {
            return Err(damaged(offset, data.len() as u64, "zonal's extension is cut short"));
        };
        if version != VERSION {
            return Err(unsupported(
                offset,
                4,
                format!("zonal's extension is of version {version}, this program knows {VERSION}"),
            ));
        }
        let Ok(raw) = RawExtension::ref_from_bytes(data) else {
            let detail = format!("zonal's extension has {} bytes, not {LENGTH}", data.len());
            return Err(damaged(offset, data.len() as u64, detail));
        };
        let (found, expected) = (raw.crc32c.get(), checksum(data));
        if found != expected {
            let detail = format!(
                "the checksum of zonal's extension is {found:#010x}, its bytes give {expected:#010x}"
            );
            return Err(damaged(offset + 48, 4, detail));
        }
        if raw.reserved.get() != 0 {
            return Err(damaged(offset + 12, 4, "a reserved field of zonal's extension is set"));
        }
        Ok(Self {
            block_size: raw.block_size.get(),
            max_append: raw.max_append.get(),
            image_id: raw.image_id,
            sessions_offset: raw.sessions_offset.get(),
            generations_offset: raw.generations_offset.get(),
        })
    }

    /// The extension's data.
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut raw = RawExtension {
            version: VERSION.into(),
            block_size: self.block_size.into(),
            max_append: self.max_append.into(),
            reserved: 0.into(),
            image_id: self.image_id,
            sessions_offset: self.sessions_offset.into(),
            generations_offset: self.generations_offset.into(),
            crc32c: 0.into(),
        };
        raw.crc32c = checksum(raw.as_bytes()).into();
        zerocopy::transmute!(raw)
    }

    /// Where the next session record goes: the copy that `sequence` writes to.
    #[must_use]
    pub fn session_offset(&self, sequence: u64) -> u64 {
        self.sessions_offset + (sequence & 1) * PAGE as u64
    }

    /// Where copy `sequence & 1` of generation page `page` of a drive with `zones` zones is.
    #[must_use]
    pub fn generation_page_offset(&self, zones: u32, page: u32, sequence: u64) -> u64 {
        let pages = u64::from(generation_pages(zones));
        self.generations_offset + ((sequence & 1) * pages + u64::from(page)) * PAGE as u64
    }
}

/// How many generation pages a drive of `zones` zones has, in each copy.
#[must_use]
pub const fn generation_pages(zones: u32) -> u32 {
    zones.div_ceil(GENERATIONS_PER_PAGE)
}

/// What a zone can be besides what its write pointer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Can only be read (0xD, as in a zone report).
    ReadOnly,
    /// Can neither be read nor written (0xF).
    Offline,
}

impl Condition {
    const fn code(self) -> u8 {
        match self {
            Self::ReadOnly => 0xd,
            Self::Offline => 0xf,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0xd => Some(Self::ReadOnly),
            0xf => Some(Self::Offline),
            _ => None,
        }
    }
}

/// One use of the image, from open to close, and what of the zones the table cannot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Counts the records; its lowest bit chooses the copy.
    pub sequence: u64,
    /// Whether the session was closed with everything flushed.
    pub clean: bool,
    /// What tells this session from others, chosen at its start; ties the live file to it.
    pub nonce: [u8; 16],
    /// The machine's boot that the session ran in.
    pub boot_id: [u8; 16],
    /// How many flushes the session had made when this was written.
    pub flush_sequence: u64,
    /// Zones that are read-only or offline, at most [`MAX_CONDITIONS`], each at most once.
    pub conditions: Vec<(ZoneIndex, Condition)>,
    /// Ranges below a write pointer that read as zeros, at most [`MAX_DEAD_RANGES`].
    pub dead: Vec<(ZoneIndex, Extent)>,
}

impl Session {
    /// The record of a drive that was never opened, or closed with nothing to note.
    #[must_use]
    pub const fn closed(sequence: u64) -> Self {
        Self {
            sequence,
            clean: true,
            nonce: [0; 16],
            boot_id: [0; 16],
            flush_sequence: 0,
            conditions: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// The record's bytes, for copy [`sequence`](Self::sequence)` & 1`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when a list is longer than the page has room for.
    pub fn encode(&self, image_id: &[u8; 16]) -> Result<[u8; PAGE]> {
        let too_many = |what: &str, count: usize, max: usize| {
            let detail = format!("{count} {what}, a session record has room for {max}");
            Err(Error::new(ErrorKind::InvalidInput, detail))
        };
        if self.conditions.len() > MAX_CONDITIONS {
            return too_many("zone conditions", self.conditions.len(), MAX_CONDITIONS);
        }
        if self.dead.len() > MAX_DEAD_RANGES {
            return too_many("dead ranges", self.dead.len(), MAX_DEAD_RANGES);
        }
        let mut raw = RawSession::new_zeroed();
        raw.magic = SESSION_MAGIC;
        raw.version = VERSION.into();
        raw.state = if self.clean { CLEAN } else { OPEN }.into();
        raw.image_id = *image_id;
        raw.sequence = self.sequence.into();
        raw.flush_sequence = self.flush_sequence.into();
        raw.nonce = self.nonce;
        raw.boot_id = self.boot_id;
        // Both are bounded above.
        raw.conditions_count = u32::try_from(self.conditions.len()).unwrap_or(0).into();
        raw.dead_count = u32::try_from(self.dead.len()).unwrap_or(0).into();
        for (slot, (zone, condition)) in raw.conditions.iter_mut().zip(&self.conditions) {
            slot.zone = zone.0.into();
            slot.condition = condition.code();
        }
        for (slot, (zone, extent)) in raw.dead.iter_mut().zip(&self.dead) {
            slot.zone = zone.0.into();
            slot.start = extent.start.0.into();
            slot.length = extent.length().0.into();
        }
        raw.crc32c = checksum(raw.as_bytes()).into();
        Ok(zerocopy::transmute!(raw))
    }

    /// Reads copy `copy` (0 or 1) of the record: `None` if it is torn or was never written.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] for a whole record whose content cannot be,
    /// [`ErrorKind::Unsupported`] for one of another version. Offsets count from the copy's start.
    pub fn parse_copy(
        copy: u64,
        bytes: &[u8],
        image_id: &[u8; 16],
        geometry: &Geometry,
    ) -> Result<Option<Self>> {
        let Some(raw) = RawSession::whole(bytes)? else { return Ok(None) };
        if raw.image_id != *image_id {
            return Err(damaged(16, 16, "the session record belongs to another image"));
        }
        let session = raw.session()?;
        if session.sequence & 1 != copy & 1 {
            return Err(damaged(32, 8, format!("session {} stands in copy {copy}", raw.sequence)));
        }
        let (conditions, dead) = (raw.conditions(geometry)?, raw.dead(geometry)?);
        Ok(Some(Self { conditions, dead, ..session }))
    }

    /// What a record says of this image, for who repairs: whichever copy it stands in, and without
    /// what cannot be in its lists. A dead range is cut to its zone, an unknown condition is
    /// *read-only*, and of two for one zone the stronger holds; what speaks of no zone is left out.
    /// `None` for what [`parse_copy`](Self::parse_copy) finds torn, or of another image.
    ///
    /// # Errors
    /// As [`parse_copy`](Self::parse_copy), for what keeps all of it from being known.
    pub(super) fn salvage(
        bytes: &[u8],
        image_id: &[u8; 16],
        geometry: &Geometry,
    ) -> Result<Option<Self>> {
        match RawSession::whole(bytes)? {
            Some(raw) if raw.image_id == *image_id => {
                let session = raw.session()?;
                let conditions = raw.possible_conditions(geometry)?;
                let dead = raw.possible_dead(geometry)?;
                Ok(Some(Self { conditions, dead, ..session }))
            }
            _ => Ok(None),
        }
    }

    /// The newest whole record of the two copies, copy 0 being `a`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when neither is whole or a whole one cannot be;
    /// [`ErrorKind::Unsupported`] when one is of another version. Offsets count from the copy's start.
    pub fn newest(a: &[u8], b: &[u8], image_id: &[u8; 16], geometry: &Geometry) -> Result<Self> {
        let a = Self::parse_copy(0, a, image_id, geometry)?;
        let b = Self::parse_copy(1, b, image_id, geometry)?;
        a.into_iter().chain(b).max_by_key(|session| session.sequence).ok_or_else(|| {
            damaged(0, 2 * PAGE as u64, "both copies of the session record have a wrong checksum")
        })
    }
}

impl RawSession {
    /// A record whose checksum is right, of the version that is known.
    fn whole(bytes: &[u8]) -> Result<Option<&Self>> {
        let Ok(raw) = Self::ref_from_bytes(bytes) else { return Ok(None) };
        if raw.magic != SESSION_MAGIC || raw.crc32c.get() != checksum(bytes) {
            return Ok(None);
        }
        if raw.version.get() != VERSION {
            let detail = format!(
                "the session record is of version {}, this program knows {VERSION}",
                raw.version
            );
            return Err(unsupported(8, 4, detail));
        }
        Ok(Some(raw))
    }

    /// What it says besides its lists.
    fn session(&self) -> Result<Session> {
        if self.sequence.get() >= SEQUENCE_END || self.flush_sequence.get() >= SEQUENCE_END {
            return Err(damaged(32, 16, "a sequence that no session can have reached"));
        }
        let clean = match self.state.get() {
            CLEAN => true,
            OPEN => false,
            other => return Err(damaged(12, 4, format!("session state {other}; 0 or 1 is known"))),
        };
        Ok(Session {
            sequence: self.sequence.get(),
            clean,
            nonce: self.nonce,
            boot_id: self.boot_id,
            flush_sequence: self.flush_sequence.get(),
            conditions: Vec::new(),
            dead: Vec::new(),
        })
    }

    fn possible_conditions(&self, geometry: &Geometry) -> Result<Vec<(ZoneIndex, Condition)>> {
        let mut conditions: Vec<(ZoneIndex, Condition)> = Vec::new();
        for raw in taken(&self.conditions, self.conditions_count, 80)? {
            let zone = ZoneIndex(raw.zone.get());
            let condition = Condition::from_code(raw.condition).unwrap_or(Condition::ReadOnly);
            match conditions.iter_mut().find(|(other, _)| *other == zone) {
                Some((_, known)) if condition == Condition::Offline => *known = condition,
                Some(_) => {}
                None if zone.0 < geometry.zones() => conditions.push((zone, condition)),
                None => {}
            }
        }
        Ok(conditions)
    }

    fn possible_dead(&self, geometry: &Geometry) -> Result<Vec<(ZoneIndex, Extent)>> {
        let mut dead = Vec::new();
        for raw in taken(&self.dead, self.dead_count, 84)? {
            let zone = ZoneIndex(raw.zone.get());
            if zone.0 >= geometry.zones() || geometry.is_conventional(zone) {
                continue;
            }
            let start = raw.start.get();
            let room = geometry.capacity_blocks(zone).0.saturating_sub(start);
            let length = raw.length.get().min(room);
            if length > 0 {
                dead.push((zone, Extent::new(Blocks(start), Blocks(length))));
            }
        }
        Ok(dead)
    }

    fn conditions(&self, geometry: &Geometry) -> Result<Vec<(ZoneIndex, Condition)>> {
        let base = offset_of!(Self, conditions) as u64;
        let mut conditions: Vec<(ZoneIndex, Condition)> = Vec::new();
        for (i, raw) in taken(&self.conditions, self.conditions_count, 80)?.iter().enumerate() {
            let at = base + 8 * i as u64;
            let zone = ZoneIndex(raw.zone.get());
            let Some(condition) = Condition::from_code(raw.condition) else {
                let detail = format!("condition {:#x}; 0xd and 0xf are known", raw.condition);
                return Err(damaged(at, 8, detail).in_zone(zone.0));
            };
            if zone.0 >= geometry.zones() {
                let detail = format!("a condition for it, but there are {}", geometry.zones());
                return Err(damaged(at, 8, detail).in_zone(zone.0));
            }
            if conditions.iter().any(|(other, _)| *other == zone) {
                return Err(damaged(at, 8, "two conditions for one zone").in_zone(zone.0));
            }
            conditions.push((zone, condition));
        }
        Ok(conditions)
    }

    fn dead(&self, geometry: &Geometry) -> Result<Vec<(ZoneIndex, Extent)>> {
        let base = offset_of!(Self, dead) as u64;
        let mut dead = Vec::new();
        for (i, raw) in taken(&self.dead, self.dead_count, 84)?.iter().enumerate() {
            let zone = ZoneIndex(raw.zone.get());
            let (start, length) = (raw.start.get(), raw.length.get());
            let inside = start
                .checked_add(length)
                .is_some_and(|end| end <= geometry.capacity_blocks(zone).0);
            let sequential = zone.0 < geometry.zones() && !geometry.is_conventional(zone);
            if length == 0 || !inside || !sequential {
                let detail = format!(
                    "a dead range of {length} blocks at {start}; it should lie in a sequential zone"
                );
                return Err(damaged(base + 12 * i as u64, 12, detail).in_zone(zone.0));
            }
            dead.push((zone, Extent::new(Blocks(start), Blocks(length))));
        }
        Ok(dead)
    }
}

/// The used part of a list, whose count stands at `offset`.
fn taken<T>(list: &[T], count: U32, offset: u64) -> Result<&[T]> {
    list.get(..count.get() as usize)
        .ok_or_else(|| damaged(offset, 4, format!("{count} entries, at most {}", list.len())))
}

/// The bytes of generation page `page`, for copy `sequence & 1`. Sequences start at 1, since 0 is
/// the page never written. Zones past the end of `generations` get generation 0; what goes over
/// [`GENERATIONS_PER_PAGE`] is left out.
#[must_use]
pub fn encode_page(page: u32, sequence: u64, generations: &[u32]) -> [u8; PAGE] {
    let mut raw = RawGenerations::new_zeroed();
    for (slot, generation) in raw.generations.iter_mut().zip(generations) {
        *slot = (*generation).into();
    }
    raw.index = page.into();
    raw.sequence = sequence.into();
    raw.crc32c = checksum(raw.as_bytes()).into();
    zerocopy::transmute!(raw)
}

/// The newest whole copy of generation page `page`: its sequence and [`GENERATIONS_PER_PAGE`]
/// generations. A copy never written (all zeros) is sequence 0 with all generations 0.
///
/// # Errors
/// [`ErrorKind::Damaged`] when both copies are torn, or a whole one belongs elsewhere. Offsets count
/// from the page's start.
pub fn newest_page(page: u32, a: &[u8], b: &[u8]) -> Result<(u64, Vec<u32>)> {
    let a = parse_page(page, 0, a)?;
    let b = parse_page(page, 1, b)?;
    a.into_iter().chain(b).max_by_key(|(sequence, _)| *sequence).ok_or_else(|| {
        let detail = format!("both copies of generation page {page} have a wrong checksum");
        damaged(0, PAGE as u64, detail)
    })
}

/// Copy `copy` (0 or 1) of generation page `page`, as [`newest_page`] reads it: `None` if it is torn.
///
/// # Errors
/// [`ErrorKind::Damaged`] when it is whole and belongs elsewhere.
pub fn parse_page(page: u32, copy: u64, bytes: &[u8]) -> Result<Option<(u64, Vec<u32>)>> {
    let Some(raw) = RawGenerations::whole(bytes) else { return Ok(None) };
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Some((0, vec![0; GENERATIONS_PER_PAGE as usize])));
    }
    let sequence = raw.sequence.get();
    if !raw.is_of(page) || sequence & 1 != copy {
        let detail = format!(
            "generation page {} of sequence {sequence} stands in page {page}, copy {copy}",
            raw.index
        );
        return Err(damaged(4080, 12, detail));
    }
    Ok(Some((sequence, raw.list())))
}

/// What a copy says of page `page`, whichever copy it stands in; `None` if it is torn or of another.
pub(super) fn salvage_page(page: u32, bytes: &[u8]) -> Option<(u64, Vec<u32>)> {
    let raw = RawGenerations::whole(bytes)?;
    let unwritten = bytes.iter().all(|byte| *byte == 0);
    (unwritten || raw.is_of(page)).then(|| (raw.sequence.get(), raw.list()))
}

impl RawGenerations {
    /// A page whose checksum is right, or that was never written.
    fn whole(bytes: &[u8]) -> Option<&Self> {
        let raw = Self::ref_from_bytes(bytes).ok()?;
        let unwritten = || bytes.iter().all(|byte| *byte == 0);
        (raw.crc32c.get() == checksum(bytes) || unwritten()).then_some(raw)
    }

    fn is_of(&self, page: u32) -> bool {
        (1..SEQUENCE_END).contains(&self.sequence.get()) && self.index.get() == page
    }

    fn list(&self) -> Vec<u32> {
        self.generations.iter().map(|generation| generation.get()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: [u8; 16] = *b"an image's own i";

    fn drive() -> Geometry {
        Geometry {
            zone_size: 4 << 20,
            zone_capacity: 3 << 20,
            conventional_zones: 1,
            ..Geometry::with_size(16 << 20)
        }
    }

    fn session(sequence: u64) -> Session {
        Session {
            clean: false,
            nonce: [7; 16],
            boot_id: [9; 16],
            flush_sequence: 5,
            conditions: vec![
                (ZoneIndex(0), Condition::ReadOnly),
                (ZoneIndex(3), Condition::Offline),
            ],
            dead: vec![(ZoneIndex(1), Extent::new(Blocks(767), Blocks(1)))],
            ..Session::closed(sequence)
        }
    }

    fn reseal(bytes: &mut [u8]) {
        let sum = checksum(bytes).to_be_bytes();
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&sum);
    }

    #[test]
    fn the_extension_has_these_bytes() {
        let extension = Extension {
            block_size: 4096,
            max_append: 1 << 20,
            image_id: ID,
            sessions_offset: 12 << 20,
            generations_offset: 14 << 20,
        };
        let bytes = extension.encode();
        assert_eq!(bytes[..16], [0, 0, 0, 1, 0, 0, 0x10, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..32], ID);
        assert_eq!(bytes[32..48], [0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0, 0]);
        assert_eq!(bytes[48..], crc32c(&bytes[..48]).to_be_bytes());
        assert_eq!(Extension::parse(&bytes, 0).unwrap(), extension);
        assert_eq!(extension.session_offset(3), (12 << 20) + 4096);
        assert_eq!(extension.generation_page_offset(1021, 1, 7), (14 << 20) + 3 * 4096);
    }

    #[test]
    fn another_version_is_named_before_its_checksum_is_asked() {
        let mut bytes = [0; 80];
        bytes[3] = 2;
        let error = Extension::parse(&bytes, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.detail().contains("version 2"), "{error}");
    }

    #[test]
    fn a_session_record_begins_like_this() {
        let bytes = session(0x0102).encode(&ID).unwrap();
        assert_eq!(bytes[..16], *b"zonalses\0\0\0\x01\0\0\0\x01");
        assert_eq!(bytes[32..48], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(bytes[80..88], [0, 0, 0, 2, 0, 0, 0, 1]);
        assert_eq!(bytes[96..112], [0, 0, 0, 0, 0xd, 0, 0, 0, 0, 0, 0, 3, 0xf, 0, 0, 0]);
        assert_eq!(bytes[2016..2028], [0, 0, 0, 1, 0, 0, 2, 0xff, 0, 0, 0, 1]);
    }

    #[test]
    fn the_newest_whole_session_wins() {
        let (old, new) = (session(6), session(7));
        let (a, b) = (old.encode(&ID).unwrap(), new.encode(&ID).unwrap());
        assert_eq!(Session::newest(&a, &b, &ID, &drive()).unwrap(), new);
        let mut torn = b;
        torn[2048..].copy_from_slice(&[0; 2048]);
        assert_eq!(Session::newest(&a, &torn, &ID, &drive()).unwrap(), old);
        assert_eq!(Session::newest(&[0; PAGE], &b, &ID, &drive()).unwrap(), new);
        let error = Session::newest(&[0; PAGE], &torn, &ID, &drive()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[test]
    fn a_whole_record_that_cannot_be_is_not_stepped_over() {
        let (a, b) = (session(6).encode(&ID).unwrap(), session(7).encode(&ID).unwrap());
        assert!(Session::newest(&b, &a, &ID, &drive()).is_err(), "copies swapped");
        assert!(Session::newest(&a, &b, &[0; 16], &drive()).is_err(), "another image's");
        for (at, value) in [
            (11, 2),    // version
            (15, 2),    // state
            (83, 241),  // conditions
            (87, 173),  // dead ranges
            (99, 9),    // condition of zone 9
            (100, 0xe), // full is no condition
            (107, 0),   // zone 0 twice
            (2019, 0),  // dead in a conventional zone
            (2019, 4),  // dead in no zone
            (2027, 2),  // dead past capacity
            (2027, 0),  // dead and empty
        ] {
            let mut bad = b;
            bad[at] = value;
            reseal(&mut bad);
            assert!(Session::newest(&a, &bad, &ID, &drive()).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn lists_too_long_for_the_page_are_refused() {
        let mut full = session(0);
        full.conditions = vec![(ZoneIndex(0), Condition::Offline); MAX_CONDITIONS];
        full.dead = vec![(ZoneIndex(1), Extent::new(Blocks(0), Blocks(1))); MAX_DEAD_RANGES];
        full.encode(&ID).unwrap();
        full.dead.push(full.dead[0]);
        assert_eq!(full.encode(&ID).unwrap_err().kind(), ErrorKind::InvalidInput);
        full.dead.clear();
        full.conditions.push(full.conditions[0]);
        assert_eq!(full.encode(&ID).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn the_newest_whole_generation_page_wins() {
        let fresh = [0; PAGE];
        let (sequence, generations) = newest_page(3, &fresh, &fresh).unwrap();
        assert_eq!((sequence, generations.len()), (0, GENERATIONS_PER_PAGE as usize));
        let (b, a) = (encode_page(3, 1, &[1, 2]), encode_page(3, 2, &[1, 3]));
        assert_eq!(a[..8], [0, 0, 0, 1, 0, 0, 0, 3]);
        assert_eq!(a[4080..4092], [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(newest_page(3, &fresh, &b).unwrap().1[..3], [1, 2, 0]);
        assert_eq!(newest_page(3, &a, &b).unwrap().1[..3], [1, 3, 0]);
        let mut torn = a;
        torn[0] ^= 1;
        assert_eq!(newest_page(3, &torn, &b).unwrap().0, 1);
        assert!(newest_page(3, &torn, &b[1..]).is_err());
        assert!(newest_page(4, &a, &b).is_err(), "another page's");
        assert!(newest_page(3, &b, &a).is_err(), "copies swapped");
    }

    proptest! {
        #[test]
        fn a_changed_session_never_panics(
            changes in prop::collection::vec((0..PAGE, any::<u8>()), 0..8),
            length in 0..=PAGE,
            sealed: bool,
        ) {
            let good = session(6).encode(&ID).unwrap();
            let mut bytes = session(7).encode(&ID).unwrap();
            for (at, value) in changes {
                bytes[at] = value;
            }
            let _ = Session::newest(&good, &bytes[..length], &ID, &drive());
            if sealed {
                reseal(&mut bytes);
            }
            let _ = Session::newest(&good, &bytes, &ID, &drive());
            let _ = Extension::parse(&bytes[..length.min(80)], 0);
            let _ = newest_page(0, &bytes, &good[..length]);
        }

        #[test]
        fn a_change_in_the_newest_copy_is_seen(at in 0..PAGE, flip in 1u8..) {
            let (a, mut b) = (session(6).encode(&ID).unwrap(), session(7).encode(&ID).unwrap());
            b[at] ^= flip;
            prop_assert_eq!(Session::newest(&a, &b, &ID, &drive()).unwrap().sequence, 6);
        }
    }
    #[test]
    fn an_error_in_the_extension_is_named_by_its_place_in_the_file() {
        let extension = Extension {
            block_size: 512,
            max_append: 512,
            image_id: ID,
            sessions_offset: 0,
            generations_offset: 0,
        };
        let refused = |change: &dyn Fn(&mut [u8; LENGTH])| {
            let mut bytes = extension.encode();
            change(&mut bytes);
            let error = Extension::parse(&bytes, 232).unwrap_err();
            (error.kind(), error.context().offset, error.context().length)
        };
        let damaged = ErrorKind::Damaged;
        assert_eq!(refused(&|bytes| bytes[5] = 1), (damaged, Some(232 + 48), Some(4)));
        let reserved = refused(&|bytes| {
            bytes[13] = 1;
            reseal(bytes);
        });
        assert_eq!(reserved, (damaged, Some(232 + 12), Some(4)));
    }

    #[test]
    fn an_error_in_a_record_is_named_by_its_place_in_the_copy() {
        let refused = |changes: &[(usize, u8)]| {
            let mut bytes = session(7).encode(&ID).unwrap();
            for (at, value) in changes {
                bytes[*at] = *value;
            }
            reseal(&mut bytes);
            let error = Session::parse_copy(1, &bytes, &ID, &drive()).unwrap_err();
            (error.context().offset, error.context().length)
        };
        let (sequence, flushes) = ([(32, 0x80)], [(40, 0x80)]);
        assert_eq!(refused(&sequence), (Some(32), Some(16)));
        assert_eq!(refused(&flushes), (Some(32), Some(16)));
        assert_eq!(refused(&[(100, 1)]), (Some(96), Some(8)));
        assert_eq!(refused(&[(108, 1)]), (Some(104), Some(8)));
        assert_eq!(refused(&[(107, 4)]), (Some(104), Some(8)));
        assert_eq!(refused(&[(107, 0)]), (Some(104), Some(8)));
        assert_eq!(refused(&[(2027, 0)]), (Some(2016), Some(12)));
        // A second dead range, which is empty.
        assert_eq!(refused(&[(87, 2)]), (Some(2028), Some(12)));
        assert_eq!(refused(&[(82, 1)]), (Some(80), Some(4)));
        assert_eq!(refused(&[(86, 1)]), (Some(84), Some(4)));
        let torn = Session::newest(&[0; PAGE], &[0; PAGE], &ID, &drive()).unwrap_err();
        assert_eq!((torn.context().offset, torn.context().length), (Some(0), Some(8192)));
    }

    #[test]
    fn a_sequence_no_lifetime_reaches_is_no_sequence() {
        let last =
            Session { sequence: SEQUENCE_END - 1, flush_sequence: SEQUENCE_END - 1, ..session(1) };
        let read = |session: &Session| {
            Session::parse_copy(1, &session.encode(&ID).unwrap(), &ID, &drive())
        };
        assert_eq!(read(&last).unwrap(), Some(last.clone()));
        assert!(read(&Session { sequence: SEQUENCE_END + 1, ..last.clone() }).is_err());
        assert!(read(&Session { flush_sequence: SEQUENCE_END, ..last }).is_err());
        let page = |sequence| parse_page(0, sequence & 1, &encode_page(0, sequence, &[1]));
        assert!(page(SEQUENCE_END - 1).is_ok());
        let error = page(SEQUENCE_END).unwrap_err();
        assert_eq!((error.context().offset, error.context().length), (Some(4080), Some(12)));
        assert!(page(0).is_err());
    }

    #[test]
    fn a_dead_range_may_reach_its_zones_capacity_and_a_condition_the_last_zone() {
        let edge = Session {
            conditions: vec![(ZoneIndex(3), Condition::ReadOnly)],
            dead: vec![(ZoneIndex(3), Extent::new(Blocks(766), Blocks(2)))],
            ..Session::closed(1)
        };
        let bytes = edge.encode(&ID).unwrap();
        assert_eq!(Session::parse_copy(1, &bytes, &ID, &drive()).unwrap(), Some(edge));
    }
}
