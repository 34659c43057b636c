//! What the system lets this process have.

use rustix::process::{Resource, getrlimit};

/// The capability that lifts the limit on locked memory (`capabilities(7)`).
const CAP_IPC_LOCK: u32 = 14;

/// How much more memory this process may register with rings, in bytes; none: as much as it likes.
pub(crate) fn lockable_bytes() -> Option<u64> {
    let limit = getrlimit(Resource::Memlock).current?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    remaining(limit, &status)
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
    fn what_is_pinned_counts_and_who_is_exempt_has_no_limit() {
        let status = |capabilities: &str| {
            format!("Name:\tzonal\nVmLck:\t 8 kB\nVmPin:\t      16 kB\nCapEff:\t{capabilities}\n")
        };
        assert_eq!(remaining(64 << 10, &status("0000000000000000")), Some(48 << 10));
        assert_eq!(remaining(8 << 10, &status("000001fffeffbfff")), Some(0));
        assert_eq!(remaining(64 << 10, &status("0000000000004000")), None);
        assert_eq!(remaining(64 << 10, ""), Some(64 << 10));
    }
}
