//! G: a goroutine.
//!
//! A `G` is owned by whoever runs it, or, while its status carries the scan bit, by
//! whoever set that bit. Its stack lock is about something else: who may change or
//! walk the stack's barriers and bounds.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::barrier::Barriers;
use crate::foreign::Transitions;
use crate::lock::StackLock;
use crate::panic::Unwinding;
use crate::stack::{Bounds, Stack};
use crate::syscall::Kernel;
use crate::table;
use crate::word::Word;

/// The statuses of a goroutine.
pub mod status {
    /// Never started, or reset.
    pub const IDLE: u32 = 0;
    /// Waiting for a thread.
    pub const RUNNABLE: u32 = 1;
    /// On a thread.
    pub const RUNNING: u32 = 2;
    /// On a thread that is in a system call or in foreign code: counts as stopped.
    pub const SYSCALL: u32 = 3;
    /// Stopped where it is: parked, or its machine scans for the moment.
    pub const WAITING: u32 = 4;
    /// Ended; can be started anew.
    pub const DEAD: u32 = 5;
    /// Set by the one who scans it; nobody else may change the status then.
    pub const SCAN: u32 = 0x100;

    /// The status in words, without the scan bit.
    pub const fn name(status: u32) -> &'static str {
        match status & !SCAN {
            IDLE => "idle",
            RUNNABLE => "runnable",
            RUNNING => "running",
            SYSCALL => "in a system call",
            WAITING => "waiting",
            _ => "dead",
        }
    }
}

/// A saved place to go on from: PC, SP as in the body at that PC, frame pointer.
/// SP is zero where nothing is saved.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Gobuf {
    /// Stack pointer.
    pub sp: Word,
    /// Program counter.
    pub pc: Word,
    /// Frame pointer.
    pub bp: Word,
}

impl Gobuf {
    pub(crate) const fn new() -> Self {
        Gobuf { sp: Word::new(0), pc: Word::new(0), bp: Word::new(0) }
    }

    /// Copies `other` here; SP comes last, since it says that the rest is there.
    pub(crate) fn copy_from(&self, other: &Gobuf) {
        self.pc.set(other.pc.get());
        self.bp.set(other.bp.get());
        self.sp.set(other.sp.get());
    }
}

/// What a goroutine was asked to do at its next prologue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// To scan itself.
    pub(crate) scan: bool,
    /// To let its machine go.
    pub(crate) yields: bool,
}

/// A goroutine's status word.
#[derive(Debug, Default)]
pub struct Status(AtomicU32);

