//! `sigstorm sweep`: a schedule, disturbed once at every instruction that it reaches. See
//! [`sigstorm::sweep`].

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use console::style;
use serde::Serialize;
use serde_json::json;
use sigstorm::executor;
use sigstorm::files::{self, input};
use sigstorm::process::Runner;
use sigstorm::process::cores::Cores;
use sigstorm::report::summary::Machine;
use sigstorm::report::words::counted;
use sigstorm::schedule::Schedule;
use sigstorm::sweep::run::{SweepOptions, SweepRun, SweepViolation, SweepWatch};
use sigstorm::sweep::{html, plain, text};
use sigstorm_inject::Region;

use super::args::{MOST_JOBS, Planted};
use super::display::SweepingBar;
use super::output::{Out, complain, warn};
use super::sweep_results::{FileTotals, SweepResults};
use super::{Exit, Outcome, Trouble, interrupt};

/// `sweep`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm sweep corpus/sweep/*                   the protocol, instruction by instruction
  sigstorm sweep corpus/sweep/* --pairs           and with two threads held at once
  sigstorm sweep corpus/schedule/remove-unlocked.txt --plain --defect remove-unlocked

At each instruction there is a run with a signal, and one for each thing that another thread may do
meanwhile. What was done where is in REPORTS/sweep/coverage.html, and coverage.txt.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 a file cannot be read (the others are still
swept) or nothing can be reached; 3 no answer: a harness error, or nothing was disturbed.")]
pub struct Sweep {
    /// Schedules, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Hold two threads at once, too: a walk half-way and a writer half-way
    #[arg(long)]
    pub pairs: bool,
    /// Take the schedules' own stops out first: operations in plain order
    #[arg(long)]
    pub plain: bool,
    /// How many runs at a time, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// End with the first violation
    #[arg(long)]
    pub first: bool,
    /// Disturb nothing: look for S seconds for schedules that reach instructions which these
    /// files do not, and leave them in REPORTS/sweep/grown
    #[arg(long, value_name = "S", conflicts_with_all = ["pairs", "plain"])]
    pub grow: Option<u64>,
    /// Where the random choices of --grow begin
    #[arg(long, value_name = "N", default_value_t = 1, requires = "grow")]
    pub seed: u64,
    /// Where the listing goes
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub reports: PathBuf,
    #[command(flatten)]
    pub planted: Planted,
}

/// One violation.
#[derive(Serialize)]
struct ViolationLine<'a> {
    r#type: &'a str,
    file: &'a str,
    verdict: &'a str,
    summary: &'a str,
    place: String,
    schedule: String,
}

/// `sigstorm sweep`.
pub fn run(args: &Sweep, out: &Out) -> Outcome {
    Exit::settled(|exit| sweep_all(args, out, exit))
}

fn sweep_all(args: &Sweep, out: &Out, exit: &mut Exit) -> Result<(), Trouble> {
    let region = executor::region().map_err(anyhow::Error::from)?;
    let jobs = args.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let cores = Cores::take(jobs)?;
    out.warn_of(&cores);
    let begun = Instant::now();
    let runner = |&nth: &usize| Runner::new(&args.planted.defects).on_core(nth);
    let planted = !args.planted.defects.is_empty();
    let options = SweepOptions { pairs: args.pairs, first: args.first, planted };
    let mut sweep = SweepRun::new(options, cores.nths().iter().map(runner).collect())?;
    let mut view = View { out, bar: SweepingBar::new(out), exit };
    let mut files = FileTotals::default();
    let mut given = Vec::new();
    for file in &args.files {
        if args.first && sweep.totals().verdict.is_some() {
            break;
        }
        match input::load(file) {
            Ok(input) if args.grow.is_some() => given.push(input.schedule),
            Ok(mut input) => {
                let notes = warn(&input, &args.planted.defects);
                files.said |= !notes.is_empty();
                files.notes.extend(notes);
                files.doubtful += input.doubts.len();
                if args.plain {
                    input.schedule = plain(&input.schedule);
                }
                sweep.file(&input.name, input.schedule, &mut view)?;
            }
            Err(message) => {
                complain(&format!("error: {message}"));
                files.unreadable += 1;
                *view.exit = view.exit.worse(Exit::Usage);
            }
        }
    }
    if let Some(seconds) = args.grow {
        return grow(&mut sweep, args, &given, seconds, &mut view);
    }
    view.bar.end();
    let seconds = begun.elapsed();
    let share = |runner: &Runner| Some(runner.used().as_secs_f64() / seconds.as_secs_f64().max(1e-3));
    let shares: Vec<Option<f64>> = sweep.runners().iter().map(share).collect();
    let machine = Machine {
        cores: cores.numbers(),
        inconclusive: sweep.inconclusive(),
        notes: cores.warnings().into_iter().chain(std::mem::take(&mut files.notes)).collect(),
    };
    if machine.inconclusive.is_some() {
        *view.exit = view.exit.worse(Exit::Inconclusive);
    }
    // A listing of nothing would take the place of one of something.
    let listing = match sweep.coverage().injected() {
        0 => None,
        _ => Some(write_listing(&sweep, &args.reports, &region)?),
    };
    let seconds = seconds.as_secs_f64();
    let results = SweepResults {
        args,
        out,
        sweep: &sweep,
        files: &files,
        region: &region,
        machine: &machine,
        shares: &shares,
    };
    results.print(listing.as_deref(), seconds)?;
    if sweep.totals().verdict.is_none() && !sweep.reached() {
        let nothing = match sweep.totals().files {
            0 => "no schedule could be read",
            _ => "no step of these schedules reaches an instruction of the protocol",
        };
        complain(&format!("error: there is nothing to sweep: {nothing}"));
        *view.exit = view.exit.worse(Exit::Usage);
    }
    Ok(())
}

/// The progress of a sweep on the terminal, and its violations.
struct View<'a> {
    out: &'a Out,
    bar: SweepingBar,
    exit: &'a mut Exit,
}

impl SweepWatch for View<'_> {
    type Error = Trouble;

    fn begin(&mut self, file: &str, runs: usize) {
        self.bar.begin(file, runs);
    }

    fn show(&mut self, runs: usize, found: String) {
        self.bar.show(runs, found);
    }

    fn violation(&mut self, violation: &SweepViolation<'_>) -> Result<(), Trouble> {
        let SweepViolation { file, finding, place, schedule, first } = violation;
        let verdict = finding.verdict.as_str();
        *self.exit = self.exit.worse(Exit::of_verdict(Some(verdict)));
        if self.out.json {
            return self.out.object(&ViolationLine {
                r#type: "violation",
                file,
                verdict,
                summary: &finding.summary,
                place: place.clone(),
                schedule: schedule.to_text(),
            });
        }
        // One of each kind is shown in full.
        if *first {
            let head = format!("{verdict}: {}", finding.summary);
            self.out.say(&format!("{file}, {place}: {}", style(head).red().bold()))?;
            for line in finding.evidence.iter().chain(&finding.dump) {
                self.out.say(&format!("    {line}"))?;
            }
            for line in schedule.to_text().lines() {
                self.out.say(&format!("  | {line}"))?;
            }
        }
        Ok(())
    }
}

/// `sigstorm sweep --grow`.
fn grow(
    sweep: &mut SweepRun,
    args: &Sweep,
    given: &[Schedule],
    seconds: u64,
    view: &mut View<'_>,
) -> Result<(), Trouble> {
    let stop = interrupt::install()?;
    let folder = args.reports.join("sweep").join("grown");
    files::writable_folder(&folder)?;
    let (limit, out) = (Duration::from_secs(seconds), view.out);
    let grown = sweep.grow(given, args.seed, limit, stop, view, |number, schedule, new| {
        let path = folder.join(format!("grown-{number}.txt"));
        files::write(&path, schedule.to_text().as_bytes())?;
        let named: Vec<String> = new.iter().take(4).map(|(f, i)| format!("{f}#{i}")).collect();
        let more = if new.len() > 4 { ", …" } else { "" };
        out.say(&format!(
            "{}: {} ({}{more})",
            path.display(),
            counted(new.len(), "instruction"),
            named.join(", ")
        ))
    })?;
    view.bar.end();
    out.object(&json!({
        "type": "summary", "command": "sweep", "watched": grown.watched, "schedules": grown.kept,
        "instructions": grown.instructions, "folder": folder.to_string_lossy(),
    }))?;
    out.say(&format!(
        "{} schedules watched; {} for {} that none of the given ones reaches",
        grown.watched,
        counted(grown.kept, "schedule"),
        counted(grown.instructions, "instruction"),
    ))
}

/// Writes the listing, as text and as a page: the page's path.
fn write_listing(sweep: &SweepRun, reports: &Path, region: &Region) -> Result<PathBuf, Trouble> {
    let folder = reports.join("sweep");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    files::write(&folder.join("coverage.txt"), text(sweep.coverage(), region).as_bytes())?;
    let page = folder.join("coverage.html");
    files::write(&page, html(sweep.coverage(), region).as_bytes())?;
    Ok(page)
}
