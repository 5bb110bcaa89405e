//! One worker of a hunt, as its parent holds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::hunt::{HuntPlan, Mark, Marks};
use crate::process::counters::{DETECTED, REACHED, TRIGGERED, WORDS, Words};
use crate::process::{Child, Found, Task, current};

/// A worker's process.
#[derive(Debug)]
pub(super) struct HuntWorker {
    pub(super) child: Child,
    dir: PathBuf,
    /// The words that it shares, as they were at the last look.
    pub(super) words: Words,
    /// When they changed last.
    pub(super) moved: Instant,
}

impl HuntWorker {
    pub(super) fn start(plan: &HuntPlan, index: usize, dir: &Path) -> Result<HuntWorker> {
        let cannot = || format!("cannot prepare a worker in {}", dir.display());
        fs::create_dir(dir).with_context(cannot)?;
        current::create(&dir.join("current")).with_context(cannot)?;
        let task = Task::Worker(plan.options(index, dir.to_owned()));
        let child = Child::start(plan.program.as_deref(), &task, |command| {
            command.envs(plan.environment.iter().cloned());
        })?;
        Ok(HuntWorker { child, dir: dir.to_owned(), words: [0; WORDS], moved: Instant::now() })
    }

    pub(super) fn runs(&self) -> bool {
        self.child.runs()
    }

    /// The finding with which it has ended, if it has just ended with one.
    pub(super) fn glance(&mut self) -> Result<Option<Found>> {
        let status = self.child.ended()?;
        Ok(status.and_then(|status| self.child.finding(status, || Some(self.current()))))
    }

    /// Reads its counts.
    pub(super) fn look(&mut self, now: Instant, paused: bool) -> Result<()> {
        let words = self.child.words()?;
        if self.runs() {
            self.child.pace.look(now);
        }
        if words != self.words || paused {
            self.moved = now;
            self.child.pace.moves();
        }
        self.words = words;
        Ok(())
    }

    /// When its first defect was reached and triggered, and anything detected.
    pub(super) fn marks(&self) -> Marks {
        let mark = |word: usize| {
            let (schedules, micros) = (self.words[word], self.words[word + 1]);
            (schedules != 0).then(|| Mark { schedules, seconds: micros as f64 / 1e6 })
        };
        Marks { reached: mark(REACHED), triggered: mark(TRIGGERED), detected: mark(DETECTED) }
    }

    /// Ends it, since it has stood still for so long: an error of the harness.
    pub(super) fn hanging(&mut self, still: Duration) -> Found {
        self.stop();
        let summary = format!("a worker did not get on for {} s", still.as_secs());
        Found { finding: self.child.harness_error(summary), bytes: self.current() }
    }

    /// The schedule that it was running; empty if it was running none.
    fn current(&self) -> Vec<u8> {
        current::read(&self.dir.join("current"))
    }

    pub(super) fn stop(&mut self) {
        self.child.stop();
    }
}
