//! `zonal restore`: a dump back onto an empty drive of the same shape.
//!
//! A dump in a file is read to its end and checked before anything is changed; one that comes
//! through a pipe is checked as it comes. What the dump leaves out of a zone is written as zeros, so
//! that the write pointers come out as they were.

mod stream;

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use zonal::{Completion, Device, Geometry, Queue, QueueOptions, Request, ZoneIndex, ZoneState};
use zonal_core::format::dump::{Frame, Header};

use self::stream::Stream;
use super::dump::{Counts, is_zero};
use crate::{
    args::{Access, TargetArg, WriteAccess, format_size},
    outcome::Outcome,
    output::{Progress, Ui, plural, print_json},
    signals::Interrupt,
    transfer::{self, PIECE, PIECES, Span},
    zones,
};

/// The words of `restore`.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    target: TargetArg,
    /// The dump; - is stdin
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Erase first what the drive holds
    #[arg(long)]
    force: bool,
    /// Do not ask before --force erases
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    access: WriteAccess,
}

/// Runs `restore`.
pub(crate) fn run(args: &RestoreArgs, ui: &Ui) -> Result<Outcome> {
    args.target.own_files().refuse_input(&args.file)?;
    let interrupt = Interrupt::install()?;
    let name = if args.file == Path::new("-") {
        "stdin".to_owned()
    } else {
        args.file.display().to_string()
    };
    let mut stream = Stream::begin(input(&args.file, &name)?, &name)?;
    let device = args.target.open(Access::from(&args.access), ui)?;
    hold_against(stream.header(), &device, &name)?;
    let held = Held::on(&device)?;
    held.agree(args, &device, ui)?;
    held.erase(&device)?;
    let mut progress = ui.progress(None);
    let restored = restore(&mut stream, &device, &interrupt, &mut progress);
    drop(progress);
    if restored.is_err() || interrupt.came() {
        ui.say(format_args!(
            "{}: it holds a part of the dump; --force begins anew",
            args.target.target
        ));
    }
    let closed = device.close();
    // The cause before what follows from it.
    let counts = restored?;
    closed?;
    if let Some(signal) = interrupt.signal() {
        return Ok(Outcome::Interrupted(signal));
    }
    if ui.json {
        print_json(io::stdout().lock(), &counts)?;
    } else {
        counts.say(ui, &args.target.target, "restored; flushed");
    }
    Ok(Outcome::Done)
}

/// The dump at its beginning. A file is checked whole; of a pipe there is only one chance.
fn input(path: &Path, name: &str) -> Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let mut file = File::open(path).with_context(|| name.to_owned())?;
    let meta = file.metadata()?;
    ensure!(!meta.is_dir(), "{name}: it is a folder; name a file");
    if meta.is_file() {
        let mut stream = Stream::begin(BufReader::with_capacity(1 << 20, &file), name)?;
        while stream.next()?.is_some() {}
        file.rewind()?;
    }
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// Refuses a dump of a drive with another shape.
fn hold_against(header: &Header, device: &Device, dump: &str) -> Result<()> {
    let (old, new) = (&header.geometry, device.geometry());
    let pairs = [
        ("size", old.size, new.size),
        ("zone-size", old.zone_size, new.zone_size),
        ("zone-capacity", old.zone_capacity, new.zone_capacity),
        ("conventional-zones", old.conventional_zones.into(), new.conventional_zones.into()),
        ("block-size", old.block_size.into(), new.block_size.into()),
    ];
    for (name, old, new) in pairs {
        if old != new {
            bail!(
                "{}: its {name} is {}, and that of {dump} is {}; restore to a drive made with: \
                 zonal create PATH {}",
                device.name(),
                format_size(new),
                format_size(old),
                words_of(&header.geometry)
            );
        }
    }
    let limit = device.limits().max_active_zones;
    ensure!(
        limit.is_none_or(|limit| header.active_zones <= limit),
        "{}: it has at most {} active zones, and {dump} has {}; finish some before the dump, or \
         restore to a drive made with: zonal create PATH {}",
        device.name(),
        limit.unwrap_or_default(),
        header.active_zones,
        words_of(&header.geometry)
    );
    Ok(())
}

