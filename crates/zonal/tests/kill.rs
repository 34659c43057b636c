//! A writer killed with SIGKILL, again and again: everything it said it had is there, whole, at
//! its place, and nothing of an earlier life of a zone can be read.
//!
//! The writer is this test's own binary. It prints each event in one write: `rec` once a record
//! is acknowledged, `reset`/`reset-done` and `finish`/`finish-done` before an operation is
//! submitted and after it has completed. Every block of a record carries its zone, the zone's
//! life, and the record's number, so that the reader can tell what it sees.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "foreign/mod.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod foreign;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use zonal::{
    AdoptOptions, CheckOptions, CreateOptions, Device, EngineChoice, Geometry, OpenOptions,
    Preallocate, Queue, QueueOptions, Request, Target, ZoneState,
};

const BLOCK: usize = 4096;
const ZONES: u32 = 8;
const ZONE_BYTES: u64 = 1 << 20;
const CHILD: &str = "ZONAL_KILL_CHILD";
const LIVES: &str = "ZONAL_KILL_LIVES";
const THREADS: &str = "ZONAL_KILL_OVER_THREADS";

/// How often the writer is killed; `ZONAL_KILLS` says otherwise.
const KILLS: u64 = 200;

struct Random(u64);

impl Random {
    /// xorshift64*.
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

fn geometry() -> Geometry {
    Geometry {
        zone_size: ZONE_BYTES,
        zone_capacity: ZONE_BYTES,
        max_append: 64 << 10,
        ..Geometry::with_size(u64::from(ZONES) * ZONE_BYTES)
    }
}

/// What a block says of itself: zone, life, record, block of the record, blocks of it.
type Stamp = [u64; 5];

fn stamp(block: &mut [u8], stamp: Stamp) {
    for words in block.chunks_exact_mut(40) {
        for (word, value) in words.chunks_exact_mut(8).zip(stamp) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    let tail = block.len() / 40 * 40;
    block[tail..].fill(0xA5);
}

/// The stamp of a block, `None` for zeros.
fn stamp_of(block: &[u8], place: &str) -> Option<Stamp> {
    if block.iter().all(|&byte| byte == 0) {
        return None;
    }
    let mut found = [0; 5];
    for (value, word) in found.iter_mut().zip(block.chunks_exact(8)) {
        *value = u64::from_le_bytes(word.try_into().unwrap());
    }
    let mut whole = vec![0; BLOCK];
    stamp(&mut whole, found);
    assert!(whole == block, "a torn block at {place}");
    Some(found)
}

// ---- the writer -----------------------------------------------------------------------------

/// Not a test of its own: the writer, when the test below starts it.
#[test]
fn writer() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let lives = std::env::var(LIVES).unwrap();
    let mut lives: Vec<u64> = lives.split(',').map(|life| life.parse().unwrap()).collect();
    let threads = std::env::var_os(THREADS).is_some();
    let engine = if threads { EngineChoice::Threads } else { EngineChoice::Auto };
    let options = OpenOptions { engine, ..OpenOptions::default() };
    let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
    let mut queue = drive.queue(&QueueOptions { depth: 32, ..QueueOptions::default() }).unwrap();
    let mut random = Random(u64::from(std::process::id()) << 20 | 1);
    for record in 0_u64.. {
        let zone = random.next(ZONES.into()) as u32;
        match random.next(200) {
            0 => operate(&mut queue, "finish", zone, Request::finish(zone)),
            1 => drop(run(&mut queue, Request::flush())),
            2..=4 => {
                lives[zone as usize] += 1;
                operate(&mut queue, "reset", zone, Request::reset(zone));
            }
            _ => append(&mut queue, &mut random, zone, lives[zone as usize], record),
        }
    }
}

fn append(queue: &mut Queue, random: &mut Random, zone: u32, life: u64, record: u64) {
    let blocks = 1 + random.next(4);
    let Some(mut buffer) = queue.buffer(blocks as usize * BLOCK) else {
        queue.submit_and_wait(8).unwrap();
        return say_completions(queue);
    };
    for (n, block) in (0..).zip(buffer.chunks_exact_mut(BLOCK)) {
        stamp(block, [zone.into(), life, record, n, blocks]);
    }
    let tag = u64::from(zone) << 48 | record << 8 | blocks;
    queue.push(Request::append(zone, buffer).tag(tag)).unwrap();
    if random.next(6) == 0 {
        queue.submit().unwrap();
        say_completions(queue);
    }
}

fn say(line: &str) {
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

fn say_completions(queue: &mut Queue) {
    let mut lines = String::new();
    while let Some(completion) = queue.next_completion() {
        if completion.result.is_ok() && completion.tag != 0 {
            let (zone, record) = (completion.tag >> 48, completion.tag >> 8 & 0xFF_FFFF_FFFF);
            let (blocks, offset) = (completion.tag & 0xFF, completion.offset);
            lines += &format!("\nrec {zone} {record} {offset} {blocks}\n");
        }
    }
    say(&lines);
}

/// Drains the queue first, so that each record is said before what makes it void.
fn operate(queue: &mut Queue, name: &str, zone: u32, request: Request) {
    queue.submit_and_wait(usize::MAX).unwrap();
    say_completions(queue);
    say(&format!("\n{name} {zone}\n"));
    if run(queue, request).is_ok() {
        say(&format!("\n{name}-done {zone}\n"));
    }
}

fn run(queue: &mut Queue, request: Request) -> zonal::Result<u32> {
    queue.submit_and_wait(usize::MAX).unwrap();
    say_completions(queue);
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().result
}

// ---- the reader -----------------------------------------------------------------------------

/// What the writer said of a zone.
#[derive(Clone, Debug, Default)]
struct Said {
    /// Records of its present life: number, offset, blocks.
    records: Vec<(u64, u64, u64)>,
    life: u64,
    /// A reset was submitted, and is not known to be done.
    resetting: bool,
    finished: bool,
}

fn listen(path: &Path, said: &mut [Said], threads: bool, kill_after: Duration) {
    let lives: Vec<_> = said.iter().map(|zone| zone.life.to_string()).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .envs(threads.then_some((THREADS, "1")))
        .args(["writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .env(LIVES, lives.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        stdout.read_to_end(&mut said).unwrap();
        said
    });
    std::thread::sleep(kill_after);
    child.kill().unwrap();
    child.wait().unwrap();
    let heard = String::from_utf8(reader.join().unwrap()).unwrap();
    // What follows the last newline may have been cut off.
    let whole = heard.rfind('\n').map_or("", |end| &heard[..end]);
    for line in whole.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<u64>().unwrap();
        match words[0] {
            "rec" => said[number(1) as usize].records.push((number(2), number(3), number(4))),
            "reset" => {
                let zone = &mut said[number(1) as usize];
                zone.resetting = true;
                zone.life += 1;
            }
            "reset-done" => {
                let zone = &mut said[number(1) as usize];
                *zone = Said { life: zone.life, ..Said::default() };
            }
            "finish-done" => said[number(1) as usize].finished = true,
            _ => {}
        }
    }
}

fn verify(drive: &Device, said: &mut [Said]) -> usize {
    let mut queue = drive
        .queue(&QueueOptions {
            depth: 1,
            buffer_bytes: ZONE_BYTES as usize,
            ..QueueOptions::default()
        })
        .unwrap();
    let mut found = 0;
    for (zone, said) in drive.report(..).unwrap().iter().zip(said) {
        let into = queue.buffer(ZONE_BYTES as usize).unwrap();
        queue.push(Request::read_at(zone.start, into)).unwrap();
        queue.submit_and_wait(1).unwrap();
        let bytes = queue.next_completion().unwrap().buffer.unwrap();
        let written = (zone.write_pointer.unwrap() - zone.start) as usize;
        let stamps: Vec<_> = (0..)
            .zip(bytes.chunks_exact(BLOCK))
            .map(|(n, block)| stamp_of(block, &format!("zone {} block {n}", zone.zone)))
            .collect();
        assert!(stamps[written / BLOCK..].iter().all(Option::is_none), "data above the wp");
        let lives: Vec<u64> = stamps.iter().flatten().map(|stamp| stamp[1]).collect();
        // A reset that was not said to be done may have happened or not; nothing of the new life
        // was written before.
        let oldest = said.life - u64::from(said.resetting);
        for life in lives {
            assert!(life >= oldest && life <= said.life, "life {life} where {} is", said.life);
        }
        records_are_whole(&stamps, zone.zone);
        if said.resetting {
            if zone.state == ZoneState::Empty {
                *said = Said { life: said.life, ..Said::default() };
            } else {
                (said.life, said.resetting) = (oldest, false);
                found += said_is_there(said, &stamps, zone.start);
            }
            continue;
        }
        found += said_is_there(said, &stamps, zone.start);
        assert!(!said.finished || zone.state == ZoneState::Full, "zone {} finished", zone.zone);
    }
    found
}

fn said_is_there(said: &Said, stamps: &[Option<Stamp>], start: u64) -> usize {
    for &(record, offset, blocks) in &said.records {
        let first = ((offset - start) / BLOCK as u64) as usize;
        for n in 0..blocks {
            let stamp = stamps[first + n as usize].expect("an acknowledged record is gone");
            let place = format!("offset {offset} of {said:?}");
            assert_eq!((stamp[1], stamp[2], stamp[3]), (said.life, record, n), "{place}");
        }
    }
    said.records.len()
}

fn records_are_whole(stamps: &[Option<Stamp>], zone: u32) {
    let mut at = 0;
    while at < stamps.len() {
        let Some([of, life, record, 0, blocks]) = stamps[at] else {
            assert!(stamps[at].is_none(), "a record's middle at block {at} of zone {zone}");
            at += 1;
            continue;
        };
        assert_eq!(of, u64::from(zone));
        for n in 0..blocks {
            assert_eq!(stamps[at + n as usize], Some([of, life, record, n, blocks]), "torn");
        }
        at += blocks as usize;
    }
}

/// Writes every zone full of what no record looks like, and resets it.
fn fill_with_a_marker(path: &Path) {
    let drive = zonal::open(&Target::Path(path.into()), &OpenOptions::default()).unwrap();
    let options = QueueOptions { buffer_bytes: ZONE_BYTES as usize, ..QueueOptions::default() };
    let mut queue = drive.queue(&options).unwrap();
    for zone in 0..ZONES {
        let mut marker = queue.buffer(ZONE_BYTES as usize).unwrap();
        marker.fill(0xEE);
        run(&mut queue, Request::append_ordered(zone, marker)).unwrap();
    }
    run(&mut queue, Request::flush()).unwrap();
    run(&mut queue, Request::reset_all()).unwrap();
    drop(queue);
    drive.close().unwrap();
}

#[test]
fn a_killed_writer_loses_nothing_it_said_and_shows_nothing_older() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path: PathBuf = folder.path().join("disk.qcow2");
    let options = CreateOptions {
        geometry: geometry(),
        preallocate: Preallocate::Off,
        force: false,
        progress: None,
    };
    zonal::create(&path, options).unwrap();
    fill_with_a_marker(&path);
    kill_again_and_again(&path, kills());
}

