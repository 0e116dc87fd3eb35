//! What an examination of an engine reports.

use serde::Serialize;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// As the operator may want it; the text has the consequence.
    Note,
    /// To be changed.
    Problem,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is to be taken.
    pub verdict: Verdict,
    /// What was examined.
    pub subject: &'static str,
    /// What is the case, and what that means.
    pub text: String,
    /// What to do about it; empty: nothing.
    pub advice: String,
}

pub(super) fn ok(subject: &'static str, text: String) -> Finding {
    Finding { verdict: Verdict::Ok, subject, text, advice: String::new() }
}

pub(super) fn note(subject: &'static str, text: String, advice: &str) -> Finding {
    Finding { verdict: Verdict::Note, subject, text, advice: advice.to_owned() }
}

pub(super) fn problem(subject: &'static str, text: String, advice: &str) -> Finding {
    Finding { verdict: Verdict::Problem, subject, text, advice: advice.to_owned() }
}
