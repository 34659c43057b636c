//! check --repair, as a person meets it: what it prints, how it ends, and the file that it keeps.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod common;

#[path = "../../zonal-core/tests/support/mod.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod support;

use common::{Place, noise};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use support::{qemu_img, strip_zones};
use zonal::{OpenOptions, QueueOptions, Request, Target};

const COPIED: u64 = 1 << 63;

fn number(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

/// A damage: its name, and where which bytes go.
struct Damage {
    name: &'static str,
    at: u64,
    bytes: Vec<u8>,
}

/// Damages of the image `disk`, each found by following its own header. Zones 1 and 2 have data.
fn damages(place: &Place) -> Vec<Damage> {
    let image = fs::read(place.path("disk")).unwrap();
    let cluster = 1_u64 << u32::from_be_bytes(image[20..24].try_into().unwrap());
    let find = |magic: [u8; 4]| image[..512].windows(4).position(|at| at == magic).unwrap() + 8;
    let (zoned, ours) = (find([0, 0x7a, 0x62, 0x64]) as u64, find(*b"zonl") as u64);
    let l2 = number(&image, number(&image, 40)) & !COPIED;
    let blocks = number(&image, number(&image, 48));
    let (zones, sessions) = (number(&image, zoned + 24), number(&image, ours + 32));
    let sequence = |copy: u64| number(&image, copy + 32);
    let newer = sessions + 4096 * u64::from(sequence(sessions) < sequence(sessions + 4096));
    let older = 2 * sessions + 4096 - newer;
    // The first entry of data: that of zone 1's start.
    let entry = l2 + (8 << 20) / cluster * 8;
    let damage = |name, at, bytes: &[u8]| Damage { name, at, bytes: bytes.into() };
    vec![
        damage("the older copy of the session record", older, &[9; 100]),
        damage("a generation page", number(&image, ours + 40), &[9; 600]),
        damage("too low a count", blocks, &[0, 0]),
        damage(
            "an L2 entry without its flag",
            entry,
            &(number(&image, entry) & !COPIED).to_be_bytes(),
        ),
        damage("a write pointer outside its zone", zones + 3 * 8, &(1_u64 << 40).to_be_bytes()),
        damage("the dirty mark", 79, &[image[79] | 1]),
    ]
}

/// A drive with data in zones 1 and 2, closed cleanly.
fn created() -> Place {
    let place = Place::with_disk("");
    fill(&place);
    place
}

/// The same, adopted, with scattered clusters; `None` where there is no qemu-img.
fn adopted() -> Option<Place> {
    let place = Place::new();
    let path = place.path("disk").display().to_string();
    let options = "cluster_size=64k,preallocation=off";
    qemu_img(&["create", "-qf", "qcow2", "-o", options, &path, "64M"])?;
    place.ok("adopt disk --zone-size 8M");
    fill(&place);
    // Zones that take turns have their clusters in turns too.
    assert_eq!(place.json("info disk")["layout"], "scattered");
    Some(place)
}

fn fill(place: &Place) {
    place.put("data", &noise(1, 3_000_000));
    let index = place.ok("append disk data --zones 1..3 --record 64K --json").out;
    place.put("index", &index);
}

/// The data is what was appended.
fn holds_its_data(place: &Place, name: &str) {
    assert!(place.ok("cat disk --index index").out == noise(1, 3_000_000), "{name}");
}

/// What qemu-img finds in a copy without zones: nothing.
fn qemu_agrees(place: &Place, name: &str) {
    let copy = place.path("copy");
    fs::copy(place.path("disk"), &copy).unwrap();
    strip_zones(&File::options().read(true).write(true).open(&copy).unwrap());
    let copy = copy.display().to_string();
    if let Some((sound, says)) = qemu_img(&["check", "-f", "qcow2", &copy]) {
        assert!(sound && says.contains("No errors were found"), "{name}: {says}");
    }
    fs::remove_file(copy).unwrap();
}

/// Names in the folder that a repair made.
fn kept(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.path(".")).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("repair"))
        .collect();
    names.sort();
    names
}

/// The image as it was before the repair that kept this (see docs/image-format.md).
fn undone(mut image: Vec<u8>, kept: &[u8]) -> Vec<u8> {
    assert_eq!(&kept[..12], b"zonalrep\0\0\0\x01");
    let mut at = 44;
    while at < kept.len() {
        let (offset, length) = (number(kept, at as u64), number(kept, at as u64 + 8) as usize);
        let end = at + 16 + length;
        image[offset as usize..offset as usize + length].copy_from_slice(&kept[at + 16..end]);
        at = end + 4;
    }
    image.truncate(number(kept, 32) as usize);
    image
}

