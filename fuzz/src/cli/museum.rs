//! `sigstorm museum`: plants each specimen, hunts for it from an empty corpus, and tabulates how
//! soon it is found. See [`sigstorm::museum`].

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde_json::json;
use sigstorm::campaign::hunt::Mark;
use sigstorm::campaign::jobs::Told;
use sigstorm::files;
use sigstorm::museum::judge::{Ending, judge};
use sigstorm::museum::pages::{self, Results};
use sigstorm::museum::storms::{self, StormResult};
use sigstorm::museum::trials::{self, Show, Trial, TrialResult};
use sigstorm::museum::{Baseline, Subject, table, tally};
use sigstorm::process::cores::Cores;
use sigstorm::report::Inconclusive;
use sigstorm::report::words::counted;
use sigstorm_runtime::Defect;

use super::args::{MOST_JOBS, MOST_SECONDS, defect};
use super::display::{ShrinkingBar, SweepingBar, TrialsBar};
use super::output::{Out, complain};
use super::{Exit, Outcome, Trouble, interrupt, usage};

/// `museum`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm museum --trials 10 --budget 60 --baseline hunt --baseline random --keep
  sigstorm museum --trials 3 --budget 10 --defect copystack-unlocked
  sigstorm museum --with exit-keeps-barriers      is all found with another mistake planted, too?

A trial is one worker on one core that begins with nothing, and ends with its first finding or its
budget. Tables are printed; with --keep or --reports they are left in REPORTS/museum.md, with a page for
each specimen in REPORTS/museum/.
Exit status: 0 all are found in 9 of 10 trials, and the silent ones are silent; 1 not so; 2 wrong
usage; 3 no answer: a harness error, or a trial that ran nothing.")]
pub struct Museum {
    /// How many trials of each specimen
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trials: u32,
    /// Seconds after which a trial ends without a finding
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub budget: u64,
    /// How many trials at a time, each on a core [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_JOBS))]
    pub jobs: Option<u16>,
    /// Where the random choices begin [default: a random one, which is printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Only this specimen; may be given more than once [default: all, and the core as it is]
    #[arg(long = "defect", value_name = "NAME", value_parser = subject())]
    pub subjects: Vec<Subject>,
    /// How schedules come about; may be given more than once
    #[arg(long, value_name = "BASELINE", default_value = "hunt", value_parser = baseline())]
    pub baseline: Vec<Baseline>,
    /// Plant this one, too, in every trial; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = defect())]
    pub with: Vec<Defect>,
    /// Blow a storm of at most S seconds for each specimen, too
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    pub storm: Option<u64>,
    /// Write tables and pages into this folder
    #[arg(long, value_name = "DIR")]
    pub reports: Option<PathBuf>,
    /// The same as `--reports reports`: replace the kept tables and pages
    #[arg(long, conflicts_with = "reports")]
    pub keep: bool,
}

fn subject() -> impl TypedValueParser<Value = Subject> {
    PossibleValuesParser::new(Defect::ALL.iter().map(|defect| defect.name()).chain([Subject::NONE]))
        .map(|name| Subject(Defect::from_name(&name)))
}

fn baseline() -> impl TypedValueParser<Value = Baseline> {
    PossibleValuesParser::new([Baseline::Hunt, Baseline::Random].map(Baseline::name))
        .map(|name| if name == Baseline::Hunt.name() { Baseline::Hunt } else { Baseline::Random })
}

/// `sigstorm museum`.
pub fn run(args: &Museum, out: &Out) -> Outcome {
    let show = show(args);
    let reports = args.reports.clone().or_else(|| args.keep.then(|| PathBuf::from("reports")));
    if let Some(folder) = &reports {
        files::writable_folder(folder).map_err(usage)?;
    }
    let stop = interrupt::install()?;
    announce(&show, out)?;

    let begun = Instant::now();
    let cores = Cores::take(show.jobs)?;
    out.warn_of(&cores);
    let warnings = cores.warnings();
    let ran = run_trials(&show, &cores.nths(), stop, out)?;
    // Storms take cores of their own.
    let numbers = cores.numbers();
    drop(cores);
    let seconds = begun.elapsed().as_secs_f64();
    let complete = ran.len() == show.trials().len();
    let tallies = tally::tallies(&show, &ran);
    let outcome = judge(&show, &tallies, &ran);
    let (mut exit, inconclusive) = match outcome.ending {
        Ending::Passed => (Exit::Clean, None),
        Ending::Failed => (Exit::Violation, None),
        Ending::Inconclusive(reason) => (Exit::Inconclusive, Some(reason)),
        Ending::Broken => (Exit::Harness, None),
    };
    let told = (|| {
        for tally in &tallies {
            out.object(tally)?;
        }
        out.say(&table::terminal(&tallies))?;
        let storms = match args.storm {
            Some(limit) if complete => run_storms(&show, limit, stop, out)?,
            _ => Vec::new(),
        };
        let limit = args.storm.filter(|_| !storms.is_empty());
        let beside = limit.map(|limit| (limit, storms::markdown(&show, &tallies, &storms, limit)));
        if let Some((_, table)) = &beside {
            out.say(table)?;
        }
        if let Some(folder) = reports {
            let (show, tallies, ran) = (&show, &tallies, &ran);
            let results = Results { show, tallies, ran, storms: beside, seconds };
            let bar = ShrinkingBar::new(out);
            let written = pages::write(&folder, &results, stop, &mut |progress| bar.show(progress));
            bar.end();
            match written {
                Ok(()) => out.say(&format!("table and pages: {}", folder.join("museum.md").display()))?,
                Err(error) => {
                    complain(&format!("error: {error:#}"));
                    exit = exit.worse(Exit::Usage);
                }
            }
        }
        for line in &outcome.why {
            out.say(line)?;
        }
        out.object(&json!({
            "type": "summary",
            "command": "museum",
            "specimens": outcome.specimens,
            "caught": outcome.caught,
            "must_be_silent": outcome.must_be_silent,
            "silent": outcome.silent,
            "false_alarms": outcome.false_alarms,
            "harness_errors": outcome.harness_errors,
            "trials": show.number,
            "budget": show.budget,
            "jobs": show.jobs,
            "seed": show.seed,
            "seconds": seconds,
            "complete": complete,
            "inconclusive": inconclusive.map(Inconclusive::name),
            "cores": numbers,
            "notes": warnings,
        }))
    })();
    exit.once_told(told)
}

