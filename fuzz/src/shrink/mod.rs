//! Making a schedule smaller while something stays true of it.
//!
//! Delta debugging: whole chunks of steps go first, then single ones, then stops; what
//! is left gets simpler operands, and the lowest actors and goroutines that will do. Each
//! may make another possible, so all is tried again until nothing changes.
//!
//! [`shrink`] knows nothing of runs: a closure says whether a candidate will do, and
//! `shrink_in` runs the candidates in children. The closure
//! can also end the search. It ends by itself, too: each change makes the schedule smaller in the
//! order (number of steps, of stops, operands).

#[cfg(feature = "supervise")]
mod reproduce;
#[cfg(feature = "supervise")]
mod run;
mod simpler;

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::schedule::{Actor, Goroutine, Schedule, Step};
#[cfg(feature = "supervise")]
pub use reproduce::reproduce;
#[cfg(feature = "supervise")]
pub use run::{Shrinking, Shrunk, shrink_in};
use simpler::{simpler, with_goroutine};

/// The smallest schedule that `test` holds of, as far as this can tell; when `test` ends the
/// search, the smallest so far. It is taken to hold of the schedule itself.
pub fn shrink(schedule: &Schedule, test: impl FnMut(&Schedule) -> ControlFlow<(), bool>) -> Schedule {
    let mut search = Search { best: schedule.canonical(), failed: HashSet::new(), test };
    // Broken off or not, the best is the best.
    let _ = search.exhaust();
    search.best
}

struct Search<F> {
    best: Schedule,
    /// Candidates that failed: later rounds reach the same ones again.
    failed: HashSet<Vec<u8>>,
    test: F,
}

impl<F: FnMut(&Schedule) -> ControlFlow<(), bool>> Search<F> {
    fn exhaust(&mut self) -> ControlFlow<()> {
        loop {
            let before = self.best.clone();
            self.drop_steps()?;
            self.drop_stops()?;
            self.simplify_steps()?;
            self.rename()?;
            if self.best == before {
                return ControlFlow::Continue(());
            }
        }
    }

    /// Takes the candidate if it will do.
    fn attempt(&mut self, steps: Vec<Step>) -> ControlFlow<(), bool> {
        let candidate = Schedule { steps };
        let key = candidate.encode();
        if candidate == self.best || self.failed.contains(&key) {
            return ControlFlow::Continue(false);
        }
        let good = (self.test)(&candidate)?;
        if good {
            self.best = candidate;
        } else {
            self.failed.insert(key);
        }
        ControlFlow::Continue(good)
    }

    /// Without all, a half, a quarter .., each step. From the end: what comes after the
    /// violation matters least.
    fn drop_steps(&mut self) -> ControlFlow<()> {
        let mut size = self.best.steps.len().max(1);
        loop {
            let mut end = self.best.steps.len();
            while end > 0 {
                let start = end.saturating_sub(size);
                let mut steps = self.best.steps.clone();
                steps.drain(start..end);
                self.attempt(steps)?;
                end = start;
            }
            if size == 1 {
                return ControlFlow::Continue(());
            }
            size = size.div_ceil(2);
        }
    }