/// The words of `create` that make a drive of this shape.
fn words_of(geometry: &Geometry) -> String {
    let Geometry { size, zone_size, zone_capacity, .. } = *geometry;
    let mut words = format!("--size {} --zone-size {}", format_size(size), format_size(zone_size));
    let mut add = |name: &str, value: u64, usual: u64| {
        if value != usual {
            words.push_str(&format!(" --{name} {}", format_size(value)));
        }
    };
    add("zone-capacity", zone_capacity, zone_size);
    add("conventional-zones", geometry.conventional_zones.into(), 0);
    add("max-open-zones", geometry.max_open_zones.into(), 0);
    add("max-active-zones", geometry.max_active_zones.into(), 0);
    add("block-size", geometry.block_size.into(), 4096);
    add("max-append", geometry.max_append.into(), (1 << 20).min(zone_capacity));
    words
}

/// What the drive holds before.
#[derive(Debug, Default)]
struct Held {
    /// Sequential zones that are not empty.
    sequential: Vec<u32>,
    /// Conventional zones with anything but zeros.
    conventional: Vec<u32>,
    /// The first zone that cannot be emptied.
    stuck: Option<(u32, ZoneState)>,
}

impl Held {
    fn on(device: &Device) -> Result<Self> {
        let mut held = Self::default();
        for zone in device.report(..)? {
            match zone.state {
                ZoneState::Empty => {}
                ZoneState::NotWp => {
                    let span = Span { offset: zone.start, length: zone.capacity };
                    if !reads_zeros(device, span)? {
                        held.conventional.push(zone.zone);
                    }
                }
                ZoneState::ImplicitlyOpen
                | ZoneState::ExplicitlyOpen
                | ZoneState::Closed
                | ZoneState::Full => held.sequential.push(zone.zone),
                ZoneState::ReadOnly | ZoneState::Offline => {
                    held.stuck.get_or_insert((zone.zone, zone.state));
                }
            }
        }
        Ok(held)
    }

    fn count(&self) -> usize {
        self.sequential.len() + self.conventional.len()
    }

    /// Whether it may be erased, if there is anything.
    fn agree(&self, args: &RestoreArgs, device: &Device, ui: &Ui) -> Result<()> {
        let name = device.name();
        if let Some((zone, state)) = self.stuck {
            let state = zones::state_word(state);
            bail!("{name}: zone {zone} is {state} and cannot be emptied; name another drive");
        }
        if self.count() == 0 {
            return Ok(());
        }
        let count = plural(self.count(), "zone");
        ensure!(
            args.force,
            "{name}: it is not empty ({count}); name an empty drive, or erase this one with --force"
        );
        if args.yes {
            return Ok(());
        }
        ensure!(
            ui.can_ask(),
            "{name}: --force erases, and nobody is there to be asked; say --yes to do it"
        );
        let question = format!("erase {count} of {name} before the dump is restored?");
        ensure!(ui.ask(question)?, "nothing was done");
        Ok(())
    }

    fn erase(&self, device: &Device) -> Result<()> {
        if self.count() == 0 {
            return Ok(());
        }
        let mut queue = transfer::small_queue(device)?;
        for &zone in &self.sequential {
            transfer::run_one(&mut queue, Request::reset(zone))?.result?;
        }
        drop(queue);
        let mut writer = Writer::new(device)?;
        for &zone in &self.conventional {
            let geometry = device.geometry();
            let start = geometry.start_of(ZoneIndex(zone));
            writer.zeros(start, start + geometry.capacity_of(ZoneIndex(zone)))?;
        }
        writer.drain()
    }
}

