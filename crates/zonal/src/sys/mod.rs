//! The kernel's interfaces and raw memory, behind safe functions.
//!
//! What is `unsafe` ends here and in the ring (`engine/uring.rs`), but for the promises of their
//! callers: who pushes a buffer to an engine (`queue/mod.rs`, `atomic/driver.rs`, `engine/mod.rs`,
//! `engine/threads.rs`), and who copies in memory that others use (`memory.rs`). Every block says
//! which invariant makes it sound and who keeps it. Nothing in here knows about zones.

pub(crate) mod blkzoned;
pub(crate) mod clock;
pub(crate) mod event;
pub(crate) mod file;
pub(crate) mod kernel;
pub(crate) mod limits;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod mmap;
pub(crate) mod nvme;
pub(crate) mod region;
pub(crate) mod slots;
pub(crate) mod thread;
pub(crate) mod words;

/// What memory, lengths and offsets of direct I/O are aligned to, in bytes.
///
/// Devices ask for their logical block, 512 or 4096; file systems for up to a page. 4096 suits
/// all that are known.
pub(crate) const DIRECT_ALIGNMENT: usize = 4096;
