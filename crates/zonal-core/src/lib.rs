//! The rules of zoned storage as pure functions: no I/O, no clock, no threads, no randomness.
//!
//! * [`units`]: block counts, zone indices, generations.
//! * [`zone`]: the zone word, its transitions, limits, and settling after a failed write.
//! * [`mod@format`]: byte layouts of the image: qcow2 with zones, and our own extension beside it.
//! * [`untorn`]: which writes to a file can be untorn, and the journal that makes them so.
//! * [`error`]: what can go wrong, as a kind, a context and a source.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[doc(hidden)]
pub mod broken;
pub mod error;
pub mod format;
pub mod units;
pub mod untorn;
pub mod zone;
