//! Any drive as a zonefs, by FUSE: a file for each zone, whose size is the zone's write pointer. No zoned
//! kernel is needed, and nothing of the drive is changed by mounting it.
//!
//! ```text
//! program ─► kernel ─► FUSE ─► session ─► files (what zonefs allows) ─► queue ─► zone rules ─► drive
//! ```
//!
//! `cnv/N` are the conventional zones, `seq/N` the sequential ones. A sequential file is read by any program;
//! it is written at its end, in whole blocks and with `O_DIRECT`; cut to nothing its zone is reset, and cut to
//! its capacity (`st_blocks`) it is finished. The kernel sends one write at a time that makes a file longer:
//! depth comes from many files.
//!
//! ```no_run
//! use std::path::Path;
//! use zonal::{OpenOptions, Target};
//! use zonal_export::mount::{MountOptions, mount};
//!
//! let drive = zonal::open(&Target::parse("drive.img")?, &OpenOptions::default())?;
//! let mounted = mount(drive.clone(), Path::new("/mnt/drive"), MountOptions::default())?;
//! while !mounted.is_over() {
//!     std::thread::sleep(std::time::Duration::from_millis(100));
//! }
//! mounted.unmount()?;
//! drive.close()?;
//! # Ok::<(), zonal::Error>(())
//! ```

mod closing;
mod errno;
mod files;
mod place;
mod queue;
mod session;
mod tree;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fuser::{BackgroundSession, Config, SessionACL};
use zonal::{Device, Error, ErrorKind, Result};

use self::{
    files::Files,
    place::{Place, refused},
    session::Session,
};

/// What becomes of a file whose zone fails under it (zonefs, `errors=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// Nothing can be written any more, to no file.
    #[default]
    RemountReadOnly,
    /// The file can only be read.
    ZoneReadOnly,
    /// The file is empty, and cannot be used.
    ZoneOffline,
    /// Its size is made right, and it goes on.
    Repair,
}

/// How a drive is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Whether a file that is opened to be written opens its zone (zonefs, `explicit-open`).
    pub explicit_open: bool,
    /// Whether neighbouring conventional zones are one file (`mkzonefs -o aggr_cnv`).
    pub aggregate_conventional: bool,
    /// What becomes of a file whose zone fails.
    pub on_error: OnError,
    /// Whether sequential files take writes of any length, and without `O_DIRECT`. What is no whole block is
    /// kept in memory, and filled up with zeros when the file is synced or closed for the last time.
    pub buffered: bool,
    /// Whether nothing can be written.
    pub read_only: bool,
    /// Whether others than the mounting user may use it; their permissions hold then.
    pub allow_other: bool,
    /// Owner of everything in it.
    pub uid: u32,
    /// Group of everything in it.
    pub gid: u32,
    /// Permissions of the files.
    pub mode: u16,
    /// Threads that serve it, each with a queue to the drive.
    pub threads: u32,
}

impl Default for MountOptions {
    /// zonefs's defaults, for the user whose process this is.
    fn default() -> Self {
        Self {
            explicit_open: false,
            aggregate_conventional: false,
            on_error: OnError::default(),
            buffered: false,
            read_only: false,
            allow_other: false,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mode: 0o640,
            threads: 8,
        }
    }
}

/// A drive that is mounted. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
    place: Place,
    files: Arc<Files>,
    /// Whether its names are gone already.
    left: AtomicBool,
}

/// Mounts `device` on `folder`. The caller keeps a handle, and closes the drive after
/// [`Mounted::unmount`].
///
/// This process may use the mount's files as any other may, but must not map them to be shared and written: what
/// it wrote goes to the file when it is unmapped, while the kernel lets nobody else of the process at its memory,
/// nor the threads that would have to answer.
///
/// # Errors
/// `folder` is no folder or may not be mounted on, or the kernel has no FUSE. A mount there whose server is
/// gone is taken away first.
pub fn mount(device: Device, folder: &Path, options: MountOptions) -> Result<Mounted> {
    let is_alone = matches!(device.info().kind, "memory" | "image" | "file");
    // Beside a writer what was read once may be reset.
    let is_exclusive = is_alone && !options.read_only;
    let config = config(&options);
    let files = Arc::new(Files::new(device.clone(), options)?);
    let session = Session::new(files.clone(), is_exclusive);
    let (place, requests) = Place::mount(folder, device.name(), files.options())?;
    let failed = |error: io::Error| refused(place.folder(), error);
    // It is `place` that unmounts: fuser's own way unmounts the folder after the kernel has, and so the next
    // mount there.
    let session = fuser::Session::from_fd(session, requests, config.acl, config).map_err(failed)?;
    files.tell(session.notifier());
    let session = session.spawn().map_err(failed)?;
    Ok(Mounted { session, place, files, left: AtomicBool::new(false) })
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1) as usize);
    config.clone_fd = true;
    config
}

fn not_durable(folder: &Path, errno: fuser::Errno) -> Error {
    let error = io::Error::from_raw_os_error(errno.code());
    let text = format!("{}: not everything written to it is durable: {error}", folder.display());
    Error::new(ErrorKind::Io, text).during("unmount").with_source(error)
}

/// How the threads that serve a mount ended. Who takes a request from the kernel just as that lets the mount go is
/// told `ECONNABORTED` (Linux `fuse_dev_do_read`), and `ENODEV` a moment later: both are the end.
fn ended(joined: io::Result<()>) -> io::Result<()> {
    joined.or_else(|error| match error.kind() {
        io::ErrorKind::ConnectionAborted => Ok(()),
        _ => Err(error),
    })
}

impl Mounted {
    /// Whether it was unmounted, by whomever, and nothing of it is in use.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Whether its names are in the tree still.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.place.is_there()
    }

    /// Takes it out of the tree of names, with everything written so far durable. Files that are open stay
    /// usable until they are closed, and only then [`Mounted::is_over`] holds.
    ///
    /// # Errors
    /// What could not be made durable, or a mount that the kernel does not let go.
    pub fn leave(&self) -> Result<()> {
        if self.is_over() || self.left.load(Ordering::Relaxed) {
            return Ok(());
        }
        let folder = self.place.folder();
        if self.place.is_there() {
            // What the kernel has not sent yet of mapped files.
            let (flags, mode) = (rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty());
            if let Ok(opened) = rustix::fs::open(folder, flags, mode) {
                rustix::fs::syncfs(opened).map_err(|error| refused(folder, error.into()))?;
            }
        }
        self.place.detach()?;
        self.left.store(true, Ordering::Relaxed);
        let synced = self.files.sync_all();
        queue::give_back();
        synced.map_err(|errno| not_durable(folder, errno))
    }

    /// Unmounts it, and waits until nothing of it is in use.
    ///
    /// # Errors
    /// As [`Mounted::leave`], or what could not be made durable at the end.
    pub fn unmount(self) -> Result<()> {
        let left = self.leave();
        if !self.left.load(Ordering::Relaxed) && !self.is_over() {
            // It is mounted still, and its threads would be waited for in vain.
            return left;
        }
        let Self { session, place, files, .. } = self;
        let joined = ended(session.join()).map_err(|error| refused(place.folder(), error));
        let synced = files.sync_all();
        files.drop_tails();
        queue::give_back();
        left.and(joined).and(synced.map_err(|errno| not_durable(place.folder(), errno)))
    }
}
