//! The score of mutants and their tables.

use std::fmt::Write;

use comfy_table::{Table, presets};

use super::list::Mutant;
use super::trials::{Fate, Method, MutantResult};

/// How many met which fate.
#[derive(Debug, Default)]
pub struct Score {
    /// Killed by a verdict on the core.
    pub killed: usize,
    /// Ended as an error of the harness: seen, but for the wrong reason.
    pub noticed: usize,
    /// Neither killed nor survived, since nothing was run.
    pub inconclusive: usize,
    /// Survived, though they are not equivalent.
    pub survived: usize,
    /// Survived, and are equivalent.
    pub equivalent: usize,
    /// Killed, though the list says that they are equivalent.
    pub mistaken: usize,
}

impl Score {
    /// The score of these.
    pub fn of(ran: &[MutantResult]) -> Score {
        let mut score = Score::default();
        for ran in ran {
            let equivalent = ran.mutant.equivalent.is_some();
            match &ran.fate {
                Fate::Killed { .. } => {
                    score.killed += 1;
                    score.mistaken += usize::from(equivalent);
                }
                Fate::Noticed { .. } => score.noticed += 1,
                Fate::Inconclusive(_) => score.inconclusive += 1,
                Fate::Survived { .. } if equivalent => score.equivalent += 1,
                Fate::Survived { .. } => score.survived += 1,
            }
        }
        score
    }

    /// Of those that are not equivalent, how many of a hundred were killed.
    pub fn percent(&self) -> f64 {
        let all = self.killed + self.noticed + self.inconclusive + self.survived;
        if all == 0 { 0.0 } else { 100.0 * self.killed as f64 / all as f64 }
    }

    /// The score in words.
    pub fn text(&self) -> String {
        format!(
            "{} killed, {} ended as an error of the harness, {} were not run, {} survived, {} are equivalent: {:.1} % \
             of those that are not equivalent were killed",
            self.killed,
            self.noticed,
            self.inconclusive,
            self.survived,
            self.equivalent,
            self.percent()
        )
    }
}

/// The table for a terminal.
pub fn table(ran: &[MutantResult]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["", "where", "mutant", "fate"]);
    for ran in ran {
        let Mutant { number, file, .. } = &ran.mutant;
        table.add_row([number.to_string(), file.clone(), ran.mutant.change(), ran.fate_text()]);
    }
    table.to_string()
}

/// The table that is kept.
pub fn markdown(ran: &[MutantResult], score: &Score, method: &Method) -> String {
    let mut text = String::new();
    // Writing to a string never fails.
    let _ = write_report(&mut text, ran, score, method);
    text
}

fn write_report(f: &mut String, ran: &[MutantResult], score: &Score, method: &Method) -> std::fmt::Result {
    writeln!(f, "# Mutants of the core\n")?;
    let how = match &method.sweep {
        Some(_) => "each swept with the schedules of `corpus/sweep`\n\
                 up to the first violation (`sigstorm mutants --sweep`"
            .to_owned(),
        None => format!(
            "each hunted for at most {} s by one worker\nthat begins with nothing (`sigstorm mutants`",
            method.seconds
        ),
    };
    writeln!(
        f,
        "Small changes of the core's protocol code, one at a time, {how}, list in\n\
         `fuzz/mutants/core.toml`).\n\n{}.\n",
        score.text()
    )?;
    let rows = |f: &mut String,
                heading: &str,
                which: &dyn Fn(&MutantResult) -> bool,
                why: bool|
     -> std::fmt::Result {
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
    let survived = |ran: &MutantResult| matches!(ran.fate, Fate::Survived { .. });
    let equivalent = |ran: &MutantResult| ran.mutant.equivalent.is_some();
    rows(f, "Survivors", &|ran| survived(ran) && !equivalent(ran), false)?;
    rows(f, "Ended as an error of the harness", &|ran| matches!(ran.fate, Fate::Noticed { .. }), false)?;
    rows(f, "Not run", &|ran| matches!(ran.fate, Fate::Inconclusive(_)), false)?;
    rows(f, "Equivalent", &|ran| survived(ran) && equivalent(ran), true)?;
    rows(f, "Killed", &|ran| matches!(ran.fate, Fate::Killed { .. }), false)
}
