//! append and cat.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use common::{Place, Run, noise};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn what_was_appended_comes_back_by_either_index() {
    let place = Place::with_disk("--max-open-zones 3");
    let bytes = noise(1, 5_000_001);
    place.put("in", &bytes);
    for format in ["--json", "--csv"] {
        let index = place.ok(&format!("append disk in --record 32K {format}")).out;
        place.put("index", &index);
        assert!(place.ok("cat disk --index index").out == bytes, "{format}");
    }
}

#[test]
fn each_line_says_record_zone_offset_and_length() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 2 * 65536 + 77));
    let mut lines = place.ok("append disk in --json").lines();
    lines.sort_by_key(|line| line["record"].as_u64());
    assert_eq!(lines.len(), 3);
    let id = place.json("info disk")["image_id"].clone();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line.as_object().unwrap().len(), 6, "{line}");
        assert_eq!(line["generation"], 0);
        assert!(id.as_str().unwrap().starts_with(line["drive"].as_str().unwrap()));
        let zone = line["zone"].as_u64().unwrap();
        assert_eq!((&line["record"], zone), (&at.into(), at as u64));
        assert_eq!(line["offset"], zone * (8 << 20));
        assert_eq!(line["length"], if at == 2 { 77 } else { 65536 });
    }
    // A block for the 77 bytes, the rest of it zeros.
    assert_eq!(place.zone(2)["wp"], (16 << 20) + 4096);
    let block = place.ok("read disk --offset 16M --length 4096").out;
    assert!(block[77..].iter().all(|byte| *byte == 0) && block.len() == 4096);
}

#[test]
fn several_inputs_each_start_a_record_and_can_be_picked() {
    let place = Place::with_disk("");
    let (first, second) = (noise(1, 70_000), noise(2, 100));
    place.put("first", &first);
    place.put("empty", b"");
    place.put("second, odd", &second);
    let mut command = place.command("append disk first empty --csv");
    let run = Run::of("append", command.arg("second, odd").output().unwrap()).exits(0);
    assert!(
        run.text().starts_with("record,zone,offset,length,file,file_offset,generation,drive\n")
    );
    assert!(run.text().contains(",\"second, odd\",0,0,"), "{}", run.text());
    assert!(run.text().contains(",first,65536,0,"));
    place.put("index", &run.out);
    assert_eq!(place.ok("cat disk --index index --file first").out, first);
    let mut command = place.command("cat disk --index index --file");
    assert_eq!(command.arg("second, odd").output().unwrap().stdout, second);
    assert_eq!(place.ok("cat disk --index index").out, [first, second].concat());
    place.run("cat disk --index index --file third").exits(2).says(&["third", "first"]);
}

#[test]
fn records_are_lines_for_people_unless_asked_otherwise() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 4096));
    let text = place.ok("append disk in --zones 2").says(&["1 record,", "flushed"]).text();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines, [["record", "zone", "offset", "length"], ["0", "2", "16777216", "4096"]]);
}

#[test]
fn no_more_zones_are_open_or_active_than_the_drive_allows() {
    let place = Place::with_disk("--max-open-zones 2 --max-active-zones 3");
    // 8 MiB less a block a zone: each zone must be finished.
    place.put("in", &noise(1, 40 << 20));
    let run = place.ok("append disk in --record 1020K --iodepth 64 --json");
    place.put("index", &run.out);
    assert_eq!(place.ok("cat disk --index index").out.len(), 40 << 20);
    let report = place.json("report disk");
    let states: Vec<&str> =
        report["zones"].as_array().unwrap().iter().map(|z| z["state"].as_str().unwrap()).collect();
    // Which of the zones in use was finished last is a matter of timing.
    assert!(states.iter().filter(|state| **state == "full").count() >= 4, "{states:?}");
    assert!(states.iter().filter(|state| **state == "closed").count() <= 2, "{states:?}");
}

#[test]
fn a_full_drive_names_the_first_record_that_was_not_written() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 9 << 20));
    let run = place.run("append disk in --zones 7 --record 1M --json").exits(2);
    assert_eq!(run.lines().len(), 8);
    let run = run.says(&["drive full", "record 8", "byte 8388608 of in"]);
    assert!(run.talk.starts_with("zonal: "));
    // Nothing acknowledged is lost by the error.
    assert_eq!(place.zone(7)["state"], "full");
    place.run("append disk in --zones 7").exits(2).says(&["drive full", "record 0"]);
}

