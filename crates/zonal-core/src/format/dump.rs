//! A drive as a stream: what `zonal dump` writes and `zonal restore` reads.
//!
//! ```text
//! header │ zone │ data │ data │ … │ zone │ data │ … │ end
//! ```
//!
//! Invariants:
//! * The header and every frame have a checksum (CRC-32C), and every frame of data one for its
//!   bytes; the end counts them all. So whatever is damaged, missing, or cut off is noticed.
//! * Zones come in ascending order, those that are active after the others: a zone that is being
//!   written is active too, so it must be full before the last ones take up the limit. Data comes in
//!   ascending order within its zone, below what the zone has written. A zone that is not named is
//!   empty; what is not named of a zone is zeros.
//! * Parsers take bytes and never panic. [`Checker`] holds frame against frame, so that a stream
//!   it has accepted to its end can be written to a drive of the header's shape as it comes.
//!
//! `docs/dump-format.md` has the byte tables.

use super::{Geometry, damaged, unsupported};
use crate::error::{Error, ErrorKind, Result};
use crate::units::ZoneIndex;
use crate::zone::ZoneState;
use alloc::format;
use core::mem::{offset_of, size_of};
use crc32c::crc32c;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The stream's first bytes.
pub const MAGIC: [u8; 8] = *b"ZONALDMP";
/// The one version of the stream.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<RawHeader>();
/// Bytes of a frame, without the data that follows it.
pub const FRAME_BYTES: usize = size_of::<RawFrame>();
/// Most bytes that follow one frame: what a reader has to have room for.
pub const PIECE_BYTES_MAX: u32 = 1 << 20;

const ZONE: [u8; 4] = *b"ZONE";
const DATA: [u8; 4] = *b"DATA";
const END: [u8; 4] = *b"END.";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    block_size: U32,
    size: U64,
    zone_size: U64,
    zone_capacity: U64,
    conventional_zones: U32,
    max_open_zones: U32,
    max_active_zones: U32,
    max_append: U32,
    image_id: [u8; 16],
    active_zones: U32,
    reserved: [u8; 16],
    crc32c: U32,
}

const _: () = assert!(size_of::<RawHeader>() == 96);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFrame {
    kind: [u8; 4],
    zone: U32,
    place: U64,
    detail: U32,
    data_crc32c: U32,
    reserved: U32,
    crc32c: U32,
}

const _: () = assert!(size_of::<RawFrame>() == 32);

/// What the stream begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The drive's shape.
    pub geometry: Geometry,
    /// The image it was, or zeros.
    pub image_id: [u8; 16],
    /// How many zones are active in it: what the drive that it goes to has to allow.
    pub active_zones: u32,
}

impl Header {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let Self { geometry, image_id, active_zones } = self;
        let mut raw = RawHeader {
            magic: MAGIC,
            version: VERSION.into(),
            block_size: geometry.block_size.into(),
            size: geometry.size.into(),
            zone_size: geometry.zone_size.into(),
            zone_capacity: geometry.zone_capacity.into(),
            conventional_zones: geometry.conventional_zones.into(),
            max_open_zones: geometry.max_open_zones.into(),
            max_active_zones: geometry.max_active_zones.into(),
            max_append: geometry.max_append.into(),
            image_id: *image_id,
            active_zones: (*active_zones).into(),
            reserved: [0; 16],
            crc32c: 0.into(),
        };
        raw.crc32c = crc32c(&raw.as_bytes()[..offset_of!(RawHeader, crc32c)]).into();
        zerocopy::transmute!(raw)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`ErrorKind::NotZoned`] for another kind of file, [`ErrorKind::Unsupported`] for another
    /// version, [`ErrorKind::Damaged`] for a wrong checksum or a shape that cannot be.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        let raw: RawHeader = zerocopy::transmute!(*bytes);
        if raw.magic != MAGIC {
            return Err(Error::new(ErrorKind::NotZoned, "it is no dump of a zoned drive"));
        }
        let version = raw.version.get();
        if version != VERSION {
            let text = format!("the dump's version is {version}, and only {VERSION} is known here");
            return Err(unsupported(8, 4, text));
        }
        if crc32c(&bytes[..offset_of!(RawHeader, crc32c)]) != raw.crc32c.get() {
            return Err(damaged(0, HEADER_BYTES as u64, "the dump's header has a wrong checksum"));
        }
        let geometry = Geometry {
            size: raw.size.get(),
            zone_size: raw.zone_size.get(),
            zone_capacity: raw.zone_capacity.get(),
            conventional_zones: raw.conventional_zones.get(),
            max_open_zones: raw.max_open_zones.get(),
            max_active_zones: raw.max_active_zones.get(),
            block_size: raw.block_size.get(),
            max_append: raw.max_append.get(),
        };
        geometry.validate().map_err(|error| {
            let text =
                format!("the dump's header names a drive that cannot be: {}", error.detail());
            damaged(0, HEADER_BYTES as u64, text)
        })?;
        let (image_id, active_zones) = (raw.image_id, raw.active_zones.get());
        Ok(Self { geometry, image_id, active_zones })
    }
}

