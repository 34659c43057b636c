//! A zoned drive shown to programs that know nothing of this library.
//!
//! * [`mount`](mod@mount): any drive as a zonefs, one file a zone, by FUSE: no zoned kernel is needed.
//! * `ublk`, with the feature of that name: any drive as a zoned block device of the kernel.
//!
//! What is here translates: it asks a [`Device`](zonal::Device) and says its answers in the words of another
//! interface. No zone rule is held here.

pub mod mount;
#[cfg(feature = "ublk")]
pub mod ublk;