#[test]
fn ordered_appends_keep_their_order_and_may_exceed_the_limit() {
    let place = Place::with_disk("--max-append 64K");
    let bytes = noise(3, 3 << 20);
    place.put("in", &bytes);
    place.run("append disk in --record 256K").exits(2).says(&["append limit", "--ordered"]);
    let run = place.ok("append disk in --record 256K --ordered --zones 4 --json");
    let offsets: BTreeSet<(u64, u64)> = run
        .lines()
        .iter()
        .map(|line| (line["record"].as_u64().unwrap(), line["offset"].as_u64().unwrap()))
        .collect();
    let expected: BTreeSet<(u64, u64)> =
        (0..12).map(|record| (record, (32 << 20) + record * (256 << 10))).collect();
    assert_eq!(offsets, expected);
    assert!(place.ok("read disk --offset 32M --length 3M").out == bytes);
}

#[test]
fn a_record_that_does_not_fit_the_drive_is_refused_before_anything_is_written() {
    let place = Place::with_disk("--conventional-zones 2");
    place.put("in", &noise(1, 4096));
    place.run("append disk in --record 1000").exits(2).says(&["--record", "block size", "4K"]);
    place.run("append disk in --record 2M").exits(2).says(&["append limit", "1M"]);
    place.run("append disk in --record 16M --ordered").exits(2).says(&["8M"]);
    place.run("append disk in --zones 0..2").exits(2).says(&["conventional"]);
    place.run("append disk absent").exits(2).says(&["absent"]);
    assert_eq!(place.zone(2)["state"], "empty");
}

#[test]
fn a_slow_input_s_records_are_acknowledged_as_they_come() {
    let place = Place::with_disk("");
    let mut child = place.start("append disk --record 4K --json");
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for record in 0..3 {
        input.write_all(&noise(record, 4096)).unwrap();
        let line: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["record"], record);
    }
    drop(input);
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_interrupt_flushes_and_prints_what_there_is() {
    let place = Place::with_disk("");
    let mut child = place.start("append disk --record 4K --json");
    let mut input = child.stdin.take().unwrap();
    input.write_all(&noise(1, 4096 + 10)).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(place.json("info disk")["session"], "closed cleanly");
    assert_eq!(place.zone(0)["wp"], 4096);
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_loses_nothing() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 8 << 20));
    let mut command = place.command("append disk in --record 4K --json");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    // No error, and no silence either: the input was not appended to its end.
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("stopped with") && talk.contains("--resume"), "{talk}");
    assert_eq!(place.json("info disk")["session"], "closed cleanly");
}

#[test]
fn resume_writes_what_the_index_does_not_acknowledge() {
    let place = Place::with_disk("");
    let bytes = noise(1, 1_000_000);
    place.put("in", &bytes);
    let all = place.ok("append disk in --zones 0..4 --json").text();
    // Every third line is lost, and the last one is torn.
    let mut kept: String = all
        .lines()
        .enumerate()
        .filter(|(at, _)| at % 3 != 0)
        .map(|(_, l)| format!("{l}\n"))
        .collect();
    let first = kept.clone();
    kept.push_str("{\"record\":15,\"zo");
    place.put("index", kept.as_bytes());
    let rest = place.ok("append disk in --zones 0..4 --json --resume index").says(&["cut off"]);
    assert_eq!(rest.lines().len(), all.lines().count().div_ceil(3));
    place.put("whole", format!("{first}{}", rest.text()).as_bytes());
    assert!(place.ok("cat disk --index whole").out == bytes);
    // Other inputs are not gone on with.
    place.put("other", &bytes[..70_000]);
    let run = place.run("append disk other --zones 0..4 --resume whole").exits(2);
    run.says(&["record 1", "the same inputs"]);
}

/// The index of three inputs of two records and a rest each, without the lines of `lost` records.
fn place_with_part_of_an_index(format: &str, lost: &[u64]) -> (Place, String) {
    let place = Place::with_disk("");
    for (seed, name) in [(1, "a"), (2, "b"), (3, "c")] {
        place.put(name, &noise(seed, 2 * 65536 + 100));
    }
    let all = place.ok(&format!("append disk a b c --iodepth 1 {format}")).text();
    let is_lost = |line: &str| {
        lost.iter().any(|n| {
            line.starts_with(&format!("{n},")) || line.starts_with(&format!("{{\"record\":{n},"))
        })
    };
    let kept: String =
        all.lines().filter(|line| !is_lost(line)).map(|line| format!("{line}\n")).collect();
    place.put("index", kept.as_bytes());
    (place, kept)
}

