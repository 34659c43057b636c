//! Untorn writes: by the kernel against bare loops over the same file, and by the journal against writing everything
//! twice.

use crate::pairs::Sample;
use crate::system::cpu_ns;
use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use io_uring::{IoUring, opcode, types};
use rustix::io::{ReadWriteFlags, pwritev2};
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use zonal::Buffer;
use zonal::atomic::{AtomicFile, AtomicOptions, AtomicPath, JournalUse};

/// `RWF_ATOMIC`, which no crate names yet.
const UNTORN: u32 = 0x40;
/// A page of a database.
pub(crate) const UNIT: usize = 16384;
/// Under way at once, where it is not one.
pub(crate) const DEPTH: usize = 32;
/// The part of a file that is written over and over.
const SPAN: u64 = 256 << 20;

/// An XFS on a loop device over a file.
pub(crate) struct Xfs {
    folder: PathBuf,
}

impl Xfs {
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "only root can mount");
        let (disk, at) = (folder.join("xfs.disk"), folder.join("xfs"));
        File::create(&disk)?.set_len(2 << 30)?;
        rustix::fs::fallocate(
            OpenOptions::new().write(true).open(&disk)?,
            rustix::fs::FallocateFlags::empty(),
            0,
            2 << 30,
        )?;
        std::fs::create_dir_all(&at)?;
        run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&disk))?;
        // Past the page cache, which would have it written when it likes.
        let made = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(&disk)
            .output()?;
        ensure!(made.status.success(), "losetup: {}", String::from_utf8_lossy(&made.stderr));
        let device = String::from_utf8(made.stdout)?.trim().to_owned();
        let mounted = run(Command::new("mount").arg(&device).arg(&at));
        // It goes when the file system does.
        run(Command::new("losetup").args(["--detach", &device]))?;
        mounted?;
        Ok(Self { folder: at })
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("units")
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        // The kernel takes down a ring, and the files it had, a little after it was closed.
        for _ in 0..100 {
            let done = Command::new("umount").arg(&self.folder).output();
            if done.is_ok_and(|done| done.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{} is still mounted", self.folder.display());
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", says.trim());
    Ok(())
}

/// A file of which every byte was written.
pub(crate) fn fill(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path)?;
    let piece = vec![1; 4 << 20];
    for n in 0..SPAN / piece.len() as u64 {
        file.write_all_at(&piece, n * piece.len() as u64)?;
    }
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

fn direct(path: &Path) -> anyhow::Result<File> {
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    Ok(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?)
}

/// Bytes for the kernel, which are never freed: so it does not matter how a run ends.
fn lent(length: usize) -> &'static [u8] {
    Box::leak(Box::new(Buffer::unpooled(length)))
}

/// Units at random, without end.
struct Units(u64);

impl Iterator for Units {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // xorshift64: Marsaglia, 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some(self.0 % (SPAN / UNIT as u64) * UNIT as u64)
    }
}

fn units() -> Units {
    Units(0x9E37_79B9_7F4A_7C15)
}

/// A run's clocks.
struct Clock {
    begun: Instant,
    cpu: f64,
    latency: Histogram<u64>,
    operations: u64,
}

impl Clock {
    fn start() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
        Ok(Self { begun: Instant::now(), cpu: cpu_ns(), latency, operations: 0 })
    }

    fn ended(&mut self, begun: Instant) {
        self.latency
            .saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        self.operations += 1;
    }

    fn stop(self) -> anyhow::Result<Sample> {
        ensure!(self.operations > 0, "nothing was done");
        let latency = [50.0, 99.0, 99.9].map(|p| self.latency.value_at_percentile(p));
        Ok(Sample {
            operations: self.operations,
            seconds: self.begun.elapsed().as_secs_f64(),
            block: UNIT as u64,
            cpu_ns: cpu_ns() - self.cpu,
            latency_ns: Some(latency),
            ..Sample::default()
        })
    }
}

/// A file with the path that is to be measured.
pub(crate) fn open(path: &Path, expected: AtomicPath) -> anyhow::Result<AtomicFile> {
    let journal = match expected {
        AtomicPath::Journal => JournalUse::Always,
        AtomicPath::Native | AtomicPath::None => JournalUse::Never,
    };
    let file = AtomicFile::open(path, &AtomicOptions { journal, ..AtomicOptions::default() })?;
    let found = file.limits().path;
    ensure!(found == expected, "the path is {found}, not {expected}: the kernel is too old");
    Ok(file)
}

/// One write after the other.
pub(crate) fn ours_one(file: &AtomicFile, time: Duration) -> anyhow::Result<Sample> {
    let mut clock = Clock::start()?;
    let mut buffer = file.buffer(UNIT);
    for offset in units() {
        let begun = Instant::now();
        if clock.begun + time < begun {
            break;
        }
        buffer = file.write_atomic_at(offset, buffer).wait().map_err(|failed| failed.error)?.buffer;
        clock.ended(begun);
    }
    clock.stop()
}

