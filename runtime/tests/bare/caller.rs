//! A frame that replaces its caller's PC, with and without a barrier over it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::unwind::functab::info;
use sigstorm_runtime::{Config, FuncId, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, calls, chain, frames, machines, returns_to_the_end, start};
use crate::storm::{install_judge, signal_until};

/// Returns the PC at which the caller of the innermost frame goes on.
fn callers_pc(g: &'static sigstorm_runtime::G) -> usize {
    frames(g).expect("a walk")[1].pc
}

#[test]
fn frame_returns_to_the_pc_that_replaced_its_callers() {
    passes("caller::frame_returns_to_the_pc_that_replaced_its_callers", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        assert!(!w.m0.set_caller_pc(), "the outermost frame has no caller");
        calls(w.m0, &[FuncId::Small, FuncId::Tiny]);
        let small = info(FuncId::Small);
        assert_eq!(callers_pc(g), small.after_call);
        assert!(w.m0.set_caller_pc());
        assert_eq!(callers_pc(g), small.after_call_other);
        assert_eq!(chain(g), [FuncId::Tiny, FuncId::Small, FuncId::Entry]);
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        calls(w.m0, &[FuncId::Tiny]);
        assert!(w.m0.set_caller_pc() && w.m0.set_caller_pc(), "there and back");
        assert_eq!(callers_pc(g), small.after_call);
        returns_to_the_end(w.m0, 3);
    });
}

#[test]
fn caller_pc_under_a_barrier_is_replaced_in_its_entry() {
    passes("caller::caller_pc_under_a_barrier_is_replaced_in_its_entry", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Medium, FuncId::Large]);
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark() && w.collector.gc_scan(g));
        assert!(w.m0.take(g));
        // The innermost frame had no barrier at the scan; the next one has.
        assert!(w.m0.set_caller_pc());
        assert_eq!(callers_pc(g), info(FuncId::Medium).after_call_other);
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        let entry = g.barriers.entry(g.barriers.position()).expect("an entry");
        assert_eq!(entry.pc, info(FuncId::Small).after_call);
        assert!(w.m0.set_caller_pc());
        let entry = g.barriers.entry(g.barriers.position()).expect("an entry");
        assert_eq!(entry.pc, info(FuncId::Small).after_call_other);
        assert_eq!(callers_pc(g), entry.pc);
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert_eq!(g.barriers.position(), 1, "it was hit");
        assert!(w.m0.set_caller_pc());
        // Removing the barrier leaves the replaced PC in the slot.
        assert!(w.collector.gc_terminate() && w.collector.gc_sweep());
        assert!(g.barriers.is_empty());
        assert_eq!(callers_pc(g), info(FuncId::Entry).after_call_other);
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn walks_succeed_while_caller_pcs_are_replaced() {
    passes("caller::walks_succeed_while_caller_pcs_are_replaced", || {
        use std::os::unix::thread::JoinHandleExt;
        let w = machines(EVERY_FRAME);
        install_judge();
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let (m, g, collector) = (w.m0, w.g(1), w.collector);
        let runs = thread::spawn(move || {
            crate::machine::be(m);
            start(m, g);
            calls(m, &[FuncId::Small; 6]);
            m.yield_now();
            assert!(collector.gc_mark() && collector.gc_scan(g));
            assert!(m.take(g));
            assert_eq!(m.ret(), RunResult::NextOp);
            let end = Instant::now() + Duration::from_secs(1);
            let mut times = 0u64;
            while Instant::now() < end {
                assert!(m.set_caller_pc());
                times += 1;
            }
            assert!(g.barriers.pending() >= 4);
            m.end();
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            times
        });
        let target = [runs.as_pthread_t()];
        let signals = thread::spawn(move || signal_until(stop, &target));
        thread::sleep(Duration::from_millis(1100));
        stop.store(true, Ordering::Relaxed);
        assert!(signals.join().expect("the one who signals") > 10);
        assert!(runs.join().expect("the machine") > 100);
        assert!(crate::storm::TALLY.tracebacks.load(Ordering::Relaxed) > 10);
    });
}
