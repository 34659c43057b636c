//! What sysfs and the kernel say of a block device: whether it is a zoned one, and its limits.
//!
//! The device is found by its number, never by its name: names are links, and say nothing.

use super::mount::mounted;
use crate::sys::kernel::{release, version};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use zonal_core::error::{Error, ErrorKind, Result};

/// From this kernel on, writes to a zone that come in order stay in order (zone write plugging).
const PLUGS_WRITES: (u32, u32) = (6, 10);

/// The scheduler that kept them in order before.
const KEEPS_ORDER: &str = "mq-deadline";

/// The memory page of the smallest kernels, of which a request has so many segments.
const PAGE: u64 = 4096;

/// What a zoned block device is like. Sizes in bytes; limits of 0 mean none, as in sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceLimits {
    pub(crate) zone_size: u64,
    pub(crate) zones: u32,
    pub(crate) max_open_zones: u32,
    pub(crate) max_active_zones: u32,
    pub(crate) block_size: u32,
    /// The longest append.
    pub(crate) max_append: u64,
    /// The longest write that the kernel takes whole, without giving it to a thread of its own, where
    /// it would be overtaken.
    pub(crate) whole_write: u64,
    /// Why writes to a zone may be put out of order, if so.
    pub(crate) disorder: Option<String>,
}

/// Whether a path leads to a block device; its number.
pub(crate) fn device_number(path: &Path) -> Option<u64> {
    let found = fs::metadata(path).ok()?;
    found.file_type().is_block_device().then(|| found.rdev())
}

/// A block device's folder in sysfs.
pub(crate) struct Sysfs {
    folder: PathBuf,
}

impl Sysfs {
    /// Of the device of that number.
    ///
    /// # Errors
    /// `Unsupported`: it is not there, or sysfs is not.
    pub(crate) fn find(number: u64) -> Result<Self> {
        let name = format!("{}:{}", libc::major(number), libc::minor(number));
        let link = Path::new("/sys/dev/block").join(&name);
        let folder = link.canonicalize().map_err(|error| {
            let text = format!("block device {name} is not in /sys; mount sysfs there");
            Error::new(ErrorKind::Unsupported, text).with_source(error)
        })?;
        Ok(Self { folder })
    }

    /// A folder like those of sysfs.
    #[cfg(fuzzing)]
    pub(super) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The device's name.
    pub(crate) fn device(&self) -> String {
        Self::name(&self.folder)
    }

    /// How large it is, in bytes.
    ///
    /// # Errors
    /// `Unsupported`: sysfs does not tell.
    pub(crate) fn size(&self) -> Result<u64> {
        let sectors = self.number("size")?.ok_or_else(|| missing("size"))?;
        Ok(sectors.saturating_mul(super::report::SECTOR))
    }

