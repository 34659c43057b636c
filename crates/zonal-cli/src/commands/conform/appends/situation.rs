//! The situations: how many threads send records of which sizes to how many zones, and what happens
//! to the zones before and in between.

use std::{collections::BTreeMap, thread};

use zonal::{ErrorKind, ZoneInfo};

use super::{
    super::{
        bench::Bench,
        pattern::Stamp,
        verdict::{Checked, Stop},
    },
    Campaign, Judgement, judge,
    worker::{self, Deed, Step, Work},
};
use crate::args::format_size;

/// How long records are, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// All the same.
    Fixed(u64),
    /// From one block up to so many.
    Mixed(u64),
}

/// What happens to the zones besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twist {
    /// Nothing.
    Plain,
    /// More zones than may be open at once.
    ImplicitCloses,
    /// Every so many records the zone is reset, with records in flight before and behind.
    Resets,
    /// The zone is closed or opened, with records in flight before and behind.
    OpenClose,
    /// It is finished in the midst; what comes later is refused. Then it is reset, and written anew.
    Finish,
    /// Requests that must be refused go between the records.
    AmongRefused,
    /// Records compete for the last blocks.
    LastBlock,
}

/// One situation.
#[derive(Clone, Copy, Debug)]
struct Situation {
    zones: usize,
    threads: usize,
    depth: u32,
    size: Size,
    twist: Twist,
}

/// What records in flight may take of memory.
const IN_FLIGHT_BYTES: u64 = 32 << 20;

const NOT_ROOM: &[ErrorKind] = &[ErrorKind::ZoneFull, ErrorKind::BeyondCapacity];
const WRONG_WRITE: &[ErrorKind] = &[ErrorKind::NotAtWritePointer, ErrorKind::ZoneFull];
const WRONG_LENGTH: &[ErrorKind] = &[ErrorKind::InvalidInput];
const TOO_LARGE: &[ErrorKind] =
    &[ErrorKind::AppendTooLarge, ErrorKind::BeyondCapacity, ErrorKind::ZoneFull];

/// Runs all of them.
///
/// # Errors
/// Only a request that hung; everything else is a finding.
pub(super) fn run_all(bench: &mut Bench<'_>, campaign: &mut Campaign) -> Checked {
    for situation in all(bench) {
        let name = situation.name(bench);
        if let Some(why) = bench.at_its_end() {
            campaign.left_out.push(format!("{name}: {why}"));
            continue;
        }
        match run(bench, campaign, &situation, &name) {
            Ok(()) => campaign.situations.push(name),
            Err(Stop::NotApplicable(why)) => campaign.left_out.push(format!("{name}: {why}")),
            Err(Stop::Fault(text)) => {
                campaign.find(Judgement::Completes, &name, text);
                campaign.situations.push(name);
            }
            Err(hung @ Stop::Hung(_)) => return Err(hung),
        }
    }
    Ok(())
}

/// The list.
fn all(bench: &Bench<'_>) -> Vec<Situation> {
    let (open, active) = bench.room();
    let most =
        (bench.limits().append_bytes_max / bench.block()).min((1 << 20) / bench.block()).max(1);
    let sizes = [
        Size::Fixed(1),
        Size::Fixed(3.min(most)),
        Size::Fixed(16.min(most)),
        Size::Fixed(most),
        Size::Mixed(8.min(most)),
    ];
    let several = open.clamp(1, 4);
    let plain = |zones, threads, depth, size| Situation {
        zones,
        threads,
        depth,
        size,
        twist: Twist::Plain,
    };
    let mut list = Vec::new();
    if bench.bounds.every {
        for size in sizes {
            for threads in [1, 2, 4] {
                for depth in [1, 2, 8, 32, 128, 512] {
                    list.extend([1, several].map(|zones| plain(zones, threads, depth, size)));
                }
            }
        }
    } else {
        list.extend([
            plain(1, 1, 1, sizes[0]),
            plain(1, 1, 32, sizes[0]),
            plain(1, 1, 128, sizes[0]),
            plain(1, 1, 8, sizes[1]),
            plain(1, 1, 64, sizes[4]),
            plain(1, 1, 4, sizes[3]),
            plain(1, 2, 32, sizes[0]),
            plain(1, 4, 32, sizes[4]),
            plain(1, 2, 16, sizes[2]),
            plain(several, 1, 64, sizes[4]),
            plain(several, 4, 32, sizes[0]),
        ]);
    }
    let twisted =
        |zones, threads, depth, size, twist| Situation { zones, threads, depth, size, twist };
    for (threads, depth, size) in [(1, 32, sizes[0]), (2, 16, sizes[4])] {
        list.push(twisted(
            (open + 2).min(active).max(1),
            threads,
            depth,
            size,
            Twist::ImplicitCloses,
        ));
        list.push(twisted(1, 1, depth, size, Twist::Resets));
        list.push(twisted(1, 1, depth, size, Twist::OpenClose));
        list.push(twisted(1, 1, depth, size, Twist::Finish));
        list.push(twisted(1, threads, depth, size, Twist::AmongRefused));
    }
    list.push(twisted(1, 1, 16, sizes[0], Twist::LastBlock));
    list.push(twisted(1, 4, 16, sizes[0], Twist::LastBlock));
    list.push(twisted(1, 2, 8, sizes[1], Twist::LastBlock));
    list
}

