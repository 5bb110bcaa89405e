//! Hunting each mutant, several at a time, or sweeping the default schedules in it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Result;

use super::build::{Batch, VARIABLE};
use super::list::Mutant;
use crate::campaign::hunt::{self, HuntPlan};
use crate::campaign::jobs::{self, Told};
use crate::outcome::Finding;
use crate::process::counters;
use crate::process::{Child, SweeperOptions, Task, WorkerOptions};
use crate::report::Inconclusive;

/// How mutants are tried.
#[derive(Clone, Debug)]
pub struct Method {
    /// Seconds after which a mutant has survived.
    pub seconds: u64,
    /// Schedules after which it has survived, if they come sooner.
    pub runs: Option<u64>,
    /// Where the random choices begin.
    pub seed: u64,
    /// A folder of schedules that are swept, instead of hunting.
    pub sweep: Option<PathBuf>,
}

/// The fate of a mutant.
#[derive(Clone, Debug)]
pub enum Fate {
    /// A verdict on the core.
    Killed {
        /// The verdict.
        verdict: String,
        /// In which schedule.
        schedules: u64,
    },
    /// The harness failed, which is not what an oracle is for.
    Noticed {
        /// How.
        summary: String,
    },
    /// Nothing was run that could have found it.
    Inconclusive(Inconclusive),
    /// Nothing was found.
    Survived {
        /// In so many schedules.
        schedules: u64,
    },
}

impl Fate {
    fn of(finding: Finding, schedules: u64) -> Fate {
        match finding.is_harness_error() {
            true => Fate::Noticed { summary: finding.summary },
            false => Fate::Killed { verdict: finding.verdict, schedules },
        }
    }
}

/// A mutant that was tried.
#[derive(Clone, Debug)]
pub struct MutantResult {
    /// Which one.
    pub mutant: Mutant,
    /// Its fate.
    pub fate: Fate,
}

impl MutantResult {
    /// Its fate, in words.
    pub fn fate_text(&self) -> String {
        match &self.fate {
            Fate::Killed { verdict, schedules } => format!("{verdict} in schedule {schedules}"),
            Fate::Noticed { summary } => format!("harness error: {summary}"),
            Fate::Inconclusive(reason) => format!("inconclusive: {}", reason.sentence()),
            Fate::Survived { schedules } => match &self.mutant.equivalent {
                Some(_) => "equivalent".into(),
                None => format!("survived {schedules} schedules"),
            },
        }
    }
}

/// Tries the mutants of a batch, which is built in `binary`, on these cores. One that is broken off is left out.
///
/// # Errors
/// Where a child cannot be started or watched.
pub fn run(
    method: &Method,
    batch: &Batch,
    binary: &Path,
    cores: &[usize],
    stop: &AtomicBool,
    watch: impl FnMut(Told<'_, Mutant, MutantResult>),
) -> Result<Vec<MutantResult>> {
    let try_one = |mutant: &Mutant, core: usize| {
        let environment = vec![(VARIABLE.into(), mutant.number.to_string())];
        let fate = match &method.sweep {
            Some(schedules) => sweep(binary, environment, schedules, core, stop)?,
            None => {
                let worker = WorkerOptions {
                    seed: method.seed.wrapping_add(u64::from(mutant.number)),
                    seconds: Some(method.seconds),
                    runs: method.runs,
                    ..WorkerOptions::default()
                };
                let program = Some(binary.to_owned());
                hunt_it(&HuntPlan { jobs: 1, cores: vec![core], worker, program, environment }, stop)?
            }
        };
        Ok(fate.map(|fate| MutantResult { mutant: mutant.clone(), fate }))
    };
    jobs::run_all(&batch.mutants, cores, stop, try_one, watch)
}

/// Hunts in a mutant. None where it was broken off.
fn hunt_it(plan: &HuntPlan, stop: &AtomicBool) -> Result<Option<Fate>> {
    let campaign = hunt::run(plan, stop, |_, _| {})?;
    let schedules = campaign.totals.counts.schedules;
    Ok(match campaign.found {
        Some(found) => Some(Fate::of(found.finding, schedules)),
        None if stop.load(Ordering::SeqCst) => None,
        None => Some(match campaign.inconclusive {
            None => Fate::Survived { schedules },
            // It did not survive what was not run.
            Some(reason) => Fate::Inconclusive(reason),
        }),
    })
}

/// Sweeps schedules in a mutant, up to the first violation. None where it was broken off.
fn sweep(
    binary: &Path,
    environment: Vec<(String, String)>,
    schedules: &Path,
    core: usize,
    stop: &AtomicBool,
) -> Result<Option<Fate>> {
    let dir = crate::campaign::folder()?;
    let options = SweeperOptions {
        dir: dir.path().to_owned(),
        core,
        schedules: schedules.to_owned(),
        defects: Vec::new(),
    };
    let mut child = Child::start(Some(binary), &Task::Sweeper(options), |command| {
        command.envs(environment);
    })?;
    let status = loop {
        match child.ended()? {
            Some(status) => break status,
            None if stop.load(Ordering::SeqCst) => return Ok(None),
            None => thread::sleep(crate::campaign::GLANCE),
        }
    };
    let schedules = counters::counts(&child.words()?).schedules;
    Ok(Some(match child.finding(status, || Some(Vec::new())) {
        Some(found) => Fate::of(found.finding, schedules),
        // Nothing was disturbed: see `sweeper`.
        None if schedules == 0 => Fate::Inconclusive(Inconclusive::Injections),
        None => Fate::Survived { schedules },
    }))
}
