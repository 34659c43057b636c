//! `zonal map`: the drive as a picture, one cell a zone, or one for several where there are too many.
//!
//! The cells are worked out first (`cells`), and then drawn: as text (`text`), as SVG (`svg`), or
//! listed as JSON.

mod cells;
mod svg;
mod text;

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use self::cells::Map;
#[cfg(feature = "top")]
pub(super) use self::cells::{STATES, fill_of};
use crate::{
    args::{Access, TargetArg, ZoneRange},
    outcome::Outcome,
    output::{Ui, print_json, write_picture},
    zones,
};

/// Cells of a picture for the terminal, and of one for a screen.
const TEXT_CELLS: u32 = 1024;
const SVG_CELLS: u32 = 4096;

/// How wide a picture is when nobody says, in columns.
const COLUMNS: usize = 80;

/// The words of `map`.
#[derive(Args, Debug)]
pub(crate) struct MapArgs {
    #[command(flatten)]
    target: TargetArg,
    /// Only these zones: N, A..B, A..=B, A.. or ..B
    #[arg(long, value_name = "RANGE")]
    zones: Option<ZoneRange>,
    /// Draw into this file instead
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What `map --json` says: the cells that the picture has. `state` is the one that a cell's letter
/// shows; `written` and `capacity` are bytes of those of its zones that have a write pointer.
#[derive(Serialize)]
struct Listing {
    zones: u32,
    zones_per_cell: u32,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    zone: u32,
    zones: u32,
    state: &'static str,
    written: u64,
    capacity: u64,
}

impl Listing {
    fn of(map: &Map) -> Self {
        let cells = map.cells.iter().map(|cell| Cell {
            zone: cell.first,
            zones: cell.zones,
            state: zones::state_word(cell.state),
            written: cell.written,
            capacity: cell.capacity,
        });
        Self { zones: map.zones, zones_per_cell: map.zones_per_cell, cells: cells.collect() }
    }
}

/// Runs `map`.
pub(crate) fn run(args: &MapArgs, ui: &Ui) -> Result<Outcome> {
    if let Some(path) = &args.svg {
        args.target.own_files().refuse_output(path)?;
    }
    let device = args.target.open(Access::Read, ui)?;
    let report = device.report(zones::numbers(&device, args.zones.as_ref())?)?;
    let most = if args.svg.is_some() { SVG_CELLS } else { TEXT_CELLS };
    let map = Map::of(device.name(), &report, most);
    if let Some(path) = &args.svg {
        write_picture(path, &svg::draw(&map))?;
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if ui.json {
        print_json(&mut out, &Listing::of(&map))?;
    } else if args.svg.is_none() {
        let (columns, colour) = terminal();
        text::draw(&map, columns, colour, &mut out)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// How wide stdout is, and whether it shows colours.
fn terminal() -> (usize, bool) {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return (COLUMNS, false);
    }
    let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col.into());
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    (if columns == 0 { COLUMNS } else { columns }, !plain)
}
