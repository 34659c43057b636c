//! What a read may show: a snapshot of the zones it covers, taken when it is submitted.
//!
//! Everything acknowledged by then is shown. What lies above the acknowledged end, what is in
//! flight below it, and what is masked reads as zeros, whatever the disk holds; so does a zone
//! that is reset while the read is on its way. So nothing of a zone's earlier life is ever seen.

use crate::zones::Zones;
use std::ops::Range;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::units::{Blocks, Extent, Generation, ZoneIndex};
use zonal_core::zone::ZoneState;

/// A sequential zone under a read, in the life it was read in.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Life {
    pub(crate) zone: ZoneIndex,
    pub(crate) generation: Generation,
    /// The zone's part of the read.
    pub(crate) bytes: Range<usize>,
}

/// What of a read has to come from the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing: it shows zeros alone.
    Nothing,
    /// It is read as a whole, and blanked where it must not be shown.
    Whole,
    /// Only what is shown may be asked for, a zone at a time.
    Parts,
}

/// A read's snapshot. Reused from read to read, so that it allocates nothing.
#[derive(Debug, Default, Hash)]
pub(crate) struct View {
    lives: Vec<Life>,
    conventional: Vec<Range<usize>>,
    /// What reads as zeros; sorted, inside the read.
    masks: Vec<Range<usize>>,
    scratch: Vec<Extent>,
}

impl View {
    pub(crate) fn lives(&self) -> &[Life] {
        &self.lives
    }

    pub(crate) fn conventional(&self) -> &[Range<usize>] {
        &self.conventional
    }

    /// Whether nothing of a read of so many bytes has to come from the disk.
    pub(crate) fn is_blank(&self, length: u64) -> bool {
        matches!(&self.masks[..], [mask] if mask.start == 0 && mask.end as u64 == length)
    }

    /// Takes the snapshot for a read inside the drive.
    ///
    /// # Errors
    /// An offline zone.
    pub(crate) fn take(&mut self, zones: &Zones, offset: u64, length: u64) -> Result<()> {
        self.lives.clear();
        self.conventional.clear();
        self.masks.clear();
        let geometry = &zones.geometry;
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let zone = geometry.zone_of(at);
            let start = geometry.start_of(zone);
            let to = end.min(start + geometry.size_of(zone));
            let bytes = near(at - offset)..near(to - offset);
            self.take_zone(zones, zone, at - start, bytes)?;
            at = to;
        }
        self.masks.sort_unstable_by_key(|mask| mask.start);
        Ok(())
    }

    /// Adds what reads as zeros to the snapshot of a read of `length` bytes at `offset`.
    pub(crate) fn hide(&mut self, offset: u64, length: u64, bytes: &Range<u64>) {
        let inside = |at: u64| near(at.clamp(offset, offset + length) - offset);
        let mask = inside(bytes.start)..inside(bytes.end);
        if !mask.is_empty() {
            self.masks.push(mask);
            self.masks.sort_unstable_by_key(|mask| mask.start);
        }
    }

    /// Whether nothing from byte `at` of the read on has to come from the disk, which may end
    /// there.
    pub(crate) fn is_blank_from(&self, zones: &Zones, at: usize, length: u64) -> bool {
        let hidden = self
            .masks
            .iter()
            .fold(at, |at, mask| if mask.start <= at { at.max(mask.end) } else { at });
        let mut lives = self.lives.iter().filter(|life| life.bytes.end > at);
        hidden as u64 >= length
            || self.conventional.is_empty()
                && lives.all(|life| zones.cells().mark(life.zone).generation != life.generation)
    }

    /// Adds a zone, of which `bytes` of the read begin at `from` bytes into the zone.
    fn take_zone(
        &mut self,
        zones: &Zones,
        zone: ZoneIndex,
        from: u64,
        bytes: Range<usize>,
    ) -> Result<()> {
        match zones.cells().load(zone).state() {
            ZoneState::Offline => {
                return Err(Error::new(ErrorKind::ZoneOffline, "its data is gone").in_zone(zone.0));
            }
            ZoneState::NotWp => {
                self.conventional.push(bytes);
                return Ok(());
            }
            ZoneState::Empty
            | ZoneState::ImplicitlyOpen
            | ZoneState::ExplicitlyOpen
            | ZoneState::Closed
            | ZoneState::ReadOnly
            | ZoneState::Full => {}
        }
        let mark = zones.cells().mark(zone);
        self.scratch.clear();
        zones.unreadable(zone, mark.end, &mut self.scratch);
        self.scratch.push(Extent { start: mark.end, end: Blocks(u32::MAX) });
        let block = zones.block_size();
        for extent in &self.scratch {
            // The read's bytes [bytes] are the zone's bytes from `from` on.
            let start = (u64::from(extent.start.0) * block).max(from) - from;
            let end = (u64::from(extent.end.0) * block).max(from) - from;
            let mask = (bytes.start + near(start)).min(bytes.end)
                ..(bytes.start + near(end)).min(bytes.end);
            if !mask.is_empty() {
                self.masks.push(mask);
            }
        }
        self.lives.push(Life { zone, generation: mark.generation, bytes });
        Ok(())
    }

    /// Calls `show` with each part of `within` that is not masked.
    pub(crate) fn each_shown(&self, within: &Range<usize>, mut show: impl FnMut(Range<usize>)) {
        let mut at = within.start;
        for mask in &self.masks {
            let start = mask.start.clamp(at, within.end);
            if start > at {
                show(at..start);
            }
            at = at.max(mask.end.min(within.end));
        }
        if at < within.end {
            show(at..within.end);
        }
    }

    /// The first part from byte `at` of the read on that is shown and lies in one zone.
    pub(crate) fn part_from(&self, at: usize) -> Option<Range<usize>> {
        let mut first: Option<Range<usize>> = None;
        let mut take = |part: Range<usize>| {
            let part = part.start.max(at)..part.end;
            if !part.is_empty() && first.as_ref().is_none_or(|first| part.start < first.start) {
                first = Some(part);
            }
        };
        for life in &self.lives {
            self.each_shown(&life.bytes, &mut take);
        }
        self.conventional.iter().cloned().for_each(take);
        first
    }

    /// Zeroes in `bytes` what the read must not show.
    pub(crate) fn blank(&self, zones: &Zones, bytes: &mut [u8]) {
        for mask in &self.masks {
            bytes[mask.clone()].fill(0);
        }
        for life in &self.lives {
            if zones.cells().mark(life.zone).generation != life.generation {
                bytes[life.bytes.clone()].fill(0);
            }
        }
    }
}

/// A length inside one read, whose buffer is in memory.
#[allow(clippy::cast_possible_truncation)]
fn near(length: u64) -> usize {
    length as usize
}
