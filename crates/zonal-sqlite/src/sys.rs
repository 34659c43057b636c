//! The VFS as SQLite's C sees it: a copy of its own VFS "unix" with another `xOpen`, and the methods of an open
//! database. All `unsafe` of this crate is here.
//!
//! Invariants, which SQLite keeps ("OS Interface Object", "OS Interface Open File Handle" in sqlite3.h):
//! * `xOpen` is given `szOsFile` bytes, aligned for pointers, which stay where they are until `xClose` returns. With a
//!   database we make a [`File`] of them; `xClose` is called if and only if `pMethods` is set then.
//! * The methods of one open file are not called by two threads at a time.
//! * Names are strings that end with zero; buffers have the length that is said.
//!
//! Which this module keeps:
//! * `connection` comes from a box, and is given back to one in `xClose` alone.
//! * Anything but a database is opened by the VFS below with its own methods, in the same bytes, so that no method here
//!   ever sees it.

use crate::database::{
    Code, Connection, Wanted, against_journal_mode, against_page_size, is_synchronous_off,
};
use crate::locks::Level;
use libsqlite3_sys as ffi;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::OnceLock;
use zonal::ErrorKind;

/// An open database, in the bytes that SQLite gives to `xOpen`.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    connection: *mut Connection,
}

/// The VFS below.
struct Below(*mut ffi::sqlite3_vfs);

// SAFETY: SQLite's VFS "unix" is static, never changed once it is registered, and made to be used by any thread.
unsafe impl Send for Below {}
// SAFETY: as above.
unsafe impl Sync for Below {}

static BELOW: OnceLock<Below> = OnceLock::new();

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // The first version is without shared memory (WAL) and mapped pages.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

pub(crate) fn register() -> Result<(), (ErrorKind, &'static str)> {
    // SAFETY: a string that ends with zero.
    let can = unsafe { ffi::sqlite3_compileoption_used(c"ENABLE_BATCH_ATOMIC_WRITE".as_ptr()) };
    if can == 0 {
        let text = "this SQLite was built without batches; build it with LIBSQLITE3_FLAGS=\
                    -DSQLITE_ENABLE_BATCH_ATOMIC_WRITE";
        return Err((ErrorKind::Unsupported, text));
    }
    // SAFETY: a string that ends with zero.
    let below = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    // SAFETY: a VFS that is registered stays where it is.
    let Some(unix) = (unsafe { below.as_ref() }) else {
        return Err((ErrorKind::Unsupported, "this SQLite has no VFS \"unix\""));
    };
    BELOW.get_or_init(|| Below(below));
    let ours = i32::try_from(size_of::<File>()).unwrap_or(i32::MAX);
    let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
        szOsFile: unix.szOsFile.max(ours),
        pNext: null_mut(),
        zName: c"zonal".as_ptr(),
        xOpen: Some(open),
        // The rest, its data included, as its functions expect it.
        ..*unix
    }));
    // SAFETY: it is never freed nor changed by us.
    match unsafe { ffi::sqlite3_vfs_register(vfs, 0) } {
        ffi::SQLITE_OK => Ok(()),
        _ => Err((ErrorKind::Io, "SQLite refuses the VFS")),
    }
}

/// Tells SQLite's log, and whoever asks for the reason of an error.
pub(crate) fn log(code: Code, text: &str) {
    if code != ffi::SQLITE_WARNING {
        crate::keep_reason(text);
    }
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    // SAFETY: two strings that end with zero, the second as the first one says.
    unsafe { ffi::sqlite3_log(code, c"zonal: %s".as_ptr(), text.as_ptr()) };
}

/// Whether the file system lets this process write to the file that is there, as the VFS below finds out.
pub(crate) fn may_be_written(path: &Path) -> bool {
    let (Some(Below(below)), Ok(name)) = (BELOW.get(), CString::new(path.as_os_str().as_bytes()))
    else {
        return false;
    };
    let mut may = 0;
    // SAFETY: the VFS is registered and never changed; a name that ends with zero, and a place for a number.
    let asked = unsafe {
        (**below)
            .xAccess
            .map(|access| access(*below, name.as_ptr(), ffi::SQLITE_ACCESS_READWRITE, &raw mut may))
    };
    asked == Some(ffi::SQLITE_OK) && may != 0
}

