//! The journal beside an ordinary file: what it makes whole after a kill, what stands in its place and is
//! none, and that nothing is changed where something is refused. Needs no root.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![cfg(not(zonal_shuttle))]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zonal::ErrorKind;
use zonal::atomic::{
    AtomicFile, AtomicOptions, AtomicPath, JOURNAL_BYTES, JournalUse, check_journal, inspect,
    is_journal,
};

const UNIT: usize = 16384;

struct Place(TempDir);

impl Place {
    /// A folder with the file `pages`: four units of ones.
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(folder.path().join("pages"), vec![1; 4 * UNIT]).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn pages(&self) -> PathBuf {
        self.path("pages")
    }

    fn journal(&self) -> PathBuf {
        self.path("pages.journal")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.pages()).unwrap()
    }

    /// All files, with what is in them.
    fn all(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        all.sort();
        all
    }

    /// Opening is refused, and changes nothing.
    fn refuses(&self, options: &AtomicOptions, kind: ErrorKind, words: &[&str]) {
        let before = self.all();
        let error = AtomicFile::open(self.pages(), options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        assert!(self.all() == before, "something has changed: {error}");
    }

    /// A process writes twos over the second and third unit and is killed; then they are torn, as by a cut.
    fn cut_off(&self) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "the_child"])
            .env("ZONAL_UNTORN_CHILD", self.pages())
            .output()
            .unwrap();
        assert!(!child.status.success(), "it should have been killed");
        let file = OpenOptions::new().write(true).open(self.pages()).unwrap();
        assert_eq!(self.bytes()[UNIT..3 * UNIT], vec![2; 2 * UNIT]);
        file.write_all_at(&vec![1; UNIT / 2], UNIT as u64).unwrap();
        file.write_all_at(&vec![1; UNIT / 4], (2 * UNIT + UNIT / 2) as u64).unwrap();
    }
}

fn with_journal() -> AtomicOptions {
    AtomicOptions { journal: JournalUse::Always, journal_bytes: 1 << 20, ..Default::default() }
}

#[test]
#[ignore = "the process that is killed by others of these tests"]
fn the_child() {
    let path = std::env::var_os("ZONAL_UNTORN_CHILD").unwrap();
    let file = AtomicFile::open(path, &with_journal()).unwrap();
    for at in [UNIT, 2 * UNIT] {
        file.write_atomic_at(at as u64, vec![2; UNIT]).wait().unwrap();
        // They are durable in the journal; a read waits until they are in their places.
        file.read_at(at as u64, file.buffer(UNIT)).wait().unwrap();
    }
    std::process::abort();
}

