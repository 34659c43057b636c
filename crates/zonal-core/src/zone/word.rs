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
        debug_assert!(self.is_failing() && self.in_flight() == 0, "not settling: {self:?}");
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
}
