//! Untorn writes on real file systems and devices: what the kernel promises is what is said, what it refuses
//! is refused with its number, and mixtures with ordinary writes leave the right bytes. As root, with
//! `mkfs.xfs` and `mkfs.ext4`; what needs neither is in `untorn_journal`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![cfg(not(zonal_shuttle))]

mod disks;

use disks::{Ground, Mounted, make_file_system, run};
use rustix::fs::{AtFlags, FallocateFlags, StatxFlags, fallocate, ioctl_ficlone, statx};
use rustix::io::{ReadWriteFlags, pwritev2};
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use zonal::atomic::{AtomicFile, AtomicLimits, AtomicOptions, AtomicPath, JournalUse};
use zonal::{Buffer, EngineChoice, ErrorKind};

const UNTORN: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x40);
const BLOCK: u64 = 4096;

/// Names a block device whose writes can be untorn, to be overwritten by these tests: what is said of loop
/// devices and files on them is then held against it and files on it.
const DEVICE: &str = "ZONAL_UNTORN";

/// A file system on a disk, which copies on write or does not; or the disk itself.
struct Place {
    kind: &'static str,
    disk: PathBuf,
    mounted: Option<(PathBuf, Mounted)>,
}

impl Place {
    fn new(ground: &Ground, kind: &'static str) -> Self {
        if let Some(device) = std::env::var_os(DEVICE) {
            return Self::on(ground, kind, device.into(), "async");
        }
        let disk = ground.path(&format!("{kind}.disk"));
        File::create(&disk).unwrap().set_len(400 << 20).unwrap();
        Self::on(ground, kind, disk, "loop")
    }

    fn on(ground: &Ground, kind: &'static str, disk: PathBuf, options: &str) -> Self {
        let file_system = match kind {
            "device" => return Self { kind, disk, mounted: None },
            "xfs-plain" => {
                run("mkfs.xfs", &["-q", "-f", "-m", "reflink=0"], &[&disk]);
                "xfs"
            }
            "ext4-clusters" => {
                let clusters = ["-q", "-F", "-b", "4096", "-O", "bigalloc", "-C", "65536"];
                run("mkfs.ext4", &clusters, &[&disk]);
                "ext4"
            }
            name => {
                make_file_system(name, &disk);
                name
            }
        };
        let folder = ground.folder(kind);
        let mounted = Mounted::over_loop_with(&disk, &folder, file_system, options);
        Self { kind, disk, mounted: Some((folder, mounted)) }
    }

