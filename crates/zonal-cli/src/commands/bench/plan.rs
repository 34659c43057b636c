//! Who writes or reads what: each job's share, worked out before the clock starts, so that jobs
//! share nothing while it runs.
//!
//! Appending jobs all append to the same zones at once; each has its share of a zone's room, so
//! no append is refused for want of it. Where the drive limits its open or active zones, the zones
//! are taken in groups, and a gate holds the jobs until a group is full.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use zonal::{Device, ZoneInfo, ZoneKind, ZoneState};

use super::{Rw, pattern::splitmix};
use crate::{
    args::ZoneRange,
    zones::{self, Candidates},
};

/// One job's part of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) zone: u32,
    /// Where plain writes start, in bytes from the drive's start.
    offset: u64,
    /// How many records.
    records: u64,
}

/// Where the next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A write to this zone; a plain one at this offset.
    Write { zone: u32, offset: u64 },
    /// A read from this offset.
    Read { offset: u64 },
    /// Nowhere before the gate after this group is passed.
    Gate,
    /// Nowhere: the zones are full, or the share is used up.
    End,
}

/// One job's plan.
pub(super) enum Plan {
    /// Writes of any kind.
    Write(WritePlan),
    /// Reads of either kind.
    Read(ReadPlan),
    /// Appends, and reads of what was there before.
    Mixed(MixedPlan),
}

impl Plan {
    /// Where the next record goes.
    pub(super) fn next(&mut self) -> Next {
        match self {
            Self::Write(plan) => plan.next(),
            Self::Read(plan) => plan.next(),
            Self::Mixed(plan) => plan.next(),
        }
    }

    /// Where its writes wait for those of the other jobs.
    pub(super) fn gate(&self) -> Option<Arc<Gate>> {
        match self {
            Self::Write(plan) | Self::Mixed(MixedPlan { write: plan, .. }) => plan.gate.clone(),
            Self::Read(_) => None,
        }
    }

    /// How many records it writes at most.
    pub(super) fn records(&self) -> u64 {
        match self {
            Self::Write(plan) => plan.records(),
            Self::Read(_) => 0,
            Self::Mixed(plan) => plan.left.min(plan.write.records()),
        }
    }
}

/// A job that appends and reads.
pub(super) struct MixedPlan {
    write: WritePlan,
    read: ReadPlan,
    /// How many of a hundred are reads.
    rwmixread: u64,
    random: u64,
    /// How many may still come, of both.
    left: u64,
}

impl MixedPlan {
    fn next(&mut self) -> Next {
        if self.left == 0 {
            return Next::End;
        }
        let reads = splitmix(&mut self.random) % 100 < self.rwmixread;
        let next = if reads { self.read.next() } else { self.write.next() };
        self.left -= u64::from(matches!(next, Next::Write { .. } | Next::Read { .. }));
        next
    }
}

/// A job that writes.
pub(super) struct WritePlan {
    groups: Vec<Vec<Share>>,
    /// The group in use.
    group: usize,
    /// Whose turn it is in the group.
    turn: usize,
    record_bytes: u64,
    /// How many records may still be written.
    limit: u64,
    /// Between groups.
    gate: Option<Arc<Gate>>,
}

impl WritePlan {
    fn records(&self) -> u64 {
        self.groups.iter().flatten().map(|share| share.records).sum::<u64>().min(self.limit)
    }

    fn next(&mut self) -> Next {
        if self.limit == 0 {
            return Next::End;
        }
        while let Some(group) = self.groups.get_mut(self.group) {
            if group.is_empty() {
                self.group += 1;
                self.turn = 0;
                let more = self.group < self.groups.len();
                match &self.gate {
                    Some(_) if more => return Next::Gate,
                    Some(_) | None => continue,
                }
            }
            if self.turn >= group.len() {
                self.turn = 0;
            }
            let share = &mut group[self.turn];
            if share.records == 0 {
                group.remove(self.turn);
                continue;
            }
            let Share { zone, offset, .. } = *share;
            share.records -= 1;
            share.offset += self.record_bytes;
            self.turn += 1;
            self.limit -= 1;
            return Next::Write { zone, offset };
        }
        Next::End
    }
}

/// What was written in one zone.
#[derive(Clone, Copy, Debug)]
struct Region {
    offset: u64,
    /// How many records lie in the regions before it.
    before: u64,
}

/// A job that reads.
pub(super) struct ReadPlan {
    regions: Arc<Vec<Region>>,
    record_bytes: u64,
    /// Records are numbered over all regions; the job reads those from `first` up to `end`.
    first: u64,
    end: u64,
    at: u64,
    /// The region of the last record.
    region: usize,
    random: Option<u64>,
    limit: u64,
}

