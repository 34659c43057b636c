//! FUSE's requests, answered by [`Files`]. What zonefs does not have (a file that is created, removed or
//! renamed) is refused here, with the numbers that the kernel's zonefs gives.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use zonal::ZoneKind;

use super::{
    closing::Closing,
    files::{Files, Owner},
    queue::TRANSFER_MAX,
    tree::{File, Node},
};

/// How long the kernel believes a name, which never changes.
const NAME_TTL: Duration = Duration::from_secs(3600);

/// How long it believes a size, which moves: it asks each time.
const ATTRIBUTE_TTL: Duration = Duration::ZERO;

/// The one life of every inode.
const GENERATION: Generation = Generation(0);

/// The file system that FUSE talks to.
#[derive(Debug)]
pub(super) struct Session {
    files: Arc<Files>,
    /// When it was mounted, which is what folders say they changed.
    began: SystemTime,
    /// Whether reads may go by the page cache: nobody else changes the drive, and no page is part beyond a
    /// file's end.
    cached: bool,
}

impl Session {
    pub(super) fn new(files: Arc<Files>, is_exclusive: bool) -> Self {
        // Of a smaller block part of a page would lie beyond a file's end.
        let whole_pages = (files.block_size() as usize).is_multiple_of(rustix::param::page_size());
        let cached = is_exclusive && !files.options().buffered && whole_pages;
        Self { files, began: SystemTime::now(), cached }
    }

    fn node(&self, inode: INodeNo) -> Result<Node, Errno> {
        self.files.tree.node(inode).ok_or(Errno::ENOENT)
    }

    fn file(&self, inode: INodeNo) -> Result<File, Errno> {
        match self.node(inode)? {
            Node::File(file) => Ok(file),
            Node::Root | Node::Folder(_) => Err(Errno::EISDIR),
        }
    }

    fn attributes(&self, inode: INodeNo, node: Node) -> FileAttr {
        match node {
            Node::Root => self.folder(inode, self.files.tree.folders().count() as u64, 2),
            Node::Folder(kind) => self.folder(inode, self.files.tree.files(kind).into(), 0),
            Node::File(file) => {
                let Owner { uid, gid, mode } = self.files.owner(&file);
                let changed = self.files.changed(&file);
                FileAttr {
                    ino: inode,
                    size: self.files.size(&file),
                    blocks: file.capacity / 512,
                    atime: changed,
                    mtime: changed,
                    ctime: changed,
                    crtime: self.began,
                    kind: FileType::RegularFile,
                    perm: mode & self.files.access(&file).mask(),
                    nlink: 1,
                    uid,
                    gid,
                    rdev: 0,
                    blksize: self.files.block_size(),
                    flags: 0,
                }
            }
        }
    }

    /// A folder's size is how many entries it has, as in zonefs.
    fn folder(&self, inode: INodeNo, entries: u64, folders: u32) -> FileAttr {
        let options = self.files.options();
        FileAttr {
            ino: inode,
            size: entries,
            blocks: 0,
            atime: self.began,
            mtime: self.began,
            ctime: self.began,
            crtime: self.began,
            kind: FileType::Directory,
            perm: 0o555,
            nlink: 2 + folders,
            uid: options.uid,
            gid: options.gid,
            rdev: 0,
            blksize: self.files.block_size(),
            flags: 0,
        }
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<(INodeNo, Node), Errno> {
        let parent = self.node(parent)?;
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        self.files.tree.lookup(parent, name).ok_or(Errno::ENOENT)
    }

    fn change(&self, node: Node, change: &Change) -> Result<(), Errno> {
        let Node::File(file) = node else {
            // Nothing is ever made in a folder.
            let writable = change.mode.is_some_and(|mode| mode & 0o222 != 0);
            let changes = change.uid.is_some() || change.gid.is_some() || change.size.is_some();
            return if writable || changes { Err(Errno::EPERM) } else { Ok(()) };
        };
        if let Some(size) = change.size {
            self.files.truncate(&file, size)?;
        }
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
            let owner = self.files.owner(&file);
            let mode = change.mode.map_or(owner.mode, permissions);
            let (uid, gid) = (change.uid.unwrap_or(owner.uid), change.gid.unwrap_or(owner.gid));
            self.files.set_owner(&file, Owner { uid, gid, mode });
        }
        Ok(())
    }

