//! The table that is printed.

use crate::pairs::{Paired, Sample, Spread};

/// One row of the table.
pub(crate) struct Line {
    work: String,
    measured: String,
    noise: String,
    goal: String,
    behind: String,
}

impl Line {
    /// A ratio of two sides.
    pub(crate) fn ratio(
        work: impl Into<String>,
        goal: &str,
        paired: &Paired,
        names: [&str; 2],
        figure: impl Fn(&Sample) -> f64,
    ) -> Self {
        let noise = paired.noise(&figure).map_or("–".to_owned(), times);
        let [ours, theirs] = [true, false].map(|ours| paired.typical(ours).text());
        Self {
            work: work.into(),
            measured: times(paired.ratio(&figure)),
            noise,
            goal: goal.to_owned(),
            behind: format!("{}: {ours}; {}: {theirs}", names[0], names[1]),
        }
    }

    /// Anything else.
    pub(crate) fn plain(
        work: impl Into<String>,
        goal: &str,
        measured: impl Into<String>,
        behind: impl Into<String>,
    ) -> Self {
        Self {
            work: work.into(),
            measured: measured.into(),
            noise: "–".to_owned(),
            goal: goal.to_owned(),
            behind: behind.into(),
        }
    }

    /// A row that cannot be measured here.
    pub(crate) fn skip(work: impl Into<String>, goal: &str, why: impl Into<String>) -> Self {
        Self::plain(work, goal, "SKIP", why)
    }
}

/// A ratio with its range.
fn times(Spread { median, min, max }: Spread) -> String {
    format!("{median:.2} × ({min:.2}–{max:.2})")
}

pub(crate) fn render(conditions: &[String], lines: &[Line], markdown: bool) -> String {
    let mut text = String::new();
    for condition in conditions {
        text += &format!("* {condition}\n");
    }
    text += "\n";
    if markdown {
        text +=
            "| work | to reach | measured: median (min–max) | noise floor | numbers behind it |\n";
        text += "|---|---|---|---|---|\n";
    }
    for Line { work, measured, noise, goal, behind } in lines {
        text += &if markdown {
            format!("| {work} | {goal} | {measured} | {noise} | {behind} |\n")
        } else {
            let goal = if goal.is_empty() { "–" } else { goal };
            format!(
                "{work}\n    {measured}   to reach: {goal}   noise floor: {noise}\n    {behind}\n"
            )
        };
    }
    text
}
