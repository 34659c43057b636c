//! An ordinary file as one zone that grows: where each record lands, and what a failure, a limit
//! or a stranger length leaves of the file.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod engines;

use engines::over_each_engine;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use zonal::sim::{self, FaultPlan, SimDisk, SimImage, SimMode};
use zonal::{
    Buffer, Completion, Device, EngineChoice, ErrorKind, Flags, OpenOptions, Queue, QueueOptions,
    Request, Target, ZoneState,
};

const BLOCK: u64 = 4096;

over_each_engine! {
    many_appends_from_two_queues_lie_side_by_side_and_the_file_ends_where_they_do,
    a_file_of_any_length_goes_on_at_the_next_block,
    a_read_past_the_end_shows_zeros,
    a_reset_empties_the_file,
    an_append_over_the_limit_on_files_is_refused_and_kills_nobody,
}

struct Scene {
    folder: tempfile::TempDir,
    engine: EngineChoice,
}

impl Scene {
    fn with(bytes: &[u8], engine: EngineChoice) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(folder.path().join("log"), bytes).unwrap();
        Self { folder, engine }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn try_open(&self, read_only: bool) -> zonal::Result<Device> {
        let options = OpenOptions { engine: self.engine, read_only, ..Default::default() };
        zonal::open(&Target::File(self.path()), &options)
    }

    fn open(&self) -> Device {
        self.try_open(false).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }
}

fn queue(drive: &Device) -> Queue {
    drive.queue(&QueueOptions::default()).unwrap()
}

fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

fn append(queue: &mut Queue, byte: u8, length: u64) -> zonal::Result<u64> {
    let data = Buffer::from_slice(&vec![byte; length as usize]);
    let Completion { result, offset, .. } = run(queue, Request::append(0, data));
    result.map(|_| offset)
}

fn read(queue: &mut Queue, offset: u64, length: u64) -> Vec<u8> {
    let completion = run(queue, Request::read_at(offset, Buffer::unpooled(length as usize)));
    completion.result.unwrap();
    completion.buffer.unwrap().to_vec()
}

fn wp(drive: &Device) -> u64 {
    drive.report(..).unwrap()[0].write_pointer.unwrap()
}

fn many_appends_from_two_queues_lie_side_by_side_and_the_file_ends_where_they_do(
    engine: EngineChoice,
) {
    let scene = Scene::with(&[], engine);
    let drive = scene.open();
    let mut places: Vec<(u64, u8)> = std::thread::scope(|scope| {
        let threads = [0, 100].map(|first: u8| {
            let drive = &drive;
            scope.spawn(move || {
                let mut queue = queue(drive);
                for n in first..first + 100 {
                    let data = Buffer::from_slice(&[n + 1; 2 * BLOCK as usize]);
                    queue.push(Request::append(0, data).tag(n.into())).unwrap();
                }
                queue.submit_and_wait(100).unwrap();
                let ended = std::iter::from_fn(|| queue.next_completion());
                ended.map(|c| (c.result.map(|_| c.offset).unwrap(), c.tag as u8 + 1)).collect()
            })
        });
        threads.into_iter().flat_map(|t| -> Vec<_> { t.join().unwrap() }).collect()
    });
    drive.close().unwrap();
    places.sort_unstable();
    let bytes = scene.bytes();
    assert_eq!((places.len(), bytes.len() as u64), (200, 200 * 2 * BLOCK));
    for ((offset, byte), expected) in places.into_iter().zip((0..).step_by(2 * BLOCK as usize)) {
        assert_eq!(offset, expected);
        let record = &bytes[offset as usize..][..2 * BLOCK as usize];
        assert!(record.iter().all(|&found| found == byte));
    }
}

