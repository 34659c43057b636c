//! `zonal sim`: histories hold, replay byte for byte, and are told of by exit codes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Place;

/// How many histories are run here; `.ci/run` runs many more.
const RUNS: u64 = 200;

#[test]
fn histories_keep_what_was_promised_and_reach_what_they_are_for() {
    let place = Place::new();
    let summary = place.json(&format!("sim --seed 1 --runs {RUNS}"));
    assert_eq!(summary["histories"], RUNS);
    assert_eq!(summary["violations"], 0);
    for reached in [
        "requests",
        "refused",
        "parked",
        "cuts",
        "kills",
        "recoveries",
        "failures",
        "read_only",
        "copies",
        "restores",
        "repairs",
        "settlements",
    ] {
        assert!(summary[reached].as_u64().unwrap() > 0, "no {reached}: {summary}");
    }
}

#[test]
fn a_seed_gives_the_same_history_again_whatever_ran_before_it() {
    let place = Place::new();
    let alone = place.ok("sim --seed 7 --runs 1 --trace").text();
    assert!(alone.starts_with("seed 7\n") && alone.lines().count() > 50, "{alone}");
    let told = |text: &str| text.split("1 histories").next().unwrap().to_owned();
    assert_eq!(told(&alone), told(&place.ok("sim --seed 7 --runs 1 --trace").text()));
    let after = place.ok("sim --seed 5 --runs 3 --trace").text();
    let from = after.find("seed 7\n").unwrap();
    let seventh = after[from..].split("3 histories").next().unwrap();
    assert_eq!(seventh, told(&alone));
}

#[test]
fn what_goes_wrong_can_be_chosen() {
    let place = Place::new();
    let summary = place.json("sim --runs 20 --faults none --steps 30");
    for not in ["cuts", "kills", "read_only", "copies", "restores", "repairs"] {
        assert_eq!(summary[not], 0, "{not}");
    }
    let summary = place.json("sim --runs 20 --faults cut --jobs 1");
    assert!(summary["cuts"].as_u64().unwrap() > 0 && summary["kills"] == 0, "{summary}");
}

#[test]
fn without_faults_nothing_fails() {
    let summary = Place::new().json("sim --runs 60 --faults none");
    assert_eq!((&summary["failures"], &summary["cuts"]), (&0.into(), &0.into()), "{summary}");
}

#[test]
fn a_trace_beside_json_leaves_stdout_to_it() {
    let place = Place::new();
    let seen = place.run("sim --seed 3 --runs 1 --trace --json");
    serde_json::from_str::<serde_json::Value>(&seen.text()).expect("JSON alone");
}

#[test]
fn words_that_cannot_be_are_refused_by_name() {
    let place = Place::new();
    place.run("sim --faults rain").exits(2).says(&["rain", "cut", "kill"]);
    place.run("sim --runs many").exits(2).says(&["many"]);
    place.run("sim --steps 0").exits(2).says(&["0"]);
    place.run("sim --runs 0").exits(2).says(&["0"]);
}
