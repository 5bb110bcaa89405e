//! Checks of threads: who leaves whom, and who waits for ever.

use sigstorm::tamper::Told;
use sigstorm_runtime::stack::lock::{Operation, Owner};
use sigstorm_runtime::{M, Point};

use crate::common::{BUSY, Blow, check, first, meddle};

/// So long that the watchdog may bark.
const LONG: Blow = Blow { seconds: 20, threads: 1, ..BUSY };

check!(
    goroutine_that_leaves_foreign_frames_is_noticed,
    Fault,
    "a goroutine leaves its thread with foreign frames under it",
    |point, g, _| {
        if point == Point::CallbackEntered
            && let (Some(m), Some(g)) = (M::of_thread(), g)
        {
            meddle!(m.pretend_foreign_calls(0));
            meddle!(g.ask_to_yield());
        }
        Told::Yes
    }
);

check!(
    lock_that_its_own_thread_never_gave_back_is_noticed,
    Deadlock,
    "every thread that could make progress is itself blocked",
    |point, g, _| {
        // About to take it.
        if point == Point::CopyBegin
            && let (Some(m), Some(g)) = (M::of_thread(), g)
        {
            let _ = g.lock.try_acquire(Owner { machine: m.id, operation: Operation::Copystack });
        }
        Told::Yes
    },
    storm_says("alone could release")
);

check!(
    world_that_never_goes_on_is_noticed,
    Deadlock,
    "every thread that could make progress is itself blocked",
    |point, _, _| {
        if point == Point::StartWorld
            && let Some(m) = M::of_thread()
        {
            meddle!(m.runtime.halt());
        }
        Told::Yes
    },
    storm_says("makes no progress, although every other thread had time to let it"),
    blow(LONG)
);

check!(
    lock_that_is_neither_free_nor_held_is_noticed,
    Deadlock,
    "waits again and again for a condition that already holds",
    |point, g, _| {
        if let Some(g) = g.filter(|_| point == Point::CopyBegin && first()) {
            meddle!(g.jam_lock());
        }
        Told::Yes
    },
    storm_says("makes no progress, although every other thread had time to let it"),
    blow(LONG)
);
