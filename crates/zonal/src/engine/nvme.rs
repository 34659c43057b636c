//! What a ring says to an NVMe namespace, and what it hears (`IORING_OP_URING_CMD`).
//!
//! A command is larger than an ordinary entry has room for, and its answer has a word more: the block
//! at which an append landed. So the ring has entries of 128 bytes and completions of 32.
//!
//! A command is done whole or not at all, and does not say how many bytes it moved: that is noted for
//! each slot when its command goes out, and so is where it landed when it comes back.
//!
//! Where the device is asked for completions ([`Polled`]), it is so for the commands that move records:
//! those are short, and many. A flush, what is done to zones, and reports may take their time, and
//! interrupt when they have.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::types::Fixed;
use io_uring::{cqueue, opcode, squeue};
use zonal_core::zone::ZoneOp;

use super::polled::{Polled, refused};
use super::uring::{Below, REGISTERED, Uring, os_error, probe};
use super::{EngineOptions, Io, IoKind};
use crate::buffer::{Arena, Buffer};
use crate::nvme::{Namespace, Status};
use crate::sys::DIRECT_ALIGNMENT;
use crate::sys::kernel::{release, version};
use crate::sys::nvme::{Command, URING_CMD_IO};

/// What only a device with zones of its own is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zoned {
    /// The bytes go to the end of the zone that starts at the offset, wherever that is.
    Append,
    /// A report of the zones from the offset on is read.
    Report,
    /// Something is done to the zone that starts at the offset.
    Manage(ZoneOp),
    /// All zones that can be reset are.
    ResetAll,
}

/// An opened namespace; a clone is another handle of it.
#[derive(Clone, Debug)]
pub(crate) struct NvmeDisk {
    file: Arc<File>,
    namespace: Namespace,
    /// Whether the kernel takes commands from parts of buffers that a ring knows.
    takes_parts: bool,
}

