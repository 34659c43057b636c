//! Making an image: the whole layout at once, the header last.

use super::metadata_error;
use super::open::{random_id, refuse_replaced};
use crate::buffer::Buffer;
use crate::engine::Disk;
use crate::engine::file::FileDisk;
use crate::live;
use crate::sys::file::Access;
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zonal_core::error::{Error, ErrorKind, Result};
use zonal_core::format::Geometry;
use zonal_core::format::layout::Layout;

/// The data is written, or allocated, in pieces of this size.
const PIECE: u64 = 64 << 20;

/// What is done for the data's space when an image is made; qemu-img's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocate {
    /// Nothing: the file is sparse.
    #[default]
    Off,
    /// The space is allocated, and not written.
    Falloc,
    /// Zeros are written, so that first writes are as fast as later ones.
    Full,
}

/// How an image is made.
pub struct CreateOptions<'a> {
    /// The drive's shape.
    pub geometry: Geometry,
    /// What is done for the data's space.
    pub preallocate: Preallocate,
    /// Replace an existing file: the new image is made beside it, and takes its place when it is
    /// whole. Until then, and if it cannot be made, the old one stays as it is.
    pub force: bool,
    /// Called with the bytes done and all bytes, for long work; may end it.
    pub progress: Option<&'a mut dyn FnMut(u64, u64) -> ControlFlow<()>>,
}

impl fmt::Debug for CreateOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateOptions").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

/// Makes an image of an empty drive at `path`.
///
/// # Errors
/// A shape that cannot be, a file that exists (without `force`) or is in use, the file system's;
/// `Cancelled` when `progress` ended it. Nothing is left behind.
pub fn create(path: &Path, options: CreateOptions<'_>) -> Result<()> {
    create_file(path, options)
        .map_err(|error| error.on(path.display().to_string()).during("create"))
}

fn create_file(path: &Path, mut options: CreateOptions<'_>) -> Result<()> {
    let layout = Layout::plan(&options.geometry)?;
    match if options.force { Old::find(path)? } else { None } {
        None => make(path, &layout, &mut options),
        Some(old) => old.replace(|beside| make(beside, &layout, &mut options)),
    }
}

/// Makes an image where nothing is yet; what cannot be made whole is removed again.
fn make(path: &Path, layout: &Layout, options: &mut CreateOptions<'_>) -> Result<()> {
    let file = FileDisk::open(path, Access::CreateNew).map_err(create_error)?;
    let disk = Disk::File(file);
    let made = write_layout(&disk, layout, random_id()?, |disk| preallocate(disk, layout, options))
        .and_then(|()| sync_folder(path).map_err(|error| metadata_error("its folder", error)));
    if made.is_err()
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("{}: what was made of it is left behind: {error}", path.display());
    }
    made
}

/// Writes an image's metadata to a disk that is new.
pub(crate) fn write_layout(
    disk: &Disk,
    layout: &Layout,
    id: [u8; 16],
    prepare: impl FnOnce(&Disk) -> Result<()>,
) -> Result<()> {
    let failed = |error| metadata_error("the metadata", error);
    disk.set_len(layout.file_len).map_err(failed)?;
    prepare(disk)?;
    for (offset, bytes) in layout.metadata(id)? {
        if offset == 0 {
            disk.sync_data().map_err(failed)?;
        }
        disk.write_all_at(&bytes, offset).map_err(failed)?;
    }
    disk.sync_data().map_err(failed)
}

fn preallocate(disk: &Disk, layout: &Layout, options: &mut CreateOptions<'_>) -> Result<()> {
    if options.preallocate == Preallocate::Off {
        return Ok(());
    }
    let full = options.preallocate == Preallocate::Full;
    let zeros = Buffer::unpooled(if full { 4 << 20 } else { 0 });
    let (start, total) = (layout.data.offset, layout.file_len - layout.data.offset);
    let mut done = 0;
    while done < total {
        let piece = PIECE.min(total - done);
        let made = match options.preallocate {
            Preallocate::Off => Ok(()),
            Preallocate::Falloc => disk.allocate(start + done, piece),
            Preallocate::Full => write_zeros(disk, start + done, piece, &zeros),
        };
        made.map_err(|error| metadata_error("the space", error))?;
        done += piece;
        if let Some(progress) = &mut options.progress
            && progress(done, total).is_break()
        {
            return Err(Error::new(ErrorKind::Cancelled, "nothing was made"));
        }
    }
    Ok(())
}

/// Writes zeros in pieces as long as `zeros`, which are aligned so that they are not copied.
pub(super) fn write_zeros(disk: &Disk, offset: u64, length: u64, zeros: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        let piece = (length - at).min(zeros.len() as u64);
        #[allow(clippy::cast_possible_truncation)] // at most the length of `zeros`
        disk.write_all_at(&zeros[..piece as usize], offset + at)?;
        at += piece;
    }
    Ok(())
}

/// A file that is to be replaced, locked so that nobody opens it meanwhile.
struct Old {
    file: FileDisk,
    /// Its own name, whatever link it was named by.
    path: PathBuf,
}

impl Old {
    /// The file at `path`, if one is there and nobody has it open.
    fn find(path: &Path) -> Result<Option<Self>> {
        let file = match FileDisk::open(path, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(create_error(error)),
            Ok(old) => old,
        };
        let path =
            std::fs::canonicalize(path).map_err(|error| metadata_error("the path", error))?;
        let free = file.try_lock();
        if !free.map_err(|error| metadata_error("the lock", error))? {
            let text = "another process has it open; end that process, or choose another name";
            return Err(Error::new(ErrorKind::InUse, text));
        }
        refuse_replaced(&file, &path)?;
        let identity = file.identity().map_err(|error| metadata_error("the file", error))?;
        if !identity.is_regular() {
            let text = "it is no regular file; choose another name";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(Some(Self { file, path }))
    }

    /// Lets `make` make a file beside it, which then takes its place.
    fn replace(self, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(format!(".new-{}", std::process::id()));
        let beside = PathBuf::from(beside);
        make(&beside)?;
        self.give_way_to(&beside).map_err(|error| {
            let _ = std::fs::remove_file(&beside);
            metadata_error("the file that takes the old one's place", error)
        })
    }

    /// Gives its name and its permissions to the file at `beside`.
    fn give_way_to(&self, beside: &Path) -> io::Result<()> {
        // Whoever opens the new image waits until the old one's live file is gone, and does not
        // have its own taken away.
        let new = FileDisk::open(beside, Access::ReadWrite)?;
        new.try_lock()?;
        let mode = self.file.identity()?.mode & 0o7777;
        std::fs::set_permissions(beside, Permissions::from_mode(mode))?;
        std::fs::rename(beside, &self.path)?;
        sync_folder(&self.path)?;
        // A live file that stays behind is not believed: the new image is another one.
        live::remove(&live::path_of(&self.path))
    }
}

/// Makes the name of a file durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => std::fs::File::open(".")?.sync_all(),
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn create_error(error: io::Error) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::AlreadyExists => (
            ErrorKind::InvalidInput,
            "it exists; choose another name, or replace it with --force".to_owned(),
        ),
        io::ErrorKind::NotFound => {
            (ErrorKind::NotFound, "its folder does not exist; make the folder first".to_owned())
        }
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Io,
            "permission denied; see who may write the file and its folder".to_owned(),
        ),
        io::ErrorKind::IsADirectory => (ErrorKind::InvalidInput, "it is a folder".to_owned()),
        _ => (crate::queue::io_kind(&error), crate::queue::io_text(&error)),
    };
    Error::new(kind, text).with_source(error)
}
