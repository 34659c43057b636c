//! Zoned storage in user space: append records concurrently, learn where each one landed.
//!
//! A zoned drive writes each zone from start to end. Its natural write is the *append*: many in
//! flight at once, each completion saying where its record landed. This crate gives it to programs by one
//! API: on zoned block devices, NVMe namespaces by their own commands and mounted zonefs, on drives in memory
//! and in qcow2 images with the rules of real ZNS and SMR drives, and on ordinary files. Which of these a
//! [`Target`] is, [`open`] finds out.
//!
//! ```
//! # use futures::executor::block_on;
//! use zonal::{OpenOptions, Target};
//!
//! # block_on(async {
//! let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
//! let mut record = drive.buffer(4096);
//! record.fill(7);
//! let landed = drive.append(2, record).await?;
//! println!("it landed at {}", landed.offset);
//! let read = drive.read_at(landed.offset, landed.buffer).await?;
//! assert_eq!(read.buffer[0], 7);
//! drive.flush().await?;
//! drive.close()
//! # })?;
//! # Ok::<(), zonal::Error>(())
//! ```
//!
//! That works under every runtime; without one, say `.wait()` in place of `.await`. A thread that
//! wants the last word on batches drives a queue of its own:
//!
//! ```
//! use zonal::{OpenOptions, QueueOptions, Request, Target};
//!
//! let drive = zonal::open(&Target::parse("mem:size=64M,zone-size=16M")?, &OpenOptions::default())?;
//! let mut queue = drive.queue(&QueueOptions::default())?;
//! for n in 0..8 {
//!     let mut record = queue.buffer(4096).expect("fewer than the queue's depth");
//!     record.fill(n);
//!     queue.push(Request::append(0, record).tag(n.into()))?;
//! }
//! queue.submit_and_wait(8)?;
//! while let Some(completion) = queue.next_completion() {
//!     println!("record {} landed at {}", completion.tag, completion.offset);
//!     completion.result?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * [`open`] gives a [`Device`], shared by all threads; [`create`] makes an image, [`adopt`] gives
//!   zones to one of another making.
//! * [`check`] says what is wrong with an image, [`repair`] mends what can be mended without a loss.
//! * [`Device::append`] and its kin, [`Zone`]: operations to be awaited or waited for.
//! * [`Device::queue`] gives a [`Queue`], one thread's: push [`Request`]s, submit, take
//!   [`Completion`]s.
//! * [`atomic`] writes ordinary files untorn: all of a unit is there after a power cut, or none.
//! * [`faults`] makes any drive fail as planned, for the tests of programs that write to it.
//! * [`sim`] has a disk that fails, reorders and loses power on command, for tests.
//!
//! What callers may rely on, whatever is underneath, is in `docs/semantics.md`.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod atomic;
mod block;
mod buffer;
mod device;
mod engine;
pub mod faults;
mod file_zone;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod image;
mod live;
mod mailbox;
mod memory;
mod nvme;
mod open;
mod queue;
pub mod sim;
mod sync;
mod sys;
mod target;
mod view;
mod zones;

pub use buffer::Buffer;
pub use device::{Device, Info, Limits, Metrics, PartOf, ZoneInfo, ZoneKind};
pub use engine::EngineChoice;
pub use handle::{
    Failed, HandleOptions, IO_THREADS_MAX, Operation, Record, Records, Transfer, Zone,
};
pub use image::{
    AdoptOptions, Adopted, CheckOptions, CheckReport, CreateOptions, Finding, Preallocate,
    RepairOptions, RepairReport, Severity, adopt, check, create, repair,
};
pub use open::{OpenOptions, open};
pub use queue::request::{AioEvent, Completion, Flags, Full, OffsetPlace, Request};
pub use queue::{Queue, QueueOptions};
#[doc(hidden)]
pub use sync::locks_taken;
pub use target::{Target, size};
#[cfg(zonal_break)]
#[doc(hidden)]
pub use zonal_core::broken::{Rule, break_rule};
pub use zonal_core::error::{Context, Error, ErrorKind, Result};
pub use zonal_core::format::Geometry;
pub use zonal_core::format::check::FindingKind;
pub use zonal_core::format::repair::{Mend, Mended};
pub use zonal_core::units::ZoneIndex;
pub use zonal_core::zone::ZoneState;
pub use zones::cells::{DEPTH_MAX, QUEUES_MAX};

/// What the guides show of the library compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/from-libzbd.md")]
#[doc = include_str!("../../../docs/guides/testing-with-faults.md")]
#[doc = include_str!("../../../docs/guides/untorn-writes.md")]
mod guides {}