/// One frame. Offsets and lengths are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A zone that is not empty; its data follows.
    Zone {
        /// Its number.
        zone: u32,
        /// Its state.
        state: ZoneState,
        /// How much of it is written, from its start: its write pointer, if it has one.
        written: u64,
    },
    /// Bytes of the last zone named; they follow the frame.
    Data {
        /// The zone's number.
        zone: u32,
        /// Where in the zone they are.
        offset: u64,
        /// How many.
        length: u32,
        /// Their CRC-32C.
        crc32c: u32,
    },
    /// The end of the stream.
    End {
        /// How many zones were named.
        zones: u32,
        /// How many frames of data there were.
        pieces: u32,
        /// How many bytes of data.
        bytes: u64,
    },
}

impl Frame {
    /// A frame for `data` at `offset` in a zone.
    #[must_use]
    pub fn of_data(zone: u32, offset: u64, data: &[u8]) -> Self {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        Self::Data { zone, offset, length, crc32c: crc32c(data) }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let (kind, zone, place, detail, data_crc32c) = match *self {
            Self::Zone { zone, state, written } => (ZONE, zone, written, u32::from(state as u8), 0),
            Self::Data { zone, offset, length, crc32c } => (DATA, zone, offset, length, crc32c),
            Self::End { zones, pieces, bytes } => (END, zones, bytes, pieces, 0),
        };
        let mut raw = RawFrame {
            kind,
            zone: zone.into(),
            place: place.into(),
            detail: detail.into(),
            data_crc32c: data_crc32c.into(),
            reserved: 0.into(),
            crc32c: 0.into(),
        };
        raw.crc32c = crc32c(&raw.as_bytes()[..offset_of!(RawFrame, crc32c)]).into();
        zerocopy::transmute!(raw)
    }

    /// Reads one back; `at` is where in the stream it begins, for errors.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn decode(bytes: &[u8; FRAME_BYTES], at: u64) -> Result<Self> {
        let raw: RawFrame = zerocopy::transmute!(*bytes);
        let wrong = |text| damaged(at, FRAME_BYTES as u64, text);
        if crc32c(&bytes[..offset_of!(RawFrame, crc32c)]) != raw.crc32c.get() {
            return Err(wrong("a frame of the dump has a wrong checksum"));
        }
        let (zone, place, detail) = (raw.zone.get(), raw.place.get(), raw.detail.get());
        match raw.kind {
            ZONE => {
                let state = u8::try_from(detail).ok().and_then(ZoneState::from_code);
                let state =
                    state.ok_or_else(|| wrong("a zone of the dump has an unknown state"))?;
                Ok(Self::Zone { zone, state, written: place })
            }
            DATA => {
                let crc32c = raw.data_crc32c.get();
                Ok(Self::Data { zone, offset: place, length: detail, crc32c })
            }
            END => Ok(Self::End { zones: zone, pieces: detail, bytes: place }),
            _ => Err(wrong("a frame of the dump is of an unknown kind")),
        }
    }

    /// How many bytes follow it.
    #[must_use]
    pub const fn data_bytes(&self) -> u32 {
        match self {
            Self::Data { length, .. } => *length,
            Self::Zone { .. } | Self::End { .. } => 0,
        }
    }

    /// Whether `data` is what followed it when it was written.
    #[must_use]
    pub fn fits(&self, data: &[u8]) -> bool {
        match self {
            Self::Data { length, crc32c, .. } => {
                data.len() == *length as usize && crc32c::crc32c(data) == *crc32c
            }
            Self::Zone { .. } | Self::End { .. } => data.is_empty(),
        }
    }
}

