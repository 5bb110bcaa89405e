//! Making schedules: from nothing, and from others.
//!
//! A generator keeps a rough idea of what each actor is doing (held? collecting?), so that
//! most of its steps have an effect, and knows for each operation which points and
//! functions it passes, so that most of its stops are come to. It knows no defect: nothing
//! here says what should meet what.

mod belief;
mod input;
mod places;
mod stopped;

pub use input::put;
pub use stopped::stopped;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sigstorm_runtime::{FuncId, Point};

use belief::{Belief, Draft};
use places::{RECOVERY, changes_a_stack, functions_of, points_of, protocol_of};

use crate::schedule::{Actor, Goroutine, MAX_STEPS, Op, Schedule, Step, Stop, Work};

/// Steps of a schedule that is made from nothing, where the length is free.
const LENGTHS: (u32, u32) = (6, 60);

// What is chosen first; with what, is chosen for the one that it comes to.
const CALL: Op = Op::Call { kind: FuncId::Tiny, times: 1 };
const RUN: Op = Op::Run { g: Goroutine::G1 };
const READY: Op = Op::Ready { g: Goroutine::G1 };
const SPAWN: Op = Op::Spawn { g: Goroutine::G1 };
const PREEMPT: Op = Op::Preempt { g: Goroutine::G1 };
const SCAN: Op = Op::Scan { g: Goroutine::G1 };
const SHRINK: Op = Op::Shrink { g: Goroutine::G1 };
const DRAIN: Op = Op::Drain { objects: 1 };
const COLLECT: Op = Op::Collect { work: Work::Mark };
const STW: Op = Op::Collect { work: Work::Stw };
const TERM: Op = Op::Collect { work: Work::Term };
const SWEEP: Op = Op::Collect { work: Work::Sweep };
const RATE: Op = Op::Rate { on: true };
const HZ: Op = Op::Hz { hz: 100 };

/// `weighed!(generator, { weight => thing, .. })`: one of the things. They are constants, so that
/// only weights are put together at each choice.
macro_rules! weighed {
    ($generator:ident, { $($weight:expr => $thing:expr),+ $(,)? }) => {
        $generator.weighed([$($weight),+], const { &[$($thing),+] })
    };
}

/// A source of schedules.
#[derive(Debug)]
pub struct Generator {
    rng: ChaCha8Rng,
    /// The length that every schedule has, if it is fixed.
    steps: Option<usize>,
}