#[test]
fn resume_knows_inputs_that_are_not_those_of_the_index() {
    for format in ["--json", "--csv"] {
        // Were it not held against the inputs first, record 0 would be written of the wrong file.
        let (place, kept) = place_with_part_of_an_index(format, &[0, 4]);
        place.put("d", &noise(4, 2 * 65536 + 100));
        place.put("longer", &noise(1, 5 * 65536));
        let before = place.json("report disk");
        let refused = |words: &str, parts: &[&str]| {
            let words = format!("append disk {words} {format} --resume index");
            let run =
                place.run(&words).exits(2).says(parts).says(&["index index", "the same inputs"]);
            assert!(run.out.is_empty());
            assert_eq!(before, place.json("report disk"), "{words}");
        };
        refused(
            "b a c",
            &["record 1 is 65536 bytes at 65536 of \"a\"", "65536 bytes at 65536 of \"b\""],
        );
        refused("a c b", &["record 3", "\"b\"", "\"c\""]);
        refused("a b d", &["records of \"c\"", "not given"]);
        refused("a b", &["records of \"c\"", "not given"]);
        refused("./a b c", &["records of \"a\"", "not given"]);
        refused("a", &["not given"]);
        refused("d a b c", &["record 1", "\"d\""]);
        refused(
            "a b c --record 32K",
            &["record 1 is 65536 bytes at 65536", "32768 bytes at 32768"],
        );
        std::fs::copy(place.path("longer"), place.path("a")).unwrap();
        refused("a b c", &["record 2 is 100 bytes", "65536 bytes at 131072 of \"a\" here"]);
        place.put("a", b"");
        refused("a b c", &["record 1 is 65536 bytes at 65536 of \"a\""]);
        // The same ones are gone on with, and name their files as before.
        place.put("a", &noise(1, 2 * 65536 + 100));
        let rest = place.ok(&format!("append disk a b c {format} --resume index")).text();
        place.put("whole", format!("{kept}{rest}").as_bytes());
        for (seed, name) in [(1, "a"), (2, "b"), (3, "c")] {
            let run = place.ok(&format!("cat disk --index whole --file {name}"));
            assert!(run.out == noise(seed, 2 * 65536 + 100), "{name}");
        }
    }
}

#[test]
fn resume_knows_the_inputs_of_an_index_that_names_none() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 2 * 65536 + 100));
    place.put("short", &noise(1, 65536 + 100));
    place.put("index", &place.ok("append disk in --json").out);
    let refused = |words: &str, parts: &[&str]| {
        place.run(&format!("append disk {words} --resume index")).exits(2).says(parts);
    };
    refused("in short", &["names no file", "2 are given", "the same inputs"]);
    refused("short", &["record 1 is 65536 bytes", "100 bytes at 65536 of \"short\""]);
    place.put("short", &noise(1, 65536));
    refused("short", &["the inputs end before record 1", "at 1 record"]);
    place.run("append disk - --resume -").exits(2).says(&["stdin cannot be"]);
}

#[test]
fn what_comes_through_a_pipe_is_held_against_the_index_as_it_comes() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 3 * 65536));
    place.put("index", &place.ok("append disk in --json").out);
    let resume = |bytes: Vec<u8>| place.feed("append disk --json --resume index", &bytes);
    let run = resume(noise(1, 2 * 65536 + 9)).exits(2);
    run.says(&["index index", "record 2 is 65536 bytes", "9 bytes", "the same inputs"]);
    assert_eq!(resume(noise(1, 4 * 65536)).exits(0).lines().len(), 1);
}

