//! `sigstorm replay`: run schedules again, and see whether they do the same again.

use super::output::{Out, complain};
use super::runner::{Answer, Runner};
use super::{Exit, Outcome, args, input, interleaving};
use anyhow::Result;
use console::style;
use serde::Serialize;
use sigstorm::outcome::{Event, Finding, Verdict};
use std::collections::BTreeSet;

/// What a file's runs came to.
#[derive(Debug)]
struct Replayed {
    /// The first run's answer.
    answer: Answer,
    runs: u64,
    /// How many runs differ from the first.
    divergent: u64,
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
}

#[derive(Default, Serialize)]
struct Summary {
    r#type: &'static str,
    command: &'static str,
    files: u64,
    runs: u64,
    /// Schedules whose runs differ.
    divergent: u64,
    violations: u64,
    verdict: Option<String>,
    unreadable: u64,
}

/// `sigstorm replay`.
pub fn run(args: &args::Replay, out: &Out) -> Outcome {
    let mut summary = Summary { r#type: "summary", command: "replay", ..Summary::default() };
    let mut exit = Exit::Clean;
    let mut runner = Runner::new(&args.planted.defects);
    for file in &args.files {
        let input = match input::load(file) {
            Ok(input) => input,
            Err(message) => {
                complain(&format!("error: {message}"));
                summary.unreadable += 1;
                exit = exit.worse(Exit::Usage);
                continue;
            }
        };
        let replayed = replay(&mut runner, &input.schedule.encode(), args)?;
        let Replayed { answer, runs, divergent } = &replayed;
        summary.files += 1;
        summary.runs += runs;
        let mut verdict = answer.verdict();
        if *divergent > 0 {
            summary.divergent += 1;
            verdict = Some(Verdict::HarnessError.name());
        }
        summary.violations += u64::from(Exit::of_verdict(answer.verdict()) == Exit::Violation);
        summary.verdict = summary.verdict.or(verdict.map(String::from));
        exit = exit.worse(Exit::of_verdict(verdict));

        let notes = input.notes.iter().chain(&answer.notes).map(String::as_str).collect();
        if out.json {
            out.object(&object(&input.name, verdict, &replayed, notes, args.trace))?;
        } else {
            print(&input.name, &replayed, &notes, args.trace, out)?;
        }
    }
    out.object(&summary)?;
    if summary.files + summary.unreadable > 1 {
        let Summary { files, runs, violations, divergent, .. } = summary;
        out.say(&format!("{files} schedules, {runs} runs, {violations} violations, {divergent} divergent"))?;
    }
    Ok(exit)
}

fn replay(runner: &mut Runner, bytes: &[u8], args: &args::Replay) -> Result<Replayed> {
    let answer = runner.run(bytes, args.trace)?;
    let identity = |answer: &Answer| (answer.trace_hash, answer.verdict().map(String::from));
    let first = identity(&answer);
    let mut divergent = 0;
    for _ in 1..args.times {
        let again = runner.run(bytes, false)?;
        divergent += u64::from(identity(&again) != first);
    }
    Ok(Replayed { answer, runs: args.times, divergent })
}

fn object<'a>(
    file: &'a str,
    verdict: Option<&'a str>,
    replayed: &'a Replayed,
    notes: Vec<&'a str>,
    trace: bool,
) -> Object<'a> {
    let Replayed { answer, runs, divergent } = replayed;
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
    }
}

fn print(
    name: &str,
    replayed: &Replayed,
    notes: &Vec<&str>,
    trace: bool,
    out: &Out,
) -> Result<(), super::Trouble> {
    let Replayed { answer, runs, divergent } = replayed;
    if trace {
        for line in interleaving::lay_out(&answer.events) {
            out.say(&line.styled())?;
        }
    }
    let verdict = match &answer.finding {
        None => style("no violation".into()).green(),
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