/// What would be put over what is written now is found by any name, and whatever journal is named.
#[test]
fn units_that_wait_are_found_by_every_name_of_the_file_and_beside_every_journal() {
    let place = Place::new();
    place.cut_off();
    let elsewhere =
        |name: &str| AtomicOptions { journal_path: Some(place.path(name)), ..with_journal() };
    let waiting =
        ["2 units wait in", "pages.journal", "open it once for writing, with that journal"];
    place.refuses(&elsewhere("another.journal"), ErrorKind::Unclean, &waiting);
    // By another name, with a journal of that name, with none, and to be read.
    fs::hard_link(place.pages(), place.path("linked")).unwrap();
    let refused = |name: &str, options: &AtomicOptions, words: &[&str]| {
        let before = place.all();
        let error = AtomicFile::open(place.path(name), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unclean, "{error}");
        assert!(words.iter().all(|words| error.to_string().contains(words)), "{error}");
        assert!(place.all() == before, "{error}");
    };
    let read_only = AtomicOptions { read_only: true, ..AtomicOptions::default() };
    for options in [with_journal(), AtomicOptions::default(), read_only.clone()] {
        refused("linked", &options, &waiting);
    }
    let info = inspect(place.path("linked"), &AtomicOptions::default()).unwrap();
    assert_eq!((info.waiting.units, info.journal), (2, Some(place.journal())));
    fs::remove_file(place.path("linked")).unwrap();
    // A copy, that has what is noted on the file, too.
    let copied =
        Command::new("cp").args(["-a", "pages", "copy"]).current_dir(place.path("")).status();
    assert!(copied.unwrap().success());
    refused("copy", &with_journal(), &["it is a copy of a file", "setfattr -x user.zonal.journal"]);
    fs::remove_file(place.path("copy")).unwrap();
    // Copied with its journal: the units are of another file.
    fs::create_dir(place.path("both")).unwrap();
    let both = ["-a", "pages", "pages.journal", "both"];
    assert!(Command::new("cp").args(both).current_dir(place.path("")).status().unwrap().success());
    for options in [with_journal(), AtomicOptions::default(), read_only.clone()] {
        let error = AtomicFile::open(place.path("both/pages"), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unclean, "{error}");
        assert!(error.to_string().contains("it is a copy of a file"), "{error}");
    }
    fs::remove_dir_all(place.path("both")).unwrap();
    // Moved alone, moved without a trace of the journal, and moved with it.
    fs::rename(place.pages(), place.path("moved")).unwrap();
    refused("moved", &with_journal(), &waiting);
    fs::rename(place.journal(), place.path("away")).unwrap();
    refused(
        "moved",
        &with_journal(),
        &["which was", "pages.journal and is not there any more", "setfattr -x"],
    );
    fs::rename(place.path("away"), place.path("moved.journal")).unwrap();
    let file = AtomicFile::open(place.path("moved"), &with_journal()).unwrap();
    assert_eq!(file.replayed().units, 2);
    file.close().unwrap();
    // Closed, nothing waits, and any journal will do.
    fs::remove_file(place.path("moved.journal")).unwrap();
    let file = AtomicFile::open(place.path("moved"), &elsewhere("another.journal")).unwrap();
    file.close().unwrap();
    assert_eq!(fs::read(place.path("moved")).unwrap()[UNIT..3 * UNIT], vec![2; 2 * UNIT]);
}

#[test]
fn a_journal_is_made_used_and_left_empty() {
    let place = Place::new();
    fs::set_permissions(place.pages(), fs::Permissions::from_mode(0o640)).unwrap();
    let options = AtomicOptions { journal: JournalUse::Always, ..Default::default() };
    let file = AtomicFile::open(place.pages(), &options).unwrap();
    let limits = file.limits();
    assert_eq!((limits.path, limits.unit_max_fast), (AtomicPath::Journal, 0));
    assert_eq!((limits.unit_min, limits.unit_max), (4096, 1 << 20));
    let mut length = limits.unit_min;
    while length <= limits.unit_max {
        let data = vec![length.trailing_zeros() as u8; length as usize];
        let written = file.write_atomic_at(length, data).wait().unwrap();
        assert_eq!((written.path, written.offset), (AtomicPath::Journal, length));
        length *= 2;
    }
    let ordinary = file.write_at(0, vec![9; 4096]).wait().unwrap();
    assert_eq!(ordinary.path, AtomicPath::None);
    file.flush().wait().unwrap();
    let read = file.read_at(1 << 20, file.buffer(4 << 20)).wait().unwrap();
    assert_eq!(read.buffer.len(), 1 << 20, "up to the file's end");
    for (offset, length) in [(0, 2 << 20), (4096, 8192), (0, 5000), (512, 4096)] {
        let failed = file.write_atomic_at(offset, vec![1; length]).wait().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::InvalidInput);
    }
    file.close().unwrap();
    assert_eq!(fs::metadata(place.journal()).unwrap().mode() & 0o777, 0o640);
    assert!(is_journal(&place.journal()) && !is_journal(&place.pages()));
    let report = check_journal(&place.journal()).unwrap();
    assert_eq!((report.alive.records, report.ring_bytes), (0, JOURNAL_BYTES));
    assert_eq!(report.file_inode, fs::metadata(place.pages()).unwrap().ino());
    let bytes = place.bytes();
    for power in 12..=20 {
        let at = 1_usize << power;
        assert!(bytes[at..2 * at].iter().all(|byte| usize::from(*byte) == power), "{power}");
    }
    assert_eq!(bytes[..4096], [9; 4096]);
    // Nothing is in it, so it is in nobody's way.
    AtomicFile::open(place.pages(), &AtomicOptions::default()).unwrap().close().unwrap();
}

