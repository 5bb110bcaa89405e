//! Reports: all that is known of a finding, and the folder that it leaves.
//!
//! A [`Report`] is the one model for findings of schedules (of hunts, engines' crashes, the museum) and of
//! storms. It names the [`cause`], so that many findings of one mistake are counted once. Writers:
//! [`text`](Report::text) for people, [`json`](Report::json) for scripts. The folder is `VERDICT-HASH/`:
//!
//! | file | |
//! |---|---|
//! | `report.txt`, `report.json` | the report |
//! | `schedule.txt`, `schedule.bin` | the shrunk schedule, in both forms (not of a storm) |
//! | `original.bin` | the schedule as it was found (not of a storm) |
//!
//! A probe's has `probe.json` in their place: the injection.
//!
//! Beside reports there are the summaries of campaigns ([`hunt`], [`storm_summary`], [`summary`]), and
//! what both print: [`interleaving`] lays out a trace, [`passed_over`] adds the steps without an effect,
//! [`inconclusive`] says why a run has no answer.

pub mod cause;
pub mod hunt;
pub mod inconclusive;
pub mod interleaving;
mod json;
pub mod passed_over;
pub mod probe;
pub mod storm_summary;
pub mod summary;
mod text;
pub mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sigstorm_runtime::Defect;

pub use cause::Cause;
pub use inconclusive::Inconclusive;
pub use probe::FoundProbe;

use crate::campaign::storm::Blown;
use crate::files::{self, origin};
use crate::outcome::{Event, Finding};
use crate::schedule::Schedule;
use crate::storm::StormOptions;
use words::{hash, quoted};

/// All that is known of a finding.
#[derive(Debug)]
pub struct Report {
    /// The violation, as the shrunk schedule shows it.
    pub finding: Finding,
    /// Where it was found.
    pub source: Source,
    /// The defects that were planted.
    pub defects: Vec<Defect>,
    /// Where the random choices began.
    pub seed: u64,
    /// How many seconds it took to find.
    pub seconds: f64,
    /// Notes for people.
    pub notes: Vec<String>,
}

/// Where a finding comes from.
#[derive(Debug)]
pub enum Source {
    /// A schedule, which shows it again.
    Schedule(Box<FoundSchedule>),
    /// A storm, of which another may show it again.
    Storm(Box<FoundStorm>),
    /// A probe of another program, whose injection shows it again.
    Probe(Box<FoundProbe>),
}

/// The schedule that shows a finding.
#[derive(Debug)]
pub struct FoundSchedule {
    /// The schedule, shrunk if it could be.
    pub schedule: Schedule,
    /// Whether it was; an error of the harness is kept as it was met.
    pub shrunk: bool,
    /// The schedule as it was found.
    pub original: Vec<u8>,
    /// The events of the shrunk schedule's run; none where the run killed its process.
    pub events: Vec<Event>,
    /// How many schedules were run until it was found; none where another engine found it.
    pub schedules: u64,
}

/// The storm that has a finding.
#[derive(Debug)]
pub struct FoundStorm {
    /// The storm's options.
    pub options: StormOptions,
    /// Its counts.
    pub blown: Blown,
}

impl FoundSchedule {
    /// A schedule that has just been found, after so many.
    pub fn found(bytes: &[u8], schedules: u64) -> FoundSchedule {
        let schedule = origin::checked(&Schedule::decode(bytes));
        FoundSchedule { original: schedule.encode(), schedule, shrunk: false, events: Vec::new(), schedules }
    }

    /// How many steps it had when it was found.
    pub fn steps_before(&self) -> usize {
        Schedule::decode(&self.original).steps.len()
    }
}

impl Report {
    /// The schedule that shows the finding; none of a storm.
    pub fn schedule(&self) -> Option<&FoundSchedule> {
        match &self.source {
            Source::Schedule(source) => Some(source),
            Source::Storm(_) | Source::Probe(_) => None,
        }
    }

    /// The key of its cause.
    pub fn cause(&self) -> String {
        match &self.source {
            Source::Probe(source) => source.group.first.cause(),
            _ => Cause::of(&self.finding, self.schedule()).to_string(),
        }
    }

    /// The name of its folder: the same finding, shrunk to the same schedule, has the same, and so has
    /// the same storm with the same finding.
    pub fn id(&self) -> String {
        let verdict = &self.finding.verdict;
        match &self.source {
            Source::Schedule(source) => format!("{verdict}-{:08x}", hash(&source.schedule.encode())),
            Source::Storm(source) => {
                let again = self.storm_again(source);
                let bytes = format!("{} {} {again}", self.seed, self.finding.summary);
                format!("{verdict}-storm-{:08x}", hash(bytes.as_bytes()))
            }
            Source::Probe(source) => {
                let program = &source.replay.program;
                format!("{verdict}-{:08x}", hash(format!("{program} {}", self.cause()).as_bytes()))
            }
        }
    }

    /// Its folder.
    pub fn folder(&self, reports: &Path) -> PathBuf {
        reports.join(self.id())
    }

    /// The command that shows the violation again, to be pasted. It replays a schedule; of a storm it blows
    /// another with the same seed.
    pub fn again(&self, reports: &Path) -> String {
        match &self.source {
            Source::Schedule(_) => {
                let file = self.folder(reports).join("schedule.txt");
                let replay = format!("cargo run --release -- replay {}", quoted(&file.to_string_lossy()));
                format!("{replay}{}", self.options())
            }
            Source::Storm(source) => self.storm_again(source),
            Source::Probe(_) => {
                let file = self.folder(reports).join("probe.json");
                format!("cargo run --release -- probe --replay {}", quoted(&file.to_string_lossy()))
            }
        }
    }

    fn storm_again(&self, source: &FoundStorm) -> String {
        let StormOptions { threads, rate, clock, delay, seed, seconds, .. } = &source.options;
        let seconds = seconds.unwrap_or_else(|| (self.seconds * 4.0) as u64 + 10);
        format!(
            "cargo run --release -- storm --seconds {seconds} --threads {threads} --rate {rate} --clock {} \
             --delay {delay} --seed {seed}{}",
            clock.name(),
            self.options()
        )
    }

    /// The options that plant its defects.
    fn options(&self) -> String {
        self.defects.iter().map(|defect| format!(" --defect {defect}")).collect()
    }

    fn defect_names(&self) -> Vec<&'static str> {
        self.defects.iter().map(|defect| defect.name()).collect()
    }

    /// Writes its folder. An earlier report of the same finding is overwritten.
    ///
    /// # Errors
    /// As for making the folder and writing its files.
    pub fn write(&self, reports: &Path) -> Result<PathBuf> {
        let folder = self.folder(reports);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let json = self.json(reports)?;
        // The schedule goes first, in case there is no room for all.
        if let Source::Schedule(source) = &self.source {
            let text = self.schedule_text(source, reports);
            files::write(&folder.join("schedule.txt"), text.as_bytes())?;
            files::write(&folder.join("schedule.bin"), &source.schedule.encode())?;
            files::write(&folder.join("original.bin"), &source.original)?;
        }
        if let Source::Probe(source) = &self.source {
            let mut replay = serde_json::to_vec_pretty(&source.replay).context("cannot express the probe")?;
            replay.push(b'\n');
            files::write(&folder.join("probe.json"), &replay)?;
        }
        files::write(&folder.join("report.txt"), self.text(reports).as_bytes())?;
        files::write(&folder.join("report.json"), &json)?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests;
