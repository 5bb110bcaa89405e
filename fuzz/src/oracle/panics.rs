//! The model of panics: the next step of a panic, by the language's rules.
//!
//! The rules are told of the chain of frames, where the core has a list of deferred calls and one of panics:
//!
//! - a frame's deferred calls run before it returns, or when a panic reaches it: the innermost frame
//!   first, and each call once, even if a panic that began it was itself overtaken by another;
//! - the deferred call itself, and no frame that it calls, recovers the panic that has called it;
//! - once a call that has recovered returns, the frame that deferred it continues at its landing;
//! - in a callback only calls deferred there run, and then the callback continues at its landing;
//! - if no deferred call is left, the goroutine ends.

use super::shadow_stack::{ShadowFrame, ShadowStack};
use sigstorm_runtime::FuncId;
use sigstorm_runtime::sched::panic::{MAX_DEFERS, MAX_PANICS, Unwind};

/// The deferred calls of a frame, and the deferred call that a panicking frame has begun.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unwinding {
    /// Calls that it has deferred and that nobody has begun.
    deferred: usize,
    /// Of a panicking frame: whose deferred call it has begun, by the frame's place in the chain.
    runs: Option<usize>,
    /// That call has recovered.
    recovered: bool,
}

impl Unwinding {
    pub(super) const NONE: Unwinding = Unwinding { deferred: 0, runs: None, recovered: false };
}

fn panics(frame: &ShadowFrame) -> bool {
    matches!(frame.function, FuncId::Gopanic | FuncId::Goexit)
}

impl ShadowStack {
    /// The innermost frame has deferred a call, or, as the core says, there was no room for
    /// another. False where there was.
    pub fn defers(&mut self, did: bool) -> bool {
        let frames = &mut self.frames[..self.len];
        // A call that was begun is listed until it returns or its panic is overtaken.
        let listed: usize = frames.iter().map(|f| f.unwinding.deferred + usize::from(panics(f))).sum();
        if did && let Some(top) = frames.last_mut() {
            top.unwinding.deferred += 1;
        }
        did || listed >= MAX_DEFERS
    }

    /// Whether the innermost frame, which is about to return, must make a deferred call first.
    /// That is then begun.
    pub fn defers_before_return(&mut self) -> bool {
        let Some(top) = self.frames[..self.len].last_mut() else { return false };
        let must = top.unwinding.deferred != 0;
        top.unwinding.deferred -= usize::from(must);
        must
    }

    /// Whether a panic can begin, or with `exits` the goroutine's own end.
    pub fn can_panic(&self, exits: bool) -> bool {
        let under_way = self.frames().iter().filter(|f| panics(f)).count();
        under_way < MAX_PANICS && !(exits && self.is_in_foreign_call())
    }

    /// Whether there is a panic or an exit under way, so that it can be tried to recover.
    pub fn is_panicking(&self) -> bool {
        self.frames().iter().any(panics)
    }

    /// Whether the innermost frame can recover: it is the deferred call that a panic has made.
    /// It has recovered then.
    pub fn recovers(&mut self) -> bool {
        let Some(caller) = self.frame(1) else { return false };
        let Unwinding { runs, recovered, .. } = caller.unwinding;
        let can = caller.function == FuncId::Gopanic && runs.is_some() && !recovered;
        caller.unwinding.recovered |= can;
        can
    }

    /// The next step of the innermost frame, which is a panicking one; the deferred call that it
    /// makes is `function`.
    pub fn unwinds(&mut self, function: FuncId) -> Unwind {
        let callback = self.frames().iter().rposition(|f| f.function == FuncId::Callback);
        let lands_in = |frame: &ShadowFrame| Unwind::Recover { below: frame.body };
        let (frames, panicking) = match self.frames[..self.len].split_last_mut() {
            Some((panicking, frames)) => (frames, panicking),
            None => return Unwind::End,
        };
        let Unwinding { runs, recovered, .. } = core::mem::take(&mut panicking.unwinding);
        if let Some(index) = runs.filter(|_| recovered) {
            return lands_in(&frames[index]);
        }
        let from = callback.map_or(0, |index| index + 1);
        let next = (from..frames.len()).rev().find(|&index| frames[index].unwinding.deferred != 0);
        match (next, callback) {
            (Some(index), _) => {
                frames[index].unwinding.deferred -= 1;
                panicking.unwinding.runs = Some(index);
                Unwind::Call(function)
            }
            (None, Some(index)) => lands_in(&frames[index]),
            (None, None) => Unwind::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shadow_stack::Pending;
    use super::*;

    const CALL: Unwind = Unwind::Call(FuncId::Tiny);

    fn chain(functions: &[FuncId]) -> ShadowStack {
        let mut stack = ShadowStack::new();
        stack.start();
        stack.settled();
        functions.iter().for_each(|&function| push(&mut stack, function));
        stack
    }

    fn push(stack: &mut ShadowStack, function: FuncId) {
        stack.pending = Pending::Call(function);
        stack.called();
        if function == FuncId::Deferring {
            assert!(stack.defers(true));
        }
    }

    fn landing(stack: &ShadowStack, index: usize) -> Unwind {
        Unwind::Recover { below: stack.frames()[index].body }
    }

    #[test]
    fn panic_runs_deferred_calls_innermost_first_and_then_ends() {
        let mut stack = chain(&[FuncId::Deferring, FuncId::Deferring, FuncId::Gopanic]);
        assert_eq!([(); 3].map(|()| stack.unwinds(FuncId::Tiny)), [CALL, CALL, Unwind::End]);
    }

    #[test]
    fn recovered_panic_continues_in_the_frame_that_deferred() {
        let mut stack = chain(&[FuncId::Deferring, FuncId::Small, FuncId::Gopanic]);
        assert_eq!(stack.unwinds(FuncId::Tiny), CALL);
        push(&mut stack, FuncId::Tiny);
        push(&mut stack, FuncId::Small);
        assert!(!stack.recovers(), "a frame that the deferred call calls");
        stack.returned();
        assert!(stack.recovers());
        assert!(!stack.recovers(), "twice");
        stack.returned();
        assert_eq!(stack.unwinds(FuncId::Tiny), landing(&stack, 1));
    }

    #[test]
    fn deferred_call_begins_once_whatever_becomes_of_its_panic() {
        let mut stack = chain(&[FuncId::Deferring, FuncId::Deferring, FuncId::Gopanic]);
        assert_eq!(stack.unwinds(FuncId::Tiny), CALL);
        push(&mut stack, FuncId::Tiny);
        push(&mut stack, FuncId::Gopanic);
        assert_eq!([(); 2].map(|()| stack.unwinds(FuncId::Tiny)), [CALL, Unwind::End]);
    }

    #[test]
    fn callback_stops_panics_that_foreign_code_would_not_see() {
        let foreign = [FuncId::Deferring, FuncId::Cgocall, FuncId::Callback];
        let mut stack = chain(&foreign);
        push(&mut stack, FuncId::Deferring);
        assert!(stack.can_panic(false) && !stack.can_panic(true));
        push(&mut stack, FuncId::Gopanic);
        assert_eq!(stack.unwinds(FuncId::Tiny), CALL);
        assert_eq!(stack.unwinds(FuncId::Tiny), landing(&stack, 3));
    }

    #[test]
    fn deferred_calls_are_refused_when_the_list_is_full() {
        let mut stack = chain(&[FuncId::Deferring]);
        assert!(!stack.defers(false), "one of 64");
        (1..MAX_DEFERS).for_each(|_| assert!(stack.defers(true)));
        assert!(stack.defers(false));
        assert!(stack.defers_before_return());
    }
}
