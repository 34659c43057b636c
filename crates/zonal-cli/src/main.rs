//! The `zonal` program.
//!
//! Each command goes the same way: *parse* its words (`args`, with clap), *resolve* them against the
//! drive (defaults, zone numbers, limits), *run*. Results go to stdout, talk to stderr, and the exit
//! code says how it ended: 0 done, 1 a negative answer, 2 an error, 128 + n stopped by signal n.

mod args;
mod background;
mod commands;
mod outcome;
mod output;
mod own;
mod records;
mod signals;
mod transfer;
mod zones;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, error::ErrorKind};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{commands::Command, output::Ui};

/// Zoned storage in user space: concurrent appends that report where they landed.
#[derive(Parser, Debug)]
#[command(name = "zonal", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Say more on stderr (-vv: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    // Histories are full of failures, which are no news.
    log(cli.verbose, if matches!(cli.command, Command::Sim(_)) { "off" } else { "warn" });
    if let Err(error) = signals::outlive_file_limit() {
        let _ = writeln!(io::stderr(), "zonal: a limit on files will end the program: {error}");
    }
    let ui = Ui { json: cli.json, quiet: cli.quiet };
    match cli.command.run(&ui) {
        Ok(outcome) => outcome.into(),
        Err(error) if outcome::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Says what is wrong.
fn fail(error: &anyhow::Error) -> ExitCode {
    // Nothing is left to tell that stderr is gone.
    let _ = writeln!(io::stderr(), "zonal: {}", chain(error));
    ExitCode::from(outcome::ERROR)
}

/// An error and its causes, but for those that its own words hold already.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    // What nobody gave a place is what was printed.
    if error.downcast_ref::<io::Error>().is_some_and(is_about_room) && error.chain().count() == 1 {
        text = format!("writing to stdout: {text}");
    }
    for cause in error.chain().skip(1).map(ToString::to_string) {
        let words = cause.split(" (os error").next().unwrap_or_default();
        if !text.contains(words) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_about_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Help and version go to stdout; a wrong word to stderr, in the program's name.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match error.print().map_err(anyhow::Error::from) {
                Err(error) if !outcome::is_broken_pipe(&error) => fail(&error),
                Ok(()) | Err(_) => ExitCode::SUCCESS,
            }
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let _ = write!(io::stderr(), "zonal: {text}");
            ExitCode::from(outcome::ERROR)
        }
    }
}

/// What the library traces, to stderr: warnings, more with `-v`, or what `ZONAL_LOG` says in
/// `tracing`'s words (`debug`, `zonal=trace`).
fn log(verbose: u8, least: &str) {
    let level = match verbose {
        0 => least,
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let wanted = std::env::var("ZONAL_LOG").unwrap_or_default();
    let targets: Targets = match wanted.as_str() {
        "" => level,
        text => text,
    }
    .parse()
    .unwrap_or_else(|_| Targets::new().with_default(tracing_subscriber::filter::LevelFilter::WARN));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).without_time().with_target(false);
    // Fails only if a subscriber is set already, and nobody else sets one.
    let _ = tracing_subscriber::registry().with(targets).with(lines).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_has_no_contradiction() {
        Cli::command().debug_assert();
    }
}
