//! Driving a queue: one request and its completion, and byte ranges read in order with many reads
//! in flight.
//!
//! Invariant: nothing here pushes more requests than the queue's depth, so a queue that is full is
//! a fault and not a state to wait in.

use std::{collections::VecDeque, io::Write};

use anyhow::{Context, Result, anyhow};
use zonal::{Buffer, Completion, Device, Full, Geometry, Queue, QueueOptions, Request};

use crate::output::Progress;

/// The most that one read or plain write moves: large enough that the cost of a request vanishes.
pub(crate) const PIECE: u64 = 256 << 10;

/// How many pieces are in flight; with [`PIECE`] 8 MiB of buffers.
pub(crate) const PIECES: u32 = 32;

/// Pushes `request`.
pub(crate) fn push(queue: &mut Queue, request: Request) -> Result<()> {
    queue.push(request).map_err(|Full(_)| anyhow!("the queue takes less than its depth"))
}

/// Leases a buffer of `len` bytes.
pub(crate) fn lease(queue: &mut Queue, len: usize) -> Result<Buffer> {
    queue.buffer(len).context("the queue has fewer buffers than its depth")
}

/// A queue for requests without data, or with little.
pub(crate) fn small_queue(device: &Device) -> Result<Queue> {
    Ok(device.queue(&QueueOptions { depth: 8, buffer_bytes: 64 << 10, ..Default::default() })?)
}

/// Runs one request on an otherwise idle queue.
pub(crate) fn run_one(queue: &mut Queue, request: Request) -> Result<Completion> {
    debug_assert_eq!(queue.in_flight(), 0);
    push(queue, request)?;
    loop {
        queue.submit_and_wait(1)?;
        if let Some(completion) = queue.next_completion() {
            return Ok(completion);
        }
    }
}

/// Makes durable what was acknowledged.
pub(crate) fn flush(queue: &mut Queue) -> Result<()> {
    run_one(queue, Request::flush())?.result?;
    Ok(())
}

/// A byte range of the drive, aligned to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// From the drive's start.
    pub(crate) offset: u64,
    /// How many bytes.
    pub(crate) length: u64,
}

/// One read: whole blocks of one zone, of which `take` bytes after `skip` are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: usize,
    skip: usize,
    take: usize,
}

/// Cuts the next piece off the front of `span`.
fn cut(span: &mut Span, geometry: &Geometry, piece: u64) -> Result<Option<Piece>> {
    if span.length == 0 {
        return Ok(None);
    }
    let block = u64::from(geometry.block_size);
    let start = span.offset - span.offset % block;
    let zone_end = (start / geometry.zone_size + 1).saturating_mul(geometry.zone_size);
    let end = (span.offset + span.length).next_multiple_of(block);
    let end = end.min(zone_end).min(start + piece);
    let skip = span.offset - start;
    let take = span.length.min(end - span.offset);
    *span = Span { offset: span.offset + take, length: span.length - take };
    Ok(Some(Piece {
        offset: start,
        length: usize::try_from(end - start)?,
        skip: usize::try_from(skip)?,
        take: usize::try_from(take)?,
    }))
}

/// A read on its way, or arrived and waiting for those before it.
struct Pending {
    piece: Piece,
    arrived: Option<Buffer>,
}

/// Reads `spans` and writes their bytes to `out` in that order. Returns how many bytes.
///
/// # Errors
/// The first read that fails, in the order of the spans, or `out`'s error.
pub(crate) fn copy_out(
    device: &Device,
    spans: impl IntoIterator<Item = Span>,
    largest: u64,
    out: &mut impl Write,
    progress: &mut Progress,
) -> Result<u64> {
    let geometry = device.geometry();
    let block = u64::from(geometry.block_size);
    // A span that starts inside a block takes up to a block more.
    let size = largest.saturating_add(block).next_multiple_of(block).min(PIECE.max(block));
    let options =
        QueueOptions { depth: PIECES, buffer_bytes: usize::try_from(size)?, ..Default::default() };
    let mut queue = device.queue(&options)?;
    let mut spans = spans.into_iter();
    let mut span = Span { offset: 0, length: 0 };
    let mut window: VecDeque<Pending> = VecDeque::with_capacity(PIECES as usize);
    // The tag of the window's front: tags count pieces.
    let mut front = 0u64;
    let mut total = 0;
    loop {
        while window.len() < PIECES as usize {
            let Some(piece) = cut(&mut span, geometry, size)? else {
                match spans.next() {
                    Some(next) => span = next,
                    None => break,
                }
                continue;
            };
            let buffer = lease(&mut queue, piece.length)?;
            let tag = front + window.len() as u64;
            push(&mut queue, Request::read_at(piece.offset, buffer).tag(tag))?;
            window.push_back(Pending { piece, arrived: None });
        }
        match window.front() {
            None => return Ok(total),
            Some(Pending { arrived: Some(_), .. }) => queue.submit()?,
            Some(Pending { arrived: None, .. }) => queue.submit_and_wait(1)?,
        };
        while let Some(Completion { tag, result, buffer, .. }) = queue.next_completion() {
            result?;
            let at = usize::try_from(tag - front)?;
            window[at].arrived = Some(buffer.context("a read came back without its buffer")?);
        }
        while let Some(Pending { piece, arrived: Some(buffer) }) = window.front() {
            out.write_all(&buffer[piece.skip..piece.skip + piece.take])?;
            progress.step(piece.take as u64);
            total += piece.take as u64;
            window.pop_front();
            front += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(offset: u64, length: u64) -> Vec<Piece> {
        let geometry =
            Geometry { zone_size: 65536, zone_capacity: 65536, ..Geometry::with_size(1 << 20) };
        let mut span = Span { offset, length };
        std::iter::from_fn(|| cut(&mut span, &geometry, 16384).unwrap()).collect()
    }

    #[test]
    fn a_span_inside_a_block_reads_the_block() {
        let piece = Piece { offset: 4096, length: 4096, skip: 4, take: 10 };
        assert_eq!(pieces(4100, 10), [piece]);
    }

    #[test]
    fn pieces_stop_at_their_size_and_at_the_zone_s_end() {
        let pieces = pieces(65536 - 4096 - 1, 20000);
        assert_eq!(pieces[0], Piece { offset: 57344, length: 8192, skip: 4095, take: 4097 });
        assert_eq!(pieces[1], Piece { offset: 65536, length: 16384, skip: 0, take: 15903 });
        assert_eq!(pieces.iter().map(|piece| piece.take).sum::<usize>(), 20000);
    }

    #[test]
    fn nothing_is_read_for_an_empty_span() {
        assert_eq!(pieces(77, 0), []);
    }
}
