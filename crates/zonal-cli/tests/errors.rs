//! Errors a person meets: each names the thing, the place and the next step, ends with 2, and
//! leaves the drive as it was.

mod common;

use common::{Place, Run, noise};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use zonal::{OpenOptions, QueueOptions, Request, Target};

/// The image's bytes and its live file's, to see that nothing has changed.
fn state(place: &Place) -> (Vec<u8>, Option<Vec<u8>>) {
    let live = fs::read(place.path("disk.live")).ok();
    (fs::read(place.path("disk")).expect("the image"), live)
}

/// Runs `words`, which must fail, say all of `parts`, and change no zone.
fn fails(place: &Place, words: &str, parts: &[&str]) {
    let before = place.json("report disk")["zones"].clone();
    place.run(words).exits(2).says(parts);
    assert_eq!(before, place.json("report disk")["zones"], "{words}");
}

#[test]
fn no_such_file() {
    let place = Place::new();
    let says = ["nope.qcow2", "no such file", "zonal create nope.qcow2"];
    place.run("info nope.qcow2").exits(2).says(&says);
    assert!(!place.path("nope.qcow2").exists());
}

#[test]
fn what_is_no_zoned_drive_is_named_for_what_it_seems_to_be() {
    let place = Place::new();
    place.put("text", b"just a letter\n");
    place.put("empty", b"");
    place.put("zeros", &[0; 70_000]);
    place.put("noise", &noise(1, 70_000));
    place.put("program", b"\x7fELF and so on");
    place.put("archive", &[b"\x1f\x8b".as_slice(), &[0; 600]].concat());
    let cases = [
        ("text", "a text file"),
        ("empty", "an empty file"),
        ("zeros", "zeros"),
        ("noise", "raw data"),
        ("program", "a program"),
        ("archive", "gzip"),
    ];
    for (name, seems) in cases {
        let says = [name, "not a zoned drive", seems, "zonal create"];
        place.run(&format!("report {name}")).exits(2).says(&says);
    }
    place.run("report .").exits(2).says(&["not a zoned drive", "a folder"]);
    place.run("report /dev/null").exits(2).says(&["/dev/null", "character device"]);
}

#[test]
fn a_plain_qcow2_is_no_zoned_drive() {
    let place = Place::new();
    let qemu = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(place.path("plain"))
        .arg("1M")
        .status();
    if !qemu.is_ok_and(|status| status.success()) {
        println!("SKIP: qemu-img is not installed");
        return;
    }
    let says = ["plain", "not a zoned drive", "qcow2 image without zones", "zonal create"];
    place.run("report plain").exits(2).says(&says);
}

#[test]
fn a_zone_out_of_range() {
    let place = Place::with_disk("");
    place.put("data", b"x");
    fails(
        &place,
        "append disk data --zones 99",
        &["zonal: disk: zone range 99", "8 zones", "0..8"],
    );
    fails(&place, "reset disk --zone 8 --yes", &["8", "8 zones"]);
}

#[test]
fn a_record_over_the_limit() {
    let place = Place::with_disk("--max-append 64K");
    place.put("data", b"x");
    fails(&place, "append disk data --record 128K", &["128K", "append limit", "64K", "--ordered"]);
}

#[test]
fn a_full_drive() {
    let place = Place::with_disk("");
    place.put("data", &noise(3, 65 << 20));
    let run = place.run("append disk data --record 1M --json").exits(2);
    let run = run.says(&["disk", "drive full", "record 64"]);
    assert_eq!(run.lines().len(), 64, "what was acknowledged is said");
}

