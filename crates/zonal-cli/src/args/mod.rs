//! What the commands' words are made of: sizes, zone ranges, targets, times.
//!
//! Everything here turns text into values and nothing else; what the values mean for a given drive
//! is resolved by the commands.

mod duration;
mod range;
mod size;
mod target;

pub(crate) use duration::parse_duration;
pub(crate) use range::ZoneRange;
pub(crate) use size::{Size, format_size};
pub(crate) use target::{Access, Engine, TargetArg, WriteAccess, open, without_plan};
