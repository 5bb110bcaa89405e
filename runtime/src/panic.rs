//! Defers, panics and recovery.
//!
//! A deferring frame registers calls. A panic runs them, last first, from a frame of its
//! own (`gopanic`) on top of the stack; a deferred call may panic again, recover, or
//! call whatever it likes. When a deferred call that has recovered returns, every frame
//! below the deferring one is abandoned and that one goes on at its landing. Frames are
//! abandoned with barriers in them, so a recovery unwinds barriers first, and it holds
//! the stack lock from there until the saved state is the landing's: until then a walk
//! would find a position that belongs to the new stack and registers of the old one.
//!
//! A goroutine that ends itself runs its defers in the same way (`goexit`) and then ends
//! where it stands, as does one whose panic nobody recovers.
//!
//! In a callback from foreign code a panic is the callback's own: it runs the calls that were
//! deferred there, and if none of them recovers it is stopped by the callback's frame, which
//! goes on at its landing. There nobody can end the goroutine: foreign code waits above.

use crate::barrier;
use crate::function::Function;
use crate::g::G;
use crate::lock::Operation;
use crate::m::{Left, M};
use crate::table;

/// How many calls a goroutine can have deferred at a time.
pub const MAX_DEFERS: usize = 64;
/// How many panics it can be in at a time.
pub const MAX_PANICS: usize = 16;

/// A deferred call.
#[derive(Clone, Copy, Debug)]
struct Defer {
    /// SP in the body of the frame that deferred it.
    frame: usize,
    function: Function,
    started: bool,
}

/// A panic, or a goroutine's own exit, under way.
#[derive(Clone, Copy, Debug)]
struct Panic {
    /// SP in the body of its `gopanic` or `goexit` frame; zero until it has asked.
    frame: usize,
    exits: bool,
    running: bool,
    recovered: bool,
}

/// A goroutine's defers and panics, innermost last.
#[derive(Debug)]
pub(crate) struct Unwinding {
    defers: [Defer; MAX_DEFERS],
    deferred: usize,
    panics: [Panic; MAX_PANICS],
    panicking: usize,
}

/// What a panicking frame does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwind {
    /// It calls this deferred function.
    Call(Function),
    /// A deferred call has recovered, or a callback stops the panic: on to the landing of the
    /// frame that deferred it, or of the callback's.
    Recover {
        /// Distance from the top of the stack down to SP in that frame's body: the stack may
        /// move before the recovery.
        below: usize,
    },
    /// No deferred call is left: the goroutine ends.
    End,
}

/// The same while the stack cannot move: where SP is in the body of the frame that deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Call(Function),
    Recover { frame: usize },
    End,
}

