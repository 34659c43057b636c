//! Opening an image: lock, read, believe, mend, begin a session.
//!
//! Of the zones only the table is believed, and a valid live file of a session that ended without
//! a close. What a killed process had acknowledged is then made durable, its ranges in flight
//! below the write pointers zeroed, before the new session begins. An image opened to be read is
//! left alone: what would be mended is masked in memory.

use super::create::write_zeros;
use super::outage::ImageOutage;
use super::{Clusters, Image, Mapping, PAGE, Place, State, metadata_error};
use crate::buffer::Buffer;
use crate::device::{Device, Drive, Medium, OpenNotes};
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::faults::{Faults, Outage};
use crate::live::{self, Doubt};
use crate::open::{OpenOptions, under};
use crate::queue::{io_text, is_unsupported};
use crate::sync::Mutex;
use crate::sys::clock::BootId;
use crate::sys::file::Access;
use crate::sys::words::SharedWords;
use crate::zones::cells::words_needed;
use crate::zones::{Cells, Found, InFlight, Keeping, Zones};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::check::Space;
use zonal_core::format::map::Map;
use zonal_core::format::qcow2::{Header, MAX_CLUSTER, Tables};
use zonal_core::format::zonal::{
    Condition, Extension, GENERATIONS_PER_PAGE, Session, encode_page, generation_pages, newest_page,
};
use zonal_core::units::{Blocks, Extent, Generation, ZoneIndex};
use zonal_core::zone::ZoneState;

/// How long `open` waits for the lock of a process that is gone: its last writes have to land.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Data is written again in pieces of this size, in bytes.
const AGAIN_BYTES: usize = 1 << 20;

/// Where the header has its autoclear features.
const AUTOCLEAR_OFFSET: u64 = 88;

/// Opens the image at `path`.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Device> {
    open_as(path, &path.display().to_string(), options, None)
}

/// The same, called `name`, and under a plan.
pub(crate) fn open_as(
    path: &Path,
    name: &str,
    options: &OpenOptions,
    faults: Option<&Arc<Faults>>,
) -> Result<Device> {
    open_file(path, name, options, faults).map_err(|error| error.on(name).during("open"))
}

fn open_file(
    path: &Path,
    name: &str,
    options: &OpenOptions,
    faults: Option<&Arc<Faults>>,
) -> Result<Device> {
    let access = if options.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let file = FileDisk::open(path, access).map_err(|error| open_error(error, path))?;
    let identity = file.identity().map_err(|error| metadata_error("the file", error))?;
    if !identity.is_regular() {
        return Err(not_a_file(&identity));
    }
    // By whatever name the image is opened, its live file is one.
    let path = std::fs::canonicalize(path).map_err(|error| metadata_error("the path", error))?;
    let live_path = live::path_of(&path);
    let locked = !options.read_only;
    if locked {
        take_lock(&file, &path, || live::owner(&live_path))?;
    }
    let disk = under(Disk::File(options.driven(file.clone())?), faults);
    open_at(disk, Place::File { file, live: live_path }, name, options)
}

/// Opens the image on `disk` at a place that its caller has locked, if it is to be written.
pub(crate) fn open_at(
    disk: Disk,
    place: Place,
    name: &str,
    options: &OpenOptions,
) -> Result<Device> {
    let mut parts = read_image(disk, options.read_only)?;
    let earlier =
        if parts.session.clean { None } else { place.earlier(parts.zones(), &parts.session)? };
    if options.read_only {
        return begun(parts.into_reader(name, earlier)?, None);
    }
    let notes = parts.mend(earlier, &place, options)?;
    parts.begin_session(&place)?;
    // That of the session before is of no use any more, and its space may be all there is. If it
    // cannot be removed, the new one cannot be made.
    let _ = place.end();
    parts.reserve()?;
    let cells = place.begin(parts.zones(), &parts.session)?.map_err(|error| {
        let text =
            format!("its live file {} cannot be made: {}", place.live_name(), io_text(&error));
        Error::new(crate::queue::io_kind(&error), text).with_source(error)
    })?;
    parts.declare_open()?;
    let keeping = if options.discard { Keeping::Discarding } else { Keeping::Zones };
    let outage = parts.outage(&place);
    begun(parts.into_device(name, cells, keeping, notes, Some(place)), outage)
}

