//! One step after the other: who acts, what it does, and where it is held.

use sigstorm_runtime::{FuncId, Point};

use super::Generator;
use super::abstract_state::{AbstractState, Draft};
use super::stop_sites::{RECOVERY, changes_a_stack, functions_of, points_of, protocol_of};
use crate::schedule::{Actor, Goroutine, Op, Step, Stop, Work};

// The candidates of a choice; the operands of the chosen one follow.
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

impl Generator {
    /// One more step of a draft.
    pub(super) fn step(&mut self, draft: &mut Draft) -> Step {
        if let Some((actor, op)) = draft.begun.pop() {
            let step = Step { actor, op, stop: None };
            draft.note(&step);
            return step;
        }
        let last = draft.last;
        let stay = match (last, draft.state(last).held) {
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
        let state = *draft.state(actor);
        // Told anything but a signal, a thread that is held goes on; one that is not after all
        // does as it is told.
        let op = match (state.held || state.syscall || state.foreign, actor) {
            (_, Actor::Ext) => self.outside_op(state.held),
            (true, _) if state.handles && self.chance(8) => Op::Pend,
            (true, _) if self.chance(if actor == Actor::Gc { 3 } else { 34 }) => Op::Signal,
            (true, _) if state.foreign && !state.held && self.chance(60) => Op::Callback,
            (true, _) if self.chance(10) => Op::Resume,
            (_, Actor::Gc) => self.collector_op(draft),
            _ if state.depth > 1 && self.chance(3) => self.hide(actor, &state, draft),
            _ => self.machine_op(&state, draft),
        };
        let stops = match op {
            Op::Signal => 34,
            _ if state.held => 12,
            _ if changes_a_stack(op) => 50,
            Op::Ret { .. } if state.recovered => 65,
            Op::Ret { .. } => 40,
            Op::Call { .. } | Op::Syscall | Op::Panic | Op::Exit => 26,
            Op::Foreign | Op::Callback => 26,
            Op::Rate { .. } | Op::Hz { .. } | Op::Read | Op::Attach | Op::Detach => 30,
            _ => 12,
        };
        let stop = self.chance(stops).then(|| self.stop(op, &state));
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
    fn object(&mut self, state: &AbstractState) -> u8 {
        let first = self.below(4) as u8;
        (0..4).map(|i| (first + i) % 4).find(|slot| state.objects & 1 << slot != 0).unwrap_or(first)
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

    fn machine_op(&mut self, state: &AbstractState, draft: &Draft) -> Op {
        // Better one that has something on its stack.
        let elsewhere = 8 * u32::from(draft.left_with_frames() != 0);
        let parked = draft.parked.min(3);
        // Only with a goroutine, with a frame above, with an object, in a deferred call.
        let lives = u32::from(state.depth > 0);
        let above = u32::from(state.depth > 1);
        let has = u32::from(state.objects != 0);
        let defers = u32::from(state.deferring > 0);
        // Only without foreign frames on its thread's stack.
        let free = u32::from(state.callbacks == 0);
        let op = weighed!(self, {
            34 => CALL,
            6 => Op::Syscall,
            5 => Op::Foreign,
            6 => Op::Alloc { slot: 0 },
            4 + elsewhere => RUN,
            1 => RATE,
            1 => HZ,
            lives => Op::Signal,
            if state.recovered { 50 } else { 12 * above } => Op::Ret { frames: 1 },
            lives + 10 * defers => Op::Panic,
            if state.panicking && !state.recovered { 50 } else { 0 } => Op::Recover,
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
            Op::Ret { .. } => Op::Ret { frames: self.frames(state) },
            Op::Bulk { .. } => Op::Bulk { frames: self.frames(state) },
            Op::Ref { .. } => {
                Op::Ref { dst: self.slot(), frames: self.frames(state), to: self.below(2) as u8 }
            }
            Op::Send { .. } => Op::Send { slot: self.object(state) },
            Op::Store { .. } => {
                Op::Store { obj: self.object(state), src: self.slot(), field: self.below(2) as u8 }
            }
            Op::Load { .. } => {
                Op::Load { dst: self.slot(), src: self.object(state), field: self.below(2) as u8 }
            }
            Op::Up { .. } => Op::Up { frames: self.frames(state), src: self.object(state), dst: self.slot() },
            Op::Move { .. } => Op::Move { dst: self.slot(), src: self.object(state) },
            Op::Clear { .. } => Op::Clear { slot: self.object(state) },
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

    /// As many frames as there may be above the innermost one.
    fn frames(&mut self, state: &AbstractState) -> u8 {
        1 + self.below(state.depth.saturating_sub(1).clamp(1, 4)) as u8
    }

    /// Begins to hide an object from the collector: it hangs on another one, and while that waits to be
    /// looked at, a frame further up takes it over.
    fn hide(&mut self, actor: Actor, state: &AbstractState, draft: &mut Draft) -> Op {
        let (holder, hidden, field) = (0, 1, 0);
        let frames = 1 + self.below((state.depth - 1).min(4)) as u8;
        let all = if draft.marking && state.objects & 1 != 0 {
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

    /// A stop that this operation is likely to reach.
    pub(super) fn stop(&mut self, op: Op, state: &AbstractState) -> Stop {
        let hit = weighed!(self, {75 => 1, 15 => 2, 6 => 3, 4 => 5});
        let recovers = state.recovered && matches!(op, Op::Ret { .. });
        let protocol = protocol_of(op);
        if !protocol.is_empty() && self.chance(8) {
            let (function, index) = (self.pick(protocol), self.below(160) as u16);
            return Stop::Instr { function, index, hit, check: None };
        }
        let functions = if recovers { &[] } else { functions_of(op) };
        // A return reaches few points, and most of the code that nothing else runs.
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
