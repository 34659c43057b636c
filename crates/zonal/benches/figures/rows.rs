//! What is measured, row by row, and what is to be reached.

use crate::handles::{self, Tasks};
use crate::image::{ImageDrive, Work};
use crate::memory;
use crate::options::Options;
use crate::pairs::{Paired, Sample, Spread, compare, count, thousands};
use crate::system;
use crate::table::Line;
use crate::tools::{self, Job, Pattern};
use crate::untorn;
use anyhow::{Context, ensure};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;
use tempfile::TempDir;
use zonal::atomic::AtomicPath;
use zonal::{
    CreateOptions, Device, Geometry, OpenOptions, Preallocate, QueueOptions, Request, Target,
};

/// One thing to measure.
pub(crate) struct Row {
    /// What `--only` looks for.
    pub(crate) name: &'static str,
    pub(crate) work: &'static str,
    pub(crate) measure: fn(&mut Bench<'_>) -> anyhow::Result<Vec<Line>>,
}

macro_rules! row {
    ($name:literal, $work:literal, $measure:expr) => {
        Row { name: $name, work: $work, measure: $measure }
    };
}

pub(crate) const ROWS: &[Row] = &[
    row!("append-d32", "image: append 4 KiB, iodepth 32, one zone", append_d32),
    row!("append-qemu", "image: append 4 KiB, iodepth 32, one zone", append_qemu),
    row!("append-d1", "image: append 4 KiB, iodepth 1, one zone", append_d1),
    row!("append-4zones", "image: append 4 KiB, iodepth 32, 4 zones", append_4_zones),
    row!("append-64zones", "image: append 4 KiB, iodepth 32, 64 zones", append_64_zones),
    row!("append-64k", "image: append 64 KiB, iodepth 16, one zone", append_64k),
    row!("sizes", "image: append 64 KiB × 16 against 4 KiB × 32, bytes", sizes),
    row!(
        "handle-d32",
        "image: append 4 KiB by handles under tokio, iodepth 32, one zone",
        handle_d32
    ),
    row!(
        "handle-64zones",
        "image: append 4 KiB by handles under tokio, iodepth 32, 64 zones",
        handle_64_zones
    ),
    row!(
        "handle-10000",
        "image: append 4 KiB by 10 000 tasks under tokio, 64 zones",
        handle_10_000
    ),
    row!(
        "scattered",
        "image: append 4 KiB, iodepth 32, an adopted image's scattered clusters",
        scattered
    ),
    row!("verified", "image: append 4 KiB, iodepth 32, each record read back", verified),
    row!("randread", "image: random read 4 KiB, iodepth 32", randread),
    row!("mem-one", "memory: append 512 bytes, one thread", memory_one),
    row!("mem-two-one", "memory: append 512 bytes, two threads in one zone", memory_two_in_one),
    row!("mem-two-two", "memory: append 512 bytes, two threads in two zones", memory_two_in_two),
    row!("mem-copy-two", "bare copy of 512 bytes, two threads (for reference)", copy_two),
    row!("flush", "image: 64 flushes that wait", flush),
    row!(
        "untorn-native-d1",
        "untorn writes of 16 KiB by the kernel, one at a time",
        untorn_native_one
    ),
    row!(
        "untorn-native-d32",
        "untorn writes of 16 KiB by the kernel, 32 under way",
        untorn_native_many
    ),
    row!("untorn-journal", "untorn writes of 16 KiB by the journal, 32 under way", untorn_journal),
    row!("million", "a million zones of 16 MiB", million),
];

const APPEND: Work = Work { block: 4096, depth: 32, zones: 1 };
const LARGE: Work = Work { block: 64 << 10, depth: 16, zones: 1 };

/// What the rows share.
pub(crate) struct Bench<'a> {
    options: &'a Options,
    folder: TempDir,
    image: Option<ImageDrive>,
    file: Option<PathBuf>,
    size: u64,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(options: &'a Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(&options.dir)?;
        // So much that a run does not come to its end: then nothing is reset within it.
        let gib = options.time.as_secs().clamp(1, 16).next_power_of_two();
        Ok(Self { options, folder, image: None, file: None, size: gib << 30 })
    }

    fn prepare_image(&mut self) -> anyhow::Result<()> {
        if self.image.is_none() {
            let path = self.folder.path().join("figures.qcow2");
            self.image = Some(ImageDrive::create(&path, self.size)?);
        }
        Ok(())
    }

    /// The drive, once it was prepared.
    fn image(&self) -> anyhow::Result<&ImageDrive> {
        self.image.as_ref().context("the image is there")
    }

