//! map: the same drive as text, as SVG and as JSON.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use common::{Place, noise};

#[test]
fn a_small_drive_is_drawn_with_its_states_and_fills() {
    let place = Place::with_disk("--conventional-zones 1");
    place.put("data", &noise(1, 4 << 20));
    place.ok("append disk data --zones 2");
    place.ok("finish disk --zone 5 --yes");
    let text = place.ok("map disk").text();
    let letters: Vec<&str> = text.lines().nth(6).unwrap().split_whitespace().collect();
    assert_eq!(letters, ["n", ".", "c", ".", ".", "f", ".", "."], "{text}");
    let numbers: Vec<&str> = text.lines().nth(7).unwrap().split_whitespace().collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6", "7"], "{text}");
    assert!(text.contains("c closed 1   f full 1   . empty 5   n not-wp 1"), "{text}");
    assert!(!text.contains('\x1b'), "no colour but on a terminal");

    let map = place.json("map disk --zones 2..6");
    assert_eq!((&map["zones"], &map["zones_per_cell"]), (&4.into(), &1.into()));
    let cell = &map["cells"][0];
    assert_eq!((&cell["zone"], &cell["state"]), (&2.into(), &"closed".into()));
    assert_eq!((&cell["written"], &cell["capacity"]), (&(4 << 20).into(), &(8 << 20).into()));
    assert_eq!(map["cells"][3]["state"], "full");
}

#[test]
fn many_zones_share_cells_and_it_is_said() {
    let place = Place::new();
    let text = place.ok("map mem:size=6400M,zone-size=64K").text();
    assert!(text.contains("102400 zones of 64K") && text.contains("A cell stands for 128 zones"));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let cells = place.json("map mem:size=6400M,zone-size=64K")["cells"].clone();
    assert_eq!(cells.as_array().unwrap().len(), 800);
    assert_eq!((&cells[799]["zone"], &cells[799]["zones"]), (&102_272.into(), &128.into()));
}

#[test]
fn an_svg_has_a_tooltip_for_each_zone() {
    let place = Place::with_disk("");
    assert_eq!(place.ok("map disk --svg disk.svg").text(), "");
    let svg = std::fs::read_to_string(place.path("disk.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<title>zone ").count(), 8);
    for words in ["map disk --svg no/such/folder.svg", "bench disk --plot no/such/folder.svg"] {
        let run =
            place.run(words).exits(2).says(&["no/such/folder.svg", "there is no folder no/such"]);
        assert_eq!(run.talk.matches("folder.svg").count(), 1, "{}", run.talk);
    }
    place.put("other", b"no picture");
    let run = place.run("map disk --svg other").exits(2).says(&["other: it exists and is no SVG"]);
    assert_eq!(run.talk.matches("other:").count(), 1, "{}", run.talk);
}

#[test]
fn a_picture_replaces_a_picture_and_nothing_else() {
    let place = Place::new();
    place.ok("create disk.qcow2 --size 64M --zone-size 16M");
    let before = std::fs::read(place.path("disk.qcow2")).unwrap();
    for words in ["map disk.qcow2 --svg disk.qcow2", "bench mem:size=64M --plot disk.qcow2"] {
        place.run(words).exits(2).says(&["disk.qcow2", "another name"]);
        assert!(std::fs::read(place.path("disk.qcow2")).unwrap() == before);
    }
    place.ok("map disk.qcow2 --svg map.svg");
    place.ok("map disk.qcow2 --svg map.svg");
}
