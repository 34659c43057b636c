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
fn a_write_goes_on_over_the_ends_of_zones() {
    let place = Place::with_disk("--conventional-zones 1");
    let bytes = noise(1, 20_000_001);
    place.put("in", &bytes);
    // From within a conventional zone, over one after the other.
    place.ok("write disk in --offset 4M").says(&["20000001 bytes written", "flushed"]);
    assert_eq!(
        (&place.zone(1)["state"], &place.zone(2)["state"]),
        (&"full".into(), &"closed".into())
    );
    assert_eq!(place.zone(2)["wp"], (4_u64 << 20) + 20_000_001_u64.next_multiple_of(4096));
    assert_eq!(place.zone(3)["state"], "empty");
    assert!(place.ok("read disk --offset 4M --length 20000001").out == bytes);
    // To the drive's last byte, and not beyond.
    place.put("last", &noise(2, 16 << 20));
    place.ok("write disk last --offset 48M");
    let run = place.feed("write disk --offset 40M", &noise(3, 8 << 20));
    run.exits(0).says(&["8388608 bytes written"]);
}

#[test]
fn a_file_that_a_zone_s_end_stops_is_not_begun() {
    let place = Place::with_disk("--zone-capacity 6M --conventional-zones 1");
    place.put("in", &noise(1, 7 << 20));
    place.put("fits", &noise(1, 6 << 20));
    place.put("small", &noise(1, 5000));
    let refused = |words: &str, parts: &[&str]| {
        let before = place.json("report disk");
        place.run(words).exits(2).says(&["zonal: disk: "]).says(parts);
        assert_eq!(before, place.json("report disk"), "{words}");
    };
    refused(
        "write disk in --offset 8M",
        &[
            "in has 7340032 bytes",
            "from offset 8388608 there is room for 6291456",
            "zone 1 ends at its capacity, offset 14680064",
            "put the rest at offset 16777216",
            "nothing was written",
        ],
    );
    refused("write disk in --offset 56M", &["zone 7 ends at its capacity", "the last one"]);
    place.ok("write disk small --offset 8M");
    refused(
        "write disk in --offset 7M",
        &["room for 1048576", "zone 1 is written up to offset 8396800"],
    );
    place.ok("finish disk --zone 1 --yes");
    refused("write disk in --offset 7M", &["room for 1048576", "zone 1 is full"]);
    refused("write disk in --offset 8M", &["zone 1", "full"]);
    refused("write disk in --offset 17M", &["not at the write pointer", "zone 2"]);
    refused("write disk in --offset 100", &["block size", "the one below is 0"]);
    refused("write disk in --offset 64M", &["past the drive's"]);
    place.run("write disk absent --offset 16M").exits(2).says(&["absent"]);
    place.ok("write disk fits --offset 16M");
    let large = Place::with_disk("");
    large.put("in", &noise(1, (8 << 20) + 1));
    let says = ["room for 8388608", "the drive ends at offset 67108864", "take a larger one"];
    large.run("write disk in --offset 56M").exits(2).says(&says);
}

#[test]
fn of_a_pipe_it_is_said_how_much_was_written() {
    let place = Place::with_disk("--zone-capacity 6M");
    let bytes = noise(1, 7 << 20);
    let says = [
        "zone 1 ends at its capacity",
        "put the rest at offset 16777216",
        "first 6291456 bytes were written at offset 8388608, and are flushed",
    ];
    place.feed("write disk --offset 8M", &bytes).exits(2).says(&says);
    assert!(place.ok("read disk --offset 8M --length 6M").out == bytes[..6 << 20]);
    // Exactly as much as there is room for is no error.
    let run = place.feed("write disk --offset 16M", &bytes[..6 << 20]);
    run.exits(0).says(&["6291456 bytes written"]);
    let run = place.feed("write disk --offset 8M", &bytes);
    run.exits(2).says(&["zone 1", "full"]);
    let large = Place::with_disk("");
    let run = large.feed("write disk --offset 56M", &noise(1, 9 << 20));
    run.exits(2).says(&["the drive ends", "first 8388608 bytes were written at offset 58720256"]);
}

#[test]
fn a_read_over_the_ends_of_zones_has_zeros_where_nothing_can_be_written() {
    let place = Place::with_disk("--zone-capacity 6M");
    let bytes = noise(1, 6 << 20);
    place.put("in", &bytes);
    place.ok("write disk in --offset 0");
    place.ok("write disk in --offset 8M");
    // Capacity, the gap behind it, the next zone, and what is above its write pointer.
    place.ok("write disk in --offset 24M");
    let run = place.ok("read disk --offset 1 --length 33554431");
    let gap = vec![0; 2 << 20];
    let empty = vec![0; 8 << 20];
    let all = [&bytes[1..], &gap, &bytes, &gap, &empty, &bytes, &gap].concat();
    assert!(run.out == all);
    // A zone that cannot be read is named; what lies before it is there.
    let target = zonal::Target::Path(place.path("disk"));
    let drive = zonal::open(&target, &zonal::OpenOptions::default()).unwrap();
    drive.set_condition(1, zonal::ZoneState::Offline).unwrap();
    drive.close().unwrap();
    let run = place.run("read disk --offset 7M --length 2M").exits(2).says(&["zone 1", "offline"]);
    assert!(run.out.len() <= 1 << 20 && run.out.iter().all(|byte| *byte == 0));
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
