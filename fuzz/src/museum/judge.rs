//! The verdict on a whole show: was each specimen caught, and was nothing said of the silent ones?

use super::tally::Tally;
use super::trials::{Show, TrialResult};
use crate::report::Inconclusive;
use crate::report::words::counted;

/// How a show ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All specimens were caught, and the silent ones were silent.
    Passed,
    /// Not so, or it was ended early.
    Failed,
    /// A trial ran nothing, and the others say nothing against it.
    Inconclusive(Inconclusive),
    /// The harness failed in a trial.
    Broken,
}

/// The result of all trials.
#[derive(Debug)]
pub struct MuseumVerdict {
    /// Specimens that must be caught.
    pub specimens: usize,
    /// Specimens that were caught, in nine of ten trials.
    pub caught: usize,
    /// Subjects of which nothing may be found.
    pub must_be_silent: usize,
    /// Such subjects of which nothing was found.
    pub silent: usize,
    /// Trials in which something was found and the canary had not said that there was
    /// anything to find.
    pub false_alarms: usize,
    /// Trials in which the harness failed.
    pub harness_errors: usize,
    /// The objections, a line each.
    pub why: Vec<String>,
    /// How it ended.
    pub ending: Ending,
}

/// Judges by the hunts, where there were any: the other baseline is there to be compared with.
pub fn judge(show: &Show, tallies: &[Tally], ran: &[TrialResult]) -> MuseumVerdict {
    let counts: Vec<_> = tallies.iter().filter(|tally| tally.baseline == show.baselines[0].name()).collect();
    let (silent, loud): (Vec<&&Tally>, Vec<_>) = counts.iter().partition(|tally| tally.must_be_silent);
    let caught = loud.iter().filter(|tally| tally.caught).count();
    let quiet = silent.iter().filter(|tally| tally.is_silent).count();
    let must_be_silent = show.subjects.iter().filter(|&&subject| subject.must_be_silent()).count();
    let specimens = show.subjects.len() - must_be_silent;
    let mut why = Vec::new();
    if ran.len() < show.trials().len() {
        why.push(format!("ended early: {} of {} trials", ran.len(), show.trials().len()));
    }
    for tally in loud.iter().filter(|tally| !tally.caught) {
        why.push(format!(
            "not caught: {}, found in {} of {}",
            tally.name,
            tally.detected,
            counted(tally.trials, "trial")
        ));
    }
    for tally in silent.iter().filter(|tally| !tally.verdicts.is_empty()) {
        why.push(format!("not silent: {}, {:?} in {} trials", tally.name, tally.verdicts, tally.trials));
    }
    let alarms: Vec<_> = ran.iter().filter(|ran| ran.is_false_alarm()).collect();
    for alarm in &alarms {
        why.push(format!(
            "found, and the defect had not bitten yet: {} by {}, seed {}",
            alarm.trial.subject.name(),
            alarm.verdict.as_deref().unwrap_or_default(),
            alarm.trial.seed
        ));
    }
    let broken: Vec<_> = ran.iter().filter(|ran| ran.is_broken()).collect();
    for ran in &broken {
        why.push(format!(
            "harness error: {}, seed {}: {}",
            ran.trial.subject.name(),
            ran.trial.seed,
            ran.found.as_ref().map_or("", |found| &found.finding.summary)
        ));
    }
    let empty: Vec<_> = ran.iter().filter_map(|ran| Some((ran, ran.inconclusive?))).collect();
    for (ran, reason) in &empty {
        why.push(format!(
            "inconclusive: {} by {}, seed {}: {}",
            ran.trial.subject.name(),
            ran.trial.baseline.name(),
            ran.trial.seed,
            reason.sentence()
        ));
    }
    // A specimen is missed where trials that did run missed it.
    let is_empty = |tally: &Tally| empty.iter().any(|(ran, _)| ran.trial.subject.name() == tally.name);
    let missed = loud.iter().any(|tally| !tally.caught && !is_empty(tally));
    let ending = if !broken.is_empty() {
        Ending::Broken
    } else if missed || !alarms.is_empty() || silent.iter().any(|tally| !tally.verdicts.is_empty()) {
        Ending::Failed
    } else if let Some((_, reason)) = empty.first() {
        Ending::Inconclusive(*reason)
    } else if caught < specimens || quiet < must_be_silent || ran.len() < show.trials().len() {
        Ending::Failed
    } else {
        Ending::Passed
    };
    MuseumVerdict {
        specimens,
        caught,
        must_be_silent,
        silent: quiet,
        false_alarms: alarms.len(),
        harness_errors: broken.len(),
        why,
        ending,
    }
}
