//! Checks that look at one thing at one instant. None of them changes anything; all but the
//! checks for leaks are signal-safe.

use sigstorm_runtime::gc::heap::Heap;
use sigstorm_runtime::profiler::rate::RateEpoch;
use sigstorm_runtime::profiler::tracer::Event;
use sigstorm_runtime::profiler::{Outcome, Pseudo, Sample, SkipReason};
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::stack::barrier::FIRST_BARRIER;
use sigstorm_runtime::stack::lock::Owner;
use sigstorm_runtime::{G, M, Phase, Runtime};

use super::shadow_stack::ShadowStack;
use super::traceback::{ExpectedTraceback, Observed};
use super::violation::ViolationKind;

/// The answer of a check.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judgement {
    /// The sample is right, or its reason was true.
    Right,
    /// The record was being written at that instant: nothing can be said.
    Unknown,
    /// The sample, or its reason, is wrong.
    Wrong(ViolationKind),
}

sigstorm_runtime::named_codes! {
    /// Whose code a thread runs on its own stack, as the harness knows.
    pub(crate) enum OwnStack {
        /// The runtime's.
        Runtime = 0, "the runtime";
        /// The collector's.
        Collector = 1, "the collector";
        /// Foreign code.
        Foreign = 2, "foreign code";
        /// The runtime's or foreign code: the thread is on its way from one to the other.
        MaybeForeign = 3, "between the runtime and foreign code";
        /// The runtime's or the collector's: the thread is about to collect, collects, or has just done so.
        MaybeCollector = 4, "about to collect, or collecting";
    }
}

impl OwnStack {
    /// Whether a sample may say this of the thread's own stack.
    fn allows(self, pseudo: Pseudo) -> bool {
        match self {
            OwnStack::Runtime => pseudo == Pseudo::System,
            OwnStack::Collector => pseudo == Pseudo::Gc,
            OwnStack::Foreign => pseudo == Pseudo::External,
            OwnStack::MaybeForeign => matches!(pseudo, Pseudo::System | Pseudo::External),
            OwnStack::MaybeCollector => matches!(pseudo, Pseudo::System | Pseudo::Gc),
        }
    }
}

/// The harness's record of a thread whose handler has taken a sample.
pub(crate) trait Witness {
    /// Whether the thread runs the goroutine with this number. Unknown while it takes one.
    fn runs(&self, goroutine: u8) -> Option<bool>;

    /// Whether the thread runs no goroutine. Unknown while it drops one.
    fn runs_none(&self) -> Option<bool>;

    /// Looks at the shadow stack of the thread's goroutine. None where that was being written.
    fn stack<R>(&self, look: impl FnOnce(&ShadowStack) -> R) -> Option<R>;

    /// The goroutine as the handler's walk found it.
    fn observed(&self) -> Option<Observed>;

    /// Whose code the thread runs on its own stack.
    fn own_stack(&self) -> OwnStack;

    /// Whether the profiling rate was this one, since this change, at a moment of the handler.
    fn had_rate(&self, tick: RateEpoch) -> bool;

    /// Whether this owner held the stack lock of the thread's goroutine as the handler tried it.
    fn lock_was_held_by(&self, owner: Owner, goroutine: u8) -> Judgement;
}

/// Judges a sample, at the end of the handler that took it.
pub(crate) fn sample(witness: &impl Witness, sample: &Sample) -> Judgement {
    if !witness.had_rate(sample.rate) {
        return Judgement::Wrong(ViolationKind::Samples("one has another rate than there was"));
    }
    let off = matches!(sample.outcome, Outcome::Skipped(SkipReason::ProfilerOff, _));
    if sample.rate.hz == 0 && !off {
        return Judgement::Wrong(ViolationKind::Samples("one was taken though profiling was off"));
    }
    match sample.outcome {
        Outcome::Traceback => traceback(witness, sample),
        Outcome::Failed(_) => Judgement::Wrong(ViolationKind::Traceback),
        Outcome::NoGoroutine => alone(witness, sample),
        Outcome::Skipped(skip, owner) => skipped(witness, sample, skip, owner),
    }
}

/// Judges what a sample says of its goroutine by that goroutine's shadow stack.
fn by_stack(
    witness: &impl Witness,
    sample: &Sample,
    wrong: ViolationKind,
    is_right: impl FnOnce(&ShadowStack, Observed) -> bool,
) -> Judgement {
    let Some(is_its_own) = witness.runs(sample.goroutine) else { return Judgement::Unknown };
    let Some(observed) = witness.observed().filter(|_| is_its_own) else { return Judgement::Wrong(wrong) };
    match witness.stack(|stack| is_right(stack, observed)) {
        None => Judgement::Unknown,
        Some(true) => Judgement::Right,
        Some(false) => Judgement::Wrong(wrong),
    }
}

