//! The smallest FUSE file system that passes writes through to files: what FUSE itself costs.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

/// File `n` of the root is `files[n]`.
struct PassThrough {
    files: Vec<File>,
}

/// The inode of file 0.
const FIRST: u64 = 2;

impl PassThrough {
    fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        let (kind, size) = match inode.0.checked_sub(FIRST) {
            None => (FileType::Directory, 0),
            Some(n) => {
                let file = self.files.get(usize::try_from(n).unwrap_or(usize::MAX));
                (FileType::RegularFile, file.ok_or(Errno::ENOENT)?.metadata()?.len())
            }
        };
        let now = SystemTime::UNIX_EPOCH;
        Ok(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm: 0o777,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for PassThrough {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode = name.to_str().and_then(|name| name.parse::<u64>().ok());
        match inode.ok_or(Errno::ENOENT).and_then(|n| self.attributes(INodeNo(FIRST + n))) {
            Ok(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Ok(attributes) => reply.attr(&Duration::ZERO, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.getattr(request, inode, None, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The disk wants aligned memory, which the request's is not.
        let buffer = zonal::Buffer::from_slice(data);
        let file = &self.files[usize::try_from(inode.0 - FIRST).unwrap_or(usize::MAX)];
        match file.write_at(&buffer, offset) {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// Mounts one over files `0`, `1`, … of the folder `below`.
pub(crate) fn mount(below: &Path, files: u32, folder: &Path) -> io::Result<BackgroundSession> {
    let open = |n: u32| {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        options.open(below.join(n.to_string()))
    };
    let files = (0..files).map(open).collect::<io::Result<_>>()?;
    let mut config = Config::default();
    config.n_threads = Some(8);
    config.clone_fd = true;
    fuser::Session::new(PassThrough { files }, folder, &config)?.spawn()
}
