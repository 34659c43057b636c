//! dump and restore: what comes back is what there was, and what is damaged is refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use common::{Place, noise};
use serde_json::Value;
use zonal::{OpenOptions, QueueOptions, Request, Target, ZoneState};

const SHAPE: &str =
    "--size 64M --zone-size 8M --zone-capacity 6M --conventional-zones 1 --max-active-zones 3";

/// A folder with `disk`, which has zones in every state that lasts.
fn place() -> Place {
    let place = Place::new();
    place.ok(&format!("create disk {SHAPE}"));
    place.put("data", &noise(1, 3 << 20));
    place.put("some", &noise(2, 5000));
    place.ok("write disk some --offset 1M");
    place.ok("append disk data --zones 2");
    place.ok("append disk some --zones 3");
    place.ok("finish disk --zone 3 --yes");
    place.ok("append disk data --zones 4");
    place.ok("append disk some --zones 7");
    let device = open(&place, "disk");
    device.set_condition(5, ZoneState::Offline).unwrap();
    device.set_condition(4, ZoneState::ReadOnly).unwrap();
    // A hole of zeros inside a zone takes no room in the dump.
    let mut queue =
        device.queue(&QueueOptions { buffer_bytes: 1 << 20, ..Default::default() }).unwrap();
    for byte in [0, 0, 9] {
        let mut data = queue.buffer(1 << 20).unwrap();
        data.fill(byte);
        queue.push(Request::append_ordered(6, data)).unwrap();
    }
    queue.submit_and_wait(3).unwrap();
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
    }
    drop(queue);
    device.close().unwrap();
    place
}

fn open(place: &Place, name: &str) -> zonal::Device {
    zonal::open(&Target::Path(place.path(name)), &OpenOptions::default()).unwrap()
}

/// Zones and all that can be read of them.
fn contents(place: &Place, disk: &str) -> (Value, Vec<u8>) {
    let zones = place.json(&format!("report {disk}"))["zones"].clone();
    let mut bytes = Vec::new();
    for zone in zones.as_array().unwrap().iter().filter(|zone| zone["state"] != "offline") {
        let words = format!("read {disk} --offset {} --length {}", zone["start"], zone["capacity"]);
        bytes.extend(place.ok(&words).out);
    }
    (zones, bytes)
}

#[test]
fn a_drive_comes_back_with_its_zones_and_its_data() {
    let place = place();
    let dumped = place.json("dump disk -o disk.dump");
    assert_eq!(dumped["zones"], 7);
    let length = std::fs::metadata(place.path("disk.dump")).unwrap().len();
    assert!(length < 8 << 20, "{length} bytes for 7 MiB of data");
    place.ok(&format!("create copy {SHAPE}"));
    assert_eq!(place.json("restore copy disk.dump")["zones"], 7);
    assert!(contents(&place, "disk") == contents(&place, "copy"));
    place.ok("check copy --deep");
    // The same stream through a pipe, and made anew, is the same.
    let piped = place.ok("dump copy").out;
    assert_eq!(piped.len() as u64, length);
    place.ok(&format!("create third {SHAPE}"));
    assert_eq!(place.feed("restore third", &piped).exits(0).out, b"");
    assert!(contents(&place, "disk") == contents(&place, "third"));
}

#[test]
fn a_drive_in_memory_dumps_and_restores_too() {
    let place = place();
    place.ok("dump disk -o disk.dump");
    let memory = "mem:size=64M,zone-size=8M,zone-capacity=6M,conventional-zones=1";
    let restored = place.json(&format!("restore {memory} disk.dump"));
    assert_eq!(restored["zones"], 7);
    let empty = place.ok(&format!("dump {memory}")).out;
    place.ok(&format!("create copy {SHAPE}"));
    place.feed("restore copy", &empty).exits(0);
    assert!(place.json("report copy --state empty")["zones"].as_array().unwrap().len() == 7);
}

