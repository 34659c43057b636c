//! Reads back every record at the offset that its completion reported and compares it.

use anyhow::{Context, Result};
use zonal::{Buffer, Completion, Device, QueueOptions, Request};

use super::{pattern::Pattern, worker::NOT_WRITTEN};
use crate::{signals::Interrupt, transfer};

/// How many reads each job has in flight: more than it wrote with, since order does not matter.
const DEPTH: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Verified {
    /// Records read back and found to be what was written.
    pub(super) records: u64,
    /// Records that were not.
    pub(super) wrong: u64,
    /// The first few of them, for people.
    pub(super) examples: Vec<String>,
}

impl Verified {
    /// Adds what another job found.
    pub(super) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.wrong += other.wrong;
        self.examples.extend(other.examples);
    }
}

/// Verifies one job's `log`.
pub(super) fn run(
    device: &Device,
    job: u32,
    pattern: &Pattern,
    log: &[u64],
    record_bytes: usize,
    interrupt: &Interrupt,
) -> Result<Verified> {
    let depth = DEPTH.min((8 << 20) / record_bytes).max(4);
    let options = QueueOptions {
        depth: u32::try_from(depth)?,
        buffer_bytes: record_bytes,
        ..Default::default()
    };
    let mut queue = device.queue(&options)?;
    let mut idle: Vec<Buffer> = Vec::with_capacity(depth);
    for _ in 0..depth {
        idle.push(transfer::lease(&mut queue, record_bytes)?);
    }
    let mut left = (0u64..).zip(log).filter(|(_, offset)| **offset != NOT_WRITTEN);
    let mut verified = Verified::default();
    loop {
        while let Some(buffer) = idle.pop() {
            match left.next() {
                Some((sequence, offset)) if !interrupt.came() => {
                    let request = Request::read_at(*offset, buffer).tag(sequence);
                    transfer::push(&mut queue, request)?;
                }
                _ => {
                    idle.push(buffer);
                    break;
                }
            }
        }
        if queue.in_flight() == 0 {
            return Ok(verified);
        }
        queue.submit_and_wait(1)?;
        while let Some(Completion { tag, result, offset, buffer, .. }) = queue.next_completion() {
            let buffer = buffer.context("a read came back without its buffer")?;
            let found = match result {
                Ok(_) => pattern.compare(&buffer, tag),
                Err(error) => Err(error.to_string()),
            };
            idle.push(buffer);
            match found {
                Ok(()) => verified.records += 1,
                Err(what) => {
                    verified.wrong += 1;
                    if verified.examples.len() < 3 {
                        verified.examples.push(format!(
                            "record {tag} of job {job}, reported at offset {offset}: {what}"
                        ));
                    }
                }
            }
        }
    }
}