#[test]
fn too_few_open_zones() {
    let place = Place::with_disk("--max-open-zones 2 --max-active-zones 2");
    let drive = zonal::open(&Target::Path(place.path("disk")), &OpenOptions::default())
        .expect("a fresh image");
    let mut queue = drive.queue(&QueueOptions::default()).expect("a queue");
    let mut run = |request| {
        queue.push(request).expect("room");
        queue.submit_and_wait(1).expect("a ring");
        queue.next_completion().expect("waited for").result
    };
    run(Request::open(0)).expect("the first");
    run(Request::open(1)).expect("the second");
    let error = run(Request::open(2)).expect_err("the third").to_string();
    for part in ["disk", "open", "too many active zones", "zone 2", "finish or reset"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    drop(queue);
    drop(drive);
    place.run("open disk --zones 0..3").exits(2).says(&["zone 2", "too many active zones"]);
}

#[test]
fn a_word_of_create_that_cannot_be_is_named_as_it_was_said() {
    let place = Place::new();
    for (words, parts) in [
        ("--zone-size 3", ["--zone-size 3", "multiple"]),
        ("--zone-size 24M", ["--zone-size", "power of two"]),
        ("--zone-size 8M --zone-capacity 9M", ["--zone-capacity", "zone-size"]),
        ("--zone-size 8M --conventional-zones 8", ["--conventional-zones 8", "8 zones"]),
        ("--zone-size 8M --max-open-zones 99", ["--max-open-zones 99", "8 would do"]),
        ("--zone-size 8M --max-active-zones 99", ["--max-active-zones 99", "8 would do"]),
        ("--zone-size 8M --max-append 16M", ["--max-append", "8388608 would do"]),
        ("--block-size 1000", ["--block-size 1000", "power of two"]),
    ] {
        place.run(&format!("create disk --size 64M {words}")).exits(2).says(&parts);
        assert!(!place.path("disk").exists());
    }
    // What was not asked for gives way.
    place.ok("create disk --size 64M --zone-size 64K");
    assert_eq!(place.json("info disk")["append_bytes_max"], 64 << 10);
}

#[test]
fn a_check_of_nothing_says_how_to_make_a_drive_and_names_a_damaged_file_once() {
    let place = Place::with_disk("");
    place.run("check nope").exits(2).says(&["nope", "no such file", "zonal create nope"]);
    // No drive is made there; a device is there when its driver is.
    place.run("info /dev/nope").exits(2).says(&[
        "/dev/nope",
        "no such file",
        "lsblk -z",
        "modprobe",
    ]);
    place.run("check .").exits(2).says(&["a folder", "name an image"]);
    place.run("info .").exits(2).says(&["a folder", "name an image", "zonal create"]);
    let mut bytes = fs::read(place.path("disk")).expect("the image");
    // A zone size of 0.
    bytes[189] = 0;
    bytes[188] = 0;
    bytes[187] = 0;
    bytes[186] = 0;
    place.put("disk", &bytes);
    let run = place.run("check disk").exits(1);
    let text = run.text();
    let first = text.lines().next().expect("a line");
    assert!(first.starts_with("disk: error at byte ") && first.contains("damaged"), "{first}");
    assert_eq!(first.matches("disk").count(), 1, "{first}");
}

#[test]
fn an_input_that_is_not_there_is_the_only_thing_said() {
    let place = Place::with_disk("");
    let run = place.run("append disk nofile").exits(2).says(&["nofile"]);
    assert_eq!(run.talk.lines().count(), 1, "{}", run.talk);
}

#[test]
fn a_replaced_image_is_whole_until_the_new_one_is() {
    let place = Place::with_disk("");
    place.put("data", &noise(8, 100_000));
    place.ok("append disk data");
    let before = state(&place);
    let names = || fs::read_dir(place.path(".")).expect("the folder").count();
    let count = names();
    // Too large for the limit on files: the old image stays, and nothing is left beside it.
    let limit = fs::metadata(place.path("disk")).expect("the image").len() / 1024;
    let words = "create disk --size 256M --zone-size 8M --force";
    let script = format!("ulimit -f {limit} && exec {} {words}", env!("CARGO_BIN_EXE_zonal"));
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(place.path("."));
    Run::of(words, bash.output().expect("bash runs")).exits(2).says(&["disk", "ulimit -f"]);
    assert!(state(&place) == before && names() == count);
    // In use: nobody takes it away.
    let drive = zonal::open(&Target::Path(place.path("disk")), &OpenOptions::default())
        .expect("a good image");
    place.run(words).exits(2).says(&["disk", "in use"]);
    drop(drive);
    // By a link, it is the image that is replaced, and not the link.
    std::os::unix::fs::symlink(place.path("disk"), place.path("link")).expect("a link");
    place.ok("create link --size 256M --zone-size 8M --force");
    assert!(fs::symlink_metadata(place.path("link")).expect("the link").is_symlink());
    assert_eq!(place.json("info disk")["zones"], 32);
    assert_eq!(names(), count + 1);
}

#[test]
fn an_interrupted_create_leaves_nothing() {
    let place = Place::new();
    let child = place.start("create disk --size 4G --zone-size 64M --preallocate full");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    while !place.path("disk").exists() {
        std::thread::yield_now();
    }
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::INT)
        .expect("a child");
    let run = Run::of("create", child.wait_with_output().expect("a child")).exits(130);
    run.says(&["disk", "nothing was made"]);
    assert_eq!(fs::read_dir(place.path(".")).expect("the folder").count(), 0);
}

