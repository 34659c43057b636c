//! A drive in a qcow2 image: its data, and the metadata beside it.
//!
//! The hot path is an addition where the data is in one piece, as in images of ours, and else a look
//! into the zone's table ([`mapping`]). What changes in the metadata is the zone table, the
//! generation pages and the session record, all written by one writer at a time (the leader of a
//! persist round), durably; and in images that were adopted, refcounts and L2 tables when a zone
//! takes its first data ([`clusters`]).
//!
//! See `docs/image-format.md` for the bytes.

mod adopt;
mod check;
mod clusters;
mod create;
mod mapping;
mod open;
mod outage;
mod place;
mod repair;

pub(crate) use adopt::adopt_disk;
pub use adopt::{AdoptOptions, Adopted, adopt};
pub(crate) use clusters::{Clusters, Grant, Span};
pub(crate) use mapping::{Mapping, Piece};

pub(crate) use check::check_disk;
pub use check::{CheckOptions, CheckReport, Finding, Severity, check};
pub(crate) use create::write_layout;
pub use create::{CreateOptions, Preallocate, create};
pub(crate) use open::{
    LOCK_PATIENCE, not_a_file, open_as, open_at, open_disk, random_id, refuse_replaced, take_lock,
};
pub(crate) use place::Place;
pub use repair::{RepairOptions, RepairReport, repair};
pub(crate) use repair::{refuse_unclean, repair_disk};

use crate::buffer::Buffer;
use crate::engine::Disk;
use crate::live;
use crate::sync::{Mutex, lock};
use crate::zones::{Pages, Zones};
use std::io;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::qcow2::Header;
use zonal_core::format::zonal::{Condition, Extension, Session, encode_page, generation_pages};
use zonal_core::format::{TABLE_ENTRIES_PER_PAGE, zoned};
use zonal_core::units::{Blocks, ZoneIndex};
use zonal_core::zone::ZoneState;

/// Table, generation pages and session records are written in pages of this size, in bytes.
const PAGE: usize = 4096;

/// An image that is open.
pub(crate) struct Image {
    disk: Disk,
    header: Header,
    /// Ours; `None` in a foreign image, which is opened to be read.
    extension: Option<Extension>,
    mapping: Mapping,
    /// What gives zones the clusters they are missing; in scattered images that take writes.
    clusters: Option<Clusters>,
    state: Mutex<State>,
    /// Where a session that writes is; none when the image is only read.
    place: Option<Place>,
}

/// What the next metadata write goes on from.
struct State {
    session: Session,
    /// The sequence of each generation page's newest copy.
    generations: Vec<u64>,
}

/// A batch of writes that may reach the disk in any order.
type Batch = Vec<(u64, Buffer)>;

