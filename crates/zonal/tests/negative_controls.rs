//! Each rule, broken, is found by the explorer. Built with `--cfg zonal_break` only.
#![cfg(zonal_break)]

mod support;

use std::time::{Duration, Instant};
use support::explore::{Bounds, explore};
use support::scenario::{self, Ask, Faults, Past, Scenario};
use zonal::{Rule, break_rule};

/// How long one rule may take to be found.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many rules are this explorer's; the others are about kills, copies and repair, which are not in
/// its world: histories find them (`zonal sim`), as they find all.
const EXPLORED: usize = 8;

/// One test, since a rule is broken for the whole process.
#[test]
fn every_broken_rule_is_found() {
    // A reset while a flush is under way is far down in the list.
    let first = Scenario {
        past: Past::Fresh,
        asks: vec![Ask::Fua(0, 2), Ask::Reset(0), Ask::Append(0, 1)],
        max_open: 0,
        discard: false,
        faults: Faults::Whole,
    };
    let mut scenarios = scenario::all(false);
    scenarios.insert(0, first);
    let mut missed = Vec::new();
    for &rule in &Rule::ALL[..EXPLORED] {
        let begun = Instant::now();
        let bounds = Bounds {
            faults: 1,
            runs: 1500,
            walks: 100,
            all_orders: false,
            until: Some(begun + PATIENCE),
        };
        break_rule(Some(rule));
        let (totals, failure) = explore(&scenarios, bounds);
        break_rule(None);
        let seconds = begun.elapsed().as_secs_f64();
        match failure {
            Some(failure) => println!(
                "{rule:?}: found after {} cases, {seconds:.1} s, by \"{}\"",
                totals.runs, failure.violation.check
            ),
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
