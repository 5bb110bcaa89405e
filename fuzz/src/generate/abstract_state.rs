//! An abstract state of each actor, interpreted from the steps of a schedule.
//!
//! It is a rough idea (held? collecting? how deep?), made from the steps alone and
//! never from a run. It is often wrong, which costs a step without an effect.

use sigstorm_runtime::FuncId;
use sigstorm_runtime::sched::foreign::MAX_CALLBACKS;

use crate::schedule::{Actor, Op, Step, Work};

/// The state of an actor, as far as its steps tell.
#[derive(Clone, Copy, Default)]
pub(super) struct AbstractState {
    pub(super) held: bool,
    /// It is in its signal handler.
    pub(super) handles: bool,
    pub(super) syscall: bool,
    /// In foreign code.
    pub(super) foreign: bool,
    /// Callbacks under way.
    pub(super) callbacks: u32,
    /// The depth at which the innermost callback's frame is the innermost one.
    pub(super) called_back_at: u32,
    /// Its goroutine, by index; counts only where there is one.
    pub(super) runs: usize,
    /// Frames of its goroutine, the outermost included; none without a goroutine.
    pub(super) depth: u32,
    /// Frames with a deferred call.
    pub(super) deferring: u32,
    /// A deferred call of a panic is the innermost frame.
    pub(super) panicking: bool,
    /// That call has recovered.
    pub(super) recovered: bool,
    /// Slots of the innermost frame that hold objects, as a set.
    pub(super) objects: u8,
}

/// A schedule under construction.
pub(super) struct Draft {
    pub(super) last: Actor,
    pub(super) states: [AbstractState; 8],
    pub(super) marking: bool,
    pub(super) sweeping: bool,
    /// How many goroutines are parked.
    pub(super) parked: u32,
    /// Operations that an actor has begun and does next, last first.
    pub(super) begun: Vec<(Actor, Op)>,
    /// The frames that goroutines had when they were dropped, and those with a deferred call.
    left: [(u32, u32); 4],
}

impl Draft {
    pub(super) fn new() -> Self {
        Draft {
            last: Actor::M1,
            states: [AbstractState::default(); 8],
            marking: false,
            sweeping: false,
            parked: 0,
            begun: Vec::new(),
            left: [(0, 0); 4],
        }
    }

    pub(super) fn state(&mut self, actor: Actor) -> &mut AbstractState {
        &mut self.states[usize::from(actor.code())]
    }

    /// Learns what a step does.
    pub(super) fn note(&mut self, step: &Step) {
        if step.actor == Actor::World {
            return;
        }
        self.last = step.actor;
        let state = self.state(step.actor);
        if step.op == Op::Pend {
            return;
        }
        if step.op == Op::Signal {
            state.held |= step.stop.is_some();
            state.handles |= step.stop.is_some();
            return;
        }
        if state.held || state.syscall {
            // It goes on, whatever the step says.
            state.held = false;
            state.handles = false;
            state.syscall = false;
            return;
        }
        state.held = step.stop.is_some();
        if state.foreign {
            state.note_in_foreign_code(step.op);
            return;
        }
        let before = *state;
        let lived = before.depth > 0;
        state.note(step.op);
        match step.op {
            // Nothing takes it from its thread.
            Op::Run { .. } | Op::Yield | Op::Park if before.callbacks > 0 => {}
            Op::Run { g } => {
                self.let_go(&before);
                let index = usize::from(g.code());
                let (depth, deferring) = core::mem::take(&mut self.left[index]);
                let state = self.state(step.actor);
                (state.runs, state.depth, state.deferring) = (index, depth.max(1), deferring);
            }
            Op::Yield | Op::Park => self.let_go(&before),
            _ if !lived && state.depth > 0 => {
                // It has taken the first that it could have.
                state.runs = usize::from(step.actor == Actor::M2);
            }
            _ if lived && state.depth == 0 => self.left[before.runs] = (0, 0),
            _ => {}
        }
        match step.op {
            Op::Mark | Op::Collect { work: Work::Mark } => self.marking = !self.sweeping,
            Op::Term | Op::Collect { work: Work::Term } if self.marking => {
                (self.marking, self.sweeping) = (false, true);
            }
            Op::Sweep | Op::Collect { work: Work::Sweep } => self.sweeping = false,
            Op::Park => self.parked += u32::from(lived),
            Op::Ready { .. } => self.parked = self.parked.saturating_sub(1),
            _ => {}
        }
    }
}

impl Draft {
    /// Goroutines that were let go with frames on their stacks, as a set.
    pub(super) fn left_with_frames(&self) -> u8 {
        let deep = |(index, (depth, _)): (usize, &(u32, u32))| u8::from(*depth > 1) << index;
        self.left.iter().enumerate().map(deep).fold(0, |set, bit| set | bit)
    }

    fn let_go(&mut self, state: &AbstractState) {
        if state.depth > 0 {
            self.left[state.runs] = (state.depth, state.deferring);
        }
    }
}

impl AbstractState {
    /// In foreign code it calls back in, or returns.
    fn note_in_foreign_code(&mut self, op: Op) {
        if op != Op::Callback {
            self.foreign = false;
        } else if (self.callbacks as usize) < MAX_CALLBACKS {
            self.foreign = false;
            self.callbacks += 1;
            self.depth += 2;
            self.called_back_at = self.depth;
        }
    }

    /// A callback has returned. The depth at which the one around it began is not known any more.
    fn note_end_of_callback(&mut self) {
        self.foreign = true;
        self.callbacks -= 1;
        self.depth = self.called_back_at - 2;
        self.called_back_at = self.depth;
    }

    fn note(&mut self, op: Op) {
        match op {
            Op::Call { kind: FuncId::Leaf, .. } => {}
            Op::Call { kind, times } => {
                self.depth = self.depth.max(1) + u32::from(times);
                self.objects = 0;
                if kind == FuncId::Deferring {
                    self.deferring += u32::from(times);
                }
            }
            Op::Ret { frames } => {
                let left = self.depth.saturating_sub(u32::from(frames));
                if self.callbacks > 0 && left < self.called_back_at {
                    self.note_end_of_callback();
                } else {
                    self.depth = left;
                }
                self.objects = 0;
                self.panicking = false;
                self.recovered = false;
            }
            Op::Recover => self.recovered = self.panicking,
            Op::Panic if self.deferring > 0 => {
                self.deferring -= 1;
                self.panicking = true;
                self.objects = 0;
            }
            // The callback's frame stops it; and nothing takes the goroutine from its thread.
            Op::Panic if self.callbacks > 0 => self.depth = self.called_back_at,
            Op::Exit | Op::Yield | Op::Park | Op::Run { .. } if self.callbacks > 0 => {}
            Op::Panic | Op::Exit | Op::Yield | Op::Park | Op::Run { .. } => {
                *self = AbstractState { held: self.held, ..AbstractState::default() };
                self.depth = u32::from(matches!(op, Op::Run { .. }));
            }
            Op::Syscall => {
                self.syscall = true;
                self.depth = self.depth.max(1);
            }
            Op::Foreign => {
                self.foreign = true;
                self.depth = self.depth.max(1);
                self.objects = 0;
            }
            Op::Alloc { slot } => {
                self.objects |= 1 << slot;
                self.depth = self.depth.max(1);
            }
            Op::Move { dst, src } => {
                self.objects = self.objects & !(1 << dst) | (self.objects >> src & 1) << dst;
            }
            Op::Clear { slot: dst } | Op::Send { slot: dst } | Op::Load { dst, .. } | Op::Ref { dst, .. } => {
                self.objects &= !(1 << dst);
            }
            _ => {}
        }
    }
}
