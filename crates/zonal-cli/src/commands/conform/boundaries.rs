//! What must be refused at a zone's ends, off the blocks and over the limits, and that nothing has
//! changed by it.

use zonal::{Buffer, ErrorKind, ZoneInfo, ZoneState};

use super::{
    bench::Bench,
    peer::Call,
    verdict::{Checked, not_applicable},
};

const INVALID: &[ErrorKind] = &[ErrorKind::InvalidInput];
const RANGE: &[ErrorKind] = &[ErrorKind::OutOfRange];
const BEYOND: &[ErrorKind] = &[ErrorKind::BeyondCapacity];
const FULL: &[ErrorKind] = &[ErrorKind::ZoneFull];
const POINTER: &[ErrorKind] = &[ErrorKind::NotAtWritePointer];

/// The longest request that is made just to see it refused.
const LONG: u64 = 256 << 20;

fn buffer(length: u64) -> Buffer {
    Buffer::unpooled(usize::try_from(length).unwrap_or(usize::MAX))
}

/// The append limit itself is taken, whole; a block more is not.
pub(super) fn append_limit(bench: &mut Bench<'_>) -> Checked {
    let (limit, block) = (bench.limits().append_bytes_max, bench.block());
    if limit > LONG {
        return not_applicable(format!("the append limit, {limit} bytes, is more than is tried"));
    }
    let zone = bench.fresh_zone(limit / block)?;
    let kinds: &[ErrorKind] = if limit + block <= zone.capacity {
        &[ErrorKind::AppendTooLarge]
    } else {
        &[ErrorKind::AppendTooLarge, ErrorKind::BeyondCapacity]
    };
    let append = Call::Append { zone: zone.zone, data: buffer(limit + block) };
    bench.refused("over", Some(zone.zone), append, kinds)?;
    let (stamp, data) = bench.record(zone.zone, limit);
    let landed = bench.ok(Call::Append { zone: zone.zone, data })?.offset;
    bench.expect(landed == zone.start, "at", || {
        format!("an append to empty zone {} landed at {landed}, not at {}", zone.zone, zone.start)
    });
    bench.expect_record(zone.start, limit, stamp)
}

/// Lengths and offsets that are not whole blocks.
pub(super) fn misaligned(bench: &mut Bench<'_>) -> Checked {
    let block = bench.block();
    let ZoneInfo { zone, start, .. } = bench.fresh_zone(3)?;
    let half = block / 2;
    for length in [1, half, block + half] {
        if length <= bench.limits().append_bytes_max {
            let append = Call::Append { zone, data: buffer(length) };
            bench.refused("append", Some(zone), append, INVALID)?;
        }
        let write = Call::Write { offset: start, data: buffer(length) };
        bench.refused("write", Some(zone), write, INVALID)?;
        let read = Call::Read { offset: start, into: buffer(length) };
        bench.refused("read", Some(zone), read, INVALID)?;
    }
    let write = Call::Write { offset: start + half, data: buffer(block) };
    bench.refused(
        "write",
        Some(zone),
        write,
        &[ErrorKind::InvalidInput, ErrorKind::NotAtWritePointer],
    )?;
    let read = Call::Read { offset: start + half, into: buffer(block) };
    bench.refused("read", Some(zone), read, INVALID)
}

/// Requests without bytes.
pub(super) fn empty(bench: &mut Bench<'_>) -> Checked {
    let ZoneInfo { zone, start, .. } = bench.fresh_zone(1)?;
    bench.refused("append", Some(zone), Call::Append { zone, data: buffer(0) }, INVALID)?;
    let write = Call::Write { offset: start, data: buffer(0) };
    bench.refused("write", Some(zone), write, INVALID)?;
    let read = Call::Read { offset: start, into: buffer(0) };
    bench.refused("read", Some(zone), read, INVALID)
}