fn a_file_of_any_length_goes_on_at_the_next_block(engine: EngineChoice) {
    let scene = Scene::with(b"a line of text\n", engine);
    for read_only in [true, false] {
        let drive = scene.try_open(read_only).unwrap();
        assert_eq!(wp(&drive), BLOCK);
        let block = read(&mut queue(&drive), 0, 2 * BLOCK);
        assert!(block.starts_with(b"a line of text\n"));
        assert!(block[15..].iter().all(|&byte| byte == 0));
        drive.close().unwrap();
        assert_eq!(scene.bytes(), b"a line of text\n", "looking at it changes nothing");
    }
    let drive = scene.open();
    let mut queue = queue(&drive);
    assert_eq!(append(&mut queue, 7, BLOCK).unwrap(), BLOCK);
    drop(queue);
    drive.close().unwrap();
    let bytes = scene.bytes();
    assert_eq!(bytes.len() as u64, 2 * BLOCK);
    assert!(bytes.starts_with(b"a line of text\n") && bytes[15..4096].iter().all(|&b| b == 0));
    assert!(bytes[4096..].iter().all(|&byte| byte == 7));
}

fn a_read_past_the_end_shows_zeros(engine: EngineChoice) {
    let scene = Scene::with(&[5; 3 * BLOCK as usize], engine);
    let drive = scene.open();
    let mut queue = queue(&drive);
    let bytes = read(&mut queue, BLOCK, 16 * BLOCK);
    assert!(bytes[..2 * BLOCK as usize].iter().all(|&byte| byte == 5));
    assert!(bytes[2 * BLOCK as usize..].iter().all(|&byte| byte == 0));
    assert!(read(&mut queue, 1 << 40, BLOCK).iter().all(|&byte| byte == 0));
    // But bytes that should be there and are not are an error, and no zeros.
    File::options().write(true).open(scene.path()).unwrap().set_len(BLOCK).unwrap();
    let completion = run(&mut queue, Request::read_at(0, Buffer::unpooled(3 * BLOCK as usize)));
    assert_eq!(completion.result.unwrap_err().kind(), ErrorKind::Io);
}

fn a_reset_empties_the_file(engine: EngineChoice) {
    let scene = Scene::with(b"a tail and", engine);
    let drive = scene.open();
    let mut queue = queue(&drive);
    append(&mut queue, 1, 4 * BLOCK).unwrap();
    run(&mut queue, Request::reset(0)).result.unwrap();
    assert_eq!((scene.bytes().len(), wp(&drive)), (0, 0));
    assert!(read(&mut queue, 0, 8 * BLOCK).iter().all(|&byte| byte == 0));
    assert_eq!(append(&mut queue, 2, BLOCK).unwrap(), 0);
    assert_eq!(scene.bytes(), [2; BLOCK as usize]);
}

#[test]
fn a_file_cannot_be_finished_and_says_so() {
    let scene = Scene::with(&[], EngineChoice::Auto);
    let drive = scene.open();
    assert!(!drive.limits().finish);
    let mut queue = queue(&drive);
    append(&mut queue, 1, BLOCK).unwrap();
    let completion = run(&mut queue, Request::finish(0));
    assert!(completion.flags.contains(Flags::REFUSED));
    let error = completion.result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("log: finish: not supported, zone 0"), "{error}");
    assert_eq!(append(&mut queue, 1, BLOCK).unwrap(), BLOCK);
}

#[test]
fn what_is_no_file_to_append_to_is_refused_by_name() {
    let scene = Scene::with(&[], EngineChoice::Auto);
    let folder = scene.folder.path();
    let refused = |name: &str| {
        let target = Target::parse(&format!("file:{}", folder.join(name).display())).unwrap();
        let error = zonal::open(&target, &OpenOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with("file:/"), "{error}");
        (error.kind(), error.to_string())
    };
    let (kind, text) = refused("absent");
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("touch /"), "{text}");
    assert!(!folder.join("absent").exists());
    assert_eq!(refused(".").0, ErrorKind::NotZoned);
    assert_eq!(Target::parse("file:").unwrap_err().kind(), ErrorKind::InvalidInput);
    std::fs::write(folder.join("image"), b"QFI\xfb, and what follows").unwrap();
    let (kind, text) = refused("image");
    assert_eq!(kind, ErrorKind::InvalidInput);
    assert!(text.contains("qcow2 image"), "{text}");
    let long = File::create(folder.join("long")).unwrap();
    if long.set_len((8 << 40) + 1).is_err() {
        println!("SKIP: this file system has no files of 8 TiB");
        return;
    }
    let (kind, text) = refused("long");
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("8796093022209 bytes"), "{text}");
}

