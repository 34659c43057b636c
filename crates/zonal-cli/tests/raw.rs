//! read and write.

mod common;

use std::io::Write;

use common::{Place, Run, noise};

#[test]
fn any_range_can_be_read() {
    let place = Place::with_disk("");
    let bytes = noise(1, 8 << 20);
    place.put("in", &bytes);
    place.ok("write disk in --offset 8M");
    assert_eq!(place.zone(1)["state"], "full");
    for (offset, length) in [(0, 1), (4095, 2), (1_000_003, 3_000_000), ((8 << 20) - 1, 1), (5, 0)]
    {
        let words = format!("read disk --offset {} --length {length}", (8 << 20) + offset);
        assert!(place.ok(&words).out == bytes[offset..offset + length], "{words}");
    }
    // Over the borders of the zone on both sides.
    let run = place.ok("read disk --offset 8388607 --length 8388610");
    assert_eq!((run.out[0], run.out[8_388_609]), (0, 0));
    assert!(run.out[1..8_388_609] == bytes);
    place.run("read disk --offset 64M --length 1").exits(2).says(&["past the drive's"]);
    place.run("read disk --offset 0xffffffffffffffff --length 8").exits(2).says(&["past"]);
}

#[test]
fn a_write_goes_on_over_zones_and_stops_where_it_must() {
    let place = Place::with_disk("--zone-capacity 6M");
    place.put("in", &noise(1, 7 << 20));
    place.run("write disk in --offset 8M").exits(2).says(&["zone 1"]);
    assert_eq!(place.zone(1)["state"], "full");
    place.run("write disk in --offset 17M").exits(2).says(&["not at the write pointer", "zone 2"]);
    place.run("write disk in --offset 100").exits(2).says(&["block size", "the one below is 0"]);
    place.run("write disk in --offset 64M").exits(2).says(&["past the drive's"]);
    place.run("write disk absent --offset 16M").exits(2).says(&["absent"]);
}

#[test]
fn the_last_block_is_filled_with_zeros_and_the_length_is_the_input_s() {
    let place = Place::with_disk("");
    let mut child = place.start("write disk --offset 8M --json");
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let run = Run::of("write", child.wait_with_output().unwrap()).exits(0);
    let value: serde_json::Value = serde_json::from_slice(&run.out).unwrap();
    assert_eq!((&value["offset"], &value["length"]), (&(8 << 20).into(), &5.into()));
    assert_eq!(place.zone(1)["wp"], (8 << 20) + 4096);
    assert_eq!(place.ok("read disk --offset 8M --length 8").out, b"hello\0\0\0");
}

#[test]
fn a_conventional_zone_keeps_what_lies_behind_the_input() {
    let place = Place::with_disk("--conventional-zones 1");
    let old = noise(1, 300_000);
    place.put("old", &old);
    place.ok("write disk old --offset 64K");
    let new = noise(2, 270_001);
    place.put("new", &new);
    place.ok("write disk new --offset 64K");
    let expected = [&new[..], &old[270_001..]].concat();
    assert!(place.ok("read disk --offset 64K --length 300000").out == expected);
}
