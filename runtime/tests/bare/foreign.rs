//! Foreign calls and callbacks: real foreign frames on the thread's own stack, and goroutine
//! frames that come and go below them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sigstorm_runtime::profiler::{Outcome, Pseudo, Sample};
use sigstorm_runtime::sched::foreign::{self, Driver, ForeignStep, MAX_CALLBACKS};
use sigstorm_runtime::sched::g::{G, status};
use sigstorm_runtime::sched::panic::Unwind;
use sigstorm_runtime::{CodeClass, Config, FuncId, M, RunResult};

use crate::child::passes;
use crate::machine::{
    EVERY_FRAME, Machines, be, calls, chain, collector, frames, machines, returns_to_the_end, start,
};

/// A count that the steps of a test increase.
struct Count(AtomicUsize);

impl Count {
    const fn new() -> Self {
        Count(AtomicUsize::new(0))
    }

    /// Returns the count, and increases it.
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn signal(m: &'static M) -> Sample {
    // SAFETY: `raise` comes back after the handler has run.
    assert_eq!(unsafe { libc::raise(libc::SIGPROF) }, 0);
    // SAFETY: nothing else sends this thread the signal, so the handler does not run now.
    unsafe { *m.last_sample() }
}

/// Asserts that a signal here and now walks the whole stack.
#[track_caller]
fn walks(m: &'static M, pseudo: Pseudo, class: CodeClass) {
    let g = m.current().expect("a goroutine");
    let (sample, expected) = (signal(m), frames(g).expect("a walk"));
    assert_eq!((sample.outcome, sample.goroutine), (Outcome::Traceback, g.id));
    assert_eq!((sample.pseudo, sample.class), (pseudo, class));
    assert!(sample.frames().iter().map(|f| (f.pc, f.sp)).eq(expected.iter().map(|f| (f.pc, f.sp))));
}

fn current(m: &'static M) -> &'static G {
    m.current().expect("a goroutine")
}

#[test]
fn g_in_foreign_code_counts_as_stopped_at_its_transition_point() {
    fn next(m: &'static M) -> ForeignStep {
        let g = current(m);
        assert!(m.in_foreign_code());
        assert_eq!((m.foreign_calls(), m.callbacks()), (1, 0));
        assert_eq!((g.status.get(), g.sched.sp.get()), (status::SYSCALL, 0));
        assert_eq!(chain(g), [FuncId::Cgocall, FuncId::Small, FuncId::Entry]);
        assert!(m.runtime.at_safepoint(m.id), "foreign code is at a safepoint");
        walks(m, Pseudo::External, CodeClass::Foreign);
        assert!(!m.yield_now(), "its frames are on this thread's stack");
        assert_eq!(m.end(), RunResult::InForeign);
        assert_eq!(m.leave_syscall(), RunResult::Exited, "there is no system call to leave");
        ForeignStep::Return
    }
    static DRIVER: Driver = Driver { next, called_back: |_| unreachable!("there is no callback") };
    passes("foreign::g_in_foreign_code_counts_as_stopped_at_its_transition_point", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small]);
        let before = g.sched.sp.get();
        for _ in 0..3 {
            assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
            assert!(!w.m0.in_foreign_code());
            assert_eq!((w.m0.foreign_calls(), g.syscall.sp.get()), (0, 0));
            assert_eq!((g.status.get(), g.sched.sp.get()), (status::RUNNING, before));
            walks(w.m0, Pseudo::System, CodeClass::Runtime);
        }
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn foreign_frames_lie_on_the_stack_while_in_foreign_code() {
    /// The address of the test's own frame, further up.
    static ABOVE: Count = Count::new();
    static FRAMES: Count = Count::new();
    fn next(_: &'static M) -> ForeignStep {
        // This is the driver's code; the frames around it are foreign code's.
        let here = 0usize;
        let (foreign, below) = (foreign::code(), &raw const here as usize);
        for address in (below..ABOVE.get()).step_by(8) {
            // SAFETY: aligned, and between two frames of this thread's own stack.
            let word = unsafe { (address as *const usize).read_volatile() };
            if (foreign.0..foreign.1).contains(&word) {
                FRAMES.next();
            }
        }
        ForeignStep::Return
    }
    static DRIVER: Driver = Driver { next, called_back: |_| unreachable!("there is no callback") };
    passes("foreign::foreign_frames_lie_on_the_stack_while_in_foreign_code", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        let above = 0usize;
        ABOVE.0.store(&raw const above as usize, Ordering::Relaxed);
        assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
        // Return addresses of foreign code's recursive calls and of its call of the driver.
        assert!(FRAMES.get() >= 3, "{} frames", FRAMES.get());
        let (start, end) = foreign::code();
        assert!(start < end && !(start..end).contains(&sigstorm_runtime::marked_code().0));
    });
}

/// `cgocall` and `callback` on top of each other, `times` times, above `small` and `entry`.
fn nested(times: usize) -> Vec<FuncId> {
    let mut chain = [FuncId::Callback, FuncId::Cgocall].repeat(times);
    chain.extend([FuncId::Small, FuncId::Entry]);
    chain
}

#[test]
fn callbacks_nest_up_to_max_callbacks() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> ForeignStep {
        let depth = m.callbacks();
        assert_eq!(m.foreign_calls(), depth + 1);
        let mut expected = nested(depth);
        expected.insert(0, FuncId::Cgocall);
        assert_eq!(chain(current(m)), expected);
        walks(m, Pseudo::External, CodeClass::Foreign);
        match ASKED.next() {
            // The last two asks: one call too deep, and the return of the outermost.
            asked if asked <= MAX_CALLBACKS => ForeignStep::CallBack,
            _ => ForeignStep::Return,
        }
    }
    fn called_back(m: &'static M) {
        let depth = m.callbacks();
        assert!(!m.in_foreign_code());
        assert_eq!(chain(current(m)), nested(depth));
        assert_eq!(current(m).status.get(), status::RUNNING);
        walks(m, Pseudo::System, CodeClass::Runtime);
        assert_eq!(m.foreign(&DRIVER), RunResult::NextOp);
        assert_eq!((m.callbacks(), chain(current(m))), (depth, nested(depth)));
        assert_eq!(m.ret(), RunResult::InForeign);
        assert_eq!((m.callbacks(), current(m).status.get()), (depth - 1, status::SYSCALL));
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::callbacks_nest_up_to_max_callbacks", || {
        let w = machines(Config { initial_stack: 4096, ..EVERY_FRAME });
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Small]);
        assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
        // One ask at each depth, one more without room, one more after each return.
        assert_eq!(ASKED.get(), MAX_CALLBACKS + 1 + 1 + MAX_CALLBACKS);
        assert_eq!(w.m0.callbacks(), 0);
        returns_to_the_end(w.m0, 2);
    });
}

