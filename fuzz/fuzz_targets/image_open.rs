//! A hostile image is opened, reported, read, written and closed; one without zones is given some
//! first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zonal_fuzz::{Case, adopt, exercise};

fuzz_target!(|case: Case| {
    let disk = case.disk();
    exercise(&disk, &case.deeds);
    if case.adopt {
        adopt(&disk);
        exercise(&disk, &case.deeds);
    }
});
