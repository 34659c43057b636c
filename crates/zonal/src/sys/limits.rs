//! What the system lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::DIRECT_ALIGNMENT;

/// The capability that lifts the limit on locked memory (`capabilities(7)`).
const CAP_IPC_LOCK: u32 = 14;

/// Which part of the memory that this process may still lock one ring's buffers take at most: a quarter.
/// Many kernels count the rings themselves as well, and a ring is worth more than known buffers.
const LOCKED_SHARE: u64 = 4;

/// Descriptors that are left to others, where there are as many, when the limit on them is raised.
const FILES_SPARE: u64 = 64;

/// Sees to it that so many more files can be open, by raising this process's limit if need be.
///
/// # Errors
/// How many may be open at most.
pub(crate) fn allow_files(more: u64) -> Result<(), u64> {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let needed = open.saturating_add(more);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Some(maximum) = maximum.filter(|&maximum| maximum < needed) {
        return Err(maximum);
    }
    let wanted = maximum.unwrap_or(u64::MAX).min(needed.saturating_add(FILES_SPARE));
    match current {
        Some(current) if current < wanted => {
            let raised = Rlimit { current: Some(wanted), maximum };
            setrlimit(Resource::Nofile, raised).map_err(|_| current)
        }
        Some(_) | None => Ok(()),
    }
}

/// How long files that this process writes may become, in bytes; none: as long as they like.
pub(crate) fn file_length() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// How much more memory this process may register with rings, in bytes; none: as much as it likes.
pub(crate) fn lockable_bytes() -> Option<u64> {
    let limit = getrlimit(Resource::Memlock).current?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    remaining(limit, &status)
}

/// Of `whole` bytes of buffers, how many are registered where so many may be locked: all, or whole pages
/// of a part of what there is, so that rings made after this one get some too.
pub(crate) fn locked_share(whole: usize, lockable: Option<u64>) -> usize {
    let Some(lockable) = lockable else { return whole };
    let share = usize::try_from(lockable / LOCKED_SHARE).unwrap_or(usize::MAX);
    if whole <= share { whole } else { whole_pages(share) }
}

pub(crate) fn whole_pages(length: usize) -> usize {
    length - length % DIRECT_ALIGNMENT
}

/// What a limit leaves, by what `/proc/self/status` says (`proc_pid_status(5)`).
fn remaining(limit: u64, status: &str) -> Option<u64> {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.split_whitespace().next()
    };
    let capabilities = field("CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok());
    if capabilities.is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1) {
        return None;
    }
    let pinned_kib = field("VmPin:").and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(pinned_kib << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_open_files_is_raised_as_far_as_it_goes() {
        allow_files(1).unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let Some(maximum) = maximum else { return };
        assert_eq!(allow_files(maximum), Err(maximum));
        assert_eq!(getrlimit(Resource::Nofile).current, current, "nothing has changed");
    }

    #[test]
    fn what_is_pinned_counts_and_who_is_exempt_has_no_limit() {
        let status = |capabilities: &str| {
            format!("Name:\tzonal\nVmLck:\t 8 kB\nVmPin:\t      16 kB\nCapEff:\t{capabilities}\n")
        };
        assert_eq!(remaining(64 << 10, &status("0000000000000000")), Some(48 << 10));
        assert_eq!(remaining(8 << 10, &status("000001fffeffbfff")), Some(0));
        assert_eq!(remaining(64 << 10, &status("0000000000004000")), None);
        assert_eq!(remaining(64 << 10, ""), Some(64 << 10));
    }

    #[test]
    fn an_arena_takes_no_more_than_a_part_of_what_may_be_locked() {
        assert_eq!(locked_share(8 << 20, None), 8 << 20);
        assert_eq!(locked_share(2 << 20, Some(8 << 20)), 2 << 20);
        assert_eq!(locked_share(8 << 20, Some(8 << 20)), 2 << 20);
        assert_eq!(locked_share(8 << 20, Some(60 << 10)), 12 << 10);
        assert_eq!(locked_share(8 << 20, Some(8192)), 0);
    }
}
