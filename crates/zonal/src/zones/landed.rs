//! Appends that the device below places itself.
//!
//! What such an append takes in its zone's word is a forecast: so many blocks more, below capacity and
//! limits. Where it lands is known when it has ended. As long as nobody else changes the zone, all that
//! have entered land between the acknowledged end at which the first of them was sent and the write
//! pointer of the word, without a gap. So an answer tells of others
//! * that lies below what was acknowledged before the append was sent: the zone was reset;
//! * that ends above the word's write pointer: somebody else has written;
//! * that is the last, and leaves the acknowledged end below the write pointer: two have landed at one
//!   place, so the zone was reset.
//!
//! Such an append has landed all the same, and is acknowledged. But its zone is taken to *fail*: nothing
//! enters any more, and when nothing is in flight the device is asked, as after a failure. So the word
//! follows the device.

use super::failure::{Conclusion, End, Leaving, Surprise};
use super::{SlotId, Zones};
use zonal_core::units::{Blocks, Extent, ZoneIndex};
use zonal_core::zone::{Barrier, Entered, Pass, Write};

impl Zones {
    /// Whether the device places appends.
    #[inline]
    pub(crate) fn is_placing(&self) -> bool {
        self.placing
    }

    /// Lets an append in that the device will place, and says above what it lands: the zone's
    /// acknowledged end. That is looked at when the append is in, as nobody resets the zone then, and
    /// before it is sent.
    pub(crate) fn enter_placing(
        &self,
        id: SlotId,
        zone: ZoneIndex,
        write: Write,
        pass: Pass,
    ) -> Result<(Entered, Blocks), Barrier> {
        let entered = self.enter(id, zone, write, pass)?;
        Ok((entered, self.cells.mark(zone).end))
    }

    /// Ends an append that landed at `leaving.extent`, and had to land above `floor`.
    pub(crate) fn landed(&self, leaving: &Leaving, floor: Blocks) -> Conclusion {
        let Leaving { zone, extent, .. } = *leaving;
        // Before anything else: that it has landed is no question any more.
        self.cells.raise_mark(zone, extent.end);
        let low = (extent.start < floor).then_some(Surprise::Reset);
        match low.or_else(|| self.tells_of_others(zone, extent)) {
            Some(surprise) => self.end_in_failing(leaving, End::Strange(surprise)),
            None => self.acknowledge(leaving),
        }
    }

