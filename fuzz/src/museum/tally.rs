//! The trials of one specimen and baseline, summed up: the lines that scripts rely on.

use std::collections::BTreeMap;

use serde::Serialize;

use super::specimen;
use super::statistics::{median, range};
use super::trials::{Show, TrialResult};
use crate::campaign::hunt::Mark;

/// A line of `--json`. Keys are added, never changed.
#[derive(Clone, Debug, Serialize)]
pub struct Tally {
    r#type: &'static str,
    /// The specimen.
    pub name: &'static str,
    /// By which means it was hunted.
    pub baseline: &'static str,
    /// How many trials have ended.
    pub trials: usize,
    /// In how many the faulty code ran.
    pub reached: usize,
    /// In how many its condition held.
    pub triggered: usize,
    /// In how many something was found.
    pub detected: usize,
    /// In how many nothing was, within the budget.
    pub censored: usize,
    /// Until something was found.
    pub median_seconds: Option<f64>,
    /// Until something was found.
    pub median_schedules: Option<f64>,
    /// The shortest, and the longest if none is censored.
    pub range_seconds: (Option<f64>, Option<f64>),
    /// The same in schedules.
    pub range_schedules: (Option<f64>, Option<f64>),
    /// Until the faulty code ran.
    pub median_schedules_reached: Option<f64>,
    /// Until its condition held.
    pub median_schedules_triggered: Option<f64>,
    /// Schedules run, over all trials.
    pub schedules: u64,
    /// How often which verdict.
    pub verdicts: BTreeMap<String, usize>,
    /// The verdicts that are right.
    pub expected: Vec<&'static str>,
    /// Nothing may be found.
    pub must_be_silent: bool,
    /// Nothing was, in any trial.
    pub is_silent: bool,
    /// Found in at least nine of ten trials.
    pub caught: bool,
    /// Each trial's seconds until something was found, in order.
    #[serde(skip)]
    pub seconds: Vec<Option<f64>>,
}

/// One for each specimen and baseline of which a trial has ended.
pub fn tallies(show: &Show, ran: &[TrialResult]) -> Vec<Tally> {
    let mut tallies = Vec::new();
    for &subject in &show.subjects {
        for &baseline in &show.baselines {
            let mut trials: Vec<&TrialResult> = ran
                .iter()
                .filter(|ran| ran.trial.subject == subject && ran.trial.baseline == baseline)
                .collect();
            trials.sort_by_key(|ran| ran.trial.number);
            if let Some(first) = trials.first() {
                tallies.push(tally(first, &trials));
            }
        }
    }
    tallies
}

fn tally(first: &TrialResult, trials: &[&TrialResult]) -> Tally {
    let subject = first.trial.subject;
    let marks =
        |which: fn(&TrialResult) -> Option<Mark>| trials.iter().map(|ran| which(ran)).collect::<Vec<_>>();
    let schedules = |marks: &[Option<Mark>]| -> Vec<Option<f64>> {
        marks.iter().map(|mark| mark.map(|mark| mark.schedules as f64)).collect()
    };
    let happened = |marks: &[Option<Mark>]| marks.iter().flatten().count();
    let reached = marks(|ran| ran.marks.reached);
    let triggered = marks(|ran| ran.marks.triggered);
    let detected = marks(|ran| ran.marks.detected);
    let seconds: Vec<_> = detected.iter().map(|mark| mark.map(|mark| mark.seconds)).collect();
    let mut verdicts = BTreeMap::new();
    for verdict in trials.iter().filter_map(|ran| ran.verdict.clone()) {
        *verdicts.entry(verdict).or_default() += 1;
    }
    let expected = subject.0.and_then(specimen).map_or(&[][..], |specimen| specimen.expected);
    let found = happened(&detected);
    Tally {
        r#type: "specimen",
        name: subject.name(),
        baseline: first.trial.baseline.name(),
        trials: trials.len(),
        reached: happened(&reached),
        triggered: happened(&triggered),
        detected: found,
        censored: trials.len() - found,
        median_seconds: median(&seconds),
        median_schedules: median(&schedules(&detected)),
        range_seconds: range(&seconds),
        range_schedules: range(&schedules(&detected)),
        median_schedules_reached: median(&schedules(&reached)),
        median_schedules_triggered: median(&schedules(&triggered)),
        schedules: trials.iter().map(|ran| ran.schedules).sum(),
        // A trial that ran nothing is not silent: it says nothing.
        is_silent: verdicts.is_empty() && trials.iter().all(|ran| ran.inconclusive.is_none()),
        verdicts,
        expected: expected.iter().map(|verdict| verdict.name()).collect(),
        must_be_silent: subject.must_be_silent(),
        caught: found * 10 >= trials.len() * 9,
        seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::super::trials::Trial;
    use super::super::{Baseline, Subject};
    use super::*;
    use crate::campaign::hunt::Marks;
    use crate::report::Inconclusive;
    use sigstorm_runtime::Defect;

    fn ran(number: u32, detected: Option<u64>) -> TrialResult {
        let mark = |schedules: u64| Mark { schedules, seconds: schedules as f64 / 10.0 };
        TrialResult {
            trial: Trial {
                subject: Subject(Some(Defect::SigprofSpins)),
                baseline: Baseline::Hunt,
                number,
                seed: 0,
            },
            schedules: 100,
            marks: Marks {
                reached: Some(mark(1)),
                triggered: detected.map(mark),
                detected: detected.map(mark),
            },
            verdict: detected.map(|_| "deadlock".into()),
            found: None,
            inconclusive: None,
            share: None,
        }
    }

    #[test]
    fn tally_has_the_keys_that_scripts_use() {
        let trials = [ran(0, Some(30)), ran(1, None), ran(2, Some(10))];
        let tally = tally(&trials[0], &trials.iter().collect::<Vec<_>>());
        let value = serde_json::to_value(&tally).unwrap();
        // From the design; more may be added, none may go.
        let keys = "type name baseline trials reached triggered detected median_seconds median_schedules \
                    verdicts";
        for key in keys.split_whitespace() {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(
            (&value["reached"], &value["triggered"], &value["detected"]),
            (&3.into(), &2.into(), &2.into())
        );
        assert_eq!((&value["median_schedules"], &value["median_seconds"]), (&30.0.into(), &3.0.into()));
        assert_eq!(value["verdicts"]["deadlock"], 2);
        assert_eq!((tally.caught, tally.censored, tally.range_schedules), (false, 1, (Some(10.0), None)));
    }

    #[test]
    fn trial_that_ran_nothing_is_not_silent() {
        let silent = |inconclusive| {
            let trial = TrialResult { inconclusive, ..ran(0, None) };
            tally(&trial, &[&trial]).is_silent
        };
        assert!(silent(None) && !silent(Some(Inconclusive::Schedules)));
    }

    #[test]
    fn specimen_found_in_nine_of_ten_trials_is_caught() {
        let trials: Vec<_> = (0..10).map(|n| ran(n, (n != 4).then_some(5))).collect();
        let all: Vec<_> = trials.iter().collect();
        assert!(tally(all[0], &all).caught);
        assert!(!tally(all[0], &all[..9]).caught);
    }
}
