//! An array of 64-bit atomics, in memory or in a mapped file.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// A fixed array of atomics that many threads, and with a mapped file another process, share.
pub(crate) struct SharedWords {
    #[cfg(not(zonal_shuttle))]
    words: core::ptr::NonNull<AtomicU64>,
    #[cfg(not(zonal_shuttle))]
    len: usize,
    #[cfg(not(zonal_shuttle))]
    memory: Memory,
    #[cfg(zonal_shuttle)]
    words: Arc<[AtomicU64]>,
}

#[cfg(not(zonal_shuttle))]
enum Memory {
    Heap(#[allow(dead_code, reason = "keeps the memory")] Box<[AtomicU64]>),
    Anonymous(super::mmap::AnonymousMap),
    Shared(Arc<SharedWords>),
    Mapped(super::mmap::SharedWords),
}

// SAFETY: the words are atomics in memory that `memory` owns for as long as this value lives and
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
        #[cfg(not(zonal_shuttle))]
        {
            let bytes = len.saturating_mul(size_of::<AtomicU64>());
            if let Ok(map) = super::mmap::AnonymousMap::new(bytes) {
                return Self { words: map.start().cast(), len, memory: Memory::Anonymous(map) };
            }
            let zeros = vec![0u64; len].into_boxed_slice();
            // SAFETY: AtomicU64 has the size, alignment and bit validity of u64, and the box is
            // the only owner.
            let words = unsafe { Box::from_raw(Box::into_raw(zeros) as *mut [AtomicU64]) };
            let first = core::ptr::NonNull::from(&*words).cast();
            Self { words: first, len, memory: Memory::Heap(words) }
        }
        #[cfg(zonal_shuttle)]
        Self { words: (0..len).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The same words once more, as a file that is mapped twice.
    pub(crate) fn share(words: &Arc<Self>) -> Self {
        #[cfg(not(zonal_shuttle))]
        return Self { words: words.words, len: words.len, memory: Memory::Shared(words.clone()) };
        #[cfg(zonal_shuttle)]
        Self { words: words.words.clone() }
    }

    /// All of them are read next: has their memory ready, where it is mapped.
    pub(crate) fn populate(&self) {
        #[cfg(not(zonal_shuttle))]
        match &self.memory {
            Memory::Heap(_) => {}
            Memory::Anonymous(map) => map.populate(),
            Memory::Shared(words) => words.populate(),
            Memory::Mapped(file) => file.populate(),
        }
    }

    /// What they hold now, on the heap.
    pub(crate) fn copy(&self) -> Self {
        self.populate();
        let copy = Self::heap(self.len());
        for index in 0..self.len() {
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
        #[cfg(not(zonal_shuttle))]
        {
            let words = core::ptr::NonNull::from(file.words());
            Self { words: words.cast(), len: words.len(), memory: Memory::Mapped(file) }
        }
        #[cfg(zonal_shuttle)]
        {
            let load = |word: &core::sync::atomic::AtomicU64| {
                AtomicU64::new(word.load(core::sync::atomic::Ordering::Acquire))
            };
            Self { words: file.words().iter().map(load).collect() }
        }
    }

    pub(crate) fn len(&self) -> usize {
        #[cfg(not(zonal_shuttle))]
        return self.len;
        #[cfg(zonal_shuttle)]
        return self.words.len();
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
            // SAFETY: inside the memory that `memory` owns: `index` was checked, the memory is
            // page or word aligned, and any bits are a valid AtomicU64.
            unsafe { self.words.add(index).as_ref() }
        }
        #[cfg(zonal_shuttle)]
        &self.words[index]
    }
}