    /// Where writes are untorn by the kernel: XFS on any disk, and with a device that can, also the device and
    /// what else is on it.
    fn each_native(ground: &Ground, mut run: impl FnMut(&Self)) {
        // Before Linux 6.13 no file system hands on what the device can.
        let (must, may): (_, &[&'static str]) = match std::env::var_os(DEVICE) {
            Some(_) => ("device", &["device", "xfs", "xfs-plain", "ext4", "ext4-clusters"]),
            None => ("xfs", &["xfs"]),
        };
        for kind in may {
            let place = Self::new(ground, kind);
            if by_statx(&place.file("asked", 4096)).is_some() {
                println!("{kind}");
                run(&place);
            } else {
                assert_ne!(*kind, must, "the kernel promises nothing");
                println!("{kind}: the kernel promises nothing");
            }
            place.end();
        }
    }

    fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let Some((folder, _)) = &self.mounted else { return self.disk.clone() };
        let path = folder.join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Lets go of the disk, for the next file system on it.
    fn end(self) {
        if let Some((_, mounted)) = self.mounted {
            mounted.unmount();
        }
    }

    fn is_device(&self) -> bool {
        self.mounted.is_none()
    }

    /// Up to which length the disk itself writes in place.
    fn in_place(&self) -> u64 {
        let Some(device) = std::env::var_os(DEVICE) else { return 0 };
        let name = Path::new(&device).file_name().unwrap().to_str().unwrap().to_owned();
        let setting = format!("/sys/block/{name}/queue/atomic_write_unit_max_bytes");
        std::fs::read_to_string(setting).unwrap().trim().parse().unwrap()
    }
}

/// The first bytes of a file or device, through the page cache.
fn first(path: &Path, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn options(engine: EngineChoice) -> AtomicOptions {
    AtomicOptions { engine, ..AtomicOptions::default() }
}

/// What the kernel itself says: smallest and largest unit, if the attribute is set and there is one.
fn by_statx(path: &Path) -> Option<(u64, u64, u64)> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::from_bits_retain(0x1_0000);
    let found = statx(rustix::fs::CWD, path, AtFlags::empty(), wanted).unwrap();
    let promised = found.stx_attributes.bits() & 0x40_0000 != 0;
    let (min, max) = (found.stx_atomic_write_unit_min, found.stx_atomic_write_unit_max);
    let opt = found.stx_atomic_write_unit_max_opt;
    (promised && max > 0).then_some((min.into(), max.into(), opt.into()))
}

/// What the kernel answers to an untorn write, itself: bytes, or an error number.
fn by_kernel(path: &Path, direct: bool, offset: u64, pieces: &[&[u8]]) -> Result<usize, i32> {
    let flags = if direct { libc_direct() } else { 0 };
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap();
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    pwritev2(&file, &slices, offset, UNTORN).map_err(|error| error.raw_os_error())
}

fn libc_direct() -> i32 {
    rustix::fs::OFlags::DIRECT.bits().cast_signed()
}

fn errno(kind: ErrorKind) -> i32 {
    kind.errno()
}

#[test]
fn limits_are_what_the_kernel_promises_and_no_more() {
    let Some(ground) = Ground::new(&["mkfs.xfs", "mkfs.ext4"]) else { return };
    for kind in ["xfs", "xfs-plain", "ext4", "ext4-clusters"] {
        let place = Place::new(&ground, kind);
        let path = place.file("a", 1 << 20);
        let file = AtomicFile::open(&path, &AtomicOptions::default()).unwrap();
        let limits = file.limits();
        println!("{kind}: {limits:?}");
        assert_eq!(limits, promised(&place, &path), "{kind}");
        if std::env::var_os(DEVICE).is_none() {
            assert_eq!(limits.path == AtomicPath::Native, kind == "xfs", "{kind}");
        }
        if limits.path == AtomicPath::None {
            let failed = file.write_atomic_at(0, vec![1; 4096]).wait().unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
            assert_eq!(by_kernel(&path, true, 0, &[&Buffer::unpooled(4096)]), Err(95), "{kind}");
            assert_eq!(failed.buffer.unwrap().len(), 4096, "it comes back");
            file.write_at(0, vec![1; 4096]).wait().unwrap();
            let all = AtomicOptions { all_atomic: true, ..AtomicOptions::default() };
            let error = AtomicFile::open(&path, &all).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        file.close().unwrap();
        let needed = AtomicOptions { journal: JournalUse::IfNeeded, ..AtomicOptions::default() };
        let file = AtomicFile::open(&path, &needed).unwrap();
        let expected = match limits.path {
            AtomicPath::None => AtomicPath::Journal,
            path => path,
        };
        assert_eq!(file.limits().path, expected);
        let written = file.write_atomic_at(0, vec![1; 4096]).wait().unwrap();
        assert_eq!(written.path, expected);
        file.close().unwrap();
        place.end();
    }
}

/// The limits that follow from what the kernel says.
fn promised(place: &Place, path: &Path) -> AtomicLimits {
    let Some((unit_min, unit_max, opt)) = by_statx(path) else {
        let path = AtomicPath::None;
        return AtomicLimits { path, unit_min: 0, unit_max: 0, unit_max_fast: 0 };
    };
    // Where no limit of the fast path is stated, it is the disk's.
    let fast = if opt == 0 { place.in_place() } else { opt };
    let path = AtomicPath::Native;
    AtomicLimits { path, unit_min, unit_max, unit_max_fast: fast.min(unit_max) }
}

#[test]
fn every_size_is_written_natively_over_each_engine() {
    let Some(ground) = Ground::new(&["mkfs.xfs", "mkfs.ext4"]) else { return };
    Place::each_native(&ground, |place| {
        for engine in [EngineChoice::IoUring, EngineChoice::Threads] {
            every_size(place, engine);
        }
    });
}

fn every_size(place: &Place, engine: EngineChoice) {
    let path = place.file("sizes", 0);
    let file = AtomicFile::open(&path, &options(engine)).unwrap();
    let limits = file.limits();
    assert_eq!(limits, promised(place, &path), "{}", place.kind);
    let (mut length, mut sizes) = (limits.unit_min, 0);
    while length <= limits.unit_max {
        // Extending, into a hole, and over what is there.
        for (offset, byte) in [(4 * length, 1), (length, 2), (length, 3), (4 * length, 4)] {
            let data = vec![byte; length as usize];
            let written = file.write_atomic_at(offset, data).durable().wait().unwrap();
            assert_eq!((written.path, written.offset), (AtomicPath::Native, offset));
            // A device's units may be shorter than what is read at once.
            let (begin, within) = (offset / BLOCK * BLOCK, (offset % BLOCK) as usize);
            let room = file.buffer(length.max(BLOCK) as usize);
            let read = file.read_at(begin, room).wait().unwrap().buffer;
            let found = &read[within..within + length as usize];
            assert!(found.iter().all(|found| *found == byte), "{length} at {offset}");
        }
        sizes += 1;
        length *= 2;
    }
    println!("{}: {sizes} sizes over {engine:?}", place.kind);
    let copies = place.kind == "xfs";
    assert!(sizes >= if copies { 9 } else { 1 }, "{sizes}: {limits:?}");
    file.close().unwrap();
}

#[test]
fn every_refusal_has_the_kernels_number_and_changes_nothing() {
    let Some(ground) = Ground::new(&["mkfs.xfs", "mkfs.ext4"]) else { return };
    Place::each_native(&ground, refusals);
}

fn refusals(place: &Place) {
    let path = place.file("refusals", 0);
    let written = OpenOptions::new().write(true).open(&path).unwrap();
    written.write_all_at(&vec![9; 1 << 20], 0).unwrap();
    written.sync_all().unwrap();
    let file = AtomicFile::open(&path, &AtomicOptions::default()).unwrap();
    let AtomicLimits { unit_min: min, unit_max: max, unit_max_fast: fast, .. } = file.limits();
    let from = format!("{min} to");
    for (offset, length, why) in [
        (0, 12288, "power of two"),
        (0, min / 2, &from),
        (0, 2 * max, &from),
        (min, 2 * min, if min < max { "multiple of its length" } else { &from }),
        (min / 2, min, "multiple of its length"),
        (0, 0, "power of two"),
    ] {
        let data = Buffer::unpooled(length as usize);
        let kernel = by_kernel(&path, true, offset, &[&data]);
        let failed = file.write_atomic_at(offset, data).wait().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::InvalidInput, "{offset} {length}");
        assert!(failed.error.to_string().contains(why), "{}", failed.error);
        // The kernel has nothing against a write of nothing.
        let expected = if length == 0 { Ok(0) } else { Err(errno(failed.error.kind())) };
        assert_eq!(kernel, expected, "{offset} {length}");
    }
    // What this interface cannot even say: several pieces, and bytes through the page cache.
    let page = Buffer::unpooled(4096);
    assert_eq!(by_kernel(&path, true, 0, &[&page, &page]), Err(22));
    assert_eq!(by_kernel(&path, false, 0, &[&page]), Err(95));
    for (offset, length) in [(0, 100), (100, 4096), (0, 0), (u64::MAX - 4095, 4096)] {
        let failed = file.write_at(offset, vec![1; length]).wait().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::InvalidInput, "{offset} {length}");
    }
    file.close().unwrap();

