//! Requests on a device, one at a time: each ends before the next begins.

use zonal::{Buffer, Completion, Queue, Request, ZoneInfo};

pub(crate) const BLOCK: usize = 4096;

/// So many blocks of that byte.
pub(crate) fn blocks(byte: u8, count: usize) -> Buffer {
    Buffer::from_slice(&vec![byte; count * BLOCK])
}

/// Does it, and waits for its end.
pub(crate) fn run(queue: &mut Queue, request: Request) -> Completion {
    queue.push(request).unwrap();
    queue.submit_and_wait(1).unwrap();
    queue.next_completion().unwrap()
}

/// Where it landed.
pub(crate) fn append(queue: &mut Queue, zone: &ZoneInfo, byte: u8, count: usize) -> u64 {
    let completion = run(queue, Request::append(zone.zone, blocks(byte, count)));
    completion.result.unwrap();
    completion.offset
}

/// The first byte of each block.
pub(crate) fn read(queue: &mut Queue, offset: u64, count: usize) -> Vec<u8> {
    let completion = run(queue, Request::read_at(offset, blocks(0xEE, count)));
    completion.result.unwrap();
    completion.buffer.unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}
