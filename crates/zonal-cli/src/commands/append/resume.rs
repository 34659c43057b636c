//! `append --resume`: the records that an earlier run acknowledged are skipped.
//!
//! Records complete in any order, so what is missing need not be the end. The index is held against
//! the drive and, as far as their lengths are known beforehand, against the inputs before anything is
//! appended: a record is skipped only where its line says the same piece of the same file.

use std::{
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use zonal::Device;

use super::input::name_of;
use crate::{
    commands::cat::{hold_against, read_index},
    output::Ui,
    own,
    records::{Entry, Format, Index},
};

/// What is on the drive already.
#[derive(Default)]
pub(super) struct Resume {
    index: Index,
    path: PathBuf,
    /// Entries before this one are of records that were asked for.
    next: usize,
}

/// Where a record is cut from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    /// The input.
    pub(super) input: &'a Path,
    /// Where in it the record starts, in bytes.
    pub(super) offset: u64,
    /// How many bytes it has.
    pub(super) length: u64,
}

const SAME: &str =
    "resume with the same inputs, by the same names and in the same order, and the same --record";

impl Resume {
    /// Reads the index at `path`; its last line may be cut off.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Ok(Self { index: read_index(path, true)?, path: path.to_owned(), next: 0 })
    }

    fn place(&self) -> String {
        format!("index {}", name_of(&self.path))
    }

    /// Refuses an index whose records are not on the drive, or not of these inputs.
    pub(super) fn hold_against(
        &self,
        device: &Device,
        inputs: &[PathBuf],
        record_bytes: u64,
    ) -> Result<()> {
        hold_against(&self.index, device)
            .and_then(|()| self.hold_against_inputs(inputs, record_bytes))
            .with_context(|| self.place())
    }

    /// Goes along the inputs and the index together, up to the first input whose length nobody knows.
    fn hold_against_inputs(&self, inputs: &[PathBuf], record_bytes: u64) -> Result<()> {
        for file in &self.index.files {
            let given = inputs.iter().any(|input| input.as_os_str().as_bytes() == file);
            ensure!(given, "it has records of {}, which is not given; {SAME}", named(file));
        }
        let mut rest = inputs.iter();
        let mut current = rest.next();
        // The number of the current input's first record.
        let mut first = 0;
        for entry in &self.index.entries {
            let several = inputs.len() > 1;
            ensure!(
                !several || self.index.file_of(entry).is_some(),
                "line {} names no file, so the index is that of one input, and {} are given; {SAME}",
                entry.line,
                inputs.len()
            );
            loop {
                let Some(input) = current else {
                    bail!(
                        "line {}: the inputs end before record {}, at {first} records; {SAME}",
                        entry.line,
                        entry.record
                    );
                };
                let Some(length) = length_of(input) else { return Ok(()) };
                let records = length.div_ceil(record_bytes);
                if entry.record < first + records {
                    let offset = (entry.record - first) * record_bytes;
                    let length = record_bytes.min(length - offset);
                    self.compare(entry, Piece { input, offset, length })?;
                    break;
                }
                first += records;
                current = rest.next();
            }
        }
        Ok(())
    }

    /// Refuses a record that is not what its line says.
    fn compare(&self, entry: &Entry, piece: Piece<'_>) -> Result<()> {
        let Piece { input, offset, length } = piece;
        let file = self.index.file_of(entry);
        let same_file = file.is_none_or(|file| file == input.as_os_str().as_bytes());
        let same_offset = entry.file_offset.is_none_or(|there| there == offset);
        if same_file && same_offset && entry.length == length {
            return Ok(());
        }
        let there = match (file, entry.file_offset) {
            (Some(file), Some(at)) => format!("{} bytes at {at} of {}", entry.length, named(file)),
            _ => format!("{} bytes", entry.length),
        };
        bail!(
            "line {}: record {} is {there} in the index, but {length} bytes at {offset} of {:?} \
             here; {SAME}",
            entry.line,
            entry.record,
            input.as_os_str()
        )
    }

    /// Whether `record`, cut from `piece`, was acknowledged. Ask for records in ascending order;
    /// asking again for the same one is fine.
    pub(super) fn acknowledged(&mut self, record: u64, piece: Piece<'_>) -> Result<bool> {
        let entries = &self.index.entries;
        while entries.get(self.next).is_some_and(|entry| entry.record < record) {
            self.next += 1;
        }
        match entries.get(self.next) {
            Some(entry) if entry.record == record => {
                self.compare(entry, piece).with_context(|| self.place())?;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    /// Whether its lines say which file they are of.
    pub(super) fn names_files(&self) -> bool {
        !self.index.files.is_empty()
    }

    /// Refuses lines that would go behind others of the index and could not be read there.
    pub(super) fn hold_against_output(&self, format: Format) -> Result<()> {
        if own::is_stdout(&self.path) {
            format.goes_on(&self.index).with_context(|| self.place())?;
        }
        Ok(())
    }

    /// Says whether a line is cut off. Where the new lines go behind it, it is taken away first.
    pub(super) fn end_with_a_whole_line(&self, ui: &Ui) -> Result<()> {
        let (index, place) = (&self.index, self.place());
        let goes_on = own::is_stdout(&self.path);
        match index.cut_off {
            Some(line) if goes_on => {
                let now = rustix::fs::fstat(io::stdout())?.st_size;
                let untouched = u64::try_from(now) == Ok(index.bytes);
                ensure!(untouched, "{place}: somebody else writes to it; end that first");
                rustix::fs::ftruncate(io::stdout(), index.whole_bytes).with_context(|| {
                    format!("{place}: line {line} is cut off; remove it by hand")
                })?;
                ui.say(format_args!("{place}: line {line} was cut off, and is taken away"));
            }
            Some(line) => ui.say(format_args!(
                "{place}: line {line} is cut off and left out; remove it before more is added to the \
                 file"
            )),
            None if goes_on && index.unended => io::stdout().write_all(b"\n")?,
            None => {}
        }
        Ok(())
    }
}

/// How long an input is, where that is known before it is read.
fn length_of(input: &Path) -> Option<u64> {
    input.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len())
}

/// A name in a message.
fn named(file: &[u8]) -> String {
    format!("{:?}", std::ffi::OsStr::from_bytes(file))
}
