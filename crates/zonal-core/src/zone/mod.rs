//! The zone rules: the zone word and pure functions over it.
//!
//! [`state`] holds the state machine of NVMe ZNS (section 2.1.1.3, Zone State Machine) as one
//! table, [`word`] packs a zone in 64 bits and says how writes enter and leave it, [`resources`]
//! counts open and active zones, [`mod@settle`] decides what a failed write leaves behind.
//!
//! Every function takes old values and returns new ones or a refusal. Who keeps the word, and in
//! what kind of memory, is the caller's business: `zonal` exchanges it atomically.
//!
//! Invariants of a word that only these functions have touched:
//! * `wp <= capacity`; a full zone's wp is its capacity, an empty zone's is zero;
//! * writes in flight, acknowledged and dead ranges tile `[0, wp)` without gap or overlap;
//! * a zone becomes full when its last write has succeeded, never at submission;
//! * a failing zone takes nothing new until nothing is in flight in it.

pub mod resources;
pub mod settle;
pub mod state;
pub mod word;

pub use resources::{Limits, Resources};
pub use settle::{Settlement, Verdict, settle};
pub use state::{Place, Refusal, ZoneOp, ZoneState};
pub use word::{
    Acknowledgement, Barrier, Entered, Epoch, IN_FLIGHT_MAX, Obstacle, Pass, Placement, Write,
    ZoneWord,
};
