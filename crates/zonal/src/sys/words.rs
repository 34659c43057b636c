//! An array of 64-bit atomics, in memory or in a mapped file.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// A fixed array of atomics that many threads, and with a mapped file another process, share.
pub(crate) struct SharedWords {
    #[cfg(not(zonal_shuttle))]
    words: core::ptr::NonNull<AtomicU64>,
    #[cfg(not(zonal_shuttle))]
    len: usize,
    #[cfg(not(zonal_shuttle))]
    _memory: Memory,
    #[cfg(zonal_shuttle)]
    words: Arc<[AtomicU64]>,
    /// Words from here on were never written, and are zero: who looks through all can stop.
    used: Arc<AtomicUsize>,
}

#[cfg(not(zonal_shuttle))]
enum Memory {
    Heap(#[allow(dead_code, reason = "keeps the memory")] Box<[AtomicU64]>),
    Anonymous(#[allow(dead_code, reason = "keeps the mapping")] super::mmap::AnonymousMap),
    Shared(#[allow(dead_code, reason = "keeps the memory")] Arc<SharedWords>),
    Mapped(#[allow(dead_code, reason = "keeps the mapping")] super::mmap::SharedWords),
}

// SAFETY: the words are atomics in memory that `_memory` owns for as long as this value lives and
// that nobody reaches but through shared references to them.
#[cfg(not(zonal_shuttle))]
unsafe impl Send for SharedWords {}
// SAFETY: as above.
#[cfg(not(zonal_shuttle))]
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// `len` zeros: mapped, so that of the many that are hardly ever used none takes memory or time
    /// before it is touched; from the heap where that cannot be.
    pub(crate) fn heap(len: usize) -> Self {
        let used = Arc::new(AtomicUsize::new(0));
        #[cfg(not(zonal_shuttle))]
        {
            let bytes = len.saturating_mul(size_of::<AtomicU64>());
            if let Ok(map) = super::mmap::AnonymousMap::new(bytes) {
                let words = map.start().cast();
                return Self { words, len, _memory: Memory::Anonymous(map), used };
            }
            let zeros = vec![0u64; len].into_boxed_slice();
            // SAFETY: AtomicU64 has the size, alignment and bit validity of u64, and the box is
            // the only owner.
            let words = unsafe { Box::from_raw(Box::into_raw(zeros) as *mut [AtomicU64]) };
            let first = core::ptr::NonNull::from(&*words).cast();
            Self { words: first, len, _memory: Memory::Heap(words), used }
        }
        #[cfg(zonal_shuttle)]
        Self { words: (0..len).map(|_| AtomicU64::new(0)).collect(), used }
    }

    /// The same words once more, as a file that is mapped twice.
    pub(crate) fn share(words: &Arc<Self>) -> Self {
        let used = words.used.clone();
        #[cfg(not(zonal_shuttle))]
        return Self {
            words: words.words,
            len: words.len,
            _memory: Memory::Shared(words.clone()),
            used,
        };
        #[cfg(zonal_shuttle)]
        Self { words: words.words.clone(), used }
    }

    /// What they hold now, on the heap.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::heap(self.len());
        copy.uses(self.used());
        for index in 0..self.used() {
            let value = self.get(index).load(Ordering::Acquire);
            if value != 0 {
                copy.get(index).store(value, Ordering::Release);
            }
        }
        copy
    }

    /// Over a mapped file. Under the model checker, whose atomics cannot lie in a file, over a
    /// copy of it.
    pub(crate) fn mapped(file: super::mmap::SharedWords) -> Self {
        let used = Arc::new(AtomicUsize::new(file.words().len()));
        #[cfg(not(zonal_shuttle))]
        {
            let words = core::ptr::NonNull::from(file.words());
            Self { words: words.cast(), len: words.len(), _memory: Memory::Mapped(file), used }
        }
        #[cfg(zonal_shuttle)]
        {
            let load = |word: &core::sync::atomic::AtomicU64| {
                AtomicU64::new(word.load(core::sync::atomic::Ordering::Acquire))
            };
            Self { words: file.words().iter().map(load).collect(), used }
        }
    }

    pub(crate) fn len(&self) -> usize {
        #[cfg(not(zonal_shuttle))]
        return self.len;
        #[cfg(zonal_shuttle)]
        return self.words.len();
    }

    /// How many of them may not be zero: all, where a file brought them.
    pub(crate) fn used(&self) -> usize {
        self.used.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Some of the first `words` are about to be written.
    pub(crate) fn uses(&self, words: usize) {
        debug_assert!(words <= self.len());
        self.used.fetch_max(words, std::sync::atomic::Ordering::AcqRel);
    }

    /// The word at `index`.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &AtomicU64 {
        #[cfg(not(zonal_shuttle))]
        {
            assert!(index < self.len);
            // SAFETY: inside the memory that `_memory` owns: `index` was checked, the memory is
            // page or word aligned, and any bits are a valid AtomicU64.
            unsafe { self.words.add(index).as_ref() }
        }
        #[cfg(zonal_shuttle)]
        &self.words[index]
    }
}