impl ReadPlan {
    fn next(&mut self) -> Next {
        if self.limit == 0 {
            return Next::End;
        }
        self.limit -= 1;
        let record = match &mut self.random {
            Some(state) => self.first + splitmix(state) % (self.end - self.first),
            None => {
                let at = self.at;
                self.at = if at + 1 < self.end { at + 1 } else { self.first };
                at
            }
        };
        let inside = |region: usize| {
            self.regions[region].before <= record
                && self.regions.get(region + 1).is_none_or(|next| record < next.before)
        };
        if !inside(self.region) {
            self.region = self.regions.partition_point(|region| region.before <= record) - 1;
        }
        let Region { offset, before } = self.regions[self.region];
        Next::Read { offset: offset + (record - before) * self.record_bytes }
    }
}

/// The `job`th of `jobs` nearly equal parts of `total`.
fn part(total: u64, job: u64, jobs: u64) -> u64 {
    total / jobs + u64::from(job < total % jobs)
}

/// What all jobs together do.
pub(super) struct Whole {
    pub(super) rw: Rw,
    pub(super) record_bytes: u64,
    pub(super) jobs: u32,
    /// How many records at most, over all jobs.
    pub(super) limit: Option<u64>,
    /// Of mixed work: how many of a hundred are reads.
    pub(super) rwmixread: u64,
}

impl Whole {
    /// Each job's plan for `device`.
    pub(super) fn plans(&self, device: &Device, range: Option<&ZoneRange>) -> Result<Vec<Plan>> {
        match self.rw {
            Rw::Append | Rw::AppendOrdered => {
                let candidates = Candidates::of(device, range)?;
                Ok(self.append(&candidates).into_iter().map(Plan::Write).collect())
            }
            Rw::Write => {
                let candidates = Candidates::of(device, range)?;
                ensure!(
                    candidates.max_open >= self.jobs as usize
                        && candidates.zones.len() >= self.jobs as usize,
                    "{}: plain writes need a zone for each of the {} jobs, and only {} can be open: \
                     fewer --numjobs, more --zones, or --rw append",
                    device.name(),
                    self.jobs,
                    candidates.max_open.min(candidates.zones.len())
                );
                Ok(self.write(&candidates).into_iter().map(Plan::Write).collect())
            }
            Rw::Read | Rw::Randread => {
                let report = device.report(zones::numbers(device, range)?)?;
                Ok(self.read(device.name(), &report)?.into_iter().map(Plan::Read).collect())
            }
            Rw::Mixed => {
                let report = device.report(zones::numbers(device, range)?)?;
                let unlimited = Self { limit: None, ..*self };
                let writes = unlimited.append(&Candidates::of(device, range)?);
                let reads = unlimited.read(device.name(), &report)?;
                let mixed = (0u32..).zip(writes.into_iter().zip(reads));
                Ok(mixed.map(|(job, (write, read))| self.mixed(job, write, read)).collect())
            }
        }
    }

    fn job_limit(&self, job: u32) -> u64 {
        self.limit.map_or(u64::MAX, |limit| part(limit, job.into(), self.jobs.into()))
    }

    /// Active zones first: they hold their place in the limits already.
    fn ordered(candidates: &Candidates) -> Vec<ZoneInfo> {
        let mut zones = candidates.zones.clone();
        zones.sort_by_key(|zone| !zones::is_active(zone.state));
        zones
    }

    fn append(&self, candidates: &Candidates) -> Vec<WritePlan> {
        let zones = Self::ordered(candidates);
        let width = candidates.max_open.min(zones.len()).max(1);
        let gate =
            (width < zones.len()).then(|| Arc::new(Gate::new(self.jobs, zones.chunks(width))));
        (0..self.jobs)
            .map(|job| {
                let share = |zone: &ZoneInfo| Share {
                    zone: zone.zone,
                    offset: 0,
                    records: part(
                        zones::room(zone) / self.record_bytes,
                        job.into(),
                        self.jobs.into(),
                    ),
                };
                let mut groups: Vec<Vec<Share>> =
                    zones.chunks(width).map(|group| group.iter().map(share).collect()).collect();
                for group in &mut groups {
                    // Jobs start at different zones, as strangers would.
                    let by = job as usize % group.len();
                    group.rotate_left(by);
                }
                self.write_plan(groups, job, gate.clone())
            })
            .collect()
    }

    fn write(&self, candidates: &Candidates) -> Vec<WritePlan> {
        let zones = Self::ordered(candidates);
        let limited = candidates.max_open < zones.len();
        (0..self.jobs)
            .map(|job| {
                let own: Vec<ZoneInfo> =
                    zones.iter().skip(job as usize).step_by(self.jobs as usize).copied().collect();
                let groups = own
                    .iter()
                    .map(|zone| {
                        vec![Share {
                            zone: zone.zone,
                            offset: zone.write_pointer.unwrap_or(zone.start),
                            records: zones::room(zone) / self.record_bytes,
                        }]
                    })
                    .collect();
                let gate = limited.then(|| Arc::new(Gate::new(1, own.chunks(1))));
                self.write_plan(groups, job, gate)
            })
            .collect()
    }

