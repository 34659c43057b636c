//! Processes that append to one file: every record is there once, whole, and where no other is.

use std::{
    env,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    process::Command,
};

use zonal::Buffer;
use zonal_export::mount::MountOptions;

use crate::{Mount, direct};

const RECORD: usize = 4096;
const PROCESSES: u32 = 4;

/// What a process that appends is told: the file, its own number, how many records.
const TASK: &str = "ZONAL_APPEND_TASK";

/// How many records all processes write together; a hundred thousand take some 400 MB of memory.
fn records() -> u32 {
    env::var("ZONAL_APPENDS").map_or(8000, |count| count.parse().unwrap())
}

#[test]
fn processes_that_append_to_one_file_never_overlap() {
    let each = records() / PROCESSES;
    let size = u64::from(each * PROCESSES) * RECORD as u64;
    let drive = format!("mem:size={},zone-size={}", 4 * size, 2 * size);
    let Some(mount) = Mount::of(&drive, MountOptions::default()) else { return };
    let path = mount.path("seq/0");
    let writers: Vec<_> = (0..PROCESSES)
        .map(|writer| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "appends::a_process_that_appends", "--nocapture"])
                .env(TASK, format!("{}\n{writer}\n{each}", path.display()))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success(), "a process could not append");
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), size, "nothing between the records");
    let next = read_all(&path, each);
    assert_eq!(next, [each; PROCESSES as usize], "every record of every process is there");
    println!("{} records of {PROCESSES} processes: all there, whole, in order", each * PROCESSES);
    mount.end();
}

/// Reads the records; how many there are of each process, whose records are in order.
fn read_all(path: &std::path::Path, each: u32) -> [u32; PROCESSES as usize] {
    let file = File::open(path).unwrap();
    let mut next = [0; PROCESSES as usize];
    let mut record = [0; RECORD];
    for n in 0..u64::from(each * PROCESSES) {
        file.read_exact_at(&mut record, n * RECORD as u64).unwrap();
        let (writer, number) = (record[0], u32::from_le_bytes(record[1..5].try_into().unwrap()));
        assert_eq!(record[..], stamp(writer, number)[..], "record {n} is whole");
        assert_eq!(number, next[usize::from(writer)], "record {n} is its process's next");
        next[usize::from(writer)] += 1;
    }
    next
}

fn stamp(writer: u8, number: u32) -> Buffer {
    let mut record = Buffer::unpooled(RECORD);
    for piece in record.chunks_exact_mut(8) {
        piece[0] = writer;
        piece[1..5].copy_from_slice(&number.to_le_bytes());
    }
    record
}

/// One of the processes; without a task it has nothing to do.
#[test]
fn a_process_that_appends() {
    let Ok(task) = env::var(TASK) else { return };
    let mut words = task.lines();
    let mut file = direct(words.next().unwrap().as_ref(), false, true).unwrap();
    let writer = words.next().unwrap().parse().unwrap();
    let count = words.next().unwrap().parse().unwrap();
    for number in 0..count {
        assert_eq!(file.write(&stamp(writer, number)).unwrap(), RECORD);
    }
}
