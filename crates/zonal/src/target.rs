//! What a drive is called: a path (of an image, of a device with zones, or of a mounted zonefs), `file:` and a path, or
//! `mem:` with the drive's shape; and behind that, perhaps, how it fails.
//!
//! The last `,faults=` in a name ends the drive's and begins its plan's. So a path that has one in it
//! is written with another behind it, of no plan: `a,faults=b,faults=`.

use crate::faults::FaultPlan;
use std::fmt;
use std::path::{Path, PathBuf};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;

/// A drive's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An image, a zoned block device, the generic device of a zoned NVMe namespace, a mounted zonefs or
    /// one zone's file in it: what it is, is looked at when it is opened.
    Path(PathBuf),
    /// A drive in memory, of this shape.
    Memory(Geometry),
    /// An ordinary file as one zone that grows.
    File(PathBuf),
    /// One of these, which fails by a plan; no device does.
    Faulty(Box<Target>, Box<FaultPlan>),
}

/// Between a drive's name and its plan's words.
const FAULTS: &str = ",faults=";

impl Target {
    /// Takes a name apart: `mem:size=8G,zone-size=64M,…` with the words of `create`, `file:PATH`
    /// for an ordinary file as one zone that grows, else a path. Behind any of them may stand
    /// `,faults=` and the words of a [`FaultPlan`]; where a path has that in it, write `,faults=` once
    /// more at its end.
    ///
    /// # Errors
    /// An unknown word or a number out of range, which the error names.
    ///
    /// # Examples
    /// ```
    /// use zonal::Target;
    /// let target = Target::parse("mem:size=1G,zone-size=64M,max-open-zones=8")?;
    /// let Target::Memory(geometry) = target else { panic!("not a path") };
    /// assert_eq!(geometry.zones(), 16);
    /// assert_eq!(Target::parse("file:log")?, Target::File("log".into()));
    ///
    /// let failing = Target::parse("disk.qcow2,faults=fail-write=7,latency=1ms..5ms")?;
    /// let Target::Faulty(target, plan) = failing else { panic!("it has a plan") };
    /// assert_eq!(*target, Target::Path("disk.qcow2".into()));
    /// assert_eq!(plan.to_string(), "fail-write=7,latency=1ms..5ms");
    /// assert_eq!(Target::parse("odd,faults=x,faults=")?, Target::Path("odd,faults=x".into()));
    /// # Ok::<(), zonal::Error>(())
    /// ```
    pub fn parse(name: &str) -> Result<Self> {
        let Some((drive, words)) = name.rsplit_once(FAULTS) else { return Self::parse_drive(name) };
        let target = Self::parse_drive(drive)?;
        let plan: FaultPlan = words.parse().map_err(|error: Error| {
            let next = format!("; for a file of that name, write {name}{FAULTS}");
            Error::new(error.kind(), format!("{}{next}", error.detail())).on(name)
        })?;
        Ok(if words.is_empty() { target } else { target.with_faults(plan) })
    }

    /// The same drive, which fails by this plan and no other.
    #[must_use]
    pub fn with_faults(self, plan: FaultPlan) -> Self {
        match self {
            Self::Faulty(target, _) => Self::Faulty(target, Box::new(plan)),
            target @ (Self::Path(_) | Self::Memory(_) | Self::File(_)) => {
                Self::Faulty(Box::new(target), Box::new(plan))
            }
        }
    }

    fn parse_drive(name: &str) -> Result<Self> {
        if let Some(words) = name.strip_prefix("mem:") {
            return memory(words).map(Self::Memory).map_err(|error| error.on(name));
        }
        if let Some(path) = name.strip_prefix("file:") {
            if path.is_empty() {
                return Err(invalid("it names no file; write file:PATH".to_owned()).on(name));
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "the target is empty; name a file"));
        }
        Ok(Self::Path(PathBuf::from(name)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}{}", path.display(), no_plan(path)),
            Self::Memory(geometry) => f.write_str(&memory_name(geometry)),
            Self::File(path) => write!(f, "file:{}{}", path.display(), no_plan(path)),
            Self::Faulty(target, plan) => match &**target {
                Self::Path(path) => write!(f, "{}{FAULTS}{plan}", path.display()),
                Self::File(path) => write!(f, "file:{}{FAULTS}{plan}", path.display()),
                target @ (Self::Memory(_) | Self::Faulty(..)) => {
                    write!(f, "{target}{FAULTS}{plan}")
                }
            },
        }
    }
}

/// What keeps the end of a path from being taken for a plan.
fn no_plan(path: &Path) -> &'static str {
    if path.to_string_lossy().contains(FAULTS) { FAULTS } else { "" }
}

/// A size in the largest unit that divides it, as [`size`] reads it back.
fn short(bytes: u64) -> String {
    let units = ["", "K", "M", "G", "T", "P"];
    let power = usize::try_from(bytes.trailing_zeros() / 10).unwrap_or(0).min(units.len() - 1);
    if bytes == 0 { "0".to_owned() } else { format!("{}{}", bytes >> (10 * power), units[power]) }
}