#[test]
fn a_line_that_was_cut_off_is_named_by_cat_and_not_there_for_resume() {
    let bytes = noise(5, 6 * 4096 + 100);
    for format in ["--json", "--csv"] {
        let place = Place::with_disk("");
        place.put("in", &bytes);
        let words = format!("append disk in --record 4K --iodepth 1 {format}");
        let whole = place.ok(&words).out;
        let end = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        let line = whole.iter().filter(|byte| **byte == b'\n').count();
        // Every place in the last line; also with the zeros that some file systems leave.
        for (cut, zeros) in (end + 1..whole.len()).flat_map(|cut| [(cut, 0), (cut, 9)]) {
            let index = [&whole[..cut], &vec![0; zeros]].concat();
            let is_whole = index.ends_with(b"}");
            place.put("index", &index);
            let run = place.run("cat disk --index index");
            if is_whole {
                assert!(run.exits(0).out == bytes);
            } else {
                let run = run.exits(2).says(&[&format!("line {line} is cut off"), "remove it"]);
                assert!(run.out.is_empty());
            }
            if cut % 11 != 0 && !is_whole {
                continue;
            }
            // Into the same file: the cut line goes, and the new ones stand behind whole ones.
            let run = place.shell(&format!("$zonal {words} --resume index >> index")).exits(0);
            if !is_whole {
                run.says(&[&format!("line {line} was cut off, and is taken away")]);
            }
            assert!(place.ok("cat disk --index index").out == bytes, "cut at {cut}");
            // Into another: it is said.
            if !is_whole {
                place.put("index", &index);
                let run = place.ok(&format!("{words} --resume index"));
                let run = run.says(&[&format!("line {line} is cut off and left out")]);
                place.put("index", &[&whole[..end], &run.out].concat());
                assert!(place.ok("cat disk --index index").out == bytes, "cut at {cut}");
            }
        }
    }
}

#[test]
fn an_index_is_gone_on_with_in_its_own_form() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 65536));
    place.put("index", &place.ok("append disk in --json").out);
    let before = fs::read(place.path("index")).unwrap();
    for words in ["", "--csv"] {
        let script = format!("$zonal append disk in {words} --resume index >> index");
        place.shell(&script).exits(2).says(&["index index", "--json"]);
    }
    place.shell("$zonal append disk in --resume none >> none").exits(2).says(&["--json or --csv"]);
    assert!(before == fs::read(place.path("index")).unwrap());
}

#[test]
fn names_of_any_bytes_are_kept_in_either_index() {
    use std::os::unix::ffi::OsStrExt;
    let names: [&[u8]; 9] = [
        b"plain",
        b"two\nlines, \"quoted\"",
        b"two\nlines and no more",
        b"\"",
        b"ends with\r",
        b" spaced ",
        b"not UTF-8: \xff\xfe",
        b"not UTF-8: \xff\xfd",
        "\u{e9},\u{1f980}\t{".as_bytes(),
    ];
    for format in ["--json", "--csv"] {
        let place = Place::with_disk("");
        let names = names.map(std::ffi::OsStr::from_bytes);
        for (seed, name) in (1..).zip(names) {
            fs::write(place.path(".").join(name), noise(seed, 5000)).unwrap();
        }
        let append = |words: &str| {
            let mut command = place.command(&format!("append disk --record 4K {format} {words}"));
            Run::of("append", command.args(names).output().unwrap()).exits(0)
        };
        let index = append("").out;
        place.put("index", &index);
        for (seed, name) in (1..).zip(names) {
            let mut command = place.command("cat disk --index index --file");
            let out = command.arg(name).output().unwrap().stdout;
            assert!(out == noise(seed, 5000), "{format} {name:?}");
        }
        // Nothing is left to do, and a line with a name that spans lines may be cut inside it.
        append("--resume index").says(&["0 records"]);
        if format == "--csv" {
            let cut = index.windows(4).position(|at| at == b"two\n").unwrap() + 4;
            place.put("index", &index[..cut]);
            place.run("cat disk --index index").exits(2).says(&["is cut off"]);
            let rest = append("--resume index").says(&["left out"]).out;
            let whole = index[..cut - 4].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
            place.put("index", &[&index[..whole], &rest].concat());
            for (seed, name) in (1..).zip(names) {
                let mut command = place.command("cat disk --index index --file");
                let out = command.arg(name).output().unwrap().stdout;
                assert!(out == noise(seed, 5000), "{name:?}");
            }
        }
    }
    let place = Place::with_disk("");
    place.put("two\nlines", b"x");
    place.put("in", b"x");
    let mut command = place.command("append disk in");
    let run = Run::of("append", command.arg("two\nlines").output().unwrap()).exits(0);
    assert_eq!(run.text().lines().count(), 3, "{}", run.text());
}

