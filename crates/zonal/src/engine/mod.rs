//! Reads, writes, syncs and zeroing at file offsets: the seam between zone rules and the medium.
//!
//! One [`Disk`] stands for an opened image and is shared by threads; one [`Engine`] belongs to one
//! thread's queue. Requests go in by [`Engine::push`], reach the medium in [`Engine::submit`], and
//! come back by [`Engine::reap`] as (token, bytes or error), in any order. Invariants: every
//! pushed request is reaped exactly once; an engine reports nothing else; nothing here retries,
//! splits or reorders.
//!
//! The same callers run over files (by io_uring, or by threads where that is forbidden), over
//! the simulated disk, and over any of these under a fault plan.

mod call;
pub(crate) mod faulty;
pub(crate) mod file;
pub(crate) mod nvme;
pub(crate) mod polled;
pub(crate) mod sim;
pub(crate) mod spread;
pub(crate) mod threads;
pub(crate) mod uring;
mod wake;

pub(crate) use nvme::{Commands, NvmeDisk, Zoned};

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::buffer::Arena;
use crate::faults::Faults;
use crate::sys::memory::LentBytes;
use faulty::{FaultyDisk, FaultyEngine};
use file::FileDisk;
use polled::Polled;
use sim::{SimDisk, SimEngine, SimNotifier};
use threads::{Threads, ThreadsNotifier};
use uring::{Files, Uring, UringNotifier};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoKind {
    /// Bytes are read; fewer than asked for at the file's end.
    Read,
    /// Bytes are written.
    Write,
    /// Bytes are written, and are durable on completion (they alone).
    WriteDurable,
    /// Every write completed before this was submitted is durable on completion.
    SyncData,
    /// A range is made to read as zeros. Completes with `EOPNOTSUPP` where only writing zeros
    /// would do.
    Zero,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Io {
    /// What is done.
    pub(crate) kind: IoKind,
    /// Where, in bytes. 0 for a sync.
    pub(crate) offset: u64,
    /// The bytes read into or written from. Not looked at by `SyncData` and `Zero`.
    pub(crate) ptr: *mut u8,
    /// How many. More than about 2 GiB of reads and writes complete short.
    pub(crate) len: usize,
    /// Whether `ptr` lies in the arena the engine was made with.
    pub(crate) fixed: bool,
    /// What the completion is told apart by. `u64::MAX` is taken.
    pub(crate) token: u64,
    /// What a device with zones of its own is asked for; `kind` then says which way bytes move, and
    /// with [`IoKind::SyncData`] none do. Other media are never asked.
    pub(crate) zoned: Option<Zoned>,
}

/// What moves the bytes of an image, file or device. A drive in memory needs nothing for it.
///
/// ```
/// use zonal::{EngineChoice, OpenOptions, Target};
///
/// # let folder = std::env::temp_dir().join(format!("zonal-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("log");
/// std::fs::write(&path, b"")?;
/// let options = OpenOptions { engine: EngineChoice::Threads, ..OpenOptions::default() };
/// let drive = zonal::open(&Target::File(path), &options)?;
/// assert_eq!(drive.limits().engine, "threads");
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineChoice {
    /// io_uring; threads where the kernel has none, one older than Linux 5.13, forbids it, or has no
    /// memory for it (which [`Info::warnings`](crate::Info::warnings) then says). In a queue of depth 1 to
    /// files a request that is waited for at once
    /// ([`Queue::submit_and_wait`](crate::Queue::submit_and_wait)) is a call of the waiting thread, as in fio's
    /// `psync`, which wakes nobody.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// A few threads a queue, which block. One system call a record.
    Threads,
}

impl EngineChoice {
    /// What it comes to on this machine; with threads instead of a ring also why.
    ///
    /// # Errors
    /// `Unsupported` or `OutOfMemory`: the kernel gives no ring, and nothing else will do. Others are the
    /// kernel's, and no reason to take threads instead: they would be met again.
    pub(crate) fn resolve(self) -> io::Result<(EngineKind, Option<io::Error>)> {
        match self {
            Self::Threads => Ok((EngineKind::Threads, None)),
            Self::IoUring => uring::probe::<FileDisk>().map(|()| (EngineKind::IoUring, None)),
            Self::Auto => match uring::probe::<FileDisk>() {
                Ok(()) => Ok((EngineKind::IoUring, None)),
                Err(error) if threads_would_do(&error) => Ok((EngineKind::Threads, Some(error))),
                Err(error) => Err(error),
            },
        }
    }
}

/// Whether there is no ring for a reason that threads do not meet.
fn threads_would_do(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::OutOfMemory)
}

