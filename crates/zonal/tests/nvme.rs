//! A zoned NVMe namespace by its commands, on a real kernel: appends that land where the device says, in
//! any order, and what others do to it. Runs on the generic device that `ZONAL_NVME` names, of a drive as
//! QEMU makes it (`guest/run`), which it empties; with the block device of the same namespace in
//! `ZONAL_NVME_BLOCK` for the others. With `ZONAL_HIPRI` all queues ask the device for completions.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod blkzone;
mod one_by_one;

use blkzone::{blkzone, written};
use one_by_one::{BLOCK, append, blocks, read, run};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions as Opening};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use zonal::{
    Completion, Device, EngineChoice, ErrorKind, Flags, OpenOptions, Queue, QueueOptions, Request,
    Target, ZoneInfo, ZoneState,
};

/// The namespace, which one test has at a time.
struct Bench {
    generic: PathBuf,
    block: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// Empty; none, having said so, where there is none.
    fn new() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let path = |variable| std::env::var_os(variable).map(PathBuf::from);
        let (Some(generic), Some(block)) = (path("ZONAL_NVME"), path("ZONAL_NVME_BLOCK")) else {
            println!("SKIP: ZONAL_NVME and ZONAL_NVME_BLOCK name no devices; guest/run has some");
            return None;
        };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = Self { generic, block, _turn };
        let drive = bench.open();
        let mut queue = drive.queue(&options()).unwrap();
        run(&mut queue, Request::reset_all()).result.unwrap();
        Some(bench)
    }

    fn open(&self) -> Device {
        self.open_with(OpenOptions::default()).unwrap()
    }

    fn open_with(&self, options: OpenOptions) -> zonal::Result<Device> {
        zonal::open(&Target::Path(self.generic.clone()), &options)
    }

    fn blkzone(&self, command: &str, zone: &ZoneInfo) -> String {
        blkzone(command, &self.block, zone.start)
    }

    /// The write pointer by another program's word, in bytes from the zone's start.
    fn written(&self, zone: &ZoneInfo) -> u64 {
        written(&self.block, zone.start)
    }

    /// Another program writes so many blocks at a zone's write pointer.
    fn others_write(&self, zone: &ZoneInfo, count: usize) {
        let other = Opening::new().write(true).custom_flags(libc::O_DIRECT).open(&self.block);
        let at = zone.start + self.written(zone);
        other.unwrap().write_all_at(&blocks(9, count), at).unwrap();
    }
}

fn options() -> QueueOptions {
    QueueOptions { hipri: std::env::var_os("ZONAL_HIPRI").is_some(), ..QueueOptions::default() }
}

fn zone(drive: &Device, number: u32) -> ZoneInfo {
    drive.report(number..=number).unwrap()[0]
}

fn pointer(drive: &Device, zone: &ZoneInfo) -> u64 {
    drive.report(zone.zone..=zone.zone).unwrap()[0].write_pointer.unwrap() - zone.start
}

/// Appends records of one to eight blocks, `depth` at a time, and says where each landed: its first
/// byte's offset, its byte, its blocks.
fn appended(queue: &mut Queue, zone: u32, depth: usize, records: u64) -> Vec<(u64, u8, usize)> {
    let mut sent = 0;
    let mut landed = Vec::new();
    while (landed.len() as u64) < records {
        while sent < records && queue.in_flight() < depth {
            let data = blocks(sent as u8, 1 + (sent % 8) as usize);
            queue.push(Request::append(zone, data).tag(sent)).unwrap();
            sent += 1;
        }
        queue.submit_and_wait(1).unwrap();
        while let Some(Completion { tag, result, offset, .. }) = queue.next_completion() {
            let bytes = result.unwrap() as usize;
            assert_eq!(bytes, (1 + (tag % 8) as usize) * BLOCK);
            landed.push((offset, tag as u8, bytes / BLOCK));
        }
    }
    landed
}

/// Records lie side by side from the zone's start on, and are there.
fn are_all_there(queue: &mut Queue, zone: &ZoneInfo, mut landed: Vec<(u64, u8, usize)>) {
    landed.sort_unstable();
    let mut end = zone.start;
    for (offset, byte, count) in landed {
        assert_eq!(offset, end, "neither a gap nor two at one place");
        assert_eq!(read(queue, offset, count), vec![byte; count]);
        end += (count * BLOCK) as u64;
    }
}

