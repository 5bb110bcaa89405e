//! `sigstorm replay`: run schedules again, and see whether they do the same again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use console::style;
use serde::Serialize;
use sigstorm::files::input;
use sigstorm::outcome::{Event, Finding, Verdict};
use sigstorm::process::{Answer, Runner};
use sigstorm::report::passed_over::{self, with_passed_over};
use sigstorm::report::{Inconclusive, interleaving};

use super::args::Planted;
use super::findings::no_violation;
use super::output::{Out, complain, warn};
use super::{Exit, Outcome, Trouble};

/// `replay`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm replay reports/*/schedule.txt
  sigstorm replay reports/fault-1a2b3c4d/schedule.bin --defect remove-unlocked --trace
  sigstorm replay corpus/schedule/* --times 10    is every run of a schedule the same?

A file may name the defects that it was made with (`# defect NAME`), and a run without them is told so.
Exit status: 0 it ran, and nothing was found; 1 a violation; 2 a file cannot be read (the others are still
run); 3 no answer: a harness error, such as a schedule whose runs differ, or no step had an effect.")]
pub struct Replay {
    /// Schedules, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Run each so often, and compare the runs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub times: u64,
    /// Print what happened, event by event, a column for each thread
    #[arg(long)]
    pub trace: bool,
    #[command(flatten)]
    pub planted: Planted,
}

/// The runs of one file.
#[derive(Debug)]
struct Replayed {
    /// The first run's answer.
    answer: Answer,
    runs: u64,
    /// How many runs differ from the first.
    divergent: u64,
    /// The result of the first of those, in words.
    other: Option<String>,
}

#[derive(Serialize)]
struct Object<'a> {
    r#type: &'a str,
    file: &'a str,
    verdict: Option<&'a str>,
    summary: Option<&'a str>,
    /// In hexadecimal: not every reader of JSON takes 64 bits.
    trace_hash: Option<String>,
    runs: u64,
    divergent: u64,
    steps: u64,
    handovers: u64,
    signals: u64,
    finding: Option<&'a Finding>,
    notes: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'a [Event]>,
    /// Steps without an effect, and steps whose stop was not reached, numbered from 0.
    inert_steps: &'a [u32],
    unreached_stops: &'a [u32],
    inconclusive: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct ReplaySummary {
    r#type: &'static str,
    command: &'static str,
    files: u64,
    runs: u64,
    /// Schedules whose runs differ.
    divergent: u64,
    violations: u64,
    verdict: Option<String>,
    unreadable: u64,
    /// Why there is no answer, of the first file that has none; a violation is one.
    inconclusive: Option<&'static str>,
    /// Over all files: steps without an effect, stops that were not reached, and stops that this build
    /// cannot take as they were meant.
    inert_steps: usize,
    unreached_stops: usize,
    doubtful_stops: usize,
    notes: Vec<String>,
}

/// `sigstorm replay`.
pub fn run(args: &Replay, out: &Out) -> Outcome {
    Exit::settled(|exit| replay_all(args, out, exit))
}

fn replay_all(args: &Replay, out: &Out, exit: &mut Exit) -> Result<(), Trouble> {
    let mut summary = ReplaySummary { r#type: "summary", command: "replay", ..ReplaySummary::default() };
    let mut runner = Runner::new(&args.planted.defects);
    for file in &args.files {
        let input = match input::load(file) {
            Ok(input) => input,
            Err(message) => {
                complain(&format!("error: {message}"));
                summary.unreadable += 1;
                *exit = exit.worse(Exit::Usage);
                continue;
            }
        };
        let said = warn(&input, &args.planted.defects);
        let mut replayed = replay(&mut runner, &input.schedule.encode(), args)?;
        let events = std::mem::take(&mut replayed.answer.events);
        let Answer { inert, unreached, .. } = &replayed.answer;
        replayed.answer.events = with_passed_over(events, &input.schedule, inert, unreached);
        let Replayed { answer, runs, divergent, other } = &replayed;
        summary.inert_steps += answer.inert.len();
        summary.unreached_stops += answer.unreached.len();
        summary.doubtful_stops += input.doubts.len();
        summary.files += 1;
        summary.runs += runs;
        let mut verdict = answer.verdict();
        if *divergent > 0 {
            summary.divergent += 1;
            verdict = Some(Verdict::HarnessError.name());
        }
        summary.violations += u64::from(Exit::of_verdict(answer.verdict()) == Exit::Violation);
        summary.verdict = summary.verdict.or(verdict.map(String::from));
        *exit = exit.worse(Exit::of_verdict(verdict));
        let inconclusive = (verdict.is_none() && answer.steps == 0).then_some(Inconclusive::Steps);
        if inconclusive.is_some() {
            *exit = exit.worse(Exit::Inconclusive);
        }

        let passed_over = passed_over::note(&answer.inert, &answer.unreached);
        let notes: Vec<&str> =
            said.iter().chain(&answer.notes).chain(&passed_over).chain(other).map(String::as_str).collect();
        if out.json {
            out.object(&object(&input.name, verdict, &replayed, notes, args.trace, inconclusive))?;
        } else {
            // The doubts were said already, and is not lost where only errors are read.
            let notes = answer.notes.iter().chain(&passed_over).chain(other).map(String::as_str).collect();
            print(&input.name, &replayed, &notes, !said.is_empty(), inconclusive, args.trace, out)?;
        }
        summary.inconclusive = summary.inconclusive.or(inconclusive.map(Inconclusive::name));
        summary.notes.extend(said);
    }
    if summary.verdict.is_some() {
        summary.inconclusive = None;
    }
    out.object(&summary)?;
    if summary.files + summary.unreadable > 1 {
        let ReplaySummary { files, runs, violations, divergent, .. } = summary;
        out.say(&format!("{files} schedules, {runs} runs, {violations} violations, {divergent} divergent"))?;
    }
    Ok(())
}

fn replay(runner: &mut Runner, bytes: &[u8], args: &Replay) -> anyhow::Result<Replayed> {
    let answer = runner.run(bytes, args.trace)?;
    let identity = |answer: &Answer| (answer.trace_hash, answer.verdict().map(String::from));
    let first = identity(&answer);
    let (mut divergent, mut other) = (0, None);
    for number in 2..=args.times {
        let again = runner.run(bytes, false)?;
        if identity(&again) != first {
            divergent += 1;
            other.get_or_insert_with(|| {
                let found = again.finding.as_ref().map_or("no violation".into(), |finding| {
                    format!("{}: {}", finding.verdict, finding.summary)
                });
                format!("run {number} is the first that differs: {found}")
            });
        }
    }
    Ok(Replayed { answer, runs: args.times, divergent, other })
}

fn object<'a>(
    file: &'a str,
    verdict: Option<&'a str>,
    replayed: &'a Replayed,
    notes: Vec<&'a str>,
    trace: bool,
    inconclusive: Option<Inconclusive>,
) -> Object<'a> {
    let Replayed { answer, runs, divergent, .. } = replayed;
    Object {
        r#type: "replay",
        file,
        verdict,
        summary: answer.finding.as_ref().map(|finding| finding.summary.as_str()),
        trace_hash: answer.trace_hash.map(|hash| format!("{hash:016x}")),
        runs: *runs,
        divergent: *divergent,
        steps: answer.steps,
        handovers: answer.handovers,
        signals: answer.signals,
        finding: answer.finding.as_ref(),
        notes,
        events: trace.then_some(&answer.events),
        inert_steps: &answer.inert,
        unreached_stops: &answer.unreached,
        inconclusive: inconclusive.map(Inconclusive::name),
    }
}

fn print(
    name: &str,
    replayed: &Replayed,
    notes: &Vec<&str>,
    doubtful: bool,
    inconclusive: Option<Inconclusive>,
    trace: bool,
    out: &Out,
) -> Result<(), Trouble> {
    let Replayed { answer, runs, divergent, .. } = replayed;
    if trace {
        for line in interleaving::lay_out(&answer.events) {
            out.say(&line.styled())?;
        }
    }
    let verdict = match &answer.finding {
        None if inconclusive.is_some() => style("inconclusive".into()).yellow(),
        // The results of the runs that differ are in a note, and the sentence about them at the end.
        None if *divergent > 0 => style("harness-error".into()).red().bold(),
        None => no_violation(doubtful),
        Some(Finding { verdict, summary, .. }) => style(format!("{verdict}: {summary}")).red().bold(),
    };
    let hash = answer.trace_hash.map_or("no trace".into(), |hash| format!("trace {hash:016x}"));
    let details = format!(
        "{} steps, {} hand-overs, {} signals, {hash}",
        answer.steps, answer.handovers, answer.signals
    );
    out.say(&format!("{name}: {verdict}  {}", style(format!("({details})")).dim()))?;
    for line in answer.finding.iter().flat_map(|finding| finding.evidence.iter().chain(&finding.dump)) {
        out.say(&format!("    {line}"))?;
    }
    if let Some(reason) = inconclusive {
        out.say(&format!("  {}", reason.sentence()))?;
    }
    for note in notes.iter().copied().collect::<BTreeSet<_>>() {
        out.say(&format!("  note: {note}"))?;
    }
    if *divergent > 0 {
        let message = format!("  harness error: {divergent} of {runs} runs differ from the first one");
        out.say(&style(message).red().bold().to_string())?;
    } else if *runs > 1 {
        out.say(&format!("  {runs} runs, all the same"))?;
    }
    Ok(())
}
