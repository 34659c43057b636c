//! Holds the records of a situation against what the drive shows.

use std::collections::{BTreeMap, HashMap};

use zonal::{Buffer, ZoneInfo, ZoneState};

use super::{
    super::{
        bench::{Bench, describe},
        pattern::{self, Found},
        peer::Call,
        verdict::{Checked, Stop},
    },
    Campaign, Judgement, Landed,
};

/// Judges `landed`, in zones that were written up to `bases` before (zone → offset).
pub(super) fn judge(
    bench: &mut Bench<'_>,
    campaign: &mut Campaign,
    situation: &str,
    bases: &BTreeMap<u32, u64>,
    landed: Vec<Landed>,
) -> Checked {
    let report: HashMap<u32, ZoneInfo> =
        bench.usable()?.into_iter().map(|zone| (zone.zone, zone)).collect();
    let mut find = |judgement, text| campaign.find(judgement, situation, text);
    let all = landed.len();
    let mut inside = inside(bench.block(), &report, landed, &mut find);
    // What covers zones is not known when some of their records are said to be elsewhere.
    let is_known = inside.len() == all;
    inside.sort_unstable_by_key(|record| (record.stamp.zone, record.offset));
    let alone = distinct(&inside, &mut find);
    let count = alone.len() as u64;
    read_back(bench, &alone, &mut find)?;
    for (zone, base) in bases.iter().filter(|_| is_known) {
        let records: Vec<&Landed> =
            inside.iter().filter(|record| record.stamp.zone == *zone).collect();
        let end = covered(*base, &records, &mut find);
        if let Some(info) = report.get(zone) {
            pointer(info, end, &mut find);
        }
    }
    limits(bench, &mut find)?;
    campaign.records += count;
    Ok(())
}

type Find<'a> = &'a mut dyn FnMut(Judgement, String);

/// Those that are reported in their zone.
fn inside(
    block: u64,
    report: &HashMap<u32, ZoneInfo>,
    mut landed: Vec<Landed>,
    find: Find<'_>,
) -> Vec<Landed> {
    landed.retain(|record| {
        let Landed { stamp, offset, length, .. } = *record;
        let Some(zone) = report.get(&stamp.zone) else { return false };
        let end = zone.start + zone.capacity;
        let last = offset.saturating_add(length);
        let right = offset >= zone.start && last <= end && offset.is_multiple_of(block);
        if !right {
            let text = format!(
                "record {} of {length} bytes, sent to zone {}, is reported at {offset}; the zone \
                 takes data from {} to {end}",
                stamp.record, stamp.zone, zone.start
            );
            find(Judgement::Inside, text);
        }
        right
    });
    landed
}

/// Those whose place nobody else has, of records sorted by place.
fn distinct(records: &[Landed], find: Find<'_>) -> Vec<Landed> {
    let mut alone = Vec::with_capacity(records.len());
    // The record that reaches furthest so far, and whether it overlaps another.
    let mut furthest: Option<(Landed, bool)> = None;
    for record in records {
        let clash = furthest.filter(|(other, _)| {
            other.stamp.zone == record.stamp.zone && other.offset + other.length > record.offset
        });
        if let Some((other, _)) = clash {
            find(
                Judgement::Distinct,
                format!(
                    "records {} and {} are both reported in zone {}, at {} ({} bytes) and at {} ({})",
                    other.stamp.record,
                    record.stamp.record,
                    record.stamp.zone,
                    other.offset,
                    other.length,
                    record.offset,
                    record.length
                ),
            );
            let longer = if record.offset + record.length > other.offset + other.length {
                *record
            } else {
                other
            };
            furthest = Some((longer, true));
        } else {
            alone.extend(furthest.filter(|(_, clashes)| !clashes).map(|(record, _)| record));
            furthest = Some((*record, false));
        }
    }
    alone.extend(furthest.filter(|(_, clashes)| !clashes).map(|(record, _)| record));
    alone
}

/// Reads each record at the offset that was reported.
fn read_back(bench: &mut Bench<'_>, records: &[Landed], find: Find<'_>) -> Checked {
    let block = bench.geometry().block_size;
    let mut left = records.iter();
    let next = |_: &mut Bench<'_>| {
        let record = left.next()?;
        let into = Buffer::unpooled(usize::try_from(record.length).unwrap_or(0));
        Some(Call::Read { offset: record.offset, into })
    };
    bench.stream(next, |_, words, ended| {
        // A stream counts its requests from one.
        let at = usize::try_from(ended.tag - 1).unwrap_or(usize::MAX);
        let Some(Landed { stamp, offset, .. }) = records.get(at) else { return Ok(()) };
        let bytes = match (&ended.result, &ended.buffer) {
            (Ok(_), Some(bytes)) => bytes,
            (Err(error), _) => return find_and_go(find, format!("{words}: {error}")),
            (Ok(_), None) => return find_and_go(find, format!("{words}: no buffer came back")),
        };
        let place = format!("record {}, reported at {offset} in zone {}", stamp.record, stamp.zone);
        match pattern::examine(bytes, *stamp, block) {
            Found::Whole => {}
            Found::Torn(what) => find(Judgement::Whole, format!("{place}: {what}")),
            Found::Other(what) => find(Judgement::Record, format!("{place}: there is {what}")),
        }
        Ok(())
    })
}

fn find_and_go(find: Find<'_>, text: String) -> Checked {
    find(Judgement::Record, text);
    Ok(())
}

/// Where the records of a zone end that begin at `base`, and holes between them.
fn covered(base: u64, records: &[&Landed], find: Find<'_>) -> u64 {
    let mut end = base;
    for record in records {
        if record.offset > end {
            find(
                Judgement::Cover,
                format!(
                    "in zone {} nothing was put between {end} and {}, where record {} begins",
                    record.stamp.zone, record.offset, record.stamp.record
                ),
            );
        }
        end = end.max(record.offset + record.length);
    }
    end
}

fn pointer(zone: &ZoneInfo, end: u64, find: Find<'_>) {
    let full = end == zone.start + zone.capacity;
    let right = match zone.state {
        // By its records, or by a finish.
        ZoneState::Full => true,
        ZoneState::Empty => end == zone.start && zone.write_pointer == Some(end),
        ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => {
            !full && zone.write_pointer == Some(end)
        }
        ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => false,
    };
    if !right {
        let all = if full { ", which is all it takes" } else { "" };
        find(Judgement::Pointer, format!("{}; its records end at {end}{all}", describe(zone)));
    }
}

fn limits(bench: &mut Bench<'_>, find: Find<'_>) -> Result<(), Stop> {
    let limits = bench.limits();
    let report = bench.report(0..bench.geometry().zones())?;
    let open = report.iter().filter(|zone| zone.state.is_open()).count();
    let active = report.iter().filter(|zone| zone.state.is_active()).count();
    for (what, count, limit) in
        [("open", open, limits.max_open_zones), ("active", active, limits.max_active_zones)]
    {
        if limit.is_some_and(|limit| count > limit as usize) {
            let limit = limit.unwrap_or_default();
            find(Judgement::Limits, format!("{count} zones are {what}, and {limit} may be"));
        }
    }
    Ok(())
}
