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

mod errno;
mod files;
mod queue;
mod session;
mod tree;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use zonal::{Device, Error, ErrorKind, Result};

use self::{files::Files, session::Session};

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
    folder: PathBuf,
    files: Arc<Files>,
    /// Whether its names are gone already.
    left: AtomicBool,
}

/// Mounts `device` on `folder`. The caller keeps a handle, and closes the drive after
/// [`Mounted::unmount`].
///
/// # Errors
/// `folder` is no folder or may not be mounted on, or the kernel has no FUSE. A mount there whose server is
/// gone is taken away first.
pub fn mount(device: Device, folder: &Path, options: MountOptions) -> Result<Mounted> {
    let folder = prepare(folder)?;
    let refused = |error: io::Error| refused(&folder, error);
    let config = config(&device, &options);
    let is_alone = matches!(device.info().kind, "memory" | "image" | "file");
    // Beside a writer what was read once may be reset.
    let is_exclusive = is_alone && !options.read_only;
    let files = Arc::new(Files::new(device, options)?);
    let session = Session::new(files.clone(), is_exclusive);
    let session = fuser::Session::new(session, &folder, &config).map_err(refused)?;
    files.tell(session.notifier());
    let session = session.spawn().map_err(refused)?;
    Ok(Mounted { session, folder, files, left: AtomicBool::new(false) })
}

fn config(device: &Device, options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(device.name().replace(',', " ")),
        MountOption::Subtype("zonal".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
        if options.read_only { MountOption::RO } else { MountOption::RW },
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1) as usize);
    config.clone_fd = true;
    config
}

/// The folder to mount on, in full. One whose server has died is unmounted.
fn prepare(folder: &Path) -> Result<PathBuf> {
    let seen = match rustix::fs::stat(folder) {
        Err(rustix::io::Errno::NOTCONN) => {
            tracing::warn!(
                "{}: an earlier mount's server is gone; unmounting it",
                folder.display()
            );
            detach(folder).map_err(|error| refused(folder, error))?;
            rustix::fs::stat(folder)
        }
        seen => seen,
    };
    let mode = seen.map_err(|error| refused(folder, error.into()))?.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode) != rustix::fs::FileType::Directory {
        let text = format!("{} is no folder; make one to mount on", folder.display());
        return Err(Error::new(ErrorKind::InvalidInput, text).during("mount"));
    }
    folder.canonicalize().map_err(|error| refused(folder, error))
}

/// Takes a mount out of the tree of names; files that are open stay usable.
fn detach(folder: &Path) -> io::Result<()> {
    match rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH) {
        Err(rustix::io::Errno::PERM) => {
            let status = std::process::Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(folder)
                .status()?;
            if status.success() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
        }
        ended => Ok(ended?),
    }
}

fn refused(folder: &Path, error: io::Error) -> Error {
    let next = match error.kind() {
        io::ErrorKind::NotFound if !folder.exists() => "; make the folder first",
        io::ErrorKind::NotFound => "; is there a /dev/fuse, and fusermount3 (package fuse3)?",
        io::ErrorKind::PermissionDenied => {
            "; the folder has to be the user's own, and for others to see it user_allow_other has to be in \
             /etc/fuse.conf"
        }
        _ => "",
    };
    let text = format!("{}: {error}{next}", folder.display());
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::InvalidInput,
        _ => ErrorKind::Io,
    };
    Error::new(kind, text).during("mount").with_source(error)
}

fn not_durable(folder: &Path, errno: fuser::Errno) -> Error {
    let error = io::Error::from_raw_os_error(errno.code());
    let text = format!("{}: not everything written to it is durable: {error}", folder.display());
    Error::new(ErrorKind::Io, text).during("unmount").with_source(error)
}

impl Mounted {
    /// Whether it was unmounted, by whomever, and nothing of it is in use.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.guard.is_finished()
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
        // What the kernel has not sent yet of mapped files.
        let folder = rustix::fs::open(
            &self.folder,
            rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        );
        if let Ok(folder) = folder {
            rustix::fs::syncfs(folder).map_err(|error| refused(&self.folder, error.into()))?;
        }
        detach(&self.folder).map_err(|error| refused(&self.folder, error))?;
        self.left.store(true, Ordering::Relaxed);
        let synced = self.files.sync_all();
        queue::give_back();
        synced.map_err(|errno| not_durable(&self.folder, errno))
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
        let Self { session, folder, files, .. } = self;
        let joined = session.join().map_err(|error| refused(&folder, error));
        let synced = files.sync_all();
        queue::give_back();
        left.and(joined).and(synced.map_err(|errno| not_durable(&folder, errno)))
    }
}
