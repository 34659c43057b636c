//! Threads that signals do not reach.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

/// Starts a thread in which every signal is blocked, as it is in the kernel's own workers: the
/// program's handlers run elsewhere, and a write over the process's limit on files fails with
/// `EFBIG` and does not end the process by SIGXFSZ.
///
/// # Errors
/// There are too many threads, or no memory for another.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let before = block_signals();
    let thread = Builder::new().name(name.to_owned()).spawn(work);
    restore_signals(&before);
    thread
}

/// Blocks all signals in this thread, and so in those it starts; returns what was blocked.
fn block_signals() -> libc::sigset_t {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: both sets are ours, and are filled in before they are read. The call fails only
    // for an unknown `how`.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: a set that the kernel filled in; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked(signal: libc::c_int) -> bool {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is filled in by the call before it is read.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), set.as_mut_ptr());
            libc::sigismember(set.as_ptr(), signal) == 1
        }
    }

    #[test]
    fn signals_are_blocked_in_the_new_thread_and_not_in_the_old() {
        let thread = spawn("quiet", || {
            assert!(is_blocked(libc::SIGXFSZ) && is_blocked(libc::SIGINT));
        });
        thread.unwrap().join().unwrap();
        assert!(!is_blocked(libc::SIGXFSZ) && !is_blocked(libc::SIGINT));
    }
}
