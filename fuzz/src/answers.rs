//! What devices and kernels answer: Identify pages, zone reports, the files of sysfs and of a zonefs, lines of
//! mounts. Sound ones with changed fields, and bytes of no shape at all.

use crate::memory::within;
use arbitrary::Arbitrary;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use zonal::fuzzing::{self, File};
use zonal::{Device, Result};

/// More than any answer here is long, and than the drive made of it needs.
const MEMORY_MAX: usize = 1 << 20;

/// How many zones a device has in sysfs at most.
const ZONES_MAX: u64 = 4096;

/// The files of sysfs that are looked at, and what stands in them.
const SYSFS: [(&str, &str); 12] = [
    ("queue/zoned", "host-managed"),
    ("queue/chunk_sectors", "32768"),
    ("queue/nr_zones", "4"),
    ("queue/max_open_zones", "2"),
    ("queue/max_active_zones", "3"),
    ("queue/logical_block_size", "4096"),
    ("queue/zone_write_granularity", "4096"),
    ("queue/max_sectors_kb", "512"),
    ("queue/max_segments", "127"),
    ("queue/zone_append_max_bytes", "131072"),
    ("queue/scheduler", "[none] mq-deadline"),
    ("size", "131072"),
];

/// What a fuzzer chooses.
#[derive(Arbitrary, Debug)]
pub enum Answer {
    /// Identify pages and the report of an NVMe namespace.
    Namespace { fields: Vec<Field>, transfer: u32, count: Number, zones: Vec<Zone>, rest: Vec<u8> },
    /// The sysfs and report of a block device.
    Block { texts: Vec<Text>, zones: Vec<Zone>, has_capacity: bool, rest: Vec<u8> },
    /// The sysfs and files of a zonefs.
    Zonefs { texts: Vec<Text>, conventional: Vec<Stat>, sequential: Vec<Stat>, alone: bool },
    /// Lines of `mountinfo`.
    Mounts { lines: Vec<Line>, rest: Vec<u8>, device: u8 },
    /// A command's status.
    Status(u16),
}