    /// A plain file of the same size, for the others; every block is written.
    fn prepare_file(&mut self) -> anyhow::Result<PathBuf> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let path = self.folder.path().join("figures.raw");
        let mut file = File::create(&path)?;
        let zeros = vec![0; 4 << 20];
        for _ in 0..self.size / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        // What stays in the page cache would have to be thrown out by the first direct writes.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        self.file = Some(path.clone());
        Ok(path)
    }

    fn compare(
        &self,
        ours: impl Fn(std::time::Duration) -> anyhow::Result<Sample>,
        theirs: impl Fn(std::time::Duration) -> anyhow::Result<Sample>,
    ) -> anyhow::Result<Paired> {
        let Options { time, pairs, .. } = *self.options;
        compare(time, pairs, &mut { ours }, &mut { theirs })
    }

    /// Appends of ours against writes of fio, or reads against reads.
    fn against_fio(&mut self, work: Work, pattern: Pattern) -> anyhow::Result<Paired> {
        ensure!(tools::fio_version().is_some(), "fio is not installed");
        self.prepare_image()?;
        let (file, size) = (self.prepare_file()?, self.size);
        let reads = pattern == Pattern::RandomReads;
        let job = Job { pattern, block: work.block, depth: work.depth };
        let image = self.image()?;
        let ours = |time| if reads { image.read(work, time) } else { image.append(work, time) };
        self.compare(ours, |time| tools::fio(&file, size, job, time))
    }

    /// One way of working on the image against another.
    fn against_itself(&mut self, work: Work, other: Work) -> anyhow::Result<Paired> {
        self.prepare_image()?;
        let image = self.image()?;
        self.compare(|time| image.append(work, time), |time| image.append(other, time))
    }
}

const FIO: [&str; 2] = ["append", "fio"];

fn append_d32(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let paired = bench.against_fio(APPEND, Pattern::Sequential)?;
    let work = "image: append 4 KiB, iodepth 32, one zone";
    Ok(vec![
        Line::ratio(format!("{work}: IOPS over fio's"), "≥ 1.0 ×", &paired, FIO, Sample::rate),
        Line::ratio(format!("{work}: CPU over fio's"), "", &paired, FIO, Sample::cpu_ns_each),
    ])
}

fn append_qemu(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    ensure!(tools::qemu_version().is_some(), "qemu-img is not installed");
    bench.prepare_image()?;
    let file = bench.prepare_file()?;
    let image = bench.image()?;
    // It counts operations, not seconds: as many as take it about as long as ours.
    let most = bench.size / APPEND.block;
    let rate = tools::qemu(&file, APPEND.block, APPEND.depth, most.min(50_000))?.rate();
    let theirs = |time: std::time::Duration| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // far below 2^64
        let operations = ((rate * time.as_secs_f64()) as u64).clamp(1, most);
        tools::qemu(&file, APPEND.block, APPEND.depth, operations)
    };
    let paired = bench.compare(|time| image.append(APPEND, time), theirs)?;
    let work = "image: append 4 KiB, iodepth 32, one zone: IOPS over qemu-img bench's on raw";
    Ok(vec![Line::ratio(work, "aim: 1.0 ×", &paired, ["append", "qemu-img"], Sample::rate)])
}

fn append_d1(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let paired = bench.against_fio(Work { depth: 1, ..APPEND }, Pattern::Sequential)?;
    let work = "image: append 4 KiB, iodepth 1, one zone";
    let goals = ["≤ 1.03 ×", "within fio's noise"];
    Ok(vec![
        Line::ratio(format!("{work}: latency p50 over fio's"), goals[0], &paired, FIO, Sample::p50),
        Line::ratio(format!("{work}: latency p99 over fio's"), goals[1], &paired, FIO, Sample::p99),
    ])
}

fn zones(bench: &mut Bench<'_>, zones: u64) -> anyhow::Result<Vec<Line>> {
    let paired = bench.against_itself(Work { zones, ..APPEND }, APPEND)?;
    let work = format!("image: append 4 KiB, iodepth 32, {zones} zones: IOPS over one zone's");
    let names = [&*format!("{zones} zones"), "one zone"];
    Ok(vec![Line::ratio(work, "≥ 1.0 ×", &paired, names, Sample::rate)])
}

fn append_4_zones(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    zones(bench, 4)
}

