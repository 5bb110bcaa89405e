//! The answers of a runner: one line of JSON for each schedule.

use serde::{Deserialize, Serialize};

use crate::outcome::{Event, Finding, Injected, Run, Visit};

/// The result of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// A hash of the event trace; none where the process died.
    pub trace_hash: Option<u64>,
    /// Steps that had an effect.
    pub steps: u64,
    /// Times that the baton went from one thread to another.
    pub handovers: u64,
    /// Signals that the kernel delivered.
    pub signals: u64,
    /// The violation, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// The events, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Notes for the user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The stops at instructions: how many were reached, and what the signals there found.
    #[serde(skip_serializing_if = "nothing_held")]
    pub injected: Injected,
    /// The instructions that each step reached, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub visits: Vec<Visit>,
    /// Steps without an effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inert: Vec<u32>,
    /// Steps with a stop that was not reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreached: Vec<u32>,
}

fn nothing_held(injected: &Injected) -> bool {
    injected.held == 0
}

impl Answer {
    /// The answer that tells of a run and the instructions that its steps reached.
    pub fn new(run: Run, visits: Vec<Visit>) -> Answer {
        Answer {
            trace_hash: Some(run.trace_hash),
            steps: run.counts.steps,
            handovers: run.counts.handovers,
            signals: run.counts.signals,
            finding: run.finding,
            events: run.events,
            notes: run.notes,
            injected: run.injected,
            visits,
            inert: run.inert,
            unreached: run.unreached,
        }
    }

    /// The answer for a run that has only a finding, such as one that killed its process.
    pub fn only(finding: Finding) -> Answer {
        Answer { finding: Some(finding), ..Answer::default() }
    }

    /// The verdict's name, if there is one.
    pub fn verdict(&self) -> Option<&str> {
        self.finding.as_ref().map(|finding| finding.verdict.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let run = Run { trace_hash: u64::MAX, unreached: vec![3], ..Run::default() };
        let line = serde_json::to_string(&Answer::new(run, Vec::new())).unwrap();
        assert!(!line.contains("events") && !line.contains("injected"), "what is empty is left out: {line}");
        let answer: Answer = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (answer.trace_hash, answer.verdict(), &answer.unreached[..]),
            (Some(u64::MAX), None, &[3][..])
        );
        let line = r#"{"trace_hash":1,"finding":{"verdict":"fault","summary":"s","evidence":[],"dump":[],"step":2}}"#;
        let answer: Answer = serde_json::from_str(line).unwrap();
        assert_eq!(answer.verdict(), Some("fault"));
    }
}
