//! The profiler: timers that interrupt, the signal's handler, and buffers that are read.
//!
//! Each machine has a timer of its own ([`timer`]), which runs at a rate that anybody may
//! change while signals fly ([`rate`]). The handler, which is the rest of this file, takes a
//! sample and leaves it in its machine's buffer, which needs no lock to be written and is
//! read by another thread ([`buffer`]).
//!
//! ## What the handler can find
//!
//! The handler may interrupt its thread anywhere. Four things can be half-way: the
//! machine's goroutine, SP, PC, and the stack itself.
//!
//! * No machine: a thread that the runtime did not start, or one that is not yet, or no
//!   longer, a machine's. Nothing is touched but a count.
//! * A machine and no goroutine: the sample is the runtime's own or the collector's.
//! * A goroutine, SP on its stack: it runs; PC and SP belong together, except in the last
//!   instructions of the switch onto it, which the walk knows.
//! * A goroutine, SP elsewhere: the thread works for it on its own stack, or runs foreign
//!   code for it. The part of the sample below is a pseudo-frame; the goroutine's part starts
//!   at its saved state, or at its transition point.
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
//!
//! ## What becomes of a signal
//!
//! It is counted once, and only once: as a sample in the buffer, with or without a traceback;
//! as dropped, where the buffer is full; as off, where the rate is zero by the time it comes;
//! or as foreign, where the thread has no machine.

pub mod buffer;
pub mod rate;
pub mod timer;

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::io;

use crate::g::G;
use crate::lock::{self, Operation, Owner};
use crate::m::M;
use crate::table::{CodeClass, Table};
use crate::throw::{Reason, throw};
use crate::traceback::{Start, Unwinder, WalkError, failed, saved, wrong};
use buffer::{Record, Ring};
use rate::{Rate, Tick};
use timer::{Clock, Timer};

pub use rate::set_rate;

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
        /// Code in no table: on the goroutine's stack, or foreign code on the thread's own.
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
    /// What it is worth.
    pub tick: Tick,
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
        tick: Tick { hz: 0, period: 0 },
        pc: 0,
        sp: 0,
        class: CodeClass::Runtime,
        goroutine: 0,
        len: 0,
        frames: [SampleFrame { pc: 0, sp: 0 }; MAX_FRAMES],
    };

    /// The frames that count.
    #[inline]
    pub fn frames(&self) -> &[SampleFrame] {
        &self.frames[..self.len]
    }

    /// Copies another, and of its frames those that count.
    pub(crate) fn copy_from(&mut self, other: &Sample) {
        let Sample { outcome, pseudo, tick, pc, sp, class, goroutine, len, ref frames } = *other;
        self.frames[..len].copy_from_slice(&frames[..len]);
        (self.outcome, self.pseudo, self.tick, self.pc, self.sp) = (outcome, pseudo, tick, pc, sp);
        (self.class, self.goroutine, self.len) = (class, goroutine, len);
    }
}

/// What the handler made of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fate {
    /// Nothing: profiling was off.
    Off = 0,
    /// It is in the buffer.
    Kept = 1,
    /// The buffer was full.
    Dropped = 2,
}

/// The profiler's part of a core.
#[derive(Debug)]
pub struct Profiler {
    pub(crate) rate: Rate,
    machines: Box<[PerMachine]>,
    /// True while somebody reads the buffers.
    reading: AtomicBool,
    /// Signals that came while the rate was zero.
    off: AtomicU64,
    /// What the machines' timers count; none where they are only believed in.
    clock: Option<Clock>,
}

#[derive(Debug)]
struct PerMachine {
    timer: Timer,
    ring: Ring,
}

impl Profiler {
    pub(crate) fn new(clock: Option<Clock>, machines: usize) -> Self {
        Profiler {
            rate: Rate::new(),
            machines: (0..machines).map(|_| PerMachine { timer: Timer::new(), ring: Ring::new() }).collect(),
            reading: AtomicBool::new(false),
            off: AtomicU64::new(0),
            clock,
        }
    }

