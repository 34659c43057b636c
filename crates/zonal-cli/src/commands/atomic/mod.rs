//! `zonal atomic`: untorn writes to ordinary files and block devices, where the kernel or a journal gives
//! them.

mod bench;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use zonal::atomic::{AtomicFile, AtomicLimits, AtomicOptions, AtomicPath, JournalUse};

use super::examples;
use crate::{
    args::{Engine, Size, format_size},
    outcome::Outcome,
    output::{Ui, plural, print_json},
    own::OwnFiles,
};

/// The words of `atomic`.
#[derive(Args, Debug)]
pub(crate) struct AtomicArgs {
    #[command(subcommand)]
    verb: Verb,
}

/// What is done with the file.
#[derive(Subcommand, Debug)]
enum Verb {
    /// Show what can be written untorn, and how
    #[command(after_help = examples::ATOMIC)]
    Info(InfoArgs),
    /// Write one unit that a power cut leaves whole or out, durably
    #[command(after_help = examples::ATOMIC)]
    Write(WriteArgs),
    /// Measure untorn writes against ordinary ones, and against writing everything twice
    #[command(after_help = examples::ATOMIC)]
    Bench(bench::BenchArgs),
}

/// The file, and what may be done for it.
#[derive(Args, Debug)]
struct FileArgs {
    /// An ordinary file or a block device
    path: PathBuf,
    /// Where the kernel promises nothing, keep units whole by a journal beside the file
    /// (PATH.journal)
    #[arg(long)]
    journal: bool,
    /// Where the journal is, if not beside the file
    #[arg(long, value_name = "FILE", requires = "journal")]
    journal_path: Option<PathBuf>,
    /// Bytes of records that a new journal holds
    #[arg(long, value_name = "SIZE", requires = "journal", default_value = "32M")]
    journal_size: Size,
    /// What moves the bytes
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
}

impl FileArgs {
    fn options(&self) -> AtomicOptions {
        AtomicOptions {
            journal: if self.journal { JournalUse::IfNeeded } else { JournalUse::Never },
            journal_path: self.journal_path.clone(),
            journal_bytes: self.journal_size.0,
            engine: self.engine.into(),
            ..AtomicOptions::default()
        }
    }

    fn open(&self, options: &AtomicOptions, ui: &Ui) -> Result<AtomicFile> {
        OwnFiles::of_image(&self.path).refuse_stdout()?;
        let file = AtomicFile::open(&self.path, options)?;
        let units = usize::try_from(file.replayed().units)?;
        if units > 0 {
            ui.say(format_args!(
                "{}: {} of the last session put in place from the journal",
                self.path.display(),
                plural(units, "unit")
            ));
        }
        Ok(file)
    }
}

/// The words of `atomic info`.
#[derive(Args, Debug)]
struct InfoArgs {
    #[command(flatten)]
    file: FileArgs,
}

/// The words of `atomic write`.
#[derive(Args, Debug)]
struct WriteArgs {
    #[command(flatten)]
    file: FileArgs,
    /// What to write, one unit; - is stdin
    #[arg(default_value = "-")]
    input: PathBuf,
    /// Where, in bytes; a multiple of the unit's length
    #[arg(long)]
    offset: Size,
    /// Rather fail than copy on write or take the journal
    #[arg(long)]
    fast_only: bool,
}

/// Refuses to write into an image as if it were a file: its zones would never hear of it.
fn refuse_image(path: &Path) -> Result<()> {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    ensure!(
        read.is_err() || &magic != b"QFI\xfb",
        "{}: it is a qcow2 image, which this would destroy; see zonal write and zonal append",
        path.display()
    );
    Ok(())
}

/// What `atomic info --json` says, in bytes.
#[derive(Serialize)]
struct Limits {
    path: String,
    unit_min: u64,
    unit_max: u64,
    unit_max_fast: u64,
    /// Units that the journal has and the file may have torn, until it is opened for writing with the journal.
    units_waiting: u64,
    /// A process has the file open for writing, with its journal.
    in_use: bool,
}

/// What `atomic write --json` says.
#[derive(Serialize)]
struct Written {
    offset: u64,
    length: u64,
    path: String,
}

