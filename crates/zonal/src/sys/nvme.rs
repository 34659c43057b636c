//! NVMe commands as the kernel takes them for a namespace's generic device (Linux
//! `include/uapi/linux/nvme_ioctl.h`), and the ioctls that send one and wait.
//!
//! The three structures `nvme_passthru_cmd`, `nvme_passthru_cmd64` and `nvme_uring_cmd` begin with the
//! same 72 bytes. What a command means, and what its answer says, is not known here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of `struct nvme_passthru_cmd64`, which no other of the three is longer than.
pub(crate) const COMMAND_BYTES: usize = 80;

/// `_IOWR('N', 0x80, struct nvme_uring_cmd)`: an I/O command through a ring.
pub(crate) const URING_CMD_IO: u32 = request(3, 72, 0x80);

/// `_IO('N', 0x40)`: which namespace this is.
const ID: u32 = request(0, 0, 0x40);

/// `_IOWR('N', 0x47, struct nvme_passthru_cmd64)`: an admin command.
const ADMIN64: u32 = request(3, COMMAND_BYTES, 0x47);

/// `_IOWR('N', 0x48, struct nvme_passthru_cmd64)`: an I/O command.
const IO64: u32 = request(3, COMMAND_BYTES, 0x48);

/// An ioctl's number as `asm-generic/ioctl.h` puts it together.
#[allow(clippy::cast_possible_truncation, reason = "sizes of structures")]
const fn request(direction: u32, size: usize, number: u8) -> u32 {
    direction << 30 | (size as u32) << 16 | (b'N' as u32) << 8 | number as u32
}

/// A command, but for the bytes it moves (*Common Command Format*). Words that are not named are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) opcode: u8,
    pub(crate) nsid: u32,
    pub(crate) cdw10: u32,
    pub(crate) cdw11: u32,
    pub(crate) cdw12: u32,
    pub(crate) cdw13: u32,
    pub(crate) cdw14: u32,
}

impl Command {
    /// With the bytes it moves: where they are, and how many.
    pub(crate) fn bytes(&self, address: u64, length: u32) -> [u8; COMMAND_BYTES] {
        let mut bytes = [0; COMMAND_BYTES];
        bytes[0] = self.opcode;
        let words = [
            (4, self.nsid),
            (36, length),
            (40, self.cdw10),
            (44, self.cdw11),
            (48, self.cdw12),
            (52, self.cdw13),
            (56, self.cdw14),
        ];
        for (at, word) in words {
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes[24..32].copy_from_slice(&address.to_ne_bytes());
        bytes
    }
}

/// Whose queue a command that is waited for goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Admin,
    Io,
}

/// Opens a generic device; to write it, or to read it alone.
///
/// # Errors
/// Those of `open(2)`.
pub(crate) fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).open(path)
}

/// Opens a block device as the only one who asks to be (`O_EXCL`), to read it.
///
/// # Errors
/// `EBUSY`: a file system, another driver, or another who asked has it. Others of `open(2)`.
pub(crate) fn open_alone(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path)
}

/// Which namespace this is.
///
/// # Errors
/// `ENOTTY` or another: it is none.
pub(crate) fn namespace(file: &File) -> io::Result<u32> {
    // SAFETY: the request takes no argument.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), ID as libc::Ioctl) };
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// Sends a command that reads `into`, and waits for its end; the device's status, which is 0 where it
/// did as it was told.
///
/// # Errors
/// The kernel's: the command was not sent.
pub(crate) fn ask(
    file: &File,
    queue: Queue,
    command: &Command,
    into: &mut [u8],
) -> io::Result<u16> {
    let length = u32::try_from(into.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = command.bytes(into.as_mut_ptr().expose_provenance() as u64, length);
    let request = match queue {
        Queue::Admin => ADMIN64,
        Queue::Io => IO64,
    };
    // SAFETY: the kernel reads and writes the structure, and the device writes at most `length` bytes
    // to the address in it; both outlive the call, which ends when the command has.
    let answer =
        unsafe { libc::ioctl(file.as_raw_fd(), request as libc::Ioctl, bytes.as_mut_ptr()) };
    match answer {
        ..0 => Err(io::Error::last_os_error()),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "15 bits")]
        status => Ok(status as u16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of `nvme_ioctl.h`, as a C compiler puts them together.
    #[test]
    fn requests_have_the_numbers_of_the_kernel() {
        assert_eq!([ID, ADMIN64, IO64], [0x4E40, 0xC050_4E47, 0xC050_4E48]);
        assert_eq!(URING_CMD_IO, 0xC048_4E80);
    }

    #[test]
    fn a_command_lies_as_the_kernel_s_structures_do() {
        let command = Command {
            opcode: 0x7D,
            nsid: 1,
            cdw10: 10,
            cdw11: 11,
            cdw12: 12,
            cdw13: 13,
            cdw14: 14,
        };
        let bytes = command.bytes(0x0102_0304_0506_0708, 4096);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((bytes[0], word(4)), (0x7D, 1));
        assert_eq!(u64::from_ne_bytes(bytes[24..32].try_into().unwrap()), 0x0102_0304_0506_0708);
        assert_eq!([word(32), word(36)], [0, 4096], "no metadata; the data's length");
        assert_eq!([40, 44, 48, 52, 56].map(word), [10, 11, 12, 13, 14]);
        assert!(bytes[60..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_is_no_namespace_has_no_number() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(namespace(&file).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        let error = ask(&file, Queue::Io, &Command::default(), &mut [0; 8]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
