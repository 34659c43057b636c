//! The live file: what a killed process had acknowledged, for the next one to find.
//!
//! It lies beside the image as `IMAGE.live`, mapped, with the zones' cells in it (see
//! [`crate::zones::cells`]), so that it costs plain stores and no system call. After a kill the
//! page cache still has it. It proves nothing after a power cut, nor about another file than the
//! one it was written for, so it is believed only where all of this holds:
//!
//! * it is a regular file with one name, ours, mode 0600, of the right length and shape;
//! * its session nonce is the one made durable in the image before the session's first write;
//! * the machine has not been booted since;
//! * the image is the same file: device, inode, birth time;
//! * its flush sequence is the image's, or one ahead;
//! * the image was not modified after the session's last submission;
//! * the lock on the image is ours, so its session is over (who only looks at a session that
//!   goes on does without).
//!
//! Head, in 64-bit words of the machine's own byte order, since the file never leaves it:
//!
//! | word | field |
//! |---|---|
//! | 0 | magic and version; stored last when the file is made |
//! | 1 | zones |
//! | 2, 3 | session nonce |
//! | 4, 5 | boot id |
//! | 6, 7, 8 | the image's device, inode, birth time in ns (all ones where unknown) |
//! | 9 | flush sequence |
//! | 10 | time of the last submission, coarse clock, ns since 1970 |
//! | 11 | process id |
//! | 12 | 1 once a sync has failed: what it should have covered can be read, and may never reach the disk |

use crate::sync::atomic::Ordering;
use crate::sys::clock::BootId;
use crate::sys::file::{self, FileIdentity};
use crate::sys::mmap;
use crate::sys::words::SharedWords;
use crate::zones::Cells;
use crate::zones::cells::words_needed;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zonal_core::broken::{Rule, is_broken};

/// Words before the cells: one page.
pub(crate) const HEAD_WORDS: usize = 512;

/// `zonliv` and version 1.
const MAGIC: u64 = 0x7a6f_6e6c_6976_0001;

/// How much later than the last submission the image may have been modified by the session's own
/// last writes: the kernel stamps a write when it starts it, which for one that was handed to a
/// kernel worker is a little after its submission.
const MODIFIED_SLACK_NS: u64 = 1_000_000_000;

const UNKNOWN: u64 = u64::MAX;

mod word {
    pub(super) const MAGIC: usize = 0;
    pub(super) const ZONES: usize = 1;
    pub(super) const NONCE: usize = 2;
    pub(super) const BOOT: usize = 4;
    pub(super) const DEVICE: usize = 6;
    pub(super) const INODE: usize = 7;
    pub(super) const BORN: usize = 8;
    pub(super) const FLUSHES: usize = 9;
    pub(super) const SUBMITTED: usize = 10;
    pub(super) const PROCESS: usize = 11;
    pub(super) const DISTRUSTED: usize = 12;
}

/// What a live file must match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) zones: u32,
    pub(crate) nonce: &'a [u8; 16],
    pub(crate) boot: BootId,
    pub(crate) image: &'a FileIdentity,
    pub(crate) flush_sequence: u64,
}

/// The live file's path of an image.
pub(crate) fn path_of(image: &Path) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(".live");
    PathBuf::from(name)
}

/// Makes the live file of a new session, in place of an old one.
///
/// # Errors
/// The file system's; there must be room for all of it.
pub(crate) fn create(path: &Path, expected: &Expected<'_>, now_ns: u64) -> io::Result<Cells> {
    remove(path)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    begin_file(&file, expected, now_ns).inspect_err(|_| {
        // What cannot be used is not left behind; that it cannot be used is what is reported.
        let _ = remove(path);
    })
}

/// Fills in a new live file: space for all of it, then the head.
fn begin_file(file: &File, expected: &Expected<'_>, now_ns: u64) -> io::Result<Cells> {
    let words = words_of(expected.zones);
    let length = words as u64 * 8;
    match file::allocate(file, 0, length) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(length)?,
        result => result?,
    }
    let map = SharedWords::mapped(mmap::SharedWords::new(file, words)?);
    Ok(begin(map, expected, now_ns))
}

/// How many words the live file of a drive of so many zones has.
pub(crate) fn words_of(zones: u32) -> usize {
    HEAD_WORDS + words_needed(zones)
}

/// Begins a session in words that are all zero: fills in the head.
pub(crate) fn begin(words: SharedWords, expected: &Expected<'_>, now_ns: u64) -> Cells {
    let cells = Cells::new(words, HEAD_WORDS, expected.zones);
    let store = |index: usize, value: u64| cells.head(index).store(value, Ordering::Release);
    store(word::ZONES, u64::from(expected.zones));
    let [a, b] = halves(expected.nonce);
    store(word::NONCE, a);
    store(word::NONCE + 1, b);
    let [a, b] = halves(&expected.boot.0);
    store(word::BOOT, a);
    store(word::BOOT + 1, b);
    store(word::DEVICE, expected.image.device);
    store(word::INODE, expected.image.inode);
    store(word::BORN, expected.image.born_ns.unwrap_or(UNKNOWN));
    store(word::FLUSHES, expected.flush_sequence);
    store(word::SUBMITTED, now_ns);
    store(word::PROCESS, u64::from(std::process::id()));
    store(word::MAGIC, MAGIC);
    cells
}

