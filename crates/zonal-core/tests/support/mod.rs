//! Helpers for tests that write images to files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use zonal_core::format::layout::Layout;
use zonal_core::format::qcow2::{ENCODED, HEADER_LENGTH};

/// A file in cargo's directory for tests, removed when dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes a planned image to a new file.
pub(crate) fn write_image(path: &Path, layout: &Layout, image_id: [u8; 16]) -> File {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(layout.file_len).unwrap();
    for (offset, bytes) in layout.metadata(image_id).unwrap() {
        file.write_all_at(&bytes, offset).unwrap();
    }
    file
}

/// Makes a plain qcow2 image of one with zones: without feature bit 5, and without extensions.
pub(crate) fn strip_zones(file: &File) {
    let mut header = vec![0; ENCODED];
    file.read_exact_at(&mut header, 0).unwrap();
    header[79] &= !(1 << 5);
    header[HEADER_LENGTH..].fill(0);
    file.write_all_at(&header, 0).unwrap();
}

/// Runs `qemu-img` and returns whether it succeeded and all it said; `None`, with the reason on
/// stderr, where it is not installed.
pub(crate) fn qemu_img(args: &[&str]) -> Option<(bool, String)> {
    match Command::new("qemu-img").args(args).output() {
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Some((output.status.success(), text))
        }
        Err(error) => {
            eprintln!("SKIP: qemu-img cannot be run: {error}");
            None
        }
    }
}
