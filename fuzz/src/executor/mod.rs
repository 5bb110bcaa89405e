//! The executor: joins the core and the injector, runs schedules, keeps the truth.
//!
//! One [`Harness`] a process: it makes the core, starts the threads (two machines that
//! run goroutines, one that collects, one that the runtime does not know), pins them all
//! to one core, and runs schedules one after the other. A violation ends its use: threads
//! may be anywhere then, and the process is to report and end.

mod accounts;
mod collect;
mod conduct;
mod evidence;
mod fates;
pub mod feedback;
mod foreign;
mod hooks;
mod instruction;
mod judge;
mod kernel;
mod perform;
mod relay;
mod state;
mod trace;
pub mod truth;

pub(crate) use instruction::number;

use std::io;
use std::time::{Duration, Instant};

use sigstorm_inject::{
    self as inject, CodeFunction, Parking, Region, RegionError, SignalStack, Text, TextError,
};
use sigstorm_runtime::core::{COLLECTOR, GUEST};
use sigstorm_runtime::protocol::{Extent, extents};
use sigstorm_runtime::{Config, Core, Defect, M, fault, marked_code, profiler};

pub(crate) use evidence::{compare, verdict_of};
pub(crate) use judge::{matches, seen};

pub use accounts::{NoThread, signal_here};
pub use relay::Feed;

use crate::outcome::{Finding, Run, Verdict, Visit};
use crate::schedule::Schedule;
use state::{CONTROLLER, EXT, GC, M1, M2, State, state};

/// A run that takes more of the processor's time than this hangs. Not of the clock's: a
/// machine with other work may leave a worker waiting for seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// A run that takes longer than this by the clock cannot be waited for.
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
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The marked code of this process, its functions in the order of `Function::ALL`.
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
    state: &'static State,
    handlers_seen: bool,
    _text: Text,
}

static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

