//! The effect of each step of a traced run: whether it had one, and whether its stop was reached.
//!
//! A step without an effect is passed over, and a stop that nobody reaches holds nobody. The trace of a
//! run shows neither, and its reader would look for both.

use crate::schedule::{Actor, MAX_STEPS, Step};

/// The step did something.
const EFFECT: u8 = 1;
/// Its thread was held at its stop.
const HELD: u8 = 2;

/// A byte for each step. Written by the thread that holds the baton, in handlers, too: only
/// [`StepEffects::begin`] allocates.
#[derive(Debug)]
pub(crate) struct StepEffects {
    on: bool,
    of: Vec<u8>,
}

impl StepEffects {
    pub(super) const fn new() -> StepEffects {
        StepEffects { on: false, of: Vec::new() }
    }

    /// Starts over. Nothing is noted unless `on`.
    pub(super) fn begin(&mut self, on: bool) {
        self.on = on;
        if on {
            self.of.clear();
            self.of.resize(MAX_STEPS, 0);
        }
    }

    fn change(&mut self, step: u32, change: impl FnOnce(u8) -> u8) {
        if self.on
            && let Some(effect) = self.of.get_mut(step as usize)
        {
            *effect = change(*effect);
        }
    }

    /// The step has an effect.
    pub(super) fn had_effect(&mut self, step: u32) {
        self.change(step, |effect| effect | EFFECT);
    }

    /// The step turned out to do nothing. A step whose thread was held on its way did that.
    pub(super) fn had_none(&mut self, step: u32) {
        self.change(step, |effect| if effect & HELD == 0 { effect & !EFFECT } else { effect });
    }

    /// The step's stop was reached.
    pub(super) fn held(&mut self, step: u32) {
        self.change(step, |effect| effect | HELD);
    }

    fn is(&self, step: usize, what: u8) -> bool {
        self.of.get(step).is_some_and(|effect| effect & what != 0)
    }

    /// Of the steps that a traced run has passed, the first `passed`: those without an effect, and those with an
    /// effect whose stop was not reached. Options have an effect where they come first, and nowhere else.
    pub(super) fn inert_and_unreached(&self, steps: &[Step], passed: usize) -> (Vec<u32>, Vec<u32>) {
        if !self.on {
            return (Vec::new(), Vec::new());
        }
        let options = steps.iter().take_while(|step| step.actor == Actor::World).count();
        let inert = |&step: &usize| step >= options && !self.is(step, EFFECT);
        let unreached =
            |&step: &usize| steps[step].stop.is_some() && self.is(step, EFFECT) && !self.is(step, HELD);
        let all = 0..passed.min(steps.len());
        let number = |step| step as u32;
        (all.clone().filter(inert).map(number).collect(), all.filter(unreached).map(number).collect())
    }
}
