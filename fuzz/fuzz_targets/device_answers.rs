//! What devices and kernels answer is taken apart, and a drive made of it.
#![no_main]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|answer: zonal_fuzz::answers::Answer| answer.open());
