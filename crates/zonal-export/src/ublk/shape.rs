//! A drive's shape in the words of ublk's parameters (`ublk_cmd.h`, `struct ublk_params`), and what of it
//! Linux cannot show. Arithmetic alone: nothing here asks the kernel.

use std::{os::unix::fs::MetadataExt, path::PathBuf};

use libublk::sys;
use zonal::{Device, Error, ErrorKind, Result, Target};

use super::report::SECTOR;

/// The longest read, write or append, in bytes: that of emulated drives' appends.
pub(super) const TRANSFER_MAX: u32 = 1 << 20;

/// The largest logical block that ublk takes: a page of the smallest kind.
const BLOCK_MAX: u32 = 4096;

/// What a device is told to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) params: sys::ublk_params,
    pub(super) bytes: u64,
    /// By which a drive is known again after its server died.
    pub(super) identity: u64,
}

/// The upper half of the identity of all that this crate serves: `zonl`.
const OURS: u64 = 0x7a6f_6e6c << 32;

impl Shape {
    /// # Errors
    /// What Linux cannot show, by its name.
    pub(super) fn of(device: &Device, read_only: bool) -> Result<Self> {
        let geometry = device.geometry();
        let refused = |text: String| {
            Err(Error::new(ErrorKind::Unsupported, text).during("serve").on(device.name()))
        };
        if !geometry.zone_size.is_power_of_two() {
            return refused(format!(
                "its zones have {} bytes, and Linux shows only zones of a power of two as a block device",
                geometry.zone_size
            ));
        }
        let last = geometry.size % geometry.zone_size;
        if last != 0 {
            return refused(format!(
                "its last zone has {last} bytes and the others {}, and ublk takes only zones of one size",
                geometry.zone_size
            ));
        }
        if geometry.block_size > BLOCK_MAX {
            return refused(format!(
                "its blocks have {} bytes, and ublk takes at most {BLOCK_MAX}",
                geometry.block_size
            ));
        }
        let Ok(zone_sectors) = u32::try_from(geometry.zone_size / SECTOR) else {
            return refused(format!(
                "its zones have {} bytes, which as sectors are more than 32 bits hold",
                geometry.zone_size
            ));
        };
        let zones = geometry.zones();
        let limits = device.limits();
        let append = limits.append_bytes_max.min(TRANSFER_MAX.into()).min(geometry.zone_size);
        let params = sys::ublk_params {
            types: sys::UBLK_PARAM_TYPE_BASIC | sys::UBLK_PARAM_TYPE_ZONED,
            basic: basic(geometry.block_size, geometry.size, zone_sectors, read_only),
            zoned: sys::ublk_param_zoned {
                max_open_zones: limit(limits.max_open_zones, zones),
                max_active_zones: limit(limits.max_active_zones, zones),
                max_zone_append_sectors: sectors(append),
                ..Default::default()
            },
            ..Default::default()
        };
        let params = if geometry.conventional_zones > 0 && !read_only {
            with_discard(params, geometry.block_size)
        } else {
            params
        };
        Ok(Self { params, bytes: geometry.size, identity: identity(device) })
    }

    /// Whether the kernel was told the same of a device.
    pub(super) fn is(&self, told: &sys::ublk_params) -> bool {
        let of = |params: &sys::ublk_params| {
            let (basic, zoned) = (params.basic, params.zoned);
            (
                [basic.dev_sectors, basic.chunk_sectors.into(), basic.logical_bs_shift.into()],
                [basic.attrs, basic.max_sectors],
                [zoned.max_open_zones, zoned.max_active_zones, zoned.max_zone_append_sectors],
            )
        };
        of(&self.params) == of(told)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.params.basic.attrs & sys::UBLK_ATTR_READ_ONLY != 0
    }
}

fn basic(block: u32, size: u64, zone_sectors: u32, read_only: bool) -> sys::ublk_param_basic {
    let shift = u8::try_from(block.trailing_zeros()).unwrap_or(u8::MAX);
    // What a drive acknowledges outlives its process, but a power cut only when it was flushed. Where nothing
    // is written there is nothing to flush.
    let attrs = if read_only {
        sys::UBLK_ATTR_READ_ONLY
    } else {
        sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA
    };
    sys::ublk_param_basic {
        attrs,
        logical_bs_shift: shift,
        physical_bs_shift: shift,
        io_opt_shift: shift,
        io_min_shift: shift,
        max_sectors: sectors(TRANSFER_MAX.into()),
        chunk_sectors: zone_sectors,
        dev_sectors: size / SECTOR,
        ..Default::default()
    }
}

/// Of conventional zones; others are refused when they are asked for.
fn with_discard(mut params: sys::ublk_params, block: u32) -> sys::ublk_params {
    params.types |= sys::UBLK_PARAM_TYPE_DISCARD;
    params.discard = sys::ublk_param_discard {
        discard_granularity: block,
        max_discard_sectors: sectors(TRANSFER_MAX.into()),
        max_write_zeroes_sectors: sectors(TRANSFER_MAX.into()),
        max_discard_segments: 1,
        ..Default::default()
    };
    params
}

/// A limit as ublk has it: 0 is none, and none is above the number of zones.
fn limit(limit: Option<u32>, zones: u32) -> u32 {
    limit.filter(|limit| *limit <= zones).unwrap_or(0)
}

fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX)
}