#[test]
fn many_queues_append_to_one_zone_at_once() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 1);
    for depth in [1, 8, 64] {
        let landed = thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|_| {
                    let options = QueueOptions { depth: 64, ..options() };
                    let drive = &drive;
                    scope
                        .spawn(move || appended(&mut drive.queue(&options).unwrap(), 1, depth, 150))
                })
                .collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        let mut queue = drive.queue(&options()).unwrap();
        let written = landed.iter().map(|&(_, _, count)| (count * BLOCK) as u64).sum::<u64>();
        assert_eq!(bench.written(&zone), written);
        assert_eq!(pointer(&drive, &zone), written);
        are_all_there(&mut queue, &zone, landed);
        run(&mut queue, Request::reset(1)).result.unwrap();
    }
    let metrics = drive.metrics();
    assert_eq!((metrics.failed, metrics.foreign, metrics.repeated), (0, 0, 0));
    drive.close().unwrap();
}

#[test]
fn a_zone_is_filled_to_its_end_by_appends_in_flight() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 2);
    let most = drive.limits().append_bytes_max as usize;
    let mut queue = drive.queue(&QueueOptions { buffer_bytes: 0, ..options() }).unwrap();
    let records = zone.capacity as usize / most;
    for _ in 0..=records {
        queue.push(Request::append(2, blocks(5, most / BLOCK))).unwrap();
    }
    queue.submit_and_wait(records + 1).unwrap();
    let results: Vec<_> = std::iter::from_fn(|| queue.next_completion())
        .map(|completion| completion.result)
        .collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), records);
    let refused = results.into_iter().find_map(Result::err).unwrap();
    assert_eq!(refused.kind(), ErrorKind::ZoneFull);
    assert_eq!(drive.report(2..=2).unwrap()[0].state, ZoneState::Full);
    assert!(bench.blkzone("report", &zone).contains("zcond:14(fu)"));
    assert_eq!(read(&mut queue, zone.start + zone.capacity - BLOCK as u64, 1), [5]);
}

#[test]
fn ordered_appends_land_as_they_were_submitted() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&options()).unwrap();
    let long = drive.limits().append_bytes_max as usize / BLOCK * 9 + 1;
    let mut order = Vec::new();
    for n in 0..40 {
        // One of them is longer than an append, and than a command.
        let count = if n == 20 { long } else { 1 + n % 3 };
        queue.push(Request::append_ordered(0, blocks(n as u8, count)).tag(n as u64)).unwrap();
        order.extend(vec![n as u8; count]);
    }
    queue.submit_and_wait(40).unwrap();
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
        assert_eq!(completion.offset % BLOCK as u64, 0);
    }
    assert_eq!(read(&mut queue, zone.start, order.len()), order);
    assert_eq!(bench.written(&zone), (order.len() * BLOCK) as u64);
}

#[test]
fn ordered_and_other_appends_of_several_queues_mingle() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 3);
    let together = Barrier::new(4);
    let found = thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let (drive, together) = (&drive, &together);
                scope.spawn(move || {
                    let mut queue = drive.queue(&options()).unwrap();
                    let mut found = Vec::new();
                    together.wait();
                    for round in 0..8 {
                        for n in round * 8..round * 8 + 8 {
                            let data = blocks(writer << 6 | n, 1);
                            let request = match writer {
                                0 | 1 => Request::append_ordered(3, data),
                                _ => Request::append(3, data),
                            };
                            queue.push(request.tag(n.into())).unwrap();
                        }
                        queue.submit_and_wait(8).unwrap();
                        while let Some(completion) = queue.next_completion() {
                            completion.result.unwrap();
                            found.push((completion.tag as u8, completion.offset));
                        }
                    }
                    found.sort_unstable();
                    let ordered = found.is_sorted_by_key(|&(_, offset)| offset);
                    assert!(ordered || writer > 1, "{writer}: {found:?}");
                    found.into_iter().map(move |(n, offset)| (offset, writer << 6 | n))
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<BTreeMap<_, _>>()
    });
    assert_eq!(found.len(), 256, "no two at one place");
    let mut queue = drive.queue(&options()).unwrap();
    let bytes: Vec<_> = found.into_values().collect();
    assert_eq!(read(&mut queue, zone.start, 256), bytes);
}