    fn drop_stops(&mut self) -> ControlFlow<()> {
        for index in (0..self.best.steps.len()).rev() {
            if self.best.steps[index].stop.is_some() {
                let mut steps = self.best.steps.clone();
                steps[index].stop = None;
                self.attempt(steps)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn simplify_steps(&mut self) -> ControlFlow<()> {
        for index in 0..self.best.steps.len() {
            // The step that was taken may have a simpler one yet.
            'again: loop {
                for step in simpler(self.best.steps[index]) {
                    let mut steps = self.best.steps.clone();
                    steps[index] = step;
                    if self.attempt(steps)? {
                        continue 'again;
                    }
                }
                break;
            }
        }
        ControlFlow::Continue(())
    }

    /// One goroutine, or machine, for another, everywhere at once.
    fn rename(&mut self) -> ControlFlow<()> {
        let renamed = |best: &Schedule, step: fn(Step, Goroutine, Goroutine) -> Step, from, to| {
            best.steps.iter().map(|&s| step(s, from, to)).collect()
        };
        for (place, &from) in Goroutine::ALL.iter().enumerate() {
            for &to in &Goroutine::ALL[..place] {
                let steps = renamed(&self.best, with_goroutine, from, to);
                self.attempt(steps)?;
            }
        }
        let first_machine = |step: &Step| Step {
            actor: if step.actor == Actor::M2 { Actor::M1 } else { step.actor },
            ..*step
        };
        let steps = self.best.steps.iter().map(first_machine).collect();
        self.attempt(steps)?;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::simpler::simpler_ops;
    use super::*;
    use crate::schedule::{Op, Stop};

    const TEXT: &str = "# sigstorm schedule 1
every_frame; stack 8192; unreadable 3
m1 rate on; g3 call large*8; call small*2 @ copystack.begin:3; ret 5
m2 g2 syscall; up 7 slot 3 = 2
gc mark; scan g3; drain 6; term @ traceback.begin
m1 resume; signal; panic
m2 bulk 5
";

    fn parsed() -> Schedule {
        let mut text = TEXT.to_string();
        // Points' names differ between builds.
        let point = sigstorm_runtime::Point::ALL[0].name();
        for name in ["copystack.begin", "traceback.begin"] {
            text = text.replace(name, point);
        }
        Schedule::parse(&text).unwrap()
    }

    fn shrunk(holds: impl Fn(&Schedule) -> bool) -> (Schedule, usize) {
        let mut runs = 0;
        let smallest = shrink(&parsed(), |candidate| {
            runs += 1;
            assert_eq!(candidate.canonical(), *candidate);
            ControlFlow::Continue(holds(candidate))
        });
        assert!(holds(&smallest));
        (smallest, runs)
    }

    fn text(schedule: &Schedule) -> String {
        schedule.to_text().lines().skip(1).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn shrunk_schedule_has_only_steps_that_matter() {
        let has = |s: &Schedule, op: &str| s.steps.iter().any(|step| step.op.name() == op);
        let (smallest, runs) = shrunk(|s| has(s, "panic") && has(s, "syscall"));
        assert_eq!(text(&smallest), "m1 syscall; panic");
        assert!(runs < 60, "{runs}");
        assert_eq!(shrunk(|_| true).0, Schedule::default());
    }

    #[test]
    fn shrunk_schedule_keeps_the_order_that_matters() {
        let at = |s: &Schedule, op: &str| s.steps.iter().position(|step| step.op.name() == op);
        let (smallest, _) = shrunk(|s| at(s, "mark").is_some_and(|mark| Some(mark) < at(s, "signal")));
        assert_eq!(text(&smallest), "gc mark; m1 signal");
    }

    #[test]
    fn shrunk_operands_are_as_low_as_they_can_be() {
        let (smallest, _) = shrunk(|s| s.steps.iter().any(|step| matches!(step.op, Op::Ret { frames: 3.. })));
        assert_eq!(text(&smallest), "m1 ret 3");
        let scanned = |s: &Schedule, g| s.steps.iter().any(|step| step.op == Op::Scan { g });
        let run = |s: &Schedule, g| s.steps.iter().any(|step| step.op == Op::Run { g });
        let both = |s: &Schedule| Goroutine::ALL.iter().any(|&g| scanned(s, g) && run(s, g));
        assert_eq!(text(&shrunk(both).0), "m1 g1; gc scan g1");
        let stopped = |step: &Step| matches!(step.stop, Some(Stop::Point { hit: 2.., .. }));
        let (smallest, _) = shrunk(|s| s.steps.iter().any(stopped));
        assert_eq!(smallest.steps.len(), 1);
        assert!(matches!(smallest.steps[0].stop, Some(Stop::Point { hit: 2, .. })));
    }

    #[test]
    fn smallest_schedule_stays_as_it_is() {
        let whole = parsed().canonical();
        assert_eq!(shrink(&whole, |_| ControlFlow::Continue(false)), whole);
    }

    #[test]
    fn shrinking_can_be_ended_early() {
        let mut left = 3;
        let smallest = shrink(&parsed(), |candidate| {
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(!candidate.steps.is_empty())
            }
        });
        assert!(!smallest.steps.is_empty() && smallest.steps.len() < parsed().steps.len());
    }

    #[test]
    fn every_step_has_only_simpler_ones() {
        for class in [Actor::M1, Actor::Gc, Actor::Ext, Actor::World] {
            for (code, arg) in (0..64).flat_map(|code| (0..=255).map(move |arg| (code, arg))) {
                let Some(op) = Op::from_code(class.class(), code, arg) else { continue };
                let step = Step { actor: class, op, stop: None };
                let arg = op.arg();
                assert!(simpler_ops(step).iter().all(|op| op.arg() < arg), "{step:?}");
            }
        }
    }
}
