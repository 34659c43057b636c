//! What every engine over files does, whichever it is. What only a ring does is in `uring/tests.rs`,
//! and what only two do in `polled/tests.rs`.

use super::file::FileDisk;
use super::*;
use crate::buffer::Buffer;
use crate::sys::file::Access;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    IoUring,
    Threads,
    /// A ring over a file whose engine nobody named.
    UnnamedRing,
    /// Threads that nobody named.
    UnnamedThreads,
    /// The polled engine with an ordinary ring where the other should be, so that all but the asking is
    /// tested on every machine.
    TwoRings,
    /// The polled engine, where the device beneath the test program can be asked.
    Polled,
}

impl Kind {
    fn options(self) -> EngineOptions {
        EngineOptions { hipri: self == Self::Polled, ..EngineOptions::default() }
    }

    /// Whether it can be tested here; if not, that is said.
    fn is_here(self) -> bool {
        let refusal = fixture(self, 4096).disk.engine(&self.options(), None).err();
        if let Some(error) = &refusal {
            assert!(self == Self::Polled && error.kind() == io::ErrorKind::Unsupported, "{error}");
            println!("SKIP: {error}");
        }
        refusal.is_none()
    }
}

/// Runs each test over each engine.
macro_rules! over_each_engine {
    ($($test:ident,)*) => {
        over_each_engine! { @ io_uring IoUring $($test)* }
        over_each_engine! { @ threads Threads $($test)* }
        over_each_engine! { @ two_rings TwoRings $($test)* }
        over_each_engine! { @ polled Polled $($test)* }
    };
    (@ $name:ident $kind:ident $($test:ident)*) => {
        mod $name {
            use super::Kind;
            $(#[test] fn $test() {
                if Kind::$kind.is_here() {
                    super::$test(Kind::$kind);
                }
            })*
        }
    };
}

over_each_engine! {
    a_small_completion_ring_loses_nothing,
    reaping_alone_fetches_what_the_kernel_had_to_keep,
    a_full_submission_ring_gives_the_request_back,
    a_notification_ends_a_wait_with_nothing_in_flight,
    a_notification_before_the_wait_ends_it_and_only_it,
    a_stale_wake_does_not_end_a_later_wait,
    a_wait_that_nothing_can_end_returns,
    waits_and_notifications_from_many_threads_never_hang,
    whoever_polls_the_descriptor_is_woken_too,
    an_error_of_the_kernel_arrives_with_its_token,
    an_untorn_write_is_the_kernels_to_refuse,
    the_lock_holds_as_long_as_an_engine_has_the_file,
}

pub(super) struct Fixture {
    /// Holds the file.
    directory: tempfile::TempDir,
    pub(super) disk: Disk,
    kind: Kind,
}

pub(super) fn fixture(kind: Kind, length: u64) -> Fixture {
    // Beside the test program, which is on a disk more often than /tmp is.
    let program = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let file = FileDisk::open(&directory.path().join("image"), Access::CreateNew).unwrap();
    let disk = Disk::File(match kind {
        Kind::Threads => file.with_engine(EngineKind::Threads),
        Kind::UnnamedRing => file.with_engine(EngineKind::IoUring).or_threads(),
        Kind::UnnamedThreads => file.with_engine(EngineKind::Threads).or_threads(),
        Kind::IoUring | Kind::TwoRings | Kind::Polled => file.with_engine(EngineKind::IoUring),
    });
    disk.set_len(length).unwrap();
    Fixture { directory, disk, kind }
}

pub(super) fn engine(
    fixture: &Fixture,
    sq_entries: u32,
    cq_entries: u32,
    arena: Option<&Arena>,
) -> Engine {
    let options = EngineOptions { sq_entries, cq_entries, ..fixture.kind.options() };
    engine_with(fixture, &options, arena)
}

/// One whose requests a thread of the kernel takes.
pub(super) fn sqpoll_engine(fixture: &Fixture, sq_entries: u32, arena: Option<&Arena>) -> Engine {
    let cq_entries = 2 * sq_entries;
    let options = EngineOptions { sq_entries, cq_entries, sqpoll: true, ..fixture.kind.options() };
    engine_with(fixture, &options, arena)
}

