//! Cycles of both kinds in any order, on any machine; barriers that are left to the sweep;
//! stacks that shrink within a scan.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::sched::g::{G, status};
use sigstorm_runtime::stack::MIN_STACK;
use sigstorm_runtime::{Config, FuncId, M, Phase, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, Machines, be, calls, chain, machines, returns_to_the_end, start};

const KEEPING: Config = Config { keep_barriers: true, ..EVERY_FRAME };

/// A goroutine of five frames with barriers over the inner three, which `m0` has dropped.
fn scanned(config: Config) -> (Machines, &'static G) {
    let w = machines(config);
    let g = w.g(1);
    start(w.m0, g);
    calls(w.m0, &[FuncId::Small; 4]);
    assert!(w.m0.yield_now());
    assert!(w.collector.gc_mark() && w.collector.gc_scan(g));
    assert_eq!(g.barriers.pending(), 3);
    (w, g)
}

#[test]
fn cycle_with_stopped_world_keeps_live_objects_and_installs_no_barriers() {
    passes("cycles::cycle_with_stopped_world_keeps_live_objects_and_installs_no_barriers", || {
        let w = machines(EVERY_FRAME);
        let heap = w.runtime.heap();
        start(w.m0, w.g(1));
        let outer = w.m0.alloc(0).expect("room");
        calls(w.m0, &[FuncId::Small]);
        let kept = w.m0.alloc(0).expect("room");
        let child = w.m0.alloc(1).expect("room");
        assert!(w.m0.store(0, 1, 1) && w.m0.clear(1));
        let sent = w.m0.alloc(2).expect("room");
        assert!(w.m0.send(2, 2));
        let lost = w.m0.alloc(3).expect("room");
        assert!(w.m0.clear(3));
        // On the very machine that has the goroutine, which is at a safepoint.
        assert!(w.m0.gc_stop_the_world());
        assert_eq!((w.runtime.phase(), w.runtime.write_barrier()), (Phase::Off, false));
        assert!(w.g(1).barriers.is_empty());
        let there = [outer, kept, child, sent, lost].map(|object| heap.is_allocated(object));
        assert_eq!(there, [true, true, true, true, false]);
        assert!(w.collector.gc_mark());
        assert!(!w.m0.gc_stop_the_world(), "a cycle is under way");
        assert!(w.m0.gc_scan(w.g(1)), "its own");
        assert_eq!(w.g(1).status.get(), status::RUNNING);
        assert!(w.m0.gc_terminate() && w.m0.gc_sweep());
        assert!(w.collector.gc_stop_the_world());
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn barriers_left_by_termination_are_removed_by_sweep() {
    passes("cycles::barriers_left_by_termination_are_removed_by_sweep", || {
        let (w, g) = scanned(KEEPING);
        assert!(w.collector.gc_terminate());
        assert_eq!(g.barriers.pending(), 3, "they are left where they are");
        assert_eq!(chain(g).len(), 5);
        assert!(w.collector.gc_sweep());
        assert!(g.barriers.is_empty());
        assert!(w.m0.take(g));
        returns_to_the_end(w.m0, 5);
    });
}

#[test]
fn barriers_of_running_g_survive_until_next_cycle() {
    passes("cycles::barriers_of_running_g_survive_until_next_cycle", || {
        let (w, g) = scanned(KEEPING);
        assert!(w.collector.gc_terminate());
        assert!(w.m0.take(g));
        assert!(w.collector.gc_sweep());
        assert_eq!((w.runtime.phase(), g.barriers.pending()), (Phase::Off, 3), "no machine waits for it");
        // They do no harm: a frame returns into one, a stack grows with the others.
        assert_eq!((w.m0.ret(), w.m0.ret()), (RunResult::NextOp, RunResult::NextOp));
        assert_eq!((g.barriers.position(), g.barriers.pending()), (1, 2));
        calls(w.m0, &[FuncId::Huge]);
        assert_eq!((g.barriers.pending(), chain(g).len()), (2, 4));
        assert!(w.collector.gc_mark());
        assert!(g.barriers.is_empty(), "gone before there are new ones");
        assert!(w.m0.gc_scan(g));
        assert_eq!(g.barriers.pending(), 2);
        assert!(w.collector.gc_terminate());
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert!(w.collector.gc_sweep() && w.collector.gc_stop_the_world());
        assert!(g.barriers.is_empty(), "nor does a cycle of the other kind leave any");
        returns_to_the_end(w.m0, 3);
    });
}

#[test]
fn scan_halves_a_little_used_stack() {
    passes("cycles::scan_halves_a_little_used_stack", || {
        let w = machines(Config { scan_shrinks: true, initial_stack: 16384, ..EVERY_FRAME });
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small; 3]);
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark() && w.collector.gc_scan(g));
        assert_eq!((g.stack.size(), g.barriers.pending()), (8192, 2), "before there are any");
        // At mark termination with its barriers on it, whatever it was doing.
        assert!(w.m0.take(g));
        assert!(w.collector.gc_terminate());
        assert_eq!((g.stack.size(), chain(g).len()), (4096, 4));
        assert!(w.collector.gc_sweep());
        assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
        assert!(w.collector.gc_stop_the_world());
        assert_eq!(g.stack.size(), 4096, "the kernel may have pointers to it");
        assert_eq!(w.m0.leave_syscall(), RunResult::NextOp);
        assert!(w.collector.gc_stop_the_world() && w.collector.gc_stop_the_world());
        assert_eq!(g.stack.size(), MIN_STACK);
        returns_to_the_end(w.m0, 4);
    });
}

