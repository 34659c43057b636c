//! A simulated machine: a folder with one image, its live file, its lock, and a clock.
//!
//! A [`SimHost`] gives to an image on a [`SimDisk`] what a real one has around it, so that opening,
//! closing and repairing are what they are on real files. When the process is killed the live file is
//! kept as it was at that moment, before anything of the dead process is dropped; handles that are left
//! of it change neither the image nor the live file of the next.

use crate::device::Device;
use crate::engine::Disk;
use crate::engine::sim::{Outcome, PendingIo, SimDisk, SimImage, SimMode};
use crate::image::{self, CheckOptions, CheckReport, Place, RepairOptions, RepairReport};
use crate::live::{self, Doubt, Expected};
use crate::open::OpenOptions;
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::sys::clock::BootId;
use crate::sys::file::FileIdentity;
use crate::sys::words::SharedWords;
use crate::zones::Cells;
use std::fmt;
use std::sync::Arc as Shared;
use std::time::Duration;
use zonal_core::error::{Error, ErrorKind, Result};

/// A simulated machine with one image. A clone is another handle of the same machine.
///
/// ```
/// use zonal::sim::{SimDisk, SimHost, SimImage, SimMode, FaultPlan};
/// use zonal::{Buffer, Geometry, OpenOptions, QueueOptions, Request};
///
/// let fresh = SimDisk::new(&SimImage::new(0, 512), SimMode::Manual);
/// zonal::sim::create(&fresh, &Geometry::with_size(1 << 30))?;
/// let host = SimHost::new(&fresh.image(), SimMode::Auto { seed: 1, faults: FaultPlan::default() });
///
/// let drive = host.open(&OpenOptions::default())?;
/// let mut queue = drive.queue(&QueueOptions::default())?;
/// queue.push(Request::append(0, Buffer::from_slice(&[7; 4096]))).expect("room");
/// queue.submit_and_wait(1)?;
/// queue.next_completion().expect("waited for").result?;
/// host.kill(&mut |_| unreachable!("nothing is pending")); // before anything is dropped
/// drop((queue, drive));
///
/// // Nothing was flushed, and nothing acknowledged is lost.
/// let drive = host.open(&OpenOptions::default())?;
/// assert_eq!(drive.report(0..1)?[0].write_pointer, Some(4096));
/// # Ok::<(), zonal::Error>(())
/// ```
#[derive(Clone)]
pub struct SimHost(Arc<Mutex<Machine>>);

struct Machine {
    disk: SimDisk,
    /// How often it was started.
    boots: u64,
    inode: u64,
    born_ns: u64,
    /// Files made so far.
    files: u64,
    nonces: u64,
    /// Names whoever may use the image: kills, cuts and other files in its place make a new one.
    process: u64,
    locked: bool,
}

/// What a live file held at some moment.
#[derive(Clone)]
pub struct SimLive(Shared<SharedWords>);

/// A copy of an image, and of the live file that was beside it.
#[derive(Clone, Debug)]
pub struct SimCopy {
    /// The image.
    pub image: SimImage,
    /// The live file.
    pub live: Option<SimLive>,
    modified_ns: u64,
}

/// How a copy takes the place of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimRestore {
    /// Written over it: it stays the same file, modified now.
    Over,
    /// Another file under its name, with the time of modification of the copy.
    Renamed,
    /// The same, and the file system used the old one's inode number again.
    Reused,
}

impl SimHost {
    /// A machine that was just started, with this image. Who completes requests is as on a
    /// [`SimDisk`].
    #[must_use]
    pub fn new(image: &SimImage, mode: SimMode) -> Self {
        let disk = SimDisk::new(image, mode);
        let (born_ns, _) = disk.times_ns();
        Self(Arc::new(Mutex::new(Machine {
            disk,
            boots: 1,
            inode: 1,
            born_ns,
            files: 1,
            nonces: 0,
            process: 0,
            locked: false,
        })))
    }

