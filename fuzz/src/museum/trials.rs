//! The trials: which there are, and running them, several at a time.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use sigstorm_runtime::Defect;

use super::{Baseline, Subject};
use crate::campaign::hunt::{self, Campaign, HuntPlan, Mark, Marks};
use crate::campaign::jobs::{self, Told};
use crate::process::{Found, WorkerOptions};
use crate::report::Inconclusive;

/// The trials to be run.
#[derive(Debug)]
pub struct Show {
    /// The subjects that are hunted, in this order.
    pub subjects: Vec<Subject>,
    /// By which means; the first one counts.
    pub baselines: Vec<Baseline>,
    /// Planted in every trial, too.
    pub with: Vec<Defect>,
    /// How many trials of each.
    pub number: u32,
    /// How many seconds each may take.
    pub budget: u64,
    /// How many run at a time.
    pub jobs: usize,
    /// Where all random choices begin.
    pub seed: u64,
}

/// One trial.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The subject.
    pub subject: Subject,
    /// By which means.
    pub baseline: Baseline,
    /// Its number, from 0.
    pub number: u32,
    /// Where its random choices begin.
    pub seed: u64,
}

/// The result of a trial that has ended.
#[derive(Debug)]
pub struct TrialResult {
    /// Which one.
    pub trial: Trial,
    /// How many schedules it ran.
    pub schedules: u64,
    /// When it was reached, triggered and detected. An error of the harness is not detected.
    pub marks: Marks,
    /// The verdict, if anything was found.
    pub verdict: Option<String>,
    /// The same, with what shows it.
    pub found: Option<Found>,
    /// Why it says nothing, if it does not.
    pub inconclusive: Option<Inconclusive>,
    /// Its worker's share of a core.
    pub share: Option<f64>,
}

impl Show {
    /// Fills in and tidies up what is asked for. Without subjects there are all, but for those that are
    /// planted everywhere; subjects and baselines are named once each.
    pub fn complete(mut self) -> Show {
        let everything = || Defect::ALL.iter().map(|&defect| Subject(Some(defect))).chain([Subject(None)]);
        self.with.sort();
        self.with.dedup();
        if self.subjects.is_empty() {
            self.subjects = everything().collect();
            // The core as it is, or a planted defect alone, is another show.
            if !self.with.is_empty() {
                let with = &self.with;
                self.subjects.retain(|subject| subject.0.is_some_and(|defect| !with.contains(&defect)));
            }
        }
        let mut seen = Vec::new();
        self.subjects.retain(|subject| !seen.contains(subject) && (seen.push(*subject), true).1);
        self.baselines.sort();
        self.baselines.dedup();
        self
    }

    /// Every trial: the first of each specimen before the second of any, so that whatever
    /// slows the machine down for a while does so for all.
    pub fn trials(&self) -> Vec<Trial> {
        let mut trials = Vec::new();
        for number in 0..self.number {
            for &subject in &self.subjects {
                for &baseline in &self.baselines {
                    let seed = self.seed_of(subject, baseline, number);
                    trials.push(Trial { subject, baseline, number, seed });
                }
            }
        }
        trials
    }

    /// A trial's seed: it depends on nothing but the show's and which trial it is.
    fn seed_of(&self, subject: Subject, baseline: Baseline, number: u32) -> u64 {
        let subject = subject.0.map_or(0, |defect| u64::from(defect.code()));
        [subject, baseline as u64, u64::from(number)].into_iter().fold(self.seed, |hash, part| {
            let mut hash = hash ^ part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash ^ hash >> 31
        }) & 0xffff_ffff
    }

    /// How a worker is to be run for a trial.
    pub fn plan(&self, trial: &Trial, core: usize) -> HuntPlan {
        // The canary of the first one is looked at.
        let defects = trial.subject.0.into_iter().chain(self.with.iter().copied()).collect();
        let worker = WorkerOptions {
            seed: trial.seed,
            seconds: Some(self.budget),
            random: trial.baseline == Baseline::Random,
            defects,
            ..WorkerOptions::default()
        };
        HuntPlan { cores: vec![core], worker, ..HuntPlan::default() }
    }
}

