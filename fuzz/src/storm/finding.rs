//! What shows a violation of a storm: expected and found, what each thread was at, the
//! stacks. Made once everybody is parked, from what is still in place.

use core::fmt::Write;
use core::sync::atomic::Ordering;

use sigstorm_runtime::profiler::{Outcome, Sample, SampleFrame};
use sigstorm_runtime::unwind::dump::{Dump, Pc};
use sigstorm_runtime::unwind::traceback::WalkError;
use sigstorm_runtime::{G, Point};

use super::judge::saved;
use super::seat::Seat;
use super::state::{Storm, Trouble, Violation};
use crate::executor::truth::{Right, Seen, Truth};
use crate::executor::{compare, verdict_of};
use crate::outcome::{Finding, Verdict};

/// The name of a machine in a storm.
fn machine(storm: &Storm, id: u8) -> &str {
    storm.seat_of_machine(id).map_or("a machine that is not there", |seat| &seat.name)
}

/// A violation in the words of a report.
pub(crate) fn finding(storm: &Storm, violation: Violation) -> Finding {
    let seat = violation.seat.and_then(|index| storm.seats.get(index));
    let name = seat.map_or("a thread", |seat| &seat.name);
    let mut culprit = None;
    let mut evidence = Vec::new();
    let (verdict, summary) = match violation.trouble {
        Trouble::Traceback => traceback(storm, seat, &mut evidence, &mut culprit),
        Trouble::Event => event(storm, seat, &mut evidence),
        Trouble::Skip(why) => skip(storm, seat, why, &mut evidence),
        Trouble::Throw(throw) => {
            culprit = throw.reason.slot();
            let whose = throw.g.map_or(String::new(), |g| format!("g{}: ", g.id));
            (verdict_of(&throw.reason), format!("{whose}{}", throw.reason))
        }
        Trouble::SelfDeadlock => {
            (Verdict::Deadlock, format!("{name} waits for what only {name} itself could give back"))
        }
        Trouble::Stuck => {
            (Verdict::Deadlock, format!("{name} does not get on, and everybody else had time enough"))
        }
        Trouble::LiveObject(index) => (
            Verdict::LiveObjectFreed,
            format!("object {index} can be reached, and the collector has not marked it or has freed it"),
        ),
        Trouble::Memory(what) => (Verdict::Fault, format!("{name}: {what}")),
        Trouble::Leak(what, Some(index)) => {
            (Verdict::StateLeak, format!("at the end of a round g{}: {what}", index + 1))
        }
        Trouble::Leak(what, None) => (Verdict::StateLeak, format!("at the end of a round {what}")),
        Trouble::Harness(what) => (Verdict::HarnessError, format!("{name}: {what}")),
    };
    evidence.push("What each thread was at:".to_owned());
    evidence.extend(storm.seats.iter().map(|seat| format!("    {}", at(storm, seat))));
    let gs = storm.core.goroutines().iter();
    let dump = gs
        .filter(|g| g.status.get() != sigstorm_runtime::sched::g::status::IDLE)
        .flat_map(|g| Dump { g, culprit }.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    Finding { verdict: verdict.name().to_owned(), summary, evidence, dump, step: 0 }
}

/// What a thread was at, in a line.
fn at(storm: &Storm, seat: &Seat) -> String {
    let mut line = format!("{:<8} {}", seat.name, seat.doing());
    let mut add = |part: String| {
        // A string takes whatever is written.
        let _ = write!(line, ", {part}");
    };
    if let Some(index) = seat.goroutine() {
        add(format!("runs g{}", index + 1));
    }
    if let Some(point) = Point::from_code(seat.point.load(Ordering::Relaxed)) {
        add(format!("came to {point} last"));
    }
    if seat.in_handler.load(Ordering::Relaxed) {
        add(format!("in its handler, which interrupted {}", place(seat.pc.load(Ordering::Relaxed))));
    }
    if !seat.parked.load(Ordering::SeqCst) {
        add("could not be stopped".to_owned());
    }
    let wait = seat.wait.load(Ordering::SeqCst);
    // SAFETY: set only while the thread waits, and it is parked there for good.
    if let Some(wait) = unsafe { wait.as_ref() }.filter(|_| seat.parked.load(Ordering::SeqCst)) {
        let whose = wait.goroutine().map_or(String::new(), |g| format!(" of g{}", g.id));
        let holder = wait.goroutine().and_then(|g| g.lock.owner()).map_or(String::new(), |o| {
            format!(", which {} holds for {}", machine(storm, o.machine), o.operation)
        });
        add(format!("waits for {}{whose}{holder}", wait.what()));
    }
    add(format!("{} steps", seat.progress.load(Ordering::Relaxed)));
    line
}

fn place(pc: usize) -> String {
    match Pc(pc).to_string() {
        place if place == "elsewhere" => "the runtime, on the thread's own stack".to_owned(),
        place => place,
    }
}

/// The last sample of a thread's machine, and its goroutine.
fn sample(seat: Option<&Seat>) -> Option<(&'static Sample, Option<&'static G>)> {
    let m = seat?.machine?;
    // SAFETY: the machine's thread is parked in its handler for good.
    Some((unsafe { m.last_sample() }, m.current()))
}

fn traceback(
    storm: &Storm,
    seat: Option<&Seat>,
    evidence: &mut Vec<String>,
    culprit: &mut Option<usize>,
) -> (Verdict, String) {
    let (Some(seat), Some((sample, g))) = (seat, sample(seat)) else {
        return (Verdict::BadTraceback, "a traceback of nobody".to_owned());
    };
    evidence.push(format!(
        "{} was interrupted in {} ({}); its handler had {} frames when it stopped",
        seat.name,
        place(sample.pc),
        sample.class,
        sample.len
    ));
    let id = sample.goroutine;
    let (verdict, summary) = match sample.outcome {
        Outcome::Failed(error) => {
            *culprit = error.slot();
            let verdict = match error {
                WalkError::Fault { .. } => Verdict::Fault,
                _ => Verdict::BadTraceback,
            };
            (verdict, format!("g{id}: the walk gave up after {} frames: {error}", sample.len))
        }
        _ => (
            Verdict::BadTraceback,
            format!("g{id}: the walk returned {} frames that are not the right ones", sample.len),
        ),
    };
    // SAFETY: the thread is parked in its handler for good.
    let seen = unsafe { seat.handler() }.seen;
    if seat.goroutine() != g.map(super::hooks::index) {
        evidence.push(match seat.goroutine() {
            None => "the thread should run no goroutine".to_owned(),
            Some(index) => format!("the thread should run g{}", index + 1),
        });
    } else if let (Some(index), Some(seen)) = (seat.goroutine(), seen) {
        // SAFETY: everybody is parked.
        let lines = unsafe { storm.truths[index].look(|truth| compared(truth, seen, sample.frames())) };
        evidence.extend(lines.unwrap_or_default());
    }
    (verdict, summary)
}

/// Expected and found.
fn compared(truth: &Truth, seen: Seen, frames: &[SampleFrame]) -> Vec<String> {
    let mut lines = Vec::new();
    match &truth.right(seen) {
        Right::Frames(right) => compare(truth, seen.top, right, frames, &mut lines),
        Right::UnknownCode => lines.push("expected: a skip, the code is in no table".to_owned()),
        Right::Impossible => lines.push(format!(
            "expected: nothing that fits: saved at {} {} bytes below the top, on its stack: {}",
            Pc(seen.saved_pc),
            seen.top.wrapping_sub(seen.saved_sp) as isize,
            seen.on_stack
        )),
    }
    lines
}

/// The last event of a thread's tracer, and what it should have been.
fn event(storm: &Storm, seat: Option<&Seat>, evidence: &mut Vec<String>) -> (Verdict, String) {
    let machine = seat.and_then(|seat| seat.machine);
    let (Some(seat), Some((m, g))) = (seat, machine.and_then(|m| Some((m, m.current()?)))) else {
        return (Verdict::BadTraceback, "an event of a thread that runs no goroutine".to_owned());
    };
    // SAFETY: the machine's thread is parked for good.
    let event = unsafe { m.trace() }.last();
    if let Some(index) = seat.goroutine() {
        // SAFETY: everybody is parked.
        let lines = unsafe { storm.truths[index].look(|truth| compared(truth, saved(g), event.frames())) };
        evidence.extend(lines.unwrap_or_default());
    }
    let summary = format!(
        "g{}: the tracer's event ({}) has {} frames that are not the right ones",
        event.goroutine, event.kind, event.len
    );
    (Verdict::BadTraceback, summary)
}

fn skip(
    storm: &Storm,
    seat: Option<&Seat>,
    why: &'static str,
    evidence: &mut Vec<String>,
) -> (Verdict, String) {
    let name = seat.map_or("a thread", |seat| &seat.name);
    if let Some((sample, _)) = sample(seat) {
        evidence.push(match sample.outcome {
            Outcome::Skipped(skip, Some(owner)) => format!(
                "it says {skip} of g{}: by {} for {}; that one was not at it while the lock was tried",
                sample.goroutine,
                machine(storm, owner.machine),
                owner.operation
            ),
            outcome => format!("it says {outcome:?} of g{}", sample.goroutine),
        });
        evidence.push(format!("it was interrupted in {} ({})", place(sample.pc), sample.class));
    }
    (Verdict::UnjustifiedSkip, format!("{name} skipped a sample without a reason: {why}"))
}
