//! Images of QEMU's making, and the drives they become.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use zonal::{AdoptOptions, Adopted};

/// Runs one of QEMU's tools and returns whether it succeeded and all it said; `None`, with the
/// reason on stderr, where it is not installed.
pub(crate) fn qemu(tool: &str, args: &[&str]) -> Option<(bool, String)> {
    match Command::new(tool).args(args).output() {
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Some((output.status.success(), text))
        }
        Err(error) => {
            eprintln!("SKIP: {tool} cannot be run: {error}");
            None
        }
    }
}

/// Makes an image with `qemu-img create -o OPTIONS`; false where there is no qemu-img.
pub(crate) fn create(path: &Path, options: &str, size: u64) -> bool {
    let (path, size) = (path.to_str().unwrap(), size.to_string());
    let Some((made, says)) =
        qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, path, &size])
    else {
        return false;
    };
    assert!(made, "{says}");
    true
}

/// Runs commands of `qemu-io` on an image.
pub(crate) fn qemu_io(path: &Path, commands: &[&str]) {
    let mut args = vec!["-f", "qcow2"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(path.to_str().unwrap());
    let (done, says) = qemu("qemu-io", &args).unwrap();
    assert!(done && !says.contains("failed"), "{says}");
}

/// Makes an image with `qemu-img create -o cluster_size=CLUSTER,preallocation=off`, and a zoned drive
/// of it with `zonal adopt`; `None` where there is no qemu-img. Its clusters are allocated as its
/// zones take data, so they lie in the order of their first use.
pub(crate) fn adopted(
    path: &Path,
    size: u64,
    cluster: u64,
    options: AdoptOptions<'_>,
) -> Option<Adopted> {
    let off = format!("cluster_size={cluster},preallocation=off");
    create(path, &off, size).then(|| zonal::adopt(path, options).unwrap())
}

/// Makes a plain qcow2 image of a copy of one with zones: without feature bit 5, and without
/// extensions.
pub(crate) fn stripped(path: &Path, copy: &Path) {
    std::fs::copy(path, copy).unwrap();
    let file = File::options().read(true).write(true).open(copy).unwrap();
    let mut header = [0; 512];
    file.read_exact_at(&mut header, 0).unwrap();
    header[79] &= !(1 << 5);
    header[112..].fill(0);
    file.write_all_at(&header, 0).unwrap();
}

/// What `qemu-img check` and `convert` make of a stripped image: it must be sound, and these are the
/// bytes.
pub(crate) fn as_qemu_reads_it(path: &Path) -> Vec<u8> {
    converted(path, |sound, says| sound && says.contains("No errors were found"))
}

/// The same after a kill, which may have lost clusters that were counted and not used yet.
pub(crate) fn as_qemu_reads_it_after_a_kill(path: &Path) -> Vec<u8> {
    converted(path, |sound, says| sound || says.contains("no harm to data"))
}

fn converted(path: &Path, is_fine: impl FnOnce(bool, &str) -> bool) -> Vec<u8> {
    let (copy, raw) = (path.with_extension("copy"), path.with_extension("raw"));
    stripped(path, &copy);
    let (copy, raw) = (copy.to_str().unwrap(), raw.to_str().unwrap());
    let (sound, says) = qemu("qemu-img", &["check", "-f", "qcow2", copy]).unwrap();
    assert!(is_fine(sound, &says) && !says.contains("ERROR"), "{says}");
    let (done, says) =
        qemu("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", copy, raw]).unwrap();
    assert!(done, "{says}");
    let bytes = std::fs::read(raw).unwrap();
    std::fs::remove_file(copy).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}
