//! The profiling signal's handler.
//!
//! ## What it can find
//!
//! The handler may interrupt its thread anywhere. Four things can be half-way: the
//! machine's goroutine, SP, PC, and the stack itself.
//!
//! * No machine: a thread that the runtime did not start. Nothing is touched.
//! * A machine and no goroutine: the sample is the runtime's own or the collector's.
//! * A goroutine, SP on its stack: it runs; PC and SP belong together, except in the last
//!   instructions of the switch onto it, which the walk knows.
//! * A goroutine, SP elsewhere: the thread works for it on its own stack. The part of the
//!   sample below is a pseudo-frame; the goroutine's part starts at its saved state.
//!
//! A goroutine's machine changes outside of any switch, so these cases cannot be told
//! wrong: the machine's goroutine is set before it is switched to and cleared after it
//! was left.
//!
//! ## The rule
//!
//! Whatever of it lies on the goroutine's stack is walked only with that goroutine's stack
//! lock, which is tried once. Whoever holds it may be the very code that was interrupted:
//! to wait would be to wait for oneself.
//!
//! To recap: a traceback is complete and right, or there is none and the sample says why.

use core::sync::atomic::{AtomicU64, Ordering};
use std::io;

use crate::g::G;
use crate::lock::{self, Operation, Owner};
use crate::m::M;
use crate::table::{CodeClass, Table};
use crate::traceback::{Start, Unwinder, WalkError, saved};

/// Frames of a sample.
pub const MAX_FRAMES: usize = 64;

crate::named_codes! {
    /// Why a sample has no traceback.
    pub enum Skip {
        /// Somebody holds the goroutine's stack lock.
        LockHeld = 1, "lock-held";
        /// The thread has no machine.
        ForeignThread = 2, "foreign-thread";
        /// The profiling rate is zero.
        ProfilerOff = 3, "profiler-off";
        /// The goroutine is in code that is in no table.
        UnknownCode = 4, "unknown-code";
    }
}

crate::named_codes! {
    /// What a sample's innermost part is, where it is not a frame.
    pub enum Pseudo {
        /// Nothing: the goroutine itself was interrupted.
        None = 0, "none";
        /// The runtime, on the thread's own stack.
        System = 1, "system";
        /// The collector.
        Gc = 2, "gc";
        /// Code in no table.
        External = 3, "external";
    }
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete traceback, or its first [`MAX_FRAMES`] frames.
    Traceback,
    /// No goroutine was there to be walked.
    Alone,
    /// None, for this reason; the holder where the lock was held.
    Skipped(Skip, Option<Owner>),
    /// The walk was begun and failed: never right.
    Failed(WalkError),
}

/// A frame of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleFrame {
    /// Program counter.
    pub pc: usize,
    /// SP at that PC.
    pub sp: usize,
}

/// One sample.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What became of the signal.
    pub outcome: Outcome,
    /// The innermost part, where it is not a frame.
    pub pseudo: Pseudo,
    /// The interrupted PC.
    pub pc: usize,
    /// The interrupted SP.
    pub sp: usize,
    /// What kind of code was interrupted.
    pub class: CodeClass,
    /// Number of the goroutine; zero if there was none.
    pub goroutine: u8,
    /// How many of `frames` count.
    pub len: usize,
    /// The frames, innermost first.
    pub frames: [SampleFrame; MAX_FRAMES],
}

impl Sample {
    /// Before there is one.
    pub const NONE: Sample = Sample {
        outcome: Outcome::Alone,
        pseudo: Pseudo::None,
        pc: 0,
        sp: 0,
        class: CodeClass::Runtime,
        goroutine: 0,
        len: 0,
        frames: [SampleFrame { pc: 0, sp: 0 }; MAX_FRAMES],
    };

    /// The frames that count.
    pub fn frames(&self) -> &[SampleFrame] {
        &self.frames[..self.len]
    }
}

static FOREIGN: AtomicU64 = AtomicU64::new(0);

/// How many signals came to threads without a machine.
pub fn foreign_signals() -> u64 {
    FOREIGN.load(Ordering::Relaxed)
}

/// What kind of code `pc` is, for a thread whose SP lies on its goroutine's stack or not.
fn classify(pc: usize, on_goroutine: bool) -> CodeClass {
    let row = Table::get().row(pc);
    match (row.is_none(), on_goroutine) {
        (false, _) => row.class(),
        (true, true) => CodeClass::Foreign,
        (true, false) => CodeClass::Runtime,
    }
}

