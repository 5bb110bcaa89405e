//! Broken invariants: without a harness a throw prints itself, the goroutine, and aborts.
//!
//! The core does none of this by itself: each test breaks something first.

use sigstorm_runtime::lock::{self, Operation};
use sigstorm_runtime::table::{self, info};
use sigstorm_runtime::{Config, Function};

use crate::child::aborts;
use crate::machine::{EVERY_FRAME, Machines, calls, machines, start};

/// Goroutine 1, scanned: entry, small, medium, large, tiny, with barriers over three.
fn scanned() -> Machines {
    let w = machines(EVERY_FRAME);
    start(w.m0, w.g(1));
    calls(w.m0, &[Function::Small, Function::Medium, Function::Large, Function::Tiny]);
    assert!(w.m0.yield_now());
    assert!(w.collector.gc_mark());
    assert!(w.collector.gc_scan(w.g(1)));
    assert_eq!(w.g(1).barriers.pending(), 3);
    w
}

/// Overwrites a word of a stack; gives what was there.
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
fn a_lost_barrier_is_shown_in_the_list_and_among_the_frames() {
    let printed = aborts("throws::a_lost_barrier_is_shown_in_the_list_and_among_the_frames", || {
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
fn a_return_into_a_barrier_that_is_not_next_dies_in_the_trampoline() {
    let printed = aborts("throws::a_return_into_a_barrier_that_is_not_next_dies_in_the_trampoline", || {
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
fn a_walk_of_the_runtimes_own_that_fails_says_why() {
    let printed = aborts("throws::a_walk_of_the_runtimes_own_that_fails_says_why", || {
        let w = scanned();
        // SAFETY: no walk is under way, and this process ends with the next one.
        unsafe { table::corrupt(info(Function::Large).after_call, 16) };
        w.collector.gc_terminate();
    });
    says(&printed, &["the runtime's own walk failed: a return address is in no function", "tiny+"]);
}

#[test]
fn a_walk_that_meets_a_barrier_without_entry_fails() {
    let printed = aborts("throws::a_walk_that_meets_a_barrier_without_entry_fails", || {
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

/// Goroutine 1, stopped, in a cycle that has not come to it; an entry is forged for the slot of
/// its innermost frame.
fn forged() -> Machines {
    let w = machines(EVERY_FRAME);
    let g = w.g(1);
    start(w.m0, g);
    calls(w.m0, &[Function::Small, Function::Medium, Function::Tiny]);
    assert!(w.m0.yield_now());
    assert!(w.collector.gc_mark());
    let slot = g.sched.bp.get() + 8;
    // SAFETY: the goroutine is stopped, and this process ends with what comes next.
    unsafe { g.barriers.forge(slot, info(Function::Medium).after_call) };
    w
}

#[test]
fn a_goroutine_that_already_has_barriers_is_not_scanned() {
    let printed = aborts("throws::a_goroutine_that_already_has_barriers_is_not_scanned", || {
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
fn barriers_that_a_complete_walk_has_not_met_are_counted() {
    let printed = aborts("throws::barriers_that_a_complete_walk_has_not_met_are_counted", || {
        let w = forged();
        // It moves to a larger stack, and its frames are walked: no slot holds the trampoline.
        assert!(w.m0.take(w.g(1)));
        calls(w.m0, &[Function::Huge]);
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
fn a_walk_that_ends_short_of_the_stacks_top_fails() {
    let printed = aborts("throws::a_walk_that_ends_short_of_the_stacks_top_fails", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Small, Function::Tiny]);
        assert!(w.m0.yield_now());
        // SAFETY: no walk is under way, and this process ends with the next one.
        unsafe { table::corrupt(info(Function::Entry).after_call, 16) };
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
fn one_barrier_more_than_there_is_room_for_is_not_installed() {
    let printed = aborts("throws::one_barrier_more_than_there_is_room_for_is_not_installed", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small; 4]);
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
fn a_caller_whose_barrier_is_not_next_is_not_replaced() {
    let printed = aborts("throws::a_caller_whose_barrier_is_not_next_is_not_replaced", || {
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
fn a_stack_that_cannot_grow_any_more_overflows() {
    let printed = aborts("throws::a_stack_that_cannot_grow_any_more_overflows", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Huge; 64]);
    });
    says(&printed, &["stack overflow: huge+", "g1: running", "stack of 65536 bytes"]);
}

#[test]
fn frames_without_a_check_run_into_the_guard_page() {
    let printed = aborts("throws::frames_without_a_check_run_into_the_guard_page", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Nosplit; 64]);
    });
    says(&printed, &["stack overflow: nosplit+", "hit a guard page", "g1: running", "stack of 2048 bytes"]);
}

#[test]
fn a_pointer_into_a_freed_stack_is_found_when_it_is_read() {
    let printed = aborts("throws::a_pointer_into_a_freed_stack_is_found_when_it_is_read", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small]);
        let slot = g.sched.bp.get() - 8;
        calls(w.m0, &[Function::Huge]);
        // The stack has moved; what a stale pointer into the old one gives goes into a slot.
        let stale = overwrite(slot, 0);
        overwrite(g.sched.bp.get() - 8, stale);
        w.m0.copy(1, 0);
    });
    says(&printed, &["a read of a freed stack: the value is poison", "g1: running"]);
}

#[test]
fn a_fault_that_is_not_the_cores_goes_to_whoever_had_it_before() {
    use std::os::unix::process::ExitStatusExt;
    // Not by `aborts`: what is expected is the fault itself.
    let name = "throws::a_fault_that_is_not_the_cores_goes_to_whoever_had_it_before";
    let status = crate::child::ends(name, || {
        let _ = machines(Config::default());
        // A second installation must not make the handler its own predecessor.
        sigstorm_runtime::fault::install().expect("fault handlers");
        // SAFETY: it is not: the fault is what the test wants.
        unsafe { core::ptr::without_provenance::<u8>(64).read_volatile() };
    });
    assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
}

#[test]
fn a_lock_that_is_held_is_shown_with_its_holder() {
    let printed = aborts("throws::a_lock_that_is_held_is_shown_with_its_holder", || {
        let w = scanned();
        let _held = lock::lock(w.m1, w.g(1), Operation::Bulk);
        assert!(w.m0.take(w.g(1)));
        calls(w.m0, &[Function::Nosplit; 64]);
    });
    says(&printed, &["stack overflow", "lock held by machine 2 for bulk"]);
}
