//! `zonal append`: files become records, and each record's line says where it landed.
//!
//! Data's way: an input is read straight into leased buffers (`input`), a buffer goes to the zone
//! whose turn it is (`rota`), its completion becomes a line. Lines are written out before the queue
//! waits again, so whoever reads them is never behind by more than what is in flight.
//!
//! However it ends (end of input, drive full, an error, a signal), what is in flight is waited for,
//! its lines are written, and it is flushed.

mod input;
mod resume;
mod rota;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, BufWriter, StdoutLock, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use zonal::{Completion, Device, Queue, QueueOptions, Request};

use self::{
    input::{Cut, Cutter, Progress as Input, name_of},
    resume::{Piece, Resume},
    rota::{Rota, Turn},
};
use crate::{
    args::{Access, Size, TargetArg, WriteAccess, ZoneRange, format_size},
    outcome::Outcome,
    output::{Progress, Ui, format_rate, format_seconds, plural},
    own,
    records::{DriveId, Format, Line},
    signals::Interrupt,
    transfer,
    zones::Candidates,
};

/// Zones that take turns where none are named: as many as devices gain from, and no more than that become active.
const ZONES_AT_A_TIME: usize = 4;

/// The words of `append`.
#[derive(Args, Debug)]
pub(crate) struct AppendArgs {
    #[command(flatten)]
    target: TargetArg,
    /// What to append; - is stdin. Each file starts a new record
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// Into these zones only: N, A..B, A..=B, A.. or ..B [default: four at a time of all that can take data]
    #[arg(long, value_name = "RANGE")]
    zones: Option<ZoneRange>,
    /// Cut the input into records of this size; only a file's last one may be shorter
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    record: Size,
    /// How many records are in flight at once
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(zonal::DEPTH_MAX)))]
    iodepth: u32,
    /// Keep the records' order on the drive: one zone at a time
    #[arg(long)]
    ordered: bool,
    /// Go on with the same inputs after what this index acknowledges
    #[arg(long, value_name = "INDEX")]
    resume: Option<PathBuf>,
    /// Print the lines as CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    access: WriteAccess,
}

impl AppendArgs {
    fn format(&self, ui: &Ui) -> Format {
        match (ui.json, self.csv) {
            (true, _) => Format::Json,
            (false, true) => Format::Csv,
            (false, false) => Format::Text,
        }
    }

    /// Refuses inputs that are the drive's own files, or that what is printed goes to.
    fn hold_against_files(&self) -> Result<()> {
        let own = self.target.own_files();
        for file in &self.files {
            own.refuse_input(file)?;
            ensure!(
                !own::is_stdout(file),
                "{}: the lines that are printed go into it, too; redirect them to another file",
                name_of(file)
            );
        }
        if let Some(index) = &self.resume {
            own.refuse_input(index)?;
            ensure!(
                index != Path::new("-") || !self.files.iter().any(|file| file == index),
                "stdin cannot be the index and an input; name one of them"
            );
        }
        Ok(())
    }

    /// The record size held against the drive's limits.
    fn record_bytes(&self, device: &Device) -> Result<usize> {
        let (record, limits) = (self.record.0, device.limits());
        let block = u64::from(limits.block_size);
        ensure!(
            record > 0 && record.is_multiple_of(block),
            "--record {}: not a multiple of the block size of {}, {}",
            self.record,
            device.name(),
            format_size(block)
        );
        ensure!(
            self.ordered || record <= limits.append_bytes_max,
            "--record {}: over the append limit of {}, {}; take smaller records, or --ordered",
            self.record,
            device.name(),
            format_size(limits.append_bytes_max)
        );
        ensure!(
            record <= device.geometry().zone_capacity,
            "--record {}: no zone of {} holds more than {}",
            self.record,
            device.name(),
            format_size(device.geometry().zone_capacity)
        );
        Ok(usize::try_from(record)?)
    }

    /// How many bytes the inputs hold, where that can be known.
    fn total(&self) -> Option<u64> {
        self.files
            .iter()
            .map(|path| path.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len()))
            .sum()
    }
}

