//! What the generator believes that a schedule has done so far.
//!
//! A rough idea of each actor (held? collecting? how deep?), made from the steps alone and
//! never from a run. Often wrong, which costs a step.

use sigstorm_runtime::Function;

use crate::schedule::{Actor, Op, Step};

/// What the generator believes an actor to be doing. Often wrong, which costs a step.
#[derive(Clone, Copy, Default)]
pub(super) struct Belief {
    pub(super) held: bool,
    /// True while it is in its signal handler.
    pub(super) handles: bool,
    pub(super) syscall: bool,
    /// Frames of its goroutine, the outermost included; none without a goroutine.
    pub(super) depth: u32,
    /// Frames with a deferred call.
    pub(super) deferring: u32,
    /// True while a deferred call of a panic is the innermost frame.
    pub(super) panicking: bool,
    /// True once that call has recovered.
    pub(super) recovered: bool,
    /// Slots of the innermost frame that hold objects, as a set.
    pub(super) objects: u8,
}

/// A schedule under construction.
pub(super) struct Draft {
    pub(super) last: Actor,
    pub(super) beliefs: [Belief; 8],
    pub(super) marking: bool,
    pub(super) sweeping: bool,
}

impl Draft {
    pub(super) fn new() -> Self {
        Draft { last: Actor::M1, beliefs: [Belief::default(); 8], marking: false, sweeping: false }
    }

    pub(super) fn belief(&mut self, actor: Actor) -> &mut Belief {
        &mut self.beliefs[usize::from(actor.code())]
    }

    /// Learns what a step does.
    pub(super) fn note(&mut self, step: &Step) {
        if step.actor == Actor::World {
            return;
        }
        self.last = step.actor;
        let belief = self.belief(step.actor);
        if step.op == Op::Pend {
            return;
        }
        if step.op == Op::Signal {
            belief.held |= step.stop.is_some();
            belief.handles |= step.stop.is_some();
            return;
        }
        if belief.held || belief.syscall {
            // Whatever it is told, it goes on.
            belief.held = false;
            belief.handles = false;
            belief.syscall = false;
            return;
        }
        belief.held = step.stop.is_some();
        belief.note(step.op);
        match step.op {
            Op::Mark => self.marking = true,
            Op::Term if self.marking => (self.marking, self.sweeping) = (false, true),
            Op::Sweep => self.sweeping = false,
            _ => {}
        }
    }
}

impl Belief {
    fn note(&mut self, op: Op) {
        match op {
            Op::Call { kind: Function::Leaf, .. } => {}
            Op::Call { kind, times } => {
                self.depth = self.depth.max(1) + u32::from(times);
                self.objects = 0;
                if kind == Function::Deferring {
                    self.deferring += u32::from(times);
                }
            }
            Op::Ret { frames } => {
                self.depth = self.depth.saturating_sub(u32::from(frames));
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
            Op::Panic | Op::Exit | Op::Yield | Op::Run { .. } => {
                *self = Belief { held: self.held, ..Belief::default() };
                self.depth = u32::from(matches!(op, Op::Run { .. }));
            }
            Op::Syscall => {
                self.syscall = true;
                self.depth = self.depth.max(1);
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
