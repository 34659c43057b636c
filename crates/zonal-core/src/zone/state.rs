//! Zone states, operations on zones, and the whole transition table.

use crate::error::{Error, ErrorKind};
use crate::units::Blocks;
use alloc::{borrow::Cow, format};
use core::fmt;

/// A zone's state, with the codes of Linux's `blkzoned.h` and NVMe ZNS figure 37.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ZoneState {
    /// A conventional zone: no write pointer, writes go anywhere.
    NotWp = 0x0,
    /// Nothing written since the last reset.
    Empty = 0x1,
    /// Opened by a write.
    ImplicitlyOpen = 0x2,
    /// Opened by `open`; never closed to make room for another zone.
    ExplicitlyOpen = 0x3,
    /// Partly written and not open; still active.
    Closed = 0x4,
    /// Readable, never writable again.
    ReadOnly = 0xD,
    /// Takes no more data until it is reset.
    Full = 0xE,
    /// Neither readable nor writable.
    Offline = 0xF,
}

impl ZoneState {
    /// Every state, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::NotWp,
        Self::Empty,
        Self::ImplicitlyOpen,
        Self::ExplicitlyOpen,
        Self::Closed,
        Self::ReadOnly,
        Self::Full,
        Self::Offline,
    ];

    /// The state of a code; `None` for a code that no state has.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0x0 => Some(Self::NotWp),
            0x1 => Some(Self::Empty),
            0x2 => Some(Self::ImplicitlyOpen),
            0x3 => Some(Self::ExplicitlyOpen),
            0x4 => Some(Self::Closed),
            0xD => Some(Self::ReadOnly),
            0xE => Some(Self::Full),
            0xF => Some(Self::Offline),
            _ => None,
        }
    }

    /// Whether it counts against the open limit.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::ImplicitlyOpen | Self::ExplicitlyOpen => true,
            Self::NotWp
            | Self::Empty
            | Self::Closed
            | Self::ReadOnly
            | Self::Full
            | Self::Offline => false,
        }
    }

    /// Whether it counts against the active limit.
    #[must_use]
    pub const fn is_active(self) -> bool {
        match self {
            Self::ImplicitlyOpen | Self::ExplicitlyOpen | Self::Closed => true,
            Self::NotWp | Self::Empty | Self::ReadOnly | Self::Full | Self::Offline => false,
        }
    }

    /// The name that `report` prints and reads.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotWp => "not-wp",
            Self::Empty => "empty",
            Self::ImplicitlyOpen => "imp-open",
            Self::ExplicitlyOpen => "exp-open",
            Self::Closed => "closed",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
            Self::Offline => "offline",
        }
    }
}

impl fmt::Display for ZoneState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An operation on a whole zone (NVMe Zone Management Send; Linux `BLKOPENZONE` and its kin).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZoneOp {
    /// Open explicitly.
    Open,
    /// Close: gives back the open place, keeps the active one.
    Close,
    /// Make full: what is left reads as zeros.
    Finish,
    /// Make empty.
    Reset,
}

impl ZoneOp {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Open, Self::Close, Self::Finish, Self::Reset];

    /// The field's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Finish => "finish",
            Self::Reset => "reset",
        }
    }
}

/// What a zone needs of the drive's resources before it may change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// One more open zone.
    Open,
    /// One more open and one more active zone.
    OpenAndActive,
}

/// Why a request was refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The zone is full.
    Full,
    /// The request ends past the capacity; so much is left.
    BeyondCapacity {
        /// Blocks between the write pointer and the capacity.
        left: Blocks,
    },
    /// The write does not start at the write pointer.
    NotAtWritePointer {
        /// Where the next write must start.
        wp: Blocks,
    },
    /// The zone is read-only.
    ReadOnly,
    /// The zone is offline.
    Offline,
    /// The operation is for sequential zones, and this one is conventional.
    Conventional,
    /// The zone's state does not allow the operation.
    Transition {
        /// The zone's state.
        from: ZoneState,
        /// The operation.
        op: ZoneOp,
    },
    /// The open limit is reached and no implicitly open zone can be closed for it.
    TooManyOpen,
    /// The active limit is reached.
    TooManyActive,
}

