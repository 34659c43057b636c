//! Commands that go on in the background: the same program once more, started by this one, which waits to
//! hear that it is ready and says what the other says until then. What the other says later goes to a log.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::FileType;
use zonal::{Device, Error, ErrorKind};

use crate::{
    args::{Access, TargetArg},
    output::Ui,
};

/// The words of commands that go on in the background.
#[derive(Args, Debug)]
pub(crate) struct BackgroundArgs {
    /// Go on in the background once it is ready
    #[arg(long, group = "background")]
    pub(crate) daemon: bool,
    /// With --daemon: add what it says from then on to FILE. Without, it goes to stderr where that is a file
    /// or a socket (systemd's journal), and is lost where it is a terminal or a pipe
    #[arg(long, value_name = "FILE", requires = "background")]
    log: Option<PathBuf>,
    /// It is in the background.
    #[arg(long, hide = true, group = "background")]
    pub(crate) in_background: bool,
}

/// How often a signal and the end are looked for.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// How long a drive that is in use is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The first word of what the program in the background says once it is ready.
const READY: &str = "ready";

/// Opens a drive; one that is in use is waited for, as its last user may be ending.
pub(crate) fn open_soon(target: &TargetArg, access: Access, ui: &Ui) -> Result<Device> {
    let began = Instant::now();
    loop {
        match target.open(access, ui) {
            Err(error) if is_in_use(&error) && began.elapsed() < PATIENCE => thread::sleep(LOOK),
            opened => return opened,
        }
    }
}

/// Whether something is only to be waited for.
pub(crate) fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::InUse)
}

/// What the program in the background said once it was ready, and its process.
pub(crate) struct Started {
    #[cfg_attr(not(feature = "ublk"), expect(dead_code, reason = "the device's name"))]
    pub(crate) said: String,
    pub(crate) pid: u32,
}

/// Starts this program once more, with `--in-background` for `--daemon`, and waits until it is ready.
pub(crate) fn start() -> Result<Started> {
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
    if let Some(said) = line.strip_prefix(READY) {
        return Ok(Started { said: said.trim().to_owned(), pid: child.id() });
    }
    // It has said why.
    match child.wait()?.code() {
        Some(code) => std::process::exit(code),
        None => bail!("the program in the background was killed before it was ready"),
    }
}

/// The program in the background.
pub(crate) struct Background {
    log: File,
}

impl Background {
    /// It begins, if this is it: it leaves the terminal, whose signals are not for it.
    pub(crate) fn begin(args: &BackgroundArgs) -> Result<Option<Self>> {
        if !args.in_background {
            return Ok(None);
        }
        rustix::process::setsid().context("leaving the terminal")?;
        let log = match &args.log {
            Some(path) => File::options()
                .append(true)
                .create(true)
                .open(path)
                .with_context(|| format!("{}: opening the log", path.display()))?,
            None if is_kept()? => rustix::stdio::stderr().try_clone_to_owned()?.into(),
            None => nowhere()?,
        };
        Ok(Some(Self { log }))
    }

    /// It is ready, which is told with `said`; what is said from now on goes to the log.
    pub(crate) fn ready(self, said: &str) -> io::Result<()> {
        writeln!(io::stdout(), "{READY} {said}")?;
        rustix::stdio::dup2_stdout(nowhere()?)?;
        rustix::stdio::dup2_stderr(&self.log)?;
        Ok(())
    }
}

fn nowhere() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Whether stderr is kept: whoever reads a pipe to its end would wait for the background's.
fn is_kept() -> io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(rustix::stdio::stderr())?.st_mode);
    Ok(matches!(kind, FileType::RegularFile | FileType::Socket))
}
