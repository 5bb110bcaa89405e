//! `sigstorm mutants`: does the harness notice small changes of the core? See [`sigstorm::mutants`].
//!
//! Hidden: a tool for those who work on the oracles.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use sigstorm::campaign::jobs::Told;
use sigstorm::files;
use sigstorm::mutants::build::{self, Batch};
use sigstorm::mutants::list::{self, Mutant};
use sigstorm::mutants::table::{Score, markdown, table};
use sigstorm::mutants::trials::{self, Fate, Method, MutantResult};
use sigstorm::process::cores::Cores;

use super::args::{MOST_JOBS, MOST_SECONDS};
use super::display::TrialsBar;
use super::output::{Out, complain};
use super::{Exit, Outcome, Trouble, interrupt, usage};

/// Where the kept table is.
const KEPT: &str = "reports/mutants.md";

/// `mutants`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples, in the repository:
  sigstorm mutants --check                  does the list still fit the core?
  sigstorm mutants --only 7,12 --seconds 10
  sigstorm mutants --keep                   and replace the kept table

Exit status: 0 every mutant that is not equivalent was killed; 1 not so; 2 the list does not fit the
core; 3 harness error.")]
pub struct Mutants {
    /// Seconds after which a mutant has survived
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub seconds: u64,
    /// Schedules after which it has survived, if they come sooner
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: Option<u64>,
    /// How many at a time, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// Where the random choices begin
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Only these numbers of the list
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub only: Vec<u32>,
    /// Build nothing: only see whether the list fits the core
    #[arg(long)]
    pub check: bool,
    /// Sweep the schedules of corpus/sweep in each, instead of hunting
    #[arg(long, conflicts_with_all = ["seconds", "runs", "seed"])]
    pub sweep: bool,
    /// Where the copy of the workspace goes, and its builds
    #[arg(long, value_name = "DIR", default_value = "target/mutants")]
    pub scratch: PathBuf,
    /// Write the table into this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// The same as `--report reports/mutants.md`: replace the kept table
    #[arg(long, conflicts_with = "report")]
    pub keep: bool,
}

/// `sigstorm mutants`.
pub fn run(args: &Mutants, out: &Out) -> Outcome {
    let root = env::current_dir().context("where is this?")?;
    let file = root.join("fuzz/mutants/core.toml");
    let text = fs::read_to_string(&file).map_err(|error| {
        Trouble::Usage(format!("{}: {error}; run this in the repository", file.display()))
    })?;
    let mutants =
        list::parse(&text).map_err(|error| Trouble::Usage(format!("{}: {error}", file.display())))?;
    let wanted = |mutant: &&Mutant| args.only.is_empty() || args.only.contains(&mutant.number);
    let mutants: Vec<Mutant> = mutants.iter().filter(wanted).cloned().collect();
    let known = |number: &&u32| mutants.iter().all(|mutant| mutant.number != **number);
    if let Some(number) = args.only.iter().find(known) {
        return Err(Trouble::Usage(format!("there is no mutant {number} in {}", file.display())));
    }
    let batches = build::batches(&root, &mutants).map_err(usage)?;
    out.remark(&format!("{} mutants in {} builds", mutants.len(), batches.len()));
    if args.check {
        out.object(&json!({"type": "summary", "command": "mutants", "mutants": mutants.len(), "builds": batches.len()}))?;
        return Ok(Exit::Clean);
    }

    let stop = interrupt::install()?;
    let method = Method {
        seconds: args.seconds,
        runs: args.runs,
        seed: args.seed,
        sweep: args.sweep.then(|| root.join("corpus/sweep")),
    };
    let ran = try_all(args, &method, &root, &batches, stop, out)?;
    let score = Score::of(&ran);
    // A mutant that survives is no violation of the core's, but there is work to do.
    let mut exit = match score.survived + score.mistaken == 0 && ran.len() == mutants.len() {
        true if score.inconclusive != 0 => Exit::Inconclusive,
        true => Exit::Clean,
        false => Exit::Violation,
    };
    out.say(&table(&ran))?;
    out.say(&score.text())?;
    if let Some(path) = args.report.as_deref().or(args.keep.then_some(Path::new(KEPT))) {
        let written = files::write(path, markdown(&ran, &score, &method).as_bytes());
        if let Err(error) = written {
            complain(&format!("error: {error:#}"));
            exit = exit.worse(Exit::Usage);
        }
    }
    out.object(&json!({
        "type": "summary",
        "command": "mutants",
        "mutants": ran.len(),
        "complete": ran.len() == mutants.len(),
        "killed": score.killed,
        "noticed": score.noticed,
        "inconclusive_trials": score.inconclusive,
        "survived": score.survived,
        "equivalent": score.equivalent,
        "mistaken": score.mistaken,
        "score": score.percent(),
        "seconds_each": args.seconds,
    }))?;
    Ok(exit)
}

/// Builds one batch after the other and tries its mutants.
fn try_all(
    args: &Mutants,
    method: &Method,
    root: &Path,
    batches: &[Batch],
    stop: &AtomicBool,
    out: &Out,
) -> Result<Vec<MutantResult>, Trouble> {
    let jobs = args.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let mut all = Vec::new();
    for (number, batch) in (1..).zip(batches) {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        out.remark(&format!("build {number} of {}: {} mutants", batches.len(), batch.mutants.len()));
        let binary = build::build(root, &root.join(&args.scratch), batch)?;
        let mut display = TrialsBar::new(batch.mutants.len() as u64, jobs, out);
        let cores = Cores::take(jobs)?;
        out.warn_of(&cores);
        let ran = trials::run(method, batch, &binary, &cores.nths(), stop, |told| match told {
            Told::Began { job, item } => display.began(job, format!("mutant {}", item.number)),
            Told::Ended { job, result } => {
                display.ended(job, result.is_some_and(|ran| matches!(ran.fate, Fate::Killed { .. })));
                if let Some(MutantResult { mutant, .. }) = result {
                    // Where the output is closed, there are still the table and the status.
                    let _ = out.object(&json!({
                        "type": "mutant", "number": mutant.number, "file": mutant.file,
                        "change": mutant.change(), "fate": result.map(MutantResult::fate_text),
                    }));
                }
            }
        });
        display.end();
        all.extend(ran?);
    }
    all.sort_by_key(|ran| ran.mutant.number);
    Ok(all)
}