impl Refusal {
    /// The public kind of it.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Full => ErrorKind::ZoneFull,
            Self::BeyondCapacity { .. } => ErrorKind::BeyondCapacity,
            Self::NotAtWritePointer { .. } => ErrorKind::NotAtWritePointer,
            Self::ReadOnly => ErrorKind::ZoneReadOnly,
            Self::Offline => ErrorKind::ZoneOffline,
            Self::Conventional => ErrorKind::InvalidInput,
            Self::Transition { .. } => ErrorKind::InvalidTransition,
            Self::TooManyOpen => ErrorKind::TooManyOpenZones,
            Self::TooManyActive => ErrorKind::TooManyActiveZones,
        }
    }

    fn detail(self) -> Cow<'static, str> {
        match self {
            Self::Full => "reset it, or take another zone".into(),
            Self::BeyondCapacity { left } => {
                format!("{left} blocks are left; take another zone, or finish this one").into()
            }
            Self::NotAtWritePointer { wp } => {
                format!("the next write must start at block {wp} of the zone").into()
            }
            Self::ReadOnly => "it can still be read; write to another zone".into(),
            Self::Offline => "take another zone".into(),
            Self::Conventional => {
                "a conventional zone has no write pointer; write at an offset instead".into()
            }
            Self::Transition { from, op } => {
                format!("a zone that is {from} cannot {}", op.as_str()).into()
            }
            Self::TooManyOpen => "close or finish an open zone first".into(),
            Self::TooManyActive => "finish or reset an active zone first".into(),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::new(refusal.kind(), refusal.detail())
    }
}

/// The transition table for operations on whole zones. `written` says whether the write pointer
/// is past the zone's start.
///
/// Where emulators differ: closing an open zone with nothing written makes it empty (as null_blk
/// and zloop do), and finishing an empty zone needs no open or active place (as in QEMU).
///
/// # Errors
/// The refusal, when the state does not allow the operation.
pub const fn transition(from: ZoneState, written: bool, op: ZoneOp) -> Result<ZoneState, Refusal> {
    use ZoneState::{
        Closed, Empty, ExplicitlyOpen, Full, ImplicitlyOpen, NotWp, Offline, ReadOnly,
    };
    match (from, op) {
        (NotWp, _) => Err(Refusal::Conventional),
        (ReadOnly, _) => Err(Refusal::ReadOnly),
        (Offline, _) => Err(Refusal::Offline),

        (Empty | ImplicitlyOpen | ExplicitlyOpen | Closed, ZoneOp::Open) => Ok(ExplicitlyOpen),
        (ImplicitlyOpen | ExplicitlyOpen | Closed, ZoneOp::Close) => {
            Ok(if written { Closed } else { Empty })
        }
        (Empty | ImplicitlyOpen | ExplicitlyOpen | Closed | Full, ZoneOp::Finish) => Ok(Full),
        (Empty | ImplicitlyOpen | ExplicitlyOpen | Closed | Full, ZoneOp::Reset) => Ok(Empty),

        (Empty, ZoneOp::Close) | (Full, ZoneOp::Open | ZoneOp::Close) => {
            Err(Refusal::Transition { from, op })
        }
    }
}

