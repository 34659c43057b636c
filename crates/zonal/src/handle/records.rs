//! The records of one zone, from its start to its write pointer, read ahead.

use super::{Failed, Operation, Transfer, Zone};
use std::collections::VecDeque;
use std::fmt;
use zonal_core::error::{Error, ErrorKind, Result};

/// Bytes of one read, and how many are under way: enough to keep a fast disk busy.
const CHUNK_BYTES: u64 = 256 << 10;
const CHUNKS_AHEAD: usize = 4;

/// One record of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins, absolute, in bytes.
    pub offset: u64,
    /// Its own bytes, without what fills up its last block.
    pub bytes: Vec<u8>,
}

/// The records of a zone, in the order in which they lie: an [`Iterator`], and for asynchronous
/// programs [`Records::next_async`]. Made by [`Zone::records`] and [`Zone::records_by`].
///
/// It ends at the write pointer as it was when it was made. What is below it and was not
/// acknowledged by then reads as zeros, as do dead ranges and what a finish left. After an error
/// it ends.
pub struct Records {
    zone: Zone,
    length_of: LengthOf,
    block: usize,
    /// Where the next chunk will be read, and where it all ends; absolute.
    next_chunk: u64,
    end: u64,
    chunks: VecDeque<Operation<Transfer>>,
    /// Bytes that were read, from `offset` on; those before `used` are done with.
    window: Vec<u8>,
    used: usize,
    offset: u64,
}

type LengthOf = Box<dyn FnMut(&[u8]) -> Option<usize> + Send>;

/// What can be said by the bytes there are.
enum Step {
    Found(Record),
    NeedsMore,
    Wrong(Error),
}

impl Zone {
    /// Its records, if all have the same length in bytes. Each begins at a block, as they do when
    /// each was an append of its own. A dead range in between shows as records of zeros.
    ///
    /// ```
    /// use zonal::{OpenOptions, Target};
    ///
    /// let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
    /// let zone = drive.zone(0)?;
    /// for n in 0..10 {
    ///     zone.append(vec![n; 4096]).wait()?;
    /// }
    /// for record in zone.records(4096)? {
    ///     let record = record?;
    ///     println!("at {}: {}", record.offset, record.bytes[0]);
    /// }
    /// # Ok::<(), zonal::Error>(())
    /// ```
    ///
    /// # Errors
    /// A length of zero; a zone that is offline.
    pub fn records(&self, length: usize) -> Result<Records> {
        if length == 0 {
            let text = "records of no bytes; say how long they are";
            return Err(Error::new(ErrorKind::InvalidInput, text).in_zone(self.number));
        }
        self.records_by(move |_| Some(length))
    }

    /// Its records, if each says itself how long it is. `length_of` is given what follows from a
    /// record's start, at least one block, and says the record's length in bytes; `None` where no
    /// record begins: then the next block is looked at.
    ///
    /// ```
    /// use zonal::{OpenOptions, Target};
    ///
    /// let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
    /// let zone = drive.zone(0)?;
    /// for text in ["first", "second"] {
    ///     let mut record = vec![0; 4096];
    ///     record[..4].copy_from_slice(&(text.len() as u32).to_le_bytes());
    ///     record[4..][..text.len()].copy_from_slice(text.as_bytes());
    ///     zone.append(record).wait()?;
    /// }
    /// let length = |bytes: &[u8]| match u32::from_le_bytes(bytes[..4].try_into().unwrap()) {
    ///     0 => None,
    ///     length => Some(4 + length as usize),
    /// };
    /// let mut records = zone.records_by(length)?;
    /// assert_eq!(records.next().unwrap()?.bytes[4..], *b"first");
    /// assert_eq!(records.next().unwrap()?.bytes[4..], *b"second");
    /// assert!(records.next().is_none());
    /// # Ok::<(), zonal::Error>(())
    /// ```
    ///
    /// # Errors
    /// A zone that is offline.
    pub fn records_by(
        &self,
        length_of: impl FnMut(&[u8]) -> Option<usize> + Send + 'static,
    ) -> Result<Records> {
        let info = self.info();
        if info.state == zonal_core::zone::ZoneState::Offline {
            let error = Error::new(ErrorKind::ZoneOffline, "it can no longer be read");
            return Err(error.in_zone(self.number).during("read").on(self.device.name()));
        }
        Ok(Records {
            zone: self.clone(),
            length_of: Box::new(length_of),
            block: self.device.geometry().block_size as usize,
            next_chunk: info.start,
            end: info.write_pointer.unwrap_or(info.start + info.capacity),
            chunks: VecDeque::with_capacity(CHUNKS_AHEAD),
            window: Vec::new(),
            used: 0,
            offset: info.start,
        })
    }
}

