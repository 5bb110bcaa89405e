//! Foreign calls and callbacks: real foreign frames on the thread's own stack, and goroutine
//! frames that come and go below them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sigstorm_runtime::foreign::{self, Driver, MAX_CALLBACKS, Next};
use sigstorm_runtime::g::{G, status};
use sigstorm_runtime::panic::Unwind;
use sigstorm_runtime::profiler::{Outcome, Pseudo, Sample};
use sigstorm_runtime::{CodeClass, Config, Function, Left, M};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, Machines, be, calls, chain, frames, machines, returns_to_the_end, start};

/// A number that steps of a test count up.
struct Count(AtomicUsize);

impl Count {
    const fn new() -> Self {
        Count(AtomicUsize::new(0))
    }

    /// How often it was asked before.
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

/// A signal here and now walks the whole stack.
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
fn a_goroutine_in_foreign_code_counts_as_stopped_at_its_transition_point() {
    fn next(m: &'static M) -> Next {
        let g = current(m);
        assert!(m.in_foreign_code());
        assert_eq!((m.foreign_calls(), m.callbacks()), (1, 0));
        assert_eq!((g.status.get(), g.sched.sp.get()), (status::SYSCALL, 0));
        assert_eq!(chain(g), [Function::Cgocall, Function::Small, Function::Entry]);
        assert!(m.core.is_safe(m.id), "foreign code holds nobody up");
        walks(m, Pseudo::External, CodeClass::Foreign);
        assert!(!m.yield_now(), "its frames are on this thread's stack");
        assert_eq!(m.end(), Left::InForeign);
        assert_eq!(m.leave_syscall(), Left::Exited, "there is no system call to leave");
        Next::Return
    }
    static DRIVER: Driver = Driver { next, called_back: |_| unreachable!("nobody calls back") };
    passes("foreign::a_goroutine_in_foreign_code_counts_as_stopped_at_its_transition_point", || {
        let w = machines(Config::default());
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small]);
        let before = g.sched.sp.get();
        for _ in 0..3 {
            assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
            assert!(!w.m0.in_foreign_code());
            assert_eq!((w.m0.foreign_calls(), g.syscall.sp.get()), (0, 0));
            assert_eq!((g.status.get(), g.sched.sp.get()), (status::RUNNING, before));
            walks(w.m0, Pseudo::System, CodeClass::Runtime);
        }
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn the_thread_is_in_foreign_code_where_it_says_so() {
    /// Where the test's own frame is, further up.
    static ABOVE: Count = Count::new();
    static FRAMES: Count = Count::new();
    fn next(_: &'static M) -> Next {
        // This is the driver's code; foreign code is what lies around it.
        let here = 0usize;
        let (foreign, below) = (foreign::code(), &raw const here as usize);
        for address in (below..ABOVE.get()).step_by(8) {
            // SAFETY: aligned, and between two frames of this thread's own stack.
            let word = unsafe { (address as *const usize).read_volatile() };
            if (foreign.0..foreign.1).contains(&word) {
                FRAMES.next();
            }
        }
        Next::Return
    }
    static DRIVER: Driver = Driver { next, called_back: |_| unreachable!("nobody calls back") };
    passes("foreign::the_thread_is_in_foreign_code_where_it_says_so", || {
        let w = machines(Config::default());
        start(w.m0, w.g(1));
        let above = 0usize;
        ABOVE.0.store(&raw const above as usize, Ordering::Relaxed);
        assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
        // Return addresses of the calls that it has made of itself and of whom it asks.
        assert!(FRAMES.get() >= 3, "{} frames", FRAMES.get());
        let (start, end) = foreign::code();
        assert!(start < end && !(start..end).contains(&sigstorm_runtime::marked_code().0));
    });
}

/// `cgocall` and `callback` on top of each other, `times` times, above `small` and `entry`.
fn nested(times: usize) -> Vec<Function> {
    let mut chain = [Function::Callback, Function::Cgocall].repeat(times);
    chain.extend([Function::Small, Function::Entry]);
    chain
}

#[test]
fn callbacks_nest_as_deep_as_there_is_room_for_transition_points() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> Next {
        let depth = m.callbacks();
        assert_eq!(m.foreign_calls(), depth + 1);
        let mut expected = nested(depth);
        expected.insert(0, Function::Cgocall);
        assert_eq!(chain(current(m)), expected);
        walks(m, Pseudo::External, CodeClass::Foreign);
        match ASKED.next() {
            // The last two are one too deep, and back at its end.
            asked if asked <= MAX_CALLBACKS => Next::CallBack,
            _ => Next::Return,
        }
    }
    fn called_back(m: &'static M) {
        let depth = m.callbacks();
        assert!(!m.in_foreign_code());
        assert_eq!(chain(current(m)), nested(depth));
        assert_eq!(current(m).status.get(), status::RUNNING);
        walks(m, Pseudo::System, CodeClass::Runtime);
        assert_eq!(m.foreign(&DRIVER), Left::Asks);
        assert_eq!((m.callbacks(), chain(current(m))), (depth, nested(depth)));
        assert_eq!(m.ret(), Left::InForeign);
        assert_eq!((m.callbacks(), current(m).status.get()), (depth - 1, status::SYSCALL));
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::callbacks_nest_as_deep_as_there_is_room_for_transition_points", || {
        let w = machines(Config { initial_stack: 4096, ..EVERY_FRAME });
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Small]);
        assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
        // Once at each depth, once more where there was no room, once more after each return.
        assert_eq!(ASKED.get(), MAX_CALLBACKS + 1 + 1 + MAX_CALLBACKS);
        assert_eq!(w.m0.callbacks(), 0);
        returns_to_the_end(w.m0, 2);
    });
}