/// Has the collector's thread scan `g`, in a cycle of its own if none is under way.
fn scan_elsewhere(g: &'static G) {
    let collector = collector();
    thread::spawn(move || {
        be(collector);
        collector.gc_mark();
        assert!(collector.gc_scan(g));
    })
    .join()
    .expect("the collector");
}

#[test]
fn g_in_foreign_code_is_scanned_and_returns_through_its_barriers() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> ForeignStep {
        let g = current(m);
        match ASKED.next() {
            0 => {
                scan_elsewhere(g);
                // Not in the innermost frame, and not in the outermost.
                assert_eq!(g.barriers.len(), 2);
                walks(m, Pseudo::External, CodeClass::Foreign);
                ForeignStep::CallBack
            }
            _ => {
                assert_eq!(g.barriers.pending(), 2);
                walks(m, Pseudo::External, CodeClass::Foreign);
                ForeignStep::Return
            }
        }
    }
    fn called_back(m: &'static M) {
        calls(m, &[FuncId::Medium, FuncId::Tiny]);
        walks(m, Pseudo::System, CodeClass::Runtime);
        assert_eq!((m.ret(), m.ret(), m.ret()), (RunResult::NextOp, RunResult::NextOp, RunResult::InForeign));
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::g_in_foreign_code_is_scanned_and_returns_through_its_barriers", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Large]);
        assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
        assert_eq!(ASKED.get(), 2);
        assert_eq!(g.barriers.pending(), 2);
        assert_eq!(w.m0.ret(), RunResult::NextOp);
        assert_eq!(g.barriers.pending(), 1);
        assert_eq!(chain(g), [FuncId::Small, FuncId::Entry]);
        assert!(w.collector.gc_terminate());
        assert!(g.barriers.is_empty());
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn callback_slot_never_gets_a_barrier() {
    static ASKED: Count = Count::new();
    fn next(_: &'static M) -> ForeignStep {
        if ASKED.next() == 0 { ForeignStep::CallBack } else { ForeignStep::Return }
    }
    fn called_back(m: &'static M) {
        let g = current(m);
        calls(m, &[FuncId::Tiny]);
        assert_eq!(m.call(FuncId::Syscall), RunResult::InSyscall);
        scan_elsewhere(g);
        use FuncId::{Callback, Cgocall, Entry, Small, Syscall, Tiny};
        assert_eq!(chain(g), [Syscall, Tiny, Callback, Cgocall, Small, Entry]);
        // All but the innermost, the outermost and the callback's.
        assert_eq!(g.barriers.pending(), 3);
        let callback = frames(g).expect("a walk")[2].slot.expect("a slot");
        assert!((0..3).all(|i| g.barriers.entry(i).expect("an entry").slot != callback));
        assert_eq!(m.leave_syscall(), RunResult::NextOp);
        assert_eq!(m.ret(), RunResult::NextOp);
        assert_eq!(m.ret(), RunResult::InForeign);
        assert_eq!(g.barriers.pending(), 2);
        // Its barriers are removed, and its walk starts at a PC that no barrier covers.
        let collector = collector();
        assert!(collector.gc_terminate());
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::callback_slot_never_gets_a_barrier", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Small]);
        assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn callback_can_grow_the_stack_under_foreign_calls() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> ForeignStep {
        match ASKED.next() {
            0 => {
                scan_elsewhere(current(m));
                ForeignStep::CallBack
            }
            1 => ForeignStep::CallBack,
            _ => ForeignStep::Return,
        }
    }
    fn called_back(m: &'static M) {
        let g = current(m);
        if m.callbacks() == 1 {
            calls(m, &[FuncId::Tiny]);
            assert_eq!(m.foreign(&DRIVER), RunResult::NextOp);
            assert_eq!(m.ret(), RunResult::NextOp);
        } else {
            let (size, copies) = (g.stack.size(), m.runtime.copies());
            calls(m, &[FuncId::Huge; 3]);
            assert!(g.stack.size() > size && m.runtime.copies() > copies);
            use FuncId::{Callback, Cgocall, Entry, Huge, Small, Tiny};
            assert_eq!(
                chain(g),
                [Huge, Huge, Huge, Callback, Cgocall, Tiny, Callback, Cgocall, Small, Small, Entry]
            );
            for _ in 0..3 {
                assert_eq!(m.ret(), RunResult::NextOp);
            }
            // Not into the stub, which has no slots; into the callback's caller's caller.
            assert!(m.alloc(0).is_some());
            assert!(!m.write_up(1, 0, 0) && !m.refer(0, 1, 0) && !m.bulk_move(1));
            assert!(m.write_up(2, 3, 0));
            assert_eq!(m.slot_value(2, 3), m.slot_value(0, 0));
        }
        assert_eq!(m.ret(), RunResult::InForeign);
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::callback_can_grow_the_stack_under_foreign_calls", || {
        let w = machines(Config { unreadable: 1, ..EVERY_FRAME });
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Small, FuncId::Small]);
        assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
        assert_eq!(chain(g), [FuncId::Small, FuncId::Small, FuncId::Entry]);
        assert_eq!(g.barriers.pending(), 2, "those that were there before the stack moved");
        returns_to_the_end(w.m0, 3);
    });
}

