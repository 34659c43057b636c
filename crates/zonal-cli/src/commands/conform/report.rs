//! Rules about what the drive says of itself.

use zonal::{ZoneKind, ZoneState};

use super::{
    bench::{Bench, describe},
    peer::Call,
    verdict::{Checked, not_applicable},
};

/// Zones lie side by side, and no more of a zone can be written than there is.
pub(super) fn geometry(bench: &mut Bench<'_>) -> Checked {
    let (block, size) = (bench.block(), bench.geometry().size);
    let report = bench.report(0..bench.geometry().zones())?;
    let mut end = 0;
    for (number, zone) in report.iter().enumerate() {
        let said = describe(zone);
        let fits = zone.zone as usize == number && zone.start == end && zone.size > 0;
        bench.expect(fits, "", || format!("{said} begins at {}, not at {end}", zone.start));
        let whole = [zone.start, zone.size, zone.capacity].iter().all(|n| n.is_multiple_of(block));
        bench.expect(whole, "", || format!("{said} does not consist of whole blocks"));
        bench.expect(zone.capacity > 0 && zone.capacity <= zone.size, "", || {
            format!("{said} has a capacity of {}, and a size of {}", zone.capacity, zone.size)
        });
        let conventional = zone.kind == ZoneKind::Conventional;
        let wears = matches!(zone.state, ZoneState::ReadOnly | ZoneState::Offline);
        let fits = wears || (zone.state == ZoneState::NotWp) == conventional;
        bench.expect(fits, "", || format!("{said}, which is not for a {:?} zone", zone.kind));
        let limit = zone.start..=zone.start + zone.size;
        let pointer = zone.write_pointer.is_none_or(|wp| limit.contains(&wp));
        bench.expect(pointer, "", || format!("{said}, which is not in the zone"));
        end = zone.start + zone.size;
    }
    bench.expect(end == size, "", || format!("the zones end at {end}, and the drive at {size}"));
    Ok(())
}

/// The limits fit together.
pub(super) fn limits(bench: &mut Bench<'_>) -> Checked {
    let (limits, block) = (bench.limits(), bench.block());
    let append = limits.append_bytes_max;
    bench.expect(append >= block && append.is_multiple_of(block), "", || {
        format!("the append limit is {append} bytes, and a block {block}")
    });
    bench.expect(block.is_power_of_two() && block >= 512, "", || {
        format!("a block is {block} bytes")
    });
    if let (Some(open), Some(active)) = (limits.max_open_zones, limits.max_active_zones) {
        bench.expect(open <= active, "", || {
            format!("{open} zones may be open, and only {active} active")
        });
    }
    let none = [limits.max_open_zones, limits.max_active_zones].contains(&Some(0));
    bench.expect(!none, "", || "a limit of 0 zones would let nothing be written".into());
    Ok(())
}

/// A part of the report says what the whole says.
pub(super) fn range(bench: &mut Bench<'_>) -> Checked {
    let zones = bench.geometry().zones();
    let all = bench.report(0..zones)?;
    bench.expect(all.len() == zones as usize, "", || {
        format!("the report of all {zones} zones holds {}", all.len())
    });
    for _ in 0..8 {
        let first = u32::try_from(bench.random(zones.into())).unwrap_or(0);
        let end = first + 1 + u32::try_from(bench.random((zones - first).into())).unwrap_or(0);
        let part = bench.report(first..end)?;
        bench.expect(all.get(first as usize..end as usize) == Some(&part[..]), "", || {
            format!("zones {first}..{end} are reported otherwise than with all the others")
        });
    }
    let beyond = bench.peer.report(zones..zones + 1);
    bench.expect(beyond.as_ref().map_or(true, Vec::is_empty), "", || {
        format!("zone {zones} is reported, and the drive has {zones}")
    });
    Ok(())
}

/// The write pointer follows the records.
pub(super) fn pointer(bench: &mut Bench<'_>) -> Checked {
    let zone = bench.fresh_zone(8)?;
    bench.expect_zone("", zone.zone, ZoneState::Empty, 0)?;
    let mut written = 0;
    for blocks in [1, 2, 3] {
        if blocks * bench.block() > bench.limits().append_bytes_max {
            break;
        }
        let append = bench.append(zone.zone, blocks);
        bench.ok(append)?;
        written += blocks * bench.block();
        bench.expect_zone("", zone.zone, ZoneState::ImplicitlyOpen, written)?;
    }
    bench.ok(Call::Reset(zone.zone))?;
    bench.expect_zone("", zone.zone, ZoneState::Empty, 0)
}

/// A zone with no room is full.
pub(super) fn full(bench: &mut Bench<'_>) -> Checked {
    let zone = bench.fresh_zone(1)?;
    bench.fill(zone.zone, 0)?;
    bench.expect_zone("", zone.zone, ZoneState::Full, zone.capacity)?;
    let place = |wp: Option<u64>| match wp.map(|wp| wp.wrapping_sub(zone.start)) {
        Some(at) if at == zone.capacity => "at the end of its capacity".into(),
        Some(at) if at == zone.size => "at the zone's end, past its capacity".into(),
        Some(at) => format!("{at} bytes above the zone's start"),
        None => "nowhere".into(),
    };
    let wp = bench.zone(zone.zone)?.write_pointer;
    bench.does(format!("has the write pointer of a zone that was filled {}", place(wp)));
    if bench.limits().finish {
        let zone = bench.fresh_zone(2)?;
        let append = bench.append(zone.zone, 1);
        bench.ok(append)?;
        bench.ok(Call::Finish(zone.zone))?;
        bench.expect_zone("", zone.zone, ZoneState::Full, zone.capacity)?;
        let wp = bench.zone(zone.zone)?.write_pointer;
        bench.does(format!("has the write pointer of a zone that was finished {}", place(wp)));
    }
    Ok(())
}

/// A reset begins a new life, and nothing else does.
pub(super) fn generation(bench: &mut Bench<'_>) -> Checked {
    let zone = bench.fresh_zone(3)?.zone;
    let Some(first) = bench.peer.generation(zone) else {
        return not_applicable("it does not count the lives of its zones");
    };
    for call in [bench.append(zone, 1), Call::Open(zone), Call::Close(zone), bench.append(zone, 1)]
    {
        let words = call.to_string();
        bench.ok(call)?;
        let now = bench.peer.generation(zone);
        bench.expect(now == Some(first), "", || {
            format!("{words} changed which life of the zone it is, from {first} to {now:?}")
        });
    }
    bench.ok(Call::Reset(zone))?;
    let now = bench.peer.generation(zone);
    bench.expect(now.is_some_and(|now| now != first), "", || {
        format!("after a reset zone {zone} is still in its life {first}")
    });
    Ok(())
}
