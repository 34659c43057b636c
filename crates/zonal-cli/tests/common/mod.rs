//! Runs the program in a folder of its own.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder to run the program in.
pub(crate) struct Place(TempDir);

impl Place {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A folder with the image `disk`: 64 MiB, zones of 8 MiB, and what `words` add.
    pub(crate) fn with_disk(words: &str) -> Self {
        let place = Self::new();
        place.ok(&format!("create disk --size 64M --zone-size 8M {words}"));
        place
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts `bytes` into a file.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The program with these words, separated by spaces.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zonal"));
        command.args(words.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("ZONAL_LOG").env("NO_COLOR", "1");
        command
    }

    /// Starts it, all streams piped.
    pub(crate) fn start(&self, words: &str) -> Child {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs it.
    pub(crate) fn run(&self, words: &str) -> Run {
        Run::of(words, self.command(words).output().unwrap())
    }

    /// Runs `script` in bash, with the program as `$zonal`.
    pub(crate) fn shell(&self, script: &str) -> Run {
        let mut bash = Command::new("bash");
        bash.args(["-c", script]).env("zonal", env!("CARGO_BIN_EXE_zonal")).env("NO_COLOR", "1");
        bash.current_dir(self.0.path()).stdin(Stdio::null());
        Run::of(script, bash.output().unwrap())
    }

    /// Runs it with `input` as its stdin.
    pub(crate) fn feed(&self, words: &str, input: &[u8]) -> Run {
        let mut child = self.start(words);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // It may stop reading.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let run = Run::of(words, child.wait_with_output().unwrap());
        let _ = writer.join().unwrap();
        run
    }

    /// Runs it; it must end with 0.
    pub(crate) fn ok(&self, words: &str) -> Run {
        self.run(words).exits(0)
    }

    /// Runs it with `--json`; it must end with 0 and print one object of version 1.
    pub(crate) fn json(&self, words: &str) -> Value {
        let value: Value =
            serde_json::from_slice(&self.ok(&format!("{words} --json")).out).unwrap();
        assert_eq!(value["version"], 1, "{words}");
        value
    }

    /// The report's line of one zone.
    pub(crate) fn zone(&self, zone: u32) -> Value {
        self.json(&format!("report disk --zones {zone}"))["zones"][0].clone()
    }
}

/// What a run left.
pub(crate) struct Run {
    words: String,
    /// Its exit code, if no signal killed it.
    pub(crate) code: Option<i32>,
    /// Stdout.
    pub(crate) out: Vec<u8>,
    /// Stderr.
    pub(crate) talk: String,
}

impl Run {
    /// A finished run.
    pub(crate) fn of(words: &str, output: Output) -> Self {
        Self {
            words: words.to_owned(),
            code: output.status.code(),
            out: output.stdout,
            talk: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It must have ended with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "zonal {}: {}", self.words, self.talk);
        self
    }

    /// Its talk must hold all of `parts`.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.talk.contains(part), "{part:?} is not in {:?}", self.talk);
        }
        self
    }

    /// Stdout as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    /// Stdout as JSON lines.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// `length` bytes that do not repeat within a block, different for each `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
