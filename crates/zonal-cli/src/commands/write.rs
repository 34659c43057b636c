//! `zonal write`: a file at an offset. In a sequential zone that must be the write pointer; a
//! conventional zone takes it anywhere.
//!
//! It goes on over the ends of zones, where the next one takes it at its start. What the drive would
//! refuse on the way is looked for first: an input whose length is known is written whole or not at
//! all, and of a pipe it is said how much was written.
//!
//! The drive knows whole blocks only. In a sequential zone the last one is filled up with zeros; in
//! a conventional one the bytes that stood there are kept.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use zonal::{Buffer, Completion, Device, Queue, QueueOptions, Request, ZoneKind};

use crate::{
    args::{Access, Size, TargetArg, WriteAccess, format_size},
    outcome::Outcome,
    output::{Progress, Ui, print_json},
    transfer::{self, PIECE, PIECES},
    zones,
};

/// The words of `write`.
#[derive(Args, Debug)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    target: TargetArg,
    /// What to write; - is stdin
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Where, in bytes from the drive's start; a multiple of the block size
    #[arg(long)]
    offset: Size,
    #[command(flatten)]
    access: WriteAccess,
}

/// What `write --json` says: `length` is the input's, without padding.
#[derive(Serialize)]
struct Written {
    offset: u64,
    length: u64,
}

/// Runs `write`.
pub(crate) fn run(args: &WriteArgs, ui: &Ui) -> Result<Outcome> {
    args.target.own_files().refuse_input(&args.file)?;
    let (mut input, length): (Box<dyn Read>, _) = if args.file == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = File::open(&args.file).with_context(|| args.file.display().to_string())?;
        let meta = file.metadata()?;
        ensure!(!meta.is_dir(), "{}: it is a folder; name a file", args.file.display());
        (Box::new(file), Some(meta.len()).filter(|_| meta.is_file()))
    };
    let device = args.target.open(Access::from(&args.access), ui)?;
    let mut progress = ui.progress(length);
    let mut writer = Writer::new(&device, args.offset.0)?;
    if let Some(length) = length {
        writer.hold_against(length, &args.file)?;
    }
    let written = writer.copy(&mut input, &mut progress);
    // What was written before an error stays, so it is made durable all the same.
    let drained = writer.drain();
    let flushed = if drained.is_ok() { transfer::flush(&mut writer.queue) } else { Ok(()) };
    let length = written.and_then(|length| drained.map(|()| length));
    drop(writer);
    let closed = device.close();
    // The cause before what follows from it.
    let length = length?;
    flushed?;
    closed?;
    if ui.json {
        print_json(io::stdout().lock(), &Written { offset: args.offset.0, length })?;
    } else {
        ui.say(format_args!("{length} bytes written at offset {}; flushed", args.offset.0));
    }
    Ok(Outcome::Done)
}

/// How far a write can go.
struct Reach {
    end: u64,
    /// What stops it there, and what to do about it.
    barrier: String,
}

impl Reach {
    /// That of a write at `offset`, which is on the drive.
    fn of(device: &Device, offset: u64) -> Result<Self> {
        let geometry = device.geometry();
        let first = geometry.zone_of(offset);
        let mut end = offset;
        for zone in device.report(first.0..)? {
            let (number, next) = (zone.zone, zone.start + zone.size);
            let stopped = |barrier| Ok(Self { end, barrier });
            let limit = match (zone.kind, zone.write_pointer) {
                (ZoneKind::Conventional, _) => next,
                (ZoneKind::Sequential, _) if !zones::takes_data(zone.state) => {
                    let state = zones::state_word(zone.state);
                    return stopped(format!(
                        "zone {number} is {state}; put the rest into other zones"
                    ));
                }
                (ZoneKind::Sequential, Some(wp)) if wp != end => {
                    return stopped(format!(
                        "zone {number} is written up to offset {wp}; reset it, or put the rest into \
                         other zones"
                    ));
                }
                (ZoneKind::Sequential, _) => zone.start + zone.capacity,
            };
            end = end.max(limit);
            if limit < next {
                let rest = match next < geometry.size {
                    true => format!("put the rest at offset {next}, where the next zone begins"),
                    false => "it is the last one".to_owned(),
                };
                let barrier = format!("zone {number} ends at its capacity, offset {end}; {rest}");
                return Ok(Self { end, barrier });
            }
        }
        Ok(Self { end, barrier: format!("the drive ends at offset {end}; take a larger one") })
    }
}

/// Plain writes in submission order, many in flight.
struct Writer<'a> {
    device: &'a Device,
    queue: Queue,
    block: u64,
    offset: u64,
    /// Where it began.
    start: u64,
    reach: Reach,
    /// The failure at the lowest offset so far.
    failed: Option<(u64, zonal::Error)>,
}

