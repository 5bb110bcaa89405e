//! Making schedules: from nothing, and from others.
//!
//! A generator keeps a rough idea of what each actor is doing (held? collecting?), so that
//! most of its steps have an effect, and knows for each operation which points and
//! functions it passes, so that most of its stops are come to. It knows no defect: nothing
//! here says what should meet what.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sigstorm_runtime::{Function, Point};

use crate::schedule::{Actor, Goroutine, MAX_STEPS, Op, Schedule, Step, Stop};

/// Steps of a schedule that is made from nothing, where the length is free.
const LENGTHS: (u32, u32) = (6, 60);

/// A source of schedules.
#[derive(Debug)]
pub struct Generator {
    rng: ChaCha8Rng,
    /// The length that every schedule has, if it is fixed.
    steps: Option<usize>,
}

/// What the generator believes an actor to be doing.
#[derive(Clone, Copy, Default)]
struct Belief {
    held: bool,
    syscall: bool,
}

/// A schedule under construction.
struct Draft {
    last: Actor,
    beliefs: [Belief; 8],
    marking: bool,
    sweeping: bool,
}

impl Draft {
    fn new() -> Self {
        Draft { last: Actor::M1, beliefs: [Belief::default(); 8], marking: false, sweeping: false }
    }

    fn belief(&mut self, actor: Actor) -> &mut Belief {
        &mut self.beliefs[usize::from(actor.code())]
    }

    /// Learns what a step does.
    fn note(&mut self, step: &Step) {
        if step.actor == Actor::World {
            return;
        }
        self.last = step.actor;
        let held = self.belief(step.actor).held;
        if step.op != Op::Signal {
            self.belief(step.actor).held = step.stop.is_some();
            self.belief(step.actor).syscall = !held && step.op == Op::Syscall;
        } else if step.stop.is_some() {
            self.belief(step.actor).held = true;
        }
        if !held {
            match step.op {
                Op::Mark => self.marking = true,
                Op::Term => (self.marking, self.sweeping) = (false, true),
                Op::Sweep => self.sweeping = false,
                _ => {}
            }
        }
    }
}

impl Generator {
    /// A source that gives the same schedules for the same seed.
    pub fn new(seed: u64, steps: Option<usize>) -> Self {
        Generator { rng: ChaCha8Rng::seed_from_u64(seed), steps }
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

    /// One of some things, by weight.
    fn weighed<T: Copy>(&mut self, from: &[(u32, T)]) -> T {
        let mut left = self.below(from.iter().map(|(weight, _)| weight).sum());
        for &(weight, thing) in from {
            if left < weight {
                return thing;
            }
            left -= weight;
        }
        from[0].1
    }

    /// True now and then: better something new than another mutation.
    pub fn starts_over(&mut self) -> bool {
        self.chance(20)
    }

    /// A schedule made from nothing.
    pub fn schedule(&mut self) -> Schedule {
        let length = match self.steps {
            Some(steps) => steps,
            None => (LENGTHS.0 + self.below(LENGTHS.1 - LENGTHS.0)) as usize,
        };
        let mut steps = Vec::with_capacity(length);
        if self.chance(60) {
            steps.push(option(Op::EveryFrame));
        }
        if self.chance(30) {
            steps.push(option(Op::Stack { bytes: 2048 << self.below(4) }));
        }
        if self.chance(25) {
            steps.push(option(Op::Unreadable { every: 1 + self.below(4) as u8 }));
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
        match (self.below(12), here) {
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
                    steps[at].stop =
                        if step.stop.is_some() && self.chance(30) { None } else { Some(self.stop(step.op)) };
                }
            }
            (10, Some(at)) => {
                let other = self.below(steps.len() as u32) as usize;
                steps.swap(at, other);
            }
            (_, Some(at)) => {
                steps.truncate(at);
                for _ in 0..1 + self.below(20) {
                    let step = self.step(&mut draft);
                    steps.push(step);
                }
            }
        }
    }

