//! The journal's file: made, replayed, written to and reclaimed, by blocking calls of whoever owns it.
//!
//! What is believed of it, and what may be reclaimed, is `zonal_core::untorn`'s to say. Order on disk:
//!
//! 1. [`Journal::write`] returns when the record is durable; its units go to their places after that, out of the
//!    record's own bytes.
//! 2. [`Journal::reclaim`] is called when a data sync has covered those places, and gives their room out
//!    when the header that leaves them behind is durable.
//! 3. [`replay`] puts the units of all records that are alive in their places, in order, and syncs them,
//!    before [`Journal::begin`] leaves them behind; cut off anywhere, it can be done again.

use crate::engine::Disk;
use crate::queue::{io_kind, io_text};
use crate::sys::memory::AlignedBytes;
use std::io;
use std::sync::Arc;
use zonal_core::broken::{Rule, is_broken};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::untorn::journal::{
    BLOCK, BLOCK_BYTES, FileId, Header, Mark, RECORD_UNITS_MAX, RING_MAX, RING_OFFSET, Record,
};
use zonal_core::untorn::ledger::Ledger;

/// Records whose units are on their way to their places, at most: each has its bytes in memory until then.
const ROOMS_MAX: usize = 4;

/// Of a ring that is searched for records, so many bytes are read at once.
const SEARCH_BYTES: u64 = 1 << 20;

/// How often damage is looked at again, in case it is somebody's writing.
const SURVEYS: usize = 20;

/// What a replay put in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Records that were alive.
    pub records: u64,
    /// Units in them.
    pub units: u64,
    /// Bytes of these units.
    pub bytes: u64,
}

/// A journal that is open for writing, with nothing to replay.
#[derive(Debug)]
pub(super) struct Journal {
    disk: Disk,
    header: Header,
    ledger: Ledger,
    /// Records on their way, each its head and then its units; those that nobody else has are free.
    rooms: Vec<Arc<AlignedBytes>>,
}

/// What stands in a journal's file.
pub(super) enum Found {
    /// Nothing yet, or a making that was cut off.
    Nothing,
    /// A journal.
    Journal(Header),
}

/// Looks at what stands in a journal's file.
///
/// # Errors
/// It is no journal of ours, a newer one, or damaged; the medium's.
pub(super) fn look(disk: &Disk) -> Result<Found> {
    let length = disk.len().map_err(journal_error)?;
    let mut bytes = vec![0; near(length.min(RING_OFFSET))];
    disk.read_exact_at(&mut bytes, 0).map_err(journal_error)?;
    if Header::is_unfinished(&bytes) && is_blank_behind(disk, length)? {
        return Ok(Found::Nothing);
    }
    Header::decode(&bytes, length).map(Found::Journal)
}

/// Whether nothing stands behind the headers, as in a ring that no record went to: a file of somebody else's may begin
/// with zeros, too.
fn is_blank_behind(disk: &Disk, length: u64) -> Result<bool> {
    if length > RING_OFFSET + RING_MAX {
        return Ok(false);
    }
    let mut bytes = AlignedBytes::zeroed(near(SEARCH_BYTES));
    let mut at = RING_OFFSET;
    while at < length {
        let piece = &mut bytes[..near(SEARCH_BYTES.min(length - at))];
        disk.read_exact_at(piece, at).map_err(journal_error)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += SEARCH_BYTES;
    }
    Ok(true)
}

/// Makes a journal out of an empty file: all of its space, then its first header, durable.
///
/// # Errors
/// [`ErrorKind::NoSpace`]; the medium's.
pub(super) fn make(disk: &Disk, header: &Header) -> Result<()> {
    let length = RING_OFFSET + header.ring_bytes;
    let failed = |error: io::Error| {
        let text = format!("{length} bytes for the journal: {}", io_text(&error));
        Error::new(io_kind(&error), text).with_source(error)
    };
    disk.set_len(0).map_err(failed)?;
    match disk.allocate(0, length) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => fill(disk, length),
        allocated => allocated,
    }
    .map_err(failed)?;
    disk.write_all_at(&header.encode(), header.place()).map_err(failed)?;
    disk.sync_data().map_err(failed)
}

fn fill(disk: &Disk, length: u64) -> io::Result<()> {
    let zeros = AlignedBytes::zeroed(near(SEARCH_BYTES));
    let mut at = 0;
    while at < length {
        let piece = SEARCH_BYTES.min(length - at);
        disk.write_all_at(&zeros[..near(piece)], at)?;
        at += piece;
    }
    Ok(())
}

