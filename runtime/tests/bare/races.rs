//! Narrow windows between two threads, tried for a while.

use std::hint;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::g::{G, status};
use sigstorm_runtime::stack::MIN_STACK;
use sigstorm_runtime::{Config, Function, M};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, be, machines};
use crate::storm::{install_judge, signal_until};

const TIME: Duration = Duration::from_secs(2);

fn until(mut turn: impl FnMut()) {
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        (0..100).for_each(|_| turn());
    }
}

#[test]
fn one_machine_gets_a_goroutine_that_two_want_to_start() {
    passes("races::one_machine_gets_a_goroutine_that_two_want_to_start", || {
        static HAVE_IT: AtomicU32 = AtomicU32::new(0);
        // M0: sees that it is dead             M1: sees that it is dead
        //                                      M1: starts it, runs it
        // M0: starts it: its saved state is that of the start, its status runnable
        fn turns(m: &'static M, g: &'static G) {
            be(m);
            until(|| {
                if m.take(g) {
                    assert_eq!(HAVE_IT.fetch_add(1, Ordering::SeqCst), 0, "two machines have it");
                    hint::spin_loop();
                    HAVE_IT.fetch_sub(1, Ordering::SeqCst);
                    m.end();
                }
            });
        }
        let w = machines(Config::default());
        let g = w.g(1);
        [w.m0, w.m1].map(|m| thread::spawn(move || turns(m, g))).map(|t| t.join().expect("a machine"));
    });
}

#[test]
fn a_handler_walks_no_goroutine_that_another_machine_runs() {
    passes("races::a_handler_walks_no_goroutine_that_another_machine_runs", || {
        // M0: lets g1 go: it is runnable, and still M0's current one
        //                                      M1: takes g1, runs it
        // M0: SIGPROF: walks g1, which is on M1's hands
        let w = machines(Config::default());
        install_judge();
        let g = w.g(1);
        assert!(w.m0.take(g));
        assert!(w.m0.yield_now());
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let machines = [w.m0, w.m1].map(|m| {
            thread::spawn(move || {
                be(m);
                until(|| {
                    if m.take(g) {
                        m.call(Function::Small);
                        if g.sched.pc.get() != 0 {
                            m.call(Function::Tiny);
                            m.ret();
                        }
                        m.ret();
                        m.yield_now();
                    }
                });
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
            })
        });
        let targets = [machines[0].as_pthread_t(), machines[1].as_pthread_t()];
        let signals = thread::spawn(move || signal_until(stop, &targets));
        thread::sleep(TIME);
        stop.store(true, Ordering::Relaxed);
        let sent = signals.join().expect("the one who signals");
        machines.map(|t| t.join().expect("a machine"));
        assert!(sent > 1000, "{sent} signals");
    });
}

#[test]
fn a_request_is_not_lost_while_the_stack_moves() {
    passes("races::a_request_is_not_lost_while_the_stack_moves", || {
        // M0: copystack: nobody has raised the guard
        //                                      M2: asks: raises the guard
        // M0: copystack: sets the guard to the new stack's
        let w = machines(Config::default());
        let (m0, collector, g) = (w.m0, w.collector, w.g(1));
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let asks = thread::spawn(move || {
            be(collector);
            let mut asked = 0u64;
            while !stop.load(Ordering::Relaxed) {
                collector.gc_mark();
                asked += u64::from(collector.gc_scan(g));
                collector.gc_terminate();
                collector.gc_sweep();
            }
            asked
        });
        assert!(m0.take(g));
        m0.call(Function::Tiny);
        until(|| {
            (0..4).for_each(|_| drop(m0.call(Function::Huge)));
            let lost = || g.preempt_requested() && g.guard.get() != usize::MAX;
            // The two are not written at once: give the other one time.
            assert!(
                !lost()
                    || !(0..100).all(|_| {
                        thread::yield_now();
                        lost()
                    }),
                "a request is lost"
            );
            (0..4).for_each(|_| drop(m0.ret()));
            m0.yield_now();
            while g.stack.size() > MIN_STACK && m0.gc_shrink(g) {}
            assert!(m0.take(g));
        });
        m0.end();
        stop.store(true, Ordering::Relaxed);
        assert!(asks.join().expect("the collector") > 100);
        assert!(w.core.copies() > 100);
    });
}

#[test]
fn the_world_is_not_stopped_while_a_machine_goes_on() {
    passes("races::the_world_is_not_stopped_while_a_machine_goes_on", || {
        // M0: the world goes on: leaves the safepoint, looks whether it is stopped again, and
        //     counts as safe once more, for the length of one instruction
        //                                      M2: stops the world: all are safe
        // M0: goes on
        let w = machines(EVERY_FRAME);
        let (collector, g) = (w.collector, w.g(1));
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let collects = thread::spawn(move || {
            be(collector);
            while !stop.load(Ordering::Relaxed) {
                collector.gc_mark();
                collector.gc_scan(g);
                collector.gc_terminate();
                collector.gc_sweep();
            }
        });
        assert!(w.m0.take(g));
        w.m0.call(Function::Tiny);
        until(|| {
            (0..8).for_each(|_| drop(w.m0.call(Function::Small)));
            (0..8).for_each(|_| drop(w.m0.ret()));
            assert_eq!(g.status.get() & !status::SCAN, status::RUNNING);
        });
        w.m0.end();
        stop.store(true, Ordering::Relaxed);
        collects.join().expect("the collector");
    });
}
