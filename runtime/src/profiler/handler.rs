//! The SIGPROF handler: takes a sample of whatever it has interrupted. The head of [`super`]
//! enumerates what that can be.

use core::cell::{Cell, UnsafeCell};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};
use std::io;

use super::machines::Profiler;
use super::sample::{MAX_FRAMES, Outcome, Pseudo, Sample, SampleDisposition, SampleFrame, SkipReason};
use crate::sched::g::G;
use crate::sched::m::M;
use crate::stack::lock;
use crate::stack::lock_word::Operation;
use crate::unwind::rows::{CodeClass, Table};
use crate::unwind::signals::install_handler;
use crate::unwind::traceback::{Start, Unwinder, failed, saved, wrong};
use crate::unwind::walk_error::WalkError;

thread_local! {
    /// Whether this thread is in its profiling handler.
    static HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the calling thread is in its profiling handler. Signal-safe.
pub(crate) fn is_handling() -> bool {
    HANDLING.get()
}

/// Number of signals that came to threads without a machine.
pub(crate) static FOREIGN: AtomicU64 = AtomicU64::new(0);

/// Returns how many signals came to threads without a machine.
pub fn foreign_signals() -> u64 {
    FOREIGN.load(Ordering::Relaxed)
}

impl Profiler {
    /// Files a sample of machine `m`. Signal-safe.
    fn account(&self, m: &'static M, sample: &Sample) -> SampleDisposition {
        if let Outcome::Skipped(SkipReason::ProfilerOff, _) = sample.outcome {
            self.off.fetch_add(1, Ordering::SeqCst);
            return SampleDisposition::Off;
        }
        // SAFETY: this is the machine's handler, on its own thread.
        match unsafe { self.machines[usize::from(m.id)].ring.put(m.id, sample) } {
            true => SampleDisposition::Kept,
            false => SampleDisposition::Dropped,
        }
    }
}

/// Returns the class of the code at `pc`, for a thread whose SP lies on its goroutine's stack or not.
/// Code in no table that runs on the thread's own stack is foreign or the runtime's; only the thread
/// knows which.
#[inline(always)]
fn classify(m: &M, pc: usize, on_goroutine: bool) -> CodeClass {
    let row = Table::get().row(pc);
    match (row.is_none(), on_goroutine || m.in_foreign_code()) {
        (false, _) => row.class(),
        (true, true) => CodeClass::Foreign,
        (true, false) => CodeClass::Runtime,
    }
}

/// A machine's sample while its handler makes it. Between two accesses a hook may look at the sample,
/// or change it, so no reference to it lasts longer than one access.
#[derive(Clone, Copy)]
pub(crate) struct Draft(&'static UnsafeCell<Sample>);

impl Draft {
    /// Begins the sample of `m`.
    ///
    /// # Safety
    /// The caller is `m`'s handler, and uses the draft no longer than that runs.
    #[inline(always)]
    unsafe fn begin(m: &'static M) -> Draft {
        Draft(&m.sample)
    }
}

impl Deref for Draft {
    type Target = Sample;

    #[inline(always)]
    fn deref(&self) -> &Sample {
        // SAFETY: the machine's handler holds the draft (`begin`), and writes while it holds no reference.
        unsafe { &*self.0.get() }
    }
}

impl DerefMut for Draft {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Sample {
        // SAFETY: the machine's handler holds the draft (`begin`), and has no other reference meanwhile.
        unsafe { &mut *self.0.get() }
    }
}

/// Takes a sample of the machine that was interrupted at `pc` with `sp`. Signal-safe.
///
/// # Safety
/// The caller is `m`'s profiling handler, on `m`'s own thread, and has interrupted no other one there.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub unsafe fn sigprof(m: &'static M, pc: usize, sp: usize) {
    let g = m.current();
    // SAFETY: this is the machine's handler (caller), and the draft does not leave it.
    let mut sample = unsafe { Draft::begin(m) };
    let on_goroutine = g.is_some_and(|g| g.stack.contains(sp));
    sample.pc = pc;
    sample.sp = sp;
    sample.len = 0;
    let named = g.map_or(core::ptr::null(), core::ptr::from_ref);
    crate::point!(HandlerBegin, named, pc);
    sample.rate = m.runtime.profiler().rate.epoch(m);
    sample.goroutine = g.map_or(0, |g| g.id);
    sample.class = classify(m, pc, on_goroutine);
    sample.pseudo = match on_goroutine {
        true => Pseudo::None,
        false if m.in_foreign_code() => Pseudo::External,
        false if m.collecting.load(Ordering::Relaxed) => Pseudo::Gc,
        false => Pseudo::System,
    };
    sample.outcome = if sample.rate.hz == 0 {
        Outcome::Skipped(SkipReason::ProfilerOff, None)
    } else if let Some(g) = g {
        sample_goroutine(m, g, sample)
    } else {
        Outcome::NoGoroutine
    };
    crate::point!(SampleTaken, named);
    let fate = m.runtime.profiler().account(m, &sample);
    crate::point!(HandlerEnd, named, fate as usize);
}

/// Tries the goroutine's stack lock and walks under it. Signal-safe.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn sample_goroutine(m: &'static M, g: &'static G, sample: Draft) -> Outcome {
    let foreign = m.in_foreign_code();
    if foreign && crate::planted!(LockFollowsWrongG) {
        let _section = crate::unlocked!(LockFollowsWrongG, g);
        crate::point!(HandlerTried, g, 1);
        return take(g, foreign, sample);
    }
    let locked =
        match crate::planted!(SigprofSpins, g.lock.owner().is_some_and(|owner| owner.machine == m.id)) {
            true => Ok(lock::lock(m, g, Operation::Walk)),
            false => lock::try_lock(m, g, Operation::Walk),
        };
    crate::point!(HandlerTried, g, usize::from(locked.is_ok()));
    match locked {
        Ok(_guard) => take(g, foreign, sample),
        Err(_) if foreign && crate::planted!(CgoTracebackUnlocked, true) => take(g, foreign, sample),
        Err(owner) => Outcome::Skipped(SkipReason::LockHeld, Some(owner)),
    }
}

