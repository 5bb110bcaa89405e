//! Defers, panics and recovery.
//!
//! A deferring frame registers calls. A panic runs them, last first, from a frame of its own
//! (`gopanic`) on top of the stack. A deferred call may panic again, recover, or call any function.
//! When a deferred call that has recovered returns, every frame below the deferring one is
//! abandoned, and that one goes on at its landing.
//!
//! Abandoned frames may have barriers over them, so a recovery unwinds barriers first. It holds the
//! stack lock from there until the saved state is the landing's: until then a walk would find a
//! position that belongs to the new stack, and registers of the old one.
//!
//! A goroutine that ends itself runs its defers in the same way (`goexit`) and then ends where it
//! stands, as does a goroutine whose panic no deferred call recovers.
//!
//! In a callback from foreign code a panic is the callback's own. It runs the calls that were
//! deferred there. If none of them recovers, the callback's frame stops the panic and goes on at its
//! landing. A goroutine cannot be ended there, since foreign code waits above.

use super::defers::{Defer, Panic, UnwindStep};
use super::foreign::innermost_callback;
use super::m::M;
use super::run::RunResult;
use crate::sched::g::G;
use crate::stack::barrier;
use crate::stack::lock_word::Operation;
use crate::unwind::func_id::FuncId;
use crate::unwind::functab;

pub use super::defers::{MAX_DEFERS, MAX_PANICS};

/// The next step of a panicking frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwind {
    /// It calls this deferred function.
    Call(FuncId),
    /// A deferred call has recovered, or a callback stops the panic: the goroutine goes on at the
    /// landing of the frame that deferred the call, or of the callback's frame.
    Recover {
        /// Distance in bytes from the top of the stack down to SP in that frame's body. It is a
        /// distance, since the stack may move before the recovery.
        below: usize,
    },
    /// No deferred call is left: the goroutine ends.
    End,
}

impl M {
    /// Registers a deferred call of `function` for the current frame. Returns false if there is no
    /// room for another.
    pub fn defer(&'static self, function: FuncId) -> bool {
        let Some(g) = self.current() else { return false };
        let _running = self.leave_safepoint();
        // SAFETY: this thread runs `g`, and nothing else here refers to its defers.
        let unwinding = unsafe { g.unwinding() };
        let Some(free) = unwinding.defers.get_mut(unwinding.deferred) else { return false };
        *free = Defer { frame: g.sched.sp.get(), function, started: false };
        unwinding.deferred += 1;
        true
    }

    /// Returns the deferred call that a frame must make before it returns.
    pub fn deferred_before_return(&'static self) -> Option<FuncId> {
        let g = self.current()?;
        // A collector that has stopped the world may be changing SP and the defers.
        let _running = self.leave_safepoint();
        // SAFETY: this thread runs `g`, and nothing else here refers to its defers.
        let unwinding = unsafe { g.unwinding() };
        let defer = unwinding.last().filter(|d| d.frame == g.sched.sp.get() && !d.started)?;
        unwinding.deferred -= 1;
        Some(defer.function)
    }

    /// Begins a panic, or with `exits` the goroutine's own end: calls `gopanic` or `goexit`. Returns
    /// none if too many panics are under way, or for an exit in a callback.
    pub fn panic(&'static self, exits: bool) -> Option<RunResult> {
        let g = self.current().filter(|_| !exits || self.foreign_calls() == 0)?;
        {
            let _running = self.leave_safepoint();
            // SAFETY: this thread runs `g`, and nothing else here refers to its panics.
            let unwinding = unsafe { g.unwinding() };
            let free = unwinding.panics.get_mut(unwinding.panicking)?;
            *free = Panic { frame: 0, exits, running: false, recovered: false };
            unwinding.panicking += 1;
        }
        Some(self.enter(if exits { FuncId::Goexit } else { FuncId::Gopanic }))
    }

    /// Returns the next step of a panicking frame, which asks for it.
    pub fn unwind_next(&'static self) -> Unwind {
        let Some(g) = self.current() else { return Unwind::End };
        let _running = self.leave_safepoint();
        // SAFETY: this thread runs `g`, and nothing else here refers to its panics.
        match unsafe { g.unwinding() }.next(g.sched.sp.get(), innermost_callback(g)) {
            UnwindStep::Call(function) => Unwind::Call(function),
            UnwindStep::Recover { frame } => Unwind::Recover { below: g.stack.top.get() - frame },
            UnwindStep::End => Unwind::End,
        }
    }

    /// Recovers the innermost panic. Returns false unless the current frame is the deferred call that
    /// this panic has made.
    pub fn recover(&'static self) -> bool {
        let Some(g) = self.current() else { return false };
        let _running = self.leave_safepoint();
        // SAFETY: this thread runs `g`, and nothing else here refers to its panics.
        let unwinding = unsafe { g.unwinding() };
        let Some(panic) = unwinding.panics[..unwinding.panicking].last_mut() else { return false };
        // The frame above the current one is the panic's: its SP is this one's end.
        let called_by_panic = g.sched.bp.get() + 16 == panic.frame;
        if !called_by_panic || !panic.running || panic.exits || panic.recovered {
            return false;
        }
        panic.recovered = true;
        true
    }

    /// Abandons every frame below the one whose SP, in its body, lies `below` bytes below the top of
    /// the stack, and goes on at the landing of that frame.
    pub fn recovery(&'static self, below: usize) -> RunResult {
        let Some(g) = self.current() else { return RunResult::Exited };
        let running = self.leave_safepoint();
        let frame = g.stack.top.get() - below;
        self.land(g, frame);
        self.resume(g, 0, running)
    }

    /// Unwinds the barriers below `frame`, and makes the landing of that frame the saved place.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn land(&'static self, g: &'static G, frame: usize) {
        crate::point!(RecoverBegin, g);
        let guard = crate::lock_unless!(RecoverUnwindUnlocked, self, g, Operation::Recover);
        barrier::unwind(g, frame);
        let is_callback = innermost_callback(g) == Some(frame);
        let info = functab::info(if is_callback { FuncId::Callback } else { FuncId::Deferring });
        g.sched.pc.set(info.landing);
        g.sched.bp.set(frame + info.size);
        g.sched.sp.set(frame);
        crate::point!(RecoverSwitched, g);
        drop(guard);
    }
}