    only_the_fast_path(&path, min, max, fast);

    let read_only = AtomicOptions { read_only: true, ..AtomicOptions::default() };
    let file = AtomicFile::open(&path, &read_only).unwrap();
    assert_eq!(file.limits().path, AtomicPath::Native, "it can be asked");
    for operation in [file.write_atomic_at(0, vec![1; 4096]), file.write_at(0, vec![1; 4096])] {
        let failed = operation.wait().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::DeviceReadOnly);
    }
    file.close().unwrap();

    let all = AtomicOptions { all_atomic: true, ..AtomicOptions::default() };
    let file = AtomicFile::open(&path, &all).unwrap();
    let failed = file.write_at(4096, vec![1; 8192]).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::InvalidInput, "an ordinary write would do");
    let written = file.write_at(8192, vec![9; 4096]).wait().unwrap();
    assert_eq!(written.path, AtomicPath::Native);
    file.close().unwrap();
    assert!(first(&path, 1 << 20).iter().all(|byte| *byte == 9), "something has changed");
}

/// Who wants nothing slower than one command to the device gets it up to there, and no further.
fn only_the_fast_path(path: &Path, min: u64, max: u64, fast: u64) {
    let options = AtomicOptions { fast_only: true, ..AtomicOptions::default() };
    let file = AtomicFile::open(path, &options).unwrap();
    let slow = if fast == 0 { min } else { 2 * fast };
    if slow <= max {
        let failed = file.write_atomic_at(0, vec![1; slow as usize]).wait().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
        assert!(failed.error.to_string().contains("copied on write"), "{}", failed.error);
    }
    if fast != 0 {
        file.write_atomic_at(0, vec![9; fast as usize]).wait().unwrap();
    }
    file.write_at(4096 * 3, vec![9; 4096]).wait().unwrap();
    file.close().unwrap();
}

