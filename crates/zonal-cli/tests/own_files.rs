//! A drive's own files are neither input nor output of a command on it, by whatever name.

mod common;

use common::{Place, noise};
use std::fs;
use std::os::unix::fs::symlink;
use zonal::{OpenOptions, Target};

/// A folder with `disk`, which holds data, and links to it and to where its live file is.
fn place() -> Place {
    let place = Place::new();
    place.ok("create disk --size 8M --zone-size 1M");
    place.put("data", &noise(1, 200_000));
    place.ok("append disk data");
    symlink("disk", place.path("soft")).expect("a link");
    symlink("disk.live", place.path("soft-live")).expect("a link");
    fs::hard_link(place.path("disk"), place.path("hard")).expect("a link");
    fs::create_dir(place.path("folder")).expect("a folder");
    place
}

/// Every file of the folder with its bytes.
fn files(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(place.path("."))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .map(|name| (name.clone(), fs::read(place.path(&name)).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

/// `words` must be refused with all of `parts`, and change no file.
fn refused(place: &Place, words: &str, parts: &[&str]) {
    let before = files(place);
    place.run(words).exits(2).says(parts);
    assert!(before == files(place), "{words} changed something");
}

/// Every name of the image, and every name of its live file.
const IMAGE: [&str; 5] = ["disk", "./disk", "soft", "hard", "folder/../disk"];
const LIVE: [&str; 4] = ["disk.live", "./disk.live", "soft-live", "folder/../disk.live"];

#[test]
fn no_output_goes_into_the_drive_or_its_live_file() {
    let place = place();
    for (names, what) in [(&IMAGE[..], "the drive itself"), (&LIVE[..], "live file")] {
        for name in names {
            for words in [
                format!("dump disk -o {name} --force"),
                format!("dump soft -o {name}"),
                format!("map disk --svg {name}"),
                format!("bench disk --rw append --runtime 10ms --plot {name}"),
            ] {
                refused(&place, &words, &[name, what, "another name"]);
            }
        }
    }
}

#[test]
fn no_output_goes_into_a_live_file_that_is_there() {
    let place = place();
    let drive = zonal::open(&Target::Path(place.path("disk")), &OpenOptions::default());
    let drive = drive.expect("a good image");
    fs::hard_link(place.path("disk.live"), place.path("hard-live")).expect("a link");
    for name in [&LIVE[..], &["hard-live"]].concat() {
        let words = format!("dump disk -o {name} --force");
        refused(&place, &words, &[name, "live file", "another name"]);
        place.run(&format!("append disk {name}")).exits(2).says(&["live file", "another input"]);
    }
    drive.close().expect("a flush");
}

#[test]
fn nothing_new_is_put_where_another_drive_has_its_live_file() {
    let place = place();
    place.ok("create other --size 64M --zone-size 8M");
    let says = ["other.live", "live file", "another name"];
    refused(&place, "dump disk -o other.live", &says);
    refused(&place, "map disk --svg other.live", &says);
    refused(&place, "create other.live --size 64M", &says);
    refused(&place, "create other.live --size 64M --force", &says);
    refused(&place, "bench --runtime 10ms --plot other.live", &says);
    // Without a drive of that name it is a name like others.
    place.ok("dump disk -o free.live");
}

#[test]
fn no_input_comes_from_the_drive_itself() {
    let place = place();
    for name in IMAGE {
        for words in [
            format!("append disk data {name}"),
            format!("write disk {name} --offset 4M"),
            format!("restore disk {name} --force --yes"),
            format!("cat disk --index {name}"),
            format!("append disk data --resume {name}"),
        ] {
            refused(&place, &words, &[name, "the drive itself", "another input"]);
        }
    }
    place.put("log", b"a line\n");
    refused(&place, "append file:log log", &["log", "the drive itself"]);
}

#[test]
fn the_standard_streams_are_looked_at_too() {
    let place = place();
    let before = files(&place);
    for script in [
        "$zonal append disk data < hard - < disk",
        "$zonal write disk --offset 4M < soft",
        "$zonal restore disk --force --yes < disk",
    ] {
        place.shell(script).exits(2).says(&["stdin", "the drive itself", "another input"]);
    }
    for words in ["read disk --offset 0 --length 4K", "report hard", "dump disk", "check disk"] {
        let script = format!("$zonal {words} >> soft");
        place.shell(&script).exits(2).says(&["stdout", "the drive itself", "another file"]);
    }
    // An input that grows by what is printed of it.
    place.shell("$zonal append disk data --json >> data").exits(2).says(&["data", "another file"]);
    assert!(before == files(&place));
    place.shell("$zonal append disk data --json >> index").exits(0);
}
