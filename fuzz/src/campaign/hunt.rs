//! Workers, from their start to the first finding or the end of the budget.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::hunt_worker::HuntWorker;
use super::{GLANCE, LOOK, PAUSED};
use crate::outcome::Counts;
use crate::process::counters::{self, FEATURES};
use crate::process::pace::Pace;
use crate::process::{Found, WorkerOptions};
use crate::report::inconclusive::{self, Inconclusive};

/// A worker whose counts stand still for so long hangs.
const STILL: Duration = Duration::from_secs(120);
/// So much longer than its budget a worker may take that stands still and could go on: the executor
/// has a limit of its own for a run that hangs, and says more about it.
const GRACE: Duration = Duration::from_secs(30);
/// And so much any other: it looks at the clock after each schedule.
const MOMENT: Duration = Duration::from_secs(2);
/// A worker that gets on at all does so within this.
const PAUSE: Duration = Duration::from_secs(1);

/// The plan of a hunt.
#[derive(Clone, Debug)]
pub struct HuntPlan {
    /// How many there are.
    pub jobs: usize,
    /// Their cores, counted among the allowed ones, one after the other and round and round.
    pub cores: Vec<usize>,
    /// The options of each: `runs` is the number of schedules of all together, `seed` that of the first.
    /// Folder and core are each worker's own.
    pub worker: WorkerOptions,
    /// Another build of this binary, if it is not this one.
    pub program: Option<PathBuf>,
    /// Variables in the workers' environment.
    pub environment: Vec<(String, String)>,
}

impl Default for HuntPlan {
    /// One worker on the first core, without an end.
    fn default() -> HuntPlan {
        HuntPlan {
            jobs: 1,
            cores: vec![0],
            worker: WorkerOptions::default(),
            program: None,
            environment: Vec::new(),
        }
    }
}

impl HuntPlan {
    /// The options of one of the workers.
    pub(super) fn options(&self, worker: usize, dir: PathBuf) -> WorkerOptions {
        WorkerOptions {
            dir,
            core: self.core(worker),
            seed: self.seed(worker),
            runs: self.share(worker),
            ..self.worker.clone()
        }
    }

    /// How many schedules a worker runs: the shares add up to what was asked for.
    fn share(&self, worker: usize) -> Option<u64> {
        let (jobs, worker) = (self.jobs as u64, worker as u64);
        self.worker.runs.map(|runs| runs / jobs + u64::from(worker < runs % jobs))
    }

    /// Where a worker's random choices begin; the first has the plan's own seed.
    fn seed(&self, worker: usize) -> u64 {
        self.worker.seed.wrapping_add((worker as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A worker's core.
    fn core(&self, worker: usize) -> usize {
        self.cores[worker % self.cores.len().max(1)]
    }
}

/// The sums over the workers so far.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The sum of what they counted.
    pub counts: Counts,
    /// Interleavings that the one that saw most has seen: they see much the same.
    pub features: u64,
    /// The share of a core that each worker had, as far as that was measured: meanwhile lately, and at the
    /// end all in all.
    pub shares: Vec<Option<f64>>,
}

/// How long something took: schedules, and the worker's own seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Schedules run, the one included in which it happened.
    pub schedules: u64,
    /// Seconds since the worker began.
    pub seconds: f64,
}

/// When the first worker's first defect was reached and triggered, and anything detected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// Its faulty code has run.
    pub reached: Option<Mark>,
    /// Its condition has held.
    pub triggered: Option<Mark>,
    /// Something was found.
    pub detected: Option<Mark>,
}

/// The result of a hunt.
#[derive(Debug)]
pub struct Campaign {
    /// The sums over the workers.
    pub totals: Totals,
    /// How long that took, until the first finding.
    pub seconds: f64,
    /// The first finding; an error of the harness before others.
    pub found: Option<Found>,
    /// How long it took.
    pub marks: Marks,
    /// Why there is no answer, where nothing was found and nothing was run that could have.
    pub inconclusive: Option<Inconclusive>,
}