#[test]
fn mixtures_over_written_unwritten_missing_and_shared_ranges_leave_the_right_bytes() {
    let Some(ground) = Ground::new(&["mkfs.xfs", "mkfs.ext4"]) else { return };
    Place::each_native(&ground, |place| {
        for engine in [EngineChoice::IoUring, EngineChoice::Threads] {
            mixture(place, engine, JournalUse::Never);
            if !place.is_device() {
                mixture(place, engine, JournalUse::Always);
            }
        }
    });
}

const MIXED_BLOCKS: u64 = 256;

/// A file of four quarters: written, unwritten, a hole, and shared with another file, where that can be. Of a
/// device all are written. What is in it, and the other file with what is in that.
fn quarters(place: &Place, path: &Path) -> (Vec<u8>, Option<(PathBuf, Vec<u8>)>) {
    let raw = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut model = vec![0_u8; (MIXED_BLOCKS * BLOCK) as usize];
    let quarter = MIXED_BLOCKS / 4 * BLOCK;
    model[..quarter as usize].fill(1);
    model[3 * quarter as usize..].fill(2);
    if place.is_device() {
        raw.write_all_at(&model, 0).unwrap();
        raw.sync_all().unwrap();
        return (model, None);
    }
    raw.set_len(MIXED_BLOCKS * BLOCK).unwrap();
    raw.write_all_at(&vec![1; quarter as usize], 0).unwrap();
    fallocate(&raw, FallocateFlags::empty(), quarter, quarter).unwrap();
    raw.write_all_at(&vec![2; quarter as usize], 3 * quarter).unwrap();
    raw.sync_all().unwrap();
    if place.kind != "xfs" {
        return (model, None);
    }
    let shared = path.with_file_name("shared");
    ioctl_ficlone(File::create(&shared).unwrap(), &raw).unwrap();
    let before = std::fs::read(&shared).unwrap();
    (model, Some((shared, before)))
}

fn mixture(place: &Place, engine: EngineChoice, journal: JournalUse) {
    let path = place.file("mixed", 0);
    let (mut model, shared) = quarters(place, &path);
    let options = AtomicOptions { journal, journal_bytes: 1 << 20, ..options(engine) };
    let file = AtomicFile::open(&path, &options).unwrap();
    // Atomic ones have 32 blocks at most, as ordinary ones do, or what the kernel writes untorn.
    let sizes = (file.limits().unit_max / BLOCK).ilog2().min(5) + 1;
    let mut state = 0x9E37_79B9_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let path_of = |atomic| match (atomic, journal) {
        (false, _) => AtomicPath::None,
        (true, JournalUse::Always) => AtomicPath::Journal,
        (true, JournalUse::Never | JournalUse::IfNeeded) => AtomicPath::Native,
    };
    let mut under_way = Vec::new();
    for number in 0..400_u64 {
        let atomic = random(3) != 0;
        let blocks = 1 << random(if atomic { u64::from(sizes) } else { 6 });
        let at = random(MIXED_BLOCKS / blocks) * blocks * BLOCK;
        // Ordinary ones begin anywhere.
        let at = if atomic { at } else { at.min((MIXED_BLOCKS - blocks) * BLOCK) };
        let data = vec![(number % 250) as u8 + 3; (blocks * BLOCK) as usize];
        model[at as usize..][..data.len()].copy_from_slice(&data);
        let operation =
            if atomic { file.write_atomic_at(at, data) } else { file.write_at(at, data) };
        under_way.push((atomic, operation));
        // Many are under way, and overlap: they land in the order in which they were asked for.
        if under_way.len() == 16 || random(9) == 0 {
            let (kinds, all): (Vec<bool>, Vec<_>) = under_way.drain(..).unzip();
            let ended = futures::executor::block_on(futures::future::join_all(all));
            for (atomic, written) in kinds.into_iter().zip(ended) {
                assert_eq!(written.unwrap().path, path_of(atomic));
            }
        }
        if random(20) == 0 {
            file.flush().wait().unwrap();
        }
    }
    let (_, all): (Vec<bool>, Vec<_>) = under_way.drain(..).unzip();
    for written in futures::executor::block_on(futures::future::join_all(all)) {
        written.unwrap();
    }
    let read = file.read_at(0, file.buffer(model.len())).wait().unwrap();
    assert!(*read.buffer == *model, "read through the handle");
    file.close().unwrap();
    assert!(first(&path, model.len()) == model, "read through the page cache");
    if let Some((shared, before)) = shared {
        assert!(std::fs::read(shared).unwrap() == before, "the other file has changed");
    }
    let _ = std::fs::remove_file(path.with_file_name("mixed.journal"));
}