/// A field of the pages that is another.
#[derive(Arbitrary, Debug)]
pub enum Field {
    Any {
        page: u8,
        at: u16,
        value: u64,
    },
    /// One of those that are looked at.
    Known {
        which: u8,
        value: Number,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    Any(u64),
    Small(u8),
    Power(u8),
    Below(u8),
    /// A multiple of the zones' size, and a little.
    Zones(u8, i8),
    Sound,
}

impl Number {
    fn value(self, sound: u64, zone: u64) -> u64 {
        match self {
            Self::Any(value) => value,
            Self::Small(value) => value.into(),
            Self::Power(power) => 1 << (power % 64),
            Self::Below(value) => u64::MAX - u64::from(value),
            Self::Zones(zones, more) => (u64::from(zones) * zone).wrapping_add_signed(more.into()),
            Self::Sound => sound,
        }
    }
}

/// A zone of a report.
#[derive(Arbitrary, Debug)]
pub struct Zone {
    start: Number,
    length: Number,
    capacity: Number,
    pointer: Number,
    kind: u8,
    state: u8,
    /// The bytes that nobody looks at.
    noise: u8,
}

/// What stands in a file of sysfs.
#[derive(Arbitrary, Debug)]
pub enum Text {
    Bytes { which: u8, bytes: Vec<u8> },
    Number { which: u8, value: Number },
    Missing { which: u8 },
}

/// A file of a zonefs.
#[derive(Arbitrary, Debug)]
pub struct Stat {
    number: Number,
    mode: u32,
    size: Number,
    blocks: Number,
}

/// A line of `mountinfo`, of words.
#[derive(Arbitrary, Debug)]
pub struct Line(Vec<Word>);

#[derive(Arbitrary, Debug)]
pub enum Word {
    Bytes(Vec<u8>),
    Device(u8),
    Dash,
    Zonefs,
    Point,
    Options,
}

impl Answer {
    /// The drive of it is opened. What is refused is refused with a text; what is not keeps the rules.
    pub fn open(&self) {
        match self {
            Self::Namespace { fields, transfer, count, zones, rest } => {
                let pages = pages(fields);
                let mut report = vec![0; 64];
                let sound = zones.len() as u64;
                report[..8].copy_from_slice(&count.value(sound, 1).to_le_bytes());
                for (nth, zone) in zones.iter().enumerate() {
                    report.extend(zone.descriptor(nth as u64));
                }
                report.extend(rest);
                let [a, b, c, d] = &pages;
                let open = || fuzzing::namespace([a, b, c, d], u64::from(*transfer) << 9, &report);
                judge(within(MEMORY_MAX.max(8 * report.len()), open));
            }
            Self::Block { texts, zones, has_capacity, rest } => {
                let sysfs = sysfs(texts);
                let mut report: Vec<u8> = Vec::new();
                for (nth, zone) in zones.iter().enumerate() {
                    report.extend(zone.reported(nth as u64));
                }
                report.extend(rest);
                let open = || fuzzing::block_device(sysfs, &report, *has_capacity);
                judge(within(MEMORY_MAX.max(8 * report.len()), open));
            }
            Self::Zonefs { texts, conventional, sequential, alone } => {
                let sysfs = sysfs(texts);
                let first = conventional.len() as u64 + 1;
                let conventional = files(conventional, 1, 16 << 20, 16 << 11);
                let sequential = files(sequential, first, 4096, 12 << 11);
                // A kernel that speaks of more zones is believed, and all of them take memory.
                let zones = fs::read_to_string(sysfs.join("queue/nr_zones")).unwrap_or_default();
                let many = zones.trim().parse::<u64>().is_ok_and(|zones| zones > ZONES_MAX);
                if many || conventional.is_empty() && sequential.is_empty() {
                    return;
                }
                let open = || fuzzing::zonefs(sysfs, &conventional, &sequential, *alone);
                judge(within(MEMORY_MAX, open));
            }
            Self::Mounts { lines, rest, device } => {
                let mut bytes = Vec::new();
                lines.iter().for_each(|line| line.write(&mut bytes));
                bytes.extend(rest);
                let device = format!("259:{device}");
                let mounted = fuzzing::mount(&bytes, &device, Path::new("/mnt"));
                assert!(mounted.is_none_or(|mounted| !mounted.is_empty()));
            }
            Self::Status(bits) => assert!(!fuzzing::status(*bits).is_empty()),
        }
    }
}

/// What was opened has one zone behind the other, each with its pointer inside.
fn judge(opened: Result<Device>) {
    let device = match opened {
        Ok(device) => device,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let geometry = device.geometry();
    if geometry.sequential_zones() > 0 {
        geometry.validate().expect("a shape that the rules can work with");
    }
    let zones = device.report(..).expect("its own zones");
    assert_eq!(zones.len(), geometry.zones() as usize);
    let mut next = 0;
    for zone in zones {
        assert_eq!(zone.start, next, "{zone:?}");
        assert!(zone.capacity > 0 && zone.capacity <= zone.size, "{zone:?}");
        if let Some(pointer) = zone.write_pointer {
            assert!((zone.start..=zone.start + zone.capacity).contains(&pointer), "{zone:?}");
        }
        next += zone.size;
    }
    assert_eq!(next, geometry.size);
    assert!(device.limits().append_bytes_max > 0);
}

/// Four zones of 16 MiB in blocks of 4096 bytes, changed: the pages of a namespace, a controller, and of
/// those with zones (NVM Express Base, NVM and Zoned Namespace Command Set Specifications).
fn pages(fields: &[Field]) -> [[u8; 4096]; 4] {
    const KNOWN: [(usize, usize, usize, u64); 11] = [
        (0, 0, 8, 16384),   // NSZE
        (0, 26, 1, 0),      // FLBAS
        (0, 128, 2, 0),     // metadata of the first format
        (0, 130, 1, 12),    // its block's power
        (1, 77, 1, 7),      // MDTS
        (2, 4, 4, 5),       // MAR
        (2, 8, 4, 3),       // MOR
        (2, 2816, 8, 4096), // zone size of the first format
        (2, 2816 + 63 * 16, 8, 4096),
        (0, 128 + 63 * 4 + 2, 1, 12),
        (3, 0, 1, 5), // ZASL
    ];
    let mut pages = [[0; 4096]; 4];
    let mut set = |page: usize, at: usize, width: usize, value: u64| {
        let (page, at) = (page % 4, at.min(4096 - width));
        pages[page][at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    };
    KNOWN.iter().for_each(|&(page, at, width, value)| set(page, at, width, value));
    for field in fields {
        match *field {
            Field::Any { page, at, value } => set(page.into(), (at % 4096).into(), 8, value),
            Field::Known { which, value } => {
                let (page, at, width, sound) = KNOWN[usize::from(which) % KNOWN.len()];
                set(page, at, width, value.value(sound, 4096));
            }
        }
    }
    pages
}

impl Zone {
    /// In blocks, as NVMe has it.
    fn descriptor(&self, nth: u64) -> [u8; 64] {
        const ZONE: u64 = 4096;
        let start = self.start.value(nth * ZONE, ZONE);
        let mut bytes = [self.noise; 64];
        (bytes[0], bytes[1]) = (self.kind, self.state);
        let numbers = [
            (8, self.capacity.value(3 * ZONE / 4, ZONE)),
            (16, start),
            (24, start.wrapping_add(self.pointer.value(1, ZONE))),
        ];
        numbers
            .iter()
            .for_each(|(at, value)| bytes[*at..at + 8].copy_from_slice(&value.to_le_bytes()));
        bytes
    }

    /// In sectors, as Linux has it (`struct blk_zone`).
    fn reported(&self, nth: u64) -> [u8; 64] {
        const ZONE: u64 = 32768;
        let start = self.start.value(nth * ZONE, ZONE);
        let mut bytes = [self.noise; 64];
        (bytes[24], bytes[25]) = (self.kind % 4, self.state % 16);
        let numbers = [
            (0, start),
            (8, self.length.value(ZONE, ZONE)),
            (16, start.wrapping_add(self.pointer.value(8, ZONE))),
            (32, self.capacity.value(3 * ZONE / 4, ZONE)),
        ];
        numbers
            .iter()
            .for_each(|(at, value)| bytes[*at..at + 8].copy_from_slice(&value.to_ne_bytes()));
        bytes
    }
}

fn files(files: &[Stat], first: u64, size: u64, blocks: u64) -> Vec<File> {
    let file = |(nth, stat): (usize, &Stat)| File {
        number: stat.number.value(first + nth as u64, 1),
        mode: stat.mode,
        size: stat.size.value(size, 16 << 20),
        blocks: stat.blocks.value(blocks, 32768),
    };
    files.iter().enumerate().map(file).collect()
}

/// A folder with the files of sysfs, changed.
fn sysfs(texts: &[Text]) -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(base).expect("a folder").keep();
        fs::create_dir(folder.join("queue")).expect("an empty folder");
        folder
    });
    for (name, text) in SYSFS {
        fs::write(folder.join(name), text).expect("a file");
    }
    let path = |which: u8| folder.join(SYSFS[usize::from(which) % SYSFS.len()].0);
    for text in texts {
        match text {
            Text::Bytes { which, bytes } => fs::write(path(*which), bytes).expect("a file"),
            Text::Number { which, value } => {
                let sound = SYSFS[usize::from(*which) % SYSFS.len()].1.parse().unwrap_or(0);
                fs::write(path(*which), value.value(sound, 32768).to_string()).expect("a file");
            }
            Text::Missing { which } => {
                let _ = fs::remove_file(path(*which));
            }
        }
    }
    folder
}

impl Line {
    fn write(&self, bytes: &mut Vec<u8>) {
        for word in &self.0 {
            match word {
                Word::Bytes(word) => bytes.extend(word),
                Word::Device(minor) => bytes.extend(format!("259:{minor}").as_bytes()),
                Word::Dash => bytes.push(b'-'),
                Word::Zonefs => bytes.extend(b"zonefs"),
                Word::Point => bytes.extend(b"/mnt\\040a"),
                Word::Options => bytes.extend(b"rw,errors=zone-ro,explicit-open"),
            }
            bytes.push(b' ');
        }
        bytes.push(b'\n');
    }
}