/// What a write needs before it may enter a zone in this state: nothing, or a [`Place`].
///
/// # Errors
/// The refusal, when the state takes no writes.
pub const fn admits_write(state: ZoneState) -> Result<Option<Place>, Refusal> {
    match state {
        ZoneState::NotWp | ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen => Ok(None),
        ZoneState::Empty => Ok(Some(Place::OpenAndActive)),
        ZoneState::Closed => Ok(Some(Place::Open)),
        ZoneState::Full => Err(Refusal::Full),
        ZoneState::ReadOnly => Err(Refusal::ReadOnly),
        ZoneState::Offline => Err(Refusal::Offline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the field, word for word: `facts` in `docs/semantics.md`.
    #[test]
    fn the_transition_table() {
        const TABLE: &str = "
            from      | write    | open     | close    | finish | reset
            not-wp    | not-wp   | error    | error    | error  | error
            empty     | imp-open | exp-open | error    | full   | empty
            imp-open  | imp-open | exp-open | closed   | full   | empty
            exp-open  | exp-open | exp-open | closed   | full   | empty
            closed    | imp-open | exp-open | closed   | full   | empty
            full      | error    | error    | error    | full   | empty
            read-only | error    | error    | error    | error  | error
            offline   | error    | error    | error    | error  | error";
        let mut rows = TABLE.lines().filter(|line| !line.trim().is_empty());
        let heads: alloc::vec::Vec<_> = cells(rows.next().expect("a head line"));
        let mut seen = 0;
        for row in rows {
            let row: alloc::vec::Vec<_> = cells(row);
            let from = ZoneState::ALL.into_iter().find(|s| s.as_str() == row[0]).expect(row[0]);
            for (head, expected) in heads.iter().zip(&row).skip(1) {
                assert_eq!(actual(from, head), *expected, "{head} on a zone that is {from}");
                seen += 1;
            }
        }
        assert_eq!(seen, 8 * 5);
    }

    fn cells(line: &str) -> alloc::vec::Vec<&str> {
        line.split('|').map(str::trim).collect()
    }

    fn actual(from: ZoneState, op: &str) -> &'static str {
        if op == "write" {
            return match admits_write(from) {
                Ok(None) => from.as_str(),
                Ok(Some(_)) => ZoneState::ImplicitlyOpen.as_str(),
                Err(_) => "error",
            };
        }
        let op = ZoneOp::ALL.into_iter().find(|o| o.as_str() == op).expect("an operation");
        transition(from, true, op).map_or("error", ZoneState::as_str)
    }

    #[test]
    fn closing_a_zone_with_nothing_written_makes_it_empty() {
        for from in [ZoneState::ImplicitlyOpen, ZoneState::ExplicitlyOpen] {
            assert_eq!(transition(from, false, ZoneOp::Close), Ok(ZoneState::Empty));
        }
    }

    #[test]
    fn codes_go_round() {
        for code in 0..=u8::MAX {
            if let Some(state) = ZoneState::from_code(code) {
                assert_eq!(state as u8, code);
            }
        }
        assert_eq!(ZoneState::ALL.map(|s| ZoneState::from_code(s as u8)), ZoneState::ALL.map(Some));
    }
    #[test]
    fn a_refusal_is_an_error_that_says_what_to_do() {
        let op = ZoneOp::Close;
        for (refusal, kind, words) in [
            (Refusal::Full, ErrorKind::ZoneFull, "reset it"),
            (Refusal::BeyondCapacity { left: Blocks(3) }, ErrorKind::BeyondCapacity, "3 blocks"),
            (Refusal::NotAtWritePointer { wp: Blocks(5) }, ErrorKind::NotAtWritePointer, "block 5"),
            (Refusal::ReadOnly, ErrorKind::ZoneReadOnly, "read"),
            (Refusal::Offline, ErrorKind::ZoneOffline, "another zone"),
            (Refusal::Conventional, ErrorKind::InvalidInput, "conventional"),
            (
                Refusal::Transition { from: ZoneState::Full, op },
                ErrorKind::InvalidTransition,
                "full cannot close",
            ),
            (Refusal::TooManyOpen, ErrorKind::TooManyOpenZones, "close"),
            (Refusal::TooManyActive, ErrorKind::TooManyActiveZones, "finish"),
        ] {
            let error = Error::from(refusal);
            assert_eq!(error.kind(), kind);
            assert!(error.detail().contains(words), "{refusal:?}: {error}");
        }
    }

    #[test]
    fn a_state_pads_in_a_table() {
        assert_eq!(format!("{:<9}|", ZoneState::Full), "full     |");
    }

    #[test]
    fn an_open_zone_is_active_and_a_closed_one_is_active_without_being_open() {
        for state in ZoneState::ALL {
            let open = matches!(state, ZoneState::ImplicitlyOpen | ZoneState::ExplicitlyOpen);
            assert_eq!(state.is_open(), open, "{state}");
            assert_eq!(state.is_active(), open || state == ZoneState::Closed, "{state}");
        }
    }

    #[test]
    fn a_zone_that_is_closed_has_its_active_place_already() {
        assert_eq!(admits_write(ZoneState::Empty), Ok(Some(Place::OpenAndActive)));
        assert_eq!(admits_write(ZoneState::Closed), Ok(Some(Place::Open)));
    }
}
