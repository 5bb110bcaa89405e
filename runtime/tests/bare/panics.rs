//! Defers, panics, recovery, a goroutine's own end.

use sigstorm_runtime::g::status;
use sigstorm_runtime::panic::{MAX_DEFERS, MAX_PANICS, Unwind};
use sigstorm_runtime::{Config, Function, Left};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, Machines, calls, chain, machines, returns_to_the_end, start};

/// A deferring frame with one defer, two frames below it, and a panic on top.
fn panicking(config: Config) -> (Machines, usize) {
    let w = machines(config);
    start(w.m0, w.g(1));
    calls(w.m0, &[Function::Deferring]);
    let frame = w.g(1).sched.sp.get();
    assert!(w.m0.defer(Function::Medium));
    calls(w.m0, &[Function::Small, Function::Large]);
    assert_eq!(w.m0.panic(false), Some(Left::Asks));
    assert_eq!(w.m0.unwind_next(), Unwind::Call(Function::Medium));
    calls(w.m0, &[Function::Medium]);
    (w, frame)
}

#[test]
fn a_recovered_panic_goes_on_in_the_frame_that_deferred() {
    passes("panics::a_recovered_panic_goes_on_in_the_frame_that_deferred", || {
        // The stack has grown since the defer was registered, so ask for one that is large.
        let (w, frame) = panicking(Config { initial_stack: 16384, ..Config::default() });
        assert_eq!(
            chain(w.g(1)),
            [
                Function::Medium,
                Function::Gopanic,
                Function::Large,
                Function::Small,
                Function::Deferring,
                Function::Entry
            ]
        );
        assert!(w.m0.recover());
        assert!(!w.m0.recover(), "it is recovered already");
        assert_eq!(w.m0.ret(), Left::Asks);
        let below = w.g(1).stack.top.get() - frame;
        assert_eq!(w.m0.unwind_next(), Unwind::Recover { below });
        assert_eq!(w.m0.recovery(below), Left::Asks);
        assert_eq!(chain(w.g(1)), [Function::Deferring, Function::Entry]);
        assert_eq!(w.g(1).sched.sp.get(), frame);
        assert_eq!(w.m0.deferred_before_return(), None);
        // The landing is as good a body as any other.
        calls(w.m0, &[Function::Huge, Function::Tiny]);
        returns_to_the_end(w.m0, 4);
    });
}

#[test]
fn a_recovery_unwinds_the_barriers_of_the_frames_it_abandons() {
    passes("panics::a_recovery_unwinds_the_barriers_of_the_frames_it_abandons", || {
        let (w, _) = panicking(EVERY_FRAME);
        let g = w.g(1);
        assert!(w.m0.recover());
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        // Not over the innermost frame's return address, nor is there one in the outermost.
        assert_eq!((g.barriers.len(), g.barriers.position()), (4, 0));
        assert!(w.m0.take(g));
        assert_eq!(w.m0.ret(), Left::Asks);
        assert_eq!(g.barriers.position(), 0);
        let Unwind::Recover { below } = w.m0.unwind_next() else { panic!("it is not recovered") };
        assert_eq!(w.m0.recovery(below), Left::Asks);
        assert_eq!((g.barriers.len(), g.barriers.position()), (4, 3), "all but the landing's own");
        assert_eq!(chain(g), [Function::Deferring, Function::Entry]);
        assert_eq!(w.m0.ret(), Left::Asks);
        assert_eq!(g.barriers.pending(), 0, "the return has hit the last one");
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_terminate());
        assert!(g.barriers.is_empty());
    });
}

#[test]
fn a_stack_that_moves_takes_defers_and_panics_along() {
    passes("panics::a_stack_that_moves_takes_defers_and_panics_along", || {
        let (w, _) = panicking(Config::default());
        let g = w.g(1);
        let size = g.stack.size();
        calls(w.m0, &[Function::Huge, Function::Huge]);
        assert!(g.stack.size() > size);
        assert_eq!((w.m0.ret(), w.m0.ret()), (Left::Asks, Left::Asks));
        assert!(w.m0.recover(), "the panic's frame has moved with its stack");
        assert_eq!(w.m0.ret(), Left::Asks);
        let Unwind::Recover { below } = w.m0.unwind_next() else { panic!("it is not recovered") };
        assert!(below <= g.stack.top.get() - g.sched.sp.get());
        assert_eq!(w.m0.recovery(below), Left::Asks);
        assert_eq!(chain(g), [Function::Deferring, Function::Entry]);
    });
}

