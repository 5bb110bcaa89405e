//! A child that sweeps schedules in a mutant: `sigstorm sweeper`.
//!
//! It counts its runs where a worker counts schedules, and leaves the first violation as its finding. Its runs
//! have no folder and no files: [`sweep`](crate::sweep::run) does them in a runner of this same build.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::files::input;
use crate::outcome::{Counts, Finding};
use crate::process::{Runner, Status, SweeperOptions, mailbox};
use crate::sweep::run::{SweepOptions, SweepRun, SweepViolation, SweepWatch};

/// Sweeps until the first violation.
pub(crate) fn run(options: &SweeperOptions) -> Status {
    match sweep(options) {
        Ok(None) => Status::Done,
        Ok(Some((bytes, finding))) => {
            mailbox::leave(&options.dir, &bytes, &finding);
            if finding.is_harness_error() { Status::Broken } else { Status::Found }
        }
        Err(error) => {
            let finding = Finding::harness_error(format!("{error:#}"));
            mailbox::leave(&options.dir, &[], &finding);
            Status::Broken
        }
    }
}

/// The first violation, and the schedule that shows it.
#[derive(Default)]
struct First(Option<(Vec<u8>, Finding)>);

impl SweepWatch for First {
    type Error = anyhow::Error;

    fn begin(&mut self, _: &str, _: usize) {}

    fn show(&mut self, _: usize, _: String) {}

    fn violation(&mut self, violation: &SweepViolation<'_>) -> Result<()> {
        let found = || (violation.schedule.encode(), violation.finding.clone());
        self.0.get_or_insert_with(found);
        Ok(())
    }
}

fn sweep(options: &SweeperOptions) -> Result<Option<(Vec<u8>, Finding)>> {
    let stats = mailbox::map(&options.dir).context("sharing counts")?;
    let runners = vec![Runner::new(&options.defects).on_core(options.core)];
    let mut sweep = SweepRun::new(
        SweepOptions { pairs: false, first: true, planted: !options.defects.is_empty() },
        runners,
    )?;
    let mut first = First::default();
    for file in files(&options.schedules)? {
        let input = input::load(&file).map_err(anyhow::Error::msg)?;
        sweep.file(&input.name, input.schedule, &mut first)?;
        // Runs that disturbed nothing say nothing of the mutant.
        let runs = sweep.inconclusive().map_or(sweep.totals().runs, |_| 0);
        let counts = Counts { schedules: runs, ..Counts::default() };
        for (word, &value) in counts.words().iter().enumerate() {
            stats.set(word, value);
        }
        if first.0.is_some() {
            break;
        }
    }
    Ok(first.0)
}

/// The files in a folder, in the order of their names.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut files = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    files.sort();
    Ok(files)
}