#[test]
fn a_batch_is_one_record_however_many_units_are_under_way() {
    let place = Place::new();
    let file = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    let limits = file.batch_limits();
    assert_eq!((limits.units_max, limits.bytes_max), (251, (1 << 19) - 4096));
    // More than the engine takes at once, with a write over some of them behind.
    let batch = |byte: u8, count: u64| {
        (0..count).map(move |n| (n * 8192, vec![byte; 4096].into())).collect::<Vec<_>>()
    };
    for byte in 1..=20 {
        let first = file.write_batch(batch(byte, 127));
        let second = file.write_at(8192, vec![byte + 100; 8192]);
        let both = futures::future::join(first, second);
        let (first, second) = futures::executor::block_on(both);
        first.unwrap();
        second.unwrap();
        let read = file.read_at(0, file.buffer(127 * 8192)).wait().unwrap();
        assert!(read.buffer[..4096].iter().all(|found| *found == byte));
        assert!(read.buffer[8192..16384].iter().all(|found| *found == byte + 100));
        assert!(read.buffer[126 * 8192..][..4096].iter().all(|found| *found == byte));
    }
    for (batch, words) in [
        (Vec::new(), "1 to 251 units"),
        (batch(1, 252), "1 to 251 units"),
        (batch(1, 128), "520192 bytes together"),
        (vec![(0, vec![1; 8192].into()), (4096, vec![1; 4096].into())], "overlap at byte 4096"),
        (vec![(0, vec![1; 4096].into()), (4096, vec![1; 8192].into())], "multiple of its length"),
        (vec![(0, vec![1; 100].into())], "power of two"),
    ] {
        let error = file.write_batch(batch).wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(words), "{error}");
    }
    file.set_len(8192).wait().unwrap();
    assert_eq!(fs::metadata(place.pages()).unwrap().len(), 8192);
    file.set_len(16384).wait().unwrap();
    let error = file.set_len(5000).wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    file.close().unwrap();
    assert_eq!(place.bytes()[8192..], [0; 8192], "what was cut off does not come back");

    let file = AtomicFile::open(place.pages(), &AtomicOptions::default()).unwrap();
    assert_eq!(file.batch_limits(), Default::default());
    let error = file.write_batch(batch(1, 2)).wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_batch_that_a_cut_has_torn_is_put_in_place_whole() {
    let place = Place::new();
    let file = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    file.write_batch([(0, vec![3; 4096].into()), (UNIT as u64, vec![3; UNIT].into())])
        .wait()
        .unwrap();
    // What a cut would leave: the record, and of the units only one.
    file.read_at(0, file.buffer(2 * UNIT)).wait().unwrap();
    let journal = fs::read(place.journal()).unwrap();
    file.close().unwrap();
    fs::write(place.journal(), journal).unwrap();
    let pages = OpenOptions::new().write(true).open(place.pages()).unwrap();
    pages.write_all_at(&[1; UNIT], UNIT as u64).unwrap();
    let file = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    assert_eq!((file.replayed().records, file.replayed().units), (1, 2));
    file.close().unwrap();
    assert_eq!(place.bytes()[..4096], [3; 4096]);
    assert_eq!(place.bytes()[UNIT..2 * UNIT], [3; UNIT]);
}

#[test]
fn units_that_a_cut_has_torn_are_put_in_their_places() {
    let place = Place::new();
    place.cut_off();
    let torn = place.bytes();
    let alive = check_journal(&place.journal()).unwrap().alive;
    assert_eq!((alive.records, alive.units, alive.bytes), (2, 2, 2 * UNIT as u64));
    // That they wait can be asked for, whatever is asked with.
    for options in [AtomicOptions::default(), with_journal()] {
        // The kernel takes a killed process's lock in its own time.
        let look = || inspect(place.pages(), &options).unwrap();
        let info = std::iter::repeat_with(look).find(|info| !info.in_use).unwrap();
        assert_eq!((info.waiting, info.in_use), (alive, false));
        assert_eq!(info.journal.as_deref(), Some(&*place.journal()));
        let wanted = options.journal == JournalUse::Always;
        assert_eq!(info.limits.path == AtomicPath::Journal, wanted);
        assert!(!wanted || info.limits.unit_max == 256 << 10);
    }
    // Who does not know of the journal, or may not write, is not shown torn units.
    place.refuses(&AtomicOptions::default(), ErrorKind::Unclean, &["pages.journal", "2 units"]);
    let read_only = AtomicOptions { read_only: true, ..with_journal() };
    place.refuses(&read_only, ErrorKind::Unclean, &["open it once for writing"]);
    assert!(place.bytes() == torn);
    for rounds in 0..2 {
        let file = AtomicFile::open(place.pages(), &with_journal()).unwrap();
        assert_eq!(file.replayed().units, if rounds == 0 { 2 } else { 0 });
        file.close().unwrap();
        let whole = [vec![1; UNIT], vec![2; 2 * UNIT], vec![1; UNIT]].concat();
        assert!(place.bytes() == whole);
    }
}

