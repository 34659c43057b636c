//! How many zones are open and active, and which to close for another.
//!
//! The counts follow the zones' states and are changed together with them, under one lock of the
//! caller's; an ordinary write touches neither.

use super::state::{Place, Refusal, ZoneState};
use crate::units::ZoneIndex;
use alloc::collections::VecDeque;

/// The drive's limits; `None` is no limit (Linux and NVMe write it differently).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum open resources (NVMe MOR + 1).
    pub max_open: Option<u32>,
    /// Maximum active resources (NVMe MAR + 1).
    pub max_active: Option<u32>,
}

/// The counts, and the implicitly open zones in the order in which they were opened.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    limits: Limits,
    /// Kept only when the open limit can ask for a victim, so never longer than that limit and
    /// what a drive found above it had open.
    implicit: VecDeque<ZoneIndex>,
    open: u32,
    active: u32,
}

impl Resources {
    /// With no zone open or active.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// How many zones are open.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open
    }

    /// How many zones are active.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active
    }

    /// The implicitly open zones in the order in which they were opened, as far as it is kept.
    pub fn open_order(&self) -> impl Iterator<Item = ZoneIndex> {
        self.implicit.iter().copied()
    }

    /// Whether `place` can be had: as it is, or by closing the zone returned, the longest open
    /// one that was opened implicitly.
    ///
    /// # Errors
    /// Which limit stands in the way.
    pub fn find(&self, place: Place) -> Result<Option<ZoneIndex>, Refusal> {
        if place == Place::OpenAndActive && reached(self.limits.max_active, self.active) {
            return Err(Refusal::TooManyActive);
        }
        if !reached(self.limits.max_open, self.open) {
            return Ok(None);
        }
        // Above the limit (a drive found so), closing one zone makes no room.
        if self.limits.max_open.is_some_and(|max| self.open > max) {
            return Err(Refusal::TooManyOpen);
        }
        self.implicit.front().copied().map(Some).ok_or(Refusal::TooManyOpen)
    }

    /// Follows a zone from one state to another.
    pub fn moved(&mut self, zone: ZoneIndex, from: ZoneState, to: ZoneState) {
        self.open = self.open - u32::from(from.is_open()) + u32::from(to.is_open());
        self.active = self.active - u32::from(from.is_active()) + u32::from(to.is_active());
        if self.limits.max_open.is_none() || from == to {
            return;
        }
        if from == ZoneState::ImplicitlyOpen {
            self.implicit.retain(|&open| open != zone);
        }
        if to == ZoneState::ImplicitlyOpen {
            self.implicit.push_back(zone);
        }
    }
}

fn reached(limit: Option<u32>, count: u32) -> bool {
    limit.is_some_and(|limit| count >= limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ZoneState::{Closed, Empty, ExplicitlyOpen, Full, ImplicitlyOpen};

    fn limited(open: u32, active: u32) -> Resources {
        Resources::new(Limits { max_open: Some(open), max_active: Some(active) })
    }

    #[test]
    fn the_zone_opened_first_is_closed_first() {
        let mut resources = limited(2, 4);
        resources.moved(ZoneIndex(7), Empty, ImplicitlyOpen);
        resources.moved(ZoneIndex(3), Empty, ImplicitlyOpen);
        assert_eq!(resources.find(Place::OpenAndActive), Ok(Some(ZoneIndex(7))));
    }

    #[test]
    fn explicitly_open_zones_are_never_victims() {
        let mut resources = limited(1, 4);
        resources.moved(ZoneIndex(0), Empty, ExplicitlyOpen);
        assert_eq!(resources.find(Place::Open), Err(Refusal::TooManyOpen));
    }

    #[test]
    fn an_implicit_close_makes_no_room_among_active_zones() {
        let mut resources = limited(1, 1);
        resources.moved(ZoneIndex(0), Empty, ImplicitlyOpen);
        assert_eq!(resources.find(Place::OpenAndActive), Err(Refusal::TooManyActive));
        resources.moved(ZoneIndex(0), ImplicitlyOpen, Full);
        assert_eq!(resources.find(Place::OpenAndActive), Ok(None));
    }

    #[test]
    fn a_drive_above_its_limits_opens_no_more_until_it_is_below() {
        let mut resources = limited(1, 1);
        resources.moved(ZoneIndex(0), Empty, Closed);
        resources.moved(ZoneIndex(1), Empty, Closed);
        assert_eq!(resources.active(), 2);
        assert_eq!(resources.find(Place::OpenAndActive), Err(Refusal::TooManyActive));
        assert_eq!(resources.find(Place::Open), Ok(None));
    }
    #[test]
    fn open_and_active_zones_are_counted_as_they_move() {
        let mut resources = limited(8, 8);
        for (zone, from, to, open, active) in [
            (0, Empty, ImplicitlyOpen, 1, 1),
            (1, Empty, ExplicitlyOpen, 2, 2),
            (2, Empty, ImplicitlyOpen, 3, 3),
            (0, ImplicitlyOpen, Closed, 2, 3),
            (2, ImplicitlyOpen, ExplicitlyOpen, 2, 3),
            (1, ExplicitlyOpen, Full, 1, 2),
            (0, Closed, ImplicitlyOpen, 2, 2),
            (0, ImplicitlyOpen, Empty, 1, 1),
            (2, ExplicitlyOpen, Empty, 0, 0),
        ] {
            resources.moved(ZoneIndex(zone), from, to);
            let counts = (resources.open(), resources.active());
            assert_eq!(counts, (open, active), "zone {zone}, {from} to {to}");
        }
    }

    #[test]
    fn the_order_of_opening_is_kept_only_of_zones_that_can_be_closed_for_others() {
        let order = |resources: &Resources| {
            resources.open_order().map(|zone| zone.0).collect::<alloc::vec::Vec<_>>()
        };
        let mut resources = limited(8, 8);
        for zone in [4, 2, 9] {
            resources.moved(ZoneIndex(zone), Empty, ImplicitlyOpen);
        }
        // A zone that stays open keeps its place.
        resources.moved(ZoneIndex(4), ImplicitlyOpen, ImplicitlyOpen);
        assert_eq!(order(&resources), [4, 2, 9]);
        resources.moved(ZoneIndex(2), ImplicitlyOpen, ExplicitlyOpen);
        assert_eq!(order(&resources), [4, 9]);
        let mut unlimited = Resources::new(Limits::default());
        unlimited.moved(ZoneIndex(4), Empty, ImplicitlyOpen);
        assert_eq!((order(&unlimited), unlimited.open()), (alloc::vec![], 1));
    }

    #[test]
    fn without_limits_there_is_always_a_place() {
        let mut resources = Resources::new(Limits::default());
        for zone in 0..100 {
            resources.moved(ZoneIndex(zone), Empty, ImplicitlyOpen);
        }
        assert_eq!(resources.find(Place::OpenAndActive), Ok(None));
        assert_eq!(resources.find(Place::Open), Ok(None));
    }

    #[test]
    fn of_a_drive_with_too_many_zones_open_none_is_closed_for_another() {
        let mut resources = limited(1, 9);
        resources.moved(ZoneIndex(0), Empty, ImplicitlyOpen);
        assert_eq!(resources.find(Place::Open), Ok(Some(ZoneIndex(0))));
        resources.moved(ZoneIndex(1), Empty, ImplicitlyOpen);
        assert_eq!(resources.find(Place::Open), Err(Refusal::TooManyOpen));
    }
}
