//! The report: a table for people, JSON, JUnit's XML; and a bar while it goes on.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, IsTerminal, Read, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::verdict::{Row, Verdict};
use crate::output::{Ui, folder_is_there, plural};

/// How many of a rule's faults people are shown.
const FAULTS_SHOWN: usize = 4;

/// All there is to say.
#[derive(Serialize)]
pub(super) struct Report {
    /// As its user named it.
    pub(super) target: String,
    /// What the device says of itself.
    pub(super) peer: String,
    /// Zones, sizes and limits in a line.
    pub(super) shape: String,
    /// What the run followed from.
    pub(super) seed: u64,
    /// The rule in which a request did not end; nothing was tried after it.
    pub(super) hung: Option<&'static str>,
    /// Whether all rules were gone through: not if the run was interrupted.
    pub(super) complete: bool,
    /// Whether all were, and none failed.
    pub(super) conforms: bool,
    /// How many rules came to what.
    pub(super) counts: Counts,
    /// How many records were appended, read back and compared.
    pub(super) records: u64,
    /// The situations in which they were.
    pub(super) situations: Vec<String>,
    /// Situations left out, and why.
    pub(super) left_out: Vec<String>,
    /// Each rule.
    pub(super) rules: Vec<Row>,
}

/// How many rules came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) pass: usize,
    pub(super) fail: usize,
    pub(super) known: usize,
    pub(super) not_applicable: usize,
}

impl Counts {
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut counts = Self::default();
        for row in rows {
            *match row.verdict {
                Verdict::Pass => &mut counts.pass,
                Verdict::Fail => &mut counts.fail,
                Verdict::Known => &mut counts.known,
                Verdict::NotApplicable => &mut counts.not_applicable,
            } += 1;
        }
        counts
    }
}

/// Writes the table.
pub(super) fn write_text(mut out: impl Write, report: &Report) -> io::Result<()> {
    let Report { target, peer, shape, seed, counts, .. } = report;
    writeln!(out, "{target} ({peer}): {shape}\n")?;
    let width = report.rules.iter().map(|row| row.rule.len()).max().unwrap_or(0);
    for row in &report.rules {
        writeln!(out, "{:<5}  {:<width$}  {}", row.verdict.word(), row.rule, row.sentence)?;
        let indent = " ".repeat(width + 9);
        for seen in row.seen.iter().take(FAULTS_SHOWN) {
            writeln!(out, "{indent}{seen}")?;
        }
        if row.seen.len() > FAULTS_SHOWN {
            writeln!(out, "{indent}and {} more; --json has all", row.seen.len() - FAULTS_SHOWN)?;
        }
    }
    let does: Vec<&str> =
        report.rules.iter().flat_map(|row| &row.does).map(String::as_str).collect();
    if !does.is_empty() {
        writeln!(out, "\nWhere either is right, this drive:")?;
        does.iter().try_for_each(|does| writeln!(out, "  {does}"))?;
    }
    let Counts { pass, fail, known, not_applicable } = counts;
    writeln!(
        out,
        "\n{}: {pass} pass, {fail} fail, {known} known, {not_applicable} not applicable; \
         {} appended and read back in {}; seed {seed}",
        match (fail, report.complete) {
            (0, true) => "conforms",
            (0, false) => "interrupted",
            (_, _) => "does not conform",
        },
        plural(usize::try_from(report.records).unwrap_or(usize::MAX), "record"),
        plural(report.situations.len(), "situation"),
    )
}

/// How a JUnit file of ours begins.
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites";

/// Whether JUnit's XML may be written to `path`.
///
/// # Errors
/// Something else is there: the report replaces a report and nothing else.
pub(super) fn may_hold_junit(path: &Path) -> Result<()> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return folder_is_there(path),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    let metadata = file.metadata()?;
    let mut head = vec![0; XML.len()];
    let is_ours =
        metadata.len() == 0 || (file.read_exact(&mut head).is_ok() && head == XML.as_bytes());
    if metadata.is_file() && !is_ours {
        bail!(
            "{}: it exists and is no JUnit report of zonal's; choose another name",
            path.display()
        );
    }
    Ok(())
}

/// Writes JUnit's XML, one test case a rule.
pub(super) fn write_junit(path: &Path, report: &Report) -> Result<()> {
    may_hold_junit(path)?;
    fs::write(path, junit(report)).with_context(|| path.display().to_string())
}