impl<'a> Writer<'a> {
    fn new(device: &'a Device, offset: u64) -> Result<Self> {
        let geometry = device.geometry();
        let block = u64::from(geometry.block_size);
        ensure!(
            offset.is_multiple_of(block),
            "{}: --offset {offset} is not a multiple of the block size, {}; the one below is {}",
            device.name(),
            format_size(block),
            offset - offset % block
        );
        ensure!(
            offset < geometry.size,
            "{}: --offset {offset} is past the drive's {} bytes",
            device.name(),
            geometry.size
        );
        let buffer_bytes = usize::try_from(PIECE.max(block))?;
        let options = QueueOptions { depth: PIECES, buffer_bytes, ..Default::default() };
        let queue = device.queue(&options)?;
        let reach = Reach::of(device, offset)?;
        Ok(Self { device, queue, block, offset, start: offset, reach, failed: None })
    }

    /// Refuses an input of `length` bytes that the drive would not take to its end.
    fn hold_against(&self, length: u64, input: &Path) -> Result<()> {
        let Reach { end, barrier } = &self.reach;
        let room = end - self.offset;
        ensure!(
            // Of what is refused at once the drive itself says why.
            room == 0 || length.next_multiple_of(self.block) <= room,
            "{}: write: {} has {length} bytes, and from offset {} there is room for {room}: \
             {barrier}; nothing was written",
            self.device.name(),
            input.display(),
            self.offset
        );
        Ok(())
    }

    /// Writes the whole input; returns its length.
    fn copy(&mut self, input: &mut dyn Read, progress: &mut Progress) -> Result<u64> {
        let mut total = 0;
        while self.failed.is_none() {
            let mut buffer = self.buffer()?;
            let length = fill(input, &mut buffer).context("reading the input")?;
            if length == 0 {
                break;
            }
            let Reach { end, barrier } = &self.reach;
            ensure!(
                self.offset < *end || *end == self.start,
                "{}: write: the input goes on, but {barrier}; its first {total} bytes were written \
                 at offset {}, and are flushed",
                self.device.name(),
                self.start
            );
            self.write(buffer, length)?;
            total += length as u64;
            progress.step(length as u64);
            self.queue.submit()?;
            self.reap();
        }
        Ok(total)
    }

    /// A buffer up to the next piece's end: pieces do not cross the end of what can be written of a
    /// zone, so that an error names the zone that refuses.
    fn buffer(&mut self) -> Result<Buffer> {
        while self.queue.in_flight() >= PIECES as usize {
            self.queue.submit_and_wait(1)?;
            self.reap();
        }
        let geometry = self.device.geometry();
        if self.offset >= geometry.size {
            // To see whether the input ends as well.
            return transfer::lease(&mut self.queue, usize::try_from(self.block)?);
        }
        let zone = geometry.zone_of(self.offset);
        let end = geometry.start_of(zone) + geometry.capacity_of(zone);
        // In the gap between capacity and the next zone one block is enough to be refused.
        let room = end.saturating_sub(self.offset).max(self.block);
        transfer::lease(&mut self.queue, usize::try_from(room.min(PIECE.max(self.block)))?)
    }

    /// Writes the first `length` bytes of `buffer`.
    fn write(&mut self, mut buffer: Buffer, length: usize) -> Result<()> {
        let padded = (length as u64).next_multiple_of(self.block);
        let rest = usize::try_from(padded)?;
        if rest > length {
            buffer[length..rest].fill(0);
            self.keep_tail(&mut buffer, length, rest)?;
        }
        buffer.set_len(rest);
        transfer::push(&mut self.queue, Request::write_at(self.offset, buffer).tag(self.offset))?;
        self.offset += padded;
        Ok(())
    }

    /// In a conventional zone: puts the bytes behind the input's end back in.
    fn keep_tail(&mut self, buffer: &mut Buffer, length: usize, rest: usize) -> Result<()> {
        let geometry = self.device.geometry();
        if !geometry.is_conventional(geometry.zone_of(self.offset)) {
            return Ok(());
        }
        self.drain()?;
        let block = usize::try_from(self.block)?;
        let into = transfer::lease(&mut self.queue, block)?;
        let last = self.offset + (rest - block) as u64;
        let old = transfer::run_one(&mut self.queue, Request::read_at(last, into))?;
        old.result?;
        let old = old.buffer.context("a read came back without its buffer")?;
        let kept = block - (rest - length);
        buffer[length..rest].copy_from_slice(&old[kept..block]);
        Ok(())
    }

    fn reap(&mut self) {
        while let Some(Completion { tag, result, .. }) = self.queue.next_completion() {
            if let Err(error) = result
                && self.failed.as_ref().is_none_or(|(offset, _)| tag < *offset)
            {
                self.failed = Some((tag, error));
            }
        }
    }

    /// Waits for what is in flight; the failure at the lowest offset is the cause of the others.
    fn drain(&mut self) -> Result<()> {
        while self.queue.in_flight() > 0 {
            self.queue.submit_and_wait(1)?;
            self.reap();
        }
        match self.failed.take() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }
}

/// Reads until `buffer` is full or the input ends.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