fn engine_with(fixture: &Fixture, options: &EngineOptions, arena: Option<&Arena>) -> Engine {
    match (fixture.kind, &fixture.disk) {
        (Kind::TwoRings, Disk::File(file)) => {
            Engine::Polled(Box::new(Polled::over(file, options, arena).unwrap()))
        }
        (_, disk) => disk.engine(options, arena).unwrap(),
    }
}

/// Requests with their buffers, as a queue would hold them.
pub(super) struct Slab<'a> {
    pub(super) engine: &'a mut Engine,
    buffers: BTreeMap<u64, Buffer>,
}

impl Slab<'_> {
    pub(super) fn push(
        &mut self,
        kind: IoKind,
        offset: u64,
        mut buffer: Buffer,
        token: u64,
        fixed: bool,
    ) {
        let io = Io {
            kind,
            offset,
            ptr: buffer.as_mut_ptr(),
            len: buffer.len(),
            fixed,
            token,
            zoned: None,
        };
        // SAFETY: the buffer is kept in the slab until its token is reaped.
        while unsafe { self.engine.push(io) }.is_err() {
            self.engine.submit(0, None).unwrap();
        }
        assert!(self.buffers.insert(token, buffer).is_none());
    }

    pub(super) fn finish(&mut self) -> BTreeMap<u64, (io::Result<u32>, Buffer)> {
        let mut ended = BTreeMap::new();
        while self.engine.in_flight() > 0 {
            self.engine.submit(1, None).unwrap();
            self.engine.reap(|token, result| {
                let buffer = self.buffers.remove(&token).unwrap();
                assert!(ended.insert(token, (result, buffer)).is_none());
            });
        }
        ended
    }
}

pub(super) fn slab(engine: &mut Engine) -> Slab<'_> {
    Slab { engine, buffers: BTreeMap::new() }
}