/// Runs `atomic`.
pub(crate) fn run(args: &AtomicArgs, ui: &Ui) -> Result<Outcome> {
    match &args.verb {
        Verb::Info(args) => info(args, ui),
        Verb::Write(args) => write(args, ui),
        Verb::Bench(args) => bench::run(args, ui),
    }
}

fn info(args: &InfoArgs, ui: &Ui) -> Result<Outcome> {
    OwnFiles::of_image(&args.file.path).refuse_stdout()?;
    let info = zonal::atomic::inspect(&args.file.path, &args.file.options())?;
    let AtomicLimits { path, unit_min, unit_max, unit_max_fast } = info.limits;
    let units_waiting = info.waiting.units;
    let mut out = io::stdout().lock();
    if ui.json {
        let (path, in_use) = (path.to_string(), info.in_use);
        let limits = Limits { path, unit_min, unit_max, unit_max_fast, units_waiting, in_use };
        print_json(out, &limits)?;
        return Ok(Outcome::Done);
    }
    let fast = match unit_max_fast {
        0 => "none".to_owned(),
        max => format!("up to {}", format_size(max)),
    };
    let how = match path {
        AtomicPath::Native => "native, by the kernel",
        AtomicPath::Journal => "journal, as the kernel promises nothing for this file",
        AtomicPath::None => "none; say --journal to have a journal do it",
    };
    writeln!(out, "{:<19} {}", "file", args.file.path.display())?;
    writeln!(out, "{:<19} {how}", "path")?;
    if path != AtomicPath::None {
        writeln!(out, "{:<19} {}", "smallest unit", format_size(unit_min))?;
        writeln!(out, "{:<19} {}", "largest unit", format_size(unit_max))?;
        writeln!(out, "{:<19} {fast}", "in place")?;
    }
    if info.in_use {
        writeln!(out, "{:<19} by a process that writes with a journal", "in use")?;
    }
    if let (Some(journal), 1..) = (info.journal, units_waiting) {
        let units = plural(usize::try_from(units_waiting)?, "unit");
        writeln!(
            out,
            "{:<19} {units} in {}, which the next opening for writing with the journal puts in place; until \
             then the file may be torn there",
            "waiting",
            journal.display()
        )?;
    }
    Ok(Outcome::Done)
}

fn write(args: &WriteArgs, ui: &Ui) -> Result<Outcome> {
    OwnFiles::of_image(&args.file.path).refuse_input(&args.input)?;
    refuse_image(&args.file.path)?;
    let options = AtomicOptions { fast_only: args.fast_only, ..args.file.options() };
    let file = args.file.open(&options, ui)?;
    let unit = read_unit(&args.input, file.limits().unit_max)?;
    let length = unit.len() as u64;
    let written = file.write_atomic_at(args.offset.0, unit).durable().wait();
    // The file is closed in any case; what failed first is what is said.
    let closed = file.close();
    let written = written.map_err(|failed| failed.error)?;
    closed?;
    if ui.json {
        let path = written.path.to_string();
        print_json(io::stdout().lock(), &Written { offset: written.offset, length, path })?;
    } else {
        ui.say(format_args!(
            "{length} bytes written untorn at offset {} by the {} path; durable",
            written.offset, written.path
        ));
    }
    Ok(Outcome::Done)
}

/// The whole input, which is one unit; no more of it is read than the largest has.
fn read_unit(path: &Path, unit_max: u64) -> Result<Vec<u8>> {
    let mut unit = Vec::new();
    // Where nothing is written untorn, as much as would be by a journal: its length is told in the refusal.
    let limit = unit_max.max(1 << 20) + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut unit).context("reading stdin")?;
    } else {
        let named = || path.display().to_string();
        let file = File::open(path).with_context(named)?;
        ensure!(!file.metadata()?.is_dir(), "{}: it is a folder; name a file", path.display());
        file.take(limit).read_to_end(&mut unit).with_context(named)?;
    }
    if unit_max > 0 && unit.len() as u64 > unit_max {
        bail!(
            "{}: it is longer than the largest unit, {}; an untorn write is never split",
            path.display(),
            format_size(unit_max)
        );
    }
    Ok(unit)
}
