//! The README and the guides, line by line: what they print as commands has to work as printed.

mod common;

use common::Place;
use std::path::{Path, PathBuf};
use std::process::Command;

const README: &str = include_str!("../../../README.md");

/// The lines of a text's code blocks that begin with `fence`.
fn blocks<'a>(text: &'a str, fence: &str) -> Vec<Vec<&'a str>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == fence {
            blocks.push(lines.by_ref().take_while(|line| *line != "```").collect());
        } else if line.starts_with("```") {
            lines.by_ref().take_while(|line| *line != "```").for_each(drop);
        }
    }
    blocks
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs what a text has in its tour's blocks, in order, in a folder with some files to append.
/// Returns how many lines it had.
fn walk(text: &str) -> usize {
    let place = Place::new();
    let root = root();
    for name in ["README.md", "Cargo.lock"] {
        std::fs::copy(root.join(name), place.path(name)).expect("a file of the project");
    }
    let program = Path::new(env!("CARGO_BIN_EXE_zonal"));
    let folder = program.parent().expect("a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let lines: Vec<&str> = blocks(text, "```sh tour").concat();
    for line in &lines {
        let output = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", line])
            .current_dir(place.path("."))
            .env("PATH", &path)
            .output()
            .expect("bash runs");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` ended with {}: {says}", output.status);
    }
    lines.len()
}

#[test]
fn the_tour_works_as_printed() {
    assert!(walk(README) >= 8, "the tour is there");
}

#[test]
fn the_guides_work_as_printed() {
    let guides = std::fs::read_dir(root().join("docs/guides")).expect("the guides");
    let guides: Vec<_> = guides.map(|guide| guide.expect("a guide").path()).collect();
    let of_tools = guides.iter().filter(|guide| !guide.ends_with("README.md"));
    for guide in of_tools {
        let text = std::fs::read_to_string(guide).expect("a guide's text");
        assert!(walk(&text) >= 3, "{} has a tour", guide.display());
    }
    assert!(guides.len() >= 5, "{guides:?}");
}

#[test]
fn the_two_commands_stand_alone_and_need_only_cargo() {
    let commands = blocks(README, "```sh");
    assert_eq!(commands.len(), 2);
    for command in commands {
        assert!(matches!(command[..], [line] if line.starts_with("cargo ")), "{command:?}");
    }
}
