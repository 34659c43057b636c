//! Real files, together 1 GiB, appended by one process and read back by another.

mod common;

use common::Place;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TOTAL: u64 = 1 << 30;
const ZONE: u64 = 256 << 20;
const RECORD: u64 = 64 << 10;

/// The largest files below a folder.
fn files_below(folder: &Path, found: &mut Vec<(u64, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            files_below(&entry.path(), found);
        } else if let (true, Ok(data)) = (kind.is_file(), entry.metadata()) {
            found.push((data.len(), entry.path()));
        }
    }
}

/// Real files, the compiler's own, whose lengths add up to [`TOTAL`]: the last one is cut.
fn real_files(place: &Place) -> Option<Vec<String>> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let sysroot = String::from_utf8(sysroot.stdout).ok()?;
    let mut found = Vec::new();
    files_below(Path::new(sysroot.trim()), &mut found);
    found.sort_unstable_by(|a, b| b.cmp(a));
    let (mut names, mut left) = (Vec::new(), TOTAL);
    for (length, path) in found {
        let name = format!("f{}", names.len());
        let taken = length.min(left);
        let mut source = fs::File::open(path).ok()?.take(taken);
        io::copy(&mut source, &mut fs::File::create(place.path(&name)).ok()?).ok()?;
        names.push(name);
        left -= taken;
        if left == 0 {
            return Some(names);
        }
    }
    None
}

#[test]
fn a_gigabyte_of_real_files_comes_back_the_same() {
    let place = Place::new();
    let Some(names) = real_files(&place) else {
        println!("SKIP: the toolchain has less than 1 GiB of files to take");
        return;
    };
    place.ok("create disk.qcow2 --size 4G --zone-size 256M");
    let inputs = names.join(" ");
    let index = place
        .ok(&format!("append disk.qcow2 {inputs} --zones 0..8 --record 64K --iodepth 64 --json"));
    place.put("index", &index.out);

    let mut places: Vec<(u64, u64)> = Vec::new();
    for line in String::from_utf8_lossy(&index.out).lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let number = |name: &str| line[name].as_u64().expect("a number");
        let (zone, offset, length) = (number("zone"), number("offset"), number("length"));
        let stored = length.next_multiple_of(4096);
        assert!(zone < 8 && offset >= zone * ZONE && offset + stored <= (zone + 1) * ZONE);
        places.push((offset, stored));
    }
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "an overlap");
    assert!(places.len() as u64 >= TOTAL / RECORD);

    let mut written = Sha256::new();
    for name in &names {
        io::copy(&mut fs::File::open(place.path(name)).expect("an input"), &mut written)
            .expect("an input is read");
    }
    let mut cat = place
        .command("cat disk.qcow2 --index index")
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat starts");
    let mut read = Sha256::new();
    let bytes = io::copy(&mut cat.stdout.take().expect("piped"), &mut read).expect("cat is read");
    assert!(cat.wait().expect("cat ends").success());
    assert_eq!(bytes, TOTAL);
    assert_eq!(read.finalize(), written.finalize(), "sha256");
    println!("{} files, {} records, {bytes} bytes: sha256 equal", names.len(), places.len());
}
