//! The oracle: holds every sample against the truth, and every skip against its reason.

use sigstorm_runtime::gc::heap::Heap;
use sigstorm_runtime::profiler::{Outcome, Pseudo, Sample, SampleFrame, SkipReason};
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::runtime::GOROUTINES;
use sigstorm_runtime::stack::barrier::FIRST_BARRIER;
use sigstorm_runtime::unwind::functab::Table;
use sigstorm_runtime::{CodeClass, G, M, Phase};

use super::hooks::index;
use super::state::{EXT, M1, State, Violation};
use super::trace::What as Event;
use super::truth::{Right, RightFrame, Seen, Truth};

/// Where a sample saw its goroutine, as the goroutine stands now.
pub(crate) fn seen(g: &G, sample: &Sample, in_kernel: bool) -> Seen {
    Seen {
        pc: sample.pc,
        sp: sample.sp,
        on_stack: g.stack.contains(sample.sp),
        in_kernel,
        top: g.stack.top.get(),
        saved_sp: g.sched.sp.get(),
        saved_pc: g.sched.pc.get(),
    }
}

/// True where these frames are the right ones.
pub(crate) fn matches(truth: &Truth, right: &Right, frames: &[SampleFrame], top: usize) -> bool {
    let Right::Frames(right) = right else { return false };
    right.len() == frames.len()
        && frames.iter().enumerate().all(|(index, found)| {
            truth.is_right(right, index, RightFrame { pc: found.pc, below: top.wrapping_sub(found.sp) })
        })
}

impl State {
    /// Judges the sample that this thread's handler has just taken.
    pub(crate) fn judge(&self, seat: usize) {
        let Some(m) = self.threads[seat].machine.get() else {
            self.fail(seat, Violation::Samples("one is of a thread that has no machine"));
        };
        // SAFETY: this is the machine's own thread, at the end of its handler.
        let sample = unsafe { m.last_sample() };
        self.counts().interrupted[class_index(sample.class)] += 1;
        let g = m.current();
        let seen = self.threads[seat].rate_seen.get();
        if sample.rate != seen {
            self.fail(seat, Violation::Samples("one has another rate than there was"));
        }
        let off = matches!(sample.outcome, Outcome::Skipped(SkipReason::ProfilerOff, _));
        if seen.hz == 0 && !off {
            self.fail(seat, Violation::Samples("one was taken though profiling was off"));
        }
        match sample.outcome {
            Outcome::Traceback => self.judge_traceback(seat, m, sample),
            Outcome::Failed(_) => self.fail(seat, Violation::Traceback(seat)),
            Outcome::NoGoroutine => self.judge_alone(seat, sample),
            Outcome::Skipped(skip, owner) => {
                let reason = match skip {
                    SkipReason::LockHeld => owner.is_some_and(|owner| {
                        let owner = (usize::from(owner.machine) + M1, owner.operation);
                        self.threads[seat].lock_was_held.get() == Some(owner)
                            || g.is_some_and(|g| self.held_in_between(seat, index(g), owner))
                    }),
                    SkipReason::ForeignThread => false,
                    SkipReason::ProfilerOff => seen.hz == 0,
                    SkipReason::UnknownCode => {
                        g.is_some_and(|g| matches!(self.right(seat, g, sample), Right::UnknownCode))
                    }
                };
                if !reason {
                    self.fail(seat, Violation::Skip(seat, skip.name()));
                }
                self.skipped(skip);
                self.note(seat, Event::Sample(skip.name()), g);
            }
        }
    }

    /// Judges that a handler has taken this thread for one without a machine.
    pub(crate) fn judge_foreign(&self, seat: usize) {
        if self.threads[seat].machine.get().is_some() {
            self.fail(seat, Violation::Skip(seat, "the thread has a machine"));
        }
        self.skipped(SkipReason::ForeignThread);
        self.counts().interrupted[class_index(CodeClass::Runtime)] += 1;
        self.note(seat, Event::Sample(SkipReason::ForeignThread.name()), None);
    }

    fn skipped(&self, skip: SkipReason) {
        self.counts().skips[usize::from(skip.code()) - 1] += 1;
    }

    /// The right traceback for a sample of this goroutine.
    pub(crate) fn right(&self, seat: usize, g: &G, sample: &Sample) -> Right {
        self.truth(index(g)).right(seen(g, sample, self.waits_in_kernel(seat)))
    }

    /// The right frames for an event of a goroutine that is saved as it is now.
    pub(crate) fn right_event(&self, g: &G) -> Right {
        self.truth(index(g)).right(Seen {
            pc: 0,
            sp: 0,
            on_stack: false,
            in_kernel: false,
            top: g.stack.top.get(),
            saved_sp: g.sched.sp.get(),
            saved_pc: g.sched.pc.get(),
        })
    }

    /// A scan of this goroutine in a cycle is over: were there barriers to lay, it has laid some.
    pub(crate) fn check_barriers(&self, g: &G) {
        let first = if self.core().every_frame() { 0 } else { FIRST_BARRIER };
        let due = self.truth(index(g)).is_due_a_barrier(&self.right_event(g), first);
        if due && g.barriers.is_empty() && self.late.get().is_none() {
            self.late
                .set(Some(Violation::Leak("a scan has laid no barrier, and one was due", Some(index(g)))));
        }
    }

