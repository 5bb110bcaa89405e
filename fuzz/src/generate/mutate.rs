//! Schedules made from others.

use super::Generator;
use super::abstract_state::Draft;
use super::stop_sites::changes_a_stack;
use crate::schedule::{Actor, MAX_STEPS, Op, Schedule, Step};

impl Generator {
    /// Another schedule made from this one.
    pub fn mutate(&mut self, schedule: &mut Schedule) {
        for _ in 0..1 + self.below(4) {
            self.mutate_once(&mut schedule.steps);
        }
        self.fit(schedule);
    }

    /// The beginning of one and the end of another.
    pub fn cross(&mut self, one: &Schedule, other: &Schedule) -> Schedule {
        let from = self.below(one.steps.len() as u32 + 1) as usize;
        let to = self.below(other.steps.len() as u32 + 1) as usize;
        let mut steps = one.steps[..from].to_vec();
        steps.extend_from_slice(&other.steps[to..]);
        let mut schedule = Schedule { steps };
        self.fit(&mut schedule);
        schedule
    }

    /// Gives a schedule its fixed length, or cuts it to what is allowed.
    fn fit(&mut self, schedule: &mut Schedule) {
        let Some(length) = self.steps else {
            schedule.steps.truncate(MAX_STEPS);
            return;
        };
        schedule.steps.truncate(length);
        let mut draft = Draft::new();
        schedule.steps.iter().for_each(|step| draft.note(step));
        while schedule.steps.len() < length {
            let step = self.step(&mut draft);
            schedule.steps.push(step);
        }
    }

    fn mutate_once(&mut self, steps: &mut Vec<Step>) {
        let at = self.below(steps.len() as u32 + 1) as usize;
        let mut draft = Draft::new();
        steps[..at].iter().for_each(|step| draft.note(step));
        let here = (at < steps.len()).then_some(at);
        match (self.below(15), here) {
            (0..=4, _) | (_, None) => {
                for offset in 0..1 + self.below(4) as usize {
                    let step = self.step(&mut draft);
                    steps.insert(at + offset, step);
                }
            }
            (5, Some(at)) => {
                let end = (at + 1 + self.below(4) as usize).min(steps.len());
                steps.drain(at..end);
            }
            (6..=7, Some(at)) => steps[at] = self.step(&mut draft),
            (8..=9, Some(at)) => {
                let step = steps[at];
                if step.actor != Actor::World {
                    steps[at].stop = if step.stop.is_some() && self.chance(30) {
                        None
                    } else {
                        Some(self.stop(step.op, draft.state(step.actor)))
                    };
                }
            }
            (10, Some(at)) => {
                let other = self.below(steps.len() as u32) as usize;
                steps.swap(at, other);
            }
            (11..=13, Some(_)) => self.interrupt(steps),
            (_, Some(at)) => {
                steps.truncate(at);
                for _ in 0..1 + self.below(20) {
                    let step = self.step(&mut draft);
                    steps.push(step);
                }
            }
        }
    }

    /// Holds a step somewhere, and has something happen there: a signal, or what others do.
    fn interrupt(&mut self, steps: &mut Vec<Step>) {
        let mut at = 0;
        for _ in 0..4 {
            at = self.below(steps.len() as u32) as usize;
            if changes_a_stack(steps[at].op) || matches!(steps[at].op, Op::Ret { .. }) {
                break;
            }
        }
        let mut draft = Draft::new();
        steps[..at].iter().for_each(|step| draft.note(step));
        let draft = &mut draft;
        let step = &mut steps[at];
        if matches!(step.actor, Actor::World | Actor::Ext) {
            return;
        }
        step.stop = Some(self.stop(step.op, draft.state(step.actor)));
        let (actor, held) = (step.actor, *step);
        draft.note(&held);
        if self.chance(60) {
            let stop = self.chance(40).then(|| self.stop(Op::Signal, draft.state(actor)));
            let signal = Step { actor, op: Op::Signal, stop };
            draft.note(&signal);
            steps.insert(at + 1, signal);
        } else {
            for offset in 1..=1 + self.below(3) as usize {
                let step = self.step(draft);
                steps.insert(at + offset, step);
            }
        }
    }
}
