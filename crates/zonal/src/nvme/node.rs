//! A namespace's two devices: the generic one, which takes commands, and the kernel's block device,
//! which says how long a transfer may be, and whether somebody else has the namespace.
//!
//! Devices are found by their numbers, never by their names: names are links, and say nothing.

use crate::block::{self, Sysfs};
use crate::sys::nvme;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use zonal_core::error::{Error, ErrorKind, Result};

/// Whether a path leads to a character device; its number.
pub(crate) fn device_number(path: &Path) -> Option<u64> {
    let found = fs::metadata(path).ok()?;
    found.file_type().is_char_device().then(|| found.rdev())
}

/// A generic device's folder in sysfs.
#[derive(Debug)]
pub(crate) struct Node {
    folder: PathBuf,
    /// What the name has behind `ng`: `0n1`.
    digits: String,
}

impl Node {
    /// Of the device of that number.
    ///
    /// # Errors
    /// `NotZoned`: it is no NVMe namespace. `Unsupported`: sysfs is not there.
    pub(crate) fn find(number: u64) -> Result<Self> {
        let name = format!("{}:{}", libc::major(number), libc::minor(number));
        let characters = Path::new("/sys/dev/char");
        if !characters.exists() {
            let text = "/sys/dev/char is not there; mount sysfs at /sys";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let folder = characters.join(&name).canonicalize().map_err(|error| {
            Error::new(ErrorKind::NotZoned, no_namespace("")).with_source(error)
        })?;
        Self::at(folder)
    }

    fn at(folder: PathBuf) -> Result<Self> {
        let class = folder.join("subsystem").canonicalize().unwrap_or_default();
        let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let (class, name) = (last(&class).unwrap_or_default(), last(&folder).unwrap_or_default());
        match name.strip_prefix("ng") {
            Some(digits) if class == "nvme-generic" => {
                Ok(Self { digits: digits.to_owned(), folder })
            }
            _ if class == "nvme" => {
                let text = "it is an NVMe controller; name one of its namespaces (ls /dev/ng*)";
                Err(Error::new(ErrorKind::NotZoned, text))
            }
            _ => Err(Error::new(ErrorKind::NotZoned, no_namespace(&name))),
        }
    }

    /// What the kernel calls the block device.
    pub(crate) fn block_name(&self) -> String {
        format!("nvme{}", self.digits)
    }

    fn block_folder(&self) -> PathBuf {
        self.folder.with_file_name(self.block_name())
    }

    /// A limit of the block device; none where the kernel shows none.
    fn limit(&self, name: &str) -> Option<u64> {
        let word = fs::read_to_string(self.block_folder().join("queue").join(name)).ok()?;
        word.trim().parse().ok()
    }

    /// The longest transfer that the kernel's driver takes, in bytes.
    pub(crate) fn transfer(&self) -> u64 {
        let length = self.limit("max_hw_sectors_kb").map(|kib| kib.saturating_mul(1024));
        // Each page of a buffer may be a segment of its own.
        length.unwrap_or(u64::MAX).min(self.segments().saturating_mul(PAGE))
    }

    /// How many pieces of memory a command has at most.
    pub(crate) fn segments(&self) -> u64 {
        self.limit("max_segments").unwrap_or(SEGMENTS_UNKNOWN)
    }

    /// Whether the namespace's controllers have queues that are polled, as its commands are asked for there;
    /// if not, why.
    pub(crate) fn can_be_polled(&self) -> Result<(), String> {
        self.polled_below(Path::new("/sys/block"))
    }

    fn polled_below(&self, blocks: &Path) -> Result<(), String> {
        let mut asked = self.paths(blocks);
        if asked.is_empty() {
            asked.push(self.block_folder());
        }
        for folder in asked {
            let setting = folder.join("queue/io_poll");
            let name = folder.file_name().unwrap_or_default().display();
            let shown = format!("/sys/block/{name}/queue/io_poll");
            match fs::read_to_string(&setting) {
                Ok(value) if value.trim() != "0" => {}
                Ok(_) => return Err(format!("{shown} is 0, {NO_POLL_QUEUES}")),
                Err(error) => {
                    return Err(format!(
                        "whether its controller has queues for that the kernel does not say ({shown}: \
                         {error})"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The devices of the controllers that lead to the namespace, where the kernel puts one namespace
    /// before several (`nvme0c1n1` of `nvme0n1`), whose own queue tells nothing; otherwise none.
    fn paths(&self, blocks: &Path) -> Vec<PathBuf> {
        let Some((first, last)) = self.digits.split_once('n') else { return Vec::new() };
        let is_path = |name: &str| {
            let rest = name.strip_prefix("nvme")?.strip_prefix(first)?.strip_prefix('c')?;
            let (controller, namespace) = rest.split_once('n')?;
            let counts = controller.bytes().all(|byte| byte.is_ascii_digit());
            (counts && namespace == last).then_some(())
        };
        let entries = fs::read_dir(blocks).into_iter().flatten().flatten();
        let paths = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_str().and_then(is_path).is_some()
        });
        paths.map(|entry| entry.path()).collect()
    }

    /// Takes the block device, so that no file system, other driver or session gets it; none where the
    /// kernel shows no block device, as for zones of no power of two. Where it may not be opened, says
    /// why.
    ///
    /// # Errors
    /// `InUse`: somebody has it.
    pub(crate) fn claim(&self) -> Result<(Option<File>, Option<String>)> {
        let path = Path::new("/dev").join(self.block_name());
        let Some(number) = self.block_number(&path) else { return Ok((None, None)) };
        let claimed = block::claimed(|| match nvme::open_alone(&path) {
            Ok(file) => Ok(Some((Some(file), None))),
            Err(error) => match error.raw_os_error() {
                Some(libc::EBUSY) => {
                    match Sysfs::find(number).ok().and_then(|found| found.holder()) {
                        Some(holder) => {
                            let text = format!("its block device {}: {holder}", path.display());
                            Err(Error::new(ErrorKind::InUse, text))
                        }
                        None => Ok(None),
                    }
                }
                Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Ok(Some((None, None))),
                _ => Ok(Some((None, Some(not_held(&path, &error))))),
            },
        });
        claimed?.ok_or_else(|| {
            let path = path.display();
            let text = format!(
                "another program has its block device open for itself alone; wait for that to end (fuser -v \
                 {path} names it), or open it to read"
            );
            Error::new(ErrorKind::InUse, text)
        })
    }

    /// The number of the block device at `path`, if it is the namespace's.
    fn block_number(&self, path: &Path) -> Option<u64> {
        let found = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
        let number = found.rdev();
        let stated = fs::read_to_string(self.block_folder().join("dev")).ok()?;
        let same = format!("{}:{}", libc::major(number), libc::minor(number)) == stated.trim();
        same.then_some(number)
    }
}

/// What a block device that may not be opened means for who has the namespace.
fn not_held(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    format!(
        "{path} cannot be held against file systems and other programs ({error}); ls -l {path} names the group \
         that may"
    )
}

/// What makes a controller's `io_poll` 0, and what to do about it.
const NO_POLL_QUEUES: &str = "as its controller has no queues for that (nvme has the module parameter \
                              poll_queues, on the kernel's command line nvme.poll_queues=2; fabrics have \
                              nvme connect --nr-poll-queues)";

/// The memory page of the smallest kernels.
const PAGE: u64 = 4096;

/// How many segments a request has at most where the kernel does not say: as few as its NVMe drivers
/// for PCI devices ever allowed.
const SEGMENTS_UNKNOWN: u64 = 127;

fn no_namespace(name: &str) -> String {
    let what = if name.is_empty() { "it".to_owned() } else { format!("it ({name})") };
    format!(
        "{what} is a character device, and no NVMe namespace; those are called /dev/ng0n1 (ls \
         /dev/ng*), since Linux 5.13"
    )
}

/// What opening the generic device came to.
pub(crate) fn open_error(error: io::Error, path: &Path) -> Error {
    let (kind, text) = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let path = path.display();
            let text = format!("permission denied; ls -l {path} names who may, or do it as root");
            (ErrorKind::Io, text)
        }
        Some(libc::ENXIO | libc::ENODEV | libc::ENOENT) => {
            (ErrorKind::NotFound, "no device answers there; see ls /dev/ng*".to_owned())
        }
        _ => (ErrorKind::Io, format!("opening: {error}")),
    };
    Error::new(kind, text).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder like sysfs's, of a device of that class and name, with the block device beside it.
    fn sysfs(class: &str, name: &str, limits: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (classes, device) = (root.path().join("class").join(class), root.path().join("nvme0"));
        let queue = device.join("nvme0n1/queue");
        fs::create_dir_all(&classes).unwrap();
        fs::create_dir_all(&queue).unwrap();
        fs::create_dir(device.join(name)).unwrap();
        symlink(&classes, device.join(name).join("subsystem")).unwrap();
        for (name, value) in limits {
            fs::write(queue.join(name), format!("{value}\n")).unwrap();
        }
        let folder = device.join(name);
        (root, folder)
    }

    #[test]
    fn a_generic_device_has_the_limits_of_its_block_device() {
        let limits = [("max_hw_sectors_kb", "512"), ("max_segments", "33")];
        let (_root, folder) = sysfs("nvme-generic", "ng0n1", &limits);
        let node = Node::at(folder).unwrap();
        assert_eq!((node.block_name(), node.transfer()), ("nvme0n1".to_owned(), 33 * 4096));
        let (_root, folder) = sysfs("nvme-generic", "ng0n1", &limits[..1]);
        assert_eq!(Node::at(folder).unwrap().transfer(), 127 * 4096);
        let (_root, folder) = sysfs("nvme-generic", "ng1n1", &limits);
        assert_eq!(Node::at(folder).unwrap().transfer(), 127 * 4096, "it has no block device");
    }

    #[test]
    fn a_namespace_can_be_polled_where_each_of_its_controllers_has_queues_for_that() {
        let blocks = tempfile::tempdir().unwrap();
        let polled = |limits| {
            let (_root, folder) = sysfs("nvme-generic", "ng0n1", limits);
            Node::at(folder).unwrap().polled_below(blocks.path())
        };
        assert_eq!(polled(&[("io_poll", "1")]), Ok(()));
        let why = polled(&[("io_poll", "0")]).unwrap_err();
        assert!(why.starts_with("/sys/block/nvme0n1/queue/io_poll is 0"), "{why}");
        assert!(why.contains("nvme.poll_queues=2"), "{why}");
        let why = polled(&[]).unwrap_err();
        assert!(why.contains("does not say (/sys/block/nvme0n1/queue/io_poll: No such"), "{why}");
        // Others' paths, and then its own, of which one is without.
        let path = |name: &str, value: &str| {
            let queue = blocks.path().join(name).join("queue");
            fs::create_dir_all(&queue).unwrap();
            fs::write(queue.join("io_poll"), value).unwrap();
        };
        for name in ["nvme0n1", "nvme0c0n2", "nvme1c0n1", "nvme10c0n1", "nvme0c0n11"] {
            path(name, "0\n");
        }
        assert_eq!(polled(&[("io_poll", "1")]), Ok(()));
        path("nvme0c0n1", "1\n");
        assert_eq!(polled(&[("io_poll", "0")]), Ok(()), "the head's own says nothing");
        path("nvme0c12n1", "0\n");
        let why = polled(&[("io_poll", "1")]).unwrap_err();
        assert!(why.starts_with("/sys/block/nvme0c12n1/queue/io_poll is 0"), "{why}");
    }

    #[test]
    fn what_is_no_namespace_is_refused_by_name() {
        for (class, name, words) in [
            ("nvme", "nvme0", "an NVMe controller; name one"),
            ("mem", "null", "it (null) is a character device, and no NVMe namespace"),
            ("mem", "ng0n1", "no NVMe namespace"),
        ] {
            let (_root, folder) = sysfs(class, name, &[]);
            let error = Node::at(folder).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotZoned);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn another_device_of_the_name_is_not_claimed() {
        let (_root, folder) = sysfs("nvme-generic", "ng0n1", &[]);
        let node = Node::at(folder).unwrap();
        assert_eq!(node.block_number(Path::new("/dev/null")), None);
    }
}
