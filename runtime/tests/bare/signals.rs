//! Real profiling signals, at places that are known.

use std::thread;

use sigstorm_runtime::profiler::{self, Outcome, Pseudo, Sample, SkipReason};
use sigstorm_runtime::stack::lock::{self, Operation, Owner};
use sigstorm_runtime::{CodeClass, Config, FuncId, M, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, calls, frames, machines, signal_stack, start};

/// Raises SIGPROF on the calling thread and gives the sample that its machine took.
fn signal(m: &'static M) -> Sample {
    // SAFETY: `raise` comes back after the handler has run.
    assert_eq!(unsafe { libc::raise(libc::SIGPROF) }, 0);
    // SAFETY: nothing else sends this thread the signal, so the handler does not run now.
    unsafe { *m.last_sample() }
}

#[track_caller]
fn is_the_whole_stack(sample: &Sample, g: &'static sigstorm_runtime::G) {
    let expected = frames(g).expect("a walk");
    assert_eq!((sample.outcome, sample.goroutine), (Outcome::Traceback, g.id));
    assert_eq!(sample.len, expected.len().min(profiler::MAX_FRAMES));
    for (taken, frame) in sample.frames().iter().zip(&expected) {
        assert_eq!((taken.pc, taken.sp), (frame.pc, frame.sp));
    }
}

#[test]
fn signal_on_own_stack_walks_saved_state() {
    passes("signals::signal_on_own_stack_walks_saved_state", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        assert!(w.m0.take(g));
        is_the_whole_stack(&signal(w.m0), g);
        w.m0.yield_now();
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Huge, FuncId::Deferring, FuncId::Nosplit]);
        let sample = signal(w.m0);
        is_the_whole_stack(&sample, g);
        assert_eq!((sample.pseudo, sample.class), (Pseudo::System, CodeClass::Runtime));
        assert!(!g.stack.contains(sample.sp));

        assert_eq!(w.m0.call(FuncId::Syscall), RunResult::InSyscall);
        let sample = signal(w.m0);
        is_the_whole_stack(&sample, g);
        assert_eq!(sample.len, 6);

        assert!(w.collector.gc_mark());
        assert!(w.collector.gc_scan(g));
        assert_eq!(g.barriers.pending(), 4);
        is_the_whole_stack(&signal(w.m0), g);
        assert!(w.m0.holds_no_lock() && g.lock.owner().is_none());
    });
}

#[test]
fn traceback_of_deep_stack_is_cut_off_at_max_frames() {
    passes("signals::traceback_of_deep_stack_is_cut_off_at_max_frames", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Tiny; 100]);
        let sample = signal(w.m0);
        assert_eq!(sample.len, profiler::MAX_FRAMES);
        is_the_whole_stack(&sample, w.g(1));
    });
}

#[test]
fn signal_under_held_lock_is_skipped_and_names_the_holder() {
    passes("signals::signal_under_held_lock_is_skipped_and_names_the_holder", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        for (machine, operation) in [(w.m1, Operation::Copystack), (w.m0, Operation::Recover)] {
            let held = lock::lock(machine, g, operation);
            let owner = Owner { machine: machine.id, operation };
            assert!(!machine.holds_no_lock());
            let sample = signal(w.m0);
            assert_eq!(sample.outcome, Outcome::Skipped(SkipReason::LockHeld, Some(owner)));
            assert_eq!((sample.len, sample.goroutine), (0, 1));
            assert_eq!(g.lock.owner(), Some(owner), "the handler has left it alone");
            drop(held);
            assert!(machine.holds_no_lock());
            is_the_whole_stack(&signal(w.m0), g);
        }
    });
}

#[test]
fn signal_without_goroutine_rate_or_machine_walks_nothing() {
    passes("signals::signal_without_goroutine_rate_or_machine_walks_nothing", || {
        let w = machines(Config::default());
        let sample = signal(w.m0);
        assert_eq!((sample.outcome, sample.goroutine, sample.len), (Outcome::NoGoroutine, 0, 0));

        start(w.m0, w.g(1));
        assert_eq!(w.m0.set_rate(0), Ok(true));
        assert_eq!(w.m0.set_rate(0), Ok(false));
        assert_eq!(signal(w.m0).outcome, Outcome::Skipped(SkipReason::ProfilerOff, None));
        assert_eq!(w.m0.set_rate(1000), Ok(true));
        assert_eq!(signal(w.m0).outcome, Outcome::Traceback);

        thread::spawn(|| {
            signal_stack();
            // SAFETY: `raise` comes back after the handler has run.
            assert_eq!(unsafe { libc::raise(libc::SIGPROF) }, 0);
        })
        .join()
        .expect("a thread without a machine");
        assert_eq!(profiler::foreign_signals(), 1);
    });
}

#[test]
fn sigprof_handler_keeps_errno() {
    passes("signals::sigprof_handler_keeps_errno", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        // SAFETY: the thread's own errno.
        unsafe { *libc::__errno_location() = libc::EXDEV };
        assert_eq!(signal(w.m0).outcome, Outcome::Traceback);
        // SAFETY: as above.
        assert_eq!(unsafe { *libc::__errno_location() }, libc::EXDEV);
    });
}
