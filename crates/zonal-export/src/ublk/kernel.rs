//! What the kernel has to have, and what is said where it has not.

use std::{io, path::Path};

use libublk::{UblkError, ctrl::UblkCtrl, sys};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use zonal::{Error, ErrorKind, Result};

/// What all commands go to.
const CONTROL: &str = "/dev/ublk-control";

/// The first Linux with zones over ublk.
const SINCE: (u32, u32) = (6, 6);

/// What has to be among the features that the driver says.
const WANTED: u64 = flag(sys::UBLK_F_ZONED) | flag(sys::UBLK_F_USER_COPY);

/// A flag as the driver keeps it; the bindings have some in 32 bits.
#[allow(clippy::cast_lossless)]
pub(super) const fn flag(bit: u32) -> u64 {
    bit as u64
}

/// Whether zoned devices can be made here.
///
/// # Errors
/// What is missing, and how to come by it.
pub(super) fn check() -> Result<()> {
    let opened = rustix::fs::open(CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop);
    let release = release();
    if let Err(errno) = opened {
        return Err(no_control(errno, &release));
    }
    // It asks over a ring of its own, so that no answer may be for want of rings.
    has_rings()?;
    judge(UblkCtrl::get_features(), &release)
}

fn has_rings() -> Result<()> {
    let ring = io_uring::IoUring::<io_uring::squeue::Entry128>::builder().build(1);
    ring.map(drop).map_err(|error| {
        let text = "ublk is spoken over io_uring, which this process may not use (sysctl \
                    kernel.io_uring_disabled, a container's seccomp profile)";
        Error::new(ErrorKind::Unsupported, text).during("serve").with_source(error)
    })
}

fn no_control(errno: Errno, release: &str) -> Error {
    let (kind, text) = match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO if is_too_old(release) => {
            return too_old(release);
        }
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            let text = format!(
                "this kernel has no {CONTROL}: load the module with `modprobe ublk_drv`; where there is none, \
                 Linux {release} was built without CONFIG_BLK_DEV_UBLK"
            );
            return Error::new(ErrorKind::Unsupported, text).during("serve");
        }
        Errno::ACCESS | Errno::PERM => (
            ErrorKind::InvalidInput,
            format!("no permission for {CONTROL}: block devices are made by root (CAP_SYS_ADMIN)"),
        ),
        _ => (ErrorKind::Io, format!("{CONTROL} cannot be opened")),
    };
    Error::new(kind, text).during("serve").with_source(io::Error::from(errno))
}

/// What the driver's answer to `UBLK_U_CMD_GET_FEATURES` means; older ones have none.
fn judge(features: Option<u64>, release: &str) -> Result<()> {
    match features {
        Some(features) if features & WANTED == WANTED => Ok(()),
        Some(_) if !is_too_old(release) => Err(not_zoned(release)),
        None if !is_too_old(release) => {
            let text = format!("ublk of Linux {release} does not say what it can");
            Err(Error::new(ErrorKind::Unsupported, text).during("serve"))
        }
        Some(_) | None => Err(too_old(release)),
    }
}

/// Of a kernel that knows no zones at all, which some only tell of a device that was made.
pub(super) fn not_zoned(release: &str) -> Error {
    let text = format!(
        "ublk of Linux {release} has no zones: it was built without CONFIG_BLK_DEV_ZONED (UBLK_F_ZONED)"
    );
    Error::new(ErrorKind::Unsupported, text).during("serve")
}

fn too_old(release: &str) -> Error {
    let text = format!("zoned ublk devices are there since Linux 6.6, and this is Linux {release}");
    Error::new(ErrorKind::Unsupported, text).during("serve")
}

/// The name of the running kernel.
pub(super) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// A release that cannot be read is taken for a new one.
fn is_too_old(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < SINCE,
        _ => false,
    }
}