/// Zones and bytes that the drive does not have.
pub(super) fn out_of_range(bench: &mut Bench<'_>) -> Checked {
    let (block, size, zones) = (bench.block(), bench.geometry().size, bench.geometry().zones());
    for zone in [zones, u32::MAX] {
        bench.refused("append", None, Call::Append { zone, data: buffer(block) }, RANGE)?;
        bench.refused("open", None, Call::Open(zone), RANGE)?;
        bench.refused("close", None, Call::Close(zone), RANGE)?;
        bench.refused("reset", None, Call::Reset(zone), RANGE)?;
        if bench.limits().finish {
            bench.refused("finish", None, Call::Finish(zone), RANGE)?;
        }
    }
    for offset in [size, u64::MAX - (u64::MAX % block)] {
        bench.refused("read", None, Call::Read { offset, into: buffer(block) }, RANGE)?;
        bench.refused("write", None, Call::Write { offset, data: buffer(block) }, RANGE)?;
    }
    if size >= block {
        let read = Call::Read { offset: size - block, into: buffer(2 * block) };
        bench.refused("read", None, read, RANGE)?;
    }
    Ok(())
}

/// A zone takes its capacity to the last block, and not one more.
pub(super) fn capacity(bench: &mut Bench<'_>) -> Checked {
    const LEFT: u64 = 2;
    let block = bench.block();
    let zone = bench.fresh_zone(LEFT)?;
    bench.fill(zone.zone, LEFT * block)?;
    let end = zone.start + zone.capacity;
    let wp = end - LEFT * block;
    if 3 * block <= bench.limits().append_bytes_max {
        let append = bench.append(zone.zone, LEFT + 1);
        bench.refused("append over", Some(zone.zone), append, BEYOND)?;
    }
    let write = bench.write(zone.zone, wp, LEFT + 1);
    let kinds: &[ErrorKind] = if end == bench.geometry().size {
        &[ErrorKind::BeyondCapacity, ErrorKind::OutOfRange]
    } else {
        BEYOND
    };
    bench.refused("write over", Some(zone.zone), write, kinds)?;
    let (stamp, data) = bench.record(zone.zone, block);
    let landed = bench.ok(Call::Append { zone: zone.zone, data })?.offset;
    bench.expect(landed == wp, "last", || format!("an append landed at {landed}, not at {wp}"));
    bench.expect_record(wp, block, stamp)?;
    let (stamp, data) = bench.record(zone.zone, block);
    bench.ok(Call::Write { offset: end - block, data })?;
    bench.expect_record(end - block, block, stamp)?;
    bench.expect_zone("last", zone.zone, ZoneState::Full, zone.capacity)?;
    let append = bench.append(zone.zone, 1);
    bench.refused("append full", Some(zone.zone), append, FULL)
}

/// Nothing is written past the capacity, nor over the zone's end into the next.
pub(super) fn zone_end(bench: &mut Bench<'_>) -> Checked {
    let block = bench.block();
    let zone = bench.fresh_zone(1)?;
    let ZoneInfo { zone: number, start, capacity, size, .. } = zone;
    let drive = bench.geometry().size;
    let anywhere = [ErrorKind::NotAtWritePointer, ErrorKind::BeyondCapacity, ErrorKind::ZoneFull];
    if capacity < size {
        let write = bench.write(number, start + capacity, 1);
        bench.refused("at the capacity", Some(number), write, &anywhere)?;
        let write = bench.write(number, start + size - block, 1);
        bench.refused("in the zone's last block", Some(number), write, &anywhere)?;
    }
    if start + size + block <= drive {
        let write = bench.write(number, start + size - block, 2);
        bench.refused("over the zone's end", Some(number), write, &anywhere)?;
    }
    if capacity + block <= LONG && start + capacity + block <= drive {
        let write = Call::Write { offset: start, data: buffer(capacity + block) };
        bench.refused("longer than the zone", Some(number), write, BEYOND)?;
    }
    Ok(())
}

/// A write elsewhere than at the write pointer.
pub(super) fn pointer(bench: &mut Bench<'_>) -> Checked {
    let block = bench.block();
    let ZoneInfo { zone, start, .. } = bench.fresh_zone(6)?;
    let write = bench.write(zone, start + block, 1);
    bench.refused("above, empty", Some(zone), write, POINTER)?;
    let append = bench.append(zone, 1);
    bench.ok(append)?;
    let append = bench.append(zone, 1);
    bench.ok(append)?;
    for (case, at) in [("start", 0), ("below", 1), ("above", 3), ("far above", 5)] {
        let write = bench.write(zone, start + at * block, 1);
        bench.refused(case, Some(zone), write, POINTER)?;
    }
    bench.ok(Call::Close(zone))?;
    let write = bench.write(zone, start, 1);
    bench.refused("closed", Some(zone), write, POINTER)
}