/// Which engine a file's queues have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EngineKind {
    /// A ring of the kernel.
    IoUring,
    /// Threads that block.
    Threads,
}

/// How an engine is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineOptions {
    /// How many requests can be pushed between two submissions. Rounded up to a power of two.
    pub(crate) sq_entries: u32,
    /// How many completions fit before the kernel has to keep the rest itself. Rounded up to a
    /// power of two; at least `sq_entries`.
    pub(crate) cq_entries: u32,
    /// Whether to register the arena with the kernel, as far as it lets us lock memory.
    pub(crate) register_buffers: bool,
    /// Whether a thread of the kernel takes what is pushed, instead of a system call.
    pub(crate) sqpoll: bool,
    /// Whether only the thread that makes the engine ever waits for it, in [`Engine::submit`]:
    /// nobody polls its descriptor. A wait for several completions is then one sleep.
    pub(crate) private: bool,
    /// Whether the device is asked for what has ended, instead of interrupting.
    pub(crate) hipri: bool,
}

impl Default for EngineOptions {
    /// 128 and 256: four times the depth at which the fastest devices here are saturated.
    fn default() -> Self {
        Self {
            sq_entries: 128,
            cq_entries: 256,
            register_buffers: true,
            sqpoll: false,
            private: false,
            hipri: false,
        }
    }
}

/// An opened image; a clone is another handle of it.
///
/// Its own reads and writes block, take any offset and length, and are for opening, creating,
/// checking and closing. They must not overlap requests in flight.
#[derive(Clone, Debug)]
pub(crate) enum Disk {
    /// A file.
    File(FileDisk),
    /// The simulator's.
    Sim(SimDisk),
    /// One of these under a fault plan.
    Faulty(FaultyDisk),
}

