//! Whether appends tell the truth about where they landed.
//!
//! One *campaign* serves all rules of this group: in many *situations* (`situation`) records go to
//! zones from several threads with many in flight (`worker`); then each is judged (`judge`): ended
//! once, inside its zone, at a place of its own, its own contents, whole, the zone covered without a
//! hole, the write pointer behind the last of them.
//!
//! Invariant: a record that one judgement has found guilty is not looked at by the next, so that
//! each lie is named by the rule that says what it is.

mod judge;
mod situation;
mod worker;

use super::{
    bench::Bench,
    verdict::{Checked, Fault, Stop},
};
use worker::Landed;
use zonal::ErrorKind;

/// What is judged, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Judgement {
    /// Ended once, well, with its tag and buffer; or refused where it had to be.
    Completes,
    /// The offset is in the zone and on a block.
    Inside,
    /// The place is nobody else's.
    Distinct,
    /// What is there is this record and not another's.
    Record,
    /// All of it is there.
    Whole,
    /// The records lie without a hole.
    Cover,
    /// The report's write pointer is where they end.
    Pointer,
    /// No more zones are open and active than allowed.
    Limits,
}

/// What the appends have shown.
#[derive(Debug, Default)]
pub(super) struct Campaign {
    pub(super) findings: Vec<(Judgement, Fault)>,
    /// How many records were appended, read back and compared.
    pub(super) records: u64,
    /// The situations, by name.
    pub(super) situations: Vec<String>,
    /// What was left out, and why.
    pub(super) left_out: Vec<String>,
    /// A request that hung ended it.
    hung: Option<String>,
}

impl Campaign {
    fn find(&mut self, judgement: Judgement, situation: &str, text: String) {
        let case = if judgement == Judgement::Record { "contents" } else { situation };
        self.find_case(judgement, case.into(), situation, &text);
    }

    fn find_case(&mut self, judgement: Judgement, case: String, situation: &str, text: &str) {
        let text = format!("{situation}: {text}");
        self.findings.push((judgement, Fault { case, text }));
    }

    /// What a request came to that should not: its case is the situation, and how it was refused, if it was.
    pub(super) fn find_end(&mut self, refused: Option<ErrorKind>, situation: &str, text: &str) {
        let case = match refused {
            Some(kind) => format!("{situation}: {kind}"),
            None => situation.to_owned(),
        };
        self.find_case(Judgement::Completes, case, situation, text);
    }
}

/// The campaign's findings of one kind; the first rule that asks makes it.
fn verdict(bench: &mut Bench<'_>, judgement: Judgement) -> Checked {
    let campaign = match bench.campaign.take() {
        Some(campaign) => campaign,
        None => {
            let mut campaign = Campaign::default();
            if let Err(Stop::Hung(text)) = situation::run_all(bench, &mut campaign) {
                campaign.hung = Some(text);
            }
            campaign
        }
    };
    let mine = campaign.findings.iter().filter(|(kind, _)| *kind == judgement);
    bench.notes.faults.extend(mine.map(|(_, fault)| fault.clone()));
    let (hung, none) = (campaign.hung.clone(), campaign.situations.is_empty());
    let why = campaign.left_out.first().cloned();
    bench.campaign = Some(campaign);
    match hung {
        Some(text) => Err(Stop::Hung(text)),
        None if none => Err(Stop::NotApplicable(why.unwrap_or_else(|| "nothing was tried".into()))),
        None => Ok(()),
    }
}

pub(super) fn completes(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Completes)
}

pub(super) fn inside(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Inside)
}

pub(super) fn distinct(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Distinct)
}

pub(super) fn record(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Record)
}

pub(super) fn whole(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Whole)
}

pub(super) fn cover(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Cover)
}

pub(super) fn pointer(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Pointer)
}

pub(super) fn limits(bench: &mut Bench<'_>) -> Checked {
    verdict(bench, Judgement::Limits)
}
