//! What an image believes after a session that was not closed: its live file, where everything
//! matches, and nothing else.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod engines;

use engines::over_each_engine;
use std::fs::{self, File, OpenOptions as FileOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use zonal::{
    CreateOptions, Device, EngineChoice, ErrorKind, Geometry, OpenOptions, Preallocate, Queue,
    QueueOptions, Request, Target, ZoneState,
};

const BLOCK: usize = 4096;

/// Where the live file has the cells of a drive of few zones, and how far apart.
const CELLS: u64 = 4096;
const CELL_STRIDE: u64 = 128;
const ZONES: u64 = 4;

over_each_engine! {
    what_was_acknowledged_is_there_after_a_session_that_was_cut_off,
    a_session_may_be_found_long_after_it_was_cut_off,
    a_reader_sees_the_same_and_changes_nothing,
    a_record_that_was_in_flight_below_another_reads_as_zeros,
    a_record_whose_place_was_taken_just_before_a_kill_leaves_no_hole,
    nothing_is_written_after_a_close_through_another_handle,
    a_live_file_that_is_gone_leaves_only_the_flushed,
    a_live_file_that_others_can_write_is_not_believed,
    a_live_file_behind_a_link_is_not_believed,
    a_live_file_of_another_length_session_or_boot_is_not_believed,
    a_copy_of_an_image_does_not_believe_the_live_file_of_the_original,
    an_image_that_was_modified_since_does_not_believe_its_live_file,
    an_older_state_put_back_in_place_does_not_believe_the_newer_live_file,
    an_image_is_open_for_writing_once,
}

struct Scene {
    folder: tempfile::TempDir,
    engine: EngineChoice,
}

impl Scene {
    /// An image with one record flushed and another acknowledged in zone 0, not closed.
    fn cut_off(engine: EngineChoice) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let scene = Self { folder, engine };
        let geometry = Geometry {
            zone_size: 1 << 20,
            zone_capacity: 1 << 20,
            ..Geometry::with_size(ZONES << 20)
        };
        let preallocate = Preallocate::Off;
        let options = CreateOptions { geometry, preallocate, force: false, progress: None };
        zonal::create(&scene.image(), options).unwrap();
        let drive = scene.open(OpenOptions::default()).unwrap();
        let mut queue = drive.queue(&QueueOptions::default()).unwrap();
        append(&mut queue, 1);
        run(&mut queue, Request::flush()).unwrap();
        append(&mut queue, 2);
        append(&mut queue, 3);
        scene
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.qcow2")
    }

    fn live(&self) -> PathBuf {
        self.folder.path().join("disk.qcow2.live")
    }

    fn open(&self, options: OpenOptions) -> zonal::Result<Device> {
        let options = OpenOptions { engine: self.engine, ..options };
        zonal::open(&Target::Path(self.image()), &options)
    }

    /// The error of an open for writing.
    fn refused(&self) -> zonal::Error {
        self.open(OpenOptions::default()).expect_err("what was not flushed cannot be known")
    }

    fn assert_unclean(&self, words: &str) {
        let error = self.refused();
        assert_eq!(error.kind(), ErrorKind::Unclean);
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("--drop-unflushed"), "{error}");
        // The flushed record is there, and the way on is the one that the error names.
        let drive = self.open(OpenOptions { read_only: true, ..Default::default() }).unwrap();
        assert_eq!(drive.report(0..1).unwrap()[0].write_pointer, Some(BLOCK as u64));
        let options = OpenOptions { drop_unflushed: true, ..Default::default() };
        let drive = self.open(options).unwrap();
        assert_eq!(records(&drive, 2), [1, 0]);
        drive.close().unwrap();
    }
}

fn run(queue: &mut Queue, request: Request) -> zonal::Result<u32> {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result
}

fn append(queue: &mut Queue, byte: u8) {
    let mut record = queue.buffer(BLOCK).unwrap();
    record.fill(byte);
    run(queue, Request::append(0, record)).unwrap();
}

