//! Untorn writes on real file systems and devices: what the kernel promises is what is said, what it refuses
//! is refused with its number, and mixtures with ordinary writes leave the right bytes. As root, with
//! `mkfs.xfs` and `mkfs.ext4`; what needs neither is in `untorn_journal`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![cfg(not(zonal_shuttle))]

mod disks;

use disks::{Ground, Mounted, make_file_system, run};
use rustix::fs::{AtFlags, FallocateFlags, StatxFlags, fallocate, statx};
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

/// A file system on a loop device, which copies on write or does not.
struct Place {
    folder: PathBuf,
    _mounted: Mounted,
}

impl Place {
    fn new(ground: &Ground, kind: &str) -> Self {
        let (folder, disk) = (ground.folder(kind), ground.path(&format!("{kind}.disk")));
        File::create(&disk).unwrap().set_len(400 << 20).unwrap();
        let name = match kind {
            "xfs-plain" => {
                run("mkfs.xfs", &["-q", "-f", "-m", "reflink=0"], &[&disk]);
                "xfs"
            }
            name => {
                make_file_system(name, &disk);
                name
            }
        };
        let mounted = Mounted::over_loop(&disk, &folder, name);
        Self { folder, _mounted: mounted }
    }

    fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.folder.join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }
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
    for kind in ["xfs", "xfs-plain", "ext4"] {
        let place = Place::new(&ground, kind);
        let path = place.file("a", 1 << 20);
        let file = AtomicFile::open(&path, &AtomicOptions::default()).unwrap();
        let limits = file.limits();
        println!("{kind}: {limits:?}");
        let says = match by_statx(&path) {
            Some((unit_min, unit_max, opt)) => {
                // Nothing below a loop device over memory does it in place.
                AtomicLimits { path: AtomicPath::Native, unit_min, unit_max, unit_max_fast: opt }
            }
            None => {
                AtomicLimits { path: AtomicPath::None, unit_min: 0, unit_max: 0, unit_max_fast: 0 }
            }
        };
        assert_eq!(limits, says, "{kind}");
        assert_eq!(limits.path == AtomicPath::Native, kind == "xfs", "{kind}");
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
        let expected = if kind == "xfs" { AtomicPath::Native } else { AtomicPath::Journal };
        assert_eq!(file.limits().path, expected);
        let written = file.write_atomic_at(0, vec![1; 8192]).wait().unwrap();
        assert_eq!(written.path, expected);
    }
}

#[test]
fn every_size_is_written_natively_over_each_engine() {
    let Some(ground) = Ground::new(&["mkfs.xfs"]) else { return };
    let place = Place::new(&ground, "xfs");
    for engine in [EngineChoice::IoUring, EngineChoice::Threads] {
        let path = place.file("sizes", 0);
        let file = AtomicFile::open(&path, &options(engine)).unwrap();
        let AtomicLimits { unit_min, unit_max, .. } = file.limits();
        let (mut length, mut sizes) = (unit_min, 0);
        while length <= unit_max {
            // Extending, into a hole, and over what is there.
            for (offset, byte) in [(4 * length, 1), (length, 2), (length, 3), (4 * length, 4)] {
                let data = vec![byte; length as usize];
                let written = file.write_atomic_at(offset, data).durable().wait().unwrap();
                assert_eq!((written.path, written.offset), (AtomicPath::Native, offset));
                let read = file.read_at(offset, file.buffer(length as usize)).wait().unwrap();
                assert!(read.buffer.len() == length as usize);
                assert!(read.buffer.iter().all(|found| *found == byte), "{length} at {offset}");
            }
            sizes += 1;
            length *= 2;
        }
        assert!(sizes >= 9, "{sizes}: {:?}", file.limits());
        file.close().unwrap();
    }
}

#[test]
fn every_refusal_has_the_kernels_number_and_changes_nothing() {
    let Some(ground) = Ground::new(&["mkfs.xfs"]) else { return };
    let place = Place::new(&ground, "xfs");
    let path = place.file("refusals", 0);
    std::fs::write(&path, vec![9; 1 << 20]).unwrap();
    let file = AtomicFile::open(&path, &AtomicOptions::default()).unwrap();
    let max = file.limits().unit_max;
    for (offset, length, why) in [
        (0, 12288, "power of two"),
        (0, 2048, "4096 to"),
        (0, 2 * max, "4096 to"),
        (4096, 8192, "multiple of its length"),
        (512, 4096, "multiple of its length"),
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

    let fast = AtomicOptions { fast_only: true, ..AtomicOptions::default() };
    let file = AtomicFile::open(&path, &fast).unwrap();
    assert_eq!(file.limits().unit_max_fast, 0, "a loop device does nothing in place");
    let failed = file.write_atomic_at(0, vec![1; 4096]).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
    assert!(failed.error.to_string().contains("copied on write"), "{}", failed.error);
    file.write_at(4096 * 3, vec![9; 4096]).wait().unwrap();
    file.close().unwrap();

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
    let written = file.write_at(8192, vec![9; 8192]).wait().unwrap();
    assert_eq!(written.path, AtomicPath::Native);
    file.close().unwrap();
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 9), "something has changed");
}

#[test]
fn mixtures_over_written_unwritten_missing_and_shared_ranges_leave_the_right_bytes() {
    let Some(ground) = Ground::new(&["mkfs.xfs"]) else { return };
    let place = Place::new(&ground, "xfs");
    for engine in [EngineChoice::IoUring, EngineChoice::Threads] {
        for journal in [JournalUse::Never, JournalUse::Always] {
            mixture(&place, engine, journal);
        }
    }
}

const MIXED_BLOCKS: u64 = 256;

fn mixture(place: &Place, engine: EngineChoice, journal: JournalUse) {
    let path = place.file("mixed", 0);
    let raw = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut model = vec![0_u8; (MIXED_BLOCKS * BLOCK) as usize];
    // A quarter each: written, unwritten, a hole, and shared with another file.
    let quarter = MIXED_BLOCKS / 4 * BLOCK;
    raw.set_len(MIXED_BLOCKS * BLOCK).unwrap();
    raw.write_all_at(&vec![1; quarter as usize], 0).unwrap();
    fallocate(&raw, FallocateFlags::empty(), quarter, quarter).unwrap();
    raw.write_all_at(&vec![2; quarter as usize], 3 * quarter).unwrap();
    raw.sync_all().unwrap();
    model[..quarter as usize].fill(1);
    model[3 * quarter as usize..].fill(2);
    let shared = place.folder.join("shared");
    let _ = std::fs::remove_file(&shared);
    let copied = Command::new("cp").arg("--reflink=always").args([&path, &shared]).status();
    assert!(copied.unwrap().success());
    let before = std::fs::read(&shared).unwrap();

    let options = AtomicOptions { journal, journal_bytes: 1 << 20, ..options(engine) };
    let file = AtomicFile::open(&path, &options).unwrap();
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
        let blocks = 1 << random(6);
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
    assert!(std::fs::read(&path).unwrap() == model, "read through the page cache");
    assert!(std::fs::read(&shared).unwrap() == before, "the other file has changed");
    let _ = std::fs::remove_file(place.folder.join("mixed.journal"));
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
    let filler = folder.join("filler");
    let mut length = 0;
    let taken = File::create(&filler).unwrap();
    for piece in [1 << 20, 64 << 10, 4096] {
        while fallocate(&taken, FallocateFlags::empty(), length, piece).is_ok() {
            length += piece;
        }
    }
    let at = 1 << 20;
    let failed = file.write_atomic_at(at, vec![2; unit]).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::NoSpace, "{}", failed.error);
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