/// What the library says failed, as the kernel said it.
pub(super) fn system_error(error: UblkError) -> io::Error {
    match error {
        UblkError::UringIOError(result) | UblkError::OtherError(result) if result < 0 => {
            io::Error::from_raw_os_error(-result)
        }
        UblkError::IOError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// How a command to the driver ended. Of one that found the device busy the library says that it was done.
pub(super) fn ended(
    result: std::result::Result<i32, UblkError>,
) -> std::result::Result<(), UblkError> {
    match result {
        Ok(result) if result < 0 => Err(UblkError::UringIOError(result)),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Something asked of the driver that failed.
pub(super) fn failed(what: impl Into<String>, error: UblkError) -> Error {
    failed_with(what, system_error(error))
}

/// A character device that the library could not open. Whatever the reason, it names a lack of permission; the kernel is
/// asked once more.
pub(super) fn not_opened(path: &Path, error: UblkError) -> Error {
    let what = path.display().to_string();
    if !matches!(error, UblkError::OtherError(result) if result == -Errno::ACCESS.raw_os_error()) {
        return failed(what, error);
    }
    match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Err(errno) => failed_with(what, errno.into()),
        Ok(_) => {
            Error::new(ErrorKind::Io, format!("{what} came too late; try again")).during("serve")
        }
    }
}

/// The same, in the kernel's own words.
pub(super) fn failed_with(what: impl Into<String>, error: io::Error) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            ErrorKind::InvalidInput,
            format!("{}: block devices are made by root (CAP_SYS_ADMIN)", what.into()),
        ),
        io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy => {
            (ErrorKind::InUse, what.into())
        }
        io::ErrorKind::NotFound => (ErrorKind::NotFound, what.into()),
        _ => (ErrorKind::Io, what.into()),
    };
    Error::new(kind, text).during("serve").with_source(error)
}

/// How something ended that is done to a device, which another program may have removed before.
pub(super) fn unless_gone(result: std::result::Result<i32, UblkError>, what: &str) -> Result<()> {
    match ended(result) {
        Ok(()) => Ok(()),
        Err(UblkError::UringIOError(result)) if is_gone(result) => Ok(()),
        Err(error) => Err(failed(what, error)),
    }
}

/// Of a number that no device has any more the driver says one of these, which depends on its age.
fn is_gone(result: i32) -> bool {
    [Errno::INVAL, Errno::NODEV, Errno::NOENT].iter().any(|errno| result == -errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_driver_is_told_by_its_module() {
        let error = no_control(Errno::NOENT, "6.12.1-amd64");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for word in ["modprobe ublk_drv", "CONFIG_BLK_DEV_UBLK", "6.12.1-amd64"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_user_without_rights_is_told_whose_they_are() {
        let text = no_control(Errno::ACCESS, "6.12.1").to_string();
        assert!(text.contains("root") && text.contains(CONTROL), "{text}");
    }

    #[test]
    fn what_a_driver_lacks_is_named() {
        assert!(judge(Some(WANTED | 1), "6.12.1").is_ok());
        let text = judge(Some(flag(sys::UBLK_F_USER_COPY)), "6.12.1").unwrap_err().to_string();
        assert!(text.contains("CONFIG_BLK_DEV_ZONED") && text.contains("UBLK_F_ZONED"), "{text}");
        for features in [None, Some(0)] {
            let text = judge(features, "6.1.0-50-amd64").unwrap_err().to_string();
            assert!(text.contains("since Linux 6.6") && text.contains("6.1.0-50"), "{text}");
        }
        assert!(no_control(Errno::NOENT, "5.15.3").to_string().contains("since Linux 6.6"));
    }

    #[test]
    fn a_command_that_found_the_device_busy_was_not_done() {
        let busy = -Errno::BUSY.raw_os_error();
        assert!(ended(Ok(0)).is_ok() && ended(Ok(3)).is_ok());
        let error = failed("starting it", ended(Ok(busy)).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert_eq!(unless_gone(Ok(busy), "stopping it").unwrap_err().kind(), ErrorKind::InUse);
        assert!(
            unless_gone(Err(UblkError::UringIOError(-Errno::NODEV.raw_os_error())), "").is_ok()
        );
    }

    #[test]
    fn a_node_that_cannot_be_opened_is_refused_by_the_kernels_own_word() {
        let none = tempfile::tempdir().unwrap().path().join("ublkc7");
        let denied = || UblkError::OtherError(-Errno::ACCESS.raw_os_error());
        let error = not_opened(&none, denied());
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("ublkc7"), "{error}");
        assert_eq!(not_opened(Path::new("/dev/null"), denied()).kind(), ErrorKind::Io);
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert!(is_too_old("6.5.13-1-amd64") && is_too_old("5.19.0"));
        assert!(!is_too_old("6.6.0") && !is_too_old("6.12.117+deb12-amd64") && !is_too_old("7.0"));
        assert!(!is_too_old("a new one"));
    }
}