impl Situation {
    fn name(&self, bench: &Bench<'_>) -> String {
        let bytes = |blocks: u64| format_size(blocks * bench.block());
        let size = match self.size {
            Size::Fixed(blocks) => format!("records of {}", bytes(blocks)),
            Size::Mixed(blocks) => format!("records of up to {}", bytes(blocks)),
        };
        let threads = if self.threads == 1 {
            String::new()
        } else {
            format!(" from {} threads", self.threads)
        };
        let zones =
            if self.zones == 1 { String::new() } else { format!(" to {} zones", self.zones) };
        let twist = match self.twist {
            Twist::Plain => "",
            Twist::ImplicitCloses => ", more zones than may be open",
            Twist::Resets => ", reset in between",
            Twist::OpenClose => ", opened and closed in between",
            Twist::Finish => ", finished in between",
            Twist::AmongRefused => ", among requests that must be refused",
            Twist::LastBlock => ", for the last blocks of a zone",
        };
        format!("{size}{zones}{threads}, {} in flight{twist}", self.depth)
    }

    fn longest(&self) -> u64 {
        match self.size {
            Size::Fixed(blocks) | Size::Mixed(blocks) => blocks,
        }
    }

    fn blocks(&self, bench: &mut Bench<'_>) -> u64 {
        match self.size {
            Size::Fixed(blocks) => blocks,
            Size::Mixed(blocks) => 1 + bench.random(blocks),
        }
    }
}

/// Makes ready, sends, judges.
fn run(
    bench: &mut Bench<'_>,
    campaign: &mut Campaign,
    situation: &Situation,
    name: &str,
) -> Checked {
    if situation.twist == Twist::ImplicitCloses {
        bench.alone()?;
        if situation.zones <= bench.room().0 {
            return Err(Stop::NotApplicable("no zone has to be closed for another".into()));
        }
    }
    if situation.twist == Twist::Finish && !bench.limits().finish {
        return Err(Stop::NotApplicable("its zones cannot be finished".into()));
    }
    let zones = bench.fresh(situation.zones, situation.longest())?;
    let tail = match situation.twist {
        Twist::LastBlock => Some(make_tail(bench, situation, &zones[0])?),
        _ => None,
    };
    let report = bench.usable()?;
    let bases: BTreeMap<u32, u64> = report
        .iter()
        .filter(|zone| zones.iter().any(|mine| mine.zone == zone.zone))
        .map(|zone| (zone.zone, zone.write_pointer.unwrap_or(zone.start)))
        .collect();
    let plans = plan(bench, situation, &zones, tail);
    let in_flight = situation.longest() * bench.block() * situation.threads as u64;
    let depth =
        situation.depth.min(u32::try_from(IN_FLIGHT_BYTES / in_flight).unwrap_or(u32::MAX).max(1));
    let work = send(bench, &plans, depth)?;
    let lives = lives(&work);
    let mut landed = Vec::new();
    for Work { landed: some, findings, .. } in work {
        landed.extend(some.into_iter().filter(|record| {
            lives.get(&record.stamp.zone).is_none_or(|life| *life == record.life)
        }));
        findings.into_iter().for_each(|(refused, text)| campaign.find_end(refused, name, &text));
    }
    if let Some(tail) = tail {
        let sent: u64 = landed.iter().map(|record| record.length).sum();
        let left = tail - sent.min(tail);
        if left >= situation.longest() * bench.block() {
            let text = format!(
                "zone {} has {left} bytes left, and appends that fit were refused",
                zones[0].zone
            );
            campaign.find(Judgement::Completes, name, text);
        }
    }
    judge::judge(bench, campaign, name, &bases, landed)
}

/// How often each zone was reset; only one thread does so.
fn lives(work: &[Work]) -> BTreeMap<u32, u32> {
    let mut lives = BTreeMap::new();
    for (zone, count) in work.iter().flat_map(|work| &work.lives) {
        let life: &mut u32 = lives.entry(*zone).or_default();
        *life = (*life).max(*count);
    }
    lives
}

