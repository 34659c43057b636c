//! Small drives, exhaustively: two zones, four writes, something inserted, one failure; every
//! order, and every power cut at every moment.

mod support;

use std::time::Instant;
use support::explore::{Bounds, Totals, explore};
use support::scenario::{self, Ask, Faults, Past, Scenario};

/// Explores to the last case, and says how much that was.
fn exhaust(what: &str, scenarios: &[Scenario], faults: u32, all_orders: bool) -> Totals {
    let bounds = Bounds { faults, runs: u64::MAX, walks: 0, all_orders, until: None };
    let begun = Instant::now();
    let (totals, failure) = explore(scenarios, bounds);
    let Totals { scenarios, exhausted, runs, states, cuts, told_apart, images } = totals;
    println!(
        "{what}: {runs} cases, {states} states, {cuts} power cuts ({told_apart} cases of a zone, \
         {images} images opened), {exhausted} of {scenarios} scenarios to the last case, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    assert_eq!(exhausted, scenarios, "not every case was followed");
    totals
}

#[test]
fn a_small_drive_keeps_the_contract_in_every_order_failure_and_power_cut() {
    let scenarios = scenario::all(std::env::var_os("ZONAL_LONG").is_some());
    let totals = exhaust("small scope", &scenarios, 1, false);
    assert_eq!(totals.scenarios, scenarios.len() as u64);
}

#[test]
fn runs_that_come_to_the_same_state_go_on_alike() {
    let scenarios = scenario::tiny();
    let merged = exhaust("merged", &scenarios, 1, false);
    let all = exhaust("in all orders", &scenarios, 1, true);
    assert!(all.runs > merged.runs);
    assert_eq!((all.states, all.cuts), (merged.states, merged.cuts));
}

#[test]
fn a_zone_is_punched_once_however_many_wait_for_it() {
    let asks = vec![Ask::Append(0, 1), Ask::Append(0, 1), Ask::Flush];
    let scenario =
        Scenario { past: Past::Reset, asks, max_open: 0, discard: true, faults: Faults::Whole };
    exhaust("punching", &[scenario], 0, false);
}
