//! The files of a drive whose zones are files of their own (zonefs): which one a request goes to, and
//! where in it.
//!
//! ```text
//! drive offset ─► zone ─► its file for reading, or the one for writing ─► offset in that file
//! ```
//!
//! A file that a ring has registered stays open until the ring lets go of it, and on some mounts an open
//! file keeps its zone open. So these are not registered: each request names a descriptor, and the kernel
//! holds the file while it works on it. The one exception is a file that has a lock: its description is open to
//! read, which opens no zone, and registered, so that the lock falls after the last ring.
//!
//! Invariants:
//! * what is open for reading stays open as long as the spread;
//! * what is open for writing in addition is closed only by [`Spread::let_go`], whose caller sees to it
//!   that no write of that zone has a place; so no write ever meets a descriptor that is another file's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::IoKind;
use crate::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};

/// No descriptor: the kernel refuses it with `EBADF`.
const NONE: RawFd = -1;

/// The files of all zones.
#[derive(Debug)]
pub(crate) struct Spread {
    /// The zones' distance, a power of two.
    zone_size: u64,
    places: Box<[Place]>,
    /// What is open for writing besides the files of `places`.
    held: Mutex<BTreeMap<usize, Arc<File>>>,
    /// The zone whose file is synced: a sync of one is a sync of the device. Places behind the drive's zones
    /// serve this alone.
    synced: AtomicUsize,
    /// The file whose lock has to last as long as the last ring.
    locked: Option<Arc<File>>,
}

/// Where a zone's bytes are.
#[derive(Debug)]
pub(crate) struct Place {
    file: Arc<File>,
    /// The zone's first byte in its file, which several zones may share.
    base: u64,
    writes: AtomicI32,
}

