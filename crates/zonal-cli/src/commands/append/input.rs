//! Inputs cut into records.
//!
//! Bytes are read with large reads straight into buffers leased from the queue, several records at
//! once; they are copied nowhere. A record never spans two inputs.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fs::File,
    io::{self, IoSliceMut, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zonal::{Buffer, Queue};

/// How many bytes one read asks for, as far as whole records go.
const READ_BYTES: usize = 1 << 20;

/// How many records one read fills at most; the kernel takes far more slices.
const BATCH: usize = 32;

/// The name by which an input is asked for and reported.
pub(super) fn name_of(path: &Path) -> Cow<'_, str> {
    path.to_string_lossy()
}

/// A record ready to be appended.
pub(super) struct Cut {
    /// Its number over all inputs.
    pub(super) record: u64,
    /// Which input.
    pub(super) input: usize,
    /// Where in the input it starts.
    pub(super) input_offset: u64,
    /// Its own bytes; the buffer's length is that rounded up, the rest zeros.
    pub(super) length: usize,
    /// The bytes.
    pub(super) buffer: Buffer,
}

/// What [`Cutter::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be records to take.
    Read,
    /// Nothing to read yet; asking again may block.
    NotReady,
    /// The queue has no buffer to read into.
    NoBuffer,
    /// All inputs are read to their end.
    End,
}

/// The input being read.
struct Open {
    file: File,
    /// Reading it never blocks for long.
    regular: bool,
    ended: bool,
}

/// Cuts inputs into records.
pub(super) struct Cutter {
    paths: Vec<PathBuf>,
    /// The index in `paths` of the input that is open, or is next.
    input: usize,
    open: Option<Open>,
    /// How far the current input has been cut.
    input_offset: u64,
    next_record: u64,
    record_bytes: usize,
    block: usize,
    batch: usize,
    /// Buffers that bytes are read into, in order; the first `filled` bytes of them are there.
    buffers: VecDeque<Buffer>,
    filled: usize,
}

impl Cutter {
    /// A cutter of `paths` (`-` is stdin) into records of `record_bytes`, a multiple of `block`.
    pub(super) fn new(paths: Vec<PathBuf>, record_bytes: usize, block: usize) -> Self {
        let batch = (READ_BYTES / record_bytes).clamp(1, BATCH);
        Self {
            paths,
            input: 0,
            open: None,
            input_offset: 0,
            next_record: 0,
            record_bytes,
            block,
            batch,
            buffers: VecDeque::with_capacity(batch),
            filled: 0,
        }
    }

    /// How many buffers it holds at most while others are in flight.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// The number of the next record and where it starts.
    pub(super) fn position(&self) -> (u64, usize, u64) {
        (self.next_record, self.input.min(self.paths.len().saturating_sub(1)), self.input_offset)
    }

    /// The inputs.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// How long the next record is with its padding, if one is there.
    pub(super) fn next_padded(&self) -> Option<usize> {
        let length = self.next_length()?;
        Some(length.next_multiple_of(self.block))
    }

    /// How many bytes of its own the next record has, if one is there.
    pub(super) fn next_length(&self) -> Option<usize> {
        let ended = self.open.as_ref().is_some_and(|open| open.ended);
        match self.filled {
            0 => None,
            filled if filled >= self.record_bytes => Some(self.record_bytes),
            filled if ended => Some(filled),
            _ => None,
        }
    }

    /// Takes the next record.
    pub(super) fn take(&mut self) -> Option<Cut> {
        let length = self.next_length()?;
        let mut buffer = self.buffers.pop_front()?;
        let padded = length.next_multiple_of(self.block);
        buffer[length..padded].fill(0);
        buffer.set_len(padded);
        self.filled -= length;
        let cut = Cut {
            record: self.next_record,
            input: self.input,
            input_offset: self.input_offset,
            length,
            buffer,
        };
        self.next_record += 1;
        self.input_offset += length as u64;
        Some(cut)
    }

    /// Reads more, once, after all records were taken. Waits for a slow input only if `wait` says so,
    /// and even then not longer than a moment, so that signals are seen.
    pub(super) fn read(&mut self, queue: &mut Queue, wait: bool) -> Result<Progress> {
        while self.buffers.len() < self.batch {
            let Some(buffer) = queue.buffer(self.record_bytes) else { break };
            self.buffers.push_back(buffer);
        }
        if self.buffers.is_empty() {
            return Ok(Progress::NoBuffer);
        }
        let Some(open) = self.current()? else { return Ok(Progress::End) };
        if !open.regular && !is_ready(&open.file, wait)? {
            return Ok(Progress::NotReady);
        }
        let path = &self.paths[self.input];
        let (filled, buffers) = (self.filled, &mut self.buffers);
        let Some(open) = &mut self.open else { return Ok(Progress::End) };
        let read = read_into(&mut open.file, buffers, filled)
            .with_context(|| format!("reading {}", name_of(path)))?;
        match read {
            0 => open.ended = true,
            read => self.filled += read,
        }
        Ok(Progress::Read)
    }

    /// The input to read from, opening the next one where one has ended.
    fn current(&mut self) -> Result<Option<&Open>> {
        if self.open.as_ref().is_some_and(|open| open.ended) {
            debug_assert_eq!(self.filled, 0, "records are taken before more is read");
            self.open = None;
            self.input += 1;
            self.input_offset = 0;
        }
        if self.open.is_none() {
            let Some(path) = self.paths.get(self.input) else { return Ok(None) };
            self.open = Some(open(path).with_context(|| format!("opening {}", name_of(path)))?);
        }
        Ok(self.open.as_ref())
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let file = if path == Path::new("-") {
        File::from(io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        File::open(path)?
    };
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(Open { file, regular: kind.is_file(), ended: false })
}

/// Whether a read would return at once. With `wait`, waits for that a moment.
fn is_ready(file: &File, wait: bool) -> io::Result<bool> {
    let moment = if wait { Duration::from_millis(100) } else { Duration::ZERO };
    let moment = Timespec::try_from(moment).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    match poll(&mut fds, Some(&moment)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// One read into `buffers` behind their first `filled` bytes, which all lie in the first of them.
fn read_into(file: &mut File, buffers: &mut VecDeque<Buffer>, filled: usize) -> io::Result<usize> {
    let mut rest = buffers.iter_mut();
    let mut slices: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|at| match rest.next() {
        Some(buffer) => IoSliceMut::new(&mut buffer[if at == 0 { filled } else { 0 }..]),
        None => IoSliceMut::new(&mut []),
    });
    loop {
        match file.read_vectored(&mut slices) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