    fn mixed(&self, job: u32, write: WritePlan, read: ReadPlan) -> Plan {
        Plan::Mixed(MixedPlan {
            write,
            read,
            rwmixread: self.rwmixread,
            random: u64::from(job) + 1,
            left: self.job_limit(job),
        })
    }

    fn write_plan(&self, groups: Vec<Vec<Share>>, job: u32, gate: Option<Arc<Gate>>) -> WritePlan {
        let (record_bytes, limit) = (self.record_bytes, self.job_limit(job));
        WritePlan { groups, group: 0, turn: 0, record_bytes, limit, gate }
    }

    fn read(&self, name: &str, report: &[ZoneInfo]) -> Result<Vec<ReadPlan>> {
        let mut regions = Vec::new();
        let mut total = 0;
        for zone in report {
            let readable = match zone.state {
                ZoneState::Offline => 0,
                ZoneState::NotWp => zone.capacity,
                ZoneState::Full => zone.capacity,
                ZoneState::Empty
                | ZoneState::ImplicitlyOpen
                | ZoneState::ExplicitlyOpen
                | ZoneState::Closed
                | ZoneState::ReadOnly => {
                    zone.write_pointer.map_or(0, |wp| wp.saturating_sub(zone.start))
                }
            };
            let records = match zone.kind {
                ZoneKind::Sequential | ZoneKind::Conventional => readable / self.record_bytes,
            };
            if records > 0 {
                regions.push(Region { offset: zone.start, before: total });
                total += records;
            }
        }
        ensure!(
            total > 0,
            "{name}: nothing to read: no zone holds a record of {} bytes; write first, for example \
             with --rw append",
            self.record_bytes
        );
        let regions = Arc::new(regions);
        let jobs = u64::from(self.jobs);
        Ok((0..self.jobs)
            .map(|job| {
                let (first, end) = match self.rw {
                    Rw::Read if total >= jobs => {
                        let first = (0..job.into()).map(|job| part(total, job, jobs)).sum();
                        (first, first + part(total, job.into(), jobs))
                    }
                    Rw::Read
                    | Rw::Randread
                    | Rw::Mixed
                    | Rw::Append
                    | Rw::AppendOrdered
                    | Rw::Write => (0, total),
                };
                let random = (self.rw != Rw::Read).then(|| u64::from(job) + 1);
                ReadPlan {
                    regions: regions.clone(),
                    record_bytes: self.record_bytes,
                    first,
                    end,
                    at: first,
                    region: 0,
                    random,
                    limit: self.job_limit(job),
                }
            })
            .collect())
    }
}

/// Holds jobs between groups of zones until all have drained, and one has finished the group.
pub(super) struct Gate {
    groups: Vec<Vec<u32>>,
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    /// How many jobs take part.
    jobs: u32,
    /// How many of them wait.
    arrived: u32,
    /// How many groups are over.
    passed: usize,
    /// A job is finishing the group.
    finishing: bool,
}

