//! From one schedule to the next: how a run begins, what must hold at its end, and how the
//! thread on which one ended begins another.
//!
//! The controller need not take part in what goes well. Its thread is two switches away, which
//! is a tenth of a run's time.

use core::ptr::NonNull;

use sigstorm_runtime::Config;

use super::feedback;
use super::hooks::SEAT;
use super::state::{At, CONTROLLER, M1, SEATS, State, Violation};
use crate::outcome::Counts;
use crate::schedule::{Actor, Op, Schedule, Step};

/// Where schedules come from that run one after the other. Called on any thread of the
/// executor, by one at a time, with no run under way.
pub trait Feed {
    /// The next one; none ends it.
    fn next(&mut self) -> Option<&Schedule>;
    /// The last one has ended without a finding, with these counts.
    fn ended(&mut self, counts: &Counts);
}

/// A feed on loan to whoever holds the baton.
pub(super) type Lent = NonNull<dyn Feed>;

/// Lends a feed. Its lifetime is the lender's to see to.
pub(super) fn lend(feed: &mut dyn Feed) -> Lent {
    // SAFETY: the two types differ in a lifetime alone.
    unsafe { core::mem::transmute::<NonNull<dyn Feed + '_>, Lent>(NonNull::from(feed)) }
}

impl State {
    /// Begins a run: everything as it is before the first step. Every thread waits for the baton, or
    /// for an order, with no goroutine.
    pub(super) fn start(&self, schedule: &Schedule, trace: bool) -> Result<(), Violation> {
        self.begin(&schedule.steps, trace);
        // An engine takes a run without any feature for a program without instrumentation.
        feedback::hit(0);
        // The options that count are steps with an effect.
        let config = options(&schedule.steps);
        let applied = schedule.steps.iter().take_while(|s| s.actor == Actor::World);
        let mut options = 0;
        for step in applied {
            self.counts().kinds[step.op.kind()] += 1;
            options += 1;
        }
        self.counts().steps += options.min(6);
        // What the core does here is nobody's step.
        let seat = SEAT.replace(CONTROLLER);
        // SAFETY: nobody is at work (above).
        let reset = unsafe { self.core().reset(config) };
        SEAT.set(seat);
        reset.map_err(|_| Violation::Harness("the schedule's options are out of range"))?;
        self.accounts().begin(&config, self.core().rate());
        Ok(())
    }

    /// What is wrong at the end of a run that came there.
    pub(super) fn amiss_at_the_end(&self) -> Option<Violation> {
        self.settle().or_else(|| self.check_leaks()).or(self.late.get())
    }

    /// The run has come to its end, on whatever thread: begins the next, where somebody feeds them and
    /// nothing was wrong. Where something was, the controller finds it again.
    pub(super) fn begins_another(&self) -> bool {
        let Some(feed) = self.feed.get() else { return false };
        debug_assert!((M1..SEATS).all(|seat| matches!(self.threads[seat].at.get(), At::Idle)));
        if self.amiss_at_the_end().is_some() {
            return false;
        }
        // SAFETY: its lender waits for the baton, which is here, and touches it no sooner.
        let feed = unsafe { &mut *feed.as_ptr() };
        feed.ended(self.counts());
        let Some(schedule) = feed.next() else { return false };
        // What it passes on first is not this run's hand-over.
        self.begins.set(true);
        match self.start(schedule, false) {
            Ok(()) => true,
            Err(violation) => {
                self.violation.set(Some(violation));
                false
            }
        }
    }
}

/// The options that a schedule begins with.
fn options(steps: &[Step]) -> Config {
    let mut config = Config::default();
    for step in steps.iter().take_while(|s| s.actor == Actor::World) {
        match step.op {
            Op::EveryFrame => config.every_frame = true,
            Op::Stack { bytes } => config.initial_stack = bytes as usize,
            Op::Trace => config.trace = true,
            Op::Unreadable { every } => config.unreadable = usize::from(every),
            Op::Buffer { samples } => config.buffer = usize::from(samples),
            Op::KeepBarriers => config.keep_barriers = true,
            Op::ScanShrinks => config.scan_shrinks = true,
            _ => {}
        }
    }
    config
}