/// Gives each record that is alive to `each`, with its units' bytes, in order. Returns what they were, and
/// where they end.
///
/// # Errors
/// [`ErrorKind::Damaged`]: a record is broken that was durable once, since a later one is there; the
/// medium's; those of `each`.
pub(super) fn walk(
    disk: &Disk,
    header: &Header,
    mut each: impl FnMut(&Record, &[u8]) -> Result<()>,
) -> Result<(Replayed, Mark)> {
    let (mut total, mut mark) = (Replayed::default(), header.tail);
    // A ring full of records ends where it began.
    while mark.position - header.tail.position < header.ring_bytes {
        let mut head = vec![0; BLOCK];
        read(disk, header, mark.position, &mut head)?;
        let Some(record) = Record::decode(&head, header, mark)? else { break };
        if record.next().position - header.tail.position > header.ring_bytes {
            let text = "a record runs into the first one that is alive";
            return Err(Error::new(ErrorKind::Damaged, text));
        }
        let mut units = vec![0; near(record.length() - BLOCK_BYTES)];
        read(disk, header, mark.position + BLOCK_BYTES, &mut units)?;
        if !record.proves(&units) {
            break;
        }
        each(&record, &units)?;
        total.records += 1;
        total.units += record.entries.len() as u64;
        total.bytes += units.len() as u64;
        mark = record.next();
    }
    refuse_later(disk, header, mark)?;
    Ok((total, mark))
}

/// A header, what is alive behind it, and where that ends.
pub(super) type Surveyed = (Header, Replayed, Mark);

/// What is in a journal that others may be writing to at this moment; nothing where it was not made to its end. What looks like damage to a reader that is overtaken looks
/// otherwise the next time.
///
/// # Errors
/// As [`look`] and [`walk`]; [`ErrorKind::InUse`] where it never stands still.
pub(super) fn survey(disk: &Disk) -> Result<Option<Surveyed>> {
    let mut before = None;
    for _ in 0..SURVEYS {
        let header = match look(disk) {
            Ok(Found::Nothing) => return Ok(None),
            Ok(Found::Journal(header)) => Ok(header),
            Err(error) => Err(error),
        };
        let generation = header.as_ref().ok().map(|header| header.generation);
        let found = header.and_then(|header| {
            let (alive, end) = walk(disk, &header, |_, _| Ok(()))?;
            Ok(Some((header, alive, end)))
        });
        let Err(error) = &found else { return found };
        // Behind one header nothing is written over, and no record follows one that is not whole.
        let seen = Some((generation, error.detail().to_owned()));
        if error.kind() != ErrorKind::Damaged || seen == before {
            return found;
        }
        before = seen;
    }
    let text = "it is being written to, faster than it can be read; close its file first";
    Err(Error::new(ErrorKind::InUse, text))
}

/// Refuses a journal in which a record stands that can only have been written when the one at `mark`, which
/// is not whole, was.
fn refuse_later(disk: &Disk, header: &Header, mark: Mark) -> Result<()> {
    let mut at = 0;
    while at < header.ring_bytes {
        let length = SEARCH_BYTES.min(header.ring_bytes - at);
        let mut bytes = vec![0; near(length)];
        disk.read_exact_at(&mut bytes, RING_OFFSET + at).map_err(journal_error)?;
        for (block, place) in bytes.chunks(BLOCK).zip((at..).step_by(BLOCK)) {
            if Record::is_later(block, header, mark, place) {
                let broken = header.pieces(mark.position, BLOCK_BYTES)[0].0;
                let text = format!(
                    "record {} is broken, and a later one is whole at byte {}: what was acknowledged since \
                     may be missing from the file; bring both back from a copy, or move the journal away to \
                     go on with the file as it is",
                    mark.sequence,
                    RING_OFFSET + place
                );
                return Err(Error::new(ErrorKind::Damaged, text).at(broken, BLOCK_BYTES));
            }
        }
        at += length;
    }
    Ok(())
}

/// Puts the units of all records that are alive in their places in the file that is `data`, durably.
///
/// # Errors
/// As [`walk`]; then, and when writing fails, nothing is reclaimed, and it can be done again.
pub(super) fn replay(journal: &Disk, header: &Header, data: &Disk) -> Result<(Replayed, Mark)> {
    // All of it is looked at before anything is changed.
    let (_, end) = walk(journal, header, |_, _| Ok(()))?;
    next_session(header, end, header.file)?;
    let failed = |error: io::Error| {
        let text = format!("putting the journal's units in their places: {}", io_text(&error));
        Error::new(io_kind(&error), text).with_source(error)
    };
    let found = walk(journal, header, |record, mut units| {
        for entry in &record.entries {
            let (unit, rest) = units.split_at(near(entry.length));
            data.write_all_at(unit, entry.offset).map_err(failed)?;
            units = rest;
        }
        Ok(())
    })?;
    if found.0.records > 0 {
        data.sync_data().map_err(failed)?;
    }
    Ok(found)
}

/// What an opening found alive in a journal.
#[cfg(fuzzing)]
#[derive(Debug)]
pub struct Begun {
    /// Where each unit went, and its length, in bytes.
    pub units: Vec<(u64, u64)>,
}

