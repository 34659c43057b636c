//! An NVMe namespace whose zones die: the kernel's own NVMe target (nvmet, nvme-loop) before a null_blk, which
//! makes zones read-only and offline on command. Runs on the generic device that `ZONAL_NVME_LOOP` names, with
//! the null_blk in `ZONAL_NVME_LOOP_DISK` (`guest/run`), and empties them.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod blkzone;
mod null_blk;
mod one_by_one;
mod until_one_fails;

use blkzone::written;
use null_blk::{set_condition, zones_can_die};
use one_by_one::{append, blocks, read, run};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use until_one_fails::load;
use zonal::{
    Device, ErrorKind, OpenOptions, Queue, QueueOptions, Request, Target, ZoneInfo, ZoneState,
};

/// How zones die, what they are then, and what that is called.
const DEATHS: [(&str, ZoneState, ErrorKind); 2] = [
    ("zone_readonly", ZoneState::ReadOnly, ErrorKind::ZoneReadOnly),
    ("zone_offline", ZoneState::Offline, ErrorKind::ZoneOffline),
];

/// The namespace, which one test has at a time.
struct Bench {
    generic: PathBuf,
    disk: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// Empty; none, having said so, where there is none whose zones can die.
    fn new() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let path = |variable| std::env::var_os(variable).map(PathBuf::from);
        let (Some(generic), Some(disk)) = (path("ZONAL_NVME_LOOP"), path("ZONAL_NVME_LOOP_DISK"))
        else {
            println!(
                "SKIP: ZONAL_NVME_LOOP and ZONAL_NVME_LOOP_DISK name no devices; guest/run has some"
            );
            return None;
        };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = Self { generic, disk, _turn };
        run(&mut queue(&bench.open()), Request::reset_all()).result.unwrap();
        zones_can_die(&bench.disk).then_some(bench)
    }

    fn open(&self) -> Device {
        zonal::open(&Target::Path(self.generic.clone()), &OpenOptions::default()).unwrap()
    }

    /// A zone dies; or, if it was dead, is as new.
    fn dies(&self, how: &str, zone: &ZoneInfo) {
        set_condition(&self.disk, how, zone.start);
    }
}

fn queue(drive: &Device) -> Queue {
    drive.queue(&QueueOptions::default()).unwrap()
}

fn zone(drive: &Device, number: u32) -> ZoneInfo {
    drive.report(number..=number).unwrap()[0]
}

#[test]
fn zones_that_die_under_appends_are_found_and_nothing_acknowledged_is_lost() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    for (number, (how, state, kind)) in (1..).zip(DEATHS) {
        let info = zone(&drive, number);
        let mut queue = queue(&drive);
        let at = |count| {
            if count == 100 {
                bench.dies(how, &info);
            }
        };
        let load = load(&mut queue, &info, 16, at);
        assert_eq!(load.at_fault().0, kind, "{:?}", load.at_fault());
        assert_eq!(zone(&drive, number).state, state);
        let refused = run(&mut queue, Request::append(number, blocks(1, 1)));
        assert_eq!(refused.result.unwrap_err().kind(), kind);
        match kind {
            ErrorKind::ZoneReadOnly => load.is_all_there(&mut queue),
            _ => {
                let read = run(&mut queue, Request::read_at(info.start, blocks(0, 1)));
                assert_eq!(read.result.unwrap_err().kind(), kind);
            }
        }
        // The others go on, where the device says.
        let other = zone(&drive, 5);
        append(&mut queue, &other, 1, 1);
        let written = written(&bench.disk, other.start);
        assert_eq!(zone(&drive, 5).write_pointer, Some(other.start + written));
        bench.dies(how, &info);
    }
}

/// The drive does not know yet: one command resets all, and leaves out what has died; what came of it is said
/// zone by zone.
#[test]
fn a_reset_of_all_zones_passes_over_those_that_have_just_died() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let mut queue = queue(&drive);
    let zones = [0, 1, 2, 3].map(|number| zone(&drive, number));
    zones.iter().for_each(|zone| assert_eq!(append(&mut queue, zone, 7, 2), zone.start));
    let generations = [0, 3].map(|number| drive.generation(number));
    for (zone, (how, ..)) in zones[1..].iter().zip(DEATHS) {
        bench.dies(how, zone);
    }
    run(&mut queue, Request::reset_all()).result.unwrap();
    let states = [0, 1, 2, 3].map(|number| zone(&drive, number).state);
    let (read_only, offline) = (ZoneState::ReadOnly, ZoneState::Offline);
    assert_eq!(states, [ZoneState::Empty, read_only, offline, ZoneState::Empty]);
    assert_eq!(
        [0, 3].map(|number| drive.generation(number)),
        generations.map(|n| Some(n.unwrap() + 1))
    );
    assert_eq!(read(&mut queue, zones[1].start, 3), [7, 7, 0], "what is read-only is kept");
    for zone in [zones[0], zones[3]] {
        assert_eq!(written(&bench.disk, zone.start), 0);
        assert_eq!(append(&mut queue, &zone, 8, 1), zone.start);
        assert_eq!(read(&mut queue, zone.start, 2), [8, 0]);
    }
    // Now it does know, and resets the others one by one.
    run(&mut queue, Request::reset_all()).result.unwrap();
    let states = [0, 1, 2, 3].map(|number| zone(&drive, number).state);
    assert_eq!(states, [ZoneState::Empty, read_only, offline, ZoneState::Empty]);
    for (zone, (how, ..)) in zones[1..].iter().zip(DEATHS) {
        bench.dies(how, zone);
    }
}

#[test]
fn a_zone_found_read_only_can_be_read_and_one_found_offline_cannot() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zones = [1, 2].map(|number| zone(&drive, number));
    let mut writer = queue(&drive);
    zones.iter().for_each(|zone| assert_eq!(append(&mut writer, zone, 7, 2), zone.start));
    drop(writer);
    drive.close().unwrap();
    for (zone, (how, ..)) in zones.iter().zip(DEATHS) {
        bench.dies(how, zone);
    }
    let drive = bench.open();
    let found = [1, 2].map(|number| zone(&drive, number).state);
    assert_eq!(found, [ZoneState::ReadOnly, ZoneState::Offline]);
    let mut queue = queue(&drive);
    assert_eq!(read(&mut queue, zones[0].start, 2), [7, 7]);
    let offline = run(&mut queue, Request::read_at(zones[1].start, blocks(0, 1)));
    assert_eq!(offline.result.unwrap_err().kind(), ErrorKind::ZoneOffline);
    for (zone, (how, ..)) in zones.iter().zip(DEATHS) {
        bench.dies(how, zone);
    }
}