impl Records {
    /// The next record, as [`Iterator::next`], without blocking the thread. Where the future is
    /// dropped before its end, no record is lost.
    pub async fn next_async(&mut self) -> Option<Result<Record>> {
        loop {
            match self.step()? {
                Step::Found(record) => return Some(Ok(record)),
                Step::Wrong(error) => return Some(self.end_with(error)),
                Step::NeedsMore => {
                    // It stays in its place until it has come: this future may be dropped.
                    let chunk = self.chunk()?.await;
                    self.chunks.pop_front();
                    if let Err(failed) = self.take_in(chunk) {
                        return Some(self.end_with(failed.error));
                    }
                }
            }
        }
    }

    /// What is next, by the bytes there are; none at the end.
    fn step(&mut self) -> Option<Step> {
        loop {
            let rest = &self.window[self.used..];
            let left = self.end - self.offset;
            if left == 0 {
                return None;
            }
            if rest.len() < self.block {
                return Some(Step::NeedsMore);
            }
            let Some(length) = (self.length_of)(rest).filter(|&length| length > 0) else {
                self.advance(self.block);
                continue;
            };
            let taken = length.checked_next_multiple_of(self.block).unwrap_or(usize::MAX);
            if taken as u64 > left {
                let text = format!("a record of {length} bytes, and {left} to the write pointer");
                let error = Error::new(ErrorKind::Damaged, text);
                return Some(Step::Wrong(error.at(self.offset, length as u64)));
            }
            if rest.len() < taken {
                return Some(Step::NeedsMore);
            }
            let record = Record { offset: self.offset, bytes: rest[..length].to_vec() };
            self.advance(taken);
            return Some(Step::Found(record));
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.used += bytes;
        self.offset += bytes as u64;
    }

    /// The read that comes next, with others started behind it.
    fn chunk(&mut self) -> Option<&mut Operation<Transfer>> {
        while self.chunks.len() < CHUNKS_AHEAD && self.next_chunk < self.end {
            let length = CHUNK_BYTES.min(self.end - self.next_chunk);
            let device = &self.zone.device;
            let buffer = device.buffer(usize::try_from(length).unwrap_or(0));
            self.chunks.push_back(device.read_at(self.next_chunk, buffer).start());
            self.next_chunk += length;
        }
        self.chunks.front_mut()
    }

    fn take_in(&mut self, chunk: Result<Transfer, Failed>) -> Result<(), Failed> {
        let chunk = chunk?;
        self.window.drain(..self.used);
        self.used = 0;
        self.window.extend_from_slice(&chunk.buffer);
        Ok(())
    }

    fn end_with(&mut self, error: Error) -> Result<Record> {
        self.offset = self.end;
        self.chunks.clear();
        Err(error.in_zone(self.zone.number).during("read records").on(self.zone.device.name()))
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        loop {
            match self.step()? {
                Step::Found(record) => return Some(Ok(record)),
                Step::Wrong(error) => return Some(self.end_with(error)),
                Step::NeedsMore => {
                    self.chunk()?;
                    let chunk = self.chunks.pop_front()?.wait();
                    if let Err(failed) = self.take_in(chunk) {
                        return Some(self.end_with(failed.error));
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({:?}, {} to {})", self.zone, self.offset, self.end)
    }
}
