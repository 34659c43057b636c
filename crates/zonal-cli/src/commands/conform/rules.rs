//! All rules, in the order in which they are checked, and the run through them.

use std::time::Instant;

use super::{
    appends,
    bench::{Bench, Notes},
    boundaries, known, limits, others, reads, report, transitions,
    verdict::{Checked, Fault, Row, Stop, Verdict},
    writes,
};
use crate::signals::Interrupt;

/// One rule.
pub(super) struct Rule {
    /// Its name.
    pub(super) id: &'static str,
    /// What it is about.
    pub(super) group: &'static str,
    /// What it says, in a plain sentence.
    pub(super) sentence: &'static str,
    check: fn(&mut Bench<'_>) -> Checked,
}

const fn rule(
    group: &'static str,
    id: &'static str,
    check: fn(&mut Bench<'_>) -> Checked,
    sentence: &'static str,
) -> Rule {
    Rule { id, group, sentence, check }
}

/// All of them.
#[rustfmt::skip]
pub(super) const RULES: &[Rule] = &[
    rule("report", "report-geometry", report::geometry, "Zones lie side by side, and none takes more than its size"),
    rule("report", "report-limits", report::limits, "The limits that the drive states fit together"),
    rule("report", "report-range", report::range, "A report of some zones says what the report of all says"),
    rule("report", "report-pointer", report::pointer, "The write pointer stands where the last acknowledged record ends"),
    rule("report", "report-full", report::full, "A zone without room, or that was finished, is full"),
    rule("report", "report-generation", report::generation, "A reset begins a new life of a zone, and nothing else does"),
    rule("states", "state-append", transitions::append, "An append opens a zone implicitly, and a full one refuses it"),
    rule("states", "state-write", transitions::write, "A write opens a zone implicitly, and a full one refuses it"),
    rule("states", "state-open", transitions::open, "Any zone but a full one can be opened explicitly"),
    rule("states", "state-close", transitions::close, "An open or closed zone can be closed, an empty or full one not"),
    rule("states", "state-finish", transitions::finish, "Any zone can be finished, and is full then"),
    rule("states", "state-reset", transitions::reset, "Any zone can be reset, and is empty then"),
    rule("states", "close-unwritten", transitions::close_unwritten, "A zone closed with nothing written is empty or closed"),
    rule("states", "reset-all", writes::reset_all, "Reset-all empties all sequential zones and touches no others"),
    rule("limits", "open-limit", limits::open_limit, "No more zones are open than allowed; explicitly open ones are not closed for others"),
    rule("limits", "implicit-close", limits::implicit_close, "At the open limit a write closes one implicitly open zone"),
    rule("limits", "explicit-stays", limits::explicit_stays, "It closes an implicitly open zone, never an explicitly open one"),
    rule("limits", "active-limit", limits::active_limit, "No more zones are active than allowed; closed ones count"),
    rule("limits", "places-back", limits::places_back, "Reset, finish, close and the last block give a zone's places back"),
    rule("limits", "finish-at-limit", limits::finish_at_limit, "At the active limit an empty zone is finished, or refused for want of a place"),
    rule("boundaries", "append-limit", boundaries::append_limit, "An append of the append limit is taken whole, a longer one refused"),
    rule("boundaries", "misaligned", boundaries::misaligned, "Lengths and offsets that are not whole blocks are refused"),
    rule("boundaries", "no-bytes", boundaries::empty, "Requests of no bytes are refused"),
    rule("boundaries", "out-of-range", boundaries::out_of_range, "Zones and bytes that the drive does not have are refused"),
    rule("boundaries", "capacity", boundaries::capacity, "A zone takes its capacity to the last block, and no more"),
    rule("boundaries", "zone-end", boundaries::zone_end, "Nothing is written past a zone's capacity, nor over its end"),
    rule("boundaries", "not-at-pointer", boundaries::pointer, "A write elsewhere than at the write pointer is refused"),
    rule("others", "conventional-write", others::written_anywhere, "A conventional zone is written anywhere, and again"),
    rule("others", "conventional-refuses", others::conventional_refuses, "A conventional zone takes no append and no zone operation"),
    rule("others", "read-only", others::read_only, "A read-only zone can be read, and nothing else"),
    rule("others", "offline", others::offline, "An offline zone can neither be read nor changed"),
    rule("others", "completions", others::completions, "Each request ends once, with its tag, buffer and number of bytes"),
    rule("reads", "read-pointer", reads::pointer, "A read shows the data, and zeros from the write pointer on"),
    rule("reads", "read-unwritten", reads::unwritten, "An empty zone reads as zeros, to its end"),
    rule("reads", "read-across", reads::across, "A read goes across zones"),
    rule("reads", "read-reset", reads::reset, "After a reset nothing of the zone's earlier life is read"),
    rule("reads", "read-finished", reads::finished, "A finished zone shows its data, and zeros behind it"),
    rule("reads", "read-gap", reads::gap, "Between a zone's capacity and its size there are zeros"),
    rule("writes", "write-order", writes::writes, "Writes at the write pointer, many in flight, land in the order of submission"),
    rule("writes", "ordered-append", writes::ordered_appends, "Ordered appends, many in flight, land in the order of submission"),
    rule("appends", "append-completes", appends::completes, "Every append that fits ends once and well, and no other does"),
    rule("appends", "append-inside", appends::inside, "Every reported offset is in the record's zone, on a block"),
    rule("appends", "append-distinct", appends::distinct, "No two records are reported at one place"),
    rule("appends", "append-record", appends::record, "At each reported offset is that record, not another's data"),
    rule("appends", "append-whole", appends::whole, "All of the record is there"),
    rule("appends", "append-cover", appends::cover, "The records cover their zone without a hole"),
    rule("appends", "append-pointer", appends::pointer, "Behind the last record is the write pointer, and a zone without room is full"),
    rule("appends", "append-limits", appends::limits, "With many in flight no more zones are open or active than allowed"),
];

/// What a run through the rules has come to.
pub(super) struct Checks {
    /// Each rule's verdict.
    pub(super) rows: Vec<Row>,
    /// The rule in which a request did not end, if one did not.
    pub(super) hung: Option<&'static str>,
}

/// Checks all rules, and says which is next; not those after a hang, and none any more when the user
/// has asked to stop.
pub(super) fn check_all(
    bench: &mut Bench<'_>,
    peer: &str,
    mut next: impl FnMut(&'static Rule),
) -> Checks {
    let mut hung: Option<&'static str> = None;
    let mut rows = Vec::with_capacity(RULES.len());
    for rule in RULES {
        if bench.interrupt.as_ref().is_some_and(Interrupt::came) {
            break;
        }
        next(rule);
        let begun = Instant::now();
        bench.notes = Notes::default();
        let end = match hung {
            Some(id) => Err(Stop::NotApplicable(format!("not tried: the drive hung in {id}"))),
            None => (rule.check)(bench),
        };
        if matches!(end, Err(Stop::Hung(_))) {
            hung = Some(rule.id);
            bench.forget_lane();
        }
        let notes = std::mem::take(&mut bench.notes);
        rows.push(row(rule, peer, end, notes, begun));
        // What a rule leaves in flight when it gives up is waited for where its lane is dropped.
        if rows.last().is_some_and(|row| row.verdict != Verdict::Pass) {
            bench.forget_lane();
        }
    }
    Checks { rows, hung }
}

/// What a rule comes to. What was seen before it gave up counts.
fn row(rule: &Rule, peer: &str, end: Checked, notes: Notes, begun: Instant) -> Row {
    let Notes { mut faults, does } = notes;
    let mut why = None;
    match end {
        Ok(()) => {}
        Err(Stop::Fault(text) | Stop::Hung(text)) => {
            faults.push(Fault { case: String::new(), text });
        }
        Err(Stop::NotApplicable(text)) => why = Some(text),
    }
    let mut seen: Vec<String> = faults.iter().map(|fault| fault.text.clone()).collect();
    let verdict = match (faults.is_empty(), why) {
        (true, None) => Verdict::Pass,
        (true, Some(why)) => {
            seen.push(why);
            Verdict::NotApplicable
        }
        (false, _) => match known::excuses(peer, rule.id, &faults) {
            Some(notes) => {
                seen.splice(0..0, notes);
                Verdict::Known
            }
            None => Verdict::Fail,
        },
    };
    let Rule { id, group, sentence, .. } = *rule;
    Row { rule: id, group, sentence, verdict, seen, does, seconds: begun.elapsed().as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_a_name_of_its_own_and_a_sentence() {
        for (n, rule) in RULES.iter().enumerate() {
            assert!(RULES[..n].iter().all(|other| other.id != rule.id), "{}", rule.id);
            assert!(rule.sentence.chars().next().is_some_and(char::is_uppercase), "{}", rule.id);
            assert!(!rule.sentence.ends_with('.'), "{}", rule.id);
        }
    }
}