#[test]
fn stack_is_not_halved_without_room_for_the_reserve() {
    passes("cycles::stack_is_not_halved_without_room_for_the_reserve", || {
        let w = machines(Config { initial_stack: 4096, ..EVERY_FRAME });
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small; 10]);
        let used = g.stack.top.get() - g.sched.sp.get();
        assert!(used < 4096 / 4 && used + 24 == 2048 / 2, "{used}");
        assert!(w.m0.yield_now());
        assert!(!w.collector.gc_shrink(g));
        // It would fit otherwise.
        assert!(w.m0.take(g));
        assert_eq!((w.m0.ret(), w.m0.ret()), (RunResult::NextOp, RunResult::NextOp));
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_shrink(g));
        assert!(w.m0.take(g));
        assert_eq!(w.m0.call(FuncId::Nosplit), RunResult::NextOp);
        assert_eq!(chain(g).len(), 10);
    });
}

#[test]
fn machines_that_scan_each_others_goroutines_do_not_deadlock() {
    passes("cycles::machines_that_scan_each_others_goroutines_do_not_deadlock", || {
        static SCANS: AtomicU64 = AtomicU64::new(0);
        fn turns(m: &'static M, own: &'static G, other: &'static G) {
            start(m, own);
            calls(m, &[FuncId::Small, FuncId::Small]);
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                // Both at once, more often than not.
                SCANS.fetch_add(u64::from(m.gc_scan(other)), Ordering::Relaxed);
                assert_eq!(own.status.get(), status::RUNNING);
                assert_eq!((m.call(FuncId::Tiny), m.ret()), (RunResult::NextOp, RunResult::NextOp));
            }
            m.end();
        }
        let w = machines(EVERY_FRAME);
        let (first, second) = (w.g(1), w.g(2));
        let threads = [(w.m0, first, second), (w.m1, second, first)].map(|(m, own, other)| {
            thread::spawn(move || {
                be(m);
                turns(m, own, other);
            })
        });
        let mut cycles = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            assert!(w.collector.gc_mark());
            let end = Instant::now() + Duration::from_millis(2);
            while !(first.scan_done() && second.scan_done()) && Instant::now() < end {
                thread::yield_now();
            }
            assert!(w.collector.gc_terminate() && w.collector.gc_sweep());
            cycles += 1;
        }
        for thread in threads {
            thread.join().expect("a machine");
        }
        let scans = SCANS.load(Ordering::Relaxed);
        eprintln!("{cycles} cycles, {scans} scans of one machine's goroutine by the other");
        assert!(cycles >= 5 && scans >= 5, "{cycles} {scans}");
    });
}

#[test]
fn parts_of_a_cycle_are_done_once_when_all_machines_collect() {
    passes("cycles::parts_of_a_cycle_are_done_once_when_all_machines_collect", || {
        static DID: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
        static ALL_DONE: Barrier = Barrier::new(3);
        fn turns(m: &'static M, own: Option<&'static G>, all: [&'static G; 2]) {
            be(m);
            if let Some(own) = own {
                start(m, own);
                calls(m, &[FuncId::Small; 3]);
                assert!(m.alloc(0).is_some());
            }
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                let did = |part: usize, did: bool| DID[part].fetch_add(u64::from(did), Ordering::Relaxed);
                did(0, m.gc_mark());
                for g in all {
                    m.gc_scan(g);
                }
                m.gc_drain(2);
                did(1, m.gc_terminate());
                did(2, m.gc_sweep());
                did(3, m.gc_stop_the_world());
                for g in all {
                    m.gc_shrink(g);
                }
                if own.is_some() {
                    assert_eq!((m.call(FuncId::Huge), m.ret()), (RunResult::NextOp, RunResult::NextOp));
                    assert!(m.load(1, 0, 0), "the object in its frame lives");
                }
            }
            // As long as any machine collects, another one may stop this one and move the stack
            // under the walk. It may also wait for a scan, and so does not wait for this thread.
            assert_eq!(m.yield_now(), own.is_some());
            ALL_DONE.wait();
            if let Some(own) = own {
                assert_eq!(chain(own).len(), 4);
                assert!(m.take(own));
                m.end();
            }
        }
        let w = machines(Config { keep_barriers: true, scan_shrinks: true, quarantine: 64, ..EVERY_FRAME });
        let all = [w.g(1), w.g(2)];
        let actors = [(w.m0, Some(w.g(1))), (w.m1, Some(w.g(2))), (w.collector, None)];
        for thread in actors.map(|(m, own)| thread::spawn(move || turns(m, own, all))) {
            thread.join().expect("a machine");
        }
        let [marks, terms, sweeps, whole] = DID.each_ref().map(|n| n.load(Ordering::Relaxed));
        eprintln!("{marks} marks, {terms} terminations, {sweeps} sweeps, {whole} whole cycles");
        // Each cycle that was begun is ended once; the last may still be under way.
        assert!(marks >= terms && terms >= sweeps && sweeps + 1 >= marks, "{marks} {terms} {sweeps}");
        assert!(marks > 20 && whole > 20, "{marks} {whole}");
    });
}
