//! What the command line asks for.

use anyhow::{Context, bail};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const HELP: &str = "\
Measures the figures of docs/performance.md.

  --seconds N   how long each run of a side takes (default 5)
  --pairs N     how many pairs of runs (default 5)
  --only NAME   only the rows whose name contains NAME
  --dir DIR     where the files are made (default: the build's folder); removed afterwards
  --markdown    print the table of docs/performance.md
  --list        say which rows there are
";

pub(crate) enum Command {
    Help,
    List,
    Measure(Options),
}

pub(crate) struct Options {
    pub(crate) time: Duration,
    pub(crate) pairs: usize,
    pub(crate) only: Option<String>,
    pub(crate) dir: PathBuf,
    pub(crate) markdown: bool,
}

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Command> {
    let mut options = Options {
        time: Duration::from_secs(5),
        pairs: 5,
        only: None,
        dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        markdown: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match &*word {
            "--seconds" => options.time = Duration::try_from_secs_f64(value()?.parse()?)?,
            "--pairs" => options.pairs = value()?.parse::<usize>()?.max(1),
            "--only" => options.only = Some(value()?),
            "--dir" => options.dir = value()?.into(),
            "--markdown" => options.markdown = true,
            "--list" => return Ok(Command::List),
            "--help" | "-h" => return Ok(Command::Help),
            // Given by cargo.
            "--bench" => {}
            other => bail!("there is no option {other}; see --help"),
        }
    }
    Ok(Command::Measure(options))
}
