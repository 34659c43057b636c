//! Zone ranges, the same in every command: `N`, `A..B` (B not included), `A..=B`, `A..`, `..B`,
//! `..=B`, `..`.

use std::{ops::Range, str::FromStr};

use anyhow::{Result, ensure};

use crate::output::plural;

/// A range of zone numbers as written, before it is held against a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZoneRange {
    start: u32,
    /// The zone after the last, or the drive's end. 64 bits, since `..=4294967295` is a range.
    end: Option<u64>,
    text: String,
}

impl ZoneRange {
    /// The zones it names on a drive of `zones` zones. An open end stops at the drive's end; a
    /// number that the drive does not have is an error.
    pub(crate) fn resolve(&self, zones: u32) -> Result<Range<u32>> {
        let end = self.end.unwrap_or_else(|| u64::from(zones));
        ensure!(
            end <= u64::from(zones) && self.start < zones,
            "zone range {}: the drive has {}; name some of 0..{zones}",
            self.text,
            plural(zones as usize, "zone")
        );
        // Bounded by `zones` just above.
        let end = u32::try_from(end)?;
        ensure!(self.start < end, "zone range {} is empty", self.text);
        Ok(self.start..end)
    }
}

impl FromStr for ZoneRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (start, end) = match text.split_once("..") {
            None => {
                let zone = number(text)?;
                (zone, Some(u64::from(zone) + 1))
            }
            Some((start, end)) => {
                let start = if start.is_empty() { 0 } else { number(start)? };
                let end = match end.strip_prefix('=') {
                    Some(last) => Some(u64::from(number(last)?) + 1),
                    None if end.is_empty() => None,
                    None => Some(u64::from(number(end)?)),
                };
                (start, end)
            }
        };
        if end.is_some_and(|end| end <= u64::from(start)) {
            return Err(format!("{text} holds no zone; A..B ends before B, A..=B includes it"));
        }
        Ok(Self { start, end, text: text.into() })
    }
}

fn number(text: &str) -> Result<u32, String> {
    if !text.bytes().all(|b| b.is_ascii_digit()) || text.is_empty() {
        return Err("not a zone range; write N, A..B, A..=B, A.. or ..B".into());
    }
    text.parse().map_err(|_| format!("zone {text} does not fit 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(text: &str) -> Range<u32> {
        text.parse::<ZoneRange>().unwrap().resolve(16).unwrap()
    }

    #[test]
    fn every_way_to_write_a_range() {
        assert_eq!(zones("3"), 3..4);
        assert_eq!(zones("3..5"), 3..5);
        assert_eq!(zones("3..=5"), 3..6);
        assert_eq!(zones("3.."), 3..16);
        assert_eq!(zones("..3"), 0..3);
        assert_eq!(zones("..=3"), 0..4);
        assert_eq!(zones(".."), 0..16);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "x", "1-3", "1...3", "-1", "+1", "5..5", "5..3", "1..=", "4294967296"] {
            assert!(text.parse::<ZoneRange>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_zone_the_drive_does_not_have_is_named() {
        for text in ["16", "0..17", "16..", "..=16", "0..=4294967295"] {
            let error = text.parse::<ZoneRange>().unwrap().resolve(16).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("16 zones"), "{error}");
        }
    }
}
