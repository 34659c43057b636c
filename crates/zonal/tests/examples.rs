//! The programs in `examples` do what they say.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use zonal::{CreateOptions, Geometry, OpenOptions, Preallocate, QueueOptions, Request, Target};

const GUIDE: &str = include_str!("../../../docs/guides/testing-with-faults.md");

/// An example's program. Cargo builds them beside the tests, but not for one suite by itself.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    Command::new(tests.ancestors().nth(2).unwrap().join("examples").join(name))
}

/// Whether they were built.
fn are_built() -> bool {
    let all = ["log_writer", "record_store", "bench_of_ones_own", "append_loop", "fault_hunt"];
    let built = all.iter().all(|name| Path::new(example(name).get_program()).exists());
    if !built {
        eprintln!("SKIP the examples are not built; cargo test --workspace builds them");
    }
    built
}

fn image() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.qcow2");
    let zone = 1 << 20;
    let geometry =
        Geometry { zone_size: zone, zone_capacity: zone, ..Geometry::with_size(8 * zone) };
    let preallocate = Preallocate::Off;
    zonal::create(&path, CreateOptions { geometry, preallocate, force: false, progress: None })
        .unwrap();
    (folder, path)
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_log_keeps_every_line_in_order_across_zones_and_runs() {
    if !are_built() {
        return;
    }
    let (_folder, path) = image();
    let mut expected = String::new();
    for run in 0..2 {
        // More lines than a zone has blocks, some of them empty.
        let lines: String = (0..400)
            .map(|n| if n % 50 == 7 { "\n".into() } else { format!("{run} {n}\n") })
            .collect();
        let mut child = example("log_writer")
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        expected += &lines;
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

#[test]
fn the_store_finds_its_records_again() {
    if !are_built() {
        return;
    }
    let (_folder, path) = image();
    let store = |words: &[&str]| output(example("record_store").arg(&path).args(words));
    store(&["set", "apple", "green"]);
    store(&["set", "plum", "blue"]);
    store(&["set", "apple", "red"]);
    store(&["set", "wall", &"x".repeat(9000)]);
    assert_eq!(store(&["get", "apple"]), "red\n");
    assert_eq!(store(&["get", "wall"]).len(), 9001);
    assert_eq!(store(&["list"]), "apple\nplum\nwall\n");
    let missing = example("record_store").arg(&path).args(["get", "pear"]).output().unwrap();
    assert!(!missing.status.success());
}

/// The hunt for the mistakes of a store, on a file system in memory where there is one: it makes a
/// drive for each seed.
fn hunt(store: &str, seeds: u32) -> std::process::Output {
    let mut command = example("fault_hunt");
    if Path::new("/dev/shm").is_dir() {
        command.env("TMPDIR", "/dev/shm");
    }
    command.args([store, &seeds.to_string()]).output().unwrap()
}

#[test]
fn the_hunt_finds_both_mistakes_and_says_how_to_see_them_again() {
    if !are_built() {
        return;
    }
    for (store, what) in [("early", "was committed"), ("trusting", "was never set, and is there")] {
        let output = hunt(store, 500);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(what) && text.contains("again: TARGET,faults="), "{text}");
        let (_, plan) = text.trim().split_once("faults=").unwrap();
        assert!(!plan.parse::<zonal::faults::FaultPlan>().unwrap().is_empty());
        assert!(GUIDE.contains(&format!("fault_hunt -- {store} 500")));
    }
}

/// `ZONAL_LONG=1` tries all that the guide says.
#[test]
fn the_hunt_finds_nothing_in_the_mended_store() {
    if !are_built() {
        return;
    }
    let long = std::env::var_os("ZONAL_LONG").is_some();
    let output = hunt("mended", if long { 1000 } else { 150 });
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("nothing found"), "{text}");
    assert!(GUIDE.contains("mended: 1000 seeds, nothing found"));
}

#[test]
fn the_benchmark_measures_both_ways() {
    if !are_built() {
        return;
    }
    let run = |target: Option<&Path>| {
        let mut command = example("bench_of_ones_own");
        output(command.args(target).args(["--seconds", "0.05", "--iodepth", "4"]))
    };
    let (_folder, path) = image();
    for text in [run(None), run(Some(&path))] {
        assert!(text.contains("queue: ") && text.contains("handles: "), "{text}");
    }
}

/// The drive's first block.
fn first_block(path: &Path) -> Vec<u8> {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let drive = zonal::open(&Target::Path(path.into()), &options).unwrap();
    let mut queue = drive.queue(&QueueOptions::default()).unwrap();
    let into = queue.buffer(4096).unwrap();
    queue.push(Request::read_at(0, into)).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap().buffer.unwrap().to_vec()
}

#[test]
fn the_loop_erases_nothing_without_both_words() {
    if !are_built() {
        return;
    }
    let (_folder, path) = image();
    output(example("record_store").arg(&path).args(["set", "apple", "green"]));
    let apple = first_block(&path);
    assert!(apple.windows(5).any(|at| at == b"apple"));
    let run = |words: &[&str]| {
        let output = example("append_loop").arg(&path).args(["65536", "4"]).args(words).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    // It fills what is empty, and leaves the record alone.
    assert_eq!(run(&[]), (true, String::new()));
    assert!(first_block(&path) == apple);
    let (done, says) = run(&[]);
    assert!(!done && says.contains("no zone is empty; --reset --yes"), "{says}");
    let (done, says) = run(&["--reset"]);
    assert!(!done && says.contains("--reset erases; say --yes"), "{says}");
    assert!(first_block(&path) == apple);
    assert!(run(&["--reset", "--yes"]).0);
    assert!(first_block(&path) != apple);
}
