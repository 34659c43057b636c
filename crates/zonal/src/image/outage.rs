//! What a fault plan's cut or kill does to an image beside its data, so that the next opening takes
//! it for what it stands for.
//!
//! A cut is told from a kill by the boot: the session record in the image names the one in which it
//! was written. After a planned cut it names another, as if the machine had been booted since, and so
//! does the live file. After a kill the live file counts; it is left as it was at that moment, under
//! its name, while this process goes on to write to a file that has none.

use super::PAGE;
use crate::engine::Disk;
use crate::faults::Outage;
use crate::live;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use zonal_core::format::Geometry;
use zonal_core::format::zonal::{Extension, Session};

/// A boot that no machine has had.
const OTHER_BOOT: [u8; 16] = *b"fault plan's cut";

/// The session of an image under a plan.
pub(super) struct ImageOutage {
    pub(super) extension: Extension,
    pub(super) geometry: Geometry,
    pub(super) live: PathBuf,
}

impl Outage for ImageOutage {
    fn cut(&self, disk: &Disk) -> io::Result<()> {
        let id = &self.extension.image_id;
        for copy in 0..2 {
            let offset = self.extension.session_offset(copy);
            let mut page = vec![0; PAGE];
            disk.read_exact_at(&mut page, offset)?;
            // A copy that is torn, or says that the drive was closed, is left as it is.
            let Ok(Some(session)) = Session::parse_copy(copy, &page, id, &self.geometry) else {
                continue;
            };
            if !session.clean {
                let session = Session { boot_id: OTHER_BOOT, ..session };
                disk.write_all_at(&session.encode(id).map_err(io::Error::from)?, offset)?;
            }
        }
        live::remove(&self.live)
    }

    fn kill(&self) -> io::Result<()> {
        let now = fs::read(&self.live)?;
        let frozen = self.live.with_extension("live.frozen");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&frozen)?.write_all(&now)?;
        fs::rename(&frozen, &self.live)
    }
}
