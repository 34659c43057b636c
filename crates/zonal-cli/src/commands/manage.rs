//! `zonal open`, `close`, `finish` and `reset`: one operation on many zones.
//!
//! What erases (finish pads a zone up to its end, reset empties it) asks first on a terminal, and
//! elsewhere wants `--yes`.

use std::io;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde::Serialize;
use zonal::{Completion, Device, QueueOptions, Request, ZoneInfo, ZoneKind, ZoneState};

use crate::{
    args::{Access, TargetArg, WriteAccess, ZoneRange, format_size},
    outcome::Outcome,
    output::{Ui, plural, print_json},
    transfer, zones,
};

/// What is done to the zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Explicitly open.
    Open,
    /// Close.
    Close,
    /// Move to full.
    Finish,
    /// Move to empty.
    Reset,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Finish => "finish",
            Self::Reset => "reset",
        }
    }

    fn request(self, zone: u32) -> Request {
        match self {
            Self::Open => Request::open(zone),
            Self::Close => Request::close(zone),
            Self::Finish => Request::finish(zone),
            Self::Reset => Request::reset(zone),
        }
    }

    /// Whether `--all` means this zone: `--all` leaves alone what the operation does not fit or would
    /// not change.
    fn fits(self, zone: &ZoneInfo) -> bool {
        zone.kind == ZoneKind::Sequential
            && match self {
                Self::Open => zones::takes_data(zone.state),
                Self::Close => zones::is_active(zone.state),
                Self::Finish => zones::takes_data(zone.state),
                Self::Reset => {
                    zone.state == ZoneState::Full
                        || zones::is_active(zone.state)
                        || zones::takes_data(zone.state) && zones::room(zone) < zone.capacity
                }
            }
    }

    /// Whether what it leaves behind ends with the process on an emulated drive.
    const fn is_fleeting(self) -> bool {
        match self {
            Self::Open | Self::Close => true,
            Self::Finish | Self::Reset => false,
        }
    }
}

/// The words of `open` and `close`.
#[derive(Args, Debug)]
pub(crate) struct ManageArgs {
    #[command(flatten)]
    target: TargetArg,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    access: WriteAccess,
}

/// The words of `finish` and `reset`.
#[derive(Args, Debug)]
pub(crate) struct ErasingArgs {
    #[command(flatten)]
    manage: ManageArgs,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Which zones; one of them must be said.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// One zone
    #[arg(long, value_name = "N")]
    zone: Option<u32>,
    /// These zones: N, A..B, A..=B, A.. or ..B
    #[arg(long, value_name = "RANGE")]
    zones: Option<ZoneRange>,
    /// Every sequential zone that it would change
    #[arg(long)]
    all: bool,
}

impl Which {
    /// The zones meant. Named ones are taken as they are, so that the drive can say what is wrong.
    fn resolve(&self, verb: Verb, device: &Device) -> Result<Vec<ZoneInfo>> {
        if let Some(zone) = self.zone {
            let count = device.geometry().zones();
            if zone >= count {
                let zones = plural(count as usize, "zone");
                bail!("{}: zone {zone}: the drive has {zones}, 0..{count}", device.name());
            }
            return Ok(device.report(zone..=zone)?);
        }
        let mut report = device.report(zones::numbers(device, self.zones.as_ref())?)?;
        if self.all {
            report.retain(|zone| verb.fits(zone));
        }
        Ok(report)
    }
}

/// What `--json` says.
#[derive(Serialize)]
struct Managed {
    operation: &'static str,
    zones: Vec<u32>,
}

/// Runs `open` or `close`.
pub(crate) fn run(verb: Verb, args: &ManageArgs, ui: &Ui) -> Result<Outcome> {
    manage(verb, args, ui, |_, _| Ok(true))
}

/// Runs `finish` or `reset`.
pub(crate) fn run_erasing(verb: Verb, args: &ErasingArgs, ui: &Ui) -> Result<Outcome> {
    if !args.yes && !ui.can_ask() {
        bail!(
            "{}: {} cannot be undone, and nobody is there to be asked; say --yes to do it",
            args.manage.target.target,
            verb.word()
        );
    }
    manage(verb, &args.manage, ui, |device, zones| {
        Ok(args.yes || ui.ask(question(verb, device, zones))?)
    })
}

