//! Deviations that are documented of a named peer: the verdict is *known* where every fault of a rule
//! is one of these. What a peer is, the device says itself, through sysfs.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use zonal::ErrorKind;

use super::verdict::Fault;

/// One documented deviation.
pub(super) struct Known {
    /// What the device's own description must contain.
    pub(super) peer: &'static str,
    /// The rule that it breaks.
    pub(super) rule: &'static str,
    /// Words that the case of the rule has in it, all of them.
    pub(super) case: &'static [&'static str],
    /// What is documented, and where.
    pub(super) note: &'static str,
}

/// How scsi_debug, as every SCSI or ATA drive, answers what changes nothing.
const ZBC_NO_CHANGE: &str =
    "ZBC, CLOSE ZONE and OPEN ZONE: where there is nothing to change the command succeeds";
/// What null_blk does not close for others, nor zonefs for us.
const NO_SPARE_PLACE: &str = "null_blk closes an open zone for another one only while fewer zones are active than may \
                              be, and zonefs closes none but under the mount option explicit-open";
/// What null_blk keeps of the data.
const NOT_KEPT: &str = "null_blk's documentation, memory_backed: without it no data is kept";

/// When null_blk closes a zone for another.
const NOT_CLOSED: &str = "null_blk (null_check_open): at its limit on active zones it closes no zone for \
                          one that is closed and is to be written";

/// How the kernel's own target names what the device behind it lacks.
const NVMET_INTERNAL: &str = "Linux's NVMe target (blk_to_nvme_status, blkdev_zone_mgmt_errno_to_nvme_status in nvmet): \
                              what a device behind it lacks of open and active zones it calls Internal Error";

/// What it says to such a write, and what is said to those behind it in its zone.
const AT_LIMIT: &str = ErrorKind::TooManyOpenZones.as_str();
const BEHIND: &str = ErrorKind::BehindFailedWrite.as_str();
const IO_ERROR: &str = ErrorKind::Io.as_str();

/// All of them.
pub(super) const TABLE: &[Known] = &[
    Known {
        peer: "QEMU NVMe Ctrl",
        rule: "read-across",
        case: &[],
        note: "QEMU's ZNS model reads across zones only with zoned.cross_read=on (nvme-ns)",
    },
    Known { peer: "scsi_debug", rule: "state-close", case: &["close empty"], note: ZBC_NO_CHANGE },
    Known { peer: "scsi_debug", rule: "state-close", case: &["close full"], note: ZBC_NO_CHANGE },
    Known { peer: "scsi_debug", rule: "state-open", case: &["open full"], note: ZBC_NO_CHANGE },
    Known { peer: "null_blk", rule: "append-completes", case: &[AT_LIMIT], note: NOT_CLOSED },
    Known { peer: "null_blk", rule: "append-completes", case: &[BEHIND], note: NOT_CLOSED },
    Known {
        peer: "NVMe namespace, Linux",
        rule: "append-completes",
        case: &[IO_ERROR, "more zones than may be open"],
        note: NVMET_INTERNAL,
    },
    Known {
        peer: "NVMe namespace, Linux",
        rule: "finish-at-limit",
        case: &["refused"],
        note: NVMET_INTERNAL,
    },
    Known { peer: "zonefs, null_blk", rule: "active-limit", case: &[], note: NO_SPARE_PLACE },
    Known {
        peer: "zonefs, null_blk",
        rule: "append-completes",
        case: &["more zones than may be open"],
        note: NO_SPARE_PLACE,
    },
    Known { peer: "memory_backed=0", rule: "append-record", case: &["contents"], note: NOT_KEPT },
    Known { peer: "memory_backed=0", rule: "read-pointer", case: &["contents"], note: NOT_KEPT },
    Known { peer: "memory_backed=0", rule: "read-finished", case: &["contents"], note: NOT_KEPT },
    Known { peer: "memory_backed=0", rule: "read-reset", case: &["contents"], note: NOT_KEPT },
    Known { peer: "memory_backed=0", rule: "write-order", case: &["contents"], note: NOT_KEPT },
    Known { peer: "memory_backed=0", rule: "ordered-append", case: &["contents"], note: NOT_KEPT },
    Known {
        peer: "memory_backed=0",
        rule: "conventional-write",
        case: &["contents"],
        note: NOT_KEPT,
    },
];

/// What excuses all of `faults`, if anything does: the notes, each once.
pub(super) fn excuses(peer: &str, rule: &str, faults: &[Fault]) -> Option<Vec<String>> {
    let mut notes: Vec<String> = Vec::new();
    for Fault { case, .. } in faults {
        let known = TABLE.iter().find(|known| {
            peer.contains(known.peer)
                && known.rule == rule
                && known.case.iter().all(|words| case.contains(words))
        })?;
        if !notes.iter().any(|note| note == known.note) {
            notes.push(known.note.into());
        }
    }
    Some(notes)
}

