//! Any drive as a zoned block device of the kernel, `/dev/ublkbN`, by ublk: with its zones, its limits, and
//! appends. Linux 6.6 or newer, and root.
//!
//! ```text
//! program, file system ─► block layer ─► ublk ─► queue (a thread each) ─► zone rules ─► drive
//! ```
//!
//! A write at a zone's write pointer is a write to the drive, and a Zone Append an append; what the drive
//! refuses is refused with the numbers of a zoned block device. Discard and write-zeroes are taken in
//! conventional zones, where they write zeros.
//!
//! **When the server dies** the device stays, and what comes meanwhile waits. Another server takes it over
//! with [`recover`]. What the dead one had taken ends in an error and is never asked for again: an append
//! that is asked for twice would be there twice. A drive in memory dies with its server, and so does its
//! device.
//!
//! ```no_run
//! use zonal::{OpenOptions, Target};
//! use zonal_export::ublk::{ServeOptions, serve};
//!
//! let drive = zonal::open(&Target::parse("drive.img")?, &OpenOptions::default())?;
//! let served = serve(drive.clone(), &ServeOptions::default())?;
//! println!("{}", served.path().display());
//! while !served.is_over() {
//!     std::thread::sleep(std::time::Duration::from_millis(100));
//! }
//! served.remove()?;
//! drive.close()?;
//! # Ok::<(), zonal::Error>(())
//! ```

mod errno;
mod kernel;
mod queue;
mod report;
mod shape;

use std::{
    fs::File,
    io,
    marker::PhantomData,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use libublk::{
    UblkFlags,
    ctrl::{UblkCtrl, UblkCtrlBuilder},
    io::UblkDev,
    sys,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use zonal::{Device, Error, ErrorKind, Result};

use self::{
    kernel::{ended, failed, flag, not_opened},
    queue::Server,
    shape::{Shape, TRANSFER_MAX},
};

/// The name by which ublk's other tools know the devices.
const NAME: &str = "zonal";

/// How long a device is waited for whose server was killed a moment ago.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Queues of a device, of as many as a drive has.
pub const QUEUES_MAX: u16 = 16;

/// Requests of a queue.
pub const DEPTH_MAX: u16 = 1024;

/// The largest number of a device: of as many as the kernel has minors.
pub const NUMBER_MAX: u32 = (1 << 20) - 1;

/// How a drive is served.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// The number of the device, N of `/dev/ublkbN`; `None` leaves it to the kernel.
    pub number: Option<u32>,
    /// Queues, 1 to [`QUEUES_MAX`]: a thread each, with a queue to the drive. The kernel takes no more than there are
    /// processors.
    pub queues: u16,
    /// Requests under way in a queue, 1 to [`DEPTH_MAX`]; each has a buffer of a MiB.
    pub depth: u16,
    /// Whether nothing can be written.
    pub read_only: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { number: None, queues: 1, depth: 64, read_only: false }
    }
}

/// A drive that is served. Dropped, its device is removed. It stays on the thread that made it.
pub struct Served {
    /// `None` once it was removed.
    parts: Option<Parts>,
    path: PathBuf,
    /// ublk's commands go over a ring of this thread.
    _one_thread: PhantomData<*const ()>,
}

