//! Writes to a device's zones, which have to reach it in order.
//!
//! ```text
//! place taken ─► waiting ─► out ─► ended well ─► acknowledged
//!                   ▲         └──► failed ─► (nothing out) ─► the device is asked
//!                   └── no trace of them: once more, one by one ──┤
//!                                                                 └► given up: the zone fails
//! ```
//!
//! A zone has a *lane* in the queue that has claimed it, as long as the queue has a write there.
//! Where the kernel keeps writes in order that come in order, all are sent at once but for those that
//! it gives to threads of its own, which go alone; where nothing keeps them in order, one is out at a
//! time. Whatever is sent is at the write pointer, or behind writes that are out.
//!
//! A write that reaches the device out of order fails, and so may all behind it, without a trace. So
//! failures are collected until nothing is out; then the device is asked. When the lowest failed write
//! starts at the reported write pointer, all of them and those that wait are sent in order, one by
//! one, once. Otherwise, and when one fails again, the lane is given up: the zone fails as any zone
//! does, all at once, and settles by what the device reports.

use std::collections::{HashMap, VecDeque};
use zonal_core::units::ZoneIndex;

/// What is on its way together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Everything up to this many bytes a write.
    Together(u64),
    /// One write.
    OneByOne,
}

/// A queue's lanes.
pub(super) struct Lanes {
    pace: Pace,
    lanes: HashMap<ZoneIndex, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Slots whose writes have a place and were not sent, in the order of their places.
    waiting: VecDeque<u32>,
    /// Slots whose writes failed.
    failed: Vec<u32>,
    out: usize,
    /// What is out goes alone.
    alone: bool,
    asking: bool,
    /// So many of the first that wait are sent for the second time.
    repeats: usize,
}

/// What is to be done in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this slot's write; it counts as sent from here on.
    Send(u32),
    /// Ask the device how the zone stands.
    Ask,
    /// Give up what is in it.
    GiveUp,
    /// There was nothing left in it, and it is gone.
    Leave,
    /// Nothing now.
    Rest,
}

impl Lanes {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, lanes: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether the queue has a write in a zone.
    pub(super) fn has(&self, zone: ZoneIndex) -> bool {
        self.lanes.contains_key(&zone)
    }

    /// A slot's write has taken the zone's last place.
    pub(super) fn add(&mut self, zone: ZoneIndex, slot: u32) {
        self.lanes.entry(zone).or_default().waiting.push_back(slot);
    }

    /// A write of the zone has ended well.
    pub(super) fn ended(&mut self, zone: ZoneIndex) {
        if let Some(lane) = self.lanes.get_mut(&zone) {
            lane.out -= 1;
            lane.alone = false;
            lane.repeats = lane.repeats.saturating_sub(1);
        }
    }

    /// A slot's write has failed.
    pub(super) fn failed(&mut self, zone: ZoneIndex, slot: u32) {
        if let Some(lane) = self.lanes.get_mut(&zone) {
            lane.out -= 1;
            lane.alone = false;
            lane.failed.push(slot);
        }
    }

    /// The next thing to do in a zone's lane; `length` tells a slot's.
    pub(super) fn step(&mut self, zone: ZoneIndex, length: impl Fn(u32) -> u64) -> Step {
        let pace = self.pace;
        let Some(lane) = self.lanes.get_mut(&zone) else { return Step::Rest };
        if lane.asking {
            return Step::Rest;
        }
        if !lane.failed.is_empty() {
            // What was out alone failed at the write pointer: there is no order to blame.
            let once_more = pace != Pace::OneByOne && lane.repeats == 0;
            return match (lane.out, once_more) {
                (1.., _) => Step::Rest,
                (0, true) => {
                    lane.asking = true;
                    Step::Ask
                }
                (0, false) => Step::GiveUp,
            };
        }
        let Some(&next) = lane.waiting.front() else {
            if lane.out > 0 {
                return Step::Rest;
            }
            self.lanes.remove(&zone);
            return Step::Leave;
        };
        let alone = match pace {
            Pace::Together(most) => lane.repeats > 0 || length(next) > most,
            Pace::OneByOne => true,
        };
        if lane.out > 0 && (alone || lane.alone) {
            return Step::Rest;
        }
        lane.waiting.pop_front();
        lane.out += 1;
        lane.alone = alone;
        Step::Send(next)
    }

    /// The lowest of the writes that failed, by where they start.
    pub(super) fn lowest_failed<K: Ord>(
        &self,
        zone: ZoneIndex,
        start: impl Fn(u32) -> K,
    ) -> Option<u32> {
        self.lanes.get(&zone)?.failed.iter().copied().min_by_key(|&slot| start(slot))
    }

