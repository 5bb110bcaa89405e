//! The evidence of a violation: expected and found in words, and the stacks with markers.
//!
//! Made once every thread has stopped for good, from state that is still in place. Each kind of run says
//! what it knows of its threads ([`Scene`]); the words are the same for all.

use sigstorm_runtime::profiler::{Outcome, Sample, SampleFrame};
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::unwind::dump::{Dump, Pc};
use sigstorm_runtime::unwind::throw::Reason;
use sigstorm_runtime::unwind::traceback::WalkError;
use sigstorm_runtime::{G, M, Runtime};

use super::shadow_stack::ShadowStack;
use super::traceback::{ExpectedTraceback, Observed};
use super::violation::{Violation, ViolationKind};
use crate::outcome::{Finding, Verdict};

/// A run's threads, which have stopped for good, as that kind of run knows them.
pub(crate) trait Scene {
    /// The runtime.
    fn runtime(&self) -> &'static Runtime;

    /// The step that was being carried out, where there are steps.
    fn step(&self) -> usize;

    /// The name of the thread in this slot.
    fn thread_name(&self, thread: usize) -> String;

    /// The machine of the thread in this slot.
    fn machine(&self, thread: usize) -> Option<&'static M>;

    /// The name of a machine.
    fn machine_name(&self, machine: u8) -> String;

    /// The goroutine that the thread runs, by index, as the harness knows.
    fn goroutine(&self, thread: usize) -> Option<usize>;

    /// The goroutine of the thread's sample as the handler's walk found it, or as it is now.
    fn observed(&self, thread: usize, sample: &Sample, g: &G) -> Observed;

    /// Looks at a goroutine's shadow stack. None where its thread was writing it.
    fn stack<R>(&self, goroutine: usize, look: impl FnOnce(&ShadowStack) -> R) -> Option<R>;

    /// The holder of the goroutine's stack lock as the thread's handler tried it, as the harness knows: the
    /// holder's name and operation. None where the harness cannot tell of one instant.
    fn lock_holder(&self, thread: usize) -> Option<Option<(String, Operation)>>;

    /// Each thread's wait, and whatever else there is to say of the thread.
    fn threads(&self, violation: &Violation) -> Vec<String>;
}

/// A violation in the words of a report.
pub(crate) fn finding(scene: &impl Scene, violation: Violation) -> Finding {
    let mut report = Report { culprit: None, lines: Vec::new() };
    let name = violation.thread.map_or("a thread".to_owned(), |thread| scene.thread_name(thread));
    let (verdict, summary) = match violation.kind {
        ViolationKind::Traceback => report.traceback(scene, violation.thread),
        ViolationKind::Event => report.event(scene, violation.thread),
        ViolationKind::Skip(why) => report.skip(scene, violation.thread, &name, why),
        ViolationKind::Throw(throw) => {
            report.culprit = throw.reason.slot();
            let whose = throw.g.map_or(String::new(), |g| format!("g{}: ", g.id));
            (verdict_of(&throw.reason), format!("{whose}{}", throw.reason))
        }
        ViolationKind::Deadlock => {
            (Verdict::Deadlock, "every thread that could make progress is itself blocked".to_owned())
        }
        ViolationKind::SelfDeadlock => {
            (Verdict::Deadlock, format!("{name} waits for what {name} alone could release"))
        }
        ViolationKind::Stuck => (
            Verdict::Deadlock,
            format!("{name} makes no progress, although every other thread had time to let it"),
        ),
        ViolationKind::Livelock => {
            (Verdict::Deadlock, format!("{name} waits again and again for a condition that already holds"))
        }
        ViolationKind::LiveObject(index) => (
            Verdict::LiveObjectFreed,
            format!("object {index} is reachable, and the collector has not marked it or has freed it"),
        ),
        ViolationKind::Samples(what) => (Verdict::BadTraceback, format!("of the samples {what}")),
        ViolationKind::Memory(what) => (Verdict::Fault, format!("{name}: {what}")),
        ViolationKind::Leak(what, Some(index)) => {
            (Verdict::StateLeak, format!("at the end g{}: {what}", index + 1))
        }
        ViolationKind::Leak(what, None) => (Verdict::StateLeak, format!("at the end {what}")),
        ViolationKind::Harness(what) => (Verdict::HarnessError, format!("{name}: {what}")),
    };
    report.lines.extend(scene.threads(&violation));
    Finding {
        verdict: verdict.name().to_owned(),
        summary,
        evidence: report.lines,
        dump: dump(scene.runtime(), report.culprit),
        step: scene.step(),
    }
}

