//! Commands of features that this build was made without: what they are, and how to come by them.

use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::Args;

use crate::outcome::Outcome;

/// Whatever words such a command is given.
#[derive(Args, Debug)]
pub(crate) struct MissingArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<OsString>,
}

/// Says that a command is not there.
pub(crate) fn run(command: &str, feature: &str) -> Result<Outcome> {
    bail!(
        "{command}: this build was made without it; `cargo build --release -p zonal-cli --features {feature}` makes \
         one with it (see the README for what that takes)"
    )
}
