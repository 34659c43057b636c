//! What goes wrong, and when: decided by a plan and a seed, so that a seed replays a failure.

use std::ops::Range;

use super::super::IoKind;
use super::Outcome;
use super::medium::Medium;
use crate::faults::Random;

/// What goes wrong on a disk that completes requests by itself. By default nothing does.
///
/// It counts every request, those of making and opening an image included. A plan that begins with
/// the opened drive, as those of real drives do, is [`crate::faults::FaultPlan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// This write (counted from 0, zeroing included) fails with `EIO`, after a part of it.
    pub fail_write: Option<u64>,
    /// This sync (counted from 0) fails with `EIO`.
    pub fail_sync: Option<u64>,
    /// Reads and writes that touch this range (bytes) fail with `EIO`.
    pub bad_range: Option<Range<u64>>,
    /// So many sectors that were never written can be; after that writes to others of these fail
    /// with `ENOSPC`.
    pub free_sectors: Option<u64>,
    /// Zeroing fails with `EOPNOTSUPP`.
    pub no_zeroing: bool,
    /// How many of 1000 reads and writes of several sectors end short.
    pub short_per_mille: u16,
    /// How many of 1000 requests of any kind fail with `EIO`; writes after a part of them.
    pub fail_per_mille: u16,
}

/// The plan, and how far it is.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) plan: FaultPlan,
    pub(super) random: Random,
    writes: u64,
    syncs: u64,
}

impl Faults {
    pub(super) fn new(seed: u64, plan: FaultPlan) -> Self {
        Self { plan, random: Random::new(seed), writes: 0, syncs: 0 }
    }

    /// How a request ends.
    pub(super) fn decide(
        &mut self,
        kind: IoKind,
        offset: u64,
        length: u64,
        medium: &Medium,
    ) -> Outcome {
        let by_plan = match kind {
            IoKind::Read => self.bad(offset, length),
            IoKind::Write | IoKind::WriteDurable => self.write(offset, length, medium),
            IoKind::Zero if self.plan.no_zeroing => Some(Outcome::Fail(libc::EOPNOTSUPP)),
            IoKind::Zero => self.nth_write(length, medium).or_else(|| self.bad(offset, length)),
            IoKind::SyncData => self.sync(),
        };
        by_plan.unwrap_or_else(|| self.by_chance(kind, length, medium))
    }

    fn write(&mut self, offset: u64, length: u64, medium: &Medium) -> Option<Outcome> {
        let planned = self.nth_write(length, medium).or_else(|| self.bad(offset, length));
        if planned.is_some() {
            return planned;
        }
        let free = self.plan.free_sectors.as_mut()?;
        match free.checked_sub(medium.absent(offset, length)) {
            Some(left) => {
                *free = left;
                None
            }
            None => Some(Outcome::Fail(libc::ENOSPC)),
        }
    }

    fn nth_write(&mut self, length: u64, medium: &Medium) -> Option<Outcome> {
        self.writes += 1;
        let hit = self.plan.fail_write == Some(self.writes - 1);
        hit.then(|| Outcome::FailAfterPartial(self.part(length, medium)))
    }

    fn sync(&mut self) -> Option<Outcome> {
        self.syncs += 1;
        (self.plan.fail_sync == Some(self.syncs - 1)).then_some(Outcome::Fail(libc::EIO))
    }

    fn bad(&self, offset: u64, length: u64) -> Option<Outcome> {
        let bad = self.plan.bad_range.as_ref()?;
        let touched = offset < bad.end && bad.start < offset.saturating_add(length);
        touched.then_some(Outcome::Fail(libc::EIO))
    }

    fn by_chance(&mut self, kind: IoKind, length: u64, medium: &Medium) -> Outcome {
        if self.random.per_mille(self.plan.fail_per_mille) {
            return match kind {
                IoKind::Read | IoKind::SyncData => Outcome::Fail(libc::EIO),
                IoKind::Write | IoKind::WriteDurable | IoKind::Zero => {
                    Outcome::FailAfterPartial(self.part(length, medium))
                }
            };
        }
        let splits = match kind {
            IoKind::Read | IoKind::Write | IoKind::WriteDurable => true,
            IoKind::SyncData | IoKind::Zero => false,
        };
        if splits && self.random.per_mille(self.plan.short_per_mille) {
            let part = self.part(length, medium);
            if part != 0 {
                return Outcome::Short(part);
            }
        }
        Outcome::Ok
    }

    /// Some whole sectors of a request, fewer than all.
    fn part(&mut self, length: u64, medium: &Medium) -> usize {
        let sectors = length.div_ceil(medium.sector_bytes() as u64).max(1);
        let sectors = usize::try_from(sectors).unwrap_or(usize::MAX);
        self.random.below(sectors) * medium.sector_bytes()
    }
}
