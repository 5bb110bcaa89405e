//! Workers, from their start to the first finding or the end of the budget.
//!
//! Each worker is a process with a folder of its own, in which the two sides share:
//!
//! - `stats`: words: [`Counts`], and further up the number of features and a heartbeat. The
//!   worker writes them while it runs; this side only reads.
//! - `current`: the schedule being run ([`current`]). If the worker dies, that is the finding.
//! - `finding.bin`, `finding.json`: what it found, before it ends with status 77, or 78 for
//!   an error of the harness. Status 0 says that its budget is used up.
//! - `log`: what it said.

use super::inconclusive::{self, Reason};
use super::pace::Pace;
use super::{child, death};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use sigstorm::current;
use sigstorm::outcome::{Counts, Finding, Verdict};
use sigstorm::worker::{BROKEN, DETECTED, FEATURES, FOUND, REACHED, STATS_WORDS, TRIGGERED};
use sigstorm_runtime::instrument::defect::Defect;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often children are looked at, and how often their counts.
const GLANCE: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(100);
/// A worker whose counts stand still for so long hangs.
const STILL: Duration = Duration::from_secs(120);
/// So much longer than its budget a worker may take that stands still and could go on: the executor
/// has a limit of its own for a run that hangs, and says more about it.
const GRACE: Duration = Duration::from_secs(30);
/// And so much any other: it looks at the clock after each schedule.
const MOMENT: Duration = Duration::from_secs(2);
/// A worker that gets on at all does so within this.
const PAUSE: Duration = Duration::from_secs(1);

/// What the workers shall do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many there are.
    pub jobs: usize,
    /// Where their random choices begin.
    pub seed: u64,
    /// The schedules' length, if it is fixed.
    pub steps: Option<usize>,
    /// How many schedules they run together.
    pub runs: Option<u64>,
    /// How long they explore.
    pub seconds: Option<u64>,
    /// The corpus folder.
    pub corpus: Option<PathBuf>,
    /// Random schedules, without an engine.
    pub random: bool,
    /// Their cores, counted among the allowed ones, one after the other and round and round.
    pub cores: Vec<usize>,
    /// What is planted. The first one's canary is looked at.
    pub defects: Vec<Defect>,
    /// Another build of this binary, if it is not this one.
    pub program: Option<PathBuf>,
    /// What is set in the workers' environment.
    pub environment: Vec<(String, String)>,
}

impl Default for Plan {
    /// One worker on the first core, without an end.
    fn default() -> Plan {
        Plan {
            jobs: 1,
            seed: 0,
            steps: None,
            runs: None,
            seconds: None,
            corpus: None,
            random: false,
            cores: vec![0],
            defects: Vec::new(),
            program: None,
            environment: Vec::new(),
        }
    }
}

impl Plan {
    /// How many schedules a worker runs: the shares add up to what was asked for.
    fn share(&self, worker: usize) -> Option<u64> {
        let (jobs, worker) = (self.jobs as u64, worker as u64);
        self.runs.map(|runs| runs / jobs + u64::from(worker < runs % jobs))
    }

