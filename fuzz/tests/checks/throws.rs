//! The runtime's own checks, which throw: a run takes each for what it is.

use sigstorm::tamper::Told;
use sigstorm_runtime::stack::memory::POISON;
use sigstorm_runtime::{M, Phase, Point};

use crate::common::{asking, between_reads, check, meddle, overwrite_empty_slot};

check!(lost_barrier_is_noticed, BarrierLost, "barrier lost", |point, g, _| {
    if let Some(g) = g.filter(|_| point == Point::RemoveBegin) {
        meddle!(g.barriers.lose_next());
    }
    Told::Yes
});

check!(barrier_without_room_is_noticed, BarrierOverflow, "there is room for 0", |point, g, _| {
    if let Some(g) = g.filter(|_| point == Point::InstallBegin) {
        meddle!(g.barriers.limit(0));
    }
    Told::Yes
});

check!(
    barrier_that_was_skipped_is_noticed,
    BarrierOutOfOrder,
    "a frame returned into one that is not next",
    |point, _, _| {
        // That over the return address of the innermost frame, which asks.
        if point == Point::SetPcDone
            && let Some((_, g)) = asking(point)
            && let Some(next) = g.barriers.entry(g.barriers.position())
            && next.slot == g.sched.bp.get() + 8
        {
            meddle!(g.barriers.skip_next());
        }
        Told::Yes
    },
    schedule("every_frame\nm1 g1 call small*4; syscall\ngc mark; scan g1\nm1 resume; setpc; ret")
);

check!(scan_over_barriers_is_noticed, DoubleInstall, "already has barriers", |point, g, _| {
    if let Some(g) = g.filter(|g| point == Point::ScanBegin && g.barriers.is_empty())
        && M::of_thread().is_some_and(|m| m.runtime.phase() == Phase::Mark)
    {
        meddle!(g.barriers.pretend_len(1));
    }
    Told::Yes
});

check!(scan_that_cannot_walk_is_noticed, BadTraceback, "the runtime's own walk failed", |point, g, _| {
    if let Some(g) = g.filter(|_| point == Point::ScanBegin) {
        g.sched.pc.set(8);
        g.syscall.pc.set(8);
    }
    Told::Yes
});

check!(
    slot_of_a_freed_stack_is_noticed,
    Fault,
    "a read of a freed stack",
    |point, _, _| overwrite_empty_slot(point, POISON),
    schedule("m1 g1 call small*2; setpc; move 1 = 0")
);

check!(
    goroutine_that_never_has_room_is_noticed,
    StackOverflow,
    "stack overflow",
    |point, g, _| {
        if let Some(g) = g.filter(|_| matches!(point, Point::StatusChanged | Point::CopyPoisoned)) {
            meddle!(g.raise_guard());
        }
        Told::Yes
    },
    schedule("m1 g1 call small*4")
);

check!(sample_torn_in_its_buffer_is_noticed, BadTraceback, "is not as it was written", |point, _, _| {
    between_reads(point, |m, profiler| {
        if profiler.unread(m.id) != 0 {
            meddle!(profiler.corrupt(m.id, false));
        }
    })
});