impl NvmeDisk {
    pub(crate) fn new(file: File, namespace: Namespace) -> Self {
        Self { file: Arc::new(file), namespace, takes_parts: true }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Whether the kernel gives rings that take commands.
    ///
    /// # Errors
    /// `Unsupported`: it gives none, or knows no commands in rings.
    pub(crate) fn probe() -> io::Result<()> {
        probe::<Commands>()
    }

    /// Asks for a report by a ring, into a buffer that the ring knows, to see whether the kernel takes
    /// such commands.
    ///
    /// # Errors
    /// The kernel's or the device's.
    pub(crate) fn try_command(&self) -> io::Result<()> {
        self.try_part_of(1)
    }

    /// Sees whether the kernel takes commands from parts of buffers that a ring knows, of so many pages
    /// and more; if not, buffers are not made known from here on. Linux 6.1 to 6.11 count the whole rest of
    /// such a buffer against what a command may have, some of them even where it is short.
    ///
    /// # Errors
    /// The kernel's or the device's, of anything else.
    pub(crate) fn try_parts(&mut self, pages: u64) -> io::Result<()> {
        let pages = u32::try_from(pages).unwrap_or(PARTS_MAX).clamp(2, PARTS_MAX);
        match self.try_part_of(pages) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                tracing::debug!(pages, "the kernel takes no parts of known buffers");
                self.takes_parts = false;
                Ok(())
            }
            result => result,
        }
    }

    /// Asks for a report into the first page of so many that a ring knows, as far as they may be locked.
    fn try_part_of(&self, pages: u32) -> io::Result<()> {
        let arena = Arena::new(pages, DIRECT_ALIGNMENT)?;
        let options = EngineOptions { sq_entries: 1, cq_entries: 1, ..EngineOptions::default() };
        let buffer = arena.lease(DIRECT_ALIGNMENT).ok_or(io::ErrorKind::OutOfMemory)?;
        self.ring(&options, Some(&arena))?.try_once(buffer, true, Some(Zoned::Report))
    }

    /// A ring for the calling thread.
    ///
    /// # Errors
    /// As [`Disk::engine`](super::Disk::engine).
    pub(crate) fn ring(
        &self,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Uring<Commands>> {
        let commands = Commands::new(self, options.sq_entries);
        Uring::over(commands, &self.options(options), arena)
    }

    fn options(&self, options: &EngineOptions) -> EngineOptions {
        let register_buffers = options.register_buffers && self.takes_parts;
        let sq_entries = entries(options.sq_entries, &release());
        EngineOptions { register_buffers, sq_entries, ..*options }
    }

    /// A ring that asks the device, and an ordinary one, for the calling thread, after one command that
    /// shows whether the kernel takes such. Whether the device has queues that are polled that does
    /// not show: the kernel lets it interrupt otherwise, and says nothing.
    ///
    /// # Errors
    /// As [`Disk::engine`](super::Disk::engine).
    pub(crate) fn polled(
        &self,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Polled<Commands>> {
        let release = release();
        if version(&release) < POLLS_SAFELY {
            return Err(refused(&format!(
                "this kernel ({release}) may crash when it polls for commands; it takes Linux 6.5"
            )));
        }
        let commands = Commands::new(self, options.sq_entries);
        let mut rings = Polled::over(&commands, &self.options(options), arena)?;
        let page = Buffer::unpooled(DIRECT_ALIGNMENT);
        match rings.asking_mut().try_once(page, false, Some(Zoned::Report)) {
            Ok(()) => Ok(rings),
            Err(error) if is_unknown(&error) => {
                Err(refused("this kernel's driver polls for no commands"))
            }
            Err(error) => Err(error),
        }
    }
}

/// How many pages [`NvmeDisk::try_parts`] makes known at most: more than a command has segments on any
/// transport but those without a limit.
const PARTS_MAX: u32 = 1024;

/// From which kernel on it polls for commands without looking at what it has already freed: before, its driver
/// asked by the command's first piece of memory (`struct bio`), which may be gone.
const POLLS_SAFELY: (u32, u32) = (6, 5);

/// The kernels that look at a command's entry again after they have taken it: a command for which the driver has no
/// room at once goes to a worker, which issues what the entry holds by then, and be it another command
/// (`io_uring_cmd`, mended in 6.14: *switch sqe to async_data on EAGAIN*).
const LOOKS_AGAIN: std::ops::Range<(u32, u32)> = (6, 10)..(6, 14);

/// How many entries a ring has there, which is as many as io_uring gives: so many other commands are sent before an
/// entry is used again.
const ENTRIES_KEPT: u32 = 1 << 15;

/// How many entries a ring has on a kernel, where so many are wanted.
fn entries(wanted: u32, release: &str) -> u32 {
    if LOOKS_AGAIN.contains(&version(release)) { ENTRIES_KEPT.max(wanted) } else { wanted }
}

/// Whether the kernel said that it knows no such thing.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL))
}

/// The commands of one ring.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    disk: NvmeDisk,
    /// By the number of the queue's slot, which is the token.
    slots: Box<[Noted]>,
}

/// What is noted of a slot's last command.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    /// How many bytes it moves.
    bytes: u32,
    /// At which block it landed, if it was an append that has ended well.
    block: u64,
}

impl Commands {
    fn new(disk: &NvmeDisk, slots: u32) -> Self {
        Self { disk: disk.clone(), slots: vec![Noted::default(); slots as usize].into() }
    }

    fn slot(&self, token: u64) -> Option<&Noted> {
        self.slots.get(usize::try_from(token).ok()?)
    }

    fn slot_mut(&mut self, token: u64) -> Option<&mut Noted> {
        self.slots.get_mut(usize::try_from(token).ok()?)
    }

    /// The command of a request, and how many bytes it moves; none for what a device has no command
    /// for.
    fn command(&self, io: &Io) -> Option<(Command, usize)> {
        let namespace = self.disk.namespace;
        let durable = match io.kind {
            IoKind::WriteDurable => true,
            IoKind::Read | IoKind::Write | IoKind::SyncData | IoKind::Zero => false,
        };
        let Io { offset, len, .. } = *io;
        Some(match (io.zoned, io.kind) {
            (Some(Zoned::Append), _) => (namespace.append(offset, len, durable), len),
            (Some(Zoned::Report), _) => (namespace.report(offset, len), len),
            (Some(Zoned::Manage(op)), _) => (namespace.manage(offset, op), 0),
            (Some(Zoned::ResetAll), _) => (namespace.reset_all(), 0),
            (None, IoKind::Read) => (namespace.read(offset, len), len),
            (None, IoKind::Write | IoKind::WriteDurable) => {
                (namespace.write(offset, len, durable), len)
            }
            (None, IoKind::SyncData) => (namespace.flush(), 0),
            (None, IoKind::Zero) => return None,
        })
    }
}

