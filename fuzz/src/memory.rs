//! The largest piece of memory that was asked for: what is read must not decide it before it is checked.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: all of it is the system's; sizes are looked at in passing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: likewise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: likewise.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Does something, which must not ask for more than so many bytes at once.
pub(crate) fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    LARGEST.store(0, Ordering::Relaxed);
    let done = work();
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= bytes, "{largest} bytes were asked for at once, {bytes} would do");
    done
}
