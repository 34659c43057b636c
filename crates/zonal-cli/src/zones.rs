//! Which zones a command works on, and how many it may have open and active at once.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use zonal::{Device, ZoneInfo, ZoneKind, ZoneState};

use crate::args::ZoneRange;

/// The state's word in tables and JSON.
pub(crate) const fn state_word(state: ZoneState) -> &'static str {
    match state {
        ZoneState::NotWp => "not-wp",
        ZoneState::Empty => "empty",
        ZoneState::ImplicitlyOpen => "imp-open",
        ZoneState::ExplicitlyOpen => "exp-open",
        ZoneState::Closed => "closed",
        ZoneState::ReadOnly => "read-only",
        ZoneState::Full => "full",
        ZoneState::Offline => "offline",
    }
}

/// The kind's word in tables and JSON.
pub(crate) const fn kind_word(kind: ZoneKind) -> &'static str {
    match kind {
        ZoneKind::Sequential => "seq",
        ZoneKind::Conventional => "cnv",
    }
}

/// Whether a zone in `state` can take data.
pub(crate) const fn takes_data(state: ZoneState) -> bool {
    match state {
        ZoneState::Empty
        | ZoneState::ImplicitlyOpen
        | ZoneState::ExplicitlyOpen
        | ZoneState::Closed => true,
        ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Full | ZoneState::Offline => false,
    }
}

/// Whether a zone in `state` counts against the limit on active zones.
pub(crate) const fn is_active(state: ZoneState) -> bool {
    match state {
        ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => true,
        ZoneState::Empty
        | ZoneState::NotWp
        | ZoneState::ReadOnly
        | ZoneState::Full
        | ZoneState::Offline => false,
    }
}

/// How many bytes the zone can still take.
pub(crate) fn room(zone: &ZoneInfo) -> u64 {
    match zone.write_pointer {
        Some(wp) if takes_data(zone.state) => (zone.start + zone.capacity).saturating_sub(wp),
        Some(_) | None => 0,
    }
}

/// The zone numbers that `range` names; all of the drive's when it is left out.
pub(crate) fn numbers(device: &Device, range: Option<&ZoneRange>) -> Result<Range<u32>> {
    let zones = device.geometry().zones();
    match range {
        Some(range) => range.resolve(zones).with_context(|| device.name().to_owned()),
        None => Ok(0..zones),
    }
}

/// The zones to put data into and the limits to keep.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// Sequential zones that can take data, in order.
    pub(crate) zones: Vec<ZoneInfo>,
    /// How many of them may be open at once.
    pub(crate) max_open: usize,
    /// How many of them may be active at once.
    pub(crate) max_active: usize,
    /// Zones asked for that are read-only or offline.
    pub(crate) dead: Vec<ZoneInfo>,
}

impl Candidates {
    /// Those of `range`, or of the whole drive.
    ///
    /// # Errors
    /// When no sequential zone is among them, or zones outside the range use up the limits.
    pub(crate) fn of(device: &Device, range: Option<&ZoneRange>) -> Result<Self> {
        let numbers = numbers(device, range)?;
        let report = device.report(..)?;
        let limits = device.limits();
        let (mut zones, mut dead) = (Vec::new(), Vec::new());
        let (mut sequential, mut open_outside, mut active_outside) = (0u32, 0, 0);
        for zone in report {
            if numbers.contains(&zone.zone) && zone.kind == ZoneKind::Sequential {
                sequential += 1;
                if takes_data(zone.state) {
                    zones.push(zone);
                    continue;
                }
                if matches!(zone.state, ZoneState::ReadOnly | ZoneState::Offline) {
                    dead.push(zone);
                }
            }
            // The drive closes implicitly opened zones by itself, explicitly opened ones never.
            open_outside += usize::from(zone.state == ZoneState::ExplicitlyOpen);
            active_outside += usize::from(is_active(zone.state));
        }
        if sequential == 0 {
            bail!(
                "{}: zones {}..{} are conventional, which take writes (zonal write) and no appends; name \
                 sequential ones with --zones",
                device.name(),
                numbers.start,
                numbers.end
            );
        }
        let left = |limit: Option<u32>, used: usize| match limit {
            Some(limit) => (limit as usize).saturating_sub(used),
            None => usize::MAX,
        };
        let max_active = left(limits.max_active_zones, active_outside);
        let max_open = left(limits.max_open_zones, open_outside).min(max_active);
        if max_open == 0 {
            bail!(
                "{}: other zones use up its limit on open or active zones; \
                 finish or reset some of them (zonal report shows which)",
                device.name()
            );
        }
        Ok(Self { zones, max_open, max_active, dead })
    }

    /// # Errors
    /// No zone takes data, and some of them never will again.
    pub(crate) fn hold_some(&self, device: &Device) -> Result<()> {
        if !self.zones.is_empty() || self.dead.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = self
            .dead
            .iter()
            .take(8)
            .map(|zone| format!("zone {} is {}", zone.zone, state_word(zone.state)))
            .collect();
        let more = if self.dead.len() > shown.len() { ", …" } else { "" };
        bail!(
            "{}: no zone takes data: {}{more}, and none of the others has room; name others with --zones",
            device.name(),
            shown.join(", ")
        );
    }
}