#[test]
fn full_zones_come_back_one_after_the_other_where_one_may_be_active() {
    let place = Place::new();
    let shape = "--size 32M --zone-size 2M --max-active-zones 1";
    place.ok(&format!("create disk {shape}"));
    place.put("data", &noise(1, 32 << 20));
    place.ok("append disk data --iodepth 1");
    place.ok("dump disk -o disk.dump");
    place.ok(&format!("create copy {shape}"));
    assert_eq!(place.json("restore copy disk.dump")["zones"], 16);
    assert!(contents(&place, "disk") == contents(&place, "copy"));
}

#[test]
fn a_drive_that_is_not_empty_is_only_erased_when_both_words_are_said() {
    let place = place();
    place.ok("dump disk -o disk.dump");
    place.ok(&format!("create copy {SHAPE}"));
    place.put("other", &noise(7, 1 << 20));
    place.ok("append copy other --zones 1");
    place.ok("write copy other --offset 4M");
    let before = contents(&place, "copy");
    place.run("restore copy disk.dump").exits(2).says(&["copy", "not empty (2 zones)", "--force"]);
    place.run("restore copy disk.dump --yes").exits(2).says(&["not empty"]);
    place.run("restore copy disk.dump --force").exits(2).says(&["copy", "--yes"]);
    assert!(before == contents(&place, "copy"));
    place.ok("restore copy disk.dump --force --yes");
    assert!(contents(&place, "disk") == contents(&place, "copy"));
    // Zones that cannot be emptied.
    place.run("restore copy disk.dump --force --yes").exits(2).says(&["zone 4 is read-only"]);
}

#[test]
fn a_damaged_dump_is_named_and_changes_nothing() {
    let place = place();
    let whole = place.ok("dump disk").out;
    place.ok(&format!("create copy {SHAPE}"));
    let before = contents(&place, "copy");
    let fails = |bytes: &[u8], parts: &[&str]| {
        place.put("bad", bytes);
        place.run("restore copy bad").exits(2).says(parts);
        assert!(before == contents(&place, "copy"));
    };
    fails(&whole[..whole.len() - 1], &["bad: damaged", "cut off"]);
    fails(&whole[..whole.len() / 2], &["bad: damaged", "cut off"]);
    fails(&whole[..50], &["bad: damaged", "cut off"]);
    fails(&[&whole, b"x".as_slice()].concat(), &["bad: damaged"]);
    for at in [9, 20, 100, 5000, whole.len() / 2, whole.len() - 2] {
        let mut wrong = whole.clone();
        wrong[at] ^= 4;
        fails(&wrong, &["bad"]);
    }
    fails(b"hello", &["bad", "not a zoned drive", "no dump"]);
    fails(&noise(4, 500), &["bad", "not a zoned drive", "no dump"]);
    // A pipe is found damaged only when some of it is on the drive, and that is said.
    let run = place.feed("restore copy", &whole[..whole.len() / 2]).exits(2);
    run.says(&["copy: it holds a part", "--force", "stdin: damaged", "cut off"]);
}

#[test]
fn a_drive_of_another_shape_is_refused_with_the_words_that_make_one() {
    let place = place();
    place.ok("dump disk -o disk.dump");
    place.ok("create other --size 64M --zone-size 16M");
    let says = ["other: its zone-size is 16M", "disk.dump is 8M", SHAPE];
    place.run("restore other disk.dump").exits(2).says(&says);
    let narrow = SHAPE.replace("--max-active-zones 3", "--max-active-zones 2");
    place.ok(&format!("create narrow {narrow}"));
    place.run("restore narrow disk.dump").exits(2).says(&["narrow", "2 active zones", "has 3"]);
}

#[test]
fn a_dump_replaces_no_file_and_leaves_no_part_of_one() {
    let place = place();
    place.put("old", b"old");
    place.run("dump disk -o old").exits(2).says(&["old", "exists", "--force"]);
    assert_eq!(std::fs::read(place.path("old")).unwrap(), b"old");
    place.ok("dump disk -o old --force");
    place.run("dump disk -o no/folder").exits(2).says(&["no/folder"]);
    place.run("dump disk --json").exits(2).says(&["-o FILE"]);
    let names: Vec<_> = std::fs::read_dir(place.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("new-"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}
