//! `sigstorm shrink`: the smallest schedule with the same verdict.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sigstorm::files::origin::{self, Origin};
use sigstorm::files::{self, input};
use sigstorm::process::{Answer, Runner};
use sigstorm::report::words::{counted, lossy_path};
use sigstorm::shrink::shrink_in;

use super::args::Planted;
use super::display::ShrinkingBar;
use super::output::{Out, warn};
use super::{Exit, Outcome, Trouble, interrupt};

/// `shrink`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sigstorm shrink reports/fault-1a2b3c4d/original.bin --defect remove-unlocked
  sigstorm shrink crash-3fa9 -o small.bin

Ctrl-C ends it early, with the smallest so far.
Exit status: 0 shrunk; 2 FILE cannot be read or violates nothing; 3 harness error.")]
pub struct Shrink {
    /// A schedule, as text or as bytes; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where it goes, as bytes if this ends in `.bin`, else as text [default: standard output]
    #[arg(short, long = "out", value_name = "OUT")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub planted: Planted,
}

#[derive(Serialize)]
struct ShrinkSummary<'a> {
    r#type: &'a str,
    command: &'a str,
    file: &'a str,
    verdict: Option<&'a str>,
    steps_before: usize,
    steps_after: usize,
    runs: u64,
    complete: bool,
    #[serde(serialize_with = "lossy_path")]
    output: Option<&'a Path>,
    /// Where it is not written to a file.
    text: Option<String>,
    notes: &'a [String],
}

/// `sigstorm shrink`.
pub fn run(args: &Shrink, out: &Out) -> Outcome {
    let input = input::load(&args.file).map_err(Trouble::Usage)?;
    let notes = warn(&input, &args.planted.defects);
    let stop = interrupt::install()?;
    let mut runner = Runner::new(&args.planted.defects);
    let Answer { finding, .. } = runner.run(&input.schedule.encode(), false)?;
    let before = input.schedule.steps.len();
    let mut summary = ShrinkSummary {
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

    let bar = ShrinkingBar::new(out);
    let watch = &mut |progress| bar.show(progress);
    let shrunk = shrink_in(&mut runner, &input.schedule, &finding.verdict, stop, None, watch);
    bar.end();
    let shrunk = shrunk?;
    let after = shrunk.schedule.steps.len();
    summary.steps_after = after;
    summary.runs += shrunk.runs;
    summary.complete = !shrunk.early;

    let smallest = origin::checked(&shrunk.schedule);
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
        if shrunk.early { "; ended early" } else { "" }
    ));
    out.object(&summary)?;
    // A violation is what was asked for.
    Ok(match Exit::of_verdict(summary.verdict) {
        Exit::Violation => Exit::Clean,
        exit => exit,
    })
}