#[test]
fn a_full_zone_takes_no_more() {
    let scene = Scene::with(&[], EngineChoice::Auto);
    let file = File::options().write(true).open(scene.path()).unwrap();
    if file.set_len((8 << 40) - 3 * BLOCK).is_err() {
        println!("SKIP: this file system has no files of 8 TiB");
        return;
    }
    let drive = scene.open();
    let mut queue = queue(&drive);
    assert_eq!(append(&mut queue, 1, 4 * BLOCK).unwrap_err().kind(), ErrorKind::BeyondCapacity);
    append(&mut queue, 1, 3 * BLOCK).unwrap();
    assert_eq!(append(&mut queue, 1, BLOCK).unwrap_err().kind(), ErrorKind::ZoneFull);
    assert_eq!(drive.report(..).unwrap()[0].state, ZoneState::Full);
    run(&mut queue, Request::reset(0)).result.unwrap();
    append(&mut queue, 1, BLOCK).unwrap();
    assert_eq!(scene.bytes().len() as u64, BLOCK);
}

#[test]
fn a_file_is_open_for_writing_once_and_read_beside() {
    let scene = Scene::with(&[], EngineChoice::Auto);
    let drive = scene.open();
    append(&mut queue(&drive), 3, BLOCK).unwrap();
    assert_eq!(scene.try_open(false).unwrap_err().kind(), ErrorKind::InUse);
    let reader = scene.try_open(true).unwrap();
    assert_eq!(read(&mut queue(&reader), 0, BLOCK), [3; BLOCK as usize]);
    drive.close().unwrap();
    scene.open().close().unwrap();
}

#[test]
fn a_file_that_cannot_be_emptied_is_read_only_after_a_reset_and_shows_nothing_old() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let memory = memfd_create("log", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&memory, &[7; BLOCK as usize]).unwrap();
    fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    let drive = zonal::open(&Target::File(path), &OpenOptions::default()).unwrap();
    let mut queue = queue(&drive);
    assert_eq!(read(&mut queue, 0, BLOCK), [7; BLOCK as usize]);
    let completion = run(&mut queue, Request::reset(0));
    assert!(!completion.flags.contains(Flags::REFUSED), "it did something");
    let error = completion.result.unwrap_err();
    assert!(error.to_string().contains("cutting the file at byte 0"), "{error}");
    assert_eq!(drive.report(..).unwrap()[0].state, ZoneState::ReadOnly);
    assert_eq!(read(&mut queue, 0, BLOCK), [0; BLOCK as usize]);
    assert_eq!(append(&mut queue, 1, BLOCK).unwrap_err().kind(), ErrorKind::ZoneReadOnly);
}

/// A file of `length` bytes on a simulated disk, where `faults` happen.
fn simulated(length: u64, faults: FaultPlan) -> (SimDisk, Device) {
    let mode = SimMode::Auto { seed: 1, faults };
    let disk = SimDisk::new(&SimImage::new(length, 512), mode);
    let drive = sim::open_file(&disk, &OpenOptions::default()).unwrap();
    (disk, drive)
}

#[test]
fn an_append_that_fails_leaves_the_file_as_it_was() {
    let full = FaultPlan { free_sectors: Some(8), ..FaultPlan::default() };
    let torn = FaultPlan { fail_write: Some(1), ..FaultPlan::default() };
    for (faults, kind) in [(full, ErrorKind::NoSpace), (torn, ErrorKind::Io)] {
        let (disk, drive) = simulated(0, faults);
        let mut queue = queue(&drive);
        append(&mut queue, 1, BLOCK).unwrap();
        let error = append(&mut queue, 2, 16 * BLOCK).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!((disk.image().len(), wp(&drive)), (BLOCK, BLOCK), "{kind}");
    }
    // Not even the rest of a block is added.
    let torn = FaultPlan { fail_write: Some(0), ..FaultPlan::default() };
    let (disk, drive) = simulated(512, torn);
    append(&mut queue(&drive), 2, 16 * BLOCK).unwrap_err();
    assert_eq!((disk.image().len(), wp(&drive)), (512, BLOCK));
}

