//! The limits on open and active zones, and what is closed to keep them.

use zonal::{ErrorKind, ZoneState};

use super::{
    bench::Bench,
    peer::Call,
    verdict::{Checked, not_applicable},
};

const OPEN: ErrorKind = ErrorKind::TooManyOpenZones;
const ACTIVE: ErrorKind = ErrorKind::TooManyActiveZones;

/// As many fresh zones as may be open and one more.
fn over_open(bench: &mut Bench<'_>) -> Checked<(Vec<u32>, u32)> {
    let Some(limit) = bench.limits().max_open_zones else {
        return not_applicable("it has no limit on open zones");
    };
    over(bench, limit)
}

/// As many fresh zones as may be active and one more.
fn over_active(bench: &mut Bench<'_>) -> Checked<(Vec<u32>, u32)> {
    let Some(limit) = bench.limits().max_active_zones else {
        return not_applicable("it has no limit on active zones");
    };
    over(bench, limit)
}

fn over(bench: &mut Bench<'_>, limit: u32) -> Checked<(Vec<u32>, u32)> {
    bench.alone()?;
    let mut zones: Vec<u32> =
        bench.fresh(limit as usize + 1, 2)?.iter().map(|zone| zone.zone).collect();
    let one_more = zones.pop().unwrap_or_default();
    Ok((zones, one_more))
}

/// Whether an implicit close would make room: closed zones stay active.
fn has_room_for_closed(bench: &Bench<'_>) -> bool {
    let limits = bench.limits();
    limits.max_active_zones.is_none_or(|active| Some(active) > limits.max_open_zones)
}

