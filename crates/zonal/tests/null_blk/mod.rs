//! What configfs has of a null_blk, set: how its zones and blocks fail on command.

use std::fs;
use std::path::Path;

/// Sets what configfs has of a null_blk.
pub(crate) fn set_null_blk(device: &Path, attribute: &str, value: &str) {
    let folder = Path::new("/sys/kernel/config/nullb").join(device.file_name().unwrap());
    fs::write(folder.join(attribute), value).unwrap();
}

/// Makes a null_blk's zone say `zone_readonly` or `zone_offline` of itself; said again, it is as new.
pub(crate) fn set_condition(device: &Path, attribute: &str, start: u64) {
    set_null_blk(device, attribute, &(start / 512).to_string());
}

/// Whether this kernel's null_blk makes zones die on command; if not, says that it is skipped.
pub(crate) fn zones_can_die(device: &Path) -> bool {
    let folder = Path::new("/sys/kernel/config/nullb").join(device.file_name().unwrap());
    let can = folder.join("zone_offline").exists();
    if !can {
        println!(
            "SKIP: this kernel's null_blk makes no zone read-only or offline (Linux 6.2 does)"
        );
    }
    can
}
