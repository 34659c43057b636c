//! The shape of a drive: sizes, zones, limits; all in bytes.
//!
//! [`Geometry::validate`] holds the rules every drive obeys, [`Geometry::validate_for_image`] those
//! of the image format on top. What lies over a bound that is only a limit is lowered by
//! [`Geometry::clamp`], which says so; the rest is refused. The accessors never panic, but only say
//! something true about a geometry that was validated.

use crate::error::{Error, ErrorKind, Result};
use crate::units::{Blocks, ZoneIndex};
use alloc::{borrow::Cow, format, vec::Vec};
use core::fmt;

/// The smallest logical block: a sector, in which qcow2 and Linux count.
pub const MIN_BLOCK_SIZE: u32 = 512;
/// The largest logical block; NVMe namespaces with larger ones are not seen.
pub const MAX_BLOCK_SIZE: u32 = 64 << 10;
/// The largest append: a request's length has to fit the kernel's signed 32 bits.
pub const MAX_APPEND: u32 = 1 << 30;
/// The largest drive: leaves every sum of an offset and a length below 2^63.
pub const MAX_SIZE: u64 = 1 << 62;
/// The most zones of an image, so that its table (128 MiB) and the zones in memory stay bounded.
pub const MAX_IMAGE_ZONES: u32 = 1 << 24;
/// Default zone size, QEMU's.
pub const DEFAULT_ZONE_SIZE: u64 = 256 << 20;
/// Default logical block.
pub const DEFAULT_BLOCK_SIZE: u32 = 4096;
/// Default append limit.
pub const DEFAULT_MAX_APPEND: u32 = 1 << 20;

/// The shape of a drive, in bytes. Limits of 0 mean none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The drive's size; the last zone may be smaller than the others.
    pub size: u64,
    /// From one zone's start to the next.
    pub zone_size: u64,
    /// How much of a sequential zone can be written.
    pub zone_capacity: u64,
    /// How many zones at the drive's start can be written anywhere.
    pub conventional_zones: u32,
    /// How many zones may be open at once; 0 is no limit.
    pub max_open_zones: u32,
    /// How many zones may be open or closed at once; 0 is no limit.
    pub max_active_zones: u32,
    /// The logical block, the unit of every read and write.
    pub block_size: u32,
    /// The longest append.
    pub max_append: u32,
}

/// A limit that was lowered because the drive cannot reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clamp {
    /// More active zones than there are zones.
    ActiveOverZones {
        /// What was asked for.
        from: u32,
        /// What holds now.
        to: u32,
    },
    /// More open zones than there are sequential zones.
    OpenOverSequential {
        /// What was asked for.
        from: u32,
        /// What holds now.
        to: u32,
    },
    /// More open zones than may be active.
    OpenOverActive {
        /// What was asked for.
        from: u32,
        /// What holds now.
        to: u32,
    },
    /// An append limit over the zone's capacity or over [`MAX_APPEND`], in bytes.
    AppendOverCapacity {
        /// What was asked for.
        from: u32,
        /// What holds now.
        to: u32,
    },
}

impl fmt::Display for Clamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ActiveOverZones { from, to } => {
                write!(f, "max-active-zones {from} is more than the zones there are; using {to}")
            }
            Self::OpenOverSequential { from, to } => {
                write!(f, "max-open-zones {from} is more than the sequential zones; using {to}")
            }
            Self::OpenOverActive { from, to } => {
                write!(f, "max-open-zones {from} is more than max-active-zones; using {to}")
            }
            Self::AppendOverCapacity { from, to } => {
                write!(f, "max-append {from} is more than a zone takes at once; using {to}")
            }
        }
    }
}

