//! A report's texts: `report.txt`, to be read from the top, and `schedule.txt`.

use std::fmt::{self, Write};
use std::path::Path;

use super::words::{one_line, quoted};
use super::{FoundProbe, FoundSchedule, FoundStorm, Report, Source, interleaving, probe, storm_summary};
use crate::files::origin::Origin;

impl Report {
    /// The shrunk schedule, with comments that name the finding and the command that shows it again.
    pub fn schedule_text(&self, source: &FoundSchedule, reports: &Path) -> String {
        let text = Origin::here(&self.defects).text(&source.schedule);
        // The first line says that it is a schedule: nothing may come before it.
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let verdict = one_line(&format!("{}: {}", self.finding.verdict, self.finding.summary));
        format!("{first}\n# {verdict}\n# {}\n{rest}", one_line(&self.again(reports)))
    }

    /// The report for people.
    pub fn text(&self, reports: &Path) -> String {
        let mut text = String::new();
        // Writing to a string never fails.
        let _ = self.write_text(&mut text, reports);
        text
    }

    fn write_text(&self, f: &mut String, reports: &Path) -> fmt::Result {
        let finding = &self.finding;
        let title = format!("{}: {}", finding.verdict, one_line(&finding.summary));
        writeln!(f, "{title}\n{}\n", "=".repeat(title.chars().count().min(100)))?;
        if !matches!(self.source, Source::Probe(_)) {
            let names = self.defect_names();
            let planted = if names.is_empty() { "nothing".into() } else { names.join(", ") };
            writeln!(f, "Planted:  {planted}")?;
        }
        match &self.source {
            Source::Probe(source) => self.write_probed(f, source)?,
            Source::Schedule(source) => self.write_found(f, source)?,
            Source::Storm(source) => {
                let signals = source.blown.counts.signals;
                writeln!(f, "Found:    in a storm, after {:.1} s and {signals} signals", self.seconds)?;
            }
        }
        writeln!(f, "Cause:    {}", self.cause())?;
        writeln!(f, "Again:    {}", self.again(reports))?;
        for note in &self.notes {
            writeln!(f, "Note:     {note}")?;
        }
        match &self.source {
            Source::Schedule(source) => self.write_schedule(f, source),
            Source::Storm(source) => self.write_storm(f, source),
            Source::Probe(source) => {
                section(f, "What was wrong", &self.finding.evidence)?;
                section(f, "The stacks at that moment", &self.finding.dump)?;
                let sites: Vec<String> = source.group.sites.iter().map(probe::site_line).collect();
                section(f, "The boundaries at which it was found", &sites)
            }
        }
    }

    fn write_probed(&self, f: &mut String, source: &FoundProbe) -> fmt::Result {
        let (replay, group) = (&source.replay, &source.group);
        let program = std::iter::once(&replay.program).chain(&replay.args).map(|word| quoted(word));
        writeln!(f, "Program:  {}", program.collect::<Vec<_>>().join(" "))?;
        writeln!(f, "Signal:   {}, delivered {}", replay.signal, replay.deliver)?;
        if let Some(site) = &group.first.site {
            writeln!(f, "Where:    {}", probe::site_line(site))?;
        }
        writeln!(f, "Found:    after {:.1} s; {}", self.seconds, probe::confidence(group))
    }

    fn write_found(&self, f: &mut String, source: &FoundSchedule) -> fmt::Result {
        // Another engine does not say how many schedules it ran.
        if source.schedules > 0 {
            writeln!(
                f,
                "Found:    after {:.1} s and {} schedules, from seed {}",
                self.seconds, source.schedules, self.seed
            )?;
        }
        let before = source.steps_before();
        match source.shrunk {
            true => writeln!(f, "Shrunk:   {} steps, from {before}", source.schedule.steps.len()),
            false => writeln!(f, "Steps:    {before}, not shrunk"),
        }
    }

    fn write_schedule(&self, f: &mut String, source: &FoundSchedule) -> fmt::Result {
        section(f, "What was wrong", &self.finding.evidence)?;
        let schedule: Vec<_> = source.schedule.to_text().lines().map(String::from).collect();
        section(f, "The schedule", &schedule)?;
        let mut events: Vec<_> =
            interleaving::lay_out(&source.events).iter().map(|line| line.plain()).collect();
        if events.is_empty() {
            events.push("The run ended its process, so there is no trace of it.".into());
        }
        section(f, "What happened, thread by thread", &events)?;
        section(f, "The stacks at that moment", &self.finding.dump)
    }

    fn write_storm(&self, f: &mut String, source: &FoundStorm) -> fmt::Result {
        writeln!(
            f,
            "Note:     threads ran in parallel, so there is no schedule to replay: the seed gives the"
        )?;
        writeln!(f, "          same work, not the same meetings. `hunt` may find a small reproducer.")?;
        section(f, "What was wrong", &self.finding.evidence)?;
        section(f, "The stacks at that moment", &self.finding.dump)?;
        let table = storm_summary::table(&source.options, &source.blown);
        section(f, "What the storm did", &[table])
    }
}

/// Lines under a heading; nothing for no lines.
fn section(f: &mut String, heading: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{heading}\n{}", "-".repeat(heading.len()))?;
    lines.iter().try_for_each(|line| writeln!(f, "{line}"))
}