/// The same by the system call alone.
pub(crate) fn bare_one(path: &Path, time: Duration) -> anyhow::Result<Sample> {
    let (file, buffer) = (direct(path)?, Buffer::unpooled(UNIT));
    let mut clock = Clock::start()?;
    for offset in units() {
        let begun = Instant::now();
        if clock.begun + time < begun {
            break;
        }
        let flags = ReadWriteFlags::from_bits_retain(UNTORN);
        let written = pwritev2(&file, &[IoSlice::new(&buffer)], offset, flags)?;
        ensure!(written == UNIT, "a short write");
        clock.ended(begun);
    }
    clock.stop()
}

/// So many under way, each going on with the next unit when it has ended.
pub(crate) fn ours_many(file: &AtomicFile, time: Duration) -> anyhow::Result<Sample> {
    let mut clock = Clock::start()?;
    let mut next = units();
    let write = |offset: u64, buffer: Buffer| async move {
        let begun = Instant::now();
        (begun, file.write_atomic_at(offset, buffer).await)
    };
    block_on(async {
        let mut under_way = FuturesUnordered::new();
        for offset in next.by_ref().take(DEPTH) {
            under_way.push(write(offset, file.buffer(UNIT)));
        }
        while let Some((begun, written)) = under_way.next().await {
            let buffer = written.map_err(|failed| failed.error)?.buffer;
            clock.ended(begun);
            if clock.begun.elapsed() < time
                && let Some(offset) = next.next()
            {
                under_way.push(write(offset, buffer));
            }
        }
        Ok::<(), zonal::Error>(())
    })?;
    clock.stop()
}

/// The same by a ring alone.
pub(crate) fn bare_many(path: &Path, time: Duration) -> anyhow::Result<Sample> {
    let file = direct(path)?;
    let buffer = lent(DEPTH * UNIT);
    let buffers: Vec<&[u8]> = buffer.chunks_exact(UNIT).collect();
    let mut ring: IoUring =
        IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(64)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let mut clock = Clock::start()?;
    let mut begun = vec![clock.begun; DEPTH];
    let mut free: Vec<usize> = (0..DEPTH).collect();
    let mut next = units();
    loop {
        let goes_on = clock.begun.elapsed() < time;
        while goes_on && let Some(place) = free.pop() {
            begun[place] = Instant::now();
            let offset = next.next().unwrap_or(0);
            let length = u32::try_from(UNIT)?;
            let write = opcode::Write::new(types::Fixed(0), buffers[place].as_ptr(), length)
                .offset(offset)
                .rw_flags(UNTORN.cast_signed())
                .build()
                .user_data(place as u64);
            // SAFETY: the bytes are never freed nor changed.
            unsafe { ring.submission().push(&write) }?;
        }
        if free.len() == DEPTH {
            return clock.stop();
        }
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            let place = usize::try_from(completion.user_data())?;
            let result = completion.result();
            ensure!(usize::try_from(result).ok() == Some(UNIT), "a write ended with {result}");
            clock.ended(begun[place]);
            free.push(place);
        }
    }
}

/// What a database does against torn pages: the pages of a batch go to an area of their own in one write, then to
/// their places, with a sync after each.
pub(crate) fn twice(path: &Path, time: Duration) -> anyhow::Result<Sample> {
    let file = direct(path)?;
    let area_path = path.with_extension("twice");
    std::fs::write(&area_path, vec![1; DEPTH * UNIT])?;
    let area = direct(&area_path)?;
    area.sync_all()?;
    let batch = lent(DEPTH * UNIT);
    let mut ring: IoUring =
        IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(64)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let mut clock = Clock::start()?;
    let mut next = units();
    while clock.begun.elapsed() < time {
        let begun = Instant::now();
        area.write_all_at(batch, 0)?;
        rustix::fs::fdatasync(&area)?;
        for (page, offset) in batch.chunks_exact(UNIT).zip(next.by_ref()) {
            let write = opcode::Write::new(types::Fixed(0), page.as_ptr(), u32::try_from(UNIT)?)
                .offset(offset)
                .build();
            // SAFETY: the bytes are never freed nor changed.
            unsafe { ring.submission().push(&write) }?;
        }
        let mut ended = 0;
        while ended < DEPTH {
            ring.submit_and_wait(1)?;
            for completion in ring.completion() {
                ensure!(usize::try_from(completion.result()).ok() == Some(UNIT), "a write failed");
                ended += 1;
            }
        }
        rustix::fs::fdatasync(&file)?;
        (0..DEPTH).for_each(|_| clock.ended(begun));
    }
    clock.stop()
}
