//! Goroutines run, call, return, enter the kernel, change machines, end.

use std::thread;

use sigstorm_runtime::g::status;
use sigstorm_runtime::table;
use sigstorm_runtime::traceback::{WalkError, saved};
use sigstorm_runtime::{Config, Function, Left};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, be, calls, chain, frames, machines, returns_to_the_end, start};

/// The kinds whose calls come back with an ask.
const KINDS: [Function; 7] = [
    Function::Nosplit,
    Function::Tiny,
    Function::Small,
    Function::Medium,
    Function::Large,
    Function::Huge,
    Function::Deferring,
];

#[test]
fn every_kind_can_call_every_kind() {
    passes("running::every_kind_can_call_every_kind", || {
        let w = machines(Config::default());
        let g = w.g(1);
        for outer in KINDS {
            for inner in KINDS {
                start(w.m0, g);
                calls(w.m0, &[outer, inner]);
                assert_eq!(chain(g), [inner, outer, Function::Entry]);
                returns_to_the_end(w.m0, 3);
                assert_eq!(g.status.get(), status::DEAD);
            }
        }
    });
}

#[test]
fn a_walk_gives_the_frames_that_the_table_describes() {
    passes("running::a_walk_gives_the_frames_that_the_table_describes", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small, Function::Large, Function::Tiny]);
        let found = frames(g).expect("a walk");
        let mut sp = g.sched.sp.get();
        for (index, frame) in found.iter().enumerate() {
            let info = table::info(frame.row.function().expect("a function"));
            assert_eq!(frame.pc, if index == 0 { info.after_ask } else { info.after_call });
            assert_eq!(frame.sp, sp);
            sp += info.size + 16;
        }
        // Every frame and the zero that ends the chain, up to the top.
        assert_eq!(sp, g.stack.top.get() + 8);
    });
}

#[test]
fn a_leaf_and_a_second_call_leave_the_chain_as_it_was() {
    passes("running::a_leaf_and_a_second_call_leave_the_chain_as_it_was", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small]);
        let before = g.sched.sp.get();
        for _ in 0..3 {
            assert_eq!(w.m0.call(Function::Leaf), Left::Asks);
            assert_eq!((chain(g), g.sched.sp.get()), (vec![Function::Small, Function::Entry], before));
            calls(w.m0, &[Function::Tiny]);
            assert_eq!(w.m0.ret(), Left::Asks);
        }
    });
}

#[test]
fn a_system_call_is_walked_from_its_transition_point() {
    passes("running::a_system_call_is_walked_from_its_transition_point", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Medium]);
        assert_eq!(w.m0.call(Function::Syscall), Left::InSyscall);
        assert_eq!(g.status.get(), status::SYSCALL);
        assert_eq!(g.sched.sp.get(), 0);
        assert_eq!(saved(g).map(|s| s.sp), Ok(g.syscall.sp.get()));
        assert_eq!(chain(g), [Function::Syscall, Function::Medium, Function::Entry]);
        assert!(w.core.is_safe(0), "a machine in a system call holds nobody up");
        assert_eq!(w.m0.leave_syscall(), Left::Asks);
        assert_eq!(g.syscall.sp.get(), 0);
        assert_eq!(g.status.get(), status::RUNNING);
        assert_eq!(chain(g), [Function::Medium, Function::Entry]);
        assert_eq!(w.m0.leave_syscall(), Left::Exited, "there is none to leave");
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn a_goroutine_goes_on_where_it_was_on_another_machine() {
    passes("running::a_goroutine_goes_on_where_it_was_on_another_machine", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small, Function::Large]);
        assert!(!w.m1.take(g), "it runs elsewhere");
        assert!(w.m0.yield_now());
        assert_eq!(g.status.get(), status::RUNNABLE);
        thread::spawn(move || {
            be(w.m1);
            assert!(w.m1.take(g));
            assert!(!w.m1.take(w.g(2)), "a machine has one goroutine");
            assert_eq!(chain(g), [Function::Large, Function::Small, Function::Entry]);
            returns_to_the_end(w.m1, 3);
        })
        .join()
        .expect("the other machine");
        assert!(!w.m0.yield_now(), "there is nothing to yield");
        assert_eq!(w.m0.call(Function::Tiny), Left::Exited, "there is nobody to call");
    });
}

#[test]
fn a_dead_goroutine_starts_anew_on_its_stack() {
    passes("running::a_dead_goroutine_starts_anew_on_its_stack", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Huge; 2]);
        let (lo, size) = (g.stack.lo.get(), g.stack.size());
        assert!(size > 2 * 2304);
        assert_eq!(w.m0.end(), Left::Exited);
        assert_eq!(g.status.get(), status::DEAD);
        start(w.m0, g);
        assert_eq!((g.stack.lo.get(), g.stack.size()), (lo, size));
    });
}

#[test]
fn a_goroutine_that_ends_in_a_system_call_starts_anew_from_the_start() {
    passes("running::a_goroutine_that_ends_in_a_system_call_starts_anew_from_the_start", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Tiny; 4]);
        assert_eq!(w.m0.call(Function::Syscall), Left::InSyscall);
        assert_eq!(w.m0.end(), Left::Exited);
        assert_eq!(g.syscall.sp.get(), 0, "the transition point of the life before is still there");

        start(w.m0, g);
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        assert_eq!(g.barriers.len(), 0, "a lone outermost frame has nothing to put a barrier over");
        assert_eq!(chain(g), [Function::Entry]);
    });
}

#[test]
fn nothing_is_saved_of_a_goroutine_that_was_never_run() {
    passes("running::nothing_is_saved_of_a_goroutine_that_was_never_run", || {
        let w = machines(Config::default());
        assert_eq!(saved(w.g(4)), Err(WalkError::NothingSaved));
        assert!(w.m0.take(w.g(4)));
        assert_eq!(chain(w.g(4)), [Function::Entry]);
    });
}
