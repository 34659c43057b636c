//! One queue of the device: a thread with ublk's ring, on which the kernel's requests come, and a queue to
//! the drive, by which they are done.
//!
//! ```text
//! kernel ─ command ─► ublk's ring ─► Server::take ─ Request ─► Queue ─► zone rules ─► drive
//!    ▲                    ▲  └─ is polled: something has ended ──┐                       │
//!    └──── committed ─────┴─────── Server::give_back ◄─ Completion ──────────────────────┘
//! ```
//!
//! Invariants:
//! * A tag that was taken is committed exactly once, in whatever order requests end; when the queue to the
//!   drive breaks, with an error, and so is everything that comes after.
//! * Nothing is repeated or put in order here: what the kernel asks for once goes to the drive once, and whole.
//!   Zeros alone may reach across a zone's end, which no write does: they go a zone at a time, one after the other.
//! * The thread sleeps on ublk's ring alone. The descriptor of the queue to the drive is polled there.

use std::os::fd::{OwnedFd, RawFd};

use io_uring::{opcode, types};
use libublk::{
    UblkError, UblkIORes,
    io::{BufDesc, BufDescList, UblkDev, UblkIOCtx, UblkQueue},
    sys,
};
use zonal::{Buffer, Completion, Device, Error, ErrorKind, Queue, QueueOptions, Request, Result};

use super::{
    errno,
    kernel::system_error,
    report::{self, SECTOR},
    shape::TRANSFER_MAX,
};

/// Room in the ring for the poll beside a command of each tag.
pub(super) const ENTRIES_SPARE: u16 = 1;

/// What becomes readable when the queue to the drive has something to take in.
const READABLE: u32 = 1; // POLLIN

/// A sector, as a length in memory.
const SECTOR_BYTES: usize = 512;

/// What the kernel wants, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Read,
    Write,
    Append,
    Zeros,
    Flush,
    Open,
    Close,
    Finish,
    Reset,
    ResetAll,
    Report,
}

impl Wanted {
    fn of(op: u32) -> Option<Self> {
        Some(match op {
            sys::UBLK_IO_OP_READ => Self::Read,
            sys::UBLK_IO_OP_WRITE => Self::Write,
            sys::UBLK_IO_OP_ZONE_APPEND => Self::Append,
            sys::UBLK_IO_OP_DISCARD | sys::UBLK_IO_OP_WRITE_ZEROES => Self::Zeros,
            sys::UBLK_IO_OP_FLUSH => Self::Flush,
            sys::UBLK_IO_OP_ZONE_OPEN => Self::Open,
            sys::UBLK_IO_OP_ZONE_CLOSE => Self::Close,
            sys::UBLK_IO_OP_ZONE_FINISH => Self::Finish,
            sys::UBLK_IO_OP_ZONE_RESET => Self::Reset,
            sys::UBLK_IO_OP_ZONE_RESET_ALL => Self::ResetAll,
            sys::UBLK_IO_OP_REPORT_ZONES => Self::Report,
            _ => return None,
        })
    }
}

/// A request of the kernel, as it lies in the memory shared with it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    tag: u16,
    op: u32,
    flags: u32,
    /// In bytes.
    offset: u64,
    /// Sectors, or zones of a report.
    count: u32,
}

impl Asked {
    fn of(ublk: &UblkQueue<'_>, tag: u16) -> Self {
        let described = ublk.get_iod(tag);
        Self {
            tag,
            op: described.op_flags & 0xff,
            flags: described.op_flags & !0xff,
            offset: described.start_sector.saturating_mul(SECTOR),
            count: described.nr_sectors,
        }
    }

    /// Of its data.
    fn bytes(&self) -> usize {
        self.count as usize * SECTOR_BYTES
    }

    /// What of it is in front of `end`, and what is behind.
    fn split(self, end: u64) -> (Self, Option<Self>) {
        let room = u32::try_from(end.saturating_sub(self.offset) / SECTOR).unwrap_or(u32::MAX);
        if room >= self.count {
            return (self, None);
        }
        let behind = Self { offset: end, count: self.count - room, ..self };
        (Self { count: room, ..self }, Some(behind))
    }

    fn is_durable(&self) -> bool {
        self.flags & sys::UBLK_IO_F_FUA != 0
    }
}

/// What a thread works with.
pub(super) struct Server {
    device: Device,
    queue: Queue,
    /// The character device, through which data is copied from and to the kernel's requests.
    data: OwnedFd,
    number: u16,
    /// The requests that were taken and not given back, by their tags.
    taken: Box<[Option<Asked>]>,
    /// Whether the poll of the queue's descriptor is out.
    polled: bool,
    /// Why the drive cannot be asked any more.
    broken: Option<Error>,
    /// With what number the kernel refused a command.
    refused: Option<i32>,
}

