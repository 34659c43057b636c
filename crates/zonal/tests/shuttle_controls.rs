//! Whether the model checker finds what it is there to find: each test breaks one rule and wants
//! a scenario to fail.
//!
//! Run with `RUSTFLAGS='--cfg zonal_shuttle --cfg zonal_break' cargo test -p zonal --test
//! shuttle_controls`.
#![cfg(all(zonal_shuttle, zonal_break))]

mod scenarios;

use scenarios::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use zonal::{Rule, break_rule};

/// One rule is broken at a time, for the whole process.
static BROKEN: Mutex<()> = Mutex::new(());

const EACH: usize = 3000;

fn finds(rule: Rule, scenario: impl Fn() + Send + Sync + 'static) -> Option<String> {
    let _one_at_a_time = BROKEN.lock().unwrap_or_else(PoisonError::into_inner);
    break_rule(Some(rule));
    let found = catch_unwind(AssertUnwindSafe(|| explore(EACH, scenario)));
    break_rule(None);
    let why = found.err()?;
    let text = why.downcast_ref::<String>().cloned();
    Some(text.or_else(|| why.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

#[test]
fn an_acknowledgement_that_does_not_look_at_failing_is_found() {
    let template = Template::new(0, 0);
    let found = finds(Rule::AcknowledgeLooksAtFailing, move || fail_one(&template, true, false));
    println!("found: {found:?}");
    assert!(found.is_some());
}

#[test]
fn a_zone_that_is_full_too_early_is_found() {
    let found = finds(Rule::FullWhenAcknowledged, || stay_within_limits(&memory(3, 5), 3, 5));
    println!("found: {found:?}");
    assert!(found.is_some());
}

#[test]
fn a_stale_note_that_is_not_dropped_is_found() {
    let template = Template::new(0, 0);
    let found = finds(Rule::StaleNoteDropped, move || flush_against_reset(&template));
    println!("found: {found:?}");
    assert!(found.is_some());
}

#[test]
fn a_flush_that_syncs_too_late_is_found() {
    let template = Template::new(0, 0);
    let found = finds(Rule::DataBeforePointer, move || flush_during_cut(&template));
    println!("found: {found:?}");
    assert!(found.is_some());
}

#[test]
fn a_durable_write_that_does_not_wait_for_its_prefix_is_found() {
    let template = Template::new(0, 0);
    let found = finds(Rule::FuaAfterPrefix, move || flush_during_cut(&template));
    println!("found: {found:?}");
    assert!(found.is_some());
}

#[test]
fn a_table_built_from_live_pointers_is_found() {
    let template = Template::new(0, 0);
    let found = finds(Rule::TableFromShadow, move || flush_during_cut(&template));
    println!("found: {found:?}");
    assert!(found.is_some());
}

#[test]
fn a_write_before_its_reset_is_durable_is_found() {
    let template = Template::new(0, 0);
    let found = finds(Rule::ResetBeforeWrite, move || reset_during_cut(&template));
    println!("found: {found:?}");
    assert!(found.is_some());
}
