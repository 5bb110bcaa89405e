//! Findings on the terminal, and their reports.

use std::path::{Path, PathBuf};

use console::{StyledObject, style};
use sigstorm::report::probe::{confidence, site_line};
use sigstorm::report::words::counted;
use sigstorm::report::{Report, Source};

use super::Trouble;
use super::output::{Out, complain};

/// Writes the report; if that fails, the schedule, or the report of a storm, is printed, so that it is not lost.
pub fn keep(report: &Report, reports: &Path) -> Option<PathBuf> {
    match report.write(reports) {
        Ok(folder) => Some(folder),
        Err(error) => {
            let (name, text) = match &report.source {
                Source::Schedule(source) => ("schedule", report.schedule_text(source, reports)),
                Source::Storm(_) | Source::Probe(_) => ("report", report.text(reports)),
            };
            complain(&format!("error: {error:#}; this is the {name}:\n{text}"));
            None
        }
    }
}

/// The words for a run without a finding; `noted` where a note about the run was printed.
pub fn no_violation(noted: bool) -> StyledObject<String> {
    match noted {
        true => style("no violation, but see the notes".to_owned()).yellow(),
        false => style("no violation".to_owned()).green(),
    }
}

/// Prints a finding, and where its report is.
pub fn tell(report: &Report, written: Option<&Path>, reports: &Path, out: &Out) -> Result<(), Trouble> {
    let headline = format!("{}: {}", report.finding.verdict, report.finding.summary);
    out.say(&style(headline).red().bold().to_string())?;
    for line in &report.finding.evidence {
        out.say(&format!("    {line}"))?;
    }
    for note in &report.notes {
        out.say(&format!("note:   {note}"))?;
    }
    let found = format!("found after {:.1} s", report.seconds);
    match &report.source {
        Source::Storm(_) => out.say(&found)?,
        Source::Probe(source) => {
            if let Some(site) = &source.group.first.site {
                out.say(&format!("at      {}", site_line(site)))?;
            }
            let more = source.group.sites.len().saturating_sub(1);
            let more = match more {
                0 => String::new(),
                1 => "; at one more boundary".to_owned(),
                more => format!("; at {more} more boundaries"),
            };
            out.say(&format!("{found}; {}{more}", confidence(&source.group)))?;
        }
        Source::Schedule(source) => {
            let (before, after) = (counted(source.steps_before(), "step"), source.schedule.steps.len());
            let shrunk = if source.shrunk { format!("shrunk from {before} to {after}") } else { before };
            // Another engine does not say when it found its crash.
            let found = if source.schedules > 0 { format!("{found}; ") } else { String::new() };
            out.say(&format!("{found}{shrunk}"))?;
        }
    }
    if let Some(folder) = written {
        out.say(&format!("report: {}", folder.join("report.txt").display()))?;
    }
    let again = report.again(reports);
    match &report.source {
        Source::Storm(_) => {
            out.say(&format!("again:  {again}   (another storm: what met what is up to the machine)"))
        }
        Source::Schedule(_) | Source::Probe(_) if written.is_some() => out.say(&format!("replay: {again}")),
        Source::Schedule(_) | Source::Probe(_) => Ok(()),
    }
}