/// The verdict on a throw.
fn verdict_of(reason: &Reason) -> Verdict {
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

/// Every goroutine that exists, with a marker at the slot to blame.
fn dump(core: &Runtime, culprit: Option<usize>) -> Vec<String> {
    let exist = core.goroutines().iter().filter(|g| g.status.get() != status::IDLE);
    let lines = |g: &G| Dump { g, culprit }.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    exist.flat_map(lines).collect()
}

/// A place in words, for a PC that a handler has interrupted.
pub(crate) fn place(pc: usize) -> String {
    match Pc(pc).to_string() {
        place if place == "elsewhere" => "the runtime, on the thread's own stack".to_owned(),
        place => place,
    }
}

/// The lines that show one violation.
struct Report {
    /// The return slot to blame.
    culprit: Option<usize>,
    lines: Vec<String>,
}

impl Report {
    fn interrupted(&mut self, scene: &impl Scene, thread: usize, sample: &Sample) {
        self.lines.push(format!(
            "{} was interrupted in {} ({}); its handler had {} frames when it stopped",
            scene.thread_name(thread),
            place(sample.pc),
            sample.class,
            sample.len
        ));
        if let Some(Some((holder, operation))) = scene.lock_holder(thread) {
            self.lines.push(format!("the stack lock was held by {holder} for {operation}"));
        }
    }

    /// Expected and found, side by side.
    fn compare(&mut self, stack: &ShadowStack, observed: Observed, frames: &[SampleFrame]) {
        let expected = match stack.expected(observed) {
            ExpectedTraceback::Frames(expected) => expected,
            ExpectedTraceback::UnknownCode => {
                return self.lines.push("expected: a skip, the code is in no table".to_owned());
            }
            ExpectedTraceback::Impossible => return self.impossible(observed),
        };
        self.lines.push(format!("{:4}{:<28}{:<28}", "", "expected", "found"));
        let mut all_equal = true;
        for index in 0..expected.len().max(frames.len()) {
            let right = stack
                .expected_frame(&expected, index)
                .map(|f| format!("{:<16} top-{}", Pc(f.pc).to_string(), f.below));
            let found = frames.get(index).map(|f| {
                format!("{:<16} top-{}", Pc(f.pc).to_string(), observed.top.wrapping_sub(f.sp) as isize)
            });
            all_equal &= right == found;
            let mark = if right == found { "   " } else { "==>" };
            let or_nothing = |frame: Option<String>| frame.unwrap_or_else(|| "-".to_owned());
            self.lines.push(format!("{mark} {:<28}{:<28}", or_nothing(right), or_nothing(found)));
        }
        if all_equal {
            self.lines.push("the frames are right; the goroutine or the pseudo-frame is not".to_owned());
        }
    }

    /// No place where the goroutine can be.
    fn impossible(&mut self, observed: Observed) {
        if observed.in_kernel {
            self.lines.push("expected: the system call's stub, where the kernel returns to".to_owned());
        }
        let below = observed.top.wrapping_sub(observed.saved_sp);
        // Where nothing is saved, or the stack has moved, the distance says nothing.
        let saved = match below < 1 << 20 {
            true => format!("{below} bytes below the top"),
            false => "not on its stack".to_owned(),
        };
        let on = if observed.on_stack { "on" } else { "not on" };
        self.lines.push(format!(
            "expected: no traceback fits: saved at {}, {saved}; SP is {on} its stack",
            Pc(observed.saved_pc)
        ));
    }

    fn traceback(&mut self, scene: &impl Scene, thread: Option<usize>) -> (Verdict, String) {
        let Some((thread, sample, g)) = sampled(scene, thread) else {
            return (Verdict::BadTraceback, "a traceback of a thread that runs no goroutine".to_owned());
        };
        self.interrupted(scene, thread, sample);
        let (verdict, summary) = match sample.outcome {
            Outcome::Failed(error) => {
                self.culprit = error.slot();
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
        let index = usize::from(g.id) - 1;
        match scene.goroutine(thread) {
            None => self.lines.push("the thread should run no goroutine".to_owned()),
            Some(other) if other != index => self.lines.push(format!("the thread should run g{}", other + 1)),
            Some(_) => {
                let observed = scene.observed(thread, sample, g);
                scene.stack(index, |stack| self.compare(stack, observed, sample.frames()));
            }
        }
        (verdict, summary)
    }

    /// The last event of the thread's tracer.
    fn event(&mut self, scene: &impl Scene, thread: Option<usize>) -> (Verdict, String) {
        let machine = thread.and_then(|thread| scene.machine(thread));
        let Some((m, g)) = machine.and_then(|m| Some((m, m.current()?))) else {
            return (Verdict::BadTraceback, "an event of a thread that runs no goroutine".to_owned());
        };
        // SAFETY: the machine's thread has stopped for good.
        let event = unsafe { m.trace() }.last();
        let observed = Observed::saved(g);
        scene.stack(usize::from(g.id) - 1, |stack| self.compare(stack, observed, event.frames()));
        let summary = format!(
            "g{}: the tracer's event ({}) has {} frames that are not the right ones",
            event.goroutine, event.kind, event.len
        );
        (Verdict::BadTraceback, summary)
    }

    fn skip(
        &mut self,
        scene: &impl Scene,
        thread: Option<usize>,
        name: &str,
        why: &'static str,
    ) -> (Verdict, String) {
        let summary = format!("{name} skipped a sample without a reason: {why}");
        let Some((thread, sample, g)) = sampled(scene, thread) else {
            return (Verdict::UnjustifiedSkip, summary);
        };
        self.interrupted(scene, thread, sample);
        let says = match (sample.outcome, scene.lock_holder(thread)) {
            (Outcome::Skipped(skip, Some(owner)), holder) => {
                let holder = match holder {
                    None => "that machine was not in that operation while the lock was tried".to_owned(),
                    Some(None) => "nobody held it".to_owned(),
                    Some(Some((holder, operation))) => format!("it was held by {holder} for {operation}"),
                };
                let machine = scene.machine_name(owner.machine);
                format!("the sample says {skip} of g{}: by {machine} for {}; {holder}", g.id, owner.operation)
            }
            (outcome, _) => format!("the sample says {outcome:?} of g{}", g.id),
        };
        self.lines.push(says);
        let observed = scene.observed(thread, sample, g);
        let possible = scene.stack(usize::from(g.id) - 1, |stack| match stack.expected(observed) {
            ExpectedTraceback::Frames(expected) => format!("a walk was possible: {} frames", expected.len()),
            ExpectedTraceback::UnknownCode => "the code is in no table".to_owned(),
            ExpectedTraceback::Impossible => "no place where the goroutine can be".to_owned(),
        });
        self.lines.extend(possible);
        (Verdict::UnjustifiedSkip, summary)
    }
}

/// The thread, the last sample of its machine, and the goroutine that the machine runs.
fn sampled(scene: &impl Scene, thread: Option<usize>) -> Option<(usize, &'static Sample, &'static G)> {
    let m = scene.machine(thread?)?;
    // SAFETY: the machine's thread has stopped for good.
    Some((thread?, unsafe { m.last_sample() }, m.current()?))
}
