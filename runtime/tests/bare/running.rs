//! Goroutines run, call, return, enter the kernel, change machines, end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use sigstorm_runtime::instrument::bench_api;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::unwind::functab;
use sigstorm_runtime::unwind::traceback::{WalkError, saved};
use sigstorm_runtime::{Config, FuncId, M, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, KINDS, be, calls, chain, frames, machines, returns_to_the_end, start};

#[test]
fn every_frame_kind_can_call_every_frame_kind() {
    passes("running::every_frame_kind_can_call_every_frame_kind", || {
        let w = machines(Config::default());
        let g = w.g(1);
        for outer in KINDS {
            for inner in KINDS {
                start(w.m0, g);
                calls(w.m0, &[outer, inner]);
                assert_eq!(chain(g), [inner, outer, FuncId::Entry]);
                returns_to_the_end(w.m0, 3);
                assert_eq!(g.status.get(), status::DEAD);
            }
        }
    });
}

#[test]
fn walk_yields_the_frames_that_functab_describes() {
    passes("running::walk_yields_the_frames_that_functab_describes", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Large, FuncId::Tiny]);
        let found = frames(g).expect("a walk");
        let mut sp = g.sched.sp.get();
        for (index, frame) in found.iter().enumerate() {
            let info = functab::info(frame.row.function().expect("a function"));
            assert_eq!(frame.pc, if index == 0 { info.after_next_op } else { info.after_call });
            assert_eq!(frame.sp, sp);
            sp += info.size + 16;
        }
        // Every frame and the zero that ends the chain, up to the top.
        assert_eq!(sp, g.stack.top.get() + 8);
    });
}

#[test]
fn leaf_call_and_second_call_leave_the_chain_unchanged() {
    passes("running::leaf_call_and_second_call_leave_the_chain_unchanged", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small]);
        let before = g.sched.sp.get();
        for _ in 0..3 {
            assert_eq!(w.m0.call(FuncId::Leaf), RunResult::NextOp);
            assert_eq!((chain(g), g.sched.sp.get()), (vec![FuncId::Small, FuncId::Entry], before));
            calls(w.m0, &[FuncId::Tiny]);
            assert_eq!(w.m0.ret(), RunResult::NextOp);
        }
    });
}

#[test]
fn g_in_syscall_is_walked_from_its_transition_point() {
    passes("running::g_in_syscall_is_walked_from_its_transition_point", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Medium]);
        assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
        assert_eq!(g.status.get(), status::SYSCALL);
        assert_eq!(g.sched.sp.get(), 0);
        assert_eq!(saved(g).map(|s| s.sp), Ok(g.syscall.sp.get()));
        assert_eq!(chain(g), [FuncId::Syscall, FuncId::Medium, FuncId::Entry]);
        assert!(w.runtime.at_safepoint(0), "a machine in a system call is at a safepoint");
        assert_eq!(w.m0.leave_syscall(), RunResult::NextOp);
        assert_eq!(g.syscall.sp.get(), 0);
        assert_eq!(g.status.get(), status::RUNNING);
        assert_eq!(chain(g), [FuncId::Medium, FuncId::Entry]);
        assert_eq!(w.m0.leave_syscall(), RunResult::Exited, "there is none to leave");
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn yielded_g_resumes_in_place_on_another_machine() {
    passes("running::yielded_g_resumes_in_place_on_another_machine", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Large]);
        assert!(!w.m1.take(g), "it runs elsewhere");
        assert!(w.m0.yield_now());
        assert_eq!(g.status.get(), status::RUNNABLE);
        thread::spawn(move || {
            be(w.m1);
            assert!(w.m1.take(g));
            assert!(!w.m1.take(w.g(2)), "a machine has one goroutine");
            assert_eq!(chain(g), [FuncId::Large, FuncId::Small, FuncId::Entry]);
            returns_to_the_end(w.m1, 3);
        })
        .join()
        .expect("the other machine");
        assert!(!w.m0.yield_now(), "there is nothing to yield");
        assert_eq!(w.m0.call(FuncId::Tiny), RunResult::Exited, "there is no goroutine");
    });
}

#[test]
fn dead_g_restarts_on_its_old_stack() {
    passes("running::dead_g_restarts_on_its_old_stack", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Huge; 2]);
        let (lo, size) = (g.stack.lo.get(), g.stack.size());
        assert!(size > 2 * 2304);
        assert_eq!(w.m0.end(), RunResult::Exited);
        assert_eq!(g.status.get(), status::DEAD);
        start(w.m0, g);
        assert_eq!((g.stack.lo.get(), g.stack.size()), (lo, size));
    });
}

#[test]
fn g_that_ended_in_syscall_restarts_from_its_entry() {
    passes("running::g_that_ended_in_syscall_restarts_from_its_entry", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Tiny; 4]);
        assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
        assert_eq!(w.m0.end(), RunResult::Exited);
        assert_eq!(g.syscall.sp.get(), 0, "the transition point of the life before is still there");

        start(w.m0, g);
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        assert_eq!(g.barriers.len(), 0, "a lone outermost frame has nothing to put a barrier over");
        assert_eq!(chain(g), [FuncId::Entry]);
    });
}

#[test]
fn g_that_never_ran_has_no_saved_state() {
    passes("running::g_that_never_ran_has_no_saved_state", || {
        let w = machines(Config::default());
        assert_eq!(saved(w.g(4)), Err(WalkError::NothingSaved));
        assert!(w.m0.take(w.g(4)));
        assert_eq!(chain(w.g(4)), [FuncId::Entry]);
    });
}

/// Returns the message of the panic that `body` ends in.
#[track_caller]
fn panics(body: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(body)).expect_err("it does not panic");
    *panic.downcast::<String>().expect("a formatted message")
}

#[test]
fn machine_is_made_once() {
    passes("running::machine_is_made_once", || {
        let w = machines(Config::default());
        let message = panics(|| _ = M::leak(w.runtime, 1));
        assert_eq!(message, "machine 1 was made before: there is one of each number");
    });
}

#[test]
fn frame_calls_neither_callback_nor_protocol() {
    passes("running::frame_calls_neither_callback_nor_protocol", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        for function in [FuncId::Callback, FuncId::Trampoline, FuncId::Lock] {
            let message = panics(|| _ = w.m0.call(function));
            assert!(message.contains(&format!("a frame cannot call {function}")), "{message}");
        }
        assert_eq!(chain(w.g(1)), [FuncId::Entry]);
    });
}

#[test]
fn stack_moves_only_to_one_that_there_is_and_that_it_fits() {
    passes("running::stack_moves_only_to_one_that_there_is_and_that_it_fits", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Huge]);
        assert!(w.m0.yield_now());
        for size in [0, 2048, 3 * 4096, 1 << 17] {
            panics(|| bench_api::copystack(w.m1, g, size));
        }
        bench_api::copystack(w.m1, g, 1 << 16);
        assert_eq!((g.stack.size(), chain(g)), (1 << 16, vec![FuncId::Huge, FuncId::Entry]));
    });
}
