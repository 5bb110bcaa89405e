//! The threads that run no goroutine: the collector, and the weather.

use core::sync::atomic::Ordering;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use sigstorm_inject as inject;
use sigstorm_runtime::{M, Phase, profiler};

use super::judge::BUSY;
use super::seat::{Doing, Seat, rest};
use super::state::{Stage, Storm, Trouble};

fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// Cycles until the round ends, and ends the last one.
pub(crate) fn collect(storm: &Storm, seat: &Seat, m: &'static M, rng: &mut ChaCha8Rng) {
    let gs = storm.core.goroutines();
    let does = |doing: Doing| {
        seat.ledger.idle();
        seat.does(doing);
    };
    while storm.stage() == Stage::Blow {
        does(Doing::Mark);
        m.gc_mark();
        // Each goroutine in some order, and what was marked in between. Not always all of
        // them: mark termination scans those that are left.
        let first = below(rng, gs.len() as u32) as usize;
        for place in 0..gs.len() {
            if storm.stage() != Stage::Blow {
                break;
            }
            let g = &gs[(first + place * 7) % gs.len()];
            if below(rng, 16) != 0 {
                does(Doing::Scan);
                m.gc_scan(g);
            }
            if below(rng, 2) == 0 {
                does(Doing::Drain);
                m.gc_drain(1 + below(rng, 8) as usize);
            }
            if below(rng, 3) == 0 {
                does(Doing::Shrink);
                m.gc_shrink(&gs[below(rng, gs.len() as u32) as usize]);
            }
        }
        does(Doing::Terminate);
        m.gc_terminate();
        does(Doing::Sweep);
        m.gc_sweep();
        seat.counts.cycles.one();
        does(Doing::Between);
        if below(rng, 4) == 0 {
            rest(Duration::from_micros(u64::from(below(rng, 400))));
        }
    }
    does(Doing::Terminate);
    if storm.core.phase() == Phase::Mark {
        m.gc_terminate();
    }
    m.gc_sweep();
    does(Doing::Between);
}

/// Changes the profiling rate, and says so before and after. Not where another thread is about
/// it: what is said must be what is.
pub(crate) fn set_rate(storm: &Storm, hz: u32) {
    let Ok(_alone) = storm.rate_writers.try_lock() else { return };
    let change = (storm.rate.load(Ordering::Relaxed) >> 32) + 1;
    storm.rate.store(change << 32 | BUSY | u64::from(hz), Ordering::SeqCst);
    if profiler::set_rate(storm.core, hz).is_err() {
        storm.note(None, Trouble::Harness("a rate beyond the core's bound"));
    }
    storm.rate.store((change + 1) << 32 | u64::from(hz), Ordering::SeqCst);
}

/// Sends a thread the profiling signal, as its timer might at any instant. Not while a thread
/// changes the rate: it has disarmed its timer, and relies on no signal coming while it holds
/// the rate's lock. One that was sent before arrives at the latest as the call that disarms
/// the timer comes back from the kernel.
fn signal(storm: &Storm, tid: i32) {
    let _nobody_changes_it = storm.rate_writers.lock();
    // A thread of this process that lives as long as it does.
    let _ = inject::tgkill(tid, libc::SIGPROF);
}

/// Signals at random, other rates, the profiler off for a moment, and somebody who reads the
/// samples, until the round ends.
pub(crate) fn weather(storm: &Storm, seat: &Seat, rate: u32, rng: &mut ChaCha8Rng) {
    while storm.stage() == Stage::Blow {
        seat.does(Doing::Weather);
        rest(Duration::from_micros(u64::from(below(rng, 400))));
        // Somebody must read what the handlers leave; what was torn is the core's to say.
        if let Some(read) = storm.core.profiler().read(|_| ()) {
            seat.counts.samples_read.add(read as u64);
        }
        let target = &storm.seats[below(rng, storm.seats.len() as u32) as usize];
        let tid = target.tid.load(Ordering::SeqCst);
        match below(rng, 100) {
            0..70 => signal(storm, tid),
            70..85 => (0..below(rng, 20)).for_each(|_| signal(storm, tid)),
            85 => {
                set_rate(storm, 0);
                rest(Duration::from_micros(u64::from(below(rng, 1000))));
                set_rate(storm, rate);
            }
            86 | 87 => set_rate(storm, (rate / (1 + below(rng, 4))).max(1)),
            _ => {
                if storm.core.rate() != rate {
                    set_rate(storm, rate);
                }
            }
        }
    }
}
