//! A report's texts: `report.txt`, to be read from the top, and `schedule.txt`.

use super::interleaving::{self, one_line};
use super::origin::Origin;
use super::report::Report;
use std::fmt::{self, Write};
use std::path::Path;

impl Report {
    /// The shrunk schedule, with what it is for in comments.
    pub fn schedule_text(&self, reports: &Path) -> String {
        let text = Origin::here(&self.defects).text(&self.schedule);
        // The first line says that it is a schedule: nothing may come before it.
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let verdict = one_line(&format!("{}: {}", self.finding.verdict, self.finding.summary));
        format!("{first}\n# {verdict}\n# {}\n{rest}", one_line(&self.replay(reports)))
    }

    /// The report for people.
    pub fn text(&self, reports: &Path) -> String {
        let mut text = String::new();
        // A string takes whatever is written.
        let _ = self.write_text(&mut text, reports);
        text
    }

    fn write_text(&self, f: &mut String, reports: &Path) -> fmt::Result {
        let finding = &self.finding;
        let title = format!("{}: {}", finding.verdict, one_line(&finding.summary));
        writeln!(f, "{title}\n{}\n", "=".repeat(title.chars().count().min(100)))?;
        let names: Vec<_> = self.defects.iter().map(|defect| defect.name()).collect();
        let planted = if names.is_empty() { "nothing".into() } else { names.join(", ") };
        writeln!(f, "Planted:  {planted}")?;
        // What was collected was found by another engine.
        if self.schedules > 0 {
            writeln!(
                f,
                "Found:    after {:.1} s and {} schedules, from seed {}",
                self.seconds, self.schedules, self.seed
            )?;
        }
        let before = self.steps_before();
        if self.shrunk {
            writeln!(f, "Shrunk:   {} steps, from {before}", self.schedule.steps.len())?;
        } else {
            writeln!(f, "Steps:    {before}, not shrunk")?;
        }
        writeln!(f, "Again:    {}", self.replay(reports))?;
        for note in &self.notes {
            writeln!(f, "Note:     {note}")?;
        }

        let section = |f: &mut String, heading: &str, lines: &[String]| {
            if lines.is_empty() {
                return Ok(());
            }
            writeln!(f, "\n{heading}\n{}", "-".repeat(heading.len()))?;
            lines.iter().try_for_each(|line| writeln!(f, "{line}"))
        };
        section(f, "What was wrong", &finding.evidence)?;
        let schedule: Vec<_> = self.schedule.to_text().lines().map(String::from).collect();
        section(f, "The schedule", &schedule)?;
        let mut events: Vec<_> =
            interleaving::lay_out(&self.events).iter().map(|line| line.plain()).collect();
        if events.is_empty() {
            events.push("The run ended its process, so there is no trace of it.".into());
        }
        section(f, "What happened, thread by thread", &events)?;
        section(f, "The stacks at that moment", &finding.dump)
    }
}
