//! `zonal mount`: a drive as a zonefs, until it is unmounted or the program is told to end.
//!
//! In the background it is the same program once more, started by this one, which waits to hear that
//! the drive is mounted and says what the other says until then.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use zonal::{Device, Error, ErrorKind};
use zonal_export::mount::{MountOptions, Mounted, OnError, mount};

use crate::{
    args::{Access, TargetArg, WriteAccess},
    outcome::Outcome,
    output::{Ui, print_json},
    signals::Interrupt,
};

/// How often a signal and the mount's end are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// How long a drive that is in use is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the program in the background says once the drive is mounted.
const READY: &str = "mounted";

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
    /// Go on in the background once it is mounted
    #[arg(long)]
    daemon: bool,
    /// It is in the background.
    #[arg(long, hide = true, conflicts_with = "daemon")]
    in_background: bool,
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
}

/// Runs `mount`.
pub(crate) fn run(args: &MountArgs, ui: &Ui) -> Result<Outcome> {
    if args.daemon {
        return start_in_background();
    }
    if args.in_background {
        rustix::process::setsid().context("leaving the terminal")?;
    }
    let interrupt = Interrupt::install()?;
    let access = if args.read_only { Access::Read } else { (&args.access).into() };
    let device = open(args, access, ui)?;
    let mounted = mount(device.clone(), &args.folder, args.options())?;
    say(args, ui)?;
    serve(&mounted, &interrupt, ui)?;
    mounted.unmount()?;
    device.close()?;
    Ok(Outcome::Done)
}

/// Opens the drive. That of an earlier mount is in use for a moment after `umount` has returned.
fn open(args: &MountArgs, access: Access, ui: &Ui) -> Result<Device> {
    let began = Instant::now();
    loop {
        match args.target.open(access, ui) {
            Err(error) if is_in_use(&error) && began.elapsed() < PATIENCE => thread::sleep(LOOK),
            opened => return opened,
        }
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::InUse)
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

fn say(args: &MountArgs, ui: &Ui) -> Result<()> {
    let (target, folder) = (&args.target.target, args.folder.display().to_string());
    if args.in_background {
        writeln!(io::stdout(), "{READY}")?;
        leave_the_terminal()?;
    } else if ui.json {
        print_json(io::stdout().lock(), &Said { target, mounted: &folder })?;
    } else {
        ui.say(format_args!("{target}: mounted on {folder}; Ctrl-C or umount ends it"));
    }
    Ok(())
}

/// Waits for the mount's end. A signal unmounts it; files that are open are waited for.
fn serve(mounted: &Mounted, interrupt: &Interrupt, ui: &Ui) -> Result<()> {
    let mut left: Option<Instant> = None;
    let mut said = false;
    while !mounted.is_over() {
        thread::sleep(LOOK);
        match left {
            None if interrupt.came() => {
                mounted.leave()?;
                left = Some(Instant::now());
            }
            Some(since) if !said && since.elapsed() > Duration::from_secs(1) => {
                ui.say("unmounted and flushed; waiting for files that are open (again to end now)");
                said = true;
            }
            None | Some(_) => {}
        }
    }
    Ok(())
}

/// Starts this program once more, and waits until the drive is mounted.
fn start_in_background() -> Result<Outcome> {
    let mut words: Vec<_> = env::args_os().skip(1).collect();
    let daemon = words.iter().position(|word| word == "--daemon").context("--daemon is a word")?;
    words[daemon] = "--in-background".into();
    let mut child = Command::new(env::current_exe()?)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting in the background")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its stdout is a pipe")?).read_line(&mut line)?;
    if line.trim_end() == READY {
        return Ok(Outcome::Done);
    }
    // It has said why.
    match child.wait()?.code() {
        Some(code) => std::process::exit(code),
        None => bail!("the program in the background was killed before the drive was mounted"),
    }
}

/// What is said from now on has nobody to hear it.
fn leave_the_terminal() -> io::Result<()> {
    let nowhere = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
