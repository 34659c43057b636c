//! Journals of untorn writes: sound ones with changed fields, their checksums made right again, and bytes of no
//! shape at all.

use crate::memory::within;
use arbitrary::Arbitrary;
use zonal::fuzzing;
use zonal::sim::{FaultPlan, SimDisk, SimImage, SimMode};
use zonal_core::untorn::journal::{
    BLOCK, BLOCK_BYTES, Entry, FileId, Header, Mark, RING_OFFSET, Record,
};

/// A search reads 1 MiB at once, a record has 2 MiB of units.
const MEMORY_MAX: usize = 4 << 20;

/// What a fuzzer chooses: a journal, and the file beside it.
#[derive(Arbitrary, Debug)]
pub struct Case {
    journal: Journal,
    length: Option<u32>,
    /// Whether the checksums are made right after the changes.
    seal: bool,
    file_blocks: u8,
}

#[derive(Arbitrary, Debug)]
enum Journal {
    Sound {
        ring: u8,
        generation: u8,
        session: u8,
        tail: u16,
        records: Vec<Vec<Unit>>,
        changes: Vec<Change>,
    },
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Unit {
    /// In its own lengths.
    place: u8,
    power: u8,
    byte: u8,
}

/// A number in a block that replaces another.
#[derive(Arbitrary, Debug)]
struct Change {
    block: u8,
    word: u16,
    value: Value,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Any(u64),
    Small(u8),
    Power(u8),
    /// Just below one.
    UnderPower(u8, u8),
    Near(i8),
    /// Two numbers of 32 bits.
    Halves(u32, u32),
}

impl Case {
    /// The journal is replayed over the file and gone on with. What is refused changes nothing; what is not
    /// changes its units and no other byte, and is done once.
    pub fn open(&self) {
        let journal = SimDisk::new(&self.image(), quiet());
        let mut file = SimImage::new(u64::from(self.file_blocks) * BLOCK_BYTES, BLOCK);
        for block in 0..u64::from(self.file_blocks) {
            file.write(block * BLOCK_BYTES, &[0xA5; BLOCK]);
        }
        let data = SimDisk::new(&file, quiet());
        let begun = match within(MEMORY_MAX, || fuzzing::journal(&journal, &data)) {
            Ok(Some(begun)) => begun,
            Ok(None) => return assert!(data.image() == file, "there was nothing to replay"),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return assert!(data.image() == file, "refused, and changed all the same: {error}");
            }
        };
        let after = data.image();
        let end = begun.units.iter().map(|(offset, length)| offset + length).max().unwrap_or(0);
        assert_eq!(after.len(), file.len().max(end));
        for (offset, bytes) in after.sectors() {
            let is_unit = |(from, length): &(u64, u64)| (*from..from + length).contains(&offset);
            let mut before = vec![0; bytes.len()];
            file.read(offset, &mut before);
            assert!(bytes == before || begun.units.iter().any(is_unit), "{offset}: {begun:?}");
        }
        let again = fuzzing::journal(&journal, &data).expect("a journal that was begun");
        assert!(again.is_some_and(|again| again.units.is_empty()), "it was left behind");
        assert!(data.image() == after);
    }

    fn image(&self) -> SimImage {
        let mut image = match &self.journal {
            Journal::Bytes(bytes) => SimImage::from_bytes(bytes, BLOCK),
            Journal::Sound { ring, generation, session, tail, records, changes } => {
                let blocks = 8 + u64::from(*ring % 64);
                let file = FileId { inode: 7, born_ns: 70 };
                let new = Header::new([9; 16], blocks * BLOCK_BYTES, file).expect("a sound ring");
                let tail = Mark { position: u64::from(*tail) * BLOCK_BYTES, sequence: 5 };
                let (generation, session) = (u64::from(*generation), u64::from(*session));
                let header = Header { generation, session, tail, ..new };
                let mut image = sound(&header, records);
                changes.iter().for_each(|change| change.make(&mut image));
                image
            }
        };
        if let Some(length) = self.length {
            image.set_len(u64::from(length) % (1 << 20));
        }
        if self.seal {
            seal(&mut image);
        }
        image
    }
}

fn quiet() -> SimMode {
    SimMode::Auto { seed: 1, faults: FaultPlan::default() }
}

/// A journal with as many of the records as it has room for.
fn sound(header: &Header, records: &[Vec<Unit>]) -> SimImage {
    let mut image = SimImage::new(RING_OFFSET + header.ring_bytes, BLOCK);
    image.write(header.place(), &header.encode());
    let mut mark = header.tail;
    for units in records {
        let mut record = Record { mark, entries: Vec::new() };
        let mut bytes = Vec::new();
        for unit in units.iter().take(4) {
            let length = BLOCK_BYTES << (unit.power % 3);
            let unit_bytes = vec![unit.byte; length as usize];
            record.entries.push(Entry::of(u64::from(unit.place) * length, &unit_bytes));
            bytes.extend(unit_bytes);
        }
        let room = header.ring_bytes - (mark.position - header.tail.position);
        if record.entries.is_empty() || record.length() > room {
            break;
        }
        let whole = [record.encode(header), bytes].concat();
        let mut rest = &whole[..];
        for (offset, length) in header.pieces(mark.position, record.length()) {
            let (piece, behind) = rest.split_at(length as usize);
            image.write(offset, piece);
            rest = behind;
        }
        mark = record.next();
    }
    image
}

impl Change {
    fn make(&self, image: &mut SimImage) {
        let blocks = (image.len() / BLOCK_BYTES).max(1);
        let at = u64::from(self.block) % blocks * BLOCK_BYTES
            + u64::from(self.word) * 4 % (BLOCK_BYTES - 4);
        let mut old = [0; 8];
        image.read(at, &mut old);
        let value = match self.value {
            Value::Any(value) => value,
            Value::Small(value) => value.into(),
            Value::Power(power) => 1 << (power % 64),
            Value::UnderPower(power, by) => (1_u64 << (power % 64)).wrapping_sub(by.into()),
            Value::Near(by) => u64::from_be_bytes(old).wrapping_add_signed(by.into()),
            Value::Halves(high, low) => u64::from(high) << 32 | u64::from(low),
        };
        image.write(at, &value.to_be_bytes());
    }
}

/// Makes the checksums of headers and of heads of records right, wherever there seems to be one.
fn seal(image: &mut SimImage) {
    let mut block = vec![0; BLOCK];
    for at in (0..image.len()).step_by(BLOCK) {
        let whole = image.read(at, &mut block) == BLOCK;
        if whole && (block.starts_with(b"zonaljnl") || block.starts_with(b"zonalrec")) {
            let sum = crc32c::crc32c(&block[..BLOCK - 4]);
            image.write(at + BLOCK_BYTES - 4, &sum.to_be_bytes());
        }
    }
}