fn append_64_zones(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let mut lines = zones(bench, crate::image::ZONES)?;
    // Neighbours in one zone are merged on their way to the device, and 64 zones are not: what
    // that costs is the device's, and fio's random writes have it too.
    let work = Work { zones: crate::image::ZONES, ..APPEND };
    let paired = bench.against_fio(work, Pattern::RandomWrites)?;
    let work = "image: append 4 KiB, iodepth 32, 64 zones: IOPS over fio's random writes";
    lines.push(Line::ratio(work, "≥ 1.0 ×", &paired, FIO, Sample::rate));
    Ok(lines)
}

fn append_64k(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let paired = bench.against_fio(LARGE, Pattern::Sequential)?;
    let work = "image: append 64 KiB, iodepth 16, one zone: IOPS over fio's";
    Ok(vec![Line::ratio(work, "≥ 1.0 ×", &paired, FIO, Sample::rate)])
}

fn sizes(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let paired = bench.against_itself(LARGE, APPEND)?;
    let work = "image: bytes/s of 64 KiB × 16 over 4 KiB × 32";
    Ok(vec![Line::ratio(work, "", &paired, ["64 KiB", "4 KiB"], Sample::bytes_rate)])
}

fn handle_d32(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    by_handles(bench, APPEND, "iodepth 32, one zone", each_awaits(APPEND.depth))
}

fn handle_64_zones(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let work = Work { zones: 64, ..APPEND };
    by_handles(bench, work, "iodepth 32, 64 zones", each_awaits(APPEND.depth))
}

/// The queue has as many under way as the handles let through at a time.
fn handle_10_000(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    bench.prepare_image()?;
    let depth = bench.image()?.device.limits().operations_max;
    let work = Work { zones: 64, depth, ..APPEND };
    let mut lines = by_handles(bench, work, "64 zones, 10 000 tasks", each_awaits(10_000))?;
    let dropping = Tasks { count: 10_000, drop_half: true };
    lines.extend(by_handles(bench, work, "64 zones, 10 000 tasks, half dropped", dropping)?);
    Ok(lines)
}

fn each_awaits(count: u32) -> Tasks {
    Tasks { count, drop_half: false }
}

fn by_handles(
    bench: &mut Bench<'_>,
    work: Work,
    said: &str,
    tasks: Tasks,
) -> anyhow::Result<Vec<Line>> {
    bench.prepare_image()?;
    let image = bench.image()?;
    let paired = bench.compare(
        |time| handles::append(image, work, tasks, time),
        |time| image.append(work, time),
    )?;
    let name = format!("image: append 4 KiB, {said}, handles under tokio");
    let sides = ["handles", "queue"];
    Ok(vec![
        Line::ratio(
            format!("{name}: IOPS over a queue's"),
            "≥ 0.8 ×",
            &paired,
            sides,
            Sample::rate,
        ),
        Line::ratio(format!("{name}: CPU over a queue's"), "", &paired, sides, Sample::cpu_ns_each),
    ])
}

/// An image of another making, with zones, against one of ours.
fn scattered(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    bench.prepare_image()?;
    let adopted = ImageDrive::adopted(&bench.folder.path().join("adopted.qcow2"), bench.size)?;
    let image = bench.image()?;
    let names = ["adopted", "ours"];
    let mut lines = Vec::new();
    for (work, said) in [(APPEND, "4 KiB, iodepth 32"), (LARGE, "64 KiB, iodepth 16")] {
        let paired =
            bench.compare(|time| adopted.append(work, time), |time| image.append(work, time))?;
        let work = format!("image: append {said}, scattered clusters of 64 KiB over one piece");
        lines.push(Line::ratio(work, "", &paired, names, Sample::rate));
    }
    Ok(lines)
}

fn verified(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    bench.prepare_image()?;
    let image = bench.image()?;
    let paired = bench
        .compare(|time| image.append_verified(APPEND, time), |time| image.append(APPEND, time))?;
    let work = "image: append 4 KiB, iodepth 32, each read back and compared, over appends alone";
    Ok(vec![Line::ratio(work, "shown", &paired, ["verified", "append"], Sample::rate)])
}

fn randread(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    bench.prepare_image()?;
    bench.image()?.fill()?;
    let paired = bench.against_fio(APPEND, Pattern::RandomReads)?;
    let work = "image: random read 4 KiB, iodepth 32: IOPS over fio's";
    Ok(vec![Line::ratio(work, "≥ 0.97 ×", &paired, ["read", "fio"], Sample::rate)])
}