impl Place {
    /// A zone that begins at byte `base` of `file`, which is open for writing too if it is `writable`.
    pub(crate) fn new(file: Arc<File>, base: u64, writable: bool) -> Self {
        let writes = AtomicI32::new(if writable { file.as_raw_fd() } else { NONE });
        Self { file, base, writes }
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Spread {
    /// Of zones so far apart.
    pub(crate) fn new(zone_size: u64, places: Vec<Place>) -> Self {
        debug_assert!(zone_size.is_power_of_two());
        let (held, synced) = (Mutex::default(), AtomicUsize::new(0));
        Self { zone_size, places: places.into(), held, synced, locked: None }
    }

    /// The same, with a file that rings keep open for its lock.
    pub(crate) fn locked_by(self, locked: Option<Arc<File>>) -> Self {
        Self { locked, ..self }
    }

    /// That file's descriptor.
    pub(super) fn locked(&self) -> Option<RawFd> {
        self.locked.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The descriptor for a request, and its offset there.
    pub(super) fn locate(&self, kind: IoKind, offset: u64) -> (RawFd, u64) {
        let (zone, inside) = self.inside(kind, offset);
        let Some(place) = self.places.get(zone) else { return (NONE, 0) };
        let descriptor = match kind {
            IoKind::Read | IoKind::SyncData => place.file.as_raw_fd(),
            IoKind::Write | IoKind::WriteDurable | IoKind::Zero => {
                place.writes.load(Ordering::Acquire)
            }
        };
        (descriptor, place.base + inside)
    }

    /// The same as a file, for as long as it is had.
    ///
    /// # Errors
    /// `EBADF`: it is not open.
    pub(super) fn open_for(&self, kind: IoKind, offset: u64) -> io::Result<(Arc<File>, u64)> {
        let (zone, inside) = self.inside(kind, offset);
        let not_open = || io::Error::from_raw_os_error(libc::EBADF);
        let place = self.places.get(zone).ok_or_else(not_open)?;
        let held = match kind {
            IoKind::Read | IoKind::SyncData => None,
            IoKind::Write | IoKind::WriteDurable | IoKind::Zero => {
                let held = lock(&self.held).get(&zone).cloned();
                if held.is_none() && !self.is_writable(zone) {
                    return Err(not_open());
                }
                held
            }
        };
        Ok((held.unwrap_or_else(|| place.file.clone()), place.base + inside))
    }

    /// The zone of a request, and how far in it it is.
    fn inside(&self, kind: IoKind, offset: u64) -> (usize, u64) {
        if kind == IoKind::SyncData {
            return (self.synced.load(Ordering::Relaxed), 0);
        }
        let zone = offset >> self.zone_size.trailing_zeros();
        (usize::try_from(zone).unwrap_or(usize::MAX), offset & (self.zone_size - 1))
    }

    /// A zone's file, open for reading.
    pub(crate) fn file(&self, zone: usize) -> &File {
        &self.places[zone].file
    }

    /// Whether a zone can be written as things are.
    pub(crate) fn is_writable(&self, zone: usize) -> bool {
        self.places[zone].writes.load(Ordering::Acquire) != NONE
    }

    /// Goes on with a zone's file that was opened for writing, unless there is one.
    pub(crate) fn hold(&self, zone: usize, file: Arc<File>) {
        let mut held = lock(&self.held);
        let file = held.entry(zone).or_insert(file);
        self.places[zone].writes.store(file.as_raw_fd(), Ordering::Release);
    }

    /// Takes away what [`hold`](Self::hold) was given, to be closed. No write of the zone has a place.
    pub(crate) fn let_go(&self, zone: usize) -> Option<Arc<File>> {
        // Locked until both are done: one that is given meanwhile must not lose its descriptor.
        let mut held = lock(&self.held);
        let file = held.remove(&zone)?;
        self.places[zone].writes.store(NONE, Ordering::Release);
        Some(file)
    }

    /// The zones whose files are held for writing.
    pub(crate) fn held(&self) -> Vec<usize> {
        lock(&self.held).keys().copied().collect()
    }

    /// Syncs by the file of the next zone from now on; false: all have had their turn.
    pub(crate) fn sync_by_next(&self) -> bool {
        self.synced.fetch_add(1, Ordering::Relaxed) + 1 < self.places.len()
    }
}

#[cfg(test)]
#[cfg(not(zonal_shuttle))]
mod tests {
    use super::*;

    const ZONE: u64 = 1 << 20;

    /// Two zones in one file that can be written, and one that has a file of its own.
    fn spread() -> Spread {
        let file = || Arc::new(tempfile::tempfile().unwrap());
        let shared = file();
        let places = vec![
            Place::new(shared.clone(), 0, true),
            Place::new(shared, ZONE, true),
            Place::new(file(), 0, false),
        ];
        Spread::new(ZONE, places)
    }

    #[test]
    fn a_request_goes_to_its_zone_s_file_and_place() {
        let spread = spread();
        let shared = spread.file(0).as_raw_fd();
        assert_eq!(spread.locate(IoKind::Read, 4096), (shared, 4096));
        assert_eq!(spread.locate(IoKind::Write, ZONE + 4096), (shared, ZONE + 4096));
        let own = spread.file(2).as_raw_fd();
        assert_eq!(spread.locate(IoKind::Read, 2 * ZONE + 512), (own, 512));
        assert_eq!(spread.locate(IoKind::Read, 3 * ZONE), (NONE, 0));
    }

    #[test]
    fn a_zone_is_written_as_long_as_its_file_is_held() {
        let spread = spread();
        let writes = || spread.locate(IoKind::Write, 2 * ZONE).0;
        assert_eq!((writes(), spread.is_writable(2)), (NONE, false));
        spread.hold(2, Arc::new(tempfile::tempfile().unwrap()));
        let first = writes();
        spread.hold(2, Arc::new(tempfile::tempfile().unwrap()));
        assert_eq!((spread.held(), writes()), (vec![2], first), "what is written to stays open");
        assert_eq!(spread.open_for(IoKind::Write, 2 * ZONE + 512).unwrap().1, 512);
        let file = spread.let_go(2).unwrap();
        assert!(spread.open_for(IoKind::Write, 2 * ZONE + 512).is_err());
        assert_ne!(file.as_raw_fd(), spread.file(2).as_raw_fd());
        assert_eq!((writes(), spread.is_writable(2)), (NONE, false));
        assert!(spread.let_go(2).is_none() && spread.held().is_empty());
    }

    #[test]
    fn a_sync_goes_to_one_file_until_that_will_not_do() {
        let spread = spread();
        let synced = || spread.locate(IoKind::SyncData, 0).0;
        assert_eq!(synced(), spread.file(0).as_raw_fd());
        assert!(spread.sync_by_next() && spread.sync_by_next());
        assert_eq!(synced(), spread.file(2).as_raw_fd());
        assert!(!spread.sync_by_next());
        assert_eq!(synced(), NONE);
    }
}

/// `RUSTFLAGS='--cfg zonal_shuttle' cargo test -p zonal --lib spread`: the model checker orders the steps.
#[cfg(test)]
#[cfg(zonal_shuttle)]
mod in_any_order {
    use super::*;
    use crate::sync::{Arc as Shared, thread};

    #[test]
    fn what_is_held_can_be_written_however_holding_and_letting_go_interleave() {
        let file = || Arc::new(tempfile::tempfile().unwrap());
        let (read, written) = (file(), file());
        let interleaved = move || {
            let places = vec![Place::new(read.clone(), 0, false)];
            let spread = Shared::new(Spread::new(1 << 20, places));
            spread.hold(0, written.clone());
            let holder = {
                let (spread, written) = (spread.clone(), written.clone());
                thread::spawn(move || spread.hold(0, written))
            };
            drop(spread.let_go(0));
            holder.join().unwrap();
            assert_eq!(spread.is_writable(0), spread.held() == [0]);
        };
        shuttle::check_random(interleaved, 1000);
    }
}
