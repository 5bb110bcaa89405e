//! The runtime's callbacks in a storm: no thread is held, but every thread is watched, and delayed
//! now and then.
//!
//! All of it runs on whatever thread came there, in its handler or not, with others at work. Nothing
//! here allocates or locks.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::io;
use std::time::{Duration, Instant};

use sigstorm_runtime::instrument::hooks::Hooks;
use sigstorm_runtime::profiler::SkipReason;
use sigstorm_runtime::sched::g::status;
use sigstorm_runtime::sched::wait::Wait;
use sigstorm_runtime::stack::lock::Operation;
use sigstorm_runtime::unwind::throw::Throw;
use sigstorm_runtime::{CodeClass, G, M, Phase, Point};

use super::ledger::begun_at;
use super::state::{Storm, storm};
use super::thread::{NONE, StormThread, rest};
use crate::oracle::check::OwnStack;
use crate::oracle::index;
use crate::oracle::lockstep::{WRONG_END, bulk_moved};
use crate::oracle::sample_log::Filed;
use crate::oracle::{Observed, ShadowStack, ViolationKind, check};

static HOOKS: Hooks = Hooks { point: on_point, wait: on_wait, throw: on_throw };

/// The runtime's own SIGPROF handler.
static HANDLER: AtomicUsize = AtomicUsize::new(0);

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs the hooks for the whole process, and a handler in front of the runtime's, which counts what
/// arrives.
///
/// # Errors
/// Where the system refuses the handler.
pub(crate) fn install() -> io::Result<()> {
    sigstorm_runtime::instrument::hooks::install(&HOOKS);
    // SAFETY: a zeroed record is a valid one to read into; both records outlive the calls. The new handler does
    // what the old one does, with the same flags and mask.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(libc::SIGPROF, core::ptr::null(), &mut action) != 0 {
            return Err(io::Error::last_os_error());
        }
        HANDLER.store(action.sa_sigaction, Ordering::SeqCst);
        action.sa_sigaction = on_sigprof as Handler as usize;
        match libc::sigaction(libc::SIGPROF, &action, core::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Counts a signal before the runtime sees it: the runtime must account for each.
extern "C" fn on_sigprof(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if let Some(thread) = StormThread::mine() {
        thread.counts.arrived.one();
        // SAFETY: the kernel passes a siginfo to an SA_SIGINFO handler.
        if unsafe { (*info).si_code } == libc::SI_TKILL {
            thread.counts.arrived_sent.one();
        }
    }
    // SAFETY: stored before this was installed: the runtime's handler, which has this type.
    let handler: Handler = unsafe { core::mem::transmute(HANDLER.load(Ordering::Relaxed)) };
    handler(signal, info, context);
}

// -- scheduling points --------------------------------------------------------------------

fn on_point(point: Point, g: *const G, detail: usize) {
    let (Some(storm), Some(thread)) = (storm(), StormThread::mine()) else { return };
    if storm.frozen.load(Ordering::Relaxed) {
        thread.park();
    }
    // SAFETY: null, or a goroutine of the runtime, which lives as long as the process.
    let g = unsafe { g.as_ref() };
    #[cfg(debug_assertions)]
    if !crate::tamper::tells(point, g, detail) {
        return;
    }
    thread.point.store(point.code(), Ordering::Relaxed);
    if thread.in_handler.load(Ordering::Relaxed) || point == Point::HandlerBegin {
        in_handler(storm, thread, point, g, detail);
    } else if let Some(m) = thread.machine {
        in_body(storm, thread, m, point, g, detail);
    } else if point == Point::HandlerEnd {
        // The handler must have left the thread alone, and did.
        thread.counts.signals.one();
        thread.counts.foreign.one();
        thread.counts.skips[usize::from(SkipReason::ForeignThread.code()) - 1].one();
        thread.counts.interrupted[usize::from(CodeClass::Runtime.code()) - 1].one();
    }
    storm.delay(thread);
    if point == Point::HandlerEnd {
        thread.in_handler.store(false, Ordering::Relaxed);
    }
}

/// Learns from a thread's own work.
fn in_body(
    storm: &Storm,
    thread: &StormThread,
    m: &'static M,
    point: Point,
    g: Option<&'static G>,
    detail: usize,
) {
    thread.ledger.settle();
    if let Some(operation) = begun_at(point, storm.core.phase()) {
        thread.ledger.enter(operation, g.map_or(0, |g| g.id));
    }
    match (point, g) {
        (Point::HandlerEnd, _) => {
            // The handler took this thread for one without a machine.
            storm.fail(thread, ViolationKind::Skip("the thread has a machine"));
        }
        (Point::LockAcquired, Some(g)) => {
            thread.ledger.acquired(Operation::from_code(detail as u8).unwrap_or(Operation::Walk), g.id);
        }
        (Point::LockRelease, _) => thread.ledger.releasing(),
        // Between these two it removes barriers from whichever stack has some.
        // And it collects, for certain.
        (Point::WorldStopped, _) => {
            thread.ledger.stops_world(true);
            thread.runs_on_own_stack(OwnStack::Collector);
        }
        (Point::StartWorld, _) => {
            thread.ledger.stops_world(false);
            thread.runs_on_own_stack(OwnStack::MaybeCollector);
        }
        (Point::PhaseChanged, _) => phase_changed(storm, thread, detail),
        (Point::InstallSlot, _) => thread.counts.barriers.one(),
        (Point::TraceEvent, Some(g)) => storm.judge_event(thread, m, g),
        (
            Point::CopyBegin
            | Point::CopyAdjusted
            | Point::CopyPoisoned
            | Point::ScanDone
            | Point::ScanAsked
            | Point::PreemptAsked,
            Some(g),
        ) => of_any_goroutine(storm, thread, point, g),
        (_, Some(g)) => of_own_goroutine(storm, thread, point, g, detail),
        _ => {}
    }
}

/// The collector's phase has changed. Two of the changes happen with the world stopped.
fn phase_changed(storm: &Storm, thread: &StormThread, phase: usize) {
    let Some(phase) = Phase::from_code(phase as u8) else { return };
    storm.cycle.changes_phase(phase);
    match phase {
        Phase::Mark => storm.check_live(thread, |heap, index| heap.is_allocated(index)),
        // Everybody is scanned now, with the world stopped: requests to do so are void.
        Phase::Termination => storm.shadows.iter().for_each(|shadow| shadow.requests.scan.honoured()),
        Phase::Sweep => storm.check_live(thread, |heap, index| heap.is_marked(index)),
        Phase::Off => {}
    }
}

/// Learns of a goroutine that stands still, which may be another thread's or nobody's.
fn of_any_goroutine(storm: &Storm, thread: &StormThread, point: Point, g: &'static G) {
    let goroutine = index(g);
    let shadow = &storm.shadows[goroutine];
    match point {
        Point::CopyBegin => shadow.moves(true),
        Point::CopyPoisoned => {
            shadow.moves(false);
            thread.counts.copies.one();
        }
        Point::CopyAdjusted => {
            let (heap, top) = (storm.core.heap(), g.stack.top.get());
            // SAFETY: a word of the stack that this thread has just filled, and that nobody else moves.
            let read = |address: usize| unsafe { (address as *const usize).read_volatile() };
            let hold = |stack: &ShadowStack| stack.slots_hold(|at| heap.index(at), top, true, read);
            let lives = !shadow.ended.load(Ordering::Acquire);
            if lives && storm.look_at(thread, goroutine, hold) == Some(false) {
                storm.fail(thread, ViolationKind::Memory("a slot does not hold what was written there"));
            }
        }
        Point::ScanDone if storm.core.phase() == Phase::Mark => {
            storm.cycle.scanned(goroutine);
            let lives = !shadow.ended.load(Ordering::Acquire);
            let lacks = |stack: &ShadowStack| check::lacks_barriers(storm.core, stack, g);
            if lives && storm.look_at(thread, goroutine, lacks) == Some(true) {
                let what = "a scan has laid no barrier, and one was due";
                storm.fail(thread, ViolationKind::Leak(what, Some(goroutine)));
            }
        }
        Point::ScanAsked | Point::PreemptAsked => {
            let [named, scan, yields] = &thread.requesting;
            if named.load(Ordering::Relaxed) as usize == goroutine {
                match point {
                    Point::ScanAsked => shadow.requests.scan.made(scan.load(Ordering::Relaxed)),
                    _ => shadow.requests.yields.made(yields.load(Ordering::Relaxed)),
                }
            }
        }
        _ => {}
    }
}

/// Learns of the goroutine that the thread runs, or is about to.
fn of_own_goroutine(storm: &Storm, thread: &StormThread, point: Point, g: &'static G, detail: usize) {
    let goroutine = index(g);
    let shadow = &storm.shadows[goroutine];
    if point == Point::Taken {
        if shadow.ended.load(Ordering::Relaxed) {
            // SAFETY: this thread has just taken it.
            unsafe { shadow.change(ShadowStack::start) };
            shadow.requests.withdraw();
            storm.cycle.changes_life(goroutine);
            shadow.ended.store(false, Ordering::Release);
            thread.counts.started.one();
        }
        thread.owned.store(goroutine, Ordering::Relaxed);
        return;
    }
    // The collector says so of goroutines that it has scanned, and owns none.
    if thread.goroutine() != Some(goroutine) {
        return;
    }
    match point {
        Point::StatusChanged => {
            let status = detail as u32;
            let leaves = matches!(status, status::DEAD | status::RUNNABLE);
            // This thread still has it: another can no more than mark it, or wait for it.
            let ended = g.status.get() & !status::SCAN == status::DEAD;
            if leaves && storm.look_at(thread, goroutine, ShadowStack::must_end) == Some(!ended) {
                storm.fail(thread, WRONG_END);
            }
            if status == status::DEAD {
                shadow.ended.store(true, Ordering::Release);
                shadow.requests.withdraw();
                storm.cycle.changes_life(goroutine);
            }
            if leaves {
                thread.leaving.store(true, Ordering::Relaxed);
            }
        }
        Point::Parked => thread.leaving.store(true, Ordering::Relaxed),
        Point::GReleased => {
            // Another thread may have it already; in a foreign call nobody can.
            if thread.locked_to_goroutine.load(Ordering::Relaxed) {
                storm.fail(
                    thread,
                    ViolationKind::Memory("a goroutine leaves its thread with foreign frames under it"),
                );
            }
            thread.owned.store(NONE, Ordering::Relaxed);
            thread.leaving.store(false, Ordering::Relaxed);
        }
        Point::ScanSelf => shadow.requests.scan.honoured(),
        Point::PreemptYields => shadow.requests.yields.honoured(),
        Point::RecoverSwitched => {
            let body = thread.recovers_to.load(Ordering::Relaxed);
            // SAFETY: this thread runs it.
            unsafe { shadow.change(|stack| stack.recovered(body)) };
            thread.counts.recoveries.one();
        }
        // SAFETY: this thread runs it.
        Point::SetPcBegin => unsafe { shadow.change(ShadowStack::replaces_pc) },
        // SAFETY: as above.
        Point::SetPcDone => unsafe { shadow.change(ShadowStack::replaced_pc) },
        Point::BulkDone => {
            // SAFETY: this thread runs it, and has the right to write to memory that others can reach: it holds it
            // over every operation on memory.
            unsafe { shadow.change(|stack| storm.heap.change(|heap| bulk_moved(stack, heap, detail))) };
        }
        _ => {}
    }
}

/// Learns from a thread's handler.
fn in_handler(storm: &Storm, thread: &StormThread, point: Point, g: Option<&'static G>, detail: usize) {
    let Some(m) = thread.machine else {
        storm.fail(thread, ViolationKind::Samples("one is of a thread that has no machine"));
    };
    match (point, g) {
        (Point::HandlerBegin, g) => {
            thread.in_handler.store(true, Ordering::Relaxed);
            thread.pc.store(detail, Ordering::Relaxed);
            thread.counts.signals.one();
            // SAFETY: this is the thread's handler.
            unsafe {
                thread.keeps(|mine| {
                    mine.observed = None;
                    mine.rate = storm.rate.confirmed();
                    if g.is_some() {
                        for (thread, words) in storm.threads.iter().zip(&mut mine.began) {
                            thread.ledger.note(words);
                        }
                        for (refused, began) in mine.refused.iter_mut().zip(&mine.began) {
                            *refused = *began;
                        }
                    }
                });
            }
            if let Some(g) = g {
                thread.ledger.enter(Operation::Walk, g.id);
            }
        }
        (Point::HandlerTried, Some(_)) if detail == 0 => {
            // SAFETY: as above.
            unsafe {
                thread.keeps(|mine| {
                    for (thread, words) in storm.threads.iter().zip(&mut mine.refused) {
                        thread.ledger.note(words);
                    }
                });
            }
        }
        // Under the lock: from here on another thread may move the stack.
        (Point::TracebackDone, Some(g)) => {
            // SAFETY: this is the machine's own handler.
            let observed = Observed::by_sample(g, unsafe { m.last_sample() }, false);
            // SAFETY: as above.
            unsafe { thread.keeps(|mine| mine.observed = Some(observed)) };
        }
        (Point::SampleTaken | Point::SampleWritten, _) => follow(storm, thread, m, point, detail),
        (Point::HandlerEnd, _) => {
            thread.ledger.leave(Operation::Walk);
            storm.judge(thread, m);
            follow(storm, thread, m, point, detail);
        }
        _ => {}
    }
}

/// Follows the handler's sample to the buffer.
fn follow(storm: &Storm, thread: &StormThread, m: &'static M, point: Point, detail: usize) {
    // SAFETY: this is the machine's own thread, in its handler.
    let sample = unsafe { m.last_sample() };
    match thread.samples.follow(point, detail, sample, true) {
        Ok(Filed::Pending) => {}
        Ok(Filed::Kept) => thread.counts.kept.one(),
        Ok(Filed::Dropped) => thread.counts.dropped.one(),
        Ok(Filed::Off) => thread.counts.off.one(),
        Err(kind) => storm.fail(thread, kind),
    }
}

impl Storm {
    /// Now and then a thread is late, so that windows are wide.
    #[inline]
    fn delay(&self, thread: &StormThread) {
        if self.delay_below == 0 {
            return;
        }
        let random = thread.random();
        if random & 0xffff_ffff >= self.delay_below {
            return;
        }
        let counts = &thread.counts;
        match thread.in_handler.load(Ordering::Relaxed) {
            true => counts.delays_in_handler.one(),
            false => counts.delays.one(),
        }
        let length = Duration::from_nanos((random >> 32) % (self.delay_ns + 1));
        if random >> 62 == 0 {
            // SAFETY: `sched_yield` has no preconditions.
            unsafe { libc::sched_yield() };
        } else if length >= Duration::from_micros(60) {
            // Somebody else has the processor meanwhile.
            rest(length);
        } else {
            let begun = Instant::now();
            while begun.elapsed() < length {
                core::hint::spin_loop();
            }
        }
    }
}

// -- waits and throws ---------------------------------------------------------------------

/// How often a thread looks before it goes back to try again.
const LOOKS: u32 = 64;

fn on_wait(wait: &Wait) {
    let (Some(storm), Some(thread)) = (storm(), StormThread::mine()) else {
        // SAFETY: `sched_yield` has no preconditions.
        unsafe { libc::sched_yield() };
        return;
    };
    let holder = match wait {
        Wait::StackLock(g) => g.lock.owner().map(|owner| owner.machine),
        Wait::RateLock(rate) => rate.holder(),
        _ => None,
    };
    if let (Some(holder), Some(m)) = (holder, thread.machine)
        && holder == m.id
    {
        // Only this thread could give it back, and it is here.
        thread.wait.store(core::ptr::from_ref(wait).cast_mut(), Ordering::SeqCst);
        storm.fail(thread, ViolationKind::SelfDeadlock);
    }
    // A handler may wait in turn.
    let outer = thread.wait.swap(core::ptr::from_ref(wait).cast_mut(), Ordering::SeqCst);
    for look in 0..LOOKS {
        if wait.over() {
            break;
        }
        if storm.frozen.load(Ordering::Relaxed) {
            thread.park();
        }
        thread.looks.store(thread.looks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        match look {
            0..8 => core::hint::spin_loop(),
            // SAFETY: `sched_yield` has no preconditions.
            8..56 => drop(unsafe { libc::sched_yield() }),
            _ => rest(Duration::from_micros(20)),
        }
    }
    thread.wait.store(outer, Ordering::SeqCst);
}

fn on_throw(throw: &Throw) -> ! {
    match (storm(), StormThread::mine()) {
        (Some(storm), Some(thread)) => storm.fail(thread, ViolationKind::Throw(*throw)),
        (Some(storm), None) => {
            storm.note(None, ViolationKind::Throw(*throw));
            loop {
                rest(Duration::from_secs(1));
            }
        }
        // Nobody is there to hear it.
        _ => std::process::abort(),
    }
}
