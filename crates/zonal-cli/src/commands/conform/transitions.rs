//! The transition table: each operation on a zone in each state (*NVMe Zoned Namespace Command Set
//! Specification 1.1*, Zone State Machine).

use zonal::{ErrorKind, ZoneInfo, ZoneState};

use super::{
    bench::Bench,
    peer::Call,
    verdict::{Checked, fault, not_applicable},
};

/// The states that a zone can be put into.
const STATES: [ZoneState; 5] = [
    ZoneState::Empty,
    ZoneState::ImplicitlyOpen,
    ZoneState::ExplicitlyOpen,
    ZoneState::Closed,
    ZoneState::Full,
];

/// What the table says: the next state, or how it is refused.
type Cell = Result<ZoneState, &'static [ErrorKind]>;

const FULL: &[ErrorKind] = &[ErrorKind::ZoneFull];
const TRANSITION: &[ErrorKind] = &[ErrorKind::InvalidTransition];

/// One block written to a zone in each state.
const fn after_write(from: ZoneState) -> Cell {
    match from {
        ZoneState::Empty | ZoneState::ImplicitlyOpen | ZoneState::Closed => {
            Ok(ZoneState::ImplicitlyOpen)
        }
        ZoneState::ExplicitlyOpen => Ok(ZoneState::ExplicitlyOpen),
        ZoneState::Full => Err(FULL),
        ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => Err(TRANSITION),
    }
}

const fn after_open(from: ZoneState) -> Cell {
    match from {
        ZoneState::Empty
        | ZoneState::ImplicitlyOpen
        | ZoneState::ExplicitlyOpen
        | ZoneState::Closed => Ok(ZoneState::ExplicitlyOpen),
        ZoneState::Full | ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => {
            Err(TRANSITION)
        }
    }
}

const fn after_close(from: ZoneState) -> Cell {
    match from {
        ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen | ZoneState::Closed => {
            Ok(ZoneState::Closed)
        }
        ZoneState::Empty
        | ZoneState::Full
        | ZoneState::NotWp
        | ZoneState::ReadOnly
        | ZoneState::Offline => Err(TRANSITION),
    }
}

/// Puts a fresh zone into `state`, with a block written unless that is empty.
fn put(bench: &mut Bench<'_>, state: ZoneState) -> Checked<ZoneInfo> {
    let zone = bench.fresh_zone(3)?;
    if state != ZoneState::Empty {
        let append = bench.append(zone.zone, 1);
        bench.ok(append)?;
    }
    match state {
        ZoneState::ExplicitlyOpen => drop(bench.ok(Call::Open(zone.zone))?),
        ZoneState::Closed => drop(bench.ok(Call::Close(zone.zone))?),
        ZoneState::Full => bench.make_full(zone.zone)?,
        ZoneState::Empty | ZoneState::ImplicitlyOpen => {}
        ZoneState::NotWp | ZoneState::ReadOnly | ZoneState::Offline => {
            return fault("no request leads there");
        }
    }
    let found = bench.zone(zone.zone)?;
    if found.state == state {
        return Ok(found);
    }
    fault(format!("zone {} was to be made {state}, and is {}", zone.zone, found.state))
}

/// Tries one operation on each state.
fn row(
    bench: &mut Bench<'_>,
    word: &str,
    cell: impl Fn(ZoneState) -> Cell,
    call: impl Fn(&mut Bench<'_>, &ZoneInfo) -> Call,
    written: impl Fn(u64, u64) -> u64,
) -> Checked {
    for from in STATES {
        let zone = put(bench, from)?;
        let case = format!("{word} {from}");
        let call = call(bench, &zone);
        let before = if from == ZoneState::Empty { 0 } else { bench.block() };
        match cell(from) {
            Err(kinds) => bench.refused(&case, Some(zone.zone), call, kinds)?,
            Ok(to) => {
                let words = call.to_string();
                match bench.call(call)?.result {
                    Ok(_) => {
                        let written = written(before, bench.block());
                        bench.expect_zone(&case, zone.zone, to, written)?;
                    }
                    Err(error) => bench.fault(&case, format!("{words}, which was {from}: {error}")),
                }
            }
        }
    }
    Ok(())
}

pub(super) fn append(bench: &mut Bench<'_>) -> Checked {
    row(
        bench,
        "append to",
        after_write,
        |bench, zone| bench.append(zone.zone, 1),
        |n, block| n + block,
    )
}

pub(super) fn write(bench: &mut Bench<'_>) -> Checked {
    let call = |bench: &mut Bench<'_>, zone: &ZoneInfo| {
        // A full zone's write pointer may be anywhere.
        let at = if zone.state == ZoneState::Full { None } else { zone.write_pointer };
        bench.write(zone.zone, at.unwrap_or(zone.start + bench.block()), 1)
    };
    // A peer that looks at the write pointer first has a reason, too.
    const KINDS: &[ErrorKind] = &[ErrorKind::ZoneFull, ErrorKind::NotAtWritePointer];
    let cell = |from| after_write(from).map_err(|_| KINDS);
    row(bench, "write to", cell, call, |n, block| n + block)
}

pub(super) fn open(bench: &mut Bench<'_>) -> Checked {
    row(bench, "open", after_open, |_, zone| Call::Open(zone.zone), |n, _| n)
}

pub(super) fn close(bench: &mut Bench<'_>) -> Checked {
    row(bench, "close", after_close, |_, zone| Call::Close(zone.zone), |n, _| n)
}

pub(super) fn finish(bench: &mut Bench<'_>) -> Checked {
    if !bench.limits().finish {
        let zone = bench.fresh_zone(1)?.zone;
        bench.refused("", Some(zone), Call::Finish(zone), &[ErrorKind::Unsupported])?;
        return if bench.notes.faults.is_empty() {
            not_applicable("its zones cannot be finished, as it says, and as it refuses")
        } else {
            Ok(())
        };
    }
    row(bench, "finish", |_| Ok(ZoneState::Full), |_, zone| Call::Finish(zone.zone), |n, _| n)
}

pub(super) fn reset(bench: &mut Bench<'_>) -> Checked {
    row(bench, "reset", |_| Ok(ZoneState::Empty), |_, zone| Call::Reset(zone.zone), |_, _| 0)
}

/// Closing a zone without data: two answers are right.
pub(super) fn close_unwritten(bench: &mut Bench<'_>) -> Checked {
    let zone = bench.fresh_zone(1)?.zone;
    bench.ok(Call::Open(zone))?;
    bench.expect_zone("", zone, ZoneState::ExplicitlyOpen, 0)?;
    bench.ok(Call::Close(zone))?;
    let state = bench.zone(zone)?.state;
    let right = matches!(state, ZoneState::Empty | ZoneState::Closed);
    bench.expect(right, "", || {
        format!("zone {zone} was open with nothing written; closed, it is {state}")
    });
    if right {
        bench.does(format!("makes a zone {state} that is closed with nothing written"));
    }
    bench.expect_zone("", zone, state, 0)
}
