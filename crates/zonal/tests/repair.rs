//! Repair: what a check finds is mended, nothing else changes, and a cut in the middle is gone on with.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "foreign/plain.rs"]
mod plain;

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use zonal::sim::{FaultPlan, SimDisk, SimImage, SimMode};
use zonal::{
    AdoptOptions, CheckOptions, CreateOptions, ErrorKind, Geometry, OpenOptions, Preallocate,
    QueueOptions, RepairOptions, Request, Target, ZoneState,
};

const COPIED: u64 = 1 << 63;

fn disk(image: &SimImage) -> SimDisk {
    SimDisk::new(image, SimMode::Auto { seed: 1, faults: FaultPlan::default() })
}

/// A drive with three blocks in zone 1, closed cleanly.
fn sound() -> SimImage {
    let geometry =
        Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(8 << 20) };
    let disk = disk(&SimImage::new(0, 512));
    zonal::sim::create(&disk, &geometry).unwrap();
    let drive = zonal::sim::open(&disk, &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    queue.push(Request::append(1, zonal::Buffer::from_slice(&[7; 3 * 4096]))).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result.unwrap();
    drop(queue);
    drive.close().unwrap();
    disk.image()
}

fn number(image: &SimImage, at: u64) -> u64 {
    let mut bytes = [0; 8];
    image.read(at, &mut bytes);
    u64::from_be_bytes(bytes)
}

/// Every kind of damage: its name, and where which bytes go.
fn damages(image: &SimImage) -> Vec<(&'static str, u64, Vec<u8>)> {
    let mut head = [0; 512];
    image.read(0, &mut head);
    let find = |magic: [u8; 4]| head.windows(4).position(|at| at == magic).unwrap() as u64 + 8;
    let (zoned, ours) = (find([0, 0x7a, 0x62, 0x64]), find(*b"zonl"));
    let (l1, refcount_table) = (number(image, 40), number(image, 48));
    let l2 = number(image, l1) & !COPIED;
    let block = number(image, refcount_table);
    let (zones, sessions) = (number(image, zoned + 24), number(image, ours + 32));
    let whole = |value: u64| value.to_be_bytes().to_vec();
    vec![
        ("a copy of the session record", sessions, vec![9; 100]),
        ("the other copy", sessions + 4096, vec![9; 4096]),
        ("a generation page", number(image, ours + 40), vec![9; 600]),
        ("a leak", block + 2 * 1000, vec![0, 1]),
        ("too low a count", block, vec![0, 0, 0, 0]),
        ("too high a count", block + 2, vec![0, 5]),
        ("no refcount block", refcount_table, whole(0)),
        ("a misplaced refcount block", refcount_table, whole(513)),
        ("a refcount block in a table", refcount_table, whole(l2)),
        ("an L1 entry without its flag", l1, whole(l2)),
        ("an L2 entry without its flag", l2 + 8, whole(number(image, l2 + 8) & !COPIED)),
        ("an L2 entry that cannot be", l2 + 8, whole(0x1fe)),
        ("a write pointer outside its zone", zones + 16, whole(1 << 40)),
        ("a write pointer inside a block", zones + 16, whole((2 << 20) + 5)),
        ("a sequential zone marked conventional", zones + 16, whole(COPIED | 2 << 20)),
        ("the dirty mark", 79, vec![0x21]),
        ("the corrupt mark", 79, vec![0x22]),
    ]
}

fn damaged(image: &SimImage, at: u64, bytes: &[u8]) -> SimImage {
    let mut image = image.clone();
    image.write(at, bytes);
    image
}

fn findings(disk: &SimDisk) -> Vec<String> {
    let report = zonal::sim::check(disk, &CheckOptions { deep: true }).unwrap();
    report.findings.iter().map(ToString::to_string).collect()
}

/// Zone 1 has its three blocks, and no zone but zone 2 is anything else than before.
fn keeps_the_rest(disk: &SimDisk, name: &str) {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let drive = zonal::sim::open(disk, &options).unwrap();
    for zone in drive.report(..).unwrap() {
        let (state, end) = match zone.zone {
            1 => (ZoneState::Closed, zone.start + 3 * 4096),
            2 if name.contains("write pointer") || name.contains("marked") => {
                (ZoneState::ReadOnly, zone.start + zone.capacity)
            }
            _ => (ZoneState::Empty, zone.start),
        };
        assert_eq!((zone.state, zone.write_pointer), (state, Some(end)), "{name}: {zone:?}");
    }
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let into = zonal::Buffer::from_slice(&[0; 3 * 4096]);
    queue.push(Request::read_at(1 << 20, into)).unwrap();
    queue.submit_and_wait(1).unwrap();
    let read = queue.next_completion().unwrap();
    read.result.unwrap();
    assert!(read.buffer.unwrap().iter().all(|&byte| byte == 7), "{name}");
}

