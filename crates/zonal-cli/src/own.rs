//! The drive's own files: its image, by whatever name or link, and its live file, whether or not it
//! is there at the moment. A command that took them for its input or its output would feed the drive
//! with itself, or destroy it; so each one is held against them before anything is opened.

use std::{
    fs::{self, Metadata},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use zonal::Target;

/// More links than any system follows; a longer way is a circle.
const LINKS_MAX: u32 = 40;

/// What ends a live file's name, behind the image's.
const LIVE: &str = ".live";

/// A file by what it is and not by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }

    /// That of the file at `path`, links followed; `None` where there is none that can be seen.
    fn at(path: &Path) -> Option<Self> {
        let stdin = io::stdin();
        if path == Path::new("-") {
            return Self::behind(&stdin);
        }
        fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// That of an open file, such as a standard stream.
    fn behind(file: &impl AsFd) -> Option<Self> {
        let stat = rustix::fs::fstat(file).ok()?;
        Some(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// The files of one target. Drives in memory have none.
#[derive(Debug, Default)]
pub(crate) struct OwnFiles {
    target: String,
    image: Option<Identity>,
    /// The name of its live file, made of the image's own.
    live: Option<PathBuf>,
}

impl OwnFiles {
    /// Those of the target called `name`. What cannot be found has no files; its opening says why.
    pub(crate) fn of(name: &str) -> Self {
        Target::parse(name).map_or_else(|_| Self::default(), |target| Self::of_target(&target))
    }

    fn of_target(target: &Target) -> Self {
        match target {
            Target::Path(path) => Self::of_image(path),
            Target::File(path) => {
                Self { target: target.to_string(), image: Identity::at(path), live: None }
            }
            Target::Memory(_) => Self::default(),
            Target::Faulty(target, _) => Self::of_target(target),
        }
    }

    /// Those of an image.
    pub(crate) fn of_image(path: &Path) -> Self {
        let live = fs::canonicalize(path).ok().map(|image| {
            let mut live = image.into_os_string();
            live.push(LIVE);
            PathBuf::from(live)
        });
        Self { target: path.display().to_string(), image: Identity::at(path), live }
    }

    /// What of the drive's the file at `path` is, if it is.
    fn what(&self, path: &Path) -> Option<&'static str> {
        let found = Identity::at(path);
        if found.is_some() && found == self.image {
            return Some("the drive itself");
        }
        let live = self.live.as_deref()?;
        let is_live = match found {
            Some(found) => Identity::at(live) == Some(found),
            None => own_name(path).as_deref() == Some(live),
        };
        is_live.then_some("the drive's live file, which holds what was acknowledged")
    }

    /// Refuses to read an input from the drive's own files; `-` is stdin.
    pub(crate) fn refuse_input(&self, path: &Path) -> Result<()> {
        match self.what(path) {
            Some(what) => {
                bail!("{}: it is {what} ({}); name another input", named(path), self.target)
            }
            None => Ok(()),
        }
    }

    /// Refuses to write an output into the drive's own files, or where an image has its live file.
    pub(crate) fn refuse_output(&self, path: &Path) -> Result<()> {
        if let Some(what) = self.what(path) {
            bail!("{}: it is {what} ({}); choose another name", path.display(), self.target);
        }
        refuse_live_name(path)
    }

    /// Refuses a stdout that is redirected into the drive's own files.
    pub(crate) fn refuse_stdout(&self) -> Result<()> {
        let stdout = Identity::behind(&io::stdout());
        let live = self.live.as_deref().and_then(Identity::at);
        if stdout.is_some() && (stdout == self.image || stdout == live) {
            bail!(
                "stdout goes into the drive itself ({}), which the output would destroy; redirect it \
                 to another file",
                self.target
            );
        }
        Ok(())
    }
}

/// Whether the file at `path` is the one that stdout goes to.
pub(crate) fn is_stdout(path: &Path) -> bool {
    let stdout = Identity::behind(&io::stdout());
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && stdout == Some(Identity::of(&meta)))
}

/// Refuses a new file where an image has its live file: the image's next opening would remove it.
pub(crate) fn refuse_live_name(path: &Path) -> Result<()> {
    let Some(own) = own_name(path) else { return Ok(()) };
    let Some(image) = own.to_str().and_then(|name| name.strip_suffix(LIVE)) else { return Ok(()) };
    if Path::new(image).is_file() {
        bail!(
            "{}: the drive {image} keeps its live file there, and removes what it finds; choose \
             another name",
            path.display()
        );
    }
    Ok(())
}

/// The name that a file opened as `path` has, links followed, even if it is not there yet.
fn own_name(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => break,
        }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?;
    Some(folder.join(path.file_name()?))
}

/// An input's name for people.
fn named(path: &Path) -> String {
    if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() }
}
