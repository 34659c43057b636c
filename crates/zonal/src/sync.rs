//! The one door to threads, locks and atomics, so that a model checker can stand behind it.
//!
//! With `--cfg zonal_shuttle` everything here is shuttle's, and each use is a point where the
//! scheduler may switch. What talks to the kernel itself (the ring, mapped files) stays with
//! `std`, because it cannot run under a model checker anyway.

#[cfg(zonal_shuttle)]
pub(crate) use shuttle::{
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic},
    thread,
};
#[cfg(not(zonal_shuttle))]
pub(crate) use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic},
    thread,
};

/// Lets other threads go on.
pub(crate) fn yield_now() {
    thread::yield_now();
}

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(debug_assertions)]
std::thread_local! {
    static LOCKS_TAKEN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many locks of this crate the calling thread has taken; `None` in builds without debug
/// assertions, which do not count. For the test that an ordinary write takes none.
#[doc(hidden)]
#[must_use]
pub fn locks_taken() -> Option<u64> {
    #[cfg(debug_assertions)]
    return Some(LOCKS_TAKEN.get());
    #[cfg(not(debug_assertions))]
    None
}

/// Locks, whether or not another thread panicked while it held the lock.
///
/// Right only for state that each holder leaves consistent before anything that can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(debug_assertions)]
    LOCKS_TAKEN.set(LOCKS_TAKEN.get() + 1);
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, with the same view of poisoning as [`lock`]. May wake for nothing.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// As [`wait`], for no longer than `limit`.
///
/// The model checker has no clock: there the limit is over at once, after other threads have
/// had their chance.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    mutex: &'a Mutex<T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    if cfg!(zonal_shuttle) {
        drop(guard);
        thread::yield_now();
        return lock(mutex);
    }
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}
