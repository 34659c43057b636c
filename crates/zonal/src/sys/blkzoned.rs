//! The ioctls of zoned block devices (Linux `include/uapi/linux/blkzoned.h`), and how such a device
//! is opened.
//!
//! All of them block: the kernel sends a command to the device and waits. What a report says is handed
//! on as bytes; [`crate::block`] takes them apart.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of `struct blk_zone_report`, the head of a report.
const HEAD: usize = 16;

/// Bytes of `struct blk_zone`, one zone of a report.
pub(crate) const ZONE_BYTES: usize = 64;

/// `_IOWR(0x12, 130, struct blk_zone_report)`.
const BLKREPORTZONE: libc::Ioctl = request(3, HEAD, 130);

/// `_IOW(0x12, n, struct blk_zone_range)`; the range has 16 bytes.
const fn range_request(number: u8) -> libc::Ioctl {
    request(1, 16, number)
}

/// An ioctl's number as `asm-generic/ioctl.h` puts it together.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "32 bits in use")]
const fn request(direction: u32, size: usize, number: u8) -> libc::Ioctl {
    (direction << 30 | (size as u32) << 16 | 0x12 << 8 | number as u32) as libc::Ioctl
}

/// What the kernel is asked to do to zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manage {
    /// `BLKRESETZONE`.
    Reset,
    /// `BLKOPENZONE`, since Linux 5.5 as the two below.
    Open,
    /// `BLKCLOSEZONE`.
    Close,
    /// `BLKFINISHZONE`.
    Finish,
}

impl Manage {
    const fn request(self) -> libc::Ioctl {
        range_request(match self {
            Self::Reset => 131,
            Self::Open => 134,
            Self::Close => 135,
            Self::Finish => 136,
        })
    }
}

/// A part of a report: as many zones as the kernel had room for.
pub(crate) struct RawReport {
    /// Whether zones say their capacity (`BLK_ZONE_REP_CAPACITY`, since Linux 5.9).
    pub(crate) has_capacity: bool,
    /// [`ZONE_BYTES`] each.
    pub(crate) zones: Vec<u8>,
}

/// Opens a block device for direct I/O; to write it, as the only one who asks to be
/// (`O_EXCL`): the kernel refuses with `EBUSY` when a file system, another driver or another writer
/// has it.
///
/// # Errors
/// Those of `open(2)`.
pub(crate) fn open(path: &Path, write: bool) -> io::Result<File> {
    let exclusive = if write { libc::O_EXCL } else { 0 };
    OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT | exclusive).open(path)
}

/// Reports up to `count` zones from the one on that holds `sector` (of 512 bytes).
///
/// # Errors
/// `ENOTTY`: not zoned, or a kernel that knows no zones. Otherwise the device's.
pub(crate) fn report(file: &File, sector: u64, count: u32) -> io::Result<RawReport> {
    let zones_bytes = count as usize * ZONE_BYTES;
    // Of words, so that it is aligned as the kernel's structures are.
    let mut buffer = vec![0_u64; (HEAD + zones_bytes) / 8];
    buffer[0] = sector;
    buffer[1] = u64::from_ne_bytes(pair(count, 0));
    // SAFETY: the kernel reads the head, and writes it and at most `count` zones behind it, for
    // which the buffer, alive during the call, has room.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKREPORTZONE, buffer.as_mut_ptr()) })?;
    let [a, b, c, d, flags @ ..] = buffer[1].to_ne_bytes();
    let found = u32::from_ne_bytes([a, b, c, d]).min(count) as usize;
    let has_capacity = u32::from_ne_bytes(flags) & 1 != 0;
    let words = &buffer[HEAD / 8..][..found * ZONE_BYTES / 8];
    let zones = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(RawReport { has_capacity, zones })
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Does something to the zones of a range, in sectors of 512 bytes.
///
/// # Errors
/// `ENOTTY`: a kernel that does not know the request. `EBADF`: not open for writing. Otherwise the
/// device's.
pub(crate) fn manage(file: &File, what: Manage, sector: u64, sectors: u64) -> io::Result<()> {
    let range = [sector, sectors];
    // SAFETY: the kernel reads the two words of `struct blk_zone_range`, which outlive the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), what.request(), range.as_ptr()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of `blkzoned.h`, as a C compiler puts them together.
    #[test]
    fn requests_have_the_numbers_of_the_kernel() {
        assert_eq!(BLKREPORTZONE, 0xC010_1282);
        let numbers = [Manage::Reset, Manage::Open, Manage::Close, Manage::Finish];
        let expected = [0x4010_1283, 0x4010_1286, 0x4010_1287, 0x4010_1288];
        assert_eq!(numbers.map(Manage::request), expected);
    }

    #[test]
    fn what_has_no_zones_is_no_terminal() {
        let file = tempfile::tempfile().unwrap();
        let error = report(&file, 0, 1).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        let error = manage(&file, Manage::Reset, 0, 8).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
