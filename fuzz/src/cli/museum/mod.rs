//! `sigstorm museum`: plants each specimen, hunts for it from nothing, and tabulates how
//! soon it is found.
//!
//! A *trial* is one worker on one core with an empty corpus and a seed of its own; it ends
//! with its first finding or with its budget, and in the latter case it is censored. Of each
//! trial three times are known: when the specimen's faulty code first ran, when its condition
//! first held (both from the canary in the defect), and when anything was found.
//!
//! [`trials`] runs them, [`tally`] sums them up, [`table`] is for terminals and for
//! `museum.md`, [`storms`] sets storms beside them, [`pages`] are what is left in files, [`plot`]
//! draws the survival curves.

mod pages;
mod plot;
mod storms;
mod table;
mod tally;
mod trials;

use super::args::{self, Subject};
use super::cores::Cores;
use super::inconclusive::Reason;
use super::input::counted;
use super::output::{Out, complain};
use super::{Exit, Outcome, Trouble, files, interrupt};
use pages::Results;
use serde_json::json;
use sigstorm_runtime::instrument::defect::Defect;
use std::path::PathBuf;
use std::time::Instant;
use tally::Tally;
use trials::{Ran, Show};

/// `sigstorm museum`.
pub fn run(args: &args::Museum, out: &Out) -> Outcome {
    let show = Show::new(args);
    // A part of the museum must not replace the tables of all of it, unless asked to.
    let whole = args.subjects.is_empty() && args.with.is_empty();
    let reports = args.reports.clone().or_else(|| whole.then(|| PathBuf::from("reports")));
    if let Some(folder) = &reports {
        files::writable_folder(folder).map_err(|error| Trouble::Usage(format!("{error:#}")))?;
    }
    let stop = interrupt::install()?;
    announce(&show, out)?;

    let begun = Instant::now();
    let cores = Cores::take(show.jobs)?.with_warnings(out);
    let warnings = cores.warnings();
    let ran = trials::run(&show, &cores, stop, out)?;
    // Storms take cores of their own.
    let numbers = cores.numbers();
    drop(cores);
    let seconds = begun.elapsed().as_secs_f64();
    let complete = ran.len() == show.trials().len();
    let tallies = tally::tallies(&show, &ran);
    for tally in &tallies {
        out.object(tally)?;
    }
    out.say(&table::terminal(&tallies))?;
    let storms = match args.storm {
        Some(limit) if complete => storms::run(&show, limit, stop, out)?,
        _ => Vec::new(),
    };
    let limit = args.storm.filter(|_| !storms.is_empty());
    let beside = limit.map(|limit| (limit, storms::markdown(&show, &tallies, &storms, limit)));
    if let Some((_, table)) = &beside {
        out.say(table)?;
    }
    let outcome = verdict(&show, &tallies, &ran);
    if let Some(folder) = reports.filter(|_| complete) {
        let (show, tallies, ran) = (&show, &tallies, &ran);
        let results = Results { show, tallies, ran, storms: beside, seconds };
        let written = pages::write(&folder, &results, stop, out);
        match written {
            Ok(()) => out.say(&format!("table and pages: {}", folder.join("museum.md").display()))?,
            Err(error) => complain(&format!("error: {error:#}")),
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
        "inconclusive": outcome.inconclusive.map(Reason::name),
        "cores": numbers,
        "notes": warnings,
    }))?;
    Ok(outcome.exit)
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

/// What it all comes to.
#[derive(Debug)]
struct Judged {
    specimens: usize,
    caught: usize,
    must_be_silent: usize,
    silent: usize,
    /// Trials in which something was found and the canary had not said that there was
    /// anything to find.
    false_alarms: usize,
    harness_errors: usize,
    /// Why there is no answer.
    inconclusive: Option<Reason>,
    /// What there is to say against it.
    why: Vec<String>,
    exit: Exit,
}

/// Judges by the hunts, where there were any: the other baseline is there to be compared with.
fn verdict(show: &Show, tallies: &[Tally], ran: &[Ran]) -> Judged {
    let counts: Vec<_> = tallies.iter().filter(|tally| tally.baseline == show.baselines[0].name()).collect();
    let (silent, loud): (Vec<&&Tally>, Vec<_>) = counts.iter().partition(|tally| tally.must_be_silent);
    let caught = loud.iter().filter(|tally| tally.caught).count();
    let quiet = silent.iter().filter(|tally| tally.is_silent).count();
    let must_be_silent = show.subjects.iter().filter(|&&subject| must_be_silent(subject)).count();
    let specimens = show.subjects.len() - must_be_silent;
    let mut why = Vec::new();
    if ran.len() < show.trials().len() {
        why.push(format!("ended early: {} of {} trials", ran.len(), show.trials().len()));
    }
    for tally in loud.iter().filter(|tally| !tally.caught) {
        why.push(format!(
            "not caught: {}, found in {} of {}",
            tally.name,
            tally.detected,
            counted(tally.trials, "trial")
        ));
    }
    for tally in silent.iter().filter(|tally| !tally.verdicts.is_empty()) {
        why.push(format!("not silent: {}, {:?} in {} trials", tally.name, tally.verdicts, tally.trials));
    }
    let alarms: Vec<_> = ran.iter().filter(|ran| ran.is_false_alarm()).collect();
    for alarm in &alarms {
        why.push(format!(
            "found, and the defect had not bitten yet: {} by {}, seed {}",
            alarm.trial.subject.name(),
            alarm.verdict.as_deref().unwrap_or_default(),
            alarm.trial.seed
        ));
    }
    let broken: Vec<_> = ran.iter().filter(|ran| ran.is_broken()).collect();
    for ran in &broken {
        why.push(format!(
            "harness error: {}, seed {}: {}",
            ran.trial.subject.name(),
            ran.trial.seed,
            ran.found.as_ref().map_or("", |found| &found.finding.summary)
        ));
    }
    let empty: Vec<_> = ran.iter().filter_map(|ran| Some((ran, ran.inconclusive?))).collect();
    for (ran, reason) in &empty {
        why.push(format!(
            "inconclusive: {} by {}, seed {}: {}",
            ran.trial.subject.name(),
            ran.trial.baseline.name(),
            ran.trial.seed,
            reason.sentence()
        ));
    }
    // A specimen is missed where trials that did run missed it.
    let is_empty = |tally: &Tally| empty.iter().any(|(ran, _)| ran.trial.subject.name() == tally.name);
    let missed = loud.iter().any(|tally| !tally.caught && !is_empty(tally));
    let exit = if !broken.is_empty() {
        Exit::Harness
    } else if missed || silent.iter().any(|tally| !tally.verdicts.is_empty()) {
        Exit::Violation
    } else if !empty.is_empty() {
        Exit::Inconclusive
    } else if caught < specimens || quiet < must_be_silent || ran.len() < show.trials().len() {
        Exit::Violation
    } else {
        Exit::Clean
    };
    let inconclusive =
        (exit == Exit::Inconclusive).then(|| empty.first().map(|(_, reason)| *reason)).flatten();
    Judged {
        specimens,
        caught,
        must_be_silent,
        silent: quiet,
        false_alarms: alarms.len(),
        harness_errors: broken.len(),
        inconclusive,
        why,
        exit,
    }
}

/// True where nothing may be found.
fn must_be_silent(subject: Subject) -> bool {
    use sigstorm::museum::exhibit;
    subject.0.and_then(exhibit).is_none_or(|exhibit| exhibit.expected.is_empty())
}
