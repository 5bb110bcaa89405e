//! The defers and panics of a goroutine, and the rules by which a panic runs deferred calls.
//!
//! [`super::panic`] has the operations on them.

use crate::unwind::func_id::FuncId;

/// Most calls that a goroutine can have deferred at a time.
pub const MAX_DEFERS: usize = 64;
/// Most panics that a goroutine can be in at a time.
pub const MAX_PANICS: usize = 16;

/// A deferred call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defer {
    /// SP in the body of the frame that deferred it.
    pub(crate) frame: usize,
    pub(crate) function: FuncId,
    pub(crate) started: bool,
}

/// A panic, or a goroutine's own exit, under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panic {
    /// SP in the body of its `gopanic` or `goexit` frame; zero until it has asked.
    pub(crate) frame: usize,
    pub(crate) exits: bool,
    pub(crate) running: bool,
    pub(crate) recovered: bool,
}

/// A goroutine's defers and panics, innermost last.
#[derive(Debug)]
pub(crate) struct Unwinding {
    pub(crate) defers: [Defer; MAX_DEFERS],
    pub(crate) deferred: usize,
    pub(crate) panics: [Panic; MAX_PANICS],
    pub(crate) panicking: usize,
}

/// The next step of a panicking frame, while the stack cannot move: a recovery names SP in the body
/// of the frame that deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnwindStep {
    Call(FuncId),
    Recover { frame: usize },
    End,
}

impl Unwinding {
    pub(crate) const fn new() -> Self {
        const DEFER: Defer = Defer { frame: 0, function: FuncId::Tiny, started: false };
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

    /// Adjusts every stack address by `delta`, from one stack to another.
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

    pub(super) fn last(&self) -> Option<Defer> {
        self.defers[..self.deferred].last().copied()
    }

    /// Ends the panics whose frames lie below `frame`.
    fn recover_to(&mut self, frame: usize) -> UnwindStep {
        while self.panicking > 0 && self.panics[self.panicking - 1].frame < frame {
            self.panicking -= 1;
        }
        UnwindStep::Recover { frame }
    }

    /// Decides the next step of the innermost panicking frame. If the frame is in a callback, calls
    /// that were deferred above the callback's body are not its own.
    pub(super) fn next(&mut self, frame: usize, callback: Option<usize>) -> UnwindStep {
        let limit = callback.unwrap_or(usize::MAX);
        let Some(panic) = self.panics[..self.panicking].last_mut() else { return UnwindStep::End };
        panic.frame = frame;
        if panic.running {
            panic.running = false;
            let recovered = panic.recovered;
            // The call that has returned is the innermost one left: the calls that it deferred ran.
            self.deferred = self.deferred.saturating_sub(1);
            if recovered {
                // Panics whose frames are abandoned are over as well.
                return self.recover_to(self.defers[self.deferred].frame);
            }
        }
        // A call that an earlier panic has started is not run twice; that panic is aborted.
        while self.last().is_some_and(|d| d.started && d.frame < limit) {
            self.deferred -= 1;
        }
        match (self.defers[..self.deferred].last_mut().filter(|d| d.frame < limit), callback) {
            (None, Some(callback)) => self.recover_to(callback),
            (None, None) => UnwindStep::End,
            (Some(defer), _) => {
                defer.started = true;
                self.panics[self.panicking - 1].running = true;
                UnwindStep::Call(defer.function)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(frames: &[usize], panics: usize) -> Unwinding {
        let mut u = Unwinding::new();
        for &frame in frames {
            u.defers[u.deferred] = Defer { frame, function: FuncId::Tiny, started: false };
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
    fn panic_runs_last_defer_first_and_then_ends_the_goroutine() {
        let mut u = with(&[900, 800], 1);
        assert_eq!(u.next(100, None), UnwindStep::Call(FuncId::Tiny));
        assert_eq!(u.deferred, 2);
        assert_eq!(u.next(100, None), UnwindStep::Call(FuncId::Tiny));
        assert_eq!(u.deferred, 1);
        assert_eq!(u.next(100, None), UnwindStep::End);
    }

    #[test]
    fn recovered_panic_lands_in_the_frame_that_deferred() {
        let mut u = with(&[900, 800], 1);
        u.next(100, None);
        u.panics[0].recovered = true;
        assert_eq!(u.next(100, None), UnwindStep::Recover { frame: 800 });
        assert_eq!((u.deferred, u.panicking), (1, 0));
    }

    #[test]
    fn nested_panic_skips_the_call_that_raised_it_and_ends_the_outer_panic() {
        let mut u = with(&[900, 800], 1);
        u.next(100, None);
        begin(&mut u);
        assert_eq!(u.next(50, None), UnwindStep::Call(FuncId::Tiny));
        u.panics[1].recovered = true;
        assert_eq!(u.next(50, None), UnwindStep::Recover { frame: 900 });
        assert_eq!((u.deferred, u.panicking), (0, 0));
    }

    #[test]
    fn callback_stops_a_panic_and_keeps_calls_deferred_above_it() {
        // The first panic has made a deferred call, which calls foreign code, which calls back in.
        let mut u = with(&[900, 300], 1);
        u.defers[0].started = true;
        (u.panics[0].frame, u.panics[0].running) = (800, true);
        begin(&mut u);
        assert_eq!(u.next(100, Some(500)), UnwindStep::Call(FuncId::Tiny));
        assert_eq!(u.next(100, Some(500)), UnwindStep::Recover { frame: 500 });
        assert_eq!((u.deferred, u.panicking), (1, 1), "the defers and panics above the callback");
        assert_eq!(u.next(800, None), UnwindStep::End);
    }
}
