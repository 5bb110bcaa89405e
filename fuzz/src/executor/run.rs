//! The state shared by the threads of a controlled run: each part owns its data, and a method takes the parts
//! that it touches.

use sigstorm_runtime::sched::runtime::GOROUTINES;
use sigstorm_runtime::{G, M, Runtime};

use super::recorder::Code;
use super::sample_accounting::SampleAccounting;
use super::scheduler::Scheduler;
use super::shadows::Shadows;
use super::stack_locks::StackLocks;
use super::step_effects::StepEffects;
use super::thread::{GC, THREADS, Thread, actor_of};
use super::trace::{Place, Record, Trace, What as Event};
use crate::oracle::{Violation, ViolationKind};
use crate::outcome::{Counts, Injected};
use crate::schedule::Step;

/// How a run ends, and what else it is to report.
#[derive(Debug)]
pub(crate) struct Outcome {
    violation: Option<Violation>,
    /// A violation that is reported at the end, where nothing else is.
    late: Option<ViolationKind>,
    pub(super) injected: Injected,
}

impl Outcome {
    /// Notes a violation, if it is the first.
    pub(super) fn violated(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// Notes a violation to be reported at the end.
    pub(super) fn violated_late(&mut self, kind: ViolationKind) {
        self.late.get_or_insert(kind);
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation
    }

    pub(super) fn late(&self) -> Option<ViolationKind> {
        self.late
    }
}

/// The last event on a goroutine, for the feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastEvent {
    pub(super) thread: u8,
    pub(super) point: u8,
}

const NO_EVENT: LastEvent = LastEvent { thread: 0, point: 0 };

/// The shared state of a process's controlled runs, one after the other.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) scheduler: Scheduler,
    pub(crate) threads: [Thread; THREADS],
    pub(crate) shadows: Shadows,
    pub(crate) locks: StackLocks,
    pub(crate) accounting: SampleAccounting,
    pub(crate) code: Code,
    pub(crate) trace: Trace,
    pub(crate) effects: StepEffects,
    pub(crate) counts: Counts,
    pub(crate) outcome: Outcome,
    pub(super) last: [LastEvent; GOROUTINES],
    /// How often in a row a thread has waited for what was so already.
    pub(super) vain_waits: u32,
    /// Whether threads wait in the kernel while their goroutine is in a system call.
    pub(super) parks: bool,
    runtime: Option<&'static Runtime>,
    /// The machine that the thread from outside can become.
    pub(super) extra_m: Option<&'static M>,
}

impl Run {
    pub(super) const fn new() -> Self {
        Run {
            scheduler: Scheduler::new(),
            threads: [const { Thread::new() }; THREADS],
            shadows: Shadows::new(),
            locks: StackLocks::new(),
            accounting: SampleAccounting::new(),
            code: Code::new(),
            trace: Trace::new(),
            effects: StepEffects::new(),
            counts: Counts::from_words([0; Counts::WORDS]),
            outcome: Outcome { violation: None, late: None, injected: Injected::NONE },
            last: [NO_EVENT; GOROUTINES],
            vain_waits: 0,
            parks: true,
            runtime: None,
            extra_m: None,
        }
    }

    /// The run is of this runtime.
    pub(super) fn bind(&mut self, runtime: &'static Runtime, extra_m: &'static M) {
        (self.runtime, self.extra_m) = (Some(runtime), Some(extra_m));
    }