    /// Where a worker's random choices begin; the first has the plan's own seed.
    fn seed(&self, worker: usize) -> u64 {
        self.seed.wrapping_add((worker as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A worker's core.
    fn core(&self, worker: usize) -> usize {
        self.cores[worker % self.cores.len().max(1)]
    }
}

/// What the workers have done so far.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The sum of what they counted.
    pub counts: Counts,
    /// Interleavings that the one that saw most has seen: they see much the same.
    pub features: u64,
    /// What share of a core each worker had, as far as that was measured: meanwhile lately, and at the
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

/// What a worker found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The violation.
    pub finding: Finding,
    /// The schedule, as it was run.
    pub bytes: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub struct Campaign {
    /// What the workers have done.
    pub totals: Totals,
    /// How long that took, until the first finding.
    pub seconds: f64,
    /// The first finding; an error of the harness before others.
    pub found: Option<Found>,
    /// How long it took.
    pub marks: Marks,
    /// Why there is no answer, where nothing was found and nothing was run that could have.
    pub inconclusive: Option<Reason>,
}

/// Runs the plan until something is found, the budget is used up, or `stop` is set; shows
/// `watch` now and then how far it is. No worker is left, nor a worker's folder.
pub fn run(plan: &Plan, stop: &AtomicBool, mut watch: impl FnMut(&Totals, Duration)) -> Result<Campaign> {
    let dir = tempfile::Builder::new()
        .prefix("sigstorm-")
        .tempdir()
        .context("cannot make a folder for temporary files")?;
    let begun = Instant::now();
    let start = |index| Worker::start(plan, index, &dir.path().join(format!("w{index}")));
    let mut workers = (0..plan.jobs).map(start).collect::<Result<Vec<_>>>()?;
    let deadline = plan.seconds.map(|seconds| begun + Duration::from_secs(seconds) + MOMENT);
    let mut looked = begun;
    let mut found: Vec<Found> = Vec::new();
    while found.is_empty() && !stop.load(Ordering::SeqCst) && workers.iter().any(Worker::runs) {
        thread::sleep(GLANCE);
        for worker in &mut workers {
            found.extend(worker.glance()?);
        }
        let now = Instant::now();
        if now - looked < LOOK {
            continue;
        }
        // After a pause of this process (Ctrl-Z) the workers have paused, too.
        let paused = now - looked > Duration::from_secs(2);
        looked = now;
        for worker in &mut workers {
            worker.look(now, paused)?;
        }
        let late = deadline.is_some_and(|deadline| now > deadline);
        for worker in workers.iter_mut().filter(|worker| worker.runs()) {
            let still = now - worker.moved;
            // One that is not let cannot be told from one that would get on: it says nothing.
            let hangs = still > PAUSE && !worker.pace.is_deprived();
            if hangs && still > if late { GRACE } else { STILL } {
                found.push(worker.hanging(still)?);
            } else if late && !hangs {
                worker.stop();
            }
        }
        watch(&totals(&workers, Pace::lately), now - begun);
    }
    let seconds = begun.elapsed().as_secs_f64();
    for worker in &mut workers {
        worker.look(Instant::now(), false)?;
        worker.stop();
        worker.look(Instant::now(), false)?;
    }
    let harness = |found: &Found| found.finding.verdict == Verdict::HarnessError.name();
    let first = found.iter().position(harness).unwrap_or(0);
    let found = (!found.is_empty()).then(|| found.swap_remove(first));
    let marks = workers.first().map_or_else(Marks::default, Worker::marks);
    let totals = totals(&workers, Pace::share);
    let Counts { schedules, signals, .. } = totals.counts;
    let all_run = plan.runs.is_some_and(|runs| schedules >= runs);
    let inconclusive = match found {
        Some(_) => None,
        None => inconclusive::of_campaign(schedules, signals, all_run, totals.shares.iter().copied()),
    };
    Ok(Campaign { totals, seconds, found, marks, inconclusive })
}

/// The sum of what workers have done; each one's share of a core is what `share` says.
fn totals(workers: &[Worker], share: fn(&Pace) -> Option<f64>) -> Totals {
    let mut totals = Totals::default();
    for worker in workers {
        let mut words = [0; Counts::WORDS];
        words.copy_from_slice(&worker.words[..Counts::WORDS]);
        totals.counts.add(&Counts::from_words(words));
        totals.features = totals.features.max(worker.words[FEATURES]);
        totals.shares.push(share(&worker.pace));
    }
    totals
}

/// A worker's process.
#[derive(Debug)]
struct Worker {
    dir: PathBuf,
    /// Nothing once it has ended.
    child: Option<Child>,
    stats: File,
    words: [u64; STATS_WORDS],
    /// When its counts moved last.
    moved: Instant,
    /// What it has of its core.
    pace: Pace,
}

impl Worker {
    fn start(plan: &Plan, index: usize, dir: &Path) -> Result<Worker> {
        let cannot = || format!("cannot prepare a worker in {}", dir.display());
        fs::create_dir(dir).with_context(cannot)?;
        // Written, not only made that long: a worker that maps a file with holes dies where
        // the disk is full.
        fs::write(dir.join("stats"), [0; STATS_WORDS * 8]).with_context(cannot)?;
        current::create(&dir.join("current")).with_context(cannot)?;
        let log = File::create(dir.join("log")).with_context(cannot)?;
        let stats = File::open(dir.join("stats")).with_context(cannot)?;

        let mut command = match &plan.program {
            None => child::command("worker", &plan.defects),
            Some(program) => child::command_of(program, "worker", &plan.defects),
        };
        command.envs(plan.environment.iter().cloned());
        command.arg("--dir").arg(dir);
        let mut option = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                command.args([name, &value.to_string()]);
            }
        };
        option("--core", Some(plan.core(index) as u64));
        option("--seed", Some(plan.seed(index)));
        option("--steps", plan.steps.map(|steps| steps as u64));
        option("--runs", plan.share(index));
        option("--seconds", plan.seconds);
        if let Some(corpus) = &plan.corpus {
            command.arg("--corpus").arg(corpus);
        }
        if plan.random {
            command.arg("--random");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().with_context(cannot)?).stderr(log);
        let child = command.spawn().context("cannot start a worker")?;
        let (dir, words, pace) = (dir.to_path_buf(), [0; STATS_WORDS], Pace::new(child.id()));
        Ok(Worker { dir, child: Some(child), stats, words, moved: Instant::now(), pace })
    }

    fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Sees whether it has ended, and with what.
    fn glance(&mut self) -> Result<Option<Found>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let Some(status) = child.try_wait().context("cannot wait for a worker")? else {
            return Ok(None);
        };
        self.child = None;
        match status.code() {
            Some(0) => Ok(None),
            // A Ctrl-C that came before it could block it: this process has it, too.
            None if status.signal() == Some(Signal::SIGINT as i32) => Ok(None),
            Some(FOUND | BROKEN) => Ok(Some(self.finding().unwrap_or_else(|error| {
                let summary = format!("a worker {}, but {error:#}", death::describe(status));
                let finding = death::finding(Verdict::HarnessError, summary, self.log());
                Found { finding, bytes: self.current() }
            }))),
            _ => Ok(Some(self.crash(status))),
        }
    }

