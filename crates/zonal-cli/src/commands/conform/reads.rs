//! What reads show: data below the write pointer, zeros from there on, and nothing of an earlier life.

use zonal::{ZoneInfo, ZoneKind};

use super::{
    bench::Bench,
    pattern::Stamp,
    peer::Call,
    verdict::{Checked, not_applicable},
};

/// Appends so many blocks, one at a time, and returns their stamps.
fn put(bench: &mut Bench<'_>, zone: u32, blocks: usize) -> Checked<Vec<Stamp>> {
    let block = bench.block();
    (0..blocks)
        .map(|_| {
            let (stamp, data) = bench.record(zone, block);
            bench.ok(Call::Append { zone, data })?;
            Ok(stamp)
        })
        .collect()
}

/// One read that begins below the write pointer and ends above it.
pub(super) fn pointer(bench: &mut Bench<'_>) -> Checked {
    let block = bench.block();
    let ZoneInfo { zone, start, .. } = bench.fresh_zone(6)?;
    let stamps = put(bench, zone, 2)?;
    for (n, stamp) in (0..).zip(&stamps) {
        bench.expect_record(start + n * block, block, *stamp)?;
    }
    bench.expect_zeros("from the write pointer on", start + 2 * block..start + 6 * block)?;
    let across = bench.read(start + block, 3 * block)?;
    let first = usize::try_from(block).unwrap_or(usize::MAX);
    let kept = across[first..].iter().all(|byte| *byte == 0);
    bench.expect(kept, "contents", || {
        format!("a read over the write pointer of zone {zone} shows more than zeros above it")
    });
    Ok(())
}

/// Nothing is read of a zone in which nothing was written.
pub(super) fn unwritten(bench: &mut Bench<'_>) -> Checked {
    let ZoneInfo { start, size, .. } = bench.fresh_zone(1)?;
    bench.expect_zeros_at_ends("an empty zone", start..start + size)
}

/// One read over the boundary of two zones.
pub(super) fn across(bench: &mut Bench<'_>) -> Checked {
    let block = bench.block();
    let zones = bench.fresh(2, 1)?;
    let Some([low, high]) = zones
        .windows(2)
        .find(|pair| pair[0].zone + 1 == pair[1].zone)
        .map(|pair| [pair[0], pair[1]])
    else {
        return not_applicable("no two of its sequential zones are neighbours");
    };
    let stamps = put(bench, high.zone, 1)?;
    let bytes = bench.read(high.start - block, 2 * block)?;
    let first = usize::try_from(block).unwrap_or(usize::MAX);
    let found = super::pattern::examine(&bytes[first..], stamps[0], bench.geometry().block_size);
    bench.expect(found == super::pattern::Found::Whole, "", || {
        format!("a read from zone {} into zone {} shows {found:?}", low.zone, high.zone)
    });
    let kept = bytes[..first].iter().all(|byte| *byte == 0);
    bench.expect(kept, "", || format!("the last block of empty zone {} is not zero", low.zone));
    Ok(())
}

/// Nothing of what a zone held is read after a reset, nor after new data.
pub(super) fn reset(bench: &mut Bench<'_>) -> Checked {
    let block = bench.block();
    let ZoneInfo { zone, start, .. } = bench.fresh_zone(6)?;
    put(bench, zone, 5)?;
    bench.ok(Call::Reset(zone))?;
    bench.expect_zeros("after a reset", start..start + 6 * block)?;
    let stamps = put(bench, zone, 1)?;
    bench.expect_record(start, block, stamps[0])?;
    bench.expect_zeros("behind the new data", start + block..start + 6 * block)
}

/// A finished zone shows its data, and zeros behind it; its earlier life shows nowhere.
pub(super) fn finished(bench: &mut Bench<'_>) -> Checked {
    if !bench.limits().finish {
        return not_applicable("its zones cannot be finished");
    }
    let block = bench.block();
    let ZoneInfo { zone, start, capacity, .. } = bench.fresh_zone(6)?;
    put(bench, zone, 5)?;
    bench.ok(Call::Reset(zone))?;
    let stamps = put(bench, zone, 1)?;
    bench.ok(Call::Finish(zone))?;
    bench.expect_record(start, block, stamps[0])?;
    bench
        .expect_zeros_at_ends("behind the data of a finished zone", start + block..start + capacity)
}

/// What a zone lacks between its capacity and its size reads as zeros, also when it is full.
pub(super) fn gap(bench: &mut Bench<'_>) -> Checked {
    let report = bench.usable()?;
    let with_gap =
        |zone: &&ZoneInfo| zone.kind == ZoneKind::Sequential && zone.capacity < zone.size;
    let Some(ZoneInfo { zone, start, capacity, size, .. }) = report.iter().find(with_gap).copied()
    else {
        return not_applicable("its zones can be written whole");
    };
    bench.empty_all()?;
    bench.make_full(zone)?;
    bench.expect_zeros_at_ends("between capacity and size", start + capacity..start + size)
}
