//! help, completions and the manual: they come from the words themselves, and what they show works.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use common::{Place, noise};
use std::path::Path;
use std::process::Command;

/// The program's commands, as its help lists them.
fn commands(place: &Place) -> Vec<String> {
    let text = place.ok("--help").text();
    let list = text.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    list.lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .filter(|name| name != "help")
        .collect()
}

/// What the examples work on.
fn prepared() -> Place {
    let place = Place::new();
    place.ok("create disk.qcow2 --size 1G --zone-size 64M");
    place.put("a.log", &noise(1, 300_000));
    place.put("b.log", &noise(2, 200_000));
    let index = place.ok("append disk.qcow2 a.log b.log --record 64K --zones ..3 --json").out;
    place.put("index.jsonl", &index);
    place.ok("dump disk.qcow2 -o disk.dump");
    place
}

#[test]
fn every_example_of_every_command_works_as_printed() {
    let place = Place::new();
    let commands = commands(&place);
    assert!(commands.len() >= 19, "{commands:?}");
    let program = Path::new(env!("CARGO_BIN_EXE_zonal"));
    let folder = program.parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let mut ran = 0;
    for command in commands {
        let help = place.ok(&format!("{command} --help")).text();
        let examples = help.split("EXAMPLES:\n").nth(1).unwrap_or_else(|| panic!("{command}"));
        // One draws on a terminal, which there is none of; the other wants root and ublk (guest/ublk).
        if command == "top" || command == "serve" {
            continue;
        }
        if command == "adopt" && Command::new("qemu-img").arg("--version").output().is_err() {
            eprintln!("SKIP: the examples of adopt need qemu-img");
            continue;
        }
        let place = prepared();
        for line in examples.lines().map(str::trim).filter(|line| !line.is_empty()) {
            assert!(line.contains(&format!("zonal {command}")), "{command}: {line}");
            // With its two blanks: a terminal of 80 columns would break it for whoever copies it.
            assert!(line.len() <= 78, "{command}: {line}");
            let output = Command::new("bash")
                .args(["-e", "-o", "pipefail", "-c", line])
                .current_dir(place.path("."))
                .env("PATH", &path)
                .output()
                .unwrap();
            let says = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "`{line}` ended with {}: {says}", output.status);
            ran += 1;
        }
    }
    assert!(ran > 35, "{ran}");
}

#[test]
fn help_is_a_command_and_an_option() {
    let place = Place::new();
    for words in ["help reset", "reset --help"] {
        let text = place.ok(words).text();
        assert!(text.contains("Usage: zonal reset") && text.contains("EXAMPLES"), "{text}");
    }
    place.run("help nothing").exits(2).says(&["nothing"]);
}

#[test]
fn completions_know_commands_and_options_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = place.ok(&format!("completions {shell}")).text();
        for word in ["append", "iodepth", "zone-capacity", "rwmixread"] {
            assert!(text.contains(word), "{word} for {shell}");
        }
    }
    place.run("completions tcsh").exits(2).says(&["tcsh", "bash"]);
}

#[test]
fn bash_completes_a_command() {
    let place = Place::new();
    place.put("zonal.bash", &place.ok("completions bash").out);
    let script = ". ./zonal.bash; COMP_WORDS=(zonal res); COMP_CWORD=1; \
                  _zonal zonal res zonal; echo ${COMPREPLY[@]}";
    let output =
        Command::new("bash").args(["-c", script]).current_dir(place.path(".")).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words: Vec<&str> = words.split_whitespace().collect();
    words.sort_unstable();
    assert_eq!(words, ["reset", "restore"]);
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let place = Place::new();
    place.ok("man pages/man1");
    for command in commands(&place) {
        let page = place.path(&format!("pages/man1/zonal-{command}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
        // Lines to be copied are not filled up with the next one's words.
        let (_, examples) =
            page.split_once(".SH EXAMPLES\n.nf\n").unwrap_or_else(|| panic!("{command}"));
        assert!(!examples.contains(".SH"), "{command}: lines behind the examples are not filled");
    }
    let page = std::fs::read_to_string(place.path("pages/man1/zonal.1")).unwrap();
    assert!(page.contains("zonal\\-append(1)"), "{page}");
    place.put("file", b"");
    place.run("man file").exits(2).says(&["file"]);
}
