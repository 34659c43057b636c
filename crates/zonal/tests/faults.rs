//! Each kind of fault on each kind of drive does what it says; and after a planned cut or kill a
//! drive keeps what it promises.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[path = "foreign/plain.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod plain;

#[path = "faults/drives.rs"]
mod drives;
#[path = "faults/kinds.rs"]
mod kinds;
#[path = "faults/outages.rs"]
mod outages;