/// What is taken apart in this order.
struct Parts {
    threads: Vec<QueueThread>,
    /// Holds the character device open, without which nothing is removed.
    dev: Arc<UblkDev>,
    ctrl: UblkCtrl,
    /// Whether the drive cannot be asked any more.
    broken: Arc<AtomicBool>,
    stopped: bool,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Makes a block device of `device`. The caller keeps a handle, and closes the drive after
/// [`Served::remove`].
///
/// # Errors
/// A kernel without zoned ublk devices, no permission, a drive whose shape Linux cannot show, a number that
/// is taken.
pub fn serve(device: Device, options: &ServeOptions) -> Result<Served> {
    check_options(options)?;
    let shape = Shape::of(&device, options.read_only)?;
    kernel::check()?;
    refuse_waiting(shape.identity, options.number)?;
    let cleared = options.number.map(|number| clear(number, shape.identity)).transpose()?;
    let number = cleared.map_or(Ok(-1), i32::try_from);
    let number = number.map_err(|_| invalid("the device's number is too large"))?;
    // Reissue is never asked for: what was taken by a dead server may be done already.
    let survives = if is_in_memory(&device) { 0 } else { flag(sys::UBLK_F_USER_RECOVERY) };
    let zoned = flag(sys::UBLK_F_ZONED) | flag(sys::UBLK_F_USER_COPY);
    let ctrl = UblkCtrlBuilder::default()
        .name(NAME)
        .id(number)
        .nr_queues(options.queues)
        .depth(options.depth)
        .io_buf_bytes(TRANSFER_MAX)
        .ctrl_flags(zoned | flag(sys::UBLK_F_CMD_IOCTL_ENCODE) | survives)
        .ctrl_target_flags(shape.identity)
        .dev_flags(UblkFlags::UBLK_DEV_F_ADD_DEV)
        .build()
        .map_err(|error| failed("making a device", error))?;
    if ctrl.dev_info().flags & zoned != zoned {
        return Err(kernel::not_zoned(&kernel::release()));
    }
    let parts = prepare(ctrl, &device, &shape, false)?;
    match parts.start() {
        Ok(path) => Ok(Served::new(parts, path)),
        Err(error) => {
            // Its own words say more than those of what came of it.
            let _ = parts.remove();
            Err(error)
        }
    }
}

/// Takes over the device `number`, whose server died, with the same drive. Requests that wait are served; those that the
/// dead one had taken have ended in an error.
///
/// # Errors
/// As [`serve`]; a device that is not there, is served still, or was made of another drive.
pub fn recover(device: Device, number: u32, read_only: bool) -> Result<Served> {
    let shape = Shape::of(&device, read_only)?;
    kernel::check()?;
    if is_in_memory(&device) {
        return Err(invalid("a drive in memory died with its server; serve another one"));
    }
    let id = i32::try_from(number).map_err(|_| invalid("the device's number is too large"))?;
    if !character_device(number).exists() {
        let text = format!("there is no ublk device {number}");
        return Err(Error::new(ErrorKind::NotFound, text).during("recover"));
    }
    let ctrl = UblkCtrlBuilder::default()
        .name(NAME)
        .id(id)
        .dev_flags(UblkFlags::UBLK_DEV_F_RECOVER_DEV)
        .build()
        .map_err(|error| failed(format!("asking for device {number}"), error))?;
    is_of(&ctrl, &device, &shape)?;
    wait_until_left(&ctrl)?;
    let parts = prepare(ctrl, &device, &shape, true)?;
    match parts.start() {
        Ok(path) => Ok(Served::new(parts, path)),
        Err(error) => {
            // To stop the threads would be to stop the device. With the process they end, and it waits again.
            std::mem::forget(parts);
            Err(error)
        }
    }
}

fn check_options(options: &ServeOptions) -> Result<()> {
    if !(1..=QUEUES_MAX).contains(&options.queues) {
        return Err(invalid(format!("{} queues; 1 to {QUEUES_MAX} it can be", options.queues)));
    }
    if !(1..=DEPTH_MAX).contains(&options.depth) {
        return Err(invalid(format!("a depth of {}; 1 to {DEPTH_MAX} it can be", options.depth)));
    }
    Ok(())
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, text.into()).during("serve")
}

fn in_use(text: String) -> Error {
    Error::new(ErrorKind::InUse, text).during("serve")
}

fn is_in_memory(device: &Device) -> bool {
    device.info().kind == "memory"
}

fn character_device(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkc{number}"))
}

fn block_device(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{number}"))
}