impl Gate {
    fn new<'a>(jobs: u32, groups: impl Iterator<Item = &'a [ZoneInfo]>) -> Self {
        let state = GateState { jobs, arrived: 0, passed: 0, finishing: false };
        Self {
            groups: groups.map(|group| group.iter().map(|zone| zone.zone).collect()).collect(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits for the others; the last one there calls `finish` with the group's zones. False if
    /// `stop` says so first.
    pub(super) fn arrive(
        &self,
        stop: impl Fn() -> bool,
        finish: impl FnOnce(&[u32]) -> Result<()>,
    ) -> Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.arrived += 1;
        let group = state.passed;
        while state.passed == group {
            if stop() {
                state.arrived -= 1;
                return Ok(false);
            }
            if state.arrived == state.jobs && !state.finishing {
                state.finishing = true;
                drop(state);
                let finished = finish(&self.groups[group]);
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.finishing = false;
                state.arrived = 0;
                state.passed += 1;
                self.changed.notify_all();
                return finished.map(|()| true);
            }
            // A job that leaves, or a signal, is seen within this time.
            const GLANCE: Duration = Duration::from_millis(20);
            state =
                self.changed.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(true)
    }

    /// A job has ended and is waited for no more.
    pub(super) fn leave(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs -= 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn zone(zone: u32, written: u64) -> ZoneInfo {
        let start = u64::from(zone) * 1000;
        let state = if written == 0 { ZoneState::Empty } else { ZoneState::Closed };
        ZoneInfo {
            zone,
            kind: ZoneKind::Sequential,
            state,
            start,
            write_pointer: Some(start + written),
            capacity: 1000,
            size: 1000,
        }
    }

    fn candidates(max_open: usize) -> Candidates {
        let zones = (0..4).map(|number| zone(number, 0)).collect();
        Candidates { zones, max_open, max_active: usize::MAX, dead: Vec::new() }
    }

    fn whole(rw: Rw, jobs: u32, limit: Option<u64>) -> Whole {
        Whole { rw, record_bytes: 100, jobs, limit, rwmixread: 50 }
    }

    fn drain(plan: &mut WritePlan) -> (Vec<(u32, u64)>, usize) {
        let (mut records, mut gates) = (Vec::new(), 0);
        loop {
            match plan.next() {
                Next::Write { zone, offset } => records.push((zone, offset)),
                Next::Read { offset } => panic!("a read from {offset}"),
                Next::Gate => gates += 1,
                Next::End => return (records, gates),
            }
        }
    }

    #[test]
    fn appending_jobs_fill_every_zone_exactly() {
        for (max_open, gates) in [(usize::MAX, 0), (4, 0), (3, 1), (1, 3)] {
            let mut per_zone = [0; 4];
            for mut plan in whole(Rw::Append, 3, None).append(&candidates(max_open)) {
                let (records, passed) = drain(&mut plan);
                assert_eq!(passed, gates);
                for (zone, _) in records {
                    per_zone[zone as usize] += 1;
                }
            }
            assert_eq!(per_zone, [10; 4]);
        }
    }

    #[test]
    fn writing_jobs_go_through_zones_of_their_own_in_order() {
        let mut plans = whole(Rw::Write, 2, None).write(&candidates(usize::MAX));
        let (records, _) = drain(&mut plans[1]);
        let expected: Vec<(u32, u64)> = [1, 3]
            .iter()
            .flat_map(|&zone| (0..10).map(move |n| (zone, u64::from(zone) * 1000 + n * 100)))
            .collect();
        assert_eq!(records, expected);
    }

    #[test]
    fn a_limit_is_shared_out() {
        let plans = whole(Rw::Append, 3, Some(10)).append(&candidates(usize::MAX));
        let counts: Vec<usize> =
            plans.into_iter().map(|mut plan| drain(&mut plan).0.len()).collect();
        assert_eq!(counts, [4, 3, 3]);
    }

    #[test]
    fn reads_stay_below_the_write_pointers_and_start_over() {
        let report = [zone(0, 250), zone(1, 0), zone(2, 300)];
        for rw in [Rw::Read, Rw::Randread] {
            let mut plans = whole(rw, 1, Some(20)).read("disk", &report).unwrap();
            let mut seen = Vec::new();
            while let Next::Read { offset } = plans[0].next() {
                assert!([0, 100, 2000, 2100, 2200].contains(&offset), "{offset}");
                seen.push(offset);
            }
            assert_eq!(seen.len(), 20);
            if rw == Rw::Read {
                assert_eq!(seen[..6], [0, 100, 2000, 2100, 2200, 0]);
            }
        }
        assert!(whole(Rw::Read, 1, None).read("disk", &[zone(0, 0)]).is_err());
    }

    #[test]
    fn mixed_work_keeps_its_share_of_reads_and_its_limit() {
        let whole = Whole { rwmixread: 70, ..whole(Rw::Mixed, 1, Some(30)) };
        let unlimited = Whole { limit: None, ..whole };
        let write = unlimited.append(&candidates(usize::MAX)).remove(0);
        let read = unlimited.read("disk", &[zone(0, 300)]).unwrap().remove(0);
        let mut plan = whole.mixed(0, write, read);
        let (mut reads, mut writes) = (0, 0);
        loop {
            match plan.next() {
                Next::Read { offset } => {
                    assert!([0, 100, 200].contains(&offset));
                    reads += 1;
                }
                Next::Write { .. } => writes += 1,
                Next::Gate => panic!("no limit"),
                Next::End => break,
            }
        }
        assert_eq!(reads + writes, 30);
        assert!((15..=27).contains(&reads), "{reads}");
    }

    #[test]
    fn a_gate_opens_when_all_came_and_a_leaver_is_not_waited_for() {
        let zones = [zone(0, 0), zone(1, 0)];
        let gate = Gate::new(3, zones.chunks(1));
        let finished = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let finish = |zones: &[u32]| {
                        assert_eq!(zones, [0]);
                        finished.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    };
                    assert!(gate.arrive(|| false, finish).unwrap());
                });
            }
            scope.spawn(|| gate.leave());
        });
        assert_eq!(finished.into_inner(), 1);
    }
}
