//! The drive's end of a request: each thread that serves the mount has a queue of its own, waits in the
//! kernel for what it sent, and hands nothing to another thread.

use std::{cell::RefCell, ops::Range};

use zonal::{Buffer, Completion, Device, Error, ErrorKind, Queue, QueueOptions, Request, Result};

/// The longest read or write of the kernel: what FUSE takes in 256 pages.
pub(super) const TRANSFER_MAX: u32 = 1 << 20;

/// The largest block, of which an unaligned read takes one more.
const BLOCK_MAX: usize = 64 << 10;

thread_local! {
    static QUEUE: RefCell<Option<Queue>> = const { RefCell::new(None) };
}

/// Runs `work` with this thread's queue, which is made when it is first needed.
fn with_queue<T>(device: &Device, work: impl FnOnce(&mut Queue) -> Result<T>) -> Result<T> {
    QUEUE.with_borrow_mut(|queue| match queue {
        Some(queue) => work(queue),
        None => {
            let buffer_bytes = TRANSFER_MAX as usize + BLOCK_MAX;
            let options = QueueOptions { depth: 1, buffer_bytes, ..QueueOptions::default() };
            work(queue.insert(device.queue(&options)?))
        }
    })
}

/// Drops this thread's queue, for a thread that goes on after the mount's end; the drive cannot be closed
/// before.
pub(super) fn give_back() {
    QUEUE.take();
}

/// Runs one request to its end.
fn run(queue: &mut Queue, request: Request) -> Result<Completion> {
    let none = || Error::new(ErrorKind::Io, "a request came back without its end");
    queue.push(request).map_err(|_| none())?;
    queue.submit_and_wait(1)?;
    queue.next_completion().ok_or_else(none)
}

/// Runs a request that moves no data.
pub(super) fn manage(device: &Device, request: Request) -> Result<()> {
    with_queue(device, |queue| run(queue, request)?.result.map(drop))
}

fn lease(queue: &Queue, length: usize) -> Buffer {
    queue.buffer(length).unwrap_or_else(|| Buffer::unpooled(length))
}

/// Reads any bytes of one zone, or of neighbouring zones that are full to their ends, and gives them to
/// `take`, in order and in pieces of one zone.
pub(super) fn read(device: &Device, bytes: Range<u64>, mut take: impl FnMut(&[u8])) -> Result<()> {
    let geometry = device.geometry();
    let block = u64::from(geometry.block_size);
    with_queue(device, |queue| {
        let mut at = bytes.start;
        while at < bytes.end {
            let zone = geometry.zone_of(at);
            let end = bytes.end.min(geometry.start_of(zone) + geometry.size_of(zone));
            let aligned = at - at % block..end.next_multiple_of(block);
            let buffer = lease(queue, bytes_of(aligned.end - aligned.start)?);
            let Completion { result, buffer, .. } =
                run(queue, Request::read_at(aligned.start, buffer))?;
            result?;
            let buffer =
                buffer.ok_or_else(|| Error::new(ErrorKind::Io, "a read lost its buffer"))?;
            take(&buffer[bytes_of(at - aligned.start)?..bytes_of(end - aligned.start)?]);
            at = end;
        }
        Ok(())
    })
}

/// Writes whole blocks of one zone.
pub(super) fn write(device: &Device, offset: u64, data: &[u8]) -> Result<()> {
    with_queue(device, |queue| {
        let mut buffer = lease(queue, data.len());
        buffer.copy_from_slice(data);
        run(queue, Request::write_at(offset, buffer))?.result.map(drop)
    })
}

fn bytes_of(length: u64) -> Result<usize> {
    usize::try_from(length).map_err(|_| Error::new(ErrorKind::OutOfRange, "more than memory holds"))
}