fn code(result: Result<(), Code>) -> c_int {
    result.err().unwrap_or(ffi::SQLITE_OK)
}

/// # Safety
/// `file` is open, and by our `xOpen`; nobody else uses it meanwhile.
unsafe fn connection<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Connection {
    // SAFETY: `open` made a `File` of it with a connection from a box, which `close` alone gives back.
    unsafe { &mut *(*file.cast::<File>()).connection }
}

/// What is not had with a database that is only read.
const CHANGING: c_int = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;

fn wanted(flags: c_int) -> Wanted {
    match (flags & ffi::SQLITE_OPEN_READONLY, flags & ffi::SQLITE_OPEN_CREATE) {
        (0, 0) => Wanted::ReadWrite,
        (0, _) => Wanted::Create,
        _ => Wanted::ReadOnly,
    }
}

/// # Safety
/// As SQLite calls `xOpen`.
unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    if flags & ffi::SQLITE_OPEN_MAIN_DB == 0 || name.is_null() {
        let Some(Below(below)) = BELOW.get() else { return ffi::SQLITE_CANTOPEN };
        // SAFETY: it is registered, and these are the arguments that it would be called with; the bytes at `file`
        // are as many as it wants.
        return unsafe {
            (**below)
                .xOpen
                .map_or(ffi::SQLITE_CANTOPEN, |open| open(*below, name, file, flags, out_flags))
        };
    }
    let ours = file.cast::<File>();
    let is_read_only;
    // SAFETY: the name ends with zero; the bytes are ours to fill; who wants no flags gives no place for them.
    unsafe {
        (&raw mut (*ours).base.pMethods).write(std::ptr::null());
        let path = Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes()));
        match Connection::open(path, wanted(flags)) {
            Ok(connection) => {
                is_read_only = connection.is_read_only() || flags & ffi::SQLITE_OPEN_READONLY != 0;
                (&raw mut (*ours).connection).write(Box::into_raw(Box::new(connection)));
                (&raw mut (*ours).base.pMethods).write(&raw const METHODS);
            }
            Err(code) => return code,
        }
        if let Some(out) = out_flags.as_mut() {
            *out = match is_read_only {
                false => flags,
                true => flags & !CHANGING | ffi::SQLITE_OPEN_READONLY,
            };
        }
    }
    ffi::SQLITE_OK
}

/// # Safety
/// As SQLite calls `xClose`.
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let ours = file.cast::<File>();
    // SAFETY: the connection came from a box, and nobody uses it after this.
    let connection = unsafe { Box::from_raw((*ours).connection) };
    // SAFETY: the bytes are ours until this returns.
    unsafe { (*ours).base.pMethods = std::ptr::null() };
    code(connection.close())
}

/// # Safety
/// As SQLite calls `xRead`.
unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: `into` has room for that many bytes, which are zeros before anybody looks at them: SQLite wants them so
    // where the file ends.
    let into = unsafe {
        into.write_bytes(0, amount);
        std::slice::from_raw_parts_mut(into.cast::<u8>(), amount)
    };
    // SAFETY: as `connection` asks for.
    code(unsafe { connection(file) }.read(offset, into))
}

/// # Safety
/// As SQLite calls `xWrite`.
unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: that many bytes are there, and do not change meanwhile.
    let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), amount) };
    // SAFETY: as `connection` asks for.
    code(unsafe { connection(file) }.write(offset, from))
}

/// # Safety
/// As SQLite calls `xTruncate`.
unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    let Ok(size) = u64::try_from(size) else { return ffi::SQLITE_IOERR_TRUNCATE };
    // SAFETY: as `connection` asks for.
    code(unsafe { connection(file) }.truncate(size))
}

/// # Safety
/// As SQLite calls `xSync`.
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: as `connection` asks for.
    code(unsafe { connection(file) }.sync())
}

/// # Safety
/// As SQLite calls `xFileSize`.
unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: as `connection` asks for.
    let length = unsafe { connection(file) }.length();
    code(length.map(|length| {
        // SAFETY: a place for a number.
        unsafe { *size = length.cast_signed() };
    }))
}

