//! Hunting each mutant, several at a time, or sweeping the default schedules in it.

use super::super::args;
use super::super::campaign::{self, Plan};
use super::super::cores::Cores;
use super::super::display::Trials;
use super::super::output::Out;
use super::list::Mutant;
use super::scratch::{self, Batch, VARIABLE};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use sigstorm::outcome::Verdict;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// What became of a mutant.
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
    /// Nothing was found.
    Survived {
        /// In so many schedules.
        schedules: u64,
    },
}

/// A mutant that was hunted.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Which one.
    pub mutant: Mutant,
    /// What became of it.
    pub fate: Fate,
}

impl Ran {
    /// Its fate, in words.
    pub fn fate_text(&self) -> String {
        match &self.fate {
            Fate::Killed { verdict, schedules } => format!("{verdict} in schedule {schedules}"),
            Fate::Noticed { summary } => format!("harness error: {summary}"),
            Fate::Survived { schedules } => match &self.mutant.equivalent {
                Some(_) => "equivalent".into(),
                None => format!("survived {schedules} schedules"),
            },
        }
    }
}

enum Told {
    Began(usize, u32),
    Ended(usize, Box<Result<Option<Ran>>>),
}

/// Builds one batch after the other and hunts its mutants. One that is broken off is left out.
pub fn run(
    args: &args::Mutants,
    root: &Path,
    batches: &[Batch],
    stop: &AtomicBool,
    out: &Out,
) -> Result<Vec<Ran>> {
    let jobs = args.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let mut all: Vec<Ran> = Vec::new();
    for (number, batch) in (1..).zip(batches) {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        out.remark(&format!("build {number} of {}: {} mutants", batches.len(), batch.mutants.len()));
        let binary = scratch::build(root, &root.join(&args.scratch), batch)?;
        let plan = |mutant: &Mutant, core: usize| Plan {
            seed: args.seed.wrapping_add(u64::from(mutant.number)),
            seconds: Some(args.seconds),
            runs: args.runs,
            cores: vec![core],
            program: Some(binary.clone()),
            environment: vec![(VARIABLE.into(), mutant.number.to_string())],
            ..Plan::default()
        };
        let try_one = |mutant: &Mutant, core: usize| match args.sweep {
            true => sweep(mutant, &binary, root, core, stop),
            false => one(mutant, &plan(mutant, core), stop),
        };
        all.extend(try_all(&batch.mutants, jobs, try_one, stop, out)?);
    }
    all.sort_by_key(|ran| ran.mutant.number);
    Ok(all)
}

fn try_all(
    mutants: &[Mutant],
    jobs: usize,
    try_one: impl Fn(&Mutant, usize) -> Result<Option<Ran>> + Sync,
    stop: &AtomicBool,
    out: &Out,
) -> Result<Vec<Ran>> {
    let mut display = Trials::new(mutants.len() as u64, jobs, out);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let cores = Cores::take(jobs)?.with_warnings(out);
    let nths = cores.nths();
    let (mut all, mut failure) = (Vec::new(), None);
    thread::scope(|scope| {
        for (job, &core) in nths.iter().enumerate().take(mutants.len()) {
            let (sender, next, try_one) = (sender.clone(), &next, &try_one);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst)
                    && let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::SeqCst))
                {
                    // Nobody listens any more only where the other side has panicked.
                    let _ = sender.send(Told::Began(job, mutant.number));
                    let ran = try_one(mutant, core);
                    let _ = sender.send(Told::Ended(job, Box::new(ran)));
                }
            });
        }
        drop(sender);
        for told in receiver {
            match told {
                Told::Began(job, number) => display.began(job, format!("mutant {number}")),
                Told::Ended(job, ran) => match *ran {
                    Ok(Some(ran)) => {
                        display.ended(job, matches!(ran.fate, Fate::Killed { .. }));
                        // If nobody listens any more, there are still the table and the status.
                        let _ = out.object(&json!({
                            "type": "mutant", "number": ran.mutant.number, "file": ran.mutant.file,
                            "change": ran.mutant.change(), "fate": ran.fate_text(),
                        }));
                        all.push(ran);
                    }
                    Ok(None) => display.ended(job, false),
                    Err(error) => {
                        stop.store(true, Ordering::SeqCst);
                        failure = Some(error);
                    }
                },
            }
        }
    });
    display.end();
    match failure {
        Some(error) => Err(error),
        None => Ok(all),
    }
}

fn one(mutant: &Mutant, plan: &Plan, stop: &AtomicBool) -> Result<Option<Ran>> {
    let campaign = campaign::run(plan, stop, |_, _| {})?;
    let schedules = campaign.totals.counts.schedules;
    let fate = match campaign.found {
        None if stop.load(Ordering::SeqCst) => return Ok(None),
        None => match campaign.inconclusive {
            None => Fate::Survived { schedules },
            // It did not survive what was not run.
            Some(reason) => Fate::Noticed { summary: format!("inconclusive: {}", reason.sentence()) },
        },
        Some(found) if found.finding.verdict == Verdict::HarnessError.name() => {
            Fate::Noticed { summary: found.finding.summary }
        }
        Some(found) => Fate::Killed { verdict: found.finding.verdict, schedules },
    };
    Ok(Some(Ran { mutant: mutant.clone(), fate }))
}

/// What a sweep's last line says.
#[derive(Deserialize)]
struct Swept {
    runs: u64,
    verdict: Option<String>,
}

/// Sweeps the default schedules in a mutant, up to the first violation. None where it was broken
/// off.
fn sweep(mutant: &Mutant, binary: &Path, root: &Path, core: usize, stop: &AtomicBool) -> Result<Option<Ran>> {
    let reports = tempfile::tempdir().context("cannot make a folder for temporary files")?;
    let mut files: Vec<_> = fs::read_dir(root.join("corpus/sweep"))
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>())
        .context("cannot list corpus/sweep")?;
    files.sort();
    let swept = Command::new(binary)
        .args(["sweep", "--json", "--first", "--jobs", "1", "--core", &core.to_string(), "--reports"])
        .arg(reports.path())
        .args(files)
        .env(VARIABLE, mutant.number.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("cannot sweep")?;
    let said = String::from_utf8_lossy(&swept.stdout);
    let last = said.lines().last().and_then(|line| serde_json::from_str::<Swept>(line).ok());
    let noticed = |summary: String| Fate::Noticed { summary };
    let fate = match last {
        None if stop.load(Ordering::SeqCst) => return Ok(None),
        // What ends a sweep without a word is not to be lost.
        None => noticed(format!("the sweep says nothing: {}", swept.status)),
        Some(Swept { verdict: None, runs }) => Fate::Survived { schedules: runs },
        Some(Swept { verdict: Some(verdict), .. }) if verdict == Verdict::HarnessError.name() => {
            noticed("in a sweep".into())
        }
        Some(Swept { verdict: Some(verdict), runs }) => Fate::Killed { verdict, schedules: runs },
    };
    Ok(Some(Ran { mutant: mutant.clone(), fate }))
}