/// The kernel takes the ring of a process that has ended apart in the background.
fn unmount(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let umount = Command::new("umount").arg(folder).output().expect("umount runs");
        if umount.status.success() {
            return;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&umount.stderr));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_disk_full_underneath() {
    let mount = Place::new();
    let folder = mount.path("small");
    fs::create_dir(&folder).expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24M", "tmpfs"])
        .arg(&folder)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        println!("SKIP: mounting a small file system takes root");
        return;
    }
    mount.put("data", &noise(5, 40 << 20));
    mount.ok("create small/disk --size 64M --zone-size 8M");
    let run = mount.run("append small/disk data --record 64K --json");
    let report = mount.run("report small/disk --json");
    unmount(&folder);
    let run = run.exits(2).says(&["small/disk", "no space left on the disk below", "zone"]);
    assert!(!run.lines().is_empty());
    report.exits(0);
}

#[test]
fn an_image_in_use() {
    let place = Place::with_disk("");
    let drive = zonal::open(&Target::Path(place.path("disk")), &OpenOptions::default())
        .expect("a fresh image");
    place.put("data", b"x");
    let process = format!("process {}", std::process::id());
    fails(&place, "append disk data", &["disk", "in use", &process, "end that process"]);
    drop(drive);
    place.ok("append disk data");
}

#[test]
fn an_image_not_closed_cleanly_and_without_its_live_file() {
    let place = Place::with_disk("");
    let drive = zonal::open(&Target::Path(place.path("disk")), &OpenOptions::default())
        .expect("a fresh image");
    let mut queue = drive.queue(&QueueOptions::default()).expect("a queue");
    let record = queue.buffer(4096).expect("a buffer");
    queue.push(Request::append(0, record)).expect("room");
    queue.submit_and_wait(1).expect("a ring");
    drop(queue);
    drop(drive);
    fs::remove_file(place.path("disk.live")).expect("the live file");
    place.put("data", b"x");
    let before = state(&place);
    let says = ["disk", "not closed cleanly", "live file", "--drop-unflushed"];
    place.run("append disk data").exits(2).says(&says);
    assert!(before == state(&place), "the image is as it was");
    place.ok("append disk data --drop-unflushed");
}

#[test]
fn a_bench_that_cannot_be_made_erases_nothing() {
    let place = Place::with_disk("--max-open-zones 1");
    place.put("data", &noise(7, 1 << 20));
    place.ok("append disk data");
    fails(&place, "bench disk --rw append --bs 2M --reset -y", &["append limit"]);
    fails(&place, "bench disk --rw write --numjobs 4 --reset -y", &["4 jobs"]);
    fails(&place, "bench disk --rw read --reset -y", &["--reset"]);
}

#[test]
fn an_image_has_one_live_file_by_whatever_link_it_is_opened() {
    let place = Place::with_disk("");
    std::os::unix::fs::symlink(place.path("disk"), place.path("link")).expect("a link");
    let drive = zonal::open(&Target::Path(place.path("link")), &OpenOptions::default())
        .expect("a fresh image");
    assert!(place.path("disk.live").exists() && !place.path("link.live").exists());
    let process = format!("process {}", std::process::id());
    place.put("data", b"x");
    fails(&place, "append disk data", &["in use", &process]);
    drop(drive);
}