/// Removes what is left of a device whose server died, so that its number is free. One that waits for its server goes
/// too if it was made of another drive than that of `identity`, and nobody holds it for himself: where its own drive is
/// gone nothing else takes it away.
fn clear(number: u32, identity: u64) -> Result<u32> {
    let character = character_device(number);
    if !character.exists() {
        return Ok(number);
    }
    let taken = || {
        in_use(format!("/dev/ublkb{number} is served by another; choose another number, or none"))
    };
    // One server has it open, whether it has begun to serve or not.
    let opened = rustix::fs::open(&character, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    match opened {
        Ok(opened) => drop(opened),
        Err(Errno::BUSY) => return Err(taken()),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => return Ok(number),
        Err(error) => {
            return Err(kernel::failed_with(character.display().to_string(), error.into()));
        }
    }
    let id = i32::try_from(number).map_err(|_| taken())?;
    let ctrl = UblkCtrl::new_simple(id)
        .map_err(|error| failed(format!("asking for device {number}"), error))?;
    let info = ctrl.dev_info();
    let made_of_another = shape::is_ours(info.ublksrv_flags) && info.ublksrv_flags != identity;
    match u32::from(info.state) {
        sys::UBLK_S_DEV_DEAD => {}
        sys::UBLK_S_DEV_QUIESCED if made_of_another => drop(hold(&block_device(number))?),
        _ => {
            return Err(in_use(format!(
                "/dev/ublkb{number} waits for its server: --recover {number} takes it over"
            )));
        }
    }
    ended(ctrl.del_dev()).map_err(|error| failed(format!("removing device {number}"), error))?;
    Ok(number)
}

/// A second device of a drive whose first waits for a server would write behind that one's back.
fn refuse_waiting(identity: u64, number: Option<u32>) -> Result<()> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let numbers = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("ublkc")?.parse::<u32>().ok());
    for left in numbers.filter(|left| Some(*left) != number) {
        // One that is served is open there, and cannot be opened twice.
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let Ok(opened) = rustix::fs::open(character_device(left), flags, Mode::empty()) else {
            continue;
        };
        drop(opened);
        let ctrl = i32::try_from(left).ok().and_then(|id| UblkCtrl::new_simple(id).ok());
        let waits = ctrl.is_some_and(|ctrl| {
            let info = ctrl.dev_info();
            info.ublksrv_flags == identity && u32::from(info.state) == sys::UBLK_S_DEV_QUIESCED
        });
        if waits {
            return Err(in_use(format!(
                "/dev/ublkb{left} is of this drive, and waits for its server: --recover {left} takes it over, and \
                 the end of that server removes it"
            )));
        }
    }
    Ok(())
}

/// Whether a device is `device`, by all that the kernel was told of it.
fn is_of(ctrl: &UblkCtrl, device: &Device, shape: &Shape) -> Result<()> {
    let info = ctrl.dev_info();
    let number = info.dev_id;
    if u32::from(info.state) == sys::UBLK_S_DEV_DEAD {
        return Err(invalid(format!(
            "device {number} is dead, and cannot be taken over; --number {number} makes another in its place"
        )));
    }
    if !shape::is_ours(info.ublksrv_flags) {
        return Err(invalid(format!("device {number} was not made by zonal")));
    }
    let mut told = sys::ublk_params::default();
    ended(ctrl.get_params(&mut told))
        .map_err(|error| failed(format!("asking for device {number}"), error))?;
    let text = match (info.ublksrv_flags == shape.identity, shape.is(&told)) {
        (true, true) => None,
        (true, false) if Shape::of(device, !shape.is_read_only())?.is(&told) => {
            Some(match shape.is_read_only() {
                true => format!("device {number} can be written; leave --read-only out"),
                false => format!("device {number} is read-only; say --read-only, too"),
            })
        }
        _ => Some(format!(
            "device {number} was made of another drive, of another shape, or by another way to it; name the drive as \
             it was then"
        )),
    };
    if let Some(text) = text {
        return Err(invalid(text).on(device.name()));
    }
    // Once more, since it is what everything else rests on.
    if info.flags & flag(sys::UBLK_F_USER_RECOVERY_REISSUE) != 0 {
        return Err(invalid(format!("device {number} would do again what was done already")));
    }
    Ok(())
}

/// A server that was killed a moment ago may not be gone yet.
fn wait_until_left(ctrl: &UblkCtrl) -> Result<()> {
    let number = ctrl.dev_info().dev_id;
    let began = Instant::now();
    loop {
        ended(ctrl.read_dev_info())
            .map_err(|error| failed(format!("asking for device {number}"), error))?;
        let info = ctrl.dev_info();
        match u32::from(info.state) {
            sys::UBLK_S_DEV_QUIESCED => return Ok(()),
            sys::UBLK_S_DEV_LIVE if began.elapsed() < PATIENCE => thread::sleep(LOOK),
            sys::UBLK_S_DEV_LIVE => {
                return Err(in_use(format!(
                    "device {number} is served, by process {}",
                    info.ublksrv_pid
                )));
            }
            state => {
                return Err(invalid(format!(
                    "device {number} cannot be taken over in state {state}"
                )));
            }
        }
    }
}

