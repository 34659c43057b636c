//! What becomes of a file whose zone fails, by each of `errors=`; and of a drive that is damaged.

use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use zonal::{Buffer, CreateOptions, Geometry, Preallocate, ZoneState};
use zonal_export::mount::{MountOptions, OnError};

use crate::{Mount, direct};

/// The third write to the drive fails, once.
const FAILS: &str = "mem:size=64M,zone-size=4M,faults=fail-write=3";

fn block() -> Buffer {
    Buffer::from_slice(&[5; 4096])
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// Mounts a drive and fails a write to `seq/0`, of which two blocks are there.
fn failed(on_error: OnError) -> Option<(Mount, fs::File)> {
    let mount = Mount::of(FAILS, MountOptions { on_error, ..MountOptions::default() })?;
    let file = direct(&mount.path("seq/0"), true, false).unwrap();
    file.write_all_at(&block(), 0).unwrap();
    file.write_all_at(&block(), 4096).unwrap();
    assert_eq!(errno(file.write_at(&block(), 8192)), Some(libc::EIO), "the third write fails");
    Some((mount, file))
}

#[test]
fn after_a_failure_nothing_is_written_to_any_file() {
    let Some((mount, file)) = failed(OnError::RemountReadOnly) else { return };
    assert_eq!(errno(file.write_at(&block(), 8192)), Some(libc::EPERM), "the file itself");
    assert_eq!(errno(direct(&mount.path("seq/1"), false, false)), Some(libc::EROFS), "another");
    assert_eq!(errno(file.set_len(0)), Some(libc::EROFS), "nor is it cut");
    assert_eq!(fs::read(mount.path("seq/0")).unwrap(), [5; 8192], "what was acknowledged is read");
    drop(file);
    mount.end();
}

#[test]
fn after_a_failure_its_file_is_only_read() {
    let Some((mount, file)) = failed(OnError::ZoneReadOnly) else { return };
    assert_eq!(errno(file.write_at(&block(), 8192)), Some(libc::EPERM));
    assert_eq!(mode(&mount.path("seq/0")), 0o440);
    assert_eq!(fs::read(mount.path("seq/0")).unwrap(), [5; 8192]);
    let other = direct(&mount.path("seq/1"), false, false).unwrap();
    assert_eq!(other.write_at(&block(), 0).unwrap(), 4096, "others go on");
    drop((file, other));
    mount.end();
}

#[test]
fn after_a_failure_its_file_is_gone() {
    let Some((mount, file)) = failed(OnError::ZoneOffline) else { return };
    let metadata = fs::metadata(mount.path("seq/0")).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o777), (0, 0));
    assert_eq!(errno(file.write_at(&block(), 0)), Some(libc::EPERM));
    drop(file);
    mount.end();
}

#[test]
fn after_a_failure_its_file_goes_on_where_it_ends() {
    let Some((mount, file)) = failed(OnError::Repair) else { return };
    assert_eq!(fs::metadata(mount.path("seq/0")).unwrap().len(), 8192);
    assert_eq!(file.write_at(&block(), 8192).unwrap(), 4096);
    assert_eq!(fs::read(mount.path("seq/0")).unwrap(), [5; 12288]);
    drop(file);
    mount.end();
}

/// Mounts a drive whose files take any bytes.
fn buffered(drive: &str) -> Option<Mount> {
    Mount::of(drive, MountOptions { buffered: true, ..MountOptions::default() })
}

fn appending(mount: &Mount, name: &str) -> fs::File {
    fs::File::options().append(true).open(mount.path(name)).unwrap()
}

/// A file that no other test has on its mount: by its name a process's descriptors are told apart.
#[test]
fn a_close_says_that_the_last_block_cannot_be_written() {
    for on_error in [OnError::RemountReadOnly, OnError::Repair] {
        let options = MountOptions { on_error, buffered: true, ..MountOptions::default() };
        let drive = "mem:size=64M,zone-size=4M,faults=fail-write=2";
        // A child that another test has forked has all files of this process for a moment, and so closes last.
        let says = (0..20).any(|_| {
            let Some(mount) = Mount::of(drive, options.clone()) else { return true };
            let path = mount.path("seq/13");
            let mut file = fs::File::options().append(true).open(&path).unwrap();
            io::Write::write_all(&mut file, &[5; 5000]).unwrap();
            let closed = nix::unistd::close(file);
            if closed.is_err() {
                assert_eq!(closed, Err(nix::errno::Errno::EIO), "{on_error:?}");
                let acknowledged = fs::read(&path).unwrap();
                assert_eq!(acknowledged, [5; 4096], "{on_error:?}: what was acknowledged");
            }
            mount.end();
            closed.is_err()
        });
        assert!(says, "{on_error:?}: no close said it");
    }
}

