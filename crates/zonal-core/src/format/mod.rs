//! Byte layouts of the image: qcow2 with QEMU's zoned extension, and our own beside it.
//!
//! Invariants of everything below this module:
//! * Multi-byte fields are big-endian, ours as well as qcow2's.
//! * Parsers take bytes, never panic, and believe no field before it is checked. A damaged image is
//!   [`ErrorKind::Damaged`] with the place in the file; one of another kind or revision is
//!   [`ErrorKind::NotZoned`] or [`ErrorKind::Unsupported`] by name.
//! * Nothing here does I/O: callers read the bytes and write what is encoded.
//!
//! The way through: [`geometry`] says what a drive looks like; [`layout`] plans a new image from it
//! and streams its metadata; [`qcow2`] reads the header back, with [`zoned`] (QEMU's extension and
//! the zone table) and [`zonal`] (our extension, sessions, generations); [`check`] proves that the
//! data lies in one piece and that the refcounts agree. `docs/image-format.md` has the byte tables.
//! [`repair`] plans how what was found wrong is made right. Beside them, [`dump`] is a whole drive as a stream.

pub mod adopt;
pub mod check;
pub mod dump;
pub mod geometry;
pub mod layout;
pub mod map;
pub mod qcow2;
pub mod repair;
#[cfg(test)]
mod sample;
pub mod zonal;
pub mod zoned;

pub use geometry::Geometry;
pub use zoned::TABLE_ENTRIES_PER_PAGE;

use crate::error::{Error, ErrorKind};
use alloc::borrow::Cow;

/// An error about a place in the image's file that contradicts the format.
fn damaged(offset: u64, length: u64, detail: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Damaged, detail).at(offset, length)
}

/// An error about a place in the image's file that this version does not understand or handle.
fn unsupported(offset: u64, length: u64, detail: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unsupported, detail).at(offset, length)
}

/// The big-endian number at `index` of a table of 64-bit numbers, if the table reaches that far.
fn be64(table: &[u8], index: usize) -> Option<u64> {
    let (words, _) = table.as_chunks::<8>();
    words.get(index).copied().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ends_with_its_last_whole_number() {
        let table = [0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 4, 5, 6];
        let numbers = [0, 1, 2].map(|index| be64(&table, index));
        assert_eq!(numbers, [Some(0x0102), Some(0x0300_0000_0000_0004), None]);
    }
}