/// Has the collector's thread scan `g`, in a cycle of its own if none is under way.
fn scan_elsewhere(m: &'static M, g: &'static G) {
    let collector = M::leak(m.core, 2);
    thread::spawn(move || {
        be(collector);
        collector.gc_mark();
        assert!(collector.gc_scan(g));
    })
    .join()
    .expect("the collector");
}

#[test]
fn a_goroutine_in_foreign_code_is_scanned_and_returns_through_its_barriers() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> Next {
        let g = current(m);
        match ASKED.next() {
            0 => {
                scan_elsewhere(m, g);
                // Not in the innermost frame, and not in the outermost.
                assert_eq!(g.barriers.len(), 2);
                walks(m, Pseudo::External, CodeClass::Foreign);
                Next::CallBack
            }
            _ => {
                assert_eq!(g.barriers.pending(), 2);
                walks(m, Pseudo::External, CodeClass::Foreign);
                Next::Return
            }
        }
    }
    fn called_back(m: &'static M) {
        calls(m, &[Function::Medium, Function::Tiny]);
        walks(m, Pseudo::System, CodeClass::Runtime);
        assert_eq!((m.ret(), m.ret(), m.ret()), (Left::Asks, Left::Asks, Left::InForeign));
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::a_goroutine_in_foreign_code_is_scanned_and_returns_through_its_barriers", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small, Function::Large]);
        assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
        assert_eq!(ASKED.get(), 2);
        assert_eq!(g.barriers.pending(), 2);
        assert_eq!(w.m0.ret(), Left::Asks);
        assert_eq!(g.barriers.pending(), 1);
        assert_eq!(chain(g), [Function::Small, Function::Entry]);
        assert!(w.collector.gc_terminate());
        assert!(g.barriers.is_empty());
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn no_barrier_lies_over_the_saved_pc_of_a_callback() {
    static ASKED: Count = Count::new();
    fn next(_: &'static M) -> Next {
        if ASKED.next() == 0 { Next::CallBack } else { Next::Return }
    }
    fn called_back(m: &'static M) {
        let g = current(m);
        calls(m, &[Function::Tiny]);
        assert_eq!(m.call(Function::Syscall), Left::InSyscall);
        scan_elsewhere(m, g);
        use Function::{Callback, Cgocall, Entry, Small, Syscall, Tiny};
        assert_eq!(chain(g), [Syscall, Tiny, Callback, Cgocall, Small, Entry]);
        // All but the innermost, the outermost and the callback's.
        assert_eq!(g.barriers.pending(), 3);
        let callback = frames(g).expect("a walk")[2].slot.expect("a slot");
        assert!((0..3).all(|i| g.barriers.entry(i).expect("an entry").slot != callback));
        assert_eq!(m.leave_syscall(), Left::Asks);
        assert_eq!(m.ret(), Left::Asks);
        assert_eq!(m.ret(), Left::InForeign);
        assert_eq!(g.barriers.pending(), 2);
        // Its barriers go, and it is walked from a PC that nobody has covered.
        let collector = M::leak(m.core, 2);
        assert!(collector.gc_terminate());
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::no_barrier_lies_over_the_saved_pc_of_a_callback", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Small]);
        assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
        returns_to_the_end(w.m0, 2);
    });
}

