//! G: a goroutine.
//!
//! A `G` is owned by the machine that runs it or, while its status carries the scan bit, by the
//! machine that set that bit. Its stack lock is about something else: who may change or walk the
//! stack's barriers and bounds.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::defers::Unwinding;
use super::gobuf::Gobuf;
use super::system_call::Kernel;
use super::transitions::Transitions;
use crate::stack::barrier_list::Barriers;
use crate::stack::lock_word::StackLock;
use crate::stack::memory::{Bounds, Stack};
use crate::sync::word::Word;

/// The statuses of a goroutine.
pub mod status {
    /// Never started, or reset.
    pub const IDLE: u32 = 0;
    /// Waiting for a machine.
    pub const RUNNABLE: u32 = 1;
    /// On a machine.
    pub const RUNNING: u32 = 2;
    /// On a machine whose thread is in a system call or in foreign code: counts as stopped.
    pub const SYSCALL: u32 = 3;
    /// Stopped where it is: parked, or its machine scans for the moment.
    pub const WAITING: u32 = 4;
    /// Ended; can be started anew.
    pub const DEAD: u32 = 5;
    /// The scan bit: set by the machine that scans it. No other may change the status then.
    pub const SCAN: u32 = 0x100;

    /// Returns the status in words, without the scan bit.
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

/// A goroutine's status word.
#[derive(Debug, Default)]
pub struct Status(AtomicU32);

impl Status {
    /// Returns the status, with the scan bit.
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
    /// A prologue whose frame would reach below this address leaves with `MORESTACK`.
    pub guard: Word,
    /// The place where it goes on, while it is off its stack.
    pub sched: Gobuf,
    /// The running thread's own SP, while it is on its stack.
    pub(crate) g0_sp: Word,
    /// Its stack barriers.
    pub barriers: Barriers,
    /// Its stack's bounds.
    pub stack: Bounds,
    /// Held by whoever changes or walks barriers and bounds.
    pub lock: StackLock,
    /// Its status; see [`status`].
    pub status: Status,
    /// Its number, from 1.
    pub id: u8,
    /// Its transition point: where it entered a system call or a foreign call, while it is in one.
    pub syscall: Gobuf,
    /// The results of its last system calls.
    pub(crate) kernel: Kernel,
    /// The transition points of the foreign calls that called back; the owner's.
    pub(crate) transitions: Transitions,
    /// Whether a machine has it: from when the machine takes it until it has dropped it.
    pub(crate) held: AtomicBool,
    pub(super) preempt_scan: AtomicBool,
    pub(crate) preempt_yield: AtomicBool,
    /// Whether it waits to be made runnable by `M::ready`.
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

    /// Returns its defers and panics.
    ///
    /// # Safety
    /// The caller owns this goroutine and holds no other reference to its defers and panics.
    #[expect(clippy::mut_from_ref, reason = "the owner is one thread; its status says which")]
    pub(crate) unsafe fn unwinding(&self) -> &mut Unwinding {
        // SAFETY: the owner's, and the only reference (caller).
        unsafe { &mut *self.unwinding.get() }
    }

    /// Returns whether it has deferred nothing and is in no panic.
    ///
    /// # Safety
    /// No thread changes its defers and panics meanwhile.
    pub unsafe fn has_unwound(&self) -> bool {
        // SAFETY: no thread changes them meanwhile (caller); others may read them, too.
        unsafe { &*self.unwinding.get() }.is_empty()
    }

    /// Returns whether it was scanned in this cycle.
    #[inline]
    pub fn scan_done(&self) -> bool {
        self.scan_done.load(Ordering::SeqCst)
    }

    pub(crate) fn set_scan_done(&self, done: bool) {
        self.scan_done.store(done, Ordering::SeqCst);
    }

    /// Returns whether a machine has it, even if its status says that it is stopped.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Returns whether it waits to be made runnable.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Sets whether it waits to be made runnable. Returns whether it did before.
    pub(crate) fn set_parked(&self, parked: bool) -> bool {
        self.parked.swap(parked, Ordering::SeqCst)
    }

    /// Makes the saved state that of a goroutine which has not run yet and begins at `entry`.
    pub(crate) fn save_start(&self, entry: usize) {
        self.sched.pc.set(entry);
        self.sched.bp.set(0);
        self.sched.sp.set(self.stack.top.get());
    }

    /// Makes it one that was never started; the stack stays. For a harness that starts over.
    ///
    /// # Safety
    /// Nothing of this goroutine is in use.
    pub(crate) unsafe fn reset(&self) {
        self.lock.reset();
        self.status.set(status::IDLE);
        self.held.store(false, Ordering::SeqCst);
        self.take_preempt_request();
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
