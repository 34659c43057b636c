//! What `std` does not offer on files: direct opening, who a file is, and its allocation.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, StatxTimestamp};
use rustix::fs::{fallocate, fcntl_getfl, fcntl_setfl, statx};
use rustix::io::retry_on_intr;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It exists, and is only read.
    ReadOnly,
    /// It exists.
    ReadWrite,
    /// It is made, and must not have existed.
    CreateNew,
}

/// Opens a file, without waiting for the other end of a pipe, for direct I/O, or through the page
/// cache where its file system refuses that; tells which (true: direct).
///
/// # Errors
/// Those of `open(2)`.
pub(crate) fn open_direct(path: &Path, access: Access) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(access != Access::ReadOnly).create_new(access == Access::CreateNew);
    match options.custom_flags(libc::O_DIRECT | libc::O_NONBLOCK).open(path) {
        Ok(file) => Ok((waiting(file)?, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // Some file systems make the file before they refuse to open it like this.
            let made = access == Access::CreateNew && path.exists();
            options.create_new(access == Access::CreateNew && !made);
            Ok((waiting(options.custom_flags(libc::O_NONBLOCK).open(path)?)?, false))
        }
        Err(error) => Err(error),
    }
}

/// The file without `O_NONBLOCK`, which is for its opening alone: with it a ring fails with `EAGAIN`
/// what it would otherwise give to a worker: older kernels always, later ones where the file system
/// knows no `IOCB_NOWAIT`.
fn waiting(file: File) -> io::Result<File> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Which file it is, and when it was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    /// The device's major number in the high half, its minor number in the low half.
    pub(crate) device: u64,
    /// The inode's number, which may be used again once the file is deleted.
    pub(crate) inode: u64,
    /// When it was made, in nanoseconds since 1970; none where the file system does not know.
    pub(crate) born_ns: Option<u64>,
    /// When its content was last changed, in nanoseconds since 1970.
    pub(crate) modified_ns: u64,
    /// Who owns it.
    pub(crate) owner: u32,
    /// Its type and permissions, as in `st_mode`.
    pub(crate) mode: u32,
    /// How many names it has.
    pub(crate) links: u32,
}

impl FileIdentity {
    /// Whether it is a regular file.
    pub(crate) fn is_regular(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// Reads who an open file is.
///
/// # Errors
/// Those of `statx(2)`.
pub(crate) fn identity(file: &File) -> io::Result<FileIdentity> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    let knows_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(FileIdentity {
        device: u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
        inode: found.stx_ino,
        born_ns: knows_birth.then(|| nanoseconds(found.stx_btime)),
        modified_ns: nanoseconds(found.stx_mtime),
        owner: found.stx_uid,
        mode: u32::from(found.stx_mode),
        links: found.stx_nlink,
    })
}

/// Since 1970; times before that count as 1970.
fn nanoseconds(time: StatxTimestamp) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::from(time.tv_nsec))
}

/// Whether a device (as in [`FileIdentity::device`]) has queues that are polled, by the setting that
/// tells it; none where the device is not in sysfs, as those of file systems over several are not.
pub(crate) fn polled_queues(device: u64) -> Option<(PathBuf, bool)> {
    let (setting, value) = queue_setting(device, "io_poll")?;
    Some((setting, value != "0"))
}

/// A setting of a device's queue: where it stands in sysfs, and what it says.
fn queue_setting(device: u64, name: &str) -> Option<(PathBuf, String)> {
    let (major, minor) = (device >> 32, device & u64::from(u32::MAX));
    let found = Path::new(&format!("/sys/dev/block/{major}:{minor}")).canonicalize().ok()?;
    // A partition's queue is that of the disk it is on.
    let disk = found.ancestors().take(2).find(|place| place.join("queue").is_dir())?;
    let setting = Path::new("/sys/block").join(disk.file_name()?).join("queue").join(name);
    let value = std::fs::read_to_string(&setting).ok()?;
    Some((setting, value.trim().to_owned()))
}

/// `STATX_DIOALIGN` of `linux/stat.h`: Linux 6.1.
const DIRECT_ALIGNMENT_FIELDS: u32 = 0x2000;

/// Whether an open file's direct I/O is really direct. A file may be opened for it, and its file system then
/// go through the page cache all the same: ext4 does so with journalled data. True where the kernel
/// does not tell.
///
/// # Errors
/// Those of `statx(2)`.
pub(crate) fn is_really_direct(file: &File) -> io::Result<bool> {
    let wanted = StatxFlags::from_bits_retain(DIRECT_ALIGNMENT_FIELDS);
    let found = statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    Ok(found.stx_mask & DIRECT_ALIGNMENT_FIELDS == 0 || found.stx_dio_mem_align != 0)
}

/// What the kernel promises of untorn writes to a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UntornUnits {
    /// The smallest unit.
    pub(crate) min: u64,
    /// The largest.
    pub(crate) max: u64,
    /// The largest that is written in place by the device itself, and not by copy-on-write; 0: none.
    pub(crate) max_fast: u64,
}

/// `STATX_WRITE_ATOMIC` and `STATX_ATTR_WRITE_ATOMIC` of `linux/stat.h`.
const WRITE_ATOMIC_FIELDS: u32 = 0x0001_0000;
const WRITE_ATOMIC_ATTRIBUTE: u64 = 0x0040_0000;