#[derive(Clone, Debug)]
enum Step {
    Write { block: usize, blocks: usize, byte: u8, durable: bool, pooled: bool },
    Read { block: usize, blocks: usize, pooled: bool },
    Zero { block: usize, blocks: usize },
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    let (block, blocks) = (0..40_usize, 1..9_usize);
    prop_oneof![
        (block.clone(), blocks.clone(), 1_u8.., any::<bool>(), any::<bool>()).prop_map(
            |(block, blocks, byte, durable, pooled)| Step::Write {
                block,
                blocks,
                byte,
                durable,
                pooled
            }
        ),
        (block.clone(), blocks.clone(), any::<bool>())
            .prop_map(|(block, blocks, pooled)| Step::Read { block, blocks, pooled }),
        (block, blocks).prop_map(|(block, blocks)| Step::Zero { block, blocks }),
        Just(Step::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_ring_does_what_pread_and_pwrite_do(
        steps in prop::collection::vec(step(), 1..24),
        sqpoll in any::<bool>(),
    ) {
        agrees_with_a_file(Kind::IoUring, sqpoll, steps)?;
    }

    #[test]
    fn two_rings_do_what_pread_and_pwrite_do(
        steps in prop::collection::vec(step(), 1..24),
        sqpoll in any::<bool>(),
    ) {
        agrees_with_a_file(Kind::TwoRings, sqpoll, steps)?;
    }

    #[test]
    fn a_polled_ring_does_what_pread_and_pwrite_do(
        steps in prop::collection::vec(step(), 1..24),
        sqpoll in any::<bool>(),
    ) {
        if Kind::Polled.is_here() {
            agrees_with_a_file(Kind::Polled, sqpoll, steps)?;
        }
    }

    #[test]
    fn unnamed_threads_do_what_pread_and_pwrite_do(steps in prop::collection::vec(step(), 1..24)) {
        agrees_with_a_file(Kind::UnnamedThreads, false, steps)?;
    }

    #[test]
    fn calls_beside_a_ring_do_what_pread_and_pwrite_do(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        agrees_with_a_file(Kind::UnnamedRing, false, steps)?;
    }

    #[test]
    fn threads_do_what_pread_and_pwrite_do(steps in prop::collection::vec(step(), 1..24)) {
        agrees_with_a_file(Kind::Threads, false, steps)?;
    }
}

/// Runs the steps, and compares each with what a plain array would have said.
fn agrees_with_a_file(kind: Kind, sqpoll: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    const LENGTH: usize = 44 * 4096;
    let fixture = fixture(kind, LENGTH as u64);
    let arena = Arena::new(2, 8 * 4096).unwrap();
    let mut engine = match sqpoll {
        true => sqpoll_engine(&fixture, 8, Some(&arena)),
        false if matches!(kind, Kind::UnnamedRing | Kind::UnnamedThreads) => {
            engine(&fixture, 1, 2, Some(&arena))
        }
        false => engine(&fixture, 8, 16, Some(&arena)),
    };
    let mut model = vec![0_u8; LENGTH];
    let buffer = |blocks: usize, pooled: bool| {
        let leased = arena.lease(blocks * 4096).filter(|_| pooled);
        leased.unwrap_or_else(|| Buffer::unpooled(blocks * 4096))
    };
    for (token, step) in (0..).zip(steps) {
        let mut slab = slab(&mut engine);
        let (at, length, expected) = match step {
            Step::Write { block, blocks, byte, durable, pooled } => {
                let mut bytes = buffer(blocks, pooled);
                bytes.fill(byte);
                let fixed = bytes.is_of(&arena);
                let kind = if durable { IoKind::WriteDurable } else { IoKind::Write };
                slab.push(kind, block as u64 * 4096, bytes, token, fixed);
                (block * 4096, blocks * 4096, Some(byte))
            }
            Step::Read { block, blocks, pooled } => {
                let bytes = buffer(blocks, pooled);
                let fixed = bytes.is_of(&arena);
                slab.push(IoKind::Read, block as u64 * 4096, bytes, token, fixed);
                (block * 4096, blocks * 4096, None)
            }
            Step::Zero { block, blocks } => {
                let range = Buffer::unpooled(blocks * 4096);
                slab.push(IoKind::Zero, block as u64 * 4096, range, token, false);
                (block * 4096, blocks * 4096, Some(0))
            }
            Step::Sync => {
                slab.push(IoKind::SyncData, 0, Buffer::unpooled(0), token, false);
                (0, 0, None)
            }
        };
        let (result, bytes) = slab.finish().remove(&token).unwrap();
        let inside = at..(at + length).min(LENGTH.max(model.len()));
        match (&step, result) {
            (Step::Read { .. }, Ok(got)) => {
                prop_assert_eq!(got as usize, inside.len());
                prop_assert_eq!(&bytes[..inside.len()], &model[inside]);
            }
            (Step::Write { .. }, Ok(put)) => {
                prop_assert_eq!(put as usize, length);
                model.resize(model.len().max(at + length), 0);
                model[at..at + length].fill(expected.unwrap());
            }
            (Step::Zero { .. }, Ok(_)) => model[inside].fill(0),
            (Step::Zero { .. }, Err(error)) => {
                prop_assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
            }
            (Step::Sync, Ok(_)) => {}
            (step, Err(error)) => panic!("{step:?}: {error}"),
        }
    }
    let mut file = vec![0; model.len()];
    fixture.disk.read_exact_at(&mut file, 0).unwrap();
    prop_assert!(file == model);
    Ok(())
}

fn a_small_completion_ring_loses_nothing(kind: Kind) {
    let fixture = fixture(kind, 200 * 4096);
    let mut engine = engine(&fixture, 4, 4, None);
    let mut slab = slab(&mut engine);
    for token in 0..200_u8 {
        let buffer = Buffer::from_slice(&[token; 4096]);
        slab.push(IoKind::Write, u64::from(token) * 4096, buffer, token.into(), false);
    }
    slab.engine.submit(0, None).unwrap();
    // Time for the kernel to run out of room.
    std::thread::sleep(Duration::from_millis(50));
    let ended = slab.finish();
    assert_eq!(ended.len(), 200);
    assert!(ended.values().all(|(result, _)| matches!(result, Ok(4096))));
    let mut bytes = vec![0; 200 * 4096];
    fixture.disk.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at / 4096));
}