    /// The device has been asked: what failed is to be sent again, in order; how many those are.
    pub(super) fn repeat<K: Ord>(&mut self, zone: ZoneIndex, start: impl Fn(u32) -> K) -> usize {
        let Some(lane) = self.lanes.get_mut(&zone) else { return 0 };
        lane.asking = false;
        let mut again = std::mem::take(&mut lane.failed);
        again.sort_unstable_by_key(|&slot| start(slot));
        lane.repeats = again.len();
        again.iter().rev().for_each(|&slot| lane.waiting.push_front(slot));
        lane.repeats
    }

    /// Takes a lane away: those that failed, by where they start, and those that wait.
    pub(super) fn give_up<K: Ord>(
        &mut self,
        zone: ZoneIndex,
        start: impl Fn(u32) -> K,
    ) -> (Vec<u32>, VecDeque<u32>) {
        let Lane { mut failed, waiting, .. } = self.lanes.remove(&zone).unwrap_or_default();
        failed.sort_unstable_by_key(|&slot| start(slot));
        (failed, waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: ZoneIndex = ZoneIndex(7);
    const LENGTH: fn(u32) -> u64 = |slot| if slot < 10 { 4096 } else { 1 << 20 };

    fn lanes(pace: Pace, slots: impl IntoIterator<Item = u32>) -> Lanes {
        let mut lanes = Lanes::new(pace);
        slots.into_iter().for_each(|slot| lanes.add(ZONE, slot));
        lanes
    }

    fn steps(lanes: &mut Lanes) -> Vec<Step> {
        let mut steps = Vec::new();
        while let step @ Step::Send(_) = lanes.step(ZONE, LENGTH) {
            steps.push(step);
        }
        steps
    }

    #[test]
    fn what_is_short_goes_together_and_what_is_long_alone() {
        let mut lanes = lanes(Pace::Together(8192), [1, 2, 10, 3]);
        assert_eq!(steps(&mut lanes), [Step::Send(1), Step::Send(2)]);
        lanes.ended(ZONE);
        assert_eq!(steps(&mut lanes), []);
        lanes.ended(ZONE);
        assert_eq!(steps(&mut lanes), [Step::Send(10)]);
        lanes.ended(ZONE);
        assert_eq!(steps(&mut lanes), [Step::Send(3)]);
        assert_eq!(lanes.step(ZONE, LENGTH), Step::Rest);
        lanes.ended(ZONE);
        assert_eq!(lanes.step(ZONE, LENGTH), Step::Leave);
        assert!(lanes.is_empty());
    }

    #[test]
    fn without_order_below_one_is_out_at_a_time_and_fails_for_good() {
        let mut lanes = lanes(Pace::OneByOne, [1, 2]);
        assert_eq!(steps(&mut lanes), [Step::Send(1)]);
        lanes.failed(ZONE, 1);
        assert_eq!(lanes.step(ZONE, LENGTH), Step::GiveUp);
        assert_eq!(lanes.give_up(ZONE, |slot| slot), (vec![1], [2].into()));
        assert!(!lanes.has(ZONE));
    }

    #[test]
    fn what_failed_is_sent_once_more_in_order_and_one_by_one() {
        let mut lanes = lanes(Pace::Together(8192), [1, 2, 3]);
        assert_eq!(steps(&mut lanes).len(), 3);
        lanes.failed(ZONE, 3);
        lanes.add(ZONE, 4);
        assert_eq!(steps(&mut lanes), [], "what comes later waits");
        assert_eq!(lanes.step(ZONE, LENGTH), Step::Rest, "until nothing is out");
        lanes.failed(ZONE, 2);
        lanes.ended(ZONE);
        assert_eq!(lanes.step(ZONE, LENGTH), Step::Ask);
        assert_eq!(lanes.step(ZONE, LENGTH), Step::Rest);
        assert_eq!(lanes.lowest_failed(ZONE, |slot| slot), Some(2));
        assert_eq!(lanes.repeat(ZONE, |slot| slot), 2);
        assert_eq!(steps(&mut lanes), [Step::Send(2)]);
        lanes.ended(ZONE);
        assert_eq!(steps(&mut lanes), [Step::Send(3)]);
        lanes.add(ZONE, 5);
        lanes.ended(ZONE);
        assert_eq!(steps(&mut lanes), [Step::Send(4), Step::Send(5)], "together again");
    }

    #[test]
    fn what_fails_twice_is_given_up_with_all_behind_it() {
        let mut lanes = lanes(Pace::Together(8192), [1, 2, 3]);
        steps(&mut lanes);
        [2, 1, 3].into_iter().for_each(|slot| lanes.failed(ZONE, slot));
        assert_eq!(lanes.step(ZONE, LENGTH), Step::Ask);
        lanes.repeat(ZONE, |slot| slot);
        assert_eq!(steps(&mut lanes), [Step::Send(1)]);
        lanes.failed(ZONE, 1);
        assert_eq!(lanes.step(ZONE, LENGTH), Step::GiveUp);
        assert_eq!(lanes.give_up(ZONE, |slot| slot), (vec![1], [2, 3].into()));
    }
}
