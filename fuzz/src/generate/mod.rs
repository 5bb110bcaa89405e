//! Making schedules: from nothing, and from others.
//!
//! A generator keeps a rough idea of what each actor is doing (`abstract_state`: held? collecting?), so that
//! most of its steps have an effect (`steps`), and knows for each operation which points and
//! functions it passes (`stop_sites`), so that most of its stops are reached. It makes schedules from others,
//! too (`mutate`). It knows no defect: nothing here says which events should meet.

mod abstract_state;
mod input;
mod mutate;
mod steps;
mod stop_sites;
mod stopped;

pub use input::put;
pub use stopped::stopped;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use abstract_state::Draft;

use crate::schedule::{Actor, Op, Schedule, Step};

/// Steps of a schedule that is made from nothing, where the length is free.
const LENGTHS: (u32, u32) = (6, 60);

/// A source of schedules.
#[derive(Debug)]
pub struct Generator {
    rng: ChaCha8Rng,
    /// The length that every schedule has, if it is fixed.
    steps: Option<usize>,
}

/// Where a generator is, from which another goes on as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorPosition {
    /// Its random numbers' seed.
    pub seed: [u8; 32],
    /// How many words of those it has used.
    pub at: u128,
    /// The length that every schedule has, if it is fixed.
    pub steps: Option<usize>,
}

impl Generator {
    /// A source that gives the same schedules for the same seed.
    pub fn new(seed: u64, steps: Option<usize>) -> Self {
        Generator { rng: ChaCha8Rng::seed_from_u64(seed), steps }
    }

    /// Where it is.
    pub fn position(&self) -> GeneratorPosition {
        GeneratorPosition { seed: self.rng.get_seed(), at: self.rng.get_word_pos(), steps: self.steps }
    }

    /// One that goes on from there.
    pub fn resume(position: &GeneratorPosition) -> Self {
        let mut rng = ChaCha8Rng::from_seed(position.seed);
        rng.set_word_pos(position.at);
        Generator { rng, steps: position.steps }
    }

    /// A number below `n`.
    fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.rng.next_u32()) * u64::from(n.max(1))) >> 32) as u32
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    /// One of some things, by weight; the first where all weigh nothing.
    fn weighed<T: Copy, const N: usize>(&mut self, weights: [u32; N], things: &[T; N]) -> T {
        let mut left = self.below(weights.iter().sum());
        for (&weight, &thing) in weights.iter().zip(things) {
            if left < weight {
                return thing;
            }
            left -= weight;
        }
        things[0]
    }

    /// Returns true more often than not: better something new than another mutation. With 20 of 100
    /// most planted defects took longer to be found than without any feedback (`museum`).
    fn starts_over(&mut self) -> bool {
        self.chance(70)
    }

    /// A schedule made from nothing.
    pub fn schedule(&mut self) -> Schedule {
        let length = match self.steps {
            Some(steps) => steps,
            None => (LENGTHS.0 + self.below(LENGTHS.1 - LENGTHS.0)) as usize,
        };
        let mut steps = Vec::with_capacity(length);
        if self.chance(70) {
            steps.push(option(Op::EveryFrame));
        }
        if self.chance(30) {
            steps.push(option(Op::Stack { bytes: 2048 << self.below(4) }));
        }
        if self.chance(12) {
            steps.push(option(Op::Unreadable { every: 1 + self.below(4) as u8 }));
        }
        if self.chance(25) {
            steps.push(option(Op::Trace));
        }
        if self.chance(15) {
            steps.push(option(Op::Buffer { samples: 1 << self.below(4) }));
        }
        if self.chance(25) {
            steps.push(option(Op::KeepBarriers));
        }
        if self.chance(25) {
            steps.push(option(Op::ScanShrinks));
        }
        steps.truncate(length);
        let mut draft = Draft::new();
        while steps.len() < length {
            steps.push(self.step(&mut draft));
        }
        Schedule { steps }
    }
}

fn option(op: Op) -> Step {
    Step { actor: Actor::World, op, stop: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_schedules() {
        let make = || {
            let mut generator = Generator::new(7, None);
            let mut schedule = generator.schedule();
            generator.mutate(&mut schedule);
            schedule
        };
        assert_eq!(make(), make());
        assert_ne!(make(), Generator::new(8, None).schedule());
    }

    #[test]
    fn generated_schedules_are_canonical() {
        let mut generator = Generator::new(1, None);
        let mut schedule = generator.schedule();
        for _ in 0..500 {
            assert_eq!(schedule, schedule.canonical());
            generator.mutate(&mut schedule);
            let other = generator.schedule();
            schedule = generator.cross(&schedule, &other);
        }
    }

    #[test]
    fn generated_schedules_keep_a_fixed_length() {
        let mut generator = Generator::new(1, Some(40));
        let mut schedule = generator.schedule();
        for _ in 0..200 {
            assert_eq!(schedule.steps.len(), 40);
            generator.mutate(&mut schedule);
        }
        let short = Generator::new(2, Some(1)).schedule();
        assert_eq!(short.steps.len(), 1);
    }
}
