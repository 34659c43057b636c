//! How a mount comes and goes: nothing written is lost, and what is in the way is said.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::FileExt,
};

use zonal::{Buffer, CreateOptions, ErrorKind, Geometry, OpenOptions, Preallocate, Target};
use zonal_export::mount::{MountOptions, mount};

use crate::{DRIVE, Mount, direct};

#[test]
fn what_was_written_is_there_after_the_next_mount() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("drive.qcow2");
    let geometry =
        Geometry { zone_size: 16 << 20, zone_capacity: 16 << 20, ..Geometry::with_size(64 << 20) };
    let preallocate = Preallocate::Off;
    zonal::create(&image, CreateOptions { geometry, preallocate, force: false, progress: None })
        .unwrap();
    let target = image.to_str().unwrap();
    for round in 1..=3u8 {
        let Some(mount) = Mount::of(target, MountOptions::default()) else { return };
        let mut file = direct(&mount.path("seq/2"), false, true).unwrap();
        file.write_all(&Buffer::from_slice(&[round; 8192])).unwrap();
        drop(file);
        mount.end();
    }
    let Some(mount) =
        Mount::of(target, MountOptions { read_only: true, ..MountOptions::default() })
    else {
        return;
    };
    let expected: Vec<u8> = (1..=3).flat_map(|round| [round; 8192]).collect();
    assert_eq!(fs::read(mount.path("seq/2")).unwrap(), expected);
    assert!(direct(&mount.path("seq/2"), false, true).is_err(), "it is mounted to be read");
    mount.end();
}

#[test]
fn an_open_file_outlives_the_mount_s_name() {
    let Some(mount) = Mount::of(DRIVE, MountOptions::default()) else { return };
    let file = direct(&mount.path("seq/0"), true, false).unwrap();
    mount.mounted.as_ref().unwrap().leave().unwrap();
    assert!(!mount.path("seq").exists(), "its names are gone");
    assert_eq!(file.write_at(&Buffer::from_slice(&[1; 4096]), 0).unwrap(), 4096);
    assert!(!mount.mounted.as_ref().unwrap().is_over());
    drop(file);
    mount.end();
}

#[test]
fn one_that_was_unmounted_leaves_the_next_on_its_folder_alone() {
    let Some(first) = Mount::of(DRIVE, MountOptions::default()) else { return };
    let folder = first.folder.path().to_owned();
    rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::empty()).unwrap();
    while !first.mounted.as_ref().unwrap().is_over() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let drive = zonal::open(&Target::parse(DRIVE).unwrap(), &OpenOptions::default()).unwrap();
    let next = mount(drive.clone(), &folder, MountOptions::default()).unwrap();
    first.mounted.as_ref().unwrap().leave().unwrap();
    assert!(folder.join("seq/0").exists(), "the first was told to leave");
    first.end_within(|| {
        assert!(folder.join("seq/0").exists(), "the first has ended");
        next.unmount().unwrap();
    });
    assert!(!folder.join("seq").exists(), "nothing is mounted");
    drive.close().unwrap();
}

#[test]
fn one_that_is_in_use_leaves_the_next_on_its_folder_alone() {
    let Some(first) = Mount::of(DRIVE, MountOptions::default()) else { return };
    let folder = first.folder.path().to_owned();
    let file = direct(&first.path("seq/0"), true, false).unwrap();
    rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::DETACH).unwrap();
    let drive = zonal::open(&Target::parse(DRIVE).unwrap(), &OpenOptions::default()).unwrap();
    let next = mount(drive.clone(), &folder, MountOptions::default()).unwrap();
    first.mounted.as_ref().unwrap().leave().unwrap();
    assert!(folder.join("seq/0").exists(), "the first was told to leave");
    drop(file);
    first.end_within(|| {
        assert!(folder.join("seq/0").exists(), "the first has ended");
        next.unmount().unwrap();
    });
    drive.close().unwrap();
}

#[test]
fn one_that_is_dropped_is_unmounted() {
    let Some(mut mount) = Mount::of(DRIVE, MountOptions::default()) else { return };
    drop(mount.mounted.take());
    assert!(!mount.path("seq").exists());
}

#[test]
fn buffered_writes_take_any_bytes_and_end_in_a_whole_block() {
    let options = MountOptions { buffered: true, ..MountOptions::default() };
    let Some(mount) = Mount::of(DRIVE, options) else { return };
    let text: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let path = mount.path("seq/0");
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    for piece in text.chunks(777) {
        file.write_all(piece).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), text, "what is no whole block yet is read too");
    file.sync_all().unwrap();
    let mut padded = text;
    padded.resize(12288, 0);
    assert_eq!(fs::read(&path).unwrap(), padded);
    file.write_all(b"more").unwrap();
    drop(file);
    mount.end();
}

#[test]
fn the_last_bytes_are_padded_when_the_last_writer_closes() {
    let options = MountOptions { buffered: true, ..MountOptions::default() };
    let Some(mount) = Mount::of(DRIVE, options) else { return };
    let path = mount.path("seq/0");
    let open = || fs::File::options().append(true).open(&path).unwrap();
    let (mut one, mut two) = (open(), open());
    one.write_all(b"one ").unwrap();
    drop(one);
    // Its release is not waited for by close(2).
    std::thread::sleep(std::time::Duration::from_millis(200));
    two.write_all(b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one two");
    two.set_len(0).unwrap();
    two.write_all(b"three").unwrap();
    drop(two);
    mount.end();
}

#[test]
fn what_cannot_be_mounted_on_is_said() {
    let drive = zonal::open(&Target::parse(DRIVE).unwrap(), &OpenOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error =
        mount(drive.clone(), &folder.path().join("none"), MountOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("make the folder first"), "{error}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = mount(drive.clone(), &file, MountOptions::default()).unwrap_err();
    assert!(error.to_string().contains("is no folder"), "{error}");
    drive.close().unwrap();
}

#[test]
fn small_blocks_are_not_read_stale() {
    let Some(mount) =
        Mount::of("mem:size=64M,zone-size=4M,block-size=512", MountOptions::default())
    else {
        return;
    };
    let writer = direct(&mount.path("seq/0"), true, false).unwrap();
    let mut reader = fs::File::open(mount.path("seq/0")).unwrap();
    for n in 0..16u8 {
        writer.write_all_at(&Buffer::from_slice(&[n; 512]), u64::from(n) * 512).unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [n; 512], "the block that was just written");
    }
    drop((writer, reader));
    mount.end();
}
