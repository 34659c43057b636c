//! A mounted drive behaves as the kernel's zonefs does.
//!
//! The probes of `probes` run on this crate's mount of a drive in memory, and, where `ZONAL_ZONEFS_FOLDER`
//! names a folder on which a zonefs of the kernel is mounted, on that one too: the same program, the same
//! answers, but for what `differences` lists with the reason. That zonefs has to have been made anew, with
//! conventional zones in files of their own, and is mounted with `explicit-open` if `ZONAL_ZONEFS_EXPLICIT`
//! is set.
//!
//! The other files hold what only this mount has: what becomes of it when the drive fails, and how it comes
//! and goes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod appends;
mod differences;
mod failures;
mod life;
mod probes;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use zonal::{Device, OpenOptions, Target};
use zonal_export::mount::{MountOptions, Mounted, mount};

use differences::{DIFFERENCES, Difference};

/// The drive that is mounted unless a test needs another.
const DRIVE: &str =
    "mem:size=64M,zone-size=4M,zone-capacity=3M,conventional-zones=2,max-open-zones=4";

/// Where a mount of another process is, for the test that runs the probes on it.
const FOLDER: &str = "ZONAL_MOUNTED_FOLDER";
/// Whether it has `explicit-open`.
const EXPLICIT: &str = "ZONAL_MOUNTED_EXPLICIT";

/// A drive mounted on a folder of its own.
struct Mount {
    mounted: Option<Mounted>,
    device: Device,
    folder: TempDir,
}

impl Mount {
    /// `None` where no FUSE can be had, which is said.
    fn of(target: &str, options: MountOptions) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            assert!(env::var_os("CI").is_none(), "there is no /dev/fuse, and this is CI");
            eprintln!("SKIP: there is no /dev/fuse to mount by");
            return None;
        }
        let device = zonal::open(&Target::parse(target).unwrap(), &OpenOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mounted = mount(device.clone(), folder.path(), options).unwrap();
        Some(Self { mounted: Some(mounted), device, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Unmounts it, and closes the drive.
    fn end(self) {
        self.end_within(|| {});
    }

    /// The same, with `look` while its folder is there.
    fn end_within(mut self, look: impl FnOnce()) {
        self.mounted.take().unwrap().unmount().unwrap();
        self.device.clone().close().unwrap();
        look();
    }
}

/// Runs all probes below a folder and compares what they say with what zonefs says.
fn compare(folder: &Path, explicit_open: bool, is_kernel: bool) {
    let said = probes::all(folder, explicit_open);
    let mut wrong = Vec::new();
    for (probe, expected, answer) in &said {
        println!("{probe:<58} {answer}");
        let mut expected = expected;
        let known = DIFFERENCES.iter().find(|difference| difference.probe == *probe);
        if let Some(Difference { mounted, reason, .. }) = known.filter(|_| !is_kernel) {
            println!("    zonefs says {expected}: {reason}");
            expected = mounted;
        }
        if answer != expected {
            wrong.push(format!("{probe}: {answer}, not {expected}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
    for difference in DIFFERENCES {
        assert!(
            said.iter().any(|(probe, ..)| *probe == difference.probe),
            "{}: there is no such probe",
            difference.probe
        );
    }
}

/// The same, on a mount of this process, by another: one that unmaps a file which it serves itself holds its own
/// memory until it has answered itself.
fn compare_elsewhere(folder: &Path, explicit_open: bool) {
    let mut other = Command::new(env::current_exe().unwrap());
    other.args(["--exact", "a_mount_of_another_process_answers_so", "--nocapture"]);
    other.env(FOLDER, folder).env(EXPLICIT, if explicit_open { "1" } else { "0" });
    let output = other.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{}", output.status);
}

#[test]
fn a_mount_of_another_process_answers_so() {
    // The tests below run it.
    let Some(folder) = env::var_os(FOLDER) else { return };
    compare(Path::new(&folder), env::var_os(EXPLICIT).unwrap() == "1", false);
}

#[test]
fn a_mount_answers_as_zonefs_does() {
    let Some(mount) = Mount::of(DRIVE, MountOptions::default()) else { return };
    compare_elsewhere(mount.folder.path(), false);
    mount.end();
}

#[test]
fn a_mount_with_explicit_open_answers_as_zonefs_does() {
    let options = MountOptions { explicit_open: true, ..MountOptions::default() };
    let Some(mount) = Mount::of(DRIVE, options) else { return };
    compare_elsewhere(mount.folder.path(), true);
    mount.end();
}

#[test]
fn the_kernel_s_zonefs_answers_so() {
    let Some(folder) = env::var_os("ZONAL_ZONEFS_FOLDER") else {
        eprintln!("SKIP: ZONAL_ZONEFS_FOLDER names no folder with a zonefs of the kernel");
        return;
    };
    compare(Path::new(&folder), env::var_os("ZONAL_ZONEFS_EXPLICIT").is_some(), true);
}

/// Opens for direct I/O, as zonefs wants it of a writer.
fn direct(path: &Path, read: bool, append: bool) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::File::options()
        .read(read)
        .write(!append)
        .append(append)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}