#[test]
fn a_killed_writer_of_an_adopted_image_loses_nothing_either() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Each image is killed a few times only: zones get their clusters when they are new.
    for n in 0..kills().div_ceil(20) {
        let path: PathBuf = folder.path().join(format!("disk-{n}.qcow2"));
        let options = AdoptOptions {
            zone_size: Some(ZONE_BYTES),
            max_append: Some(64 << 10),
            ..AdoptOptions::default()
        };
        let size = u64::from(ZONES) * ZONE_BYTES;
        if foreign::adopted(&path, size, 4096 << (n % 5), options).is_none() {
            return;
        }
        kill_again_and_again(&path, 4);
        foreign::as_qemu_reads_it_after_a_kill(&path);
    }
}

fn kills() -> u64 {
    std::env::var("ZONAL_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

fn kill_again_and_again(path: &Path, kills: u64) {
    let mut random = Random(0x5EED);
    let mut said = vec![Said::default(); ZONES as usize];
    let (mut recoveries, mut found) = (0, 0);
    for n in 0..kills {
        // Over both engines in turn: what one left, the other finds.
        listen(path, &mut said, n % 2 == 1, Duration::from_millis(15 + random.next(90)));
        // Sometimes only a reader looks, and the next writer finds what this one left.
        let read_only = n % 3 == 1;
        let options = OpenOptions { read_only, ..OpenOptions::default() };
        let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
        recoveries += usize::from(drive.info().recovered.is_some());
        found += verify(&drive, &mut said);
        if n % 3 == 0 {
            drive.close().unwrap();
        } else {
            drop(drive);
        }
        let report = zonal::check(path, &CheckOptions { deep: false }).unwrap();
        let leak = |finding: &&zonal::Finding| finding.severity == zonal::Severity::Warning;
        let errors: Vec<_> = report.findings.iter().filter(|finding| !leak(finding)).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    println!("{kills} kills, {recoveries} recoveries, {found} records found again");
    assert!(recoveries > 0 && found > 0);
}
