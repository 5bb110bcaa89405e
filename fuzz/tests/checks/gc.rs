//! Checks of the collector: what it scans, where it lays barriers, what it marks.

use sigstorm::tamper::Told;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::{G, M, Phase, Point};

use crate::common::{check, meddle};

check!(
    scan_that_lays_no_barrier_is_noticed,
    StateLeak,
    "a scan has laid no barrier, and one was due",
    |point, g, _| {
        // As the scan is about to give the lock back: no walk sees how they go.
        if let Some(g) = g.filter(|_| point == Point::LockRelease)
            && g.lock.owner().is_some_and(|owner| owner.operation == Operation::Install)
        {
            meddle!(g.barriers.take_away());
        }
        Told::Yes
    }
);

check!(
    stack_that_is_passed_over_is_noticed,
    Fault,
    "a stack that this cycle has not scanned is passed over",
    |point, _, detail| {
        if point == Point::PhaseChanged
            && detail == Phase::Mark as usize
            && let Some(m) = M::of_thread()
        {
            let exists = |g: &&G| !matches!(g.status.get(), status::IDLE | status::DEAD);
            for g in m.runtime.goroutines().iter().filter(exists) {
                meddle!(g.pretend_scanned());
            }
        }
        Told::Yes
    }
);

check!(live_object_without_a_mark_is_noticed, LiveObjectFreed, "is reachable", |point, _, detail| {
    if point == Point::PhaseChanged
        && detail == Phase::Sweep as usize
        && let Some(m) = M::of_thread()
    {
        meddle!(m.runtime.forget_marks());
    }
    Told::Yes
});

check!(
    scan_request_that_gets_lost_is_noticed,
    Fault,
    "what was asked of a goroutine is not done in its next prologue",
    |point, g, _| {
        if let Some(g) = g.filter(|_| point == Point::ScanAsked) {
            meddle!(g.forget_scan_request());
        }
        Told::Yes
    }
);

check!(
    yield_request_that_gets_lost_is_noticed,
    Fault,
    "what was asked of a goroutine is not done in its next prologue",
    |point, g, _| {
        if let Some(g) = g.filter(|_| point == Point::PreemptAsked) {
            meddle!(g.forget_yield_request());
        }
        Told::Yes
    }
);
