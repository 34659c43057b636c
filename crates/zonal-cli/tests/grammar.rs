//! Words, exit codes and messages that need no image.

mod common;

use common::Place;

const COMMANDS: [&str; 17] = [
    "create", "adopt", "info", "report", "append", "cat", "read", "write", "open", "close",
    "finish", "reset", "flush", "check", "conform", "bench", "atomic",
];

#[test]
fn help_lists_every_command_and_each_has_help_of_its_own() {
    let place = Place::new();
    let help = place.ok("--help").text();
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in {help}");
        assert!(place.ok(&format!("{command} --help")).text().contains("Usage:"), "{command}");
    }
    assert!(place.ok("--version").text().starts_with("zonal "));
}

#[test]
fn a_wrong_word_is_an_error_in_the_program_s_name() {
    let place = Place::new();
    for words in [
        "",
        "frobnicate",
        "create disk",
        "create disk --size 1X",
        "report mem:size=64M,zone-size=8M --zones 3..2",
        "report mem:size=64M,zone-size=8M --state sideways",
        "reset mem:size=64M,zone-size=8M --yes",
        "reset mem:size=64M,zone-size=8M --yes --zone 1 --all",
        "append mem:size=64M,zone-size=8M --csv --json",
        "append mem:size=64M,zone-size=8M --iodepth 0",
        "bench --rw sideways",
        "bench --reset",
        "read mem:size=64M,zone-size=8M --offset 0",
    ] {
        let run = place.run(words).exits(2);
        assert!(run.out.is_empty(), "{words}");
        assert!(!run.talk.is_empty() && !run.talk.contains("error:"), "{words}: {}", run.talk);
    }
    place.run("create disk --size 1X").exits(2).says(&["zonal: ", "--size", "not a size"]);
}

#[test]
fn what_is_no_drive_is_named_with_what_to_do() {
    let place = Place::new();
    place.put("text", b"hello");
    place.run("info absent").exits(2).says(&["zonal: ", "absent"]);
    place.run("info text").exits(2).says(&["zonal: ", "text"]);
    place.run("info mem:zone-size=8M").exits(2).says(&["mem:", "size"]);
    place.run("info mem:size=1G,wings=2").exits(2).says(&["wings"]);
    place.run("check absent").exits(2).says(&["absent"]);
}

#[test]
fn a_zone_that_is_not_there_is_an_error_that_says_how_many_there_are() {
    let place = Place::new();
    for range in ["8", "0..9", "8..", "..=8"] {
        let words = format!("report mem:size=64M,zone-size=8M --zones {range}");
        place.run(&words).exits(2).says(&["8 zones", range]);
    }
    place.run("reset mem:size=64M,zone-size=8M --zone 8 --yes").exits(2).says(&["8 zones"]);
}

#[test]
fn quiet_says_nothing() {
    let place = Place::new();
    let run = place.ok("open mem:size=64M,zone-size=8M --zone 1 -q");
    assert!(run.out.is_empty() && run.talk.is_empty(), "{}", run.talk);
}

#[test]
fn a_memory_drive_is_described() {
    let place = Place::new();
    let info = place.json("info mem:size=64M,zone-size=8M,zone-capacity=6M,max-open-zones=3");
    assert_eq!(info["size"], 64 << 20);
    assert_eq!(info["zones"], 8);
    assert_eq!(info["zone_size"], 8 << 20);
    assert_eq!(info["zone_capacity"], 6 << 20);
    assert_eq!(info["max_open_zones"], 3);
    assert!(info["max_active_zones"].is_null());
    assert_eq!(info["block_size"], 4096);
}
