//! A hostile journal beside a file is opened: refused, or replayed and gone on with.
#![no_main]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|case: zonal_fuzz::journals::Case| case.open());
