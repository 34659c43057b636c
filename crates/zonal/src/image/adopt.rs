//! Giving zones to a qcow2 image that has none, or none that are ours.
//!
//! Data stays where it is; all tables are made anew behind it, and the header, one sector, is written
//! last. Until then the image is what it was, and a failure takes away what was added.

use super::metadata_error;
use super::open::{open_error, random_id, read_map, table_reader, take_lock};
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::live;
use crate::sys::file::Access;
use std::fmt;
use std::path::Path;
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::format::adopt::Adoption;
use zonal_core::format::check::check_refcounts;
use zonal_core::format::geometry::{MAX_APPEND, MIN_BLOCK_SIZE};
use zonal_core::format::map::Map;
use zonal_core::format::qcow2::{Header, MAX_CLUSTER, Tables};
use zonal_core::units::{Blocks, ZoneIndex};

/// Data is read in pieces of this size, in bytes, to see where there is any.
const PIECE: u64 = 1 << 20;

/// The zones that an image is given.
#[derive(Default)]
pub struct AdoptOptions<'a> {
    /// From one zone's start to the next, in bytes; `None` for 256 MiB. At least a cluster.
    pub zone_size: Option<u64>,
    /// How much of a zone can be written, in bytes; `None` for all.
    pub zone_capacity: Option<u64>,
    /// How many zones at the start are conventional.
    pub conventional_zones: u32,
    /// How many zones may be open at once; 0 is no limit.
    pub max_open_zones: u32,
    /// How many zones may be open or closed with data at once; 0 is no limit.
    pub max_active_zones: u32,
    /// The logical block, in bytes; `None` for 4096, or 512 where that does not divide the drive or
    /// its clusters.
    pub block_size: Option<u32>,
    /// The largest append, in bytes; `None` for 1 MiB, or a zone's capacity.
    pub max_append: Option<u32>,
    /// Called with the bytes looked at and all bytes.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

impl fmt::Debug for AdoptOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptOptions").field("zone_size", &self.zone_size).finish_non_exhaustive()
    }
}

/// What an image became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The drive.
    pub geometry: Geometry,
    /// The bytes of a cluster.
    pub cluster_size: u64,
    /// How many zones hold data that was there, and are full.
    pub full_zones: u32,
}

/// Gives zones to the qcow2 image at `path`, in place, with all the data it holds: a sequential zone
/// in which there is a byte other than zero becomes full, all others are empty. What a zone is missing
/// of clusters it gets when it takes its first data.
///
/// It is for good: QEMU and other tools refuse an image with zones, so keep a copy if they need one.
///
/// An image that has zones of QEMU's keeps them, and becomes one that can be written.
///
/// # Errors
/// What cannot be adopted, by name: a backing file, an external data file, encryption, compression,
/// internal snapshots, subclusters, bitmaps, another version; an image that is damaged, in use, or
/// adopted already; zones that do not fit it. The image is then as it was.
///
/// # Examples
/// ```no_run
/// use zonal::AdoptOptions;
///
/// let options = AdoptOptions { zone_size: Some(64 << 20), ..AdoptOptions::default() };
/// let adopted = zonal::adopt("disk.qcow2".as_ref(), options)?;
/// println!("{} zones, {} of them full", adopted.geometry.zones(), adopted.full_zones);
/// # Ok::<(), zonal::Error>(())
/// ```
pub fn adopt(path: &Path, options: AdoptOptions<'_>) -> Result<Adopted> {
    adopt_file(path, options).map_err(|error| error.on(path.display().to_string()).during("adopt"))
}

fn adopt_file(path: &Path, options: AdoptOptions<'_>) -> Result<Adopted> {
    let file = FileDisk::open(path, Access::ReadWrite).map_err(|error| open_error(error, path))?;
    if !file.identity().is_ok_and(|identity| identity.is_regular()) {
        return Err(Error::new(ErrorKind::NotZoned, "it is no regular file"));
    }
    let real = std::fs::canonicalize(path).map_err(|error| metadata_error("the path", error))?;
    let live_path = live::path_of(&real);
    take_lock(&file, &real, || live::owner(&live_path))?;
    let adopted = random_id().and_then(|id| adopt_disk(&Disk::File(file.clone()), id, options));
    file.unlock().map_err(|error| metadata_error("the lock", error))?;
    adopted
}

