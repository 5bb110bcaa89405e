//! `sigstorm hunt`: explore, and make something readable of what is found.

use super::campaign::{self, Campaign, Found, Plan};
use super::cores::Cores;
use super::display::{Hunting, Shrinking};
use super::inconclusive::Reason;
use super::input::counted;
use super::mistaken::is_text;
use super::origin;
use super::output::{Out, complain};
use super::passed_over::with_passed_over;
use super::report::Report;
use super::runner::Runner;
use super::summary::{self, Machine, Progress, Summary};
use super::{Exit, Outcome, Trouble, args, death, files, interrupt, reduce};
use anyhow::Result;
use console::style;
use serde_json::json;
use sigstorm::outcome::Verdict;
use sigstorm::schedule::Schedule;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Shrinking stops here: a schedule that is nearly the smallest now is worth more than the
/// smallest some day.
const SHRINKING: Duration = Duration::from_secs(60);

/// `sigstorm hunt`.
pub fn run(args: &args::Hunt, out: &Out) -> Outcome {
    // Before the hunt, not after hours of it.
    for folder in args.corpus.iter().chain([&args.reports]) {
        files::writable_folder(folder).map_err(|error| Trouble::Usage(format!("{error:#}")))?;
    }
    if let Some(corpus) = &args.corpus {
        only_bytes(corpus)?;
    }
    let mut plan = plan(args);
    let stop = interrupt::install()?;
    let cores = Cores::take(plan.jobs)?;
    plan.cores = cores.nths();
    announce(&plan, &cores, out)?;
    let cores = cores.with_warnings(out);

    let display = Hunting::new(&plan, out);
    let mut told = 0;
    let campaign = campaign::run(&plan, stop, |totals, elapsed| {
        display.show(totals, elapsed);
        if elapsed.as_secs() > told {
            told = elapsed.as_secs();
            // If nobody listens any more, the hunt still has its exit status.
            let _ = out.object(&Progress::new(totals, elapsed.as_secs_f64()));
        }
    });
    display.end();
    let Campaign { totals, seconds, found, inconclusive, .. } = campaign?;
    // What follows runs one schedule at a time, and is not in anybody's way.
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
    let summary = Summary::new(&plan, &totals, seconds, verdict, written.as_deref(), &machine);
    let told = out.object(&summary).and_then(|()| {
        out.say(&summary::table(&plan, &totals, seconds))?;
        if let Some(said) = summary::pace(&plan, &totals, seconds) {
            out.say(&said)?;
        }
        match &report {
            None if inconclusive.is_some() => {
                let sentence = inconclusive.map_or("", Reason::sentence);
                out.say(&style(format!("inconclusive: {sentence}")).yellow().bold().to_string())
            }
            None => {
                let never =
                    summary::never(&totals.counts).map_or(String::new(), |never| format!("; {never}"));
                out.say(&format!("nothing found in {seconds:.1} s{never}"))
            }
            Some(report) => tell(report, written.as_deref(), &args.reports, out),
        }
    });
    match told {
        // What was found counts for more than that it could not be printed.
        Err(Trouble::Usage(message)) if exit != Exit::Clean => {
            complain(&format!("error: {message}"));
            Ok(exit)
        }
        other => other.map(|()| exit),
    }
}

/// Sees to it that a corpus has no text in it: the engine would take that for the bytes of a schedule.
fn only_bytes(corpus: &Path) -> Result<(), Trouble> {
    let cannot = |error| Trouble::Usage(format!("cannot read {}: {error}", corpus.display()));
    for entry in fs::read_dir(corpus).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        // What cannot be read is no text for the engine either.
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

fn plan(args: &args::Hunt) -> Plan {
    let cores = || thread::available_parallelism().map_or(1, usize::from).min(args::MOST_JOBS as usize);
    let jobs = args.jobs.map_or_else(cores, usize::from);
    // A worker without a schedule to run has no use.
    let jobs = args.runs.map_or(jobs, |runs| jobs.min(usize::try_from(runs).unwrap_or(jobs)));
    let mut defects = args.planted.defects.clone();
    defects.sort();
    defects.dedup();
    Plan {
        jobs,
        // Short enough to be typed, and for every reader of JSON.
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) & 0xffff_ffff),
        steps: args.steps.map(usize::from),
        runs: args.runs,
        seconds: args.seconds,
        corpus: args.corpus.clone(),
        defects,
        ..Plan::default()
    }
}