#[test]
fn a_journal_with_units_of_another_file_is_refused_and_an_empty_one_taken_over() {
    let place = Place::new();
    place.cut_off();
    let copy = Place::new();
    fs::copy(place.journal(), copy.journal()).unwrap();
    copy.refuses(
        &with_journal(),
        ErrorKind::InvalidInput,
        &["another file", "2 units", "pages.journal"],
    );
    let error = inspect(copy.pages(), &with_journal()).unwrap_err();
    assert!(error.to_string().contains("another file"), "{error}");
    let info = inspect(copy.pages(), &AtomicOptions::default()).unwrap();
    assert_eq!((info.waiting.units, info.journal), (0, None));
    // Without a journal nobody would replay it.
    AtomicFile::open(copy.pages(), &AtomicOptions::default()).unwrap().close().unwrap();
    assert!(copy.bytes() == vec![1; 4 * UNIT]);

    AtomicFile::open(place.pages(), &with_journal()).unwrap().close().unwrap();
    fs::copy(place.journal(), copy.journal()).unwrap();
    let file = AtomicFile::open(copy.pages(), &with_journal()).unwrap();
    file.write_atomic_at(0, vec![5; UNIT]).wait().unwrap();
    file.close().unwrap();
    let report = check_journal(&copy.journal()).unwrap();
    assert_eq!(report.file_inode, fs::metadata(copy.pages()).unwrap().ino());
}

#[test]
fn what_is_no_journal_or_a_newer_or_a_damaged_one_is_refused() {
    let place = Place::new();
    fs::write(place.journal(), b"SQLite format 3\0 and more").unwrap();
    place.refuses(
        &with_journal(),
        ErrorKind::InvalidInput,
        &["no journal of zonal's", "move it away"],
    );
    AtomicFile::open(place.pages(), &AtomicOptions::default()).unwrap().close().unwrap();
    fs::remove_file(place.journal()).unwrap();
    fs::create_dir(place.journal()).unwrap();
    let error = AtomicFile::open(place.pages(), &with_journal()).unwrap_err();
    assert!(error.to_string().contains("pages.journal"), "{error}");
    fs::remove_dir(place.journal()).unwrap();

    place.cut_off();
    let good = fs::read(place.journal()).unwrap();
    let put = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let sealed = |at: usize, bytes: &[u8]| {
        let mut changed = put(at, bytes);
        for copy in [0, 4096] {
            let crc = crc32c(&changed[copy..copy + 4092]).to_be_bytes();
            changed[copy + 4092..copy + 4096].copy_from_slice(&crc);
        }
        changed
    };
    for (journal, kind, words) in [
        (sealed(4096 + 8, &[0, 0, 0, 2]), ErrorKind::Unsupported, &["version 2"][..]),
        (sealed(4096 + 48, &[0xff; 8]), ErrorKind::Damaged, &["ring has"]),
        (
            [put(100, &[7])[..4096].to_vec(), put(4096 + 100, &[7])[4096..].to_vec()].concat(),
            ErrorKind::Damaged,
            &["both copies"],
        ),
        // The first record's unit, with the second record whole behind it.
        (put(8192 + 4096 + 77, &[0xee; 3]), ErrorKind::Damaged, &["record 1 is broken"]),
        (good[..20000].to_vec(), ErrorKind::Damaged, &["cut short"]),
    ] {
        fs::write(place.journal(), journal).unwrap();
        place.refuses(&with_journal(), kind, words);
        place.refuses(&AtomicOptions::default(), kind, words);
        assert_eq!(check_journal(&place.journal()).unwrap_err().kind(), kind);
        assert_eq!(inspect(place.pages(), &with_journal()).unwrap_err().kind(), kind);
    }
    fs::write(place.journal(), good).unwrap();
    AtomicFile::open(place.pages(), &with_journal()).unwrap().close().unwrap();
}

