//! `zonal mount`, as a person meets it: how it begins, how it ends, and what is there afterwards.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    env, fs,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use common::{Place, noise};

/// False where no FUSE can be had, which is said.
fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists();
    assert!(can || env::var_os("CI").is_none(), "there is no /dev/fuse, and this is CI");
    if !can {
        eprintln!("SKIP: there is no /dev/fuse to mount by");
    }
    can
}

/// A drive, and a folder to mount it on.
fn place() -> Place {
    let place = Place::with_disk("--conventional-zones 1");
    fs::create_dir(place.path("dir")).unwrap();
    place
}

/// Waits for `what`; ten seconds are long enough for anything here.
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn mounted(place: &Place, words: &str) -> Child {
    let child = place.start(words);
    wait("it is mounted", || place.path("dir/seq/0").exists());
    child
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(process, signal).unwrap();
}

#[test]
fn a_signal_unmounts_it_with_everything_flushed() {
    for stop in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        if !can_mount() {
            return;
        }
        let place = place();
        place.put("file", &noise(1, 100_000));
        let mut child = mounted(&place, "mount disk dir --buffered");
        fs::copy(place.path("file"), place.path("dir/seq/2")).unwrap();
        signal(&child, stop);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(!place.path("dir/seq").exists(), "it is unmounted");
        place.ok("check disk --deep");
        let read = place.ok(&format!("read disk --offset {} --length 100000", 3 << 23));
        assert_eq!(read.out, noise(1, 100_000), "seq/2 is zone 3");
    }
}

/// Mounts a drive of which a file stays open, and has it signalled twice.
fn signalled_twice(apart: Duration) -> Option<(Place, Child, fs::File)> {
    if !can_mount() {
        return None;
    }
    let place = place();
    let child = mounted(&place, "mount disk dir");
    let file = fs::File::open(place.path("dir/seq/0")).unwrap();
    signal(&child, rustix::process::Signal::TERM);
    thread::sleep(apart);
    signal(&child, rustix::process::Signal::TERM);
    Some((place, child, file))
}

#[test]
fn a_second_signal_ends_it_whenever_it_comes() {
    use std::os::unix::process::ExitStatusExt;
    for apart in [50, 500, 1500].map(Duration::from_millis) {
        let Some((_place, mut child, _file)) = signalled_twice(apart) else { return };
        wait("it has ended", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().signal(), Some(15), "{apart:?} after the first");
    }
}

#[test]
fn a_signal_to_it_and_its_group_is_one() {
    let Some((_place, mut child, file)) = signalled_twice(Duration::ZERO) else { return };
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it waits for the file");
    drop(file);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn in_the_background_it_goes_on_until_it_is_unmounted() {
    if !can_mount() {
        return;
    }
    let place = place();
    let said = place.json("mount disk dir --daemon --mode 600");
    assert_eq!((&said["target"], &said["mounted"]), (&"disk".into(), &"dir".into()));
    let name = std::fs::read_to_string(format!("/proc/{}/comm", said["pid"])).unwrap();
    assert_eq!(name, "zonal\n", "the process that serves it");
    assert!(place.path("dir/cnv/0").exists(), "it is mounted when the program ends");
    place.shell("umount dir").exits(0);
    wait("the program in the background has let go", || place.run("flush disk").code == Some(0));
}

#[test]
fn in_the_background_it_says_what_happens_in_a_log() {
    if !can_mount() {
        return;
    }
    for (words, talk) in [("--log log", ""), ("", "2> log")] {
        let place = place();
        let drive = "mem:size=64M,zone-size=8M,faults=fail-write=1";
        place.put("log", b"before\n");
        let talk = talk.replace("2>", "2>>");
        place.shell(&format!("$zonal mount {drive} dir --daemon {words} {talk}")).exits(0);
        place.shell("dd if=/dev/zero of=dir/seq/1 bs=4k count=1 oflag=direct").exits(1);
        place.shell("umount dir").exits(0);
        let log = || fs::read_to_string(place.path("log")).unwrap();
        wait("it is said", || {
            log().contains("zone 1 (seq/1): 0 bytes of it are written; no file can")
        });
        assert!(log().starts_with("before\n"), "{}", log());
    }
    let place = place();
    place.run("mount disk dir --daemon --log none/log").exits(2).says(&["none/log", "the log"]);
    place.run("mount disk dir --log log").exits(2).says(&["--daemon"]);
}

#[test]
fn who_may_not_use_fuse_is_told_so() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let open = || fs::metadata("/dev/fuse").unwrap().mode() & 0o006 != 0;
    if !can_mount() || !rustix::process::geteuid().is_root() || open() {
        eprintln!("SKIP: whether somebody may not use FUSE shows where only root may");
        return;
    }
    let place = place();
    fs::set_permissions(place.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    chown(place.path("dir"), Some(65534), Some(65534)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_zonal"), place.path("zonal")).unwrap();
    let who = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    place
        .shell(&format!("{who} ./zonal mount mem:size=64M,zone-size=8M dir"))
        .exits(2)
        .says(&["/dev/fuse", "has to be allowed to read and write it"]);
}

#[test]
fn what_goes_wrong_in_the_background_is_said_before() {
    let place = place();
    place.run("mount nothing dir --daemon").exits(2).says(&["nothing", "no such file"]);
    place.run("mount disk none --daemon").exits(2).says(&["none", "make the folder first"]);
    place.run("mount disk disk").exits(2).says(&["is no folder"]);
    place.run("mount disk dir --mode 999").exits(2).says(&["octal"]);
}

#[test]
fn a_mount_whose_server_was_killed_is_taken_away() {
    if !can_mount() {
        return;
    }
    let place = place();
    let mut child = mounted(&place, "mount disk dir");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fs::read_dir(place.path("dir")).is_err(), "its server is gone");
    let mut child = mounted(&place, "mount disk dir -v");
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_was_acknowledged_outlives_the_server() {
    if !can_mount() {
        return;
    }
    let place = place();
    place.put("block", &noise(3, 8192));
    let mut child = mounted(&place, "mount disk dir");
    place.shell("dd if=block of=dir/seq/0 bs=4k oflag=direct,append conv=notrunc").exits(0);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = mounted(&place, "mount disk dir");
    assert_eq!(fs::read(place.path("dir/seq/0")).unwrap(), noise(3, 8192));
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn others_are_kept_out() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let place = place();
    let looks = |place: &Place| {
        let folder = place.path("dir/seq").display().to_string();
        let looks = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "ls", &folder])
            .output()
            .unwrap();
        looks.status.success()
    };
    fs::set_permissions(place.path("."), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    for (words, expected) in [("", false), ("--allow-other", true)] {
        let mut child = mounted(&place, &format!("mount disk dir {words}"));
        assert_eq!(looks(&place), expected, "`{words}`");
        signal(&child, rustix::process::Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
