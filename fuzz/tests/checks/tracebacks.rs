//! Checks of what one sample says: its rate, its traceback, its reason to have none; and of a tracer's
//! event.

use sigstorm::tamper::Told;
use sigstorm_runtime::profiler::{Outcome, Pseudo, SkipReason};
use sigstorm_runtime::stack::lock::{Operation, Owner};
use sigstorm_runtime::unwind::traceback::WalkError;
use sigstorm_runtime::{M, Point};

use crate::common::{check, each_event, each_sample};

check!(
    sample_with_wrong_rate_is_noticed,
    BadTraceback,
    "one has another rate than there was",
    |point, _, _| { each_sample(point, |sample| sample.rate.hz += 1) }
);

check!(
    sample_with_right_rate_of_wrong_epoch_is_noticed,
    BadTraceback,
    "one has another rate than there was",
    |point, _, _| each_sample(point, |sample| sample.rate.epoch += 1)
);

check!(
    sample_taken_while_profiling_was_off_is_noticed,
    BadTraceback,
    "one was taken though profiling was off",
    |point, _, _| each_sample(point, |sample| if sample.rate.hz == 0 {
        sample.outcome = Outcome::NoGoroutine;
    })
);

check!(frame_with_wrong_pc_is_noticed, BadTraceback, "not the right ones", |point, _, _| {
    each_sample(point, |sample| {
        if let (Outcome::Traceback, Some(last)) = (sample.outcome, sample.len.checked_sub(1)) {
            sample.frames[last].pc += 1;
        }
    })
});

check!(frame_with_wrong_sp_is_noticed, BadTraceback, "not the right ones", |point, _, _| {
    each_sample(point, |sample| {
        if let (Outcome::Traceback, Some(last)) = (sample.outcome, sample.len.checked_sub(1)) {
            sample.frames[last].sp += 8;
        }
    })
});

check!(
    traceback_without_its_outermost_frame_is_noticed,
    BadTraceback,
    "not the right ones",
    |point, _, _| {
        each_sample(point, |sample| {
            if sample.outcome == Outcome::Traceback && sample.len > 1 {
                sample.len -= 1;
            }
        })
    }
);

check!(walk_that_gives_up_is_noticed, BadTraceback, "the walk gave up", |point, _, _| {
    each_sample(point, |sample| {
        if sample.outcome == Outcome::Traceback {
            sample.outcome = Outcome::Failed(WalkError::NothingSaved);
        }
    })
});

check!(traceback_of_another_goroutine_is_noticed, BadTraceback, "not the right ones", |point, _, _| {
    each_sample(point, |sample| {
        if sample.outcome == Outcome::Traceback {
            sample.goroutine = if sample.goroutine == 1 { 2 } else { 1 };
        }
    })
});

check!(traceback_with_wrong_pseudo_frame_is_noticed, BadTraceback, "not the right ones", |point, _, _| {
    each_sample(point, |sample| {
        if sample.outcome == Outcome::Traceback && sample.pseudo == Pseudo::None {
            sample.pseudo = Pseudo::External;
        }
    })
});

check!(
    sample_without_its_goroutine_is_noticed,
    UnjustifiedSkip,
    "the thread runs a goroutine",
    |point, _, _| {
        each_sample(point, |sample| {
            if sample.outcome == Outcome::Traceback {
                sample.outcome = Outcome::NoGoroutine;
            }
        })
    }
);

check!(
    wrong_pseudo_frame_of_a_thread_without_goroutine_is_noticed,
    UnjustifiedSkip,
    "the pseudo-frame is wrong",
    |point, _, _| each_sample(point, |sample| if sample.outcome == Outcome::NoGoroutine {
        sample.pseudo = Pseudo::External;
    })
);

check!(
    collector_taken_for_the_runtime_is_noticed,
    UnjustifiedSkip,
    "the pseudo-frame is wrong",
    |point, _, _| each_sample(point, |sample| {
        if sample.outcome == Outcome::NoGoroutine && sample.pseudo == Pseudo::Gc {
            sample.pseudo = Pseudo::System;
        }
    })
);

/// Skips every sample that has a traceback.
fn skip(point: Point, skip: SkipReason, owner: Option<Owner>) -> Told {
    each_sample(point, |sample| {
        if sample.outcome == Outcome::Traceback {
            sample.outcome = Outcome::Skipped(skip, owner);
            sample.len = 0;
        }
    })
}

check!(
    skip_for_a_lock_that_its_holder_does_not_have_is_noticed,
    UnjustifiedSkip,
    "without a reason: lock-held",
    |point, _, _| {
        let machine = M::of_thread().map_or(0, |m| m.id);
        skip(point, SkipReason::LockHeld, Some(Owner { machine, operation: Operation::Recover }))
    }
);

check!(
    skip_for_a_lock_that_names_no_holder_is_noticed,
    UnjustifiedSkip,
    "without a reason: lock-held",
    |point, _, _| skip(point, SkipReason::LockHeld, None)
);

check!(
    skip_for_a_foreign_thread_on_a_machine_is_noticed,
    UnjustifiedSkip,
    "without a reason: foreign-thread",
    |point, _, _| skip(point, SkipReason::ForeignThread, None)
);

check!(
    skip_for_profiling_that_is_on_is_noticed,
    UnjustifiedSkip,
    "without a reason: profiler-off",
    |point, _, _| skip(point, SkipReason::ProfilerOff, None)
);

check!(
    skip_for_unknown_code_in_a_known_frame_is_noticed,
    UnjustifiedSkip,
    "without a reason: unknown-code",
    |point, _, _| skip(point, SkipReason::UnknownCode, None)
);

check!(event_with_wrong_frame_is_noticed, BadTraceback, "the tracer's event", |point, _, _| {
    each_event(point, |event| event.frames[0].pc += 1)
});

check!(event_of_another_goroutine_is_noticed, BadTraceback, "the tracer's event", |point, _, _| {
    each_event(point, |event| event.goroutine ^= 1)
});
