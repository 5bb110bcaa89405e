//! A storm's record of a thread whose handler has taken a sample, and checks of all at once.
//!
//! The handler has interrupted the very thread that keeps its goroutine's shadow stack, so that stack
//! stands still while the handler looks, and only the share of samples that came while it was being
//! written goes without a judgement. Others may move the goroutine's stack meanwhile, which is why the
//! walk's place and the stack's top were noted under the lock.

use core::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sigstorm_runtime::gc::heap::Heap;
use sigstorm_runtime::profiler::rate::RateEpoch;
use sigstorm_runtime::profiler::{self, Outcome, SkipReason};
use sigstorm_runtime::stack::lock::Owner;
use sigstorm_runtime::{G, M};

use super::ledger::{is_announced, was_in};
use super::state::Storm;
use super::thread::StormThread;
use crate::oracle::check::{self, Judgement, OwnStack, Witness};
use crate::oracle::{Observed, ShadowStack, ViolationKind};

/// So long another thread may take from the lock to saying so.
const PATIENCE: Duration = Duration::from_millis(50);

/// A thread, in its handler.
struct InStorm<'a> {
    storm: &'a Storm,
    thread: &'a StormThread,
}

impl Witness for InStorm<'_> {
    fn runs(&self, goroutine: u8) -> Option<bool> {
        let is_its_own = self.thread.goroutine().is_some_and(|index| index + 1 == usize::from(goroutine));
        // The thread may have the goroutine a moment before the harness knows.
        (is_its_own || !self.thread.taking.load(Ordering::Relaxed)).then_some(is_its_own)
    }

    fn runs_none(&self) -> Option<bool> {
        let none = self.thread.goroutine().is_none();
        // The thread may have dropped its goroutine a moment before the harness knows.
        (none || !self.thread.leaving.load(Ordering::Relaxed)).then_some(none)
    }

    fn stack<R>(&self, look: impl FnOnce(&ShadowStack) -> R) -> Option<R> {
        let shadow = self.storm.shadows.get(self.thread.goroutine()?)?;
        // SAFETY: this is the handler of the thread that runs it.
        unsafe { shadow.look(look) }
    }

    fn observed(&self) -> Option<Observed> {
        // SAFETY: this is the thread's own handler.
        unsafe { self.thread.look_at_handler(|mine| mine.observed) }
    }

    fn own_stack(&self) -> OwnStack {
        self.thread.own_stack()
    }

    fn had_rate(&self, tick: RateEpoch) -> bool {
        // SAFETY: this is the thread's own handler.
        let since = unsafe { self.thread.look_at_handler(|mine| mine.rate) };
        self.storm.rate.can_have_been(tick, since)
    }

    /// The lock word named a machine and its operation: the machine must have been in that operation.
    fn lock_was_held_by(&self, owner: Owner, goroutine: u8) -> Judgement {
        let wrong = Judgement::Wrong(ViolationKind::Skip(SkipReason::LockHeld.name()));
        let Some(holder) = self.storm.thread_of_machine(owner.machine) else { return wrong };
        let (machine, operation) = (usize::from(owner.machine), usize::from(owner.operation.code()));
        // SAFETY: this is the thread's own handler.
        let (before, refused) = unsafe {
            self.thread
                .look_at_handler(|mine| (mine.began[machine][operation], mine.refused[machine][operation]))
        };
        if was_in(before, refused, goroutine) {
            return Judgement::Right;
        }
        if is_announced(owner.operation) {
            return wrong;
        }
        if self.thread.machine.is_some_and(|m| m.id == owner.machine) {
            // Interrupted between taking the lock and saying so.
            return Judgement::Unknown;
        }
        // Another thread may be just there.
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if was_in(before, holder.ledger.now(owner.operation), goroutine) {
                return Judgement::Right;
            }
            core::hint::spin_loop();
        }
        wrong
    }
}

impl Storm {
    /// Judges the sample that this thread's handler has just taken, and counts it.
    pub(crate) fn judge(&self, thread: &StormThread, m: &'static M) {
        // SAFETY: this is the machine's own thread, at the end of its handler.
        let sample = unsafe { m.last_sample() };
        let counts = &thread.counts;
        counts.interrupted[usize::from(sample.class.code()) - 1].one();
        match check::sample(&InStorm { storm: self, thread }, sample) {
            Judgement::Unknown => counts.unjudged.one(),
            Judgement::Wrong(kind) => self.fail(thread, kind),
            Judgement::Right => match sample.outcome {
                Outcome::Traceback => counts.tracebacks.one(),
                Outcome::Skipped(skip, _) => counts.skips[usize::from(skip.code()) - 1].one(),
                Outcome::NoGoroutine | Outcome::Failed(_) => counts.alone.one(),
            },
        }
    }

