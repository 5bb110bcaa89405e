//! The threads that run no goroutine: the collector, and the disturber, which sends signals at random,
//! turns the profiling rate and reads the samples.

use core::sync::atomic::Ordering;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use sigstorm_inject as inject;
use sigstorm_runtime::{Phase, profiler};

use super::state::{Stage, Storm};
use super::thread::{Activity, StormThread, rest};
use super::worker::Worker;
use crate::oracle::ViolationKind;
use crate::schedule::{Goroutine, Op};

pub(crate) fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// Cycles until the round ends, and ends the last one. Other threads do parts of cycles, too.
pub(crate) fn collect(worker: &mut Worker<'_>) {
    let (storm, thread) = (worker.storm, worker.thread);
    let goroutines = storm.shadows.len();
    let blows = || storm.stage() == Stage::Blow;
    let does = |worker: &mut Worker<'_>, op: Op| {
        thread.ledger.idle();
        worker.carry_out(op);
    };
    while blows() {
        let concurrent = worker.below(8) != 0;
        does(worker, if concurrent { Op::Mark } else { Op::Stw });
        // Each goroutine in some order, and what was marked in between. Not always all of them: mark termination
        // scans those that are left.
        let first = worker.below(goroutines as u32) as usize;
        for place in (0..goroutines).filter(|_| concurrent) {
            if !blows() {
                break;
            }
            worker.names((first + place * 7) % goroutines);
            if worker.below(16) != 0 {
                does(worker, Op::Scan { g: Goroutine::G1 });
            }
            if worker.below(2) == 0 {
                let objects = 1 + worker.below(8) as u8;
                does(worker, Op::Drain { objects });
            }
            if worker.below(3) == 0 {
                let other = worker.below(goroutines as u32) as usize;
                worker.names(other);
                does(worker, Op::Shrink { g: Goroutine::G1 });
            }
        }
        does(worker, Op::Term);
        does(worker, Op::Sweep);
        thread.counts.cycles.one();
        worker.done();
        if worker.below(4) == 0 {
            let pause = u64::from(worker.below(400));
            rest(Duration::from_micros(pause));
        }
    }
    // Until no other thread can begin a cycle: a thread that finishes begins none.
    while storm.threads.iter().any(|other| works(other) && !std::ptr::eq(other, thread)) {
        does(worker, Op::Term);
        does(worker, Op::Sweep);
        thread.does(Activity::Finish);
        rest(Duration::from_micros(200));
    }
    if storm.core.phase() == Phase::Mark {
        does(worker, Op::Term);
    }
    does(worker, Op::Sweep);
    worker.done();
}

/// Whether a thread operates a machine and is not done with the round.
fn works(thread: &StormThread) -> bool {
    thread.machine.is_some() && thread.activity() != Activity::Idle
}

/// Changes the profiling rate as the operation `op` does, from this thread, and says so before and after. Not
/// where another thread is about it: what is said must be what is.
pub(crate) fn set_rate(storm: &Storm, thread: &StormThread, op: Op, hz: u32) {
    if set_rate_of(storm, hz) {
        thread.counts.kinds[op.kind()].one();
    }
}

/// As [`set_rate`], before there are threads. Whether nobody else was about it.
pub(crate) fn set_rate_of(storm: &Storm, hz: u32) -> bool {
    let Ok(_alone) = storm.rate_writers.try_lock() else { return false };
    storm.rate.announce(hz);
    if profiler::set_rate(storm.core, hz).is_err() {
        storm.note(None, ViolationKind::Harness("a rate beyond the runtime's bound"));
    }
    storm.rate.confirm();
    true
}

/// Sends a thread the profiling signal, as its timer might at any instant. Not while a thread changes the rate: it
/// has disarmed its timer, and relies on no signal coming while it holds the rate's lock. One that was sent before
/// arrives at the latest as the call that disarms the timer comes back from the kernel.
fn signal(storm: &Storm, thread: &StormThread, target: &StormThread) {
    let nobody_changes_it = storm.rate_writers.lock();
    target.sent.fetch_add(1, Ordering::SeqCst);
    let sent = inject::tgkill(target.tid.load(Ordering::SeqCst), libc::SIGPROF);
    drop(nobody_changes_it);
    if sent.is_err() {
        storm.fail(thread, ViolationKind::Harness("the kernel refused to send a signal"));
    }
    thread.counts.kinds[Op::Signal.kind()].one();
}

/// Signals at random, other rates, the profiler off for a moment, and a reader of the samples, until the round ends.
pub(crate) fn disturb(storm: &Storm, thread: &StormThread, rate: u32, rng: &mut ChaCha8Rng) {
    while storm.stage() == Stage::Blow {
        thread.does(Activity::Disturbs);
        rest(Duration::from_micros(u64::from(below(rng, 400))));
        match storm.read_samples() {
            Ok(read) => {
                thread.counts.samples_read.add(read.unwrap_or(0) as u64);
                thread.counts.kinds[Op::Read.kind()].add(u64::from(read.is_some_and(|count| count != 0)));
            }
            Err(kind) => storm.fail(thread, kind),
        }
        let target = &storm.threads[below(rng, storm.threads.len() as u32) as usize];
        match below(rng, 100) {
            0..70 => signal(storm, thread, target),
            70..85 => (0..below(rng, 20)).for_each(|_| signal(storm, thread, target)),
            85 => {
                set_rate(storm, thread, Op::Rate { on: false }, 0);
                rest(Duration::from_micros(u64::from(below(rng, 1000))));
                set_rate(storm, thread, Op::Rate { on: true }, rate);
            }
            86 | 87 => set_rate(storm, thread, Op::Hz { hz: 100 }, (rate / (1 + below(rng, 4))).max(1)),
            _ => {
                if storm.core.rate() != rate {
                    set_rate(storm, thread, Op::Rate { on: true }, rate);
                }
            }
        }
    }
}