#[test]
fn a_callback_can_grow_the_stack_that_foreign_calls_will_return_to() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> Next {
        match ASKED.next() {
            0 => {
                scan_elsewhere(m, current(m));
                Next::CallBack
            }
            1 => Next::CallBack,
            _ => Next::Return,
        }
    }
    fn called_back(m: &'static M) {
        let g = current(m);
        if m.callbacks() == 1 {
            calls(m, &[Function::Tiny]);
            assert_eq!(m.foreign(&DRIVER), Left::Asks);
            assert_eq!(m.ret(), Left::Asks);
        } else {
            let (size, copies) = (g.stack.size(), m.core.copies());
            calls(m, &[Function::Huge; 3]);
            assert!(g.stack.size() > size && m.core.copies() > copies);
            use Function::{Callback, Cgocall, Entry, Huge, Small, Tiny};
            assert_eq!(
                chain(g),
                [Huge, Huge, Huge, Callback, Cgocall, Tiny, Callback, Cgocall, Small, Small, Entry]
            );
            for _ in 0..3 {
                assert_eq!(m.ret(), Left::Asks);
            }
            // Not into the stub, which has no slots; into the callback's caller's caller.
            assert!(m.alloc(0).is_some());
            assert!(!m.write_up(1, 0, 0) && !m.refer(0, 1, 0) && !m.bulk_move(1));
            assert!(m.write_up(2, 3, 0));
            assert_eq!(m.slot_value(2, 3), m.slot_value(0, 0));
        }
        assert_eq!(m.ret(), Left::InForeign);
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::a_callback_can_grow_the_stack_that_foreign_calls_will_return_to", || {
        let w = machines(Config { unreadable: 1, ..EVERY_FRAME });
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Small, Function::Small]);
        assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
        assert_eq!(chain(g), [Function::Small, Function::Small, Function::Entry]);
        assert_eq!(g.barriers.pending(), 2, "those that were there before the stack moved");
        returns_to_the_end(w.m0, 3);
    });
}

#[test]
fn a_panic_in_a_callback_is_recovered_there_or_stopped_by_its_frame() {
    static ASKED: Count = Count::new();
    fn next(_: &'static M) -> Next {
        if ASKED.next() == 0 { Next::CallBack } else { Next::Return }
    }
    fn called_back(m: &'static M) {
        let g = current(m);
        let in_callback = [Function::Callback, Function::Cgocall, Function::Deferring, Function::Entry];
        assert!(!m.yield_now());
        assert_eq!((m.end(), m.panic(true)), (Left::InForeign, None), "it cannot end here");
        for recovers in [true, false] {
            calls(m, &[Function::Deferring]);
            assert!(m.defer(Function::Small));
            calls(m, &[Function::Medium]);
            assert_eq!(m.panic(false), Some(Left::Asks));
            assert_eq!(m.unwind_next(), Unwind::Call(Function::Small));
            calls(m, &[Function::Small]);
            assert!(!recovers || m.recover());
            assert_eq!(m.ret(), Left::Asks);
            // What was deferred above the callback is not asked.
            let Unwind::Recover { below } = m.unwind_next() else { panic!("nobody stops the panic") };
            assert_eq!(m.recovery(below), Left::Asks);
            if recovers {
                assert_eq!(chain(g)[0], Function::Deferring);
                assert_eq!(chain(g)[1..], in_callback);
                assert_eq!(m.ret(), Left::Asks);
            }
            assert_eq!(chain(g), in_callback);
            walks(m, Pseudo::System, CodeClass::Runtime);
        }
        assert_eq!(m.ret(), Left::InForeign);
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::a_panic_in_a_callback_is_recovered_there_or_stopped_by_its_frame", || {
        let w = machines(EVERY_FRAME);
        let g = w.g(1);
        start(w.m0, g);
        calls(w.m0, &[Function::Deferring]);
        assert!(w.m0.defer(Function::Tiny));
        assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
        assert_eq!(w.m0.deferred_before_return(), Some(Function::Tiny), "it is still to be called");
        // A panic after it is nobody's but its own.
        assert_eq!(w.m0.panic(false), Some(Left::Asks));
        assert_eq!(w.m0.unwind_next(), Unwind::End);
        assert_eq!(w.m0.end(), Left::Exited);
    });
}

#[test]
fn the_world_is_stopped_while_foreign_code_runs_and_not_while_it_calls_back() {
    static ASKED: Count = Count::new();
    fn next(m: &'static M) -> Next {
        if ASKED.next() != 0 {
            return Next::Return;
        }
        let collector = M::leak(m.core, 2);
        // From mark to sweep with one goroutine in foreign code: nobody waits for it.
        Machines { core: m.core, m0: m, m1: m, collector }.cycle(&[1]);
        assert!(current(m).barriers.is_empty());
        Next::CallBack
    }
    fn called_back(m: &'static M) {
        assert!(m.core.is_safe(m.id), "between two operations");
        assert_eq!(m.ret(), Left::InForeign);
    }
    static DRIVER: Driver = Driver { next, called_back };
    passes("foreign::the_world_is_stopped_while_foreign_code_runs_and_not_while_it_calls_back", || {
        let w = machines(EVERY_FRAME);
        start(w.m0, w.g(1));
        calls(w.m0, &[Function::Small; 3]);
        assert_eq!(w.m0.foreign(&DRIVER), Left::Asks);
        assert_eq!(ASKED.get(), 2);
        returns_to_the_end(w.m0, 4);
    });
}
