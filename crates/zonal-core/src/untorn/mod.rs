//! The rules of untorn (atomic) writes to ordinary files: which writes can be, and the journal that
//! makes them so where the kernel cannot.
//!
//! * [`Units`]: the kernel's rule for a unit (length a power of two, offset a multiple of it).
//! * [`journal`]: the bytes of the journal beside a file, and what of them is believed.
//! * [`ledger`]: which of its records are alive, where the next one goes, what may be reclaimed.
//!
//! Nothing here does I/O. `docs/journal-format.md` has the byte tables, `docs/semantics.md` the promise.

pub mod journal;
pub mod ledger;

use crate::error::{Error, ErrorKind, Result};
use alloc::format;

/// The smallest and largest unit that can be written untorn, in bytes: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
}

impl Units {
    /// Whether `length` bytes at `offset` are a unit: the rule the kernel has in
    /// `generic_atomic_write_valid` and its file systems' limits.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], `EINVAL` like the kernel's: the length is no power of two, the offset no
    /// multiple of it, the length outside the limits, or the end past what an offset can say.
    pub fn check(&self, offset: u64, length: u64) -> Result<()> {
        let refuse = |text| Err(Error::new(ErrorKind::InvalidInput, text).at(offset, length));
        let Self { min, max } = *self;
        if !length.is_power_of_two() {
            return refuse(format!(
                "an untorn write's length is a power of two, from {min} to {max}; split or pad it"
            ));
        }
        if length < min || length > max {
            return refuse(format!("an untorn write here has {min} to {max} bytes"));
        }
        if !offset.is_multiple_of(length) {
            return refuse(format!(
                "an untorn write's offset is a multiple of its length; the one below is {}",
                offset - offset % length
            ));
        }
        if offset.checked_add(length).is_none_or(|end| i64::try_from(end).is_err()) {
            return refuse(format!("it would end past {}, the last byte of any file", i64::MAX));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_unit_is_a_power_of_two_at_a_multiple_of_itself() {
        let units = Units { min: 4096, max: 65536 };
        for (offset, length) in [(0, 4096), (4096, 4096), (65536, 65536), (32768, 32768)] {
            assert!(units.check(offset, length).is_ok(), "{offset} {length}");
        }
        for (offset, length, why) in [
            (0, 0, "power of two"),
            (0, 12288, "power of two"),
            (0, 2048, "4096 to 65536"),
            (0, 131_072, "4096 to 65536"),
            (4096, 8192, "the one below is 0"),
            (512, 4096, "multiple"),
            (1 << 63, 4096, "past"),
            (u64::MAX - 4095, 4096, "past"),
        ] {
            let error = units.check(offset, length).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