impl Harness {
    /// Sets up the process: pins it to the `nth` core it may use, installs handlers, starts
    /// the threads. Defects are planted for good.
    ///
    /// # Errors
    /// Where the process has a harness already, or the system refuses something.
    pub fn new(nth: usize, defects: &[Defect]) -> Result<Harness, HarnessError> {
        if TAKEN.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(HarnessError::Second);
        }
        inject::pin(nth).map_err(system("pinning the process to one core"))?;
        let state = state();
        // The default is in range, so this cannot be refused.
        let core = Core::leak(Config::default()).expect("the default configuration is a valid one");
        state.core.set(Some(core));
        // What stops are named by is the code as it was built. One defect changes two of its
        // instructions, and what is put back after a stop must be what was there.
        let built = region()?;
        sigstorm_runtime::defect::plant(defects);
        instruction::prepare(&region()?);
        // SAFETY: no other thread exists yet that looks at the state.
        unsafe { *state.region.get() = Some(built) };
        let (start, end) = marked_code();
        // SAFETY: the program's own text, which is never unmapped.
        let text = unsafe { Text::writable(start, end) }?;
        profiler::install().map_err(system("installing the SIGPROF handler"))?;
        fault::install().map_err(system("installing the fault handlers"))?;
        hooks::install().map_err(system("installing the SIGTRAP handler"))?;
        state.guest.set(Some(M::leak(core, GUEST)));
        for (seat, id) in [(M1, Some(0)), (M2, Some(1)), (GC, Some(COLLECTOR)), (EXT, None)] {
            start_thread(state, seat, id.map(|id| M::leak(core, id)))?;
        }
        Ok(Harness { state, handlers_seen: false, _text: text })
    }

    /// Runs a schedule. After a finding this must not be called again.
    pub fn run(&mut self, schedule: &Schedule, trace: bool) -> Run {
        if !self.handlers_seen {
            // Engines install theirs without it, and a signal would then be delivered on a
            // goroutine's stack.
            self.handlers_seen = inject::handlers_on_signal_stack().is_ok();
        }
        let state = self.state;
        if state.violation.get().is_some() {
            return self.result(Some(harness_error("a schedule after a violation")), trace);
        }
        if let Err(violation) = state.start(schedule, trace) {
            state.violation.set(Some(violation));
            return self.result(Some(evidence::finding(state, violation)), trace);
        }
        let (first, order) = state.choose(CONTROLLER);
        if first != CONTROLLER {
            state.threads[first].order.set(Some(order));
            state.baton.pass(first);
            if !wait_for_the_end(state) {
                return self.result(Some(harness_error("a thread keeps the baton: the run hangs")), trace);
            }
        }
        let violation = state.violation.get().or_else(|| state.amiss_at_the_end());
        if let Some(violation) = violation {
            state.violation.set(Some(violation));
        }
        self.result(violation.map(|violation| evidence::finding(state, violation)), trace)
    }

    /// Runs what `feed` has, one schedule after the other, up to the first finding: that run. Each
    /// begins on the thread on which the last one ended, so that the baton need not come back here in
    /// between: all of them together may take as long as one run, 10 s of the processor's time. After a
    /// finding this must not be called again.
    pub fn run_all(&mut self, feed: &mut dyn Feed) -> Option<Run> {
        let first = feed.next()?.clone();
        self.state.feed.set(Some(relay::lend(feed)));
        let run = self.run(&first, false);
        self.state.feed.set(None);
        run.finding.is_some().then_some(run)
    }

    fn result(&self, finding: Option<Finding>, trace: bool) -> Run {
        let state = self.state;
        let mut notes = Vec::new();
        if state.trace().dropped() != 0 {
            notes.push(format!("the trace is cut: {} more events", state.trace().dropped()));
        }
        let (inert, unreached) = state.inert_and_unreached();
        Run {
            inert,
            unreached,
            counts: *state.counts(),
            trace_hash: state.trace().hash(),
            events: if trace { state.trace().events() } else { Vec::new() },
            finding,
            injected: state.injected.get(),
            notes,
        }
    }

    /// Where a thread waits whose goroutine is in a system call: in the kernel, on the
    /// goroutine's stack, or, switched off, on its own. For who steps threads through every
    /// instruction: some of those that lead into the kernel are run without the baton.
    pub fn wait_in_kernel(&mut self, on: bool) {
        self.state.parks.set(on);
    }

    /// Runs a schedule and tells which instructions of the marked code each step came to.
    pub fn record(&mut self, schedule: &Schedule) -> (Run, Vec<Visit>) {
        self.state.start_recording(schedule.steps.len());
        let run = self.run(schedule, false);
        (run, self.state.stop_recording())
    }

    /// The marked code's instructions.
    pub fn region(&self) -> Option<&Region> {
        self.state.region()
    }
}

/// Waits until the baton comes back; false where it does not.
fn wait_for_the_end(state: &State) -> bool {
    if state.baton.wait_timeout(CONTROLLER, LIMIT) {
        return true;
    }
    let (used, asked) = (processor_time(), Instant::now());
    // What was used up to here does not count: that is the price of asking so late.
    while processor_time().saturating_sub(used) < LIMIT && asked.elapsed() < PATIENCE {
        if state.baton.wait_timeout(CONTROLLER, Duration::from_secs(1)) {
            return true;
        }
    }
    false
}

/// The processor's time that this process has used.
fn processor_time() -> Duration {
    nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map_or(Duration::MAX, Duration::from)
}

fn harness_error(what: &str) -> Finding {
    Finding {
        verdict: Verdict::HarnessError.name().to_owned(),
        summary: what.to_owned(),
        evidence: Vec::new(),
        dump: Vec::new(),
        step: 0,
    }
}

fn start_thread(state: &'static State, seat: usize, machine: Option<&'static M>) -> Result<(), HarnessError> {
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name(state::actor_of(seat).name().to_owned())
        .spawn(move || {
            // The thread lives as long as the process, and so does its signal stack.
            let stack = SignalStack::install();
            let parking = stack.and_then(|stack| Ok((stack, Parking::new(libc::SIGPROF)?)));
            match parking {
                Ok((_stack, parking)) => {
                    state.threads[seat].parking.set(Some(Box::leak(Box::new(parking))));
                    let _ = ready.send(Ok(()));
                    state.serve(seat, machine);
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
    state.baton.wait(CONTROLLER);
    Ok(())
}

impl Run {
    /// The violation's verdict, if there was one.
    pub fn verdict(&self) -> Option<Verdict> {
        self.finding.as_ref().and_then(|f| Verdict::from_name(&f.verdict))
    }
}
