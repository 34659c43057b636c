//! Commands that go on in the background: the same program once more, started by this one, which waits to
//! hear that it is ready and says what the other says until then.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use zonal::{Device, Error, ErrorKind};

use crate::{
    args::{Access, TargetArg},
    output::Ui,
};

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

/// Starts this program once more, with `--in-background` for `--daemon`, and waits until it is ready. Returns
/// what it said then.
pub(crate) fn start() -> Result<String> {
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
        return Ok(said.trim().to_owned());
    }
    // It has said why.
    match child.wait()?.code() {
        Some(code) => std::process::exit(code),
        None => bail!("the program in the background was killed before it was ready"),
    }
}

/// The program in the background begins: it leaves the terminal, whose signals are not for it.
pub(crate) fn begin() -> Result<()> {
    rustix::process::setsid().context("leaving the terminal")?;
    Ok(())
}

/// It is ready; what is said from now on has nobody to hear it.
pub(crate) fn is_ready(said: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{READY} {said}")?;
    let nowhere = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