fn memory_one(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let drive = memory::drive()?;
    let paired =
        bench.compare(|time| memory::append(&drive, &[0], time), |time| memory::copy(1, time))?;
    let Spread { median, min, max } =
        paired.spread(|append, copy| append.cpu_ns_each() - copy.cpu_ns_each());
    let [append, copy] = [true, false].map(|ours| paired.typical(ours).text());
    Ok(vec![Line::plain(
        "memory: append 512 bytes, one thread: CPU over the bare copy's",
        "≤ 100 ns",
        format!("{median:.0} ns ({min:.0}–{max:.0})"),
        format!("append: {append}; copy: {copy}"),
    )])
}

fn memory_two(bench: &mut Bench<'_>, zones: [u32; 2], goal: &str) -> anyhow::Result<Vec<Line>> {
    let drive = memory::drive()?;
    let paired = bench.compare(
        |time| memory::append(&drive, &zones, time),
        |time| memory::append(&drive, &[0], time),
    )?;
    let places = if zones[0] == zones[1] { "one zone" } else { "two zones" };
    let work = format!("memory: append 512 bytes, two threads in {places} over one thread");
    Ok(vec![Line::ratio(work, goal, &paired, ["two", "one"], Sample::rate)])
}

fn memory_two_in_one(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    memory_two(bench, [0, 0], "≥ 0.8 ×")
}

fn memory_two_in_two(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    memory_two(bench, [0, 1], "≥ 1.6 ×")
}

fn copy_two(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let paired = bench.compare(|time| memory::copy(2, time), |time| memory::copy(1, time))?;
    let work = "bare copy of 512 bytes, two threads over one: what the machine gives";
    Ok(vec![Line::ratio(work, "", &paired, ["two", "one"], Sample::rate)])
}

/// Time that each operation takes, all of those under way together.
fn seconds_each(sample: &Sample) -> f64 {
    1.0 / sample.rate()
}

fn untorn_native_one(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let xfs = untorn::Xfs::new(bench.folder.path())?;
    untorn::fill(&xfs.file())?;
    let file = untorn::open(&xfs.file(), AtomicPath::Native)?;
    let paired = bench.compare(
        |time| untorn::ours_one(&file, time),
        |time| untorn::bare_one(&xfs.file(), time),
    )?;
    let work = "XFS: untorn 16 KiB by the kernel, one at a time: time over a bare pwritev2 loop's";
    let p50 = "XFS: untorn 16 KiB by the kernel, one at a time: latency p50 over a bare loop's";
    let names = ["zonal", "bare"];
    Ok(vec![
        Line::ratio(work, "≤ 1.03 ×", &paired, names, seconds_each),
        Line::ratio(p50, "", &paired, names, Sample::p50),
    ])
}

fn untorn_native_many(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let xfs = untorn::Xfs::new(bench.folder.path())?;
    untorn::fill(&xfs.file())?;
    let file = untorn::open(&xfs.file(), AtomicPath::Native)?;
    let paired = bench.compare(
        |time| untorn::ours_many(&file, time),
        |time| untorn::bare_many(&xfs.file(), time),
    )?;
    let work = "XFS: untorn 16 KiB by the kernel, 32 under way: time over a bare io_uring loop's";
    Ok(vec![Line::ratio(work, "≤ 1.03 ×", &paired, ["zonal", "bare"], seconds_each)])
}

fn untorn_journal(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let [path, other] = ["units", "pages"].map(|name| bench.folder.path().join(name));
    untorn::fill(&path)?;
    untorn::fill(&other)?;
    let file = untorn::open(&path, AtomicPath::Journal)?;
    let paired =
        bench.compare(|time| untorn::ours_many(&file, time), |time| untorn::twice(&other, time))?;
    let work = "untorn 16 KiB by the journal, 32 under way, durable: time over writing twice";
    Ok(vec![Line::ratio(work, "≤ 0.5 ×", &paired, ["zonal", "twice"], seconds_each)])
}

/// Counts, not times: how much the flushes share.
fn flush(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    bench.prepare_image()?;
    let drive = &bench.image()?.device;
    let mut lines = Vec::new();
    for threads in [1, 8] {
        append_some(drive)?;
        let before = drive.metrics();
        let start = Instant::now();
        flush_from(drive, threads, 64 / threads)?;
        let (took, after) = (start.elapsed(), drive.metrics());
        let measured = format!(
            "{} data syncs, {} table writes, {} rounds",
            after.data_syncs - before.data_syncs,
            after.table_writes - before.table_writes,
            after.flush_rounds - before.flush_rounds
        );
        let goal = if threads == 1 { "1 and 1" } else { "" };
        let work = format!("image: 64 flushes that wait, from {threads} threads");
        let behind = format!("{:.1} ms together", took.as_secs_f64() * 1e3);
        lines.push(Line::plain(work, goal, measured, behind));
    }
    Ok(lines)
}