impl Unwinding {
    pub(crate) const fn new() -> Self {
        const DEFER: Defer = Defer { frame: 0, function: Function::Tiny, started: false };
        const PANIC: Panic = Panic { frame: 0, exits: false, running: false, recovered: false };
        Unwinding { defers: [DEFER; MAX_DEFERS], deferred: 0, panics: [PANIC; MAX_PANICS], panicking: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.deferred = 0;
        self.panicking = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deferred == 0 && self.panicking == 0
    }

    /// Moves every stack address from one stack to another, by `delta`.
    pub(crate) fn adjust(&mut self, delta: usize) {
        for defer in &mut self.defers[..self.deferred] {
            defer.frame = defer.frame.wrapping_add(delta);
        }
        for panic in &mut self.panics[..self.panicking] {
            if panic.frame != 0 {
                panic.frame = panic.frame.wrapping_add(delta);
            }
        }
    }

    fn last(&self) -> Option<Defer> {
        self.defers[..self.deferred].last().copied()
    }

    /// The panics whose frames lie below `frame` are over.
    fn recover_to(&mut self, frame: usize) -> Next {
        while self.panicking > 0 && self.panics[self.panicking - 1].frame < frame {
            self.panicking -= 1;
        }
        Next::Recover { frame }
    }

    /// Decides what the innermost panicking frame does next. What was deferred above the body
    /// of the callback that it is in, if it is in one, is not its own.
    fn next(&mut self, frame: usize, callback: Option<usize>) -> Next {
        let limit = callback.unwrap_or(usize::MAX);
        let Some(panic) = self.panics[..self.panicking].last_mut() else { return Next::End };
        panic.frame = frame;
        if panic.running {
            panic.running = false;
            let recovered = panic.recovered;
            // The call that has returned is the innermost one left: those it deferred ran.
            self.deferred = self.deferred.saturating_sub(1);
            if recovered {
                // Panics whose frames are abandoned are over as well.
                return self.recover_to(self.defers[self.deferred].frame);
            }
        }
        // A call that an earlier panic had started is not run twice; that panic is aborted.
        while self.last().is_some_and(|d| d.started && d.frame < limit) {
            self.deferred -= 1;
        }
        match (self.defers[..self.deferred].last_mut().filter(|d| d.frame < limit), callback) {
            (None, Some(callback)) => self.recover_to(callback),
            (None, None) => Next::End,
            (Some(defer), _) => {
                defer.started = true;
                self.panics[self.panicking - 1].running = true;
                Next::Call(defer.function)
            }
        }
    }
}

impl M {
    /// Registers a deferred call of `function` for the current frame. False where there
    /// is no room for another.
    pub fn defer(&'static self, function: Function) -> bool {
        let Some(g) = self.current() else { return false };
        let _busy = self.busy();
        // SAFETY: this thread runs `g`, and nothing else here refers to its defers.
        let unwinding = unsafe { g.unwinding() };
        let Some(free) = unwinding.defers.get_mut(unwinding.deferred) else { return false };
        *free = Defer { frame: g.sched.sp.get(), function, started: false };
        unwinding.deferred += 1;
        true
    }

    /// A frame that is about to return: the deferred call that it must make first.
    pub fn deferred_before_return(&'static self) -> Option<Function> {
        let g = self.current()?;
        // A collector that has stopped the world may be moving SP and the defers.
        let _busy = self.busy();
        // SAFETY: this thread runs `g`, and nothing else here refers to its defers.
        let unwinding = unsafe { g.unwinding() };
        let defer = unwinding.last().filter(|d| d.frame == g.sched.sp.get() && !d.started)?;
        unwinding.deferred -= 1;
        Some(defer.function)
    }

    /// Begins a panic, or with `exits` the goroutine's own end: calls `gopanic` or
    /// `goexit`. None where too many are under way, or for an exit in a callback.
    pub fn panic(&'static self, exits: bool) -> Option<Left> {
        let g = self.current().filter(|_| !exits || self.foreign_calls() == 0)?;
        {
            let _busy = self.busy();
            // SAFETY: this thread runs `g`, and nothing else here refers to its panics.
            let unwinding = unsafe { g.unwinding() };
            let free = unwinding.panics.get_mut(unwinding.panicking)?;
            *free = Panic { frame: 0, exits, running: false, recovered: false };
            unwinding.panicking += 1;
        }
        Some(self.call(if exits { Function::Goexit } else { Function::Gopanic }))
    }

    /// Where a panicking frame asks: what it does next.
    pub fn unwind_next(&'static self) -> Unwind {
        let Some(g) = self.current() else { return Unwind::End };
        let _busy = self.busy();
        // SAFETY: this thread runs `g`, and nothing else here refers to its panics.
        match unsafe { g.unwinding() }.next(g.sched.sp.get(), g.transitions.innermost_callback()) {
            Next::Call(function) => Unwind::Call(function),
            Next::Recover { frame } => Unwind::Recover { below: g.stack.top.get() - frame },
            Next::End => Unwind::End,
        }
    }

