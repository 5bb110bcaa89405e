//! Defers, panics, recovery, a goroutine's own end.

use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::panic::{MAX_DEFERS, MAX_PANICS, Unwind};
use sigstorm_runtime::{Config, FuncId, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, Machines, calls, chain, machines, returns_to_the_end, start};

/// A deferring frame with one defer, two frames below it, and a panic on top.
fn panicking(config: Config) -> (Machines, usize) {
    let w = machines(config);
    start(w.m0, w.g(1));
    calls(w.m0, &[FuncId::Deferring]);
    let frame = w.g(1).sched.sp.get();
    assert!(w.m0.defer(FuncId::Medium));
    calls(w.m0, &[FuncId::Small, FuncId::Large]);
    assert_eq!(w.m0.panic(false), Some(RunResult::NextOp));
    assert_eq!(w.m0.unwind_next(), Unwind::Call(FuncId::Medium));
    calls(w.m0, &[FuncId::Medium]);
    (w, frame)
}

#[test]
fn recovered_panic_resumes_in_the_deferring_frame() {
    passes("panics::recovered_panic_resumes_in_the_deferring_frame", || {
        // The stack has grown since the defer was registered, so ask for one that is large.
        let (w, frame) = panicking(Config { initial_stack: 16384, ..Config::default() });
        assert_eq!(
            chain(w.g(1)),
            [FuncId::Medium, FuncId::Gopanic, FuncId::Large, FuncId::Small, FuncId::Deferring, FuncId::Entry]
        );
        assert!(w.m0.recover());
        assert!(!w.m0.recover(), "it is recovered already");
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        let below = w.g(1).stack.top.get() - frame;
        assert_eq!(w.m0.unwind_next(), Unwind::Recover { below });
        assert_eq!(w.m0.recovery(below), RunResult::NextOp);
        assert_eq!(chain(w.g(1)), [FuncId::Deferring, FuncId::Entry]);
        assert_eq!(w.g(1).sched.sp.get(), frame);
        assert_eq!(w.m0.deferred_before_return(), None);
        // The landing is as good a body as any other.
        calls(w.m0, &[FuncId::Huge, FuncId::Tiny]);
        returns_to_the_end(w.m0, 4);
    });
}

#[test]
fn recovery_unwinds_barriers_of_abandoned_frames() {
    passes("panics::recovery_unwinds_barriers_of_abandoned_frames", || {
        let (w, _) = panicking(EVERY_FRAME);
        let g = w.g(1);
        assert!(w.m0.recover());
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        // Not over the innermost frame's return address, nor is there one in the outermost.
        assert_eq!((g.barriers.len(), g.barriers.position()), (4, 0));
        assert!(w.m0.take(g));
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert_eq!(g.barriers.position(), 0);
        let Unwind::Recover { below } = w.m0.unwind_next() else { panic!("it is not recovered") };
        assert_eq!(w.m0.recovery(below), RunResult::NextOp);
        assert_eq!((g.barriers.len(), g.barriers.position()), (4, 3), "all but the landing's own");
        assert_eq!(chain(g), [FuncId::Deferring, FuncId::Entry]);
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert_eq!(g.barriers.pending(), 0, "the return has hit the last one");
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_terminate());
        assert!(g.barriers.is_empty());
    });
}

#[test]
fn copystack_adjusts_defers_and_panics() {
    passes("panics::copystack_adjusts_defers_and_panics", || {
        let (w, _) = panicking(Config::default());
        let g = w.g(1);
        let size = g.stack.size();
        calls(w.m0, &[FuncId::Huge, FuncId::Huge]);
        assert!(g.stack.size() > size);
        assert_eq!((w.m0.ret(), w.m0.ret()), (RunResult::NextOp, RunResult::NextOp));
        assert!(w.m0.recover(), "the panic's frame has moved with its stack");
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        let Unwind::Recover { below } = w.m0.unwind_next() else { panic!("it is not recovered") };
        assert!(below <= g.stack.top.get() - g.sched.sp.get());
        assert_eq!(w.m0.recovery(below), RunResult::NextOp);
        assert_eq!(chain(g), [FuncId::Deferring, FuncId::Entry]);
    });
}

