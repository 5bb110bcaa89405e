//! Barriers that real returns hit, scans, stacks that grow and shrink, objects that live.

use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::sched::g::G;
use sigstorm_runtime::stack::MIN_STACK;
use sigstorm_runtime::{Config, FuncId, M, Phase, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, Machines, be, calls, chain, machines, returns_to_the_end, start};

/// Scans the machine's current goroutine, which the machine drops for that.
fn scan_between_steps(w: &Machines, g: &'static G) {
    assert!(w.m0.yield_now());
    assert!(w.collector.gc_scan(g));
    assert!(!w.collector.gc_scan(g), "it is scanned");
    assert!(w.m0.take(g));
}

#[test]
fn every_return_hits_a_barrier_in_every_frame_mode() {
    passes("collector::every_return_hits_a_barrier_in_every_frame_mode", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        let kinds =
            [FuncId::Tiny, FuncId::Medium, FuncId::Deferring, FuncId::Large, FuncId::Small, FuncId::Nosplit];
        calls(w.m0, &kinds);
        let mut expected = chain(g);
        assert!(w.collector.gc_mark());
        assert_eq!(w.runtime.phase(), Phase::Mark);
        scan_between_steps(&w, g);
        assert_eq!(g.barriers.len(), kinds.len() - 1, "all but the innermost and the outermost");
        assert_eq!(chain(g), expected, "a walk sees through barriers");
        // The first return is that of the frame which was innermost at the scan.
        for hits in 0..kinds.len() {
            assert_eq!(w.m0.ret(), RunResult::NextOp);
            assert_eq!(g.barriers.position(), hits);
            expected.remove(0);
            assert_eq!(chain(g), expected);
        }
        assert_eq!(g.barriers.pending(), 0);
        assert_eq!(w.m0.ret(), RunResult::Exited);
    });
}

#[test]
fn exponential_barriers_begin_one_kibibyte_up() {
    passes("collector::exponential_barriers_begin_one_kibibyte_up", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Large; 40]);
        let depth = chain(g).len();
        let from = g.sched.sp.get();
        assert!(w.collector.gc_mark());
        scan_between_steps(&w, g);
        let slots: Vec<usize> =
            (0..g.barriers.len()).filter_map(|i| g.barriers.entry(i)).map(|e| e.slot).collect();
        assert_eq!(slots.len(), 5, "30 KiB of stack: 1, 2, 4, 8 and 16 KiB up");
        for (index, slot) in slots.iter().enumerate() {
            let wanted = from + (1024 << index);
            assert!(*slot + 8 > wanted && *slot < wanted + 736, "barrier {index}");
        }
        returns_to_the_end(w.m0, depth);
        assert!(g.barriers.is_empty());
    });
}

#[test]
fn running_g_scans_itself_at_its_next_prologue() {
    passes("collector::running_g_scans_itself_at_its_next_prologue", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Small]);
        let collector = w.collector;
        let scan = thread::spawn(move || {
            be(collector);
            assert!(collector.gc_mark());
            assert!(collector.gc_scan(g));
        });
        while !g.scan_requested() {
            thread::yield_now();
        }
        assert!(g.barriers.is_empty());
        assert_eq!(w.m0.call(FuncId::Nosplit), RunResult::NextOp);
        assert!(g.barriers.is_empty(), "a frame without a check answers no request");
        assert_eq!(w.m0.call(FuncId::Tiny), RunResult::NextOp);
        assert_eq!(g.barriers.len(), 4 - 1, "the callee had no frame yet: nosplit, small, small");
        scan.join().expect("the collector");
        assert!(!g.preempt_requested());
        assert_eq!(chain(g).len(), 5);
        returns_to_the_end(w.m0, 5);
    });
}

#[test]
fn g_in_syscall_is_scanned_from_its_transition_point() {
    passes("collector::g_in_syscall_is_scanned_from_its_transition_point", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Large]);
        assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        assert_eq!(g.barriers.len(), 2);
        assert_eq!(chain(g), [FuncId::Syscall, FuncId::Large, FuncId::Small, FuncId::Entry]);
        assert!(w.collector.gc_terminate());
        assert!(g.barriers.is_empty());
        assert_eq!(w.m0.leave_syscall(), RunResult::NextOp);
        returns_to_the_end(w.m0, 3);
    });
}

#[test]
fn growing_stack_keeps_barriers_and_up_pointers() {
    passes("collector::growing_stack_keeps_barriers_and_up_pointers", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Medium]);
        assert!(w.m0.refer(2, 1, 3));
        let distance = g.stack.top.get() - w.m0.slot_value(0, 2).expect("a slot");
        assert!(w.collector.gc_mark());
        scan_between_steps(&w, g);
        assert_eq!(g.barriers.pending(), 1);
        let (copies, mut depth) = (w.runtime.copies(), 3);
        for _ in 0..6 {
            calls(w.m0, &[FuncId::Huge]);
            depth += 1;
            assert_eq!(chain(g).len(), depth);
            assert_eq!(g.barriers.pending(), 1);
        }
        assert!(w.runtime.copies() > copies && g.stack.size() >= 32768);
        assert_eq!(w.m0.slot_value(6, 2), Some(g.stack.top.get() - distance));
        returns_to_the_end(w.m0, depth);
    });
}

