//! `append --resume`: the records that an earlier run acknowledged are skipped.
//!
//! Records complete in any order, so what is missing need not be the end.

use std::path::Path;

use anyhow::{Context, Result};
use zonal::Device;

use super::input::name_of;
use crate::{
    commands::cat::{hold_against, read_index},
    output::Ui,
    records::Index,
};

/// What is on the drive already.
#[derive(Default)]
pub(super) struct Resume {
    index: Index,
    name: String,
    /// Entries before this one are of records that were asked for.
    next: usize,
}

impl Resume {
    /// Reads the index at `path`; its last line may be cut off.
    pub(super) fn read(path: &Path, ui: &Ui) -> Result<Self> {
        let name = name_of(path).into_owned();
        let index = read_index(path, true)?;
        if index.torn {
            ui.say(format_args!(
                "index {name}: the last line is cut off and left out; \
                 remove it before more is added to the file"
            ));
        }
        Ok(Self { index, name, next: 0 })
    }

    /// Refuses an index whose records are not on the drive.
    pub(super) fn hold_against(&self, device: &Device) -> Result<()> {
        hold_against(&self.index, device).with_context(|| format!("index {}", self.name))
    }

    /// The length of `record` if it was acknowledged. Ask for records in ascending order; asking
    /// again for the same one is fine.
    pub(super) fn acknowledged(&mut self, record: u64) -> Option<u64> {
        let entries = &self.index.entries;
        while entries.get(self.next).is_some_and(|entry| entry.record < record) {
            self.next += 1;
        }
        entries.get(self.next).filter(|entry| entry.record == record).map(|entry| entry.length)
    }
}
