//! Images for the fuzz targets: sound ones with changed fields, their checksums made right again
//! so that the change is looked at and not only noticed, and bytes of no shape at all. What devices answer
//! and journals are in modules of their own; they reach the insides by `zonal::fuzzing`, which is there under
//! `cfg(fuzzing)` alone.

#[cfg(fuzzing)]
pub mod answers;
#[cfg(fuzzing)]
pub mod journals;
#[cfg(fuzzing)]
mod memory;

#[path = "../../crates/zonal/tests/foreign/plain.rs"]
mod plain;

use arbitrary::Arbitrary;
use std::sync::OnceLock;
use zonal::sim::{FaultPlan, SimDisk, SimImage, SimMode};
use zonal::{AdoptOptions, CheckOptions, CheckReport, Geometry, RepairOptions};

/// An image is at most this long. A sparse file may be longer, and opening it then takes longer;
/// that is measured, not fuzzed.
const LENGTH_MAX: u64 = 48 << 20;
/// What our extension and the session record are found by.
const EXTENSION: [u8; 8] = *b"zonl\0\0\0\x34";
const PAGE: u64 = 4096;

/// What a fuzzer chooses: an image, and what is done to it.
#[derive(Arbitrary, Debug)]
pub struct Case {
    image: Image,
    length: Option<u32>,
    /// Whether the checksums are made right after the changes.
    seal: bool,
    /// Whether it is given zones.
    pub adopt: bool,
    /// What is done with the drive, if it opens.
    pub deeds: Vec<Deed>,
}

#[derive(Arbitrary, Debug)]
enum Image {
    Changed { base: u8, changes: Vec<Change> },
    Bytes(Vec<u8>),
}

/// A number that replaces another.
#[derive(Arbitrary, Debug)]
struct Change {
    table: u8,
    index: u16,
    width: Width,
    value: Value,
}

#[derive(Arbitrary, Debug)]
enum Width {
    Byte,
    Half,
    Word,
    Double,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Any(u64),
    Small(u8),
    /// Below 2^64, 2^32 …
    Below(u8),
    Power(u8),
    /// What stands there, and a little.
    Near(i8),
    /// An offset in the file, in units of 512 bytes, with `COPIED` or not.
    Place {
        sector: u16,
        copied: bool,
    },
    /// What stands at another place.
    Copy {
        table: u8,
        index: u16,
    },
}

/// Something done with a drive.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Deed {
    /// Appends so many blocks to a zone.
    Append(u8, u8),
    /// Reads so many blocks at a block.
    Read(u16, u8),
    /// Writes a block at a zone's write pointer.
    Write(u8),
    /// Resets a zone.
    Reset(u8),
    /// Finishes a zone.
    Finish(u8),
    /// Opens a zone.
    Open(u8),
    /// Makes everything durable.
    Flush,
}

/// A sound image, and where its tables are.
struct Base {
    image: SimImage,
    /// Where there is something to change: offset and length.
    tables: Vec<(u64, u64)>,
}

impl Base {
    /// Tables are what is not zeros, in pieces of a page.
    fn new(image: SimImage) -> Self {
        let mut tables = vec![(0, 112), (104, 400)];
        let mut page = vec![0; PAGE as usize];
        for at in (0..image.len()).step_by(PAGE as usize) {
            let found = image.read(at, &mut page);
            if page[..found].iter().any(|&byte| byte != 0) {
                tables.push((at, PAGE));
            }
        }
        Self { image, tables }
    }

    fn place(&self, table: u8, index: u16, width: u64) -> u64 {
        let (offset, length) = self.tables[usize::from(table) % self.tables.len()];
        offset + u64::from(index) * width % length
    }
}

fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| images().into_iter().map(Base::new).collect())
}

fn images() -> Vec<SimImage> {
    let geometry = Geometry {
        zone_size: 1 << 20,
        zone_capacity: 768 << 10,
        conventional_zones: 1,
        max_append: 64 << 10,
        ..Geometry::with_size(8 << 20)
    };
    let limits = Geometry { max_open_zones: 2, max_active_zones: 3, ..geometry.clone() };
    let sectors = Geometry { block_size: 512, ..geometry.clone() };
    let ours = [geometry, limits, sectors].map(|geometry| ours(&geometry));
    let plain = [9, 12, 16].map(foreign);
    let adopted = plain.clone().map(adopted);
    ours.into_iter().chain(adopted).chain(plain).collect()
}

/// An image of another making, with data out of order.
fn foreign(bits: u32) -> SimImage {
    plain::plain(bits, 2 << 20, &[(5, 1), (1, 2), ((1 << 20) >> bits, 3), (2, 0)])
}

/// A drive of it, with clusters in some zones.
fn adopted(image: SimImage) -> SimImage {
    let disk = SimDisk::new(&image, quiet(0));
    zonal::sim::adopt(&disk, zones()).expect("a sound image");
    exercise(&disk, &[Deed::Append(1, 3), Deed::Append(3, 1), Deed::Flush]);
    disk.image()
}

fn zones() -> AdoptOptions<'static> {
    AdoptOptions { zone_size: Some(256 << 10), ..AdoptOptions::default() }
}

