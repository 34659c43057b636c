//! `bench --plot`: latency over time, and by percentile, as an SVG.
//!
//! Both axes of latency are logarithmic: what is rare is a hundred times slower than what is usual,
//! and both are of interest.

use std::{path::Path, time::Duration};

use anyhow::{Result, anyhow, ensure};
use plotters::prelude::*;

use super::{results::Measured, worker::Direction};
use crate::output::{format_nanos, format_seconds, write_picture};

const SIZE: (u32, u32) = (960, 720);

/// Colours that people who see few colours tell apart (Okabe and Ito's), and their lighter partners.
const READ: RGBColor = RGBColor(0, 114, 178);
const WRITE: RGBColor = RGBColor(213, 94, 0);

/// Percentiles by how many nines they are away from the middle: 50, 90, 99, 99.9, 99.99.
const NINES: f64 = 4.0;

/// A line of the drawing.
struct Series {
    name: String,
    colour: RGBAColor,
    points: Vec<(f64, f64)>,
}

/// Draws what was measured into the file at `path`.
pub(super) fn draw(path: &Path, rw: &str, measured: &Measured) -> Result<()> {
    let ways: Vec<(&str, &Direction, RGBColor)> =
        [("read", &measured.read, READ), ("write", &measured.write, WRITE)]
            .into_iter()
            .filter(|(_, way, _)| way.ios() > 0)
            .collect();
    ensure!(!ways.is_empty(), "--plot: nothing was measured, so there is nothing to draw");
    let mut text = String::new();
    drawing(&mut text, rw, measured, &ways)
        .map_err(|error| anyhow!("--plot {}: {error}", path.display()))?;
    write_picture(path, &text)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn drawing(
    text: &mut String,
    rw: &str,
    measured: &Measured,
    ways: &[(&str, &Direction, RGBColor)],
) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("zonal bench --rw {rw}: latency");
    let root = root.titled(&title, ("sans-serif", 20))?;
    let (above, below) = root.split_vertically(340);
    let seconds = measured.elapsed.as_secs_f64().max(1e-3);
    let over_time: Vec<Series> = ways.iter().flat_map(over_time).collect();
    let by_percentile: Vec<Series> = ways.iter().map(by_percentile).collect();
    let time = Axis { end: seconds, labels: 10, what: "time since the start", word: &seconds_word };
    panel(&above, &over_time, &time)?;
    let nines = Axis { end: NINES, labels: 5, what: "percentile", word: &percentile_word };
    panel(&below, &by_percentile, &nines)?;
    root.present()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a drawing")]
fn over_time((name, way, colour): &(&str, &Direction, RGBColor)) -> Vec<Series> {
    [(50.0, 1.0), (99.0, 0.6), (100.0, 0.35)]
        .into_iter()
        .map(|(percentile, strength)| Series {
            name: match percentile {
                100.0 => format!("{name} max"),
                _ => format!("{name} p{percentile}"),
            },
            colour: colour.mix(strength),
            points: way
                .timeline
                .points()
                .map(|(at, slice)| (at, slice.value_at_percentile(percentile).max(1) as f64))
                .collect(),
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a drawing")]
fn by_percentile((name, way, colour): &(&str, &Direction, RGBColor)) -> Series {
    let steps = 200;
    let points = (0..=steps).map(|step| {
        let nines = NINES * f64::from(step) / f64::from(steps);
        let latency = way.latency_ns.value_at_percentile(percentile_at(nines));
        (nines, latency.max(1) as f64)
    });
    Series { name: (*name).to_owned(), colour: colour.mix(1.0), points: points.collect() }
}

/// 0 is 0 %, 1 is 90 %, 2 is 99 %, and so on.
fn percentile_at(nines: f64) -> f64 {
    100.0 - 100.0 / 10f64.powf(nines)
}

fn percentile_word(nines: &f64) -> String {
    format!("{}", (percentile_at(*nines) * 1e4).round() / 1e4)
}

fn seconds_word(seconds: &f64) -> String {
    if *seconds > 0.0 { format_seconds(Duration::from_secs_f64(*seconds)) } else { "0".into() }
}

/// What goes to the right, from 0 to `end`.
struct Axis<'a> {
    end: f64,
    labels: usize,
    what: &'a str,
    word: &'a dyn Fn(&f64) -> String,
}

/// One chart, latencies upwards, and its legend beside it.
fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    series: &[Series],
    axis: &Axis<'_>,
) -> Drawn {
    let (area, legend) = area.split_horizontally(SIZE.0 - 120);
    let latencies = || series.iter().flat_map(|series| &series.points).map(|(_, y)| *y);
    let least = latencies().fold(f64::INFINITY, f64::min).min(1e9) * 0.8;
    let most = latencies().fold(1.0, f64::max) * 1.25;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(38)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..axis.end, (least..most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(axis.what)
        .x_labels(axis.labels)
        .x_label_formatter(axis.word)
        .y_label_formatter(&|nanos| latency_label(*nanos))
        .light_line_style(BLACK.mix(0.06))
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (at, Series { name, colour, points }) in (0..).zip(series) {
        let style = colour.stroke_width(2);
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        let y = 24 + 20 * at;
        legend.draw(&PathElement::new(vec![(0, y), (18, y)], style))?;
        legend.draw(&Text::new(name.as_str(), (26, y - 6), ("sans-serif", 13)))?;
    }
    Ok(())
}

/// What stands at a line of a logarithmic axis: 1, 2 and 5 of each decade; the others lie too close.
fn latency_label(nanos: f64) -> String {
    let first = nanos / 10_f64.powf(nanos.log10().floor());
    let stands = [1.0, 2.0, 5.0, 10.0].iter().any(|digit| (first - digit).abs() < 0.01);
    if stands { format_nanos(nanos) } else { String::new() }
}