/// Runs `append`.
pub(crate) fn run(args: &AppendArgs, ui: &Ui) -> Result<Outcome> {
    let format = args.format(ui);
    args.hold_against_files()?;
    let interrupt = Interrupt::install()?;
    let resume = args.resume.as_deref().map(Resume::read).transpose()?;
    if let Some(resume) = &resume {
        resume.hold_against_output(format)?;
    }
    let device = args.target.open(Access::from(&args.access), ui)?;
    let record_bytes = args.record_bytes(&device)?;
    if let Some(resume) = &resume {
        resume.hold_against(&device, &args.files, record_bytes as u64)?;
    }
    let candidates = Candidates::of(&device, args.zones.as_ref())?;
    candidates.hold_some(&device)?;
    let width = match (args.ordered, &args.zones) {
        (true, _) => 1,
        (false, Some(_)) => candidates.max_open,
        (false, None) => candidates.max_open.min(ZONES_AT_A_TIME),
    };
    let block = device.limits().block_size as usize;
    let cutter = Cutter::new(args.files.clone(), record_bytes, block);
    // What is being read needs buffers beside those in flight.
    let depth = (args.iodepth + u32::try_from(cutter.batch())?).min(zonal::DEPTH_MAX);
    let options = QueueOptions { depth, buffer_bytes: record_bytes, ..Default::default() };
    let resume = match resume {
        Some(resume) => {
            resume.end_with_a_whole_line(ui)?;
            resume
        }
        None => Resume::default(),
    };
    let with_files = args.files.len() > 1 || resume.names_files();
    let mut appender = Appender {
        queue: device.queue(&options)?,
        device: &device,
        drive: DriveId::of(&device),
        cutter,
        resume,
        rota: Rota::new(&candidates, width),
        finish: device.limits().finish,
        ordered: args.ordered,
        depth: args.iodepth as usize,
        slots: Slots::new(depth as usize),
        lines: Lines::new(format, args.files.clone(), with_files),
        failed: None,
        appended: Appended::default(),
        lives: BTreeMap::new(),
        progress: ui.progress(args.total()),
    };
    let (started, name) = (Instant::now(), device.name().to_owned());
    let outcome = appender.append_all(&interrupt);
    let settled = appender.settle();
    let end = End {
        outcome,
        settled,
        lost: appender.lost(),
        failed: appender.failed.take(),
        appended: appender.appended,
        elapsed: started.elapsed(),
    };
    drop(appender);
    end.tell(&name, device.close(), ui)
}

/// How it ended.
struct End {
    outcome: Result<Outcome>,
    settled: Result<()>,
    /// Records that another program's resets have cost, by zone.
    lost: BTreeMap<u32, u64>,
    failed: Option<Failure>,
    appended: Appended,
    elapsed: Duration,
}

impl End {
    /// Says so, with the drive closed.
    fn tell(self, name: &str, closed: zonal::Result<()>, ui: &Ui) -> Result<Outcome> {
        let Self { outcome, settled, lost, failed, appended, elapsed } = self;
        let Appended { records, bytes } = appended;
        let lost = (!lost.is_empty()).then(|| reset_by_another(name, &lost));
        let fails = failed.is_some() || outcome.is_err() || settled.is_err() || closed.is_err();
        if let Some(lost) = lost.as_ref().filter(|_| fails) {
            ui.say(lost);
        }
        // The cause before what follows from it.
        if let Some(Failure { record, error }) = failed {
            let text = format!("record {record} is the first that was not written");
            return Err(error.context(text));
        }
        if outcome.is_err() && records > 0 {
            let records = plural(usize::try_from(records)?, "record");
            ui.say(format_args!("stopped with {records} acknowledged; --resume INDEX goes on"));
        }
        let outcome = outcome?;
        settled?;
        closed?;
        if let Some(lost) = lost {
            return Err(lost);
        }
        ui.say(format_args!(
            "{}, {} in {} ({}); flushed",
            plural(usize::try_from(records)?, "record"),
            plural(usize::try_from(bytes)?, "byte"),
            format_seconds(elapsed),
            format_rate(bytes as f64 / elapsed.as_secs_f64().max(1e-9)),
        ));
        Ok(outcome)
    }
}

/// What another program's resets have cost: records, by zone.
fn reset_by_another(name: &str, lost: &BTreeMap<u32, u64>) -> anyhow::Error {
    let zones: Vec<String> = lost
        .iter()
        .map(|(zone, records)| format!("zone {zone}, with {records} or more of these records"))
        .collect();
    anyhow!(
        "{name}: another program has meanwhile reset {}; what of the index is still there zonal cat tells, the \
         rest is to be appended again",
        zones.join(", ")
    )
}

/// What was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Appended {
    records: u64,
    /// Without padding.
    bytes: u64,
}

