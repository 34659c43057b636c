//! `zonal report`: the zones, as the drive reports them.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use zonal::{ZoneInfo, ZoneState};

use crate::{
    args::{Access, TargetArg, ZoneRange, format_size},
    outcome::Outcome,
    output::{Align, Table, Ui, print_json},
    zones,
};

/// The words of `report`.
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    target: TargetArg,
    /// Only these zones: N, A..B, A..=B, A.. or ..B
    #[arg(long, value_name = "RANGE")]
    zones: Option<ZoneRange>,
    /// Only zones in this state
    #[arg(long)]
    state: Option<StateWord>,
}

/// The words of `--state`; the same that the report prints.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateWord {
    Empty,
    ImpOpen,
    ExpOpen,
    Closed,
    Full,
    ReadOnly,
    Offline,
    NotWp,
}

impl StateWord {
    fn matches(self, state: ZoneState) -> bool {
        let wanted = match self {
            Self::Empty => ZoneState::Empty,
            Self::ImpOpen => ZoneState::ImplicitlyOpen,
            Self::ExpOpen => ZoneState::ExplicitlyOpen,
            Self::Closed => ZoneState::Closed,
            Self::Full => ZoneState::Full,
            Self::ReadOnly => ZoneState::ReadOnly,
            Self::Offline => ZoneState::Offline,
            Self::NotWp => ZoneState::NotWp,
        };
        wanted == state
    }
}

/// What `report --json` says.
#[derive(Serialize)]
struct Report {
    zones: Vec<Zone>,
}

/// One zone of it; bytes, `start` and `wp` from the drive's start.
#[derive(Serialize)]
struct Zone {
    zone: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    state: &'static str,
    start: u64,
    wp: Option<u64>,
    capacity: u64,
    size: u64,
}

impl From<&ZoneInfo> for Zone {
    fn from(zone: &ZoneInfo) -> Self {
        Self {
            zone: zone.zone,
            kind: zones::kind_word(zone.kind),
            state: zones::state_word(zone.state),
            start: zone.start,
            wp: write_pointer(zone),
            capacity: zone.capacity,
            size: zone.size,
        }
    }
}

/// The write pointer as it is promised: a full zone's is at its capacity, whatever the drive
/// reports; offline and conventional zones have none.
fn write_pointer(zone: &ZoneInfo) -> Option<u64> {
    match zone.state {
        ZoneState::Full => Some(zone.start + zone.capacity),
        ZoneState::NotWp | ZoneState::Offline => None,
        ZoneState::Empty
        | ZoneState::ImplicitlyOpen
        | ZoneState::ExplicitlyOpen
        | ZoneState::Closed
        | ZoneState::ReadOnly => zone.write_pointer,
    }
}

fn table(zones: &[ZoneInfo]) -> Table {
    let mut table = Table::new(&[
        ("zone", Align::Right),
        ("type", Align::Left),
        ("state", Align::Left),
        ("start", Align::Right),
        ("wp", Align::Right),
        ("written", Align::Right),
        ("capacity", Align::Right),
        ("size", Align::Right),
    ]);
    for zone in zones {
        let wp = write_pointer(zone);
        table.row(vec![
            zone.zone.to_string(),
            zones::kind_word(zone.kind).into(),
            zones::state_word(zone.state).into(),
            zone.start.to_string(),
            wp.map_or_else(|| "-".into(), |wp| wp.to_string()),
            wp.map_or_else(|| "-".into(), |wp| format_size(wp.saturating_sub(zone.start))),
            format_size(zone.capacity),
            format_size(zone.size),
        ]);
    }
    table
}

/// Runs `report`.
pub(crate) fn run(args: &ReportArgs, ui: &Ui) -> Result<Outcome> {
    let device = args.target.open(Access::Read, ui)?;
    let mut report = device.report(zones::numbers(&device, args.zones.as_ref())?)?;
    if let Some(state) = args.state {
        report.retain(|zone| state.matches(zone.state));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if ui.json {
        print_json(&mut out, &Report { zones: report.iter().map(Zone::from).collect() })?;
    } else {
        table(&report).write(&mut out)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}
