//! System calls: a goroutine's thread enters the kernel on the goroutine's own stack.
//!
//! ## A system call's life
//!
//! 1. The stub leaves with `SYSCALL_ENTER`. The machine saves the transition point, and from then on
//!    the goroutine counts as stopped: the collector scans it, installs barriers on its stack and
//!    stops the world without it. The driver gets [`RunResult::InSyscall`].
//! 2. The driver names the calls to make ([`M::make_syscalls`]), and the machine goes back into the
//!    stub. The stub makes them by its own `syscall` instruction, with SP on the goroutine's stack,
//!    and may sleep there for as long as it takes. A signal that interrupts a call is handled there;
//!    the stub makes the call again on `EINTR`.
//! 3. The stub leaves with `SYSCALL_EXIT`. Only now the machine waits for a stopped world and for
//!    the collector's scan bit, and the goroutine runs again.
//!
//! ## In between
//!
//! The thread runs on the stack of a goroutine that counts as stopped. So the stub writes nothing to
//! that stack: from the transition point to the second ask there is no push and no call, and the
//! collector's changes to the frames above go unnoticed. The stack does not move, since the kernel
//! may hold pointers to it.
//!
//! Two places describe the same goroutine then. The *transition point* has the PC after the first
//! ask: a scan, and a signal on the thread's own stack, start there. A signal that finds SP on the
//! goroutine's stack starts at the instruction that it has interrupted, which is the one after
//! `syscall` if the call slept. Both places have the same SP, so the frames above the stub are the
//! same, and both walks meet the barriers over their return addresses.

use super::g::{G, status};
use super::m::M;
use super::run::RunResult;
use super::wait::Wait;
use crate::arch::{self, exit_reason};
use crate::instrument::hooks;
use crate::profiler::trace_buffer::Kind;
use crate::profiler::tracer;

pub use super::system_call::{Kernel, MAX_CALLS, SystemCall, SystemCalls};

/// The outcome of a goroutine's system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The last one's result, as the kernel gives it: negative errors.
    pub result: isize,
    /// How many times one was interrupted and made again.
    pub interrupted: usize,
}

impl M {
    /// Has the stub of the current goroutine, which is in a system call, make these calls on the
    /// goroutine's stack, and goes on to the ask of the stub's caller. Returns their outcome, if the
    /// goroutine was in a system call at all.
    ///
    /// # Safety
    /// The effects of the calls on their arguments are sound, for as long as the calls take. None of
    /// them runs code of this thread other than signal handlers.
    pub unsafe fn make_syscalls(&'static self, calls: &SystemCalls) -> Option<Made> {
        let g = self.current().filter(|g| g.syscall.sp.get() != 0 && !self.in_foreign_code())?;
        g.sched.copy_from(&g.syscall);
        // The machine stays at its safepoint: no thread waits for one that is in the kernel.
        // SAFETY: this machine runs `g`; its registers are those of the stub's first ask, whose
        // answer is the calls to make.
        let reason = unsafe { arch::switch_in(g, core::ptr::from_ref(calls) as usize) } as u32;
        debug_assert_eq!(reason, exit_reason::SYSCALL_EXIT);
        let made =
            Made { result: g.kernel.result.get() as isize, interrupted: g.kernel.entered.get() - calls.len };
        crate::point!(SyscallReturned, g, made.interrupted);
        let running = self.leave_safepoint();
        self.exit_syscall(g);
        self.resume(g, 0, running);
        Some(made)
    }

    /// Returns from a system call that does nothing.
    pub fn leave_syscall(&'static self) -> RunResult {
        // SAFETY: the call asks for a number.
        match unsafe { self.make_syscalls(&SystemCalls::HARMLESS) } {
            Some(_) => RunResult::NextOp,
            None => RunResult::Exited,
        }
    }

    /// Saves the transition point. From then on the goroutine counts as stopped.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn enter_syscall(&'static self, g: &'static G) {
        g.syscall.copy_from(&g.sched);
        crate::point!(SyscallSaved, g);
        if self.runtime.tracing() && !crate::planted!(TraceEventUnlocked) {
            tracer::record(self, g, Kind::SyscallEnter);
        }
        // From here on only the transition point says where the goroutine is.
        g.sched.sp.set(0);
        g.status.set(status::SYSCALL);
        if self.runtime.tracing() && crate::planted!(TraceEventUnlocked) {
            tracer::record(self, g, Kind::SyscallEnter);
        }
        crate::point!(SyscallEntered, g);
    }

    /// Waits for a scan of the goroutine to end, and lets it run again.
    #[cfg_attr(feature = "points", unsafe(link_section = "stkbar_text"), inline(never))]
    pub(crate) fn exit_syscall(&'static self, g: &'static G) {
        while !g.status.cas(status::SYSCALL, status::RUNNING) {
            hooks::wait(&Wait::ScanBit(g));
        }
        crate::point!(SyscallExiting, g);
        g.syscall.sp.set(0);
        crate::point!(SyscallExited, g);
        if self.runtime.tracing() {
            tracer::record(self, g, Kind::SyscallExit);
        }
    }
}
