//! What is left of a storm's finding: a folder with a text to read and the same for scripts.

use super::super::files;
use super::super::interleaving::one_line;
use super::super::report::{hash, quoted};
use super::parent::{Blown, Plan};
use super::summary::Summary;
use anyhow::{Context, Result};
use serde::Serialize;
use sigstorm::outcome::Finding;
use std::env;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

/// All that is known of a finding.
#[derive(Debug)]
pub struct Report<'a> {
    /// The violation.
    pub finding: &'a Finding,
    /// What the storm was told.
    pub plan: &'a Plan,
    /// What it came to.
    pub blown: &'a Blown,
}

#[derive(Serialize)]
struct Json<'a> {
    sigstorm: &'static str,
    kind: &'static str,
    verdict: &'a str,
    summary: &'a str,
    evidence: &'a [String],
    dump: &'a [String],
    defects: Vec<&'static str>,
    command_line: String,
    again: String,
    storm: Summary<'a>,
}

impl Report<'_> {
    /// Its name. The same storm with the same outcome has the same.
    fn id(&self) -> String {
        let bytes = format!("{} {} {}", self.plan.seed, self.finding.summary, self.again());
        format!("{}-storm-{:08x}", self.finding.verdict, hash(bytes.as_bytes()))
    }

    /// The command that blows again with the same seed.
    pub fn again(&self) -> String {
        let plan = self.plan;
        let seconds = plan.seconds.unwrap_or_else(|| (self.blown.seconds * 4.0) as u64 + 10);
        let mut command = format!(
            "cargo run --release -- storm --seconds {seconds} --threads {} --rate {} --clock {} --delay {} --seed {}",
            plan.threads,
            plan.rate,
            plan.clock.name(),
            plan.delay,
            plan.seed
        );
        for defect in &plan.defects {
            command += &format!(" --defect {defect}");
        }
        command
    }

    /// Writes all of it; what an earlier report of the same left there is overwritten.
    pub fn write(&self, reports: &Path) -> Result<PathBuf> {
        let folder = reports.join(self.id());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let Finding { verdict, summary, evidence, dump, .. } = self.finding;
        let json = Json {
            sigstorm: env!("CARGO_PKG_VERSION"),
            kind: "storm",
            verdict,
            summary,
            evidence,
            dump,
            defects: self.plan.defects.iter().map(|defect| defect.name()).collect(),
            command_line: env::args().map(|word| quoted(&word)).collect::<Vec<_>>().join(" "),
            again: self.again(),
            storm: Summary::new(self.plan, self.blown, Some(verdict), None, None),
        };
        let mut json = serde_json::to_vec_pretty(&json).context("cannot express the report")?;
        json.push(b'\n');
        files::write(&folder.join("report.txt"), self.text().as_bytes())?;
        files::write(&folder.join("report.json"), &json)?;
        Ok(folder)
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A string takes whatever is written.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, f: &mut String) -> fmt::Result {
        let (finding, plan, blown) = (self.finding, self.plan, self.blown);
        let title = format!("{}: {}", finding.verdict, one_line(&finding.summary));
        writeln!(f, "{title}\n{}\n", "=".repeat(title.chars().count().min(100)))?;
        let names: Vec<_> = plan.defects.iter().map(|defect| defect.name()).collect();
        writeln!(f, "Planted:  {}", if names.is_empty() { "nothing".into() } else { names.join(", ") })?;
        writeln!(
            f,
            "Found:    in a storm, after {:.1} s and {} signals",
            blown.seconds, blown.counts.signals
        )?;
        writeln!(f, "Again:    {}", self.again())?;
        writeln!(
            f,
            "Note:     threads ran in parallel, so there is no schedule to replay: the seed gives the"
        )?;
        writeln!(f, "          same work, not the same meetings. `hunt` may find a small reproducer.")?;
        for (heading, lines) in
            [("What was wrong", &finding.evidence), ("The stacks at that moment", &finding.dump)]
        {
            if !lines.is_empty() {
                writeln!(f, "\n{heading}\n{}", "-".repeat(heading.len()))?;
                lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
            }
        }
        writeln!(f, "\nWhat the storm did\n------------------\n{}", super::summary::table(plan, blown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::storm::summary::tests::{blown, plan};

    #[test]
    fn everything_is_there_and_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (plan, mut blown) = (plan(), blown());
        blown.finding = Some(Finding {
            verdict: "deadlock".into(),
            summary: "m1 waits\nfor itself".into(),
            evidence: vec!["m1 in its handler".into()],
            dump: vec!["g1: running".into()],
            step: 0,
        });
        let report = Report { finding: blown.finding.as_ref().unwrap(), plan: &plan, blown: &blown };
        let folder = report.write(dir.path()).unwrap();
        assert_eq!(folder, report.write(dir.path()).unwrap());
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("deadlock-storm-"), "{name}");
        let text = std::fs::read_to_string(folder.join("report.txt")).unwrap();
        for part in
            ["m1 in its handler", "g1: running", "--seed 7", "--delay 0.001:100", "no schedule to replay"]
        {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap();
        assert_eq!((&json["kind"], &json["verdict"]), (&"storm".into(), &"deadlock".into()));
        assert_eq!(json["storm"]["signals"], 1000);
    }
}
