//! Where a drive is mounted: how the kernel is asked for the mount, and how it is given back. A user who may
//! not mount asks `fusermount3`, which is given a socket and hands the connection back through it (libfuse,
//! `fusermount3`, `_FUSE_COMMFD`).
//!
//! Invariant: nothing but this mount is ever unmounted. Once the kernel has let it go, whatever is on the
//! folder is somebody else's.

use std::{
    ffi::CString,
    fs::File,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, CWD, StatxFlags, statx},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use zonal::{Error, ErrorKind, Result};

use super::MountOptions;

/// What FUSE is asked by.
const FUSE: &str = "/dev/fuse";

/// A mount of this process. Dropped, it is taken out of the tree of names.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    /// The mount's device number (major, minor), which is its own for as long as its connection is alive.
    number: (u32, u32),
    connection: OwnedFd,
}

impl Place {
    /// Mounts on `folder`; what the kernel asks comes by the descriptor.
    pub(super) fn mount(
        folder: &Path,
        name: &str,
        options: &MountOptions,
    ) -> Result<(Self, OwnedFd)> {
        let folder = prepare(folder)?;
        let connection = connect(&folder, name, options)?;
        let place = connection.try_clone().and_then(|requests| {
            let number = number_of(&folder)?;
            Ok((Self { folder: folder.clone(), number, connection }, requests))
        });
        place.map_err(|error| {
            // What is on the folder is this mount, a moment old.
            let _ = detach(&folder);
            refused(&folder, error)
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether its names are there still.
    pub(super) fn is_there(&self) -> bool {
        self.is_connected() && number_of(&self.folder).is_ok_and(|number| number == self.number)
    }

    /// Whether the kernel has it still, with names or without.
    fn is_connected(&self) -> bool {
        let mut asked = [PollFd::new(&self.connection, PollFlags::empty())];
        let ready = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        ready.is_ok() && !asked[0].revents().contains(PollFlags::ERR)
    }

    /// Takes its names out of the tree, if they are there; files that are open stay usable.
    pub(super) fn detach(&self) -> Result<()> {
        // One that was aborted is never of use again, to nobody.
        if self.is_there() || !self.is_connected() && is_dead(&self.folder) {
            detach(&self.folder).map_err(|error| refused(&self.folder, error))?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!("{error}");
        }
    }
}

/// The device number of what is on a folder. Of what is mounted nobody is asked, as nobody may answer.
fn number_of(folder: &Path) -> io::Result<(u32, u32)> {
    let seen = statx(CWD, folder, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok((seen.stx_dev_major, seen.stx_dev_minor))
}

/// Whether the server of what is mounted there is gone.
fn is_dead(folder: &Path) -> bool {
    matches!(rustix::fs::stat(folder), Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// The folder to mount on, in full. One whose server has died is unmounted.
fn prepare(folder: &Path) -> Result<PathBuf> {
    if is_dead(folder) {
        let shown = folder.display();
        tracing::warn!("{shown}: an earlier mount's server is gone; unmounting it");
        detach(folder).map_err(|error| refused(folder, error))?;
    }
    let seen = rustix::fs::stat(folder).map_err(|error| refused(folder, error.into()))?;
    if rustix::fs::FileType::from_raw_mode(seen.st_mode) != rustix::fs::FileType::Directory {
        let text = format!("{} is no folder; make one to mount on", folder.display());
        return Err(Error::new(ErrorKind::InvalidInput, text).during("mount"));
    }
    folder.canonicalize().map_err(|error| refused(folder, error))
}

/// Mounts, by the kernel or, for who may not, by `fusermount3`.
fn connect(folder: &Path, name: &str, options: &MountOptions) -> Result<OwnedFd> {
    let connection: OwnedFd =
        File::options().read(true).write(true).open(FUSE).map_err(no_fuse)?.into();
    match ask_kernel(&connection, folder, name, options) {
        Ok(()) => Ok(connection),
        Err(Errno::PERM) => ask_helper(folder, name, options),
        Err(error) => Err(refused(folder, error.into())),
    }
}

fn ask_kernel(
    connection: &OwnedFd,
    folder: &Path,
    name: &str,
    options: &MountOptions,
) -> rustix::io::Result<()> {
    let mut flags =
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, options.read_only);
    let (fd, mode) = (connection.as_raw_fd(), rustix::fs::stat(folder)?.st_mode);
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let others = if options.allow_other { ",allow_other" } else { "" };
    let words = format!(
        "fd={fd},rootmode={mode:o},user_id={},group_id={},default_permissions{others}",
        uid.as_raw(),
        gid.as_raw()
    );
    let words = CString::new(words).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(name, folder, "fuse", flags, words.as_c_str())
}

fn ask_helper(folder: &Path, name: &str, options: &MountOptions) -> Result<OwnedFd> {
    let access = if options.read_only { "ro" } else { "rw" };
    let others = if options.allow_other { ",allow_other" } else { "" };
    let words = format!(
        "fsname={},subtype=zonal,default_permissions,nosuid,nodev,noexec,noatime,{access}{others}",
        name.replace(',', " ")
    );
    let failed = |error| refused(folder, error);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let helper = Command::new("fusermount3")
        .args(["-o", &words, "--"])
        .arg(folder)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_helper)?;
    let received = receive(&ours);
    let ended = helper.wait_with_output().map_err(failed)?;
    if let Ok(Some(connection)) = received {
        return Ok(connection);
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let text = match said.trim() {
        "" => format!("{}: fusermount3: {}", folder.display(), ended.status),
        said => format!("{}: {said}", folder.display()),
    };
    Err(Error::new(ErrorKind::InvalidInput, text).during("mount"))
}

/// The descriptor that comes with a message; none if the other end says nothing.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn no_fuse(error: io::Error) -> Error {
    let (kind, next) = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::InvalidInput, "this user has to be allowed to read and write it")
        }
        _ => (ErrorKind::NotFound, "the kernel needs FUSE (`modprobe fuse`)"),
    };
    Error::new(kind, format!("{FUSE}: {error}; {next}")).during("mount").with_source(error)
}

fn no_helper(error: io::Error) -> Error {
    let text = format!("fusermount3: {error}; users mount by it (package fuse3)");
    Error::new(ErrorKind::NotFound, text).during("mount").with_source(error)
}

/// Takes what is mounted there out of the tree of names; files that are open stay usable.
fn detach(folder: &Path) -> io::Result<()> {
    match rustix::mount::unmount(folder, UnmountFlags::DETACH) {
        Err(Errno::PERM) => {
            let ended =
                Command::new("fusermount3").args(["-u", "-z", "--"]).arg(folder).output()?;
            let said = String::from_utf8_lossy(&ended.stderr);
            let denied = || io::Error::new(io::ErrorKind::PermissionDenied, said.trim());
            if ended.status.success() { Ok(()) } else { Err(denied()) }
        }
        ended => Ok(ended?),
    }
}

pub(super) fn refused(folder: &Path, error: io::Error) -> Error {
    let (kind, next) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "; make the folder first"),
        io::ErrorKind::PermissionDenied => (ErrorKind::InvalidInput, ""),
        _ => (ErrorKind::Io, ""),
    };
    let text = format!("{}: {error}{next}", folder.display());
    Error::new(kind, text).during("mount").with_source(error)
}
