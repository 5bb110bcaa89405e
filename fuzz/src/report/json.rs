//! `report.json`. Keys are added, never changed.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::probe::ProbeFinding;
use super::storm_summary::StormSummary;
use super::words::command_line;
use super::{FoundSchedule, FoundStorm, Report, Source};
use crate::files::origin;
use crate::outcome::{Event, Finding};
use crate::probe::finding::Site;

#[derive(Serialize)]
struct Json<'a> {
    sigstorm: &'static str,
    build: Option<String>,
    kind: &'static str,
    cause: String,
    verdict: &'a str,
    summary: &'a str,
    evidence: &'a [String],
    dump: &'a [String],
    defects: Vec<&'static str>,
    seed: u64,
    command_line: String,
    found_after_seconds: f64,
    notes: &'a [String],
    #[serde(flatten)]
    source: SourceJson<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum SourceJson<'a> {
    Schedule {
        step: usize,
        replay: String,
        steps_before: usize,
        steps_after: usize,
        schedules: u64,
        schedule: String,
        events: &'a [Event],
    },
    Storm {
        again: String,
        storm: Box<StormSummary<'a>>,
    },
    Probe {
        again: String,
        probe: Box<ProbeFinding<'a>>,
        boundaries: &'a [Site],
    },
}

impl Report {
    /// The report for scripts.
    ///
    /// # Errors
    /// Where it cannot be expressed.
    pub fn json(&self, reports: &Path) -> Result<Vec<u8>> {
        let Finding { verdict, summary, evidence, dump, step } = &self.finding;
        let again = self.again(reports);
        let source = match &self.source {
            Source::Schedule(source) => {
                let FoundSchedule { schedule, events, schedules, .. } = &**source;
                SourceJson::Schedule {
                    step: *step,
                    replay: again,
                    steps_before: source.steps_before(),
                    steps_after: schedule.steps.len(),
                    schedules: *schedules,
                    schedule: schedule.to_text(),
                    events,
                }
            }
            Source::Storm(source) => {
                let FoundStorm { options, blown } = &**source;
                let storm = Box::new(StormSummary::new(options, blown, Some(verdict), None, None));
                SourceJson::Storm { again, storm }
            }
            Source::Probe(source) => {
                let probe = Box::new(ProbeFinding::new(source, None));
                SourceJson::Probe { again, probe, boundaries: &source.group.sites }
            }
        };
        let json = Json {
            sigstorm: env!("CARGO_PKG_VERSION"),
            build: origin::build(),
            kind: match &self.source {
                Source::Schedule(_) => "schedule",
                Source::Storm(_) => "storm",
                Source::Probe(_) => "probe",
            },
            cause: self.cause(),
            verdict,
            summary,
            evidence,
            dump,
            defects: self.defect_names(),
            seed: self.seed,
            command_line: command_line(),
            found_after_seconds: self.seconds,
            notes: &self.notes,
            source,
        };
        let mut json = serde_json::to_vec_pretty(&json).context("cannot express the report")?;
        json.push(b'\n');
        Ok(json)
    }
}
