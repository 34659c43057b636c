//! Disks that a test has for itself: file systems on loop devices, and a FUSE file that logs what
//! reaches it and fails on command.
//!
//! A [`Ground`] gives the thread that makes it a mount namespace of its own, which its other threads
//! and child processes are born into. Nothing mounted there is seen by others, and the kernel takes
//! all of it down, loop devices included, when the last of them is gone, however they end.

#![allow(dead_code, reason = "each suite uses a part of it")]

pub(crate) mod fuse;
pub(crate) mod log;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a machine says that it is booted again by.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long something mounted may be in use after everybody is done with it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder in memory, in a mount namespace of its own, in which the machine seems to be booted
/// whenever the test says so.
pub(crate) struct Ground {
    // Unmounted before the folder is removed.
    _memory: Mounted,
    folder: tempfile::TempDir,
}

impl Ground {
    /// The ground, if this machine has all that is needed; otherwise says `SKIP`, which in
    /// continuous integration is a failure.
    pub(crate) fn new(tools: &[&str]) -> Option<Self> {
        Self::make(tools)
            .inspect_err(|reason| {
                println!("SKIP: {reason}");
                assert!(std::env::var_os("CI").is_none(), "what has to run in CI: {reason}");
            })
            .ok()
    }

    fn make(tools: &[&str]) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("only root can mount".to_owned());
        }
        for tool in tools.iter().chain(&["mount", "losetup"]) {
            if let Err(error) = Command::new(tool).arg("-V").output() {
                return Err(format!("{tool} cannot be run: {error}"));
            }
        }
        let next = Command::new("losetup").arg("--find").output().unwrap().stdout;
        let next = String::from_utf8_lossy(&next).trim().to_owned();
        for place in ["/dev/fuse", if next.is_empty() { "a free loop device" } else { &next }] {
            if !Path::new(place).exists() {
                return Err(format!("{place} is missing"));
            }
        }
        let failed = |what| move |error| format!("{what} is not allowed: {error}");
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed("a mount namespace"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(failed("a private mount namespace"))?;
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = folder.path();
        mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some("size=2G"))
            .map_err(failed("mounting"))?;
        let memory = Mounted(at.to_owned());
        let ground = Self { _memory: memory, folder };
        ground.boot(1);
        let boot_id = Some(ground.path("boot-id"));
        mount(boot_id.as_ref(), BOOT_ID, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(failed("another boot id"))?;
        Ok(ground)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new folder.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A new file of zeros.
    pub(crate) fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// From here on this is another boot of the machine.
    pub(crate) fn boot(&self, number: u64) {
        let id = format!("00000000-0000-0000-0000-{number:012x}\n");
        std::fs::write(self.path("boot-id"), id).unwrap();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = umount2(BOOT_ID, MntFlags::MNT_DETACH);
    }
}

/// Something mounted; unmounted when dropped, at the latest when nobody uses it any more.
#[must_use = "it is unmounted when dropped"]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// The file system in a file, over a loop device, which goes when the file system does.
    pub(crate) fn over_loop(file: &Path, at: &Path, kind: &str) -> Self {
        run("mount", &["-t", kind, "-o", "loop"], &[file, at]);
        Self(at.to_owned())
    }

    /// A small file system in memory.
    pub(crate) fn memory(at: &Path, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        Self(at.to_owned())
    }

    /// A file or folder at another place, too.
    pub(crate) fn bound(what: &Path, at: &Path) -> Self {
        mount(Some(what), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        Self(at.to_owned())
    }

    /// Unmounts it, which has to succeed: nobody uses it. The kernel takes down a ring, and the
    /// files it had, a little after its process has closed it.
    pub(crate) fn unmount(self) {
        let begun = Instant::now();
        while let Err(error) = umount2(&self.0, MntFlags::empty()) {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} cannot be unmounted: {error}",
                self.0.display()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Unmounted already, as a rule.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Makes a file system in a file or device.
pub(crate) fn make_file_system(kind: &str, at: &Path) {
    match kind {
        "ext4" => run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-m", "0"], &[at]),
        "xfs" => run("mkfs.xfs", &["-q", "-f"], &[at]),
        _ => unreachable!("no file system of these tests: {kind}"),
    }
}

/// Runs a tool, which has to succeed.
pub(crate) fn run(tool: &str, options: &[&str], paths: &[&Path]) {
    let output = Command::new(tool).args(options).args(paths).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {options:?} {paths:?}: {says}");
}