#[test]
fn a_file_that_only_begins_as_a_making_cut_off_is_refused() {
    let place = Place::new();
    // Somebody's disk image, whose first blocks are zeros; and a journal whose headers are gone and whose records are not.
    let torn = [b"zonaljnl".to_vec(), vec![0; 8184]].concat();
    for (begin, kind) in
        [(vec![0; 8192], ErrorKind::InvalidInput), (torn.clone(), ErrorKind::Damaged)]
    {
        for (behind, length) in
            [(8192_u64, 20_000_u64), (3 << 20, 4 << 20), ((32 << 20) - 1, 32 << 20)]
        {
            fs::write(place.journal(), &begin).unwrap();
            let file = OpenOptions::new().write(true).open(place.journal()).unwrap();
            file.set_len(length).unwrap();
            file.write_all_at(b"x", behind).unwrap();
            place.refuses(&with_journal(), kind, &["pages.journal"]);
            assert_eq!(check_journal(&place.journal()).unwrap_err().kind(), kind);
        }
    }
    // Longer than any journal, so nothing of it has to be read.
    fs::write(place.journal(), []).unwrap();
    let file = OpenOptions::new().write(true).open(place.journal()).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = AtomicFile::open(place.pages(), &with_journal()).unwrap_err();
    assert!(error.to_string().contains("move it away"), "{error}");
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    for (begin, length) in [(vec![], 0), (vec![], 1_u64 << 20), (torn, 8192 + (1 << 20))] {
        fs::write(place.journal(), begin).unwrap();
        file.set_len(length).unwrap();
        let opened = AtomicFile::open(place.pages(), &with_journal()).unwrap();
        opened.write_atomic_at(0, vec![6; UNIT]).wait().unwrap();
        opened.close().unwrap();
        check_journal(&place.journal()).unwrap();
    }
}

/// CRC-32C, bit by bit: not the library's own.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let place = Place::new();
    for journal_bytes in [0, 4096, (1 << 20) + 1, 2 << 30] {
        let options = AtomicOptions { journal_bytes, ..with_journal() };
        place.refuses(&options, ErrorKind::InvalidInput, &[&journal_bytes.to_string()]);
    }
    let itself = AtomicOptions { journal_path: Some(place.pages()), ..with_journal() };
    place.refuses(&itself, ErrorKind::InvalidInput, &["the file itself"]);
    let nowhere = AtomicOptions { journal_path: Some(place.path("no/where")), ..with_journal() };
    place.refuses(&nowhere, ErrorKind::Io, &["no/where"]);
    let error = AtomicFile::open(place.path("absent"), &with_journal()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("touch"), "{error}");
    let error = AtomicFile::open(place.0.path(), &with_journal()).unwrap_err();
    assert!(error.to_string().contains("folder"), "{error}");
    let error = AtomicFile::open("/dev/null", &with_journal()).unwrap_err();
    assert!(error.to_string().contains("neither a file nor a block device"), "{error}");

    let fast = AtomicOptions { fast_only: true, ..with_journal() };
    let file = AtomicFile::open(place.pages(), &fast).unwrap();
    let failed = file.write_atomic_at(0, vec![1; UNIT]).wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
    assert!(failed.error.to_string().contains("the journal"), "{}", failed.error);
    let error = file.write_batch([(0, vec![1; UNIT].into())]).wait().unwrap_err();
    assert!(error.to_string().contains("leave out fast_only"), "{error}");
    let error = AtomicFile::open(place.pages(), &with_journal()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    file.close().unwrap();
}