fn traceback(witness: &impl Witness, sample: &Sample) -> Judgement {
    let own = witness.own_stack();
    by_stack(witness, sample, ViolationKind::Traceback, |stack, observed| {
        let pseudo = match observed.on_stack {
            true => sample.pseudo == Pseudo::None,
            false => own.allows(sample.pseudo),
        };
        pseudo && stack.matches(&stack.expected(observed), sample.frames(), observed.top)
    })
}

fn alone(witness: &impl Witness, sample: &Sample) -> Judgement {
    match witness.runs_none() {
        None => Judgement::Unknown,
        Some(false) => Judgement::Wrong(ViolationKind::Skip("the thread runs a goroutine")),
        Some(true) if !witness.own_stack().allows(sample.pseudo) => {
            Judgement::Wrong(ViolationKind::Skip("the pseudo-frame is wrong"))
        }
        Some(true) => Judgement::Right,
    }
}

fn skipped(witness: &impl Witness, sample: &Sample, skip: SkipReason, owner: Option<Owner>) -> Judgement {
    let wrong = Judgement::Wrong(ViolationKind::Skip(skip.name()));
    match skip {
        SkipReason::LockHeld => {
            owner.map_or(wrong, |owner| witness.lock_was_held_by(owner, sample.goroutine))
        }
        // The handler takes this reason where there is no machine, and leaves no sample.
        SkipReason::ForeignThread => wrong,
        SkipReason::ProfilerOff if sample.rate.hz == 0 => Judgement::Right,
        SkipReason::ProfilerOff => wrong,
        SkipReason::UnknownCode => {
            by_stack(witness, sample, ViolationKind::Skip(skip.name()), |stack, observed| {
                matches!(stack.expected(observed), ExpectedTraceback::UnknownCode)
            })
        }
    }
}

/// Whether a tracer's event, just taken, has the right frames for the goroutine `g`, which `goroutine` says
/// that the thread runs.
pub(crate) fn event(stack: &ShadowStack, g: &G, goroutine: Option<usize>, event: &Event) -> bool {
    let observed = Observed::saved(g);
    let is_its_own = goroutine.is_some_and(|index| index + 1 == usize::from(g.id)) && event.goroutine == g.id;
    is_its_own && stack.matches(&stack.expected(observed), event.frames(), observed.top)
}

/// Whether a scan that is over should have laid a barrier on the stack of `g` and has laid none. The
/// goroutine is saved as it is now.
pub(crate) fn lacks_barriers(core: &Runtime, stack: &ShadowStack, g: &G) -> bool {
    let first = if core.every_frame() { 0 } else { FIRST_BARRIER };
    g.barriers.is_empty() && stack.is_due_a_barrier(&stack.expected(Observed::saved(g)), first)
}

/// The first object of a set of live ones that is not there.
pub(crate) fn lost_object(heap: &Heap, live: u64, is_there: fn(&Heap, usize) -> bool) -> Option<usize> {
    let mut left = live;
    while left != 0 {
        let index = left.trailing_zeros() as usize;
        if !is_there(heap, index) {
            return Some(index);
        }
        left &= left - 1;
    }
    None
}

/// A leak: a thing not where it belongs once every goroutine has returned and every thread is idle. `lives`
/// says whether the harness has frames of a goroutine left.
///
/// # Safety
/// No thread runs a goroutine or collects, and none begins to.
pub(crate) unsafe fn leak<'a>(
    core: &Runtime,
    lives: impl Fn(usize) -> bool,
    machines: impl Iterator<Item = &'a M>,
) -> Option<ViolationKind> {
    for (index, g) in core.goroutines().iter().enumerate() {
        // SAFETY: no thread has the goroutine (caller).
        let has_unwound = unsafe { g.has_unwound() };
        let left = [
            (g.lock.owner().is_some(), "its stack lock is held"),
            (!g.barriers.is_empty(), "it has barriers left"),
            (!matches!(g.status.get(), status::IDLE | status::DEAD), "it is neither idle nor dead"),
            (lives(index), "it should be alive"),
            (!has_unwound, "it has deferred calls or panics left"),
        ];
        if let Some((_, what)) = left.into_iter().find(|(is_left, _)| *is_left) {
            return Some(ViolationKind::Leak(what, Some(index)));
        }
    }
    for m in machines {
        let left = [
            (!m.holds_no_lock(), "a machine counts a lock"),
            (m.current().is_some(), "a machine has a goroutine"),
            (m.foreign_calls() != 0 || m.in_foreign_code(), "a machine is in a foreign call"),
        ];
        if let Some((_, what)) = left.into_iter().find(|(is_left, _)| *is_left) {
            return Some(ViolationKind::Leak(what, None));
        }
    }
    (core.phase() != Phase::Off).then_some(ViolationKind::Leak("the collector is not off", None))
}
