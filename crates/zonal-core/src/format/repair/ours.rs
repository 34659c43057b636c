//! What is ours and QEMU's zones': session records, generation pages, the zone table, the header's
//! marks.

use super::{Mend, MendedList, Patch};
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::{Header, INCOMPATIBLE_OFFSET};
use crate::format::zonal::{
    Condition, Extension, MAX_CONDITIONS, PAGE, Session, encode_page, generation_pages, parse_page,
    salvage_page,
};
use crate::format::{damaged, zoned};
use crate::units::{Blocks, ZoneIndex};
use alloc::{vec, vec::Vec};

/// The table is read in pieces of so many entries.
const ENTRIES_AT_ONCE: u32 = 1 << 16;

/// The two copies of the session record.
#[derive(Debug)]
pub struct Sessions {
    extension: Extension,
    /// Which copies are as they should be.
    sound: [bool; 2],
    /// The copy that counts.
    source: u64,
    /// What it says, without what cannot be.
    session: Session,
}

impl Sessions {
    /// Reads both copies, and finds the one that counts: the newest that is whole and of this image.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] where neither is, or one says what cannot be known;
    /// [`ErrorKind::Unsupported`] for a record of another version; those of [`Patch`].
    pub fn read<R: FnMut(u64, &mut [u8]) -> Result<()>>(
        header: &Header,
        extension: &Extension,
        patch: &mut Patch<R>,
    ) -> Result<Self> {
        let (geometry, id) = (&header.geometry, &extension.image_id);
        let mut sound = [false; 2];
        let mut newest: Option<(u64, Session)> = None;
        for (copy, sound) in (0..).zip(&mut sound) {
            let place = extension.session_offset(copy);
            let mut page = [0; PAGE];
            patch.read(place, &mut page)?;
            *sound = matches!(Session::parse_copy(copy, &page, id, geometry), Ok(Some(_)));
            let found =
                Session::salvage(&page, id, geometry).map_err(|error| at_place(error, place))?;
            let newer = |session: &Session| {
                newest.as_ref().is_none_or(|(_, known)| known.sequence < session.sequence)
            };
            newest = found.filter(newer).map(|session| (copy, session)).or(newest);
        }
        let (source, session) = newest.ok_or_else(|| {
            let detail = "both copies of the session record have a wrong checksum";
            damaged(extension.sessions_offset, 2 * PAGE as u64, detail)
        })?;
        Ok(Self { extension: *extension, sound, source, session })
    }

    /// The record that counts.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Makes both copies whole, with `read_only` as conditions of zones that have none: the copy that
    /// does not count first, then the other if it changes. Writes the new lists to both.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] where the record has no room for the conditions; those of [`Patch`].
    pub fn mend<R: FnMut(u64, &mut [u8]) -> Result<()>>(
        &self,
        read_only: &[ZoneIndex],
        patch: &mut Patch<R>,
    ) -> Result<MendedList> {
        let mut session = self.session.clone();
        for &zone in read_only {
            if session.conditions.iter().any(|(other, _)| *other == zone) {
                continue;
            }
            if session.conditions.len() == MAX_CONDITIONS {
                let detail = "more zones have lost their write pointers than the record can note";
                return Err(damaged(self.extension.sessions_offset, 2 * PAGE as u64, detail));
            }
            session.conditions.push((zone, Condition::ReadOnly));
        }
        let (other, source) = (1 - self.source, self.source);
        let source_sound = self.sound[usize::from(source == 1)];
        let changed = session.conditions != self.session.conditions;
        let mut mended = MendedList::default();
        for (copy, sound) in [(0, self.sound[0]), (1, self.sound[1])] {
            if !sound {
                let lists = copy == source && self.session.sequence & 1 == copy;
                let mend = if lists { Mend::SessionLists } else { Mend::SessionCopy };
                mended.add(mend, self.extension.session_offset(copy), PAGE as u64);
            }
        }
        if self.sound == [true; 2] && !changed {
            return Ok(mended);
        }
        for copy in [other, source] {
            if copy == source && source_sound && !changed {
                break;
            }
            // The next that belongs there.
            session.sequence += if (session.sequence + 1) & 1 == copy { 1 } else { 2 };
            patch.step();
            let page = session.encode(&self.extension.image_id)?;
            patch.write(self.extension.session_offset(copy), &page)?;
        }
        patch.step();
        Ok(mended)
    }
}

