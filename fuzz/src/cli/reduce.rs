//! `sigstorm shrink`, and what `hunt` does with a finding: [`shrink`](super::shrink) with
//! real runs to judge the candidates.

use super::display::Shrinking;
use super::input::{self, counted};
use super::origin::{self, Origin};
use super::output::Out;
use super::runner::{Answer, Runner};
use super::{Exit, Outcome, Trouble, args, files, interrupt, shrink};
use anyhow::Result;
use serde::Serialize;
use sigstorm::schedule::Schedule;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What shrinking came to.
#[derive(Debug)]
pub struct Reduced {
    /// The smallest schedule.
    pub schedule: Schedule,
    /// How many runs it took.
    pub runs: u64,
    /// It was broken off.
    pub early: bool,
}

/// Shrinks a schedule that has this verdict, until `stop` is set or for so long.
pub fn reduce(
    runner: &mut Runner,
    schedule: &Schedule,
    verdict: &str,
    stop: &AtomicBool,
    limit: Option<Duration>,
    shown: &Shrinking,
) -> Result<Reduced> {
    let begun = Instant::now();
    let before = schedule.steps.len();
    let (mut runs, mut smallest, mut early) = (0, before, false);
    let mut failure = None;
    let schedule = shrink::shrink(schedule, |candidate| {
        if stop.load(Ordering::SeqCst) || limit.is_some_and(|limit| begun.elapsed() > limit) {
            early = true;
            return ControlFlow::Break(());
        }
        runs += 1;
        match runner.run(&candidate.encode(), false) {
            Ok(answer) => {
                let same = answer.verdict() == Some(verdict);
                if same {
                    smallest = candidate.steps.len();
                }
                shown.show(before, smallest, runs);
                ControlFlow::Continue(same)
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(Reduced { schedule, runs, early }),
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    r#type: &'a str,
    command: &'a str,
    file: &'a str,
    verdict: Option<&'a str>,
    steps_before: usize,
    steps_after: usize,
    runs: u64,
    complete: bool,
    output: Option<&'a Path>,
    /// Where it is not written to a file.
    text: Option<String>,
    notes: &'a [String],
}

/// `sigstorm shrink`.
pub fn run(args: &args::Shrink, out: &Out) -> Outcome {
    let input = input::load(&args.file).map_err(Trouble::Usage)?;
    let notes = input.warn(&args.planted.defects);
    let stop = interrupt::install()?;
    let mut runner = Runner::new(&args.planted.defects);
    let Answer { finding, .. } = runner.run(&input.schedule.encode(), false)?;
    let before = input.schedule.steps.len();
    let mut summary = Summary {
        r#type: "summary",
        command: "shrink",
        file: &input.name,
        verdict: finding.as_ref().map(|finding| finding.verdict.as_str()),
        steps_before: before,
        steps_after: before,
        runs: 1,
        complete: true,
        output: None,
        text: None,
        notes: &notes,
    };
    let Some(finding) = &finding else {
        out.object(&summary)?;
        let missing = input.origin.missing(&args.planted.defects);
        let planted = match args.planted.defects.is_empty() {
            _ if !missing.is_empty() => format!(" (it was made with {} planted)", missing.join(" and ")),
            true => " (should a --defect be planted?)".to_owned(),
            false => String::new(),
        };
        return Err(Trouble::Usage(format!(
            "{}: nothing is violated, so there is nothing to shrink{planted}",
            input.name
        )));
    };

    let shown = Shrinking::new(out);
    let reduced = reduce(&mut runner, &input.schedule, &finding.verdict, stop, None, &shown);
    shown.end();
    let reduced = reduced?;
    let after = reduced.schedule.steps.len();
    summary.steps_after = after;
    summary.runs += reduced.runs;
    summary.complete = !reduced.early;

    let smallest = origin::checked(&reduced.schedule);
    let text = Origin::here(&args.planted.defects).text(&smallest);
    let destination = args.out.as_deref().filter(|path| *path != Path::new("-"));
    match destination {
        Some(path) => {
            let bytes = path.extension().is_some_and(|extension| extension == "bin");
            let content = if bytes { smallest.encode() } else { text.clone().into_bytes() };
            if let Err(error) = files::write(path, &content) {
                return Err(Trouble::Usage(format!("{error:#}; this is what it should hold:\n{text}")));
            }
            summary.output = Some(path);
        }
        None if out.json => summary.text = Some(text),
        None => out.text(&text)?,
    }
    out.remark(&format!(
        "{}: {} → {}, {}{}",
        finding.verdict,
        counted(before, "step"),
        after,
        counted(summary.runs as usize, "run"),
        if reduced.early { "; ended early" } else { "" }
    ));
    out.object(&summary)?;
    // A violation is what was asked for.
    Ok(match Exit::of_verdict(summary.verdict) {
        Exit::Violation => Exit::Clean,
        exit => exit,
    })
}