    /// Recovers the innermost panic. False unless the current frame is the deferred call
    /// that this panic has made.
    pub fn recover(&'static self) -> bool {
        let Some(g) = self.current() else { return false };
        let _busy = self.busy();
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

    /// Abandons every frame below the one whose body's SP lies `below` bytes below the top of
    /// the stack, and goes on at its landing.
    pub fn recovery(&'static self, below: usize) -> Left {
        let Some(g) = self.current() else { return Left::Exited };
        let busy = self.busy();
        let frame = g.stack.top.get() - below;
        self.land(g, frame);
        self.resume(g, 0, busy)
    }

    /// Unwinds the barriers below `frame` and makes its landing the place to go on from.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn land(&'static self, g: &'static G, frame: usize) {
        crate::point!(RecoverBegin, g);
        let guard = crate::lock_unless!(RecoverUnwindUnlocked, self, g, Operation::Recover);
        barrier::unwind(g, frame);
        let is_callback = g.transitions.innermost_callback() == Some(frame);
        let info = table::info(if is_callback { Function::Callback } else { Function::Deferring });
        g.sched.pc.set(info.landing);
        g.sched.bp.set(frame + info.size);
        g.sched.sp.set(frame);
        crate::point!(RecoverSwitched, g);
        drop(guard);
    }
}

/// Moves `g`'s defers and panics along with its stack.
///
/// # Safety
/// The caller owns `g`.
pub(crate) unsafe fn adjust(g: &G, delta: usize) {
    // SAFETY: the owner's (caller), and nothing else here refers to them.
    unsafe { g.unwinding() }.adjust(delta);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(frames: &[usize], panics: usize) -> Unwinding {
        let mut u = Unwinding::new();
        for &frame in frames {
            u.defers[u.deferred] = Defer { frame, function: Function::Tiny, started: false };
            u.deferred += 1;
        }
        for _ in 0..panics {
            begin(&mut u);
        }
        u
    }

    fn begin(u: &mut Unwinding) {
        u.panics[u.panicking] = Panic { frame: 0, exits: false, running: false, recovered: false };
        u.panicking += 1;
    }

    #[test]
    fn a_panic_runs_the_last_defer_first_and_then_ends() {
        let mut u = with(&[900, 800], 1);
        assert_eq!(u.next(100, None), Next::Call(Function::Tiny));
        assert_eq!(u.deferred, 2);
        assert_eq!(u.next(100, None), Next::Call(Function::Tiny));
        assert_eq!(u.deferred, 1);
        assert_eq!(u.next(100, None), Next::End);
    }

    #[test]
    fn a_recovered_panic_lands_in_the_frame_that_deferred() {
        let mut u = with(&[900, 800], 1);
        u.next(100, None);
        u.panics[0].recovered = true;
        assert_eq!(u.next(100, None), Next::Recover { frame: 800 });
        assert_eq!((u.deferred, u.panicking), (1, 0));
    }

    #[test]
    fn a_nested_panic_skips_the_call_it_came_from_and_takes_the_outer_panic_along() {
        let mut u = with(&[900, 800], 1);
        u.next(100, None);
        begin(&mut u);
        assert_eq!(u.next(50, None), Next::Call(Function::Tiny));
        u.panics[1].recovered = true;
        assert_eq!(u.next(50, None), Next::Recover { frame: 900 });
        assert_eq!((u.deferred, u.panicking), (0, 0));
    }

    #[test]
    fn a_callback_stops_a_panic_and_leaves_what_was_deferred_above_alone() {
        // A deferred call that the first panic has made calls foreign code, which calls back.
        let mut u = with(&[900, 300], 1);
        u.defers[0].started = true;
        (u.panics[0].frame, u.panics[0].running) = (800, true);
        begin(&mut u);
        assert_eq!(u.next(100, Some(500)), Next::Call(Function::Tiny));
        assert_eq!(u.next(100, Some(500)), Next::Recover { frame: 500 });
        assert_eq!((u.deferred, u.panicking), (1, 1), "those above the callback");
        assert_eq!(u.next(800, None), Next::End);
    }
}