/// An image has a number of its own, which its copies have, too: with it goes that of its file. Others are where they
/// are. The kernel keeps it (`ublksrv_flags`) for as long as the device is there.
fn identity(device: &Device) -> u64 {
    let name = device.name();
    let path = Target::parse(name).ok().and_then(path_of).unwrap_or_else(|| name.into());
    let sum = match device.info().image_id {
        Some(id) => {
            let inode = std::fs::metadata(&path).map_or(0, |file| file.ino());
            crc32c::crc32c_append(crc32c::crc32c(&id), &inode.to_le_bytes())
        }
        None => {
            let path = std::fs::canonicalize(&path).unwrap_or(path);
            crc32c::crc32c(path.as_os_str().as_encoded_bytes())
        }
    };
    OURS | u64::from(sum)
}

/// Where a target is, whatever its plan.
fn path_of(target: Target) -> Option<PathBuf> {
    match target {
        Target::Path(path) | Target::File(path) => Some(path),
        Target::Faulty(target, _) => path_of(*target),
        _ => None,
    }
}

/// Whether an identity is of anything that this crate serves.
pub(super) fn is_ours(identity: u64) -> bool {
    identity & (u64::MAX << 32) == OURS
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal::{CreateOptions, Geometry, OpenOptions, Preallocate};

    fn drive(words: &str) -> Device {
        zonal::open(&Target::parse(words).unwrap(), &OpenOptions::default()).unwrap()
    }

    fn shape(words: &str) -> Shape {
        Shape::of(&drive(words), false).unwrap()
    }

    fn refusal(words: &str) -> String {
        let error = Shape::of(&drive(words), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        error.to_string()
    }

    #[test]
    fn sizes_and_limits_are_told_in_sectors() {
        let Shape { params, bytes, .. } = shape(
            "mem:size=64M,zone-size=4M,zone-capacity=3M,max-open-zones=3,max-active-zones=5,\
             max-append=64K",
        );
        assert_eq!(bytes, 64 << 20);
        assert_eq!([params.basic.dev_sectors, params.basic.chunk_sectors.into()], [131072, 8192]);
        assert_eq!([params.basic.logical_bs_shift, params.basic.physical_bs_shift], [12, 12]);
        assert_eq!([params.zoned.max_open_zones, params.zoned.max_active_zones], [3, 5]);
        assert_eq!(params.zoned.max_zone_append_sectors, 128);
        assert_eq!(params.types & sys::UBLK_PARAM_TYPE_DISCARD, 0);
        assert_ne!(params.basic.attrs & sys::UBLK_ATTR_FUA, 0);
        assert_eq!(params.basic.attrs & sys::UBLK_ATTR_READ_ONLY, 0);
    }

    #[test]
    fn an_append_is_no_longer_than_a_transfer() {
        let params = shape("mem:size=64M,zone-size=4M,max-append=2M").params;
        assert_eq!(params.zoned.max_zone_append_sectors, params.basic.max_sectors);
    }

    #[test]
    fn only_conventional_zones_are_discarded() {
        let params = shape("mem:size=64M,zone-size=4M,conventional-zones=2").params;
        assert_ne!(params.types & sys::UBLK_PARAM_TYPE_DISCARD, 0);
        assert_eq!(params.discard.max_discard_segments, 1);
        assert_eq!(params.discard.max_write_zeroes_sectors, params.basic.max_sectors);
    }

    #[test]
    fn what_linux_cannot_show_is_named() {
        let text = refusal("mem:size=60M,zone-size=3M");
        assert!(text.contains("3145728 bytes") && text.contains("power of two"), "{text}");
        let text = refusal("mem:size=66M,zone-size=4M");
        assert!(text.contains("last zone has 2097152 bytes") && text.contains("4194304"), "{text}");
        let text = refusal("mem:size=64M,zone-size=4M,block-size=16384");
        assert!(text.contains("16384") && text.contains("at most 4096"), "{text}");
    }

    #[test]
    fn a_device_is_known_again_by_what_it_was_told() {
        let told = shape("mem:size=64M,zone-size=4M");
        assert!(told.is(&shape("mem:size=64M,zone-size=4M").params));
        assert!(!told.is(&shape("mem:size=64M,zone-size=8M").params));
        assert!(!told.is(&shape("mem:size=64M,zone-size=4M,max-open-zones=3").params));
        assert!(is_ours(told.identity) && !is_ours(0));
        assert_ne!(told.identity, shape("mem:size=64M,zone-size=8M").identity);
    }

    #[test]
    fn an_image_is_known_by_any_name_and_its_copy_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let [image, moved, copy] = ["image", "moved", "copy"].map(|name| folder.path().join(name));
        let geometry =
            Geometry { zone_size: 1 << 20, zone_capacity: 1 << 20, ..Geometry::with_size(4 << 20) };
        let preallocate = Preallocate::Off;
        zonal::create(
            &image,
            CreateOptions { geometry, preallocate, force: false, progress: None },
        )
        .unwrap();
        std::fs::copy(&image, &copy).unwrap();
        let first = shape(image.to_str().unwrap()).identity;
        std::fs::rename(&image, &moved).unwrap();
        assert_eq!(shape(&format!("{},faults=fail-write=9", moved.display())).identity, first);
        assert_ne!(shape(copy.to_str().unwrap()).identity, first);
    }
}