#[test]
fn a_file_behind_a_link_has_its_journal_beside_itself() {
    let place = Place::new();
    let link = place.path("link");
    std::os::unix::fs::symlink(place.pages(), &link).unwrap();
    AtomicFile::open(&link, &with_journal()).unwrap().close().unwrap();
    assert!(place.journal().exists() && !place.path("link.journal").exists());
    let elsewhere = place.path("elsewhere");
    let options = AtomicOptions { journal_path: Some(elsewhere.clone()), ..with_journal() };
    AtomicFile::open(&link, &options).unwrap().close().unwrap();
    assert!(is_journal(&elsewhere));
}

#[test]
fn many_threads_write_the_same_units_and_each_is_one_of_theirs() {
    let place = Place::new();
    let file = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..60_u64 {
                    let offset = (round * 7 + u64::from(writer)) % 4 * UNIT as u64;
                    file.write_atomic_at(offset, vec![10 + writer; UNIT]).wait().unwrap();
                    let read = file.read_at(offset, file.buffer(UNIT)).wait().unwrap();
                    let whole = read.buffer.iter().all(|byte| *byte == read.buffer[0]);
                    assert!(whole, "a read that is half old");
                }
            });
        }
    });
    // One that nobody waits for is carried out all the same.
    let mut orphan = Box::pin(file.write_atomic_at(0, vec![99; UNIT]));
    let poll = orphan.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(poll.is_pending());
    drop(orphan);
    file.close().unwrap();
    assert_eq!(place.bytes()[..UNIT], vec![99; UNIT]);
    for unit in place.bytes().chunks(UNIT) {
        assert!(unit.iter().all(|byte| *byte == unit[0]));
    }
}

/// The ring is small, so that it is written round and round while it is read.
#[test]
fn a_journal_that_is_written_to_is_never_taken_for_damaged() {
    let place = Place::new();
    let file = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for unit in 0..4 {
            let (file, over) = (&file, &over);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    file.write_atomic_at(unit * UNIT as u64, vec![1; UNIT]).wait().unwrap();
                }
            });
        }
        let mut looks = 0;
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            while begun.elapsed() < Duration::from_secs(2) {
                let info = inspect(place.pages(), &with_journal()).unwrap();
                assert!(info.in_use && info.waiting.units == 0);
                assert_eq!(info.journal, Some(place.journal()));
                let checked = check_journal(&place.journal());
                let in_use = |error: &zonal::Error| error.kind() == ErrorKind::InUse;
                assert!(checked.as_ref().err().is_none_or(in_use), "{checked:?}");
                looks += usize::from(checked.is_ok());
            }
        }));
        over.store(true, SeqCst);
        outcome.unwrap();
        println!("{looks} looks at a journal in use");
        assert!(looks > 0);
    });
    file.close().unwrap();
    let info = inspect(place.pages(), &with_journal()).unwrap();
    assert_eq!((info.in_use, info.waiting.units), (false, 0));
}

#[test]
fn a_closed_file_takes_nothing_more() {
    let place = Place::new();
    let path: &Path = &place.pages();
    let file = AtomicFile::open(path, &with_journal()).unwrap();
    let late = file.write_atomic_at(0, vec![4; UNIT]);
    file.close().unwrap();
    let failed = late.wait().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::DeviceReadOnly);
    assert!(failed.buffer.is_some());
    assert!(place.bytes() == vec![1; 4 * UNIT]);
}

/// All of these are refused as in use, each with one of the words; at the same time, as each of them waits.
fn all_in_use(path: &Path, asked: &[AtomicOptions], words: &[&str]) {
    std::thread::scope(|scope| {
        for options in asked {
            scope.spawn(move || {
                let error = AtomicFile::open(path, options).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InUse, "{options:?}: {error}");
                for word in words {
                    assert!(error.to_string().contains(word), "{word}: {error}");
                }
            });
        }
    });
}

fn to_read(options: AtomicOptions) -> AtomicOptions {
    AtomicOptions { read_only: true, ..options }
}

