//! The README, line by line: what it prints as commands has to work as printed.

mod common;

use common::Place;
use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../../../README.md");

/// The lines of the README's code blocks that begin with `fence`.
fn blocks(fence: &str) -> Vec<Vec<&'static str>> {
    let mut blocks = Vec::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        if line == fence {
            blocks.push(lines.by_ref().take_while(|line| *line != "```").collect());
        } else if line.starts_with("```") {
            lines.by_ref().take_while(|line| *line != "```").for_each(drop);
        }
    }
    blocks
}

#[test]
fn the_tour_works_as_printed() {
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in ["README.md", "Cargo.lock"] {
        std::fs::copy(root.join(name), place.path(name)).expect("a file of the project");
    }
    let program = Path::new(env!("CARGO_BIN_EXE_zonal"));
    let folder = program.parent().expect("a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let lines: Vec<&str> = blocks("```sh tour").concat();
    assert!(lines.len() >= 8, "the tour is there");
    for line in lines {
        let output = Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", line])
            .current_dir(place.path("."))
            .env("PATH", &path)
            .output()
            .expect("bash runs");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` ended with {}: {says}", output.status);
    }
}

#[test]
fn the_two_commands_stand_alone_and_need_only_cargo() {
    let commands = blocks("```sh");
    assert_eq!(commands.len(), 2);
    for command in commands {
        assert!(matches!(command[..], [line] if line.starts_with("cargo ")), "{command:?}");
    }
}
