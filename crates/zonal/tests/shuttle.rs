//! The shipped zone rules, gates, settling, flush and queues under a model checker.
//!
//! Run with `RUSTFLAGS='--cfg zonal_shuttle' cargo test -p zonal --test shuttle`. The checker
//! takes every atomic for sequentially consistent, so it finds lost wake-ups and wrong orders of
//! steps, not too weak memory orders.
#![cfg(zonal_shuttle)]

mod scenarios;

use scenarios::*;

const EACH: usize = 1500;

#[test]
fn two_that_append_to_one_zone_get_places_of_their_own() {
    explore(EACH, || append_to_one_zone(&memory(0, 0)));
    let template = Template::new(0, 0);
    explore(EACH, move || append_to_one_zone(&template.open(auto(Default::default())).1));
}

#[test]
fn of_two_writes_at_one_place_exactly_one_succeeds() {
    explore(EACH, || write_at_one_place(&memory(0, 0)));
    let template = Template::new(0, 0);
    explore(EACH, move || write_at_one_place(&template.open(auto(Default::default())).1));
}

#[test]
fn a_failed_write_takes_nothing_acknowledged_with_it() {
    let template = Template::new(0, 0);
    explore(EACH, move || fail_one(&template, true, false));
}

#[test]
fn a_failed_write_is_zeroed_by_writing_where_the_disk_cannot() {
    let template = Template::new(0, 0);
    explore(EACH, move || fail_one(&template, false, false));
}

#[test]
fn a_reader_never_sees_what_failed_nor_what_lies_below_it() {
    let template = Template::new(0, 0);
    explore(EACH, move || fail_one(&template, true, true));
}
