//! What a drive is after a power cut: opened again, by the code that ships.

use super::model::{Checked, violation};
use super::{BLOCK, CAPACITY, Held, ZONE, ZONES, held, held_in, record};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use zonal::sim::{FaultPlan, Outcome, SimDisk, SimImage, SimMode};
use zonal::{Buffer, Completion, Device, OpenOptions, Queue, QueueOptions, Request, ZoneState};

/// The tag of what is appended to see that a drive goes on.
const AFTER: u8 = 250;

/// The tag of what stands in each block of a drive that is opened to see which of them it shows.
const MARK: u8 = 251;

/// Bytes of the drive.
const DRIVE: usize = (ZONE * BLOCK) as usize * ZONES;

/// A drive that was opened again: each zone's state and write pointer, and each block.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) zones: Vec<(ZoneState, u32)>,
    pub(crate) held: Vec<Held>,
}

/// The same as far as it follows from the metadata: which blocks show what the disk holds there.
/// All others read as zeros.
#[derive(Debug)]
pub(crate) struct Reopened {
    zones: Vec<(ZoneState, u32)>,
    shown: Vec<bool>,
}

impl Reopened {
    /// A zone's state and write pointer, and its blocks.
    pub(crate) fn of(&self, zone: usize) -> ((ZoneState, u32), &[bool]) {
        (self.zones[zone], &self.shown[zone * ZONE as usize..][..ZONE as usize])
    }
}

/// What metadata is opened as; the same is opened once.
#[derive(Default)]
pub(crate) struct Images {
    seen: HashMap<u128, Rc<Reopened>>,
    opened: u64,
}

/// Above this many, images are forgotten, so that memory stays bounded.
const IMAGES_MAX: usize = 1 << 18;

impl Images {
    /// What a drive is after each cut now, as far as it follows from the metadata.
    pub(crate) fn reopen_all(
        &mut self,
        unstable: &Unstable,
        disk: &SimDisk,
    ) -> Checked<Vec<Rc<Reopened>>> {
        let mut found = Vec::new();
        for choice in unstable.choices_of_metadata() {
            let key = unstable.metadata(&choice);
            let reopened = match self.seen.get(&key) {
                Some(reopened) => reopened.clone(),
                None => self.reopen(key, &unstable.cut(disk, &choice), unstable.data_offset)?,
            };
            found.push(reopened);
        }
        Ok(found)
    }

    /// An image with this metadata. It is opened twice: on a disk that gives an error for each
    /// access to the data, which shows that opening needs none of it; and with a mark in each
    /// block, which shows where the disk is seen.
    pub(crate) fn reopen(
        &mut self,
        key: u128,
        image: &SimImage,
        data_offset: u64,
    ) -> Checked<Rc<Reopened>> {
        if let Some(reopened) = self.seen.get(&key) {
            return Ok(reopened.clone());
        }
        let size = DRIVE as u64;
        let faults =
            FaultPlan { bad_range: Some(data_offset..data_offset + size), ..FaultPlan::default() };
        let without = SimDisk::new(image, SimMode::Auto { seed: 1, faults });
        let without = zonal::sim::open(&without, &OpenOptions::default()).map(|d| zones_of(&d));
        let Whole { zones, held } = reopen(&marked(image, data_offset))?;
        if without.as_ref().ok() != Some(&zones) {
            let what = format!("{without:?} without data, {zones:?} with it");
            return violation("what a drive is after a cut follows from its metadata", what);
        }
        let shown = |(block, held): (u8, &Held)| match *held {
            Held::Zeros => Ok(false),
            Held::Record(MARK, index) if index == block => Ok(true),
            Held::Record(..) | Held::Torn => {
                violation("a read shows its own blocks", format!("block {block}: {held:?}"))
            }
        };
        let shown = (0..).zip(&held).map(shown).collect::<Checked<Vec<bool>>>()?;
        if self.seen.len() >= IMAGES_MAX {
            self.seen.clear();
        }
        let reopened = Rc::new(Reopened { zones, shown });
        self.seen.insert(key, reopened.clone());
        self.opened += 1;
        Ok(reopened)
    }

    /// How many were opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }
}

/// An image with a mark in each block of the drive, and the rest as it is.
fn marked(image: &SimImage, data_offset: u64) -> SimImage {
    let mut image = image.clone();
    image.write(data_offset, &record(MARK, ZONE * u32::try_from(ZONES).expect("few zones")));
    image
}