/// Adopts whatever is on a disk.
pub fn adopt(disk: &SimDisk) {
    let mut options = zones();
    options.conventional_zones = 1;
    if let Err(error) = zonal::sim::adopt(disk, options) {
        assert!(!error.to_string().is_empty());
    }
}

/// An image of ours with a little in it.
fn ours(geometry: &Geometry) -> SimImage {
    let disk = SimDisk::new(&SimImage::new(0, 512), quiet(0));
    zonal::sim::create(&disk, geometry).expect("a sound shape");
    let used = [Deed::Append(1, 3), Deed::Append(2, 1), Deed::Finish(2), Deed::Append(3, 9)];
    let again = [Deed::Flush, Deed::Reset(1), Deed::Append(1, 1), Deed::Flush];
    exercise(&disk, &[used, again].concat());
    disk.image()
}

fn quiet(seed: u64) -> SimMode {
    SimMode::Auto { seed, faults: FaultPlan::default() }
}

impl Case {
    /// The disk with the image on it.
    pub fn disk(&self) -> SimDisk {
        let mut image = match &self.image {
            Image::Bytes(bytes) => SimImage::from_bytes(bytes, 512),
            Image::Changed { base, changes } => {
                let base = &bases()[usize::from(*base) % bases().len()];
                changed(base, changes)
            }
        };
        if let Some(length) = self.length {
            image.set_len(u64::from(length) % LENGTH_MAX);
        }
        if self.seal {
            seal(&mut image);
        }
        SimDisk::new(&image, quiet(1))
    }
}

fn changed(base: &Base, changes: &[Change]) -> SimImage {
    let mut image = base.image.clone();
    for Change { table, index, width, value } in changes {
        let width = match width {
            Width::Byte => 1,
            Width::Half => 2,
            Width::Word => 4,
            Width::Double => 8,
        };
        let at = base.place(*table, *index, width);
        let number = |at| {
            let mut bytes = [0; 8];
            image.read(at, &mut bytes[8 - width as usize..]);
            u64::from_be_bytes(bytes)
        };
        let value = match value {
            Value::Any(value) => *value,
            Value::Small(value) => u64::from(*value),
            Value::Below(value) => u64::MAX - u64::from(*value),
            Value::Power(power) => 1 << (power % 64),
            Value::Near(by) => number(at).wrapping_add_signed(i64::from(*by)),
            Value::Place { sector, copied } => u64::from(*sector) << 9 | u64::from(*copied) << 63,
            Value::Copy { table, index } => number(base.place(*table, *index, width)),
        };
        image.write(at, &value.to_be_bytes()[8 - width as usize..]);
    }
    image
}

/// Makes the checksums right of our extension, session records and generation pages, wherever the
/// extension says that they are.
fn seal(image: &mut SimImage) {
    let mut head = vec![0; PAGE as usize];
    image.read(0, &mut head);
    let Some(at) = head.windows(8).position(|bytes| bytes == EXTENSION) else { return };
    let at = at + 8;
    let Some(extension) = head.get_mut(at..at + 52) else { return };
    let place =
        |at: usize| u64::from_be_bytes(extension[at..at + 8].try_into().expect("eight bytes"));
    for offset in [place(32), place(40)] {
        for copy in 0..2 {
            seal_page(image, offset.wrapping_add(copy * PAGE));
        }
    }
    let sum = crc32c::crc32c(&extension[..48]);
    image.write(at as u64 + 48, &sum.to_be_bytes());
}

fn seal_page(image: &mut SimImage, offset: u64) {
    let mut page = vec![0; PAGE as usize];
    if image.read(offset, &mut page) == page.len() && page.iter().any(|&byte| byte != 0) {
        let sum = crc32c::crc32c(&page[..4092]);
        image.write(offset + 4092, &sum.to_be_bytes());
    }
}

