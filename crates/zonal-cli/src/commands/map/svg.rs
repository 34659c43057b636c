//! The map as an SVG: a rectangle a cell, filled from below, with a tooltip each.
//!
//! Colours are such that people who see few of them tell them apart (Okabe and Ito's), and each
//! state has its letter where a cell has room for one.

use std::fmt::Write;

use zonal::ZoneState;

use super::cells::{Cell, Map, letter};
use crate::{
    args::format_size,
    output::{format_bytes, plural},
    zones::state_word,
};

/// How wide the picture is, in pixels.
const WIDTH: u32 = 960;
const MARGIN: u32 = 16;

/// Room for the number of a row's first zone.
const LABEL: u32 = 64;

/// Cells are no larger than this, and no smaller than the other.
const CELL_MAX: u32 = 56;
const CELL_MIN: u32 = 12;

/// From here on a cell has room for a letter.
const LETTERED: u32 = 18;

const fn colour_of(state: ZoneState) -> &'static str {
    match state {
        ZoneState::Offline => "#000000",
        ZoneState::ReadOnly => "#cc79a7",
        ZoneState::ExplicitlyOpen => "#009e73",
        ZoneState::ImplicitlyOpen => "#56b4e9",
        ZoneState::Closed => "#e69f00",
        ZoneState::Full => "#0072b2",
        ZoneState::Empty => "#999999",
        ZoneState::NotWp => "#8b6f47",
    }
}

/// The whole picture.
pub(super) fn draw(map: &Map) -> String {
    let mut svg = Svg::default();
    svg.text(MARGIN, MARGIN + 16, 18, &title(map));
    let mut top = MARGIN + 32;
    if map.zones_per_cell > 1 {
        let words = format!(
            "A cell stands for {} zones: how much of them is written, and the first state of the \
             legend that one of them has.",
            map.zones_per_cell
        );
        svg.text(MARGIN, top + 8, 13, &words);
        top += 20;
    }
    top = svg.legend(map, top);
    let count = u32::try_from(map.cells.len()).unwrap_or(u32::MAX).max(1);
    let room = WIDTH - 2 * MARGIN - LABEL;
    // As near to three rows to two columns as the limits let.
    let side = f64::from(room) / (f64::from(count) * 1.5).sqrt();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between the limits"
    )]
    let side = (side as u32).clamp(CELL_MIN, CELL_MAX);
    let across = room / side;
    for (at, cell) in (0u32..).zip(&map.cells) {
        let (column, y) = (at % across, top + at / across * side);
        if column == 0 {
            svg.label(MARGIN + LABEL - 8, y + side / 2 + 3, cell.first);
        }
        svg.cell(cell, MARGIN + LABEL + column * side, y, side);
    }
    svg.finish(top + count.div_ceil(across) * side + MARGIN)
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn title(map: &Map) -> String {
    let share = 100.0 * map.written as f64 / map.capacity.max(1) as f64;
    format!(
        "{}: {} of {}, {} of {} written ({share:.1} %)",
        map.name,
        plural(map.zones as usize, "zone"),
        format_size(map.zone_size),
        format_bytes(map.written),
        format_bytes(map.capacity)
    )
}

/// What is drawn so far. Writing to a string cannot fail.
#[derive(Default)]
struct Svg(String);

impl Svg {
    fn text(&mut self, x: u32, y: u32, size: u32, text: &str) {
        let _ = writeln!(
            self.0,
            r##"<text x="{x}" y="{y}" font-size="{size}" fill="#222">{}</text>"##,
            escape(text)
        );
    }

    fn label(&mut self, x: u32, y: u32, zone: u32) {
        let _ = writeln!(
            self.0,
            r##"<text x="{x}" y="{y}" font-size="11" text-anchor="end" fill="#666">{zone}</text>"##
        );
    }

    /// Returns where what follows it begins.
    fn legend(&mut self, map: &Map, top: u32) -> u32 {
        let (mut x, mut y) = (MARGIN, top);
        for (state, count) in &map.states {
            let words = format!("{} {} {count}", letter(*state), state_word(*state));
            let width = 36 + 8 * u32::try_from(words.len()).unwrap_or(0);
            if x + width > WIDTH - MARGIN {
                (x, y) = (MARGIN, y + 22);
            }
            let colour = colour_of(*state);
            let _ = writeln!(
                self.0,
                r##"<rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>"##
            );
            self.text(x + 20, y + 12, 13, &words);
            x += width;
        }
        y + 30
    }

    fn cell(&mut self, cell: &Cell, x: u32, y: u32, side: u32) {
        let inner = side - if side >= LETTERED { 4 } else { 2 };
        let colour = colour_of(cell.state);
        let height = cell.height(inner);
        // What has no write pointer is all of its colour.
        let height = if cell.capacity == 0 { inner } else { height };
        let fill = y + inner - height;
        let _ = writeln!(
            self.0,
            r##"<g><title>{}</title><rect x="{x}" y="{y}" width="{inner}" height="{inner}" fill="{colour}" fill-opacity="0.15" stroke="{colour}"/><rect x="{x}" y="{fill}" width="{inner}" height="{height}" fill="{colour}" fill-opacity="0.75"/>"##,
            escape(&describe(cell)),
        );
        if side >= LETTERED {
            let size = (side / 3).clamp(10, 16);
            let (x, y) = (x + inner / 2, y + inner / 2 + size / 3);
            let _ = writeln!(
                self.0,
                r##"<text x="{x}" y="{y}" font-size="{size}" text-anchor="middle" fill="#000" stroke="#fff" stroke-width="3" paint-order="stroke">{}</text>"##,
                letter(cell.state)
            );
        }
        self.0.push_str("</g>\n");
    }

    fn finish(self, height: u32) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            self.0
        )
    }
}

/// A cell in words.
fn describe(cell: &Cell) -> String {
    let which = match cell.zones {
        1 => format!("zone {}", cell.first),
        count => format!("zones {} to {}", cell.first, cell.first + count - 1),
    };
    let state = state_word(cell.state);
    match cell.capacity {
        0 => format!("{which}: {state}"),
        capacity => format!(
            "{which}: {state}, {} of {} written",
            format_size(cell.written),
            format_size(capacity)
        ),
    }
}

/// Text that may stand in XML.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{super::cells::tests::zone, *};

    #[test]
    fn every_cell_is_drawn_once_inside_the_picture_and_names_are_escaped() {
        for zones in [1, 4, 500, 4096, 100_000] {
            let report: Vec<_> =
                (0..zones).map(|number| zone(number, ZoneState::Closed, 4096)).collect();
            let map = Map::of("<a & \"b\">", &report, 4096);
            let svg = draw(&map);
            assert_eq!(svg.matches("<title>").count(), map.cells.len());
            assert!(svg.contains("&lt;a &amp; &quot;b&quot;&gt;"));
            assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
            let rights = svg.split("<rect x=\"").skip(1).map(|rect| {
                let number = |text: &str| text.split('"').next().unwrap().parse::<u32>().unwrap();
                number(rect) + number(rect.split("width=\"").nth(1).unwrap())
            });
            assert!(rights.max().unwrap() <= WIDTH - MARGIN);
        }
    }
}
