//! Quantities with names, so that blocks are never taken for bytes nor one zone for another.

use core::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$repr> for $name {
            fn from(value: $repr) -> Self {
                Self(value)
            }
        }
    };
}

unit! {
    /// A zone's number, counted from the start of the drive.
    ZoneIndex(u32)
}
unit! {
    /// A length or a zone-relative position in logical blocks.
    Blocks(u32)
}
unit! {
    /// How often a zone has been reset.
    Generation(u32)
}
impl Blocks {
    /// No block, or a zone's start.
    pub const ZERO: Self = Self(0);
}

impl ZoneIndex {
    /// The zone's number as an index into memory.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A range of blocks in one zone, `start` included, `end` not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first block.
    pub start: Blocks,
    /// The block after the last.
    pub end: Blocks,
}

impl Extent {
    /// The extent of `length` blocks from `start`.
    #[must_use]
    pub const fn new(start: Blocks, length: Blocks) -> Self {
        Self { start, end: Blocks(start.0 + length.0) }
    }

    /// How many blocks it holds.
    #[must_use]
    pub const fn length(self) -> Blocks {
        Blocks(self.end.0.saturating_sub(self.start.0))
    }

    /// Whether it holds no block.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 >= self.end.0
    }

    /// The part of it below `end`.
    #[must_use]
    pub fn below(self, end: Blocks) -> Self {
        Self { start: self.start, end: self.end.min(end) }
    }
}