fn announce(show: &Show, out: &Out) -> Result<(), Trouble> {
    let names: Vec<_> = show.subjects.iter().map(|subject| subject.name()).collect();
    let baselines: Vec<_> = show.baselines.iter().map(|baseline| baseline.name()).collect();
    out.object(&json!({
        "type": "start", "command": "museum", "seed": show.seed, "jobs": show.jobs, "trials": show.number,
        "budget": show.budget, "specimens": names, "baselines": baselines, "with": names_of(&show.with),
    }))?;
    let also = if show.with.is_empty() {
        String::new()
    } else {
        format!(", each with {}", names_of(&show.with).join(" and "))
    };
    out.remark(&format!(
        "{} of {} ({}) of {} s each, {} at a time, seed {}{also}",
        counted(show.number as usize, "trial"),
        counted(names.len(), "specimen"),
        baselines.join(", "),
        show.budget,
        show.jobs,
        show.seed
    ));
    Ok(())
}

fn names_of(defects: &[Defect]) -> Vec<&'static str> {
    defects.iter().map(|defect| defect.name()).collect()
}

fn show(args: &Museum) -> Show {
    let cores = || thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS as usize);
    let show = Show {
        subjects: args.subjects.clone(),
        baselines: args.baseline.clone(),
        with: args.with.clone(),
        number: args.trials,
        budget: args.budget,
        jobs: args.jobs.map_or_else(cores, usize::from),
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) & 0xffff_ffff),
    };
    show.complete()
}

/// Runs the trials, with their progress on the terminal and a line of `--json` for each.
fn run_trials(
    show: &Show,
    cores: &[usize],
    stop: &AtomicBool,
    out: &Out,
) -> Result<Vec<TrialResult>, Trouble> {
    let mut display = TrialsBar::new(show.trials().len() as u64, show.jobs, out);
    let ran = trials::run(show, cores, stop, |told| match told {
        Told::Began { job, item: Trial { subject, baseline, number, .. } } => {
            display.began(job, format!("{} {} #{}", subject.name(), baseline.name(), number + 1));
        }
        Told::Ended { job, result } => {
            display.ended(job, result.is_some_and(|ran| ran.found.is_some()));
            if let Some(ran) = result {
                tell(ran, out);
            }
        }
    });
    display.end();
    Ok(ran?)
}

/// A line of `--json` for each trial.
#[derive(Serialize)]
struct TrialLine<'a> {
    r#type: &'static str,
    name: &'static str,
    baseline: &'static str,
    number: u32,
    seed: u64,
    schedules: u64,
    verdict: Option<&'a str>,
    reached: [Option<f64>; 2],
    triggered: [Option<f64>; 2],
    detected: [Option<f64>; 2],
    core_share: Option<f64>,
    inconclusive: Option<&'static str>,
}

/// Schedules and seconds.
fn pair(mark: Option<Mark>) -> [Option<f64>; 2] {
    [mark.map(|mark| mark.schedules as f64), mark.map(|mark| mark.seconds)]
}

fn tell(ran: &TrialResult, out: &Out) {
    let Trial { subject, baseline, number, seed } = ran.trial;
    // Where the output is closed, there are still the files and the exit status.
    let _ = out.object(&TrialLine {
        r#type: "trial",
        name: subject.name(),
        baseline: baseline.name(),
        number,
        seed,
        schedules: ran.schedules,
        verdict: ran.verdict.as_deref(),
        reached: pair(ran.marks.reached),
        triggered: pair(ran.marks.triggered),
        detected: pair(ran.marks.detected),
        core_share: ran.share,
        inconclusive: ran.inconclusive.map(Inconclusive::name),
    });
}

/// Blows the storms, with their progress on the terminal and a line of `--json` for each.
fn run_storms(show: &Show, limit: u64, stop: &AtomicBool, out: &Out) -> Result<Vec<StormResult>, Trouble> {
    let bar = SweepingBar::new(out);
    bar.begin("storms", show.subjects.len());
    let storms = storms::run(show, limit, stop, |number, subject, result| match result {
        None => bar.show(number, subject.name().into()),
        // Where the output is closed, there are still the files and the exit status.
        Some(storm) => drop(out.object(storm)),
    });
    bar.end();
    Ok(storms?)
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn parsed(options: &[&str]) -> Result<Museum, clap::Error> {
        let cli = Cli::try_parse_from([&["sigstorm", "museum"], options].concat())?;
        let Some(Command::Museum(museum)) = cli.command else { panic!("not museum") };
        Ok(museum)
    }

    #[test]
    fn museum_writes_nothing_unless_it_is_asked_to() {
        let museum = parsed(&[]).unwrap();
        assert!(museum.reports.is_none() && !museum.keep);
        assert!(parsed(&["--keep"]).unwrap().keep);
        assert!(parsed(&["--keep", "--reports", "x"]).is_err());
        assert_eq!(parsed(&[]).unwrap().baseline, [Baseline::Hunt]);
    }
}
