//! create, info, report, open, close, finish, reset, flush and check on an image.

mod common;

use common::{Place, noise};
use serde_json::json;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

const M: u64 = 1 << 20;

#[test]
fn a_last_zone_that_is_smaller_is_said() {
    let place = Place::new();
    place.ok("create small --size 64M").says(&["64M, 1 zone of 64M"]);
    let info = place.ok("info small").text();
    for line in ["zone size           256M", "last zone           64M"] {
        assert!(info.contains(line), "{info}");
    }
    assert!(!place.ok("info mem:size=64M,zone-size=8M").text().contains("last zone"));
}

#[test]
fn a_created_drive_has_the_shape_that_was_asked_for() {
    let place = Place::with_disk(
        "--zone-capacity 6M --conventional-zones 2 --max-open-zones 3 --max-active-zones 4 \
         --max-append 256K",
    );
    let info = place.json("info disk");
    assert_eq!(info["kind"], "image");
    assert_eq!(info["zones"], 8);
    assert_eq!(info["zone_capacity"], 6 * M);
    assert_eq!(info["conventional_zones"], 2);
    assert_eq!(info["max_open_zones"], 3);
    assert_eq!(info["max_active_zones"], 4);
    assert_eq!(info["append_bytes_max"], 256 << 10);
    assert_eq!(
        place.json("report disk --zones 1..=2")["zones"],
        json!([
            { "zone": 1, "type": "cnv", "state": "not-wp", "start": 8 * M, "wp": null,
              "capacity": 8 * M, "size": 8 * M },
            { "zone": 2, "type": "seq", "state": "empty", "start": 16 * M, "wp": 16 * M,
              "capacity": 6 * M, "size": 8 * M },
        ])
    );
}

#[test]
fn create_refuses_what_exists_unless_forced() {
    let place = Place::with_disk("");
    place.run("create disk --size 32M --zone-size 8M").exits(2).says(&["disk", "--force"]);
    assert_eq!(place.json("info disk")["zones"], 8);
    std::fs::set_permissions(place.path("disk"), Permissions::from_mode(0o600)).unwrap();
    let created = place.json("create disk --size 32M --zone-size 8M --force");
    assert_eq!(created["zones"], 4);
    assert_eq!(place.json("info disk")["zones"], 4);
    let mode = std::fs::metadata(place.path("disk")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "who may read it stays as it was");
}

#[test]
fn a_drive_that_cannot_be_is_not_created() {
    let place = Place::new();
    for words in [
        "--size 0",
        "--size 64M --zone-size 3",
        "--size 64M --zone-size 8M --zone-capacity 16M",
        "--size 64M --zone-size 8M --conventional-zones 9",
        "--size 64M --zone-size 8M --block-size 8G",
    ] {
        place.run(&format!("create disk {words}")).exits(2).says(&["zonal: "]);
        assert!(!place.path("disk").exists(), "{words}");
    }
}

#[test]
fn preallocation_takes_the_space() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    place.ok("create disk --size 16M --zone-size 8M --preallocate full");
    let meta = place.path("disk").metadata().unwrap();
    assert!(meta.blocks() * 512 >= 16 * M);
}

#[test]
fn finish_and_reset_want_consent() {
    let place = Place::with_disk("");
    for words in ["finish disk --zone 1", "reset disk --zone 1"] {
        place.run(words).exits(2).says(&["--yes", "nobody is there to be asked"]);
    }
    assert_eq!(place.zone(1)["state"], "empty");
}

#[test]
fn a_finished_zone_is_full_and_a_reset_one_empty() {
    let place = Place::with_disk("");
    let done = place.json("finish disk --zones 1..=2 --yes");
    assert_eq!(done["operation"], "finish");
    assert_eq!(done["zones"], json!([1, 2]));
    assert_eq!(place.zone(1)["state"], "full");
    assert_eq!(place.zone(1)["wp"], 16 * M);
    let full = place.json("report disk --state full");
    assert_eq!(full["zones"].as_array().unwrap().len(), 2);
    assert_eq!(place.json("reset disk --all --yes")["zones"], json!([1, 2]));
    assert_eq!(place.zone(1)["state"], "empty");
    assert_eq!(place.json("reset disk --all --yes")["zones"], json!([]));
}

#[test]
fn open_and_close_say_that_they_do_not_outlive_the_process() {
    let place = Place::with_disk("");
    place.ok("open disk --zone 3").says(&["do not outlive the process"]);
    assert_eq!(place.zone(3)["state"], "empty");
    place.put("in", &noise(1, 4096));
    place.ok("append disk in --zones 3");
    assert_eq!(place.zone(3)["state"], "closed");
    place.ok("open disk --zone 3");
    assert_eq!(place.zone(3)["state"], "closed");
    place.ok("close disk --all").says(&["do not outlive the process"]);
}

#[test]
fn what_fails_names_its_zones_and_the_others_are_done() {
    let place = Place::with_disk("--conventional-zones 2");
    place.run("finish disk --zones 0..4 --yes").exits(2).says(&["zone 0", "1 more: zones 1"]);
    assert_eq!(place.zone(3)["state"], "full");
    place.run("open disk --zone 3").exits(2).says(&["zone 3"]);
}

#[test]
fn flush_ends_with_the_drive_closed_cleanly() {
    let place = Place::with_disk("");
    assert_eq!(place.json("flush disk")["flushed"], true);
    assert_eq!(place.json("info disk")["session"], "closed cleanly");
}

#[test]
fn check_finds_nothing_in_a_good_image_and_says_where_a_bad_one_is_hurt() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 3 << 20));
    place.ok("append disk in");
    for words in ["check disk", "check disk --deep"] {
        let found = place.json(words);
        assert_eq!((&found["zones"], &found["errors"]), (&json!(8), &json!(0)));
        assert_eq!(found["findings"], json!([]));
    }
    // The zone table's place is the image's own business; a cut file hurts in any case.
    let file = std::fs::OpenOptions::new().write(true).open(place.path("disk")).unwrap();
    file.set_len(M).unwrap();
    let run = place.run("check disk --json");
    assert!(matches!(run.code, Some(1 | 2)), "{:?}", run.code);
}

#[test]
fn a_closed_stdout_is_no_error() {
    let place = Place::with_disk("");
    let mut child = place.start("report disk");
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
