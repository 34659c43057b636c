//! Pictures in files: they replace other pictures, and nothing else.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};

/// What an SVG begins with.
const BEGINNINGS: [&[u8]; 2] = [b"<svg", b"<?xm"];

/// Refuses a file that holds something else than a picture, such as the drive itself.
pub(crate) fn may_hold_picture(path: &Path) -> Result<()> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return folder_is_there(path),
        Err(error) => bail!("{}: {error}; name another file", path.display()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(());
    }
    let mut found = [0; 4];
    let is_picture = file.read_exact(&mut found).is_ok() && BEGINNINGS.contains(&&found[..]);
    if !is_picture {
        bail!("{}: it exists and is no SVG; choose another name", path.display());
    }
    Ok(())
}

/// Refuses a file in a folder that is not there, before the work that it is to hold the result of.
pub(crate) fn folder_is_there(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    ensure!(
        folder.is_dir(),
        "{}: there is no folder {}; make it first",
        path.display(),
        folder.display()
    );
    Ok(())
}

/// Writes a picture, in place of an older one at most.
pub(crate) fn write_picture(path: &Path, text: &str) -> Result<()> {
    may_hold_picture(path)?;
    fs::write(path, text).with_context(|| path.display().to_string())
}
