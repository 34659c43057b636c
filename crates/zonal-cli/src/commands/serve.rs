//! `zonal serve ublk`: a drive as a zoned block device, until it is removed or the program is told to end.

use std::{
    io::{self, Write},
    process, thread,
};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use zonal_export::ublk::{DEPTH_MAX, NUMBER_MAX, QUEUES_MAX, ServeOptions, Served, recover, serve};

use super::examples;
use crate::{
    args::{Access, TargetArg, WriteAccess},
    background::{self, Background, BackgroundArgs, LOOK},
    outcome::Outcome,
    output::{Ui, print_json},
    signals::Interrupt,
};

/// The words of `serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(subcommand)]
    way: Way,
}

/// As what a drive is shown.
#[derive(Subcommand, Debug)]
enum Way {
    /// Serve a drive as /dev/ublkbN, with its zones (Linux 6.6 or newer, root)
    #[command(after_help = examples::SERVE)]
    Ublk(UblkArgs),
}

/// The words of `serve ublk`.
#[derive(Args, Debug)]
struct UblkArgs {
    #[command(flatten)]
    target: TargetArg,
    /// The device's number, N of /dev/ublkbN (default: the first that is free)
    #[arg(long, value_name = "N", conflicts_with = "recover",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(NUMBER_MAX)))]
    number: Option<u32>,
    /// Queues: a thread each, with a queue to the drive; no more than there are processors
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "recover",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(QUEUES_MAX)))]
    queues: u16,
    /// Requests under way in each queue
    #[arg(long, value_name = "N", default_value_t = 64, conflicts_with = "recover",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(DEPTH_MAX)))]
    depth: u16,
    /// Take over device N, whose server died; what that had under way has ended in errors. Its queues and depth are as
    /// they were
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(NUMBER_MAX)))]
    recover: Option<u32>,
    /// Refuse everything that writes
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    background: BackgroundArgs,
    #[command(flatten)]
    access: WriteAccess,
}

/// What `serve ublk --json` says.
#[derive(Serialize)]
struct Said<'a> {
    target: &'a str,
    device: &'a str,
    /// The process that serves it.
    pid: u32,
}

/// Runs `serve`.
pub(crate) fn run(args: &ServeArgs, ui: &Ui) -> Result<Outcome> {
    let Way::Ublk(args) = &args.way;
    if args.background.daemon {
        let started = background::start()?;
        say(args, &started.said, started.pid, ui)?;
        return Ok(Outcome::Done);
    }
    let background = Background::begin(&args.background)?;
    let interrupt = Interrupt::install()?;
    let access = if args.read_only { Access::Read } else { (&args.access).into() };
    // That of a server which was killed is in use until its last request has ended.
    let device = background::open_soon(&args.target, access, ui)?;
    let mut served = match args.recover {
        Some(number) => recover(device.clone(), number, args.read_only)?,
        None => serve(device.clone(), &args.options())?,
    };
    let path = served.path().display().to_string();
    if args.recover.is_none() && served.queues() < args.queues {
        let (asked, made) = (args.queues, served.queues());
        ui.say(format_args!("{path}: {made} of {asked} queues, one for each processor; --queues {made} asks for that"));
    }
    match background {
        Some(background) => background.ready(&path)?,
        None => say(args, &path, process::id(), ui)?,
    }
    let waited = wait(&mut served, &interrupt, ui);
    let removed = served.remove();
    // Whatever went wrong, what can be made durable is; the first error is said.
    let closed = device.close();
    waited?;
    removed?;
    closed?;
    Ok(Outcome::Done)
}

impl UblkArgs {
    fn options(&self) -> ServeOptions {
        let mut options = ServeOptions::default();
        options.number = self.number;
        options.queues = self.queues;
        options.depth = self.depth;
        options.read_only = self.read_only;
        options
    }
}

fn say(args: &UblkArgs, device: &str, pid: u32, ui: &Ui) -> Result<()> {
    let target = &args.target.target;
    if ui.json {
        print_json(io::stdout().lock(), &Said { target, device, pid })?;
    } else {
        writeln!(io::stdout(), "{device}")?;
    }
    io::stdout().flush()?;
    if !args.background.daemon {
        ui.say(format_args!("{target}: served as {device}; Ctrl-C ends it"));
    }
    Ok(())
}

/// Waits for the device's end. A signal removes it; whoever has it mounted is waited for.
fn wait(served: &mut Served, interrupt: &Interrupt, ui: &Ui) -> Result<()> {
    let mut said = false;
    while !served.is_over() {
        thread::sleep(LOOK);
        if !interrupt.came() {
            continue;
        }
        match served.stop().map_err(anyhow::Error::from) {
            Ok(()) => break,
            Err(error) if !background::is_in_use(&error) => return Err(error),
            Err(_) if said => {}
            Err(error) => {
                ui.say(format_args!("{error}; waiting for that (again to end now)"));
                said = true;
            }
        }
    }
    Ok(())
}
