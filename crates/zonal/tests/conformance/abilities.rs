//! What one kind of drive can do and another cannot, and how each is found out.

use crate::backends::BLOCK;
use crate::bench::{Bench, blocks_of};
use std::fmt;
use zonal::{ErrorKind, Flags, Request, ZoneKind, ZoneState};

/// What a drive answers where an ability is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// It can.
    Has,
    /// It refuses, with this kind of error.
    Refuses(ErrorKind),
    /// There is nothing to refuse: it is just not so.
    Lacks,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Has => f.write_str("yes"),
            Self::Refuses(kind) => write!(f, "{kind:?}"),
            Self::Lacks => f.write_str("no"),
        }
    }
}

/// Something that not every drive can do.
pub(crate) struct Ability {
    pub(crate) name: &'static str,
    /// Asks a fresh drive.
    pub(crate) probe: fn(&mut Bench) -> Cell,
}

pub(crate) const COUNT: usize = 11;

pub(crate) const ABILITIES: [Ability; COUNT] = [
    Ability { name: "several zones", probe: has_several_zones },
    Ability { name: "limits on zones", probe: has_limits },
    Ability { name: "conventional zones", probe: has_conventional_zones },
    Ability { name: "finish", probe: can_finish },
    Ability { name: "kept when closed", probe: is_kept },
    Ability { name: "one writer", probe: has_one_writer },
    Ability { name: "durable writes", probe: writes_durably },
    Ability { name: "a descriptor to poll", probe: can_be_polled },
    Ability { name: "set_condition", probe: can_set_conditions },
    Ability { name: "closed unwritten: empty", probe: closes_to_empty },
    Ability { name: "open outlives", probe: stays_open },
];

fn answer(result: zonal::Result<u32>) -> Cell {
    result.map_or_else(|error| Cell::Refuses(error.kind()), |_| Cell::Has)
}

fn has(yes: bool) -> Cell {
    if yes { Cell::Has } else { Cell::Lacks }
}

fn has_several_zones(bench: &mut Bench) -> Cell {
    // The last, as the first ones may be conventional.
    let last = bench.drive().geometry().zones().max(2) - 1;
    answer(bench.queue().run(Request::append(last, blocks_of(1, 1))).result)
}

fn has_limits(bench: &mut Bench) -> Cell {
    let limits = bench.drive().limits();
    has(limits.max_open_zones.is_some() || limits.max_active_zones.is_some())
}

fn has_conventional_zones(bench: &mut Bench) -> Cell {
    let written = bench.queue().run(Request::write_at(BLOCK, blocks_of(1, 1))).result;
    let zone = bench.drive().report(0..1).unwrap()[0];
    assert_eq!(written.is_ok(), zone.kind == ZoneKind::Conventional);
    answer(written)
}

fn can_finish(bench: &mut Bench) -> Cell {
    let zone = bench.zones()[0].zone;
    answer(bench.queue().run(Request::finish(zone)).result)
}

fn is_kept(bench: &mut Bench) -> Cell {
    let zone = bench.zones()[0];
    bench.queue().append(zone.zone, 1, 1);
    bench.reopen(false);
    has(bench.zone(zone.zone).write_pointer == Some(zone.start + BLOCK))
}

fn has_one_writer(bench: &mut Bench) -> Cell {
    match bench.open(false) {
        Ok(_) => Cell::Lacks,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InUse);
            Cell::Has
        }
    }
}

fn writes_durably(bench: &mut Bench) -> Cell {
    let zone = bench.zones()[0].zone;
    let completion = bench.queue().ok(Request::append(zone, blocks_of(1, 1)).fua());
    has(completion.flags.contains(Flags::DURABLE))
}

fn can_set_conditions(bench: &mut Bench) -> Cell {
    let zone = bench.zones()[0].zone;
    answer(bench.drive().set_condition(zone, ZoneState::ReadOnly).map(|()| 0))
}

fn closes_to_empty(bench: &mut Bench) -> Cell {
    let zone = bench.zones()[0].zone;
    let mut queue = bench.queue();
    queue.ok(Request::open(zone));
    queue.ok(Request::close(zone));
    has(bench.zone(zone).state == ZoneState::Empty)
}

/// Whether an open zone is still open when the drive is closed and opened again.
fn stays_open(bench: &mut Bench) -> Cell {
    let zone = bench.zones()[0].zone;
    bench.queue().ok(Request::open(zone));
    bench.reopen(false);
    has(bench.zone(zone).state == ZoneState::ExplicitlyOpen)
}

fn can_be_polled(bench: &mut Bench) -> Cell {
    has(bench.queue().poll_fd().is_some())
}