    /// Judges the event that this thread's tracer has just taken.
    pub(crate) fn judge_event(&self, seat: usize, g: &'static G) {
        let Some(m) = self.threads[seat].machine.get() else { return };
        // SAFETY: this is the machine's own thread, right after it took the event.
        let event = unsafe { m.trace() }.last();
        let ours = self.threads[seat].current.get() == Some(index(g)) && event.goroutine == g.id;
        if !ours || !matches(self.truth(index(g)), &self.right_event(g), event.frames(), g.stack.top.get()) {
            self.fail(seat, Violation::Event(seat));
        }
        self.counts().events += 1;
    }

    fn judge_traceback(&self, seat: usize, m: &'static M, sample: &Sample) {
        // What it walked may have moved since the walk gave the lock back.
        let right = self.threads[seat].walked.get().unwrap_or_else(|| self.is_right(seat, m, sample));
        if !right {
            self.fail(seat, Violation::Traceback(seat));
        }
        let (counts, table) = (self.counts(), Table::get());
        counts.tracebacks += 1;
        for frame in sample.frames() {
            let function = table.row(frame.pc).function();
            if let Some(count) = function.and_then(|f| counts.frames.get_mut(usize::from(f.code()))) {
                *count += 1;
            }
        }
        self.note(seat, Event::Sample("right"), m.current());
    }

    /// True where the sample that this thread's handler is taking has the right frames, as the
    /// goroutine stands now.
    fn is_right(&self, seat: usize, m: &'static M, sample: &Sample) -> bool {
        let ours = self.threads[seat].current.get().map(|index| index + 1);
        m.current().is_some_and(|g| {
            let on_stack = g.stack.contains(sample.sp);
            ours == Some(usize::from(sample.goroutine))
                && sample.pseudo == self.pseudo(seat, on_stack)
                && matches(
                    self.truth(index(g)),
                    &self.right(seat, g, sample),
                    sample.frames(),
                    g.stack.top.get(),
                )
        })
    }

    /// The same, of this thread's handler, at the end of its walk.
    pub(crate) fn is_right_now(&self, seat: usize) -> Option<bool> {
        let m = self.threads[seat].machine.get()?;
        // SAFETY: this is the machine's own thread, in its handler.
        let sample = unsafe { m.last_sample() };
        Some(self.is_right(seat, m, sample))
    }

    /// What must be below the goroutine's frames.
    fn pseudo(&self, seat: usize, on_stack: bool) -> Pseudo {
        let thread = &self.threads[seat];
        match (on_stack, thread.in_foreign.get(), thread.collecting.get()) {
            (true, ..) => Pseudo::None,
            (false, true, _) => Pseudo::External,
            (false, false, true) => Pseudo::Gc,
            (false, false, false) => Pseudo::System,
        }
    }

    fn judge_alone(&self, seat: usize, sample: &Sample) {
        if self.threads[seat].current.get().is_some() {
            self.fail(seat, Violation::Skip(seat, "the thread runs a goroutine"));
        }
        if sample.pseudo != self.pseudo(seat, false) {
            self.fail(seat, Violation::Skip(seat, "the pseudo-frame is wrong"));
        }
        self.counts().alone += 1;
        self.note(seat, Event::Sample("alone"), None);
    }

    /// At the end of mark termination whatever can be reached must be marked, and after the
    /// sweep it must still be there.
    pub(crate) fn check_live(&self, seat: usize, is_there: fn(&Heap, usize) -> bool) {
        let roots = (0..GOROUTINES).fold(0, |set, index| set | self.truth(index).roots());
        let live = self.heap().reachable(roots);
        let heap = self.core().heap();
        let mut left = live;
        while left != 0 {
            let index = left.trailing_zeros() as usize;
            if !is_there(heap, index) {
                self.fail(seat, Violation::LiveObject(index));
            }
            left &= left - 1;
        }
    }

    /// After the last thread has finished: everything must be back where it belongs.
    pub(crate) fn check_leaks(&self) -> Option<Violation> {
        for (index, g) in self.core().goroutines().iter().enumerate() {
            let leak = |what| Some(Violation::Leak(what, Some(index)));
            if g.lock.owner().is_some() {
                return leak("its stack lock is held");
            }
            if !g.barriers.is_empty() {
                return leak("it has barriers left");
            }
            if !matches!(g.status.get(), status::IDLE | status::DEAD) {
                return leak("it is neither idle nor dead");
            }
            if self.truth(index).lives() {
                return leak("it should be alive");
            }
            // SAFETY: no thread has it any more.
            if !unsafe { g.has_unwound() } {
                return leak("it has deferred calls or panics left");
            }
        }
        if self.threads[EXT].machine.get().is_some() {
            return Some(Violation::Leak("a thread from outside is still a machine's", None));
        }
        for thread in &self.threads {
            if let Some(m) = thread.machine.get() {
                if !m.holds_no_lock() {
                    return Some(Violation::Leak("a machine counts a lock", None));
                }
                if m.current().is_some() {
                    return Some(Violation::Leak("a machine has a goroutine", None));
                }
                if m.foreign_calls() != 0 || m.in_foreign_code() {
                    return Some(Violation::Leak("a machine is in a foreign call", None));
                }
            }
        }
        (self.phase() != Phase::Off).then_some(Violation::Leak("the collector is not off", None))
    }
}

fn class_index(class: CodeClass) -> usize {
    usize::from(class.code()) - 1
}