impl Disk {
    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the disk ends before; the medium's.
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(disk) => disk.read_exact_at(bytes, offset),
            Self::Sim(disk) => disk.read_exact_at(bytes, offset),
            Self::Faulty(disk) => disk.read_exact_at(bytes, offset),
        }
    }

    /// Writes all `bytes` from `offset` on, lengthening the disk where they end past its end.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(disk) => disk.write_all_at(bytes, offset),
            Self::Sim(disk) => disk.write_all_at(bytes, offset),
            Self::Faulty(disk) => disk.write_all_at(bytes, offset),
        }
    }

    /// Makes every write completed so far durable, and the disk's length.
    ///
    /// # Errors
    /// The medium's. What was written since the last success may be lost, even if a later sync
    /// succeeds.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        match self {
            Self::File(disk) => disk.sync_data(),
            Self::Sim(disk) => disk.sync_data(),
            Self::Faulty(disk) => disk.sync_data(),
        }
    }

    /// Makes a range read as zeros without writing them.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where only writing zeros would do; the medium's.
    pub(crate) fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::File(disk) => disk.zero(offset, length),
            Self::Sim(disk) => disk.zero(offset, length),
            Self::Faulty(disk) => disk.zero(offset, length),
        }
    }

    /// Allocates a range, lengthening the disk where it ends past its end.
    ///
    /// # Errors
    /// `ENOSPC`; `EOPNOTSUPP` where the file system cannot.
    pub(crate) fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::File(disk) => disk.allocate(offset, length),
            Self::Sim(disk) => disk.allocate(offset, length),
            Self::Faulty(disk) => disk.allocate(offset, length),
        }
    }

    /// Makes the disk `length` bytes long; new bytes read as zeros.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) fn set_len(&self, length: u64) -> io::Result<()> {
        match self {
            Self::File(disk) => disk.set_len(length),
            Self::Sim(disk) => disk.set_len(length),
            Self::Faulty(disk) => disk.set_len(length),
        }
    }

    /// How long it is, in bytes.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(disk) => disk.len(),
            Self::Sim(disk) => Ok(disk.len()),
            Self::Faulty(disk) => disk.len(),
        }
    }

    /// An engine for the calling thread.
    ///
    /// # Errors
    /// `Unsupported`: a ring is wanted, and the kernel has no io_uring, or one older than Linux
    /// 5.13, or forbids it; or completions shall be polled for, and that cannot be done here.
    /// Otherwise the kernel's.
    pub(crate) fn engine(
        &self,
        options: &EngineOptions,
        arena: Option<&Arena>,
    ) -> io::Result<Engine> {
        match self {
            Self::File(disk) => match disk.engine_kind() {
                _ if options.hipri && disk.spread().is_some() => Err(polled::refused(
                    "the kernel gives what goes to files of a zonefs to threads of its own",
                )),
                EngineKind::IoUring if options.hipri => {
                    let engine = Polled::new(disk, options, arena)?;
                    Ok(Engine::Polled(Box::new(engine)))
                }
                EngineKind::IoUring => match ring(disk, options, arena) {
                    // A ring was to be had when the file was opened, and this one, larger, is not.
                    Err(error) if disk.may_use_threads() && threads_would_do(&error) => {
                        disk.uses_threads(&error);
                        Threads::new(disk, options).map(Engine::Threads)
                    }
                    ring => ring,
                },
                EngineKind::Threads if options.hipri => Err(polled::refused(
                    "the threads engine sleeps until its calls return, and only io_uring asks",
                )),
                EngineKind::Threads => Threads::new(disk, options).map(Engine::Threads),
            },
            Self::Sim(_) if options.hipri => Err(polled::refused("the disk is simulated")),
            Self::Sim(disk) => Ok(Engine::Sim(disk.engine(options))),
            Self::Faulty(disk) => {
                disk.engine(options, arena).map(|engine| Engine::Faulty(Box::new(engine)))
            }
        }
    }

    /// What there is to say of the engine that is used instead of the one that was to be.
    pub(crate) fn engine_warning(&self) -> Option<&str> {
        match self {
            Self::File(disk) => disk.why_threads().flatten(),
            Self::Sim(_) => None,
            Self::Faulty(disk) => disk.inner().engine_warning(),
        }
    }

    /// What its engines are called, and whether they pass the page cache by.
    pub(crate) fn engine_name(&self) -> (&'static str, bool) {
        match self {
            Self::File(disk) => match disk.engine_kind() {
                EngineKind::IoUring if disk.why_threads().is_some() => {
                    ("threads", disk.is_direct())
                }
                EngineKind::IoUring => ("io_uring", disk.is_direct()),
                EngineKind::Threads => ("threads", disk.is_direct()),
            },
            Self::Sim(_) => ("sim", true),
            Self::Faulty(disk) => disk.engine_name(),
        }
    }

    /// The plan it is under.
    pub(crate) fn faults(&self) -> Option<&Faults> {
        match self {
            Self::File(_) | Self::Sim(_) => None,
            Self::Faulty(disk) => Some(disk.faults()),
        }
    }

    /// Gives a file's lock back, all I/O having ended; before that, leaves it as its plan wants.
    ///
    /// # Errors
    /// As [`FileDisk::unlock`].
    pub(crate) fn release(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.unlock(),
            Self::Sim(_) => Ok(()),
            Self::Faulty(disk) => {
                disk.faults().release(disk.inner());
                disk.inner().release()
            }
        }
    }
}

/// A ring over a file, or over the files of a spread.
fn ring(disk: &FileDisk, options: &EngineOptions, arena: Option<&Arena>) -> io::Result<Engine> {
    let Some(spread) = disk.spread() else {
        return Uring::new(disk, options, arena).map(Engine::Uring);
    };
    let ring = Uring::over(Files::new(disk, spread), options, arena)?;
    Ok(Engine::Files(Box::new(ring)))
}

/// One thread's way to a [`Disk`]. Not `Send`: the kernel takes a ring's requests from the thread
/// that made it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the ring is the rule, and is reached without a hop")]
pub(crate) enum Engine {
    /// A ring of the kernel.
    Uring(Uring),
    /// A ring over the files of a spread.
    Files(Box<Uring<Files>>),
    /// A ring that asks the device, and an ordinary one.
    Polled(Box<Polled>),
    /// A ring of commands to an NVMe namespace.
    Nvme(Box<Uring<Commands>>),
    /// The same with one that asks the device.
    PolledNvme(Box<Polled<Commands>>),
    /// Threads that block.
    Threads(Threads),
    /// The simulator's.
    Sim(SimEngine),
    /// Any of these under a fault plan.
    Faulty(Box<FaultyEngine>),
}