/// Opens the image on a disk, reads its report, does all `deeds`, and closes it. What is refused is
/// refused; it must not panic, hang, or take memory without bound.
pub fn exercise(disk: &SimDisk, deeds: &[Deed]) {
    for read_only in [true, false] {
        let options = zonal::OpenOptions { read_only, ..zonal::OpenOptions::default() };
        let drive = match zonal::sim::open(disk, &options) {
            Ok(drive) => drive,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        run(&drive, deeds);
        if let Err(error) = drive.close() {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Checks the image on a disk, repairs it, and checks it again. What was mended is not found again, a
/// second repair has nothing to do, what could be read reads the same, and what was kept brings back
/// the image as it was.
pub fn check_and_repair(disk: &SimDisk) {
    for deep in [false, true] {
        if let Ok(report) = zonal::sim::check(disk, &CheckOptions { deep }) {
            for finding in report.findings {
                assert!(!finding.to_string().is_empty());
            }
        }
    }
    let (before, readable) = (disk.image(), readable(disk));
    let mut kept = Vec::new();
    let repaired = zonal::sim::repair(disk, &RepairOptions::default(), &mut kept);
    let after = disk.image();
    assert_eq!(undone(&after, &kept), before, "what was kept is what there was");
    let report = match repaired {
        Ok(report) => report,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(after, before, "{error}");
            return;
        }
    };
    assert_eq!(report.mended.is_empty(), kept.is_empty(), "{report:?}");
    if let Some(readable) = readable {
        assert_eq!(self::readable(disk).as_ref(), Some(&readable), "{report:?}");
    }
    let words =
        |report: &CheckReport| report.findings.iter().map(ToString::to_string).collect::<Vec<_>>();
    if let Ok(again) = zonal::sim::check(disk, &CheckOptions::default()) {
        assert_eq!(words(&again), words(&report.left));
    }
    let mut kept = Vec::new();
    match zonal::sim::repair(disk, &RepairOptions::default(), &mut kept) {
        Ok(again) => assert!(again.mended.is_empty(), "{:?}, then {:?}", report, again.mended),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(kept.is_empty() && disk.image() == after);
}

/// The image as it was before a repair that kept this.
fn undone(image: &SimImage, kept: &[u8]) -> SimImage {
    let mut image = image.clone();
    if kept.is_empty() {
        return image;
    }
    let number = |at: usize| u64::from_be_bytes(kept[at..at + 8].try_into().expect("eight bytes"));
    let sum = |at: usize| u32::from_be_bytes(kept[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((&kept[..12], sum(40)), (&b"zonalrep\0\0\0\x01"[..], crc32c::crc32c(&kept[..40])));
    let mut at = 44;
    for _ in 0..sum(12) {
        let (offset, length) = (number(at), number(at + 8) as usize);
        let end = at + 16 + length;
        assert_eq!(sum(end), crc32c::crc32c(&kept[at..end]));
        image.write(offset, &kept[at + 16..end]);
        at = end + 4;
    }
    assert_eq!(at, kept.len());
    image.set_len(number(32));
    image
}

/// What a reader sees: each zone, and the first of what is in it. `None` if the image does not open.
fn readable(disk: &SimDisk) -> Option<Vec<(String, Vec<u8>)>> {
    let options = zonal::OpenOptions { read_only: true, ..zonal::OpenOptions::default() };
    let drive = zonal::sim::open(disk, &options).ok()?;
    let options = zonal::QueueOptions { depth: 1, buffer_bytes: 0, ..Default::default() };
    let mut queue = drive.queue(&options).expect("a queue");
    let zones = drive.geometry().zones().min(64);
    let mut seen = Vec::new();
    for zone in drive.report(..zones).expect("zones that are there") {
        let end = zone.write_pointer.unwrap_or(zone.start + zone.capacity);
        let length = (end - zone.start).min(16 << 10) as usize;
        let mut bytes = Vec::new();
        if length > 0 {
            let buffer = zonal::Buffer::from_slice(&vec![0xa5; length]);
            queue.push(zonal::Request::read_at(zone.start, buffer)).expect("room for one");
            queue.submit_and_wait(1).expect("a ring");
            let completion = queue.next_completion().expect("an answer");
            bytes = match completion.result {
                Ok(_) => completion.buffer.expect("it comes back").to_vec(),
                Err(error) => error.to_string().into_bytes(),
            };
        }
        seen.push((format!("{zone:?}"), bytes));
    }
    Some(seen)
}

fn run(drive: &zonal::Device, deeds: &[Deed]) {
    let geometry = drive.geometry();
    let zones = geometry.zones();
    let report = drive.report(..zones.min(1000)).expect("zones that are there");
    assert_eq!(report.len(), zones.min(1000) as usize);
    assert!(!drive.info().target.is_empty());
    let options = zonal::QueueOptions { depth: 4, buffer_bytes: 0, ..Default::default() };
    let mut queue = drive.queue(&options).expect("a queue");
    let block = u64::from(geometry.block_size);
    let bytes = |blocks: u8| {
        let length = (u64::from(blocks % 16) + 1) * block;
        zonal::Buffer::from_slice(&vec![0x5a; length as usize])
    };
    for deed in deeds.iter().take(64) {
        let zone = |zone: u8| u32::from(zone) % zones;
        let request = match *deed {
            Deed::Append(at, blocks) => zonal::Request::append(zone(at), bytes(blocks)),
            Deed::Read(at, blocks) => {
                zonal::Request::read_at(u64::from(at) * block % geometry.size, bytes(blocks))
            }
            Deed::Write(at) => {
                let info = drive.report(zone(at)..=zone(at)).expect("a zone")[0];
                let at = info.write_pointer.unwrap_or(info.start);
                zonal::Request::write_at(at, bytes(0))
            }
            Deed::Reset(at) => zonal::Request::reset(zone(at)),
            Deed::Finish(at) => zonal::Request::finish(zone(at)),
            Deed::Open(at) => zonal::Request::open(zone(at)),
            Deed::Flush => zonal::Request::flush(),
        };
        queue.push(request).expect("room for one");
        queue.submit_and_wait(1).expect("a ring");
        let completion = queue.next_completion().expect("an answer to each request");
        if let Err(error) = completion.result {
            assert!(!error.to_string().is_empty());
        }
    }
}