impl Geometry {
    /// A drive of `size` bytes with the defaults: zones of 256 MiB that can be written whole, blocks
    /// of 4096 bytes, appends up to 1 MiB, no conventional zones and no limits.
    ///
    /// ```
    /// use zonal_core::format::Geometry;
    /// let drive = Geometry::with_size(8 << 30);
    /// drive.validate().unwrap();
    /// assert_eq!(drive.zones(), 32);
    /// ```
    #[must_use]
    pub const fn with_size(size: u64) -> Self {
        Self {
            size,
            zone_size: DEFAULT_ZONE_SIZE,
            zone_capacity: DEFAULT_ZONE_SIZE,
            conventional_zones: 0,
            max_open_zones: 0,
            max_active_zones: 0,
            block_size: DEFAULT_BLOCK_SIZE,
            max_append: DEFAULT_MAX_APPEND,
        }
    }

    /// Lowers limits that the drive cannot reach to those that it can, and says which.
    pub fn clamp(&mut self) -> Vec<Clamp> {
        let mut clamps = Vec::new();
        let mut lower = |limit: &mut u32, to: u32, what: fn(u32, u32) -> Clamp| {
            if to > 0 && *limit > to {
                clamps.push(what(*limit, to));
                *limit = to;
            }
        };
        let (zones, sequential) = (self.zones(), self.sequential_zones());
        lower(&mut self.max_active_zones, zones, |from, to| Clamp::ActiveOverZones { from, to });
        lower(&mut self.max_open_zones, sequential, |from, to| Clamp::OpenOverSequential {
            from,
            to,
        });
        let active = self.max_active_zones;
        lower(&mut self.max_open_zones, active, |from, to| Clamp::OpenOverActive { from, to });
        let capacity = u32::try_from(self.zone_capacity).unwrap_or(u32::MAX).min(MAX_APPEND);
        lower(&mut self.max_append, capacity, |from, to| Clamp::AppendOverCapacity { from, to });
        clamps
    }

    /// Checks the rules that hold for every drive.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]; its detail begins with the first field that breaks a rule, by the
    /// word of `create` and `mem:`, and goes on with its value and the rule.
    pub fn validate(&self) -> Result<()> {
        self.validate_blocks()?;
        self.validate_zones()?;
        self.validate_limits()
    }

    /// Checks the rules of an image on top of [`validate`](Self::validate): zones of a power of
    /// two, and no more than [`MAX_IMAGE_ZONES`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], as above.
    pub fn validate_for_image(&self) -> Result<()> {
        self.validate()?;
        if !self.zone_size.is_power_of_two() {
            return invalid(format!(
                "zone-size {} is no power of two; only a memory drive has such zones",
                self.zone_size
            ));
        }
        if self.zones() > MAX_IMAGE_ZONES {
            return invalid(format!(
                "zone-size {} makes {} zones, an image has at most {MAX_IMAGE_ZONES}; take larger \
                 zones",
                self.zone_size,
                self.zones()
            ));
        }
        Ok(())
    }

    fn validate_blocks(&self) -> Result<()> {
        let block = self.block_size;
        let in_range = block == MIN_BLOCK_SIZE || (4096..=MAX_BLOCK_SIZE).contains(&block);
        if !in_range || !block.is_power_of_two() {
            return invalid(format!(
                "block-size {block}; it is 512 or a power of two from 4096 to {MAX_BLOCK_SIZE}"
            ));
        }
        for (name, value) in [
            ("size", self.size),
            ("zone-size", self.zone_size),
            ("zone-capacity", self.zone_capacity),
            ("max-append", self.max_append.into()),
        ] {
            if value == 0 || value % u64::from(block) != 0 {
                return invalid(format!(
                    "{name} {value}; it is a multiple of the block size {block}, and not 0"
                ));
            }
        }
        Ok(())
    }