#[test]
fn stack_shrinks_when_little_used() {
    passes("collector::stack_shrinks_when_little_used", || {
        let w = machines(Config { unreadable: 2, ..Config::default() });
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Large, FuncId::Small]);
        calls(w.m0, &[FuncId::Huge; 5]);
        let grown = g.stack.size();
        assert_eq!(grown, 16384);
        assert!(!w.collector.gc_shrink(g), "it runs");
        assert!(w.m0.yield_now());
        assert!(!w.collector.gc_shrink(g), "it is in use");
        assert!(w.m0.take(g));
        for _ in 0..5 {
            assert_eq!(w.m0.ret(), RunResult::NextOp);
        }
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        let before = chain(g);
        let mut size = grown;
        while w.collector.gc_shrink(g) {
            size /= 2;
            assert_eq!(g.stack.size(), size);
            assert_eq!(chain(g), before);
        }
        assert_eq!(size, MIN_STACK, "less than a quarter was in use each time");
        assert!(w.m0.take(g));
        returns_to_the_end(w.m0, 3);
    });
}

#[test]
fn stack_of_g_that_never_ran_can_be_shrunk() {
    passes("collector::stack_of_g_that_never_ran_can_be_shrunk", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Huge]);
        w.m0.end();
        let larger = Config { initial_stack: 2 * MIN_STACK, ..Config::default() };
        // SAFETY: the one machine that was at work has no goroutine any more.
        unsafe { w.runtime.reset(larger) }.expect("a valid configuration");
        // The stack that it left as it grew is full of poison and in the pool again.
        assert!(w.m0.take(w.g(1)));
        assert!(w.m0.yield_now());
        assert!(w.collector.gc_shrink(w.g(1)));
        assert_eq!(w.g(1).stack.size(), MIN_STACK);
        start(w.m0, w.g(1));
    });
}

#[test]
fn objects_survive_only_if_a_frame_points_to_them() {
    passes("collector::objects_survive_only_if_a_frame_points_to_them", || {
        let w = machines(EVERY_FRAME);
        let heap = w.runtime.heap();
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Small]);
        let kept = w.m0.alloc(0).expect("room");
        let child = w.m0.alloc(1).expect("room");
        assert!(w.m0.store(0, 1, 1), "kept.1 = child");
        assert!(w.m0.clear(1));
        let lost = w.m0.alloc(2).expect("room");
        assert!(w.m0.clear(2));
        assert!(w.m0.yield_now());
        w.cycle(&[1]);
        assert_eq!(w.runtime.phase(), Phase::Off);
        assert_eq!([kept, child, lost].map(|o| heap.is_allocated(o)), [true, true, false]);
    });
}

#[test]
fn object_allocated_before_sweep_survives_it() {
    passes("collector::object_allocated_before_sweep_survives_it", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_terminate());
        assert_eq!(w.runtime.phase(), Phase::Sweep);
        let object = w.m0.alloc(0).expect("room");
        assert!(w.collector.gc_sweep());
        assert!(w.runtime.heap().is_allocated(object), "it is in a slot of the outermost frame");
    });
}

#[test]
fn pointers_moved_behind_the_scan_are_marked() {
    passes("collector::pointers_moved_behind_the_scan_are_marked", || {
        let w = machines(EVERY_FRAME);
        let (heap, g) = (w.runtime.heap(), w.g(1));
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small; 4]);
        let sent = w.m0.alloc(0).expect("room");
        let up = w.m0.alloc(1).expect("room");
        assert!(w.m0.send(2, 0));
        assert!(w.collector.gc_mark());
        // Only the goroutine is scanned yet: the mailbox is not, nor is any object black.
        calls(w.m0, &[FuncId::Tiny]);
        scan_between_steps(&w, g);
        assert_eq!(g.barriers.pending(), 4);
        assert!(w.m0.bulk_move(3), "onto a frame above three barriers");
        assert_eq!(g.barriers.position(), 2, "those of the frames below the destination");
        assert_eq!(chain(g).len(), 6);
        assert!(w.m0.ret() == RunResult::NextOp && w.m0.write_up(3, 0, 1));
        assert!(w.m0.clear(1));
        assert!(w.m0.yield_now());
        while w.collector.gc_drain(1) {}
        assert!(w.collector.gc_terminate());
        assert!(w.collector.gc_sweep());
        assert_eq!([sent, up].map(|o| heap.is_allocated(o)), [true, true]);
    });
}

#[test]
fn stopped_world_stands_still() {
    passes("collector::stopped_world_stands_still", || {
        fn turns(m: &'static M, g: &'static G) {
            be(m);
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                assert!(m.take(g) || m.current().is_some());
                m.call(FuncId::Small);
                m.call(FuncId::Tiny);
                m.ret();
                m.call(FuncId::Syscall);
                m.leave_syscall();
                m.ret();
                m.yield_now();
            }
        }
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        w.m0.yield_now();
        start(w.m0, w.g(2));
        w.m0.yield_now();
        let (first, second) = (w.g(1), w.g(2));
        let threads = [(w.m0, first), (w.m1, second)].map(|(m, g)| thread::spawn(move || turns(m, g)));
        let mut cycles = 0;
        while threads.iter().any(|t| !t.is_finished()) {
            assert!(w.collector.gc_mark());
            assert!(w.collector.gc_scan(first) || first.scan_done());
            assert!(w.collector.gc_terminate());
            assert!(first.barriers.is_empty() && second.barriers.is_empty());
            assert!(w.collector.gc_sweep());
            cycles += 1;
            thread::sleep(Duration::from_micros(50));
        }
        for thread in threads {
            thread.join().expect("a machine");
        }
        assert!(cycles > 10, "{cycles} cycles");
        assert_eq!([chain(first).len(), chain(second).len()], [1, 1]);
    });
}
