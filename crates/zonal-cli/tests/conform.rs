//! `conform`: words, consent, verdicts, what is left; over drives that are honest. The checker's own
//! tests (`cargo test -p zonal-cli --bin zonal conform`) have those that lie.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Place;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const ALL: &str = "zone-size=1M,zone-capacity=768K,conventional-zones=1,max-open-zones=3,\
                   max-active-zones=5,max-append=128K";

/// The verdict of a rule.
fn verdict<'a>(report: &'a Value, rule: &str) -> &'a str {
    let rules = report["rules"].as_array().unwrap();
    rules.iter().find(|row| row["rule"] == rule).unwrap()["verdict"].as_str().unwrap()
}

#[test]
fn nobody_s_data_is_erased_unasked() {
    let place = Place::with_disk("");
    place.put("a", &[7; 4096]);
    place.ok("append disk a --zones 0");
    place.run("conform disk").exits(2).says(&["disk", "erases", "--yes"]);
    assert_eq!(place.zone(0)["wp"], 4096);
    place.run("conform disk --zones 8.. --yes").exits(2).says(&["8 zones"]);
    place.run("conform absent --yes").exits(2).says(&["absent"]);
}

#[test]
fn an_image_conforms_and_its_zones_are_left_reset() {
    let place = Place::with_disk("--zone-capacity 6M --conventional-zones 1 --max-open-zones 2");
    place.put("a", &[7; 8192]);
    place.ok("append disk a --zones 1");
    place.ok("write disk a --offset 0");
    let report = place.json("conform disk --zones 2.. --yes --seed 3");
    assert_eq!(report["conforms"], true);
    assert_eq!(report["seed"], 3);
    assert!(report["records"].as_u64().unwrap() > 1000, "{report}");
    assert_eq!(verdict(&report, "append-record"), "pass");
    assert_eq!(verdict(&report, "reset-all"), "not-applicable");
    assert_eq!(place.zone(1)["wp"], (8 << 20) + 8192, "not in the range");
    for zone in 2..8 {
        assert_eq!(place.zone(zone)["state"], "empty");
    }
    let report = place.json("conform disk --yes");
    assert_eq!(verdict(&report, "reset-all"), "pass");
    assert_eq!(verdict(&report, "conventional-write"), "pass");
    assert_eq!(place.zone(1)["state"], "empty");
    // What a conventional zone held is put back.
    assert_eq!(place.ok("read disk --offset 0 --length 8192").out, [7; 8192]);
    place.ok("check disk --deep");
}

#[test]
fn an_adopted_image_and_each_engine_conform() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("SKIP: an adopted image needs qemu-img");
        return;
    }
    let place = Place::new();
    let made = Command::new("qemu-img")
        .args(["create", "-qf", "qcow2", "plain.qcow2", "16M"])
        .current_dir(place.path("."))
        .status()
        .unwrap();
    assert!(made.success());
    place.ok("adopt plain.qcow2 --zone-size 2M --max-open-zones 3 --max-active-zones 5");
    place.ok("conform plain.qcow2 --yes");
    place.ok("conform plain.qcow2 --yes --engine threads");
}

#[test]
fn a_file_conforms_as_far_as_a_file_can() {
    let place = Place::new();
    place.put("log", b"");
    let report = place.json("conform file:log --yes");
    assert_eq!(report["conforms"], true);
    for (rule, expected) in [
        ("append-record", "pass"),
        ("append-cover", "pass"),
        ("state-finish", "not-applicable"),
        ("open-limit", "not-applicable"),
        ("capacity", "not-applicable"),
    ] {
        assert_eq!(verdict(&report, rule), expected, "{rule}");
    }
    assert_eq!(std::fs::metadata(place.path("log")).unwrap().len(), 0);
}

#[test]
fn people_get_a_table_and_what_the_drive_does() {
    let place = Place::new();
    let run = place.ok(&format!("conform mem:size=8M,{ALL} --yes"));
    let text = run.text();
    for part in [
        "pass   append-inside",
        "n.a.   offline",
        "no zone is offline",
        "this drive:\n",
        "makes a zone empty that is closed with nothing written",
        "finishes an empty zone without an active place",
        "\nconforms: ",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(run.talk.is_empty(), "{}", run.talk);
}

#[test]
fn junit_has_a_case_for_each_rule_and_replaces_nothing_else() {
    let place = Place::new();
    place.put("notes", b"mine");
    let words = format!("conform mem:size=8M,{ALL} --yes");
    place.run(&format!("{words} --junit notes")).exits(2).says(&["notes", "another name"]);
    place.run(&format!("{words} --junit no/x.xml")).exits(2).says(&["no/x.xml", "no folder"]);
    let report = place.json(&format!("{words} --junit report.xml"));
    let xml = std::fs::read_to_string(place.path("report.xml")).unwrap();
    let rules = report["rules"].as_array().unwrap().len();
    assert_eq!(xml.matches("<testcase ").count(), rules);
    assert!(xml.contains(&format!("tests=\"{rules}\" failures=\"0\"")), "{xml}");
    assert!(xml.contains("<skipped message=\"n.a.: no zone is offline\"/>"), "{xml}");
    place.ok(&format!("{words} --junit report.xml"));
}

#[test]
fn one_seed_is_one_run() {
    let place = Place::new();
    let run = || {
        let mut report = place.json(&format!("conform mem:size=8M,{ALL} --yes --seed 5"));
        for row in report["rules"].as_array_mut().unwrap() {
            row["seconds"] = Value::Null;
        }
        report
    };
    assert_eq!(run(), run());
}

#[test]
fn an_interrupt_ends_it_and_leaves_the_zones_reset() {
    let place = Place::with_disk("");
    let child = place.start("conform disk --yes --long");
    std::thread::sleep(Duration::from_millis(1500));
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let run = common::Run::of("conform disk", child.wait_with_output().unwrap()).exits(130);
    assert!(run.text().contains("\ninterrupted: "), "{}", run.text());
    for zone in 0..8 {
        assert_eq!(place.zone(zone)["state"], "empty");
    }
}
