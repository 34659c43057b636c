//! A hostile image is opened, reported, read, written and closed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zonal_fuzz::{Case, exercise};

fuzz_target!(|case: Case| {
    exercise(&case.disk(), &case.deeds);
});
