//! One zone in 64 bits, and how writes enter and leave it.
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0–31 | wp | the next block to be written, zone-relative, as moved by what was submitted |
//! | 32–43 | in flight, epoch 0 | writes submitted in an even flush epoch and not ended |
//! | 44–55 | in flight, epoch 1 | the same for odd epochs |
//! | 56–59 | state | [`ZoneState`]'s code |
//! | 60 | failing | a write failed, and the zone has not settled |
//! | 61 | gate | somebody waits at the zone, or works on it alone: nothing enters past him |
//! | 62 | epoch | the flush epoch in which writes enter now |
//! | 63 | plain | what is in flight are plain writes, not appends |
//!
//! A write enters by one exchange of the word, which takes its place, and leaves by another,
//! which gives it up. The exchange that acknowledges sees whether the zone is failing: there is
//! no moment between looking and acknowledging.

use super::state::{Place, Refusal, ZoneOp, ZoneState, admits_write, transition};
use crate::broken::{Rule, is_broken};
use crate::units::Blocks;
use core::fmt;

const WP: u64 = 0xFFFF_FFFF;
const IN_FLIGHT_BITS: u32 = 12;
const IN_FLIGHT_SHIFT: [u32; 2] = [32, 32 + IN_FLIGHT_BITS];
const STATE_SHIFT: u32 = 56;
const STATE: u64 = 0xF << STATE_SHIFT;
const FAILING: u64 = 1 << 60;
const GATE: u64 = 1 << 61;
const EPOCH: u64 = 1 << 62;
const PLAIN: u64 = 1 << 63;

/// How many writes one zone can have in flight in one flush epoch; what comes then waits.
pub const IN_FLIGHT_MAX: u32 = (1 << IN_FLIGHT_BITS) - 1;

const _: () = assert!(IN_FLIGHT_SHIFT[1] + IN_FLIGHT_BITS == STATE_SHIFT);

/// The flush epoch a write entered in, by its parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epoch {
    /// Epochs 0, 2, 4 …
    Even,
    /// Epochs 1, 3, 5 …
    Odd,
}

impl Epoch {
    /// The epoch before and after.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Even => Self::Odd,
            Self::Odd => Self::Even,
        }
    }

    const fn shift(self) -> u32 {
        IN_FLIGHT_SHIFT[self as usize]
    }
}

/// Where a write wants to land.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// At the zone's end, wherever that is; with any number of other appends in flight.
    Append,
    /// At the zone's end, as plain writes, with nothing else in flight: its owner holds the gate
    /// from before it enters until it has ended.
    Alone,
    /// At this block, which must be the zone's end.
    At(Blocks),
}

/// A write that asks to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// Where.
    pub placement: Placement,
    /// How long.
    pub length: Blocks,
}

/// Whose request it is, as seen from the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Anybody's: waits while the gate is shut.
    None,
    /// That of whoever is first at the shut gate.
    Gate,
}

/// A write that has taken its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The word with the write in it.
    pub word: ZoneWord,
    /// Where it lands.
    pub start: Blocks,
    /// The epoch to leave from.
    pub epoch: Epoch,
}

/// Why a write could not enter by a change of the word alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// It has to wait, and is judged again then.
    Wait(Obstacle),
    /// The zone has to be opened first.
    Needs(Place),
    /// It is refused.
    Refused(Refusal),
}

/// What a write has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The gate is shut, or has to be.
    Gate,
    /// The zone has to settle after a failure.
    Failing,
    /// [`IN_FLIGHT_MAX`] writes are in flight.
    Crowded,
    /// Appends are in flight and this is a plain write, or the other way round.
    Mixed,
}

/// What became of a write that ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// This word acknowledges it.
    Acknowledged(ZoneWord),
    /// The zone is failing: held until it has settled.
    Held,
}

/// A zone's whole state, in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ZoneWord(u64);

impl ZoneWord {
    /// A zone at rest.
    #[must_use]
    pub const fn new(state: ZoneState, wp: Blocks) -> Self {
        Self(wp.0 as u64 | (state as u64) << STATE_SHIFT)
    }

    /// From the bits an atomic holds; they must come from [`ZoneWord::bits`].
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// For an atomic to hold.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The write pointer, as moved by what was submitted.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // masked to 32 bits
    pub const fn wp(self) -> Blocks {
        Blocks((self.0 & WP) as u32)
    }