/// Why the loop stopped short.
struct Failure {
    /// The first record that was not written.
    record: u64,
    error: anyhow::Error,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
enum InFlight {
    Record { record: u64, input: usize, input_offset: u64, length: usize, zone: u32, place: usize },
    Finish { zone: u32, place: usize },
}

/// The requests in flight by tag; never more than it was made for.
struct Slots {
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
}

impl Slots {
    fn new(count: usize) -> Self {
        Self { slots: vec![None; count], free: (0..count).rev().collect() }
    }

    fn put(&mut self, request: InFlight) -> Result<u64> {
        let at = self.free.pop().context("more requests in flight than slots")?;
        self.slots[at] = Some(request);
        Ok(at as u64)
    }

    fn take(&mut self, tag: u64) -> Result<InFlight> {
        let at = usize::try_from(tag)?;
        let request = self.slots.get_mut(at).and_then(Option::take);
        self.free.push(at);
        request.with_context(|| format!("a completion names tag {tag}, which is not in flight"))
    }
}

/// The lines on stdout. The first error stops them for good, but not the draining.
struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
    inputs: Vec<PathBuf>,
    with_files: bool,
    headed: bool,
    error: Option<io::Error>,
}

impl Lines {
    fn new(format: Format, inputs: Vec<PathBuf>, with_files: bool) -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        Self { out, format, inputs, with_files, headed: false, error: None }
    }

    /// Writes the line of a record cut from `input`.
    fn write(&mut self, line: Line<'_>, input: usize, input_offset: u64) {
        if self.error.is_none() {
            self.error = self.try_write(line, input, input_offset).err();
        }
    }

    fn try_write(&mut self, line: Line<'_>, input: usize, input_offset: u64) -> io::Result<()> {
        if !self.headed {
            self.format.write_header(&mut self.out, self.with_files)?;
            self.headed = true;
        }
        if self.with_files {
            let file = Some(Cow::Borrowed(self.inputs[input].as_os_str().as_bytes()));
            let line = Line { file, file_offset: Some(input_offset), ..line };
            return self.format.write_line(&mut self.out, &line);
        }
        self.format.write_line(&mut self.out, &line)
    }

    fn flush(&mut self) {
        if self.error.is_none() {
            self.error = self.out.flush().err();
        }
    }
}

/// How far the loop can go on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fed {
    /// Nothing more can be pushed before something completes, or more input comes.
    Waiting,
    /// Everything was pushed.
    End,
}

/// The loop's state.
struct Appender<'a> {
    // Before the queue, so that its buffers go back while the queue is there.
    cutter: Cutter,
    queue: Queue,
    device: &'a Device,
    drive: Option<DriveId>,
    resume: Resume,
    rota: Rota,
    /// Whether zones that cannot take the next record are finished.
    finish: bool,
    ordered: bool,
    depth: usize,
    slots: Slots,
    lines: Lines,
    failed: Option<Failure>,
    appended: Appended,
    /// How many records went to each life of a zone.
    lives: BTreeMap<(u32, u32), u64>,
    progress: Progress,
}

