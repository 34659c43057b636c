//! Zones that are not as the others: conventional, read-only and offline ones.

use zonal::{Buffer, Completion, ErrorKind, ZoneInfo, ZoneKind, ZoneState};

use super::{
    bench::Bench,
    peer::Call,
    verdict::{Checked, not_applicable},
};

/// The first zone of the range that is such a one.
fn find(bench: &Bench<'_>, what: &str, is: impl Fn(&ZoneInfo) -> bool) -> Checked<ZoneInfo> {
    match bench.report(bench.range())?.into_iter().find(is) {
        Some(zone) => Ok(zone),
        None => not_applicable(format!("no zone is {what}")),
    }
}

fn conventional(bench: &Bench<'_>) -> Checked<ZoneInfo> {
    find(bench, "conventional", |zone| zone.kind == ZoneKind::Conventional)
}

fn buffer(length: u64) -> Buffer {
    Buffer::unpooled(usize::try_from(length).unwrap_or(usize::MAX))
}

/// A conventional zone is written anywhere and again. What it held is put back.
pub(super) fn written_anywhere(bench: &mut Bench<'_>) -> Checked {
    let block = bench.block();
    let zone = conventional(bench)?;
    let last = zone.start + zone.size - block;
    let places = [last, zone.start, last, zone.start + (zone.size / block / 2) * block];
    let held: Vec<(u64, Buffer)> = places
        .iter()
        .map(|offset| Ok((*offset, bench.read(*offset, block)?)))
        .collect::<Checked<_>>()?;
    let mut result = places.iter().try_for_each(|offset| {
        let (stamp, data) = bench.record(zone.zone, block);
        bench.ok(Call::Write { offset: *offset, data })?;
        bench.expect_record(*offset, block, stamp)
    });
    // All of it, whatever comes of one; what was found first is said.
    for (offset, data) in held {
        let put_back = bench.ok(Call::Write { offset, data });
        result = result.and(put_back.map(|_| ()));
    }
    result?;
    let after = bench.zone(zone.zone)?;
    bench.expect(after.state == ZoneState::NotWp && after.write_pointer.is_none(), "", || {
        format!("written, zone {} is {} with {:?}", zone.zone, after.state, after.write_pointer)
    });
    Ok(())
}

/// It takes no append and no operation on zones.
pub(super) fn conventional_refuses(bench: &mut Bench<'_>) -> Checked {
    let zone = conventional(bench)?.zone;
    let kinds = &[ErrorKind::InvalidInput];
    let append = bench.append(zone, 1);
    bench.refused("append", Some(zone), append, kinds)?;
    for (case, call) in [
        ("open", Call::Open(zone)),
        ("close", Call::Close(zone)),
        ("finish", Call::Finish(zone)),
        ("reset", Call::Reset(zone)),
    ] {
        bench.refused(case, Some(zone), call, kinds)?;
    }
    Ok(())
}

/// All that changes a zone is refused.
fn refuses_all(bench: &mut Bench<'_>, zone: &ZoneInfo, kind: ErrorKind) -> Checked {
    let number = zone.zone;
    let kinds = &[kind];
    let append = bench.append(number, 1);
    bench.refused("append", Some(number), append, kinds)?;
    let write = bench.write(number, zone.write_pointer.unwrap_or(zone.start), 1);
    bench.refused("write", Some(number), write, kinds)?;
    for (case, call) in [
        ("open", Call::Open(number)),
        ("close", Call::Close(number)),
        ("finish", Call::Finish(number)),
        ("reset", Call::Reset(number)),
    ] {
        bench.refused(case, Some(number), call, kinds)?;
    }
    Ok(())
}

/// A read-only zone can be read, and that is all.
pub(super) fn read_only(bench: &mut Bench<'_>) -> Checked {
    let zone = find(bench, "read-only", |zone| zone.state == ZoneState::ReadOnly)?;
    let block = bench.block();
    bench.read(zone.start, block)?;
    refuses_all(bench, &zone, ErrorKind::ZoneReadOnly)
}

/// An offline zone cannot even be read.
pub(super) fn offline(bench: &mut Bench<'_>) -> Checked {
    let zone = find(bench, "offline", |zone| zone.state == ZoneState::Offline)?;
    let block = bench.block();
    let read = Call::Read { offset: zone.start, into: buffer(block) };
    bench.refused("read", Some(zone.zone), read, &[ErrorKind::ZoneOffline])?;
    bench.expect(zone.write_pointer.is_none(), "report", || {
        format!("offline zone {} has a write pointer, {:?}", zone.zone, zone.write_pointer)
    });
    refuses_all(bench, &zone, ErrorKind::ZoneOffline)
}

/// Each request ends once, and a refused one brings its buffer back as well.
pub(super) fn completions(bench: &mut Bench<'_>) -> Checked {
    let zone = bench.fresh_zone(2)?;
    let block = bench.block();
    let mut n = 0u32;
    let next = |bench: &mut Bench<'_>| {
        n += 1;
        // A mixture of what goes well and what is refused.
        match n {
            1..=96 if n.is_multiple_of(3) => Some(bench.append(zone.zone, 1)),
            1..=96 if n % 3 == 1 => Some(Call::Read { offset: zone.start, into: buffer(block) }),
            1..=96 => Some(Call::Append { zone: zone.zone, data: buffer(block / 2) }),
            _ => None,
        }
    };
    // Tags, buffers and numbers of bytes are looked at in any stream.
    let mut ended = 0u32;
    bench.stream(next, |_, _, _: Completion| {
        ended += 1;
        Ok(())
    })?;
    bench.expect(ended == 96, "", || format!("of 96 requests {ended} have ended"));
    Ok(())
}
