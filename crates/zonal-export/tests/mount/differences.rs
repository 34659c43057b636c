//! Where the mount does not answer as the kernel's zonefs does, and why.

/// One of them.
pub(crate) struct Difference {
    /// The probe that finds it.
    pub(crate) probe: &'static str,
    /// What the mount answers.
    pub(crate) mounted: &'static str,
    /// Why.
    pub(crate) reason: &'static str,
}

const NAMES: &str = "the kernel's zonefs knows of a name only whether it is there; that nothing can be made is \
                     the truth";

const fn name(probe: &'static str, mounted: &'static str) -> Difference {
    Difference { probe, mounted, reason: NAMES }
}

/// All of them; `docs/guides/mounting.md` has the same list.
pub(crate) const DIFFERENCES: &[Difference] = &[
    name("create seq/new", "EACCES"),
    name("mkdir seq/folder", "EPERM"),
    name("rename seq/0 to seq/new", "EPERM"),
    name("link seq/0", "EPERM"),
    name("symlink seq/link", "EPERM"),
    name("mknod seq/new", "EPERM"),
    Difference {
        probe: "map seq/3 to be written by all",
        mounted: "ENODEV",
        reason: "the kernel refuses shared maps of a FUSE file that is written past its cache, and asks nobody",
    },
];
