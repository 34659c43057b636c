//! Each rule, broken, is found by histories. Built with `--cfg zonal_break` only.
#![cfg(zonal_break)]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Place;
use serde_json::Value;
use zonal::Rule;

/// Each rule is looked for from so many seeds on, far from each other.
const STARTS: u64 = 10;

/// So many histories at most are looked through from each.
const BOUND: u64 = 3000;

/// How many histories it takes from a seed on, until the broken rule is found.
fn runs_until_found(place: &Place, rule: Rule, seed: u64) -> Option<u64> {
    // One job: the first that is found is the first there is.
    let words =
        format!("sim --seed {seed} --runs {BOUND} --jobs 1 --quick --json --break {rule:?}");
    let output = place.command(&words).output().unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = summary["failure"]["seed"].as_u64().or(summary["hangs"].as_u64());
    assert_eq!(output.status.success(), found.is_none(), "{words}: {summary}");
    found.map(|found| found - seed + 1)
}

#[test]
fn every_broken_rule_is_found() {
    let place = Place::new();
    let mut missed = Vec::new();
    for rule in Rule::ALL {
        let starts = (0..STARTS).map(|start| 1 + start * 1_000_000);
        let found: Vec<_> = starts.map(|seed| runs_until_found(&place, rule, seed)).collect();
        if found.iter().any(Option::is_none) {
            missed.push(rule);
        }
        let mut runs: Vec<u64> = found.iter().map(|found| found.unwrap_or(BOUND)).collect();
        runs.sort_unstable();
        let median = (runs[4] + runs[5]) / 2;
        println!("{rule:?}: median {median}, at most {}", runs[runs.len() - 1]);
    }
    assert!(missed.is_empty(), "not found within {BOUND} histories: {missed:?}");
}

#[test]
fn with_no_rule_broken_nothing_is_found() {
    Place::new().ok("sim --seed 1 --runs 100");
}

/// A violation says what was promised and seen, and how to see it again; replayed, it is the same.
#[test]
fn a_violation_can_be_replayed_as_it_says() {
    let place = Place::new();
    let run = place.run("sim --runs 3000 --jobs 1 --break OffsetOfItsRecord").exits(1);
    let text = run.text();
    for part in ["violation", "promised:", "seen:", "history, as short", "  1. "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let again = text.split("again:").nth(1).unwrap().trim();
    let again = place.run(again.strip_prefix("zonal ").unwrap()).exits(1).text();
    assert_eq!(again, text);
}
