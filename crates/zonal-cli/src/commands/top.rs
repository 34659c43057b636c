//! `zonal top`: a drive as it is being written, redrawn again and again.
//!
//! Another process writes, this one only looks: it opens the drive anew each time, to read, and so
//! sees what the writer had acknowledged. What was written since is the difference of two looks.
//! How many requests that took, nobody tells, so rates are bytes.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::Line,
    widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table},
};
use zonal::{Device, ZoneInfo, ZoneState};

use super::map::{STATES, fill_of};
use crate::{
    args::{Access, TargetArg, format_size, parse_duration},
    outcome::Outcome,
    output::{Ui, format_bytes, format_rate, plural},
    zones,
};

/// How many rates are kept for the curve: more than a terminal is wide.
const HISTORY: usize = 400;

/// The words of `top`.
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    target: TargetArg,
    /// From one look to the next: 1s, 200ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
}

/// Runs `top`.
pub(crate) fn run(args: &TopArgs, ui: &Ui) -> Result<Outcome> {
    ensure!(
        !args.target.target.starts_with("mem:"),
        "{}: a drive in memory is gone with its process, and nobody else writes to it; name an image",
        args.target.target
    );
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal() && !ui.json,
        "top draws on a terminal; zonal report and zonal map say the same once"
    );
    // What opening has to say is no part of the picture, after the first time.
    let mut view = View::new(&args.target.open(Access::Read, ui)?)?;
    let quiet = Ui { quiet: true, ..*ui };
    let mut terminal = ratatui::try_init()?;
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| draw(frame, &view)) {
            break Err(error.into());
        }
        match quits(args.interval) {
            Ok(true) => break Ok(Outcome::Done),
            Ok(false) => {}
            Err(error) => break Err(error.into()),
        }
        match args.target.open(Access::Read, &quiet).and_then(|device| view.look(&device)) {
            Ok(()) => view.trouble = None,
            Err(error) => view.trouble = Some(error.to_string()),
        }
    };
    ratatui::restore();
    ended
}

/// Waits until the next look is due. True: the user has seen enough.
fn quits(interval: Duration) -> io::Result<bool> {
    let due = Instant::now() + interval;
    loop {
        if !event::poll(due.saturating_duration_since(Instant::now()))? {
            return Ok(false);
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                KeyCode::Char('c') if control => return Ok(true),
                _ => {}
            }
        }
    }
}

/// A zone and how fast it grows.
#[derive(Clone, Copy)]
struct Busy {
    zone: ZoneInfo,
    bytes_per_second: f64,
}

/// What is drawn.
struct View {
    title: String,
    zones: Vec<ZoneInfo>,
    seen: Instant,
    /// Zones that grew since the last look, fastest first, then others that are active.
    busy: Vec<Busy>,
    /// Bytes a second of the whole drive, oldest first.
    rates: VecDeque<u64>,
    /// Why the last look failed.
    trouble: Option<String>,
}

impl View {
    /// The first look.
    fn new(device: &Device) -> Result<Self> {
        let geometry = device.geometry();
        let limits = device.limits();
        let limit = |limit: Option<u32>| limit.map_or("any".to_owned(), |limit| limit.to_string());
        let title = format!(
            " {}: {}, {} of {}, open at most {}, active at most {} ",
            device.name(),
            format_size(geometry.size),
            plural(geometry.zones() as usize, "zone"),
            format_size(geometry.zone_size),
            limit(limits.max_open_zones),
            limit(limits.max_active_zones)
        );
        let mut view = Self {
            title,
            zones: Vec::new(),
            seen: Instant::now(),
            busy: Vec::new(),
            rates: VecDeque::with_capacity(HISTORY),
            trouble: None,
        };
        view.update(device.report(..)?, Duration::ZERO);
        Ok(view)
    }

