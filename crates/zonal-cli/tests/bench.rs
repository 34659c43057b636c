//! bench: short runs, for what it prints and whether it verifies; not for how fast it is.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use common::{Place, Run};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn every_kind_of_work_verifies_on_a_temporary_image_and_leaves_nothing() {
    let place = Place::new();
    for rw in ["append", "append-ordered", "write", "read", "randread"] {
        let words = format!("bench --rw {rw} --bs 16K --size 16M --numjobs 2");
        let result = place.json(&words);
        assert_eq!(result["rw"], rw);
        assert_eq!(result["verified"], 1024, "{rw}");
        assert_eq!(result["verify_errors"], 0, "{rw}");
        assert_eq!(result["total_ios"], 1024);
        assert_eq!(result["io_bytes"], 16 << 20);
        assert_eq!(result["lat_ns"]["N"], 1024);
        for number in ["iops", "bw_bytes", "cpu_ns_per_op", "runtime"] {
            assert!(result[number].as_f64().unwrap() > 0.0, "{number}");
        }
        let percentile = &result["lat_ns"]["percentile"];
        assert!(percentile["50.000000"].as_u64() <= percentile["99.900000"].as_u64());
    }
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 0);
}

#[test]
fn mixed_work_verifies_and_says_what_went_each_way() {
    let place = Place::new();
    let result = place.json("bench --rw mixed --rwmixread 70 --bs 16K --size 16M --numjobs 2");
    assert_eq!((&result["rw"], &result["rwmixread"]), (&"mixed".into(), &70.into()));
    let ios = |way: &str| result[way]["total_ios"].as_u64().unwrap();
    assert_eq!(ios("read") + ios("write"), 1024);
    assert!((600..830).contains(&ios("read")), "{}", ios("read"));
    assert_eq!(result["total_ios"], 1024);
    assert_eq!(result["read"]["lat_ns"]["N"], ios("read"));
    assert_eq!(result["write"]["io_bytes"], ios("write") * 16384);
    // What was there before, and what was written beside the reads.
    assert_eq!(result["verified"], 1024 + ios("write"));
    assert_eq!(result["verify_errors"], 0);
    let text = place.ok("bench --rw randrw --size 4M --numjobs 1").text();
    assert!(text.contains("  reads ") && text.contains("  writes "), "{text}");
    place.run("bench --rwmixread 5").exits(2).says(&["--rwmixread", "--rw mixed"]);
    place.run("bench mem:size=1G --rw mixed").exits(2).says(&["nothing to read"]);
}

#[test]
fn mixed_work_goes_on_when_the_zones_in_use_are_full() {
    let place = Place::new();
    place.ok("create disk --size 32M --zone-size 4M --max-open-zones 2 --max-active-zones 2");
    place.ok("bench disk --bs 64K --size 4M --numjobs 1");
    let words = "bench disk --rw mixed --bs 64K --numjobs 2 --runtime 60 --verify --json";
    let run = place.ok(words);
    // 28 MiB are left, until all is full.
    assert_eq!(run.lines()[0]["write"]["total_ios"], 28 * 16);
    assert_eq!(run.lines()[0]["verified"], 28 * 16);
}

#[test]
fn a_rate_is_kept_for_each_job() {
    let place = Place::with_disk("");
    for (words, jobs) in [("--rate 2M --bs 16K", 1), ("--rate-iops 128 --bs 4K", 2)] {
        let result = place.json(&format!("bench disk {words} --numjobs {jobs} --runtime 500ms"));
        let ios = result["total_ios"].as_u64().unwrap();
        // No more than is due; on a slow machine less.
        assert!((jobs * 20..=jobs * 67).contains(&ios), "{words}: {ios}");
    }
    place.run("bench disk --rate 0").exits(2).says(&["--rate 0"]);
    place.run("bench disk --rate 1M --rate-iops 5").exits(2).says(&["--rate"]);
}