/// Adopts the image on `disk`.
pub(crate) fn adopt_disk(
    disk: &Disk,
    id: [u8; 16],
    mut options: AdoptOptions<'_>,
) -> Result<Adopted> {
    let source = Source::read(disk)?;
    let (l1, map) = read_map(disk, &source.tables)?;
    refuse_unsound(disk, &source.tables, &l1, &map)?;
    let geometry = match &source.zoned {
        Some(header) => kept_geometry(header, &options)?,
        None => geometry(&source.tables, &options)?,
    };
    let adoption = Adoption::plan(&geometry, &source.tables, &map)?;
    let pointers = match &source.zoned {
        Some(header) => read_pointers(disk, header)?,
        None => find_data(disk, &geometry, &source.tables, &map, &mut options)?,
    };
    write(disk, &adoption, id, &pointers, source.tables.file_len)?;
    let full = (0..).map(ZoneIndex).zip(&pointers);
    let full =
        full.filter(|&(zone, wp)| *wp > Blocks::ZERO && *wp >= geometry.capacity_blocks(zone));
    let full_zones = u32::try_from(full.count()).unwrap_or(u32::MAX);
    let cluster_size = source.tables.cluster_size();
    Ok(Adopted { geometry, cluster_size, full_zones })
}

/// An image before it is adopted.
struct Source {
    tables: Tables,
    /// If it has zones of QEMU's, and not ours.
    zoned: Option<Header>,
}