/// A file that the kernel writes untorn, with units in a journal from a time when it was opened with one: who does without a
/// journal puts them in their places, for which it has the file alone, and shares it from then on.
#[test]
fn units_in_a_journal_are_put_in_place_by_one_who_then_shares_the_file() {
    let Some(ground) = Ground::new(&["mkfs.xfs"]) else { return };
    Place::each_native(&ground, |place| {
        if place.is_device() {
            return;
        }
        let path = place.file("waiting", 1 << 20);
        let journal = path.with_file_name("waiting.journal");
        let always = AtomicOptions { journal: JournalUse::Always, ..AtomicOptions::default() };
        let file = AtomicFile::open(&path, &always).unwrap();
        file.write_atomic_at(0, vec![7; 16384]).wait().unwrap();
        let cut_off = std::fs::read(&journal).unwrap();
        file.close().unwrap();
        std::fs::write(&journal, cut_off).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[1; 8192], 0).unwrap();

        let never = AtomicFile::open(&path, &AtomicOptions::default()).unwrap_err();
        assert_eq!(never.kind(), ErrorKind::Unclean, "{never}");
        let needed = AtomicOptions { journal: JournalUse::IfNeeded, ..AtomicOptions::default() };
        let opened = std::thread::scope(|scope| {
            let open = || AtomicFile::open(&path, &needed).unwrap();
            [scope.spawn(open), scope.spawn(open)].map(|thread| thread.join().unwrap())
        });
        let replayed: u64 = opened.iter().map(|file| file.replayed().units).sum();
        assert_eq!(replayed, 1, "by one of the two");
        for file in &opened {
            assert_eq!(file.limits().path, AtomicPath::Native);
            file.write_atomic_at(16384, vec![8; 4096]).wait().unwrap();
            let read = file.read_at(0, file.buffer(16384)).wait().unwrap();
            assert!(read.buffer.iter().all(|byte| *byte == 7));
        }
        let error = AtomicFile::open(&path, &always).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        let [one, two] = opened;
        one.close().unwrap();
        two.close().unwrap();
        AtomicFile::open(&path, &always).unwrap().close().unwrap();
    });
}

#[test]
fn a_device_says_what_it_can_and_has_no_journal() {
    let Some(ground) = Ground::new(&["losetup"]) else { return };
    let disk = ground.file("device", 16 << 20);
    let made = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
    assert!(made.status.success());
    let device = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
    let outcome = std::panic::catch_unwind(|| {
        let file = AtomicFile::open(&device, &AtomicOptions::default()).unwrap();
        assert_eq!(by_statx(&device), None);
        assert_eq!(file.limits().path, AtomicPath::None);
        let failed = file.write_atomic_at(0, vec![1; 4096]).wait().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
        file.write_at(8192, vec![5; 4096]).wait().unwrap();
        let read = file.read_at(8192, file.buffer(4096)).wait().unwrap();
        assert!(read.buffer.iter().all(|byte| *byte == 5));
        file.close().unwrap();
        for journal in [JournalUse::IfNeeded, JournalUse::Always] {
            let options = AtomicOptions { journal, ..AtomicOptions::default() };
            let error = AtomicFile::open(&device, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("which device"), "{error}");
        }
    });
    run("losetup", &["--detach"], &[&device]);
    outcome.unwrap();
}

#[test]
fn a_file_system_without_direct_io_is_refused() {
    let Some(ground) = Ground::new(&[]) else { return };
    let folder = ground.folder("ramfs");
    run("mount", &["-t", "ramfs", "none"], &[&folder]);
    let path = folder.join("file");
    std::fs::write(&path, vec![0; 8192]).unwrap();
    for journal in [JournalUse::Never, JournalUse::Always] {
        let options = AtomicOptions { journal, ..AtomicOptions::default() };
        let error = AtomicFile::open(&path, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("direct I/O"), "{error}");
    }
    assert!(!folder.join("file.journal").exists());
    run("umount", &[], &[&folder]);
}