fn reaping_alone_fetches_what_the_kernel_had_to_keep(kind: Kind) {
    let fixture = fixture(kind, 64 * 4096);
    let mut engine = engine(&fixture, 4, 4, None);
    let mut slab = slab(&mut engine);
    for token in 0..64 {
        slab.push(IoKind::Read, token * 4096, Buffer::unpooled(4096), token, false);
    }
    slab.engine.submit(0, None).unwrap();
    let mut tokens = BTreeSet::new();
    let begun = Instant::now();
    while slab.engine.in_flight() > 0 && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
        if kind == Kind::Polled {
            slab.engine.submit(0, None).unwrap(); // it is not told what has ended, but asks
        }
        slab.engine.reap(|token, result| {
            assert_eq!(result.unwrap(), 4096);
            assert!(tokens.insert(token));
        });
    }
    assert_eq!(tokens.len(), 64);
}

fn a_full_submission_ring_gives_the_request_back(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 2, 4, None);
    let io = |token| Io {
        kind: IoKind::SyncData,
        offset: 0,
        ptr: std::ptr::null_mut(),
        len: 0,
        fixed: false,
        token,
        zoned: None,
    };
    for token in 0..2 {
        // SAFETY: a sync has no bytes.
        unsafe { engine.push(io(token)) }.unwrap();
    }
    // SAFETY: a sync has no bytes.
    assert_eq!(unsafe { engine.push(io(7)) }.unwrap_err().token, 7);
    assert_eq!(slab_free_finish(&mut engine), [0, 1].into());
}

fn slab_free_finish(engine: &mut Engine) -> BTreeSet<u64> {
    let mut tokens = BTreeSet::new();
    while engine.in_flight() > 0 {
        engine.submit(1, None).unwrap();
        engine.reap(|token, result| {
            result.unwrap();
            assert!(tokens.insert(token));
        });
    }
    tokens
}

pub(super) fn notify_after(notifier: Notifier, pause: Duration) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(pause);
        notifier.notify();
    })
}

fn a_notification_ends_a_wait_with_nothing_in_flight(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 4, 8, None);
    for _ in 0..50 {
        let thread = notify_after(engine.notifier(), Duration::from_millis(1));
        engine.submit(1, None).unwrap();
        engine.reap(|token, _| panic!("nothing was pushed, but {token} ended"));
        thread.join().unwrap();
    }
    assert_eq!(engine.in_flight(), 0);
}

fn a_notification_before_the_wait_ends_it_and_only_it(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 4, 8, None);
    let notifier = engine.notifier();
    notifier.notify();
    notifier.notify();
    engine.submit(0, None).unwrap();
    engine.submit(1, None).unwrap();
    assert!(engine.syscalls() <= 1, "a ring submits its poll request, and nobody sleeps");
    let begun = Instant::now();
    engine.submit(1, Some(Duration::from_millis(30))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

fn a_stale_wake_does_not_end_a_later_wait(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 4, 8, None);
    let thread = notify_after(engine.notifier(), Duration::from_millis(5));
    engine.submit(1, None).unwrap();
    thread.join().unwrap();
    let _notifier = engine.notifier();
    let begun = Instant::now();
    engine.submit(1, Some(Duration::from_millis(30))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

fn a_wait_that_nothing_can_end_returns(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 4, 8, None);
    drop(engine.notifier());
    engine.submit(1, None).unwrap();
}

fn waits_and_notifications_from_many_threads_never_hang(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 8, 8, None);
    let count = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (notifier, count) = (engine.notifier(), Arc::clone(&count));
            std::thread::spawn(move || {
                for _ in 0..3000 {
                    count.fetch_add(1, Ordering::Relaxed);
                    notifier.notify();
                }
            })
        })
        .collect();
    let mut token = 0;
    while count.load(Ordering::Relaxed) < 9000 {
        let mut slab = slab(&mut engine);
        slab.push(IoKind::Read, 0, Buffer::unpooled(4096), token, false);
        slab.push(IoKind::Read, 0, Buffer::unpooled(4096), token + 1, false);
        assert_eq!(slab.finish().len(), 2);
        token += 2;
        engine.submit(1, None).unwrap();
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn whoever_polls_the_descriptor_is_woken_too(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 4, 8, None);
    let notifier = engine.notifier();
    notifier.notify();
    assert!(!engine.prepare_to_poll().unwrap(), "a notification came before");
    assert!(engine.prepare_to_poll().unwrap());
    let thread = notify_after(notifier.clone(), Duration::from_millis(5));
    assert_eq!(poll(&engine, 10_000), 1);
    thread.join().unwrap();
    // Kept until a wait sees it.
    engine.submit(0, None).unwrap();
    engine.submit(1, None).unwrap();
    assert!(engine.prepare_to_poll().unwrap());
    assert_eq!(poll(&engine, 20), 0);
    let mut slab = slab(&mut engine);
    slab.push(IoKind::Read, 0, Buffer::unpooled(4096), 1, false);
    if slab.engine.prepare_to_poll().unwrap() {
        assert_eq!(poll(slab.engine, 10_000), 1);
    }
    assert_eq!(slab.finish().len(), 1);
}

