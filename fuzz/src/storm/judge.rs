//! The oracle of a storm: each sample is judged by the handler that took it.
//!
//! The handler has interrupted the very thread that keeps its goroutine's truth, so that
//! truth stands still while it looks, and only the share of samples that came while it was
//! being written goes without a judgement. What others may do meanwhile is move the stack,
//! which is why the walk's place and the stack's top were noted under the lock.

use core::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sigstorm_runtime::gc::heap::Heap;
use sigstorm_runtime::profiler::{Outcome, Pseudo, Sample, SkipReason};
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::runtime::Phase;
use sigstorm_runtime::stack::lock::Owner;

use sigstorm_runtime::{G, M};

use super::ledger::{is_announced, was_in};
use super::seat::{Below, Seat};
use super::state::{Storm, Trouble};
use crate::executor::matches;
use crate::executor::truth::{Right, Seen, Truth};

/// So long another thread may take from the lock to saying so.
const PATIENCE: Duration = Duration::from_millis(50);

/// What a judgement comes to.
enum Judged {
    Right,
    /// The truth was being written.
    Unknown,
    Wrong(Trouble),
}

impl Storm {
    /// Judges the sample that this thread's handler has just taken.
    pub(crate) fn judge(&self, seat: &Seat, m: &'static M) {
        if !seat.in_handler.load(Ordering::Relaxed) {
            self.fail(seat, Trouble::Skip("the thread has a machine"));
        }
        // SAFETY: this is the machine's own thread, at the end of its handler.
        let sample = unsafe { m.last_sample() };
        let counts = &seat.counts;
        counts.interrupted[usize::from(sample.class.code()) - 1].one();
        let (judged, count) = match sample.outcome {
            Outcome::Traceback => (self.traceback(seat, sample), &counts.tracebacks),
            Outcome::Failed(_) => (Judged::Wrong(Trouble::Traceback), &counts.unjudged),
            Outcome::NoGoroutine => (self.alone(seat, m, sample), &counts.alone),
            Outcome::Skipped(skip, owner) => {
                (self.skip(seat, m, sample, skip, owner), &counts.skips[usize::from(skip.code()) - 1])
            }
        };
        match judged {
            Judged::Right => count.one(),
            Judged::Unknown => counts.unjudged.one(),
            Judged::Wrong(trouble) => self.fail(seat, trouble),
        }
    }

    /// Looks at the truth of the goroutine that the sample is of.
    fn hold(
        &self,
        seat: &Seat,
        sample: &Sample,
        wrong: Trouble,
        right: fn(&Truth, &Seat, &Sample) -> bool,
    ) -> Judged {
        let index = usize::from(sample.goroutine).wrapping_sub(1);
        if seat.goroutine() != Some(index) {
            let known = !seat.taking.load(Ordering::Relaxed);
            return if known { Judged::Wrong(wrong) } else { Judged::Unknown };
        }
        let Some(cell) = self.truths.get(index) else { return Judged::Wrong(wrong) };
        // SAFETY: this is the handler of the thread that runs it.
        match unsafe { cell.look(|truth| right(truth, seat, sample)) } {
            None => Judged::Unknown,
            Some(true) => Judged::Right,
            Some(false) => Judged::Wrong(wrong),
        }
    }

    fn traceback(&self, seat: &Seat, sample: &Sample) -> Judged {
        self.hold(seat, sample, Trouble::Traceback, |truth, seat, sample| {
            // SAFETY: this is the thread's own handler.
            let Some(seen) = unsafe { seat.handler() }.seen else { return false };
            let pseudo = match (seen.on_stack, seat.below()) {
                (true, _) => sample.pseudo == Pseudo::None,
                (false, Below::Runtime) => sample.pseudo == Pseudo::System,
                (false, Below::Foreign) => sample.pseudo == Pseudo::External,
                (false, Below::Either) => matches!(sample.pseudo, Pseudo::System | Pseudo::External),
            };
            pseudo && matches(truth, &truth.right(seen), sample.frames(), seen.top)
        })
    }

    /// Judges the event that this thread's tracer has just taken, under the lock.
    pub(crate) fn judge_event(&self, seat: &Seat, m: &M, g: &'static G) {
        // SAFETY: this is the machine's own thread, right after it took the event.
        let event = unsafe { m.trace() }.last();
        let ours = seat.goroutine().filter(|&index| index + 1 == usize::from(event.goroutine));
        let right = ours.and_then(|index| {
            let seen = saved(g);
            // SAFETY: this thread runs it, and is not in its handler.
            unsafe {
                self.truths[index].look(|truth| matches(truth, &truth.right(seen), event.frames(), seen.top))
            }
        });
        if right != Some(true) {
            self.fail(seat, Trouble::Event);
        }
        seat.counts.events.one();
    }

    fn alone(&self, seat: &Seat, m: &M, sample: &Sample) -> Judged {
        let collects = m.id == self.core.collector();
        if seat.goroutine().is_some() && !seat.leaving.load(Ordering::Relaxed) {
            return Judged::Wrong(Trouble::Skip("the thread runs a goroutine"));
        }
        match sample.pseudo {
            Pseudo::None => Judged::Wrong(Trouble::Skip("the pseudo-frame is wrong")),
            Pseudo::Gc if !collects => Judged::Wrong(Trouble::Skip("the pseudo-frame is wrong")),
            _ => Judged::Right,
        }
    }

