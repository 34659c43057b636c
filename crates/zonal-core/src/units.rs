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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn extent(start: u32, end: u32) -> Extent {
        Extent { start: Blocks(start), end: Blocks(end) }
    }

    #[test]
    fn an_extent_holds_the_blocks_from_its_start_up_to_its_end() {
        assert_eq!(Extent::new(Blocks(3), Blocks(4)), extent(3, 7));
        for (extent, length) in
            [(extent(3, 7), 4), (extent(3, 4), 1), (extent(3, 3), 0), (extent(3, 1), 0)]
        {
            assert_eq!(extent.length(), Blocks(length), "{extent:?}");
            assert_eq!(extent.is_empty(), length == 0, "{extent:?}");
        }
    }

    #[test]
    fn what_of_an_extent_lies_below_a_block_may_be_all_or_nothing() {
        assert_eq!(extent(3, 7).below(Blocks(9)), extent(3, 7));
        assert_eq!(extent(3, 7).below(Blocks(5)), extent(3, 5));
        assert!(extent(3, 7).below(Blocks(3)).is_empty());
    }

    #[test]
    fn a_quantity_prints_as_its_number() {
        assert_eq!(ZoneIndex::from(7).to_string(), "7");
        assert_eq!(Blocks::from(8).to_string(), "8");
        assert_eq!(ZoneIndex(7).index(), 7);
    }
}
