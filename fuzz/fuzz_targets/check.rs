//! A hostile image is checked, with all its data. Repair, once it is there, belongs here: repair
//! what was found, check again, and open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zonal::CheckOptions;
use zonal_fuzz::Case;

fuzz_target!(|case: Case| {
    let disk = case.disk();
    for deep in [false, true] {
        match zonal::sim::check(&disk, &CheckOptions { deep }) {
            Ok(report) => {
                for finding in report.findings {
                    assert!(!finding.to_string().is_empty());
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