#[test]
fn only_the_call_that_the_panic_made_can_recover_it() {
    passes("panics::only_the_call_that_the_panic_made_can_recover_it", || {
        let (w, _) = panicking(Config::default());
        calls(w.m0, &[Function::Tiny]);
        assert!(!w.m0.recover(), "a frame below the deferred call");
        assert_eq!(w.m0.ret(), Left::Asks);
        assert_eq!(w.m0.ret(), Left::Asks);
        assert!(!w.m0.recover(), "the panic's own frame");
        assert_eq!(w.m0.unwind_next(), Unwind::End);
        assert_eq!(w.m0.end(), Left::Exited);
        assert_eq!(w.g(1).status.get(), status::DEAD);
        assert!(w.m0.holds_no_lock());
        assert_eq!(w.g(1).lock.owner(), None);
    });
}

#[test]
fn a_nested_panic_takes_the_outer_one_along() {
    passes("panics::a_nested_panic_takes_the_outer_one_along", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Deferring]);
        assert!(w.m0.defer(Function::Tiny));
        calls(w.m0, &[Function::Deferring]);
        assert!(w.m0.defer(Function::Small));
        assert_eq!(w.m0.panic(false), Some(Left::Asks));
        assert_eq!(w.m0.unwind_next(), Unwind::Call(Function::Small));
        calls(w.m0, &[Function::Small]);
        assert_eq!(w.m0.panic(false), Some(Left::Asks));
        assert_eq!(w.m0.unwind_next(), Unwind::Call(Function::Tiny), "the one it came from is not run twice");
        calls(w.m0, &[Function::Tiny]);
        assert_eq!(chain(g).len(), 7);
        assert!(w.m0.recover());
        assert_eq!(w.m0.ret(), Left::Asks);
        let Unwind::Recover { below } = w.m0.unwind_next() else { panic!("it is not recovered") };
        assert_eq!(w.m0.recovery(below), Left::Asks);
        assert_eq!(chain(g), [Function::Deferring, Function::Entry]);
        assert!(!w.m0.recover(), "no panic is left");
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn a_goroutine_that_ends_itself_runs_its_defers_and_cannot_be_recovered() {
    passes("panics::a_goroutine_that_ends_itself_runs_its_defers_and_cannot_be_recovered", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Deferring]);
        assert!(w.m0.defer(Function::Small));
        assert!(w.m0.defer(Function::Tiny));
        calls(w.m0, &[Function::Medium]);
        assert_eq!(w.m0.panic(true), Some(Left::Asks));
        for function in [Function::Tiny, Function::Small] {
            assert_eq!(w.m0.unwind_next(), Unwind::Call(function));
            calls(w.m0, &[function]);
            assert_eq!(
                chain(g),
                [function, Function::Goexit, Function::Medium, Function::Deferring, Function::Entry]
            );
            assert!(!w.m0.recover());
            assert_eq!(w.m0.ret(), Left::Asks);
        }
        // It ends with barriers in frames that will never return.
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        assert_eq!(g.barriers.pending(), 2);
        assert!(w.m0.take(g));
        assert_eq!(w.m0.unwind_next(), Unwind::End);
        assert_eq!(w.m0.end(), Left::Exited);
        assert!(g.barriers.is_empty());
        start(w.m0, g);
        assert_eq!(w.m0.panic(false), Some(Left::Asks));
        assert_eq!(w.m0.unwind_next(), Unwind::End, "no defer of the life before is left");
    });
}

#[test]
fn a_return_makes_the_frames_own_deferred_calls_last_first() {
    passes("panics::a_return_makes_the_frames_own_deferred_calls_last_first", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Deferring]);
        assert!(w.m0.defer(Function::Tiny));
        assert!(w.m0.defer(Function::Small));
        calls(w.m0, &[Function::Deferring]);
        assert_eq!(w.m0.deferred_before_return(), None, "they are another frame's");
        assert_eq!(w.m0.ret(), Left::Asks);
        assert_eq!(w.m0.deferred_before_return(), Some(Function::Small));
        assert_eq!(w.m0.deferred_before_return(), Some(Function::Tiny));
        assert_eq!(w.m0.deferred_before_return(), None);
    });
}

#[test]
fn too_many_defers_and_panics_are_refused() {
    passes("panics::too_many_defers_and_panics_are_refused", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Deferring]);
        for _ in 0..MAX_DEFERS {
            assert!(w.m0.defer(Function::Tiny));
        }
        assert!(!w.m0.defer(Function::Tiny));
        for _ in 0..MAX_PANICS {
            assert_eq!(w.m0.panic(false), Some(Left::Asks));
            assert_eq!(w.m0.unwind_next(), Unwind::Call(Function::Tiny));
            calls(w.m0, &[Function::Tiny]);
        }
        let before = chain(w.g(1));
        assert_eq!(w.m0.panic(false), None);
        assert_eq!(chain(w.g(1)), before);
    });
}
