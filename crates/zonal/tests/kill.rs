//! A writer killed with SIGKILL, again and again: everything it said it had is there, whole, at
//! its place, and nothing of an earlier life of a zone can be read.
//!
//! The writer is this test's own binary under a mixed load (see [`load`]).

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "foreign/mod.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod foreign;
mod load;

use load::said::{Expect, Promise, Said};
use load::{Leashed, Load, Random, Temper, ZONE_BYTES, ZONES};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use zonal::{
    AdoptOptions, CheckOptions, CreateOptions, EngineChoice, OpenOptions, Preallocate, Target,
};

const CHILD: &str = "ZONAL_KILL_CHILD";
const LIVES: &str = "ZONAL_KILL_LIVES";
const THREADS: &str = "ZONAL_KILL_OVER_THREADS";

/// How often the writer is killed; `ZONAL_KILLS` says otherwise.
const KILLS: u64 = 150;

/// What a writer says first, and how long it may take until then.
const BEGUN: &str = "begun";
const PATIENCE: Duration = Duration::from_secs(60);

/// Of a thousand requests so many are flushes, and of a thousand writes so many are durable ones.
const FLUSHES: u64 = 10;

/// Not a test of its own: the writer, when the test below starts it.
#[test]
fn writer() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let lives = std::env::var(LIVES).unwrap();
    let threads = std::env::var_os(THREADS).is_some();
    let engine = if threads { EngineChoice::Threads } else { EngineChoice::Auto };
    let options = OpenOptions { engine, ..OpenOptions::default() };
    let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
    let load = Load {
        drive: &drive,
        lives: lives.split(',').map(|life| life.parse().unwrap()).collect(),
        seed: std::process::id().into(),
        flushes: FLUSHES,
        temper: Temper::Strict,
        say: &|lines| load::say_to(std::io::stdout().lock(), lines),
        goes_on: &|| true,
    };
    load::say_to(std::io::stdout().lock(), &format!("\n{BEGUN}\n"));
    load.run();
}

/// When a writer is killed.
#[derive(Clone, Copy)]
enum When {
    /// So long after it was started: while it opens the image, as a rule.
    Early(Duration),
    /// So long after it began to write.
    Late(Duration),
}

fn listen(path: &Path, said: &mut Said, threads: bool, when: When) {
    let lives: Vec<_> = said.lives().iter().map(u64::to_string).collect();
    let child = Command::new(std::env::current_exe().unwrap())
        .envs(threads.then_some((THREADS, "1")))
        .args(["writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .env(LIVES, lives.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Leashed(child);
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    let (begins, begun) = channel();
    let reader = std::thread::spawn(move || {
        let (mut said, mut line) = (Vec::new(), String::new());
        while stdout.read_line(&mut line).unwrap() > 0 {
            if line.trim_end() == BEGUN {
                let _ = begins.send(());
            }
            said.push(std::mem::take(&mut line));
        }
        said
    });
    match when {
        When::Early(after) => std::thread::sleep(after),
        When::Late(after) => {
            begun.recv_timeout(PATIENCE).expect("a writer that never begins");
            std::thread::sleep(after);
        }
    }
    child.0.kill().unwrap();
    let status = child.0.wait().unwrap();
    let heard = reader.join().unwrap();
    assert_eq!(status.signal(), Some(9), "the writer found a mistake itself");
    // The last line may have been cut off.
    heard.iter().filter_map(|line| line.strip_suffix('\n')).for_each(|line| said.hear(line));
}

#[test]
fn a_killed_writer_loses_nothing_it_said_and_shows_nothing_older() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path: PathBuf = folder.path().join("disk.qcow2");
    let options = CreateOptions {
        geometry: load::geometry(),
        preallocate: Preallocate::Off,
        force: false,
        progress: None,
    };
    zonal::create(&path, options).unwrap();
    let drive = zonal::open(&Target::Path(path.clone()), &OpenOptions::default()).unwrap();
    load::fill_with_a_marker(drive);
    let (recoveries, found) = kill_again_and_again(&path, kills(), 0);
    assert!(recoveries > 0 && found > 0);
}

#[test]
fn a_killed_writer_of_an_adopted_image_loses_nothing_either() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut all = (0, 0);
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
        let (recoveries, found) = kill_again_and_again(&path, 4, n);
        all = (all.0 + recoveries, all.1 + found);
        foreign::as_qemu_reads_it_after_a_kill(&path);
    }
    assert!(all.0 > 0 && all.1 > 0);
}

fn kills() -> u64 {
    std::env::var("ZONAL_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// Returns how often a session was recovered, and how many records were found again.
fn kill_again_and_again(path: &Path, kills: u64, seed: u64) -> (usize, usize) {
    let mut random = Random::new(0x5EED << 8 | seed << 1);
    let mut said = Said::nothing();
    let expect = Expect { promise: Promise::Acknowledged, zeros: true };
    let (mut recoveries, mut found) = (0, 0);
    for n in 0..kills {
        // Over both engines in turn: what one left, the other finds.
        let millis = Duration::from_millis;
        let when = match random.next(4) {
            0 => When::Early(millis(5 + random.next(40))),
            _ => When::Late(millis(random.next(90))),
        };
        listen(path, &mut said, n % 2 == 1, when);
        // Sometimes only a reader looks, and the next writer finds what this one left.
        let read_only = n % 3 == 1;
        let options = OpenOptions { read_only, ..OpenOptions::default() };
        let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
        recoveries += usize::from(drive.info().recovered.is_some());
        found += said.verify(&drive, expect);
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
    (recoveries, found)
}