    /// Starts over with buffers of so many records: the rate is the first one, and the timer of
    /// each machine that has a thread is armed at it. No handler and no reader is at work.
    pub(crate) fn reset(&self, buffer: usize) {
        self.rate.reset();
        self.reading.store(false, Ordering::SeqCst);
        self.off.store(0, Ordering::SeqCst);
        for PerMachine { timer, ring } in self.machines.iter() {
            ring.reset(buffer);
            if timer.is_bound() {
                timer.set(self.rate.hz());
            }
        }
    }

    /// Takes every sample out of the buffers and gives each to `each`: a machine's oldest first.
    /// How many there were; nothing where somebody else is reading them.
    pub fn read(&self, mut each: impl FnMut(&Record)) -> Option<usize> {
        if self.reading.swap(true, Ordering::Acquire) {
            return None;
        }
        let mut check = |record: &Record| {
            if !record.is_intact() {
                throw(None, Reason::SampleTorn { machine: record.machine, sequence: record.sequence });
            }
            each(record);
        };
        // SAFETY: `reading` was false and is true now, so this is the one consumer.
        let count = self.machines.iter().map(|m| unsafe { m.ring.drain(&mut check) }).sum();
        self.reading.store(false, Ordering::Release);
        Some(count)
    }

    /// True while somebody reads the buffers.
    #[inline]
    pub fn is_being_read(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }

    /// How many samples of a machine were dropped because its buffer was full.
    #[inline]
    pub fn dropped(&self, machine: u8) -> u64 {
        self.machines[usize::from(machine)].ring.dropped()
    }

    /// How many signals came to a machine while the rate was zero.
    #[inline]
    pub fn off(&self) -> u64 {
        self.off.load(Ordering::SeqCst)
    }

    /// Changes the oldest sample of a machine that nobody has read, to see whether an oracle
    /// notices; with `hidden` the checksum fits.
    ///
    /// # Safety
    /// Neither the machine's handler nor a reader is at work.
    pub unsafe fn corrupt(&self, machine: u8, hidden: bool) {
        // SAFETY: as for this function (caller).
        unsafe { self.machines[usize::from(machine)].ring.corrupt(hidden) }
    }

    /// True while somebody holds the rate's lock.
    pub(crate) fn rate_is_locked(&self) -> bool {
        self.rate.is_locked()
    }

    /// The machine that holds the rate's lock, if one does.
    #[inline]
    pub fn rate_holder(&self) -> Option<u8> {
        self.rate.holder()
    }

    /// Files a sample. Signal-safe.
    fn account(&self, m: &'static M, sample: &Sample) -> Fate {
        if let Outcome::Skipped(Skip::ProfilerOff, _) = sample.outcome {
            self.off.fetch_add(1, Ordering::SeqCst);
            return Fate::Off;
        }
        // SAFETY: this is the machine's handler, on its own thread.
        match unsafe { self.machines[usize::from(m.id)].ring.put(m.id, sample) } {
            true => Fate::Kept,
            false => Fate::Dropped,
        }
    }
}

impl M {
    pub(crate) fn timer(&self) -> &'static Timer {
        &self.core.profiler().machines[usize::from(self.id)].timer
    }

    /// The rate at which this machine's timer is armed, as the core sees it; zero where it is
    /// disarmed. Signal-safe.
    #[inline]
    pub fn profile_hz(&self) -> u32 {
        self.timer().hz()
    }

    /// Gives this machine a timer for the calling thread, which has just become its own.
    pub(crate) fn start_timer(&'static self) -> io::Result<()> {
        self.timer().create(self.core.profiler().clock)?;
        self.follow_rate();
        Ok(())
    }

    /// Takes the timer away again, before the calling thread ceases to be this machine's.
    pub(crate) fn stop_timer(&'static self) {
        self.timer().set(0);
        crate::point!(TimerDisarmed);
        self.timer().delete();
    }
}

