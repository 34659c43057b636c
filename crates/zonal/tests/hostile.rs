//! Damaged and hostile images, field by field: each value that cannot be is refused with words that
//! name it, before memory is taken for it, and nothing panics. What the fields can be together is the
//! fuzz targets' to try.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "foreign/plain.rs"]
mod plain;

use plain::plain;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use zonal::sim::{FaultPlan, SimDisk, SimImage, SimMode};
use zonal::{AdoptOptions, CheckOptions, ErrorKind, Geometry, OpenOptions};

std::thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Remembers the largest piece of memory the thread asked for.
struct Measuring;

// SAFETY: everything is handed on to the system's allocator, which keeps the contract; the number is
// a plain cell of the thread, which allocates nothing.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(size));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// More than anything here is worth: a header's cluster, an L1 table, a L2 table have 2 MiB.
const MEMORY_MAX: usize = 8 << 20;

fn quiet() -> SimMode {
    SimMode::Auto { seed: 1, faults: FaultPlan::default() }
}

/// Opens an image to write and to read, and checks it; the errors. None of it may take much memory.
fn errors(image: &SimImage) -> Vec<zonal::Error> {
    LARGEST.set(0);
    let mut errors = Vec::new();
    for read_only in [false, true] {
        let disk = SimDisk::new(image, quiet());
        let options = OpenOptions { read_only, ..OpenOptions::default() };
        errors.extend(zonal::sim::open(&disk, &options).err());
    }
    let disk = SimDisk::new(image, quiet());
    let found = match zonal::sim::check(&disk, &CheckOptions::default()) {
        Ok(report) => !report.findings.is_empty(),
        Err(_) => true,
    };
    assert!(errors.is_empty() || found, "what cannot be opened is found by a check");
    assert!(LARGEST.get() <= MEMORY_MAX, "{} bytes at once", LARGEST.get());
    errors
}

/// A sound image and where its parts are.
struct Sound {
    image: SimImage,
}

impl Sound {
    fn ours() -> Self {
        let geometry = Geometry {
            zone_size: 1 << 20,
            zone_capacity: 768 << 10,
            conventional_zones: 1,
            max_append: 64 << 10,
            ..Geometry::with_size(8 << 20)
        };
        let disk = SimDisk::new(&SimImage::new(0, 512), quiet());
        zonal::sim::create(&disk, &geometry).unwrap();
        let sound = Self { image: disk.image() };
        assert!(errors(&sound.image).is_empty());
        sound
    }

    fn adopted() -> Self {
        let data = [(1, 1), (9, 2), (0, 3), (20, 4), (21, 5)];
        let disk = SimDisk::new(&plain(16, 4 << 20, &data), quiet());
        let options = AdoptOptions { zone_size: Some(1 << 20), ..AdoptOptions::default() };
        zonal::sim::adopt(&disk, options).unwrap();
        let sound = Self { image: disk.image() };
        assert!(errors(&sound.image).is_empty());
        sound
    }