fn repair(disk: &SimDisk) -> (zonal::RepairReport, Vec<u8>) {
    let mut kept = Vec::new();
    let report = zonal::sim::repair(disk, &RepairOptions::default(), &mut kept).unwrap();
    (report, kept)
}

/// The image before a repair that kept this.
fn undone(image: &SimImage, kept: &[u8]) -> SimImage {
    let number = |at: usize| u64::from_be_bytes(kept[at..at + 8].try_into().unwrap());
    assert_eq!(&kept[..12], b"zonalrep\0\0\0\x01");
    let (mut image, mut at) = (image.clone(), 44);
    while at < kept.len() {
        let end = at + 16 + number(at + 8) as usize;
        image.write(number(at), &kept[at + 16..end]);
        at = end + 4;
    }
    image.set_len(number(32));
    image
}

#[test]
fn every_damage_is_found_mended_and_gone() {
    let sound = sound();
    assert_eq!(repair(&disk(&sound)).0.mended, []);
    for (name, at, bytes) in damages(&sound) {
        let image = damaged(&sound, at, &bytes);
        let disk = disk(&image);
        assert!(!findings(&disk).is_empty(), "{name}");
        let (report, kept) = repair(&disk);
        assert!(!report.mended.is_empty(), "{name}");
        assert_eq!(findings(&disk), [""; 0], "{name}");
        keeps_the_rest(&disk, name);
        assert_eq!(undone(&disk.image(), &kept), image, "{name}");
        assert_eq!(repair(&disk).0.mended, [], "{name}");
    }
}

#[test]
fn what_cannot_be_known_is_left_as_it_is() {
    let sound = sound();
    let mut lost = sound.clone();
    // Both records; and a leak, which could be mended.
    for (name, at, bytes) in damages(&sound) {
        if ["a copy of the session record", "the other copy", "a leak"].contains(&name) {
            lost.write(at, &bytes);
        }
    }
    let disk = disk(&lost);
    let (report, kept) = repair(&disk);
    assert!(report.mended.is_empty() && kept.is_empty() && report.left.errors() > 0);
    assert_eq!(disk.image(), lost);
}

#[test]
fn a_cut_at_every_write_is_gone_on_with() {
    let sound = sound();
    for (name, at, bytes) in damages(&sound) {
        let image = damaged(&sound, at, &bytes);
        for fails in 0.. {
            let faults = FaultPlan { fail_write: Some(fails), ..FaultPlan::default() };
            let cut = SimDisk::new(&image, SimMode::Auto { seed: fails, faults });
            let done = zonal::sim::repair(&cut, &RepairOptions::default(), &mut Vec::new());
            let mut turn = fails as usize;
            let left = cut.cut(&mut |options| {
                turn += 1;
                turn % options
            });
            let disk = disk(&left);
            repair(&disk);
            assert_eq!(findings(&disk), [""; 0], "{name}, cut at write {fails}");
            keeps_the_rest(&disk, name);
            if done.is_ok() {
                break;
            }
        }
    }
}

// ---- many damages at once, and images of another making ------------------------------------

