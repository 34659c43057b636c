//! adopt, and info on what it made.

mod common;

use common::{Place, noise};
use std::process::Command;

/// Makes a plain image `disk` of 64 MiB; false where there is no qemu-img.
fn plain(place: &Place, options: &str) -> bool {
    let made = Command::new("qemu-img")
        .args(["create", "-qf", "qcow2", "-o", options])
        .arg(place.path("disk"))
        .arg("64M")
        .status();
    match made {
        Ok(status) => {
            assert!(status.success());
            true
        }
        Err(error) => {
            eprintln!("SKIP: qemu-img cannot be run: {error}");
            false
        }
    }
}

#[test]
fn an_adopted_image_is_a_drive_and_says_how_it_lies() {
    let place = Place::new();
    if !plain(&place, "cluster_size=64k,preallocation=off") {
        return;
    }
    place.run("info disk").exits(2).says(&["without zones", "zonal adopt"]);
    let run = place.run("adopt disk --zone-size 8M").exits(0);
    let run = run.says(&["8 zones of 8M", "0 of them full", "opened by zonal alone"]);
    let first = run.talk.lines().next().unwrap();
    assert!(first.contains("QEMU and other tools cannot open it any more"), "said before: {first}");
    let refused = Command::new("qemu-img").arg("info").arg(place.path("disk")).output().unwrap();
    assert!(!refused.status.success(), "what is said of QEMU is so");
    assert!(place.ok("adopt --help").text().contains("QEMU and other tools cannot open it"));
    place.run("adopt disk --zone-size 8M").exits(2).says(&["already"]);
    let info = place.json("info disk");
    assert_eq!((&info["layout"], &info["cluster_size"]), (&"scattered".into(), &65536.into()));
    assert!(place.ok("info disk").text().contains("scattered, clusters of 64K"));
    let data = noise(1, 3_000_000);
    place.put("data", &data);
    let index = place.ok("append disk data --record 64K --json");
    place.put("index", &index.out);
    assert!(place.ok("cat disk --index index").out == data);
    place.ok("check disk --deep");
}

#[test]
fn adopt_says_what_it_made_as_json_and_what_it_cannot_adopt_by_name() {
    let place = Place::new();
    if !plain(&place, "extended_l2=on,cluster_size=64k") {
        return;
    }
    place.run("adopt disk --zone-size 8M").exits(2).says(&["disk", "subclusters"]);
    plain(&place, "cluster_size=2M");
    place.run("adopt disk --zone-size 1M").exits(2).says(&["less than a cluster"]);
    let adopted = place.json("adopt disk --zone-size 4M --zone-capacity 3M --conventional-zones 1");
    assert_eq!((&adopted["zones"], &adopted["full_zones"]), (&16.into(), &0.into()));
    assert_eq!(adopted["zone_capacity"], 3 << 20);
    assert_eq!(adopted["cluster_size"], 2 << 20);
    let created = Place::with_disk("");
    assert_eq!(created.json("info disk")["layout"], "contiguous");
    place.run("adopt absent").exits(2).says(&["absent"]);
    place.put("text", b"hello");
    place.run("adopt text").exits(2).says(&["qcow2", "qemu-img convert"]);
}
