//! Appends to a zone, many at a time, until one fails; and whether what was acknowledged is there.

use crate::one_by_one::{blocks, read};
use zonal::{Completion, ErrorKind, Queue, Request, ZoneInfo};

/// Appends until one fails; what was acknowledged (offset, byte) and the errors' kinds.
pub(crate) fn load(queue: &mut Queue, zone: &ZoneInfo, depth: u8, at: impl Fn(usize)) -> Load {
    let mut load = Load::default();
    for byte in 0..depth {
        queue.push(Request::append(zone.zone, blocks(byte, 1)).tag(byte.into())).unwrap();
    }
    while queue.in_flight() > 0 {
        queue.submit_and_wait(1).unwrap();
        while let Some(Completion { tag, result, offset, .. }) = queue.next_completion() {
            match result {
                Ok(_) => {
                    load.acknowledged.push((offset, tag as u8));
                    at(load.acknowledged.len());
                    if load.errors.is_empty() {
                        let request = Request::append(zone.zone, blocks(tag as u8, 1));
                        queue.push(request.tag(tag)).unwrap();
                    }
                }
                Err(error) => load.errors.push((error.kind(), error.to_string())),
            }
        }
    }
    load.acknowledged.sort_unstable();
    load
}

#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) acknowledged: Vec<(u64, u8)>,
    pub(crate) errors: Vec<(ErrorKind, String)>,
}

impl Load {
    /// What the writes at fault say: all of one kind (some came after the zone had settled), and the
    /// others that failed lay behind one.
    pub(crate) fn at_fault(&self) -> &(ErrorKind, String) {
        let behind = |(kind, _): &&(ErrorKind, String)| *kind == ErrorKind::BehindFailedWrite;
        let mut at_fault = self.errors.iter().filter(|error| !behind(error));
        let first = at_fault.next().unwrap();
        assert!(at_fault.all(|(kind, _)| *kind == first.0), "{:#?}", self.errors);
        first
    }

    pub(crate) fn is_all_there(&self, queue: &mut Queue) {
        for &(offset, byte) in &self.acknowledged {
            assert_eq!(read(queue, offset, 1), [byte], "at {offset}");
        }
    }
}