thread_local! {
    /// True while this thread is in its profiling handler.
    static HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// True while the calling thread is in its profiling handler. Signal-safe.
pub(crate) fn is_handling() -> bool {
    HANDLING.get()
}

static FOREIGN: AtomicU64 = AtomicU64::new(0);

/// How many signals came to threads without a machine.
pub fn foreign_signals() -> u64 {
    FOREIGN.load(Ordering::Relaxed)
}

/// What kind of code `pc` is, for a thread whose SP lies on its goroutine's stack or not. Of
/// code on the thread's own stack only the thread knows whose it is: the runtime's, or foreign.
#[inline(always)]
fn classify(m: &M, pc: usize, on_goroutine: bool) -> CodeClass {
    let row = Table::get().row(pc);
    match (row.is_none(), on_goroutine || m.in_foreign_code()) {
        (false, _) => row.class(),
        (true, true) => CodeClass::Foreign,
        (true, false) => CodeClass::Runtime,
    }
}

/// Takes a sample of the machine that was interrupted at `pc` with `sp`. Signal-safe.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub fn sigprof(m: &'static M, pc: usize, sp: usize) {
    let g = m.current();
    // SAFETY: this is the machine's handler, which does not interrupt itself.
    let sample = unsafe { &mut *m.sample.get() };
    let on_goroutine = g.is_some_and(|g| g.stack.contains(sp));
    sample.pc = pc;
    sample.sp = sp;
    sample.len = 0;
    let named = g.map_or(core::ptr::null(), core::ptr::from_ref);
    crate::point!(HandlerBegin, named, pc);
    sample.tick = m.core.profiler().rate.tick(m);
    sample.goroutine = g.map_or(0, |g| g.id);
    sample.class = classify(m, pc, on_goroutine);
    sample.pseudo = match on_goroutine {
        true => Pseudo::None,
        false if m.in_foreign_code() => Pseudo::External,
        false if m.collecting.load(Ordering::Relaxed) => Pseudo::Gc,
        false => Pseudo::System,
    };
    sample.outcome = if sample.tick.hz == 0 {
        Outcome::Skipped(Skip::ProfilerOff, None)
    } else if let Some(g) = g {
        sample_goroutine(m, g, sample)
    } else {
        Outcome::Alone
    };
    crate::point!(SampleTaken, named);
    let fate = m.core.profiler().account(m, sample);
    crate::point!(HandlerEnd, named, fate as usize);
}

#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn sample_goroutine(m: &'static M, g: &'static G, sample: &mut Sample) -> Outcome {
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
        Err(owner) => Outcome::Skipped(Skip::LockHeld, Some(owner)),
    }
}

/// Walks the goroutine's stack: under its lock, but where a defect is planted.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn take(g: &'static G, foreign: bool, sample: &mut Sample) -> Outcome {
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

/// Nothing but code that nobody knows.
fn external(sample: &mut Sample) -> Outcome {
    sample.pseudo = Pseudo::External;
    sample.len = 0;
    Outcome::Skipped(Skip::UnknownCode, None)
}

/// Where the walk starts. The bounds are looked at under the lock.
#[inline(always)]
fn start(g: &'static G, sample: &Sample) -> Result<Start, WalkError> {
    if !g.stack.contains(sample.sp) {
        return saved(g);
    }
    let arrives = Table::get().row_of_any(sample.pc).is_saved();
    if !crate::planted!(SwitchWindowWalked, arrives) && arrives {
        // Switching onto the goroutine: SP is there, PC is still in the saved state.
        return Ok(Start { pc: g.sched.pc.get(), sp: sample.sp });
    }
    Ok(Start { pc: sample.pc, sp: sample.sp })
}

#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) fn walk(g: &'static G, start: Start, sample: &mut Sample) -> Result<(), WalkError> {
    crate::point!(TracebackBegin, g, g.barriers.pending());
    let mut walk = match Unwinder::begin(g, start) {
        Ok(walk) => walk,
        Err(error @ WalkError::UnknownStart { .. }) => return Err(error),
        Err(error) => return failed(error),
    };
    while sample.len < MAX_FRAMES {
        match walk.step() {
            Ok(Some(frame)) => {
                sample.frames[sample.len] = SampleFrame { pc: frame.pc, sp: frame.sp };
                sample.len += 1;
            }
            Ok(None) => break,
            Err(error) => return failed(error),
        }
    }
    Ok(())
}

/// The SIGPROF handler.
#[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
pub(crate) extern "C" fn on_sigprof(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the thread's own errno, kept over the handler.
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
        sigprof(m, registers[libc::REG_RIP as usize] as usize, registers[libc::REG_RSP as usize] as usize);
    }
    HANDLING.set(false);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Installs the SIGPROF handler, on the threads' signal stacks.
pub fn install() -> io::Result<()> {
    crate::fault::handle(libc::SIGPROF, on_sigprof)
}