#[test]
fn plain_writes_go_where_they_are_told_and_durable_ones_are() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 5);
    let mut queue = drive.queue(&options()).unwrap();
    for n in 0..30_u64 {
        let data = blocks(n as u8, 1);
        queue.push(Request::write_at(zone.start + n * BLOCK as u64, data)).unwrap();
    }
    queue.push(Request::append(5, blocks(30, 1)).fua()).unwrap();
    queue.submit_and_wait(31).unwrap();
    let mut durable = 0;
    while let Some(completion) = queue.next_completion() {
        completion.result.unwrap();
        durable += u32::from(completion.flags.contains(Flags::DURABLE));
    }
    assert_eq!(durable, 1);
    let written: Vec<_> = (0..=30).collect();
    assert_eq!(read(&mut queue, zone.start, 31), written);
    let next = zone.start + 31 * BLOCK as u64;
    let completion = run(&mut queue, Request::write_at(next, blocks(31, 2)).fua());
    assert!(completion.result.is_ok() && completion.flags.contains(Flags::DURABLE));
    run(&mut queue, Request::flush()).result.unwrap();
    assert_eq!(bench.written(&zone), 33 * BLOCK as u64);
}

#[test]
fn all_zones_are_reset_whatever_their_state() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let mut queue = drive.queue(&options()).unwrap();
    append(&mut queue, &zone(&drive, 4), 1, 1);
    run(&mut queue, Request::finish(5)).result.unwrap();
    run(&mut queue, Request::open(6)).result.unwrap();
    run(&mut queue, Request::reset_all()).result.unwrap();
    for zone in drive.report(..).unwrap() {
        assert_eq!(zone.state, ZoneState::Empty, "{zone:?}");
        assert_eq!((pointer(&drive, &zone), bench.written(&zone)), (0, 0), "{zone:?}");
    }
    assert_eq!(drive.zones_in_use(), (0, 0));
    let zone = zone(&drive, 4);
    assert_eq!(append(&mut queue, &zone, 3, 1), zone.start);
    assert_eq!(read(&mut queue, zone.start, 2), [3, 0]);
}

/// Where an append lands the device says, so one that is on its way while a reset is would not be lost, but
/// taken for another program's.
#[test]
fn a_reset_of_all_zones_waits_for_appends_in_flight_and_holds_up_the_next() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let mut appends = 0;
    thread::scope(|scope| {
        let resetter = scope.spawn(|| {
            let mut resets = drive.queue(&options()).unwrap();
            for _ in 0..20 {
                run(&mut resets, Request::reset_all()).result.unwrap();
            }
        });
        let mut queue = drive.queue(&QueueOptions { depth: 32, ..options() }).unwrap();
        while !resetter.is_finished() {
            while queue.in_flight() < 32 {
                let data = blocks(appends as u8, 1);
                queue.push(Request::append((appends % 3) as u32, data).tag(appends)).unwrap();
                appends += 1;
            }
            queue.submit_and_wait(1).unwrap();
            while let Some(completion) = queue.next_completion() {
                completion.result.unwrap();
            }
        }
    });
    let metrics = drive.metrics();
    assert_eq!((metrics.failed, metrics.foreign), (0, 0), "{metrics:?}");
    for zone in drive.report(0..3).unwrap() {
        assert_eq!(pointer(&drive, &zone), bench.written(&zone), "{zone:?}");
    }
}

#[test]
fn an_append_over_the_limit_is_refused_before_it_goes_out() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let limit = drive.limits().append_bytes_max as usize;
    assert_eq!(limit, 128 << 10, "the drive's ZASL of 5");
    let mut queue = drive.queue(&options()).unwrap();
    let completion = run(&mut queue, Request::append(0, blocks(1, limit / BLOCK + 1)));
    assert_eq!(completion.result.unwrap_err().kind(), ErrorKind::AppendTooLarge);
    assert!(completion.flags.contains(Flags::REFUSED));
    let whole = run(&mut queue, Request::append(0, blocks(1, limit / BLOCK)));
    assert_eq!(whole.result.unwrap() as usize, limit);
}

#[test]
fn a_zone_that_another_program_resets_is_noticed_and_gone_on_with() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&options()).unwrap();
    append(&mut queue, &zone, 1, 3);
    bench.blkzone("reset", &zone);
    // It lands, and its answer is the truth: so it is no error, but others are found out.
    assert_eq!(append(&mut queue, &zone, 2, 1), zone.start);
    assert_eq!((drive.metrics().foreign, drive.generation(0)), (1, Some(1)));
    assert_eq!(pointer(&drive, &zone), BLOCK as u64);
    assert_eq!(read(&mut queue, zone.start, 3), [2, 0, 0], "nothing of the earlier life");
    assert_eq!(append(&mut queue, &zone, 3, 2), zone.start + BLOCK as u64);
    assert_eq!(bench.written(&zone), pointer(&drive, &zone));
    assert_eq!(drive.metrics().failed, 0);
}