#[test]
fn a_killed_append_can_be_resumed() {
    let place = Place::with_disk("");
    let bytes = noise(1, 24 << 20);
    place.put("in", &bytes);
    let mut command = place.command("append disk in --record 4K --json");
    let index = fs::File::create(place.path("index")).unwrap();
    let mut child = command.stdout(index).stderr(Stdio::null()).spawn().unwrap();
    while fs::metadata(place.path("index")).unwrap().len() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = place.ok("append disk in --record 4K --json --resume index").text();
    let before = fs::read_to_string(place.path("index")).unwrap();
    let whole = before.rfind('\n').map_or(0, |end| end + 1);
    place.put("whole", format!("{}{rest}", &before[..whole]).as_bytes());
    assert!(place.ok("cat disk --index whole").out == bytes);
}

#[test]
fn an_index_that_cannot_be_is_refused_with_its_line() {
    let place = Place::with_disk("");
    let says = |text: &str, parts: &[&str]| {
        place.put("index", text.as_bytes());
        let run = place.run("cat disk --index index").exits(2).says(parts);
        assert!(run.out.is_empty());
    };
    says("what\n", &["index index: line 1"]);
    says("record,zone,offset,length\n0,0,0,1\n1,0,zero,1\n", &["line 3", "zero"]);
    says("{\"record\":0,\"zone\":1,\"offset\":0,\"length\":1}\n", &["line 1", "another drive"]);
    says("{\"record\":0,\"zone\":0,\"offset\":4,\"length\":1}\n", &["line 1", "another drive"]);
    says("{\"record\":0,\"zone\":9,\"offset\":75497472,\"length\":1}\n", &["another drive"]);
    // Nothing was ever written there.
    says(
        "{\"record\":0,\"zone\":0,\"offset\":0,\"length\":1}\n",
        &["line 1", "not on disk any more"],
    );
    place.run("cat disk --index absent").exits(2).says(&["absent"]);
}

#[test]
fn a_gap_in_the_index_is_told() {
    let place = Place::with_disk("");
    place.put("in", &noise(1, 5 * 4096));
    let text = place.ok("append disk in --record 4K --zones 0 --iodepth 1 --csv").text();
    let kept: String =
        text.lines().filter(|l| !l.starts_with("2,")).map(|l| format!("{l}\n")).collect();
    place.put("index", kept.as_bytes());
    let run = place.ok("cat disk --index index").says(&["records 2..=2 are not in it"]);
    assert_eq!(run.out.len(), 4 * 4096);
}

#[test]
fn append_works_in_memory() {
    let place = Place::new();
    place.put("in", &noise(1, 1 << 20));
    assert_eq!(place.ok("append mem:size=64M,zone-size=8M in --json").lines().len(), 16);
}

#[test]
fn an_index_of_an_earlier_life_of_a_zone_is_refused() {
    let place = Place::with_disk("");
    place.put("old", &noise(21, 300_000));
    place.put("new", &noise(22, 300_000));
    let old = place.ok("append disk old --zones 1 --json").out;
    place.put("old.jsonl", &old);
    place.put("old.csv", &place.ok("append disk old --zones 2 --csv").out);
    place.ok("reset disk --zones 1..3 --yes");
    place.ok("append disk new --zones 1");
    place.ok("append disk new --zones 2");
    for index in ["old.jsonl", "old.csv"] {
        let says = [index, "line", "record 0", "not on disk any more", "was reset"];
        place.run(&format!("cat disk --index {index}")).exits(2).says(&says);
        place.run(&format!("append disk old --resume {index}")).exits(2).says(&says);
    }
    // Lines that say neither are believed, as promised.
    let bare = r#"{"record":0,"zone":1,"offset":8388608,"length":65536}"#;
    place.put("bare.jsonl", bare.as_bytes());
    assert!(place.ok("cat disk --index bare.jsonl").out == noise(22, 300_000)[..65536]);
}

#[test]
fn an_index_of_another_image_is_refused() {
    let place = Place::with_disk("");
    place.put("data", &noise(23, 300_000));
    place.put("index", &place.ok("append disk data --json").out);
    place.ok("create disk --size 64M --zone-size 8M --force");
    place.put("other", &noise(24, 600_000));
    place.ok("append disk other");
    let says = ["index", "line ", "drive whose id begins with", "another drive"];
    place.run("cat disk --index index").exits(2).says(&says);
    place.run("append disk data --resume index").exits(2).says(&says);
}
