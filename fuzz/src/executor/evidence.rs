//! What shows a violation: expected and found, in words, and the stacks with markers.
//!
//! Made by the controller once every thread has come to rest, from what is still in place.

use sigstorm_runtime::G;
use sigstorm_runtime::profiler::{Outcome, Sample, SampleFrame};
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::unwind::dump::{Dump, Pc};
use sigstorm_runtime::unwind::throw::Reason;
use sigstorm_runtime::unwind::traceback::WalkError;

use super::hooks::index;
use super::judge::seen;
use super::state::{At, M1, SEATS, State, Violation, actor_of};
use super::trace::machine_name;
use super::truth::{Expected, Right, Truth};
use crate::outcome::{Finding, Verdict};

/// A violation in the words of a report.
pub(crate) fn finding(state: &State, violation: Violation) -> Finding {
    let mut culprit = None;
    let mut evidence = Vec::new();
    let (verdict, summary) = match violation {
        Violation::Traceback(seat) => traceback(state, seat, &mut evidence, &mut culprit),
        Violation::Event(seat) => event(state, seat, &mut evidence),
        Violation::Skip(seat, why) => skip(state, seat, why, &mut evidence),
        Violation::Throw(throw) => {
            culprit = throw.reason.slot();
            (verdict_of(&throw.reason), format!("{}{}", whose(throw.g), throw.reason))
        }
        Violation::Deadlock => (Verdict::Deadlock, deadlock(state, &mut evidence)),
        Violation::Livelock(seat) => (
            Verdict::Deadlock,
            format!("{} waits again and again for what is so already", actor_of(seat).name()),
        ),
        Violation::LiveObject(index) => (
            Verdict::LiveObjectFreed,
            format!("object {index} can be reached, and the collector has not marked it or has freed it"),
        ),
        Violation::Samples(what) => (Verdict::BadTraceback, format!("of the samples {what}")),
        Violation::Memory(what) => (Verdict::Fault, what.to_owned()),
        Violation::Leak(what, g) => (
            Verdict::StateLeak,
            match g {
                Some(index) => format!("at the end g{}: {what}", index + 1),
                None => format!("at the end {what}"),
            },
        ),
        Violation::Harness(what) => (Verdict::HarnessError, what.to_owned()),
    };
    Finding {
        verdict: verdict.name().to_owned(),
        summary,
        evidence,
        dump: dump(state, culprit),
        step: state.step.get() as usize,
    }
}

/// What a throw is for.
pub(crate) fn verdict_of(reason: &Reason) -> Verdict {
    match reason {
        Reason::BarrierLost { .. } => Verdict::BarrierLost,
        Reason::BarrierOverflow { .. } => Verdict::BarrierOverflow,
        Reason::OutOfOrder { .. } => Verdict::BarrierOutOfOrder,
        Reason::DoubleInstall { .. } => Verdict::DoubleInstall,
        Reason::WalkFailed(_) => Verdict::BadTraceback,
        Reason::Fault { .. } => Verdict::Fault,
        Reason::StackOverflow { .. } => Verdict::StackOverflow,
        Reason::SampleTorn { .. } => Verdict::BadTraceback,
    }
}

fn whose(g: Option<&G>) -> String {
    g.map_or(String::new(), |g| format!("g{}: ", g.id))
}

/// The last sample of the machine on this seat, and its goroutine.
fn sample(state: &State, seat: usize) -> Option<(&'static Sample, &'static G)> {
    let m = state.threads[seat].machine.get()?;
    // SAFETY: the machine's thread has come to rest for good.
    Some((unsafe { m.last_sample() }, m.current()?))
}

fn traceback(
    state: &State,
    seat: usize,
    evidence: &mut Vec<String>,
    culprit: &mut Option<usize>,
) -> (Verdict, String) {
    let Some((sample, g)) = sample(state, seat) else {
        return (Verdict::BadTraceback, "a traceback of a thread that runs no goroutine".to_owned());
    };
    let right = state.right(seat, g, sample);
    interrupted(state, seat, sample, evidence);
    let (verdict, summary) = match sample.outcome {
        Outcome::Failed(error) => {
            *culprit = error.slot();
            let verdict = match error {
                WalkError::Fault { .. } => Verdict::Fault,
                _ => Verdict::BadTraceback,
            };
            (verdict, format!("g{}: the walk gave up after {} frames: {error}", g.id, sample.len))
        }
        _ => (
            Verdict::BadTraceback,
            format!("g{}: the walk returned {} frames that are not the right ones", g.id, sample.len),
        ),
    };
    match &right {
        Right::Frames(right) => {
            compare(state.truth(index(g)), g.stack.top.get(), right, sample.frames(), evidence);
        }
        Right::UnknownCode => evidence.push("expected: a skip, the code is in no table".to_owned()),
        Right::Impossible => {
            let seen = seen(g, sample, state.waits_in_kernel(seat));
            if seen.in_kernel {
                evidence.push("expected: the system call's stub, where the kernel comes back to".to_owned());
            }
            evidence.push(format!(
                "expected: nothing that fits: saved at {} {} bytes below the top, on its stack: {}",
                Pc(seen.saved_pc),
                seen.top.wrapping_sub(seen.saved_sp) as isize,
                seen.on_stack
            ));
        }
    }
    (verdict, summary)
}