    fn skip(&self, seat: &Seat, m: &M, sample: &Sample, skip: SkipReason, owner: Option<Owner>) -> Judged {
        let wrong = Judged::Wrong(Trouble::Skip(skip.name()));
        match skip {
            SkipReason::LockHeld => owner.map_or(wrong, |owner| self.lock_held(seat, m, sample, owner)),
            SkipReason::ForeignThread => wrong,
            SkipReason::ProfilerOff => {
                // SAFETY: this is the thread's own handler.
                let before = unsafe { seat.handler() }.rate;
                let after = self.rate.load(Ordering::Acquire);
                let off = before != after || after & BUSY != 0 || after & HERTZ == 0;
                if off { Judged::Right } else { wrong }
            }
            SkipReason::UnknownCode => {
                self.hold(seat, sample, Trouble::Skip(skip.name()), |truth, seat, _| {
                    // SAFETY: this is the thread's own handler.
                    let seen = unsafe { seat.handler() }.seen;
                    seen.is_some_and(|seen| matches!(truth.right(seen), Right::UnknownCode))
                })
            }
        }
    }

    /// The lock word named a machine and what it does: it must have been at that.
    fn lock_held(&self, seat: &Seat, m: &M, sample: &Sample, owner: Owner) -> Judged {
        let wrong = Judged::Wrong(Trouble::Skip(SkipReason::LockHeld.name()));
        let Some(holder) = self.seat_of_machine(owner.machine) else { return wrong };
        // SAFETY: this is the thread's own handler.
        let mine = unsafe { seat.handler() };
        let (machine, operation) = (usize::from(owner.machine), usize::from(owner.operation.code()));
        let before = mine.began[machine][operation];
        if was_in(before, mine.refused[machine][operation], sample.goroutine) {
            return Judged::Right;
        }
        if is_announced(owner.operation) {
            return wrong;
        }
        if owner.machine == m.id {
            // Interrupted between taking the lock and saying so.
            return Judged::Unknown;
        }
        // Another thread may be just there.
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if was_in(before, holder.ledger.now(owner.operation), sample.goroutine) {
                return Judged::Right;
            }
            core::hint::spin_loop();
        }
        wrong
    }

    /// Whatever can be reached must be there. The world is stopped.
    pub(crate) fn check_live(&self, seat: &Seat, is_there: fn(&Heap, usize) -> bool) {
        let mut roots = 0;
        for cell in &self.truths {
            roots |= self.patiently(seat, || cell.roots());
        }
        let live = self.patiently(seat, || self.heap.reachable(roots));
        for index in (0..u64::BITS as usize).filter(|index| live & 1 << index != 0) {
            if !is_there(self.core.heap(), index) {
                self.fail(seat, Trouble::LiveObject(index));
            }
        }
    }

    /// Looks until nobody was writing. Who writes is never held up by the collector.
    fn patiently<R>(&self, seat: &Seat, mut look: impl FnMut() -> Option<R>) -> R {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            if self.frozen.load(Ordering::Relaxed) {
                seat.park();
            }
            // SAFETY: `sched_yield` has no preconditions.
            unsafe { libc::sched_yield() };
        }
    }

    /// After everybody has finished: everything must be back where it belongs.
    pub(crate) fn check_leaks(&self) -> Option<Trouble> {
        for (index, g) in self.core.goroutines().iter().enumerate() {
            let leak = |what| Some(Trouble::Leak(what, Some(index)));
            if g.lock.owner().is_some() {
                return leak("its stack lock is held");
            }
            if !g.barriers.is_empty() {
                return leak("it has barriers left");
            }
            if !matches!(g.status.get(), status::IDLE | status::DEAD) {
                return leak("it is neither idle nor dead");
            }
            if !self.truths[index].ended.load(Ordering::SeqCst) {
                return leak("it should be alive");
            }
        }
        for m in self.seats.iter().filter_map(|seat| seat.machine) {
            if !m.holds_no_lock() {
                return Some(Trouble::Leak("a machine counts a lock", None));
            }
            if m.current().is_some() {
                return Some(Trouble::Leak("a machine has a goroutine", None));
            }
            if m.foreign_calls() != 0 || m.in_foreign_code() {
                return Some(Trouble::Leak("a machine is in a foreign call", None));
            }
        }
        (self.core.phase() != Phase::Off).then_some(Trouble::Leak("the collector is not off", None))
    }
}

/// In the harness's word for the rate: it is being changed.
pub(crate) const BUSY: u64 = 1 << 31;
/// In the harness's word for the rate: hertz.
pub(crate) const HERTZ: u64 = BUSY - 1;

/// Where a goroutine is saved.
pub(crate) fn saved(g: &G) -> Seen {
    Seen {
        pc: 0,
        sp: 0,
        on_stack: false,
        in_kernel: false,
        top: g.stack.top.get(),
        saved_sp: g.sched.sp.get(),
        saved_pc: g.sched.pc.get(),
    }
}
