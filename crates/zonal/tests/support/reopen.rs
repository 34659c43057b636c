//! What a drive is after a power cut: opened again, by the code that ships.

use super::model::{Checked, violation};
use super::{BLOCK, CAPACITY, Held, ZONE, ZONES, held_in, record};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use zonal::sim::{Outcome, SimDisk, SimImage, SimMode};
use zonal::{Buffer, Completion, Device, OpenOptions, Queue, QueueOptions, Request, ZoneState};

/// The tag of what is appended to see that a drive goes on.
const AFTER: u8 = 250;

/// A drive that was opened again: each zone's state and write pointer, and each block.
#[derive(Debug)]
pub(crate) struct Reopened {
    pub(crate) zones: Vec<(ZoneState, u32)>,
    pub(crate) held: Vec<Held>,
}

/// What images are opened as; the same image is opened once.
#[derive(Default)]
pub(crate) struct Images {
    seen: HashMap<u128, Rc<Reopened>>,
}

/// Above this many, images are forgotten, so that memory stays bounded.
const IMAGES_MAX: usize = 1 << 18;

impl Images {
    pub(crate) fn reopen(&mut self, image: &SimImage) -> Checked<Rc<Reopened>> {
        let key = fingerprint(image);
        if let Some(reopened) = self.seen.get(&key) {
            return Ok(reopened.clone());
        }
        if self.seen.len() >= IMAGES_MAX {
            self.seen.clear();
        }
        let reopened = Rc::new(reopen(image)?);
        self.seen.insert(key, reopened.clone());
        Ok(reopened)
    }

    pub(crate) fn len(&self) -> usize {
        self.seen.len()
    }
}

/// A hash of 128 bits, in two halves that are mixed differently.
pub(crate) struct Fingerprint(u64, u64);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(1, 2)
    }

    pub(crate) fn whole(&self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        self.1 = (self.1.rotate_left(23) ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

fn fingerprint(image: &SimImage) -> u128 {
    let mut hasher = Fingerprint::new();
    image.hash(&mut hasher);
    hasher.whole()
}

fn reopen(image: &SimImage) -> Checked<Reopened> {
    let disk = SimDisk::new(image, SimMode::Manual);
    let device = match zonal::sim::open(&disk, &OpenOptions::default()) {
        Ok(device) => device,
        Err(error) => return violation("an image opens after a cut", error.to_string()),
    };
    let options = QueueOptions { depth: 4, buffer_bytes: 0, ..QueueOptions::default() };
    let mut queue = device.queue(&options).expect("a queue");
    let zones = zones_of(&device);
    let held = read_all(&disk, &mut queue);
    let active = zones.iter().filter(|(state, _)| *state == ZoneState::Closed).count();
    let counts = device.zones_in_use();
    if counts != (0, u32::try_from(active).unwrap_or(0)) {
        return violation("the counts agree", format!("after a cut: {counts:?}, {zones:?}"));
    }
    for (zone, &(state, wp)) in (0u32..).zip(&zones) {
        if !matches!(state, ZoneState::Empty | ZoneState::Closed) {
            continue;
        }
        let data = Buffer::from_slice(&record(AFTER, 1));
        let completion = ask(&disk, &mut queue, Request::append(zone, data));
        let landed = (completion.offset / u64::from(BLOCK), completion.result.is_ok());
        if landed != (u64::from(zone * ZONE + wp), true) {
            let what = format!("zone {zone} at {wp}: {completion:?}");
            return violation("a drive goes on after a cut", what);
        }
    }
    Ok(Reopened { zones, held })
}

/// Each zone's state and write pointer, in blocks.
pub(crate) fn zones_of(device: &Device) -> Vec<(ZoneState, u32)> {
    let report = device.report(..).expect("all zones");
    let wp = |zone: &zonal::ZoneInfo| {
        let wp = zone.write_pointer.map_or(u64::MAX, |wp| (wp - zone.start) / u64::from(BLOCK));
        u32::try_from(wp).unwrap_or(u32::MAX)
    };
    debug_assert!(report.iter().all(|zone| zone.capacity == u64::from(CAPACITY * BLOCK)));
    report.iter().map(|zone| (zone.state, wp(zone))).collect()
}

/// What a read of the whole drive shows now.
pub(crate) fn read_all(disk: &SimDisk, queue: &mut Queue) -> Vec<Held> {
    let into = Buffer::unpooled((ZONE * BLOCK) as usize * ZONES);
    let completion = ask(disk, queue, Request::read_at(0, into));
    completion.result.expect("a read of a sound drive");
    held_in(&completion.buffer.expect("its buffer"))
}

/// One request, to its end, with whatever I/O it begins.
fn ask(disk: &SimDisk, queue: &mut Queue, request: Request) -> Completion {
    let others: Vec<u64> = disk.pending().iter().map(|io| io.id).collect();
    queue.push(request).expect("room");
    loop {
        queue.submit().expect("the simulator has no ring to fail");
        if let Some(completion) = queue.next_completion() {
            return completion;
        }
        let own = disk.pending().into_iter().find(|io| !others.contains(&io.id));
        disk.complete(own.expect("something to wait for").id, Outcome::Ok);
    }
}