impl Appender<'_> {
    /// Appends until the inputs end, or something stops it. Requests may be left in flight.
    fn append_all(&mut self, interrupt: &Interrupt) -> Result<Outcome> {
        loop {
            let fed = self.feed(interrupt)?;
            if let Some(signal) = interrupt.signal() {
                return Ok(Outcome::Interrupted(signal));
            }
            if self.queue.in_flight() == 0 && fed == Fed::End {
                return Ok(Outcome::Done);
            }
            self.wait()?;
            if let Some(error) = self.lines.error.take() {
                // Put back at once: no line may follow the one that failed.
                self.lines.error = Some(error.kind().into());
                return Err(error).context("writing to stdout");
            }
            if self.failed.is_some() {
                return Ok(Outcome::Done);
            }
        }
    }

    /// Pushes records while the queue has room and the input has bytes.
    fn feed(&mut self, interrupt: &Interrupt) -> Result<Fed> {
        while self.queue.in_flight() < self.depth && !interrupt.came() {
            if let Some(padded) = self.cutter.next_padded() {
                if !self.place(padded)? {
                    return Ok(Fed::Waiting);
                }
                continue;
            }
            // What was cut so far goes on its way while the next read runs.
            self.queue.submit()?;
            let idle = self.queue.in_flight() == 0;
            if idle {
                self.lines.flush();
            }
            match self.cutter.read(&mut self.queue, idle)? {
                Input::Read => {}
                Input::NotReady if idle => {}
                Input::NotReady | Input::NoBuffer => return Ok(Fed::Waiting),
                Input::End => return Ok(Fed::End),
            }
        }
        Ok(Fed::Waiting)
    }

    /// Finds the next record a zone. False: something must complete first.
    fn place(&mut self, padded: usize) -> Result<bool> {
        let (record, input, input_offset) = self.cutter.position();
        let piece = Piece {
            input: &self.cutter.paths()[input],
            offset: input_offset,
            length: self.cutter.next_length().unwrap_or_default() as u64,
        };
        if self.resume.acknowledged(record, piece)? {
            self.cutter.take().context("a record is gone")?;
            return Ok(true);
        }
        match self.rota.next(padded as u64) {
            Turn::Wait => Ok(false),
            Turn::Finish { place, .. } if !self.finish => {
                self.rota.done(place);
                Ok(true)
            }
            Turn::Finish { place, zone } => {
                let tag = self.slots.put(InFlight::Finish { zone, place })?;
                transfer::push(&mut self.queue, Request::finish(zone).tag(tag))?;
                Ok(true)
            }
            Turn::Append { place, zone } => {
                let cut = self.cutter.take().context("a record is gone")?;
                self.append(cut, place, zone)?;
                Ok(true)
            }
            Turn::Full => {
                let name = name_of(&self.cutter.paths()[input]);
                Err(anyhow!(
                    "{}: drive full: record {record} (byte {input_offset} of {name}) is the first \
                     that was not written; reset zones, name others with --zones, or use a larger \
                     drive",
                    self.device.name()
                ))
            }
        }
    }

    fn append(&mut self, cut: Cut, place: usize, zone: u32) -> Result<()> {
        let Cut { record, input, input_offset, length, buffer } = cut;
        let tag = self.slots.put(InFlight::Record {
            record,
            input,
            input_offset,
            length,
            zone,
            place,
        })?;
        let request = if self.ordered {
            Request::append_ordered(zone, buffer)
        } else {
            Request::append(zone, buffer)
        };
        transfer::push(&mut self.queue, request.tag(tag))
    }

    /// Writes the lines out, waits for a completion, and turns all that there are into lines.
    fn wait(&mut self) -> Result<()> {
        self.lines.flush();
        self.queue.submit_and_wait(1)?;
        while let Some(completion) = self.queue.next_completion() {
            self.complete(completion)?;
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion) -> Result<()> {
        let Completion { tag, result, offset, .. } = completion;
        match self.slots.take(tag)? {
            InFlight::Finish { zone, place } => {
                self.rota.done(place);
                if let Err(error) = result {
                    let error = anyhow!(error).context(format!("finishing zone {zone}"));
                    let (record, ..) = self.cutter.position();
                    self.fail(record, error);
                }
            }
            InFlight::Record { record, input, input_offset, length, zone, place } => {
                self.rota.done(place);
                match result {
                    Err(error) => self.fail(record, error.into()),
                    Ok(_) => {
                        let length = length as u64;
                        self.appended.records += 1;
                        self.appended.bytes += length;
                        self.progress.step(length);
                        let (generation, drive) = (self.device.generation(zone), self.drive);
                        if let Some(generation) = generation {
                            *self.lives.entry((zone, generation)).or_default() += 1;
                        }
                        let (file, file_offset) = (None, None);
                        let line = Line {
                            record,
                            zone,
                            offset,
                            length,
                            file,
                            file_offset,
                            generation,
                            drive,
                        };
                        self.lines.write(line, input, input_offset);
                    }
                }
            }
        }
        Ok(())
    }

    /// How many records went to lives of zones that are over by now. Nothing here ends one.
    fn lost(&self) -> BTreeMap<u32, u64> {
        let mut lost = BTreeMap::new();
        for (&(zone, generation), records) in &self.lives {
            if self.device.generation(zone) != Some(generation) {
                *lost.entry(zone).or_default() += records;
            }
        }
        lost
    }

    /// Keeps the failure of the lowest record.
    fn fail(&mut self, record: u64, error: anyhow::Error) {
        if self.failed.as_ref().is_none_or(|failed| record < failed.record) {
            self.failed = Some(Failure { record, error });
        }
    }

    /// Waits for what is in flight and flushes.
    fn settle(&mut self) -> Result<()> {
        while self.queue.in_flight() > 0 {
            self.wait()?;
        }
        self.lines.flush();
        transfer::flush(&mut self.queue)?;
        match self.lines.error.take() {
            Some(error) => Err(error).context("writing to stdout"),
            None => Ok(()),
        }
    }
}