/// Walks the goroutine's stack, under its lock unless a defect is planted. Signal-safe.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn take(g: &'static G, foreign: bool, sample: Draft) -> Outcome {
    let outcome = match start(g, sample) {
        Ok(start) => walk(g, start, sample),
        Err(error) => Err(error),
    };
    crate::point!(TracebackDone, g, sample.len);
    match outcome {
        Ok(()) if foreign && crate::planted!(CgoSampleDiscarded, true) => external(sample),
        Ok(()) => Outcome::Traceback,
        Err(WalkError::UnknownStart { .. }) => external(sample),
        Err(error) => {
            wrong();
            Outcome::Failed(error)
        }
    }
}

/// The outcome where the walk would start in code that is in no table.
fn external(mut sample: Draft) -> Outcome {
    sample.pseudo = Pseudo::External;
    sample.len = 0;
    Outcome::Skipped(SkipReason::UnknownCode, None)
}

/// Returns the place where the walk starts. It reads the bounds, under the lock.
///
/// # Errors
/// If nothing is saved.
#[inline(always)]
fn start(g: &'static G, sample: Draft) -> Result<Start, WalkError> {
    if !g.stack.contains(sample.sp) {
        return saved(g);
    }
    let arrives = Table::get().row_of_any(sample.pc).is_saved();
    if !crate::planted!(SwitchWindowWalked, arrives) && arrives {
        // In the switch onto the goroutine: SP is there, PC is still in the saved state.
        return Ok(Start { pc: g.sched.pc.get(), sp: sample.sp });
    }
    Ok(Start { pc: sample.pc, sp: sample.sp })
}

/// Walks from `start` and records the frames. Signal-safe.
///
/// # Errors
/// As of [`Unwinder`].
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn walk(g: &'static G, start: Start, mut sample: Draft) -> Result<(), WalkError> {
    crate::point!(TracebackBegin, g, g.barriers.pending());
    let mut walk = match Unwinder::begin(g, start) {
        Ok(walk) => walk,
        Err(error @ WalkError::UnknownStart { .. }) => return Err(error),
        Err(error) => return failed(error),
    };
    while sample.len < MAX_FRAMES {
        match walk.step() {
            Ok(Some(frame)) => {
                let len = sample.len;
                sample.frames[len] = SampleFrame { pc: frame.pc, sp: frame.sp };
                sample.len += 1;
            }
            Ok(None) => break,
            Err(error) => return failed(error),
        }
    }
    Ok(())
}

/// The SIGPROF handler, as the kernel calls it.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) extern "C" fn on_sigprof(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the thread's own errno, preserved over the handler.
    let errno = unsafe { *libc::__errno_location() };
    HANDLING.set(true);
    let m = M::address_of_thread();
    if !crate::planted!(ForeignThreadSignal, m.is_null()) && m.is_null() {
        FOREIGN.fetch_add(1, Ordering::Relaxed);
        crate::point!(HandlerEnd);
    } else {
        // SAFETY: the kernel passes a ucontext to an SA_SIGINFO handler.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        // SAFETY: not null, so it is the machine that this thread is.
        let m = unsafe { M::at(m) };
        let [pc, sp] = [libc::REG_RIP, libc::REG_RSP].map(|register| registers[register as usize] as usize);
        // SAFETY: this is that machine's handler; its signal is blocked while it runs.
        unsafe { sigprof(m, pc, sp) };
    }
    HANDLING.set(false);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Installs the SIGPROF handler, which runs on the threads' signal stacks.
///
/// # Errors
/// If the kernel refuses it.
pub fn install() -> io::Result<()> {
    install_handler(libc::SIGPROF, on_sigprof).map(|_| ())
}
