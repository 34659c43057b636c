//! What a failed write leaves behind.
//!
//! With L the lowest failed start and H the highest end acknowledged before, the write pointer
//! becomes `max(L, H)`. Held writes that end at or below it are acknowledged, the others failed
//! *behind a failed write*. Failed ranges below H are *dead*: acknowledged data lies above them,
//! so the write pointer cannot go back over them, and they are made to read as zeros.

use crate::units::{Blocks, Extent};

/// What a zone settles to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The write pointer from here on.
    pub wp: Blocks,
}

/// What a write that ended in a failing zone is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded.
    Acknowledged,
    /// It failed itself.
    Failed,
    /// It went well, but lies behind one that failed.
    Behind,
}

/// Settles a zone whose writes have all ended. `acknowledged` is H; `failed` yields the extents
/// of all failed writes, at least one.
#[must_use]
pub fn settle(acknowledged: Blocks, failed: impl IntoIterator<Item = Extent>) -> Settlement {
    let lowest = failed.into_iter().map(|extent| extent.start).min();
    debug_assert!(lowest.is_some(), "no write failed");
    Settlement { wp: lowest.map_or(acknowledged, |lowest| lowest.max(acknowledged)) }
}

impl Settlement {
    /// The verdict on a write that was held, or failed.
    #[must_use]
    pub fn verdict(self, extent: Extent, failed: bool) -> Verdict {
        if failed {
            Verdict::Failed
        } else if extent.end <= self.wp {
            Verdict::Acknowledged
        } else {
            Verdict::Behind
        }
    }

    /// The dead part of a failed write: what of it lies below the write pointer.
    #[must_use]
    pub fn dead(self, failed: Extent) -> Option<Extent> {
        let dead = failed.below(self.wp);
        (!dead.is_empty()).then_some(dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u32, end: u32) -> Extent {
        Extent { start: Blocks(start), end: Blocks(end) }
    }

    #[test]
    fn with_nothing_acknowledged_above_the_pointer_goes_back_to_the_failed_start() {
        let settled = settle(Blocks(2), [extent(6, 8), extent(4, 6)]);
        assert_eq!(settled.wp, Blocks(4));
        assert_eq!(settled.verdict(extent(2, 4), false), Verdict::Acknowledged);
        assert_eq!(settled.verdict(extent(8, 9), false), Verdict::Behind);
        assert_eq!(settled.verdict(extent(4, 6), true), Verdict::Failed);
        assert_eq!(settled.dead(extent(4, 6)), None);
    }

    #[test]
    fn a_failed_range_below_acknowledged_data_is_dead() {
        let settled = settle(Blocks(8), [extent(4, 6)]);
        assert_eq!(settled.wp, Blocks(8));
        assert_eq!(settled.dead(extent(4, 6)), Some(extent(4, 6)));
        assert_eq!(settled.verdict(extent(6, 8), false), Verdict::Acknowledged);
        assert_eq!(settled.verdict(extent(8, 9), false), Verdict::Behind);
    }
    #[test]
    fn only_what_of_a_failed_range_lies_below_the_pointer_is_dead() {
        let settled = settle(Blocks(4), [extent(2, 6)]);
        assert_eq!(settled.wp, Blocks(4));
        assert_eq!(settled.dead(extent(2, 6)), Some(extent(2, 4)));
    }

    #[test]
    #[should_panic(expected = "no write failed")]
    fn a_zone_settles_only_after_a_failure() {
        let _ = settle(Blocks(4), []);
    }
}
