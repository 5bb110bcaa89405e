//! Checks of the accounts at the end: every signal must be in one of them.

use core::sync::atomic::{AtomicBool, Ordering};

use sigstorm::tamper::Told;
use sigstorm_runtime::instrument::tamper::miscount_foreign;
use sigstorm_runtime::profiler::{Outcome, SampleDisposition, SkipReason};
use sigstorm_runtime::sched::runtime::MAX_MACHINES;
use sigstorm_runtime::{G, M, Point};

use crate::common::{check, first, meddle};

/// Whether a handler with a machine has come to its end, for the first time.
fn at_first_sample(point: Point) -> Option<&'static M> {
    M::of_thread().filter(|_| point == Point::HandlerEnd && first())
}

check!(
    samples_that_nobody_can_read_are_missed,
    StateLeak,
    "a sample is in no buffer and was never read",
    |_, _, _| {
        // Somebody seems to read the buffers, always.
        if let Some(m) = M::of_thread() {
            meddle!(m.runtime.profiler().pretend_reading(true));
        }
        Told::Yes
    }
);

check!(miscounted_drop_is_noticed, StateLeak, "dropped samples are miscounted", |point, _, _| {
    if let Some(m) = at_first_sample(point) {
        meddle!(m.runtime.profiler().miscount_dropped(m.id));
    }
    Told::Yes
});

check!(
    miscounted_signal_while_off_is_noticed,
    StateLeak,
    "signals while profiling was off are miscounted",
    |point, _, _| {
        if let Some(m) = at_first_sample(point) {
            meddle!(m.runtime.profiler().miscount_off(1));
        }
        Told::Yes
    }
);

check!(
    miscounted_signal_to_a_foreign_thread_is_noticed,
    StateLeak,
    "signals to threads without a machine are miscounted",
    |point, _, _| {
        if at_first_sample(point).is_some() {
            meddle!(miscount_foreign());
        }
        Told::Yes
    }
);

/// A flag for each machine.
type Flags = [AtomicBool; MAX_MACHINES + 1];

/// Loses, in a hunt, a sample that was taken while profiling was off: nothing counts it.
fn loses_a_sample(point: Point, _: Option<&'static G>, detail: usize) -> Told {
    /// Whether a machine's last sample was kept: the harness would still think of that one.
    static KEPT: Flags = [const { AtomicBool::new(false) }; MAX_MACHINES + 1];
    let Some(m) = M::of_thread() else { return Told::Yes };
    let kept = &KEPT[usize::from(m.id)];
    let mut off = false;
    match point {
        Point::HandlerEnd => kept.store(detail == SampleDisposition::Kept as usize, Ordering::SeqCst),
        Point::SampleTaken if !kept.load(Ordering::SeqCst) => {
            let profiler_off = Outcome::Skipped(SkipReason::ProfilerOff, None);
            meddle!(m.change_sample(|sample| off = sample.outcome == profiler_off));
        }
        _ => {}
    }
    if off {
        meddle!(m.runtime.profiler().miscount_off(-1));
        return Told::No;
    }
    Told::Yes
}

/// Loses, in a storm, a whole signal that comes while profiling is off: the handler does nothing.
fn loses_a_signal(point: Point, _: Option<&'static G>, detail: usize) -> Told {
    static LOSING: Flags = [const { AtomicBool::new(false) }; MAX_MACHINES + 1];
    let Some(m) = M::of_thread() else { return Told::Yes };
    let losing = &LOSING[usize::from(m.id)];
    if point == Point::HandlerBegin && m.runtime.rate() == 0 {
        losing.store(true, Ordering::SeqCst);
    }
    if !losing.load(Ordering::SeqCst) {
        return Told::Yes;
    }
    if point == Point::HandlerEnd {
        losing.store(false, Ordering::SeqCst);
        if detail == SampleDisposition::Off as usize {
            meddle!(m.runtime.profiler().miscount_off(-1));
        }
    }
    Told::No
}

check!(
    signal_in_no_account_is_noticed,
    StateLeak,
    "not every signal is accounted for",
    loses_a_sample,
    storm(loses_a_signal)
);