/// # Safety
/// As [`Engine::push`].
unsafe fn push_simulated(engine: &mut SimEngine, io: Io) -> Result<(), Io> {
    if !engine.has_room() {
        return Err(io);
    }
    let length = match io.kind {
        IoKind::Read | IoKind::Write | IoKind::WriteDurable => io.len,
        IoKind::SyncData | IoKind::Zero => 0,
    };
    // SAFETY: the caller's promise; the engine drops it when it reports the token.
    let bytes = unsafe { LentBytes::new(io.ptr, length) };
    engine.push(&io, bytes);
    Ok(())
}

impl Engine {
    /// Whether what is pushed reaches the kernel in that order.
    pub(crate) fn keeps_order(&self) -> bool {
        match self {
            // Writes to files of a zonefs the kernel gives to threads of its own, but those to one file to one
            // thread at a time, in their order (`io_wq_hash_work`).
            Self::Uring(_) | Self::Polled(_) | Self::Files(_) => true,
            // A device may do commands in any order.
            Self::Nvme(_)
            | Self::PolledNvme(_)
            | Self::Threads(_)
            | Self::Sim(_)
            | Self::Faulty(_) => false,
        }
    }

    /// Where the append with that token landed, in bytes of the drive, once it has been reaped and until
    /// the token is pushed again; `None` where nothing below places appends.
    #[inline]
    pub(crate) fn landed(&self, token: u64) -> Option<u64> {
        match self {
            Self::Nvme(engine) => engine.landed(token),
            Self::PolledNvme(engine) => engine.landed(token),
            Self::Uring(_)
            | Self::Files(_)
            | Self::Polled(_)
            | Self::Threads(_)
            | Self::Sim(_)
            | Self::Faulty(_) => None,
        }
    }

    /// Queues a request for the next [`submit`](Self::submit), or gives it back: the submission
    /// ring is full.
    ///
    /// # Safety
    /// Until the token is reaped (or the engine dropped), `io.len` bytes from `io.ptr` must be
    /// initialised and stay allocated; nobody else may touch them, except to read what is being
    /// written. With `fixed`, they lie in the arena the engine was made with.
    #[inline]
    pub(crate) unsafe fn push(&mut self, io: Io) -> Result<(), Io> {
        debug_assert_ne!(io.token, u64::MAX, "the engine's own token");
        debug_assert!(
            io.zoned.is_none() || matches!(self, Self::Nvme(_) | Self::PolledNvme(_)),
            "no such device"
        );
        match self {
            // SAFETY: the caller's promise, handed on.
            Self::Uring(engine) => unsafe { engine.push(io) },
            // SAFETY: likewise.
            other => unsafe { other.push_elsewhere(io) },
        }
    }

    /// As [`push`](Self::push) of a write that the kernel does untorn or refuses (`RWF_ATOMIC`); its limits
    /// are the caller's to keep. Also gives it back where no kernel is behind the engine.
    ///
    /// # Safety
    /// As [`push`](Self::push).
    pub(crate) unsafe fn push_untorn(&mut self, io: Io) -> Result<(), Io> {
        debug_assert!(matches!(io.kind, IoKind::Write | IoKind::WriteDurable), "a write");
        match self {
            // SAFETY: the caller's promise, handed on.
            Self::Uring(engine) => unsafe { engine.push_untorn(io) },
            // SAFETY: likewise.
            Self::Threads(engine) => unsafe { engine.push_untorn(io) },
            Self::Files(_)
            | Self::Polled(_)
            | Self::Nvme(_)
            | Self::PolledNvme(_)
            | Self::Sim(_)
            | Self::Faulty(_) => Err(io),
        }
    }