/// Every damage, one by one: found, mended, gone, and kept beside the image.
fn each_is_mended(place: &Place) {
    let sound = fs::read(place.path("disk")).unwrap();
    for Damage { name, at, bytes } in damages(place) {
        let mut image = sound.clone();
        image[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        assert!(image != sound, "{name}");
        place.put("disk", &image);

        let found = place.run("check disk --json");
        let answer = found.code;
        let found: serde_json::Value = serde_json::from_slice(&found.out).unwrap();
        let (errors, warnings) = (&found["errors"], &found["warnings"]);
        assert_eq!(answer, Some(i32::from(*errors != 0)), "{name}: {found}");
        assert_eq!(errors.as_u64().unwrap() + warnings.as_u64().unwrap(), 1, "{name}: {found}");
        let text = place.run("check disk").text();
        let word = found["findings"][0]["severity"].as_str().unwrap();
        assert!(text.starts_with(&format!("disk: {word} at byte ")), "{name}: {text}");
        assert!(
            text.ends_with(&match *errors == 0 {
                true => "disk: 8 zones, 0 errors, 1 warning\n".to_owned(),
                false if found["zones"] == 0 =>
                    "disk: zones not looked at, 1 error, 0 warnings\n".to_owned(),
                false => "disk: 8 zones, 1 error, 0 warnings\n".to_owned(),
            }),
            "{name}: {text}"
        );
        assert!(image == fs::read(place.path("disk")).unwrap(), "{name}: a check changed it");

        let run = place.ok("check disk --repair");
        assert_eq!(run.talk, "", "{name}");
        let text = run.text();
        let lines: Vec<&str> = text.lines().collect();
        let (mended, rest) = lines.split_at(lines.len() - 2);
        assert!(!mended.is_empty(), "{name}: {text}");
        assert!(
            mended.iter().all(|line| line.starts_with("disk: mended at byte ")),
            "{name}: {text}"
        );
        let names = kept(place);
        assert_eq!(names.len(), 1, "{name}: {names:?}");
        assert_eq!(rest[0], format!("disk: what stood there before is in {}", names[0]), "{name}");
        assert_eq!(rest[1], "disk: 8 zones, nothing wrong", "{name}");

        let now = fs::read(place.path("disk")).unwrap();
        let before = fs::read(place.path(&names[0])).unwrap();
        assert!(undone(now, &before) == image, "{name}");
        assert_eq!(
            place.ok("check disk --deep").text(),
            "disk: 8 zones, nothing wrong\n",
            "{name}"
        );
        holds_its_data(place, name);
        qemu_agrees(place, name);
        fs::remove_file(place.path(&names[0])).unwrap();
    }
}

#[test]
fn each_damage_of_a_created_image_is_mended_and_said() {
    each_is_mended(&created());
}

#[test]
fn each_damage_of_an_adopted_image_is_mended_and_said() {
    if let Some(place) = adopted() {
        each_is_mended(&place);
    }
}

#[test]
fn a_sound_image_is_left_alone() {
    let place = created();
    let before = fs::read(place.path("disk")).unwrap();
    assert_eq!(place.ok("check disk --repair").text(), "disk: 8 zones, nothing wrong\n");
    let said = place.json("check disk --repair --deep");
    assert_eq!(said["mended"], serde_json::json!([]));
    assert_eq!((&said["errors"], &said["warnings"]), (&0.into(), &0.into()));
    assert!(said.get("kept").is_none() && kept(&place).is_empty());
    assert!(place.json("check disk").get("mended").is_none(), "nothing was asked to be mended");
    assert!(before == fs::read(place.path("disk")).unwrap());
}

#[test]
fn json_says_what_was_mended_and_where_the_old_bytes_are() {
    let place = created();
    let Damage { at, bytes, .. } = damages(&place).remove(4);
    let mut image = fs::read(place.path("disk")).unwrap();
    image[at as usize..at as usize + 8].copy_from_slice(&bytes);
    place.put("disk", &image);
    let found = place.run("check disk --json").exits(1);
    let found: serde_json::Value = serde_json::from_slice(&found.out).unwrap();
    assert_eq!((&found["version"], &found["errors"]), (&1.into(), &1.into()));
    assert_eq!(found["findings"][0]["severity"], "error");
    assert_eq!(found["findings"][0]["offset"], at);

    let said = place.json("check disk --repair");
    assert_eq!((&said["zones"], &said["errors"]), (&8.into(), &0.into()));
    let mended = said["mended"].as_array().unwrap();
    let here = mended.iter().find(|mended| mended["offset"] == at).expect("the write pointer");
    assert_eq!(here["length"], 8);
    assert!(here["text"].as_str().unwrap().contains("zone 3"), "{here}");
    assert_eq!(said["kept"], kept(&place)[0].as_str());
    // What nobody knows is not made up: the zone can only be read.
    assert_eq!(place.zone(3)["state"], "read-only");
}

#[test]
fn several_repairs_keep_a_file_each() {
    let place = created();
    for Damage { at, bytes, .. } in damages(&place).into_iter().take(2) {
        let mut image = fs::read(place.path("disk")).unwrap();
        image[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        place.put("disk", &image);
        place.ok("check disk --repair");
    }
    assert_eq!(kept(&place).len(), 2);
}

#[test]
fn what_cannot_be_mended_is_a_negative_answer_and_changes_nothing() {
    let place = created();
    let mut image = fs::read(place.path("disk")).unwrap();
    let at = damages(&place).remove(0).at as usize;
    // The other copy is on the page before or behind it.
    for copy in [at - 4096, at, at + 4096] {
        if &image[copy..copy + 8] == b"zonalses" {
            image[copy..copy + 100].fill(9);
        }
    }
    place.put("disk", &image);
    let text = place.run("check disk --repair").exits(1).text();
    assert!(text.starts_with("disk: error at byte ") && text.contains("error"), "{text}");
    assert!(!text.contains("mended at") && kept(&place).is_empty(), "{text}");
    assert!(image == fs::read(place.path("disk")).unwrap());
    let run = place.run("check disk --repair --json").exits(1);
    let said: serde_json::Value = serde_json::from_slice(&run.out).unwrap();
    assert_eq!(said["mended"], serde_json::json!([]));
    assert!(said["errors"].as_u64().unwrap() > 0);
}

#[test]
fn what_cannot_be_repaired_now_is_an_error_with_the_next_step() {
    let place = created();
    place.run("check disk --drop-unflushed").exits(2).says(&["--repair"]);
    place.run("check mem:size=1G --repair").exits(2).says(&["mem:size=1G", "name a file"]);
    place.run("check nope --repair").exits(2).says(&["nope", "no such file"]);
    place.put("text", b"hello");
    place.run("check text --repair").exits(2).says(&["text", "not a zoned drive"]);

    let path = Target::Path(place.path("disk"));
    let drive = zonal::open(&path, &OpenOptions::default()).unwrap();
    place.run("check disk --repair").exits(2).says(&["disk", "in use", "end that process"]);
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    queue.push(Request::append(4, queue.buffer(4096).unwrap())).unwrap();
    queue.submit_and_wait(1).unwrap();
    drop(queue);
    drop(drive);
    // Cut off, with its live file: that first.
    place.run("check disk --repair").exits(2).says(&["live file", "zonal flush"]);
    fs::remove_file(place.path("disk.live")).unwrap();
    place.run("check disk --repair").exits(2).says(&["cut off", "--drop-unflushed"]);
    assert!(kept(&place).is_empty());
    place.run("check disk --repair --drop-unflushed").exits(0);
    holds_its_data(&place, "dropped");
}

#[test]
fn a_leak_is_a_warning_and_no_negative_answer() {
    let place = created();
    let mut image = fs::read(place.path("disk")).unwrap();
    let at = number(&image, number(&image, 48)) as usize + 2 * 1000;
    image[at..at + 2].copy_from_slice(&[0, 1]);
    place.put("disk", &image);
    let text = place.ok("check disk").text();
    assert!(
        text.starts_with("disk: warning at byte ") && text.contains("0 errors, 1 warning"),
        "{text}"
    );
    assert_eq!(place.json("check disk")["findings"][0]["severity"], "warning");
    let text = place.ok("check disk --repair").text();
    assert!(text.contains("disk: mended at byte ") && text.ends_with("nothing wrong\n"), "{text}");
    qemu_agrees(&place, "a leak");
}

#[test]
fn without_room_for_the_old_bytes_nothing_is_changed() {
    let outside = created();
    let Damage { at, bytes, .. } = damages(&outside).remove(0);
    let place = Place::new();
    let folder = place.path("small");
    fs::create_dir(&folder).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=16M", "tmpfs"]).arg(&folder);
    if !mount.status().is_ok_and(|status| status.success()) {
        println!("SKIP: mounting a small file system takes root");
        return;
    }
    let copied = Command::new("cp")
        .args(["--sparse=always"])
        .args([outside.path("disk"), place.path("small/disk")])
        .status();
    let image = File::options().write(true).open(place.path("small/disk")).unwrap();
    image.write_all_at(&bytes, at).unwrap();
    let mut filler = File::create(place.path("small/filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    let before = fs::read(place.path("small/disk")).unwrap();
    let run = place.run("check small/disk --repair");
    let after = fs::read(place.path("small/disk")).unwrap();
    drop((image, filler));
    let unmounted = Command::new("umount").arg(&folder).status();
    assert!(copied.unwrap().success() && unmounted.unwrap().success());
    run.exits(2).says(&["small/disk", ".repair-1 cannot be written", "nothing is changed"]);
    assert!(before == after);
}

#[test]
fn a_lost_record_of_a_clean_end_is_a_session_that_was_cut_off() {
    let place = created();
    let mut image = fs::read(place.path("disk")).unwrap();
    let older = damages(&place).remove(0).at as usize;
    let newer = [older - 4096, older + 4096];
    let newer = newer.into_iter().find(|at| &image[*at..*at + 8] == b"zonalses").unwrap();
    image[newer..newer + 100].fill(9);
    place.put("disk", &image);
    place.run("check disk --repair").exits(2).says(&["cut off", "--drop-unflushed"]);
    assert!(image == fs::read(place.path("disk")).unwrap() && kept(&place).is_empty());
    let text = place.ok("check disk --repair --drop-unflushed").text();
    assert!(text.contains("a copy of the session record"), "{text}");
    assert!(place.ok("check disk").text().contains("0 errors"));
    holds_its_data(&place, "flushed before");
}
