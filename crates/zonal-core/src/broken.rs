//! Rules that the negative controls break, one at a time, to see that a test finds it.
//!
//! In an ordinary build [`is_broken`] is `false` and the compiler removes it. With
//! `--cfg zonal_break` a test chooses the rule to break.

/// A rule that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// The exchange that acknowledges a write looks at *failing*.
    AcknowledgeLooksAtFailing = 1,
    /// Write pointers reach the disk after the data below them.
    DataBeforePointer,
    /// A zone is full when its last write has succeeded, not when it was submitted.
    FullWhenAcknowledged,
    /// A reset is durable before the zone's first new write.
    ResetBeforeWrite,
    /// A finish zeroes what was left of the zone.
    FinishZeroes,
    /// Table pages are built from proven pointers, not from live ones.
    TableFromShadow,
    /// A durable write is acknowledged after everything below it in its zone.
    FuaAfterPrefix,
    /// A flush drops what it noted of a zone that was reset meanwhile.
    StaleNoteDropped,
    /// A flush syncs the data.
    DataSynced,
    /// What failed below acknowledged data is made zero.
    DeadRangesZeroed,
    /// A live file is believed only beside the very file it was made for.
    CopiesDoubted,
    /// A failing zone settles when nothing is in flight in it.
    FailingZoneDrains,
    /// A completion says where its own record is.
    OffsetOfItsRecord,
    /// A zone is punched when that it is at its start is durable.
    PunchAfterEntry,
    /// A repair keeps what is mapped.
    RepairKeepsMapped,
    /// A unit's record is written before the unit goes to its place.
    RecordBeforeUnit,
    /// A record is durable before its units go to their places.
    RecordDurable,
    /// A record whose checksums are wrong is not replayed.
    RecordsProven,
    /// A record is reclaimed after its units are durable in their places.
    ReclaimAfterSync,
    /// An ordinary write waits for the records that a crash would replay over it.
    OrdinaryWaits,
    /// The units of a batch are in one record.
    BatchInOneRecord,
}

impl Rule {
    /// The rules of untorn writes.
    pub const UNTORN: [Self; 6] = [
        Self::RecordBeforeUnit,
        Self::RecordDurable,
        Self::RecordsProven,
        Self::ReclaimAfterSync,
        Self::OrdinaryWaits,
        Self::BatchInOneRecord,
    ];

    /// Every rule of zoned drives.
    pub const ALL: [Self; 15] = [
        Self::AcknowledgeLooksAtFailing,
        Self::DataBeforePointer,
        Self::FullWhenAcknowledged,
        Self::ResetBeforeWrite,
        Self::FinishZeroes,
        Self::TableFromShadow,
        Self::FuaAfterPrefix,
        Self::StaleNoteDropped,
        Self::DataSynced,
        Self::DeadRangesZeroed,
        Self::CopiesDoubted,
        Self::FailingZoneDrains,
        Self::OffsetOfItsRecord,
        Self::PunchAfterEntry,
        Self::RepairKeepsMapped,
    ];
}

#[cfg(zonal_break)]
static BROKEN: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Breaks a rule, or none, from here on.
#[cfg(zonal_break)]
pub fn break_rule(rule: Option<Rule>) {
    let code = rule.map_or(0, |rule| rule as u8);
    BROKEN.store(code, core::sync::atomic::Ordering::SeqCst);
}

/// Whether a test has broken that rule.
#[cfg(zonal_break)]
#[must_use]
pub fn is_broken(rule: Rule) -> bool {
    BROKEN.load(core::sync::atomic::Ordering::SeqCst) == rule as u8
}

/// Whether a test has broken that rule: never, in this build.
#[cfg(not(zonal_break))]
#[inline(always)]
#[must_use]
pub const fn is_broken(_: Rule) -> bool {
    false
}