/// Whether a span of the drive reads as zeros throughout.
fn reads_zeros(device: &Device, span: Span) -> Result<bool> {
    /// Says by an error that it has seen enough.
    struct Zeros(bool);
    impl Write for Zeros {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 &= is_zero(bytes);
            if self.0 { Ok(bytes.len()) } else { Err(io::ErrorKind::Other.into()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut zeros = Zeros(true);
    let mut progress = Progress::new(None, false);
    match transfer::copy_out(device, [span], span.length, &mut zeros, &mut progress) {
        Err(error) if zeros.0 => Err(error),
        Ok(_) | Err(_) => Ok(zeros.0),
    }
}

/// Writes what the frames say; stops between two of them when a signal comes.
fn restore(
    stream: &mut Stream<impl Read>,
    device: &Device,
    interrupt: &Interrupt,
    progress: &mut Progress,
) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut writer = Writer::new(device)?;
    let mut zone = None;
    while !interrupt.came() {
        match stream.next()? {
            None => break,
            Some(Frame::Zone { zone: number, state, written }) => {
                finish_zone(&mut writer, zone.take())?;
                zone = Some(Zone::new(device, number, state, written));
                counts.zones += 1;
            }
            Some(Frame::Data { offset, length, .. }) => {
                let zone = zone.as_mut().context("data without a zone")?;
                zone.write(&mut writer, offset, stream.data())?;
                counts.bytes += u64::from(length);
                progress.step(length.into());
            }
            Some(Frame::End { .. }) => finish_zone(&mut writer, zone.take())?,
        }
    }
    writer.drain()?;
    transfer::flush(&mut writer.queue)?;
    Ok(counts)
}

fn finish_zone(writer: &mut Writer<'_>, zone: Option<Zone>) -> Result<()> {
    zone.map_or(Ok(()), |zone| zone.finish(writer))
}

/// The zone that is being written.
struct Zone {
    number: u32,
    state: ZoneState,
    start: u64,
    written: u64,
    /// How far it is written, from its start.
    at: u64,
}

impl Zone {
    fn new(device: &Device, number: u32, state: ZoneState, written: u64) -> Self {
        let start = device.geometry().start_of(ZoneIndex(number));
        Self { number, state, start, written, at: 0 }
    }

    fn write(&mut self, writer: &mut Writer<'_>, offset: u64, data: &[u8]) -> Result<()> {
        self.fill(writer, offset)?;
        writer.write(self.start + offset, data)?;
        self.at = offset + data.len() as u64;
        Ok(())
    }

    /// Zeros up to `end`; a conventional zone has them already.
    fn fill(&mut self, writer: &mut Writer<'_>, end: u64) -> Result<()> {
        if self.state != ZoneState::NotWp {
            writer.zeros(self.start + self.at, self.start + end)?;
        }
        self.at = end;
        Ok(())
    }

    /// Brings it into its state.
    fn finish(mut self, writer: &mut Writer<'_>) -> Result<()> {
        let (number, written) = (self.number, self.written);
        match self.state {
            ZoneState::Full if self.at < written => writer.run(Request::finish(number)),
            // It gives up its active place, which the next zone may need, with its last write.
            ZoneState::Full => writer.drain(),
            ZoneState::NotWp | ZoneState::Empty => Ok(()),
            ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => {
                self.fill(writer, written)?;
                // Open zones would not outlive the process; full ones are not to be closed.
                match written < writer.capacity(number) {
                    true => writer.run(Request::close(number)),
                    false => Ok(()),
                }
            }
            ZoneState::ReadOnly | ZoneState::Offline => {
                self.fill(writer, written)?;
                writer.drain()?;
                Ok(writer.device.set_condition(number, self.state)?)
            }
        }
    }
}

/// Plain writes in order, many in flight.
struct Writer<'a> {
    device: &'a Device,
    queue: Queue,
    failed: Option<zonal::Error>,
}

impl<'a> Writer<'a> {
    fn new(device: &'a Device) -> Result<Self> {
        let buffer_bytes = usize::try_from(PIECE)?;
        let options = QueueOptions { depth: PIECES, buffer_bytes, ..Default::default() };
        Ok(Self { device, queue: device.queue(&options)?, failed: None })
    }

    fn capacity(&self, zone: u32) -> u64 {
        self.device.geometry().capacity_of(ZoneIndex(zone))
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let mut offset = offset;
        for piece in data.chunks(usize::try_from(PIECE)?) {
            self.push(offset, piece.len(), |buffer| buffer.copy_from_slice(piece))?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let length = PIECE.min(end - at);
            self.push(at, usize::try_from(length)?, |buffer| buffer.fill(0))?;
            at += length;
        }
        Ok(())
    }

    fn push(&mut self, offset: u64, length: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        while self.queue.in_flight() >= PIECES as usize {
            self.wait()?;
        }
        let mut buffer = transfer::lease(&mut self.queue, length)?;
        fill(&mut buffer);
        transfer::push(&mut self.queue, Request::write_at(offset, buffer))?;
        self.queue.submit()?;
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.queue.submit_and_wait(1)?;
        while let Some(Completion { result, .. }) = self.queue.next_completion() {
            if let Err(error) = result {
                // Those behind it fail by it.
                self.failed.get_or_insert(error);
            }
        }
        match self.failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Waits for what is in flight.
    fn drain(&mut self) -> Result<()> {
        while self.queue.in_flight() > 0 {
            self.wait()?;
        }
        Ok(())
    }

    /// Runs a request behind everything that was written.
    fn run(&mut self, request: Request) -> Result<()> {
        self.drain()?;
        transfer::run_one(&mut self.queue, request)?.result?;
        Ok(())
    }
}
