//! What a program can do with a zonefs, and what it is answered.

use std::{
    fs, io,
    io::{Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    ptr,
};

use nix::errno::Errno;
use rustix::{
    fs::{CWD, FallocateFlags, FileType, Mode},
    mm::{MapFlags, ProtFlags},
};
use zonal::Buffer;

use crate::direct;

/// A probe, what the kernel's zonefs answers, and what was answered.
pub(crate) type Said = (&'static str, &'static str, String);

/// Runs all probes, one after the other: each builds on what those before it left.
pub(crate) fn all(folder: &Path, explicit_open: bool) -> Vec<Said> {
    let mut probes = Probes { folder, said: Vec::new() };
    probes.shape();
    probes.names();
    probes.permissions();
    probes.writes();
    probes.appends();
    probes.reads();
    probes.cuts();
    probes.caches();
    probes.maps();
    probes.conventional();
    if explicit_open {
        probes.limits();
    }
    probes.said
}

struct Probes<'a> {
    folder: &'a Path,
    said: Vec<Said>,
}

/// What there is to say of a result.
trait Answer {
    fn answer(self) -> String;
}

impl Answer for () {
    fn answer(self) -> String {
        "ok".to_owned()
    }
}

impl Answer for usize {
    fn answer(self) -> String {
        self.to_string()
    }
}

impl Answer for String {
    fn answer(self) -> String {
        self
    }
}

impl Answer for fs::File {
    fn answer(self) -> String {
        "ok".to_owned()
    }
}

impl<T: Answer, E: Into<io::Error>> Answer for Result<T, E> {
    fn answer(self) -> String {
        match self {
            Ok(value) => value.answer(),
            Err(error) => {
                let number = error.into().raw_os_error().unwrap_or_default();
                format!("{:?}", Errno::from_raw(number))
            }
        }
    }
}