/// Numbers that follow from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// A drive of another making in clusters of 2^`bits`, adopted, with records in two more zones.
fn scattered(bits: u32) -> SimImage {
    let zone = 256_u64 << 10;
    let data = [((zone >> bits) - 1, 3), (1, 7), (0, 9), (((3 * zone) >> bits) + 1, 0)];
    let disk = disk(&plain::plain(bits, 4 * zone, &data));
    let options = AdoptOptions { zone_size: Some(zone), ..AdoptOptions::default() };
    zonal::sim::adopt(&disk, options).unwrap();
    let drive = zonal::sim::open(&disk, &OpenOptions::default()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let append = |zone, byte| Request::append(zone, zonal::Buffer::from_slice(&[byte; 3 * 4096]));
    for request in [append(1, 5), append(2, 6), append(1, 8), Request::flush()] {
        queue.push(request).unwrap();
        queue.submit_and_wait(1).unwrap();
        queue.next_completion().unwrap().result.unwrap();
    }
    drop(queue);
    drive.close().unwrap();
    disk.image()
}

/// What an image's tables say, read without a line of the library's.
struct Tables {
    cluster: u64,
    size: u64,
    /// The L2 table of each L1 entry, and where the entry stands.
    l1: Vec<(u64, u64)>,
    /// Where the zone table is, the zone size, and the capacity.
    zones: (u64, u64, u64),
    data: Vec<(u64, u64)>,
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Tables {
    fn of(image: &SimImage) -> Self {
        let cluster = 1 << (number(image, 20) >> 32);
        let size = number(image, 24);
        let entries = (number(image, 32) & 0xffff_ffff) as usize;
        let at = |n: usize| number(image, 40) + n as u64 * 8;
        let l1 = (0..entries).map(|n| (at(n), number(image, at(n))));
        let mut head = [0; 4096];
        image.read(0, &mut head);
        let zoned = head.windows(4).position(|at| at == [0, 0x7a, 0x62, 0x64]).unwrap() as u64 + 8;
        let zones =
            (number(image, zoned + 24), number(image, zoned + 8), number(image, zoned + 16));
        let mut tables = Self { cluster, size, l1: l1.collect(), zones, data: Vec::new() };
        tables.data = (0..size / cluster).filter_map(|guest| tables.host(image, guest)).collect();
        tables
    }

    /// The place of a cluster of the drive, if the tables of a sound image's shape name one that can be,
    /// with its entry's place.
    fn host(&self, image: &SimImage, guest: u64) -> Option<(u64, u64)> {
        let at = self.entry_at(image, guest)?;
        let entry = number(image, at);
        self.can_be(image, entry).then_some((at, entry & OFFSET))
    }

    fn can_be(&self, image: &SimImage, entry: u64) -> bool {
        let host = entry & OFFSET;
        let bits = entry & !(OFFSET | COPIED | 1) == 0 && entry & COPIED != 0;
        bits && host != 0 && host.is_multiple_of(self.cluster) && host < image.len()
    }

    /// Where the L2 entry of a cluster stands, by the L1 table as it was.
    fn entry_at(&self, _: &SimImage, guest: u64) -> Option<u64> {
        let (_, table) = *self.l1.get((guest / (self.cluster / 8)) as usize)?;
        (table != 0).then(|| (table & OFFSET) + guest % (self.cluster / 8) * 8)
    }

    /// Whether a damage to this entry can be told: it is as it was but for its flag, or cannot be.
    fn is_told(&self, sound: &SimImage, damaged: &SimImage, at: u64) -> bool {
        let (was, is) = (number(sound, at), number(damaged, at));
        was & !COPIED == is & !COPIED || (is != 0 && !self.can_be(damaged, is | COPIED))
    }

    /// Whether all that names a zone's clusters, and its end, can be told from a damage.
    fn is_zone_told(&self, sound: &SimImage, damaged: &SimImage, zone: u64) -> bool {
        let (table, size, capacity) = self.zones;
        let (at, start) = (table + zone * 8, zone * size);
        let (was, is) = (number(sound, at), number(damaged, at));
        let in_range =
            is >= start && is <= start + size.min(capacity.max(size)) && is.is_multiple_of(512);
        let of_zone = start / self.cluster..(start + size).div_ceil(self.cluster);
        (was == is || !in_range)
            && self.l1.iter().all(|&(at, _)| self.is_told(sound, damaged, at))
            && of_zone
                .filter_map(|guest| self.entry_at(sound, guest))
                .all(|at| self.is_told(sound, damaged, at))
    }

    /// Pages that hold tables and not data.
    fn pages(&self, image: &SimImage) -> Vec<u64> {
        let mut pages: Vec<_> = image.sectors().map(|(at, _)| at / 4096 * 4096).collect();
        pages.dedup();
        let in_data = |page: &u64| {
            self.data.iter().any(|&(_, host)| *page < host + self.cluster && host < *page + 4096)
        };
        pages.retain(|page| !in_data(page));
        pages
    }
}

/// The written bytes of all zones; none of a drive that does not open.
fn contents(image: &SimImage) -> Option<Vec<(u64, Vec<u8>)>> {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let drive = zonal::sim::open(&disk(image), &options).ok()?;
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let zones = drive.report(..).unwrap();
    Some(
        zones
            .iter()
            .map(|zone| {
                let length =
                    zone.write_pointer.map_or(0, |end| end - zone.start).min(zone.capacity);
                if length == 0 {
                    return (0, Vec::new());
                }
                let into = zonal::Buffer::from_slice(&vec![0xa5; length as usize]);
                queue.push(Request::read_at(zone.start, into)).unwrap();
                queue.submit_and_wait(1).unwrap();
                let read = queue.next_completion().unwrap();
                read.result.unwrap();
                (length, read.buffer.unwrap().to_vec())
            })
            .collect(),
    )
}

/// Changes up to three places in the tables of an image.
fn at_random(sound: &SimImage, tables: &Tables, random: &mut Random) -> SimImage {
    let pages = tables.pages(sound);
    let mut image = sound.clone();
    for _ in 0..=random.below(3) {
        let page = pages[random.below(pages.len() as u64) as usize];
        let word = page + random.below(512) * 8;
        let old = number(&image, word);
        let new = match random.below(6) {
            0 => 0,
            1 => old ^ COPIED,
            2 => old ^ 1 << random.below(64),
            3 => random.below(1 << 31) << random.below(33),
            4 => number(
                &image,
                pages[random.below(pages.len() as u64) as usize] + random.below(512) * 8,
            ),
            _ => old.wrapping_add(random.below(9)).wrapping_sub(4),
        };
        // All else of the header names where everything is.
        if word >= 512 || word == 72 {
            image.write(word, &new.to_be_bytes());
        }
    }
    image
}

/// A repair takes no place from a cluster that has one, and loses nothing that can be told from damage.
fn loses_nothing(sound: &SimImage, tables: &Tables, damaged: &SimImage, repaired: &SimImage) {
    for &(l1, _) in &tables.l1 {
        if tables.can_be(damaged, number(damaged, l1)) {
            assert_eq!(number(damaged, l1), number(repaired, l1), "an L1 entry at {l1}");
        }
    }
    for guest in 0..tables.size / tables.cluster {
        if let Some((at, host)) = tables.host(damaged, guest) {
            let is = tables.host(repaired, guest);
            assert_eq!(is, Some((at, host)), "cluster {guest} of the drive");
        }
    }
    let (before, Some(after)) = (contents(sound).unwrap(), contents(repaired)) else { return };
    for (zone, ((length, bytes), (now, found))) in (0..).zip(before.iter().zip(&after)) {
        if tables.is_zone_told(sound, damaged, zone) {
            assert!(now >= length, "zone {zone} ends at {now}, not {length}");
            assert!(found[..bytes.len()] == bytes[..], "zone {zone} has other bytes");
        }
    }
}

#[test]
fn of_many_damages_at_random_none_costs_a_mapped_cluster_or_a_record() {
    let rounds = if std::env::var_os("ZONAL_LONG").is_some() { 2000 } else { 60 };
    let (mut mended, mut opened, mut judged) = (0, 0, 0);
    for (base, sound) in [sound(), scattered(16), scattered(12), scattered(9)].iter().enumerate() {
        let tables = Tables::of(sound);
        for round in 0..rounds {
            let seed = (base as u64 + 1) << 32 | round;
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let image = at_random(sound, &tables, &mut random);
            println!("base {base}, round {round}");
            let whole = disk(&image);
            let mut kept = Vec::new();
            let report = zonal::sim::repair(&whole, &RepairOptions::default(), &mut kept);
            let repaired = whole.image();
            match &report {
                Ok(report) => {
                    mended += usize::from(!report.mended.is_empty());
                    let back =
                        if kept.is_empty() { repaired.clone() } else { undone(&repaired, &kept) };
                    assert!(back == image, "what was kept is not what there was");
                }
                Err(_) => assert!(repaired == image),
            }
            loses_nothing(sound, &tables, &image, &repaired);
            opened += usize::from(contents(&repaired).is_some());
            judged += (0..tables.size / tables.zones.1)
                .filter(|&zone| tables.is_zone_told(sound, &image, zone))
                .count();
            // The same, cut off at some write.
            let fails = random.below(6);
            let faults = FaultPlan { fail_write: Some(fails), ..FaultPlan::default() };
            let cut = SimDisk::new(&image, SimMode::Auto { seed, faults });
            let _ = zonal::sim::repair(&cut, &RepairOptions::default(), &mut Vec::new());
            let left = cut.cut(&mut |options| random.below(options as u64) as usize);
            loses_nothing(sound, &tables, &image, &left);
            let again = disk(&left);
            let _ = zonal::sim::repair(&again, &RepairOptions::default(), &mut Vec::new());
            loses_nothing(sound, &tables, &image, &again.image());
            if report.is_ok_and(|report| report.left.findings.is_empty()) {
                assert_eq!(findings(&again), [""; 0], "cut at write {fails}");
            }
        }
    }
    println!("{mended} mended, {opened} opened, {judged} zones compared");
    assert!(mended > 50 && opened > 100 && judged > 200, "{mended}, {opened}, {judged}");
}

#[test]
fn an_adopted_image_is_repaired_around_the_places_it_has() {
    for bits in [9, 12, 16] {
        let sound = scattered(bits);
        let tables = Tables::of(&sound);
        let refcount_table = number(&sound, 48);
        // Where clusters in use are counted, and where nothing is.
        let (used, per_block) = (tables.data[0].1 / tables.cluster, tables.cluster / 2);
        let block = number(&sound, refcount_table + used / per_block * 8);
        let counted = block + used % per_block * 2;
        let (zone_table, zone_size, _) = tables.zones;
        let l1 = tables.l1.iter().find(|(_, entry)| *entry != 0).unwrap().0;
        let entry = tables.data[0].0;
        let whole = |value: u64| value.to_be_bytes().to_vec();
        let last = number(&sound, refcount_table);
        let leak = (0..per_block).find(|n| number(&sound, last + n * 2) >> 48 == 0).unwrap();
        for (name, at, bytes) in [
            ("a leak", last + leak * 2, vec![0, 1]),
            ("too low a count", counted, vec![0, 0]),
            ("too high a count", counted, vec![0, 9]),
            ("no refcount block", refcount_table, whole(0)),
            ("an L1 entry without its flag", l1, whole(number(&sound, l1) & !COPIED)),
            ("an L2 entry without its flag", entry, whole(number(&sound, entry) & !COPIED)),
            ("a write pointer inside a block", zone_table + 8, whole(zone_size + 5)),
            ("the dirty mark", 79, vec![0x21]),
        ] {
            let image = damaged(&sound, at, &bytes);
            let disk = disk(&image);
            assert!(!findings(&disk).is_empty(), "{name}, {bits}");
            let (report, kept) = repair(&disk);
            assert!(!report.mended.is_empty(), "{name}, {bits}");
            assert_eq!(findings(&disk), [""; 0], "{name}, {bits}");
            assert_eq!(undone(&disk.image(), &kept), image, "{name}, {bits}");
            loses_nothing(&sound, &tables, &image, &disk.image());
            assert_eq!(repair(&disk).0.mended, [], "{name}, {bits}");
        }
        // What cannot be in tables that were not made at creation is left.
        // Nor is the mark taken away then.
        let image = damaged(&damaged(&sound, entry, &whole(0x1fe)), 79, &[0x21]);
        let disk = disk(&image);
        let (report, _) = repair(&disk);
        assert!(report.left.errors() > 0 && disk.image() == image, "{bits}");
    }
}

// ---- files ---------------------------------------------------------------------------------

struct File {
    folder: tempfile::TempDir,
    name: String,
}

impl File {
    /// An image file with three blocks in zone 1, closed cleanly.
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = Self { folder, name: name.to_owned() };
        let geometry =
            Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(8 << 20) };
        let preallocate = Preallocate::Off;
        let options = CreateOptions { geometry, preallocate, force: false, progress: None };
        zonal::create(&file.path(), options).unwrap();
        let drive = file.open();
        drive.append(1, vec![7; 3 * 4096]).wait().unwrap();
        drive.close().unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn open(&self) -> zonal::Device {
        zonal::open(&Target::Path(self.path()), &OpenOptions::default()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// Destroys a table entry and a generation page, and counts what is not used.
    fn damage(&self) {
        let image = SimImage::from_bytes(&self.bytes(), 512);
        let file = std::fs::File::options().write(true).open(self.path()).unwrap();
        let wanted = ["a generation page", "a write pointer inside a block", "a leak"];
        for (_, at, bytes) in damages(&image).iter().filter(|(name, ..)| wanted.contains(name)) {
            file.write_all_at(bytes, *at).unwrap();
        }
    }

    fn refused(&self, options: &RepairOptions) -> zonal::Error {
        let before = self.bytes();
        let error = zonal::repair(&self.path(), options).unwrap_err();
        assert!(self.bytes() == before, "{error}");
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().contains("repair")), "{names:?}");
        error
    }
}

#[test]
fn a_file_is_repaired_and_what_stood_there_is_kept_beside_it() {
    let file = File::new("disk");
    file.damage();
    let before = file.bytes();
    // A file of that name is somebody else's.
    std::fs::write(file.folder.path().join("disk.repair-1"), "mine").unwrap();
    let report = zonal::repair(&file.path(), &RepairOptions::default()).unwrap();
    assert!(report.mended.len() >= 3 && report.left.findings.is_empty(), "{report:?}");
    let kept = report.kept.unwrap();
    assert_eq!(kept, file.folder.path().join("disk.repair-2"));
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o600);
    let repaired = SimImage::from_bytes(&file.bytes(), 512);
    let back = undone(&repaired, &std::fs::read(&kept).unwrap());
    assert!(back.to_bytes() == before);
    let drive = file.open();
    let zones = drive.report(1..3).unwrap();
    assert_eq!(
        (zones[0].write_pointer, zones[1].state),
        (Some((1 << 20) + 3 * 4096), ZoneState::ReadOnly)
    );
    let read = drive.read_at(1 << 20, zonal::Buffer::unpooled(3 * 4096)).wait().unwrap();
    assert!(read.buffer.iter().all(|&byte| byte == 7));
    drive.close().unwrap();
    let again = zonal::repair(&file.path(), &RepairOptions::default()).unwrap();
    assert!(again.mended.is_empty() && again.kept.is_none());
}

