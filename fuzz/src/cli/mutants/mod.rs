//! `sigstorm mutants`: does the harness notice small changes of the core?
//!
//! Hidden: a tool for those who work on the oracles. [`list`] reads `fuzz/mutants/core.toml`,
//! where each mutant is a piece of the core's text and what stands there instead. The code
//! of the core stays as it is: [`scratch`] writes a copy of the workspace in which every such
//! piece became a choice at run time, so that one build serves nearly all of them; what is
//! no expression or statement of Rust, such as a line of assembly, is built by itself.
//! [`hunts`] hunts each mutant. One that is not found is either equivalent, and the list says
//! why, or something that the oracles do not see.

mod hunts;
mod list;
mod scratch;

use super::args;
use super::output::{Out, complain};
use super::{Exit, Outcome, Trouble, files, interrupt};
use anyhow::Context;
use comfy_table::{Table, presets};
use hunts::{Fate, Ran};
use list::Mutant;
use serde_json::json;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// `sigstorm mutants`.
pub fn run(args: &args::Mutants, out: &Out) -> Outcome {
    let root = env::current_dir().context("where is this?")?;
    let file = root.join("fuzz/mutants/core.toml");
    let text = fs::read_to_string(&file).map_err(|error| {
        Trouble::Usage(format!("{}: {error}; run this in the repository", file.display()))
    })?;
    let mutants =
        list::parse(&text).map_err(|error| Trouble::Usage(format!("{}: {error}", file.display())))?;
    let wanted = |mutant: &&Mutant| args.only.is_empty() || args.only.contains(&mutant.number);
    let mutants: Vec<Mutant> = mutants.iter().filter(wanted).cloned().collect();
    let batches = scratch::batches(&root, &mutants).map_err(|error| Trouble::Usage(format!("{error:#}")))?;
    out.remark(&format!("{} mutants in {} builds", mutants.len(), batches.len()));
    if args.check {
        out.object(&json!({"type": "summary", "command": "mutants", "mutants": mutants.len(), "builds": batches.len()}))?;
        return Ok(Exit::Clean);
    }

    let stop = interrupt::install()?;
    let ran = hunts::run(args, &root, &batches, stop, out)?;
    let score = Score::of(&ran);
    out.say(&table(&ran))?;
    out.say(&score.text())?;
    if let Some(path) = &args.report {
        let written = files::write(path, report(&ran, &score, args).as_bytes());
        if let Err(error) = written {
            complain(&format!("error: {error:#}"));
        }
    }
    out.object(&json!({
        "type": "summary",
        "command": "mutants",
        "mutants": ran.len(),
        "complete": ran.len() == mutants.len(),
        "killed": score.killed,
        "noticed": score.noticed,
        "survived": score.survived,
        "equivalent": score.equivalent,
        "mistaken": score.mistaken,
        "score": score.percent(),
        "seconds_each": args.seconds,
    }))?;
    // A mutant that survives is no violation of the core's, but there is work to do.
    Ok(if score.survived + score.mistaken == 0 && ran.len() == mutants.len() {
        Exit::Clean
    } else {
        Exit::Violation
    })
}

/// How many met which fate.
#[derive(Debug, Default)]
struct Score {
    killed: usize,
    /// Ended as an error of the harness: seen, but for the wrong reason.
    noticed: usize,
    survived: usize,
    equivalent: usize,
    /// Killed, though the list says that they are equivalent.
    mistaken: usize,
}

impl Score {
    fn of(ran: &[Ran]) -> Score {
        let mut score = Score::default();
        for ran in ran {
            let equivalent = ran.mutant.equivalent.is_some();
            match &ran.fate {
                Fate::Killed { .. } => {
                    score.killed += 1;
                    score.mistaken += usize::from(equivalent);
                }
                Fate::Noticed { .. } => score.noticed += 1,
                Fate::Survived { .. } if equivalent => score.equivalent += 1,
                Fate::Survived { .. } => score.survived += 1,
            }
        }
        score
    }

    /// Of those that are not equivalent, how many of a hundred were killed.
    fn percent(&self) -> f64 {
        let all = self.killed + self.noticed + self.survived;
        if all == 0 { 0.0 } else { 100.0 * self.killed as f64 / all as f64 }
    }

    fn text(&self) -> String {
        format!(
            "{} killed, {} ended as an error of the harness, {} survived, {} are equivalent: {:.1} % of those that \
             are not equivalent were killed",
            self.killed,
            self.noticed,
            self.survived,
            self.equivalent,
            self.percent()
        )
    }
}

fn table(ran: &[Ran]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["", "where", "mutant", "fate"]);
    for ran in ran {
        let Mutant { number, file, .. } = &ran.mutant;
        table.add_row([number.to_string(), file.clone(), ran.mutant.change(), ran.fate_text()]);
    }
    table.to_string()
}

/// The kept table.
fn report(ran: &[Ran], score: &Score, args: &args::Mutants) -> String {
    let mut text = String::new();
    // A string takes whatever is written.
    let _ = write_report(&mut text, ran, score, args);
    text
}

fn write_report(f: &mut String, ran: &[Ran], score: &Score, args: &args::Mutants) -> std::fmt::Result {
    writeln!(f, "# Mutants of the core\n")?;
    let how = match args.sweep {
        true => "each swept with the schedules of `corpus/sweep`\n\
                 up to the first violation (`sigstorm mutants --sweep`"
            .to_owned(),
        false => format!(
            "each hunted for at most {} s by one worker\nthat begins with nothing (`sigstorm mutants`",
            args.seconds
        ),
    };
    writeln!(
        f,
        "Small changes of the core's protocol code, one at a time, {how}, list in\n\
         `fuzz/mutants/core.toml`).\n\n{}.\n",
        score.text()
    )?;
    let rows = |f: &mut String, heading: &str, which: &dyn Fn(&Ran) -> bool, why: bool| -> std::fmt::Result {
        let rows: Vec<_> = ran.iter().filter(|ran| which(ran)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "## {heading}\n\n| | where | mutant | {} |\n|--:|---|---|---|",
            if why { "why" } else { "fate" }
        )?;
        for ran in rows {
            let change = ran.mutant.change().replace('|', "\\|");
            let last = if why { ran.mutant.equivalent.clone().unwrap_or_default() } else { ran.fate_text() };
            writeln!(f, "| {} | {} | {change} | {last} |", ran.mutant.number, ran.mutant.place())?;
        }
        writeln!(f)
    };
    let survived = |ran: &Ran| matches!(ran.fate, Fate::Survived { .. });
    let equivalent = |ran: &Ran| ran.mutant.equivalent.is_some();
    rows(f, "Survivors", &|ran| survived(ran) && !equivalent(ran), false)?;
    rows(f, "Ended as an error of the harness", &|ran| matches!(ran.fate, Fate::Noticed { .. }), false)?;
    rows(f, "Equivalent", &|ran| survived(ran) && equivalent(ran), true)?;
    rows(f, "Killed", &|ran| matches!(ran.fate, Fate::Killed { .. }), false)
}

/// The core's sources, from the repository's root.
fn sources(root: &Path) -> std::path::PathBuf {
    root.join("runtime/src")
}
