//! The commands: one file for each family, each with its words (`…Args`) and its `run`.

mod adopt;
mod append;
mod bench;
mod cat;
mod check;
mod create;
mod flush;
mod info;
mod manage;
mod read;
mod report;
mod write;

use anyhow::Result;
use clap::Subcommand;

use crate::{outcome::Outcome, output::Ui};

/// What the program can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make an empty zoned drive in a file
    Create(create::CreateArgs),
    /// Give zones to a qcow2 image of another making, with its data
    Adopt(adopt::AdoptArgs),
    /// Show a drive's geometry, limits and condition
    Info(info::InfoArgs),
    /// List zones with their state and write pointer
    Report(report::ReportArgs),
    /// Append files as records and report where each one landed
    Append(append::AppendArgs),
    /// Write records to stdout, in order, from the index that append printed
    Cat(cat::CatArgs),
    /// Write a byte range of the drive to stdout
    Read(read::ReadArgs),
    /// Write a file at an offset: a zone's write pointer, or anywhere in a conventional zone
    Write(write::WriteArgs),
    /// Open zones explicitly
    Open(manage::ManageArgs),
    /// Close open zones
    Close(manage::ManageArgs),
    /// Fill zones up, so that they take no more data
    Finish(manage::ErasingArgs),
    /// Empty zones, erasing what they hold
    Reset(manage::ErasingArgs),
    /// Make durable what was written
    Flush(flush::FlushArgs),
    /// Look for damage in an image
    Check(check::CheckArgs),
    /// Measure a drive, or zonal itself on a temporary image
    Bench(bench::BenchArgs),
}

impl Command {
    /// Runs it.
    pub(crate) fn run(&self, ui: &Ui) -> Result<Outcome> {
        match self {
            Self::Create(args) => create::run(args, ui),
            Self::Adopt(args) => adopt::run(args, ui),
            Self::Info(args) => info::run(args, ui),
            Self::Report(args) => report::run(args, ui),
            Self::Append(args) => append::run(args, ui),
            Self::Cat(args) => cat::run(args, ui),
            Self::Read(args) => read::run(args, ui),
            Self::Write(args) => write::run(args, ui),
            Self::Open(args) => manage::run(manage::Verb::Open, args, ui),
            Self::Close(args) => manage::run(manage::Verb::Close, args, ui),
            Self::Finish(args) => manage::run_erasing(manage::Verb::Finish, args, ui),
            Self::Reset(args) => manage::run_erasing(manage::Verb::Reset, args, ui),
            Self::Flush(args) => flush::run(args, ui),
            Self::Check(args) => check::run(args, ui),
            Self::Bench(args) => bench::run(args, ui),
        }
    }
}
