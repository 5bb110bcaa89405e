//! System calls: a goroutine's thread enters the kernel on the goroutine's own stack.
//!
//! ## A system call's life
//!
//! 1. The stub asks, `SYSCALL_ENTER`. The machine saves the transition point, and from then
//!    on the goroutine counts as stopped: the collector scans it, installs barriers on it and
//!    stops the world without it. Its driver is told, [`Left::InSyscall`].
//! 2. The driver names the calls to make ([`M::make_syscalls`]) and the machine goes back
//!    into the stub. That makes them by its own `syscall` instruction, with SP on the
//!    goroutine's stack, and may sleep in there for as long as it takes. A signal that
//!    interrupts a call is handled there; the stub makes the call again on `EINTR`.
//! 3. The stub asks again, `SYSCALL_EXIT`. Only now the machine waits for a stopped world and
//!    for the collector's scan bit, and the goroutine runs again.
//!
//! ## What is true in between
//!
//! The thread runs on the stack of a goroutine that counts as stopped. So the stub writes
//! nothing to it: from the transition point to the second ask there is no push and no call,
//! and what the collector does to the frames above goes unnoticed. The stack does not move:
//! the kernel may hold pointers to it.
//!
//! Two places describe the same goroutine then. The *transition point* has the PC after the
//! first ask: a scan, and a signal on the thread's own stack, start there. A signal that
//! finds SP on the goroutine's stack starts at what it has interrupted, which is the
//! instruction after `syscall` where the call slept. Both have the same SP, so the frames
//! above the stub are the same, and barriers over their return addresses are met by both.

use crate::arch;
use crate::event;
use crate::m::{Left, M};
use crate::word::Word;

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SystemCall {
    /// Its number.
    pub number: usize,
    /// Its arguments, in the kernel's order.
    pub args: [usize; 6],
}

/// Most calls that a stub makes one after the other.
pub const MAX_CALLS: usize = 4;
/// A number that no system call has.
pub(crate) const NO_CALL: i32 = -1;

impl SystemCall {
    const NONE: SystemCall = SystemCall { number: NO_CALL as usize, args: [0; 6] };

    /// One that comes back at once and changes nothing.
    pub const HARMLESS: SystemCall = SystemCall { number: libc::SYS_getpid as usize, args: [0; 6] };
}

/// Calls for a stub to make, one after the other; as the assembly reads them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SystemCalls {
    calls: [SystemCall; MAX_CALLS + 1],
    len: usize,
}

impl SystemCalls {
    /// These calls; none where there are none or more than [`MAX_CALLS`].
    pub fn new(calls: &[SystemCall]) -> Option<SystemCalls> {
        if calls.is_empty() || calls.len() > MAX_CALLS {
            return None;
        }
        let mut all = [SystemCall::NONE; MAX_CALLS + 1];
        all[..calls.len()].copy_from_slice(calls);
        Some(SystemCalls { calls: all, len: calls.len() })
    }

    /// The harmless one alone.
    pub const HARMLESS: SystemCalls = {
        let mut calls = [SystemCall::NONE; MAX_CALLS + 1];
        calls[0] = SystemCall::HARMLESS;
        SystemCalls { calls, len: 1 }
    };
}

/// What the stub says of its last calls. Written as it leaves.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Kernel {
    /// How often it has entered the kernel.
    pub(crate) entered: Word,
    /// What the last call gave.
    pub(crate) result: Word,
}

impl Kernel {
    pub(crate) const fn new() -> Self {
        Kernel { entered: Word::new(0), result: Word::new(0) }
    }
}

/// What became of a goroutine's system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The last one's result, as the kernel gives it: negative errors.
    pub result: isize,
    /// How many times one was interrupted and made again.
    pub interrupted: usize,
}

impl M {
    /// Has the stub of the current goroutine, which is in a system call, make these calls on
    /// the goroutine's stack, and goes on to the caller's ask. What became of them, if it was
    /// in one at all.
    ///
    /// # Safety
    /// Whatever the calls do with their arguments is sound, for as long as they take. None
    /// runs code of this thread other than signal handlers.
    pub unsafe fn make_syscalls(&'static self, calls: &SystemCalls) -> Option<Made> {
        let g = self.current().filter(|g| g.syscall.sp.get() != 0 && !self.in_foreign_code())?;
        g.sched.copy_from(&g.syscall);
        // The machine stays at its safepoint: nobody waits for a thread that is in the kernel.
        // SAFETY: this machine runs `g`; its registers are those of the stub's first ask, whose
        // answer is the calls to make.
        let event = unsafe { arch::switch_in(g, core::ptr::from_ref(calls) as usize) } as u32;
        debug_assert_eq!(event, event::SYSCALL_EXIT);
        let made =
            Made { result: g.kernel.result.get() as isize, interrupted: g.kernel.entered.get() - calls.len };
        crate::point!(SyscallReturned, g, made.interrupted);
        let busy = self.busy();
        self.exit_syscall(g);
        self.resume(g, 0, busy);
        Some(made)
    }

    /// Comes back from a system call that does nothing.
    pub fn leave_syscall(&'static self) -> Left {
        // SAFETY: the call asks for a number.
        match unsafe { self.make_syscalls(&SystemCalls::HARMLESS) } {
            Some(_) => Left::Asks,
            None => Left::Exited,
        }
    }
}
