//! Broken invariants: without a harness a throw prints itself, the goroutine, and aborts.
//!
//! A healthy core never throws, so each test breaks it first.

use sigstorm_runtime::stack::lock::{self, Operation};
use sigstorm_runtime::unwind::functab::{self, info};
use sigstorm_runtime::{Config, FuncId, RunResult};

use crate::allocator;
use crate::child::aborts;
use crate::machine::{EVERY_FRAME, Machines, calls, machines, start};

/// Goroutine 1, scanned: entry, small, medium, large, tiny, with barriers over three.
fn scanned() -> Machines {
    let w = machines(EVERY_FRAME);
    start(w.m0, w.g(1));
    calls(w.m0, &[FuncId::Small, FuncId::Medium, FuncId::Large, FuncId::Tiny]);
    assert!(w.m0.yield_now());
    assert!(w.collector.gc_mark());
    assert!(w.collector.gc_scan(w.g(1)));
    assert_eq!(w.g(1).barriers.pending(), 3);
    w
}

/// Overwrites a word of a stack. Returns its old value.
fn overwrite(slot: usize, value: usize) -> usize {
    // SAFETY: a return slot of a goroutine that is stopped; the test breaks it on purpose.
    unsafe { (slot as *mut usize).replace(value) }
}

#[track_caller]
fn says(printed: &str, wanted: &[&str]) {
    let mut rest = printed;
    for text in wanted {
        match rest.find(text) {
            Some(at) => rest = &rest[at + text.len()..],
            None => panic!("{text:?} is missing, or not in its place, in\n{printed}"),
        }
    }
}

#[test]
fn lost_barrier_is_marked_in_list_and_frames() {
    let printed = aborts("throws::lost_barrier_is_marked_in_list_and_frames", || {
        let w = scanned();
        let entry = w.g(1).barriers.entry(1).expect("an entry");
        overwrite(entry.slot, entry.pc);
        w.collector.gc_terminate();
    });
    says(
        &printed,
        &[
            "sigstorm-runtime: barrier lost: entry 1's slot holds small+",
            "g1: runnable",
            "lock held by machine 3 for remove",
            "barriers: 3 entries, position 0 (@@@), culprit (==>)",
            "      @@@ [  0]",
            "  ==>     [  1]",
            "          [  2]",
            "frames, innermost first:",
            "tiny+",
            "large+",
            "==> medium+",
        ],
    );
}

#[test]
fn return_into_wrong_barrier_dies_in_the_trampoline() {
    let printed = aborts("throws::return_into_wrong_barrier_dies_in_the_trampoline", || {
        let w = scanned();
        let g = w.g(1);
        // Tiny has no barrier: let it return into the trampoline all the same.
        let first = g.barriers.entry(0).expect("an entry");
        let trampoline = overwrite(first.slot, 0);
        overwrite(first.slot, trampoline);
        let tiny = g.sched.bp.get() + 8;
        overwrite(tiny, trampoline);
        assert!(w.m0.take(g));
        w.m0.ret();
    });
    says(&printed, &["barrier out of order", "g1: running", "@@@ [  0]", "none saved: it runs"]);
}

#[test]
fn failed_runtime_walk_says_why() {
    let printed = aborts("throws::failed_runtime_walk_says_why", || {
        let w = scanned();
        // SAFETY: no walk is under way, and this process ends with the next one.
        unsafe { functab::corrupt(info(FuncId::Large).after_call, 16) };
        w.collector.gc_terminate();
    });
    says(&printed, &["the runtime's own walk failed: a return address is in no function", "tiny+"]);
}

#[test]
fn walk_fails_at_a_barrier_without_entry() {
    let printed = aborts("throws::walk_fails_at_a_barrier_without_entry", || {
        let w = scanned();
        let g = w.g(1);
        let first = g.barriers.entry(0).expect("an entry");
        let trampoline = overwrite(first.slot, 0);
        overwrite(first.slot, trampoline);
        w.collector.gc_terminate();
        overwrite(first.slot, trampoline);
        w.collector.gc_sweep();
        w.collector.gc_mark();
        w.collector.gc_scan(g);
    });
    says(
        &printed,
        &[
            "walk failed: a return slot holds the trampoline and no entry is its",
            "lock held by machine 3 for install",
        ],
    );
}

/// Goroutine 1, stopped, in a cycle that has not scanned it yet, with a forged entry for the slot of
/// its innermost frame.
fn forged() -> Machines {
    let w = machines(EVERY_FRAME);
    let g = w.g(1);
    start(w.m0, g);
    calls(w.m0, &[FuncId::Small, FuncId::Medium, FuncId::Tiny]);
    assert!(w.m0.yield_now());
    assert!(w.collector.gc_mark());
    let slot = g.sched.bp.get() + 8;
    // SAFETY: the goroutine is stopped, and this process ends with what comes next.
    unsafe { g.barriers.forge(slot, info(FuncId::Medium).after_call) };
    w
}

#[test]
fn scan_throws_if_g_already_has_barriers() {
    let printed = aborts("throws::scan_throws_if_g_already_has_barriers", || {
        let w = forged();
        w.collector.gc_scan(w.g(1));
    });
    says(
        &printed,
        &[
            "sigstorm-runtime: a goroutine that is to be scanned already has barriers: 1",
            "g1: runnable (being scanned)",
            "lock free",
            "barriers: 1 entries, position 0 (@@@), culprit (==>)",
            "  ==> @@@ [  0]",
            "==> tiny+",
        ],
    );
}