#[test]
fn what_the_engine_can_do_for_itself_verifies_too_and_the_rest_is_an_error() {
    let place = Place::new();
    for words in ["--sqpoll", "--fixedbufs=0", "--sqpoll=1 --fixedbufs", "--time 50ms"] {
        let result = place.json(&format!("bench --bs 16K --size 8M --numjobs 1 {words}"));
        assert_eq!(result["verified"], result["total_ios"], "{words}");
    }
    place.run("bench mem:size=1G --sqpoll").exits(2).says(&["--sqpoll", "memory"]);
    place.run("bench mem:size=1G --fixedbufs").exits(2).says(&["--fixedbufs", "memory"]);
    place.run("bench --sqpoll=2").exits(2).says(&["0 or 1"]);
}

#[test]
fn completions_are_polled_for_or_it_is_said_what_is_missing() {
    let place = Place::new();
    for words in ["--hipri", "--hipri --sqpoll --rw mixed"] {
        let run = place.run(&format!("bench --bs 16K --size 8M --numjobs 2 {words} --json"));
        if run.code == Some(0) {
            let result = &run.lines()[0];
            assert_eq!(result["verify_errors"], 0, "{words}");
            assert!(result["verified"].as_u64() > Some(0), "{words}");
        } else {
            run.exits(2).says(&["--hipri", "polled", "leave hipri out"]);
            println!("SKIP: the device beneath the test folder has no queues that are polled");
        }
    }
    place.run("bench mem:size=1G --hipri").exits(2).says(&["--hipri", "memory", "leave hipri out"]);
    place.run("bench --hipri --engine threads").exits(2).says(&["--hipri", "io_uring"]);
    place.run("bench --hipri=2").exits(2).says(&["0 or 1"]);
    // Nothing is erased for a run that cannot be made.
    place.ok("create disk --size 16M --zone-size 4M");
    place.ok("bench disk --bs 64K --size 4M --numjobs 1");
    let before = place.zone(0);
    place.run("bench disk --hipri --engine threads --reset --yes").exits(2).says(&["--hipri"]);
    assert_eq!((place.zone(0), &before["state"]), (before.clone(), &"closed".into()));
}

#[test]
fn a_plot_is_drawn_of_each_way() {
    let place = Place::new();
    place.ok("bench --rw mixed --size 4M --numjobs 2 --plot plot.svg");
    let svg = std::fs::read_to_string(place.path("plot.svg")).unwrap();
    for word in ["<svg ", "read p99", "write max", "percentile", "99.99", "time since the start"] {
        assert!(svg.contains(word), "{word}");
    }
    assert!(svg.matches("<polyline").count() >= 8, "six lines over time and two by percentile");
    place.run("bench --size 4M --plot no/folder.svg").exits(2).says(&["no/folder.svg"]);
}