fn level(number: c_int) -> Level {
    match number {
        ffi::SQLITE_LOCK_NONE => Level::None,
        ffi::SQLITE_LOCK_SHARED => Level::Shared,
        ffi::SQLITE_LOCK_RESERVED => Level::Reserved,
        ffi::SQLITE_LOCK_PENDING => Level::Pending,
        _ => Level::Exclusive,
    }
}

/// # Safety
/// As SQLite calls `xLock`.
unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, to: c_int) -> c_int {
    // SAFETY: as `connection` asks for.
    code(unsafe { connection(file) }.lock(level(to)))
}

/// # Safety
/// As SQLite calls `xUnlock`.
unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, to: c_int) -> c_int {
    // SAFETY: as `connection` asks for.
    code(unsafe { connection(file) }.unlock(level(to)))
}

/// # Safety
/// As SQLite calls `xCheckReservedLock`.
unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: as `connection` asks for.
    let reserved = unsafe { connection(file) }.is_reserved();
    code(reserved.map(|reserved| {
        // SAFETY: a place for a number.
        unsafe { *out = c_int::from(reserved) };
    }))
}

/// # Safety
/// As SQLite calls `xFileControl`.
unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    what: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: as `connection` asks for.
    let connection = unsafe { connection(file) };
    match what {
        ffi::SQLITE_FCNTL_BEGIN_ATOMIC_WRITE => connection.begin(),
        ffi::SQLITE_FCNTL_COMMIT_ATOMIC_WRITE => return code(connection.commit()),
        ffi::SQLITE_FCNTL_ROLLBACK_ATOMIC_WRITE => connection.rollback(),
        ffi::SQLITE_FCNTL_HAS_MOVED => {
            // SAFETY: the argument of this one is a place for a number.
            unsafe { argument.cast::<c_int>().write(c_int::from(connection.has_moved())) };
        }
        ffi::SQLITE_FCNTL_PRAGMA => {
            // SAFETY: the argument of a pragma is an array of strings.
            return unsafe { pragma(connection, argument.cast()) };
        }
        _ => return ffi::SQLITE_NOTFOUND,
    }
    ffi::SQLITE_OK
}

/// Answers `PRAGMA zonal`, and refuses a `PRAGMA page_size` of which no page could be written, and a `PRAGMA journal_mode`
/// that would leave transactions torn.
///
/// # Safety
/// `argument` has a place for an answer, and the pragma's name and its value, if it has one, behind it.
unsafe fn pragma(connection: &mut Connection, argument: *mut *mut c_char) -> c_int {
    // SAFETY: as above; both end with zero.
    let (name, value) = unsafe {
        let value = *argument.add(2);
        (CStr::from_ptr(*argument.add(1)), (!value.is_null()).then(|| CStr::from_ptr(value)))
    };
    let (result, text) = match name.to_bytes().to_ascii_lowercase().as_slice() {
        b"zonal" => match connection.counts() {
            Ok(text) => (ffi::SQLITE_OK, text),
            Err(code) => return code,
        },
        b"page_size" => match value.and_then(number).and_then(against_page_size) {
            Some(text) => (ffi::SQLITE_ERROR, text),
            None => return ffi::SQLITE_NOTFOUND,
        },
        b"journal_mode" => match value.map(CStr::to_bytes).and_then(against_journal_mode) {
            Some(text) => (ffi::SQLITE_ERROR, text),
            None => return ffi::SQLITE_NOTFOUND,
        },
        b"locking_mode" => {
            if value.is_some_and(|value| value.to_bytes().eq_ignore_ascii_case(b"exclusive")) {
                connection.be_alone();
            }
            return ffi::SQLITE_NOTFOUND;
        }
        b"synchronous" => {
            if value.is_some_and(|value| is_synchronous_off(value.to_bytes())) {
                connection.let_tear();
            }
            return ffi::SQLITE_NOTFOUND;
        }
        _ => return ffi::SQLITE_NOTFOUND,
    };
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: as above; SQLite frees what it has allocated.
    unsafe { *argument = ffi::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr()) };
    result
}

/// What SQLite takes a pragma's value for.
fn number(value: &CStr) -> Option<u64> {
    value.to_str().ok()?.trim().parse().ok()
}

/// # Safety
/// As SQLite calls `xSectorSize`.
unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

/// # Safety
/// As SQLite calls `xDeviceCharacteristics`.
unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_BATCH_ATOMIC
}