/// All that serves a device, but for what begins with [`Parts::start`]. What the drive may refuse comes first: a device
/// that is taken over is asked for (`takes_over`) only when there is somebody to serve it.
fn prepare(ctrl: UblkCtrl, device: &Device, shape: &Shape, takes_over: bool) -> Result<Parts> {
    let info = ctrl.dev_info();
    let number = info.dev_id;
    let broken = Arc::new(AtomicBool::new(false));
    let threads = (0..info.nr_hw_queues)
        .map(|queue| QueueThread::spawn(queue, info.queue_depth, device, &broken))
        .collect::<Result<Vec<_>>>()?;
    for (queue, thread) in (0..).zip(&threads) {
        ctrl.set_thread_affinity(queue, thread.hear()?);
    }
    if takes_over {
        let asked = ended(ctrl.start_user_recover());
        asked.map_err(|error| failed(format!("taking over device {number}"), error))?;
    }
    let dev = open(&ctrl, shape).map_err(|error| not_opened(&character_device(number), error))?;
    Ok(Parts { threads, dev: Arc::new(dev), ctrl, broken, stopped: false })
}

fn open(ctrl: &UblkCtrl, shape: &Shape) -> std::result::Result<UblkDev, libublk::UblkError> {
    let describe = |dev: &mut UblkDev| {
        dev.tgt.dev_size = shape.bytes;
        dev.tgt.params = shape.params;
        dev.tgt.sq_depth += queue::ENTRIES_SPARE;
        dev.tgt.cq_depth = dev.tgt.sq_depth.saturating_mul(2);
        Ok(())
    };
    UblkDev::new(NAME.to_owned(), describe, ctrl)
}

/// The character device once more: the library keeps its own descriptor, and the kernel lets it be opened
/// but once.
fn duplicate(dev: &UblkDev) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, dev.tgt.fds[0], PidfdGetfdFlags::empty())?)
}

impl Parts {
    /// Starts the device: with it the kernel asks for the zones, and others for what they want.
    ///
    /// However it ends, no thread is left that has yet to send its first commands: those that come behind the device's
    /// stop are never ended.
    fn start(&self) -> Result<PathBuf> {
        for thread in &self.threads {
            // One that is gone says so when it is heard.
            let _ = thread.begin.send(self.dev.clone());
        }
        let begun: Vec<_> = self.threads.iter().map(QueueThread::hear).collect();
        begun.into_iter().collect::<Result<Vec<_>>>()?;
        let path = block_device(self.ctrl.dev_info().dev_id);
        let started = ended(self.ctrl.start_dev(&self.dev));
        started.map_err(|error| failed(format!("starting {}", path.display()), error))?;
        Ok(path)
    }

    /// Lets the kernel take the device away, when everything that is under way has ended.
    fn stop(&mut self) -> Result<()> {
        if !self.stopped {
            kernel::unless_gone(self.ctrl.kill_dev(), "stopping the device")?;
            self.stopped = true;
        }
        Ok(())
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Takes everything apart.
    fn remove(mut self) -> Result<()> {
        let stopped = self.stop();
        let Self { threads, dev, ctrl, .. } = self;
        let joined: Vec<_> = threads.into_iter().map(|thread| thread.ends.join()).collect();
        drop(dev);
        // Where somebody has the block device open still, it goes when that has ended; nobody waits for it.
        let deleted = ctrl.del_dev_async().or_else(|_| ctrl.del_dev());
        for ended in joined {
            ended.unwrap_or_else(|_| Err(invalid("a thread of it panicked")))?;
        }
        stopped?;
        kernel::unless_gone(deleted, "removing the device")
    }
}

/// A thread that serves a queue. It is heard twice: when it has its queue to the drive, and when its commands are
/// with the kernel.
struct QueueThread {
    ends: JoinHandle<Result<()>>,
    heard: mpsc::Receiver<Result<i32>>,
    begin: mpsc::Sender<Arc<UblkDev>>,
}

impl QueueThread {
    fn spawn(number: u16, depth: u16, device: &Device, broken: &Arc<AtomicBool>) -> Result<Self> {
        let (says, heard) = mpsc::channel();
        let (begin, begins) = mpsc::channel();
        let (device, broken) = (device.clone(), broken.clone());
        let ends = thread::Builder::new()
            .name(format!("zonal-ublk-{number}"))
            .spawn(move || serve_queue(number, depth, device, &says, &begins, &broken))
            .map_err(|error| {
                Error::new(ErrorKind::Io, "a thread").during("serve").with_source(error)
            })?;
        Ok(Self { ends, heard, begin })
    }