/// Does what an opening does with a journal: it is replayed, and a session is begun. Nothing: it has not been
/// made to its end.
#[cfg(fuzzing)]
pub(crate) fn begin_journal(journal: Disk, data: &Disk) -> Result<Option<Begun>> {
    let Found::Journal(header) = look(&journal)? else { return Ok(None) };
    let mut units = Vec::new();
    walk(&journal, &header, |record, _| {
        units.extend(record.entries.iter().map(|entry| (entry.offset, entry.length)));
        Ok(())
    })?;
    let (_, end) = replay(&journal, &header, data)?;
    Journal::begin(journal, &header, end, header.file)?;
    Ok(Some(Begun { units }))
}

impl Journal {
    /// Begins a session behind the records before `tail`, which are replayed. No record is written before
    /// its header is durable.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]: its numbers end; the medium's.
    pub(super) fn begin(disk: Disk, found: &Header, tail: Mark, file: FileId) -> Result<Self> {
        let header = next_session(found, tail, file)?;
        let rooms = Vec::with_capacity(ROOMS_MAX);
        let mut journal = Self { disk, ledger: Ledger::new(&header), header, rooms };
        journal.write_header()?;
        Ok(journal)
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Whether there is memory for one more record.
    pub(super) fn has_room(&self) -> bool {
        self.rooms.len() < ROOMS_MAX || self.rooms.iter().any(|room| Arc::strong_count(room) == 1)
    }

    /// The bytes of a record that the ledger has admitted, with its units behind its head. Nobody changes them
    /// as long as the caller keeps them.
    pub(super) fn fill<'a>(
        &mut self,
        record: &Record,
        units: impl Iterator<Item = &'a [u8]>,
    ) -> Arc<AlignedBytes> {
        let free = self.rooms.iter().position(|room| Arc::strong_count(room) == 1);
        let mut room = match free {
            Some(free) => self.rooms.swap_remove(free),
            None => Arc::new(AlignedBytes::zeroed(near(
                BLOCK_BYTES + self.header.record_units_max().min(RECORD_UNITS_MAX),
            ))),
        };
        if let Some(bytes) = Arc::get_mut(&mut room) {
            let (head, mut rest) = bytes.split_at_mut(BLOCK);
            head.copy_from_slice(&record.encode(&self.header));
            for unit in units {
                let (place, behind) = rest.split_at_mut(unit.len());
                place.copy_from_slice(unit);
                rest = behind;
            }
        }
        self.rooms.push(room.clone());
        room
    }

    /// Writes a record, and makes it durable.
    ///
    /// # Errors
    /// The medium's. Whether the record is in the journal is then unknown; nothing may be written behind it.
    pub(super) fn write(&mut self, record: &Record, room: &AlignedBytes) -> Result<()> {
        let mut bytes = &room[..near(record.length())];
        for (offset, length) in self.header.pieces(record.mark.position, record.length()) {
            let (piece, behind) = bytes.split_at(near(length));
            if !piece.is_empty() {
                self.disk.write_all_at(piece, offset).map_err(journal_error)?;
            }
            bytes = behind;
        }
        if is_broken(Rule::RecordDurable) {
            return Ok(());
        }
        self.disk.sync_data().map_err(journal_error)
    }

    /// Leaves the records before `mark` behind: a data sync has covered their places.
    ///
    /// # Errors
    /// The medium's. Then nothing is given out again.
    pub(super) fn reclaim(&mut self, mark: Mark) -> Result<()> {
        if mark == self.header.tail {
            return Ok(());
        }
        self.header.tail = mark;
        self.write_header()?;
        self.ledger.reclaim(mark);
        Ok(())
    }

    fn write_header(&mut self) -> Result<()> {
        self.header.generation += 1;
        let bytes = self.header.encode();
        self.disk.write_all_at(&bytes, self.header.place()).map_err(journal_error)?;
        self.disk.sync_data().map_err(journal_error)
    }
}

/// The header of a session behind the records before `tail`.
///
/// # Errors
/// [`ErrorKind::Damaged`]: the numbers of `found` end.
fn next_session(found: &Header, tail: Mark, file: FileId) -> Result<Header> {
    let header = Header { session: found.session + 1, tail, file, ..found.clone() };
    header.check_next()?;
    Ok(header)
}

/// Reads around the ring's end.
fn read(disk: &Disk, header: &Header, position: u64, mut bytes: &mut [u8]) -> Result<()> {
    for (offset, length) in header.pieces(position, bytes.len() as u64) {
        let (piece, rest) = bytes.split_at_mut(near(length));
        if !piece.is_empty() {
            disk.read_exact_at(piece, offset).map_err(journal_error)?;
        }
        bytes = rest;
    }
    Ok(())
}

pub(super) fn journal_error(error: io::Error) -> Error {
    Error::new(io_kind(&error), format!("the journal: {}", io_text(&error))).with_source(error)
}

/// A distance within a ring, which is far smaller than the address space.
fn near(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}