    fn validate_zones(&self) -> Result<()> {
        let Self { size, zone_size, zone_capacity, block_size, .. } = *self;
        if size > MAX_SIZE || zone_size > MAX_SIZE {
            return invalid(format!("size {size}, zone-size {zone_size}; at most {MAX_SIZE}"));
        }
        if zone_size / u64::from(block_size) > u32::MAX.into() {
            return invalid(format!(
                "zone-size {zone_size}; a zone has at most {} blocks of {block_size}",
                u32::MAX
            ));
        }
        if zone_capacity > zone_size {
            return invalid(format!(
                "zone-capacity {zone_capacity} is more than the zone-size, {zone_size}"
            ));
        }
        let zones = size.div_ceil(zone_size);
        if zones > u32::MAX.into() {
            return invalid(format!(
                "zone-size {zone_size} makes {zones} zones, at most {} can be; take larger zones",
                u32::MAX
            ));
        }
        if u64::from(self.conventional_zones) >= zones {
            return invalid(format!(
                "conventional-zones {} of {zones} zones; at least one zone is sequential",
                self.conventional_zones
            ));
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<()> {
        let mut clamped = self.clone();
        match clamped.clamp().first() {
            Some(clamp) => invalid(format!("{clamp} would do")),
            None => Ok(()),
        }
    }

    /// How many zones there are, the last, maybe smaller one included.
    #[must_use]
    pub fn zones(&self) -> u32 {
        u32::try_from(self.size.div_ceil(self.zone_size.max(1))).unwrap_or(u32::MAX)
    }

    /// How many of them are sequential.
    #[must_use]
    pub fn sequential_zones(&self) -> u32 {
        self.zones().saturating_sub(self.conventional_zones)
    }

    /// The zone that holds a byte of the drive; past the drive's end, a zone past its last.
    #[must_use]
    pub fn zone_of(&self, offset: u64) -> ZoneIndex {
        ZoneIndex(u32::try_from(offset / self.zone_size.max(1)).unwrap_or(u32::MAX))
    }

    /// Whether the zone can be written anywhere.
    #[must_use]
    pub fn is_conventional(&self, zone: ZoneIndex) -> bool {
        zone.0 < self.conventional_zones
    }

    /// The zone's first byte on the drive.
    #[must_use]
    pub fn start_of(&self, zone: ZoneIndex) -> u64 {
        u64::from(zone.0).saturating_mul(self.zone_size)
    }

    /// Bytes from the zone's start to the next zone's or to the drive's end.
    #[must_use]
    pub fn size_of(&self, zone: ZoneIndex) -> u64 {
        self.size.saturating_sub(self.start_of(zone)).min(self.zone_size)
    }

    /// How many bytes of the zone can be written: all of a conventional one, of a sequential one its
    /// capacity, or less where the drive ends before.
    #[must_use]
    pub fn capacity_of(&self, zone: ZoneIndex) -> u64 {
        let size = self.size_of(zone);
        if self.is_conventional(zone) { size } else { size.min(self.zone_capacity) }
    }

    /// [`capacity_of`](Self::capacity_of) in blocks.
    #[must_use]
    pub fn capacity_blocks(&self, zone: ZoneIndex) -> Blocks {
        let blocks = self.capacity_of(zone) / u64::from(self.block_size.max(1));
        Blocks(u32::try_from(blocks).unwrap_or(u32::MAX))
    }
}

fn invalid(detail: impl Into<Cow<'static, str>>) -> Result<()> {
    Err(Error::new(ErrorKind::InvalidInput, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive() -> Geometry {
        Geometry { zone_size: 4 << 20, zone_capacity: 3 << 20, ..Geometry::with_size(64 << 20) }
    }

    fn refused(change: impl FnOnce(&mut Geometry)) -> bool {
        let mut geometry = drive();
        change(&mut geometry);
        geometry.validate().is_err()
    }

    #[test]
    fn the_last_zone_may_be_smaller() {
        let geometry = Geometry { size: (64 << 20) + 4096, ..drive() };
        geometry.validate_for_image().unwrap();
        assert_eq!(geometry.zones(), 17);
        assert_eq!(geometry.size_of(ZoneIndex(16)), 4096);
        assert_eq!(geometry.capacity_of(ZoneIndex(16)), 4096);
        assert_eq!(geometry.capacity_of(ZoneIndex(15)), 3 << 20);
        assert_eq!(geometry.capacity_blocks(ZoneIndex(15)), Blocks(768));
    }

    #[test]
    fn a_conventional_zone_can_be_written_whole() {
        let geometry = Geometry { conventional_zones: 1, ..drive() };
        assert_eq!(geometry.capacity_of(ZoneIndex(0)), 4 << 20);
        assert_eq!(geometry.capacity_of(ZoneIndex(1)), 3 << 20);
    }

    #[test]
    fn a_field_that_breaks_a_rule_is_refused() {
        drive().validate_for_image().unwrap();
        assert!(refused(|g| g.size = 0));
        assert!(refused(|g| g.size += 512));
        assert!(refused(|g| g.size = MAX_SIZE + 4096));
        assert!(refused(|g| g.zone_size = 0));
        assert!(refused(|g| g.zone_capacity = 0));
        assert!(refused(|g| g.zone_capacity = g.zone_size + 4096));
        assert!(refused(|g| g.conventional_zones = 16));
        assert!(refused(|g| g.block_size = 1024));
        assert!(refused(|g| g.block_size = 128 << 10));
        assert!(refused(|g| g.block_size = 0));
        assert!(refused(|g| g.max_append = 0));
        assert!(refused(|g| g.max_append = 4 << 20));
        assert!(refused(|g| g.max_append = 4095));
        assert!(refused(|g| g.max_open_zones = 17));
        assert!(refused(|g| g.zone_size = 1 << 61));
    }

    #[test]
    fn an_image_wants_zones_of_a_power_of_two_and_not_too_many() {
        let odd = Geometry { zone_size: 3 << 20, ..drive() };
        odd.validate().unwrap();
        assert!(odd.validate_for_image().is_err());
        let many = Geometry {
            zone_size: 4096,
            zone_capacity: 4096,
            max_append: 4096,
            ..Geometry::with_size(1 << 40)
        };
        many.validate().unwrap();
        assert!(many.validate_for_image().is_err());
    }

    #[test]
    fn limits_out_of_reach_are_lowered_and_said() {
        let mut geometry = Geometry {
            conventional_zones: 4,
            max_open_zones: 14,
            max_active_zones: 99,
            max_append: 1 << 30,
            ..drive()
        };
        assert_eq!(
            geometry.clamp(),
            [
                Clamp::ActiveOverZones { from: 99, to: 16 },
                Clamp::OpenOverSequential { from: 14, to: 12 },
                Clamp::AppendOverCapacity { from: 1 << 30, to: 3 << 20 },
            ]
        );
        geometry.max_active_zones = 5;
        assert_eq!(geometry.clamp(), [Clamp::OpenOverActive { from: 12, to: 5 }]);
        geometry.validate().unwrap();
    }
    /// That a drive is sound before `change`, and then refused with these words.
    fn refusal(sound: &Geometry, change: impl FnOnce(&mut Geometry), words: &str) {
        sound.validate().unwrap();
        let mut geometry = sound.clone();
        change(&mut geometry);
        let error = geometry.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.detail().contains(words), "{words} in {error}");
    }

    #[test]
    fn a_block_is_a_sector_or_a_power_of_two_from_4096_to_65536() {
        for block_size in (0..=1 << 18).step_by(256) {
            let bytes = 64 * u64::from(block_size);
            let geometry = Geometry {
                zone_size: bytes,
                zone_capacity: bytes,
                block_size,
                max_append: block_size,
                ..Geometry::with_size(bytes)
            };
            let sound = [512, 4096, 8192, 16384, 32768, 65536].contains(&block_size);
            assert_eq!(geometry.validate().is_ok(), sound, "{block_size}");
        }
    }

    #[test]
    fn the_largest_drive_of_each_kind_is_sound_and_one_step_more_is_refused() {
        let huge = Geometry {
            zone_size: 1 << 40,
            zone_capacity: 1 << 40,
            ..Geometry::with_size(MAX_SIZE)
        };
        refusal(&huge, |g| g.size += 4096, "at most 4611686018427387904");
        refusal(&huge, |g| g.zone_size = MAX_SIZE + 4096, "at most 4611686018427387904");

        refusal(&huge, |g| g.zone_size = MAX_SIZE, "at most 4294967295 blocks of 4096");

        let whole = u64::from(u32::MAX) * 4096;
        let one = Geometry { zone_size: whole, zone_capacity: 4096, ..drive() };
        let one = Geometry { max_append: 4096, ..one };
        refusal(&one, |g| g.zone_size += 4096, "at most 4294967295 blocks of 4096");

        let many = Geometry { size: whole, zone_size: 4096, ..one };
        assert_eq!(many.zones(), u32::MAX);
        refusal(&many, |g| g.size += 4096, "makes 4294967296 zones, at most 4294967295");

        let whole = Geometry { zone_capacity: drive().zone_size, ..drive() };
        refusal(&whole, |g| g.zone_capacity += 4096, "zone-capacity 4198400 is more");

        let conventional = Geometry { conventional_zones: 15, ..drive() };
        refusal(&conventional, |g| g.conventional_zones += 1, "conventional-zones 16 of 16 zones");

        let append = Geometry { max_append: 3 << 20, ..drive() };
        refusal(&append, |g| g.max_append += 4096, "max-append 3149824 is more");
    }

    #[test]
    fn an_image_has_so_many_zones_and_no_more() {
        let size = u64::from(MAX_IMAGE_ZONES) << 20;
        let zone = 1 << 20;
        let mut geometry =
            Geometry { zone_size: zone, zone_capacity: zone, ..Geometry::with_size(size) };
        geometry.validate_for_image().unwrap();
        geometry.size += 4096;
        let error = geometry.validate_for_image().unwrap_err();
        assert!(error.detail().contains("makes 16777217 zones"), "{error}");
    }

    #[test]
    fn a_limit_within_reach_and_no_limit_are_left_alone() {
        let mut geometry = Geometry {
            conventional_zones: 1,
            max_open_zones: 15,
            max_active_zones: 16,
            max_append: 3 << 20,
            ..drive()
        };
        assert_eq!(geometry.clamp(), []);
        geometry.max_active_zones = 0;
        assert_eq!(geometry.clamp(), []);
        geometry.max_open_zones = 0;
        assert_eq!(geometry.clamp(), []);
        // An append is bounded also where zones are not.
        let mut large =
            Geometry { zone_size: 1 << 40, zone_capacity: 1 << 40, ..Geometry::with_size(1 << 42) };
        large.max_append = MAX_APPEND;
        assert_eq!(large.clamp(), []);
        large.max_append += 4096;
        let (from, to) = ((1 << 30) + 4096, 1 << 30);
        assert_eq!(large.clamp(), [Clamp::AppendOverCapacity { from, to }]);
    }

    #[test]
    fn a_clamp_says_which_limit_it_lowered_and_to_what() {
        let (from, to) = (9, 4);
        for (clamp, limit) in [
            (Clamp::ActiveOverZones { from, to }, "max-active-zones 9 is more than the zones"),
            (
                Clamp::OpenOverSequential { from, to },
                "max-open-zones 9 is more than the sequential",
            ),
            (Clamp::OpenOverActive { from, to }, "max-open-zones 9 is more than max-active-zones"),
            (Clamp::AppendOverCapacity { from, to }, "max-append 9 is more"),
        ] {
            let text = format!("{clamp}");
            assert!(text.starts_with(limit) && text.ends_with("using 4"), "{text}");
        }
    }

    #[test]
    fn a_byte_of_the_drive_lies_in_one_zone() {
        let geometry = Geometry { conventional_zones: 2, ..drive() };
        let zone: u64 = 4 << 20;
        for (offset, index) in [(0, 0), (zone - 1, 0), (zone, 1), ((64 << 20) - 1, 15)] {
            assert_eq!(geometry.zone_of(offset), ZoneIndex(index), "{offset}");
        }
        assert_eq!(geometry.start_of(ZoneIndex(3)), 3 * zone);
        assert_eq!(geometry.sequential_zones(), 14);
        let conventional = [0, 1, 2].map(|zone| geometry.is_conventional(ZoneIndex(zone)));
        assert_eq!(conventional, [true, true, false]);
        assert_eq!(geometry.size_of(ZoneIndex(15)), zone);
        assert_eq!(geometry.size_of(ZoneIndex(16)), 0);
    }
}