#[test]
fn a_failed_record_below_others_reads_as_zeros_and_one_above_is_cut_off() {
    for failed in 0..4 {
        let faults = FaultPlan { fail_write: Some(failed), ..FaultPlan::default() };
        let (disk, drive) = simulated(0, faults);
        let mut queue = queue(&drive);
        for n in 0..4_u8 {
            let data = Buffer::from_slice(&[n + 1; 2 * BLOCK as usize]);
            queue.push(Request::append(0, data).tag(n.into())).unwrap();
        }
        queue.submit_and_wait(4).unwrap();
        let mut acknowledged = Vec::new();
        while let Some(completion) = queue.next_completion() {
            if completion.result.is_ok() {
                acknowledged.push((completion.offset, completion.tag as u8 + 1));
            }
        }
        let end = acknowledged.iter().map(|(offset, _)| offset + 2 * BLOCK).max().unwrap_or(0);
        assert_eq!((disk.image().len(), wp(&drive)), (end, end), "write {failed} failed");
        let bytes = read(&mut queue, 0, 8 * BLOCK);
        for (bytes, offset) in bytes.chunks(2 * BLOCK as usize).zip((0..).step_by(8192)) {
            let record = acknowledged.iter().find(|(at, _)| *at == offset);
            let expected = record.map_or(0, |(_, byte)| *byte);
            assert!(bytes.iter().all(|&byte| byte == expected), "write {failed}, at {offset}");
        }
    }
}

/// Runs this program's test of that name again, as a child with a limit on files in bytes. False
/// in the child.
fn limited(test: &str, limit: u64) -> bool {
    const CHILD: &str = "ZONAL_TEST_HAS_A_LIMIT";
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe { child.pre_exec(move || set_limit(limit)) };
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
    true
}

fn set_limit(bytes: u64) -> std::io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn an_append_over_the_limit_on_files_is_refused_and_kills_nobody(engine: EngineChoice) {
    let module = if engine == EngineChoice::Threads { "threads" } else { "io_uring" };
    let test = "an_append_over_the_limit_on_files_is_refused_and_kills_nobody";
    if limited(&format!("{module}::{test}"), 4 * BLOCK + 100) {
        return;
    }
    let scene = Scene::with(&[1; BLOCK as usize], engine);
    let drive = scene.open();
    assert!(drive.info().warnings[0].contains("ulimit -f"), "{:?}", drive.info());
    let mut queue = queue(&drive);
    append(&mut queue, 2, 2 * BLOCK).unwrap();
    let error = append(&mut queue, 3, 2 * BLOCK).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BeyondCapacity);
    assert!(error.to_string().contains("16484; raise it (ulimit -f)"), "{error}");
    append(&mut queue, 4, BLOCK).unwrap();
    assert_eq!(append(&mut queue, 5, BLOCK).unwrap_err().kind(), ErrorKind::ZoneFull);
    assert_eq!(scene.bytes().len() as u64, 4 * BLOCK);
}

#[test]
fn a_limit_that_comes_later_is_an_error_over_threads() {
    if limited("a_limit_that_comes_later_is_an_error_over_threads", 1 << 20) {
        return;
    }
    let scene = Scene::with(&[], EngineChoice::Threads);
    let drive = scene.open();
    let mut queue = queue(&drive);
    append(&mut queue, 1, BLOCK).unwrap();
    set_limit(2 * BLOCK).unwrap();
    let error = append(&mut queue, 2, 4 * BLOCK).unwrap_err();
    assert!(error.to_string().contains("ulimit -f"), "{error}");
    assert_eq!(scene.bytes(), [1; BLOCK as usize], "all or nothing");
    assert_eq!(append(&mut queue, 3, BLOCK).unwrap(), BLOCK);
}