fn poll(engine: &Engine, limit_ms: i32) -> i32 {
    let fd = engine.as_raw_fd().unwrap();
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as said.
    unsafe { libc::poll(&raw mut one, 1, limit_ms) }
}

/// Three blocks are no unit on any file system, and most write nothing untorn at all.
/// As of a ring (`uring/tests.rs`): a worker would be woken, and have to wake.
#[test]
fn what_is_waited_for_alone_is_a_call_instead_of_a_worker_s() {
    let fixture = fixture(Kind::UnnamedThreads, 8192);
    let mut engine = engine(&fixture, 1, 2, None);
    let mut slab = slab(&mut engine);
    for token in 0..64 {
        slab.push(IoKind::Write, 4096, Buffer::unpooled(4096), token, false);
        assert_eq!(slab.finish().len(), 1);
    }
    assert_eq!(slab.engine.syscalls(), 64);
    // One that is not waited for yet is a worker's.
    slab.push(IoKind::Read, 0, Buffer::unpooled(4096), 64, false);
    slab.engine.submit(0, None).unwrap();
    assert_eq!(slab.finish().len(), 1);
}

fn an_untorn_write_is_the_kernels_to_refuse(kind: Kind) {
    let fixture = fixture(kind, 1 << 20);
    let mut engine = engine(&fixture, 4, 8, None);
    let mut bytes = Buffer::unpooled(12288);
    for kind_of_write in [IoKind::Write, IoKind::WriteDurable] {
        let (ptr, len) = (bytes.as_mut_ptr(), bytes.len());
        let (offset, fixed, zoned, token) = (0, false, None, 5);
        let io = Io { kind: kind_of_write, offset, ptr, len, fixed, zoned, token };
        // SAFETY: the buffer lives until the token is reaped.
        let pushed = unsafe { engine.push_untorn(io) };
        if matches!(kind, Kind::TwoRings | Kind::Polled) {
            assert!(pushed.is_err(), "asked for by nobody");
            continue;
        }
        pushed.unwrap();
        engine.submit(1, None).unwrap();
        let mut refused = None;
        engine.reap(|token, result| refused = Some((token, result.map_err(|e| e.raw_os_error()))));
        let (token, result) = refused.unwrap();
        let number = result.unwrap_err().unwrap();
        assert!(token == 5 && [libc::EOPNOTSUPP, libc::EINVAL].contains(&number), "{number}");
    }
}

fn an_error_of_the_kernel_arrives_with_its_token(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let mut engine = engine(&fixture, 4, 8, None);
    let mut slab = slab(&mut engine);
    slab.push(IoKind::Read, u64::MAX / 2 + 1, Buffer::unpooled(4096), 5, false);
    let (result, _) = slab.finish().remove(&5).unwrap();
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

fn the_lock_holds_as_long_as_an_engine_has_the_file(kind: Kind) {
    let fixture = fixture(kind, 4096);
    let Disk::File(file) = &fixture.disk else { panic!("a file") };
    let path = fixture.directory.path().join("image");
    let other = FileDisk::open(&path, Access::ReadWrite).unwrap();
    assert!(file.try_lock().unwrap());
    let engine = engine(&fixture, 4, 8, None);
    drop(fixture);
    assert!(!other.try_lock().unwrap());
    drop(engine);
    // The kernel takes a ring apart in its own time.
    let begun = Instant::now();
    while !other.try_lock().unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
}