#[test]
fn only_the_last_close_pads() {
    let Some(mount) = buffered("mem:size=64M,zone-size=4M") else { return };
    let path = mount.path("seq/14");
    let size = || fs::metadata(&path).unwrap().len();
    let mut file = appending(&mount, "seq/14");
    io::Write::write_all(&mut file, b"some").unwrap();
    drop(file.try_clone().unwrap());
    assert_eq!(size(), 4, "another descriptor");
    let mut command = Command::new("echo");
    command.arg("more").stdout(file.try_clone().unwrap()).status().unwrap();
    drop(command);
    assert_eq!(size(), 9, "a child's");
    drop(fs::File::open(&path).unwrap());
    assert_eq!(size(), 9, "a reader's");
    nix::unistd::close(file).unwrap();
    wait("the last", || size() == 4096);
    mount.end();
}

#[test]
fn what_a_child_was_given_is_its_own_to_close() {
    let Some(mount) = buffered("mem:size=64M,zone-size=4M") else { return };
    let path = mount.path("seq/15");
    let mut file = appending(&mount, "seq/15");
    io::Write::write_all(&mut file, b"some").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "read word; echo more"]).stdin(Stdio::piped());
    let mut child = command.stdout(file.try_clone().unwrap()).spawn().unwrap();
    drop(command);
    nix::unistd::close(file).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 4, "the child goes on");
    drop(child.stdin.take());
    child.wait().unwrap();
    wait("the child's end", || fs::metadata(&path).unwrap().len() == 4096);
    assert_eq!(&fs::read(&path).unwrap()[..10], b"somemore\n\0");
    mount.end();
}

#[test]
fn a_few_bytes_for_which_there_is_no_zone_are_refused_at_once() {
    let Some(mount) = buffered("mem:size=64M,zone-size=4M,max-active-zones=1") else { return };
    let open = |name: &str| appending(&mount, name);
    let state = |zone: u32| mount.device.report(zone..=zone).unwrap()[0].state;
    let (mut one, mut two) = (open("seq/8"), open("seq/9"));
    io::Write::write_all(&mut one, b"some").unwrap();
    assert_eq!(errno(io::Write::write_all(&mut two, b"more")), Some(libc::EOVERFLOW));
    assert_eq!(fs::metadata(mount.path("seq/9")).unwrap().len(), 0);
    // Cut off, they give the place back; written, they keep it, and hold nothing open.
    one.set_len(0).unwrap();
    assert_eq!(state(8), ZoneState::Empty);
    io::Write::write_all(&mut two, b"more").unwrap();
    two.sync_all().unwrap();
    assert_eq!(state(9), ZoneState::Closed);
    assert_eq!(errno(io::Write::write_all(&mut one, b"some")), Some(libc::EOVERFLOW));
    drop((one, two));
    mount.end();
}

#[test]
fn a_few_bytes_keep_nobody_from_writing_where_fewer_zones_may_be_open_than_active() {
    let drive = "mem:size=64M,zone-size=4M,max-open-zones=1,max-active-zones=2";
    let Some(mount) = buffered(drive) else { return };
    let open = |name: &str| appending(&mount, name);
    let [mut idle, mut one, mut two, mut none] = ["seq/4", "seq/5", "seq/6", "seq/7"].map(open);
    io::Write::write_all(&mut idle, b"some").unwrap();
    io::Write::write_all(&mut one, &block()).unwrap();
    io::Write::write_all(&mut two, &block()).unwrap();
    assert_eq!(errno(io::Write::write_all(&mut none, b"some")), Some(libc::EOVERFLOW));
    drop((idle, one, two, none));
    mount.end();
}