#[test]
fn nothing_is_changed_before_the_old_bytes_are_kept() {
    // The longest name there can be has room for `.live`, and none for `.repair-1`.
    let file = File::new(&"n".repeat(250));
    file.damage();
    let error = file.refused(&RepairOptions::default());
    assert!(error.to_string().contains("without it nothing is changed"), "{error}");
}

#[test]
fn an_image_in_use_or_with_records_in_its_live_file_is_not_repaired() {
    let file = File::new("disk");
    let drive = file.open();
    drive.append(1, vec![8; 4096]).wait().unwrap();
    assert_eq!(file.refused(&RepairOptions::default()).kind(), ErrorKind::InUse);
    // Cut off: the record is in the live file alone.
    drop(drive);
    for drop_unflushed in [false, true] {
        let options = RepairOptions { drop_unflushed, ..RepairOptions::default() };
        assert_eq!(file.refused(&options).kind(), ErrorKind::Unclean);
    }
    let live = file.folder.path().join("disk.live");
    std::fs::rename(&live, file.folder.path().join("elsewhere")).unwrap();
    let error = file.refused(&RepairOptions::default());
    assert!(error.kind() == ErrorKind::Unclean && error.to_string().contains("drop-unflushed"));
    let options = RepairOptions { drop_unflushed: true, ..RepairOptions::default() };
    assert!(zonal::repair(&file.path(), &options).unwrap().left.errors() == 0);
    // Opened to write, with its live file, it has the record, and can be repaired.
    std::fs::rename(file.folder.path().join("elsewhere"), &live).unwrap();
    let drive = file.open();
    assert_eq!(drive.report(1..2).unwrap()[0].write_pointer, Some((1 << 20) + 4 * 4096));
    drive.close().unwrap();
    assert!(zonal::repair(&file.path(), &RepairOptions::default()).unwrap().mended.is_empty());
}

#[test]
fn what_a_header_extension_that_is_not_known_may_point_to_is_not_freed() {
    let sound = sound();
    let mut head = [0; 512];
    sound.read(0, &mut head);
    // Instead of the end of the extensions, an empty one of another program's, and then the end.
    let ours = head.windows(4).position(|at| at == *b"zonl").unwrap();
    let strange = damaged(&sound, (ours + 8 + 56) as u64, b"else\0\0\0\0");
    for (name, at, bytes) in damages(&sound) {
        if !["a leak", "too high a count", "too low a count"].contains(&name) {
            continue;
        }
        let image = damaged(&strange, at, &bytes);
        let disk = disk(&image);
        assert!(!findings(&disk).is_empty(), "{name}");
        let (report, _) = repair(&disk);
        // What is used and not counted may be counted all the same.
        let counted = name == "too low a count";
        assert_eq!(disk.image() != image, counted, "{name}: {report:?}");
        assert_eq!(!report.mended.is_empty(), counted, "{name}");
    }
}
