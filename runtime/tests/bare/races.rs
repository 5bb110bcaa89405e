//! Narrow windows between two threads, tried for a while.

use std::hint;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sigstorm_runtime::sched::g::{G, status};
use sigstorm_runtime::{Config, FuncId, M, RunResult};

use crate::child::passes;
use crate::machine::{EVERY_FRAME, Machines, be, calls, machines, start};
use crate::storm::{install_judge, signal_until};

const TIME: Duration = Duration::from_secs(2);

fn until(mut turn: impl FnMut()) {
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        (0..100).for_each(|_| turn());
    }
}

#[test]
fn dead_g_is_restarted_by_one_of_two_machines() {
    passes("races::dead_g_is_restarted_by_one_of_two_machines", || {
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
        for thread in [w.m0, w.m1].map(|m| thread::spawn(move || turns(m, g))) {
            thread.join().expect("a machine");
        }
    });
}

#[test]
fn handler_never_walks_a_g_that_another_machine_runs() {
    passes("races::handler_never_walks_a_g_that_another_machine_runs", || {
        // M0: drops g1: it is runnable, and still M0's current goroutine
        //                                      M1: takes g1, runs it
        // M0: SIGPROF: walks g1, which M1 runs
        let w = machines(Config::default());
        install_judge();
        let g = w.g(1);
        start(w.m0, g);
        assert!(w.m0.yield_now());
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let machines = [w.m0, w.m1].map(|m| {
            thread::spawn(move || {
                be(m);
                until(|| {
                    if m.take(g) {
                        m.call(FuncId::Small);
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
        for thread in machines {
            thread.join().expect("a machine");
        }
        assert!(sent > 1000, "{sent} signals");
    });
}

#[test]
fn preempt_request_survives_copystack() {
    passes("races::preempt_request_survives_copystack", || {
        // M0: copystack: sees that the guard is not raised
        //                                      M2: asks: raises the guard
        // M0: copystack: sets the guard to the new stack's
        //
        // M0: takes an earlier request: clears the flag, then the guard
        //                                      M2: asks: sets the flag before, the guard after
        // M0: a raised guard and no request: no stack is large enough
        let w = machines(Config::default());
        let (end, mut asked) = (Instant::now() + TIME, 0);
        while Instant::now() < end {
            asked += round(&w);
            // SAFETY: the collector was joined, and machine 0 has no goroutine.
            unsafe { w.runtime.reset(Config::default()) }.expect("a valid configuration");
        }
        assert!(asked > 10, "{asked} scans");
    });
}

/// Some thousand copies, under a collector that asks all the time. An old stack is only used
/// again after a reset, and a process cannot have more than some ten thousand mappings.
fn round(w: &Machines) -> u64 {
    static STOP: AtomicBool = AtomicBool::new(false);
    // One machine at a time does work of the collector that moves stacks or stops the world.
    static COLLECTING: Mutex<()> = Mutex::new(());
    STOP.store(false, Ordering::Relaxed);
    let (m0, collector, g) = (w.m0, w.collector, w.g(1));
    let asks = thread::spawn(move || {
        be(collector);
        let mut asked = 0u64;
        while !STOP.load(Ordering::Relaxed) {
            {
                let _alone = COLLECTING.lock().expect("no thread panics with it");
                collector.gc_sweep();
                collector.gc_mark();
            }
            asked += u64::from(collector.gc_scan(g));
            let _alone = COLLECTING.lock().expect("no thread panics with it");
            collector.gc_terminate();
        }
        asked
    });
    start(m0, g);
    while w.runtime.copies() < 5_000 {
        calls(m0, &[FuncId::Huge; 4]);
        assert_eq!(g.stack.size(), 16384, "it grew where it was only asked");
        let raised = || g.guard.get() == usize::MAX;
        let torn = || g.scan_requested() && !raised() || raised() && !g.preempt_requested();
        // Flag and guard are not written at once: give the other one time.
        let stays_torn = || {
            thread::sleep(Duration::from_millis(1));
            torn()
        };
        assert!(!torn() || !(0..50).all(|_| stays_torn()), "a request is lost, or a guard stays raised");
        for _ in 0..4 {
            assert_eq!(m0.ret(), RunResult::NextOp);
        }
        assert!(m0.yield_now());
        {
            let _alone = COLLECTING.lock().expect("no thread panics with it");
            while m0.gc_shrink(g) {}
        }
        assert!(m0.take(g));
    }
    m0.end();
    STOP.store(true, Ordering::Relaxed);
    asks.join().expect("the collector")
}

#[test]
fn world_is_not_stopped_while_a_machine_runs_on() {
    passes("races::world_is_not_stopped_while_a_machine_runs_on", || {
        // M0: the world goes on: M0 leaves the safepoint, checks whether the world is being stopped
        //     again, and is at a safepoint once more, for the length of one instruction
        //                                      M2: stops the world: all are at a safepoint
        // M0: goes on
        let w = machines(EVERY_FRAME);
        let (collector, g) = (w.collector, w.g(1));
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let collects = thread::spawn(move || {
            be(collector);
            while !stop.load(Ordering::Relaxed) {
                collector.gc_mark();
                collector.gc_terminate();
                collector.gc_sweep();
            }
        });
        assert!(w.m0.take(g));
        w.m0.call(FuncId::Tiny);
        until(|| {
            for _ in 0..8 {
                w.m0.call(FuncId::Small);
            }
            for _ in 0..8 {
                w.m0.ret();
            }
            assert_eq!(g.status.get() & !status::SCAN, status::RUNNING);
        });
        w.m0.end();
        stop.store(true, Ordering::Relaxed);
        collects.join().expect("the collector");
    });
}
