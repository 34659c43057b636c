//! Where an image is: the machine, the file's identity, the live file beside it, the lock.
//!
//! A place is a real file in its folder, a simulated one ([`crate::sim::SimHost`]), or nowhere: a
//! simulated disk by itself. Opening, closing and repairing are the same code for all of them.

use super::metadata_error;
use super::open::random_id;
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::live::{self, Doubt, Expected};
use crate::sim::host::Session;
use crate::sys::clock::{self, BootId};
use crate::sys::file::FileIdentity;
use crate::sys::words::SharedWords;
use crate::zones::Cells;
use crate::zones::cells::words_needed;
use std::io;
use std::path::{Path, PathBuf};
use zonal_core::error::Result;
use zonal_core::format::zonal;

/// Where an image is.
pub(crate) enum Place {
    /// A file, and where its live file is.
    File { file: FileDisk, live: PathBuf },
    /// A file on a simulated machine.
    Sim(Session),
    /// On a simulated disk, with nothing beside it. Runs over one replay byte for byte.
    Nowhere,
}

/// What [`Place::Nowhere`] has instead of a boot id and of random numbers.
const SAME: [u8; 16] = [1; 16];

impl Place {
    /// Which boot of the machine this is.
    pub(super) fn boot(&self) -> Result<BootId> {
        match self {
            Self::File { .. } => {
                clock::boot_id().map_err(|error| metadata_error("the boot id", error))
            }
            Self::Sim(session) => Ok(session.boot()),
            Self::Nowhere => Ok(BootId(SAME)),
        }
    }

    /// A number that no session had before.
    pub(super) fn nonce(&self) -> Result<[u8; 16]> {
        match self {
            Self::File { .. } => random_id(),
            Self::Sim(session) => Ok(session.nonce()),
            Self::Nowhere => Ok(SAME),
        }
    }

    /// Which file the image is; of none where nothing is beside it.
    fn identity(&self) -> Result<Option<FileIdentity>> {
        match self {
            Self::File { file, .. } => {
                file.identity().map(Some).map_err(|error| metadata_error("the file", error))
            }
            Self::Sim(session) => Ok(Some(session.identity())),
            Self::Nowhere => Ok(None),
        }
    }

    /// The time of day in nanoseconds since 1970, by the clock that stamps files.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        match self {
            Self::File { .. } => clock::coarse_realtime_ns(),
            Self::Sim(session) => session.now_ns(),
            Self::Nowhere => 0,
        }
    }

    /// Before something is submitted: the live file learns that the image changes now.
    #[inline]
    pub(crate) fn stamp(&self, cells: &Cells) {
        if self.has_live() {
            live::stamp(cells, self.now_ns());
        }
    }

    /// Whether a live file is beside the image.
    pub(super) fn has_live(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }

    /// What the live file of a session here says of itself.
    fn expected<'a>(
        &self,
        zones: u32,
        session: &'a zonal::Session,
        image: &'a FileIdentity,
    ) -> Result<Expected<'a>> {
        Ok(Expected {
            zones,
            nonce: &session.nonce,
            boot: self.boot()?,
            image,
            flush_sequence: session.flush_sequence,
        })
    }

    /// The live file of the session that the image says was cut off, believed or not; none where
    /// there is no place for one.
    pub(super) fn earlier(
        &self,
        zones: u32,
        session: &zonal::Session,
    ) -> Result<Option<Result<Cells, Doubt>>> {
        let Some(image) = self.identity()? else { return Ok(None) };
        let expected = self.expected(zones, session, &image)?;
        Ok(match self {
            Self::File { live, .. } => Some(live::open(live, &expected)),
            Self::Sim(session) => Some(session.live(&expected)),
            Self::Nowhere => None,
        })
    }

    /// Makes the live file of a session that begins, in place of an old one.
    pub(super) fn begin(&self, zones: u32, session: &zonal::Session) -> Result<io::Result<Cells>> {
        let Some(image) = self.identity()? else {
            return Ok(Ok(Cells::new(SharedWords::heap(words_needed(zones)), 0, zones)));
        };
        let expected = self.expected(zones, session, &image)?;
        Ok(match self {
            Self::File { live, .. } => live::create(live, &expected, self.now_ns()),
            Self::Sim(session) => Ok(session.begin(&expected)),
            Self::Nowhere => Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// The live file's name, for people.
    pub(super) fn live_name(&self) -> String {
        match self {
            Self::File { live, .. } => live.display().to_string(),
            Self::Sim(_) | Self::Nowhere => "beside the image".to_owned(),
        }
    }

    /// Removes the live file, the session having ended.
    pub(super) fn end(&self) -> io::Result<()> {
        match self {
            Self::File { live, .. } => live::remove(live),
            Self::Sim(session) => {
                session.end();
                Ok(())
            }
            Self::Nowhere => Ok(()),
        }
    }

    /// Where the live file of a real file is.
    pub(super) fn live_path(&self) -> Option<&Path> {
        match self {
            Self::File { live, .. } => Some(live),
            Self::Sim(_) | Self::Nowhere => None,
        }
    }

    /// Gives the lock on `disk` back, all I/O having ended.
    pub(super) fn unlock(&self, disk: &Disk) -> io::Result<()> {
        match self {
            Self::File { .. } => disk.release(),
            Self::Sim(session) => {
                session.unlock();
                Ok(())
            }
            Self::Nowhere => Ok(()),
        }
    }
}
