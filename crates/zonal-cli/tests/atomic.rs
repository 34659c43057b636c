//! `zonal atomic`: what it says, refuses and leaves. The file systems that these tests run on may write
//! untorn by themselves or not; what is native is tested in the library, on file systems made for it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Place, noise};
use std::fs;
use std::os::unix::fs::FileExt;
use zonal::atomic::{AtomicFile, AtomicOptions, JournalUse};

#[test]
fn info_tells_the_path_and_the_units() {
    let place = Place::new();
    place.put("pages", &[0; 8192]);
    let info = place.json("atomic info pages");
    let keys: Vec<&String> = info.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 7, "{info}");
    assert_eq!((info["units_waiting"].as_u64(), info["in_use"].as_bool()), (Some(0), Some(false)));
    let path = info["path"].as_str().unwrap();
    assert!(["native", "none"].contains(&path), "{info}");
    assert_eq!(info["unit_max"] == 0, path == "none", "{info}");
    let info = place.json("atomic info pages --journal");
    if path == "none" {
        assert_eq!(info["path"], "journal");
        assert_eq!(
            (info["unit_min"].as_u64(), info["unit_max"].as_u64()),
            (Some(4096), Some(1 << 20))
        );
        let text = place.ok("atomic info pages").text();
        assert!(text.contains("--journal"), "{text}");
        let text = place.ok("atomic info pages --journal").text();
        assert!(
            text.contains("journal") && text.contains(" 1M\n") && text.contains(" 4K\n"),
            "{text}"
        );
    }
    assert!(!place.path("pages.journal").exists(), "info changes nothing");
}

#[test]
fn a_unit_is_written_and_said_how() {
    let place = Place::new();
    place.put("pages", &[0; 65536]);
    place.put("unit", &noise(3, 16384));
    let run = place.ok("atomic write pages unit --offset 32K --journal");
    assert!(run.out.is_empty());
    run.says(&["16384 bytes", "32768", "path", "durable"]);
    let file = fs::read(place.path("pages")).unwrap();
    assert_eq!(file[32768..49152], noise(3, 16384));
    assert!(file[..32768].iter().chain(&file[49152..]).all(|byte| *byte == 0));
    let run =
        place.feed("atomic write pages --offset 0 --journal --json", &noise(4, 4096)).exits(0);
    let said: serde_json::Value = serde_json::from_slice(&run.out).unwrap();
    assert_eq!((said["version"].as_u64(), said["length"].as_u64()), (Some(1), Some(4096)));
    assert_eq!(fs::read(place.path("pages")).unwrap()[..4096], noise(4, 4096));
}

#[test]
fn what_cannot_be_untorn_is_refused_and_changes_nothing() {
    let place = Place::new();
    place.put("pages", &[7; 65536]);
    place.put("odd", &noise(3, 5000));
    place.put("unit", &noise(3, 8192));
    place.put("long", &noise(3, (2 << 20) + 1));
    for (words, says) in [
        ("atomic write pages odd --offset 0 --journal", &["power of two"][..]),
        ("atomic write pages unit --offset 4096 --journal", &["multiple", "the one below is 0"]),
        ("atomic write pages long --offset 0 --journal", &["long", "largest unit"]),
        ("atomic write pages unit --offset 0 --journal --fast-only", &["fast"]),
        ("atomic write pages pages --offset 0 --journal", &["pages"]),
        ("atomic write absent unit --offset 0", &["absent", "touch"]),
        ("atomic write . unit --offset 0", &["folder"]),
        ("atomic write pages unit odd --offset 0", &["odd"]),
        ("atomic write pages unit", &["--offset"]),
        ("atomic write pages unit --offset 0 --journal-path j", &["--journal"]),
        ("atomic write pages unit --offset 0 --journal --journal-path pages", &["the file itself"]),
        ("atomic write pages unit --offset 0 --journal --journal-size 4K", &["too small"]),
        ("atomic bench pages --journal --runtime 1s", &["--yes"]),
        ("atomic bench pages --journal --bs 5000 --yes", &["5000", "power of two"]),
        ("atomic bench pages --journal --size 1000 --yes", &["--size"]),
        ("atomic info pages --engine steam", &["steam"]),
    ] {
        place.run(words).exits(2).says(says);
        assert_eq!(fs::read(place.path("pages")).unwrap(), [7; 65536], "{words}");
    }
    place.ok("create disk --size 64M --zone-size 8M");
    place.run("atomic write disk unit --offset 0 --journal").exits(2).says(&["qcow2 image"]);
    place.run("atomic bench disk --journal --yes").exits(2).says(&["qcow2 image"]);
    let none = place.json("atomic info pages")["path"] == "none";
    if none {
        place
            .run("atomic write pages unit --offset 0")
            .exits(2)
            .says(&["not supported", "journal"]);
        place.run("atomic bench pages --yes").exits(2).says(&["--journal"]);
    }
    place.put("pages.journal", b"somebody's diary");
    if none {
        place
            .run("atomic write pages unit --offset 0 --journal")
            .exits(2)
            .says(&["pages.journal", "no journal"]);
        assert_eq!(fs::read(place.path("pages.journal")).unwrap(), b"somebody's diary");
    }
}