#[test]
fn what_could_not_be_written_holds_no_place_when_the_mount_has_ended() {
    let drive = "mem:size=64M,zone-size=4M,max-active-zones=2,faults=fail-write=1";
    let Some(mut mount) = buffered(drive) else { return };
    let open = |name: &str| appending(&mount, name);
    let (mut held, mut fails) = (open("seq/10"), open("seq/11"));
    io::Write::write_all(&mut held, b"some").unwrap();
    assert_eq!(errno(io::Write::write_all(&mut fails, &block())), Some(libc::EIO));
    assert_eq!(mount.device.report(10..=10).unwrap()[0].state, ZoneState::ExplicitlyOpen);
    // The last to close it is a child, who is told nothing.
    let mut command = Command::new("sh");
    command.args(["-c", "read word"]).stdin(Stdio::piped()).stdout(held.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop((command, held, fails));
    drop(child.stdin.take());
    child.wait().unwrap();
    let error = mount.mounted.take().unwrap().unmount().unwrap_err();
    assert!(error.to_string().contains("not everything written to it is durable"), "{error}");
    assert_eq!(mount.device.report(10..=10).unwrap()[0].state, ZoneState::Empty);
    mount.device.close().unwrap();
}

/// For what FUSE is told of when nobody waits any more.
fn wait(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The smallest image whose data can be cut off.
fn image(folder: &Path) -> String {
    let image = folder.join("drive.qcow2");
    let geometry =
        Geometry { zone_size: 4 << 20, zone_capacity: 4 << 20, ..Geometry::with_size(16 << 20) };
    let preallocate = Preallocate::Off;
    zonal::create(&image, CreateOptions { geometry, preallocate, force: false, progress: None })
        .unwrap();
    image.to_str().unwrap().to_owned()
}

#[test]
fn an_image_that_is_cut_short_under_its_mount_gives_errors() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path());
    let Some(mount) = Mount::of(&image, MountOptions::default()) else { return };
    let file = direct(&mount.path("seq/3"), true, false).unwrap();
    file.write_all_at(&block(), 0).unwrap();
    fs::File::options().write(true).open(&image).unwrap().set_len(1 << 20).unwrap();
    let mut bytes = block();
    assert_eq!(errno(file.read_at(&mut bytes, 0)), Some(libc::EIO));
    assert_eq!(fs::read_dir(mount.path("seq")).unwrap().count(), 4, "the mount goes on");
    drop(file);
    mount.end();
}

#[test]
fn a_write_that_has_to_be_durable_is_synced() {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::of(&image(folder.path()), MountOptions::default()) else { return };
    let syncs = |flags| {
        let before = mount.device.metrics().flush_rounds;
        let flags = libc::O_DIRECT | libc::O_APPEND | flags;
        let file = fs::File::options().append(true).custom_flags(flags).open(mount.path("seq/0"));
        std::io::Write::write_all(&mut file.unwrap(), &block()).unwrap();
        mount.device.metrics().flush_rounds - before
    };
    assert_eq!(syncs(0), 0);
    assert_eq!(syncs(libc::O_DSYNC), 1);
    assert_eq!(syncs(libc::O_SYNC), 1);
    mount.end();
}

#[test]
fn an_open_that_was_refused_leaves_nothing_open() {
    let options = MountOptions { explicit_open: true, ..MountOptions::default() };
    let drive = "mem:size=64M,zone-size=4M,max-open-zones=1";
    let Some(mount) = Mount::of(drive, options) else { return };
    let one = direct(&mount.path("seq/0"), false, true).unwrap();
    let refused = direct(&mount.path("seq/1"), false, true);
    assert_eq!(errno(refused), Some(libc::EBUSY));
    drop(one);
    // By its name: nobody has it open.
    nix::unistd::truncate(&mount.path("seq/1"), 0).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(mount.device.zones_in_use().0, 0, "no zone is open");
    mount.end();
}

#[test]
fn worn_zones_are_files_of_which_less_can_be_done() {
    let Some(mount) = Mount::of("mem:size=64M,zone-size=4M", MountOptions::default()) else {
        return;
    };
    let file = direct(&mount.path("seq/0"), true, false).unwrap();
    file.write_all_at(&block(), 0).unwrap();
    mount.device.set_condition(0, ZoneState::ReadOnly).unwrap();
    assert_eq!(errno(file.write_at(&block(), 4096)), Some(libc::EPERM));
    assert_eq!(mode(&mount.path("seq/0")), 0o440);
    assert_eq!(fs::read(mount.path("seq/0")).unwrap(), [5; 4096]);

    mount.device.set_condition(0, ZoneState::Offline).unwrap();
    let mut bytes = block();
    assert_eq!(errno(file.read_at(&mut bytes, 0)), Some(libc::EPERM));
    assert_eq!(mode(&mount.path("seq/0")), 0);
    drop(file);
    mount.end();
}
