//! Shrinking with real runs: a candidate will do where its run has the same verdict.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::shrink;
use crate::process::Runner;
use crate::schedule::Schedule;

/// The result of shrinking.
#[derive(Debug)]
pub struct Shrunk {
    /// The smallest schedule.
    pub schedule: Schedule,
    /// How many runs it took.
    pub runs: u64,
    /// Whether it was ended early, by `stop` or by its limit.
    pub early: bool,
}

/// The progress of shrinking.
#[derive(Clone, Copy, Debug)]
pub struct Shrinking {
    /// Steps of the schedule to shrink.
    pub before: usize,
    /// Steps of the smallest so far.
    pub smallest: usize,
    /// Runs so far.
    pub runs: u64,
}

/// Shrinks a schedule that has this verdict, until `stop` is set or for so long.
///
/// # Errors
/// Where no child can be started.
pub fn shrink_in(
    runner: &mut Runner,
    schedule: &Schedule,
    verdict: &str,
    stop: &AtomicBool,
    limit: Option<Duration>,
    watch: &mut dyn FnMut(Shrinking),
) -> Result<Shrunk> {
    let begun = Instant::now();
    let before = schedule.steps.len();
    let (mut shrinking, mut early) = (Shrinking { before, smallest: before, runs: 0 }, false);
    let mut failure = None;
    let schedule = shrink(schedule, |candidate| {
        if stop.load(Ordering::SeqCst) || limit.is_some_and(|limit| begun.elapsed() > limit) {
            early = true;
            return ControlFlow::Break(());
        }
        shrinking.runs += 1;
        match runner.run(&candidate.encode(), false) {
            Ok(answer) => {
                let same = answer.verdict() == Some(verdict);
                if same {
                    shrinking.smallest = candidate.steps.len();
                }
                watch(shrinking);
                ControlFlow::Continue(same)
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(Shrunk { schedule, runs: shrinking.runs, early }),
    }
}