#[test]
fn callback_panic_is_recovered_there_or_stopped_by_its_frame() {
    static ASKED: Count = Count::new();
    fn next(_: &'static M) -> ForeignStep {
        if ASKED.next() == 0 { ForeignStep::CallBack } else { ForeignStep::Return }
    }
    fn called_back(m: &'static M) {
        let g = current(m);
        let in_callback = [FuncId::Callback, FuncId::Cgocall, FuncId::Deferring, FuncId::Entry];
        assert!(!m.yield_now());
        assert_eq!((m.end(), m.panic(true)), (RunResult::InForeign, None), "it cannot end here");
        for recovers in [true, false] {
            calls(m, &[FuncId::Deferring]);
            assert!(m.defer(FuncId::Small));
            calls(m, &[FuncId::Medium]);
            assert_eq!(m.panic(false), Some(RunResult::NextOp));
            assert_eq!(m.unwind_next(), Unwind::Call(FuncId::Small));
            calls(m, &[FuncId::Small]);
            assert!(!recovers || m.recover());
            assert_eq!(m.ret(), RunResult::NextOp);
            // Calls that were deferred above the callback are not made.
            let Unwind::Recover { below } = m.unwind_next() else {
                panic!("the callback does not stop the panic")
            };
            assert_eq!(m.recovery(below), RunResult::NextOp);
            if recovers {
                assert_eq!(chain(g)[0], FuncId::Deferring);
                assert_eq!(chain(g)[1..], in_callback);
                assert_eq!(m.ret(), RunResult::NextOp);
            }
            assert_eq!(chain(g), in_callback);
            walks(m, Pseudo::System, CodeClass::Runtime);
        }
        assert_eq!(m.ret(), RunResult::InForeign);
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::callback_panic_is_recovered_there_or_stopped_by_its_frame", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[FuncId::Deferring]);
        assert!(w.m0.defer(FuncId::Tiny));
        assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
        assert_eq!(w.m0.deferred_before_return(), Some(FuncId::Tiny), "it is still to be called");
        // A later panic is independent of it.
        assert_eq!(w.m0.panic(false), Some(RunResult::NextOp));
        assert_eq!(w.m0.unwind_next(), Unwind::End);
        assert_eq!(w.m0.end(), RunResult::Exited);
    });
}

#[test]
fn world_stops_during_foreign_code_but_not_during_callbacks() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> ForeignStep {
        if ASKED.next() != 0 {
            return ForeignStep::Return;
        }
        let collector = collector();
        // From mark to sweep with one goroutine in foreign code: no machine waits for it.
        Machines { runtime: m.runtime, m0: m, m1: m, collector }.cycle(&[1]);
        assert!(current(m).barriers.is_empty());
        ForeignStep::CallBack
    }
    fn called_back(m: &'static M) {
        assert!(m.runtime.at_safepoint(m.id), "between two operations");
        assert_eq!(m.ret(), RunResult::InForeign);
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::world_stops_during_foreign_code_but_not_during_callbacks", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        calls(w.m0, &[FuncId::Small; 3]);
        assert_eq!(w.m0.foreign(&DRIVER), RunResult::NextOp);
        assert_eq!(ASKED.get(), 2);
        returns_to_the_end(w.m0, 4);
    });
}
