//! A hostile image is checked, with all its data, repaired, and checked again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zonal_fuzz::{Case, check_and_repair};

fuzz_target!(|case: Case| check_and_repair(&case.disk()));