impl TrialResult {
    fn new(trial: Trial, campaign: Campaign) -> TrialResult {
        let Campaign { totals, seconds, found, mut marks, inconclusive } = campaign;
        let verdict = found.as_ref().map(|found| found.finding.verdict.clone());
        if found.as_ref().is_some_and(|found| found.finding.is_harness_error()) {
            marks.detected = None;
        } else if found.is_some() && marks.detected.is_none() {
            // It died without a word: in the run after those it had counted, in which it may
            // have reached the defect for the first time.
            let death = Some(Mark { schedules: totals.counts.schedules + 1, seconds });
            marks.detected = death;
            marks.reached = marks.reached.or(death);
            marks.triggered = marks.triggered.or(death);
        }
        let share = totals.shares.first().copied().flatten();
        TrialResult { trial, schedules: totals.counts.schedules, marks, verdict, found, inconclusive, share }
    }

    /// Something was found, and the defect's own canary says that there was nothing.
    pub fn is_false_alarm(&self) -> bool {
        self.marks.detected.is_some() && self.marks.triggered.is_none()
    }

    /// The harness failed.
    pub fn is_broken(&self) -> bool {
        self.verdict.is_some() && self.marks.detected.is_none()
    }
}

/// Runs all of them, on these cores, or as many as there is time for until `stop` is set. One that was broken
/// off says nothing and is left out.
///
/// # Errors
/// Where a worker cannot be started or watched.
pub fn run(
    show: &Show,
    cores: &[usize],
    stop: &AtomicBool,
    watch: impl FnMut(Told<'_, Trial, TrialResult>),
) -> Result<Vec<TrialResult>> {
    let try_one = |&trial: &Trial, core| {
        let campaign = hunt::run(&show.plan(&trial, core), stop, |_, _| {})?;
        let whole = campaign.found.is_some() || !stop.load(Ordering::SeqCst);
        Ok(whole.then(|| TrialResult::new(trial, campaign)))
    };
    jobs::run_all(&show.trials(), cores, stop, try_one, watch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Finding, Verdict};

    fn show(number: u32, subjects: &[Defect], with: &[Defect]) -> Show {
        let show = Show {
            subjects: subjects.iter().map(|&defect| Subject(Some(defect))).collect(),
            baselines: vec![Baseline::Random, Baseline::Hunt],
            with: with.to_vec(),
            number,
            budget: 60,
            jobs: 1,
            seed: 7,
        };
        show.complete()
    }

    #[test]
    fn every_specimen_has_its_trials_and_every_trial_its_seed() {
        let show = show(3, &[], &[]);
        let trials = show.trials();
        assert_eq!(show.baselines, [Baseline::Hunt, Baseline::Random]);
        assert_eq!(trials.len(), (Defect::ALL.len() + 1) * 2 * 3);
        let mut seeds: Vec<_> = trials.iter().map(|trial| trial.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), trials.len());
        // A part of the museum has the same trials as all of it.
        let part = super::tests::show(2, &[Defect::SigprofSpins], &[]);
        let same = |trial: &Trial| {
            trials.iter().any(|other| other.seed == trial.seed && other.subject == trial.subject)
        };
        assert!(part.trials().iter().all(same) && part.trials().len() == 4);
    }

    #[test]
    fn defects_planted_in_every_trial_are_not_hunted() {
        let show = show(1, &[], &[Defect::SigprofSpins]);
        assert_eq!(show.subjects.len(), Defect::ALL.len() - 1);
        let plan = show.plan(&show.trials()[0], 1);
        assert_eq!((plan.worker.defects[1], &plan.cores[..], plan.jobs), (Defect::SigprofSpins, &[1][..], 1));
        assert_ne!(plan.worker.defects[0], Defect::SigprofSpins);
    }

    #[test]
    fn death_of_a_worker_counts_as_found_and_harness_error_does_not() {
        let show = show(1, &[], &[]);
        let ran = |verdict: Verdict| {
            let finding = Finding::new(verdict, String::new(), Vec::new());
            let found = Some(Found { finding, bytes: Vec::new() });
            let (totals, marks) = (Default::default(), Marks::default());
            TrialResult::new(
                show.trials()[0],
                Campaign { totals, seconds: 2.0, found, marks, inconclusive: None },
            )
        };
        let death = ran(Verdict::Fault);
        assert_eq!(death.marks.detected, Some(Mark { schedules: 1, seconds: 2.0 }));
        assert!(!death.is_false_alarm() && !death.is_broken());
        let broken = ran(Verdict::HarnessError);
        assert!(broken.is_broken() && broken.marks.detected.is_none());
    }
}
