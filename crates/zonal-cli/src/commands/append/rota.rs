//! Which zone takes the next record.
//!
//! Zones take turns. At most `max_open` of them have places in the rota, each until it cannot take
//! the record whose turn it is; then it is finished, and its place goes to the next candidate.
//!
//! Invariants: a place is given on only when nothing of its zone is in flight, so that the zone has
//! given back what it held of the drive's open and active limits; and no zone gets more than it has
//! room for.

use std::collections::VecDeque;

use crate::zones::{self, Candidates};

/// A zone that waits for a place.
struct Waiting {
    zone: u32,
    room: u64,
    active: bool,
}

/// A zone in use.
struct Place {
    zone: u32,
    room: u64,
    in_flight: u32,
    /// Takes no more; given on when nothing is in flight.
    retired: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The record goes to `zone`; say [`Rota::done`] with `place` when it has completed.
    Append { place: usize, zone: u32 },
    /// `zone` is finished, then the record's turn comes again; [`Rota::done`] as above.
    Finish { place: usize, zone: u32 },
    /// A zone must complete what it has in flight first.
    Wait,
    /// No zone is left.
    Full,
}

/// The rota.
pub(super) struct Rota {
    waiting: VecDeque<Waiting>,
    places: Vec<Place>,
    /// Places in the order of their turns.
    turns: VecDeque<usize>,
    /// How many places are retired and not yet given on.
    retired: usize,
    /// Active zones among the waiting ones and those in places, and how many there may be.
    active: usize,
    max_active: usize,
}

impl Rota {
    /// A rota over `candidates`, at most `width` of them at once.
    pub(super) fn new(candidates: &Candidates, width: usize) -> Self {
        let waiting: VecDeque<Waiting> = candidates
            .zones
            .iter()
            .map(|zone| Waiting {
                zone: zone.zone,
                room: zones::room(zone),
                active: zones::is_active(zone.state),
            })
            .collect();
        let active = waiting.iter().filter(|zone| zone.active).count();
        let max_active = candidates.max_active;
        let places = Vec::new();
        let turns = VecDeque::new();
        let mut rota = Self { waiting, places, turns, retired: 0, active, max_active };
        while rota.places.len() < width {
            let Some(place) = rota.admit() else { break };
            rota.turns.push_back(rota.places.len());
            rota.places.push(place);
        }
        rota
    }

    /// The next candidate that the limit on active zones lets in.
    fn admit(&mut self) -> Option<Place> {
        let fits = self.active < self.max_active;
        let at = self.waiting.iter().position(|zone| zone.active || fits)?;
        let Waiting { zone, room, active } = self.waiting.remove(at)?;
        self.active += usize::from(!active);
        Some(Place { zone, room, in_flight: 0, retired: false })
    }

    /// Whose turn it is to take `length` bytes.
    pub(super) fn next(&mut self, length: u64) -> Turn {
        let Some(at) = self.turns.pop_front() else {
            return if self.retired > 0 { Turn::Wait } else { Turn::Full };
        };
        let place = &mut self.places[at];
        place.in_flight += 1;
        let zone = place.zone;
        if place.room < length {
            place.retired = true;
            self.retired += 1;
            return Turn::Finish { place: at, zone };
        }
        place.room -= length;
        if place.room == 0 {
            place.retired = true;
            self.retired += 1;
        } else {
            self.turns.push_back(at);
        }
        Turn::Append { place: at, zone }
    }

    /// Something that went to `place` has completed.
    pub(super) fn done(&mut self, at: usize) {
        self.places[at].in_flight -= 1;
        if self.places[at].in_flight > 0 || !self.places[at].retired {
            return;
        }
        self.retired -= 1;
        self.active -= 1;
        if let Some(place) = self.admit() {
            self.places[at] = place;
            self.turns.push_back(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal::{ZoneInfo, ZoneKind, ZoneState};

    fn zone(zone: u32, state: ZoneState, written: u64) -> ZoneInfo {
        let start = u64::from(zone) * 100;
        let write_pointer = Some(start + written);
        let kind = ZoneKind::Sequential;
        ZoneInfo { zone, kind, state, start, write_pointer, capacity: 100, size: 100 }
    }

    fn rota(zones: Vec<ZoneInfo>, max_open: usize, max_active: usize) -> Rota {
        Rota::new(&Candidates { zones, max_open, max_active, dead: Vec::new() }, max_open)
    }

    fn empty(count: u32) -> Vec<ZoneInfo> {
        (0..count).map(|number| zone(number, ZoneState::Empty, 0)).collect()
    }

    #[test]
    fn records_go_to_the_zones_in_turn() {
        let mut rota = rota(empty(3), usize::MAX, usize::MAX);
        let zones: Vec<u32> = (0..6)
            .map(|_| match rota.next(10) {
                Turn::Append { zone, .. } => zone,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(zones, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_zone_without_room_is_finished_and_its_place_given_on_only_then() {
        let mut rota = rota(empty(2), 1, usize::MAX);
        assert_eq!(rota.next(60), Turn::Append { place: 0, zone: 0 });
        assert_eq!(rota.next(60), Turn::Finish { place: 0, zone: 0 });
        assert_eq!(rota.next(60), Turn::Wait);
        rota.done(0);
        assert_eq!(rota.next(60), Turn::Wait);
        rota.done(0);
        assert_eq!(rota.next(60), Turn::Append { place: 0, zone: 1 });
        assert_eq!(rota.next(60), Turn::Finish { place: 0, zone: 1 });
        rota.done(0);
        rota.done(0);
        assert_eq!(rota.next(60), Turn::Full);
    }

    #[test]
    fn a_zone_filled_to_the_byte_needs_no_finish() {
        let mut rota = rota(empty(1), 1, 1);
        assert_eq!(rota.next(100), Turn::Append { place: 0, zone: 0 });
        assert_eq!(rota.next(1), Turn::Wait);
        rota.done(0);
        assert_eq!(rota.next(1), Turn::Full);
    }

    #[test]
    fn zones_that_are_active_go_first_when_no_more_may_become_so() {
        let zones = vec![
            zone(0, ZoneState::Empty, 0),
            zone(1, ZoneState::Closed, 40),
            zone(2, ZoneState::ImplicitlyOpen, 0),
        ];
        let mut rota = rota(zones, 2, 2);
        assert_eq!(rota.next(60), Turn::Append { place: 0, zone: 1 });
        assert_eq!(rota.next(60), Turn::Append { place: 1, zone: 2 });
        rota.done(0);
        assert_eq!(rota.next(60), Turn::Finish { place: 1, zone: 2 });
        assert_eq!(rota.next(60), Turn::Append { place: 0, zone: 0 });
    }
}