/// Where a generator is, from which another goes on as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
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
    pub fn place(&self) -> Place {
        Place { seed: self.rng.get_seed(), at: self.rng.get_word_pos(), steps: self.steps }
    }

    /// One that goes on from there.
    pub fn resume(place: &Place) -> Self {
        let mut rng = ChaCha8Rng::from_seed(place.seed);
        rng.set_word_pos(place.at);
        Generator { rng, steps: place.steps }
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

    /// True more often than not: better something new than another mutation. With 20 of 100
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
                        Some(self.stop(step.op, draft.belief(step.actor)))
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
        step.stop = Some(self.stop(step.op, draft.belief(step.actor)));
        let (actor, held) = (step.actor, *step);
        draft.note(&held);
        if self.chance(60) {
            let stop = self.chance(40).then(|| self.stop(Op::Signal, draft.belief(actor)));
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

    /// One more step of a draft.
    fn step(&mut self, draft: &mut Draft) -> Step {
        if let Some((actor, op)) = draft.begun.pop() {
            let step = Step { actor, op, stop: None };
            draft.note(&step);
            return step;
        }
        let last = draft.last;
        let stay = match (last, draft.belief(last).held) {
            (Actor::Ext, _) => 50,
            (Actor::Gc, _) if draft.marking => 55,
            (Actor::Gc, _) => 50,
            (_, true) => 56,
            (_, false) => 87,
        };
        let actor = if self.chance(stay) {
            last
        } else {
            weighed!(self, {45 => Actor::M1, 20 => Actor::M2, 33 => Actor::Gc, 2 => Actor::Ext})
        };
        let belief = *draft.belief(actor);
        // Told anything but a signal, a thread that is held goes on; one that is not after all
        // does as it is told.
        let op = match (belief.held || belief.syscall || belief.foreign, actor) {
            (_, Actor::Ext) => self.outside_op(belief.held),
            (true, _) if belief.handles && self.chance(8) => Op::Pend,
            (true, _) if self.chance(if actor == Actor::Gc { 3 } else { 34 }) => Op::Signal,
            (true, _) if belief.foreign && !belief.held && self.chance(60) => Op::Callback,
            (true, _) if self.chance(10) => Op::Resume,
            (_, Actor::Gc) => self.collector_op(draft),
            _ if belief.depth > 1 && self.chance(3) => self.hide(actor, &belief, draft),
            _ => self.machine_op(&belief, draft),
        };
        let stops = match op {
            Op::Signal => 34,
            _ if belief.held => 12,
            _ if changes_a_stack(op) => 50,
            Op::Ret { .. } if belief.recovered => 65,
            Op::Ret { .. } => 40,
            Op::Call { .. } | Op::Syscall | Op::Panic | Op::Exit => 26,
            Op::Foreign | Op::Callback => 26,
            Op::Rate { .. } | Op::Hz { .. } | Op::Read | Op::Attach | Op::Detach => 30,
            _ => 12,
        };
        let stop = self.chance(stops).then(|| self.stop(op, &belief));
        let step = Step { actor, op, stop };
        draft.note(&step);
        step
    }

    fn goroutine(&mut self) -> Goroutine {
        weighed!(self, {50 => Goroutine::G1, 30 => Goroutine::G2, 12 => Goroutine::G3, 8 => Goroutine::G4})
    }

    fn outside_op(&mut self, held: bool) -> Op {
        let resume = if held { 60 } else { 0 };
        let op = weighed!(self, {
            resume => Op::Resume,
            40 => Op::Signal,
            22 => Op::Attach,
            12 => Op::Detach,
            14 => Op::Read,
            4 => HZ,
            2 => RATE,
            3 => Op::Pend,
        });
        self.fill(op)
    }

    fn hz(&mut self) -> u32 {
        self.pick(&[100, 250, 500, 1000])
    }

    fn collector_op(&mut self, draft: &Draft) -> Op {
        let parked = draft.parked.min(2);
        let op = if draft.sweeping {
            weighed!(self, {
                74 => Op::Sweep,
                18 => SHRINK,
                2 => Op::Signal,
                2 => Op::Read,
                2 => PREEMPT,
                4 * parked => READY,
            })
        } else if draft.marking {
            weighed!(self, {
                70 => SCAN,
                2 => PREEMPT,
                4 * parked => READY,
                12 => Op::Term,
                7 => DRAIN,
                14 => SHRINK,
                1 => Op::Signal,
                1 => Op::Read,
            })
        } else {
            weighed!(self, {
                70 => Op::Mark,
                6 => Op::Stw,
                18 => SHRINK,
                2 => Op::Signal,
                1 => Op::Read,
                1 => HZ,
                2 => PREEMPT,
                4 * parked => READY,
            })
        };
        self.fill(op)
    }

    /// Decides about an operation on which goroutine, how many objects, how often.
    fn fill(&mut self, op: Op) -> Op {
        match op {
            Op::Scan { .. } => Op::Scan { g: self.goroutine() },
            Op::Shrink { .. } => Op::Shrink { g: self.goroutine() },
            Op::Preempt { .. } => Op::Preempt { g: self.goroutine() },
            Op::Ready { .. } => Op::Ready { g: self.goroutine() },
            Op::Spawn { .. } => Op::Spawn { g: self.goroutine() },
            Op::Drain { .. } => Op::Drain { objects: 1 + self.below(8) as u8 },
            Op::Hz { .. } => Op::Hz { hz: self.hz() },
            Op::Rate { .. } => Op::Rate { on: self.chance(85) },
            decided => decided,
        }
    }

    /// A slot that is believed to hold an object.
    fn object(&mut self, belief: &Belief) -> u8 {
        let first = self.below(4) as u8;
        (0..4).map(|i| (first + i) % 4).find(|slot| belief.objects & 1 << slot != 0).unwrap_or(first)
    }

    /// A part of a cycle as it comes next.
    fn work(&mut self, draft: &Draft) -> Op {
        let op = match (draft.marking, draft.sweeping) {
            (_, true) => weighed!(self, {8 => SWEEP, 2 => SHRINK}),
            (true, _) => weighed!(self, {6 => SCAN, 2 => TERM, 1 => DRAIN, 1 => SHRINK}),
            _ => weighed!(self, {6 => COLLECT, 2 => STW, 2 => SHRINK}),
        };
        self.fill(op)
    }

    fn machine_op(&mut self, belief: &Belief, draft: &Draft) -> Op {
        // Better one that has something on its stack.
        let elsewhere = 8 * u32::from(draft.left_with_frames() != 0);
        let parked = draft.parked.min(3);
        // Only with a goroutine, with a frame above, with an object, in a deferred call.
        let lives = u32::from(belief.depth > 0);
        let above = u32::from(belief.depth > 1);
        let has = u32::from(belief.objects != 0);
        let defers = u32::from(belief.deferring > 0);
        // Only without foreign frames on its thread's stack.
        let free = u32::from(belief.callbacks == 0);
        let op = weighed!(self, {
            34 => CALL,
            6 => Op::Syscall,
            5 => Op::Foreign,
            6 => Op::Alloc { slot: 0 },
            4 + elsewhere => RUN,
            1 => RATE,
            1 => HZ,
            lives => Op::Signal,
            if belief.recovered { 50 } else { 12 * above } => Op::Ret { frames: 1 },
            lives + 10 * defers => Op::Panic,
            if belief.panicking && !belief.recovered { 50 } else { 0 } => Op::Recover,
            6 * lives * free => Op::Yield,
            lives * free => Op::Park,
            4 * parked => READY,
            1 => SPAWN,
            1 => PREEMPT,
            2 * above => Op::SetPc,
            3 => COLLECT,
            lives * free => Op::Exit,
            defers => Op::Defer,
            9 * above => Op::Bulk { frames: 1 },
            2 * above => Op::Ref { dst: 0, frames: 1, to: 0 },
            8 * has => Op::Send { slot: 0 },
            4 * has => Op::Store { obj: 0, src: 0, field: 0 },
            4 * has => Op::Load { dst: 0, src: 0, field: 0 },
            3 * has * above => Op::Up { frames: 1, src: 0, dst: 0 },
            has => Op::Move { dst: 0, src: 0 },
            has => Op::Clear { slot: 0 },
        });
        match op {
            Op::Call { .. } => self.call(),
            Op::Run { .. } => Op::Run { g: self.runnable(draft) },
            Op::Collect { .. } => self.work(draft),
            Op::Alloc { .. } => Op::Alloc { slot: self.slot() },
            Op::Ret { .. } => Op::Ret { frames: self.frames(belief) },
            Op::Bulk { .. } => Op::Bulk { frames: self.frames(belief) },
            Op::Ref { .. } => {
                Op::Ref { dst: self.slot(), frames: self.frames(belief), to: self.below(2) as u8 }
            }
            Op::Send { .. } => Op::Send { slot: self.object(belief) },
            Op::Store { .. } => {
                Op::Store { obj: self.object(belief), src: self.slot(), field: self.below(2) as u8 }
            }
            Op::Load { .. } => {
                Op::Load { dst: self.slot(), src: self.object(belief), field: self.below(2) as u8 }
            }
            Op::Up { .. } => {
                Op::Up { frames: self.frames(belief), src: self.object(belief), dst: self.slot() }
            }
            Op::Move { .. } => Op::Move { dst: self.slot(), src: self.object(belief) },
            Op::Clear { .. } => Op::Clear { slot: self.object(belief) },
            other => self.fill(other),
        }
    }

    fn call(&mut self) -> Op {
        let kind = weighed!(self, {
            4 => FuncId::Nosplit,
            20 => FuncId::Tiny,
            20 => FuncId::Small,
            12 => FuncId::Medium,
            8 => FuncId::Large,
            6 => FuncId::Huge,
            27 => FuncId::Deferring,
            3 => FuncId::Leaf,
        });
        Op::Call { kind, times: weighed!(self, {55 => 1, 25 => 2, 15 => 4, 5 => 8}) }
    }

    /// A goroutine to run: more often than not one that was let go with frames on its stack.
    fn runnable(&mut self, draft: &Draft) -> Goroutine {
        let left = draft.left_with_frames();
        match Goroutine::ALL.iter().find(|g| left & 1 << g.code() != 0) {
            Some(&g) if self.chance(60) => g,
            _ => self.goroutine(),
        }
    }

    fn slot(&mut self) -> u8 {
        self.below(4) as u8
    }

    /// So many frames as there may be above the innermost one.
    fn frames(&mut self, belief: &Belief) -> u8 {
        1 + self.below(belief.depth.saturating_sub(1).clamp(1, 4)) as u8
    }

    /// Begins to hide an object from the collector: it hangs on another one, and while that waits to be
    /// looked at, a frame further up takes it over.
    fn hide(&mut self, actor: Actor, belief: &Belief, draft: &mut Draft) -> Op {
        let (holder, hidden, field) = (0, 1, 0);
        let frames = 1 + self.below((belief.depth - 1).min(4)) as u8;
        let all = if draft.marking && belief.objects & 1 != 0 {
            [
                Op::Load { dst: hidden, src: holder, field },
                Op::Store { obj: holder, src: 2, field },
                Op::Up { frames, src: hidden, dst: self.below(4) as u8 },
                Op::Clear { slot: hidden },
            ]
        } else {
            [
                Op::Alloc { slot: holder },
                Op::Alloc { slot: hidden },
                Op::Store { obj: holder, src: hidden, field },
                Op::Clear { slot: hidden },
            ]
        };
        draft.begun.extend(all[1..].iter().rev().map(|&op| (actor, op)));
        all[0]
    }

    /// A place that this operation is likely to pass.
    fn stop(&mut self, op: Op, belief: &Belief) -> Stop {
        let hit = weighed!(self, {75 => 1, 15 => 2, 6 => 3, 4 => 5});
        let recovers = belief.recovered && matches!(op, Op::Ret { .. });
        let protocol = protocol_of(op);
        if !protocol.is_empty() && self.chance(8) {
            let (function, index) = (self.pick(protocol), self.below(160) as u16);
            return Stop::Instr { function, index, hit, check: None };
        }
        let functions = if recovers { &[] } else { functions_of(op) };
        // A return comes to few points, and to most of the code that nothing else runs.
        let share = if matches!(op, Op::Ret { .. }) { 65 } else { 40 };
        if !functions.is_empty() && self.chance(share) {
            let function = if self.chance(90) { self.pick(functions) } else { self.pick(FuncId::ALL) };
            let index = self.below(24) as u16;
            // Coming to an instruction again costs a single step each time.
            let hit = if hit > 1 && self.chance(80) { 1 } else { hit };
            return Stop::Instr { function, index, hit, check: None };
        }
        let points = if recovers { RECOVERY } else { points_of(op) };
        let point =
            if !points.is_empty() && self.chance(92) { self.pick(points) } else { self.pick(Point::ALL) };
        Stop::Point { point, hit }
    }
}

fn option(op: Op) -> Step {
    Step { actor: Actor::World, op, stop: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_schedules() {
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
    fn what_is_made_is_canonical() {
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
    fn a_fixed_length_is_kept() {
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