impl Probes<'_> {
    fn says(&mut self, probe: &'static str, expected: &'static str, answer: impl Answer) {
        self.said.push((probe, expected, answer.answer()));
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.join(name)
    }

    fn size(&self, name: &str) -> u64 {
        fs::metadata(self.at(name)).unwrap().len()
    }

    fn capacity(&self) -> u64 {
        fs::metadata(self.at("seq/0")).unwrap().blocks() * 512
    }

    /// The sizes and permissions of what is there.
    fn shape(&mut self) {
        let mode = |name: &str| format!("{:o}", fs::metadata(self.at(name)).unwrap().mode());
        let (root, folder, file) = (mode("."), mode("seq"), mode("seq/0"));
        self.says("mode of the root", "40555", root);
        self.says("mode of seq", "40555", folder);
        self.says("mode of seq/0", "100640", file);
        let entries = fs::read_dir(self.at("seq")).unwrap().count() as u64;
        let agrees = (self.size("seq") == entries).to_string();
        self.says("seq's size is how many files it has", "true", agrees);
        let size = self.size("seq/0").to_string();
        self.says("size of seq/0, never written", "0", size);
        let whole = (self.size("cnv/0") == fs::metadata(self.at("cnv/0")).unwrap().blocks() * 512)
            .to_string();
        self.says("cnv/0's size is its blocks", "true", whole);
        let block = fs::metadata(self.at("seq/0")).unwrap().blksize().to_string();
        self.says("st_blksize", "4096", block);
        let stat = rustix::fs::statvfs(self.folder).unwrap();
        let files: u64 = ["cnv", "seq"].iter().map(|name| 1 + self.size(name)).sum();
        let agrees = (stat.f_files == files && stat.f_ffree == 0).to_string();
        self.says("statfs counts files and folders, and no free ones", "true", agrees);
        let free = stat.f_bfree * stat.f_bsize;
        let empty = (free == self.size("seq") * self.capacity()).to_string();
        self.says("statfs: what is free is what sequential files take", "true", empty);
    }

    /// Nothing is made, removed or renamed.
    fn names(&mut self) {
        let at = |name: &str| self.at(name);
        let create = fs::File::create_new(at("seq/new"));
        let mkdir = fs::create_dir(at("seq/folder"));
        let unlink = fs::remove_file(at("seq/0"));
        let rmdir = fs::remove_dir(at("seq"));
        let rename = fs::rename(at("seq/0"), at("seq/1"));
        let rename_new = fs::rename(at("seq/0"), at("seq/new"));
        let link = fs::hard_link(at("seq/0"), at("seq/link"));
        let soft = symlink("0", at("seq/link"));
        let mknod =
            rustix::fs::mknodat(CWD, at("seq/new"), FileType::Fifo, Mode::from_raw_mode(0o600), 0);
        let other = fs::metadata(at("seq/00")).map(drop);
        let text = fs::metadata(at("seq/x")).map(drop);
        self.says("create seq/new", "ENOENT", create);
        self.says("mkdir seq/folder", "ENOENT", mkdir);
        self.says("unlink seq/0", "EPERM", unlink);
        self.says("rmdir seq", "EPERM", rmdir);
        self.says("rename seq/0 to seq/1", "EPERM", rename);
        self.says("rename seq/0 to seq/new", "ENOENT", rename_new);
        self.says("link seq/0", "ENOENT", link);
        self.says("symlink seq/link", "ENOENT", soft);
        self.says("mknod seq/new", "ENOENT", mknod);
        self.says("stat seq/00", "ENOENT", other);
        self.says("stat seq/x", "ENOENT", text);
    }

    fn permissions(&mut self) {
        let set =
            |name: &str, mode| fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode));
        let (folder, file) = (set("seq", 0o755), set("seq/0", 0o600));
        let mode = format!("{:o}", fs::metadata(self.at("seq/0")).unwrap().mode());
        set("seq/0", 0o640).unwrap();
        self.says("chmod 755 seq", "EPERM", folder);
        self.says("chmod 600 seq/0", "ok", file);
        self.says("mode of seq/0 then", "100600", mode);
    }

    /// At the end, in whole blocks, directly.
    fn writes(&mut self) {
        let cached = fs::File::options().write(true).open(self.at("seq/0")).unwrap();
        let file = direct(&self.at("seq/0"), true, false).unwrap();
        let block = Buffer::from_slice(&[1; 4096]);
        let capacity = self.capacity();
        let whole = Buffer::unpooled(usize::try_from(capacity).unwrap());
        self.says("write seq/0 through the cache", "EIO", cached.write_at(&block, 0));
        self.says("write seq/0, a block at its end", "4096", file.write_at(&block, 0));
        self.says("write seq/0, where it was written", "EINVAL", file.write_at(&block, 0));
        self.says("write seq/0, beyond its end", "EINVAL", file.write_at(&block, 8192));
        self.says("write seq/0, part of a block", "EINVAL", file.write_at(&block[..512], 4096));
        self.says("write seq/0, at its capacity", "EFBIG", file.write_at(&block, capacity));
        self.says("write seq/0, beyond its capacity", "EFBIG", file.write_at(&block, 2 * capacity));
        let size = self.size("seq/0").to_string();
        self.says("size of seq/0 then", "4096", size);
        let rest = file.write_at(&whole, 4096).map(|count| capacity - 4096 - count as u64);
        let rest = rest.map(|left| usize::try_from(left).unwrap());
        self.says("write seq/0, more than it takes: what is left", "0", rest);
        self.says("write seq/0, full", "EFBIG", file.write_at(&block, capacity));
        self.says("fsync seq/0", "ok", file.sync_all());
        let room = rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), 0, 4096);
        self.says("fallocate seq/0", "EOPNOTSUPP", room);
    }

    fn appends(&mut self) {
        let mut one = direct(&self.at("seq/1"), false, true).unwrap();
        let mut two = direct(&self.at("seq/1"), false, true).unwrap();
        let mut answers = Vec::new();
        for n in 0..4u8 {
            let block = Buffer::from_slice(&[n; 4096]);
            answers.push(if n % 2 == 0 { one.write(&block) } else { two.write(&block) }.answer());
        }
        let answers = answers.join(" ");
        self.says("append to seq/1 in turn", "4096 4096 4096 4096", answers);
        let bytes = fs::read(self.at("seq/1")).unwrap();
        let order = (bytes.len() == 4 * 4096
            && bytes.chunks(4096).zip(0..).all(|(block, n)| block.iter().all(|byte| *byte == n)))
        .to_string();
        self.says("they are one behind the other", "true", order);
        let part = one.write(&Buffer::from_slice(&[9; 512]));
        self.says("append part of a block", "EINVAL", part);
    }

    fn reads(&mut self) {
        let mut file = fs::File::open(self.at("seq/1")).unwrap();
        let uncached = direct(&self.at("seq/1"), true, false).unwrap();
        let mut bytes = Buffer::unpooled(32768);
        self.says("read seq/1, more than there is", "16384", file.read_at(&mut bytes, 0));
        self.says("read seq/1, at its end", "0", file.read_at(&mut bytes, 16384));
        self.says("read seq/1, beyond its capacity", "0", file.read_at(&mut bytes, 1 << 40));
        self.says("read seq/1, any bytes", "100", file.read_at(&mut bytes[..100], 4000));
        let border = format!("{} {}", bytes[95], bytes[96]);
        self.says("they are those of two blocks", "0 1", border);
        self.says("read seq/1 directly", "8192", uncached.read_at(&mut bytes[..8192], 4096));
        self.says(
            "read seq/1 directly, part of a block",
            "EINVAL",
            uncached.read_at(&mut bytes[..512], 0),
        );
        self.says(
            "read seq/1 directly, inside a block",
            "EINVAL",
            uncached.read_at(&mut bytes[..4096], 512),
        );
        let end = file.seek(SeekFrom::End(0)).map(|end| end.to_string());
        self.says("seek to seq/1's end", "16384", end);
    }

    fn cuts(&mut self) {
        let capacity = self.capacity();
        let folder = self.folder;
        let cut = |name: &str, size| {
            fs::File::options().write(true).open(folder.join(name))?.set_len(size)
        };
        let part = cut("seq/1", 4096);
        let odd = cut("seq/1", 5);
        let over = cut("seq/1", capacity + 4096);
        let same = cut("seq/1", 16384);
        let nothing = cut("seq/1", 0);
        let size = self.size("seq/1").to_string();
        self.says("cut seq/1 to a part", "EPERM", part);
        self.says("cut seq/1 to a few bytes", "EPERM", odd);
        self.says("cut seq/1 to more than it can hold", "EPERM", over);
        self.says("cut seq/1 to its size", "EPERM", same);
        self.says("cut seq/1 to nothing", "ok", nothing);
        self.says("size of seq/1 then", "0", size);
        self.says("cut seq/2 to its capacity", "ok", cut("seq/2", capacity));
        let full = (self.size("seq/2") == capacity).to_string();
        self.says("seq/2 has it then", "true", full);
        let zeros = fs::read(self.at("seq/2")).unwrap().iter().all(|byte| *byte == 0).to_string();
        self.says("and holds zeros", "true", zeros);
        self.says("cut cnv/0 to nothing", "EPERM", cut("cnv/0", 0));
        let truncated = fs::File::options().write(true).truncate(true).open(self.at("seq/2"));
        self.says("open seq/2 with O_TRUNC", "ok", truncated);
        let size = self.size("seq/2").to_string();
        self.says("size of seq/2 then", "0", size);
    }

    /// What was read before is not read again after a reset.
    fn caches(&mut self) {
        let path = self.at("seq/4");
        let writer = direct(&path, true, false).unwrap();
        let reader = fs::File::open(&path).unwrap();
        let mut bytes = [0; 4096];
        writer.write_at(&Buffer::from_slice(&[1; 8192]), 0).unwrap();
        reader.read_at(&mut bytes, 4096).unwrap();
        writer.set_len(0).unwrap();
        let gone = reader.read_at(&mut bytes, 4096);
        writer.write_at(&Buffer::from_slice(&[2; 8192]), 0).unwrap();
        let again = reader.read_at(&mut bytes, 4096).map(|_| bytes[0].to_string());
        self.says("read seq/4 where it was cut off", "0", gone);
        self.says("and after it was written again", "2", again);
    }

    fn maps(&mut self) {
        let path = self.at("seq/3");
        direct(&path, false, true).unwrap().write_all(&Buffer::from_slice(&[7; 4096])).unwrap();
        let reader = fs::File::open(&path).unwrap();
        let writer = fs::File::options().read(true).write(true).open(&path).unwrap();
        let seen = map(&reader, ProtFlags::READ, MapFlags::SHARED, |bytes| bytes[100].to_string());
        self.says("map seq/3 to be read", "7", seen);
        let kept = map(&writer, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE, |bytes| {
            bytes[0] = 8;
            bytes[0].to_string()
        });
        self.says("map seq/3 to be written by itself alone", "8", kept);
        let all = ProtFlags::READ | ProtFlags::WRITE;
        let shared = map(&writer, all, MapFlags::SHARED, |_| "mapped".to_owned());
        self.says("map seq/3 to be written by all", "EINVAL", shared);
    }

    fn conventional(&mut self) {
        let file = fs::File::options().read(true).write(true).open(self.at("cnv/0")).unwrap();
        let uncached = direct(&self.at("cnv/0"), true, false).unwrap();
        let size = self.size("cnv/0");
        self.says("write cnv/0, any bytes", "5", file.write_at(b"hello", 5000));
        file.sync_all().unwrap();
        let mut bytes = Buffer::unpooled(4096);
        let read = uncached.read_at(&mut bytes, 4096);
        self.says("read cnv/0 directly", "4096", read);
        let there = (&bytes[904..909] == b"hello").to_string();
        self.says("and find them", "true", there);
        self.says(
            "write cnv/0 directly, a block anywhere",
            "4096",
            uncached.write_at(&bytes, 65536),
        );
        self.says(
            "write cnv/0 directly, part of one",
            "EINVAL",
            uncached.write_at(&bytes[..512], 0),
        );
        self.says("write cnv/0 at its end", "EFBIG", uncached.write_at(&bytes, size));
        let appended = direct(&self.at("cnv/0"), false, true).unwrap().write(&bytes);
        self.says("append to cnv/0", "EINVAL", appended);
        let all = ProtFlags::READ | ProtFlags::WRITE;
        let mapped = map(&file, all, MapFlags::SHARED, |page| {
            page[..5].copy_from_slice(b"there");
            "mapped".to_owned()
        });
        self.says("map cnv/0 to be written by all", "mapped", mapped);
        file.sync_all().unwrap();
        uncached.read_at(&mut bytes, 0).unwrap();
        let there = (&bytes[..5] == b"there").to_string();
        self.says("and find it on the drive", "true", there);
    }

    /// As many files open to be written as zones may be open. It leaves them empty.
    fn limits(&mut self) {
        let mut open = Vec::new();
        let refused = loop {
            match direct(&self.at(&format!("seq/{}", open.len())), false, true) {
                Ok(file) if open.len() < 100 => open.push(file),
                ended => break ended,
            }
        };
        self.says("open more files to be written than zones may be open", "EBUSY", refused);
        let last = open.len();
        open.pop();
        let place = direct(&self.at(&format!("seq/{last}")), false, true);
        self.says("and again after one was closed", "ok", place);
    }
}

/// Maps the first page, and lets `look` at it.
fn map(
    file: &fs::File,
    protection: ProtFlags,
    flags: MapFlags,
    look: impl FnOnce(&mut [u8]) -> String,
) -> io::Result<String> {
    const PAGE: usize = 4096;
    // SAFETY: a new mapping; nobody else has its address.
    let page = unsafe { rustix::mm::mmap(ptr::null_mut(), PAGE, protection, flags, file, 0) }?;
    // SAFETY: the page is mapped, to be read at least, and the file does not become shorter while it is looked
    // at; `look` writes only to what was mapped to be written.
    let seen = look(unsafe { std::slice::from_raw_parts_mut(page.cast(), PAGE) });
    // SAFETY: the mapping made above, whose slice is gone.
    unsafe { rustix::mm::munmap(page, PAGE) }?;
    Ok(seen)
}
