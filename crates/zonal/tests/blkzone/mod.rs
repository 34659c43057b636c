//! What another program does to a zone of a block device, and says of it: util-linux's blkzone.

use std::path::Path;
use std::process::Command;

/// Has blkzone do something with the zone that starts at byte `start`; what it prints.
pub(crate) fn blkzone(command: &str, device: &Path, start: u64) -> String {
    let ran = Command::new("blkzone")
        .args([command, "-o", &(start / 512).to_string(), "-c", "1"])
        .args((command != "report").then_some("-f"))
        .arg(device)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// The zone's write pointer by its word, in bytes from the zone's start.
pub(crate) fn written(device: &Path, start: u64) -> u64 {
    let line = blkzone("report", device, start);
    let words = line.split_once("wptr 0x").unwrap().1;
    u64::from_str_radix(words.split(' ').next().unwrap(), 16).unwrap() * 512
}