/// The first bytes of zone 0's first blocks.
fn records(drive: &Device, count: usize) -> Vec<u8> {
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    queue.push(Request::read_at(0, queue.buffer(count * BLOCK).unwrap())).unwrap();
    queue.submit_and_wait(1).unwrap();
    let bytes = queue.next_completion().unwrap().buffer.unwrap();
    let blocks = bytes.chunks(BLOCK);
    blocks.inspect(|b| assert!(b.iter().all(|x| *x == b[0]))).map(|b| b[0]).collect()
}

fn poke(path: &Path, offset: u64, word: u64) {
    let file = FileOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&word.to_ne_bytes(), offset).unwrap();
}

fn set_modified(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn what_was_acknowledged_is_there_after_a_session_that_was_cut_off(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let drive = scene.open(OpenOptions::default()).unwrap();
    assert!(drive.info().recovered.is_some());
    assert_eq!(records(&drive, 4), [1, 2, 3, 0]);
    assert_eq!(drive.report(0..1).unwrap()[0].state, ZoneState::Closed);
    drive.close().unwrap();
    assert!(!scene.live().exists());
}

fn a_session_may_be_found_long_after_it_was_cut_off(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    std::thread::sleep(Duration::from_millis(1500));
    let drive = scene.open(OpenOptions::default()).unwrap();
    assert_eq!(records(&drive, 4), [1, 2, 3, 0]);
}

fn a_reader_sees_the_same_and_changes_nothing(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let before = (fs::read(scene.image()).unwrap(), fs::read(scene.live()).unwrap());
    let drive = scene.open(OpenOptions { read_only: true, ..Default::default() }).unwrap();
    assert_eq!(records(&drive, 4), [1, 2, 3, 0]);
    drive.close().unwrap();
    let after = (fs::read(scene.image()).unwrap(), fs::read(scene.live()).unwrap());
    assert!(before == after);
}

fn a_record_that_was_in_flight_below_another_reads_as_zeros(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let slots = CELLS + ZONES * CELL_STRIDE;
    poke(&scene.live(), slots + 8, 1 << 32 | 1); // queue 0, slot 0: block 1, one block
    poke(&scene.live(), slots, 0); // zone 0, generation 0
    let reader = scene.open(OpenOptions { read_only: true, ..Default::default() }).unwrap();
    assert_eq!(records(&reader, 4), [1, 0, 3, 0]);
    let drive = scene.open(OpenOptions::default()).unwrap();
    assert_eq!(records(&drive, 4), [1, 0, 3, 0]);
    drive.close().unwrap();
    let drive = scene.open(OpenOptions::default()).unwrap();
    assert_eq!(records(&drive, 4), [1, 0, 3, 0]);
}

/// A write is killed between asking for its place and knowing that it has it: its range is
/// proposed, and the zone's word tells whether it counts.
fn a_record_whose_place_was_taken_just_before_a_kill_leaves_no_hole(engine: EngineChoice) {
    for (taken, expected) in [(true, [1, 0, 3, 0]), (false, [1, 2, 3, 0])] {
        let scene = Scene::cut_off(engine);
        let slots = CELLS + ZONES * CELL_STRIDE;
        poke(&scene.live(), slots + 8, 1 << 32 | 1 << 30 | 1); // proposed: block 1, one block
        poke(&scene.live(), slots, 0); // zone 0, generation 0
        if taken {
            let mut word = [0; 8];
            File::open(scene.live()).unwrap().read_exact_at(&mut word, CELLS).unwrap();
            poke(&scene.live(), CELLS, u64::from_ne_bytes(word) + (1 << 32)); // one in flight
        }
        let drive = scene.open(OpenOptions::default()).unwrap();
        assert_eq!(records(&drive, 4), expected);
    }
}

fn nothing_is_written_after_a_close_through_another_handle(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let drive = scene.open(OpenOptions::default()).unwrap();
    let other = drive.clone();
    let queue = other.queue(&QueueOptions::default()).unwrap();
    assert_eq!(drive.clone().close().unwrap_err().kind(), ErrorKind::InUse);
    drop(queue);
    drive.close().unwrap();
    let error = other.queue(&QueueOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DeviceReadOnly);
}

fn a_live_file_that_is_gone_leaves_only_the_flushed(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    fs::remove_file(scene.live()).unwrap();
    scene.assert_unclean("no live file");
}

fn a_live_file_that_others_can_write_is_not_believed(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    fs::set_permissions(scene.live(), fs::Permissions::from_mode(0o666)).unwrap();
    scene.assert_unclean("can be written by others");
}

fn a_live_file_behind_a_link_is_not_believed(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let elsewhere = scene.folder.path().join("elsewhere");
    fs::rename(scene.live(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, scene.live()).unwrap();
    scene.assert_unclean("cannot be opened");
}

fn a_live_file_of_another_length_session_or_boot_is_not_believed(engine: EngineChoice) {
    for (word, says) in [(2, "another session"), (4, "booted since"), (1, "other zones")] {
        let scene = Scene::cut_off(engine);
        poke(&scene.live(), word * 8, 77);
        scene.assert_unclean(says);
    }
    let scene = Scene::cut_off(engine);
    let file = FileOptions::new().write(true).open(scene.live()).unwrap();
    file.set_len(8192).unwrap();
    scene.assert_unclean("another length");
}

fn a_copy_of_an_image_does_not_believe_the_live_file_of_the_original(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let copy = scene.folder.path().join("copy");
    fs::copy(scene.image(), &copy).unwrap();
    fs::rename(&copy, scene.image()).unwrap();
    scene.assert_unclean("another file");
}

fn an_image_that_was_modified_since_does_not_believe_its_live_file(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    set_modified(&scene.image(), SystemTime::now() + Duration::from_secs(10));
    scene.assert_unclean("modified");
}

fn an_older_state_put_back_in_place_does_not_believe_the_newer_live_file(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let drive = scene.open(OpenOptions::default()).unwrap();
    let older = fs::read(scene.image()).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    for _ in 0..3 {
        append(&mut queue, 4);
        run(&mut queue, Request::flush()).unwrap();
    }
    drop(queue);
    drop(drive);
    let modified = fs::metadata(scene.image()).unwrap().modified().unwrap();
    fs::write(scene.image(), older).unwrap();
    set_modified(&scene.image(), modified);
    let error = scene.refused();
    assert!(error.to_string().contains("older or newer"), "{error}");
}

fn an_image_is_open_for_writing_once(engine: EngineChoice) {
    let scene = Scene::cut_off(engine);
    let drive = scene.open(OpenOptions::default()).unwrap();
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drive.close().unwrap();
    scene.open(OpenOptions::default()).unwrap().close().unwrap();
}

#[test]
fn whoever_waits_for_an_image_that_is_replaced_meanwhile_does_not_get_the_old_one() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let geometry = Geometry::with_size(1 << 30);
    let make = |force, progress| {
        let (geometry, preallocate) = (geometry.clone(), Preallocate::Falloc);
        zonal::create(&path, CreateOptions { geometry, preallocate, force, progress })
    };
    make(false, None).unwrap();
    let mut waits = None;
    let mut progress = |_, _| {
        let target = Target::Path(path.clone());
        let open = move || zonal::open(&target, &OpenOptions::default());
        waits.get_or_insert_with(|| std::thread::spawn(open));
        std::thread::sleep(Duration::from_millis(20));
        ControlFlow::Continue(())
    };
    make(true, Some(&mut progress)).unwrap();
    let error = waits.unwrap().join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    zonal::open(&Target::Path(path), &OpenOptions::default()).unwrap().close().unwrap();
}
