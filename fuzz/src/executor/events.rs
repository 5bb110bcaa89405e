//! The events of the runtime, from which a run learns before the thread can be held there.

use sigstorm_runtime::profiler::rate::RateEpoch;
use sigstorm_runtime::profiler::{Outcome, Sample, SkipReason};
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::stack::lock::{Operation, Owner};
use sigstorm_runtime::unwind::functab::Table;
use sigstorm_runtime::{CodeClass, G, M, Phase, Point};

use super::run::Run;
use super::sample_accounting::delivered;
use super::thread::{EXT, Thread};
use super::trace::What as Event;
use crate::oracle::check::{self, Judgement, OwnStack, Witness};
use crate::oracle::index;
use crate::oracle::lockstep::{WRONG_END, bulk_moved};
use crate::oracle::{Observed, ShadowStack, ViolationKind};

type Learnt = Result<(), ViolationKind>;

impl Run {
    /// Learns from an event.
    ///
    /// # Errors
    /// Where it shows a violation.
    #[inline]
    pub(super) fn learn(&mut self, me: usize, point: Point, g: Option<&'static G>, detail: usize) -> Learnt {
        match point {
            Point::LockAcquired => {
                if let Some(g) = g {
                    let operation = Operation::from_code(detail as u8).unwrap_or(Operation::Walk);
                    self.locks.acquired(index(g), me, operation);
                }
                Ok(())
            }
            Point::HandlerBegin
            | Point::HandlerTried
            | Point::TracebackDone
            | Point::SampleTaken
            | Point::SampleWritten
            | Point::HandlerEnd
            | Point::RateChanged
            | Point::RateLocked => self.learn_of_sample(me, point, g, detail),
            Point::PhaseChanged => self.learn_of_phase(detail),
            Point::SyscallReturned => {
                self.back_from_kernel(me);
                Ok(())
            }
            Point::ForeignEntered | Point::ForeignLeft => {
                let entered = point == Point::ForeignEntered;
                self.threads[me].own_stack = if entered { OwnStack::Foreign } else { OwnStack::Runtime };
                Ok(())
            }
            Point::MachineBound if me == EXT => {
                self.threads[me].machine = self.extra_m.filter(|_| detail != 0);
                Ok(())
            }
            _ => g.map_or(Ok(()), |g| self.learn_of_goroutine(me, point, g, detail)),
        }
    }

    /// Events of goroutines and their stacks.
    #[inline]
    fn learn_of_goroutine(&mut self, me: usize, point: Point, g: &'static G, detail: usize) -> Learnt {
        let goroutine = index(g);
        let requests = &self.shadows.requests[goroutine];
        match point {
            Point::Taken => {
                self.shadows.taken(goroutine);
                self.threads[me].goroutine = Some(goroutine);
            }
            Point::GReleased => {
                if self.shadows.stacks[goroutine].is_in_foreign_call() {
                    return Err(ViolationKind::Memory(
                        "a goroutine leaves its thread with foreign frames under it",
                    ));
                }
                // Another may wait to make it anew, and has marked it.
                let ended = g.status.get() & !status::SCAN == status::DEAD;
                if ended != self.shadows.stacks[goroutine].must_end() {
                    return Err(WRONG_END);
                }
                self.threads[me].goroutine = None;
                if ended {
                    self.shadows.ended(goroutine);
                }
            }
            Point::ScanAsked => requests.scan.made(requests.scan.generation()),
            Point::ScanSelf => requests.scan.honoured(),
            Point::PreemptAsked => requests.yields.made(requests.yields.generation()),
            Point::PreemptYields => requests.yields.honoured(),
            Point::ScanDone if self.runtime().phase() == Phase::Mark => {
                self.shadows.cycle.scanned(goroutine);
                if check::lacks_barriers(self.runtime(), &self.shadows.stacks[goroutine], g) {
                    // Reported at the end: what follows from it may say more.
                    let what = "a scan has laid no barrier, and one was due";
                    self.outcome.violated_late(ViolationKind::Leak(what, Some(goroutine)));
                }
            }
            Point::CopyAdjusted => {
                let moves = matches!(self.locks.holder(goroutine), Some((_, Operation::Copystack)));
                if moves && !self.shadows.slots_hold(self.runtime(), g, true) {
                    return Err(ViolationKind::Memory("a slot does not hold what was written there"));
                }
            }
            Point::RecoverSwitched => self.shadows.stacks[goroutine].recovered(self.threads[me].recovers_to),
            Point::SetPcBegin => self.shadows.stacks[goroutine].replaces_pc(),
            Point::SetPcDone => self.shadows.stacks[goroutine].replaced_pc(),
            Point::BulkDone => {
                self.threads[me].uses_mailbox = false;
                bulk_moved(&mut self.shadows.stacks[goroutine], &mut self.shadows.heap, detail);
            }
            Point::TraceEvent => return self.judge_event(me, g),
            _ => {}
        }
        Ok(())
    }