/// Makes ublk's end of a queue; its ring is this thread's.
pub(super) fn ublk_queue(number: u16, dev: &UblkDev) -> Result<UblkQueue<'_>> {
    UblkQueue::new(number, dev).map_err(|error| {
        let text = format!("queue {number} of {}", dev.dev_info.dev_id);
        Error::new(ErrorKind::Io, text).during("serve").with_source(system_error(error))
    })
}

/// Makes the other end, with a buffer for each tag, as long as the longest request.
pub(super) fn to_drive(device: &Device, depth: u16) -> Result<Queue> {
    device.queue(&QueueOptions {
        depth: depth.into(),
        buffer_bytes: TRANSFER_MAX as usize,
        ..QueueOptions::default()
    })
}

impl Server {
    /// A server of as many tags as `queue` is deep.
    pub(super) fn new(
        number: u16,
        depth: u16,
        device: Device,
        queue: Queue,
        data: OwnedFd,
    ) -> Self {
        let taken = vec![None; depth.into()].into();
        Self { device, queue, data, number, taken, polled: false, broken: None, refused: None }
    }

    /// Sends the kernel a command for each tag, and waits for nothing.
    ///
    /// # Errors
    /// The ring fails, or the kernel refuses one: it would wait for that for ever before it starts the device.
    pub(super) fn begin<'a>(&mut self, ublk: UblkQueue<'a>) -> Result<UblkQueue<'a>> {
        let ublk = ublk.submit_fetch_commands_unified(BufDescList::Slices(None)).map_err(failed)?;
        ublk.flush_and_wake_io_tasks(|data, entry, _| self.came(&ublk, data, entry.result()), 0)
            .map_err(failed)?;
        match self.refused {
            Some(number) => Err(failed(UblkError::UringIOError(number))),
            None => Ok(ublk),
        }
    }

    /// Serves until the device is gone. `broke` is called, once, if the drive cannot be asked any more.
    pub(super) fn run(mut self, ublk: &UblkQueue<'_>, broke: impl FnOnce()) -> Result<()> {
        let mut broke = Some(broke);
        loop {
            let waits = self.turn(ublk);
            if let (Some(error), Some(broke)) =
                (&self.broken, broke.take_if(|_| self.broken.is_some()))
            {
                tracing::error!("queue {}: everything fails from now on: {error}", self.number);
                broke();
            }
            let came = ublk.flush_and_wake_io_tasks(
                |data, entry, _| self.came(ublk, data, entry.result()),
                waits.into(),
            );
            match came {
                Ok(_) => {}
                Err(UblkError::QueueIsDown) => break,
                Err(UblkError::IOError(error))
                    if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.broken.map_or(Ok(()), Err)
    }

    /// Sends what was taken, gives back what has ended, and says whether there is nothing to do but wait.
    fn turn(&mut self, ublk: &UblkQueue<'_>) -> bool {
        if self.broken.is_some() {
            return true;
        }
        match self.try_turn(ublk) {
            Ok(waits) => waits,
            Err(error) => {
                self.break_off(ublk, error);
                true
            }
        }
    }

    fn try_turn(&mut self, ublk: &UblkQueue<'_>) -> Result<bool> {
        self.queue.submit()?;
        while let Some(completion) = self.queue.next_completion() {
            self.give_back(ublk, completion);
        }
        let Some(descriptor) = self.queue.poll_fd() else {
            // In memory all is done at once, but for what waits at a gate for another queue.
            return Ok(self.queue.in_flight() == 0);
        };
        let waits = self.queue.prepare_to_poll()?;
        self.poll(ublk, descriptor)?;
        Ok(waits)
    }

    /// Has ublk's ring look at the descriptor of the other, once.
    fn poll(&mut self, ublk: &UblkQueue<'_>, descriptor: RawFd) -> Result<()> {
        if !self.polled {
            let entry = opcode::PollAdd::new(types::Fd(descriptor), READABLE)
                .build()
                .user_data(UblkIOCtx::build_user_data(0, 0, 0, true));
            ublk.ublk_submit_sqe_sync(entry).map_err(failed)?;
            self.polled = true;
        }
        Ok(())
    }

    /// Something came on ublk's ring: a command that brings a request or has been taken away, or the poll.
    fn came(&mut self, ublk: &UblkQueue<'_>, data: u64, result: i32) {
        if data >> 63 == 1 {
            self.polled = false;
        } else if result == sys::UBLK_IO_RES_OK.cast_signed() {
            match u16::try_from(UblkIOCtx::user_data_to_tag(data)) {
                Ok(tag) if usize::from(tag) < self.taken.len() => {
                    self.take(ublk, Asked::of(ublk, tag));
                }
                Ok(_) | Err(_) => tracing::error!("queue {}: a tag it has not", self.number),
            }
        } else if result != sys::UBLK_IO_RES_ABORT {
            let error = std::io::Error::from_raw_os_error(result.wrapping_neg());
            tracing::error!("queue {}: the kernel refused a command: {error}", self.number);
            self.refused = Some(result);
        }
    }

    /// Asks the drive for what the kernel asks.
    fn take(&mut self, ublk: &UblkQueue<'_>, asked: Asked) {
        if self.broken.is_some() {
            return self.commit(ublk, &asked, errno::IO);
        }
        let request = match Wanted::of(asked.op) {
            Some(Wanted::Report) => {
                let result = self.report(&asked).unwrap_or_else(|number| number);
                return self.commit(ublk, &asked, result);
            }
            Some(wanted) => self.request(wanted, &asked),
            None => Err(errno::UNSUPPORTED),
        };
        match request {
            Ok(request) => match self.queue.push(request.tag(asked.tag.into())) {
                Ok(()) => self.taken[usize::from(asked.tag)] = Some(asked),
                // There is a place for each tag.
                Err(_) => self.commit(ublk, &asked, errno::IO),
            },
            Err(number) => self.commit(ublk, &asked, number),
        }
    }

    fn request(&self, wanted: Wanted, asked: &Asked) -> std::result::Result<Request, i32> {
        let geometry = self.device.geometry();
        let zone = geometry.zone_of(asked.offset);
        let durable = |request: Request| if asked.is_durable() { request.fua() } else { request };
        Ok(match wanted {
            Wanted::Read => Request::read_at(asked.offset, self.buffer(asked)?),
            Wanted::Write => durable(Request::write_at(asked.offset, self.fetch(asked)?)),
            Wanted::Append => durable(Request::append(zone.0, self.fetch(asked)?)),
            Wanted::Zeros => durable(Request::write_at(asked.offset, self.zeros(asked)?)),
            Wanted::Flush => Request::flush(),
            Wanted::Open => Request::open(zone.0),
            Wanted::Close => Request::close(zone.0),
            Wanted::Finish => Request::finish(zone.0),
            Wanted::Reset => Request::reset(zone.0),
            Wanted::ResetAll => Request::reset_all(),
            Wanted::Report => return Err(errno::UNSUPPORTED),
        })
    }

    /// Of as many as there are tags one is free, and as long as a request can be.
    fn buffer(&self, asked: &Asked) -> std::result::Result<Buffer, i32> {
        self.queue.buffer(asked.bytes()).ok_or(errno::IO)
    }

    /// Zeros for as much of a request as its first zone holds.
    fn zeros(&self, asked: &Asked) -> std::result::Result<Buffer, i32> {
        let geometry = self.device.geometry();
        let last = asked.offset.saturating_add(asked.bytes() as u64).saturating_sub(1);
        // A sequential zone is emptied by a reset, and by nothing else. They are behind all conventional ones.
        if !geometry.is_conventional(geometry.zone_of(last)) {
            return Err(errno::UNSUPPORTED);
        }
        let (part, _) = self.in_zone(*asked);
        let mut zeros = self.buffer(&part)?;
        zeros.fill(0);
        Ok(zeros)
    }

    /// What of a request lies in its first zone, and what in those behind.
    fn in_zone(&self, asked: Asked) -> (Asked, Option<Asked>) {
        let geometry = self.device.geometry();
        let next = geometry.zone_of(asked.offset).0.saturating_add(1);
        asked.split(u64::from(next).saturating_mul(geometry.zone_size))
    }

    /// A request's data, from the kernel.
    fn fetch(&self, asked: &Asked) -> std::result::Result<Buffer, i32> {
        let mut buffer = self.buffer(asked)?;
        match rustix::io::pread(&self.data, &mut buffer[..], self.place(asked)) {
            Ok(length) if length == asked.bytes() => Ok(buffer),
            Ok(_) | Err(_) => Err(errno::IO),
        }
    }

    /// A request's data, or a report, to the kernel.
    fn deliver(&self, asked: &Asked, bytes: &[u8]) -> std::result::Result<(), i32> {
        match rustix::io::pwrite(&self.data, bytes, self.place(asked)) {
            Ok(length) if length == bytes.len() => Ok(()),
            Ok(_) | Err(_) => Err(errno::IO),
        }
    }

    /// Where the data of a request is in the character device.
    fn place(&self, asked: &Asked) -> u64 {
        UblkIOCtx::ublk_user_copy_pos(self.number, asked.tag, 0)
    }

    /// The zones that are asked for, as they are now.
    fn report(&self, asked: &Asked) -> std::result::Result<i32, i32> {
        let geometry = self.device.geometry();
        let first = geometry.zone_of(asked.offset).0;
        let end = first.saturating_add(asked.count).min(geometry.zones());
        let zones = self.device.report(first..end).map_err(|error| errno::result(&error))?;
        self.deliver(asked, &report::bytes(&zones))?;
        // The room for it may be longer than the report, and all of it has been looked at: what is less
        // than all would be asked for again.
        i32::try_from(TRANSFER_MAX).map_err(|_| errno::IO)
    }

    /// Tells the kernel how a request ended.
    fn give_back(&mut self, ublk: &UblkQueue<'_>, completion: Completion) {
        let place = usize::try_from(completion.tag).unwrap_or(usize::MAX);
        let Some(asked) = self.taken.get_mut(place).and_then(Option::take) else {
            tracing::error!("queue {}: something ended that was not asked for", self.number);
            return;
        };
        if completion.result.is_ok()
            && Wanted::of(asked.op) == Some(Wanted::Zeros)
            && let (_, Some(rest)) = self.in_zone(asked)
        {
            // Its buffer is the one that the rest takes.
            drop(completion);
            return self.take(ublk, rest);
        }
        let result = match &completion.result {
            Ok(length) => self.succeeded(&asked, *length, completion.buffer.as_deref()),
            Err(error) => {
                tracing::debug!("{error}");
                Err(errno::result(error))
            }
        };
        match result {
            Ok(result) if Wanted::of(asked.op) == Some(Wanted::Append) => {
                self.commit_append(ublk, &asked, result, completion.offset);
            }
            Ok(result) | Err(result) => self.commit(ublk, &asked, result),
        }
    }

    fn succeeded(
        &self,
        asked: &Asked,
        length: u32,
        data: Option<&[u8]>,
    ) -> std::result::Result<i32, i32> {
        match Wanted::of(asked.op) {
            Some(Wanted::Read) => {
                self.deliver(asked, data.ok_or(errno::IO)?)?;
                i32::try_from(length).map_err(|_| errno::IO)
            }
            Some(Wanted::Write | Wanted::Append) => i32::try_from(length).map_err(|_| errno::IO),
            _ => Ok(0),
        }
    }

    fn commit(&self, ublk: &UblkQueue<'_>, asked: &Asked, result: i32) {
        // An append that failed landed nowhere; its number has to be in its zone all the same.
        if result < 0 && Wanted::of(asked.op) == Some(Wanted::Append) {
            return self.commit_append(ublk, asked, result, asked.offset);
        }
        self.tell(ublk, asked, BufDesc::Slice(&[]), result);
    }

    fn commit_append(&self, ublk: &UblkQueue<'_>, asked: &Asked, result: i32, offset: u64) {
        self.tell(ublk, asked, BufDesc::ZonedAppendLba(offset / SECTOR), result);
    }

    fn tell(&self, ublk: &UblkQueue<'_>, asked: &Asked, place: BufDesc<'_>, result: i32) {
        let told = ublk.complete_io_cmd_unified(asked.tag, place, Ok(UblkIORes::Result(result)));
        if let Err(error) = told {
            tracing::error!("queue {}: a request cannot be ended: {error}", self.number);
        }
    }

    /// The drive cannot be asked any more: nobody waits for it.
    fn break_off(&mut self, ublk: &UblkQueue<'_>, error: Error) {
        for place in 0..self.taken.len() {
            if let Some(asked) = self.taken[place].take() {
                self.commit(ublk, &asked, errno::IO);
            }
        }
        self.broken = Some(error);
    }
}

fn failed(error: UblkError) -> Error {
    Error::new(ErrorKind::Io, "ublk's ring failed").during("serve").with_source(system_error(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(offset: u64, count: u32) -> Asked {
        Asked { tag: 7, op: sys::UBLK_IO_OP_DISCARD, flags: sys::UBLK_IO_F_FUA, offset, count }
    }

    fn place(asked: Asked) -> (u64, u32) {
        assert_eq!((asked.tag, asked.op), (7, sys::UBLK_IO_OP_DISCARD));
        assert!(asked.is_durable());
        (asked.offset, asked.count)
    }

    #[test]
    fn what_reaches_across_a_zones_end_is_split_there() {
        let (part, rest) = asked(61440, 24).split(65536);
        assert_eq!(place(part), (61440, 8));
        assert_eq!(rest.map(place), Some((65536, 16)));
    }

    #[test]
    fn what_ends_with_its_zone_is_left_whole() {
        let (part, rest) = asked(61440, 8).split(65536);
        assert_eq!((place(part), rest.map(place)), ((61440, 8), None));
    }
}
