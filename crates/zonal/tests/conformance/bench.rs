//! A fresh drive to try a rule on, and short words for what rules do with it.

use crate::backends::{BLOCK, Backend, ROOM};
use std::ops::{Deref, DerefMut};
use tempfile::TempDir;
use zonal::{
    Buffer, Completion, Device, ErrorKind, Flags, OpenOptions, Queue, QueueOptions, Request,
    Result, Target, ZoneInfo, ZoneKind,
};

/// A drive of its own, in a folder of its own.
pub(crate) struct Bench {
    pub(crate) backend: &'static Backend,
    pub(crate) target: Target,
    drive: Option<Device>,
    folder: TempDir,
}

impl Bench {
    /// An empty drive.
    pub(crate) fn new(backend: &'static Backend) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let target = (backend.make)(folder.path());
        let drive = zonal::open(&target, &backend.options()).unwrap();
        Self { backend, target, drive: Some(drive), folder }
    }

    pub(crate) fn drive(&self) -> &Device {
        self.drive.as_ref().unwrap()
    }

    /// Opens it once more.
    pub(crate) fn open(&self, read_only: bool) -> Result<Device> {
        let options = OpenOptions { read_only, ..self.backend.options() };
        zonal::open(&self.target, &options)
    }

    /// Closes it, and opens it again.
    pub(crate) fn reopen(&mut self, read_only: bool) {
        self.drive.take().unwrap().close().unwrap();
        self.drive = Some(self.open(read_only).unwrap());
    }

    /// Leaves [`ROOM`] in the first zone that [`zones`](Self::zones) names. False, having said why:
    /// it cannot be done here.
    pub(crate) fn fill(&mut self) -> bool {
        let Some(make) = self.backend.make_nearly_full else {
            let zone = self.zones()[0];
            let length = zone.capacity - ROOM;
            let data = Buffer::from_slice(&vec![1; length as usize]);
            self.queue().run(Request::append_ordered(zone.zone, data)).result.unwrap();
            return true;
        };
        self.drive.take().unwrap().close().unwrap();
        match make(self.folder.path()) {
            Ok(target) => self.target = target,
            Err(error) => {
                println!("SKIP: a zone this large cannot be filled here: {error}");
                return false;
            }
        }
        self.drive = Some(self.open(false).unwrap());
        true
    }

    /// Its sequential zones.
    pub(crate) fn zones(&self) -> Vec<ZoneInfo> {
        let mut zones = self.drive().report(..).unwrap();
        zones.retain(|zone| zone.kind == ZoneKind::Sequential);
        zones
    }

    /// The zone of that number as it is now.
    pub(crate) fn zone(&self, zone: u32) -> ZoneInfo {
        self.drive().report(zone..=zone).unwrap()[0]
    }

    pub(crate) fn queue(&self) -> Hand {
        Hand(self.drive().queue(&QueueOptions { depth: 64, ..options() }).unwrap())
    }
}

/// With `ZONAL_HIPRI` all queues ask the device for completions.
pub(crate) fn options() -> QueueOptions {
    QueueOptions { hipri: std::env::var_os("ZONAL_HIPRI").is_some(), ..QueueOptions::default() }
}

/// A queue, and one request at a time.
pub(crate) struct Hand(Queue);

impl Deref for Hand {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.0
    }
}

impl DerefMut for Hand {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.0
    }
}

impl Hand {
    pub(crate) fn run(&mut self, request: Request) -> Completion {
        self.push(request).unwrap();
        self.submit_and_wait(1).unwrap();
        let completion = self.next_completion().unwrap();
        assert!(self.next_completion().is_none(), "one completion for one request");
        completion
    }

    /// Does it, and expects nothing but success.
    #[track_caller]
    pub(crate) fn ok(&mut self, request: Request) -> Completion {
        let completion = self.run(request);
        if let Err(error) = &completion.result {
            panic!("{error}");
        }
        completion
    }

    /// Does it, and expects that it is refused like this, with its buffer given back.
    #[track_caller]
    pub(crate) fn refused(&mut self, request: Request, length: usize, kind: ErrorKind) {
        let Completion { result, flags, buffer, .. } = self.run(request);
        let error = result.expect_err("it is refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(flags.contains(Flags::REFUSED), "{error}");
        assert_eq!(buffer.map_or(0, |buffer| buffer.len()), length, "{error}");
    }

    /// Appends blocks of a byte; where they landed.
    #[track_caller]
    pub(crate) fn append(&mut self, zone: u32, byte: u8, blocks: u64) -> u64 {
        let completion = self.ok(Request::append(zone, blocks_of(byte, blocks)));
        assert_eq!(completion.result.map(u64::from).ok(), Some(blocks * BLOCK));
        completion.offset
    }

    /// Reads blocks, each of which holds one byte repeated.
    #[track_caller]
    pub(crate) fn read(&mut self, offset: u64, blocks: u64) -> Vec<u8> {
        let into = blocks_of(0xEE, blocks);
        let bytes = self.ok(Request::read_at(offset, into)).buffer.unwrap();
        let blocks = bytes.chunks(BLOCK as usize);
        blocks
            .inspect(|block| assert!(block.iter().all(|b| *b == block[0])))
            .map(|b| b[0])
            .collect()
    }
}

pub(crate) fn blocks_of(byte: u8, blocks: u64) -> Buffer {
    Buffer::from_slice(&vec![byte; (blocks * BLOCK) as usize])
}