#[test]
fn a_limit_on_files_is_an_error_and_not_the_end_of_the_program() {
    let place = Place::with_disk("");
    let data = noise(9, 6 << 20);
    place.put("data", &data);
    let limited = |kib: u64, words: &str| {
        let script = format!("ulimit -f {kib} && exec {} {words}", env!("CARGO_BIN_EXE_zonal"));
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(place.path("."));
        Run::of(words, bash.output().expect("bash runs")).exits(2)
    };
    // The data is at the image's end: two zones of eight are below the limit.
    let length = fs::metadata(place.path("disk")).expect("the image").len();
    let run = limited((length - (48 << 20)) / 1024, "append disk data --record 256K --json");
    let run = run.says(&["disk: append: ", "zone ", "File too large", "ulimit -f"]);
    let lines = run.lines();
    assert!(!lines.is_empty(), "two zones took theirs");
    let missing = (0..24).find(|n: &u64| lines.iter().all(|line| line["record"] != *n));
    let named = format!("record {} is the first that was not written", missing.expect("one"));
    let run = run.says(&[&named]);
    assert_eq!(place.json("info disk")["session"], "closed cleanly");
    // What the index lacks is all that is to do.
    place.put("index", &run.out);
    let rest = place.ok("append disk data --record 256K --json --resume index").out;
    place.put("whole", &[run.out, rest].concat());
    assert!(place.ok("cat disk --index whole").out == data);

    // Too little for an image, or for its tables: nothing is left behind.
    let before = state(&place);
    limited(64, "create new --size 64M --zone-size 8M").says(&["new: create: ", "ulimit -f"]);
    limited(64, "append disk data").says(&["disk: open: ", "the session record", "ulimit -f"]);
    assert!(!place.path("new").exists() && state(&place) == before && before.1.is_none());
}

#[test]
fn a_live_file_that_cannot_be_made_is_named_and_the_image_stays_closed() {
    let place = Place::with_disk("");
    place.put("data", b"x");
    fs::create_dir(place.path("disk.live")).expect("a folder in its place");
    place.run("append disk data").exits(2).says(&["disk: open: ", "disk.live cannot be made"]);
    assert_eq!(place.json("info disk")["session"], "closed cleanly");
    fs::remove_dir(place.path("disk.live")).expect("it is still there");
    place.ok("append disk data");
}

#[test]
fn memory_that_cannot_be_had_is_no_full_disk() {
    let place = Place::new();
    for words in ["info mem:size=200T", "bench mem:size=200T"] {
        let run = place.run(words).exits(2).says(&["zonal: mem:size=200T: open: ", "smaller size"]);
        assert!(!run.talk.contains("disk"), "{}", run.talk);
    }
}

#[test]
fn an_input_that_cannot_be_read_is_named() {
    let place = Place::with_disk("");
    fs::create_dir(place.path("folder")).expect("a folder");
    for name in ["absent", "folder"] {
        fails(&place, &format!("append disk {name}"), &[name]);
        fails(&place, &format!("write disk {name} --offset 0"), &[name]);
        fails(&place, &format!("cat disk --index {name}"), &[name]);
    }
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let place = Place::new();
    let made = Command::new("mkfifo").arg(place.path("pipe")).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIP: no pipe can be made");
        return;
    }
    for words in ["info pipe", "check pipe", "flush pipe"] {
        place.run(words).exits(2).says(&["pipe: ", "not a zoned drive"]);
    }
}

#[test]
fn a_stdout_without_room_is_named() {
    let place = Place::with_disk("");
    place.put("data", &noise(1, 100_000));
    for words in [
        "report disk",
        "append disk data",
        "read disk --offset 0 --length 1M",
        "--help",
        "dump disk",
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let output = place.command(words).stdout(full).output().expect("it runs");
        Run::of(words, output).exits(2).says(&["stdout", "No space left"]);
    }
}

#[test]
fn one_zone_is_called_so() {
    let place = Place::new();
    place.ok("create disk --size 64M").says(&["64M, 1 zone of 64M"]);
    place.run("report disk --zones 3").exits(2).says(&["the drive has 1 zone;"]);
    place.run("open disk --zone 3").exits(2).says(&["the drive has 1 zone,"]);
    assert_eq!(place.ok("check disk").text(), "disk: 1 zone, nothing wrong\n");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let place = Place::with_disk("");
    let before = state(&place);
    place.run("dump disk -o no/file").exits(2).says(&["no/file", "there is no folder no"]);
    place.run("create no/disk --size 64M").exits(2).says(&["no/disk", "make the folder first"]);
    place.run("bench --dir no").exits(2).says(&["no: "]);
    assert!(before == state(&place));
}

#[test]
fn a_command_of_a_feature_that_is_not_there_says_how_to_come_by_it() {
    let missing = [
        (cfg!(feature = "ublk"), "serve ublk disk --daemon", "--features ublk"),
        (cfg!(feature = "top"), "top --help", "--features top"),
    ];
    for (_, words, next) in missing.into_iter().filter(|(is_there, ..)| !is_there) {
        Place::new().run(words).exits(2).says(&[next]);
    }
}
