//! What came of all cases, for people and for the committed page.

use std::fmt::Write as _;

use crate::lab::Lab;

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did all it has to.
    Pass,
    /// It did not.
    Fail(String),
    /// It did not, as is known.
    KnownFailure {
        /// Why it is known.
        reason: &'static str,
        /// What happened.
        error: String,
    },
    /// It is listed as a failure and is none.
    UnexpectedPass(&'static str),
    /// It could not run.
    Skipped(String),
}

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) tool: String,
    pub(crate) mode: String,
    pub(crate) protocol: String,
    pub(crate) origin: String,
    pub(crate) claim: String,
    pub(crate) outcome: Outcome,
}

impl Row {
    /// For a terminal, with what happened.
    pub(crate) fn line(&self) -> String {
        let detail = match &self.outcome {
            Outcome::Fail(error) => format!(": {}", short(error)),
            Outcome::KnownFailure { error, .. } => format!(": {}", short(error)),
            _ => String::new(),
        };
        format!(
            "{} | {} | {} | {} | {} | {}{detail}",
            self.tool,
            self.mode,
            self.protocol,
            self.origin,
            self.claim,
            self.outcome(),
        )
    }

    /// Without what differs from run to run.
    fn outcome(&self) -> String {
        match &self.outcome {
            Outcome::Pass => "pass".to_owned(),
            Outcome::Fail(_) => "FAIL".to_owned(),
            Outcome::KnownFailure { reason, .. } => format!("known failure: {reason}"),
            Outcome::UnexpectedPass(reason) => format!("UNEXPECTED PASS, listed as: {reason}"),
            Outcome::Skipped(reason) => format!("skipped: {reason}"),
        }
    }
}

/// All rows.
pub(crate) struct Table {
    rows: Vec<Row>,
    servers: String,
}

impl Table {
    pub(crate) fn new(lab: &Lab, rows: Vec<Row>) -> Self {
        Self {
            rows,
            servers: lab.servers(),
        }
    }

    fn count(&self, is: fn(&Outcome) -> bool) -> usize {
        self.rows.iter().filter(|row| is(&row.outcome)).count()
    }

    /// Whether every case passed, was skipped, or failed as is known.
    pub(crate) fn is_as_expected(&self) -> bool {
        self.count(|is| matches!(is, Outcome::Fail(_) | Outcome::UnexpectedPass(_))) == 0
    }

    fn summary(&self) -> String {
        format!(
            "{} cases: {} passed, {} failed, {} failed as known, {} passed unexpectedly, {} skipped",
            self.rows.len(),
            self.count(|is| matches!(is, Outcome::Pass)),
            self.count(|is| matches!(is, Outcome::Fail(_))),
            self.count(|is| matches!(is, Outcome::KnownFailure { .. })),
            self.count(|is| matches!(is, Outcome::UnexpectedPass(_))),
            self.count(|is| matches!(is, Outcome::Skipped(_))),
        )
    }

    /// What is printed.
    pub(crate) fn text(&self) -> String {
        let mut text = self.rows();
        for row in &self.rows {
            if let Outcome::Fail(error) = &row.outcome {
                let _ = write!(
                    text,
                    "\n{}\n    {}\n",
                    row.line(),
                    error.replace('\n', "\n    ")
                );
            }
        }
        let _ = write!(text, "\nservers: {}\n{}\n", self.servers, self.summary());
        text
    }

    /// The committed page.
    pub(crate) fn markdown(&self) -> String {
        format!(
            "# Conformance\n\n\
             `msb proxy` against clients, servers and scanners that nobody here wrote. Written by\n\
             `cargo xtask conformance --write`; the same command without `--write` says if it differs.\n\n\
             - Servers: {}.\n\
             - *values*: {}\n\
             - *other host*: {}\n\
             - *untrusted*: {}\n\
             - *raw bytes*: {}\n\n\
             {}.\n\n{}",
            self.servers,
            crate::check::VALUES,
            crate::check::OTHER_TEXT,
            crate::check::UNTRUSTED_TEXT,
            crate::smuggling::TEXT,
            self.summary(),
            self.rows(),
        )
    }

    fn rows(&self) -> String {
        let mut text = "| tool | mode | protocol | origin | what it has to do | outcome |\n|---|---|---|---|---|---|\n".to_owned();
        for row in &self.rows {
            let cells = [
                row.tool.as_str(),
                &row.mode,
                &row.protocol,
                &row.origin,
                &row.claim,
                &row.outcome(),
            ];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }
}

/// The beginning of a message, on one line.
fn short(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