    /// The runtime.
    #[inline(always)]
    pub(crate) fn runtime(&self) -> &'static Runtime {
        self.runtime.expect("the runtime is made before any thread is started")
    }

    /// Starts over with these steps.
    pub(super) fn reset(&mut self, steps: &[Step], trace: bool) {
        for thread in 0..THREADS {
            self.clear_breakpoint(thread);
            self.threads[thread].reset();
        }
        self.scheduler.reset(steps);
        self.shadows.reset();
        self.locks.reset();
        self.last = [NO_EVENT; GOROUTINES];
        self.vain_waits = 0;
        self.outcome.late = None;
        self.outcome.injected = Injected::NONE;
        self.counts.begin();
        self.trace.begin(trace);
        self.effects.begin(trace);
    }

    /// Notes an event for the trace, if there is one.
    #[inline(always)]
    pub(super) fn note(&mut self, me: usize, what: Event, g: Option<&'static G>) {
        if self.trace.on {
            self.note_traced(me, what, g);
        }
    }

    fn note_traced(&mut self, me: usize, what: Event, g: Option<&'static G>) {
        let thread = &self.threads[me];
        let seen = thread.machine.filter(|_| thread.handler.active).map(|m| {
            // SAFETY: this thread is in its own handler.
            let sample = unsafe { m.last_sample() };
            (sample.pc, sample.sp)
        });
        let place_of = |g: &'static G| match seen {
            Some((pc, sp)) if what.is_of_interrupted() => (Place::of(pc), sp),
            _ => (Place::of(g.sched.pc.get()).filter(|_| g.sched.sp.get() != 0), g.sched.sp.get()),
        };
        let (place, sp) = g.map_or((None, 0), place_of);
        let below = g.filter(|g| g.stack.contains(sp)).map(|g| (g.stack.top.get() - sp) as u32);
        self.trace.push(Record {
            step: self.scheduler.step(),
            actor: actor_of(me),
            what,
            goroutine: g.map_or(0, |g| g.id),
            place,
            below,
            lock: g.and_then(|g| g.lock.owner()),
            position: g.map_or(0, |g| g.barriers.position() as u16),
            barriers: g.map_or(0, |g| g.barriers.len() as u16),
        });
    }

    /// Takes back the count of the thread's step where that turned out to do nothing.
    pub(super) fn had_effect(&mut self, did: bool, step: u32) {
        if !did && !self.scheduler.is_draining() {
            self.counts.steps -= 1;
            self.effects.had_none(step);
        }
    }

    // -- breakpoints ----------------------------------------------------------------------

    /// Plans the stop that comes with an order, without a breakpoint in the code.
    pub(super) fn plan_stop(&mut self, me: usize, stop: Option<crate::schedule::Stop>) {
        use crate::schedule::Stop;
        let address = match stop {
            Some(Stop::Instr { function, index, check, .. }) => self.code.resolve(function, index, check),
            _ => None,
        };
        let step = self.scheduler.step();
        self.threads[me].breakpoints.plan(step, stop, address);
    }

    /// Plans the stop that comes with an order, and arms it. The one before goes; it may be in the code, unreached.
    pub(super) fn set_breakpoint(&mut self, me: usize, stop: Option<crate::schedule::Stop>) {
        self.clear_breakpoint(me);
        self.plan_stop(me, stop);
        self.arm_breakpoint(me);
    }

    /// Arms the planned breakpoint of a thread that is about to run.
    pub(super) fn arm_breakpoint(&mut self, me: usize) {
        if !self.code.is_recording() {
            self.threads[me].breakpoints.arm();
        }
    }

    /// Forgets the thread's stop, reached or not.
    pub(super) fn clear_breakpoint(&mut self, me: usize) {
        self.threads[me].breakpoints.clear(self.code.ladder());
    }

    /// A signal is on its way to the thread, or its handler begins.
    pub(super) fn enter_handler(&mut self, me: usize) {
        self.threads[me].breakpoints.enter_handler(self.code.ladder());
    }

    /// The calling thread's handler is over.
    pub(super) fn end_handler(&mut self, me: usize) {
        let ladder = self.code.ladder();
        self.threads[me].breakpoints.end_handler(ladder);
        if !self.code.is_recording() {
            self.threads[me].breakpoints.resume(ladder);
        }
    }

    /// Takes the thread's breakpoints out of the code, since others are to run.
    pub(super) fn suspend_breakpoints(&mut self, me: usize) {
        let breakpoints = &mut self.threads[me].breakpoints;
        match self.code.ladder() {
            Some(ladder) if self.code.is_recording() => breakpoints.suspend_recorded(ladder),
            ladder => breakpoints.suspend(ladder),
        }
    }

    /// Puts them back, since the thread runs again.
    pub(super) fn resume_breakpoints(&mut self, me: usize) {
        let breakpoints = &mut self.threads[me].breakpoints;
        match self.code.ladder() {
            Some(ladder) if self.code.is_recording() => breakpoints.resume_recorded(ladder),
            ladder => breakpoints.resume(ladder),
        }
    }

    /// The thread resumes from its stop.
    pub(super) fn goes_on(&mut self, me: usize) {
        if let Some(pc) = self.threads[me].breakpoints.goes_on() {
            self.locks.goes_on(me, pc);
        }
    }

    /// Notes that other threads run while this one is held at an instruction.
    pub(super) fn note_handed(&mut self, me: usize) {
        let thread = &self.threads[me];
        let is_held = thread.breakpoints.stopped_at().next().is_some();
        if is_held && matches!(thread.state, super::thread::ThreadState::Stopped) {
            self.outcome.injected.handed += 1;
        }
    }

    /// The slot of a machine's thread.
    pub(super) fn slot_of_machine(machine: u8) -> usize {
        usize::from(machine) + super::thread::M1
    }
}

const _: () = assert!(GC == super::thread::M1 + sigstorm_runtime::sched::runtime::COLLECTOR as usize);
