//! A FUSE file system of two files. What is written to `disk` is logged in the order of its
//! arrival, with every sync; it fails on command. What is written to `marks` is logged in between, so
//! that a process can say what it knows at that moment.
//!
//! The kernel caches nothing of it, and it serves one request after the other: what was written
//! before a sync arrived had been completed.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DISK: INodeNo = INodeNo(2);
const MARKS: INodeNo = INodeNo(3);

/// What reached the disk, or was said.
#[derive(Debug)]
pub(crate) enum Entry {
    Write {
        offset: usize,
        bytes: Vec<u8>,
        /// It was asked to be durable by itself.
        durable: bool,
    },
    /// Everything before it is durable.
    Sync,
    Mark(String),
}

/// What goes wrong, from here on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    pub(crate) syncs: bool,
    /// Only requests that touch this range of the disk; all, if it is none.
    pub(crate) range: Option<Range<u64>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) bytes: Vec<u8>,
    /// `None` where nothing is logged.
    pub(crate) log: Option<Vec<Entry>>,
    /// Bytes of writes in the log.
    pub(crate) logged: usize,
    pub(crate) faults: Faults,
    /// Requests that failed.
    pub(crate) failed: u64,
    pub(crate) syncs: u64,
}

impl State {
    fn fails(&mut self, kind: bool, range: Range<u64>) -> bool {
        let bad = self.faults.range.as_ref();
        let touches = bad.is_none_or(|bad| bad.start < range.end && range.start < bad.end);
        let fails = kind && touches;
        self.failed += u64::from(fails);
        fails
    }

    fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) {
        let offset = usize::try_from(offset).unwrap();
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        if let Some(log) = &mut self.log {
            self.logged += bytes.len();
            log.push(Entry::Write { offset, bytes: bytes.to_vec(), durable });
        }
    }
}

/// The mounted disk; unmounted when dropped.
pub(crate) struct FuseDisk {
    state: Arc<Mutex<State>>,
    folder: PathBuf,
    session: Option<BackgroundSession>,
}

impl FuseDisk {
    pub(crate) fn new(folder: &Path, bytes: Vec<u8>) -> Self {
        let state = Arc::new(Mutex::new(State { bytes, ..State::default() }));
        let files = Files { state: Arc::clone(&state) };
        let session = fuser::spawn_mount(files, folder, &Config::default()).unwrap();
        Self { state, folder: folder.to_owned(), session: Some(session) }
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    pub(crate) fn marks(&self) -> PathBuf {
        self.folder.join("marks")
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Everything said since the log began.
    pub(crate) fn heard(&self) -> String {
        let state = self.state();
        let marks = state.log.iter().flatten().map(|entry| match entry {
            Entry::Mark(lines) => lines.as_str(),
            Entry::Write { .. } | Entry::Sync => "",
        });
        marks.collect()
    }

    /// Logs from here on; what the disk holds now is durable.
    pub(crate) fn begin_log(&self) -> Vec<u8> {
        let mut state = self.state();
        state.log = Some(Vec::new());
        state.bytes.clone()
    }
}

impl Drop for FuseDisk {
    fn drop(&mut self) {
        // A loop device lets go of it a moment after its file system is gone.
        let _ = nix::mount::umount2(&self.folder, nix::mount::MntFlags::MNT_DETACH);
        drop(self.session.take());
    }
}

struct Files {
    state: Arc<Mutex<State>>,
}

impl Files {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let (kind, size) = match ino {
            DISK => (FileType::RegularFile, self.state().bytes.len() as u64),
            MARKS => (FileType::RegularFile, 0),
            _ => (FileType::Directory, 0),
        };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// How long the kernel may believe attributes, which never change.
const FOR_EVER: Duration = Duration::from_secs(3600);

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some("disk") => DISK,
            Some("marks") => MARKS,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&FOR_EVER, &self.attributes(ino), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&FOR_EVER, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        let end = (offset + u64::from(size)).min(state.bytes.len() as u64);
        let reads = state.faults.reads;
        if state.fails(reads, offset..end) {
            return reply.error(Errno::EIO);
        }
        let (offset, end) = (usize::try_from(offset).unwrap(), usize::try_from(end).unwrap());
        reply.data(&state.bytes[offset.min(end)..end]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        let end = offset + data.len() as u64;
        if ino == MARKS {
            if let Some(log) = &mut state.log {
                log.push(Entry::Mark(String::from_utf8_lossy(data).into_owned()));
            }
        } else {
            let writes = state.faults.writes;
            if state.fails(writes, offset..end) {
                return reply.error(Errno::EIO);
            }
            if end > state.bytes.len() as u64 {
                return reply.error(Errno::ENOSPC);
            }
            state.write(offset, data, flags.0 & libc::O_DSYNC != 0);
        }
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        state.syncs += 1;
        let (syncs, whole) = (state.faults.syncs, 0..u64::MAX);
        if state.fails(syncs, whole) {
            return reply.error(Errno::EIO);
        }
        if let Some(log) = &mut state.log {
            log.push(Entry::Sync);
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let end = (offset + length).min(state.bytes.len() as u64);
        let writes = state.faults.writes;
        if state.fails(writes, offset..end) {
            return reply.error(Errno::EIO);
        }
        // Punching and zeroing; to allocate is nothing here.
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 && offset < end {
            let zeros = vec![0; usize::try_from(end - offset).unwrap()];
            state.write(offset, &zeros, false);
        }
        reply.ok();
    }
}
