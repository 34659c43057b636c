//! `zonal dump`: a drive with its zones as one stream, which `restore` reads.
//!
//! Only what lies below the write pointers goes into it, and of that only what is not zeros. The
//! stream's form is `zonal_core::format::dump`'s. A file is written beside its name and takes it
//! when it is whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use zonal::{Device, ZoneInfo, ZoneState};
use zonal_core::format::dump::{Frame, Header};

use crate::{
    args::{Access, TargetArg, format_size},
    outcome::Outcome,
    output::{Ui, plural, print_json, raw_stdout},
    signals::Interrupt,
    transfer::{self, Span},
    zones,
};

/// The words of `dump`.
#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    target: TargetArg,
    /// Where the dump goes; - is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Replace the file at --output
    #[arg(long)]
    force: bool,
}

/// What `dump --json` and `restore --json` say: zones that are not empty, and bytes that are not
/// left out as zeros.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    pub(super) zones: u32,
    #[serde(skip)]
    pub(super) pieces: u32,
    pub(super) bytes: u64,
}

impl Counts {
    /// The counts for people.
    pub(super) fn say(&self, ui: &Ui, target: &str, verb: &str) {
        ui.say(format_args!(
            "{target}: {}, {} of data {verb}",
            plural(self.zones as usize, "zone"),
            format_size(self.bytes)
        ));
    }
}

/// A zone that is not empty.
#[derive(Clone, Copy, Debug)]
struct Part {
    zone: u32,
    state: ZoneState,
    start: u64,
    written: u64,
}

/// What of `zone` has to be written down; nothing of an empty one.
fn part_of(zone: &ZoneInfo) -> Option<Part> {
    let below = zone.write_pointer.map_or(0, |wp| wp - zone.start);
    let written = match zone.state {
        ZoneState::NotWp | ZoneState::Full => zone.capacity,
        ZoneState::Empty => return None,
        ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed if below == 0 => {
            return None;
        }
        ZoneState::ImplicitlyOpen
        | ZoneState::ExplicitlyOpen
        | ZoneState::Closed
        | ZoneState::ReadOnly => below,
        ZoneState::Offline => 0,
    };
    Some(Part { zone: zone.zone, state: zone.state, start: zone.start, written })
}

/// Runs `dump`.
pub(crate) fn run(args: &DumpArgs, ui: &Ui) -> Result<Outcome> {
    let to_stdout = args.output == Path::new("-");
    ensure!(
        !(to_stdout && ui.json),
        "--json and the dump would both go to stdout; say where the dump goes with -o FILE"
    );
    ensure!(
        !(to_stdout && io::stdout().is_terminal()),
        "a dump is nothing to look at; say where it goes with -o FILE, or redirect stdout"
    );
    if !to_stdout {
        args.target.own_files().refuse_output(&args.output)?;
    }
    let interrupt = Interrupt::install()?;
    let device = args.target.open(Access::Read, ui)?;
    // One file of a zonefs may be so; a dump of it would go onto no drive that can be made.
    if device.geometry().sequential_zones() == 0 {
        bail!(
            "{}: it has conventional zones alone; copy the file (cp), or dump the whole",
            args.target.target
        );
    }
    let sink = Sink::open(&args.output, args.force)?;
    let counts = match dump(&device, sink.file()?, &interrupt, ui) {
        Err(error) => match interrupt.signal() {
            Some(signal) => return Ok(Outcome::Interrupted(signal)),
            None if to_stdout => return Err(error.context("stdout")),
            None => return Err(error.context(args.output.display().to_string())),
        },
        Ok(counts) => counts,
    };
    sink.finish()?;
    if ui.json {
        print_json(io::stdout().lock(), &counts)?;
    } else {
        counts.say(ui, device.name(), "dumped");
    }
    Ok(Outcome::Done)
}

