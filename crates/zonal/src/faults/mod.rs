//! Drives that fail as planned, for the tests of programs that write to zonal.
//!
//! A [`FaultPlan`] says what goes wrong and when; it goes with a target, in the library by
//! [`Target::with_faults`](crate::Target::with_faults), in a name as `TARGET,faults=…`. It works on
//! drives in memory, in images and on ordinary files, over io_uring and over threads, with the code
//! that ships; a drive without a plan does not know that there are any.
//!
//! ```
//! use zonal::faults::FaultPlan;
//! use zonal::{ErrorKind, OpenOptions, Target};
//!
//! let plan = FaultPlan::new().fail_write(2).seed(7);
//! assert_eq!(plan.to_string(), "fail-write=2,seed=7");
//! let target = Target::parse("mem:size=64M,zone-size=16M")?.with_faults(plan);
//! let drive = zonal::open(&target, &OpenOptions::default())?;
//! drive.append(0, vec![1; 4096]).wait()?;
//! let failed = drive.append(0, vec![2; 4096]).wait().unwrap_err();
//! assert_eq!(failed.error.kind(), ErrorKind::Io);
//! assert!(failed.error.to_string().contains("by its fault plan (fail-write=2)"));
//! let landed = drive.append(0, vec![2; 4096]).wait()?;
//! assert_eq!(landed.offset, 4096);
//! # Ok::<(), zonal::Error>(())
//! ```
//!
//! # What a plan says
//!
//! In text a plan is words, separated by commas; those marked * may come several times:
//!
//! | word | what happens |
//! |---|---|
//! | `seed=N` | what all chances follow from; 0 if it is left out |
//! | `fail-write=N` * | the Nth write of data fails, without any effect |
//! | `tear-write=N` * | the Nth write of data fails after some whole blocks of it, or none |
//! | `fail-read=N` * | the Nth read fails |
//! | `fail-sync=N` * | the Nth sync fails; what it should have covered is in doubt for good |
//! | `bad=A..B` * | what reads, writes or zeroes a byte of this range of the drive fails |
//! | `bad-read=A..B` * | the same of reads |
//! | `bad-write=A..B` * | the same of writes and zeroing |
//! | `read-only=Z`, `read-only=Z@N` * | zone Z is read-only: from the opening on, or after N operations |
//! | `offline=Z`, `offline=Z@N` * | the same, offline |
//! | `latency=T`, `latency=T..T` | each operation takes so long, or a random time between the two |
//! | `read-latency=`, `write-latency=`, `sync-latency=` | the same of one kind; goes before `latency` |
//! | `short-per-mille=N` | of 1000 reads and writes of data, so many end after a part of them |
//! | `fail-per-mille=N` | of 1000 operations, so many fail |
//! | `space=SIZE` | what is written after so many bytes of data finds no space |
//! | `cut=N`, `cut=A..B` | the power goes after N operations, or after a random number from A to below B |
//! | `kill=N`, `kill=A..B` | the process is as good as killed after so many |
//!
//! Counting begins with 1 and with the opened drive: what opening does is not counted and does not
//! fail. An *operation* is a request to what is below the drive: reads and writes of data, syncs,
//! and what zonal itself has to write there, like the zone table. The rest of a request that ended
//! short is a request of its own. Requests are counted, and chances taken, in the order in which
//! they are submitted; so one thread's use replays exactly, and that of several as far as they do.
//! A plan begins anew each time a drive is opened.
//!
//! # The end
//!
//! After a *cut* every request fails until the drive is opened again, those under way included. Of
//! what was not durable each block of 4096 bytes keeps, by itself, any of the contents it had since
//! its last sync. Until that moment the plan keeps these contents in memory. The image then says
//! that the machine was booted since, so that `open` does as it does after a power cut.
//!
//! After a *kill* every request fails as well; the image is left with all that reached it, and with
//! the live file of that moment, which the next `open` recovers from. What other threads do at that
//! very moment is not stopped at one instant, as the kernel would stop it.
//!
//! A drive in memory has nothing that outlives its handles, flushed or not: after a cut or a kill
//! opening it again gives an empty drive. For cuts in memory there is [`crate::sim`], whose disks
//! take plans too ([`crate::sim::open_with_faults`]), and a file on tmpfs. An ordinary file
//! (`file:PATH`) keeps, of the lengths it had since its last sync, any one.
//!
//! A zone that becomes read-only or offline by a plan stays so in an image once that is flushed, as
//! on a worn-out drive.

mod injected;
mod plan;
mod state;
mod undo;

pub(crate) use injected::{errno, is_injected};
pub use plan::FaultPlan;
pub(crate) use state::{Ask, Decision, Fate, Faults, Note, Outage};
use undo::WriteId;

/// Numbers that look random and follow from a seed alone (SplitMix64: Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is not 0. Bounds here are small, so the bias is too.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound as u64)).unwrap_or(0)
    }

    /// A number in a range, which is not empty.
    pub(crate) fn within(&mut self, range: &std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    pub(crate) fn per_mille(&mut self, chance: u16) -> bool {
        chance != 0 && self.below(1000) < usize::from(chance)
    }
}