/// How a zone too many is refused: where both limits are reached, either may be named.
fn too_many_open(bench: &Bench<'_>) -> &'static [ErrorKind] {
    if has_room_for_closed(bench) { &[OPEN] } else { &[OPEN, ACTIVE] }
}

/// So many zones are open, and these are explicitly.
fn expect_open(bench: &mut Bench<'_>, explicit: &[u32], open: usize) -> Checked {
    let report = bench.usable()?;
    let now = report.iter().filter(|zone| zone.state.is_open()).count();
    bench.expect(now == open, "", || format!("{now} zones are open where {open} were expected"));
    for zone in report.iter().filter(|zone| explicit.contains(&zone.zone)) {
        bench.expect(zone.state == ZoneState::ExplicitlyOpen, "", || {
            format!("zone {} was explicitly open, and has become {}", zone.zone, zone.state)
        });
    }
    Ok(())
}

/// Explicitly open zones fill the limit.
pub(super) fn open_limit(bench: &mut Bench<'_>) -> Checked {
    let (zones, one_more) = over_open(bench)?;
    for zone in &zones {
        bench.ok(Call::Open(*zone))?;
    }
    expect_open(bench, &zones, zones.len())?;
    let kinds = too_many_open(bench);
    bench.refused("open", Some(one_more), Call::Open(one_more), kinds)?;
    let append = bench.append(one_more, 1);
    bench.refused("append", Some(one_more), append, kinds)?;
    let at = bench.zone(one_more)?.start;
    let write = bench.write(one_more, at, 1);
    bench.refused("write", Some(one_more), write, kinds)?;
    let append = bench.append(zones[0], 1);
    bench.ok(append)?;
    expect_open(bench, &zones, zones.len())
}

/// At the open limit a write closes a zone that was opened by a write.
pub(super) fn implicit_close(bench: &mut Bench<'_>) -> Checked {
    let (zones, one_more) = over_open(bench)?;
    if !has_room_for_closed(bench) {
        return not_applicable("no more zones may be active than open, so a close makes no room");
    }
    for zone in &zones {
        let append = bench.append(*zone, 1);
        bench.ok(append)?;
    }
    // Now the zone opened first is the one written last.
    let append = bench.append(zones[0], 1);
    bench.ok(append)?;
    let append = bench.append(one_more, 1);
    bench.ok(append)?;
    expect_open(bench, &[], zones.len())?;
    bench.expect_zone("", one_more, ZoneState::ImplicitlyOpen, bench.block())?;
    let report = bench.usable()?;
    let closed: Vec<u32> = report
        .iter()
        .filter(|zone| zone.state == ZoneState::Closed)
        .map(|zone| zone.zone)
        .collect();
    let [victim] = closed[..] else {
        bench.fault(
            "",
            format!("one zone had to be closed for zone {one_more}; closed are {closed:?}"),
        );
        return Ok(());
    };
    if zones.len() > 1 {
        bench.does(match victim {
            _ if victim == zones[0] => "closes the zone that was opened first to make room".into(),
            _ if victim == zones[1] => "closes the zone written least recently to make room".into(),
            _ => format!("closes zone {victim} of {zones:?}, opened in this order, to make room"),
        });
    }
    let append = bench.append(victim, 1);
    bench.ok(append)?;
    expect_open(bench, &[], zones.len())
}

/// What was opened explicitly stays open.
pub(super) fn explicit_stays(bench: &mut Bench<'_>) -> Checked {
    let (zones, one_more) = over_open(bench)?;
    if zones.len() < 2 || !has_room_for_closed(bench) {
        return not_applicable("it needs room for two open zones, and for a closed one");
    }
    bench.ok(Call::Open(zones[0]))?;
    for zone in &zones {
        let append = bench.append(*zone, 1);
        bench.ok(append)?;
    }
    let append = bench.append(one_more, 1);
    bench.ok(append)?;
    expect_open(bench, &zones[..1], zones.len())
}

/// No more zones are active than allowed.
pub(super) fn active_limit(bench: &mut Bench<'_>) -> Checked {
    let (zones, one_more) = over_active(bench)?;
    for zone in &zones {
        let append = bench.append(*zone, 1);
        bench.ok(append)?;
        bench.ok(Call::Close(*zone))?;
    }
    let append = bench.append(one_more, 1);
    bench.refused("append", Some(one_more), append, &[ACTIVE])?;
    bench.refused("open", Some(one_more), Call::Open(one_more), &[ACTIVE])?;
    let append = bench.append(zones[0], 1);
    bench.ok(append)?;
    bench.expect_zone("", zones[0], ZoneState::ImplicitlyOpen, 2 * bench.block())
}

/// Finished, filled and reset zones give their places back; closed ones the open one.
pub(super) fn places_back(bench: &mut Bench<'_>) -> Checked {
    if bench.limits().max_open_zones.is_none() && bench.limits().max_active_zones.is_none() {
        return not_applicable("it has no limits on open and active zones");
    }
    bench.alone()?;
    let (open, active) = bench.room();
    if bench.zones().len() <= open {
        return not_applicable("the limits are not below the number of its zones");
    }
    let mut ways: Vec<&str> = vec!["reset"];
    if bench.limits().finish {
        ways.push("finish");
    }
    if active > open {
        ways.push("close");
    }
    for way in ways {
        let zones = bench.fresh(open + 1, 2)?;
        for zone in &zones[..open] {
            bench.ok(Call::Open(zone.zone))?;
        }
        let append = bench.append(zones[0].zone, 1);
        bench.ok(append)?;
        bench.ok(match way {
            "reset" => Call::Reset(zones[0].zone),
            "finish" => Call::Finish(zones[0].zone),
            _ => Call::Close(zones[0].zone),
        })?;
        let call = Call::Open(zones[open].zone);
        let words = call.to_string();
        if let Err(error) = bench.call(call)?.result {
            bench.fault(way, format!("{words} after a {way} that gave a place back: {error}"));
        }
    }
    filled_gives_back(bench, open)
}

/// A zone filled to its last byte gives its places back.
fn filled_gives_back(bench: &mut Bench<'_>, open: usize) -> Checked {
    let zones = bench.fresh(open + 1, 1)?;
    for zone in &zones[..open] {
        bench.ok(Call::Open(zone.zone))?;
    }
    if zones[0].capacity > bench.bounds.fill_bytes {
        return Ok(());
    }
    bench.fill(zones[0].zone, 0)?;
    let call = Call::Open(zones[open].zone);
    let words = call.to_string();
    if let Err(error) = bench.call(call)?.result {
        bench.fault("fill", format!("{words} after another zone became full: {error}"));
    }
    Ok(())
}

/// Finishing an empty zone where nothing more may be active: two answers are right.
pub(super) fn finish_at_limit(bench: &mut Bench<'_>) -> Checked {
    if !bench.limits().finish {
        return not_applicable("its zones cannot be finished");
    }
    let (zones, one_more) = over_active(bench)?;
    for zone in &zones {
        let append = bench.append(*zone, 1);
        bench.ok(append)?;
    }
    match bench.call(Call::Finish(one_more))?.result {
        Ok(_) => {
            bench.does("finishes an empty zone without an active place");
            bench.expect_zone("", one_more, ZoneState::Full, 0)
        }
        Err(error) if [OPEN, ACTIVE].contains(&error.kind()) => {
            bench.does("needs an active place to finish an empty zone");
            bench.expect_zone("", one_more, ZoneState::Empty, 0)
        }
        Err(error) => {
            let text = format!("finish of zone {one_more}, empty, at the limit: {error}");
            bench.fault("refused", text);
            Ok(())
        }
    }
}