/// The right frames and the ones that were found, side by side.
pub(crate) fn compare(
    truth: &Truth,
    top: usize,
    right: &Expected,
    frames: &[SampleFrame],
    evidence: &mut Vec<String>,
) {
    evidence.push(format!("{:4}{:<28}{:<28}", "", "expected", "found"));
    for index in 0..right.len().max(frames.len()) {
        let expected =
            truth.expected(right, index).map(|f| format!("{:<16} top-{}", Pc(f.pc).to_string(), f.below));
        let found = frames
            .get(index)
            .map(|f| format!("{:<16} top-{}", Pc(f.pc).to_string(), top.wrapping_sub(f.sp) as isize));
        let mark = if expected == found { "   " } else { "==>" };
        evidence.push(format!(
            "{mark} {:<28}{:<28}",
            expected.unwrap_or_else(|| "-".to_owned()),
            found.unwrap_or_else(|| "-".to_owned())
        ));
    }
}

/// The tracer's last event of the machine on this seat.
fn event(state: &State, seat: usize, evidence: &mut Vec<String>) -> (Verdict, String) {
    let machine = state.threads[seat].machine.get();
    let Some((m, g)) = machine.and_then(|m| Some((m, m.current()?))) else {
        return (Verdict::BadTraceback, "an event of a thread that runs no goroutine".to_owned());
    };
    // SAFETY: the machine's thread has come to rest for good.
    let event = unsafe { m.trace() }.last();
    match &state.right_event(g) {
        Right::Frames(right) => {
            compare(state.truth(index(g)), g.stack.top.get(), right, event.frames(), evidence);
        }
        right => evidence.push(format!("expected: nothing that fits: {right:?}")),
    }
    let summary = format!(
        "g{}: the tracer's event ({}) has {} frames that are not the right ones",
        event.goroutine, event.kind, event.len
    );
    (Verdict::BadTraceback, summary)
}

fn interrupted(state: &State, seat: usize, sample: &Sample, evidence: &mut Vec<String>) {
    let at = match Pc(sample.pc).to_string() {
        place if place == "elsewhere" => "the runtime, on the thread's own stack".to_owned(),
        place => place,
    };
    evidence.push(format!(
        "{} was interrupted in {at} ({}); its handler had {} frames when it stopped",
        actor_of(seat).name(),
        sample.class,
        sample.len
    ));
    let index = usize::from(sample.goroutine).checked_sub(1);
    if let Some((seat, operation)) = index.and_then(|i| state.ledger[i].get()) {
        evidence.push(format!("the stack lock was held by {} for {operation}", actor_of(seat).name()));
    }
}

fn skip(state: &State, seat: usize, why: &'static str, evidence: &mut Vec<String>) -> (Verdict, String) {
    let summary = format!("{} skipped a sample without a reason: {why}", actor_of(seat).name());
    if let Some((sample, g)) = sample(state, seat) {
        interrupted(state, seat, sample, evidence);
        evidence.push(match (sample.outcome, state.threads[seat].lock_was_held.get()) {
            (Outcome::Skipped(skip, Some(owner)), held) => format!(
                "it says {skip}: by {} for {}; the ledger says {}",
                machine_name(owner.machine),
                owner.operation,
                held.map_or("nobody".to_owned(), |(s, o)| format!("{} for {o}", actor_of(s).name()))
            ),
            (outcome, _) => format!("it says {outcome:?}"),
        });
        evidence.push(match state.right(seat, g, sample) {
            Right::Frames(right) => format!("a walk was possible: {} frames", right.len()),
            Right::UnknownCode => "the code is in no table".to_owned(),
            Right::Impossible => "no place where the goroutine can be".to_owned(),
        });
    }
    (Verdict::UnjustifiedSkip, summary)
}

fn deadlock(state: &State, evidence: &mut Vec<String>) -> String {
    for seat in M1..SEATS {
        let thread = &state.threads[seat];
        if let At::Blocked(wait) = thread.at.get() {
            let holder = match (wait, wait.goroutine().and_then(|g| g.lock.owner())) {
                (_, Some(o)) => format!(", which {} holds for {}", machine_name(o.machine), o.operation),
                (Wait::RateLock(rate), None) => rate
                    .holder()
                    .map_or(String::new(), |machine| format!(", which {} holds", machine_name(machine))),
                _ => String::new(),
            };
            let whose = wait.goroutine().map_or(String::new(), |g| format!(" of g{}", g.id));
            let handler = if thread.in_handler.get() { ", in its signal handler," } else { "" };
            evidence.push(format!(
                "{}{handler} waits for {}{whose}{holder}",
                actor_of(seat).name(),
                wait.what()
            ));
        }
    }
    "every thread that could free the others waits itself".to_owned()
}

/// Every goroutine that exists, with a marker at the slot to blame.
fn dump(state: &State, culprit: Option<usize>) -> Vec<String> {
    let gs = state.core().goroutines();
    gs.iter()
        .filter(|g| g.status.get() != sigstorm_runtime::sched::g::status::IDLE)
        .flat_map(|g| Dump { g, culprit }.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
