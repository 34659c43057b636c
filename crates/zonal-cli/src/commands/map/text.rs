//! The map for a terminal: bars of block characters over letters, readable without colour.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use zonal::ZoneState;

use super::cells::{Cell, Map, letter};
use crate::{
    args::format_size,
    output::{format_bytes, plural},
    zones::state_word,
};

/// A column of so many eighths.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How high a single row of cells is, in lines.
const TALL: u32 = 4;

/// The widest a cell gets.
const WIDEST: usize = 7;

/// The colour of a state, as the number of an ANSI foreground colour.
const fn colour_of(state: ZoneState) -> u8 {
    match state {
        ZoneState::Offline => 31,
        ZoneState::ReadOnly => 35,
        ZoneState::ExplicitlyOpen => 92,
        ZoneState::ImplicitlyOpen => 32,
        ZoneState::Closed => 33,
        ZoneState::Full => 34,
        ZoneState::Empty => 90,
        ZoneState::NotWp => 36,
    }
}

/// Where the cells stand.
struct Layout {
    /// Columns of a cell, and between two.
    width: usize,
    gap: usize,
    /// Cells in a row.
    across: usize,
    /// Lines of a bar.
    lines: u32,
    /// Columns before the cells.
    margin: usize,
}

impl Layout {
    fn of(map: &Map, columns: usize) -> Self {
        let cells = map.cells.len().max(1);
        let last = map.cells.last().map_or(0, |cell| cell.first);
        let margin = last.to_string().len() + 2;
        let room = columns.saturating_sub(margin).max(8);
        if cells > room {
            // A round number of cells, so that zones are found by counting rows.
            let across = if room >= 64 { room / 64 * 64 } else { room / 8 * 8 };
            return Self { width: 1, gap: 0, across, lines: 1, margin };
        }
        let gap = usize::from(room / cells > 1);
        Self {
            width: (room / cells - gap).clamp(1, WIDEST),
            gap,
            across: cells,
            lines: TALL,
            margin,
        }
    }

    /// The text of one line of a row, `cell` drawing each.
    fn line(&self, row: &[Cell], colour: bool, cell: impl Fn(&Cell) -> String) -> String {
        let mut line = String::new();
        let mut last = None;
        for each in row {
            let code = colour.then(|| colour_of(each.state));
            if code != last {
                // Writing to a string cannot fail.
                let _ = write!(line, "\x1b[{}m", code.unwrap_or(0));
                last = code;
            }
            line.push_str(&cell(each));
            line.push_str(&" ".repeat(self.gap));
        }
        let line = line.trim_end().to_owned();
        if last.is_some() { line + "\x1b[0m" } else { line }
    }
}