impl Uring<Commands> {
    /// Where the last append of a slot landed, in bytes of the drive.
    pub(crate) fn landed(&self, token: u64) -> Option<u64> {
        let commands = self.below();
        commands.slot(token).map(|slot| commands.disk.namespace.offset(slot.block))
    }
}

impl Polled<Commands> {
    /// As [`Uring::landed`]: all appends are asked for.
    pub(crate) fn landed(&self, token: u64) -> Option<u64> {
        self.asking().landed(token)
    }
}

impl AsRawFd for Commands {
    fn as_raw_fd(&self) -> RawFd {
        self.disk.file.as_raw_fd()
    }
}

impl Below for Commands {
    type Entry = squeue::Entry128;
    type Completion = cqueue::Entry32;
    const NEEDED: &'static [(u8, &'static str)] = &[
        (opcode::UringCmd80::CODE, "commands to devices (uring_cmd, Linux 5.19)"),
        (opcode::PollAdd::CODE, "poll"),
    ];

    fn is_polled(io: &Io) -> bool {
        match (io.zoned, io.kind) {
            (None | Some(Zoned::Append), IoKind::Read | IoKind::Write | IoKind::WriteDurable) => {
                true
            }
            (_, IoKind::SyncData | IoKind::Zero)
            | (Some(Zoned::Report | Zoned::Manage(_) | Zoned::ResetAll), _) => false,
        }
    }

    fn entry(&mut self, io: &Io, known: bool) -> squeue::Entry128 {
        let Some((command, bytes)) = self.command(io) else {
            // The kernel refuses it of a character device.
            return opcode::Fallocate::new(Fixed(REGISTERED), io.len as u64).build().into();
        };
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(slot) = self.slot_mut(io.token) {
            slot.bytes = length;
        }
        let address = if length == 0 { 0 } else { io.ptr.expose_provenance() as u64 };
        opcode::UringCmd80::new(Fixed(REGISTERED), URING_CMD_IO)
            .buf_index((known && length > 0).then_some(0))
            .cmd(command.bytes(address, length))
            .build()
    }

    fn note(&mut self, completion: &cqueue::Entry32) {
        if let Some(slot) = self.slot_mut(completion.user_data()) {
            slot.block = completion.big_cqe()[0];
        }
    }

    /// Zero: all of it. Above: the device's status. Below: the kernel's number.
    fn result(&self, token: u64, result: i32) -> io::Result<u32> {
        match u16::try_from(result) {
            Ok(0) => Ok(self.slot(token).map_or(0, |slot| slot.bytes)),
            Ok(status) => Err(Status::new(status).into()),
            // So the driver ends what it cancels, a command that took too long among them.
            Err(_) if result == -libc::EINTR => Err(Status::ABORTED_BY_HOST.into()),
            Err(_) => Err(os_error(result)),
        }
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_look_at_an_entry_again_have_long_rings() {
        for (release, expected) in [
            ("6.9.12", 64),
            ("6.10.0", ENTRIES_KEPT),
            ("6.12.117+deb12-amd64", ENTRIES_KEPT),
            ("6.13.7", ENTRIES_KEPT),
            ("6.14.0", 64),
            ("7.2.12+deb13-amd64", 64),
        ] {
            assert_eq!(entries(64, release), expected, "{release}");
        }
    }

    fn commands() -> Commands {
        let namespace = Namespace { nsid: 1, block_shift: 12 };
        Commands::new(&NvmeDisk::new(tempfile::tempfile().unwrap(), namespace), 4)
    }

    fn io(kind: IoKind, zoned: Option<Zoned>, token: u64) -> Io {
        let ptr = std::ptr::without_provenance_mut(0x10000);
        Io { kind, offset: 1 << 20, ptr, len: 8192, fixed: false, token, zoned }
    }

    #[test]
    fn a_result_is_all_of_it_or_a_status_or_an_error() {
        let mut commands = commands();
        commands.entry(&io(IoKind::Write, Some(Zoned::Append), 3), false);
        assert_eq!(commands.result(3, 0).unwrap(), 8192);
        let error = commands.result(3, 0x41BD).unwrap_err();
        assert_eq!(Status::of(&error), Some(Status::new(0x1BD)));
        let error = commands.result(3, -libc::EINTR).unwrap_err();
        assert_eq!(Status::of(&error), Some(Status::ABORTED_BY_HOST));
        assert!(error.to_string().contains("the kernel gave the command up"), "{error}");
        let error = commands.result(3, -libc::EOPNOTSUPP).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        assert_eq!(commands.result(1 << 63, 0).unwrap(), 0, "a task's");
    }

    #[test]
    fn requests_become_their_commands() {
        let commands = commands();
        let opcode = |kind, zoned| {
            let (command, bytes) = commands.command(&io(kind, zoned, 0)).unwrap();
            (command.opcode, command.cdw12 >> 30 & 1, bytes)
        };
        assert_eq!(opcode(IoKind::Write, Some(Zoned::Append)), (0x7D, 0, 8192));
        assert_eq!(opcode(IoKind::WriteDurable, Some(Zoned::Append)), (0x7D, 1, 8192));
        assert_eq!(opcode(IoKind::WriteDurable, None), (0x01, 1, 8192));
        assert_eq!(opcode(IoKind::Read, None), (0x02, 0, 8192));
        assert_eq!(opcode(IoKind::SyncData, None), (0x00, 0, 0));
        assert_eq!(opcode(IoKind::Read, Some(Zoned::Report)).0, 0x7A);
        let manage = Zoned::Manage(ZoneOp::Reset);
        assert_eq!(opcode(IoKind::SyncData, Some(manage)), (0x79, 0, 0));
        assert_eq!(opcode(IoKind::SyncData, Some(Zoned::ResetAll)), (0x79, 0, 0));
        assert!(commands.command(&io(IoKind::Zero, None, 0)).is_none());
    }

    #[test]
    fn a_kernel_that_may_crash_is_not_asked_to_poll() {
        for release in ["6.1.0-50-amd64\n", "6.4.16", "5.19.0", "6", "", "six.five"] {
            assert!(version(release) < POLLS_SAFELY, "{release:?}");
        }
        for release in ["6.5.0", "6.12.117+deb12-amd64\n", "7.0-rc1", "10.0.1"] {
            assert!(version(release) >= POLLS_SAFELY, "{release:?}");
        }
    }

    #[test]
    fn what_moves_records_is_asked_for_and_nothing_else_is() {
        let is_polled = |kind, zoned| Commands::is_polled(&io(kind, zoned, 0));
        assert!(is_polled(IoKind::Read, None));
        for kind in [IoKind::Write, IoKind::WriteDurable] {
            assert!(is_polled(kind, None) && is_polled(kind, Some(Zoned::Append)));
        }
        for (kind, zoned) in [
            (IoKind::SyncData, None),
            (IoKind::Zero, None),
            (IoKind::SyncData, Some(Zoned::Manage(ZoneOp::Reset))),
            (IoKind::SyncData, Some(Zoned::ResetAll)),
            (IoKind::Read, Some(Zoned::Report)),
        ] {
            assert!(!is_polled(kind, zoned), "{kind:?} {zoned:?}");
        }
    }

    /// As on a kernel whose driver does not know commands in rings, and what zeroing comes to.
    #[test]
    fn what_takes_no_commands_says_so() {
        if let Err(error) = NvmeDisk::probe() {
            println!("SKIP: {error}");
            return;
        }
        let device = File::options().read(true).write(true).open("/dev/zero").unwrap();
        let disk = NvmeDisk::new(device, Namespace { nsid: 1, block_shift: 12 });
        let error = disk.try_command().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        let mut ring = disk.ring(&EngineOptions::default(), None).unwrap();
        for kind in [IoKind::SyncData, IoKind::Zero] {
            // SAFETY: neither moves bytes.
            unsafe { ring.push(io(kind, None, 0)) }.unwrap();
        }
        ring.submit(2, None).unwrap();
        let mut ended = Vec::new();
        ring.reap(|_, result| ended.push(result.map_err(|error| error.raw_os_error().unwrap())));
        assert_eq!(ended.len(), 2);
        assert!(ended.iter().all(Result::is_err), "{ended:?}");
        assert!(ended.contains(&Err(libc::EOPNOTSUPP)), "{ended:?}");
    }
}