fn junit(report: &Report) -> String {
    let Counts { fail, not_applicable, known, .. } = report.counts;
    // What was interrupted is no success, whatever was gone through.
    let errors = usize::from(!report.complete);
    let (tests, skipped) = (report.rules.len() + errors, not_applicable + known);
    let time: f64 = report.rules.iter().map(|row| row.seconds).sum();
    let name = escape(&report.target);
    let totals = format!(
        "tests=\"{tests}\" failures=\"{fail}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{time:.3}\""
    );
    let mut xml =
        format!("{XML} name=\"zonal conform\" {totals}>\n  <testsuite name=\"{name}\" {totals}>\n");
    for row in &report.rules {
        let Row { rule, group, sentence, seconds, .. } = row;
        let seen = escape(&row.seen.join("\n"));
        let sentence = escape(sentence);
        let head = format!("<testcase classname=\"{group}\" name=\"{rule}\" time=\"{seconds:.3}\"");
        let line = match row.verdict {
            Verdict::Pass => format!("{head}/>"),
            Verdict::Fail => {
                format!("{head}><failure message=\"{sentence}\">{seen}</failure></testcase>")
            }
            Verdict::Known | Verdict::NotApplicable => {
                let word = row.verdict.word();
                format!("{head}><skipped message=\"{word}: {seen}\"/></testcase>")
            }
        };
        // Writing to a string does not fail.
        let _ = writeln!(xml, "    {line}");
    }
    if !report.complete {
        let _ = writeln!(
            xml,
            "    <testcase classname=\"run\" name=\"complete\" time=\"0\"><error message=\"the run was \
             interrupted before all rules were gone through\"/></testcase>"
        );
    }
    xml + "  </testsuite>\n</testsuites>\n"
}

/// What may stand in an attribute or between tags; what XML cannot hold becomes a blank.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Shows which rule is being checked; hidden unless stderr is a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(rules: usize, ui: &Ui) -> Self {
        let bar = ProgressBar::new(rules as u64);
        bar.set_draw_target(if !ui.quiet && io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        match ProgressStyle::with_template("{bar:20} {pos}/{len} {msg}") {
            Ok(style) => Self(bar.with_style(style)),
            Err(_) => Self(bar),
        }
    }

    pub(super) fn step(&self, rule: &'static str) {
        self.0.set_message(rule);
        self.0.inc(1);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict, seen: &str) -> Report {
        let row = Row {
            rule: "append-cover",
            group: "appends",
            sentence: "No hole",
            verdict,
            seen: vec![seen.into()],
            does: vec!["does this".into()],
            seconds: 0.25,
        };
        let rules = vec![row];
        Report {
            target: "a<b".into(),
            peer: "memory".into(),
            shape: String::new(),
            seed: 1,
            hung: None,
            complete: true,
            conforms: verdict != Verdict::Fail,
            counts: Counts::of(&rules),
            records: 0,
            situations: Vec::new(),
            left_out: Vec::new(),
            rules,
        }
    }

    #[test]
    fn junit_names_the_rule_and_escapes_what_was_seen() {
        let xml = junit(&report(Verdict::Fail, "1 < 2 & \"3\"\u{1}"));
        assert!(xml.contains("tests=\"1\" failures=\"1\" errors=\"0\" skipped=\"0\""), "{xml}");
        assert!(
            xml.contains("<failure message=\"No hole\">1 &lt; 2 &amp; &quot;3&quot; </failure>")
        );
        assert!(xml.contains("<testsuite name=\"a&lt;b\""), "{xml}");
        let interrupted = Report { complete: false, conforms: false, ..report(Verdict::Pass, "") };
        let xml = junit(&interrupted);
        assert!(
            xml.contains("tests=\"2\" failures=\"0\" errors=\"1\"") && xml.contains("<error "),
            "{xml}"
        );
        let xml = junit(&report(Verdict::Known, "why"));
        assert!(xml.contains("skipped=\"1\"") && xml.contains("<skipped message=\"known: why\"/>"));
    }

    #[test]
    fn a_report_replaces_a_report_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("report.xml");
        for _ in 0..2 {
            write_junit(&path, &report(Verdict::Pass, "")).unwrap();
        }
        fs::write(&path, "<?xml version=\"1.0\"?><letter/>").unwrap();
        assert!(write_junit(&path, &report(Verdict::Pass, "")).is_err());
    }

    #[test]
    fn people_see_the_sentence_and_what_was_seen() {
        let mut out = Vec::new();
        write_text(&mut out, &report(Verdict::Fail, "at 4096")).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("FAIL   append-cover  No hole\n"), "{text}");
        assert!(text.contains("at 4096\n") && text.contains("  does this\n"), "{text}");
        assert!(text.contains("does not conform: 0 pass, 1 fail"), "{text}");
    }
}