/// The zone whose data is coming.
#[derive(Clone, Copy, Debug)]
struct Current {
    active: bool,
    zone: u32,
    written: u64,
    /// Where the next data may begin.
    next: u64,
}

/// Holds each frame against the header and the frames before it.
#[derive(Clone, Debug)]
pub struct Checker {
    geometry: Geometry,
    active_zones: u32,
    current: Option<Current>,
    zones: u32,
    pieces: u32,
    bytes: u64,
    active: u32,
    ended: bool,
}

impl Checker {
    /// A checker for the frames behind `header`.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        Self {
            geometry: header.geometry.clone(),
            active_zones: header.active_zones,
            current: None,
            zones: 0,
            pieces: 0,
            bytes: 0,
            active: 0,
            ended: false,
        }
    }

    /// Takes the next frame, which begins at `at`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], saying what cannot be.
    pub fn take(&mut self, frame: &Frame, at: u64) -> Result<()> {
        let taken = match *frame {
            _ if self.ended => Err("more follows the dump's end"),
            Frame::Zone { zone, state, written } => self.take_zone(zone, state, written),
            Frame::Data { zone, offset, length, .. } => self.take_data(zone, offset, length),
            Frame::End { zones, pieces, bytes } => {
                self.ended = true;
                let counted = (self.zones, self.pieces, self.bytes, self.active);
                match counted == (zones, pieces, bytes, self.active_zones) {
                    true => Ok(()),
                    false => Err("the dump lacks frames, or has too many"),
                }
            }
        };
        taken.map_err(|text| damaged(at, FRAME_BYTES as u64, text))
    }

    fn take_zone(&mut self, zone: u32, state: ZoneState, written: u64) -> Result<(), &'static str> {
        let index = ZoneIndex(zone);
        let capacity = self.geometry.capacity_of(index);
        let block = u64::from(self.geometry.block_size);
        let active = match state {
            ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => true,
            ZoneState::NotWp
            | ZoneState::Empty
            | ZoneState::ReadOnly
            | ZoneState::Full
            | ZoneState::Offline => false,
        };
        let in_order = self.current.is_none_or(|last| (last.active, last.zone) < (active, zone));
        if zone >= self.geometry.zones() || !in_order {
            return Err("a zone of the dump is not on the drive, or out of order");
        }
        let can_be = match state {
            ZoneState::NotWp | ZoneState::Full => written == capacity,
            ZoneState::Empty => false,
            ZoneState::Offline => written == 0,
            ZoneState::ReadOnly => written <= capacity,
            ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => {
                written > 0 && written <= capacity
            }
        };
        let conventional = self.geometry.is_conventional(index);
        if !can_be || conventional != (state == ZoneState::NotWp) || !written.is_multiple_of(block)
        {
            return Err("a zone of the dump has a state and a write pointer that do not agree");
        }
        self.current = Some(Current { active, zone, written, next: 0 });
        self.zones += 1;
        self.active += u32::from(active);
        Ok(())
    }

    fn take_data(&mut self, zone: u32, offset: u64, length: u32) -> Result<(), &'static str> {
        let block = u64::from(self.geometry.block_size);
        let Some(current) = self.current.as_mut().filter(|current| current.zone == zone) else {
            return Err("data of the dump is of another zone than the one before it");
        };
        let length = u64::from(length);
        let end = offset.checked_add(length).filter(|end| *end <= current.written);
        let whole = length > 0 && offset.is_multiple_of(block) && length.is_multiple_of(block);
        match end {
            Some(end) if whole && length <= PIECE_BYTES_MAX.into() && offset >= current.next => {
                current.next = end;
                self.bytes += length;
                self.pieces = self.pieces.checked_add(1).ok_or("the dump has too many frames")?;
                Ok(())
            }
            Some(_) | None => Err("data of the dump lies where its zone has none"),
        }
    }

    /// Whether the end was taken.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.ended
    }
}