/// The name of a drive in memory: what [`memory`] would take for the same, if it was not said.
fn memory_name(geometry: &Geometry) -> String {
    let usual = Geometry::with_size(geometry.size);
    let append = usual.max_append.min(u32::try_from(geometry.zone_capacity).unwrap_or(u32::MAX));
    let mut name = format!("mem:size={}", short(geometry.size));
    for (word, value, usual) in [
        ("zone-size", geometry.zone_size, usual.zone_size),
        ("zone-capacity", geometry.zone_capacity, geometry.zone_size),
        ("conventional-zones", geometry.conventional_zones.into(), usual.conventional_zones.into()),
        ("max-open-zones", geometry.max_open_zones.into(), usual.max_open_zones.into()),
        ("max-active-zones", geometry.max_active_zones.into(), usual.max_active_zones.into()),
        ("block-size", geometry.block_size.into(), usual.block_size.into()),
        ("max-append", geometry.max_append.into(), append.into()),
    ] {
        if value != usual {
            name += &format!(",{word}={}", short(value));
        }
    }
    name
}

fn memory(words: &str) -> Result<Geometry> {
    let mut geometry = Geometry::with_size(0);
    let mut capacity = None;
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| invalid(format!("`{word}` has no value; write it as name=value")))?;
        match name {
            "size" => geometry.size = size(value)?,
            "zone-size" => geometry.zone_size = size(value)?,
            "zone-capacity" => capacity = Some(size(value)?),
            "conventional-zones" => geometry.conventional_zones = narrow(value)?,
            "max-open-zones" => geometry.max_open_zones = narrow(value)?,
            "max-active-zones" => geometry.max_active_zones = narrow(value)?,
            "block-size" => geometry.block_size = narrow(value)?,
            "max-append" => geometry.max_append = narrow(value)?,
            other => {
                let text = format!(
                    "`{other}` is no word of a memory drive; there are size, zone-size, \
                     zone-capacity, conventional-zones, max-open-zones, max-active-zones, \
                     block-size and max-append"
                );
                return Err(invalid(text));
            }
        }
    }
    if geometry.size == 0 {
        return Err(invalid("its size is missing; write mem:size=1G".to_owned()));
    }
    geometry.zone_capacity = capacity.unwrap_or(geometry.zone_size);
    let limit = u32::try_from(geometry.zone_capacity).unwrap_or(u32::MAX);
    geometry.max_append = geometry.max_append.min(limit);
    geometry.validate()?;
    Ok(geometry)
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidInput, text)
}

fn narrow(value: &str) -> Result<u32> {
    let number = size(value)?;
    u32::try_from(number).map_err(|_| invalid(format!("`{value}` is too large")))
}

/// A number of bytes: `4096`, `0x1000`, `64K`, `64KiB`, `1M`, `8G`, `2T` in powers of two, `1kB`,
/// `1MB` … in powers of ten.
///
/// # Errors
/// Anything else, by name.
pub fn size(text: &str) -> Result<u64> {
    let wrong = || invalid(format!("`{text}` is no size; write it like 4096, 64K, 8G or 0x1000"));
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).map_err(|_| wrong());
    }
    let letters = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(letters);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "P" | "PiB" => 1 << 50,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(|| invalid(format!("`{text}` is larger than 2^64")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_unless_they_say_decimal() {
        for (text, bytes) in
            [("4096", 4096), ("64K", 65536), ("64KiB", 65536), ("1kB", 1000), ("0x10", 16)]
        {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "K", "1X", "-1", "99999999999999999999", "20000000T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_memory_drive_is_called_by_a_size_that_reads_back() {
        for name in ["mem:size=1000K", "mem:size=1G", "mem:size=1025G", "mem:size=200T"] {
            assert_eq!(Target::parse(name).unwrap().to_string(), name);
        }
        assert_eq!((short(0), short(4097)), ("0".to_owned(), "4097".to_owned()));
    }

    #[test]
    fn a_memory_drive_s_name_makes_the_same_drive_again() {
        for name in [
            "mem:size=64M,zone-size=16M",
            "mem:size=1G,zone-size=64M,zone-capacity=48M,max-open-zones=3,max-active-zones=5",
            "mem:size=8M,zone-size=1M,conventional-zones=2,block-size=512,max-append=64K",
            "mem:size=8M,zone-size=256K",
        ] {
            let target = Target::parse(name).unwrap();
            assert_eq!(target.to_string(), name);
            assert_eq!(Target::parse(&target.to_string()).unwrap(), target);
        }
    }

    #[test]
    fn a_memory_drive_that_cannot_be_is_refused_by_name() {
        for name in ["mem:", "mem:size", "mem:size=1G,zones=3", "mem:size=1G,zone-size=3"] {
            assert!(Target::parse(name).is_err(), "{name}");
        }
    }
}