    fn tells_of_others(&self, zone: ZoneIndex, extent: Extent) -> Option<Surprise> {
        loop {
            let word = self.cells.load(zone);
            let end = self.cells.mark(zone).end;
            // Of one moment: a write pointer that has not moved has seen nobody enter.
            if self.cells.load(zone) != word {
                continue;
            }
            let is_last = word.in_flight() == 1 && !word.is_failing();
            return match (extent.end, end) {
                (landed, _) if landed > word.wp() => Some(Surprise::Written),
                (_, end) if is_last && end < word.wp() => Some(Surprise::Reset),
                _ => None,
            };
        }
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::super::cells::words_needed;
    use super::super::{Cells, Found, Keeping, Standing};
    use super::*;
    use crate::mailbox::Mailbox;
    use crate::sync::Arc;
    use crate::sync::atomic::Ordering;
    use crate::sys::words::SharedWords;
    use zonal_core::format::Geometry;
    use zonal_core::units::Generation;
    use zonal_core::zone::{Placement, ZoneState};

    const ZONE: ZoneIndex = ZoneIndex(0);

    /// A zone with ten blocks in it, and appends of a block each.
    struct Bench(Zones, u32);

    impl Bench {
        fn new() -> Self {
            let geometry = Geometry::with_size(1 << 30);
            let count = geometry.zones();
            let cells = Cells::new(SharedWords::heap(words_needed(count)), 0, count);
            let condition = Some(ZoneState::ImplicitlyOpen);
            let found = Found { wp: Blocks(10), generation: Generation(0), condition };
            let zones = Zones::new(geometry, cells, Keeping::Placing, |_| found);
            let queue = zones.enlist(Arc::new(Mailbox::new(None)), 8).unwrap();
            Self(zones, queue)
        }

        /// Sends an append in a slot.
        fn send(&self, slot: u32) -> (Leaving, Blocks) {
            let id = SlotId { queue: self.1, slot };
            let write = Write { placement: Placement::Append, length: Blocks(1) };
            let (entered, floor) = self.0.enter_placing(id, ZONE, write, Pass::None).unwrap();
            let Entered { start, epoch, .. } = entered;
            let extent = Extent::new(start, Blocks(1));
            (Leaving { id, zone: ZONE, extent, epoch }, floor)
        }

        /// It ends, and has landed at `block`.
        fn land(&self, (leaving, floor): (Leaving, Blocks), block: u32) -> Conclusion {
            let extent = Extent::new(Blocks(block), Blocks(1));
            self.0.landed(&Leaving { extent, ..leaving }, floor)
        }

        /// The device says where its write pointer is; where the drive has it then, which life that is,
        /// and how often others were found out.
        fn asked(&self, conclusion: Conclusion, wp: u32) -> (Blocks, u32, u64) {
            let Conclusion::Settle(settling) = conclusion else { panic!("it is to be asked") };
            assert!(settling.dead.is_empty(), "nothing is zeroed on a device");
            let state = ZoneState::ImplicitlyOpen;
            let standing = Standing { state, wp: Some(Blocks(wp)), tells_open: true };
            self.0.settled_as_reported(settling, standing);
            let (word, mark) = (self.0.cells.load(ZONE), self.0.cells.mark(ZONE));
            assert_eq!(word.wp(), mark.end);
            (word.wp(), mark.generation.0, self.0.counts.foreign.load(Ordering::Relaxed))
        }
    }

    fn is_acknowledged(conclusion: &Conclusion) -> bool {
        matches!(conclusion, Conclusion::Acknowledged)
    }

    #[test]
    fn appends_may_land_in_any_order() {
        let bench = Bench::new();
        let [first, second, third] = [0, 1, 2].map(|slot| bench.send(slot));
        assert!(is_acknowledged(&bench.land(second, 12)));
        assert!(is_acknowledged(&bench.land(first, 11)));
        let fourth = bench.send(0);
        assert!(is_acknowledged(&bench.land(third, 10)));
        assert!(is_acknowledged(&bench.land(fourth, 13)));
        assert_eq!(bench.0.cells.mark(ZONE).end, Blocks(14));
        assert_eq!(bench.0.cells.load(ZONE).wp(), Blocks(14));
    }

    #[test]
    fn there_is_no_false_alarm_however_threads_interleave() {
        const EACH: u32 = 2000;
        let bench = Bench::new();
        let device = std::sync::Mutex::new(10);
        std::thread::scope(|scope| {
            for slot in 0..4 {
                let (bench, device) = (&bench, &device);
                scope.spawn(move || {
                    for _ in 0..EACH {
                        let sent = bench.send(slot);
                        let place = {
                            let mut wp = device.lock().unwrap();
                            *wp += 1;
                            *wp - 1
                        };
                        assert!(is_acknowledged(&bench.land(sent, place)));
                    }
                });
            }
        });
        let end = Blocks(10 + 4 * EACH);
        assert_eq!((bench.0.cells.load(ZONE).wp(), bench.0.cells.mark(ZONE).end), (end, end));
    }

    #[test]
    fn what_is_in_flight_hides_nothing_as_nobody_knows_where_it_lands() {
        let bench = Bench::new();
        let [_first, second] = [0, 1].map(|slot| bench.send(slot));
        // Where the first was expected.
        assert!(is_acknowledged(&bench.land(second, 10)));
        let mut hidden = Vec::new();
        bench.0.unreadable(ZONE, Blocks(11), &mut hidden);
        assert_eq!(hidden, []);
    }

    #[test]
    fn one_that_lands_below_what_was_acknowledged_tells_of_a_reset() {
        let bench = Bench::new();
        let [first, second] = [0, 1].map(|slot| bench.send(slot));
        assert!(matches!(bench.land(first, 0), Conclusion::Held), "it waits for the second");
        assert_eq!(bench.asked(bench.land(second, 1), 2), (Blocks(2), 1, 1));
        assert!(is_acknowledged(&bench.land(bench.send(0), 2)));
    }

    #[test]
    fn a_reset_is_one_even_if_the_zone_was_filled_again_since() {
        let bench = Bench::new();
        let conclusion = bench.land(bench.send(0), 0);
        assert_eq!(bench.asked(conclusion, 30), (Blocks(30), 1, 1));
    }

    #[test]
    fn one_that_lands_too_high_tells_of_writes() {
        let bench = Bench::new();
        let conclusion = bench.land(bench.send(0), 15);
        assert_eq!(bench.asked(conclusion, 16), (Blocks(16), 0, 1));
    }

    #[test]
    fn of_two_that_landed_at_one_place_the_last_tells_of_a_reset() {
        let bench = Bench::new();
        let [first, second] = [0, 1].map(|slot| bench.send(slot));
        assert!(is_acknowledged(&bench.land(first, 10)));
        assert_eq!(bench.asked(bench.land(second, 10), 11), (Blocks(11), 1, 1));
    }

    #[test]
    fn a_failed_append_takes_nothing_with_it_that_landed() {
        let bench = Bench::new();
        let [first, second, third] = [0, 1, 2].map(|slot| bench.send(slot));
        assert!(matches!(bench.0.fail(&first.0), Conclusion::Held));
        assert!(matches!(bench.land(second, 10), Conclusion::Held));
        // That it never was where it was expected is no sign of others.
        assert_eq!(bench.asked(bench.land(third, 11), 12), (Blocks(12), 0, 0));
    }

    #[test]
    fn without_a_report_what_landed_still_counts_and_is_not_hidden() {
        let bench = Bench::new();
        let [first, second] = [0, 1].map(|slot| bench.send(slot));
        assert!(matches!(bench.land(second, 10), Conclusion::Acknowledged));
        let Conclusion::Settle(settling) = bench.0.fail(&first.0) else { panic!("the last") };
        bench.0.settled(settling, false);
        assert_eq!(bench.0.cells.mark(ZONE).end, Blocks(11));
        assert_eq!(bench.0.cells.load(ZONE).state(), ZoneState::ReadOnly);
        let mut hidden = Vec::new();
        bench.0.unreadable(ZONE, Blocks(11), &mut hidden);
        assert_eq!(hidden, []);
    }
}