    /// The state.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // masked to 4 bits
    pub const fn state(self) -> ZoneState {
        match ZoneState::from_code(((self.0 & STATE) >> STATE_SHIFT) as u8) {
            Some(state) => state,
            // Words are built from states alone. Memory that was damaged takes no writes.
            None => ZoneState::Offline,
        }
    }

    /// Whether a write failed and the zone has not settled since.
    #[must_use]
    pub const fn is_failing(self) -> bool {
        self.0 & FAILING != 0
    }

    /// Whether the gate is shut.
    #[must_use]
    pub const fn is_shut(self) -> bool {
        self.0 & GATE != 0
    }

    /// The epoch in which writes enter now.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        if self.0 & EPOCH == 0 { Epoch::Even } else { Epoch::Odd }
    }

    /// Whether what is in flight are plain writes.
    #[must_use]
    pub const fn in_flight_is_plain(self) -> bool {
        self.in_flight() > 0 && self.0 & PLAIN != 0
    }

    /// How many writes of that epoch are in flight.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // masked to 12 bits
    pub const fn in_flight_of(self, epoch: Epoch) -> u32 {
        (self.0 >> epoch.shift()) as u32 & IN_FLIGHT_MAX
    }

    /// How many writes are in flight.
    #[must_use]
    pub const fn in_flight(self) -> u32 {
        self.in_flight_of(Epoch::Even) + self.in_flight_of(Epoch::Odd)
    }

    /// Lets a write in: checks it against state, write pointer and capacity, in that order, and
    /// takes its place.
    ///
    /// # Errors
    /// Why it cannot enter, or not yet.
    #[inline]
    pub fn enter(self, write: Write, capacity: Blocks, pass: Pass) -> Result<Entered, Barrier> {
        if self.0 & (FAILING | GATE) != 0 {
            if self.is_failing() {
                return Err(Barrier::Wait(Obstacle::Failing));
            }
            if pass == Pass::None {
                return Err(Barrier::Wait(Obstacle::Gate));
            }
        }
        if write.placement == Placement::Alone && pass == Pass::None {
            return Err(Barrier::Wait(Obstacle::Gate));
        }
        let place = admits_write(self.state()).map_err(Barrier::Refused)?;
        let start = self.wp();
        self.fits(write, start, capacity).map_err(Barrier::Refused)?;
        self.mingles(write.placement)?;
        if let Some(place) = place {
            return Err(Barrier::Needs(place));
        }
        let epoch = self.epoch();
        let full = is_broken(Rule::FullWhenAcknowledged) && start.0 + write.length.0 == capacity.0;
        let plain = if matches!(write.placement, Placement::Append) { 0 } else { PLAIN };
        let word =
            Self((self.0 & !PLAIN | plain) + u64::from(write.length.0) + (1 << epoch.shift()));
        let word = if full { word.with_state(ZoneState::Full) } else { word };
        Ok(Entered { word, start, epoch })
    }

    fn fits(self, write: Write, start: Blocks, capacity: Blocks) -> Result<(), Refusal> {
        match write.placement {
            _ if self.state() == ZoneState::NotWp => return Err(Refusal::Conventional),
            Placement::At(at) if at != start => {
                return Err(Refusal::NotAtWritePointer { wp: start });
            }
            Placement::At(_) | Placement::Append | Placement::Alone => {}
        }
        let left = Blocks(capacity.0.saturating_sub(start.0));
        if left == Blocks::ZERO {
            return Err(Refusal::Full);
        }
        if write.length > left { Err(Refusal::BeyondCapacity { left }) } else { Ok(()) }
    }

    fn mingles(self, placement: Placement) -> Result<(), Barrier> {
        let in_flight = self.in_flight();
        if in_flight == 0 {
            return Ok(());
        }
        let mixed = match placement {
            Placement::Append => self.0 & PLAIN != 0,
            Placement::At(_) => self.0 & PLAIN == 0,
            Placement::Alone => true,
        };
        if mixed {
            return Err(Barrier::Wait(Obstacle::Mixed));
        }
        if self.in_flight_of(self.epoch()) >= IN_FLIGHT_MAX {
            return Err(Barrier::Wait(Obstacle::Crowded));
        }
        Ok(())
    }

    /// Acknowledges a write that ended well, unless the zone is failing. The zone becomes full
    /// with its last write, once nothing is in flight.
    #[inline]
    #[must_use]
    pub fn acknowledge(self, epoch: Epoch, capacity: Blocks) -> Acknowledgement {
        if self.is_failing() && !is_broken(Rule::AcknowledgeLooksAtFailing) {
            return Acknowledgement::Held;
        }
        let word = self.leave(epoch);
        let full = word.in_flight() == 0 && word.wp() == capacity && !word.is_failing();
        Acknowledgement::Acknowledged(if full { word.with_state(ZoneState::Full) } else { word })
    }

    /// Ends a write that failed: the zone is failing from here on.
    #[must_use]
    pub fn fail(self, epoch: Epoch) -> Self {
        Self(self.leave(epoch).0 | FAILING)
    }

    /// Ends a write that went well in a failing zone; its verdict comes when the zone settles.
    #[must_use]
    pub fn hold(self, epoch: Epoch) -> Self {
        self.leave(epoch)
    }

    #[inline]
    fn leave(self, epoch: Epoch) -> Self {
        debug_assert!(self.in_flight_of(epoch) > 0, "nothing in flight in {self:?}");
        Self(self.0 - (1 << epoch.shift()))
    }

    /// The zone after settling at `wp`: see [`settle`](fn@super::settle). State and counts stay,
    /// but that a zone whose capacity was acknowledged is full now.
    #[must_use]
    pub fn settled(self, wp: Blocks, capacity: Blocks) -> Self {
        debug_assert!(
            self.is_failing() && self.in_flight() == 0 || is_broken(Rule::FailingZoneDrains),
            "not settling: {self:?}"
        );
        let word = self.with_wp(wp).without(FAILING);
        if wp == capacity { word.with_state(ZoneState::Full) } else { word }
    }

    /// The zone at rest as a device's own report finds it.
    #[must_use]
    pub fn stands(self, state: ZoneState, wp: Blocks) -> Self {
        debug_assert!(self.in_flight() == 0, "not at rest: {self:?}");
        self.with_state(state).with_wp(wp)
    }

    /// Starts the next flush epoch. `None` while writes of the epoch before are in flight.
    #[must_use]
    pub fn next_epoch(self) -> Option<Self> {
        (self.in_flight_of(self.epoch().other()) == 0).then_some(Self(self.0 ^ EPOCH))
    }

    /// With the gate shut.
    #[must_use]
    pub const fn shut(self) -> Self {
        Self(self.0 | GATE)
    }

    /// With the gate open again.
    #[must_use]
    pub const fn unshut(self) -> Self {
        self.without(GATE)
    }

    /// Opened for a write, or explicitly.
    #[must_use]
    pub const fn with_state(self, state: ZoneState) -> Self {
        Self(self.0 & !STATE | (state as u64) << STATE_SHIFT)
    }

    /// The zone after `op`, which only [`ZoneOp::Open`] may meet with writes in flight, and an
    /// implicit close.
    ///
    /// # Errors
    /// The refusal, when the zone's state does not allow it.
    pub fn after(self, op: ZoneOp, capacity: Blocks) -> Result<Self, Refusal> {
        let state = transition(self.state(), self.wp() > Blocks::ZERO, op)?;
        let word = self.with_state(state);
        Ok(match op {
            ZoneOp::Open | ZoneOp::Close => word,
            ZoneOp::Finish => word.with_wp(capacity),
            ZoneOp::Reset => word.with_wp(Blocks::ZERO),
        })
    }

    const fn with_wp(self, wp: Blocks) -> Self {
        Self(self.0 & !WP | wp.0 as u64)
    }

    const fn without(self, flag: u64) -> Self {
        Self(self.0 & !flag)
    }
}