#[test]
fn a_reset_under_many_appends_leaves_what_is_acknowledged_and_there() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&options()).unwrap();
    let before = appended(&mut queue, 0, 32, 64);
    bench.blkzone("reset", &zone);
    let since = appended(&mut queue, 0, 32, 64);
    assert_eq!(before.len(), since.len());
    assert_eq!((drive.metrics().foreign, drive.generation(0)), (1, Some(1)));
    assert_eq!(bench.written(&zone), pointer(&drive, &zone));
    are_all_there(&mut queue, &zone, since);
}

#[test]
fn what_another_program_writes_is_found_and_kept() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&options()).unwrap();
    append(&mut queue, &zone, 1, 1);
    bench.others_write(&zone, 2);
    assert_eq!(append(&mut queue, &zone, 2, 1), zone.start + 3 * BLOCK as u64);
    assert_eq!((drive.metrics().foreign, drive.generation(0)), (1, Some(0)));
    assert_eq!(pointer(&drive, &zone), 4 * BLOCK as u64);
    assert_eq!(read(&mut queue, zone.start, 5), [1, 9, 9, 2, 0]);
    assert_eq!(bench.written(&zone), pointer(&drive, &zone));
}

#[test]
fn a_plain_write_that_another_has_forestalled_fails_and_says_so() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&options()).unwrap();
    run(&mut queue, Request::write_at(zone.start, blocks(1, 1))).result.unwrap();
    bench.others_write(&zone, 1);
    let next = zone.start + BLOCK as u64;
    let error = run(&mut queue, Request::write_at(next, blocks(2, 1))).result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAtWritePointer);
    assert!(error.to_string().contains("another program has changed the zone"), "{error}");
    let next = zone.start + pointer(&drive, &zone);
    run(&mut queue, Request::write_at(next, blocks(2, 1))).result.unwrap();
    assert_eq!(read(&mut queue, zone.start, 3), [1, 9, 2]);
}

#[test]
fn a_failed_append_takes_nothing_acknowledged_with_it() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let zone = zone(&drive, 0);
    let mut queue = drive.queue(&options()).unwrap();
    let landed = appended(&mut queue, 0, 16, 32);
    // Behind our back the zone becomes full: appends fail from now on.
    bench.blkzone("finish", &zone);
    for n in 0..16 {
        queue.push(Request::append(0, blocks(n, 1))).unwrap();
    }
    queue.submit_and_wait(16).unwrap();
    while let Some(completion) = queue.next_completion() {
        let error = completion.result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ZoneFull, "{error}");
    }
    assert_eq!(zone_state(&drive), ZoneState::Full);
    are_all_there(&mut queue, &zone, landed);
    // The drive goes on, there and elsewhere.
    run(&mut queue, Request::reset(0)).result.unwrap();
    assert_eq!(append(&mut queue, &zone, 7, 1), zone.start);
    drop(queue);
    drive.close().unwrap();
}

fn zone_state(drive: &Device) -> ZoneState {
    drive.report(0..=0).unwrap()[0].state
}

#[test]
fn limits_on_zones_that_others_use_up_are_said_in_the_device_s_words() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let max = drive.limits().max_active_zones.unwrap();
    let mut queue = drive.queue(&options()).unwrap();
    // As many zones as can be active are, and none of them by us.
    for number in 0..max {
        let other = zone(&drive, 8 + number);
        bench.others_write(&other, 1);
    }
    let error = run(&mut queue, Request::append(1, blocks(1, 1))).result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooManyActiveZones, "{error}");
    assert!(error.to_string().contains("Too Many Active Zones"), "{error}");
    assert!(error.to_string().contains("0x1bd"), "{error}");
    let failed = zone(&drive, 1);
    assert_eq!((failed.state, failed.write_pointer), (ZoneState::Empty, Some(failed.start)));
    let opened = run(&mut queue, Request::open(1)).result.unwrap_err();
    assert_eq!(opened.kind(), ErrorKind::TooManyActiveZones, "{opened}");
    bench.blkzone("reset", &zone(&drive, 8));
    assert_eq!(append(&mut queue, &failed, 3, 1), failed.start);
}