/// Fills a zone but for what the threads compete for; returns how many bytes that is.
fn make_tail(bench: &mut Bench<'_>, situation: &Situation, zone: &ZoneInfo) -> Checked<u64> {
    /// More than are in flight of one thread, so that the end comes while many are.
    const RECORDS: u64 = 40;
    let tail = (RECORDS * situation.longest() * bench.block()).min(zone.capacity);
    bench.fill(zone.zone, tail)?;
    Ok(tail)
}

/// The steps of each thread.
fn plan(
    bench: &mut Bench<'_>,
    situation: &Situation,
    zones: &[ZoneInfo],
    tail: Option<u64>,
) -> Vec<Vec<Step>> {
    let mut plans = vec![Vec::new(); situation.threads];
    if tail.is_some() {
        /// Half as many again as fit.
        const RECORDS: usize = 60;
        for n in 0..RECORDS {
            let length = situation.blocks(bench) * bench.block();
            let stamp = bench.stamp(zones[0].zone);
            plans[n % situation.threads].push(Step {
                stamp,
                deed: Deed::Append(length),
                may: NOT_ROOM,
            });
        }
        return plans;
    }
    let mut left: Vec<u64> = zones.iter().map(|zone| zone.capacity).collect();
    let mut bytes = bench.bounds.bytes;
    for n in 0..bench.bounds.records {
        let (at, thread) = (n % zones.len(), n / zones.len() % situation.threads);
        let zone = &zones[at];
        let length = situation.blocks(bench) * bench.block();
        if length > bytes || left.iter().all(|left| *left < length) {
            break;
        }
        if situation.twist != Twist::Plain && n > 0 && n.is_multiple_of(EVERY) {
            left[at] = twist(bench, situation, zone, left[at], &mut plans[thread]);
        }
        if left[at] < length {
            continue;
        }
        let stamp = bench.stamp(zone.zone);
        plans[thread].push(Step { stamp, deed: Deed::Append(length), may: &[] });
        left[at] -= length;
        bytes -= length;
    }
    plans
}

/// How many records come between two twists.
const EVERY: usize = 7;

/// Puts what happens in between into a plan; returns how many bytes the zone takes then.
fn twist(
    bench: &mut Bench<'_>,
    situation: &Situation,
    zone: &ZoneInfo,
    left: u64,
    plan: &mut Vec<Step>,
) -> u64 {
    let stamp = Stamp { record: 0, ..bench.stamp(zone.zone) };
    let mut push = |deed, may| plan.push(Step { stamp, deed, may });
    let block = bench.block();
    match situation.twist {
        Twist::Plain | Twist::ImplicitCloses | Twist::LastBlock => left,
        Twist::Resets => {
            push(Deed::Reset, &[]);
            zone.capacity
        }
        Twist::OpenClose => {
            // A zone that is full by then is neither opened nor closed.
            if left > 0 {
                push(if bench.random(2) == 0 { Deed::Open } else { Deed::Close }, &[]);
            }
            left
        }
        Twist::Finish => {
            push(Deed::Finish, &[]);
            push(Deed::Refused(block), &[ErrorKind::ZoneFull]);
            push(Deed::Refused(block), &[ErrorKind::ZoneFull]);
            push(Deed::Reset, &[]);
            zone.capacity
        }
        Twist::AmongRefused => {
            let too_large = bench.limits().append_bytes_max + block;
            let elsewhere = zone.start + zone.capacity - block;
            match bench.random(3) {
                0 if too_large <= IN_FLIGHT_BYTES => push(Deed::Refused(too_large), TOO_LARGE),
                // With less left than that it might be the write pointer.
                1 if left > 64 * block => {
                    push(Deed::RefusedWrite { offset: elsewhere, length: block }, WRONG_WRITE);
                }
                _ => push(Deed::Refused(block / 2), WRONG_LENGTH),
            }
            left
        }
    }
}

/// One thread for each plan.
fn send(bench: &Bench<'_>, plans: &[Vec<Step>], depth: u32) -> Checked<Vec<Work>> {
    let (peer, deadline) = (bench.peer, bench.bounds.deadline);
    let results = thread::scope(|scope| {
        let threads: Vec<_> = plans
            .iter()
            .map(|plan| scope.spawn(move || worker::run(peer, plan, depth, deadline)))
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let ended = results.into_iter().map(|result| {
        result.unwrap_or_else(|_| Err(Stop::Fault("a thread of the checker panicked".into())))
    });
    // A hang weighs more than what else was seen.
    let mut works = Vec::new();
    let mut first = None;
    for work in ended {
        match work {
            Ok(work) => works.push(work),
            Err(hung @ Stop::Hung(_)) => return Err(hung),
            Err(stop) => first = first.or(Some(stop)),
        }
    }
    match first {
        Some(stop) => Err(stop),
        None => Ok(works),
    }
}
