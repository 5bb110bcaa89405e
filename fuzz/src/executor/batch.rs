//! From one schedule to the next: how a run begins, what must hold at its end, and how the thread on
//! which one ended begins another.
//!
//! The controller need not take part in what goes well. Its thread is two switches away, which is a
//! tenth of a run's time.

use core::ptr::NonNull;

use sigstorm_runtime::Config;

use super::feedback;
use super::holding::Holding;
use super::run::Run;
use super::thread::{M1, ThreadState};
use crate::oracle::{Violation, ViolationKind, check};
use crate::outcome::Counts;
use crate::schedule::{Actor, Op, Schedule, Step};

/// Where schedules come from that run one after the other. Called on any thread of the executor, by one
/// at a time, with no run under way.
pub trait ScheduleSource {
    /// The next schedule; none ends the batch.
    fn next(&mut self) -> Option<&Schedule>;
    /// The last schedule has ended without a finding, with these counts.
    fn ended(&mut self, counts: &Counts);
}

/// A source on loan to whichever thread holds the baton.
pub(super) type ErasedSource = NonNull<dyn ScheduleSource>;

/// Lends a source. Its lifetime is the lender's to see to.
pub(super) fn erase(source: &mut dyn ScheduleSource) -> ErasedSource {
    // SAFETY: the two types differ in a lifetime alone.
    unsafe { core::mem::transmute::<NonNull<dyn ScheduleSource + '_>, ErasedSource>(NonNull::from(source)) }
}

impl Holding {
    /// Begins a run: everything as it is before the first step. Every thread waits for the baton, or for an
    /// order, with no goroutine.
    ///
    /// # Errors
    /// Where the schedule cannot begin.
    pub(super) fn start(&mut self, schedule: &Schedule, trace: bool) -> Result<(), Violation> {
        let run = self.run();
        run.reset(&schedule.steps, trace);
        // An engine takes a run without any feature for a program without instrumentation.
        feedback::hit(0);
        // The options that count are steps with an effect.
        let config = options(&schedule.steps);
        let applied = schedule.steps.iter().take_while(|s| s.actor == Actor::World);
        let mut options = 0;
        for step in applied {
            run.counts.kinds[step.op.kind()] += 1;
            options += 1;
        }
        run.counts.steps += options.min(6);
        let runtime = run.runtime();
        // SAFETY: nobody is at work (above). The runtime reports what it does here, and it is no step of a thread.
        let reset = self.as_controller(|| unsafe { runtime.reset(config) });
        if reset.is_err() {
            return Err(ViolationKind::Harness("the schedule's options are out of range").at_the_end());
        }
        self.run().accounting.begin(&config, runtime.rate());
        Ok(())
    }

    /// The run is over, on whichever thread ended it: begins the next one, if there is one and nothing was wrong. If
    /// something was, the controller finds it again.
    pub(super) fn begins_another(&mut self) -> bool {
        let run = self.run();
        let Some(source) = run.scheduler.source else { return false };
        debug_assert!(run.threads[M1..].iter().all(|thread| matches!(thread.state, ThreadState::Idle)));
        if run.amiss_at_the_end().is_some() {
            return false;
        }
        // SAFETY: its lender waits for the baton, which is here, and touches it no sooner.
        let source = unsafe { &mut *source.as_ptr() };
        source.ended(&run.counts);
        let Some(schedule) = source.next() else { return false };
        // The first pass of the baton is not this run's hand-over.
        run.scheduler.begins = true;
        match self.start(schedule, false) {
            Ok(()) => true,
            Err(violation) => {
                self.run().outcome.violated(violation);
                false
            }
        }
    }
}

impl Run {
    /// The violation at the end of a run, if there is one.
    pub(super) fn amiss_at_the_end(&self) -> Option<Violation> {
        let runtime = self.runtime();
        let unsettled = self.accounting.settle(runtime, &self.threads, &self.counts).err();
        let kind = unsettled.or_else(|| self.leak()).or_else(|| self.outcome.late())?;
        Some(kind.at_the_end())
    }

    /// The first thing that is not back where it belongs.
    fn leak(&self) -> Option<ViolationKind> {
        let lives = |goroutine: usize| self.shadows.stacks[goroutine].lives();
        let machines = self.threads.iter().filter_map(|thread| thread.machine);
        if self.threads[super::thread::EXT].machine.is_some() {
            return Some(ViolationKind::Leak("a thread from outside is still a machine's", None));
        }
        // SAFETY: every thread is idle, and the caller holds the baton.
        unsafe { check::leak(self.runtime(), lives, machines) }
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