    /// Reads its counts.
    fn look(&mut self, now: Instant, paused: bool) -> Result<()> {
        let mut bytes = [0; STATS_WORDS * 8];
        self.stats.read_exact_at(&mut bytes, 0).context("cannot read a worker's counts")?;
        let mut words = [0; STATS_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        if self.runs() {
            self.pace.look(now);
        }
        if words != self.words || paused {
            self.moved = now;
            self.pace.moves();
        }
        self.words = words;
        Ok(())
    }

    /// What its words say of how long things took.
    fn marks(&self) -> Marks {
        let mark = |word: usize| {
            let (schedules, micros) = (self.words[word], self.words[word + 1]);
            (schedules != 0).then(|| Mark { schedules, seconds: micros as f64 / 1e6 })
        };
        Marks { reached: mark(REACHED), triggered: mark(TRIGGERED), detected: mark(DETECTED) }
    }

    /// What it left before it ended.
    fn finding(&self) -> Result<Found> {
        let read = |name| fs::read(self.dir.join(name)).with_context(|| format!("its {name} cannot be read"));
        let finding =
            serde_json::from_slice(&read("finding.json")?).context("its finding.json makes no sense")?;
        Ok(Found { finding, bytes: read("finding.bin")? })
    }

    /// It ended without a word.
    fn crash(&self, status: ExitStatus) -> Found {
        let bytes = self.current();
        Found { finding: death::judge(status, !bytes.is_empty(), self.log()), bytes }
    }

    /// It does not move.
    fn hanging(&mut self, still: Duration) -> Result<Found> {
        self.stop();
        let summary = format!("a worker did not get on for {} s", still.as_secs());
        let finding = death::finding(Verdict::HarnessError, summary, self.log());
        Ok(Found { finding, bytes: self.current() })
    }

    /// The schedule that it was running; empty if it was running none.
    fn current(&self) -> Vec<u8> {
        current::read(&self.dir.join("current"))
    }

    fn log(&self) -> Vec<String> {
        child::Tail::of(&fs::read(self.dir.join("log")).unwrap_or_default()).lines()
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(jobs: usize, runs: Option<u64>) -> Plan {
        Plan { jobs, seed: u64::MAX, runs, ..Plan::default() }
    }

    #[test]
    fn shares_add_up() {
        for (jobs, runs) in [(1, 0), (3, 10), (256, 1_000_003), (4, u64::MAX), (7, 3)] {
            let plan = plan(jobs, Some(runs));
            let shares: Vec<_> = (0..jobs).map(|worker| plan.share(worker).unwrap()).collect();
            assert_eq!(shares.iter().sum::<u64>(), runs);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
        assert_eq!(plan(2, None).share(1), None);
    }

    #[test]
    fn seeds_differ_and_the_first_is_the_plans() {
        let plan = plan(4, None);
        assert_eq!(plan.seed(0), plan.seed);
        assert!((1..4).all(|worker| plan.seed(worker) != plan.seed(worker - 1)));
    }

    #[test]
    fn counts_fit() {
        const { assert!(Counts::WORDS <= FEATURES && DETECTED + 2 <= STATS_WORDS) };
    }
}
