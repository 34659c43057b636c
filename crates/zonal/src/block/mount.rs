//! What the kernel says of a mounted zonefs: where it is, how it was mounted, and its limits.

use rustix::fs::statfs;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use zonal_core::error::{Error, ErrorKind, Result};

/// `ZONEFS_MAGIC` (Linux `include/uapi/linux/magic.h`).
const ZONEFS_MAGIC: u64 = 0x5a4f_4653;

/// What happens to an I/O error under the mount option `errors=`, by default.
const ERRORS_DEFAULT: &str = "remount-ro";

/// Whether a path is on a mounted zonefs.
pub(crate) fn is_zonefs(path: &Path) -> bool {
    // Its type differs from one architecture to the next, and so may its sign.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    statfs(path).is_ok_and(|found| found.f_type as u64 & 0xFFFF_FFFF == ZONEFS_MAGIC)
}

/// How a zonefs is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) read_only: bool,
    /// What the kernel does about an I/O error.
    pub(super) errors: String,
}

impl Mount {
    /// That of the device `number` (major:minor), the one at `path` if there are several.
    ///
    /// # Errors
    /// `Unsupported`: `/proc` does not tell.
    pub(super) fn of(number: &str, path: &Path) -> Result<Self> {
        let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self::among(&mounts, number, path).ok_or_else(|| {
            let text = "/proc/self/mountinfo has no zonefs of this device; mount proc at /proc";
            Error::new(ErrorKind::Unsupported, text)
        })
    }

    /// The same by the lines of `mountinfo` (`proc_pid_mountinfo(5)`).
    pub(super) fn among(mounts: &[u8], number: &str, path: &Path) -> Option<Self> {
        let lines = mounts.split(|&byte| byte == b'\n');
        let mut found: Vec<Self> = lines.filter_map(|line| Self::parse(line, number)).collect();
        let at = found.iter().position(|mount| mount.point == path).unwrap_or(0);
        (at < found.len()).then(|| found.swap_remove(at))
    }

    fn parse(line: &[u8], number: &str) -> Option<Self> {
        let line = Line::parse(line).filter(|line| line.number == number.as_bytes())?;
        let Line { point, here, kind, options, .. } = line;
        (kind == b"zonefs").then_some(())?;
        let options = String::from_utf8_lossy(options).into_owned();
        let has = |option: &str| options.split(',').any(|word| word == option);
        let errors = options.split(',').find_map(|word| word.strip_prefix("errors="));
        Some(Self {
            point,
            read_only: has("ro") || here.split(|&byte| byte == b',').any(|word| word == b"ro"),
            errors: errors.unwrap_or(ERRORS_DEFAULT).to_owned(),
        })
    }
}

/// Where the device `number` (major:minor) is mounted, whatever file system it has, by the lines of
/// `mountinfo` (`proc_pid_mountinfo(5)`). Some (btrfs) have a number of their own there, and the device
/// as their source: whether it is that, `is_it` says.
pub(super) fn mounted(
    mounts: &[u8],
    number: &str,
    is_it: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let mut lines = mounts.split(|&byte| byte == b'\n').filter_map(Line::parse);
    let found = lines.find(|line| line.number == number.as_bytes() || is_it(&line.source));
    found.map(|line| line.point)
}

/// What a line of `mountinfo` tells of a mount.
struct Line<'a> {
    number: &'a [u8],
    point: PathBuf,
    /// Its own options.
    here: &'a [u8],
    kind: &'a [u8],
    source: PathBuf,
    /// Those of the file system.
    options: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        // Its identifier, its parent's, the device, the root in it, the point, options; fields without number
        // up to a dash; the kind, the source, and options.
        let mut words = line.split(|&byte| byte == b' ').skip(2);
        let (number, point, here) = (words.next()?, words.nth(1)?, words.next()?);
        let mut words = words.skip_while(|&word| word != b"-").skip(1);
        let (kind, source, options) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            number,
            point: unescaped(point),
            here,
            kind,
            source: unescaped(source),
            options,
        })
    }
}

/// A path as `mountinfo` writes it: spaces, tabs, newlines and backslashes as three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| byte == b'\\');
        let code = octal.and_then(|digits| str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// A number that zonefs tells of a mounted device called `name`; none before Linux 5.19.
pub(super) fn attribute(name: &str, attribute: &str) -> Option<u32> {
    let path = Path::new("/sys/fs/zonefs").join(name).join(attribute);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 1 254:1 / / rw - ext4 /dev/vda1 rw
31 30 252:0 / /mnt/a\\040b rw,relatime shared:7 - zonefs /dev/nullb0 rw,errors=remount-ro
32 30 252:0 / /mnt/c ro,relatime - zonefs /dev/nullb0 rw,errors=zone-ro
33 30 259:1 / /mnt/d rw - zonefs /dev/nvme0n1 ro
34 30 0:40 / /mnt/e rw shared:9 master:2 - btrfs /dev/b rw,ssd
";

    fn among(number: &str, path: &str) -> Option<Mount> {
        Mount::among(MOUNTS.as_bytes(), number, Path::new(path))
    }

    #[test]
    fn a_mount_is_found_by_its_device_and_then_by_its_place() {
        let mount = among("252:0", "/mnt/c").unwrap();
        assert!(mount.read_only);
        assert_eq!(mount.errors, "zone-ro");
        let mount = among("252:0", "/elsewhere").unwrap();
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert!(!mount.read_only);
        let mount = among("259:1", "/mnt/d").unwrap();
        assert_eq!((mount.read_only, &*mount.errors), (true, ERRORS_DEFAULT));
        assert_eq!(among("254:1", "/"), None, "no zonefs");
        let anywhere = |number| mounted(MOUNTS.as_bytes(), number, |path| path == "/dev/b");
        assert_eq!(anywhere("254:1"), Some("/".into()));
        assert_eq!(anywhere("252:0"), Some("/mnt/a b".into()), "the first");
        assert_eq!(anywhere("1:254"), Some("/mnt/e".into()), "by its source");
        assert_eq!(mounted(MOUNTS.as_bytes(), "1:254", |_| false), None);
        assert_eq!(among("1:1", "/"), None);
    }

    #[test]
    fn what_is_mounted_elsewhere_is_no_zonefs() {
        assert!(!is_zonefs(Path::new("/proc")));
        assert!(!is_zonefs(Path::new("/no/such/place")));
    }
}