#[test]
fn complete_walk_throws_if_barriers_are_left_over() {
    let printed = aborts("throws::complete_walk_throws_if_barriers_are_left_over", || {
        let w = forged();
        // It moves to a larger stack, and its frames are walked: no slot holds the trampoline.
        assert!(w.m0.take(w.g(1)));
        calls(w.m0, &[FuncId::Huge]);
    });
    says(
        &printed,
        &[
            "the runtime's own walk failed: the walk is complete and 1 barriers were not met",
            "lock held by machine 1 for copystack",
            "  ==> @@@ [  0]",
        ],
    );
}

#[test]
fn walk_fails_if_it_ends_short_of_the_stack_top() {
    let printed = aborts("throws::walk_fails_if_it_ends_short_of_the_stack_top", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Small, FuncId::Tiny]);
        assert!(w.m0.yield_now());
        // SAFETY: no walk is under way, and this process ends with the next one.
        unsafe { functab::corrupt(info(FuncId::Entry).after_call, 16) };
        w.collector.gc_mark();
        w.collector.gc_scan(w.g(1));
    });
    says(
        &printed,
        &[
            "walk failed: the walk came to the outermost frame, and not to the top of the stack",
            "lock held by machine 3 for install",
            "tiny+",
            "small+",
        ],
    );
}

#[test]
fn install_throws_if_the_list_is_full() {
    let printed = aborts("throws::install_throws_if_the_list_is_full", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small; 4]);
        assert!(w.m0.yield_now());
        // SAFETY: the goroutine is stopped, and this process ends with its scan.
        unsafe { g.barriers.limit(2) };
        w.collector.gc_mark();
        w.collector.gc_scan(g);
    });
    says(
        &printed,
        &[
            "barrier overflow: there is room for 2",
            "barriers: 2 entries, position 0 (@@@)",
            "[  1]",
            "==> small+",
        ],
    );
}

#[test]
fn caller_pc_is_not_replaced_under_a_barrier_that_is_not_next() {
    let printed = aborts("throws::caller_pc_is_not_replaced_under_a_barrier_that_is_not_next", || {
        let w = scanned();
        let g = w.g(1);
        let first = g.barriers.entry(0).expect("an entry");
        let trampoline = overwrite(first.slot, 0);
        overwrite(first.slot, trampoline);
        overwrite(g.sched.bp.get() + 8, trampoline);
        assert!(w.m0.take(g));
        w.m0.set_caller_pc();
    });
    says(
        &printed,
        &[
            "walk failed: a return slot holds the trampoline and no entry is its",
            "g1: running",
            "@@@ [  0]",
            "frames, innermost first:",
            "==> a return slot holds the trampoline",
        ],
    );
}

#[test]
fn stack_at_its_maximum_overflows() {
    let printed = aborts("throws::stack_at_its_maximum_overflows", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Huge; 64]);
    });
    says(&printed, &["stack overflow: huge+", "g1: running", "stack of 65536 bytes"]);
}

#[test]
fn nosplit_frames_run_into_the_guard_page() {
    let printed = aborts("throws::nosplit_frames_run_into_the_guard_page", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Nosplit; 64]);
    });
    says(&printed, &["stack overflow: nosplit+", "hit a guard page", "g1: running", "stack of 2048 bytes"]);
}

#[test]
fn pointer_into_freed_stack_is_detected_when_read() {
    let printed = aborts("throws::pointer_into_freed_stack_is_detected_when_read", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small]);
        let slot = g.sched.bp.get() - 8;
        calls(w.m0, &[FuncId::Huge]);
        // The stack has moved. The value behind a stale pointer into the old one goes into a slot.
        let stale = overwrite(slot, 0);
        overwrite(g.sched.bp.get() - 8, stale);
        w.m0.copy(1, 0);
    });
    says(&printed, &["a read of a freed stack: the value is poison", "g1: running"]);
}

#[test]
fn held_lock_is_dumped_with_its_holder() {
    let printed = aborts("throws::held_lock_is_dumped_with_its_holder", || {
        let w = scanned();
        let _held = lock::lock(w.m1, w.g(1), Operation::Bulk);
        assert!(w.m0.take(w.g(1)));
        calls(w.m0, &[FuncId::Nosplit; 64]);
    });
    says(&printed, &["stack overflow", "lock held by machine 2 for bulk"]);
}

/// Has a thread that never ends take standard error's lock.
fn lock_stderr() {
    let (locked, is_locked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _lock = std::io::stderr().lock();
        locked.send(()).expect("a receiver");
        loop {
            std::thread::park();
        }
    });
    is_locked.recv().expect("the lock");
}

#[test]
fn throw_in_a_handler_neither_allocates_nor_locks_stderr() {
    let printed = aborts("throws::throw_in_a_handler_neither_allocates_nor_locks_stderr", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        assert_eq!(w.m0.call(FuncId::Tiny), RunResult::NextOp);
        lock_stderr();
        let functions = [FuncId::Nosplit; 64];
        allocator::forbid();
        // The last of them runs into the guard page: the fault handler throws.
        for function in functions {
            w.m0.call(function);
        }
    });
    says(
        &printed,
        &[
            "sigstorm-runtime: stack overflow: nosplit+",
            "g1: running, stack of 2048 bytes, it runs, lock free",
            "none saved: it runs",
        ],
    );
}

#[test]
fn dump_of_frames_and_barriers_does_not_allocate() {
    let printed = aborts("throws::dump_of_frames_and_barriers_does_not_allocate", || {
        let w = scanned();
        let entry = w.g(1).barriers.entry(1).expect("an entry");
        overwrite(entry.slot, entry.pc);
        lock_stderr();
        allocator::forbid();
        w.collector.gc_terminate();
    });
    says(&printed, &["barrier lost", "used, lock held by machine 3 for remove", "tiny+", "==> medium+"]);
}
