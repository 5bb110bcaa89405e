//! Running a sweep.
//!
//! Each schedule is watched once, which gives its runs ([`SweepPlan`]); then they are run, many
//! to a request, in children, one on a core, that are replaced when a run breaks them. Their
//! answers are judged in the order of the runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::Result;

use super::{Coverage, Injection, Perturbation, SweepPlan};
use crate::executor;
use crate::files::origin;
use crate::outcome::{Finding, Injected};
use crate::process::{Answer, Runner};
use crate::report::Inconclusive;
use crate::schedule::Schedule;

/// A request of so many bytes is less than a pipe holds, and so are its answers.
const REQUEST: usize = 24 << 10;
/// Answers are longer than requests: so many fit.
const MOST_AT_ONCE: usize = 96;
/// The injections that one child is given at a time.
const SHARE: usize = 8 * MOST_AT_ONCE;
/// After so many violations a file's sweep has made its point.
pub const ENOUGH: u64 = 32;

/// The sums over all runs of a sweep.
#[derive(Debug, Default)]
pub struct SweepTotals {
    /// Schedules swept.
    pub files: u64,
    /// Runs, those that were only watched included.
    pub runs: u64,
    /// The stops at instructions, and the signals there.
    pub injected: Injected,
    /// Violations.
    pub violations: u64,
    /// How many there are of each verdict, errors of the harness included.
    pub verdicts: BTreeMap<String, u64>,
    /// The first verdict.
    pub verdict: Option<String>,
    /// Visits that no stop can name.
    pub beyond: u64,
    /// Files whose sweep was ended by its violations.
    pub cut: u64,
    /// Of the schedules as they are: steps without an effect.
    pub inert: usize,
    /// Of the schedules as they are: stops that were not reached.
    pub unreached: usize,
}

impl SweepTotals {
    /// The verdicts, with their numbers.
    pub fn found(&self) -> String {
        let verdicts: Vec<String> = self.verdicts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        verdicts.join(", ")
    }
}

/// How a sweep is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct SweepOptions {
    /// Hold two threads at once, too.
    pub pairs: bool,
    /// End a schedule's sweep with its first violation.
    pub first: bool,
    /// Defects are planted. Their canaries run once a process, so a stop counted in one run may not fire in another.
    pub planted: bool,
}

/// A violation in a sweep.
#[derive(Debug)]
pub struct SweepViolation<'a> {
    /// The schedule's name.
    pub file: &'a str,
    /// The violation.
    pub finding: &'a Finding,
    /// Where it was disturbed, in words.
    pub place: String,
    /// The disturbed schedule, with check values.
    pub schedule: Schedule,
    /// Whether it is the first with its verdict.
    pub first: bool,
}

/// The progress of a sweep, for its caller.
pub trait SweepWatch {
    /// The error of the caller's own, such as that nothing can be printed.
    type Error: From<anyhow::Error>;

    /// Another schedule, of so many runs.
    fn begin(&mut self, file: &str, runs: usize);

    /// The number of its runs that are done, and the verdicts so far, in words.
    fn show(&mut self, runs: usize, found: String);

    /// A violation.
    ///
    /// # Errors
    /// The caller's own, which ends the sweep.
    fn violation(&mut self, violation: &SweepViolation<'_>) -> Result<(), Self::Error>;
}

/// A sweep over several schedules.
#[derive(Debug)]
pub struct SweepRun {
    options: SweepOptions,
    /// One for each core, and at least one.
    pub(super) runners: Vec<Runner>,
    coverage: Coverage,
    totals: SweepTotals,
}

impl SweepRun {
    /// A sweep by these runners, of which there is at least one.
    ///
    /// # Errors
    /// Where the marked code cannot be decoded.
    pub fn new(options: SweepOptions, runners: Vec<Runner>) -> Result<SweepRun> {
        let coverage = Coverage::new(&executor::region()?);
        Ok(SweepRun { options, runners, coverage, totals: SweepTotals::default() })
    }

    /// The sums so far.
    pub fn totals(&self) -> &SweepTotals {
        &self.totals
    }

    /// The instructions that were disturbed so far.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// The runners.
    pub fn runners(&self) -> &[Runner] {
        &self.runners
    }

    /// Returns whether anything could be disturbed.
    pub fn reached(&self) -> bool {
        self.coverage.places().iter().any(|place| place.crossed != 0)
    }

    /// Why there is no answer, if there is none.
    pub fn inconclusive(&self) -> Option<Inconclusive> {
        let nothing = self.totals.verdict.is_none() && self.coverage.injected() == 0;
        nothing.then_some(Inconclusive::Injections)
    }

    /// Watches a schedule, then disturbs it everywhere.
    ///
    /// # Errors
    /// Where no child can be started, and the watcher's own.
    pub fn file<W: SweepWatch>(
        &mut self,
        name: &str,
        schedule: Schedule,
        watch: &mut W,
    ) -> Result<(), W::Error> {
        self.totals.files += 1;
        let steps = schedule.steps.len();
        // A run of its own: one that is watched is not traced.
        let traced = self.runners[0].run(&schedule.encode(), false)?;
        self.totals.inert += traced.inert.len();
        self.totals.unreached += traced.unreached.len();
        let answer = self.runners[0].record(&schedule.encode())?;
        self.totals.runs += 2;
        // The first waits in the kernel, which the other does not.
        if let Some(finding) = traced.finding.as_ref().or(answer.finding.as_ref()) {
            // It shows something as it is: there is nothing to be disturbed.
            return self.violation(name, None, &schedule, finding, watch);
        }
        self.coverage.watched(&answer.visits, steps);
        let plan = SweepPlan::new(schedule, answer.visits);
        self.totals.beyond += plan.beyond();
        let mut injections = plan.injections();
        if self.options.pairs {
            injections.extend(plan.pairs());
        }
        watch.begin(name, injections.len());
        let mut runners = std::mem::take(&mut self.runners);
        let judged = self.disturb(name, &plan, &injections, &mut runners, watch);
        self.runners = runners;
        judged
    }