/// Draws `map` within so many columns.
pub(super) fn draw(
    map: &Map,
    columns: usize,
    colour: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let layout = Layout::of(map, columns);
    head(map, out)?;
    writeln!(out)?;
    for row in map.cells.chunks(layout.across) {
        rows(row, &layout, colour, out)?;
    }
    writeln!(out)?;
    legend(map, columns, colour, out)
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn head(map: &Map, out: &mut impl Write) -> io::Result<()> {
    let share = 100.0 * map.written as f64 / map.capacity.max(1) as f64;
    writeln!(
        out,
        "{}: {} of {}, {} of {} written ({share:.1} %)",
        map.name,
        plural(map.zones as usize, "zone"),
        format_size(map.zone_size),
        format_bytes(map.written),
        format_bytes(map.capacity)
    )?;
    if map.zones_per_cell > 1 {
        writeln!(
            out,
            "A cell stands for {} zones: how much of them is written, and the first of the\n\
             states below that one of them has.",
            map.zones_per_cell
        )?;
    }
    Ok(())
}

/// The lines of one row of cells.
fn rows(row: &[Cell], layout: &Layout, colour: bool, out: &mut impl Write) -> io::Result<()> {
    let Layout { width, lines, margin, .. } = *layout;
    for line in (0..lines).rev() {
        let bars = layout.line(row, colour, |cell| {
            let eighths = cell.height(8 * lines).saturating_sub(8 * line).min(8);
            EIGHTHS[eighths as usize].to_string().repeat(width)
        });
        writeln!(out, "{}", format!("{:margin$}{bars}", "").trim_end())?;
    }
    let first = row.first().map_or(0, |cell| cell.first);
    let letters = layout.line(row, colour, |cell| format!("{:^width$}", letter(cell.state)));
    let number = if width == 1 { first.to_string() } else { String::new() };
    writeln!(out, "{number:>label$}  {letters}", label = margin - 2)?;
    if width > 1 {
        numbers(row, layout, out)?;
    }
    Ok(())
}

/// The zones' numbers under wide cells: as many as there is room for.
fn numbers(row: &[Cell], layout: &Layout, out: &mut impl Write) -> io::Result<()> {
    let mut line = " ".repeat(layout.margin);
    for (at, cell) in row.iter().enumerate() {
        let number = format!("{:^width$}", cell.first, width = layout.width);
        let place = layout.margin + at * (layout.width + layout.gap);
        // Left out where it would touch the one before.
        if line.trim_end().len() < place || at == 0 {
            line.truncate(line.trim_end().len().max(place.min(line.len())));
            let _ = write!(line, "{}{number} ", " ".repeat(place.saturating_sub(line.len())));
        }
    }
    writeln!(out, "{}", line.trim_end())
}

/// Letter, word and number of zones of each state there is, in lines that fit.
fn legend(map: &Map, columns: usize, colour: bool, out: &mut impl Write) -> io::Result<()> {
    let mut used = 0;
    for (state, count) in &map.states {
        let text = format!("{} {} {count}", letter(*state), state_word(*state));
        if used > 0 && used + 3 + text.len() > columns {
            writeln!(out)?;
            used = 0;
        }
        let before = if used > 0 { "   " } else { "" };
        used += before.len() + text.len();
        match colour {
            true => write!(out, "{before}\x1b[{}m{text}\x1b[0m", colour_of(*state))?,
            false => write!(out, "{before}{text}")?,
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::{super::cells::tests::zone, *};
    use zonal::ZoneInfo;

    fn drawn(report: &[ZoneInfo], colour: bool) -> String {
        let mut out = Vec::new();
        draw(&Map::of("disk", report, 1024), 80, colour, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn drive(zones: u32) -> Vec<ZoneInfo> {
        (0..zones)
            .map(|number| match number % 4 {
                0 => zone(number, ZoneState::Full, 1 << 20),
                1 => zone(number, ZoneState::Closed, 1 << 19),
                2 => zone(number, ZoneState::ImplicitlyOpen, 4096),
                _ => zone(number, ZoneState::Empty, 0),
            })
            .collect()
    }

    #[test]
    fn a_few_zones_are_drawn_large() {
        let expected = "\
disk: 4 zones of 1M, 1.50M of 4M written (37.6 %)

   ███████
   ███████
   ███████ ███████
   ███████ ███████ ▁▁▁▁▁▁▁
      f       c       i       .
      0       1       2       3

i imp-open 1   c closed 1   f full 1   . empty 1
";
        assert_eq!(drawn(&drive(4), false), expected);
    }

    #[test]
    fn any_number_of_zones_fits_the_columns_and_the_screen() {
        for zones in [1, 2, 5, 12, 39, 64, 77, 78, 100, 1000, 1025, 100_000] {
            let text = drawn(&drive(zones), false);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{zones}:\n{text}");
            assert!(text.lines().count() <= 38, "{zones}:\n{text}");
            let letters: usize =
                text.lines().skip(1).flat_map(str::chars).filter(|c| "fci.".contains(*c)).count();
            assert!(letters >= zones.min(500) as usize, "{zones}:\n{text}");
            assert_eq!(text.contains("stands for"), zones > 1024, "{zones}:\n{text}");
        }
    }

    #[test]
    fn colours_are_only_what_is_between_the_letters() {
        for zones in [4, 100, 2000] {
            let coloured = drawn(&drive(zones), true);
            assert!(coloured.contains("\x1b[34m"));
            let mut plain = String::new();
            let mut parts = coloured.split('\x1b');
            plain.push_str(parts.next().unwrap());
            parts.for_each(|part| plain.push_str(part.split_once('m').unwrap().1));
            let bare: Vec<String> = plain.lines().map(|line| line.trim_end().to_owned()).collect();
            assert_eq!(bare, drawn(&drive(zones), false).lines().collect::<Vec<_>>());
        }
    }
}