/// What a device node, or the device below a mounted zonefs, says of itself (`QEMU NVMe Ctrl`, `scsi_debug`,
/// `null_blk memory_backed=0`); empty for what is no device.
pub(super) fn describe_device(path: &Path, kind: &str) -> String {
    let Ok(metadata) = fs::metadata(path) else { return String::new() };
    let device = if kind == "zonefs" { metadata.dev() } else { metadata.rdev() };
    if device == 0 {
        return String::new();
    }
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    for kind in ["block", "char"] {
        let folder = format!("/sys/dev/{kind}/{major}:{minor}");
        if let Ok(folder) = fs::canonicalize(folder) {
            return describe_sysfs(&folder, Path::new("/sys/kernel/config/nullb"));
        }
    }
    String::new()
}

/// The same, from a device's folder in sysfs and the one in which null_blk's are configured.
fn describe_sysfs(folder: &Path, null_blk: &Path) -> String {
    let read = |path: &Path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    // One that configfs made has the name of its folder there.
    let configured = null_blk.join(&name);
    if name.starts_with("nullb") || configured.exists() {
        return match read(&configured.join("memory_backed")) {
            Some(backed) => format!("null_blk memory_backed={backed}"),
            None => "null_blk".into(),
        };
    }
    let models = ["device/model", "device/device/model"];
    models.iter().find_map(|model| read(&folder.join(model))).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::super::{appends::Campaign, rules::RULES};
    use super::*;

    fn fault(case: &str) -> Fault {
        Fault { case: case.into(), text: String::new() }
    }

    #[test]
    fn a_peer_is_excused_for_what_is_documented_and_for_nothing_else() {
        let peer = "scsi_debug";
        let both = [fault("close empty"), fault("close full"), fault("close full")];
        assert_eq!(excuses(peer, "state-close", &both), Some(vec![ZBC_NO_CHANGE.into()]));
        let more = [fault("close empty"), fault("close closed")];
        assert_eq!(excuses(peer, "state-close", &more), None);
        assert_eq!(excuses(peer, "append-inside", &[fault("")]), None);
        let null_blk = "block device, null_blk memory_backed=1";
        let full = [fault("too many open zones"), fault("behind a failed write")];
        assert_eq!(excuses(null_blk, "append-completes", &full), Some(vec![NOT_CLOSED.into()]));
        assert_eq!(excuses(null_blk, "append-completes", &[fault("I/O error")]), None);
        assert_eq!(excuses("image", "state-close", &both), None);
        let peer = "zonefs, null_blk memory_backed=1";
        let crowded = fault("records of 4K to 6 zones, 32 in flight, more zones than may be open");
        let plain = fault("records of 4K, 32 in flight");
        let excused = |faults: &[Fault]| excuses(peer, "append-completes", faults).is_some();
        assert!(excused(std::slice::from_ref(&crowded)));
        assert!(!excused(&[crowded.clone(), plain]));
        // As refused appends are found.
        let refused = |kind: ErrorKind, situation| {
            let mut campaign = Campaign::default();
            campaign.find_end(Some(kind), situation, "an append");
            campaign.findings.into_iter().map(|(_, fault)| fault).collect::<Vec<_>>()
        };
        let (crowded, plain) = (&*crowded.case, "records of 4K, 32 in flight");
        assert!(excused(&refused(ErrorKind::TooManyOpenZones, crowded)));
        let nvmet = |faults: &[Fault]| {
            excuses("NVMe namespace, Linux", "append-completes", faults).is_some()
        };
        assert!(nvmet(&refused(ErrorKind::Io, crowded)));
        assert!(
            !nvmet(&refused(ErrorKind::Io, plain)) && !nvmet(&refused(ErrorKind::Stalled, crowded))
        );
    }

    #[test]
    fn each_entry_names_a_rule_that_there_is() {
        for Known { rule, .. } in TABLE {
            assert!(RULES.iter().any(|known| known.id == *rule), "{rule}");
        }
    }

    #[test]
    fn a_device_says_what_it_is() {
        let place = tempfile::tempdir().unwrap();
        let folder = |name: &str| place.path().join(name);
        fs::create_dir_all(folder("sda/device")).unwrap();
        fs::write(folder("sda/device/model"), "scsi_debug      \n").unwrap();
        assert_eq!(describe_sysfs(&folder("sda"), &folder("config")), "scsi_debug");
        fs::create_dir_all(folder("config/nullb0")).unwrap();
        fs::write(folder("config/nullb0/memory_backed"), "0\n").unwrap();
        fs::create_dir_all(folder("config/managed")).unwrap();
        fs::write(folder("config/managed/memory_backed"), "1\n").unwrap();
        let null_blk = |name| describe_sysfs(&folder(name), &folder("config"));
        assert_eq!(null_blk("nullb0"), "null_blk memory_backed=0");
        assert_eq!(null_blk("managed"), "null_blk memory_backed=1");
        assert_eq!(null_blk("nullb1"), "null_blk");
        fs::create_dir_all(folder("config/named")).unwrap();
        fs::write(folder("config/named/memory_backed"), "1\n").unwrap();
        assert_eq!(null_blk("named"), "null_blk memory_backed=1");
        assert_eq!(describe_device(place.path(), "image"), "");
    }
}
