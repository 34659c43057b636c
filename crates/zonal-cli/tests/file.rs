//! An ordinary file as a target: `file:PATH`, one zone that grows.

mod common;
#[path = "../../zonal/tests/forbid/mod.rs"]
mod forbid;

use common::{Place, Run, noise};
use forbid::forbid_rings;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A folder with an empty file `log`.
fn place() -> Place {
    let place = Place::new();
    place.put("log", b"");
    place
}

#[test]
fn a_file_takes_records_gives_them_back_and_is_emptied_with_consent() {
    let place = place();
    let data = noise(1, 300_000);
    place.put("data", &data);
    let index = place.ok("append file:log data --record 16K --iodepth 8 --json").out;
    place.put("index", &index);
    assert!(place.ok("cat file:log --index index").out == data);
    assert!(place.ok("read file:log --offset 4096 --length 5000").out == data[4096..9096]);
    // The last record takes up whole blocks.
    let padded = data.len().next_multiple_of(4096) as u64;
    assert_eq!(fs::metadata(place.path("log")).expect("the file").len(), padded);

    let info = place.json("info file:log");
    assert_eq!(info["kind"], "file");
    assert_eq!(info["zones"], 1);
    let zone = place.json("report file:log")["zones"][0].clone();
    assert_eq!((&zone["state"], &zone["wp"]), (&"closed".into(), &padded.into()));

    place.run("reset file:log --zone 0").exits(2).says(&["file:log", "--yes"]);
    assert_eq!(fs::metadata(place.path("log")).expect("the file").len(), padded);
    place.ok("reset file:log --zone 0 --yes");
    assert_eq!(fs::metadata(place.path("log")).expect("the file").len(), 0);
}

#[test]
fn a_file_written_by_others_is_continued_at_the_next_block() {
    let place = place();
    place.put("log", b"a line of text\n");
    place.put("data", b"one record");
    let run = place.ok("append file:log data --json");
    assert_eq!(run.lines()[0]["offset"], 4096);
    assert!(place.ok("read file:log --offset 0 --length 15").out == b"a line of text\n");
    assert!(place.ok("read file:log --offset 4096 --length 10").out == b"one record");
}

#[test]
fn what_makes_no_sense_on_a_file_is_refused_by_name() {
    let place = place();
    place.put("log", &[7; 4096]);
    place.run("create file:new --size 1G").exits(2).says(&["file:new", "touch"]);
    place.run("check file:log").exits(2).says(&["file:log", "no format"]);
    let says = ["file:log: finish: not supported, zone 0", "read-only"];
    place.run("finish file:log --zone 0 --yes").exits(2).says(&says);
    place.run("info file:absent").exits(2).says(&["file:absent", "no such file", "touch absent"]);
    place.run("info file:").exits(2).says(&["file:PATH"]);
    assert!(!place.path("new").exists() && !place.path("absent").exists());
    assert!(fs::read(place.path("log")).expect("the file") == [7; 4096]);
    // Bookkeeping of one session.
    place.ok("open file:log --zone 0").says(&["do not outlive the process"]);
}

#[test]
fn a_file_is_measured_over_each_engine() {
    let place = place();
    for engine in ["auto", "io_uring", "threads"] {
        let words = "--bs 4K --size 4M --numjobs 2 --verify --reset -y";
        let result = place.json(&format!("bench file:log {words} --engine {engine}"));
        assert_eq!(result["verified"], 1024);
        if engine != "auto" {
            assert_eq!(result["engine"], engine);
        }
    }
    assert_eq!(fs::metadata(place.path("log")).expect("the file").len(), 4 << 20);
}

#[test]
fn a_limit_on_files_ends_the_zone_and_not_the_program() {
    let place = place();
    let data = noise(3, 100_000);
    place.put("data", &data);
    let words = "append file:log data --record 8K --json";
    let script = format!("ulimit -f 70 && exec {} {words}", env!("CARGO_BIN_EXE_zonal"));
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(place.path("."));
    let run = Run::of(words, bash.output().expect("bash runs")).exits(2);
    let run = run.says(&["file:log", "ulimit -f", "71680", "drive full", "record 8 (byte 65536"]);
    assert_eq!(run.lines().len(), 8);
    assert_eq!(fs::metadata(place.path("log")).expect("the file").len(), 64 << 10);
    place.put("index", &run.out);
    let rest = place.ok(&format!("{words} --resume index")).out;
    place.put("whole", &[run.out, rest].concat());
    assert!(place.ok("cat file:log --index whole").out == data);
}

#[test]
fn a_full_disk_leaves_whole_records() {
    let place = Place::new();
    let folder = place.path("small");
    fs::create_dir(&folder).expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1000K", "tmpfs"])
        .arg(&folder)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        println!("SKIP: mounting a small file system takes root");
        return;
    }
    place.put("data", &noise(5, 2 << 20));
    fs::write(folder.join("log"), b"").expect("room for a name");
    let run = place.run("append file:small/log data --record 64K --json");
    let length = fs::metadata(folder.join("log")).expect("the file").len();
    let unmounted = Command::new("umount").arg("-l").arg(&folder).status().expect("umount runs");
    assert!(unmounted.success());
    let run = run.exits(2).says(&["file:small/log", "no space left", "free some"]);
    let lines = run.lines();
    let end = lines.iter().filter_map(|line| Some(line["offset"].as_u64()? + (64 << 10))).max();
    assert_eq!(Some(length), end, "it ends where the last record does");
}

#[test]
fn where_io_uring_is_forbidden_the_program_says_threads_and_works() {
    let place = Place::with_disk("");
    place.put("log", b"");
    place.put("data", &noise(7, 100_000));
    let run = |words: &str| {
        let mut command = place.command(words);
        // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(|| forbid_rings(libc::EPERM)) };
        Run::of(words, command.output().expect("the program runs"))
    };
    for target in ["disk", "file:log"] {
        let info = run(&format!("info {target}")).exits(0).text();
        assert!(info.contains("engine              threads"), "{info}");
        let index = run(&format!("append {target} data --json")).exits(0).out;
        place.put("index", &index);
        assert!(run(&format!("cat {target} --index index")).exits(0).out == noise(7, 100_000));
        let refused = run(&format!("bench {target} --rw read --engine io_uring")).exits(2);
        refused.says(&[target, "io_uring is forbidden here", "threads"]);
    }
}