impl Source {
    fn read(disk: &Disk) -> Result<Self> {
        let failed = |error| metadata_error("the header", error);
        let length = disk.len().map_err(failed)?;
        let first = usize::try_from(length).map_or(MAX_CLUSTER, |length| length.min(MAX_CLUSTER));
        let mut bytes = vec![0; first];
        disk.read_exact_at(&mut bytes, 0).map_err(failed)?;
        match Header::parse(&bytes, length) {
            Err(error) if error.kind() == ErrorKind::NotZoned => {
                let tables = Tables::parse_plain(&bytes, length).map_err(|error| {
                    if error.kind() == ErrorKind::NotZoned {
                        let text = "it is no qcow2 image; make one of it with `qemu-img convert`";
                        return Error::new(ErrorKind::Unsupported, text);
                    }
                    error
                })?;
                Ok(Self { tables, zoned: None })
            }
            Err(error) => Err(error),
            Ok(header) if header.zonal.is_some() => {
                let text = "it is a zoned drive of zonal's already; open it";
                Err(Error::new(ErrorKind::InvalidInput, text))
            }
            Ok(Header { stranger: Some(magic), .. }) => {
                let text =
                    format!("a header extension {magic:#010x}, which this program does not know");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            Ok(header) => Ok(Self { tables: header.tables.clone(), zoned: Some(header) }),
        }
    }
}

/// A leak is no harm: what was lost is free again in the new tables.
fn refuse_unsound(disk: &Disk, tables: &Tables, l1: &[u8], map: &Map) -> Result<()> {
    let findings = check_refcounts(tables, l1, map, table_reader(disk))?;
    match findings.iter().find(|finding| finding.kind.is_dangerous()) {
        None => Ok(()),
        Some(finding) => {
            let text = format!("{}; repair it with `qemu-img check -r all`", finding.kind);
            Err(Error::new(ErrorKind::Damaged, text).at(finding.offset, finding.length))
        }
    }
}

/// The drive that was asked for, of the image's size.
fn geometry(tables: &Tables, options: &AdoptOptions<'_>) -> Result<Geometry> {
    let mut geometry = Geometry::with_size(tables.size);
    if let Some(zone_size) = options.zone_size {
        geometry.zone_size = zone_size;
    }
    geometry.zone_capacity = options.zone_capacity.unwrap_or(geometry.zone_size);
    geometry.conventional_zones = options.conventional_zones;
    geometry.max_open_zones = options.max_open_zones;
    geometry.max_active_zones = options.max_active_zones;
    let block = u64::from(geometry.block_size);
    let fits = tables.cluster_size() >= block && tables.size.is_multiple_of(block);
    geometry.block_size =
        options.block_size.unwrap_or(if fits { geometry.block_size } else { MIN_BLOCK_SIZE });
    let capacity = u32::try_from(geometry.zone_capacity).unwrap_or(u32::MAX).min(MAX_APPEND);
    geometry.max_append = options.max_append.unwrap_or(geometry.max_append.min(capacity));
    geometry.validate_for_image()?;
    Ok(geometry)
}

/// The drive that an image of QEMU's is already.
fn kept_geometry(header: &Header, options: &AdoptOptions<'_>) -> Result<Geometry> {
    let asked = [options.zone_size, options.zone_capacity];
    let limits = [options.conventional_zones, options.max_open_zones, options.max_active_zones];
    let block = options.block_size.is_some_and(|block| block != MIN_BLOCK_SIZE);
    if asked.iter().any(Option::is_some) || limits != [0; 3] || block {
        let text = "it has zones already, in blocks of 512 bytes, and keeps them; leave their sizes \
                    and limits out";
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    let mut geometry = header.geometry.clone();
    geometry.max_append = options.max_append.unwrap_or(geometry.max_append);
    geometry.validate_for_image()?;
    Ok(geometry)
}

fn read_pointers(disk: &Disk, header: &Header) -> Result<Vec<Blocks>> {
    let found = super::open::read_table(disk, header)?;
    Ok(found.iter().map(|found| found.wp).collect())
}

/// Write pointers of an image without zones: full where there is data, else at the start.
fn find_data(
    disk: &Disk,
    geometry: &Geometry,
    tables: &Tables,
    map: &Map,
    options: &mut AdoptOptions<'_>,
) -> Result<Vec<Blocks>> {
    let mut pointers = Vec::new();
    for zone in (0..geometry.zones()).map(ZoneIndex) {
        let start = geometry.start_of(zone);
        let end = start + geometry.size_of(zone);
        if geometry.is_conventional(zone) {
            pointers.push(Blocks::ZERO);
            continue;
        }
        let capacity = start + geometry.capacity_of(zone);
        if let Some(at) = first_data(disk, tables, map, capacity, end)? {
            let text = format!(
                "data at {at}, above the zone's capacity, where nobody could read it; take a \
                 capacity of {}",
                geometry.zone_size
            );
            return Err(Error::new(ErrorKind::InvalidInput, text).in_zone(zone.0));
        }
        let full = first_data(disk, tables, map, start, capacity)?.is_some();
        pointers.push(if full { geometry.capacity_blocks(zone) } else { Blocks::ZERO });
        if let Some(progress) = &mut options.progress {
            progress(end, geometry.size);
        }
    }
    Ok(pointers)
}

/// Where the first piece is that holds a byte other than zero, in [`from`, `to`) of the drive.
fn first_data(disk: &Disk, tables: &Tables, map: &Map, from: u64, to: u64) -> Result<Option<u64>> {
    let cluster = tables.cluster_size();
    let mut bytes = Vec::new();
    for run in map.within(tables, from / cluster, to.div_ceil(cluster)) {
        let (first, end) = ((run.guest * cluster).max(from), (run.guest + run.clusters) * cluster);
        let mut at = first;
        while at < end.min(to) {
            let host = run.host + (at - run.guest * cluster);
            // The file may end inside its last cluster.
            let length = PIECE.min(end.min(to) - at).min(tables.file_len.saturating_sub(host));
            if length == 0 {
                break;
            }
            bytes.resize(usize::try_from(length).unwrap_or(0), 0);
            disk.read_exact_at(&mut bytes, host)
                .map_err(|error| metadata_error("the data", error))?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(Some(at));
            }
            at += length;
        }
    }
    Ok(None)
}

/// Writes the tables, and the header when they are durable. What was added is taken away again where
/// that fails before the header; after it the image may have zones.
fn write(
    disk: &Disk,
    adoption: &Adoption,
    id: [u8; 16],
    pointers: &[Blocks],
    old_length: u64,
) -> Result<()> {
    let failed = |error| metadata_error("the tables", error);
    let wp = |zone: ZoneIndex| pointers.get(zone.index()).copied().unwrap_or_default();
    let mut chunks = adoption.metadata(id, wp)?.peekable();
    let mut tables = || {
        disk.set_len(adoption.file_len())?;
        while let Some((offset, bytes)) = chunks.next_if(|(offset, _)| *offset > 0) {
            disk.write_all_at(&bytes, offset)?;
        }
        disk.sync_data()
    };
    if let Err(error) = tables() {
        if let Err(error) = disk.set_len(old_length) {
            tracing::warn!("what was added behind the image is left there: {error}");
        }
        return Err(failed(error));
    }
    for (offset, bytes) in chunks {
        disk.write_all_at(&bytes, offset).map_err(failed)?;
    }
    disk.sync_data().map_err(failed)
}