/// Asks what the kernel promises of untorn writes to an open file; none: nothing.
///
/// # Errors
/// Those of `statx(2)`.
pub(crate) fn untorn_units(file: &File) -> io::Result<Option<UntornUnits>> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::from_bits_retain(WRITE_ATOMIC_FIELDS);
    let found = statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    let is_device = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    let (major, minor) = match is_device {
        true => (found.stx_rdev_major, found.stx_rdev_minor),
        false => (found.stx_dev_major, found.stx_dev_minor),
    };
    let device = u64::from(major) << 32 | u64::from(minor);
    let in_place = queue_setting(device, "atomic_write_unit_max_bytes");
    Ok(promised(
        found.stx_attributes.bits(),
        [
            found.stx_atomic_write_unit_min,
            found.stx_atomic_write_unit_max,
            found.stx_atomic_write_unit_max_opt,
        ],
        in_place.and_then(|(_, value)| value.parse().ok()),
    ))
}

/// What `statx` says, taken together. That the fields are there proves nothing: ext4 and XFS fill them with
/// zeros where they promise nothing, so the attribute and the largest unit count.
///
/// Where no limit of the fast path is stated, it is as far as the device goes by itself: a file system that
/// does it all by copy-on-write states none either.
fn promised(
    attributes: u64,
    [min, max, opt]: [u32; 3],
    device: Option<u64>,
) -> Option<UntornUnits> {
    let (min, max, opt) = (u64::from(min), u64::from(max), u64::from(opt));
    if attributes & WRITE_ATOMIC_ATTRIBUTE == 0 || max == 0 {
        return None;
    }
    let max_fast = if opt != 0 { opt } else { device.unwrap_or(0) };
    Some(UntornUnits { min, max, max_fast: max_fast.min(max) })
}

/// Allocates a range, so that writes into it need no new space. Lengthens the file where the
/// range ends past its end.
///
/// # Errors
/// `ENOSPC`; `EOPNOTSUPP` where the file system cannot.
pub(crate) fn allocate(file: &File, offset: u64, length: u64) -> io::Result<()> {
    // Older kernels let a completion of a ring interrupt it in memory file systems.
    Ok(retry_on_intr(|| fallocate(file, FallocateFlags::empty(), offset, length))?)
}

/// Makes a range read as zeros without writing them: punched out, or marked as never written.
/// The file's length stays.
///
/// # Errors
/// `EOPNOTSUPP` where the file system can do neither: write zeros then.
pub(crate) fn zero(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mark = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, punch, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(fallocate(file, mark, offset, length)?),
        result => Ok(result?),
    }
}

/// Sets the length of the file that a path leads to, without opening it.
///
/// # Errors
/// Those of `truncate(2)`.
pub(crate) fn truncate(path: &Path, length: u64) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let length = libc::off64_t::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the name ends with a zero byte and outlives the call, which only reads it.
    match unsafe { libc::truncate64(name.as_ptr(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether holes can be punched into a file open for writing. Tried past its end, where there is
/// nothing to lose.
pub(crate) fn can_punch(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let offset = length.checked_next_multiple_of(1 << 20).ok_or(io::ErrorKind::FileTooLarge)?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, punch, offset, 4096) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};

    #[test]
    fn a_new_file_is_made_once_and_knows_who_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let (file, _) = open_direct(&path, Access::CreateNew).unwrap();
        let again = open_direct(&path, Access::CreateNew).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let other = File::create(directory.path().join("other")).unwrap();
        let (same, _) = open_direct(&path, Access::ReadOnly).unwrap();
        assert_eq!(identity(&file).unwrap(), identity(&same).unwrap());
        assert_ne!(identity(&file).unwrap().inode, identity(&other).unwrap().inode);
        assert!(identity(&file).unwrap().is_regular());
    }

    #[test]
    fn fields_of_zeros_and_a_missing_attribute_promise_nothing() {
        let attribute = WRITE_ATOMIC_ATTRIBUTE;
        assert_eq!(promised(0, [4096, 65536, 0], Some(65536)), None);
        assert_eq!(promised(attribute, [0, 0, 0], Some(65536)), None);
        let units = |max_fast| Some(UntornUnits { min: 4096, max: 65536, max_fast });
        assert_eq!(promised(attribute, [4096, 65536, 0], Some(1 << 20)), units(65536));
        assert_eq!(promised(attribute, [4096, 65536, 0], Some(0)), units(0));
        assert_eq!(promised(attribute, [4096, 65536, 0], None), units(0));
        assert_eq!(promised(attribute, [4096, 65536, 16384], Some(0)), units(16384));
    }

    #[test]
    fn an_open_file_makes_a_ring_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        for access in [Access::CreateNew, Access::ReadWrite, Access::ReadOnly] {
            let (file, direct) = open_direct(&path, access).unwrap();
            let flags = fcntl_getfl(&file).unwrap();
            assert!(!flags.contains(OFlags::NONBLOCK), "{access:?}");
            assert_eq!(flags.contains(OFlags::DIRECT), direct, "{access:?}");
        }
    }

    #[test]
    fn a_file_is_cut_by_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        truncate(file.path(), 4096).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), 4096);
        let error = truncate(Path::new("/no/such/file"), 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_zeroed_range_reads_as_zeros_and_nothing_else_does() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[9; 16384]).unwrap();
        zero(&file, 4096, 8192).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let expected = [[9; 4096], [0; 4096], [0; 4096], [9; 4096]].concat();
        assert_eq!(bytes, expected);
        assert!(can_punch(&file).is_ok());
        assert_eq!(file.metadata().unwrap().len(), 16384);
    }
}