    fn number(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.image.read(at, &mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// Where an extension's data begins.
    fn extension(&self, magic: [u8; 4]) -> u64 {
        let mut head = [0; 512];
        self.image.read(0, &mut head);
        head.windows(4).position(|bytes| bytes == magic).unwrap() as u64 + 8
    }

    fn zoned(&self) -> u64 {
        self.extension([0, 0x7a, 0x62, 0x64])
    }

    fn zonal(&self) -> u64 {
        self.extension(*b"zonl")
    }

    fn l1(&self) -> u64 {
        self.number(40)
    }

    fn l2(&self) -> u64 {
        self.number(self.l1()) & !(1 << 63)
    }

    fn refcount_table(&self) -> u64 {
        self.number(48)
    }

    fn zone_table(&self) -> u64 {
        self.number(self.zoned() + 24)
    }

    fn sessions(&self) -> u64 {
        self.number(self.zonal() + 32)
    }

    fn generations(&self) -> u64 {
        self.number(self.zonal() + 40)
    }

    /// The image with a field changed: `bytes` at `at`. Checksums are made right again.
    fn with(&self, at: u64, bytes: &[u8]) -> SimImage {
        let mut image = self.image.clone();
        image.write(at, bytes);
        let mut extension = [0; 48];
        image.read(self.zonal(), &mut extension);
        image.write(self.zonal() + 48, &crc32c(&extension).to_be_bytes());
        for page in [self.sessions(), self.generations()] {
            for copy in [page, page + 4096] {
                let mut bytes = [0; 4092];
                image.read(copy, &mut bytes);
                if bytes.iter().any(|&byte| byte != 0) {
                    image.write(copy + 4092, &crc32c(&bytes).to_be_bytes());
                }
            }
        }
        image
    }
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// A field, a value it cannot have, and words of the error that names it.
type Row = (u64, Vec<u8>, &'static str);

fn half(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn whole(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// Each row is refused, to write and to read, with its words.
fn refused(sound: &Sound, rows: impl IntoIterator<Item = Row>) {
    let mut wrong = Vec::new();
    for (at, bytes, words) in rows {
        let found = errors(&sound.with(at, &bytes));
        let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
        let named = texts.len() == 2 && texts.iter().all(|text| text.contains(words));
        if !named || found.iter().any(|error| error.kind() == ErrorKind::Io) {
            wrong.push(format!("{at}: {bytes:x?} should be refused with `{words}`, not {texts:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_field_of_the_header() {
    for sound in [Sound::ours(), Sound::adopted()] {
        refused(
            &sound,
            [
                (0, half(0), "raw data"),
                (4, half(2), "without zones"),
                (4, half(4), "version 4"),
                (4, half(u32::MAX), "version 4294967295"),
                (8, whole(1 << 16), "a backing file"),
                (8, whole(u64::MAX), "a backing file"),
                (16, half(9), "a backing file"),
                (20, half(8), "cluster_bits 8"),
                (20, half(22), "cluster_bits 22"),
                (20, half(u32::MAX), "cluster_bits 4294967295"),
                (24, whole(0), "size 0"),
                (24, whole(4097), "size 4097"),
                (24, whole(1 << 62 | 1 << 20), "at most"),
                (24, whole(u64::MAX - 4095), "at most"),
                (24, whole(1 << 40), "zones"),
                (32, half(1), "encryption"),
                (32, half(2), "encryption"),
                (36, half(0), "L1 entries"),
                (36, half((4 << 20) + 1), "L1 entries"),
                (36, half(u32::MAX), "L1 entries"),
                (40, whole(0), "overlaps"),
                (40, whole(512), "does not start on a cluster"),
                (40, whole(1 << 50), "past the end"),
                (40, whole(!((2 << 20) - 1)), "past the end"),
                (48, whole(0), "overlaps"),
                (48, whole(7), "does not start on a cluster"),
                (48, whole(1 << 62), "past the end"),
                (56, half(0), "refcount table of 0"),
                (56, half(u32::MAX), "at most 8 MiB"),
                (60, half(1), "internal snapshots"),
                (60, half(u32::MAX), "internal snapshots"),
                (72, whole(1 << 5 | 1), "dirty"),
                (72, whole(1 << 5 | 2), "corrupt"),
                (72, whole(1 << 5 | 4), "external data file"),
                (72, whole(1 << 5 | 8), "compression type"),
                (72, whole(1 << 5 | 16), "subclusters"),
                (72, whole(1 << 5 | 64), "0x40"),
                (72, whole(1 << 5 | 1 << 63), "0x8000000000000000"),
                (72, whole(0), "without feature bit 5"),
                (96, half(7), "refcount_order 7"),
                (96, half(u32::MAX), "refcount_order"),
                (100, half(0), "header_length 0"),
                (100, half(96), "header_length 96"),
                (100, half(113), "header_length 113"),
                (100, half(u32::MAX - 7), "header_length"),
                (104, vec![1], "compression type 1"),
                (104, vec![255], "compression type 255"),
                // The first extension: the feature names.
                (116, half(u32::MAX), "past the header's cluster"),
                (116, half(3 << 20), "past the header's cluster"),
            ],
        );
    }
}

#[test]
fn every_field_of_the_extensions() {
    for sound in [Sound::ours(), Sound::adopted()] {
        let (zoned, zonal) = (sound.zoned(), sound.zonal());
        let ours = sound.sessions();
        refused(
            &sound,
            [
                (zoned - 4, half(48), "another revision"),
                (zoned - 4, half(0), "another revision"),
                (zoned - 4, half(u32::MAX), "past the header's cluster"),
                (zoned - 8, half(1), "without its extension"),
                (zoned, vec![0], "zone model 0"),
                (zoned, vec![2], "zone model 2"),
                (zoned + 4, half(0), "0 zones"),
                (zoned + 4, half(1_000_000), "1000000 zones"),
                (zoned + 4, half(u32::MAX), "4294967295 zones"),
                (zoned + 8, whole(0), "zone-size 0"),
                (zoned + 8, whole(3 << 20), "no power of two"),
                (zoned + 8, whole(1 << 63), "zone-size"),
                (zoned + 8, whole(u64::MAX), "zone-size"),
                (zoned + 16, whole(0), "zone-capacity 0"),
                (zoned + 16, whole(2 << 20), "zone-capacity"),
                (zoned + 16, whole(!4095), "zone-capacity"),
                (zoned + 24, whole(0), "overlaps"),
                (zoned + 24, whole(1), "does not start on a cluster"),
                (zoned + 24, whole(1 << 55), "past the end"),
                (zoned + 24, whole(!((2 << 20) - 1)), "past the end"),
                (zoned + 24, whole(ours), "overlaps"),
                (zoned + 32, half(8), "conventional-zones 8"),
                (zoned + 32, half(u32::MAX), "conventional-zones"),
                (zonal - 8, half(0x007a_6264), "a second header extension"),
                (zonal - 4, half(44), "44 bytes, not 52"),
                (zonal - 4, half(0), "cut short"),
                (zonal, half(0), "version 0"),
                (zonal, half(2), "version 2"),
                (zonal + 4, half(0), "block-size 0"),
                (zonal + 4, half(1024), "block-size 1024"),
                (zonal + 4, half(1 << 31), "block-size"),
                (zonal + 8, half(0), "max-append 0"),
                (zonal + 8, half(5), "max-append 5"),
                (zonal + 12, half(1), "reserved"),
                (zonal + 16, whole(1), "another image"),
                (zonal + 32, whole(0), "overlaps"),
                (zonal + 32, whole(1), "does not start on a cluster"),
                (zonal + 32, whole(1 << 55), "past the end"),
                (zonal + 32, whole(!((2 << 20) - 1)), "past the end"),
                (zonal + 40, whole(ours), "overlaps"),
                (zonal + 40, whole(1 << 63), "past the end"),
            ],
        );
        let mut torn = sound.image.clone();
        torn.write(zonal + 48, &[1, 2, 3, 4]);
        for error in errors(&torn) {
            assert!(error.to_string().contains("checksum"), "{error}");
        }
    }
}

#[test]
fn limits_that_cannot_be_reached_are_lowered_and_said() {
    let sound = Sound::ours();
    for (at, words) in [(36, "max-active-zones"), (40, "max-open-zones")] {
        let image = sound.with(sound.zoned() + at, &half(u32::MAX));
        let drive = zonal::sim::open(&SimDisk::new(&image, quiet()), &OpenOptions::default());
        let warnings = drive.unwrap().info().warnings;
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{warnings:?}");
    }
}

#[test]
fn every_entry_of_the_tables() {
    for sound in [Sound::ours(), Sound::adopted()] {
        let (l1, l2, zones) = (sound.l1(), sound.l2(), sound.zone_table());
        let copied = 1 << 63;
        let data = sound.number(l2) & !copied;
        let cluster = 1 << (sound.number(16) & 0xff);
        refused(
            &sound,
            [
                (l1, whole(l2), "L1 entry"),
                (l1, whole(copied), "L1 entry"),
                (l1, whole(l2 | copied | 1), "L1 entry"),
                (l1, whole(u64::MAX), "L1 entry"),
                (l1, whole(copied | 512), "a cluster at 512"),
                (l1, whole(copied | 1 << 54), "a cluster at"),
                (l1, whole(copied), "cannot be"),
                (l1, whole(copied | l1), "lies in the L1 table"),
                (l1, whole(copied | zones), "lies in the zone table"),
                (l1 + 8, whole(copied | l2), "two L1 entries name one L2 table"),
                // Data for a table: zeros are holes, which these zones are too small for.
                (l1, whole(copied | data), ""),
                (l2, whole(data), "L2 entry"),
                (l2, whole(data | copied | 2), "L2 entry"),
                (l2, whole(copied), "L2 entry"),
                (l2, whole(1 << 62 | data), "compressed"),
                (l2, whole(u64::MAX), "compressed"),
                (l2, whole(copied | (data + 512)), "a cluster at"),
                (l2, whole(copied | 1 << 55), "a cluster at"),
                (l2, whole(copied | l2), "in "),
                (l2, whole(copied | l1), "in "),
                (l2, whole(copied | zones), "in "),
                (l2 + 8, whole(copied | data), "uses a cluster twice"),
                (zones, whole(u64::MAX), ""),
                (zones + 8, whole(0), "outside the zone"),
                (zones + 8, whole((1 << 20) + 1), "inside a block"),
                (zones + 8, whole((2 << 20) + 4096), "outside the zone"),
                (zones + 8, whole((1 << 63) - 512), "outside the zone"),
                (zones + 8, whole(1 << 63 | 1 << 20), "conventional zones"),
            ],
        );
        assert!(data.is_multiple_of(cluster));
    }
}

#[test]
fn every_field_of_the_session_and_the_generations() {
    let sound = Sound::ours();
    let (first, second) = (sound.sessions(), sound.sessions() + 4096);
    for session in [first, second] {
        refused(
            &sound,
            [
                (session + 8, half(0), "version 0"),
                (session + 8, half(u32::MAX), "version 4294967295"),
                (session + 12, half(2), "session state 2"),
                (session + 16, whole(5), "another image"),
                (session + 32, whole(u64::MAX), "no session can have reached"),
                (session + 40, whole(1 << 63), "no session can have reached"),
                (session + 80, half(241), "241"),
                (session + 80, half(u32::MAX), "4294967295"),
                (session + 84, half(173), "173"),
                (session + 80, half(1), "condition 0"),
                (session + 84, half(1), "a dead range"),
            ],
        );
        let other = if session == first { 1 } else { 2 };
        refused(&sound, [(session + 32, whole(other), "stands in copy")]);
        // A zone beyond the drive, with a condition that is known.
        let mut condition = half(1);
        condition.extend([0; 12]);
        condition.extend([0xff, 0xff, 0xff, 0xff, 0xd, 0, 0, 0]);
        refused(&sound, [(session + 80, condition, "a condition for it")]);
    }
    let mut torn = sound.image.clone();
    torn.write(first, &[0; 4096]);
    torn.write(second, &[0; 4096]);
    for error in errors(&torn) {
        assert!(error.to_string().contains("both copies of the session record"), "{error}");
    }
    let page = sound.generations();
    refused(
        &sound,
        [
            (page + 4080, half(1), "page"),
            (page + 4084, whole(u64::MAX), ""),
            (page + 4084, whole(1), ""),
        ],
    );
}

#[test]
fn refcounts_that_cannot_be_are_found_by_a_check_and_by_who_allocates() {
    let sound = Sound::adopted();
    let (table, mut bad) = (sound.refcount_table(), 0);
    for block in [1, u64::MAX, 1 << 40, sound.l1(), sound.l2(), sound.zone_table()] {
        let image = sound.with(table, &whole(block));
        let disk = SimDisk::new(&image, quiet());
        let report = zonal::sim::check(&disk, &CheckOptions::default()).unwrap();
        assert!(!report.findings.is_empty(), "{block:#x}");
        bad += errors(&image).len();
    }
    assert_eq!(bad, 6, "who only reads needs no refcounts");
    let block = sound.number(table);
    let repeated: Vec<u8> = (0..4096).flat_map(|_| whole(block)).collect();
    let disk = SimDisk::new(&sound.with(table, &repeated), quiet());
    let report = zonal::sim::check(&disk, &CheckOptions::default()).unwrap();
    assert!(!report.findings.is_empty());
}

#[test]
fn a_million_claimed_zones_in_a_kibibyte_take_no_memory() {
    let sound = Sound::ours();
    let size = 1_u64 << 40;
    let mut image = sound.image.clone();
    image.write(24, &whole(size));
    image.write(sound.zoned() + 4, &half(1 << 20));
    image.set_len(1024);
    for error in errors(&image) {
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    }
    let mut image = sound.image.clone();
    image.write(24, &whole(size));
    image.write(sound.zoned() + 4, &half(1 << 20));
    image.write(36, &half(4 << 20));
    for error in errors(&image) {
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    }
}

#[test]
fn an_image_cut_off_at_any_sector_is_refused_or_whole() {
    for sound in [Sound::ours(), Sound::adopted()] {
        let whole = sound.image.len();
        let mut lengths: Vec<u64> = (0..128).map(|sector| sector * 512).collect();
        // Of the rest the sectors around every part's boundary, and some of each part.
        lengths.extend((0..whole).step_by(64 << 10).flat_map(|at| [at, at + 512, at + 4096 - 512]));
        lengths.push(whole - 512);
        for length in lengths {
            if length >= whole {
                continue;
            }
            let mut image = sound.image.clone();
            image.set_len(length);
            let found = errors(&image);
            // What is cut off an adopted image may be room for data that nobody uses yet.
            assert!(!found.is_empty() || length > sound.l2(), "{length} of {whole}");
            for error in found {
                assert_ne!(error.kind(), ErrorKind::Io, "{length}: {error}");
            }
        }
    }
}

#[test]
fn bytes_of_no_shape_are_refused() {
    let mut state = 1_u64;
    for length in [0, 1, 3, 4, 7, 8, 71, 72, 103, 104, 111, 112, 511, 512, 4096, 100_000] {
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(length)
        .collect();
        assert_eq!(errors(&SimImage::from_bytes(&bytes, 512)).len(), 2);
        for (at, byte) in bytes.iter_mut().zip(b"QFI\xfb\0\0\0\x03") {
            *at = *byte;
        }
        assert_eq!(errors(&SimImage::from_bytes(&bytes, 512)).len(), 2);
    }
}