#[test]
fn who_writes_with_a_journal_has_the_file_alone_and_others_share_it() {
    let place = Place::new();
    let without = AtomicOptions::default();
    let others = [to_read(with_journal()), to_read(without.clone()), without.clone()];
    let writer = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Round and round the ring, so that who looks at it without the lock finds what seems to be damage.
            while !over.load(SeqCst) {
                writer.write_atomic_at(0, vec![3; UNIT]).wait().unwrap();
            }
        });
        let refused = std::panic::catch_unwind(|| {
            all_in_use(&place.pages(), &others, &["with a journal", "fuser", "zonal atomic info"]);
        });
        over.store(true, SeqCst);
        refused.unwrap();
    });
    writer.close().unwrap();

    let held: Vec<_> = others
        .iter()
        .chain([&without])
        .map(|options| AtomicFile::open(place.pages(), options).unwrap())
        .collect();
    let in_use = inspect(place.pages(), &with_journal()).unwrap().in_use;
    assert!(!in_use, "nobody has it with a journal");
    all_in_use(&place.pages(), &[with_journal()], &["without one", "fuser"]);
    held.into_iter().for_each(|file| file.close().unwrap());
    AtomicFile::open(place.pages(), &with_journal()).unwrap().close().unwrap();
}

#[test]
fn a_file_in_the_place_of_one_that_is_in_use_does_not_get_its_journal() {
    let place = Place::new();
    let first = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    // Nothing of it is alive, so that the journal would be taken over.
    let made_anew = place.path("made anew");
    fs::write(&made_anew, vec![8; 4 * UNIT]).unwrap();
    fs::rename(&made_anew, place.pages()).unwrap();
    let [own, there] = [first.metadata().unwrap(), fs::metadata(place.pages()).unwrap()];
    assert_eq!((own.len(), own.ino() == there.ino()), (4 * UNIT as u64, false));
    all_in_use(&place.pages(), &[with_journal()], &["pages.journal", "journal is in use", "fuser"]);
    first.write_atomic_at(0, vec![3; UNIT]).wait().unwrap();
    first.close().unwrap();
    assert!(place.bytes() == vec![8; 4 * UNIT], "what it wrote was its own file's");
    let second = AtomicFile::open(place.pages(), &with_journal()).unwrap();
    assert_eq!(second.metadata().unwrap().ino(), fs::metadata(place.pages()).unwrap().ino());
    second.write_atomic_at(0, vec![9; UNIT]).wait().unwrap();
    second.close().unwrap();
    assert!(place.bytes()[..UNIT] == [9; UNIT]);
}

/// A waker of the caller's is called by the I/O thread.
struct Panics;

impl std::task::Wake for Panics {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[test]
fn an_io_thread_that_panics_leaves_nobody_waiting() {
    let place = Place::new();
    let (said, says) = std::sync::mpsc::channel();
    let pages = place.pages();
    let whole = std::thread::spawn(move || {
        let file = AtomicFile::open(&pages, &with_journal()).unwrap();
        std::thread::scope(|scope| {
            // Some are with the thread when it panics, some in line, and some come when it is gone.
            for writer in 0..8_u8 {
                let (file, said) = (&file, said.clone());
                scope.spawn(move || {
                    let write = |n: u64| {
                        let offset = (n + u64::from(writer)) % 4 * UNIT as u64;
                        file.write_atomic_at(offset, vec![writer; UNIT]).wait()
                    };
                    let failed = (0..).find_map(|n| write(n).err()).unwrap();
                    let late = write(0).unwrap_err();
                    assert!(late.error.to_string().contains("is gone"), "{}", late.error);
                    assert_eq!(late.buffer.unwrap().len(), UNIT, "it comes back");
                    said.send(failed.error).unwrap();
                });
            }
            std::thread::sleep(Duration::from_millis(30));
            let waker = std::sync::Arc::new(Panics).into();
            let mut last = Box::pin(file.read_at(0, file.buffer(UNIT)));
            let polled = last.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            assert!(polled.is_pending());
        });
        file.close().unwrap_err()
    });
    for writer in 0..8 {
        let error = says.recv_timeout(Duration::from_secs(20));
        let error = error.unwrap_or_else(|_| panic!("{writer} were told, and the others wait"));
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.to_string().contains("is gone"), "{error}");
    }
    let closed = whole.join().unwrap();
    assert!(closed.to_string().contains("panicked"), "{closed}");
    AtomicFile::open(place.pages(), &with_journal()).unwrap().close().unwrap();
    for unit in place.bytes().chunks(UNIT) {
        assert!(unit.iter().all(|byte| *byte == unit[0]), "a unit is torn");
    }
}
