//! `zonal completions` and `zonal man`: what shells and `man` need, from the words that the program
//! itself is made of.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Cli, outcome::Outcome, output::Ui};

/// The words of `completions`.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// The words of `man`.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The folder that the pages go into; made if it is not there
    dir: PathBuf,
}

/// Runs `completions`.
pub(crate) fn run(args: &CompletionsArgs) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "zonal", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Outcome::Done)
}

/// A page whose examples have a section of their own and keep their lines.
fn with_examples(page: &str) -> String {
    page.replace(".SH EXTRA\nEXAMPLES:\n", ".SH EXAMPLES\n.nf\n")
}

/// Runs `man`.
pub(crate) fn run_man(args: &ManArgs, ui: &Ui) -> Result<Outcome> {
    let place = || args.dir.display().to_string();
    fs::create_dir_all(&args.dir).with_context(place)?;
    let cli = Cli::command();
    // Of a command that this build is without there is no page.
    let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let names = commands.flat_map(|command| {
        let name = format!("zonal-{}", command.get_name());
        let verbs = command.get_subcommands().map(|verb| format!("{name}-{}.1", verb.get_name()));
        verbs.chain([format!("{name}.1")]).collect::<Vec<_>>()
    });
    let pages: Vec<PathBuf> = names.map(|name| args.dir.join(name)).collect();
    clap_mangen::generate_to(cli, &args.dir).with_context(place)?;
    for page in pages {
        let text = fs::read_to_string(&page).with_context(place)?;
        fs::write(&page, with_examples(&text)).with_context(place)?;
    }
    ui.say(format_args!("{}: a page for each command; try: man {0}/zonal.1", args.dir.display()));
    Ok(Outcome::Done)
}
