//! Checks that the runtime does what the program does: calls and returns, deferred calls and panics, the
//! values of slots.

use core::sync::atomic::{AtomicUsize, Ordering};

use sigstorm::tamper::Told;
use sigstorm_runtime::instrument::tamper::{read, rename_row, write};
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::unwind::functab::{Table, functab, info};
use sigstorm_runtime::{FuncId, G, M, Point};

use crate::common::{asking, check, first, meddle, overwrite_empty_slot};

/// No pointer, and not the value of any slot.
const JUNK: usize = 0x10;

/// Has the innermost frame return to the place that `other` says, given its caller.
fn redirect(point: Point, other: fn(FuncId) -> usize) -> Told {
    let is_done = |_: &_| point == Point::SetPcDone;
    if let Some((_, g)) = asking(point).filter(is_done)
        && let Some(slot) = meddle!(g.return_slot())
        && let Some(caller) = Table::get().row(meddle!(read(slot))).function()
    {
        meddle!(write(slot, other(caller)));
    }
    Told::Yes
}

check!(
    return_to_another_function_is_noticed,
    Fault,
    "a call or a return has gone elsewhere",
    |point, _, _| redirect(point, |caller| {
        let other = if caller == FuncId::Medium { FuncId::Small } else { FuncId::Medium };
        info(other).after_call
    }),
    schedule("m1 g1 call small*2; setpc; ret")
);

check!(
    frame_that_ends_its_goroutine_is_noticed,
    Fault,
    "a goroutine ends that has frames left, or goes on and has none",
    // To where the outermost frame was told to return.
    |point, _, _| redirect(point, |_| info(FuncId::Entry).after_next_op),
    schedule("m1 g1 call small*2; setpc; ret")
);

check!(
    goroutine_that_runs_and_counts_as_waiting_is_noticed,
    Fault,
    "a frame asks, and its goroutine does not count as running",
    |point, g, detail| {
        // As it is taken.
        if let Some(g) = g.filter(|_| point == Point::StatusChanged && detail == status::RUNNING as usize) {
            meddle!(g.pretend_status(status::WAITING));
        }
        Told::Yes
    }
);

check!(
    outermost_frame_that_does_not_return_is_noticed,
    Fault,
    "a frame did not return to its caller",
    |point, _, _| {
        // Where it asks, it is about to ask again.
        let entry = info(FuncId::Entry);
        if let Some((_, g)) = asking(point)
            && g.sched.pc.get() == entry.after_next_op
        {
            g.sched.pc.set(entry.after_call);
        }
        Told::Yes
    },
    schedule("m1 g1 call small; ret; signal; ret")
);

check!(
    goroutine_that_ends_as_it_yields_is_noticed,
    Fault,
    "a goroutine ends that has frames left, or goes on and has none",
    |point, g, detail| {
        if let Some(g) = g.filter(|_| point == Point::StatusChanged && detail == status::RUNNABLE as usize)
            && M::of_thread().is_some_and(|m| m.current().is_some_and(|own| core::ptr::eq(own, g)))
        {
            meddle!(g.pretend_status(status::DEAD));
        }
        Told::Yes
    },
    schedule("m1 g1 call small; yield")
);

check!(
    callers_pc_that_cannot_be_replaced_is_noticed,
    Fault,
    "a return slot does not hold what a call put there",
    |_, _, _| {
        // The runtime takes the caller for a function that has no other place.
        if first() {
            for row in functab().iter().filter(|row| row.after_call != row.after_call_other) {
                meddle!(rename_row(row.after_call, FuncId::Syscall));
                meddle!(rename_row(row.after_call_other, FuncId::Syscall));
            }
        }
        Told::Yes
    }
);

// -- deferred calls and panics ------------------------------------------------------------

/// A goroutine that asks, with its deferred calls and panics.
fn unwinding(point: Point) -> Option<(&'static G, usize, usize)> {
    let (_, g) = asking(point)?;
    let (deferred, panicking) = meddle!(g.deferred_and_panicking());
    Some((g, deferred, panicking))
}

check!(
    call_that_is_not_deferred_is_noticed,
    Fault,
    "a call is not deferred, and there is room",
    |point, _, _| {
        if let Some((g, 0, 0)) = unwinding(point) {
            meddle!(g.fill_defers());
        }
        Told::Yes
    },
    schedule("m1 g1 call small; signal; call deferring")
);

check!(
    deferred_call_that_gets_lost_is_noticed,
    Fault,
    "a frame does not run what it has deferred, once, before it returns",
    |point, _, _| {
        if let Some((g, 1.., 0)) = unwinding(point) {
            meddle!(g.forget_defers());
        }
        Told::Yes
    },
    schedule("m1 g1 call deferring; signal; ret")
);

check!(
    panic_that_does_not_begin_is_noticed,
    Fault,
    "a panic begins where none can, or does not where one can",
    |point, _, _| {
        if let Some((g, 0, 0)) = unwinding(point) {
            meddle!(g.fill_panics());
        }
        Told::Yes
    },
    schedule("m1 g1 call small; signal; panic")
);

check!(
    panic_that_leaves_out_a_deferred_call_is_noticed,
    Fault,
    "a panic does not go on with the next deferred call, or to its landing",
    |point, _, _| {
        if let Some((g, 2.., 1..)) = unwinding(point) {
            meddle!(g.forget_defers());
        }
        Told::Yes
    },
    schedule("m1 g1 call deferring*2; panic; signal; ret")
);

check!(
    recover_by_the_wrong_call_is_noticed,
    Fault,
    "a deferred call and no other recovers the panic that made it",
    |point, _, _| {
        if let Some((g, _, 1..)) = unwinding(point) {
            meddle!(g.pretend_recovered());
        }
        Told::Yes
    },
    schedule("m1 g1 call deferring; panic; signal; recover")
);

// -- slots --------------------------------------------------------------------------------

check!(
    slot_of_the_innermost_frame_that_changes_is_noticed,
    Fault,
    "a slot does not hold what was written there",
    |point, _, _| overwrite_empty_slot(point, JUNK),
    schedule("m1 g1 call small*2; setpc; ret")
);

check!(
    /// Any slot of any frame, right after its stack has been copied and only then: it is as it was before
    /// anybody else looks.
    slot_that_changes_as_its_stack_is_copied_is_noticed,
    Fault,
    "a slot does not hold what was written there",
    |point, g, _| {
        static CHANGED: AtomicUsize = AtomicUsize::new(0);
        match point {
            Point::CopyAdjusted => {
                let slot = g.and_then(|g| (1..4).rev().find_map(|up| meddle!(g.slot_address(up, 3))));
                if let Some(slot) = slot.filter(|slot| meddle!(read(*slot)) == 0) {
                    meddle!(write(slot, JUNK));
                    CHANGED.store(slot, Ordering::SeqCst);
                }
            }
            Point::CopyPoisoned => match CHANGED.swap(0, Ordering::SeqCst) {
                0 => {}
                slot => meddle!(write(slot, 0)),
            },
            _ => {}
        }
        Told::Yes
    }
);