impl fmt::Debug for ZoneWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneWord")
            .field("state", &self.state().as_str())
            .field("wp", &self.wp().0)
            .field("in_flight", &[self.in_flight_of(Epoch::Even), self.in_flight_of(Epoch::Odd)])
            .field("failing", &self.is_failing())
            .field("gate", &self.is_shut())
            .field("epoch", &self.epoch())
            .field("plain", &(self.0 & PLAIN != 0))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: Blocks = Blocks(8);

    fn append(length: u32) -> Write {
        Write { placement: Placement::Append, length: Blocks(length) }
    }

    fn open_zone() -> ZoneWord {
        ZoneWord::new(ZoneState::ImplicitlyOpen, Blocks::ZERO)
    }

    #[test]
    fn of_two_writes_at_one_offset_only_the_first_enters() {
        let at_start = Write { placement: Placement::At(Blocks(0)), length: Blocks(2) };
        let first = open_zone().enter(at_start, CAPACITY, Pass::None).unwrap();
        assert_eq!(first.start, Blocks(0));
        assert_eq!(
            first.word.enter(at_start, CAPACITY, Pass::None),
            Err(Barrier::Refused(Refusal::NotAtWritePointer { wp: Blocks(2) }))
        );
    }

    #[test]
    fn a_zone_is_full_when_its_last_write_has_succeeded_and_not_before() {
        let a = open_zone().enter(append(4), CAPACITY, Pass::None).unwrap();
        let b = a.word.enter(append(4), CAPACITY, Pass::None).unwrap();
        assert_eq!(b.word.state(), ZoneState::ImplicitlyOpen);
        let Acknowledgement::Acknowledged(word) = b.word.acknowledge(b.epoch, CAPACITY) else {
            panic!("not failing")
        };
        assert_eq!(word.state(), ZoneState::ImplicitlyOpen);
        let Acknowledgement::Acknowledged(word) = word.acknowledge(a.epoch, CAPACITY) else {
            panic!("not failing")
        };
        assert_eq!(word.state(), ZoneState::Full);
    }

    #[test]
    fn a_failing_zone_holds_what_ends_and_admits_nothing() {
        let a = open_zone().enter(append(1), CAPACITY, Pass::None).unwrap();
        let b = a.word.enter(append(1), CAPACITY, Pass::None).unwrap();
        let word = b.word.fail(a.epoch);
        assert_eq!(word.acknowledge(b.epoch, CAPACITY), Acknowledgement::Held);
        assert_eq!(
            word.enter(append(1), CAPACITY, Pass::Gate),
            Err(Barrier::Wait(Obstacle::Failing))
        );
        let word = word.hold(b.epoch).settled(Blocks(0), CAPACITY);
        assert_eq!((word.wp(), word.state()), (Blocks(0), ZoneState::ImplicitlyOpen));
    }

    #[test]
    fn plain_writes_and_appends_are_never_in_flight_together() {
        let plain = Write { placement: Placement::At(Blocks(0)), length: Blocks(1) };
        let a = open_zone().enter(plain, CAPACITY, Pass::None).unwrap();
        assert_eq!(
            a.word.enter(append(1), CAPACITY, Pass::None),
            Err(Barrier::Wait(Obstacle::Mixed))
        );
        let Acknowledgement::Acknowledged(word) = a.word.acknowledge(a.epoch, CAPACITY) else {
            panic!("not failing")
        };
        let b = word.enter(append(1), CAPACITY, Pass::None).unwrap();
        let plain = Write { placement: Placement::At(Blocks(2)), length: Blocks(1) };
        assert_eq!(b.word.enter(plain, CAPACITY, Pass::None), Err(Barrier::Wait(Obstacle::Mixed)));
    }

    #[test]
    fn an_epoch_ends_when_its_writes_have_left() {
        let a = open_zone().enter(append(1), CAPACITY, Pass::None).unwrap();
        let word = a.word.next_epoch().unwrap();
        assert_eq!(word.next_epoch(), None);
        let Acknowledgement::Acknowledged(word) = word.acknowledge(a.epoch, CAPACITY) else {
            panic!("not failing")
        };
        assert!(word.next_epoch().is_some());
    }

    #[test]
    fn a_crowded_zone_makes_the_next_write_wait() {
        let mut word = open_zone();
        for _ in 0..IN_FLIGHT_MAX {
            word = word.enter(append(1), Blocks(u32::MAX), Pass::None).unwrap().word;
        }
        assert_eq!(
            word.enter(append(1), Blocks(u32::MAX), Pass::None),
            Err(Barrier::Wait(Obstacle::Crowded))
        );
    }
    /// A word's fields, each by itself.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Fields {
        wp: u32,
        in_flight: [u32; 2],
        state: ZoneState,
        failing: bool,
        shut: bool,
        epoch: Epoch,
        plain: bool,
    }

    impl Fields {
        /// As the table at the head of this module has them.
        fn packed(self) -> ZoneWord {
            ZoneWord::from_bits(
                u64::from(self.wp)
                    + (u64::from(self.in_flight[0]) << 32)
                    + (u64::from(self.in_flight[1]) << 44)
                    + (u64::from(self.state as u8) << 56)
                    + (u64::from(self.failing) << 60)
                    + (u64::from(self.shut) << 61)
                    + (u64::from(self.epoch == Epoch::Odd) << 62)
                    + (u64::from(self.plain) << 63),
            )
        }

        fn of(word: ZoneWord) -> Self {
            Self {
                wp: word.wp().0,
                in_flight: [word.in_flight_of(Epoch::Even), word.in_flight_of(Epoch::Odd)],
                state: word.state(),
                failing: word.is_failing(),
                shut: word.is_shut(),
                epoch: word.epoch(),
                plain: word.bits() >> 63 == 1,
            }
        }

        fn without_one_of(mut self, epoch: Epoch) -> Self {
            self.in_flight[epoch as usize] -= 1;
            self
        }
    }

    prop_compose! {
        fn any_fields()(
            wp: u32,
            in_flight in [0..IN_FLIGHT_MAX, 0..IN_FLIGHT_MAX],
            state in prop::sample::select(&ZoneState::ALL[..]),
            [failing, shut, odd, plain]: [bool; 4],
        ) -> Fields {
            let epoch = if odd { Epoch::Odd } else { Epoch::Even };
            Fields { wp, in_flight, state, failing, shut, epoch, plain }
        }
    }

    proptest! {
        #[test]
        fn a_word_is_its_fields(fields in any_fields()) {
            let word = fields.packed();
            prop_assert_eq!(Fields::of(word), fields);
            let in_flight = fields.in_flight[0] + fields.in_flight[1];
            prop_assert_eq!(word.in_flight(), in_flight);
            prop_assert_eq!(word.in_flight_is_plain(), fields.plain && in_flight != 0);
            let rest = Fields { in_flight: [0; 2], failing: false, shut: false, plain: false, ..fields };
            let rest = Fields { epoch: Epoch::Even, ..rest };
            prop_assert_eq!(ZoneWord::new(fields.state, Blocks(fields.wp)), rest.packed());
        }

        #[test]
        fn a_change_leaves_the_other_fields_alone(
            fields in any_fields(),
            state in prop::sample::select(&ZoneState::ALL[..]),
            capacity: u32,
        ) {
            let word = fields.packed();
            prop_assert_eq!(Fields::of(word.shut()), Fields { shut: true, ..fields });
            prop_assert_eq!(Fields::of(word.unshut()), Fields { shut: false, ..fields });
            prop_assert_eq!(Fields::of(word.with_state(state)), Fields { state, ..fields });
            for op in ZoneOp::ALL {
                let state = transition(fields.state, fields.wp != 0, op);
                let wp = match op {
                    ZoneOp::Open | ZoneOp::Close => fields.wp,
                    ZoneOp::Finish => capacity,
                    ZoneOp::Reset => 0,
                };
                let after = word.after(op, Blocks(capacity)).map(Fields::of);
                prop_assert_eq!(after, state.map(|state| Fields { state, wp, ..fields }));
            }
        }

        #[test]
        fn an_epoch_ends_when_none_of_the_one_before_is_in_flight(fields in any_fields(), idle: bool) {
            let (epoch, before) = match fields.epoch {
                Epoch::Even => (Epoch::Odd, 1),
                Epoch::Odd => (Epoch::Even, 0),
            };
            let mut fields = fields;
            if idle {
                fields.in_flight[before] = 0;
            }
            let next = fields.packed().next_epoch().map(Fields::of);
            let ended = fields.in_flight[before] == 0;
            prop_assert_eq!(next, ended.then_some(Fields { epoch, ..fields }));
        }

        #[test]
        fn a_write_that_ends_leaves_its_own_epoch(mut fields in any_fields(), odd: bool, alone: bool) {
            let epoch = if odd { Epoch::Odd } else { Epoch::Even };
            if alone {
                fields.in_flight = [0; 2];
            }
            fields.in_flight[epoch as usize] += 1;
            let (word, left) = (fields.packed(), fields.without_one_of(epoch));
            prop_assert_eq!(Fields::of(word.hold(epoch)), left);
            prop_assert_eq!(Fields::of(word.fail(epoch)), Fields { failing: true, ..left });
            let full = Fields { state: ZoneState::Full, ..left };
            let last = left.in_flight == [0; 2];
            for (capacity, then) in [
                (fields.wp, if last { full } else { left }),
                (fields.wp.wrapping_add(1), left),
            ] {
                let ended = word.acknowledge(epoch, Blocks(capacity));
                let expected = match fields.failing {
                    true => Acknowledgement::Held,
                    false => Acknowledgement::Acknowledged(then.packed()),
                };
                prop_assert_eq!(ended, expected);
            }
        }

        #[test]
        fn a_settled_zone_is_full_if_all_of_it_was_acknowledged(fields in any_fields(), wp: u32) {
            let failing = Fields { failing: true, in_flight: [0; 2], ..fields };
            let settled = Fields { failing: false, wp, ..failing };
            let word = failing.packed();
            let more = wp.wrapping_add(1);
            prop_assert_eq!(Fields::of(word.settled(Blocks(wp), Blocks(more))), settled);
            let full = Fields { state: ZoneState::Full, ..settled };
            prop_assert_eq!(Fields::of(word.settled(Blocks(wp), Blocks(wp))), full);
        }

        #[test]
        fn a_write_that_enters_takes_its_place_and_is_counted(
            fields in any_fields(),
            placement in prop::sample::select(&[0, 1, 2][..]),
            wp in 0u32..1000,
            length in 1u32..1000,
        ) {
            let open = Fields {
                wp, in_flight: [0; 2], failing: false, shut: false, state: ZoneState::ExplicitlyOpen,
                ..fields
            };
            let placement =
                [Placement::Append, Placement::At(Blocks(wp)), Placement::Alone][placement];
            let write = Write { placement, length: Blocks(length) };
            // The smallest zone that has room for it.
            let entered = open.packed().enter(write, Blocks(wp + length), Pass::Gate).unwrap();
            let mut expected = Fields {
                wp: wp + length, plain: placement != Placement::Append, ..open
            };
            expected.in_flight[open.epoch as usize] = 1;
            prop_assert_eq!(Fields::of(entered.word), expected);
            prop_assert_eq!((entered.start, entered.epoch), (Blocks(wp), open.epoch));
            // One block less, and it is refused; of a full zone nothing is left.
            let less = open.packed().enter(write, Blocks(wp + length - 1), Pass::Gate);
            let refusal = match length {
                1 => Refusal::Full,
                _ => Refusal::BeyondCapacity { left: Blocks(length - 1) },
            };
            prop_assert_eq!(less, Err(Barrier::Refused(refusal)));
        }
    }

    #[test]
    fn a_shut_gate_lets_in_only_who_holds_it() {
        let at = Write { placement: Placement::At(Blocks(0)), length: Blocks(1) };
        let alone = Write { placement: Placement::Alone, length: Blocks(1) };
        for write in [append(1), at, alone] {
            let none = open_zone().shut().enter(write, CAPACITY, Pass::None);
            assert_eq!(none, Err(Barrier::Wait(Obstacle::Gate)), "{write:?}");
            assert!(open_zone().shut().enter(write, CAPACITY, Pass::Gate).is_ok(), "{write:?}");
        }
        // Who wants to be alone has to hold the gate, also where it is open.
        let none = open_zone().enter(alone, CAPACITY, Pass::None);
        assert_eq!(none, Err(Barrier::Wait(Obstacle::Gate)));
        assert!(open_zone().enter(alone, CAPACITY, Pass::Gate).is_ok());
    }

    #[test]
    fn writes_of_one_kind_are_in_flight_together_but_for_one_that_is_alone() {
        let at = |at| Write { placement: Placement::At(Blocks(at)), length: Blocks(1) };
        let alone = Write { placement: Placement::Alone, length: Blocks(1) };
        let appended = open_zone().enter(append(1), CAPACITY, Pass::Gate).unwrap().word;
        assert!(appended.enter(append(1), CAPACITY, Pass::Gate).is_ok());
        let written = open_zone().enter(at(0), CAPACITY, Pass::Gate).unwrap().word;
        assert!(written.enter(at(1), CAPACITY, Pass::Gate).is_ok());
        for word in [appended, written] {
            let mixed = word.enter(alone, CAPACITY, Pass::Gate);
            assert_eq!(mixed, Err(Barrier::Wait(Obstacle::Mixed)));
        }
    }

    #[test]
    fn a_zone_that_is_not_open_is_opened_only_for_a_write_that_fits() {
        for (state, place) in
            [(ZoneState::Empty, Place::OpenAndActive), (ZoneState::Closed, Place::Open)]
        {
            let zone = ZoneWord::new(state, Blocks(0));
            let enter = |length| zone.enter(append(length), CAPACITY, Pass::None);
            assert_eq!(enter(8), Err(Barrier::Needs(place)));
            let refusal = Refusal::BeyondCapacity { left: CAPACITY };
            assert_eq!(enter(9), Err(Barrier::Refused(refusal)));
        }
        let full = ZoneWord::new(ZoneState::Full, CAPACITY);
        let refused = full.enter(append(1), CAPACITY, Pass::None);
        assert_eq!(refused, Err(Barrier::Refused(Refusal::Full)));
        let conventional = ZoneWord::new(ZoneState::NotWp, Blocks(0));
        let refused = conventional.enter(append(1), CAPACITY, Pass::None);
        assert_eq!(refused, Err(Barrier::Refused(Refusal::Conventional)));
    }

    #[test]
    fn a_word_of_no_state_takes_no_writes() {
        assert_eq!(ZoneWord::from_bits(0x7 << 56).state(), ZoneState::Offline);
    }

    #[test]
    #[should_panic(expected = "nothing in flight")]
    fn what_has_not_entered_cannot_leave() {
        let _ = open_zone().hold(Epoch::Even);
    }

    #[test]
    #[should_panic(expected = "not settling")]
    fn a_zone_that_has_not_failed_does_not_settle() {
        let _ = open_zone().settled(Blocks(0), CAPACITY);
    }

    #[test]
    #[should_panic(expected = "not settling")]
    fn a_zone_with_writes_in_flight_does_not_settle() {
        let a = open_zone().enter(append(1), CAPACITY, Pass::None).unwrap();
        let b = a.word.enter(append(1), CAPACITY, Pass::None).unwrap();
        let _ = b.word.fail(a.epoch).settled(Blocks(0), CAPACITY);
    }

    #[test]
    fn a_word_prints_its_fields() {
        let word = open_zone().enter(append(3), CAPACITY, Pass::None).unwrap().word;
        assert_eq!(
            alloc::format!("{word:?}"),
            "ZoneWord { state: \"imp-open\", wp: 3, in_flight: [1, 0], failing: false, \
             gate: false, epoch: Even, plain: false }"
        );
        let at = Write { placement: Placement::At(Blocks(0)), length: Blocks(1) };
        let word = open_zone().enter(at, CAPACITY, Pass::None).unwrap().word;
        assert!(alloc::format!("{word:?}").contains("plain: true"));
    }
    #[test]
    fn a_zone_that_nothing_was_written_to_is_empty_when_it_is_closed() {
        let closed = |wp| {
            let zone = ZoneWord::new(ZoneState::ExplicitlyOpen, Blocks(wp));
            zone.after(ZoneOp::Close, CAPACITY).map(ZoneWord::state)
        };
        assert_eq!(closed(0), Ok(ZoneState::Empty));
        assert_eq!(closed(1), Ok(ZoneState::Closed));
    }

    #[test]
    fn with_nothing_in_flight_nothing_plain_is() {
        let at = Write { placement: Placement::At(Blocks(0)), length: Blocks(1) };
        let entered = open_zone().enter(at, CAPACITY, Pass::None).unwrap();
        assert!(entered.word.in_flight_is_plain());
        assert!(!entered.word.hold(entered.epoch).in_flight_is_plain());
    }
}
