//! What becomes of a rule: what it saw, and what that is called.
//!
//! Rules find *faults*. Each has a *case*, so that a documented deviation of a named peer can be told
//! from any other fault of the same rule.

use serde::Serialize;

/// How a rule's check ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something was seen that the rule forbids, and going on would show nothing more.
    Fault(String),
    /// The drive has not what the rule is about.
    NotApplicable(String),
    /// A request did not end before its deadline: nothing more can be asked of the drive.
    Hung(String),
}

/// What a check returns.
pub(super) type Checked<T = ()> = Result<T, Stop>;

/// Stops with what was seen.
pub(super) fn fault<T>(text: impl Into<String>) -> Checked<T> {
    Err(Stop::Fault(text.into()))
}

/// Stops with what the drive lacks.
pub(super) fn not_applicable<T>(why: impl Into<String>) -> Checked<T> {
    Err(Stop::NotApplicable(why.into()))
}

/// One thing that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Which case of the rule, in a word or two; empty where there is only one.
    pub(super) case: String,
    /// What was seen, with zone and offset.
    pub(super) text: String,
}

/// What a rule comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// Kept.
    Pass,
    /// Broken.
    Fail,
    /// Broken in a way that is documented of this peer.
    Known,
    /// Not applicable here, or not tried.
    NotApplicable,
}

impl Verdict {
    /// The word in tables.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Known => "known",
            Self::NotApplicable => "n.a.",
        }
    }
}

/// A rule and its verdict.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// The rule's name.
    pub(super) rule: &'static str,
    /// The rule's group.
    pub(super) group: &'static str,
    /// What the rule says.
    pub(super) sentence: &'static str,
    /// What it came to.
    pub(super) verdict: Verdict,
    /// What was seen: faults, why it does not apply, or what the deviation is.
    pub(super) seen: Vec<String>,
    /// What the drive does where the field leaves a choice.
    pub(super) does: Vec<String>,
    /// How long it took.
    pub(super) seconds: f64,
}