    /// The disk of the image as it is now; after a cut, a kill or a restore it is another.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.machine().disk.clone()
    }

    /// Opens the image.
    ///
    /// # Errors
    /// As [`open`](crate::open).
    pub fn open(&self, options: &OpenOptions) -> Result<Device> {
        options.handles.check()?;
        let session = self.session();
        if !options.read_only {
            session.lock()?;
        }
        let (disk, locked) = (Disk::Sim(self.disk()), session.clone());
        image::open_at(disk, Place::Sim(session), "sim:", options)
            .map(|device| device.with_handles(options.handles))
            .inspect_err(|_| {
                if !options.read_only {
                    locked.unlock();
                }
            })
    }

    /// Checks the image, without changing it.
    ///
    /// # Errors
    /// As [`check`](crate::check).
    pub fn check(&self, options: &CheckOptions) -> Result<CheckReport> {
        let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
        image::check_disk(&Disk::Sim(self.disk()), options, || self.open(&read_only))
    }

    /// Repairs the image. What [`repair`](crate::repair) keeps in a file beside it comes to `kept`.
    ///
    /// # Errors
    /// As [`repair`](crate::repair).
    pub fn repair(&self, options: &RepairOptions, kept: &mut Vec<u8>) -> Result<RepairReport> {
        let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
        let session = self.session();
        session.lock()?;
        let place = Place::Sim(session.clone());
        let repaired = image::repair_disk(
            &Disk::Sim(self.disk()),
            options,
            |header, session| image::refuse_unclean(&place, header, session, options),
            |bytes| {
                kept.extend_from_slice(bytes);
                Ok(())
            },
            || self.open(&read_only),
        );
        session.unlock();
        repaired
    }

    /// Cuts the power, as [`SimDisk::cut`], and starts the machine again.
    ///
    /// # Panics
    /// As [`SimDisk::cut`].
    pub fn cut(&self, choose: &mut dyn FnMut(usize) -> usize) {
        let mut machine = self.machine();
        let image = machine.disk.cut(choose);
        let (_, modified_ns) = machine.disk.times_ns();
        let next = machine.disk.replaced(&image, Some(modified_ns));
        machine.boots += 1;
        machine.next_process(next);
    }

    /// Kills the process that has the image open, as [`SimDisk::kill`]. Its live file stays as it is.
    ///
    /// # Panics
    /// As [`SimDisk::kill`].
    pub fn kill(&self, next: &mut dyn FnMut(&[PendingIo]) -> (usize, Outcome)) {
        let mut machine = self.machine();
        let next = machine.disk.kill(next);
        machine.next_process(next);
    }

    /// Copies the image as reads find it now, and its live file.
    #[must_use]
    pub fn copy(&self) -> SimCopy {
        let machine = self.machine();
        let (_, modified_ns) = machine.disk.times_ns();
        let live = machine.disk.live().map(|words| SimLive(Shared::new(words.copy())));
        SimCopy { image: machine.disk.image(), live, modified_ns }
    }

    /// Brings a copy of the image back, durably. What lies beside it stays; who has the image open has
    /// lost it.
    pub fn restore(&self, copy: &SimCopy, how: SimRestore) {
        let mut machine = self.machine();
        let modified_ns = (how != SimRestore::Over).then_some(copy.modified_ns);
        let next = machine.disk.replaced(&copy.image, modified_ns);
        if how != SimRestore::Over {
            (machine.born_ns, _) = next.times_ns();
            machine.files += 1;
        }
        if how == SimRestore::Renamed {
            machine.inode = machine.files;
        }
        machine.next_process(next);
    }

    /// Puts this live file beside the image, or takes away the one that is there.
    pub fn set_live(&self, live: Option<&SimLive>) {
        self.disk().set_live(live.map(|live| Shared::new(live.0.copy())));
    }

    fn session(&self) -> Session {
        Session { host: self.clone(), process: self.machine().process }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.0)
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.machine().disk.advance(time);
    }
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHost").finish_non_exhaustive()
    }
}

impl fmt::Debug for SimLive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLive").finish_non_exhaustive()
    }
}

impl Machine {
    /// Whoever had the image open is gone, and the lock with it. The live file is a copy of what it was
    /// when the disk stopped: what the dead process's handles still change is not in it.
    fn next_process(&mut self, disk: SimDisk) {
        disk.set_live(self.disk.take_live());
        self.disk = disk;
        self.process += 1;
        self.locked = false;
    }
}

/// What one process has of a machine. Once it is dead it changes nothing any more.
#[derive(Clone)]
pub(crate) struct Session {
    host: SimHost,
    process: u64,
}

impl Session {
    fn machine(&self) -> Option<MutexGuard<'_, Machine>> {
        let machine = self.host.machine();
        (machine.process == self.process).then_some(machine)
    }

    fn lock(&self) -> Result<()> {
        match self.machine() {
            Some(mut machine) if !machine.locked => {
                machine.locked = true;
                Ok(())
            }
            Some(_) | None => Err(Error::new(ErrorKind::InUse, "somebody has it open").on("sim:")),
        }
    }

    pub(crate) fn unlock(&self) {
        if let Some(mut machine) = self.machine() {
            machine.locked = false;
        }
    }

    pub(crate) fn boot(&self) -> BootId {
        BootId(numbered(self.host.machine().boots))
    }

    pub(crate) fn nonce(&self) -> [u8; 16] {
        let mut machine = self.host.machine();
        machine.nonces += 1;
        numbered(machine.nonces)
    }

    pub(crate) fn now_ns(&self) -> u64 {
        let (now_ns, _) = self.host.machine().disk.times_ns();
        now_ns
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        let machine = self.host.machine();
        let (_, modified_ns) = machine.disk.times_ns();
        FileIdentity {
            device: 1,
            inode: machine.inode,
            born_ns: Some(machine.born_ns),
            modified_ns,
            owner: 0,
            mode: libc::S_IFREG | 0o600,
            links: 1,
        }
    }

    pub(crate) fn live(&self, expected: &Expected<'_>) -> Result<Cells, Doubt> {
        let machine = self.host.machine();
        let Some(words) = &machine.disk.live() else {
            return Err("there is no live file beside the image");
        };
        if words.len() != live::words_of(expected.zones) {
            return Err("the live file has another length");
        }
        live::believe(SharedWords::share(words), expected)
    }

    pub(crate) fn begin(&self, expected: &Expected<'_>) -> Cells {
        let now_ns = self.now_ns();
        let words = Shared::new(SharedWords::heap(live::words_of(expected.zones)));
        let cells = live::begin(SharedWords::share(&words), expected, now_ns);
        if let Some(machine) = self.machine() {
            machine.disk.set_live(Some(words));
        }
        cells
    }

    pub(crate) fn end(&self) {
        if let Some(machine) = self.machine() {
            machine.disk.set_live(None);
        }
    }
}

fn numbered(number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    id
}
