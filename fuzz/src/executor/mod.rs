//! The executor: runs schedules on the runtime's real threads, one thread at a time.
//!
//! One [`Harness`] a process: it makes the runtime, starts the threads (two machines that run
//! goroutines, one that collects, one that the runtime does not know), pins them all to one core, and
//! runs schedules one after the other. A violation ends its use: threads may be anywhere then, and
//! the process is to report and end.
//!
//! | file | |
//! |---|---|
//! | [`holding`] | the baton as a value: the right to touch the [`run`] |
//! | [`scheduler`], [`batch`] | whose step is next; the next schedule |
//! | [`hooks`], [`events`] | what the runtime calls back for, and what a run learns from it |
//! | [`operate`], [`foreign`], [`parked_syscall`] | carrying out a step, in foreign code and in the kernel, too |
//! | [`breakpoints`], [`recorder`] | stops at points and instructions; recording every instruction |
//! | [`shadows`], [`stack_locks`], [`sample_accounting`] | the record that the [`oracle`](crate::oracle) judges by |
//! | [`trace`], [`step_effects`], [`feedback`], [`scene`] | what is told of a run |

mod batch;
mod breakpoints;
mod events;
pub mod feedback;
mod foreign;
mod holding;
mod hooks;
mod operate;
mod parked_syscall;
mod recorder;
mod run;
mod sample_accounting;
mod scene;
mod scheduler;
mod shadows;
mod stack_locks;
mod step_effects;
mod thread;
mod trace;

pub(crate) use recorder::number;

use std::io;
use std::time::{Duration, Instant};

use sigstorm_inject::{
    self as inject, CodeFunction, Parking, Region, RegionError, SignalStack, Text, TextError,
};
use sigstorm_runtime::instrument::marked_code::{Extent, extents};
use sigstorm_runtime::sched::runtime::{COLLECTOR, EXTRA_M};
use sigstorm_runtime::{Config, Defect, M, Runtime, marked_code, profiler, unwind::fault};

pub use batch::ScheduleSource;

use crate::oracle::evidence;
use crate::outcome::{Finding, Run as RunReport, Verdict, Visit};
use crate::schedule::Schedule;
use holding::Holding;
use thread::{CONTROLLER, EXT, GC, M1, M2, actor_of};

