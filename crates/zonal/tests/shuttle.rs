//! The shipped zone rules, gates, settling, flush and queues under a model checker.
//!
//! Run with `RUSTFLAGS='--cfg zonal_shuttle' cargo test -p zonal --test shuttle`. The checker
//! takes every atomic for sequentially consistent, so it finds lost wake-ups and wrong orders of
//! steps, not too weak memory orders.
#![cfg(zonal_shuttle)]

mod scenarios;

use scenarios::*;
use zonal::Target;

/// Executions of each scenario, under each of two schedulers. `ZONAL_SHUTTLE_EACH` overrides it.
fn each() -> usize {
    std::env::var("ZONAL_SHUTTLE_EACH").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

#[test]
fn two_that_append_to_one_zone_get_places_of_their_own() {
    explore(each(), || append_to_one_zone(&memory(0, 0)));
    let template = Template::new(0, 0);
    explore(each(), move || append_to_one_zone(&template.open(auto(Default::default())).1));
}

#[test]
fn of_two_writes_at_one_place_exactly_one_succeeds() {
    explore(each(), || write_at_one_place(&memory(0, 0)));
    let template = Template::new(0, 0);
    explore(each(), move || write_at_one_place(&template.open(auto(Default::default())).1));
}

#[test]
fn a_failed_write_takes_nothing_acknowledged_with_it() {
    let template = Template::new(0, 0);
    explore(each(), move || fail_one(&template, true, false));
}

#[test]
fn a_failed_write_is_zeroed_by_writing_where_the_disk_cannot() {
    let template = Template::new(0, 0);
    explore(each(), move || fail_one(&template, false, false));
}

#[test]
fn a_reader_never_sees_what_failed_nor_what_lies_below_it() {
    let template = Template::new(0, 0);
    explore(each(), move || fail_one(&template, true, true));
}

#[test]
fn gates_and_writers_leave_what_adds_up() {
    explore(each(), || operate_against_writers(&memory(0, 0)));
    let template = Template::new(0, 0);
    explore(each(), move || operate_against_writers(&template.open(auto(Default::default())).1));
}

#[test]
fn whoever_comes_to_a_gate_first_goes_first() {
    let template = Template::new(0, 0);
    explore(each(), move || first_come_first_served(&template));
}

#[test]
fn what_a_flush_covers_outlives_a_power_cut() {
    let template = Template::new(0, 0);
    explore(each(), move || flush_against_writers(&template));
}

#[test]
fn a_zone_reset_during_a_flush_holds_one_life_after_a_power_cut() {
    let template = Template::new(0, 0);
    explore(each(), move || flush_against_reset(&template));
}

#[test]
fn flushes_that_wait_together_share_a_sync() {
    let template = Template::new(0, 0);
    let other = template.clone();
    explore(each(), move || flushes_share(&template));
    explore(each(), move || flushes_share_the_next_round(&other));
}

#[test]
fn a_dropped_queue_leaves_nobody_waiting() {
    let template = Template::new(0, 0);
    explore(each(), move || drop_a_queue(&template));
}

#[test]
fn a_read_sees_one_life_of_a_zone() {
    explore(each(), || read_against_reset(&memory(0, 0)));
    let template = Template::new(0, 0);
    explore(each(), move || read_against_reset(&template.open(auto(Default::default())).1));
}

#[test]
fn the_open_and_active_limits_are_never_exceeded() {
    explore(each(), || stay_within_limits(&memory(1, 1), 1, 1));
    explore(each(), || stay_within_limits(&memory(3, 5), 3, 5));
    let template = Template::new(1, 1);
    explore(each(), move || stay_within_limits(&template.open(auto(Default::default())).1, 1, 1));
    let template = Template::new(3, 5);
    explore(each(), move || stay_within_limits(&template.open(auto(Default::default())).1, 3, 5));
}

#[test]
fn a_zone_is_punched_once_before_it_is_written_again() {
    let template = Template::new(0, 0);
    let other = template.clone();
    explore(each(), move || write_after_discard(&template, false));
    explore(each(), move || write_after_discard(&other, true));
}

#[test]
fn the_power_may_go_at_any_moment() {
    let template = Template::new(0, 0);
    let other = template.clone();
    explore(each(), move || flush_during_cut(&template));
    explore(each(), move || reset_during_cut(&other));
}

#[test]
fn handles_lose_no_wake_up_and_leave_nobody_in_line() {
    explore(each(), || append_through_handles(&Target::Memory(geometry(0, 0))));
}

#[test]
fn a_drive_may_be_closed_while_others_use_it() {
    explore(each(), close_against_handles);
}
