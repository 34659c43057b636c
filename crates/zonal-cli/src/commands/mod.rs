//! The commands: one file for each family, each with its words (`…Args`) and its `run`.

mod adopt;
mod append;
mod atomic;
mod bench;
mod cat;
mod check;
mod completions;
mod conform;
mod create;
mod dump;
mod examples;
mod flush;
mod info;
mod manage;
mod map;
#[cfg(not(all(feature = "ublk", feature = "top")))]
mod missing;
mod mount;
mod read;
mod report;
mod restore;
#[cfg(feature = "ublk")]
mod serve;
mod sim;
#[cfg(feature = "top")]
mod top;
mod write;

use anyhow::Result;
use clap::Subcommand;

use crate::{outcome::Outcome, output::Ui};

/// What the program can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make an empty zoned drive in a file
    #[command(after_help = examples::CREATE)]
    Create(create::CreateArgs),
    /// Give zones to a qcow2 image of another making, with its data
    ///
    /// The image is changed in place, and for good: QEMU and other tools cannot open it any more, since
    /// they would write to it without regard to its zones. Keep a copy if they need one.
    #[command(after_help = examples::ADOPT)]
    Adopt(adopt::AdoptArgs),
    /// Show a drive's geometry, limits and condition
    #[command(after_help = examples::INFO)]
    Info(info::InfoArgs),
    /// List zones with their state and write pointer
    #[command(after_help = examples::REPORT)]
    Report(report::ReportArgs),
    /// Draw the zones: their states, and how full they are
    #[command(after_help = examples::MAP)]
    Map(map::MapArgs),
    /// Append files as records and report where each one landed
    #[command(after_help = examples::APPEND)]
    Append(append::AppendArgs),
    /// Write records to stdout, in order, from the index that append printed
    #[command(after_help = examples::CAT)]
    Cat(cat::CatArgs),
    /// Write a byte range of the drive to stdout
    #[command(after_help = examples::READ)]
    Read(read::ReadArgs),
    /// Write a file at an offset: a zone's write pointer, or anywhere in a conventional zone
    #[command(after_help = examples::WRITE)]
    Write(write::WriteArgs),
    /// Open zones explicitly
    #[command(after_help = examples::OPEN)]
    Open(manage::ManageArgs),
    /// Close open zones
    #[command(after_help = examples::CLOSE)]
    Close(manage::ManageArgs),
    /// Fill zones up, so that they take no more data
    #[command(after_help = examples::FINISH)]
    Finish(manage::ErasingArgs),
    /// Empty zones, erasing what they hold
    #[command(after_help = examples::RESET)]
    Reset(manage::ErasingArgs),
    /// Make durable what was written
    #[command(after_help = examples::FLUSH)]
    Flush(flush::FlushArgs),
    /// Look for damage in an image
    #[command(after_help = examples::CHECK)]
    Check(check::CheckArgs),
    /// See whether a drive keeps the rules of zoned storage; erases its zones
    #[command(after_help = examples::CONFORM)]
    Conform(conform::ConformArgs),
    /// Write a drive with its zones into one stream
    #[command(after_help = examples::DUMP)]
    Dump(dump::DumpArgs),
    /// Bring a dump back onto an empty drive of the same shape
    #[command(after_help = examples::RESTORE)]
    Restore(restore::RestoreArgs),
    /// Measure a drive, or zonal itself on a temporary image; what it writes to a drive stays there
    #[command(after_help = examples::BENCH)]
    Bench(bench::BenchArgs),
    /// Mount a drive as a zonefs: a file for each zone
    #[command(after_help = examples::MOUNT)]
    Mount(mount::MountArgs),
    /// Show a drive to the kernel: as a zoned block device
    #[cfg(feature = "ublk")]
    #[command(after_help = examples::SERVE)]
    Serve(serve::ServeArgs),
    /// Show a drive to the kernel: as a zoned block device
    #[cfg(not(feature = "ublk"))]
    #[command(hide = true, disable_help_flag = true)]
    Serve(missing::MissingArgs),
    /// Write ordinary files and devices untorn: all of a unit is there after a power cut, or none
    #[command(after_help = examples::ATOMIC)]
    Atomic(atomic::AtomicArgs),
    /// Run random histories with cuts, kills and failures, and hold drives to their promises
    ///
    /// The exit code is 0 when all were kept, 1 for one that was not, 2 for an error, 3 when something hangs,
    /// 4 for a panic.
    #[command(after_help = examples::SIM)]
    Sim(sim::SimArgs),
    /// Watch a drive while another process writes to it
    #[cfg(feature = "top")]
    #[command(after_help = examples::TOP)]
    Top(top::TopArgs),
    /// Watch a drive while another process writes to it
    #[cfg(not(feature = "top"))]
    #[command(hide = true, disable_help_flag = true)]
    Top(missing::MissingArgs),
    /// Print what a shell needs to complete the program's words
    #[command(after_help = examples::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
    /// Write the manual's pages into a folder
    #[command(after_help = examples::MAN)]
    Man(completions::ManArgs),
}

impl Command {
    /// Runs it.
    pub(crate) fn run(&self, ui: &Ui) -> Result<Outcome> {
        match self {
            Self::Create(args) => create::run(args, ui),
            Self::Adopt(args) => adopt::run(args, ui),
            Self::Info(args) => info::run(args, ui),
            Self::Report(args) => report::run(args, ui),
            Self::Map(args) => map::run(args, ui),
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
            Self::Conform(args) => conform::run(args, ui),
            Self::Dump(args) => dump::run(args, ui),
            Self::Restore(args) => restore::run(args, ui),
            Self::Bench(args) => bench::run(args, ui),
            Self::Mount(args) => mount::run(args, ui),
            #[cfg(feature = "ublk")]
            Self::Serve(args) => serve::run(args, ui),
            #[cfg(not(feature = "ublk"))]
            Self::Serve(_) => missing::run("serve", "ublk"),
            Self::Atomic(args) => atomic::run(args, ui),
            Self::Sim(args) => sim::run(args, ui),
            #[cfg(feature = "top")]
            Self::Top(args) => top::run(args, ui),
            #[cfg(not(feature = "top"))]
            Self::Top(_) => missing::run("top", "top"),
            Self::Completions(args) => completions::run(args),
            Self::Man(args) => completions::run_man(args, ui),
        }
    }
}