    fn name(folder: &Path) -> String {
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// # Errors
    /// A partition; a device that is not zoned, or not host-managed.
    pub(crate) fn refuse_unzoned(&self) -> Result<()> {
        if self.folder.join("partition").exists() {
            let disk = self.folder.parent().map(Self::name).unwrap_or_default();
            let text = format!("it is a partition; name the whole device, /dev/{disk}");
            return Err(Error::new(ErrorKind::NotZoned, text));
        }
        match self.word("queue/zoned").as_deref() {
            Ok("host-managed") => Ok(()),
            Ok("host-aware") => {
                let text = "its zones are host-aware: they may be written in any order, and need no \
                            zonal; name a host-managed device";
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            Ok(_) => {
                let text = "it is a block device without zones (see queue/zoned in sysfs); name one \
                            that lsblk -z lists as host-managed, or make an image on a file system \
                            with zonal create";
                Err(Error::new(ErrorKind::NotZoned, text))
            }
            Err(_) => {
                let text = "this kernel does not say which block devices are zoned; it takes Linux \
                            4.10 or later, with CONFIG_BLK_DEV_ZONED";
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        }
    }

    /// Who has the device, where that can be known.
    pub(crate) fn holder(&self) -> Option<String> {
        let holders = fs::read_dir(self.folder.join("holders")).into_iter().flatten().flatten();
        let named = holders.map(|holder| holder.file_name().to_string_lossy().into_owned()).next();
        let number = fs::read_to_string(self.folder.join("dev")).unwrap_or_default();
        let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let number = number.trim();
        let is_it = |path: &Path| {
            let found = device_number(path);
            found.is_some_and(|it| format!("{}:{}", libc::major(it), libc::minor(it)) == number)
        };
        let mounted = mounted(&mounts, number, is_it);
        named
            .map(|name| format!("{name} is made of it; take that apart first"))
            .or_else(|| Some(format!("it is mounted at {}; unmount it first", mounted?.display())))
    }

    /// Limits of the device, and whether the kernel keeps writes in order.
    ///
    /// # Errors
    /// `Unsupported`: what zones cannot be without is missing.
    pub(crate) fn limits(&self) -> Result<DeviceLimits> {
        let release = release();
        let scheduler = self.word("queue/scheduler").unwrap_or_default();
        let needed = |name| self.number(name).and_then(|value| value.ok_or_else(|| missing(name)));
        let block_size = needed("queue/logical_block_size")?;
        let granularity = self.number("queue/zone_write_granularity")?.unwrap_or(0);
        let block_size = block_size.max(granularity);
        let transfer = needed("queue/max_sectors_kb")?.saturating_mul(1024);
        let segments = self.number("queue/max_segments")?.unwrap_or(u64::MAX);
        let whole = transfer.min(segments.saturating_mul(PAGE)).min(WHOLE_WRITE_MAX);
        let whole = whole - whole % block_size.max(1);
        // Zero where the kernel has no append to this device; ours are writes.
        let append = self.number("queue/zone_append_max_bytes")?.filter(|&bytes| bytes > 0);
        let append = append.map_or(whole, |bytes| bytes.min(whole));
        Ok(DeviceLimits {
            zone_size: needed("queue/chunk_sectors")?.saturating_mul(super::report::SECTOR),
            zones: narrow("queue/nr_zones", needed("queue/nr_zones")?)?,
            max_open_zones: self.limit("queue/max_open_zones")?,
            max_active_zones: self.limit("queue/max_active_zones")?,
            block_size: narrow("its block", block_size)?,
            max_append: append - append % block_size.max(1),
            whole_write: whole,
            disorder: disorder(&release, &scheduler),
        })
    }

    fn limit(&self, name: &str) -> Result<u32> {
        narrow(name, self.number(name)?.unwrap_or(0))
    }

    fn word(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.folder.join(name)).map(|word| word.trim().to_owned())
    }

    /// A number; none where this kernel does not tell it.
    fn number(&self, name: &str) -> Result<Option<u64>> {
        match self.word(name) {
            Ok(word) => word.parse().map(Some).map_err(|_| {
                let text = format!("{name} in sysfs is `{word}`, no number");
                Error::new(ErrorKind::Unsupported, text)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let text = format!("{name} in sysfs cannot be read");
                Err(Error::new(ErrorKind::Unsupported, text).with_source(error))
            }
        }
    }
}

/// What one `struct bio` of the kernel holds where each page stands for itself (its `BIO_MAX_VECS`).
const WHOLE_WRITE_MAX: u64 = 256 * PAGE;

fn missing(name: &str) -> Error {
    let text = format!("{name} is missing in sysfs; it takes Linux 4.20 or later");
    Error::new(ErrorKind::Unsupported, text)
}

fn narrow(name: &str, value: u64) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| Error::new(ErrorKind::Unsupported, format!("{name} is {value}, too many")))
}

/// Why this kernel may put writes to a zone out of order, if so.
fn disorder(release: &str, scheduler: &str) -> Option<String> {
    if version(release) >= PLUGS_WRITES || scheduler.contains(&format!("[{KEEPS_ORDER}]")) {
        return None;
    }
    Some(format!(
        "this kernel ({}) keeps no order among writes to a zone under the scheduler `{scheduler}`; \
         each zone is written by one write at a time, until Linux {}.{} or {KEEPS_ORDER} is there \
         (echo {KEEPS_ORDER} to queue/scheduler in sysfs)",
        release.trim(),
        PLUGS_WRITES.0,
        PLUGS_WRITES.1,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_by_later_kernels_and_by_one_scheduler() {
        assert_eq!(disorder("6.10.0-rc1", "[none]"), None);
        assert_eq!(disorder("7.2.12+deb13-amd64\n", "[none] mq-deadline"), None);
        assert_eq!(disorder("6.1.0-28-amd64", "none [mq-deadline]"), None);
        let text = disorder("6.9.12-amd64\n", "[none] mq-deadline").unwrap();
        assert!(text.contains("6.9.12-amd64") && text.contains("one write at a time"), "{text}");
        assert!(disorder("", "").is_some());
    }

    #[test]
    fn who_has_a_device_is_named_where_sysfs_knows() {
        let (folder, device) = sysfs(&[("dev", "0:0")]);
        assert_eq!(device.holder(), None, "another program: nobody tells which");
        fs::create_dir_all(folder.path().join("holders/dm-3")).unwrap();
        let holder = device.holder().unwrap();
        assert_eq!(holder, "dm-3 is made of it; take that apart first");
    }

    /// A folder like sysfs's, with these files.
    fn sysfs(files: &[(&str, &str)]) -> (tempfile::TempDir, Sysfs) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("queue")).unwrap();
        for (name, value) in files {
            fs::write(folder.path().join(name), format!("{value}\n")).unwrap();
        }
        let sysfs = Sysfs { folder: folder.path().to_owned() };
        (folder, sysfs)
    }

    const QUEUE: [(&str, &str); 9] = [
        ("queue/zoned", "host-managed"),
        ("queue/chunk_sectors", "32768"),
        ("queue/nr_zones", "64"),
        ("queue/max_open_zones", "8"),
        ("queue/max_active_zones", "0"),
        ("queue/logical_block_size", "512"),
        ("queue/max_sectors_kb", "512"),
        ("queue/max_segments", "127"),
        ("queue/scheduler", "[none] mq-deadline"),
    ];

    #[test]
    fn limits_are_what_sysfs_says_and_no_write_is_split() {
        let (_folder, device) = sysfs(&QUEUE);
        device.refuse_unzoned().unwrap();
        let limits = device.limits().unwrap();
        assert_eq!((limits.zone_size, limits.zones), (16 << 20, 64));
        assert_eq!((limits.max_open_zones, limits.max_active_zones), (8, 0));
        assert_eq!((limits.whole_write, limits.max_append), (127 * 4096, 127 * 4096));
        let more =
            [("queue/zone_append_max_bytes", "131072"), ("queue/zone_write_granularity", "4096")];
        let (_folder, device) = sysfs(&[&QUEUE[..], &more].concat());
        let limits = device.limits().unwrap();
        assert_eq!((limits.block_size, limits.max_append), (4096, 128 << 10));
    }

    #[test]
    fn what_is_no_zoned_device_is_refused_with_a_next_step() {
        for (files, kind, words) in [
            (&[("queue/zoned", "none")][..], ErrorKind::NotZoned, "lsblk -z"),
            (&[("queue/zoned", "host-aware")], ErrorKind::Unsupported, "host-managed"),
            (&[], ErrorKind::Unsupported, "CONFIG_BLK_DEV_ZONED"),
            (&[("partition", "1")], ErrorKind::NotZoned, "name the whole device"),
        ] {
            let (_folder, device) = sysfs(files);
            let error = device.refuse_unzoned().unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        let (_folder, device) = sysfs(&[("queue/zoned", "host-managed")]);
        assert!(device.limits().unwrap_err().to_string().contains("missing in sysfs"));
        let (_folder, device) = sysfs(&[("queue/nr_zones", "many"), QUEUE[1], QUEUE[5], QUEUE[6]]);
        assert!(device.limits().unwrap_err().to_string().contains("`many`"));
    }
}
