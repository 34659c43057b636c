//! Small drives, exhaustively: two zones, four writes, something inserted, one failure; every
//! order, and every power cut at every moment.

mod support;

use std::time::Instant;
use support::explore::{Bounds, explore};
use support::scenario::{self, Ask, Faults, Past, Scenario};

#[test]
fn a_small_drive_keeps_the_contract_in_every_order_failure_and_power_cut() {
    let long = std::env::var_os("ZONAL_LONG").is_some();
    let scenarios = scenario::all(long);
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let runs = number("ZONAL_RUNS").unwrap_or(if long { u64::MAX } else { 2500 });
    let cuts = number("ZONAL_CUTS").unwrap_or(if long { 256 } else { 16 });
    let bounds = Bounds {
        faults: 1,
        runs,
        walks: 200,
        cuts: usize::try_from(cuts).expect("a small number"),
        all_orders: long,
        until: None,
    };
    let begun = Instant::now();
    let (totals, failure) = explore(&scenarios, bounds);
    println!(
        "small scope: {} cases, {} power cuts at {} moments of {} scenarios ({} of them \
         to the last case), {} images opened, at most {} cuts a moment, {:.1} s",
        totals.runs,
        totals.cuts,
        totals.moments,
        totals.scenarios,
        totals.exhausted,
        totals.images,
        bounds.cuts,
        begun.elapsed().as_secs_f64()
    );
    if let Some(failure) = failure {
        panic!("{failure}");
    }
}

#[test]
fn a_zone_is_punched_once_however_many_wait_for_it() {
    let asks = vec![Ask::Append(0, 1), Ask::Append(0, 1), Ask::Flush];
    let scenario =
        Scenario { past: Past::Reset, asks, max_open: 0, discard: true, faults: Faults::Whole };
    let bounds =
        Bounds { faults: 0, runs: u64::MAX, walks: 0, cuts: 16, all_orders: false, until: None };
    let (totals, failure) = explore(&[scenario], bounds);
    println!("punching: {} cases, {} power cuts", totals.runs, totals.cuts);
    if let Some(failure) = failure {
        panic!("{failure}");
    }
}