/// Removes a live file, if there is one.
///
/// # Errors
/// The file system's.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Why a live file is not believed.
pub(crate) type Doubt = &'static str;

/// Opens the live file of an earlier session, and believes it or not.
///
/// # Errors
/// The first thing that does not match.
pub(crate) fn open(path: &Path, expected: &Expected<'_>) -> Result<Cells, Doubt> {
    let file = open_file(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no live file beside the image",
        io::ErrorKind::PermissionDenied => "this user may not open the live file",
        _ => "the live file cannot be opened",
    })?;
    let identity = file::identity(&file).map_err(|_| "the live file cannot be examined")?;
    let words = words_of(expected.zones);
    let length = file.metadata().map_err(|_| "the live file cannot be examined")?.len();
    let owner = rustix::process::geteuid().as_raw();
    let checks: [(bool, Doubt); 4] = [
        (identity.is_regular() && identity.links == 1, "the live file is no plain file"),
        (identity.owner == owner, "the live file belongs to another user"),
        (identity.mode & 0o777 == 0o600, "the live file can be written by others"),
        (length == words as u64 * 8, "the live file has another length"),
    ];
    first_doubt(&checks)?;
    let map = mmap::SharedWords::new(&file, words).map_err(|_| "the live file cannot be mapped")?;
    believe(SharedWords::mapped(map), expected)
}

/// Believes what a live file of the right length holds, or not.
///
/// # Errors
/// The first thing that does not match.
pub(crate) fn believe(words: SharedWords, expected: &Expected<'_>) -> Result<Cells, Doubt> {
    let cells = Cells::new(words, HEAD_WORDS, expected.zones);
    first_doubt(&doubts(&cells, expected))?;
    Ok(cells)
}

fn doubts(cells: &Cells, expected: &Expected<'_>) -> [(bool, Doubt); 8] {
    let load = |index: usize| cells.head(index).load(Ordering::Acquire);
    let pair = |index: usize| [load(index), load(index + 1)];
    let image = expected.image;
    let flushes = load(word::FLUSHES);
    let ahead = flushes.wrapping_sub(expected.flush_sequence);
    let modified_in_time =
        image.modified_ns <= load(word::SUBMITTED).saturating_add(MODIFIED_SLACK_NS);
    [
        (load(word::MAGIC) == MAGIC, "the live file was never finished"),
        (load(word::ZONES) == u64::from(expected.zones), "the live file has other zones"),
        (pair(word::NONCE) == halves(expected.nonce), "the live file is of another session"),
        (pair(word::BOOT) == halves(&expected.boot.0), "the machine was booted since"),
        (
            load(word::DEVICE) == image.device && load(word::INODE) == image.inode
                || is_broken(Rule::CopiesDoubted),
            "the image is another file than in its last session",
        ),
        (
            load(word::BORN) == image.born_ns.unwrap_or(UNKNOWN) || is_broken(Rule::CopiesDoubted),
            "the image was made after its last session",
        ),
        (ahead <= 1, "the image is older or newer than the live file"),
        (modified_in_time, "the image was modified after its last session"),
    ]
}

fn first_doubt(checks: &[(bool, Doubt)]) -> Result<(), Doubt> {
    checks.iter().find(|(holds, _)| !holds).map_or(Ok(()), |&(_, doubt)| Err(doubt))
}

/// The process that holds the image, if its live file names one that is there.
pub(crate) fn owner(path: &Path) -> Option<u32> {
    let file = open_file(path).ok()?;
    let map = mmap::SharedWords::new(&file, HEAD_WORDS).ok()?;
    let process = map.words()[word::PROCESS].load(Ordering::Acquire);
    let process = u32::try_from(process).ok().filter(|&process| process > 0)?;
    Path::new(&format!("/proc/{process}")).exists().then_some(process)
}

/// The cells' time of the last submission is now.
#[inline]
pub(crate) fn stamp(cells: &Cells, now_ns: u64) {
    cells.head(word::SUBMITTED).store(now_ns, Ordering::Release);
}

/// A sync has failed: what can be read of the image is not durable for that it is synced again.
pub(crate) fn distrust(cells: &Cells) {
    if cells.has_head() {
        cells.head(word::DISTRUSTED).store(1, Ordering::Release);
    }
}

/// Whether a sync has failed in the session.
pub(crate) fn is_distrusted(cells: &Cells) -> bool {
    cells.head(word::DISTRUSTED).load(Ordering::Acquire) != 0
}

/// The flush of that number is about to become durable.
pub(crate) fn set_flush_sequence(cells: &Cells, sequence: u64) {
    cells.head(word::FLUSHES).store(sequence, Ordering::Release);
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn halves(id: &[u8; 16]) -> [u64; 2] {
    let (words, _) = id.as_chunks::<8>();
    [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])]
}