#[test]
fn panic_can_be_recovered_only_by_its_own_deferred_call() {
    passes("panics::panic_can_be_recovered_only_by_its_own_deferred_call", || {
        let (w, _) = panicking(Config::default());
        calls(w.m0, &[FuncId::Tiny]);
        assert!(!w.m0.recover(), "a frame below the deferred call");
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert!(!w.m0.recover(), "the panic's own frame");
        assert_eq!(w.m0.unwind_next(), Unwind::End);
        assert_eq!(w.m0.end(), RunResult::Exited);
        assert_eq!(w.g(1).status.get(), status::DEAD);
        assert!(w.m0.holds_no_lock());
        assert_eq!(w.g(1).lock.owner(), None);
    });
}

#[test]
fn recovered_nested_panic_ends_the_outer_panic() {
    passes("panics::recovered_nested_panic_ends_the_outer_panic", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Deferring]);
        assert!(w.m0.defer(FuncId::Tiny));
        calls(w.m0, &[FuncId::Deferring]);
        assert!(w.m0.defer(FuncId::Small));
        assert_eq!(w.m0.panic(false), Some(RunResult::NextOp));
        assert_eq!(w.m0.unwind_next(), Unwind::Call(FuncId::Small));
        calls(w.m0, &[FuncId::Small]);
        assert_eq!(w.m0.panic(false), Some(RunResult::NextOp));
        assert_eq!(w.m0.unwind_next(), Unwind::Call(FuncId::Tiny), "the one it came from is not run twice");
        calls(w.m0, &[FuncId::Tiny]);
        assert_eq!(chain(g).len(), 7);
        assert!(w.m0.recover());
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        let Unwind::Recover { below } = w.m0.unwind_next() else { panic!("it is not recovered") };
        assert_eq!(w.m0.recovery(below), RunResult::NextOp);
        assert_eq!(chain(g), [FuncId::Deferring, FuncId::Entry]);
        assert!(!w.m0.recover(), "no panic is left");
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn goexit_runs_defers_and_cannot_be_recovered() {
    passes("panics::goexit_runs_defers_and_cannot_be_recovered", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Deferring]);
        assert!(w.m0.defer(FuncId::Small));
        assert!(w.m0.defer(FuncId::Tiny));
        calls(w.m0, &[FuncId::Medium]);
        assert_eq!(w.m0.panic(true), Some(RunResult::NextOp));
        for function in [FuncId::Tiny, FuncId::Small] {
            assert_eq!(w.m0.unwind_next(), Unwind::Call(function));
            calls(w.m0, &[function]);
            assert_eq!(
                chain(g),
                [function, FuncId::Goexit, FuncId::Medium, FuncId::Deferring, FuncId::Entry]
            );
            assert!(!w.m0.recover());
            assert_eq!(w.m0.ret(), RunResult::NextOp);
        }
        // It ends with barriers in frames that will never return.
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        assert_eq!(g.barriers.pending(), 2);
        assert!(w.m0.take(g));
        assert_eq!(w.m0.unwind_next(), Unwind::End);
        assert_eq!(w.m0.end(), RunResult::Exited);
        assert!(g.barriers.is_empty());
        start(w.m0, g);
        assert_eq!(w.m0.panic(false), Some(RunResult::NextOp));
        assert_eq!(w.m0.unwind_next(), Unwind::End, "no defer of the life before is left");
    });
}

#[test]
fn return_runs_own_defers_last_first() {
    passes("panics::return_runs_own_defers_last_first", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Deferring]);
        assert!(w.m0.defer(FuncId::Tiny));
        assert!(w.m0.defer(FuncId::Small));
        calls(w.m0, &[FuncId::Deferring]);
        assert_eq!(w.m0.deferred_before_return(), None, "they are another frame's");
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert_eq!(w.m0.deferred_before_return(), Some(FuncId::Small));
        assert_eq!(w.m0.deferred_before_return(), Some(FuncId::Tiny));
        assert_eq!(w.m0.deferred_before_return(), None);
    });
}

#[test]
fn defers_and_panics_beyond_the_maximum_are_refused() {
    passes("panics::defers_and_panics_beyond_the_maximum_are_refused", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Deferring]);
        for _ in 0..MAX_DEFERS {
            assert!(w.m0.defer(FuncId::Tiny));
        }
        assert!(!w.m0.defer(FuncId::Tiny));
        for _ in 0..MAX_PANICS {
            assert_eq!(w.m0.panic(false), Some(RunResult::NextOp));
            assert_eq!(w.m0.unwind_next(), Unwind::Call(FuncId::Tiny));
            calls(w.m0, &[FuncId::Tiny]);
        }
        let before = chain(w.g(1));
        assert_eq!(w.m0.panic(false), None);
        assert_eq!(chain(w.g(1)), before);
    });
}
