//! Which boot of the machine this is, and roughly what time.

use std::io;

/// Which boot of the machine this is: equal as long as it was not restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

/// Reads the kernel's boot id.
///
/// # Errors
/// `/proc` is not there, or holds something else than 32 hexadecimal digits.
pub(crate) fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id")?;
    parse_boot_id(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the boot id is not a UUID"))
}

fn parse_boot_id(text: &[u8]) -> Option<BootId> {
    let mut id = [0; 16];
    let mut digits = text.trim_ascii().iter().filter(|&&byte| byte != b'-');
    for byte in &mut id {
        *byte = hex(*digits.next()?)? << 4 | hex(*digits.next()?)?;
    }
    digits.next().is_none().then_some(BootId(id))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The time of day in nanoseconds since 1970, as exact as the last timer tick (1–10 ms).
///
/// The same clock stamps files: a modification time later than this was made later. Reading it
/// takes no system call.
pub(crate) fn coarse_realtime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_boot_has_one_id() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }

    #[test]
    fn a_boot_id_is_32_digits_with_or_without_dashes() {
        let id = parse_boot_id(b"00010203-0405-0607-0809-0a0B0c0D0e0f\n").unwrap();
        assert_eq!(id.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(parse_boot_id(b"00010203-0405-0607-0809-0a0b0c0d0e0"), None);
        assert_eq!(parse_boot_id(b"00010203-0405-0607-0809-0a0b0c0d0e0f0"), None);
        assert_eq!(parse_boot_id(b"g0010203-0405-0607-0809-0a0b0c0d0e0f"), None);
        assert_eq!(parse_boot_id(b""), None);
    }

    #[test]
    fn the_coarse_clock_is_near_the_exact_one() {
        let exact = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map(|since| u64::try_from(since.as_nanos()).unwrap())
            .unwrap();
        assert!(coarse_realtime_ns().abs_diff(exact) < 10_000_000_000);
    }
}