/// Makes both copies of each generation page whole, where one is.
///
/// # Errors
/// Those of [`Patch`].
pub fn mend_generations<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    header: &Header,
    extension: &Extension,
    patch: &mut Patch<R>,
) -> Result<MendedList> {
    let zones = header.geometry.zones();
    let mut mended = MendedList::default();
    patch.step();
    for page in 0..generation_pages(zones) {
        let mut copies = [[0; PAGE]; 2];
        for (copy, bytes) in (0..).zip(&mut copies) {
            patch.read(extension.generation_page_offset(zones, page, copy), bytes)?;
        }
        let sound = [0, 1].map(|copy: u64| {
            let bytes = &copies[usize::from(copy == 1)];
            matches!(parse_page(page, copy, bytes), Ok(Some(_)))
        });
        let found = copies.iter().enumerate();
        let found = found.filter_map(|(copy, bytes)| Some((copy, salvage_page(page, bytes)?)));
        // Where both are as old, the one that is in its place.
        let newest = found.max_by_key(|(copy, (sequence, _))| (*sequence, sound[*copy]));
        let Some((source, (mut sequence, generations))) = newest else { continue };
        // The one that does not count first; the other is a step of its own.
        for copy in [1 - source, source] {
            if sound[copy] {
                continue;
            }
            sequence += if (sequence + 1) & 1 == copy as u64 { 1 } else { 2 };
            if copy == source {
                patch.step();
            }
            let place = extension.generation_page_offset(zones, page, copy as u64);
            patch.write(place, &encode_page(page, sequence, &generations))?;
            mended.add(Mend::GenerationCopy, place, PAGE as u64);
        }
    }
    Ok(mended)
}

/// Puts right the table's entries that cannot be. A conventional zone's is its start. Where a
/// sequential zone ended nobody knows: all that was acknowledged lies below its capacity, so that is
/// where its write pointer goes, and a condition, durable before, keeps anything from being written.
/// So nothing is lost and nothing is overwritten. Without `sessions` there is no place for conditions,
/// and these zones are left.
///
/// Also makes the session record whole, see [`Sessions::mend`]. Where it has no room for all of these
/// zones, all of them are left.
///
/// # Errors
/// Those of [`Patch`].
pub fn mend_zones<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    header: &Header,
    sessions: Option<&Sessions>,
    patch: &mut Patch<R>,
) -> Result<MendedList> {
    let geometry = &header.geometry;
    let lost = lost_entries(header, patch)?;
    let (conventional, sequential): (Vec<_>, Vec<_>) =
        lost.into_iter().partition(|zone| geometry.is_conventional(*zone));
    let (mut mended, read_only) = match sessions {
        None => (MendedList::default(), Vec::new()),
        Some(sessions) => match sessions.mend(&sequential, patch) {
            // No room for so many: they stay as they are.
            Err(error) if error.kind() == ErrorKind::Damaged => {
                (sessions.mend(&[], patch)?, Vec::new())
            }
            noted => (noted?, sequential),
        },
    };
    let conventional =
        conventional.into_iter().map(|zone| (zone, Blocks::ZERO, Mend::Conventional));
    let read_only = read_only
        .into_iter()
        .map(|zone| (zone, geometry.capacity_blocks(zone), Mend::ZoneReadOnly(zone.0)));
    patch.step();
    for (zone, wp, mend) in conventional.chain(read_only) {
        let place = header.zone_entry_offset(zone);
        patch.write(place, &zoned::encode(geometry, zone, wp).to_be_bytes())?;
        mended.add(mend, place, zoned::ENTRY);
    }
    Ok(mended)
}

/// The zones whose entries cannot be.
fn lost_entries<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    header: &Header,
    patch: &mut Patch<R>,
) -> Result<Vec<ZoneIndex>> {
    let zones = header.geometry.zones();
    let mut lost = Vec::new();
    for first in (0..zones).step_by(ENTRIES_AT_ONCE as usize) {
        let count = ENTRIES_AT_ONCE.min(zones - first);
        let mut bytes = vec![0; count as usize * 8];
        patch.read(header.zone_entry_offset(ZoneIndex(first)), &mut bytes)?;
        let (entries, _) = bytes.as_chunks::<8>();
        for (zone, entry) in (first..).map(ZoneIndex).zip(entries) {
            if zoned::decode(&header.geometry, zone, u64::from_be_bytes(*entry)).is_err() {
                lost.push(zone);
            }
        }
    }
    Ok(lost)
}

/// Takes the marks away that the image is dirty or corrupt, in a step of its own. `features` is what
/// [`Header::parse_marked`] says. Only when nothing else is wrong.
///
/// # Errors
/// Those of [`Patch`].
pub fn mend_header<R: FnMut(u64, &mut [u8]) -> Result<()>>(
    features: u64,
    patch: &mut Patch<R>,
) -> Result<MendedList> {
    let mut mended = MendedList::default();
    patch.step();
    patch.write(INCOMPATIBLE_OFFSET as u64, &features.to_be_bytes())?;
    mended.add(Mend::Mark, INCOMPATIBLE_OFFSET as u64, 8);
    Ok(mended)
}

/// An error of a copy, which counts from its start, with its place in the file.
fn at_place(error: Error, place: u64) -> Error {
    let (offset, length) = (error.context().offset, error.context().length);
    error.at(place + offset.unwrap_or(0), length.unwrap_or(PAGE as u64))
}
