//! An explorer of small drives: every order, every single failure, every power cut.
//!
//! ```text
//! scenario ─► run (a drive on a simulated disk, step by step) ─► model (what the contract says)
//!                 ▲                                                  │
//!              explore (which step next, replayed from the start) ◄──┘ a violation, with its steps
//! ```
//!
//! The model knows nothing of the crate's own rules: it is written from the contract, and looks at
//! the drive from above (completions, reports, reads) and from below (what reaches the disk).

pub(crate) mod explore;
pub(crate) mod model;
pub(crate) mod reopen;
pub(crate) mod run;
pub(crate) mod scenario;

/// Bytes of a block.
pub(crate) const BLOCK: u32 = 512;
/// Blocks from one zone's start to the next.
pub(crate) const ZONE: u32 = 8;
/// Blocks of a zone that can be written.
pub(crate) const CAPACITY: u32 = 5;
/// Zones of the drive.
pub(crate) const ZONES: usize = 2;
/// The longest append, in blocks.
pub(crate) const APPEND_MAX: u32 = 2;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Zeros.
    Zeros,
    /// That block of the record with that tag.
    Record(u8, u8),
    /// Something that was never written as one block.
    Torn,
}

fn pattern(tag: u8, index: u8) -> [u8; 8] {
    [0xA5, tag, index, !tag, !index, tag ^ index, 0x5A, 1]
}

/// The bytes of a record.
pub(crate) fn record(tag: u8, blocks: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..u8::try_from(blocks).expect("few blocks") {
        bytes.extend(pattern(tag, index).repeat(BLOCK as usize / 8));
    }
    bytes
}

/// What a block's bytes are.
pub(crate) fn held(block: &[u8]) -> Held {
    let (words, _) = block.as_chunks::<8>();
    let first = words[0];
    if words.iter().any(|word| *word != first) {
        return Held::Torn;
    }
    match first {
        [0, 0, 0, 0, 0, 0, 0, 0] => Held::Zeros,
        [_, tag, index, ..] if first == pattern(tag, index) => Held::Record(tag, index),
        _ => Held::Torn,
    }
}

/// What each block of the drive holds.
pub(crate) fn held_in(bytes: &[u8]) -> Vec<Held> {
    bytes.chunks(BLOCK as usize).map(held).collect()
}