fn announce(plan: &Plan, cores: &Cores, out: &Out) -> Result<(), Trouble> {
    let names: Vec<_> = plan.defects.iter().map(|defect| defect.name()).collect();
    let Plan { jobs, seed, .. } = plan;
    out.object(&json!({
        "type": "start", "command": "hunt", "seed": seed, "jobs": jobs, "defects": names, "cores": cores.numbers(),
    }))?;
    let planted =
        if names.is_empty() { "the core as it is".into() } else { format!("planted: {}", names.join(", ")) };
    let seconds = plan.seconds.map(|seconds| format!("for {seconds} s"));
    let runs = plan.runs.map(|runs| format!("for {runs} schedules"));
    let budget = [seconds, runs].into_iter().flatten().collect::<Vec<_>>().join(" or ");
    let budget = if budget.is_empty() { "until Ctrl-C".into() } else { budget };
    let numbers: Vec<String> = cores.numbers().iter().map(usize::to_string).collect();
    let (workers, numbers) = (counted(*jobs, "worker"), numbers.join(", "));
    out.remark(&format!("hunting {budget}: {workers} (core {numbers}), seed {seed}, {planted}"));
    Ok(())
}

/// Shrinks what was found, and takes a trace of it.
fn examine(found: Found, plan: &Plan, schedules: u64, seconds: f64, stop: &AtomicBool, out: &Out) -> Report {
    let schedule = origin::checked(&Schedule::decode(&found.bytes));
    let mut report = Report {
        finding: found.finding,
        original: schedule.encode(),
        schedule,
        events: Vec::new(),
        defects: plan.defects.clone(),
        seed: plan.seed,
        seconds,
        schedules,
        shrunk: false,
        notes: Vec::new(),
    };
    // An error of the harness is shown as it was met: it may not happen again, or hang.
    if report.finding.verdict != Verdict::HarnessError.name() {
        out.remark(&format!(
            "found after {seconds:.1} s: {}: {}",
            report.finding.verdict, report.finding.summary
        ));
        let shown = Shrinking::new(out);
        let result = reproduce(&mut report, stop, SHRINKING, &shown);
        shown.end();
        if let Err(error) = result {
            report.notes.push(format!("it could not be shrunk: {error:#}"));
        }
    }
    report
}

/// Runs it again, shrinks it for no longer than `limit`, and takes a trace of it.
pub fn reproduce(report: &mut Report, stop: &AtomicBool, limit: Duration, shown: &Shrinking) -> Result<()> {
    let mut runner = Runner::new(&report.defects);
    let verdict = report.finding.verdict.clone();
    let again = runner.run(&report.schedule.encode(), false)?;
    if again.verdict() != Some(&verdict) {
        // The same bytes do the same, always; if not, it is the harness that is wrong.
        let got = again
            .finding
            .as_ref()
            .map_or("nothing".into(), |finding| format!("{}: {}", finding.verdict, finding.summary));
        let summary = format!("{verdict} was found, and {got} when the same schedule was run again");
        let mut evidence = vec![format!("found: {}", report.finding.summary)];
        evidence.append(&mut report.finding.evidence);
        let dump = std::mem::take(&mut report.finding.dump);
        report.finding = death::finding(Verdict::HarnessError, summary, evidence);
        report.finding.dump = dump;
        return Ok(());
    }
    let reduced = reduce::reduce(&mut runner, &report.schedule, &verdict, stop, Some(limit), shown)?;
    report.schedule = reduced.schedule;
    report.shrunk = true;
    if reduced.early {
        report
            .notes
            .push(format!("shrinking was ended after {} runs; `sigstorm shrink` goes on", reduced.runs));
    }
    let last = runner.run(&report.schedule.encode(), true)?;
    report.events = with_passed_over(last.events, &report.schedule, &last.inert, &last.unreached);
    report.notes.extend(last.notes);
    match last.finding {
        Some(finding) if finding.verdict == verdict => report.finding = finding,
        _ => report.notes.push("the shrunk schedule's verdict was another when its trace was taken".into()),
    }
    Ok(())
}

/// Writes the report; if that fails, the schedule goes where it is not lost.
pub fn keep(report: &Report, reports: &Path) -> Option<PathBuf> {
    match report.write(reports) {
        Ok(folder) => Some(folder),
        Err(error) => {
            complain(&format!("error: {error:#}; this is the schedule:\n{}", report.schedule_text(reports)));
            None
        }
    }
}

pub fn tell(report: &Report, written: Option<&Path>, reports: &Path, out: &Out) -> Result<(), Trouble> {
    let headline = format!("{}: {}", report.finding.verdict, report.finding.summary);
    out.say(&style(headline).red().bold().to_string())?;
    for line in &report.finding.evidence {
        out.say(&format!("    {line}"))?;
    }
    for note in &report.notes {
        out.say(&format!("note:   {note}"))?;
    }
    let (before, after) = (counted(report.steps_before(), "step"), report.schedule.steps.len());
    let shrunk = if report.shrunk { format!("shrunk from {before} to {after}") } else { before };
    // What was collected was found by another engine.
    let found =
        if report.schedules > 0 { format!("found after {:.1} s; ", report.seconds) } else { String::new() };
    out.say(&format!("{found}{shrunk}"))?;
    let Some(folder) = written else { return Ok(()) };
    out.say(&format!("report: {}", folder.join("report.txt").display()))?;
    out.say(&format!("replay: {}", report.replay(reports)))
}