/// Runs the plan until something is found, the budget is used up, or `stop` is set; shows
/// `watch` now and then how far it is. No worker is left, nor a worker's folder.
pub fn run(plan: &HuntPlan, stop: &AtomicBool, mut watch: impl FnMut(&Totals, Duration)) -> Result<Campaign> {
    let dir = super::folder()?;
    let begun = Instant::now();
    let start = |index| HuntWorker::start(plan, index, &dir.path().join(format!("w{index}")));
    let mut workers = (0..plan.jobs).map(start).collect::<Result<Vec<_>>>()?;
    let deadline = plan.worker.seconds.map(|seconds| begun + Duration::from_secs(seconds) + MOMENT);
    let mut looked = begun;
    let mut found: Vec<Found> = Vec::new();
    while found.is_empty() && !stop.load(Ordering::SeqCst) && workers.iter().any(HuntWorker::runs) {
        thread::sleep(GLANCE);
        for worker in &mut workers {
            found.extend(worker.glance()?);
        }
        let now = Instant::now();
        if now - looked < LOOK {
            continue;
        }
        // After a pause of this process (Ctrl-Z) the workers have paused, too.
        let paused = now - looked > PAUSED;
        looked = now;
        for worker in &mut workers {
            worker.look(now, paused)?;
        }
        let late = deadline.is_some_and(|deadline| now > deadline);
        for worker in workers.iter_mut().filter(|worker| worker.runs()) {
            let still = now - worker.moved;
            // One that is not let cannot be told from one that would get on: it says nothing.
            let hangs = still > PAUSE && !worker.child.pace.is_deprived();
            if hangs && still > if late { GRACE } else { STILL } {
                found.push(worker.hanging(still));
            } else if late && !hangs {
                found.extend(worker.glance()?);
                worker.stop();
            }
        }
        watch(&totals(&workers, Pace::lately), now - begun);
    }
    let seconds = begun.elapsed().as_secs_f64();
    for worker in &mut workers {
        worker.look(Instant::now(), false)?;
        // It may have ended with a finding since the last glance.
        found.extend(worker.glance()?);
        worker.stop();
        worker.look(Instant::now(), false)?;
    }
    let first = found.iter().position(|found| found.finding.is_harness_error()).unwrap_or(0);
    let found = (!found.is_empty()).then(|| found.swap_remove(first));
    let marks = workers.first().map_or_else(Marks::default, HuntWorker::marks);
    let totals = totals(&workers, Pace::share);
    let Counts { schedules, signals, .. } = totals.counts;
    let all_run = plan.worker.runs.is_some_and(|runs| schedules >= runs);
    let inconclusive = match found {
        Some(_) => None,
        None => inconclusive::of_campaign(schedules, signals, all_run, totals.shares.iter().copied()),
    };
    Ok(Campaign { totals, seconds, found, marks, inconclusive })
}

/// The sum of what workers have done; each one's share of a core is what `share` says.
fn totals(workers: &[HuntWorker], share: fn(&Pace) -> Option<f64>) -> Totals {
    let mut totals = Totals::default();
    for worker in workers {
        totals.counts.add(&counters::counts(&worker.words));
        totals.features = totals.features.max(worker.words[FEATURES]);
        totals.shares.push(share(&worker.child.pace));
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(jobs: usize, runs: Option<u64>) -> HuntPlan {
        let worker = WorkerOptions { seed: u64::MAX, runs, ..WorkerOptions::default() };
        HuntPlan { jobs, worker, ..HuntPlan::default() }
    }

    #[test]
    fn shares_of_workers_add_up_to_the_runs() {
        for (jobs, runs) in [(1, 0), (3, 10), (256, 1_000_003), (4, u64::MAX), (7, 3)] {
            let plan = plan(jobs, Some(runs));
            let shares: Vec<_> = (0..jobs).map(|worker| plan.share(worker).unwrap()).collect();
            assert_eq!(shares.iter().sum::<u64>(), runs);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
        assert_eq!(plan(2, None).share(1), None);
    }

    #[test]
    fn seeds_of_workers_differ_and_the_first_is_the_plans() {
        let plan = plan(4, None);
        assert_eq!(plan.seed(0), plan.worker.seed);
        assert!((1..4).all(|worker| plan.seed(worker) != plan.seed(worker - 1)));
    }
}
