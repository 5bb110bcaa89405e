//! What became of each step of a traced run: whether it had an effect, and whether its stop was
//! reached.
//!
//! A step without an effect is passed over, and a stop that nobody reaches holds nobody: the trace
//! of a run shows neither, and whoever reads it would look for both.

use core::cell::Cell;

use super::hooks::SEAT;
use super::state::State;
use crate::schedule::{Actor, MAX_STEPS};

/// The step did something.
const EFFECT: u8 = 1;
/// Its thread was held at its stop.
const HELD: u8 = 2;

/// A byte for each step. Written by whoever holds the baton, in handlers, too: nothing here allocates.
#[derive(Debug)]
pub(crate) struct Fates {
    on: Cell<bool>,
    of: Box<[Cell<u8>]>,
}

impl Fates {
    pub(crate) fn new() -> Fates {
        Fates { on: Cell::new(false), of: vec![Cell::new(0); MAX_STEPS].into() }
    }

    /// Starts over; notes nothing unless `on`.
    pub(crate) fn begin(&self, on: bool) {
        self.on.set(on);
        if on {
            self.of.iter().for_each(|fate| fate.set(0));
        }
    }

    fn change(&self, step: u32, change: impl FnOnce(u8) -> u8) {
        if self.on.get()
            && let Some(fate) = self.of.get(step as usize)
        {
            fate.set(change(fate.get()));
        }
    }

    /// The step is one with an effect.
    pub(crate) fn had_effect(&self, step: u32) {
        self.change(step, |fate| fate | EFFECT);
    }

    /// The step turned out to do nothing. One whose thread was held on its way did that.
    pub(crate) fn had_none(&self, step: u32) {
        self.change(step, |fate| if fate & HELD == 0 { fate & !EFFECT } else { fate });
    }

    /// The step's stop was reached.
    pub(crate) fn held(&self, step: u32) {
        self.change(step, |fate| fate | HELD);
    }

    fn is(&self, step: usize, what: u8) -> bool {
        self.of.get(step).is_some_and(|fate| fate.get() & what != 0)
    }
}

impl State {
    /// The operation that the calling thread has begun turned out to do nothing.
    pub(crate) fn step_did_nothing(&self) {
        self.fates.had_none(self.threads[SEAT.get()].begun.get());
    }

    /// Of the steps that a traced run came to: those without an effect, and those with one whose stop
    /// was not reached. Options have an effect where they come first, and nowhere else.
    pub(crate) fn inert_and_unreached(&self) -> (Vec<u32>, Vec<u32>) {
        if !self.fates.on.get() {
            return (Vec::new(), Vec::new());
        }
        let came_to = self.cursor.get();
        self.with_steps(|steps| {
            let options = steps.iter().take_while(|step| step.actor == Actor::World).count();
            let inert = |&step: &usize| step >= options && !self.fates.is(step, EFFECT);
            let unreached = |&step: &usize| {
                steps[step].stop.is_some() && self.fates.is(step, EFFECT) && !self.fates.is(step, HELD)
            };
            let all = 0..came_to.min(steps.len());
            let number = |step| step as u32;
            (all.clone().filter(inert).map(number).collect(), all.filter(unreached).map(number).collect())
        })
    }
}