/// Checks a whole stream that is in memory.
///
/// # Errors
/// As those of [`Header::decode`], [`Frame::decode`] and [`Checker::take`]; a stream that is cut off
/// is [`ErrorKind::Damaged`].
pub fn check(stream: &[u8]) -> Result<Header> {
    let cut_off = |at: usize| damaged(at as u64, 0, "the dump is cut off");
    let (bytes, _) = stream.split_first_chunk().ok_or_else(|| cut_off(stream.len()))?;
    let header = Header::decode(bytes)?;
    let mut checker = Checker::new(&header);
    let mut at = HEADER_BYTES;
    while !checker.is_ended() {
        let rest = stream.get(at..).unwrap_or_default();
        let (bytes, rest) = rest.split_first_chunk().ok_or_else(|| cut_off(stream.len()))?;
        let frame = Frame::decode(bytes, at as u64)?;
        checker.take(&frame, at as u64)?;
        at += FRAME_BYTES;
        let length = frame.data_bytes() as usize;
        let data = rest.get(..length).ok_or_else(|| cut_off(stream.len()))?;
        if !frame.fits(data) {
            return Err(damaged(at as u64, length as u64, "data of the dump has a wrong checksum"));
        }
        at += length;
    }
    match at == stream.len() {
        true => Ok(header),
        false => Err(damaged(at as u64, 0, "more follows the dump's end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn header() -> Header {
        let geometry = Geometry {
            zone_size: 64 << 10,
            zone_capacity: 48 << 10,
            conventional_zones: 1,
            max_append: 16 << 10,
            ..Geometry::with_size(1 << 20)
        };
        Header { geometry, image_id: [7; 16], active_zones: 1 }
    }

    fn stream() -> Vec<u8> {
        let data = [0xA5; 8192];
        let frames = [
            Frame::Zone { zone: 0, state: ZoneState::NotWp, written: 64 << 10 },
            Frame::of_data(0, 4096, &data),
            Frame::Zone { zone: 4, state: ZoneState::Full, written: 48 << 10 },
            Frame::Zone { zone: 9, state: ZoneState::Offline, written: 0 },
            Frame::Zone { zone: 3, state: ZoneState::Closed, written: 12 << 10 },
            Frame::of_data(3, 0, &data),
            Frame::End { zones: 4, pieces: 2, bytes: 16 << 10 },
        ];
        let mut stream = header().encode().to_vec();
        for frame in frames {
            stream.extend_from_slice(&frame.encode());
            stream.extend_from_slice(&data[..frame.data_bytes() as usize]);
        }
        stream
    }

    #[test]
    fn a_stream_is_as_its_tables_say() {
        let stream = stream();
        assert_eq!(check(&stream).unwrap(), header());
        assert_eq!(stream[..12], *b"ZONALDMP\0\0\0\x01");
        assert_eq!(stream[12..24], [0, 0, 16, 0, 0, 0, 0, 0, 0, 16, 0, 0]);
        let zone = &stream[96..128];
        assert_eq!(zone[..20], *b"ZONE\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0");
        assert_eq!(zone[28..], crc32c(&zone[..28]).to_be_bytes());
    }

    #[test]
    fn a_stream_cut_off_anywhere_is_noticed() {
        let stream = stream();
        for length in 0..stream.len() {
            assert_eq!(
                check(&stream[..length]).unwrap_err().kind(),
                ErrorKind::Damaged,
                "{length}"
            );
        }
    }

    #[test]
    fn a_wrong_bit_anywhere_is_noticed() {
        let stream = stream();
        for at in 0..stream.len() {
            for bit in [1, 128] {
                let mut wrong = stream.clone();
                wrong[at] ^= bit;
                assert!(check(&wrong).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn frames_that_contradict_each_other_are_refused() {
        let zone = |zone, state, written| Frame::Zone { zone, state, written };
        let closed = zone(3, ZoneState::Closed, 8192);
        let data = |offset, length| Frame::Data { zone: 3, offset, length, crc32c: 0 };
        let end = |zones, pieces, bytes| Frame::End { zones, pieces, bytes };
        let refused: [&[Frame]; 16] = [
            &[zone(16, ZoneState::Closed, 4096)],
            &[closed, closed],
            &[closed, zone(2, ZoneState::Closed, 4096)],
            &[closed, zone(5, ZoneState::Full, 48 << 10)],
            &[zone(0, ZoneState::Closed, 4096)],
            &[zone(1, ZoneState::NotWp, 64 << 10)],
            &[zone(1, ZoneState::Full, 4096)],
            &[zone(1, ZoneState::Closed, 52 << 10)],
            &[zone(1, ZoneState::Closed, 100)],
            &[zone(1, ZoneState::Empty, 0)],
            &[data(0, 4096)],
            &[closed, data(8192, 4096)],
            &[closed, data(4096, 4096), data(0, 4096)],
            &[closed, data(0, 100)],
            &[closed, data(0, 4096), end(1, 0, 0)],
            &[end(0, 0, 0)],
        ];
        for frames in refused {
            let mut checker = Checker::new(&header());
            let taken: Result<Vec<()>> =
                frames.iter().map(|frame| checker.take(frame, 0)).collect();
            assert_eq!(taken.unwrap_err().kind(), ErrorKind::Damaged, "{frames:?}");
        }
        let mut checker = Checker::new(&header());
        for frame in [closed, data(0, 4096), data(4096, 4096), end(1, 2, 8192)] {
            checker.take(&frame, 0).unwrap();
        }
        assert!(checker.is_ended());
        assert!(checker.take(&end(1, 2, 8192), 0).is_err());
    }

    proptest! {
        /// Right checksums over anything at all: the parser itself has to hold.
        #[test]
        fn nothing_makes_the_parser_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            sound in any::<bool>(),
        ) {
            if sound && bytes.len() >= HEADER_BYTES + FRAME_BYTES {
                bytes[..HEADER_BYTES].copy_from_slice(&header().encode());
                let kind = [ZONE, DATA, END][usize::from(bytes[HEADER_BYTES]) % 3];
                bytes[HEADER_BYTES..][..4].copy_from_slice(&kind);
                let sum = crc32c(&bytes[HEADER_BYTES..][..28]);
                bytes[HEADER_BYTES + 28..][..4].copy_from_slice(&sum.to_be_bytes());
            }
            let _ = check(&bytes);
        }
    }
    #[test]
    fn what_a_zone_has_written_agrees_with_its_state() {
        let capacity = 48 << 10;
        for (state, written, sound) in [
            (ZoneState::ReadOnly, 0, true),
            (ZoneState::ReadOnly, 4096, true),
            (ZoneState::ReadOnly, capacity, true),
            (ZoneState::ReadOnly, capacity + 4096, false),
            (ZoneState::Closed, 0, false),
            (ZoneState::Closed, 4096, true),
            (ZoneState::Closed, capacity, true),
            (ZoneState::ExplicitlyOpen, capacity + 4096, false),
            (ZoneState::Offline, 4096, false),
            (ZoneState::Full, capacity - 4096, false),
        ] {
            let taken = Checker::new(&header()).take(&Frame::Zone { zone: 1, state, written }, 0);
            assert_eq!(taken.is_ok(), sound, "{state}, {written}");
        }
    }

    #[test]
    fn a_piece_is_not_empty_and_not_too_long() {
        let data = |length| Frame::Data { zone: 1, offset: 0, length, crc32c: 0 };
        let mut long = header();
        (long.geometry.size, long.geometry.zone_size) = (16 << 20, 4 << 20);
        (long.geometry.zone_capacity, long.geometry.conventional_zones) = (4 << 20, 0);
        let take = |length| {
            let mut checker = Checker::new(&long);
            let zone = Frame::Zone { zone: 1, state: ZoneState::Full, written: 4 << 20 };
            checker.take(&zone, 0).unwrap();
            checker.take(&data(length), 96)
        };
        take(PIECE_BYTES_MAX).unwrap();
        for length in [0, PIECE_BYTES_MAX + 4096] {
            let error = take(length).unwrap_err();
            assert_eq!((error.context().offset, error.context().length), (Some(96), Some(32)));
        }
    }

    #[test]
    fn an_error_says_where_in_the_stream_it_is() {
        let stream = stream();
        let at = |change: usize| {
            let mut wrong = stream.clone();
            wrong[change] ^= 1;
            let error = check(&wrong).unwrap_err();
            (error.context().offset, error.context().length)
        };
        assert_eq!(at(10), (Some(8), Some(4)));
        assert_eq!(at(40), (Some(0), Some(96)));
        assert_eq!(at(97), (Some(96), Some(32)));
        assert_eq!(at(130), (Some(128), Some(32)));
        assert_eq!(at(170), (Some(160), Some(8192)));
        assert_eq!(at(160 + 8192), (Some(160 + 8192), Some(32)));
        let mut longer = stream.clone();
        longer.push(0);
        let error = check(&longer).unwrap_err();
        assert_eq!(error.context().offset, Some(stream.len() as u64));
        let error = check(&stream[..50]).unwrap_err();
        assert_eq!(error.context().offset, Some(50));
    }
}