impl Status {
    /// The status, scan bit and all.
    #[inline]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, status: u32) {
        self.0.store(status, Ordering::SeqCst);
    }

    pub(crate) fn cas(&self, from: u32, to: u32) -> bool {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// A goroutine. The assembly knows the first fields by offset.
#[derive(Debug)]
#[repr(C)]
pub struct G {
    /// A prologue whose frame would reach below this traps out.
    pub guard: Word,
    /// Where it goes on, while it is off its stack.
    pub sched: Gobuf,
    /// The running thread's own SP, while it is on its stack.
    pub(crate) g0_sp: Word,
    /// Its stack barriers.
    pub barriers: Barriers,
    /// Its stack's bounds.
    pub stack: Bounds,
    /// Who may change or walk barriers and bounds.
    pub lock: StackLock,
    /// What it does.
    pub status: Status,
    /// Its number, from 1.
    pub id: u8,
    /// Where it entered a system call or a foreign call, while it is in one.
    pub syscall: Gobuf,
    /// What its last system calls came to.
    pub(crate) kernel: Kernel,
    /// Where it entered the foreign calls from which it was called back; the owner's.
    pub(crate) transitions: Transitions,
    /// True from when a machine takes it until that machine has let go of it.
    pub(crate) held: AtomicBool,
    preempt_scan: AtomicBool,
    preempt_yield: AtomicBool,
    /// True while it waits for somebody to make it runnable.
    parked: AtomicBool,
    scan_done: AtomicBool,
    /// Defers and panics; the owner's.
    pub(crate) unwinding: UnsafeCell<Unwinding>,
    /// The stack's memory; the owner's.
    pub(crate) memory: UnsafeCell<Option<Stack>>,
}

// SAFETY: the cells belong to the goroutine's owner, which its status decides (see the
// head of this file); everything else is atomic.
unsafe impl Sync for G {}

impl G {
    pub(crate) const fn new(id: u8) -> Self {
        G {
            guard: Word::new(0),
            sched: Gobuf::new(),
            g0_sp: Word::new(0),
            barriers: Barriers::new(),
            stack: Bounds::new(),
            lock: StackLock::new(),
            status: Status(AtomicU32::new(status::IDLE)),
            id,
            syscall: Gobuf::new(),
            kernel: Kernel::new(),
            transitions: Transitions::new(),
            held: AtomicBool::new(false),
            preempt_scan: AtomicBool::new(false),
            preempt_yield: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            scan_done: AtomicBool::new(false),
            unwinding: UnsafeCell::new(Unwinding::new()),
            memory: UnsafeCell::new(None),
        }
    }

    /// Its defers and panics.
    ///
    /// # Safety
    /// The caller owns this goroutine and holds no other reference to them.
    #[expect(clippy::mut_from_ref, reason = "the owner is one thread; its status says which")]
    pub(crate) unsafe fn unwinding(&self) -> &mut Unwinding {
        // SAFETY: the owner's, and the only reference (caller).
        unsafe { &mut *self.unwinding.get() }
    }

    /// True where it has deferred nothing and is in no panic.
    ///
    /// # Safety
    /// Nobody changes these meanwhile.
    pub unsafe fn has_unwound(&self) -> bool {
        // SAFETY: as for this function (caller).
        unsafe { self.unwinding() }.is_empty()
    }

    /// True where it was scanned in this cycle.
    #[inline]
    pub fn scan_done(&self) -> bool {
        self.scan_done.load(Ordering::SeqCst)
    }

    pub(crate) fn set_scan_done(&self, done: bool) {
        self.scan_done.store(done, Ordering::SeqCst);
    }

    /// True while a machine has it, even where its status says that it is stopped.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// True where it was asked to come to a safepoint: no SP is above its guard then.
    #[inline]
    pub fn preempt_requested(&self) -> bool {
        self.guard.get() == usize::MAX
    }

    /// True where it was asked to scan itself.
    pub fn scan_requested(&self) -> bool {
        self.preempt_scan.load(Ordering::SeqCst)
    }

    /// True where it was asked to let its machine go.
    pub fn yield_requested(&self) -> bool {
        self.preempt_yield.load(Ordering::SeqCst)
    }

    /// Asks it to come to a safepoint at its next prologue, and to scan itself there.
    pub(crate) fn request(&self, scan: bool) {
        if scan {
            self.preempt_scan.store(true, Ordering::SeqCst);
        }
        self.guard.set(usize::MAX);
    }

    /// Asks it to let its machine go at its next prologue.
    pub(crate) fn request_yield(&self) {
        self.preempt_yield.store(true, Ordering::SeqCst);
        self.guard.set(usize::MAX);
    }

    /// Takes back any request, and says what was asked for.
    pub(crate) fn answer(&self) -> Asked {
        self.guard.set(self.stack.guard());
        Asked {
            scan: self.preempt_scan.swap(false, Ordering::SeqCst),
            yields: self.preempt_yield.swap(false, Ordering::SeqCst),
        }
    }

    /// Takes back a request for a scan: it is being scanned, with the world stopped.
    pub(crate) fn forget_scan(&self) {
        self.preempt_scan.store(false, Ordering::SeqCst);
        if !self.preempt_yield.load(Ordering::SeqCst) {
            self.guard.set(self.stack.guard());
        }
    }

    /// True while it waits for somebody to make it runnable.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Sets whether it waits for that; gives what was.
    pub(crate) fn set_parked(&self, parked: bool) -> bool {
        self.parked.swap(parked, Ordering::SeqCst)
    }

    /// Makes the saved state that of a goroutine which has not run yet.
    pub(crate) fn save_start(&self) {
        self.sched.pc.set(table::info(crate::Function::Entry).start);
        self.sched.bp.set(0);
        self.sched.sp.set(self.stack.top.get());
    }

    /// Back to never started; the stack stays. For a harness that starts over.
    ///
    /// # Safety
    /// Nothing of this goroutine is in use.
    pub(crate) unsafe fn reset(&self) {
        self.lock.reset();
        self.status.set(status::IDLE);
        self.held.store(false, Ordering::SeqCst);
        self.answer();
        self.set_parked(false);
        self.set_scan_done(false);
        self.sched.sp.set(0);
        self.syscall.sp.set(0);
        self.transitions.clear();
        self.barriers.clear();
        // SAFETY: nothing of it is in use (caller).
        unsafe { self.unwinding() }.clear();
    }
}