    /// Runs all injections in these runners, and judges their answers in order.
    fn disturb<W: SweepWatch>(
        &mut self,
        name: &str,
        plan: &SweepPlan,
        injections: &[Injection],
        runners: &mut [Runner],
        watch: &mut W,
    ) -> Result<(), W::Error> {
        let before = self.totals.violations;
        let enough = AtomicBool::new(false);
        let next_share = AtomicUsize::new(0);
        let (sender, results) = mpsc::channel();
        thread::scope(|scope| {
            for runner in runners {
                let (sender, next_share, enough) = (sender.clone(), &next_share, &enough);
                scope.spawn(move || {
                    while !enough.load(Ordering::Relaxed) {
                        let number = next_share.fetch_add(1, Ordering::Relaxed);
                        let Some(share) = injections.chunks(SHARE).nth(number) else { break };
                        if sender.send((number, run_share(runner, plan, share))).is_err() {
                            break;
                        }
                    }
                    runner.rest();
                });
            }
            drop(sender);
            // Shares come as they are done, and are looked at in their order.
            let mut waiting = BTreeMap::new();
            let mut next = 0;
            for (number, answers) in results {
                waiting.insert(number, answers);
                while let Some(answers) = waiting.remove(&next) {
                    let share = injections[next * SHARE..].iter();
                    for (injection, answer) in share.zip(&answers?) {
                        let judged = self.judge(name, plan, injection, answer, watch);
                        let found = self.totals.violations - before;
                        if judged.is_err() || found >= ENOUGH || (found != 0 && self.options.first) {
                            enough.store(true, Ordering::Relaxed);
                            self.totals.cut += u64::from(judged.is_ok());
                            return judged;
                        }
                    }
                    next += 1;
                    watch.show((next * SHARE).min(injections.len()), self.totals.found());
                }
            }
            Ok(())
        })
    }

    /// Counts what one run says.
    fn judge<W: SweepWatch>(
        &mut self,
        name: &str,
        plan: &SweepPlan,
        injection: &Injection,
        answer: &Answer,
        watch: &mut W,
    ) -> Result<(), W::Error> {
        self.totals.runs += 1;
        let injected = &answer.injected;
        self.coverage.ran(injection, injected);
        let total = &mut self.totals.injected;
        total.held += injected.held;
        total.handed += injected.handed;
        total.right += injected.right;
        total.alone += injected.alone;
        for (mine, theirs) in total.skips.iter_mut().zip(injected.skips) {
            *mine += theirs;
        }
        if let Some(finding) = &answer.finding {
            return self.violation(name, Some(injection), &plan.schedule(injection), finding, watch);
        }
        let both = matches!(injection.what, Perturbation::Both { .. });
        let checked = injection.counted && !self.options.planted;
        if checked && injected.held == 0 && !both {
            let summary = "a visit was counted, and a stop at it does not fire".to_owned();
            let missed = Finding::harness_error(summary);
            return self.violation(name, Some(injection), &plan.schedule(injection), &missed, watch);
        }
        Ok(())
    }

    /// Counts a violation, and has it told.
    pub(super) fn violation<W: SweepWatch>(
        &mut self,
        file: &str,
        injection: Option<&Injection>,
        schedule: &Schedule,
        finding: &Finding,
        watch: &mut W,
    ) -> Result<(), W::Error> {
        let verdict = finding.verdict.as_str();
        self.totals.violations += u64::from(!finding.is_harness_error());
        let first = !self.totals.verdicts.contains_key(verdict);
        *self.totals.verdicts.entry(verdict.to_owned()).or_default() += 1;
        self.totals.verdict.get_or_insert_with(|| verdict.to_owned());
        let place = injection.map_or("as it is".to_owned(), place);
        watch.violation(&SweepViolation { file, finding, place, schedule: origin::checked(schedule), first })
    }
}

/// Runs some of a plan's injections: an answer for each.
fn run_share(runner: &mut Runner, plan: &SweepPlan, share: &[Injection]) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(share.len());
    while answers.len() < share.len() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(injection) = share.get(answers.len() + batch.len()) {
            let encoded = plan.schedule(injection).encode();
            bytes += encoded.len() + 5;
            if !batch.is_empty() && (bytes > REQUEST || batch.len() == MOST_AT_ONCE) {
                break;
            }
            batch.push(encoded);
        }
        runner.run_all(&batch, &mut |_, answer| {
            answers.push(answer);
            true
        })?;
    }
    Ok(answers)
}

/// Where and what, as a person reads it.
fn place(injection: &Injection) -> String {
    let Injection { step, function, index, hit, what, .. } = injection;
    let what = match what {
        Perturbation::Signal => "a signal".to_owned(),
        Perturbation::Other(actor, op) => format!("{} {op}", actor.name()),
        Perturbation::Both { other: (actor, op), at: (f, i), .. } => {
            format!("{} {op} @ {f}#{i}", actor.name())
        }
    };
    let visit = if *hit == 1 { String::new() } else { format!(":{hit}") };
    format!("step {}, {function}#{index}{visit}, {what}", step + 1)
}