#[test]
fn people_get_a_summary() {
    let place = Place::new();
    let text = place.ok("bench --runtime 100ms --numjobs 1 --bs 4K").text();
    for word in ["append: 4K records", "IOPS", "p99.9", "processor", "flush", "verified"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn limits_are_kept_and_every_record_still_verifies() {
    let place = Place::new();
    // Zones whose capacity no whole number of records fills, three at a time, until all are full.
    let drive = "mem:size=64M,zone-size=4M,zone-capacity=3M,max-open-zones=3,max-active-zones=3";
    for (rw, jobs) in [("append", 4), ("append-ordered", 4), ("write", 3)] {
        let words =
            format!("bench {drive} --rw {rw} --bs 28K --numjobs {jobs} --verify --runtime 60");
        let result = place.json(&words);
        assert_eq!(result["total_ios"], 16 * ((3 << 20) / (28 << 10)), "{rw}");
        assert_eq!(result["verified"], result["total_ios"], "{rw}");
    }
    let words = format!("bench {drive} --rw write --numjobs 4");
    place.run(&words).exits(2).says(&["4 jobs", "only 3"]);
}

#[test]
fn a_target_is_not_erased_without_asking() {
    let place = Place::with_disk("");
    let fill = "bench disk --bs 64K --numjobs 1 --zones 0..2 --verify --runtime 60 --json";
    assert_eq!(place.ok(fill).lines()[0]["verified"], 256);
    place.run(fill).exits(2).says(&["no zone can take", "--reset"]);
    place.run(&format!("{fill} --reset")).exits(2).says(&["--yes"]);
    assert_eq!(place.zone(0)["state"], "full");
    assert_eq!(place.ok(&format!("{fill} --reset --yes")).lines()[0]["verified"], 256);
    // Reading needs no more than what is there.
    let read = place.json("bench disk --rw read --bs 64K --size 1M --numjobs 1");
    assert_eq!((&read["total_ios"], &read["verified"]), (&16.into(), &0.into()));
    place.run("bench disk --rw read --verify").exits(2).says(&["--verify", "append"]);
    place.run("bench disk --rw read --zones 4").exits(2).says(&["nothing to read"]);
}

#[test]
fn a_record_size_that_the_drive_does_not_take_is_refused() {
    let place = Place::with_disk("");
    place.run("bench disk --bs 1000").exits(2).says(&["block size"]);
    place.run("bench disk --bs 2M").exits(2).says(&["append limit"]);
    place.run("bench disk --bs 0").exits(2).says(&["--bs 0"]);
}

/// Live files of temporary images.
fn live_files(place: &Place) -> usize {
    let folders = std::fs::read_dir(place.path("")).unwrap();
    folders.filter(|folder| folder.as_ref().unwrap().path().join("drive.live").exists()).count()
}

#[test]
fn an_interrupt_while_the_image_is_made_leaves_nothing() {
    let place = Place::new();
    let child = place.start("bench --size 4G --json");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // Its folder appears once the signals are taken over.
    while std::fs::read_dir(place.path("")).unwrap().count() == 0 {
        std::thread::yield_now();
    }
    kill_process(pid, Signal::INT).unwrap();
    assert!(Run::of("bench", child.wait_with_output().unwrap()).exits(130).out.is_empty());
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 0);
}

#[test]
fn an_interrupt_prints_what_was_measured() {
    let place = Place::new();
    let child = place.start("bench --runtime 60 --bs 4K --numjobs 2 --json");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // Its live file appears when the image was made and is opened.
    while live_files(&place) == 0 {
        std::thread::yield_now();
    }
    kill_process(pid, Signal::INT).unwrap();
    let run = Run::of("bench", child.wait_with_output().unwrap()).exits(130);
    assert_eq!(run.lines()[0]["verified"], 0);
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 0);
}

#[test]
fn a_run_that_a_full_drive_ends_says_so() {
    let place = Place::new();
    let run = place.ok("bench mem:size=8M,zone-size=1M --runtime 20s");
    run.says(&["zonal: mem:size=8M,zone-size=1M: its zones were full after", "of 20 s", "--rate"]);
    for words in ["--runtime 100ms --rate-iops 10", "--size 1M"] {
        let run = place.ok(&format!("bench mem:size=64M,zone-size=8M {words}"));
        assert_eq!(run.talk, "", "{words}");
    }
}

#[test]
fn one_record_at_a_time_is_called_what_it_is() {
    let place = Place::new();
    place.ok("create disk --size 16M --zone-size 4M --preallocate full");
    if place.json("info disk")["engine"] != "io_uring" {
        return println!("SKIP: this machine has no io_uring");
    }
    for (words, engine) in [
        ("--iodepth 1", "psync"),
        ("--iodepth 2", "io_uring"),
        ("--iodepth 1 --engine io_uring", "io_uring"),
        ("--iodepth 1 --engine threads", "threads"),
        ("--iodepth 1 --fixedbufs", "io_uring"),
    ] {
        let said = place.json(&format!("bench disk --size 64K --numjobs 1 --reset --yes {words}"));
        assert_eq!(said["engine"], engine, "{words}");
    }
}
