//! Checks of what becomes of a sample, from the handler to the reader; and of whose sample it is.

use core::sync::atomic::{AtomicPtr, Ordering};

use sigstorm::tamper::Told;
use sigstorm_runtime::profiler::buffer::{DEFAULT_BUFFER, Record};
use sigstorm_runtime::profiler::{Outcome, SampleDisposition, SkipReason};
use sigstorm_runtime::{G, M, Point};

use crate::common::{between_reads, check, first, in_storm, meddle};

check!(
    kept_sample_that_was_never_written_is_noticed,
    BadTraceback,
    "one was kept while profiling was off, or not while it was on",
    |point, _, _| if point == Point::SampleWritten { Told::No } else { Told::Yes }
);

check!(
    sample_written_over_an_unread_one_is_noticed,
    BadTraceback,
    "one was written over another that nobody has read",
    |point, _, _| {
        let Some(m) = M::of_thread() else { return Told::Yes };
        let profiler = m.runtime.profiler();
        if in_storm() {
            // Nobody reads, so that the buffers become full.
            meddle!(profiler.pretend_reading(true));
        }
        let room = if in_storm() { DEFAULT_BUFFER as u64 } else { 1 };
        if point == Point::SampleTaken && profiler.unread(m.id) >= room {
            meddle!(profiler.pretend_read(m.id, room as i64));
        }
        Told::Yes
    },
    schedule("buffer 1\nm1 g1 call small; signal; signal")
);

check!(
    sample_dropped_though_there_is_room_is_noticed,
    UnjustifiedSkip,
    "the buffer was not full",
    |point, _, _| {
        let Some(m) = M::of_thread().filter(|_| point == Point::SampleTaken) else { return Told::Yes };
        let mut off = false;
        meddle!(m.change_sample(|sample| {
            off = sample.outcome == Outcome::Skipped(SkipReason::ProfilerOff, None);
        }));
        let profiler = m.runtime.profiler();
        if !off && profiler.unread(m.id) == 0 && !meddle!(profiler.pretend_reading(true)) {
            meddle!(profiler.pretend_capacity(m.id, 0));
        }
        Told::Yes
    }
);

/// Changes the oldest sample that a machine has kept, as the next one is kept.
fn change_oldest(point: Point, detail: usize, hidden: bool, change: fn(&mut Record)) -> Told {
    if detail != SampleDisposition::Kept as usize {
        return Told::Yes;
    }
    between_reads(point, |m, profiler| {
        if profiler.unread(m.id) != 0 {
            meddle!(profiler.change_oldest(m.id, hidden, change));
        }
    })
}

check!(
    sample_changed_in_its_buffer_is_noticed,
    BadTraceback,
    "what was read is not what the handler has taken",
    |point, _, detail| change_oldest(point, detail, true, |record| record.sample.pc += 1)
);

check!(
    frame_changed_in_its_buffer_is_noticed,
    BadTraceback,
    "what was read is not what the handler has taken",
    |point, _, detail| change_oldest(point, detail, true, |record| {
        if let Some(last) = record.sample.len.checked_sub(1) {
            record.sample.frames[last].pc += 1;
        }
    })
);

check!(
    sample_read_out_of_order_is_noticed,
    BadTraceback,
    "one was read out of order, or its number is wrong",
    |point, _, detail| change_oldest(point, detail, true, |record| record.sequence += 1)
);

check!(sample_of_no_machine_is_noticed, BadTraceback, "one is of no machine", |point, _, detail| {
    change_oldest(point, detail, true, |record| record.machine = 99)
});

check!(
    sample_read_twice_is_noticed,
    BadTraceback,
    "one was read twice, or was never taken",
    |point, _, _| between_reads(point, |m, profiler| {
        if profiler.unread(m.id) == 0 && profiler.read_so_far(m.id) != 0 {
            meddle!(profiler.pretend_read(m.id, -1));
        }
    }),
    // Profiling is off by then: the second signal leaves no sample, and its handler changes the buffer.
    schedule("m1 g1 call small; signal; ext read; rate off; m1 signal")
);

/// The first machine that was seen.
static MACHINE: AtomicPtr<M> = AtomicPtr::new(core::ptr::null_mut());

/// Takes a thread without a machine for one of the runtime's.
fn adopts_a_foreign_thread(point: Point, _: Option<&'static G>, _: usize) -> Told {
    match M::of_thread() {
        Some(m) => MACHINE.store(core::ptr::from_ref(m).cast_mut(), Ordering::SeqCst),
        None if point == Point::RateChanged => {
            // SAFETY: null, or a machine, which is never freed.
            if let Some(m) = unsafe { MACHINE.load(Ordering::SeqCst).as_ref() } {
                meddle!(m.pretend_of_thread());
            }
        }
        None => {}
    }
    Told::Yes
}

check!(
    sample_of_a_foreign_thread_is_noticed,
    BadTraceback,
    "one is of a thread that has no machine",
    adopts_a_foreign_thread,
    schedule("m1 g1 call small\next hz 250; signal")
);

check!(
    machines_thread_taken_for_a_foreign_one_is_noticed,
    UnjustifiedSkip,
    "the thread has a machine",
    |point, _, _| {
        if point == Point::StatusChanged && first() {
            M::forget();
        }
        Told::Yes
    },
    schedule("m1 g1 call small; signal")
);