    /// Its number, once it is as far as that.
    fn hear(&self) -> Result<i32> {
        self.heard.recv().map_err(|_| invalid("a thread died"))?
    }
}

/// A queue's thread, from its making to the device's end.
fn serve_queue(
    number: u16,
    depth: u16,
    device: Device,
    says: &mpsc::Sender<Result<i32>>,
    begins: &mpsc::Receiver<Arc<UblkDev>>,
    broken: &AtomicBool,
) -> Result<()> {
    // Memory that it needs is not to be had by writing to this very device.
    let thread = UblkCtrl::init_queue_thread();
    let queue = queue::to_drive(&device, depth);
    let (queue, made) = match queue {
        Ok(queue) => (Some(queue), Ok(thread)),
        Err(error) => (None, Err(error)),
    };
    let _ = says.send(made);
    // Of a device that there is not nothing comes: something else could not be made.
    let (Some(queue), Ok(dev)) = (queue, begins.recv()) else { return Ok(()) };
    let begun = queue::ublk_queue(number, &dev).and_then(|ublk| {
        let data = duplicate(&dev).map_err(|error| {
            Error::new(ErrorKind::Io, "a descriptor").during("serve").with_source(error)
        })?;
        let mut server = Server::new(number, dev.dev_info.queue_depth, device, queue, data);
        Ok((server.begin(ublk)?, server))
    });
    match begun {
        Ok((ublk, server)) => {
            let _ = says.send(Ok(thread));
            server.run(&ublk, || broken.store(true, Ordering::Release))
        }
        Err(error) => {
            let _ = says.send(Err(error));
            Ok(())
        }
    }
}

impl Served {
    fn new(parts: Parts, path: PathBuf) -> Self {
        Self { parts: Some(parts), path, _one_thread: PhantomData }
    }

    /// The block device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many queues it has: as many as were asked for, but no more than there are processors.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.parts.as_ref().map_or(0, |parts| parts.ctrl.dev_info().nr_hw_queues)
    }

    /// Whether it is served no more: somebody else removed it, or the drive cannot be asked.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.parts.as_ref().is_none_or(|parts| {
            parts.is_broken() || parts.threads.iter().any(|thread| thread.ends.is_finished())
        })
    }

    /// Takes the block device away, with all that was written to it durable.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] while somebody holds it for himself, as a mounted file system does: it is served
    /// still. What could not be made durable.
    pub fn stop(&mut self) -> Result<()> {
        // What is written out to a queue that nobody serves any more would be waited for without end.
        let is_over = self.is_over();
        let Some(parts) = &mut self.parts else { return Ok(()) };
        if parts.stopped || is_over {
            return Ok(());
        }
        // Whoever comes now finds it held, until it is gone.
        let Some(held) = hold(&self.path)? else { return Ok(()) };
        // Of what went by the page cache part may be there only.
        let synced = held.sync_all();
        let stopped = parts.stop();
        drop(held);
        let text = format!("{}: not everything written to it is durable", self.path.display());
        synced
            .map_err(|error| Error::new(ErrorKind::Io, text).during("stop").with_source(error))?;
        stopped
    }

    /// Removes the device, and waits until nothing of it is under way.
    ///
    /// # Errors
    /// As [`Served::stop`]; or why the drive could not be asked any more.
    pub fn remove(mut self) -> Result<()> {
        let stopped = self.stop();
        if stopped.as_ref().is_err_and(|error| error.kind() == ErrorKind::InUse) {
            tracing::warn!("{}: it is removed under its user", self.path.display());
        }
        let removed = self.parts.take().map_or(Ok(()), Parts::remove);
        stopped.and(removed)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take()
            && let Err(error) = parts.remove()
        {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }
}

/// The block device, for oneself; `None` when it is gone already.
fn hold(path: &Path) -> Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt;
    let excl = OFlags::EXCL.bits().cast_signed();
    match File::options().read(true).custom_flags(excl).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let text = format!("{} is in use: unmount it first", path.display());
            Err(in_use(text).with_source(error))
        }
        Err(error) if matches!(error.raw_os_error(), Some(2 | 6 | 19)) => Ok(None),
        Err(error) => {
            let text = path.display().to_string();
            Err(Error::new(ErrorKind::Io, text).during("stop").with_source(error))
        }
    }
}