/// The opened drive, whose fault plan begins here, if it has one.
fn begun(device: Device, outage: Option<Box<dyn Outage>>) -> Result<Device> {
    device.drive().begin_plan(outage)?;
    Ok(device)
}

/// Opens an image on a disk of the simulator that is nowhere: with neither lock nor live file.
pub(crate) fn open_disk(disk: Disk, name: &str, options: &OpenOptions) -> Result<Device> {
    open_at(disk, Place::Nowhere, name, &OpenOptions { drop_unflushed: true, ..*options })
}

/// Everything of an image that is read at open.
struct Parts {
    disk: Disk,
    header: Header,
    extension: Option<Extension>,
    mapping: Mapping,
    clusters: Option<Clusters>,
    session: Session,
    generation_sequences: Vec<u64>,
    found: Vec<Found>,
    masks: BTreeMap<ZoneIndex, Vec<Extent>>,
}

fn read_image(disk: Disk, read_only: bool) -> Result<Parts> {
    let header = read_header(&disk)?;
    let (mapping, clusters) = read_mapping(&disk, &header, read_only)?;
    let extension = header.zonal;
    let zones = header.geometry.zones();
    let session = match &extension {
        Some(extension) => read_session(&disk, &header, extension)?,
        None => Session::closed(0),
    };
    let mut found = read_table(&disk, &header)?;
    let mut generation_sequences = Vec::new();
    if let Some(extension) = &extension {
        for page in 0..generation_pages(zones) {
            let sequence = read_generations(&disk, extension, zones, page, &mut found)?;
            generation_sequences.push(sequence);
        }
    }
    for &(zone, condition) in &session.conditions {
        found[zone.index()].condition = Some(match condition {
            Condition::ReadOnly => ZoneState::ReadOnly,
            Condition::Offline => ZoneState::Offline,
        });
    }
    let mut masks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for &(zone, extent) in &session.dead {
        masks.entry(zone).or_default().push(extent);
    }
    Ok(Parts {
        disk,
        header,
        extension,
        mapping,
        clusters,
        session,
        generation_sequences,
        found,
        masks,
    })
}

pub(super) fn read_header(disk: &Disk) -> Result<Header> {
    parse_header(disk, Header::parse)
}

/// The header, also where it is marked dirty or corrupt; and its features without these marks, if it
/// has one.
pub(super) fn read_marked_header(disk: &Disk) -> Result<(Header, Option<u64>)> {
    parse_header(disk, Header::parse_marked)
}

fn parse_header<T>(disk: &Disk, parse: impl FnOnce(&[u8], u64) -> Result<T>) -> Result<T> {
    let length = disk.len().map_err(|error| metadata_error("the length", error))?;
    let first = |most: usize| {
        let mut bytes = vec![0; usize::try_from(length).map_or(most, |length| length.min(most))];
        let read = disk.read_exact_at(&mut bytes, 0);
        read.map_err(|error| metadata_error("the header", error)).map(|()| bytes)
    };
    // A header of ours ends inside a page; others may fill a cluster.
    let mut bytes = first(PAGE)?;
    if !Header::ends_in(&bytes) {
        bytes = first(MAX_CLUSTER)?;
    }
    parse(&bytes, length).map_err(|error| {
        if error.kind() != ErrorKind::NotZoned {
            return error;
        }
        let next = if bytes.starts_with(b"QFI\xfb") {
            "give it zones with zonal adopt, or make a drive with zonal create"
        } else {
            "make a drive with zonal create"
        };
        let text = format!("it seems to be {}; {next}", seems(&bytes));
        Error::new(ErrorKind::NotZoned, text)
    })
}

