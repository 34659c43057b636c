//! Sizes in bytes: `4096`, `64K`, `64KiB`, `1M`, `8G` (powers of two), `64kB`, `1MB` (decimal),
//! `0x1000`.

use std::{fmt, str::FromStr};

/// A number of bytes as a person writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, unit) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) => (u64::from_str_radix(hex, 16).ok(), ""),
            None => {
                let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                (text[..digits].parse().ok(), &text[digits..])
            }
        };
        let scale = scale_of(unit.trim_start());
        match (number, scale) {
            (Some(number), Some(scale)) => {
                number.checked_mul(scale).map(Self).ok_or_else(|| "too large for 64 bits".into())
            }
            (None, Some(_)) if text.bytes().any(|b| b.is_ascii_digit()) && unit.is_empty() => {
                Err("not a whole number that fits 64 bits".into())
            }
            _ => Err("not a size; write 4096, 64K, 64KiB, 1M, 8G, 1MB (decimal) or 0x1000".into()),
        }
    }
}

/// What one of `unit` is in bytes. `K`, `Ki`, `KiB` are powers of two; `kB` and `MB` are decimal.
fn scale_of(unit: &str) -> Option<u64> {
    let (prefix, suffix) = unit.split_at_checked(1).unwrap_or((unit, ""));
    let power = match prefix {
        "" => return Some(1),
        "b" | "B" if suffix.is_empty() => return Some(1),
        "k" | "K" => 1,
        "m" | "M" => 2,
        "g" | "G" => 3,
        "t" | "T" => 4,
        "p" | "P" => 5,
        _ => return None,
    };
    match suffix {
        "" | "i" | "iB" => Some(1 << (10 * power)),
        "B" => Some(1000u64.pow(power)),
        _ => None,
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format_size(self.0))
    }
}

/// `bytes` with the largest binary unit that divides it, so that nothing is rounded away and the
/// result can be given back as an argument.
pub(crate) fn format_size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 5] = [(50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")];
    for (shift, unit) in UNITS {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Option<u64> {
        text.parse::<Size>().ok().map(|size| size.0)
    }

    #[test]
    fn binary_units_with_and_without_their_i() {
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("64K"), Some(65536));
        assert_eq!(size("64KiB"), Some(65536));
        assert_eq!(size("64k"), Some(65536));
        assert_eq!(size("1M"), Some(1 << 20));
        assert_eq!(size("8G"), Some(8 << 30));
        assert_eq!(size("2TiB"), Some(2 << 40));
        assert_eq!(size("0"), Some(0));
    }

    #[test]
    fn decimal_units_end_in_b() {
        assert_eq!(size("1kB"), Some(1000));
        assert_eq!(size("3MB"), Some(3_000_000));
        assert_eq!(size("512B"), Some(512));
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(size("0x1000"), Some(4096));
        assert_eq!(size("0xffffffffffffffff"), Some(u64::MAX));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "K", "-1", "1.5G", "4X", "4KB2", "0x", "0xg", "1 2", "18446744073709551616"]
        {
            assert_eq!(size(text), None, "{text:?}");
        }
        assert_eq!(size("16384P"), None);
        assert_eq!(size("é"), None);
        assert_eq!(size("1é"), None);
    }

    #[test]
    fn a_printed_size_reads_back_as_itself() {
        for bytes in [0, 1, 512, 1000, 4096, 65536, (1 << 20) + 4096, 8 << 30, u64::MAX] {
            assert_eq!(size(&format_size(bytes)), Some(bytes));
        }
        assert_eq!(format_size(64 << 20), "64M");
    }
}