    /// Another look.
    fn look(&mut self, device: &Device) -> Result<()> {
        let now = Instant::now();
        let since = now - self.seen;
        self.seen = now;
        self.update(device.report(..)?, since);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
    fn update(&mut self, zones: Vec<ZoneInfo>, since: Duration) {
        let old = std::mem::replace(&mut self.zones, zones);
        let first = old.is_empty();
        let seconds = since.as_secs_f64().max(1e-3);
        let mut busy = Vec::new();
        let mut total = 0.0;
        for (at, zone) in self.zones.iter().enumerate() {
            let now = fill_of(zone).0;
            let before = if first { now } else { old.get(at).map_or(0, |old| fill_of(old).0) };
            // What was reset in between counts with what is there now.
            let grown = if now >= before { now - before } else { now };
            let bytes_per_second = grown as f64 / seconds;
            total += bytes_per_second;
            if grown > 0 || zones::is_active(zone.state) {
                busy.push(Busy { zone: *zone, bytes_per_second });
            }
        }
        busy.sort_by(|a, b| b.bytes_per_second.total_cmp(&a.bytes_per_second));
        self.busy = busy;
        if !first {
            if self.rates.len() == HISTORY {
                self.rates.pop_front();
            }
            self.rates.push_back(total as u64);
        }
    }

    fn written(&self) -> (u64, u64) {
        let fills = self.zones.iter().map(fill_of);
        fills.fold((0, 0), |sum, fill| (sum.0 + fill.0, sum.1 + fill.1))
    }

    /// How many zones are in each state that there is.
    fn states(&self) -> String {
        let count = |state| self.zones.iter().filter(|zone| zone.state == state).count();
        let words = STATES
            .into_iter()
            .map(|state| (zones::state_word(state), count(state)))
            .filter(|(_, count)| *count > 0)
            .map(|(word, count)| format!("{word} {count}"));
        words.collect::<Vec<_>>().join("   ")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a picture")]
fn draw(frame: &mut Frame<'_>, view: &View) {
    let [head, states, curve, table, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let (written, capacity) = view.written();
    let share = written as f64 / capacity.max(1) as f64;
    let label = format!(
        "{} of {} written ({:.1} %)",
        format_bytes(written),
        format_bytes(capacity),
        100.0 * share
    );
    let gauge = Gauge::default()
        .block(Block::bordered().title(view.title.as_str()))
        .gauge_style(Style::new().fg(Color::Blue))
        .ratio(share.clamp(0.0, 1.0))
        .label(label);
    frame.render_widget(gauge, head);
    frame.render_widget(Paragraph::new(format!(" {}", view.states())), states);
    draw_curve(frame, view, curve);
    draw_table(frame, view, table);
    let words = match &view.trouble {
        Some(trouble) => Line::from(format!(" {trouble}")).fg(Color::Red),
        None => Line::from(" q quits").add_modifier(Modifier::DIM),
    };
    frame.render_widget(words, foot);
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn draw_curve(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let now = view.rates.back().copied().unwrap_or_default();
    let most = view.rates.iter().copied().max().unwrap_or_default();
    let title =
        format!(" written: {} now, {} at most ", format_rate(now as f64), format_rate(most as f64));
    let block = Block::bordered().title(title);
    // The newest that fit.
    let room = usize::from(block.inner(area).width);
    let skip = view.rates.len().saturating_sub(room);
    let rates: Vec<u64> = view.rates.iter().skip(skip).copied().collect();
    let curve = Sparkline::default().block(block).data(rates).fg(Color::Green);
    frame.render_widget(curve, area);
}

fn draw_table(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let rows = view.busy.iter().take(usize::from(area.height)).map(|busy| {
        let Busy { zone, bytes_per_second } = busy;
        let (written, capacity) = fill_of(zone);
        let rate = match *bytes_per_second {
            0.0 => "-".to_owned(),
            rate => format_rate(rate),
        };
        let row = Row::new([
            zone.zone.to_string(),
            zones::state_word(zone.state).to_owned(),
            format_bytes(written),
            format_size(capacity),
            bar(written, capacity),
            rate,
        ]);
        row.fg(colour_of(zone.state))
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(11),
        Constraint::Length(11),
        Constraint::Length(22),
        Constraint::Min(10),
    ];
    let head = Row::new(["zone", "state", "written", "capacity", "", "rate"]).bold();
    let table = Table::new(rows, widths)
        .header(head)
        .block(Block::bordered().title(format!(" zones in use: {} ", view.busy.len())));
    frame.render_widget(table, area);
}

/// Twenty columns, as many of them full as is written.
fn bar(written: u64, capacity: u64) -> String {
    const COLUMNS: u128 = 20;
    let full = u128::from(written) * COLUMNS / u128::from(capacity.max(1));
    let full = usize::try_from(full.min(COLUMNS)).unwrap_or_default();
    "█".repeat(full) + &"░".repeat(20 - full)
}

const fn colour_of(state: ZoneState) -> Color {
    match state {
        ZoneState::Offline => Color::Red,
        ZoneState::ReadOnly => Color::Magenta,
        ZoneState::ExplicitlyOpen => Color::LightGreen,
        ZoneState::ImplicitlyOpen => Color::Green,
        ZoneState::Closed => Color::Yellow,
        ZoneState::Full => Color::Blue,
        ZoneState::Empty | ZoneState::NotWp => Color::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::{Terminal, backend::TestBackend};
    use zonal::{OpenOptions, QueueOptions, Request, Target};

    fn shown(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 20)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_frame_shows_what_was_written_between_two_looks() {
        let target = Target::parse("mem:size=64M,zone-size=8M,max-open-zones=4").unwrap();
        let device = zonal::open(&target, &OpenOptions::default()).unwrap();
        let mut queue = device.queue(&QueueOptions::default()).unwrap();
        let mut append = |zone| {
            let mut data = queue.buffer(65536).unwrap();
            data.fill(1);
            queue.push(Request::append(zone, data)).unwrap();
            queue.submit_and_wait(1).unwrap();
            queue.next_completion().unwrap().result.unwrap();
        };
        append(5);
        let mut view = View::new(&device).unwrap();
        for _ in 0..64 {
            append(2);
        }
        view.update(device.report(..).unwrap(), Duration::from_secs(2));
        let frame = shown(&view);
        for part in [
            "64M, 8 zones of 8M, open at most 4, active at most any",
            "4.06M of 64M written (6.3 %)",
            "imp-open 2   empty 6",
            "written: 2.10 MB/s now",
            "zones in use: 2",
            "██████████░░░░░░░░░░",
            "q quits",
        ] {
            assert!(frame.contains(part), "{part:?} is not in\n{frame}");
        }
        let rows: Vec<&str> =
            frame.lines().filter(|line| line.contains("imp-open") && line.contains('░')).collect();
        assert_eq!(rows.len(), 2, "{frame}");
        assert!(rows[0].contains("│2 ") && rows[0].contains("2.10 MB/s"), "{frame}");
        assert!(
            rows[1].contains("│5 ") && !rows[1].contains("MB/s"),
            "the fastest first:\n{frame}"
        );
        view.trouble = Some("disk: gone".into());
        assert!(shown(&view).contains("disk: gone"));
    }

    #[test]
    fn a_reset_between_two_looks_is_no_negative_rate() {
        let target = Target::parse("mem:size=64M,zone-size=8M").unwrap();
        let device = zonal::open(&target, &OpenOptions::default()).unwrap();
        let mut view = View::new(&device).unwrap();
        let mut report = device.report(..).unwrap();
        report[1].write_pointer = Some(report[1].start + (1 << 20));
        report[1].state = ZoneState::ImplicitlyOpen;
        view.update(report.clone(), Duration::from_secs(1));
        report[1].write_pointer = Some(report[1].start + (1 << 19));
        view.update(report, Duration::from_secs(1));
        assert_eq!(view.rates, [1 << 20, 1 << 19]);
    }
}
