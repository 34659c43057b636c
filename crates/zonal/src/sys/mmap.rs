//! Mapped memory: anonymous for buffers, shared with a file for the live file.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use super::limits::{lockable_bytes, locked_share};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// A mapping of this process, page aligned, unmapped on drop.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; who may touch which of its bytes
// is up to the two types below.
unsafe impl Send for Mapping {}
// SAFETY: a shared `Mapping` gives out its address only.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn from_raw(start: *mut std::ffi::c_void, length: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length; both users of `Mapping` hand out only what
        // borrows from it or keeps it alive.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The huge pages of most machines.
const HUGE: usize = 2 << 20;

/// Zeroed memory of whole pages that no file stands behind.
#[derive(Debug)]
pub(crate) struct AnonymousMap {
    mapping: Mapping,
    /// From where on it is used, and how much of it.
    skipped: usize,
    length: usize,
}

impl AnonymousMap {
    /// Maps `length` bytes (not 0).
    ///
    /// # Errors
    /// There is not that much address space or memory, or `length` is 0.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        Ok(Self { mapping: anonymous(length)?, skipped: 0, length })
    }

    /// The same, in huge pages if there are some and it fills half of one: what a device takes from it is few long
    /// pieces, where single pages may be more than it takes in one request. Not where less may be locked: of a huge
    /// page that is registered in part the kernel counts the whole (`io_buffer_account_pin`).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn for_transfers(length: usize) -> io::Result<Self> {
        let whole = length
            .checked_next_multiple_of(HUGE)
            .filter(|whole| length >= HUGE / 2 && locked_share(*whole, lockable_bytes()) == *whole);
        let Some(room) = whole.and_then(|whole| whole.checked_add(HUGE)) else {
            return Self::new(length);
        };
        let mapping = anonymous(room)?;
        let skipped = mapping.start.align_offset(HUGE);
        let map = Self { mapping, skipped, length };
        // SAFETY: whole huge pages inside of what was mapped just now.
        let advised =
            unsafe { madvise(map.start().as_ptr().cast(), room - HUGE, Advice::LinuxHugepage) };
        if let Err(error) = advised {
            tracing::debug!(%error, "buffers without huge pages");
        }
        Ok(map)
    }

    /// Where it begins. The address is good for as long as `self` lives.
    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: no more is skipped than is mapped.
        unsafe { self.mapping.start.add(self.skipped) }
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

fn anonymous(length: usize) -> io::Result<Mapping> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the address, so nothing mapped is replaced.
    let start =
        unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE)? };
    Mapping::from_raw(start, length)
}

/// A file's first bytes as 64-bit words, shared with the page cache and so with whoever opens
/// the file after this process is gone.
///
/// The file must not be made shorter while it is mapped: touching what is no longer there ends
/// the process with SIGBUS. Its owner keeps others away (mode 0600, allocated in full).
#[derive(Debug)]
pub(crate) struct SharedWords(Mapping);

impl SharedWords {
    /// Maps the first `words` words of `file`, which is open for reading and writing and at least
    /// that long.
    ///
    /// # Errors
    /// The file is shorter (`UnexpectedEof`), cannot be mapped, or `words` is 0.
    pub(crate) fn new(file: &File, words: usize) -> io::Result<Self> {
        let length = words.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < length as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so nothing mapped is replaced.
        let start =
            unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0)? };
        Mapping::from_raw(start, length).map(Self)
    }

    /// The words. Plain stores to them reach the file even if the process is killed right after.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned, `length / 8` words long, alive as long as the borrow of `self`.
        // Any bits are a valid AtomicU64, and others that map the file may change them at any
        // time, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr().cast(), self.0.length / 8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn memory_for_transfers_begins_with_a_huge_page_and_is_as_long_as_was_asked() {
        for (length, aligned) in
            [(HUGE / 2, HUGE), (HUGE + 4096, HUGE), (5 * HUGE, HUGE), (4096, 4096)]
        {
            let map = AnonymousMap::for_transfers(length).unwrap();
            assert_eq!((map.length(), map.start().align_offset(4096)), (length, 0));
            if lockable_bytes().is_none() {
                assert_eq!(map.start().align_offset(aligned), 0);
                assert_eq!(is_advised(&map), aligned == HUGE, "{length} bytes");
            }
            // SAFETY: as many bytes were mapped, and are this test's.
            let bytes = unsafe { std::slice::from_raw_parts_mut(map.start().as_ptr(), length) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(1);
        }
        assert!(AnonymousMap::for_transfers(0).is_err());
        assert!(AnonymousMap::for_transfers(usize::MAX - HUGE).is_err());
    }

    /// Whether the kernel was told to use huge pages for it (`smaps`, `VmFlags`).
    fn is_advised(map: &AnonymousMap) -> bool {
        let start = map.start().addr().get();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_its = false;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap();
            if let Some((from, to)) = first.split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                is_its = (number(from)..number(to)).contains(&start);
            } else if is_its && first == "VmFlags:" {
                return words.any(|flag| flag == "hg");
            }
        }
        unreachable!("it is mapped")
    }

    #[test]
    fn a_word_stored_in_a_shared_map_is_in_the_file() {
        let file = tempfile::tempfile().unwrap();
        assert!(SharedWords::new(&file, 512).is_err());
        file.set_len(4096).unwrap();
        let map = SharedWords::new(&file, 512).unwrap();
        map.words()[511].store(0x1122_3344, Ordering::Relaxed);
        drop(map);
        let again = SharedWords::new(&file, 512).unwrap();
        assert_eq!(again.words()[511].load(Ordering::Relaxed), 0x1122_3344);
        assert_eq!(again.words()[0].load(Ordering::Relaxed), 0);
    }
}