    /// How the kernel treats a file that is opened: whether by its page cache.
    fn way(&self, file: &File, flags: OpenFlags) -> FopenFlags {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let sequential = file.kind == ZoneKind::Sequential;
        // What is written to a sequential file has to arrive as it was asked for, or be refused.
        let direct = !self.cached || sequential && writes;
        if direct { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::FOPEN_KEEP_CACHE }
    }
}

/// What an open file is known by: the thread that opened it to write, or 0.
fn handle(request: &Request, flags: OpenFlags) -> FileHandle {
    let reads = flags.acc_mode() == OpenAccMode::O_RDONLY;
    FileHandle(if reads { 0 } else { request.pid().into() })
}

/// What `setattr` is asked for.
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
}

/// The permissions of a mode.
fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o777).unwrap_or_default()
}

impl Filesystem for Session {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Less is what an old kernel takes at most.
        let _ = config.set_max_write(TRANSFER_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok((inode, node)) => {
                let attributes = self.attributes(inode, node);
                reply.entry_with_ttls(&ATTRIBUTE_TTL, &NAME_TTL, &attributes, GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(inode) {
            Ok(node) => reply.attr(&ATTRIBUTE_TTL, &self.attributes(inode, node)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size };
        let changed = self.node(inode).and_then(|node| self.change(node, &change).map(|()| node));
        match changed {
            Ok(node) => reply.attr(&ATTRIBUTE_TTL, &self.attributes(inode, node)),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.file(inode).and_then(|file| {
            self.files.open(&file, flags)?;
            Ok(self.way(&file, flags))
        });
        match opened {
            Ok(way) => reply.opened(handle(request, flags), way),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = Vec::with_capacity(size as usize);
        let read = self.file(inode).and_then(|file| {
            self.files.read(&file, offset, size, flags, |piece| bytes.extend_from_slice(piece))
        });
        match read {
            Ok(()) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written =
            self.file(inode).and_then(|file| self.files.write(&file, offset, data, flags));
        match written.map(u32::try_from) {
            Ok(Ok(count)) => reply.written(count),
            Ok(Err(_)) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        let shared = self.files.options().allow_other;
        let closing = Closing { opener: handle.0, closer: request.pid(), shared };
        // It makes nothing durable.
        match self.file(inode).and_then(|file| self.files.close(&file, closing)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        match self.file(inode) {
            Ok(file) => {
                self.files.release(&file, flags);
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.file(inode).and_then(|file| self.files.sync(Some(&file))) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.files.sync(None) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let folder = match self.node(inode) {
            Ok(Node::File(_)) => return reply.error(Errno::ENOTDIR),
            Ok(folder) => folder,
            Err(errno) => return reply.error(errno),
        };
        for n in offset.. {
            // `.` and `..` come first.
            let entry = match n {
                0 => Some((inode, FileType::Directory, ".".to_owned())),
                1 => Some((INodeNo::ROOT, FileType::Directory, "..".to_owned())),
                _ => self.files.tree.entry(folder, n - 2).map(|entry| {
                    let kind =
                        if entry.is_folder { FileType::Directory } else { FileType::RegularFile };
                    (entry.inode, kind, entry.name)
                }),
            };
            let Some((inode, kind, name)) = entry else { break };
            if reply.add(inode, n + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (blocks, free) = self.files.blocks();
        let tree = &self.files.tree;
        let files: u64 = tree.folders().map(|(_, kind, _)| 1 + u64::from(tree.files(kind))).sum();
        let block = self.files.block_size();
        reply.statfs(blocks, free, free, files, 0, block, 255, block);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EACCES);
    }

    fn mknod(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
