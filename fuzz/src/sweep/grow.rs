//! Schedules for the instructions that none of the given ones reaches.
//!
//! The marked code changes, and with it what a set of schedules reaches. Generated schedules
//! are watched, untouched, until time is up; one that reaches something new is cut down to
//! the steps that it needs for that, and kept.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sigstorm_runtime::FuncId;

use super::run::{SweepRun, SweepWatch};
use crate::files::origin;
use crate::generate::Generator;
use crate::outcome::Visit;
use crate::schedule::Schedule;

/// The instructions that a schedule reaches within its steps: functions and indices.
pub type Reached = BTreeSet<(FuncId, u16)>;

fn reached(visits: &[Visit], schedule: &Schedule) -> Reached {
    let within = visits.iter().filter(|v| (v.step as usize) < schedule.steps.len());
    within.filter_map(|v| Some((FuncId::from_code(v.function)?, v.index))).collect()
}

/// The result of growing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grown {
    /// Generated schedules that were watched.
    pub watched: u64,
    /// Schedules that were kept.
    pub kept: usize,
    /// Instructions that they reach, and none of the given ones.
    pub instructions: usize,
}

impl SweepRun {
    /// Looks for so long, or until `stop` is set, for schedules beyond the given ones. `keep` is called for each
    /// that is kept, with its number from 1, the schedule with check values, and the instructions for
    /// which it was kept.
    ///
    /// # Errors
    /// Where no child can be started, those of `keep`, and the watcher's own.
    pub fn grow<W: SweepWatch>(
        &mut self,
        given: &[Schedule],
        seed: u64,
        limit: Duration,
        stop: &AtomicBool,
        watch: &mut W,
        mut keep: impl FnMut(usize, &Schedule, &Reached) -> Result<(), W::Error>,
    ) -> Result<Grown, W::Error> {
        let mut known = Reached::new();
        for schedule in given {
            known.extend(self.watch(schedule, watch)?);
        }
        let before = known.len();
        let mut generator = Generator::new(seed, None);
        let begun = Instant::now();
        let mut grown = Grown::default();
        watch.begin("growing", limit.as_secs() as usize);
        while begun.elapsed() < limit && !stop.load(Ordering::SeqCst) {
            let schedule = generator.schedule();
            grown.watched += 1;
            let new: Reached = self.watch(&schedule, watch)?.difference(&known).copied().collect();
            watch.show(begun.elapsed().as_secs() as usize, format!("{} more", known.len() - before));
            if new.is_empty() {
                continue;
            }
            let small = self.cut_down(schedule, &new, stop, watch)?;
            known.extend(self.watch(&small, watch)?);
            grown.kept += 1;
            grown.instructions = known.len() - before;
            keep(grown.kept, &origin::checked(&small), &new)?;
        }
        Ok(grown)
    }

    /// The instructions that a schedule reaches; none where it shows a violation.
    fn watch<W: SweepWatch>(&mut self, schedule: &Schedule, watch: &mut W) -> Result<Reached, W::Error> {
        let answer = self.runners[0].record(&schedule.encode())?;
        if let Some(finding) = &answer.finding {
            self.violation("a generated schedule", None, schedule, finding, watch)?;
            return Ok(Reached::new());
        }
        Ok(reached(&answer.visits, schedule))
    }

    /// The schedule without the steps that it does not need to reach all of these.
    fn cut_down<W: SweepWatch>(
        &mut self,
        mut schedule: Schedule,
        all: &Reached,
        stop: &AtomicBool,
        watch: &mut W,
    ) -> Result<Schedule, W::Error> {
        let mut length = schedule.steps.len() / 2;
        while length != 0 {
            let mut at = 0;
            while at < schedule.steps.len() && !stop.load(Ordering::SeqCst) {
                let mut less = schedule.clone();
                less.steps.drain(at..schedule.steps.len().min(at + length));
                if self.watch(&less, watch)?.is_superset(all) {
                    schedule = less;
                } else {
                    at += length;
                }
            }
            length /= 2;
        }
        Ok(schedule)
    }
}