impl Image {
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where in the file bytes of the drive are.
    #[inline]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(crate) fn clusters(&self) -> Option<&Clusters> {
        self.clusters.as_ref()
    }

    /// Clusters for all that a zone is missing.
    pub(crate) fn grants(&self, zone: ZoneIndex) -> Result<Vec<Grant>> {
        match (&self.mapping, &self.clusters) {
            (Mapping::Scattered(scattered), Some(clusters)) => {
                let grants = clusters.grants(scattered, &self.header.geometry, zone)?;
                Ok(grants.collect())
            }
            (Mapping::Contiguous(_), _) | (_, None) => Ok(Vec::new()),
        }
    }

    /// A zone's clusters are there, durably.
    pub(crate) fn complete(&self, zone: ZoneIndex, grants: &[Grant]) {
        if let Mapping::Scattered(scattered) = &self.mapping {
            let runs: Vec<_> = grants.iter().flat_map(|grant| grant.runs.iter().copied()).collect();
            scattered.complete(&self.header.geometry, zone, &runs);
        }
    }

    /// How the data lies in the file, and the bytes of a cluster.
    pub(crate) fn layout(&self) -> (&'static str, u64) {
        (self.mapping.name(), self.header.tables.cluster_size())
    }

    pub(crate) fn id(&self) -> Option<[u8; 16]> {
        self.extension.map(|extension| extension.image_id)
    }

    /// Before writes are submitted: tells the live file that the image changes now.
    #[inline]
    pub(crate) fn stamp(&self, zones: &Zones) {
        if let Some(place) = &self.place {
            place.stamp(zones.cells());
        }
    }

    /// The durable writes that bring `pages` to the disk, in batches: one batch is durable
    /// before the next begins. Masks and conditions go before the table that relies on them, and
    /// generations after the table.
    pub(crate) fn page_writes(&self, zones: &Zones, pages: &Pages) -> Result<Vec<Batch>> {
        let Some(extension) = &self.extension else { return Ok(Vec::new()) };
        let mut state = lock(&self.state);
        if pages.blemished {
            let blemishes = zones.blemishes();
            let conditions = blemishes.conditions.into_iter();
            state.session.conditions =
                conditions.map(|(zone, state)| (zone, condition_of(state))).collect();
            state.session.dead = blemishes.masks;
        }
        state.session.flush_sequence += 1;
        if self.place.as_ref().is_some_and(Place::has_live) {
            live::set_flush_sequence(zones.cells(), state.session.flush_sequence);
        }
        let session = vec![state.next_session(extension)?];
        let mut table = Vec::with_capacity(pages.table.len());
        for (first, pointers) in &pages.table {
            table.push(self.table_page(*first, pointers));
        }
        // After the table: a generation that comes first would take what a live file says of a reset
        // zone for something of the life that the table still shows.
        let mut after = Vec::with_capacity(pages.generations.len());
        for (page, generations) in &pages.generations {
            let generations: Vec<u32> = generations.iter().map(|g| g.0).collect();
            let zones = self.header.geometry.zones();
            after.push(state.generation_page(extension, zones, *page, &generations));
        }
        if pages.blemished {
            return Ok(vec![session, table, after]);
        }
        if after.is_empty() {
            table.extend(session);
            return Ok(vec![table]);
        }
        after.extend(session);
        Ok(vec![table, after])
    }

    fn table_page(&self, first: ZoneIndex, pointers: &[Blocks]) -> (u64, Buffer) {
        debug_assert!(first.index().is_multiple_of(TABLE_ENTRIES_PER_PAGE));
        let mut page = [0; PAGE];
        for ((zone, wp), entry) in (first.0..).zip(pointers).zip(page.chunks_exact_mut(8)) {
            let value = zoned::encode(&self.header.geometry, ZoneIndex(zone), *wp);
            entry.copy_from_slice(&value.to_be_bytes());
        }
        (self.header.zone_entry_offset(first), Buffer::from_slice(&page))
    }

    /// Marks the image as closed cleanly, everything having been flushed.
    pub(crate) fn close(&self, zones: &Zones) -> Result<()> {
        let Some(extension) = &self.extension else { return Ok(()) };
        if zones.is_latched() {
            return Err(zones.latched_error().during("close"));
        }
        lock(&self.state).session.clean = true;
        self.write_session(extension)?;
        if let Some(place) = &self.place
            && let Err(error) = place.end()
        {
            tracing::warn!("{}: not removed: {error}", place.live_name());
        }
        Ok(())
    }

    /// Writes the session record, durably, while no queue does.
    fn write_session(&self, extension: &Extension) -> Result<()> {
        let (offset, page) = lock(&self.state).next_session(extension)?;
        let written = self.disk.write_all_at(&page, offset).and_then(|()| self.disk.sync_data());
        written.map_err(|error| metadata_error("the session record", error))
    }
}

impl Drop for Image {
    /// All queues are gone, and with them all I/O.
    fn drop(&mut self) {
        if let Some(place) = &self.place
            && let Err(error) = place.unlock(&self.disk)
        {
            tracing::warn!("the lock on the image is not given back: {error}");
        }
    }
}

impl State {
    fn next_session(&mut self, extension: &Extension) -> Result<(u64, Buffer)> {
        self.session.sequence += 1;
        let page = self.session.encode(&extension.image_id)?;
        Ok((extension.session_offset(self.session.sequence), Buffer::from_slice(&page)))
    }

    fn generation_page(
        &mut self,
        extension: &Extension,
        zones: u32,
        page: u32,
        generations: &[u32],
    ) -> (u64, Buffer) {
        let sequence = &mut self.generations[page as usize];
        *sequence += 1;
        debug_assert!(page < generation_pages(zones));
        let offset = extension.generation_page_offset(zones, page, *sequence);
        (offset, Buffer::from_slice(&encode_page(page, *sequence, generations)))
    }
}

fn condition_of(state: ZoneState) -> Condition {
    if state == ZoneState::Offline { Condition::Offline } else { Condition::ReadOnly }
}

fn metadata_error(what: &str, error: io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::UnexpectedEof {
        ErrorKind::Damaged
    } else {
        crate::queue::io_kind(&error)
    };
    let text = format!("{what} of the image: {}", crate::queue::io_text(&error));
    Error::new(kind, text).with_source(error)
}