/// So that there is something to flush.
fn append_some(drive: &Device) -> anyhow::Result<()> {
    let mut queue = drive.queue(&QueueOptions::default())?;
    let zone = drive
        .report(..)?
        .iter()
        .find(|zone| zone.write_pointer == Some(zone.start))
        .map(|zone| zone.zone);
    if zone.is_none() {
        queue.push(Request::reset_all())?;
        queue.submit_and_wait(1)?;
        queue.next_completion().context("it was waited for")?.result?;
    }
    for _ in 0..32 {
        let record = queue.buffer(4096).context("a fresh queue has buffers")?;
        queue.push(Request::append(zone.unwrap_or(0), record))?;
    }
    queue.submit_and_wait(32)?;
    while let Some(completion) = queue.next_completion() {
        completion.result?;
    }
    Ok(())
}

fn flush_from(drive: &Device, threads: usize, each: usize) -> anyhow::Result<()> {
    let barrier = Barrier::new(threads);
    let work = || -> anyhow::Result<()> {
        let options = QueueOptions { buffer_bytes: 0, ..QueueOptions::default() };
        let mut queue = drive.queue(&options)?;
        barrier.wait();
        for _ in 0..each {
            queue.push(Request::flush()).map_err(|full| anyhow::anyhow!("{full}"))?;
        }
        queue.submit_and_wait(each)?;
        while let Some(completion) = queue.next_completion() {
            completion.result?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it did not panic"))
    })
}

/// A million zones: how long a drive takes to open, and what it takes of memory.
fn million(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Line>> {
    let (zones, zone_size) = (1_000_000_u64, 16_u64 << 20);
    let path = bench.folder.path().join("million.qcow2");
    let geometry =
        Geometry { zone_size, zone_capacity: zone_size, ..Geometry::with_size(zones * zone_size) };
    let options = CreateOptions {
        geometry: geometry.clone(),
        preallocate: Preallocate::Off,
        force: true,
        progress: None,
    };
    let start = Instant::now();
    let image = match zonal::create(&path, options) {
        Ok(()) => {
            let created = start.elapsed().as_secs_f64();
            let mut lines = large(bench, "an image", &Target::Path(path.clone()), zones)?;
            lines.push(image_after_use(&path, created)?);
            lines
        }
        Err(error) => vec![Line::skip("a million zones in an image", "", error.to_string())],
    };
    let memory = large(bench, "memory", &Target::Memory(geometry), zones).unwrap_or_else(|error| {
        vec![Line::skip("a million zones in memory", "", error.to_string())]
    });
    Ok(image.into_iter().chain(memory).collect())
}

fn large(bench: &Bench<'_>, kind: &str, target: &Target, zones: u64) -> anyhow::Result<Vec<Line>> {
    let (mut opened, mut reported, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.pairs {
        let before = system::resident_bytes()?;
        let start = Instant::now();
        let drive = zonal::open(target, &OpenOptions::default())?;
        opened.push(start.elapsed().as_secs_f64());
        bytes.push(count(system::resident_bytes()?.saturating_sub(before)) / count(zones));
        let start = Instant::now();
        ensure!(drive.report(..)?.len() as u64 == zones, "a report without all zones");
        reported.push(start.elapsed().as_secs_f64());
        drive.close()?;
    }
    let line = |what: &str, goal: &str, unit: &str, values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let [min, median, max] = [0, values.len() / 2, values.len() - 1].map(|n| values[n]);
        let measured = format!("{median:.3} {unit} ({min:.3}–{max:.3})");
        Line::plain(format!("a million zones in {kind}: {what}"), goal, measured, "")
    };
    Ok(vec![
        line("open", "< 1 s", "s", &mut opened),
        line("full report", "< 0.2 s", "s", &mut reported),
        line("resident memory", "≤ 32 bytes a zone", "bytes a zone", &mut bytes),
    ])
}

/// What the image takes of the disk.
fn image_after_use(path: &Path, created: f64) -> anyhow::Result<Line> {
    use std::os::unix::fs::MetadataExt;
    let on_disk = std::fs::metadata(path)?.blocks() * 512;
    let measured = format!("created in {created:.3} s, {}B on disk", thousands(count(on_disk)));
    Ok(Line::plain("a million zones in an image: its file", "", measured, ""))
}