/// The processor's time after which a run hangs. Not the clock's: a machine with other work may leave a
/// worker waiting for seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// The time by the clock after which a run is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why the harness could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// There is one core and one set of handlers a process.
    #[error("a process has one harness, and this one has it already")]
    Second,
    /// The marked code cannot be decoded.
    #[error("the marked code cannot be decoded: {0}")]
    Region(#[from] RegionError),
    /// The marked code cannot be patched.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A thread, handler or affinity could not be set up.
    #[error("{what}: {source}")]
    System {
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// The marked code of this process, its functions in the order of `FuncId::ALL`.
///
/// # Errors
/// Where it is no code, which is a mistake in a mark.
pub fn region() -> Result<Region, RegionError> {
    let function = |i: &Extent| CodeFunction { name: i.function.name(), start: i.start, end: i.end };
    Region::decode(&extents().iter().map(function).collect::<Vec<_>>())
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> HarnessError {
    move |source| HarnessError::System { what, source }
}

/// The controlled executor of a process.
#[derive(Debug)]
pub struct Harness {
    /// The controller's, which has the baton between runs.
    holding: Holding,
    region: &'static Region,
    handlers_seen: bool,
    _text: Text,
}

static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

impl Harness {
    /// Sets up the process: pins it to the `nth` core it may use, installs handlers, starts the threads. Defects
    /// are planted for good.
    ///
    /// # Errors
    /// Where the process has a harness already, or the system refuses something.
    pub fn new(nth: usize, defects: &[Defect]) -> Result<Harness, HarnessError> {
        if TAKEN.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(HarnessError::Second);
        }
        inject::pin(nth).map_err(system("pinning the process to one core"))?;
        // SAFETY: this process's first one (just checked), and it has started no thread.
        let mut holding = unsafe { Holding::new(CONTROLLER) };
        // The default is in range, so this cannot be refused.
        let core = Runtime::leak(Config::default()).expect("the default configuration is a valid one");
        // Stops are named by the code as it was built. One defect changes two of its instructions, and what is
        // put back after a stop must be what was there.
        let built: &'static Region = Box::leak(Box::new(region()?));
        sigstorm_runtime::plant(defects);
        holding.run().code.set(built, &region()?);
        let (start, end) = marked_code();
        // SAFETY: the program's own text, which is never unmapped.
        let text = unsafe { Text::writable(start, end) }?;
        profiler::install().map_err(system("installing the SIGPROF handler"))?;
        fault::install().map_err(system("installing the fault handlers"))?;
        hooks::install().map_err(system("installing the SIGTRAP handler"))?;
        holding.run().bind(core, M::leak(core, EXTRA_M));
        for (slot, id) in [(M1, Some(0)), (M2, Some(1)), (GC, Some(COLLECTOR)), (EXT, None)] {
            start_thread(slot, id.map(|id| M::leak(core, id)))?;
        }
        Ok(Harness { holding, region: built, handlers_seen: false, _text: text })
    }

    /// Runs a schedule. After a finding this must not be called again.
    pub fn run(&mut self, schedule: &Schedule, trace: bool) -> RunReport {
        if !self.handlers_seen {
            // Engines install theirs without it, and a signal would then be delivered on a goroutine's stack.
            self.handlers_seen = inject::handlers_on_signal_stack().is_ok();
        }
        if self.holding.run().outcome.violation().is_some() {
            return self.result(Some(Finding::harness_error("a schedule after a violation")), trace);
        }
        match self.holding.start(schedule, trace) {
            Err(violation) => self.holding.run().outcome.violated(violation),
            Ok(()) => {
                let (first, order) = self.holding.choose();
                if first != CONTROLLER {
                    let pass = self.holding.run().leave_order(first, order);
                    if !self.holding.hand_over_for(pass, wait_for_the_end) {
                        let finding = Finding::harness_error("a thread keeps the baton: the run hangs");
                        return self.result(Some(finding), trace);
                    }
                }
            }
        }
        let run = self.holding.run();
        let violation = run.outcome.violation().or_else(|| run.amiss_at_the_end());
        if let Some(violation) = violation {
            run.outcome.violated(violation);
        }
        let finding = violation.map(|violation| evidence::finding(run, violation));
        self.result(finding, trace)
    }

    /// Runs what `source` has, one schedule after the other, up to the first finding: that run. Each begins on the
    /// thread on which the last one ended, so that the baton need not come back here in between: all of them
    /// together may take as long as one run, 10 s of the processor's time. After a finding this must not be called
    /// again.
    pub fn run_all(&mut self, source: &mut dyn ScheduleSource) -> Option<RunReport> {
        let first = source.next()?.clone();
        self.holding.run().scheduler.source = Some(batch::erase(source));
        let run = self.run(&first, false);
        self.holding.run().scheduler.source = None;
        run.finding.is_some().then_some(run)
    }

    fn result(&mut self, finding: Option<Finding>, trace: bool) -> RunReport {
        let run = self.holding.run();
        let mut notes = Vec::new();
        if run.trace.dropped() != 0 {
            notes.push(format!("the trace is cut: {} more events", run.trace.dropped()));
        }
        let (steps, passed) = run.scheduler.passed();
        let (inert, unreached) = run.effects.inert_and_unreached(steps, passed);
        RunReport {
            inert,
            unreached,
            counts: run.counts,
            trace_hash: run.trace.hash(),
            events: if trace { run.trace.events() } else { Vec::new() },
            finding,
            injected: run.outcome.injected,
            notes,
        }
    }

    /// Where a thread waits whose goroutine is in a system call: in the kernel, on the goroutine's stack, or,
    /// switched off, on its own. For a caller that steps threads through every instruction: some of those that lead
    /// into the kernel are run without the baton.
    pub fn wait_in_kernel(&mut self, on: bool) {
        self.holding.run().parks = on;
    }

    /// Runs a schedule and tells which instructions of the marked code each step reached.
    pub fn record(&mut self, schedule: &Schedule) -> (RunReport, Vec<Visit>) {
        // A recorded thread waits at its slot, and not in the kernel: there it would run without the baton for some
        // instructions.
        let parks = core::mem::replace(&mut self.holding.run().parks, false);
        self.holding.run().code.start_recording(schedule.steps.len());
        let report = self.run(schedule, false);
        let run = self.holding.run();
        run.parks = parks;
        (report, run.code.stop_recording())
    }

    /// The marked code's instructions, as the code was built.
    pub fn region(&self) -> &'static Region {
        self.region
    }
}

/// Waits until the baton comes back; returns false where it does not.
fn wait_for_the_end(wait: &dyn Fn(Duration) -> bool) -> bool {
    if wait(LIMIT) {
        return true;
    }
    let (used, asked) = (processor_time(), Instant::now());
    // Processor time used up to here does not count: that is the price of asking so late.
    while processor_time().saturating_sub(used) < LIMIT && asked.elapsed() < PATIENCE {
        if wait(Duration::from_secs(1)) {
            return true;
        }
    }
    false
}

/// The processor's time that this process has used.
fn processor_time() -> Duration {
    nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map_or(Duration::MAX, Duration::from)
}

/// Starts a thread of the run, and returns once it waits for its first order.
fn start_thread(slot: usize, machine: Option<&'static M>) -> Result<(), HarnessError> {
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name(actor_of(slot).name().to_owned())
        .spawn(move || {
            // The thread lives as long as the process, and so does its signal stack.
            let stack = SignalStack::install();
            let parking = stack.and_then(|stack| Ok((stack, Parking::new(libc::SIGPROF)?)));
            match parking {
                Ok((_stack, parking)) => {
                    let _ = ready.send(Ok(()));
                    // SAFETY: the controller waits for the baton, which is here until this thread passes it.
                    unsafe { Holding::new(slot) }.serve(machine, Box::leak(Box::new(parking)))
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })
        .map_err(system("starting a thread (a tight `ulimit -u` or `-v`?)"))?;
    started
        .recv()
        .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        .and_then(|result| result)
        .map_err(system("setting up a thread"))?;
    Holding::baton().wait(CONTROLLER);
    Ok(())
}

/// Sends the calling thread of a run a profiling signal, as a step does: for a trap handler that takes the
/// executor's place.
///
/// # Errors
/// Where the caller is no thread of a run.
pub fn signal_here() -> Result<(), NoThread> {
    // SAFETY: as for the executor's own trap handler: traps lie in code that runs while the baton is lent.
    let mut holding = unsafe { Holding::reclaim() }.ok_or(NoThread)?;
    let me = holding.me();
    holding.send_signal(me);
    Ok(())
}

/// The caller is no thread of a run.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("only a thread of a run has a handler to signal")]
pub struct NoThread;

impl RunReport {
    /// The violation's verdict, if there was one.
    pub fn verdict(&self) -> Option<Verdict> {
        self.finding.as_ref().and_then(|f| Verdict::from_name(&f.verdict))
    }
}