/// What a power cut now may leave: the contents of each sector, in their order, the oldest first.
pub(crate) struct Unstable {
    data_offset: u64,
    /// How many contents each unstable sector has, in the order on the disk.
    counts: Vec<usize>,
    /// Of each of these that is metadata, its number among them and a digest of each content.
    metadata: Vec<(usize, Vec<u128>)>,
    /// A digest of all metadata, with the oldest content of each sector.
    oldest: u128,
    /// What each block of the drive may hold, the newest last.
    blocks: Vec<Vec<Held>>,
}

impl Unstable {
    pub(crate) fn of(disk: &SimDisk, data_offset: u64) -> Self {
        let counts = disk.unstable_contents();
        let offsets = disk.unstable_offsets();
        let most = counts.iter().copied().max().unwrap_or(1);
        let images: Vec<SimImage> =
            (0..most).map(|nth| disk.if_cut(&mut |count| nth.min(count - 1))).collect();
        let data = data_offset..data_offset + DRIVE as u64;
        let mut block = [0; BLOCK as usize];
        let mut read = |image: &SimImage, at: u64| {
            image.read(at, &mut block);
            (held(&block), digest(at, &block))
        };
        let metadata = images[0].sectors().filter(|(at, _)| !data.contains(at));
        let oldest = metadata.fold(0, |all: u128, (at, bytes)| all.wrapping_add(digest(at, bytes)));
        let stable = data.clone().step_by(BLOCK as usize);
        let mut blocks: Vec<_> = stable.map(|at| vec![read(&images[0], at).0]).collect();
        let mut metadata = Vec::new();
        for (sector, (&at, &count)) in offsets.iter().zip(&counts).enumerate() {
            let contents = images[..count].iter().map(|image| read(image, at));
            if data.contains(&at) {
                let number = usize::try_from((at - data.start) / u64::from(BLOCK)).unwrap_or(0);
                blocks[number] = contents.map(|(held, _)| held).collect();
            } else {
                metadata.push((sector, contents.map(|(_, digest)| digest).collect()));
            }
        }
        Self { data_offset, counts, metadata, oldest, blocks }
    }

    /// How many cuts differ in some sector.
    pub(crate) fn cuts(&self) -> u64 {
        self.counts.iter().map(|&count| count as u64).product()
    }

    /// Every choice of contents for the sectors of the metadata.
    fn choices_of_metadata(&self) -> impl Iterator<Item = Vec<usize>> {
        let all: usize = self.metadata.iter().map(|(_, contents)| contents.len()).product();
        (0..all).map(|mut number| {
            let digit = |(_, contents): &(usize, Vec<u128>)| {
                let digit = number % contents.len();
                number /= contents.len();
                digit
            };
            self.metadata.iter().map(digit).collect()
        })
    }

    /// A digest of the metadata that a choice leaves.
    fn metadata(&self, choice: &[usize]) -> u128 {
        self.metadata.iter().zip(choice).fold(self.oldest, |all, ((_, contents), &nth)| {
            all.wrapping_sub(contents[0]).wrapping_add(contents[nth])
        })
    }

    pub(crate) fn newest_metadata(&self) -> u128 {
        let newest: Vec<_> = self.metadata.iter().map(|(_, all)| all.len() - 1).collect();
        self.metadata(&newest)
    }

    /// An image with the metadata of a choice, and the oldest data.
    fn cut(&self, disk: &SimDisk, choice: &[usize]) -> SimImage {
        let mut all = vec![0; self.counts.len()];
        for ((sector, _), &nth) in self.metadata.iter().zip(choice) {
            all[*sector] = nth;
        }
        let mut next = all.into_iter();
        disk.if_cut(&mut |_| next.next().expect("one for each sector"))
    }

    /// What each block of a zone may be read as, where those that are not `shown` are zeros.
    pub(crate) fn blocks_of(&self, zone: usize, shown: &[bool]) -> Vec<Vec<Held>> {
        let own = self.blocks[zone * ZONE as usize..].iter().zip(shown);
        own.map(|(held, shown)| if *shown { held.clone() } else { vec![Held::Zeros] }).collect()
    }
}

/// A digest of a sector, to be added to those of others.
fn digest(at: u64, bytes: &[u8]) -> u128 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let mut hasher = Fingerprint::new();
    (at, bytes).hash(&mut hasher);
    hasher.whole()
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

/// Opens an image, looks at it, and appends to it.
pub(crate) fn reopen(image: &SimImage) -> Checked<Whole> {
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
    Ok(Whole { zones, held })
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
    let into = Buffer::unpooled(DRIVE);
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