/// Writes the whole stream.
fn dump(device: &Device, out: File, interrupt: &Interrupt, ui: &Ui) -> Result<Counts> {
    let mut parts: Vec<Part> = device.report(..)?.iter().filter_map(part_of).collect();
    // What is active comes last: see the format.
    parts.sort_by_key(|part| (zones::is_active(part.state), part.zone));
    let active = parts.iter().filter(|part| zones::is_active(part.state)).count();
    let header = Header {
        geometry: device.geometry().clone(),
        image_id: device.info().image_id.unwrap_or_default(),
        active_zones: u32::try_from(active)?,
    };
    let mut out = BufWriter::new(out);
    out.write_all(&header.encode())?;
    let spans: Vec<Span> = parts
        .iter()
        .map(|part| Span { offset: part.start, length: part.written })
        .filter(|span| span.length > 0)
        .collect();
    let largest = spans.iter().map(|span| span.length).max().unwrap_or_default();
    let mut progress = ui.progress(Some(spans.iter().map(|span| span.length).sum()));
    let mut writer = Writer {
        out: &mut out,
        parts: parts.into_iter(),
        zone: 0,
        offset: 0,
        left: 0,
        counts: Counts::default(),
        interrupt,
    };
    transfer::copy_out(device, spans, largest, &mut writer, &mut progress)?;
    let counts = writer.end()?;
    out.flush()?;
    Ok(counts)
}

/// Turns the bytes of the zones, as they come one after the other, into frames.
struct Writer<'a, W> {
    out: &'a mut W,
    /// Zones whose frame is still to come.
    parts: std::vec::IntoIter<Part>,
    /// The zone whose bytes come.
    zone: u32,
    /// Where in it they are.
    offset: u64,
    /// How many are still to come.
    left: u64,
    counts: Counts,
    interrupt: &'a Interrupt,
}

impl<W: Write> Writer<'_, W> {
    /// Begins the next zone; false when there is none.
    fn next_zone(&mut self) -> io::Result<bool> {
        let Some(Part { zone, state, written, .. }) = self.parts.next() else { return Ok(false) };
        (self.zone, self.offset, self.left) = (zone, 0, written);
        self.counts.zones += 1;
        self.out.write_all(&Frame::Zone { zone, state, written }.encode())?;
        Ok(true)
    }

    /// Ends the stream, all bytes having come.
    fn end(mut self) -> io::Result<Counts> {
        while self.next_zone()? {}
        let Counts { zones, pieces, bytes } = self.counts;
        self.out.write_all(&Frame::End { zones, pieces, bytes }.encode())?;
        Ok(self.counts)
    }
}

impl<W: Write> Write for Writer<'_, W> {
    /// Takes bytes of one zone.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.interrupt.came() {
            return Err(io::Error::other("stopped by a signal"));
        }
        while self.left == 0 && self.next_zone()? {}
        if !is_zero(data) {
            let frame = Frame::of_data(self.zone, self.offset, data);
            self.out.write_all(&frame.encode())?;
            self.out.write_all(data)?;
            self.counts.pieces += 1;
            self.counts.bytes += data.len() as u64;
        }
        self.offset += data.len() as u64;
        self.left -= data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether all of `bytes` are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Where the dump goes. A file has another name until it is whole.
struct Sink {
    file: File,
    /// The name it has, and the one it gets.
    names: Option<(PathBuf, PathBuf)>,
}

impl Sink {
    fn open(path: &Path, force: bool) -> Result<Self> {
        let place = || path.display().to_string();
        if path == Path::new("-") {
            return Ok(Self { file: raw_stdout()?, names: None });
        }
        match fs::metadata(path) {
            // A pipe or a device has nothing to lose, and no other name.
            Ok(meta) if !meta.is_file() && !meta.is_dir() => {
                let file = OpenOptions::new().write(true).open(path).with_context(place)?;
                return Ok(Self { file, names: None });
            }
            Ok(meta) if meta.is_dir() => bail!("{}: it is a folder; name a file", place()),
            Ok(_) if !force => {
                bail!("{}: it exists; choose another name, or replace it with --force", place())
            }
            Ok(_) | Err(_) => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!("{}: there is no folder {}; make it first", place(), folder.display());
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".new-{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let file = File::create_new(&beside).with_context(place)?;
        Ok(Self { file, names: Some((beside, path.to_owned())) })
    }

    fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The dump is whole.
    fn finish(mut self) -> Result<()> {
        if let Some((beside, path)) = &self.names {
            self.file
                .sync_all()
                .and_then(|()| fs::rename(beside, path))
                .with_context(|| path.display().to_string())?;
            self.names = None;
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.names {
            // What cannot be removed is nothing to fail for; its name says where it comes from.
            let _ = fs::remove_file(beside);
        }
    }
}