/// What to ask before erasing.
fn question(verb: Verb, device: &Device, zones: &[ZoneInfo]) -> String {
    let which = match zones {
        [zone] => format!("zone {}", zone.zone),
        _ => plural(zones.len(), "zone"),
    };
    let bytes: u64 = zones
        .iter()
        .map(|zone| match verb {
            Verb::Finish => zones::room(zone),
            Verb::Open | Verb::Close | Verb::Reset => zone.capacity - zones::room(zone),
        })
        .sum();
    let loss = match verb {
        Verb::Finish => "giving up the room left in them",
        Verb::Open | Verb::Close | Verb::Reset => "erasing what they hold",
    };
    format!("{} {which} of {}, {loss} ({})?", verb.word(), device.name(), format_size(bytes))
}

/// Opens the drive, does it to the zones once `consent` agrees, and flushes.
fn manage(
    verb: Verb,
    args: &ManageArgs,
    ui: &Ui,
    consent: impl FnOnce(&Device, &[ZoneInfo]) -> Result<bool>,
) -> Result<Outcome> {
    let device = args.target.open(Access::from(&args.access), ui)?;
    let targets = args.which.resolve(verb, &device)?;
    if !targets.is_empty() && !consent(&device, &targets)? {
        device.close()?;
        bail!("nothing was done");
    }
    if args.which.all {
        tell_dead(&device, ui)?;
    }
    let done = apply(verb, &device, &targets);
    let kind = device.info().kind;
    device.close()?;
    let zones = done?;
    if verb.is_fleeting()
        && !matches!(kind, "memory" | "block device" | "NVMe namespace")
        && !zones.is_empty()
    {
        ui.say(format_args!(
            "{}: done, but open and closed do not outlive the process: what was open is closed when \
             this command ends, and a zone without data is empty",
            args.target.target
        ));
    }
    if ui.json {
        print_json(io::stdout().lock(), &Managed { operation: verb.word(), zones })?;
    } else {
        let count = plural(zones.len(), "zone");
        ui.say(format_args!("{}: {} of {count} done", args.target.target, verb.word()));
    }
    Ok(Outcome::Done)
}

/// Says which zones `--all` leaves as they are because they have died.
fn tell_dead(device: &Device, ui: &Ui) -> Result<()> {
    let dead: Vec<String> = device
        .report(..)?
        .iter()
        .filter(|zone| matches!(zone.state, ZoneState::ReadOnly | ZoneState::Offline))
        .map(|zone| format!("{} ({})", zone.zone, zones::state_word(zone.state)))
        .collect();
    if !dead.is_empty() {
        let shown = dead.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if dead.len() > 8 { ", …" } else { "" };
        ui.say(format_args!("{}: left as they are: zones {shown}{more}", device.name()));
    }
    Ok(())
}

/// Many zones at a time; returns those that it was done to, in order.
///
/// # Errors
/// Names the failed zones, the first few of them. The others are done, and flushed.
fn apply(verb: Verb, device: &Device, targets: &[ZoneInfo]) -> Result<Vec<u32>> {
    const DEPTH: u32 = 32;
    let options = QueueOptions { depth: DEPTH, buffer_bytes: 4096, ..Default::default() };
    let mut queue = device.queue(&options)?;
    let mut done = Vec::with_capacity(targets.len());
    let mut failed = Vec::new();
    let mut left = targets.iter();
    loop {
        while queue.in_flight() < DEPTH as usize {
            let Some(zone) = left.next() else { break };
            let request = verb.request(zone.zone).tag(zone.zone.into());
            transfer::push(&mut queue, request)?;
        }
        if queue.in_flight() == 0 {
            break;
        }
        queue.submit_and_wait(1)?;
        while let Some(Completion { tag, result, .. }) = queue.next_completion() {
            match result {
                Ok(_) => done.push(u32::try_from(tag)?),
                Err(error) => failed.push((tag, error)),
            }
        }
    }
    transfer::flush(&mut queue)?;
    done.sort_unstable();
    failed.sort_by_key(|(zone, _)| *zone);
    let count = failed.len();
    let mut failed = failed.into_iter();
    match failed.next() {
        None => Ok(done),
        Some((_, error)) if targets.len() == 1 => Err(error.into()),
        Some((_, error)) if count == 1 => {
            Err(anyhow!("{error} ({} done)", plural(done.len(), "zone")))
        }
        Some((_, error)) => {
            let rest: Vec<String> = failed.take(8).map(|(zone, _)| zone.to_string()).collect();
            let more = if count > 9 { ", …" } else { "" };
            Err(anyhow!(
                "{error} (and {} more: zones {}{more}; {} done)",
                count - 1,
                rest.join(", "),
                plural(done.len(), "zone")
            ))
        }
    }
}
