//! Writes and ordered appends land in the order of submission; reset-all empties everything.

use zonal::{Completion, ZoneState};

use super::{
    bench::Bench,
    pattern::Stamp,
    peer::Call,
    verdict::{Checked, fault, not_applicable},
};

/// How many writes are made, as far as there is room.
const COUNT: u64 = 48;

/// Many records of one to three blocks in flight, made by `call` from zone, expected offset and data.
fn in_order(bench: &mut Bench<'_>, call: impl Fn(u32, u64, zonal::Buffer) -> Call) -> Checked {
    let block = bench.block();
    let zone = bench.fresh_zone(3)?;
    let end = zone.start + zone.capacity;
    let mut sent: Vec<(u64, u64, Stamp)> = Vec::new();
    let mut at = zone.start;
    let mut left = COUNT;
    let most = (bench.limits().append_bytes_max / block).min(3);
    let mut ended: Vec<u64> = vec![u64::MAX; usize::try_from(COUNT).unwrap_or(0)];
    let next = |bench: &mut Bench<'_>| {
        let length = (1 + bench.random(most)) * block;
        if left == 0 || at + length > end {
            return None;
        }
        let (stamp, data) = bench.record(zone.zone, length);
        sent.push((at, length, stamp));
        let call = call(zone.zone, at, data);
        at += length;
        left -= 1;
        Some(call)
    };
    // Tags count from one.
    let each = |_: &mut Bench<'_>, words: &str, completion: Completion| {
        if let Err(error) = &completion.result {
            return fault(format!("{words}: {error}"));
        }
        let slot = usize::try_from(completion.tag - 1).ok().and_then(|at| ended.get_mut(at));
        if let Some(slot) = slot {
            *slot = completion.offset;
        }
        Ok(())
    };
    bench.stream(next, each)?;
    for ((expected, length, stamp), offset) in sent.iter().zip(&ended) {
        bench.expect(expected == offset, "", || {
            format!(
                "record {} of zone {} landed at {offset}, not at {expected}",
                stamp.record, stamp.zone
            )
        });
        bench.expect_record(*expected, *length, *stamp)?;
    }
    let state = if at == end { ZoneState::Full } else { ZoneState::ImplicitlyOpen };
    bench.expect_zone("", zone.zone, state, at - zone.start)
}

pub(super) fn writes(bench: &mut Bench<'_>) -> Checked {
    in_order(bench, |_, offset, data| Call::Write { offset, data })
}

pub(super) fn ordered_appends(bench: &mut Bench<'_>) -> Checked {
    in_order(bench, |zone, _, data| Call::AppendOrdered { zone, data })
}

/// Every sequential zone is empty afterwards.
pub(super) fn reset_all(bench: &mut Bench<'_>) -> Checked {
    if !bench.has_whole_drive() {
        return not_applicable("it would empty zones outside of --zones");
    }
    let (_, active) = bench.room();
    let zones = bench.fresh(active.min(4), 2)?;
    for (n, zone) in zones.iter().enumerate() {
        let append = bench.append(zone.zone, 1);
        bench.ok(append)?;
        match n {
            1 => drop(bench.ok(Call::Close(zone.zone))?),
            2 if bench.limits().finish => drop(bench.ok(Call::Finish(zone.zone))?),
            _ => {}
        }
    }
    let others = |bench: &Bench<'_>| -> Checked<Vec<_>> {
        let mut report = bench.report(bench.range())?;
        report.retain(|zone| bench.zones().binary_search(&zone.zone).is_err());
        Ok(report)
    };
    let before = others(bench)?;
    bench.ok(Call::ResetAll)?;
    for zone in bench.usable()? {
        bench.expect_zone("", zone.zone, ZoneState::Empty, 0)?;
    }
    let after = others(bench)?;
    bench.expect(before == after, "", || {
        "conventional, read-only or offline zones were changed by it".into()
    });
    Ok(())
}