/// Takes a sample of the machine that was interrupted at `pc` with `sp`. Signal-safe.
pub fn sigprof(m: &'static M, pc: usize, sp: usize) {
    let g = m.current();
    // SAFETY: this is the machine's handler, which does not interrupt itself.
    let sample = unsafe { &mut *m.sample.get() };
    let on_goroutine = g.is_some_and(|g| g.stack.contains(sp));
    sample.pc = pc;
    sample.sp = sp;
    sample.len = 0;
    crate::point!(HandlerBegin, g.map_or(core::ptr::null(), core::ptr::from_ref), pc);
    sample.goroutine = g.map_or(0, |g| g.id);
    sample.class = classify(pc, on_goroutine);
    sample.pseudo = match on_goroutine {
        true => Pseudo::None,
        false if m.collecting.load(Ordering::Relaxed) => Pseudo::Gc,
        false => Pseudo::System,
    };
    sample.outcome = if m.core.rate() == 0 {
        Outcome::Skipped(Skip::ProfilerOff, None)
    } else if let Some(g) = g {
        sample_goroutine(m, g, sample)
    } else {
        Outcome::Alone
    };
    crate::point!(HandlerEnd, g.map_or(core::ptr::null(), core::ptr::from_ref), 0);
}

fn sample_goroutine(m: &'static M, g: &'static G, sample: &mut Sample) -> Outcome {
    let locked = if crate::planted!(SigprofSpins, g.lock.owner().is_some_and(|owner| owner.machine == m.id)) {
        Ok(lock::lock(m, g, Operation::Walk))
    } else {
        lock::try_lock(m, g, Operation::Walk)
    };
    crate::point!(HandlerTried, g, usize::from(locked.is_ok()));
    let _guard = match locked {
        Ok(guard) => guard,
        Err(owner) => return Outcome::Skipped(Skip::LockHeld, Some(owner)),
    };
    let outcome = match start(g, sample) {
        Ok(start) => walk(g, start, sample),
        Err(error) => Err(error),
    };
    crate::point!(TracebackDone, g, sample.len);
    match outcome {
        Ok(()) => Outcome::Traceback,
        Err(WalkError::UnknownStart { .. }) => {
            sample.pseudo = Pseudo::External;
            sample.len = 0;
            Outcome::Skipped(Skip::UnknownCode, None)
        }
        Err(error) => Outcome::Failed(error),
    }
}

/// Where the walk starts. The bounds are looked at under the lock.
fn start(g: &'static G, sample: &Sample) -> Result<Start, WalkError> {
    if !g.stack.contains(sample.sp) {
        return saved(g);
    }
    if Table::get().row(sample.pc).is_saved() {
        // Switching onto the goroutine: SP is there, PC is still in the saved state.
        return Ok(Start { pc: g.sched.pc.get(), sp: sample.sp });
    }
    Ok(Start { pc: sample.pc, sp: sample.sp })
}

fn walk(g: &'static G, start: Start, sample: &mut Sample) -> Result<(), WalkError> {
    crate::point!(TracebackBegin, g, g.barriers.pending());
    let mut walk = Unwinder::begin(g, start)?;
    while sample.len < MAX_FRAMES {
        match walk.step()? {
            Some(frame) => {
                sample.frames[sample.len] = SampleFrame { pc: frame.pc, sp: frame.sp };
                sample.len += 1;
            }
            None => break,
        }
    }
    Ok(())
}

/// The SIGPROF handler.
extern "C" fn on_sigprof(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the thread's own errno, kept over the handler.
    let errno = unsafe { *libc::__errno_location() };
    match M::of_thread() {
        None => {
            FOREIGN.fetch_add(1, Ordering::Relaxed);
            crate::point!(HandlerEnd);
        }
        Some(m) => {
            // SAFETY: the kernel passes a ucontext to an SA_SIGINFO handler.
            let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
            sigprof(
                m,
                registers[libc::REG_RIP as usize] as usize,
                registers[libc::REG_RSP as usize] as usize,
            );
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Installs the SIGPROF handler, on the threads' signal stacks.
pub fn install() -> io::Result<()> {
    crate::fault::handle(libc::SIGPROF, on_sigprof)
}

impl M {
    /// Switches profiling on or off. False where it is so already.
    pub fn set_rate(&self, hz: u32) -> bool {
        set_rate(self.core, hz)
    }
}

/// Switches profiling on or off, from any thread. False where it is so already.
pub fn set_rate(core: &'static crate::core::Core, hz: u32) -> bool {
    let changed = core.rate.swap(hz, Ordering::SeqCst) != hz;
    crate::point!(RateChanged, core::ptr::null(), hz as usize);
    changed
}