/// What a file that is no zoned image seems to be, by its first bytes.
fn seems(bytes: &[u8]) -> &'static str {
    const MAGIC: [(usize, &[u8], &str); 12] = [
        (0, b"QFI\xfb", "a qcow2 image without zones"),
        (0, b"\x7fELF", "a program or library"),
        (0, b"\x1f\x8b", "gzip data"),
        (0, b"\x28\xb5\x2f\xfd", "zstd data"),
        (0, b"\xfd7zXZ", "xz data"),
        (0, b"PK\x03\x04", "a zip archive"),
        (257, b"ustar", "a tar archive"),
        (0, b"KDMV", "a VMDK image"),
        (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
        (0, b"XFSB", "an XFS file system"),
        (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
        (0, b"SFOZ", "a zonefs file system"),
    ];
    let found = |&(at, magic, _): &(usize, &[u8], _)| {
        bytes.get(at..).is_some_and(|bytes| bytes.starts_with(magic))
    };
    let start = &bytes[..bytes.len().min(512)];
    match MAGIC.iter().find(|magic| found(magic)) {
        Some((_, _, name)) => name,
        None if bytes.is_empty() => "an empty file",
        None if bytes.iter().all(|&byte| byte == 0) => "a raw image of nothing but zeros",
        None if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => {
            "a text file"
        }
        None => "raw data of no kind that is known here",
    }
}

/// Where the data is; and for a drive that is to be written, where its zones get clusters from.
fn read_mapping(
    disk: &Disk,
    header: &Header,
    read_only: bool,
) -> Result<(Mapping, Option<Clusters>)> {
    let tables = &header.tables;
    let (l1, map) = read_map(disk, tables)?;
    if header.zonal.is_some() {
        map.refuse_cut(tables)?;
    }
    let contiguous = map.contiguous(tables).is_some();
    if !contiguous && header.geometry.zone_size < tables.cluster_size() {
        let text = "its clusters are scattered, and larger than its zones; copy it with qemu-img";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let mapping = Mapping::new(&header.geometry, tables, &map);
    if contiguous || read_only || header.zonal.is_none() {
        return Ok((mapping, None));
    }
    if let Some(magic) = header.stranger {
        let text = format!(
            "a header extension {magic:#010x}, whose clusters are not known and may be taken for \
             free; open it read-only"
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    refuse_missing_conventional(header, &mapping)?;
    let space = Space::read(tables, &l1, &map, table_reader(disk))?;
    let clusters = Clusters::new(tables, &map, space)?;
    Ok((mapping, Some(clusters)))
}

/// The L1 table, and what it and the L2 tables map.
pub(super) fn read_map(disk: &Disk, tables: &Tables) -> Result<(Vec<u8>, Map)> {
    read_map_by(tables, &mut table_reader(disk))
}

/// [`read_map`], read by `read`.
pub(super) fn read_map_by(
    tables: &Tables,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<(Vec<u8>, Map)> {
    #[allow(clippy::cast_possible_truncation)] // at most 32 MiB, as the header was checked
    let mut l1 = vec![0; tables.l1_entries as usize * 8];
    read(tables.l1_offset, &mut l1)?;
    let map = Map::read(tables, &l1, read)?;
    Ok((l1, map))
}

pub(super) fn table_reader(disk: &Disk) -> impl FnMut(u64, &mut [u8]) -> Result<()> + '_ {
    |offset, bytes| {
        disk.read_exact_at(bytes, offset).map_err(|error| metadata_error("a table", error))
    }
}

/// Conventional zones are written anywhere at any time: there is no first write to wait for.
fn refuse_missing_conventional(header: &Header, mapping: &Mapping) -> Result<()> {
    let zones = (0..header.geometry.conventional_zones).map(ZoneIndex);
    let Mapping::Scattered(scattered) = mapping else { return Ok(()) };
    match zones.into_iter().find(|&zone| scattered.is_missing(&header.geometry, zone)) {
        None => Ok(()),
        Some(zone) => {
            let text = "a conventional zone without clusters; open it read-only";
            Err(Error::new(ErrorKind::Unsupported, text).in_zone(zone.0))
        }
    }
}

fn read_session(disk: &Disk, header: &Header, extension: &Extension) -> Result<Session> {
    let mut copies = vec![0; 2 * PAGE];
    disk.read_exact_at(&mut copies, extension.sessions_offset)
        .map_err(|error| metadata_error("the session record", error))?;
    let (a, b) = copies.split_at(PAGE);
    Session::newest(a, b, &extension.image_id, &header.geometry)
}

pub(super) fn read_table(disk: &Disk, header: &Header) -> Result<Vec<Found>> {
    let zones = header.geometry.zones();
    let mut found = Vec::with_capacity(zones as usize);
    let per_read = zones.min((1 << 20) / 8);
    let mut bytes = vec![0; per_read as usize * 8];
    for first in (0..zones).step_by(per_read as usize) {
        let count = per_read.min(zones - first);
        let bytes = &mut bytes[..count as usize * 8];
        disk.read_exact_at(bytes, header.zone_entry_offset(ZoneIndex(first)))
            .map_err(|error| metadata_error("the zone table", error))?;
        let (entries, _) = bytes.as_chunks::<8>();
        for (zone, entry) in (first..).map(ZoneIndex).zip(entries) {
            let wp = header.decode_entry(zone, u64::from_be_bytes(*entry))?;
            found.push(Found { wp, generation: Generation(0), condition: None });
        }
    }
    Ok(found)
}

fn read_generations(
    disk: &Disk,
    extension: &Extension,
    zones: u32,
    page: u32,
    found: &mut [Found],
) -> Result<u64> {
    let mut copies = [[0; PAGE]; 2];
    for (sequence, copy) in (0..).zip(&mut copies) {
        disk.read_exact_at(copy, extension.generation_page_offset(zones, page, sequence))
            .map_err(|error| metadata_error("the generations", error))?;
    }
    let (sequence, generations) = newest_page(page, &copies[0], &copies[1])?;
    let first = (page * GENERATIONS_PER_PAGE) as usize;
    for (found, generation) in found[first..].iter_mut().zip(generations) {
        found.generation = Generation(generation);
    }
    Ok(sequence)
}

impl Parts {
    fn zones(&self) -> u32 {
        self.header.geometry.zones()
    }

    /// Makes durable what an earlier session left in its live file, or accepts its loss.
    fn mend(
        &mut self,
        earlier: Option<Result<Cells, Doubt>>,
        place: &Place,
        options: &OpenOptions,
    ) -> Result<OpenNotes> {
        let boot = place.boot()?;
        let mut notes = self.notes();
        match earlier {
            None if self.session.clean => {}
            Some(Ok(cells)) => {
                let mut before: Vec<_> = self.found.iter().map(|found| found.wp).collect();
                let recovered = self.recover(&cells);
                for zone in &recovered.later {
                    before[zone.index()] = Blocks::ZERO;
                }
                if !recovered.is_empty() {
                    notes.recovered = Some(recovered.to_string());
                }
                // Should this process be killed as well, the next one has to believe the live file
                // still: what is written from here on counts as its session's own.
                let stamp = || place.stamp(&cells);
                let mend = || {
                    if live::is_distrusted(&cells) {
                        self.write_again(&before, stamp)?;
                        self.zero_ranges(&recovered.zero, stamp)?;
                        let zones: Vec<_> = self.sequential().collect();
                        return self.write_table(&zones, stamp);
                    }
                    self.zero_ranges(&recovered.zero, stamp)?;
                    self.write_table(&recovered.moved, stamp)
                };
                mend()
                    .and_then(|()| self.write_generations(&recovered.later, stamp))
                    .inspect_err(|_| live::distrust(&cells))?;
                stamp();
            }
            Some(Err(doubt)) => self.give_up(doubt, boot, options, &mut notes)?,
            None => self.give_up("it was cut off", boot, options, &mut notes)?,
        }
        self.write_session_again()?;
        Ok(notes)
    }

    /// The last session was cut off, and there is no telling what it had acknowledged.
    fn give_up(
        &self,
        doubt: Doubt,
        boot: BootId,
        options: &OpenOptions,
        notes: &mut OpenNotes,
    ) -> Result<()> {
        let power_cut = self.session.boot_id != boot.0;
        if !power_cut && !options.drop_unflushed {
            let text = format!(
                "its last session was cut off and {doubt}, so what was not flushed cannot be \
                 found; if the image was moved or linked, put its .live file beside it under the \
                 same name, else open it with --drop-unflushed to go on from the last flush, or \
                 read-only"
            );
            return Err(Error::new(ErrorKind::Unclean, text));
        }
        let cause = if power_cut { "the machine went down" } else { doubt };
        let text = format!("{cause}: every zone goes on from its last flush");
        notes.recovered = Some(text);
        Ok(())
    }

    fn notes(&self) -> OpenNotes {
        let session = if self.session.clean { "closed cleanly" } else { "cut off" };
        let warnings = self.header.clamps.iter().map(ToString::to_string).collect();
        OpenNotes { session: Some(session.to_owned()), recovered: None, warnings }
    }

    /// Takes over from the live file's cells what goes beyond the table.
    fn recover(&mut self, cells: &Cells) -> Recovered {
        let mut recovered = Recovered::default();
        let geometry = self.header.geometry.clone();
        for zone in (0..geometry.zones()).map(ZoneIndex) {
            let found = &mut self.found[zone.index()];
            let mark = cells.mark(zone);
            // Of the table's generation and not below it, or of a later one, whose reset the
            // table need not have heard of yet.
            let later = mark.generation > found.generation;
            let further = mark.generation == found.generation && mark.end >= found.wp;
            let inside = mark.end <= geometry.capacity_blocks(zone);
            if geometry.is_conventional(zone) || !inside || !(later || further) {
                continue;
            }
            if found.wp != mark.end || later {
                recovered.moved.push(zone);
            }
            if later {
                recovered.later.push(zone);
            }
            (found.wp, found.generation) = (mark.end, mark.generation);
        }
        let published = cells.all_published();
        let mut in_their_places = BTreeMap::new();
        for InFlight { zone, .. } in published.iter().filter(|r| !r.proposed && !r.ended) {
            *in_their_places.entry(*zone).or_insert(0_u32) += 1;
        }
        for range in &published {
            let Some(found) = self.found.get(range.zone.index()) else { continue };
            let extent = range.extent.below(found.wp);
            if range.generation != found.generation || extent.is_empty() {
                continue;
            }
            // A write that only asked for its place has it if the zone's word counts more than
            // those that are known to have theirs.
            let known = in_their_places.get(&range.zone).copied().unwrap_or(0);
            if !range.proposed || cells.load(range.zone).in_flight() > known {
                recovered.zero.push((range.zone, extent));
            }
        }
        recovered
    }

    fn sequential(&self) -> impl Iterator<Item = ZoneIndex> + use<> {
        let geometry = &self.header.geometry;
        (geometry.conventional_zones..geometry.zones()).map(ZoneIndex)
    }

    /// Writes again, with what can be read there, what a sync that failed may have been about: the page
    /// cache calls it clean, so that no later sync would bring it to the disk. That is what is above the
    /// write pointers of `before`, and conventional zones as a whole.
    fn write_again(&self, before: &[Blocks], stamp: impl Fn()) -> Result<()> {
        let geometry = &self.header.geometry;
        let failed = |error| metadata_error("data written again", error);
        for zone in (0..geometry.zones()).map(ZoneIndex) {
            let (from, to) = if geometry.is_conventional(zone) {
                (Blocks::ZERO, geometry.capacity_blocks(zone))
            } else {
                (before[zone.index()], self.found[zone.index()].wp)
            };
            let block = u64::from(geometry.block_size);
            let offset = geometry.start_of(zone) + u64::from(from.0) * block;
            let length = u64::from(to.0.saturating_sub(from.0)) * block;
            for piece in self.mapping.pieces(offset, length) {
                let Some(host) = piece.host else { continue };
                for at in (0..piece.length).step_by(AGAIN_BYTES) {
                    stamp();
                    #[allow(clippy::cast_possible_truncation)] // at most AGAIN_BYTES
                    let length = (piece.length - at).min(AGAIN_BYTES as u64) as usize;
                    let mut bytes = Buffer::unpooled(length);
                    self.disk.read_exact_at(&mut bytes, host + at).map_err(failed)?;
                    let is_hole = bytes.iter().all(|byte| *byte == 0);
                    let again = match is_hole.then(|| self.disk.zero(host + at, length as u64)) {
                        Some(Err(error)) if is_unsupported(&error) => None,
                        zeroed => zeroed,
                    };
                    // What is a hole stays one: it takes no space, and need not find any.
                    again
                        .unwrap_or_else(|| self.disk.write_all_at(&bytes, host + at))
                        .map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// Zeroes ranges, durably; calls `before` before each.
    fn zero_ranges(&self, ranges: &[(ZoneIndex, Extent)], before: impl Fn()) -> Result<()> {
        let geometry = &self.header.geometry;
        for (zone, extent) in ranges {
            before();
            let block = u64::from(geometry.block_size);
            let offset = geometry.start_of(*zone) + u64::from(extent.start.0) * block;
            let length = u64::from(extent.length().0) * block;
            for piece in self.mapping.pieces(offset, length) {
                // What is nowhere reads as zeros.
                let Some(host) = piece.host else { continue };
                let zeroed = match self.disk.zero(host, piece.length) {
                    Err(error) if is_unsupported(&error) => {
                        write_zeros(&self.disk, host, piece.length, &Buffer::unpooled(1 << 20))
                    }
                    result => result,
                };
                zeroed.map_err(|error| metadata_error("a torn record", error))?;
            }
        }
        self.disk.sync_data().map_err(|error| metadata_error("the data", error))
    }

    /// Writes the table's entries of `zones`, durably; calls `before` before each.
    fn write_table(&self, zones: &[ZoneIndex], before: impl Fn()) -> Result<()> {
        let failed = |error| metadata_error("the zone table", error);
        for &zone in zones {
            before();
            let wp = self.found[zone.index()].wp;
            let entry = zonal_core::format::zoned::encode(&self.header.geometry, zone, wp);
            let offset = self.header.zone_entry_offset(zone);
            self.disk.write_all_at(&entry.to_be_bytes(), offset).map_err(failed)?;
        }
        self.disk.sync_data().map_err(failed)
    }

    /// Writes the generations of `zones`, which are in order, durably; calls `before` before each page.
    fn write_generations(&mut self, zones: &[ZoneIndex], before: impl Fn()) -> Result<()> {
        let Some(extension) = self.extension else { return Ok(()) };
        let failed = |error| metadata_error("the generations", error);
        let mut pages: Vec<u32> = zones.iter().map(|zone| zone.0 / GENERATIONS_PER_PAGE).collect();
        pages.dedup();
        for page in pages {
            before();
            let first = (page * GENERATIONS_PER_PAGE) as usize;
            let found = self.found[first..].iter().take(GENERATIONS_PER_PAGE as usize);
            let generations: Vec<u32> = found.map(|found| found.generation.0).collect();
            let sequence = &mut self.generation_sequences[page as usize];
            *sequence += 1;
            let offset =
                extension.generation_page_offset(self.header.geometry.zones(), page, *sequence);
            let bytes = encode_page(page, *sequence, &generations);
            self.disk.write_all_at(&bytes, offset).map_err(failed)?;
        }
        self.disk.sync_data().map_err(failed)
    }

    /// Ends the earlier session, so that its live file may go.
    fn begin_session(&mut self, place: &Place) -> Result<()> {
        if self.extension.is_none() {
            let text = "the image has no zonal extension, so a session cannot be kept in it; \
                        open it read-only, or give it one with `zonal adopt`";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if !self.session.clean {
            self.session.clean = true;
            self.write_session()?;
        }
        if self.header.autoclear != 0 {
            self.clear_autoclear()?;
        }
        self.session.nonce = place.nonce()?;
        self.session.boot_id = place.boot()?.0;
        Ok(())
    }

    /// Autoclear features are of others, and what they describe is out of date with our first
    /// write (qcow2 specification, `autoclear_features`).
    fn clear_autoclear(&mut self) -> Result<()> {
        self.header.autoclear = 0;
        self.disk
            .write_all_at(&[0; 8], AUTOCLEAR_OFFSET)
            .and_then(|()| self.disk.sync_data())
            .map_err(|error| metadata_error("the header", error))
    }

    /// Sees to it that the metadata that a session writes has its space, so that a full disk fails
    /// data, and never a flush, after which the drive could not go on. What creation left out
    /// because it was zero has none yet. The session before has ended: that this changes the file's
    /// time makes nobody doubt its live file.
    fn reserve(&self) -> Result<()> {
        let Some(extension) = &self.extension else { return Ok(()) };
        let zones = self.zones();
        let pages = |count: u32| 2 * u64::from(count) * PAGE as u64;
        let table = self.header.zone_entry_offset(ZoneIndex(0));
        let table_end =
            self.header.zone_entry_offset(ZoneIndex(zones)).next_multiple_of(PAGE as u64);
        let generations = extension.generation_page_offset(zones, 0, 0);
        for (offset, length) in [
            (table, table_end - table),
            (extension.sessions_offset, pages(1)),
            (generations, pages(generation_pages(zones))),
        ] {
            match self.disk.allocate(offset, length) {
                Err(error) if is_unsupported(&error) => {}
                result => {
                    result.map_err(|error| metadata_error("the space for the tables", error))?
                }
            }
        }
        Ok(())
    }

    /// Says in the image that the new session is open: from here on its live file counts. In
    /// both copies, so that a copy that rots does not bring the clean record before it back.
    fn declare_open(&mut self) -> Result<()> {
        self.session.clean = false;
        self.write_session()?;
        self.write_session()
    }

    fn write_session(&mut self) -> Result<()> {
        self.session.sequence += 1;
        self.write_session_again()
    }

    /// Writes the session record that was read once more, durably. A process that was killed, or whose
    /// sync failed, may have left it in the page cache alone; and the one that counts has to be on the
    /// disk before the other copy is written.
    fn write_session_again(&self) -> Result<()> {
        let Some(extension) = &self.extension else { return Ok(()) };
        let page = self.session.encode(&extension.image_id)?;
        let offset = extension.session_offset(self.session.sequence);
        self.disk
            .write_all_at(&page, offset)
            .and_then(|()| self.disk.sync_data())
            .map_err(|error| metadata_error("the session record", error))
    }

    /// What a cut or a kill by its fault plan does beside the data.
    fn outage(&self, place: &Place) -> Option<Box<dyn Outage>> {
        self.disk.faults()?;
        let geometry = self.header.geometry.clone();
        let live = place.live_path()?.to_owned();
        Some(Box::new(ImageOutage { extension: self.extension?, geometry, live }))
    }

    /// A device that only reads: what a session that was cut off, or goes on, has acknowledged
    /// is taken from its live file, and what would be zeroed is masked.
    fn into_reader(mut self, name: &str, earlier: Option<Result<Cells, Doubt>>) -> Result<Device> {
        let mut notes = self.notes();
        match earlier {
            None => {}
            Some(Ok(cells)) => {
                let recovered = self.recover(&cells);
                for &(zone, extent) in &recovered.zero {
                    self.masks.entry(zone).or_default().push(extent);
                }
                notes.session = Some("open, or cut off".to_owned());
            }
            Some(Err(doubt)) => {
                let text = format!("{doubt}: shown is what was last flushed");
                notes.warnings.push(text);
            }
        }
        let zones = self.zones();
        let cells = Cells::new(SharedWords::heap(words_needed(zones)), 0, zones);
        Ok(self.into_device(name, cells, Keeping::Nothing, notes, None))
    }

    fn into_device(
        self,
        name: &str,
        cells: Cells,
        keeping: Keeping,
        notes: OpenNotes,
        place: Option<Place>,
    ) -> Device {
        let found = self.found;
        let geometry = self.header.geometry.clone();
        let zones = Zones::new(geometry, cells, keeping, |zone| found[zone.index()]);
        for (zone, extents) in self.masks {
            for extent in extents {
                zones.mask_at_open(zone, extent.below(found[zone.index()].wp));
            }
        }
        if self.clusters.is_some()
            && let Mapping::Scattered(scattered) = &self.mapping
        {
            let geometry = &self.header.geometry;
            let sequential = geometry.conventional_zones..geometry.zones();
            for zone in sequential.map(ZoneIndex) {
                if scattered.is_missing(geometry, zone) {
                    zones.withhold(zone);
                }
            }
        }
        let state = State { session: self.session, generations: self.generation_sequences };
        let image = Image {
            disk: self.disk,
            header: self.header,
            extension: self.extension,
            mapping: self.mapping,
            clusters: self.clusters,
            state: Mutex::new(state),
            place,
        };
        Device::new(Drive {
            name: name.to_owned(),
            zones: Arc::new(zones),
            read_only: keeping == Keeping::Nothing,
            medium: Medium::Image(image),
            notes,
        })
    }
}

/// What a live file had beyond the table.
#[derive(Default)]
struct Recovered {
    moved: Vec<ZoneIndex>,
    /// Of a later life than the table's.
    later: Vec<ZoneIndex>,
    zero: Vec<(ZoneIndex, Extent)>,
}

impl Recovered {
    fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.zero.is_empty()
    }
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (moved, zeroed) = (self.moved.len(), self.zero.len());
        write!(f, "after a kill: {moved} zones brought up to what was acknowledged, ")?;
        write!(f, "{zeroed} writes that were in flight zeroed")
    }
}

/// Takes the lock on the file that was opened at `path`. Waits for that of a process that is gone,
/// unless `owner` knows one that is there.
pub(crate) fn take_lock(
    file: &FileDisk,
    path: &Path,
    owner: impl Fn() -> Option<u32>,
) -> Result<()> {
    let failed = |error| metadata_error("the lock", error);
    let since = Instant::now();
    while !file.try_lock().map_err(failed)? {
        if let Some(process) = owner() {
            let text = format!("process {process} has it open; end that process, or read only");
            return Err(Error::new(ErrorKind::InUse, text));
        }
        if since.elapsed() > LOCK_PATIENCE {
            let text = "another process has it open; end that process, or read only";
            return Err(Error::new(ErrorKind::InUse, text));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    refuse_replaced(file, path)
}

/// Whoever had the lock before may have put another file in this one's place, which is then gone
/// with all that is written to it.
pub(crate) fn refuse_replaced(file: &FileDisk, path: &Path) -> Result<()> {
    if file.is_at(path).map_err(|error| metadata_error("the file", error))? {
        return Ok(());
    }
    let text = "another file has just taken its place; open it again";
    Err(Error::new(ErrorKind::InUse, text))
}

pub(super) fn open_error(error: io::Error, path: &Path) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::NotFound if path.starts_with("/dev") => {
            let text = "lsblk -z lists the zoned devices there are; one whose driver this kernel \
                        has not loaded is not among them (modprobe nvme, sd_mod, null_blk)";
            (ErrorKind::NotFound, text.to_owned())
        }
        io::ErrorKind::NotFound => {
            let text = format!("make a drive with: zonal create {} --size 8G", path.display());
            (ErrorKind::NotFound, text)
        }
        io::ErrorKind::IsADirectory => (
            ErrorKind::NotZoned,
            "it is a folder; name an image in it, or the place where a zonefs is mounted, or make an \
             image with: zonal create"
                .to_owned(),
        ),
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Io, "permission denied; see who may write the file".to_owned())
        }
        _ => (crate::queue::io_kind(&error), io_text(&error)),
    };
    let described = matches!(kind, ErrorKind::NotFound | ErrorKind::NotZoned);
    let opened = Error::new(kind, text);
    if described { opened } else { opened.with_source(error) }
}

pub(crate) fn not_a_file(identity: &crate::sys::file::FileIdentity) -> Error {
    let (what, kind) = match identity.mode & libc::S_IFMT {
        libc::S_IFDIR => {
            let what = "a folder; name an image in it, or the place where a zonefs is mounted, or make an image \
                        with: zonal create";
            (what, ErrorKind::NotZoned)
        }
        libc::S_IFBLK => (
            "a block device, and this is for files; a zoned one is opened by its path alone, and \
              needs no check",
            ErrorKind::Unsupported,
        ),
        libc::S_IFCHR => (
            "a character device, and this is for files; an NVMe namespace is opened by its path alone, and \
              needs no check",
            ErrorKind::Unsupported,
        ),
        _ => ("no regular file; name an image", ErrorKind::NotZoned),
    };
    Error::new(kind, format!("it is {what}"))
}

pub(crate) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| metadata_error("a random number", error.into()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{CreateOptions, Preallocate, create};
    use crate::queue::QueueOptions;
    use crate::queue::request::Request;
    use zonal_core::format::Geometry;

    /// Begins to open an image as [`open_file`] does, and ends where a kill might end it.
    fn mend_and_die(path: &Path) {
        let file = FileDisk::open(path, Access::ReadWrite).unwrap();
        let mut parts = read_image(Disk::File(file.clone()), false).unwrap();
        let place = Place::File { file, live: live::path_of(path) };
        let earlier = place.earlier(parts.zones(), &parts.session).unwrap().unwrap();
        assert!(earlier.is_ok(), "{:?}", earlier.err());
        parts.mend(Some(earlier), &place, &OpenOptions::default()).unwrap();
    }

    #[test]
    fn a_live_file_is_believed_after_a_second_kill_during_recovery() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        let geometry =
            Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(4 << 20) };
        let preallocate = Preallocate::Off;
        create(&path, CreateOptions { geometry, preallocate, force: false, progress: None })
            .unwrap();
        let open = |path: &Path| open(path, &OpenOptions::default());
        let drive = open(&path).unwrap();
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        queue.push(Request::append(1, Buffer::from_slice(&[7; 4096]))).unwrap();
        queue.submit_and_wait(1).unwrap();
        queue.next_completion().unwrap().result.unwrap();
        drop(queue);
        drop(drive); // Without a close: for the image as good as a kill.

        // Longer than the live file forgives between a submission and the image's last change.
        std::thread::sleep(Duration::from_millis(1200));
        mend_and_die(&path);
        let drive = open(&path).unwrap();
        assert_eq!(drive.report(1..2).unwrap()[0].write_pointer, Some((1 << 20) + 4096));
        drive.close().unwrap();
    }
}
