//! `sigstorm hunt`: explore, and report what is found.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use sigstorm::campaign::hunt::{self, Campaign, HuntPlan};
use sigstorm::files::{self, mistaken::is_text};
use sigstorm::process::cores::Cores;
use sigstorm::process::{Found, WorkerOptions};
use sigstorm::report::hunt::{self as summary, HuntProgress, HuntSummary};
use sigstorm::report::summary::Machine;
use sigstorm::report::words::counted;
use sigstorm::report::{FoundSchedule, Report, Source};
use sigstorm::shrink::reproduce;

use super::args::{MOST_JOBS, MOST_SECONDS, MOST_STEPS, Planted};
use super::display::{HuntingBar, ShrinkingBar};
use super::findings::{keep, tell};
use super::output::Out;
use super::{Exit, Outcome, Trouble, interrupt, usage};

/// `hunt`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm hunt                                   the core as it is, every core, until Ctrl-C
  sigstorm hunt --seconds 60 --defect copystack-unlocked
  sigstorm hunt --runs 100000 --jobs 1 --seed 7   the same schedules every time
  sigstorm hunt --corpus fuzz/corpus/hunt         keep schedules that are new, and start from them next time

A finding is shrunk and left in REPORTS/ID/: report.txt to read, schedule.txt to replay. Workers take the
idlest cores that no other sigstorm has taken.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 wrong usage; 3 no answer: a harness error, or
no schedule, no signal, or a worker with less than 5 % of a core (\"inconclusive\" in the summary).")]
pub struct Hunt {
    /// Stop after so many seconds [default: go on until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: Option<u64>,
    /// Stop after so many schedules, over all workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: Option<u64>,
    /// How many workers, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// Where the random choices begin [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Make every schedule exactly this long, for measuring: 1 to 4096
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_STEPS))]
    pub steps: Option<u16>,
    /// Start from the schedules in this folder and add new ones; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,
    /// Where the report of a finding goes
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    #[command(flatten)]
    pub planted: Planted,
}

/// Shrinking stops here: a schedule that is nearly the smallest now is worth more than the
/// smallest some day.
const SHRINKING: Duration = Duration::from_secs(60);

/// `sigstorm hunt`.
pub fn run(args: &Hunt, out: &Out) -> Outcome {
    // Before the hunt, not after hours of it.
    for folder in args.corpus.iter().chain([&args.reports]) {
        files::writable_folder(folder).map_err(usage)?;
    }
    if let Some(corpus) = &args.corpus {
        only_bytes(corpus)?;
    }
    let mut plan = plan(args);
    let stop = interrupt::install()?;
    let cores = Cores::take(plan.jobs)?;
    plan.cores = cores.nths();
    announce(&plan, &cores, out)?;
    out.warn_of(&cores);

    let display = HuntingBar::new(&plan, out);
    let mut told = 0;
    let campaign = hunt::run(&plan, stop, |totals, elapsed| {
        display.show(totals, elapsed);
        if elapsed.as_secs() > told {
            told = elapsed.as_secs();
            // Where the output is closed, the hunt still has its exit status.
            let _ = out.object(&HuntProgress::new(totals, elapsed.as_secs_f64()));
        }
    });
    display.end();
    let Campaign { totals, seconds, found, inconclusive, .. } = campaign?;
    // From here on one schedule runs at a time, which is in no other command's way.
    let (numbers, warnings) = (cores.numbers(), cores.warnings());
    drop(cores);
    // The next Ctrl-C is about shrinking.
    stop.store(false, Ordering::SeqCst);

    let report = found.map(|found| examine(found, &plan, totals.counts.schedules, seconds, stop, out));
    let written = report.as_ref().and_then(|report| keep(report, &args.reports));
    let verdict = report.as_ref().map(|report| report.finding.verdict.as_str());
    let exit = match inconclusive {
        Some(_) => Exit::Inconclusive,
        None => Exit::of_verdict(verdict),
    };
    let machine = Machine { cores: numbers, inconclusive, notes: warnings };
    let summary = HuntSummary::new(&plan, &totals, seconds, verdict, written.as_deref(), &machine);
    let told = out.object(&summary).and_then(|()| {
        out.say(&summary::table(&plan, &totals, seconds))?;
        if let Some(said) = summary::pace(&plan, &totals, seconds) {
            out.say(&said)?;
        }
        match (&report, inconclusive) {
            (None, Some(reason)) => out.inconclusive(reason),
            (None, None) => {
                let never =
                    summary::never(&totals.counts).map_or(String::new(), |never| format!("; {never}"));
                out.say(&format!("nothing found in {seconds:.1} s{never}"))
            }
            (Some(report), _) => tell(report, written.as_deref(), &args.reports, out),
        }
    });
    exit.once_told(told)
}

