//! Goroutines are made, parked, woken, preempted; they go on elsewhere, with their barriers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::sched::g::{G, status};
use sigstorm_runtime::{FuncId, M, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, be, calls, chain, machines, returns_to_the_end, start};

const TIME: Duration = Duration::from_secs(1);

#[test]
fn spawned_g_can_be_taken_by_any_machine() {
    passes("life::spawned_g_can_be_taken_by_any_machine", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        assert!(w.m0.spawn(g));
        assert!(!w.m1.spawn(g), "it lives");
        assert_eq!((g.status.get(), g.is_held()), (status::RUNNABLE, false));
        assert!(w.m0.current().is_none());
        // It has not begun, and can be scanned all the same.
        w.cycle(&[1]);
        start(w.m1, g);
        w.m1.end();
        assert!(w.m0.spawn(g), "a dead goroutine is started anew");
    });
}

#[test]
fn parked_g_stays_parked_until_made_ready() {
    passes("life::parked_g_stays_parked_until_made_ready", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Tiny]);
        assert!(w.m0.park() && w.m0.current().is_none());
        assert_eq!((g.status.get(), g.is_parked()), (status::WAITING, true));
        assert!(!w.m0.take(g) && !w.m1.take(g), "a parked goroutine cannot be taken");
        // It is stopped: the collector scans it.
        assert!(w.collector.gc_mark() && w.collector.gc_scan(g));
        assert_eq!(g.barriers.pending(), 1);
        assert!(!g.scan_requested());
        assert!(w.m1.ready(g));
        assert!(!w.m0.ready(g), "it is ready");
        assert!(w.m1.take(g));
        assert_eq!(chain(g).len(), 3);
        returns_to_the_end(w.m1, 3);
        assert!(!w.m0.park(), "without a goroutine");
    });
}

#[test]
fn preempted_g_resumes_elsewhere_from_its_prologue() {
    passes("life::preempted_g_resumes_elsewhere_from_its_prologue", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Small]);
        assert!(!w.m0.preempt(g), "its own");
        assert!(w.m1.preempt(g) && g.yield_requested());
        assert_eq!(
            w.m0.call(FuncId::Nosplit),
            RunResult::NextOp,
            "a frame without a check answers no request"
        );
        assert_eq!(w.m0.call(FuncId::Tiny), RunResult::Preempted);
        assert!(w.m0.current().is_none() && !g.yield_requested() && !g.preempt_requested());
        assert_eq!(g.status.get(), status::RUNNABLE);
        assert!(!w.m1.preempt(g), "it does not run");
        let in_prologue = [FuncId::Tiny, FuncId::Nosplit, FuncId::Small, FuncId::Small, FuncId::Entry];
        assert_eq!(chain(g), in_prologue);
        // Installed while the first machine had it last; hit on the second.
        assert!(w.collector.gc_mark() && w.collector.gc_scan(g));
        assert_eq!(g.barriers.pending(), 3);
        assert!(w.m1.take(g));
        assert_eq!(w.m1.proceed(), RunResult::NextOp);
        assert_eq!(chain(g), in_prologue);
        for hits in [0, 1, 2] {
            assert_eq!(w.m1.ret(), RunResult::NextOp);
            assert_eq!(g.barriers.position(), hits);
        }
        returns_to_the_end(w.m1, 2);
    });
}

#[test]
fn scan_request_and_yield_request_are_both_handled() {
    passes("life::scan_request_and_yield_request_are_both_handled", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small]);
        assert!(w.m1.preempt(g));
        let collector = w.collector;
        let scan = thread::spawn(move || {
            be(collector);
            assert!(collector.gc_mark());
            assert!(collector.gc_scan(g));
        });
        while !g.scan_requested() {
            thread::yield_now();
        }
        assert_eq!(w.m0.call(FuncId::Small), RunResult::Preempted);
        scan.join().expect("the collector");
        assert!(g.scan_done() && g.barriers.pending() == 1);
        assert!(w.m0.take(g));
        assert_eq!(w.m0.proceed(), RunResult::NextOp);
        returns_to_the_end(w.m0, 3);
    });
}