    /// The collector's phase has changed, with the world stopped but for the end of the sweep.
    fn learn_of_phase(&mut self, phase: usize) -> Learnt {
        let runtime = self.runtime();
        let Some(phase) = Phase::from_code(phase as u8) else { return Ok(()) };
        self.shadows.cycle.changes_phase(phase);
        match phase {
            Phase::Mark => {}
            // Everybody is scanned now, with the world stopped: requests to do so are void.
            Phase::Termination => {
                self.shadows.requests.iter().for_each(|requests| requests.scan.honoured());
            }
            Phase::Sweep => {
                return self.shadows.check_live(runtime, |heap, index| heap.is_marked(index));
            }
            Phase::Off => {
                return self.shadows.check_live(runtime, |heap, index| heap.is_allocated(index));
            }
        }
        Ok(())
    }

    /// Events of the profiler: a handler from its beginning to its end, and the rate.
    #[inline]
    fn learn_of_sample(&mut self, me: usize, point: Point, g: Option<&'static G>, detail: usize) -> Learnt {
        let thread = &mut self.threads[me];
        match (point, g) {
            (Point::RateChanged, _) => self.accounting.rate_changed(detail as u32),
            (Point::RateLocked, _) if thread.handler.active => {
                thread.handler.rate = Some(self.accounting.rate());
            }
            (Point::HandlerBegin, g) => {
                thread.handler.active = true;
                (thread.handler.observed, thread.handler.lock_holder, thread.handler.rate) =
                    (None, None, None);
                thread.breakpoints.enter_handler(self.code.ladder());
                self.locks.handler_begins(me, detail);
                delivered(thread, &mut self.counts)?;
                if thread.waits_in_kernel() {
                    self.counts.interrupted_calls += 1;
                    thread.kernel.interruptions += 1;
                }
                self.feed_back_interrupted(me, detail);
                self.note(me, Event::Signal, g);
            }
            (Point::HandlerTried, Some(g)) => {
                thread.handler.lock_holder = self.locks.holder(index(g));
                self.locks.tried(me, &self.threads);
            }
            (Point::TracebackDone, Some(g)) => {
                if let Some(m) = thread.machine {
                    // SAFETY: this is the machine's own thread, in its handler.
                    let sample = unsafe { m.last_sample() };
                    // The walked stack may move once the walk has given the lock back.
                    thread.handler.observed = Some(Observed::by_sample(g, sample, thread.waits_in_kernel()));
                }
            }
            (Point::HandlerEnd, _) if !thread.handler.active => {
                // The handler took this thread for one without a machine, and this is its only event. A thread that
                // is held here masks its signal like any other in its handler.
                thread.handler.active = true;
                delivered(thread, &mut self.counts)?;
                return self.judge_foreign(me);
            }
            (Point::SampleTaken | Point::SampleWritten | Point::HandlerEnd, _) => {
                let Some(m) = thread.machine else {
                    return Err(ViolationKind::Samples("one is of a thread that has no machine"));
                };
                // SAFETY: this is the machine's own thread, at the end of its handler.
                let sample = unsafe { m.last_sample() };
                if point == Point::SampleTaken {
                    self.judge(me, m, sample)?;
                }
                return self.accounting.follow(m, point, detail, sample, &mut self.counts);
            }
            _ => {}
        }
        Ok(())
    }

    // -- judging --------------------------------------------------------------------------