    /// One more step of a draft.
    fn step(&mut self, draft: &mut Draft) -> Step {
        let stay = if draft.belief(draft.last).held { 35 } else { 66 };
        let actor = if self.chance(stay) {
            draft.last
        } else {
            self.weighed(&[(42, Actor::M1), (22, Actor::M2), (34, Actor::Gc), (2, Actor::Ext)])
        };
        let belief = *draft.belief(actor);
        let op = if belief.held || belief.syscall {
            self.weighed(&[(45, Op::Signal), (55, Op::Resume)])
        } else {
            match actor {
                Actor::Gc => self.collector_op(draft),
                Actor::Ext => self.weighed(&[(90, Op::Signal), (10, Op::Rate { on: true })]),
                _ => self.machine_op(),
            }
        };
        // A held actor that goes on is mostly let go.
        let stops = match op {
            Op::Signal => 45,
            Op::Resume => 15,
            _ => 33,
        };
        let stop = (actor != Actor::Ext && self.chance(stops)).then(|| self.stop(op));
        let step = Step { actor, op, stop };
        draft.note(&step);
        step
    }

    fn goroutine(&mut self) -> Goroutine {
        self.weighed(&[(50, Goroutine::G1), (30, Goroutine::G2), (12, Goroutine::G3), (8, Goroutine::G4)])
    }

    fn collector_op(&mut self, draft: &Draft) -> Op {
        let g = self.goroutine();
        let objects = 1 + self.below(8) as u8;
        if draft.sweeping {
            return self.weighed(&[(60, Op::Sweep), (25, Op::Shrink { g }), (15, Op::Signal)]);
        }
        if !draft.marking {
            return self.weighed(&[(70, Op::Mark), (20, Op::Shrink { g }), (10, Op::Signal)]);
        }
        self.weighed(&[
            (50, Op::Scan { g }),
            (20, Op::Term),
            (12, Op::Drain { objects }),
            (12, Op::Shrink { g }),
            (6, Op::Signal),
        ])
    }

    fn machine_op(&mut self) -> Op {
        let slots = [self.below(4) as u8, self.below(4) as u8];
        let field = self.below(2) as u8;
        let frames = 1 + self.below(4) as u8;
        let kind = self.weighed(&[
            (6, Function::Nosplit),
            (16, Function::Tiny),
            (20, Function::Small),
            (16, Function::Medium),
            (12, Function::Large),
            (8, Function::Huge),
            (18, Function::Deferring),
            (4, Function::Leaf),
        ]);
        let times = self.weighed(&[(70, 1), (15, 2), (10, 4), (5, 8)]);
        let g = self.goroutine();
        let on = self.chance(80);
        self.weighed(&[
            (28, Op::Call { kind, times }),
            (9, Op::Ret { frames }),
            (9, Op::Syscall),
            (13, Op::Signal),
            (6, Op::Panic),
            (6, Op::Recover),
            (4, Op::Yield),
            (3, Op::Run { g }),
            (3, Op::Exit),
            (1, Op::Defer),
            (5, Op::Alloc { slot: slots[0] }),
            (4, Op::Send { slot: slots[0] }),
            (6, Op::Bulk { frames }),
            (3, Op::Store { obj: slots[0], src: slots[1], field }),
            (3, Op::Load { dst: slots[0], src: slots[1], field }),
            (3, Op::Up { frames, src: slots[0], dst: slots[1] }),
            (2, Op::Ref { dst: slots[0], frames, to: slots[1] }),
            (1, Op::Move { dst: slots[0], src: slots[1] }),
            (1, Op::Clear { slot: slots[0] }),
            (1, Op::Rate { on }),
        ])
    }

    /// A place that this operation is likely to pass.
    fn stop(&mut self, op: Op) -> Stop {
        let hit = self.weighed(&[(75, 1), (15, 2), (6, 3), (4, 5)]);
        let functions = functions_of(op);
        if !functions.is_empty() && self.chance(55) {
            let function = if self.chance(90) { self.pick(functions) } else { self.pick(Function::ALL) };
            let index = self.below(24) as u16;
            // Coming to an instruction again costs a single step each time.
            let hit = if hit > 1 && self.chance(80) { 1 } else { hit };
            return Stop::Instr { function, index, hit, check: None };
        }
        let points = points_of(op);
        let point =
            if !points.is_empty() && self.chance(92) { self.pick(points) } else { self.pick(Point::ALL) };
        Stop::Point { point, hit }
    }
}

fn option(op: Op) -> Step {
    Step { actor: Actor::World, op, stop: None }
}