/// A unit that found no space in its place is whole in the journal, and goes there when there is room.
#[test]
fn a_full_file_system_costs_no_unit() {
    let Some(ground) = Ground::new(&["mkfs.ext4"]) else { return };
    let (folder, disk) = (ground.folder("full"), ground.file("full.disk", 32 << 20));
    make_file_system("ext4", &disk);
    let _mounted = Mounted::over_loop(&disk, &folder, "ext4");
    let (path, unit) = (folder.join("file"), 64 << 10);
    File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let options = AtomicOptions {
        journal: JournalUse::Always,
        journal_bytes: 1 << 20,
        ..AtomicOptions::default()
    };
    let file = AtomicFile::open(&path, &options).unwrap();
    file.write_atomic_at(0, vec![1; unit]).wait().unwrap();
    // What is read is in its place, before the space is gone.
    file.read_at(0, file.buffer(unit)).wait().unwrap();
    let filler = folder.join("filler");
    let mut length = 0;
    let taken = File::create(&filler).unwrap();
    for piece in [1 << 20, 64 << 10, 4096] {
        while fallocate(&taken, FallocateFlags::empty(), length, piece).is_ok() {
            length += piece;
        }
    }
    let at = 1 << 20;
    // It is durable in the journal, whose space is taken; only its place has none.
    file.write_atomic_at(at, vec![2; unit]).wait().unwrap();
    let failed = file.read_at(at, file.buffer(4096)).wait().unwrap_err();
    assert!(failed.error.to_string().contains("whole in the journal"), "{}", failed.error);
    let failed = file.write_at(0, vec![3; 4096]).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::NoSpace, "{}", failed.error);
    let read = file.read_at(0, file.buffer(unit)).wait().unwrap();
    assert!(read.buffer.iter().all(|byte| *byte == 1), "what is whole can be read");
    assert_eq!(file.close().unwrap_err().kind(), ErrorKind::NoSpace);

    let error = AtomicFile::open(&path, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    drop(taken);
    std::fs::remove_file(&filler).unwrap();
    // What was freed can be had again after the file system's next commit.
    rustix::fs::syncfs(File::open(&folder).unwrap()).unwrap();
    let file = AtomicFile::open(&path, &options).unwrap();
    assert!(file.replayed().units >= 1);
    let read = file.read_at(at, file.buffer(unit)).wait().unwrap();
    assert!(read.buffer.iter().all(|byte| *byte == 2));
    file.close().unwrap();
}

#[test]
fn journalled_data_is_refused_by_name() {
    let Some(ground) = Ground::new(&["mkfs.ext4"]) else { return };
    let (folder, disk) = (ground.folder("journalled"), ground.file("journalled.disk", 64 << 20));
    make_file_system("ext4", &disk);
    run("mount", &["-t", "ext4", "-o", "loop,data=journal"], &[&disk, &folder]);
    let path = folder.join("file");
    std::fs::write(&path, vec![0; 8192]).unwrap();
    for journal in [JournalUse::Never, JournalUse::Always] {
        let options = AtomicOptions { journal, ..AtomicOptions::default() };
        let error = AtomicFile::open(&path, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("data=journal"), "{error}");
    }
    assert!(!folder.join("file.journal").exists());
    run("umount", &[], &[&folder]);
}

#[test]
fn a_journal_that_has_no_space_leaves_nothing_behind() {
    let Some(ground) = Ground::new(&["mkfs.ext4"]) else { return };
    let folder = ground.folder("small");
    let disk = ground.file("small.disk", 16 << 20);
    make_file_system("ext4", &disk);
    let _mounted = Mounted::over_loop(&disk, &folder, "ext4");
    let path = folder.join("file");
    std::fs::write(&path, vec![3; 8192]).unwrap();
    let options = AtomicOptions { journal: JournalUse::Always, ..AtomicOptions::default() };
    let error = AtomicFile::open(&path, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("file.journal"), "{error}");
    let left: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "file.journal"), "{left:?}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![3; 8192]);
    let smaller = AtomicOptions { journal_bytes: 1 << 20, ..options };
    let file = AtomicFile::open(&path, &smaller).unwrap();
    assert_eq!(file.limits().unit_max, 256 << 10);
}
