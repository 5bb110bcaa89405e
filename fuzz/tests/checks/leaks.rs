//! Checks of what must be back where it belongs at the end of a run, and of a storm's round.

use sigstorm::tamper::Told;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::stack::lock::{Operation, Owner};
use sigstorm_runtime::{G, M, Phase, Point};

use crate::common::{QUIET, at_the_end, check, ends, first, meddle};

/// One goroutine, from its beginning to its end.
const ONE_LIFE: &str = "m1 g1 call small; ret 2";

check!(
    stack_lock_left_held_is_noticed,
    StateLeak,
    "its stack lock is held",
    |point, _, _| {
        if let Some((runtime, m)) = at_the_end(point) {
            let _ = runtime.goroutines()[0]
                .lock
                .try_acquire(Owner { machine: m.id, operation: Operation::Install });
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);

check!(
    barriers_left_on_an_ended_goroutine_are_noticed,
    StateLeak,
    "it has barriers left",
    |point, _, _| {
        if let Some((runtime, _)) = at_the_end(point) {
            meddle!(runtime.goroutines()[0].barriers.pretend_len(1));
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);

check!(
    goroutine_that_is_neither_idle_nor_dead_is_noticed,
    StateLeak,
    "it is neither idle nor dead",
    |point, _, _| {
        if let Some((runtime, _)) = at_the_end(point) {
            // Not the one that its thread is just dropping.
            if let Some(last) = runtime.goroutines().last() {
                meddle!(last.pretend_status(status::WAITING));
            }
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);

check!(
    goroutine_that_vanished_is_noticed,
    StateLeak,
    "it should be alive",
    |point, dropped, _| {
        // One that nobody runs is dead before anybody takes it.
        let Some(m) = M::of_thread().filter(|_| point == Point::GReleased && ends()) else {
            return Told::Yes;
        };
        let is_dropped = |g: &G| dropped.is_some_and(|dropped| core::ptr::eq(g, dropped));
        let waits = |g: &&G| g.status.get() == status::RUNNABLE && !is_dropped(g);
        if let Some(g) = m.runtime.goroutines().iter().find(waits)
            && first()
        {
            meddle!(g.pretend_status(status::DEAD));
        }
        Told::Yes
    },
    schedule("m1 g1 call small; yield; g2 call small; ret 2"),
    blow(QUIET)
);

check!(
    deferred_call_left_at_the_end_is_noticed,
    StateLeak,
    "it has deferred calls or panics left",
    |point, _, _| {
        if let Some((runtime, _)) = at_the_end(point) {
            meddle!(runtime.goroutines()[0].leave_defer());
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);

check!(
    machine_that_counts_a_lock_at_the_end_is_noticed,
    StateLeak,
    "a machine counts a lock",
    |point, _, _| {
        if let Some((_, m)) = at_the_end(point) {
            meddle!(m.pretend_locks(1));
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);

check!(
    machine_with_a_goroutine_at_the_end_is_noticed,
    StateLeak,
    "a machine has a goroutine",
    |point, _, _| {
        if let Some((runtime, m)) = at_the_end(point) {
            meddle!(m.pretend_current(runtime.goroutines().first()));
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);

check!(
    machine_in_a_foreign_call_at_the_end_is_noticed,
    StateLeak,
    "a machine is in a foreign call",
    |point, _, _| {
        if let Some((_, m)) = at_the_end(point) {
            meddle!(m.pretend_foreign_calls(1));
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);

check!(
    collector_that_is_not_off_at_the_end_is_noticed,
    StateLeak,
    "the collector is not off",
    |point, _, _| {
        if let Some((runtime, _)) = at_the_end(point) {
            meddle!(runtime.pretend_phase(Phase::Termination));
        }
        Told::Yes
    },
    schedule(ONE_LIFE),
    blow(QUIET)
);
