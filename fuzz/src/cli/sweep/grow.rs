//! `sigstorm sweep --grow`: schedules for the instructions that none of the given ones comes to.
//!
//! The marked code changes, and with it what a set of schedules comes to. Generated schedules
//! are watched, untouched, until time is up; one that comes to something new is cut down to
//! the steps that it needs for that, and kept as a file to be swept with the others.

use super::super::display::Sweeping;
use super::super::{Outcome, Trouble, files, interrupt};
use super::{Exit, Sweep, input, origin};
use serde_json::json;
use sigstorm::generate::Generator;
use sigstorm::outcome::Crossing;
use sigstorm::schedule::Schedule;
use sigstorm_runtime::FuncId;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The instructions that a schedule comes to within its steps.
type Reached = BTreeSet<(FuncId, u16)>;

fn reached(crossings: &[Crossing], schedule: &Schedule) -> Reached {
    let within = crossings.iter().filter(|c| (c.step as usize) < schedule.steps.len());
    within.filter_map(|c| Some((FuncId::from_code(c.function)?, c.index))).collect()
}

impl Sweep<'_> {
    /// Looks for schedules, so many seconds long, beyond these.
    pub(super) fn grow(&mut self, given: &[Schedule], seconds: u64, bar: &Sweeping) -> Outcome {
        let stop = interrupt::install()?;
        let mut known = Reached::new();
        for schedule in given {
            known.extend(self.watch(schedule)?);
        }
        let before = known.len();
        let folder = self.args.reports.join("sweep").join("grown");
        files::writable_folder(&folder)?;
        let mut generator = Generator::new(self.args.seed, None);
        let (begun, limit) = (Instant::now(), Duration::from_secs(seconds));
        let (mut kept, mut watched) = (0, 0_u64);
        bar.begin("growing", seconds as usize);
        while begun.elapsed() < limit && !stop.load(Ordering::SeqCst) {
            let schedule = generator.schedule();
            watched += 1;
            let new: Reached = self.watch(&schedule)?.difference(&known).copied().collect();
            bar.show(begun.elapsed().as_secs() as usize, format!("{} more", known.len() - before));
            if new.is_empty() {
                continue;
            }
            let small = self.cut_down(schedule, &new, stop)?;
            known.extend(self.watch(&small)?);
            kept += 1;
            let path = folder.join(format!("grown-{kept}.txt"));
            files::write(&path, origin::checked(&small).to_text().as_bytes())?;
            let named: Vec<String> = new.iter().take(4).map(|(f, i)| format!("{f}#{i}")).collect();
            let more = if new.len() > 4 { ", …" } else { "" };
            self.out.say(&format!(
                "{}: {} ({}{more})",
                path.display(),
                input::counted(new.len(), "instruction"),
                named.join(", ")
            ))?;
        }
        bar.end();
        self.out.object(&json!({
            "type": "summary", "command": "sweep", "watched": watched, "schedules": kept,
            "instructions": known.len() - before, "folder": folder,
        }))?;
        self.out.say(&format!(
            "{watched} schedules watched; {} for {} that none of the given ones comes to",
            input::counted(kept, "schedule"),
            input::counted(known.len() - before, "instruction"),
        ))?;
        Ok(Exit::Clean)
    }

    /// What a schedule comes to; nothing where it shows a violation.
    fn watch(&mut self, schedule: &Schedule) -> Result<Reached, Trouble> {
        let answer = self.runners[0].record(&schedule.encode())?;
        if answer.finding.is_some() {
            self.violation("a generated schedule", None, schedule, &answer)?;
            return Ok(Reached::new());
        }
        Ok(reached(&answer.crossings, schedule))
    }

    /// The schedule without the steps that it does not need to come to all of these.
    fn cut_down(
        &mut self,
        mut schedule: Schedule,
        all: &Reached,
        stop: &AtomicBool,
    ) -> Result<Schedule, Trouble> {
        let mut length = schedule.steps.len() / 2;
        while length != 0 {
            let mut at = 0;
            while at < schedule.steps.len() && !stop.load(Ordering::SeqCst) {
                let mut less = schedule.clone();
                less.steps.drain(at..schedule.steps.len().min(at + length));
                if self.watch(&less)?.is_superset(all) {
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