    /// Judges the event that this thread's tracer has just taken, under the lock.
    pub(crate) fn judge_event(&self, thread: &StormThread, m: &M, g: &'static G) {
        // SAFETY: this is the machine's own thread, right after it took the event.
        let event = unsafe { m.trace() }.last();
        let goroutine = thread.goroutine();
        let right = goroutine.and_then(|index| {
            // SAFETY: this thread runs it, and is not in its handler.
            unsafe { self.shadows[index].look(|stack| check::event(stack, g, goroutine, event)) }
        });
        if right != Some(true) {
            self.fail(thread, ViolationKind::Event);
        }
        thread.counts.events.one();
    }

    /// Looks at a goroutine's shadow stack from `thread`, whether that runs the goroutine or not. The goroutine
    /// stands still. None where its thread has long been writing.
    pub(crate) fn look_at<R>(
        &self,
        thread: &StormThread,
        goroutine: usize,
        look: impl Fn(&ShadowStack) -> R,
    ) -> Option<R> {
        let shadow = &self.shadows[goroutine];
        if thread.goroutine() == Some(goroutine) {
            // SAFETY: this thread runs it, and is not in its handler.
            return unsafe { shadow.look(look) };
        }
        let mut looks = 0..1000;
        loop {
            if let Some(seen) = shadow.copy(&look) {
                return Some(seen);
            }
            looks.next()?;
            // SAFETY: `sched_yield` has no preconditions.
            unsafe { libc::sched_yield() };
        }
    }

    /// Whatever can be reached must be there. The world is stopped.
    pub(crate) fn check_live(&self, thread: &StormThread, is_there: fn(&Heap, usize) -> bool) {
        let mut roots = 0;
        for shadow in &self.shadows {
            roots |= self.patiently(thread, || shadow.roots());
        }
        let live = self.patiently(thread, || self.heap.reachable(roots));
        if let Some(index) = check::lost_object(self.core.heap(), live, is_there) {
            self.fail(thread, ViolationKind::LiveObject(index));
        }
    }

    /// Looks until nobody was writing. A writer is never held up by a collector.
    fn patiently<R>(&self, thread: &StormThread, mut look: impl FnMut() -> Option<R>) -> R {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            if self.frozen.load(Ordering::Relaxed) {
                thread.park();
            }
            // SAFETY: `sched_yield` has no preconditions.
            unsafe { libc::sched_yield() };
        }
    }

    /// Reads the buffers and holds every sample against what its handler was seen to take. How many there were;
    /// none where another thread reads them.
    ///
    /// # Errors
    /// The first sample that is another one.
    pub(crate) fn read_samples(&self) -> Result<Option<usize>, ViolationKind> {
        let mut wrong = Ok(());
        let read = self.core.profiler().read(|record| {
            let log = self.thread_of_machine(record.machine).map(|thread| &thread.samples);
            let result =
                log.map_or(Err(ViolationKind::Samples("one is of no machine")), |log| log.read(record));
            if wrong.is_ok() {
                wrong = result;
            }
        });
        wrong.map(|()| read)
    }

    /// After every thread has finished: everything must be back where it belongs, and every signal that arrived
    /// in some account.
    pub(crate) fn check_leaks(&self) -> Option<ViolationKind> {
        if let Err(kind) = self.read_samples() {
            return Some(kind);
        }
        let lives = |index: usize| !self.shadows[index].ended.load(Ordering::SeqCst);
        // SAFETY: every thread is idle, and the stage keeps it so.
        let leak =
            unsafe { check::leak(self.core, lives, self.threads.iter().filter_map(|thread| thread.machine)) };
        leak.or_else(|| self.unbalanced())
    }

    /// The first account of signals that does not balance.
    fn unbalanced(&self) -> Option<ViolationKind> {
        let profiler = self.core.profiler();
        let (mut off, mut no_machine) = (0, 0);
        for thread in &self.threads {
            let c = &thread.counts;
            let accounted = c.kept.get() + c.dropped.get() + c.off.get() + c.foreign.get();
            if c.arrived.get() != accounted {
                return Some(ViolationKind::Leak("not every signal is accounted for", None));
            }
            if c.arrived_sent.get() > thread.sent.load(Ordering::SeqCst) {
                return Some(ViolationKind::Harness("a signal came that nobody has sent"));
            }
            if thread.samples.unread() != 0 {
                return Some(ViolationKind::Leak("a sample is in no buffer and was never read", None));
            }
            if let Some(m) = thread.machine
                && profiler.dropped(m.id) != thread.samples.dropped()
            {
                return Some(ViolationKind::Leak("dropped samples are miscounted", None));
            }
            off += c.off.get();
            no_machine += c.foreign.get();
        }
        // The runtime counts the one from round to round, and the other for ever.
        let all_off = self.off_before.load(Ordering::SeqCst) + profiler.off();
        let miscounted = [
            (all_off != off, "signals while profiling was off are miscounted"),
            (
                profiler::foreign_signals() != no_machine,
                "signals to threads without a machine are miscounted",
            ),
        ];
        miscounted.into_iter().find(|(is, _)| *is).map(|(_, what)| ViolationKind::Leak(what, None))
    }
}