/// Goroutine-side code that an operation runs.
fn functions_of(op: Op) -> &'static [Function] {
    use Function::*;
    match op {
        Op::Call { kind: Nosplit, .. } => &[Nosplit, SwitchIn, SwitchOut],
        Op::Call { kind: Tiny, .. } => &[Tiny, SwitchIn, SwitchOut],
        Op::Call { kind: Small, .. } => &[Small, SwitchIn, SwitchOut],
        Op::Call { kind: Medium, .. } => &[Medium, SwitchIn, SwitchOut],
        Op::Call { kind: Large, .. } => &[Large, SwitchIn, SwitchOut],
        Op::Call { kind: Huge, .. } => &[Huge, SwitchIn, SwitchOut],
        Op::Call { kind: Deferring, .. } => &[Deferring, SwitchIn, SwitchOut],
        Op::Call { kind: Leaf, .. } => &[Leaf, SwitchIn, SwitchOut],
        Op::Ret { .. } => {
            &[Trampoline, Trampoline, Trampoline, Nosplit, Tiny, Small, Medium, Large, Deferring, Entry]
        }
        Op::Panic => &[Gopanic, Tiny, SwitchIn, SwitchOut],
        Op::Exit => &[Goexit, Tiny, SwitchIn, SwitchOut],
        Op::Syscall => &[Syscall, SwitchIn, SwitchOut],
        Op::Run { .. } => &[Entry, SwitchIn, SwitchOut],
        Op::Resume => &[Syscall, SwitchIn, SwitchOut, Tiny, Small, Deferring, Trampoline],
        _ => &[],
    }
}

/// Scheduling points that an operation comes to.
fn points_of(op: Op) -> &'static [Point] {
    use Point::*;
    match op {
        Op::Signal => &[
            HandlerBegin,
            HandlerTried,
            HandlerEnd,
            LockAcquired,
            LockRelease,
            TracebackBegin,
            TracebackFrame,
            TracebackFrame,
            TracebackBarrier,
            TracebackDone,
        ],
        Op::Call { .. } => &[
            CopyBegin,
            CopyCopied,
            CopyBarriers,
            CopyBounds,
            CopySwitched,
            CopyFrame,
            CopyAdjusted,
            CopyPoisoned,
            LockAcquired,
            LockRelease,
            ScanSelf,
            StatusChanged,
            InstallEntry,
            InstallSlot,
        ],
        Op::Ret { .. } | Op::Exit | Op::Panic | Op::Recover => &[
            RecoverBegin,
            RecoverSwitched,
            UnwindBegin,
            UnwindSlot,
            UnwindMoved,
            LockAcquired,
            LockRelease,
            ExitBegin,
            ExitCleared,
            RemoveSlot,
            Dropped,
            StatusChanged,
        ],
        Op::Bulk { .. } => {
            &[BulkBegin, UnwindBegin, UnwindSlot, UnwindMoved, BulkDone, LockAcquired, LockRelease]
        }
        Op::Store { .. } | Op::Up { .. } | Op::Send { .. } => &[WriteBarrier],
        Op::Syscall | Op::Resume => {
            &[SyscallSaved, SyscallEntered, SyscallExiting, SyscallExited, TracebackFrame, LockRelease]
        }
        Op::Yield | Op::Run { .. } => &[StatusChanged, Dropped, Taken],
        Op::Scan { .. } => &[
            ScanBegin,
            ScanFrame,
            ScanDone,
            ScanAsked,
            InstallBegin,
            InstallEntry,
            InstallSlot,
            LockAcquired,
            LockRelease,
            StatusChanged,
        ],
        Op::Term => &[
            StopWorld,
            PhaseChanged,
            ScanBegin,
            ScanFrame,
            RemoveBegin,
            RemoveSlot,
            RemoveDone,
            LockAcquired,
            LockRelease,
            Blacken,
            StartWorld,
        ],
        Op::Mark => &[StopWorld, PhaseChanged, StartWorld],
        Op::Drain { .. } => &[Blacken],
        Op::Shrink { .. } => &[
            CopyBegin,
            CopyCopied,
            CopyBarriers,
            CopyBounds,
            CopySwitched,
            CopyFrame,
            CopyAdjusted,
            CopyPoisoned,
            LockAcquired,
        ],
        _ => &[],
    }
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