#[test]
fn a_journal_is_checked_by_check() {
    let place = Place::new();
    place.put("pages", &[7; 65536]);
    if place.json("atomic info pages")["path"] != "none" {
        eprintln!(
            "SKIP: this file system writes untorn by itself, so there is no journal to check"
        );
        return;
    }
    place.put("unit", &noise(3, 8192));
    place.ok("atomic write pages unit --offset 0 --journal --journal-path log");
    let text = place.ok("check log").text();
    assert!(text.contains("a journal, nothing wrong; 0 units"), "{text}");
    let said = place.json("check log");
    assert_eq!((said["errors"].as_u64(), said["journal"]["records"].as_u64()), (Some(0), Some(0)));
    place.run("check log --repair").exits(2).says(&["not repaired"]);
    let mut bytes = fs::read(place.path("log")).unwrap();
    bytes[100] ^= 1;
    bytes[4196] ^= 1;
    place.put("log", &bytes);
    let run = place.run("check log").exits(1);
    assert!(run.text().contains("error at byte 0"), "{}", run.text());
    let run = place.run("check log --json").exits(1);
    let said: serde_json::Value = serde_json::from_slice(&run.out).unwrap();
    assert_eq!(
        (said["errors"].as_u64(), said["findings"][0]["severity"].as_str()),
        (Some(1), Some("error"))
    );
}

fn shows(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

/// As after a power cut: a unit is in the journal, and torn in its place.
#[test]
fn info_says_that_units_wait_and_changes_nothing() {
    let place = Place::new();
    place.put("pages", &[7; 65536]);
    let path = place.path("pages");
    let options = AtomicOptions {
        journal: JournalUse::Always,
        journal_bytes: 1 << 20,
        ..AtomicOptions::default()
    };
    let file = AtomicFile::open(&path, &options).unwrap();
    file.write_atomic_at(16384, noise(3, 16384)).wait().unwrap();
    let info = place.json("atomic info pages");
    assert_eq!((info["units_waiting"].as_u64(), info["in_use"].as_bool()), (Some(0), Some(true)));
    shows(&place.ok("atomic info pages").text(), &["in use"]);
    let journal = fs::read(place.path("pages.journal")).unwrap();
    file.close().unwrap();
    place.put("pages.journal", &journal);
    let mut torn = fs::read(&path).unwrap();
    torn[20000..32768].fill(7);
    // Its inode is that of the journal.
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&torn, 0).unwrap();

    for words in ["atomic info pages", "atomic info pages --journal"] {
        let info = place.json(words);
        assert_eq!(
            (info["units_waiting"].as_u64(), info["in_use"].as_bool()),
            (Some(1), Some(false))
        );
        let text = place.ok(words).text();
        shows(&text, &["waiting", "1 unit in", "pages.journal", "may be torn"]);
    }
    if place.json("atomic info pages")["path"] == "none" {
        let info = place.json("atomic info pages --journal");
        assert_eq!(info["path"], "journal");
        assert_eq!(info["unit_max"].as_u64(), Some(256 << 10), "of the journal that is there");
    }
    assert!(
        fs::read(&path).unwrap() == torn
            && fs::read(place.path("pages.journal")).unwrap() == journal
    );
    assert_eq!(place.json("check pages.journal")["journal"]["units"].as_u64(), Some(1));

    place.feed("atomic write pages --offset 0 --journal", &[5; 4096]).exits(0).says(&["1 unit"]);
    let whole = fs::read(&path).unwrap();
    assert!(whole[16384..32768] == noise(3, 16384), "put in place");
    assert_eq!(place.json("atomic info pages")["units_waiting"].as_u64(), Some(0));
}

#[test]
fn bench_measures_three_ways_and_leaves_nothing() {
    let place = Place::new();
    let words = "atomic bench new --journal --journal-size 4M --size 1M --bs 8K --iodepth 4 --runtime 300ms";
    let said = place.json(words);
    for measured in [&said, &said["ordinary"], &said["written_twice"]] {
        assert!(measured["iops"].as_f64().unwrap() > 0.0, "{said}");
        // No durable write takes less than a microsecond.
        let latency = &measured["lat_ns"];
        assert!(latency["percentile"]["99.000000"].as_u64().unwrap() > 1000, "{said}");
        assert!(latency["mean"].as_f64().unwrap() > 1000.0, "{said}");
    }
    assert_eq!((said["bs"].as_u64(), said["iodepth"].as_u64()), (Some(8192), Some(4)));
    let left: Vec<_> = fs::read_dir(place.path(".")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let text = place.ok(words).text();
    for word in ["untorn", "ordinary", "twice", "iops"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
