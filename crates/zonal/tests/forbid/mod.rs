//! Seccomp filters that forbid io_uring, or make it fail. The program's tests use them as well.

#![allow(clippy::cast_possible_truncation, reason = "a test")]
#![allow(dead_code, reason = "each test uses what it needs")]

/// Lets everything pass but the making of rings, which fails with `errno`.
pub(crate) fn forbid_rings(errno: i32) -> std::io::Result<()> {
    forbid(libc::SYS_io_uring_setup, errno)
}

/// Makes all rings fail that the calling thread uses from now on.
pub(crate) fn fail_rings(errno: i32) -> std::io::Result<()> {
    forbid(libc::SYS_io_uring_enter, errno)
}

/// Lets everything pass that the calling thread, and those it starts, ask the kernel for, but this call.
fn forbid(call: libc::c_long, errno: i32) -> std::io::Result<()> {
    let load_number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let is_equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut steps = [
        // The system call's number is the first field of `seccomp_data`.
        step(load_number, 0, 0),
        step(is_equal, 1, call as u32),
        step(answer, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        step(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: both calls read their arguments only, which outlive them.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