/// Sees to it that a corpus has no text in it: the engine would take that for the bytes of a schedule.
fn only_bytes(corpus: &Path) -> Result<(), Trouble> {
    let cannot = |error| Trouble::Usage(format!("cannot read {}: {error}", corpus.display()));
    for entry in fs::read_dir(corpus).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        // A file that cannot be read is no text for the engine either.
        if path.is_file() && fs::read(&path).is_ok_and(|bytes| is_text(&bytes)) {
            return Err(Trouble::Usage(format!(
                "{}: it is a text, and the engine takes every file of a corpus for bytes: convert it with `sigstorm pack`, \
                 in another folder",
                path.display()
            )));
        }
    }
    Ok(())
}

fn plan(args: &Hunt) -> HuntPlan {
    let cores = || thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS as usize);
    let jobs = args.jobs.map_or_else(cores, usize::from);
    // A worker without a schedule to run has no use.
    let jobs = args.runs.map_or(jobs, |runs| jobs.min(usize::try_from(runs).unwrap_or(jobs)));
    let mut defects = args.planted.defects.clone();
    defects.sort();
    defects.dedup();
    let worker = WorkerOptions {
        // Short enough to be typed, and for every reader of JSON.
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) & 0xffff_ffff),
        steps: args.steps.map(usize::from),
        runs: args.runs,
        seconds: args.seconds,
        corpus: args.corpus.clone(),
        defects,
        ..WorkerOptions::default()
    };
    HuntPlan { jobs, worker, ..HuntPlan::default() }
}

fn announce(plan: &HuntPlan, cores: &Cores, out: &Out) -> Result<(), Trouble> {
    let HuntPlan { jobs, worker: WorkerOptions { seed, runs, seconds, defects, .. }, .. } = plan;
    let names: Vec<_> = defects.iter().map(|defect| defect.name()).collect();
    out.object(&json!({
        "type": "start", "command": "hunt", "seed": seed, "jobs": jobs, "defects": names, "cores": cores.numbers(),
    }))?;
    let planted =
        if names.is_empty() { "the core as it is".into() } else { format!("planted: {}", names.join(", ")) };
    let seconds = seconds.map(|seconds| format!("for {seconds} s"));
    let runs = runs.map(|runs| format!("for {runs} schedules"));
    let budget = [seconds, runs].into_iter().flatten().collect::<Vec<_>>().join(" or ");
    let budget = if budget.is_empty() { "until Ctrl-C".into() } else { budget };
    let numbers: Vec<String> = cores.numbers().iter().map(usize::to_string).collect();
    let (workers, numbers) = (counted(*jobs, "worker"), numbers.join(", "));
    out.remark(&format!("hunting {budget}: {workers} (core {numbers}), seed {seed}, {planted}"));
    Ok(())
}

/// Shrinks what was found, and takes a trace of it.
fn examine(
    found: Found,
    plan: &HuntPlan,
    schedules: u64,
    seconds: f64,
    stop: &AtomicBool,
    out: &Out,
) -> Report {
    let mut report = Report {
        finding: found.finding,
        source: Source::Schedule(Box::new(FoundSchedule::found(&found.bytes, schedules))),
        defects: plan.worker.defects.clone(),
        seed: plan.worker.seed,
        seconds,
        notes: Vec::new(),
    };
    if !report.finding.is_harness_error() {
        out.remark(&format!(
            "found after {seconds:.1} s: {}: {}",
            report.finding.verdict, report.finding.summary
        ));
    }
    let bar = ShrinkingBar::new(out);
    reproduce(&mut report, stop, SHRINKING, &mut |progress| bar.show(progress));
    bar.end();
    report
}