#[test]
fn who_writes_keeps_others_away_and_who_reads_does_not() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let block = Target::Path(bench.block.clone());
    for target in [&block, &Target::Path(bench.generic.clone())] {
        let error = zonal::open(target, &OpenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    }
    let alone = |path| Opening::new().read(true).custom_flags(libc::O_EXCL).open(path);
    assert_eq!(alone(&bench.block).unwrap_err().raw_os_error(), Some(libc::EBUSY), "as mount does");
    let mut queue = drive.queue(&options()).unwrap();
    let at = append(&mut queue, &zone(&drive, 0), 4, 1);
    let reader = OpenOptions { read_only: true, ..OpenOptions::default() };
    let reader = bench.open_with(reader).unwrap();
    assert_eq!(read(&mut reader.queue(&options()).unwrap(), at, 1), [4]);
    let refused = run(&mut reader.queue(&options()).unwrap(), Request::reset(0));
    assert_eq!(refused.result.unwrap_err().kind(), ErrorKind::DeviceReadOnly);
    drop(queue);
    drive.close().unwrap();
    drop(alone(&bench.block).unwrap());
    drop(zonal::open(&block, &OpenOptions::default()).unwrap());
    drop(bench.open());
}

/// Zones of no power of two: the kernel makes no block device of them that could be held.
#[test]
fn without_a_block_device_other_sessions_are_kept_away_all_the_same() {
    let Some(path) = std::env::var_os("ZONAL_NVME_ODD").map(PathBuf::from) else {
        println!("SKIP: ZONAL_NVME_ODD names no device; guest/run has one");
        return;
    };
    let target = Target::Path(path);
    let open =
        |read_only| zonal::open(&target, &OpenOptions { read_only, ..OpenOptions::default() });
    let drive = open(false).unwrap();
    assert!(!drive.geometry().zone_size.is_power_of_two());
    let mut queue = drive.queue(&options()).unwrap();
    run(&mut queue, Request::reset_all()).result.unwrap();
    let second = zone(&drive, 1);
    assert_eq!(append(&mut queue, &second, 6, 2), drive.geometry().zone_size);
    let error = open(false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("another session of zonal writes to it"), "{error}");
    let mut reader = open(true).unwrap().queue(&options()).unwrap();
    assert_eq!(read(&mut reader, second.start, 2), [6, 6]);
    drop(queue);
    drive.close().unwrap();
    open(false).unwrap().close().unwrap();
}

#[test]
fn what_pass_through_cannot_do_is_refused_by_name() {
    let Some(bench) = Bench::new() else { return };
    let threads = OpenOptions { engine: EngineChoice::Threads, ..OpenOptions::default() };
    let error = bench.open_with(threads).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("name the block device /dev/nvme"), "{error}");
    let planned = Target::Path(bench.generic.clone()).with_faults("seed=1".parse().unwrap());
    let error = zonal::open(&planned, &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let drive = bench.open();
    let error = drive.set_condition(0, ZoneState::Offline).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// Which of the two it is the guest decides, by the driver's module parameter.
#[test]
fn completions_are_asked_for_where_the_driver_has_queues_for_that_and_refused_elsewhere() {
    let Some(bench) = Bench::new() else { return };
    let drive = bench.open();
    let block = bench.block.file_name().unwrap().display();
    let setting = format!("/sys/block/{block}/queue/io_poll");
    let value = std::fs::read_to_string(&setting).unwrap();
    match drive.queue(&QueueOptions { hipri: true, ..QueueOptions::default() }) {
        Ok(mut queue) => {
            assert_eq!(value, "1\n");
            let zone = zone(&drive, 1);
            assert_eq!(append(&mut queue, &zone, 7, 1), zone.start);
        }
        Err(refused) => {
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
            let why = std::error::Error::source(&refused).unwrap().to_string();
            assert!(why.contains("leave hipri out"), "{why}");
            match &*value {
                "0\n" => {
                    assert!(why.contains(&format!("{setting} is 0")), "{why}");
                    assert!(why.contains("nvme.poll_queues=2"), "{why}");
                }
                _ => assert!(why.contains("it takes Linux 6.5"), "{why}"),
            }
        }
    }
    // The drive is none the worse for either.
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    append(&mut queue, &zone(&drive, 2), 8, 1);
}

/// What is no namespace at all; this needs none.
#[test]
fn what_is_no_namespace_is_refused_by_name() {
    if File::open("/sys/dev/char").is_err() {
        println!("SKIP: sysfs is not mounted");
        return;
    }
    let error =
        zonal::open(&Target::Path("/dev/null".into()), &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotZoned);
    assert!(error.to_string().contains("no NVMe namespace"), "{error}");
}