    /// Judges the sample that the thread's handler has just taken, and counts it.
    fn judge(&mut self, me: usize, m: &'static M, sample: &Sample) -> Learnt {
        self.counts.interrupted[class_index(sample.class)] += 1;
        let thread = &self.threads[me];
        let at_stop = thread.breakpoints.is_signalled_at_stop(sample.pc);
        match check::sample(&InRun { run: self, thread, me }, sample) {
            Judgement::Right => {}
            Judgement::Unknown => {
                return Err(ViolationKind::Harness("nobody else runs, and nothing can be said"));
            }
            Judgement::Wrong(kind) => return Err(kind),
        }
        let (counts, injected) = (&mut self.counts, &mut self.outcome.injected);
        let what = match sample.outcome {
            Outcome::Traceback => {
                counts.tracebacks += 1;
                injected.right += u64::from(at_stop);
                let table = Table::get();
                for frame in sample.frames() {
                    let function = table.row(frame.pc).function();
                    if let Some(count) = function.and_then(|f| counts.frames.get_mut(usize::from(f.code()))) {
                        *count += 1;
                    }
                }
                "right"
            }
            Outcome::Skipped(skip, _) => {
                counts.skips[usize::from(skip.code()) - 1] += 1;
                injected.skips[usize::from(skip.code()) - 1] += u64::from(at_stop);
                skip.name()
            }
            Outcome::NoGoroutine | Outcome::Failed(_) => {
                counts.alone += 1;
                injected.alone += u64::from(at_stop);
                "alone"
            }
        };
        self.note(me, Event::Sample(what), m.current());
        Ok(())
    }

    /// Judges that a handler has taken the thread for one without a machine.
    fn judge_foreign(&mut self, me: usize) -> Learnt {
        if self.threads[me].machine.is_some() {
            return Err(ViolationKind::Skip("the thread has a machine"));
        }
        self.counts.skips[usize::from(SkipReason::ForeignThread.code()) - 1] += 1;
        self.counts.interrupted[class_index(CodeClass::Runtime)] += 1;
        self.note(me, Event::Sample(SkipReason::ForeignThread.name()), None);
        Ok(())
    }

    /// Judges the event that the thread's tracer has just taken.
    fn judge_event(&mut self, me: usize, g: &'static G) -> Learnt {
        let Some(m) = self.threads[me].machine else { return Err(ViolationKind::Event) };
        // SAFETY: this is the machine's own thread, right after it took the event.
        let event = unsafe { m.trace() }.last();
        if !check::event(&self.shadows.stacks[index(g)], g, self.threads[me].goroutine, event) {
            return Err(ViolationKind::Event);
        }
        self.counts.events += 1;
        Ok(())
    }
}

/// A thread in its handler, as a run knows it. No other thread runs, so everything is known.
struct InRun<'a> {
    run: &'a Run,
    thread: &'a Thread,
    me: usize,
}

impl Witness for InRun<'_> {
    fn runs(&self, goroutine: u8) -> Option<bool> {
        Some(self.thread.goroutine.is_some_and(|index| index + 1 == usize::from(goroutine)))
    }

    fn runs_none(&self) -> Option<bool> {
        Some(self.thread.goroutine.is_none())
    }

    fn stack<R>(&self, look: impl FnOnce(&ShadowStack) -> R) -> Option<R> {
        self.thread.goroutine.map(|goroutine| look(&self.run.shadows.stacks[goroutine]))
    }

    fn observed(&self) -> Option<Observed> {
        self.thread.handler.observed
    }

    fn own_stack(&self) -> OwnStack {
        self.thread.own_stack
    }

    fn had_rate(&self, tick: RateEpoch) -> bool {
        self.thread.handler.rate == Some(tick)
    }

    fn lock_was_held_by(&self, owner: Owner, _: u8) -> Judgement {
        let owner = (Run::slot_of_machine(owner.machine), owner.operation);
        let known = self.thread.handler.lock_holder == Some(owner);
        let held = |goroutine| self.run.locks.may_have_held(self.me, goroutine, owner);
        match known || self.thread.goroutine.is_some_and(held) {
            true => Judgement::Right,
            false => Judgement::Wrong(ViolationKind::Skip(SkipReason::LockHeld.name())),
        }
    }
}

fn class_index(class: CodeClass) -> usize {
    usize::from(class.code()) - 1
}
