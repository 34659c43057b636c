//! `zonal mount`: a drive as a zonefs, until it is unmounted or the program is told to end.

use std::{
    io,
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use zonal_export::mount::{MountOptions, Mounted, OnError, mount};

use crate::{
    args::{Access, TargetArg, WriteAccess},
    background::{self, Background, BackgroundArgs, LOOK},
    outcome::Outcome,
    output::{Ui, print_json},
    signals::Interrupt,
};

/// The words of `mount`.
#[derive(Args, Debug)]
pub(crate) struct MountArgs {
    #[command(flatten)]
    target: TargetArg,
    /// The folder to mount on
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Open a zone while its file is open to be written, and keep to the limits then
    #[arg(long)]
    explicit_open: bool,
    /// Make all conventional zones one file, cnv/0
    #[arg(long)]
    aggr_cnv: bool,
    /// What becomes of a file whose zone fails
    #[arg(long, value_name = "WHAT", default_value = "remount-ro")]
    errors: Errors,
    /// Take writes of any length, and without O_DIRECT; the last block is filled up with zeros when the file
    /// is closed
    #[arg(long)]
    buffered: bool,
    /// Refuse everything that writes
    #[arg(long)]
    read_only: bool,
    /// Let other users in, as far as the files' permissions do
    #[arg(long)]
    allow_other: bool,
    /// Owner of the files, by number (default: you)
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// Group of the files, by number (default: yours)
    #[arg(long, value_name = "N")]
    gid: Option<u32>,
    /// Permissions of the files, octal
    #[arg(long, value_name = "MODE", default_value = "640", value_parser = parse_mode)]
    mode: u16,
    /// Threads that serve it: how many requests are under way at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    #[command(flatten)]
    background: BackgroundArgs,
    #[command(flatten)]
    access: WriteAccess,
}

/// What `--errors` takes: zonefs's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Errors {
    /// Nothing can be written any more
    RemountRo,
    /// The file can only be read
    ZoneRo,
    /// The file cannot be used
    ZoneOffline,
    /// The file's size is made right, and it goes on
    Repair,
}

impl From<Errors> for OnError {
    fn from(errors: Errors) -> Self {
        match errors {
            Errors::RemountRo => Self::RemountReadOnly,
            Errors::ZoneRo => Self::ZoneReadOnly,
            Errors::ZoneOffline => Self::ZoneOffline,
            Errors::Repair => Self::Repair,
        }
    }
}

fn parse_mode(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permissions are octal digits up to 777, as 640".to_owned()),
    }
}

/// What `mount --json` says.
#[derive(Serialize)]
struct Said<'a> {
    target: &'a str,
    mounted: &'a str,
    /// The process that serves it.
    pid: u32,
}

/// Runs `mount`.
pub(crate) fn run(args: &MountArgs, ui: &Ui) -> Result<Outcome> {
    if args.background.daemon {
        let started = background::start()?;
        if ui.json {
            say_json(args, started.pid)?;
        }
        return Ok(Outcome::Done);
    }
    let background = Background::begin(&args.background)?;
    let interrupt = Interrupt::install()?;
    let access = if args.read_only { Access::Read } else { (&args.access).into() };
    // That of an earlier mount is in use for a moment after `umount` has returned.
    let device = background::open_soon(&args.target, access, ui)?;
    let mounted = mount(device.clone(), &args.folder, args.options())?;
    say(args, background, ui)?;
    let served = serve(&mounted, &interrupt, ui);
    let unmounted = mounted.unmount();
    // Whatever went wrong, what can be made durable is; the first error is said.
    let closed = device.close();
    served?;
    unmounted?;
    closed?;
    Ok(Outcome::Done)
}

impl MountArgs {
    fn options(&self) -> MountOptions {
        let mut options = MountOptions::default();
        options.explicit_open = self.explicit_open;
        options.aggregate_conventional = self.aggr_cnv;
        options.on_error = self.errors.into();
        options.buffered = self.buffered;
        options.read_only = self.read_only;
        options.allow_other = self.allow_other;
        options.uid = self.uid.unwrap_or(options.uid);
        options.gid = self.gid.unwrap_or(options.gid);
        options.mode = self.mode;
        options.threads = self.threads;
        options
    }
}

fn say(args: &MountArgs, background: Option<Background>, ui: &Ui) -> Result<()> {
    let (target, folder) = (&args.target.target, args.folder.display());
    if let Some(background) = background {
        background.ready("")?;
    } else if ui.json {
        say_json(args, process::id())?;
    } else {
        ui.say(format_args!("{target}: mounted on {folder}; Ctrl-C or umount ends it"));
    }
    Ok(())
}

fn say_json(args: &MountArgs, pid: u32) -> Result<()> {
    let (target, mounted) = (&args.target.target, &args.folder.display().to_string());
    print_json(io::stdout().lock(), &Said { target, mounted, pid })?;
    Ok(())
}

/// Waits for the mount's end. A signal unmounts it; files that are open are waited for.
fn serve(mounted: &Mounted, interrupt: &Interrupt, ui: &Ui) -> Result<()> {
    let mut left: Option<Instant> = None;
    let mut ended = Ok(());
    let mut said = false;
    while !mounted.is_over() {
        thread::sleep(LOOK);
        match left {
            None if interrupt.came() => {
                ended = mounted.leave();
                if mounted.is_there() {
                    break;
                }
                if let Err(error) = &ended {
                    ui.say(error);
                }
                left = Some(Instant::now());
            }
            Some(since) if !said && since.elapsed() > Duration::from_secs(1) => {
                let how = if ended.is_ok() { "unmounted and flushed" } else { "unmounted" };
                ui.say(format_args!("{how}; waiting for files that are open (again to end now)"));
                said = true;
            }
            None | Some(_) => {}
        }
    }
    Ok(ended?)
}