#[test]
fn goexit_leaves_no_barriers_for_the_next_g() {
    passes("life::goexit_leaves_no_barriers_for_the_next_g", || {
        use sigstorm_runtime::sched::panic::Unwind;
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Deferring]);
        assert!(w.m0.defer(FuncId::Tiny));
        calls(w.m0, &[FuncId::Small, FuncId::Small]);
        assert!(w.m0.park());
        assert!(w.collector.gc_mark() && w.collector.gc_scan(g));
        assert!(w.m1.ready(g) && w.m1.take(g));
        let before = g.barriers.pending();
        assert_eq!(before, 2);
        assert_eq!(w.m1.panic(true), Some(RunResult::NextOp));
        assert_eq!(w.m1.unwind_next(), Unwind::Call(FuncId::Tiny));
        calls(w.m1, &[FuncId::Tiny]);
        assert_eq!(w.m1.ret(), RunResult::NextOp);
        assert_eq!(w.m1.unwind_next(), Unwind::End);
        assert_eq!(g.barriers.pending(), before, "they are there to the end");
        let (stack, size) = (g.stack.lo.get(), g.stack.size());
        w.m1.end();
        assert!(g.barriers.is_empty());
        // The same struct and stack, another goroutine.
        start(w.m0, g);
        assert_eq!((g.stack.lo.get(), g.stack.size()), (stack, size));
        calls(w.m0, &[FuncId::Large, FuncId::Large]);
        assert!(w.collector.gc_terminate() && w.collector.gc_sweep());
        assert_eq!(chain(g).len(), 3);
    });
}

#[test]
fn wake_ups_are_neither_lost_nor_doubled() {
    passes("life::wake_ups_are_neither_lost_nor_doubled", || {
        // Two machines take turns with one goroutine: each parks it, and either wakes it. A third
        // scans it all the while, and asks the machine that has it to drop it.
        static TURNS: AtomicU64 = AtomicU64::new(0);
        static WOKEN: AtomicU64 = AtomicU64::new(0);
        fn turns(m: &'static M, g: &'static G) {
            be(m);
            let end = Instant::now() + TIME;
            while Instant::now() < end {
                if m.ready(g) {
                    WOKEN.fetch_add(1, Ordering::Relaxed);
                }
                if !m.take(g) {
                    continue;
                }
                // If it was dropped in a prologue, it is still in that call.
                let fresh = if chain(g).len() == 2 { m.proceed() } else { m.call(FuncId::Small) };
                if fresh == RunResult::Preempted {
                    continue;
                }
                assert_eq!(m.ret(), RunResult::NextOp);
                TURNS.fetch_add(1, Ordering::Relaxed);
                assert!(m.park());
            }
        }
        let w = machines(EVERY_FRAME);
        let (g, collector) = (w.g(1), w.collector);
        start(w.m0, g);
        assert!(w.m0.park());
        let threads = [w.m0, w.m1].map(|m| thread::spawn(move || turns(m, g)));
        let mut asked = 0u64;
        while threads.iter().any(|thread| !thread.is_finished()) {
            asked += u64::from(collector.preempt(g));
            assert!(collector.gc_mark());
            collector.gc_shrink(g);
            assert!(collector.gc_terminate() && collector.gc_sweep());
        }
        for thread in threads {
            thread.join().expect("a machine");
        }
        let (turns, woken) = (TURNS.load(Ordering::Relaxed), WOKEN.load(Ordering::Relaxed));
        eprintln!("{turns} turns, {woken} wake-ups, {asked} requests");
        assert!(turns > 100 && asked > 10);
        // Each turn ended in a park, and each park but perhaps the last in one wake-up.
        let parked = u64::from(g.is_parked());
        assert_eq!(turns + 1, woken + parked);
    });
}