    /// As [`push`](Self::push) where it is no plain ring: apart, so that nothing but a ring's push is inlined.
    ///
    /// # Safety
    /// As [`push`](Self::push).
    #[inline(never)]
    unsafe fn push_elsewhere(&mut self, io: Io) -> Result<(), Io> {
        match self {
            // SAFETY: the caller's promise, handed on.
            Self::Uring(engine) => unsafe { engine.push(io) },
            // SAFETY: likewise.
            Self::Files(engine) => unsafe { engine.push(io) },
            // SAFETY: likewise.
            Self::Polled(engine) => unsafe { engine.push(io) },
            // SAFETY: likewise.
            Self::Nvme(engine) => unsafe { engine.push(io) },
            // SAFETY: likewise.
            Self::PolledNvme(engine) => unsafe { engine.push(io) },
            // SAFETY: likewise.
            Self::Threads(engine) => unsafe { engine.push(io) },
            // SAFETY: likewise.
            Self::Sim(engine) => unsafe { push_simulated(engine, io) },
            Self::Faulty(engine) => {
                // SAFETY: likewise.
                unsafe { engine.push(io) };
                Ok(())
            }
        }
    }

    /// Hands everything pushed to the medium, then waits until `wait_for` requests (or all that
    /// are in flight, if fewer) can be reaped.
    ///
    /// The wait ends early, without error, at `timeout` and on [`Notifier::notify`]; not where it is a call of
    /// the caller's own, which a queue of depth 1 makes for its only request. With nothing
    /// in flight it waits for these two alone, and returns at once where neither can come.
    ///
    /// # Errors
    /// The kernel's, after retries for want of memory. Nothing pushed is lost: submit again.
    #[inline]
    pub(crate) fn submit(&mut self, wait_for: usize, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Uring(engine) => engine.submit(wait_for, timeout),
            Self::Files(engine) => engine.submit(wait_for, timeout),
            Self::Polled(engine) => engine.submit(wait_for, timeout),
            Self::Nvme(engine) => engine.submit(wait_for, timeout),
            Self::PolledNvme(engine) => engine.submit(wait_for, timeout),
            Self::Threads(engine) => engine.submit(wait_for, timeout),
            Self::Sim(engine) => {
                engine.submit(wait_for, timeout);
                Ok(())
            }
            Self::Faulty(engine) => engine.submit(wait_for, timeout),
        }
    }

    /// Reports every request that has ended, by its token: how many bytes (0 for `SyncData` and
    /// `Zero`), or the error. Enters the kernel only if it kept completions for want of room. Where
    /// the device is asked, what ended since the last [`submit`](Self::submit) is not known yet.
    pub(crate) fn reap(&mut self, each: impl FnMut(u64, io::Result<u32>)) {
        match self {
            Self::Uring(engine) => engine.reap(each),
            Self::Files(engine) => engine.reap(each),
            Self::Polled(engine) => engine.reap(each),
            Self::Nvme(engine) => engine.reap(each),
            Self::PolledNvme(engine) => engine.reap(each),
            Self::Threads(engine) => engine.reap(each),
            Self::Sim(engine) => engine.reap(each),
            Self::Faulty(engine) => engine.reap(each),
        }
    }

    /// How many requests were pushed and not yet reaped.
    pub(crate) fn in_flight(&self) -> usize {
        match self {
            Self::Uring(engine) => engine.in_flight(),
            Self::Files(engine) => engine.in_flight(),
            Self::Polled(engine) => engine.in_flight(),
            Self::Nvme(engine) => engine.in_flight(),
            Self::PolledNvme(engine) => engine.in_flight(),
            Self::Threads(engine) => engine.in_flight(),
            Self::Sim(engine) => engine.in_flight(),
            Self::Faulty(engine) => engine.in_flight(),
        }
    }

    /// What another thread can end this engine's waits with.
    pub(crate) fn notifier(&self) -> Notifier {
        match self {
            Self::Uring(engine) => Notifier::Uring(engine.notifier()),
            Self::Files(engine) => Notifier::Uring(engine.notifier()),
            Self::Polled(engine) => Notifier::Uring(engine.notifier()),
            Self::Nvme(engine) => Notifier::Uring(engine.notifier()),
            Self::PolledNvme(engine) => Notifier::Uring(engine.notifier()),
            Self::Threads(engine) => Notifier::Threads(engine.notifier()),
            Self::Sim(engine) => Notifier::Sim(engine.notifier()),
            Self::Faulty(engine) => engine.notifier(),
        }
    }

    /// A descriptor that is readable when there is something to reap, for loops of others; none
    /// in the simulator. Call [`prepare_to_poll`](Self::prepare_to_poll) before each wait on it.
    pub(crate) fn as_raw_fd(&self) -> Option<RawFd> {
        match self {
            Self::Uring(engine) => Some(engine.as_raw_fd()),
            Self::Files(engine) => Some(engine.as_raw_fd()),
            Self::Polled(engine) => Some(engine.as_raw_fd()),
            Self::Nvme(engine) => Some(engine.as_raw_fd()),
            Self::PolledNvme(engine) => Some(engine.as_raw_fd()),
            Self::Threads(engine) => Some(engine.as_raw_fd()),
            Self::Sim(_) => None,
            Self::Faulty(engine) => engine.as_raw_fd(),
        }
    }

    /// Submits everything pushed, and makes [`Notifier::notify`] wake whoever polls the
    /// descriptor, until the next submission. False: do not wait, there is something to reap, or
    /// a notification came, or a device has to be asked for what it has ended.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub(crate) fn prepare_to_poll(&mut self) -> io::Result<bool> {
        match self {
            Self::Uring(engine) => engine.prepare_to_poll(),
            Self::Files(engine) => engine.prepare_to_poll(),
            Self::Polled(engine) => engine.prepare_to_poll(),
            Self::Nvme(engine) => engine.prepare_to_poll(),
            Self::PolledNvme(engine) => engine.prepare_to_poll(),
            Self::Threads(engine) => engine.prepare_to_poll(),
            Self::Sim(engine) => Ok(engine.prepare_to_poll()),
            Self::Faulty(engine) => engine.prepare_to_poll(),
        }
    }

    /// How many bytes of the arena, from its start on, the kernel knows, so that `fixed` saves it work.
    pub(crate) fn registered_bytes(&self) -> usize {
        match self {
            Self::Uring(engine) => engine.registered_bytes(),
            Self::Files(engine) => engine.registered_bytes(),
            Self::Polled(engine) => engine.registered_bytes(),
            Self::Nvme(engine) => engine.registered_bytes(),
            Self::PolledNvme(engine) => engine.registered_bytes(),
            Self::Threads(_) | Self::Sim(_) => 0,
            Self::Faulty(engine) => engine.registered_bytes(),
        }
    }

    /// Whether a request that is waited for alone is a call of the waiting thread.
    pub(crate) fn makes_calls(&self) -> bool {
        match self {
            Self::Uring(engine) => engine.makes_calls(),
            Self::Files(engine) => engine.makes_calls(),
            Self::Threads(engine) => engine.makes_calls(),
            Self::Faulty(engine) => engine.makes_calls(),
            Self::Polled(_) | Self::Nvme(_) | Self::PolledNvme(_) | Self::Sim(_) => false,
        }
    }

    /// How many times the kernel was entered so far, by this thread or for it.
    pub(crate) fn syscalls(&self) -> u64 {
        match self {
            Self::Uring(engine) => engine.syscalls(),
            Self::Files(engine) => engine.syscalls(),
            Self::Polled(engine) => engine.syscalls(),
            Self::Nvme(engine) => engine.syscalls(),
            Self::PolledNvme(engine) => engine.syscalls(),
            Self::Threads(engine) => engine.syscalls(),
            Self::Sim(engine) => engine.syscalls(),
            Self::Faulty(engine) => engine.syscalls(),
        }
    }
}

/// Ends the waits of one engine, from any thread.
#[derive(Clone, Debug)]
pub(crate) enum Notifier {
    /// Of a ring.
    Uring(UringNotifier),
    /// Of threads.
    Threads(ThreadsNotifier),
    /// Of a simulated engine.
    Sim(SimNotifier),
}

impl Notifier {
    /// Makes the waiting [`Engine::submit`] return, or else the next one that would wait. What the
    /// caller wrote before is seen by the engine's thread after. Costs one atomic exchange when
    /// nobody waits.
    pub(crate) fn notify(&self) {
        match self {
            Self::Uring(notifier) => notifier.notify(),
            Self::Threads(notifier) => notifier.notify(),
            Self::Sim(notifier) => notifier.notify(),
        }
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests;
